# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Signatures of images, made with the real gpg and verified with the real gpgv."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from core_doubles import listing, run_program

from ansible_collections.mayfly.virt.plugins.module_utils import _import
from ansible_collections.mayfly.virt.plugins.module_utils._errors import MayflyError
from ansible_collections.mayfly.virt.plugins.module_utils._import import Checksum, Wanted
from ansible_collections.mayfly.virt.plugins.module_utils._store import Store

pytestmark = pytest.mark.skipif(
    not all(shutil.which(name) for name in ("gpg", "gpgv", "gpgconf", "qemu-img")), reason="gpg, gpgv, gpgconf or qemu-img is not installed"
)


class Signers:
    """A key ring of its own with several people in it."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def gpg(self, *words: object, at: str = "", feed: str | None = None) -> str:
        time = ["--faked-system-time", f"{at}!"] if at else []
        argv = ["gpg", "--homedir", str(self.home), "--batch", "--quiet", "--yes", *time, *map(str, words)]
        done = subprocess.run(argv, input=feed, capture_output=True, text=True, check=False, timeout=30)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def make(self, name: str, expires: str = "never", at: str = "") -> str:
        """Make a key; return its fingerprint."""
        self.gpg("--passphrase", "", "--quick-gen-key", f"{name} <{name}@example.org>", "ed25519", "sign", expires, at=at)
        listed = self.gpg("--with-colons", "--list-keys", f"{name}@example.org")
        return next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr"))

    def revoke(self, fingerprint: str) -> None:
        certificate = (self.home / "openpgp-revocs.d" / f"{fingerprint}.rev").read_text()
        self.gpg("--import", feed=certificate.replace(":-----BEGIN", "-----BEGIN"))

    def sign(self, name: str, path: Path, at: str = "") -> Path:
        signature = path.with_name(f"{path.name}.{name}.sig")
        self.gpg("-u", f"{name}@example.org", "-o", signature, "--detach-sign", path, at=at)
        return signature

    def export(self, path: Path, *names: str, armoured: bool = False) -> Path:
        self.gpg(*(["--armor"] if armoured else []), "-o", path, "--export", *(f"{name}@example.org" for name in names))
        return path


@pytest.fixture(scope="module")
def signers() -> Iterator[Signers]:
    # The agent's socket needs a short path.
    home = Path(tempfile.mkdtemp(prefix="gpg", dir="/tmp"))
    yield Signers(home)
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], capture_output=True, check=False, timeout=10)
    shutil.rmtree(home)


@pytest.fixture(scope="module")
def vendor(signers: Signers) -> str:
    return signers.make("vendor")


@pytest.fixture(scope="module")
def stranger(signers: Signers) -> str:
    return signers.make("stranger")


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.qcow2"
    code, _out, err = run_program(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "1M"])
    assert code == 0, err
    return path


class Tools:
    """Programs run directly; URLs are not needed here."""

    def run(self, argv: list[str], **options: Any) -> tuple[int, str, str]:
        return run_program(argv, **options)

    def open_url(self, url: str) -> Any:
        raise AssertionError(f"nothing is fetched here, and {url} least of all")


def leftovers(store: Store) -> list[str]:
    return [name for name, what in listing(store.dir).items() if what != "directory" and not name.startswith("locks/")]


def test_a_signed_image_is_stored_with_the_signers_fingerprint(
    store: Store, signers: Signers, vendor: str, stranger: str, disk: Path, tmp_path: Path
) -> None:
    keyring = signers.export(tmp_path / "keys.gpg", "stranger", "vendor")
    wanted = Wanted("debian", str(disk), signature=str(signers.sign("vendor", disk)), keyring=str(keyring))
    manifest, made = _import.import_image(store, wanted, Tools())
    assert made
    assert manifest.source.signed_by == vendor
    assert stranger != vendor
    assert list(store.tmp.iterdir()) == []


def test_an_armoured_keyring_will_do(store: Store, signers: Signers, vendor: str, disk: Path, tmp_path: Path) -> None:
    keyring = signers.export(tmp_path / "keys.asc", "vendor", armoured=True)
    assert keyring.read_text().startswith("-----BEGIN PGP PUBLIC KEY BLOCK-----")
    wanted = Wanted("debian", str(disk), signature=str(signers.sign("vendor", disk)), keyring=str(keyring))
    manifest, _made = _import.import_image(store, wanted, Tools())
    assert manifest.source.signed_by == vendor


def test_a_signed_list_of_checksums_vouches_for_the_image(store: Store, signers: Signers, vendor: str, disk: Path, tmp_path: Path) -> None:
    sums = tmp_path / "SHA256SUMS"
    sums.write_text(f"{hashlib.sha256(disk.read_bytes()).hexdigest()}  disk.qcow2\n")
    keyring = signers.export(tmp_path / "keys.gpg", "vendor")
    listed = Checksum("sha256", list_location=str(sums))
    wanted = Wanted("debian", str(disk), checksum=listed, signature=str(signers.sign("vendor", sums)), keyring=str(keyring))
    manifest, made = _import.import_image(store, wanted, Tools())
    assert made
    assert manifest.source.signed_by == vendor


def test_a_list_that_was_changed_is_refused(store: Store, signers: Signers, vendor: str, disk: Path, tmp_path: Path) -> None:
    sums = tmp_path / "SHA256SUMS"
    sums.write_text(f"{'0' * 64}  disk.qcow2\n")
    signature = signers.sign("vendor", sums)
    sums.write_text(f"{hashlib.sha256(disk.read_bytes()).hexdigest()}  disk.qcow2\n")
    keyring = signers.export(tmp_path / "keys.gpg", "vendor")
    listed = Checksum("sha256", list_location=str(sums))
    with pytest.raises(MayflyError, match="BAD signature"):
        _import.import_image(store, Wanted("debian", str(disk), checksum=listed, signature=str(signature), keyring=str(keyring)), Tools())
    assert leftovers(store) == []


def test_the_key_of_a_stranger_is_refused(store: Store, signers: Signers, vendor: str, stranger: str, disk: Path, tmp_path: Path) -> None:
    keyring = signers.export(tmp_path / "keys.gpg", "vendor")
    signature = signers.sign("stranger", disk)
    with pytest.raises(MayflyError, match="No public key") as caught:
        _import.import_image(store, Wanted("debian", str(disk), signature=str(signature), keyring=str(keyring)), Tools())
    assert caught.value.target == "debian"
    assert str(signature) in caught.value.remedy
    assert str(keyring) in caught.value.remedy
    assert leftovers(store) == []


def test_the_signature_of_another_file_is_refused(store: Store, signers: Signers, vendor: str, disk: Path, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("another file")
    keyring = signers.export(tmp_path / "keys.gpg", "vendor")
    wanted = Wanted("debian", str(disk), signature=str(signers.sign("vendor", tmp_path / "other")), keyring=str(keyring))
    with pytest.raises(MayflyError, match="BAD signature"):
        _import.import_image(store, wanted, Tools())
    assert leftovers(store) == []


@pytest.mark.parametrize("content", [b"", b"this is no signature", b"-----BEGIN PGP SIGNATURE-----\n"])
def test_what_is_no_signature_is_refused(store: Store, signers: Signers, vendor: str, disk: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "sig").write_bytes(content)
    keyring = signers.export(tmp_path / "keys.gpg", "vendor")
    with pytest.raises(MayflyError, match="verify the signature"):
        _import.import_image(store, Wanted("debian", str(disk), signature=str(tmp_path / "sig"), keyring=str(keyring)), Tools())
    assert leftovers(store) == []


@pytest.mark.parametrize("content", [b"", b"this is no keyring", b"-----BEGIN PGP PUBLIC KEY BLOCK-----\nnonsense\n"])
def test_what_is_no_keyring_is_refused(store: Store, signers: Signers, vendor: str, disk: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "keys").write_bytes(content)
    wanted = Wanted("debian", str(disk), signature=str(signers.sign("vendor", disk)), keyring=str(tmp_path / "keys"))
    with pytest.raises(MayflyError, match=r"keyring|verify the signature"):
        _import.import_image(store, wanted, Tools())
    assert leftovers(store) == []


def test_the_signature_of_an_image_counts_after_its_checksum(
    store: Store, signers: Signers, vendor: str, disk: Path, tmp_path: Path
) -> None:
    keyring = signers.export(tmp_path / "keys.gpg", "vendor")
    wrong = Checksum("sha256", "0" * 64)
    wanted = Wanted("debian", str(disk), checksum=wrong, signature=str(signers.sign("vendor", disk)), keyring=str(keyring))
    with pytest.raises(MayflyError, match="verify image"):
        _import.import_image(store, wanted, Tools())
    assert leftovers(store) == []


def test_the_signature_of_a_revoked_key_is_refused(store: Store, signers: Signers, disk: Path, tmp_path: Path) -> None:
    fingerprint = signers.make("traitor")
    signature = signers.sign("traitor", disk)
    signers.revoke(fingerprint)
    keyring = signers.export(tmp_path / "keys.gpg", "traitor")
    with pytest.raises(MayflyError):
        _import.import_image(store, Wanted("debian", str(disk), signature=str(signature), keyring=str(keyring)), Tools())


def test_the_signature_of_an_expired_key_is_refused(store: Store, signers: Signers, disk: Path, tmp_path: Path) -> None:
    signers.make("ancient", "2d", at="20200101T000000")
    signature = signers.sign("ancient", disk, at="20200101T010000")
    keyring = signers.export(tmp_path / "keys.gpg", "ancient")
    with pytest.raises(MayflyError):
        _import.import_image(store, Wanted("debian", str(disk), signature=str(signature), keyring=str(keyring)), Tools())


def test_an_armoured_keyring_may_begin_with_a_remark(store: Store, signers: Signers, vendor: str, disk: Path, tmp_path: Path) -> None:
    keyring = signers.export(tmp_path / "keys.asc", "vendor", armoured=True)
    keyring.write_text(f"Our keys of 2026:\n\n{keyring.read_text()}")
    wanted = Wanted("debian", str(disk), signature=str(signers.sign("vendor", disk)), keyring=str(keyring))
    assert _import.import_image(store, wanted, Tools())[1]


def test_several_armoured_keys_one_after_the_other(
    store: Store, signers: Signers, vendor: str, stranger: str, disk: Path, tmp_path: Path
) -> None:
    blocks = [signers.export(tmp_path / name, name, armoured=True).read_text() for name in ("stranger", "vendor")]
    (tmp_path / "keys.asc").write_text("".join(blocks))
    wanted = Wanted("debian", str(disk), signature=str(signers.sign("vendor", disk)), keyring=str(tmp_path / "keys.asc"))
    manifest, _made = _import.import_image(store, wanted, Tools())
    assert manifest.source.signed_by == vendor


def test_a_stored_image_is_not_taken_for_signed(
    store: Store, signers: Signers, vendor: str, stranger: str, disk: Path, tmp_path: Path
) -> None:
    _import.import_image(store, Wanted("debian", str(disk)), Tools())
    keyring = signers.export(tmp_path / "keys.gpg", "vendor")
    wanted = Wanted("debian", str(disk), signature=str(signers.sign("stranger", disk)), keyring=str(keyring))
    with pytest.raises(MayflyError, match="verify the signature"):
        _import.import_image(store, wanted, Tools())
