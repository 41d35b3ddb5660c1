# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Domain XML under hostile text, the user's own documents, and what is read back."""

from __future__ import annotations

import dataclasses
import string
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from core_doubles import tag
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from ansible_collections.mayfly.virt.plugins.module_utils import _domain_xml
from ansible_collections.mayfly.virt.plugins.module_utils._domain_xml import Backing, DirectBoot, Disk, DomainSpec, Interface
from ansible_collections.mayfly.virt.plugins.module_utils._errors import InvalidInput
from ansible_collections.mayfly.virt.plugins.module_utils._tag import NAMESPACE, Tag
from ansible_collections.mayfly.virt.plugins.modules.domain import DISK, DOMAIN

# -- hostile text --------------------------------------------------------------------------------------------------------

WHOLE = DomainSpec(
    name="one-r1",
    memory_mib=64,
    vcpus=1,
    virt_type="qemu",
    cpu="EPYC",
    firmware="efi",
    nvram="/runs/nvram.fd",
    boot=DirectBoot("/boot/vmlinuz", "/boot/initrd", "quiet"),
    disks=(Disk("/disks/one.qcow2", backing=(Backing("/images/base.qcow2", "qcow2"),), cache="none", discard="unmap", serial="S"),),
    interfaces=(Interface("mayfly", "52:54:00:00:00:01"),),
    console_log="/runs/console.log",
    tag=Tag(**{field.name: "x" for field in dataclasses.fields(Tag)}),
)
OWNERS = {
    "spec": (WHOLE, lambda new: new),
    "boot": (WHOLE.boot, lambda new: dataclasses.replace(WHOLE, boot=new)),
    "disk": (WHOLE.disks[0], lambda new: dataclasses.replace(WHOLE, disks=(new,))),
    "backing": (
        WHOLE.disks[0].backing[0],
        lambda new: dataclasses.replace(WHOLE, disks=(dataclasses.replace(WHOLE.disks[0], backing=(new,)),)),
    ),
    "interface": (WHOLE.interfaces[0], lambda new: dataclasses.replace(WHOLE, interfaces=(new,))),
    "tag": (WHOLE.tag, lambda new: dataclasses.replace(WHOLE, tag=new)),
}
# A choice of the argument specification: other words never come this far.
CHOICES = {("disk", "bus"): DISK["bus"]["choices"], ("spec", "firmware"): DOMAIN["firmware"]["choices"]}
PLACES = [
    (owner, field.name)
    for owner, (value, _rebuild) in OWNERS.items()
    for field in dataclasses.fields(value)
    if isinstance(getattr(value, field.name), str) and (owner, field.name) not in CHOICES
]

SPECIALS = "<>&'\"]!-[CDATA \r\n\t\x00\x1b\x7f\x85\ud800\udfff\ufffe\uffff\u2028😀"
HOSTILE = st.one_of(
    st.text(st.one_of(st.sampled_from(SPECIALS), st.characters()), min_size=1),
    st.sampled_from(
        [
            "</name></domain><domain>",
            "]]>",
            "<![CDATA[x]]>",
            "&lt;",
            "&#0;",
            "<!-- -->",
            "--><evil/><!--",
            "'/><evil a='",
            '"/><evil a="',
            "<?xml version='1.0'?>",
            "{urn:x}a",
            "%s{0}$(id)`id`",
            " ",
            "\n",
            "\r\n",
            "a\rb",
            "\t",
            "\x00",
            "\x0b",
            "\ud83d",
            "\ufffe",
        ]
    ),
)


def with_value(owner: str, field: str, value: str) -> DomainSpec:
    old, rebuild = OWNERS[owner]
    return rebuild(dataclasses.replace(old, **{field: value}))


def reparsed(spec: DomainSpec) -> Any:
    return etree.fromstring(_domain_xml.to_text(_domain_xml.build(spec)))


def attempt(spec: DomainSpec) -> tuple[Any, InvalidInput | None]:
    try:
        return reparsed(spec), None
    except InvalidInput as error:
        return None, error


def names(document: Any) -> list[Any]:
    """Return the names of all nodes in their order; comments and instructions count too."""
    return [node.tag for node in document.iter()]


def values(document: Any) -> Iterator[tuple[str, str]]:
    """Return every text and attribute with the place where it stands."""
    tree = document.getroottree()
    for node in document.iter():
        place = tree.getpath(node)
        yield place, node.text or ""
        yield from ((f"{place}/@{name}", value) for name, value in node.attrib.items())


