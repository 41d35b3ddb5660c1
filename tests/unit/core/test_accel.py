# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Proven acceleration: what counts as a proof, how long it is remembered, and who may open the device."""

from __future__ import annotations

import grp
import os
import pwd
import threading
from pathlib import Path
from typing import Any

import pytest
from core_doubles import Programs

from ansible_collections.mayfly.virt.plugins.module_utils import _accel
from ansible_collections.mayfly.virt.plugins.module_utils._accel import Proof

SPEAKS = "[    0.000000] Linux version 6.1.0-1-cloud-amd64 (debian-kernel) #1 SMP\n[    1.0] Kernel panic - not syncing: VFS\n"


class Qemu:
    """timeout and QEMU behind it: how often they were asked, and what the kernel printed."""

    def __init__(self, code: int = 0, out: str = SPEAKS, err: str = "") -> None:
        self.answer = (code, out, err)
        self.programs = Programs(timeout=lambda argv: self.answer)

    @property
    def boots(self) -> int:
        return len(self.programs.calls)


@pytest.fixture(autouse=True)
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "kvm"
    path.write_text("")
    monkeypatch.setattr(_accel, "DEVICE", path)
    monkeypatch.setattr(_accel, "boot_id", lambda: "boot-one")
    qemu = tmp_path / "qemu-system-x86_64"
    qemu.write_text("")
    qemu.chmod(0o755)
    monkeypatch.setattr(_accel, "_QEMU", (str(qemu),))
    return path


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    path = tmp_path / "vmlinuz"
    path.write_text("a kernel")
    return path


def prove(kernel: Path | None, qemu: Qemu, **options: Any) -> Proof:
    cache = kernel.parent / "cache" if kernel else Path("/nowhere/at/all")
    return _accel.prove(kernel, cache, qemu.programs, **options)


def test_a_kernel_that_prints_is_a_proof(kernel: Path) -> None:
    qemu = Qemu()
    proof = prove(kernel, qemu)
    assert (proof.accel, proof.proven, proof.kernel) == ("kvm", True, str(kernel))
    (argv,) = qemu.programs.calls
    assert argv[:3] == ["timeout", "--kill-after=1", "6"]
    assert argv[3] == str(kernel.with_name("qemu-system-x86_64"))
    assert "q35,accel=kvm" in argv
    assert argv[-4:] == ["-kernel", str(kernel), "-append", "console=ttyS0 panic=-1"]
    assert qemu.programs.options == [{"errors": "replace"}]


@pytest.mark.parametrize(
    ("code", "out", "err", "detail"),
    [
        (124, "", "", "it printed nothing within 6 s"),
        (124, "SeaBIOS (version 1.16)\n", "a warning\n", "it printed nothing within 6 s"),
        (0, "", "", "it printed nothing within 6 s"),
        (
            1,
            "",
            "warning\nqemu-system-x86_64: failed to initialize kvm: Device or resource busy\n",
            "failed to initialize kvm: Device or resource",
        ),
    ],
)
def test_a_kernel_that_does_not_print_is_a_proof_of_the_contrary(kernel: Path, code: int, out: str, err: str, detail: str) -> None:
    proof = prove(kernel, Qemu(code, out, err))
    assert (proof.accel, proof.proven, proof.kernel) == ("tcg", True, str(kernel))
    assert detail in proof.reason


def test_a_kernel_that_prints_and_hangs_is_a_proof(kernel: Path) -> None:
    assert prove(kernel, Qemu(code=124)).accel == "kvm"


def test_a_proof_is_remembered(kernel: Path) -> None:
    qemu = Qemu()
    first = prove(kernel, qemu)
    qemu.answer = (1, "", "it is on fire")
    assert prove(kernel, qemu) == first
    assert qemu.boots == 1


def test_a_proof_of_the_contrary_is_remembered_too(kernel: Path) -> None:
    qemu = Qemu(124, "", "")
    assert prove(kernel, qemu) == prove(kernel, qemu)
    assert qemu.boots == 1


