# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was kept of a test, as report.html shows it: the guilty line, what libvirt's daemons did, its logs to unfold whole. Pure."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Callable, Collection
from functools import lru_cache
from typing import Any

from ._events import first_diagnostic
from ._kept import LIBVIRT, files_of, is_daemon_log, is_qemu_log, is_trace, leaked_by, missing_of, restarted_in
from ._outcome import attempts_of, logs_of
from ._report_html import (
    ESCAPE_SEQUENCE,
    LINE_END,
    LINE_LIMIT,
    Room,
    amount,
    count_text,
    cut_text,
    flat,
    fold,
    link_to,
    log_lines,
    log_text,
    pre,
    safe,
)

SLICES_ROOM = 2 << 20  # packed
SLICE_ROOM = 512 << 10  # packed, of one log
SLICE_LIMIT = 2 << 20  # characters of one log, before it is packed
SLICES_LIMIT = 48 << 20  # of all logs, for packing takes time
SLICE_LINE_LIMIT = 2000
TRACE_LIMIT = 16000  # characters of a backtrace
TRACES = 3
AROUND = 6  # lines before and after a clue
ROWS = 40
MESSAGE_LIMIT = 8000
ATTEMPTS = 10

Data = dict[str, Any]
Read = Callable[[str], str]  # a log by its path below the results
Find = Callable[[str], "tuple[str, int] | None"]  # where a file is stored, and its size


class Slices:
    """Whole logs of tests, packed: the page's script unpacks one when it is unfolded."""

    def __init__(self, read: Read, find: Find) -> None:
        self.read = lru_cache(maxsize=4)(read)  # a clue and its log are asked for one after the other
        self.find = find
        self.packed: list[Data] = []
        self._room = SLICES_ROOM
        self._limit = SLICES_LIMIT

    def add(self, path: str, line: int | None) -> int | None:
        """Take a log, of which a line is to be marked, and return its number; None if there is no room for it."""
        if self._limit <= 0:
            return None
        text = self.read(path)
        lines, mark = _slice(LINE_END.split(text), line)
        shown = "\n".join(cut_text(ESCAPE_SEQUENCE.sub("", line), SLICE_LINE_LIMIT) for line in lines)
        packed = base64.b64encode(gzip.compress(shown.encode("utf-8"), 6, mtime=0)).decode("ascii")
        self._limit -= len(text)
        if len(packed) > min(self._room, SLICE_ROOM):
            return None
        self._room -= len(packed)
        self.packed.append({"text": packed, **({} if mark is None else {"mark": mark})})
        return len(self.packed) - 1


