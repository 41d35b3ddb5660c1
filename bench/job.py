# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A whole job of one guest: what of its time is neither the guest's boot nor its suite."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from common import IMAGE, measure, row

REPEATS = 3


def once(directory: Path) -> dict[str, float]:
    job = {
        "mayfly_guests": [{"name": "one", "image": IMAGE, "vcpus": 2}],
        "mayfly_suites": [{"name": "one", "parser": "tap", "command": "echo 1..1; echo ok 1", "deadline": 60}],
        "mayfly_results": str(directory),
    }
    (directory / "job.yml").write_text(json.dumps(job))
    begun = time.monotonic()
    measure(["ansible-playbook", "mayfly.virt.ci", "-e", f"@{directory}/job.yml"])
    whole = time.monotonic() - begun
    results = max(directory.glob("2*"))
    verdict = json.loads((results / "verdict.json").read_text())
    boot = json.loads((results / "job.json").read_text())["guests"][0]["seconds"]["ready"]
    suite = sum(suite["duration"] for suite in verdict["suites"])
    phases = {phase["phase"]: phase["duration"] for phase in verdict["phases"] if not phase["guest"]}
    return {"whole": whole, "boot": boot, "suite": suite, "rest": whole - boot - suite, **phases}


def run() -> list[dict[str, Any]]:
    results = []
    for _repeat in range(REPEATS):
        with tempfile.TemporaryDirectory() as directory:
            results.append(once(Path(directory)))
    median = {key: statistics.median(result[key] for result in results) for key in results[0]}
    parts = f"prepare without boot {median['prepare'] - median['boot']:.1f}, run without suite {median['run'] - median['suite']:.1f}"
    text = f"{median['rest']:.1f} s of {median['whole']:.1f} s ({parts}, collect {median['collect']:.1f}, cleanup {median['cleanup']:.1f})"
    return [row("mayfly.virt.ci, one guest: neither boot nor suite", text, "≤ 15 s", median["rest"] <= 15, results=results)]
