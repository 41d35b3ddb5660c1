# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""libvirt-NSS and what is said of a hypervisor: each thing that is wrong is named alone, with its remedy."""

from __future__ import annotations

import dataclasses
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.mayfly.virt.plugins.module_utils import _hypervisor, _nss
from ansible_collections.mayfly.virt.plugins.module_utils._accel import Proof
from ansible_collections.mayfly.virt.plugins.module_utils._hypervisor import Findings
from ansible_collections.mayfly.virt.plugins.module_utils._nss import NssState

# -- nsswitch.conf -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "services"),
    [
        ("hosts: files dns", ["files", "dns"]),
        ("hosts:files libvirt_guest\tdns", ["files", "libvirt_guest", "dns"]),
        ("\thosts:\t\tfiles dns # libvirt_guest", ["files", "dns"]),
        ("hosts: files mdns4_minimal [NOTFOUND=return] libvirt_guest dns", ["files", "mdns4_minimal", "libvirt_guest", "dns"]),
        ("hosts: files [!UNAVAIL=return  SUCCESS=continue] dns", ["files", "dns"]),
        ("hosts:", []),
        ("#hosts: files", []),
        ("nohosts: files", []),
        ("", []),
    ],
)
def test_reads_the_hosts_line(line: str, services: list[str]) -> None:
    text = f"# a remark\npasswd: files systemd\n{line}\nnetworks: files libvirt_guest\n"
    assert _nss.hosts_services(text) == services


@pytest.mark.parametrize(
    ("line", "early"),
    [
        ("hosts: files libvirt_guest dns", True),
        ("hosts: libvirt_guest files", True),
        ("hosts: files libvirt_guest", True),
        ("hosts: files libvirt_guest resolve [!UNAVAIL=return] dns", True),
        ("hosts: files mymachines myhostname libvirt_guest dns", True),
        ("hosts: db compat libvirt_guest # dns", True),
        ("hosts: files [NOTFOUND=return] libvirt_guest dns", False),
        ("hosts: files [ NOTFOUND = return ] libvirt_guest dns", False),
        ("hosts: files mdns4_minimal libvirt_guest dns", False),
        ("hosts: files wins libvirt_guest", False),
        ("hosts: files libvirt libvirt_guest dns", False),
        ("hosts: files dns libvirt_guest", False),
        ("hosts: files resolve [!UNAVAIL=return] libvirt_guest dns", False),
        ("hosts: files dns", False),
        ("hosts: files libvirt dns", False),
        ("# hosts: files libvirt_guest dns", False),
        ("", False),
    ],
)
def test_libvirt_must_be_asked_before_those_that_ask_others(line: str, early: bool) -> None:
    assert _nss.asked_early(f"{line}\n") is early


def test_what_stands_behind_a_return_is_not_asked() -> None:
    assert not _nss.asked_early("hosts: files myhostname [NOTFOUND=return] libvirt_guest\n")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("hosts: files dns", "files libvirt_guest dns"),
        ("hosts:\tfiles dns # as it came", "files libvirt_guest dns"),
        ("hosts: files resolve [!UNAVAIL=return] dns", "files libvirt_guest resolve [!UNAVAIL=return] dns"),
        ("hosts: files mdns4_minimal [NOTFOUND=return] dns", "files libvirt_guest mdns4_minimal [NOTFOUND=return] dns"),
        ("hosts: files dns libvirt_guest", "files libvirt_guest dns"),
        ("hosts: files [NOTFOUND=return] dns", "libvirt_guest files [NOTFOUND=return] dns"),
        ("hosts: files myhostname [ NOTFOUND = return ] dns", "files libvirt_guest myhostname [ NOTFOUND = return ] dns"),
        ("hosts: files mymachines myhostname resolve dns", "files mymachines myhostname libvirt_guest resolve dns"),
        ("hosts: files resolve [!UNAVAIL=return] libvirt_guest dns", "files libvirt_guest resolve [!UNAVAIL=return] dns"),
        ("hosts:", "libvirt_guest"),
        ("hosts: dns", "libvirt_guest dns"),
        ("passwd: files", "files libvirt_guest dns"),
        ("", "files libvirt_guest dns"),
    ],
)
def test_puts_libvirt_behind_files(before: str, after: str) -> None:
    line = _nss.with_guests(f"{before}\n")
    assert line.split() == ["hosts:", *after.split()]
    assert _nss.asked_early(line)
    assert _nss.with_guests(f"{line}\n") == line


