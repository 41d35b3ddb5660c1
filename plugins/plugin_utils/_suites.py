# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A suite as a job file has it, to the specification that the runner in the guest reads.

The rules are the runner's: what it would refuse in the guest is refused here, before a guest is made.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import math
import sys
import types
import typing as t
from pathlib import Path

from ..module_utils._errors import InvalidInput

RUNNER = Path(__file__).resolve().parents[2] / "extensions" / "suite_runner" / "mayfly_suite_runner.py"
TESTS_PARSER = "tests"
BUILTIN = "builtin"  # the harness of a suite that names none
DEADLINE = 600

# What is the runner's business; guests and source are not.
_KEYS = ("parser", "report", "environment", "requires", "fail_fast", "retries", "shard", "select", "deny")


def parser(suite: t.Mapping[str, t.Any]) -> str:
    """Return how the outcome of a suite is read."""
    return suite.get("parser") or (TESTS_PARSER if suite.get("tests") else "tap")


def specification(suite: t.Mapping[str, t.Any], cwd: str | None = None, factor: float = 1) -> dict[str, t.Any]:
    """Return the runner's specification of a suite, its deadlines multiplied by the factor, or raise InvalidInput."""
    if factor <= 0:
        raise InvalidInput("Suite", suite["name"], f"its deadlines shall be multiplied by {factor}", "Give a positive number.")
    spec = {key: suite[key] for key in _KEYS if suite.get(key)}
    spec.update(suite=suite["name"], parser=parser(suite), deadline=_scaled(suite.get("deadline"), factor))
    kinds = [key for key in ("command", "argv", "tests") if suite.get(key)]
    if len(kinds) != 1:
        has = f"it has {' and '.join(kinds)}" if kinds else "it has nothing to run"
        raise InvalidInput("Suite", suite["name"], has, "Give one of command, argv and tests.")
    if suite.get("harness", BUILTIN) not in (None, BUILTIN):
        spec["harness"] = suite["harness"]
    if kinds == ["tests"]:
        spec["tests"] = [_entry(suite["name"], entry, factor) for entry in suite["tests"]]
        if "harness" in spec or any(entry.get("list") for entry in suite["tests"]):
            spec["deadline_factor"] = factor  # what a file in the guest lists, and what a harness takes for itself, are multiplied there
    else:
        spec["command"] = suite[kinds[0]]
    if cwd is not None:
        spec["cwd"] = cwd
    return t.cast("dict[str, t.Any]", _without_nothing(spec))


def check(suite: t.Mapping[str, t.Any]) -> None:
    """Raise InvalidInput if the runner would refuse this suite."""
    spec = specification(suite)
    runner = load_runner()
    try:
        runner.read_spec(json.dumps(spec))
    except runner.RunnerError as error:
        raise InvalidInput("Suite", suite["name"], str(error), _remedy(suite)) from error


def _remedy(suite: t.Mapping[str, t.Any]) -> str:
    if suite.get("tests"):
        return "See the option tests of the module mayfly.virt.suite."
    return "Only a suite with tests knows fail_fast, retries, shard, select, deny and harness: a command is one whole."


def _entry(name: str, entry: t.Mapping[str, t.Any], factor: float) -> dict[str, t.Any]:
    """Return one test; argv is another way to write command."""
    if entry.get("command") and entry.get("argv"):
        raise InvalidInput("Suite", name, f"its test {entry.get('name') or entry['command']!r} has command and argv", "Give one of them.")
    fields = {key: value for key, value in entry.items() if key != "argv"}
    if entry.get("argv"):
        fields["command"] = list(entry["argv"])
    if entry.get("deadline") is not None:
        fields["deadline"] = _scaled(entry["deadline"], factor)
    return fields


def _scaled(deadline: t.Any, factor: float) -> t.Any:
    """Multiply a deadline; what is no number is for the runner to refuse."""
    deadline = DEADLINE if deadline is None else deadline
    return math.ceil(deadline * factor) if isinstance(deadline, (int, float)) and not isinstance(deadline, bool) else deadline


def _without_nothing(value: t.Any) -> t.Any:
    """Leave out options that were not set, which Ansible fills in as null."""
    if isinstance(value, dict):
        return {key: _without_nothing(item) for key, item in value.items() if item is not None}
    return [_without_nothing(item) for item in value] if isinstance(value, list) else value


@functools.lru_cache(maxsize=1)
def load_runner() -> types.ModuleType:
    """Return the runner as a module."""
    spec = importlib.util.spec_from_file_location("mayfly_suite_runner", RUNNER)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot import {RUNNER}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
