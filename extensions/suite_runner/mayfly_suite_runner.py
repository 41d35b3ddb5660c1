# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run one test suite in a guest and write down, line by line, what happened.

    mayfly_suite_runner.py run   --spec spec.json --dir DIR    runs the suite and returns when it has ended
    mayfly_suite_runner.py start --spec spec.json --dir DIR    the same, detached; prints the runner's pid

The specification is a JSON object: suite, parser, deadline (seconds), and optionally cwd, environment, user, requires and
capture_limit (bytes kept of each output). A suite is one of two kinds:

* One command, whose output one of PARSERS reads: command (a string for /bin/sh -c, or an argument list) and, for junit and
  avocado, and if wanted test_progs, report (the file with the results, relative to cwd).
* Many tests, with the parser "tests": tests is a list of {name, command, parser, report, deadline, requires} or, for a test from
  each executable file, {glob, parser, report, deadline, requires} or, for those that a file in the guest lists, {list, parser,
  deadline, requires}. Each is a process of its own and one event, whatever its parser counts. fail_fast, retries, shard ("1/4"),
  select (patterns) and deny ({test, reason}) say which run, and how often. harness says who asks for one after the other: this
  runner ("builtin"), or Avocado ("avocado").

DIR gets events.jsonl, with start also runner.log and pid, and stdout.log and stderr.log, of each test in tests/<name>. The runner
reports and judges nothing: a suite whose tests fail is a run that went well, and the exit status is 0.

A test of many has its own directory: MAYFLY_TEST_DIR, where its report is looked for, with MAYFLY_TEST_NAME and MAYFLY_ATTEMPT.
Plain files that it leaves there are kept and announced as files. One is read: judgement.json, {"status": "error",
"timeout" or "daemon_hang", "message": [lines]}, in which whoever watches the test says what its output does not. It makes no test good.

A list is a JSON file: a list of {name, command, parser, report, deadline, requires, not_run}. Its deadlines are multiplied by
deadline_factor; a test with the reason not_run is not run.

With the harness avocado, Avocado gets a recipe whose tasks ask this runner for one test each. It runs the test as without Avocado
and answers with its status, so Avocado decides when a test runs and nothing else. The tasks are of a kind of their own, whose
avocado-runner-mayfly is here: Avocado's own for TAP takes ten times as long to start, and gives no reason for a failure. When
Avocado has ended, its results.json must tell the same of each test. Failed tests are tried again by another start of it.

How a test of many is judged: at its deadline its processes are looked at, then it gets TERM, and KILL after a grace of some seconds.
One whose assertions contradict themselves, its plan or its exit status is an error. What it leaves behind in its session or cgroup
is named and ended. With retries, those that failed are run again after all others; flaky is who passes then. A shard is every n-th
of the sorted names, so that all shards together are all tests, each once.

How TAP is read (versions 12, 13 and 14):

* ok is pass, not ok is fail; with TODO they are xpass and known; with SKIP both are skip, because TAP 14 says a
  failing SKIP must not count as a failure.
* A line counts only if it begins with "ok" or "not ok" followed by white space or nothing. Whatever else is printed is
  no test, so output mixed into a test line makes that test missing, never passed.
* A subtest is the business of its parent's line; its failures are kept in that line's message.
* Diagnostics are read from standard output only; a suite that prints them on standard error says 2>&1.

How the others are read: they emit a test as it ends, number tests as they come, and tell the plan at the end. It is the
sum of what each part of the output promised. What is short of it, or contradicts its own summary or the exit status, is
an error of the suite, never a pass. What is told of a test only at the end comes as a detail, an event of its own.

* ktap: the tests are the leaves, named by the path of their "# Subtest:" names; a parent's line counts only if it failed
  and none of its subtests did. run_kselftest.sh ends with 0 whatever happens, so that is no contradiction.
* gtest, bpftrace: a result counts for the test that is running. A test without one is an error, or, at the deadline, the
  timeout.
* unittest: from standard error or output, whichever has it. A result is also found behind what the test printed on its
  line. An unexpected success is a failure, as it is for unittest; a failure outside of a test (setUpClass) is an error.
* junit, avocado: the report is read when the suite has ended. It must have been written by this run, be a plain file of
  at most 16 MiB and have no document type.
* test_progs: the tests are the leaves, as with ktap; its summary is the plan. With a report, the file of its option -J, both must
  tell the same: -J lists the failed tests only, and none when it is verbose. Its test prog_tests_framework plays results to itself
  and takes them back: that one counts by its own line.
* cargo: every test program must end with its "test result", so --quiet, which names no tests, is an error.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import fnmatch
import gzip
import json
import os
import pwd
import re
import selectors
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Protocol

VERSION = "3"

GRACE = 5.0  # between TERM and KILL, and for what is left after KILL
ENDING = 0.2  # what goes away by itself after its command is not left behind
REMOVAL = 5.0  # for the cgroup of processes that were killed; hundreds take a while on a busy machine
DRAIN = 1.0  # of silence, after which what holds on to our pipes is a process that left the session,
DRAIN_LIMIT = 30.0  # and for one that is never silent
PASS_SETTLES = 0.2  # a passed test is shown after this much silence,
OTHER_SETTLES = 2.0  # any other waits longer for its diagnostics
PROBE_LIMIT = 30.0
LINE_LIMIT = 64 * 1024
NAME_LIMIT = 1000
MESSAGE_LIMIT = 32 * 1024
ATTEMPT_MESSAGE_LIMIT = 4 * 1024
MESSAGE_LINES = 200
TAIL_LINES = 40
CAPTURE_LIMIT = 16 * 1024 * 1024
TEST_CAPTURE_LIMIT = 1024 * 1024  # of each output of one test of many,
TESTS_CAPTURE_LIMIT = 256 * 1024 * 1024  # of all tests together,
LATE_CAPTURE_LIMIT = 16 * 1024  # and of each output when that is used up
REPORT_LIMIT = 16 * 1024 * 1024
CONFIG_LIMIT = 4 * 1024 * 1024
XML_PROLOGUE = 4096
XML_DEPTH = 50
ERRORS_KEPT = 20
FAILURES_KEPT = 20  # of one script's assertions
NUMBERS_KEPT = 100_000
PROCESSES_SHOWN = 20
LEFTOVERS_KEPT = 50
STACK_SHOWN = 8
LIST_LIMIT = 16 * 1024 * 1024
FILES_KEPT = 32  # of one attempt at a test,
FILE_LIMIT = 16 * 1024 * 1024  # of each,
FILES_LIMIT = 64 * 1024 * 1024  # of all of them,
FILES_LOOKED_AT = 10_000  # and how many may lie there
JUDGEMENT_LIMIT = 64 * 1024

AVOCADO_OLDEST = 108  # that this was tried with; to older ones a SKIP hides the failures after it
AVOCADO_SILENT = 120.0  # how long it may take to start, or from one test to the next, times deadline_factor,
AVOCADO_ENDING = 60.0  # and to end after the last one
AVOCADO_LATE = 20.0  # the same when the suite's deadline has passed
ASKING_LIMIT = 10.0  # for a task of it to say which test it asks for, and to take the answer
ASKING_LINE = 200
OUTPUT_SHOWN = 64 * 1024  # of the end of a test's output, to Avocado
DISAGREEMENTS_SHOWN = 5

RED = frozenset({"fail", "error", "timeout", "daemon_hang"})

Event = dict[str, Any]


class RunnerError(Exception):
    """The suite cannot be run as asked; the message says why."""


# --- specification ----------------------------------------------------------------------------------------------

TESTS = "tests"  # what a suite of many tests has as its parser
COMMON_KEYS = ("suite", "parser", "deadline", "cwd", "environment", "user", "capture_limit", "requires")
COMMAND_KEYS = (*COMMON_KEYS, "command", "report")
TESTS_KEYS = (*COMMON_KEYS, "tests", "fail_fast", "retries", "shard", "select", "deny", "harness", "deadline_factor")
TEST_KEYS = ("name", "command", "parser", "report", "deadline", "requires")
ENTRY_KEYS = (*TEST_KEYS, "glob", "list")
LISTED_KEYS = (*TEST_KEYS, "not_run")
BUILTIN, AVOCADO = HARNESSES = ("builtin", "avocado")
NEED_KEYS = ("kernel", "config", "btf", "kvm", "devices", "memory_mib", "commands", "probes")

KERNEL_NEED = re.compile(r"\s*(>=|<=|==|>|<)\s*(\d{1,4}(?:\.\d{1,6}){0,3})\s*$")
CONFIG_NEED = re.compile(r"(CONFIG_\w+)(?:=(.+))?$")
SHARD = re.compile(r"([1-9]\d{0,5})/([1-9]\d{0,5})$")


@dataclass(frozen=True)
class Probe:
    """A command that tells by its exit status whether the guest has something."""

    name: str
    argv: list[str]


@dataclass(frozen=True)
class Needs:
    """What a suite or a test cannot do without."""

    kernel: list[tuple[str, str]] = field(default_factory=list)  # comparison and version
    config: list[tuple[str, str]] = field(default_factory=list)  # option and value; "" is y or m
    btf: bool = False
    kvm: bool = False
    devices: list[str] = field(default_factory=list)
    memory_mib: int = 0
    commands: list[str] = field(default_factory=list)
    probes: list[Probe] = field(default_factory=list)

    def and_those(self, other: Needs) -> Needs:
        return Needs(
            kernel=[*self.kernel, *other.kernel],
            config=[*self.config, *other.config],
            btf=self.btf or other.btf,
            kvm=self.kvm or other.kvm,
            devices=[*self.devices, *other.devices],
            memory_mib=max(self.memory_mib, other.memory_mib),
            commands=[*self.commands, *other.commands],
            probes=[*self.probes, *other.probes],
        )


@dataclass(frozen=True)
class Entry:
    """One entry of the list of tests: a test, the files of which each is one, or the file that lists them."""

    name: str
    argv: list[str]
    parser: str
    deadline: float
    needs: Needs = Needs()
    report: str | None = None
    glob: str | None = None
    list_file: str | None = None
    not_run: str | None = None  # why a listed one cannot be run


@dataclass(frozen=True)
class Denied:
    """Tests that must not run, and why."""

    pattern: str
    reason: str


@dataclass(frozen=True)
class Spec:
    """What to run: one command, or many tests."""

    suite: str
    argv: list[str]
    parser: str
    deadline: float
    cwd: str | None = None
    environment: dict[str, str] = field(default_factory=dict)
    user: str | None = None
    capture_limit: int = CAPTURE_LIMIT
    report: str | None = None
    needs: Needs = Needs()
    tests: list[Entry] = field(default_factory=list)
    fail_fast: bool = False
    retries: int = 0
    shard: tuple[int, int] = (1, 1)
    select: list[str] = field(default_factory=list)
    deny: list[Denied] = field(default_factory=list)
    harness: str = BUILTIN
    deadline_factor: float = 1.0


_REQUIRED = object()


class Fields:
    """One object of the specification; what is wrong with a field is a RunnerError that names it."""

    def __init__(self, raw: Any, where: str, known: Iterable[str]) -> None:
        if not isinstance(raw, dict):
            raise RunnerError(f"{where} is not a JSON object")
        for key in sorted(set(raw) - set(known)):
            raise RunnerError(f"{where} has an unknown key '{key}'")
        self._raw = raw
        self.where = where

    def has(self, key: str) -> bool:
        return self._raw.get(key) is not None

    def get(self, key: str, kind: type, default: Any = _REQUIRED) -> Any:
        value = self._raw.get(key)
        if value is None and default is not _REQUIRED:
            return default
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool) or value == "":
            raise RunnerError(f"{self.where} needs '{key}' as a {kind.__name__}, not {value!r}")
        return value

    def count(self, key: str, highest: int) -> int:
        number: int = self.get(key, int, 0)
        if not 0 <= number <= highest:
            raise RunnerError(f"{self.where} needs '{key}' as a number from 0 to {highest}, not {number}")
        return number

    def seconds(self, key: str, default: float | None = None) -> float:
        value = self._raw.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
            raise RunnerError(f"{self.where} needs '{key}' as a positive number of seconds, not {value!r}")
        return float(value)

    def texts(self, key: str) -> list[str]:
        values: list[str] = self.get(key, list, [])
        if not all(isinstance(value, str) and value for value in values):
            raise RunnerError(f"{self.where} needs '{key}' as a list of strings, not {values!r}")
        return values

    def objects(self, key: str, known: Iterable[str]) -> list[Fields]:
        return [Fields(raw, f"{self.where}: {key}[{index}]", known) for index, raw in enumerate(self.get(key, list, []))]

    def object(self, key: str, known: Iterable[str]) -> Fields:
        return Fields(self._raw.get(key) or {}, f"{self.where}: {key}", known)

    def argv(self, key: str) -> list[str]:
        command = self._raw.get(key)
        if isinstance(command, str) and command.strip():
            return ["/bin/sh", "-c", command]
        if isinstance(command, list) and command and all(isinstance(word, str) for word in command):
            return command
        raise RunnerError(f"{self.where} needs '{key}' as a string or a list of strings, not {command!r}")

    def parser(self, default: Any = _REQUIRED) -> str:
        name: str = self.get("parser", str, default)
        if name not in PARSERS:
            raise RunnerError(f"{self.where} names an unknown parser '{name}'; there are {', '.join(PARSERS)} and {TESTS}")
        return name


