# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole jobs with a real Debian guest: what the verdict says, and that nothing stays whatever is killed when."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from conftest import ENVIRONMENT, IMAGE, ROOT, STATE_DIR, Host, Module, Playbook

MAYFLY_JOB = ROOT / "build" / "collections" / "ansible_collections" / "mayfly" / "virt" / "extensions" / "bin" / "mayfly_job.py"

SLOW = """\
echo 1..2
echo ok 1 - it begins
sleep 600
echo ok 2 - it ends
"""


@pytest.fixture
def clean(host: Host, image: dict[str, Any]) -> Iterator[Callable[[], None]]:
    """Ensure that domains, leases, disks, directories, cards and mounts are as before, when asked and at the end."""
    directories = [STATE_DIR / "runs", STATE_DIR / "images" / "tmp"]
    before = host.snapshot(*directories)

    def check() -> None:
        assert host.snapshot(*directories) == before

    yield check
    check()


@pytest.fixture
def module() -> Module:
    return Module({"state_dir": str(STATE_DIR)})


def job(directory: Path, script: str, **extra: Any) -> Path:
    """Write a job of one guest and one suite; JSON is YAML."""
    suite = directory / "suite"
    suite.mkdir()
    (suite / "run.sh").write_text(script)
    content = {
        "mayfly_job": "test",
        "mayfly_guests": [{"name": "one", "image": IMAGE, "vcpus": 2}],
        "mayfly_suites": [{"name": "smoke", "parser": "tap", "source": "suite", "command": "sh ./run.sh", "deadline": 300}],
        **extra,
    }
    path = directory / "job.yml"
    path.write_text(json.dumps(content))
    return path


def run_job(directory: Path, path: Path) -> tuple[int, str, Path]:
    """Run a job as `make run` does; return exit status, output and results directory."""
    argv = [sys.executable, str(MAYFLY_JOB), str(path)]
    done = subprocess.run(argv, env=ENVIRONMENT, cwd=directory, capture_output=True, text=True, timeout=900, check=False)
    return done.returncode, done.stdout + done.stderr, directory / "results" / "latest"


def make_run(*words: str) -> tuple[int, str, Path]:
    """Type `make run`; return exit status, output and results directory."""
    environment = {name: value for name, value in ENVIRONMENT.items() if not name.startswith("MAKE")}  # of the make that runs the tests
    argv = ["make", "-C", str(ROOT), "run", *words]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=900, check=False)
    return done.returncode, done.stdout + done.stderr, ROOT / "results" / "latest"


def test_make_run_passes_and_reuses_the_image(clean: Callable[[], None]) -> None:
    """The example job from the installed artefact. That its image was built before, the fixtures see to."""
    status, said, results = make_run()
    assert status == 0, said
    assert f"image {IMAGE}: reused" in said
    assert re.search(r"^ +\d+:\d\d    guest bookworm: ready after ", said, re.MULTILINE), said
    assert re.search(r"^PASSED  .* 18 of 18 tests passed", said, re.MULTILINE), said
    verdict = json.loads((results / "verdict.json").read_text())
    assert (verdict["verdict"], verdict["exit_code"], verdict["run_id"]) == ("passed", 0, results.resolve().name)
    cases = list(ElementTree.parse(results / "junit.xml").iter("testcase"))
    assert len([case for case in cases if case.get("classname") == "smoke@bookworm"]) == 18
    assert not [case for case in cases if list(case.iter("failure")) or list(case.iter("error")) or list(case.iter("skipped"))]
    assert (results / "summary.txt").read_text() in said
    assert not list((STATE_DIR / "runs").iterdir())
    clean()


def test_a_failing_assertion_is_exit_1_and_named(tmp_path: Path, clean: Callable[[], None]) -> None:
    """The example with another expectation: the verdict of an XDP program is not what the test wants."""
    suite = tmp_path / "suite"
    shutil.copytree(ROOT / "examples" / "ebpf-smoke" / "suite", suite)
    script = (suite / "smoke.py").read_text()
    (suite / "smoke.py").write_text(script.replace("XDP_DROP = 1\n", "XDP_DROP = 2\n"))
    job_file = (ROOT / "examples" / "ebpf-smoke" / "job.yml").read_text()
    (tmp_path / "job.yml").write_text(job_file.replace("source: examples/ebpf-smoke/suite", f"source: {suite}"))
    name = "the pinned program runs: its verdict and its count are right"
    status, said, results = make_run(f"JOB={tmp_path / 'job.yml'}")
    assert status == 1, said
    verdict = json.loads((results / "verdict.json").read_text())
    assert (verdict["verdict"], verdict["exit_code"]) == ("failed", 1)
    summary = (results / "summary.txt").read_text()
    for text in (summary, said):
        assert name in text
        assert "1 of 18 tests failed" in text
        assert "expected: 2" in text
        assert re.search(r"got: +1$", text, re.MULTILINE)
    assert len(summary.splitlines()) <= 40
    assert f"not ok 13 - {name}\n" in (results / "report.html").read_text()
    junit = ElementTree.parse(results / "junit.xml")
    failed = [case for case in junit.iter("testcase") if case.find("failure") is not None]
    assert [case.get("name") for case in failed if case.get("classname") == "smoke@bookworm"] == [name]
    guest = results / "guests" / "bookworm"
    assert "Linux version" in (guest / "console.log").read_text(errors="replace")
    assert (guest / "journal.log").stat().st_size > 1000
    assert "Linux version" in (guest / "dmesg.log").read_text()
    assert "VERSION_CODENAME=bookworm" in (guest / "versions.txt").read_text()
    assert "<domain" in (guest / "domain.xml").read_text()
    clean()


