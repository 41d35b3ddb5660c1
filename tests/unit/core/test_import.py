# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Importing images: what is refused, what is verified, that it happens once, and that a failure leaves nothing."""

from __future__ import annotations

import errno
import gzip
import hashlib
import http.client
import http.server
import io
import json
import multiprocessing
import shutil
import socketserver
import threading
import urllib.error
from collections.abc import Callable, Iterator
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
from core_doubles import listing, run_program

from ansible_collections.mayfly.virt.plugins.module_utils import _import, _module
from ansible_collections.mayfly.virt.plugins.module_utils._errors import InvalidInput, MayflyError
from ansible_collections.mayfly.virt.plugins.module_utils._import import Checksum, Wanted
from ansible_collections.mayfly.virt.plugins.module_utils._recipe import Recipe
from ansible_collections.mayfly.virt.plugins.module_utils._store import Store

HEX = "a" * 64


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def given(algorithm: str, content: bytes) -> Checksum:
    return Checksum(algorithm, hashlib.new(algorithm, content).hexdigest())


def leftovers(store: Store) -> list[str]:
    """Return what there is in the store besides its directories, its locks and what it remembers of sources."""
    return [name for name, what in listing(store.dir).items() if what != "directory" and not name.startswith(("locks/", "sources/"))]


# -- a fake world --------------------------------------------------------------------------------------------------------


class Response(io.BytesIO):
    """What urlopen returns: a file with headers."""

    def __init__(self, content: bytes, length: int | None) -> None:
        super().__init__(content)
        self.headers = Message()
        if length is not None:
            self.headers["Content-Length"] = str(length)


class World:
    """The outside: files behind URLs, and a qemu-img to which every file is a disk of 1 MiB whose first word is its format."""

    def __init__(self) -> None:
        self.urls: dict[str, bytes | OSError] = {}
        self.promised: dict[str, int] = {}
        self.answers: dict[str, tuple[int, str, str] | OSError] = {}  # by subcommand or program
        self.info: dict[str, Any] = {}
        self.calls: list[str] = []

    def open_url(self, url: str) -> Response:
        self.calls.append(f"GET {url}")
        content = self.urls.get(url, urllib.error.URLError("unknown host"))
        if isinstance(content, OSError):
            raise content
        return Response(content, self.promised.get(url, len(content)))

    def run(self, argv: list[str], **options: Any) -> tuple[int, str, str]:
        if argv[0] == "unshare":  # mounts of its own for what follows
            argv = argv[argv.index("private") + 1 :]
        word = argv[1] if argv[0] == "qemu-img" else argv[0]
        self.calls.append(word)
        if word in self.answers:
            answer = self.answers[word]
            if isinstance(answer, OSError):
                raise answer
            return answer
        return getattr(self, f"_{word.replace('-', '_')}")(argv, options)

    def _apt_config(self, argv: list[str], options: dict[str, Any]) -> tuple[int, str, str]:
        return 0, 'APT "";\nAcquire::Check-Valid-Until "false";\n', ""

    def _info(self, argv: list[str], options: dict[str, Any]) -> tuple[int, str, str]:
        form = Path(argv[-1]).read_bytes().split(b" ")[0].decode()
        return 0, json.dumps({"format": form, "virtual-size": 1 << 20, **self.info}), ""

    def _check(self, argv: list[str], options: dict[str, Any]) -> tuple[int, str, str]:
        return 0, "", ""

    def _convert(self, argv: list[str], options: dict[str, Any]) -> tuple[int, str, str]:
        assert argv[2] == "-f"
        Path(argv[-1]).write_bytes(b"qcow2 of " + Path(argv[-2]).read_bytes())
        return 0, "", ""

    def _mmdebstrap(self, argv: list[str], options: dict[str, Any]) -> tuple[int, str, str]:
        files = Path(options["environ_update"]["FILES"])
        assert (files / "customize").read_text().startswith("set -eu")
        assert len(options["pass_fds"]) == 1
        assert '--aptopt=Acquire::Check-Valid-Until "false"' in argv
        Path(argv[-1]).mkdir()
        (files / "packages.txt").write_text("bash 5 amd64\nzip 3 amd64\n")
        (files / "vmlinuz").write_text("kernel")
        (files / "initrd").write_text("initrd")
        (files / "release").write_text("6.1.0-1-amd64\n")
        return 0, "", ""

    def _mke2fs(self, argv: list[str], options: dict[str, Any]) -> tuple[int, str, str]:
        assert Path(argv[argv.index("-d") + 1]).is_dir()
        Path(argv[-2]).write_bytes(b"raw " + argv[-1].encode())
        return 0, "", ""


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(b"qcow2 of a vendor")
    return path


STORED = sha256(b"qcow2 of qcow2 of a vendor")