def read_spec(text: str) -> Spec:
    """Check the specification; raise RunnerError naming the key that is wrong."""
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise RunnerError(f"the specification is not JSON: {error}") from error
    many = isinstance(raw, dict) and raw.get("parser") == TESTS
    fields = Fields(raw, "the specification", TESTS_KEYS if many else COMMAND_KEYS)
    environment = fields.get("environment", dict, {})
    common = {
        "suite": fields.get("suite", str),
        "deadline": fields.seconds("deadline"),
        "cwd": fields.get("cwd", str, None),
        "environment": {str(name): str(value) for name, value in environment.items()},
        "user": fields.get("user", str, None),
        "capture_limit": fields.get("capture_limit", int, TEST_CAPTURE_LIMIT if many else CAPTURE_LIMIT),
        "needs": read_needs(fields),
    }
    return Spec(**common, **(_read_tests(fields) if many else _read_command(fields)))


def _read_command(fields: Fields) -> dict[str, Any]:
    parser = fields.parser()
    return {"argv": fields.argv("command"), "parser": parser, "report": _read_report(fields, parser)}


def _read_report(fields: Fields, parser: str) -> str | None:
    report: str | None = fields.get("report", str, None)
    if (parser in REPORTS and report is None) or (report is not None and parser not in (*REPORTS, *REPORT_WELCOME)):
        raise RunnerError(
            f"{fields.where} needs 'report' with the parsers {', '.join(sorted(REPORTS))}, "
            f"and may have it with {', '.join(sorted(REPORT_WELCOME))}"
        )
    return report


def _read_tests(fields: Fields) -> dict[str, Any]:
    retries, fail_fast = fields.count("retries", 100), fields.get("fail_fast", bool, False)
    if retries and fail_fast:
        raise RunnerError(f"{fields.where} has both 'retries' and 'fail_fast'; a test that is tried again cannot end the suite at once")
    shard = SHARD.match(fields.get("shard", str, "1/1"))
    if shard is None or int(shard[1]) > int(shard[2]):
        raise RunnerError(f"{fields.where} needs 'shard' as '<number>/<of how many>', such as '1/4', not {fields.get('shard', str)!r}")
    entries = [_read_entry(entry, fields.seconds("deadline")) for entry in fields.objects("tests", ENTRY_KEYS)]
    if not entries:
        raise RunnerError(f"{fields.where} needs 'tests' as a list with at least one test")
    refuse_twice([entry.name for entry in entries if entry.name])
    harness = fields.get("harness", str, BUILTIN)
    if harness not in HARNESSES:
        raise RunnerError(f"{fields.where} needs 'harness' as one of {', '.join(HARNESSES)}, not {harness!r}")
    denied = [Denied(entry.get("test", str), entry.get("reason", str)) for entry in fields.objects("deny", ("test", "reason"))]
    return {
        "argv": [],
        "parser": TESTS,
        "tests": entries,
        "fail_fast": fail_fast,
        "retries": retries,
        "shard": (int(shard[1]), int(shard[2])),
        "select": fields.texts("select"),
        "deny": denied,
        "harness": harness,
        "deadline_factor": fields.seconds("deadline_factor", 1.0),
    }


def _read_entry(fields: Fields, deadline: float) -> Entry:
    if fields.has("list"):
        return _read_list_entry(fields, deadline)
    if fields.has("glob"):
        return _read_glob_entry(fields, deadline)
    argv = fields.argv("command")
    parser = fields.parser("exit_code")
    name = fields.get("name", str, argv[2] if argv[:2] == ["/bin/sh", "-c"] and len(argv) == 3 else " ".join(argv))
    return Entry(
        _good_name(fields, name), argv, parser, fields.seconds("deadline", deadline), read_needs(fields), _test_report(fields, parser)
    )


def _read_glob_entry(fields: Fields, deadline: float) -> Entry:
    glob, parser = fields.get("glob", str), fields.parser("exit_code")
    if fields.has("command") or fields.has("name"):
        raise RunnerError(f"{fields.where} has a 'glob', whose files are commands and have names: leave 'command' and 'name' out")
    if glob.startswith("/") or ".." in glob.split("/"):
        raise RunnerError(f"{fields.where} needs 'glob' as a pattern below the suite's directory, not {glob!r}")
    report = _test_report(fields, parser)
    return Entry("", [], parser, fields.seconds("deadline", deadline), read_needs(fields), report, glob=glob)


def _read_list_entry(fields: Fields, deadline: float) -> Entry:
    path = fields.get("list", str)
    others = [key for key in ("name", "command", "glob", "report") if fields.has(key)]
    if others:
        raise RunnerError(f"{fields.where} has a 'list', which says what its tests are: leave '{others[0]}' out")
    if not path.startswith("/"):
        raise RunnerError(f"{fields.where} needs 'list' as the absolute path of a file in the guest, not {path!r}")
    parser = fields.parser("exit_code")
    return Entry("", [], parser, fields.seconds("deadline", deadline), read_needs(fields), list_file=path)


def _good_name(fields: Fields, name: str) -> str:
    if len(name) > NAME_LIMIT or not name.isprintable():
        raise RunnerError(f"{fields.where} needs 'name' as at most {NAME_LIMIT} printable characters, not {name[:80]!r}")
    return name


def _test_report(fields: Fields, parser: str) -> str | None:
    """The report of one test of many, which lies in its directory."""
    report = _read_report(fields, parser)
    if report is not None and (report.startswith("/") or ".." in report.split("/")):
        raise RunnerError(f"{fields.where} needs 'report' as a path below the test's directory (MAYFLY_TEST_DIR), not {report!r}")
    return report


