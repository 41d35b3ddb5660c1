# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""GoogleTest, recorded with 1.12 and written by hand, and bpftrace's runtime tests (of 0.17), which print like it."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parsing import judge, parse, results, verdict

GTEST = """\
Running main() from gtest_main.cc
[==========] Running 4 tests from 2 test suites.
[----------] Global test environment set-up.
[----------] 3 tests from Ring
[ RUN      ] Ring.Opens
[       OK ] Ring.Opens (0 ms)
[ RUN      ] Ring.Closes
ring_test.cc:12: Failure
Expected equality of these values:
  1
  2
[  FAILED  ] Ring.Closes (1 ms)
[ RUN      ] Ring.Maps
ring_test.cc:20: Skipped
no huge pages
[  SKIPPED ] Ring.Maps (0 ms)
[----------] 3 tests from Ring (1 ms total)

[----------] 1 test from Sizes/Param
[ RUN      ] Sizes/Param.Fits/0
no newline here[  FAILED  ] Sizes/Param.Fits/0, where GetParam() = 3 (0 ms)
[----------] 1 test from Sizes/Param (0 ms total)

[----------] Global test environment tear-down
[==========] 4 tests from 2 test suites ran. (2 ms total)
[  PASSED  ] 1 test.
[  SKIPPED ] 1 test, listed below:
[  SKIPPED ] Ring.Maps
[  FAILED  ] 2 tests, listed below:
[  FAILED  ] Ring.Closes
[  FAILED  ] Sizes/Param.Fits/0, where GetParam() = 3

 2 FAILED TESTS
  YOU HAVE 1 DISABLED TEST
"""

GOOD = """\
[==========] Running 2 tests from 1 test suite.
[----------] 2 tests from Ring
[ RUN      ] Ring.Opens
[       OK ] Ring.Opens (0 ms)
[ RUN      ] Ring.Closes
[       OK ] Ring.Closes (0 ms)
[----------] 2 tests from Ring (0 ms total)
[==========] 2 tests from 1 test suite ran. (0 ms total)
[  PASSED  ] 2 tests.
"""

BPFTRACE = """\
[==========] Running 5 tests from 2 test cases.

[----------] 3 tests from basic
[ RUN      ] basic.it prints
[       OK ] basic.it prints
[   SKIP   ] basic.needs a newer kernel
[ RUN      ] basic.it fails
[  FAILED  ] basic.it fails
\tCommand: bpftrace -e 'BEGIN { exit(); }'
\tExpected: SUCCESS
\tFound: __BPFTRACE_NOTIFY_PROBES_ATTACHED\\n
[----------] 3 tests from basic

[----------] 2 tests from usdt
[ RUN      ] usdt.lists
[   SKIP   ] usdt.lists
[ RUN      ] usdt.hangs
[  TIMEOUT ] usdt.hangs
\tCommand: bpftrace -p 1
\tTimeout: 5
\tCurrent output: Attaching 1 probe...
second line
[----------] 2 tests from usdt

[==========] 3 tests from 2 test cases ran. (12.25 total)
[  PASSED  ] 1 tests.
[   SKIP   ] 2 tests, listed below:
[   SKIP   ] basic.needs a newer kernel (min Kernel: 9.9)
[   SKIP   ] usdt.lists (unmet condition: 'false')
[  FAILED  ] 2 tests, listed below:
[  FAILED  ] basic.it fails
[  FAILED  ] usdt.hangs
"""


def test_gtest(runner: ModuleType) -> None:
    outcome = parse(runner, "gtest", GTEST, 1)
    assert results(outcome) == [
        ("Ring.Opens", "pass"),
        ("Ring.Closes", "fail"),
        ("Ring.Maps", "skip"),
        ("Sizes/Param.Fits/0", "fail"),
    ]
    assert outcome.tests[1]["message"].startswith("ring_test.cc:12: Failure\nExpected equality")
    assert outcome.tests[3]["message"].startswith("no newline here\nwhere GetParam() = 3")
    assert (outcome.planned, outcome.errors) == (4, [])
    assert judge(outcome, 1)["status"] == "failed"


