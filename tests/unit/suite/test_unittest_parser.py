# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What python3 -m unittest -v prints: recorded with Python 3.10 and 3.11 (tracebacks left out), 3.9 and 3.13; damaged, garbage."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parsing import judge, parse, results, verdict

SAMPLES = Path(__file__).parent / "samples"

GOOD = """\
test_a (good.A.test_a) ... x
ok
test_b (good.A.test_b)
It has a docstring. ... ok
test_c (good.A.test_c) ... skipped 'w'
test_d (good.A.test_d) ... glued ok

----------------------------------------------------------------------
Ran 4 tests in 0.000s

OK (skipped=1)
"""

COMMON = [
    ("test_rec.A.test_doc", "pass"),
    ("test_rec.A.test_err", "error"),
    ("test_rec.A.test_fail", "fail"),
    ("test_rec.A.test_known", "known"),
    ("test_rec.A.test_noise", "pass"),
    ("test_rec.A.test_noise_open", "pass"),
    ("test_rec.A.test_ok", "pass"),
    ("test_rec.A.test_skip", "skip"),
    ("test_rec.A.test_subok", "pass"),
    ("test_rec.A.test_surprise", "fail"),
    ("outside of a test", "error"),
    ("test_rec.D.test_one", "skip"),
    ("test_rec.T.test_failtd", "fail"),
    ("test_rec.T.test_td", "error"),
]


@pytest.mark.parametrize("version", ["3.10", "3.11"])
def test_recorded(runner: ModuleType, version: str) -> None:
    outcome = parse(runner, "unittest", (SAMPLES / f"unittest-{version}.txt").read_text(), 1)
    found = results(outcome)
    assert [result for result in COMMON if result not in found] == []
    assert ("test_rec.A.test_sub (i=1)", "fail") in found
    assert sum(status == "pass" for _name, status in found) == 5
    assert sum(status == "skip" for _name, status in found) == 6
    assert outcome.errors == []
    assert outcome.planned == outcome.seen == 20
    assert judge(outcome, 1)["status"] == "failed"
    assert judge(parse(runner, "unittest", (SAMPLES / f"unittest-{version}.txt").read_text(), 0), 0)["status"] == "error"


@pytest.mark.parametrize("version", ["3.9", "3.13"])
def test_what_is_told_at_the_end_belongs_to_its_test(runner: ModuleType, version: str) -> None:
    outcome = parse(runner, "unittest", (SAMPLES / f"unittest-details-{version}.txt").read_text(), 1)
    judged = judge(outcome, 1)
    assert (judged["status"], judged["errors"]) == ("failed", [])
    red = [(test["name"].removeprefix("test_rec."), test["message"].split("\n")) for test in judged["tests"] if test["status"] != "pass"]
    unnamed = "outside of a test" if version == "3.9" else None
    assert sorted((name, lines[0]) for name, lines in red) == sorted(
        [
            ("A.test_a", "AssertionError: 1 != 2 : why"),
            ("A.test_asub (i=1)", "AssertionError: 1 == 1"),
            ("A.test_b", "ValueError: x"),
            ("A.test_zdoc", "AssertionError: doc"),
            ("T.test_t", "AssertionError: both"),
            (unnamed or "T.test_t", "OSError: down"),
            (unnamed or "Z.setUpClass", "RuntimeError: no class"),
        ]
    )
    messages = dict(red)
    assert messages["A.test_b"][1] == "Traceback (most recent call last):"
    assert messages["A.test_b"][-1] == "second line"
    assert messages["A.test_zdoc"][-1] == "AssertionError: doc"


def test_a_test_that_prints_what_looks_like_details_hides_no_test(runner: ModuleType) -> None:
    rule = "=" * 70
    text = GOOD.replace("test_b (good.A.test_b)\n", f"{rule}\nFAIL: test_a (good.A.test_a)\ntest_b (good.A.test_b)\n")
    assert verdict(runner, "unittest", text) == "error"


def test_details_have_a_bound(runner: ModuleType) -> None:
    head = f"test_a (g.A.test_a) ... FAIL\n\n{'=' * 70}\nFAIL: test_a (g.A.test_a)\n{'-' * 70}\n"
    outcome = parse(runner, "unittest", head + ("x" * 9000 + "\n") * 500 + "Ran 1 test in 0.1s\n\nFAILED (failures=1)\n", 1)
    (detail,) = [event for event in outcome.events if event["event"] == "detail"]
    assert len(detail["message"]) < 33_000
    assert judge(outcome, 1)["status"] == "failed"


