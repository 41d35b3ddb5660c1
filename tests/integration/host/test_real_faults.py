# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real guests whose suites end with 0 while something is wrong, and one in which all only looks wrong: what the verdict says.

The corpus (tests/corpus) has the same on paper. Here the kernel, the network and the clock are real.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from conftest import ENVIRONMENT, IMAGE, ROOT, STATE_DIR, Host

MAYFLY_JOB = ROOT / "build" / "collections" / "ansible_collections" / "mayfly" / "virt" / "extensions" / "bin" / "mayfly_job.py"
CRASH = "examples/kernel-crash/job.yml"

# A task that writes to a frozen file system hangs in the kernel, which says so when it has waited for twice the time given.
HUNG = """\
echo 1..2
sysctl -qw kernel.hung_task_timeout_secs=2 && echo ok 1 - the kernel looks every two seconds
modprobe loop
truncate -s 16M disk
mkfs.ext4 -q disk
mkdir -p frozen
mount -o loop disk frozen
fsfreeze -f frozen
touch frozen/never &
tries=0
until dmesg | grep -q 'task touch:.* blocked for more than' || [ $tries = 120 ]; do sleep 1; tries=$((tries + 1)); done
fsfreeze -u frozen
wait
umount frozen
[ $tries -lt 120 ] && echo ok 2 - what hung goes on
"""

# What a module of ours lets happen in the kernel. Who asks for a bug or an oops dies of it, and nobody else.
FAULTS = """\
echo 1..5
insmod ./mayfly_faults.ko && echo ok 1 - the module is there
sysctl -qw kernel.watchdog_thresh=1
number=1
for fault in warn bug oops lockup; do
    number=$((number + 1))
    sh -c "echo $fault >/proc/mayfly_faults"
    echo ok $number - $fault
done
sysctl -qw kernel.watchdog_thresh=10
true
"""

# All that is said here looks like a dying kernel, and none of it is the kernel's.
LOUD = """\
echo 1..2
echo 'one login: smoke: Oops: wrong file' >/dev/console
logger -t ring 'BUG: the list is not sorted'
echo '[   41.000000] Kernel panic - not syncing: not me'
python3 -c 'import ctypes; ctypes.string_at(0)'
[ $? = 139 ] && echo ok 1 - a program dies of a segmentation fault
echo 'not ok 2 - this went to standard error' >&2
echo ok 2 - so it is no result
true
"""

# A process dies and leaves its core, which is kept with where it was. The suite has no word against it.
CORES = """\
echo 1..2
dpkg -i ./systemd-coredump_*.deb >&2 && echo ok 1 - somebody takes the core dumps
ulimit -c unlimited
sh -c 'kill -SEGV $$' &
victim=$!
wait $victim
tries=0
until coredumpctl --no-legend --quiet list $victim >&2 || [ $tries = 60 ]; do sleep 1; tries=$((tries + 1)); done
[ $tries -lt 60 ] && echo ok 2 - one was taken
"""

# The deadline is 2 seconds, twelve where the guest is emulated; by the guest's clock it is a day away.
CLOCK = """\
echo 1..2
date -s '1 day ago' >/dev/null && echo ok 1 - the clock goes back
exec sleep 600
"""

# The pause is for the controller to see that all is ok.
POWER_OFF = """\
echo 1..2
echo ok 1 - it begins
echo ok 2 - it ends
sleep 15
poweroff -f
"""

# Nobody listens and nobody answers any more; the suite goes on and ends well, which nobody can see.
MUTE = """\
echo 1..2
echo ok 1 - it begins
echo ok 2 - it ends
sleep 15
systemctl stop ssh.service
for pid in $(pgrep sshd); do kill -9 "$pid"; done
"""

# The same for some seconds only.
BACK = """\
echo 1..2
echo ok 1 - it begins
systemctl stop ssh.service
for pid in $(pgrep sshd); do kill -9 "$pid"; done
sleep 8
systemctl start ssh.service
echo ok 2 - it ends
"""


