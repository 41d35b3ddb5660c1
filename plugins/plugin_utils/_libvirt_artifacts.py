# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Package files of an earlier stage: what each says of itself, and whether they may be installed together."""

from __future__ import annotations

import fnmatch
import hashlib
import io
import lzma
import re
import struct
import subprocess
import tarfile
import typing as t
from dataclasses import dataclass
from pathlib import Path

from ..module_utils._errors import InvalidInput

SUFFIXES = (".deb", ".rpm")
SUMS = "SHA256SUMS"
MANAGERS = {"deb": "apt", "rpm": "dnf"}

_CHUNK = 1 << 20
_CONTROL_LIMIT = 4 << 20  # bytes of a control archive or an RPM's header that are read
_MACHINES = {  # uname -m to what packages call it
    "x86_64": {"amd64", "x86_64"},
    "aarch64": {"arm64", "aarch64"},
    "ppc64le": {"ppc64el", "ppc64le"},
    "s390x": {"s390x"},
    "riscv64": {"riscv64"},
}
_ANY = {"all", "noarch"}
_REBUILD = "Take the packages of one build."


@dataclass(frozen=True)
class Package:
    """What a package file says of itself."""

    path: Path
    kind: str  # deb or rpm
    name: str
    version: str  # as dpkg-query or rpm -q print it, without an epoch of zero
    architecture: str
    source: str
    source_version: str
    sha256: str


@dataclass(frozen=True)
class Guest:
    """What a machine said of itself."""

    distribution: str
    machine: str
    manager: str


# --- one file ---------------------------------------------------------------------------------------------------


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def read_package(path: Path) -> Package | None:
    """Return what a package file says of itself, or None for a source package."""
    try:
        with path.open("rb") as file:
            fields = _read_deb(file) if path.suffix == ".deb" else _read_rpm(file)
    except (OSError, ValueError, KeyError, EOFError, struct.error, tarfile.TarError, lzma.LZMAError) as error:
        remedy = "It may have been cut: bring it anew from the stage that built it."
        raise InvalidInput("Package file", path.name, f"it cannot be read: {error}", remedy) from error
    if fields is None:
        return None
    return Package(path=path, kind=path.suffix[1:], sha256=sha256(path), **fields)


def _read_deb(file: t.BinaryIO) -> dict[str, str]:
    if file.read(8) != b"!<arch>\n":
        raise ValueError("it is no Debian package")
    end = file.seek(0, io.SEEK_END)
    place, fields = 8, None
    while place < end:
        file.seek(place)
        header = file.read(60)
        name, size = header[:16].decode("ascii").rstrip(" /"), int(header[48:58])
        if place + 60 + size > end:
            raise ValueError(f"it ends in the middle of {name}")
        if name.startswith("control.tar"):
            fields = _control(name, file.read(min(size, _CONTROL_LIMIT)))
        place += 60 + size + size % 2
    if fields is None or not name.startswith("data.tar"):
        raise ValueError("it has no control archive, or no data archive")
    return fields


def _control(name: str, data: bytes) -> dict[str, str]:
    if name.endswith(".zst"):
        data = _unzstd(data)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        member = next((member for member in archive if member.name.lstrip("./") == "control"), None)
        file = archive.extractfile(member) if member else None
        if file is None:
            raise ValueError("its control archive has no file control")
        text = file.read(_CONTROL_LIMIT).decode("utf-8")
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line and not line.startswith((" ", "\t")))
    fields = {key: value.strip() for key, value in fields.items()}
    name, version = fields["Package"], fields["Version"]
    source = re.fullmatch(r"(\S+)(?: \((\S+)\))?", fields.get("Source") or name)
    if source is None:
        raise ValueError(f"its Source is '{fields['Source']}'")
    return {
        "name": name,
        "version": version,
        "architecture": fields["Architecture"],
        "source": source[1],
        "source_version": source[2] or version,
    }


def _unzstd(data: bytes) -> bytes:
    try:
        done = subprocess.run(["zstd", "-dcq"], input=data, capture_output=True, check=False, timeout=60)
    except FileNotFoundError as error:
        raise ValueError("it is packed with zstd, and the program zstd is not installed on the controller") from error
    if done.returncode:
        raise ValueError(done.stderr.decode("utf-8", "replace").strip())
    return done.stdout


_NAME, _VERSION, _RELEASE, _EPOCH, _ARCH, _SOURCERPM = 1000, 1001, 1002, 1003, 1022, 1044
_SIGSIZE = 1000  # in the signature: the size of all that follows it


def _read_rpm(file: t.BinaryIO) -> dict[str, str] | None:
    lead = file.read(96)
    if lead[:4] != b"\xed\xab\xee\xdb":
        raise ValueError("it is no RPM package")
    signature, size = _rpm_header(file)
    begin = file.seek(-size % 8, io.SEEK_CUR)
    tags, _size = _rpm_header(file)
    end = file.seek(0, io.SEEK_END)
    if signature.get(_SIGSIZE, end - begin) != end - begin:
        raise ValueError(f"it has {end - begin} bytes behind its signature, which says {signature[_SIGSIZE]}")
    if _SOURCERPM not in tags:  # a source package
        return None
    version, release = str(tags[_VERSION]), str(tags[_RELEASE])
    epoch = f"{tags[_EPOCH]}:" if tags.get(_EPOCH) else ""
    source = re.fullmatch(r"(.+)-([^-]+-[^-]+)\.(?:no)?src\.rpm", str(tags[_SOURCERPM]))
    if source is None:
        raise ValueError(f"its source package is called '{tags[_SOURCERPM]}'")
    return {
        "name": str(tags[_NAME]),
        "version": f"{epoch}{version}-{release}",
        "architecture": str(tags[_ARCH]),
        "source": source[1],
        "source_version": source[2],
    }


