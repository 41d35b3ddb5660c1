# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The summary of a CI's step: it tells the verdict, it fits, and a guest's words stay words."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.mayfly.virt.plugins.module_utils import _step_summary

HOSTILE = (
    "@all #1 www.example.org https://evil.example [x](http://evil) ![i](u) **b** `c` | d <img src=x> "
    "</code></pre>\n# head\n\n- e &#60; \u202e"
)
# What is ours; all else has to be letters, spaces and numbers of characters.
OURS = re.compile(
    r"</?(?:code|pre|details|summary)>|^\| \| suite [a-z |]+\|$|^#{3,4} [\u2600-\U0001ffff\ufe0f]* ?[A-Z][a-z :]*$|"
    r"^- \[|\]\(<https?://[A-Za-z0-9./?=&-]+>\): |^- |^\|[-:|]+\|$|^\| | \| | \|$|&#\d+;|\*\*overdue\*\*",
    re.MULTILINE,
)


def summary(verdict: dict[str, Any], **more: Any) -> str:
    """Write it and check that nothing in it could mean something to Markdown or HTML but what is ours."""
    text = _step_summary.to_step_summary(verdict, **more)
    rest = OURS.sub("", text)
    assert not re.search(r"[<>\[\]@#`*_~|\\]|www\.|://", rest), rest
    assert "\n\n" not in "".join(re.findall(r"<pre>.*?</pre>", text, re.DOTALL))
    return text


def test_a_failed_run(story: Any) -> None:
    story.fail(2, "Failed test 'x'\n got: 3")
    verdict = story.verdict()
    verdict["suites"][0]["tests"][1]["clue"] = {"file": "suites/smoke/bookworm/stderr.log", "line": 7, "text": "error: no disk"}
    words = html.unescape(summary(verdict))
    assert words.startswith("### \u274c Mayfly: failed\n\n<code>1 of 3 tests failed</code> in 29.0 s, job <code>smoke</code>, run ")
    assert "- <code>smoke@bookworm: 1 of 3 tests failed</code>" in words
    assert "<summary><code>smoke@bookworm</code> 2 <code>test 2</code> fail</summary><pre>got: 3\nsuites/smoke/bookworm/stderr.log" in words
    assert "| \u274c failed | <code>smoke</code> | <code>bookworm</code> | 2 | 1 | 0 | 0 | 0.3 s |" in words


def test_a_daemon_that_hung_and_what_a_test_left_behind(story: Any) -> None:
    story.fail(2, "libvirtd hangs: no answer for 10 s")
    story.smoke[3]["status"] = "daemon_hang"
    verdict = story.verdict()
    verdict["suites"][0]["tests"][1]["libvirt"] = {"leaked": ["domain tck", HOSTILE], "daemons": {}}
    words = html.unescape(summary(verdict))
    assert "<code>1 of 3 tests failed, 1 with a daemon that hung</code>" in words
    assert "<code>test 2</code> daemon hang</summary><pre>libvirtd hangs: no answer for 10 s\nleft behind: domain tck\n" in words
    assert "| 2 | 1 | 0 | 0 | 0.3 s |" in words


def test_a_good_run_is_short(story: Any) -> None:
    text = summary(story.verdict())
    assert text.startswith("### \u2705 Mayfly: passed\n")
    assert "Failed" not in text
    assert text.count("\n") == 7


def test_known_issues_are_linked_and_the_baseline_is_told(story: Any) -> None:
    story.fail(2, "got: 3")
    entry = {"id": "bpf-12", "issue": "https://example.org/i?n=12&x=1", "owner": "@net", "review_by": "2026-12-31", "signature": "got: 3"}
    baseline = {"source": "x", "run_id": "r0", "verdict": "passed", "started": None, "tests": {"s": {"g": {"pass": ["gone"]}}}}
    story.job["policy"] = {"known_issues": [entry], "baseline": baseline}
    text = summary(story.verdict())
    assert "- [bpf&#45;12](<https://example.org/i?n=12&x=1>): 1 test, <code>&#64;net</code>, review by 2026-12-31" in text
    assert "Run <code>r0</code>: no test in common, 1 lost, 3 new" in text
    assert "Lost:\n\n- <code>s&#64;g</code> <code>gone</code>" in text


def test_what_a_guest_says_stays_text(story: Any) -> None:
    story.fail(2, HOSTILE)
    story.smoke[3]["name"] = HOSTILE
    story.consoles["bookworm"] += f"[    1.0] Oops: {HOSTILE}\n"
    story.end["leftovers"] = [HOSTILE]
    words = html.unescape(summary(story.verdict()))
    assert "@all #1 www.example.org https://evil.example" in words


@settings(deadline=None, max_examples=80)
@given(name=st.text(max_size=40), message=st.text(st.sampled_from("<>&\"'/!-]\\`@#*_|~=+()[ \n\u202e\u200b\ud7ffaw.:"), max_size=60))
def test_no_text_becomes_markup(new_story: Callable[[], Any], name: str, message: str) -> None:
    story = new_story()
    story.fail(2, message)
    story.smoke[3]["name"] = name
    story.phases[3].update(status="failed", error=message)
    summary(story.verdict()).encode("utf-8")


@pytest.mark.parametrize("room", [_step_summary.ROOM, 5000, 700, 0])
def test_it_fits(story: Any, room: int) -> None:
    story.job["guests"] = [{"name": f"guest-{number}"} for number in range(300)]
    test = story.good_events("smoke")[2]
    for guest in story.job["guests"]:
        events = story.good_events("smoke")
        events[2:5] = [{**test, "number": n, "status": "fail", "message": "&<" * 4000} for n in (1, 2, 3)]
        story.events["smoke", guest["name"]] = events
    text = summary(story.verdict(), room=room)
    assert len(text.encode()) <= max(room, 200)
    assert "More in report.html" in text or room == _step_summary.ROOM
