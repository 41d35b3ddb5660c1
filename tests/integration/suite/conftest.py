# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest that is this machine: over the connection local, and over an sshd of our own on a loopback port.

sshd is looked for in MAYFLY_TEST_SSHD, on PATH and in build/sshd (an unpacked openssh-server package, with libwrap0).
Without one the tests fail rather than skip; MAYFLY_TEST_NO_SSHD=1 skips them on purpose.
"""

from __future__ import annotations

import getpass
import json
import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
Eventually = Callable[..., Any]


def wait_for(holds: Callable[[], Any], timeout: float = 15) -> Any:
    """Wait until something holds; fail loudly when it does not."""
    limit = time.monotonic() + timeout
    while time.monotonic() < limit:
        if value := holds():
            return value
        time.sleep(0.02)
    raise AssertionError("it did not happen in time")


def find_sshd() -> Path:
    if os.environ.get("MAYFLY_TEST_NO_SSHD") == "1":
        pytest.skip("MAYFLY_TEST_NO_SSHD=1: the tests over ssh were left out on purpose")
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", str(ROOT / "build" / "sshd" / "usr" / "sbin")])
    found = os.environ.get("MAYFLY_TEST_SSHD") or shutil.which("sshd", path=path)
    if not found:
        pytest.fail("no sshd: install openssh-server, set MAYFLY_TEST_SSHD, or set MAYFLY_TEST_NO_SSHD=1 to leave these tests out")
    return Path(found).resolve()


def descendants(pid: int) -> list[int]:
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in path.read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


class Sshd:
    """An sshd on a loopback port with a host key and a client key of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.program = find_sshd()
        self.port = free_port()
        for name in ("host", "client"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / name], check=True)
        shutil.copy(directory / "client.pub", directory / "authorized_keys")
        public = (directory / "host.pub").read_text()
        (directory / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {public}")
        settings = {
            "Port": self.port,
            "ListenAddress": "127.0.0.1",
            "HostKey": directory / "host",
            "AuthorizedKeysFile": directory / "authorized_keys",
            "PidFile": "none",
            "StrictModes": "no",
            "UsePAM": "no",
            "PermitRootLogin": "yes",
            "PasswordAuthentication": "no",
        }
        (directory / "sshd_config").write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        with (self.directory / "sshd.log").open("ab") as log:
            self.process = subprocess.Popen(self._command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment())
        try:
            wait_for(self._answers)
        except AssertionError:
            pytest.fail(f"sshd did not start: {(self.directory / 'sshd.log').read_text()}")

    def kill_sessions(self) -> None:
        assert self.process is not None
        for pid in descendants(self.process.pid):
            kill(pid)

    def stop(self) -> None:
        """End the listener and all its sessions, at once: what a guest does that panics."""
        assert self.process is not None
        pids = [self.process.pid, *descendants(self.process.pid)]
        for pid in pids:
            kill(pid)
        self.process.wait(10)

    def _answers(self) -> bool:
        with socket.socket() as client:
            client.settimeout(1)
            return client.connect_ex(("127.0.0.1", self.port)) == 0 and client.recv(4) == b"SSH-"

    def _environment(self) -> dict[str, str]:
        libraries = [str(path) for path in self.program.parents[2].glob("usr/lib/*-linux-gnu")]
        unpacked = self.program.is_relative_to(ROOT)
        return {**os.environ, **({"LD_LIBRARY_PATH": os.pathsep.join(libraries)} if unpacked else {})}

    def _command(self) -> list[str]:
        sshd = [str(self.program), "-D", "-e", "-f", str(self.directory / "sshd_config")]
        if os.geteuid() != 0 or (has_account("sshd") and Path("/run/sshd").is_dir()):
            return sshd
        # Where openssh-server is not installed, root's sshd misses its account and its directory. It gets them in a
        # mount namespace of its own, so that this machine stays as it is.
        accounts = Path("/etc/passwd").read_text() + "sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin\n"
        (self.directory / "passwd").write_text(accounts)
        mounts = (
            f"mount --bind {shlex.quote(str(self.directory / 'passwd'))} /etc/passwd && mount -t tmpfs tmpfs /run && mkdir -m 755 /run/sshd"
        )
        return ["unshare", "--mount", "sh", "-c", f"{mounts} && exec {shlex.join(sshd)}"]


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:  # killing its parent ended it
        return


def has_account(name: str) -> bool:
    return name in [entry.pw_name for entry in pwd.getpwall()]


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


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
