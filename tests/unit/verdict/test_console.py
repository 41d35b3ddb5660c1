# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a guest's console gives away."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.mayfly.virt.plugins.module_utils import _console, _summary
from ansible_collections.mayfly.virt.plugins.module_utils._errors import InvalidInput

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
    assert "BUG: kernel NULL pointer dereference (console line 3)" in verdict["reasons"][0]
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


def splat(name: str) -> str:
    return (Path(__file__).parent / "consoles" / f"{name}.log").read_text()


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("null-pointer", [("bug", ["sysrq_handle_crash", "__handle_sysrq", "write_sysrq_trigger"]), ("panic", [])]),
        ("warning", [("warning", ["bpf_check", "bpf_prog_load", "__sys_bpf"])]),
        ("kasan", [("kasan", ["foo_read", "vfs_read", "ksys_read"])]),
        ("hung-task", [("hung_task", ["__schedule", "schedule", "rwsem_down_write_slowpath"])]),
        ("two-warnings", [("warning", ["bpf_check", "bpf_prog_load", "__sys_bpf"]), ("warning", ["dev_watchdog", "call_timer_fn"])]),
        ("interleaved", [("warning", ["bpf_check", "bpf_prog_load", "__sys_bpf"])]),
    ],
)
def test_splats_are_joined(name: str, found: list[tuple[str, list[str]]]) -> None:
    trouble = _console.scan_console(splat(name))["trouble"]
    assert [(one["kind"], one["frames"][:3]) for one in trouble] == found


def test_a_fingerprint_survives_what_varies_and_nothing_else() -> None:
    (first,) = _console.scan_console(splat("warning"))["trouble"]
    again = (
        splat("warning")
        .replace("CPU: 1 PID: 512", "CPU: 0 PID: 9")
        .replace("[   31.", "[  912.")
        .replace("+0x1b2f/0x2c40", "+0x1b3f/0x2c50")
    )
    (second,) = _console.scan_console(again)["trouble"]
    (elsewhere,) = _console.scan_console(splat("warning").replace("bpf_prog_load", "bpf_link_create"))["trouble"]
    (of_another_file,) = _console.scan_console(splat("warning").replace("verifier.c", "btf.c"))["trouble"]
    assert first["fingerprint"] == second["fingerprint"]
    assert len({first["fingerprint"], elsewhere["fingerprint"], of_another_file["fingerprint"]}) == 3


def test_what_stands_between_the_lines_of_a_splat_is_not_its() -> None:
    (one,) = _console.scan_console(splat("interleaved"))["trouble"]
    assert "ok 12 - loads" not in "".join(one["splat"])
    assert one["splat"][-1].endswith("---[ end trace 0000000000000000 ]---")


def test_a_splat_ends() -> None:
    """Neither a later message of the kernel nor the thousandth line is part of it."""
    later = f"{STAMP}WARNING: CPU: 0 PID: 1 at a.c:1 f+0x1/0x2\n[   99.000000]  late+0x1/0x2\n"
    (one,) = _console.scan_console(later)["trouble"]
    assert one["frames"] == ["f"]
    (long,) = _console.scan_console(f"{STAMP}BUG: x\n" + f"{STAMP} line\n" * 1000)["trouble"]
    assert len(long["splat"]) == _console.SPLAT_LINES + 1


TODAY = datetime.date(2026, 11, 21)
ENTRY = {"pattern": r"WARNING: .* at kernel/bpf/verifier\.c", "reason": "https://example.org/1", "expires": "2026-11-21"}


def allowed(day: datetime.date, **changes: str) -> list[_console.Allowance]:
    return _console.in_force(_console.read_allowances([{**ENTRY, **changes}]), day)


def test_an_allowed_complaint_is_told_and_is_no_trouble() -> None:
    console = _console.scan_console(splat("warning"), allowed(TODAY))
    assert console["trouble"] == []
    assert [one["allowed"] for one in console["allowed"]] == ["https://example.org/1"]


@pytest.mark.parametrize(
    "entries",
    [
        allowed(TODAY + datetime.timedelta(days=1)),  # expired yesterday
        allowed(TODAY, pattern="net/core"),
        allowed(TODAY, pattern=r"^\? \w+$"),
    ],
)
def test_what_is_not_allowed_is_trouble(entries: list[_console.Allowance]) -> None:
    assert len(_console.scan_console(splat("warning"), entries)["trouble"]) == 1


def test_a_frame_can_be_what_is_allowed() -> None:
    assert _console.scan_console(splat("null-pointer"), allowed(TODAY, pattern="^sysrq_handle_crash$"))["trouble"][0]["kind"] == "panic"


def test_a_death_is_never_allowed() -> None:
    console = _console.scan_console(splat("null-pointer"), allowed(TODAY, pattern="panic|BUG"))
    assert [one["kind"] for one in console["trouble"]] == ["panic"]
    assert [one["kind"] for one in console["allowed"]] == ["bug"]


def test_an_allowed_complaint_hides_no_other() -> None:
    console = _console.scan_console(splat("two-warnings"), allowed(TODAY))
    assert [one["frames"][0] for one in console["trouble"]] == ["dev_watchdog"]


@pytest.mark.parametrize(
    "entry",
    [
        {},
        "WARNING",
        {"pattern": "x", "reason": "y"},
        {**ENTRY, "pattern": "("},
        {**ENTRY, "pattern": ".*"},
        {**ENTRY, "reason": " "},
        {**ENTRY, "expires": "soon"},
        {**ENTRY, "more": 1},
    ],
)
def test_an_allow_list_that_cannot_be_meant_is_refused(entry: Any) -> None:
    with pytest.raises(InvalidInput, match="Console allow list 'entry 1' is refused"):
        _console.read_allowances([entry])


def test_endless_trouble_is_listed_up_to_a_limit() -> None:
    found = _console.scan_console(f"{STAMP}Oops: 0\n" * 5000)
    assert found["lines"] == 5000
    assert len(found["trouble"]) == _console.LISTED
