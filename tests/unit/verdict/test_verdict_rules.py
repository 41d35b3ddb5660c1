# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What must be red, and how red: every way in which a run can look better than it was."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.mayfly.virt.plugins.module_utils import _events, _verdict

Sound = Callable[[dict[str, Any]], None]


def test_all_is_well(story: Any, sound: Sound) -> None:
    verdict = story.verdict()
    sound(verdict)
    assert (verdict["verdict"], verdict["exit_code"], verdict["reasons"]) == ("passed", 0, [])
    assert verdict["totals"]["tests"]["pass"] == 3
    assert verdict["environment"] == {"accel": "kvm"}
    assert (verdict["started"], verdict["ended"], verdict["duration"]) == ("2026-11-21T03:00:00Z", "2026-11-21T03:00:29Z", 29.0)
    assert verdict["guests"][0]["image"] == "debian-12"
    assert verdict["guests"][0]["console"] == {"read": True, "lines": 2, "trouble": [], "allowed": []}


def test_failed_tests_are_failed(story: Any, sound: Sound) -> None:
    story.fail(2)
    verdict = story.verdict()
    sound(verdict)
    assert (verdict["verdict"], verdict["exit_code"]) == ("failed", 1)
    assert verdict["reasons"] == ["smoke@bookworm: 1 of 3 tests failed"]
    assert [test["name"] for test in _events.failed_tests(verdict["suites"])] == ["test 2"]


def test_failed_tests_are_failed_whatever_the_exit_status(story: Any) -> None:
    story.fail(2)
    story.end["exit_status"] = 0
    assert story.verdict()["exit_code"] == 1


