# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run one test suite in a guest and write down, line by line, what happened.

    mayfly_suite_runner.py run   --spec spec.json --dir DIR    runs the suite and returns when it has ended
    mayfly_suite_runner.py start --spec spec.json --dir DIR    the same, detached; prints the runner's pid

The specification is a JSON object: suite, command (a string for /bin/sh -c, or an argument list), parser (one of
PARSERS), deadline (seconds), and optionally cwd, environment, user, capture_limit (bytes of output kept), and for junit
and avocado report (the file with the results, relative to cwd).

DIR gets events.jsonl, stdout.log and stderr.log; with start also runner.log and pid. The runner reports and judges
nothing: a suite whose tests fail is a run that went well, and the exit status is 0.

How TAP is read (versions 12, 13 and 14):

* ok is pass, not ok is fail; with TODO they are xpass and known; with SKIP both are skip, because TAP 14 says a
  failing SKIP must not count as a failure.
* A line counts only if it begins with "ok" or "not ok" followed by white space or nothing. Whatever else is printed is
  no test, so output mixed into a test line makes that test missing, never passed.
* A subtest is the business of its parent's line; its failures are kept in that line's message.
* Diagnostics are read from standard output only; a suite that prints them on standard error says 2>&1.

How the others are read: they emit a test as it ends, number tests as they come, and tell the plan at the end. It is the
sum of what each part of the output promised. What is short of it, or contradicts its own summary or the exit status, is
an error of the suite, never a pass.

* ktap: the tests are the leaves, named by the path of their "# Subtest:" names; a parent's line counts only if it failed
  and none of its subtests did. run_kselftest.sh ends with 0 whatever happens, so that is no contradiction.
* gtest, bpftrace: a result counts for the test that is running. A test without one is an error, or, at the deadline, the
  timeout.
* unittest: from standard error or output, whichever has it. A result is also found behind what the test printed on its
  line. An unexpected success is a failure, as it is for unittest; a failure outside of a test (setUpClass) is an error.
* junit, avocado: the report is read when the suite has ended. It must have been written by this run, be a plain file of
  at most 16 MiB and have no document type.
* test_progs: the tests are the leaves, as with ktap; its summary is the plan.
* cargo: every test program must end with its "test result", so --quiet, which names no tests, is an error.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pwd
import re
import selectors
import signal
import socket
import stat
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

VERSION = "1"

GRACE = 5.0  # between TERM and KILL, and for what is left after KILL
DRAIN = 1.0  # of silence, after which what holds on to our pipes is a process that left the session,
DRAIN_LIMIT = 30.0  # and for one that is never silent
PASS_SETTLES = 0.2  # a passed test is shown after this much silence,
OTHER_SETTLES = 2.0  # any other waits longer for its diagnostics
LINE_LIMIT = 64 * 1024
NAME_LIMIT = 1000
MESSAGE_LIMIT = 32 * 1024
MESSAGE_LINES = 200
TAIL_LINES = 40
CAPTURE_LIMIT = 16 * 1024 * 1024
REPORT_LIMIT = 16 * 1024 * 1024
XML_PROLOGUE = 4096
XML_DEPTH = 50
ERRORS_KEPT = 20

RED = frozenset({"fail", "error", "timeout"})

Event = dict[str, Any]


class RunnerError(Exception):
    """The suite cannot be run as asked; the message says why."""


# --- specification ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spec:
    """What to run."""

    suite: str
    argv: list[str]
    parser: str
    deadline: float
    cwd: str | None = None
    environment: dict[str, str] = field(default_factory=dict)
    user: str | None = None
    capture_limit: int = CAPTURE_LIMIT
    report: str | None = None


