# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel's BPF selftests print: recorded, and written from their source and from reports on the mailing list."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

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


# --- with the report of -J --------------------------------------------------------------------------------------

# What -J writes of SAMPLE, after the source of test_progs.
REPORT: dict[str, Any] = {
    "success": 3,
    "success_subtest": 2,
    "skipped": 2,
    "failed": 1,
    "results": [
        {
            "name": "mptcp",
            "number": 178,
            "message": "",
            "failed": True,
            "subtests": [{"name": "base", "number": 1, "message": "actual -1 < expected 0\\n", "failed": True}],
        }
    ],
}


def with_report(runner: ModuleType, text: str, report: bytes | None, exit_status: int, *, timed_out: bool = False) -> list[str]:
    """The complaints of a run that printed the text and left the report."""
    parser = runner.PARSERS["test_progs"]("smoke", 0.0)
    for second, line in enumerate(text.split("\n"), start=1):
        parser.feed(line, float(second))
    error = "there is none" if report is None else None
    parser.finish(runner.End(exit_status=exit_status, report=report, report_error=error, timed_out=timed_out))
    errors: list[str] = parser.errors
    return errors


def test_a_report_that_says_the_same(runner: ModuleType) -> None:
    assert with_report(runner, SAMPLE, json.dumps(REPORT).encode(), 1) == []
    good = {"success": 3, "success_subtest": 1, "skipped": 2, "failed": 0, "results": []}
    assert with_report(runner, GOOD, json.dumps(good).encode(), 0) == []


def test_a_report_is_not_quite_json(runner: ModuleType) -> None:
    raw = json.dumps(REPORT).replace("actual -1", "it\\'s \x01 and \t raw \xff")
    assert with_report(runner, SAMPLE, raw.encode("latin-1"), 1) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"success": 4}, "the report says 4 success, the summary 3"),
        ({"success_subtest": 1}, "the report says 1 success_subtest, the summary 2"),
        ({"skipped": 0}, "the report says 0 skipped, the summary 2"),
        ({"failed": 0}, "the report says 0 failed, the summary 1"),
        ({"results": []}, "2 failed by the lines and not by the report: mptcp, mptcp/base"),
        ({"results": [{**REPORT["results"][0], "subtests": []}]}, "1 failed by the lines and not by the report: mptcp/base"),
        ({"results": [*REPORT["results"], {"name": "align", "failed": True}]}, "1 failed by the report and not by the lines: align"),
        ({"results": None}, "no list of results"),
        ({"results": [1]}, "no list of results"),
        ({"results": [{"name": "a", "subtests": [1]}]}, "no list of objects"),
        ({"success": "3"}, "each of the counts"),
        ({"failed": True}, "each of the counts"),
    ],
)
def test_a_report_that_says_something_else_is_an_error(runner: ModuleType, change: dict[str, Any], words: str) -> None:
    errors = with_report(runner, SAMPLE, json.dumps({**REPORT, **change}).encode(), 1)
    assert any(words in error for error in errors)


@pytest.mark.parametrize("report", [None, b"", b"[]", b"{", b"[" * 100_000, json.dumps(REPORT).encode()[:-20]])
def test_a_report_that_is_none_is_an_error(runner: ModuleType, report: bytes | None) -> None:
    assert any("the report cannot be used" in error for error in with_report(runner, SAMPLE, report, 1))
    assert with_report(runner, "#1 a:OK", report, 0, timed_out=True) == []


def test_a_report_is_of_one_program(runner: ModuleType) -> None:
    errors = with_report(runner, SAMPLE + SAMPLE, json.dumps(REPORT).encode(), 1)
    assert any("2 summaries were printed" in error for error in errors)


def test_the_report_is_read_when_it_is_asked_for(program: Any) -> None:
    (program.directory / "new.json").write_text(json.dumps(REPORT))
    (program.directory / "printed").write_text(SAMPLE)
    events = program.run("cat printed; cp new.json out.json; exit 1", parser="test_progs", report="out.json")
    assert events[-1]["error"] is None


