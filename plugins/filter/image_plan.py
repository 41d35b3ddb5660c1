# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter image_plan: the images a job stands on, as options of the module image."""

from __future__ import annotations

DOCUMENTATION = r"""
name: image_plan
short_description: Turn the images a job stands on into options of the module image
version_added: 0.1.0
description:
  - Looks every image up in a catalogue of recipes and imports, and adds toolchains, kernel and packages to its recipe.
    Used by the role mayfly.virt.image.
options:
  _input:
    description:
      - The images, each with C(name), C(base), C(kernel), C(toolchains) and C(packages).
    type: list
    elements: dict
    required: true
  catalog:
    description:
      - Base to a C(recipe), or to the options of an import.
    type: dict
    required: true
  toolchains:
    description:
      - Toolchain to what it adds by base, which is a list of packages, or C(packages) and the further C(suites) they come from.
    type: dict
    required: true
  settings:
    description:
      - What all builds share, such as C(ca_certificates), C(packages), C(suites), C(mirror), C(apt_options) and C(serial).
    type: dict
    required: true
author:
  - The Mayfly authors (@mayfly)
"""

EXAMPLES = r"""
---
- name: Show how an image would be made
  ansible.builtin.debug:
    msg: "{{ images | mayfly.virt.image_plan(catalog={'debian-12': {'recipe': {'suite': 'bookworm'}}}, toolchains={}, settings={}) }}"
  vars:
    images: [{name: debian-12, base: debian-12}]
"""

RETURN = r"""
_value:
  description: C(make), the options for the module image, and C(stored), names of images that must be in the store already.
  type: dict
"""

import typing as t

from ansible.errors import AnsibleFilterError

from ..module_utils._errors import MayflyError
from ..plugin_utils import _images


def image_plan(
    wanted: list[t.Any], catalog: dict[str, t.Any], toolchains: dict[str, t.Any], settings: dict[str, t.Any]
) -> dict[str, t.Any]:
    try:
        return _images.plan(wanted, catalog, toolchains, settings)
    except MayflyError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"image_plan": image_plan}
