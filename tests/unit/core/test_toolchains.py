# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Toolchains: what they add to an image, and in which order their roles run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.mayfly.virt.plugins.module_utils._errors import InvalidInput
from ansible_collections.mayfly.virt.plugins.plugin_utils import _images, _job

ROOT = Path(__file__).resolve().parents[3]
CATALOG = {"debian-12": {"recipe": {"suite": "bookworm"}}}
TOOLCHAINS: dict[str, dict[str, Any]] = {
    "plain": {"debian-12": ["bc", "zip"]},
    "newer": {"debian-12": {"packages": ["libvirt-tck", "bc"], "suites": ["experimental"]}},
    "newest": {"debian-12": {"packages": ["gdb"], "suites": ["experimental", "bookworm-backports"]}},
}


def recipe(*toolchains: str, **settings: Any) -> dict[str, Any]:
    image = {"name": "image", "base": "debian-12", "toolchains": list(toolchains)}
    return _images.plan([image], CATALOG, TOOLCHAINS, settings)["make"][0]["recipe"]


def test_a_toolchain_may_add_suites_to_its_packages() -> None:
    made = recipe("plain", "newer", "newest")
    assert made["packages"] == ["bc", "gdb", "libvirt-tck", "zip"]
    assert made["suites"] == ["experimental", "bookworm-backports"]


def test_a_plain_list_of_packages_adds_no_suite() -> None:
    assert recipe("plain") == {"suite": "bookworm", "packages": ["bc", "zip"], "suites": [], "ca_certificates": []}


def test_a_suite_that_all_images_have_is_not_added_twice() -> None:
    assert recipe("newer", suites=["experimental"])["suites"] == ["experimental"]


def test_an_unknown_base_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"packages are not known for debian-12 \(known for: debian-99\)"):
        _images.plan(
            [{"name": "i", "base": "debian-12", "toolchains": ["only"]}],
            CATALOG,
            {"only": {"debian-99": {"packages": [], "suites": []}}},
            {},
        )


@pytest.mark.parametrize("path", sorted(ROOT.glob("roles/image/vars/toolchain_*.yml")), ids=lambda path: path.stem)
def test_each_toolchain_that_is_shipped_has_a_role_and_is_known(path: Path) -> None:
    name = path.stem.removeprefix("toolchain_")
    assert (ROOT / "roles" / name / "tasks" / "main.yml").exists()
    assert name in yaml.safe_load((ROOT / "roles/image/vars/main.yml").read_text())["__image_toolchains"]
    added = {name: yaml.safe_load(path.read_text())["__image_toolchain_packages"]}
    made = _images.plan([{"name": "i", "base": "debian-12", "toolchains": [name]}], CATALOG, added, {})["make"][0]["recipe"]
    assert made["packages"]


def test_roles_run_in_the_order_of_the_job_and_then_of_the_guest() -> None:
    job = {
        "name": "job",
        "toolchains": ["libvirt_under_test", "avocado"],
        "guests": [{"name": "one", "image": "debian-12", "toolchains": ["libvirt_tck", "avocado"]}, {"name": "two", "image": "debian-12"}],
    }
    plan = _job.plan(job, "run-1", "2026-01-01T00:00:00Z", "/")
    assert [guest["toolchains"] for guest in plan["guests"]] == [
        ["libvirt_under_test", "avocado", "libvirt_tck"],
        ["libvirt_under_test", "avocado"],
    ]
    # The image is the same whatever the order.
    assert plan["images"][0]["name"] == "debian-12+avocado+libvirt_tck+libvirt_under_test"
