# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the benchmarks share: Ansible with the installed artefact, modules as processes, and rows of the table."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
COLLECTIONS = ROOT / "build" / "collections"
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}",
    "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
    "PYTHONPATH": str(COLLECTIONS),
    "ANSIBLE_LOCALHOST_WARNING": "false",
    "ANSIBLE_INVENTORY_UNPARSED_WARNING": "false",
}
STATE_DIR = Path("/var/lib/mayfly")
IMAGE = "debian-12+ebpf"


@dataclasses.dataclass(frozen=True)
class Measured:
    """One process: how long it took and how much memory it had at most."""

    seconds: float
    peak_mib: float
    output: str


def measure(argv: list[str], text: str = "") -> Measured:
    """Run a program to its good end and measure it, children included."""
    begun = time.monotonic()
    process = subprocess.Popen(argv, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin
    assert process.stdout
    assert process.stderr
    process.stdin.write(text.encode())
    process.stdin.close()
    output, errors = process.stdout.read().decode(), process.stderr.read().decode()
    _pid, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(argv)[:200]} ended with status {process.returncode}:\n{output[-2000:]}\n{errors[-2000:]}")
    return Measured(seconds, usage.ru_maxrss / 1024, output)


def module(name: str, **options: Any) -> Measured:
    """Run a module as Ansible runs it on the hypervisor: a process of its own, arguments on standard input."""
    argv = [sys.executable, "-m", f"ansible_collections.mayfly.virt.plugins.modules.{name}"]
    return measure(argv, json.dumps({"ANSIBLE_MODULE_ARGS": options}))


def wait_until_quiet(patience: float = 20) -> None:
    """Wait until what was before no longer keeps the processors busy: less than a tenth of half a second."""
    limit = time.monotonic() + patience
    while time.monotonic() < limit:
        before = _ticks()
        time.sleep(0.5)
        busy, idle = (after - earlier for after, earlier in zip(_ticks(), before))
        if busy < 0.1 * (busy + idle):
            return
    raise SystemExit(f"The machine is not quiet for {patience:.0f} s: end what else runs on it.")


def _ticks() -> tuple[int, int]:
    """Return for how long the processors were busy and idle, in clock ticks."""
    times = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    idle = times[3] + times[4]
    return sum(times) - idle, idle


def row(what: str, measured: str, aim: str, reached: bool | None, **figures: Any) -> dict[str, Any]:
    return {"what": what, "measured": measured, "aim": aim, "reached": {True: "yes", False: "NO", None: "-"}[reached], **figures}
