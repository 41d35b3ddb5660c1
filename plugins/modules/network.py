#!/usr/bin/python
# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module network: libvirt networks for throw-away guests."""

from __future__ import annotations

DOCUMENTATION = r"""
module: network
short_description: Make and remove libvirt networks for guests
version_added: 0.1.0
description:
  - Makes persistent libvirt networks with DHCP and short leases, whose guests do not see each other, started now and with the host.
  - A network carries Mayfly's tag. One of the same name without it is refused, never changed.
  - A network that shall have other settings is made anew, unless guests are on it.
extends_documentation_fragment:
  - mayfly.virt._attributes
  - mayfly.virt._virt
options:
  networks:
    description:
      - The networks.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description:
          - Name of the network.
        type: str
        required: true
      subnet:
        description:
          - Private IPv4 subnet in CIDR notation, V(/28) or larger. The host has its first address, the first nine are not leased.
          - Required unless O(state=absent).
        type: str
      bridge:
        description:
          - Name of the bridge, at most 15 characters; the network's name with a V(0) behind it, if left out.
        type: str
      forward:
        description:
          - Whether guests reach other networks through the host (V(nat)), or nothing but the host (V(none)).
        type: str
        choices: [nat, none]
        default: nat
      lease_minutes:
        description:
          - How long an address is leased, in minutes. Short, for guests are gone before long.
        type: int
        default: 10
      isolated:
        description:
          - Whether guests are cut off from each other.
        type: bool
        default: true
  state:
    description:
      - Whether the networks shall be there and started.
    type: str
    choices: [present, absent]
    default: present
author:
  - The Mayfly authors (@mayfly)
"""

EXAMPLES = r"""
---
- name: Make the network for guests
  mayfly.virt.network:
    networks:
      - name: mayfly
        subnet: 10.213.0.0/20
"""

RETURN = r"""
actions:
  description: What was done, or would be in check mode, in words.
  returned: success
  type: list
  elements: str
  sample: ["create network mayfly"]
results:
  description: One entry for each network, in the order given.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name of the network.
      type: str
    changed:
      description: Whether it was made, started or removed.
      type: bool
    bridge:
      description: Name of its bridge.
      type: str
  sample:
    - name: mayfly
      changed: true
      actions: ["create network mayfly"]
      bridge: mayfly0
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import _module, _network_xml
from ..module_utils._errors import InvalidInput, MayflyError
from ..module_utils._libvirt import Hypervisor
from ..module_utils._names import check_unique
from ..module_utils._network_xml import NetworkSpec
from ..module_utils._plan import Action

NETWORK = {
    "name": {"type": "str", "required": True},
    "subnet": {"type": "str"},
    "bridge": {"type": "str"},
    "forward": {"type": "str", "choices": ["nat", "none"], "default": "nat"},
    "lease_minutes": {"type": "int", "default": 10},
    "isolated": {"type": "bool", "default": True},
}


AUTOSTART_OFF = "it does not start with the host"


def wanted_network(options: dict[str, t.Any]) -> NetworkSpec:
    if not options["subnet"]:
        raise InvalidInput("Network", options["name"], "it has no subnet", "Give one like 10.213.0.0/20.")
    fields = {key: value for key, value in options.items() if key != "bridge"}
    spec = NetworkSpec(bridge=options["bridge"] or f"{options['name']}0", **fields)
    _network_xml.check(spec)
    return spec


def plan(spec: NetworkSpec, hypervisor: Hypervisor) -> Action:
    """Compare the wanted network with what there is."""
    after = _network_xml.build(spec)
    before = hypervisor.network_xml(spec.name)
    if before is None:
        return Action("create", "network", spec.name, after=after)
    digest = _network_xml.seen_digest(before)
    if digest is None:
        raise MayflyError("make network", spec.name, "a network of that name exists and is not Mayfly's", "Choose another name.")
    if digest != spec.digest():
        guests = [domain.name for domain in hypervisor.domains() if spec.name in domain.networks]
        if guests:
            raise MayflyError(
                "change network", spec.name, f"guests are on it: {', '.join(guests)}", "Wait until they are gone, or ask for what is there."
            )
        return Action("update", "network", spec.name, "its settings differ", before=before, after=after)
    there = hypervisor.networks()[spec.name]
    if not there.active:
        return Action("update", "network", spec.name, "it is not started", before="not started\n", after="started\n")
    if not there.autostart:
        return Action("update", "network", spec.name, AUTOSTART_OFF, before="autostart off\n", after="autostart on\n")
    return Action("keep", "network", spec.name)


def present(module: AnsibleModule, hypervisor: Hypervisor) -> tuple[list[Action], list[dict[str, t.Any]]]:
    specs = [wanted_network(options) for options in module.params["networks"]]
    check_unique("Bridge", [spec.bridge for spec in specs])
    steps = [plan(spec, hypervisor) for spec in specs]
    if not module.check_mode:
        for spec, step in zip(specs, steps):
            if step.reason == AUTOSTART_OFF:  # nothing else: guests may be on it
                hypervisor.autostart_network(spec.name)
            elif step.changes:
                hypervisor.define_network(spec.name, _network_xml.build(spec))
    return steps, [_module.entry(step.name, [step], bridge=spec.bridge) for spec, step in zip(specs, steps)]


def absent(module: AnsibleModule, hypervisor: Hypervisor) -> tuple[list[Action], list[dict[str, t.Any]]]:
    steps = [removal(options["name"], hypervisor) for options in module.params["networks"]]
    if not module.check_mode:
        for step in steps:
            if step.changes:
                hypervisor.remove_network(step.name)
    return steps, [_module.entry(step.name, [step], bridge="") for step in steps]


def removal(name: str, hypervisor: Hypervisor) -> Action:
    before = hypervisor.network_xml(name)
    if before is None:
        return Action("keep", "network", name)
    if _network_xml.seen_digest(before) is None:
        raise MayflyError(
            "remove network", name, "it is not Mayfly's", "Remove it with virsh net-destroy and net-undefine, if you mean it."
        )
    guests = [domain.name for domain in hypervisor.domains() if name in domain.networks]
    if guests:
        raise MayflyError("remove network", name, f"guests are on it: {', '.join(guests)}", "Remove their runs first.")
    return Action("remove", "network", name, before=before)


def main() -> None:
    module = _module.make_module(
        {
            "networks": {"type": "list", "elements": "dict", "required": True, "options": NETWORK},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
    )
    with _module.failing(module), Hypervisor.open(module.params["uri"]) as hypervisor:
        check_unique("Network name", [options["name"] for options in module.params["networks"]])
        steps, results = (present if module.params["state"] == "present" else absent)(module, hypervisor)
    module.exit_json(**_module.result(steps, results))


if __name__ == "__main__":
    main()
