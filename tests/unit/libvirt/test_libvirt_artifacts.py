# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Package files of an earlier stage: read, and refused before a guest hears of them."""

from __future__ import annotations

import io
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.mayfly.virt.plugins.action import libvirt_source
from ansible_collections.mayfly.virt.plugins.module_utils._errors import InvalidInput
from ansible_collections.mayfly.virt.plugins.plugin_utils import _libvirt_artifacts as la
from ansible_collections.mayfly.virt.plugins.plugin_utils import _libvirt_source as ls

SAMPLES = Path(__file__).parent / "samples"
DEBIAN = la.Guest("debian-12", "x86_64", "apt")
FEDORA = la.Guest("fedora-42", "x86_64", "dnf")

Deb = Callable[..., Path]


@pytest.fixture
def deb(tmp_path: Path) -> Deb:
    """Make real Debian packages, with dpkg-deb."""

    def make(name: str, version: str = "9.0.0-4", architecture: str = "amd64", source: str = "libvirt", into: str = "debs") -> Path:
        root = tmp_path / "root"
        (root / "DEBIAN").mkdir(parents=True, exist_ok=True)
        fields = {"Package": name, "Version": version, "Architecture": architecture, "Source": source, "Maintainer": "x <x@example.org>"}
        text = "".join(f"{key}: {value}\n" for key, value in fields.items())
        (root / "DEBIAN" / "control").write_text(f"{text}Description: a sample\n it: goes on\n")
        path = tmp_path / into / f"{name}_{version}_{architecture}.deb"
        path.parent.mkdir(exist_ok=True)
        subprocess.run(["dpkg-deb", "-Zxz", "--build", "--root-owner-group", root, path], check=True, capture_output=True)
        return path

    return make


def read(directory: Path, *entries: Any, skip: tuple[str, ...] = ()) -> list[la.Package]:
    (directory / "work").mkdir()
    given = list(entries) or [str(directory / "debs")]
    return libvirt_source.read_artifacts(given, list(skip), Path, directory / "work")


def test_a_debian_package_is_read(deb: Deb) -> None:
    package = la.read_package(deb("libvirt0", version="9.0.0-4+b1", source="libvirt (9.0.0-4)"))
    assert package is not None
    assert (package.kind, package.name, package.version, package.architecture) == ("deb", "libvirt0", "9.0.0-4+b1", "amd64")
    assert (package.source, package.source_version) == ("libvirt", "9.0.0-4")


def test_an_rpm_package_is_read_and_a_source_package_left_out() -> None:
    package = la.read_package(SAMPLES / "libvirt-libs-11.3.0-1.fc42.x86_64.rpm")
    assert package is not None
    assert (package.kind, package.name, package.version, package.architecture) == ("rpm", "libvirt-libs", "1:11.3.0-1.fc42", "x86_64")
    assert (package.source, package.source_version) == ("libvirt", "11.3.0-1.fc42")
    assert la.read_package(SAMPLES / "libvirt-11.3.0-1.fc42.src.rpm") is None


@pytest.mark.parametrize("keep", [0, 7, 60, 100, 400, -1])
def test_a_package_that_was_cut_is_refused(tmp_path: Path, deb: Deb, keep: int) -> None:
    whole = {".deb": deb("libvirt0").read_bytes(), ".rpm": (SAMPLES / "libvirt-11.3.0-1.fc42.x86_64.rpm").read_bytes()}
    for suffix, data in whole.items():
        path = tmp_path / f"cut{suffix}"
        path.write_bytes(data[:keep])
        with pytest.raises(InvalidInput, match=r"'cut\..*' is refused: it cannot be read"):
            la.read_package(path)


def test_a_directory_an_archive_and_a_file_are_the_same(tmp_path: Path, deb: Deb) -> None:
    paths = [deb("libvirt0"), deb("libvirt-daemon")]
    with tarfile.open(tmp_path / "debs.tar.xz", "w:xz") as tar:
        tar.add(tmp_path / "debs", "public/debs")
    with zipfile.ZipFile(tmp_path / "debs.zip", "w") as archive:
        for path in paths:
            archive.write(path, f"a/{path.name}")
        archive.writestr("a/build.log", "no package")
    for number, entries in enumerate([["debs"], ["debs.tar.xz"], ["debs.zip"], [f"debs/{path.name}" for path in paths]]):
        directory = tmp_path / f"{number}"
        directory.mkdir()
        found = read(directory, *(str(tmp_path / entry) for entry in entries))
        assert [package.name for package in found] == ["libvirt-daemon", "libvirt0"]


def test_packages_of_several_builds_are_refused(tmp_path: Path, deb: Deb) -> None:
    deb("libvirt0", "9.0.0-4")
    deb("libvirt-daemon", "9.0.0-5")
    with pytest.raises(InvalidInput, match=r"several builds of libvirt: 9.0.0-4 \(libvirt0_.*\), 9.0.0-5 \(libvirt-daemon_"):
        read(tmp_path)


