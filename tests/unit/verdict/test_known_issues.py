# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Known issues: what they excuse, and above all what they do not."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from test_verdict_rules import UNTRUE

from ansible_collections.mayfly.virt.plugins.module_utils import _events, _known, _summary, _verdict
from ansible_collections.mayfly.virt.plugins.module_utils._errors import InvalidInput

Sound = Callable[[dict[str, Any]], None]

ENTRY = {"id": "bpf-12", "issue": "https://example.org/issues/12", "owner": "net", "review_by": "2026-12-31", "signature": "got: 3"}


def policy(story: Any, *entries: dict[str, Any], **more: Any) -> None:
    """Give the job known issues; each is the usual one with what is said of it."""
    story.job["policy"] = {"known_issues": [{**ENTRY, **entry} for entry in entries], **more}


def known_failure(story: Any, message: str = "Failed test 'x'\n got: 3", **entry: Any) -> None:
    story.fail(2, message)
    policy(story, entry)


def statuses(verdict: dict[str, Any]) -> list[str]:
    return [test["status"] for test in verdict["suites"][0]["tests"]]


def test_a_failure_with_the_signature_is_known(story: Any, sound: Sound) -> None:
    known_failure(story)
    verdict = story.verdict()
    sound(verdict)
    assert (verdict["verdict"], verdict["reasons"]) == ("passed", [])
    assert statuses(verdict) == ["pass", "known", "pass"]
    suite = verdict["suites"][0]
    assert (suite["status"], suite["notes"], suite["exit_status"]) == ("passed", ["1 test failed as known: bpf-12"], 1)
    assert suite["tests"][1]["known_issue"] == "bpf-12"
    assert (verdict["totals"]["tests"]["known"], verdict["totals"]["tests"]["fail"]) == (1, 0)
    told = {key: ENTRY[key] for key in ("id", "issue", "owner", "review_by")}
    assert verdict["known_issues"] == [{**told, "expired": False, "matched": 1}]
    assert "Known     bpf-12 (1) https://example.org/issues/12\n" in _summary.to_summary(verdict)
    assert "2 of 3 tests passed, 1 known to fail" in _summary.to_summary(verdict)


def test_the_same_evidence_gives_the_same_verdict(story: Any) -> None:
    known_failure(story)
    assert story.verdict() == story.verdict()


# What is said of the entry, and of the failure's message.
NOT_EXCUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another failure": ({}, "got: 4"),
    "nothing said": ({}, ""),
    "one signature of two": ({"signature": ["got: 3", "EBUSY"]}, "got: 3"),
    "another suite": ({"suite": "other"}, "got: 3"),
    "another guest": ({"guest": "trixie*"}, "got: 3"),
    "another test": ({"test": "test 3"}, "got: 3"),
    "one failure of two": ({}, "not ok 1 - a\n got: 3\nnot ok 2 - b\n got: 4"),
    "one traceback of two": ({}, "Traceback (most recent call last):\n got: 3\nTraceback (most recent call last):\nKeyError"),
    "beyond what is searched": ({}, "x" * 70_000 + "\ngot: 3"),
    "so long that more may follow": ({}, "got: 3\n" + "x" * 70_000),
    "cut off": ({}, "failed: a\n  got: 3\n[cut]"),
    "so many that some may have been left out": ({}, "failed: a\n  got: 3\n" * 20),
    "one assertion of a script": ({}, "failed: a\n  got: 3\nfailed: b\n  got: 4"),
    "beyond the line's end": ({}, "x" * 1_000 + " got: 3"),
    "in the console, which says nothing of it": ({"where": "console", "test": "*"}, "got: 3"),
    "in the output, which says nothing of it": ({"where": "output", "test": "*"}, "got: 3"),
}


