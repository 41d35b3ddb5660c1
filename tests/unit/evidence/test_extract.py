# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Archives of a hostile guest: the corpus, what the directory is after it, and garbage."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hostile_archives import CASES, COUNT, FILE, GOOD, READ, TOTAL, Case, file, header, pax, tar
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.mayfly.virt.plugins.module_utils._extract import Kept, Limits, Outcome, extract
from ansible_collections.mayfly.virt.plugins.module_utils._tree import Tree

LIMITS = Limits(file=FILE, total=TOTAL, read=READ, count=COUNT)


class Memory:
    """A double of a directory: files in memory, which may be refused."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def create(self, parts: tuple[str, ...]) -> Any:
        name = "/".join(parts)
        assert name not in self.files, f"{name} is written twice"
        assert all(part not in ("", ".", "..") and "/" not in part for part in parts)
        files = self.files

        class File(io.BytesIO):
            def close(self) -> None:
                files[name] = self.getvalue()
                super().close()

        files[name] = b""
        return File()


def read(data: bytes, *, chunk: int = 1 << 20, limits: Limits = LIMITS) -> tuple[dict[str, bytes], Outcome]:
    memory = Memory()
    outcome = extract((data[at : at + chunk] for at in range(0, len(data), chunk)), memory.create, limits)
    return memory.files, outcome


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
@pytest.mark.parametrize("chunk", [1 << 20, 333], ids=["whole", "in-pieces"])
def test_the_corpus(case: Case, chunk: int) -> None:
    files, outcome = read(case.make(), chunk=chunk)
    if case.name.endswith("bomb"):  # how much of it came before the limit is not the matter
        files = {name: b"" if name == "bomb" else content for name, content in files.items()}
    assert files == case.kept
    assert {kept.name for kept in outcome.kept} == set(case.kept)
    for said, expected in ((outcome.left_out, case.left_out), (outcome.problems, case.problem)):
        assert bool(said) is bool(expected), said
        assert expected in "\n".join(said)


def test_the_corpus_is_not_small_and_names_are_not_repeated() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 20


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_nothing_is_written_but_plain_files_below_the_directory(case: Case, tmp_path: Path) -> None:
    """On a real directory that has links already, as a hostile earlier run might have left."""
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    (outside / "precious").write_text("as it was")
    for name in ("good.log", "a.log", "x"):
        (inside / name).symlink_to(outside / "precious")
    for name in ("d", "a", "l", "var"):
        (inside / name).symlink_to(outside, target_is_directory=True)
    with Tree(inside) as tree:
        extract([case.make()], tree.create, LIMITS)
    assert [path.name for path in outside.iterdir()] == ["precious"]
    assert (outside / "precious").read_text() == "as it was"
    written = [path for path in inside.rglob("*") if not path.is_symlink()]
    assert all(path.is_file() for path in written)
    assert all(path.stat().st_mode & 0o7777 == 0o644 and path.stat().st_nlink == 1 for path in written)


def test_what_was_cut_is_told() -> None:
    _files, outcome = read(tar(file(b"big", b"a" * (FILE + 5)), file(b"small", b"1")))
    assert outcome.kept == [Kept("big", FILE, 5), Kept("small", 1, 0)]


def test_a_bomb_costs_little_memory() -> None:
    bomb = gzip.compress(tar(file(b"bomb", bytes(200 * 1024 * 1024))), 9)
    script = (
        "import resource, sys\n"
        "from ansible_collections.mayfly.virt.plugins.module_utils import _extract\n"
        "resource.setrlimit(resource.RLIMIT_AS, (400 * 2**20, 400 * 2**20))\n"
        "class Null:\n    def write(self, data): pass\n    def close(self): pass\n"
        "limits = _extract.Limits(file=10 * 2**20, total=2**30, read=2**30, count=10)\n"
        "outcome = _extract.extract([sys.stdin.buffer.read()], lambda parts: Null(), limits)\n"
        "print(outcome.kept[0].size, outcome.problems)\n"
    )
    tree = str(Path(__file__).resolve().parents[3] / "build" / "tree")
    done = subprocess.run(
        [os.sys.executable, "-c", script], input=bomb, capture_output=True, env={**os.environ, "PYTHONPATH": tree}, timeout=60, check=False
    )
    assert done.stdout.decode().strip() == f"{10 * 2**20} []", done.stderr.decode()


def test_what_tar_itself_writes_is_read_whole(tmp_path: Path) -> None:
    """The real program, in each of its formats."""
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / ("n" * 140)).write_bytes(b"x" * 70000)
    (source / "empty").write_bytes(b"")
    (source / "grün").write_bytes(b"1")
    (source / "link").symlink_to("empty")
    for style in ("gnu", "posix"):
        packed = subprocess.run(["tar", f"--format={style}", "-C", source, "-czf", "-", "--", "."], capture_output=True, check=True).stdout
        files, outcome = read(packed, limits=Limits(10**6, 10**6, 10**7, 100))
        assert files == {f"sub/{'n' * 140}": b"x" * 70000, "empty": b"", "grün": b"1"}
        assert (outcome.left_out, outcome.problems) == (["./link: it is a symbolic link"], [])


members = st.one_of(
    st.builds(
        file,
        st.binary(max_size=120),
        st.binary(max_size=1200),
        st.sampled_from([b"0", b"\0", b"7", b"L", b"K", b"x", b"g", b"S", b"5", b"2"]),
    ),
    st.builds(lambda name: pax({b"path": name}), st.binary(min_size=1, max_size=40)),
    st.builds(header, st.binary(max_size=100), st.integers(0, 2**33 - 1), st.sampled_from([b"0", b"1", b"2", b"5", b"x", b"L"])),
    st.binary(max_size=700),
    st.just(GOOD),
    st.just(bytes(512)),
)


@settings(max_examples=300, deadline=None)
@given(parts=st.lists(members, max_size=8), flips=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=4))
def test_garbage_writes_nothing_outside_and_stays_within_the_limits(parts: list[bytes], flips: list[tuple[int, int]]) -> None:
    data = bytearray(b"".join(parts))
    for at, value in flips:
        if at < len(data):
            data[at] = value
    with tempfile.TemporaryDirectory() as name:
        inside = Path(name, "inside")
        inside.mkdir()
        with Tree(inside) as tree:
            outcome = extract([bytes(data)], tree.create, LIMITS)
        written = [path for path in Path(name).rglob("*") if not path.is_dir()]
        assert all(path.is_file() and not path.is_symlink() and path.is_relative_to(inside) for path in written)
        assert {str(path.relative_to(inside)) for path in written} == {kept.name for kept in outcome.kept}
        assert sum(path.stat().st_size for path in written) <= TOTAL
        assert len(written) <= COUNT
        assert all(len(note) < 500 and note.isprintable() for note in outcome.left_out + outcome.problems)


@settings(max_examples=200, deadline=None)
@given(names=st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=30), max_size=6))
def test_each_name_comes_out_once_and_none_is_lost_silently(names: list[str]) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    _files, outcome = read(buffer.getvalue())
    directories = sum(name.endswith("/") for name in names)
    assert outcome.problems == []
    assert len(outcome.kept) + len(outcome.left_out) >= len(names) - directories
