#!/usr/bin/python
# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module image: base images in the content-addressed store."""

from __future__ import annotations

DOCUMENTATION = r"""
module: image
short_description: Import, build and remove base images
version_added: 0.1.0
description:
  - Brings base images into the store, from a file, a URL or a recipe. A stored image is called by its SHA-256 digest, has mode 0444 and is
    never changed in place. Aliases such as V(debian-12) point to digests.
  - A URL needs a checksum. A detached OpenPGP signature is verified where one is given.
  - An image is converted to one qcow2 file without backing file. What is corrupt, truncated or leans on other files is refused.
  - Several processes that import the same image at the same time download and convert it once; the others wait.
  - When anything fails, nothing of the image is kept.
extends_documentation_fragment:
  - mayfly.virt._attributes
  - mayfly.virt._virt
options:
  images:
    description:
      - The images, one after the other.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description:
          - Alias of the image. With O(state=absent) a digest will do too.
        type: str
        required: true
      source:
        description:
          - Path on the hypervisor, or URL, of the image.
        type: str
      checksum:
        description:
          - C(<algorithm>:<hex>), or C(<algorithm>:<path or URL>) of a list of checksums in GNU or BSD form, of the file as it is fetched.
          - The algorithm is V(sha256), V(sha384) or V(sha512). Required for a URL.
        type: str
      signature:
        description:
          - Path or URL of a detached OpenPGP signature. Of the list of checksums when O(images[].checksum) names one, else of the image.
        type: str
      keyring:
        description:
          - Path or URL of the public keys that may have signed, binary or armoured. Required with O(images[].signature).
        type: str
      kernel:
        description:
          - Path or URL of a kernel to be booted directly with the image.
        type: str
      initrd:
        description:
          - Path or URL of the initial RAM disk for O(images[].kernel).
        type: str
      cmdline:
        description:
          - Kernel command line for O(images[].kernel).
        type: str
      recipe:
        description:
          - Build a Debian image natively with mmdebstrap instead of importing one. Needs root.
          - An image that was built by the same recipe is taken from the store; nothing is built then.
        type: dict
        suboptions:
          suite:
            description:
              - Suite of the distribution, such as V(bookworm).
            type: str
            required: true
          suites:
            description:
              - Further suites of the same mirror, such as V(bookworm-backports).
            type: list
            elements: str
            default: []
          components:
            description:
              - Components of all suites.
            type: list
            elements: str
            default: [main]
          packages:
            description:
              - Packages beside those every guest needs. C(name/suite) takes one from another suite.
            type: list
            elements: str
            default: []
          kernel:
            description:
              - V(cloud), V(generic), or the name of a kernel package.
            type: str
            default: cloud
          kernel_suite:
            description:
              - Suite that the kernel comes from, one of O(images[].recipe.suites).
            type: str
          cmdline:
            description:
              - Words added to the kernel's command line.
            type: str
          ca_certificates:
            description:
              - PEM files on the hypervisor whose authorities the image trusts beside the distribution's.
            type: list
            elements: path
            default: []
          disk_gib:
            description:
              - Size of the root file system in GiB. Guests grow it to the size of their overlay.
            type: int
            default: 4
          serial:
            description:
              - Any word. Another one builds the image anew, for the packages of the day.
            type: str
      mirror:
        description:
          - Mirror to build from; mmdebstrap's own for the suite, if left out. Not part of the recipe.
        type: str
      apt_options:
        description:
          - Options for apt while building, as in C(apt.conf). Not part of the recipe.
        type: list
        elements: str
        default: []
  state:
    description:
      - V(absent) removes the alias, and the image when no other alias points to it.
      - A digest is refused while an alias points to it, and an image while overlays of a run stand on it.
    type: str
    choices: [present, absent]
    default: present
author:
  - The Mayfly authors (@mayfly)
seealso:
  - module: mayfly.virt.image_info
"""

