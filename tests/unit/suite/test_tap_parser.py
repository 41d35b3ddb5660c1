# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""TAP in, events out: what the specifications say, what programs really print, and what garbage must not become."""

from __future__ import annotations

import json
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.mayfly.virt.plugins.module_utils import _events


def parse(runner: ModuleType, text: str) -> tuple[list[dict[str, Any]], Any]:
    """Feed lines one second apart; return the events and the parser."""
    parser = runner.TapParser("smoke", 0.0)
    events = parser.begin()
    for second, line in enumerate(text.split("\n"), start=1):
        events += parser.feed(line, float(second))
    return events + parser.finish(runner.End()), parser


def results_of(runner: ModuleType, text: str) -> list[tuple[int, str, str]]:
    events, _parser = parse(runner, text)
    return [(event["number"], event["name"], event["status"]) for event in events if event["event"] == "test"]


def message_of(runner: ModuleType, text: str, number: int) -> str:
    events, _parser = parse(runner, text)
    return next(event["message"] for event in events if event["event"] == "test" and event["number"] == number)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ok", (1, "", "pass")),
        ("not ok", (1, "", "fail")),
        ("ok 7", (7, "", "pass")),
        ("ok 7 a name", (7, "a name", "pass")),
        ("ok 7 - a name", (7, "a name", "pass")),
        ("ok - a name", (1, "a name", "pass")),
        ("ok 7 - - a name", (7, "- a name", "pass")),
        ("ok 2 - 7 is prime", (2, "7 is prime", "pass")),
        ("ok 12abc", (1, "12abc", "pass")),
        ("not ok 7 - a name", (7, "a name", "fail")),
        ("ok 1 - a # SKIP no luck", (1, "a", "skip")),
        ("ok 1 - a # skip", (1, "a", "skip")),
        ("ok 1 # Skipped: no luck", (1, "", "skip")),
        ("ok 1 - # SKIP no luck", (1, "", "skip")),
        ("not ok 1 - a # SKIP no luck", (1, "a", "skip")),
        ("not ok 1 - a # TODO later", (1, "a", "known")),
        ("not ok 1 - a #todo", (1, "a", "known")),
        ("not ok 1 - a # TODO: later", (1, "a", "known")),
        ("ok 1 - a # TODO later", (1, "a", "xpass")),
        ("not ok 1 - issue #TODOLIST", (1, "issue #TODOLIST", "fail")),
        ("not ok 1 - tag#todo", (1, "tag#todo", "fail")),
        (r"not ok 1 - has a \# TODO in it", (1, "has a # TODO in it", "fail")),
        (r"ok 1 - back\\slash and \#", (1, r"back\slash and #", "pass")),
        ("ok 1 - see bug # 12 # SKIP gone", (1, "see bug # 12", "skip")),
        ("ok 1 - t\u00fcr \u2713", (1, "t\u00fcr \u2713", "pass")),
    ],
)
def test_a_test_line(runner: ModuleType, line: str, expected: tuple[int, str, str]) -> None:
    assert results_of(runner, line) == [expected]


@pytest.mark.parametrize(
    "line",
    [
        "okay then",
        "ok: this is a log line",
        "ok-1",
        "OK 1",
        "Not ok 1",
        "not  ok 1",
        "notok 1",
        " ok 1",
        "\tok 1",
        "[   12.345678] foook 1 - mixed into a kernel message",
        "# ok 1",
        "1..",
        "1..x",
        "2..4",
        "1..3 tests",
        "TAP version 14",
        "pragma +strict",
        "",
    ],
)
def test_what_is_no_test_and_no_plan(runner: ModuleType, line: str) -> None:
    events, parser = parse(runner, line)
    assert events == []
    assert (parser.planned, parser.seen) == (None, 0)


