# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""libvirt-tck: what is taken of it, what its configuration says, what is refused."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.mayfly.virt.plugins.module_utils import _tck
from ansible_collections.mayfly.virt.plugins.module_utils._errors import InvalidInput, MayflyError
from ansible_collections.mayfly.virt.plugins.module_utils._pack import File, pack

ROOT = Path(__file__).resolve().parents[3]
OLD = "use strict;\nuse Config::Record;\nour $VERSION = '0.1.0';\n"
NEW = "use strict;\nuse YAML qw();\nour $VERSION = 'v2.1.0';\n"
NO_DEVICES: dict[str, list[Any]] = {"usb_devices": [], "pci_devices": [], "block_devices": [], "network_devices": []}


def source(library: str = NEW, prefix: str = "") -> dict[str, File]:
    return {
        f"{prefix}lib/Sys/Virt/TCK.pm": File(library.encode()),
        f"{prefix}lib/Sys/Virt/TCK/Hooks.pm": File(b"1;"),
        f"{prefix}scripts/domain/050-transient-lifecycle.t": File(b"#!perl", executable=True),
        f"{prefix}scripts/nwfilter/nwfilter2vmtest.sh": File(b"#!/bin/sh"),
        f"{prefix}conf/default.yml": File(b"uri: x\n"),
        f"{prefix}t/000-test-style.t": File(b""),
        f"{prefix}README.rst": File(b""),
    }


def settings(**given: Any) -> _tck.Settings:
    values: dict[str, Any] = {
        "uri": "qemu:///system",
        "scratch": "/var/cache/libvirt-tck",
        "arch": "x86_64",
        "kernel": "/var/cache/libvirt-tck/os-x86_64-hvm/vmlinuz",
        "initrd": "/var/cache/libvirt-tck/os-x86_64-hvm/initrd",
        "devices": _tck.check_devices(NO_DEVICES, "record"),
    }
    return _tck.Settings(**{**values, **given})


# -- where it comes from -------------------------------------------------------------------------------------------------


def test_only_a_whole_commit_is_one() -> None:
    assert _tck.check_commit("d" * 40) == "d" * 40
    for commit in ("", "main", "v2.1.0", "d5984ff", "D" * 40, "d" * 39, "d" * 41, f"{'d' * 40}\n"):
        with pytest.raises(InvalidInput, match="not 40 lower-case hexadecimal digits"):
            _tck.check_commit(commit)


def test_a_checksum_has_64_digits() -> None:
    assert _tck.check_sha256("a.tar", "0" * 64) == "0" * 64
    with pytest.raises(InvalidInput, match=r"Checksum of a\.tar"):
        _tck.check_sha256("a.tar", "sha256:" + "0" * 64)


@pytest.mark.parametrize("prefix", ["", "libvirt-tck-2.1.0/", "a/b/"])
def test_a_tree_is_found_wherever_its_root_is(prefix: str) -> None:
    tree = _tck.tree("archive.tar", source(prefix=prefix))
    assert sorted(tree.files) == [
        "conf/default.yml",
        "lib/Sys/Virt/TCK.pm",
        "lib/Sys/Virt/TCK/Hooks.pm",
        "scripts/domain/050-transient-lifecycle.t",
        "scripts/nwfilter/nwfilter2vmtest.sh",
    ]
    assert (tree.version, tree.tests) == ("2.1.0", 1)


def test_something_else_is_no_tree() -> None:
    with pytest.raises(InvalidInput, match="it has none"):
        _tck.tree("there", {"README": File(b"")})
    with pytest.raises(InvalidInput, match="there is 2 of them"):
        _tck.tree("there", {**source(prefix="one/"), **source(prefix="two/")})
    with pytest.raises(InvalidInput, match="there is no test"):
        _tck.tree("there", {"lib/Sys/Virt/TCK.pm": File(NEW.encode())})


def test_the_same_files_make_the_same_archive() -> None:
    files = {"b/c": File(b"two"), "b/a": File(b"one", executable=True), "link": File(target="b/a")}
    content = pack(files)
    assert pack(dict(reversed(list(files.items())))) == content
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(content))) as archive:
        members = {member.name: (member.type, member.mode, member.uid, member.linkname) for member in archive}
    assert members == {
        "b": (tarfile.DIRTYPE, 0o755, 0, ""),
        "b/a": (tarfile.REGTYPE, 0o755, 0, ""),
        "b/c": (tarfile.REGTYPE, 0o644, 0, ""),
        "link": (tarfile.SYMTYPE, 0o777, 0, "b/a"),
    }


# -- configuration -------------------------------------------------------------------------------------------------------


def test_the_library_says_which_format_it_reads() -> None:
    assert _tck.library_format("TCK.pm", OLD) == "record"
    assert _tck.library_format("TCK.pm", NEW) == "yaml"
    assert [_tck.library_version(text) for text in (OLD, NEW, "1;")] == ["0.1.0", "2.1.0", "unknown"]
    with pytest.raises(MayflyError, match=r"neither YAML nor Config::Record"):
        _tck.library_format("TCK.pm", "# use YAML\n")