def test_another_boot_of_the_host_proves_anew(kernel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    qemu = Qemu()
    prove(kernel, qemu)
    monkeypatch.setattr(_accel, "boot_id", lambda: "boot-two")
    qemu.answer = (124, "", "")
    assert prove(kernel, qemu).accel == "tcg"
    assert qemu.boots == 2
    kept = [path.name for path in (kernel.parent / "cache").glob("accel-*.json")]
    assert len(kept) == 1
    assert kept[0].startswith("accel-boot-two-")


def test_another_kernel_proves_anew(kernel: Path) -> None:
    qemu = Qemu()
    prove(kernel, qemu)
    other = kernel.with_name("vmlinuz-other")
    other.write_text("another kernel")
    prove(other, qemu)
    assert qemu.boots == 2
    kernel.write_text("a kernel, rebuilt")
    prove(kernel, qemu)
    assert qemu.boots == 3
    prove(other, qemu)
    prove(kernel, qemu)
    assert qemu.boots == 3


def test_two_that_ask_together_boot_once(kernel: Path) -> None:
    both = threading.Barrier(2)
    qemu = Qemu()

    def ask() -> None:
        both.wait(5)
        prove(kernel, qemu)

    threads = [threading.Thread(target=ask) for _number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert qemu.boots == 1


@pytest.mark.parametrize(("options", "reason"), [({"kvm_offered": False}, "libvirt offers no kvm domains")])
def test_what_is_not_offered_is_not_tried(kernel: Path, options: dict[str, bool], reason: str) -> None:
    qemu = Qemu()
    assert prove(kernel, qemu, **options) == Proof("tcg", True, reason)
    assert qemu.boots == 0
    assert not (kernel.parent / "cache").exists()


def test_without_a_device_nothing_is_tried(kernel: Path, device: Path) -> None:
    device.unlink()
    qemu = Qemu()
    assert prove(kernel, qemu) == Proof("tcg", True, f"{device} does not exist")
    assert qemu.boots == 0


def test_a_device_that_does_not_open_is_not_tried(kernel: Path, device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: not (path == device and mode == os.R_OK | os.W_OK))
    qemu = Qemu()
    assert prove(kernel, qemu).reason == f"{device} cannot be opened for reading and writing"
    assert qemu.boots == 0


def test_without_a_kernel_nothing_is_proven_and_nothing_remembered() -> None:
    qemu = Qemu()
    proof = prove(None, qemu)
    assert (proof.accel, proof.proven) == ("tcg", False)
    assert qemu.boots == 0


def test_qemu_of_another_distribution_is_found(kernel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "qemu-kvm"
    other.write_text("")
    other.chmod(0o755)
    monkeypatch.setattr(_accel, "_QEMU", ("no-such-qemu-anywhere", str(other)))
    qemu = Qemu()
    prove(kernel, qemu)
    assert qemu.programs.calls[0][3] == str(other)


def test_without_any_qemu_nothing_is_proven_and_nothing_remembered(kernel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    qemu = Qemu()
    with monkeypatch.context() as patch:
        patch.setattr(_accel, "_QEMU", ("no-such-qemu-anywhere", "/nowhere/qemu-kvm"))
        proof = prove(kernel, qemu)
    assert (proof.accel, proof.proven, proof.kernel) == ("tcg", False, str(kernel))
    assert proof.reason == "none of no-such-qemu-anywhere, /nowhere/qemu-kvm is installed to prove KVM with"
    assert qemu.boots == 0
    assert prove(kernel, qemu).accel == "kvm"


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (125, "timeout: invalid option"),
        (126, "timeout: failed to run command 'qemu-system-x86_64': Permission denied"),
        (127, "timeout: failed to run command 'qemu-system-x86_64': No such file"),
        (127, "the program timeout is not installed"),
    ],
)
def test_a_program_that_is_missing_proves_nothing(kernel: Path, code: int, error: str) -> None:
    qemu = Qemu(code, "", error)
    first = prove(kernel, qemu)
    assert first.accel == "tcg"
    qemu.answer = (0, SPEAKS, "")
    assert prove(kernel, qemu).accel == "kvm"


# -- only what is remembered ---------------------------------------------------------------------------------------------


def test_what_is_only_remembered_boots_and_writes_nothing(kernel: Path) -> None:
    qemu = Qemu()
    proof = prove(kernel, qemu, only_remembered=True)
    assert (proof.accel, proof.proven) == ("tcg", False)
    assert "not proven on this boot of the host yet" in proof.reason
    assert not (kernel.parent / "cache").exists()
    proven = prove(kernel, qemu)
    assert prove(kernel, qemu, only_remembered=True) == proven
    assert qemu.boots == 1


def test_what_was_remembered_before_the_host_was_booted_does_not_count(kernel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    qemu = Qemu()
    prove(kernel, qemu)
    monkeypatch.setattr(_accel, "boot_id", lambda: "boot-two")
    assert not prove(kernel, qemu, only_remembered=True).proven
    assert qemu.boots == 1


def test_what_needs_no_boot_is_known_without_memory(kernel: Path, device: Path) -> None:
    qemu = Qemu()
    assert prove(kernel, qemu, only_remembered=True, kvm_offered=False) == Proof("tcg", True, "libvirt offers no kvm domains")
    assert not prove(None, qemu, only_remembered=True).proven
    device.unlink()
    assert prove(kernel, qemu, only_remembered=True) == Proof("tcg", True, f"{device} does not exist")
    assert qemu.boots == 0


@pytest.mark.parametrize(("accel", "seconds"), [("kvm", 10), ("tcg", 60), ("", 60)])
def test_deadlines_are_written_for_kvm(accel: str, seconds: float) -> None:
    assert _accel.scaled(10, accel) == seconds


def test_the_first_kernel_there_is(tmp_path: Path) -> None:
    there = tmp_path / "vmlinuz"
    there.write_text("")
    assert _accel.find_kernel([tmp_path / "gone", tmp_path, there, tmp_path / "other"]) == there


def test_the_hosts_own_kernel_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Path("/boot") / f"vmlinuz-{os.uname().release}"
    monkeypatch.setattr(Path, "is_file", lambda self: self == own)
    assert _accel.find_kernel([tmp_path / "gone"]) == own
    monkeypatch.setattr(Path, "is_file", lambda self: False)
    assert _accel.find_kernel([tmp_path / "gone"]) is None


# -- who may open the device ---------------------------------------------------------------------------------------------

QEMU_UID, QEMU_GID, KVM_GID = 64055, 64056, 104


@pytest.fixture
def qemu_user(monkeypatch: pytest.MonkeyPatch) -> None:
    user = pwd.struct_passwd(("libvirt-qemu", "x", QEMU_UID, QEMU_GID, "", "/", "/bin/false"))
    monkeypatch.setattr(_accel, "_user", lambda name: user if name == "libvirt-qemu" else None)
    groups = [grp.struct_group(("kvm", "x", KVM_GID, ["libvirt-qemu"])), grp.struct_group(("disk", "x", 6, ["jane"]))]
    monkeypatch.setattr(grp, "getgrall", lambda: groups)


class Device:
    """A device node as its status shows it."""

    def __init__(self, uid: int, gid: int, mode: int) -> None:
        self._status = os.stat_result((0o020000 | mode, 0, 0, 1, uid, gid, 0, 0, 0, 0))

    def __str__(self) -> str:
        return "/dev/kvm"

    def exists(self) -> bool:
        return True

    def stat(self) -> os.stat_result:
        return self._status


@pytest.mark.usefixtures("qemu_user")
@pytest.mark.parametrize(
    ("uid", "gid", "mode", "open_to_qemu"),
    [
        (0, KVM_GID, 0o660, True),
        (0, 0, 0o666, True),
        (0, QEMU_GID, 0o660, True),
        (QEMU_UID, 0, 0o600, True),
        (0, 0, 0o660, False),
        (0, 6, 0o660, False),
        (0, KVM_GID, 0o600, False),
        (0, KVM_GID, 0o640, False),
        (QEMU_UID, 0, 0o400, False),
        (0, 0, 0o600, False),
    ],
)
def test_the_trap_of_a_device_that_only_root_may_open(uid: int, gid: int, mode: int, open_to_qemu: bool) -> None:
    trap = _accel.permission_trap(Device(uid, gid, mode))
    assert trap == ("" if open_to_qemu else f"/dev/kvm has mode {mode:04o} and is closed to QEMU's user libvirt-qemu")


@pytest.mark.usefixtures("qemu_user")
def test_the_mode_of_a_real_file_counts(device: Path) -> None:
    device.chmod(0o666)
    assert _accel.permission_trap(device) == ""
    device.chmod(0o600)
    assert "has mode 0600" in _accel.permission_trap(device)


@pytest.mark.usefixtures("qemu_user")
def test_there_is_no_trap_without_a_device(tmp_path: Path) -> None:
    assert _accel.permission_trap(tmp_path / "nowhere") == ""


def test_there_is_no_trap_without_a_user_of_qemus(device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device.chmod(0o600)
    monkeypatch.setattr(_accel, "_user", lambda name: None)
    assert _accel.permission_trap(device) == ""


def test_users_that_do_not_exist_are_none() -> None:
    assert _accel._user("no-such-user-anywhere") is None
    assert _accel._user("root").pw_uid == 0
