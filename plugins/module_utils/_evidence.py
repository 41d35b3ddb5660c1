# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The evidence of one guest in its directory of the results: written without secrets, big files packed, and accounted for."""

from __future__ import annotations

import dataclasses
import json
import lzma
import os
import re
import typing as t
from pathlib import Path

from ._console import scan_console
from ._scrub import Pattern, Scrubber, scrub_bytes
from ._tree import Tree

RECORD = "evidence.json"
CHUNK = 256 * 1024
# The verdict reads these as they are.
_CONSOLE = re.compile(r"console\.log(\.[0-9])?")
# Images: what looks like a secret in one is none, and a byte changed is an image lost.
_IMAGE = re.compile(r"screenshot\.png|memory\.vmcore|coredumps/.*")

Data = dict[str, t.Any]


@dataclasses.dataclass
class Finding:
    """What one step of collecting did not bring: 'missing' was asked for and is an error, 'left_out' is as it should be."""

    missing: dict[str, str] = dataclasses.field(default_factory=dict)
    left_out: list[str] = dataclasses.field(default_factory=list)


class Keeper:
    """Writes the files of one guest; every text goes through the scrubber."""

    def __init__(self, tree: Tree, patterns: t.Sequence[Pattern], compress_over: int) -> None:
        self._tree = tree
        self._patterns = patterns
        self._compress_over = compress_over
        self.found = Finding()
        self.files: dict[str, Data] = {}  # by name: how many secrets were in it, and whether it was cut

    def create(self, *parts: str) -> t.BinaryIO | _Scrubbing | _Console:
        """Open a file for writing; what is written is scrubbed, and the file packed when it is closed and big."""
        name = "/".join(parts)
        if _IMAGE.fullmatch(name):
            return self._tree.create(parts)
        if _CONSOLE.fullmatch(name):
            return _Console(self, parts)
        return _Scrubbing(self, parts)

    def write(self, name: str, data: bytes, *, cut: bool = False) -> None:
        """Write a whole file."""
        with self.create(name) as file:
            file.write(data)
        self.note(name, cut=cut)

    def note(self, name: str, **facts: bool) -> None:
        """Remember something of a file by the name it was created under; it may have been packed since."""
        packed = f"{name}.xz"
        self.files.setdefault(packed if packed in self.files else name, {}).update(facts)

    def missed(self, name: str, why: str) -> None:
        self.found.missing[name] = why

    # -- for the writers -----------------------------------------------------------------------------------------------

    def raw(self, parts: tuple[str, ...]) -> t.BinaryIO:
        return self._tree.create(parts)

    def scrubber(self) -> Scrubber:
        return Scrubber(self._patterns)

    def scrub(self, data: bytes) -> tuple[bytes, int]:
        return scrub_bytes(data, self._patterns)

    def pack(self, parts: tuple[str, ...]) -> str:
        """Pack a big file with xz, which the standard library of every Python can write; return the name it has now."""
        name = "/".join(parts)
        with self._tree.open(parts) as plain:
            if os.fstat(plain.fileno()).st_size <= self._compress_over:
                return name
            try:
                packed = self._tree.create((*parts[:-1], f"{parts[-1]}.xz"))
            except FileExistsError:  # another file of the guest has this name: then it stays as it is
                return name
            with packed, lzma.open(packed, "wb", preset=1) as target:
                while data := plain.read(CHUNK):
                    target.write(data)
        self._tree.remove(parts)
        return f"{name}.xz"


class _Scrubbing:
    """A file that is written without secrets."""

    def __init__(self, keeper: Keeper, parts: tuple[str, ...]) -> None:
        self._keeper = keeper
        self._parts = parts
        self._file = keeper.raw(parts)
        self._scrubber = keeper.scrubber()

    def write(self, data: bytes) -> None:
        self._file.write(self._scrubber.feed(data))

    def close(self) -> None:
        with self._file:
            self._file.write(self._scrubber.finish())
        self._keeper.files[self._keeper.pack(self._parts)] = {"scrubbed": self._scrubber.count}

    def __enter__(self) -> _Scrubbing:
        return self

    def __exit__(self, *_unused: object) -> None:
        self.close()


class _Console:
    """A console, which the verdict reads: scrubbing must not take away what the kernel complains of."""

    def __init__(self, keeper: Keeper, parts: tuple[str, ...]) -> None:
        self._keeper = keeper
        self._parts = parts
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> None:
        self._pieces.append(bytes(data))

    def close(self) -> None:
        said = b"".join(self._pieces)
        scrubbed, count = self._keeper.scrub(said)
        name = "/".join(self._parts)
        with self._keeper.raw(self._parts) as file:
            file.write(scrubbed)
        self._keeper.files[name] = {"scrubbed": count}
        line = hidden_complaint(said, scrubbed)
        if line:
            self._keeper.missed(name, f"a secret of the job hides what the kernel complains of in line {line}: list a narrower one")

    def __enter__(self) -> _Console:
        return self

    def __exit__(self, *_unused: object) -> None:
        self.close()


def is_console(name: str) -> bool:
    return _CONSOLE.fullmatch(name) is not None


def hidden_complaint(said: bytes, scrubbed: bytes) -> int:
    """Return the line of the first complaint of a console that is no longer found in it; 0 for none."""
    before, after = ({(found["line"], found["fatal"]) for found in _complaints(text)} for text in (said, scrubbed))
    return min((line for line, _fatal in before - after), default=0)


def _complaints(text: bytes) -> list[Data]:
    return list(scan_console(text.decode("utf-8", "replace"))["trouble"])


# --- the account ------------------------------------------------------------------------------------------------------


def account(directory: Path, step: str, keeper: Keeper) -> Data:
    """Return evidence.json with the outcome of a step: every file there is, whoever wrote it, and what is not there."""
    before = _read_record(directory / RECORD)
    known = {entry["name"]: entry for entry in before["files"]}
    files = []
    for name, size in sorted(_listing(directory)):
        facts = keeper.files.get(name) or known.get(name) or {}
        files.append({"name": name, "bytes": size, "cut": bool(facts.get("cut")), "scrubbed": facts.get("scrubbed", 0)})
    steps = {**before["steps"], step: dataclasses.asdict(keeper.found)}
    missing = {name: why for each in steps.values() for name, why in each["missing"].items()}
    return {"files": files, "missing": missing, "scrubbed": sum(entry["scrubbed"] for entry in files), "steps": steps}


def _listing(directory: Path) -> t.Iterator[tuple[str, int]]:
    for root, _directories, names in os.walk(directory):
        for name in names:
            path = Path(root, name)
            if path.is_file() and not path.is_symlink() and path != directory / RECORD:
                yield str(path.relative_to(directory)), path.stat().st_size


def _read_record(path: Path) -> Data:
    """Return the record of earlier steps. It is ours; what an older or a broken writer left is begun anew."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return {"files": [dict(entry, name=entry["name"]) for entry in record["files"]], "steps": dict(record["steps"])}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {"files": [], "steps": {}}