def test_bpftrace(runner: ModuleType) -> None:
    outcome = parse(runner, "bpftrace", BPFTRACE, 1)
    assert results(outcome) == [
        ("basic.it prints", "pass"),
        ("basic.needs a newer kernel", "skip"),
        ("basic.it fails", "fail"),
        ("usdt.lists", "skip"),
        ("usdt.hangs", "timeout"),
    ]
    assert "\tExpected: SUCCESS" in outcome.tests[2]["message"]
    assert outcome.tests[4]["message"].endswith("second line")
    assert (outcome.planned, outcome.errors) == (5, [])
    assert judge(outcome, 1)["status"] == "failed"


def test_a_failed_test_of_bpftrace_settles(runner: ModuleType) -> None:
    parser = runner.BpftraceParser("smoke", 0.0)
    for line in BPFTRACE.splitlines()[:7]:
        parser.feed(line, 1.0)
    assert parser.settle_at() is None
    assert parser.feed("[  FAILED  ] basic.it fails", 2.0) == []
    assert parser.settle_at() == 2.0 + runner.OTHER_SETTLES
    assert [event["name"] for event in parser.settle()] == ["basic.it fails"]
    assert parser.settle_at() is None


@pytest.mark.parametrize("name", ["gtest", "bpftrace"])
def test_colours_and_several_programs(runner: ModuleType, name: str) -> None:
    coloured = re.sub(r"^(\[.{10}\])", "\x1b[0;32m\\1\x1b[m", GOOD, flags=re.MULTILINE)
    outcome = parse(runner, name, coloured + GOOD, 0)
    assert (outcome.planned, outcome.seen, outcome.errors) == (4, 4, [])
    assert judge(outcome, 0)["status"] == "passed"


@pytest.mark.parametrize("name", ["gtest", "bpftrace"])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Running 2 tests", "Running 3 tests"),
        ("Running 2 tests", "Running 1 test"),
        ("[==========] Running 2 tests from 1 test suite.\n", ""),
        ("2 tests from 1 test suite ran", "3 tests from 1 test suite ran"),
        ("[==========] 2 tests from 1 test suite ran. (0 ms total)\n[  PASSED  ] 2 tests.\n", ""),
        ("[  PASSED  ] 2 tests.", "[  PASSED  ] 1 test."),
        ("[  PASSED  ] 2 tests.", "[  PASSED  ] 2 tests.\n[  FAILED  ] 1 test, listed below:"),
        ("[       OK ] Ring.Closes (0 ms)\n", ""),
        ("[       OK ] Ring.Closes", "[       OK ] Ring.Closed"),
        ("[       OK ] Ring.Closes", "[  FAILED  ] Ring.Closes"),
        ("[ RUN      ] Ring.Closes", ""),
        ("[ RUN      ] Ring.Closes", "[       OK ] Ring.Opens (0 ms)"),
        (GOOD, "[==========] Running 0 tests from 0 test suites.\n[==========] 0 tests from 0 test suites ran. (0 ms total)\n"),
        (GOOD, ""),
        (GOOD, "Segmentation fault"),
    ],
)
def test_what_is_short_or_contradicts_itself_is_an_error(runner: ModuleType, name: str, old: str, new: str) -> None:
    assert verdict(runner, name, GOOD) == "passed"
    assert old in GOOD
    assert verdict(runner, name, GOOD.replace(old, new)) == "error"


@pytest.mark.parametrize(("name", "text"), [("gtest", GTEST), ("bpftrace", BPFTRACE)])
def test_the_exit_status_must_fit(runner: ModuleType, name: str, text: str) -> None:
    assert verdict(runner, name, text, 0) == "error"
    assert verdict(runner, name, GOOD, 1) == "error"


@pytest.mark.parametrize(("timed_out", "status"), [(False, "error"), (True, "timeout")])
def test_what_ran_when_the_program_died_is_named(runner: ModuleType, timed_out: bool, status: str) -> None:
    text = "\n".join(GOOD.splitlines()[:5])
    outcome = parse(runner, "gtest", text, timed_out=timed_out)
    assert results(outcome)[-1] == ("Ring.Closes", status)
    assert judge(outcome, None if timed_out else 139, timed_out=timed_out)["status"] == status