# -- checksums and refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "checksum"),
    [
        (f"sha256:{HEX}", Checksum("sha256", HEX)),
        (f"sha256:{HEX.upper()}", Checksum("sha256", HEX)),
        (f"sha384:{'b' * 96}", Checksum("sha384", "b" * 96)),
        (f"sha512:{'c' * 128}", Checksum("sha512", "c" * 128)),
        ("sha256:https://example.org/SHA256SUMS", Checksum("sha256", list_location="https://example.org/SHA256SUMS")),
        ("sha512:/srv/SHA512SUMS", Checksum("sha512", list_location="/srv/SHA512SUMS")),
    ],
)
def test_understands_a_checksum(text: str, checksum: Checksum) -> None:
    assert _import.parse_checksum("debian", text) == checksum


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not understood"),
        (HEX, "not understood"),
        ("sha256:", "not understood"),
        (f"md5:{'a' * 32}", "not understood"),
        (f"sha1:{'a' * 40}", "not understood"),
        (f"SHA256:{HEX}", "not understood"),
        (f"sha256:{HEX[1:]}", "64 hexadecimal digits, not 63"),
        (f"sha256:{'a' * 128}", "64 hexadecimal digits, not 128"),
        (f"sha512:{HEX}", "128 hexadecimal digits, not 64"),
    ],
)
def test_refuses_a_checksum(text: str, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason) as caught:
        _import.parse_checksum("debian", text)
    assert caught.value.target == "debian"
    assert caught.value.remedy


LISTS = {
    "GNU text": f"{HEX}  disk.qcow2\n",
    "GNU binary": f"{HEX} *disk.qcow2\n",
    "GNU with directory": f"{HEX}  ./disk.qcow2\n",
    "GNU among others": f"{'b' * 64}  disk.qcow2.xz\n{'c' * 64}  a-disk.qcow2\n{HEX}  disk.qcow2\n{'d' * 64}  disk-qcow2\n",
    "GNU upper case": f"{HEX.upper()}  disk.qcow2\n",
    "carriage returns": f"{'b' * 64}  other\r\n{HEX}  disk.qcow2\r\n",
    "BSD": f"SHA256 (disk.qcow2) = {HEX}\n",
    "BSD among others": f"SHA512 (disk.qcow2) = {'b' * 128}\nSHA256 (disk.qcow2.xz) = {'b' * 64}\nSHA256 (disk.qcow2) = {HEX}\n",
    "clear-signed": f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n# disk.qcow2\nSHA256 (disk.qcow2) = {HEX}\n-----BEGIN PGP\n",
    "no newline at the end": f"{HEX}  disk.qcow2",
}


@pytest.mark.parametrize("text", LISTS.values(), ids=LISTS)
def test_finds_a_checksum_in_a_list(text: str) -> None:
    assert _import.find_in_list(text, "disk.qcow2", "sha256") == HEX


@pytest.mark.parametrize(
    "text",
    [
        "",
        "disk.qcow2\n",
        f"{HEX}  disk.qcow2.asc\n",
        f"{HEX}  diskxqcow2\n",
        f"{HEX}  dir/disk.qcow2\n",
        f"{'b' * 128}  disk.qcow2\n",
        f"SHA512 (disk.qcow2) = {'b' * 128}\n",
        f"#{HEX}  disk.qcow2\n",
        f"{HEX[1:]}  disk.qcow2\n",
    ],
)
def test_finds_no_checksum_that_is_not_meant(text: str) -> None:
    assert _import.find_in_list(text, "disk.qcow2", "sha256") == ""


def test_file_names_of_a_list_have_their_case() -> None:
    text = f"SHA256 (Disk.qcow2) = {'b' * 64}\nSHA256 (disk.qcow2) = {HEX}\n"
    assert _import.find_in_list(text, "disk.qcow2", "sha256") == HEX


@pytest.mark.parametrize(
    ("location", "is_url"),
    [
        ("https://example.org/x", True),
        ("http://example.org/x", True),
        ("ftp://example.org/x", True),
        ("file:///srv/x", True),
        ("/srv/x", False),
        ("x.qcow2", False),
        ("c:/x", False),
        ("ssh://example.org/x", False),
        ("", False),
    ],
)
def test_tells_urls_from_paths(location: str, is_url: bool) -> None:
    assert _import.is_url(location) is is_url
    assert Wanted("debian", location).is_url is is_url


def test_a_url_that_cannot_be_taken_apart_is_no_traceback() -> None:
    with pytest.raises(InvalidInput):
        _import.check(Wanted("debian", "https://[::1/disk.qcow2", checksum=Checksum("sha256", HEX)))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"location": "https://example.org/x"}, "comes from a URL without a checksum"),
        ({"location": "/nowhere/disk.img"}, "its source /nowhere/disk.img is not a file"),
        ({"kernel": "/nowhere/vmlinuz"}, "its kernel /nowhere/vmlinuz is not a file"),
        ({"initrd": "/nowhere/initrd"}, "its initrd /nowhere/initrd is not a file"),
        ({"signature": "https://example.org/x.sig"}, "a signature but no keyring"),
        ({"signature": "https://example.org/x.sig", "keyring": "/nowhere/key"}, "its keyring /nowhere/key is not a file"),
        ({"recipe": Recipe("a b"), "location": ""}, "is no name of a suite"),
    ],
)
def test_refuses_before_anything_is_fetched(disk: Path, fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason) as caught:
        _import.check(Wanted("debian", **{"location": str(disk), **fields}))
    assert caught.value.target == "debian"
    assert caught.value.remedy


