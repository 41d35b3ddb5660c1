# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bring an image into the store: fetch, verify, convert, or build. Everything happens in a workspace that goes away."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import http.client
import json
import re
import shutil
import tempfile
import typing as t
from pathlib import Path
from urllib.parse import urlsplit

from . import _recipe
from ._errors import InvalidInput, MayflyError
from ._recipe import Recipe
from ._run import utc_now
from ._store import Manifest, Source, Store, Workspace, file_digest, file_sha256

_HEX = {"sha256": 64, "sha384": 96, "sha512": 128}
# VALIDSIG alone is also said of signatures by revoked and expired keys.
_GOODSIG = re.compile(r"^\[GNUPG:\] GOODSIG ", re.MULTILINE)
_BADSIGN = re.compile(r"^\[GNUPG:\] (EXPSIG|EXPKEYSIG|REVKEYSIG|BADSIG|ERRSIG) .*", re.MULTILINE)
_VALIDSIG = re.compile(r"^\[GNUPG:\] VALIDSIG ([0-9A-F]{40,64})", re.MULTILINE)
_ARMOUR = b"-----BEGIN PGP"
_FORMATS = ("qcow2", "raw", "vdi", "vhdx", "vpc", "vmdk")
# Other kinds of vmdk name files beside them, or anywhere.
_VMDK_KINDS = ("monolithicSparse", "streamOptimized")
# What a raw disk does not begin with, and a wrong download does.
_NO_DISK = {
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"PK\x03\x04": "zip",
    b"<!doctype": "HTML",
    b"<html": "HTML",
    b"<?xml": "XML",
}
_LOG_TAIL = 15


class Tools(t.Protocol):
    """What the outside world must offer."""

    def run(self, argv: list[str], **options: t.Any) -> tuple[int, str, str]:
        """Run a program; return status, stdout and stderr."""

    def open_url(self, url: str) -> t.Any:
        """Return the response to a GET, a readable file with headers."""


@dataclasses.dataclass(frozen=True)
class Checksum:
    """A wanted digest, or the list of digests in which it stands."""

    algorithm: str
    value: str = ""
    list_location: str = ""


@dataclasses.dataclass(frozen=True)
class Wanted:
    """One image as the user asked for it."""

    name: str
    location: str = ""  # path or URL
    checksum: Checksum | None = None
    signature: str = ""  # path or URL of a detached OpenPGP signature
    keyring: str = ""
    kernel: str = ""
    initrd: str = ""
    cmdline: str = ""
    recipe: Recipe | None = None
    mirror: str = ""
    apt_options: tuple[str, ...] = ()

    @property
    def is_url(self) -> bool:
        return is_url(self.location)

    def lock_key(self) -> str:
        return self.recipe.key() if self.recipe else f"{self.location} {self.checksum}"


def is_url(location: str) -> bool:
    try:
        return urlsplit(location).scheme in ("http", "https", "ftp", "file")
    except ValueError:  # http://[ and the like; it is no file either, and will be refused as one
        return False


def parse_checksum(name: str, text: str) -> Checksum:
    """Understand sha256:<hex>, and sha256:<path or URL of a list of checksums>."""
    algorithm, separator, value = text.partition(":")
    if not separator or algorithm not in _HEX or not value:
        raise InvalidInput(
            "Checksum of image",
            name,
            f"'{text}' is not understood",
            "Write sha256:<hex>, or sha256:<path or URL of a list of checksums>.",
        )
    if re.fullmatch(r"[0-9a-fA-F]+", value):
        if len(value) != _HEX[algorithm]:
            raise InvalidInput(
                "Checksum of image",
                name,
                f"{algorithm} has {_HEX[algorithm]} hexadecimal digits, not {len(value)}",
                "Copy it again.",
            )
        return Checksum(algorithm, value=value.lower())
    return Checksum(algorithm, list_location=value)


def check(wanted: Wanted) -> None:
    """Refuse what cannot become an image, before anything is fetched."""
    if wanted.mirror.startswith("-"):
        raise InvalidInput("Image", wanted.name, f"its mirror '{wanted.mirror}' is no URL", "Correct it.")
    if wanted.recipe:
        _recipe.check(wanted.name, wanted.recipe)
        return
    if wanted.is_url and not wanted.checksum:
        raise InvalidInput(
            "Image",
            wanted.name,
            "it comes from a URL without a checksum",
            "Give checksum: sha256:<hex or list of checksums>.",
        )
    if wanted.signature and not wanted.keyring:
        raise InvalidInput(
            "Image",
            wanted.name,
            "it has a signature but no keyring",
            "Give the keyring that holds the signer's public key.",
        )
    files = {"source": wanted.location, "kernel": wanted.kernel, "initrd": wanted.initrd}
    files.update({"signature": wanted.signature, "keyring": wanted.keyring})
    files["list of checksums"] = wanted.checksum.list_location if wanted.checksum else ""
    for what, location in files.items():
        if location and not is_url(location) and not Path(location).is_file():
            raise InvalidInput("Image", wanted.name, f"its {what} {location} is not a file on this host", "Correct the path.")


