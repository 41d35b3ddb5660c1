# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backing chains: what qemu-img said, how large an overlay must be, which one is kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from core_doubles import Programs, run_program
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.mayfly.virt.plugins.module_utils import _chain
from ansible_collections.mayfly.virt.plugins.module_utils._chain import GIB, Chain, Layer
from ansible_collections.mayfly.virt.plugins.module_utils._errors import InvalidInput, MayflyError

# What qemu-img 7.2 said of an overlay on an image; newer ones add "children", which is not looked at.
RECORDED = """[
    {
        "backing-filename-format": "qcow2",
        "virtual-size": 21474836480,
        "filename": "/state/runs/r1/one.qcow2",
        "cluster-size": 65536,
        "format": "qcow2",
        "actual-size": 200704,
        "format-specific": {
            "type": "qcow2",
            "data": {"compat": "1.1", "compression-type": "zlib", "lazy-refcounts": false, "refcount-bits": 16, "corrupt": false}
        },
        "full-backing-filename": "/state/images/sha256-55.qcow2",
        "backing-filename": "/state/images/sha256-55.qcow2",
        "dirty-flag": false
    },
    {
        "children": [{"name": "file", "info": {"filename": "x", "format": "file", "virtual-size": 9}}],
        "virtual-size": 4294967296,
        "filename": "/state/images/sha256-55.qcow2",
        "cluster-size": 65536,
        "format": "qcow2",
        "actual-size": 520093696,
        "dirty-flag": false
    }
]"""
TOP = Layer("/state/runs/r1/one.qcow2", "qcow2", 20 * GIB)
BASE = Layer("/state/images/sha256-55.qcow2", "qcow2", 4 * GIB)


def test_reads_what_qemu_img_says() -> None:
    chain = _chain.parse_info(RECORDED)
    assert chain == Chain((TOP, BASE))
    assert chain.top == TOP
    assert chain.backing == (BASE,)


def test_a_disk_without_backing_is_a_chain_of_one() -> None:
    chain = _chain.parse_info(json.dumps(json.loads(RECORDED)[1:]))
    assert chain.top == BASE
    assert chain.backing == ()


def test_asks_for_the_whole_chain_though_a_guest_holds_the_file() -> None:
    qemu_img = Programs(qemu_img=lambda argv: RECORDED)
    assert _chain.read_chain(Path("/state/runs/r1/one.qcow2"), qemu_img).top == TOP
    assert qemu_img.calls == [["qemu-img", "info", "-U", "--backing-chain", "--output=json", "/state/runs/r1/one.qcow2"]]


def test_a_given_format_is_believed() -> None:
    qemu_img = Programs(qemu_img=lambda argv: json.dumps(json.loads(RECORDED)[1:]))
    _chain.read_chain(Path("/data.raw"), qemu_img, "raw")
    assert qemu_img.calls == [["qemu-img", "info", "-U", "-f", "raw", "--backing-chain", "--output=json", "/data.raw"]]


@pytest.mark.skipif(not shutil.which("qemu-img"), reason="qemu-img is not installed")
def test_what_a_guest_wrote_into_its_raw_disk_is_no_chain(tmp_path: Path) -> None:
    """The header of a qcow2 file that names a file of the host."""
    (tmp_path / "secret").write_bytes(b"a secret of the host".ljust(1 << 20))
    disk = tmp_path / "data.raw"
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(tmp_path / "secret"), str(disk)]
    assert run_program(argv)[0] == 0
    assert [layer.path for layer in _chain.read_chain(disk, run_program).backing] == [str(tmp_path / "secret")]
    believed = _chain.read_chain(disk, run_program, "raw")
    assert (believed.top.format, believed.backing) == ("raw", ())


@pytest.mark.parametrize(
    ("answer", "reason"),
    [((1, "", "qemu-img: Could not open 'x': No such file\n"), "Could not open 'x': No such file"), ((2, "", " "), "ended with status 2")],
)
def test_a_chain_that_cannot_be_read_is_an_error(answer: tuple[int, str, str], reason: str) -> None:
    with pytest.raises(MayflyError, match=reason) as caught:
        _chain.read_chain(Path("/x.qcow2"), Programs(qemu_img=lambda argv: answer))
    assert caught.value.target == "/x.qcow2"
    assert caught.value.remedy


def test_an_overlay_names_base_and_formats() -> None:
    assert _chain.create_argv(Path("/o.qcow2"), BASE, 20 * GIB) == [
        "qemu-img",
        "create",
        "-q",
        "-f",
        "qcow2",
        "-F",
        "qcow2",
        "-b",
        "/state/images/sha256-55.qcow2",
        "/o.qcow2",
        "21474836480",
    ]


@pytest.mark.parametrize(
    ("virtual_size", "asked", "size"),
    [
        (4 * GIB, None, 20 * GIB),
        (20 * GIB, None, 20 * GIB),
        (20 * GIB + 512, None, 20 * GIB + 512),
        (30 * GIB, None, 30 * GIB),
        (0, None, 20 * GIB),
        (4 * GIB, 4, 4 * GIB),
        (4 * GIB - 1, 4, 4 * GIB),
        (4 * GIB, 5, 5 * GIB),
    ],
)
def test_size_of_an_overlay(virtual_size: int, asked: int | None, size: int) -> None:
    assert _chain.overlay_size("one", Layer("/b", "qcow2", virtual_size), asked) == size


@pytest.mark.parametrize(
    ("virtual_size", "asked", "least"), [(4 * GIB, 3, 4), (4 * GIB + 1, 4, 5), (10 * GIB, 1, 10), (GIB, 0, 1), (GIB, -1, 1)]
)
def test_an_overlay_smaller_than_its_base_is_refused(virtual_size: int, asked: int, least: int) -> None:
    with pytest.raises(InvalidInput) as caught:
        _chain.overlay_size("one", Layer("/b", "qcow2", virtual_size), asked)
    assert caught.value.target == "one"
    assert f"at least {least} GiB" in caught.value.remedy


@given(st.integers(min_value=1, max_value=100 * GIB), st.one_of(st.none(), st.integers(min_value=1, max_value=100)))
def test_an_overlay_is_never_smaller_than_its_base(virtual_size: int, asked: int | None) -> None:
    base = Layer("/b", "qcow2", virtual_size)
    try:
        size = _chain.overlay_size("one", base, asked)
    except InvalidInput as refusal:
        least = int(refusal.remedy.split("at least ")[1].split()[0])
        size = _chain.overlay_size("one", base, least)  # the remedy helps
    assert size >= virtual_size


def test_the_overlay_that_is_wanted_is_kept() -> None:
    chain = Chain((TOP, BASE))
    _chain.check_same(Path(TOP.path), chain, BASE, 20 * GIB)
    assert chain.top == TOP


@pytest.mark.parametrize(
    ("chain", "base", "size", "found"),
    [
        (Chain((TOP, BASE)), BASE, 21 * GIB, "with 21474836480 bytes"),
        (Chain((TOP, BASE)), Layer("/other", "qcow2", 1), 20 * GIB, f"on {BASE.path}"),
        (Chain((TOP,)), BASE, 20 * GIB, "on nothing"),
        (Chain((TOP, Layer("/between", "qcow2", 1), BASE)), BASE, 20 * GIB, "on /between"),
    ],
)
def test_another_overlay_is_never_overwritten(chain: Chain, base: Layer, size: int, found: str) -> None:
    with pytest.raises(MayflyError, match=found) as caught:
        _chain.check_same(Path(TOP.path), chain, base, size)
    assert "Remove it first" in caught.value.remedy
