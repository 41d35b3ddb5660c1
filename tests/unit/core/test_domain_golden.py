# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Golden files of domain XML: every field and every option has one that shows what it does.

MAYFLY_REGENERATE=1 writes them anew; look at the difference before you keep it.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from core_doubles import DIGEST, manifest, run_record
from lxml import etree

from ansible_collections.mayfly.virt.plugins.module_utils import _domain_xml, _guest
from ansible_collections.mayfly.virt.plugins.module_utils._chain import Chain, Layer
from ansible_collections.mayfly.virt.plugins.module_utils._domain_xml import Backing, DirectBoot, Disk, DomainSpec, Interface
from ansible_collections.mayfly.virt.plugins.module_utils._run import RunPaths
from ansible_collections.mayfly.virt.plugins.module_utils._store import Store
from ansible_collections.mayfly.virt.plugins.module_utils._tag import Tag
from ansible_collections.mayfly.virt.plugins.modules.domain import DISK, DOMAIN, INTERFACE

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "domain"
SCHEMA = Path("/usr/share/libvirt/schemas/domain.rng")

# -- golden specs: what the builder does ---------------------------------------------------------------------------------

MINIMAL = DomainSpec(name="minimal", memory_mib=256, vcpus=1, virt_type="qemu")
DISK_MINIMAL = Disk(path="/disks/one.qcow2")
INTERFACE_MINIMAL = Interface(network="mayfly", mac="52:54:00:00:00:01")
BOOT_MINIMAL = DirectBoot(kernel="/boot/vmlinuz")
BACKING_MINIMAL = Backing(path="/images/base.qcow2", format="qcow2")
# What a field is compared with when it has no default: its value in the plainest object of its class.
PLAIN = {type(example): example for example in (MINIMAL, DISK_MINIMAL, INTERFACE_MINIMAL, BOOT_MINIMAL, BACKING_MINIMAL)}

FULL_TAG = Tag(**{field.name: f"the {field.name}" for field in dataclasses.fields(Tag)})
BASE = Backing("/images/base.raw", "raw")

SPECS = {
    "spec-minimal": MINIMAL,
    "spec-name-memory-vcpus": dataclasses.replace(MINIMAL, name="other-r1", memory_mib=4096, vcpus=8),
    "spec-kvm": dataclasses.replace(MINIMAL, virt_type="kvm"),
    "spec-machine-arch": dataclasses.replace(MINIMAL, machine="pc-q35-7.2", arch="i686"),
    "spec-cpu-mode": dataclasses.replace(MINIMAL, cpu="host-model"),
    "spec-cpu-maximum": dataclasses.replace(MINIMAL, cpu="maximum"),
    "spec-cpu-model": dataclasses.replace(MINIMAL, virt_type="kvm", cpu="Skylake-Server-v4"),
    "spec-efi": dataclasses.replace(MINIMAL, firmware="efi", nvram="/runs/r1/minimal.nvram.fd"),
    "spec-boot-kernel": dataclasses.replace(MINIMAL, boot=DirectBoot("/images/vmlinuz")),
    "spec-boot-initrd-cmdline": dataclasses.replace(
        MINIMAL, boot=DirectBoot("/boot/vmlinuz", "/boot/initrd.img", "root=LABEL=root console=ttyS0 a=\"<b> & 'c'\"")
    ),
    "spec-disk": dataclasses.replace(MINIMAL, disks=(DISK_MINIMAL,)),
    "spec-disk-path-format": dataclasses.replace(MINIMAL, disks=(Disk("/disks/two.raw", "raw"),)),
    "spec-disk-backing": dataclasses.replace(MINIMAL, disks=(Disk("/disks/one.qcow2", backing=(BACKING_MINIMAL, BASE)),)),
    "spec-disk-buses": dataclasses.replace(
        MINIMAL,
        disks=tuple(Disk(f"/disks/{bus}.qcow2", bus=bus) for bus in ("virtio", "scsi", "virtio", "sata", "usb", "ide", "ide")),
    ),
    "spec-disk-readonly": dataclasses.replace(MINIMAL, disks=(Disk("/disks/seed.iso", "raw", readonly=True),)),
    "spec-disk-cache-discard-serial": dataclasses.replace(
        MINIMAL, disks=(Disk("/disks/one.qcow2", cache="unsafe", discard="unmap", serial="DATA-1"),)
    ),
    "spec-interface": dataclasses.replace(MINIMAL, interfaces=(INTERFACE_MINIMAL,)),
    "spec-interfaces": dataclasses.replace(
        MINIMAL,
        interfaces=(
            Interface("other", "52:54:00:00:00:02", model="e1000e"),
            Interface("mayfly", "52:54:00:00:00:03", isolated=True),
            Interface("mayfly", "52:54:00:00:00:04", isolated=False),
        ),
    ),
    "spec-console-log": dataclasses.replace(MINIMAL, console_log="/runs/r1/minimal.console.log"),
    "spec-bare": dataclasses.replace(MINIMAL, rng=False, agent=False, panic=False, vmcoreinfo=False),
    "spec-tag": dataclasses.replace(MINIMAL, tag=FULL_TAG),
}

