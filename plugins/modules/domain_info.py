#!/usr/bin/python
# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module domain_info: what Mayfly's domains are doing."""

from __future__ import annotations

DOCUMENTATION = r"""
module: domain_info
short_description: Tell about Mayfly's domains
version_added: 0.1.0
description:
  - Returns the running domains that carry Mayfly's tag, with state and addresses. Never asks a guest agent.
extends_documentation_fragment:
  - mayfly.virt._attributes.info
  - mayfly.virt._virt
options:
  run:
    description:
      - Id of the run whose domains are wanted; those of all runs, if left out.
    type: str
  names:
    description:
      - Names of the domains that are wanted; all, if left out. Names that no domain of ours has are left out of the answer.
    type: list
    elements: str
  xml:
    description:
      - Whether to return libvirt's whole description of each domain too.
    type: bool
    default: false
author:
  - The Mayfly authors (@mayfly)
"""

EXAMPLES = r"""
---
- name: Look at the guests of a run
  mayfly.virt.domain_info:
    run: 20260101-120000-ab12
  register: guests
"""

RETURN = r"""
results:
  description: One entry for each domain, by name.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name of the domain.
      type: str
    uuid:
      description: Its UUID.
      type: str
    state:
      description: V(running), V(paused), V(crashed), V(shut off) or another state of libvirt's.
      type: str
    guest:
      description: What the job calls it.
      type: str
    run:
      description: Id of its run.
      type: str
    owner:
      description: Who the run is for.
      type: str
    created:
      description: When the run was opened, ISO 8601 in UTC.
      type: str
    deadline:
      description: When the run may be swept away, ISO 8601 in UTC.
      type: str
    image:
      description: Alias of its image.
      type: str
    digest:
      description: SHA-256 digest of its image.
      type: str
    kernel:
      description: Release of the kernel that came with the image, or the kernel file.
      type: str
    accel:
      description: V(kvm) or V(tcg).
      type: str
    macs:
      description: MAC addresses of its interfaces.
      type: list
      elements: str
    addresses:
      description: IPv4 addresses leased to them.
      type: list
      elements: str
    memory_mib:
      description: Memory in MiB.
      type: int
    vcpus:
      description: Number of virtual processors.
      type: int
    console_log:
      description: File with the console's output.
      type: str
    xml:
      description: libvirt's description of the domain, when asked for.
      type: str
  sample:
    - name: old-20260101-120000-ab12
      uuid: 3b90b180-ff3f-49ee-9a2b-48575fa59fcb
      state: running
      guest: old
      run: 20260101-120000-ab12
      owner: jane
      created: "2026-01-01T12:00:00+00:00"
      deadline: "2026-01-01T13:00:00+00:00"
      image: debian-12
      digest: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
      kernel: 6.1.0-13-cloud-amd64
      accel: kvm
      macs: ["52:54:99:f0:c3:1b"]
      addresses: [10.213.0.17]
      memory_mib: 2048
      vcpus: 2
      console_log: /var/lib/mayfly/runs/20260101-120000-ab12/old-20260101-120000-ab12.console.log
"""

import typing as t

from ..module_utils import _module
from ..module_utils._domain_xml import SeenDomain
from ..module_utils._libvirt import Hypervisor, Lease
from ..module_utils._patience import ANSWER_TIMEOUT, Patient
from ..module_utils._purge import leases_of, owned


def describe(domain: SeenDomain, state: str, leases: list[Lease]) -> dict[str, t.Any]:
    tag = domain.tag
    return {
        "name": domain.name,
        "uuid": domain.uuid,
        "state": state,
        "guest": tag.guest,
        "run": tag.run,
        "owner": tag.owner,
        "created": tag.created,
        "deadline": tag.deadline,
        "image": tag.image,
        "digest": tag.digest,
        "kernel": tag.kernel,
        "accel": tag.accel,
        "macs": list(domain.macs),
        "addresses": sorted({lease.address for lease in leases_of([domain], leases)}),
        "memory_mib": domain.memory_mib,
        "vcpus": domain.vcpus,
        "console_log": domain.console_log,
    }


def main() -> None:
    module = _module.make_module(
        {
            "run": {"type": "str"},
            "names": {"type": "list", "elements": "str"},
            "xml": {"type": "bool", "default": False},
        },
    )
    run, names = module.params["run"], module.params["names"]
    with _module.failing(module), Patient(Hypervisor.open(module.params["uri"], ANSWER_TIMEOUT), ANSWER_TIMEOUT) as hypervisor:
        domains = owned(hypervisor.domains(), _module.state_dir(module), run)
        wanted = [domain for domain in domains if names is None or domain.name in names]
        states = hypervisor.states()
        leases = hypervisor.leases({network for domain in wanted for network in domain.networks}) if wanted else []
        results = [describe(domain, states.get(domain.uuid, "gone"), leases) for domain in sorted(wanted, key=lambda each: each.name)]
        if module.params["xml"]:
            results = [{**result, "xml": hypervisor.xml(result["uuid"])} for result in results]
    module.exit_json(changed=False, results=results)


if __name__ == "__main__":
    main()
