# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules' main() in this process, on libvirt's own test driver: its domains live in memory and nowhere else."""

from __future__ import annotations

import datetime
import gc
import importlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from driver_kit import MODULES, URI, Host, Modules

from ansible_collections.mayfly.virt.plugins.module_utils import _provision, _run

try:
    import libvirt
except ImportError:
    libvirt = None

NOW = datetime.datetime(2026, 1, 1, 12, 0, 0, tzinfo=datetime.timezone.utc)
PROGRAMS = ("qemu-img", "ssh-keygen", "xorriso")

# A double of xorriso, which itself takes a tenth of a second at best: an image that is empty but for its application identifier.
QUICK_XORRISO = """#!/bin/sh
while [ $# -gt 0 ]; do
    case $1 in
    -A) identifier=$2 ;;
    -o) image=$2 ;;
    esac
    shift
done
{ head -c 33342 /dev/zero | tr '\\0' ' '; printf '%-128s' "$identifier"; } >"$image"
"""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "real_seeds: seeds are made by the real xorriso, not by its quick double")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = [name for name in PROGRAMS if not shutil.which(name)] + ([] if libvirt else ["Python bindings of libvirt"])
    if missing:
        here = Path(__file__).parent
        for item in items:
            if here in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=f"not installed: {', '.join(missing)}"))


@pytest.fixture(scope="session")
def doubles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of programs that stand in for others."""
    directory = tmp_path_factory.mktemp("doubles")
    (directory / "xorriso").write_text(QUICK_XORRISO)
    (directory / "xorriso").chmod(0o755)
    return directory


@pytest.fixture(autouse=True)
def _quick_seeds(request: pytest.FixtureRequest, doubles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not request.node.get_closest_marker("real_seeds"):
        monkeypatch.setenv("PATH", str(doubles), prepend=":")


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Keep the test driver's hypervisor alive: it begins anew when the last connection to it is closed."""
    # The driver has one description of a network, and knows no flag for another.
    monkeypatch.setattr(libvirt, "VIR_NETWORK_XML_INACTIVE", 0)
    # pytest keeps the traceback of the last failure, and with it what that test held of its hypervisor.
    sys.last_value = sys.last_traceback = sys.last_exc = None
    gc.collect()
    made = libvirt.open(URI)
    assert [domain.name() for domain in made.listAllDomains()] == ["test"], "a connection of an earlier test is still open"
    yield made
    made.close()


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small files to import and boot."""
    directory = tmp_path_factory.mktemp("files")
    for name, size in (("tiny.qcow2", "1M"), ("large.qcow2", "30G"), ("other.qcow2", "2M")):
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(directory / name), size], check=True, timeout=30)
    (directory / "vmlinuz").write_text("a kernel")
    (directory / "initrd").write_text("an initrd")
    return directory


@pytest.fixture(scope="session")
def stocked(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state directory in which the real module has stored some images."""
    state = tmp_path_factory.mktemp("stocked") / "state"
    images = [
        {"name": "tiny", "source": str(files / "tiny.qcow2")},
        {"name": "large", "source": str(files / "large.qcow2")},
        {"name": "booting", "source": str(files / "other.qcow2"), "kernel": str(files / "vmlinuz"), "cmdline": "root=LABEL=x"},
    ]
    answer = Modules(state)("image", images=images)
    assert [result["imported"] for result in answer["results"]] == [True, True, True]
    return state


@pytest.fixture
def state(stocked: Path, tmp_path: Path) -> Path:
    made = tmp_path / "state"
    shutil.copytree(stocked, made, symlinks=True)
    return made


@pytest.fixture
def run(state: Path, connection: Any) -> Modules:
    """Modules on a hypervisor of their own."""
    return Modules(state)


@pytest.fixture
def host(state: Path, connection: Any) -> Host:
    return Host(state, connection)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> datetime.datetime:
    """Stop the clock of the modules, so that two answers can be compared."""
    for module in (_provision, _run, importlib.import_module(f"{MODULES}.domain"), importlib.import_module(f"{MODULES}.sweep")):
        monkeypatch.setattr(module, "utc_now", lambda: NOW)
    return NOW
