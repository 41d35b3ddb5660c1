# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The image store: content-addressed base images with manifests and aliases."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import typing as t
from pathlib import Path

from ._chain import Layer
from ._errors import InvalidInput, MayflyError
from ._lock import locked
from ._workspace import Workspace

FORMAT = "mayfly-image-1"

_ALIAS = re.compile(r"[a-z0-9][a-z0-9.+_-]{0,99}")
_DIGEST = re.compile(r"(?:sha256[:-])?([0-9a-f]{64})")


@dataclasses.dataclass(frozen=True)
class Source:
    """Where an image came from and how that was checked."""

    kind: str  # file, url or recipe
    location: str
    checksum: str = ""  # of what was fetched, sha256:<hex>
    signed_by: str = ""  # fingerprint of the key that signed it
    recipe: t.Mapping[str, t.Any] | None = None


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What is known of a stored image. Sizes in bytes, time in ISO 8601 UTC."""

    digest: str
    virtual_size: int
    size: int
    source: Source
    created: str
    kernel: str = ""  # file names in the store, empty when the image boots from its disk
    initrd: str = ""
    kernel_release: str = ""
    cmdline: str = ""
    packages: int = 0


def check_alias(alias: str) -> str:
    if not _ALIAS.fullmatch(alias) or _DIGEST.fullmatch(alias):
        raise InvalidInput(
            "Image name", alias, "it does not match [a-z0-9][a-z0-9.+_-]{0,99}, or looks like a digest", "Name it like debian-12."
        )
    return alias


class Store:
    """The images below one state directory."""

    def __init__(self, state_dir: Path) -> None:
        self.dir = state_dir / "images"
        self._aliases = self.dir / "aliases"
        self._sources = self.dir / "sources"
        self._locks = self.dir / "locks"
        self.tmp = self.dir / "tmp"

    # -- reading ---------------------------------------------------------------------------------------------------

    def manifests(self) -> list[Manifest]:
        return [self._read(path) for path in sorted(self.dir.glob("sha256-*.json"))]

    def aliases(self) -> dict[str, str]:
        """Return alias to digest."""
        return _links(self._aliases)

    def resolve(self, name: str) -> Manifest | None:
        """Return the manifest of an alias, a digest or alias@digest, or None. In the last the digest alone decides."""
        match = _DIGEST.fullmatch(name.rpartition("@")[2])
        return self._manifest(match.group(1) if match else self.aliases().get(name, ""))

    def require(self, name: str) -> Manifest:
        """Return the manifest, or raise InvalidInput naming what there is."""
        manifest = self.resolve(name)
        if manifest is None:
            known = ", ".join(sorted(self.aliases())) or "none"
            raise InvalidInput(
                "Image",
                name,
                f"it is not in the store {self.dir} (known there: {known})",
                "Import or build it with mayfly.virt.image.",
            )
        return manifest

    def find(self, source: str) -> Manifest | None:
        """Return the image that was made from a source: a checksum as <algorithm>:<hex>, or recipe:<key>."""
        algorithm, _colon, value = source.partition(":")
        digest = (
            value if algorithm == "sha256" and self.path(value, "json").exists() else _links(self._sources).get(f"{algorithm}-{value}", "")
        )
        return self._manifest(digest)

    def _manifest(self, digest: str) -> Manifest | None:
        path = self.path(digest, "json")
        return self._read(path) if digest and path.exists() else None

    def path(self, digest: str, suffix: str = "qcow2") -> Path:
        return self.dir / f"sha256-{digest}.{suffix}"

    def layer(self, manifest: Manifest) -> Layer:
        return Layer(str(self.path(manifest.digest)), "qcow2", manifest.virtual_size)

    def _read(self, path: Path) -> Manifest:
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data.pop("format") != FORMAT:
                raise ValueError("unknown format")
            return Manifest(source=Source(**data.pop("source")), **data)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise MayflyError(
                "read image manifest",
                str(path),
                f"it is not one of this version ({error})",
                "Remove it, then import the image again.",
            ) from error

    # -- writing ---------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Make the store's directories."""
        try:
            for directory in (self.dir, self._aliases, self._sources, self._locks, self.tmp):
                directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        except OSError as error:
            raise MayflyError(
                "make image store",
                str(self.dir),
                error.strerror or str(error),
                "Run the play mayfly.virt.hypervisor, or choose another state_dir.",
            ) from error

    def lock(self, key: str) -> t.ContextManager[int]:
        """Hold the lock of one source: of several processes one does the work, the others then find it done."""
        return locked(self._locks / hashlib.sha256(key.encode()).hexdigest())

    def workspace(self) -> Workspace:
        return Workspace(self.tmp)

    def add(self, image: Path, manifest: Manifest, extras: t.Mapping[str, Path]) -> tuple[Manifest, bool]:
        """Move a finished image and its kernel, initrd, … into the store; the manifest comes last and makes it count.

        When the same bytes are there already they stay, for guests may stand on them. Tells whether they are new.
        """
        there = self._manifest(manifest.digest)
        if there:
            self.check_extras(there, extras, manifest.cmdline)
            if manifest.source.signed_by and not there.source.signed_by:
                there = dataclasses.replace(there, source=manifest.source)
                self._write(there)
            return there, False
        targets = {suffix: self.path(manifest.digest, suffix) for suffix in (*extras, "qcow2")}
        try:
            for suffix, path in {**extras, "qcow2": image}.items():
                path.chmod(0o444)
                path.replace(targets[suffix])
            self._write(manifest)
        except OSError:
            for path in targets.values():
                path.unlink(missing_ok=True)
            raise
        return manifest, True

    def _write(self, manifest: Manifest) -> None:
        fresh = self.tmp / f".manifest-{manifest.digest}-{os.getpid()}"
        try:
            record = {"format": FORMAT, **dataclasses.asdict(manifest)}
            fresh.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")
            fresh.chmod(0o444)
            fresh.replace(self.path(manifest.digest, "json"))
        except OSError:
            fresh.unlink(missing_ok=True)
            raise

    def check_extras(self, there: Manifest, extras: t.Mapping[str, Path], cmdline: str = "") -> None:
        """Refuse another kernel or command line for a disk that is stored: the manifest has room for one."""
        if cmdline and cmdline != there.cmdline:
            raise MayflyError(
                "store image",
                there.digest,
                f"the same disk is there with another command line, '{there.cmdline}'",
                "Give that command line to the domain instead, or remove the stored image first.",
            )
        for suffix in ("vmlinuz", "initrd"):
            stored, given = self.path(there.digest, suffix), extras.get(suffix)
            if given and not (stored.exists() and file_sha256(stored) == file_sha256(given)):
                raise MayflyError(
                    "store image",
                    there.digest,
                    f"the same disk is there with another {suffix} than {given}",
                    "Give that kernel to the domain instead, or remove the stored image first.",
                )

    def remember(self, source: str, digest: str) -> None:
        """Note that a source gives that image, so that it is not fetched or built again."""
        self._link(self._sources / source.replace(":", "-", 1), digest)

    def point(self, alias: str, digest: str) -> None:
        """Make the alias mean that image, in one step."""
        self._link(self._aliases / alias, digest)

    def _link(self, link: Path, digest: str) -> None:
        fresh = self.tmp / f".link-{link.name[:60]}-{os.getpid()}"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(f"../sha256-{digest}.json")
        fresh.replace(link)

    def unpoint(self, alias: str) -> None:
        (self._aliases / alias).unlink(missing_ok=True)

    def remove(self, digest: str) -> None:
        """Remove an image; its manifest goes first, so a half-removed image is never used."""
        self.path(digest, "json").unlink(missing_ok=True)
        for path in self.dir.glob(f"sha256-{digest}.*"):
            path.unlink()
        for source, target in _links(self._sources).items():
            if target == digest:
                (self._sources / source).unlink(missing_ok=True)


def _links(directory: Path) -> dict[str, str]:
    """Return the links of a directory, name to digest."""
    links = sorted(directory.iterdir()) if directory.is_dir() else []
    return {link.name: _digest_of(Path(os.readlink(link)).stem) for link in links if link.is_symlink()}


def describe(store: Store, manifest: Manifest) -> dict[str, t.Any]:
    """Return a manifest as modules return it, with paths in place of file names and the aliases beside it."""
    facts = dataclasses.asdict(manifest)
    for part in ("kernel", "initrd"):
        facts[part] = str(store.dir / facts[part]) if facts[part] else ""
    aliases = [alias for alias, digest in store.aliases().items() if digest == manifest.digest]
    return {**facts, "path": str(store.path(manifest.digest)), "aliases": aliases}


def file_sha256(path: Path) -> str:
    return file_digest(path, "sha256")


def file_digest(path: Path, algorithm: str) -> str:
    digest = hashlib.new(algorithm)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _digest_of(stem: str) -> str:
    match = _DIGEST.fullmatch(stem)
    return match.group(1) if match else ""