# Each takes a good run and makes it untrue in one way; the words are expected in the reasons.
UNTRUE: dict[str, tuple[Callable[[Any], Any], str]] = {
    "no events at all": (lambda s: s.events.clear(), "left no events.jsonl"),
    "empty file": (lambda s: s.smoke.clear(), "no suite_end"),
    "guest died in the middle": (lambda s: s.smoke.__delitem__(slice(3, None)), "no suite_end"),
    "died after the last test": (lambda s: s.smoke.pop(), "no suite_end"),
    "torn last line": (lambda s: s.smoke.__setitem__(-1, '{"event": "suite_end", "time": 1, "exit'), "line 6 cannot be read"),
    "torn line in the middle": (lambda s: s.smoke.insert(3, '{"event": "te'), "line 4 cannot be read"),
    "a test is missing": (lambda s: s.smoke.pop(3), "1 of 3 planned tests are missing"),
    "a test is missing and the runner did not see it": (lambda s: (s.smoke.pop(3), s.end.update(seen=2)), "1 of 3 planned"),
    "the runner saw more than arrived": (lambda s: s.end.update(seen=4), "counted 4 tests, but 3 arrived"),
    "one test more than planned": (lambda s: s.smoke[1].update(count=2), "only 2 were planned"),
    "no plan": (lambda s: (s.smoke.pop(1), s.end.update(planned=None)), "no plan"),
    "two plans": (lambda s: s.smoke.insert(2, {"event": "plan", "time": 1, "count": 3, "reason": None}), "more than one plan"),
    "a number twice": (lambda s: s.smoke[3].update(number=1), "test number 1 was reported 2 times"),
    "a number outside the plan": (lambda s: s.smoke[4].update(number=4), "outside the plan of 1 to 3"),
    "number zero": (lambda s: s.smoke[4].update(number=0), "outside the plan of 1 to 3"),
    "all passed, exit status 3": (lambda s: s.end.update(exit_status=3), "no test failed, but the command ended with exit status 3"),
    "all passed, killed": (lambda s: s.end.update(exit_status=None, signal="SIGSEGV"), "ended with signal SIGSEGV"),
    "no exit status at all": (lambda s: s.end.update(exit_status=None), "neither an exit status nor a signal"),
    "bail out": (lambda s: s.smoke.insert(5, {"event": "bail_out", "time": 1, "reason": "no disk"}), "bail out: no disk"),
    "the runner says error": (lambda s: s.end.update(error="cannot start"), "the runner reported: cannot start"),
    "events of another suite": (lambda s: s.smoke[0].update(suite="other"), "those of suite 'other'"),
    "another parser": (lambda s: s.smoke[0].update(parser="exit_code"), "but the job says tap"),
    "two runs in one file": (lambda s: s.smoke.extend(copy.deepcopy(s.smoke)), "one suite_start"),
    "events after the end": (lambda s: s.smoke.append(s.smoke[2]), "events after suite_end"),
    "an unknown status": (lambda s: s.smoke[2].update(status="passed"), "test with status 'passed'"),
    "an unknown event": (lambda s: s.smoke.insert(2, {"event": "pass", "time": 1}), "unknown event 'pass'"),
    "a number that is none": (lambda s: s.smoke[2].update(duration=float("nan")), "NaN is no JSON"),
    "half a character": (lambda s: s.smoke[2].update(name="\ud800"), "cannot be read"),
    "nested without end": (lambda s: s.smoke.insert(2, "[" * 100_000), "cannot be read"),
    "an empty plan without a reason": (lambda s: empty_plan(s, None), "the plan is empty and gives no reason"),
    "everything skipped": (lambda s: empty_plan(s, "no kvm"), "nothing was tested"),
    "each test skipped": (lambda s: [event.update(status="skip") for event in s.smoke[2:5]], "nothing was tested"),
    "no suite asked for": (lambda s: (s.job.update(suites=[]), s.events.clear()), "asks for no suite"),
    "a suite on an unknown guest": (lambda s: s.job["suites"][0].update(guests=["bookworm", "trixie"]), "no guest of the job"),
    "a suite on no guest": (lambda s: s.job["suites"].append({"name": "b", "guests": []}), "on no guest"),
    "a suite twice": (lambda s: s.job["suites"].append({"name": "smoke"}), "the name 'smoke' twice"),
    "a suite that was not run": (lambda s: s.job["suites"].append({"name": "second", "parser": "tap"}), "second@bookworm: no result"),
    "a guest that was not run on": (lambda s: s.job["guests"].append({"name": "trixie"}), "smoke@trixie: no result"),
    "a name that leads out": (lambda s: s.job["suites"].append({"name": "../x"}), "without a usable name"),
    "a result nobody asked for": (lambda s: s.events.update({("x", "bookworm"): s.good_events("x")}), "did not ask for this suite"),
    "prepare failed": (lambda s: s.phases[1].update(status="failed", error="no lease"), "prepare failed: no lease"),
    "run failed": (lambda s: s.phases[3].update(status="failed"), "run failed: no reason was recorded"),
    "collect failed": (lambda s: s.phases[5].update(status="failed", error="disk full"), "collect failed: disk full"),
    "run failed on one guest": (
        lambda s: s.phases.append({"phase": "run", "event": "end", "time": 1e9, "status": "failed", "error": "lost", "guest": "bookworm"}),
        "run of bookworm failed: lost",
    ),
    "run never ended": (lambda s: s.phases.pop(3), "the phase run began and never ended"),
    "a torn phase": (lambda s: s.phases.append({"phase": "run"}), "phases.jsonl line 7 cannot be read"),
    "a phase at no time": (lambda s: s.phases[0].update(time="soon"), "phases.jsonl line 1 cannot be read"),
    "a phase of a list": (lambda s: s.phases[0].update(guest=["a"]), "phases.jsonl line 1 cannot be read"),
}


def empty_plan(story: Any, reason: str | None) -> None:
    del story.smoke[2:5]
    story.smoke[1].update(count=0, reason=reason)
    story.end.update(planned=0, seen=0)


@pytest.mark.parametrize("case", UNTRUE)
def test_an_untrue_result_is_an_error(story: Any, sound: Sound, case: str) -> None:
    spoil, words = UNTRUE[case]
    spoil(story)
    verdict = story.verdict()
    sound(verdict)
    assert (verdict["verdict"], verdict["exit_code"]) == ("error", 2)
    assert any(words in reason for reason in verdict["reasons"]), verdict["reasons"]


# With another suite beside it, each of these is no longer what it says.
ALONE = {"everything skipped", "each test skipped", "no suite asked for", "a guest that was not run on"}


