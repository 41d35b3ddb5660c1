# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The watcher of a run: a process on the hypervisor that reads the guests' consoles and hears libvirt's events.

What it sees goes line by line to watch.jsonl in the run's directory, which whoever runs suites follows. Its last line, when
all went well, is watch_end: a watcher that died or went blind leaves none, and then nobody may call the consoles quiet.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import queue
import select
import signal
import time
import typing as t
from pathlib import Path

from ._console import Allowance, Scanner, clean
from ._errors import MayflyError
from ._libvirt import Events, Happening
from ._run import RunPaths, boot_id, process_started, read_run, utc_now
from ._scrub import Pattern, scrub_text
from ._watch_log import last_watch

INTERVAL = 0.25  # seconds between two looks at the consoles
SETTLE = 1.0  # seconds after which a splat is taken as whole, if the console says nothing more
OVERSEE = 5.0  # seconds between two looks at the run and the connection
RECONNECT = 60.0  # seconds without libvirt after which the watcher is blind
STOP_PATIENCE = 20.0
CHUNK = 1024 * 1024
LINE_LIMIT = 4096
STAMPED_LIMIT = 16 * 1024 * 1024
STOP_ON = ("panic", "trouble", "never")
SAID = ("text", "frames", "detail", "error")  # fields of an event in which others' words stand

Record = dict[str, t.Any]


@dataclasses.dataclass(frozen=True)
class Watched:
    """A guest whose console is read."""

    guest: str
    domain: str
    uuid: str


@dataclasses.dataclass(frozen=True)
class WatchPaths:
    """The watcher's files in the run's directory."""

    run: RunPaths

    @property
    def record(self) -> Path:
        return self.run.dir / "watch.json"

    @property
    def events(self) -> Path:
        return self.run.dir / "watch.jsonl"

    @property
    def log(self) -> Path:
        return self.run.dir / "watch.log"

    def stamped(self, domain: str) -> Path:
        return self.run.dir / f"{domain}.console.stamped.log"


# --- deciding -----------------------------------------------------------------------------------------------------------


def ends_job(stop_on: str, splat: Record) -> bool:
    """Tell whether a complaint of the kernel ends the suites of its guest."""
    if stop_on == "never" or splat["allowed"]:
        return False
    return bool(splat["fatal"]) or stop_on == "trouble"


def kernel_event(guest: str, splat: Record, stop_on: str) -> Record:
    names = ("line", "kind", "text", "fatal", "fingerprint", "frames", "allowed")
    return {"event": "kernel", "guest": guest, **{name: splat[name] for name in names}, "stop": ends_job(stop_on, splat)}


def domain_event(guest: str, happening: Happening, stop_on: str) -> Record:
    """What befell a domain. A reboot may be the suite's own; after the others no suite can go on."""
    return {
        "event": "domain",
        "guest": guest,
        "what": happening.what,
        "detail": happening.detail,
        "fatal": happening.what == "crashed",
        "stop": stop_on != "never" and happening.what != "rebooted",
    }


# --- reading consoles ---------------------------------------------------------------------------------------------------


