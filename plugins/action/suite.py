# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action mayfly.virt.suite: start a suite in a guest, show its events as they come, keep what it left.

A round trip to an emulated guest costs a second and a Python there costs more, so a suite takes as few as it can: one
that carries everything over and starts the runner, one for each batch of news, and one that brings the output back, or
two if its tests have logs of their own.

The guest is not trusted. Its events are data, its text is stripped of control characters and of what starts a command of
a CI before it is shown, and of the archives it sends only the expected names are read, as plain files of bounded size.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import posixpath
import re
import secrets
import shlex
import tarfile
import time
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ansible import constants as C
from ansible.errors import AnsibleActionFail, AnsibleFileNotFound
from ansible.plugins.action import ActionBase
from ansible.plugins.connection import ConnectionBase
from ansible.utils.display import Display

from ansible_collections.mayfly.virt.plugins.module_utils import _events
from ansible_collections.mayfly.virt.plugins.module_utils._errors import InvalidInput
from ansible_collections.mayfly.virt.plugins.module_utils._scrub import Pattern, job_patterns, scrub_bytes, scrub_text
from ansible_collections.mayfly.virt.plugins.plugin_utils import _suites
from ansible_collections.mayfly.virt.plugins.plugin_utils._contact import MARK, ContactFailed, printable, run_once
from ansible_collections.mayfly.virt.plugins.plugin_utils._sightings import Sightings, told

RUNNER = _suites.RUNNER

POLL = 20  # seconds the guest waits for news before it answers that there is none
FETCH = 60  # seconds the guest may take to pack its output
POLL_INTERVAL = 0.5  # news that come faster are shown together: each poll costs the guest processor time
RETRY_PAUSE = 1.0
CHUNK = 1024 * 1024  # of events in one answer
EVENTS_LIMIT = 64 * 1024 * 1024
LOGS = ("stdout.log", "stderr.log", "runner.log")
TEST_LOGS = ("stdout.log", "stderr.log")
# What no kept file may be called, for it lies where the results of the suite or of the test do.
TAKEN = re.compile(r"stdout\.log|stderr\.log|runner\.log|events\.jsonl|tests|attempt-\d+")
LOG_LIMIT = 17 * 1024 * 1024  # the runner's own limit and its note
TEST_FILE_LIMIT = 17 * 1024 * 1024  # of one log or file of one test: the runner's own limit and its note,
TEST_LOGS_LIMIT = 128 * 1024 * 1024  # of all of them,
TEST_FILES_LIMIT = 20_000  # and how many they may be
PLAIN_LIMIT = 1024 * 1024  # larger files of a test are kept packed
ARCHIVE_LIMIT = 32 * 1024 * 1024  # packed, as it comes from the guest
SLACK = 30  # beyond the deadline: the runner ends its processes and writes down how
NAME_SHOWN = 120
DIAGNOSTICS_SHOWN = 3
NOT_RUN_SHOWN = 20
NAMES_KEPT = 1000
COMPLAINTS_SHOWN = 10

RUNNER_GONE = 90
REBOOTED = 91

PARSERS = ["tap", "ktap", "gtest", "unittest", "cargo", "bpftrace", "test_progs", "junit", "avocado", "exit_code"]

