#!/usr/bin/python
# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of the action phase; the work is done on the controller by plugins/action/phase.py."""

from __future__ import annotations

DOCUMENTATION = r"""
module: phase
short_description: Note that a phase of a job begins or ends
version_added: 0.1.0
description:
  - Appends a line to C(phases.jsonl) in the job's results directory, from which the verdict learns what failed and where the time went.
  - Runs on the controller, whatever host the task is for.
options:
  results:
    description:
      - The results directory of the run, on the controller.
    type: path
    required: true
  name:
    description:
      - The phase.
    type: str
    required: true
  event:
    description:
      - Whether it begins or ends.
    type: str
    choices: [start, end]
    required: true
  error:
    description:
      - Why it failed; empty when it did not. Only with O(event=end). Secrets are taken out of it.
    type: str
    default: ""
  secrets:
    description:
      - Texts that must not come into the results, as O(mayfly.virt.evidence#module:secrets). Common kinds of secrets are known without it.
    type: list
    elements: str
    default: []
  guest:
    description:
      - The guest that the line is about, when it is about one.
    type: str
attributes:
  check_mode:
    description: Can run in C(check_mode) and return changed status prediction without modifying target.
    support: full
    details:
      - Nothing is noted in check mode.
  diff_mode:
    description: Will return details on what has changed (or possibly needs changing in C(check_mode)), when in diff mode.
    support: none
author:
  - The Mayfly authors (@mayfly)
"""

EXAMPLES = r"""
---
- name: Begin
  mayfly.virt.phase:
    results: results/20260101-120000-ab12
    name: prepare
    event: start
"""

RETURN = r"""
phase:
  description: The line that was written.
  returned: success
  type: dict
  sample: {phase: prepare, event: start, time: 1767268800.0}
"""
