# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one error type of the collection: a sentence a person can act on."""

from __future__ import annotations

import contextlib
import typing as t


class MayflyError(Exception):
    """What was attempted, on which object, why it failed and what to do about it."""

    def __init__(self, attempted: str, target: str, reason: str, remedy: str = "") -> None:
        self.attempted = attempted
        self.target = target
        self.reason = reason.strip().rstrip(".")
        self.remedy = remedy.strip()
        super().__init__(str(self))

    def __str__(self) -> str:
        text = f"Could not {self.attempted} '{self.target}': {self.reason}."
        return f"{text} {self.remedy}" if self.remedy else text


class InvalidInput(MayflyError):
    """Refused before anything was made."""

    def __str__(self) -> str:
        text = f"{self.attempted} '{self.target}' is refused: {self.reason}."
        return f"{text} {self.remedy}" if self.remedy else text


@contextlib.contextmanager
def failing(module: t.Any) -> t.Iterator[None]:
    """Turn our own errors into the failure of an AnsibleModule. Others are bugs and keep their traceback."""
    try:
        yield
    except MayflyError as error:
        module.fail_json(msg=str(error), target=error.target, reason=error.reason, remedy=error.remedy)
