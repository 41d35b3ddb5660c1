# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Benchmarks: `make bench`. Ratios against the raw libvirt API and against virt-install, in one run; medians.

Absolute times say more of the machine than of Mayfly. Results are printed as a table and kept in build/bench.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import guests
import harness
import inventory
import job
import login
import report
import runner
import tck
import watch

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = {
    "guests": guests.run,
    "inventory": inventory.run,
    "login": login.run,
    "job": job.run,
    "report": report.run,
    "runner": runner.run,
    "harness": harness.run,
    "tck": tck.run,
    "watch": watch.run,
}


def table(rows: list[dict[str, Any]]) -> str:
    head = ("what", "measured", "aim", "reached")
    lines = [head, *((row["what"], row["measured"], row["aim"], row["reached"]) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
    return "\n".join([text[0], "-" * max(len(line) for line in text), *text[1:]])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="*", choices=[[], *BENCHMARKS], help="benchmarks to run (default: all)")
    wanted = parser.parse_args().only or list(BENCHMARKS)
    rows = []
    for name in wanted:
        print(f"benchmark {name} …", flush=True)
        rows += BENCHMARKS[name]()
    machine = f"{os.cpu_count()} processors, {platform.release()}, Python {platform.python_version()}"
    print(f"\n{machine}\n\n{table(rows)}")
    result = {"time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"), "machine": machine, "rows": rows}
    (ROOT / "build" / "bench.json").write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