def test_the_places_are_all_string_fields() -> None:
    assert len(PLACES) > 30
    assert Counter(owner for owner, _field in PLACES) == {"tag": 14, "spec": 7, "disk": 5, "boot": 3, "backing": 2, "interface": 3}


@pytest.mark.parametrize(("owner", "field"), PLACES)
@given(value=HOSTILE)
def test_hostile_text_comes_back_or_is_refused(owner: str, field: str, value: str) -> None:
    harmless = "harmless"
    calm = reparsed(with_value(owner, field, harmless))
    places = [place for place, text in values(calm) if text == harmless]
    assert places, "the value stands nowhere: nothing would be tested"
    document, refusal = attempt(with_value(owner, field, value))
    if refusal:
        assert refusal.target == (value if (owner, field) == ("spec", "name") else "one-r1")
        assert "cannot stand in XML" in refusal.reason
    else:
        assert names(document) == names(calm)
        found = dict(values(document))
        assert [found[place] for place in places] == [value] * len(places)


@pytest.mark.parametrize("value", ["a\x00b", "\x1b[31m", "\x0b", "\ud800", "\ufffe", "\uffff"])
def test_what_xml_cannot_carry_is_refused(value: str) -> None:
    with pytest.raises(InvalidInput, match="a value cannot stand in XML"):
        _domain_xml.build(dataclasses.replace(WHOLE, boot=DirectBoot("/k", cmdline=value)))


@pytest.mark.parametrize("bus", DISK["bus"]["choices"])
def test_every_bus_that_can_be_chosen_is_known(bus: str) -> None:
    document = reparsed(dataclasses.replace(WHOLE, disks=(Disk("/d", bus=bus),)))
    assert document.find("devices/disk/target").get("bus") == bus


def test_target_names_are_unique_and_in_order() -> None:
    disks = tuple(Disk(f"/d{number}", bus=bus) for number, bus in enumerate(["virtio", "scsi", "sata", "usb"] * 3))
    targets = [node.get("dev") for node in reparsed(dataclasses.replace(WHOLE, disks=disks)).findall("devices/disk/target")]
    assert targets == ["vda", "sda", "sdb", "sdc", "vdb", "sdd", "sde", "sdf", "vdc", "sdg", "sdh", "sdi"]


def test_the_twenty_seventh_disk_has_a_name_too() -> None:
    disks = tuple(Disk(f"/d{number}") for number in range(28))
    targets = [node.get("dev") for node in reparsed(dataclasses.replace(WHOLE, disks=disks)).findall("devices/disk/target")]
    assert targets == [*(f"vd{letter}" for letter in string.ascii_lowercase), "vdaa", "vdab"]


@given(st.integers(min_value=1, max_value=20000))
def test_disks_are_named_as_the_kernel_names_them(number: int) -> None:
    name = _domain_xml._letters(number)
    value = 0
    for letter in name:  # a number to the base of 26, without a zero
        value = value * 26 + string.ascii_lowercase.index(letter) + 1
    assert value == number


# -- the user's own document ---------------------------------------------------------------------------------------------

TAG = tag(run="r1", guest="one")
OWN = "<domain type='kvm'><name>one-r1</name><memory>65536</memory><os><type>hvm</type></os><devices/></domain>"


def adopted(text: str) -> Any:
    return etree.fromstring(_domain_xml.to_text(_domain_xml.adopt("one-r1", text, TAG)))


def test_adopting_adds_the_tag_and_keeps_the_rest() -> None:
    document = adopted(OWN)
    assert Tag.from_domain(document) == TAG
    metadata = document.find("metadata")
    document.remove(metadata)
    assert [node.tag for node in document.iter()] == ["domain", "name", "memory", "os", "type", "devices"]
    assert document.findtext("memory") == "65536"


def test_adopting_gives_a_nameless_document_its_name() -> None:
    document = adopted("<domain type='kvm'><memory>1</memory></domain>")
    assert document.findtext("name") == "one-r1"
    assert Tag.from_domain(document) == TAG