@pytest.mark.parametrize("case", NOT_EXCUSED)
def test_what_does_not_match_fails(story: Any, sound: Sound, case: str) -> None:
    entry, message = NOT_EXCUSED[case]
    known_failure(story, message, **entry)
    verdict = story.verdict()
    sound(verdict)
    assert (verdict["verdict"], verdict["exit_code"], statuses(verdict)[1]) == ("failed", 1, "fail")


EXCUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a list": ({"signature": ["got: 3", "EBUSY"]}, "EBUSY\n got: 3"),
    "patterns of names": ({"suite": "smo*", "guest": "book????", "test": "test *"}, "got: 3"),
    "both assertions of a script": ({}, "failed: a\n  got: 3\nfailed: b\n  got: 3\nskipped: c (no kvm)"),
    "both failures": ({}, "not ok 1 - a\n got: 3\nnot ok 2 - b\n got: 3"),
    "on its last day": ({"review_by": "2026-11-21"}, "got: 3"),
    "whatever the case": ({"signature": "(?i)GOT: 3"}, "got: 3"),
}


@pytest.mark.parametrize("case", EXCUSED)
def test_what_matches_is_known(story: Any, sound: Sound, case: str) -> None:
    entry, message = EXCUSED[case]
    known_failure(story, message, **entry)
    verdict = story.verdict()
    sound(verdict)
    assert (verdict["verdict"], statuses(verdict)[1]) == ("passed", "known")


def test_a_name_with_brackets_is_a_name(story: Any) -> None:
    known_failure(story, test="test_x[1]")
    story.smoke[3]["name"] = "test_x[1]"
    assert story.verdict()["verdict"] == "passed"


def test_an_overdue_entry_excuses_nothing_and_is_named(story: Any, sound: Sound) -> None:
    known_failure(story, review_by="2026-11-20")
    verdict = story.verdict()
    sound(verdict)
    assert (verdict["exit_code"], statuses(verdict)[1]) == (1, "fail")
    assert verdict["suites"][0]["tests"][1]["known_issue"] == "bpf-12"
    assert verdict["reasons"] == [
        "smoke@bookworm: 1 of 3 tests failed",
        "smoke@bookworm: 1 test failed with the known issue bpf-12, which excuses nothing: its review was due on 2026-11-20 (net)",
    ]
    assert "bpf-12 OVERDUE (1)" in _summary.to_summary(verdict)


def test_a_current_entry_wins_over_an_overdue_one(story: Any) -> None:
    known_failure(story)
    policy(story, {"id": "old", "review_by": "2020-01-01"}, {"id": "new"})
    verdict = story.verdict()
    assert verdict["suites"][0]["tests"][1]["known_issue"] == "new"
    assert verdict["verdict"] == "passed"


def test_nothing_is_excused_when_the_begin_of_the_run_is_unknown(story: Any, sound: Sound) -> None:
    known_failure(story)
    story.phases, story.job["created"] = [], None
    verdict = story.verdict()
    sound(verdict)
    assert verdict["exit_code"] == 1
    assert "when the run began is unknown" in verdict["reasons"][-1]


def test_other_failures_stay_red(story: Any, sound: Sound) -> None:
    known_failure(story)
    story.fail(3, "something else")
    verdict = story.verdict()
    sound(verdict)
    assert (verdict["exit_code"], statuses(verdict)) == (1, ["pass", "known", "fail"])
    assert verdict["reasons"] == ["smoke@bookworm: 1 of 3 tests failed"]


@pytest.mark.parametrize(
    "end",
    [
        {"exit_status": None, "signal": "SIGSEGV"},
        {"exit_status": 255},
        {"exit_status": 139},
        {"exit_status": 127},
    ],
)
def test_a_known_failure_does_not_explain_a_crash(story: Any, sound: Sound, end: dict[str, Any]) -> None:
    known_failure(story)
    story.end.update(end)
    verdict = story.verdict()
    sound(verdict)
    assert (verdict["verdict"], verdict["suites"][0]["status"]) == ("error", "error")
    assert "that does not explain that the command ended with" in verdict["reasons"][0]


