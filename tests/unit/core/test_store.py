# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The image store: what counts as there, what names mean, and that nothing is half-done."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import threading
from pathlib import Path

import pytest
from core_doubles import DIGEST, listing, manifest

from ansible_collections.mayfly.virt.plugins.module_utils import _store
from ansible_collections.mayfly.virt.plugins.module_utils._chain import Layer
from ansible_collections.mayfly.virt.plugins.module_utils._errors import InvalidInput, MayflyError
from ansible_collections.mayfly.virt.plugins.module_utils._store import Manifest, Source, Store

OTHER = "6" * 64
WHOLE = Manifest(
    digest=DIGEST,
    virtual_size=1 << 30,
    size=12345,
    source=Source("recipe", "bookworm", recipe={"suite": "bookworm", "packages": ["zip"], "revision": 1}),
    created="2026-01-01T12:00:00+00:00",
    kernel=f"sha256-{DIGEST}.vmlinuz",
    initrd=f"sha256-{DIGEST}.initrd",
    kernel_release="6.1.0-1-amd64",
    cmdline="root=LABEL=mayfly-root",
    packages=240,
)


def put(store: Store, image: Manifest, content: str = "disk", **extras: str) -> tuple[Manifest, bool]:
    """Add an image with that content as a finished import would; return what the store says."""
    source = store.tmp / "finished"
    source.write_text(content)
    files = {}
    for suffix, text in extras.items():
        files[suffix] = store.tmp / suffix
        files[suffix].write_text(text)
    answer = store.add(source, image, files)
    for path in (source, *files.values()):
        path.unlink(missing_ok=True)
    return answer


def test_an_empty_store_knows_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "nowhere")
    assert store.manifests() == []
    assert store.aliases() == {}
    assert store.resolve("debian-12") is None
    assert store.find(f"sha256:{DIGEST}") is None
    assert store.find("recipe:x") is None
    assert not (tmp_path / "nowhere").exists()


def test_a_store_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MayflyError, match="make image store") as caught:
        Store(tmp_path / "file").prepare()
    assert "state_dir" in caught.value.remedy


def test_every_field_of_a_manifest_comes_back(store: Store) -> None:
    put(store, WHOLE, vmlinuz="kernel", initrd="initrd")
    assert all(getattr(WHOLE, field.name) for field in dataclasses.fields(WHOLE))
    assert store.manifests() == [WHOLE]
    assert store.resolve(DIGEST) == WHOLE


def test_what_is_stored_is_read_only(store: Store) -> None:
    put(store, WHOLE, vmlinuz="kernel")
    stored = [path for path in store.dir.iterdir() if path.is_file()]
    assert sorted(path.name for path in stored) == [f"sha256-{DIGEST}.{suffix}" for suffix in ("json", "qcow2", "vmlinuz")]
    assert {path.stat().st_mode & 0o777 for path in stored} == {0o444}
    assert list(store.tmp.iterdir()) == []


def stored_files(store: Store) -> dict[str, tuple[int, int, str]]:
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns, path.read_text()) for path in store.dir.iterdir() if path.is_file()}


def test_the_bytes_that_guests_stand_on_stay(store: Store) -> None:
    assert put(store, WHOLE, content="the first bytes", vmlinuz="kernel", initrd="initrd") == (WHOLE, True)
    before = stored_files(store)
    again = dataclasses.replace(WHOLE, created="2027-01-01T00:00:00+00:00")
    assert put(store, again, content="the same bytes, made again", vmlinuz="kernel", initrd="initrd") == (WHOLE, False)
    assert put(store, again, content="the same bytes, made again") == (WHOLE, False)
    assert stored_files(store) == before
    assert store.require(DIGEST) == WHOLE


@pytest.mark.parametrize(
    ("stored", "given", "what"),
    [
        ({"vmlinuz": "one"}, {"vmlinuz": "two"}, "vmlinuz"),
        ({}, {"vmlinuz": "one"}, "vmlinuz"),
        ({"vmlinuz": "one"}, {"vmlinuz": "one", "initrd": "one"}, "initrd"),
        ({"vmlinuz": "one", "initrd": "one"}, {"vmlinuz": "one", "initrd": "two"}, "initrd"),
    ],
)
def test_another_kernel_for_a_stored_disk_is_refused(store: Store, stored: dict[str, str], given: dict[str, str], what: str) -> None:
    put(store, WHOLE, **stored)
    before = stored_files(store)
    with pytest.raises(MayflyError, match=f"the same disk is there with another {what}") as caught:
        put(store, WHOLE, **given)
    assert caught.value.target == DIGEST
    assert "remove the stored image first" in caught.value.remedy
    assert stored_files(store) == before


