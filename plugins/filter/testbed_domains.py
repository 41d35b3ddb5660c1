# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter testbed_domains: a job's guests as options of the module domain."""

from __future__ import annotations

DOCUMENTATION = r"""
name: testbed_domains
short_description: Turn a job's guests into options of the module domain
version_added: 0.1.0
description:
  - Gives every guest of a job plan its domain name, image, network and authorities. Used by the role mayfly.virt.testbed.
options:
  _input:
    description:
      - The guests of a plan made by P(mayfly.virt.job_plan#filter).
    type: list
    elements: dict
    required: true
  images:
    description:
      - Image name to C(name@sha256:digest). A name that is not there is used as it is.
    type: dict
    required: true
  network:
    description:
      - libvirt network of guests that name no interfaces.
    type: str
    required: true
  ca_certificates:
    description:
      - PEM files on the hypervisor that every guest's seed trusts.
    type: list
    elements: path
    default: []
author:
  - The Mayfly authors (@mayfly)
"""

EXAMPLES = r"""
---
- name: Show the domains of a plan
  ansible.builtin.debug:
    msg: "{{ job_plan.guests | mayfly.virt.testbed_domains(images=image_references, network='mayfly') }}"
"""

RETURN = r"""
_value:
  description: Options for the module M(mayfly.virt.domain).
  type: list
  elements: dict
"""

import typing as t

from ..plugin_utils import _job


def testbed_domains(
    guests: list[dict[str, t.Any]], images: dict[str, str], network: str, ca_certificates: t.Sequence[str] = ()
) -> list[dict[str, t.Any]]:
    return _job.domains(guests, images, network, ca_certificates)


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"testbed_domains": testbed_domains}
