# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files that were kept of one test: where they lie, what they are, and what is said in them of libvirt. Pure, but for a given reader.

Their names were said by a guest, so each is a plain name, and is looked for in the directory of its test and nowhere else. What was
announced and is not there is told, not forgotten.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from ._events import is_count, is_files, load_json
from ._outcome import attempts_of, logs_of

LIBVIRT = "libvirt.json"
LEAKED = 100  # of a test, that are listed
DAEMONS = 20
NAME_LIMIT = 200  # characters
PROBE_LIMIT = 4096

_DAEMON_LOG = re.compile(r"(?:libvirtd|virt[a-z]{1,20}d)\.log")
_QEMU_LOG = re.compile(r"qemu-.*\.log")
_TRACE = re.compile(r"(?:core|backtrace)-.*\.txt")

Data = dict[str, Any]
Find = Callable[[str], "tuple[str, int] | None"]  # a file by its path: the path under which it is stored, and its size
Read = Callable[[str], str]


def is_daemon_log(name: str) -> bool:
    return _DAEMON_LOG.fullmatch(name) is not None


def is_qemu_log(name: str) -> bool:
    return _QEMU_LOG.fullmatch(name) is not None


def is_trace(name: str) -> bool:
    """Tell whether a file says where a program was when it died or hung."""
    return _TRACE.fullmatch(name) is not None


def add_files(suite: Data, find: Find, read: Read) -> None:
    """Say of the files of a suite, of its tests and of their earlier tries where they lie, and what was told of libvirt."""
    for test in [suite, *suite["tests"]]:
        for entry, directory in _holders(suite, test):
            names = entry.pop("files", None)
            if not names or not is_files(names):
                continue
            entry["files"] = [_file(name, find(f"{directory}/{name}")) for name in dict.fromkeys(names)]
            if LIBVIRT in names and entry is not suite:
                entry["libvirt"] = _libvirt(entry["files"], read)
    leaks = [(test, leaked_by(test)) for test in suite["tests"]]
    told = [f"{test['name'] or test['number']} ({', '.join(leaked[:3])})" for test, leaked in leaks if leaked]
    if told:
        more = f" and {len(told) - 3} more" if len(told) > 3 else ""
        suite["notes"].append(f"left behind by {', '.join(told[:3])}{more}")


def _holders(suite: Data, test: Data) -> Iterator[tuple[Data, str]]:
    """A test and its earlier tries, each with the directory of its files; the last try is the test itself. A suite has files too."""
    if test is suite:
        yield suite, f"suites/{suite['name']}/{suite['guest']}"
        return
    logs = logs_of(test)
    if logs is None:
        test.pop("files", None)
        return
    base = f"suites/{suite['name']}/{suite['guest']}/{logs}"
    yield test, base
    tries = attempts_of(test)
    for number, attempt in enumerate(tries, start=1):
        if number < len(tries):
            yield attempt, f"{base}/attempt-{number}"
        else:
            attempt.pop("files", None)


def _file(name: str, stored: tuple[str, int] | None) -> Data:
    path, size = stored or (None, None)
    return {"name": name, "path": path, "bytes": size}


def files_of(entry: Data) -> list[Data]:
    """The files of a test or of a try that are there."""
    return [file for file in entry.get("files") or [] if file["path"]]


def missing_of(entry: Data) -> list[str]:
    """The names of files that were announced and are not there."""
    return [file["name"] for file in entry.get("files") or [] if not file["path"]]


def leaked_by(test: Data) -> list[str]:
    """What a test left behind in libvirt, in whichever try."""
    told = [entry.get("libvirt") or {} for entry in (*attempts_of(test)[:-1], test)]
    return list(dict.fromkeys(name for entry in told for name in entry.get("leaked", [])))


def restarted_in(test: Data) -> list[str]:
    """The daemons that were another process after a test than before it."""
    told = [entry.get("libvirt") or {} for entry in (*attempts_of(test)[:-1], test)]
    return list(dict.fromkeys(name for entry in told for name, daemon in entry.get("daemons", {}).items() if daemon["restarted"]))


def _libvirt(files: list[Data], read: Read) -> Data:
    path = next(file["path"] for file in files if file["name"] == LIBVIRT)
    if path is None:
        return {"leaked": [], "daemons": {}, "error": f"{LIBVIRT} was announced and is not there"}
    return read_libvirt(read(path))


def read_libvirt(text: str) -> Data:
    """Return what a wrapper says of libvirt around one test: what the test left behind, and what its daemons did."""
    try:
        raw = load_json(text)
        leaked, left_before = _names(raw["leaked"]), _names(raw.get("left_before") or [])
        daemons = {_name(name): _daemon(said) for name, said in list(raw["daemons"].items())[:DAEMONS]}
        probe = raw.get("probe")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return {"leaked": [], "daemons": {}, "error": f"{LIBVIRT} cannot be read: {type(error).__name__}: {error}"[:NAME_LIMIT]}
    told: Data = {"leaked": leaked, "daemons": daemons}
    if left_before:
        told["left_before"] = left_before
    if isinstance(probe, dict) and probe and len(json.dumps(probe)) <= PROBE_LIMIT:
        told["probe"] = probe
    return told


def _names(values: list[Any]) -> list[str]:
    names = [_name(value) for value in values[:LEAKED]]
    return names + ([f"and {len(values) - LEAKED} more"] if len(values) > LEAKED else [])


def _name(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is no name")
    return value[:NAME_LIMIT]


def _daemon(said: Any) -> Data:
    counts = {key: said.get(key) if is_count(said.get(key)) else None for key in ("pid_before", "pid_after", "lines", "bytes")}
    return {**counts, "restarted": said.get("restarted") is True, "truncated": said.get("truncated") is True}
