# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Archives as a hostile guest may send them, made here and not kept as binaries, each with what must come of it.

`python3 hostile_archives.py DIRECTORY` writes them out, to be tried on another program.
"""

from __future__ import annotations

import bz2
import dataclasses
import gzip
import io
import lzma
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

MIB = 1024 * 1024
# What the corpus is read with.
FILE, TOTAL, READ, COUNT = 64 * 1024, 256 * 1024, 4 * MIB, 20


@dataclasses.dataclass(frozen=True)
class Case:
    """An archive; the files that must be kept of it, and a word of what must be said of the rest."""

    name: str
    make: Callable[[], bytes]
    kept: dict[str, bytes]
    left_out: str = ""
    problem: str = ""


# --- building ---------------------------------------------------------------------------------------------------


def header(
    name: bytes, size: int = 0, kind: bytes = b"0", *, link: bytes = b"", magic: bytes = b"ustar\x0000", prefix: bytes = b""
) -> bytes:
    """Return one header with a right checksum, whatever it says."""
    block = bytearray(512)
    block[0 : len(name[:100])] = name[:100]
    block[100:108], block[108:116], block[116:124] = b"0000644\0", b"0000000\0", b"0000000\0"
    block[124:136] = b"%011o\0" % size
    block[136:148] = b"00000000000\0"
    block[156:157] = kind
    block[157 : 157 + len(link)] = link
    block[257 : 257 + len(magic)] = magic
    block[345 : 345 + len(prefix)] = prefix
    return summed(block)


def summed(block: bytearray) -> bytes:
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


def file(name: bytes, content: bytes = b"text", kind: bytes = b"0", **more: bytes) -> bytes:
    return header(name, len(content), kind, **more) + padded(content)


END = bytes(1024)
GOOD = file(b"good.log", b"good\n")
GOOD_KEPT = {"good.log": b"good\n"}


def tar(*members: bytes) -> bytes:
    return b"".join(members) + END


def with_good(*members: bytes) -> Callable[[], bytes]:
    return lambda: tar(*members, GOOD)


def link(kind: bytes, name: bytes, target: bytes) -> bytes:
    return header(name, 0, kind, link=target)


def pax(records: dict[bytes, bytes], kind: bytes = b"x") -> bytes:
    data = b""
    for key, value in records.items():
        body = b" " + key + b"=" + value + b"\n"
        length = len(body) + 1
        while len(str(length).encode()) + len(body) != length:
            length = len(str(length).encode()) + len(body)
        data += str(length).encode() + body
    return file(b"PaxHeader", data, kind)


def long_name(name: bytes) -> bytes:
    return file(b"././@LongLink", name + b"\0", b"L", magic=b"ustar  \0")


def edited(block: bytes, at: int, value: bytes, *, sum_again: bool = True) -> bytes:
    changed = bytearray(block)
    changed[at : at + len(value)] = value
    return summed(changed) if sum_again else bytes(changed)


def sparse_file() -> bytes:
    """An old GNU sparse file whose map goes on in two further blocks, the first of which looks like a header."""
    first = edited(header(b"sparse.img", 512, b"S", magic=b"ustar  \0"), 482, b"\1")
    more = edited(header(b"inner.log", 0), 504, b"\1")
    return first + more + bytes(512) + bytes(512)


def truncated() -> bytes:
    return tar(GOOD, file(b"long.log", b"x" * 2000))[: 512 * 4]


def real_tar() -> bytes:
    """What the standard library writes, a long and non-ASCII name among it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=tarfile.PAX_FORMAT) as archive:
        for name in ("var/log/app/a.log", "var/log/app/" + "n" * 120 + ".log", "var/log/grün.log"):
            member = tarfile.TarInfo(name)
            member.size = 3
            archive.addfile(member, io.BytesIO(b"abc"))
    return buffer.getvalue()


def gnu_tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz", format=tarfile.GNU_FORMAT) as archive:
        member = tarfile.TarInfo("d/" + "n" * 150)
        member.size = 3
        archive.addfile(member, io.BytesIO(b"abc"))
    return buffer.getvalue()


def pair(first: bytes, second: bytes) -> Callable[[], bytes]:
    return with_good(file(first, b"1"), file(second, b"2"))


# --- the corpus -------------------------------------------------------------------------------------------------

