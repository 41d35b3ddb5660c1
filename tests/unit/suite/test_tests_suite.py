# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Suites of many tests: which run, how each ends, what it leaves, and what the verdict makes of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parsing import judge, parse
from test_runner_process import alive

from ansible_collections.mayfly.virt.plugins.module_utils import _events

Eventually = Callable[[Callable[[], Any]], Any]


class Many:
    """Runs suites of tests and judges them."""

    def __init__(self, program: Any) -> None:
        self.program = program
        self.directory: Path = program.directory

    def script(self, name: str, text: str, mode: int = 0o755) -> None:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(mode)

    def run(self, *tests: Any, **more: Any) -> dict[str, dict[str, Any]]:
        """Run commands, or entries, and return the tests by name."""
        entries = [{"command": test} if isinstance(test, str) else test for test in tests]
        self.events = self.program.run(None, parser="tests", tests=entries, **more)
        return {event["name"]: event for event in self.events if event["event"] == "test"}

    def judged(self) -> dict[str, Any]:
        return _events.judge_suite("smoke", "bookworm", (self.program.out / "events.jsonl").read_text(), "tests")

    @property
    def end(self) -> dict[str, Any]:
        return self.events[-1]


@pytest.fixture
def many(program: Any) -> Many:
    return Many(program)


# --- one test ---------------------------------------------------------------------------------------------------


def test_each_test_is_a_process_with_logs_of_its_own(many: Many) -> None:
    tests = many.run({"name": "a/b c", "command": "echo one; echo two >&2"}, {"name": "silent", "command": ["true"]}, "echo three; exit 3")
    assert [event["event"] for event in many.events] == ["suite_start", "plan", "test", "test", "test", "suite_end"]
    assert (many.events[0]["parser"], many.events[1]["count"]) == ("tests", 3)
    assert (tests["a/b c"]["status"], tests["a/b c"]["logs"]) == ("pass", "tests/a_b_c")
    assert (many.program.out / "tests/a_b_c/stdout.log").read_text() == "one\n"
    assert (many.program.out / "tests/a_b_c/stderr.log").read_text() == "two\n"
    assert "logs" not in tests["silent"]
    failed = tests["echo three; exit 3"]
    assert failed["status"] == "fail"
    assert failed["message"].split("\n")[0] == "it ended with exit status 3: three"
    assert (many.end["exit_status"], many.end["planned"], many.end["seen"], many.end["error"]) == (1, 3, 3, None)
    assert many.judged()["status"] == "failed"
    assert not many.program.out.joinpath("stdout.log").exists()


@pytest.mark.parametrize(
    ("output", "status", "words"),
    [
        ("echo 1..2; echo ok 1; echo ok 2", "pass", ""),
        ("echo 1..2; echo ok 1; echo not ok 2 - sums; echo '# got 3'; exit 1", "fail", "failed: sums\n  got 3"),
        ("echo 1..2; echo ok 1; echo not ok 2 - sums", "fail", "failed: sums"),
        ("echo 1..2; echo ok 1; echo ok 2; exit 255", "error", "no assertion failed, but it ended with exit status 255"),
        ("echo 1..1; echo ok 1; kill -9 $$", "error", "no assertion failed, but it ended by SIGKILL"),
        ("echo 1..3; echo ok 1", "error", "1 assertions were seen, but 3 were planned"),
        ("echo ok 1", "error", "no plan"),
        ("true", "error", "no plan"),
        ("echo 1..2; echo ok 1; echo ok 1", "error", "assertion 1 was reported twice"),
        ("echo 1..1; echo ok 7", "error", "outside the plan"),
        ("echo 1..1; echo ok 0", "error", "outside any plan"),
        ("echo 1..1; echo ok 1; echo Bail out! fire", "error", "bail out: fire"),
        ("echo 1..0", "error", "gives no reason"),
        ("echo '1..0 # SKIP no tun'", "skip", ""),
        ("echo 1..1; echo 'ok 1 - a # SKIP no tun'", "skip", "skipped: a (SKIP no tun)"),
        ("echo 1..2; echo 'ok 1 # SKIP x'; echo not ok 2 - b; exit 1", "fail", "failed: b"),
        ("echo 1..2; echo 'ok 1 # TODO'; echo ok 2", "xpass", ""),
        ("echo 1..2; echo 'not ok 1 # TODO'; echo ok 2", "pass", ""),
        ("echo 1..1; echo 'not ok 1 # TODO'", "known", ""),
    ],
)
def test_a_script_with_assertions_is_one_test(many: Many, output: str, status: str, words: str) -> None:
    test = many.run({"name": "t", "command": output, "parser": "tap"})["t"]
    assert test["status"] == status
    assert words in test["message"]
    expected = {"fail": "failed", "error": "failed", "skip": "skipped"}.get(status, "passed")
    assert many.judged()["status"] == expected


