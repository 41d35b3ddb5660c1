# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The runner as a module, and as the program it is in a guest."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

RUNNER = Path(__file__).resolve().parents[3] / "extensions" / "suite_runner" / "mayfly_suite_runner.py"


@pytest.fixture(scope="session")
def runner_path() -> Path:
    return RUNNER


@pytest.fixture(scope="session")
def runner() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mayfly_suite_runner", RUNNER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


class Program:
    """Runs the runner on a specification in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.out = directory / "out"

    def arguments(self, action: str, command: Any, **more: Any) -> list[str]:
        spec = {"suite": "smoke", "parser": "tap", "deadline": 30, "cwd": str(self.directory), **more}
        if command is not None:
            spec["command"] = command
        (self.directory / "spec.json").write_text(json.dumps(spec))
        return [sys.executable, str(RUNNER), action, "--spec", str(self.directory / "spec.json"), "--dir", str(self.out)]

    def run(self, command: Any, **more: Any) -> list[dict[str, Any]]:
        done = subprocess.run(self.arguments("run", command, **more), capture_output=True, timeout=30, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return self.events()

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.out / "events.jsonl").read_text().splitlines()]

    def last(self) -> dict[str, Any] | None:
        path = self.out / "events.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return json.loads(lines[-1]) if lines else None


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


@pytest.fixture
def eventually() -> Callable[[Callable[[], Any]], Any]:
    """Wait until something holds; fail loudly when it does not."""

    def wait(holds: Callable[[], Any], timeout: float = 10) -> Any:
        limit = time.monotonic() + timeout
        while time.monotonic() < limit:
            if value := holds():
                return value
            time.sleep(0.02)
        raise AssertionError("it did not happen in time")

    return wait
