# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Directories in which something is being made: locked while anyone works there, gone or adopted at the end."""

from __future__ import annotations

import os
import shutil
import tempfile
import typing as t
from pathlib import Path

from ._lock import locked, try_locked

PREFIX = ".work-"
NASCENT = ".new-"
LOCK = "lock"


class Workspace:
    """A fresh directory beside where its contents shall go.

    A killed holder leaves it unlocked, which is how sweep knows it for rubbish. The lock's descriptor may be given to
    long-running children, so that their workspace stays locked when only we are killed.
    """

    def __init__(self, parent: Path) -> None:
        self._parent = parent

    def __enter__(self) -> Workspace:
        nascent = Path(tempfile.mkdtemp(prefix=NASCENT, dir=self._parent))
        self._held = locked(nascent / LOCK)
        self.descriptor = self._held.__enter__()
        os.set_inheritable(self.descriptor, True)
        # Only now that it is locked does it have the name by which it may be taken for abandoned.
        self.path = nascent.with_name(PREFIX + nascent.name[len(NASCENT) :])
        nascent.rename(self.path)
        return self

    def adopt(self, target: Path) -> bool:
        """Give the finished directory its name in one step; tell whether that was still free."""
        try:
            self.path.rename(target)
        except OSError:
            if target.exists():
                return False
            raise
        return True

    def __exit__(self, *_unused: t.Any) -> None:
        if self.path.exists():
            shutil.rmtree(self.path)
        self._held.__exit__(None, None, None)


def abandoned(parent: Path) -> list[Path]:
    """Return the workspaces below a directory that nobody works in."""
    found = []
    for path in sorted(parent.glob(f"{PREFIX}*")) if parent.is_dir() else []:
        with try_locked(path / LOCK) as free:
            if free and path.exists():
                found.append(path)
    return found
