# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a hypervisor knows of a domain, dead or alive, written into its run's directory."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import time
import typing as t
from pathlib import Path

from . import _vmcore
from ._console import death, scan_console
from ._domain_xml import SeenDomain
from ._errors import MayflyError
from ._libvirt import Hypervisor
from ._lxml import etree
from ._patience import Patient
from ._run import RunPaths
from ._screenshot import to_png
from ._types import RunCommand

QEMU_LOGS = Path("/var/log/libvirt/qemu")
DAEMON_CONFIGURATIONS = (Path("/etc/libvirt/libvirtd.conf"), Path("/etc/libvirt/virtqemud.conf"))
SYSTEMD = Path("/run/systemd/system")
LOG_END = 4 * 1024 * 1024  # bytes that are kept of a log, its end
DAEMON_LOG_END = 32 * 1024 * 1024  # of the daemon's log are looked through
POLL = 0.2
SETTLED = 1.5  # seconds without a further word, and the kernel has said all

_ALT, _SYSRQ = 56, 99
# backtraces of all processors, blocked tasks, all tasks
SYSRQ = (("l", 38), ("w", 17), ("t", 20))
_FILE_OUTPUT = re.compile(r'^\s*log_outputs\s*=\s*".*?\d:file:([^\s"]+)', re.MULTILINE)
_MIB = 1024 * 1024


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is wanted of one domain."""

    name: str
    hung: bool
    memory_dump: str  # never, on_crash or always
    dump_limit_mib: int
    patience: float
    overlay: str = "never"  # or on_crash, always
    overlay_limit_mib: int = 8192


class DaemonLog:
    """What libvirt's daemon wrote of late, read once for all domains: a log has other people's too."""

    def __init__(self, run_command: RunCommand) -> None:
        self._run_command = run_command
        self._lines: list[str] | None = None
        self.silent = False

    def about(self, words: t.Sequence[str]) -> bytes:
        """Return the lines that have one of the words."""
        if self._lines is None:
            self._lines = [line for text in self._read() for line in text.splitlines()]
        return "".join(f"{line}\n" for line in self._lines if any(word in line for word in words)).encode()[-LOG_END:]

    def _read(self) -> list[str]:
        files = daemon_logs([file.read_text(encoding="utf-8", errors="replace") for file in DAEMON_CONFIGURATIONS if file.exists()])
        if files:
            return [_end(Path(file), DAEMON_LOG_END).decode("utf-8", "replace") for file in files]
        if SYSTEMD.is_dir():
            return [self._journal()]
        self.silent = True
        return []

    def _journal(self) -> str:
        argv = ["journalctl", "--no-pager", "--quiet", "-b", "-o", "short-iso", "-u", "libvirtd", "-u", "virtqemud", "-n", "100000"]
        code, out, err = self._run_command(argv)
        if code != 0:
            raise MayflyError("read the journal of", "libvirtd", err or out)
        return out


class Autopsy:
    """Looks at one domain and writes down what it finds; what cannot be had is said and does not keep the rest from being had."""

    def __init__(
        self,
        hypervisor: Hypervisor | Patient | None,
        paths: RunPaths,
        domain: SeenDomain | None,
        state: str,
        wanted: Wanted,
        daemon: DaemonLog,
        run_command: RunCommand,
        unknown: str = "",
    ) -> None:
        """'unknown' says why libvirt does not tell whether there is such a domain; then there are only files to look at."""
        self._unknown = unknown
        self._hypervisor = hypervisor
        self._run_command = run_command
        self._paths = paths
        self._domain = domain
        self._state = state
        self._wanted = wanted
        self._daemon = daemon
        self._console = paths.console(wanted.name)
        self.directory = evidence_dir(paths) / wanted.name
        self.dump = evidence_dir(paths) / f"{wanted.name}.vmcore"
        self.overlay = evidence_dir(paths) / f"{wanted.name}.qcow2"
        self.missing: dict[str, str] = {}
        self.left_out: list[str] = []

    def perform(self) -> None:
        if self.directory.exists():  # of an earlier attempt
            shutil.rmtree(self.directory)
        evidence_dir(self._paths).mkdir(mode=0o700, exist_ok=True)
        self.directory.mkdir(mode=0o700)
        self.dump.unlink(missing_ok=True)
        self.overlay.unlink(missing_ok=True)
        if self._domain is not None:
            if self._state != "running":
                self.left_out.append(f"the domain is {self._state}: what only the guest itself could tell is not there")
            self._look(self._domain)
        elif self._unknown:
            self.missing["domain.xml"] = self._unknown
        else:
            self.left_out.append("the domain is gone: only its console, its overlay and QEMU's log are left")
        if self._wants(self._wanted.overlay):
            if self._unknown:  # it may be running, and its disk half written
                self.missing["overlay.qcow2"] = self._unknown
            else:
                self._keep_overlay()
        self._logs()
        self._consoles()

    def _look(self, domain: SeenDomain) -> None:
        try:
            xml = self._hypervisor.xml(domain.uuid)
        except MayflyError as error:
            self.missing["domain.xml"] = str(error)
            return
        self._write("domain.xml", xml.encode())
        self._try("domain.json", lambda: _as_json(self._hypervisor.condition(domain.uuid)))
        if not has_screen(xml):
            self.left_out.append("screenshot.png: the domain has no video device")
        else:
            self._try("screenshot.png", lambda: to_png(self._hypervisor.screenshot(domain.uuid)))
        if self._wanted.hung and self._state == "running":
            self._rouse(domain)
        if self._wants(self._wanted.memory_dump):
            self._dump(domain)

    # -- a guest that hangs --------------------------------------------------------------------------------------------

    def _rouse(self, domain: SeenDomain) -> None:
        """Let the kernel tell on its console what it is doing: by keys it may be set not to heed, then by an interrupt it cannot."""
        before = _size(self._console)
        for letter, key in SYSRQ:
            self._provoke(f"SysRq {letter}", lambda key=key: self._hypervisor.press(domain.uuid, [_ALT, _SYSRQ, key]))
        self._provoke("NMI", lambda: self._hypervisor.interrupt(domain.uuid))
        self._write("sysrq.log", _from(self._console, before))

    def _provoke(self, what: str, act: t.Callable[[], None]) -> None:
        before = _size(self._console)
        try:
            act()
        except MayflyError as error:
            self.missing[what] = error.reason
            return
        if not settled(lambda: _size(self._console), before, self._wanted.patience):
            self.left_out.append(f"{what}: the kernel said nothing to it within {self._wanted.patience:.0f} s")
        elif b"This sysrq operation is disabled" in _from(self._console, before):
            self.left_out.append(f"{what}: the guest's kernel does not allow it; boot it with sysrq_always_enabled")

    # -- memory and disk -----------------------------------------------------------------------------------------------

    def _wants(self, when: str) -> bool:
        if when == "on_crash":
            return self._state == "crashed" or self._wanted.hung or self._panicked()
        return when == "always"

    def _panicked(self) -> bool:
        """A kernel without a driver for the panic device dies without libvirt's knowing."""
        return death(scan_console(_end(self._console, LOG_END).decode("utf-8", "replace"))) is not None

    def _dump(self, domain: SeenDomain) -> None:
        free = shutil.disk_usage(self.directory).free // _MIB
        why_not = _vmcore.refusal(domain.memory_mib, free, self._wanted.dump_limit_mib)
        if why_not:
            self.missing["memory.vmcore"] = why_not
            return
        raw = self.dump.with_suffix(".flat")
        try:
            self._hypervisor.dump_memory(domain.uuid, str(raw))
            self._finish_dump(raw)
        except (MayflyError, OSError, ValueError) as error:
            self.missing["memory.vmcore"] = str(error)
            self.dump.unlink(missing_ok=True)
        finally:
            raw.unlink(missing_ok=True)

    def _finish_dump(self, raw: Path) -> None:
        """Give the dump the form that tools read, and say so when they will not."""
        with raw.open("rb") as source:
            flat = _vmcore.is_flat(source)
            if flat:
                with self.dump.open("xb") as target:
                    _vmcore.unflatten(source, target)
        if not flat:
            raw.rename(self.dump)
        os.chown(self.dump, os.geteuid(), os.getegid())
        self.dump.chmod(0o600)
        with self.dump.open("r+b") as dump:
            try:
                _vmcore.mend(dump)
            except ValueError as error:
                self.left_out.append(f"memory.vmcore: {error}")

    def _keep_overlay(self) -> None:
        """Copy what the guest has written to its disk. Only a domain that stands still has all of it in the file."""
        source = self._paths.overlay(self._wanted.name)
        try:
            size = source.stat().st_blocks * 512 // _MIB + 1
        except FileNotFoundError:
            self.left_out.append("overlay.qcow2: the domain has no overlay of ours")
            return
        free = shutil.disk_usage(self.directory).free // _MIB
        if size > self._wanted.overlay_limit_mib:
            self.missing["overlay.qcow2"] = f"it has {size} MiB, more than the limit of {self._wanted.overlay_limit_mib} MiB"
        elif size + 1024 > free:
            self.missing["overlay.qcow2"] = f"it has {size} MiB, and only {free} MiB are free beside it; 1024 MiB must stay free"
        else:
            self._try_overlay(source)

    def _try_overlay(self, source: Path) -> None:
        try:
            if self._domain is not None and self._state == "running":
                self._hypervisor.pause(self._domain.uuid)
                try:
                    self._copy(source)
                finally:
                    self._hypervisor.resume(self._domain.uuid)
            else:
                self._copy(source)
        except MayflyError as error:
            self.missing["overlay.qcow2"] = str(error)
            self.overlay.unlink(missing_ok=True)

    def _copy(self, source: Path) -> None:
        for argv in (
            ["cp", "--sparse=always", "--reflink=auto", str(source), str(self.overlay)],
            ["qemu-img", "check", "-q", str(self.overlay)],
        ):
            code, out, err = self._run_command(argv)
            if code != 0:
                raise MayflyError("keep overlay", str(source), (err or out).strip() or f"{argv[0]} ended with status {code}")
        os.chown(self.overlay, os.geteuid(), os.getegid())
        self.overlay.chmod(0o600)

    # -- files ---------------------------------------------------------------------------------------------------------

    def _logs(self) -> None:
        log = QEMU_LOGS / f"{self._wanted.name}.log"
        if log.exists():
            self._try("qemu.log", lambda: _end(log, LOG_END))
        else:
            self.left_out.append(f"qemu.log: there is no {log}")
        words = [self._wanted.name, *([self._domain.uuid] if self._domain else [])]
        self._try("libvirt.log", lambda: self._daemon.about(words))
        if self._daemon.silent:
            self.left_out.append("libvirt.log: libvirt's daemon writes no log of its own; log_outputs in its configuration sets one")

    def _consoles(self) -> None:
        """Last: what was done above made the kernel talk. virtlogd begins a new file when one is full; the older ones are .0, .1, …"""
        stamped = self._console.with_suffix(".stamped.log")  # the watcher's, with the time of each line
        consoles = [self._console, *sorted(self._console.parent.glob(f"{self._console.name}.[0-9]")), stamped]
        for console in consoles:
            if console.exists():
                shutil.copyfile(console, self.directory / console.name[len(self._wanted.name) + 1 :])

    def _try(self, name: str, get: t.Callable[[], bytes]) -> None:
        try:
            self._write(name, get())
        except (MayflyError, OSError, ValueError) as error:
            self.missing[name] = str(error)

    def _write(self, name: str, data: bytes) -> None:
        if data:
            (self.directory / name).write_bytes(data)