def test_make_run_of_a_job_that_is_not_there_is_exit_2(clean: Callable[[], None]) -> None:
    status, said, _results = make_run("JOB=no/such/job.yml")
    assert status == 2
    assert "Could not read job 'no/such/job.yml'" in said
    clean()


def test_a_guest_that_panics_at_boot_is_exit_2_with_the_reason(tmp_path: Path, clean: Callable[[], None]) -> None:
    path = job(tmp_path, SLOW, mayfly_guests=[{"name": "one", "image": IMAGE, "cmdline": "root=LABEL=nowhere panic=0 rdinit=/nothing"}])
    status, said, results = run_job(tmp_path, path)
    assert status == 2, said
    for text in ((results / "summary.txt").read_text(), said):
        assert "kernel of one panicked: VFS: Unable to mount root fs" in text
    clean()


def test_a_terminated_job_cleans_up_after_itself(tmp_path: Path, host: Host, clean: Callable[[], None]) -> None:
    argv = [sys.executable, str(MAYFLY_JOB), "--run-id", "test-term", str(job(tmp_path, SLOW))]
    with subprocess.Popen(argv, env=ENVIRONMENT, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        wait_for(lambda: "one-test-term" in host.domains(), 120)
        process.send_signal(signal.SIGTERM)
        said, _none = process.communicate(timeout=120)
    assert process.returncode == 2, said
    assert "cleaning up now" in said
    clean()


def wait_for(reached: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


# -- kill -9 in every phase ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tree", [True, False], ids=["tree", "alone"])
def test_kill_while_an_image_is_built(tmp_path: Path, module: Module, clean: Callable[[], None], tree: bool) -> None:
    """Killed with all it started, the build is rubbish at once. When only ansible-playbook is killed, the build goes on, and is left to."""
    # Any package does for a kernel where nothing will boot, and most of them are built in less time.
    recipe = {"suite": "bookworm", "kernel": "hostname", "serial": f"kill-{os.getpid()}-{tree}"}
    path = job(
        tmp_path, SLOW, mayfly_images=[{"name": "kill-test", "recipe": recipe}], mayfly_guests=[{"name": "one", "image": "kill-test"}]
    )
    work = STATE_DIR / "images" / "tmp"
    playbook = Playbook("ci", "-e", f"@{path}", "-e", "mayfly_run_id=test-build", cwd=tmp_path)
    wait_for(lambda: any(work.glob(".work-*/root/usr/bin/dpkg")), 120)
    playbook.kill(tree=tree)
    swept = module("sweep")
    if tree:
        assert [result["name"] for result in swept["results"] if ".work-" in result["name"]], swept
        assert not list(work.glob(".work-*"))
    else:
        wait_for(lambda: not list(work.glob(".work-*")), 180)
        assert module("image", images=[{"name": "kill-test"}], state="absent")["changed"] is True
    module("sweep")
    clean()


@pytest.mark.parametrize("tree", [True, False], ids=["tree", "alone"])
def test_kill_while_guests_are_made_and_boot(tmp_path: Path, module: Module, host: Host, clean: Callable[[], None], tree: bool) -> None:
    """No deadline has passed: sweep sees that the process is gone that the run belonged to."""
    playbook = Playbook("ci", "-e", f"@{job(tmp_path, SLOW)}", "-e", "mayfly_run_id=test-boot", cwd=tmp_path)
    # Alone: as early as can be, while the module is still at making the guest. It must not finish that behind sweep's back.
    early = STATE_DIR / "runs" / "test-boot" / "run.json"
    wait_for(lambda: early.exists() if not tree else "one-test-boot" in host.domains(), 120)
    assert module("sweep")["changed"] is False, "its owner lives"
    playbook.kill(tree=tree)
    swept = module("sweep")
    assert [result["reason"] for result in swept["results"]] == [f"its owner process {playbook.process.pid} is gone"]
    assert module("sweep")["changed"] is False
    clean()


SECRET = "hunter2-of-the-job"
TELLING = f"""\
echo 1..2
echo "BUG: scheduling while $API_TOKEN" >/dev/kmsg
[ "${{#API_TOKEN}}" = {len(SECRET)} ] && echo "ok 1 - it begins"
sleep 600
"""


def told(results: Path) -> dict[str, bytes]:
    return {str(path.relative_to(results)): path.read_bytes() for path in results.rglob("*") if path.is_file()}


def test_kill_in_each_later_phase_of_a_job_run_by_hooks(tmp_path: Path, module: Module, host: Host, clean: Callable[[], None]) -> None:
    """prepare, run, collect and cleanup one by one, as a runner's hooks call them, each killed and gone on from."""
    results = tmp_path / "results" / "test-hooks"
    phases = results / "phases.jsonl"
    run = ("-e", "mayfly_run_id=test-hooks")
    suite = {"name": "smoke", "parser": "tap", "source": "suite", "command": "sh ./run.sh", "environment": {"API_TOKEN": SECRET}}
    secret = ("-e", json.dumps({"mayfly_secrets": [SECRET]}))
    path = job(tmp_path, TELLING, mayfly_suites=[{**suite, "deadline": 300}], mayfly_secrets=[SECRET])
    prepare = Playbook("prepare", "-e", f"@{path}", *run, cwd=tmp_path)
    assert prepare.wait() == 0, prepare.output()
    again = Playbook("prepare", "-e", f"@{tmp_path / 'job.yml'}", *run, cwd=tmp_path)
    assert again.wait() == 0, again.output()
    assert "changed=1 " in again.output(), "only job.json is written anew"
    check_wrong_key(module)

    running = Playbook("run", *run, *secret, cwd=tmp_path)
    running.await_line(results / "suites" / "smoke" / "one" / "events.jsonl", "it begins", 120)
    running.kill(tree=True)
    assert host.domains() >= {"one-test-hooks"}
    assert module("sweep")["changed"] is False, "hooks have no owner process: the deadline counts"

    collecting = Playbook("collect", *run, *secret, cwd=tmp_path)
    collecting.await_line(phases, '"phase": "collect", "event": "start"', 60)
    collecting.kill(tree=True)
    collected = Playbook("collect", *run, *secret, cwd=tmp_path)
    assert collected.wait() == 0, collected.output()
    verdict = json.loads((results / "verdict.json").read_text())
    assert verdict["exit_code"] == 2
    assert any("no suite_end" in reason for reason in verdict["reasons"]), verdict["reasons"]
    assert b"BUG: scheduling while [scrubbed: job secret]" in told(results)["watch.jsonl"]
    assert b"[mayfly_secrets 1.1]" in told(results)["job.json"]
    assert [name for name, text in told(results).items() if SECRET.encode() in text] == []

    cleaning = Playbook("cleanup", *run, cwd=tmp_path)
    cleaning.await_line(phases, '"phase": "cleanup", "event": "start"', 60)
    cleaning.kill(tree=True)
    swept = module("sweep", runs=["test-hooks"])
    assert all(not result["error"] for result in swept["results"])
    clean()
    twice = Playbook("cleanup", *run, cwd=tmp_path)
    assert twice.wait() == 0, "cleanup of nothing is quiet"


def check_wrong_key(module: Module) -> None:
    """A guest that rejects the key, or shows another host key, is told apart from one that does not answer."""
    directory = STATE_DIR / "runs" / "test-hooks"
    key = directory / "id_ed25519"
    known = directory / "known_hosts"
    kept = {path: path.read_bytes() for path in (key, known)}
    wanted = {"name": "one-test-hooks", "guest": "one", "image": IMAGE, "vcpus": 2, "interfaces": [{"network": "mayfly"}]}
    wanted["image"] = f"{IMAGE}@sha256:{module('image_info', names=[IMAGE])['results'][0]['digest']}"
    wanted["seed"] = {"ca_certificates": []}
    assert module("domain", run={"id": "test-hooks"}, domains=[wanted], wait="ssh")["changed"] is False
    for path, expected in ((key, "rejects the run's key"), (known, "its host key is not the one made for this guest")):
        other = directory / "other"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)], check=True)
        public = " ".join((directory / "other.pub").read_text().split()[:2])
        path.write_bytes(other.read_bytes() if path == key else f"one-test-hooks {public}\n".encode())
        answer = module("domain", run={"id": "test-hooks"}, domains=[wanted], wait="ssh", wait_timeout=60, fails=True)
        path.write_bytes(kept[path])
        for made in (other, directory / "other.pub"):
            made.unlink()
        assert "did not reach the stage 'ssh'" in answer["msg"]
        assert expected in answer["msg"]
