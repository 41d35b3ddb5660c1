# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A hypervisor that is reached over ssh: this machine, behind an sshd on a loopback port, and a controller whose home is empty."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ENVIRONMENT, IMAGE, STATE_DIR, Host, Module
from loopback import Sshd

SUITE = """\
echo 1..1
echo ok 1 - this is $(hostname)
"""
RUN = "test-remote"


class Controller:
    """Someone with a home of their own, in whose ~/.ssh/config the hypervisor stands as lab1."""

    def __init__(self, directory: Path, sshd: Sshd) -> None:
        self.directory = directory
        self.home = directory / "home"
        (self.home / ".ssh").mkdir(parents=True, mode=0o700)
        settings = {
            "HostName": "127.0.0.1",
            "Port": sshd.port,
            "User": "root",
            "IdentityFile": sshd.directory / "client",
            "UserKnownHostsFile": sshd.directory / "known_hosts",
            "StrictHostKeyChecking": "yes",
        }
        (self.home / ".ssh" / "config").write_text("Host lab1\n" + "".join(f"  {key} {value}\n" for key, value in settings.items()))
        (directory / "lab.yml").write_text("all: {hosts: {lab1: {ansible_python_interpreter: /usr/bin/python3}}}\n")
        (directory / "mayfly.yml").write_text("plugin: mayfly.virt.guests\nuris: ['qemu+ssh://lab1/system']\n")
        # ssh asks the system where home is, and for nothing else.
        accounts = Path("/etc/passwd").read_text().splitlines()
        fields = next(line for line in accounts if line.startswith("root:")).split(":")
        mine = ":".join([*fields[:5], str(self.home), *fields[6:]])
        (directory / "accounts").write_text("\n".join([mine, *(line for line in accounts if not line.startswith("root:"))]) + "\n")

    def __call__(self, *argv: str) -> tuple[int, str]:
        command = f"mount --bind {shlex.quote(str(self.directory / 'accounts'))} /etc/passwd && exec {shlex.join(argv)}"
        environment = {**ENVIRONMENT, "HOME": str(self.home), "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.directory / "cp")}
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", command],
            env=environment,
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def play(self, name: str, *arguments: str) -> str:
        common = ["-e", "mayfly_hypervisor=lab1", "-e", f"mayfly_run_id={RUN}"]
        status, said = self("ansible-playbook", "-i", "lab.yml", f"mayfly.virt.{name}", *common, *arguments)
        assert status == 0, said
        return said


@pytest.fixture
def controller() -> Iterator[Controller]:
    with tempfile.TemporaryDirectory(prefix="mfr-") as name:  # short: control sockets allow only a hundred characters
        directory = Path(name).resolve()
        (directory / "sshd").mkdir()
        server = Sshd(directory / "sshd")
        yield Controller(directory, server)
        server.stop()


@pytest.fixture
def clean(host: Host, image: dict[str, Any]) -> Iterator[None]:
    before = host.snapshot(STATE_DIR / "runs")
    yield
    try:
        assert host.snapshot(STATE_DIR / "runs") == before
    finally:  # a test that failed is not to disturb the next one
        Module({"state_dir": str(STATE_DIR)})("sweep", runs=[RUN])


def test_a_job_on_a_remote_hypervisor(controller: Controller, clean: None) -> None:
    """The four phases one by one; between them, the inventory names the guest and the jump to it, and a task of the user's own runs."""
    suite = controller.directory / "suite"
    suite.mkdir()
    (suite / "run.sh").write_text(SUITE)
    content = {
        "mayfly_job": "remote",
        "mayfly_guests": [{"name": "one", "image": IMAGE, "vcpus": 2}],
        "mayfly_suites": [{"name": "smoke", "parser": "tap", "source": str(suite), "command": "sh ./run.sh", "deadline": 60}],
    }
    (controller.directory / "job.yml").write_text(json.dumps(content))
    controller.play("prepare", "-e", "@job.yml")

    access = controller.home / ".cache" / "mayfly" / "access" / RUN
    assert (access / "id_ed25519").stat().st_mode & 0o777 == 0o600
    status, listed = controller("ansible-inventory", "-i", "mayfly.yml", "--list")
    assert status == 0, listed
    hosts = json.loads(listed, object_hook=lambda found: found.get("__ansible_unsafe", found))["_meta"]["hostvars"]
    variables = hosts[f"one-{RUN}"]
    assert "ProxyJump=lab1" in variables["ansible_ssh_common_args"]
    assert variables["ansible_host"] == variables["mayfly_addresses"][0], "names of another machine's guests mean nothing here"
    assert variables["ansible_ssh_private_key_file"] == str(access / "id_ed25519")
    status, said = controller("ansible", "-i", "mayfly.yml", f"one-{RUN}", "-m", "ansible.builtin.command", "-a", "hostname")
    assert (status, said.splitlines()[-1]) == (0, f"one-{RUN}"), said

    controller.play("run")
    controller.play("collect")
    results = controller.directory / "results" / RUN
    verdict = json.loads((results / "verdict.json").read_text())
    assert (verdict["verdict"], verdict["exit_code"]) == ("passed", 0), verdict["reasons"]
    assert [test["name"] for test in verdict["suites"][0]["tests"]] == [f"this is one-{RUN}"]
    assert "Linux version" in (results / "guests" / "one" / "console.log").read_text(errors="replace")
    assert "Linux version" in (results / "guests" / "one" / "dmesg.log").read_text()

    # What was run stays as it is; whatever goes on is watched again, for collect has ended the watch.
    again = ("-e", "mayfly_hypervisor=lab1", "-e", f"mayfly_run_id={RUN}")
    status, said = controller("ansible-playbook", "-i", "lab.yml", "mayfly.virt.run", *again)
    assert status == 2
    assert "has a result already" in said
    watched = [json.loads(line)["event"] for line in (STATE_DIR / "runs" / RUN / "watch.jsonl").read_text().splitlines()]
    assert watched.count("watch_start") == 2
    assert "watch_start" in watched[watched.index("watch_end") :]
    assert watched[-1] != "watch_end"
    controller.play("cleanup")
    assert not access.exists(), "keys of a run that is gone"
    assert not os.listdir(access.parent)
