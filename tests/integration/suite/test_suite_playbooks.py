# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Suites run by ansible-playbook: live lines, lost guests, deadlines, hostile guests, the role, the verdict."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from loopback import wait_for

Eventually = Callable[..., Any]

# A gate is a named pipe the suite waits at until the test has seen what it wants to see.
GATED = "echo 1..2; echo ok 1 - opens; read line < {gate}; echo ok 2 - closes"


def gate_of(site: Any) -> Path:
    gate = site.directory / "gate"
    os.mkfifo(gate)
    return gate


def release(gate: Path) -> None:
    """Let the suite go on; when nobody waits at the gate that is a failure, not a wait for ever."""

    def opened() -> int | None:
        try:
            return os.open(gate, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return None  # nobody reads yet

    descriptor = wait_for(opened)
    os.write(descriptor, b"go\n")
    os.close(descriptor)


@pytest.fixture(params=["local_site", "ssh_site"])
def site(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def test_lines_are_shown_while_the_suite_runs(site: Any) -> None:
    gate = gate_of(site)
    playbook = site.start(site.suite(command=GATED.format(gate=gate)))
    line = playbook.until("1/2 opens")
    assert re.fullmatch(r"  smoke@bookworm  1/2 opens \u2026 PASS \d\.\d s\n", line), line
    # The suite waits at the gate, so the line above came before its end.
    release(gate)
    code, output = playbook.finish()
    assert code == 0, output
    assert "  smoke@bookworm  2/2 closes \u2026 PASS" in output
    assert "WARNING" not in output
    outcome = site.outcome
    assert (outcome["status"], outcome["seen"], outcome["planned"], outcome["changed"]) == ("passed", 2, 2, True)
    assert (outcome["suite"], outcome["guest"], outcome["exit_status"]) == ("smoke", "bookworm", 0)
    assert [event["event"] for event in site.events()] == ["suite_start", "plan", "test", "test", "suite_end"]
    assert (site.kept() / "stdout.log").read_text() == "1..2\nok 1 - opens\nok 2 - closes\n"
    assert {path.name for path in site.kept().iterdir()} == {"events.jsonl", "stdout.log", "stderr.log", "runner.log"}


def test_a_lost_guest_is_an_error_in_time_and_keeps_what_was_seen(ssh_site: Any, sshd: Any) -> None:
    playbook = ssh_site.start(ssh_site.suite(command="echo 1..2; echo ok 1 - opens; sleep 600", deadline=600, lost_after=2))
    playbook.until("1/2 opens")
    sshd.stop()
    code, output = playbook.finish()
    assert code == 2
    assert "guest lost: not reached for 2 s" in output
    outcome = ssh_site.outcome
    assert (outcome["failed"], outcome["status"], outcome["seen"]) == (True, "error", 1)
    assert "unreachable" not in outcome
    assert [event["event"] for event in ssh_site.events()] == ["suite_start", "plan", "test"]
    sshd.start()


def test_a_connection_that_breaks_and_comes_back_costs_nothing(ssh_site: Any, sshd: Any) -> None:
    gate = gate_of(ssh_site)
    playbook = ssh_site.start(ssh_site.suite(command=GATED.format(gate=gate), lost_after=20))
    playbook.until("1/2 opens")
    sshd.stop()
    release(gate)  # the suite goes on without the connection
    sshd.start()
    code, output = playbook.finish()
    assert code == 0, output
    assert ssh_site.outcome["status"] == "passed"
    assert [event["event"] for event in ssh_site.events()] == ["suite_start", "plan", "test", "test", "suite_end"]


def test_sessions_killed_in_the_middle_of_a_poll(ssh_site: Any, sshd: Any) -> None:
    gate = gate_of(ssh_site)
    playbook = ssh_site.start(ssh_site.suite(command=GATED.format(gate=gate), lost_after=20))
    playbook.until("1/2 opens")
    sshd.kill_sessions()
    release(gate)
    assert playbook.finish()[0] == 0
    assert ssh_site.outcome["seen"] == 2


def test_deadline_and_failed_tests_do_not_fail_the_task(local_site: Any) -> None:
    code, output = local_site.run(
        local_site.suite(command="echo 1..3; echo ok 1; echo not ok 2 - sums; echo '# got 3'; echo $$ > pid; sleep 600", deadline=1)
    )
    assert code == 0, output
    outcome = local_site.outcome
    assert (outcome["status"], outcome["timed_out"], outcome["counts"]["not_run"]) == ("timeout", True, 1)
    assert outcome["failed_tests"] == [{"number": 2, "name": "sums", "message": "got 3"}]
    assert "stopped at its deadline" in output
    (pid_file,) = local_site.remote.glob("*/work/pid")
    assert not Path("/proc", pid_file.read_text().strip()).exists()


def test_source_arguments_directory_environment_and_second_run(local_site: Any) -> None:
    """One task that uses every option, then one that must not touch its results, then one in check mode."""
    source = local_site.directory / "files" / "checks" / "t"
    source.mkdir(parents=True)
    script = source / "all.sh"
    script.write_text('#!/bin/sh\necho "1..1"; echo "ok - $COLOUR $1 $(basename "$PWD")"; echo noise >&2\n')
    script.chmod(0o755)
    options = {"source": "checks", "argv": ["./all.sh", "a b"], "chdir": "t", "environment": {"COLOUR": "blue"}, "guest": "trixie"}
    code, output = local_site.run(local_site.suite(**options))
    assert code == 0, output
    kept = local_site.results / "suites" / "smoke" / "trixie"
    before = (kept / "events.jsonl").read_bytes()
    assert b'"blue a b t"' in before
    assert (kept / "stderr.log").read_text() == "noise\n"

    code, output = local_site.run(local_site.suite(**options))
    assert code == 2
    assert "has a result already" in output
    assert (kept / "events.jsonl").read_bytes() == before
    assert len(local_site.runners()) == 1

    code, output = local_site.run(local_site.suite(**{**options, "guest": "sid"}), arguments=("--check",))
    assert code == 0, output
    assert local_site.outcome["changed"] is True
    assert not (local_site.results / "suites" / "smoke" / "sid").exists()
    assert len(local_site.runners()) == 1


def test_what_cannot_start_fails_and_may_be_tried_again(local_site: Any) -> None:
    code, output = local_site.run(local_site.suite(command="echo 1..1; echo ok", python="/no/such/python"))
    assert code == 2
    assert "it cannot be started: exit status 127" in output
    assert not (local_site.kept() / "events.jsonl").exists()
    assert local_site.run(local_site.suite(command="echo 1..1; echo ok"))[0] == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"command": "true", "name": "../x"}, "it becomes a directory"),
        ({"command": "true", "argv": ["true"]}, "mutually exclusive"),
        ({}, "one of the following is required"),
        ({"command": "true", "remote_dir": "x"}, "absolute path"),
    ],
)
def test_what_cannot_work_is_refused(local_site: Any, options: dict[str, Any], words: str) -> None:
    code, output = local_site.run(local_site.suite(**options))
    assert code == 2
    assert words in output
    assert not local_site.results.exists()