@pytest.mark.parametrize("case", sorted(set(UNTRUE) - ALONE))
def test_an_untrue_result_is_not_excused_by_failed_tests_elsewhere(story: Any, sound: Sound, case: str) -> None:
    story.job["suites"][0]["guests"] = ["bookworm"]
    UNTRUE[case][0](story)
    story.job["guests"].append({"name": "sid"})
    story.job["suites"].append({"name": "honest", "guests": ["sid"]})
    story.events["honest", "sid"] = story.good_events("honest")
    story.events["honest", "sid"][2].update(status="fail")
    verdict = story.verdict()
    sound(verdict)
    assert verdict["exit_code"] == 2
    assert any("honest@sid: 1 of 3 tests failed" in reason for reason in verdict["reasons"])


@pytest.mark.parametrize("text", [None, "", "{", "[]", "null", '{"guests": 3}', '{"suites": [[]], "guests": [7]}'])
def test_a_job_that_cannot_be_read_is_an_error(story: Any, sound: Sound, text: str | None) -> None:
    evidence = story.evidence()
    evidence.job = text
    verdict = _verdict.judge(evidence)
    sound(verdict)
    assert verdict["exit_code"] == 2
    assert verdict["run_id"] == "20261121-024300-1f2e"


# --- deadline, skip, todo ---------------------------------------------------------------------------------------


def timed_out(story: Any) -> None:
    story.end.update(timed_out=True, exit_status=None, signal="SIGTERM", duration=60.2)


def test_at_the_deadline_the_rest_is_not_run(story: Any, sound: Sound) -> None:
    timed_out(story)
    del story.smoke[3:5]
    story.end.update(seen=1)
    verdict = story.verdict()
    sound(verdict)
    suite = verdict["suites"][0]
    assert (verdict["exit_code"], suite["status"], suite["errors"]) == (1, "timeout", [])
    assert [(test["number"], test["status"]) for test in suite["tests"]] == [(1, "pass"), (2, "not_run"), (3, "not_run")]
    assert verdict["reasons"] == ["smoke@bookworm: stopped at its deadline after 60 s; 2 tests not run"]


def test_a_suite_that_hangs_after_its_last_test_has_not_passed(story: Any, sound: Sound) -> None:
    timed_out(story)
    verdict = story.verdict()
    sound(verdict)
    assert verdict["exit_code"] == 1


def test_at_the_deadline_without_a_plan(story: Any, sound: Sound) -> None:
    timed_out(story)
    del story.smoke[1:5]
    story.end.update(planned=None, seen=0)
    verdict = story.verdict()
    sound(verdict)
    assert (verdict["exit_code"], verdict["suites"][0]["status"]) == (1, "timeout")


def test_the_deadline_excuses_no_contradiction(story: Any) -> None:
    timed_out(story)
    story.smoke[3].update(number=1)
    assert story.verdict()["suites"][0]["status"] == "error"


def test_a_plan_of_a_billion_tests_is_survived(story: Any, sound: Sound) -> None:
    story.smoke[1].update(count=999_999_999)
    story.end.update(planned=999_999_999)
    verdict = story.verdict()
    sound(verdict)
    assert verdict["suites"][0]["counts"]["not_run"] == 999_999_996
    assert len(verdict["suites"][0]["tests"]) == 3 + _events.LISTED


def test_a_skipped_suite_beside_a_passed_one(story: Any, sound: Sound) -> None:
    story.job["suites"].append({"name": "kvm"})
    story.events["kvm", "bookworm"] = story.good_events("kvm")
    story.events["kvm", "bookworm"][1].update(count=0, reason="no kvm here")
    del story.events["kvm", "bookworm"][2:5]
    story.events["kvm", "bookworm"][-1].update(planned=0, seen=0)
    verdict = story.verdict()
    sound(verdict)
    assert verdict["verdict"] == "passed"
    assert verdict["suites"][1]["status"] == "skipped"
    assert verdict["suites"][1]["notes"] == ["skipped: no kvm here"]


@pytest.mark.parametrize("status", ["skip", "known", "xpass", "flaky"])
def test_what_is_not_red(story: Any, sound: Sound, status: str) -> None:
    story.smoke[2].update(status=status)
    verdict = story.verdict()
    sound(verdict)
    assert verdict["verdict"] == "passed"
    assert verdict["totals"]["tests"][status] == 1


@pytest.mark.parametrize("status", sorted(_events.RED_STATUSES))
def test_what_is_red(story: Any, sound: Sound, status: str) -> None:
    story.smoke[2].update(status=status)
    verdict = story.verdict()
    sound(verdict)
    assert verdict["verdict"] != "passed"


