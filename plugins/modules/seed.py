#!/usr/bin/python
# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module seed: cloud-init NoCloud seeds."""

from __future__ import annotations

DOCUMENTATION = r"""
module: seed
short_description: Make and remove cloud-init seeds
version_added: 0.1.0
description:
  - Makes a NoCloud image (C(user-data), C(meta-data) with an instance id of its own, C(network-config) with C(dhcp-identifier=mac))
    for each guest of a run.
  - The run's ssh key is authorised and the guest's host key made beforehand, so that the first login can already verify the guest.
    C(known_hosts) in the run's directory pins the host keys of all its guests under their domain names.
  - The seed always sets C(users), C(ssh_keys), C(ssh_deletekeys), C(ssh_genkeytypes), C(ssh_pwauth), C(disable_root) and C(ca_certs),
    for access to the guest hangs on them.
extends_documentation_fragment:
  - mayfly.virt._attributes
  - mayfly.virt._virt
  - mayfly.virt._run
options:
  seeds:
    description:
      - The seeds, made in one task.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description:
          - Name of the domain the seed is for. The file is C(runs/<run id>/<name>.seed.iso) below O(state_dir).
        type: str
        required: true
      macs:
        description:
          - MAC addresses of the guest's interfaces, in their order; each asks for its address by DHCP.
          - The address that M(mayfly.virt.domain) derives for its first interface, if left out.
        type: list
        elements: str
        default: []
      hostname:
        description:
          - The guest's host name; O(seeds[].name) if left out.
        type: str
      user:
        description:
          - Who logs in with the run's key. A user other than V(root) is made and may use sudo.
        type: str
        default: root
      authorized_keys:
        description:
          - Public keys authorised beside the run's own.
        type: list
        elements: str
        default: []
      ca_certificates:
        description:
          - PEM files on the hypervisor whose authorities the guest trusts beside its distribution's.
        type: list
        elements: path
        default: []
      user_data:
        description:
          - Further keys of the cloud-config.
        type: dict
        default: {}
  state:
    description:
      - Whether the seeds shall be there. V(absent) also removes the guests' host keys.
    type: str
    choices: [present, absent]
    default: present
author:
  - The Mayfly authors (@mayfly)
seealso:
  - module: mayfly.virt.domain
    description: Makes overlay, seed and domain in one task.
"""

EXAMPLES = r"""
---
- name: Make a seed that trusts the company's authority
  mayfly.virt.seed:
    run:
      id: 20260101-120000-ab12
    seeds:
      - name: one-20260101-120000-ab12
        ca_certificates: [/usr/local/share/ca-certificates/company.crt]
        user_data:
          timezone: UTC
"""

RETURN = r"""
actions:
  description: What was done, or would be in check mode, in words.
  returned: success
  type: list
  elements: str
  sample: ["create seed one-20260101-120000-ab12"]
results:
  description: One entry for each seed, in the order given.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name of the domain.
      type: str
    changed:
      description: Whether it was made, made anew or removed.
      type: bool
    path:
      description: The image.
      type: str
    private_key:
      description: The run's private key file.
      type: str
    known_hosts:
      description: File with the pinned host keys.
      type: str
  sample:
    - name: one-20260101-120000-ab12
      changed: true
      actions: ["create seed one-20260101-120000-ab12"]
      path: /var/lib/mayfly/runs/20260101-120000-ab12/one-20260101-120000-ab12.seed.iso
      private_key: /var/lib/mayfly/runs/20260101-120000-ab12/id_ed25519
      known_hosts: /var/lib/mayfly/runs/20260101-120000-ab12/known_hosts
"""

import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import _module
from ..module_utils._argspec import RUN, SEED
from ..module_utils._guest import seed_of
from ..module_utils._names import check_domain_name, check_mac, check_run_id, check_unique, derive_mac
from ..module_utils._plan import Action
from ..module_utils._provision import make_seed, opened, run_action, seed_action
from ..module_utils._run import RunPaths, hold
from ..module_utils._seed import Seed, write_known_hosts


def wanted_seed(options: dict[str, t.Any], run_id: str) -> Seed:
    name = options["name"]
    macs = tuple(check_mac(mac) for mac in options["macs"]) or (derive_mac(name),)
    return seed_of(name, run_id, options, macs)


def present(module: AnsibleModule, tools: _module.Tools, paths: RunPaths) -> tuple[list[Action], list[dict[str, t.Any]]]:
    seeds = [wanted_seed(options, paths.run) for options in module.params["seeds"]]
    opening = run_action(paths, module.params["run"])
    steps = [seed_action(seed, paths) for seed in seeds]
    if not module.check_mode:
        with opened(paths, module.params["run"], tools.run):
            for seed, step in zip(seeds, steps):
                if step.changes:
                    make_seed(seed, paths, tools.run)
            write_known_hosts(paths)
    results = [
        _module.entry(
            step.name,
            [step],
            path=str(paths.seed(step.name)),
            private_key=str(paths.key),
            known_hosts=str(paths.known_hosts),
        )
        for step in steps
    ]
    return [opening, *steps], results


def absent(module: AnsibleModule, paths: RunPaths) -> tuple[list[Action], list[dict[str, t.Any]]]:
    names = [options["name"] for options in module.params["seeds"]]
    steps = [removal(name, files_of(paths, name)) for name in names]
    if not module.check_mode:
        for name in names:
            for path in files_of(paths, name):
                path.unlink()
        if paths.record.exists():
            with hold(paths):
                write_known_hosts(paths)
    return steps, [_module.entry(step.name, [step], path=str(paths.seed(step.name))) for step in steps]


def files_of(paths: RunPaths, name: str) -> list[Path]:
    key = paths.host_key(name)
    return [path for path in (paths.seed(name), key, key.with_suffix(".pub")) if path.exists()]


def removal(name: str, files: list[Path]) -> Action:
    return Action("remove" if files else "keep", "seed", name, before="".join(f"{path}\n" for path in files))


def main() -> None:
    options = {
        "name": {"type": "str", "required": True},
        "macs": {"type": "list", "elements": "str", "default": []},
        **SEED,
    }
    module = _module.make_module(
        {
            "run": {**RUN, "required": True},
            "seeds": {"type": "list", "elements": "dict", "required": True, "options": options},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        needs_libvirt=False,
    )
    with _module.failing(module):
        check_unique("Seed name", [check_domain_name(given["name"]) for given in module.params["seeds"]])
        paths = RunPaths(_module.state_dir(module), check_run_id(module.params["run"]["id"]))
        if module.params["state"] == "present":
            steps, results = present(module, _module.Tools(module), paths)
        else:
            steps, results = absent(module, paths)
    module.exit_json(**_module.result(steps, results))


if __name__ == "__main__":
    main()
