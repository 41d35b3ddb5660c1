# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action evidence: keep what commands in a guest say, and files of it.

The guest is not trusted. It chooses neither number nor size of what is kept; names of files it does choose, below a directory
of their own, and they are made safe. Every text is scrubbed before it is written.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import typing as t
from pathlib import Path

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ..module_utils._errors import MayflyError
from ..module_utils._evidence import RECORD, Keeper, account, is_console
from ..module_utils._extract import Limits, extract
from ..module_utils._scrub import job_patterns
from ..module_utils._tree import Tree
from ..plugin_utils import _artifacts
from ..plugin_utils._contact import ContactFailed, printable, run_once

_MIB = 1024 * 1024
_GRACE = 20  # seconds beyond what a command may take: connecting to an emulated guest takes some
_SIGN_OF_LIFE = 3  # a guest that does nothing within this part of the time hangs
_UNPACKED = 16  # how much more than is kept an archive may unpack to: of big logs the end is kept

_ARGUMENTS: dict[str, t.Any] = {
    "dest": {"type": "path", "required": True},
    "step": {"type": "str", "choices": ["guest", "hypervisor"], "default": "guest"},
    "commands": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {"name": {"type": "str", "required": True}, "command": {"type": "str", "required": True}},
    },
    "paths": {"type": "list", "elements": "str", "default": []},
    "coredumps": {"type": "bool", "default": False},
    "directory": {"type": "str"},
    "max_bytes": {"type": "int", "default": 4 * _MIB},
    "file_limit": {"type": "int", "default": 16 * _MIB},
    "total_limit": {"type": "int", "default": 64 * _MIB},
    "file_count": {"type": "int", "default": 2000},
    "compress_over": {"type": "int", "default": 4 * _MIB},
    "timeout": {"type": "int", "default": 60},
    "secrets": {"type": "list", "elements": "str", "default": [], "no_log": True},
    "missing": {"type": "dict", "default": {}},
    "left_out": {"type": "list", "elements": "str", "default": []},
}
_NUMBERS = ("max_bytes", "file_limit", "total_limit", "file_count", "timeout")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.(log|txt)|facts\.json")


class ActionModule(ActionBase):
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result = super().run(tmp, task_vars)
        _validation, given = self.validate_argument_spec(argument_spec=_ARGUMENTS)
        try:
            _check(given)
            patterns = job_patterns(given["secrets"])
        except MayflyError as error:
            raise AnsibleActionFail(str(error)) from error
        result.update(changed=True, files=[], missing={}, left_out=[], answered=True)
        if self._task.check_mode:
            return result
        dest = Path(given["dest"])
        try:
            dest.mkdir(parents=True, exist_ok=True)
            with Tree(dest) as tree:
                keeper = Keeper(tree, patterns, given["compress_over"])
                result["answered"] = Collection(self._execute, tree, keeper, given).run()
            record = account(dest, given["step"], keeper)
            _replace(dest / RECORD, json.dumps(record, indent=2) + "\n")
        except OSError as error:
            raise AnsibleActionFail(f"Could not keep evidence in '{dest}': {error}.") from error
        result.update(files=sorted(str(dest / name) for name in keeper.files), scrubbed=record["scrubbed"])
        result.update(missing=keeper.found.missing, left_out=keeper.found.left_out)
        if keeper.found.missing:
            result.update(failed=True, msg=f"Could not collect everything. {_in_words(keeper.found.missing)}")
        return result

    def _execute(self, command: str, data: bytes) -> dict[str, t.Any]:
        return self._low_level_execute_command(command, sudoable=True, in_data=data, encoding_errors="surrogateescape")


def _check(given: dict[str, t.Any]) -> None:
    """Refuse what cannot work before the guest is asked."""
    for command in given["commands"]:
        if not _NAME.fullmatch(command["name"]) or command["name"].startswith("console.log"):
            raise AnsibleActionFail(f"Evidence file '{command['name']}' is refused: name it <word>.log or <word>.txt, or facts.json.")
    for pattern in given["paths"]:
        _artifacts.check_pattern(pattern)
    if given["directory"] and given["paths"]:
        raise AnsibleActionFail("The options directory and paths are refused together: both say what the archive holds.")
    for option in _NUMBERS:
        if given[option] <= 0:
            raise AnsibleActionFail(f"The {option} {given[option]} is refused: it must be a positive number.")