def test_adopting_keeps_the_metadata_of_others() -> None:
    text = OWN.replace("<memory>", "<metadata><x:note xmlns:x='urn:x'>mine</x:note></metadata><memory>")
    document = adopted(text)
    assert len(document.findall("metadata")) == 1
    assert document.findtext("metadata/{urn:x}note") == "mine"
    assert Tag.from_domain(document) == TAG


@pytest.mark.parametrize("name", ["another", "one-r", "ONE-R1", "", " ", "one-r1 one-r1", "<b>one-r1</b>"])
def test_a_document_of_another_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="it names the domain '") as caught:
        adopted(f"<domain><name>{name}</name></domain>")
    assert caught.value.target == "one-r1"
    assert caught.value.remedy
    assert "<" in name or not name.strip() or f"'{name}'" in caught.value.reason


@pytest.mark.parametrize(
    "name",
    [
        "<!-- mine -->one-r1",
        "one-r1<!-- mine -->",
        "one<!-- and -->-r1",
    ],
)
def test_remarks_within_the_name_do_not_count(name: str) -> None:
    document = adopted(f"<domain><name>{name}</name></domain>")
    assert document.xpath("string(./name[1])") == "one-r1"  # as libvirt reads it


def test_a_remark_does_not_hide_another_name() -> None:
    with pytest.raises(InvalidInput, match="it names the domain 'one-r1-b'"):
        adopted("<domain><name>one-r1<!-- and -->-b</name></domain>")


@pytest.mark.parametrize("root", ["network", "domainsnapshot", "volume", "{urn:x}domain", "Domain"])
def test_another_root_is_refused(root: str) -> None:
    text = etree.tostring(etree.Element(root), encoding="unicode")
    with pytest.raises(InvalidInput, match="its root element is"):
        _domain_xml.parse_document("one-r1", text)


@pytest.mark.parametrize(
    "text", ["", " ", "no xml", "<domain>", "<domain></domains>", "<domain/><domain/>", "<domain a=b/>", "<domain>&nbsp;</domain>", "\x00"]
)
def test_what_does_not_parse_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="it does not parse") as caught:
        _domain_xml.parse_document("one-r1", text)
    assert caught.value.target == "one-r1"


@given(st.text(alphabet=st.characters(exclude_categories=("Cs",))))
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        document = _domain_xml.parse_document("one-r1", text)
    except InvalidInput:
        return
    assert document.tag == "domain"


def test_a_document_with_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(InvalidInput):
        _domain_xml.parse_document("one-r1", "<domain>\ud800</domain>")


def test_a_declared_encoding_does_not_garble_the_document() -> None:
    document = _domain_xml.parse_document("one-r1", "<?xml version='1.0' encoding='ISO-8859-1'?><domain><title>Gäste</title></domain>")
    assert document.findtext("title") == "Gäste"


def test_a_declaration_of_utf_8_is_fine() -> None:
    document = _domain_xml.parse_document("one-r1", "<?xml version='1.0' encoding='UTF-8'?>\n<domain><title>Gäste</title></domain>")
    assert document.findtext("title") == "Gäste"