def test_another_source_may_have_another_version(tmp_path: Path, deb: Deb) -> None:
    deb("libvirt0")
    deb("python3-libvirt", "9.1.0-1", source="libvirt-python")
    assert len(read(tmp_path)) == 2


def test_one_package_in_two_versions_is_refused(tmp_path: Path, deb: Deb) -> None:
    deb("libvirt0", "9.0.0-4")
    deb("libvirt0", "9.0.0-5")
    with pytest.raises(InvalidInput, match=r"versions 9\.0\.0-4 and 9\.0\.0-5"):
        read(tmp_path)


def test_one_version_of_two_builds_is_refused_and_the_same_file_twice_is_not(tmp_path: Path, deb: Deb) -> None:
    first = deb("libvirt0")
    (tmp_path / "debs" / "again").mkdir()
    (tmp_path / "debs" / "again" / first.name).write_bytes(first.read_bytes())
    assert len(read(tmp_path)) == 1
    deb("libvirt0", source="libvirt (9.0.0-4~1)", into="debs/again")
    (tmp_path / "work" / "0").rmdir()
    (tmp_path / "work").rmdir()
    with pytest.raises(InvalidInput, match="the same version and not the same file"):
        read(tmp_path)


def test_both_kinds_together_are_refused(tmp_path: Path, deb: Deb) -> None:
    deb("libvirt0")
    with pytest.raises(InvalidInput, match="both deb and rpm"):
        read(tmp_path, str(tmp_path / "debs"), str(SAMPLES))


def test_what_is_skipped_may_be_of_any_version(tmp_path: Path, deb: Deb) -> None:
    deb("libvirt0")
    deb("libvirt0-dbgsym", "9.0.0-5")
    assert [package.name for package in read(tmp_path, skip=("*-dbgsym",))] == ["libvirt0"]


def test_nothing_and_nothing_of_libvirt_are_refused(tmp_path: Path, deb: Deb) -> None:
    (tmp_path / "debs").mkdir()
    with pytest.raises(InvalidInput, match="no package file"):
        read(tmp_path)
    deb("hello", source="hello")
    (tmp_path / "2").mkdir()
    with pytest.raises(InvalidInput, match="none of them is libvirt's: hello"):
        read(tmp_path / "2", str(tmp_path / "debs"))


@pytest.mark.parametrize(
    ("package", "guest", "why"),
    [
        ("deb", FEDORA, "deb packages and fedora-42 installs with dnf"),
        ("rpm", DEBIAN, "rpm packages and debian-12 installs with apt"),
        ("deb", la.Guest("debian-12", "aarch64", "apt"), "is for amd64 and the guest is aarch64"),
    ],
)
def test_what_a_guest_cannot_install_is_refused(deb: Deb, package: str, guest: la.Guest, why: str) -> None:
    path = deb("libvirt0") if package == "deb" else SAMPLES / "libvirt-libs-11.3.0-1.fc42.x86_64.rpm"
    found = la.read_package(path)
    assert found is not None
    with pytest.raises(InvalidInput, match=why):
        la.check_guest([found], guest, "one")


def test_what_a_guest_can_install_is_not_refused(deb: Deb) -> None:
    for name, architecture in (("libvirt0", "amd64"), ("libvirt-common", "all")):
        found = la.read_package(deb(name, architecture=architecture))
        assert found is not None
        la.check_guest([found], DEBIAN, "one")


# --- checksums --------------------------------------------------------------------------------------------------


def test_a_list_of_checksums_is_kept_to(tmp_path: Path, deb: Deb) -> None:
    first, second = deb("libvirt0"), deb("libvirt-daemon")
    lines = [f"{la.sha256(path)}  {path.name}\n" for path in (first, second)]
    sums = tmp_path / "debs" / "SHA256SUMS"
    for number, (text, why) in enumerate(
        [
            ("".join(lines), None),
            (lines[0], "libvirt-daemon_9.0.0-4_amd64.deb is not in SHA256SUMS"),
            (
                "".join([*lines, f"{'0' * 64}  libvirt-clients_9.0.0-4_amd64.deb\n"]),
                "libvirt-clients_9.0.0-4_amd64.deb, and that is missing",
            ),
            ("".join([lines[0], f"{'0' * 64}  {second.name}\n"]), "its SHA-256 is"),
            ("no checksum\n", "is none of sha256sum"),
        ]
    ):
        sums.write_text(text)
        directory = tmp_path / str(number)
        directory.mkdir()
        if why is None:
            assert len(read(directory, str(tmp_path / "debs"))) == 2
        else:
            with pytest.raises(InvalidInput, match=why):
                read(directory, str(tmp_path / "debs"))


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({"url": "http://127.0.0.1:9/libvirt.tar"}, "its sha256 '' is none"),
        ({"url": "http://127.0.0.1:9/libvirt.tar", "sha256": "abc"}, "its sha256 'abc' is none"),
        ({"path": "x", "url": "y"}, "it is not a path"),
        ({"file": "x"}, "it is not a path"),
        ({"path": "{debs}", "sha256": "0" * 64}, "a directory has no SHA-256"),
        ({"path": "{debs}/libvirt0_9.0.0-4_amd64.deb", "sha256": "0" * 64}, "its SHA-256 is"),
        ("{debs}/libvirt0_9.0.0-4_amd64.txt", "neither a directory, a package"),
    ],
)
def test_an_entry_that_cannot_be_is_refused(tmp_path: Path, deb: Deb, entry: Any, why: str) -> None:
    deb("libvirt0").with_suffix(".txt").write_text("no archive")

    def filled(text: str) -> str:
        return text.replace("{debs}", str(tmp_path / "debs"))

    given = filled(entry) if isinstance(entry, str) else {key: filled(value) for key, value in entry.items()}
    with pytest.raises(InvalidInput, match=why):
        read(tmp_path, given)


