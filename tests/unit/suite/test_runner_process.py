# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The runner as a process: what it starts, ends, keeps and says."""

from __future__ import annotations

import ast
import json
import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

Eventually = Callable[[Callable[[], Any]], Any]


def alive(pid: int) -> bool:
    """A zombie is not alive: in a container nobody may reap it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat[stat.rindex(")") + 2] not in "ZX"


def test_one_file_of_the_standard_library_for_python_3_9(runner_path: Path) -> None:
    tree = ast.parse(runner_path.read_text(), feature_version=(3, 9))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in imported} <= set(sys.stdlib_module_names)


def test_events_of_a_good_run(program: Any) -> None:
    events = program.run("echo 1..2; echo ok 1 - a; echo 'not ok 2 - b'; echo '# got 3'; echo oops >&2; exit 1")
    assert [event["event"] for event in events] == ["suite_start", "plan", "test", "test", "suite_end"]
    start, _plan, first, second, end = events
    assert (start["suite"], start["parser"], start["deadline"], start["runner"]) == ("smoke", "tap", 30.0, "3")
    assert start["command"] == ["/bin/sh", "-c", start["command"][2]]
    assert (first["status"], second["status"], second["message"]) == ("pass", "fail", "got 3")
    assert (end["exit_status"], end["signal"], end["timed_out"], end["planned"], end["seen"]) == (1, None, False, 2, 2)
    assert end["error"] is None
    assert "oops" in end["tail"]
    assert all(abs(event["time"] - events[0]["time"]) < 30 for event in events)
    assert (program.out / "stdout.log").read_text().startswith("1..2\nok 1 - a\n")
    assert (program.out / "stderr.log").read_text() == "oops\n"


def test_argument_list_environment_directory_and_closed_input(program: Any) -> None:
    script = "import os,sys; print(os.environ['COLOUR'], os.getcwd(), repr(sys.stdin.read()), sys.argv[1])"
    argv = [sys.executable, "-c", script, "a b; c"]
    program.run(argv, environment={"COLOUR": "blue"})
    assert (program.out / "stdout.log").read_text() == f"blue {program.directory} '' a b; c\n"


@pytest.mark.parametrize(
    ("command", "status", "message"),
    [("true", "pass", ""), ("echo one; echo two >&2; exit 3", "fail", "two"), ("kill -9 $$", "fail", "")],
)
def test_exit_code_parser(program: Any, command: str, status: str, message: str) -> None:
    events = program.run(command, parser="exit_code")
    test = next(event for event in events if event["event"] == "test")
    assert (test["number"], test["name"], test["status"]) == (1, "smoke", status)
    assert message in test["message"]
    assert (events[-1]["planned"], events[-1]["seen"]) == (1, 1)


def test_exit_code_parser_keeps_the_last_lines(program: Any) -> None:
    events = program.run("seq 1 1000; exit 1", parser="exit_code")
    lines = next(event for event in events if event["event"] == "test")["message"].splitlines()
    assert lines == [str(number) for number in range(961, 1001)]


def test_exit_code_parser_at_the_deadline(program: Any) -> None:
    events = program.run("sleep 600", parser="exit_code", deadline=0.3)
    assert [event["status"] for event in events if event["event"] == "test"] == ["timeout"]
    assert events[-1]["timed_out"] is True


def test_a_signal_is_not_an_exit_status(program: Any) -> None:
    end = program.run("echo 1..1; echo ok; kill -SEGV $$")[-1]
    assert (end["exit_status"], end["signal"]) == (None, "SIGSEGV")


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"command": ["no-such-program"]}, "cannot start ['no-such-program']"),
        ({"command": "true", "cwd": "no-such-directory"}, "No such file or directory"),
        ({"command": "true", "user": "no-such-user"}, "no-such-user"),
    ],
)
def test_what_cannot_start_is_reported(program: Any, more: dict[str, Any], error: str) -> None:
    events = program.run(**more)
    assert [event["event"] for event in events] == ["suite_start", "suite_end"]
    assert error in events[-1]["error"]
    assert events[-1]["exit_status"] is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user(program: Any) -> None:
    nobody = pwd.getpwnam("nobody")
    program.run("id -u; id -G; echo $HOME $LOGNAME", user="nobody", cwd="/")
    groups = " ".join(str(group) for group in os.getgrouplist("nobody", nobody.pw_gid))
    expected = f"{nobody.pw_uid}\n{groups}\n{nobody.pw_dir} nobody\n"
    assert (program.out / "stdout.log").read_text() == expected


# --- ends -------------------------------------------------------------------------------------------------------


def test_the_deadline_ends_everything_that_was_started(program: Any, eventually: Eventually) -> None:
    """timeout(1) makes a process group of its own, so the group alone is not enough."""
    command = "sleep 600 & echo $! > a; timeout 600 sh -c 'echo $$ > b; sleep 600' & echo 1..2; echo ok 1; wait"
    events = program.run(command, deadline=1)
    assert events[-1]["timed_out"] is True
    assert events[-1]["signal"] == "SIGTERM"
    assert (events[-1]["planned"], events[-1]["seen"]) == (2, 1)
    assert events[-1]["duration"] < 4
    for name in ("a", "b"):
        pid = int((program.directory / name).read_text())
        eventually(lambda pid=pid: not alive(pid))


def test_who_ignores_term_is_killed(runner: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, eventually: Eventually) -> None:
    monkeypatch.setattr(runner, "GRACE", 0.3)
    spec = runner.Spec("smoke", ["/bin/sh", "-c", f"trap '' TERM; echo $$ > {tmp_path}/pid; while :; do sleep 9; done"], "tap", 0.5)
    out = tmp_path / "out"
    runner.CommandSuite(spec, out, runner.claim(out)).execute()
    end = json.loads((out / "events.jsonl").read_text().splitlines()[-1])
    assert (end["signal"], end["timed_out"], end["error"]) == ("SIGKILL", True, None)
    assert not alive(int((tmp_path / "pid").read_text()))


def test_leftovers_are_ended_and_named(program: Any) -> None:
    events = program.run("sleep 600 >/dev/null 2>&1 & echo $! > a; echo 1..1; echo ok 1")
    pid = int((program.directory / "a").read_text())
    assert not alive(pid)
    assert (events[-1]["exit_status"], events[-1]["error"]) == (0, None)
    assert any(leftover.startswith(f"{pid} ") for leftover in events[-1]["leftovers"])


DAEMON = "setsid sh -c 'echo $$ > a; exec sleep 600' & while [ ! -s a ]; do :; done; echo 1..1; echo ok 1"


def test_a_daemon_that_holds_the_output_is_found_in_the_cgroup(program: Any) -> None:
    events = program.run(DAEMON)
    if events[0]["isolation"] != "cgroup":
        pytest.skip(events[0]["isolation"])
    pid = int((program.directory / "a").read_text())
    assert events[-1]["leftovers"] == [f"{pid} sleep"]
    assert events[-1]["duration"] < 10
    assert not alive(pid)


def test_without_cgroups_it_does_not_hold_the_runner(runner: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(mounts: str, membership: str) -> Path:
        raise ValueError("there is none here")

    monkeypatch.setattr(runner, "own_cgroup", none)
    out = tmp_path / "out"
    runner.CommandSuite(runner.Spec("smoke", ["/bin/sh", "-c", DAEMON], "tap", 30, cwd=str(tmp_path)), out, runner.claim(out)).execute()
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    try:
        assert events[0]["isolation"] == "session only: there is none here"
        assert "left the session" in events[-1]["leftovers"][-1]
        assert events[-1]["duration"] < 10
    finally:
        os.kill(int((tmp_path / "a").read_text()), signal.SIGKILL)


def test_events_are_there_while_the_suite_runs(program: Any, eventually: Eventually) -> None:
    os.mkfifo(program.directory / "gate")
    command = "echo 1..2; echo ok 1; read line < gate; echo ok 2"
    process = subprocess.Popen(program.arguments("run", command))
    eventually(lambda: (program.last() or {}).get("number") == 1)
    assert process.poll() is None
    (program.directory / "gate").write_text("go\n")
    assert process.wait(10) == 0
    assert program.events()[-1]["seen"] == 2


def test_a_hangup_does_not_end_the_run_nor_reach_the_suite_as_ignored(program: Any, eventually: Eventually) -> None:
    os.mkfifo(program.directory / "gate")
    command = "grep SigIgn /proc/self/status; echo 1..1; read line < gate; echo ok 1"
    process = subprocess.Popen(program.arguments("run", command))
    eventually(lambda: (program.last() or {}).get("event") == "plan")
    process.send_signal(signal.SIGHUP)
    (program.directory / "gate").write_text("go\n")
    assert process.wait(10) == 0
    assert program.events()[-1]["exit_status"] == 0
    ignored = int((program.out / "stdout.log").read_text().split()[1], 16)
    assert not ignored & 1 << (signal.SIGHUP - 1)


def test_a_runner_that_is_told_to_stop_says_so(program: Any, eventually: Eventually) -> None:
    process = subprocess.Popen(program.arguments("run", "echo $$ > pid; echo 1..2; echo ok 1; exec sleep 600"))
    eventually(lambda: (program.last() or {}).get("event") == "test")
    process.terminate()
    assert process.wait(10) == 0
    assert "told to stop by SIGTERM" in program.events()[-1]["error"]
    assert not alive(int((program.directory / "pid").read_text()))


# --- start ------------------------------------------------------------------------------------------------------


def test_start_returns_at_once_and_the_run_goes_on(program: Any, eventually: Eventually) -> None:
    os.mkfifo(program.directory / "gate")
    done = subprocess.run(
        program.arguments("start", "echo 1..1; read line < gate; echo ok 1"), capture_output=True, text=True, timeout=10, check=True
    )
    pid = int(done.stdout)
    assert pid == int((program.out / "pid").read_text())
    assert alive(pid)
    assert os.getsid(pid) != os.getsid(0)
    assert os.readlink(f"/proc/{pid}/fd/1") == str(program.out / "runner.log")
    (program.directory / "gate").write_text("go\n")
    eventually(lambda: (program.last() or {}).get("event") == "suite_end")
    assert (program.out / "runner.log").read_text() == ""


@pytest.mark.parametrize("action", ["run", "start"])
def test_old_results_are_never_added_to(program: Any, action: str) -> None:
    program.run("echo 1..1; echo ok 1")
    before = (program.out / "events.jsonl").read_bytes()
    done = subprocess.run(program.arguments(action, "echo 1..1; echo ok 1"), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "already has results of an earlier run" in done.stderr
    assert done.stdout == ""
    assert (program.out / "events.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"parser": "xml"}, "unknown parser 'xml'"),
        ({"deadline": 0}, "'deadline'"),
        ({"deadline": "soon"}, "'deadline'"),
        ({"deadline": True}, "'deadline'"),
        ({"command": ""}, "'command'"),
        ({"command": []}, "'command'"),
        ({"command": ["true", 1]}, "'command'"),
        ({"suite": None}, "'suite'"),
        ({"environment": ["a"]}, "'environment'"),
        ({"deadlin": 5}, "unknown key 'deadlin'"),
    ],
)
def test_a_wrong_specification_is_refused_before_anything_is_made(program: Any, change: dict[str, Any], error: str) -> None:
    arguments = program.arguments("start", change.pop("command", "true"), **change)
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert error in done.stderr
    assert not program.out.exists()


# --- output -----------------------------------------------------------------------------------------------------


def test_output_is_capped_and_the_parser_still_sees_everything(program: Any) -> None:
    events = program.run("echo 1..2; echo ok 1; yes noise | head -c 200000; echo; echo ok 2", capture_limit=1000)
    text = (program.out / "stdout.log").read_text()
    assert len(text) < 1200
    assert "cut here after 1000 bytes" in text.splitlines()[-1]
    assert events[-1]["seen"] == 2


def test_garbage_and_endless_lines_are_survived(program: Any) -> None:
    command = (
        "head -c 300000 /dev/urandom; echo; printf 'ok 1 - '; head -c 200000 /dev/zero | tr '\\0' x; echo ' # SKIP'; printf 'ok 2 - no end'"
    )
    events = program.run(f"echo 1..2; {command}")
    names = [event["name"] for event in events if event["event"] == "test"]
    # The endless line is no test: its directive would have been cut off, and a skip become a pass.
    assert names[-1:] == ["no end"]
    assert not any(name.startswith("xxx") for name in names)


def test_a_full_disk_is_told_and_does_not_end_the_suite(runner: ModuleType, tmp_path: Path) -> None:
    capture = runner.Capture(tmp_path / "stdout.log", 1000)
    with Path("/dev/full").open("wb", buffering=0) as full:
        capture._file = full
        assert capture.feed(b"ok 1\n") == ["ok 1"]
        assert capture.feed(b"ok 2\n") == ["ok 2"]
    assert capture.error == "stdout.log is incomplete: No space left on device"


@pytest.mark.parametrize("kind", ["link", "pipe", "file"])
def test_what_was_put_in_the_place_of_a_log_is_not_written_to(runner: ModuleType, tmp_path: Path, kind: str) -> None:
    path, other = tmp_path / "stdout.log", tmp_path / "other"
    other.write_text("precious")
    {"link": lambda: path.symlink_to(other), "pipe": lambda: os.mkfifo(path), "file": lambda: path.hardlink_to(other)}[kind]()
    capture = runner.Capture(path, 1000)
    assert capture.feed(b"ok 1\n") == ["ok 1"]
    assert capture.error == "stdout.log is incomplete: File exists"
    assert other.read_text() == "precious"


def test_an_error_of_the_runner_itself_still_ends_the_suite(runner: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Any, line: str, now: float) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(runner.TapParser, "feed", broken)
    out = tmp_path / "out"
    with pytest.raises(ZeroDivisionError):
        runner.CommandSuite(runner.Spec("smoke", ["/bin/sh", "-c", "echo ok; sleep 600"], "tap", 30), out, runner.claim(out)).execute()
    end = json.loads((out / "events.jsonl").read_text().splitlines()[-1])
    assert end["event"] == "suite_end"
    assert "the runner failed: ZeroDivisionError: a bug" in end["error"]