def test_plan_at_the_start_and_durations(runner: ModuleType) -> None:
    events, parser = parse(runner, "TAP version 13\n1..2\nok 1 - a\n\n\nok 2 - b")
    assert events[0] == {"event": "plan", "count": 2, "reason": None}
    assert [event["duration"] for event in events[1:]] == [3.0, 3.0]
    assert (parser.planned, parser.seen, parser.errors) == (2, 2, [])


def test_plan_at_the_end(runner: ModuleType) -> None:
    events, parser = parse(runner, "ok 1\nok 2\n1..2")
    assert [event["event"] for event in events] == ["test", "test", "plan"]
    assert parser.errors == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("1..0 # SKIP no kvm here", "no kvm here"),
        ("1..0 # Skipped: no kvm here", "no kvm here"),
        ("1..0 # no kvm here", "no kvm here"),
        ("1..0", None),
        ("1..0 # skip", None),
    ],
)
def test_a_whole_that_is_skipped(runner: ModuleType, line: str, reason: str | None) -> None:
    events, _parser = parse(runner, line)
    assert events == [{"event": "plan", "count": 0, "reason": reason}]


def test_tests_after_a_plan_at_the_end_are_reported(runner: ModuleType) -> None:
    events, parser = parse(runner, "ok 1\n1..1\nok 2")
    assert sum(event["event"] == "test" for event in events) == 2
    assert "came after a plan" in parser.errors[0]


def test_a_second_plan_is_reported_and_does_not_count(runner: ModuleType) -> None:
    _events, parser = parse(runner, "1..3\nok 1\n1..1")
    assert parser.planned == 3
    assert "a second plan" in parser.errors[0]


def test_numbers_are_kept_as_printed(runner: ModuleType) -> None:
    text = "1..3\nok 3\nok 1\nok 1\nok 9\nok"
    assert [number for number, _name, _status in results_of(runner, text)] == [3, 1, 1, 9, 5]


def test_bail_out_comes_after_the_test_before_it(runner: ModuleType) -> None:
    events, _parser = parse(runner, "1..3\nok 1\nBail out! The database is gone.\nok 2")
    assert [event["event"] for event in events] == ["plan", "test", "bail_out", "test"]
    assert events[2]["reason"] == "The database is gone."


def test_bail_out_in_a_subtest_and_in_other_letters(runner: ModuleType) -> None:
    events, _parser = parse(runner, "    bail OUT! deep")
    assert events == [{"event": "bail_out", "reason": "deep"}]


def test_yaml_is_the_message_and_cannot_hide_tests(runner: ModuleType) -> None:
    text = "1..3\nnot ok 1 - a\n  ---\n  message: no address\n  data:\n    got: 3\n\n  ok: 2\n  ...\nok 2 - b\nok 3"
    assert message_of(runner, text, 1) == "message: no address\ndata:\n  got: 3\n\nok: 2"
    assert len(results_of(runner, text)) == 3


def test_yaml_without_end_is_reported_and_swallows_nothing(runner: ModuleType) -> None:
    events, parser = parse(runner, "1..2\nok 1\n  ---\n  a: 1\nnot ok 2 - hidden?")
    assert [event["status"] for event in events if event["event"] == "test"] == ["pass", "fail"]
    assert parser.errors == ["the YAML block of test 1 has no end"]
    _events, parser = parse(runner, "1..1\nok 1\n  ---\n  a: 1")
    assert parser.errors == ["the YAML block of test 1 has no end"]


def test_comments_after_a_failure_are_its_message(runner: ModuleType) -> None:
    text = "1..2\nnot ok 1 - sum\n#   Failed test 'sum'\n#          got: '1'\n# Subtest: next\nok 2 - next"
    assert message_of(runner, text, 1) == "  Failed test 'sum'\n         got: '1'"
    assert message_of(runner, text, 2) == ""


def test_ktap_explains_before_it_fails(runner: ModuleType) -> None:
    text = "KTAP version 1\n1..2\n# probing\nok 1 a\n# expected 3, got 4\nnot ok 2 b # exit=1"
    assert message_of(runner, text, 2) == "expected 3, got 4"
    assert message_of(runner, text, 1) == ""


