# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the runner can read is what module, action and roles let one ask for."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from ansible_collections.mayfly.virt.plugins.action import suite as action
from ansible_collections.mayfly.virt.plugins.modules import suite as module

ROOT = Path(__file__).resolve().parents[3]


def test_action_and_module(runner: ModuleType) -> None:
    documented = yaml.safe_load(module.DOCUMENTATION)["options"]["parser"]
    assert list(runner.PARSERS) == action.PARSERS
    assert list(runner.HARNESSES) == action.ARGUMENTS["harness"]["choices"]
    assert set(runner.ENTRY_KEYS) == set(action.TESTS["options"]) - {"argv"}
    assert documented["choices"] == [*runner.PARSERS, runner.TESTS]
    for name in documented["choices"]:
        assert any(text.startswith(f"V({name})") for text in documented["description"])


@pytest.mark.parametrize(("role", "variable"), [("suite", "suite_list"), ("job", "mayfly_suites")])
def test_roles(runner: ModuleType, role: str, variable: str) -> None:
    specs = yaml.safe_load((ROOT / "roles" / role / "meta" / "argument_specs.yml").read_text())
    options = specs["argument_specs"]["main"]["options"][variable]["options"]
    assert options["parser"]["choices"] == [*runner.PARSERS, runner.TESTS]
    assert options["report"]["type"] == "str"
    for name in ("tests", "requires", "fail_fast", "retries", "shard", "select", "deny", "harness"):
        compare(options[name], action.ARGUMENTS[name])
    passed = (ROOT / "roles" / "suite" / "tasks" / "main.yml").read_text()
    assert all(f" {name}: " in passed for name in [*options, "results", "guest"] if name != "guests")


def compare(option: dict[str, Any], argument: dict[str, Any]) -> None:
    """A role's option is that of the module; only the defaults are the module's business."""
    for key in ("type", "elements", "choices", "required"):
        assert option.get(key) == argument.get(key), (option, key)
    assert set(option.get("options", {})) == set(argument.get("options", {}))
    for name, inner in option.get("options", {}).items():
        compare(inner, argument["options"][name])
