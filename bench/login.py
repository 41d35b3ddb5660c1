# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From the moment in which a guest's sshd accepts the login to the return of our wait.

Both moments are read off one clock as well as can be: sshd's is in the guest's journal, and the guest's clock is compared with ours over
an open ssh connection; half the shortest round trip is the error.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

from common import ENVIRONMENT, IMAGE, STATE_DIR, module, row

RUN = "bench-login"
NAME = f"one-{RUN}"
REPEATS = 3


def ssh(directory: Path, address: str, command: str) -> str:
    options = {
        "UserKnownHostsFile": str(directory / "known_hosts"),
        "HostKeyAlias": NAME,
        "StrictHostKeyChecking": "yes",
        "ControlMaster": "auto",
        "ControlPath": str(directory / "mux"),
        "ControlPersist": "20",
    }
    argv = ["ssh", "-F", "none", "-i", str(directory / "id_ed25519"), *(f"-o{name}={value}" for name, value in options.items())]
    done = subprocess.run([*argv, f"root@{address}", command], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def offset(directory: Path, address: str) -> tuple[float, float]:
    """Return by how much the guest's clock is ahead of ours, and the error of that, in seconds."""
    best = (0.0, 9.9)
    for _try in range(10):
        sent = time.time()
        guest = float(ssh(directory, address, "date +%s.%N"))
        received = time.time()
        error = (received - sent) / 2
        if error < best[1]:
            best = (guest - (sent + received) / 2, error)
    return best


def once() -> tuple[float, float, float]:
    """Return the delay, its error, and when the login was accepted since the domain was made."""
    directory = STATE_DIR / "runs" / RUN
    try:
        domain = {"name": NAME, "image": IMAGE, "vcpus": 2}
        begun = time.time()
        made = module("domain", state_dir=str(STATE_DIR), run={"id": RUN}, domains=[domain], wait="ssh")
        returned = time.time()
        address = json.loads(made.output)["results"][0]["address"]
        ahead, error = offset(directory, address)
        accepted = ssh(directory, address, "journalctl -b -o short-unix --no-pager | grep -m 1 'Accepted publickey'")
        at = float(accepted.split()[0]) - ahead
        return returned - at, error, at - begun
    finally:
        module("domain", state_dir=str(STATE_DIR), run={"id": RUN}, state="absent", clean_run=True)


def run() -> list[dict[str, Any]]:
    results = [once() for _repeat in range(REPEATS)]
    delay = statistics.median(result[0] for result in results)
    error = max(result[1] for result in results)
    boot = statistics.median(result[2] for result in results)
    text = f"{delay:.2f} s ± {error:.2f} s (accepted {boot:.0f} s after the domain was made)"
    return [row("from sshd accepts the login to our wait returns", text, "≤ 0.5 s", delay <= 0.5, results=results)]