class Tail:
    """A console's file, read to its end again and again, through the rotations of virtlogd."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: t.BinaryIO | None = None
        self.bytes = 0
        self.lost = ""

    def read(self) -> bytes:
        """Return what is new, a bounded part of it."""
        if self._file is None:
            self._file = self._open()
        data = b"" if self._file is None else self._next(self._file)
        self.bytes += len(data)
        return data

    def _open(self) -> t.BinaryIO | None:
        try:
            return self._path.open("rb")
        except FileNotFoundError:  # QEMU has not begun, or the file is between two names
            return None

    def _next(self, file: t.BinaryIO) -> bytes:
        data = file.read(CHUNK)
        if data or self._is(file, self._path, missing=True):
            return data
        data = file.read(CHUNK)  # written between the two looks
        if data:
            return data
        if not self._is(file, Path(f"{self._path}.0"), missing=False):
            self.lost = f"{self._path.name} was rotated faster than it could be read"
        file.close()
        self._file = self._open()
        return b"" if self._file is None else self._file.read(CHUNK)

    @staticmethod
    def _is(file: t.BinaryIO, path: Path, *, missing: bool) -> bool:
        """Tell whether the open file is the one of that name; missing is the answer when there is none."""
        try:
            return os.path.samestat(os.fstat(file.fileno()), path.stat())
        except FileNotFoundError:
            return missing


class Console:
    """One guest's console: its new lines stamped, kept and searched."""

    def __init__(self, watched: Watched, path: Path, stamped: Path, allowances: t.Sequence[Allowance]) -> None:
        self.watched = watched
        self.tail = Tail(path)
        self.scanner = Scanner(allowances)
        self._stamped: t.TextIO | None = stamped.open("a", encoding="utf-8")
        self._left = STAMPED_LIMIT
        self._rest = b""
        self._grew = 0.0

    def look(self, now: float) -> list[Record]:
        """Read what is new; return the splats that are whole now."""
        splats: list[Record] = []
        while data := self.tail.read():
            self._grew = now
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                splats += self._line(line)
            self._rest = self._rest[:LINE_LIMIT]
        if self.scanner.open is not None and (self.scanner.open["fatal"] or now - self._grew > SETTLE):
            splats += self.scanner.close()
        return splats

    def end(self) -> list[Record]:
        """Return what the last, unfinished line and splat say."""
        splats = [*(self._line(self._rest) if self._rest else []), *self.scanner.close()]
        if self._stamped is not None:
            self._stamped.close()
        return splats

    def _line(self, line: bytes) -> list[Record]:
        text = line[:LINE_LIMIT].decode("utf-8", "replace").rstrip("\r")
        self._keep(clean(text))
        return self.scanner.feed(text)

    def _keep(self, text: str) -> None:
        if self._stamped is None:
            return
        stamped = f"{stamp(time.time())}  {text}\n"
        self._left -= len(stamped)
        self._stamped.write(stamped if self._left > 0 else "[mayfly: cut here; console.log has the rest]\n")
        if self._left <= 0:
            self._stamped.close()
            self._stamped = None
        else:
            self._stamped.flush()


