# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module libvirt_tck, as it runs in a guest, against a private libvirt and Debian's libvirt-tck."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from libvirt_test.private import SCRATCH, TCK, WRAPPER, Watched

ROOT = WRAPPER.parents[2]
SCRIPT = (
    "import sys; from ansible.module_utils import basic; "
    "basic._ANSIBLE_PROFILE, basic._ANSIBLE_ARGS = 'legacy', sys.argv[1].encode(); "
    "from ansible_collections.mayfly.virt.plugins.modules import libvirt_tck as module; module.main()"
)
NEEDS = [{"tests": "domain/300-*", "needs": ["otheruri"], "reason": "migrates to a second libvirt"}]


class Guest:
    """A machine with a libvirt under test, prepared as the role libvirt_under_test does it."""

    def __init__(self, watched: Watched, directory: Path) -> None:
        self.watched = watched
        self.directory = directory
        self.tree = directory / "tck"
        self.tree.mkdir()
        (self.tree / "lib").symlink_to(TCK / "perl5")
        (self.tree / "scripts").symlink_to(TCK / "libvirt-tck" / "tests")
        (directory / "kernel").write_text("not booted here")
        (directory / "initrd").write_text("nor this")

    def options(self) -> dict[str, Any]:
        return {
            "tree": str(self.tree),
            "kernel": str(self.directory / "kernel"),
            "initrd": str(self.directory / "initrd"),
            "needs": {"record": NEEDS, "yaml": []},
            "wrapper": str(WRAPPER),
            "settings": str(self.watched.config),
            "config_dir": str(self.directory / "etc"),
            "output": str(self.directory / "list" / "tests.json"),
        }

    def module(self, check: bool = False, **options: Any) -> dict[str, Any]:
        words = {"_ansible_check_mode": check, **self.options(), **options}
        done = self.watched.libvirt.run(
            str(ROOT / ".venv/bin/python"),
            "-c",
            SCRIPT,
            json.dumps({"ANSIBLE_MODULE_ARGS": words}),
            check=False,
            timeout=300,
            environment={"PYTHONPATH": str(ROOT / "build/collections")},
        )
        assert "{" in done.stdout, done.stderr
        return json.loads(done.stdout[done.stdout.index("{") :])


@pytest.fixture
def guest(watched: Watched, tmp_path: Path) -> Iterator[Guest]:
    (tmp_path / "list").mkdir()
    yield Guest(watched, tmp_path)
    watched.libvirt.run("sh", "-c", f"rm -rf {SCRATCH}/*")


def test_ready_and_the_second_time_nothing_is_to_do(guest: Guest) -> None:
    predicted = guest.module(check=True)
    assert predicted["changed"], predicted
    assert not (guest.directory / "etc").exists()

    made = guest.module()
    assert (made.get("msg"), made["changed"], made["version"], made["tests"]) == (None, True, "0.1.0", 60)
    assert made["not_run"] == {"domain/300-migration.t": "needs otheruri: its configuration has no otheruri (migrates to a second libvirt)"}
    assert set(predicted["actions"]) <= set(made["actions"])
    assert guest.watched.libvirt.read(f"{SCRATCH}/os-{os.uname().machine}-hvm/initrd") == "nor this"
    more = json.loads(guest.watched.config.with_suffix(".d").joinpath("tck.json").read_text())
    assert (more["purge_prefix"], more["scratch"], more["tck"]["config"]) == ("tck", SCRATCH, made["config"])

    again = guest.module()
    assert (again["changed"], again["actions"]) == (False, [])
    (guest.directory / "kernel").write_text("another kernel")
    changed = guest.module(check=True)
    assert changed["actions"] == [f"update file {SCRATCH}/os-{os.uname().machine}-hvm/vmlinuz (from {guest.directory}/kernel)"]


def test_what_is_not_there_or_not_the_guests_own_is_refused(guest: Guest) -> None:
    assert "there is no such file in the guest" in guest.module(initrd=str(guest.directory / "nothing"))["msg"]
    assert "it has no lib/Sys/Virt/TCK.pm" in guest.module(tree=str(guest.directory))["msg"]
    assert (
        "The role libvirt_under_test writes them: run it before this one" in guest.module(settings=str(guest.directory / "no.json"))["msg"]
    )
    assert "there is no key to log in to it" in guest.module(image=str(guest.directory / "kernel"))["msg"]
    assert "has no slot" in guest.module(pci_devices=[{"bus": "00"}])["msg"]
    guest.watched.configure(uri="qemu+ssh://elsewhere.invalid/system")
    refused = guest.module()
    assert refused["failed"]
    assert "elsewhere.invalid" in refused["msg"]