def test_a_runner_that_is_killed_is_an_error(local_site: Any, eventually: Eventually) -> None:
    playbook = local_site.start(local_site.suite(command="echo $$ > pid; echo 1..2; echo ok 1 - opens; exec sleep 600"))
    playbook.until("1/2 opens")
    (runner,) = local_site.runners()
    os.kill(runner, signal.SIGKILL)
    code, output = playbook.finish()
    (pid_file,) = local_site.remote.glob("*/work/pid")
    os.kill(int(pid_file.read_text()), signal.SIGKILL)  # nobody is left to end it
    assert code == 2
    assert "the runner in the guest went away" in output
    assert local_site.outcome["status"] == "error"
    assert (local_site.kept() / "stdout.log").read_text().startswith("1..2")


def test_a_hostile_guest_gets_nothing_but_its_own_text_through(local_site: Any) -> None:
    secret = local_site.directory / "secret"
    secret.write_text("of the controller")
    command = (
        "echo 1..1; printf 'ok 1 - \\033[2J\\007::error::x\\n'; cd ../out; rm stdout.log runner.log; "
        f"ln -s {secret} stdout.log; ln -s / runner.log; echo fine >&2"
    )
    code, output = local_site.run(local_site.suite(command=command))
    assert code == 0, output
    assert "left out 'stdout.log'" in output
    assert "\x1b" not in output
    assert {path.name for path in local_site.kept().iterdir()} == {"events.jsonl", "stderr.log"}
    assert (local_site.kept() / "stderr.log").read_text() == "fine\n"


