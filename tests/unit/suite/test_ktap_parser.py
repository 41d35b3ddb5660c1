# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""KTAP in, events out: as kselftest and KUnit print it, damaged, and made of garbage."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parsing import judge, parse, results

KSELFTEST = """\
TAP version 13
1..4
# timeout set to 45
# selftests: net: reuseport_bpf
# TAP version 13
# not ok 1 inner
ok 1 selftests: net: reuseport_bpf
# timeout set to 45
# selftests: net: foo.sh
# SKIP: Need root privileges
ok 2 selftests: net: foo.sh # SKIP
# timeout set to 45
# selftests: net: bar.sh
# expected 3, got 4
not ok 3 selftests: net: bar.sh # exit=1
# timeout set to 45
# selftests: net: slow.sh
#
not ok 4 selftests: net: slow.sh # TIMEOUT 45 seconds
"""

KUNIT = """\
KTAP version 1
1..2
    KTAP version 1
    # Subtest: example
    # module: kunit_example_test
    1..3
    # example_simple_test: initializing
    ok 1 example_simple_test
    # example_skip_test: You should not see a line below.
    ok 2 example_skip_test # SKIP this test should be skipped
        KTAP version 1
        # Subtest: example_params_test
    # example_params_test: initializing
        ok 1 example value 3
        ok 2 example value 2
        # example_params_test: pass:2 fail:0 skip:0 total:2
        ok 3 example value 1 # SKIP unsupported
    ok 3 example_params_test
# example: pass:2 fail:0 skip:1 total:3
# Totals: pass:3 fail:0 skip:2 total:5
ok 1 example
  KTAP version 1
  # Subtest: second
  1..2
    # deep: EXPECTATION FAILED at lib/x.c:12
  not ok 1 deep
  ok 2 fine
not ok 2 second
"""

C_TEST = """\
TAP version 13
1..6
ok 1 opens
not ok 2 closes
ok 3 # SKIP no device
ok 4 flaky hardware # XFAIL known on x86
ok 5 # XPASS got better
not ok 6 # error mmap failed
# Totals: pass:1 fail:1 xfail:1 xpass:1 skip:1 error:1
"""


def test_kselftest(runner: ModuleType) -> None:
    outcome = parse(runner, "ktap", KSELFTEST)
    assert results(outcome) == [
        ("selftests: net: reuseport_bpf", "pass"),
        ("selftests: net: foo.sh", "skip"),
        ("selftests: net: bar.sh", "fail"),
        ("selftests: net: slow.sh", "timeout"),
    ]
    assert outcome.tests[2]["message"].splitlines()[-2:] == ["expected 3, got 4", "exit=1"]
    assert outcome.tests[3]["directive"] == "TIMEOUT 45 seconds"
    assert (outcome.planned, outcome.errors) == (4, [])
    assert judge(outcome, 0)["status"] == "failed"  # run_kselftest.sh says 0 whatever happens


def test_kunit_counts_the_leaves(runner: ModuleType) -> None:
    outcome = parse(runner, "ktap", KUNIT)
    assert results(outcome) == [
        ("example/example_simple_test", "pass"),
        ("example/example_skip_test", "skip"),
        ("example/example_params_test/example value 3", "pass"),
        ("example/example_params_test/example value 2", "pass"),
        ("example/example_params_test/example value 1", "skip"),
        ("second/deep", "fail"),
        ("second/fine", "pass"),
    ]
    assert "EXPECTATION FAILED at lib/x.c:12" in outcome.tests[5]["message"]
    assert (outcome.planned, outcome.errors) == (7, [])


def test_a_c_test_with_totals(runner: ModuleType) -> None:
    outcome = parse(runner, "ktap", C_TEST)
    assert [status for _name, status in results(outcome)] == ["pass", "fail", "skip", "known", "xpass", "error"]
    assert (outcome.planned, outcome.errors) == (6, [])
    lying = parse(runner, "ktap", C_TEST.replace(" fail:1", " fail:0"))
    assert lying.errors == ["the totals say fail 0, the lines 1"]


def test_several_collections_are_one_suite(runner: ModuleType) -> None:
    one = "TAP version 13\n1..2\nok 1 selftests: a: x\nok 2 selftests: a: y\n"
    outcome = parse(runner, "ktap", one + one)
    assert (outcome.planned, len(outcome.tests), outcome.errors) == (4, 4, [])
    assert judge(outcome, 0)["status"] == "passed"
    short = parse(runner, "ktap", one.replace("1..2", "1..3") + one)
    assert "1 of 5 planned tests are missing" in judge(short, 0)["errors"]


@pytest.mark.parametrize("text", ["ok 1 a\nok 2 b\n1..2\n", "KTAP version 1\nok 1 a\nok 2 b\n1..2\n", "1..2\nok 2 b\nok 1 a"])
def test_plan_last_and_order(runner: ModuleType, text: str) -> None:
    assert judge(parse(runner, "ktap", text), 0)["status"] == "passed"