def test_accepts_what_is_there(disk: Path) -> None:
    whole = Wanted("debian", str(disk), keyring=str(disk), signature="https://example.org/x.sig", kernel=str(disk), initrd=str(disk))
    _import.check(whole)
    _import.check(Wanted("debian", "https://example.org/x", checksum=Checksum("sha256", HEX)))
    assert whole.lock_key() != Wanted("debian", "https://example.org/x").lock_key()


def raise_either(*steps: Callable[[], object]) -> None:
    for step in steps:
        step()


@pytest.mark.parametrize("field", ["signature", "checksum"])
def test_a_local_signature_or_list_that_is_missing_is_refused(disk: Path, store: Store, world: World, field: str) -> None:
    fields = {
        "signature": {"signature": "/nowhere/sig", "keyring": str(disk)},
        "checksum": {"checksum": Checksum("sha256", "", "/nowhere/s")},
    }
    wanted = Wanted("debian", str(disk), **fields[field])
    with pytest.raises(MayflyError, match="/nowhere"):
        raise_either(lambda: _import.check(wanted), lambda: _import.import_image(store, wanted, world))


# -- from a file or URL, with the fake world -----------------------------------------------------------------------------


def test_a_file_becomes_a_stored_image(store: Store, world: World, disk: Path) -> None:
    manifest, made = _import.import_image(store, Wanted("debian", str(disk)), world)
    assert made
    assert manifest.digest == STORED
    assert store.path(STORED).read_bytes() == b"qcow2 of qcow2 of a vendor"
    assert manifest.source.kind == "file"
    assert manifest.source.checksum == f"sha256:{sha256(b'qcow2 of a vendor')}"
    assert (manifest.virtual_size, manifest.size) == (1 << 20, len(b"qcow2 of qcow2 of a vendor"))
    assert store.manifests() == [manifest]
    assert disk.read_bytes() == b"qcow2 of a vendor"
    assert sorted(leftovers(store)) == [f"sha256-{STORED}.json", f"sha256-{STORED}.qcow2"]
    assert world.calls == ["info", "check", "convert", "info"]


def test_the_second_import_converts_nothing(store: Store, world: World, disk: Path) -> None:
    first, _made = _import.import_image(store, Wanted("debian", str(disk)), world)
    world.calls.clear()
    assert _import.import_image(store, Wanted("debian", str(disk)), world) == (first, False)
    assert _import.present(store, Wanted("other", str(disk))) == first
    assert world.calls == []


def test_a_known_checksum_is_not_fetched_again(store: Store, world: World) -> None:
    content = b"qcow2 of a vendor"
    world.urls["https://example.org/disk.qcow2"] = content
    wanted = Wanted("debian", "https://example.org/disk.qcow2", checksum=Checksum("sha256", sha256(content)))
    first, made = _import.import_image(store, wanted, world)
    assert made
    assert first.source.kind == "url"
    assert first.source.location == "https://example.org/disk.qcow2"
    world.urls.clear()
    assert _import.present(store, wanted) == first
    assert _import.import_image(store, wanted, world) == (first, False)


def test_a_list_of_checksums_is_fetched_to_know(store: Store, world: World) -> None:
    content = b"qcow2 of a vendor"
    world.urls["https://example.org/a/disk.qcow2?x=1"] = content
    world.urls["https://example.org/a/SHA256SUMS"] = f"{sha256(content)}  disk.qcow2\n".encode()
    listed = Checksum("sha256", list_location="https://example.org/a/SHA256SUMS")
    wanted = Wanted("debian", "https://example.org/a/disk.qcow2?x=1", checksum=listed)
    assert _import.present(store, wanted) is None
    assert _import.predict(store, wanted, world) is None
    first, made = _import.import_image(store, wanted, world)
    assert made
    assert first.source.checksum == f"sha256:{sha256(content)}"
    world.calls.clear()
    assert _import.predict(store, wanted, world) == first
    assert world.calls == ["GET https://example.org/a/SHA256SUMS"]


def test_predicting_stores_nothing(tmp_path: Path, world: World) -> None:
    world.urls["https://example.org/SHA256SUMS"] = f"{HEX}  disk.qcow2\n".encode()
    wanted = Wanted("debian", "https://example.org/disk.qcow2", checksum=Checksum("sha256", list_location="https://example.org/SHA256SUMS"))
    assert _import.predict(Store(tmp_path / "state"), wanted, world) is None
    assert not (tmp_path / "state").exists()


def test_a_file_that_is_not_in_the_list_is_refused(store: Store, world: World, disk: Path, tmp_path: Path) -> None:
    (tmp_path / "SUMS").write_text(f"{HEX}  other.img\n")
    wanted = Wanted("debian", str(disk), checksum=Checksum("sha256", list_location=str(tmp_path / "SUMS")))
    with pytest.raises(MayflyError, match=r"disk\.img has no sha256 in .*SUMS"):
        _import.import_image(store, wanted, world)
    assert leftovers(store) == []


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
def test_every_algorithm_is_verified(store: Store, world: World, disk: Path, algorithm: str) -> None:
    right = given(algorithm, disk.read_bytes())
    wrong = given(algorithm, b"another")
    with pytest.raises(MayflyError, match=f"{algorithm} of .* is {right.value}, wanted is {wrong.value}") as caught:
        _import.import_image(store, Wanted("debian", str(disk), checksum=wrong), world)
    assert caught.value.target == "debian"
    assert leftovers(store) == []
    assert world.calls == []  # nothing of it was even looked at
    manifest, made = _import.import_image(store, Wanted("debian", str(disk), checksum=right), world)
    assert made
    assert manifest.source.checksum == f"{algorithm}:{right.value}"