CASES = [
    # as they should be
    Case("real pax", real_tar, {"var/log/app/a.log": b"abc", f"var/log/app/{'n' * 120}.log": b"abc", "var/log/grün.log": b"abc"}),
    Case("real gnu xz", gnu_tar, {f"d/{'n' * 150}": b"abc"}),
    Case("prefix field", lambda: tar(file(b"b.log", b"1", prefix=b"a")), {"a/b.log": b"1"}),
    Case("directory first", with_good(header(b"d/", 0, b"5"), file(b"d/x", b"1")), {"d/x": b"1", **GOOD_KEPT}),
    Case("dots and slashes", lambda: tar(file(b"./a//./b.log", b"1")), {"a/b.log": b"1"}),
    Case("end is kept", lambda: tar(file(b"big", b"a" * FILE + b"tail")), {"big": (b"a" * FILE + b"tail")[-FILE:]}),
    # out of the directory
    Case("absolute", with_good(file(b"/etc/passwd")), GOOD_KEPT, "absolute path"),
    Case("parent", with_good(file(b"../../evil")), GOOD_KEPT, "leads out"),
    Case("parent inside", with_good(file(b"a/../../evil")), GOOD_KEPT, "leads out"),
    Case("parent in prefix", with_good(file(b"evil", prefix=b"../..")), GOOD_KEPT, "leads out"),
    Case("parent in pax path", with_good(pax({b"path": b"../evil"}), file(b"harmless")), GOOD_KEPT, "leads out"),
    Case("parent in long name", with_good(long_name(b"../evil"), file(b"harmless")), GOOD_KEPT, "leads out"),
    Case("absolute in pax path", with_good(pax({b"path": b"/etc/cron.d/evil"}), file(b"harmless")), GOOD_KEPT, "absolute path"),
    Case("no name", with_good(file(b"./.")), GOOD_KEPT, "no name"),
    # links, devices, pipes
    Case("symlink", with_good(link(b"2", b"l", b"/etc/shadow")), GOOD_KEPT, "a symbolic link"),
    Case(
        "write through a symlink",
        with_good(link(b"2", b"l", b"/tmp"), file(b"l/evil", b"1")),
        {"l/evil": b"1", **GOOD_KEPT},
        "a symbolic link",
    ),
    Case(
        "symlink, then file of that name",
        with_good(link(b"2", b"l", b"/etc/passwd"), file(b"l", b"1")),
        {"l": b"1", **GOOD_KEPT},
        "a symbolic link",
    ),
    Case("hard link", with_good(link(b"1", b"l", b"/etc/shadow")), GOOD_KEPT, "a hard link"),
    Case("hard link with content", with_good(header(b"l", 4, b"1") + padded(b"evil")), {}, problem="has a content"),
    Case("character device", with_good(header(b"null", 0, b"3")), GOOD_KEPT, "a character device"),
    Case("block device", with_good(header(b"sda", 0, b"4")), GOOD_KEPT, "a block device"),
    Case("named pipe", with_good(header(b"pipe", 0, b"6")), GOOD_KEPT, "a named pipe"),
    Case("unknown type", with_good(file(b"what", b"1", b"Z")), GOOD_KEPT, "unknown type"),
    # names that meet
    Case("same name twice", pair(b"a.log", b"a.log"), {"a.log": b"1", **GOOD_KEPT}, "was there before"),
    Case("same name by another way", pair(b"a.log", b"./a.log"), {"a.log": b"1", **GOOD_KEPT}, "was there before"),
    Case("case only", pair(b"a.log", b"A.LOG"), {"a.log": b"1", **GOOD_KEPT}, "in case only"),
    Case("case of a directory", pair(b"d/a", b"D/b"), {"d/a": b"1", **GOOD_KEPT}, "in case only"),
    Case("composed and decomposed", pair("é".encode(), "e\u0301".encode()), {"é": b"1", **GOOD_KEPT}, "in case only"),
    Case("file, then directory", pair(b"a", b"a/b"), {"a": b"1", **GOOD_KEPT}, "is a file already"),
    Case("directory, then file", pair(b"a/b", b"a"), {"a/b": b"1", **GOOD_KEPT}, "is a directory already"),
    # names that are no names
    Case("control characters", lambda: tar(file(b"a\x1b[2J\nb.log", b"1")), {"a%1B[2J%0Ab.log": b"1"}),
    Case("no UTF-8", lambda: tar(file(b"\xff\xfe.log", b"1")), {"%FF%FE.log": b"1"}),
    Case("right to left", lambda: tar(file("a\u202egol.exe".encode(), b"1")), {"a%E2%80%AEgol.exe": b"1"}),
    Case("escapes do not meet", lambda: tar(file(b"%0A", b"1"), file(b"\n", b"2")), {"%250A": b"1", "%0A": b"2"}),
    Case("an option", lambda: tar(file(b"-rf", b"1")), {"%2Drf": b"1"}),
    Case("NUL in pax path", lambda: tar(pax({b"path": b"a\0b"}), file(b"x", b"1")), {"a%00b": b"1"}),
    Case("long name", with_good(long_name(b"n" * 5000), file(b"x")), GOOD_KEPT, "its name has 5000 bytes"),
    Case("long part", with_good(long_name(b"n" * 300), file(b"x")), GOOD_KEPT, "too long"),
    Case("deep", with_good(long_name(b"d/" * 100 + b"x"), file(b"x")), GOOD_KEPT, "directories deep"),
    # headers that lie
    Case("wrong checksum", lambda: tar(GOOD, edited(file(b"x"), 0, b"y", sum_again=False)), GOOD_KEPT, problem="wrong checksum"),
    Case("size that is no number", lambda: tar(GOOD, edited(header(b"x"), 124, b"9999zz")), GOOD_KEPT, problem="number that is none"),
    Case("negative size", lambda: tar(GOOD, edited(header(b"x"), 124, b"\xff" * 12)), GOOD_KEPT, problem="number that is none"),
    Case(
        "immense size", lambda: tar(GOOD, edited(header(b"x"), 124, b"\x80" + b"\xff" * 11)), {**GOOD_KEPT, "x": b""}, problem="cut short"
    ),
    Case(
        "pax size beside the header's", lambda: tar(GOOD, pax({b"size": b"2048"}), file(b"x"), header(b"inner")), GOOD_KEPT, problem="twice"
    ),
    Case("pax for all members", lambda: tar(GOOD, pax({b"path": b"evil"}, b"g"), file(b"x")), GOOD_KEPT, problem="all its members"),
    Case("torn pax header", lambda: tar(GOOD, file(b"p", b"99 path=x\n", b"x"), file(b"x")), GOOD_KEPT, problem="PAX header is torn"),
    Case(
        "pax key twice", lambda: tar(GOOD, file(b"p", b"9 path=a\n9 path=b\n", b"x"), file(b"x")), GOOD_KEPT, problem="contradicts itself"
    ),
    Case("two long names", lambda: tar(GOOD, long_name(b"a"), long_name(b"b"), file(b"x")), GOOD_KEPT, problem="two long names"),
    Case("immense pax header", lambda: tar(GOOD, header(b"p", 2**33, b"x")), GOOD_KEPT, problem="a header of"),
    Case("headers without end", lambda: tar(GOOD, *[pax({b"mtime": b"1"})] * 50, file(b"x")), GOOD_KEPT, problem="more than 8 headers"),
    Case("sparse", with_good(sparse_file()), GOOD_KEPT, "a sparse file"),
    Case(
        "sparse by pax",
        with_good(pax({b"GNU.sparse.major": b"1", b"GNU.sparse.realsize": b"9" * 15}), file(b"x")),
        GOOD_KEPT,
        "a sparse file",
    ),
    # ends that are none
    Case("truncated", truncated, {**GOOD_KEPT, "long.log": b"x" * 512}, problem="cut short"),
    Case("no end mark", lambda: GOOD, GOOD_KEPT, problem="without its end mark"),
    Case("torn end mark", lambda: GOOD + bytes(512) + file(b"x"), GOOD_KEPT, problem="end mark is torn"),
    Case("two archives in a row", lambda: tar(GOOD) + tar(file(b"second")), GOOD_KEPT, problem="something follows the end"),
    Case(
        "two gzips in a row", lambda: gzip.compress(tar(GOOD)) + gzip.compress(tar(file(b"second"))), GOOD_KEPT, problem="something follows"
    ),
    Case("truncated gzip", lambda: gzip.compress(tar(GOOD), 0)[:-700], GOOD_KEPT, problem="cut short"),
    Case("damaged gzip", lambda: edited(gzip.compress(tar(GOOD)), 20, b"\xff\xff\xff", sum_again=False), {}, problem="damaged"),
    Case("empty", lambda: b"", {}, problem="it is empty"),
    Case("no archive", lambda: b"bash: tar: command not found\n" * 40, {}, problem="a header has a"),
    Case("another compression", lambda: bz2.compress(tar(GOOD)), {}, problem="neither by gzip nor by xz"),
    # too much
    Case(
        "gzip bomb", lambda: gzip.compress(tar(GOOD, file(b"bomb", bytes(64 * MIB)))), {**GOOD_KEPT, "bomb": b""}, problem="unpacks to more"
    ),
    Case(
        "xz bomb",
        lambda: lzma.compress(tar(GOOD, file(b"bomb", bytes(64 * MIB))), preset=1),
        {**GOOD_KEPT, "bomb": b""},
        problem="unpacks to more",
    ),
    Case(
        "too many files",
        lambda: tar(*[file(b"f%d" % n, b"1") for n in range(COUNT + 1)]),
        {f"f{n}": b"1" for n in range(COUNT)},
        problem="more than 20 files",
    ),
    Case(
        "too many members",
        lambda: tar(GOOD, *[link(b"2", b"l%d" % n, b"x") for n in range(300)]),
        GOOD_KEPT,
        "and 149 more",
        problem="more than 200 members",
    ),
    Case(
        "too much in total",
        lambda: tar(*[file(b"f%d" % n, b"x" * FILE) for n in range(5)]),
        {f"f{n}": b"x" * FILE for n in range(4)},
        problem="in total",
    ),
]


def main() -> None:
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for case in CASES:
        (directory / f"{case.name.replace(' ', '-')}.tar").write_bytes(case.make())


if __name__ == "__main__":
    main()
