# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A tiny TAP writer: tests are functions, a failed expectation is an exception, one bad test never stops the next."""

from __future__ import annotations

import sys
import time
import traceback

TESTS = []


class Failure(Exception):
    """What was looked at, what was expected, what was there instead."""

    def __init__(self, what, expected=None, got=None, details=""):
        super().__init__(what)
        self.lines = [what]
        if expected is not None:
            self.lines += [f"expected: {expected}", f"got:      {got}"]
        self.lines += [f"  {line[:400]}" for line in details.splitlines()]


def test(description):
    """Put a function on the plan; tests run in the order in which they are written."""

    def register(function):
        TESTS.append((description, function))
        return function

    return register


def equal(what, got, expected, details=""):
    if got != expected:
        raise Failure(what, expected=repr(expected), got=repr(got), details=details)


def contains(what, got, expected):
    """Every expected thing is among those that are there."""
    missing = [thing for thing in expected if thing not in got]
    if missing:
        there = got if isinstance(got, str) else ", ".join(str(thing) for thing in got)
        details = "\n".join(["there is:", *there.splitlines()[-20:]])
        raise Failure(f"{what}: {', '.join(missing)} missing", details=details)


def run(job):
    """Run every test with `job`, print TAP, return the exit status."""
    _say("TAP version 14")
    _say(f"1..{len(TESTS)}")
    failed = 0
    for number, (description, function) in enumerate(TESTS, 1):
        begin = time.monotonic()
        problem = _attempt(function, job)
        failed += problem is not None
        _say(f"{'ok' if problem is None else 'not ok'} {number} - {description}")
        for line in problem or []:
            _say(f"# {line}")
        _say(f"# took {time.monotonic() - begin:.2f} s")
    return 1 if failed else 0


def _attempt(function, job):
    try:
        function(job)
    except Failure as failure:
        return failure.lines
    except Exception:  # a test that breaks is a test that failed; the next one still runs
        return traceback.format_exc().splitlines()
    return None


def _say(line):
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
