# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A private libvirt, and the wrapper run on tests there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from libvirt_test.private import PrivateLibvirt, Watched

CACHE = Path(__file__).resolve().parents[3] / "build" / "libvirt_test"


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateLibvirt]:
    libvirt = PrivateLibvirt(tmp_path_factory.mktemp("libvirt"), CACHE)
    yield libvirt
    libvirt.close()


@pytest.fixture
def watched(shared: PrivateLibvirt, tmp_path: Path) -> Watched:
    return Watched(shared, tmp_path)