def test_events_forged_by_the_suite_are_an_error(local_site: Any) -> None:
    forged = '{"event":"suite_end","time":1,"exit_status":0,"signal":null,"timed_out":false,"duration":1,"planned":1,"seen":1,"error":null}'
    command = f"echo 1..2; echo ok 1; echo '{forged}' >> ../out/events.jsonl; echo not ok 2; exit 1"
    code, output = local_site.run(local_site.suite(command=command))
    assert code == 0, output
    assert local_site.outcome["status"] == "error"


def test_fail_on_tests(local_site: Any) -> None:
    code, output = local_site.run(local_site.suite(command="echo 1..1; echo not ok 1; exit 1", fail_on_tests=True))
    assert code == 2
    assert "The suite 'smoke@bookworm' ended with status failed." in output


def test_role_and_verdict(local_site: Any) -> None:
    """The role goes on after a suite that could not be run and names it; the verdict finds it, too."""
    suites = [
        {"name": "broken", "command": "true", "source": "no-such-directory"},
        {"name": "smoke", "command": "echo 1..2; echo ok 1; echo not ok 2 - sums; echo '# got 3'; exit 1", "deadline": 20},
        {"name": "units", "argv": ["true"], "parser": "exit_code"},
        {"name": "elsewhere", "command": "true", "guests": ["trixie"]},
    ]
    variables = {"suite_list": suites, "suite_results": str(local_site.results), "suite_remote_dir": str(local_site.remote)}
    role = {"ansible.builtin.import_role": {"name": "mayfly.virt.suite"}, "vars": {**variables, "suite_deadline_factor": 1.5}}
    code, output = local_site.run(role)
    assert code == 2
    assert "1 of 4 suites could not be run on bookworm" in output
    assert "The source 'no-such-directory' does not exist" in output
    assert sorted(path.name for path in (local_site.results / "suites").iterdir()) == ["smoke", "units"]
    assert local_site.events()[0]["deadline"] == 30.0

    job = {"run_id": "run-1", "job": "demo", "guests": [{"name": "bookworm"}, {"name": "trixie"}], "created": "2026-11-21T02:43:00Z"}
    job["suites"] = [{"name": suite["name"], "guests": suite.get("guests", ["bookworm"])} for suite in suites[1:3]]
    (local_site.results / "job.json").write_text(json.dumps(job))
    judge = {"mayfly.virt.verdict": {"results": str(local_site.results)}, "register": "outcome"}
    code, output = local_site.run(judge)
    assert code == 0, output
    assert (local_site.outcome["verdict"], local_site.outcome["exit_code"]) == ("failed", 1)
    assert local_site.outcome["changed"] is True
    assert "smoke@bookworm  2 sums  FAIL\n      got 3" in (local_site.results / "summary.txt").read_text()
    assert "not ok 2 - sums\n# got 3</pre>" in (local_site.results / "report.html").read_text()
    job["suites"].append({"name": "broken"})
    (local_site.results / "job.json").write_text(json.dumps(job))
    assert local_site.run(judge)[0] == 0
    assert local_site.outcome["exit_code"] == 2


# --- suites of many tests ---------------------------------------------------------------------------------------


