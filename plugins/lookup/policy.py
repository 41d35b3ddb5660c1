# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lookup policy: what a job has decided about its verdict, read and checked."""

from __future__ import annotations

DOCUMENTATION = r"""
name: policy
short_description: What a job has decided about its verdict, read and checked
version_added: 0.1.0
description:
  - Reads the files of known issues and the baseline of a job, checks them with the rest of its policy, and returns all of it as C(job.json)
    holds it. Used by the role P(mayfly.virt.job#role) before anything is made.
options:
  _terms:
    description:
      - Takes none.
  known_issues:
    description:
      - YAML files, each with a list of known issues, relative to where ansible-playbook is started. Empty names are left out.
      - V(mayfly.virt:libvirt-tck.yml) is the file of that name that the collection brings in C(extensions/known_issues).
    type: list
    elements: str
    default: []
  fail_on:
    description:
      - What makes a verdict red although it is not by itself.
    type: list
    elements: str
    choices: [flaky, xpass, lost, not_run]
    default: []
  baseline:
    description:
      - File or http(s) URL of an earlier C(verdict.json). None, if empty.
    type: str
    default: ""
author:
  - The Mayfly authors (@mayfly)
"""

EXAMPLES = r"""
---
- name: Show what the job lives with
  ansible.builtin.debug:
    msg: "{{ (query('mayfly.virt.policy', known_issues=['known-issues.yml', 'mayfly.virt:libvirt-tck.yml']) | first).known_issues }}"
"""

RETURN = r"""
_raw:
  description: One entry, the policy, with C(known_issues), C(fail_on) and C(baseline).
  type: list
  elements: dict
"""

import typing as t

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

from ..module_utils._errors import MayflyError
from ..module_utils._policy import check_fail_on
from ..plugin_utils import _sources


class LookupModule(LookupBase):
    def run(self, terms: list[t.Any], variables: dict[str, t.Any] | None = None, **kwargs: t.Any) -> list[dict[str, t.Any]]:
        self.set_options(var_options=variables, direct=kwargs)
        try:
            return [
                {
                    "known_issues": _sources.known_issues(self.get_option("known_issues")),
                    "fail_on": check_fail_on(self.get_option("fail_on")),
                    "baseline": _sources.baseline(self.get_option("baseline")),
                }
            ]
        except MayflyError as error:
            raise AnsibleLookupError(str(error)) from None  # it says it all, and Ansible would say each cause once more
