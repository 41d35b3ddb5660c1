# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""junit.xml as its readers take it: GitLab's parser, Surefire's order of elements, the attributes Jenkins' xUnit plugin allows."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from ansible_collections.mayfly.virt.plugins.module_utils import _events, _junit

Sound = Callable[[dict[str, Any]], None]

# Surefire's sequence in a testcase; what may stand several times is in the second.
ORDER = ["failure", "rerunFailure", "flakyFailure", "skipped", "error", "rerunError", "flakyError", "system-out", "system-err"]
SEVERAL = {"failure", "rerunFailure", "flakyFailure", "rerunError", "flakyError"}
# What Jenkins' xUnit plugin allows.
ATTRIBUTES = {
    "testsuites": {"name", "time", "tests", "failures", "errors"},
    "testsuite": {"name", "tests", "failures", "errors", "group", "time", "skipped", "timestamp", "hostname", "id", "package"},
    "testcase": {"name", "time", "classname", "group"},
    "failure": {"type", "message"},
    "error": {"type", "message"},
    "skipped": {"type", "message"},
    "flakyFailure": {"type", "message"},
    "rerunError": {"type", "message"},
    "rerunFailure": {"type", "message"},
    "stackTrace": set(),
    "system-out": set(),
}


def gitlab(document: bytes) -> dict[tuple[str, str], tuple[str, str, str | None]]:
    """A double of GitLab's parser: status, shown text and attachment by classname and name, the first of each."""
    cases: dict[tuple[str, str], tuple[str, str, str | None]] = {}
    for case in ElementTree.fromstring(document).iter("testcase"):
        out = case.findtext("system-out") or ""
        found = next((name for name in ("failure", "error", "skipped") if case.find(name) is not None), None)
        attachment = out.partition("[[ATTACHMENT|")[2].partition("]]")[0] or None
        shown = "" if found is None else case.findtext(found) or ""
        key = (case.get("classname", ""), case.get("name", ""))
        cases.setdefault(key, (found or "success", shown, attachment if found in ("failure", "error") else None))
    return cases


def checked(verdict: dict[str, Any], prefix: str | None = None) -> bytes:
    """Write the document and check what holds for each."""
    document = _junit.to_junit(verdict, prefix)
    root = ElementTree.fromstring(document)
    for element in root.iter():
        assert set(element.keys()) <= ATTRIBUTES[element.tag], element.tag
    for case in root.iter("testcase"):
        names = [child.tag for child in case]
        assert names == sorted(names, key=ORDER.index)
        assert all(names.count(name) == 1 for name in set(names) - SEVERAL)
    keys = [(case.get("classname"), case.get("name")) for case in root.iter("testcase")]
    assert len(keys) == len(set(keys))
    schema = os.environ.get("MAYFLY_JUNIT_XSD")  # a copy of a reader's schema, when somebody has one at hand
    if schema:
        etree.XMLSchema(etree.parse(schema)).assertValid(etree.fromstring(document))
    return document


def tried_again(verdict: dict[str, Any], number: int, *statuses: str) -> dict[str, Any]:
    test = verdict["suites"][0]["tests"][number - 1]
    attempts = [{"status": status, "duration": 0.1, "message": f"got {n}\nof 9"} for n, status in enumerate(statuses, start=1)]
    test["attempts"] = attempts
    return test


def test_what_gitlab_makes_of_each_status(story: Any, sound: Sound) -> None:
    start, plan, test, *_others, end = story.good_events("smoke")
    lines = [{**test, "number": n, "name": status, "status": status} for n, status in enumerate(_events.STATUSES, start=1)]
    lines = [{**line, "message": f"why {line['name']}"} for line in lines]
    ended = {**end, "planned": len(lines), "seen": len(lines), "exit_status": 1}
    story.events["smoke", "bookworm"] = [start, {**plan, "count": len(lines)}, *lines, ended]
    verdict = story.verdict()
    sound(verdict)
    cases = gitlab(checked(verdict))
    assert {name: case[0] for (suite, name), case in cases.items() if suite == "smoke@bookworm"} == {
        "pass": "success",
        "fail": "failure",
        "error": "error",
        "timeout": "failure",
        "daemon_hang": "error",
        "skip": "skipped",
        "known": "skipped",
        "flaky": "skipped",
        "xpass": "skipped",
        "not_run": "skipped",
    }
    assert cases["smoke@bookworm", "skip"][1] == "why skip"
    assert cases["run", "verdict"][0] == "failure"


def test_a_flaky_test_is_no_pass_and_keeps_its_tries(story: Any) -> None:
    story.smoke[3].update(status="flaky")
    verdict = story.verdict()
    tried_again(verdict, 2, "fail", "fail", "pass")
    document = checked(verdict)
    assert gitlab(document)["smoke@bookworm", "test 2"][:2] == ("skipped", "flaky: passed only when tried again, try 3 of 3")
    tries = ElementTree.fromstring(document).findall(".//flakyFailure")
    assert [(entry.get("type"), entry.get("message"), entry.findtext("stackTrace")) for entry in tries] == [
        ("fail", "got 1", "got 1\nof 9"),
        ("fail", "got 2", "got 2\nof 9"),
    ]


def test_a_flaky_test_that_the_job_calls_red(story: Any, sound: Sound) -> None:
    story.smoke[3].update(status="flaky")
    story.job["policy"] = {"fail_on": ["flaky"]}
    verdict = story.verdict()
    sound(verdict)
    tried_again(verdict, 2, "fail", "pass")
    assert gitlab(checked(verdict))["smoke@bookworm", "test 2"][0] == "failure"


