#!/usr/bin/python
# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module libvirt_source: see the action of the same name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: libvirt_source
short_description: Bring the libvirt under test into a guest
version_added: 0.2.0
description:
  - Installs packages of the distribution, package files that an earlier stage built, or an installation that was staged; or builds
    a source tree.
  - What is brought is read on the controller, and refused before the guest is changed when something of it is missing, has another
    checksum, is of several builds, or is for another kind of distribution or architecture.
  - Dependencies of package files come from the files themselves, and from the guest's package sources where they do not suffice.
  - It needs no Python in the guest.
options:
  source:
    description:
      - What is brought.
    type: str
    choices: [distribution, artifacts, tree]
    required: true
  distributions:
    description:
      - What is known of distributions, by C(<ID>-<VERSION_ID>) of F(/etc/os-release) or C(<ID>-*). Others are refused. Each has
        C(packages).
    type: dict
    required: true
  packages:
    description:
      - Packages that O(source=distribution) installs; those of O(distributions), if left out.
    type: list
    elements: str
    default: []
  artifacts:
    description:
      - Where the package files are, on the controller. Each is a path, or a dictionary with C(path) or C(url) and with C(sha256), which
        a URL must have.
      - A path is a package file, a directory or a tar or zip archive with package files in any depth.
      - Where a file C(SHA256SUMS) lies in the directory, or at the top of the archive, it must list each package file, and each must
        be as it says.
      - Source packages are left out.
    type: list
    elements: raw
    default: []
  skip:
    description:
      - Names of packages that are left out, with C(*) and C(?).
    type: list
    elements: str
    default: []
  tree:
    description:
      - Directory on the controller. With C(meson.build) it is a source tree, which is built and installed in the guest; meson, ninja, a
        compiler and what libvirt is built with must be there. With C(usr/sbin/libvirtd) or C(usr/sbin/virtqemud) it is what
        C(DESTDIR=... meson install) made, which is put over the guest's files. What is in F(/etc) already stays.
    type: path
  meson_options:
    description:
      - Words for C(meson setup).
    type: list
    elements: str
    default: []
  install_seconds:
    description:
      - Seconds that installing may take.
    type: int
    default: 300
  build_seconds:
    description:
      - Seconds that building a source tree may take.
    type: int
    default: 1800
  factor:
    description:
      - What times in the guest are multiplied by.
    type: float
    default: 1.0
attributes:
  check_mode:
    description: Can run in C(check_mode) and return changed status prediction without modifying target.
    support: full
    details:
      - All that can be refused is refused in check mode, too, but for what the guest's package manager refuses.
  diff_mode:
    description: Will return details on what has changed (or possibly needs changing in C(check_mode)), when in diff mode.
    support: full
  idempotent:
    description: When run twice in a row outside check mode, with the same arguments, the second invocation indicates no change.
    support: full
author:
  - The Mayfly authors (@mayfly)
"""

EXAMPLES = r"""
---
- name: Install what the build stage left
  mayfly.virt.libvirt_source:
    source: artifacts
    artifacts: [libvirt-debs]
    distributions: {debian-12: {packages: [libvirt-daemon-system]}}
"""

RETURN = r"""
source:
  description: What was brought.
  returned: success
  type: str
  sample: artifacts
actions:
  description: What was done, or would be in check mode, in words.
  returned: success
  type: list
  elements: str
  sample: ["install libvirt0 11.3.0-2~bpo12+1"]
"""
