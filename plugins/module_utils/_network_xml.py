# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""libvirt networks for guests: options to XML, and how ours are known again. Pure."""

from __future__ import annotations

import dataclasses
import hashlib
import ipaddress
import json
import typing as t

from ._errors import InvalidInput
from ._lxml import etree
from ._tag import NAMESPACE

# The kernel's limit for the name of a bridge.
_BRIDGE_LENGTH = 15
_SMALLEST_SUBNET = 28


@dataclasses.dataclass(frozen=True)
class NetworkSpec:
    """A NAT or closed network with DHCP, whose ports do not see each other."""

    name: str
    subnet: str
    bridge: str
    forward: str = "nat"  # nat or none
    lease_minutes: int = 10
    isolated: bool = True

    def digest(self) -> str:
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()[:32]


def check(spec: NetworkSpec) -> ipaddress.IPv4Network:
    """Return the parsed subnet, or raise InvalidInput."""
    try:
        subnet = ipaddress.IPv4Network(spec.subnet)
    except ValueError as error:
        raise InvalidInput(
            "Network", spec.name, f"its subnet '{spec.subnet}' is not one: {error}", "Write it like 10.213.0.0/20."
        ) from error
    if not subnet.is_private or subnet.prefixlen > _SMALLEST_SUBNET:
        raise InvalidInput(
            "Network",
            spec.name,
            f"its subnet {subnet} is not private or has no room for guests",
            f"Take a private one of /{_SMALLEST_SUBNET} or larger.",
        )
    if not 0 < len(spec.bridge) <= _BRIDGE_LENGTH or "/" in spec.bridge or spec.bridge != spec.bridge.strip():
        raise InvalidInput(
            "Network", spec.name, f"'{spec.bridge}' cannot name a bridge", f"Use at most {_BRIDGE_LENGTH} letters and digits."
        )
    if spec.lease_minutes < 2:  # dnsmasq's shortest lease
        raise InvalidInput("Network", spec.name, f"leases of {spec.lease_minutes} min are too short", "Use at least 2.")
    return subnet


def build(spec: NetworkSpec) -> str:
    """Return the <network> document."""
    subnet = check(spec)
    first, last = subnet.network_address + 10, subnet.broadcast_address - 1
    network = etree.Element("network")
    try:
        etree.SubElement(network, "name").text = spec.name
    except ValueError as error:
        raise InvalidInput("Network", spec.name, f"its name cannot stand in XML: {error}", "Remove control characters.") from error
    tag = etree.SubElement(etree.SubElement(network, "metadata"), f"{{{NAMESPACE}}}network", nsmap={"mayfly": NAMESPACE})
    etree.SubElement(tag, f"{{{NAMESPACE}}}spec").text = spec.digest()
    if spec.forward != "none":
        etree.SubElement(network, "forward", mode=spec.forward)
    etree.SubElement(network, "bridge", name=spec.bridge, stp="off", delay="0")
    if spec.isolated:
        etree.SubElement(network, "port", isolated="yes")
    address = etree.SubElement(network, "ip", address=str(subnet.network_address + 1), prefix=str(subnet.prefixlen))
    scope = etree.SubElement(etree.SubElement(address, "dhcp"), "range", start=str(first), end=str(last))
    etree.SubElement(scope, "lease", expiry=str(spec.lease_minutes), unit="minutes")
    etree.indent(network, space="  ")
    return etree.tostring(network, encoding="unicode") + "\n"


def seen_digest(text: str) -> str | None:
    """Return the digest in the tag of libvirt's description of a network, or None when the network is not ours."""
    return t.cast("str | None", etree.fromstring(text).findtext(f"metadata/{{{NAMESPACE}}}network/{{{NAMESPACE}}}spec"))
