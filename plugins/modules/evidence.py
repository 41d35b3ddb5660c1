#!/usr/bin/python
# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of the action evidence; the work is done on the controller by plugins/action/evidence.py."""

from __future__ import annotations

DOCUMENTATION = r"""
module: evidence
short_description: Keep what a machine has to say, on the controller
version_added: 0.1.0
description:
  - Runs commands in a guest and keeps what each prints in a file on the controller. Brings files of the guest too.
  - Needs no Python in the guest, only a shell and C(tar), and one ssh call for each command and each kind of files.
  - The guest chooses neither number nor size of what is kept. Names of files it does choose, below a directory of their own, where they
    are made safe. Links, devices and the like are left out.
  - Private keys, tokens, passwords and O(secrets) are taken out of every text. Core dumps are kept as they are.
  - What was kept, what is missing and why, and how many secrets there were stands in C(evidence.json).
options:
  dest:
    description:
      - Directory on the controller, made when it is not there.
    type: path
    required: true
  step:
    description:
      - Whose evidence this is. What is missing of one step is forgotten when it is taken anew, and that of the other stays.
    type: str
    choices: [guest, hypervisor]
    default: guest
    version_added: 0.2.0
  commands:
    description:
      - The commands.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description:
          - Name of the file, ending in C(.log) or C(.txt), or C(facts.json), a JSON object that the verdict shows as facts of the guest.
        type: str
        required: true
      command:
        description:
          - Command for C(/bin/sh) in the guest. What it writes to stdout and stderr is kept. No file is made when it prints nothing.
        type: str
        required: true
  paths:
    description:
      - Absolute paths of files and directories, kept below C(paths/). They may have C(*), C(?) and C([...]) in them.
      - A path that does not exist is missing, which is an error. A glob that matches nothing is not.
    type: list
    elements: str
    default: []
    version_added: 0.2.0
  coredumps:
    description:
      - Whether to keep core dumps below C(coredumps/), from where the kernel's C(core_pattern) or C(systemd-coredump) puts them.
    type: bool
    default: false
    version_added: 0.2.0
  directory:
    description:
      - A directory on a machine that is trusted, whose content is kept in O(dest) itself.
    type: str
    version_added: 0.2.0
  max_bytes:
    description:
      - How much of each command's output is kept, in bytes. Of more, the end is.
    type: int
    default: 4194304
  file_limit:
    description:
      - How much of each file is kept, in bytes. Of more, the end is. Core dumps are kept whole or not at all.
    type: int
    default: 16777216
    version_added: 0.2.0
  total_limit:
    description:
      - How much is kept of all O(paths), and how much of all core dumps, in bytes; also how much of their archive is read. What comes after
        that is missing, which is an error.
    type: int
    default: 67108864
    version_added: 0.2.0
  file_count:
    description:
      - How many files are kept of O(paths), and how many core dumps. More are missing, which is an error.
    type: int
    default: 2000
    version_added: 0.2.0
  compress_over:
    description:
      - Texts of more bytes than this are packed with xz, but for consoles, and have C(.xz) added to their name.
    type: int
    default: 4194304
    version_added: 0.2.0
  timeout:
    description:
      - Seconds each command may take, and each archive.
    type: int
    default: 60
  secrets:
    description:
      - Texts of at least 4 characters that must not be kept, or C(regex:) and a regular expression of Python's for what must not. Each line
        is looked at for itself.
    type: list
    elements: str
    default: []
    version_added: 0.2.0
  missing:
    description:
      - What is known to be missing before, with the reason, such as RV(mayfly.virt.domain_evidence#module:results[].missing).
    type: dict
    default: {}
    version_added: 0.2.0
  left_out:
    description:
      - What is known to be left out before.
    type: list
    elements: str
    default: []
    version_added: 0.2.0
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
- name: Keep the kernel's log and what a project wrote
  mayfly.virt.evidence:
    dest: "results/20260101-120000-ab12/guests/{{ mayfly_guest }}"
    commands:
      - {name: dmesg.log, command: dmesg}
    paths: [/var/log/myproject, "/tmp/*.log"]
    coredumps: true
"""

RETURN = r"""
files:
  description: The files that were written.
  returned: always
  type: list
  elements: str
  sample: [results/20260101-120000-ab12/guests/one/dmesg.log]
missing:
  description: What could not be had, with the reason. When there is any, the task fails.
  returned: always
  type: dict
  sample: {}
left_out:
  description: What was not kept, as it should be, and why.
  returned: always
  type: list
  elements: str
  sample: ["paths: var/log/myproject/latest: it is a symbolic link"]
answered:
  description: Whether the machine answered to the end.
  returned: always
  type: bool
  sample: true
scrubbed:
  description: How many secrets were taken out of all that lies in O(dest).
  returned: unless in check mode
  type: int
  sample: 0
"""
