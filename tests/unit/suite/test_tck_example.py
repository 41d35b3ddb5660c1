# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The example libvirt-tck: what its job selects of libvirt-tck 0.1.0, and what its known issues excuse."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from ansible_collections.mayfly.virt.plugins.module_utils._known import check_known_issues

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "libvirt-tck"
# Scripts of libvirt-tck 0.1.0 that create a domain with QEMU whatever devices there are; 103 with a block device, of which the job has two.
CREATE_DOMAINS = [
    "domain/050-transient-lifecycle",
    "domain/051-transient-autostart",
    "domain/060-persistent-lifecycle",
    "domain/061-persistent-autostart",
    "domain/065-persistent-redefine",
    "domain/070-transient-to-persistent",
    "domain/080-unique-id-define",
    "domain/081-unique-id-create",
    "domain/082-unique-id-caching",
    "domain/090-invalid-ops-when-inactive",
    "domain/100-transient-save-restore",
    "domain/101-persistent-save-restore",
    "domain/103-blockdev-save-restore",
    "domain/120-disks-stats",
    "domain/130-cpu-hotplug",
    "domain/200-disk-hotplug",
    "domain/205-disk-hotplug-ordering",
    "domain/207-disk-media-change",
    "domain/210-nic-hotplug",
    "domain/215-nic-hotplug-many",
    "domain/400-snapshots-persistent",
    "qemu/100-disk-encryption",
    "qemu/200-qcow2-single-backing-file",
    "qemu/205-qcow2-double-backing-file",
    "qemu/210-qcow2-auto-probing",
]
# As the suite said it in an emulated guest with Debian 12.
RECORDED = {
    "tck-snapshot-revert-risky": "failed: Reverting to changed vm configuration is risky",
    "tck-owner-of-a-backing-file": "failed: Ownership or ACL of file /var/cache/libvirt-tck/storage-fs/tck/tck-last does not allow 64055",
}


def job() -> dict[str, Any]:
    return yaml.safe_load((EXAMPLE / "job.yml").read_text())


def test_at_least_twenty_scripts_create_real_domains() -> None:
    suite = job()["mayfly_suites"][0]
    denied = [entry["test"] for entry in suite["deny"]]
    runs = [name for name in CREATE_DOMAINS if any(fnmatchcase(f"{name}.t", pattern) for pattern in suite["select"])]
    runs = [name for name in runs if not any(fnmatchcase(f"{name}.t", pattern) for pattern in denied)]
    assert len(runs) >= 20, runs
    assert job()["libvirt_tck_loop_devices"] >= 2


def test_the_toolchains_come_in_the_order_in_which_they_stand_on_each_other() -> None:
    toolchains = job()["mayfly_toolchains"]
    assert toolchains.index("libvirt_under_test") < toolchains.index("libvirt_tck")


def test_the_known_issues_excuse_what_was_recorded_and_nothing_else() -> None:
    entries = check_known_issues(yaml.safe_load((EXAMPLE / "known-issues.yml").read_text()), "known-issues.yml")
    for entry in entries:
        (signature,) = entry["signature"]
        matching = [name for name, message in RECORDED.items() if re.search(signature, message)]
        assert matching == [entry["id"]]
        assert not re.search(signature, "failed: created persistent domain object")