def evidence_dir(paths: RunPaths) -> Path:
    return paths.dir / "evidence"


def has_screen(xml: str) -> bool:
    """Tell whether libvirt's description, which is empty when the domain has just gone, has a video device."""
    return bool(xml) and etree.fromstring(xml).find("devices/video") is not None


def settled(size: t.Callable[[], int], before: int, patience: float) -> bool:
    """Wait until something has grown and then rests; tell whether it has grown. Not longer than patience, if it does not rest."""
    deadline = time.monotonic() + patience
    last, since = before, time.monotonic()
    while time.monotonic() < deadline:
        now = size()
        if now != last:
            last, since = now, time.monotonic()
        elif last != before and time.monotonic() - since >= SETTLED:
            return True
        time.sleep(POLL)
    return last != before


def daemon_logs(configurations: t.Iterable[str]) -> list[str]:
    """Return the files that the daemons' configurations name."""
    return [match[1] for text in configurations for match in _FILE_OUTPUT.finditer(text)]


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _from(path: Path, offset: int) -> bytes:
    """Return what was added since; all, when virtlogd has begun a new file."""
    data = path.read_bytes() if path.exists() else b""
    return data[offset:] if len(data) >= offset else data


def _end(path: Path, size: int) -> bytes:
    if not path.exists():
        return b""
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - size))
        return file.read(size)


def _as_json(data: t.Any) -> bytes:
    return (json.dumps(data, indent=2, sort_keys=True) + "\n").encode()
