# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module network on the test driver: changed only while nobody is on it."""

from __future__ import annotations

from typing import Any

import pytest
from driver_kit import Host, Modules, domain
from lxml import etree

LAB = {"name": "lab", "subnet": "10.77.0.0/24"}


def guest_on_lab(run: Modules) -> None:
    run("domain", run={"id": "r1"}, domains=[domain("one-r1", interfaces=[{"network": "lab"}])])


def test_what_is_made(run: Modules, host: Host) -> None:
    (result,) = run("network", networks=[{**LAB, "lease_minutes": 5}])["results"]
    assert result["bridge"] == "lab0"
    document = etree.fromstring(host.connection.networkLookupByName("lab").XMLDesc())
    assert document.find("forward").get("mode") == "nat"
    assert document.find("ip").get("address") == "10.77.0.1"
    assert document.find("port").get("isolated") == "yes"
    assert document.find("ip/dhcp/range/lease").get("expiry") == "5"


def test_a_network_that_is_not_started_is_started(run: Modules, host: Host) -> None:
    run("network", networks=[LAB])
    host.connection.networkLookupByName("lab").destroy()
    for check in (True, False):
        assert run("network", check=check, networks=[LAB])["actions"] == ["update network lab (it is not started)"]
    assert host.connection.networkLookupByName("lab").isActive() == 1
    assert run("network", networks=[LAB])["changed"] is False


def test_other_settings_change_it_while_nobody_is_on_it(run: Modules, host: Host) -> None:
    run("network", networks=[LAB])
    changed = {**LAB, "subnet": "10.78.0.0/24"}
    done = run("network", networks=[changed])
    assert done["actions"] == ["update network lab (its settings differ)"]
    assert "10.77.0.1" in done["diff"][0]["before"]
    assert "10.78.0.1" in done["diff"][0]["after"]
    assert run("network", networks=[changed])["changed"] is False


def test_a_network_with_guests_is_neither_changed_nor_removed(run: Modules, host: Host) -> None:
    run("network", networks=[LAB])
    guest_on_lab(run)
    before = host.now()
    for params in ({"networks": [{**LAB, "isolated": False}]}, {"networks": [LAB], "state": "absent"}):
        for check in (True, False):
            answer = run.fail("network", check=check, **params)
            assert answer["target"] == "lab"
            assert "guests are on it: one-r1" in answer["reason"]
            assert answer["remedy"]
    assert host.now() == before
    assert run("network", networks=[LAB])["changed"] is False


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"subnet": None}, "has no subnet"),
        ({"subnet": "nonsense"}, "is not one"),
        ({"subnet": "10.77.0.1/24"}, "is not one"),
        ({"subnet": "fd00::/64"}, "is not one"),
        ({"subnet": "8.8.8.0/24"}, "is not private"),
        ({"subnet": "10.77.0.0/29"}, "no room for guests"),
        ({"bridge": "a-bridge-too-long"}, "cannot name a bridge"),
        ({"bridge": "a/b"}, "cannot name a bridge"),
        ({"bridge": " "}, "cannot name a bridge"),
        ({"name": "a-name-too-long-for-a-bridge"}, "cannot name a bridge"),
        ({"name": "a\x1bb"}, "cannot stand in XML"),
        ({"lease_minutes": 1}, "too short"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any], reason: str, run: Modules, host: Host) -> None:
    before = host.now(times=True)
    for check in (True, False):
        answer = run.fail("network", check=check, networks=[{**LAB, **options}])
        assert reason in answer["reason"]
        assert answer["target"] == options.get("name", "lab")
        assert answer["remedy"]
    assert host.now(times=True) == before


def test_hostile_names_arrive_whole(run: Modules, host: Host) -> None:
    name = "</name><evil/>&\"'"
    answer = run.answer("network", networks=[{"name": name, "subnet": "10.77.0.0/24", "bridge": "lab0"}])
    if answer.get("failed"):
        assert answer["target"] == name
        assert list(host.now().networks) == ["default"]
    else:
        assert sorted(host.now().networks) == [name, "default"]
        assert run("network", networks=[{"name": name}], state="absent")["changed"] is True


def test_the_schema_of_libvirt_accepts_it(run: Modules, host: Host) -> None:
    schema = "/usr/share/libvirt/schemas/network.rng"
    try:
        relaxng = etree.RelaxNG(etree.parse(schema))
    except OSError:
        pytest.skip(f"{schema} is not on this machine")
    for options in ({}, {"forward": "none"}, {"isolated": False}, {"lease_minutes": 60, "bridge": "virbr77"}):
        (part,) = run("network", check=True, networks=[{**LAB, **options}])["diff"]
        assert relaxng.validate(etree.fromstring(part["after"])), relaxng.error_log
