# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter job_record: a job plan with what became of its guests."""

from __future__ import annotations

DOCUMENTATION = r"""
name: job_record
short_description: A job plan with what became of its guests
version_added: 0.1.0
description:
  - Adds what the module M(mayfly.virt.domain) returned to the guests of a plan.
  - The result is what C(job.json) in a results directory holds.
options:
  _input:
    description:
      - A plan made by P(mayfly.virt.job_plan#filter).
    type: dict
    required: true
  made:
    description:
      - C(results) of the module M(mayfly.virt.domain).
    type: list
    elements: dict
    required: true
  secrets:
    description:
      - Texts in whose place the record has their numbers. P(mayfly.virt.job_read#filter) puts them back.
    type: list
    elements: str
    default: []
author:
  - The Mayfly authors (@mayfly)
"""

EXAMPLES = r"""
---
- name: Show what was made
  ansible.builtin.debug:
    msg: "{{ job_plan | mayfly.virt.job_record(testbed_made.results) }}"
"""

RETURN = r"""
_value:
  description: The plan, its guests completed.
  type: dict
"""

import typing as t

from ..plugin_utils import _job


def job_record(plan: dict[str, t.Any], made: list[dict[str, t.Any]], secrets: t.Sequence[str] = ()) -> dict[str, t.Any]:
    return _job.record(plan, made, [str(secret) for secret in secrets])


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"job_record": job_record}
