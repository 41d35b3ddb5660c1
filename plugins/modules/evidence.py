#!/usr/bin/python
# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of the action evidence; the work is done on the controller by plugins/action/evidence.py."""

from __future__ import annotations

DOCUMENTATION = r"""
module: evidence
short_description: Keep what commands in a guest say
version_added: 0.1.0
description:
  - Runs commands in a guest, one after the other, and keeps what each prints in a file on the controller.
  - Needs no Python in the guest, and one ssh call for each command.
  - The guest chooses neither names nor number of the files, nor their size.
options:
  dest:
    description:
      - Directory on the controller, made when it is not there.
    type: path
    required: true
  commands:
    description:
      - The commands.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description:
          - Name of the file, ending in C(.log) or C(.txt).
        type: str
        required: true
      command:
        description:
          - Command for C(/bin/sh) in the guest. What it writes to stdout is kept.
        type: str
        required: true
  max_bytes:
    description:
      - How much of each command's output is kept, in bytes. Of more, the end is.
    type: int
    default: 4194304
  timeout:
    description:
      - Seconds each command may take.
    type: int
    default: 60
attributes:
  check_mode:
    description: Can run in C(check_mode) and return changed status prediction without modifying target.
    support: full
    details:
      - Nothing is asked or written in check mode.
  diff_mode:
    description: Will return details on what has changed (or possibly needs changing in C(check_mode)), when in diff mode.
    support: none
author:
  - The Mayfly authors (@mayfly)
"""

EXAMPLES = r"""
---
- name: Keep the kernel's log
  mayfly.virt.evidence:
    dest: "results/20260101-120000-ab12/guests/{{ mayfly_guest }}"
    commands:
      - {name: dmesg.log, command: dmesg}
"""

RETURN = r"""
files:
  description: The files that were written.
  returned: always
  type: list
  elements: str
  sample: [results/20260101-120000-ab12/guests/one/dmesg.log]
missing:
  description: Names of the files that could not be had, with the reason.
  returned: always
  type: dict
  sample: {}
"""
