# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the units of the core share."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from ansible_collections.mayfly.virt.plugins.module_utils._run import RunPaths
from ansible_collections.mayfly.virt.plugins.module_utils._store import Store

# Files and locks make the first example slow; a limit for each would only measure the machine.
settings.register_profile("mayfly-core", deadline=None, max_examples=60)
settings.load_profile("mayfly-core")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty image store."""
    made = Store(tmp_path / "state")
    made.prepare()
    return made


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    """The paths of a run whose directory is there and has keys."""
    made = RunPaths(tmp_path / "state", "r1")
    (made.dir / "hostkeys").mkdir(parents=True)
    made.key.write_text("run's private key\n")
    Path(f"{made.key}.pub").write_text("ssh-ed25519 AAAArun mayfly r1\n")
    made.known_hosts.touch()
    return made
