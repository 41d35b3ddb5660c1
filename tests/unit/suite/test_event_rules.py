# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Events of suites of many tests, as the verdict reads and judges them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ansible_collections.mayfly.virt.plugins.module_utils import _events


def told(number: int, status: str = "pass", **more: Any) -> dict[str, Any]:
    return {
        "event": "test",
        "number": number,
        "name": f"t{number}",
        "status": status,
        "duration": 1,
        "directive": None,
        "message": "",
        **more,
    }


def judge(*events: dict[str, Any], planned: int = 1, exit_status: int = 0, timed_out: bool = False) -> dict[str, Any]:
    start = {"event": "suite_start", "suite": "smoke", "parser": "tests", "deadline": 60}
    plan = {"event": "plan", "count": planned, "reason": None}
    end = {"event": "suite_end", "exit_status": exit_status, "signal": None, "timed_out": timed_out, "duration": 1, "planned": planned}
    end.update(seen=sum(event["event"] == "test" for event in events), error=None)
    text = "".join(json.dumps({"time": 1, **event}) + "\n" for event in [start, plan, *events, end])
    return _events.judge_suite("smoke", "bookworm", text, "tests")


@pytest.mark.parametrize(
    ("directive", "status", "red"),
    [
        ("requires", "skipped", False),
        ("denied", "skipped", False),
        ("fail_fast", "failed", True),
        ("deadline", "failed", True),
        (None, "failed", True),
    ],
)
def test_whether_a_test_that_was_not_run_is_red(directive: str | None, status: str, red: bool) -> None:
    judged = judge(told(1, "not_run", directive=directive, message="why"), exit_status=int(red))
    assert (judged["status"], judged["errors"]) == (status, [])
    assert _events.is_red(judged["tests"][0]) is red
    assert _events.lost_tests(judged) == int(red)
    assert len(_events.failed_tests([judged])) == int(red)


def test_an_excuse_is_good_for_a_test_that_was_not_run_only() -> None:
    assert judge(told(1, "fail", directive="requires"), exit_status=1)["status"] == "failed"
    assert judge(told(1, "timeout", directive="denied"), exit_status=1)["status"] == "failed"


def test_excused_tests_beside_others() -> None:
    excused = told(2, "not_run", directive="requires", message="no tun")
    assert judge(told(1), excused, planned=2)["status"] == "passed"
    assert judge(told(1, "skip"), excused, planned=2)["status"] == "skipped"
    assert judge(told(1, "fail"), excused, planned=2, exit_status=1)["status"] == "failed"
    assert judge(told(1), excused, planned=2)["notes"] == ["1 tests not run: their needs are not met, or they are denied"]
    lost = judge(told(1), excused, planned=3)
    assert (lost["status"], _events.lost_tests(lost)) == ("error", 1)


def test_a_red_test_and_a_good_exit_status_of_the_runner_do_not_go_together_unnoticed() -> None:
    assert judge(told(1), exit_status=1)["status"] == "error"
    assert judge(told(1, "not_run", directive="requires"), exit_status=1)["status"] == "error"


def test_optional_fields_are_kept_where_they_say_something() -> None:
    attempts = [{"status": "fail", "duration": 1.5, "message": "got 3"}, {"status": "pass", "duration": 1, "message": ""}]
    judged = judge(told(1), told(2, "flaky", logs="tests/t2", attempts=attempts, leftovers=["7 sleep"]), planned=2)
    assert set(judged["tests"][0]) == {"number", "name", "status", "duration", "message", "directive"}
    assert {key: judged["tests"][1][key] for key in ("logs", "attempts", "leftovers")} == {
        "logs": "tests/t2",
        "attempts": attempts,
        "leftovers": ["7 sleep"],
    }
    assert judged["counts"]["flaky"] == 1


@pytest.mark.parametrize(
    "more",
    [
        {"logs": "../x"},
        {"logs": 7},
        {"attempts": {}},
        {"attempts": [7]},
        {"attempts": [{"status": "fine", "duration": 1, "message": ""}]},
        {"attempts": [{"status": "pass", "duration": -1, "message": ""}]},
        {"attempts": [{"status": "pass", "duration": 1, "message": "", "more": 1}]},
        {"attempts": [{"status": "pass", "duration": 1, "message": ""}] * 102},
        {"leftovers": "7 sleep"},
        {"leftovers": [7]},
        {"leftovers": ["x"] * 101},
        {"status": ["pass"]},
    ],
)
def test_fields_of_another_shape_make_the_event_unreadable(more: dict[str, Any]) -> None:
    assert judge(told(1, **more))["status"] == "error"


def test_details_are_added_to_their_test() -> None:
    detail = {"event": "detail", "number": 1, "message": "ValueError: x"}
    judged = judge(told(1, "fail", message="printed"), detail, {**detail, "message": "more"}, exit_status=1)
    assert judged["tests"][0]["message"] == "printed\nValueError: x\nmore"
    huge = judge(told(1, "fail"), *[{**detail, "message": "x" * 30_000}] * 20, exit_status=1)
    assert len(huge["tests"][0]["message"]) == _events.MESSAGE_LIMIT


def test_details_of_no_test_are_an_error() -> None:
    judged = judge(told(1), {"event": "detail", "number": 2, "message": "x"})
    assert judged["errors"] == ["details of test number 2, which was not reported"]


def test_an_attempt_alone_is_no_result() -> None:
    attempt = {"event": "attempt", "number": 1, "name": "t1", "attempt": 1, "status": "fail", "duration": 1, "message": ""}
    assert judge(attempt)["status"] == "error"
    assert judge(attempt, told(1, "flaky"))["status"] == "passed"
