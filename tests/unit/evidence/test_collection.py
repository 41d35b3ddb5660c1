# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked of a guest and what becomes of its answer. The guest is this machine's shell, or a double that lies."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from hostile_archives import GOOD, file, link, tar

from ansible_collections.mayfly.virt.plugins.action import evidence
from ansible_collections.mayfly.virt.plugins.module_utils._errors import InvalidInput
from ansible_collections.mayfly.virt.plugins.module_utils._evidence import Finding, Keeper
from ansible_collections.mayfly.virt.plugins.module_utils._scrub import job_patterns
from ansible_collections.mayfly.virt.plugins.module_utils._tree import Tree
from ansible_collections.mayfly.virt.plugins.modules import evidence as documented
from ansible_collections.mayfly.virt.plugins.plugin_utils import _artifacts
from ansible_collections.mayfly.virt.plugins.plugin_utils._contact import MARK

Execute = Callable[[str, bytes], dict[str, Any]]


def shell(command: str, data: bytes) -> dict[str, Any]:
    """Run a command as the connection would, behind a login shell that is chatty."""
    done = subprocess.run(["/bin/sh", "-c", f"echo welcome; {command}"], input=data, capture_output=True, timeout=30, check=False)
    out, err = done.stdout.decode("utf-8", "surrogateescape"), done.stderr.decode("utf-8", "replace")
    return {"rc": done.returncode, "stdout": out, "stderr": err}


def answering(archive: bytes, *, errors: str = "mayfly-status 0\n", rc: int = 0) -> Execute:
    stdout = (MARK.encode() + archive).decode("utf-8", "surrogateescape")
    return lambda _command, _data: {"rc": rc, "stdout": stdout, "stderr": errors}


def options(**given: Any) -> dict[str, Any]:
    defaults = {name: spec.get("default") for name, spec in evidence._ARGUMENTS.items()}
    return {**defaults, **given}


def collect(dest: Path, execute: Execute, **given: Any) -> tuple[Finding, dict[str, dict[str, Any]], bool]:
    dest.mkdir(exist_ok=True)
    wanted = options(**given)
    evidence._check(wanted)
    with Tree(dest) as tree:
        keeper = Keeper(tree, job_patterns(wanted["secrets"]), wanted["compress_over"])
        answered = evidence.Collection(execute, tree, keeper, wanted).run()
    return keeper.found, keeper.files, answered


def contents(dest: Path) -> dict[str, bytes]:
    return {str(path.relative_to(dest)): path.read_bytes() for path in dest.rglob("*") if path.is_file() and not path.is_symlink()}


# --- commands ---------------------------------------------------------------------------------------------------


def test_what_commands_print_is_kept(tmp_path: Path) -> None:
    commands = [
        {"name": "a.log", "command": "echo one; echo two >&2"},
        {"name": "b.log", "command": "printf 'caf\\351 \\0 tok-secret'"},
        {"name": "none.txt", "command": "true"},
        {"name": "bad.txt", "command": "echo so far; exit 3"},
        {"name": "late.txt", "command": "echo begun; sleep 20"},
        {"name": "long.log", "command": "seq 1 100000"},
    ]
    found, files, answered = collect(tmp_path / "d", shell, commands=commands, secrets=["tok-secret"], timeout=1, max_bytes=1000)
    assert contents(tmp_path / "d") == {
        "a.log": b"one\ntwo\n",
        "b.log": b"caf\xe9 \0 [scrubbed: job secret]",
        "bad.txt": b"so far\n",
        "late.txt": b"begun\n",
        "long.log": b"".join(b"%d\n" % number for number in range(1, 100001))[-1000:],
    }
    assert found.missing == {"bad.txt": "the command ended with status 3", "late.txt": "the command ended with status 124"}
    assert [name for name, facts in files.items() if facts["cut"]] == ["long.log"]
    assert answered


def test_a_guest_that_does_not_answer_is_asked_once(tmp_path: Path) -> None:
    asked = []

    def silent(command: str, _data: bytes) -> dict[str, Any]:
        asked.append(command)
        raise AnsibleConnectionFailure("timed\r\nout\x1b[2J")

    commands = [{"name": "a.log", "command": "true"}, {"name": "b.log", "command": "true"}]
    found, _files, answered = collect(tmp_path / "d", silent, commands=commands, paths=["/x"], coredumps=True)
    assert len(asked) == 1
    assert not answered
    assert set(found.missing) == {"a.log", "b.log", "paths", "coredumps"}
    assert set(found.missing.values()) == {"the guest does not answer: timed out\ufffd[2J"}


