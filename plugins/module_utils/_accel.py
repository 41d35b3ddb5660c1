# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Proven acceleration: /dev/kvm that opens is no proof that a Linux guest runs under it, a kernel that prints is."""

from __future__ import annotations

import dataclasses
import grp
import hashlib
import json
import os
import pwd
import shutil
import stat
import time
import typing as t
from pathlib import Path

from ._lock import locked
from ._run import boot_id
from ._types import RunCommand

DEVICE = Path("/dev/kvm")
# A kernel under working KVM prints within a second.
PROOF_SECONDS = 6
# Deadlines are written for KVM. Emulated guests were measured at 5 to 10 times slower.
EMULATION_FACTOR = 6

_QEMU = ("qemu-system-x86_64", "/usr/libexec/qemu-kvm")
_QEMU_USERS = ("libvirt-qemu", "qemu")
_SIGN_OF_LIFE = "Linux version "
# timeout(1) itself failed, QEMU could not be executed, one of the two is missing.
_NOT_RUN = (125, 126, 127)


@dataclasses.dataclass(frozen=True)
class Proof:
    """What acceleration guests get on this boot of the host, and how we know."""

    accel: str  # kvm or tcg
    proven: bool
    reason: str
    kernel: str = ""
    seconds: float = 0.0


def scaled(deadline: float, accel: str) -> float:
    """Return a deadline that was written for KVM in the guest's own time."""
    return deadline * (1 if accel == "kvm" else EMULATION_FACTOR)


def find_kernel(candidates: t.Iterable[Path]) -> Path | None:
    """Return the first kernel there is: a stored image's, else the host's own."""
    own = Path("/boot") / f"vmlinuz-{os.uname().release}"
    return next((path for path in [*candidates, own] if path.is_file()), None)


def permission_trap(device: Path = DEVICE) -> str:
    """Return why QEMU's user cannot use /dev/kvm though root can, or an empty string.

    libvirt then drops its cached capabilities at every look and probes QEMU anew about fifty times for each domain.
    """
    user = next((entry for name in _QEMU_USERS if (entry := _user(name))), None)
    if user is None or not device.exists():
        return ""
    groups = {user.pw_gid, *(group.gr_gid for group in grp.getgrall() if user.pw_name in group.gr_mem)}
    status = device.stat()
    allowed = (
        (status.st_uid == user.pw_uid and status.st_mode & stat.S_IWUSR)
        or (status.st_gid in groups and status.st_mode & stat.S_IWGRP)
        or status.st_mode & stat.S_IWOTH
    )
    if allowed:
        return ""
    return f"{device} has mode {stat.S_IMODE(status.st_mode):04o} and is closed to QEMU's user {user.pw_name}"


def prove(
    kernel: Path | None, cache_dir: Path, run_command: RunCommand, *, kvm_offered: bool = True, only_remembered: bool = False
) -> Proof:
    """Boot the kernel under KVM for a few seconds, once for each boot of the host; then remember. Or tell what is remembered."""
    if not DEVICE.exists():
        return Proof("tcg", True, f"{DEVICE} does not exist")
    if not kvm_offered:
        return Proof("tcg", True, "libvirt offers no kvm domains")
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return Proof("tcg", True, f"{DEVICE} cannot be opened for reading and writing")
    if kernel is None:
        return Proof("tcg", False, "there is no kernel to prove KVM with; it is not trusted unproven")
    memory = cache_dir / f"accel-{boot_id()}-{_identity(kernel)}.json"
    if only_remembered:
        # What one kernel has shown today, another will: the one that was asked may be gone from the store.
        memories = [memory, *sorted(cache_dir.glob(f"accel-{boot_id()}-*.json"))]
        proofs = [proof for proof in map(_remembered, memories) if proof]
        return proofs[0] if proofs else Proof("tcg", False, "KVM was not proven on this boot of the host yet")
    cache_dir.mkdir(parents=True, exist_ok=True)
    # Two tasks that start together prove it once.
    with locked(cache_dir / "accel.lock"):
        if remembered := _remembered(memory):
            return remembered
        proof = _boot(kernel, run_command)
        if not proof.proven:
            return proof
        for stale in cache_dir.glob("accel-*.json"):
            if boot_id() not in stale.name:
                stale.unlink()
        fresh = memory.with_suffix(".new")
        fresh.write_text(json.dumps(dataclasses.asdict(proof)), encoding="utf-8")
        fresh.replace(memory)
    return proof


def _remembered(memory: Path) -> Proof | None:
    return Proof(**json.loads(memory.read_text(encoding="utf-8"))) if memory.exists() else None


def _boot(kernel: Path, run_command: RunCommand) -> Proof:
    qemu = next((found for name in _QEMU if (found := shutil.which(name))), None)
    if qemu is None:
        return Proof("tcg", False, f"none of {', '.join(_QEMU)} is installed to prove KVM with", str(kernel))
    # panic=-1 with -no-reboot: the kernel finds no root file system and QEMU ends by itself.
    arguments = "-machine q35,accel=kvm -cpu host -m 256 -nodefaults -no-user-config -display none -serial stdio -no-reboot"
    argv = ["timeout", "--kill-after=1", str(PROOF_SECONDS), qemu, *arguments.split()]
    argv += ["-kernel", str(kernel), "-append", "console=ttyS0 panic=-1"]
    started = time.monotonic()
    code, out, err = run_command(argv, errors="replace")
    seconds = round(time.monotonic() - started, 1)
    if code in _NOT_RUN:
        return Proof("tcg", False, f"KVM could not be tried: {err.strip() or f'timeout(1) ended with status {code}'}", str(kernel))
    if _SIGN_OF_LIFE in out:
        return Proof("kvm", True, "a kernel booted under KVM", str(kernel), seconds)
    silent = code == 124 or not err.strip()  # 124: timeout(1) had to end it
    detail = f"it printed nothing within {PROOF_SECONDS} s" if silent else err.strip().splitlines()[-1]
    return Proof("tcg", True, f"{DEVICE} opens, but no Linux kernel runs under it: {detail}", str(kernel), seconds)


def _identity(kernel: Path) -> str:
    status = kernel.stat()
    return hashlib.sha256(f"{kernel}:{status.st_size}:{status.st_mtime_ns}".encode()).hexdigest()[:16]


def _user(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None
