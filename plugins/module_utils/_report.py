# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The verdict as report.html: one page to look around in, without a network. Pure.

Nearly everything on it was said by a guest, so every text goes through visible() of _report_html.py and is escaped where it meets HTML, and
every kind of text has a room it cannot outgrow. What does not fit is left out, and the page says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from html import escape
from typing import Any
from urllib.parse import quote

from ._baseline import KINDS
from ._clues import tap_spans
from ._console import death
from ._events import STATUSES, deadline_text, is_number, suite_label
from ._failures import headlines
from ._kept import files_of, leaked_by
from ._outcome import attempts_of, is_red, red_count
from ._report_html import (
    LINE_LIMIT,
    Room,
    amount,
    badge,
    count_text,
    cut_text,
    embed,
    flat,
    fold,
    link_to,
    log_lines,
    log_text,
    name_text,
    pre,
    safe,
    section,
)
from ._report_kept import MESSAGE_LIMIT, Slices, attempts_text, evidence_of
from ._report_page import page
from ._summary import baseline_text, guest_text, seconds_text, tally
from ._verdict import PHASES, phase_name

# Bytes of HTML or JSON, 14 MB in all.
ROWS_ROOM = 6 << 20
FAILURES_ROOM = 2 << 20
CONSOLES_ROOM = 2 << 20
MATRIX_ROOM = 1 << 20
CHANGES_ROOM = 512 << 10
OTHER_ROOM = 256 << 10  # each of reasons, timeline and environment

ROW_MESSAGE_LIMIT = 1000
TAIL = 80  # lines of a suite's output
SLICE = 30  # lines before and after a test's result
CONSOLE_TAIL = 120
SPLATS = 20
BEFORE, AFTER = 5, 60  # lines around a splat
SUITE_FAILURES = 50
FILES = 40  # of a guest
REASONS = 10  # unfolded

Data = dict[str, Any]

_SUITE_SYMBOLS = {"passed": "\u2713", "failed": "\u2717", "timeout": "\u25f7", "skipped": "\u2212", "error": "!"}
_TEST_SYMBOLS = {
    "pass": "\u2713",
    "fail": "\u2717",
    "error": "!",
    "skip": "\u2212",
    "timeout": "\u25f7",
    "daemon_hang": "\u2016",
    "known": "\u2248",
    "flaky": "~",
    "xpass": "+",
    "not_run": "\u25cb",
}


@dataclass
class Logs:
    """The texts behind a verdict; of long ones their ends."""

    consoles: dict[str, str] = field(default_factory=dict)  # by guest
    outputs: dict[tuple[str, str, str], str] = field(default_factory=dict)  # by suite, guest and name of the file
    read: Callable[[str], str] = lambda _path: ""  # of a test, by its path
    find: Callable[[str], tuple[str, int] | None] = lambda _path: None  # where it is stored, and its size


def to_report(verdict: Data, logs: Logs) -> str:
    """Return report.html."""
    excerpts = _excerpts(verdict, logs)
    slices = Slices(logs.read, logs.find)
    rows = _rows(verdict)
    sections = [
        _header(verdict),
        _reasons(verdict, excerpts),
        _matrix(verdict),
        _failures(verdict, logs, excerpts, slices),
        _changes(verdict),
        _tests(verdict, rows),
        _timeline(verdict),
        _consoles(verdict, excerpts),
        _environment(verdict),
    ]
    title = f"{verdict['verdict']}: {name_text(verdict['job'] or verdict['run_id'])}"
    return page(title, "\n".join(part for part in sections if part), _data(verdict, rows, slices))


# --- head, reasons, matrix --------------------------------------------------------------------------------------