@pytest.mark.parametrize("status", ["error", "not_run"])
def test_what_has_no_true_result_is_not_known(story: Any, sound: Sound, status: str) -> None:
    known_failure(story)
    story.smoke[3]["status"] = status
    verdict = story.verdict()
    sound(verdict)
    assert verdict["verdict"] == "failed"
    assert statuses(verdict)[1] == status


@pytest.mark.parametrize(
    ("tries", "status"),
    [
        ([("fail", "got: 3"), ("fail", "got: 3")], "known"),
        ([("fail", "hung, got: 3"), ("fail", "got: 3")], "known"),
        ([("fail", "got: 4"), ("fail", "got: 3")], "fail"),
        ([("fail", "got"), ("fail", "got: 3")], "fail"),
        ([("fail", ""), ("fail", "got: 3")], "fail"),
        ([("error", "got: 3"), ("fail", "got: 3")], "fail"),
    ],
)
def test_each_try_must_have_failed_as_known(story: Any, tries: list[tuple[str, str]], status: str) -> None:
    known_failure(story, "got: 3")
    story.job["policy"] = {}
    suite = story.verdict()["suites"][0]
    suite["tests"][1]["attempts"] = [{"status": name, "duration": 0.1, "message": message} for name, message in tries]
    entries = _known.check_known_issues([ENTRY], "known.yml")
    _known.Excuses(entries, "2026-11-21", {}, lambda _path: "").apply(suite)
    assert suite["tests"][1]["status"] == status


def test_a_known_hang_of_a_test(story: Any, sound: Sound) -> None:
    known_failure(story)
    story.smoke[3]["status"] = "timeout"
    verdict = story.verdict()
    sound(verdict)
    assert (verdict["verdict"], statuses(verdict)[1]) == ("passed", "known")


HANG = "libvirtd hangs: no answer for 10 s; backtraces in backtrace-libvirtd.txt"


@pytest.mark.parametrize(
    ("entry", "message", "status"),
    [
        ({"status": "daemon_hang", "signature": "libvirtd hangs: no answer"}, HANG, "known"),
        ({"status": "daemon_hang", "signature": "libvirtd hangs: no answer"}, f"{HANG}\nfailed: a\n  x\nfailed: b\n  y", "known"),
        ({"status": "daemon_hang", "signature": "virtqemud hangs"}, HANG, "daemon_hang"),
        ({"status": "daemon_hang", "signature": "no answer", "review_by": "2026-11-20"}, HANG, "daemon_hang"),
        # An entry about something else that the test says of itself does not excuse the hang.
        ({"signature": "got: 3"}, f"{HANG}\nfailed: a\n  got: 3", "daemon_hang"),
        ({"signature": "libvirtd hangs"}, HANG, "daemon_hang"),
        ({"status": "timeout", "signature": "libvirtd hangs"}, HANG, "daemon_hang"),
    ],
)
def test_a_hanging_daemon_is_known_by_an_entry_about_just_that(
    story: Any, sound: Sound, entry: dict[str, Any], message: str, status: str
) -> None:
    known_failure(story, message, **entry)
    story.smoke[3]["status"] = "daemon_hang"
    verdict = story.verdict()
    sound(verdict)
    assert statuses(verdict)[1] == status
    assert verdict["verdict"] == ("passed" if status == "known" else "failed")


@pytest.mark.parametrize(("status", "known"), [("fail", "fail"), ("timeout", "timeout"), ("daemon_hang", "known")])
def test_an_entry_about_one_status_excuses_no_other(story: Any, status: str, known: str) -> None:
    known_failure(story, status="daemon_hang")
    story.smoke[3]["status"] = status
    assert statuses(story.verdict())[1] == known


