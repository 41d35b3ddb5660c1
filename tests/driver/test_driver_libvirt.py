# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What libvirt may answer besides what the test driver answers: races, errors, leases, statistics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from driver_kit import URI
from lxml import etree

from ansible_collections.mayfly.virt.plugins.module_utils._errors import MayflyError
from ansible_collections.mayfly.virt.plugins.module_utils._libvirt import Hypervisor, Lease, Network, Node, libvirt

BROKEN = "the connection is broken"


def failure(code: int, message: str = BROKEN) -> Exception:
    """Return the error that libvirt's bindings raise for a code."""
    error = libvirt.libvirtError(message)
    error.err = (code, 0, message, 2, "", "", "", 0, 0)
    return error


def code(name: str) -> int:
    return getattr(libvirt, f"VIR_ERR_{name}")


class Answers:
    """An object whose methods answer what they were told: a value, an error to raise, or a function."""

    def __init__(self, **answers: Any) -> None:
        self._answers = answers
        self.asked: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        answer = self._answers[name]

        def method(*arguments: Any) -> Any:
            self.asked.append((name, arguments))
            if isinstance(answer, Exception):
                raise answer
            return answer(*arguments) if callable(answer) else answer

        return method


def hypervisor(**answers: Any) -> Hypervisor:
    return Hypervisor(Answers(**answers), "qemu:///system")


def domain(name: str = "one-r1", **answers: Any) -> Answers:
    return Answers(**{"name": name, "UUIDString": f"uuid-of-{name}", "XMLDesc": f"<domain><name>{name}</name></domain>", **answers})


def test_a_domain_that_goes_between_list_and_look_is_left_out() -> None:
    gone = domain("gone", XMLDesc=failure(code("NO_DOMAIN")))
    assert [seen.name for seen in hypervisor(listAllDomains=[gone, domain()]).domains()] == ["one-r1"]


def test_a_domain_that_cannot_be_read_is_named() -> None:
    broken = domain("broken", XMLDesc=failure(code("INTERNAL_ERROR")))
    with pytest.raises(MayflyError, match=f"read domain 'broken': {BROKEN}"):
        hypervisor(listAllDomains=[broken]).domains()


def test_the_xml_of_a_domain_that_is_gone_is_empty() -> None:
    assert hypervisor(lookupByUUIDString=domain()).xml("u") == "<domain><name>one-r1</name></domain>"
    assert hypervisor(lookupByUUIDString=failure(code("NO_DOMAIN"))).xml("u") == ""
    assert hypervisor(lookupByUUIDString=domain(XMLDesc=failure(code("NO_DOMAIN")))).xml("u") == ""
    with pytest.raises(MayflyError, match=f"read domain 'u': {BROKEN}"):
        hypervisor(lookupByUUIDString=failure(code("INTERNAL_ERROR"))).xml("u")


def test_only_running_domains_are_listed() -> None:
    connection = Answers(listAllDomains=[])
    assert Hypervisor(connection, "x").domains() == []
    assert connection.asked == [("listAllDomains", (libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE,))]


def test_looking_a_name_up() -> None:
    assert hypervisor(lookupByName=domain()).domain("one-r1").name == "one-r1"
    assert hypervisor(lookupByName=failure(code("NO_DOMAIN"))).domain("one-r1") is None
    assert hypervisor(lookupByName=domain(XMLDesc=failure(code("NO_DOMAIN")))).domain("one-r1") is None
    with pytest.raises(MayflyError, match=f"look up domain 'one-r1': {BROKEN}"):
        hypervisor(lookupByName=failure(code("INTERNAL_ERROR"))).domain("one-r1")


STATES = {
    "NOSTATE": "no state",
    "RUNNING": "running",
    "BLOCKED": "running",
    "PAUSED": "paused",
    "SHUTDOWN": "shutting down",
    "SHUTOFF": "shut off",
    "CRASHED": "crashed",
    "PMSUSPENDED": "suspended",
}