NEEDS: dict[str, Any] = {
    "type": "dict",
    "options": {
        "kernel": {"type": "str"},
        "config": {"type": "list", "elements": "str"},
        "btf": {"type": "bool"},
        "kvm": {"type": "bool"},
        "devices": {"type": "list", "elements": "str"},
        "memory_mib": {"type": "int"},
        "commands": {"type": "list", "elements": "str"},
        "probes": {
            "type": "list",
            "elements": "dict",
            "options": {"name": {"type": "str", "required": True}, "command": {"type": "str", "required": True}},
        },
    },
}
TESTS: dict[str, Any] = {
    "type": "list",
    "elements": "dict",
    "options": {
        "name": {"type": "str"},
        "command": {"type": "str"},
        "argv": {"type": "list", "elements": "str"},
        "glob": {"type": "str"},
        "list": {"type": "str"},
        "parser": {"type": "str", "choices": PARSERS, "default": "exit_code"},
        "report": {"type": "str"},
        "deadline": {"type": "int"},
        "requires": NEEDS,
    },
}
DENY: dict[str, Any] = {
    "type": "list",
    "elements": "dict",
    "options": {"test": {"type": "str", "required": True}, "reason": {"type": "str", "required": True}},
}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "name": {"type": "str", "required": True},
    "command": {"type": "str"},
    "argv": {"type": "list", "elements": "str"},
    "tests": TESTS,
    "parser": {"type": "str", "choices": [*PARSERS, _suites.TESTS_PARSER]},
    "report": {"type": "str"},
    "deadline": {"type": "int", "default": _suites.DEADLINE},
    "deadline_factor": {"type": "float", "default": 1.0},
    "requires": NEEDS,
    "fail_fast": {"type": "bool", "default": False},
    "retries": {"type": "int", "default": 0},
    "shard": {"type": "str"},
    "select": {"type": "list", "elements": "str"},
    "deny": DENY,
    "harness": {"type": "str", "choices": ["builtin", "avocado"], "default": "builtin"},
    "environment": {"type": "dict", "default": {}},
    "chdir": {"type": "str"},
    "source": {"type": "str"},
    "results": {"type": "path", "required": True},
    "guest": {"type": "str"},
    "remote_dir": {"type": "str", "default": "/var/lib/mayfly-suite"},
    "python": {"type": "str"},
    "lost_after": {"type": "int", "default": 60},
    "watch": {"type": "dict", "options": {"path": {"type": "str", "required": True}, "host": {"type": "str", "default": ""}}},
    "fail_on_tests": {"type": "bool", "default": False},
    "secrets": {"type": "list", "elements": "str", "default": [], "no_log": True},
}

display = Display()


class SuiteBroken(Exception):
    """The suite has no true result; the message says why."""


class GuestLost(SuiteBroken):
    """The guest could not be reached again in time."""


class GuestStopped(SuiteBroken):
    """The watcher on the hypervisor saw that no suite of this guest can go on."""

    def __init__(self, event: dict[str, Any]) -> None:
        super().__init__(told(event))
        self.alive = event["event"] == "kernel" and not event["fatal"]


@dataclass(frozen=True)
class Request:
    """One suite on one guest, as the task asks for it."""

    suite: str
    guest: str
    spec: dict[str, Any]  # the runner's
    source: Path | None
    results: Path
    base: str  # directory in the guest, of this run alone
    python: str
    lost_after: int
    patterns: tuple[Pattern, ...] = ()  # the job's own secrets; common kinds are known anyway

    @property
    def parser(self) -> str:
        return str(self.spec["parser"])

    @property
    def deadline(self) -> float:
        return float(self.spec["deadline"])

    @property
    def logs(self) -> tuple[str, ...]:
        """Files of the suite as a whole; tests have their own, and what another harness prints is the suite's."""
        own = self.parser != _suites.TESTS_PARSER or self.spec.get("harness", "builtin") != "builtin"
        return LOGS if own else LOGS[2:]

    @property
    def label(self) -> str:
        return f"{self.suite}@{self.guest}"

    @property
    def directory(self) -> Path:
        return self.results / "suites" / self.suite / self.guest


# --- to the guest -----------------------------------------------------------------------------------------------


def pack(request: Request) -> bytes:
    """Return runner, specification and source as one compressed archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=3, format=tarfile.PAX_FORMAT) as archive:
        for name, content in (("runner.py", RUNNER.read_bytes()), ("spec.json", json.dumps(request.spec).encode("ascii"))):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        if request.source is None:
            work = tarfile.TarInfo("work")
            work.type, work.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(work)
        else:
            archive.add(request.source, arcname="work", filter=_owned_by_nobody_here)
    return buffer.getvalue()


def _owned_by_nobody_here(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Accounts of the controller mean nothing in the guest; sockets and devices are no source."""
    if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def start_command(request: Request) -> str:
    """Shell text that unpacks the archive on its standard input, starts the runner and prints its pid."""
    base = shlex.quote(request.base)
    return "\n".join(
        [
            "set -e; umask 022",
            f"mkdir -p {shlex.quote(posixpath.dirname(request.base))}",
            f"mkdir {base}",  # fails if it exists: nothing of an earlier run is taken for ours
            f"tar -xzf - --no-same-owner -C {base}",
            f"cd {base}",
            f"pid=$({shlex.quote(request.python)} runner.py start --spec spec.json --dir out)",
            "read -r boot < /proc/sys/kernel/random/boot_id",
            'echo "mayfly $pid $boot"',
        ]
    )


