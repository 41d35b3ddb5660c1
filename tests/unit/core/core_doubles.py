# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Small stand-ins with behaviour, and builders of plain values, for the units of the core."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible_collections.mayfly.virt.plugins.module_utils._domain_xml import SeenDomain
from ansible_collections.mayfly.virt.plugins.module_utils._errors import MayflyError
from ansible_collections.mayfly.virt.plugins.module_utils._libvirt import Lease
from ansible_collections.mayfly.virt.plugins.module_utils._run import Run
from ansible_collections.mayfly.virt.plugins.module_utils._store import Manifest, Source
from ansible_collections.mayfly.virt.plugins.module_utils._tag import Tag

DIGEST = "5" * 64


class Programs:
    """A run_command whose programs are functions of their argument list; every other program is not installed."""

    def __init__(self, **programs: Callable[..., Any]) -> None:
        self._programs = programs
        self.calls: list[list[str]] = []
        self.options: list[dict[str, Any]] = []

    def __call__(self, argv: list[str], **options: Any) -> tuple[int, str, str]:
        assert all(isinstance(word, str) for word in argv), argv
        self.calls.append(argv)
        self.options.append(options)
        name = Path(argv[0]).name.replace("-", "_")
        if name not in self._programs:
            return 127, "", f"the program {argv[0]} is not installed"
        answer = self._programs[name](argv)
        return answer if isinstance(answer, tuple) else (0, answer or "", "")


def run_program(argv: list[str], **options: Any) -> tuple[int, str, str]:
    """Run a real program as a module's run_command would."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            env={**os.environ, **options.get("environ_update", {})},
            pass_fds=options.get("pass_fds", ()),
            timeout=60,
        )
    except FileNotFoundError:
        return 127, "", f"the program {argv[0]} is not installed"
    return done.returncode, done.stdout, done.stderr


def ssh_keygen(argv: list[str]) -> str:
    """Write a key pair that says what it was asked for, and like the real one replace nothing."""
    path = Path(argv[argv.index("-f") + 1])
    comment = argv[argv.index("-C") + 1]
    with path.open("x", encoding="utf-8") as private:
        private.write(f"-----BEGIN OPENSSH PRIVATE KEY-----\nsecret of {path.name}\n-----END OPENSSH PRIVATE KEY-----\n")
    Path(f"{path}.pub").write_text(f"ssh-ed25519 AAAA{path.name} {comment}\n", encoding="utf-8")
    return ""


class Daemon:
    """A hypervisor as far as purging and provisioning need one: domains that can be made and ended, leases that go when released."""

    def __init__(self) -> None:
        self.running: dict[str, SeenDomain] = {}  # by uuid
        self.lease_list: list[Lease] = []
        self.refuses_to_create: dict[str, str] = {}
        self.refuses_to_destroy: set[str] = set()
        self.events: list[str] = []

    def create(self, name: str, xml: str) -> SeenDomain:
        assert "<domain" in xml
        if name in self.refuses_to_create:
            raise MayflyError("create domain", name, self.refuses_to_create[name])
        made = seen(name)
        self.running[made.uuid] = made
        self.events.append(f"create {name}")
        return made

    def names(self) -> list[str]:
        return sorted(domain.name for domain in self.running.values())

    def domains(self) -> list[SeenDomain]:
        return list(self.running.values())

    def destroy(self, name: str, uuid: str) -> bool:
        if name in self.refuses_to_destroy:
            raise MayflyError("destroy domain", name, "the monitor does not answer")
        self.events.append(f"destroy {name}")
        return self.running.pop(uuid, None) is not None

    def leases(self, networks: set[str] | None = None) -> list[Lease]:
        return [lease for lease in self.lease_list if networks is None or lease.network in networks]


def tag(run: str = "r1", guest: str = "one", **fields: str) -> Tag:
    return Tag(run=run, guest=guest, **fields)


def seen(name: str, **fields: Any) -> SeenDomain:
    values = {"uuid": f"uuid-of-{name}", "tag": tag(), "memory_mib": 64, "vcpus": 1, "macs": (), "networks": (), "console_log": ""}
    return SeenDomain(name=name, **{**values, **fields})


def lease(mac: str, address: str, **fields: Any) -> Lease:
    values = {"network": "mayfly", "bridge": "virbr7", "client_id": "", "expiry": 0}
    return Lease(mac=mac, address=address, **{**values, **fields})


def run_record(run_id: str = "r1", **fields: Any) -> Run:
    values = {"created": "2026-01-01T12:00:00+00:00", "deadline": "2026-01-01T14:00:00+00:00", "boot_id": "this-boot"}
    return Run(id=run_id, **{**values, **fields})


def manifest(digest: str = DIGEST, **fields: Any) -> Manifest:
    values = {
        "virtual_size": 1 << 20,
        "size": 5,
        "source": Source("file", "/somewhere/disk.qcow2", f"sha256:{'7' * 64}"),
        "created": "2026-01-01T12:00:00+00:00",
    }
    return Manifest(digest=digest, **{**values, **fields})


def listing(directory: Path) -> dict[str, str]:
    """Return every path below a directory with what it is, so that two moments can be compared."""
    found = {}
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        if path.is_symlink():
            found[name] = f"link to {os.readlink(path)}"
        else:
            found[name] = "directory" if path.is_dir() else path.read_bytes().decode("utf-8", "backslashreplace")
    return found
