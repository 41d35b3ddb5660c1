# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What holds for every parser: garbage is survived and never passes, and what is left of a good output has not passed for less."""

from __future__ import annotations

from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parsing import Outcome, judge

# Two tests each, and all that the tool prints when they have passed.
GOOD = {
    "tap": "TAP version 14\n1..2\n    # Subtest: opens\n    ok 1 - once\n    1..1\nok 1 - opens\nok 2 - closes\n",
    "ktap": "KTAP version 1\n1..2\nok 1 opens\n    KTAP version 1\n    1..1\n    ok 1 once\nok 2 closes\n",
    "gtest": """\
[==========] Running 2 tests from 1 test suite.
[----------] 2 tests from Ring
[ RUN      ] Ring.Opens
[       OK ] Ring.Opens (0 ms)
[ RUN      ] Ring.Closes
[       OK ] Ring.Closes (0 ms)
[----------] 2 tests from Ring (0 ms total)
[==========] 2 tests from 1 test suite ran. (0 ms total)
[  PASSED  ] 2 tests.
""",
    "bpftrace": """\
[==========] Running 2 tests from 1 test cases.
[----------] 2 tests from call
[ RUN      ] call.printf
[       OK ] call.printf
[ RUN      ] call.system
[       OK ] call.system
[----------] 2 tests from call
[==========] 2 tests from 1 test cases ran. (1.0 s total)
[  PASSED  ] 2 tests.
""",
    "unittest": """\
test_closes (ring.Ring) ... ok
test_opens (ring.Ring) ... ok

----------------------------------------------------------------------
Ran 2 tests in 0.000s

OK
""",
    "cargo": """\
running 2 tests
test closes ... ok
test opens ... ok

test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
""",
    "test_progs": "#1/1     ring/opens:OK\n#1       ring:OK\n#2       map:OK\nSummary: 2/1 PASSED, 0 SKIPPED, 0 FAILED\n",
    "junit": """\
<?xml version="1.0"?>
<testsuites><testsuite name="ring" tests="2" failures="0" errors="0">
<testcase classname="ring" name="opens" time="0.1"/>
<testcase classname="ring" name="closes" time="0.1"/>
</testsuite></testsuites>
""",
    "avocado": """\
{"total": 2, "pass": 2, "failures": 0, "errors": 0,
"tests": [{"name": "opens", "status": "PASS"},
{"name": "closes", "status": "PASS"}
]}
""",
    "exit_code": "whatever\nit prints\n",
}
# What a passed test cannot do without.
MARKS = {"gtest": "OK", "bpftrace": "OK", "test_progs": ":OK", "junit": "<testcase", "avocado": "status"}
READERS = sorted(set(GOOD) - {"exit_code"})  # the one that reads nothing passes whatever is printed


def read(runner: ModuleType, name: str, text: str, exit_status: int = 0) -> Outcome:
    parser = runner.PARSERS[name]("smoke", 0.0)
    report = text.encode("utf-8", "replace") if name in runner.REPORTS else None
    events = parser.begin()
    for second, line in enumerate([] if report is not None else text.split("\n"), start=1):
        events += parser.feed(line, float(second))
    events += parser.finish(runner.End(exit_status=exit_status, report=report))
    return Outcome(name, events, parser.planned, parser.seen, parser.errors)


def passed(outcome: Outcome, exit_status: int = 0) -> bool:
    return bool(judge(outcome, exit_status)["status"] == "passed")


def check_no_less(runner: ModuleType, name: str, text: str) -> None:
    """A damaged output that passes has no fewer tests than the good one. It may have more: noise can be a result, well formed."""
    outcome = read(runner, name, text)
    if passed(outcome):
        assert len(outcome.tests) >= len(read(runner, name, GOOD[name]).tests)


def test_each_parser_is_here(runner: ModuleType) -> None:
    assert set(GOOD) == set(runner.PARSERS)


@pytest.mark.parametrize("name", sorted(GOOD))
def test_a_good_output_passes(runner: ModuleType, name: str) -> None:
    assert passed(read(runner, name, GOOD[name]))


@pytest.mark.parametrize("name", sorted(GOOD))
def test_a_good_output_with_a_bad_end_does_not(runner: ModuleType, name: str) -> None:
    assert not passed(read(runner, name, GOOD[name], 255), 255)


@pytest.mark.parametrize("name", READERS)
def test_cut_off_anywhere_it_has_not_passed_for_less(runner: ModuleType, name: str) -> None:
    assert not passed(read(runner, name, ""))
    for end in range(len(GOOD[name])):
        check_no_less(runner, name, GOOD[name][:end])


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_without_some_of_its_lines_it_has_not_passed_for_less(runner: ModuleType, name: str, data: st.DataObject) -> None:
    lines = GOOD[name].splitlines(keepends=True)
    kept = data.draw(st.lists(st.sampled_from(range(len(lines))), max_size=len(lines) + 3))
    check_no_less(runner, name, "".join(lines[index] for index in kept))


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=150, deadline=None)
@given(place=st.integers(0, 1000), noise=st.one_of(st.text(max_size=40), st.sampled_from("".join(GOOD.values()).splitlines())))
def test_with_noise_in_it_it_has_not_passed_for_less(runner: ModuleType, name: str, place: int, noise: str) -> None:
    good = GOOD[name]
    place %= len(good)
    check_no_less(runner, name, good[:place] + noise + good[place:])


fragments = st.sampled_from([part for text in GOOD.values() for line in text.splitlines() for part in (line, *line.split(" "), " ", "\n")])


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.text(max_size=200), st.binary(max_size=200).map(lambda data: data.decode("utf-8", "replace")), st.lists(fragments).map("".join)
    )
)
def test_garbage_is_survived_and_passes_nothing_that_is_not_in_it(runner: ModuleType, name: str, text: str) -> None:
    outcome = read(runner, name, text)
    passes = [test for test in outcome.tests if test["status"] == "pass"]
    assert len(passes) <= text.count(MARKS.get(name, "ok"))
    assert passes or not passed(outcome)
    assert outcome.seen == len(outcome.tests)