def test_each_reason_is_said_once() -> None:
    assert evidence._in_words({"a": "gone", "b": "cut", "c": "gone"}) == "a, c: gone; b: cut"


# --- files ------------------------------------------------------------------------------------------------------


@pytest.fixture
def guest(tmp_path: Path) -> Path:
    """A directory of the 'guest' with what a project leaves."""
    directory = tmp_path / "guest root"
    (directory / "log" / "sub").mkdir(parents=True)
    (directory / "log" / "sub" / "a.log").write_text("password=hunter2\n")
    (directory / "log" / "-rf").write_text("x")
    (directory / "log" / "shadow").symlink_to("/etc/shadow")
    os.mkfifo(directory / "log" / "pipe")
    (directory / "one.txt").write_text("1")
    (directory / "two [2].txt").write_text("2")
    (directory / "key").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\n-----END OPENSSH PRIVATE KEY-----\n")
    return directory


def test_listed_paths_and_globs_are_kept(guest: Path, tmp_path: Path) -> None:
    paths = [f"{guest}/log", f"{guest}/*.txt", f"{guest}/none*", f"{guest}/absent", f"{guest}/key"]
    found, _files, answered = collect(tmp_path / "d", shell, paths=paths)
    below = f"paths{guest}/"
    assert contents(tmp_path / "d") == {
        f"{below}log/sub/a.log": b"password=[scrubbed: password]\n",
        f"{below}log/-rf".replace("/-rf", "/%2Drf"): b"x",
        f"{below}one.txt": b"1",
        f"{below}two [2].txt": b"2",
        f"{below}key": b"-----BEGIN OPENSSH PRIVATE KEY-----\n[scrubbed: private key]\n-----END OPENSSH PRIVATE KEY-----\n",
    }
    assert found.missing == {f"{guest}/absent": "there is no such file or directory"}
    assert f"{guest}/none*: nothing there matches" in found.left_out
    assert sorted(note.rpartition(": ")[2] for note in found.left_out if "log/" in note) == ["it is a named pipe", "it is a symbolic link"]
    assert answered


def test_what_does_not_fit_is_missing_and_what_fits_is_kept(guest: Path, tmp_path: Path) -> None:
    (guest / "log" / "big").write_bytes(os.urandom(200_000))
    found, _files, _answered = collect(tmp_path / "d", shell, paths=[f"{guest}/log"], file_limit=10_000, total_limit=100_000)
    assert "there is more than 100000 bytes of it, packed" in found.missing["paths"]
    found, files, _answered = collect(tmp_path / "d", shell, paths=[f"{guest}/log"], file_limit=10_000, total_limit=300_000)
    assert found.missing == {}
    assert files[f"paths{guest}/log/big"]["cut"] is True
    assert contents(tmp_path / "d")[f"paths{guest}/log/big"] == (guest / "log" / "big").read_bytes()[-10_000:]


def test_files_of_an_earlier_attempt_do_not_stay(guest: Path, tmp_path: Path) -> None:
    collect(tmp_path / "d", shell, paths=[f"{guest}/one.txt"])
    collect(tmp_path / "d", shell, paths=[f"{guest}/two*"])
    assert list(contents(tmp_path / "d")) == [f"paths{guest}/two [2].txt"]


def test_a_directory_is_brought_as_it_is(guest: Path, tmp_path: Path) -> None:
    found, _files, _answered = collect(tmp_path / "d", shell, directory=str(guest / "log" / "sub"), missing={"memory.vmcore": "no space"})
    assert contents(tmp_path / "d") == {"a.log": b"password=[scrubbed: password]\n"}
    assert found.missing == {"memory.vmcore": "no space"}
    found, _files, _answered = collect(tmp_path / "d", shell, directory=str(tmp_path / "none"))
    assert "tar ended with status 2: " in found.missing["files"]
    assert f"{tmp_path}/none" in found.missing["files"]


def test_a_console_that_was_cut_is_an_error(tmp_path: Path) -> None:
    """Its beginning may have had the complaint that matters."""
    archive = tar(file(b"console.log", b"line\n" * 100), file(b"qemu.log", b"line\n" * 100))
    found, _files, _answered = collect(tmp_path / "d", answering(archive), directory="/x", file_limit=200)
    assert found.missing == {"files": "console.log was cut, and with it what the kernel may have complained of"}
    assert len(contents(tmp_path / "d")["console.log"]) == 200


