# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Domain parameters to libvirt's XML, and what we need to know back from it. Pure: no libvirt, no files."""

from __future__ import annotations

import dataclasses
import typing as t

from ._errors import InvalidInput
from ._lxml import etree
from ._tag import NAMESPACE, Tag

AGENT_CHANNEL = "org.qemu.guest_agent.0"


@dataclasses.dataclass(frozen=True)
class Backing:
    """A read-only file under a disk."""

    path: str
    format: str


@dataclasses.dataclass(frozen=True)
class Disk:
    """A file given to the guest as a disk, its backing chain topmost first."""

    path: str
    format: str = "qcow2"
    backing: tuple[Backing, ...] = ()
    bus: str = "virtio"
    readonly: bool = False
    cache: str = ""
    discard: str = ""
    serial: str = ""


@dataclasses.dataclass(frozen=True)
class Interface:
    """A network card on a libvirt network."""

    network: str
    mac: str
    model: str = "virtio"
    isolated: bool | None = None  # None: as the network says


@dataclasses.dataclass(frozen=True)
class DirectBoot:
    """Kernel, initrd and command line that QEMU itself loads."""

    kernel: str
    initrd: str = ""
    cmdline: str = ""


# QEMU emulates AMD's virtualisation, too, but of a dozen guests whose libvirt used it one froze. Without it QEMU 7.2 has no leaf of CPUID
# that tells the width of addresses; Linux then takes 36 and 48 bits, and with page tables of five levels it cannot mount anything.
NOT_EMULATED = ("svm", "la57")


@dataclasses.dataclass(frozen=True)
class DomainSpec:
    """Everything a transient domain is made of."""

    name: str
    memory_mib: int
    vcpus: int
    virt_type: str  # kvm, qemu (emulated) or test
    machine: str = "q35"
    arch: str = "x86_64"
    cpu: str = ""  # empty: everything the acceleration can offer, but no emulated virtualisation
    firmware: str = "bios"
    nvram: str = ""
    boot: DirectBoot | None = None
    disks: tuple[Disk, ...] = ()
    interfaces: tuple[Interface, ...] = ()
    console_log: str = ""
    rng: bool = True
    agent: bool = True
    panic: bool = True
    vmcoreinfo: bool = True
    tag: Tag | None = None


@dataclasses.dataclass(frozen=True)
class SeenDomain:
    """What a running domain's XML tells us."""

    name: str
    uuid: str
    tag: Tag | None
    memory_mib: int
    vcpus: int
    macs: tuple[str, ...]
    networks: tuple[str, ...]
    console_log: str


def build(spec: DomainSpec) -> t.Any:
    """Return the <domain> element of the spec."""
    try:
        domain = etree.Element("domain", type=spec.virt_type)
        _text(domain, "name", spec.name)
        if spec.tag:
            _add(domain, "metadata").append(spec.tag.to_element())
        _text(domain, "memory", str(spec.memory_mib), {"unit": "MiB"})
        _text(domain, "vcpu", str(spec.vcpus))
        domain.append(_os(spec))
        domain.append(_features(spec))
        domain.append(_cpu(spec))
        # After a panic the guest stays, stopped, as evidence; a reboot it asks for is its own business.
        _text(domain, "on_poweroff", "destroy")
        _text(domain, "on_reboot", "restart")
        _text(domain, "on_crash", "preserve")
        domain.append(_devices(spec))
    except ValueError as error:  # lxml refuses NUL and other control characters in text
        raise InvalidInput("Domain", spec.name, f"a value cannot stand in XML: {error}", "Remove control characters.") from error
    return domain


def to_text(domain: t.Any) -> str:
    etree.indent(domain, space="  ")
    return etree.tostring(domain, encoding="unicode") + "\n"


def parse_document(name: str, text: str) -> t.Any:
    """Parse a user's <domain> document. Entities and external references stay unread."""
    # The text was decoded already: an encoding that it declares is no longer true.
    parser = etree.XMLParser(resolve_entities=False, no_network=True, remove_blank_text=True, encoding="utf-8")
    try:
        domain = etree.fromstring(text.encode(), parser)
    except (etree.XMLSyntaxError, UnicodeEncodeError) as error:
        raise InvalidInput("Domain XML of", name, f"it does not parse: {error}", "Correct the document.") from error
    if domain.tag != "domain":
        raise InvalidInput("Domain XML of", name, f"its root element is <{domain.tag}>", "Give a <domain> document.")
    return domain


