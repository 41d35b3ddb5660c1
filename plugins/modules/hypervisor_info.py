#!/usr/bin/python
# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module hypervisor_info: what the hypervisor is, has and lacks."""

from __future__ import annotations

DOCUMENTATION = r"""
module: hypervisor_info
short_description: Tell what a hypervisor is, has and lacks
version_added: 0.1.0
description:
  - Returns versions, capacity, firmware, state of libvirt-NSS and the proven acceleration of a hypervisor,
    and names each problem with its remedy.
  - Acceleration is proven by booting a kernel under KVM for a few seconds, once for each boot of the host and kernel.
    The answer is remembered in the cache below O(state_dir), which is all this module writes.
extends_documentation_fragment:
  - mayfly.virt._attributes.info
  - mayfly.virt._virt
options:
  kernel:
    description:
      - Kernel to prove KVM with. That of a stored image, else the host's own, if left out.
    type: path
  network:
    description:
      - libvirt network that guests are to be on; it is a problem when it is not active.
    type: str
    default: mayfly
author:
  - The Mayfly authors (@mayfly)
"""

EXAMPLES = r"""
---
- name: Ask what is missing
  mayfly.virt.hypervisor_info:
  register: hypervisor

- name: Refuse to go on under emulation
  ansible.builtin.assert:
    that: hypervisor.accel.name == 'kvm'
"""

RETURN = r"""
versions:
  description: Versions of libvirt and QEMU.
  returned: success
  type: dict
  sample: {libvirt: 9.0.0, qemu: 7.2.22}
accel:
  description: Acceleration that guests get.
  returned: success
  type: dict
  contains:
    name:
      description: V(kvm) or V(tcg).
      type: str
    proven:
      description: Whether that was seen, or can only be assumed.
      type: bool
    reason:
      description: What was seen.
      type: str
    kernel:
      description: The kernel it was seen with.
      type: str
    deadline_factor:
      description: By how much deadlines written for KVM are multiplied.
      type: int
  sample: {name: kvm, proven: true, reason: a kernel booted under KVM, kernel: /boot/vmlinuz, deadline_factor: 1}
capacity:
  description: Memory and disk in MiB, processors, and what domains were already given.
  returned: success
  type: dict
  sample: {memory_mib: 64000, available_mib: 60000, cpus: 16, domains: 2, given_memory_mib: 2048, given_vcpus: 4, disk_free_mib: 100000}
firmware:
  description: Firmware that domains can have.
  returned: success
  type: list
  elements: str
  sample: [bios, efi]
nss:
  description: State of libvirt-NSS.
  returned: success
  type: dict
  contains:
    module:
      description: Whether the module that answers by domain name is installed.
      type: bool
    configured:
      description: Whether C(nsswitch.conf) asks it, and before DNS.
      type: bool
  sample: {module: true, configured: true}
networks:
  description: libvirt networks and whether they are active.
  returned: success
  type: dict
  sample: {mayfly: true}
problems:
  description: What is wrong, each with its remedy. Empty on a host that is ready.
  returned: success
  type: list
  elements: dict
  contains:
    subject:
      description: What it is about.
      type: str
    problem:
      description: What is wrong.
      type: str
    remedy:
      description: What to do.
      type: str
    grave:
      description: Whether it keeps guests from being made.
      type: bool
  sample:
    - subject: nss
      problem: nsswitch.conf does not ask libvirt_guest before dns
      remedy: Run the play mayfly.virt.hypervisor.
      grave: false
"""

import dataclasses
import shutil
import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import _accel, _module, _nss
from ..module_utils._domain_xml import SeenDomain
from ..module_utils._hypervisor import Findings, firmware, problems
from ..module_utils._libvirt import Hypervisor
from ..module_utils._store import Store


def capacity(hypervisor: Hypervisor, domains: list[SeenDomain], state_dir: Path) -> dict[str, int]:
    node = hypervisor.node()
    existing = next(path for path in (state_dir, *state_dir.parents) if path.exists())
    return {
        **dataclasses.asdict(node),
        "domains": len(domains),
        "given_memory_mib": sum(domain.memory_mib for domain in domains),
        "given_vcpus": sum(domain.vcpus for domain in domains),
        "disk_free_mib": shutil.disk_usage(existing).free // 1024**2,
    }


def proof(module: AnsibleModule, capabilities: str, state_dir: Path) -> _accel.Proof:
    store = Store(state_dir)
    given = module.params["kernel"]
    kernels = [Path(given)] if given else [store.dir / manifest.kernel for manifest in store.manifests() if manifest.kernel]
    return _accel.prove(_accel.find_kernel(kernels), state_dir / "cache", _module.Tools(module).run, kvm_offered=bool(capabilities))


def wall_stands(module: AnsibleModule) -> bool:
    """Tell whether the table is loaded that the role hypervisor keeps guests from this host with."""
    table = f"mayfly_{module.params['network'].replace('-', '_')}"
    code, _out, _err = _module.Tools(module).run(["nft", "list", "table", "inet", table])
    return code == 0


def inspect(module: AnsibleModule, hypervisor: Hypervisor) -> dict[str, t.Any]:
    state_dir = _module.state_dir(module)
    kvm, tcg = (hypervisor.domain_capabilities(accel) for accel in ("kvm", "tcg"))
    accel = proof(module, kvm, state_dir)
    networks = {name: network.active for name, network in hypervisor.networks().items()}
    nss = _nss.state()
    findings = Findings(
        accel=accel,
        permission_trap=_accel.permission_trap(),
        nss=nss,
        networks=networks,
        network=module.params["network"],
        firmware=firmware(kvm or tcg),
        capacity=capacity(hypervisor, hypervisor.domains(), state_dir),
        state_dir=state_dir,
        wall=wall_stands(module),
        missing_programs=tuple(name for name in _module.PROGRAMS if not module.get_bin_path(name)),
    )
    return {
        "versions": hypervisor.versions(),
        "accel": {
            "name": accel.accel,
            "proven": accel.proven,
            "reason": accel.reason,
            "kernel": accel.kernel,
            "deadline_factor": int(_accel.scaled(1, accel.accel)),
        },
        "capacity": findings.capacity,
        "firmware": list(findings.firmware),
        "nss": dataclasses.asdict(nss),
        "networks": networks,
        "problems": [dataclasses.asdict(problem) for problem in problems(findings)],
    }


def main() -> None:
    module = _module.make_module(
        {
            "kernel": {"type": "path"},
            "network": {"type": "str", "default": "mayfly"},
        },
    )
    with _module.failing(module), Hypervisor.open(module.params["uri"]) as hypervisor:
        facts = inspect(module, hypervisor)
    module.exit_json(changed=False, **facts)


if __name__ == "__main__":
    main()