def test_good(runner: ModuleType) -> None:
    outcome = parse(runner, "unittest", GOOD, 0)
    assert [status for _name, status in results(outcome)] == ["pass", "pass", "skip", "pass"]
    assert (outcome.planned, outcome.errors) == (4, [])
    assert judge(outcome, 0)["status"] == "passed"
    assert verdict(runner, "unittest", GOOD + GOOD) == "passed"
    assert verdict(runner, "unittest", GOOD, 1) == "error"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Ran 4 tests", "Ran 5 tests"),
        ("Ran 4 tests", "Ran 3 tests"),
        ("Ran 4 tests in 0.000s\n", ""),
        ("OK (skipped=1)", ""),
        ("OK (skipped=1)", "OK"),
        ("OK (skipped=1)", "FAILED (skipped=1)"),
        ("OK (skipped=1)", "FAILED (failures=1, skipped=1)"),
        ("OK (skipped=1)", "OK (skipped=1, expected failures=1)"),
        ("glued ok", "glued"),
        ("x\nok\n", "x\nFAIL\n"),
        ("x\nok\n", "x\nERROR\n"),
        ("x\nok\n", ""),
        ("test_b (good.A.test_b)\n", ""),
        ("test_c (good.A.test_c) ... skipped 'w'\n", ""),
        (GOOD, ""),
        (GOOD, "test_a (good.A.test_a) ... ok\n"),
        (GOOD, "\n----\nRan 0 tests in 0.000s\n\nOK\n"),
        (GOOD, "\n----\nRan 0 tests in 0.000s\n\nNO TESTS RAN\n"),
        (GOOD, "Traceback (most recent call last):\nModuleNotFoundError: No module named 'x'\n"),
    ],
)
def test_what_is_short_or_contradicts_itself_is_an_error(runner: ModuleType, old: str, new: str) -> None:
    assert old in GOOD
    assert verdict(runner, "unittest", GOOD.replace(old, new)) == "error"


def test_names_may_repeat(runner: ModuleType) -> None:
    text = GOOD.replace("test_d (good.A.test_d) ... glued ok", "test_c (good.A.test_c) ... ok")
    assert verdict(runner, "unittest", text) == "passed"
    bad = "test_c (g.A.test_c) ... FAIL\n" * 2 + "Ran 2 tests in 0.1s\n\nFAILED (failures=2)\n"
    assert verdict(runner, "unittest", bad, 1) == "failed"
    assert verdict(runner, "unittest", bad.replace("Ran 2", "Ran 1"), 1) == "failed"  # the second time in tearDown


def test_hostile_lines_take_no_time(runner: ModuleType) -> None:
    chain = "a (b.C) ... " * 5000
    skips = "x (b.C) ... y" + "skipped '" * 7000
    outcome = parse(runner, "unittest", f"{chain}\n{skips}\n{skips}", 0)
    assert outcome.errors


@pytest.mark.parametrize(("timed_out", "status"), [(False, "error"), (True, "timeout")])
def test_what_ran_when_it_died_is_named(runner: ModuleType, timed_out: bool, status: str) -> None:
    outcome = parse(runner, "unittest", "test_a (g.A.test_a) ... ok\ntest_b (g.A.test_b) ... ", timed_out=timed_out)
    assert results(outcome) == [("g.A.test_a", "pass"), ("g.A.test_b", status)]
    assert judge(outcome, None if timed_out else 139, timed_out=timed_out)["status"] == status


def test_it_is_read_from_standard_error(program: Any) -> None:
    (program.directory / "test_it.py").write_text(
        "import unittest\nclass A(unittest.TestCase):\n    def test_a(self): print('ok')\n    def test_b(self): self.skipTest('w')\n"
    )
    events = program.run("python3 -m unittest -v test_it", parser="unittest")
    assert [event["status"] for event in events if event["event"] == "test"] == ["pass", "skip"]
    assert (events[-1]["planned"], events[-1]["seen"], events[-1]["error"]) == (2, 2, None)


parts = st.sampled_from([*GOOD.splitlines(), "FAIL", "ERROR", "OK", "test_d (good.A.test_d) ... FAIL", "FAIL: test_d (good.A.test_d)"])
lines = st.one_of(parts, st.text(max_size=20), st.text("abc() .okFAIL:", max_size=20))


@settings(max_examples=400, deadline=None)
@given(st.lists(lines, max_size=20))
def test_no_pass_that_was_not_printed(runner: ModuleType, text: list[str]) -> None:
    outcome = parse(runner, "unittest", "\n".join(text), 0)
    passes = sum(status == "pass" for _name, status in results(outcome))
    assert passes <= sum(line.endswith("ok") for line in "\n".join(text).split("\n"))
    if judge(outcome, 0)["status"] == "passed":
        assert any(line.startswith("Ran ") for line in text)
        assert not any(status in ("fail", "error") for _name, status in results(outcome))


@settings(max_examples=100, deadline=None)
@given(place=st.integers(0, 5), damage=st.sampled_from(["drop", "mix", "repeat", "cut"]))
def test_a_damaged_line_never_passes(runner: ModuleType, place: int, damage: str) -> None:
    lines = [
        "test_a (g.A.test_a) ... ok",
        "test_b (g.A) ... ok",
        "test_c (g.A.c) ... skipped 'w'",
        "Ran 3 tests in 0.1s",
        "",
        "OK (skipped=1)",
    ]
    assert verdict(runner, "unittest", "\n".join(lines)) == "passed"
    index = 0 if place == 4 else place
    line = lines[index]
    if damage == "repeat" and index > 2:
        return  # a summary said twice is no contradiction
    replaced = {"drop": [], "mix": [f"[1.2] {line[6:]}"], "repeat": [line, line], "cut": [line[:8]]}
    if damage == "cut" and index == 5:
        replaced["cut"] = [line[:1]]
    lines[index : index + 1] = replaced[damage]
    assert verdict(runner, "unittest", "\n".join(lines)) == "error"