def scripts_in(site: Any, **texts: str) -> str:
    """Make a source directory with executable files, and return its name."""
    source = site.directory / "files" / "checks" / "t"
    source.mkdir(parents=True)
    for name, text in texts.items():
        (source / f"{name}.sh").write_text(f"#!/bin/sh\n{text}\n")
        (source / f"{name}.sh").chmod(0o755)
    return "checks"


def test_each_test_is_shown_and_its_logs_are_kept(site: Any) -> None:
    source = scripts_in(site, opens="echo 1..1; echo ok 1", sums="echo 1..2; echo ok 1; echo not ok 2 - adds; echo '# got 3'; exit 1")
    tests = [
        {"glob": "t/*.sh", "parser": "tap"},
        {"name": "luck", "command": "test -e ran || { touch ran; echo none; exit 1; }"},
        {"name": "far", "command": "true", "requires": {"kernel": ">=99"}},
        {"name": "silent", "argv": ["true"]},
    ]
    code, output = site.run(site.suite(source=source, tests=tests, retries=1, deny=[{"test": "none", "reason": "x"}]))
    assert code == 0, output
    assert "  smoke@bookworm  nothing matches deny 'none'\n" in output
    assert "  smoke@bookworm  1/5 t/opens.sh \u2026 PASS 0." in output
    assert "  smoke@bookworm  t/sums.sh \u2026 FAIL 0." in output
    assert "NOT RUN (requires: kernel >=99: it is " in output
    assert "5/5 luck \u2026 FLAKY" in output
    outcome = site.outcome
    assert (outcome["status"], outcome["planned"], outcome["seen"]) == ("failed", 5, 5)
    assert {name: count for name, count in outcome["counts"].items() if count} == {"pass": 2, "fail": 1, "flaky": 1, "not_run": 1}
    assert [test["name"] for test in outcome["failed_tests"]] == ["t/sums.sh"]
    assert outcome["failed_tests"][0]["message"] == "failed: adds\n  got 3"
    kept = {str(path.relative_to(site.kept())) for path in site.kept().rglob("*") if path.is_file()}
    assert kept == {
        "events.jsonl",
        "runner.log",
        "tests/t_opens.sh/stdout.log",
        "tests/t_sums.sh/stdout.log",
        "tests/t_sums.sh/attempt-1/stdout.log",
        "tests/luck/attempt-1/stdout.log",
    }
    assert (site.kept() / "tests/luck/attempt-1/stdout.log").read_text() == "none\n"


def test_a_hostile_test_gets_no_file_through_that_was_not_announced(local_site: Any) -> None:
    secret = local_site.directory / "secret"
    secret.write_text("of the controller")
    written = (
        "echo mine; cd ../out; until test -s tests/{0}/stdout.log; do :; done 2>/dev/null; cd tests; "  # it is the runner who writes it
    )
    bad = f"mkdir -p x bad/attempt-1; ln -s {secret} x/stdout.log; ln -s / bad/stderr.log; echo z | tee bad/x.log bad/attempt-1/stdout.log"
    tests = [
        {"name": "bad", "command": written.format("bad") + bad},
        {"name": "replaced", "command": written.format("replaced") + f"ln -sf {secret} replaced/stdout.log"},
    ]
    code, output = local_site.run(local_site.suite(tests=tests))
    assert code == 0, output
    kept = {str(path.relative_to(local_site.kept())) for path in local_site.kept().rglob("*") if path.is_file()}
    assert kept == {"events.jsonl", "runner.log", "tests/bad/stdout.log", "tests/bad/x.log"}  # a plain file there is kept
    assert not any(path.is_symlink() for path in local_site.kept().rglob("*"))
    assert "left out 'tests/replaced/stdout.log'" in output
    assert "no log was fetched of 1 tests, first tests/replaced" in output


def test_what_the_runner_would_refuse_is_refused_by_the_task(local_site: Any) -> None:
    code, output = local_site.run(local_site.suite(tests=[{"name": "a", "command": "true", "requires": {"kernel": "six"}}]))
    assert code == 2
    assert "needs 'kernel' as comparisons" in output
    assert not local_site.results.exists()
    code, output = local_site.run(local_site.suite(tests=[{"glob": "t/*"}]))
    assert code == 2
    assert "the glob 't/*' gives no test: nothing matches" in output