def adopt(name: str, text: str, tag: Tag) -> t.Any:
    """Return the user's own <domain> document under our name and tag."""
    domain = parse_document(name, text)
    title = domain.find("name")
    if title is None:
        title = etree.Element("name")
        domain.insert(0, title)
    elif _text_of(title) != name:
        raise InvalidInput(
            "Domain XML of",
            name,
            f"it names the domain '{_text_of(title)}'",
            "Give both the same name, or leave <name> out of the document.",
        )
    title.clear()  # remarks within would divide the text
    title.text = name
    metadata = domain.find("metadata")
    if metadata is None:
        metadata = _add(domain, "metadata")
    # libvirt keeps one element for each namespace, and would drop ours.
    if any(etree.QName(child).namespace == NAMESPACE for child in metadata if isinstance(child.tag, str)):
        raise InvalidInput("Domain XML of", name, f"its metadata has an element of {NAMESPACE}", "Remove it; the module writes its own.")
    metadata.append(tag.to_element())
    return domain


def parse(text: str) -> SeenDomain:
    """Return what libvirt's own XML of a domain says."""
    return facts(etree.fromstring(text))


def facts(domain: t.Any) -> SeenDomain:
    """Return the same of a <domain> element."""
    name = _text_of(domain.find("name"))
    sources = [interface.find("source") for interface in domain.findall("devices/interface")]
    addresses = [mac.get("address") for mac in domain.findall("devices/interface/mac")]
    logs = [log.get("file") for kind in ("console", "serial") for log in domain.iterfind(f"devices/{kind}/log")]
    vcpus = _text_of(domain.find("vcpu")) or "1"
    if not _is_number(vcpus):
        raise InvalidInput("Domain XML of", name, f"<vcpu> is '{vcpus}'", "Give a number.")
    return SeenDomain(
        name=name,
        uuid=_text_of(domain.find("uuid")),
        tag=Tag.from_domain(domain),
        memory_mib=_mebibytes(domain.find("memory")),
        vcpus=int(vcpus),
        macs=tuple(address for address in addresses if address),
        networks=tuple(source.get("network") for source in sources if source is not None and source.get("network")),
        console_log=next((file for file in logs if file), ""),
    )


def _text_of(node: t.Any) -> str:
    """Return the text of an element, comments left out."""
    if node is None:
        return ""
    return "".join([node.text or "", *(child.tail or "" for child in node)]).strip()


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _mebibytes(memory: t.Any) -> int:
    """Return the size of a <memory> element; libvirt's default unit is KiB."""
    number = _text_of(memory)
    if not _is_number(number):
        return 0
    unit = memory.get("unit", "KiB")
    factors = {"b": 1, "bytes": 1, "KB": 10**3, "k": 2**10, "KiB": 2**10, "MB": 10**6, "M": 2**20, "MiB": 2**20}
    factors.update({"GB": 10**9, "G": 2**30, "GiB": 2**30, "TB": 10**12, "T": 2**40, "TiB": 2**40})
    return int(number) * factors.get(unit, 2**10) // 2**20


def _add(parent: t.Any, name: str, attributes: t.Mapping[str, str] | None = None) -> t.Any:
    """Append an element; attributes without a value are left out."""
    return etree.SubElement(parent, name, {key: value for key, value in (attributes or {}).items() if value})


def _text(parent: t.Any, name: str, text: str, attributes: t.Mapping[str, str] | None = None) -> None:
    _add(parent, name, attributes).text = text


