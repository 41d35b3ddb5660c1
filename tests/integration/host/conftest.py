# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The real host: libvirt, QEMU, the network that the role hypervisor made, and Ansible with the installed artefact."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import debian
import libvirt
import pytest
import tiny

ROOT = Path(__file__).resolve().parents[3]
STATE_DIR = Path("/var/lib/mayfly")
NETWORK = "mayfly"
LIBVIRT_TOOLCHAINS = ["libvirt_under_test", "libvirt_tck", "avocado"]  # those of the example job: one image for all tests of libvirt
IMAGE = "debian-12+ebpf"  # the image of the example job: built once for a machine
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}",
    "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "build" / "collections"),
    "ANSIBLE_LOCALHOST_WARNING": "false",
    "ANSIBLE_INVENTORY_UNPARSED_WARNING": "false",
    "ANSIBLE_NOCOLOR": "true",
}
ENVIRONMENT.pop("ANSIBLE_STDOUT_CALLBACK", None)

_ANSWER = re.compile(r"^localhost \| (\S+) => (\{.*^\})", re.MULTILINE | re.DOTALL)

libvirt.registerErrorHandler(lambda *_unused: None, None)


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """What a job must leave as it was."""

    domains: frozenset[str]
    leases: frozenset[tuple[str, str]]
    files: frozenset[str]
    interfaces: frozenset[str]
    mounts: frozenset[str]


class Host:
    """This machine."""

    def __init__(self) -> None:
        self.libvirt = libvirt.open("qemu:///system")

    def domains(self) -> set[str]:
        return {domain.name() for domain in self.libvirt.listAllDomains()}

    def leases(self) -> set[tuple[str, str]]:
        leases = self.libvirt.networkLookupByName(NETWORK).DHCPLeases()
        return {(lease["mac"], lease["ipaddr"]) for lease in leases}

    def snapshot(self, *directories: Path) -> Snapshot:
        """Look at everything that a run makes, below the given directories and elsewhere."""
        watched = [*directories, Path("/var/lib/libvirt/qemu/nvram"), Path("/var/lib/libvirt/images")]
        with open("/proc/self/mountinfo", encoding="utf-8") as table:
            mounts = {line.split()[4] for line in table}
        return Snapshot(
            domains=frozenset(self.domains()),
            leases=frozenset(self.leases()),
            files=frozenset(str(path) for directory in watched if directory.exists() for path in directory.rglob("*")),
            interfaces=frozenset(path.name for path in Path("/sys/class/net").iterdir()),
            mounts=frozenset(mounts),
        )

    def console(self, path: Path, text: str, seconds: float) -> str:
        """Wait until a console says something; return all it said."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            said = path.read_text(errors="replace") if path.exists() else ""
            if text in said:
                return said
            time.sleep(0.2)
        raise AssertionError(f"{path} did not say {text!r} within {seconds} s:\n{said[-2000:]}")


def descendants(pid: int) -> list[int]:
    """Return every process that a process started, and those these started, youngest first."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            fields = path.read_text(errors="replace").rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found: list[int] = []
    todo = [pid]
    while todo:
        for child in children.get(todo.pop(), []):
            found.insert(0, child)
            todo.append(child)
    return found


class Module:
    """Runs modules of the installed artefact with the ansible command, as a user would."""

    def __init__(self, defaults: dict[str, Any]) -> None:
        self.defaults = defaults

    def __call__(self, name: str, *, check: bool = False, diff: bool = False, fails: bool = False, **options: Any) -> dict[str, Any]:
        arguments = json.dumps({**self.defaults, **options})
        argv = ["ansible", "localhost", "-m", f"mayfly.virt.{name}", "-a", arguments]
        argv += ["--check"] * check + ["--diff"] * diff
        done = subprocess.run(argv, env=ENVIRONMENT, capture_output=True, text=True, timeout=900, check=False)
        answer = _ANSWER.search(done.stdout)  # behind the diff, if there is one
        assert answer, done.stdout + done.stderr
        assert (answer[1] == "FAILED!") is fails, f"{name}: {done.stdout}{done.stderr}"
        result = json.loads(answer[2])
        assert "[WARNING]" not in done.stdout + done.stderr, done.stderr
        assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
        return dict(result)


