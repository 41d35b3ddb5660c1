# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role mayfly.virt.hypervisor leaves on a host with systemd, asked of the host itself."""

# ruff: noqa: S101

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest
from lxml import etree

PROBE = Path(__file__).with_name("probe.py")


@pytest.fixture(scope="module")
def network(host: t.Any) -> t.Any:
    return etree.fromstring(host.check_output("virsh --connect qemu:///system net-dumpxml mayfly"))


@pytest.fixture(scope="module")
def reached(host: t.Any) -> dict[str, bool]:
    return json.loads(host.check_output("python3 -c %s", PROBE.read_text(encoding="utf-8")))


@pytest.mark.parametrize("unit", ["virtlogd.socket", "libvirtd.socket", "libvirtd.service"])
def test_unit_runs_now_and_after_a_boot(host: t.Any, unit: str) -> None:
    service = host.service(unit)

    assert service.is_enabled
    assert service.is_running


def test_libvirt_has_the_network_now_and_after_a_boot(host: t.Any) -> None:
    lines = host.check_output("virsh --connect qemu:///system --quiet net-list --all").splitlines()

    assert ["mayfly", "active", "yes", "yes"] in [line.split() for line in lines]


def test_network_is_as_the_play_says(network: t.Any) -> None:
    assert network.find("bridge").get("name") == "mayfly0"
    assert network.find("port").get("isolated") == "yes"
    assert (network.find("ip").get("address"), network.find("ip").get("prefix")) == ("10.214.16.1", "24")
    assert (network.find("ip/dhcp/range/lease").get("expiry"), network.find("ip/dhcp/range/lease").get("unit")) == ("5", "minutes")


@pytest.mark.parametrize("door", ["dhcp", "dns over udp", "dns over tcp", "opened port"])
def test_guest_gets_through_the_wall(reached: dict[str, bool], door: str) -> None:
    assert reached[door]


@pytest.mark.parametrize("door", ["ssh", "closed port", "neighbour by way of the host"])
def test_guest_does_not_get_through_the_wall(reached: dict[str, bool], door: str) -> None:
    assert reached[f"{door}, from the host"], "nothing listens there, so nothing is proven"
    assert not reached[door]


def test_names_are_asked_of_libvirt_before_dns(host: t.Any) -> None:
    line = next(line for line in host.file("/etc/nsswitch.conf").content_string.splitlines() if line.startswith("hosts:"))

    services = line.split()[1:]
    assert services.index("libvirt_guest") < services.index("dns")
    assert "libvirt" not in services


def test_qemu_may_use_kvm(host: t.Any) -> None:
    device = host.file("/dev/kvm")
    if not device.exists:
        pytest.skip("this guest has no /dev/kvm")

    assert (device.user, device.group, device.mode) == ("root", "kvm", 0o660)
    assert "kvm" in host.user("libvirt-qemu").groups


@pytest.mark.parametrize("path", ["/var/lib/mayfly", "/var/lib/mayfly/images", "/var/lib/mayfly/runs", "/var/lib/mayfly/cache"])
def test_directory_can_be_passed_through_but_only_root_writes(host: t.Any, path: str) -> None:
    directory = host.file(path)

    assert directory.is_directory
    assert (directory.user, directory.group, directory.mode) == ("root", "root", 0o755)


def test_hook_is_roots_and_runs(host: t.Any) -> None:
    hook = host.file("/etc/libvirt/hooks/network.d/mayfly-mayfly")

    assert (hook.user, hook.group, hook.mode) == ("root", "root", 0o755)