@pytest.fixture
def clean(host: Host, image: dict[str, Any]) -> Iterator[None]:
    """Ensure that domains, leases, disks, directories, cards and mounts are as before."""
    directories = [STATE_DIR / "runs", STATE_DIR / "images" / "tmp"]
    before = host.snapshot(*directories)
    yield
    assert host.snapshot(*directories) == before


def suite(name: str, guest: str, script: str, deadline: int = 60, **more: Any) -> dict[str, Any]:
    return {"name": name, "guests": [guest], "parser": "tap", "command": script, "deadline": deadline, **more}


def run_job(directory: Path, guests: list[str], suites: list[dict[str, Any]], **more: Any) -> tuple[int, str, dict[str, Any]]:
    """Run a job as `make run` does; return exit status, output and verdict."""
    job = {"mayfly_job": "faults", "mayfly_guests": [{"name": guest, "image": IMAGE} for guest in guests], "mayfly_suites": suites, **more}
    (directory / "job.yml").write_text(json.dumps(job))  # JSON is YAML
    argv = [sys.executable, str(MAYFLY_JOB), "job.yml"]
    done = subprocess.run(argv, env=ENVIRONMENT, cwd=directory, capture_output=True, text=True, timeout=900, check=False)
    said = done.stdout + done.stderr
    results = directory / "results" / "latest"
    assert (results / "verdict.json").exists(), said
    return done.returncode, said, json.loads((results / "verdict.json").read_text())


def statuses(verdict: dict[str, Any]) -> dict[str, str]:
    return {suite["name"]: suite["status"] for suite in verdict["suites"]}


def test_what_the_kernel_complains_of_is_red_and_noise_is_not(tmp_path: Path, clean: None, guest_files: Path) -> None:
    """Two guests: in one the kernel complains while its suites pass, in the other everything else does, and its clock goes back."""
    suites = [
        suite("hung", "sick", HUNG, 120),
        suite("faults", "sick", FAULTS, source=str(guest_files)),
        suite("loud", "well", LOUD),
        suite("cores", "well", CORES, source=str(guest_files)),
        suite("clock", "well", CLOCK, 2),
    ]
    begun = time.monotonic()
    status, said, verdict = run_job(tmp_path, ["sick", "well"], suites)
    assert status == 1, said
    assert time.monotonic() - begun < 500
    assert statuses(verdict) == {"hung": "passed", "faults": "passed", "loud": "passed", "cores": "passed", "clock": "timeout"}
    trouble = {guest["name"]: guest["console"]["trouble"] for guest in verdict["guests"]}
    found = [(each["kind"], each["text"]) for each in trouble["sick"]]
    for kind, text in (
        ("hung_task", r"INFO: task touch:\d+ blocked for more than \d+ seconds"),
        ("warning", r"WARNING: CPU: \d+ PID: \d+ at .*mayfly_faults\.c:\d+ mayfly_fault_warn\b"),
        ("bug", r"kernel BUG at .*mayfly_faults\.c:\d+!"),
        ("bug", r"BUG: kernel NULL pointer dereference"),
        ("lockup", r"soft lockup - CPU#\d+ stuck for \d+s"),
    ):
        assert any(each == kind and re.search(text, line) for each, line in found), (kind, text, found)
    assert not any(each["fatal"] for each in trouble["sick"])
    warning = next(each for each in trouble["sick"] if each["kind"] == "warning")
    assert warning["frames"][0] == "mayfly_fault_warn"
    assert trouble["well"] == []
    assert any(reason.startswith("kernel of sick: ") for reason in verdict["reasons"])
    assert any(reason.startswith("clock@well: stopped at its deadline") for reason in verdict["reasons"])
    assert len(verdict["reasons"]) == 2, verdict["reasons"]

    results = tmp_path / "results" / "latest"
    watched = [json.loads(line) for line in (results / "watch.jsonl").read_text().splitlines()]
    seen = {event["kind"] for event in watched if event["event"] == "kernel" and event["guest"] == "sick"}
    assert seen >= {"hung_task", "warning", "bug", "lockup"}, "and the watcher saw them as they came"
    check_core_dump(results / "guests" / "well")


