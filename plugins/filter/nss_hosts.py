# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter nss_hosts: the hosts line of nsswitch.conf with libvirt_guest in it."""

from __future__ import annotations

DOCUMENTATION = r"""
name: nss_hosts
short_description: The hosts line of nsswitch.conf with libvirt_guest before DNS
version_added: 0.1.0
description:
  - Returns the C(hosts:) line of an C(nsswitch.conf) with C(libvirt_guest) behind C(files).
  - A line in which that is asked before DNS already is returned as it is.
options:
  _input:
    description:
      - Text of the file.
    type: str
    required: true
author:
  - The Mayfly authors (@mayfly)
"""

EXAMPLES = r"""
---
- name: Show the line this host would get
  ansible.builtin.debug:
    msg: "{{ lookup('ansible.builtin.file', '/etc/nsswitch.conf') | mayfly.virt.nss_hosts }}"
"""

RETURN = r"""
_value:
  description: The line.
  type: str
"""

import typing as t

from ..module_utils import _nss


def nss_hosts(text: str) -> str:
    return _nss.with_guests(text)


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"nss_hosts": nss_hosts}
