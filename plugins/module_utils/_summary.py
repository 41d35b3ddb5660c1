# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The verdict as summary.txt: what a person reads first. Pure."""

from __future__ import annotations

from typing import Any

from ._baseline import KINDS
from ._clues import said_by
from ._console import death, last_words
from ._events import failed_count, is_number, suite_label
from ._failures import headlines
from ._outcome import is_red
from ._verdict import phase_name

SUMMARY_LINES = 40

Data = dict[str, Any]

_TEST_MARKS = {"fail": "FAIL", "error": "ERROR", "timeout": "TIMEOUT", "daemon_hang": "DAEMON HANG", "not_run": "NOT RUN"}
_CLUE = "      in "
_SUMMARY_TESTS = 8  # as many of these as there are lines for
_SUMMARY_REASONS = 5
_SUMMARY_SUITES = 6


def to_summary(verdict: Data) -> str:
    """Return summary.txt: at most 40 lines, the bad news first."""
    blocks = [_reasons_block(verdict), _suites_block(verdict), _facts_block(verdict)]
    rest = [line for block in blocks if block for line in ["", *block]]
    failed = _failed_block(verdict, SUMMARY_LINES - 2 - len(rest))
    lines = [_headline(verdict), *([""] if failed else []), *failed, *rest]
    return "\n".join(_plain(line) for line in lines) + "\n"


def _plain(line: str) -> str:
    """Names come from the guest: no control characters, no endless lines."""
    text = "".join(char if char.isprintable() else "\ufffd" for char in line).rstrip()
    return text if len(text) <= 160 else text[:159] + "\u2026"


def _headline(verdict: Data) -> str:
    what = f"  job {verdict['job']}" if verdict["job"] else ""
    took = "" if verdict["duration"] is None else f"  {seconds_text(verdict['duration'])}"
    return f"{verdict['verdict'].upper()}  run {verdict['run_id']}{what}  {tally(verdict)}{took}"


def tally(verdict: Data) -> str:
    """What came out, in one line."""
    tests = verdict["totals"]["tests"]
    total = sum(tests.values())
    red = failed_count(tests)
    parts = [f"{red} of {total} tests failed" if red else f"{tests['pass']} of {total} tests passed"]
    if verdict["verdict"] == "error":
        parts.insert(0, "no true verdict")
    parts[:0] = _kernel_parts(verdict["guests"])
    parts += [f"{tests[status]} {text}" for status, text in _HEADLINE_EXTRAS if tests[status]]
    return ", ".join(parts)


_HEADLINE_EXTRAS = (
    ("daemon_hang", "with a daemon that hung"),
    ("not_run", "not run"),
    ("skip", "skipped"),
    ("known", "known to fail"),
    ("flaky", "flaky"),
    ("xpass", "unexpectedly passed"),
)


def _kernel_parts(guests: list[Data]) -> list[str]:
    """The deaths of kernels, then their complaints."""
    deaths = {guest["name"]: line for guest in guests if (line := death(guest["console"]))}
    sick = [guest["name"] for guest in guests if guest["console"]["trouble"] and guest["name"] not in deaths]
    parts = [f"kernel of {name} panicked: {last_words(line)[:60]}" for name, line in deaths.items()]
    if len(parts) > 1:
        parts = [f"kernels of {_some(list(deaths))} panicked"]
    return parts + ([f"kernel trouble on {_some(sick)}"] if sick else [])


def _some(guests: list[str]) -> str:
    return ", ".join(guests) if len(guests) <= 3 else f"{len(guests)} guests"


def _failed_block(verdict: Data, room: int) -> list[str]:
    """The tests that failed, each with what was asserted and the first line in the logs that may say why."""
    failed = [(suite, test) for suite in verdict["suites"] for test in suite["tests"] if is_red(test, _fail_on(verdict)) and _is_told(test)]
    if not failed:
        return []
    failed.sort(key=lambda pair: pair[1]["status"] == "not_run")
    lines = ["Failed tests"]
    shown = 3 if len(failed) <= 2 else 1  # what was expected and what was got often follow
    told: set[str] = set()
    for number, (suite, test) in enumerate(failed):
        entry = [line for line in _failed_lines(suite, test, shown) if line not in told]  # one panic is the clue to all after it
        told.update(line for line in entry if line.startswith(_CLUE))
        last = number + 1 == len(failed)
        if number == _SUMMARY_TESTS or len(lines) + len(entry) + (0 if last else 1) > room:
            return lines + _more(len(failed) - number)
        lines += entry
    return lines


def _fail_on(verdict: Data) -> list[str]:
    return list(verdict["policy"]["fail_on"])


def _is_told(test: Data) -> bool:
    """A test that was not run says nothing, unless it says why."""
    return bool(test["status"] != "not_run" or test["message"])