class Playbook:
    """A playbook of the collection, by FQCN, with stock configuration."""

    def __init__(self, name: str, *arguments: str, cwd: Path) -> None:
        self.log = cwd / f"{name}.log"
        argv = ["ansible-playbook", f"mayfly.virt.{name}", *arguments]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(argv, env=ENVIRONMENT, cwd=cwd, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)

    def wait(self, seconds: float = 900) -> int:
        return self.process.wait(timeout=seconds)

    def kill(self, *, tree: bool) -> None:
        """kill -9 ansible-playbook, alone (its workers are left to themselves) or with all it started (as a CI host does)."""
        for pid in [*(descendants(self.process.pid) if tree else []), self.process.pid]:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def await_line(self, path: Path, text: str, seconds: float) -> None:
        """Wait until a file of the run has the text, while the playbook runs."""
        deadline = time.monotonic() + seconds
        while not (path.exists() and text in path.read_text(errors="replace")):
            assert self.process.poll() is None, f"it ended before {text!r} came: {self.output()[-3000:]}"
            assert time.monotonic() < deadline, f"{path} does not say {text!r}: {self.output()[-3000:]}"
            time.sleep(0.2)


@pytest.fixture(scope="session")
def host() -> Host:
    return Host()


def build_image() -> dict[str, Any]:
    """Build the real image when this machine does not have it yet, or another recipe's; return what is known of it."""
    job = ROOT / "examples" / "ebpf-smoke" / "job.yml"
    argv = ["ansible-playbook", "mayfly.virt.image", "-e", f"@{job}"]
    subprocess.run(argv, env=ENVIRONMENT, cwd=ROOT, check=True, timeout=900)
    found = Module({"state_dir": str(STATE_DIR)})("image_info", names=[IMAGE])["results"]
    return dict(found[0])


@pytest.fixture(scope="session")
def image() -> dict[str, Any]:
    return build_image()


@pytest.fixture(scope="session")
def guest_files(image: dict[str, Any]) -> Path:
    """A kernel module and packages that fit the image, which is built anew when Debian has newer ones."""
    target = ROOT / "build" / "guest-files"
    try:
        return debian.build(image, target)
    except debian.NotInTheArchive:
        Module({"state_dir": str(STATE_DIR)})("image", images=[{"name": IMAGE}], state="absent")
        image.update(build_image())
        return debian.build(image, target)


@pytest.fixture(scope="session")
def tiny_files(image: dict[str, Any]) -> dict[str, Path]:
    return tiny.build(image, ROOT / "build" / "tiny")


@pytest.fixture(scope="session")
def tiny_state(tiny_files: dict[str, Path]) -> Iterator[Path]:
    """A state directory of its own with the tiny image in it. QEMU must pass through, so it is not below pytest's."""
    state_dir = Path(f"/var/lib/mayfly-test-{os.getpid()}")
    shutil.rmtree(state_dir, ignore_errors=True)
    state_dir.mkdir(mode=0o755)
    wanted = {
        "name": "tiny",
        "source": str(tiny_files["disk"]),
        "kernel": str(tiny_files["kernel"]),
        "initrd": str(tiny_files["initrd"]),
        "cmdline": "console=ttyS0 net.ifnames=0",
    }
    Module({"state_dir": str(state_dir)})("image", images=[wanted])
    yield state_dir
    shutil.rmtree(state_dir)


@pytest.fixture
def module(tiny_state: Path) -> Module:
    return Module({"state_dir": str(tiny_state)})


@pytest.fixture
def untouched(host: Host, tiny_state: Path) -> Iterator[Callable[[], None]]:
    """Ensure that host and state directory are as before, when asked and at the end of the test."""
    (tiny_state / "runs").mkdir(exist_ok=True)
    (tiny_state / "cache").mkdir(exist_ok=True)
    before = host.snapshot(tiny_state / "runs", tiny_state / "images")

    def check() -> None:
        assert host.snapshot(tiny_state / "runs", tiny_state / "images") == before

    yield check
    check()


def domain(name: str, cmdline: str = "", **options: Any) -> dict[str, Any]:
    """Return the options of one tiny domain. Emulation is asked for: these tests are not about proving KVM."""
    return {"name": name, "image": "tiny", "memory_mib": 128, "accel": "tcg", "cmdline": cmdline, **options}
