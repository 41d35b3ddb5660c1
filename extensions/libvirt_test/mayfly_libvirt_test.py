# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run one test against this machine's own libvirt, watch the daemons around it, and leave libvirt as it was.

    mayfly_libvirt_test.py run [--deadline S] [--name N] [--dir D] -- COMMAND...
                                      one test; exit status and standard output are the command's
    mayfly_libvirt_test.py purge      remove what has the prefix of tests, and say what
    mayfly_libvirt_test.py list --needs needs.json [--output F]
                                      the scripts of libvirt-TCK that are found, as a list of tests
    mayfly_libvirt_test.py check [--wait S]
                                      does libvirt answer, and is it this machine's own

The configuration is a JSON object in --config (default /etc/mayfly/libvirt-test.json), with the objects of libvirt-test.d/*.json
beside it laid on top, key by key. See CONFIG_KEYS.

What `run` does, in this order:

* It takes a lock: two tests at one libvirt disturb each other. What a killed run left (processes, raised log filters, leftovers in
  libvirt) is put right first; it is no fault of this test.
* It notes the place in each daemon's log and in QEMU's logs, and the daemons' processes.
* In a second attempt (MAYFLY_ATTEMPT) the daemons' log filters are raised to deep_filters, and put back when the test has ended.
* The command runs in a session of its own. At its deadline its processes are looked at and the daemons are asked whether they still
  work; then it gets TERM, and KILL after some seconds. What it leaves running is ended too, also what left the session.
* A daemon that does not answer is told apart from a test that is slow. It is looked at (backtraces of all threads), killed and
  started again. A daemon that died gets its core dump explained.
* What has the prefix of tests and is still there is removed from libvirt, and named.
* The daemons' lines of this test, QEMU's logs and what else was found are kept if the test is red, or always (keep_logs).

What is kept goes to MAYFLY_TEST_DIR, else AVOCADO_TEST_OUTPUTDIR, else --dir: <daemon>.log, purge-<daemon>.log, qemu-<domain>.log,
backtrace-<daemon>.txt, core-<daemon>.txt, libvirt.json, and judgement.json with what makes the test worse than it says:
{"status": "error" | "timeout" | "daemon_hang", "message": [lines]}. Whatever cannot be done here is such an error, never silence.
A "Bail out!" line is added to the output where its TAP would lie: the command failed without a "not ok".
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import fnmatch
import glob
import json
import os
import re
import resource
import selectors
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

CONFIG = Path("/etc/mayfly/libvirt-test.json")
STATE = Path("/run/mayfly/libvirt-test")
SOCKETS = Path("/run/libvirt")
SYSTEMD = Path("/run/systemd/system")
CORES = Path("/var/lib/systemd/coredump")
MARKER = "MAYFLY_LIBVIRT_TEST"  # in the environment of a test's processes

# All in seconds, for a machine with KVM; the configured factor stretches them.
GRACE = 5.0  # between TERM and KILL, and for what is left after KILL
STOP_GRACE = 1.0
ENDING = 0.2  # what goes away by itself after its command is not left behind
DRAIN = 1.0
VIRSH_LIMIT = 60.0  # for removing leftovers
BACKTRACE_LIMIT = 60.0
CORE_LIMIT = 60.0
RESTART_LIMIT = 30.0
AFTERMATH = 180.0  # what a listed test may take beyond its own deadline: a daemon is looked at, killed and started again

TICK = 0.02  # by which the time of a file may be behind the clock

SLICE_LIMIT = 8 * 1024 * 1024  # of one log; the first and the last half are kept
PURGE_SLICE_LIMIT = 1024 * 1024
EXEC_PATIENCE = 1.0  # seconds for a process that becomes another program
TEXT_LIMIT = 4 * 1024 * 1024  # of a backtrace
QEMU_LOGS = 16
FINGERPRINT = 256
SHOWN = 20
SCRATCH_ROOM = 1024 * 1024 * 1024

Event = dict[str, Any]


class WrapperError(Exception):
    """It cannot be done as asked; the message says what, why, and what to do."""


# --- configuration ----------------------------------------------------------------------------------------------

CONFIG_KEYS = {
    "uri": str,  # local, no transport
    "daemons": list,  # of objects: see DAEMON_KEYS
    "qemu_logs": str,  # directory
    "purge_prefix": str,  # what begins so is a test's; without it nothing is removed (default: tck if there is a tck, else none)
    "keep_logs": str,  # on_failure or always
    "answer_seconds": (int, float),  # after which a daemon counts as not answering
    "factor": (int, float),  # stretches all time limits
    "deep_filters": str,  # libvirt's log filters for a second attempt, "" for none
    "scratch": str,  # directory in which volumes may be deleted
    "tck": dict,  # see TCK_KEYS
}
DAEMON_KEYS = {"name": str, "log": str, "unit": str, "sockets": list, "admin": str, "active": bool}
TCK_KEYS = {"tests": str, "perl_lib": list, "config": str, "environment": dict}
KEEP = ("on_failure", "always")
PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{2,}$")
URI = re.compile(r"([a-z][a-z0-9+.-]*)://([^/?#]*)(/[^?#]*)?([?#].*)?")
DAEMON_NAME = re.compile(r"(libvirtd|virt[a-z]+d)$")


@dataclass(frozen=True)
class Daemon:
    """One of libvirt's daemons."""

    name: str
    log: str
    unit: str
    sockets: tuple[str, ...] = ()  # systemd units
    admin: str = ""  # URI for virt-admin
    active: bool = True

    @property
    def socket(self) -> Path:
        return SOCKETS / ("libvirt-sock" if self.name == "libvirtd" else f"{self.name}-sock")


@dataclass(frozen=True)
class Tck:
    """Where libvirt-TCK is."""

    tests: str
    perl_lib: tuple[str, ...] = ()
    config: str = ""
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Config:
    """What the roles wrote."""

    uri: str
    daemons: tuple[Daemon, ...]
    qemu_logs: str = "/var/log/libvirt/qemu"
    purge_prefix: str = ""
    keep_logs: str = "on_failure"
    answer_seconds: float = 10
    factor: float = 1
    deep_filters: str = ""
    scratch: str = ""
    tck: Tck | None = None

    @property
    def active(self) -> tuple[Daemon, ...]:
        return tuple(daemon for daemon in self.daemons if daemon.active)

    @property
    def answer_limit(self) -> float:
        return self.answer_seconds * self.factor


def load_config(path: Path) -> Config:
    """Read the configuration and what is laid on top of it."""
    directory = path.with_suffix(".d")
    merged: dict[str, Any] = {}
    try:
        for part in [path, *sorted(directory.glob("*.json"))]:
            raw = json.loads(part.read_text(encoding="utf-8"))
            if not isinstance(raw, dict):
                raise WrapperError(f"the configuration '{part}' is not a JSON object")
            merged.update(raw)
    except FileNotFoundError as error:
        raise WrapperError(f"there is no configuration '{path}'; the role libvirt_under_test writes it") from error
    except (OSError, ValueError) as error:
        raise WrapperError(f"cannot read the configuration '{part}': {error}") from error
    try:
        return read_config(merged)
    except WrapperError as error:
        raise WrapperError(f"the configuration '{path}' {error}") from error


def read_config(raw: dict[str, Any]) -> Config:
    """Check it; a WrapperError names the key that is wrong."""
    _check_keys(raw, CONFIG_KEYS, "has")
    for key in ("uri", "daemons"):
        if not raw.get(key):
            raise WrapperError(f"needs '{key}'")
    daemons = []
    for index, entry in enumerate(raw["daemons"]):
        where = f"daemons[{index}]"
        if not isinstance(entry, dict):
            raise WrapperError(f"needs '{where}' as an object, not {entry!r}")
        _check_keys(entry, DAEMON_KEYS, f"has in {where}")
        if not DAEMON_NAME.match(entry.get("name", "")) or not entry.get("log", "").startswith("/"):
            raise WrapperError(f"needs in {where} 'name' as a daemon of libvirt and 'log' as an absolute path, not {entry!r}")
        unit = entry.get("unit", f"{entry['name']}.service")
        admin = entry.get("admin", f"{entry['name']}:///system")
        daemons.append(Daemon(**{**entry, "unit": unit, "admin": admin, "sockets": tuple(entry.get("sockets", ()))}))
    tck = raw.get("tck")
    if tck is not None:
        _check_keys(tck, TCK_KEYS, "has in tck")
        if not tck.get("tests", "").startswith("/"):
            raise WrapperError("needs in tck 'tests' as an absolute path")
        tck = Tck(**{**tck, "perl_lib": tuple(tck.get("perl_lib", ()))})
    # libvirt-tck begins all its names so.
    config = Config(**{"purge_prefix": "tck" if tck is not None else "", **raw, "daemons": tuple(daemons), "tck": tck})
    if config.keep_logs not in KEEP:
        raise WrapperError(f"needs 'keep_logs' as {' or '.join(KEEP)}, not {config.keep_logs!r}")
    if config.answer_seconds <= 0 or config.factor <= 0:
        raise WrapperError("needs 'answer_seconds' and 'factor' as positive numbers")
    if config.purge_prefix and not PREFIX.match(config.purge_prefix):
        raise WrapperError(f"needs 'purge_prefix' as at least three letters, digits, '-' or '_', not {config.purge_prefix!r}")
    if not config.active:
        raise WrapperError("has no daemon that is active")
    return config


def _check_keys(raw: dict[str, Any], known: dict[str, Any], has: str) -> None:
    for key, value in raw.items():
        if key not in known:
            raise WrapperError(f"{has} an unknown key '{key}'; known are {', '.join(known)}")
        kind = known[key]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            wanted = kind.__name__ if isinstance(kind, type) else "number"
            raise WrapperError(f"{has} '{key}' as {value!r}; it must be a {wanted}")


def own_uri(uri: str) -> None:
    """Refuse whatever is not, or may not be, this machine's own libvirt."""
    parts = URI.fullmatch(uri)
    if parts is None:
        raise WrapperError(f"cannot read the URI '{uri}'; it must be one such as qemu:///system")
    scheme, host, path, query = parts.groups()
    why = None
    if host:
        why = f"it names the host '{host}'"
    elif "+" in scheme:
        why = f"it names the transport '{scheme.partition('+')[2]}'"
    elif query:
        why = f"'{query}' may lead elsewhere"
    elif path not in ("/system", "/"):
        why = "it does not name a system daemon"
    if why:
        raise WrapperError(f"refusing to test '{uri}': {why}. Tests only run against the guest's own libvirt, such as qemu:///system")


# --- programs and processes -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Done:
    """How a program ended; status is None if it was killed at its time limit."""

    status: int | None
    out: str = ""
    err: str = ""

    @property
    def ok(self) -> bool:
        return self.status == 0

    def why(self) -> str:
        if self.status is None:
            return "no answer in time"
        return " ".join(self.err.split())[:1000] or f"exit status {self.status}"


def tool(argv: list[str], limit: float) -> Done:
    """Run one of our tools, for a limited time and without what the test's environment would tell it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LIBVIRT_", "VIRSH_", "LC_", "LANG"))}
    environment["LC_ALL"] = "C.UTF-8"
    try:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, start_new_session=True
        )
    except OSError as error:
        return Done(127, err=f"cannot start {argv[0]}: {error.strerror}")
    status: int | None = None
    out, err = b"", b""
    try:
        out, err = process.communicate(timeout=limit)
        status = process.returncode
    except subprocess.TimeoutExpired as late:
        out, err = late.stdout or b"", late.stderr or b""
    finally:
        with contextlib.suppress(ProcessLookupError):  # it ended, with all it started
            os.killpg(process.pid, signal.SIGKILL)
        if status is None:
            with contextlib.suppress(subprocess.TimeoutExpired):  # it hangs in the kernel; init inherits it
                process.communicate(timeout=GRACE)
    return Done(status, out.decode(errors="surrogateescape"), err.decode(errors="surrogateescape"))


@dataclass(frozen=True)
class Process:
    """A process at a time; pid and start are it and no other."""

    pid: int
    start: int
    name: str
    parent: int
    session: int
    state: str


def process_of(pid: int) -> Process | None:
    try:
        text = Path("/proc", str(pid), "stat").read_text(errors="replace")
    except OSError:  # it has ended
        return None
    fields = text[text.rindex(")") + 2 :].split()
    name = text[text.index("(") + 1 : text.rindex(")")]
    return Process(pid, int(fields[19]), name, int(fields[1]), int(fields[3]), fields[0])


def processes() -> Iterator[Process]:
    """All that live, but the kernel's own. Looks again for those that were begun meanwhile, by one that may have ended since."""
    seen: set[str] = set()
    while fresh := [entry for entry in os.listdir("/proc") if entry.isdigit() and entry not in seen]:
        seen.update(fresh)
        for entry in fresh:
            found = process_of(int(entry))
            if found is not None and found.state not in "ZX" and 2 not in (found.pid, found.parent):
                yield found


def read_proc(pid: int, name: str, limit: int = 256 * 1024) -> bytes:
    """A file of a process, empty when the process has ended."""
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            return file.read(limit)
    except OSError:
        return b""


def environment_of(pid: int) -> bytes:
    """A process's environment. One that just becomes another program seems to have none; its arguments tell that it is about to."""
    until = time.monotonic() + EXEC_PATIENCE
    while True:
        arguments = read_proc(pid, "cmdline")
        text = read_proc(pid, "environ")
        if text or (arguments and arguments == read_proc(pid, "cmdline")) or time.monotonic() > until:
            return text
        now = process_of(pid)
        if now is None or now.state in "ZX":
            return b""
        time.sleep(0.001)


def daemon_process(daemon: Daemon) -> Process | None:
    """The daemon's process, found by its pid file, or by its name."""
    try:
        pid = int(Path("/run", f"{daemon.name}.pid").read_text())
    except (OSError, ValueError):
        pid = 0
    found = process_of(pid) if pid else None
    if found is not None and found.name == daemon.name[:15] and found.state not in "ZX":
        return found
    return next((one for one in processes() if one.name == daemon.name[:15] and one.parent == 1), None)


def survivors(session: int, token: str) -> list[Process]:
    """What lives of a test: in its session, or elsewhere with the test's mark in its environment.

    A daemon that the test started again has the mark, too, and so has what that daemon started. They are libvirt's.
    """
    marker = f"{MARKER}={token}".encode()
    found = []
    for process in processes():
        if process.pid == os.getpid() or is_libvirts(process):
            continue
        if process.session == session or marker in environment_of(process.pid).split(b"\0"):
            found.append(process)
    return found


def is_libvirts(process: Process) -> bool:
    """Whether a process is a daemon of libvirt, or a domain or name server that such a daemon started."""
    if DAEMON_NAME.match(process.name):
        return True
    if process.name.startswith("qemu-system"):
        return any(word.startswith(b"guest=") for word in read_proc(process.pid, "cmdline").split(b"\0"))
    return process.name == "dnsmasq" and b"/libvirt/" in read_proc(process.pid, "cmdline")


def described(process: Process) -> str:
    return f"process {process.pid} {process.name}"


def look_at(found: list[Process]) -> list[str]:
    """What can be seen of processes from outside."""
    lines = []
    for process in found[:SHOWN]:
        where = read_proc(process.pid, "wchan").decode(errors="replace")
        # Reading the command line of a process that is stuck in the kernel waits for a lock it may hold.
        command = b"" if process.state == "D" else read_proc(process.pid, "cmdline", 300).replace(b"\0", b" ")
        lines.append(
            f"{described(process)}, state {process.state}, in {where.strip('0') or '?'}: {command.decode(errors='replace').strip()}"
        )
    if len(found) > SHOWN:
        lines.append(f"and {len(found) - SHOWN} more processes")
    return lines


def end_all(find: Callable[[], list[Process]], grace: float, wait: Callable[[float], None] = time.sleep) -> list[Process]:
    """TERM, then KILL, until none is found; return those that are still there."""
    found = find()
    for number in (signal.SIGTERM, signal.SIGKILL):
        limit = time.monotonic() + grace
        for process in found:
            with contextlib.suppress(ProcessLookupError):  # it ended in between, which is what we want
                os.kill(process.pid, number)
                if number == signal.SIGTERM:
                    os.kill(process.pid, signal.SIGCONT)  # a stopped process does not see the TERM
        while (found := find()) and time.monotonic() < limit:
            if number == signal.SIGKILL:
                for process in found:  # a fork may have escaped the first round
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process.pid, number)
            wait(0.05)
        if not found:
            break
    return found


# --- lock and state ---------------------------------------------------------------------------------------------


class State:
    """What must outlive this process: that a test runs, and what has to be put right if nobody ends it. Below /run: a reboot forgets it."""

    def __init__(self, directory: Path = STATE) -> None:
        self._file = directory / "state.json"
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise WrapperError(f"cannot use '{directory}': {error.strerror}; tests of libvirt are run as root") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            running = self._read().get("name") or "a purge"
            os.close(self._lock)
            raise WrapperError(
                f"another test runs against this libvirt: {running}. Two at a time disturb each other; run them one after the other"
            ) from error
        self.data = self._read()

    def _read(self) -> dict[str, Any]:
        try:
            data = json.loads(self._file.read_text())
        except FileNotFoundError:
            return {}
        except ValueError:  # written whole or not at all, so somebody else did it; what it said is lost, and nothing is known to be clean
            return {}
        return data if isinstance(data, dict) else {}

    def update(self, **changes: Any) -> None:
        """Write it down, whole or not at all."""
        self.data = {key: value for key, value in {**self.data, **changes}.items() if value is not None}
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps(self.data))
        new.replace(self._file)

    def close(self) -> None:
        os.close(self._lock)


# --- libvirt ----------------------------------------------------------------------------------------------------

LISTS = {
    "domain": "list --all --name",
    "network": "net-list --all --name",
    "pool": "pool-list --all --name",
    "nwfilter": "nwfilter-list",
    "secret": "secret-list",
}
TABLES = ("nwfilter", "secret")
TABLE_ROW = re.compile(r"\s*([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\s+(.*\S)")
# What is no error: there is no such driver here.
NO_DRIVER = re.compile(r"not supported by the connection driver|no connection driver available|Failed to list")
# What a daemon is asked, and where: through qemu:///system none of the others is reached when virtqemud hangs. Empty: libvirt's own URI.
PROBES = {
    "libvirtd": ("", "list --all --name"),
    "virtqemud": ("", "list --all --name"),
    "virtlxcd": ("", "list --all --name"),
    "virtnetworkd": ("network:///system", "net-list --all --name"),
    "virtstoraged": ("storage:///system", "pool-list --all --name"),
    "virtnwfilterd": ("nwfilter:///system", "nwfilter-list"),
    "virtsecretd": ("secret:///system", "secret-list"),
    "virtnodedevd": ("nodedev:///system", "nodedev-list --cap system"),
    "virtinterfaced": ("interface:///system", "iface-list --all"),
}


@dataclass(frozen=True)
class Item:
    """An object of libvirt; id is what libvirt finds it by."""

    kind: str
    name: str
    id: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True)
class Listing:
    """What is there of tests; answered is False when libvirt did not answer in time, refused when it could not be asked at all."""

    items: list[Item] = field(default_factory=list)
    answered: bool = True
    refused: bool = False
    error: str = ""


def quoted(word: str) -> str:
    """A word for virsh's own command line."""
    return "'" + word.replace("'", "'\\''") + "'"


def has_prefix(kind: str, name: str, prefix: str) -> bool:
    """A secret has no name of its own but the usage's: a volume's path, a name."""
    if kind == "secret":
        return any(part.startswith(prefix) for part in re.split(r"[\s/]+", name))
    return name.startswith(prefix)


def read_lists(text: str, token: str, prefix: str) -> list[Item]:
    """Read what virsh printed between our marks."""
    items = []
    parts = re.split(f"{token}:([a-z]*):", text)
    for kind, body in zip(parts[1::2], parts[2::2]):
        for line in body.split("\n") if kind else []:
            if kind in TABLES:
                row = TABLE_ROW.match(line)
                ident, name = row.groups() if row else ("", "")
            else:
                ident = name = line.rstrip()  # some lists are padded
            if name and has_prefix(kind, name, prefix):
                items.append(Item(kind, name, ident))
    return items


def removal(item: Item) -> list[str]:
    """The commands of virsh that remove an object, whatever its state. Some of them fail; what counts is that it is gone."""
    name = quoted(item.id)
    return {
        "domain": [
            f"destroy {name}",
            f"undefine {name} --managed-save --nvram --snapshots-metadata --checkpoints-metadata",
            f"undefine {name}",
        ],
        "network": [f"net-destroy {name}", f"net-undefine {name}"],
        "pool": [f"pool-destroy {name}", f"pool-undefine {name}"],
        "nwfilter": [f"nwfilter-undefine {name}"],
        "secret": [f"secret-undefine {name}"],
    }[item.kind]


class Libvirt:
    """This machine's libvirt, through virsh and virt-admin."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def virsh(self, script: str, limit: float) -> Done:
        return tool(["virsh", "-q", "-c", self.config.uri, script], limit)

    def answers(self, daemon: str) -> bool:
        """Whether a daemon that can be asked for itself comes back from an ordinary call."""
        uri, call = PROBES[daemon]
        return tool(["virsh", "-q", "-c", uri or self.config.uri, call], self.config.answer_limit).status is not None

    def admin(self, daemon: Daemon, *arguments: str) -> Done:
        return tool(["virt-admin", "-q", "-c", daemon.admin, *arguments], self.config.answer_limit)

    def listing(self) -> Listing:
        """What there is with the prefix, by one virsh: it is also how we see whether libvirt answers."""
        token = os.urandom(8).hex()
        kinds = LISTS if self.config.purge_prefix else {"domain": LISTS["domain"]}
        script = "; ".join([f"echo {token}:{kind}:; {command}" for kind, command in kinds.items()] + [f"echo {token}::"])
        done = self.virsh(script, self.config.answer_limit)
        if done.status is None:
            return Listing(answered=False, error=f"'virsh -c {self.config.uri}' got no answer for {self.config.answer_limit:g} s")
        if f"{token}::" not in done.out:
            return Listing(answered=False, refused=True, error=done.why())
        problems = [line for line in done.err.split("\n") if line.strip() and not NO_DRIVER.search(line)]
        prefix = self.config.purge_prefix
        return Listing(read_lists(done.out, token, prefix) if prefix else [], error="; ".join(problems)[:1000])

    def remove(self, items: list[Item]) -> str:
        """Remove them; return what virsh complained of."""
        volumes, complaints = self._volumes([item for item in items if item.kind == "pool"])
        order = list(LISTS)
        commands = volumes + [command for item in sorted(items, key=lambda item: order.index(item.kind)) for command in removal(item)]
        done = self.virsh("; ".join(commands), VIRSH_LIMIT * self.config.factor)
        return "; ".join(text for text in (complaints, done.why() if done.status is None or done.err else "") if text)

    def _volumes(self, pools: list[Item]) -> tuple[list[str], str]:
        """Commands that delete the volumes of directory pools in the scratch directory: the next test makes volumes of the same name."""
        if not pools or not self.config.scratch:
            return [], ""
        token = os.urandom(8).hex()
        done = self.virsh("; ".join(f"echo {token}:; pool-dumpxml {quoted(pool.id)}" for pool in pools), self.config.answer_limit)
        inside = []
        for text in done.out.split(f"{token}:")[1:]:
            name, path = pool_directory(text)
            if path and below(path, self.config.scratch):
                inside.append(name)
        if not inside:
            return [], "" if done.ok else done.why()
        # A pool that is not active does not know its volumes.
        script = "; ".join(
            f"echo {token}:{index}:; pool-start {quoted(name)}; vol-list {quoted(name)}" for index, name in enumerate(inside)
        )
        listed = self.virsh(script, VIRSH_LIMIT * self.config.factor)
        commands = []
        parts = re.split(f"{token}:([0-9]+):", listed.out)
        for index, body in zip(parts[1::2], parts[2::2]):
            pool = quoted(inside[int(index)])
            for row in re.finditer(r"^ (.*?)\s{2,}(/.*?)\s*$", body, re.MULTILINE):
                if below(row[2], self.config.scratch):
                    commands.append(f"vol-delete {quoted(row[1])} --pool {pool}")
        return commands, ""


def pool_directory(text: str) -> tuple[str, str]:
    """Name and directory of a storage pool, the latter empty if it is of another type."""
    import xml.etree.ElementTree as ET  # as above

    try:
        pool = ET.fromstring(text.strip())  # noqa: S314 # libvirt's own answer
    except ET.ParseError:
        return "", ""
    path = pool.findtext("target/path") or ""
    return pool.findtext("name") or "", path if pool.get("type") == "dir" else ""


def below(path: str, directory: str) -> bool:
    """Whether a path lies in a directory, links followed."""
    real, top = os.path.realpath(path), os.path.realpath(directory)
    return top != "/" and real.startswith(top + "/")


# --- logs -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """A place in a log: the file and what lies before it, by which it is found again after a rotation."""

    inode: int
    size: int
    fingerprint: bytes
    known: frozenset[int] = frozenset()  # the inodes of the log and of what it was rotated to


NOWHERE = Place(0, 0, b"")


@dataclass
class Cut:
    """What a slice had."""

    lines: int = 0
    bytes: int = 0
    truncated: bool = False
    lost: bool = False


def open_log(path: str) -> BinaryIO | None:
    """Open a log if it is there and a plain file: a test that may write in the directory could put anything in its place."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        return None
    return os.fdopen(handle, "rb")


def rotated(path: str, names: Iterable[str]) -> list[str]:
    """A log and what it was rotated to, the newest first: log, log.0, log.1, log.2.gz (virtlogd counts from 0, logrotate from 1)."""
    base = os.path.basename(path)
    numbered = []
    dated = []
    for name in names:
        suffix = re.match(re.escape(base) + r"(?:\.(\d{1,3})|-(\d{8}(?:-?\d+)?))(?:\.gz)?$", name)
        if suffix and suffix[1]:
            numbered.append((int(suffix[1]), name))
        elif suffix:
            dated.append((suffix[2], name))
    order = [base, *(name for _number, name in sorted(numbered)), *(name for _date, name in sorted(dated, reverse=True))]
    return [os.path.join(os.path.dirname(path), name) for name in order]


def names_in(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:  # no log was ever written
        return []


def mark(path: str, names: Iterable[str] | None = None) -> Place:
    """The place at the end of a log as it is now."""
    names = names_in(os.path.dirname(path)) if names is None else names
    known = set()
    for one in rotated(path, names):
        with contextlib.suppress(OSError):  # rotated away while we look
            known.add(os.lstat(one).st_ino)
    file = open_log(path)
    if file is None:
        return Place(0, 0, b"", frozenset(known))
    with file:
        status = os.fstat(file.fileno())
        start = max(0, status.st_size - FINGERPRINT)
        file.seek(start)
        return Place(status.st_ino, status.st_size, file.read(status.st_size - start), frozenset(known))


def unpacked(path: str) -> BinaryIO | None:
    file = open_log(path)
    if file is None or not path.endswith(".gz"):
        return file
    import gzip  # seldom needed, and each test pays for what is imported

    return gzip.GzipFile(fileobj=file)  # type: ignore[return-value]


def holds(path: str, place: Place) -> bool:
    """Whether what was written before the place is in this file."""
    file = unpacked(path)
    if file is None:
        return False
    try:
        with file:
            file.seek(place.size - len(place.fingerprint))
            return file.read(len(place.fingerprint)) == place.fingerprint
    except (OSError, EOFError):  # a file that is cut off is not it
        return False


def parts_since(path: str, place: Place) -> tuple[list[tuple[str, int]], bool]:
    """The files with what was written since, oldest first, each with where to begin; and whether the beginning is lost."""
    files = rotated(path, names_in(os.path.dirname(path)))
    if place.inode:
        for index, one in enumerate(files):
            if holds(one, place):
                return [(one, place.size), *((newer, 0) for newer in reversed(files[:index]))], False
    # The log did not exist, or is gone: all files that were not there then, and the log itself, which a truncation leaves in place.
    new = []
    for one in files:
        try:
            if one == path or os.lstat(one).st_ino not in place.known:
                new.append((one, 0))
        except OSError:
            continue
    return list(reversed(new)), place.inode != 0


def chunks(parts: list[tuple[str, int]], limit_at: Place | None) -> Iterator[bytes]:
    for path, start in parts:
        file = unpacked(path)
        if file is None:
            continue
        with file:
            file.seek(start)
            # Up to the second place, if the log has not been rotated since.
            at_end = limit_at is not None and os.fstat(file.fileno()).st_ino == limit_at.inode
            left = limit_at.size - start if limit_at is not None and at_end else None
            while (data := file.read(65536 if left is None else min(65536, max(0, left)))) != b"":
                left = None if left is None else left - len(data)
                yield data


def cut(path: str, since: Place, until: Place | None, target: Path, limit: int) -> Cut | None:
    """Copy what a log got between two places to target, of more than limit the first and the last half; None if nothing was written."""
    parts, lost = parts_since(path, since)
    result = Cut(lost=lost)
    head, tail, dropped = 0, bytearray(), 0
    half = limit // 2
    with contextlib.ExitStack() as stack:
        out: BinaryIO | None = None
        for data in chunks(parts, until):
            if out is None:
                out = stack.enter_context(open(target, "wb"))
                if lost:
                    out.write(f"[{path} was rotated so often in this test that its beginning is lost]\n".encode())
            result.bytes += len(data)
            result.lines += data.count(b"\n")
            room = max(0, half - head)
            out.write(data[:room])
            head += len(data[:room])
            tail += data[room:]
            if len(tail) > 2 * half:
                dropped += len(tail) - half
                del tail[: len(tail) - half]
        if out is None:
            return None
        if len(tail) > half:
            dropped += len(tail) - half
            del tail[: len(tail) - half]
        if dropped:
            result.truncated = True
            out.write(f"\n[{dropped} bytes left out here: more than {limit} were written]\n".encode())
        out.write(tail)
    return result


def file_name(text: str) -> str:
    """A plain name for a file."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", text)[:80] or "_"


class Logs:
    """The places in all logs when a test began."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._daemons = {daemon.name: mark(daemon.log) for daemon in config.active}
        names = names_in(config.qemu_logs)
        self._qemu = {name: mark(os.path.join(config.qemu_logs, name), names) for name in names if name.endswith(".log")}
        self._end: dict[str, Place] = {}

    def close(self) -> None:
        """The test has ended; what comes now is the clearing up."""
        self._end = {daemon.name: mark(daemon.log) for daemon in self._config.active}

    def keep(self, directory: Path, with_purge: bool) -> dict[str, Cut]:
        """Write the slices; return what each daemon's had."""
        kept = {}
        for daemon in self._config.active:
            begin, end = self._daemons[daemon.name], self._end[daemon.name]
            found = cut(daemon.log, begin, end, directory / f"{daemon.name}.log", SLICE_LIMIT)
            if found is not None:
                kept[daemon.name] = found
            if with_purge:
                cut(daemon.log, end, None, directory / f"purge-{daemon.name}.log", PURGE_SLICE_LIMIT)
        self._keep_qemu(directory)
        return kept

    def _keep_qemu(self, directory: Path) -> None:
        kept: set[str] = set()
        for name in sorted(name for name in names_in(self._config.qemu_logs) if name.endswith(".log")):
            target = f"qemu-{file_name(name[:-4])}.log"
            if target in kept or len(kept) >= QEMU_LOGS:
                continue
            path = os.path.join(self._config.qemu_logs, name)
            if cut(path, self._qemu.get(name, NOWHERE), None, directory / target, SLICE_LIMIT) is not None:
                kept.add(target)


# --- daemons that hang or die -----------------------------------------------------------------------------------

HELPERS = ("virtlogd", "virtlockd")  # the other daemons wait for these
STOPPED = ("T", "t")  # by a signal, by a debugger
POOL_LINE = re.compile(r"^\s*(\w+)\s*:\s*(\d+)\s*$", re.MULTILINE)


def read_pool(text: str) -> dict[str, int]:
    """What virt-admin says of a daemon's workers."""
    return {name: int(value) for name, value in POOL_LINE.findall(text)}


def is_full(admin: Done | None) -> bool:
    """Whether all workers are busy and calls wait for one."""
    pool = read_pool(admin.out) if admin is not None else {}
    return pool.get("freeWorkers") == 0 and pool.get("jobQueueDepth", 0) > 0


def diagnose(name: str, answers: bool, admin: Done | None, state: str, limit: float) -> str | None:
    """What is wrong with a daemon, None if it works.

    answers: an ordinary call came back in time. admin: what its own admin server, which has workers of its own, said of the ordinary
    workers, all the time the same if they were full; None if that cannot be asked. What only lists things comes back from a daemon whose
    workers all wait, for it has priority.
    """
    if state in STOPPED:
        return f"{name} hangs: it is stopped (state {state})"
    pool = read_pool(admin.out) if admin is not None else {}
    silent = f"{name} hangs: no answer for {limit:g} s"
    if is_full(admin):
        return f"{silent}: all {pool.get('nWorkers', 0)} workers are busy and {pool['jobQueueDepth']} calls wait"
    if answers:
        return None
    if admin is None or admin.status not in (0, None):
        return f"{silent}; its workers cannot be asked for" + (f": {admin.why()}" if admin is not None else "")
    if admin.status is None:
        return f"{silent}, and none on its admin socket either"
    free, workers = pool.get("freeWorkers", 0), pool.get("nWorkers", 0)
    return f"{silent}: a call does not return, although {free} of {workers} workers are free"


@dataclass(frozen=True)
class Answer:
    """What a daemon said when it was asked for itself."""

    daemon: Daemon
    process: Process
    answers: bool
    admin: Done | None
    why: str | None  # it hangs

    def summary(self) -> dict[str, Any]:
        return {"answers": self.answers, "workers": read_pool(self.admin.out) if self.admin is not None else {}, "why": self.why}


def blamed(hanging: list[Answer]) -> list[Answer]:
    """Of daemons that hang those that are to blame: the others may only wait for them."""
    return [answer for answer in hanging if answer.daemon.name in HELPERS] or hanging


def ask_daemons(config: Config, libvirt: Libvirt, answered: bool) -> list[Answer]:
    """Ask each running daemon for itself. answered: libvirt as a whole did; then a daemon may still be full, or have no part in that."""
    limit = config.answer_limit
    found = []
    for daemon in config.active:
        now = daemon_process(daemon)
        if now is None:
            continue
        if now.state in STOPPED:  # it would only be waited for
            found.append(Answer(daemon, now, False, None, diagnose(daemon.name, False, None, now.state, limit)))
            continue
        known = daemon.name in PROBES
        # The monolithic daemon is libvirt as a whole.
        answers = answered or (daemon.name != "libvirtd" and known and libvirt.answers(daemon.name))
        admin = workers_of(libvirt, daemon, limit) if shutil.which("virt-admin") else None
        if not known:  # none of our calls reaches it alone
            answers = admin is None or admin.status is not None
        found.append(Answer(daemon, now, answers, admin, diagnose(daemon.name, answers, admin, now.state, limit)))
    return found


def workers_of(libvirt: Libvirt, daemon: Daemon, limit: float) -> Done:
    """What a daemon's admin server says of its workers. If they are full it is asked again, for as long as an answer may take."""
    until = time.monotonic() + limit
    while True:
        admin = libvirt.admin(daemon, "srv-threadpool-info", daemon.name)
        if not is_full(admin) or time.monotonic() >= until:
            return admin
        time.sleep(0.2)


def proc_backtrace(pid: int) -> str:
    """What the kernel says of each thread."""
    lines = []
    try:
        threads = sorted(os.listdir(f"/proc/{pid}/task"), key=int)
    except OSError:
        return "the process is gone\n"
    for thread in threads[:200]:
        at = int(pid), f"task/{thread}"
        name = read_proc(pid, f"{at[1]}/comm").decode(errors="replace").strip()
        status = read_proc(pid, f"{at[1]}/status").decode(errors="replace")
        state = re.search(r"^State:\s*(.*)$", status, re.MULTILINE)
        where = read_proc(pid, f"{at[1]}/wchan").decode(errors="replace").strip("0") or "?"
        lines.append(f"thread {thread} {name}, state {state[1] if state else '?'}, in {where}")
        lines += [f"    {line}" for line in read_proc(pid, f"{at[1]}/stack").decode(errors="replace").split("\n") if line]
    return "\n".join(lines) + "\n"


def live_backtrace(pid: int, factor: float) -> str:
    """Backtraces of all threads of a process: from gdb, or eu-stack, and always what the kernel says."""
    text = ["What the kernel says of its threads:\n", proc_backtrace(pid)]
    for argv in (["gdb", "-nx", "-batch", "-p", str(pid), "-ex", "thread apply all bt"], ["eu-stack", "-p", str(pid)]):
        if shutil.which(argv[0]) is None:
            continue
        # Neither may end before it has let go of the process.
        done = tool(argv, BACKTRACE_LIMIT * factor)
        text += [f"\n{argv[0]}{'' if done.ok else f' ({done.why()})'}:\n", done.out]
        if re.search(r"^(Thread|TID|#0)", done.out, re.MULTILINE):
            break
    else:
        text.append("\nno backtrace of its own functions: neither gdb nor eu-stack gave one\n")
    return "".join(text)[:TEXT_LIMIT]


def core_paths(pattern: str, uses_pid: bool, pid: int, name: str, cwd: str) -> str:
    """Where the kernel puts a core dump, as a glob pattern; empty if it goes to a program."""
    if pattern.startswith("|"):
        return ""
    known = {"%": "%", "p": str(pid), "P": str(pid), "e": glob.escape(name)}
    path = re.sub(r"%(.)", lambda match: known.get(match[1], "*"), pattern)
    if uses_pid and "%p" not in pattern:
        path += f".{pid}"
    return os.path.join(cwd, path)


@dataclass
class Running:
    """A daemon as it ran before the test, with what it takes to start it again without systemd."""

    process: Process
    argv: list[str] = field(default_factory=list)
    cwd: str = "/"
    environment: dict[str, str] = field(default_factory=dict)
    cgroup: str = ""
    core_limit: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Death:
    """A process that died in the test."""

    name: str
    pid: int
    how: str  # SIGSEGV, or how else it ended


class Daemons:
    """The daemons: whether they live, how they died, and how they are started."""

    EXITED = "98e322203f7a4ed290d09fe03c09fe15"  # systemd: a unit's process did not end well
    DUMPED = "fc2e22bc6ee647b6b90729ab34a250b1"  # systemd-coredump

    def __init__(self, config: Config) -> None:
        self._config = config
        self.systemd = SYSTEMD.is_dir()
        self.time = time.time()
        self.before = {daemon.name: self._running(daemon) for daemon in config.active}
        self._cores = set(names_in(str(CORES)))

    def _running(self, daemon: Daemon) -> Running | None:
        process = daemon_process(daemon)
        if process is None:
            return None
        if self.systemd:
            return Running(process)
        pid = process.pid
        words = [word.decode(errors="surrogateescape") for word in read_proc(pid, "environ").split(b"\0") if b"=" in word]
        argv = [word.decode(errors="surrogateescape") for word in read_proc(pid, "cmdline").split(b"\0")[:-1]]
        try:
            cwd, limit = os.readlink(f"/proc/{pid}/cwd"), resource.prlimit(pid, resource.RLIMIT_CORE)
        except OSError:  # it ended while we looked
            return None
        cgroups = [line[4:] for line in read_proc(pid, "cgroup").decode().split("\n") if line.startswith("0::/")]
        return Running(process, argv, cwd, dict(word.split("=", 1) for word in words), cgroups[0] if cgroups else "", limit)

    def now(self, name: str) -> Process | None:
        return next(daemon_process(daemon) for daemon in self._config.active if daemon.name == name)

    def same(self, name: str) -> bool:
        """Whether the daemon is the process it was before, if it was one."""
        before, now = self.before[name], self.now(name)
        return before is None or (now is not None and (now.pid, now.start) == (before.process.pid, before.process.start))

    def changed(self) -> dict[str, int | None]:
        """Those that are not the process they were, with the pid they have now."""
        now = {name: self.now(name) for name in self.before if not self.same(name)}
        return {name: process.pid if process is not None else None for name, process in now.items()}

    def _wait_for_dumping(self) -> None:
        """Who is writing its core dump looks alive until it is done."""
        pids = [before.process.pid for before in self.before.values() if before is not None]
        until = time.monotonic() + CORE_LIMIT * self._config.factor
        while any(b"\nCoreDumping:\t1\n" in read_proc(pid, "status") for pid in pids) and time.monotonic() < until:
            time.sleep(0.1)

    def deaths(self) -> list[Death]:
        """Who died in the test, of a signal or with a failure. Who was stopped or started again did not."""
        self._wait_for_dumping()
        dumps = set(names_in(str(CORES))) - self._cores
        gone = [daemon for daemon in self._config.active if not self.same(daemon.name)]
        if not gone and not dumps:
            return []
        return self._deaths_by_journal(dumps) if self.systemd else [death for daemon in gone if (death := self._death(daemon)) is not None]

    def _deaths_by_journal(self, dumps: set[str]) -> list[Death]:
        limit = CORE_LIMIT * self._config.factor
        tool(["journalctl", "--sync"], limit)
        found: dict[int, Death] = {}
        units = {daemon.unit: daemon for daemon in self._config.active}
        for entry in self._journal(f"MESSAGE_ID={self.EXITED}"):
            daemon = units.get(entry.get("UNIT", ""))
            if daemon is None:
                continue
            before = self.before[daemon.name]
            pid = before.process.pid if before is not None and before.process.pid not in found else 0
            status = entry.get("EXIT_STATUS", "?")
            how = f"exit status {status}" if entry.get("EXIT_CODE") == "exited" else f"SIG{status}"
            found[pid or -len(found) - 1] = Death(daemon.name, pid, how)
            if entry.get("EXIT_CODE") == "dumped":
                dumps = dumps | {f"core of {daemon.name}"}
        if dumps:
            self._add_dumps(found, limit)
        return list(found.values())

    def _add_dumps(self, found: dict[int, Death], limit: float) -> None:
        """systemd-coredump writes its entry when it is done, which takes a while: wait for that of each process that dumped core."""
        names = {daemon.name for daemon in self._config.active}
        until = time.monotonic() + limit
        while True:
            entries = self._journal(f"MESSAGE_ID={self.DUMPED}")
            busy = any(process.name.startswith("systemd-coredum") for process in processes())
            if (entries and not busy) or time.monotonic() >= until:
                break
            time.sleep(0.2)
        for entry in entries:
            name = os.path.basename(str(entry.get("COREDUMP_EXE", "")))
            if name in names or name.startswith("qemu-system"):
                pid = int(entry.get("COREDUMP_PID", 0))
                # The journal of systemd does not tell the pid of who died; the core dump's does.
                unknown = [key for key, death in found.items() if key < 0 and death.name == name]
                for key in unknown[:1]:
                    del found[key]
                found[pid] = Death(name, pid, str(entry.get("COREDUMP_SIGNAL_NAME", "a signal")))

    def _journal(self, match: str) -> list[dict[str, Any]]:
        done = tool(
            ["journalctl", "-q", "--no-pager", "-o", "json", "--since", f"@{self.time:.6f}", match], CORE_LIMIT * self._config.factor
        )
        if done.status is None or (done.status != 0 and done.err):
            raise WrapperError(f"cannot ask the journal who died: {done.why()}")
        return [json.loads(line) for line in done.out.split("\n") if line]

    def _death(self, daemon: Daemon) -> Death | None:
        """Without systemd: a daemon that ends well removes its pid file, and one that does not may leave a core dump."""
        before = self.before[daemon.name]
        assert before is not None  # noqa: S101 # it would be the same, then
        pid = before.process.pid
        try:
            stale = int(Path("/run", f"{daemon.name}.pid").read_text()) == pid
        except (OSError, ValueError):
            stale = False
        if not stale and not self.core_files(daemon.name):
            return None
        return Death(daemon.name, pid, "a signal")

    def core_files(self, name: str) -> list[str]:
        """Core dumps that a daemon left in a file in this test."""
        before = self.before.get(name)
        if before is None:
            return []
        pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
        uses_pid = Path("/proc/sys/kernel/core_uses_pid").read_text().strip() != "0"
        where = core_paths(pattern, uses_pid, before.process.pid, before.process.name, before.cwd)
        found = glob.glob(where) if where else []
        return [path for path in found if os.path.isfile(path) and os.lstat(path).st_mtime >= self.time - TICK]

    def explain(self, death: Death) -> tuple[str, str]:
        """What is known of a death: the text to keep, and the signal if it is found out only here."""
        limit = BACKTRACE_LIMIT * self._config.factor
        if self.systemd:
            if not death.pid:
                return f"{death.name} died by {death.how}; there is no core dump of it\n", ""
            since = f"--since=@{self.time:.0f}"
            info = tool(["coredumpctl", "--no-pager", since, "info", str(death.pid)], limit)
            text = info.out or f"coredumpctl has nothing of {death.name}, pid {death.pid}: {info.why()}\n"
            if info.ok and "Stack trace" not in text and shutil.which("gdb"):
                text += tool(
                    ["coredumpctl", "--no-pager", since, "gdb", "-A", "-batch -ex 'thread apply all bt'", str(death.pid)], limit
                ).out
            return text[:TEXT_LIMIT], ""
        cores = self.core_files(death.name)
        if not cores:
            return f"{death.name}, pid {death.pid}, is gone and left no core dump\n", ""
        before = self.before[death.name]
        program = shutil.which(before.argv[0]) if before is not None and before.argv else None
        if program is None or shutil.which("gdb") is None:
            return f"core dump '{cores[0]}' of {death.name}, pid {death.pid}; there is no gdb to read it\n", ""
        done = tool(["gdb", "-nx", "-batch", "-ex", "thread apply all bt", program, cores[0]], limit)
        number = re.search(r"terminated with signal (SIG\w+)", done.out)
        return f"core dump '{cores[0]}' of {death.name}, pid {death.pid}\n{done.out}{done.err}"[:TEXT_LIMIT], number[1] if number else ""

    def kill(self, name: str) -> None:
        """End a daemon that hangs."""
        found = self.now(name)
        if found is not None:
            left = end_all(
                lambda: [now for now in [self.now(name)] if now is not None and now.pid == found.pid], GRACE * self._config.factor
            )
            if left:
                raise WrapperError(f"{name}, pid {found.pid}, hangs and is still there after SIGKILL")

    def start(self, names: Iterable[str]) -> None:
        """Start daemons that are gone, as they were started before."""
        for daemon in self._config.active:
            if daemon.name not in names or self.now(daemon.name) is not None:
                continue
            if self.systemd:
                units = [*daemon.sockets, daemon.unit]
                tool(["systemctl", "reset-failed", *units], RESTART_LIMIT * self._config.factor)
                done = tool(["systemctl", "start", *units], RESTART_LIMIT * self._config.factor)
                if not done.ok:
                    raise WrapperError(f"cannot start {daemon.unit} again: {done.why()}")
            else:
                self._spawn(daemon.name)

    def _spawn(self, name: str) -> None:
        before = self.before[name]
        if before is None or not before.argv:
            raise WrapperError(f"cannot start {name} again: it did not run before the test, and there is no systemd that knows how")

        def settle() -> None:
            resource.setrlimit(resource.RLIMIT_CORE, before.core_limit)
            if before.cgroup:
                with contextlib.suppress(OSError):  # no unified hierarchy, or none that lets us
                    Path("/sys/fs/cgroup" + before.cgroup + "/cgroup.procs").write_text("0")

        try:
            process = subprocess.Popen(
                before.argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={key: value for key, value in before.environment.items() if key != MARKER},
                cwd=before.cwd,
                start_new_session=True,
                preexec_fn=settle,
            )
        except OSError as error:
            raise WrapperError(f"cannot start {name} again: {error}") from error
        process.returncode = 0  # it shall live on; nobody waits for it


# --- the test ---------------------------------------------------------------------------------------------------

TAP_LINE = re.compile(rb"(not )?ok(?:\s|$)")
TAP_PLAN = re.compile(rb"1\.\.(\d+)")
TAP_EXCUSED = re.compile(rb"#\s*(TODO|SKIP)", re.IGNORECASE)


class TapEye:
    """Looks at TAP that passes by: did it say that something failed?"""

    def __init__(self) -> None:
        self._rest = b""
        self.seen = 0
        self.planned: int | None = None
        self.failed = False
        self.bailed = False

    @property
    def is_tap(self) -> bool:
        return self.seen > 0 or self.planned is not None

    @property
    def red(self) -> bool:
        return self.failed or self.bailed or (self.is_tap and self.planned != self.seen)

    @property
    def in_line(self) -> bool:
        """Whether the last line has no end."""
        return bool(self._rest)

    def feed(self, data: bytes) -> None:
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()[:65536]
        for line in lines:
            self._line(line)

    def _line(self, line: bytes) -> None:
        plan = TAP_PLAN.match(line)
        if plan:
            self.planned = int(plan[1][:9])
        elif line.startswith(b"Bail out!"):
            self.bailed = True
        elif (found := TAP_LINE.match(line)) is not None:
            self.seen += 1
            self.failed = self.failed or (found[1] is not None and not TAP_EXCUSED.search(line))


@dataclass
class Outcome:
    """How the command ended."""

    status: int | None = None
    signal: int = signal.SIGKILL.value  # that ended it, if it has no status
    timed_out: bool = False
    stopped: str | None = None
    leftovers: list[str] = field(default_factory=list)
    undying: list[str] = field(default_factory=list)

    @property
    def exit_status(self) -> int:
        return 128 + self.signal if self.status is None else self.status

    def text(self) -> str:
        if self.status is not None:
            return f"ended with status {self.status}"
        known = self.signal in set(signal.Signals)  # real-time signals have no name
        return f"was ended by {signal.Signals(self.signal).name if known else f'signal {self.signal}'}"


class Command:
    """The test's command, in a session of its own; its standard output passes through us."""

    def __init__(self, config: Config, argv: list[str], environment: dict[str, str], token: str) -> None:
        self._config = config
        self._token = token
        self.tap = TapEye()
        self.outcome = Outcome()
        self._signalled: str | None = None
        try:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                bufsize=0,
                env={**environment, MARKER: token},
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise WrapperError(f"cannot start the test {argv}: {error}") from error

    @property
    def pid(self) -> int:
        return self._process.pid

    def members(self) -> list[Process]:
        return survivors(self._process.pid, self._token)

    def run(self, deadline: float | None, at_deadline: Callable[[list[str]], None]) -> Outcome:
        """Wait until it ends or is ended; nothing of it is left then, or undying names it."""
        with selectors.DefaultSelector() as selector, self._signals(selector):
            assert self._process.stdout is not None  # noqa: S101 # it is a pipe
            selector.register(self._process.stdout, selectors.EVENT_READ)
            try:
                self._until_it_ends(selector, deadline, at_deadline)
                self._end(selector)
            finally:
                if self._process.poll() is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(self._process.pid, signal.SIGKILL)
                self._process.stdout.close()
        self.outcome.stopped = self._signalled
        code = self._process.poll()
        if code is not None and code < 0:
            self.outcome.signal = -code
        else:  # still none if it is still there after SIGKILL, which undying tells
            self.outcome.status = code
        return self.outcome

    @contextlib.contextmanager
    def _signals(self, selector: selectors.BaseSelector) -> Iterator[None]:
        """Have the selector wake up when the command ends or we are told to stop."""
        reader, writer = socket.socketpair()
        reader.setblocking(False)
        writer.setblocking(False)
        numbers = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        handlers = {number: signal.signal(number, self._note) for number in numbers}
        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        selector.register(reader, selectors.EVENT_READ)
        self._reader = reader
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            reader.close()
            writer.close()

    def _note(self, number: int, _frame: object) -> None:
        if number != signal.SIGCHLD:
            self._signalled = signal.Signals(number).name

    def _take(self, selector: selectors.BaseSelector, limit: float | None) -> bool:
        """Wait for output or a signal, and pass the output on; tell whether anything came."""
        ready = selector.select(None if limit is None else max(0.0, limit - time.monotonic()))
        for key, _events in ready:
            data = os.read(key.fd, 65536)
            if key.fileobj is self._reader:
                continue
            if not data:
                selector.unregister(key.fileobj)
            else:
                self.tap.feed(data)
                write_out(data)
        return bool(ready)

    def _until_it_ends(self, selector: selectors.BaseSelector, deadline: float | None, at_deadline: Callable[[list[str]], None]) -> None:
        while self._process.poll() is None:
            if self._signalled:
                return
            if deadline is not None and time.monotonic() >= deadline:
                self.outcome.timed_out = True
                at_deadline(look_at(self.members()))
                return
            self._take(selector, deadline)

    def _end(self, selector: selectors.BaseSelector) -> None:
        ended_itself = self._process.returncode is not None
        limit = time.monotonic() + ENDING
        found = self.members()
        while ended_itself and found and time.monotonic() < limit:
            self._take(selector, time.monotonic() + 0.02)
            found = self.members()
        if ended_itself:
            self.outcome.leftovers = [described(process) for process in found[:SHOWN]]
        if found:

            def wait(seconds: float) -> None:
                self._take(selector, time.monotonic() + seconds)
                self._process.poll()

            # Who told us to stop does not wait for long.
            grace = STOP_GRACE if self._signalled else GRACE * self._config.factor
            self.outcome.undying = [described(process) for process in end_all(self.members, grace, wait)]
        with contextlib.suppress(subprocess.TimeoutExpired):  # it hangs in the kernel
            self._process.wait(GRACE)
        while len(selector.get_map()) > 1 and self._take(selector, time.monotonic() + DRAIN):
            pass


def write_out(data: bytes) -> None:
    """All of it, to standard output."""
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


def say(line: str) -> None:
    """A line on standard output; names in it may be bytes that are no text."""
    write_out(f"{line}\n".encode(errors="replace"))


FINDINGS = ("timeout", "error", "daemon_hang")  # the later ones tell more


class Findings:
    """What makes the test worse than it says itself."""

    def __init__(self) -> None:
        self.status: str | None = None
        self.lines: list[str] = []

    def add(self, line: str, status: str = "error") -> None:
        if line not in self.lines:
            # What hangs explains the rest.
            self.lines.insert(0 if status == "daemon_hang" else len(self.lines), line)
        self.status = max(self.status or status, status, key=FINDINGS.index)

    def write(self, directory: Path) -> None:
        if self.status is not None:
            write_judgement(directory, self.status, self.lines)


def write_judgement(directory: Path, status: str, lines: list[str]) -> None:
    """Write what the test is judged by; its reader takes no more than 64 KiB."""
    message = [line.encode("ascii", "replace").decode()[:1000] for line in lines[:30]]
    (directory / "judgement.json").write_text(json.dumps({"status": status, "message": message}, indent=1) + "\n")


class Test:
    """One test with everything around it."""

    def __init__(self, config: Config, options: argparse.Namespace, directory: Path) -> None:
        self._config = config
        self._argv: list[str] = options.command
        self._name = options.name or " ".join(options.command)
        self._deadline: float | None = options.deadline * config.factor if options.deadline else None
        self._directory = directory
        self._libvirt = Libvirt(config)
        self._found = Findings()
        self._leaked: list[str] = []
        self._left_before: list[str] = []
        self._probe: dict[str, Any] = {}
        self._restarted: set[str] = set()
        self._hanging: set[str] = set()
        self._explained: list[Death] = []

    def run(self, state: State) -> int:
        config = self._config
        prove_own(config, state)
        self._left_before = restore(config, state, self._libvirt)
        token = os.urandom(16).hex()
        self._daemons = Daemons(config)
        self._logs = Logs(config)
        state.update(name=self._name, token=token, clean=False)
        raised = self._raise_filters(state)
        environment = {**os.environ}
        if config.tck is not None:
            environment.update(tck_environment(config.tck))
        try:
            command = Command(config, self._argv, environment, token)
            state.update(session=command.pid)
            outcome = command.run(None if self._deadline is None else time.monotonic() + self._deadline, self._at_deadline)
            self._logs.close()
            if outcome.undying:
                self._found.add(f"still there after SIGKILL: {', '.join(outcome.undying)}")
            self._leaked += outcome.leftovers
            if outcome.stopped is None:
                self._look_after()
        finally:
            if raised:
                self._lower_filters(state)
        red = outcome.exit_status != 0 or command.tap.red or self._found.status is not None
        if outcome.stopped is not None:
            self._found.add(f"the test was told to stop by {outcome.stopped}; what it left is removed before the next one")
        else:
            state.update(clean=self._clean, name=None, token=None, session=None)
        self._keep(red)
        return self._report(outcome, command.tap)

    # --- filters

    def _raise_filters(self, state: State) -> bool:
        attempt = os.environ.get("MAYFLY_ATTEMPT", "1")
        if not self._config.deep_filters or not attempt.isdigit() or int(attempt) < 2:
            return False
        before = {}
        for daemon in self._config.active:
            now = daemon_process(daemon)
            if now is None:
                continue
            filters, outputs = self._libvirt.admin(daemon, "daemon-log-filters"), self._libvirt.admin(daemon, "daemon-log-outputs")
            if not filters.ok or not outputs.ok:
                self._found.add(f"cannot read the log filters of {daemon.name}: {(outputs if filters.ok else filters).why()}")
                continue
            before[daemon.name] = {
                "pid": now.pid,
                "start": now.start,
                "filters": as_set(filters.out),
                "outputs": outputs.out.strip(),
            }
        state.update(filters=before)  # first, so that whoever comes after us can put them back
        for daemon in self._config.active:
            if daemon.name not in before:
                continue
            wanted = deep_outputs(before[daemon.name]["outputs"], daemon.log)
            for command, value in (("daemon-log-outputs", wanted), ("daemon-log-filters", self._config.deep_filters)):
                done = self._libvirt.admin(daemon, command, value)
                if not done.ok:
                    self._found.add(f"cannot raise the log filters of {daemon.name} by '{command} {value}': {done.why()}")
        return True

    def _lower_filters(self, state: State) -> None:
        for line in put_filters_back(self._config, state, self._libvirt):
            self._found.add(line)

    # --- hangs and deaths

    def _at_deadline(self, seen: list[str]) -> None:
        self._found.add(
            f"the deadline of {self._deadline:g} s was reached; then there were: {'; '.join(seen) or 'no processes of the test'}",
            "timeout",
        )
        listing = self._libvirt.listing()
        self._probe = {"at": "deadline", "answered": listing.answered}
        self._ask_daemons(listing)

    def _ask_daemons(self, listing: Listing) -> None:
        """Find out whether a daemon hangs, which, and how."""
        answers = ask_daemons(self._config, self._libvirt, listing.answered)
        self._probe.update({answer.daemon.name: answer.summary() for answer in answers})
        hanging = blamed([answer for answer in answers if answer.why is not None])
        if not hanging and not listing.answered:
            self._found.add(f"{listing.error}, though each daemon answers for itself")
        for answer in hanging:
            name = answer.daemon.name
            self._found.add(f"{answer.why}; backtraces in backtrace-{name}.txt", "daemon_hang")
            self._hanging.add(name)
            text = live_backtrace(answer.process.pid, self._config.factor)
            (self._directory / f"backtrace-{name}.txt").write_text(f"{answer.why}\n\n{text}", errors="replace")

    def _look_after(self) -> None:
        """The test has ended: who died, who hangs, what is left?"""
        self._clean = False
        try:
            if not self._hanging:
                self._explain_deaths()
                changed = self._daemons.changed()
                listing = self._listing_or_start()
                if self._daemons.changed() != changed:  # a signal takes its time
                    self._explain_deaths()
                if not listing.answered:
                    self._probe.setdefault("at", "end")
                    self._ask_daemons(listing)
            if self._hanging:
                listing = self._cured()
            leaked, errors, self._clean = purge(self._config, self._libvirt, listing)
            self._leaked += leaked
            for error in errors:
                self._found.add(error)
        except WrapperError as error:
            self._found.add(str(error))

    def _cured(self) -> Listing:
        """End the daemons that hang and start them again, first those that others wait for."""
        while True:
            names, self._hanging = sorted(self._hanging), set()
            for name in names:
                self._daemons.kill(name)
            if not set(names) <= set(HELPERS):
                return self._started_again(names)
            self._restarted.update(names)
            self._daemons.start(names)
            listing = self._libvirt.listing()
            if listing.answered:
                return listing
            self._ask_daemons(listing)
            if not self._hanging or self._hanging & set(names):
                return self._started_again([])

    def _explain_deaths(self) -> None:
        kept = {death.name for death in self._explained}
        for death in self._daemons.deaths():
            if death in self._explained:
                continue
            self._explained.append(death)
            text, number = self._daemons.explain(death)
            name = f"core-{file_name(death.name)}{f'-{death.pid}' if death.name in kept else ''}.txt"
            kept.add(death.name)
            (self._directory / name).write_text(text, errors="replace")
            self._found.add(f"{death.name} died by {number or death.how} in this test; see {name}")
            self._restarted.add(death.name)

    def _listing_or_start(self) -> Listing:
        """List what is left; a libvirt that cannot be reached is started again."""
        listing = self._libvirt.listing()
        if not listing.refused:
            return listing
        gone = [name for name, before in self._daemons.before.items() if before is not None and self._daemons.now(name) is None]
        for name in gone:
            if name not in self._restarted:
                self._found.add(f"{name} was gone when the test ended, though nothing says that it died; libvirt could not be reached")
        return self._started_again(gone)

    def _started_again(self, names: list[str]) -> Listing:
        """Start daemons and wait until libvirt answers."""
        self._restarted.update(names)
        self._daemons.start(names)
        return wait_for_answer(self._libvirt, RESTART_LIMIT * self._config.factor)

    # --- what is kept

    def _keep(self, red: bool) -> None:
        keep = red or self._found.status is not None or self._config.keep_logs == "always"
        cuts: dict[str, Cut] = {}
        if keep:
            try:
                cuts = self._logs.keep(self._directory, with_purge=bool(self._leaked or self._restarted))
            except OSError as error:
                self._found.add(f"cannot keep the logs of libvirt: {error}")
        daemons = {}
        for name, before in self._daemons.before.items():
            now = self._daemons.now(name)
            found = cuts.get(name, Cut())
            daemons[name] = {
                "pid_before": before.process.pid if before else None,
                "pid_after": now.pid if now else None,
                # One that ended for want of work is none: the next call starts it.
                "restarted": name in self._restarted or (now is not None and not self._daemons.same(name)),
                "lines": found.lines,
                "bytes": found.bytes,
                "truncated": found.truncated or found.lost,
            }
        if keep or self._leaked or self._left_before or any(entry["restarted"] for entry in daemons.values()):
            summary = {"leaked": self._leaked, "left_before": self._left_before, "daemons": daemons, "probe": self._probe}
            (self._directory / "libvirt.json").write_text(json.dumps(summary, indent=1, default=str) + "\n")
        self._found.write(self._directory)

    def _report(self, outcome: Outcome, tap: TapEye) -> int:
        """Add what the output must say; return the exit status."""
        bail = None
        if tap.is_tap and not tap.failed and not tap.bailed:
            if outcome.timed_out:
                bail = f"the deadline of {self._deadline:g} s was reached"
            elif outcome.exit_status != 0:
                bail = f"the test {outcome.text()}, although none of its assertions failed"
            elif self._found.status is not None and "MAYFLY_TEST_DIR" not in os.environ:  # else judgement.json is read
                bail = self._found.lines[0]
        if bail is not None:
            say(f"{chr(10) if tap.in_line else ''}Bail out! {bail}")
        for line in self._found.lines:
            print(f"mayfly_libvirt_test: {line}", file=sys.stderr)
        if outcome.exit_status == 0 and self._found.status is not None and "MAYFLY_TEST_DIR" not in os.environ:
            return 1
        return outcome.exit_status


def as_set(filters: str) -> str:
    """Log filters as they were set: libvirt puts stars around what it is given, and tells it with them."""
    return re.sub(r"(?<=:)\*(\S+)\*(?=\s|$)", r"\1", filters.strip())


def deep_outputs(outputs: str, log: str) -> str:
    """The daemon's log outputs, with its own log at level 1."""
    kept = [output for output in outputs.split() if not output.endswith(f":file:{log}")]
    return " ".join([f"1:file:{log}", *kept])


def put_filters_back(config: Config, state: State, libvirt: Libvirt) -> list[str]:
    """Restore what a raised log filter was before; return what could not be done. A daemon that was started since has its own again."""
    errors = []
    for daemon in config.daemons:
        before = state.data.get("filters", {}).get(daemon.name)
        now = daemon_process(daemon) if before else None
        if not before or now is None or (now.pid, now.start) != (before["pid"], before["start"]):
            continue
        for command, value in (("daemon-log-filters", before["filters"]), ("daemon-log-outputs", before["outputs"])):
            done = libvirt.admin(daemon, command, value)
            if not done.ok:
                errors.append(f"cannot put the log filters of {daemon.name} back by '{command} {value}': {done.why()}")
    state.update(filters=None)
    return errors


def tck_environment(tck: Tck) -> dict[str, str]:
    environment = {str(name): str(value) for name, value in tck.environment.items()}
    if tck.config:
        environment["LIBVIRT_TCK_CONFIG"] = tck.config
    if tck.perl_lib:
        environment["PERL5LIB"] = ":".join([*tck.perl_lib, *filter(None, [os.environ.get("PERL5LIB", "")])])
    return environment


# --- putting right ----------------------------------------------------------------------------------------------


def prove_own(config: Config, state: State | None) -> None:
    """Refuse a libvirt that is not this machine's own: the URI, and who listens on the daemons' sockets.

    Asking wakes a daemon up, so it is done once for each socket that somebody made.
    """
    own_uri(config.uri)
    keys = []
    for daemon in config.active:
        with contextlib.suppress(FileNotFoundError):
            status = daemon.socket.stat()
            keys.append([daemon.name, status.st_ino, status.st_ctime_ns])
    if not keys:
        raise WrapperError(
            f"no daemon of libvirt listens in '{SOCKETS}'; configured are {', '.join(daemon.name for daemon in config.active)}"
        )
    if state is not None and state.data.get("proven") == keys:
        return
    for daemon in config.active:
        if daemon.socket.exists():
            refuse_stranger(daemon, *peer_of(daemon.socket, config.answer_limit))
    if state is not None:
        state.update(proven=keys)


def peer_of(path: Path, limit: float) -> tuple[int, int, str]:
    """Pid, user and name of who listens on a socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(limit)
        try:
            client.connect(str(path))
        except OSError as error:
            raise WrapperError(f"cannot connect to libvirt's socket '{path}': {error}") from error
        pid, uid, _gid = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    found = process_of(pid) if pid else None
    return pid, uid, found.name if found is not None else "?"


def refuse_stranger(daemon: Daemon, pid: int, uid: int, name: str) -> None:
    """The daemon itself listens, or systemd for it; whoever else does leads elsewhere."""
    if uid == 0 and pid and (name == daemon.name[:15] or (pid == 1 and name in ("systemd", "init"))):
        return
    who = f"process {pid} {name} of user {uid}" if pid else "a process outside of this machine's view"
    raise WrapperError(f"refusing to test {daemon.name}: {who} listens on '{daemon.socket}', not the guest's own daemon")


def restore(config: Config, state: State, libvirt: Libvirt) -> list[str]:
    """Put right what a run that was killed left: processes, filters, leftovers. Return what there was."""
    found: list[str] = []
    if state.data.get("clean"):
        return found
    token, session = state.data.get("token", ""), state.data.get("session", 0)
    if token:
        found += [described(process) for process in survivors(session, token)]
        left = end_all(lambda: survivors(session, token), GRACE * config.factor)
        if left:
            raise WrapperError(f"an earlier test's processes are still there after SIGKILL: {', '.join(map(described, left))}")
    listing = libvirt.listing()
    if not listing.answered:
        listing, revived = revive(config, libvirt, listing)
        found += revived
    errors = put_filters_back(config, state, libvirt)
    leaked, more, clean = purge(config, libvirt, listing)
    if errors or more or not clean:
        raise WrapperError(f"cannot put right what an earlier test left: {'; '.join([*errors, *more])}")
    state.update(clean=True, token=None, session=None, name=None)
    return found + leaked


def revive(config: Config, libvirt: Libvirt, listing: Listing) -> tuple[Listing, list[str]]:
    """Have a libvirt answer that did not: end the daemons that hang, start those that are gone. Return what there was to do."""
    daemons = Daemons(config)
    hanging = [] if listing.refused else [answer for answer in ask_daemons(config, libvirt, False) if answer.why is not None]
    for answer in hanging:
        daemons.kill(answer.daemon.name)
    gone = [daemon.name for daemon in config.active if daemon_process(daemon) is None]
    daemons.start([name for name in gone if listing.refused or name in {answer.daemon.name for answer in hanging}])
    done = [f"daemon {answer.daemon.name}: {answer.why}" for answer in hanging] or [f"daemon {name} stopped" for name in gone]
    return wait_for_answer(libvirt, RESTART_LIMIT * config.factor), done


def purge(config: Config, libvirt: Libvirt, listing: Listing) -> tuple[list[str], list[str], bool]:
    """Remove what tests left; return what it was, what went wrong, and whether nothing is left."""
    if not listing.answered:
        return [], [f"cannot list what tests left: {listing.error}"], False
    errors = [f"cannot list all that tests left: {listing.error}"] if listing.error else []
    leaked = [str(item) for item in listing.items]
    if listing.items:
        complaints = libvirt.remove(listing.items)
        after = libvirt.listing()
        if not after.answered or after.items:
            what = ", ".join(map(str, after.items)) or after.error
            errors.append(f"cannot remove what the test left ({what}): {complaints}")
    if config.purge_prefix:
        for remove in (purge_emulators, purge_interfaces):
            more, wrong = remove(config)
            leaked += more
            errors += wrong
    return leaked, errors, not errors


def purge_emulators(config: Config) -> tuple[list[str], list[str]]:
    """End QEMU processes of test domains that libvirt knows no more: its daemon died while it made them."""
    wanted = re.compile(rb"guest=" + re.escape(config.purge_prefix).encode())

    def find() -> list[Process]:
        named = (process for process in processes() if process.name.startswith("qemu-"))
        return [process for process in named if any(wanted.match(word) for word in read_proc(process.pid, "cmdline").split(b"\0"))]

    limit = time.monotonic() + GRACE * config.factor
    found = find()
    while found and time.monotonic() < limit:  # libvirt has destroyed its domain, and it needs a moment to die
        time.sleep(0.05)
        found = find()
    left = end_all(find, GRACE * config.factor) if found else []
    return list(map(described, found)), [f"still there after SIGKILL: {described(process)}" for process in left]


def purge_interfaces(config: Config) -> tuple[list[str], list[str]]:
    """Remove bridges and the like of test networks that libvirt knows no more."""
    leaked, errors = [], []
    for name in sorted(names_in("/sys/class/net")):
        if name.startswith(config.purge_prefix):
            leaked.append(f"interface {name}")
            done = tool(["ip", "link", "delete", "dev", name], config.answer_limit)
            if not done.ok and os.path.exists(f"/sys/class/net/{name}"):
                errors.append(f"cannot remove the interface '{name}': {done.why()}")
    return leaked, errors


def wait_for_answer(libvirt: Libvirt, limit: float) -> Listing:
    """Wait until libvirt answers."""
    until = time.monotonic() + limit
    while True:
        listing = libvirt.listing()
        if listing.answered:
            return listing
        if time.monotonic() >= until:
            raise WrapperError(f"libvirt does not answer within {limit:g} s after its start: {listing.error}")
        time.sleep(0.2)


# --- list -------------------------------------------------------------------------------------------------------

# Not as a script, which Python would compile anew for each test, but as a module, whose compiled form it keeps.
LAUNCHER = (
    "/usr/bin/python3",
    "-IS",
    "-c",
    f"import sys; sys.path.insert(0, {os.path.dirname(os.path.abspath(__file__))!r}); import mayfly_libvirt_test as wrapper; wrapper.end()",
)
NEEDS_KEYS = {"tests": str, "needs": list, "reason": str, "deadline": (int, float)}
DEADLINE = 60.0
USED_MODULE = re.compile(r"^\s*use\s+([A-Z][\w:]*)", re.MULTILINE)
LOOK = r"""
use strict; use warnings;
my @missing;
for my $module (@ARGV) { eval "require $module; 1" or push @missing, [$module, $@]; }
for my $pair (@missing) { my $why = $pair->[1]; $why =~ s/\s+/ /g; print "missing\t$pair->[0]\t$why\n"; }
exit 0 if @missing;
my $tck = Sys::Virt::TCK->new();  # reads LIBVIRT_TCK_CONFIG
for my $key (qw(uri otheruri scratch_dir busybox nvram_file_template)) {
    my $value = $tck->config($key, undef);
    print "value\t$key\t$value\n" if defined $value && !ref $value;
}
for my $key (qw(host_usb_devices host_pci_devices host_block_devices host_network_devices)) {
    my $value = $tck->config($key, undef);
    print "count\t$key\t", (ref $value eq 'ARRAY' ? scalar @$value : 0), "\n";
}
for my $key (qw(kernels images)) {
    my $value = $tck->config($key, undef);
    for my $entry (ref $value eq 'ARRAY' ? @$value : ()) {
        my @os = ref $entry->{ostype} ? @{$entry->{ostype}} : ($entry->{ostype} // '');
        my @files = map { my $f = $entry->{$_}; ref $f ? $f->{source} : $f // '' } qw(kernel initrd osname);
        print join("\t", $key, $entry->{arch} // '', join(',', @os), @files), "\n";
    }
}
"""


@dataclass(frozen=True)
class Need:
    """What some tests cannot do without."""

    tests: str
    needs: tuple[str, ...]
    reason: str = ""
    deadline: float | None = None


def read_needs(raw: Any) -> list[Need]:
    if not isinstance(raw, list):
        raise WrapperError("is not a JSON list")
    needs = []
    for index, entry in enumerate(raw):
        if not isinstance(entry, dict):
            raise WrapperError(f"needs entry {index} as an object")
        _check_keys(entry, NEEDS_KEYS, f"has in entry {index}")
        if not entry.get("tests"):
            raise WrapperError(f"needs in entry {index} 'tests', a pattern of test names")
        if entry.get("deadline", 1) <= 0:
            raise WrapperError(f"needs in entry {index} 'deadline' as a positive number of seconds")
        for need in entry.get("needs", []):
            if need not in CHECKS and str(need).partition(":")[0] not in PARAMETER_CHECKS:
                known = ", ".join([*CHECKS, *(f"{name}:<name>" for name in PARAMETER_CHECKS)])
                raise WrapperError(f"has in entry {index} an unknown need '{need}'; known are {known}")
        needs.append(Need(**{**entry, "needs": tuple(entry.get("needs", ()))}))
    return needs


@dataclass
class Suite:
    """The TCK as it says itself."""

    values: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    kernels: list[list[str]] = field(default_factory=list)
    images: list[list[str]] = field(default_factory=list)


def read_look(text: str) -> Suite:
    suite = Suite()
    missing = []
    for line in text.split("\n"):
        kind, *fields = line.split("\t")
        if kind == "missing":
            missing.append(fields)
        elif kind == "value":
            suite.values[fields[0]] = fields[1]
        elif kind == "count":
            suite.counts[fields[0]] = int(fields[1])
        elif kind in ("kernels", "images"):
            getattr(suite, kind).append(fields)
    if missing:
        absent = sorted({match[1].replace("/", "::") for one in missing if (match := re.search(r"Can't locate (\S+)\.pm", one[1]))})
        what = f"Perl modules are missing: {', '.join(absent)}" if absent else f"cannot load {missing[0][0]}: {missing[0][1]}"
        raise WrapperError(f"libvirt-TCK cannot run: {what}")
    return suite


@dataclass(frozen=True)
class Machine:
    """What needs are checked against."""

    config: Config
    suite: Suite
    scratch: str

    def devices(self, kind: str) -> str | None:
        count = self.suite.counts.get(f"host_{kind}_devices", 0)
        # libvirt-TCK compares with the last index: of block and network devices, a list of one counts as none.
        least = 2 if kind in ("block", "network") else 1
        return None if count >= least else f"host_{kind}_devices of its configuration lists {count}, at least {least} are used"

    def nested_kvm(self) -> str | None:
        try:
            with open("/dev/kvm", "rb+", buffering=0) as device:
                return None if fcntl.ioctl(device, 0xAE00) == 12 else "/dev/kvm speaks another version"
        except OSError as error:
            return f"/dev/kvm cannot be used: {error.strerror}"

    def selinux(self) -> str | None:
        return None if os.path.exists("/sys/fs/selinux/enforce") else "SELinux is not in this kernel or not enabled"

    def otheruri(self) -> str | None:
        return None if self.suite.values.get("otheruri") else "its configuration has no otheruri"

    def full_image(self) -> str | None:
        arch = os.uname().machine
        for image in self.suite.images:
            path = f"{self.scratch}/os-{image[0]}-hvm/disk-{image[4]}.img"
            if image[0] == arch and os.path.isfile(path):
                return None
        return f"there is no image '{self.scratch}/os-{arch}-hvm/disk-<osname>.img' of an osname in its configuration"

    def monolithic(self) -> str | None:
        return None if any(daemon.name == "libvirtd" for daemon in self.config.active) else "libvirt's daemons are modular here"

    def busybox(self) -> str | None:
        path = self.suite.values.get("busybox", "/sbin/busybox")
        done = tool(["file", "-L", path], self.config.answer_limit)
        return None if "statically" in done.out else f"'{path}' is not a static busybox: {(done.out or done.why()).strip()}"

    def ovmf(self) -> str | None:
        path = self.suite.values.get("nvram_file_template", "/usr/share/OVMF/OVMF_VARS.fd")
        return None if os.path.isfile(path) else f"there is no '{path}' (nvram_file_template of its configuration)"

    def network(self) -> str | None:
        done = tool(["virsh", "-q", "-c", self.config.uri, "net-list --name"], self.config.answer_limit)
        return (
            None if "default" in done.out.split() else f"the network 'default' is not active: {done.why() if not done.ok else done.out!r}"
        )


CHECKS: dict[str, Callable[[Machine], str | None]] = {
    "nested_kvm": Machine.nested_kvm,
    "block_device": lambda machine: machine.devices("block"),
    "usb_device": lambda machine: machine.devices("usb"),
    "pci_device": lambda machine: machine.devices("pci"),
    "nic_device": lambda machine: machine.devices("network"),
    "selinux": Machine.selinux,
    "otheruri": Machine.otheruri,
    "full_image": Machine.full_image,
    "monolithic_libvirtd": Machine.monolithic,
    "busybox": Machine.busybox,
    "ovmf": Machine.ovmf,
    "default_network": Machine.network,
}
PARAMETER_CHECKS: dict[str, Callable[[str], str | None]] = {
    "command": lambda name: None if shutil.which(name) else f"there is no command '{name}'",
    "file": lambda name: None if os.path.exists(name) else f"there is no '{name}'",
}


def unmet(machine: Machine, need: str, known: dict[str, str | None]) -> str | None:
    """Why a need is not met; asked once each."""
    if need not in known:
        name, _colon, parameter = need.partition(":")
        known[need] = PARAMETER_CHECKS[name](parameter) if name in PARAMETER_CHECKS else CHECKS[need](machine)
    return known[need]


def interpreter(first: str) -> list[str]:
    """What runs a script, by its first line, as prove(1) does it: perl with its switches, or what the line names."""
    words = first[2:].split() if first.startswith("#!") else []
    if words[:1] == ["/usr/bin/env"]:
        words = words[1:]
    if not words or os.path.basename(words[0]).startswith("perl"):
        return ["perl", *words[1:]]
    return words


def list_tests(machine: Machine, needs: list[Need], scripts: dict[str, str], launcher: list[str]) -> list[Event]:
    """The tests of the scripts, names to first lines."""
    config = machine.config
    known: dict[str, str | None] = {}
    assert config.tck is not None  # noqa: S101 # checked by the caller
    entries = []
    for name, first in sorted(scripts.items()):
        mine = [need for need in needs if fnmatch.fnmatchcase(name, need.tests)]
        deadline = max([need.deadline for need in mine if need.deadline is not None], default=DEADLINE)
        program = interpreter(first)
        if program[0] == "perl":
            program += [f"-I{directory}" for directory in config.tck.perl_lib]
        wrapper = [*launcher, "--deadline", f"{deadline:g}", "--name", name, "--"]
        entry: Event = {
            "name": name,
            "command": [*wrapper, *program, os.path.join(config.tck.tests, name)],
            "parser": "tap",
            "deadline": deadline + AFTERMATH,
        }
        reasons = []
        for need in mine:
            lacking = [f"needs {one}: {why}" for one in need.needs if (why := unmet(machine, one, known)) is not None]
            if lacking:
                reasons.append("; ".join(lacking) + (f" ({need.reason})" if need.reason else ""))
        if reasons:
            entry["not_run"] = "; ".join(reasons)[:1000]
        entries.append(entry)
    return entries


def find_scripts(tck: Tck) -> tuple[dict[str, str], set[str]]:
    """The scripts, names to first lines, and the Perl modules they use."""
    scripts, modules = {}, {"Sys::Virt", "Sys::Virt::TCK"}
    for path in sorted(Path(tck.tests).rglob("*.t")):
        text = path.read_text(errors="replace")
        first = text.split("\n", 1)[0]
        scripts[str(path.relative_to(tck.tests))] = first
        if interpreter(first)[0] == "perl":
            modules.update(USED_MODULE.findall(text.partition("\n__END__")[0]))
    if not scripts:
        raise WrapperError(f"there are no scripts of libvirt-TCK (*.t) below '{tck.tests}'")
    return scripts, modules


def look_at_suite(config: Config, modules: set[str]) -> Suite:
    assert config.tck is not None  # noqa: S101 # checked by the caller
    environment = tck_environment(config.tck)
    argv = ["env", *(f"{name}={value}" for name, value in environment.items()), "perl", *(f"-I{path}" for path in config.tck.perl_lib)]
    done = tool([*argv, "-e", LOOK, *sorted(modules)], VIRSH_LIMIT * config.factor)
    if not done.ok:
        raise WrapperError(f"cannot load libvirt-TCK with its configuration '{config.tck.config}': {done.why()}")
    return read_look(done.out)


def prove_suite(config: Config, suite: Suite) -> str:
    """Refuse a TCK that would test another libvirt, or that cannot work; return its scratch directory."""
    uri = suite.values.get("uri", "")
    if uri != config.uri:
        raise WrapperError(f"libvirt-TCK is configured for '{uri or 'the default URI'}', not '{config.uri}'; both must be the guest's own")
    scratch = suite.values.get("scratch_dir", "/var/cache/libvirt-tck")
    if config.scratch and os.path.realpath(config.scratch) != os.path.realpath(scratch):
        raise WrapperError(f"libvirt-TCK is configured for the scratch directory '{scratch}', not '{config.scratch}'")
    if not os.path.isdir(scratch):
        raise WrapperError(f"there is no scratch directory '{scratch}' with a kernel and an initrd for libvirt-TCK")
    room = shutil.disk_usage(scratch).free
    if room < SCRATCH_ROOM:
        raise WrapperError(f"there is no room in '{scratch}': {room >> 20} MiB are free, libvirt-TCK needs {SCRATCH_ROOM >> 20}")
    arch = os.uname().machine
    for kernel in suite.kernels:
        if kernel[0] != arch or "hvm" not in kernel[1].split(","):
            continue
        for file, source in (("vmlinuz", kernel[2]), ("initrd", kernel[3])):
            path = f"{scratch}/os-{arch}-hvm/{file}"
            if source and not os.path.isfile(path) and not (source.startswith("/") and os.path.isfile(source)):
                raise WrapperError(f"there is no '{path}', and libvirt-TCK would download it from '{source}'; put it there first")
        return scratch
    if config.uri.startswith("qemu:") and suite.kernels:
        raise WrapperError(f"libvirt-TCK's configuration '{config.tck.config if config.tck else ''}' has no kernel for {arch} and hvm")
    return scratch


def run_list(config: Config, options: argparse.Namespace) -> int:
    if config.tck is None:
        raise WrapperError("the configuration has no 'tck'; the role libvirt_tck writes it")
    try:
        needs = read_needs(json.loads(options.needs.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise WrapperError(f"cannot read the needs '{options.needs}': {error}") from error
    except WrapperError as error:
        raise WrapperError(f"the list of needs '{options.needs}' {error}") from error
    prove_own(config, None)
    scripts, modules = find_scripts(config.tck)
    suite = look_at_suite(config, modules)
    machine = Machine(config, suite, prove_suite(config, suite))
    launcher = [*LAUNCHER, "run", *([] if options.config == CONFIG else ["--config", str(options.config.resolve())])]
    text = json.dumps(list_tests(machine, needs, scripts, launcher), indent=1) + "\n"
    if options.output is None:
        say(text.rstrip("\n"))
    else:
        new = options.output.with_name(f"{options.output.name}.new")
        new.write_text(text, encoding="utf-8")
        new.replace(options.output)
    return 0


# --- command line -----------------------------------------------------------------------------------------------


def run_check(config: Config, options: argparse.Namespace) -> int:
    """Print what answers."""
    until = time.monotonic() + options.wait
    own_uri(config.uri)
    libvirt = Libvirt(config)
    while True:
        try:
            prove_own(config, None)
            done = libvirt.virsh("version --daemon", config.answer_limit)
            if done.ok:
                break
            raise WrapperError(f"libvirt does not answer at '{config.uri}': {done.why()}")
        except WrapperError:
            if time.monotonic() >= until:
                raise
        time.sleep(0.2)
    daemons = {daemon.name: found.pid if (found := daemon_process(daemon)) is not None else None for daemon in config.active}
    versions = dict(
        re.findall(
            r"^(?:Compiled against library|Using library|Using API|Running hypervisor|Running against daemon): (.*) ([0-9.]+)$",
            done.out,
            re.MULTILINE,
        )
    )
    say(json.dumps({"uri": config.uri, "daemons": daemons, "versions": versions}))
    return 0


def run_purge(config: Config) -> int:
    if not config.purge_prefix:
        raise WrapperError("the configuration has no 'purge_prefix', so nothing is known to be a test's")
    state = State()
    try:
        prove_own(config, state)
        state.update(clean=False)
        for line in restore(config, state, Libvirt(config)):
            say(f"removed {line}")
    finally:
        state.close()
    return 0


def run_test(config: Config, options: argparse.Namespace, directory: Path) -> int:
    own_uri(config.uri)
    state = State()
    try:
        return Test(config, options, directory).run(state)
    finally:
        state.close()


def kept_in(options: argparse.Namespace) -> Path:
    """The directory for what is kept of a test."""
    place = os.environ.get("MAYFLY_TEST_DIR") or os.environ.get("AVOCADO_TEST_OUTPUTDIR") or options.dir
    if not place:
        raise WrapperError("there is no directory for what is kept of the test: set MAYFLY_TEST_DIR, or say --dir")
    if not os.path.isdir(place):
        raise WrapperError(f"'{place}', the directory for what is kept of the test, is not there")
    return Path(place)


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config", type=Path, default=CONFIG, help=f"configuration, a JSON file (default: {CONFIG})")
    parser = argparse.ArgumentParser(description="Run one test against this machine's own libvirt and watch the daemons around it.")
    actions = parser.add_subparsers(dest="action", required=True)
    run = actions.add_parser("run", parents=[common], help="run one test")
    run.add_argument("--deadline", type=float, help="seconds, stretched by the configured factor (default: none)")
    run.add_argument("--name", help="name of the test (default: its command)")
    run.add_argument("--dir", help="directory for what is kept, if neither MAYFLY_TEST_DIR nor AVOCADO_TEST_OUTPUTDIR is set")
    run.add_argument("command", nargs="+", metavar="COMMAND", help="the test and its arguments, after --")
    actions.add_parser("purge", parents=[common], help="remove what tests left in libvirt")
    listing = actions.add_parser("list", parents=[common], help="list libvirt-TCK's scripts as tests")
    listing.add_argument("--needs", type=Path, required=True, help="which tests need what, a JSON file")
    listing.add_argument("--output", type=Path, help="where to write the list (default: standard output)")
    check = actions.add_parser("check", parents=[common], help="does libvirt answer, and is it this machine's own")
    check.add_argument("--wait", type=float, default=0.0, help="seconds to wait for an answer")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Entry point: the test's status; 2 when it cannot be run."""
    options = parse_arguments(arguments)
    directory = None
    try:
        if options.action == "run":
            directory = kept_in(options)
        config = load_config(options.config)
        if options.action == "run":
            return run_test(config, options, directory)
        if options.action == "list":
            return run_list(config, options)
        return run_check(config, options) if options.action == "check" else run_purge(config)
    except (WrapperError, OSError) as error:
        print(f"mayfly_libvirt_test: {error}", file=sys.stderr)
        if directory is not None:
            say(f"Bail out! {error}")
            write_judgement(directory, "error", [str(error)])
        return 2


def end() -> None:
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    end()
