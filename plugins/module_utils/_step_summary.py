# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The verdict as Markdown for the summary of a CI's step, as GitHub and Gitea show it. Pure.

Whatever a guest said stands in a code element, every character that means something to Markdown or HTML as a number: there it can be no
link, no mention, no heading and no tag. The only links are those of known issues, whose form was checked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from ._events import diagnostics, failed_count, suite_label
from ._kept import leaked_by
from ._outcome import is_red
from ._summary import baseline_text, seconds_text, tally

ROOM = 1000 * 1024  # bytes; GitHub refuses a step's summary of more than 1024 KiB as a whole
TESTS = 50
REASONS = 20
SUITES = 200
ISSUES = 50
CHANGES = 20
TEXT_LIMIT = 300
MESSAGE_LINES = 20
LEAKS = 5

Data = dict[str, Any]

_SPECIAL = re.compile(r"[^A-Za-z0-9 \u00a1-\uffff]")
_UNPRINTABLE = re.compile("[\ud800-\udfff\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\uffff]")
_MARKS = {"passed": "\u2705", "skipped": "\u23ed\ufe0f", "failed": "\u274c", "timeout": "\u23f1\ufe0f", "error": "\U0001f4a5"}


def to_step_summary(verdict: Data, room: int = ROOM) -> str:
    """Return step-summary.md, or as many of its parts as there is room for, the most telling first."""
    parts = [_head(verdict), _reasons(verdict), _failed(verdict), _suites(verdict), _known(verdict), _baseline(verdict)]
    kept: list[str] = []
    for part in parts:
        text = "\n".join(part)
        room -= len(text.encode("utf-8")) + 2
        if room < 200:
            kept.append("More in report.html and verdict.json.")
            break
        if text:
            kept.append(text)
    return "\n\n".join(kept) + "\n"


def _code(value: Any, limit: int = TEXT_LIMIT) -> str:
    text = " ".join(str(value).split())
    shown = text if len(text) <= limit else text[:limit] + "\u2026"
    return f"<code>{_literal(shown)}</code>"


def _literal(text: str) -> str:
    """Return a text in which no character means anything."""
    return _SPECIAL.sub(lambda match: _number(match[0]), _UNPRINTABLE.sub("\ufffd", text))


def _number(char: str) -> str:
    return f"&#{ord(char)};" if char.isprintable() else "\ufffd"


def _head(verdict: Data) -> list[str]:
    job = f" job {_code(verdict['job'])}," if verdict["job"] else ""
    took = "" if verdict["duration"] is None else f" in {seconds_text(verdict['duration'])}"
    title = f"### {_MARKS[verdict['verdict']]} Mayfly: {verdict['verdict']}"
    return [title, "", f"{_code(tally(verdict), 500)}{took},{job} run {_code(verdict['run_id'])}"]


def _reasons(verdict: Data) -> list[str]:
    reasons = verdict["reasons"]
    return _more([f"- {_code(reason)}" for reason in reasons[:REASONS]], len(reasons) - REASONS, "- ")


def _failed(verdict: Data) -> list[str]:
    fail_on = verdict["policy"]["fail_on"]
    red = [(suite, test) for suite in verdict["suites"] for test in suite["tests"] if is_red(test, fail_on) and test["status"] != "not_run"]
    lines = ["#### Failed tests"] if red else []
    for suite, test in red[:TESTS]:
        lines += ["", *_failed_test(suite, test)]
    return _more(lines, len(red) - TESTS, "\n")


def _failed_test(suite: Data, test: Data) -> list[str]:
    status = test["status"].replace("_", " ")
    title = f"{_code(suite_label(suite))} {test['number']} {_code(test['name'] or '(no name)')} {status}"
    said = [_literal(line[:TEXT_LIMIT]) for line in diagnostics(test["message"])[:MESSAGE_LINES]]
    clue = test.get("clue")
    if clue:
        said.append(_literal(f"{clue['file']}, line {clue['line']}: {clue['text']}"[: 2 * TEXT_LIMIT]))
    said += [_literal(f"left behind: {name}") for name in leaked_by(test)[:LEAKS]]
    # No empty line may stand in it: it would end the HTML and begin Markdown.
    log = f"<pre>{'&#10;'.join(said)}</pre>" if said else ""
    return [f"<details><summary>{title}</summary>{log}</details>"]


def _suites(verdict: Data) -> list[str]:
    suites = sorted(verdict["suites"], key=lambda suite: suite["status"] in ("passed", "skipped"))
    if not suites:
        return []
    lines = ["| | suite | guest | pass | fail | skip | other | time |", "|-|-|-|-:|-:|-:|-:|-:|"]
    for suite in suites[:SUITES]:
        counts = suite["counts"]
        numbers = [counts["pass"], failed_count(counts), counts["skip"]]
        numbers.append(sum(counts.values()) - sum(numbers))
        time = "" if suite["duration"] is None else seconds_text(suite["duration"])
        cells = [f"{_MARKS[suite['status']]} {suite['status']}", _code(suite["name"]), _code(suite["guest"]), *map(str, numbers), time]
        lines.append(f"| {' | '.join(cells)} |")
    return _more(lines, len(suites) - SUITES, "\n")


def _known(verdict: Data) -> list[str]:
    matched = [entry for entry in verdict["known_issues"] if entry["matched"]]
    lines = ["#### Known issues", ""] if matched else []
    for entry in matched[:ISSUES]:
        due = f"**overdue** since {entry['review_by']}" if entry["expired"] else f"review by {entry['review_by']}"
        lines.append(f"- [{_literal(entry['id'])}](<{entry['issue']}>): {_tests(entry['matched'])}, {_code(entry['owner'])}, {due}")
    return _more(lines, len(matched) - ISSUES, "- ")


def _baseline(verdict: Data) -> list[str]:
    comparison = verdict["baseline"]
    if comparison is None:
        return []
    lines = ["#### Since the baseline", "", f"Run {_code(comparison['run_id'])}: {baseline_text(comparison)}"]
    for kind in ("newly_failing", "lost"):
        found = comparison[kind]
        if found:
            lines += ["", f"{kind.replace('_', ' ').capitalize()}:", ""]
            lines += [f"- {_code(suite_label({**entry, 'name': entry['suite']}))} {_code(entry['name'])}" for entry in found[:CHANGES]]
            lines = _more(lines, comparison["counts"][kind] - CHANGES, "- ")
    return lines


def _tests(count: int) -> str:
    return "1 test" if count == 1 else f"{count} tests"


def _more(lines: Iterable[str], count: int, lead: str) -> list[str]:
    return [*lines, *([f"{lead}and {count} more in verdict.json"] if count > 0 else [])]
