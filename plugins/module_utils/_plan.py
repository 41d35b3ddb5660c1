# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From (wanted, seen) to a list of actions. C(changed), the diff and check mode all come from this one list."""

from __future__ import annotations

import dataclasses
import typing as t


@dataclasses.dataclass(frozen=True)
class Action:
    """One step on one object. An action that changes nothing has the verb 'keep'."""

    verb: t.Literal["create", "update", "remove", "keep"]
    kind: str
    name: str
    reason: str = ""
    before: str = ""
    after: str = ""

    @property
    def changes(self) -> bool:
        return self.verb != "keep"

    def sentence(self) -> str:
        text = f"{self.verb} {self.kind} {self.name}"
        return f"{text} ({self.reason})" if self.reason else text


def changed(actions: t.Iterable[Action]) -> bool:
    """Tell whether carrying the actions out changes anything."""
    return any(action.changes for action in actions)


def sentences(actions: t.Iterable[Action]) -> list[str]:
    """Return the actions in words, those that change nothing left out."""
    return [action.sentence() for action in actions if action.changes]


def diff(actions: t.Iterable[Action]) -> list[dict[str, str]]:
    """Return Ansible's diff structure for the actions."""
    return [
        {
            "before_header": f"{action.kind} {action.name}",
            "after_header": f"{action.kind} {action.name}",
            "before": action.before,
            "after": action.after,
        }
        for action in actions
        if action.changes
    ]