def read_spec(text: str) -> Spec:
    """Check the specification; raise RunnerError naming the key that is wrong."""
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise RunnerError(f"the specification is not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise RunnerError("the specification is not a JSON object")
    known = {"suite", "command", "parser", "deadline", "cwd", "environment", "user", "capture_limit", "report"}
    for key in sorted(set(raw) - known):
        raise RunnerError(f"the specification has an unknown key '{key}'")
    environment = _checked(raw, "environment", dict, {})
    report = _checked(raw, "report", str, None)
    if (report is not None) != (raw.get("parser") in REPORTS):
        raise RunnerError(f"the specification needs 'report' with the parsers {', '.join(sorted(REPORTS))}, and only with them")
    return Spec(
        suite=_checked(raw, "suite", str),
        argv=_argv(raw.get("command")),
        parser=_parser_name(raw),
        deadline=_deadline(raw),
        cwd=_checked(raw, "cwd", str, None),
        environment={str(name): str(value) for name, value in environment.items()},
        user=_checked(raw, "user", str, None),
        capture_limit=_checked(raw, "capture_limit", int, CAPTURE_LIMIT),
        report=report,
    )


_REQUIRED = object()


def _checked(raw: dict[str, Any], key: str, kind: type, default: Any = _REQUIRED) -> Any:
    value = raw.get(key)
    if value is None and default is not _REQUIRED:
        return default
    if not isinstance(value, kind) or isinstance(value, bool) or value == "":
        raise RunnerError(f"the specification needs '{key}' as a {kind.__name__}, not {value!r}")
    return value


def _argv(command: Any) -> list[str]:
    if isinstance(command, str) and command.strip():
        return ["/bin/sh", "-c", command]
    if isinstance(command, list) and command and all(isinstance(word, str) for word in command):
        return command
    raise RunnerError(f"the specification needs 'command' as a string or a list of strings, not {command!r}")


def _parser_name(raw: dict[str, Any]) -> str:
    name: str = _checked(raw, "parser", str)
    if name not in PARSERS:
        raise RunnerError(f"the specification names an unknown parser '{name}'; there are {', '.join(PARSERS)}")
    return name


def _deadline(raw: dict[str, Any]) -> float:
    value = raw.get("deadline")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise RunnerError(f"the specification needs 'deadline' as a positive number of seconds, not {value!r}")
    return float(value)


# --- parsers ----------------------------------------------------------------------------------------------------


@dataclass
class End:
    """How the suite's command ended."""

    exit_status: int | None = None
    signal: str | None = None
    timed_out: bool = False
    duration: float = 0.0
    tail: list[str] = field(default_factory=list)
    report: bytes | None = None
    report_error: str | None = None


class Parser(Protocol):
    """Lines of standard output in, events out."""

    reads_errors: bool  # lines of standard error as well
    planned: int | None
    seen: int
    errors: list[str]

    def begin(self) -> list[Event]: ...
    def feed(self, line: str, now: float) -> list[Event]: ...
    def settle_at(self) -> float | None: ...
    def settle(self) -> list[Event]: ...
    def finish(self, end: End) -> list[Event]: ...


class ExitCodeParser:
    """The whole suite is one test, judged by the exit status."""

    reads_errors = False

    def __init__(self, suite: str, _now: float) -> None:
        self.suite = suite
        self.planned: int | None = 1
        self.seen = 0
        self.errors: list[str] = []

    def begin(self) -> list[Event]:
        return [{"event": "plan", "count": 1, "reason": None}]

    def feed(self, _line: str, _now: float) -> list[Event]:
        return []

    def settle_at(self) -> float | None:
        return None

    def settle(self) -> list[Event]:
        return []

    def finish(self, end: End) -> list[Event]:
        status = "timeout" if end.timed_out else "pass" if end.exit_status == 0 else "fail"
        message = "" if status == "pass" else clipped(end.tail)
        self.seen = 1
        return [test_event(1, self.suite, status, end.duration, None, message)]


TEST = re.compile(r"(not )?ok(?=\s|$)(?:\s+(\d+)(?=\s|$))?\s*(.*)$")
NUMBER_DIGITS = 9  # a test of a higher number is none of a plan; only these are read
PLAN = re.compile(r"1\.\.(\d{1,9})\s*(?:#\s*(.*))?$")
# TAP 12 says "SKIP\S*": Test::More and others write "Skipped:". A hash only counts after white space, unescaped.
DIRECTIVE = re.compile(r"(?:^|(?<=\s))#\s*(SKIP\S*|TODO)(?=[\s:]|$)[\s:]*(.*)$", re.IGNORECASE)
PLAN_REASON = re.compile(r"SKIP\S*\s*", re.IGNORECASE)
BAIL_OUT = re.compile(r"\s*Bail out!\s*(.*)$", re.IGNORECASE)
EXPLAINS_FIRST = re.compile(r"KTAP version |# selftests: ")  # the kernel's tests print diagnostics before the line
YAML_BEGIN = re.compile(r"(\s+)---(?=\s|$)")


class TapParser:
    """Test Anything Protocol, read one line at a time. No I/O and no clock of its own."""

    reads_errors = False

    def __init__(self, _suite: str, now: float) -> None:
        self.planned: int | None = None
        self.seen = 0
        self.errors: list[str] = []
        self._last = now
        self._pending: Event | None = None  # the last test line, until its diagnostics are complete
        self._message: list[str] = []
        self._remarks: deque[str] = deque(maxlen=TAIL_LINES)  # comments that belong to no test line yet
        self._before: list[str] = []  # comments just before the pending test
        self._explains_first = False
        self._subtest: list[str] = []  # failures in the subtest whose parent's line is still to come
        self._subtest_failing = False
        self._yaml_indent: str | None = None
        self._plan_was_last = False

    def begin(self) -> list[Event]:
        return []

    def feed(self, line: str, now: float) -> list[Event]:
        """Take one line without its end; return the events it completes."""
        if self._yaml_indent is not None and self._yaml_line(line):
            return []
        self._explains_first = self._explains_first or EXPLAINS_FIRST.match(line) is not None
        if (bail_out := BAIL_OUT.match(line)) is not None:
            return [*self.settle(), {"event": "bail_out", "reason": bail_out[1].strip()[:NAME_LIMIT]}]
        if line[:1] in (" ", "\t"):
            self._indented_line(line)
        elif line.startswith("#"):
            self._comment(line)
        elif (test := TEST.match(line)) is not None:
            return self._test(test, now)
        elif (plan := PLAN.match(line)) is not None:
            return self._plan(plan)
        return []

    def settle_at(self) -> float | None:
        """When the pending test should be reported even if no other line comes."""
        if self._pending is None or self._yaml_indent is not None:
            return None
        return self._last + (PASS_SETTLES if self._pending["status"] == "pass" else OTHER_SETTLES)

    def settle(self) -> list[Event]:
        """Report the pending test, if there is one."""
        event, self._pending = self._pending, None
        self._yaml_indent = None
        if event is None:
            return []
        explanation = self._before if event["status"] != "pass" else []
        event["message"] = clipped(self._message or explanation)
        self._message, self._before = [], []
        return [event]

    def finish(self, _end: End) -> list[Event]:
        if self._yaml_indent is not None:
            self._unclosed_yaml()
        if self._subtest:
            self.errors.append(f"the line of a failed subtest's parent never came: {self._subtest[0][:NAME_LIMIT]}")
        return self.settle()

    def _test(self, match: re.Match[str], now: float) -> list[Event]:
        events = self.settle()
        self.seen += 1
        if self._plan_was_last:
            self._plan_was_last = False
            self.errors.append(f"test line {self.seen} came after a plan that was not at the start")
        name, directive, reason = split_directive(match[3])
        status = tap_status(failed=match[1] is not None, directive=directive)
        number = int(match[2][:NUMBER_DIGITS]) if match[2] else self.seen
        if len(match[2] or "") > NUMBER_DIGITS and len(self.errors) < ERRORS_KEPT:
            self.errors.append(f"test number {match[2][:NAME_LIMIT]} is outside of every plan")
        text = f"{directive} {reason}".strip() if directive else None
        self._pending = test_event(number, name, status, now - self._last, text, "")
        self._message, self._subtest, self._subtest_failing = self._subtest, [], False
        self._before = list(self._remarks)
        self._remarks.clear()
        self._last = now
        return events

    def _plan(self, match: re.Match[str]) -> list[Event]:
        if self.planned is not None:
            self.errors.append(f"a second plan: {match[0][:80]}")
            return []
        self.planned = int(match[1])
        self._plan_was_last = self.seen > 0
        reason = PLAN_REASON.sub("", match[2] or "", count=1).strip() if self.planned == 0 else match[2]
        return [*self.settle(), {"event": "plan", "count": self.planned, "reason": (reason or "")[:NAME_LIMIT] or None}]

    def _comment(self, line: str) -> None:
        text = re.sub(r"^# ?", "", line)
        failed = self._pending is not None and self._pending["status"] != "pass"
        if not failed or self._explains_first or line.startswith("# Subtest"):
            self._remarks.append(text)
        elif len(self._message) < MESSAGE_LINES:
            self._message.append(text)

    def _indented_line(self, line: str) -> None:
        yaml = YAML_BEGIN.match(line)
        if yaml is not None and self._pending is not None and not self._subtest:
            self._yaml_indent = yaml[1]
            return
        test = TEST.match(line.strip())
        if test is not None:
            self._subtest_failing = test[1] is not None and split_directive(test[3])[1] is None
        if self._subtest_failing and len(self._subtest) < MESSAGE_LINES:
            self._subtest.append(line.strip())

    def _yaml_line(self, line: str) -> bool:
        """Take a line of a YAML block. An unindented line is none, so an unclosed block cannot swallow tests."""
        if line.strip() and line[:1] not in (" ", "\t"):
            self._unclosed_yaml()
            return False
        if line.rstrip() == f"{self._yaml_indent}...":
            self._yaml_indent = None
        elif len(self._message) < MESSAGE_LINES:
            self._message.append(line[len(self._yaml_indent or "") :])
        return True

    def _unclosed_yaml(self) -> None:
        self._yaml_indent = None
        number = self._pending["number"] if self._pending else self.seen
        self.errors.append(f"the YAML block of test {number} has no end")


def split_directive(text: str) -> tuple[str, str | None, str]:
    """Split what follows the number into name, directive (SKIP, TODO or None) and the directive's reason."""
    match = DIRECTIVE.search(text)
    name = text if match is None else text[: match.start()]
    name = re.sub(r"^-(?:\s+|$)", "", name.strip()).strip()
    name = re.sub(r"\\([\\#])", r"\1", name)[:NAME_LIMIT]
    if match is None:
        return name, None, ""
    return name, match[1][:4].upper(), match[2].strip()[:NAME_LIMIT]


def tap_status(*, failed: bool, directive: str | None) -> str:
    if directive == "SKIP":
        return "skip"
    if directive == "TODO":
        return "known" if failed else "xpass"
    return "fail" if failed else "pass"


def test_event(number: int, name: str, status: str, duration: float, directive: str | None, message: str) -> Event:
    return {
        "event": "test",
        "number": number,
        "name": name,
        "status": status,
        "duration": round(duration, 3),
        "directive": directive,
        "message": message,
    }


def clipped(lines: list[str]) -> str:
    """Join lines to a message of bounded size."""
    text = "\n".join(lines)
    return text if len(text) <= MESSAGE_LIMIT else text[:MESSAGE_LIMIT] + "\n[cut]"


class LineParser:
    """What the parsers below share: tests are numbered as they come, and the plan is told at the end.

    It is the sum of what each part of the output promised, because one suite may run several programs.
    """

    reads_errors = False

    def __init__(self, _suite: str, now: float) -> None:
        self.planned: int | None = None
        self.seen = 0
        self.errors: list[str] = []
        self._last = now
        self._red = False  # a test failed
        self._reason: str | None = None  # why nothing was planned
        self._remarks: deque[str] = deque(maxlen=TAIL_LINES)  # lines since the last test

    def begin(self) -> list[Event]:
        return []

    def settle_at(self) -> float | None:
        return None

    def settle(self) -> list[Event]:
        return []

    def finish(self, end: End) -> list[Event]:
        self._conclude(end)
        if self.planned is None:
            return []
        return [{"event": "plan", "count": self.planned, "reason": None if self.planned else self._reason}]

    def _conclude(self, end: End) -> None:
        """Complain of what is still open and of what does not fit the end."""

    def _compare_exit(self, end: End) -> None:
        """For tools whose exit status is part of what they say; the contrary is found when the suite is judged."""
        if self._red and end.exit_status == 0 and not end.timed_out:
            self._complain("tests failed, but the command ended with exit status 0")

    def _promise(self, count: int) -> None:
        self.planned = (self.planned or 0) + count

    def _complain(self, error: str) -> None:
        if len(self.errors) < ERRORS_KEPT:
            self.errors.append(error[:NAME_LIMIT])

    def _test(self, name: str, status: str, now: float, directive: str | None = None, said: str = "") -> Event:
        self.seen += 1
        self._red = self._red or status in RED
        message = clipped([*self._remarks, *([said] if said else [])]) if status in RED else ""
        event = test_event(self.seen, name[:NAME_LIMIT], status, now - self._last, directive, message)
        self._remarks.clear()
        self._last = now
        return event


KTAP_VERSION = re.compile(r"K?TAP version \d+\s*$", re.IGNORECASE)
KTAP_SUBTEST = re.compile(r"# Subtest: (.*)$")
KTAP_DIRECTIVE = re.compile(r"(?:^|(?<=\s))#\s*(SKIP|TODO|XFAIL|XPASS|TIMEOUT|ERROR)(?=[\s:]|$)[\s:]*(.*)$", re.IGNORECASE)
KTAP_DATA = re.compile(r"(?:^|(?<=\s))#\s+(.*)$")
KTAP_STATUS = {"SKIP": "skip", "XFAIL": "known", "TIMEOUT": "timeout", "ERROR": "error"}
KSFT_TOTALS = re.compile(r"# Totals: pass:(\d+) fail:(\d+) xfail:(\d+) xpass:(\d+) skip:(\d+) error:(\d+)")
KSFT_STATUSES = ("pass", "fail", "known", "xpass", "skip", "error")


@dataclass
class Level:
    """A KTAP document, or a subtest in one."""

    indent: int
    name: str = ""
    plan: int | None = None
    numbers: set[int] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def missing(self) -> int:
        # Kernels before 6.18 give no plan for parametrised tests; the parent's line then says that it is complete.
        promised = max(self.numbers, default=0) if self.plan is None else self.plan
        return max(0, promised - len(self.numbers))

    @property
    def red(self) -> bool:
        return any(self.counts[status] for status in RED)


class KtapParser(LineParser):
    """The kernel's TAP: one document for each collection of tests, subtests by indentation."""

    def __init__(self, suite: str, now: float) -> None:
        super().__init__(suite, now)
        self._levels = [Level(0)]
        self._missing = 0
        self._plans = 0
        self._planless: str | None = None

    def feed(self, line: str, now: float) -> list[Event]:
        text = line.lstrip(" ")
        indent = len(line) - len(text)
        if (bail_out := BAIL_OUT.match(text)) is not None:
            return [{"event": "bail_out", "reason": bail_out[1].strip()[:NAME_LIMIT]}]
        if KTAP_VERSION.match(text) is not None:
            self._version(indent)
        elif (subtest := KTAP_SUBTEST.match(text)) is not None and indent:
            self._level(indent).name = subtest[1].strip()[:NAME_LIMIT]
        elif (plan := PLAN.match(text)) is not None:
            self._plan(self._level(indent), plan)
        elif (result := TEST.match(text)) is not None and self._is_level(indent):
            return self._result(result, indent, now)
        elif (totals := KSFT_TOTALS.match(line)) is not None:
            self._totals(totals)
        elif text:
            self._remarks.append(re.sub(r"^# ?", "", text))
        return []

    def _is_level(self, indent: int) -> bool:
        return any(level.indent == indent for level in self._levels)

    def _level(self, indent: int) -> Level:
        """The level that a version, name or plan at this indentation is about."""
        while self._levels[-1].indent > indent:
            self._lose(self._levels.pop())
        if self._levels[-1].indent < indent:
            self._levels.append(Level(indent))
        return self._levels[-1]

    def _version(self, indent: int) -> None:
        level = self._level(indent)
        if level.plan is None and not level.numbers:
            return
        self._levels.pop()
        if indent:
            self._lose(level)
        else:
            self._end_document(level)
        self._levels.append(Level(indent))

    def _lose(self, level: Level) -> None:
        self._missing += level.missing
        self._complain(f"the line of a subtest's parent never came: {level.name or 'unnamed'}")

    def _end_document(self, level: Level) -> None:
        self._missing += level.missing
        if level.plan is None and level.numbers:
            self._planless = f"no plan for {len(level.numbers)} tests"

    def _plan(self, level: Level, match: re.Match[str]) -> None:
        if level.plan is not None:
            self._complain(f"a second plan: {match[0][:80]}")
            return
        level.plan = int(match[1])
        self._plans += level.indent == 0
        if any(number > level.plan for number in level.numbers):
            self._complain(f"the plan {match[0][:80]} is short of the tests before it")
        if level.plan == 0 and level.indent == 0:
            self._reason = PLAN_REASON.sub("", match[2] or "", count=1).strip()[:NAME_LIMIT] or None

    def _result(self, match: re.Match[str], indent: int, now: float) -> list[Event]:
        child: Level | None = None
        while self._levels[-1].indent > indent:
            if child is not None:
                self._lose(child)
            child = self._levels.pop()
        level = self._levels[-1]
        self._number(level, match)
        status, name, directive, data = ktap_result(match)
        level.counts[status] += 1
        if child is not None and not self._is_leaf(child, status, name):
            level.counts["fail"] += child.red and status not in RED
            self._remarks.clear()
            return []
        path = "/".join([*(above.name for above in self._levels if above.name), name])
        text = f"{directive} {data}".strip() if directive else None
        return [self._test(path, status, now, text, data)]

    def _number(self, level: Level, match: re.Match[str]) -> None:
        number = int(match[2][:NUMBER_DIGITS]) if match[2] else len(level.numbers) + 1
        if len(match[2] or "") > NUMBER_DIGITS:
            self._complain(f"test number {match[2]} is outside of every plan")
        if number in level.numbers:
            self._complain(f"test number {number} was reported twice: {match[0][:80]}")
        if number < 1 or (level.plan is not None and number > level.plan):
            self._complain(f"test number {number} is outside the plan: {match[0][:80]}")
        level.numbers.add(number)

    def _is_leaf(self, child: Level, status: str, name: str) -> bool:
        """Whether a parent's line counts as a test of its own: its subtests do, unless they do not explain it."""
        self._missing += child.missing
        if child.red and status == "pass":
            self._complain(f"it is ok, but a subtest of it failed: {name}")
        if child.plan == 0 and status == "pass":
            self._complain(f"it is ok, but has no subtests: {name}")
        return not child.numbers or (status in RED and not child.red)

    def _totals(self, match: re.Match[str]) -> None:
        """The line that the C tests of kselftest end with."""
        counts = self._levels[0].counts
        for status, count in zip(KSFT_STATUSES, match.groups()):
            if int(count) != counts[status]:
                self._complain(f"the totals say {status} {count}, the lines {counts[status]}")

    def _conclude(self, end: End) -> None:
        document, *open_subtests = self._levels
        for level in open_subtests:
            self._missing += level.missing
            if not end.timed_out:
                self._complain(f"the line of a subtest's parent never came: {level.name or 'unnamed'}")
        self._end_document(document)
        if self._planless and not end.timed_out:
            self._complain(self._planless)
        if self._plans:
            self._promise(self.seen + self._missing)


def ktap_result(match: re.Match[str]) -> tuple[str, str, str | None, str]:
    """Return status, name, directive and the data behind it."""
    failed, text = match[1] is not None, match[3]
    found = KTAP_DIRECTIVE.search(text)
    data = found or KTAP_DATA.search(text)
    name = re.sub(r"^-(?:\s+|$)", "", text[: data.start()].strip() if data else text.strip()).strip()
    if found is None:
        said = data[1].strip() if data else ""
        return ("fail" if failed else "pass"), name or said, None, said
    directive, said = found[1].upper(), found[2].strip()[:NAME_LIMIT]
    status = KTAP_STATUS.get(directive) or ("fail" if failed else "xpass")
    if directive == "TODO" and failed:
        status = "known"
    return status, name or said, directive, said


ESCAPES = re.compile(r"\x1b\[[0-9;]*[mK]")  # colours
GTEST_START = re.compile(r"\[={10}\] Running (\d{1,9}) tests? from ")
GTEST_END = re.compile(r"\[={10}\] (\d{1,9}) tests? from \d+ test (?:suite|case)s? ran\.")
GTEST_RUN = re.compile(r"\[ RUN      \] (.+)$")
GTEST_RESULT = re.compile(r"\[ {1,7}(OK|FAILED|SKIPPED|SKIP|TIMEOUT) {1,3}\] (.+)$")
GTEST_TOTAL = re.compile(r"\[ {1,3}(PASSED|FAILED|SKIPPED|SKIP) {1,3}\] (\d{1,9}) tests?(?:\.|, listed below:)$")
GTEST_MARK = re.compile(r"\[(?:[=-]{10}| {1,7}[A-Z]+ {1,6})\] ")
GTEST_STATUS = {"OK": "pass", "FAILED": "fail", "SKIPPED": "skip", "SKIP": "skip", "TIMEOUT": "timeout"}
GTEST_TOTALS = {"PASSED": ("pass",), "FAILED": ("fail", "timeout"), "SKIPPED": ("skip",), "SKIP": ("skip",)}


class GtestParser(LineParser):
    """GoogleTest: each program says how many tests it will run, and how it went."""

    def __init__(self, suite: str, now: float) -> None:
        super().__init__(suite, now)
        self._running: str | None = None
        self._counts: Counter[str] = Counter()  # of this program
        self._in_program = False

    def feed(self, line: str, now: float) -> list[Event]:
        line = ESCAPES.sub("", line)
        if (start := GTEST_START.match(line)) is not None:
            self._start(int(start[1]))
        elif (end := GTEST_END.match(line)) is not None:
            self._end(int(end[1]))
        elif not self._in_program:
            self._total(line)
        elif (run := GTEST_RUN.match(line)) is not None:
            return self._run(run[1].strip(), now)
        # A test may print something without a line's end, so its result is looked for in the whole line.
        elif (result := GTEST_RESULT.search(line)) is not None and self._is_result(result, line):
            return self._result(result, line[: result.start()], now)
        elif line:
            self._remarks.append(line)
        return []

    def _start(self, count: int) -> None:
        if self._in_program:
            self._complain("a test program ended without its summary")
        self._promise(count)
        self._in_program, self._running = True, None
        self._counts.clear()

    def _end(self, count: int) -> None:
        seen = sum(self._counts.values())
        # bpftrace leaves the skipped out in some versions.
        if not self._in_program or count not in (seen, seen - self._counts["skip"]):
            self._complain(f"the summary says that {count} tests ran, the lines {seen}")
        if self._running is not None:
            self._complain(f"test {self._running} has no result")
        self._in_program, self._running = False, None

    def _total(self, line: str) -> None:
        total = GTEST_TOTAL.match(line)
        if total is None:
            return
        counted = sum(self._counts[status] for status in GTEST_TOTALS[total[1]])
        if counted != int(total[2]):
            self._complain(f"the summary says {total[2]} {total[1]}, the lines {counted}")

    def _run(self, name: str, now: float) -> list[Event]:
        events = []
        if self._running is not None:
            self._complain(f"test {self._running} has no result")
            events = [self._outcome(self._running, "error", now)]
        self._running = name
        self._remarks.clear()
        return events

    def _is_result(self, result: re.Match[str], line: str) -> bool:
        if self._running is None:
            return result.start() == 0
        rest = result[2][len(self._running) :]
        return result[2].startswith(self._running) and (not rest or rest.startswith((" (", ", where ")))

    def _result(self, result: re.Match[str], before: str, now: float) -> list[Event]:
        name, status = self._running or result[2].strip(), GTEST_STATUS[result[1]]
        if self._running is None and status != "skip":  # bpftrace says SKIP without RUN
            self._complain(f"a result of a test that was not running: {name}")
            return []
        self._running = None
        if before:
            self._remarks.append(before)
        said = result[2][len(name) :].strip(" ,") if ", where " in result[2] else ""
        return [self._outcome(name, status, now, said)]

    def _outcome(self, name: str, status: str, now: float, said: str = "") -> Event:
        self._counts[status] += 1
        return self._test(name, status, now, None, said)

    def finish(self, end: End) -> list[Event]:
        events = self.settle()
        if self._running is not None:
            # What ran when the program died or was stopped is what a person looks for first.
            events.append(self._outcome(self._running, "timeout" if end.timed_out else "error", self._last))
        return [*events, *super().finish(end)]

    def _conclude(self, end: End) -> None:
        if self._in_program and not end.timed_out:
            self._complain("a test program ended without its summary")
        self._compare_exit(end)


class BpftraceParser(GtestParser):
    """bpftrace's runtime tests: like GoogleTest, but a failed test is explained after its line."""

    def __init__(self, suite: str, now: float) -> None:
        super().__init__(suite, now)
        self._pending: Event | None = None
        self._since = now

    def feed(self, line: str, now: float) -> list[Event]:
        if self._pending is not None and GTEST_MARK.match(ESCAPES.sub("", line)) is None:
            self._remarks.append(line)
            return []
        settled = self.settle()
        events = super().feed(line, now)
        if events and events[-1]["status"] in RED:
            self._pending, self._since = events.pop(), now
        return [*settled, *events]

    def settle_at(self) -> float | None:
        return None if self._pending is None else self._since + OTHER_SETTLES

    def settle(self) -> list[Event]:
        event, self._pending = self._pending, None
        if event is None:
            return []
        event["message"] = clipped([line for line in [event["message"], *self._remarks] if line])
        self._remarks.clear()
        return [event]


UNITTEST_LINE = re.compile(r"( *)(\w+) \(([\w.<>]+)\)(.*?) \.\.\. ?(.*)$")
UNITTEST_HEADING = re.compile(r"(\w+) \(([\w.<>]+)\)$")
UNITTEST_STATUS = re.compile(r"(ok|FAIL|ERROR|expected failure|unexpected success|skipped (?:'.*'|\".*\"))$")
UNITTEST_DETAIL = re.compile(r"(FAIL|ERROR): (\w+) \(([\w.<>]+)\) ?(.*)$")
UNITTEST_RAN = re.compile(r"Ran (\d{1,9}) tests? in ")
UNITTEST_END = re.compile(r"(OK|FAILED|NO TESTS RAN)(?: \((.*)\))?$")
UNITTEST_RESULT = {  # status, and what the summary counts it as
    "ok": ("pass", ""),
    "FAIL": ("fail", "failures"),
    "ERROR": ("error", "errors"),
    "skipped": ("skip", "skipped"),
    "expected failure": ("known", "expected failures"),
    "unexpected success": ("fail", "unexpected successes"),
}
UNITTEST_FIXTURES = frozenset({"setUpClass", "tearDownClass", "setUpModule", "tearDownModule"})


class UnittestParser(LineParser):
    """python3 -m unittest -v, from 3.9 on: it prints on standard error, and tracebacks only at its end."""

    reads_errors = True

    def __init__(self, suite: str, now: float) -> None:
        super().__init__(suite, now)
        self._heading: str | None = None  # a test whose docstring is on the next line
        self._missing = 0
        self._ran: int | None = None
        self._begin_program()

    def _begin_program(self) -> None:
        self._open: str | None = None  # the test that was begun and has no result yet,
        self._printed = ""  # what it printed last,
        self._has_subtests = False  # and whether subtests of it stood for it
        self._counts: Counter[str] = Counter()
        self._started = 0
        self._repeated = 0  # second failures, or tests of the same name: only the summary knows
        self._failed_last: str | None = None
        self._unresolved: list[str] = []  # before Python 3.11, failed subtests are named only at the end
        self._resolved: set[str] = set()

    def feed(self, line: str, now: float) -> list[Event]:
        heading, self._heading = self._heading, None
        if (ran := UNITTEST_RAN.match(line)) is not None:
            self._ran = int(ran[1])
            return self._close(now)
        if self._ran is not None and (end := UNITTEST_END.match(line)) is not None:
            self._end(self._ran, end)
            return []
        if (detail := UNITTEST_DETAIL.match(line)) is not None:
            return self._detail(detail, now)
        if (test := UNITTEST_LINE.match(line)) is not None:
            return self._line(unittest_name(test[2], test[3]), test, now)
        if (found := UNITTEST_HEADING.match(line)) is not None:
            self._heading = unittest_name(found[1], found[2])
        elif heading is not None and " ... " in line:
            return [*self._begin(heading, False, now), *self._said(line.rpartition(" ... ")[2], now)]
        return self._said(line, now)

    def _line(self, name: str, test: re.Match[str], now: float) -> list[Event]:
        status = UNITTEST_STATUS.match(test[5])
        if test[1]:
            if status is None or self._open != name:
                return []
            self._has_subtests = True
            return [self._result(f"{name}{test[4]}", status[1], now)]
        events: list[Event] = []
        while (inner := UNITTEST_LINE.match(test[5])) is not None:
            events += self._begin(name, False, now)
            test, name = inner, unittest_name(inner[2], inner[3])
        status = UNITTEST_STATUS.match(test[5])
        failed = status is not None and status[1] in ("FAIL", "ERROR")
        events += self._begin(name, failed and self._failed_last == name, now)
        return [*events, *self._said(test[5], now)]

    def _begin(self, name: str, repeated: bool, now: float) -> list[Event]:
        if self._open == name and self._has_subtests:
            return []
        events = self._close(now)
        if name.rpartition(".")[2] not in UNITTEST_FIXTURES:
            self._repeated += repeated
            self._started += not repeated
        self._open, self._printed, self._has_subtests = name, "", False
        return events

    def _said(self, text: str, now: float) -> list[Event]:
        status = UNITTEST_STATUS.match(text)
        if status is not None and (self._open is not None or status[1] != "ok"):
            name, self._open = self._open, None
            return [self._result(name or "outside of a test", status[1], now)]
        if self._open is not None and text.strip("-="):  # else it is empty, or where the results end
            self._printed = text[-NAME_LIMIT:]
            self._remarks.append(text)
        return []

    def _close(self, now: float) -> list[Event]:
        """The test that was begun gets no line of its own; its result may be behind what it printed."""
        name, self._open = self._open, None
        if name is None or self._has_subtests:
            return []
        status = UNITTEST_STATUS.search(self._printed)
        if status is not None:
            return [self._result(name, status[1], now)]
        self._unresolved.append(name)
        return []

    def _result(self, name: str, said: str, now: float) -> Event:
        word = "skipped" if said.startswith("skipped") else said
        status, counted_as = UNITTEST_RESULT[word]
        self._counts[counted_as] += 1
        self._failed_last = name if status in RED else None
        return self._test(name, status, now, said if word in ("skipped", "unexpected success") else None)

    def _detail(self, match: re.Match[str], now: float) -> list[Event]:
        events = self._close(now)
        name = unittest_name(match[2], match[3])
        if name in self._unresolved:
            events.append(self._result(f"{name} {match[4]}".strip(), match[1], now))
            self._resolved.add(name)
        return events

    def _end(self, ran: int, end: re.Match[str]) -> None:
        """Compare the summary with the lines."""
        lost = [name for name in self._unresolved if name not in self._resolved]
        for name in lost:
            self._complain(f"test {name} has no result")
        missing = ran - self._started
        if not 0 <= missing <= self._repeated:
            self._complain(f"the summary says that {ran} tests ran, the lines {self._started}")
        said = {word: int(count) for word, count in re.findall(r"([a-z]+(?: [a-z]+)?)=(\d{1,9})", end[2] or "")}
        for _status, word in UNITTEST_RESULT.values():
            if word and said.get(word, 0) != self._counts[word]:
                self._complain(f"the summary says {said.get(word, 0)} {word}, the lines {self._counts[word]}")
        bad = any(self._counts[word] for word in ("failures", "errors", "unexpected successes"))
        if bad != (end[1] == "FAILED"):
            self._complain(f"the summary says {end[1]}, but the lines do not")
        self._missing += len(lost) + (missing if missing > self._repeated else 0)
        self.planned = self.seen + self._missing  # subtests and second failures are tests here
        self._ran = None
        self._begin_program()

    def _conclude(self, end: End) -> None:
        if not end.timed_out and (self._ran is not None or self._started):
            self._complain("a test program ended without its summary")
        self._compare_exit(end)

    def finish(self, end: End) -> list[Event]:
        events = []
        if self._open is not None and not self._has_subtests and UNITTEST_STATUS.search(self._printed) is None:
            events = [self._test(self._open, "timeout" if end.timed_out else "error", self._last)]
        return [*events, *super().finish(end)]


def unittest_name(method: str, where: str) -> str:
    """Python 3.11 repeats the method in the brackets."""
    return where if where.endswith(f".{method}") else f"{where}.{method}"


CARGO_START = re.compile(r"running (\d{1,9}) tests?$")
CARGO_TEST = re.compile(r"test (.+?) \.\.\. ?(.*)$")
CARGO_STATUS = re.compile(r"(ok|FAILED|ignored|bench:)(?:, (.*)| <[\d.]+s>|  +[\d,.]+ .*| \(.*\))?$")
CARGO_GLUED = re.compile(r"(ok|FAILED)$")
CARGO_END = re.compile(r"test result: (ok|FAILED)\. (\d{1,9}) passed; (\d{1,9}) failed; (\d{1,9}) ignored; (\d{1,9}) measured; ")
CARGO_RESULT = {"ok": "pass", "FAILED": "fail", "ignored": "skip", "bench:": "pass"}


class CargoParser(LineParser):
    """Rust's libtest: each test program, and the documentation's tests, with a plan and a result."""

    def __init__(self, suite: str, now: float) -> None:
        super().__init__(suite, now)
        self._open: str | None = None  # with --nocapture, a test prints between its name and its result
        self._printed = ""
        self._counts: Counter[str] = Counter()  # of this program
        self._in_program = False

    def feed(self, line: str, now: float) -> list[Event]:
        if (start := CARGO_START.match(line)) is not None:
            self._start(int(start[1]))
            return []
        if (end := CARGO_END.match(line)) is not None:
            events = self._close(now)
            self._end(end)
            return events
        if not self._in_program:
            return []
        if (test := CARGO_TEST.match(line)) is not None:
            events = self._close(now)
            self._open, self._printed = test[1], ""
            self._remarks.clear()
            return [*events, *self._said(test[2], now)]
        return self._said(line, now)

    def _start(self, count: int) -> None:
        if self._in_program:
            self._complain("a test program ended without its result")
        self._promise(count)
        self._in_program, self._open = True, None
        self._counts.clear()

    def _said(self, text: str, now: float) -> list[Event]:
        if self._open is None:
            return []
        if (status := CARGO_STATUS.match(text)) is not None:
            return [self._result(status[1], now, status[2])]
        if text:
            self._printed = text[-NAME_LIMIT:]
            self._remarks.append(text)
        return []

    def _close(self, now: float) -> list[Event]:
        """The test that was begun gets no line of its own; its result may be behind what it printed."""
        if self._open is None:
            return []
        if (status := CARGO_GLUED.search(self._printed)) is not None:
            return [self._result(status[1], now)]
        self._complain(f"test {self._open} has no result")
        self._open = None
        return []

    def _result(self, said: str, now: float, why: str | None = None) -> Event:
        name, self._open = self._open or "", None
        self._counts[said] += 1
        return self._test(name, CARGO_RESULT[said], now, why if said == "ignored" else None)

    def _end(self, end: re.Match[str]) -> None:
        for word, count in zip(CARGO_RESULT, end.groups()[1:]):
            if int(count) != self._counts[word]:
                self._complain(f"the result says {count} {word.rstrip(':')}, the lines {self._counts[word]}")
        if not self._in_program:
            self._complain("a test program ended that never began")
        if (end[1] == "FAILED") != bool(self._counts["FAILED"]):
            self._complain(f"the result is {end[1]}, but the lines are not")
        self._in_program = False

    def _conclude(self, end: End) -> None:
        if self._in_program and not end.timed_out:
            self._complain("a test program ended without its result")
        self._compare_exit(end)

    def finish(self, end: End) -> list[Event]:
        events = []
        if self._open is not None:
            events = [self._test(self._open, "timeout" if end.timed_out else "error", self._last)]
        return [*events, *super().finish(end)]


TEST_PROGS_TEST = re.compile(r"#(\d{1,6})(?:/(\d{1,6}))?\s+(\S.*?):(OK|FAIL|SKIP)$")
TEST_PROGS_END = re.compile(r"Summary: (\d{1,9})/(\d{1,9}) PASSED, (\d{1,9}) SKIPPED, (\d{1,9}) FAILED$")
TEST_PROGS_STATUS = {"OK": "pass", "FAIL": "fail", "SKIP": "skip"}


class TestProgsParser(LineParser):
    """The kernel's BPF selftests: subtests before their test, and a summary but no plan."""

    def __init__(self, suite: str, now: float) -> None:
        super().__init__(suite, now)
        self._begin_program()

    def _begin_program(self) -> None:
        self._subtests: dict[str, list[str]] = {}  # by the number of a test whose line is still to come
        self._tests: Counter[str] = Counter()
        self._subtests_seen: Counter[str] = Counter()
        self._numbers: set[str] = set()
        self._repeating = False  # the logs of failed tests come again at the end, with their lines

    def feed(self, line: str, now: float) -> list[Event]:
        if (end := TEST_PROGS_END.match(line)) is not None:
            self._end(end)
        elif line.startswith("All error logs:"):
            self._repeating = True
        elif self._repeating:
            pass
        elif (test := TEST_PROGS_TEST.match(line)) is not None:
            return self._subtest(test, now) if test[2] else self._parent(test, now)
        elif line:
            self._remarks.append(line)
        return []

    def _subtest(self, test: re.Match[str], now: float) -> list[Event]:
        status = TEST_PROGS_STATUS[test[4]]
        self._subtests.setdefault(test[1], []).append(status)
        self._subtests_seen[status] += 1
        self._once(f"{test[1]}/{test[2]}")
        return [self._test(test[3], status, now)]

    def _parent(self, test: re.Match[str], now: float) -> list[Event]:
        """A test's own line is a test only if its subtests do not explain it."""
        status = TEST_PROGS_STATUS[test[4]]
        subtests = self._subtests.pop(test[1], [])
        self._tests[status] += 1
        self._once(test[1])
        if status == "pass" and "fail" in subtests:
            self._complain(f"it is OK, but a subtest of it failed: {test[3]}")
        if subtests and not (status == "fail" and "fail" not in subtests):
            self._remarks.clear()
            return []
        return [self._test(test[3], status, now)]

    def _once(self, number: str) -> None:
        if number in self._numbers:
            self._complain(f"test number {number} was reported twice")
        self._numbers.add(number)

    def _end(self, end: re.Match[str]) -> None:
        passed, subtests_passed, _skipped, failed = (int(count) for count in end.groups())
        # A skipped test counts as passed there, and before 5.18 a failed subtest as a failed test.
        good, bad = self._tests["pass"] + self._tests["skip"], self._tests["fail"]
        good_subtests = self._subtests_seen["pass"]
        if passed != good:
            self._complain(f"the summary says that {passed} tests passed or were skipped, the lines {good}")
        if failed not in (bad, bad + self._subtests_seen["fail"]):
            self._complain(f"the summary says {failed} FAILED, the lines {bad}")
        if subtests_passed != good_subtests:
            self._complain(f"the summary says that {subtests_passed} subtests passed, the lines {good_subtests}")
        self._lost_parents()
        self._promise(self.seen + max(0, passed - good) - (self.planned or 0))
        self._begin_program()

    def _lost_parents(self) -> None:
        for number in self._subtests:
            self._complain(f"the line of test #{number} never came after its subtests")

    def _conclude(self, end: End) -> None:
        if not end.timed_out:
            self._lost_parents()
            if self._numbers or self._repeating:
                self._complain("a test program ended without its summary")
        self._compare_exit(end)


class ReportParser(LineParser):
    """A file that the suite leaves when it ends: nothing is known before."""

    def feed(self, _line: str, _now: float) -> list[Event]:
        return []

    def finish(self, end: End) -> list[Event]:
        events: list[Event] = []
        try:
            if end.report is None:
                raise ValueError(end.report_error or "there is none")
            events = self._read(end.report)
        except (ValueError, RecursionError) as error:
            if not end.timed_out:
                self._complain(f"the report cannot be used: {error}")
        return [*events, *super().finish(end)]

    def _read(self, report: bytes) -> list[Event]:
        """Return the tests of the report, or raise ValueError."""
        raise NotImplementedError

    def _conclude(self, end: End) -> None:
        self._compare_exit(end)

    def _case(self, name: str, status: str, duration: Any, directive: str | None, message: str) -> Event:
        self.seen += 1
        self._red = self._red or status in RED
        text = clipped([message]) if status in RED else ""
        return test_event(self.seen, writable(name[:NAME_LIMIT]), status, seconds(duration), directive, writable(text))

    def _compare(self, where: str, what: str, said: Any, counted: int) -> None:
        if said is not None and (not str(said).isdecimal() or int(str(said)[:9]) != counted):
            self._complain(f"{where} says {said!r:.40} {what}, but has {counted}")


def seconds(value: Any) -> float:
    try:
        number = float(str(value).replace(",", ""))
    except ValueError:
        return 0.0
    return number if 0 <= number < 1e9 else 0.0


def writable(text: str) -> str:
    """JSON may hold halves of characters, which no file can."""
    return text.encode("utf-8", "replace").decode("utf-8")


@dataclass
class Element:
    """What is needed of an XML element."""

    name: str
    attributes: dict[str, str]
    children: list[Element] = field(default_factory=list)
    text: list[str] = field(default_factory=list)


def read_xml(data: bytes) -> Element:
    """Parse XML without a document type, so that there are no entities to expand; raise ValueError for anything else."""
    try:
        from xml.parsers import expat  # minimal installations of Python lack it, and other parsers need it not
    except ImportError as error:
        raise ValueError(f"the guest's Python reads no XML: {error}") from error
    root = Element("", {})
    path = [root]

    def start(name: str, attributes: dict[str, str]) -> None:
        if len(path) > XML_DEPTH:
            raise ValueError(f"its elements are nested deeper than {XML_DEPTH}")
        element = Element(name.rpartition("}")[2], attributes)
        path[-1].children.append(element)
        path.append(element)

    def doctype(*_arguments: object) -> None:
        raise ValueError("it has a document type, which is refused")

    def text(characters: str) -> None:
        path[-1].text.append(characters)

    parser = expat.ParserCreate(namespace_separator="}")
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _name: path.pop()
    parser.CharacterDataHandler = text
    parser.StartDoctypeDeclHandler = doctype
    try:
        # Bit by bit until the root is there: a document type must be refused before anything is made of it.
        for index in range(min(len(data), XML_PROLOGUE)):
            parser.Parse(data[index : index + 1], False)
            if root.children:
                break
        else:
            raise ValueError(f"no element begins within {XML_PROLOGUE} bytes")
        parser.Parse(data[index + 1 :], True)
    except expat.ExpatError as error:
        raise ValueError(f"it is not well-formed XML: {error}") from error
    return root.children[0]


JUNIT_OUTCOMES = (("failure", "fail"), ("error", "error"), ("skipped", "skip"), ("flakyFailure", "flaky"), ("flakyError", "flaky"))
JUNIT_COUNTS = (("failures", "failure"), ("errors", "error"), ("skipped", "skipped"))


class JunitParser(ReportParser):
    """JUnit XML, as pytest and gotestsum write it."""

    def _read(self, report: bytes) -> list[Event]:
        root = read_xml(report)
        if root.name not in ("testsuites", "testsuite"):
            raise ValueError(f"it is no JUnit XML, but <{root.name[:80]}>")
        self._missing = 0
        cases = self._suite(root)
        self._promise(len(cases) + self._missing)
        return [self._test_case(case) for case in cases]

    def _suite(self, suite: Element) -> list[Element]:
        """Return all test cases below, after comparing them with what the suite says of itself."""
        missing_before = self._missing
        cases = [child for child in suite.children if child.name == "testcase"]
        for child in suite.children:
            if child.name == "testsuite":
                cases += self._suite(child)
        where = f"suite {suite.attributes.get('name', '')!r:.80}"
        said = suite.attributes.get("tests")
        # pytest counts a test once that failed and whose teardown failed, but has it twice.
        if said is None or not said.isdecimal() or not 0 <= len(cases) - int(said[:9]) <= repeated_failures(cases):
            self._compare(where, "tests", said, len(cases))
        if said is not None and said.isdecimal():
            self._missing = max(missing_before, self._missing, int(said[:9]) - len(cases))
        for attribute, tag in JUNIT_COUNTS:
            self._compare(where, attribute, suite.attributes.get(attribute), sum(has(case, tag) for case in cases))
        return cases

    def _test_case(self, case: Element) -> Event:
        name = ".".join(part for part in (case.attributes.get("classname"), case.attributes.get("name")) if part)
        for tag, status in JUNIT_OUTCOMES:
            for child in case.children:
                if child.name == tag:
                    if child.attributes.get("type") == "pytest.xfail":
                        status = "known"
                    reason = child.attributes.get("message", "")
                    directive = f"{tag} {reason}".strip()[:NAME_LIMIT] if status in ("skip", "known", "flaky") else None
                    message = "\n".join(part for part in (reason, "".join(child.text)) if part.strip())
                    return self._case(name, status, case.attributes.get("time"), directive, message)
        return self._case(name, "pass", case.attributes.get("time"), None, "")


def has(case: Element, tag: str) -> bool:
    return any(child.name == tag for child in case.children)


def repeated_failures(cases: list[Element]) -> int:
    failed = [case for case in cases if has(case, "failure") or has(case, "error")]
    names = {(case.attributes.get("classname"), case.attributes.get("name")) for case in failed}
    return len(failed) - len(names)


AVOCADO_STATUS = {
    "PASS": "pass",
    "WARN": "pass",
    "FAIL": "fail",
    "SKIP": "skip",
    "CANCEL": "skip",
    "INTERRUPTED": "timeout",
}  # any other is an error
AVOCADO_UNPREPARED = "Dependency was not fulfilled"
AVOCADO_COUNTS = {"pass": "PASS", "failures": "FAIL", "errors": "ERROR", "skip": "SKIP", "cancel": "CANCEL", "warn": "WARN"}


class AvocadoParser(ReportParser):
    """Avocado's results.json."""

    def _read(self, report: bytes) -> list[Event]:
        results = json.loads(report.decode("utf-8"))
        tests = results.get("tests") if isinstance(results, dict) else None
        if not isinstance(tests, list) or not all(isinstance(test, dict) for test in tests):
            raise ValueError("it has no list of tests")
        total = results.get("total")
        if isinstance(total, bool) or not isinstance(total, int) or not 0 <= total < 10**9:
            raise ValueError("it does not say how many tests there are")
        self._promise(max(total, len(tests)))
        self._compare("the report", "tests", total, len(tests))
        counts = Counter(str(test.get("status")) for test in tests)
        for key, status in AVOCADO_COUNTS.items():
            self._compare("the report", key, results.get(key), counts[status])
        return [self._avocado_test(test) for test in tests]

    def _avocado_test(self, test: dict[str, Any]) -> Event:
        said = str(test.get("status"))
        reason = test.get("fail_reason")
        text = reason if isinstance(reason, str) else ""
        duration = test.get("time_elapsed", test.get("time"))
        directive = f"{said} {text}".strip()[:NAME_LIMIT] if said not in ("PASS", "FAIL") else None
        name = str(test.get("name") or test.get("id") or "")
        # Avocado skips a test whose preparation failed. A test that was to run and could not is no skipped one.
        status = "error" if text.startswith(AVOCADO_UNPREPARED) else AVOCADO_STATUS.get(said, "error")
        return self._case(name, status, duration, directive and writable(directive), text)


PARSERS: dict[str, Callable[[str, float], Parser]] = {
    "tap": TapParser,
    "ktap": KtapParser,
    "gtest": GtestParser,
    "unittest": UnittestParser,
    "cargo": CargoParser,
    "bpftrace": BpftraceParser,
    "test_progs": TestProgsParser,
    "junit": JunitParser,
    "avocado": AvocadoParser,
    "exit_code": ExitCodeParser,
}
REPORTS = frozenset({"junit", "avocado"})  # of a file, not of output


# --- files ------------------------------------------------------------------------------------------------------


class EventLog:
    """events.jsonl: one JSON object a line, each written out at once."""

    def __init__(self, path: Path) -> None:
        # Exclusive: events of an earlier run must never be read as events of this one.
        self._file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644), "ab")

    def write(self, event: Event, *, sync: bool = False) -> None:
        line = json.dumps({"event": event["event"], "time": round(time.time(), 3), **event})
        self._file.write(line.encode("ascii") + b"\n")
        self._file.flush()
        if sync:
            os.fsync(self._file.fileno())


