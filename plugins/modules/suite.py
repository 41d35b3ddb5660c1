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
      - The suite's command, for V(/bin/sh -c). One of O(command), O(argv) and O(tests) is required.
      - Tests are read from standard output only. Perl's Test::More prints its diagnostics on standard error, so append
        V(2>&1) to have them in the messages.
    type: str
  argv:
    description:
      - The suite's command as a list of arguments, without a shell.
    type: list
    elements: str
  tests:
    description:
      - Tests that are processes of their own, instead of one command. Each gets a session and, where it can be had, a
        cgroup of its own, and is one test, whatever its parser counts. They run in this order, one after the other.
      - A test that is at its deadline is looked at (its processes and where they wait), gets TERM, and five seconds
        later KILL.
      - What a test leaves behind is named and ended.
      - A test finds a directory of its own in the environment variable C(MAYFLY_TEST_DIR), its name in C(MAYFLY_TEST_NAME) and the
        number of the attempt, from 1, in C(MAYFLY_ATTEMPT).
      - Plain files that it leaves in that directory are kept, up to 32 of them, 16 MiB each and 64 MiB together, if their names match
        C([A-Za-z0-9][A-Za-z0-9._-]{0,99}). On the controller one of more than 1 MiB is packed, as C(<name>.gz). Directories are left
        out; other things are left out and named in the test's message.
      - The file C(judgement.json) is read. In it, whoever watches the test, such as a wrapper around its command, says what its output
        cannot know. It is a JSON object with C(status), V(error), V(timeout) or V(daemon_hang), and C(message), a list of
        lines. It makes no test good. With V(daemon_hang), the daemon under test did not answer any more, which explains a failure and is
        red itself. A file that cannot be read is an error of the test.
    type: list
    elements: dict
    suboptions:
      name:
        description:
          - Name of the test, unique in the suite. The default is the command.
        type: str
      command:
        description:
          - Command for C(/bin/sh -c). Give this, C(argv), C(glob) or C(list).
        type: str
      argv:
        description:
          - Command as a list of arguments, without a shell.
        type: list
        elements: str
      glob:
        description:
          - Pattern of files, relative to the directory the suite runs in; C(**) goes down. Each executable file is a
            test, named by its path, in the order of the paths. No match is an error.
        type: str
      list:
        description:
          - Absolute path of a file in the guest that lists tests, which whoever set the guest up has written.
          - It is a JSON list of objects with C(name), C(command) (a list of arguments) and, if wanted, C(parser), C(report),
            C(deadline), C(requires) and C(not_run), the reason why the test cannot be run. Its deadlines are multiplied by
            O(deadline_factor). What this entry says of C(parser), C(deadline) and C(requires) holds for all its tests.
          - O(select), O(deny), O(shard) and O(retries) work on their names. A file that is not there or is wrong is an error.
        type: str
      parser:
        description:
          - How the test is read. One with assertions fails if any of them failed, and is an error if they contradict
            their plan or the exit status.
          - The default is V(exit_code).
        type: str
        choices: [tap, ktap, gtest, unittest, cargo, bpftrace, test_progs, junit, avocado, exit_code]
        default: exit_code
      report:
        description:
          - File in which the test leaves its results, relative to the directory that is its own, C(MAYFLY_TEST_DIR). Needed with
            the parsers V(junit) and V(avocado), welcome with V(test_progs).
        type: str
      deadline:
        description:
          - Seconds the test may take. The default is what is left of the suite's.
        type: int
      requires:
        description:
          - What the test cannot do without, with the same keys as those of the suite.
          - When a need is not met, the test is not run, which is shown with the reason and is not red.
        type: dict
        suboptions:
          kernel:
            description:
              - Versions of the kernel, one or more comparisons, such as V(>=5.15) or V(>=5.15,<6.9).
              - Compared by as many numbers as are given, so 6.1.55 is V(==6.1).
            type: str
          config:
            description:
              - Options the kernel was built with, such as V(CONFIG_BPF) for V(y) or V(m), or V(CONFIG_TUN=m).
              - Read from C(/proc/config.gz) or C(/boot/config-<release>). Where neither is there, the need is not met.
            type: list
            elements: str
          btf:
            description:
              - The kernel describes its types (C(/sys/kernel/btf/vmlinux)).
            type: bool
          kvm:
            description:
              - A virtual machine can be made through C(/dev/kvm).
            type: bool
          devices:
            description:
              - Paths of character or block devices, such as V(/dev/net/tun).
            type: list
            elements: str
          memory_mib:
            description:
              - Memory in MiB that is available when the test would start.
            type: int
          commands:
            description:
              - Programs that are found on the PATH.
            type: list
            elements: str
          probes:
            description:
              - Commands that tell by their exit status whether the guest has something. Each is run once in a suite,
                for at most 30 seconds.
            type: list
            elements: dict
            suboptions:
              name:
                description:
                  - What the probe looks for, for the reason that is shown.
                type: str
                required: true
              command:
                description:
                  - Command for C(/bin/sh -c) that ends with status 0 if it is there.
                type: str
                required: true
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
      - V(tests) is for a suite with O(tests), and the default there. The default for a command is V(tap).
    type: str
    choices: [tap, ktap, gtest, unittest, cargo, bpftrace, test_progs, junit, avocado, exit_code, tests]
  report:
    description:
      - File in which the suite leaves its results, relative to the directory in which it runs, or absolute.
      - Needed with O(parser=junit) and O(parser=avocado). The suite itself must write it; a file that was there before
        and was not touched is an error.
      - With O(parser=test_progs) it may be the file of the option C(-J), which must then say the same as the output.
    type: str
  deadline:
    description:
      - Seconds after which the suite and everything it started is ended. Tests that were not started then are not run,
        which is red.
    type: int
    default: 600
  deadline_factor:
    description:
      - Number by which O(deadline) and the deadlines of O(tests) are multiplied. An emulated guest needs more time.
    type: float
    default: 1.0
  requires:
    description:
      - What the suite cannot do without.
      - When one is not met, the suite is skipped and says which, and what was found instead.
    type: dict
    suboptions:
      kernel:
        description:
          - Versions of the kernel, one or more comparisons, such as V(>=5.15) or V(>=5.15,<6.9).
          - Compared by as many numbers as are given, so 6.1.55 is V(==6.1).
        type: str
      config:
        description:
          - Options the kernel was built with, such as V(CONFIG_BPF) for V(y) or V(m), or V(CONFIG_TUN=m).
          - Read from C(/proc/config.gz) or C(/boot/config-<release>). Where neither is there, the need is not met.
        type: list
        elements: str
      btf:
        description:
          - The kernel describes its types (C(/sys/kernel/btf/vmlinux)).
        type: bool
      kvm:
        description:
          - A virtual machine can be made through C(/dev/kvm).
        type: bool
      devices:
        description:
          - Paths of character or block devices, such as V(/dev/net/tun).
        type: list
        elements: str
      memory_mib:
        description:
          - Memory in MiB that is available when the test would start.
        type: int
      commands:
        description:
          - Programs that are found on the PATH.
        type: list
        elements: str
      probes:
        description:
          - Commands that tell by their exit status whether the guest has something. Each is run once in a suite, for at
            most 30 seconds.
        type: list
        elements: dict
        suboptions:
          name:
            description:
              - What the probe looks for, for the reason that is shown.
            type: str
            required: true
          command:
            description:
              - Command for C(/bin/sh -c) that ends with status 0 if it is there.
            type: str
            required: true
  fail_fast:
    description:
      - Do not start further tests when one has failed. They are then not run, which is red.
      - Only with O(tests).
    type: bool
    default: false
  retries:
    description:
      - How often a failed test is run again, at most, after all others. One that passes then is V(flaky), never
        V(pass), and all its attempts are kept.
      - Only with O(tests).
    type: int
    default: 0
  shard:
    description:
      - Which part of the tests to run, such as V(1/4) for the first of four. It is every fourth of the sorted names
        that are selected, so that all shards together are all tests, each once.
      - Only with O(tests).
    type: str
  select:
    description:
      - Patterns of names (C(fnmatch)); only tests that match one are run. A pattern that matches nothing is an error.
      - Only with O(tests).
    type: list
    elements: str
  deny:
    description:
      - Tests that must not run. They are shown as not run, with the reason, and are not red.
      - Only with O(tests).
    type: list
    elements: dict
    suboptions:
      test:
        description:
          - Pattern of names (C(fnmatch)).
        type: str
        required: true
      reason:
        description:
          - Why.
        type: str
        required: true
  harness:
    description:
      - Who asks for one test after the other. V(builtin) is the runner itself.
      - V(avocado) is Avocado, 108 or newer, which must be found on the PATH in the guest. It gets a task for each test, and the runner
        runs the test when its task asks for it, so deadlines, what a test leaves behind, logs and statuses are the same. Its
        C(results.json), C(results.html), C(results.xml) and C(job.log) are kept beside the suite's output as C(avocado-results.json) and so
        on; what it prints is that output. Tests that are tried again are another job of it, C(avocado-2-results.json).
      - Avocado calls V(timeout) and V(daemon_hang) C(FAIL), V(not_run) C(SKIP), V(known) C(PASS), V(xpass) and V(flaky) C(WARN). If it
        dies, asks for a test twice or not at all, or tells another status of one than it was told, the suite is an error.
      - Only with O(tests).
    type: str
    choices: [builtin, avocado]
    default: builtin
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
  secrets:
    description:
      - Texts of at least 4 characters that must not be kept, or C(regex:) and a regular expression of Python's for what must not. Each line
        is looked at for itself. They are taken out of events and logs, and so are private keys, tokens and passwords of common kinds.
    type: list
    elements: str
    default: []
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

- name: Each program of a directory as a test of its own
  mayfly.virt.suite:
    name: net
    source: tests/net
    tests:
      - glob: t/*.sh
        parser: tap
        deadline: 60
      - name: offload
        command: ./offload --all
        requires: {kernel: ">=6.4", devices: [/dev/net/tun]}
    deny:
      - {test: "t/*flood*", reason: takes the guest's network down}
    retries: 1
    deadline: 900
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