@pytest.mark.parametrize(("state", "word"), STATES.items())
def test_every_state_has_its_word(state: str, word: str) -> None:
    number = getattr(libvirt, f"VIR_DOMAIN_{state}")
    stats = [(domain(), {"state.state": number, "state.reason": 1})]
    assert hypervisor(getAllDomainStats=stats).states() == {"uuid-of-one-r1": word}
    without = hypervisor(getAllDomainStats=failure(code("NO_SUPPORT")), listAllDomains=[domain(state=[number, 1])])
    assert without.states() == {"uuid-of-one-r1": word}


def test_states_that_cannot_be_read_are_an_error() -> None:
    with pytest.raises(MayflyError, match=f"read domain states of 'qemu:///system': {BROKEN}"):
        hypervisor(getAllDomainStats=failure(code("INTERNAL_ERROR"))).states()


def test_a_domain_that_goes_while_states_are_read_one_by_one_is_off() -> None:
    domains = [domain("gone", state=failure(code("NO_DOMAIN"))), domain(state=[libvirt.VIR_DOMAIN_RUNNING, 1])]
    without = hypervisor(getAllDomainStats=failure(code("NO_SUPPORT")), listAllDomains=domains)
    assert without.states() == {"uuid-of-gone": "shut off", "uuid-of-one-r1": "running"}
    broken = [domain("broken", state=failure(code("INTERNAL_ERROR")))]
    with pytest.raises(MayflyError, match=f"read domain states of 'qemu:///system': {BROKEN}"):
        hypervisor(getAllDomainStats=failure(code("NO_SUPPORT")), listAllDomains=broken).states()


def entry(**fields: Any) -> dict[str, Any]:
    return {
        "iface": "virbr7",
        "expirytime": 100,
        "type": libvirt.VIR_IP_ADDR_TYPE_IPV4,
        "mac": "52:54:00:AB:CD:EF",
        "ipaddr": "10.0.0.1",
        "clientid": "01:52",
        **fields,
    }


def network(name: str, entries: Sequence[dict[str, Any]] | Exception = (), **answers: Any) -> Answers:
    return Answers(**{"name": name, "DHCPLeases": entries if isinstance(entries, Exception) else list(entries), **answers})


def test_leases_of_the_networks_that_were_asked_for() -> None:
    networks = [network("mayfly", [entry()]), network("other", [entry(ipaddr="10.0.0.2", clientid=None)]), network("lab")]
    there = hypervisor(listAllNetworks=networks)
    first = Lease("mayfly", "virbr7", "52:54:00:ab:cd:ef", "10.0.0.1", "01:52", 100)
    assert there.leases({"mayfly", "lab"}) == [first]
    assert there.leases(set()) == []
    assert [lease.address for lease in there.leases()] == ["10.0.0.1", "10.0.0.2"]
    assert there.leases()[1].client_id == ""
    assert not networks[2].asked or networks[2].asked[-1][0] == "DHCPLeases"


def test_leases_of_ipv6_are_passed_over() -> None:
    six = entry(type=libvirt.VIR_IP_ADDR_TYPE_IPV6, ipaddr="fe80::1")
    assert [lease.address for lease in hypervisor(listAllNetworks=[network("m", [six, entry()])]).leases()] == ["10.0.0.1"]


def test_networks_without_leases_are_passed_over_and_broken_ones_are_not() -> None:
    networks = [network("a", failure(code("NO_SUPPORT"))), network("b", [entry()])]
    assert len(hypervisor(listAllNetworks=networks).leases()) == 1
    with pytest.raises(MayflyError, match=f"read DHCP leases of 'qemu:///system': {BROKEN}"):
        hypervisor(listAllNetworks=[network("a", failure(code("INTERNAL_ERROR")))]).leases()


@pytest.mark.parametrize("name", ["OPERATION_INVALID", "NO_NETWORK"])
def test_a_network_that_is_stopped_between_list_and_look_has_no_leases(name: str) -> None:
    networks = [network("a", failure(code(name), "network is not active")), network("b", [entry()])]
    assert len(hypervisor(listAllNetworks=networks).leases()) == 1