def test_kernel_and_initrd_come_along(store: Store, world: World, disk: Path, tmp_path: Path) -> None:
    (tmp_path / "vmlinuz").write_text("kernel")
    world.urls["https://example.org/initrd"] = b"initrd"
    wanted = Wanted("debian", str(disk), kernel=str(tmp_path / "vmlinuz"), initrd="https://example.org/initrd", cmdline="quiet")
    manifest, _made = _import.import_image(store, wanted, world)
    assert (store.dir / manifest.kernel).read_text() == "kernel"
    assert (store.dir / manifest.initrd).read_text() == "initrd"
    assert manifest.cmdline == "quiet"
    assert (tmp_path / "vmlinuz").read_text() == "kernel"


def test_without_kernel_a_cmdline_is_forgotten(store: Store, world: World, disk: Path) -> None:
    manifest, _made = _import.import_image(store, Wanted("debian", str(disk), cmdline="quiet"), world)
    assert (manifest.kernel, manifest.initrd, manifest.cmdline) == ("", "", "")


@pytest.mark.parametrize("other", [{"kernel": "two"}, {"cmdline": "quiet"}])
def test_another_kernel_for_the_same_disk_is_refused(store: Store, world: World, disk: Path, tmp_path: Path, other: dict[str, str]) -> None:
    """Its manifest has room for one, and guests may stand on it."""
    for name in ("one", "two"):
        (tmp_path / name).write_text(f"kernel {name}")
    wanted = {"kernel": "one", "cmdline": "debug"}
    wishes = [
        Wanted("debian", str(disk), kernel=str(tmp_path / wish["kernel"]), cmdline=wish["cmdline"])
        for wish in (wanted, {**wanted, **other})
    ]
    first, _new = _import.import_image(store, wishes[0], world)
    before = listing(store.dir)
    with pytest.raises(MayflyError, match=r"the same disk is there with another .*to the domain instead"):
        _import.import_image(store, wishes[1], world)
    assert listing(store.dir) == before
    assert _import.import_image(store, wishes[0], world) == (first, False)


def test_two_algorithms_for_one_file_do_not_import_it_for_ever(store: Store, world: World, disk: Path) -> None:
    wishes = [Wanted("a", str(disk), checksum=given(algorithm, disk.read_bytes())) for algorithm in ("sha256", "sha512")]
    for wish in wishes:
        _import.import_image(store, wish, world)
    assert [_import.import_image(store, wish, world)[1] for wish in wishes] == [False, False]


@pytest.mark.parametrize(
    ("info", "what"),
    [
        ({"backing-filename": "base.qcow2"}, "base.qcow2"),
        ({"backing-filename": "base.qcow2", "full-backing-filename": "/etc/base.qcow2"}, "/etc/base.qcow2"),
        ({"format-specific": {"type": "qcow2", "data": {"data-file": "/etc/shadow"}}}, "/etc/shadow"),
    ],
)
def test_an_image_that_leans_on_other_files_is_refused(store: Store, world: World, disk: Path, info: dict[str, Any], what: str) -> None:
    world.info = info
    with pytest.raises(MayflyError, match=f"it leans on another file, {what}"):
        _import.import_image(store, Wanted("debian", str(disk)), world)
    assert leftovers(store) == []
    assert world.calls == ["info"]


@pytest.mark.parametrize(("status", "accepted"), [(0, True), (1, False), (2, False), (3, True), (63, True), (139, False)])
def test_what_qemu_imgs_check_says_counts(store: Store, world: World, disk: Path, status: int, accepted: bool) -> None:
    world.answers["check"] = (status, "2 errors were found", "")
    if accepted:
        assert _import.import_image(store, Wanted("debian", str(disk)), world)[1]
    else:
        with pytest.raises(MayflyError, match="it is damaged: 2 errors were found"):
            _import.import_image(store, Wanted("debian", str(disk)), world)
        assert leftovers(store) == []


def test_a_raw_image_needs_no_check(store: Store, world: World, disk: Path) -> None:
    disk.write_bytes(b"raw bytes")
    world.answers["check"] = (1, "", "not for raw")
    assert _import.import_image(store, Wanted("debian", str(disk)), world)[1]


@pytest.mark.parametrize(("word", "attempted"), [("info", "import image"), ("convert", "convert image")])
def test_a_failing_qemu_img_is_an_error(store: Store, world: World, disk: Path, word: str, attempted: str) -> None:
    world.answers[word] = (1, "", "qemu-img: it is on fire")
    with pytest.raises(MayflyError, match=f"Could not {attempted} 'debian': qemu-img: it is on fire"):
        _import.import_image(store, Wanted("debian", str(disk)), world)
    assert leftovers(store) == []


