# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real libvirtd and virtlogd of one's own, in mount, network and PID namespaces: the machine's daemon sees nothing of it.

All that libvirt writes lies on memory file systems of the namespace, so that nothing is left when its first process ends, whatever
it ends of. What is under test can do there as it likes: stop the daemon, kill it, rotate its logs.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

WRAPPER = Path(__file__).resolve().parents[3] / "extensions" / "libvirt_test" / "mayfly_libvirt_test.py"
LOG = "/var/log/libvirt/libvirtd.log"
FILTERS = "3:remote 4:event 3:util.json 3:util.object 3:util.dbus 3:util.netlink 3:node_device 3:rpc 3:access 1:*"

# /dev/kvm is hidden: what is behind it may not run Linux. QEMU's capabilities are what takes libvirt long to find out: kept between runs.
SET_UP = """
set -eu
cp -a /etc/libvirt "$0/etc"
mount -t tmpfs -o mode=755 tmpfs /run
for directory in /var/lib/libvirt /var/log/libvirt /var/cache/libvirt-tck; do
    mkdir -p "$directory"
    mount -t tmpfs -o mode=755 tmpfs "$directory"
done
mount --bind "$0/etc" /etc/libvirt
mount --bind "$1" /var/cache/libvirt
[ ! -e /dev/kvm ] || mount --bind "$0/empty" /dev/kvm
rm -f /etc/libvirt/qemu/networks/autostart/* /etc/libvirt/storage/autostart/* /etc/libvirt/qemu/networks/*.xml /etc/libvirt/storage/*.xml
mkdir -p /run/libvirt /var/log/libvirt/qemu /var/lib/libvirt/images /var/lib/libvirt/qemu /var/lib/libvirt/boot
# libvirt cannot carry the hiding mount over into a domain's own /dev.
echo 'namespaces = []' >>/etc/libvirt/qemu.conf
cat >>/etc/libvirt/libvirtd.conf
mkdir /run/cgroup
mount --rbind /sys/fs/cgroup /run/cgroup
mount -t sysfs sysfs /sys
mount --rbind /run/cgroup /sys/fs/cgroup
ip link set lo up
"""
# As the first process of its namespace it must collect the dead.
INIT = """
import signal, subprocess, sys
subprocess.run(["/bin/sh", "-c", sys.argv[1], *sys.argv[2:]], check=True)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("ready", flush=True)
while True:
    signal.pause()
"""
UNSHARE = ("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private")


