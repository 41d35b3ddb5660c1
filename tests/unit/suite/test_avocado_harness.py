# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Avocado as who asks for tests, here a double that goes wrong on demand; the real one is in tests/integration/suite."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from test_tests_suite import Many

DOUBLES = Path(__file__).resolve().parents[2] / "doubles"
Eventually = Callable[[Callable[[], Any]], Any]


class Harnessed(Many):
    """Runs suites through the double."""

    def run(self, *tests: Any, mode: str = "", **more: Any) -> dict[str, dict[str, Any]]:
        return super().run(*tests, **self.options(mode), **more)

    @staticmethod
    def options(mode: str = "") -> dict[str, Any]:
        path = f"{DOUBLES}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {"harness": "avocado", "environment": {"PATH": path, "AVOCADO_DOUBLE": mode}}

    @property
    def statuses(self) -> list[str]:
        return [event["status"] for event in self.events if event["event"] == "test"]


@pytest.fixture
def many(program: Any) -> Harnessed:
    return Harnessed(program)


@pytest.fixture(autouse=True)
def nothing_left(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Whatever goes wrong, nothing of the harness stays in the temporary directory."""
    with tempfile.TemporaryDirectory(prefix="h") as directory:
        monkeypatch.setenv("TMPDIR", directory)
        yield
        assert os.listdir(directory) == []


KINDS = [
    {"name": "pass", "command": "echo 1..1; echo ok 1", "parser": "tap"},
    {"name": "fail", "command": "exit 3"},
    {"name": "error", "command": "echo 1..2; echo ok 1", "parser": "tap"},
    {"name": "timeout", "command": "sleep 60", "deadline": 0.3},
    {"name": "skip", "command": "echo '1..0 # SKIP no # tun'", "parser": "tap"},
    {"name": "known", "command": "echo 1..1; echo 'not ok 1 # TODO x'", "parser": "tap"},
    {"name": "xpass", "command": "echo 1..1; echo 'ok 1 # TODO x'", "parser": "tap"},
    {"name": "not_run", "command": "true", "requires": {"devices": ["/no/such"]}},
    {
        "name": "daemon_hang",
        "command": 'echo "{\\"status\\": \\"daemon_hang\\", \\"message\\": [\\"mute\\"]}" >$MAYFLY_TEST_DIR/judgement.json',
    },
]


def test_each_test_has_the_status_it_would_have_without(many: Harnessed) -> None:
    many.run(*KINDS)
    assert many.statuses == [kind["name"] for kind in KINDS]
    assert (many.end["error"], many.end["exit_status"], many.end["files"]) == (None, 1, ["avocado-results.json"])
    report = json.loads((many.program.out / "avocado-results.json").read_text())
    assert [test["status"] for test in report["tests"]] == ["PASS", "FAIL", "ERROR", "FAIL", "SKIP", "PASS", "WARN", "SKIP", "FAIL"]
    assert (many.program.out / "stdout.log").read_text() == "Avocado 113.0\n"
    assert (many.program.out / "stderr.log").read_text() == ""
    assert many.judged()["status"] == "failed"


def test_an_answer_says_the_same_whatever_the_test_printed(runner: ModuleType) -> None:
    for status, seen in runner.AVOCADO_SEES.items():
        told = json.loads(runner.answer_of("a # b", runner.Answer(status, "\nwhy\nok 2"), b"not ok 1\r\x1b[31m\n\xff"))
        reason = None if seen == "PASS" else "why" if status == seen.lower() else f"{status}: why"
        assert (told["result"], told.get("fail_reason")) == (seen.lower(), reason)
        assert told["output"] == f"{status}: a # b\n\nwhy\nok 2\n--- what it printed ---\nnot ok 1  [31m\n\ufffd\n"


def test_output_for_avocado_is_bounded(many: Harnessed, runner: ModuleType) -> None:
    many.run({"name": "t", "command": "seq 100000"})
    suite = runner.TestsSuite.__new__(runner.TestsSuite)
    suite.spec, suite.directory = runner.Spec("s", [], "tests", 1), many.program.out
    case = runner.Case(1, "t", [], "exit_code", 1, runner.Needs(), "t")
    output = suite.output_of(case)
    assert len(output) == runner.OUTPUT_SHOWN
    assert output.endswith(b"\n100000\n")
    assert b"--- what it printed, its last 65536 bytes ---" in runner.answer_of("t", runner.Answer("pass", ""), output)


def test_who_fails_is_asked_for_again_by_another_start(many: Harnessed) -> None:
    tests = many.run(
        {"name": "a", "command": "true"},
        {"name": "luck", "command": "echo try $MAYFLY_ATTEMPT; exit $((MAYFLY_ATTEMPT < 2))"},
        {"name": "bad", "command": "false"},
        retries=2,
    )
    assert {name: test["status"] for name, test in tests.items()} == {"a": "pass", "luck": "flaky", "bad": "fail"}
    assert [len(tests[name].get("attempts", [])) for name in ("a", "luck", "bad")] == [0, 2, 3]
    assert many.end["files"] == [
        "avocado-results.json",
        *(f"avocado-{start}-{name}" for start in (2, 3) for name in ("results.json", "stdout.log", "stderr.log")),
    ]
    said = [json.loads((many.program.out / name).read_text())["tests"] for name in many.end["files"] if name.endswith("results.json")]
    assert [{test["name"]: test["status"] for test in tests} for tests in said] == [
        {"a": "PASS", "luck": "FAIL", "bad": "FAIL"},
        {"luck": "PASS", "bad": "FAIL"},
        {"bad": "FAIL"},
    ]
    assert many.end["error"] is None


def test_fail_fast_and_a_deadline(many: Harnessed) -> None:
    many.run("false", "true", fail_fast=True)
    assert (many.statuses, many.end["error"]) == (["fail", "not_run"], None)
    many.program.out = many.directory / "out2"
    tests = many.run("sleep 60", {"name": "b", "command": "true"}, {"name": "c", "command": "true"}, deadline=1)
    assert (many.statuses, many.end["timed_out"]) == (["timeout", "not_run", "not_run"], True)
    assert tests["b"]["directive"] == "deadline"
    assert many.judged()["status"] == "timeout"


@pytest.mark.parametrize(
    ("mode", "statuses", "words"),
    [
        ("killed", ["pass", "error", "error"], "Avocado asked for 1 of 3 tests: it ended by SIGKILL"),
        ("forgets", ["pass", "pass", "error"], "Avocado asked for 2 of 3 tests: it ended with exit status 0"),
        ("twice", ["pass", "error", "error"], "Avocado asked for test 1 a second time"),
        ("strange", [], "Avocado asked for test 7000 that there is not"),
        ("pass", ["fail", "fail"], "it says PASS of false, which is FAIL (fail)"),
        ("pass", ["fail", "fail"], "it ended with exit status 0, test failed"),
        ("earlier", ["pass", "pass", "pass"], "results.json cannot be used: it is that of another job"),
        ("miscounts", ["pass", "pass", "pass"], "it says nothing of true"),
        ("no results", ["pass", "pass", "pass"], "Avocado left no results.json that can be read: No such file"),
        ("interrupted", ["pass", "pass", "pass"], "it ended with exit status 9, and no test failed"),
        ("old", [], "/avocado' is Avocado 92.0, and 108 or newer is needed"),
        ("broken", [], "asked for no test: it ended with exit status 3; it said: Avocado 113.0 | No module named 'avocado'"),
    ],
)
def test_a_harness_that_goes_wrong_is_an_error_of_the_suite(many: Harnessed, mode: str, statuses: list[str], words: str) -> None:
    tests = ["false", {"name": "b", "command": "exit 1"}] if mode == "pass" else ["true", {"name": "b", "command": "true"}, "test 1"]
    many.run(*tests, mode=mode)
    assert sorted(many.statuses) == sorted(statuses)
    assert words in many.end["error"]
    assert many.judged()["status"] == "error"
    assert all("never asked for this test" in event["message"] for event in many.events if event.get("status") == "error")


def test_there_is_no_avocado(many: Harnessed) -> None:
    options = {"harness": "avocado", "environment": {"PATH": str(many.directory)}}
    Many.run(many, {"name": "t", "command": ["/bin/true"]}, **options)
    assert (many.statuses, many.judged()["status"]) == ([], "error")
    assert (
        many.end["error"]
        == f"the harness avocado cannot be used: there is no 'avocado' on the PATH of the suite ({many.directory}); install it"
    )
    assert (many.program.out / "stdout.log").exists()  # as whoever fetches the logs of this harness expects


@pytest.mark.parametrize(("mode", "limit"), [("mute", "AVOCADO_SILENT"), ("hangs", "AVOCADO_ENDING")])
def test_a_silent_harness_is_ended(runner: ModuleType, program: Any, monkeypatch: pytest.MonkeyPatch, mode: str, limit: str) -> None:
    monkeypatch.setattr(runner, limit, 1.0)
    monkeypatch.setattr(runner, "GRACE", 0.5)
    tests = [{"name": name, "command": "true"} for name in ("a", "b")]
    arguments = program.arguments("run", None, parser="tests", tests=tests, **Harnessed.options(mode))
    assert runner.main(arguments[2:]) == 0
    end = program.last()
    statuses = [event["status"] for event in program.events() if event["event"] == "test"]
    if mode == "mute":
        assert (statuses, end["error"]) == (["pass", "error"], "Avocado asked for no test for 1 s")
    else:
        assert (statuses, end["error"]) == (["pass", "pass"], "Avocado had not ended 1 s after its last test")


def test_a_runner_told_to_stop_ends_its_harness(many: Harnessed, eventually: Eventually) -> None:
    arguments = many.program.arguments("run", None, parser="tests", tests=[{"name": "t", "command": "sleep 60"}], **Harnessed.options())
    process = subprocess.Popen(arguments)
    eventually(lambda: children_of(process.pid, b"sleep"))
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert "told to stop by SIGTERM" in many.program.last()["error"]


def test_a_harness_whose_runner_was_killed_ends_and_has_no_good_word(many: Harnessed, eventually: Eventually) -> None:
    """The runner's own files stay then, so the directory of this test is another."""
    with tempfile.TemporaryDirectory(prefix="h") as directory:
        options = Harnessed.options()
        tests = [{"name": "t", "command": "sleep 2"}, {"name": "u", "command": "true"}]
        arguments = many.program.arguments("run", None, parser="tests", tests=tests, **options)
        process = subprocess.Popen(arguments, env={**os.environ, "TMPDIR": directory})
        eventually(lambda: children_of(process.pid, b"sleep"))
        process.kill()
        process.wait(10)
        (results,) = eventually(lambda: [path for path in Path(directory).glob("*/results/*/results.json") if path.stat().st_size])
        report = json.loads(results.read_text())
        assert [test["status"] for test in report["tests"]] == ["ERROR", "ERROR"]


def children_of(pid: int, name: bytes) -> bool:
    """Whether a child of a process has this command."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and name in (entry / "cmdline").read_bytes():
                return True
        except OSError:  # it ended while we looked
            continue
    return False


def test_agreement_is_told_test_by_test(runner: ModuleType) -> None:
    cases = [runner.Case(number, name, [], "exit_code", 1, runner.Needs(), name) for number, name in enumerate(("a", "b-1"), start=1)]
    answers = {1: "pass", 2: "timeout"}
    good = {"job_id": "j", "total": 2, "tests": [{"id": "01-a", "status": "PASS"}, {"id": "02-b-1", "status": "FAIL"}]}

    def found(**change: Any) -> str:
        return "; ".join(runner.disagreements(json.dumps({**good, **change}).encode(), "j", cases, answers))

    assert found() == ""
    assert found(total=3) == "it lists 2 tests and counts 3, but there were 2"
    assert "it says nothing of b-1, which is FAIL (timeout)" in found(tests=good["tests"][:1])
    assert "it says FAIL of 'c', which is test 2 of nobody" in found(tests=[good["tests"][0], {"id": "2-c", "status": "FAIL"}])
    assert "it lists 3 tests" in found(tests=[*good["tests"], good["tests"][1]])
    for tests in ("x", [7], [{"id": "a"}], [{"id": "99999999999-a"}], None):
        assert "cannot be used" in found(tests=tests)
    assert "cannot be used" in runner.disagreements(b"\xff", "j", cases, answers)[0]
    assert "cannot be used" in runner.disagreements(b"[" * 100_000, "j", cases, answers)[0]
