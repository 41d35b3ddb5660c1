# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options that every module acting on a hypervisor has."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  uri:
    description:
      - Connection URI of the libvirt daemon, as libvirt understands it. Modules run on the hypervisor, so it is a local one.
    type: str
    default: qemu:///system
  state_dir:
    description:
      - Directory on the hypervisor in which images, runs and caches lie. QEMU's user must be able to pass through it.
    type: path
    default: /var/lib/mayfly
requirements:
  - libvirt-python >= 9.0 for the interpreter that runs the module (Debian C(python3-libvirt))
  - lxml (Debian C(python3-lxml))
"""
