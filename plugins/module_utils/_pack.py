# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files to a tar archive whose bytes depend on nothing but them. Pure."""

from __future__ import annotations

import dataclasses
import gzip
import io
import tarfile
import typing as t


@dataclasses.dataclass(frozen=True)
class File:
    """A regular file, or a symbolic link if it has a target."""

    content: bytes = b""
    executable: bool = False
    target: str = ""


def pack(files: t.Mapping[str, File]) -> bytes:
    """Return a gzipped tar archive of the files by relative path, with the directories that they lie in; all belong to root."""
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=6, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for path in _directories(files):
            archive.addfile(_member(path, tarfile.DIRTYPE, 0o755))
        for path, file in sorted(files.items()):
            if file.target:
                member = _member(path, tarfile.SYMTYPE, 0o777)
                member.linkname = file.target
                archive.addfile(member)
            else:
                member = _member(path, tarfile.REGTYPE, 0o755 if file.executable else 0o644)
                member.size = len(file.content)
                archive.addfile(member, io.BytesIO(file.content))
    return buffer.getvalue()


def _directories(paths: t.Iterable[str]) -> list[str]:
    found = set()
    for path in paths:
        parts = path.split("/")[:-1]
        found.update("/".join(parts[: end + 1]) for end in range(len(parts)))
    return sorted(found)


def _member(path: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(path)
    member.type, member.mode, member.uname, member.gname = kind, mode, "root", "root"
    return member