def test_lists_of_packages_may_differ(store: Store) -> None:
    """They tell what is in the disk, which is the same."""
    put(store, WHOLE, **{"packages.txt": "zip 3"})
    store.check_extras(WHOLE, {"packages.txt": store.dir / "nowhere"})
    assert store.path(DIGEST, "packages.txt").read_text() == "zip 3"


def test_a_signature_that_was_verified_since_is_noted(store: Store) -> None:
    put(store, manifest(), content="the first bytes")
    before = stored_files(store)
    signed = manifest(source=Source("url", "https://example.org/disk", f"sha256:{'7' * 64}", signed_by="A" * 40), created="later")
    noted = dataclasses.replace(manifest(), source=signed.source)
    assert put(store, signed) == (noted, False)
    assert store.require(DIGEST) == noted
    assert store.path(DIGEST, "json").stat().st_mode & 0o777 == 0o444
    assert {name: what for name, what in stored_files(store).items() if not name.endswith("json")} == {
        name: what for name, what in before.items() if not name.endswith("json")
    }
    for other in ("", "B" * 40):
        source = dataclasses.replace(signed.source, signed_by=other)
        assert put(store, dataclasses.replace(signed, source=source)) == (noted, False)


def test_the_manifest_comes_last(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between image and manifest, nothing counts as stored."""
    order = []
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, target: order.append(Path(target).suffix) or replace(self, target))
    put(store, WHOLE, vmlinuz="kernel", initrd="initrd")
    assert sorted(order[:-1]) == [".initrd", ".qcow2", ".vmlinuz"]
    assert order[-1] == ".json"


def test_the_manifest_goes_first(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, WHOLE, vmlinuz="kernel", initrd="initrd")
    order = []
    unlink = Path.unlink
    monkeypatch.setattr(Path, "unlink", lambda self, missing_ok=False: order.append(self.suffix) or unlink(self, missing_ok=missing_ok))
    store.remove(DIGEST)
    assert order[0] == ".json"
    assert sorted(order[1:]) == [".initrd", ".qcow2", ".vmlinuz"]
    assert store.resolve(DIGEST) is None


def test_removing_takes_one_image_only(store: Store) -> None:
    put(store, WHOLE, vmlinuz="kernel")
    put(store, manifest(OTHER))
    store.remove(DIGEST)
    assert {path.name for path in store.dir.iterdir() if path.is_file()} == {f"sha256-{OTHER}.qcow2", f"sha256-{OTHER}.json"}
    store.remove(DIGEST)
    assert store.manifests() == [manifest(OTHER)]


# -- names ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [DIGEST, f"sha256:{DIGEST}", f"sha256-{DIGEST}", "debian-12", f"debian-12@sha256:{DIGEST}", f"x@{DIGEST}"])
def test_an_image_is_found_by_every_name(store: Store, name: str) -> None:
    put(store, WHOLE)
    store.point("debian-12", DIGEST)
    assert store.resolve(name) == WHOLE
    assert store.require(name) == WHOLE


@pytest.mark.parametrize(
    "name",
    ["", "debian", "debian-12x", "DEBIAN-12", OTHER, DIGEST[:12], "../x", "*", f"debian-12@{OTHER}"],
)
def test_no_image_is_found_by_another_name(store: Store, name: str) -> None:
    put(store, WHOLE)
    store.point("debian-12", DIGEST)
    assert store.resolve(name) is None
    with pytest.raises(InvalidInput, match=r"known there: debian-12") as caught:
        store.require(name)
    assert caught.value.target == name
    assert "mayfly.virt.image" in caught.value.remedy


@pytest.mark.parametrize("name", ["fedora-44@debian-12", "@debian-12", "debian-12@", "debian-12@debian-12"])
def test_a_name_with_an_at_sign_needs_a_digest_behind_it(store: Store, name: str) -> None:
    put(store, WHOLE)
    store.point("debian-12", DIGEST)
    assert store.resolve(name) is None


def test_an_alias_is_moved_in_one_step(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, WHOLE)
    put(store, manifest(OTHER))
    store.point("debian-12", DIGEST)
    seen = []
    replace = Path.replace

    def watched(self: Path, target: Path) -> Path:
        seen.append(store.aliases()["debian-12"])
        done = replace(self, target)
        seen.append(store.aliases()["debian-12"])
        return done

    monkeypatch.setattr(Path, "replace", watched)
    store.point("debian-12", OTHER)
    assert seen == [DIGEST, OTHER]
    assert list(store.tmp.iterdir()) == []
    assert store.aliases() == {"debian-12": OTHER}


def test_an_alias_is_never_missing_while_it_moves(store: Store) -> None:
    put(store, WHOLE)
    put(store, manifest(OTHER))
    store.point("debian-12", DIGEST)
    done = threading.Event()
    missing = []

    def look() -> None:
        while not done.is_set():
            if store.resolve("debian-12") is None:
                missing.append(True)

    reader = threading.Thread(target=look)
    reader.start()
    for number in range(200):
        store.point("debian-12", (OTHER, DIGEST)[number % 2])
    done.set()
    reader.join()
    assert missing == []


def test_aliases_are_links_that_survive_a_move_of_the_state_directory(store: Store, tmp_path: Path) -> None:
    put(store, WHOLE)
    store.point("debian-12", DIGEST)
    (tmp_path / "state").rename(tmp_path / "moved")
    moved = Store(tmp_path / "moved")
    assert moved.resolve("debian-12") == WHOLE
    assert json.loads((moved.dir / "aliases" / "debian-12").read_text())["digest"] == DIGEST


def test_an_alias_of_nothing_is_listed_but_resolves_to_nothing(store: Store) -> None:
    store.point("debian-12", DIGEST)
    assert store.aliases() == {"debian-12": DIGEST}
    assert store.resolve("debian-12") is None


def test_what_is_no_alias_is_passed_over(store: Store) -> None:
    aliases = store.dir / "aliases"
    (aliases / "notes.txt").write_text("not a link")
    (aliases / "elsewhere").symlink_to("/etc/hostname")
    assert store.aliases() == {"elsewhere": ""}
    assert store.resolve("elsewhere") is None
    assert store.resolve("notes.txt") is None


def test_taking_an_alias_away_is_quiet_when_there_is_none(store: Store) -> None:
    put(store, WHOLE)
    store.point("debian-12", DIGEST)
    store.unpoint("debian-12")
    store.unpoint("debian-12")
    assert store.aliases() == {}
    assert store.resolve(DIGEST) == WHOLE


@pytest.mark.parametrize("alias", ["debian-12", "0", "fedora.44", "a+b_c-d", "x" * 100])
def test_accepts_an_alias(alias: str) -> None:
    assert _store.check_alias(alias) == alias


@pytest.mark.parametrize("alias", ["", "Debian", "-a", ".hidden", "..", "a/b", "a b", "a\n", "ä", "x" * 101, "a@b", "a:b"])
def test_refuses_an_alias(alias: str) -> None:
    with pytest.raises(InvalidInput):
        _store.check_alias(alias)


@pytest.mark.parametrize("alias", [OTHER, f"sha256-{OTHER}"])
def test_an_alias_that_looks_like_a_digest_is_refused(alias: str) -> None:
    with pytest.raises(InvalidInput):
        _store.check_alias(alias)


# -- finding -------------------------------------------------------------------------------------------------------------


SOURCES = [f"sha256:{'7' * 64}", f"sha384:{'8' * 96}", f"sha512:{'9' * 128}", f"recipe:{'a' * 64}"]


def test_finds_by_every_source_that_was_remembered_and_by_its_own_digest(store: Store) -> None:
    put(store, manifest())
    put(store, dataclasses.replace(WHOLE, digest=OTHER))
    assert [store.find(source) for source in SOURCES] == [None] * 4
    for source in SOURCES:
        store.remember(source, DIGEST)
    assert [store.find(source) for source in SOURCES] == [manifest()] * 4
    assert store.find(f"sha256:{DIGEST}") == manifest()
    assert store.find(f"sha256:{OTHER}").digest == OTHER
    for other in (f"sha512:{DIGEST}", f"recipe:{DIGEST}", f"sha384:{'9' * 128}", "sha256:", "", ":", DIGEST):
        assert store.find(other) is None
    assert list(store.tmp.iterdir()) == []
    assert store.aliases() == {}


def test_a_source_may_come_to_give_another_image(store: Store) -> None:
    put(store, manifest())
    put(store, manifest(OTHER))
    store.remember(SOURCES[0], DIGEST)
    store.remember(SOURCES[0], OTHER)
    store.remember(SOURCES[0], OTHER)
    assert store.find(SOURCES[0]).digest == OTHER


def test_the_bytes_themselves_count_before_what_was_remembered_of_them(store: Store) -> None:
    """A stored file that is imported again was fetched from itself."""
    put(store, manifest())
    put(store, manifest(OTHER))
    store.remember(f"sha256:{DIGEST}", OTHER)
    assert store.find(f"sha256:{DIGEST}").digest == DIGEST
    store.remove(DIGEST)
    assert store.find(f"sha256:{DIGEST}").digest == OTHER


def test_what_is_remembered_goes_with_the_image(store: Store) -> None:
    put(store, manifest())
    put(store, manifest(OTHER))
    for source in SOURCES[:3]:
        store.remember(source, DIGEST)
    store.remember(SOURCES[3], OTHER)
    (store.dir / "sources" / "notes.txt").write_text("not a link")
    store.remove(DIGEST)
    assert [store.find(source) for source in SOURCES] == [None, None, None, manifest(OTHER)]
    assert sorted(path.name for path in (store.dir / "sources").iterdir()) == ["notes.txt", SOURCES[3].replace(":", "-")]


def test_what_is_remembered_of_an_image_that_is_gone_does_not_count(store: Store) -> None:
    """Killed between the manifest and the links, removing leaves links to nothing."""
    store.remember(SOURCES[0], DIGEST)
    assert store.find(SOURCES[0]) is None


def test_what_is_remembered_survives_a_move_of_the_state_directory(store: Store, tmp_path: Path) -> None:
    put(store, WHOLE)
    store.remember(SOURCES[3], DIGEST)
    (tmp_path / "state").rename(tmp_path / "moved")
    assert Store(tmp_path / "moved").find(SOURCES[3]) == WHOLE


def test_a_layer_is_the_stored_file(store: Store) -> None:
    assert store.layer(WHOLE) == Layer(str(store.dir / f"sha256-{DIGEST}.qcow2"), "qcow2", 1 << 30)


def test_a_description_has_paths_and_aliases(store: Store) -> None:
    put(store, WHOLE)
    store.point("debian-12", DIGEST)
    store.point("stable", DIGEST)
    store.point("other", OTHER)
    facts = _store.describe(store, WHOLE)
    assert facts["aliases"] == ["debian-12", "stable"]
    assert facts["path"] == str(store.path(DIGEST))
    assert facts["kernel"] == str(store.dir / f"sha256-{DIGEST}.vmlinuz")
    assert facts["source"]["recipe"]["suite"] == "bookworm"
    assert json.loads(json.dumps(facts)) == facts
    assert _store.describe(store, manifest())["kernel"] == ""


# -- damage --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"{}",
        b'{"format": "mayfly-image-2"}',
        b'{"format": "mayfly-image-1"}',
        b'{"format": "mayfly-image-1", "source": {}}',
        b'{"format": "mayfly-image-1", "source": null, "digest": "5"}',
        b'{"format": "mayfly-image-1", "source": {"kind": "file", "location": "x"}, "digest": "5", "surprise": 1}',
        b"\xff\xfe\x00",
    ],
)
def test_a_damaged_manifest_is_an_error_that_names_it(store: Store, content: bytes) -> None:
    path = store.path(DIGEST, "json")
    path.write_bytes(content)
    store.remember(SOURCES[3], DIGEST)
    for attempt in (store.manifests, lambda: store.resolve(DIGEST), lambda: store.find(f"sha256:{DIGEST}"), lambda: store.find(SOURCES[3])):
        with pytest.raises(MayflyError, match="read image manifest") as caught:
            attempt()
        assert caught.value.target == str(path)
        assert "Remove it" in caught.value.remedy


def test_a_failed_manifest_leaves_nothing_that_counts(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object, **_options: object) -> str:
        raise OSError(28, "No space left on device")

    before = listing(store.dir)
    monkeypatch.setattr(_store.json, "dumps", full)
    with pytest.raises(OSError, match="No space left"):
        put(store, WHOLE, vmlinuz="kernel")
    monkeypatch.undo()
    assert store.manifests() == []
    assert store.resolve(DIGEST) is None
    (store.tmp / "finished").unlink(missing_ok=True)  # the workspace's own business
    assert listing(store.dir) == before


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
def test_digests_of_files(tmp_path: Path, algorithm: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom((1 << 20) + 17))
    assert _store.file_digest(path, algorithm) == hashlib.new(algorithm, path.read_bytes()).hexdigest()
    assert _store.file_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_locks_of_other_sources_do_not_wait_for_each_other(store: Store) -> None:
    with store.lock("https://example.org/one"), store.lock("https://example.org/two"):
        locks = listing(store.dir)
    assert len([name for name in locks if name.startswith("locks/")]) == 2