def test_the_old_format() -> None:
    devices = {**NO_DEVICES, "block_devices": ["/dev/vdb"], "pci_devices": [{"slot": "07", "bus": 0}]}
    text = _tck.config(settings(devices=_tck.check_devices(devices, "record"), other_uri="qemu+ssh://b/system"), "record")
    assert text.splitlines()[1:] == [
        "uri = qemu:///system",
        "otheruri = qemu+ssh://b/system",
        "scratch_dir = /var/cache/libvirt-tck",
        "kernels = (",
        "  {",
        "    arch = x86_64",
        "    ostype = (",
        "      hvm",
        "    )",
        "    kernel = /var/cache/libvirt-tck/os-x86_64-hvm/vmlinuz",
        "    initrd = /var/cache/libvirt-tck/os-x86_64-hvm/initrd",
        "  }",
        ")",
        "host_usb_devices = (",
        ")",
        "host_pci_devices = (",
        "  {",
        "    bus = 0",
        "    slot = 07",
        "  }",
        ")",
        "host_block_devices = (",
        "  /dev/vdb",
        ")",
        "host_network_devices = (",
        ")",
    ]


def test_the_new_format() -> None:
    devices = _tck.check_devices({**NO_DEVICES, "network_devices": ["eth1", "eth2"]}, "yaml")
    text = _tck.config(settings(devices=devices, image="fedora-41", nvram_template="/usr/share/OVMF/OVMF_VARS.fd"), "yaml")
    read = yaml.safe_load(text)
    assert read["uri"] == "qemu:///system"
    # Its shell tests take the line apart with sed.
    assert 'uri: "qemu:///system"' in text.splitlines()
    assert read["images"] == [{"arch": "x86_64", "ostype": ["hvm"], "osname": "fedora-41"}]
    assert read["kernels"][0]["initrd"].endswith("/initrd")
    assert read["host_network_devices"] == ["eth1", "eth2"]
    assert read["nvram_file_template"] == "/usr/share/OVMF/OVMF_VARS.fd"
    assert yaml.safe_load(_tck.config(settings(), "yaml"))["images"] == []


@pytest.mark.parametrize("word", ["/a b", "a\nuri = qemu+ssh://other/system", "x = (", 'a"b', "a#b"])
def test_a_word_that_would_be_more_than_a_word_is_refused(word: str) -> None:
    with pytest.raises(InvalidInput, match="one of its formats gives a meaning"):
        settings(scratch=word)


def test_each_file_of_the_scratch_directory_has_its_place() -> None:
    assert _tck.resources("x86_64", "") == {
        "kernel": "os-x86_64-hvm/vmlinuz",
        "initrd": "os-x86_64-hvm/initrd",
        "ssh_key": "ssh/id_rsa",
        "ssh_key_public": "ssh/id_rsa.pub",
    }
    assert _tck.resources("aarch64", "fedora-41")["image"] == "os-aarch64-hvm/disk-fedora-41.img"


# -- devices -------------------------------------------------------------------------------------------------------------


def test_what_is_not_used_is_refused() -> None:
    """libvirt-tck compares with the last index, so it does not see a list of one network card; a block device it cannot read at all."""
    with pytest.raises(InvalidInput, match="ignores a list of one"):
        _tck.check_devices({**NO_DEVICES, "network_devices": ["eth1"]}, "yaml")
    with pytest.raises(InvalidInput, match="dies when it reads the list"):
        _tck.check_devices({**NO_DEVICES, "block_devices": ["/dev/vdb", "/dev/vdc"]}, "yaml")
    one = _tck.check_devices({**NO_DEVICES, "network_devices": ["eth1"], "block_devices": ["/dev/vdb"]}, "record")
    assert (one["host_network_devices"], one["host_block_devices"]) == (["eth1"], ["/dev/vdb"])


@pytest.mark.parametrize(
    ("devices", "reason"),
    [
        ({"usb_devices": [{"vendor": "0x0627"}]}, "neither vendor and product nor bus and device"),
        ({"usb_devices": [{"vendor": "0x0627", "product": "mouse"}]}, "product is no number"),
        ({"pci_devices": [{"bus": "00"}]}, "has no slot"),
        ({"block_devices": ["vdb"]}, "no path below /dev"),
        ({"network_devices": ["a name of nothing"]}, "no name of an interface"),
    ],
)
def test_a_device_that_is_none_is_refused(devices: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        _tck.check_devices({**NO_DEVICES, **devices}, "record")


# -- needs ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["needs-0.1.json", "needs-2.json"])
def test_the_needs_that_are_shipped_are_understood(name: str) -> None:
    entries = json.loads((ROOT / "roles/libvirt_tck/files" / name).read_text())
    assert _tck.check_needs(entries) == entries
    assert len({(entry["tests"], "needs" in entry) for entry in entries}) >= len(entries) - 1


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"needs": ["selinux"], "reason": "labels"}, "does not say which tests"),
        ({"tests": "a/*", "need": ["selinux"]}, "unknown key need"),
        ({"tests": "a/*", "needs": "selinux", "reason": "labels"}, "no list of names"),
        ({"tests": "a/*", "needs": ["selinux"]}, "has no reason"),
        ({"tests": "a/*"}, "neither needs nor a deadline"),
        ({"tests": "a/*", "deadline": 0}, "no positive number"),
        ({"tests": "a/*", "deadline": True}, "no positive number"),
    ],
)
def test_a_need_that_says_nothing_is_refused(entry: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        _tck.check_needs([entry])