def _slice(lines: list[str], line: int | None) -> tuple[list[str], int | None]:
    """Return the lines of a log and the index of one of them; of a long log the beginning, what is around that line, and the end."""
    lines = lines[:-1] if lines[-1] == "" else lines
    mark = None if line is None or line > len(lines) else line - 1
    if sum(min(len(line), SLICE_LINE_LIMIT) + 1 for line in lines) <= SLICE_LIMIT:
        return lines, mark
    # A third of the room for each of the three.
    spans = [_span(lines, range(len(lines))), _span(lines, range(len(lines) - 1, -1, -1))]
    if mark is not None:
        spans += [_span(lines, range(mark, len(lines))), _span(lines, range(mark - 1, -1, -1), SLICE_LIMIT // 12)]
    shown: list[str] = []
    place, before = None, -1
    for index in sorted({index for span in spans for index in span}):
        if index > before + 1:
            shown.append(f"\u22ee {index - before - 1} lines left out")
        place = len(shown) if index == mark else place
        shown.append(lines[index])
        before = index
    return shown, place


def _span(lines: list[str], indexes: range, limit: int = SLICE_LIMIT // 3) -> list[int]:
    kept = []
    for index in indexes:
        limit -= min(len(lines[index]), SLICE_LINE_LIMIT) + 1
        if limit < 0:
            break
        kept.append(index)
    return kept


def evidence_of(suite: Data, test: Data, slices: Slices, room: Room) -> str:
    """Where a daemon died or hung, the line that may say why, what the test left in libvirt, its logs to unfold, its tries."""
    own = logs_of(test)
    base = f"suites/{suite['name']}/{suite['guest']}/{own}"
    clue = test.get("clue")
    traces = [file for file in files_of(test) if is_trace(file["name"])][:TRACES]
    content = "".join(_trace(file, slices.read(file["path"])) for file in traces)
    whole = [file["name"] for file in traces if len(slices.read(file["path"])) <= TRACE_LIMIT]
    if clue:
        content += _clue(clue, slices.read(clue["file"]) if own and clue["file"].startswith(f"{base}/") else "")
    content += _libvirt(test)
    content += _logs(test, base, clue, slices, whole) if own else ""
    if attempts_of(test):
        content += pre(safe(attempts_text(test), MESSAGE_LIMIT), "tries")
        content += "".join(
            fold(f"Files of try {number}", logs)
            for number, attempt in enumerate(attempts_of(test)[:-1][:ATTEMPTS], start=1)
            if (logs := _logs(attempt, f"{base}/attempt-{number}", None, slices))
        )
    if room.take(content):
        return content
    return f'<p class="dim">What was kept of it is too much for this page and lies in {safe(base if own else "verdict.json")}.</p>'


def _trace(file: Data, text: str) -> str:
    more = f'<p class="dim">The rest is in {link_to(file["path"], file["name"])}.</p>' if len(text) > TRACE_LIMIT else ""
    shown = log_text(log_lines(text[:TRACE_LIMIT]))
    return f'<p class="dim">{link_to(file["path"], file["name"])}</p>{pre(shown, file["name"])}{more}'


def _clue(clue: Data, text: str) -> str:
    """The guilty line, with those around it where it is of a test's own log."""
    lines = log_lines(text)
    first, last = max(1, clue["line"] - AROUND), min(len(lines), clue["line"] + AROUND)
    shown = safe(clue["text"], LINE_LIMIT)
    if clue["line"] <= last:
        numbered = [(number, safe(lines[number - 1], LINE_LIMIT)) for number in range(first, last + 1)]
        shown = "".join(f"<i>{number}</i>{f'<mark>{line}</mark>' if number == clue['line'] else line}\n" for number, line in numbered)
    where = f'<p class="dim">{link_to(clue["file"], clue["file"])}, line {clue["line"]}</p>'
    return where + pre(shown, "the first line that may say why")


def _logs(entry: Data, base: str, clue: Data | None, slices: Slices, shown: Collection[str] = ()) -> str:
    """The files of a test or a try that are not shown yet, the most telling first, each to unfold whole where there is room."""
    printed = {name: slices.find(f"{base}/{name}") for name in ("stdout.log", "stderr.log")}
    files = [{"name": name, "path": stored[0], "bytes": stored[1]} for name, stored in printed.items() if stored]
    files = [file for file in [*files_of(entry), *files] if file["bytes"] and file["name"] not in (LIBVIRT, *shown)]
    files.sort(key=lambda file: (not is_trace(file["name"]), not is_daemon_log(file["name"]), not is_qemu_log(file["name"])))
    content = "".join(_kept_log(file, clue, slices) for file in files)
    missing = missing_of(entry)
    if missing:
        content += f"<p>Announced and not fetched: {safe(', '.join(missing), LINE_LIMIT)}</p>"
    return content


def _kept_log(file: Data, clue: Data | None, slices: Slices) -> str:
    number = slices.add(file["path"], clue["line"] if clue and clue["file"] == file["path"] else None)
    link = link_to(file["path"], file["path"].rpartition("/")[2])
    if number is None:
        return f"<p>{link}, {amount(file['bytes'])}, has no room here.</p>"
    lines = count_text(len(LINE_END.findall(slices.read(file["path"]))), "line")
    content = f"<p>{link} beside this report, {amount(file['bytes'])}, is the file.</p>"
    return fold(f"{safe(file['name'])}, {lines}", content, f' data-slice="{number}"')


def _libvirt(test: Data) -> str:
    """What a wrapper says of libvirt in a test: a table of what was left behind and of daemons that are not as they were."""
    rows = [("left behind", name) for name in leaked_by(test)]
    told = test.get("libvirt") or {"daemons": {}}
    rows += [("was there before", name) for name in told.get("left_before", [])]
    restarted = restarted_in(test)
    rows += [(name, "restarted" + _pids(told["daemons"].get(name))) for name in restarted]
    rows += [(name, f"its log was cut, {said['lines']} lines are kept") for name, said in told["daemons"].items() if said["truncated"]]
    rows += [(f"probe: {key}", value) for key, value in flat(told.get("probe", {}))]
    rows += [(LIBVIRT, told["error"])] if told.get("error") else []
    body = "".join(f'<tr><th scope="row">{safe(name)}</th><td>{safe(text, LINE_LIMIT)}</td></tr>' for name, text in rows[:ROWS])
    return f"<table>{body}</table>" if body else ""


def _pids(daemon: Data | None) -> str:
    """The process before and after; None where it was an earlier try's."""
    if daemon is None or not daemon["restarted"] or daemon["pid_after"] is None:
        return ""
    return f", process {daemon['pid_before'] or 'none'} \u2192 {daemon['pid_after']}"


def attempts_text(test: Data) -> str:
    """The tries of a test, a line each."""
    lines = [
        f"try {number}: {attempt['status']} {first_diagnostic(str(attempt.get('message') or ''))}".rstrip()
        for number, attempt in enumerate(attempts_of(test)[:ATTEMPTS], start=1)
    ]
    return "".join(line + "\n" for line in lines)
