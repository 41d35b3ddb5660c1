# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a panic on a guest's console to a red job: the example that crashes its kernel, timed by another reader of the console."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from common import COLLECTIONS, ENVIRONMENT, ROOT, STATE_DIR, row

JOB = ROOT / "examples" / "kernel-crash" / "job.yml"
MAYFLY_JOB = COLLECTIONS / "ansible_collections" / "mayfly" / "virt" / "extensions" / "bin" / "mayfly_job.py"
RUN = "bench-watch"
LOOK = 0.005  # seconds between two looks at the console


def panicked(process: subprocess.Popen[bytes]) -> float:
    """Return when the panic was on the console."""
    (console,) = wait_for(process, "*.console.log")
    with console.open("rb") as file:
        said = b""
        while b"Kernel panic - not syncing" not in said:
            said = said[-100:] + file.read()
            if process.poll() is not None:
                raise SystemExit(f"The job ended with status {process.returncode} before its guest's kernel did.")
            time.sleep(LOOK)
    return time.time()


def wait_for(process: subprocess.Popen[bytes], pattern: str) -> list[Path]:
    while not (found := list((STATE_DIR / "runs" / RUN).glob(pattern))):
        if process.poll() is not None:
            raise SystemExit(f"The job ended with status {process.returncode} before it had a guest.")
        time.sleep(0.1)
    return found


def run() -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as directory:
        results = Path(directory)
        argv = ["python", str(MAYFLY_JOB), "--results", directory, "--run-id", RUN, str(JOB)]
        process = subprocess.Popen(argv, env=ENVIRONMENT, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        died = panicked(process)
        if process.wait() != 1:
            raise SystemExit(f"The job ended with status {process.returncode}, not 1.")
        ended = time.time()
        watched = [json.loads(line) for line in (results / RUN / "watch.jsonl").read_text().splitlines()]
        phases = [json.loads(line) for line in (results / RUN / "phases.jsonl").read_text().splitlines()]
    seen = next(event["time"] for event in watched if event.get("fatal")) - died
    red = next(line["time"] for line in phases if line["phase"] == "run" and line["event"] == "end" and line.get("guest")) - died
    whole = ended - died
    return [
        row("from a panic on the console to the watcher's word", f"{seen:.2f} s", "≤ 5 s", seen <= 5, seconds=seen),
        row("the same to the end of the guest's suites, all red", f"{red:.2f} s", "≤ 5 s", red <= 5, seconds=red),
        row("the same to the job's exit: evidence, clean-up, verdict", f"{whole:.1f} s", "stated", None, seconds=whole),
    ]
