# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run one job file: the playbook mayfly.virt.ci, an exit status that means something, and cleanup whatever happens to it.

    python3 mayfly_job.py [--results DIR] [--run-id ID] JOB [argument of ansible-playbook ...]

Exit status: 0 passed, 1 the tests say no, 2 the infrastructure failed or no verdict could be had.

ansible-playbook ends with 2 whenever a host failed; what happened stands in verdict.json. When ansible-playbook is ended by
a signal, its plays do not come to their end: the playbook mayfly.virt.cleanup is then run for it. Against kill -9 of this
program nothing helps but mayfly.virt.sweep.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import secrets
import signal
import subprocess
import sys
import traceback
import typing as t
from pathlib import Path

PASSED, FAILED, BROKEN = 0, 1, 2

# What a person wants to see; each may be set otherwise in the environment.
DEFAULTS = {
    "ANSIBLE_STDOUT_CALLBACK": "mayfly.virt.progress",
    "ANSIBLE_LOCALHOST_WARNING": "false",
    "ANSIBLE_INVENTORY_UNPARSED_WARNING": "false",
    "ANSIBLE_HOST_PATTERN_MISMATCH": "ignore",
    "ANSIBLE_RETRY_FILES_ENABLED": "false",
    "ANSIBLE_NOCOWS": "true",
    "PYTHONUNBUFFERED": "1",  # Ansible does not flush: in a CI's log, tests would not be seen as they end
}


def new_run_id() -> str:
    now = datetime.datetime.now(datetime.timezone.utc)
    return f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def playbook(name: str, arguments: list[str]) -> subprocess.Popen[bytes]:
    """Start a playbook of the collection in a process group of its own, so that signals reach it once and through us."""
    environment = {**DEFAULTS, **os.environ}
    return subprocess.Popen(["ansible-playbook", f"mayfly.virt.{name}", *arguments], env=environment, start_new_session=True)


class Playbooks:
    """Runs one playbook after the other; what is meant to end us is passed on to the one that runs."""

    def __init__(self) -> None:
        self._running: subprocess.Popen[bytes] | None = None
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._pass_on)

    def run(self, name: str, arguments: list[str]) -> int:
        self._running = playbook(name, arguments)
        return self._running.wait()

    def _pass_on(self, number: int, _frame: t.Any) -> None:
        if self._running and self._running.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.killpg(self._running.pid, number)


def cleaned(results: Path, since: float) -> bool:
    """Tell whether the run's cleanup has come to a good end since then."""
    try:
        lines = (results / "phases.jsonl").read_text(encoding="utf-8").splitlines()
        phases = [json.loads(line) for line in lines]
    except (FileNotFoundError, ValueError):  # a torn line is a sign of no good end
        return False
    ended = [line for line in phases if line["time"] >= since]
    return any((line["phase"], line["event"], line.get("status")) == ("cleanup", "end", "ok") for line in ended)


def read_verdict(results: Path, since: float) -> dict[str, t.Any] | None:
    """Return the verdict, unless there is none or it is older than this run."""
    path = results / "verdict.json"
    if not path.exists() or path.stat().st_mtime < since:
        return None
    return t.cast("dict[str, t.Any]", json.loads(path.read_text(encoding="utf-8")))


def point_latest(results: Path) -> None:
    """Make results/latest mean this run, in one step."""
    fresh = results.parent / f".latest-{os.getpid()}"
    fresh.symlink_to(results.name)
    fresh.replace(results.parent / "latest")


def main() -> int:
    parser = argparse.ArgumentParser(description="Run one Mayfly job.", epilog="Further arguments go to ansible-playbook.")
    parser.add_argument("--results", type=Path, default=Path("results"), help="directory for the results of runs (default: results)")
    parser.add_argument("--run-id", default=new_run_id(), help="id of the run (default: made from the time)")
    parser.add_argument("job", type=Path, help="the job file")
    options, extra = parser.parse_known_args()
    if not options.job.is_file():
        print(f"Could not read job '{options.job}': there is no such file.", file=sys.stderr)
        return BROKEN
    results = options.results.absolute() / options.run_id
    run = ["-e", json.dumps({"mayfly_run_id": options.run_id, "mayfly_results": str(results.parent)})]
    job = ["-e", f"@{options.job}", *run, *extra]
    since = datetime.datetime.now().timestamp()
    print(f"Job {options.job}, run {options.run_id}", flush=True)
    playbooks = Playbooks()
    ended = playbooks.run("ci", job)
    if results.is_dir():
        point_latest(results)
    if not cleaned(results, since):
        print("The playbook did not come to its cleanup; cleaning up now.", flush=True)
        if playbooks.run("cleanup", job) != 0:
            later = f"""ansible-playbook mayfly.virt.sweep -e '{{"mayfly_runs": ["{options.run_id}"]}}'"""
            print(f"Cleanup failed. Later: {later}", file=sys.stderr)
            return BROKEN
    verdict = read_verdict(results, since)
    if verdict is None:
        print(f"There is no verdict: ansible-playbook ended with status {ended}.", file=sys.stderr)
        return BROKEN
    print(f"Results: {os.path.relpath(results)}/ (also {os.path.relpath(results.parent)}/latest)")
    code = int(verdict["exit_code"])
    if ended != 0 and code == PASSED:
        print(f"The suites passed, but ansible-playbook ended with status {ended}.", file=sys.stderr)
        return BROKEN
    return code


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Exception:  # Python would end with 1, which means that the tests say no
        traceback.print_exc()
        sys.exit(BROKEN)
