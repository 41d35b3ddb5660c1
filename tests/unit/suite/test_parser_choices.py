# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the runner can read is what module, action and roles let one ask for."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import yaml

from ansible_collections.mayfly.virt.plugins.action import suite as action
from ansible_collections.mayfly.virt.plugins.modules import suite as module

ROOT = Path(__file__).resolve().parents[3]


def test_action_and_module(runner: ModuleType) -> None:
    documented = yaml.safe_load(module.DOCUMENTATION)["options"]["parser"]
    assert sorted(runner.REPORTS) == sorted(action.REPORTS)
    assert list(runner.PARSERS) == action.PARSERS == documented["choices"]
    for name in runner.PARSERS:
        assert any(text.startswith(f"V({name})") for text in documented["description"])


@pytest.mark.parametrize(("role", "variable"), [("suite", "suite_list"), ("job", "mayfly_suites")])
def test_roles(runner: ModuleType, role: str, variable: str) -> None:
    specs = yaml.safe_load((ROOT / "roles" / role / "meta" / "argument_specs.yml").read_text())
    options = specs["argument_specs"]["main"]["options"][variable]["options"]
    assert options["parser"]["choices"] == list(runner.PARSERS)
    assert options["report"]["type"] == "str"