def test_a_hang_in_an_earlier_try_is_not_excused_by_an_entry_about_failures(story: Any) -> None:
    known_failure(story)
    story.smoke[3]["attempts"] = [{"status": status, "duration": 1, "message": "got: 3"} for status in ("daemon_hang", "fail")]
    assert statuses(story.verdict())[1] == "fail"


FOLLOWS = {"follows": ["^failed: then closes$"]}


@pytest.mark.parametrize(
    ("message", "status"),
    [
        ("failed: opens\n  got: 3\nfailed: then closes\n  it is open", "known"),
        ("failed: opens\n  got: 3", "known"),
        ("failed: then closes\n  it is open", "fail"),  # nothing that it could follow from
        ("failed: then closes\n  it is open\nfailed: opens\n  got: 3", "fail"),  # it came before
        ("failed: opens\n  got: 3\nfailed: then reads\n  nothing", "fail"),
    ],
)
def test_what_follows_from_a_known_failure(story: Any, sound: Sound, message: str, status: str) -> None:
    known_failure(story, message, **FOLLOWS)
    verdict = story.verdict()
    sound(verdict)
    assert statuses(verdict)[1] == status


def test_what_follows_must_follow_in_the_same_try(story: Any) -> None:
    known_failure(story, "failed: then closes\n  it is open", **FOLLOWS)
    tries = ["failed: opens\n  got: 3", "failed: then closes\n  it is open"]
    story.smoke[3]["attempts"] = [{"status": "fail", "duration": 1, "message": message} for message in tries]
    assert statuses(story.verdict())[1] == "fail"


def test_the_suites_deadline_stays_red(story: Any, sound: Sound) -> None:
    known_failure(story)
    story.end.update(timed_out=True, exit_status=None, signal="SIGTERM")
    verdict = story.verdict()
    sound(verdict)
    assert (verdict["verdict"], verdict["suites"][0]["status"], statuses(verdict)[1]) == ("failed", "timeout", "known")


def test_the_kernel_stays_red(story: Any, sound: Sound) -> None:
    known_failure(story)
    story.consoles["bookworm"] += "[    1.000000] BUG: got: 3\n"
    verdict = story.verdict()
    sound(verdict)
    assert (verdict["verdict"], statuses(verdict)[1]) == ("failed", "known")


@pytest.mark.parametrize("where", ["console", "output"])
def test_a_signature_in_what_was_logged(story: Any, sound: Sound, where: str) -> None:
    known_failure(story, "timed out", where=where, test="test 2")
    evidence = story.evidence()
    evidence.consoles = {"bookworm": "login: \ngot: 3\n"} if where == "console" else story.consoles
    logs = {"suites/smoke/bookworm/stderr.log": "noise\ngot: 3\n"} if where == "output" else {}
    evidence.read = lambda path: logs.get(path, "")
    verdict = _verdict.judge(evidence)
    sound(verdict)
    assert (verdict["verdict"], statuses(verdict)[1]) == ("passed", "known")
    story.smoke[3]["message"] = "not ok 1\nnot ok 2"
    evidence.events = story.evidence().events
    assert _verdict.judge(evidence)["verdict"] == "failed"  # which of the two the log speaks of is unknown


def test_a_hostile_flood_of_failures_ends(story: Any) -> None:
    start, plan, test, *_others, end = story.good_events("smoke")
    count = 400
    lines = [{**test, "number": number, "status": "fail", "message": "foobar " * 1200} for number in range(1, count + 1)]
    ended = {**end, "planned": count, "seen": count, "exit_status": 1}
    story.events["smoke", "bookworm"] = [start, {**plan, "count": count}, *lines, ended]
    story.job["policy"] = {"known_issues": [{**ENTRY, "id": f"i{n}", "signature": "foo.*bar.*nothing"} for n in range(20)]}
    verdict = story.verdict()
    assert verdict["verdict"] == "failed"
    assert "can be searched" in verdict["reasons"][-1]


