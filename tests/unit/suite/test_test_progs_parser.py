# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel's BPF selftests print: written from their source and from reports on the mailing list."""

from __future__ import annotations

from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parsing import judge, parse, results, verdict

SAMPLE = """\
bpf_testmod.ko is already unloaded.
Loading bpf_testmod.ko...
Successfully loaded bpf_testmod.ko.
#1       align:OK
test_base:PASS:test__join_cgroup 0 nsec
(network_helpers.c:107: errno: Protocol not available) Failed to create server socket
test_base:FAIL:start_mptcp_server unexpected start_mptcp_server: actual -1 < expected 0
#178/1   mptcp/base:FAIL
#178/2   mptcp/mptcpify:OK
#178/3   mptcp/sockopt:SKIP
#178     mptcp:FAIL
#180     netns_cookie:SKIP
#181/1   netkit/device:OK
#181     netkit:OK

All error logs:
test_base:PASS:test__join_cgroup 0 nsec
test_base:FAIL:start_mptcp_server unexpected start_mptcp_server: actual -1 < expected 0
#178/1   mptcp/base:FAIL
#178     mptcp:FAIL
Summary: 3/2 PASSED, 2 SKIPPED, 1 FAILED
Successfully unloaded bpf_testmod.ko.
"""

GOOD = "#1 align:OK\n#36/1 core/main:OK\n#36/2 core/skip:SKIP\n#36 core:OK\n#40 cgroup:SKIP\nSummary: 3/1 PASSED, 2 SKIPPED, 0 FAILED\n"


def test_serial(runner: ModuleType) -> None:
    outcome = parse(runner, "test_progs", SAMPLE, 1)
    assert results(outcome) == [
        ("align", "pass"),
        ("mptcp/base", "fail"),
        ("mptcp/mptcpify", "pass"),
        ("mptcp/sockopt", "skip"),
        ("netns_cookie", "skip"),
        ("netkit/device", "pass"),
    ]
    assert "actual -1 < expected 0" in outcome.tests[1]["message"]
    assert (outcome.planned, outcome.errors) == (6, [])
    assert judge(outcome, 1)["status"] == "failed"
    assert verdict(runner, "test_progs", SAMPLE, 0) == "error"


def test_good_and_several_flavours(runner: ModuleType) -> None:
    assert verdict(runner, "test_progs", GOOD) == "passed"
    assert verdict(runner, "test_progs", GOOD, 1) == "error"
    outcome = parse(runner, "test_progs", GOOD + GOOD, 0)
    assert (outcome.planned, outcome.seen, judge(outcome, 0)["status"]) == (8, 8, "passed")


def test_a_failed_test_whose_subtests_passed(runner: ModuleType) -> None:
    text = "#1/1 a/b:OK\ncleanup:FAIL:x\n#1 a:FAIL\nSummary: 0/1 PASSED, 0 SKIPPED, 1 FAILED\n"
    outcome = parse(runner, "test_progs", text, 1)
    assert results(outcome) == [("a/b", "pass"), ("a", "fail")]
    assert outcome.tests[1]["message"] == "cleanup:FAIL:x"
    assert judge(outcome, 1)["status"] == "failed"


def test_older_kernels_count_failed_subtests_too(runner: ModuleType) -> None:
    text = "#1/1 b:FAIL\n#1 a:FAIL\nSummary: 0/0 PASSED, 0 SKIPPED, 2 FAILED\n"
    assert verdict(runner, "test_progs", text, 1) == "failed"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("#1 align:OK\n", ""),
        ("#1 align:OK", "#1 align:OK\n#1 align:OK"),
        ("#1 align:OK", "[  1.0] #1 align:OK"),
        ("#1 align:OK", "#1 align:FAIL"),
        ("#36/1 core/main:OK\n", ""),
        ("#36/1 core/main:OK", "#36/1 core/main:FAIL"),
        ("#36 core:OK\n", ""),
        ("#40 cgroup:SKIP\n", ""),
        ("Summary: 3/1", "Summary: 4/1"),
        ("Summary: 3/1", "Summary: 2/1"),
        ("Summary: 3/1", "Summary: 3/2"),
        ("0 FAILED", "1 FAILED"),
        ("Summary: 3/1 PASSED, 2 SKIPPED, 0 FAILED\n", ""),
        ("#40 cgroup:SKIP", "All error logs:\n#40 cgroup:SKIP"),
        (GOOD, GOOD + "#1 align:OK"),
        (GOOD, "Summary: 0/0 PASSED, 0 SKIPPED, 0 FAILED\n"),
        (GOOD, "Caught signal #11!\nStack trace:\n"),
        (GOOD, ""),
    ],
)
def test_what_is_short_or_contradicts_itself_is_an_error(runner: ModuleType, old: str, new: str) -> None:
    assert old in GOOD
    assert verdict(runner, "test_progs", GOOD.replace(old, new)) == "error"


def test_the_deadline_is_no_contradiction(runner: ModuleType) -> None:
    outcome = parse(runner, "test_progs", "#1 a:OK\n#2/1 b/c:OK\n", timed_out=True)
    assert judge(outcome, None, timed_out=True)["status"] == "timeout"


def test_names_may_repeat_and_lines_be_huge(runner: ModuleType) -> None:
    text = GOOD.replace("align", "core/main").replace("cgroup", "c" * 100_000)
    assert verdict(runner, "test_progs", "y" * 100_000 + "\n" + text) == "passed"


parts = st.sampled_from([*GOOD.splitlines(), "#1 x:FAIL", "#1/1 x/y:FAIL", "All error logs:", "Summary: 1/0 PASSED, 0 SKIPPED, 0 FAILED"])


@settings(max_examples=400, deadline=None)
@given(st.lists(st.one_of(parts, st.text(max_size=20), st.text("#12/ a:OKFAIL", max_size=20)), max_size=20))
def test_no_pass_that_was_not_printed(runner: ModuleType, text: list[str]) -> None:
    outcome = parse(runner, "test_progs", "\n".join(text), 0)
    passes = sum(status == "pass" for _name, status in results(outcome))
    assert passes <= sum(line.endswith(":OK") for line in "\n".join(text).split("\n"))
    if judge(outcome, 0)["status"] == "passed":
        assert any(line.startswith("Summary: ") for line in text)
        assert not any(status == "fail" for _name, status in results(outcome))


@settings(max_examples=100, deadline=None)
@given(place=st.integers(0, 3), damage=st.sampled_from(["drop", "mix", "repeat", "cut"]))
def test_a_damaged_line_never_passes(runner: ModuleType, place: int, damage: str) -> None:
    lines = GOOD.splitlines()
    index = [0, 1, 3, 4][place]
    line = lines[index]
    replaced = {"drop": [], "mix": [f"x {line}"], "repeat": [line, line], "cut": [line[:-1]]}
    lines[index : index + 1] = replaced[damage]
    assert verdict(runner, "test_progs", "\n".join(lines)) == "error"