def test_a_whole_that_is_skipped(runner: ModuleType) -> None:
    outcome = parse(runner, "ktap", "TAP version 13\n1..0 # SKIP no BTF here\n")
    assert outcome.events == [{"event": "plan", "count": 0, "reason": "no BTF here"}]
    assert judge(outcome, 0)["status"] == "skipped"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "KTAP version 1\n",
        "ok 1 a",
        "1..2\nok 1 a",
        "1..1\nok 1 a\nok 2 b",
        "1..2\nok 1 a\nok 1 a",
        "1..2\nok 1 a\nok 3 a",
        "ok 1 a\nok 2 b\n1..1",
        "1..1\n1..1\nok 1 a",
        "1..1\nok 0 a",
        "1..0\n",
        "1..1\nok 1 a\nTAP version 13\nok 1 a",
        "1..1\n  KTAP version 1\n  1..2\n  ok 1 a\nok 1 p",
        "1..1\n  KTAP version 1\n  1..1\n  not ok 1 a\nok 1 p",
        "1..1\n  KTAP version 1\n  1..1\n  ok 1 a\n",
        "1..1\n  KTAP version 1\n  ok 2 a\nok 1 p",
        "1..1\n  KTAP version 1\n  1..0\nok 1 p",
        "1..1\n  KTAP version 1\n  1..1\n    KTAP version 1\n    1..1\n    ok 1 a\nok 1 p",
        "1..1\n  KTAP version 1\n  1..1\n  ok 1 a\n  KTAP version 1\n  1..1\n  ok 1 b\nok 1 p",
        "1..1\nok 1 a\nBail out! gone",
        "1..2\nok 1 a\n[   12.3] x ok 2 b",
        "1..2\nok 1 a\n  ok 2 b",
    ],
)
def test_what_is_short_or_contradicts_itself_is_an_error(runner: ModuleType, text: str) -> None:
    assert judge(parse(runner, "ktap", text), 0)["status"] == "error"


def test_exit_status_without_a_failed_test(runner: ModuleType) -> None:
    assert judge(parse(runner, "ktap", "1..1\nok 1 a"), 1)["status"] == "error"


def test_a_failed_parent_whose_subtests_passed_is_a_test(runner: ModuleType) -> None:
    outcome = parse(runner, "ktap", "1..1\n  KTAP version 1\n  1..1\n  ok 1 a\n# exit failed: -5\nnot ok 1 p")
    assert results(outcome) == [("a", "pass"), ("p", "fail")]
    assert outcome.tests[1]["message"] == "exit failed: -5"
    assert judge(outcome, 1)["status"] == "failed"


def test_the_deadline_is_no_contradiction(runner: ModuleType) -> None:
    outcome = parse(runner, "ktap", "1..3\n  KTAP version 1\n  1..4\n  ok 1 a\n", timed_out=True)
    assert (outcome.planned, outcome.errors) == (7, [])
    assert judge(outcome, None, timed_out=True)["status"] == "timeout"


def test_a_huge_line_is_bounded(runner: ModuleType) -> None:
    outcome = parse(runner, "ktap", "1..1\n# " + "x" * 100_000 + "\nnot ok 1 " + "y" * 100_000)
    assert len(outcome.tests[0]["name"]) == runner.NAME_LIMIT
    assert len(outcome.tests[0]["message"]) <= runner.MESSAGE_LIMIT + 10


parts = st.sampled_from(
    [
        "ok 1 a",
        "ok 2 b",
        "not ok 1 c",
        "not ok",
        "1..1",
        "1..2",
        "1..0 # SKIP x",
        "KTAP version 1",
        "# Subtest: s",
        "# SKIP",
        " # XFAIL",
        "x",
    ]
)
lines = st.tuples(st.sampled_from(["", "", "  ", "    "]), st.one_of(parts, st.text(max_size=20))).map("".join)


@settings(max_examples=400, deadline=None)
@given(st.lists(lines, max_size=20))
def test_no_pass_that_was_not_printed(runner: ModuleType, text: list[str]) -> None:
    joined = "\n".join(text)
    outcome = parse(runner, "ktap", joined)
    passes = sum(status == "pass" for _name, status in results(outcome))
    assert passes <= sum(line.lstrip(" ").startswith("ok") for line in joined.split("\n"))
    if judge(outcome, 0)["status"] == "passed":
        assert passes or any(status in ("known", "xpass") for _name, status in results(outcome))


@settings(max_examples=200, deadline=None)
@given(place=st.integers(0, 24), damage=st.sampled_from(["drop", "mix", "repeat", "fail"]))
def test_a_damaged_line_never_passes(runner: ModuleType, place: int, damage: str) -> None:
    whole = KUNIT.replace("not ok", "ok").splitlines()
    assert judge(parse(runner, "ktap", "\n".join(whole)), 0)["status"] == "passed"
    places = [index for index, line in enumerate(whole) if line.lstrip().startswith("ok")]
    index = places[place % len(places)]
    line = whole[index]
    bare = line.lstrip()
    replaced = {"drop": [], "mix": [f"x{line}"], "repeat": [line, line], "fail": [line.replace(bare, f"not {bare.split('#')[0]}")]}
    whole[index : index + 1] = replaced[damage]
    judged = judge(parse(runner, "ktap", "\n".join(whole)), 0)["status"]
    # Parametrised tests have no plan: the loss of their last line cannot be noticed.
    unplanned = damage in ("drop", "mix") and "example value 1" in line
    assert judged in (("passed",) if unplanned else ("failed", "error"))


def test_recorded_kselftest(runner: ModuleType) -> None:
    """run_kselftest.sh of Linux 6.1 on three collections. It ended with 0 though two of its tests failed."""
    text = (Path(__file__).parent / "samples" / "kselftest-6.1.txt").read_text()
    outcome = parse(runner, "ktap", text, exit_status=0)
    assert results(outcome) == [
        ("selftests: size: get_size", "fail"),
        ("selftests: clone3: clone3_clear_sighand", "pass"),
        ("selftests: pidfd: pidfd_open_test", "pass"),
        ("selftests: pidfd: pidfd_fdinfo_test", "pass"),
        ("selftests: pidfd: no_such_test", "fail"),
    ]
    assert outcome.errors == []
    assert "Warning: file no_such_test is missing!" in outcome.tests[-1]["message"]
    assert judge(outcome, 0)["status"] == "failed"