def test_leaves_a_line_that_is_right_as_it_is() -> None:
    line = "hosts:  libvirt_guest   files dns"
    assert _nss.with_guests(f"passwd: files\n{line}\n") == line


def test_puts_libvirt_before_resolve_wherever_that_stands() -> None:
    """The line that systemd's manual recommends."""
    line = _nss.with_guests("hosts: mymachines resolve [!UNAVAIL=return] files myhostname dns\n")
    assert line.split() == ["hosts:", "mymachines", "libvirt_guest", "resolve", "[!UNAVAIL=return]", "files", "myhostname", "dns"]
    assert _nss.asked_early(line)


WORDS = st.sampled_from(
    [
        "files",
        "dns",
        "resolve",
        "myhostname",
        "mymachines",
        "mdns4_minimal",
        "libvirt",
        "libvirt_guest",
        "[NOTFOUND=return]",
        "[!UNAVAIL=return]",
    ]
)


@given(st.lists(WORDS, max_size=8))
def test_putting_libvirt_in_comes_to_rest_and_keeps_the_others(words: list[str]) -> None:
    line = _nss.with_guests(f"hosts: {' '.join(words)}\n")
    assert _nss.with_guests(f"{line}\n") == line
    asked = _nss.hosts_services(line)
    if line.split() == ["hosts:", *words]:
        assert _nss.asked_early(line)
        return
    assert asked.count("libvirt_guest") == 1
    assert [word for word in line.split()[1:] if word != "libvirt_guest"] == [word for word in words if word != "libvirt_guest"]


def test_the_state_of_a_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nsswitch, libraries = tmp_path / "nsswitch.conf", tmp_path / "lib"
    monkeypatch.setattr(_nss, "_LIBRARY_DIRS", (str(libraries),))
    assert _nss.state(nsswitch) == NssState(module=False, configured=False)
    nsswitch.write_text("hosts: files libvirt_guest dns\n")
    assert _nss.state(nsswitch) == NssState(module=False, configured=True)
    assert not _nss.state(nsswitch).works
    (libraries / "x86_64-linux-gnu").mkdir(parents=True)
    (libraries / "x86_64-linux-gnu" / "libnss_libvirt_guest.so.2").write_text("")
    assert _nss.state(nsswitch).works


def test_a_library_directly_in_its_directory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_nss, "_LIBRARY_DIRS", (str(tmp_path / "gone"), str(tmp_path)))
    (tmp_path / "libnss_libvirt.so.2").write_text("")
    assert not _nss.state(tmp_path / "none").module
    (tmp_path / "libnss_libvirt_guest.so.2").write_text("")
    assert _nss.state(tmp_path / "none").module


class Resolver:
    """A resolver that knows some names."""

    def __init__(self, **names: list[str]) -> None:
        self._names = names

    def __call__(self, name: str, port: None, family: int, kind: int) -> list[Any]:
        assert (family, kind) == (socket.AF_INET, socket.SOCK_STREAM)
        if name not in self._names:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(family, kind, 6, "", (address, 0)) for address in self._names[name]]


