# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The first line in the logs that may say why a test failed. Pure.

Where a guest's kernel died, that is the clue. Where the logs of libvirt's daemons were kept of a test, it is the first error of a daemon in
it, but for one that only says that something was not found: tests look for what may not be there. Then comes what QEMU said, then such a
miss, then what the kernel complained of. Else it is the first line that speaks of an error: in the test's own logs, in what the suite
printed around the test (TAP tells where that is), or in what the suite wrote to its standard error.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from ._kept import files_of, is_daemon_log, is_qemu_log
from ._outcome import is_red, logs_of

TESTS = 20  # of a suite, that get a clue
TEXT_LIMIT = 300
LINES_AROUND = 40  # of a TAP test, before and after its result

_ESCAPE_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_ERROR = re.compile(
    r"\b(?:error|fatal|panic|assert(?:ion)?|segmentation fault|segfault|core dumped|traceback|exception|cannot|can't|could not|unable to|"
    r"denied|no such file|not found|not permitted|no space left|timed? ?out|refused|killed|out of memory|failed|failure)\b",
    re.IGNORECASE,
)
# Results and what TAP says about them are no log: they are told already.
_RESULT = re.compile(r"\s*(?:(?:not )?ok \d|#\s*(?:Failed|Looks like)\b|#\s+at \S+ line \d+)")
# As libvirt logs: the time in UTC, the thread, the level, where in its source, what.
_DAEMON_ERROR = re.compile(r"(?P<time>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3})\S*: \d+: error : (?:\w+:\d+ : )?(?P<said>.*)")
# A test looks for what is not there. Libvirt says most of this at the level of debug.
_DAEMON_MISS = re.compile(
    r".*\b(?:no (?:domain|(?:domain )?(?:snapshot|checkpoint)|network|storage (?:pool|vol)|nwfilter|node device|secret) with matching "
    r"|no nwfilter binding for port dev |couldn't find interface named )"
)
# What says nothing of the test: a connection was closed, a domain was destroyed, a network card has gone before it could be looked at, the
# daemon begins on a machine without a DMI or without KVM.
_DAEMON_NOISE = re.compile(
    r"End of file while (?:reading|writing) data\b|internal error: End of file from (?:qemu monitor|agent socket)"
    r"|Unable to open /dev/kvm: No such file or directory"
    r"|ethtool ioctl error on \S+: No such device|internal error: (?:Failed to get udev device for syspath|Child process \(\S*dmidecode )"
)
# Of QEMU's own lines; what libvirt's child says before QEMU begins stands in the same log.
_QEMU_ERROR = re.compile(
    r"(?:\S+Z )?qemu[\w-]*: (?!.*(?:terminating on signal|char device redirected to|\bwarning: |\binfo: ))|libvirt: .*\berror : "
)
_STAMP = re.compile(r"\d{4}-\d\d-\d\d \S+: \d+: error : (?:\w+:\d+ : )?")
_TAP_RESULT = re.compile(r"(?:not )?ok (\d{1,9})\b")

Data = dict[str, Any]
Read = Callable[[str], str]


def add_clues(suite: Data, trouble: Data | None, read: Read) -> None:
    """Give the first failed tests of a suite a clue; trouble is the first complaint of the guest's kernel, read gives a log's text."""
    red = [test for test in suite["tests"] if is_red(test) and test["status"] != "not_run"][:TESTS]
    if not red:
        return
    base = f"suites/{suite['name']}/{suite['guest']}"
    died = trouble is not None and trouble["fatal"]
    stdout, stderr = (read(f"{base}/{name}").splitlines() if trouble is None else [] for name in ("stdout.log", "stderr.log"))
    spans = tap_spans(stdout, LINES_AROUND) if suite["parser"] == "tap" else {}
    for test in red:
        own = logs_of(test)
        clue = _of_libvirt(test, read) if own is not None and not died else None
        if clue is None and trouble is not None:
            clue = _clue(f"guests/{suite['guest']}/console.log", trouble["line"], trouble["text"])
        elif clue is None and own is not None:
            clue = _of_logs(f"{base}/{own}", read)
        elif clue is None:
            clue = _first(f"{base}/stdout.log", stdout, spans.get(test["number"], range(0))) or _first(
                f"{base}/stderr.log", stderr, range(len(stderr))
            )
        if clue is not None:
            test["clue"] = clue


def _of_libvirt(test: Data, read: Read) -> Data | None:
    """Return the first error of a daemon, of all that there are, or of QEMU: what they wrote while this test ran."""
    errors: list[tuple[str, Data]] = []
    misses: list[tuple[str, Data]] = []
    for file in files_of(test):
        if is_daemon_log(file["name"]):
            _daemon_errors(file["path"], read(file["path"]), errors, misses)
    return _earliest(errors) or _of_qemu(test, read) or _earliest(misses)


def _earliest(found: list[tuple[str, Data]]) -> Data | None:
    return min(found, key=lambda entry: entry[0])[1] if found else None


def _of_qemu(test: Data, read: Read) -> Data | None:
    for file in files_of(test):
        if is_qemu_log(file["name"]):
            for number, line in enumerate(read(file["path"]).split("\n"), start=1):
                if _QEMU_ERROR.match(line):
                    return _clue(file["path"], number, line)
    return None


def _daemon_errors(path: str, text: str, errors: list[tuple[str, Data]], misses: list[tuple[str, Data]]) -> None:
    """Add the first error of a log and its first miss, each with its time."""
    missed = False
    for number, line in enumerate(text.split("\n"), start=1):
        match = _DAEMON_ERROR.match(line)
        if match is None or _DAEMON_NOISE.match(match["said"]):
            continue
        if not _DAEMON_MISS.match(match["said"]):
            errors.append((match["time"], _clue(path, number, line)))
            return
        if not missed:
            misses.append((match["time"], _clue(path, number, line)))
            missed = True


def said_by(clue: Data) -> str:
    """Return what a clue says, without time, thread and place of a daemon's line: where there is little room, they are in the way."""
    return _STAMP.sub("error : ", clue["text"], count=1)


def _of_logs(base: str, read: Read) -> Data | None:
    for name in ("stderr.log", "stdout.log"):
        lines = read(f"{base}/{name}").split("\n")
        clue = _first(f"{base}/{name}", lines, range(len(lines)))
        if clue is not None:
            return clue
    return None


def _first(file: str, lines: list[str], span: range) -> Data | None:
    for index in span:
        line = _ESCAPE_SEQUENCE.sub("", lines[index][: 4 * TEXT_LIMIT]).strip()
        if _ERROR.search(line) and not _RESULT.match(line):
            return _clue(file, index + 1, line)
    return None


def _clue(file: str, line: int, text: str) -> Data:
    return {"file": file, "line": line, "text": text[:TEXT_LIMIT]}


def tap_spans(lines: list[str], around: int) -> dict[int, range]:
    """Return what was printed from the result before a test's to the one after it, as indexes, by the test's number."""
    results = [(index, int(match[1])) for index, line in enumerate(lines) if (match := _TAP_RESULT.match(line))]
    starts = [-1, *(index for index, _number in results)]
    ends = [*(index for index, _number in results[1:]), len(lines)]
    return {
        number: range(max(start + 1, index - around), min(end, index + around + 1))
        for (index, number), start, end in zip(results, starts, ends)
    }