def test_a_download_that_fails_names_url_and_image(store: Store, world: World) -> None:
    wanted = Wanted("debian", "https://example.org/disk", checksum=Checksum("sha256", HEX))
    with pytest.raises(MayflyError, match=r"unknown host.*'debian' was not imported") as caught:
        _import.import_image(store, wanted, world)
    assert caught.value.target == "https://example.org/disk"
    assert leftovers(store) == []


@pytest.mark.parametrize("promised", [4, 10**6])
def test_a_download_of_another_length_is_refused(store: Store, world: World, promised: int) -> None:
    world.urls["https://example.org/disk"] = b"qcow2 of a vendor"
    world.promised["https://example.org/disk"] = promised
    wanted = Wanted("debian", "https://example.org/disk", checksum=Checksum("sha256", sha256(b"qcow2 of a vendor")))
    with pytest.raises(MayflyError, match=f"it ended after 17 of {promised} bytes"):
        _import.import_image(store, wanted, world)
    assert leftovers(store) == []


# -- a full disk ---------------------------------------------------------------------------------------------------------

FULL = OSError(errno.ENOSPC, "No space left on device")
SAYS_FULL = (1, "", "qemu-img: error while writing sector 0: No space left on device\n")


@pytest.mark.parametrize(
    ("word", "answer"),
    [("convert", SAYS_FULL), ("convert", FULL), ("info", FULL), ("check", FULL)],
    ids=["convert says so", "convert raises", "info raises", "check raises"],
)
def test_a_full_disk_while_converting(store: Store, world: World, disk: Path, word: str, answer: Any) -> None:
    world.answers[word] = answer
    with pytest.raises(MayflyError, match=r"no space is left on the disk of .*; \d+ MiB are free now") as caught:
        _import.import_image(store, Wanted("debian", str(disk)), world)
    assert caught.value.target == "debian"
    assert "make room" in caught.value.remedy
    assert leftovers(store) == []


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        ("mmdebstrap", (25, "E: dpkg: cannot copy: No space left on device", "")),
        ("mke2fs", (1, "", "mke2fs: No space left on device while writing")),
        ("convert", SAYS_FULL),
        ("mke2fs", FULL),
    ],
)
def test_a_full_disk_while_building(store: Store, world: World, word: str, answer: Any) -> None:
    world.answers[word] = answer
    with pytest.raises(MayflyError, match="no space is left on the disk"):
        _import.import_image(store, Wanted("debian", recipe=Recipe("bookworm")), world)
    assert leftovers(store) == []


def test_a_full_disk_while_downloading(store: Store, world: World) -> None:
    world.urls["https://example.org/disk"] = FULL
    wanted = Wanted("debian", "https://example.org/disk", checksum=Checksum("sha256", HEX))
    with pytest.raises(MayflyError, match="no space is left on the disk"):
        _import.import_image(store, wanted, world)
    assert leftovers(store) == []


