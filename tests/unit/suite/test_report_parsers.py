# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Results in files: JUnit XML (recorded with pytest; gotestsum's dialect) and Avocado's results.json (recorded with 108)."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parsing import Outcome, judge, results

PYTEST = (Path(__file__).parent / "samples" / "pytest.xml").read_bytes()

GOTESTSUM = b"""\
<?xml version="1.0" encoding="UTF-8"?>
<testsuites tests="3" failures="1" errors="0" time="0.012">
\t<testsuite tests="3" failures="1" time="0.004000" name="example.org/m" timestamp="2026-11-21T13:37:57Z">
\t\t<properties><property name="go.version" value="go1.24 linux/amd64"></property></properties>
\t\t<testcase classname="example.org/m" name="TestA" time="0.000000"></testcase>
\t\t<testcase classname="example.org/m" name="TestB/sub" time="0.010000">
\t\t\t<failure message="Failed" type="">=== RUN   TestB/sub&#xA;    m_test.go:7: got 3</failure>
\t\t</testcase>
\t\t<testcase classname="example.org/m" name="TestC" time="0.000000"><skipped message="needs root"></skipped></testcase>
\t</testsuite>
</testsuites>
"""

GOOD = b"""\
<testsuite name="s" tests="2" failures="0" errors="0" skipped="1">
  <testcase name="a"/><testcase name="b"><skipped/></testcase>
</testsuite>"""

AVOCADO: dict[str, Any] = {
    "job_id": "1f2e",
    "total": 4,
    "pass": 1,
    "failures": 1,
    "errors": 0,
    "skip": 1,
    "cancel": 0,
    "warn": 0,
    "interrupt": 1,
    "tests": [
        {"id": "1-a.t", "name": "1-a.t", "status": "PASS", "time_elapsed": 0.5, "fail_reason": None},
        {"id": "2-b.t", "name": "2-b.t", "status": "FAIL", "time_elapsed": 1.5, "fail_reason": "not ok 2"},
        {"id": "3-c.t", "name": "3-c.t", "status": "SKIP", "time_elapsed": 0, "fail_reason": "no kvm"},
        {"id": "4-d.t", "name": "4-d.t", "status": "INTERRUPTED", "time_elapsed": 9, "fail_reason": "Test interrupted: Timeout reached"},
    ],
}


def read(runner: ModuleType, name: str, report: bytes | None, exit_status: int | None = 0, *, timed_out: bool = False) -> Outcome:
    parser = runner.PARSERS[name]("smoke", 0.0)
    assert parser.feed("ok 1 this is no TAP", 1.0) == []
    events = parser.begin() + parser.finish(runner.End(exit_status=exit_status, timed_out=timed_out, report=report))
    return Outcome(name, events, parser.planned, parser.seen, parser.errors)


def verdict(runner: ModuleType, name: str, report: bytes | None, exit_status: int = 0) -> str:
    status: str = judge(read(runner, name, report, exit_status), exit_status)["status"]
    return status


def test_pytest(runner: ModuleType) -> None:
    outcome = read(runner, "junit", PYTEST, 1)
    assert results(outcome) == [
        ("test_py.test_a", "pass"),
        ("test_py.test_b", "fail"),
        ("test_py.test_c", "skip"),
        ("test_py.test_d", "known"),
        ("test_py.test_e[1]", "pass"),
        ("test_py.test_e[2]", "pass"),
        ("test_py.test_f", "fail"),
        ("test_py.test_f", "error"),
        ("test_py.test_g", "error"),
    ]
    assert outcome.tests[1]["message"].startswith("assert 1 == 2\n>   def test_b")
    assert outcome.tests[2]["directive"] == "skipped why"
    assert (outcome.planned, outcome.errors) == (9, [])
    assert judge(outcome, 1)["status"] == "failed"
    assert verdict(runner, "junit", PYTEST, 0) == "error"


