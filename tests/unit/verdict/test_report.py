# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""report.html: it tells what the verdict tells, it stays small, and nothing a guest says becomes part of the page."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.mayfly.virt.plugins.module_utils import _events, _report, _report_html, _report_page, _verdict

VOID = {"meta", "input", "rect"}
TAGS = re.compile(
    "html|head|title|style|body|script|header|h[123]|p|nav|a|button|section|[uo]l|li|div|table|thead|tbody|t[rhd]|small|span|details|"
    "summary|pre|[ib]|mark|noscript|select|option|output|svg|meta|input|rect"
)
ATTRIBUTES = re.compile(
    "lang|charset|http-equiv|content|name|class|id|href|type|hidden|aria-label|aria-live|aria-hidden|role|scope|tabindex|data-suite|"
    "open|rel|value|placeholder|viewbox|preserveaspectratio|x|y|width|height"
)
HOSTILE = "</script><script>alert(1)</script><!--<img src=x onerror=alert(1)>\"'&amp;\u2028\u2029\u202e\x00\x1b]0;x\x07{body}%s"


class Page(HTMLParser):
    """The page's elements and texts. Raises AssertionError where it is not ours or not balanced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[tuple[tuple[str, ...], str]] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()
        assert self.open == []
        self.scripts = [text for path, text in self.texts if path[-1:] == ("script",)]
        self.data = json.loads(self.scripts[0])
        self.words = "".join(text for path, text in self.texts if path[-1:] not in (("script",), ("style",)))
        self.ids = [attributes["id"] for _tag, attributes in self.elements if "id" in attributes]
        self.links = [attributes["href"] for tag, attributes in self.elements if tag == "a"]

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        assert TAGS.fullmatch(tag)
        assert all(ATTRIBUTES.fullmatch(name) for name, _value in attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        assert tag in VOID
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((tuple(self.open), data))

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")


def report(verdict: dict[str, Any], **logs: Any) -> Page:
    """Write the report and check what holds for each."""
    text = _report.to_report(verdict, _report.Logs(**logs))
    text.encode("utf-8")
    seen = Page(text)
    assert len(seen.scripts) == 2
    assert seen.scripts[1] == _report_page.SCRIPT
    assert len(seen.ids) == len(set(seen.ids))
    issues = [entry["issue"] for entry in verdict["known_issues"]]
    for link in seen.links:
        inside = link[1:] in seen.ids if link.startswith("#") else re.fullmatch(r"(suites|guests)/[A-Za-z0-9._/%-]+\.log", link)
        assert inside or link in issues
    # What leads away says so: no address of the report goes with it.
    assert all(attributes.get("rel") == "noreferrer" for tag, attributes in seen.elements if tag == "a" and attributes["href"] in issues)
    assert not re.search(r"https?:|//[a-z]|url\(|@import|\bfetch\(|XMLHttp|WebSocket|\bimport\(", _report_page.STYLE + _report_page.SCRIPT)
    assert not any(char in seen.words for char in "\x00\x1b\u2028\u202e")
    return seen


def story_report(story: Any, **logs: Any) -> tuple[dict[str, Any], Page]:
    verdict = story.verdict()
    return verdict, report(verdict, consoles=story.consoles, **logs)


def test_it_runs_its_own_script_and_loads_nothing(story: Any) -> None:
    seen = story_report(story)[1]
    policy = next(attributes["content"] for tag, attributes in seen.elements if attributes.get("http-equiv") == "Content-Security-Policy")
    for kind, text in (("script", _report_page.SCRIPT), ("style", _report_page.STYLE)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy


def test_a_good_run(story: Any) -> None:
    verdict, seen = story_report(story)
    assert "reasons" not in seen.ids
    assert seen.words.lstrip().startswith("passed: smoke")
    for text in ("3 of 3 tests passed", "\u2713 quiet", "\u2713 None.", "prepare", "9.0 s, 31 %", "6.1.0-32"):
        assert text in seen.words
    assert [row[1:4] for row in seen.data["rows"]] == [[n, f"test {n}", 0] for n in (1, 2, 3)]
    assert seen.data["suites"] == ["smoke@bookworm"]
    assert len(verdict["suites"]) == 1


def test_a_failure_comes_with_what_was_said_around_it(story: Any) -> None:
    story.fail(2, "Failed test 'x'\ngot 3 < 4")
    stdout = "1..3\nok 1 - a\nsetting up\nnot ok 2 - b\n# got 3 < 4\nok 3 - c\nthe last word\n"
    verdict, seen = story_report(story, outputs={("smoke", "bookworm", "stdout.log"): stdout, ("smoke", "bookworm", "stderr.log"): "oh\n"})
    for reason in verdict["reasons"]:
        assert reason in seen.words
    regions = {attributes["aria-label"]: index for index, (tag, attributes) in enumerate(seen.elements) if tag == "pre"}
    assert {"diagnostics", "output around the test", "stdout.log", "stderr.log"} <= set(regions)
    pres = ["".join(text for path, text in seen.texts if path[-1:] == ("pre",))][0]
    assert "setting up\nnot ok 2 - b\n# got 3 < 4" in pres
    assert pres.index("setting up") < pres.index("the last word")
    assert "1 of 3 red" in seen.words
    assert "suites/smoke/bookworm/stdout.log" in seen.links
    assert "#suite-0" in seen.links
    assert [row[1] for row in seen.data["rows"]] == [2, 1, 3]


def test_tap_slices_keep_to_their_test() -> None:
    lines = ["ok 1", *["noise"] * 100, "not ok 2", *["more"] * 100, "ok 3"]
    slices = _report._tap_slices(lines)
    assert slices[2] == ["noise"] * _report.SLICE + ["not ok 2"] + ["more"] * _report.SLICE
    assert slices[1][0] == "ok 1"


def test_the_console_around_a_complaint(story: Any) -> None:
    quiet = [f"[    {n}.000000] line {n}" for n in range(1, 1001)]
    quiet[499] = "[  500.000000] Oops: 0002 [#1]\r"
    quiet[509] = "[  510.000000] ---[ end trace 0 ]---"
    story.consoles["bookworm"] = "\n".join(quiet) + "\n"
    verdict, seen = story_report(story)
    assert "console-0-500" in seen.ids
    assert "#console-0-500" in seen.links
    assert "".join(text for path, text in seen.texts if path[-1:] == ("mark",)) == "[  500.000000] Oops: 0002 [#1]"
    splat = [text for path, text in seen.texts if path[-1:] == ("b",)]
    assert (splat[0], splat[-1]) == ("[    501.000000] line 501", quiet[509])
    assert "494 lines left out" in seen.words
    assert "line 1000" in seen.words
    assert "] line 300\n" not in seen.words
    assert verdict["reasons"][0] in seen.words


def test_a_panic_after_a_storm_is_reached(story: Any) -> None:
    storm = "[    1.000000] Oops: 0002 [#1]\n" * 1500 + "quiet\n" * 500
    story.consoles["bookworm"] = storm + "[   42.000000] Kernel panic - not syncing: dead\n" + "quiet\n" * 500
    seen = story_report(story)[1]
    assert "#console-0-2001" in seen.links
    assert "console-0-2001" in seen.ids


def test_a_console_nobody_read_is_not_called_quiet(story: Any) -> None:
    story.consoles.clear()
    seen = story_report(story)[1]
    assert "not read" in seen.words
    assert "\u2713 quiet" not in seen.words


def test_failed_phases_and_errors_are_told(story: Any) -> None:
    story.phases[3].update(status="failed", error="two <lines>\nof it")
    story.events.clear()
    verdict, seen = story_report(story)
    assert "two <lines>\nof it" in seen.words
    for reason in verdict["reasons"]:
        assert reason in seen.words


def test_a_run_without_anything_has_a_report() -> None:
    seen = report(_verdict.judge(_verdict.Evidence(run_id="x")))
    assert seen.data["rows"] == []
    assert "\u2713 None." not in seen.words
    assert "there is no job.json" in seen.words


@pytest.mark.parametrize("spoil", ["name", "message", "directive"])
def test_hostile_tests(story: Any, spoil: str, sound: Callable[[Any], None]) -> None:
    story.fail(1)
    story.smoke[2][spoil] = HOSTILE
    verdict, seen = story_report(story)
    sound(verdict)
    assert any("</script><script>alert(1)" in str(value) for value in seen.data["rows"][0])
    assert "\u2400" in json.dumps(seen.data["rows"][0], ensure_ascii=False)
    assert "<U+202E>" in json.dumps(seen.data["rows"][0], ensure_ascii=False)


def test_hostile_everything_else(story: Any) -> None:
    story.job.update(job=HOSTILE, accel=HOSTILE, more={HOSTILE: [HOSTILE], "deep": {"er": {HOSTILE: {HOSTILE: {HOSTILE: 1}}}}})
    story.job["guests"][0].update(image=HOSTILE, seconds={HOSTILE: 3, "ready": HOSTILE})
    story.facts["bookworm"] = json.dumps({HOSTILE: HOSTILE})
    story.phases[3].update(status="failed", error=HOSTILE, guest=HOSTILE)
    story.consoles = {"bookworm": f"[    1.000000] Oops: {HOSTILE}\n", HOSTILE.replace("/", ""): f"{HOSTILE}\nBUG: {HOSTILE}\n"}
    story.events["x y?#" + HOSTILE.replace("/", ""), "javascript:alert(1)"] = ["{"]
    story.end.update(leftovers=[HOSTILE], error=HOSTILE)
    seen = story_report(story, outputs={("smoke", "bookworm", "stdout.log"): HOSTILE})[1]
    assert "</script><script>alert(1)" in seen.words


@settings(deadline=None, max_examples=60)
@given(text=st.text(max_size=60), message=st.text(st.sampled_from("<>&\"'/!-]\\\x1b\u2028\u202e\ud7ffa\n"), max_size=60))
def test_whatever_a_guest_says_stays_text(new_story: Callable[[], Any], text: str, message: str) -> None:
    story = new_story()
    story.fail(1, message)
    story.smoke[2]["name"] = text
    story.consoles["bookworm"] = f"{text}\n[    1.0] Oops: {message}\n{text}"
    verdict, seen = story_report(story, outputs={("smoke", "bookworm", "stdout.log"): message})
    assert len(seen.data["rows"]) == 3
    assert seen.data["rows"][0][2] == _report_html.visible(text)
    assert verdict["verdict"] == "failed"


@given(st.text())
def test_embedded_json_is_the_same_and_closes_nothing(text: str) -> None:
    embedded = _report_html.embed([text])
    assert not set(embedded) & set("<>&\u2028\u2029")
    assert json.loads(embedded) == [text]


ISSUE = {"id": "bpf-12", "issue": "https://example.org/i?a=1&b='2'", "owner": "<b>net", "review_by": "2026-12-31", "signature": "got: 3"}


def test_known_flaky_and_changed(story: Any, sound: Callable[[Any], None]) -> None:
    story.fail(2, "got: 3")
    story.smoke[2]["status"] = "flaky"
    baseline = {"source": "old<", "run_id": "r0", "verdict": "passed", "started": None, "tests": {"s": {"g<": {"pass": ["<gone>"]}}}}
    story.job["policy"] = {"known_issues": [ISSUE], "baseline": baseline}
    verdict = story.verdict()
    sound(verdict)
    verdict["suites"][0]["tests"][0]["attempts"] = [
        {"status": "fail", "duration": 1, "message": f"first try {HOSTILE}"},
        {"status": "pass", "duration": 1, "message": ""},
    ]
    seen = report(verdict)
    assert ISSUE["issue"] in seen.links
    assert "#changes" in seen.links
    for text in (
        "bpf-12",
        "<b>net",
        "~ flaky",
        "try 1: fail first try </script>",
        "try 2: pass",
        "1 lost",
        "s@g< <gone>: pass \u2192 gone",
    ):
        assert text in seen.words
    assert seen.data["issues"] == [["bpf-12", ISSUE["issue"]]]
    known = next(row for row in seen.data["rows"] if row[1] == 2)
    assert (known[5], known[-1]) == (0, 0)
    assert known[3] == _events.STATUSES.index("known")


def test_there_are_no_changes_to_show(story: Any) -> None:
    assert "changes" not in story_report(story)[1].ids


def test_what_the_job_calls_red_is_red(story: Any) -> None:
    story.smoke[2]["status"] = "flaky"
    story.job["policy"] = {"fail_on": ["flaky"]}
    seen = story_report(story)[1]
    assert "1 of 3 red" in seen.words
    assert [row[5] for row in seen.data["rows"]] == [1, 0, 0]
    assert "~ flaky 1 test 1" in seen.words


def test_the_guilty_line_is_shown_and_linked(story: Any) -> None:
    story.fail(2)
    verdict = story.verdict()
    verdict["suites"][0]["tests"][1]["clue"] = {"file": "suites/smoke/bookworm/stderr.log", "line": 7, "text": HOSTILE}
    seen = report(verdict)
    assert "suites/smoke/bookworm/stderr.log" in seen.links
    assert "suites/smoke/bookworm/stderr.log, line 7" in seen.words


def big(story: Any, guests: int, tests: int, message: str = "") -> dict[str, Any]:
    """A verdict as judge() gives it, of many tests; all fail if they have a message."""
    status = "fail" if message else "pass"
    names = [f"guest-{number:02}" for number in range(guests)]
    story.job["guests"] = [{"name": name} for name in names]
    start, plan, test, *_others, end = story.good_events("smoke")
    lines = [
        {**test, "number": n, "name": f"the {n}th assertion of a name of the usual length, about this", "status": status}
        for n in range(1, tests + 1)
    ]
    lines = [{**line, "message": message} for line in lines]
    end = {**end, "planned": tests, "seen": tests, "exit_status": int(bool(message))}
    story.events = {("smoke", name): [start, {**plan, "count": tests}, *lines, end] for name in names}
    story.consoles = dict.fromkeys(names, ("[    1.000000] Oops: <&>\n" if message else "quiet\n") * 3000)
    return {"verdict": story.verdict(), "consoles": story.consoles}


def test_twenty_guests_with_two_thousand_tests_fit(story: Any) -> None:
    run = big(story, 20, 2000)
    seen = report(run["verdict"], consoles=run["consoles"])
    assert len(seen.data["rows"]) == 40_000
    assert "more tests are counted" not in seen.words
    assert len(_report.to_report(run["verdict"], _report.Logs(run["consoles"])).encode()) < 8 << 20


def test_all_of_them_failing_at_length_fit_too(story: Any) -> None:
    """The worst a guest can do: texts that grow when they are escaped, everywhere."""
    run = big(story, 20, 300, "<&\x1b\u202e" * 4000)
    outputs = {("smoke", guest["name"], "stdout.log"): "<\u202e" * 400_000 for guest in run["verdict"]["guests"]}
    text = _report.to_report(run["verdict"], _report.Logs(run["consoles"], outputs))
    assert len(text.encode()) < 15 << 20
    seen = Page(text)
    listed = len(seen.data["rows"])
    total = sum(run["verdict"]["totals"]["tests"].values())
    assert listed == total or f"{total - listed} more tests are counted, but not listed here" in seen.words
    assert sum(1 for tag, attributes in seen.elements if str(attributes.get("id", "")).startswith("suite-")) == 20


def test_what_was_kept_of_a_guest_is_linked(story: Any, sound: Callable[[dict[str, Any]], None]) -> None:
    files = [{"name": "memory.vmcore", "bytes": 137272670, "cut": False}, {"name": "paths/a <b>&.log", "bytes": 7}]
    story.collected["bookworm"] = json.dumps({"files": files, "missing": {"screenshot.png": "the <monitor> is stuck"}})
    verdict = story.verdict()
    sound(verdict)
    report = _report.to_report(verdict, _report.Logs(story.consoles, {}))
    assert '<a href="guests/bookworm/memory.vmcore">memory.vmcore</a> 130.9 MiB' in report
    assert '<a href="guests/bookworm/paths/a%20%3Cb%3E%26.log">paths/a &lt;b&gt;&amp;.log</a> 7 B' in report
    assert "screenshot.png: the &lt;monitor&gt; is stuck" in report


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"files": 3}', '{"files": [{"name": "a"}]}', '{"files": [], "missing": []}'])
def test_a_list_of_files_that_cannot_be_read_is_said(story: Any, sound: Callable[[dict[str, Any]], None], text: str) -> None:
    story.collected["bookworm"] = text
    verdict = story.verdict()
    sound(verdict)
    assert "cannot be read" in verdict["guests"][0]["evidence"]["missing"]["evidence.json"]