def claim(directory: Path) -> EventLog:
    """Make the results directory and its empty event log, or say that it was used before."""
    directory.mkdir(parents=True, exist_ok=True)
    try:
        return EventLog(directory / "events.jsonl")
    except FileExistsError as error:
        message = f"'{directory}' already has results of an earlier run (events.jsonl); give each run its own directory"
        raise RunnerError(message) from error


class Capture:
    """One output stream: kept in a file up to a limit, split into lines without one."""

    def __init__(self, path: Path, limit: int) -> None:
        self._path = path
        self._file: BinaryIO | None = path.open("wb", buffering=0)
        self._left = limit
        self._limit = limit
        self._buffer = b""
        self._skipping = False  # inside a line longer than LINE_LIMIT
        self.error: str | None = None

    def feed(self, data: bytes) -> list[str]:
        """Keep the data; return the lines it completes."""
        self._keep(data)
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        texts = [text for line in lines for text in self._line(line)]
        if len(self._buffer) > LINE_LIMIT:
            texts += self._line(self._buffer)
            self._buffer, self._skipping = b"", True
        return texts

    def close(self) -> list[str]:
        """Return the last line if it has no end."""
        if self._file is not None:
            self._file.close()
        rest, self._buffer = self._buffer, b""
        return self._line(rest) if rest else []

    def _line(self, line: bytes) -> list[str]:
        if self._skipping:
            self._skipping = False
            return []
        if len(line) > LINE_LIMIT:
            # With a mark in front, so that it is no test line: a directive may have been cut off.
            return ["[cut] " + line[:LINE_LIMIT].decode("utf-8", "replace")]
        return [line.decode("utf-8", "replace").rstrip("\r")]

    def _keep(self, data: bytes) -> None:
        if self._file is None:
            return
        kept = data[: self._left]
        self._left -= len(kept)
        try:
            self._file.write(kept)
            if len(kept) < len(data):
                note = f"\n[mayfly: cut here after {self._limit} bytes; the parser still reads everything]\n"
                self._file.write(note.encode())
                self._stop_keeping()
        except OSError as error:  # a full disk must not end the suite; it is told in suite_end
            self.error = f"{self._path.name} is incomplete: {error.strerror}"
            self._stop_keeping()

    def _stop_keeping(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class Report:
    """The file in which a suite leaves its results. One that was there before is not this run's."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._before = self._stamp()

    def read(self) -> bytes:
        """Return the content, or raise ValueError saying why there is none."""
        try:
            if self._before is not None and self._stamp() == self._before:
                raise ValueError(f"'{self._path}' was there before the suite, which did not write it")
            # A pipe or a device would never end.
            with os.fdopen(os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise ValueError(f"'{self._path}' is no plain file")
                content = file.read(REPORT_LIMIT + 1)
        except OSError as error:
            raise ValueError(f"'{self._path}': {error.strerror}") from error
        if len(content) > REPORT_LIMIT:
            raise ValueError(f"'{self._path}' has more than {REPORT_LIMIT} bytes")
        return content

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size


# --- processes --------------------------------------------------------------------------------------------------


def session_members(session: int) -> dict[int, tuple[int, str]]:
    """Living processes of a session: pid to (process group, command name).

    The session, not only the group: timeout(1) and shells with job control make groups of their own.
    """
    members = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            stat = Path("/proc", entry, "stat").read_text(errors="replace")
        except OSError:  # it ended while we looked
            continue
        name = stat[stat.index("(") + 1 : stat.rindex(")")]
        state, _parent, group, its_session = stat[stat.rindex(")") + 2 :].split()[:4]
        if int(its_session) == session and state not in "ZX":
            members[int(entry)] = (int(group), name)
    return members


def signal_session(session: int, number: signal.Signals) -> None:
    """Signal every process group of the session."""
    for group in {group for group, _name in session_members(session).values()}:
        with contextlib.suppress(ProcessLookupError):  # it ended in between, which is what we want
            os.killpg(group, number)


class Stop:
    """Signals as something a select loop can wait for: a child that ended, or a request to stop."""

    def __init__(self) -> None:
        self.requested: str | None = None

    def _note(self, number: int, _frame: object) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            self.requested = signal.Signals(number).name

    @contextlib.contextmanager
    def watched(self) -> Iterator[socket.socket]:
        """Yield a socket that becomes readable with each signal."""
        reader, writer = socket.socketpair()
        reader.setblocking(False)
        writer.setblocking(False)
        # SIGHUP comes when the ssh connection goes away. It gets a handler and is not ignored, because children
        # would inherit that.
        numbers = (signal.SIGCHLD, signal.SIGHUP, signal.SIGTERM, signal.SIGINT)
        handlers = {number: signal.signal(number, self._note) for number in numbers}
        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        try:
            yield reader
        finally:
            signal.set_wakeup_fd(before)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            reader.close()
            writer.close()


def spawn(spec: Spec) -> subprocess.Popen[bytes]:
    """Start the suite in a session of its own."""
    environment = {**os.environ, **spec.environment}
    identity: dict[str, Any] = {}
    if spec.user is not None:
        account = pwd.getpwnam(spec.user)
        groups = os.getgrouplist(account.pw_name, account.pw_gid)
        identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": groups}
        environment = {"HOME": account.pw_dir, "USER": spec.user, "LOGNAME": spec.user, **spec.environment}
        environment.setdefault("PATH", os.environ.get("PATH", os.defpath))
    return subprocess.Popen(
        spec.argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        cwd=spec.cwd,
        env=environment,
        start_new_session=True,
        **identity,
    )


class Run:
    """One run of one suite, from suite_start to suite_end."""

    def __init__(self, spec: Spec, directory: Path, log: EventLog) -> None:
        self.spec = spec
        self.log = log
        self.started = time.monotonic()
        self.parser: Parser = PARSERS[spec.parser](spec.suite, self.started)
        self.stdout = Capture(directory / "stdout.log", spec.capture_limit)
        self.stderr = Capture(directory / "stderr.log", spec.capture_limit)
        self.report = Report(Path(spec.cwd or ".", spec.report)) if spec.report else None
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.errors: list[str] = []
        self.leftovers: list[str] = []
        self.end = End()
        self.stop = Stop()
        self.selector = selectors.DefaultSelector()

    def execute(self) -> None:
        """Run the suite; whatever happens, the last event is suite_end."""
        with self.selector, self.stop.watched() as signals:
            self.selector.register(signals, selectors.EVENT_READ, None)
            self.log.write(self._suite_start())
            self._report(self.parser.begin())
            try:
                self._run()
            except BaseException as error:
                self.errors.append(f"the runner failed: {type(error).__name__}: {error}")
                raise
            finally:
                self._suite_end()

    def _run(self) -> None:
        try:
            process = spawn(self.spec)
        except (OSError, KeyError, subprocess.SubprocessError) as error:
            self.errors.append(f"cannot start {self.spec.argv}: {error}")
            return
        pipes = [(process.stdout, self.stdout), (process.stderr, self.stderr)]
        streams = [(stream, capture) for stream, capture in pipes if stream is not None]
        try:
            for stream, capture in streams:
                self.selector.register(stream, selectors.EVENT_READ, capture)
            self._until_it_ends(process)
            self._end_session(process)
            self._drain()
        finally:
            signal_session(process.pid, signal.SIGKILL)
            for stream, _capture in streams:
                stream.close()
        self._note_exit(process)

    def _until_it_ends(self, process: subprocess.Popen[bytes]) -> None:
        """Wait for the command, its deadline, or an order to stop."""
        limit = self.started + self.spec.deadline
        while process.poll() is None:
            if self.stop.requested:
                self.errors.append(f"the runner was told to stop by {self.stop.requested}")
                return
            if time.monotonic() >= limit:
                self.end.timed_out = True
                return
            self._take(limit)

    def _end_session(self, process: subprocess.Popen[bytes]) -> None:
        """Nothing of the suite may outlive it."""
        members = session_members(process.pid)
        if process.returncode is not None:
            self.leftovers = [f"{pid} {name}" for pid, (_group, name) in sorted(members.items())]
        for number in (signal.SIGTERM, signal.SIGKILL):
            limit = time.monotonic() + GRACE
            if members:
                signal_session(process.pid, number)
            while members and time.monotonic() < limit:
                self._take(time.monotonic() + 0.1)  # only our child's end is told to us, the others' is not
                members = session_members(process.pid)

    def _note_exit(self, process: subprocess.Popen[bytes]) -> None:
        status = process.poll()
        if status is None:
            self.errors.append("the command is still there after SIGKILL")
        elif status < 0:
            self.end.signal = signal_name(-status)
        else:
            self.end.exit_status = status

    def _drain(self) -> None:
        """Read the rest. A process that left the session may keep the pipes open; it is not waited for."""
        limit = time.monotonic() + DRAIN_LIMIT
        while self._streams() and time.monotonic() < limit:
            if not self._take(time.monotonic() + DRAIN):
                break
        if self._streams():
            self.leftovers.append("a process that left the session still holds the suite's output")
        for capture in (self.stdout, self.stderr):
            self._lines(capture, capture.close())

    def _streams(self) -> bool:
        return any(isinstance(key.data, Capture) for key in self.selector.get_map().values())

    def _take(self, limit: float) -> bool:
        """Wait for output, a signal or the limit, and pass on what came; tell whether anything did."""
        settle_at = self.parser.settle_at()
        wake_at = limit if settle_at is None else min(limit, settle_at)
        ready = self.selector.select(max(0.0, wake_at - time.monotonic()))
        for key, _events in ready:
            data = os.read(key.fd, 65536)
            if key.data is None:
                continue  # a signal: only there to wake us
            if data:
                self._lines(key.data, key.data.feed(data))
            else:
                self.selector.unregister(key.fileobj)
        settle_at = self.parser.settle_at()
        if settle_at is not None and time.monotonic() >= settle_at:
            self._report(self.parser.settle())
        return bool(ready)

    def _lines(self, capture: Capture, lines: list[str]) -> None:
        now = time.monotonic()
        for line in lines:
            self.tail.append(line[:2000])
            if capture is self.stdout or self.parser.reads_errors:
                self._report(self.parser.feed(line, now))

    def _report(self, events: list[Event]) -> None:
        for event in events:
            self.log.write(event)

    def _suite_start(self) -> Event:
        spec = self.spec
        return {
            "event": "suite_start",
            "suite": spec.suite,
            "parser": spec.parser,
            "command": spec.argv,
            "deadline": spec.deadline,
            "runner": VERSION,
        }

    def _suite_end(self) -> None:
        end = self.end
        end.duration = time.monotonic() - self.started
        end.tail = list(self.tail)
        if self.report is not None:
            try:
                end.report = self.report.read()
            except ValueError as error:
                end.report_error = str(error)
        self._report(self.parser.finish(end))
        captures = [capture.error for capture in (self.stdout, self.stderr) if capture.error]
        event: Event = {
            "event": "suite_end",
            "exit_status": end.exit_status,
            "signal": end.signal,
            "timed_out": end.timed_out,
            "duration": round(end.duration, 3),
            "planned": self.parser.planned,
            "seen": self.parser.seen,
            "error": "; ".join([*self.errors, *self.parser.errors[:10], *captures]) or None,
            "leftovers": self.leftovers,
            # What a person looks at first when a command died without a test line to blame.
            "tail": [] if end.exit_status == 0 else end.tail[-10:],
        }
        self.log.write(event, sync=True)


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # real-time signals have no name
        return f"SIG{number}"


# --- command line -----------------------------------------------------------------------------------------------


def detach(directory: Path) -> int | None:
    """Leave the caller: the child's pid in the caller, None in the child, which has a session of its own."""
    reader, writer = os.pipe()
    first = os.fork()
    if first:
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            pid = pipe.read()
        os.waitpid(first, 0)
        if not pid:
            raise RunnerError("cannot start the runner in the background")
        return int(pid)
    os.close(reader)
    os.setsid()
    if os.fork():
        os._exit(0)
    (directory / "pid").write_text(f"{os.getpid()}\n")
    os.write(writer, str(os.getpid()).encode())
    os.close(writer)
    nowhere = os.open(os.devnull, os.O_RDONLY)
    log = os.open(directory / "runner.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for source, target in ((nowhere, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(nowhere)
    os.close(log)
    return None


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run one test suite and write its events as JSON lines.")
    parser.add_argument("action", choices=["run", "start"], help="start: detached, prints the pid")
    parser.add_argument("--spec", type=Path, required=True, help="what to run, a JSON file")
    parser.add_argument("--dir", type=Path, required=True, help="directory for events and output, not used before")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Entry point: 0 when the suite was run or started, 2 when it cannot be."""
    options = parse_arguments(arguments)
    try:
        spec = read_spec(options.spec.read_text(encoding="utf-8"))
        directory = options.dir.resolve()
        log = claim(directory)
        if options.action == "start":
            pid = detach(directory)
            if pid is not None:
                print(pid, flush=True)
                return 0
    except (RunnerError, OSError, UnicodeDecodeError) as error:
        print(f"mayfly_suite_runner: {error}", file=sys.stderr)
        return 2
    Run(spec, directory, log).execute()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