def _header(verdict: Data) -> str:
    kind = verdict["verdict"]
    job = f"job {safe(verdict['job'])}, " if verdict["job"] else ""
    when = [moment for moment in (verdict["started"], verdict["ended"]) if moment]
    facts = [" to ".join(when)] if when else []
    if verdict["duration"] is not None:
        facts.append(seconds_text(verdict["duration"]))
    counts = [badge(status, _TEST_SYMBOLS) + f" {count}" for status, count in verdict["totals"]["tests"].items() if count]
    names = ["matrix", "failures", "tests", "timeline", "consoles", "environment"]
    names[:0] = ["reasons"] if verdict["reasons"] else []
    names[names.index("tests") : names.index("tests")] = ["changes"] if _has_changes(verdict) else []
    links = " ".join(f'<a href="#{name}">{name.capitalize()}</a>' for name in names)
    return f"""<header class="{kind}">
<h1>{badge(kind, _SUITE_SYMBOLS)} {job}run {safe(verdict["run_id"])}</h1>
<p>{safe(tally(verdict), 2000)}</p>
<p>{" &nbsp; ".join(counts)}</p>
<p class="dim">{", ".join(facts)}{", " if facts else ""}exit {verdict["exit_code"]}</p>
<nav aria-label="Sections">{links} <button id="theme" type="button" hidden>Dark or light</button></nav>
</header>"""


def _reasons(verdict: Data, excerpts: list[dict[int, str]]) -> str:
    if not verdict["reasons"]:
        return ""
    links = dict(_links(verdict, excerpts))
    items = [f"<li>{_linked(reason, links)}</li>\n" for reason in verdict["reasons"]]
    first, others = items[:REASONS], Room(OTHER_ROOM).fill(items[REASONS:], "<li>more in verdict.json</li>")
    more = fold(f"and {len(items) - REASONS} more", f"<ul>{others}</ul>") if others else ""
    return section("reasons", "Reasons", f"<ul>{''.join(first)}</ul>{more}")


def _links(verdict: Data, excerpts: list[dict[int, str]]) -> Iterator[tuple[str, str]]:
    """How reasons begin, and where what they speak of stands."""
    for number, guest in enumerate(verdict["guests"]):
        if guest["console"]["trouble"]:
            first = death(guest["console"]) or guest["console"]["trouble"][0]
            target = _line_anchor(number, first["line"], excerpts)
            yield f"kernel of {guest['name']}: ", target
            yield f"kernel of {guest['name']} panicked: ", target
    for number, suite in enumerate(verdict["suites"]):
        yield f"{suite_label(suite)}: ", f"suite-{number}"


def _linked(reason: str, links: dict[str, str]) -> str:
    head, colon, _rest = reason.partition(": ")
    target = links.get(head + colon)
    text = safe(reason, 2000)
    return f'<a href="#{target}">{text}</a>' if target else text


def _line_anchor(guest: int, line: int, excerpts: list[dict[int, str]]) -> str:
    return f"console-{guest}-{line}" if line in excerpts[guest] else f"console-{guest}"


def _matrix(verdict: Data) -> str:
    suites = {(suite["name"], suite["guest"]): number for number, suite in enumerate(verdict["suites"])}
    columns = list(dict.fromkeys(name for name, _guest in suites))
    guests = list(dict.fromkeys([guest["name"] for guest in verdict["guests"]] + [guest for name_text, guest in suites]))
    consoles = {guest["name"]: (number, guest["console"]) for number, guest in enumerate(verdict["guests"])}
    head = "".join(f'<th scope="col">{safe(name)}</th>' for name in columns)
    rows = (
        f'<tr><th scope="row">{safe(guest)}</th>'
        + "".join(_cell(verdict, suites.get((column, guest))) for column in columns)
        + _kernel_cell(*consoles.get(guest, (0, None)))
        + "</tr>\n"
        for guest in guests
    )
    body = Room(MATRIX_ROOM).fill(rows, "<tr><td>more in verdict.json</td></tr>")
    table = f'<thead><tr><th scope="col">guest</th>{head}<th scope="col">kernel</th></tr></thead><tbody>{body}</tbody>'
    return section("matrix", "Guests and suites", f'<div class="scroll"><table class="matrix">{table}</table></div>')


