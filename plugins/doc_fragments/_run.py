# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The option that names a run."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  run:
    description:
      - The run that everything made belongs to. It is opened when there is none of that id; one that exists is left as it is.
    type: dict
    required: true
    suboptions:
      id:
        description:
          - Id of the run, V([a-z0-9-]), at most 40 characters.
        type: str
        required: true
      owner:
        description:
          - Who the run is for, in words, such as a user or a project.
        type: str
      job_url:
        description:
          - Where the job can be looked at.
        type: str
      deadline:
        description:
          - Seconds from now after which M(mayfly.virt.sweep) removes the run.
        type: int
        default: 7200
      owner_pid:
        description:
          - Number of a process on the hypervisor that the run must not outlive.
          - When it is gone, M(mayfly.virt.sweep) removes the run at once.
        type: int
"""
