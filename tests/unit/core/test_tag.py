# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tag in a domain's metadata: there and back, and what is not ours."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from ansible_collections.mayfly.virt.plugins.module_utils._names import is_run_id
from ansible_collections.mayfly.virt.plugins.module_utils._tag import NAMESPACE, Tag

FIELDS = [field.name for field in dataclasses.fields(Tag)]
# Everything XML 1.0 can carry, its own specials drawn often.
LEGAL = st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"), exclude_characters="\ufffe\uffff")
RUN_ID = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", fullmatch=True)
XML_TEXT = st.text(st.one_of(st.sampled_from("<>&'\"]\r\n\t {}%"), LEGAL))


def domain_with(*children: object) -> object:
    domain = etree.Element("domain")
    metadata = etree.SubElement(domain, "metadata")
    for child in children:
        metadata.append(child)
    return domain


def reparsed(domain: object) -> object:
    return etree.fromstring(etree.tostring(domain, encoding="unicode"))


def document(inner: str) -> object:
    return etree.fromstring(f"<domain><metadata>{inner}</metadata></domain>")


def test_every_field_survives_the_round_trip() -> None:
    tag = Tag(**{**{name: f"value of {name}" for name in FIELDS}, "run": "r1"})
    assert Tag.from_domain(reparsed(domain_with(tag.to_element()))) == tag


def test_empty_fields_are_left_out() -> None:
    element = Tag(run="r", guest="g").to_element()
    assert [etree.QName(child).localname for child in element] == ["run", "guest"]
    assert {etree.QName(child).namespace for child in [element, *element]} == {NAMESPACE}


@given(st.fixed_dictionaries({"run": RUN_ID, "guest": XML_TEXT.filter(bool)}, optional=dict.fromkeys(FIELDS[2:], XML_TEXT)))
def test_hostile_text_survives_the_round_trip(values: dict[str, str]) -> None:
    tag = Tag(**values)
    element = tag.to_element()
    assert [etree.QName(child).localname for child in element] == [name for name in FIELDS if values.get(name)]
    assert Tag.from_domain(reparsed(domain_with(element))) == tag


@given(st.one_of(XML_TEXT, st.sampled_from(["..", ".", "../../etc", "a/b", "/etc", "R1", "r1-", "-r1", "r1\n", " r1", "x" * 41])))
def test_what_is_no_run_id_is_no_tag(run: str) -> None:
    """A run id becomes a path, and a tag may be anybody's."""
    found = Tag.from_domain(reparsed(domain_with(Tag(run=run, guest="g").to_element())))
    assert found == (Tag(run=run, guest="g") if is_run_id(run) else None)
    assert found is None or Path("/state/runs", found.run).resolve().parent == Path("/state/runs")


def test_a_tag_stands_beside_the_metadata_of_others() -> None:
    stranger = etree.fromstring('<libosinfo xmlns="http://libosinfo.org/xmlns/libvirt/domain/1.0"><os id="debian"/></libosinfo>')
    tag = Tag(run="r", guest="g")
    assert Tag.from_domain(domain_with(stranger, tag.to_element())) == tag


@pytest.mark.parametrize(
    "inner",
    [
        "",
        "<run><run>r</run><guest>g</guest></run>",
        '<m:run xmlns:m="urn:mayfly:virt:2"><m:run>r</m:run><m:guest>g</m:guest></m:run>',
        f'<m:note xmlns:m="{NAMESPACE}">r</m:note>',
        f'<x><m:run xmlns:m="{NAMESPACE}"><m:run>r</m:run><m:guest>g</m:guest></m:run></x>',
        f'<m:run xmlns:m="{NAMESPACE}"/>',
        f'<m:run xmlns:m="{NAMESPACE}">r</m:run>',
        f'<m:run xmlns:m="{NAMESPACE}"><m:run>r</m:run></m:run>',
        f'<m:run xmlns:m="{NAMESPACE}"><m:guest>g</m:guest></m:run>',
        f'<m:run xmlns:m="{NAMESPACE}"><m:run>r</m:run><m:guest/></m:run>',
        f'<m:run xmlns:m="{NAMESPACE}"><m:run></m:run><m:guest>g</m:guest></m:run>',
    ],
    ids=[
        "nothing",
        "no namespace",
        "another version's namespace",
        "our namespace, another element",
        "not directly in metadata",
        "empty",
        "text only",
        "no guest",
        "no run",
        "empty guest",
        "empty run",
    ],
)
def test_less_than_a_whole_tag_is_none(inner: str) -> None:
    assert Tag.from_domain(document(inner)) is None


def test_no_metadata_is_no_tag() -> None:
    assert Tag.from_domain(etree.fromstring("<domain><name>test</name></domain>")) is None


def test_unknown_children_comments_and_instructions_are_passed_over() -> None:
    inner = (
        f'<m:run xmlns:m="{NAMESPACE}"><!-- made by hand --><?note x?><m:run>r</m:run><m:colour>red</m:colour>'
        "<m:guest>g</m:guest><m:owner/></m:run>"
    )
    assert Tag.from_domain(document(inner)) == Tag(run="r", guest="g")


def test_children_of_a_foreign_namespace_are_not_ours() -> None:
    inner = (
        f'<m:run xmlns:m="{NAMESPACE}" xmlns:x="urn:other"><m:run>r</m:run><m:guest>g</m:guest>'
        "<x:state_dir>/elsewhere</x:state_dir><x:run>another</x:run><state_dir>/nowhere</state_dir></m:run>"
    )
    assert Tag.from_domain(document(inner)) == Tag(run="r", guest="g")