def _cell(verdict: Data, number: int | None) -> str:
    if number is None:
        return '<td class="cell absent">not asked for</td>'
    suite = verdict["suites"][number]
    status, counts = suite["status"], suite["counts"]
    total = sum(counts.values())
    red = red_count(suite, verdict["policy"]["fail_on"])
    said = f"{red} of {total} red" if red else count_text(total, "test")
    said += "".join(f", {counts[name]} {name.replace('_', ' ')}" for name in ("daemon_hang", "known", "flaky", "xpass") if counts[name])
    took = "" if suite["duration"] is None else f", {seconds_text(suite['duration'])}"
    target = "tests" if _is_good(suite) else f"suite-{number}"
    text = f"{_SUITE_SYMBOLS[status]} {status}<small>{said}{took}</small>"
    return f'<td class="cell {status}"><a href="#{target}" data-suite="{number}">{text}</a></td>'


def _kernel_cell(number: int, console: Data | None) -> str:
    if console is None or not console["read"]:
        return '<td class="cell absent">\u25cb not read</td>'
    trouble = console["trouble"]
    if not trouble:
        return f'<td class="cell ok"><a href="#console-{number}">\u2713 quiet</a></td>'
    kind, text = ("panic", "\u2717 panicked") if death(console) else ("trouble", "\u2717 trouble")
    return f'<td class="cell {kind}"><a href="#console-{number}">{text}<small>{count_text(len(trouble), "complaint")}</small></a></td>'


def _is_good(suite: Data) -> bool:
    return suite["status"] in ("passed", "skipped")


# --- failures ---------------------------------------------------------------------------------------------------