def test_a_subtest_is_the_business_of_its_parent(runner: ModuleType) -> None:
    text = (
        "1..2\n# Subtest: first\n    ok 1 - fine\n    not ok 2 - deep\n    # got 3\n    ok 3 - fine\n    1..3\n"
        "not ok 1 - first\n    not ok 1 - known # TODO later\n    1..1\nok 2 - second"
    )
    assert results_of(runner, text) == [(1, "first", "fail"), (2, "second", "pass")]
    assert message_of(runner, text, 1) == "not ok 2 - deep\n# got 3"
    assert message_of(runner, text, 2) == ""


def test_a_failed_subtest_whose_parent_never_came_is_reported(runner: ModuleType) -> None:
    _events, parser = parse(runner, "1..1\nok 1\n    not ok 1 - deep")
    assert "parent never came: not ok 1 - deep" in parser.errors[0]


def test_perl_test_more_with_merged_errors(runner: ModuleType) -> None:
    """As printed by: prove --merge (Test::More 1.3)."""
    text = (
        "ok 1 - opens the connection\n"
        "not ok 2 - lists the domains\n"
        "#   Failed test 'lists the domains'\n"
        "#   at t/010-list.t line 12.\n"
        "#          got: '1'\n"
        "#     expected: '2'\n"
        "ok 3 # skip no network\n"
        "not ok 4 - migrates # TODO needs two hosts\n"
        "#   Failed (TODO) test 'migrates'\n"
        "#   at t/010-list.t line 20.\n"
        "1..4\n"
        "# Looks like you failed 1 test of 4.\n"
    )
    statuses = [status for _number, _name, status in results_of(runner, text)]
    assert statuses == ["pass", "fail", "skip", "known"]
    assert "expected: '2'" in message_of(runner, text, 2)


def test_kselftest_with_prefixed_subtests(runner: ModuleType) -> None:
    """As printed by: run_kselftest.sh, where the inner TAP is commented."""
    text = (
        "TAP version 13\n1..2\n# selftests: bpf: test_verifier\n# TAP version 13\n# ok 1 inner\n# not ok 2 inner\n"
        "not ok 1 selftests: bpf: test_verifier # exit=1\n# selftests: bpf: test_tag\n# ok 1 inner\n"
        "ok 2 selftests: bpf: test_tag"
    )
    assert [status for _number, _name, status in results_of(runner, text)] == ["fail", "pass"]
    assert message_of(runner, text, 1) == "selftests: bpf: test_verifier\nTAP version 13\nok 1 inner\nnot ok 2 inner"


def test_a_test_settles_after_silence(runner: ModuleType) -> None:
    parser = runner.TapParser("smoke", 0.0)
    assert parser.settle_at() is None
    parser.feed("ok 1", 5.0)
    assert parser.settle_at() == 5.0 + runner.PASS_SETTLES
    assert [event["number"] for event in parser.settle()] == [1]
    assert parser.settle() == []
    parser.feed("not ok 2", 6.0)
    assert parser.settle_at() == 6.0 + runner.OTHER_SETTLES
    parser.feed("  ---", 6.0)
    assert parser.settle_at() is None


def test_messages_are_bounded(runner: ModuleType) -> None:
    text = "not ok 1\n" + "# noise\n" * 100_000
    assert len(message_of(runner, text, 1)) <= runner.MESSAGE_LIMIT + 10
    text = "not ok 1\n  ---\n" + "  noise\n" * 10_000 + "  ..."
    assert len(message_of(runner, text, 1).splitlines()) <= runner.MESSAGE_LINES


# --- fuzz -------------------------------------------------------------------------------------------------------

