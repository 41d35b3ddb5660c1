#!/usr/bin/python
# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module domain_evidence: what the hypervisor knows of a run's domains, dead or alive."""

from __future__ import annotations

DOCUMENTATION = r"""
module: domain_evidence
short_description: Gather what the hypervisor knows of domains
version_added: 0.2.0
description:
  - Writes what can be had of domains without their help into the directory of their run on the hypervisor, so that a dead guest still
    tells.
  - Of each domain C(domain.xml), C(domain.json) with state, I/O errors and statistics, QEMU's log, what libvirt's daemon logged of it,
    a screenshot if it has a video device, and its console.
  - Of one that hangs C(sysrq.log) too, what its kernel says to SysRq l, w and t and to a non-maskable interrupt. A kernel heeds the keys
    only as far as its C(kernel.sysrq) allows.
  - A dump of the memory is in the format kdump-zlib that C(crash) and C(drgn) read, with VMCOREINFO when the guest's kernel has given it.
  - What cannot be had is returned in RV(results[].missing) and does not fail the task. The module M(mayfly.virt.evidence) brings it to the
    results, where it becomes an error.
extends_documentation_fragment:
  - mayfly.virt._virt
options:
  run:
    description:
      - Id of the run.
    type: str
    required: true
  domains:
    description:
      - Names of the domains. Of one that is gone there are the console and QEMU's log.
    type: list
    elements: str
    required: true
  hung:
    description:
      - Those of them that do not answer any more though they run.
    type: list
    elements: str
    default: []
  memory_dump:
    description:
      - Whether to dump the memory of V(always) each domain, V(never), or V(on_crash) that of a domain whose kernel died, or that hangs.
      - A domain that runs is paused meanwhile.
    type: str
    choices: [on_crash, never, always]
    default: on_crash
  dump_limit_mib:
    description:
      - Domains with more memory than this are not dumped, in MiB. A dump takes at most as much as there is memory, mostly far less.
      - There must be room for it twice and for 1 GiB more in O(state_dir), for QEMU writes another format than tools read.
    type: int
    default: 4096
  overlay:
    description:
      - Whether to keep a copy of the overlay, which is what the domain has written to its disk, of V(always) each domain, V(never), or
        V(on_crash) of a domain whose kernel died, or that hangs. It is of use together with the image it stands on.
      - A domain that runs is paused meanwhile.
    type: str
    choices: [on_crash, never, always]
    default: never
  overlay_limit_mib:
    description:
      - Overlays that take more than this are not kept, in MiB. There must be room for it and 1 GiB more in O(state_dir).
    type: int
    default: 8192
  patience:
    description:
      - Seconds to wait for each word of the kernel of a domain that hangs.
    type: int
    default: 15
  answer_timeout:
    description:
      - Seconds libvirt may take for an answer, and ten times as many for a dump of the memory. What it has not given by then is missing,
        and the domain is not asked about again. While its daemon hangs there are still consoles and QEMU's logs.
    type: int
    default: 60
attributes:
  check_mode:
    description: Can run in C(check_mode) and return changed status prediction without modifying target.
    support: full
    details:
      - Nothing is looked at in check mode.
  diff_mode:
    description: Will return details on what has changed (or possibly needs changing in C(check_mode)), when in diff mode.
    support: none
  idempotent:
    description: When run twice in a row outside check mode, with the same arguments, the second invocation indicates no change.
    support: none
    details:
      - Each time the domains are looked at anew.
  action_group:
    description: Use C(group/mayfly.virt.virt) in C(module_defaults) to set defaults for this module.
    support: full
    membership:
      - mayfly.virt.virt
author:
  - The Mayfly authors (@mayfly)
"""

EXAMPLES = r"""
---
- name: Look at a guest that died
  mayfly.virt.domain_evidence:
    run: 20260101-120000-ab12
    domains: [old-20260101-120000-ab12]
"""

RETURN = r"""
results:
  description: One entry for each domain, in the order of O(domains). Empty when the run has no directory.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name of the domain.
      type: str
    state:
      description:
        - V(running), V(paused), V(crashed) or another state of libvirt's, V(gone) when there is no such domain, V(unknown) when libvirt
          does not tell.
      type: str
    directory:
      description: Directory on the hypervisor with the files.
      type: str
    dump:
      description: File on the hypervisor with the dump of the memory, empty when there is none.
      type: str
    overlay:
      description: File on the hypervisor with the copy of the overlay, empty when there is none.
      type: str
    missing:
      description: What could not be had, with the reason, by name of the file.
      type: dict
    left_out:
      description: What there is not, or what was not needed, and why.
      type: list
      elements: str
  sample:
    - name: old-20260101-120000-ab12
      state: crashed
      directory: /var/lib/mayfly/runs/20260101-120000-ab12/evidence/old-20260101-120000-ab12
      dump: /var/lib/mayfly/runs/20260101-120000-ab12/evidence/old-20260101-120000-ab12.vmcore
      overlay: ""
      missing: {}
      left_out: ["screenshot.png: the domain has no video device"]
"""

