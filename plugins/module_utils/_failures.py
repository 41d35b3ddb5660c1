# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A test's message as the failures it tells of: one script may fail in several of its assertions. Pure."""

from __future__ import annotations

import re

# How tests begin to tell of a failure. The kind that is most frequent in a message counts its failures.
_STARTS = [
    re.compile(pattern)
    for pattern in (
        r"\s*not ok\b",
        r"\s*#?\s*Failed (?:\(TODO\) )?test\b",
        r"Traceback \(most recent call last\)",
        r"\S+:\d+: Failure",
        r".*\bpanicked at\b",
        r"\s*(?:FAIL|FAILED|ERROR)\b[: ]",
    )
]


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