fragments = st.sampled_from(
    ["ok", "not ok", " 1", " 2", " -", " # SKIP", " # TODO x", "    ", "  ---", "  ...", "1..2", "Bail out!", "\\", "#", "\t", "x"]
)
lines = st.one_of(st.lists(fragments, max_size=5).map("".join), st.text(max_size=30).map(lambda text: text.replace("\n", " ")))


@settings(max_examples=400, deadline=None)
@given(st.lists(lines, max_size=30))
def test_no_pass_that_was_not_printed(runner: ModuleType, text: list[str]) -> None:
    """Whatever comes: no crash, and at most one pass for each line that begins with ok."""
    events, parser = parse(runner, "\n".join(text))
    printed = [line for line in text if line.startswith("ok") and (len(line) == 2 or line[2].isspace())]
    passes = [event for event in events if event["event"] == "test" and event["status"] == "pass"]
    assert len(passes) <= len(printed)
    assert parser.seen == sum(event["event"] == "test" for event in events)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.text("abk [.0123]o", min_size=1, max_size=5), lines), max_size=20))
def test_a_line_with_something_in_front_is_no_test(runner: ModuleType, text: list[tuple[str, str]]) -> None:
    mixed = [f"x{noise}{line}" for noise, line in text]
    assert results_of(runner, "\n".join(mixed)) == []


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.lists(st.text("abc #[]:", max_size=20).map(lambda text: f"log {text}"), max_size=3)), max_size=20)
)
def test_noise_between_the_lines_changes_no_result(runner: ModuleType, plan: list[tuple[bool, list[str]]]) -> None:
    text = [f"1..{len(plan)}"]
    for number, (good, noise) in enumerate(plan, start=1):
        text += [f"{'' if good else 'not '}ok {number}", *noise]
    assert [status == "pass" for _number, _name, status in results_of(runner, "\n".join(text))] == [good for good, _noise in plan]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.lists(st.integers(1, 40), max_size=10))
def test_bytes_make_the_same_lines_however_they_are_cut(
    runner: ModuleType, tmp_path_factory: pytest.TempPathFactory, data: bytes, cuts: list[int]
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.log"
    whole = runner.Capture(None, 1000)
    expected = whole.feed(data) + whole.close()
    path.unlink(missing_ok=True)
    capture, found, rest = runner.Capture(path, 1000), [], data
    for cut in cuts:
        found += capture.feed(rest[:cut])
        rest = rest[cut:]
    found += capture.feed(rest) + capture.close()
    assert found == expected
    assert (path.read_bytes() if data else b"") == data  # the file is made with its first byte


@settings(max_examples=300, deadline=None)
@given(
    count=st.integers(1, 8),
    damage=st.sampled_from(["drop", "mix", "repeat", "fail", "indent"]),
    place=st.integers(0, 7),
    plan_first=st.booleans(),
)
def test_a_damaged_stream_never_makes_a_passed_suite(runner: ModuleType, count: int, damage: str, place: int, plan_first: bool) -> None:
    """Parser and verdict together: one line damaged in any way, and the suite is not passed."""
    lines = [f"ok {number} - test" for number in range(1, count + 1)]
    index = place % count
    line = lines[index]
    replaced = {"drop": [], "mix": [f"[ 1.2] x{line}"], "repeat": [line, line], "fail": [f"not {line}"], "indent": [f"    {line}"]}
    lines[index : index + 1] = replaced[damage]
    lines.insert(0 if plan_first else len(lines), f"1..{count}")
    events, parser = parse(runner, "\n".join(lines))
    start = {"event": "suite_start", "suite": "smoke", "parser": "tap", "deadline": 60}
    end = {"event": "suite_end", "exit_status": 0, "signal": None, "timed_out": False, "duration": 1}
    end.update(planned=parser.planned, seen=parser.seen, error="; ".join(parser.errors) or None)
    text = "".join(json.dumps({"time": 1, **event}) + "\n" for event in [start, *events, end])
    judged = _events.judge_suite("smoke", "bookworm", text, "tap")
    assert judged["status"] == ("failed" if damage == "fail" else "error")
