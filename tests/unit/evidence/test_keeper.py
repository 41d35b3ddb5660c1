# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files in a guest's directory: scrubbed, packed, never through a link, and accounted for."""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.mayfly.virt.plugins.module_utils._evidence import Keeper, account, hidden_complaint
from ansible_collections.mayfly.virt.plugins.module_utils._scrub import job_patterns
from ansible_collections.mayfly.virt.plugins.module_utils._tree import Tree

PANIC = b"[    1.234567] Kernel panic - not syncing: boom\n"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    directory = tmp_path / "one"
    directory.mkdir()
    return directory


@pytest.fixture
def tree(place: Path) -> Iterator[Tree]:
    with Tree(place) as opened:
        yield opened


def test_a_text_is_scrubbed_and_an_image_is_not(tree: Tree, place: Path) -> None:
    keeper = Keeper(tree, [], 1000)
    keeper.write("journal.log", b"password=hunter2\n")
    for name in ("screenshot.png", "memory.vmcore"):
        keeper.write(name, b"\0password=hunter2\0")
    with keeper.create("coredumps", "core.1") as file:
        file.write(b"password=hunter2")
    assert (place / "journal.log").read_bytes() == b"password=[scrubbed: password]\n"
    assert (place / "screenshot.png").read_bytes() == b"\0password=hunter2\0"
    assert (place / "coredumps" / "core.1").read_bytes() == b"password=hunter2"


def test_a_big_file_is_packed_and_a_console_is_not(tree: Tree, place: Path) -> None:
    keeper = Keeper(tree, [], 1000)
    for name in ("journal.log", "console.log", "small.log"):
        keeper.write(name, b"line\n" * (10 if name == "small.log" else 1000), cut=True)
    assert sorted(path.name for path in place.iterdir()) == ["console.log", "journal.log.xz", "small.log"]
    assert lzma.decompress((place / "journal.log.xz").read_bytes()) == b"line\n" * 1000
    assert {entry["name"]: entry["cut"] for entry in account(place, "guest", keeper)["files"]} == {
        "console.log": True,
        "journal.log.xz": True,
        "small.log": True,
    }


def test_a_packed_file_does_not_take_anothers_name(tree: Tree, place: Path) -> None:
    keeper = Keeper(tree, [], 10)
    keeper.write("a.log.xz", b"first")
    keeper.write("a.log", b"long enough to be packed")
    assert (place / "a.log.xz").read_bytes() == b"first"
    assert (place / "a.log").read_bytes() == b"long enough to be packed"


@pytest.mark.parametrize("name", ["console.log", "console.log.0"])
def test_a_secret_that_hides_a_complaint_is_an_error(tree: Tree, place: Path, name: str) -> None:
    keeper = Keeper(tree, job_patterns(["Kernel panic"]), 1000)
    keeper.write(name, b"hello\n" + PANIC)
    assert "hides what the kernel complains of in line 2" in keeper.found.missing[name]
    assert b"Kernel panic" not in (place / name).read_bytes()


def test_hidden_complaints_are_found_line_by_line() -> None:
    assert hidden_complaint(b"a\n" + PANIC, b"a\n" + PANIC) == 0
    assert hidden_complaint(PANIC + PANIC, PANIC + b"x\n") == 2
    assert hidden_complaint(PANIC, PANIC.replace(b"boom", b"[scrubbed: job secret]")) == 0


def test_links_are_not_followed(tree: Tree, place: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("as it was")
    (place / "journal.log").symlink_to(outside)
    (place / "paths").symlink_to(tmp_path, target_is_directory=True)
    keeper = Keeper(tree, [], 1000)
    keeper.write("journal.log", b"new")
    assert (place / "journal.log").read_bytes() == b"new"
    with pytest.raises(FileExistsError, match="paths is no directory"):
        keeper.create("paths", "outside")
    tree.empty("paths")
    keeper.create("paths", "outside").close()
    assert outside.read_text() == "as it was"


def test_an_earlier_attempt_is_replaced_and_the_same_one_is_not(place: Path) -> None:
    for text in (b"first", b"second"):
        with Tree(place) as tree:
            Keeper(tree, [], 1000).write("a.log", text)
            assert (place / "a.log").read_bytes() == text
            with pytest.raises(FileExistsError):
                tree.create(("a.log",))


@pytest.mark.parametrize("parts", [(), ("..",), ("a/b",), ("",), (".", "a"), ("a\0",)])
def test_names_with_a_meaning_are_a_mistake_of_ours(tree: Tree, parts: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="not the parts of a name"):
        tree.create(parts)


def test_the_account_has_every_file_and_each_steps_own_gaps(place: Path) -> None:
    def step(name: str, text: bytes, **missing: str) -> dict[str, object]:
        with Tree(place) as tree:
            keeper = Keeper(tree, [], 1000)
            keeper.write(f"{name}.log", text)
            for what, why in missing.items():
                keeper.missed(what, why)
            record = account(place, name, keeper)
        (place / "evidence.json").write_text(json.dumps(record))
        return record

    step("hypervisor", b"password=hunter2", dump="the disk is full")
    (place / "brought.bin").write_bytes(b"123")  # by somebody else
    record = step("guest", b"text", journal="no answer")
    assert record["files"] == [
        {"name": "brought.bin", "bytes": 3, "cut": False, "scrubbed": 0},
        {"name": "guest.log", "bytes": 4, "cut": False, "scrubbed": 0},
        {"name": "hypervisor.log", "bytes": 29, "cut": False, "scrubbed": 1},
    ]
    assert record["missing"] == {"dump": "the disk is full", "journal": "no answer"}
    assert record["scrubbed"] == 1
    assert step("hypervisor", b"text")["missing"] == {"journal": "no answer"}, "collected again, and now it is there"


def test_a_torn_account_is_begun_anew(place: Path) -> None:
    (place / "evidence.json").write_text('{"files": [')
    with Tree(place) as tree:
        assert account(place, "guest", Keeper(tree, [], 1))["files"] == []
