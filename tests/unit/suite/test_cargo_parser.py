# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What cargo test prints on standard output: recorded with Rust 1.95 (its stack trace left out), damaged, garbage."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parsing import judge, parse, results, verdict

SAMPLE = (Path(__file__).parent / "samples" / "cargo-1.95.txt").read_text()

GOOD = """\

running 3 tests
test t::a ... ok
test t::b - should panic ... ok
test t::c ... ignored, needs root

test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s

   Doc-tests c

running 1 test
test src/lib.rs - f (line 4) ... ok

test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.33s

all doctests ran in 0.33s; merged doctests compilation took 0.30s
"""

# cargo test -- --test-threads=1 --nocapture
NOCAPTURE = """\

running 4 tests
test t::bad ... hi
FAILED
test t::glued ... hiok
test t::ign ... ignored
test t::long ...
one
two
ok

failures:

failures:
    t::bad

test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.07s
"""


def test_recorded(runner: ModuleType) -> None:
    outcome = parse(runner, "cargo", SAMPLE, 101)
    assert results(outcome) == [
        ("t::ign", "skip"),
        ("t::ign2", "skip"),
        ("t::ok", "pass"),
        ("t::bad", "fail"),
        ("t::p - should panic", "pass"),
        ("it", "pass"),
        ("src/lib.rs - f (line 4)", "pass"),
        ("src/lib.rs - (line 1)", "pass"),
    ]
    assert outcome.tests[1]["directive"] == "needs root"
    assert (outcome.planned, outcome.errors) == (8, [])
    judged = judge(outcome, 101)
    assert judged["status"] == "failed"
    message = judged["tests"][3]["message"].split("\n")
    assert message[0] == "hi"
    assert "assertion `left == right` failed" in message
    assert verdict(runner, "cargo", SAMPLE, 0) == "error"


def test_what_a_failed_test_printed_is_no_test(runner: ModuleType) -> None:
    text = """\
running 2 tests
test a ... FAILED
test b ... FAILED

failures:

---- a stdout ----
test b ... ok
failures of a
---- b stdout ----
test result: none

failures:
    a
    b

test result: FAILED. 0 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s
"""
    judged = judge(parse(runner, "cargo", text, 101), 101)
    assert judged["status"] == "failed"
    assert [(test["name"], test["status"]) for test in judged["tests"]] == [("a", "fail"), ("b", "fail")]
    assert judged["tests"][0]["message"] == "test b ... ok\nfailures of a"
    assert judged["tests"][1]["message"] == "test result: none"


def test_what_tests_print_does_not_hide_their_results(runner: ModuleType) -> None:
    outcome = parse(runner, "cargo", NOCAPTURE, 101)
    assert results(outcome) == [("t::bad", "fail"), ("t::glued", "pass"), ("t::ign", "skip"), ("t::long", "pass")]
    assert outcome.tests[0]["message"] == "hi"
    assert judge(outcome, 101)["status"] == "failed"


def test_good_and_a_benchmark(runner: ModuleType) -> None:
    assert verdict(runner, "cargo", GOOD) == "passed"
    assert verdict(runner, "cargo", GOOD, 101) == "error"
    bench = "running 1 test\ntest b ... bench:       1,234 ns/iter (+/- 5)\n\n"
    bench += "test result: ok. 0 passed; 0 failed; 0 ignored; 1 measured; 0 filtered out; finished in 1.00s\n"
    assert verdict(runner, "cargo", bench) == "passed"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("running 3 tests", "running 4 tests"),
        ("running 3 tests", "running 2 tests"),
        ("running 3 tests\n", ""),
        ("test t::a ... ok\n", ""),
        ("test t::a ... ok", "test t::a ... FAILED"),
        ("test t::a ... ok", "test t::a ... "),
        ("test t::a ... ok", "test t::a ... okay"),
        ("test t::a ... ok", "test t::a ... ok\ntest t::a ... ok"),
        ("ok. 2 passed; 0 failed", "ok. 3 passed; 0 failed"),
        ("ok. 2 passed; 0 failed", "ok. 2 passed; 1 failed"),
        ("ok. 2 passed; 0 failed", "FAILED. 2 passed; 0 failed"),
        ("1 ignored", "0 ignored"),
        ("test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n", ""),
        ("test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.33s\n", ""),
        (GOOD, "running 0 tests\n\ntest result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.0s\n"),
        (GOOD, "running 2 tests\n..\ntest result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.0s\n"),
        (GOOD, "error[E0425]: cannot find value `x` in this scope\n"),
        (GOOD, ""),
    ],
)
def test_what_is_short_or_contradicts_itself_is_an_error(runner: ModuleType, old: str, new: str) -> None:
    assert old in GOOD
    assert verdict(runner, "cargo", GOOD.replace(old, new)) == "error"


@pytest.mark.parametrize(("timed_out", "status"), [(False, "error"), (True, "timeout")])
def test_what_ran_when_it_died_is_named(runner: ModuleType, timed_out: bool, status: str) -> None:
    outcome = parse(runner, "cargo", "running 3 tests\ntest a ... ok\ntest b ... ", timed_out=timed_out)
    assert results(outcome) == [("a", "pass"), ("b", status)]
    assert judge(outcome, None if timed_out else 101, timed_out=timed_out)["status"] == status


def test_names_may_repeat_and_lines_be_huge(runner: ModuleType) -> None:
    text = GOOD.replace("t::b - should panic", "t::a").replace("test t::c", "test " + "c" * 100_000)
    assert verdict(runner, "cargo", text) == "passed"


parts = st.sampled_from([*GOOD.splitlines(), "ok", "FAILED", "test x ... FAILED", "test x ... "])


@settings(max_examples=400, deadline=None)
@given(st.lists(st.one_of(parts, st.text(max_size=20), st.text("test .:ok", max_size=20)), max_size=20))
def test_no_pass_that_was_not_printed(runner: ModuleType, text: list[str]) -> None:
    outcome = parse(runner, "cargo", "\n".join(text), 0)
    passes = sum(status == "pass" for _name, status in results(outcome))
    assert passes <= sum(line.endswith("ok") for line in "\n".join(text).split("\n"))
    if judge(outcome, 0)["status"] == "passed":
        assert any(line.startswith("test result: ok.") for line in text)
        assert passes


@settings(max_examples=100, deadline=None)
@given(place=st.integers(0, 9), damage=st.sampled_from(["drop", "mix", "repeat", "cut"]))
def test_a_damaged_line_never_passes(runner: ModuleType, place: int, damage: str) -> None:
    lines = GOOD.splitlines()
    places = [index for index, line in enumerate(lines) if line.startswith(("running", "test t", "test src"))]
    index = places[place % len(places)]
    line = lines[index]
    replaced = {"drop": [], "mix": [f"x {line}"], "repeat": [line, line], "cut": [line[:8]]}
    lines[index : index + 1] = replaced[damage]
    assert verdict(runner, "cargo", "\n".join(lines)) == "error"