def test_a_report_that_was_there_before_is_not_taken(program: Any) -> None:
    (program.directory / "out.json").write_text(json.dumps(REPORT))
    (program.directory / "printed").write_text(SAMPLE)
    events = program.run("cat printed; exit 1", parser="test_progs", report="out.json")
    assert "which did not write it" in events[-1]["error"]


# --- recorded ---------------------------------------------------------------------------------------------------

# test_progs of Linux 6.12, built from Debian's linux-source-6.12 with clang 19 and the types of its own cloud kernel, without
# bpf_testmod.ko, and run by root on a kernel 6.18: `test_progs -J FILE -t arg_parsing,btf_module,prog_tests_framework,subprogs,…`
SAMPLES = Path(__file__).parent / "samples"


def recorded(runner: ModuleType, name: str, exit_status: int) -> list[str]:
    """The complaints about a recorded output with its report."""
    return with_report(runner, (SAMPLES / f"{name}.txt").read_text(), (SAMPLES / f"{name}.json").read_bytes(), exit_status)


def test_recorded_passes_and_skips(runner: ModuleType) -> None:
    """prog_tests_framework lets a subtest of its own fail, and takes it back: neither sum nor report nor exit status has it."""
    text = (SAMPLES / "test_progs-6.12.txt").read_text()
    assert "#42/4    prog_tests_framework/test_fail_subtest:FAIL\n#42      prog_tests_framework:OK\n" in text
    outcome = parse(runner, "test_progs", text, 0)
    counts = {status: sum(test["status"] == status for test in outcome.tests) for status in ("pass", "skip", "fail")}
    assert counts == {"pass": 15, "skip": 2, "fail": 0}  # 13 subtests and 2 tests without; one of either is skipped
    assert [test["name"] for test in outcome.tests if test["status"] == "skip"] == ["btf_module", "perf_branches/perf_branches_hw"]
    assert ("prog_tests_framework", "pass") in results(outcome)
    assert (outcome.planned, outcome.errors, judge(outcome, 0)["status"]) == (17, [], "passed")
    assert recorded(runner, "test_progs-6.12", 0) == []
    lost = text.replace("#42      prog_tests_framework:OK\n", "")
    assert verdict(runner, "test_progs", lost) == "error"


def test_recorded_failures(runner: ModuleType) -> None:
    text = (SAMPLES / "test_progs-6.12-fail.txt").read_text()
    outcome = parse(runner, "test_progs", text, 1)
    failed = {test["name"]: test["message"] for test in outcome.tests if test["status"] == "fail"}
    assert sorted(failed) == [
        "btf_tag/btf_decl_tag",
        "btf_tag/btf_type_tag",
        *(f"libbpf_probe_prog_types/BPF_PROG_TYPE_{kind}" for kind in ("EXT", "LIRC_MODE2", "LSM", "TRACING")),
        "map_init/pcpu_lru_map_init",
        "map_init/pcpu_map_init",
        "pinning",
    ]
    assert "unexpected BPF_PROG_TYPE_LSM: actual 0 != expected 1" in failed["libbpf_probe_prog_types/BPF_PROG_TYPE_LSM"]
    assert "specified path /sys/fs/bpf/pinmap is not on BPF FS" in failed["pinning"]
    assert (outcome.errors, judge(outcome, 1)["status"]) == ([], "failed")
    assert recorded(runner, "test_progs-6.12-fail", 1) == []
    assert recorded(runner, "test_progs-6.12-fail", 0) == ["tests failed, but the command ended with exit status 0"]


# --- further ----------------------------------------------------------------------------------------------------


def test_a_test_of_which_some_subtests_were_skipped(runner: ModuleType) -> None:
    """As newer kernels print it."""
    text = "#1/1 a/b:OK\n#1/2 a/c:SKIP\n#1 a:OK (SKIP: 1/2)\nSummary: 1/1 PASSED, 1 SKIPPED, 0 FAILED\n"
    assert verdict(runner, "test_progs", text) == "passed"


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