def test_failed_assertions_are_named_up_to_a_limit(many: Many) -> None:
    test = many.run({"name": "t", "parser": "tap", "command": "echo 1..500; for i in $(seq 500); do echo not ok $i - n$i; done; exit 1"})[
        "t"
    ]
    assert test["message"].count("failed: ") == 20
    assert test["message"].startswith("failed: n1\n")


def test_details_that_come_at_the_end_belong_to_their_assertion(many: Many) -> None:
    (many.directory / "test_it.py").write_text(
        "import unittest\nclass A(unittest.TestCase):\n  def test_a(self): self.assertEqual(1, 2)\n  def test_b(self): pass\n"
    )
    test = many.run({"name": "t", "command": [sys.executable, "-m", "unittest", "-v", "test_it"], "parser": "unittest"})["t"]
    assert test["status"] == "fail"
    assert "test_a\n  AssertionError: 1 != 2" in test["message"]


def test_what_cannot_start_is_an_error(many: Many) -> None:
    many.script("noexec", "true")
    (many.directory / "noexec").write_text("no program")
    tests = many.run({"name": "a", "command": ["/no/such"]}, {"name": "b", "command": ["./noexec"]}, {"name": "c", "command": "true"})
    assert [test["status"] for test in tests.values()] == ["error", "error", "pass"]
    assert "No such file" in tests["a"]["message"]
    assert "Exec format error" in tests["b"]["message"]


# --- how tests end ----------------------------------------------------------------------------------------------


def test_at_its_deadline_a_test_is_looked_at_and_ended_and_the_next_one_runs(many: Many) -> None:
    tests = many.run({"name": "a", "command": "echo before; sleep 600", "deadline": 0.5}, {"name": "b", "command": "true"})
    assert (tests["a"]["status"], tests["b"]["status"]) == ("timeout", "pass")
    lines = tests["a"]["message"].split("\n")
    assert lines[0] == "its deadline of 0.5 s was reached; then there were:"
    assert any("sleep, state S, in " in line and line.endswith("sleep 600") for line in lines)
    assert lines[-1] == "before"
    assert "[mayfly: the deadline was reached" in (many.program.out / "tests/a/stderr.log").read_text()
    assert many.end["timed_out"] is False
    assert many.judged()["status"] == "failed"


