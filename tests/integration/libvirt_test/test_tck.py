# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian's libvirt-tck: its scripts as a list of tests, and some of them run under the wrapper."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from libvirt_test.private import SCRATCH, TCK_CONFIG, Watched, seed_tck

NEEDS = [
    {"tests": "domain/103-*", "needs": ["block_device"], "reason": "saves to a disk"},
    {"tests": "domain/240-*", "needs": ["usb_device", "command:no-such-command"]},
    {"tests": "storage/050-*", "needs": ["command:sh", "monolithic_libvirtd"], "deadline": 5},
]


class Listed:
    def __init__(self, watched: Watched, settings: dict[str, Any]) -> None:
        self.watched = watched
        self.settings = settings
        watched.configure(**settings)
        (watched.directory / "needs.json").write_text(json.dumps(NEEDS))

    def run(self) -> tuple[int, str, str]:
        needs = self.watched.directory / "needs.json"
        done = self.watched.libvirt.wrapper("list", "--config", str(self.watched.config), "--needs", str(needs))
        return done.returncode, done.stdout, done.stderr

    def refusal(self, **changes: Any) -> str:
        """What it says when it cannot list them; nothing else may be printed."""
        self.watched.configure(**{**self.settings, **changes})
        status, out, err = self.run()
        assert (status, out) == (2, "")
        return err


@pytest.fixture
def listed(watched: Watched, tmp_path: Path) -> Listed:
    (tmp_path / "kernel").write_text("not booted here")
    return Listed(watched, seed_tck(watched.libvirt, tmp_path / "kernel", tmp_path / "kernel"))


def test_the_scripts_as_tests(listed: Listed) -> None:
    status, out, err = listed.run()
    assert status == 0, err
    entries = {entry["name"]: entry for entry in json.loads(out)}
    assert len(entries) == 60
    assert entries["domain/103-blockdev-save-restore.t"]["not_run"] == (
        "needs block_device: host_block_devices of its configuration lists 1, at least 2 are used (saves to a disk)"
    )
    assert entries["domain/240-usb-host-hotplug.t"]["not_run"] == (
        "needs usb_device: host_usb_devices of its configuration lists 0, at least 1 are used; "
        "needs command:no-such-command: there is no command 'no-such-command'"
    )
    lifecycle = entries["storage/050-transient-lifecycle.t"]
    assert set(lifecycle) == {"name", "command", "parser", "deadline"}
    assert (lifecycle["parser"], lifecycle["deadline"]) == ("tap", 185)
    tck = listed.settings["tck"]
    script = f"{tck['tests']}/storage/050-transient-lifecycle.t"
    words = ["run", "--config", str(listed.watched.config), "--deadline", "5", "--name", "storage/050-transient-lifecycle.t", "--"]
    assert lifecycle["command"][4:] == [*words, "perl", f"-I{tck['perl_lib'][0]}", script]
    assert entries["networks/100-apply-verify-host.t"]["command"][-2:] == ["/bin/sh", f"{tck['tests']}/networks/100-apply-verify-host.t"]


def test_scripts_run_for_real_and_a_failing_one_has_its_reason(listed: Listed) -> None:
    _status, out, _err = listed.run()
    commands = {entry["name"]: entry["command"] for entry in json.loads(out)}
    results = {}
    for name in ("storage/050-transient-lifecycle.t", "storage/100-create-vol-dir.t"):
        kept = listed.watched.directory / name.replace("/", "-")
        kept.mkdir()
        results[name] = listed.watched.libvirt.run(*commands[name], environment={"MAYFLY_TEST_DIR": str(kept)}, check=False)
    good = results["storage/050-transient-lifecycle.t"]
    assert (good.returncode, good.stdout.splitlines()[0]) == (0, "1..6" if "1..6" in good.stdout else good.stdout.splitlines()[0]), (
        good.stderr
    )
    bad = results["storage/100-create-vol-dir.t"]
    assert bad.returncode == 2
    assert "not ok 14 - create cow volume" in bad.stdout
    log = (listed.watched.directory / "storage-100-create-vol-dir.t" / "libvirtd.log").read_text()
    assert [line for line in log.splitlines() if ": error : " in line and "cow" in line]


def test_refusals(listed: Listed) -> None:
    libvirt, tck = listed.watched.libvirt, listed.settings["tck"]
    assert "refusing to test 'qemu+tls://elsewhere/system'" in listed.refusal(uri="qemu+tls://elsewhere/system")
    assert "there are no scripts of libvirt-TCK (*.t) below '/srv'" in listed.refusal(tck={**tck, "tests": "/srv"})
    assert "Perl modules are missing: Sys::Virt::TCK" in listed.refusal(tck={**tck, "perl_lib": []})
    assert "is configured for the scratch directory" in listed.refusal(scratch="/srv")
    libvirt.write("/run/tck.conf", TCK_CONFIG.replace("qemu:///system", "qemu+ssh://elsewhere/system"))
    assert "libvirt-TCK is configured for 'qemu+ssh://elsewhere/system', not 'qemu:///system'" in listed.refusal()
    libvirt.write("/run/tck.conf", TCK_CONFIG)
    libvirt.run("sh", "-c", f"rm {SCRATCH}/os-*/initrd")
    assert "/initrd', and libvirt-TCK would download it from 'http://nowhere.invalid/initrd.img'; put it there first" in listed.refusal()
    libvirt.run("sh", "-c", f"mount -t tmpfs -o size=64m tmpfs {SCRATCH}")
    assert "MiB are free, libvirt-TCK needs 1024" in listed.refusal()
    libvirt.run("umount", SCRATCH)
    (listed.watched.directory / "needs.json").write_text('[{"tests": "domain/*", "needs": ["a_miracle"]}]')
    assert "has in entry 0 an unknown need 'a_miracle'; known are nested_kvm, " in listed.refusal()


def test_check_says_what_answers(watched: Watched) -> None:
    done = watched.libvirt.wrapper("check", "--config", str(watched.config))
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["uri"], said["daemons"]) == ("qemu:///system", {"libvirtd": watched.libvirt.pid()})
    assert set(said["versions"]) == {"libvirt", "QEMU"}


def test_check_refuses_a_stranger_on_the_socket(watched: Watched) -> None:
    watched.libvirt.run("mv", "/run/libvirt/libvirt-sock", "/run/libvirt/kept")
    listen = "import socket, time; s = socket.socket(socket.AF_UNIX); s.bind('/run/libvirt/libvirt-sock'); s.listen(); time.sleep(300)"
    stranger = watched.libvirt.popen("/usr/bin/python3", "-c", listen)
    try:
        done = watched.libvirt.wrapper("check", "--config", str(watched.config), "--wait", "1")
        assert done.returncode == 2
        assert "python3 of user 0 listens on '/run/libvirt/libvirt-sock', not the guest's own daemon" in done.stderr
    finally:
        stranger.kill()
        stranger.wait()
        watched.libvirt.run("mv", "/run/libvirt/kept", "/run/libvirt/libvirt-sock")
