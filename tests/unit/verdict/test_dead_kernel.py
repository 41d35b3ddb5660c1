# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A kernel that died has said no: what it explains, and what it does not."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from ansible_collections.mayfly.virt.plugins.module_utils import _console, _summary

Sound = Callable[[dict[str, Any]], None]

PANIC = "[   42.000000] Kernel panic - not syncing: Fatal exception in interrupt\n"
OOPS = "[   41.000000] BUG: kernel NULL pointer dereference\n"
WARN = "[   41.000000] WARNING: CPU: 0 PID: 1 at kernel/bpf/verifier.c:123 foo+0x1/0x2\n"
LOST = "1 of 1 suites could not be run on bookworm: guest lost"


def panic(story: Any, guest: str = "bookworm") -> None:
    story.consoles[guest] = story.consoles.get(guest, "") + PANIC


def cut(story: Any, guest: str = "bookworm") -> None:
    """The guest went away after the first test."""
    del story.events["smoke", guest][3:]


def phase(story: Any, name: str, guest: str | None = "bookworm", **end: Any) -> None:
    story.phases.append({"phase": name, "event": "end", "time": 1795230029, "status": "failed", "error": LOST, "guest": guest, **end})


def second_guest(story: Any) -> None:
    story.job["guests"].append({"name": "trixie"})
    story.events["smoke", "trixie"] = story.good_events("smoke")
    story.consoles["trixie"] = "[    0.000000] Linux version 6.12\n"


# Each takes a good run and spoils it; what comes out is the exit code.
STORIES: dict[str, tuple[list[Callable[[Any], Any]], int]] = {
    "panic after all was said": ([panic], 1),
    "panic during a suite": ([panic, cut], 1),
    "panic during a suite, before its plan": ([panic, lambda s: s.smoke.__delitem__(slice(1, None))], 1),
    "panic during a suite, after its last test": ([panic, lambda s: s.smoke.pop()], 1),
    "panic during a suite, in the middle of a line": ([panic, lambda s: torn(s)], 1),
    "panic before a suite": ([panic, lambda s: s.events.clear()], 1),
    "panic before a word of a suite": ([panic, lambda s: s.smoke.clear()], 1),
    "panic, and the phase run of the guest failed": ([panic, cut, lambda s: phase(s, "run")], 1),
    "panic, and nothing could be collected from the guest": ([panic, cut, lambda s: phase(s, "collect")], 1),
    "panic, and a test failed before it": ([panic, lambda s: s.fail(1), cut], 1),
    "panic, and cleanup failed": ([panic, cut, lambda s: phase(s, "cleanup", None)], 1),
    "panic while the guest was prepared": ([panic, lambda s: s.events.clear(), lambda s: s.phases[1].update(status="failed")], 2),
    "panic, and the guest's own prepare failed": ([panic, lambda s: phase(s, "prepare")], 2),
    "panic, and the run as a whole failed": ([panic, cut, lambda s: s.phases[3].update(status="failed")], 2),
    "panic, and the run never ended": ([panic, cut, lambda s: s.phases.pop(3)], 2),
    "panic, and the guest's run never ended": ([panic, cut, lambda s: phase(s, "run", event="start")], 2),
    "panic, and collect as a whole failed": ([panic, lambda s: s.phases[5].update(status="failed")], 2),
    "panic, and the guest's cleanup failed": ([panic, lambda s: phase(s, "cleanup")], 1),
    "panic, and another guest was lost": ([second_guest, panic, cut, lambda s: cut(s, "trixie")], 2),
    "panic, and the phase run of another guest failed": ([second_guest, panic, cut, lambda s: phase(s, "run", "trixie")], 2),
    "panic, and nothing could be collected from another guest": ([second_guest, panic, lambda s: phase(s, "collect", "trixie")], 2),
    "panic on one of two guests": ([second_guest, panic, cut], 1),
    "panic on both guests": ([second_guest, panic, cut, lambda s: (panic(s, "trixie"), cut(s, "trixie"))], 1),
    "panic of a guest that had nothing to say": ([second_guest, lambda s: panic(s, "trixie"), cut], 2),
    "panic, and a complete result contradicts itself": ([panic, lambda s: s.end.update(exit_status=3)], 2),
    "panic, and a complete result lacks a test": ([panic, lambda s: (s.smoke.pop(3), s.end.update(seen=2))], 2),
    "panic, and the result contradicts itself before its end": ([panic, lambda s: s.smoke[3].update(number=1), lambda s: s.smoke.pop()], 2),
    "panic, and a torn line that is not the last": ([panic, lambda s: s.smoke.insert(2, '{"event": "te'), lambda s: s.smoke.pop()], 2),
    "panic, and a suite that gave up": ([panic, lambda s: s.smoke.__setitem__(slice(4, None), [BAIL_OUT])], 2),
    "panic, and a result nobody asked for": ([panic, lambda s: s.events.update({("x", "bookworm"): s.good_events("x")[:3]})], 2),
    "panic that only the suite speaks of": ([lambda s: s.smoke[2].update(message=PANIC, name=PANIC), cut], 2),
    "panic that something else on the console speaks of": ([lambda s: console(s, "a test prints " + PANIC[15:]), cut], 2),
    "oops, and no complete result": ([lambda s: console(s, OOPS), cut], 2),
    "warning": ([lambda s: console(s, WARN)], 1),
    "warning, and no complete result": ([lambda s: console(s, WARN), cut], 2),
    "warning, and the phase run of the guest failed": ([lambda s: console(s, WARN), lambda s: phase(s, "run")], 2),
    "silence, and no complete result": ([cut], 2),
}