@pytest.mark.parametrize(
    "declaration",
    ['<!ENTITY e SYSTEM "file://{path}">', '<!ENTITY % p SYSTEM "file://{path}"> %p;', '<!ENTITY e PUBLIC "x" "{path}">'],
)
def test_external_entities_stay_unread(declaration: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("the secret")
    reference = "&e;" if "ENTITY e" in declaration else ""
    text = f"<!DOCTYPE domain [{declaration.format(path=secret)}]><domain><title>{reference}</title></domain>"
    try:
        document = adopted(text)
    except (InvalidInput, etree.XMLSyntaxError):
        return
    assert "the secret" not in etree.tostring(document, encoding="unicode")


def test_internal_entities_are_not_expanded() -> None:
    layers = "".join(f'<!ENTITY e{n + 1} "{f"&e{n};" * 10}">' for n in range(8))
    text = f'<!DOCTYPE domain [<!ENTITY e0 "boom">{layers}]><domain><title>&e8;</title></domain>'
    try:
        document = _domain_xml.parse_document("one-r1", text)
    except InvalidInput:  # some versions of libxml2 see what it is
        return
    assert "boom" not in _domain_xml.to_text(document)
    assert len(_domain_xml.to_text(document)) < 1000


def test_a_plain_entity_is_not_expanded_either() -> None:
    document = _domain_xml.parse_document("one-r1", '<!DOCTYPE domain [<!ENTITY e "boom">]><domain><title>&e;</title></domain>')
    assert "boom" not in _domain_xml.to_text(document)


def test_a_document_that_carries_a_tag_is_refused() -> None:
    with pytest.raises(InvalidInput, match=f"its metadata has an element of {NAMESPACE}"):
        adopted(_domain_xml.to_text(_domain_xml.adopt("one-r1", OWN, tag(run="another"))))


def test_comments_and_instructions_do_no_harm() -> None:
    text = (
        "<?xml version='1.0'?><!-- before --><?pi before?><domain type='kvm'><!-- a --><?pi b?><name>one-r1</name>"
        "<metadata><!-- c --></metadata><memory unit='MiB'><!-- d -->64</memory><devices><!-- e --><interface type='network'>"
        "<!-- f --><mac address='52:54:00:00:00:01'/><?pi g?><source network='mayfly'/></interface></devices></domain><!-- after -->"
    )
    document = _domain_xml.adopt("one-r1", text, TAG)
    facts = _domain_xml.facts(document)
    assert (facts.name, facts.tag, facts.macs, facts.networks) == ("one-r1", TAG, ("52:54:00:00:00:01",), ("mayfly",))
    assert Tag.from_domain(etree.fromstring(_domain_xml.to_text(document))) == TAG


def test_a_comment_before_the_memory_does_not_hide_it() -> None:
    document = _domain_xml.adopt("one-r1", "<domain><memory unit='MiB'><!-- enough -->64</memory></domain>", TAG)
    assert _domain_xml.facts(document).memory_mib == 64


def test_blanks_around_the_name_do_not_reach_libvirt() -> None:
    assert adopted("<domain><name>\n  one-r1\n</name></domain>").findtext("name") == "one-r1"


def test_half_a_tag_is_refused() -> None:
    """Tag.from_domain would find it first: nobody's domain."""
    half = f"<metadata><m:run xmlns:m='{NAMESPACE}'><m:run>x</m:run></m:run></metadata>"
    with pytest.raises(InvalidInput, match=f"an element of {NAMESPACE}") as caught:
        adopted(OWN.replace("<memory>", f"{half}<memory>"))
    assert caught.value.target == "one-r1"
    assert caught.value.remedy


@pytest.mark.parametrize("note", ["<m:note xmlns:m='{}'>x</m:note>", "<!-- a --><?b c?><x:y xmlns:x='urn:x'/><note xmlns='{}'/>"])
def test_another_element_of_our_namespace_is_refused(note: str) -> None:
    """Of two elements of one namespace libvirt keeps one."""
    with pytest.raises(InvalidInput, match=f"an element of {NAMESPACE}"):
        adopted(OWN.replace("<memory>", f"<metadata>{note.format(NAMESPACE)}</metadata><memory>"))


# -- reading back --------------------------------------------------------------------------------------------------------


def test_facts_of_what_was_built() -> None:
    spec = dataclasses.replace(
        WHOLE, interfaces=(Interface("mayfly", "52:54:00:00:00:01"), Interface("other", "52:54:00:00:00:02")), memory_mib=768, vcpus=3
    )
    facts = _domain_xml.facts(_domain_xml.build(spec))
    assert facts == _domain_xml.SeenDomain(
        name="one-r1",
        uuid="",
        tag=WHOLE.tag,
        memory_mib=768,
        vcpus=3,
        macs=("52:54:00:00:00:01", "52:54:00:00:00:02"),
        networks=("mayfly", "other"),
        console_log="/runs/console.log",
    )


def test_facts_of_libvirts_own_document() -> None:
    text = """<domain type='kvm' id='7'><name>one-r1</name><uuid>3b90b180-ff3f-49ee-9a2b-48575fa59fcb</uuid>
    <memory unit='KiB'>1048576</memory><currentMemory unit='KiB'>524288</currentMemory><vcpu placement='static' current='1'>4</vcpu>
    <devices><interface type='bridge'><mac address='52:54:00:00:00:01'/><source bridge='br0'/></interface>
    <interface type='network'><mac address='52:54:00:00:00:02'/><source network='mayfly' portid='x' bridge='virbr1'/></interface>
    <interface type='user'><mac address='52:54:00:00:00:03'/></interface>
    <serial type='pty'><log file='/serial.log' append='on'/></serial>
    <console type='pty'><log file='/console.log' append='on'/></console></devices></domain>"""
    facts = _domain_xml.parse(text)
    assert facts.uuid == "3b90b180-ff3f-49ee-9a2b-48575fa59fcb"
    assert (facts.memory_mib, facts.vcpus, facts.tag) == (1024, 4, None)
    assert facts.macs == ("52:54:00:00:00:01", "52:54:00:00:00:02", "52:54:00:00:00:03")
    assert facts.networks == ("mayfly",)
    assert facts.console_log == "/console.log"


def test_facts_of_next_to_nothing() -> None:
    facts = _domain_xml.parse("<domain><name>x</name></domain>")
    assert facts == _domain_xml.SeenDomain("x", "", None, 0, 1, (), (), "")


def test_a_serial_log_counts_when_the_console_has_none() -> None:
    text = "<domain><name>x</name><devices><serial><log file='/s.log'/></serial><console type='pty'/></devices></domain>"
    assert _domain_xml.parse(text).console_log == "/s.log"


@pytest.mark.parametrize(
    ("memory", "mebibytes"),
    [
        ("<memory>1048576</memory>", 1024),
        ("<memory unit='KiB'>1048576</memory>", 1024),
        ("<memory unit='k'>2048</memory>", 2),
        ("<memory unit='KB'>1048576</memory>", 1000),
        ("<memory unit='b'>1048576</memory>", 1),
        ("<memory unit='bytes'>1048575</memory>", 0),
        ("<memory unit='M'>512</memory>", 512),
        ("<memory unit='MiB'> 512\n</memory>", 512),
        ("<memory unit='MB'>1048576</memory>", 1000000),
        ("<memory unit='G'>2</memory>", 2048),
        ("<memory unit='GiB'>2</memory>", 2048),
        ("<memory unit='GB'>2</memory>", 1907),
        ("<memory unit='T'>1</memory>", 1 << 20),
        ("<memory unit='TiB'>1</memory>", 1 << 20),
        ("<memory unit='TB'>1</memory>", 953674),
        ("<memory unit='parsec'>1024</memory>", 1),
        ("<memory/>", 0),
        ("<memory>much</memory>", 0),
        ("<memory>-1</memory>", 0),
        ("<memory>1.5</memory>", 0),
        ("", 0),
    ],
)
def test_memory_in_every_unit(memory: str, mebibytes: int) -> None:
    assert _domain_xml.parse(f"<domain><name>x</name>{memory}</domain>").memory_mib == mebibytes


def test_memory_that_only_looks_like_digits_is_no_traceback() -> None:
    assert _domain_xml.parse("<domain><name>x</name><memory>²</memory></domain>").memory_mib == 0


@pytest.mark.parametrize("vcpu", ["two", "-1", "²", "1.5", "0x2", "1 2"])
def test_a_users_vcpu_that_is_no_number_is_refused(vcpu: str) -> None:
    document = _domain_xml.adopt("one-r1", f"<domain><vcpu>{vcpu}</vcpu></domain>", TAG)
    with pytest.raises(InvalidInput, match=f"<vcpu> is '{vcpu}'") as caught:
        _domain_xml.facts(document)
    assert caught.value.target == "one-r1"


@pytest.mark.parametrize(
    ("vcpu", "number"),
    [("", 1), ("<vcpu/>", 1), ("<vcpu> \n</vcpu>", 1), ("<vcpu> 3\n</vcpu>", 3), ("<vcpu><!-- a -->1<!-- b -->6</vcpu>", 16)],
)
def test_processors_as_libvirt_reads_them(vcpu: str, number: int) -> None:
    assert _domain_xml.parse(f"<domain><name>x</name>{vcpu}</domain>").vcpus == number


def test_cards_and_logs_without_what_we_look_for_are_passed_over() -> None:
    devices = (
        "<interface type='network'><mac/><source network='mayfly'/></interface>"
        "<interface type='network'><mac address='52:54:00:00:00:02'/><source/></interface>"
        "<console type='pty'><log/></console><serial type='pty'><log file='/serial.log'/></serial>"
    )
    facts = _domain_xml.parse(f"<domain><name>x</name><devices>{devices}</devices></domain>")
    assert (facts.macs, facts.networks, facts.console_log) == (("52:54:00:00:00:02",), ("mayfly",), "/serial.log")