EXAMPLES = r"""
---
- name: Import a vendor's image, checked against its signed list of checksums
  mayfly.virt.image:
    images:
      - name: fedora-44
        source: https://images.example.org/Fedora-Cloud-44.qcow2
        checksum: sha256:https://images.example.org/SHA256SUMS
        signature: https://images.example.org/SHA256SUMS.gpg
        keyring: /usr/share/keyrings/vendor.gpg

- name: Build a Debian 12 with the kernel from backports
  mayfly.virt.image:
    images:
      - name: debian-12-newest
        recipe:
          suite: bookworm
          suites: [bookworm-backports]
          kernel_suite: bookworm-backports
          packages: [bpftool, clang]
"""

RETURN = r"""
actions:
  description: What was done, or would be in check mode, in words.
  returned: success
  type: list
  elements: str
  sample: ["create image debian-12"]
results:
  description: One entry for each image, in the order given. Facts of the image are as in M(mayfly.virt.image_info).
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Alias of the image.
      type: str
    changed:
      description: Whether it was imported, built, pointed to or removed.
      type: bool
    imported:
      description: Whether its bytes are new in the store.
      type: bool
    digest:
      description: SHA-256 digest of the image.
      type: str
    path:
      description: The file.
      type: str
  sample:
    - name: debian-12
      changed: true
      imported: true
      actions: ["create image debian-12"]
      digest: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
      path: /var/lib/mayfly/images/sha256-9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08.qcow2
"""

import typing as t
from pathlib import Path

from ..module_utils import _import, _module
from ..module_utils._errors import MayflyError
from ..module_utils._guest import certificate
from ..module_utils._import import Wanted
from ..module_utils._names import check_unique
from ..module_utils._plan import Action
from ..module_utils._purge import overlays_on
from ..module_utils._recipe import Recipe
from ..module_utils._store import Manifest, Store, check_alias, describe

RECIPE = {
    "suite": {"type": "str", "required": True},
    "suites": {"type": "list", "elements": "str", "default": []},
    "components": {"type": "list", "elements": "str", "default": ["main"]},
    "packages": {"type": "list", "elements": "str", "default": []},
    "kernel": {"type": "str", "default": "cloud"},
    "kernel_suite": {"type": "str"},
    "cmdline": {"type": "str"},
    "ca_certificates": {"type": "list", "elements": "path", "default": []},
    "disk_gib": {"type": "int", "default": 4},
    "serial": {"type": "str"},
}
IMAGE = {
    "name": {"type": "str", "required": True},
    "source": {"type": "str"},
    "checksum": {"type": "str"},
    "signature": {"type": "str"},
    "keyring": {"type": "str", "no_log": False},
    "kernel": {"type": "str"},
    "initrd": {"type": "str"},
    "cmdline": {"type": "str"},
    "recipe": {"type": "dict", "options": RECIPE},
    "mirror": {"type": "str"},
    "apt_options": {"type": "list", "elements": "str", "default": []},
}


def wanted_image(options: dict[str, t.Any]) -> Wanted:
    """Return the checked wish of one entry."""
    name = check_alias(options["name"])
    if bool(options["source"]) == bool(options["recipe"]):
        raise MayflyError("import image", name, "it needs a source or a recipe, and only one of them", "Give source or recipe.")
    checksum = _import.parse_checksum(name, options["checksum"]) if options["checksum"] else None
    texts = {key: options[key] or "" for key in ("signature", "keyring", "kernel", "initrd", "cmdline", "mirror")}
    wanted = Wanted(
        name=name,
        location=options["source"] or "",
        checksum=checksum,
        recipe=recipe_of(name, options["recipe"]) if options["recipe"] else None,
        apt_options=tuple(options["apt_options"]),
        **texts,
    )
    _import.check(wanted)
    return wanted


def recipe_of(name: str, options: dict[str, t.Any]) -> Recipe:
    return Recipe(
        suite=options["suite"],
        packages=tuple(options["packages"]),
        suites=tuple(options["suites"]),
        components=tuple(options["components"]),
        kernel=options["kernel"],
        kernel_suite=options["kernel_suite"] or "",
        cmdline=options["cmdline"] or "",
        ca_certificates=tuple(certificate(f"image {name}", Path(path)) for path in options["ca_certificates"]),
        disk_gib=options["disk_gib"],
        serial=options["serial"] or "",
    )