@pytest.mark.parametrize("name", ["../libvirt0.deb", "a/../../libvirt0.deb", "a\n.deb"])
def test_an_archive_with_such_names_is_refused(tmp_path: Path, deb: Deb, name: str) -> None:
    data = deb("libvirt0").read_bytes()
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    with pytest.raises(InvalidInput, match="it has an entry called"):
        read(tmp_path, str(tmp_path / "evil.tar"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["debs", "evil.tar", "root", "work"]


# --- what is to be done -----------------------------------------------------------------------------------------


def test_the_guest_is_read_as_it_answers() -> None:
    said = "distribution debian-12\nmachine x86_64\nstamp artifacts abc\nmanager apt\n"
    said += "package installed libvirt0 9.0.0-4\npackage config-files x 1\n"
    guest, installed, stamp = ls.read_probe(said)
    assert guest == DEBIAN
    assert installed == {"libvirt0": "9.0.0-4"}
    assert stamp == "artifacts abc"


def test_what_was_brought_is_brought_once(tmp_path: Path, deb: Deb) -> None:
    deb("libvirt0")
    packages = read(tmp_path)
    options = {"install_seconds": 10, "factor": 1}
    mark = f"artifacts {la.fingerprint(packages)}"
    for installed, stamp, needed in [
        ({}, "", True),
        ({"libvirt0": "9.0.0-4"}, mark, False),
        ({"libvirt0": "9.0.0-4"}, "", True),  # the same version, of whom nobody knows
        ({"libvirt0": "9.0.0-3"}, mark, True),
    ]:
        work = libvirt_source.artifacts_work(packages, DEBIAN, installed, stamp, "one", options)
        assert work.needed is needed
        assert bool(work.diff) is needed


@pytest.mark.parametrize(
    "text", [ls.probe_text(), ls.tree_text("t"), ls.files_text(["a.deb"], "apt", "m"), ls.build_text(["-Dx=y z"], 9, "b")]
)
def test_what_the_guest_is_told_is_shell(text: str) -> None:
    subprocess.run(["dash", "-n", "-c", text], check=True)
    done = subprocess.run(["shellcheck", "-s", "sh", "-e", "SC1091,SC2016", "-"], input=text, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_tree_is_known_for_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"neither meson\.build nor"):
        libvirt_source.read_tree(str(tmp_path), Path)
    (tmp_path / "usr" / "sbin").mkdir(parents=True)
    (tmp_path / "usr" / "sbin" / "virtqemud").touch()
    assert libvirt_source.read_tree(str(tmp_path), Path) == ("installed", tmp_path)
    (tmp_path / "meson.build").touch()
    assert libvirt_source.read_tree(str(tmp_path), Path) == ("source", tmp_path)


def test_a_tree_is_told_from_another_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "usr").mkdir()
    (tmp_path / "usr" / "x").write_text("one")
    first = libvirt_source.pack_tree(tmp_path)[1]
    (tmp_path / "run").mkdir()
    assert libvirt_source.pack_tree(tmp_path)[1] == first
    (tmp_path / "usr" / "x").write_text("two")
    assert libvirt_source.pack_tree(tmp_path)[1] != first


def test_a_distribution_is_known_by_its_version_or_by_any() -> None:
    data = {"debian-12": {"packages": ["a"]}, "fedora-*": {"packages": ["b"]}}
    assert ls.known("debian-12", data) == {"packages": ["a"]}
    assert ls.known("fedora-42", data) == {"packages": ["b"]}
    with pytest.raises(InvalidInput, match=r"the role knows debian-12, fedora-\*"):
        ls.known("debian-11", data)