def _os(spec: DomainSpec) -> t.Any:
    node = etree.Element("os")
    if spec.firmware == "efi":
        node.set("firmware", "efi")
    _text(node, "type", "hvm", {"arch": spec.arch, "machine": spec.machine})
    if spec.firmware == "efi":
        features = _add(node, "firmware")
        for name in ("secure-boot", "enrolled-keys"):
            _add(features, "feature", {"enabled": "no", "name": name})
        # In the run's directory, or it would outlive the domain.
        _text(node, "nvram", spec.nvram)
    if spec.boot:
        _text(node, "kernel", spec.boot.kernel)
        if spec.boot.initrd:
            _text(node, "initrd", spec.boot.initrd)
        if spec.boot.cmdline:
            _text(node, "cmdline", spec.boot.cmdline)
    else:
        _add(node, "boot", {"dev": "hd"})
    return node


def _features(spec: DomainSpec) -> t.Any:
    node = etree.Element("features")
    _add(node, "acpi")
    _add(node, "apic")
    if spec.vmcoreinfo:
        _add(node, "vmcoreinfo", {"state": "on"})
    return node


def _cpu(spec: DomainSpec) -> t.Any:
    cpu = spec.cpu or ("host-passthrough" if spec.virt_type == "kvm" else "maximum")
    if cpu in ("host-passthrough", "host-model", "maximum"):
        node = etree.Element("cpu", mode=cpu)
        if not spec.cpu and spec.virt_type == "qemu" and spec.arch in ("x86_64", "i686"):
            for name in NOT_EMULATED:
                _add(node, "feature", {"policy": "disable", "name": name})
        return node
    node = etree.Element("cpu", mode="custom", match="exact")
    _text(node, "model", cpu, {"fallback": "forbid"})
    return node


def _devices(spec: DomainSpec) -> t.Any:
    node = etree.Element("devices")
    letters: dict[str, int] = {}
    for disk in spec.disks:
        node.append(_disk(disk, letters))
    for interface in spec.interfaces:
        node.append(_interface(interface))
    serial = _add(node, "serial", {"type": "pty"})
    if spec.console_log:
        _add(serial, "log", {"file": spec.console_log, "append": "on"})
    _add(serial, "target", {"port": "0"})
    if spec.agent:
        channel = _add(node, "channel", {"type": "unix"})
        _add(channel, "target", {"type": "virtio", "name": AGENT_CHANNEL})
    if spec.rng:
        rng = _add(node, "rng", {"model": "virtio"})
        _text(rng, "backend", "/dev/urandom", {"model": "random"})
    _add(node, "memballoon", {"model": "none"})
    if spec.panic:
        _add(node, "panic", {"model": "isa"})
    return node


def _disk(disk: Disk, letters: dict[str, int]) -> t.Any:
    node = etree.Element("disk", type="file", device="disk")
    _add(node, "driver", {"name": "qemu", "type": disk.format, "cache": disk.cache, "discard": disk.discard})
    _add(node, "source", {"file": disk.path})
    level = node
    for backing in disk.backing:
        level = _add(level, "backingStore", {"type": "file"})
        _add(level, "format", {"type": backing.format})
        source = _add(level, "source", {"file": backing.path})
        # Shared and world-readable: libvirt would give it to QEMU's user and leave its notes on it.
        _add(source, "seclabel", {"model": "dac", "relabel": "no"})
    _add(level, "backingStore")  # the chain ends here: libvirt need not probe
    prefix = {"virtio": "vd", "scsi": "sd", "sata": "sd", "usb": "sd", "ide": "hd"}[disk.bus]
    letters[prefix] = letters.get(prefix, 0) + 1
    _add(node, "target", {"dev": prefix + _letters(letters[prefix]), "bus": disk.bus})
    if disk.serial:
        _text(node, "serial", disk.serial)
    if disk.readonly:
        _add(node, "readonly")
    return node


def _letters(number: int) -> str:
    """Return 1 as a, 26 as z, 27 as aa, as disks are counted."""
    name = ""
    while number:
        number, digit = divmod(number - 1, 26)
        name = chr(ord("a") + digit) + name
    return name


def _interface(interface: Interface) -> t.Any:
    node = etree.Element("interface", type="network")
    _add(node, "mac", {"address": interface.mac})
    _add(node, "source", {"network": interface.network})
    _add(node, "model", {"type": interface.model})
    if interface.isolated is not None:
        _add(node, "port", {"isolated": "yes" if interface.isolated else "no"})
    return node