def test_networks_by_name() -> None:
    listed = [
        network("on", isActive=1, isPersistent=1, autostart=1),
        network("off", isActive=0, isPersistent=1, autostart=0),
        network("transient", isActive=1, isPersistent=0),  # libvirt would answer autostart() with an error
    ]
    assert hypervisor(listAllNetworks=listed).networks() == {
        "on": Network("on", True, True),
        "off": Network("off", False, False),
        "transient": Network("transient", True, False),
    }


def test_a_network_without_a_bridge_is_listed_too() -> None:
    """libvirt answers so for forward modes such as passthrough and hostdev. Nobody needs a bridge, so none is asked for."""
    listed = [
        network(
            "direct",
            isActive=1,
            isPersistent=0,
            bridgeName=failure(code("INTERNAL_ERROR"), "network 'direct' does not have a bridge name."),
        )
    ]
    assert hypervisor(listAllNetworks=listed).networks()["direct"].active


INFO = ["x86_64", 1024, 4, 2000, 1, 1, 4, 1]


def test_memory_by_statistics_where_there_are_some() -> None:
    stats = {"total": 4 << 20, "free": 1 << 20, "buffers": 1 << 10, "cached": 1 << 11}
    assert hypervisor(getInfo=INFO, getMemoryStats=stats).node() == Node(4096, 1024 + 1 + 2, 4)
    assert hypervisor(getInfo=INFO, getMemoryStats={"total": 4 << 20}).node() == Node(4096, 0, 4)
    assert hypervisor(getInfo=INFO, getMemoryStats=failure(code("NO_SUPPORT"))).node() == Node(1024, 1024, 4)
    with pytest.raises(MayflyError, match=f"read the capacity of 'qemu:///system': {BROKEN}"):
        hypervisor(getInfo=INFO, getMemoryStats=failure(code("INTERNAL_ERROR"))).node()


def test_capabilities_that_there_cannot_be_are_empty() -> None:
    assert hypervisor(getDomainCapabilities="<domainCapabilities/>").domain_capabilities("kvm") == "<domainCapabilities/>"
    for name in ("INVALID_ARG", "CONFIG_UNSUPPORTED", "NO_SUPPORT"):
        assert hypervisor(getDomainCapabilities=failure(code(name))).domain_capabilities("kvm") == ""
    with pytest.raises(MayflyError, match=f"read capabilities of qemu domains of 'qemu:///system': {BROKEN}"):
        hypervisor(getDomainCapabilities=failure(code("INTERNAL_ERROR"))).domain_capabilities("tcg")


@pytest.mark.parametrize(
    ("driver", "accel", "virt_type"), [("QEMU", "kvm", "kvm"), ("QEMU", "tcg", "qemu"), ("TEST", "kvm", "test"), ("TEST", "tcg", "test")]
)
def test_the_type_of_a_domain(driver: str, accel: str, virt_type: str) -> None:
    assert hypervisor(getType=driver).virt_type(accel) == virt_type


def test_versions_in_dots() -> None:
    assert hypervisor(getLibVersion=9000012, getType="QEMU", getVersion=7002022).versions() == {"libvirt": "9.0.12", "qemu": "7.2.22"}


def test_ending_a_domain() -> None:
    ended = domain(destroy=0)
    connection = Answers(lookupByUUIDString=lambda uuid: ended)
    assert Hypervisor(connection, "x").destroy("one-r1", "the uuid") is True
    assert connection.asked == [("lookupByUUIDString", ("the uuid",))]
    assert ended.asked == [("destroy", ())]


@pytest.mark.parametrize("name", ["NO_DOMAIN", "OPERATION_INVALID"])
def test_ending_what_has_ended_is_quiet(name: str) -> None:
    assert hypervisor(lookupByUUIDString=failure(code(name))).destroy("one-r1", "u") is False
    assert hypervisor(lookupByUUIDString=domain(destroy=failure(code(name)))).destroy("one-r1", "u") is False


def test_what_cannot_be_ended_is_named() -> None:
    with pytest.raises(MayflyError, match=f"destroy domain 'one-r1': {BROKEN}"):
        hypervisor(lookupByUUIDString=domain(destroy=failure(code("OPERATION_FAILED")))).destroy("one-r1", "u")


