# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The example libvirt-tck for real in a guest, with fewer scripts: by Avocado and by the builtin harness, on a libvirt that works, is
broken, dies and hangs.

The guest is booted once. What is broken is libvirt's configuration, under a real TCK script; what dies and hangs is the real daemon.
"""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from conftest import ENVIRONMENT, ROOT, STATE_DIR, Host

MAYFLY_JOB = ROOT / "build" / "collections" / "ansible_collections" / "mayfly" / "virt" / "extensions" / "bin" / "mayfly_job.py"
EXAMPLE = ROOT / "examples" / "libvirt-tck"
WRAPPER = ["python3", "/usr/local/lib/mayfly/mayfly_libvirt_test.py", "run"]

# Domains that run, storage, one that is not run for a reason, and one that fails.
SELECTION = [
    "domain/050-transient-lifecycle.t",
    "domain/090-invalid-ops-when-inactive.t",
    "domain/103-blockdev-save-restore.t",
    "domain/120-disks-stats.t",
    "domain/240-usb-host-hotplug.t",
    "storage/050-transient-lifecycle.t",
    "storage/100-create-vol-dir.t",
]

BREAK = """\
cp -p /etc/libvirt/qemu.conf /etc/libvirt/qemu.conf.before
echo 'save_image_format = "lzop"' >>/etc/libvirt/qemu.conf
systemctl restart libvirtd.service
"""

MEND = """\
mv /etc/libvirt/qemu.conf.before /etc/libvirt/qemu.conf
systemctl restart libvirtd.service
"""

# All assertions hold, and the daemon is dead.
DIE = """\
echo 1..2
virsh -q -c qemu:///system uri >/dev/null && echo ok 1 - the daemon answers
kill -SEGV "$(cat /run/libvirtd.pid)"
echo ok 2 - nobody looked
"""

# Ends well, and leaves a daemon that will never answer anybody.
HANG = """\
echo 1..1
kill -STOP "$(cat /run/libvirtd.pid)"
echo ok 1 - nobody asked
"""

AFTER = """\
echo 1..1
virsh -q -c qemu:///system list --all >/dev/null && echo ok 1 - the daemon answers again
"""


def job() -> dict[str, Any]:
    """The example's job: its guest, its devices, its known issues and its suites, of which 'tck' has fewer scripts, and the faults."""
    example: dict[str, Any] = yaml.safe_load((EXAMPLE / "job.yml").read_text())
    tck, ported = example["mayfly_suites"]
    assert (tck["name"], tck["harness"], ported["name"]) == ("tck", "avocado", "ported")
    tck = {**tck, "select": SELECTION}
    scripts = {"die": DIE, "hang": HANG, "after": AFTER}
    wrapped = [{"name": name, "argv": [*WRAPPER, "--", "sh", "-c", script], "parser": "tap"} for name, script in scripts.items()]
    return {
        **example,
        "mayfly_known_issues": str(EXAMPLE / "known-issues.yml"),
        "libvirt_under_test_answer_seconds": 4,  # six times that in an emulated guest: a daemon that hangs is waited for more than once
        "mayfly_suites": [
            tck,
            {**tck, "name": "tck-builtin", "harness": "builtin"},
            {**ported, "source": str(EXAMPLE / "avocado")},
            {"name": "break", "parser": "exit_code", "command": BREAK, "deadline": 60},
            {**tck, "name": "broken", "harness": "builtin", "select": ["domain/100-transient-save-restore.t"], "retries": 0},
            {"name": "mend", "parser": "exit_code", "command": MEND, "deadline": 60},
            {"name": "faults", "tests": wrapped, "deadline": 300},
        ],
    }


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of the one run, which must leave the host as it was."""
    directory = tmp_path_factory.mktemp("tck")
    (directory / "job.yml").write_text(json.dumps(job()))  # JSON is YAML
    image = subprocess.run(
        ["ansible-playbook", "mayfly.virt.image", "-e", "@job.yml"],
        env=ENVIRONMENT,
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert image.returncode == 0, image.stdout + image.stderr
    host, watched = Host(), [STATE_DIR / "runs", STATE_DIR / "images" / "tmp"]
    before = host.snapshot(*watched)
    argv = [sys.executable, str(MAYFLY_JOB), "job.yml"]
    done = subprocess.run(argv, env=ENVIRONMENT, cwd=directory, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert host.snapshot(*watched) == before
    return directory / "results" / "latest"


@pytest.fixture(scope="module")
def verdict(results: Path) -> dict[str, Any]:
    return dict(json.loads((results / "verdict.json").read_text()))


def of_suite(verdict: dict[str, Any], name: str) -> dict[str, dict[str, Any]]:
    (suite,) = [suite for suite in verdict["suites"] if suite["name"] == name]
    return {test["name"]: test for test in suite["tests"]}


def test_both_harnesses_say_the_same_of_each_script(verdict: dict[str, Any], results: Path) -> None:
    avocado, builtin = of_suite(verdict, "tck"), of_suite(verdict, "tck-builtin")
    said = {name: test["status"] for name, test in avocado.items()}
    assert said == {name: test["status"] for name, test in builtin.items()}
    assert {name: test["message"] for name, test in avocado.items()} == {name: test["message"] for name, test in builtin.items()}
    assert [said[name] for name in SELECTION] == ["pass", "pass", "pass", "pass", "not_run", "pass", "error"]
    assert "usb_device" in avocado[SELECTION[4]]["message"]
    own = json.loads((results / "suites" / "tck" / "bookworm" / "avocado-results.json").read_text())
    assert [test["status"] for test in own["tests"] if SELECTION[6] in test["name"]] == ["ERROR"]
    assert sum(test["status"] == "PASS" for test in own["tests"]) == 5
    assert (results / "suites" / "tck" / "bookworm" / "avocado-results.html").stat().st_size > 1000


def test_tests_of_libvirt_tck_in_python_pass(verdict: dict[str, Any]) -> None:
    ported = of_suite(verdict, "ported")
    assert {name: test["status"] for name, test in ported.items()} == {"transient_lifecycle": "pass", "volume_lifecycle": "pass"}


def test_a_broken_libvirt_is_named_by_assertion_and_by_its_own_error(verdict: dict[str, Any], results: Path) -> None:
    (test,) = of_suite(verdict, "broken").values()
    assert test["status"] == "error", "it dies of what it finds, so its plan is not kept"
    assert "failed: domain saved" in test["message"]
    why = "Compression program for save image format in configuration file isn't available"
    assert why in test["clue"]["text"]
    assert " error : " in test["clue"]["text"]
    log = (results / test["clue"]["file"]).read_text()
    assert test["clue"]["text"] in log.splitlines()[test["clue"]["line"] - 1]
    assert {"libvirtd.log", "qemu-tck.log", "libvirt.json"} <= {file["name"] for file in test["files"]}
    junit = (results / "junit.xml").read_text()
    (case,) = [case for case in ElementTree.fromstring(junit).iter("testcase") if case.get("name", "").startswith("domain/100")]
    for text in ((results / "summary.txt").read_text(), (results / "report.html").read_text(), ElementTree.tostring(case, "unicode")):
        told = html.unescape(text)
        assert "domain saved" in told
        assert "Compression program for save image format" in told


def test_a_daemon_that_dies_in_a_test_leaves_its_backtrace(verdict: dict[str, Any], results: Path) -> None:
    test = of_suite(verdict, "faults")["die"]
    assert test["status"] == "error"
    assert "libvirtd died by SIGSEGV in this test" in test["message"]
    core = (results / "suites" / "faults" / "bookworm" / test["logs"] / "core-libvirtd.txt").read_text()
    assert "Signal: 11 (SEGV)" in core
    assert "Stack trace of thread" in core
    assert "libvirtd died by SIGSEGV in this test" in (results / "report.html").read_text()
    assert list((results / "guests" / "bookworm" / "coredumps").glob("core.libvirtd.*")), "the core dump itself is evidence of the guest"


def test_a_daemon_that_hangs_is_told_from_a_test_that_fails(verdict: dict[str, Any], results: Path) -> None:
    test = of_suite(verdict, "faults")["hang"]
    assert test["status"] == "daemon_hang"
    assert "libvirtd hangs: it is stopped" in test["message"]
    backtrace = (results / "suites" / "faults" / "bookworm" / test["logs"] / "backtrace-libvirtd.txt").read_text()
    assert len(set(re.findall(r"^Thread (\d+)", backtrace, re.MULTILINE))) > 3, backtrace[:2000]
    assert 'type="daemon_hang"' in (results / "junit.xml").read_text()


def test_the_run_goes_on_with_a_daemon_that_answers(verdict: dict[str, Any]) -> None:
    assert of_suite(verdict, "faults")["after"]["status"] == "pass"
    assert (verdict["verdict"], verdict["exit_code"]) == ("failed", 1)
    assert [guest["console"]["trouble"] for guest in verdict["guests"]] == [[]]


def test_the_verdict_says_which_libvirt_was_tested(verdict: dict[str, Any], results: Path) -> None:
    (guest,) = verdict["guests"]
    libvirt = json.loads((results / "guests" / "bookworm" / "facts.json").read_text())
    assert '"libvirt": "9.0.0"' in json.dumps(libvirt)
    assert "9.0.0" in json.dumps(guest)
