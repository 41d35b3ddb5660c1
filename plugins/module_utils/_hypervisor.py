# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From what was seen of a hypervisor to its problems and their remedies. Pure."""

from __future__ import annotations

import dataclasses
import typing as t
from pathlib import Path

from ._accel import Proof
from ._lxml import etree
from ._nss import NssState

# An image is built in about 2 GiB; an overlay of a short job takes a few hundred MiB.
LOW_DISK_MIB = 4096
LOW_MEMORY_MIB = 1024

_ROLE = "Run the play mayfly.virt.hypervisor."


@dataclasses.dataclass(frozen=True)
class Findings:
    """What was seen."""

    accel: Proof
    permission_trap: str
    nss: NssState
    networks: t.Mapping[str, bool]
    network: str
    firmware: tuple[str, ...]
    capacity: t.Mapping[str, int]
    state_dir: Path
    missing_programs: tuple[str, ...]
    wall: bool = True


@dataclasses.dataclass(frozen=True)
class Problem:
    """One thing that is wrong, and what to do about it. A grave one keeps guests from being made, others slow or worsen a job."""

    subject: str
    problem: str
    remedy: str
    grave: bool = False


def firmware(domain_capabilities: str) -> tuple[str, ...]:
    """Return the firmware that a domain capabilities document offers; none without one."""
    if not domain_capabilities:
        return ()
    values = etree.fromstring(domain_capabilities).xpath("/domainCapabilities/os/enum[@name='firmware']/value/text()")
    return ("bios", *(value for value in values if value != "bios"))


def problems(findings: Findings) -> list[Problem]:
    """Name everything that will hurt a job."""
    found = []
    if findings.permission_trap:
        found.append(
            Problem(
                "/dev/kvm",
                f"{findings.permission_trap}, so libvirt probes QEMU anew for every domain: "
                "making one takes minutes instead of half a second",
                f"{_ROLE} It sets group kvm and mode 0660.",
                grave=True,
            )
        )
    if findings.accel.accel != "kvm":
        remedy = "Enable (nested) virtualisation for this host; until then deadlines are multiplied."
        if not findings.accel.proven:
            remedy = "Build or import an image with a kernel, then ask again."
        found.append(Problem("acceleration", f"guests are emulated: {findings.accel.reason}", remedy))
    if not findings.nss.module:
        found.append(Problem("nss", "the module libnss_libvirt_guest is not installed: guests have no names here", _ROLE))
    elif not findings.nss.configured:
        found.append(Problem("nss", "nsswitch.conf does not ask libvirt_guest before dns: guests have no names here", _ROLE))
    if not findings.networks.get(findings.network):
        state = "is not started" if findings.network in findings.networks else "does not exist"
        found.append(Problem("network", f"the libvirt network '{findings.network}' {state}", _ROLE, grave=True))
    elif not findings.wall:
        why = f"guests on the network '{findings.network}' reach this host's services: the table that keeps them out is not loaded"
        found.append(Problem("wall", why, _ROLE))
    for program in findings.missing_programs:
        found.append(Problem("programs", f"{program} is not installed", _ROLE, grave=True))
    if findings.capacity["disk_free_mib"] < LOW_DISK_MIB:
        free = findings.capacity["disk_free_mib"]
        found.append(Problem("disk", f"only {free} MiB are free for {findings.state_dir}", "Make room, or move state_dir."))
    if findings.capacity["available_mib"] < LOW_MEMORY_MIB:
        free = findings.capacity["available_mib"]
        found.append(Problem("memory", f"only {free} MiB of memory are available", "End other guests, or add memory."))
    return found