@pytest.mark.parametrize(
    ("execute", "word"),
    [
        (answering(b"", errors="", rc=127), "not finished"),
        (answering(tar(GOOD)[:700]), "cut short"),
        (answering(tar(GOOD), errors="tar: disk on fire\nmayfly-status 2\n"), "tar ended with status 2: tar: disk on fire"),
        (answering(tar(GOOD), errors="Killed\n"), "not finished: Killed"),
        (lambda _command, _data: {"rc": 0, "stdout": "hello", "stderr": ""}, "not ours"),
    ],
)
def test_an_answer_that_is_not_whole_is_an_error(tmp_path: Path, execute: Execute, word: str) -> None:
    found, _files, _answered = collect(tmp_path / "d", execute, paths=["/x"])
    assert word in found.missing["paths"]


def test_a_hostile_guest_writes_below_its_paths_alone(tmp_path: Path) -> None:
    archive = tar(link(b"2", b"l", b".."), file(b"l/../../console.log"), file(b"../verdict.json"), file(b"evidence.json"), GOOD)
    found, _files, _answered = collect(tmp_path / "d", answering(archive), paths=["/x"], coredumps=True)
    assert contents(tmp_path / "d") == {
        f"{below}/{name}": content
        for below in ("paths", "coredumps")
        for name, content in (("evidence.json", b"text"), ("good.log", b"good\n"))
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d"]
    assert len(found.left_out) == 6


def test_core_dumps_lie_where_the_kernel_puts_them(tmp_path: Path) -> None:
    """The script with a core_pattern of our own; nothing else of it is changed."""
    cores = tmp_path / "cores"
    cores.mkdir()
    (cores / "core.1").write_bytes(b"\x7fELF password=hunter2")
    (cores / "other").write_bytes(b"x")

    def with_pattern(pattern: str) -> Execute:
        (tmp_path / "core_pattern").write_text(pattern + "\n")
        return lambda command, data: shell(
            command.replace("/proc/sys/kernel/core_pattern", shlex.quote(str(tmp_path / "core_pattern"))), data
        )

    found, _files, _answered = collect(tmp_path / "d", with_pattern(f"{cores}/core.%p"), coredumps=True)
    assert contents(tmp_path / "d") == {"coredumps/core.1": b"\x7fELF password=hunter2"}
    assert (found.missing, found.left_out) == ({}, [])
    found, _files, _answered = collect(tmp_path / "d", with_pattern("core"), coredumps=True)
    assert contents(tmp_path / "d") == {}
    assert "names no directory" in found.left_out[0]


# --- what is asked ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["relative", "", "/a/../b", "/a\n/b"])
def test_paths_that_cannot_be_meant_are_refused(pattern: str) -> None:
    with pytest.raises(InvalidInput, match="is refused"):
        evidence._check(options(paths=[pattern]))


@pytest.mark.parametrize(
    "given",
    [
        {"commands": [{"name": "../x.log", "command": "true"}]},
        {"commands": [{"name": "console.log", "command": "true"}]},
        {"timeout": 0},
        {"file_count": -1},
        {"directory": "/a", "paths": ["/b"]},
    ],
)
def test_options_that_cannot_be_meant_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(AnsibleActionFail, match="refused"):
        evidence._check(options(**given))


def test_names_of_the_job_are_quoted() -> None:
    text = _artifacts.paths_text(["/a b; touch /tmp/pwned", "/x'y"], 1000, 5)
    assert subprocess.run(["/bin/sh", "-n", "-c", text], capture_output=True, check=False).returncode == 0
    done = shell(text, b"")
    assert "mayfly-none 1\nmayfly-none 2\n" in done["stderr"]
    assert not Path("/tmp/pwned").exists()


def test_the_documentation_has_the_arguments_there_are() -> None:
    described = yaml.safe_load(documented.DOCUMENTATION)["options"]
    assert set(described) == set(evidence._ARGUMENTS)
    for name, spec in evidence._ARGUMENTS.items():
        assert described[name]["type"] == spec["type"]
        assert described[name].get("default") == spec.get("default")
        assert described[name].get("choices") == spec.get("choices")


def test_the_record_is_json(tmp_path: Path) -> None:
    evidence._replace(tmp_path / "evidence.json", json.dumps({"files": []}))
    assert json.loads((tmp_path / "evidence.json").read_text()) == {"files": []}
    assert [path.name for path in tmp_path.iterdir()] == ["evidence.json"]
