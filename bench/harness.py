# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a harness costs for each test: the runner's own and Avocado, against plain prove and plain Avocado, on this machine.

All run the same scripts, each of which prints two lines of TAP, so the time is the harness's alone. Whole processes, in turns, medians.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import ENVIRONMENT, ROOT, measure, row

RUNNER = ROOT / "extensions" / "suite_runner" / "mayfly_suite_runner.py"
AVOCADO = ROOT / "build" / "avocado" / "bin"
SCRIPTS = 50
REPEATS = 3


def make_scripts(directory: Path) -> list[Path]:
    (directory / "t").mkdir()
    scripts = [directory / "t" / f"test-{number:02}.sh" for number in range(SCRIPTS)]
    for script in scripts:
        script.write_text("#!/bin/sh\necho 1..1\necho ok 1 - it works\n")
        script.chmod(0o755)
    return scripts


def prove(scripts: list[Path]) -> float:
    measured = measure(["prove", "--norc", "--exec", "", *map(str, scripts)])
    assert f"Files={SCRIPTS}, Tests={SCRIPTS}" in measured.output
    return measured.seconds


def avocado(scripts: list[Path], directory: Path) -> float:
    """Avocado as the runner starts it, but with the scripts themselves as its tasks."""
    with tempfile.TemporaryDirectory(dir=directory) as name:
        recipe = Path(name) / "recipe.json"
        recipe.write_text(json.dumps([{"kind": "tap", "uri": str(script)} for script in scripts]))
        (Path(name) / "avocado.conf").write_text("[run]\nmax_parallel_tasks = 1\n")
        arguments = ["--config", f"{name}/avocado.conf", "run", "--job-results-dir", name, "--disable-sysinfo", str(recipe)]
        measured = measure([str(AVOCADO / "avocado"), *arguments])
    assert f"PASS {SCRIPTS} | ERROR 0" in measured.output
    return measured.seconds


def suite(directory: Path, harness: str) -> float:
    spec = {
        "suite": "bench",
        "parser": "tests",
        "deadline": 600,
        "cwd": str(directory),
        "tests": [{"glob": "t/*.sh", "parser": "tap"}],
        "harness": harness,
        "environment": {"PATH": f"{AVOCADO}:{ENVIRONMENT['PATH']}"},
    }
    (directory / "spec.json").write_text(json.dumps(spec))
    with tempfile.TemporaryDirectory(dir=directory) as out:
        measured = measure([sys.executable, str(RUNNER), "run", "--spec", str(directory / "spec.json"), "--dir", out])
        events = [json.loads(line) for line in (Path(out) / "events.jsonl").read_text().splitlines()]
    assert [event["status"] for event in events if event["event"] == "test"] == ["pass"] * SCRIPTS
    assert events[-1]["error"] is None
    return measured.seconds


def run() -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="mayfly-bench-") as name:
        directory = Path(name)
        scripts = make_scripts(directory)
        ways: dict[str, Callable[[], float]] = {
            "prove": lambda: prove(scripts),
            "builtin": lambda: suite(directory, "builtin"),
            "plain": lambda: avocado(scripts, directory),
            "avocado": lambda: suite(directory, "avocado"),
        }
        times: dict[str, list[float]] = {way: [] for way in ways}
        for _repeat in range(REPEATS):
            for way, once in ways.items():
                times[way].append(once())
    each = {way: statistics.median(seconds) / SCRIPTS * 1000 for way, seconds in times.items()}
    builtin, ours = each["builtin"] / each["prove"], each["avocado"] / each["plain"]
    return [
        row(
            f"harness builtin: each of {SCRIPTS} TAP scripts, against plain prove",
            f"{each['builtin']:.0f} ms, {builtin:.2f} times",
            "≤ 1.5 times",
            builtin <= 1.5,
            milliseconds=each,
        ),
        row(
            f"harness avocado: each of {SCRIPTS} TAP scripts, against plain Avocado",
            f"{each['avocado']:.0f} ms, {ours:.2f} times",
            "≤ 1.2 times",
            ours <= 1.2,
            milliseconds=each,
        ),
    ]