def poll_command(request: Request, runner: Runner, offset: int, wait: int) -> str:
    """Shell text that waits for events beyond the offset and prints them.

    tail sleeps until the file grows or the runner ends, so waiting costs the guest nothing. Whether the runner lives is
    looked up before the last read: when it is gone, that read has everything.
    """
    path = shlex.quote(posixpath.join(request.base, "out", "events.jsonl"))
    first = offset + 1
    return "\n".join(
        [
            f"timeout {wait} tail -c +{first} -f --pid={runner.pid} {path} 2>/dev/null | head -n 1 >/dev/null",
            "read -r boot < /proc/sys/kernel/random/boot_id",
            "r=0",
            f"[ -d /proc/{runner.pid} ] || r={RUNNER_GONE}",
            f'[ "$boot" = {runner.boot} ] || r={REBOOTED}',
            f"printf '%s\\n' {MARK.strip()}",
            f"tail -c +{first} {path} | head -c {CHUNK}",
            "exit $r",
        ]
    )


def fetch_command(request: Request, files: Sequence[str] = ()) -> str:
    """Shell text that prints the suite's output, and files that it announced, as one archive."""
    out = shlex.quote(posixpath.join(request.base, "out"))
    names = " ".join([*request.logs, *files])
    return f"printf '%s\\n' {MARK.strip()}; cd {out} && tar -czf - {names} 2>/dev/null | head -c {ARCHIVE_LIMIT}"


def fetch_tests_command(request: Request) -> str:
    """Shell text that prints the files named on its standard input as one archive. What is beyond the limit is not even packed."""
    out = shlex.quote(posixpath.join(request.base, "out"))
    pack = f"tar -cf - --no-recursion -T - 2>/dev/null | head -c {TEST_LOGS_LIMIT} | gzip -1"
    return f"printf '%s\\n' {MARK.strip()}; cd {out} && {pack} | head -c {ARCHIVE_LIMIT}"


@dataclass(frozen=True)
class Runner:
    """The runner in the guest."""

    pid: int
    boot: str


# --- from the guest ---------------------------------------------------------------------------------------------


def unpack(archive: bytes, expected: Collection[str], each: int, total: int) -> tuple[dict[str, bytes], list[str]]:
    """Return the files in an archive by name, and complaints. Anything but the expected plain files is left out."""
    files: dict[str, bytes] = {}
    plain, complaints = gunzip(archive, total)
    try:
        with tarfile.open(fileobj=io.BytesIO(plain), mode="r:") as tar:
            for member in tar:
                _unpack_member(tar, member, expected, each, files, complaints)
    except (OSError, EOFError, ValueError, tarfile.TarError) as error:
        complaints.append(f"the archive of the output cannot be read: {error}")
    if len(complaints) > COMPLAINTS_SHOWN:
        complaints[COMPLAINTS_SHOWN:] = [f"and {len(complaints) - COMPLAINTS_SHOWN} more complaints of the archive"]
    return files, complaints


def gunzip(archive: bytes, limit: int) -> tuple[bytes, list[str]]:
    """Return what can be had of a packed text up to a limit, for a small one may unpack to anything, and complaints."""
    unpacker = zlib.decompressobj(wbits=31)
    try:
        plain = unpacker.decompress(archive, limit)
    except zlib.error as error:
        return b"", [f"the archive of the output cannot be read: {error}"]
    if unpacker.unconsumed_tail:
        return plain, [f"the archive of the output unpacks to more than {limit} bytes; the rest is left out"]
    return plain, [] if unpacker.eof else [f"the archive of the output is cut after {len(archive)} bytes"]


def _unpack_member(
    tar: tarfile.TarFile, member: tarfile.TarInfo, expected: Collection[str], each: int, files: dict[str, bytes], complaints: list[str]
) -> None:
    if member.name not in expected or member.name in files or member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        complaints.append(f"left out {printable(member.name[:NAME_SHOWN])!r}: only plain files are taken that were expected, once each")
        return
    file = tar.extractfile(member)
    if file is not None:
        files[member.name] = file.read(each)
    if member.size > each:
        complaints.append(f"{member.name} was cut after {each} of {member.size} bytes")


