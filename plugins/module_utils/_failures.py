# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A test's message as the failures it tells of: one script may fail in several of its assertions. Pure."""

from __future__ import annotations

import re
from typing import Any

from ._events import diagnostics

ASSERTION = "failed: "  # before the name of each assertion of one test, as the runner names them

# How tests begin to tell of a failure. The kind that is most frequent in a message counts its failures.
_STARTS = [
    re.compile(pattern)
    for pattern in (
        ASSERTION,
        r"\s*not ok\b",
        r"\s*#?\s*Failed (?:\(TODO\) )?test\b",
        r"Traceback \(most recent call last\)",
        r"\S+:\d+: Failure",
        r".*\bpanicked at\b",
        r"\s*(?:FAIL|FAILED|ERROR)\b[: ]",
    )
]


MESSAGE_LIMIT = 64 * 1024  # of what may come in a message
FAILURES_KEPT = 20  # by the runner, of one test


def headlines(test: dict[str, Any], shown: int) -> list[str]:
    """Return the first lines in which a failed test says something, and the first assertion that failed where it is not among them."""
    lines = diagnostics(test["message"])
    if test["status"] == "daemon_hang":  # what it was seen by, and what hung
        shown = max(shown, 2)
    assertion = next((line for line in lines[shown:] if line.startswith(ASSERTION)), None)
    told = any(line.startswith(ASSERTION) for line in lines[:shown])
    first = lines[:shown]
    if len(first) > 1 and first[-1].endswith(":"):  # announces lines that are not shown
        first.pop()
    return first + ([assertion] if assertion and not told else [])


def tells_all(message: str) -> bool:
    """Tell whether a message names each failure: none was cut off or left out."""
    whole = len(message) < MESSAGE_LIMIT and not message.rstrip().endswith("[cut]")
    return whole and len(split_failures(message.split("\n"))) < FAILURES_KEPT


def split_failures(lines: list[str]) -> list[list[str]]:
    """Return the lines of each failure, those before the first one among them all; one list where there are not several."""
    starts: list[int] = []
    for pattern in _STARTS:
        found = [index for index, line in enumerate(lines) if pattern.match(line)]
        if len(found) > len(starts):
            starts = found
    if len(starts) < 2:
        return [lines]
    return [lines[: starts[0]] + lines[start:end] for start, end in zip(starts, [*starts[1:], len(lines)])]
