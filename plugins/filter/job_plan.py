# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter job_plan: a job file with every default filled in and every name derived."""

from __future__ import annotations

DOCUMENTATION = r"""
name: job_plan
short_description: Fill in a job's defaults and derive its names
version_added: 0.1.0
description:
  - Turns what a job file says into images, domains and suites, and refuses what cannot be run. Used by the role mayfly.virt.job.
options:
  _input:
    description:
      - The job, with C(name), C(guests), C(suites) and C(toolchains), and the C(policy) that P(mayfly.virt.policy#lookup) returns.
    type: dict
    required: true
  run_id:
    description:
      - Id of the run.
    type: str
    required: true
  created:
    description:
      - When the run begins, ISO 8601 in UTC.
    type: str
    required: true
  directory:
    description:
      - Directory below which relative sources of suites lie.
    type: path
    required: true
author:
  - The Mayfly authors (@mayfly)
"""

EXAMPLES = r"""
---
- name: Show what a job becomes
  ansible.builtin.debug:
    msg: "{{ job | mayfly.virt.job_plan(run_id='r1', created='2026-01-01T12:00:00+00:00', directory='.') }}"
  vars:
    job: {name: smoke, guests: [{name: one, image: debian-12}]}
"""

RETURN = r"""
_value:
  description: The plan, with C(run_id), C(job), C(created), C(images), C(guests), C(suites), C(toolchains) and C(policy).
  type: dict
"""

import typing as t

from ansible.errors import AnsibleFilterError

from ..module_utils._errors import MayflyError
from ..plugin_utils import _job


def job_plan(job: dict[str, t.Any], run_id: str, created: str, directory: str) -> dict[str, t.Any]:
    try:
        return _job.plan(job, run_id, created, directory)
    except MayflyError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"job_plan": job_plan}
