# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest that is this machine: over the connection local, and over an sshd of our own on a loopback port."""

from __future__ import annotations

import getpass
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from loopback import Sshd, wait_for

from ansible_collections.mayfly.virt.plugins.plugin_utils import _suites

ROOT = Path(__file__).resolve().parents[3]
Eventually = Callable[..., Any]


class Playbook:
    """A running ansible-playbook whose output can be followed."""

    def __init__(self, command: list[str], environment: dict[str, str], directory: Path) -> None:
        self.process = subprocess.Popen(
            command, cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.lines: list[str] = []

    def until(self, words: str) -> str:
        """Read until a line with these words has come, while the playbook runs."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if words in line:
                return line
        raise AssertionError(f"{words!r} did not come:\n{''.join(self.lines)}")

    def finish(self) -> tuple[int, str]:
        output, _none = self.process.communicate(timeout=60)
        return self.process.returncode, "".join(self.lines) + output


class Site:
    """A directory with playbooks, a 'guest' and a results directory."""

    def __init__(self, directory: Path, connection: dict[str, Any]) -> None:
        self.directory = directory
        self.results = directory / "results" / "run-1"
        self.remote = directory / "remote"
        host = {"ansible_python_interpreter": sys.executable, **connection}
        (directory / "inventory.yml").write_text(yaml.safe_dump({"all": {"hosts": {"bookworm": host}}}))
        (directory / "ansible.cfg").write_text("")  # not the one of whoever runs the tests
        self.playbooks: list[Playbook] = []

    def suite(self, **options: Any) -> dict[str, Any]:
        """A task that runs a suite and keeps its result."""
        defaults = {"name": "smoke", "results": str(self.results), "remote_dir": str(self.remote), "deadline": 30}
        return {"mayfly.virt.suite": {**defaults, **options}, "register": "outcome"}

    def start(self, *tasks: dict[str, Any], arguments: tuple[str, ...] = ()) -> Playbook:
        keep = {"ansible.builtin.copy": {"content": "{{ outcome | to_json }}", "dest": str(self.directory / "outcome.json")}}
        keep.update({"delegate_to": "localhost", "connection": "local", "when": "outcome is defined", "check_mode": False})
        play = {"hosts": "bookworm", "gather_facts": False, "tasks": [{"block": list(tasks), "always": [keep]}]}
        (self.directory / "play.yml").write_text(yaml.safe_dump([play]))
        command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "inventory.yml", "play.yml", *arguments]
        environment = {
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "build" / "tree"),
            "ANSIBLE_CONFIG": str(self.directory / "ansible.cfg"),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.directory / "cp"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_STDOUT_CALLBACK": "mayfly.virt.progress",  # what a person runs, whatever the caller has set
            "PYTHONUNBUFFERED": "1",  # Ansible flushes nothing; as mayfly_job.py sets it
        }
        playbook = Playbook(command, environment, self.directory)
        self.playbooks.append(playbook)
        return playbook

    def run(self, *tasks: dict[str, Any], arguments: tuple[str, ...] = ()) -> tuple[int, str]:
        return self.start(*tasks, arguments=arguments).finish()

    @property
    def outcome(self) -> dict[str, Any]:
        return json.loads((self.directory / "outcome.json").read_text())

    def kept(self, suite: str = "smoke") -> Path:
        return self.results / "suites" / suite / "bookworm"

    def events(self, suite: str = "smoke") -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.kept(suite) / "events.jsonl").read_text().splitlines()]

    def runners(self) -> list[int]:
        return [int(path.read_text()) for path in self.remote.glob("*/out/pid")]

    def close(self) -> None:
        """End what a test left running, by its pid."""
        for playbook in self.playbooks:
            if playbook.process.poll() is None:
                playbook.process.kill()
                playbook.process.wait(10)
        for pid in self.runners():
            if b"runner.py" in command_line(pid):
                os.kill(pid, signal.SIGTERM)
            else:
                wait_for(lambda pid=pid: cgroup_removed(pid))  # of one that was killed


def cgroup_removed(pid: int) -> bool:
    """Remove what a runner had if it was killed; in a guest it goes with the guest."""
    runner = _suites.load_runner()
    try:
        path = runner.own_cgroup(Path("/proc/self/mounts").read_text(), Path("/proc/self/cgroup").read_text()) / f"mayfly-{pid}"
        runner.remove_cgroups(path)
    except ValueError:  # there are no cgroups here
        return True
    except OSError:  # what was killed in it is not gone yet
        return False
    return not path.exists()


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return b""


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a short name: ssh's control sockets allow only a hundred characters."""
    with tempfile.TemporaryDirectory(prefix="mfs-") as name:
        yield Path(name).resolve()


@pytest.fixture
def local_site(place: Path) -> Iterator[Site]:
    site = Site(place, {"ansible_connection": "local"})
    yield site
    site.close()


@pytest.fixture
def sshd(place: Path) -> Iterator[Sshd]:
    server = Sshd(place)
    yield server
    server.stop()


@pytest.fixture
def ssh_site(place: Path, sshd: Sshd) -> Iterator[Site]:
    options = {"UserKnownHostsFile": place / "known_hosts", "StrictHostKeyChecking": "yes", "IdentitiesOnly": "yes"}
    site = Site(
        place,
        {
            "ansible_connection": "ssh",
            "ansible_host": "127.0.0.1",
            "ansible_port": sshd.port,
            "ansible_user": getpass.getuser(),
            "ansible_ssh_private_key_file": str(place / "client"),
            "ansible_ssh_common_args": shlex.join(["-F", "/dev/null", *(f"-o{key}={value}" for key, value in options.items())]),
        },
    )
    yield site
    site.close()


@pytest.fixture
def eventually() -> Eventually:
    return wait_for