def _failures(verdict: Data, logs: Logs, excerpts: list[dict[int, str]], slices: Slices) -> str:
    cards = [_kernel_card(number, guest, excerpts) for number, guest in enumerate(verdict["guests"]) if guest["console"]["trouble"]]
    bad = [(number, suite) for number, suite in enumerate(verdict["suites"]) if not _is_good(suite)]
    room = Room(FAILURES_ROOM)
    # A share for each, so that the first suite with a thousand failures does not hide the second.
    share = max(4096, FAILURES_ROOM // max(1, len(bad) + len(cards)))
    suite_cards = (_suite_card(number, suite, logs, share, verdict["policy"]["fail_on"], slices) for number, suite in bad)
    content = room.fill(cards, "<p>More kernels complain, see the matrix.</p>")
    content += room.fill(suite_cards, "<p>More suites are red, see the matrix.</p>")
    failed = [entry for entry in verdict["phases"] if entry["status"] == "failed"]
    content += room.fill((_phase_card(entry) for entry in failed), "<p>More phases failed, see the reasons.</p>")
    none = "<p>\u2713 None.</p>" if verdict["verdict"] == "passed" else "<p>No suite is red; see the reasons.</p>"
    return section("failures", "Failures", content or none)


def _phase_card(entry: Data) -> str:
    error = pre(safe(entry["error"], MESSAGE_LIMIT), "error")
    return f'<div class="card failed"><h3>\u2717 {safe(phase_name(entry))} failed</h3>{error}</div>\n'


def _kernel_card(number: int, guest: Data, excerpts: list[dict[int, str]]) -> str:
    trouble = guest["console"]["trouble"]
    died = death(guest["console"])
    first = [died] if died else []
    listed = (first + [line for line in trouble if line is not died])[:SPLATS]
    items = "".join(_splat_item(line, _line_anchor(number, line["line"], excerpts)) for line in listed)
    more = f"<li>and {len(trouble) - len(listed)} more</li>" if len(trouble) > len(listed) else ""
    title = "panicked" if died else "complains"
    kind = "panic" if died else "trouble"
    return f'<div class="card {kind}"><h3>\u2717 The kernel of {safe(guest["name"])} {title}</h3><ul>{items}{more}</ul></div>\n'


def _splat_item(splat: Data, anchor: str) -> str:
    where = f"line {splat['line']}" if splat["line"] else "libvirt"
    told = [f"seen {splat['time']}"] if splat["time"] else []
    told += [f"fingerprint {splat['fingerprint']}"] if splat["fingerprint"] else []
    dim = f' <small class="dim">{safe(", ".join(told))}</small>' if told else ""
    return f'<li><a href="#{anchor}">{where}</a> {safe(splat["text"], LINE_LIMIT)}{dim}</li>'


def _suite_card(number: int, suite: Data, logs: Logs, share: int, fail_on: list[str], slices: Slices) -> str:
    name, guest, counts = suite["name"], suite["guest"], suite["counts"]
    outputs = {file: log_lines(logs.outputs.get((name, guest, file), "")) for file in ("stdout.log", "stderr.log")}
    red = [test for test in suite["tests"] if is_red(test, fail_on) and test["status"] != "not_run"]
    not_run = red_count(suite, fail_on) - len(red)
    around = _tap_slices(outputs["stdout.log"]) if suite["parser"] == "tap" else {}
    facts = [f"<li>{safe(error, 2000)}</li>" for error in suite["errors"]]
    if suite["timed_out"]:
        facts.append(f"<li>{safe(deadline_text(suite))}</li>")
    elif not_run:
        facts.append(f"<li>{not_run} tests were not run</li>")
    facts += [f'<li class="dim">{safe(note, 2000)}</li>' for note in suite["notes"]]
    room = Room(share)
    told = room.fill(facts, "<li>more in verdict.json</li>")
    ends = "".join(_output(name, guest, file, lines, Room(share // 4)) for file, lines in outputs.items())
    room.take(ends)
    kept = Room(share // 2)
    link = f'<a href="#tests" data-suite="{number}">all tests of {safe(suite_label(suite))}</a>'
    shown = room.fill(
        (
            _failure(test, around.get(test["number"], []), evidence_of(suite, test, slices, kept), opened=len(red) == 1)
            for test in red[:SUITE_FAILURES]
        ),
        '<p class="dim">More failed and do not fit here.</p>',
    )
    more = f"<p>{len(red) - SUITE_FAILURES} more failed.</p>" if len(red) > SUITE_FAILURES else ""
    result = f"{'no true verdict, ' if suite['errors'] else ''}{len(red)} of {sum(counts.values())} tests failed"
    head = f"<h3>{badge(suite['status'], _SUITE_SYMBOLS)} {safe(suite_label(suite))}: {result}</h3>"
    listed = f"<ul>{told}</ul>" if told else ""
    return f'<div class="card {suite["status"]}" id="suite-{number}">{head}{listed}\n{shown}{more}{ends}<p class="dim">{link}</p></div>\n'


def _failure(test: Data, output: list[str], evidence: str, opened: bool) -> str:
    headline = "; ".join(headlines(test, 1))
    summary = f"{badge(test['status'], _TEST_SYMBOLS)} {test['number']} {safe(test['name'] or '(no name)')}"
    if headline:
        summary += f' <span class="dim">{safe(headline)}</span>'
    content = pre(safe(test["message"], MESSAGE_LIMIT), "diagnostics") if test["message"] else ""
    content += evidence
    if output:
        content += f'<p class="dim">What the suite printed around it</p>{pre(log_text(output), "output around the test")}'
    return fold(summary, content or '<p class="dim">It said nothing.</p>', " open" if opened else "")


def _tap_slices(lines: list[str]) -> dict[int, list[str]]:
    return {number: lines[span.start : span.stop] for number, span in tap_spans(lines, SLICE).items()}


def _output(suite: str, guest: str, file: str, lines: list[str], room: Room) -> str:
    last = [line for line in (safe(line, LINE_LIMIT) for line in lines[: -TAIL - 1 : -1]) if room.take(line)][::-1]
    if not last:
        return ""
    path = quote(f"suites/{suite}/{guest}/{file}")
    content = pre("\n".join(last), file) + f'<p><a href="{path}">{file}</a> beside this report has all that was kept.</p>'
    return fold(f"The end of {file}, {len(last)} lines", content)


# --- known issues and baseline ----------------------------------------------------------------------------------


def _has_changes(verdict: Data) -> bool:
    return bool(verdict["baseline"] or any(entry["matched"] for entry in verdict["known_issues"]) or _odd_tests(verdict) or _leaks(verdict))


def _odd_tests(verdict: Data) -> list[tuple[Data, Data]]:
    """The tests that passed, but not as they should, each with its suite."""
    return [(suite, test) for suite in verdict["suites"] for test in suite["tests"] if test["status"] in ("flaky", "xpass")]


def _leaks(verdict: Data) -> list[tuple[Data, Data]]:
    """The tests that left something behind in libvirt, each with its suite."""
    return [(suite, test) for suite in verdict["suites"] for test in suite["tests"] if leaked_by(test)]


def _changes(verdict: Data) -> str:
    """What is known to fail, passed only when tried again or by surprise, was left behind, and has changed since the baseline."""
    if not _has_changes(verdict):
        return ""
    room = Room(CHANGES_ROOM)
    content = _issues(verdict, room) + _surprises(verdict, room) + _left_behind(verdict, room)
    if verdict["baseline"] is not None:
        content += _comparison(verdict["baseline"], room)
    return section("changes", "Known, flaky, changed" + (", left behind" if _leaks(verdict) else ""), content)


def _issues(verdict: Data, room: Room) -> str:
    rows = (
        f'<tr><td>{_issue_link(entry)}</td><td class="num">{entry["matched"]}</td><td>{safe(entry["owner"])}</td>'
        f"<td>{safe(entry['review_by'])}{' <b>overdue</b>' if entry['expired'] else ''}</td></tr>\n"
        for entry in verdict["known_issues"]
        if entry["matched"]
    )
    body = room.fill(rows, "<tr><td>more in verdict.json</td></tr>")
    head = "<thead><tr><th>known issue</th><th>failures</th><th>owner</th><th>review by</th></tr></thead>"
    return f"<table>{head}<tbody>{body}</tbody></table>" if body else ""


def _issue_link(entry: Data) -> str:
    """Link an issue, whose address has been checked to be one of http or https."""
    return f'<a href="{escape(entry["issue"])}" rel="noreferrer">{safe(entry["id"])}</a>'


def _surprises(verdict: Data, room: Room) -> str:
    issues = {entry["id"]: _issue_link(entry) for entry in verdict["known_issues"]}
    items = (
        f"<li>{badge(test['status'], _TEST_SYMBOLS)} {safe(suite_label(suite))} {test['number']} {safe(test['name'] or '(no name)')} "
        f"{issues.get(test.get('known_issue'), '')}{_tries(test)}</li>\n"
        for suite, test in _odd_tests(verdict)
    )
    listed = room.fill(items, "<li>more in the list of tests</li>")
    return f"<ul>{listed}</ul>" if listed else ""


def _left_behind(verdict: Data, room: Room) -> str:
    items = (
        f"<li>{badge(test['status'], _TEST_SYMBOLS)} {safe(suite_label(suite))} {test['number']} {safe(test['name'] or '(no name)')}: "
        f"{safe(', '.join(leaked_by(test)), LINE_LIMIT)}</li>\n"
        for suite, test in _leaks(verdict)
    )
    listed = room.fill(items, "<li>more in verdict.json</li>")
    return f"<p>Left behind in libvirt, and purged</p><ul>{listed}</ul>" if listed else ""


def _tries(test: Data) -> str:
    text = attempts_text(test)
    if not text:
        return ""
    files = [link_to(file["path"], file["name"]) for attempt in attempts_of(test) for file in files_of(attempt)][:FILES]
    return pre(safe(text, MESSAGE_LIMIT), "tries") + (f"<p>Kept of them: {', '.join(files)}</p>" if files else "")


def _comparison(comparison: Data, room: Room) -> str:
    folds = []
    for kind in KINDS:
        count, listed = comparison["counts"][kind], comparison[kind]
        if not count:
            continue
        items = "".join(
            f"<li>{safe(entry['suite'])}@{safe(entry['guest'])} {safe(entry['name'])}: {_was(entry)}</li>\n" for entry in listed
        )
        more = f"<li>and {count - len(listed)} more</li>" if count > len(listed) else ""
        folds.append(fold(f"{count} {kind.replace('_', ' ')}", f"<ul>{items}{more}</ul>", " open" if count <= 10 else ""))
    title = f"<p>Since {safe(comparison['source'])}, run {safe(comparison['run_id'])}: {safe(baseline_text(comparison))}</p>"
    return title + room.fill(folds, "<p>More in verdict.json.</p>")


def _was(entry: Data) -> str:
    was, now = (None if entry[key] is None else entry[key].replace("_", " ") for key in ("was", "now"))
    return f"{was or 'not there'} \u2192 {now or 'gone'}"


# --- tests ------------------------------------------------------------------------------------------------------


def _tests(verdict: Data, rows: list[str]) -> str:
    statuses = "".join(f'<option value="{status}">{status.replace("_", " ")}</option>' for status in STATUSES)
    unlisted = sum(verdict["totals"]["tests"].values()) - len(rows)
    content = f"""<noscript><p>This list needs JavaScript. verdict.json and junit.xml beside this report have all tests.</p></noscript>
<div id="list" hidden><div class="controls">
<input id="search" type="search" placeholder="Search names, suites, guests, messages  ( / )" aria-label="Search tests">
<select id="suite" aria-label="Suite"><option value="">every suite</option></select>
<select id="status" aria-label="Status"><option value="">every status</option><option value="red">all red</option>{statuses}</select>
<select id="order" aria-label="Order"><option value="">red first</option><option value="slow">slowest first</option></select>
<output id="count" aria-live="polite"></output></div>
<table class="wide"><thead><tr><th>status</th><th>suite@guest</th><th>no.</th><th>test</th><th>time</th></tr></thead>
<tbody id="rows"></tbody></table>
<p><button id="more" type="button">Show more</button></p></div>"""
    content += Room(OTHER_ROOM).fill(_suite_files(verdict), "<p>More files in verdict.json.</p>")
    if unlisted > 0:
        content += f"<p>{unlisted} more tests are counted, but not listed here.</p>"
    return section("tests", "Tests", content)


def _suite_files(verdict: Data) -> Iterator[str]:
    """What was kept of suites as a whole, such as what another harness says of them."""
    for suite in verdict["suites"]:
        files = [f"{link_to(file['path'], file['name'])} {amount(file['bytes'])}" for file in files_of(suite)]
        if files:
            yield f"<p>Kept of {safe(suite_label(suite))}: {', '.join(files)}</p>\n"


def _rows(verdict: Data) -> list[str]:
    """The tests as JSON, the red ones first, as many as fit."""
    room = Room(ROWS_ROOM)
    issues = [entry["id"] for entry in verdict["known_issues"]]
    rows = []
    for red in (True, False):
        for number, suite in enumerate(verdict["suites"]):
            for test in suite["tests"]:
                if is_red(test, verdict["policy"]["fail_on"]) is red:
                    row = embed(_row(number, test, red, issues))
                    if not room.take(row):
                        return rows
                    rows.append(row)
    return rows


def _row(number: int, test: Data, red: bool, issues: list[str]) -> list[Any]:
    """What the script shows of a test. What most tests have not stands last and is left out."""
    row = [number, test["number"], name_text(test["name"]), STATUSES.index(test["status"]), round(test["duration"], 3), int(red)]
    issue = issues.index(test["known_issue"]) if test.get("known_issue") in issues else -1
    left = "".join(f"left behind: {name}\n" for name in leaked_by(test))
    message = attempts_text(test) + left + (test["message"] or "")
    if message or test["directive"] or issue >= 0:
        row += [cut_text(message, ROW_MESSAGE_LIMIT), name_text(test["directive"] or "")]
    return [*row, issue] if issue >= 0 else row


def _data(verdict: Data, rows: list[str], slices: Slices) -> str:
    head = {
        "suites": [name_text(suite_label(suite)) for suite in verdict["suites"]],
        "statuses": [[status, _TEST_SYMBOLS[status]] for status in STATUSES],
        "issues": [[entry["id"], entry["issue"]] for entry in verdict["known_issues"]],
        "slices": slices.packed,
    }
    return embed(head)[:-1] + ',"rows":[' + ",\n".join(rows) + "]}"


# --- timeline ---------------------------------------------------------------------------------------------------


def _timeline(verdict: Data) -> str:
    begin, whole = _moment(verdict["started"]), verdict["duration"]
    if begin is None or not whole:
        return section("timeline", "Where the time went", "<p>The phases left no times.</p>")
    phases = sorted(verdict["phases"], key=lambda entry: (entry["guest"] or "", PHASES.index(entry["phase"])))
    rows = (_bar(entry, begin, whole) for entry in phases)
    room = Room(OTHER_ROOM)
    body = room.fill(rows, "<tr><td>more in verdict.json</td></tr>")
    guests = room.fill((_guest_times(guest, verdict["suites"]) for guest in verdict["guests"]), "<li>more in verdict.json</li>")
    head = f"<thead><tr><th>phase</th><th>{seconds_text(whole)} from {verdict['started']}</th><th>time</th></tr></thead>"
    stages = f"<ul>{guests}</ul>" if guests else ""
    return section("timeline", "Where the time went", f'<table class="wide bars">{head}<tbody>{body}</tbody></table>{stages}')


def _bar(entry: Data, begin: float, whole: float) -> str:
    started = _moment(entry["started"])
    offset = 0.0 if started is None else min(max(0.0, started - begin), whole)
    width = min(entry["duration"] or 0.0, whole - offset)
    place = f'x="{1000 * offset / whole:.1f}" width="{max(2, 1000 * width / whole):.1f}"'
    rect = f'<rect class="{entry["phase"]} {entry["status"]}" {place} y="0" height="10"/>'
    if entry["duration"] is None:
        said = entry["status"]
    else:
        said = f"{seconds_text(entry['duration'])}, {100 * entry['duration'] / whole:.0f} %"
        said += "" if entry["status"] == "ok" else ", \u2717 " + entry["status"]
    drawn = f'<svg viewBox="0 0 1000 10" preserveAspectRatio="none" aria-hidden="true">{rect}</svg>'
    return f'<tr><td>{safe(phase_name(entry))}</td><td>{drawn}</td><td class="num">{said}</td></tr>\n'


def _guest_times(guest: Data, suites: list[Data]) -> str:
    """How long a guest took to each stage of getting ready, and its suites by its own clock."""
    stages = guest.get("seconds")
    stages = {name: value for name, value in stages.items() if is_number(value)} if isinstance(stages, dict) else {}
    told = [f"{safe(name)} after {seconds_text(value)}" for name, value in sorted(stages.items(), key=lambda stage: stage[1])]
    told += [
        f"suite {safe(suite['name'])} {seconds_text(suite['duration'])}"
        for suite in suites
        if suite["guest"] == guest["name"] and suite["duration"] is not None
    ]
    return f"<li>{safe(guest['name'])}: {', '.join(told)}</li>" if told else ""


def _moment(text: str | None) -> float | None:
    return None if text is None else datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


# --- consoles ---------------------------------------------------------------------------------------------------


def _excerpts(verdict: Data, logs: Logs) -> list[dict[int, str]]:
    """Of each guest's console the lines around the kernel's complaints and the last ones, by their number."""
    share = CONSOLES_ROOM // max(1, len(verdict["guests"]))
    return [
        _excerpt(logs.consoles.get(guest["name"], ""), guest["console"], Room(share), number)
        for number, guest in enumerate(verdict["guests"])
    ]


def _excerpt(text: str, console: Data, room: Room, guest: int) -> dict[int, str]:
    lines = log_lines(text)
    # Libvirt's own word has no line, and old parts of a console may be gone.
    marked = {line["line"] for line in console["trouble"]} & set(range(1, len(lines) + 1))
    died = death(console)
    splats = ([died["line"]] if died and died["line"] in marked else []) + sorted(marked)[:SPLATS]
    spans = [range(line, _splat_end(lines, line)) for line in splats]
    inside = {number for span in spans for number in span}
    around = [number for line in splats for number in (line, *range(max(1, line - BEFORE), line + AFTER))]
    tail = range(len(lines), max(0, len(lines) - CONSOLE_TAIL), -1)
    # What there is room for: its death and the first complaint, its last words, the other complaints.
    first = 2 * (1 + BEFORE + AFTER)
    wanted = [*around[:first], *tail, *around[first:]]
    kept: dict[int, str] = {}
    for number in dict.fromkeys(number for number in wanted if number <= len(lines)):
        line = safe(lines[number - 1], LINE_LIMIT)
        if number in marked:
            line = f'<mark id="console-{guest}-{number}">{line}</mark>'
        elif number in inside:
            line = f"<b>{line}</b>"
        line = f"<i>{number}</i>{line}\n"
        if not room.take(line):
            break
        kept[number] = line
    return kept


def _splat_end(lines: list[str], first: int) -> int:
    """The number after the last line of a splat, where the kernel says so."""
    for number in range(first + 1, min(first + AFTER, len(lines) + 1)):
        if "---[ end " in lines[number - 1]:
            return number + 1
    return first + 1


def _consoles(verdict: Data, excerpts: list[dict[int, str]]) -> str:
    folds = (_console(number, guest, excerpts[number]) for number, guest in enumerate(verdict["guests"]))
    return section("consoles", "Consoles", "".join(folds) or "<p>There is no guest.</p>")


def _console(number: int, guest: Data, kept: dict[int, str]) -> str:
    console, name = guest["console"], guest["name"]
    anchor = f' id="console-{number}"'
    if not console["read"]:
        return f"<p{anchor}>{safe(name)}: no console was read.</p>{_kept(guest)}"
    parts, before = [], 0
    for line in sorted(kept):
        if line > before + 1:
            parts.append(f"<i>\u22ee</i>{line - before - 1} lines left out\n")
        parts.append(kept[line])
        before = line
    trouble = len(console["trouble"])
    said = f"\u2717 {count_text(trouble, 'complaint')} of its kernel" if trouble else "\u2713 quiet"
    if console["allowed"]:
        said += f", {count_text(len(console['allowed']), 'complaint')} allowed"
    path = quote(f"guests/{name}/console.log")
    link = f'<p><a href="{path}">console.log</a> beside this report has all {console["lines"]} lines.</p>'
    allowed = [f"<li>{safe(splat['text'], LINE_LIMIT)}: {safe(splat['allowed'], LINE_LIMIT)}</li>" for splat in console["allowed"][:SPLATS]]
    listed = f"<p>Allowed:</p><ul>{''.join(allowed)}</ul>" if allowed else ""
    content = pre("".join(parts), f"console of {name_text(name)}") + listed + link + _kept(guest)
    return fold(f"{safe(name)}: {said}, {console['lines']} lines", content, anchor + (" open" if trouble else ""))


def _kept(guest: Data) -> str:
    """The files that were kept of a guest, and what is missing."""
    evidence = guest.get("evidence") or {"files": [], "missing": {}}
    files = []
    for file in evidence["files"][:FILES]:
        path = quote(f"guests/{guest['name']}/{file['name']}")
        files.append(f'<li><a href="{path}">{safe(file["name"], 200)}</a> {amount(file["bytes"])}</li>')
    more = len(evidence["files"]) - len(files)
    files += [f"<li>and {more} more below guests/{safe(guest['name'])}/</li>"] if more > 0 else []
    missing = [f"<li>{safe(name, 200)}: {safe(why, LINE_LIMIT)}</li>" for name, why in list(evidence["missing"].items())[:FILES]]
    title = f"Kept of {safe(guest['name'])}: {count_text(len(evidence['files']), 'file')}"
    kept = fold(title, f"<ul>{''.join(files)}</ul>") if files else ""
    return kept + (f"<p>Missing:</p><ul>{''.join(missing)}</ul>" if missing else "")


# --- environment ------------------------------------------------------------------------------------------------


def _environment(verdict: Data) -> str:
    room = Room(OTHER_ROOM)
    sources = [("The job", verdict["environment"], True)]
    for guest in verdict["guests"]:
        facts = {key: value for key, value in guest.items() if key not in ("name", "console", "evidence")}
        sources.append((guest_text(guest), facts, len(verdict["guests"]) == 1))
    folds = (_facts(title, facts, opened) for title, facts, opened in sources if facts)
    return section("environment", "Environment", room.fill(folds, "<p>More in verdict.json.</p>") or "<p>Nothing was recorded.</p>")


def _facts(title: str, facts: Data, opened: bool) -> str:
    rows = (f'<tr><th scope="row">{safe(key)}</th><td>{safe(value, 1000)}</td></tr>\n' for key, value in flat(facts))
    table = f"<table>{Room(OTHER_ROOM // 4).fill(rows, '<tr><td>more in verdict.json</td></tr>')}</table>"
    return fold(safe(title), table, " open" if opened else "")