def check_core_dump(evidence: Path) -> None:
    """Who died, of what, and where; and the core dump itself, as systemd-coredump packed it."""
    told = (evidence / "coredumps.txt").read_text()
    assert re.search(r"Signal: 11 \(SEGV\)", told), told
    assert re.search(r"Executable: \S+/dash$", told, re.MULTILINE), told
    assert re.search(r"#0 .* \w*kill \(libc\.so\.6", told), told
    core = next((evidence / "coredumps").iterdir())
    assert core.name.startswith("core.sh.")
    assert core.read_bytes()[:4] == b"\x28\xb5\x2f\xfd", "Zstandard"


def test_a_guest_that_is_gone_or_mute_has_not_passed(tmp_path: Path, clean: None) -> None:
    """Two guests: one powers itself off after its last ok, the other loses its sshd, for a while and then for good."""
    suites = [suite("off", "dark", POWER_OFF), suite("back", "far", BACK), suite("mute", "far", MUTE)]
    # More than it takes to come back, and half of the default. The memory of a guest that hangs is what other tests are about.
    status, said, verdict = run_job(tmp_path, ["dark", "far"], suites, suite_lost_after=30, mayfly_memory_dump="never")
    assert status == 2, said
    assert statuses(verdict) == {"off": "error", "back": "passed", "mute": "error"}
    for gone in (suite for suite in verdict["suites"] if suite["name"] != "back"):
        assert [test["status"] for test in gone["tests"]] == ["pass", "pass"], "all that was seen is ok"
    assert any(reason.startswith("off@dark: no suite_end") for reason in verdict["reasons"]), verdict["reasons"]
    assert any(reason.startswith("mute@far: no suite_end") for reason in verdict["reasons"]), verdict["reasons"]
    assert "guest lost" in said
    # A power-off is no death of a kernel: it explains nothing.
    assert [guest["console"]["trouble"] for guest in verdict["guests"]] == [[], []]


def test_the_example_of_a_crash_is_red_everywhere(clean: None) -> None:
    environment = {name: value for name, value in ENVIRONMENT.items() if not name.startswith("MAKE")}  # of the make that runs the tests
    argv = ["make", "-C", str(ROOT), "run", f"JOB={CRASH}"]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=900, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    results = ROOT / "results" / "latest"
    # The watcher ended the suites: ssh alone would have waited a minute for the dead guest.
    watched = [json.loads(line) for line in (results / "watch.jsonl").read_text().splitlines()]
    panic = next(event for event in watched if event["event"] == "kernel" and event["fatal"])
    phases = [json.loads(line) for line in (results / "phases.jsonl").read_text().splitlines()]
    ended = next(line["time"] for line in phases if (line["phase"], line["event"], line.get("guest")) == ("run", "end", "bookworm"))
    assert ended - panic["time"] < 30
    assert watched[-1]["event"] == "watch_end"
    died = "kernel of bookworm panicked: sysrq triggered crash"
    for text in (said, (results / "summary.txt").read_text(), (results / "report.html").read_text()):
        assert died in text
    verdict = json.loads((results / "verdict.json").read_text())
    assert (verdict["verdict"], verdict["exit_code"]) == ("failed", 1)
    assert verdict["reasons"][0].startswith(died)
    assert statuses(verdict) == {"before": "passed", "crash": "error", "after": "error"}
    tests = [test["status"] for test in verdict["suites"][1]["tests"]]
    assert (tests[:2], tests[3:]) == (["pass", "pass"], ["not_run", "not_run"])  # the third ends as the kernel does
    junit = ElementTree.parse(results / "junit.xml")
    assert any(died in (found.get("message") or "") + (found.text or "") for kind in ("failure", "error") for found in junit.iter(kind))
    console = (results / "guests" / "bookworm" / "console.log").read_text(errors="replace")
    assert "Kernel panic - not syncing: sysrq triggered crash" in console
    assert "sysrq_handle_crash" in console
