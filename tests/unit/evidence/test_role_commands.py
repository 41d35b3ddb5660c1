# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands the role evidence gives to a guest, and the options that describe it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.mayfly.virt.plugins.action import evidence

ROLE = Path(__file__).resolve().parents[3] / "roles" / "evidence"
DEFAULTS: dict[str, Any] = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text())
COMMANDS = {command["name"]: command["command"] for command in DEFAULTS["evidence_commands"]}

# A double of coredumpctl: one process died. The fields are those of systemd 252.
COREDUMPCTL = """\
#!/bin/sh
case " $* " in
*" list "*) echo "Sat 2026-11-21 12:00:00 UTC 4711 0 0 SIGSEGV present /usr/bin/crasher 17.0K" ;;
*" info "*) echo "info of 4711" ;;
*" debug "*) echo "backtrace of $*"; cat ;;
esac
"""


def sh(command: str, path: Path) -> str:
    environment = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}"}
    return subprocess.run(["/bin/sh", "-c", command], env=environment, capture_output=True, text=True, timeout=30, check=True).stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_shell_text_for_a_file_that_may_be_kept(name: str) -> None:
    evidence._check(
        {**{key: spec.get("default") for key, spec in evidence._ARGUMENTS.items()}, "commands": [{"name": name, "command": "x"}]}
    )
    assert subprocess.run(["/bin/sh", "-n", "-c", COMMANDS[name]], capture_output=True, check=False).returncode == 0


def test_backtraces_are_asked_of_each_core_dump(tmp_path: Path) -> None:
    (tmp_path / "coredumpctl").write_text(COREDUMPCTL)
    (tmp_path / "gdb").write_text("#!/bin/sh\n")
    for program in tmp_path.iterdir():
        program.chmod(0o755)
    said = sh(COMMANDS["coredumps.txt"], tmp_path).splitlines()
    assert said[0] == "info of 4711"
    assert said[1].startswith("backtrace of debug 4711 ")
    assert "thread apply all backtrace" in said[1]


def test_what_roles_found_is_one_object(tmp_path: Path) -> None:
    command = COMMANDS["facts.json"].replace("/etc/mayfly/facts.d", str(tmp_path))
    assert sh(command, tmp_path) == ""
    (tmp_path / "one.json").write_text('{"a": 1}\n')
    assert json.loads(sh(command, tmp_path)) == {"one": {"a": 1}}
    (tmp_path / "two.json").write_text('{"b": "c"}\n')
    assert json.loads(sh(command, tmp_path)) == {"one": {"a": 1}, "two": {"b": "c"}}


def test_without_core_dumps_nothing_is_said(tmp_path: Path) -> None:
    (tmp_path / "coredumpctl").write_text("#!/bin/sh\necho No coredumps found. >&2; exit 1\n")
    (tmp_path / "coredumpctl").chmod(0o755)
    assert sh(COMMANDS["coredumps.txt"], tmp_path) == ""


def test_every_default_is_described() -> None:
    specs = yaml.safe_load((ROLE / "meta" / "argument_specs.yml").read_text())["argument_specs"]
    described = {name: option for spec in specs.values() for name, option in spec["options"].items()}
    assert set(described) == set(DEFAULTS)
    for name, value in DEFAULTS.items():
        if not isinstance(value, (list, str)) or value in ([], "on_crash"):
            assert described[name].get("default") == value, name