def _failed_lines(suite: Data, test: Data, shown: int) -> list[str]:
    mark = _TEST_MARKS.get(test["status"], test["status"].upper())
    lines = [f"  {suite_label(suite)}  {test['number']} {test['name'] or '(no name)'}  {mark}"]
    lines += [f"      {line}" for line in headlines(test, shown)]
    clue = test.get("clue")
    if clue:
        lines.append(f"{_CLUE}{clue['file'].rpartition('/')[2]} line {clue['line']}: {said_by(clue)}")
    return lines


def _reasons_block(verdict: Data) -> list[str]:
    if not verdict["reasons"]:
        return []
    lines = ["Reasons", *(f"  {_one_line(reason)}" for reason in verdict["reasons"][:_SUMMARY_REASONS])]
    return lines + _more(len(verdict["reasons"]) - _SUMMARY_REASONS)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _more(count: int) -> list[str]:
    return [f"  and {count} more in verdict.json"] if count > 0 else []


def _suites_block(verdict: Data) -> list[str]:
    """Guest by suite; the bad ones first, so that a long list loses only good news."""
    suites = sorted(verdict["suites"], key=lambda suite: suite["status"] in ("passed", "skipped"))
    if not suites:
        return []
    rows: list[tuple[str, ...]] = [("suite", "guest", "result", "pass", "fail", "skip", "other", "time")]
    rows += [_suite_row(suite) for suite in suites[:_SUMMARY_SUITES]]
    widths = [min(40, max(len(row[column]) for row in rows)) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        left = [f"{cell[:40]:<{width}}" for cell, width in zip(row[:3], widths)]
        right = [f"{cell:>{width}}" for cell, width in zip(row[3:], widths[3:])]
        lines.append("  " + "  ".join([*left, *right]))
    return [*lines, *_more(len(suites) - _SUMMARY_SUITES)]


def _suite_row(suite: Data) -> tuple[str, ...]:
    counts = suite["counts"]
    failed = failed_count(counts)
    other = counts["known"] + counts["flaky"] + counts["xpass"] + counts["not_run"]
    numbers = [str(number) for number in (counts["pass"], failed, counts["skip"], other)]
    time = "-" if suite["duration"] is None else seconds_text(suite["duration"])
    return (suite["name"], suite["guest"], suite["status"].upper(), *numbers, time)


def _facts_block(verdict: Data) -> list[str]:
    lines = []
    told = [entry for entry in verdict["phases"] if entry["guest"] is None or entry["status"] == "failed"]
    phases = [f"{phase_name(entry)} {_phase_time(entry)}" for entry in told]
    if phases:
        lines.append("Phases    " + ", ".join(phases))
    guests = [guest_text(guest) for guest in verdict["guests"]]
    if guests:
        lines.append("Guests    " + ", ".join(guests))
    unread = [guest["name"] for guest in verdict["guests"] if not guest["console"]["read"]]
    if unread:
        lines.append("Console   not read: " + ", ".join(unread))
    lines += _known_lines(verdict["known_issues"]) + _baseline_lines(verdict["baseline"])
    notes = [f"{suite_label(suite)}: {note}" for suite in verdict["suites"] for note in suite["notes"]]
    lines += [f"Note      {_one_line(note)}" for note in notes[:2]]
    return [*lines, "Evidence  report.html, verdict.json, junit.xml, suites/<suite>/<guest>/, guests/<guest>/"]


def _known_lines(issues: list[Data]) -> list[str]:
    matched = [entry for entry in issues if entry["matched"]]
    told = [f"{entry['id']}{' OVERDUE' if entry['expired'] else ''} ({entry['matched']}) {entry['issue']}" for entry in matched[:2]]
    more = [f"and {len(matched) - 2} more"] if len(matched) > 2 else []
    return ["Known     " + ", ".join([*told, *more])] if told else []


def _baseline_lines(comparison: Data | None) -> list[str]:
    return [] if comparison is None else [f"Baseline  {comparison['run_id']}: {baseline_text(comparison)}"]


def baseline_text(comparison: Data) -> str:
    """What has changed since the baseline, in one line."""
    counts = comparison["counts"]
    if not counts["compared"]:
        return f"no test in common, {counts['lost']} lost, {counts['added']} new"
    told = [f"{counts[kind]} {kind.replace('_', ' ')}" for kind in KINDS if counts[kind]]
    return ", ".join(told) or f"nothing changed in {counts['compared']} tests"


def _phase_time(entry: Data) -> str:
    if entry["status"] == "failed":
        return "FAILED" if entry["duration"] is None else f"FAILED after {seconds_text(entry['duration'])}"
    return "-" if entry["duration"] is None else seconds_text(entry["duration"])


def guest_text(guest: Data) -> str:
    details = [str(guest[key]) for key in ("image", "kernel", "accel") if guest.get(key)]
    seconds = guest.get("seconds")
    if isinstance(seconds, dict) and is_number(seconds.get("ready")):
        details.append(f"ready after {seconds['ready']:.0f} s")
    return f"{guest['name']} ({', '.join(details)})" if details else str(guest["name"])


def seconds_text(value: float) -> str:
    return f"{value:.1f} s" if value < 120 else f"{int(value) // 60} min {int(value) % 60} s"