def test_exit_code_suites(story: Any, sound: Sound) -> None:
    def events(status: str, **end: Any) -> list[Any]:
        lines = story.good_events("smoke")
        del lines[3:5]
        lines[0].update(parser="exit_code")
        lines[1].update(count=1)
        lines[2].update(status=status)
        lines[-1].update(planned=1, seen=1, **end)
        return lines

    story.job["suites"][0].update(parser="exit_code")
    outcomes = {}
    for name, lines in {
        "passed": events("pass"),
        "failed": events("fail", exit_status=1),
        "timeout": events("timeout", exit_status=None, signal="SIGTERM", timed_out=True),
        "pass but 1": events("pass", exit_status=1),
        "fail but 0": events("fail"),
    }.items():
        story.events["smoke", "bookworm"] = lines
        verdict = story.verdict()
        sound(verdict)
        outcomes[name] = (verdict["exit_code"], verdict["suites"][0]["status"])
    assert outcomes == {
        "passed": (0, "passed"),
        "failed": (1, "failed"),
        "timeout": (1, "timeout"),
        "pass but 1": (2, "error"),
        "fail but 0": (2, "error"),
    }


# --- phases -----------------------------------------------------------------------------------------------------


def test_a_failed_cleanup_is_exit_2_unless_tests_failed(story: Any, sound: Sound) -> None:
    story.phases.append({"phase": "cleanup", "event": "end", "time": 1795230040, "status": "failed", "error": "a domain stayed"})
    verdict = story.verdict()
    sound(verdict)
    assert (verdict["exit_code"], verdict["reasons"]) == (2, ["cleanup failed: a domain stayed"])
    story.fail(1)
    verdict = story.verdict()
    sound(verdict)
    assert verdict["exit_code"] == 1
    assert verdict["reasons"][-1] == "cleanup failed: a domain stayed"


def test_a_retried_phase_counts_by_its_last_attempt(story: Any, sound: Sound) -> None:
    failed = {"phase": "prepare", "event": "end", "time": 1795229990, "status": "failed", "error": "no lease"}
    story.phases = [{**failed, "event": "start", "time": 1795229980}, failed, *story.phases]
    verdict = story.verdict()
    sound(verdict)
    assert verdict["verdict"] == "passed"


def test_collect_is_under_way_when_the_verdict_is_made(story: Any, sound: Sound) -> None:
    story.phases.pop()
    verdict = story.verdict()
    sound(verdict)
    assert verdict["verdict"] == "passed"
    assert verdict["phases"][-1]["status"] == "unfinished"
    story.phases.append({"phase": "cleanup", "event": "start", "time": 1795230040})
    assert "collect began and never ended" in story.verdict()["reasons"][0]


# --- fuzz -------------------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["event", "time", "number", "x"]), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drop=st.sets(st.integers(0, 5), min_size=1), data=st.data())
def test_no_subset_of_the_events_passes(story: Any, sound: Sound, drop: set[int], data: st.DataObject) -> None:
    story.events["smoke", "bookworm"] = [event for index, event in enumerate(story.good_events("smoke")) if index not in drop]
    verdict = story.verdict()
    sound(verdict)
    assert verdict["verdict"] != "passed"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    index=st.integers(0, 5),
    field=st.sampled_from(sorted({name for fields in _events.EVENT_FIELDS.values() for name in fields})),
    value=json_values,
)
def test_any_value_in_any_field_gives_a_sound_verdict(story: Any, sound: Sound, index: int, field: str, value: Any) -> None:
    events = story.good_events("smoke")
    events[index][field] = value
    story.events["smoke", "bookworm"] = events
    sound(story.verdict())


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(job=json_values, phases=st.lists(json_values, max_size=3), lines=st.lists(json_values, max_size=5), console=st.text(max_size=50))
def test_garbage_is_never_a_pass(story: Any, sound: Sound, job: Any, phases: list[Any], lines: list[Any], console: str) -> None:
    story.job, story.phases, story.consoles = job, phases, {"bookworm": console}
    story.events["smoke", "bookworm"] = lines
    verdict = story.verdict()
    sound(verdict)
    assert verdict["verdict"] == "error"
