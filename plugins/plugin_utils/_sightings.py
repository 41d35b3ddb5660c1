# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the watcher on the hypervisor sees of one guest, followed from the controller."""

from __future__ import annotations

import os
import shlex
import subprocess
import typing as t
from pathlib import Path

from ..module_utils._watch_log import read_event

Record = dict[str, t.Any]

CHUNK = 1024 * 1024


class Sightings:
    """The watcher's file, read as it grows: here, or through ssh where the hypervisor is another machine."""

    def __init__(self, path: str, host: str, guest: str) -> None:
        self._guest = guest
        self._rest = b""
        self._file: t.IO[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._end: Record | None = None
        if host:
            self._process = _tail(host, path)
            self._file = self._process.stdout
        elif Path(path).exists():
            self._file = open(path, "rb", buffering=0)  # noqa: SIM115 closed by close()
        if self._file is not None:
            os.set_blocking(self._file.fileno(), False)

    def end(self) -> Record | None:
        """Return the event after which no suite of this guest can go on, if it has come."""
        while self._file is not None:
            try:
                data = os.read(self._file.fileno(), CHUNK)
            except BlockingIOError:
                break
            if not data:
                break
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                self._take(read_event(line.decode("utf-8", "replace")))
        return self._end

    def _take(self, event: Record) -> None:
        if event["event"] == "watch_start":  # of a prepare that was tried again: what came before was of other guests
            self._end = None
        elif self._end is None and event.get("stop") and event.get("guest") == self._guest:
            self._end = event

    def lost(self) -> bool:
        """Tell whether nothing can be seen any more because ssh to the hypervisor has ended."""
        return self._process is not None and self._process.poll() is not None

    def close(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
        if self._file is not None:
            self._file.close()


def _tail(host: str, path: str) -> subprocess.Popen[bytes]:
    """Follow a file on a hypervisor that plain ssh reaches, as it is jumped through to its guests."""
    user_host, _colon, port = host.rpartition(":") if host.rpartition(":")[2].isdigit() else (host, "", "")
    argv = ["ssh", "-o", "BatchMode=yes", *(["-p", port] if port else []), user_host, f"exec tail -n +1 -F {shlex.quote(path)} 2>/dev/null"]
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def told(event: Record) -> str:
    """Say what ended the suites of a guest."""
    if event["event"] == "kernel":
        return f"its kernel {'died' if event['fatal'] else 'complained'}: {event['text']}"
    return f"its domain {event['what'].replace('_', ' ')}: {event['detail']}"
