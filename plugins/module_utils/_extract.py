# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An archive of somebody who may be hostile, read as a stream: plain files with safe names come out, within limits. Pure.

A parser of our own and a strict one: programs that read tar differ in what they make of headers that contradict each other, and
tarfile has no limits. What is no plain file is left out and said; where the archive contradicts itself, reading ends there and that
is said too, for behind such a place nobody knows what is a header. Nothing of a member but its name and content is looked at.
"""

from __future__ import annotations

import dataclasses
import itertools
import lzma
import re
import typing as t
import unicodedata
import zlib

BLOCK = 512
CHUNK = 64 * 1024
HEADER_LIMIT = 64 * 1024  # bytes of a long name, or of a PAX header
HEADERS = 8  # that may come before a member; two are usual
XZ_MEMORY = 96 * 1024 * 1024  # what xz -9 needs is 65 MiB
NOTES = 50
COMPONENT = 240  # bytes of one name: file systems allow 255, and .xz may be added
# Members that are no file cost time too.
MEMBERS_PER_FILE = 10

_UNSAFE = '%"*:<>?|\\'  # the sign of our own escapes, and what CI services refuse in an artefact's name
_OCTAL = re.compile(rb"[ \0]*([0-7]*)[ \0]*")
_RECORD = re.compile(rb"([1-9][0-9]{0,5}) ")
_ZERO = bytes(BLOCK)

_WITHOUT_DATA = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"5": "a directory",
    b"6": "a named pipe",
}


class Broken(ValueError):
    """The archive cannot be read on."""


class Refused(ValueError):
    """A member is left out."""


class Writer(t.Protocol):
    def write(self, data: bytes) -> object: ...

    def close(self) -> object: ...


@dataclasses.dataclass(frozen=True)
class Limits:
    """Sizes in bytes. Of a file that is bigger than 'file' the end is kept; 'read' is how much an archive may unpack to."""

    file: int
    total: int
    read: int
    count: int
    depth: int = 16
    path: int = 1024


@dataclasses.dataclass(frozen=True)
class Kept:
    """A file that was written: how much of it, and how much of its beginning (or, of a torn archive, its end) was not."""

    name: str
    size: int
    cut: int


@dataclasses.dataclass
class Outcome:
    """What became of an archive. What was left out is as it should be; a problem means that something is missing."""

    kept: list[Kept] = dataclasses.field(default_factory=list)
    left_out: list[str] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)


def extract(chunks: t.Iterable[bytes], create: t.Callable[[tuple[str, ...]], Writer], limits: Limits) -> Outcome:
    """Read an archive and write its plain files: create() opens one by the parts of its name, and may raise FileExistsError."""
    extraction = _Extraction(create, limits)
    try:
        reader = _Reader(_decompressed(iter(chunks)), limits.read)
        for member in _members(reader):
            extraction.take(member)
        reader.expect_nothing_more()
    except Broken as error:
        extraction.outcome.problems.append(str(error))
    return extraction.finish()


# --- names --------------------------------------------------------------------------------------------------------------


def safe_parts(raw: bytes, limits: Limits) -> tuple[str, ...]:
    """Return the parts of a member's name as files may be called, or raise Refused."""
    if len(raw) > limits.path:
        raise Refused(f"its name has {len(raw)} bytes")
    if raw.startswith(b"/"):
        raise Refused("its name is an absolute path")
    parts = [part for part in raw.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise Refused("its name leads out of the directory")
    if not parts:
        raise Refused("it has no name")
    if len(parts) > limits.depth:
        raise Refused(f"it lies {len(parts)} directories deep")
    names = tuple(escape(part) for part in parts)
    if any(len(name.encode()) > COMPONENT for name in names):
        raise Refused("a part of its name is too long")
    return names


def escape(part: bytes) -> str:
    """Return a name that a person, a shell's completion and a CI's upload can take; no two names become one."""
    text = part.decode("utf-8", "surrogateescape")
    return "".join(_escaped(char) if _must_escape(char, first=index == 0) else char for index, char in enumerate(text))


def _must_escape(char: str, *, first: bool) -> bool:
    return char in _UNSAFE or not char.isprintable() or (first and char == "-")


def _escaped(char: str) -> str:
    return "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "surrogateescape"))


class _Names:
    """What has been written, so that no name means two things, on a file system without upper and lower case either."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, ...], tuple[tuple[str, ...], bool]] = {}  # by folded parts: as spelled, and whether it is a file

    def add(self, parts: tuple[str, ...]) -> None:
        for length in range(1, len(parts) + 1):
            head = parts[:length]
            spelled, is_file = self._seen.get(_fold(head), (head, length == len(parts)))
            if spelled != head:
                raise Refused(f"its name differs from {'/'.join(spelled)!r} in case only")
            if length < len(parts) and is_file:
                raise Refused(f"{'/'.join(head)!r} is a file already")
            if length == len(parts) and _fold(head) in self._seen:
                raise Refused("its name is a directory already" if not is_file else "its name was there before")
        for length in range(1, len(parts) + 1):
            self._seen[_fold(parts[:length])] = (parts[:length], length == len(parts))


def _fold(parts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", part).casefold()) for part in parts)


# --- members to files ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class _Member:
    """One entry of an archive; 'odd' says why it is no plain file."""

    name: bytes
    size: int
    odd: str
    content: t.Iterator[bytes]


class _Extraction:
    """Takes members one by one and keeps the account."""

    def __init__(self, create: t.Callable[[tuple[str, ...]], Writer], limits: Limits) -> None:
        self._create = create
        self._limits = limits
        self._names = _Names()
        self._total = 0
        self._members = 0
        self._unlisted = 0
        self.outcome = Outcome()

    def take(self, member: _Member) -> None:
        self._members += 1
        if self._members > self._limits.count * MEMBERS_PER_FILE:
            raise Broken(f"it has more than {self._limits.count * MEMBERS_PER_FILE} members")
        if member.odd == _WITHOUT_DATA[b"5"]:
            return  # directories come with the files in them
        try:
            if member.odd:
                raise Refused(f"it is {member.odd}")
            parts = safe_parts(member.name, self._limits)
            self._names.add(parts)
            self._keep(parts, member)
        except Refused as error:
            self._leave_out(f"{shown(member.name)}: {error}")

    def _keep(self, parts: tuple[str, ...], member: _Member) -> None:
        size = min(member.size, self._limits.file)
        if len(self.outcome.kept) >= self._limits.count:
            raise Broken(f"it has more than {self._limits.count} files; the others were not kept")
        if self._total + size > self._limits.total:
            self.outcome.problems.append(f"{shown(member.name)} was not kept: more than {self._limits.total} bytes in total")
            return
        try:
            writer = self._create(parts)
        except FileExistsError:
            raise Refused("its name was there before") from None
        left = member.size - size  # the end is what tells
        written = 0
        try:
            for piece in member.content:
                skipped = min(left, len(piece))
                left -= skipped
                writer.write(piece[skipped:])
                written += len(piece) - skipped
        finally:
            writer.close()
            self._total += written
            self.outcome.kept.append(Kept("/".join(parts), written, member.size - written))

    def _leave_out(self, note: str) -> None:
        if len(self.outcome.left_out) < NOTES:
            self.outcome.left_out.append(note)
        else:
            self._unlisted += 1

    def finish(self) -> Outcome:
        if self._unlisted:
            self.outcome.left_out.append(f"and {self._unlisted} more")
        return self.outcome


def shown(name: bytes) -> str:
    """Return a member's name for a message, on one line and of bounded length."""
    text = "/".join(escape(part) for part in name[:400].split(b"/"))
    return text[:200] or "(no name)"


# --- bytes to members ---------------------------------------------------------------------------------------------------


class _Reader:
    """Exact reads of a stream of blocks, within a limit."""

    def __init__(self, blocks: t.Iterator[bytes], limit: int) -> None:
        self._blocks = blocks
        self._buffer = b""
        self._limit = limit
        self._read = 0

    def _more(self) -> bool:
        for block in self._blocks:
            if block:
                self._read += len(block)
                if self._read > self._limit:
                    raise Broken(f"it unpacks to more than {self._limit} bytes")
                self._buffer = block
                return True
        return False

    def pieces(self, size: int) -> t.Iterator[bytes]:
        """Yield the next bytes, or raise Broken when there are fewer."""
        while size:
            if not self._buffer and not self._more():
                raise Broken("it is cut short")
            piece, self._buffer = self._buffer[:size], self._buffer[size:]
            size -= len(piece)
            yield piece

    def take(self, size: int) -> bytes:
        return b"".join(self.pieces(size))

    def at_end(self) -> bool:
        return not self._buffer and not self._more()

    def expect_nothing_more(self) -> None:
        """Behind its end an archive is padded with zeros; a second one there would be read by some and not by others."""
        while not self.at_end():
            if self._buffer.strip(b"\0"):
                raise Broken("something follows the end of the archive; it was left out")
            self._buffer = b""


def _members(reader: _Reader) -> t.Iterator[_Member]:
    long_name: bytes | None = None
    sparse = False
    headers = 0
    while True:
        if reader.at_end():
            raise Broken("it ends without its end mark: it is cut short")
        header = reader.take(BLOCK)
        if header == _ZERO:
            if long_name is not None or reader.take(BLOCK) != _ZERO:
                raise Broken("its end mark is torn")
            return
        _verify(header)
        size, kind = _number(header[124:136]), header[156:157]
        if kind in (b"L", b"K", b"x", b"g"):
            headers += 1
            if headers > HEADERS:
                raise Broken(f"it has more than {HEADERS} headers for one member")
            found, is_sparse = _extended(kind, reader, size)
            if found is not None:
                if long_name is not None:
                    raise Broken("it gives two long names to one member")
                long_name = found
            sparse = sparse or is_sparse
            continue
        if kind == b"S":
            _skip_sparse_map(header, reader)
            sparse = True
        name = _name(header) if long_name is None else long_name
        odd = _oddity(kind, name, size, sparse)
        content = reader.pieces(size)
        yield _Member(name, size, odd, content)
        for _rest in content:  # what nobody wanted
            pass
        reader.take(-size % BLOCK)
        long_name, sparse, headers = None, False, 0


def _verify(header: bytes) -> None:
    """Refuse a header whose checksum is wrong; some old programs summed signed characters."""
    blanked = header[:148] + b" " * 8 + header[156:]
    unsigned = sum(blanked)
    signed = unsigned - 256 * sum(byte > 127 for byte in blanked)
    if _number(header[148:156]) not in (unsigned, signed):
        raise Broken("a header has a wrong checksum")


def _number(field: bytes) -> int:
    if field[0] == 0x80:  # GNU, for what octal digits cannot hold
        return int.from_bytes(field[1:], "big")
    match = _OCTAL.fullmatch(field)
    if match is None:
        raise Broken("a header has a number that is none")
    return int(match[1] or b"0", 8)


def _name(header: bytes) -> bytes:
    name = header[:100].partition(b"\0")[0]
    prefix = header[345:500].partition(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _extended(kind: bytes, reader: _Reader, size: int) -> tuple[bytes | None, bool]:
    """Read a header that is about the next member: return the name it gives, and whether it makes the member sparse."""
    if size > HEADER_LIMIT:
        raise Broken(f"it has a header of {size} bytes")
    data = reader.take(size)
    reader.take(-size % BLOCK)
    if kind == b"K":  # where a link leads: links are left out
        return None, False
    if kind == b"L":
        return data.partition(b"\0")[0], False
    records = _records(data)
    sparse = any(key.startswith(b"GNU.sparse.") for key in records)
    if b"size" in records:
        raise Broken("it gives the size of a member twice")
    if kind == b"g" and (sparse or b"path" in records):
        raise Broken("it gives one name or shape to all its members")
    return records.get(b"path") if kind == b"x" else None, sparse


def _records(data: bytes) -> dict[bytes, bytes]:
    """Read the records of a PAX header, each '<length> <key>=<value>' and a line feed."""
    records: dict[bytes, bytes] = {}
    while data:
        match = _RECORD.match(data)
        length = int(match[1]) if match else 0
        record, data = data[:length], data[length:]
        if match is None or not record.endswith(b"\n") or len(record) != length:
            raise Broken("a PAX header is torn")
        key, sign, value = record[match.end() : -1].partition(b"=")
        if not sign or key in records:
            raise Broken("a PAX header contradicts itself")
        records[key] = value
    return records


def _skip_sparse_map(header: bytes, reader: _Reader) -> None:
    """The map of an old GNU sparse file goes on in further blocks."""
    more = header[482]
    while more:
        more = reader.take(BLOCK)[504]


def _oddity(kind: bytes, name: bytes, size: int, sparse: bool) -> str:
    """Return why a member is no plain file, or an empty string."""
    if kind in (b"0", b"\0", b"7") and name.endswith(b"/"):
        kind = b"5"  # as archives wrote directories before there was a type for them
    if kind in _WITHOUT_DATA:
        if size:  # some programs read content here, and some a header
            raise Broken(f"{_WITHOUT_DATA[kind]} in it has a content")
        return _WITHOUT_DATA[kind]
    if sparse:
        return "a sparse file"
    return "" if kind in (b"0", b"\0", b"7") else f"of the unknown type {kind!r:.10}"


# --- compression --------------------------------------------------------------------------------------------------------


def _decompressed(chunks: t.Iterator[bytes]) -> t.Iterator[bytes]:
    """Yield the archive's plain bytes in pieces of bounded size, whatever it was packed with."""
    start = b""
    for chunk in chunks:
        start += chunk
        if len(start) >= 6:
            break
    if not start:
        raise Broken("it is empty")
    everything = itertools.chain([start], chunks)
    if start.startswith(b"\x1f\x8b"):
        return _gunzip(everything)
    if start.startswith(b"\xfd7zXZ\0"):
        return _unxz(everything)
    if start.startswith((b"\x28\xb5\x2f\xfd", b"BZh")):
        raise Broken("it is compressed neither by gzip nor by xz")
    return (piece[at : at + CHUNK] for piece in everything for at in range(0, len(piece), CHUNK))


def _gunzip(chunks: t.Iterator[bytes]) -> t.Iterator[bytes]:
    machine = zlib.decompressobj(wbits=31)
    for chunk in chunks:
        waiting = chunk
        while waiting and not machine.eof:
            try:
                yield machine.decompress(waiting, CHUNK)
            except zlib.error as error:
                raise Broken(f"its compression is damaged: {error}") from error
            waiting = machine.unconsumed_tail
        if machine.eof:
            _expect_padding(machine.unused_data, chunks)
            return
    raise Broken("it is cut short")


def _unxz(chunks: t.Iterator[bytes]) -> t.Iterator[bytes]:
    machine = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY)
    for chunk in chunks:
        waiting = chunk
        while not _at_end(machine) and (waiting or not machine.needs_input):
            try:
                yield machine.decompress(waiting, CHUNK)
            except lzma.LZMAError as error:
                raise Broken(f"its compression is damaged: {error}") from error
            waiting = b""
        if _at_end(machine):
            _expect_padding(machine.unused_data, chunks)
            return
    raise Broken("it is cut short")


def _at_end(machine: t.Any) -> bool:
    return bool(machine.eof)


def _expect_padding(rest: bytes, chunks: t.Iterator[bytes]) -> None:
    if any(piece.strip(b"\0") for piece in itertools.chain([rest], chunks)):
        raise Broken("something follows the end of the compressed archive; it was left out")