BAIL_OUT = {"event": "bail_out", "time": 1795230004, "reason": "no disk"}


def torn(story: Any) -> None:
    """The file ends in the middle of a line, without a line end."""
    story.smoke[3:] = ['{"event": "test", "num']
    evidence = story.evidence

    def without_line_end() -> Any:
        found = evidence()
        found.events["smoke", "bookworm"] = found.events["smoke", "bookworm"][:-1]
        return found

    story.evidence = without_line_end


def console(story: Any, text: str) -> None:
    story.consoles["bookworm"] += text


@pytest.mark.parametrize("case", STORIES)
def test_what_a_dead_kernel_explains(story: Any, sound: Sound, case: str) -> None:
    steps, code = STORIES[case]
    for step in steps:
        step(story)
    verdict = story.verdict()
    sound(verdict)
    assert verdict["exit_code"] == code, verdict["reasons"]
    if any(_console.death(guest["console"]) for guest in verdict["guests"]):
        assert "panicked: Fatal exception in interrupt (console line " in verdict["reasons"][0]
        assert re.match(r"[A-Z]+  run \S+  job smoke  kernels? of .* panicked", _summary.to_summary(verdict))


@pytest.mark.parametrize("case", [case for case, (_steps, code) in STORIES.items() if code == 1 and "panic" in case])
def test_what_is_wrong_with_the_job_is_never_explained(story: Any, sound: Sound, case: str) -> None:
    for step in STORIES[case][0]:
        step(story)
    story.job["suites"][0]["guests"] = ["bookworm", "nowhere"]
    verdict = story.verdict()
    sound(verdict)
    assert verdict["exit_code"] == 2


def test_what_is_said_of_a_panic(story: Any, sound: Sound) -> None:
    story.job["guests"][0]["seconds"] = {"running": 0.1, "ready": 33.441}
    console(story, OOPS + "[   41.500000] Oops: 0002 [#1]\n" + WARN)
    panic(story)
    story.fail(1)
    cut(story)
    story.phases.insert(3, {"phase": "run", "event": "start", "time": 1795230011, "guest": "bookworm"})
    phase(story, "run")
    verdict = story.verdict()
    sound(verdict)
    assert verdict["suites"][0]["status"] == "error"
    assert verdict["suites"][0]["incomplete"] is True
    assert [trouble["fatal"] for trouble in verdict["guests"][0]["console"]["trouble"]] == [False, False, True]
    assert _summary.to_summary(verdict) == (
        "FAILED  run 20261121-024300-1f2e  job smoke  kernel of bookworm panicked: Fatal exception in interrupt, 1 of 3 tests failed, "
        "2 not run  29.0 s\n"
        "\n"
        "Failed tests\n"
        "  smoke@bookworm  1 test 1  FAIL\n"
        "      got 3\n"
        "      in console.log line 6: [   42.000000] Kernel panic - not syncing: Fatal exception in interrupt\n"
        "\n"
        "Reasons\n"
        "  kernel of bookworm panicked: Fatal exception in interrupt (console line 6) after [ 41.000000] BUG: kernel NULL pointer "
        "dereference (console line 3) and 1 more\n"
        "  smoke@bookworm: 1 of 3 tests failed\n"
        "  smoke@bookworm: no suite_end: the runner or the guest went away before the suite had ended\n"
        "  smoke@bookworm: 2 of 3 planned tests are missing\n"
        "  run of bookworm failed: 1 of 1 suites could not be run on bookworm: guest lost\n"
        "\n"
        "  suite  guest     result  pass  fail  skip  other  time\n"
        "  smoke  bookworm  ERROR      0     1     0      2     -\n"
        "\n"
        "Phases    prepare 9.0 s, run 9.0 s, run of bookworm FAILED after 18.0 s, collect 9.0 s\n"
        "Guests    bookworm (debian-12, 6.1.0-32, kvm, ready after 33 s)\n"
        "Evidence  report.html, verdict.json, junit.xml, suites/<suite>/<guest>/, guests/<guest>/\n"
    )