# -- golden options: what the module's options come to -------------------------------------------------------------------

NAME = "one-r1"
XML = "<domain type='kvm'><name>one-r1</name><memory unit='GiB'>1</memory><os><type>hvm</type></os><devices/></domain>"

OPTIONS: dict[str, dict[str, Any]] = {
    "option-none": {},
    "option-name": {"name": "other-r1"},
    "option-guest-role": {"guest": "one", "role": "server"},
    "option-image": {"image": "debian-12", "accel": "kvm"},
    "option-image-digest": {"image": f"sha256:{DIGEST}", "accel": "kvm"},
    "option-image-emulated": {"image": "debian-12", "accel": "tcg"},
    "option-image-cmdline": {"image": "debian-12", "accel": "kvm", "cmdline": "lsm=bpf"},
    "option-image-firmware": {"image": "debian-12", "firmware": "efi"},
    "option-image-disk-gib-seed": {"image": "plain", "disk_gib": 30, "seed": {"user": "tester"}},
    "option-memory-vcpus": {"memory_mib": 2048, "vcpus": 4},
    "option-machine-cpu": {"machine": "pc-q35-7.2", "cpu": "EPYC"},
    "option-accel": {"accel": "kvm"},
    "option-firmware": {"firmware": "efi"},
    "option-kernel-initrd-cmdline": {"kernel": "vmlinuz", "initrd": "initrd.img", "cmdline": "console=ttyS0 quiet"},
    "option-disks": {
        "disks": [
            {"path": "chain.qcow2"},
            {
                "path": "data.img",
                "format": "raw",
                "bus": "scsi",
                "readonly": True,
                "cache": "none",
                "discard": "unmap",
                "serial": "DATA",
            },
        ]
    },
    "option-interfaces": {
        "interfaces": [{}, {"network": "other", "mac": "52:54:00:AB:CD:EF", "model": "e1000e", "isolated": True}, {"isolated": False}]
    },
    "option-interfaces-none": {"interfaces": []},
    "option-console-log": {"console_log": "elsewhere.log"},
    "option-bare": {"rng": False, "agent": False, "panic": False, "vmcoreinfo": False},
    "option-xml": {"xml": XML, "role": "server"},
}
FILES = ("vmlinuz", "initrd.img", "chain.qcow2", "data.img", "elsewhere.log")
PATHS = ("kernel", "initrd", "path", "console_log")


