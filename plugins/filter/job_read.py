# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter job_read: the plan in a job.json, with the job's secrets."""

from __future__ import annotations

DOCUMENTATION = r"""
name: job_read
short_description: The plan in a job.json, with the job's secrets
version_added: 0.3.0
description:
  - Puts the secrets of a job back to where P(mayfly.virt.job_record#filter) left their numbers. Used by the role mayfly.virt.job.
  - A secret that was used and has fewer lines now is an error. Without any secret the plan stays as it is, which is enough to clean up.
options:
  _input:
    description:
      - What C(job.json) in a results directory holds.
    type: dict
    required: true
  secrets:
    description:
      - C(mayfly_secrets), in the same order as when the run was prepared.
    type: list
    elements: str
    required: true
author:
  - The Mayfly authors (@mayfly)
"""

EXAMPLES = r"""
---
- name: Show the suites of a prepared run
  ansible.builtin.debug:
    msg: "{{ (lookup('ansible.builtin.file', written) | from_json | mayfly.virt.job_read(secrets=mayfly_secrets)).suites }}"
  vars:
    written: results/latest/job.json
"""

RETURN = r"""
_value:
  description: The plan.
  type: dict
"""

import typing as t

from ansible.errors import AnsibleFilterError

from ..module_utils._errors import MayflyError
from ..plugin_utils import _job


def job_read(plan: dict[str, t.Any], secrets: t.Sequence[str]) -> dict[str, t.Any]:
    try:
        return _job.read(plan, [str(secret) for secret in secrets])
    except MayflyError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"job_read": job_read}
