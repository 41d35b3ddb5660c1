# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lookup guests: Mayfly's guests with the variables the inventory would give them."""

from __future__ import annotations

DOCUMENTATION = r"""
name: guests
short_description: Mayfly's guests with the variables the inventory would give them
version_added: 0.1.0
description:
  - Returns the running guests of runs, each with name, groups and variables, exactly as the inventory
    P(mayfly.virt.guests#inventory) lists them.
  - For playbooks that make guests and go on to use them without an inventory file, through M(ansible.builtin.add_host).
options:
  _terms:
    description:
      - Ids of the runs whose guests are wanted; those of all runs, if there are none.
    type: list
    elements: str
  uri:
    description:
      - Connection URI of the hypervisor, as seen from the controller.
    type: str
    default: qemu:///system
  access_dir:
    description:
      - Directory on this machine with keys and pinned host keys for guests on a remote hypervisor.
    type: path
    default: ~/.cache/mayfly/access
  nss:
    description:
      - Whether to use domain names as C(ansible_host) where they resolve.
    type: bool
    default: true
author:
  - The Mayfly authors (@mayfly)
seealso:
  - plugin: mayfly.virt.guests
    plugin_type: inventory
"""

EXAMPLES = r"""
---
- name: Make the guests of this run known to the playbook
  ansible.builtin.add_host:
    name: "{{ item.name }}"
    groups: "{{ item.groups }}"
    ansible_host: "{{ item.vars.ansible_host }}"
  loop: "{{ query('mayfly.virt.guests', '20260101-120000-ab12') }}"
"""

RETURN = r"""
_raw:
  description: One entry for each guest, by name.
  type: list
  elements: dict
  contains:
    name:
      description: Name of the domain.
      type: str
    groups:
      description: Groups the inventory would put it in, as valid group names.
      type: list
      elements: str
    vars:
      description: Variables the inventory would give it.
      type: dict
"""

import typing as t

from ansible.errors import AnsibleLookupError
from ansible.inventory.group import to_safe_group_name
from ansible.plugins.lookup import LookupBase

from ..module_utils import _nss
from ..module_utils._errors import MayflyError
from ..plugin_utils import _guests


class LookupModule(LookupBase):
    def run(self, terms: list[str], variables: t.Any = None, **kwargs: t.Any) -> list[dict[str, t.Any]]:
        self.set_options(var_options=variables, direct=kwargs)
        if problem := _guests.missing_libraries():
            raise AnsibleLookupError(problem)
        try:
            records = _guests.read_records(self.get_option("uri"))
        except MayflyError as error:
            raise AnsibleLookupError(str(error)) from None  # libvirt's words are in it
        nss_works = self.get_option("nss") and _nss.state().works
        return [self._host(record, nss_works) for record in records if not terms or record["run"] in terms]

    def _host(self, record: _guests.Record, nss_works: bool) -> dict[str, t.Any]:
        access_dir = self.get_option("access_dir")
        by_name = _guests.resolves_here(record, nss_works)
        return {
            "name": record["name"],
            "groups": [to_safe_group_name(group, replacer="_", force=True, silent=True) for group in _guests.group_names(record)],
            "vars": _guests.host_vars(record, prefix="mayfly_", access_dir=access_dir, by_name=by_name),
        }
