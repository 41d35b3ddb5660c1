# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A private libvirt, and the wrapper run on tests there."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from libvirt_test.private import PrivateLibvirt

CACHE = Path(__file__).resolve().parents[3] / "build" / "libvirt_test"


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateLibvirt]:
    libvirt = PrivateLibvirt(tmp_path_factory.mktemp("libvirt"), CACHE)
    yield libvirt
    libvirt.close()


class Watched:
    """One test under the wrapper, and what it kept."""

    def __init__(self, libvirt: PrivateLibvirt, directory: Path) -> None:
        self.libvirt = libvirt
        self.directory = directory
        self.config = libvirt.configure(directory / "libvirt-test.json")

    def arguments(self, script: str, *options: str, kept: str = "kept") -> tuple[list[str], dict[str, str]]:
        (self.directory / kept).mkdir(exist_ok=True)
        argv = ["run", "--config", str(self.config), "--name", "a test", *options, "--", "/bin/sh", "-c", script]
        return argv, {"MAYFLY_TEST_DIR": str(self.directory / kept)}

    def run(self, script: str, *options: str, kept: str = "kept", **environment: str) -> subprocess.CompletedProcess[str]:
        argv, env = self.arguments(script, *options, kept=kept)
        return self.libvirt.wrapper(*argv, environment={**env, **environment}, timeout=120)

    def kept(self, name: str, kept: str = "kept") -> str:
        return (self.directory / kept / name).read_text(errors="replace")

    def names(self, kept: str = "kept") -> list[str]:
        return sorted(path.name for path in (self.directory / kept).iterdir())

    def judgement(self, kept: str = "kept") -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.kept("judgement.json", kept))
        return found

    def summary(self, kept: str = "kept") -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.kept("libvirt.json", kept))
        return found

    def configure(self, **settings: Any) -> None:
        self.libvirt.configure(self.config, **settings)


@pytest.fixture
def watched(shared: PrivateLibvirt, tmp_path: Path) -> Watched:
    return Watched(shared, tmp_path)