def present(store: Store, wanted: Wanted) -> Manifest | None:
    """Return the stored image that the wanted one would become, without fetching anything large."""
    source = source_key(wanted)
    manifest = store.find(source) if source else None
    if manifest is None or (wanted.signature and not manifest.source.signed_by):
        return None
    given = {"vmlinuz": wanted.kernel, "initrd": wanted.initrd}
    store.check_extras(
        manifest,
        {suffix: Path(path) for suffix, path in given.items() if path and not is_url(path)},
        wanted.cmdline if wanted.kernel else "",
    )
    return manifest


def source_key(wanted: Wanted) -> str:
    """Return by what the store knows an image of the same source again; empty while its checksum stands in a list."""
    if wanted.recipe:
        return f"recipe:{wanted.recipe.key()}"
    if wanted.checksum:
        return f"{wanted.checksum.algorithm}:{wanted.checksum.value}" if wanted.checksum.value else ""
    return "" if wanted.is_url else f"sha256:{file_sha256(Path(wanted.location))}"


def predict(store: Store, wanted: Wanted, tools: Tools) -> Manifest | None:
    """Return what present() would when the checksum first had to be read from its list."""
    with tempfile.TemporaryDirectory() as scratch:
        checksum, _signed_by = _resolve_checksum(wanted, Path(scratch), tools)
        return present(store, dataclasses.replace(wanted, checksum=checksum))


def import_image(store: Store, wanted: Wanted, tools: Tools) -> tuple[Manifest, bool]:
    """Return the image's manifest and whether its bytes are new. Of several processes one works, the others wait for it."""
    store.prepare()
    with _room(wanted.name, store), store.lock(wanted.lock_key()), store.workspace() as workspace:
        checksum, signed_by = _resolve_checksum(wanted, workspace.path, tools)
        resolved = dataclasses.replace(wanted, checksum=checksum)
        seen = present(store, resolved)
        if seen:
            return seen, False
        if wanted.recipe:
            manifest, new = _build(store, wanted, wanted.recipe, workspace, tools)
        else:
            manifest, new = _take(store, resolved, signed_by, workspace.path, tools)
        store.remember(source_key(resolved), manifest.digest)
        return manifest, new


# -- files and URLs ------------------------------------------------------------------------------------------------------


def _take(store: Store, wanted: Wanted, signed_by: str, scratch: Path, tools: Tools) -> tuple[Manifest, bool]:
    original = _fetch(wanted.name, wanted.location, scratch / "original", tools)
    _verify_checksum(wanted, original)
    if wanted.signature and not signed_by:
        signed_by = _verify_signature(wanted, original, scratch, tools)
    image = scratch / "image.qcow2"
    _convert(wanted.name, original, image, tools)
    extras = {}
    for suffix, location in (("vmlinuz", wanted.kernel), ("initrd", wanted.initrd)):
        if location:
            extras[suffix] = _fetch(wanted.name, location, scratch / suffix, tools, copy=True)
    source = Source("url" if wanted.is_url else "file", wanted.location, source_key(wanted), signed_by)
    return _store(store, image, source, extras, wanted.cmdline, tools)


def _resolve_checksum(wanted: Wanted, scratch: Path, tools: Tools) -> tuple[Checksum | None, str]:
    """Return the checksum with its value, and who signed the list it stands in. A vendor signs either the list or the image."""
    checksum = wanted.checksum
    if not checksum or checksum.value:
        return checksum, ""
    listing = _fetch(wanted.name, checksum.list_location, scratch / "checksums", tools, copy=True)
    signed_by = _verify_signature(wanted, listing, scratch, tools) if wanted.signature else ""
    file_name = Path(urlsplit(wanted.location).path).name
    value = find_in_list(listing.read_text(encoding="utf-8", errors="replace"), file_name, checksum.algorithm)
    if not value:
        raise MayflyError(
            "find the checksum of image",
            wanted.name,
            f"{file_name} has no {checksum.algorithm} in {checksum.list_location}",
            "Take the list that belongs to this file, or give the digits themselves.",
        )
    return dataclasses.replace(checksum, value=value), signed_by