def test_a_connection_for_reading_only_changes_nothing(connection: object) -> None:
    with Hypervisor.open(URI, read_only=True) as reader:
        assert [seen.name for seen in reader.domains()] == ["test"]
        with pytest.raises(MayflyError, match=r"read only|read-only"):
            reader.create("x", "<domain type='test'><name>x</name><memory>1</memory><os><type>hvm</type></os></domain>")


# -- networks ------------------------------------------------------------------------------------------------------------

LAB = "<network><name>lab</name><bridge name='lab0'/><ip address='10.9.0.1' prefix='24'/></network>"


def test_making_and_removing_a_network(connection: Any) -> None:
    with Hypervisor.open(URI) as there:
        assert there.network_xml("lab") is None
        there.define_network("lab", LAB)
        assert "lab0" in there.network_xml("lab")
        made = connection.networkLookupByName("lab")
        assert (made.isActive(), made.isPersistent(), made.autostart()) == (1, 1, 1)
        there.define_network("lab", LAB.replace("lab0", "lab1"))
        assert "lab1" in there.network_xml("lab")
        there.remove_network("lab")
        there.remove_network("lab")
        assert there.networks().keys() == {"default"}


NEW = LAB.replace("lab0", "lab1")


class Networks:
    """A daemon with one network at most; those of the documents given are refused, when they are defined or when they are started."""

    def __init__(self, *, undefinable: tuple[str, ...] = (), unstartable: tuple[str, ...] = ()) -> None:
        self.defined: str | None = None
        self.active = False
        self.autostart = False
        self._undefinable, self._unstartable = undefinable, unstartable

    def hypervisor(self) -> Hypervisor:
        return hypervisor(networkLookupByName=self._look_up, networkDefineXML=self._define)

    def _look_up(self, _name: str) -> Answers:
        if self.defined is None:
            raise failure(code("NO_NETWORK"))
        return self._network()

    def _define(self, xml: str) -> Answers:
        if xml in self._undefinable:
            raise failure(code("INTERNAL_ERROR"), "bridge lab0 is in use")
        self.defined = xml
        return self._network()

    def _network(self) -> Answers:
        return Answers(
            XMLDesc=lambda *_flags: self.defined,
            create=self._start,
            destroy=lambda: setattr(self, "active", False),
            undefine=lambda: setattr(self, "defined", None),
            setAutostart=lambda on: setattr(self, "autostart", on),
            isActive=lambda: self.active,
            isPersistent=1,
        )

    def _start(self) -> None:
        if self.defined in self._unstartable:
            raise failure(code("INTERNAL_ERROR"), "bridge lab0 is in use")
        self.active = True


def test_a_network_that_does_not_start_is_not_left_defined() -> None:
    networks = Networks(unstartable=(LAB,))
    with pytest.raises(MayflyError, match="make network 'lab': bridge lab0 is in use") as caught:
        networks.hypervisor().define_network("lab", LAB)
    assert "subnet or bridge" in caught.value.remedy
    assert networks.defined is None


@pytest.mark.parametrize("refusing", [{"undefinable": (NEW,)}, {"unstartable": (NEW,)}], ids=["defined", "started"])
def test_the_old_network_is_put_back_when_the_new_one_cannot_be(refusing: dict[str, tuple[str, ...]]) -> None:
    networks = Networks(**refusing)
    networks.hypervisor().define_network("lab", LAB)
    assert (networks.defined, networks.active, networks.autostart) == (LAB, True, True)
    with pytest.raises(MayflyError, match="make network 'lab': bridge lab0 is in use"):
        networks.hypervisor().define_network("lab", NEW)
    assert (networks.defined, networks.active, networks.autostart) == (LAB, True, True)


def test_the_description_that_is_kept_is_the_one_to_define_again() -> None:
    """The other one, of a running network, says what it is now."""
    asked = []
    old = network("lab", XMLDesc=lambda flags: asked.append(flags) or LAB, isPersistent=1, isActive=0, undefine=0)
    new = network("lab", create=0, setAutostart=0)
    hypervisor(networkLookupByName=lambda name: old, networkDefineXML=lambda xml: new).define_network("lab", NEW)
    assert asked == [libvirt.VIR_NETWORK_XML_INACTIVE]
    assert old.asked[-1][0] == "undefine"


