# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A directory that files are written into by names that somebody else chose. No link in it is ever followed."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import typing as t
from pathlib import Path

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FRESH = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Tree:
    """A directory and what lies below it, always reached from its own descriptor, one part of a name at a time.

    A file of an earlier attempt is replaced; one that was made through this very object is not.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._made: set[tuple[str, ...]] = set()
        self._top = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self._top)

    def __enter__(self) -> Tree:
        return self

    def __exit__(self, *_unused: object) -> None:
        self.close()

    def create(self, parts: tuple[str, ...]) -> t.BinaryIO:
        """Make a file with its directories and return it open for writing."""
        if parts in self._made:
            raise FileExistsError(f"{'/'.join(parts)} was there before")
        _check(parts)
        with self._directory(parts[:-1]) as directory:
            with contextlib.suppress(FileNotFoundError):
                if stat.S_ISDIR(os.stat(parts[-1], dir_fd=directory, follow_symlinks=False).st_mode):
                    raise FileExistsError(f"{'/'.join(parts)} is a directory")
                os.unlink(parts[-1], dir_fd=directory)
            handle = os.open(parts[-1], _FRESH, 0o644, dir_fd=directory)
        self._made.add(parts)
        return os.fdopen(handle, "wb")

    def open(self, parts: tuple[str, ...]) -> t.BinaryIO:
        """Open a plain file for reading."""
        _check(parts)
        with self._directory(parts[:-1]) as directory:
            handle = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise FileNotFoundError(f"{'/'.join(parts)} is no plain file")
        return os.fdopen(handle, "rb")

    def remove(self, parts: tuple[str, ...]) -> None:
        _check(parts)
        with self._directory(parts[:-1]) as directory:
            os.unlink(parts[-1], dir_fd=directory)
        self._made.discard(parts)

    def empty(self, name: str) -> None:
        """Remove a directory of an earlier attempt with all it has; one that is a link loses the link."""
        _check((name,))
        path = self.root / name
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif path.is_dir():
            shutil.rmtree(path)

    @contextlib.contextmanager
    def _directory(self, parts: tuple[str, ...]) -> t.Iterator[int]:
        """Make and open a directory, refusing every link on the way."""
        handle = os.dup(self._top)
        try:
            for length, part in enumerate(parts, start=1):
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=handle)
                try:
                    inner = os.open(part, _DIRECTORY, dir_fd=handle)
                except NotADirectoryError:  # a file, or a link: O_NOFOLLOW says so with O_DIRECTORY too
                    raise FileExistsError(f"{'/'.join(parts[:length])} is no directory") from None
                os.close(handle)
                handle = inner
            yield handle
        finally:
            os.close(handle)


def _check(parts: tuple[str, ...]) -> None:
    if not parts or any(part in ("", ".", "..") or "/" in part or "\0" in part for part in parts):
        raise ValueError(f"not the parts of a name: {parts!r}")