import contextlib
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import _module
from ..module_utils._domain_evidence import Autopsy, DaemonLog, Wanted
from ..module_utils._domain_xml import SeenDomain
from ..module_utils._errors import InvalidInput, MayflyError
from ..module_utils._libvirt import Hypervisor
from ..module_utils._names import check_domain_name, check_run_id, check_unique
from ..module_utils._patience import ANSWER_TIMEOUT, Patient
from ..module_utils._purge import owned
from ..module_utils._run import RunPaths


def check(params: dict[str, t.Any]) -> None:
    """Refuse what cannot be meant; names become paths."""
    check_run_id(params["run"])
    check_unique("Domain name", [check_domain_name(name) for name in params["domains"]])
    for name in params["hung"]:
        if name not in params["domains"]:
            raise InvalidInput("Domain", name, "it is said to hang and is not among the domains", "Name it in both.")
    for option in ("dump_limit_mib", "overlay_limit_mib", "patience", "answer_timeout"):
        if params[option] <= 0:
            raise InvalidInput("Option", option, f"it is {params[option]}", "Give a positive number.")


def connect(module: AnsibleModule) -> tuple[Patient | None, str]:
    """Return a hypervisor, or why there is none: what lies in files can be had all the same."""
    try:
        return Patient(Hypervisor.open(module.params["uri"], module.params["answer_timeout"]), module.params["answer_timeout"]), ""
    except MayflyError as error:
        return None, str(error)


def gather(module: AnsibleModule, hypervisor: Patient | None, unknown: str, paths: RunPaths) -> list[dict[str, t.Any]]:
    params = module.params
    seen: dict[str, SeenDomain] = {}
    states: dict[str, str] = {}
    if hypervisor is not None:
        try:
            seen = {domain.name: domain for domain in owned(hypervisor.domains(), paths.state_dir, paths.run)}
            states = hypervisor.states()
        except MayflyError as error:
            seen, unknown = {}, str(error)
    run_command = _module.Tools(module).run
    daemon = DaemonLog(run_command)
    results = []
    for name in params["domains"]:
        domain = seen.get(name)
        state = states.get(domain.uuid, "gone") if domain else "unknown" if unknown else "gone"
        wanted = Wanted(
            name,
            name in params["hung"],
            **{option: params[option] for option in ("memory_dump", "dump_limit_mib", "patience", "overlay", "overlay_limit_mib")},
        )
        autopsy = Autopsy(hypervisor, paths, domain, state, wanted, daemon, run_command, unknown)
        autopsy.perform()
        result = {"name": name, "state": state, "directory": str(autopsy.directory)}
        for kind, file in (("dump", autopsy.dump), ("overlay", autopsy.overlay)):
            result[kind] = str(file) if file.exists() else ""
        results.append({**result, "missing": autopsy.missing, "left_out": autopsy.left_out})
    return results


def main() -> None:
    module = _module.make_module(
        {
            "run": {"type": "str", "required": True},
            "domains": {"type": "list", "elements": "str", "required": True},
            "hung": {"type": "list", "elements": "str", "default": []},
            "memory_dump": {"type": "str", "choices": ["on_crash", "never", "always"], "default": "on_crash"},
            "dump_limit_mib": {"type": "int", "default": 4096},
            "overlay": {"type": "str", "choices": ["on_crash", "never", "always"], "default": "never"},
            "overlay_limit_mib": {"type": "int", "default": 8192},
            "patience": {"type": "int", "default": 15},
            "answer_timeout": {"type": "int", "default": ANSWER_TIMEOUT},
        },
    )
    with _module.failing(module):
        check(module.params)
        paths = RunPaths(_module.state_dir(module), module.params["run"])
        if module.check_mode or not paths.dir.is_dir():
            module.exit_json(changed=module.check_mode, results=[])
        hypervisor, unknown = connect(module)
        with hypervisor or contextlib.nullcontext():
            results = gather(module, hypervisor, unknown, paths)
    module.exit_json(changed=True, results=results)


if __name__ == "__main__":
    main()
