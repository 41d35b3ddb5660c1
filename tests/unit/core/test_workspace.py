# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Locks and workspaces: what a killed holder leaves behind, and what it does not."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.mayfly.virt.plugins.module_utils._errors import MayflyError
from ansible_collections.mayfly.virt.plugins.module_utils._lock import locked, try_locked
from ansible_collections.mayfly.virt.plugins.module_utils._workspace import NASCENT, Workspace, abandoned

StartHolder = Callable[..., tuple[subprocess.Popen[str], Path]]

TREE = Path(__file__).resolve().parents[3] / "build" / "tree"
# Takes a workspace, says where, then waits until its stdin ends. With "child", a child of it holds the lock's descriptor as well.
HOLDER = f"""
import subprocess, sys
sys.path.insert(0, {str(TREE)!r})
from pathlib import Path
from ansible_collections.mayfly.virt.plugins.module_utils._workspace import Workspace
with Workspace(Path(sys.argv[1])) as workspace:
    if sys.argv[2] == "child":
        subprocess.Popen(["cat"], pass_fds=(workspace.descriptor,), stdout=subprocess.DEVNULL)
    print(workspace.path, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[StartHolder]:
    """Start a process that holds a workspace below tmp_path; it and its child end with the pipe to their stdin."""
    started = []

    def start(kind: str = "alone") -> tuple[subprocess.Popen[str], Path]:
        argv = [sys.executable, "-c", HOLDER, str(tmp_path), kind]
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process, Path(process.stdout.readline().strip())

    yield start
    for process in started:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


def test_a_lock_excludes_and_is_let_go(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path), try_locked(path) as free:
        assert not free
    with try_locked(path) as free, try_locked(path) as again:
        assert free
        assert not again
    with try_locked(path) as free:
        assert free
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_error_lets_the_lock_go(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with pytest.raises(KeyError), locked(path):
        raise KeyError
    with try_locked(path) as free:
        assert free


def test_who_comes_second_waits(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    order = []
    about = threading.Event()

    def second() -> None:
        about.set()
        with locked(path):
            order.append("second")

    with locked(path):
        thread = threading.Thread(target=second)
        thread.start()
        assert about.wait(5)
        thread.join(0.05)
        order.append("first")
    thread.join(5)
    assert order == ["first", "second"]


def test_patience_ends_with_an_error_that_tells_how_to_find_the_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path):
        started = time.monotonic()
        with pytest.raises(MayflyError, match=r"another process has held it for 0 s\..*fuser -v") as caught, locked(path, 0.12):
            raise AssertionError("somebody else holds it")
        assert 0.12 <= time.monotonic() - started < 5
    assert caught.value.target == str(path)
    with locked(path, 0.0), try_locked(path) as free:
        assert not free


def test_patience_is_rewarded(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    taken = threading.Event()

    def patient() -> None:
        with locked(path, 10.0):
            taken.set()

    with locked(path):
        thread = threading.Thread(target=patient)
        thread.start()
        assert not taken.wait(0.1)
    assert taken.wait(5)
    thread.join(5)


def test_a_lock_is_not_taken_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"), locked(tmp_path / "link"):
        pass
    (tmp_path / "elsewhere").touch()
    with pytest.raises(OSError, match="symbolic links"), try_locked(tmp_path / "link"):
        pass


def test_where_there_is_no_file_nobody_holds_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "lock", tmp_path / "nowhere" / "lock", tmp_path / "file" / "lock"):
        with try_locked(path) as free:
            assert free
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_workspace_is_gone_at_the_end(tmp_path: Path) -> None:
    with Workspace(tmp_path) as workspace:
        assert workspace.path.parent == tmp_path
        assert workspace.path.stat().st_mode & 0o777 == 0o700
        (workspace.path / "half").mkdir()
        (workspace.path / "half" / "made").write_text("x")
        assert abandoned(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_workspace_is_gone_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError), Workspace(tmp_path) as workspace:
        workspace.path.mkdir()
    assert list(tmp_path.iterdir()) == []


def test_what_was_finished_is_adopted(tmp_path: Path) -> None:
    target = tmp_path / "finished"
    with Workspace(tmp_path) as workspace:
        (workspace.path / "whole").write_text("x")
        assert workspace.adopt(target)
    assert (target / "whole").read_text() == "x"
    assert [path.name for path in tmp_path.iterdir()] == ["finished"]


def test_what_another_finished_first_stays(tmp_path: Path) -> None:
    target = tmp_path / "finished"
    target.mkdir()
    (target / "whole").write_text("the other's")
    with Workspace(tmp_path) as workspace:
        (workspace.path / "whole").write_text("ours")
        assert not workspace.adopt(target)
    assert (target / "whole").read_text() == "the other's"
    assert [path.name for path in tmp_path.iterdir()] == ["finished"]


def test_an_adoption_that_cannot_be_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), Workspace(tmp_path) as workspace:
        workspace.adopt(tmp_path / "nowhere" / "finished")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_abandoned_where_nothing_is(tmp_path: Path) -> None:
    assert abandoned(tmp_path / "nowhere") == []
    (tmp_path / "other").mkdir()
    assert abandoned(tmp_path) == []


def test_a_workspace_is_not_abandoned_while_its_holder_lives(tmp_path: Path, holder: StartHolder) -> None:
    process, path = holder()
    assert path.parent == tmp_path
    assert abandoned(tmp_path) == []
    process.stdin.close()
    assert process.wait(10) == 0
    assert not path.exists()


def test_a_killed_holder_leaves_it_abandoned(tmp_path: Path, holder: StartHolder) -> None:
    process, path = holder()
    process.kill()
    process.wait(10)
    assert path.is_dir()
    assert abandoned(tmp_path) == [path]


def test_it_is_held_as_long_as_a_child_works_on(tmp_path: Path, holder: StartHolder) -> None:
    process, path = holder("child")
    process.kill()
    process.wait(10)
    assert abandoned(tmp_path) == []
    process.stdin.close()  # the child's cat ends with it
    with locked(path / "lock"):  # as soon as it has
        pass
    assert abandoned(tmp_path) == [path]


def test_a_finished_workspace_between_list_and_look_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / ".work-gone"
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter([path]))
    assert abandoned(tmp_path) == []


def test_several_are_told_apart(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / f".work-{name}").mkdir()
        (tmp_path / f".work-{name}" / "lock").touch()
    with Workspace(tmp_path):
        assert abandoned(tmp_path) == [tmp_path / ".work-a", tmp_path / ".work-b"]


def test_looking_makes_nothing(tmp_path: Path) -> None:
    path = tmp_path / ".work-x"
    path.mkdir()
    before = path.stat().st_mtime_ns
    assert abandoned(tmp_path) == [path]
    assert list(path.iterdir()) == []
    assert path.stat().st_mtime_ns == before


def test_a_workspace_that_is_just_being_made_is_not_abandoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At none of the steps to it: made, its lock made, locked, named."""
    seen = []

    def sweep_comes_in_between(module: Any, name: str) -> None:
        step = getattr(module, name)

        def watched(*arguments: Any, **options: Any) -> Any:
            monkeypatch.setattr(module, name, step)
            seen.append((name, "before", abandoned(tmp_path)))
            done = step(*arguments, **options)
            seen.append((name, "after", abandoned(tmp_path)))
            monkeypatch.setattr(module, name, watched)
            return done

        monkeypatch.setattr(module, name, watched)

    for module, name in ((tempfile, "mkdtemp"), (os, "open"), (fcntl, "flock"), (os, "rename")):
        sweep_comes_in_between(module, name)
    with Workspace(tmp_path) as workspace:
        monkeypatch.undo()
        assert workspace.path.name.startswith(".work-")
        assert [path.name for path in tmp_path.iterdir()] == [workspace.path.name]
    assert {name for name, _when, _found in seen} >= {"mkdtemp", "open", "flock", "rename"}
    assert [found for _name, _when, found in seen if found] == []


def test_a_workspace_is_born_under_a_name_that_nobody_takes_for_abandoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", killed)
    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt), Workspace(tmp_path):
        pass
    (nascent,) = tmp_path.iterdir()
    assert nascent.name.startswith(NASCENT)
    assert abandoned(tmp_path) == []


def test_a_file_of_such_a_name_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / ".work-file").write_text("")
    (tmp_path / ".work-gone").symlink_to(tmp_path / "nowhere")
    assert abandoned(tmp_path) == [tmp_path / ".work-file"]