# --- what should have failed ----------------------------------------------------------------------------------------


def test_a_test_that_an_entry_names_and_that_passes_is_xpass(story: Any, sound: Sound) -> None:
    policy(story, {"test": "test 3"})
    verdict = story.verdict()
    sound(verdict)
    assert (verdict["verdict"], statuses(verdict)) == ("passed", ["pass", "pass", "xpass"])
    assert verdict["suites"][0]["notes"] == ["1 test passed although a known issue names it: bpf-12"]
    policy(story, {"test": "test *"})
    assert statuses(story.verdict()) == ["pass"] * 3  # a pattern names none
    policy(story, {"test": "test 3", "guest": "trixie"})
    assert statuses(story.verdict()) == ["pass"] * 3
    policy(story, {"test": "test 3"}, fail_on=["xpass"])
    verdict = story.verdict()
    sound(verdict)
    assert (verdict["exit_code"], verdict["suites"][0]["status"]) == (1, "failed")
    assert verdict["reasons"] == ["smoke@bookworm: fail_on xpass: 1 test passed and should have failed: test 3"]


# --- the file ---------------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[Any, str]] = {
    "no list": ({}, "they are not a list"),
    "no mapping": (["x"], "it is no mapping"),
    "an unknown key": ([{**ENTRY, "reason": "x"}], "unknown key reason"),
    "no id": ([{**ENTRY, "id": None}], "no usable id"),
    "an odd id": ([{**ENTRY, "id": "a b"}], "no usable id"),
    "an id twice": ([ENTRY, ENTRY], "an earlier entry has this id"),
    "no issue": ([{**ENTRY, "issue": ""}], "no http or https URL"),
    "a script as issue": ([{**ENTRY, "issue": "javascript:alert(1)"}], "no http or https URL"),
    "markup in the issue": ([{**ENTRY, "issue": "https://x/<b>"}], "no http or https URL"),
    "no owner": ([{**ENTRY, "owner": " "}], "no owner"),
    "no date": ([{**ENTRY, "review_by": "soon"}], "review_by is no date"),
    "no such date": ([{**ENTRY, "review_by": "2026-02-30"}], "review_by is no date"),
    "no signature": ([{key: value for key, value in ENTRY.items() if key != "signature"}], "no signature"),
    "an empty list of signatures": ([{**ENTRY, "signature": []}], "no signature"),
    "a signature for everything": ([{**ENTRY, "signature": ".*"}], "cannot be used"),
    "an empty signature": ([{**ENTRY, "signature": ""}], "cannot be used"),
    "one empty signature of two": ([{**ENTRY, "signature": ["got: 3", ""]}], "cannot be used"),
    "a number": ([{**ENTRY, "signature": 3}], "no signature"),
    "an odd place": ([{**ENTRY, "where": "journal"}], "it looks for its signature in 'journal'"),
    "any test and the console": ([{**ENTRY, "where": "console"}], "Say which test"),
    "a list of tests": ([{**ENTRY, "test": ["a"]}], "its test is no pattern"),
    "a status that is never excused": ([{**ENTRY, "status": "error"}], "it is about the status 'error'"),
    "a consequence for everything": ([{**ENTRY, "follows": [".*"]}], "its follows '.*' cannot be used"),
    "a consequence that is no list": ([{**ENTRY, "follows": {"a": 1}}], "its follows is no list"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_refused_and_a_wrong_job_is_an_error(story: Any, sound: Sound, case: str) -> None:
    entries, words = WRONG[case]
    with pytest.raises(InvalidInput, match=r"known\.yml") as caught:
        _known.check_known_issues(entries, "known.yml")
    assert words in str(caught.value)
    known_failure(story)
    story.job["policy"]["known_issues"] = entries
    verdict = story.verdict()
    sound(verdict)
    assert (verdict["exit_code"], statuses(verdict)[1]) == (2, "fail")


def test_an_empty_file_and_what_is_filled_in() -> None:
    assert _known.check_known_issues(None, "known.yml") == []
    entry = _known.check_known_issues([{**ENTRY, "review_by": date(2026, 12, 31)}], "known.yml")[0]
    assert (entry["review_by"], entry["signature"], entry["where"], entry["test"]) == ("2026-12-31", ["got: 3"], "message", None)
    assert _known.check_known_issues([entry], "job.json") == [entry]


# --- properties -------------------------------------------------------------------------------------------------

# Entries that match whatever the tests below say.
GREEDY = st.fixed_dictionaries(
    {"signature": st.sampled_from(["got: 3", ["got", "3|4|booo"], "(?i)GOT"])},
    optional={
        "test": st.sampled_from(["*", "test 1", "test 2", "test ?", "", "[1]"]),
        "suite": st.sampled_from(["*", "smoke"]),
        "guest": st.just("*"),
        "review_by": st.sampled_from(["2026-11-20", "2026-11-21", "2999-01-01"]),
        "status": st.sampled_from(_known.EXCUSABLE),
        "follows": st.just(["boo"]),
    },
)


def excuse_all(story: Any, entries: list[dict[str, Any]]) -> None:
    usable = [{**entry, "id": f"i{number}"} for number, entry in enumerate(entries) if entry.get("test") != ""]
    policy(story, *usable)


@settings(deadline=None, max_examples=200)
@given(case=st.sampled_from(sorted(UNTRUE)), entries=st.lists(GREEDY, min_size=1, max_size=4), failing=st.sets(st.integers(1, 3)))
def test_no_known_issue_makes_an_untrue_result_green(
    new_story: Callable[[], Any], sound: Sound, case: str, entries: list[dict[str, Any]], failing: set[int]
) -> None:
    """Whatever fails as known beside it: what is missing or contradicts itself is told as without known issues."""
    story = new_story()
    for number in failing:
        story.smoke[number + 1].update(status="fail", message="got: 3")
    if failing:
        story.end["exit_status"] = 1
    UNTRUE[case][0](story)
    plain = story.verdict()
    excuse_all(story, entries)
    verdict = story.verdict()
    sound(verdict)
    assert verdict["exit_code"] >= (2 if plain["exit_code"] == 2 else 0)
    if plain["exit_code"] == 2:
        assert verdict["verdict"] == "error"
        errors = [error for suite in plain["suites"] for error in suite["errors"]]
        assert all(any(error in reason for reason in verdict["reasons"]) for error in errors)


@settings(deadline=None, max_examples=200)
@given(
    entries=st.lists(GREEDY, min_size=1, max_size=4),
    tests=st.lists(st.tuples(st.sampled_from(_events.STATUSES), st.sampled_from(["got: 3", "boo", ""])), min_size=1, max_size=5),
    exit_status=st.sampled_from([0, 1, 3, 124, 125, 139, 255]),
    dropped=st.booleans(),
)
def test_a_pass_needs_each_failure_excused_and_nothing_else_wrong(
    new_story: Callable[[], Any], sound: Sound, entries: list[dict[str, Any]], tests: Any, exit_status: int, dropped: bool
) -> None:
    story = new_story()
    start, plan, test, *_others, end = story.good_events("smoke")
    lines = [
        {**test, "number": number, "name": f"test {number}", "status": status, "message": message}
        for number, (status, message) in enumerate(tests, start=1)
    ]
    ended = {**end, "planned": len(tests), "seen": len(tests), "exit_status": exit_status}
    story.events["smoke", "bookworm"] = [start, {**plan, "count": len(tests)}, *lines[: len(lines) - dropped], ended]
    excuse_all(story, entries)
    before = copy.deepcopy(story.job)
    verdict = story.verdict()
    sound(verdict)
    assert story.job == before
    if verdict["verdict"] == "passed":
        assert not dropped
        red = [message for status, message in tests if status in _events.RED_STATUSES]
        assert not any(status in ("error", "not_run") for status, _message in tests)
        assert all("got: 3" in message for message in red)
        assert exit_status <= 124
        assert exit_status == 0 or red


def test_the_example_in_the_readme_is_accepted() -> None:
    readme = (Path(__file__).resolve().parents[3] / "README.md").read_text(encoding="utf-8")
    blocks = [block for block in re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL) if "review_by" in block]
    assert len(blocks) == 1
    entry = _known.check_known_issues(yaml.safe_load(blocks[0]), "README.md")[0]
    assert (entry["review_by"], len(entry["signature"])) == ("2026-12-31", 2)


