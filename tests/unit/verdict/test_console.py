# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a guest's console gives away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ansible_collections.mayfly.virt.plugins.module_utils import _console, _summary

STAMP = "[   12.345678] "

TROUBLE = [
    "Kernel panic - not syncing: Fatal exception in interrupt",
    "Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)",
    "VFS: Unable to mount root fs on unknown-block(0,0)",
    "BUG: kernel NULL pointer dereference, address: 0000000000000000",
    "BUG: KASAN: slab-out-of-bounds in foo+0x1/0x2",
    "BUG: unable to handle page fault for address: ffff",
    "kernel BUG at mm/slub.c:448!",
    "Oops: 0002 [#1] PREEMPT SMP NOPTI",
    "Internal error: Oops: 0000000096000004 [#1] SMP",
    "Unable to handle kernel paging request at virtual address ffff",
    "WARNING: CPU: 0 PID: 1 at kernel/bpf/verifier.c:123 foo+0x1/0x2",
    "WARNING: kernel/bpf/verifier.c:123 at foo+0x1/0x2, CPU#0: test_progs/42",
    "WARNING: possible circular locking dependency detected",
    "general protection fault, probably for non-canonical address 0xdead: 0000 [#1] SMP",
    "UBSAN: array-index-out-of-bounds in fs/foo.c:1:2",
    "watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [swapper/0:1]",
    "watchdog: Watchdog detected hard LOCKUP on cpu 0",
    "NMI watchdog: Watchdog detected hard LOCKUP on cpu 0",
    "INFO: task kworker/0:1:12 blocked for more than 120 seconds.",
    "rcu: INFO: rcu_preempt self-detected stall on CPU",
    "rcu: INFO: rcu_sched detected stalls on CPUs/tasks:",
    "rcu: INFO: rcu_preempt detected expedited stalls on CPUs/tasks: { 0-... } 21 jiffies",
    "INFO: rcu_sched self-detected stall on CPU { 0}",
    "rcu: RCU grace-period kthread stack dump:",
]

QUIET = [
    "",
    "Linux version 6.1.0-32-cloud-amd64",
    "Command line: console=ttyS0 oops=panic panic=-1",
    "NMI watchdog: Perf NMI watchdog permanently disabled",
    "watchdog: NMI not fully supported",
    "WARNING: Unprivileged eBPF is enabled with eIBRS on, data leaks possible via Spectre v2 BHB attacks!",
    "not ok 3 - prints BUG: something",
    "the suite says Oops: nothing",
    "traps: a.out[123] general protection fault ip:1 sp:2 error:0",
    "rcu: Hierarchical RCU implementation.",
    "RIP: 0010:foo",
    "Debugging: KASAN: off",
    "systemd[1]: Started a unit about Kernel panic - not syncing",
]


@pytest.mark.parametrize(
    "before", ["", STAMP, "[    0.000000] ", "[12345.678901][  T123] ", "<4>", "bookworm login: " + STAMP, "\x1b[0m" + STAMP]
)
@pytest.mark.parametrize("line", TROUBLE)
def test_the_kernel_complains(before: str, line: str) -> None:
    found = _console.scan_console(f"{STAMP}all is well\r\n{before}{line}\r\nmore\r\n")
    assert [trouble["line"] for trouble in found["trouble"]] == [2]
    assert line[:20] in found["trouble"][0]["text"]
    assert found["lines"] == 3


@pytest.mark.parametrize("before", ["", STAMP])
@pytest.mark.parametrize("line", QUIET)
def test_the_kernel_does_not_complain(before: str, line: str) -> None:
    assert _console.scan_console(f"{before}{line}\n")["trouble"] == []


def test_trouble_fails_a_run_whose_suites_passed(story: Any, sound: Callable[[dict[str, Any]], None]) -> None:
    story.consoles["bookworm"] += f"{STAMP}BUG: kernel NULL pointer dereference\n{STAMP}Oops: 0002 [#1]\n"
    verdict = story.verdict()
    sound(verdict)
    assert (verdict["verdict"], verdict["exit_code"]) == ("failed", 1)
    assert "kernel of bookworm: " in verdict["reasons"][0]
    assert "BUG: kernel NULL pointer dereference (console line 3) and 1 more" in verdict["reasons"][0]
    assert "kernel trouble on bookworm" in _summary.to_summary(verdict).split("\n")[0]


def test_trouble_of_a_guest_the_job_does_not_name(story: Any, sound: Callable[[dict[str, Any]], None]) -> None:
    story.consoles["other"] = f"{STAMP}Kernel panic - not syncing: x\n"
    verdict = story.verdict()
    sound(verdict)
    assert verdict["exit_code"] == 1


def test_a_console_nobody_read_is_not_a_quiet_one(story: Any, sound: Callable[[dict[str, Any]], None]) -> None:
    story.consoles.clear()
    verdict = story.verdict()
    sound(verdict)
    assert verdict["guests"][0]["console"]["read"] is False
    assert "Console   not read: bookworm" in _summary.to_summary(verdict)


def test_endless_trouble_is_listed_up_to_a_limit() -> None:
    found = _console.scan_console(f"{STAMP}Oops: 0\n" * 5000)
    assert found["lines"] == 5000
    assert len(found["trouble"]) == _console.LISTED