@pytest.mark.parametrize(
    ("name", "addresses", "resolves"),
    [
        ("one", ["10.0.0.1"], True),
        ("one", ["10.0.0.1", "10.0.0.2"], True),
        ("one", ["10.0.0.9"], False),
        ("one", [], False),
        ("two", ["10.0.0.1", "10.0.0.2"], True),
        ("two", ["10.0.0.1"], False),
        ("nobody", ["10.0.0.1"], False),
        ("empty", [], False),
    ],
)
def test_a_name_resolves_to_its_own_addresses_only(
    monkeypatch: pytest.MonkeyPatch, name: str, addresses: list[str], resolves: bool
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", Resolver(one=["10.0.0.1"], two=["10.0.0.1", "10.0.0.2"], empty=[]))
    assert _nss.resolves(name, addresses) is resolves


def test_a_name_that_is_none_does_not_resolve() -> None:
    assert not _nss.resolves("x" * 70 + ".example.org", ["10.0.0.1"])
    assert not _nss.resolves("a..b", ["10.0.0.1"])


# -- problems ------------------------------------------------------------------------------------------------------------

CAPACITY = {"memory_mib": 64000, "available_mib": 60000, "cpus": 16, "domains": 0, "disk_free_mib": 100000}
FINE = Findings(
    accel=Proof("kvm", True, "a kernel booted under KVM"),
    permission_trap="",
    nss=NssState(module=True, configured=True),
    networks={"mayfly": True, "other": False},
    network="mayfly",
    firmware=("bios", "efi"),
    capacity=CAPACITY,
    state_dir=Path("/var/lib/mayfly"),
    missing_programs=(),
)
WRONG = {
    "permission trap": ({"permission_trap": "/dev/kvm has mode 0600"}, "/dev/kvm", "/dev/kvm has mode 0600, so libvirt probes", "0660"),
    "emulated": ({"accel": Proof("tcg", True, "no kernel runs")}, "acceleration", "guests are emulated: no kernel runs", "virtualisation"),
    "unproven": ({"accel": Proof("tcg", False, "there is no kernel")}, "acceleration", "there is no kernel", "image with a kernel"),
    "no nss module": ({"nss": NssState(False, False)}, "nss", "is not installed", "mayfly.virt.hypervisor"),
    "no nss module, though asked": ({"nss": NssState(False, True)}, "nss", "is not installed", "mayfly.virt.hypervisor"),
    "nss not asked": ({"nss": NssState(True, False)}, "nss", "does not ask libvirt_guest before dns", "mayfly.virt.hypervisor"),
    "no network": ({"network": "lab"}, "network", "the libvirt network 'lab' does not exist", "mayfly.virt.hypervisor"),
    "network stopped": ({"network": "other"}, "network", "the libvirt network 'other' is not started", "mayfly.virt.hypervisor"),
    "program": ({"missing_programs": ("xorriso",)}, "programs", "xorriso is not installed", "mayfly.virt.hypervisor"),
    "disk": ({"capacity": {**CAPACITY, "disk_free_mib": 4095}}, "disk", "only 4095 MiB are free for /var/lib/mayfly", "Make room"),
    "memory": ({"capacity": {**CAPACITY, "available_mib": 1023}}, "memory", "only 1023 MiB of memory are available", "add memory"),
}


def test_a_host_that_is_ready_has_no_problem() -> None:
    assert _hypervisor.problems(FINE) == []


@pytest.mark.parametrize("capacity", [{"disk_free_mib": 4096}, {"available_mib": 1024}])
def test_just_enough_is_no_problem(capacity: dict[str, int]) -> None:
    assert _hypervisor.problems(dataclasses.replace(FINE, capacity={**CAPACITY, **capacity})) == []


@pytest.mark.parametrize(("change", "subject", "problem", "remedy"), WRONG.values(), ids=WRONG)
def test_each_finding_alone_is_its_problem(change: dict[str, Any], subject: str, problem: str, remedy: str) -> None:
    (found,) = _hypervisor.problems(dataclasses.replace(FINE, **change))
    assert found.grave == (subject in ("/dev/kvm", "network", "programs"))
    assert found.subject == subject
    assert problem in found.problem
    assert remedy in found.remedy


def test_everything_wrong_is_said_at_once() -> None:
    worst = dataclasses.replace(
        FINE,
        accel=Proof("tcg", True, "x"),
        permission_trap="x",
        nss=NssState(False, False),
        networks={},
        missing_programs=("xorriso", "qemu-img"),
        capacity={**CAPACITY, "disk_free_mib": 0, "available_mib": 0},
    )
    found = [problem.subject for problem in _hypervisor.problems(worst)]
    assert found == ["/dev/kvm", "acceleration", "nss", "network", "programs", "programs", "disk", "memory"]


CAPABILITIES = """<domainCapabilities><domain>kvm</domain><os supported='yes'><enum name='firmware'>{values}</enum>
<loader supported='yes'><enum name='type'><value>rom</value></enum></loader></os></domainCapabilities>"""


@pytest.mark.parametrize(
    ("values", "firmware"),
    [("<value>efi</value>", ("bios", "efi")), ("", ("bios",)), ("<value>bios</value><value>efi</value>", ("bios", "efi"))],
)
def test_firmware_of_a_host(values: str, firmware: tuple[str, ...]) -> None:
    assert _hypervisor.firmware(CAPABILITIES.format(values=values)) == firmware


def test_a_host_without_any_domain_capabilities_has_no_firmware() -> None:
    assert _hypervisor.firmware("") == ()