def _in_words(missing: dict[str, str]) -> str:
    """Say each reason once, for all that is missing by it."""
    names: dict[str, list[str]] = {}
    for name, why in missing.items():
        names.setdefault(why, []).append(name)
    return "; ".join(f"{', '.join(each)}: {why}" for why, each in names.items())


def _replace(path: Path, text: str) -> None:
    """Write beside the file and move, so that a reader never sees half of it."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)


class Collection:
    """Asks one machine for all that is wanted of it."""

    def __init__(self, execute: t.Callable[[str, bytes], dict[str, t.Any]], tree: Tree, keeper: Keeper, given: dict[str, t.Any]) -> None:
        self._execute = execute
        self._tree = tree
        self._keeper = keeper
        self._given = given
        self._silence = ""

    def run(self) -> bool:
        """Collect, and tell whether the machine answered to the end. One that does not is not asked again and again."""
        given, found = self._given, self._keeper.found
        found.missing.update({str(name): str(why) for name, why in given["missing"].items()})
        found.left_out += given["left_out"]
        self._knock()
        for command in given["commands"]:
            self._command(command["name"], command["command"])
        limit, timeout = given["total_limit"], given["timeout"]
        if given["directory"]:
            self._archive("", _artifacts.directory_text(given["directory"], limit, timeout), [], given["file_limit"])
        if given["paths"]:
            self._tree.empty("paths")
            self._archive("paths", _artifacts.paths_text(given["paths"], limit, timeout), given["paths"], given["file_limit"])
        if given["coredumps"]:
            self._tree.empty("coredumps")
            # The end of a core dump alone is worth nothing.
            self._archive("coredumps", _artifacts.coredumps_text(limit, timeout), [], limit)
        return not self._silence

    def _knock(self) -> None:
        """See whether the machine does anything at all, before something that may take long is asked of it."""
        if self._given["commands"] or self._given["paths"] or self._given["coredumps"]:
            self._run(":", self._given["timeout"] / _SIGN_OF_LIFE)

    def _run(self, text: str, seconds: float) -> tuple[int, bytes, str] | None:
        try:
            return run_once(self._execute, text, b"\n", seconds + _GRACE)
        except ContactFailed as error:
            self._silence = f"the guest does not answer: {printable(' '.join(str(error).split()))[:300]}"
        return None

    def _ask(self, name: str, text: str) -> tuple[int, bytes, str] | None:
        answer = None if self._silence else self._run(text, self._given["timeout"])
        if answer is None:
            self._keeper.missed(name, self._silence)
        return answer

    def _command(self, name: str, command: str) -> None:
        given = self._given
        answer = self._ask(name, _artifacts.command_text(command, given["timeout"], given["max_bytes"]))
        if answer is None:
            return
        text, cut, problem = _artifacts.read_command(*answer, given["max_bytes"])
        if problem:
            self._keeper.missed(name, problem)
        if text:
            self._keeper.write(name, text, cut=cut)

    def _archive(self, below: str, text: str, patterns: list[str], file_limit: int) -> None:
        given = self._given
        label = below or "files"
        answer = self._ask(label, text)
        if answer is None:
            return
        read = _artifacts.read_archive(*answer, patterns, given["total_limit"])
        for pattern in read.unmatched:
            if _artifacts.is_glob(pattern):  # asks for what there is
                self._keeper.found.left_out.append(f"{pattern}: nothing there matches")
            else:
                self._keeper.missed(pattern, "there is no such file or directory")
        if read.relative:
            self._keeper.found.left_out.append(f"{label}: the kernel's core_pattern names no directory; list paths to have core dumps kept")
        problems = [read.problem] if read.problem else []
        if read.archive:
            problems += self._unpack(below, read.archive, file_limit)
        if problems:
            self._keeper.missed(label, "; ".join(problems))

    def _unpack(self, below: str, archive: bytes, file_limit: int) -> list[str]:
        given, prefix = self._given, ((below,) if below else ())
        limits = Limits(file_limit, given["total_limit"], given["total_limit"] * _UNPACKED, given["file_count"])
        outcome = extract([archive], lambda parts: self._keeper.create(*prefix, *parts), limits)
        self._keeper.found.left_out += [f"{below or 'files'}: {note}" for note in outcome.left_out]
        for kept in outcome.kept:
            self._keeper.note("/".join((*prefix, kept.name)), cut=kept.cut > 0)
        cut = [kept.name for kept in outcome.kept if kept.cut and not below and is_console(kept.name)]
        return outcome.problems + [f"{name} was cut, and with it what the kernel may have complained of" for name in cut]