class Announced:
    """The logs and files of tests, and those of the suite, as the runner's events announce them."""

    def __init__(self) -> None:
        self._red: dict[str, list[str]] = {}  # directory to the files that there are, or may be
        self._others: dict[str, list[str]] = {}
        self._kept: set[str] = set()
        self.of_suite: list[str] = []

    def add(self, event: dict[str, Any]) -> None:
        if event["event"] == "suite_end":
            self.of_suite = _plain(event["files"])
        elif event["event"] == "test" and event["logs"]:
            attempts = event["attempts"] or []
            of = self._red if attempts or _events.is_red(event) else self._others
            of[event["logs"]] = self._place(event["logs"], event["files"])
            for number, attempt in enumerate(attempts[:-1], start=1):  # the last one's are not put aside
                of[event["logs"]] += self._place(f"{event['logs']}/attempt-{number}", attempt.get("files"))

    def _place(self, place: str, kept: list[str] | None) -> list[str]:
        kept = [f"{place}/{name}" for name in _plain(kept)]
        self._kept.update(kept)
        return [*(f"{place}/{name}" for name in TEST_LOGS), *kept]

    def files(self) -> list[str]:
        """The names of the files there may be. Those of tests that failed come first, for there is a limit."""
        return [name for files in [*self._red.values(), *self._others.values()] for name in files]

    def missing(self, fetched: Collection[str]) -> list[str]:
        """Complaints of what did not come: a file that was announced, or every log of a test."""
        lost = sorted(self._kept.difference(fetched))
        silent = [where for where, files in [*self._red.items(), *self._others.items()] if not any(name in fetched for name in files)]
        complaints = [f"not fetched: {', '.join(lost[:3])}{f' and {len(lost) - 3} more files' if len(lost) > 3 else ''}"] if lost else []
        if silent:
            complaints.append(f"no log was fetched of {len(silent)} tests, first {', '.join(silent[:3])}")
        return complaints


def _plain(names: list[str] | None) -> list[str]:
    """Names of kept files, each once, and none that would take the place of something else."""
    return [name for name in dict.fromkeys(names or []) if TAKEN.fullmatch(name) is None]


def stored(name: str, content: bytes, taken: Collection[str]) -> tuple[str, bytes]:
    """How a file of a test is kept: packed if it is large."""
    if len(content) <= PLAIN_LIMIT or f"{name}.gz" in taken:
        return name, content
    return f"{name}.gz", gzip.compress(content, compresslevel=6, mtime=0)


class EventStream:
    """Events as they arrive: kept in a file on the controller, secrets taken out, and handed out one by one."""

    def __init__(self, file: BinaryIO, patterns: Sequence[Pattern] = ()) -> None:
        self._file = file
        self._patterns = patterns
        self._rest = b""
        self.offset = 0
        self.ended = False

    def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
        self.offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            try:
                event = _events.parse_event(line.decode("utf-8"))
            except ValueError as error:  # it is in the file, where the verdict will find it
                self._write(scrub_bytes(line, self._patterns)[0])
                event = {"event": "unreadable", "error": scrub_text(str(error), self._patterns)[0]}
            else:
                clean = scrubbed_event(event, self._patterns)
                self._write(line if clean == event else json.dumps(clean).encode("ascii"))
                event = clean
            self.ended = self.ended or event["event"] == "suite_end"
            yield event

    def close(self) -> None:
        """Keep a line that never ended, too: the verdict shall see that it is torn."""
        self._file.write(scrub_bytes(self._rest, self._patterns)[0])
        self._file.flush()
        self._rest = b""

    def _write(self, line: bytes) -> None:
        self._file.write(line + b"\n")
        self._file.flush()


# What is a word of the contract, or a path, and not a guest's text.
_NO_TEXT = frozenset({"event", "suite", "parser", "status", "directive", "signal", "logs", "runner", "isolation"})


def scrubbed_event(event: dict[str, Any], patterns: Sequence[Pattern]) -> dict[str, Any]:
    """Return the event without secrets in its texts."""

    def scrubbed(value: Any) -> Any:
        if isinstance(value, str):
            return scrub_text(value, patterns)[0]
        if isinstance(value, list):
            return [scrubbed(item) for item in value]
        if isinstance(value, dict):
            return {key: item if key in _NO_TEXT else scrubbed(item) for key, item in value.items()}
        return value

    return dict(scrubbed(event))


# --- what a person sees -----------------------------------------------------------------------------------------

COLOURS = {
    "pass": C.COLOR_OK,
    "skip": C.COLOR_SKIP,
    "known": C.COLOR_SKIP,
    "xpass": C.COLOR_CHANGED,
    "flaky": C.COLOR_CHANGED,
}


def fold(label: str, environment: Mapping[str, str], now: float) -> tuple[str, str] | None:
    """Lines that begin and end a section which the CI's log can fold, or None where it knows of none."""
    if environment.get("GITLAB_CI"):
        name = "mayfly_" + re.sub(r"[^A-Za-z0-9_.-]", "_", label)
        return f"\x1b[0Ksection_start:{now:.0f}:{name}\r\x1b[0K{label}", f"\x1b[0Ksection_end:{now:.0f}:{name}\r\x1b[0K"
    if environment.get("GITHUB_ACTIONS"):
        return f"::group::{label}", "::endgroup::"
    return None