def read_list(entry: Entry, factor: float) -> list[Entry]:
    """The tests that a file lists, its deadlines multiplied; RunnerError saying what is wrong with it."""
    where = f"the list '{entry.list_file}'"
    try:
        raw = json.loads(read_plain(Path(entry.list_file or ""), LIST_LIMIT).decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise RunnerError(f"{where} of tests cannot be read in the guest: {why}") from error
    if not isinstance(raw, list) or not raw:
        raise RunnerError(f"{where} is no JSON list with at least one test")
    return [_read_listed(Fields(test, f"{where}: [{index}]", LISTED_KEYS), entry, factor) for index, test in enumerate(raw)]


def _read_listed(fields: Fields, entry: Entry, factor: float) -> Entry:
    not_run = fields.get("not_run", str, None)
    parser = fields.parser(entry.parser)
    return Entry(
        _good_name(fields, fields.get("name", str)),
        fields.argv("command") if fields.has("command") or not_run is None else [],
        parser,
        fields.seconds("deadline") * factor if fields.has("deadline") else entry.deadline,
        entry.needs.and_those(read_needs(fields)),
        _test_report(fields, parser),
        not_run=not_run,
    )


def read_needs(fields: Fields) -> Needs:
    """Read what is below requires."""
    needs = fields.object("requires", NEED_KEYS)
    return Needs(
        kernel=[_kernel_need(needs, part) for part in needs.get("kernel", str).split(",")] if needs.has("kernel") else [],
        config=[_config_need(needs, text) for text in needs.texts("config")],
        btf=needs.get("btf", bool, False),
        kvm=needs.get("kvm", bool, False),
        devices=needs.texts("devices"),
        memory_mib=needs.count("memory_mib", 2**40),
        commands=needs.texts("commands"),
        probes=[Probe(probe.get("name", str), probe.argv("command")) for probe in needs.objects("probes", ("name", "command"))],
    )


def _kernel_need(fields: Fields, text: str) -> tuple[str, str]:
    match = KERNEL_NEED.match(text)
    if match is None:
        raise RunnerError(f"{fields.where} needs 'kernel' as comparisons, such as '>=5.15' or '>=5.15,<6.9', not {text!r}")
    return match[1], match[2]


def _config_need(fields: Fields, text: str) -> tuple[str, str]:
    match = CONFIG_NEED.match(text)
    if match is None:
        raise RunnerError(f"{fields.where} needs 'config' as options, such as CONFIG_BPF or CONFIG_TUN=m, not {text!r}")
    return match[1], match[2] or ""


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
ESCAPED = re.compile(r"\\([\\#])")
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
        if (test := TEST.match(line)) is not None:  # first, because nearly all lines are tests
            return self._test(test, now)
        self._explains_first = self._explains_first or EXPLAINS_FIRST.match(line) is not None
        if (bail_out := BAIL_OUT.match(line)) is not None:
            return [*self.settle(), {"event": "bail_out", "reason": bail_out[1].strip()[:NAME_LIMIT]}]
        if line[:1] in (" ", "\t"):
            self._indented_line(line)
        elif line.startswith("#"):
            self._comment(line)
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
    match = DIRECTIVE.search(text) if "#" in text else None
    name = (text if match is None else text[: match.start()]).strip()
    if name.startswith("-") and not name[1:2].strip():
        name = name[1:].lstrip()
    if "\\" in name:
        name = ESCAPED.sub(r"\1", name)
    name = name[:NAME_LIMIT]
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
        self._red_numbers: dict[tuple[str, str], list[int]] = {}  # by status and name, until their details come
        self._detail_number: int | None = None
        self._detail_lines: list[str] = []
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

    def _end_detail(self) -> list[Event]:
        """What was told of one failed test at the end of the output."""
        number, lines = self._detail_number, self._detail_lines
        self._detail_number, self._detail_lines = None, []
        while lines and not lines[-1]:
            lines.pop()
        return [{"event": "detail", "number": number, "message": clipped(lines)}] if number is not None and lines else []

    def _begin_detail(self, status: str, name: str) -> None:
        numbers = self._red_numbers.get((status, name))
        self._detail_number = numbers.pop(0) if numbers else None

    def _detail_line(self, line: str) -> None:
        if len(self._detail_lines) < MESSAGE_LINES:
            self._detail_lines.append(line[:2000])

    def _test(self, name: str, status: str, now: float, directive: str | None = None, said: str = "") -> Event:
        self.seen += 1
        self._red = self._red or status in RED
        message = clipped([*self._remarks, *([said] if said else [])]) if status in RED else ""
        event = test_event(self.seen, name[:NAME_LIMIT], status, now - self._last, directive, message)
        if status in RED:
            self._red_numbers.setdefault((status, name), []).append(self.seen)
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
GTEST_OK = "[       OK ] "
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
            if line.startswith(GTEST_OK):  # the program's first line is lost, or its last came too early
                self._complain(f"a result outside of a test program: {line[:80]}")
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
UNITTEST_RULE = "=" * 70  # above what is told of a failed test
UNITTEST_OUTSIDE = "outside of a test"


class UnittestParser(LineParser):
    """python3 -m unittest -v, from 3.9 on: it prints on standard error, and tracebacks only at its end."""

    reads_errors = True

    def __init__(self, suite: str, now: float) -> None:
        super().__init__(suite, now)
        self._heading: str | None = None  # a test whose docstring is on the next line
        self._missing = 0
        self._ran: int | None = None
        self._ruled = False  # the line before was a rule,
        self._in_detail = False  # and what follows is about a failed test
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
        ruled, self._ruled = self._ruled, line == UNITTEST_RULE
        if self._in_detail and not self._ruled and UNITTEST_RAN.match(line) is None:
            self._detail_line(line)
            return []
        self._in_detail = False
        detail = UNITTEST_DETAIL.match(line) if ruled else None
        events = [*self._end_detail(), *self._feed(line, now)]
        if detail is not None:
            self._in_detail = True
            name, status = f"{unittest_name(detail[2], detail[3])} {detail[4]}".strip(), UNITTEST_RESULT[detail[1]][0]
            # Before Python 3.11, setUpClass and a second error of a test have a result without a name; the order is the same.
            self._begin_detail(status, name if self._red_numbers.get((status, name)) else UNITTEST_OUTSIDE)
        return events

    def _feed(self, line: str, now: float) -> list[Event]:
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
            return [self._result(name or UNITTEST_OUTSIDE, status[1], now)]
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
        return [*self._end_detail(), *events, *super().finish(end)]

    def _end_detail(self) -> list[Event]:
        """What was raised goes first: of a traceback it is what a person wants to know."""
        self._detail_lines = [line for line in self._detail_lines if line != "-" * 70]
        raised, in_traceback = "", False
        for line in self._detail_lines:
            if in_traceback and line[:1] not in ("", " "):
                raised, in_traceback = line, False
            in_traceback = in_traceback or line == "Traceback (most recent call last):"
        if raised:
            self._detail_lines.insert(0, raised)
        return super()._end_detail()


def unittest_name(method: str, where: str) -> str:
    """Python 3.11 repeats the method in the brackets."""
    return where if where.endswith(f".{method}") else f"{where}.{method}"


CARGO_START = re.compile(r"running (\d{1,9}) tests?$")
CARGO_TEST = re.compile(r"test (.+?) \.\.\. ?(.*)$")
CARGO_STATUS = re.compile(r"(ok|FAILED|ignored|bench:)(?:, (.*)| <[\d.]+s>|  +[\d,.]+ .*| \(.*\))?$")
CARGO_GLUED = re.compile(r"(ok|FAILED)$")
CARGO_END = re.compile(r"test result: (ok|FAILED)\. (\d{1,9}) passed; (\d{1,9}) failed; (\d{1,9}) ignored; (\d{1,9}) measured; ")
CARGO_DETAIL = re.compile(r"---- (.+) (?:stdout|stderr) ----$")
CARGO_RESULT = {"ok": "pass", "FAILED": "fail", "ignored": "skip", "bench:": "pass"}


class CargoParser(LineParser):
    """Rust's libtest: each test program, and the documentation's tests, with a plan and a result."""

    def __init__(self, suite: str, now: float) -> None:
        super().__init__(suite, now)
        self._open: str | None = None  # with --nocapture, a test prints between its name and its result
        self._printed = ""
        self._counts: Counter[str] = Counter()  # of this program
        self._in_program = False
        self._in_failures = False  # where each failed test has what it printed
        self._in_detail = False

    def feed(self, line: str, now: float) -> list[Event]:
        if line == "failures:" and self._in_program and self._open is None:
            self._in_failures, self._in_detail = True, False
            return self._end_detail()
        if self._in_failures and (detail := CARGO_DETAIL.match(line)) is not None:
            events = self._end_detail()
            self._in_detail = True
            self._begin_detail("fail", detail[1])
            return events
        if self._in_detail and CARGO_END.match(line) is None:
            self._detail_line(line)
            return []
        return [*self._end_detail(), *self._feed(line, now)]

    def _feed(self, line: str, now: float) -> list[Event]:
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
        self._in_program = self._in_failures = self._in_detail = False

    def _conclude(self, end: End) -> None:
        if self._in_program and not end.timed_out:
            self._complain("a test program ended without its result")
        self._compare_exit(end)

    def finish(self, end: End) -> list[Event]:
        events = []
        if self._open is not None:
            events = [self._test(self._open, "timeout" if end.timed_out else "error", self._last)]
        return [*self._end_detail(), *events, *super().finish(end)]


TEST_PROGS_TEST = re.compile(r"#(\d{1,6})(?:/(\d{1,6}))?\s+(\S.*?):(OK|FAIL|SKIP)(?: \(SKIP: \d{1,6}/\d{1,6}\))?$")
TEST_PROGS_END = re.compile(r"Summary: (\d{1,9})/(\d{1,9}) PASSED, (\d{1,9}) SKIPPED, (\d{1,9}) FAILED$")
TEST_PROGS_STATUS = {"OK": "pass", "FAIL": "fail", "SKIP": "skip"}
TEST_PROGS_PLAY = "prog_tests_framework/"  # subtests that fail, skip and pass for its own counting, and are in no sum
TEST_PROGS_COUNTS = ("success", "success_subtest", "skipped", "failed")  # of the report, in the order of the summary


class TestProgsParser(LineParser):
    """The kernel's BPF selftests: subtests before their test, and a summary but no plan."""

    def __init__(self, suite: str, now: float) -> None:
        super().__init__(suite, now)
        self._failed: set[str] = set()
        self._summaries: list[tuple[int, ...]] = []
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
        if test[3].startswith(TEST_PROGS_PLAY):
            self._subtests.setdefault(test[1], [])  # its test must still come
            return []
        status = TEST_PROGS_STATUS[test[4]]
        self._subtests.setdefault(test[1], []).append(status)
        self._subtests_seen[status] += 1
        self._once(f"{test[1]}/{test[2]}")
        self._note_failed(test)
        return [self._test(test[3], status, now)]

    def _parent(self, test: re.Match[str], now: float) -> list[Event]:
        """A test's own line is a test only if its subtests do not explain it."""
        status = TEST_PROGS_STATUS[test[4]]
        subtests = self._subtests.pop(test[1], [])
        self._tests[status] += 1
        self._once(test[1])
        self._note_failed(test)
        if status == "pass" and "fail" in subtests:
            self._complain(f"it is OK, but a subtest of it failed: {test[3]}")
        if subtests and not (status == "fail" and "fail" not in subtests):
            self._remarks.clear()
            return []
        return [self._test(test[3], status, now)]

    def _note_failed(self, test: re.Match[str]) -> None:
        if test[4] == "FAIL":
            self._failed.add(test[3])

    def _once(self, number: str) -> None:
        if number in self._numbers:
            self._complain(f"test number {number} was reported twice")
        self._numbers.add(number)

    def _end(self, end: re.Match[str]) -> None:
        passed, subtests_passed, skipped, failed = (int(count) for count in end.groups())
        self._summaries.append((passed, subtests_passed, skipped, failed))
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
            self._compare_report(end)
        self._compare_exit(end)

    def _compare_report(self, end: End) -> None:
        """What the option -J wrote has counts, and names of what failed."""
        if end.report is None:
            if end.report_error is not None:
                self._complain(f"the report cannot be used: {end.report_error}")
            return
        try:
            counts, failed = read_test_progs(end.report)
        except (ValueError, RecursionError) as error:
            self._complain(f"the report cannot be used: {error}")
            return
        if len(self._summaries) != 1:
            self._complain(f"the report is of one test program, but {len(self._summaries)} summaries were printed")
            return
        for name, said, printed in zip(TEST_PROGS_COUNTS, counts, self._summaries[0]):
            if said != printed:
                self._complain(f"the report says {said} {name}, the summary {printed}")
        for names, where, lacks in ((failed - self._failed, "report", "lines"), (self._failed - failed, "lines", "report")):
            if names:
                self._complain(f"{len(names)} failed by the {where} and not by the {lacks}: {', '.join(sorted(names)[:3])}")


def read_test_progs(report: bytes) -> tuple[list[int], set[str]]:
    """The counts of a report of test_progs, and the names of failed tests and subtests; ValueError if it is none."""
    # It is not quite JSON: control characters are written as they are, and \\' for a quotation mark.
    content = json.loads(report.decode("utf-8", "replace").replace("\\'", "'"), strict=False)
    tests = content.get("results") if isinstance(content, dict) else None
    if not isinstance(tests, list) or not all(isinstance(test, dict) for test in tests):
        raise ValueError("it has no list of results")
    counts = [content.get(name) for name in TEST_PROGS_COUNTS]
    if not all(isinstance(count, int) and not isinstance(count, bool) for count in counts):
        raise ValueError(f"it has not each of the counts {', '.join(TEST_PROGS_COUNTS)}")
    failed = {str(test.get("name")) for test in tests if test.get("failed") is True}
    for test in tests:
        subtests = test.get("subtests") or []
        if not isinstance(subtests, list) or not all(isinstance(subtest, dict) for subtest in subtests):
            raise ValueError("it has subtests that are no list of objects")
        failed |= {f"{test.get('name')}/{subtest.get('name')}" for subtest in subtests if subtest.get("failed") is True}
    return counts, failed


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
REPORT_WELCOME = frozenset({"test_progs"})  # of output, and of a file if there is one


# --- needs ------------------------------------------------------------------------------------------------------

KVM_CREATE_VM = 0xAE01
RELEASE = re.compile(r"\d+(?:\.\d+)*")


class Guest:
    """What the guest has; read when it is asked for, the kernel's configuration once."""

    def __init__(self, spec: Spec, probe: Callable[[Probe], str | None], root: Path = Path("/")) -> None:
        self._root = root
        self._path = spec.environment.get("PATH") or os.environ.get("PATH", os.defpath)
        self._probe = probe
        self._probed: dict[str, str | None] = {}
        self._config: dict[str, str] | str | None = None
        self.release = os.uname().release

    def unmet(self, needs: Needs) -> list[str]:
        """Name each need that is not met, with what was found instead."""
        misfits = [f"{how}{version}" for how, version in needs.kernel if not kernel_fits(self.release, how, version)]
        lacks = [f"kernel {wanted}: it is {self.release}" for wanted in misfits]
        if needs.config:
            lacks += config_lacks(needs.config, self._read_config())
        if needs.btf and not (self._root / "sys/kernel/btf/vmlinux").exists():
            lacks.append("BTF: there is no /sys/kernel/btf/vmlinux")
        if needs.kvm:
            lacks += self._kvm()
        lacks += [f"device {path}: {why}" for path in needs.devices if (why := self._device(path)) is not None]
        if needs.memory_mib:
            lacks += self._memory(needs.memory_mib)
        lacks += [f"command {name}: not found" for name in needs.commands if shutil.which(name, path=self._path) is None]
        lacks += [f"probe {probe.name}: {why}" for probe in needs.probes if (why := self._run_probe(probe)) is not None]
        return lacks

    def _read_config(self) -> dict[str, str] | str:
        """The kernel's configuration, or why it is not known."""
        if self._config is None:
            self._config = self._find_config()
        return self._config

    def _find_config(self) -> dict[str, str] | str:
        files = (self._root / "proc/config.gz", self._root / "boot" / f"config-{self.release}")
        for path in files:
            try:
                with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
                    return parse_config(file.read(CONFIG_LIMIT).decode("utf-8", "replace"))
            except FileNotFoundError:
                continue
            except (OSError, EOFError) as error:
                return f"{path} cannot be read: {error}"
        return f"neither {files[0]} nor {files[1]} is there"

    def _kvm(self) -> list[str]:
        """Whether a virtual machine can be made; that the file is there says little."""
        try:
            device = os.open(self._root / "dev/kvm", os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            return [f"KVM: /dev/kvm: {error.strerror}"]
        try:
            os.close(fcntl.ioctl(device, KVM_CREATE_VM, 0))
        except OSError as error:
            return [f"KVM: no virtual machine can be made: {error.strerror}"]
        finally:
            os.close(device)
        return []

    def _device(self, path: str) -> str | None:
        try:
            mode = Path(path).stat().st_mode
        except OSError as error:
            return error.strerror
        return None if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else "it is no device"

    def _memory(self, wanted: int) -> list[str]:
        try:
            text = (self._root / "proc/meminfo").read_text()
        except OSError as error:
            return [f"memory {wanted} MiB: /proc/meminfo: {error.strerror}"]
        found = re.search(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)
        if found is None:
            return [f"memory {wanted} MiB: the kernel does not say how much is available"]
        available = int(found[1]) // 1024
        return [] if available >= wanted else [f"memory {wanted} MiB: {available} MiB are available"]

    def _run_probe(self, probe: Probe) -> str | None:
        """Run a probe, once in a suite."""
        key = json.dumps(probe.argv)
        if key not in self._probed:
            self._probed[key] = self._probe(probe)
        return self._probed[key]


def kernel_fits(release: str, how: str, wanted: str) -> bool:
    """Compare by as many numbers as are wanted: 6.1.55 is ==6.1 and not >6.1."""
    match = RELEASE.match(release)
    if match is None:
        return False
    want = [int(part) for part in wanted.split(".")]
    have = ([int(part) for part in match[0].split(".")] + [0] * len(want))[: len(want)]
    return {">=": have >= want, "<=": have <= want, "==": have == want, ">": have > want, "<": have < want}[how]


def parse_config(text: str) -> dict[str, str]:
    pairs = (line.split("=", 1) for line in text.split("\n") if line.startswith("CONFIG_") and "=" in line)
    return {name: value.strip().strip('"') for name, value in pairs}


def config_lacks(wanted: list[tuple[str, str]], config: dict[str, str] | str) -> list[str]:
    if isinstance(config, str):
        return [f"{name}: it is not known how the kernel was built: {config}" for name, _value in wanted]
    lacks = []
    for name, value in wanted:
        have = config.get(name, "n")  # an option that is not set is not listed, or a comment
        if have != value.strip('"') if value else have not in ("y", "m"):
            lacks.append(f"{name}{'=' if value else ''}{value}: it is {have}")
    return lacks


# --- files ------------------------------------------------------------------------------------------------------


class EventLog:
    """events.jsonl: one JSON object a line, written out at once with those that came with it."""

    def __init__(self, path: Path) -> None:
        # Exclusive: events of an earlier run must never be read as events of this one.
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def write(self, *events: Event, sync: bool = False) -> None:
        now = round(time.time(), 3)
        lines = [json.dumps({"event": event["event"], "time": now, **event}) for event in events]
        data = "".join(f"{line}\n" for line in lines).encode("ascii")
        while data:
            data = data[os.write(self._file, data) :]
        if sync:
            os.fsync(self._file)


def claim(directory: Path) -> EventLog:
    """Make the results directory and its empty event log, or say that it was used before."""
    directory.mkdir(parents=True, exist_ok=True)
    try:
        return EventLog(directory / "events.jsonl")
    except FileExistsError as error:
        message = f"'{directory}' already has results of an earlier run (events.jsonl); give each run its own directory"
        raise RunnerError(message) from error


class Capture:
    """One output stream: kept in a file up to a limit, split into lines without one. The file is made with its first byte."""

    def __init__(self, path: Path | None, limit: int) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._limit = limit
        self._buffer = b""
        self._skipping = False  # inside a line longer than LINE_LIMIT
        self.kept = 0
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

    def make(self) -> None:
        """Make the file before its first byte."""
        if self._path is not None:
            self._write(self._path, b"")

    def note(self, lines: list[str]) -> None:
        """Write down what the runner has to say, which the parser does not read."""
        if self._path is not None and self.error is None:
            self._write(self._path, "".join(f"[mayfly: {line}]\n" for line in lines).encode("utf-8", "replace"))

    def close(self) -> list[str]:
        """Return the last line if it has no end."""
        if self._file is not None:
            self._file.close()
            self._file = None
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
        if self._path is None or self.error is not None or self.kept > self._limit:
            return
        left = self._limit - self.kept
        self.kept += len(data)
        self._write(self._path, data[:left])
        if len(data) > left:
            self._write(self._path, f"\n[mayfly: cut here after {self._limit} bytes; the parser still reads everything]\n".encode())

    def _write(self, path: Path, data: bytes) -> None:
        try:
            if self._file is None:
                path.parent.mkdir(parents=True, exist_ok=True)
                # What the suite put there, a link or a pipe, is not written to.
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                self._file = os.fdopen(os.open(path, flags, 0o644), "wb", buffering=0)
            written = self._file.write(data)
            if written is not None and written < len(data):
                self._file.write(data[written:])  # what is left of the disk was taken; this fails and says so
        except OSError as error:  # a full disk must not end the suite; it is told in suite_end
            self.error = f"{path.name} is incomplete: {error.strerror}"


def read_plain(path: Path, limit: int) -> bytes:
    """The content of a plain file that is no link, OSError or ValueError if it is anything else or longer than the limit."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("it is no plain file")
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"it has more than {limit} bytes")
    return content


def read_end(path: Path, limit: int) -> bytes:
    """The end of a plain file, as far as it can be had."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                return b""
            file.seek(max(0, found.st_size - limit))
            return file.read(limit)
    except OSError:  # a test that printed nothing has none
        return b""


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


def process_stat(path: Path) -> tuple[str, list[str]] | None:
    """Name and further fields, from the state on, of a process or thread; None if it ended while we looked."""
    try:
        text = (path / "stat").read_text(errors="replace")
    except OSError:
        return None
    return text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 2 :].split()


def session_members(session: int) -> dict[int, tuple[int, str]]:
    """Living processes of a session: pid to (process group, command name).

    The session, not only the group: timeout(1) and shells with job control make groups of their own.
    """
    members = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or not _in_session(int(entry), session):
            continue
        found = process_stat(Path("/proc", entry))
        if found is not None and found[1][0] not in "ZX":
            members[int(entry)] = (int(found[1][2]), found[0])
    return members


def _in_session(pid: int, session: int) -> bool:
    try:
        return os.getsid(pid) == session
    except (ProcessLookupError, PermissionError):  # it ended while we looked, or is none of ours
        return False


def signal_session(session: int, number: signal.Signals) -> None:
    """Signal every process group of the session."""
    for group in {group for group, _name in session_members(session).values()}:
        with contextlib.suppress(ProcessLookupError):  # it ended in between, which is what we want
            os.killpg(group, number)


def look_at(pids: Iterable[int]) -> list[str]:
    """What can be seen of processes from outside: their state, and where in the kernel they wait."""
    lines = []
    pids = sorted(pids)
    for pid in pids[:PROCESSES_SHOWN]:
        process = Path("/proc", str(pid))
        found = process_stat(process)
        if found is None:
            continue
        threads = [(thread, seen) for thread in _listed(process / "task") if (seen := process_stat(thread)) is not None]
        stuck = [(thread, seen) for thread, seen in threads if seen[1][0] == "D"]
        # Reading the command line waits for a lock that a stuck thread may hold.
        command = "" if stuck else _read(process / "cmdline").replace("\0", " ").strip()
        lines.append(f"pid {pid} {found[0]}, state {found[1][0]}, in {_read(process / 'wchan') or '?'}: {command or 'not known'}")
        for thread, seen in stuck[:3]:
            lines.append(f"  thread {thread.name} {seen[0]}, state D, in {_read(thread / 'wchan') or '?'}")
        lines += [f"    {line}" for line in _read((stuck[0][0] if stuck else process) / "stack").split("\n")[:STACK_SHOWN] if line]
    if len(pids) > PROCESSES_SHOWN:
        lines.append(f"and {len(pids) - PROCESSES_SHOWN} more processes")
    return lines


def _listed(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())[:1000]
    except OSError:  # the process has ended
        return []


def _read(path: Path) -> str:
    """A file of a process, as far as it is there and may be read."""
    try:
        with path.open(errors="replace") as file:
            text = file.read(4096)
    except OSError:
        return ""
    return "" if text == "0" else text[:300] if path.name == "cmdline" else text


class Cgroup:
    """A cgroup (version 2) for one command: who daemonises leaves the session, but not this."""

    def __init__(self, path: Path, home: Path) -> None:
        self._path = path
        self._home = home
        path.mkdir()

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Be in it, so that a process started now is born there."""
        (self._path / "cgroup.procs").write_text("0")
        try:
            yield
        finally:
            self._leave()

    def _leave(self) -> None:
        try:
            (self._home / "cgroup.procs").write_text("0")
        except OSError as error:  # and nothing may be ended that the runner is part of
            raise RunnerError(f"the runner cannot leave the cgroup '{self._path}': {error.strerror}") from error

    def members(self) -> dict[int, str]:
        members = {}
        for directory in self._all():
            for pid in _words(directory / "cgroup.procs"):
                found = process_stat(Path("/proc", pid))
                if found is not None and found[1][0] not in "ZX":
                    members[int(pid)] = found[0]
        return members

    def signal(self, number: signal.Signals) -> None:
        if number == signal.SIGKILL and (self._path / "cgroup.kill").exists():  # since Linux 5.14; a fork bomb cannot outrun it
            (self._path / "cgroup.kill").write_text("1")
            return
        for pid in self.members():
            with contextlib.suppress(ProcessLookupError):  # it ended in between, which is what we want
                os.kill(pid, number)

    def remove(self) -> str | None:
        """Remove it and what the command made below it; return why that cannot be done."""
        limit = time.monotonic() + REMOVAL
        while True:
            try:
                remove_cgroups(self._path)
                return None
            except OSError as error:
                if time.monotonic() >= limit:
                    return f"its cgroup cannot be removed: {error.strerror}"
            time.sleep(0.01)  # who was killed is counted until it is reaped, and nothing tells us of that

    def _all(self) -> list[Path]:
        """It and the cgroups below it."""
        return [Path(path) for path, _directories, _files in os.walk(self._path)]


def remove_cgroups(path: Path) -> None:
    """Remove a cgroup and those below it."""
    for directory, _directories, _files in os.walk(path, topdown=False):
        Path(directory).rmdir()


def cgroup_name(pid: int | str) -> str:
    """What a runner calls its cgroup. A pid means something only among processes that see each other."""
    return f"mayfly-{os.stat('/proc/self/ns/pid').st_ino}-{pid}"


def remove_orphans(home: Path) -> None:
    """Remove the empty cgroups of runners that were killed; those of another container are not ours to judge."""
    for path in home.glob(f"{cgroup_name('')}*"):
        if not Path("/proc", path.name.rpartition("-")[2]).exists():
            with contextlib.suppress(OSError):  # something lives in it, or another runner was faster
                remove_cgroups(path)


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:  # a cgroup that was removed in between
        return []


class Cgroups:
    """Where cgroups for commands can be made, or why they cannot."""

    def __init__(self) -> None:
        self._made = 0
        self._base: Path | None = None
        self.reason: str | None = None
        try:
            self._home = own_cgroup(Path("/proc/self/mounts").read_text(), Path("/proc/self/cgroup").read_text())
            remove_orphans(self._home)
            base = self._home / cgroup_name(os.getpid())
            base.mkdir()
            self._base = base
            self._try(Cgroup(base / "try", self._home))
        except (OSError, ValueError) as error:
            self.reason = str(error)
            self.close()

    def new(self) -> Cgroup | None:
        if self._base is None:
            return None
        self._made += 1
        return Cgroup(self._base / str(self._made), self._home)

    def close(self) -> None:
        base, self._base = self._base, None
        if base is not None:
            with contextlib.suppress(OSError):  # a process that cannot be killed is still there; it was reported
                remove_cgroups(base)

    @staticmethod
    def _try(cgroup: Cgroup) -> None:
        """Go in and out again: a hierarchy may be there and still refuse processes."""
        try:
            with cgroup.entered():
                pass
        finally:
            cgroup.remove()


def own_cgroup(mounts: str, membership: str) -> Path:
    """The directory of this process's cgroup, or ValueError."""
    mounted = [fields[1] for fields in (line.split() for line in mounts.split("\n")) if len(fields) > 2 and fields[2] == "cgroup2"]
    paths = [line[3:] for line in membership.split("\n") if line.startswith("0::/")]
    if not mounted or not paths:
        raise ValueError("there is no cgroup hierarchy of version 2")
    return Path(mounted[0]) / paths[0].lstrip("/")


KNOCK = "knock"  # what a socket at which others knock is registered with


class Loop:
    """What is waited for: output, and signals as something a select loop can see: a child that ended, or a request to stop."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.stop: str | None = None

    def _note(self, number: int, _frame: object) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            self.stop = signal.Signals(number).name

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Have the selector wake up with each signal."""
        reader, writer = socket.socketpair()
        reader.setblocking(False)
        writer.setblocking(False)
        # SIGHUP comes when the ssh connection goes away. It gets a handler and is not ignored, because children
        # would inherit that.
        numbers = (signal.SIGCHLD, signal.SIGHUP, signal.SIGTERM, signal.SIGINT)
        handlers = {number: signal.signal(number, self._note) for number in numbers}
        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        try:
            with self.selector:
                self.selector.register(reader, selectors.EVENT_READ, None)
                yield
        finally:
            signal.set_wakeup_fd(before)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            reader.close()
            writer.close()

    def streams(self, command: Command) -> list[Any]:
        """The streams of a command that are still open."""
        return [key.fileobj for key in self.selector.get_map().values() if isinstance(key.data, tuple) and key.data[0] is command]

    def wait(self, limit: float) -> list[tuple[Command, Capture, bytes]] | None:
        """Wait for output, a signal, whoever knocks at a socket, or the limit; return the output that came, None if nothing did."""
        ready = self.selector.select(max(0.0, limit - time.monotonic()))
        came = []
        for key, _events in ready:
            if key.data is KNOCK:
                continue  # whoever listens there looks for itself
            data = os.read(key.fd, 65536)
            if key.data is None:
                continue  # a signal: only there to wake us
            if data:
                came.append((*key.data, data))
            else:
                self.selector.unregister(key.fileobj)
        return came if ready else None


def spawn(spec: Spec, argv: list[str], more: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a command of the suite in a session of its own, with more environment."""
    environment = {**os.environ, **spec.environment, **more}
    identity: dict[str, Any] = {}
    if spec.user is not None:
        account = pwd.getpwnam(spec.user)
        groups = os.getgrouplist(account.pw_name, account.pw_gid)
        identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": groups}
        environment = {"HOME": account.pw_dir, "USER": spec.user, "LOGNAME": spec.user, **spec.environment, **more}
        environment.setdefault("PATH", os.environ.get("PATH", os.defpath))
    return subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        cwd=spec.cwd,
        env=environment,
        start_new_session=True,
        **identity,
    )


class Command:
    """One command, from its start until nothing of it is left."""

    def __init__(
        self,
        spec: Spec,
        argv: list[str],
        loop: Loop,
        cgroup: Cgroup | None,
        directory: Path | None,
        limit: int,
        environment: dict[str, str] | None = None,
    ) -> None:
        self._spec = spec
        self._argv = argv
        self._loop = loop
        self._cgroup = cgroup
        self._environment = environment or {}
        self._streams: list[Any] = []
        self._deadline = float("inf")
        self.stdout = Capture(None if directory is None else directory / "stdout.log", limit)
        self.stderr = Capture(None if directory is None else directory / "stderr.log", limit)
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.errors: list[str] = []
        self.leftovers: list[str] = []
        self.seen_hanging: list[str] = []  # its processes at its deadline
        self.end = End()

    def run(self, deadline: float, parser: Parser, report: Callable[[list[Event]], None]) -> None:
        """Run it until the deadline, a moment of the monotonic clock; its lines go to the parser, the parser's events to report."""
        self._deadline = deadline
        process = self.start(parser, report)
        if process is not None:
            self.finish(process, lambda: self._until_it_ends(process))

    def start(self, parser: Parser, report: Callable[[list[Event]], None]) -> subprocess.Popen[bytes] | None:
        """Start it, or note why that cannot be; whoever starts it finishes it."""
        self._parser, self._report, self._started = parser, report, time.monotonic()
        try:
            with self._cgroup.entered() if self._cgroup is not None else contextlib.nullcontext():
                process = spawn(self._spec, self._argv, self._environment)
        except (OSError, KeyError, ValueError, subprocess.SubprocessError) as error:
            self.errors.append(f"cannot start {self._argv}: {error}")
            self._close()
            return None
        for stream, capture in ((process.stdout, self.stdout), (process.stderr, self.stderr)):
            self._streams.append(stream)
            self._loop.selector.register(stream, selectors.EVENT_READ, (self, capture))  # type: ignore[arg-type]
        return process

    def finish(self, process: subprocess.Popen[bytes], wait: Callable[[], None]) -> None:
        """Wait, and then see that nothing of it is left."""
        try:
            wait()
            self._end_session(process)
            self._drain()
        finally:
            self._signal(process, signal.SIGKILL)
            for stream in self._loop.streams(self):
                self._loop.selector.unregister(stream)
            for stream in self._streams:
                stream.close()
            self._note_exit(process)
            self._close()

    def _close(self) -> None:
        self.end.duration = time.monotonic() - self._started
        self.end.tail = list(self.tail)
        if self._cgroup is not None and (error := self._cgroup.remove()) is not None:
            self.leftovers.append(error)

    def _until_it_ends(self, process: subprocess.Popen[bytes]) -> None:
        """Wait for the command, its deadline, or an order to stop."""
        while process.poll() is None:
            if self._loop.stop:
                self.errors.append(f"the runner was told to stop by {self._loop.stop}")
                return
            if time.monotonic() >= self._deadline:
                self.end.timed_out = True
                self.seen_hanging = look_at(self._members(process))
                self.stderr.note(["the deadline was reached; then there were:", *self.seen_hanging])
                return
            self.take(self._deadline)

    def _members(self, process: subprocess.Popen[bytes]) -> dict[int, str]:
        """What lives of the command, in its session or its cgroup."""
        members = {pid: name for pid, (_group, name) in session_members(process.pid).items()}
        return members if self._cgroup is None else {**members, **self._cgroup.members()}

    def _signal(self, process: subprocess.Popen[bytes], number: signal.Signals) -> None:
        signal_session(process.pid, number)
        if self._cgroup is not None:
            self._cgroup.signal(number)

    def _end_session(self, process: subprocess.Popen[bytes]) -> None:
        """Nothing of the command may outlive it."""
        members = self._members(process)
        limit = time.monotonic() + ENDING
        while members and process.returncode is not None and time.monotonic() < limit:
            self.take(time.monotonic() + 0.02)
            members = self._members(process)
        if process.returncode is not None:
            self.leftovers = [f"{pid} {name}" for pid, name in sorted(members.items())[:PROCESSES_SHOWN]]
            if len(members) > PROCESSES_SHOWN:
                self.leftovers.append(f"and {len(members) - PROCESSES_SHOWN} more")
        for number in (signal.SIGTERM, signal.SIGKILL):
            limit = time.monotonic() + GRACE
            if members:
                self._signal(process, number)
            while members and time.monotonic() < limit:
                self.take(time.monotonic() + 0.1)  # only our child's end is told to us, the others' is not
                members = self._members(process)
        if members and process.returncode is not None:
            self.leftovers.append("some of them are still there after SIGKILL")

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
        while self._loop.streams(self) and time.monotonic() < limit:
            if not self.take(time.monotonic() + DRAIN):
                break
        if self._loop.streams(self):
            self.leftovers.append("a process that left the session still holds the suite's output")
        for capture in (self.stdout, self.stderr):
            self._lines(capture, capture.close())

    def take(self, limit: float) -> bool:
        """Wait for output, a signal or the limit, and pass on what came; tell whether anything did."""
        settle_at = self._parser.settle_at()
        came = self._loop.wait(limit if settle_at is None else min(limit, settle_at))
        for command, capture, data in came or []:
            command._lines(capture, capture.feed(data))
        settle_at = self._parser.settle_at()
        if settle_at is not None and time.monotonic() >= settle_at:
            self._report(self._parser.settle())
        return came is not None

    def _lines(self, capture: Capture, lines: list[str]) -> None:
        now = time.monotonic()
        read = capture is self.stdout or self._parser.reads_errors
        events: list[Event] = []
        self.tail.extend(line[:2000] for line in lines[-TAIL_LINES:])
        for line in lines if read else []:
            events += self._parser.feed(line, now)
        if events:
            self._report(events)


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # real-time signals have no name
        return f"SIG{number}"


# --- suite ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One test of many."""

    number: int
    name: str
    argv: list[str]
    parser: str
    deadline: float
    needs: Needs
    directory: str  # its name below tests/
    report: str | None = None
    why_not: tuple[str, str] | None = None  # it is known beforehand that it is not run: a word, and a reason


def plan_cases(spec: Spec) -> tuple[list[Case], list[str]]:
    """The tests of this run, in the order of the list, and remarks; RunnerError if what is asked for cannot be had."""
    found: list[Entry] = []
    remarks: list[str] = []
    for entry in spec.tests:
        if entry.list_file is not None:
            found += read_list(entry, spec.deadline_factor)
            continue
        if entry.glob is None:
            found.append(entry)
            continue
        names, others = glob_files(Path(spec.cwd or "."), entry.glob)
        found += [replace(entry, name=name, argv=[f"./{name}"]) for name in names]
        if others:
            more = f" and {len(others) - 5} more" if len(others) > 5 else ""
            remarks.append(f"{entry.glob} also matches what cannot be executed and is no test: {', '.join(others[:5])}{more}")
    names = [entry.name for entry in found]
    refuse_twice(names)
    remarks += [f"nothing matches deny '{denied.pattern}'" for denied in spec.deny if not fnmatch.filter(names, denied.pattern)]
    chosen = choose(names, spec.select, spec.shard)
    directories = safe_names(names)
    cases = [
        Case(
            number,
            entry.name,
            entry.argv,
            entry.parser,
            entry.deadline,
            entry.needs,
            directories[entry.name],
            entry.report,
            why_not(entry, spec.deny),
        )
        for number, entry in enumerate((entry for entry in found if entry.name in chosen), start=1)
    ]
    return cases, remarks


def refuse_twice(names: list[str]) -> None:
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise RunnerError(f"the specification has tests of the same name: {', '.join(twice[:5])}; give each a name of its own")


def glob_files(directory: Path, pattern: str) -> tuple[list[str], list[str]]:
    """Names of the executable files that match, and of the others, sorted and relative to the directory."""
    try:
        paths = sorted(path for path in directory.glob(pattern) if path.is_file())
    except (ValueError, NotImplementedError, OSError) as error:
        raise RunnerError(f"the glob '{pattern}' cannot be used in '{directory}': {error}") from error
    names, others = [], []
    for path in paths:
        name = str(path.relative_to(directory))
        if not name.isprintable() or len(name) > NAME_LIMIT:
            raise RunnerError(f"the glob '{pattern}' matches a file whose name cannot be shown: {name[:80]!r}")
        (names if os.access(path, os.X_OK) else others).append(name)
    if not names:
        why = f"{len(others)} files match and none can be executed" if others else "nothing matches"
        raise RunnerError(f"the glob '{pattern}' gives no test: {why} in '{directory}'")
    return names, others


def choose(names: list[str], select: list[str], shard: tuple[int, int]) -> set[str]:
    """The names that are selected and fall into the shard, which is every n-th of the sorted ones."""
    selected = set(names)
    if select:
        matches = {pattern: fnmatch.filter(names, pattern) for pattern in select}
        idle = [pattern for pattern, found in matches.items() if not found]
        if idle:
            raise RunnerError(f"no test matches select '{idle[0]}'; there are {len(names)} tests, such as '{names[0]}'")
        selected = {name for found in matches.values() for name in found}
    number, of = shard
    return set(sorted(selected)[number - 1 :: of])


def why_not(entry: Entry, deny: list[Denied]) -> tuple[str, str] | None:
    """Why it is known beforehand that a test is not run: a word, and a reason."""
    reason = next((denied.reason for denied in deny if fnmatch.fnmatchcase(entry.name, denied.pattern)), None)
    if reason is not None:
        return "denied", reason
    return None if entry.not_run is None else ("requires", entry.not_run)


def safe_names(names: list[str]) -> dict[str, str]:
    """A directory name for each test, of harmless characters, none twice."""
    result: dict[str, str] = {}
    used: set[str] = set()
    for number, name in enumerate(names, start=1):
        safe = re.sub(r"\.+", ".", re.sub(r"[^A-Za-z0-9._-]+", "_", name[:100])).lstrip("._-") or "test"
        while safe in used:
            safe = f"{safe}-{number}"
        used.add(safe)
        result[name] = safe
    return result


class Tally:
    """What a script with assertions of its own said: counted, and the first failures kept, for it may have millions."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.reason: str | None = None
        self.errors: list[str] = []
        self.failures: dict[int, tuple[str, str]] = {}  # by number, name and message
        self.skips: list[str] = []
        self._numbers: set[int] = set()
        self._highest = 0

    def add(self, events: list[Event]) -> None:
        for event in events:
            kind = event["event"]
            if kind == "test":
                self._test(event)
            elif kind == "plan":
                self.reason = event["reason"]
            elif kind == "detail" and event["number"] in self.failures:
                name, message = self.failures[event["number"]]
                self.failures[event["number"]] = (name, "\n".join(part for part in (message, event["message"]) if part))
            elif kind == "bail_out":
                self._complain(f"bail out: {event['reason'] or 'no reason given'}")

    def _test(self, event: Event) -> None:
        number, status = event["number"], event["status"]
        name = event["name"] or f"assertion {number}"
        self.counts[status] += 1
        self._highest = max(self._highest, number)
        if number < 1:
            self._complain(f"assertion {number} is outside any plan")
        if number in self._numbers:
            self._complain(f"assertion {number} was reported twice")
        elif len(self._numbers) < NUMBERS_KEPT:
            self._numbers.add(number)
        if status in RED and len(self.failures) < FAILURES_KEPT:
            self.failures[number] = (name, event["message"])
        elif status == "skip" and len(self.skips) < FAILURES_KEPT:
            self.skips.append(f"skipped: {name} ({event['directive'] or 'no reason given'})")

    def _complain(self, error: str) -> None:
        if len(self.errors) < ERRORS_KEPT:
            self.errors.append(error)

    def contradictions(self, parser: Parser, end: End) -> list[str]:
        """What does not fit together: assertions, plan and exit status."""
        errors = [*self.errors, *parser.errors]
        seen, planned = parser.seen, parser.planned
        if planned is None:
            errors.append(f"no plan: {seen} assertions were seen and it is unknown how many there should have been")
        elif seen != planned:
            errors.append(f"{seen} assertions were seen, but {planned} were planned")
        elif self._highest > planned:
            errors.append(f"assertion {self._highest} is outside the plan of 1 to {planned}")
        elif planned == 0 and not self.reason:
            errors.append("no assertions: the plan is empty and gives no reason")
        if end.exit_status != 0 and not any(self.counts[status] for status in RED):
            errors.append(f"no assertion failed, but {how_it_ended(end)}")
        return errors

    def status(self) -> str:
        if any(self.counts[status] for status in RED):
            return "fail"
        return next((status for status in ("xpass", "flaky", "pass", "known") if self.counts[status]), "skip")


@dataclass
class Attempt:
    """One time that a test was run."""

    status: str
    duration: float
    message: str
    directive: str | None = None
    leftovers: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)

    def summary(self) -> Event:
        return {"status": self.status, "duration": round(self.duration, 3), "message": self.message[:ATTEMPT_MESSAGE_LIMIT]}


@dataclass(frozen=True)
class Judgement:
    """What whoever watched a test says of it, beside its output."""

    status: str
    message: list[str]


JUDGEMENT = "judgement.json"
JUDGEMENTS = ("error", "timeout", "daemon_hang")
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
NOT_KEPT = re.compile(r"stdout\.log|stderr\.log|judgement\.json|attempt-\d+")  # what has a meaning of its own


def read_judgement(text: bytes) -> Judgement:
    """Check what a judgement says; one that cannot be read is an error of the test."""
    try:
        raw = json.loads(text.decode("utf-8"))
        if not isinstance(raw, dict) or set(raw) != {"status", "message"}:
            raise ValueError("it is no JSON object of status and message")
        status, message = raw["status"], raw["message"]
        if status not in JUDGEMENTS:
            raise ValueError(f"its status is {status!r:.80}, not one of {', '.join(JUDGEMENTS)}")
        if not isinstance(message, list) or not all(isinstance(line, str) for line in message):
            raise ValueError("its message is no list of lines")
    except (ValueError, RecursionError, TypeError) as error:
        return broken_judgement(str(error))
    lines = [part for line in message[:MESSAGE_LINES] for part in writable(line).split("\n")]
    return Judgement(status, [line[:2000] for line in lines[:MESSAGE_LINES]])


def broken_judgement(why: str) -> Judgement:
    return Judgement("error", [f"{JUDGEMENT} cannot be used: {why}"[:NAME_LIMIT]])


def worse(status: str, judged: str) -> str:
    """A judgement never excuses. A daemon that hangs explains a failure, a deadline what is missing; an error beside one hides it not."""
    if judged == "daemon_hang" or (judged == "timeout" and status == "error"):
        return judged
    return status if status in RED else judged


class TestDirectory:
    """Where the files of one test lie: its output, and what it leaves of its own."""

    def __init__(self, path: Path, user: str | None) -> None:
        self.path = path
        self._user = user

    def make(self) -> None:
        """Make it, for the account that the test runs as."""
        self.path.mkdir(parents=True, exist_ok=True)
        if self._user is not None:
            account = pwd.getpwnam(self._user)
            os.chown(self.path, account.pw_uid, account.pw_gid, follow_symlinks=False)

    def read_report(self, name: str, end: End) -> None:
        """Read the report of the attempt that has just ended; the directory was empty before it."""
        try:
            end.report = read_plain(self.path / name, REPORT_LIMIT)
        except (OSError, ValueError) as error:
            end.report_error = f"'{name}': {error.strerror if isinstance(error, OSError) else error}"

    def judgement(self) -> Judgement | None:
        try:
            return read_judgement(read_plain(self.path / JUDGEMENT, JUDGEMENT_LIMIT))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            return broken_judgement(error.strerror or str(error) if isinstance(error, OSError) else str(error))

    def files(self) -> tuple[list[str], list[str]]:
        """Names of the files that are kept, and what is said of others. Small ones first, for there are limits."""
        sizes: dict[str, int] = {}
        remarks: list[str] = []
        with os.scandir(self.path) as entries:
            for seen, entry in enumerate(entries):
                if seen >= FILES_LOOKED_AT:
                    remarks.append(f"not kept: what is beyond {FILES_LOOKED_AT} files")
                    break
                if NOT_KEPT.fullmatch(entry.name) or entry.is_dir(follow_symlinks=False):
                    continue
                found = entry.stat(follow_symlinks=False)
                why = why_not_kept(entry.name, found)
                if why is None:
                    sizes[entry.name] = found.st_size
                else:
                    remarks.append(f"not kept: {entry.name[:100]!r} {why}")
        kept, total = [], 0
        for name in sorted(sizes, key=lambda name: (sizes[name], name)):
            if len(kept) < FILES_KEPT and total + sizes[name] <= FILES_LIMIT:
                kept.append(name)
                total += sizes[name]
            else:
                remarks.append(f"not kept: {name!r} is beyond {FILES_KEPT} files, or {FILES_LIMIT} bytes of all")
        if len(remarks) > ERRORS_KEPT:
            remarks[ERRORS_KEPT:] = [f"and {len(remarks) - ERRORS_KEPT} more files are not kept"]
        return sorted(kept), remarks

    def put_aside(self, number: int) -> None:
        """Move all that an attempt left into a directory of its own, so that the next one begins with an empty one."""
        aside = self.path / f"attempt-{number}"
        if aside.is_symlink() or aside.is_file():
            aside.unlink()
        elif aside.exists():
            shutil.rmtree(aside)  # the test made it: ours is not there yet
        aside.mkdir(parents=True)
        before = {f"attempt-{earlier}" for earlier in range(1, number + 1)}
        for name in os.listdir(self.path):
            if name not in before:
                (self.path / name).rename(aside / name)

    def has_logs(self, attempts: int) -> bool:
        """Tell whether anything was printed."""
        places = [self.path, *(self.path / f"attempt-{number}" for number in range(1, attempts))]
        return any((place / name).is_file() for place in places for name in ("stdout.log", "stderr.log"))

    def remove_if_empty(self) -> None:
        """Leave no directory of a test that printed and left nothing."""
        with contextlib.suppress(OSError):  # it is not empty
            self.path.rmdir()


def why_not_kept(name: str, found: os.stat_result) -> str | None:
    if not stat.S_ISREG(found.st_mode):
        return "is no plain file"
    if FILE_NAME.fullmatch(name) is None:
        return "has a name that cannot be used"
    if found.st_size > FILE_LIMIT:
        return f"has {found.st_size} bytes, more than {FILE_LIMIT}"
    return None


def how_it_ended(end: End) -> str:
    return f"it ended by {end.signal}" if end.signal else f"it ended with exit status {end.exit_status}"


def judge_case(parser: Parser, tally: Tally, command: Command, deadline: str, judgement: Judgement | None = None) -> Attempt:
    """Make one status and one message of what a test did; deadline says which one ended it, if one did."""
    end, directive = command.end, None
    if command.errors:
        status, lines = "error", list(command.errors)
    elif end.timed_out:
        status, lines = "timeout", [f"{deadline} was reached; then there were:", *command.seen_hanging]
    elif isinstance(parser, ExitCodeParser):
        status = "pass" if end.exit_status == 0 else "fail"
        last = next((line for line in reversed(end.tail) if line.strip()), "")
        lines = [] if status == "pass" else [f"{how_it_ended(end)}{': ' if last else ''}{last}"]
    elif errors := tally.contradictions(parser, end):
        status, lines = "error", errors
    else:
        status, lines = tally.status(), []
    if judgement is not None:
        status, lines = worse(status, judgement.status), [*judgement.message, *lines]
    if status == "skip":
        directive = f"SKIP {tally.reason or ''.join(tally.skips[:1])}".strip()[:NAME_LIMIT]
    if status in RED:
        lines = [*lines, *_evidence(parser, tally, end)]
    lines += tally.skips
    return Attempt(status, end.duration, clipped(lines), directive, command.leftovers)


def _evidence(parser: Parser, tally: Tally, end: End) -> list[str]:
    """The assertions that failed, or else the end of the output."""
    if tally.failures and not isinstance(parser, ExitCodeParser):
        return [line for name, said in tally.failures.values() for line in (f"failed: {name}", *(f"  {part}" for part in said.split("\n")))]
    return ["the end of its output:", *end.tail] if end.tail else ["it printed nothing"]


class Suite:
    """One run of one suite, from suite_start to suite_end. What it does between them is for its two kinds to say."""

    def __init__(self, spec: Spec, directory: Path, log: EventLog) -> None:
        self.spec = spec
        self.log = log
        self.directory = directory
        self.started = time.monotonic()
        self.limit = self.started + spec.deadline
        self.loop = Loop()
        self.cgroups = Cgroups()
        self.guest = Guest(spec, self._probe)
        self.errors: list[str] = []
        self.timed_out = False

    def execute(self) -> None:
        """Run the suite; whatever happens, the last event is suite_end."""
        with self.loop.watched():
            self.log.write(self._start_event())
            try:
                unmet = self.guest.unmet(self.spec.needs)
                if unmet:
                    self.skip("; ".join(unmet))
                else:
                    self.run()
            except BaseException as error:
                self.errors.append(f"the runner failed: {type(error).__name__}: {error}")
                raise
            finally:
                self.cgroups.close()
                self.log.write(self._end_event(), sync=True)

    def run(self) -> None:
        raise NotImplementedError

    def skip(self, reason: str) -> None:
        """Say that nothing of the suite is run, and why."""
        self.log.write({"event": "plan", "count": 0, "reason": reason[:NAME_LIMIT]})

    def touch_logs(self) -> None:
        """Make the logs of a suite that has them, which whoever fetches them expects."""
        for name in ("stdout.log", "stderr.log"):
            (self.directory / name).touch()

    def outcome(self) -> Event:
        """What suite_end says of tests and the command."""
        raise NotImplementedError

    def _probe(self, probe: Probe) -> str | None:
        command = Command(self.spec, probe.argv, self.loop, self.cgroups.new(), None, 0)
        command.run(time.monotonic() + PROBE_LIMIT, ExitCodeParser(probe.name, 0.0), lambda _events: None)
        last = f": {command.tail[-1][:200]}" if command.tail else ""
        if command.errors:
            return command.errors[0]
        if command.end.timed_out:
            return f"no answer within {PROBE_LIMIT:.0f} s{last}"
        if command.end.exit_status != 0:
            return (f"it ended by {command.end.signal}" if command.end.signal else f"exit status {command.end.exit_status}") + last
        return None

    def _start_event(self) -> Event:
        return {
            "event": "suite_start",
            "suite": self.spec.suite,
            "parser": self.spec.parser,
            "command": self.spec.argv,
            "deadline": self.spec.deadline,
            "runner": VERSION,
            "isolation": "cgroup" if self.cgroups.reason is None else f"session only: {self.cgroups.reason}",
        }

    def _end_event(self) -> Event:
        outcome = self.outcome()
        kept = self.errors[:ERRORS_KEPT]
        more = [f"and {len(self.errors) - ERRORS_KEPT} more"] if len(self.errors) > ERRORS_KEPT else []
        return {
            "event": "suite_end",
            "timed_out": self.timed_out,
            "duration": round(time.monotonic() - self.started, 3),
            "error": "; ".join([*kept, *more]) or None,
            **outcome,
        }


class CommandSuite(Suite):
    """A suite of one command, whose output one parser reads."""

    def __init__(self, spec: Spec, directory: Path, log: EventLog) -> None:
        super().__init__(spec, directory, log)
        self.parser: Parser = PARSERS[spec.parser](spec.suite, self.started)
        self.command: Command | None = None
        self.report = Report(Path(spec.cwd or ".", spec.report)) if spec.report else None

    def skip(self, reason: str) -> None:
        super().skip(reason)
        self.touch_logs()

    def run(self) -> None:
        self.command = Command(self.spec, self.spec.argv, self.loop, self.cgroups.new(), self.directory, self.spec.capture_limit)
        self.command.stdout.make()
        self.command.stderr.make()
        self._emit(self.parser.begin())
        try:
            self.command.run(self.limit, self.parser, self._emit)
        finally:
            self._conclude(self.command)

    def _emit(self, events: list[Event]) -> None:
        if events:
            self.log.write(*events)

    def _conclude(self, command: Command) -> None:
        end = command.end
        self.timed_out = end.timed_out
        end.tail = [*end.tail[-TAIL_LINES // 2 :], *command.seen_hanging[: TAIL_LINES // 2]] if end.timed_out else end.tail
        if self.report is not None:
            try:
                end.report = self.report.read()
            except ValueError as error:
                end.report_error = str(error)
        self._emit(self.parser.finish(end))
        captures = [capture.error for capture in (command.stdout, command.stderr) if capture.error]
        self.errors += [*command.errors, *self.parser.errors[:10], *captures]

    def outcome(self) -> Event:
        if self.command is None:  # a need of the suite was not met
            return {"exit_status": 0, "signal": None, "planned": 0, "seen": 0, "leftovers": [], "tail": []}
        end = self.command.end
        return {
            "exit_status": end.exit_status,
            "signal": end.signal,
            "planned": self.parser.planned,
            "seen": self.parser.seen,
            "leftovers": self.command.leftovers,
            # What a person looks at first when a command died without a test line to blame.
            "tail": [] if end.exit_status == 0 else end.tail[-10:],
        }


AVOCADO_NAME = "Avocado"
AVOCADO_VERSION = re.compile(r"(\d{1,6})\.\d+")
AVOCADO_ASK_VERSION = "from importlib.metadata import version; print(version('avocado-framework'))"
# What a test is to Avocado. It knows no timeout of ours and no test that passed only when tried again; a warning is no pass.
AVOCADO_SEES = {
    "pass": "PASS",
    "fail": "FAIL",
    "timeout": "FAIL",
    "daemon_hang": "FAIL",
    "error": "ERROR",
    "skip": "SKIP",
    "not_run": "SKIP",
    "known": "PASS",
    "xpass": "WARN",
    "flaky": "WARN",
}
AVOCADO_BAD = ("FAIL", "ERROR")  # after which it ends with 1
AVOCADO_FILES = ("results.json", "results.html", "results.xml", "job.log")
AVOCADO_STARTS_KEPT = 5  # of which files are kept, for there may be a hundred
AVOCADO_CONFIG = """\
[run]
max_parallel_tasks = 1
shuffle = False
failfast = False
[job.run]
timeout = 0
[sysinfo.collect]
enabled = False
[datadir.paths]
base_dir = {home}
test_dir = {home}
data_dir = {home}
logs_dir = {home}
cache_dirs = ['{home}']
"""
AVOCADO_KIND = "mayfly"
# What Avocado starts for a task of this kind, found on the PATH by its name: its interface for runners of one's own. It says to
# Avocado's status server what the answer is. A file of its own, because Python would take longer to compile this one than to ask.
AVOCADO_RUNNER = """\
#!@PYTHON@ -IS
import base64, json, socket, sys, time
if sys.argv[1:2] != ["task-run"]:
    print(json.dumps({"runnables": ["@KIND@"], "commands": ["capabilities", "task-run"], "configuration_used": []}))
    sys.exit(0)
options, words = {}, iter(sys.argv[2:])
for word in words:
    if len(word) == 2 and word[0] == "-":
        options[word] = next(words, "")
    else:
        options.update([word.split("=", 1)])
def connect(path):
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(path)
    return connection
server = connect(options["-s"])
def tell(**message):
    message.update(id=options["-i"], job_id=options["-j"], time=time.monotonic())
    server.sendall(json.dumps(message).encode() + b"\\n")
tell(status="started", output_dir=options["output_dir"])
try:
    runner = connect("@ASK@")
    runner.sendall(options["-u"].encode() + b"\\n")
    answer = json.loads(b"".join(iter(lambda: runner.recv(65536), b"")) or '{"result": "error", "fail_reason": "the runner went away"}')
except (OSError, ValueError) as error:
    answer = {"result": "error", "fail_reason": "the suite's runner gave no answer: " + str(error)}
output = answer.pop("output", "").encode()
if output:
    tell(status="running", type="stdout", log={"__base64_encoded__": base64.b64encode(output).decode()})
tell(status="finished", returncode=0, **answer)
"""


class HarnessUnusable(Exception):
    """The harness cannot be used, and no test was run; the message says why."""


@dataclass(frozen=True)
class Answer:
    """What became of a test that was asked for."""

    status: str
    reason: str


def answer_of(name: str, answer: Answer, output: bytes) -> bytes:
    """What a task tells Avocado of its test: the status, why, and as its output that, too, and what the test printed."""
    result = AVOCADO_SEES[answer.status]
    first = next((line for line in answer.reason.split("\n") if line.strip()), answer.status)
    lines = [f"{answer.status}: {name}", *answer.reason.split("\n")[:MESSAGE_LINES]]
    if output:
        cut = f", its last {len(output)} bytes" if len(output) == OUTPUT_SHOWN else ""
        lines += [f"--- what it printed{cut} ---", *output.decode("utf-8", "replace").split("\n")]
    told = {"result": result.lower(), "output": "".join(f"{shown(line)}\n" for line in lines)}
    if result != "PASS":
        why = first if answer.status in (result.lower(), first) else f"{answer.status}: {first}"
        told["fail_reason"] = shown(why)[:NAME_LIMIT]
    return json.dumps(told).encode("ascii")


def shown(line: str) -> str:
    """A line without what would move a cursor, or be no character of XML."""
    return "".join(character if character.isprintable() or character == "\t" else " " for character in line)


def recipe_of(cases: list[Case]) -> list[dict[str, Any]]:
    """Avocado's recipe: a task for each test, which asks for it by its place."""
    return [{"kind": AVOCADO_KIND, "uri": str(number), "identifier": case.name} for number, case in enumerate(cases, start=1)]


def disagreements(results: bytes, job: str, cases: list[Case], answers: dict[int, str]) -> list[str]:
    """Where Avocado's results.json does not tell of each test what it was told."""
    try:
        report = json.loads(results.decode("utf-8"))
        if not isinstance(report, dict) or not isinstance(report.get("tests"), list):
            raise ValueError("it has no list of tests")
        if report.get("job_id") != job:
            raise ValueError(f"it is that of another job, {report.get('job_id')!r:.80}")
        said = dict(_avocado_said(test) for test in report["tests"])
    except (ValueError, RecursionError) as error:
        return [f"its results.json cannot be used: {error}"]
    wanted = {(number, case.name): AVOCADO_SEES[answers[number]] for number, case in enumerate(cases, start=1)}
    found = [
        f"it says {said.get(key, 'nothing')} of {key[1]}, which is {wanted[key]} ({answers[key[0]]})"
        for key in wanted
        if said.get(key) != wanted[key]
    ]
    found += [
        f"it says {status} of {name!r:.200}, which is test {number} of nobody"
        for (number, name), status in said.items()
        if (number, name) not in wanted
    ]
    if not found and (len(report["tests"]) != len(cases) or report.get("total") != len(cases)):
        found.append(f"it lists {len(report['tests'])} tests and counts {report.get('total')!r:.20}, but there were {len(cases)}")
    more = [f"and {len(found) - DISAGREEMENTS_SHOWN} more"] if len(found) > DISAGREEMENTS_SHOWN else []
    return [*found[:DISAGREEMENTS_SHOWN], *more]


def _avocado_said(test: Any) -> tuple[tuple[int, str], str]:
    """Place and name of a test, and its status."""
    place, dash, name = str(test.get("id") if isinstance(test, dict) else "").partition("-")
    if not dash or not place.isdecimal() or len(place) > NUMBER_DIGITS:
        raise ValueError("a test has no number")
    return (int(place), name), str(test.get("status"))[:20]


def shebang(program: str) -> str | None:
    """The interpreter of a script, if it is named by its path and without arguments."""
    try:
        with open(program, "rb") as file:
            line = file.readline(ASKING_LINE)
    except OSError:
        return None
    found = re.fullmatch(rb"#!\s*(/\S+)\s*\n", line)
    return os.fsdecode(found[1]) if found else None


class Avocado:
    """One start of Avocado, whose tasks ask for one test each. When a test runs is its decision, what comes of it is ours."""

    def __init__(self, suite: TestsSuite, start: int, cases: list[Case], execute: Callable[[Case], Answer]) -> None:
        self.errors: list[str] = []
        self.files: list[str] = []
        self.leftovers: list[str] = []
        self._suite, self._start, self._cases, self._execute = suite, start, cases, execute
        self._left = dict(enumerate(cases, start=1))
        self._answers: dict[int, str] = {}
        self._job = os.urandom(20).hex()
        self._task = suite.directory / f"avocado-runner-{AVOCADO_KIND}"  # not in a temporary directory, where nothing may be executable
        self._factor = suite.spec.deadline_factor  # an emulated guest needs more time for all of this, too
        self._cut_short = False  # by the suite's deadline, or because the runner is told to stop

    def run(self) -> list[Case]:
        """Run the tests that Avocado asks for; return the others. HarnessUnusable if it asks for none."""
        spec = self._suite.spec
        path = spec.environment.get("PATH") or os.environ.get("PATH", os.defpath)
        program = shutil.which("avocado", path=path)
        if program is None:
            self._never_started()
            raise HarnessUnusable(
                f"the harness avocado cannot be used: there is no 'avocado' on the PATH of the suite ({path}); install it"
            )
        # Not in the results directory: the name of a socket is short, and Avocado makes one in its temporary directory, too.
        with tempfile.TemporaryDirectory(prefix="mayfly-avocado-") as name, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
            home = Path(name)
            self._check_version(program, home)
            try:
                self._furnish(home, door)
                self._run(program, home, door)
            finally:
                self._task.unlink(missing_ok=True)
                self._keep(home)
        return list(self._left.values())

    def _furnish(self, home: Path, door: socket.socket) -> None:
        door.setblocking(False)
        door.bind(str(home / "ask"))
        os.chmod(home / "ask", 0o600)
        door.listen(8)
        words = {"@PYTHON@": sys.executable, "@KIND@": AVOCADO_KIND, "@ASK@": str(home / "ask")}
        text = AVOCADO_RUNNER
        for word, meaning in words.items():
            text = text.replace(word, meaning)
        self._task.write_text(text)
        self._task.chmod(0o755)
        (home / "avocado.conf").write_text(AVOCADO_CONFIG.format(home=home))
        (home / "recipe.json").write_text(json.dumps(recipe_of(self._cases)))
        (home / "results").mkdir()

    def _run(self, program: str, home: Path, door: socket.socket) -> None:
        arguments = ["--config", "avocado.conf", "run", "--job-results-dir", "results", "--force-job-id", self._job, "recipe.json"]
        command = self._command([program, *arguments], home, self._suite.directory if self._start == 1 else home)
        for capture in (command.stdout, command.stderr):
            capture.make()
        process = command.start(ExitCodeParser(AVOCADO_NAME, 0.0), lambda _events: None)
        if process is not None:
            command.finish(process, lambda: self._serve(command, process, door))
        if self._cut_short:
            return
        if not self._answers:
            why = self._why_no_test(program, command)
            self.errors = []
            raise HarnessUnusable(f"the harness avocado cannot be used: {why}")
        if not self.errors:
            self._compare(command.end, home)
        self.errors += [capture.error for capture in (command.stdout, command.stderr) if capture.error]
        self.leftovers += command.leftovers

    def _command(self, argv: list[str], home: Path, directory: Path | None) -> Command:
        """It runs as we do, whoever the tests run as: it starts no test itself."""
        spec = replace(self._suite.spec, user=None, cwd=str(home))
        path = f"{self._suite.directory}:{spec.environment.get('PATH') or os.environ.get('PATH', os.defpath)}"
        environment = {"TMPDIR": str(home), "HOME": str(home), "PATH": path}
        return Command(spec, argv, self._suite.loop, self._suite.cgroups.new(), directory, CAPTURE_LIMIT, environment)

    def _serve(self, command: Command, process: subprocess.Popen[bytes], door: socket.socket) -> None:
        """Answer one task after the other."""
        while self._left:
            connection = self._next(command, process, door)
            if connection is None:
                return
            with connection:
                if not self._answer(connection):
                    return
        asked = time.monotonic()
        limit = min(asked + AVOCADO_ENDING * self._factor, max(self._suite.limit, asked + AVOCADO_LATE))
        while process.poll() is None:
            if self._suite.loop.stop:
                self._cut_short = True
                return
            if time.monotonic() >= limit:
                self.errors.append(f"{AVOCADO_NAME} had not ended {limit - asked:.0f} s after its last test")
                return
            command.take(limit)

    def _next(self, command: Command, process: subprocess.Popen[bytes], door: socket.socket) -> socket.socket | None:
        """Wait for the next task; None if none comes."""
        began = time.monotonic()
        silent = began + AVOCADO_SILENT * self._factor
        selector = self._suite.loop.selector
        selector.register(door, selectors.EVENT_READ, KNOCK)  # only while we look there
        try:
            while True:
                if self._suite.loop.stop or self._suite.over():
                    self._cut_short = True
                    return None
                if process.poll() is not None:
                    return None
                with contextlib.suppress(BlockingIOError):  # nobody is there
                    return door.accept()[0]
                if time.monotonic() >= silent:
                    self.errors.append(f"{AVOCADO_NAME} asked for no test for {silent - began:.0f} s")
                    return None
                command.take(min(silent, self._suite.limit))
        finally:
            selector.unregister(door)

    def _answer(self, connection: socket.socket) -> bool:
        """Run the test that is asked for; tell whether Avocado may go on."""
        try:
            connection.settimeout(ASKING_LIMIT * self._factor)
            number = self._question(connection)
        except (OSError, ValueError) as error:
            self.errors.append(f"a task of {AVOCADO_NAME} asked for no test: {error}")
            return False
        case = self._left.pop(number, None)
        if case is None:
            known = "a second time" if 1 <= number <= len(self._cases) else "that there is not"
            self.errors.append(f"{AVOCADO_NAME} asked for test {number} {known}")
            return False
        answer = self._execute(case)
        self._answers[number] = answer.status
        output = b"" if answer.status == "not_run" else self._suite.output_of(case)
        try:
            connection.sendall(answer_of(case.name, answer, output))
        except OSError as error:
            self.errors.append(f"the task of {AVOCADO_NAME} for {case.name} did not take its answer: {error}")
        return True

    @staticmethod
    def _question(connection: socket.socket) -> int:
        line = b""
        while not line.endswith(b"\n"):
            data = connection.recv(ASKING_LINE)
            line += data
            if not data or len(line) > ASKING_LINE:
                raise ValueError(f"it said {line[:ASKING_LINE]!r}")
        number = line.decode("ascii", "replace").strip()
        if not number.isdecimal() or len(number) > NUMBER_DIGITS:
            raise ValueError(f"it said {line!r}")
        return int(number)

    def _check_version(self, program: str, home: Path) -> None:
        """Ask the Python that runs Avocado, which is sooner than Avocado itself, or else that."""
        python = shebang(program)
        asked = [[python, "-c", AVOCADO_ASK_VERSION]] if python is not None else []
        for argv in [*asked, [program, "--version"]]:
            command = self._command(argv, home, None)
            command.run(time.monotonic() + PROBE_LIMIT * self._factor, ExitCodeParser(AVOCADO_NAME, 0.0), lambda _events: None)
            said = " ".join([*command.errors, *command.tail][-1:])
            version = AVOCADO_VERSION.search(said)
            if version is not None and command.end.exit_status == 0:
                break
        if version is None or command.end.exit_status != 0:
            why = f"'{program} --version' says {said[:200]!r}, {how_it_ended(command.end)}"
        elif int(version[1]) < AVOCADO_OLDEST:
            why = f"'{program}' is {AVOCADO_NAME} {version[0]}, and {AVOCADO_OLDEST} or newer is needed"
        else:
            return
        self._never_started()
        raise HarnessUnusable(f"the harness avocado cannot be used: {why}")

    def _never_started(self) -> None:
        if self._start == 1:
            self._suite.touch_logs()

    def _why_no_test(self, program: str, command: Command) -> str:
        """What to say if it never came to a test."""
        if command.errors:
            return "; ".join(command.errors)
        how = "; ".join(self.errors) or how_it_ended(command.end)
        tail = " | ".join(line.strip() for line in command.tail if line.strip())[-500:] or "nothing"
        return f"'{program}' asked for no test: {how}; it said: {tail}"

    def _compare(self, end: End, home: Path) -> None:
        """See that Avocado tells the same of each test."""
        if self._left:
            self.errors.append(f"{AVOCADO_NAME} asked for {len(self._answers)} of {len(self._cases)} tests: {how_it_ended(end)}")
            return
        bad = any(AVOCADO_SEES[status] in AVOCADO_BAD for status in self._answers.values())
        if end.signal or end.exit_status != (1 if bad else 0):
            self.errors.append(f"{AVOCADO_NAME} and its tests do not agree: {how_it_ended(end)}, {'' if bad else 'and no '}test failed")
        try:
            results = read_plain(self._results(home) / "results.json", REPORT_LIMIT)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            self.errors.append(f"{AVOCADO_NAME} left no results.json that can be read: {why}")
            return
        found = disagreements(results, self._job, self._cases, self._answers)
        self.errors += [f"{AVOCADO_NAME} and the tests it asked for do not agree: {line}" for line in found]

    def _results(self, home: Path) -> Path:
        jobs = sorted((home / "results").glob("job-*"))
        if len(jobs) != 1:
            raise ValueError(f"there are {len(jobs)} jobs")
        return jobs[0]

    def _keep(self, home: Path) -> None:
        """Keep what it says of its job, and of a second start what it printed, under names of their own."""
        if self._start > AVOCADO_STARTS_KEPT:
            return
        prefix = "avocado-" if self._start == 1 else f"avocado-{self._start}-"
        try:
            results = self._results(home)
        except ValueError:  # without a job there is nothing to keep; why there is none is told
            results = home / "results"
        printed = [] if self._start == 1 else [home / "stdout.log", home / "stderr.log"]
        for path in [*(results / name for name in AVOCADO_FILES), *printed]:
            try:
                content = read_plain(path, FILE_LIMIT)
            except FileNotFoundError:
                continue  # the plugin that writes it may not be installed
            except (OSError, ValueError) as error:
                content = f"[mayfly: {path.name} was not kept: {error}]\n".encode()
            try:
                with open(self._suite.directory / f"{prefix}{path.name}", "xb") as file:
                    file.write(content)
            except OSError as error:
                self.errors.append(f"{prefix}{path.name} was not kept: {error.strerror}")
            else:
                self.files.append(f"{prefix}{path.name}")


class TestsSuite(Suite):
    """A suite of many tests, each a process of its own, one after the other."""

    def __init__(self, spec: Spec, directory: Path, log: EventLog, cases: list[Case], remarks: list[str]) -> None:
        super().__init__(spec, directory, log)
        self.cases, self._remarks = cases, remarks
        self.files: list[str] = []
        self.leftovers: list[str] = []
        self._planned = 0
        self._seen = 0
        self._red = False
        self._capture_left = TESTS_CAPTURE_LIMIT
        self._attempts: dict[int, list[Attempt]] = {}  # by number, of failed tests that are to be run again
        self._rounds = 0
        self._broken = False  # the harness, with which nothing is tried again

    def skip(self, reason: str) -> None:
        super().skip(reason)
        if self.spec.harness == AVOCADO:
            self.touch_logs()

    def run(self) -> None:
        if not self.cases:
            number, of = self.spec.shard
            self.skip(f"no test falls into shard {number}/{of}")
            return
        self._planned = len(self.cases)
        self.log.write({"event": "plan", "count": self._planned, "reason": "; ".join(self._remarks)[:NAME_LIMIT] or None})
        try:
            self._round(self.cases, self._first)
            for _retry in range(self.spec.retries):
                waiting = [case for case in self.cases if case.number in self._attempts]
                if waiting and not self._broken:
                    self._round(waiting, self._again)
        except HarnessUnusable as error:  # before any test, so that there is nothing to tell of them
            self.errors.append(str(error))
        for case in self.cases:
            if case.number in self._attempts:
                self._tell(case, self._attempts.pop(case.number))
        if self.loop.stop:
            self.errors.append(f"the runner was told to stop by {self.loop.stop}")

    def _round(self, cases: list[Case], execute: Callable[[Case], Answer]) -> None:
        """Run each of these tests once, in the way of the harness."""
        self._rounds += 1
        left = cases
        if self.spec.harness == AVOCADO:
            avocado = Avocado(self, self._rounds, cases, execute)
            try:
                left = avocado.run()
            finally:
                self._broken = bool(avocado.errors)
                self.errors += avocado.errors
                self.files += avocado.files
                self.leftovers += avocado.leftovers
            if not (self.loop.stop or self.over()):
                for case in left:
                    self._lose(case)
                return
        for case in left:
            if self.loop.stop:
                break
            execute(case)

    def over(self) -> bool:
        return time.monotonic() >= self.limit

    def _lose(self, case: Case) -> None:
        """A test that its harness never asked for has no result, but for that of earlier attempts."""
        if case.number not in self._attempts:
            message = f"no result: {AVOCADO_NAME} never asked for this test; what the suite ended with says more"
            self._write(test_event(case.number, case.name, "error", 0.0, None, message))

    def _first(self, case: Case) -> Answer:
        why = self._why_not(case)
        if why is not None:
            self._write(test_event(case.number, case.name, "not_run", 0.0, why[0], clipped([why[1]])))
            return Answer("not_run", why[1])
        return self._try(case, [])

    def _why_not(self, case: Case) -> tuple[str, str] | None:
        """Why a test is not run: a word, and a reason."""
        if case.why_not is not None:
            return case.why_not
        if self.spec.fail_fast and self._red:
            return "fail_fast", "an earlier test failed"
        if self.over():
            self.timed_out = True
            return "deadline", f"the suite's deadline of {self.spec.deadline:g} s came first"
        unmet = self.guest.unmet(case.needs)
        return ("requires", "; ".join(unmet)) if unmet else None

    def _again(self, case: Case) -> Answer:
        attempts = self._attempts.pop(case.number)
        if self.loop.stop or self.over():
            self.timed_out = self.timed_out or not self.loop.stop
            self._tell(case, attempts)
            return Answer("not_run", "the suite ended before this test was tried again")
        self._files_of(case).put_aside(len(attempts))
        return self._try(case, attempts)

    def _try(self, case: Case, attempts: list[Attempt]) -> Answer:
        """Run a test once, and tell of it, or put it at the end of the queue."""
        attempts.append(self._attempt(case, len(attempts) + 1))
        last = attempts[-1]
        if last.status in RED and len(attempts) <= self.spec.retries:
            fields = {"number": case.number, "name": case.name, "attempt": len(attempts)}
            self.log.write({"event": "attempt", **fields, **last.summary()})  # a failure is told at once
            self._attempts[case.number] = attempts
        else:
            self._tell(case, attempts)
        return Answer(last.status, last.directive if last.status == "skip" and last.directive else last.message)

    def _files_of(self, case: Case) -> TestDirectory:
        return TestDirectory(self.directory / "tests" / case.directory, self.spec.user)

    def _attempt(self, case: Case, number: int) -> Attempt:
        """Run a test once."""
        own = self._files_of(case)
        try:
            own.make()
        except (OSError, KeyError) as error:
            return Attempt("error", 0.0, f"its directory '{own.path}' cannot be made: {error}")
        now = time.monotonic()
        limit = self.spec.capture_limit if self._capture_left > 0 else min(LATE_CAPTURE_LIMIT, self.spec.capture_limit)
        suite_first = self.limit < now + case.deadline
        environment = {"MAYFLY_TEST_DIR": str(own.path), "MAYFLY_TEST_NAME": case.name, "MAYFLY_ATTEMPT": str(number)}
        command = Command(self.spec, case.argv, self.loop, self.cgroups.new(), own.path, limit, environment)
        parser: Parser = PARSERS[case.parser](case.name, now)
        tally = Tally()
        tally.add(parser.begin())
        command.run(self.limit if suite_first else now + case.deadline, parser, tally.add)
        if case.report is not None:
            own.read_report(case.report, command.end)
        tally.add(parser.finish(command.end))
        self._capture_left -= command.stdout.kept + command.stderr.kept
        self.timed_out = self.timed_out or (command.end.timed_out and suite_first)
        self.errors += [f"{case.name}: {capture.error}" for capture in (command.stdout, command.stderr) if capture.error]
        deadline = f"the suite's deadline of {self.spec.deadline:g} s" if suite_first else f"its deadline of {case.deadline:g} s"
        attempt = judge_case(parser, tally, command, deadline, own.judgement())
        attempt.files, remarks = own.files()
        attempt.message = clipped([*([attempt.message] if attempt.message else []), *remarks])
        own.remove_if_empty()
        return attempt

    def output_of(self, case: Case) -> bytes:
        """The end of what a test printed."""
        return read_end(self._files_of(case).path / "stdout.log", OUTPUT_SHOWN)

    def _tell(self, case: Case, attempts: list[Attempt]) -> None:
        """Write the one event of a test."""
        last = attempts[-1]
        failed = [attempt for attempt in attempts if attempt.status in RED]
        status, message = last.status, last.message
        if failed and last.status == "pass":
            status, message = "flaky", failed[0].message
        elif failed and last.status not in RED:
            status, message = failed[-1].status, failed[-1].message  # a skip does not excuse a failure
        event = test_event(case.number, case.name, status, sum(attempt.duration for attempt in attempts), last.directive, message)
        if any(attempt.files for attempt in attempts) or self._files_of(case).has_logs(len(attempts)):
            event["logs"] = f"tests/{case.directory}"
        if last.files:
            event["files"] = last.files
        if len(attempts) > 1:
            event["attempts"] = [{**attempt.summary(), **({"files": attempt.files} if attempt.files else {})} for attempt in attempts]
        leftovers = [leftover for attempt in attempts for leftover in attempt.leftovers]
        if leftovers:
            event["leftovers"] = leftovers[:LEFTOVERS_KEPT]
        self._write(event)

    def _write(self, event: Event) -> None:
        excused = event["status"] == "not_run" and event["directive"] in ("requires", "denied")
        self._seen += 1
        self._red = self._red or event["status"] in RED or (event["status"] == "not_run" and not excused)
        self.log.write(event)

    def outcome(self) -> Event:
        """The runner has no exit status that a command gave it; this one is what a command would end with."""
        status = 1 if self._red else 0
        files = {"files": self.files} if self.files else {}
        return {
            "exit_status": status,
            "signal": None,
            "planned": self._planned,
            "seen": self._seen,
            "leftovers": self.leftovers,
            "tail": [],
            **files,
        }


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
        many = plan_cases(spec) if spec.tests else None
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
    suite = CommandSuite(spec, directory, log) if many is None else TestsSuite(spec, directory, log, *many)
    suite.execute()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
