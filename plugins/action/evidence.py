# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action evidence: keep what commands in a guest say."""

from __future__ import annotations

import re
import shlex
import typing as t
from pathlib import Path

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase

_ARGUMENTS: dict[str, t.Any] = {
    "dest": {"type": "path", "required": True},
    "commands": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {"name": {"type": "str", "required": True}, "command": {"type": "str", "required": True}},
    },
    "max_bytes": {"type": "int", "default": 4 * 1024 * 1024},
    "timeout": {"type": "int", "default": 60},
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.(log|txt)")


class ActionModule(ActionBase):
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result = super().run(tmp, task_vars)
        _validation, given = self.validate_argument_spec(argument_spec=_ARGUMENTS)
        wrong = [command["name"] for command in given["commands"] if not _NAME.fullmatch(command["name"])]
        if wrong:
            result.update(failed=True, msg=f"Evidence file '{wrong[0]}' is refused: name it <word>.log or <word>.txt.")
            return result
        result.update(changed=False, files=[], missing={})
        if self._task.check_mode:
            result["changed"] = True
            return result
        dest = Path(given["dest"])
        dest.mkdir(parents=True, exist_ok=True)
        for command in given["commands"]:
            text, problem = self._ask(command["command"], given["max_bytes"], given["timeout"])
            if problem:
                result["missing"][command["name"]] = problem
            if text:
                file = dest / command["name"]
                file.write_text(text, encoding="utf-8", errors="replace")
                result["files"].append(str(file))
                result["changed"] = True
        if result["missing"]:
            reasons = "; ".join(f"{name}: {problem}" for name, problem in result["missing"].items())
            result.update(failed=True, msg=f"Could not collect everything from the guest. {reasons}")
        return result

    def _ask(self, command: str, max_bytes: int, timeout: int) -> tuple[str, str]:
        """Return what the command printed, and why that is not all."""
        # The pipe would hide the command's own status: it is written behind the output, on a line of its own.
        inner = f'{{ timeout {timeout} sh -c {shlex.quote(command)}; echo "mayfly-status $?"; }} 2>&1 | tail -c {max_bytes + 64}'
        try:
            answer = self._low_level_execute_command(f"sh -c {shlex.quote(inner)}", sudoable=True)
        except AnsibleConnectionFailure as error:
            return "", f"the guest does not answer: {error}"
        text, separator, status = answer["stdout"].rpartition("mayfly-status ")
        if not separator:
            return answer["stdout"], f"the connection ended early with status {answer['rc']}: {answer['stderr'].strip()}"
        if status.strip() != "0":
            return text, f"the command ended with status {status.strip()}"
        return text, ""