def test_an_old_network_that_cannot_be_read_is_named() -> None:
    old = network("lab", XMLDesc=failure(code("INTERNAL_ERROR")))
    with pytest.raises(MayflyError, match=BROKEN):
        hypervisor(networkLookupByName=lambda name: old).define_network("lab", NEW)


def test_a_network_that_cannot_be_changed_stays_as_it_was(connection: Any) -> None:
    with Hypervisor.open(URI) as there:
        there.define_network("lab", LAB)
        before = etree.fromstring(there.network_xml("lab"))
        with pytest.raises(MayflyError):
            there.define_network("lab", "<network><name>lab</name><forward mode='nonsense'/></network>")
        assert etree.tostring(etree.fromstring(there.network_xml("lab"))) == etree.tostring(before)
        made = connection.networkLookupByName("lab")
        assert (made.isActive(), made.isPersistent(), made.autostart()) == (1, 1, 1)


def test_a_network_that_cannot_be_looked_up_is_named() -> None:
    with pytest.raises(MayflyError, match=f"look up network 'lab': {BROKEN}"):
        hypervisor(networkLookupByName=failure(code("INTERNAL_ERROR"))).network_xml("lab")


# -- evidence ------------------------------------------------------------------------------------------------------------


def test_the_condition_of_a_domain() -> None:
    sick = domain(state=[libvirt.VIR_DOMAIN_PAUSED, 5], diskErrors={"vda": 2, "vdb": 1, "vdc": 9}, messages=["tainted: high-privileges"])
    connection = Answers(lookupByUUIDString=sick, domainListGetStats=[(sick, {"cpu.time": 7})])
    assert Hypervisor(connection, "x").condition("u") == {
        "state": 3,
        "reason": 5,
        "disk_errors": {"vda": "no space left", "vdb": "unspecified I/O error", "vdc": "9"},
        "messages": ["tainted: high-privileges"],
        "statistics": {"cpu.time": 7},
    }


def test_a_screen_comes_as_a_stream() -> None:
    pieces = [b"P6 ", b"1 1"]
    stream = Answers(recvAll=lambda take, kept: [take(None, piece, kept) for piece in pieces], finish=None)
    screen = domain(screenshot="image/x-portable-pixmap")
    assert Hypervisor(Answers(lookupByUUIDString=screen, newStream=stream), "x").screenshot("u") == b"P6 1 1"
    assert [name for name, _arguments in stream.asked] == ["recvAll", "finish"]


def test_keys_interrupts_and_dumps_reach_the_domain() -> None:
    there = domain(sendKey=0, injectNMI=0, coreDumpWithFormat=0)
    connection = Hypervisor(Answers(lookupByUUIDString=there), "x")
    connection.press("u", (56, 99, 38))
    connection.interrupt("u")
    connection.dump_memory("u", "/var/dump")
    assert there.asked == [
        ("sendKey", (libvirt.VIR_KEYCODE_SET_LINUX, 100, [56, 99, 38], 3)),
        ("injectNMI", ()),
        ("coreDumpWithFormat", ("/var/dump", libvirt.VIR_DOMAIN_CORE_DUMP_FORMAT_KDUMP_ZLIB, libvirt.VIR_DUMP_MEMORY_ONLY)),
    ]


@pytest.mark.parametrize(
    ("method", "arguments", "attempted"),
    [
        ("condition", (), "read the condition of domain"),
        ("screenshot", (), "take a screenshot of domain"),
        ("press", ([56],), "send a key to domain"),
        ("interrupt", (), "send an NMI to domain"),
        ("dump_memory", ("/var/dump",), "dump the memory of domain"),
    ],
)
def test_what_a_domain_refuses_is_said(method: str, arguments: tuple[Any, ...], attempted: str) -> None:
    broken = failure(code("OPERATION_INVALID"), "domain is not running")
    with pytest.raises(MayflyError, match=f"{attempted} 'u': domain is not running"):
        getattr(hypervisor(lookupByUUIDString=broken), method)("u", *arguments)