# --- the file that the collection brings ----------------------------------------------------------------------------

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = _known.check_known_issues(
    yaml.safe_load((ROOT / "extensions" / "known_issues" / "libvirt-tck.yml").read_text()), "libvirt-tck.yml"
)
TCK_FAILURES = yaml.safe_load((Path(__file__).parent / "samples" / "tck-failures.yml").read_text())


def judged_by_shipped(story: Any, name: str, message: str, status: str = "fail") -> str | None:
    story.fail(2, message)
    story.smoke[3].update(name=name, status=status)
    story.job["policy"] = {"known_issues": SHIPPED}
    test: dict[str, Any] = story.verdict()["suites"][0]["tests"][1]
    assert (test["status"] == "known") == ("known_issue" in test)
    return test.get("known_issue")


@pytest.mark.parametrize("case", TCK_FAILURES, ids=[f"{case['test']}, {case['source']}" for case in TCK_FAILURES])
def test_what_is_known_of_the_tck_is_excused_and_no_other_failure_of_the_same_test(story: Any, case: dict[str, Any]) -> None:
    assert judged_by_shipped(story, case["test"], case["message"]) == case["known"]
    other = "domain/050-transient-lifecycle"
    assert judged_by_shipped(story, other, case["message"]) is None
    assert judged_by_shipped(story, case["test"], f"{case['message']}\nfailed: another\n  got: 4") is None


