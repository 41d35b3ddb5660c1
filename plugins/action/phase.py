# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action phase: append a line to the job's phases.jsonl."""

from __future__ import annotations

import json
import os
import time
import typing as t
from pathlib import Path

from ansible.plugins.action import ActionBase

from ..module_utils._errors import InvalidInput
from ..module_utils._scrub import job_patterns, scrub_text

_ARGUMENTS: dict[str, t.Any] = {
    "results": {"type": "path", "required": True},
    "name": {"type": "str", "required": True},
    "event": {"type": "str", "choices": ["start", "end"], "required": True},
    "error": {"type": "str", "default": ""},
    "guest": {"type": "str"},
    "secrets": {"type": "list", "elements": "str", "default": [], "no_log": True},
}


class ActionModule(ActionBase):
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result = super().run(tmp, task_vars)
        _validation, given = self.validate_argument_spec(argument_spec=_ARGUMENTS)
        line: dict[str, t.Any] = {"phase": given["name"], "event": given["event"], "time": round(time.time(), 3)}
        if given["guest"]:
            line["guest"] = given["guest"]
        if given["event"] == "end":
            line["status"] = "failed" if given["error"] else "ok"
            line["error"] = _without_secrets(given["error"], given["secrets"])
        if not self._task.check_mode:
            _append(Path(given["results"]), line)
        result.update(changed=False, phase=line)
        return result


def _without_secrets(error: str, secrets: t.Sequence[str]) -> str:
    try:
        patterns = job_patterns(secrets)
    except InvalidInput:  # it may be this very error, which shows none, that is to be written down
        patterns = []
    return scrub_text(error, patterns)[0]


def _append(results: Path, line: dict[str, t.Any]) -> None:
    """Add one line in one write, so that guests that end together do not mix theirs."""
    results.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(results / "phases.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, (json.dumps(line) + "\n").encode())
    finally:
        os.close(descriptor)