def _rpm_header(file: t.BinaryIO) -> tuple[dict[int, str | int], int]:
    """Return the first value of each tag that is a text or a number, and the size of the header's data."""
    intro = file.read(16)
    if intro[:3] != b"\x8e\xad\xe8":
        raise ValueError("it has no RPM header")
    count, size = struct.unpack(">II", intro[8:])
    if count * 16 + size > _CONTROL_LIMIT:
        size_limit = f"{_CONTROL_LIMIT} bytes"
        raise ValueError(f"its header has more than {size_limit}")
    index, data = file.read(count * 16), file.read(size)
    tags: dict[int, str | int] = {}
    for tag, kind, offset, _number in struct.iter_unpack(">IIII", index):
        if kind in (6, 8, 9):
            tags[tag] = data[offset : data.index(b"\0", offset)].decode("utf-8", "replace")
        elif kind == 4:
            tags[tag] = struct.unpack_from(">I", data, offset)[0]
    return tags, size


# --- all of them ------------------------------------------------------------------------------------------------


def check_sums(directory: Path, files: t.Sequence[Path], text: str) -> None:
    """Compare files with the list of checksums that lies beside them: what it names must be there, and all of it as it says."""
    wanted: dict[str, str] = {}
    for line in text.splitlines():
        found = re.fullmatch(r"([0-9a-fA-F]{64}) [ *](?:\./)?(.+)", line.strip())
        if line.strip() and not found:
            raise InvalidInput("Checksums", str(directory / SUMS), f"the line '{line.strip()[:80]}' is none of sha256sum", "")
        if found and found[2].endswith(SUFFIXES):
            wanted[found[2]] = found[1].lower()
    there = {path.relative_to(directory).as_posix(): path for path in files}
    missing = sorted(set(wanted) - set(there))
    if missing:
        raise InvalidInput("Artifacts", str(directory), f"{SUMS} lists {', '.join(missing[:5])}, and that is missing", "Bring all of it.")
    extra = sorted(set(there) - set(wanted))
    if extra:
        raise InvalidInput("Artifacts", str(directory), f"{', '.join(extra[:5])} is not in {SUMS}", "Remove what is not of this build.")
    for name, digest in wanted.items():
        check_digest(there[name], digest)


def check_digest(path: Path, wanted: str) -> None:
    found = sha256(path)
    if found != wanted.lower():
        raise InvalidInput(
            "Artifact", path.name, f"its SHA-256 is {found}, not {wanted.lower()}", "Bring it anew from the stage that built it."
        )


def choose(packages: t.Sequence[Package], skip: t.Sequence[str]) -> list[Package]:
    """Return those that are to be installed, each once."""
    chosen: dict[tuple[str, str], Package] = {}
    for package in packages:
        if any(fnmatch.fnmatchcase(package.name, pattern) for pattern in skip):
            continue
        same = chosen.setdefault((package.name, package.architecture), package)
        if same.sha256 != package.sha256 and same.version == package.version:
            reason = f"{same.path.name} and {package.path.name} are the same version and not the same file"
            raise InvalidInput("Artifacts", package.name, reason, _REBUILD)
        if same.version != package.version:
            raise InvalidInput("Artifacts", package.name, f"there are versions {same.version} and {package.version}", _REBUILD)
    return sorted(chosen.values(), key=lambda package: package.name)


def check_together(packages: t.Sequence[Package], where: str) -> None:
    """Refuse what cannot be one libvirt."""
    if not packages:
        raise InvalidInput(
            "Artifacts", where, "there is no package file (.deb, .rpm) in them", "Name what the stage that built libvirt left."
        )
    kinds = sorted({package.kind for package in packages})
    if len(kinds) > 1:
        raise InvalidInput("Artifacts", where, f"there are both {' and '.join(kinds)} packages in them", "Take those of one distribution.")
    versions: dict[str, dict[str, str]] = {}
    for package in packages:
        versions.setdefault(package.source, {}).setdefault(package.source_version, package.path.name)
    for source, found in sorted(versions.items()):
        if len(found) > 1:
            told = ", ".join(f"{version} ({name})" for version, name in sorted(found.items()))
            raise InvalidInput("Artifacts", where, f"they are of several builds of {source}: {told}", _REBUILD)
    if not any("libvirt" in package.name for package in packages):
        names = ", ".join(package.name for package in packages[:5])
        raise InvalidInput("Artifacts", where, f"none of them is libvirt's: {names}", "Name what the stage that built libvirt left.")


def check_guest(packages: t.Sequence[Package], guest: Guest, name: str) -> None:
    """Refuse what this guest cannot install."""
    manager = MANAGERS[packages[0].kind]
    if manager != guest.manager:
        reason = f"they are {packages[0].kind} packages and {guest.distribution} installs with {guest.manager}"
        raise InvalidInput("Artifacts", f"for {name}", reason, "Give each distribution the packages that were built for it.")
    fitting = _MACHINES.get(guest.machine, {guest.machine}) | _ANY
    strange = [package for package in packages if package.architecture not in fitting]
    if strange:
        reason = f"{strange[0].path.name} is for {strange[0].architecture} and the guest is {guest.machine}"
        raise InvalidInput("Artifacts", f"for {name}", reason, "Take the packages of the guest's architecture.")


def fingerprint(packages: t.Sequence[Package]) -> str:
    """Return what tells one set of packages from another."""
    lines = sorted(f"{package.sha256} {package.name}\n" for package in packages)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def outdated(packages: t.Sequence[Package], installed: t.Mapping[str, str]) -> list[Package]:
    """Return the packages that are not installed in their version."""
    return [package for package in packages if installed.get(package.name) != package.version]