def test_a_test_that_failed_each_time(story: Any) -> None:
    story.fail(2, "got 3")
    verdict = story.verdict()
    tried_again(verdict, 2, "fail", "fail")
    case = ElementTree.fromstring(checked(verdict)).find(".//testcase[@name='test 2']")
    assert [child.tag for child in case] == ["failure", "rerunFailure"]


def test_a_known_failure_names_its_issue(story: Any) -> None:
    story.fail(2, "got: 3")
    entry = {"id": "bpf-12", "issue": "https://example.org/12", "owner": "net", "review_by": "2026-12-31", "signature": "got: 3"}
    story.job["policy"] = {"known_issues": [entry]}
    shown = gitlab(checked(story.verdict()))["smoke@bookworm", "test 2"]
    assert shown[:2] == ("skipped", "known issue bpf-12: https://example.org/12\ngot: 3")


def test_each_assertion_that_failed_is_a_case(story: Any, sound: Sound) -> None:
    story.fail(2, "not ok 2 - opens\n  got: 3\nnot ok 5 - closes\n  got: 4")
    verdict = story.verdict()
    sound(verdict)
    cases = gitlab(checked(verdict))
    failed = {name: shown for (_suite, name), (status, shown, _file) in cases.items() if status == "failure" and name != "verdict"}
    assert failed == {
        "test 2 # 1 not ok 2 - opens": "not ok 2 - opens\n  got: 3",
        "test 2 # 2 not ok 5 - closes": "not ok 5 - closes\n  got: 4",
    }


@pytest.mark.parametrize(
    ("test", "clue", "expected"),
    [
        ({}, None, "suites/smoke/bookworm/stdout.log"),
        ({"logs": "tests/t-001"}, None, "suites/smoke/bookworm/tests/t-001/stdout.log"),
        ({"logs": "../../../etc"}, None, "suites/smoke/bookworm/stdout.log"),
        ({"logs": "tests/../../x"}, None, "suites/smoke/bookworm/stdout.log"),
        ({"logs": "tests/x]]"}, None, "suites/smoke/bookworm/stdout.log"),
        ({}, "suites/smoke/bookworm/stderr.log", "suites/smoke/bookworm/stderr.log"),
    ],
)
def test_the_log_of_a_failure_is_attached(story: Any, test: dict[str, Any], clue: str | None, expected: str) -> None:
    story.fail(2)
    verdict = story.verdict()
    verdict["suites"][0]["tests"][1].update(test)
    if clue:
        verdict["suites"][0]["tests"][1]["clue"] = {"file": clue, "line": 3, "text": "error: [[ATTACHMENT|/etc/shadow]]"}
    document = checked(verdict, "results/r1")
    assert gitlab(document)["smoke@bookworm", "test 2"][2] == f"results/r1/{expected}"
    assert document.count(b"[[ATTACHMENT|") == 1
    assert b"ATTACHMENT" not in checked(verdict).replace(b"[ [ATTACHMENT", b"")


def test_a_panic_has_the_console_attached(story: Any) -> None:
    story.consoles["bookworm"] += "[    1.000000] Kernel panic - not syncing: dead\n"
    cases = gitlab(checked(story.verdict(), ""))
    assert cases["kernel@bookworm", "console line 3"][2] == "guests/bookworm/console.log"


def test_long_names_stay_apart(story: Any) -> None:
    for event in story.smoke[2:5]:
        event["name"] = "x" * 1000 + str(event["number"])
    assert len(gitlab(checked(story.verdict()))) == 4


@pytest.mark.parametrize(("tests", "message"), [(40_000, "&" * 2000), (150_000, "")], ids=["all fail at length", "too many"])
def test_it_stays_below_what_gitlab_takes(story: Any, tests: int, message: str) -> None:
    start, plan, test, *_others, end = story.good_events("smoke")
    status = "fail" if message else "pass"
    test = {**test, "status": status, "message": message}
    lines = [{**test, "number": n, "name": f"<{n}> the name of an assertion of the usual length"} for n in range(1, tests + 1)]
    lines[-1] = {**lines[-1], "status": "fail", "message": "the last word"}
    ended = {**end, "planned": tests, "seen": tests, "exit_status": 1}
    story.events["smoke", "bookworm"] = [start, {**plan, "count": tests}, *lines, ended]
    document = _junit.to_junit(story.verdict(), "results/r1")
    assert len(document) < 30_000_000
    root = ElementTree.fromstring(document)
    assert root.find(f".//testcase[@name='<{tests}> the name of an assertion of the usual length']/failure") is not None
    verdict = root.find(".//testcase[@name='verdict']/failure").text
    assert verdict == f"smoke@bookworm: {tests if message else 1} of {tests} tests failed"
    kept = len(root.findall("testsuite[@name='smoke@bookworm']/testcase"))
    left_out = root.find(".//testcase[@name='more tests']/skipped")
    assert kept == tests if left_out is None else left_out.text.startswith(f"{tests - kept + 1} more tests do not fit")


def test_the_prefix_is_that_of_the_project(tmp_path: Path) -> None:
    from ansible_collections.mayfly.virt.plugins.modules import verdict as module

    results = tmp_path / "project" / "results" / "r1"
    results.mkdir(parents=True)
    assert module.link_prefix(results, str(tmp_path / "project")) == "results/r1"
    assert module.link_prefix(results, str(tmp_path / "other")) is None
    assert module.link_prefix(results, None) is None