class Present:
    """state: present."""

    def __init__(self, module: t.Any, store: Store) -> None:
        self._module = module
        self._store = store
        self._tools = _module.Tools(module)

    def run(self) -> tuple[list[Action], list[dict[str, t.Any]]]:
        wishes = [wanted_image(options) for options in self._module.params["images"]]
        check_unique("Image name", [wish.name for wish in wishes])
        steps, results = [], []
        for wish in wishes:
            manifest = _import.present(self._store, wish)
            imported = False
            if manifest is None and self._module.check_mode:
                manifest = _import.predict(self._store, wish, self._tools)
                imported = manifest is None
            elif manifest is None:
                manifest, imported = _import.import_image(self._store, wish, self._tools)
            step = self._step(wish, manifest, imported)
            if step.changes and manifest and not self._module.check_mode:
                self._store.point(wish.name, manifest.digest)
            steps.append(step)
            facts = describe(self._store, manifest) if manifest else {}
            results.append(_module.entry(wish.name, [step], imported=imported, **facts))
        return steps, results

    def _step(self, wish: Wanted, manifest: Manifest | None, imported: bool) -> Action:
        before = self._store.aliases().get(wish.name, "")
        after = manifest.digest if manifest else "(its digest will be known then)"
        if not imported and before == after:
            return Action("keep", "image", wish.name)
        verb = "update" if before else "create"
        return Action(verb, "image", wish.name, before=f"{before}\n" if before else "", after=f"{after}\n")


class Absent:
    """state: absent. Everything is judged before anything is removed."""

    def __init__(self, module: t.Any, store: Store) -> None:
        self._module = module
        self._store = store
        self._tools = _module.Tools(module)

    def run(self) -> tuple[list[Action], list[dict[str, t.Any]]]:
        names = [options["name"] for options in self._module.params["images"]]
        check_unique("Image name", names)
        aliases = self._store.aliases()
        kept = {digest for alias, digest in aliases.items() if alias not in names}
        steps = [self._step(name, aliases, kept) for name in names]
        if not self._module.check_mode:
            for name in names:
                self._remove(name, aliases, kept)
        return steps, [_module.entry(name, [step], imported=False) for name, step in zip(names, steps)]

    def _step(self, name: str, aliases: dict[str, str], kept: set[str]) -> Action:
        manifest = self._store.resolve(name)
        if manifest is None and name not in aliases:
            return Action("keep", "image", name)
        digest = manifest.digest if manifest else aliases[name]
        if name not in aliases and digest in kept:
            pointing = ", ".join(alias for alias, target in aliases.items() if target == digest)
            raise MayflyError("remove image", name, f"the aliases {pointing} point to it", "Remove these, and it goes with the last.")
        if digest in kept:
            return Action("remove", "image", name, "its bytes stay for another alias", before=f"{digest}\n")
        users = overlays_on(self._store.path(digest), self._store.dir.parent, self._tools.run)
        if users:
            raise MayflyError("remove image", name, f"the overlay {users[0]} stands on it", f"Remove the run {users[0].parent.name} first.")
        return Action("remove", "image", name, before=f"{digest}\n")

    def _remove(self, name: str, aliases: dict[str, str], kept: set[str]) -> None:
        manifest = self._store.resolve(name)
        if name in aliases:
            self._store.unpoint(name)
        if manifest and manifest.digest not in kept:
            self._store.remove(manifest.digest)


def main() -> None:
    module = _module.make_module(
        {
            "images": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": IMAGE,
                "mutually_exclusive": [("source", "recipe")],
                "required_by": {"initrd": "kernel", "signature": "keyring"},
            },
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        needs_libvirt=False,
    )
    store = Store(_module.state_dir(module))
    with _module.failing(module):
        steps, results = (Present if module.params["state"] == "present" else Absent)(module, store).run()
    module.exit_json(**_module.result(steps, results))


if __name__ == "__main__":
    main()