def find_in_list(text: str, file_name: str, algorithm: str) -> str:
    """Return the digest of a file from a list in GNU (hex *name) or BSD (SHA256 (name) = hex) form, or an empty string."""
    size = _HEX[algorithm]
    gnu = re.compile(rf"^([0-9a-fA-F]{{{size}}})[ \t]+\*?(?:\./)?{re.escape(file_name)}\s*$", re.MULTILINE)
    bsd = re.compile(rf"^(?i:{algorithm})\s*\({re.escape(file_name)}\)\s*=\s*([0-9a-fA-F]{{{size}}})\s*$", re.MULTILINE)
    match = gnu.search(text) or bsd.search(text)
    return match.group(1).lower() if match else ""


def _fetch(name: str, location: str, target: Path, tools: Tools, *, copy: bool = False) -> Path:
    """Bring a file into the workspace. A local file is only copied when it must be our own."""
    if not is_url(location):
        if not copy:
            return Path(location)
        shutil.copyfile(location, target)
        return target
    try:
        response = tools.open_url(location)
        with contextlib.closing(response), target.open("wb") as file:
            shutil.copyfileobj(response, file, 1 << 20)
            expected = response.headers.get("Content-Length")
    except (OSError, ValueError, http.client.HTTPException) as error:  # urllib's errors are OSErrors
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:  # the caller says how full, and of what
            raise
        reason = str(error) or type(error).__name__
        raise MayflyError("download", location, reason, f"Image '{name}' was not imported; nothing of it was kept.") from error
    size = target.stat().st_size
    if expected is not None and size != int(expected):
        raise MayflyError(
            "download",
            location,
            f"it ended after {size} of {expected} bytes",
            f"Try again; nothing of image '{name}' was kept.",
        )
    return target


def _verify_checksum(wanted: Wanted, original: Path) -> None:
    checksum = wanted.checksum
    if not checksum:
        return
    found = file_digest(original, checksum.algorithm)
    if found != checksum.value:
        raise MayflyError(
            "verify image",
            wanted.name,
            f"{checksum.algorithm} of {wanted.location} is {found}, wanted is {checksum.value}",
            "The file is corrupt, truncated or another one; nothing of it was kept. Correct the checksum or the source.",
        )


def _verify_signature(wanted: Wanted, signed: Path, scratch: Path, tools: Tools) -> str:
    """Return the fingerprint of the key that signed the file."""
    signature = _fetch(wanted.name, wanted.signature, scratch / "signature", tools, copy=True)
    keyring = _fetch(wanted.name, wanted.keyring, scratch / "keyring", tools, copy=True)
    if _ARMOUR in keyring.read_bytes()[:4096]:  # gpgv reads binary keyrings only
        binary = scratch / "keyring.gpg"
        code, _out, err = tools.run(["gpg", "--batch", "--homedir", str(scratch), "--dearmor", "-o", str(binary), str(keyring)])
        if code != 0:
            raise MayflyError("read keyring", wanted.keyring, err.strip(), "Give an OpenPGP keyring, binary or armoured.")
        keyring = binary
    code, out, err = tools.run(["gpgv", "--status-fd", "1", "--keyring", str(keyring), str(signature), str(signed)])
    match = _VALIDSIG.search(out)
    bad = _BADSIGN.search(out)
    if code != 0 or bad or not match or not _GOODSIG.search(out):
        said = [bad[0].removeprefix("[GNUPG:] ") if bad else "", err.strip()]
        raise MayflyError(
            "verify the signature of image",
            wanted.name,
            "; ".join(part for part in said if part) or "there is no good one",
            f"Nothing of it was kept. Is {wanted.signature} the signature of this file, made by a key in {wanted.keyring}?",
        )
    return match.group(1)


def _convert(name: str, original: Path, image: Path, tools: Tools) -> None:
    """Make a standalone qcow2 of the original, refusing what is damaged or leans on other files."""
    code, out, err = tools.run(["qemu-img", "info", "--output=json", str(original)])
    if code != 0:
        raise MayflyError("import image", name, err.strip(), "Give a disk image that qemu-img can read.")
    info = json.loads(out)
    specific = info.get("format-specific", {}).get("data", {})
    foreign = info.get("full-backing-filename") or info.get("backing-filename") or specific.get("data-file")
    if foreign:
        raise MayflyError("import image", name, f"it leans on another file, {foreign}", "Flatten it first: qemu-img convert -O qcow2.")
    form = info["format"]
    kind = specific.get("create-type", "")
    if form not in _FORMATS or (form == "vmdk" and kind not in _VMDK_KINDS):
        raise MayflyError("import image", name, f"its format is {form} {kind}".strip(), f"Convert it to one of {', '.join(_FORMATS)}.")
    if form == "raw":
        _check_raw(name, original)
    else:
        code, out, err = tools.run(["qemu-img", "check", "-q", "-f", form, str(original)])
        if code not in (0, 3, 63):  # 3: clusters are leaked, harmless; 63: the format has no check
            raise MayflyError("import image", name, f"it is damaged: {(err or out).strip()}", "Fetch it again.")
    code, _out, err = tools.run(["qemu-img", "convert", "-f", form, "-O", "qcow2", str(original), str(image)])
    if code != 0:
        raise _tool_failed("convert image", name, err, "Is the file whole?")


