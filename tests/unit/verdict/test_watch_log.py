# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the watcher saw, in the verdict: it adds, it explains, and where it was blind nothing counts as quiet."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from ansible_collections.mayfly.virt.plugins.module_utils import _report

Sound = Callable[[dict[str, Any]], None]

START = {"time": 1795230000, "event": "watch_start", "guests": ["bookworm"], "stop_on": "panic"}
END = {"time": 1795230030, "event": "watch_end", "guests": {"bookworm": {"bytes": 1, "lines": 2}}, "told": True}
KERNEL = {
    "time": 1795230012.5,
    "event": "kernel",
    "guest": "bookworm",
    "line": 3,
    "kind": "panic",
    "text": "[    2.000000] Kernel panic - not syncing: Fatal exception",
    "fatal": True,
    "fingerprint": "0123456789ab",
    "frames": [],
    "allowed": None,
    "stop": True,
}
PANIC = "[    2.000000] Kernel panic - not syncing: Fatal exception\n"


def domain(what: str, **changes: Any) -> dict[str, Any]:
    event = {"time": 1795230012.5, "event": "domain", "guest": "bookworm", "what": what, "detail": "because"}
    return {**event, "fatal": what == "crashed", "stop": what != "rebooted", **changes}


def judged(story: Any, sound: Sound, *events: dict[str, Any], watched: bool = True) -> dict[str, Any]:
    """The verdict when the watcher wrote these lines."""
    story.job["watch"] = watched
    story.job["guests"][0]["uuid"] = "11111111-1111-1111-1111-111111111111"
    story.watch = "".join(json.dumps(event) + "\n" for event in events)
    verdict = story.verdict()
    sound(verdict)
    return dict(verdict)


def test_a_watch_without_sightings_changes_nothing(story: Any, sound: Sound) -> None:
    assert judged(story, sound, START, END)["verdict"] == "passed"


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([START], "the watcher went away"),
        ([START, {**END, "told": False}], "the watch ended by itself at 03:00:30, for the run was over"),
        ([], "there is no watch.jsonl"),
        ([END], "has no watch_start"),
        ([{**START, "guests": ["trixie"]}, END], "the console of bookworm was not watched"),
        ([START, {"time": 1, "event": "error", "guest": "bookworm", "error": "rotated"}, END], "the watcher reported: bookworm: rotated"),
        ([START, {"time": 1, "event": "kernel"}, END], "watch.jsonl line 2 cannot be read: kernel with guest None"),
        ([START, {"time": "now", "event": "note", "text": ""}, END], "watch.jsonl line 2 cannot be read: note with time 'now'"),
        ([START, [], END], "watch.jsonl line 2 cannot be read"),
        ([START, domain("stopped"), END], "bookworm went away while the job ran, at 03:00:12: because"),
        ([START, domain("io_error"), END], "bookworm had an I/O error at 03:00:12: because"),
    ],
)
def test_where_the_watcher_was_blind_nothing_is_quiet(story: Any, sound: Sound, events: list[Any], words: str) -> None:
    if not events:
        story.job["watch"] = True
        story.job["guests"][0]["uuid"] = "11111111-1111-1111-1111-111111111111"
        verdict = story.verdict()
        sound(verdict)
    else:
        verdict = judged(story, sound, *events)
    assert (verdict["verdict"], verdict["exit_code"]) == ("error", 2)
    assert any(words in reason for reason in verdict["reasons"]), verdict["reasons"]


def test_a_run_that_was_not_to_be_watched_needs_no_watcher(story: Any, sound: Sound) -> None:
    story.job["guests"][0]["uuid"] = "11111111-1111-1111-1111-111111111111"
    verdict = story.verdict()
    sound(verdict)
    assert verdict["verdict"] == "passed"


def test_a_sighting_tells_when(story: Any, sound: Sound) -> None:
    story.consoles["bookworm"] += PANIC
    verdict = judged(story, sound, START, KERNEL, END)
    (splat,) = verdict["guests"][0]["console"]["trouble"]
    assert (splat["time"], splat["line"]) == ("2026-11-21T03:00:12Z", 3)


def test_what_the_collected_console_lost_is_known_from_the_watcher(story: Any, sound: Sound) -> None:
    verdict = judged(story, sound, START, {**KERNEL, "line": 70000}, END)
    assert verdict["exit_code"] == 1
    assert verdict["reasons"][0] == "kernel of bookworm panicked: Fatal exception (console line 70000)"


def test_a_panic_that_only_libvirt_saw(story: Any, sound: Sound) -> None:
    verdict = judged(story, sound, START, domain("crashed", detail="its kernel panicked"), END)
    assert verdict["exit_code"] == 1
    assert verdict["reasons"][0] == "kernel of bookworm panicked: libvirt: its kernel panicked"


def test_a_death_is_counted_once(story: Any, sound: Sound) -> None:
    story.consoles["bookworm"] += PANIC
    verdict = judged(story, sound, START, KERNEL, domain("crashed"), END)
    assert len(verdict["guests"][0]["console"]["trouble"]) == 1


def test_a_suite_that_the_watcher_ended_is_explained(story: Any, sound: Sound) -> None:
    """Policy says that any complaint ends the suite: the kernel has said no, the infrastructure has not failed."""
    del story.smoke[2:]
    story.phases[3:3] = [{"phase": "run", "event": "end", "time": 1795230020, "guest": "bookworm", "status": "failed", "error": "stopped"}]
    warning = {**KERNEL, "kind": "warning", "text": "WARNING: CPU: 0 PID: 1 at a.c:1 f+0x1/0x2", "fatal": False}
    assert judged(story, sound, START, {**warning, "stop": False}, END)["exit_code"] == 2
    assert judged(story, sound, START, warning, END)["exit_code"] == 1


def test_a_reboot_is_the_suite_s_own_business(story: Any, sound: Sound) -> None:
    assert judged(story, sound, START, domain("rebooted"), END)["verdict"] == "passed"


def test_the_last_watch_counts(story: Any, sound: Sound) -> None:
    assert judged(story, sound, START, KERNEL, START, END)["verdict"] == "passed"


def test_a_torn_last_line_is_a_watcher_that_was_killed(story: Any, sound: Sound) -> None:
    judged(story, sound, START, END)
    story.watch = json.dumps(START) + "\n" + json.dumps(END)[:20]
    verdict = story.verdict()
    sound(verdict)
    assert verdict["exit_code"] == 2
    assert "the watcher went away" in " ".join(verdict["reasons"])


def test_an_allow_list_in_the_job(story: Any, sound: Sound) -> None:
    story.consoles["bookworm"] += "[    1.000000] WARNING: CPU: 0 PID: 1 at kernel/a.c:1 f+0x1/0x2\n"
    story.job["console_allow"] = [{"pattern": "kernel/a.c", "reason": "https://example.org/1", "expires": "2026-11-21"}]
    verdict = story.verdict()
    sound(verdict)
    assert verdict["verdict"] == "passed"
    assert verdict["guests"][0]["console"]["allowed"][0]["allowed"] == "https://example.org/1"
    report = _report.to_report(verdict, _report.Logs(story.consoles, {}))
    assert "1 complaint allowed" in report
    assert "f+0x1/0x2: https://example.org/1</li>" in report
    story.job["console_allow"][0]["expires"] = "2026-11-20"
    assert story.verdict()["exit_code"] == 1
    story.job["console_allow"] = [{"pattern": "("}]
    assert story.verdict()["exit_code"] == 2