class PrivateLibvirt:
    """The namespaces, the daemons in them, and the wrapper there."""

    def __init__(self, directory: Path, cache: Path) -> None:
        self.directory = directory
        cache.mkdir(parents=True, exist_ok=True)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "empty").touch()
        self._init = subprocess.Popen(
            [*UNSHARE, "/usr/bin/python3", "-c", INIT, SET_UP, str(directory), str(cache)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )
        assert self._init.stdin
        assert self._init.stdout
        assert self._init.stderr
        self._init.stdin.write(f'log_outputs = "1:file:{LOG}"\nlog_filters = "{FILTERS}"\nauth_unix_rw = "none"\n')
        self._init.stdin.write("min_workers = 5\nmax_workers = 5\n")  # few, so that a test can keep all of them busy
        self._init.stdin.close()
        if self._init.stdout.readline() != "ready\n":
            raise RuntimeError(f"cannot make namespaces for a libvirtd: {self._init.stderr.read()}")
        children = Path(f"/proc/{self._init.pid}/task/{self._init.pid}/children").read_text().split()
        self._enter = ["nsenter", "-t", children[0], "-m", "-n", "-p", "--"]
        try:
            self.run("virtlogd", "-d")
            self.start()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the namespaces and all that runs in them."""
        with contextlib.suppress(ProcessLookupError):  # it is what shall be
            os.killpg(self._init.pid, signal.SIGKILL)
        self._init.wait(timeout=30)
        for stream in (self._init.stdout, self._init.stderr):
            assert stream
            stream.close()
        shutil.rmtree(self.directory / "etc")

    def popen(self, *argv: str, environment: dict[str, str] | None = None, **options: Any) -> subprocess.Popen[str]:
        env = {**os.environ, **(environment or {})}
        return subprocess.Popen([*self._enter, *argv], env=env, text=True, stdin=subprocess.DEVNULL, **options)

    def run(self, *argv: str, check: bool = True, timeout: float = 60, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a program in there to its end."""
        with self.popen(*argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options) as process:
            try:
                out, err = process.communicate(timeout=timeout)
            except BaseException:
                process.kill()
                raise
        if check and process.returncode != 0:
            raise RuntimeError(f"{' '.join(argv)} ended with status {process.returncode}: {out}{err}")
        return subprocess.CompletedProcess(argv, process.returncode, out, err)

    def start(self) -> None:
        """Start libvirtd as on a machine without systemd, with core dumps, and wait until it answers."""
        self.run(
            "/bin/sh", "-c", "mkdir -p /run/cores && cd /run/cores && ulimit -c unlimited && (setsid libvirtd </dev/null >/dev/null 2>&1 &)"
        )
        limit = time.monotonic() + 60
        while self.virsh("uri", check=False).returncode != 0:
            assert time.monotonic() < limit, self.read(LOG)[-3000:]
            time.sleep(0.1)

    def virsh(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run("virsh", "-q", "-c", "qemu:///system", *arguments, check=check)

    def read(self, path: str) -> str:
        return self.run("cat", path).stdout

    def write(self, path: str, text: str) -> None:
        (self.directory / "written").write_text(text)
        self.run("cp", str(self.directory / "written"), path)

    def pid(self, daemon: str = "libvirtd") -> int:
        """Its pid in there."""
        return int(self.read(f"/run/{daemon}.pid"))

    def wrapper(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run the wrapper in there with the interpreter guests have."""
        return self.run("/usr/bin/python3", str(WRAPPER), *arguments, check=False, **options)

    def configure(self, path: Path, **settings: Any) -> Path:
        """Write the wrapper's configuration."""
        daemon = {"name": "libvirtd", "log": LOG, "unit": "libvirtd.service", "sockets": [], "admin": "libvirtd:///system", "active": True}
        base = {"uri": "qemu:///system", "daemons": [daemon], "qemu_logs": "/var/log/libvirt/qemu", "purge_prefix": "tck"}
        path.write_text(json.dumps({**base, "answer_seconds": 2, **settings}))
        return path


class Watched:
    """One test under the wrapper, and what it kept."""

    def __init__(self, libvirt: PrivateLibvirt, directory: Path) -> None:
        self.libvirt = libvirt
        self.directory = directory
        self.config = libvirt.configure(directory / "libvirt-test.json")

    def arguments(self, script: str, *options: str, kept: str = "kept") -> tuple[list[str], dict[str, str]]:
        (self.directory / kept).mkdir(exist_ok=True)
        argv = ["run", "--config", str(self.config), "--name", "a test", *options, "--", "/bin/sh", "-c", script]
        return argv, {"MAYFLY_TEST_DIR": str(self.directory / kept)}

    def run(self, script: str, *options: str, kept: str = "kept", **environment: str) -> subprocess.CompletedProcess[str]:
        argv, env = self.arguments(script, *options, kept=kept)
        return self.libvirt.wrapper(*argv, environment={**env, **environment}, timeout=120)

    def kept(self, name: str, kept: str = "kept") -> str:
        return (self.directory / kept / name).read_text(errors="replace")

    def names(self, kept: str = "kept") -> list[str]:
        return sorted(path.name for path in (self.directory / kept).iterdir())

    def judgement(self, kept: str = "kept") -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.kept("judgement.json", kept))
        return found

    def summary(self, kept: str = "kept") -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.kept("libvirt.json", kept))
        return found

    def configure(self, **settings: Any) -> None:
        self.libvirt.configure(self.config, **settings)


TCK = WRAPPER.parents[2] / "build" / "tck" / "usr" / "share"
SCRATCH = "/var/cache/libvirt-tck"
TCK_CONFIG = f"""uri = "qemu:///system"
scratch_dir = {SCRATCH}
kernels = (
  {{
    arch = {os.uname().machine}
    ostype = (
      hvm
    )
    kernel = http://nowhere.invalid/vmlinuz
    initrd = http://nowhere.invalid/initrd.img
  }}
)
host_usb_devices = (
)
host_block_devices = (
  /dev/vdy
)
"""


def seed_tck(libvirt: PrivateLibvirt, kernel: Path, initrd: Path) -> dict[str, Any]:
    """Write libvirt-tck's configuration and fill its scratch directory; return what the wrapper must know of it."""
    bucket = f"{SCRATCH}/os-{os.uname().machine}-hvm"
    libvirt.run("mkdir", "-p", bucket)
    libvirt.run("cp", str(kernel), f"{bucket}/vmlinuz")
    libvirt.run("cp", str(initrd), f"{bucket}/initrd")
    libvirt.write("/run/tck.conf", TCK_CONFIG)
    tck = {"tests": str(TCK / "libvirt-tck" / "tests"), "perl_lib": [str(TCK / "perl5")], "config": "/run/tck.conf"}
    return {"scratch": SCRATCH, "tck": {**tck, "environment": {"LIBVIRT_TCK_AUTOCLEAN": "1"}}}