def test_names_may_repeat_and_lines_be_huge(runner: ModuleType) -> None:
    text = GOOD.replace("Ring.Closes", "Ring.Opens").replace("[ RUN", "x" * 100_000 + "\n[ RUN")
    assert verdict(runner, "gtest", text) == "passed"


def test_a_result_outside_of_a_program_is_an_error(runner: ModuleType) -> None:
    assert verdict(runner, "gtest", "[       OK ] Ring.Opens (0 ms)\n" + GOOD) == "error"
    assert verdict(runner, "gtest", GOOD + "[       OK ] Ring.Opens (0 ms)\n") == "error"


parts = st.sampled_from([*GOOD.splitlines(), "[  FAILED  ] Ring.Opens (0 ms)", "[   SKIP   ] x.y", "\tFound: x", ""])


@pytest.mark.parametrize("name", ["gtest", "bpftrace"])
@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(parts, st.text(max_size=20)), max_size=20))
def test_no_pass_that_was_not_printed(runner: ModuleType, name: str, text: list[str]) -> None:
    outcome = parse(runner, name, "\n".join(text), 0)
    passes = sum(status == "pass" for _name, status in results(outcome))
    assert passes <= sum("[       OK ]" in line for line in text)
    if judge(outcome, 0)["status"] == "passed":
        assert passes == sum("[       OK ]" in line for line in text if not line.startswith("[  FAILED"))


@pytest.mark.parametrize("name", ["gtest", "bpftrace"])
@settings(max_examples=100, deadline=None)
@given(place=st.integers(0, 3), damage=st.sampled_from(["drop", "mix", "repeat", "cut"]))
def test_a_damaged_line_never_passes(runner: ModuleType, name: str, place: int, damage: str) -> None:
    lines = GOOD.splitlines()
    index = [2, 3, 4, 5][place]
    line = lines[index]
    replaced = {"drop": [], "mix": [f"x {line[4:]}"], "repeat": [line, line], "cut": [line[:20]]}
    lines[index : index + 1] = replaced[damage]
    assert verdict(runner, name, "\n".join(lines)) == "error"


def recorded(name: str) -> str:
    return (Path(__file__).parent / "samples" / name).read_text()


def test_recorded(runner: ModuleType) -> None:
    outcome = parse(runner, "gtest", recorded("gtest-1.12.txt"), exit_status=1)
    assert results(outcome) == [
        ("Ring.Opens", "pass"),
        ("Ring.Closes", "fail"),
        ("Ring.Maps", "skip"),
        ("Last.Aborts", "pass"),
        ("Param/Sizes.Fits/0", "pass"),
        ("Param/Sizes.Fits/1", "fail"),
    ]
    assert outcome.errors == []
    assert "two descriptors stay" in outcome.tests[1]["message"]
    assert "and the map" in outcome.tests[1]["message"]


def test_recorded_abort(runner: ModuleType) -> None:
    """The program called abort() in its fourth of six tests, and said nothing more."""
    outcome = parse(runner, "gtest", recorded("gtest-1.12-abort.txt"), exit_status=134)
    assert results(outcome)[-1] == ("Last.Aborts", "error")
    assert outcome.planned == 6
    assert outcome.errors == ["a test program ended without its summary"]


def test_recorded_bpftrace(runner: ModuleType) -> None:
    outcome = parse(runner, "bpftrace", recorded("bpftrace-0.17.txt"), exit_status=1)
    assert results(outcome) == [
        ("ring.counts wrong", "fail"),
        ("ring.hangs", "timeout"),
        ("ring.needs a tracepoint", "skip"),
        ("ring.prints", "pass"),
        ("zlast.prints", "pass"),
    ]
    assert outcome.errors == []
    assert "Expected: three" in outcome.tests[0]["message"]
    assert judge(outcome, 1)["status"] == "failed"
