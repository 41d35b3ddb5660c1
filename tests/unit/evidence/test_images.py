# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Screens and memory: their formats, also torn ones."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.mayfly.virt.plugins.module_utils import _vmcore
from ansible_collections.mayfly.virt.plugins.module_utils._screenshot import to_png

INFO = "OSRELEASE=6.1.0-1-amd64\nPAGESIZE=4096\nNUMBER(phys_base)=190840832\nKERNELOFFSET=26800000\n"


def kdump(info: bytes, *, phys_base: int = 0x190840832, block_size: int = 4096) -> bytes:
    """A kdump file as far as anybody here reads one: header, sub-header and VMCOREINFO, as QEMU 7.2 fills them in."""
    data = bytearray(block_size + 1000)
    data[:8] = b"KDUMP   "
    struct.pack_into("<i", data, 8, 6)
    data[272:278] = b"x86_64"
    struct.pack_into("<iii", data, 424, 1, block_size, 2)
    struct.pack_into("<q", data, block_size, phys_base)
    struct.pack_into("<QQ", data, block_size + 32, len(data) if info else 0, len(info))
    return bytes(data) + info


def flattened(data: bytes, size: int = 700) -> bytes:
    """The same as QEMU writes it: the pieces in another order, each with its place."""
    pieces = [(at, data[at : at + size]) for at in range(0, len(data), size)]
    out = b"makedumpfile".ljust(16, b"\0").ljust(4096, b"\0")
    for at, piece in reversed(pieces):
        out += struct.pack(">qq", at, len(piece)) + piece
    return out + struct.pack(">qq", -1, -1)


def test_a_flattened_dump_becomes_the_file_it_is_of() -> None:
    whole = kdump(INFO.encode())
    flat, target = io.BytesIO(flattened(whole)), io.BytesIO()
    assert _vmcore.is_flat(flat)
    _vmcore.unflatten(flat, target)
    assert target.getvalue() == whole
    assert not _vmcore.is_flat(target)
    assert _vmcore.vmcoreinfo(target) == INFO


@pytest.mark.parametrize("cut", [1, 16, 17, 500])
def test_a_torn_flattened_dump_is_refused(cut: int) -> None:
    with pytest.raises(ValueError, match="it ends"):
        _vmcore.unflatten(io.BytesIO(flattened(kdump(b"x"))[:-cut]), io.BytesIO())


def test_a_dump_is_mended() -> None:
    file = io.BytesIO(kdump(INFO.encode()))
    _vmcore.mend(file)
    data = file.getvalue()
    assert struct.unpack_from("<q", data, 4096) == (190840832,)
    names = [data[12 + 65 * number :][:65].rstrip(b"\0") for number in range(5)]
    assert names == [b"Linux", b"(none)", b"6.1.0-1-amd64", b"(unknown)", b"x86_64"]
    _vmcore.mend(file)
    assert file.getvalue() == data


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no kdump file"),
        (b"KDUMP   ", "no kdump file"),
        (b"\x7fELF" + bytes(5000), "no kdump file"),
        (kdump(b""), "no VMCOREINFO"),
        (kdump(b"x")[:4096], "no VMCOREINFO"),
        (kdump(b"x")[:428] + b"\xff" * 4 + bytes(9000), "blocks of -1 bytes"),
    ],
)
def test_what_is_no_dump_says_why(data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        _vmcore.mend(io.BytesIO(data))


@settings(max_examples=200, deadline=None)
@given(info=st.binary(max_size=300))
def test_a_guests_vmcoreinfo_may_say_anything(info: bytes) -> None:
    file = io.BytesIO(kdump(info))
    before = len(file.getvalue())
    if info:
        _vmcore.mend(file)
        assert len(file.getvalue()) == before
    else:
        with pytest.raises(ValueError, match="no VMCOREINFO"):
            _vmcore.mend(file)


@pytest.mark.parametrize(
    ("memory", "free", "limit", "why"),
    [
        (2048, 10_000, 4096, ""),
        (4097, 100_000, 4096, "4097 MiB of memory, and dumps of at most 4096 MiB"),
        (2048, 5119, 4096, "5119 MiB left on the disk"),
        (2048, 5120, 4096, ""),
    ],
)
def test_a_dump_must_fit(memory: int, free: int, limit: int, why: str) -> None:
    refusal = _vmcore.refusal(memory, free, limit)
    assert bool(refusal) is bool(why)
    assert why in refusal


def test_a_pixmap_becomes_a_png() -> None:
    image = to_png(b"P6\n2 1\n255\n" + b"\xff\x00\x00" + b"\x00\xff\x00")
    assert image[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", image[16:24]) == (2, 1)
    length = struct.unpack(">I", image[33:37])[0]
    assert zlib.decompress(image[41 : 41 + length]) == b"\0\xff\x00\x00\x00\xff\x00"
    assert to_png(image) == image


@pytest.mark.parametrize("image", [b"", b"P5\n2 1\n255\nabc", b"P6\n2 2\n255\n" + bytes(11), b"P6\n0 0\n255\n", b"GIF89a"])
def test_what_is_no_pixmap_is_refused(image: bytes) -> None:
    with pytest.raises(ValueError, match="the screen came"):
        to_png(image)
