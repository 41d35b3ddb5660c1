# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An sshd of our own on a loopback port, with a host key and a client key of its own.

sshd is looked for in MAYFLY_TEST_SSHD, on PATH and in build/sshd (an unpacked openssh-server package, with libwrap0).
Without one the tests fail rather than skip; MAYFLY_TEST_NO_SSHD=1 skips them on purpose.
"""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


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
            "Subsystem": "sftp internal-sftp",
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
        passwd, kept = shlex.quote(str(self.directory / "passwd")), shlex.quote(str(self.directory / "libvirt"))
        mounts = f"mount --bind {passwd} /etc/passwd && mkdir -p {kept}"
        mounts += f" && if [ -d /run/libvirt ]; then mount --rbind /run/libvirt {kept}; fi"  # for who comes as to a hypervisor
        mounts += " && mount -t tmpfs tmpfs /run && mkdir -m 755 /run/sshd /run/libvirt"
        mounts += f" && mount --rbind {kept} /run/libvirt"
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