def validated(options: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
    """Return options as the module gets them, defaults filled in."""
    result = ArgumentSpecValidator(spec).validate(options)
    assert not result.error_messages, result.error_messages
    return result.validated_parameters


def read_chain(path: Path, form: str) -> Chain:
    layers = [Layer(str(path), form or "qcow2", 1 << 20)]
    if path.name == "chain.qcow2":
        assert form == ""
        layers += [Layer("/images/middle.qcow2", "qcow2", 1 << 20), Layer("/images/bottom.raw", "raw", 1 << 20)]
    return Chain(tuple(layers))


def with_paths(value: Any, directory: Path) -> Any:
    """Put the files of a case below a directory."""
    if isinstance(value, list):
        return [with_paths(each, directory) for each in value]
    if isinstance(value, dict):
        return {key: str(directory / each) if key in PATHS else with_paths(each, directory) for key, each in value.items()}
    return value


def guest_of(options: dict[str, Any], directory: Path) -> _guest.Guest:
    state = directory / "state"
    store = Store(state)
    if not store.dir.exists():
        store.prepare()
        for path in (directory / "image", directory / "kernel", directory / "initrd", *(directory / name for name in FILES)):
            path.write_text("bytes")
        kernel = {"kernel": f"sha256-{DIGEST}.vmlinuz", "initrd": f"sha256-{DIGEST}.initrd"}
        with_kernel = manifest(**kernel, kernel_release="6.1.0-1-amd64", cmdline="root=LABEL=mayfly-root")
        store.add(directory / "image", with_kernel, {"vmlinuz": directory / "kernel", "initrd": directory / "initrd"})
        store.point("debian-12", DIGEST)
        (directory / "image").write_text("other bytes")
        store.add(directory / "image", manifest("6" * 64), {})
        store.point("plain", "6" * 64)
    given = validated({"name": NAME, **with_paths(options, directory)}, DOMAIN)
    accel = "tcg" if given["accel"] == "auto" else given["accel"]
    run = run_record("r1", owner="jane", job_url="https://ci.example.org/1?a=b&c=d")
    return _guest.assemble(given, run, RunPaths(state, "r1"), store, accel, {"kvm": "kvm", "tcg": "qemu"}[accel], read_chain)


def guest_text(options: dict[str, Any], directory: Path) -> str:
    """Return the XML of a guest with the directory called /mayfly, and without the digest that depends on it."""
    text = guest_of(options, directory).xml.replace(str(directory), "/mayfly")
    return re.sub(r"(<mayfly:spec>)[0-9a-f]{32}(</mayfly:spec>)", r"\1(digest)\2", text)


# -- comparing -----------------------------------------------------------------------------------------------------------


def compare(name: str, text: str) -> None:
    path = GOLDEN / f"{name}.xml"
    if os.environ.get("MAYFLY_REGENERATE") == "1":
        path.write_text(text, encoding="utf-8")
    assert path.exists(), f"{path.name} is missing: run with MAYFLY_REGENERATE=1, then look at it"
    assert text == path.read_text(encoding="utf-8"), f"{path.name} differs: when that is meant, run with MAYFLY_REGENERATE=1"


@pytest.mark.parametrize("name", SPECS)
def test_a_spec_gives_its_golden_file(name: str) -> None:
    compare(name, _domain_xml.to_text(_domain_xml.build(SPECS[name])))


@pytest.mark.parametrize("name", OPTIONS)
def test_options_give_their_golden_file(name: str, tmp_path: Path) -> None:
    compare(name, guest_text(OPTIONS[name], tmp_path))


def test_every_golden_file_has_its_case() -> None:
    assert sorted(path.stem for path in GOLDEN.iterdir()) == sorted([*SPECS, *OPTIONS])


@pytest.fixture(scope="module")
def schema() -> Any:
    if not SCHEMA.exists():
        pytest.skip(f"{SCHEMA} is not on this machine")
    return etree.RelaxNG(etree.parse(SCHEMA))


@pytest.mark.parametrize("name", [*SPECS, *OPTIONS])
def test_a_golden_file_is_valid_to_libvirt(name: str, schema: Any) -> None:
    document = etree.parse(GOLDEN / f"{name}.xml")
    assert schema.validate(document), schema.error_log


def test_the_schema_would_notice(schema: Any) -> None:
    document = etree.parse(GOLDEN / "spec-minimal.xml")
    etree.SubElement(document.getroot(), "no-such-element")
    assert not schema.validate(document)


# -- nothing without a golden file ---------------------------------------------------------------------------------------


def parts(value: Any) -> Iterator[Any]:
    """Return every object of our classes in a spec."""
    if type(value) in PLAIN:
        yield value
        for field in dataclasses.fields(value):
            yield from parts(getattr(value, field.name))
    elif isinstance(value, tuple):
        for each in value:
            yield from parts(each)


def replaced(value: Any, old: Any, new: Any) -> Any:
    """Return a spec in which one object stands in place of another."""
    if value is old:
        return new
    if type(value) in PLAIN:
        return dataclasses.replace(value, **{f.name: replaced(getattr(value, f.name), old, new) for f in dataclasses.fields(value)})
    return tuple(replaced(each, old, new) for each in value) if isinstance(value, tuple) else value


def plain_value(example: type, field: dataclasses.Field[Any]) -> Any:
    return getattr(PLAIN[example], field.name) if field.default is dataclasses.MISSING else field.default


def text_of(spec: DomainSpec) -> str:
    return _domain_xml.to_text(_domain_xml.build(spec))


def shown_fields() -> set[tuple[str, str]]:
    """Return (class, field) that a golden file shows: not at its default there, and another document if it were."""
    shown = set()
    for spec in SPECS.values():
        for part in parts(spec):
            for field in dataclasses.fields(part):
                plain = plain_value(type(part), field)
                if getattr(part, field.name) == plain:
                    continue
                if text_of(replaced(spec, part, dataclasses.replace(part, **{field.name: plain}))) != text_of(spec):
                    shown.add((type(part).__name__, field.name))
    return shown


def test_every_field_has_a_golden_file() -> None:
    every = {(example.__name__, field.name) for example in PLAIN for field in dataclasses.fields(example)}
    assert every - shown_fields() == set(), "add a case to SPECS for each of these"


def test_a_field_without_golden_file_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(SPECS, "spec-disk-cache-discard-serial")
    every = {(example.__name__, field.name) for example in PLAIN for field in dataclasses.fields(example)}
    assert every - shown_fields() == {("Disk", "cache"), ("Disk", "discard"), ("Disk", "serial")}


def shown_options() -> set[str]:
    """Return the options that a case sets to something else than their default."""
    shown = set()

    def visit(prefix: str, given: dict[str, Any], spec: dict[str, Any]) -> None:
        for name, value in given.items():
            if value == spec[name].get("default"):
                continue
            shown.add(f"{prefix}{name}")
            if prefix == "" and name in ("disks", "interfaces"):
                for each in value:
                    visit(f"{name}[].", each, spec[name]["options"])

    for options in OPTIONS.values():
        visit("", {"name": NAME, **options}, DOMAIN)
    return shown


def every_option() -> set[str]:
    suboptions = {f"disks[].{name}" for name in DISK} | {f"interfaces[].{name}" for name in INTERFACE}
    return set(DOMAIN) | suboptions


def test_every_option_has_a_golden_file() -> None:
    assert DOMAIN["disks"]["options"] is DISK
    assert DOMAIN["interfaces"]["options"] is INTERFACE
    assert every_option() - shown_options() == set(), "add a case to OPTIONS for each of these"


def test_an_option_without_golden_file_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(OPTIONS, "option-bare")
    monkeypatch.delitem(OPTIONS, "option-disks")
    missing = {"rng", "agent", "panic", "vmcoreinfo", "disks", *(f"disks[].{name}" for name in DISK)}
    assert every_option() - shown_options() == missing


# What an option comes to besides XML: the size of the overlay, and the seed.
BESIDE_XML = {"disk_gib", "seed"}


@pytest.mark.parametrize("name", sorted(every_option()))
def test_no_option_is_without_effect(name: str, tmp_path: Path) -> None:
    """Of all cases that set the option, one at least gives another guest than without it."""
    top, _dot, sub = name.replace("[]", "").partition(".")
    differs = False
    for options in OPTIONS.values():
        whole = {"name": NAME, **options}
        if sub:
            for number, each in enumerate(options.get(top, [])):
                if sub in each:
                    fewer = {key: value for key, value in each.items() if key != sub}
                    if sub == "path":
                        fewer["path"] = "elsewhere.log"
                    others = [fewer if at == number else other for at, other in enumerate(options[top])]
                    differs |= guest_text(whole, tmp_path) != guest_text({**whole, top: others}, tmp_path)
        elif top in options:
            fewer = {key: value for key, value in whole.items() if key != top}
            if top in ("kernel", "image"):
                fewer = {key: value for key, value in fewer.items() if key not in ("initrd", "cmdline", "disk_gib", "seed")}
            differs |= guest_text(whole, tmp_path) != guest_text(fewer, tmp_path)
            if top in BESIDE_XML:
                one, other = guest_of(whole, tmp_path), guest_of(fewer, tmp_path)
                differs |= (one.overlay, one.seed) != (other.overlay, other.seed)
    assert differs