def stamp(moment: float) -> str:
    return datetime.datetime.fromtimestamp(moment, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


# --- the process --------------------------------------------------------------------------------------------------------


class Watcher:
    """Watches the guests of one run until it is told to end, or the run is over or gone."""

    def __init__(
        self,
        paths: WatchPaths,
        guests: t.Sequence[Watched],
        stop_on: str,
        allowances: t.Sequence[Allowance],
        listen: t.Callable[[queue.SimpleQueue[t.Any]], Events],
        secrets: t.Sequence[Pattern] = (),
    ) -> None:
        self._secrets = secrets
        self._paths = paths
        self._stop_on = stop_on
        self._guests = {watched.uuid: watched.guest for watched in guests}
        self._listen = listen
        self._queue: queue.SimpleQueue[t.Any] = queue.SimpleQueue()  # happenings; None: end
        self._log = paths.events.open("a", encoding="utf-8")
        self._consoles = [
            Console(watched, paths.run.console(watched.domain), paths.stamped(watched.domain), allowances) for watched in guests
        ]
        self._events: Events | None = None
        self._deaf_since: float | None = None
        self._overseen = 0.0
        self._told = False  # to end, by whoever collects

    def begin(self) -> None:
        """Hear libvirt, look at the consoles for the first time, and write down that the watch has begun."""
        self._write({"event": "watch_start", "guests": sorted(self._guests.values()), "stop_on": self._stop_on})
        self._events = self._listen(self._queue)
        self._compare_states()
        self._look()

    def run(self) -> None:
        """Watch. Whatever ends it but an error leaves watch_end."""
        try:
            while self._goes_on():
                self._look()
            self._finish()
        except BaseException as error:
            self._write({"event": "error", "error": f"the watcher failed: {type(error).__name__}: {error}"})
            raise
        finally:
            self._log.close()

    def end(self) -> None:
        """Have run() come to its end; may be called by a signal handler."""
        self._queue.put(None)

    def _goes_on(self) -> bool:
        """Wait for the next look; tell whether there shall be one."""
        next_look = time.monotonic() + INTERVAL  # however much happens to the domains of others
        with contextlib.suppress(queue.Empty):
            while (left := next_look - time.monotonic()) > 0:
                happening = self._queue.get(timeout=left)
                if happening is None:
                    self._told = True
                    return False
                self._happened(happening)
        if time.monotonic() - self._overseen < OVERSEE:
            return True
        self._overseen = time.monotonic()
        self._mind_connection()
        return self._run_goes_on()

    def _run_goes_on(self) -> bool:
        run = read_run(self._paths.run)
        return run is not None and not run.over(utc_now(), boot_id())

    def _look(self) -> None:
        now = time.monotonic()
        for console in self._consoles:
            for splat in console.look(now):
                self._write(kernel_event(console.watched.guest, splat, self._stop_on))
            if console.tail.lost:
                self._write({"event": "error", "guest": console.watched.guest, "error": console.tail.lost})
                console.tail.lost = ""

    def _happened(self, happening: Happening) -> None:
        guest = self._guests.get(happening.uuid)
        if guest is not None:
            self._look()  # what the console said of it comes first
            self._write(domain_event(guest, happening, self._stop_on))

    def _compare_states(self) -> None:
        """What happened while nobody listened."""
        states = self._events.states() if self._events else {}
        for uuid in self._guests:
            state = states.get(uuid)
            if state == "crashed":
                self._happened(Happening(uuid, "crashed", "its kernel panicked"))
            elif state is None or state == "shut off":
                self._happened(Happening(uuid, "stopped", "it was gone when the watcher looked"))

    def _mind_connection(self) -> None:
        """Listen again when libvirt was restarted."""
        if self._events is not None and self._events.alive():
            return
        now = time.monotonic()
        self._events = None
        if self._deaf_since is None:
            self._deaf_since = now
            self._write({"event": "note", "text": "the connection to libvirt was lost"})
        try:
            self._events = self._listen(self._queue)
        except MayflyError as error:
            if now - self._deaf_since > RECONNECT:
                raise
            self._write({"event": "note", "text": str(error)})
            return
        self._deaf_since = None
        self._write({"event": "note", "text": "listening to libvirt again"})
        self._compare_states()

    def _finish(self) -> None:
        self._look()
        seen: dict[str, Record] = {}
        for console in self._consoles:
            for splat in console.end():
                self._write(kernel_event(console.watched.guest, splat, self._stop_on))
            seen[console.watched.guest] = {"bytes": console.tail.bytes, "lines": console.scanner.lines}
        self._write({"event": "watch_end", "guests": seen, "told": self._told})

    def _write(self, event: Record) -> None:
        """Write an event. It was judged by what the kernel said; its texts, which become part of the results, have no secret any more."""
        self._log.write(json.dumps({"time": round(time.time(), 3), **_scrubbed(event, self._secrets)}) + "\n")
        self._log.flush()


def _scrubbed(event: Record, secrets: t.Sequence[Pattern]) -> Record:
    return {**event, **{name: _without(event[name], secrets) for name in SAID if name in event}}


def _without(said: t.Any, secrets: t.Sequence[Pattern]) -> t.Any:
    return scrub_text(said, secrets)[0] if isinstance(said, str) else [scrub_text(each, secrets)[0] for each in said]


@dataclasses.dataclass(frozen=True)
class Process:
    """A watcher that runs, as its record tells."""

    pid: int
    started: int
    guests: tuple[str, ...]

    def alive(self) -> bool:
        return process_started(self.pid) == self.started


def read_process(paths: WatchPaths) -> Process | None:
    """Return the watcher of the run, alive or not, or None when there never was one."""
    try:
        data = json.loads(paths.record.read_text(encoding="utf-8"))
        return Process(int(data["pid"]), int(data["started"]), tuple(data["guests"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise MayflyError("read watcher", str(paths.record), f"it is not a watcher's record ({error})", "Remove the file.") from error


def stop(process: Process) -> None:
    """End a watcher and wait until it is gone; one that does not go is killed, and its missing watch_end tells."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        # The handle stays that process whatever becomes of its number, so look now whose it is.
        for number, patience in ((signal.SIGTERM, STOP_PATIENCE), (signal.SIGKILL, 5.0)):
            if not process.alive():
                return
            with contextlib.suppress(ProcessLookupError):  # it went between look and signal
                signal.pidfd_send_signal(handle, number)
            if select.select([handle], [], [], patience)[0]:
                return
    finally:
        os.close(handle)
    raise MayflyError("end watcher", f"process {process.pid}", "it is still there after SIGKILL", "Is its disk or mount hanging?")


def start(paths: WatchPaths, guests: t.Sequence[Watched], make: t.Callable[[], Watcher]) -> int:
    """Start the watcher in the background; return its pid once it watches."""
    reader, writer = os.pipe()
    first = os.fork()
    if first == 0:
        os.close(reader)
        _become_daemon(paths, guests, make, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read().decode("utf-8", "replace")
    os.waitpid(first, 0)
    if not said.isdigit():
        raise MayflyError("start watcher of run", paths.run.run, said or "it ended at once", f"Look at {paths.log}.")
    return int(said)


def _become_daemon(paths: WatchPaths, guests: t.Sequence[Watched], make: t.Callable[[], Watcher], writer: int) -> t.NoReturn:
    """Leave whoever started us: their session, their files, their way of ending."""
    status = 1
    try:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.chdir("/")
        _leave_files(paths, writer)
        Path("/proc/self/comm").write_text("mayfly-watch")  # what ps shows
        watcher = make()
        # Ansible's own handlers are not ours; the handler only puts into a queue made for that.
        signal.signal(signal.SIGTERM, lambda *_unused: watcher.end())
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        watcher.begin()
        _write_record(paths, guests)
        os.write(writer, str(os.getpid()).encode())
        os.close(writer)
        writer = -1  # its number may be another file's from now on
        watcher.run()
        status = 0
    except BaseException as error:
        with contextlib.suppress(OSError):  # closed: who started us has gone on, and the log tells
            os.write(writer, f"{type(error).__name__}: {error}".encode())
        os.write(2, f"{stamp(time.time())} {type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(status)


def _leave_files(paths: WatchPaths, writer: int) -> None:
    """Close everything that was open, or whoever waits for the end of our output would wait as long as we watch."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    log = os.open(paths.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for source, target in ((nowhere, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    os.closerange(3, writer)
    os.closerange(writer + 1, highest + 1)


def _write_record(paths: WatchPaths, guests: t.Sequence[Watched]) -> None:
    pid = os.getpid()
    record = {"pid": pid, "started": process_started(pid), "guests": [watched.uuid for watched in guests]}
    fresh = paths.record.with_suffix(".new")
    fresh.write_text(json.dumps(record) + "\n", encoding="utf-8")
    fresh.replace(paths.record)


def read_events(paths: WatchPaths) -> list[Record]:
    """Return what the last watch of the run wrote."""
    try:
        return last_watch(paths.events.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []


def last_stop_on(paths: WatchPaths) -> str:
    """Return what the last watcher of the run was told to end suites at, empty when there was none."""
    events = read_events(paths)
    return str(events[0].get("stop_on", "")) if events else ""
