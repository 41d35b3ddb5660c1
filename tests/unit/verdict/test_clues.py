# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The first guilty line: where it is looked for, and what is none."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.mayfly.virt.plugins.module_utils import _clues, _summary, _verdict

BASE = "suites/smoke/bookworm"


def clues(story: Any, logs: dict[str, str]) -> list[tuple[str, int, str] | None]:
    evidence = story.evidence()
    evidence.read = lambda path: logs.get(path, "")
    tests = _verdict.judge(evidence)["suites"][0]["tests"]
    found = [test.get("clue") for test in tests]
    return [clue and (clue["file"].removeprefix(f"{BASE}/"), clue["line"], clue["text"]) for clue in found]


def test_around_a_tap_test(story: Any) -> None:
    story.fail(2)
    stdout = "1..3\nok 1 - a\nerror of the second\nnot ok 2 - b\n# Failed test 'b'\nok 3 - c\nerror of nobody\n"
    assert clues(story, {f"{BASE}/stdout.log": stdout}) == [None, ("stdout.log", 3, "error of the second"), None]


def test_standard_error_when_the_output_says_nothing(story: Any) -> None:
    story.fail(2)
    logs = {
        f"{BASE}/stdout.log": "1..3\nok 1\nnot ok 2\n# Failed test\nok 3\n",
        f"{BASE}/stderr.log": "hello\n\x1b[31mcannot open disk\x1b[0m\n",
    }
    assert clues(story, logs)[1] == ("stderr.log", 2, "cannot open disk")


def test_the_kernel_first(story: Any) -> None:
    story.fail(2)
    story.consoles["bookworm"] += "[    1.0] Oops: 1\n[    2.0] Kernel panic - not syncing: dead\n"
    found = clues(story, {f"{BASE}/stderr.log": "error\n"})[1]
    assert found == ("guests/bookworm/console.log", 4, "[    2.0] Kernel panic - not syncing: dead")


def test_the_tests_own_logs(story: Any) -> None:
    story.fail(2)
    suite = story.verdict()["suites"][0]
    suite["tests"][1]["logs"] = "tests/t-2"
    logs = {f"{BASE}/tests/t-2/stdout.log": "fine\nTraceback (most recent call last):\n", f"{BASE}/stderr.log": "error of another\n"}
    _clues.add_clues(suite, None, lambda path: logs.get(path, ""))
    assert suite["tests"][1]["clue"] == {"file": f"{BASE}/tests/t-2/stdout.log", "line": 2, "text": "Traceback (most recent call last):"}


def test_no_clue_is_better_than_a_wrong_one(story: Any) -> None:
    story.fail(2)
    assert clues(story, {}) == [None, None, None]
    assert clues(story, {f"{BASE}/stdout.log": "all is well\nterrors and mirrored\n"}) == [None, None, None]
    story.smoke[3]["status"] = "pass"
    story.end["exit_status"] = 0
    assert clues(story, {f"{BASE}/stderr.log": "error\n"}) == [None, None, None]


def test_long_lines_and_many_failures(story: Any) -> None:
    story.fail(2)
    found = clues(story, {f"{BASE}/stderr.log": "error " + "x" * 10_000})[1]
    assert found is not None
    assert len(found[2]) == _clues.TEXT_LIMIT


@pytest.mark.parametrize("line", ["not ok 2 - error", "# Failed test 'cannot open'", "#   at t/error.t line 3."])
def test_results_are_no_clues(story: Any, line: str) -> None:
    story.fail(2)
    assert clues(story, {f"{BASE}/stdout.log": f"ok 1\n{line}\n", f"{BASE}/stderr.log": f"{line}\n"})[1] is None


def test_the_summary_shows_it(story: Any) -> None:
    story.fail(2, "Failed test 'opens'\n got: 3")
    evidence = story.evidence()
    evidence.read = lambda path: "permission denied: /dev/kvm\n" if path.endswith("stderr.log") else ""
    text = _summary.to_summary(_verdict.judge(evidence))
    assert "  smoke@bookworm  2 test 2  FAIL\n      got: 3\n      in stderr.log line 1: permission denied: /dev/kvm\n" in text