def test_gotestsum(runner: ModuleType) -> None:
    outcome = read(runner, "junit", GOTESTSUM, 1)
    assert results(outcome) == [("example.org/m.TestA", "pass"), ("example.org/m.TestB/sub", "fail"), ("example.org/m.TestC", "skip")]
    assert "m_test.go:7: got 3" in outcome.tests[1]["message"]
    assert outcome.tests[1]["duration"] == 0.01
    assert judge(outcome, 1)["status"] == "failed"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'tests="2"', b'tests="3"'),
        (b'tests="2"', b'tests="1"'),
        (b'tests="2"', b'tests="two"'),
        (b'failures="0"', b'failures="1"'),
        (b'errors="0"', b'errors="1"'),
        (b'skipped="1"', b'skipped="0"'),
        (b'<testcase name="a"/>', b""),
        (b'<testcase name="a"/>', b'<testcase name="a"><failure/></testcase>'),
        (b"</testsuite>", b""),
        (b"<testsuite ", b'<!DOCTYPE x [<!ENTITY a "b">]><testsuite '),
        (b"<testsuite ", b'<!DOCTYPE x SYSTEM "file:///etc/passwd"><testsuite '),
        (b"<testsuite ", b"<!--" + b"x" * 5000 + b"--><testsuite "),
        (b'<testcase name="a"/>', b'<testcase name="a">&undefined;</testcase>'),
        (b'<testcase name="a"/>', b"<testsuite>" * 60 + b'<testcase name="a"/>' + b"</testsuite>" * 60),
        (GOOD, b"<html></html>"),
        (GOOD, b"<testsuites/>"),
        (GOOD, b'<testsuite tests="0"/>'),
        (GOOD, b""),
        (GOOD, b"ok 1 - this is TAP"),
    ],
)
def test_junit_that_is_short_or_contradicts_itself_is_an_error(runner: ModuleType, old: bytes, new: bytes) -> None:
    assert verdict(runner, "junit", GOOD) == "passed"
    assert old in GOOD
    assert verdict(runner, "junit", GOOD.replace(old, new)) == "error"


def test_a_document_type_in_another_encoding_is_refused_too(runner: ModuleType) -> None:
    text = '<?xml version="1.0" encoding="UTF-16"?><!DOCTYPE x [<!ENTITY a "b">]><testsuite tests="1"><testcase name="&a;"/></testsuite>'
    outcome = read(runner, "junit", text.encode("utf-16"))
    assert "document type" in outcome.errors[0]
    assert outcome.tests == []


def test_avocado(runner: ModuleType) -> None:
    outcome = read(runner, "avocado", json.dumps(AVOCADO).encode(), 9)
    assert results(outcome) == [("1-a.t", "pass"), ("2-b.t", "fail"), ("3-c.t", "skip"), ("4-d.t", "timeout")]
    assert outcome.tests[1]["message"] == "not ok 2"
    assert (outcome.planned, outcome.errors) == (4, [])
    assert judge(outcome, 9)["status"] == "failed"
    assert verdict(runner, "avocado", json.dumps(AVOCADO).encode(), 0) == "error"


@pytest.mark.parametrize(
    "change",
    [
        {"total": 5},
        {"total": 3},
        {"total": None},
        {"total": True},
        {"pass": 2},
        {"failures": 0},
        {"skip": 0},
        {"tests": []},
        {"tests": None},
        {"tests": [1]},
    ],
)
def test_avocado_that_contradicts_itself_is_an_error(runner: ModuleType, change: dict[str, Any]) -> None:
    assert verdict(runner, "avocado", json.dumps({**AVOCADO, **change}).encode(), 1) == "error"


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"[" * 100_000, b"\xff", b'{"tests": [], "total": 0}'])
def test_avocado_garbage(runner: ModuleType, text: bytes) -> None:
    assert verdict(runner, "avocado", text) == "error"


@pytest.mark.parametrize("name", ["junit", "avocado"])
def test_no_report(runner: ModuleType, name: str) -> None:
    assert verdict(runner, name, None) == "error"
    assert judge(read(runner, name, None, None, timed_out=True), None, timed_out=True)["status"] == "timeout"


