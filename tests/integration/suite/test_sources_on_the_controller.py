# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sources of libvirt-tck over the loopback, and wheels of Avocado: what is taken, what is refused, and that nothing half stays behind."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import json
import os
import subprocess
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
LIBRARY = "use strict;\nuse YAML qw();\nour $VERSION = 'v2.1.0';\n1;\n"
IDENTITY = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}


class Module:
    """The module as Ansible runs it: a process of its own that is given arguments and answers in JSON."""

    def __init__(self, name: str, cache: Path) -> None:
        self.name = name
        self.cache = cache

    def __call__(self, check: bool = False, **options: Any) -> dict[str, Any]:
        words = {"cache": str(self.cache), "_ansible_check_mode": check, **options}
        script = (
            "import sys; from ansible.module_utils import basic; "
            "basic._ANSIBLE_PROFILE, basic._ANSIBLE_ARGS = 'legacy', sys.argv[1].encode(); "
            f"from ansible_collections.mayfly.virt.plugins.modules import {self.name} as module; module.main()"
        )
        done = subprocess.run(
            [str(ROOT / ".venv/bin/python"), "-c", script, json.dumps({"ANSIBLE_MODULE_ARGS": words})],
            env={**os.environ, "PYTHONPATH": str(ROOT / "build/collections")},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.stdout.startswith("{") or "\n{" in done.stdout, done.stderr
        return json.loads(done.stdout[done.stdout.index("{") :])

    def packed(self) -> list[str]:
        return sorted(path.name for path in self.cache.glob("*.tar.gz")) if self.cache.exists() else []


@pytest.fixture
def module(tmp_path: Path) -> Module:
    return Module("libvirt_tck_source", tmp_path / "cache")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "site" / "tck"
    for path, text in {
        "lib/Sys/Virt/TCK.pm": LIBRARY,
        "scripts/domain/050-transient-lifecycle.t": "#!/usr/bin/env perl\n",
        "conf/default.yml": 'uri: "qemu:///system"\n',
        "t/style.t": "",
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def git(tree: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(tree), *words], env={**os.environ, **IDENTITY}, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def commit(tree: Path) -> str:
    git(tree, "init", "-q", "-b", "main")
    git(tree, "add", "-A")
    git(tree, "commit", "-q", "-m", "one")
    first = git(tree, "rev-parse", "HEAD")
    (tree / "README.rst").write_text("another\n")
    git(tree, "add", "-A")
    git(tree, "commit", "-q", "-m", "two")
    # What a web server without git hands out: it cannot be asked for one commit.
    git(tree, "update-server-info")
    return first


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: Any) -> None:
            """Say nothing."""

    handler = functools.partial(Quiet, directory=str(tmp_path / "site"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def archived(tree: Path) -> str:
    target = tree.parent / "tck.tar.xz"
    with tarfile.open(target, "w:xz") as archive:
        archive.add(tree / "lib", "libvirt-tck-2.1.0/lib")
        archive.add(tree / "scripts", "libvirt-tck-2.1.0/scripts")
        archive.add(tree / "conf", "libvirt-tck-2.1.0/conf")
    return hashlib.sha256(target.read_bytes()).hexdigest()


def test_the_same_tree_from_everywhere(module: Module, tree: Path, commit: str, site: str) -> None:
    """A directory, an archive and a commit, by path and by URL, with the same files are the same archive for the guest."""
    path = module(path=str(tree))
    assert (path["changed"], path["version"], path["tests"], path["last"]) == (True, "2.1.0", 1, "scripts/domain/050-transient-lifecycle.t")
    digest = archived(tree)
    for result in (
        module(archive=f"{site}/tck.tar.xz", sha256=digest),
        module(archive=str(tree.parent / "tck.tar.xz"), sha256=digest),
        module(repository=f"{site}/tck/.git", commit=commit),
        module(repository=str(tree), commit=commit),
    ):
        assert (result["key"], result["archive"]) == (path["key"], path["archive"]), result
    assert module.packed() == [Path(path["archive"]).name]
    assert not module(path=str(tree))["changed"]
    assert not module(repository=f"{site}/tck/.git", commit=commit)["changed"]
    with tarfile.open(fileobj=io.BytesIO(Path(path["archive"]).read_bytes())) as archive:
        assert "t/style.t" not in archive.getnames()


def test_check_mode_fetches_nothing(module: Module, tree: Path, commit: str) -> None:
    result = module(check=True, repository=str(tree), commit=commit)
    assert (result["changed"], "archive" in result) == (True, False)
    assert not module.cache.exists()


def test_a_commit_that_nobody_has(module: Module, tree: Path, commit: str, site: str) -> None:
    for repository in (f"{site}/tck/.git", str(tree)):
        result = module(repository=repository, commit="0" * 40)
        assert result["failed"]
        assert result["msg"].startswith(f"Could not fetch commit '{'0' * 40}': no branch and no tag of {repository} has it.")
    assert module.packed() == []


def test_a_repository_that_is_none(module: Module, site: str) -> None:
    result = module(repository=f"{site}/nothing.git", commit="0" * 40)
    assert result["msg"].startswith(f"Could not fetch repository '{site}/nothing.git': git fetch: ")
    assert "Can the controller reach it?" in result["msg"]


@pytest.mark.parametrize("commit", ["main", "v2.1.0", "d5984ff"])
def test_what_is_no_pinned_commit_is_refused_before_anything_is_fetched(module: Module, tree: Path, commit: str) -> None:
    result = module(repository=str(tree), commit=commit)
    assert result["msg"].startswith(f"Commit of libvirt-tck '{commit}' is refused: it is not 40 lower-case hexadecimal digits.")
    assert not module.cache.exists()


def test_a_wrong_checksum(module: Module, tree: Path, site: str) -> None:
    right = archived(tree)
    result = module(archive=f"{site}/tck.tar.xz", sha256="a" * 64)
    assert result["msg"].startswith(f"Could not verify archive '{site}/tck.tar.xz': its SHA-256 is {right}, not {'a' * 64}.")
    assert module.packed() == []


def test_an_archive_that_is_not_there_cut_off_or_something_else(module: Module, tree: Path, site: str) -> None:
    assert "HTTP Error 404" in module(archive=f"{site}/missing.tar", sha256="a" * 64)["msg"]
    archived(tree)
    whole = (tree.parent / "tck.tar.xz").read_bytes()
    for name, content, reason in (
        ("cut.tar.xz", whole[: len(whole) // 2], "it is no tar archive that can be read"),
        ("page.html", b"<html>", "it is no tar archive that can be read"),
    ):
        (tree.parent / name).write_bytes(content)
        result = module(archive=f"{site}/{name}", sha256=hashlib.sha256(content).hexdigest())
        assert reason in result["msg"], result
    assert module.packed() == []


def test_sources_are_not_mixed(module: Module, tree: Path) -> None:
    assert "mutually exclusive" in module(path=str(tree), repository=str(tree), commit="0" * 40)["msg"]
    assert "one of the following is required" in module()["msg"]
    assert "required together" in module(archive="a.tar")["msg"]
    assert "there is no such directory" in module(path=str(tree / "nowhere"))["msg"]
    assert "lib/Sys/Virt/TCK.pm" in module(path=str(tree / "conf"))["msg"]


# -- Avocado -------------------------------------------------------------------------------------------------------------


class Wheels:
    """A directory of wheels that are wheels, and requirements that pin them."""

    def __init__(self, directory: Path, version: str = "113.0") -> None:
        self.directory = directory / "wheels"
        self.requirements = directory / "requirements.txt"
        self.directory.mkdir()
        self.wheel = self.directory / f"avocado_framework-{version}-py3-none-any.whl"
        with zipfile.ZipFile(self.wheel, "w") as archive:
            archive.writestr("avocado/__init__.py", "")
            archive.writestr(
                f"avocado_framework-{version}.dist-info/entry_points.txt", "[console_scripts]\navocado = avocado.core.main:main\n"
            )
        digest = hashlib.sha256(self.wheel.read_bytes()).hexdigest()
        self.requirements.write_text(f"avocado-framework=={version} \\\n    --hash=sha256:{digest}\n")

    def options(self) -> dict[str, str]:
        return {"requirements": str(self.requirements), "wheels": str(self.directory), "python": "3.11", "machine": "x86_64"}


def test_an_environment_from_a_directory_of_wheels(tmp_path: Path) -> None:
    wheels, module = Wheels(tmp_path), Module("avocado_environment", tmp_path / "cache")
    predicted = module(check=True, **wheels.options())
    assert (predicted["changed"], "archive" in predicted, module.packed()) == (True, False, [])
    made = module(**wheels.options())
    assert (made["changed"], made["version"], made["key"]) == (True, "113.0", predicted["key"])
    with tarfile.open(made["archive"]) as archive:
        names = archive.getnames()
        assert {"pyvenv.cfg", "bin/python3", "bin/avocado", "lib/python3.11/site-packages/avocado/__init__.py"} <= set(names)
        key = archive.extractfile("mayfly-key")
        assert key is not None
        assert key.read().decode().strip() == made["key"]
    assert not module(**wheels.options())["changed"]
    assert module(**{**wheels.options(), "python": "3.12"})["key"] != made["key"]


def test_a_wheel_that_was_changed_is_not_taken(tmp_path: Path) -> None:
    wheels, module = Wheels(tmp_path), Module("avocado_environment", tmp_path / "cache")
    with zipfile.ZipFile(wheels.wheel, "a") as archive:
        archive.writestr("avocado/more.py", "")
    result = module(**wheels.options())
    assert "of avocado_framework-113.0-py3-none-any.whl none has a checksum that is pinned" in result["msg"]
    assert module.packed() == []


def test_an_avocado_that_hides_failures_is_not_taken(tmp_path: Path) -> None:
    wheels, module = Wheels(tmp_path, "103.0"), Module("avocado_environment", tmp_path / "cache")
    assert module(**wheels.options())["msg"].startswith("Avocado '103.0' is refused: it is older than 108")
    assert not module.cache.exists()
