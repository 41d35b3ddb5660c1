# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Locks across processes that a killed holder cannot leave behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import typing as t
from pathlib import Path

from ._errors import MayflyError

_LOOK = 0.05  # seconds between two looks at a lock that somebody holds


@contextlib.contextmanager
def locked(path: Path, patience: float | None = None) -> t.Iterator[int]:
    """Hold an exclusive lock on a file, across processes; yields the descriptor, so that a child may hold it too.

    With patience, in seconds, another's lock is an error when that is over; without, it is waited for.
    """
    begun = time.monotonic()
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            if patience is None:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            else:
                _lock_within(descriptor, path, begun, patience)
            if _is(descriptor, path):
                yield descriptor
                return
        finally:
            os.close(descriptor)


def _lock_within(descriptor: int, path: Path, begun: float, patience: float) -> None:
    while not _lock_now(descriptor):
        if time.monotonic() > begun + patience:
            raise MayflyError("lock", str(path), f"another process has held it for {patience:.0f} s", f"See who does: fuser -v {path}")
        time.sleep(_LOOK)


def _is(descriptor: int, path: Path) -> bool:
    """Tell whether the file has still that name, or was removed while we waited for it."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except (FileNotFoundError, NotADirectoryError):
        return False


def _lock_now(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def try_locked(path: Path) -> t.Iterator[bool]:
    """Try to take the lock of an existing file without waiting; yields whether it was free. Where there is no file nobody holds it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError):
        yield True
        return
    try:
        yield _lock_now(descriptor)
    finally:
        os.close(descriptor)