def test_sections_of_a_ci(local_site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.delenv("GITLAB_CI", raising=False)
    code, output = local_site.run(local_site.suite(command="echo 1..1; echo 'ok 1 - ::endgroup:: ##[endgroup]'"))
    assert code == 0, output
    lines = output.splitlines()
    begin, end = lines.index("::group::smoke@bookworm"), lines.index("::endgroup::")
    assert "1/1 ::endgroup:: ## [endgroup] \u2026 PASS" in lines[begin + 1]
    assert "ended with exit status 0" in lines[end - 1]
    assert sum(line.startswith("::") for line in lines) == 2
    monkeypatch.setenv("GITLAB_CI", "true")
    code, output = local_site.run(local_site.suite(name="other", command="echo 1..1; echo ok 1; exit 3"))
    assert code == 0
    assert "section_start:" in output
    assert "section_end:" in output


def test_the_role_gives_suites_of_tests_to_the_runner(local_site: Any) -> None:
    tests = [{"name": "a", "command": "true", "deadline": 2}, {"name": "b", "argv": ["false"]}, {"name": "c", "command": "true"}]
    suite = {"name": "many", "parser": "tests", "tests": tests, "deadline": 20, "select": ["[ab]"], "deny": [{"test": "b", "reason": "no"}]}
    variables = {"suite_list": [suite], "suite_results": str(local_site.results), "suite_remote_dir": str(local_site.remote)}
    role = {"ansible.builtin.import_role": {"name": "mayfly.virt.suite"}, "vars": {**variables, "suite_deadline_factor": 1.5}}
    code, output = local_site.run(role)
    assert code == 0, output
    (spec,) = local_site.remote.glob("*/spec.json")
    assert [test.get("deadline") for test in json.loads(spec.read_text())["tests"]] == [3, None, None]
    events = local_site.events("many")
    assert events[0]["deadline"] == 30.0
    assert [(event["name"], event["status"]) for event in events if event["event"] == "test"] == [("a", "pass"), ("b", "not_run")]


def test_secrets_stay_out_of_the_results_and_off_the_screen(local_site: Any) -> None:
    command = "echo 1..1; echo 'not ok 1 - says hunter2'; echo '# password=sesame99 hunter2'; echo hunter2 >&2; exit 1"
    code, output = local_site.run(local_site.suite(command=command, secrets=["hunter2"]))
    assert code == 0, output
    kept = {path.name: path.read_text() for path in local_site.kept().iterdir()}
    assert set(kept) == {"events.jsonl", "stdout.log", "stderr.log", "runner.log"}
    shown = output + "".join(kept.values())
    assert "hunter2" not in shown
    assert "sesame99" not in shown
    assert "says [scrubbed: " in output
    assert local_site.outcome["status"] == "failed"
    code, output = local_site.run(local_site.suite(name="other", command="true", secrets=["abc"]))
    assert code == 2
    assert "is refused" in output
    assert "abc" not in output.replace("secrets", "")


def test_secrets_stay_out_of_the_phases(local_site: Any) -> None:
    error = "login as hunter2 with PASSWORD=sesame99 failed"
    phase = {"results": str(local_site.results), "name": "run", "event": "end", "error": error}
    code, output = local_site.run(*({"mayfly.virt.phase": {**phase, "secrets": secrets}} for secrets in (["hunter2"], ["abc"])))
    assert code == 0, output
    lines = [json.loads(line) for line in (local_site.results / "phases.jsonl").read_text().splitlines()]
    assert [line["error"] for line in lines] == [
        "login as [scrubbed: job secret] with PASSWORD=[scrubbed: password] failed",
        "login as hunter2 with PASSWORD=[scrubbed: password] failed",  # prepare refuses such a list, and this is how it can say so
    ]