def test_what_is_unexplained_comes_before_what_is(story: Any) -> None:
    second_guest(story)
    story.job["guests"].reverse()
    cut(story, "bookworm")
    panic(story, "trixie")
    cut(story, "trixie")
    phase(story, "run", "trixie")
    reasons = story.verdict()["reasons"]
    assert [reason.split(":")[0] for reason in reasons] == [
        "kernel of trixie panicked",
        "smoke@bookworm",
        "smoke@bookworm",
        "smoke@trixie",
        "smoke@trixie",
        "run of trixie failed",
    ]


def test_panics_come_before_other_trouble(story: Any, sound: Sound) -> None:
    second_guest(story)
    console(story, WARN)
    panic(story, "trixie")
    verdict = story.verdict()
    sound(verdict)
    assert [reason.split(":")[0] for reason in verdict["reasons"]] == ["kernel of trixie panicked", "kernel of bookworm"]
    headline = _summary.to_summary(verdict).split("\n")[0]
    assert "kernel of trixie panicked: Fatal exception in interrupt, kernel trouble on bookworm, 6 of 6 tests passed" in headline


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (PANIC, "Fatal exception in interrupt"),
        ("Kernel panic - not syncing: VFS: Unable to mount root fs\n", "VFS: Unable to mount root fs"),
        ("Kernel panic - not syncing\n", "Kernel panic - not syncing"),
        ("[    1.000000][  T123] Kernel panic - not syncing: x\n", "x"),
        ("login: \x1b[0m[    1.000000] Kernel panic - not syncing: x\r\r\n", "x"),
        ("[    1.000000] Oops: 0002[    1.000001] Kernel panic - not syncing: x\n", "x"),
        ("PANIC: double fault, error_code: 0x0\n", "PANIC: double fault, error_code: 0x0"),
    ],
)
def test_last_words(line: str, words: str) -> None:
    died = _console.death(_console.scan_console(line))
    assert died is not None
    assert _console.last_words(died) == words


@pytest.mark.parametrize("line", [OOPS, WARN, "# " + PANIC[15:], "[    1.000000] Command line: panic=-1\n"])
def test_a_kernel_that_lives(line: str) -> None:
    assert _console.death(_console.scan_console(line)) is None


def test_a_death_after_endless_trouble_is_listed_once() -> None:
    trouble = _console.scan_console(WARN * 2000 + PANIC * 2000)["trouble"]
    assert len(trouble) == _console.LISTED + 1
    assert (trouble[-1]["line"], trouble[-1]["fatal"]) == (2001, True)


# --- phases of guests -------------------------------------------------------------------------------------------


def test_the_line_of_phases_has_one_entry_a_phase_unless_a_guest_failed(story: Any, sound: Sound) -> None:
    for event in ("start", "end"):
        story.phases.insert(3, {"phase": "run", "event": event, "time": 1795230012, "status": "ok", "guest": "bookworm"})
    assert "Phases    prepare 9.0 s, run 9.0 s, collect 9.0 s\n" in _summary.to_summary(story.verdict())
    phase(story, "collect")
    verdict = story.verdict()
    sound(verdict)
    assert "Phases    prepare 9.0 s, run 9.0 s, collect 9.0 s, collect of bookworm FAILED\n" in _summary.to_summary(verdict)


def test_a_phase_that_starts_anew_forgets_its_guests(story: Any, sound: Sound) -> None:
    again = [dict(line) for line in story.phases if line["phase"] == "collect"]
    phase(story, "collect")
    assert story.verdict()["exit_code"] == 2
    story.phases += again
    verdict = story.verdict()
    sound(verdict)
    assert (verdict["exit_code"], len(verdict["phases"])) == (0, 3)


@pytest.mark.parametrize("seconds", [None, {}, {"ready": None}, {"ready": "soon"}, {"ready": True}, [33], 33])
def test_a_guest_of_which_it_is_unknown_when_it_was_ready(story: Any, sound: Sound, seconds: Any) -> None:
    story.job["guests"][0]["seconds"] = seconds
    verdict = story.verdict()
    sound(verdict)
    assert "Guests    bookworm (debian-12, 6.1.0-32, kvm)\n" in _summary.to_summary(verdict)
