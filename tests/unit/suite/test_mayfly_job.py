# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The job command around ansible-playbook. A shell script stands in for ansible-playbook here, so that it can die at will and say with
what it was called; the real one is in tests/integration/host."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

MAYFLY_JOB = Path(__file__).resolve().parents[3] / "extensions" / "bin" / "mayfly_job.py"

# Keeps its arguments; for ci it does what the test says, in the results directory that it was given.
STAND_IN = """\
#!{python}
import json, pathlib, signal, os, sys, time
calls = pathlib.Path({calls!r})
with calls.open("a") as log:
    log.write(json.dumps(sys.argv[1:]) + "\\n")
options = next(json.loads(word) for word in sys.argv if word.startswith("{{"))
results = pathlib.Path(options["mayfly_results"]) / options["mayfly_run_id"]
if sys.argv[1] == "mayfly.virt.ci":
    results.mkdir(parents=True, exist_ok=True)
    {ci}
def write(code):
    (results / "verdict.json").write_text(json.dumps({{"exit_code": code}}))
def cleaned():
    with (results / "phases.jsonl").open("a") as log:
        log.write(json.dumps({{"phase": "cleanup", "event": "end", "status": "ok", "time": time.time()}}) + "\\n")
if sys.argv[1] == "mayfly.virt.ci":
    {then}
"""


class Job:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "job.yml").write_text("mayfly_guests: []\n")
        (directory / "bin").mkdir()
        self.calls_file = directory / "calls"
        self.environment = {**os.environ, "PATH": f"{directory / 'bin'}:{os.environ['PATH']}"}

    def playbook(self, ci: str = "pass", then: str = "write(0); cleaned()") -> None:
        program = self.directory / "bin" / "ansible-playbook"
        program.write_text(STAND_IN.format(python=sys.executable, calls=str(self.calls_file), ci=ci, then=then))
        program.chmod(0o755)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        argv = [sys.executable, str(MAYFLY_JOB), *arguments, "job.yml"]
        return subprocess.Popen(argv, cwd=self.directory, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def run(self, *arguments: str) -> tuple[int, str]:
        process = self.start(*arguments)
        said, _none = process.communicate(timeout=30)
        return process.returncode, said

    def calls(self) -> list[str]:
        return [json.loads(line)[0] for line in self.calls_file.read_text().splitlines()] if self.calls_file.exists() else []


@pytest.fixture
def job(tmp_path: Path) -> Job:
    directory = tmp_path / "with a blank"
    directory.mkdir()
    return Job(directory)


@pytest.mark.parametrize("code", [0, 1, 2])
def test_the_verdict_is_the_exit_status(job: Job, code: int) -> None:
    job.playbook(then=f"write({code}); cleaned(); sys.exit({2 if code else 0})")
    status, said = job.run()
    assert status == code, said
    assert job.calls() == ["mayfly.virt.ci"]
    assert (job.directory / "results" / "latest" / "verdict.json").exists(), "though there is a blank in the path"


def test_no_verdict_is_broken(job: Job) -> None:
    job.playbook(then="cleaned()")
    status, said = job.run()
    assert status == 2
    assert "There is no verdict" in said


def test_one_that_dies_is_cleaned_up_after(job: Job) -> None:
    job.playbook(then="os.kill(os.getpid(), signal.SIGKILL)")
    status, said = job.run()
    assert status == 2
    assert job.calls() == ["mayfly.virt.ci", "mayfly.virt.cleanup"], said


def test_the_cleanup_of_an_earlier_run_of_that_name_is_not_this_ones(job: Job) -> None:
    job.playbook()
    assert job.run("--run-id", "nightly")[0] == 0
    job.playbook(then="os.kill(os.getpid(), signal.SIGKILL)")
    status, said = job.run("--run-id", "nightly")
    assert status == 2, "the verdict is the earlier one's"
    assert job.calls() == ["mayfly.virt.ci", "mayfly.virt.ci", "mayfly.virt.cleanup"], said


def test_a_signal_reaches_the_playbook_and_then_comes_the_cleanup(job: Job) -> None:
    job.playbook(ci="pathlib.Path(str(calls) + '.begun').touch(); time.sleep(30)")
    process = job.start()
    limit = time.monotonic() + 20
    while not Path(f"{job.calls_file}.begun").exists():
        assert time.monotonic() < limit
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    said, _none = process.communicate(timeout=20)
    assert process.returncode == 2
    assert job.calls() == ["mayfly.virt.ci", "mayfly.virt.cleanup"], said


def test_no_job_file_starts_nothing(job: Job) -> None:
    job.playbook()
    (job.directory / "job.yml").unlink()
    status, said = job.run()
    assert (status, job.calls()) == (2, [])
    assert "there is no such file" in said
