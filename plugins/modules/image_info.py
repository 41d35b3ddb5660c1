#!/usr/bin/python
# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module image_info: what is in the image store."""

from __future__ import annotations

DOCUMENTATION = r"""
module: image_info
short_description: Tell about stored images
version_added: 0.1.0
description:
  - Returns the manifests of the images in the store, with the aliases that point to them.
extends_documentation_fragment:
  - mayfly.virt._attributes.info
  - mayfly.virt._virt
options:
  names:
    description:
      - Aliases or digests that are wanted; all images, if left out. Names that are not in the store are left out of the answer.
    type: list
    elements: str
  verify:
    description:
      - Whether to read every image whole and compare it with its digest.
    type: bool
    default: false
author:
  - The Mayfly authors (@mayfly)
"""

EXAMPLES = r"""
---
- name: Look at what guests can stand on
  mayfly.virt.image_info:
  register: images
"""

RETURN = r"""
results:
  description: One entry for each image.
  returned: success
  type: list
  elements: dict
  contains:
    digest:
      description: SHA-256 digest of the image.
      type: str
    aliases:
      description: Names that point to it.
      type: list
      elements: str
    path:
      description: The file.
      type: str
    virtual_size:
      description: Size that a guest sees, in bytes.
      type: int
    size:
      description: Size of the file, in bytes.
      type: int
    created:
      description: When it was stored, ISO 8601 in UTC.
      type: str
    kernel:
      description: Kernel file that came with it, or empty.
      type: str
    initrd:
      description: Initial RAM disk that came with it, or empty.
      type: str
    kernel_release:
      description: Release of that kernel.
      type: str
    cmdline:
      description: Kernel command line it is booted with.
      type: str
    packages:
      description: Number of packages in it, when it was built here. Their list lies beside the image as C(.packages.txt).
      type: int
    source:
      description: Where it came from and how that was checked.
      type: dict
    intact:
      description: Whether the file has its digest, when O(verify=true).
      type: bool
  sample:
    - digest: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
      aliases: [debian-12]
      path: /var/lib/mayfly/images/sha256-9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08.qcow2
      virtual_size: 4294967296
      size: 520093696
      created: "2026-01-01T12:00:00+00:00"
      kernel: /var/lib/mayfly/images/sha256-9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08.vmlinuz
      initrd: /var/lib/mayfly/images/sha256-9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08.initrd
      kernel_release: 6.1.0-13-cloud-amd64
      cmdline: root=LABEL=mayfly-root ro console=ttyS0
      packages: 240
      source: {kind: recipe, location: bookworm}
"""

from ..module_utils import _module
from ..module_utils._store import Store, describe, file_sha256


def intact(store: Store, digest: str) -> bool:
    path = store.path(digest)
    return path.exists() and file_sha256(path) == digest


def main() -> None:
    module = _module.make_module(
        {
            "names": {"type": "list", "elements": "str"},
            "verify": {"type": "bool", "default": False},
        },
        needs_libvirt=False,
    )
    names = module.params["names"]
    store = Store(_module.state_dir(module))
    with _module.failing(module):
        if names is None:
            manifests = store.manifests()
        else:
            found = {manifest.digest: manifest for name in names if (manifest := store.resolve(name))}
            manifests = list(found.values())
        results = [describe(store, manifest) for manifest in manifests]
        if module.params["verify"]:
            results = [{**result, "intact": intact(store, result["digest"])} for result in results]
    module.exit_json(changed=False, results=results)


if __name__ == "__main__":
    main()
