#!/usr/bin/python
# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of mayfly.virt.suite. The work is done on the controller, by the action plugin of this name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: suite
short_description: Run a test suite in a guest and follow it live
version_added: 0.1.0
description:
  - Carries a small runner and optionally a directory into the guest, starts the suite there and shows each test as it
    ends. The runner does not depend on the connection, which may break and come back.
  - Everything the suite said is kept on the controller, C(events.jsonl) line by line as it arrives, so that a guest
    that is lost leaves what was seen until then.
  - The task fails if the suite has no true result, because it could not be started, its runner went away or the guest
    was lost. Failing tests do not fail the task unless O(fail_on_tests=true); judging is the business of
    M(mayfly.virt.verdict).
  - The guest needs Python 3.9 or newer, a POSIX shell, GNU coreutils and tar. It needs nothing of Ansible.
author:
  - The Mayfly authors (@mayfly)
options:
  name:
    description:
      - Name of the suite, which becomes a directory. A suite runs once on a guest for each results directory.
    type: str
    required: true
  command:
    description:
      - The suite's command, for V(/bin/sh -c). One of O(command) and O(argv) is required.
      - Tests are read from standard output only. Perl's Test::More prints its diagnostics on standard error, so append
        V(2>&1) to have them in the messages.
    type: str
  argv:
    description:
      - The suite's command as a list of arguments, without a shell.
    type: list
    elements: str
  parser:
    description:
      - V(tap) reads the Test Anything Protocol, versions 12 to 14.
      - V(ktap) reads the kernel's TAP, of kselftest and KUnit, with subtests by indentation.
      - V(gtest) reads what GoogleTest prints.
      - V(unittest) reads what C(python3 -m unittest -v) prints, on standard error or output.
      - V(cargo) reads what C(cargo test) prints, for all its test programs.
      - V(bpftrace) reads what the runtime tests of bpftrace print.
      - V(test_progs) reads what the kernel's BPF selftests print (C(test_progs) and its flavours).
      - V(junit) reads a JUnit XML file that the suite leaves, named by O(report).
      - V(avocado) reads the C(results.json) of Avocado, named by O(report).
      - V(exit_code) makes the whole suite one test that passes if the command ends with status 0.
    type: str
    choices: [tap, ktap, gtest, unittest, cargo, bpftrace, test_progs, junit, avocado, exit_code]
    default: tap
  report:
    description:
      - File in which the suite leaves its results, relative to the directory in which it runs, or absolute.
      - Needed with O(parser=junit) and O(parser=avocado), and only with them. The suite itself must write it; a file that
        was there before and was not touched is an error.
    type: str
  deadline:
    description:
      - Seconds after which the suite and everything it started is ended.
    type: int
    default: 600
  environment:
    description:
      - Environment variables for the suite.
    type: dict
    default: {}
  chdir:
    description:
      - Directory in which the suite runs, relative to the copy of O(source) in the guest, or absolute.
    type: str
  source:
    description:
      - Directory on the controller whose content is copied to the guest. The suite runs in the copy.
      - A relative path is searched as M(ansible.builtin.copy) does.
    type: str
  results:
    description:
      - Results directory of the run on the controller. The suite's files go to C(suites/<name>/<guest>/) in it.
      - A relative path is relative to the playbook.
    type: path
    required: true
  guest:
    description:
      - Name of the guest in paths and lines. The default is the inventory name of the host.
    type: str
  remote_dir:
    description:
      - Directory in the guest, in which each run of a suite makes one of its own.
    type: str
    default: /var/lib/mayfly-suite
  python:
    description:
      - Python interpreter in the guest. The default is C(ansible_python_interpreter) if that is a path, else
        V(/usr/bin/python3).
    type: str
  lost_after:
    description:
      - Seconds without an answer after which the guest is lost.
    type: int
    default: 60
  watch:
    description:
      - Where the watcher on the hypervisor, which M(mayfly.virt.watch) starts, writes down what it sees. When it sees the guest's
        kernel die, the suite ends at once and the task fails; a suite that comes after it does not start.
      - For a guest of the inventory P(mayfly.virt.guests#inventory) it is the host variable C(mayfly_watch).
    type: dict
    suboptions:
      path:
        description:
          - The file C(watch.jsonl) of the run.
        type: str
        required: true
      host:
        description:
          - The hypervisor as C([user@]host[:port]), reached with plain ssh; this machine, if empty.
        type: str
        default: ""
  fail_on_tests:
    description:
      - Fail the task also if the suite's status is neither V(passed) nor V(skipped).
    type: bool
    default: false
attributes:
  check_mode:
    description: Can run in check mode. The suite is not run and a change is reported.
    support: full
  diff_mode:
    description: Returns details on what has changed when in diff mode.
    support: none
  idempotent:
    description: A suite runs whenever the task does.
    support: none
seealso:
  - module: mayfly.virt.verdict
"""

EXAMPLES = r"""
---
- name: Run the smoke tests
  mayfly.virt.suite:
    name: smoke
    source: tests/smoke
    command: prove --norc --verbose t/*.t 2>&1
    deadline: 300
    results: "{{ mayfly_results }}"

- name: Boot-time check as one test
  mayfly.virt.suite:
    name: units
    argv: [systemctl, is-system-running, --wait]
    parser: exit_code
    results: "{{ mayfly_results }}"
"""

RETURN = r"""
suite:
  description: Name of the suite.
  type: str
  returned: always
  sample: smoke
guest:
  description: Name of the guest.
  type: str
  returned: always
  sample: bookworm
status:
  description:
    - One of V(passed), V(failed), V(timeout), V(skipped) and V(error).
    - V(error) means that the result is not true, because it is torn or contradicts itself; RV(errors) says how.
  type: str
  returned: when the suite ran
  sample: failed
errors:
  description: Why the result is not true.
  type: list
  elements: str
  returned: when the suite ran
counts:
  description: How many tests have each status.
  type: dict
  returned: when the suite ran
  sample: {"pass": 10, "fail": 2}
planned:
  description: How many tests there should have been, if the suite said so.
  type: int
  returned: when the suite ran
  sample: 12
seen:
  description: How many tests there were.
  type: int
  returned: when the suite ran
  sample: 12
exit_status:
  description: Exit status of the command, if it ended by itself.
  type: int
  returned: when the suite ran
  sample: 1
timed_out:
  description: Whether the suite was ended at its deadline.
  type: bool
  returned: when the suite ran
failed_tests:
  description: The first hundred tests that failed.
  type: list
  elements: dict
  returned: when the suite ran
  contains:
    number:
      description: Number of the test.
      type: int
    name:
      description: Name of the test.
      type: str
    message:
      description: The beginning of its diagnostics.
      type: str
events:
  description: The file with the suite's events on the controller.
  type: str
  returned: when the suite ran
  sample: /var/lib/ci/results/20261121-024300-1f2e/suites/smoke/bookworm/events.jsonl
"""
