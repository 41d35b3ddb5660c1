# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The runner that goes into the guest, on this machine: what a test costs that does nothing, and how fast lines are read.

Both are whole processes, from the start of Python to the last event.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import ROOT, Measured, measure, row

RUNNER = ROOT / "extensions" / "suite_runner" / "mayfly_suite_runner.py"
TESTS = 500
LINES = 100_000
REPEATS = 3


def suite(directory: Path, **spec: Any) -> Measured:
    """Run a suite and see that it ended well."""
    (directory / "spec.json").write_text(json.dumps({"suite": "bench", "deadline": 600, "cwd": str(directory), **spec}))
    with tempfile.TemporaryDirectory(dir=directory) as out:
        measured = measure([sys.executable, str(RUNNER), "run", "--spec", str(directory / "spec.json"), "--dir", out])
        end = json.loads((Path(out) / "events.jsonl").read_text().splitlines()[-1])
        assert (end["event"], end["exit_status"], end["error"], end["seen"]) == ("suite_end", 0, None, end["planned"])
    return measured


def run() -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="mayfly-bench-") as name:
        directory = Path(name)
        lines = (f"ok {number} - assertion number {number} of many" for number in range(1, LINES + 1))
        (directory / "lines").write_text(f"1..{LINES}\n" + "\n".join(lines) + "\n")
        tests = [{"name": f"test {number}", "command": ["/bin/true"]} for number in range(TESTS)]
        many = [suite(directory, parser="tests", tests=tests) for _repeat in range(REPEATS)]
        tap = [suite(directory, parser="tap", command=["cat", "lines"]) for _repeat in range(REPEATS)]
    each = statistics.median(measured.seconds for measured in many) / TESTS * 1000
    seconds = statistics.median(measured.seconds for measured in tap)
    return [
        row(f"runner: each of {TESTS} tests that is /bin/true", f"{each:.1f} ms", "≤ 20 ms", each <= 20, milliseconds=each),
        row(f"runner: {LINES} TAP lines", f"{seconds:.2f} s", "≤ 1 s", seconds <= 1, seconds=seconds),
    ]
