# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a module's main() in this process, and look at the hypervisor from outside."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import io
import json
import os
from pathlib import Path
from typing import Any

from ansible.module_utils.common import warnings as ansible_warnings
from ansible.module_utils.testing import patch_module_args

URI = "test:///default"
MODULES = "ansible_collections.mayfly.virt.plugins.modules"


class Unclean(AssertionError):
    """A module said something it should not."""


class Modules:
    """Runs modules. Each answer is checked for warnings, whatever the test is about."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.uri = URI

    def __call__(self, name: str, *, check: bool = False, **params: Any) -> dict[str, Any]:
        """Return the answer of a module that succeeds."""
        answer = self.answer(name, check=check, **params)
        assert not answer.get("failed"), answer["msg"]
        return answer

    def fail(self, name: str, *, check: bool = False, **params: Any) -> dict[str, Any]:
        """Return the answer of a module that fails."""
        answer = self.answer(name, check=check, **params)
        assert answer.get("failed"), "it did not fail"
        return answer

    def answer(self, name: str, *, check: bool = False, **params: Any) -> dict[str, Any]:
        module = importlib.import_module(f"{MODULES}.{name}")
        internal = {"_ansible_check_mode": check, "_ansible_diff": True, "_ansible_remote_tmp": str(self.state.parent)}
        given = {"state_dir": str(self.state), "uri": self.uri, **params}
        # Ansible collects warnings for the life of a process, which is one module elsewhere.
        ansible_warnings._global_warnings.clear()
        ansible_warnings._global_deprecations.clear()
        out, err = io.StringIO(), io.StringIO()
        with patch_module_args({**given, **internal}), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                module.main()
            except SystemExit as end:
                code = end.code
            else:
                raise Unclean(f"{name} ended without an answer")
        answer = json.loads(out.getvalue())
        said = [answer[key] for key in ("warnings", "deprecations") if answer.get(key)]
        if said or err.getvalue() or bool(code) != bool(answer.get("failed")):
            raise Unclean(f"{name}: {said} {err.getvalue()!r} status {code}")
        return answer


@dataclasses.dataclass(frozen=True)
class Moment:
    """The state directory and the hypervisor at one moment."""

    tree: dict[str, tuple[Any, ...]]
    domains: dict[str, str]
    networks: dict[str, str]


class Host:
    """The hypervisor's side of a test: what is there, and what others do to it."""

    def __init__(self, state: Path, connection: Any) -> None:
        self.state = state
        self.connection = connection

    def domains(self) -> dict[str, str]:
        return {domain.name(): domain.UUIDString() for domain in self.connection.listAllDomains()}

    def xml(self, name: str) -> str:
        return self.connection.lookupByName(name).XMLDesc()

    def create(self, xml: str) -> None:
        self.connection.createXML(xml, 0)

    def destroy(self, name: str) -> None:
        self.connection.lookupByName(name).destroy()

    def tree(self, *, times: bool = False) -> dict[str, tuple[Any, ...]]:
        """Return every path below the state directory with mode and content, and with its time of change where that matters."""
        found = {}
        for path in sorted([self.state, *self.state.rglob("*")]):
            status = path.lstat()
            if path.is_symlink():
                content = os.readlink(path)
            else:
                content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "directory"
            what = (oct(status.st_mode), content, status.st_mtime_ns if times else None)
            found[str(path.relative_to(self.state.parent))] = what
        return found

    def now(self, *, times: bool = False) -> Moment:
        networks = {network.name(): network.XMLDesc() for network in self.connection.listAllNetworks()}
        return Moment(self.tree(times=times), self.domains(), networks)

    def run_dir(self, run_id: str = "r1") -> Path:
        return self.state / "runs" / run_id

    def age(self, path: Path, seconds: float) -> None:
        moment = path.lstat().st_mtime - seconds
        os.utime(path, (moment, moment))


def domain(name: str = "one-r1", **options: Any) -> dict[str, Any]:
    """Return a small domain that the test driver can run."""
    return {"name": name, "accel": "tcg", "memory_mib": 64, "interfaces": [{"network": "default"}], **options}
