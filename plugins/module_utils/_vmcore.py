# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Memory dumps as QEMU writes them: from its stream format to the file that crash and drgn read, mended where QEMU errs.

QEMU writes kdump-zlib as a row of (offset, size, data), which is called flattened, because its target might be a pipe. Not every
tool reads that.
"""

from __future__ import annotations

import re
import struct
import typing as t

_FLAT = b"makedumpfile\0\0\0\0"
_FLAT_HEADER = 4096
_KDUMP = b"KDUMP   "
_UTSNAME, _UTS_LENGTH = 12, 65  # in struct disk_dump_header: sysname, nodename, release, version, machine, domainname
_BLOCK_SIZE = 428  # in the same, on 64 bits
_VMCOREINFO = 32  # offset and size of it in struct kdump_sub_header
_PHYS_BASE = re.compile(r"^NUMBER\(phys_base\)=(-?\d{1,18})$", re.MULTILINE)
_RELEASE = re.compile(r"^OSRELEASE=([!-~]+)$", re.MULTILINE)
_CHUNK = 1024 * 1024
_LONGEST = 1024 * 1024


def is_flat(file: t.BinaryIO) -> bool:
    file.seek(0)
    return file.read(len(_FLAT)) == _FLAT


def unflatten(source: t.BinaryIO, target: t.BinaryIO) -> None:
    """Write the dump of a flattened file; raise ValueError when it is torn."""
    source.seek(_FLAT_HEADER)
    while True:
        record = source.read(16)
        if len(record) < 16:
            raise ValueError("it ends without its end mark")
        offset, size = struct.unpack(">qq", record)
        if (offset, size) == (-1, -1):
            return
        if offset < 0 or size < 0:
            raise ValueError("it has a record at a negative place")
        target.seek(offset)
        while size:
            data = source.read(min(size, _CHUNK))
            if not data:
                raise ValueError("it ends in the middle of a record")
            target.write(data)
            size -= len(data)


def vmcoreinfo(file: t.BinaryIO) -> str:
    """Return what the guest's kernel said of itself, which the tools go by; raise ValueError when this is no dump with that in it."""
    file.seek(_sub_header(file) + _VMCOREINFO)
    offset, size = struct.unpack("<QQ", file.read(16).ljust(16, b"\0"))
    if not offset or not 0 < size <= _LONGEST:
        raise ValueError("it has no VMCOREINFO: the guest's kernel has not given one to QEMU (is its module qemu_fw_cfg loaded?)")
    file.seek(offset)
    return file.read(size).rstrip(b"\0").decode("utf-8", "replace")


def mend(file: t.BinaryIO) -> None:
    """Correct in a dump what QEMU gets wrong, or raise ValueError when the guest's kernel has not said what is right.

    QEMU takes the decimal number of phys_base for a hexadecimal one, so that makedumpfile and crash translate no address, and leaves
    the names of uname empty, by which drgn's library tells what machine it was.
    """
    said = vmcoreinfo(file)
    base = _PHYS_BASE.search(said)
    if base:
        file.seek(_sub_header(file))
        file.write(struct.pack("<q", int(base[1])))
    release = _RELEASE.search(said)
    names = (b"Linux", b"(none)", release[1].encode()[:64] if release else b"(unknown)", b"(unknown)")
    for number, name in enumerate(names):
        place = _UTSNAME + number * _UTS_LENGTH
        file.seek(place)
        if file.read(1) == b"\0":
            file.seek(place)
            file.write(name)


def _sub_header(file: t.BinaryIO) -> int:
    """Return where struct kdump_sub_header lies, which begins with phys_base."""
    file.seek(0)
    header = file.read(_BLOCK_SIZE + 4)
    if header[: len(_KDUMP)] != _KDUMP or len(header) < _BLOCK_SIZE + 4:
        raise ValueError("it is no kdump file")
    (block_size,) = struct.unpack_from("<i", header, _BLOCK_SIZE)
    if not 512 <= block_size <= 65536:
        raise ValueError(f"it has blocks of {block_size} bytes")
    return int(block_size)


RESERVE = 1024  # MiB that must be left on a disk


def refusal(memory_mib: int, free_mib: int, limit_mib: int) -> str:
    """Return why a guest of this size is not dumped, or an empty string. A dump may be as big as the memory, and lies there twice."""
    if memory_mib > limit_mib:
        return f"the guest has {memory_mib} MiB of memory, and dumps of at most {limit_mib} MiB are wanted"
    if 2 * memory_mib + RESERVE > free_mib:
        return f"there are {free_mib} MiB left on the disk, and a dump may take {2 * memory_mib} MiB and must leave {RESERVE} MiB"
    return ""