@pytest.mark.parametrize(
    ("message", "known"),
    [
        ("virtqemud hangs: no answer for 10 s: all 5 workers are busy and 3 calls wait; backtraces in backtrace-virtqemud.txt", True),
        ("virtnetworkd hangs: no answer for 10 s, and none on its admin socket either; backtraces in backtrace-virtnetworkd.txt", True),
        ("libvirtd hangs: no answer for 10 s: all 5 workers are busy and 3 calls wait; backtraces in backtrace-libvirtd.txt", False),
        ("virtqemud hangs: it is stopped (state T); backtraces in backtrace-virtqemud.txt", False),
        ("'virsh -c qemu:///system' got no answer for 10 s, though each daemon answers for itself", False),
    ],
)
def test_a_modular_daemon_that_hangs_is_known(story: Any, message: str, known: bool) -> None:
    told = f"the deadline of 60 s was reached; then there were: perl\n{message}\nfailed: it starts\n  got: 4"
    expected = "libvirt-modular-daemon-hang" if known else None
    assert judged_by_shipped(story, "domain/050-transient-lifecycle", told, "daemon_hang") == expected
    assert judged_by_shipped(story, "domain/050-transient-lifecycle", told, "fail") is None


def test_each_entry_of_the_shipped_file_is_tried() -> None:
    tried = {case["known"] for case in TCK_FAILURES} | {"libvirt-modular-daemon-hang"}
    assert {entry["id"] for entry in SHIPPED} == tried - {None}
    tests = {entry["test"] for entry in SHIPPED if entry["test"]}
    refused = {case["test"] for case in TCK_FAILURES if not case["known"]}
    assert all(any(re.search(pattern.strip("*"), name) for name in refused) for pattern in tests)
    assert all("*" in test for test in tests)  # of a test that fails now and then, a pass is no surprise