@pytest.fixture
def impatient(runner: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """Run a suite in this process, with short graces."""
    monkeypatch.setattr(runner, "GRACE", 0.3)
    monkeypatch.setattr(runner, "DRAIN", 0.2)

    def run(*tests: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
        text = json.dumps({"suite": "smoke", "parser": "tests", "deadline": 30, "cwd": str(tmp_path), "tests": tests, **more})
        spec, out = runner.read_spec(text), tmp_path / "out"
        runner.TestsSuite(spec, out, runner.claim(out), *runner.plan_cases(spec)).execute()
        return [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]

    return run


def test_who_ignores_term_is_killed(impatient: Any, tmp_path: Path) -> None:
    command = "trap '' TERM; echo $$ > pid; while :; do sleep 9; done"
    events = impatient({"name": "a", "command": command, "deadline": 0.3}, {"name": "b", "command": "true"})
    assert [event["status"] for event in events if event["event"] == "test"] == ["timeout", "pass"]
    assert not alive(int((tmp_path / "pid").read_text()))
    assert events[-1]["duration"] < 5


def test_a_daemon_is_named_and_ended_and_does_not_hold_up_the_next(impatient: Any, tmp_path: Path) -> None:
    command = "setsid sh -c 'setsid sh -c \"echo \\$\\$ > pid; exec sleep 600\" &' & while [ ! -s pid ]; do sleep 0.01; done"
    events = impatient({"name": "a", "command": command}, {"name": "b", "command": "true"})
    pid = int((tmp_path / "pid").read_text())
    try:
        test = next(event for event in events if event["event"] == "test")
        assert test["status"] == "pass"
        assert test["leftovers"]
        assert events[-1]["duration"] < 5
        if events[0]["isolation"] == "cgroup":
            assert f"{pid} sleep" in test["leftovers"]
            assert not alive(pid)
    finally:
        if alive(pid):
            os.kill(pid, signal.SIGKILL)


def test_an_endless_output_is_cut_and_bounded(impatient: Any, tmp_path: Path) -> None:
    """The test prints gigabytes a second; runner and log stay small."""
    events = impatient({"name": "a", "command": "yes; true", "deadline": 1.0}, {"name": "b", "command": "yes x | head -n 5000000; true"})
    assert [event["status"] for event in events if event["event"] == "test"] == ["timeout", "pass"]
    assert (tmp_path / "out/tests/a/stdout.log").stat().st_size < 1100 * 1024
    assert all(len(json.dumps(event)) < 50_000 for event in events)


def test_the_runner_stays_small_whatever_is_printed(program: Any, eventually: Eventually) -> None:
    tests = [{"name": "a", "command": "tr '\\0' x < /dev/zero & yes & yes 1>&2 & wait", "deadline": 2, "parser": "tap"}]
    process = subprocess.Popen(program.arguments("run", None, parser="tests", tests=tests))
    stderr = program.out / "tests" / "a" / "stderr.log"
    eventually(lambda: stderr.exists() and stderr.stat().st_size > 1024 * 1024)
    while (status := Path(f"/proc/{process.pid}/status").read_text()) and "VmHWM" in status:
        peak = int(status.split("VmHWM:")[1].split()[0])  # in KiB
        time.sleep(0.05)
    assert process.wait(20) == 0
    assert peak < 64 * 1024
    assert [event["status"] for event in program.events() if event["event"] == "test"] == ["timeout"]


def test_what_ends_by_itself_is_not_left_behind(many: Many) -> None:
    tests = many.run({"name": "a", "command": "yes | head -n 1; (sleep 0.05) & true"}, {"name": "b", "command": "sleep 600 & true"})
    assert "leftovers" not in tests["a"]
    assert [leftover.split()[1] for leftover in tests["b"]["leftovers"]] == ["sleep"]


def test_a_fork_bomb_is_ended_with_its_cgroup(impatient: Any) -> None:
    """Bounded in number by itself, for the machine's sake: the runner ends such a crowd, it does not prevent one."""
    command = "i=0; while [ $i -lt 200 ]; do setsid sh -c 'trap \"\" TERM; while :; do sleep 1; done' & i=$((i+1)); done; wait"
    events = impatient({"name": "a", "command": command, "deadline": 1.5}, {"name": "b", "command": "true"})
    if events[0]["isolation"] != "cgroup":
        pytest.skip(events[0]["isolation"])
    assert [event["status"] for event in events if event["event"] == "test"] == ["timeout", "pass"]
    assert "more processes" in next(event for event in events if event["event"] == "test")["message"]


def test_a_clock_that_jumps_changes_no_duration(impatient: Any, runner: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([1e9, 2e9, 5e8] * 100)
    monkeypatch.setattr(runner.time, "time", lambda: next(times))
    events = impatient({"name": "a", "command": "true", "deadline": 5}, {"name": "b", "command": "sleep 0.1"})
    assert [event["status"] for event in events if event["event"] == "test"] == ["pass", "pass"]
    assert all(0 <= event["duration"] < 3 for event in events if event["event"] == "test")
    assert events[-1]["duration"] < 5


def remove_cgroup_of(runner: ModuleType, pid: int, eventually: Eventually) -> None:
    """What a killed runner cannot do itself."""
    path = runner.own_cgroup(Path("/proc/self/mounts").read_text(), Path("/proc/self/cgroup").read_text()) / runner.cgroup_name(pid)

    def removed() -> bool:
        try:
            runner.remove_cgroups(path)
        except OSError:
            return False  # what was killed there is not gone yet
        return not path.exists()

    eventually(removed)


def test_a_runner_killed_in_the_middle_leaves_no_good_result(runner: ModuleType, program: Any, eventually: Eventually) -> None:
    tests = [{"name": "a", "command": "true"}, {"name": "b", "command": "echo $$ > pid; exec sleep 600"}]
    process = subprocess.Popen(program.arguments("run", None, parser="tests", tests=tests))
    pid = int(eventually(lambda: (program.directory / "pid").exists() and (program.directory / "pid").read_text()))
    try:
        process.kill()
        process.wait(10)
    finally:
        os.kill(pid, signal.SIGKILL)  # nobody is left to end it
        if program.events()[0]["isolation"] == "cgroup":
            remove_cgroup_of(runner, process.pid, eventually)
    judged = _events.judge_suite("smoke", "bookworm", (program.out / "events.jsonl").read_text(), "tests")
    assert judged["status"] == "error"
    assert judged["counts"]["not_run"] == 1


def test_empty_cgroups_of_killed_runners_are_removed_by_the_next(runner: ModuleType, tmp_path: Path) -> None:
    dead, alive_one, busy = (tmp_path / runner.cgroup_name(pid) for pid in (2**22 + 1, os.getpid(), 2**22 + 2))
    container = tmp_path / "mayfly-1-4194305"  # of processes that we do not see
    for directory in (dead / "1", alive_one / "1", busy / "1", container):
        directory.mkdir(parents=True)
    (busy / "1" / "process").touch()  # makes rmdir fail, as a living process does
    runner.remove_orphans(tmp_path)
    assert (dead.exists(), alive_one.exists(), busy.exists(), container.exists()) == (False, True, True, True)


def test_a_runner_told_to_stop_ends_the_test_and_says_so(program: Any, eventually: Eventually) -> None:
    tests = [{"name": "a", "command": "echo $$ > pid; exec sleep 600"}, {"name": "b", "command": "touch b"}]
    process = subprocess.Popen(program.arguments("run", None, parser="tests", tests=tests))
    pid = int(eventually(lambda: (program.directory / "pid").exists() and (program.directory / "pid").read_text()))
    process.terminate()
    assert process.wait(10) == 0
    assert not alive(pid)
    assert not (program.directory / "b").exists()
    assert "told to stop by SIGTERM" in program.events()[-1]["error"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_full_disk_is_told_and_the_tests_go_on(many: Many, tmp_path: Path) -> None:
    disk = tmp_path / "out"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(disk)], check=True)
    try:
        tests = many.run({"name": "a", "command": "head -c 600000 /dev/zero | tr '\\0' x"}, {"name": "b", "command": "rm -rf out/tests/a"})
        assert [test["status"] for test in tests.values()] == ["pass", "pass"]
        assert many.end["error"] == "a: stdout.log is incomplete: No space left on device"
        assert many.judged()["status"] == "error"
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_logs_of_all_tests_together_are_bounded(
    impatient: Any, runner: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(runner, "TESTS_CAPTURE_LIMIT", 50_000)
    monkeypatch.setattr(runner, "LATE_CAPTURE_LIMIT", 100)
    command = "head -c 30000 /dev/zero | tr '\\0' x"
    impatient(*({"name": name, "command": command} for name in "abcd"))
    sizes = [(tmp_path / f"out/tests/{name}/stdout.log").stat().st_size for name in "abcd"]
    assert sizes[:2] == [30000, 30000]
    assert all(size < 300 for size in sizes[2:])


def test_ten_thousand_tests(many: Many) -> None:
    """More than a hundred a second, or the benchmark's aim is far away."""
    began = time.monotonic()
    tests = [{"name": str(number), "command": ["/bin/true"]} for number in range(10_000)]
    subprocess.run(many.program.arguments("run", None, parser="tests", tests=tests, deadline=600), check=True, timeout=300)
    judged = many.judged()
    assert (judged["status"], judged["counts"]["pass"]) == ("passed", 10_000)
    assert time.monotonic() - began < 100


# --- which run --------------------------------------------------------------------------------------------------


def test_a_glob_makes_a_test_of_each_executable_file(many: Many) -> None:
    for name in ("t/b.sh", "t/a.sh", "t/sub/c.sh"):
        many.script(name, "echo here is $0")
    many.script("t/lib.sh", "true", mode=0o644)
    tests = many.run({"glob": "t/**/*.sh"}, {"name": "last", "command": "true"})
    assert list(tests) == ["t/a.sh", "t/b.sh", "t/sub/c.sh", "last"]
    assert tests["t/a.sh"]["logs"] == "tests/t_a.sh"
    assert "t/lib.sh" in many.events[1]["reason"]
    assert "t/lib.sh" in many.judged()["notes"][0]


@pytest.mark.parametrize(
    ("tests", "more", "words"),
    [
        ([], {}, "at least one test"),
        ([{"name": "a", "command": "true"}, {"name": "a", "command": "false"}], {}, "tests of the same name: a"),
        ([{"glob": "t/*"}], {}, "gives no test: nothing matches"),
        ([{"glob": "spec.json"}], {}, "none can be executed"),
        ([{"glob": "../*"}], {}, "below the suite's directory"),
        ([{"glob": "/bin/*"}], {}, "below the suite's directory"),
        ([{"glob": "a", "command": "true"}], {}, "leave 'command' and 'name' out"),
        ([{"glob": "a", "name": "b"}], {}, "leave 'command' and 'name' out"),
        ([{"name": "a"}], {}, "'command'"),
        ([{"name": "a\nb", "command": "true"}], {}, "printable"),
        ([{"command": "true", "parser": "junit"}], {}, "needs 'report'"),
        ([{"command": "true", "report": "r.xml"}], {}, "needs 'report' with the parsers"),
        ([{"command": "true", "parser": "junit", "report": "/tmp/r.xml"}], {}, "below the test's directory"),
        ([{"command": "true", "parser": "junit", "report": "../r.xml"}], {}, "below the test's directory"),
        ([{"list": "tests.json"}], {}, "absolute path of a file in the guest"),
        ([{"list": "/no/such/list.json"}], {}, "the list '/no/such/list.json' of tests cannot be read in the guest: No such file"),
        ([{"list": "/tests.json", "command": "true"}], {}, "leave 'command' out"),
        ([{"command": "true"}], {"harness": "nose"}, "'harness' as one of builtin, avocado, not 'nose'"),
        ([{"command": "true"}], {"deadline_factor": 0}, "'deadline_factor'"),
        ([{"command": "true", "parser": "tests"}], {}, "unknown parser"),
        ([{"command": "true", "deadline": -1}], {}, "'deadline'"),
        ([{"command": "true", "retries": 1}], {}, "unknown key 'retries'"),
        ([{"command": "true", "requires": {"kernle": "1"}}], {}, "unknown key 'kernle'"),
        ([{"command": "true", "requires": {"kernel": "5.15"}}], {}, "such as '>=5.15'"),
        ([{"command": "true", "requires": {"kernel": ">=5.15;"}}], {}, "such as '>=5.15'"),
        ([{"command": "true", "requires": {"config": ["BPF"]}}], {}, "CONFIG_BPF"),
        ([{"command": "true", "requires": {"btf": "yes"}}], {}, "'btf' as a bool"),
        ([{"command": "true", "requires": {"memory_mib": True}}], {}, "'memory_mib'"),
        ([{"command": "true", "requires": {"probes": [{"name": "x"}]}}], {}, "'command'"),
        (["true"], {}, "is not a JSON object"),
        ([{"command": "true"}], {"select": ["nothing*"]}, "no test matches select 'nothing*'"),
        ([{"command": "true"}], {"select": ["true", "nothing*"]}, "no test matches select 'nothing*'"),
        ([{"command": "true"}], {"shard": "0/4"}, "'shard'"),
        ([{"command": "true"}], {"shard": "5/4"}, "'shard'"),
        ([{"command": "true"}], {"shard": "1 of 4"}, "'shard'"),
        ([{"command": "true"}], {"retries": 1, "fail_fast": True}, "both 'retries' and 'fail_fast'"),
        ([{"command": "true"}], {"retries": -1}, "'retries'"),
        ([{"command": "true"}], {"deny": [{"test": "a"}]}, "'reason'"),
        ([{"command": "true"}], {"command": "true"}, "unknown key 'command'"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_made(many: Many, tests: list[Any], more: dict[str, Any], words: str) -> None:
    arguments = many.program.arguments("run", more.pop("command", None), parser="tests", tests=tests, **more)
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert words in done.stderr
    assert not many.program.out.exists()


@pytest.mark.parametrize("key", ["retries", "fail_fast", "shard", "select", "deny", "tests"])
def test_what_only_tests_can_have_is_refused_for_a_command(program: Any, key: str) -> None:
    done = subprocess.run(program.arguments("run", "true", **{key: 1}), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"unknown key '{key}'" in done.stderr


NAMES = st.lists(st.text("abc/.1 ", min_size=1, max_size=6), unique=True, min_size=1, max_size=30)


@settings(max_examples=300, deadline=None)
@given(names=NAMES, of=st.integers(1, 7), order=st.randoms())
def test_all_shards_together_are_all_tests_each_once(runner: ModuleType, names: list[str], of: int, order: Any) -> None:
    shards = [runner.choose(names, [], (number, of)) for number in range(1, of + 1)]
    assert sorted(name for shard in shards for name in shard) == sorted(names)
    assert max(map(len, shards)) - min(map(len, shards)) <= 1
    mixed = list(names)
    order.shuffle(mixed)
    assert [runner.choose(mixed, [], (number, of)) for number in range(1, of + 1)] == shards  # whatever the order


@settings(max_examples=300, deadline=None)
@given(names=st.lists(st.text(max_size=120) | st.text("a./-", max_size=9), unique=True, max_size=30))
def test_directories_of_tests_are_harmless_and_each_has_its_own(runner: ModuleType, names: list[str]) -> None:
    directories = runner.safe_names(names)
    assert len(set(directories.values())) == len(names)
    assert all(_events.is_logs(f"tests/{directory}") and ".." not in directory for directory in directories.values())


def test_selection_shard_and_deny_work_together(many: Many) -> None:
    entries = [{"name": name, "command": "true"} for name in ("a1", "b1", "a2", "a3", "b2")]
    tests = many.run(*entries, select=["a*", "b1"], shard="1/2", deny=[{"test": "a2", "reason": "hurts"}, {"test": "zz", "reason": "x"}])
    assert {name: test["status"] for name, test in tests.items()} == {"a1": "pass", "a3": "pass"}
    assert "nothing matches deny 'zz'" in many.events[1]["reason"]


def test_an_empty_shard_is_skipped_and_says_why(many: Many) -> None:
    assert many.run({"name": "a", "command": "true"}, shard="2/2") == {}
    assert many.judged()["status"] == "skipped"
    assert many.judged()["notes"] == ["skipped: no test falls into shard 2/2"]


def test_a_denied_test_is_not_run_and_not_red(many: Many) -> None:
    tests = many.run(
        {"name": "a", "command": "true"}, {"name": "b", "command": "touch ran"}, deny=[{"test": "b*", "reason": "kills the guest"}]
    )
    assert (tests["b"]["status"], tests["b"]["directive"], tests["b"]["message"]) == ("not_run", "denied", "kills the guest")
    assert not (many.directory / "ran").exists()
    assert many.end["exit_status"] == 0
    judged = many.judged()
    assert (judged["status"], judged["counts"]["not_run"], _events.lost_tests(judged)) == ("passed", 1, 0)


def test_fail_fast_ends_with_the_first_failure_and_the_rest_is_red(many: Many) -> None:
    tests = many.run("true", "false", "touch ran", fail_fast=True)
    assert [(test["status"], test["directive"]) for test in tests.values()] == [("pass", None), ("fail", None), ("not_run", "fail_fast")]
    assert not (many.directory / "ran").exists()
    judged = many.judged()
    assert (judged["status"], _events.lost_tests(judged)) == ("failed", 1)


def test_the_suites_deadline_ends_the_running_test_and_starts_no_other(many: Many) -> None:
    tests = many.run(
        {"name": "a", "command": "true"}, {"name": "b", "command": "sleep 600"}, {"name": "c", "command": "touch ran"}, deadline=1
    )
    assert [(test["status"], test["directive"]) for test in tests.values()] == [("pass", None), ("timeout", None), ("not_run", "deadline")]
    assert tests["b"]["message"].startswith("the suite's deadline of 1 s was reached")
    assert not (many.directory / "ran").exists()
    judged = many.judged()
    assert (judged["status"], judged["timed_out"], _events.lost_tests(judged)) == ("timeout", True, 1)


# --- retries ----------------------------------------------------------------------------------------------------


def test_who_passes_when_tried_again_is_flaky_and_both_attempts_are_kept(many: Many) -> None:
    flaky = "echo try; test -e ran || { touch ran; echo no luck; exit 1; }"
    tests = many.run({"name": "a", "command": flaky}, {"name": "b", "command": "test -e ran"}, retries=2)
    assert [event["event"] for event in many.events] == ["suite_start", "plan", "attempt", "test", "test", "suite_end"]
    assert list(tests) == ["b", "a"]  # after all others
    assert (tests["a"]["status"], tests["a"]["number"]) == ("flaky", 1)
    assert [attempt["status"] for attempt in tests["a"]["attempts"]] == ["fail", "pass"]
    assert "no luck" in tests["a"]["message"]
    logs = many.program.out / tests["a"]["logs"]
    assert (logs / "attempt-1" / "stdout.log").read_text() == "try\nno luck\n"
    assert (logs / "stdout.log").read_text() == "try\n"
    judged = many.judged()
    assert (judged["status"], judged["counts"]["flaky"], judged["counts"]["pass"]) == ("passed", 1, 1)
    assert judged["tests"][1]["attempts"] == tests["a"]["attempts"]


def test_who_fails_each_time_has_failed(many: Many) -> None:
    tests = many.run({"name": "a", "command": "echo x >> n; test $(wc -l < n) -gt 5"}, retries=2)
    assert (tests["a"]["status"], len(tests["a"]["attempts"])) == ("fail", 3)
    assert [event["event"] for event in many.events].count("attempt") == 2


def test_a_skip_does_not_excuse_a_failure(many: Many) -> None:
    script = "if test -e ran; then echo '1..0 # SKIP later'; else touch ran; echo 1..1; echo not ok 1 - x; exit 1; fi"
    tests = many.run({"name": "a", "command": script, "parser": "tap"}, retries=1)
    assert (tests["a"]["status"], [attempt["status"] for attempt in tests["a"]["attempts"]]) == ("fail", ["fail", "skip"])
    assert many.judged()["status"] == "failed"


def test_no_second_attempt_after_the_suites_deadline(many: Many) -> None:
    tests = many.run({"name": "a", "command": "echo x >> n; exit 1"}, {"name": "b", "command": "sleep 600"}, deadline=1, retries=3)
    assert (tests["a"]["status"], tests["b"]["status"]) == ("fail", "timeout")
    assert (many.directory / "n").read_text() == "x\n"
    assert many.judged()["status"] == "timeout"


# --- a test and a suite that print the same come to the same -----------------------------------------------------

TAP = [
    "ok 1",
    "ok 2 - b",
    "not ok 3 - c",
    "ok",
    "not ok",
    "not ok # TODO x",
    "ok 2 # TODO",
    "ok 3 # SKIP y",
    "ok 0",
    "1..1",
    "1..2",
    "1..3",
]
TAP += [
    "1..0",
    "1..0 # SKIP z",
    "Bail out! x",
    "# d",
    "  ok 1",
    "  not ok 1",
    "  ---",
    "  ...",
    "KTAP version 1",
    "    # Subtest: s",
    "    1..1",
]
GTEST = ["[==========] Running 1 test from 1 test suite.", "[ RUN      ] a.b", "[       OK ] a.b (0 ms)", "[  FAILED  ] a.b (0 ms)"]
GTEST += ["[  SKIPPED ] a.b (0 ms)", "[==========] 1 test from 1 test suite ran. (0 ms total)", "[  PASSED  ] 1 test."]
CARGO = ["running 1 test", "test a ... ok", "test a ... FAILED", "test a ... ignored", "failures:", "---- a stdout ----", "text"]
CARGO += [
    f"test result: {end}; 0 measured; 0 filtered out"
    for end in ("ok. 1 passed; 0 failed; 0 ignored", "FAILED. 0 passed; 1 failed; 0 ignored")
]
UNITTEST = [
    "test_a (m.A.test_a) ... ok",
    "test_a (m.A.test_a) ... FAIL",
    "test_b (m.A.test_b) ... skipped 'w'",
    "=" * 70,
    "FAIL: test_a (m.A.test_a)",
]
UNITTEST += ["Ran 1 test in 0.1s", "Ran 2 tests in 0.1s", "OK", "OK (skipped=1)", "FAILED (failures=1)", "text"]
PROGS = ["#1 a:OK", "#1 a:FAIL", "#1/1 a/b:OK", "#1/1 a/b:FAIL", "#2 c:SKIP", "Summary: 1/0 PASSED, 0 SKIPPED, 0 FAILED"]
PROGS += [
    "Summary: 0/0 PASSED, 0 SKIPPED, 1 FAILED",
    "Summary: 1/1 PASSED, 0 SKIPPED, 0 FAILED",
    "Summary: 1/0 PASSED, 1 SKIPPED, 0 FAILED",
]
PRINTED = {"tap": TAP, "ktap": TAP, "gtest": GTEST, "bpftrace": GTEST, "cargo": CARGO, "unittest": UNITTEST, "test_progs": PROGS}
SAME = {"error": "error", "fail": "failed", "skip": "skipped", "pass": "passed", "known": "passed", "xpass": "passed"}


@pytest.mark.parametrize("name", PRINTED)
def test_a_script_is_judged_as_a_suite_that_prints_the_same(runner: ModuleType, name: str) -> None:
    @settings(max_examples=400, deadline=None)
    @given(lines=st.lists(st.sampled_from(PRINTED[name]), max_size=8), exit_status=st.sampled_from([0, 0, 1, 255]))
    def same(lines: list[str], exit_status: int) -> None:
        outcome = parse(runner, name, "\n".join(lines), exit_status)
        parser, tally = runner.PARSERS[name]("smoke", 0.0), runner.Tally()
        for second, line in enumerate(lines, start=1):
            tally.add(parser.feed(line, float(second)))
        command = runner.Command(runner.Spec("s", [], name, 1), [], None, None, None, 0)
        command.end.exit_status = exit_status
        tally.add(parser.finish(command.end))
        assert SAME[runner.judge_case(parser, tally, command, "").status] == judge(outcome, exit_status)["status"]

    same()
