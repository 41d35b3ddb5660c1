# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What people and CI systems read: JUnit and the summary."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from ansible_collections.mayfly.virt.plugins.module_utils import _events, _junit, _summary

SCHEMA = Path(__file__).resolve().parents[3] / "extensions" / "schemas" / "verdict.schema.json"
Sound = Callable[[dict[str, Any]], None]


def junit(verdict: dict[str, Any]) -> ElementTree.Element:
    return ElementTree.fromstring(_junit.to_junit(verdict))


def test_junit_cases(story: Any) -> None:
    story.fail(1, "  Failed test 'a'\n  got: 3")
    story.smoke[3].update(status="skip", directive="SKIP no kvm")
    story.smoke[4].update(status="known", directive="TODO later")
    root = junit(story.verdict())
    suite = root.find("testsuite[@name='smoke@bookworm']")
    assert {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped", "time")} == {
        "tests": "3",
        "failures": "1",
        "errors": "0",
        "skipped": "2",
        "time": "0.300",
    }
    cases = {case.get("name"): case for case in suite}
    assert cases["test 1"].find("failure").get("message") == "got: 3"
    assert cases["test 1"].find("failure").text == "  Failed test 'a'\n  got: 3"
    assert cases["test 2"].find("skipped").get("message") == "SKIP no kvm"
    assert cases["test 3"].find("skipped").get("message") == "TODO later"
    assert root.find("testsuite[@name='run']/testcase/failure") is not None


def test_junit_names_are_unique(story: Any) -> None:
    """GitLab keeps the first of two cases with one name."""
    for event in story.smoke[2:5]:
        event["name"] = "" if event["number"] == 3 else "same"
    names = [case.get("name") for case in junit(story.verdict()).iter("testcase")]
    assert names == ["same [1]", "same [2]", "[3]", "verdict"]


def test_junit_survives_what_xml_forbids(story: Any, sound: Sound) -> None:
    story.fail(1, "nul \x00 bell \x07 escape \x1b[31m end ]]> <&\"' \ufffe \U0001f41e")
    story.smoke[2]["name"] = "\x00\x01<b>&amp;"
    verdict = story.verdict()
    sound(verdict)
    text = junit(verdict).find(".//failure").text
    assert text == "nul \ufffd bell \ufffd escape \ufffd[31m end ]]> <&\"' \ufffd \U0001f41e"


def test_junit_messages_are_bounded(story: Any) -> None:
    story.fail(1, "x" * 1_000_000)
    assert len(_junit.to_junit(story.verdict())) < 80_000


def test_junit_has_a_case_for_each_error_of_a_suite(story: Any) -> None:
    story.end.update(exit_status=3)
    case = junit(story.verdict()).find("testsuite[@name='smoke@bookworm']/testcase[@name='suite result [1]']")
    assert "exit status 3" in case.find("error").get("message")


def test_junit_has_a_case_for_kernel_trouble(story: Any) -> None:
    story.consoles["bookworm"] += "[    1.000000] Oops: 0002 [#1]\n"
    case = junit(story.verdict()).find("testsuite[@name='kernel@bookworm']/testcase")
    assert (case.get("name"), case.find("failure").get("type")) == ("console line 3", "kernel")


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("", ""),
        (None, ""),
        ("got 3", "got 3"),
        ("\n\n  # got 3\nmore", "got 3"),
        ("  Failed test 'x'\n  at t/a.t line 3.\n         got: '1'\n    expected: '2'", "got: '1'"),
        ("---\nmessage: no address\n...", "message: no address"),
        ("Failed test 'x'", "Failed test 'x'"),
    ],
)
def test_the_first_line_that_says_something(message: str | None, expected: str) -> None:
    assert _events.first_diagnostic(message) == expected


def test_summary_of_a_failed_run(story: Any) -> None:
    story.fail(2, "  Failed test 'opens'\n  at t/a.t line 3.\n  got: 3")
    story.smoke[3]["name"] = "opens the connection"
    assert _summary.to_summary(story.verdict()) == (
        "FAILED  run 20261121-024300-1f2e  job smoke  1 of 3 tests failed  29.0 s\n"
        "\n"
        "Failed tests\n"
        "  smoke@bookworm  2 opens the connection  FAIL\n"
        "      got: 3\n"
        "\n"
        "Reasons\n"
        "  smoke@bookworm: 1 of 3 tests failed\n"
        "\n"
        "  suite  guest     result  pass  fail  skip  other   time\n"
        "  smoke  bookworm  FAILED     2     1     0      0  0.3 s\n"
        "\n"
        "Phases    prepare 9.0 s, run 9.0 s, collect 9.0 s\n"
        "Guests    bookworm (debian-12, 6.1.0-32, kvm)\n"
        "Evidence  report.html, verdict.json, junit.xml, suites/<suite>/<guest>/, guests/<guest>/\n"
    )


def test_summary_of_a_bad_day_fits_and_shows_the_worst(story: Any, sound: Sound) -> None:
    story.job["guests"] = [{"name": f"guest-{number}"} for number in range(30)]
    story.job["suites"] = [{"name": f"suite-{number}"} for number in range(10)]
    story.events.clear()
    for suite in story.job["suites"]:
        for guest in story.job["guests"]:
            events = story.good_events(suite["name"])
            if guest["name"] == "guest-29":
                events[2].update(status="fail", message="long \x1b[31m" * 200)
            story.events[suite["name"], guest["name"]] = events
    story.consoles = {f"guest-{number}": "[    1.000000] Oops: 1\n" * 3 for number in range(20)}
    story.phases[3].update(status="failed", error="two\nlines " + "x" * 500)
    verdict = story.verdict()
    sound(verdict)
    text = _summary.to_summary(verdict)
    assert text.startswith("ERROR  run ")
    assert "10 of 900 tests failed" in text.split("\n")[0]
    assert "suite-0@guest-29  1 test 1  FAIL" in text
    assert "and 3 more in verdict.json" in text
    # Bad suites come first in the table, although they are the last guest's.
    table = text[text.index("  suite ") :].split("\n")[1]
    assert table.split()[:3] == ["suite-0", "guest-29", "FAILED"]


def test_facts_are_passed_on(story: Any, sound: Sound) -> None:
    story.facts["bookworm"] = json.dumps({"uname": "6.1.0"})
    verdict = story.verdict()
    sound(verdict)
    assert verdict["guests"][0]["facts"] == {"uname": "6.1.0"}
    story.facts["bookworm"] = "{"
    verdict = story.verdict()
    sound(verdict)
    assert "unreadable" in verdict["guests"][0]["facts"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda v: v.pop("policy"),
        lambda v: v.update(more=1),
        lambda v: v.update(exit_code=1),
        lambda v: v["reasons"].append("why"),
        lambda v: v["policy"]["fail_on"].append("new_failures_only"),
        lambda v: v["known_issues"].append({"id": "x"}),
        lambda v: v.update(baseline={}),
        lambda v: v["suites"][0].update(errors=["why"]),
        lambda v: v["suites"][0]["tests"][0].update(status="passed"),
        lambda v: v["suites"][0]["tests"][0].update(clue={"file": "x", "line": 0, "text": ""}),
        lambda v: v["suites"][0]["tests"][0].update(attempts=[{"status": "passed"}]),
        lambda v: v["suites"][0]["tests"][0].update(known_issue=None),
    ],
)
def test_the_schema_refuses_what_no_verdict_is(story: Any, spoil: Callable[[dict[str, Any]], Any]) -> None:
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))
    verdict = story.verdict()
    assert validator.is_valid(verdict)
    spoil(verdict)
    assert not validator.is_valid(verdict)
