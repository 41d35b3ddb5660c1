# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Inventory guests: Mayfly's domains as hosts."""

from __future__ import annotations

DOCUMENTATION = r"""
name: guests
short_description: Mayfly's guests as hosts, by name
version_added: 0.1.0
description:
  - Lists the running domains that carry Mayfly's tag, on one or several hypervisors, as hosts that can be logged in to at once.
  - The host's name is the domain's. C(ansible_host) is that name too where this machine resolves it (libvirt-NSS), else the leased address.
    User, key and pinned host key are those of the run, so that the first connection already verifies the guest.
  - Groups are C(mayfly) (all), C(mayfly_run_<run>), C(mayfly_guest_<guest>), C(mayfly_image_<image>) and C(mayfly_role_<role>).
  - A guest that is half dead is listed with its state. The guest agent is never asked.
options:
  plugin:
    description:
      - Name of this plugin.
    type: str
    required: true
    choices: [mayfly.virt.guests]
  uris:
    description:
      - Connection URIs of the hypervisors. For V(qemu+ssh://user@host/system) the guests are reached through that host (C(ProxyJump)).
    type: list
    elements: str
    default: ["qemu:///system"]
    env:
      - name: MAYFLY_URIS
  runs:
    description:
      - Ids of the runs whose guests are wanted; those of all runs, if left out.
    type: list
    elements: str
    env:
      - name: MAYFLY_RUNS
  untagged:
    description:
      - Whether to list domains without Mayfly's tag too. Nothing is known of how they are logged in to.
    type: bool
    default: false
  nss:
    description:
      - Whether to use domain names as C(ansible_host) where they resolve.
    type: bool
    default: true
  hostvars_prefix:
    description:
      - Prefix of the variables that tell about the guest, such as C(mayfly_run), C(mayfly_image), C(mayfly_state), C(mayfly_addresses).
    type: str
    default: mayfly_
  access_dir:
    description:
      - Directory on this machine with C(<run>/id_ed25519) and C(<run>/known_hosts) for guests on remote hypervisors. The role
        mayfly.virt.testbed puts them there.
    type: path
    default: ~/.cache/mayfly/access
extends_documentation_fragment:
  - ansible.builtin.constructed
  - ansible.builtin.inventory_cache
requirements:
  - libvirt-python >= 9.0 and lxml for the interpreter that runs Ansible
author:
  - The Mayfly authors (@mayfly)
"""

EXAMPLES = r"""
# mayfly.yml
---
plugin: mayfly.virt.guests

# All guests of two hypervisors, grouped by kernel, logged in to by address
---
plugin: mayfly.virt.guests
uris:
  - qemu:///system
  - qemu+ssh://ci@lab1.example.org/system
nss: false
keyed_groups:
  - key: mayfly_kernel
    prefix: kernel
compose:
  guest_is_fast: mayfly_accel == 'kvm'
"""

import typing as t

from ansible.errors import AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin, Cacheable, Constructable

from ..module_utils import _nss
from ..module_utils._errors import MayflyError
from ..plugin_utils import _guests


class InventoryModule(BaseInventoryPlugin, Constructable, Cacheable):
    NAME = "mayfly.virt.guests"

    def verify_file(self, path: str) -> bool:
        return super().verify_file(path) and path.endswith(("mayfly.yml", "mayfly.yaml", "guests.yml", "guests.yaml"))

    def parse(self, inventory: t.Any, loader: t.Any, path: str, cache: bool = True) -> None:
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        if problem := _guests.missing_libraries():
            raise AnsibleParserError(f"Inventory {path}: {problem}")
        records = self._records(self.get_cache_key(path), cache)
        runs = self.get_option("runs")
        nss_works = self.get_option("nss") and _nss.state().works
        for record in records:
            if runs is None or record["run"] in runs:
                self._add(record, nss_works)

    def _records(self, key: str, cache: bool) -> list[_guests.Record]:
        """Return what libvirt says, or what it said when that is still fresh. What came from the cache does not renew it."""
        use_cache = self.get_option("cache")
        if use_cache and cache and key in self._cache:
            return self._cache[key]
        records = self._read()
        if use_cache:
            self._cache[key] = records
        return records

    def _read(self) -> list[_guests.Record]:
        records: list[_guests.Record] = []
        errors: list[MayflyError] = []
        uris = self.get_option("uris")
        for uri in uris:
            try:
                records += _guests.read_records(str(uri), untagged=self.get_option("untagged"))
            except MayflyError as error:
                errors.append(error)
        if len(errors) == len(uris) and errors:
            raise AnsibleParserError("\n".join(str(error) for error in errors))
        for error in errors:
            self.display.warning(f"The guests of one hypervisor are missing from the inventory. {error}")
        return records

    def _add(self, record: _guests.Record, nss_works: bool) -> None:
        name = record["name"]
        self.inventory.add_host(name)
        if not record["addresses"]:
            self.display.v(f"Guest {name} ({record['state']}) has no leased address")
        variables = _guests.host_vars(
            record,
            prefix=self.get_option("hostvars_prefix"),
            access_dir=self.get_option("access_dir"),
            by_name=_guests.resolves_here(record, nss_works),
        )
        for key, value in variables.items():
            self.inventory.set_variable(name, key, value)
        for group in _guests.group_names(record):
            self.inventory.add_child(self.inventory.add_group(self._sanitize_group_name(group)), name)
        strict = self.get_option("strict")
        self._set_composite_vars(self.get_option("compose"), variables, name, strict=strict)
        self._add_host_to_composed_groups(self.get_option("groups"), variables, name, strict=strict)
        self._add_host_to_keyed_groups(self.get_option("keyed_groups"), variables, name, strict=strict)