def test_a_full_disk_at_the_manifest(store: Store, world: World, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text = Path.write_text

    def full(self: Path, text: str, encoding: str | None = None) -> int:
        if ".manifest-" in self.name:
            write_text(self, text[:10], encoding=encoding)
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_text(self, text, encoding=encoding)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(MayflyError, match="no space is left on the disk"):
        _import.import_image(store, Wanted("debian", str(disk)), world)
    assert leftovers(store) == []


def test_another_error_of_the_system_is_not_called_a_full_disk(store: Store, world: World, disk: Path) -> None:
    world.answers["convert"] = PermissionError(errno.EACCES, "Permission denied")
    with pytest.raises(PermissionError):
        _import.import_image(store, Wanted("debian", str(disk)), world)
    assert leftovers(store) == []


# -- recipes -------------------------------------------------------------------------------------------------------------


def test_a_recipe_becomes_a_stored_image(store: Store, world: World) -> None:
    recipe = Recipe("bookworm", packages=("zip",), cmdline="quiet")
    manifest, made = _import.import_image(store, Wanted("debian", recipe=recipe), world)
    assert made
    assert world.calls == ["apt-config", "mmdebstrap", "mke2fs", "convert", "info"]
    assert manifest.source.recipe == recipe.canonical()
    assert (manifest.source.kind, manifest.source.location) == ("recipe", "bookworm")
    assert manifest.kernel_release == "6.1.0-1-amd64"
    assert manifest.packages == 2
    assert manifest.cmdline.endswith(" quiet")
    assert (store.dir / manifest.kernel).read_text() == "kernel"
    assert (store.dir / manifest.initrd).read_text() == "initrd"
    assert store.path(manifest.digest, "packages.txt").read_text() == "bash 5 amd64\nzip 3 amd64\n"
    assert list(store.tmp.iterdir()) == []
    assert _import.import_image(store, Wanted("other", recipe=recipe), world) == (manifest, False)
    assert _import.predict(store, Wanted("other", recipe=recipe), world) == manifest


def test_a_recipe_without_kernel_boots_from_its_disk(store: Store, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_kernel(argv: list[str], options: dict[str, Any]) -> tuple[int, str, str]:
        Path(argv[-1]).mkdir()
        (Path(options["environ_update"]["FILES"]) / "packages.txt").write_text("")
        return 0, "", ""

    monkeypatch.setattr(world, "_mmdebstrap", without_kernel, raising=False)
    manifest, _made = _import.import_image(store, Wanted("debian", recipe=Recipe("bookworm")), world)
    assert (manifest.kernel, manifest.initrd, manifest.kernel_release, manifest.cmdline, manifest.packages) == ("", "", "", "", 0)


@pytest.mark.parametrize(("word", "attempted"), [("mmdebstrap", "build image"), ("mke2fs", "make the file system"), ("convert", "convert")])
def test_a_failed_build_shows_the_end_of_the_output(store: Store, world: World, word: str, attempted: str) -> None:
    world.answers[word] = (25, "\n".join(f"line {number}" for number in range(100)), "E: unable to locate package")
    with pytest.raises(MayflyError, match=attempted) as caught:
        _import.import_image(store, Wanted("debian", recipe=Recipe("bookworm")), world)
    assert caught.value.reason.endswith("line 99\nE: unable to locate package")
    assert "line 80\n" not in caught.value.reason
    assert leftovers(store) == []


def test_a_silent_failure_is_an_error_too(store: Store, world: World) -> None:
    world.answers["mmdebstrap"] = (1, "", "")
    with pytest.raises(MayflyError, match="no output"):
        _import.import_image(store, Wanted("debian", recipe=Recipe("bookworm")), world)


# -- over HTTP -----------------------------------------------------------------------------------------------------------


class Tools(_module.Tools):
    """The module's own way to URLs, with programs run directly."""

    def __init__(self) -> None:
        super().__init__(None)

    def run(self, argv: list[str], **options: Any) -> tuple[int, str, str]:
        return run_program(argv, **options)


Handler = Callable[[http.server.BaseHTTPRequestHandler], None]


class Site:
    """A web server on the loopback whose every path is a function."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.pages: dict[str, Handler] = {}
        self.asked: list[str] = []

    def serve(self, path: str, content: bytes, length: int | None = None, **headers: str) -> str:
        def page(request: http.server.BaseHTTPRequestHandler) -> None:
            request.send_response(200)
            request.send_header("Content-Length", str(len(content) if length is None else length))
            for name, value in headers.items():
                request.send_header(name.replace("_", "-"), value)
            request.end_headers()
            request.wfile.write(content)

        self.pages[path] = page
        return self.url + path


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "*")

    class Request(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.asked.append(self.path)
            page = site.pages.get(self.path)
            if page:
                page(self)
            else:
                self.send_error(404)

        def log_message(self, *_args: object) -> None:
            pass

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Request)
    server.daemon_threads = True
    site = Site(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield site
    server.shutdown()
    thread.join(5)
    server.server_close()


class Fetching(World):
    """Real downloads, the fake qemu-img."""

    open_url = _module.Tools.open_url


CONTENT = b"qcow2 of a vendor " + b"x" * (3 << 20)


def from_url(url: str, content: bytes = CONTENT) -> Wanted:
    return Wanted("debian", url, checksum=given("sha256", content))


def test_downloads(store: Store, site: Site) -> None:
    wanted = from_url(site.serve("/disk.qcow2", CONTENT))
    manifest, made = _import.import_image(store, wanted, Fetching())
    assert made
    assert store.path(manifest.digest).read_bytes() == b"qcow2 of " + CONTENT
    assert site.asked == ["/disk.qcow2"]


def test_downloads_follow_redirects(store: Store, site: Site) -> None:
    target = site.serve("/real.qcow2", CONTENT)

    def moved(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(302)
        request.send_header("Location", target)
        request.send_header("Content-Length", "0")
        request.end_headers()

    site.pages["/disk.qcow2"] = moved
    assert _import.import_image(store, from_url(f"{site.url}/disk.qcow2"), Fetching())[1]


def test_a_truncated_download_is_refused(store: Store, site: Site) -> None:
    url = site.serve("/disk.qcow2", CONTENT[:-1], length=len(CONTENT))
    with pytest.raises(MayflyError, match=f"it ended after {len(CONTENT) - 1} of {len(CONTENT)} bytes") as caught:
        _import.import_image(store, from_url(url), Fetching())
    assert caught.value.target == url
    assert leftovers(store) == []


@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_an_error_of_the_server_is_ours(store: Store, site: Site, status: int) -> None:
    site.pages["/disk.qcow2"] = lambda request: request.send_error(status)
    with pytest.raises(MayflyError, match=f"HTTP Error {status}"):
        _import.import_image(store, from_url(f"{site.url}/disk.qcow2"), Fetching())
    assert leftovers(store) == []


def test_a_server_that_hangs_up_is_an_error(store: Store, site: Site) -> None:
    site.pages["/disk.qcow2"] = lambda request: request.wfile.close()
    with pytest.raises(MayflyError, match="download"):
        _import.import_image(store, from_url(f"{site.url}/disk.qcow2"), Fetching())
    assert leftovers(store) == []


def test_a_server_that_is_not_there_is_an_error(store: Store, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MayflyError, match="download"):
        _import.import_image(store, from_url("http://127.0.0.1:1/disk.qcow2"), Fetching())
    assert leftovers(store) == []


def test_a_truncated_chunked_download_is_refused(store: Store, site: Site) -> None:
    def chunked(request: http.server.BaseHTTPRequestHandler) -> None:
        request.protocol_version = "HTTP/1.1"
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        request.wfile.write(b"100000\r\n" + CONTENT[:100])
        request.close_connection = True

    site.pages["/disk.qcow2"] = chunked
    with pytest.raises(MayflyError):
        _import.import_image(store, from_url(f"{site.url}/disk.qcow2"), Fetching())


def test_what_is_not_http_is_refused(store: Store, site: Site) -> None:
    site.pages["/disk.qcow2"] = lambda request: request.wfile.write(b"220 this is not the server you look for\r\n")
    with pytest.raises(MayflyError):
        _import.import_image(store, from_url(f"{site.url}/disk.qcow2"), Fetching())


def test_no_packed_answer_is_asked_for(store: Store, site: Site) -> None:
    """Servers pack lists of checksums for who understands that, and lengths and checksums are of what was sent."""
    listed = f"{sha256(CONTENT)}  disk.qcow2\n".encode()

    def page(request: http.server.BaseHTTPRequestHandler) -> None:
        packs = any(word in request.headers.get("Accept-Encoding", "gzip") for word in ("gzip", "*"))
        content = gzip.compress(listed) if packs else listed
        request.send_response(200)
        request.send_header("Content-Length", str(len(content)))
        if packs:
            request.send_header("Content-Encoding", "gzip")
        request.end_headers()
        request.wfile.write(content)

    site.pages["/SHA256SUMS"] = page
    sums = Checksum("sha256", list_location=f"{site.url}/SHA256SUMS")
    assert _import.import_image(store, Wanted("debian", site.serve("/disk.qcow2", CONTENT), checksum=sums), Fetching())[1]


def test_the_list_of_checksums_comes_from_the_server_too(store: Store, site: Site) -> None:
    sums = site.serve("/SHA256SUMS", f"{sha256(CONTENT)} *disk.qcow2\n".encode())
    wanted = Wanted("debian", site.serve("/disk.qcow2", CONTENT), checksum=Checksum("sha256", list_location=sums))
    assert _import.import_image(store, wanted, Fetching())[1]
    assert site.asked == ["/SHA256SUMS", "/disk.qcow2"]


# -- with the real qemu-img ----------------------------------------------------------------------------------------------

NEEDS_QEMU = pytest.mark.skipif(not shutil.which("qemu-img"), reason="qemu-img is not installed")


def qemu_img(*words: object) -> None:
    code, out, err = run_program(["qemu-img", *map(str, words)])
    assert code == 0, out + err


@pytest.fixture
def qcow2(tmp_path: Path) -> Path:
    """A small qcow2 file with something in it."""
    (tmp_path / "raw").write_bytes(bytes(range(1, 256)) * 1200 + bytes(1 << 20))
    qemu_img("convert", "-f", "raw", "-O", "qcow2", tmp_path / "raw", tmp_path / "disk.qcow2")
    return tmp_path / "disk.qcow2"


def real_info(path: Path) -> dict[str, Any]:
    code, out, err = run_program(["qemu-img", "info", "--output=json", str(path)])
    assert code == 0, err
    return json.loads(out)


@NEEDS_QEMU
@pytest.mark.parametrize("form", ["qcow2", "raw", "vmdk", "vdi", "vhdx"])
def test_every_format_becomes_a_standalone_qcow2(store: Store, tmp_path: Path, qcow2: Path, form: str) -> None:
    source = tmp_path / f"source.{form}"
    qemu_img("convert", "-f", "qcow2", "-O", form, qcow2, source)
    manifest, made = _import.import_image(store, Wanted("debian", str(source)), Tools())
    assert made
    info = real_info(store.path(manifest.digest))
    assert info["format"] == "qcow2"
    assert "backing-filename" not in info
    assert manifest.virtual_size == info["virtual-size"]
    assert manifest.digest == sha256(store.path(manifest.digest).read_bytes())
    assert run_program(["qemu-img", "compare", str(source), str(store.path(manifest.digest))])[0] == 0


@NEEDS_QEMU
def test_a_real_backing_file_is_refused(store: Store, tmp_path: Path, qcow2: Path) -> None:
    overlay = tmp_path / "overlay.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", qcow2, overlay)
    with pytest.raises(MayflyError, match=f"it leans on another file, {qcow2}"):
        _import.import_image(store, Wanted("debian", str(overlay)), Tools())
    qcow2.unlink()
    with pytest.raises(MayflyError, match="it leans on another file"):
        _import.import_image(store, Wanted("debian", str(overlay)), Tools())
    assert leftovers(store) == []


@NEEDS_QEMU
def test_a_real_data_file_is_refused(store: Store, tmp_path: Path) -> None:
    image = tmp_path / "image.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"data_file={tmp_path / 'data'},data_file_raw=on", image, "1M")
    with pytest.raises(MayflyError, match=f"it leans on another file, {tmp_path / 'data'}"):
        _import.import_image(store, Wanted("debian", str(image)), Tools())
    assert leftovers(store) == []


@NEEDS_QEMU
def test_a_vmdk_that_leans_on_another_file_is_refused(store: Store, tmp_path: Path) -> None:
    image = tmp_path / "image.vmdk"
    qemu_img("create", "-q", "-f", "vmdk", "-o", "subformat=monolithicFlat", image, "1M")
    (tmp_path / "image-flat.vmdk").write_bytes(b"a secret of the host".ljust(1 << 20))
    with pytest.raises(MayflyError, match="its format is vmdk monolithicFlat"):
        _import.import_image(store, Wanted("debian", str(image)), Tools())


@NEEDS_QEMU
def test_a_damaged_qcow2_is_refused(store: Store, qcow2: Path) -> None:
    content = bytearray(qcow2.read_bytes())
    table = int.from_bytes(content[40:48], "big")  # the L1 table
    content[table : table + 8] = (0x7FFFFFFFFE00).to_bytes(8, "big")
    qcow2.write_bytes(content)
    with pytest.raises(MayflyError, match="it is damaged"):
        _import.import_image(store, Wanted("debian", str(qcow2)), Tools())
    assert leftovers(store) == []


@NEEDS_QEMU
def test_a_truncated_qcow2_is_refused(store: Store, qcow2: Path) -> None:
    qcow2.write_bytes(qcow2.read_bytes()[: -(2 << 16)])
    with pytest.raises(MayflyError, match="it is damaged"):
        _import.import_image(store, Wanted("debian", str(qcow2)), Tools())
    assert leftovers(store) == []


@NEEDS_QEMU
@pytest.mark.parametrize(
    "content", [gzip.compress(b"disk" * 1000), b"\xfd7zXZ\x00" + bytes(1000), b"<html>Not here.</html>\n"], ids=["gzip", "xz", "html"]
)
def test_what_is_no_disk_is_refused(store: Store, tmp_path: Path, content: bytes) -> None:
    source = tmp_path / "disk.qcow2.gz"
    source.write_bytes(content)
    with pytest.raises(MayflyError):
        _import.import_image(store, Wanted("debian", str(source)), Tools())


@NEEDS_QEMU
def test_everything_real_at_once(store: Store, site: Site, qcow2: Path) -> None:
    content = qcow2.read_bytes()
    sums = site.serve("/SHA512SUMS", f"{hashlib.sha512(content).hexdigest()}  disk.qcow2\n".encode())
    wanted = Wanted("debian", site.serve("/disk.qcow2", content), checksum=Checksum("sha512", list_location=sums))
    manifest, made = _import.import_image(store, wanted, Tools())
    assert made
    assert _import.import_image(store, wanted, Tools()) == (manifest, False)
    assert site.asked == ["/SHA512SUMS", "/disk.qcow2", "/SHA512SUMS"]
    assert sorted(leftovers(store)) == [f"sha256-{manifest.digest}.json", f"sha256-{manifest.digest}.qcow2"]


# -- several processes ---------------------------------------------------------------------------------------------------


class PatientStore(Store):
    """A store that tells when somebody has come to a lock."""

    arrived: Any = None

    def lock(self, key: str) -> Any:
        self.arrived.release()
        return super().lock(key)


class CountingTools(Tools):
    """Counts conversions over all processes; the first begins when everybody has come to the lock."""

    def __init__(self, arrived: Any, processes: int, log: Path) -> None:
        super().__init__()
        self._arrived, self._processes, self._log = arrived, processes, log

    def run(self, argv: list[str], **options: Any) -> tuple[int, str, str]:
        if argv[1] == "convert":
            for _process in range(self._processes):
                assert self._arrived.acquire(timeout=10), "not everybody came"
            with self._log.open("a") as log:
                log.write("converted\n")
        return super().run(argv, **options)


def import_in_a_process(state: Path, source: Path, arrived: Any, processes: int, answers: Any) -> None:
    store = PatientStore(state)
    store.arrived = arrived
    tools = CountingTools(arrived, processes, state / "log")
    manifest, made = _import.import_image(store, Wanted("debian", str(source)), tools)
    answers.put((manifest.digest, made))


@NEEDS_QEMU
def test_of_several_processes_one_converts(store: Store, qcow2: Path) -> None:
    processes = 3
    context = multiprocessing.get_context("fork")
    arrived, answers = context.Semaphore(0), context.Queue()
    state = store.dir.parent
    arguments = (state, qcow2, arrived, processes, answers)
    workers = [context.Process(target=import_in_a_process, args=arguments) for _number in range(processes)]
    for worker in workers:
        worker.start()
    found = [answers.get(timeout=20) for _worker in workers]
    for worker in workers:
        worker.join(10)
    assert [worker.exitcode for worker in workers] == [0] * processes
    assert (state / "log").read_text() == "converted\n"
    assert sorted(made for _digest, made in found) == [False, False, True]
    assert len({digest for digest, _made in found}) == 1
    assert list(store.tmp.iterdir()) == []
