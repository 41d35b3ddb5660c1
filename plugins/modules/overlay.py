#!/usr/bin/python
# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module overlay: qcow2 overlays of stored images."""

from __future__ import annotations

DOCUMENTATION = r"""
module: overlay
short_description: Make and remove overlay disks on stored images
version_added: 0.1.0
description:
  - Makes qcow2 overlays in a run's directory, each on an image of the store. The image is only read, and stays as it is.
  - An existing overlay is kept when it has the wanted base and size, and refused when not. It may hold data and is never overwritten.
extends_documentation_fragment:
  - mayfly.virt._attributes
  - mayfly.virt._virt
  - mayfly.virt._run
options:
  overlays:
    description:
      - The overlays, made in one task.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description:
          - Name of the overlay, usually that of the domain it is for. The file is C(runs/<run id>/<name>.qcow2) below O(state_dir).
        type: str
        required: true
      image:
        description:
          - Alias or digest of the stored image it stands on. Required unless O(state=absent).
        type: str
      size_gib:
        description:
          - Virtual size in GiB, at least that of the image.
          - 20 GiB, or the image's own size when that is more, if left out.
        type: int
  state:
    description:
      - Whether the overlays shall be there.
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
- name: Make two disks
  mayfly.virt.overlay:
    run:
      id: 20260101-120000-ab12
    overlays:
      - name: one-20260101-120000-ab12
        image: debian-12
      - name: two-20260101-120000-ab12
        image: debian-13
        size_gib: 40
"""

RETURN = r"""
actions:
  description: What was done, or would be in check mode, in words.
  returned: success
  type: list
  elements: str
  sample: ["create overlay one-20260101-120000-ab12"]
results:
  description: One entry for each overlay, in the order given.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name of the overlay.
      type: str
    changed:
      description: Whether it was made or removed.
      type: bool
    path:
      description: The file.
      type: str
    chain:
      description: Paths of the whole backing chain, topmost first.
      type: list
      elements: str
    virtual_size:
      description: Size that a guest sees, in bytes.
      type: int
  sample:
    - name: one-20260101-120000-ab12
      changed: true
      actions: ["create overlay one-20260101-120000-ab12"]
      path: /var/lib/mayfly/runs/20260101-120000-ab12/one-20260101-120000-ab12.qcow2
      chain:
        - /var/lib/mayfly/runs/20260101-120000-ab12/one-20260101-120000-ab12.qcow2
        - /var/lib/mayfly/images/sha256-9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08.qcow2
      virtual_size: 21474836480
"""

import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import _module
from ..module_utils._argspec import RUN
from ..module_utils._chain import check_same, overlay_size, read_chain
from ..module_utils._errors import InvalidInput, MayflyError
from ..module_utils._guest import Overlay
from ..module_utils._names import check_domain_name, check_run_id, check_unique
from ..module_utils._plan import Action
from ..module_utils._provision import make_overlay, opened, overlay_action, run_action
from ..module_utils._run import RunPaths
from ..module_utils._store import Store


def wanted_overlay(options: dict[str, t.Any], paths: RunPaths, store: Store) -> Overlay:
    if not options["image"]:
        raise InvalidInput("Overlay", options["name"], "it has no image", "Give the alias or digest of a stored image.")
    base = store.layer(store.require(options["image"]))
    return Overlay(paths.overlay(options["name"]), base, overlay_size(options["name"], base, options["size_gib"]))


def present(module: AnsibleModule, tools: _module.Tools, paths: RunPaths) -> tuple[list[Action], list[dict[str, t.Any]]]:
    store = Store(paths.state_dir)
    overlays = [wanted_overlay(options, paths, store) for options in module.params["overlays"]]
    steps = []
    for overlay in overlays:
        if overlay.path.exists():
            check_same(overlay.path, read_chain(overlay.path, tools.run), overlay.base, overlay.size)
            steps.append(Action("keep", "overlay", overlay.path.stem))
        else:
            steps.append(overlay_action(overlay.path.stem, overlay))
    opening = run_action(paths, module.params["run"])
    if not module.check_mode:
        with opened(paths, module.params["run"], tools.run):
            make([overlay for overlay, step in zip(overlays, steps) if step.changes], tools)
    results = [
        _module.entry(
            step.name,
            [step],
            path=str(overlay.path),
            chain=[str(overlay.path), overlay.base.path],
            virtual_size=overlay.size,
        )
        for step, overlay in zip(steps, overlays)
    ]
    return [opening, *steps], results


def make(overlays: list[Overlay], tools: _module.Tools) -> None:
    """Make all of them or none."""
    try:
        for overlay in overlays:
            make_overlay(overlay, tools.run)
    except MayflyError:
        for overlay in overlays:
            overlay.path.unlink(missing_ok=True)
        raise


def absent(module: AnsibleModule, paths: RunPaths) -> tuple[list[Action], list[dict[str, t.Any]]]:
    files = [paths.overlay(options["name"]) for options in module.params["overlays"]]
    steps = [removal(path) for path in files]
    if not module.check_mode:
        for path in files:
            path.unlink(missing_ok=True)
    return steps, [_module.entry(step.name, [step], path=str(path)) for step, path in zip(steps, files)]


def removal(path: Path) -> Action:
    return Action("remove" if path.exists() else "keep", "overlay", path.stem, before=f"{path}\n")


def main() -> None:
    options = {
        "name": {"type": "str", "required": True},
        "image": {"type": "str"},
        "size_gib": {"type": "int"},
    }
    module = _module.make_module(
        {
            "run": {**RUN, "required": True},
            "overlays": {"type": "list", "elements": "dict", "required": True, "options": options},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        needs_libvirt=False,
    )
    with _module.failing(module):
        names = [check_domain_name(options["name"]) for options in module.params["overlays"]]
        check_unique("Overlay name", names)
        paths = RunPaths(_module.state_dir(module), check_run_id(module.params["run"]["id"]))
        if module.params["state"] == "present":
            steps, results = present(module, _module.Tools(module), paths)
        else:
            steps, results = absent(module, paths)
    module.exit_json(**_module.result(steps, results))


if __name__ == "__main__":
    main()