def _check_raw(name: str, original: Path) -> None:
    """Refuse what qemu-img takes for a raw disk because it takes anything for one."""
    with original.open("rb") as file:
        head = file.read(16).lstrip().lower()
    what = next((what for magic, what in _NO_DISK.items() if head.startswith(magic.lower())), "")
    if what:
        raise MayflyError("import image", name, f"it is {what}, not a disk image", "Unpack it first, or correct the source.")


# -- recipes -------------------------------------------------------------------------------------------------------------


def _build(store: Store, wanted: Wanted, recipe: Recipe, workspace: Workspace, tools: Tools) -> tuple[Manifest, bool]:
    files = workspace.path / "files"
    for name, content in _recipe.files(recipe).items():
        path = files / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    root, raw, image = (workspace.path / part for part in ("root", "disk.raw", "image.qcow2"))
    environment = {**_recipe.hook_environment(recipe, str(files)), "TMPDIR": str(workspace.path)}
    # mmdebstrap does not read this machine's apt configuration; what a job asks for comes last and wins.
    _code, dump, _err = tools.run(["apt-config", "dump"])
    options = [*_recipe.freshness_options(dump), *wanted.apt_options]
    argv = _recipe.mmdebstrap_argv(recipe, str(root), str(files), wanted.mirror, options)
    _step("build image", wanted.name, argv, tools, environ_update=environment, pass_fds=(workspace.descriptor,))
    _step("make the file system of image", wanted.name, _recipe.mke2fs_argv(recipe, str(root), str(raw)), tools)
    shutil.rmtree(root)  # a third of the room, before the next copy needs it
    _step("convert image", wanted.name, ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(image)], tools)
    extras = {suffix: files / suffix for suffix in ("vmlinuz", "initrd") if (files / suffix).exists()}
    release = files / "release"
    packages = files / "packages.txt"
    return _store(
        store,
        image,
        Source("recipe", recipe.suite, recipe=recipe.canonical()),
        {**extras, "packages.txt": packages},
        recipe.full_cmdline(),
        tools,
        kernel_release=release.read_text(encoding="utf-8").strip() if release.exists() else "",
        packages=len(packages.read_text(encoding="utf-8").splitlines()),
    )


def _step(attempted: str, name: str, argv: list[str], tools: Tools, **options: t.Any) -> None:
    code, out, err = tools.run(argv, **options)
    if code != 0:
        raise _tool_failed(attempted, name, f"{out}\n{err}", "The lines above are the end of the tool's output.")


def _tool_failed(attempted: str, name: str, output: str, remedy: str) -> MayflyError:
    if "No space left on device" in output:
        raise OSError(errno.ENOSPC, "No space left on device")
    return MayflyError(attempted, name, "\n".join(output.strip().splitlines()[-_LOG_TAIL:]) or "no output", remedy)


# -- both ----------------------------------------------------------------------------------------------------------------


def _store(
    store: Store,
    image: Path,
    source: Source,
    extras: t.Mapping[str, Path],
    cmdline: str,
    tools: Tools,
    kernel_release: str = "",
    packages: int = 0,
) -> tuple[Manifest, bool]:
    digest = file_sha256(image)
    code, out, err = tools.run(["qemu-img", "info", "--output=json", str(image)])
    if code != 0:
        raise _tool_failed("read", str(image), err, "")
    manifest = Manifest(
        digest=digest,
        virtual_size=json.loads(out)["virtual-size"],
        size=image.stat().st_size,
        source=source,
        created=utc_now().isoformat(),
        kernel=f"sha256-{digest}.vmlinuz" if "vmlinuz" in extras else "",
        initrd=f"sha256-{digest}.initrd" if "initrd" in extras else "",
        kernel_release=kernel_release,
        cmdline=cmdline if "vmlinuz" in extras else "",
        packages=packages,
    )
    return store.add(image, manifest, extras)


@contextlib.contextmanager
def _room(name: str, store: Store) -> t.Iterator[None]:
    """Turn a full disk into an error that says how full, and of what."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        free = shutil.disk_usage(store.dir).free // 1024**2
        raise MayflyError(
            "store image",
            name,
            f"no space is left on the disk of {store.dir}; {free} MiB are free now that the half-made image is removed",
            "An image of a distribution takes about 2 GiB while it is built: make room, remove images (state: absent), or move state_dir.",
        ) from error