# --- the file ---------------------------------------------------------------------------------------------------


def error_of(program: Any, command: str) -> str | None:
    error: str | None = program.run(command, parser="junit", report="out.xml")[-1]["error"]
    return error


def test_the_runner_reads_what_the_suite_wrote(program: Any) -> None:
    (program.directory / "out.xml").write_text("<old/>")
    (program.directory / "new.xml").write_bytes(GOOD)
    events = program.run("cat new.xml > out.xml", parser="junit", report="out.xml")
    assert [event["status"] for event in events if event["event"] == "test"] == ["pass", "skip"]
    assert (events[-1]["planned"], events[-1]["error"]) == (2, None)


@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("true", "was there before the suite"),
        ("rm out.xml", "No such file"),
        ("rm out.xml; mkfifo out.xml", "no plain file"),
        ("truncate -s 17M out.xml", "more than 16777216 bytes"),
    ],
)
def test_a_report_that_is_not_this_runs_is_an_error(program: Any, command: str, error: str) -> None:
    (program.directory / "out.xml").write_bytes(GOOD)
    assert error in str(error_of(program, command))


@pytest.mark.parametrize(("parser", "report"), [("junit", None), ("tap", "out.xml")])
def test_report_and_parser_belong_together(runner: ModuleType, parser: str, report: str | None) -> None:
    spec = {"suite": "s", "command": "true", "parser": parser, "deadline": 1, "report": report}
    with pytest.raises(runner.RunnerError, match="needs 'report'"):
        runner.read_spec(json.dumps(spec))


# --- fuzz -------------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(place=st.integers(0, len(GOOD) - 1), data=st.binary(max_size=4), length=st.integers(0, 30))
def test_damaged_junit_never_gains_a_pass(runner: ModuleType, place: int, data: bytes, length: int) -> None:
    outcome = read(runner, "junit", GOOD[:place] + data + GOOD[place + length :])
    assert sum(status == "pass" for _name, status in results(outcome)) <= 2
    assert outcome.planned is None or outcome.planned >= outcome.seen


@settings(max_examples=300, deadline=None)
@given(place=st.integers(0, len(GOOD) - 1))
def test_cut_junit_is_an_error(runner: ModuleType, place: int) -> None:
    assert verdict(runner, "junit", GOOD[:place]) == "error"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3)
)


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["name", "id", "status", "fail_reason", "time_elapsed"]), json_values),
    st.sampled_from([*AVOCADO, "x"]),
    json_values,
)
def test_strange_avocado(runner: ModuleType, test: dict[str, Any], key: str, value: Any) -> None:
    report = {**AVOCADO, "tests": [*AVOCADO["tests"][:3], test], key: value}
    outcome = read(runner, "avocado", json.dumps(report).encode())
    assert judge(outcome, 0)["status"] == "error"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["junit", "avocado"]))
def test_garbage(runner: ModuleType, data: bytes, name: str) -> None:
    assert verdict(runner, name, data) == "error"


def test_recorded_avocado(runner: ModuleType) -> None:
    """A job with one test of each outcome; avocado ended with 9."""
    recorded = (Path(__file__).parent / "samples" / "avocado-108.json").read_bytes()
    outcome = read(runner, "avocado", recorded, 9)
    assert results(outcome) == [
        ("ring.py:Ring.test_opens", "pass"),
        ("ring.py:Ring.test_closes", "fail"),
        ("ring.py:Ring.test_maps", "error"),
        ("ring.py:Ring.test_shrinks", "skip"),
        ("ring.py:Ring.test_moves", "skip"),
        ("ring.py:Ring.test_grows", "pass"),
        ("./good.sh", "pass"),
        ("hang.py:Hang.test_hangs", "timeout"),
    ]
    assert outcome.errors == []
    assert outcome.tests[1]["message"] == "1 != 2 : two descriptors stay"
    assert verdict(runner, "avocado", recorded, 0) == "error", "the lines say more than the exit status"