class Screen:
    """Turns events into lines."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.seen = 0
        self.planned: int | None = None
        self._not_run = 0
        self._red: dict[int, str] = {}  # names of failed tests, of which details may come

    def lines(self, event: dict[str, Any]) -> Iterator[tuple[str, str | None]]:
        """Yield the lines of one event, each with its colour."""
        kind = event["event"]
        if kind == "plan":
            yield from self._plan(event)
        elif kind == "test":
            self.seen += 1
            yield from self._not_run_test(event) if event["status"] == "not_run" else self._test(event)
        elif kind == "attempt":
            text = f"{event['name'][:NAME_SHOWN]} \u2026 {event['status'].upper()} {event['duration']:.1f} s, to be tried again"
            yield self._line(text), C.COLOR_CHANGED
            yield from self._diagnostics(event["message"], C.COLOR_CHANGED)
        elif kind == "detail" and event["number"] in self._red:
            yield self._line(f"details of {self._red[event['number']]}"), C.COLOR_ERROR
            yield from self._diagnostics(event["message"], C.COLOR_ERROR)
        elif kind == "bail_out":
            yield self._line(f"bail out: {event['reason']}"), C.COLOR_ERROR
        elif kind == "suite_end":
            yield from self._end(event)
        elif kind == "unreadable":
            yield self._line(f"unreadable event: {event['error']}"), C.COLOR_ERROR

    def _line(self, text: str) -> str:
        return f"  {self.label}  {printable(text)}"

    def _plan(self, event: dict[str, Any]) -> Iterator[tuple[str, str | None]]:
        self.planned = event["count"]
        if self.planned == 0:
            yield self._line(f"skipped: {event['reason'] or 'no reason given'}"), C.COLOR_SKIP
        elif event["reason"]:
            yield self._line(event["reason"]), C.COLOR_WARN

    def _place(self, event: dict[str, Any]) -> str:
        plan = "" if self.planned is None else f"/{self.planned}"
        return f"{self.seen}{plan} {event['name'][:NAME_SHOWN] or 'test ' + str(event['number'])} \u2026"

    def _test(self, event: dict[str, Any]) -> Iterator[tuple[str, str | None]]:
        status = event["status"]
        colour = COLOURS.get(status, C.COLOR_ERROR)
        yield self._line(f"{self._place(event)} {status.upper()} {event['duration']:.1f} s"), colour
        for leftover in (event.get("leftovers") or [])[:DIAGNOSTICS_SHOWN]:
            yield self._line(f"    left behind: {leftover[:NAME_SHOWN]}"), C.COLOR_WARN
        if status in _events.RED_STATUSES:
            if len(self._red) < NAMES_KEPT:
                self._red[event["number"]] = event["name"][:NAME_SHOWN]
            yield from self._diagnostics(event["message"], colour)

    def _not_run_test(self, event: dict[str, Any]) -> Iterator[tuple[str, str | None]]:
        """One line at most for each, for there may be thousands."""
        self._not_run += 1
        if self._not_run <= NOT_RUN_SHOWN:
            why = (event["message"] or "no reason given").split("\n")[0][:NAME_SHOWN]
            colour = C.COLOR_SKIP if _events.is_excused(event) else C.COLOR_ERROR
            yield self._line(f"{self._place(event)} NOT RUN ({event['directive'] or 'no word'}: {why})"), colour

    def _diagnostics(self, message: str | None, colour: str | None) -> Iterator[tuple[str, str | None]]:
        for diagnostic in _events.diagnostics(message)[:DIAGNOSTICS_SHOWN]:
            yield self._line(f"    {diagnostic[:NAME_SHOWN]}"), colour

    def _end(self, event: dict[str, Any]) -> Iterator[tuple[str, str | None]]:
        if self._not_run > NOT_RUN_SHOWN:
            yield self._line(f"and {self._not_run - NOT_RUN_SHOWN} more not run"), C.COLOR_SKIP
        if event["timed_out"]:
            how = "stopped at its deadline"
        elif event["error"]:
            how = f"error: {event['error']}"
        elif event["signal"]:
            how = f"ended by {event['signal']}"
        else:
            how = f"ended with exit status {event['exit_status']}"
        good = not event["timed_out"] and not event["error"] and event["exit_status"] == 0
        text = f"{how}, {self.seen} tests seen, {event['duration']:.1f} s"
        yield self._line(text), None if good else C.COLOR_ERROR


# --- the connection ---------------------------------------------------------------------------------------------


class Contact:
    """Runs commands in the guest, patient with a connection that breaks."""

    def __init__(self, action: ActionModule, lost_after: int, sightings: Sightings | None = None) -> None:
        self._action = action
        self._lost_after = lost_after
        self._sightings = sightings

    def stopped(self) -> SuiteBroken | None:
        """Return why no suite of this guest can go on, as the watcher on the hypervisor sees it."""
        try:
            event = self._sightings.end() if self._sightings else None
        except ValueError as error:
            return SuiteBroken(f"what the watcher on the hypervisor wrote cannot be read: {error}")
        return GuestStopped(event) if event else None

    def forget_sightings(self) -> None:
        """Go on although no suite can: the guest may still hand over what it has."""
        self._sightings = None

    def once(self, command: str, data: bytes, limit: float) -> tuple[int, bytes, str]:
        """Run a command; return its exit status, output and error text."""
        return run_once(self._action.execute, command, data, limit, self.stopped)

    def ask(self, command: str, wait: float, data: bytes = b"\n") -> tuple[int, bytes, str]:
        """Run a command that may take 'wait' seconds and may be run again; return its status, output after the mark, errors."""
        began = time.monotonic()
        limit = wait + self._lost_after / 2
        silent_since = None
        while True:
            try:
                status, output, errors = self.once(command, data, limit)
                _noise, mark, output = output.partition(MARK.encode())
                if not mark:
                    raise ContactFailed(f"the answer is not ours: {errors.strip()[:500]}")
            except ContactFailed as error:
                now = time.monotonic()
                silent_since = min(now, began + wait) if silent_since is None else silent_since
                limit = silent_since + self._lost_after - now
                if limit <= 0:
                    raise GuestLost(f"guest lost: not reached for {self._lost_after} s; last error: {error}") from error
                self._action.reset_connection()
                time.sleep(min(RETRY_PAUSE, limit))  # a refused connection fails at once; do not storm the guest
                limit += wait
                continue
            return status, output, errors


# --- the action -------------------------------------------------------------------------------------------------


class ActionModule(ActionBase):
    """Run a suite in a guest."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        _validated, options = self.validate_argument_spec(
            argument_spec=ARGUMENTS,
            mutually_exclusive=[["command", "argv", "tests"]],
            required_one_of=[["command", "argv", "tests"]],
        )
        request = self._request(options, task_vars or {})
        self._check_connection()
        result.update(changed=True, suite=request.suite, guest=request.guest)
        if self._task.check_mode:
            return {**result, "msg": "The suite was not run, because this is check mode."}
        with (
            self._open_events(request) as file,
            self._section(request, task_vars or {}),
            self._sightings(options["watch"], request.guest) as sightings,
            contextlib.closing(EventStream(file, request.patterns)) as events,
        ):
            broken = self._run_suite(request, Contact(self, request.lost_after, sightings), events)
        result.update(self._outcome(request))
        if broken is not None:
            result.update(failed=True, status="error", msg=f"Could not run the suite '{request.label}': {broken}.")
        elif options["fail_on_tests"] and result["status"] not in ("passed", "skipped"):
            result.update(failed=True, msg=f"The suite '{request.label}' ended with status {result['status']}.")
        return result

    def execute(self, command: str, data: bytes) -> dict[str, Any]:
        """Run shell text in the guest with data on its standard input."""
        return self._low_level_execute_command(command, in_data=data, encoding_errors="surrogateescape")

    def reset_connection(self) -> None:
        """Forget a connection that no longer answers, so that the next attempt makes a new one."""
        if type(self._connection).reset is not ConnectionBase.reset:
            self._connection.reset()

    def _request(self, options: dict[str, Any], task_vars: dict[str, Any]) -> Request:
        """Turn the task's options into a request; refuse what cannot work."""
        guest = options["guest"] or task_vars["inventory_hostname"]
        for option, name in (("name", options["name"]), ("guest", guest)):
            if not _events.NAME.fullmatch(name):
                raise AnsibleActionFail(
                    f"The {option} '{name}' is refused: it becomes a directory, so it must match {_events.NAME.pattern}."
                )
        for option in ("deadline", "lost_after"):
            if options[option] <= 0:
                raise AnsibleActionFail(f"The {option} {options[option]} is refused: it must be a positive number of seconds.")
        if not options["remote_dir"].startswith("/"):
            raise AnsibleActionFail(f"The remote_dir '{options['remote_dir']}' is refused: it must be an absolute path.")
        base = posixpath.join(options["remote_dir"], f"{options['name']}-{secrets.token_hex(4)}")
        try:
            _suites.check(options)
            patterns = tuple(job_patterns(options["secrets"]))
            spec = _suites.specification(options, posixpath.join(base, "work", options["chdir"] or ""), options["deadline_factor"])
        except InvalidInput as error:
            raise AnsibleActionFail(str(error)) from error
        return Request(
            suite=str(options["name"]),
            guest=str(guest),
            spec=spec,
            source=self._source(options["source"]),
            results=Path(self._loader.path_dwim(options["results"])),
            base=base,
            python=options["python"] or self._guest_python(task_vars),
            lost_after=options["lost_after"],
            patterns=patterns,
        )

    @contextlib.contextmanager
    def _sightings(self, watch: dict[str, Any] | None, guest: str) -> Iterator[Sightings | None]:
        if watch is None:
            yield None
            return
        with contextlib.closing(Sightings(watch["path"], watch["host"], guest)) as sightings:
            yield sightings
            if sightings.lost():
                display.warning(
                    f"What the watcher on the hypervisor saw of {guest} was not followed to the end, because ssh ended; a dead kernel "
                    f"would have been noticed late. Plain 'ssh {watch['host']}' must work without a password."
                )

    def _source(self, source: str | None) -> Path | None:
        if source is None:
            return None
        try:
            path = Path(self._find_needle("files", source))
        except AnsibleFileNotFound:
            # Without its cause, which lists each path that Ansible tried.
            raise AnsibleActionFail(
                f"The source '{source}' does not exist on the controller; a relative one is looked for in files/ of role and play, "
                "and that of a job relative to the working directory of ansible-playbook."
            ) from None
        if not path.is_dir():
            raise AnsibleActionFail(f"The source '{path}' is no directory.")
        return path

    def _guest_python(self, task_vars: dict[str, Any]) -> str:
        configured = str(self._templar.template(task_vars.get("ansible_python_interpreter")) or "auto")
        return "/usr/bin/python3" if configured.startswith("auto") else configured

    def _check_connection(self) -> None:
        if not self._connection.has_pipelining:
            raise AnsibleActionFail(
                f"The connection plugin '{self._connection.transport}' cannot send data to a command. Use ssh or local."
            )

    def _open_events(self, request: Request) -> BinaryIO:
        """Create the event file; a result that is there already is never overwritten or added to."""
        path = request.directory / "events.jsonl"
        try:
            request.directory.mkdir(parents=True, exist_ok=True)
            return path.open("xb")
        except FileExistsError as error:
            raise AnsibleActionFail(
                f"The suite '{request.label}' has a result already in '{path}'. Use the results directory of a new run."
            ) from error
        except OSError as error:
            raise AnsibleActionFail(f"Could not make the event file '{path}': {error.strerror}.") from error

    @contextlib.contextmanager
    def _section(self, request: Request, task_vars: dict[str, Any]) -> Iterator[None]:
        """Fold the suite's lines where the CI can. Those of several guests at a time come mixed, and are left as they are."""
        alone = len(task_vars.get("ansible_play_hosts") or []) == 1
        marks = fold(request.label, os.environ, time.time()) if alone and not self._task.no_log else None
        if marks is None:
            yield
            return
        display.display(marks[0])
        try:
            yield
        finally:
            display.display((fold(request.label, os.environ, time.time()) or marks)[1])

    def _run_suite(self, request: Request, contact: Contact, events: EventStream) -> str | None:
        """Run the suite from start to fetched output; return why it has no true result, or None."""
        broken, announced = None, Announced()
        try:
            stopped = contact.stopped()
            if stopped is not None:
                raise stopped
            runner = self._start(request, contact)
        except (ContactFailed, SuiteBroken) as error:
            return f"it cannot be started: {error}"
        try:
            self._follow(request, contact, runner, events, announced)
        except GuestLost as error:
            return str(error)
        except GuestStopped as error:
            display.display(f"  {request.label}  {printable(str(error))[:500]}", color=C.COLOR_ERROR)
            if not error.alive:
                return str(error)
            contact.forget_sightings()
            broken = str(error)
        except SuiteBroken as error:
            broken = str(error)
        try:
            self._fetch(request, contact, announced)
            self._fetch_tests(request, contact, announced)
        except SuiteBroken as error:
            display.warning(f"{request.label}: the output was not fetched: {error}")
        return broken

    def _start(self, request: Request, contact: Contact) -> Runner:
        payload = pack(request)
        limit = POLL + request.lost_after + len(payload) / 100_000  # a slow guest takes 100 kB a second
        status, output, errors = contact.once(start_command(request), payload, limit)
        found = re.search(rb"^mayfly (\d+) ([0-9a-f-]{36})\s*$", output, re.MULTILINE)
        if status != 0 or found is None:
            raise SuiteBroken(f"exit status {status}: {printable(errors.strip())[:1000] or 'no message'}")
        return Runner(int(found[1]), found[2].decode())

    def _follow(self, request: Request, contact: Contact, runner: Runner, events: EventStream, announced: Announced) -> None:
        """Show events until suite_end; raise SuiteBroken if it cannot come any more."""
        screen = Screen(request.label)
        limit = time.monotonic() + request.deadline + SLACK + request.lost_after
        while not events.ended:
            asked = time.monotonic()
            if asked > limit:
                raise SuiteBroken(f"the runner did not end the suite {request.deadline:.0f} s after its start, nor soon after")
            status, output, errors = contact.ask(poll_command(request, runner, events.offset, POLL), POLL)
            for event in events.feed(output):
                announced.add(event)
                self._show(screen, event)
            if events.ended:
                return
            if events.offset > EVENTS_LIMIT:
                raise SuiteBroken(f"the suite made more than {EVENTS_LIMIT} bytes of events")
            if status != 0 and len(output) < CHUNK:
                raise SuiteBroken(_why_gone(status, errors))
            time.sleep(max(0.0, asked + POLL_INTERVAL - time.monotonic()))

    def _show(self, screen: Screen, event: dict[str, Any]) -> None:
        if not self._task.no_log:
            for text, colour in screen.lines(event):
                display.display(text, color=colour)

    def _fetch(self, request: Request, contact: Contact, announced: Announced) -> None:
        """Bring the suite's output to the controller."""
        names = [*request.logs, *announced.of_suite]
        _status, output, _errors = contact.ask(fetch_command(request, announced.of_suite), FETCH)
        total = min(TEST_LOGS_LIMIT, len(names) * (LOG_LIMIT + 64 * 1024))
        logs, complaints = unpack(output, names, LOG_LIMIT, total)
        missing = [name for name in names if name not in logs]
        if missing:
            complaints.append(f"not fetched: {', '.join(missing)}")
        self._keep(request, logs, complaints)

    def _fetch_tests(self, request: Request, contact: Contact, announced: Announced) -> None:
        """Bring the logs and files that tests have of their own."""
        names = announced.files()
        if not names:
            return
        asked = names[:TEST_FILES_LIMIT]
        command = fetch_tests_command(request)
        _status, output, _errors = contact.ask(command, FETCH, "".join(f"{name}\n" for name in asked).encode("ascii"))
        files, complaints = unpack(output, frozenset(asked), TEST_FILE_LIMIT, TEST_LOGS_LIMIT)
        self._keep(request, files, [*complaints, *announced.missing(files)], packed=True)

    def _keep(self, request: Request, files: dict[str, bytes], complaints: list[str], packed: bool = False) -> None:
        for name, content in files.items():
            content = scrub_bytes(content, request.patterns)[0]
            name, content = stored(name, content, files) if packed else (name, content)
            path = request.directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        for complaint in complaints:
            display.warning(f"{request.label}: {complaint}")

    def _outcome(self, request: Request) -> dict[str, Any]:
        """Judge the events as the verdict will."""
        path = request.directory / "events.jsonl"
        text = path.read_text("utf-8", "replace")
        if not text:
            path.unlink()  # nothing was heard of the suite, so another attempt may begin here
        judged = _events.judge_suite(request.suite, request.guest, text or None, request.parser)
        names = ("status", "counts", "planned", "seen", "exit_status", "timed_out", "errors")
        failed = [test for test in _events.failed_tests([judged]) if test["status"] != "not_run"]
        return {
            **{name: judged[name] for name in names},
            "events": str(path),
            "failed_tests": [
                {"number": test["number"], "name": test["name"], "message": (test["message"] or "")[:2000]} for test in failed[:100]
            ],
        }


def _why_gone(status: int, errors: str) -> str:
    if status == RUNNER_GONE:
        return "the runner in the guest went away without ending the suite"
    if status == REBOOTED:
        return "the guest was booted again while the suite ran"
    return f"the guest answered with exit status {status}: {printable(errors.strip())[:500]}"
