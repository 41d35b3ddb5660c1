# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The action evidence under Ansible itself, over ssh and over the connection local; the guest is this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


def task(site: Any, **options: Any) -> dict[str, Any]:
    return {"mayfly.virt.evidence": {"dest": str(site.results / "guests" / "bookworm"), **options}, "register": "outcome"}


@pytest.fixture
def project(place: Path) -> Path:
    directory = place / "project"
    directory.mkdir()
    (directory / "a.log").write_bytes(b"caf\xe9 correct-horse\n")
    (directory / "link").symlink_to("/etc/passwd")
    return directory


@pytest.mark.parametrize("kind", ["local_site", "ssh_site"])
def test_evidence_is_kept(kind: str, request: pytest.FixtureRequest, project: Path) -> None:
    site: Any = request.getfixturevalue(kind)
    commands = [{"name": "a.txt", "command": "echo correct-horse; printf '\\000\\377\\r\\n'"}]
    wanted = task(site, commands=commands, paths=[str(project)], secrets=["correct-horse"])
    status, said = site.run(wanted, arguments=("-v",))
    assert status == 0, said
    assert "correct-horse" not in said.replace("echo correct-horse", ""), "a secret is shown"
    kept = site.results / "guests" / "bookworm"
    assert (kept / "a.txt").read_bytes() == b"[scrubbed: job secret]\n\0\xff\r\n"
    assert (kept / "paths" / str(project)[1:] / "a.log").read_bytes() == b"caf\xe9 [scrubbed: job secret]\n"
    assert not list(kept.rglob("link"))
    record = json.loads((kept / "evidence.json").read_text())
    assert [entry["name"] for entry in record["files"]] == ["a.txt", f"paths{project}/a.log"]
    assert (record["scrubbed"], record["missing"]) == (2, {})
    assert site.outcome["answered"] is True


def test_what_is_missing_fails_the_task_after_the_rest_was_kept(local_site: Any) -> None:
    commands = [{"name": "bad.txt", "command": "exit 3"}, {"name": "good.txt", "command": "echo fine"}]
    status, said = local_site.run(task(local_site, commands=commands, paths=["/nonexistent/a"]))
    assert status == 2
    assert "bad.txt: the command ended with status 3; /nonexistent/a: there is no such file or directory" in said
    kept = local_site.results / "guests" / "bookworm"
    assert (kept / "good.txt").read_text() == "fine\n"
    assert set(json.loads((kept / "evidence.json").read_text())["missing"]) == {"bad.txt", "/nonexistent/a"}


def test_check_mode_asks_and_writes_nothing(local_site: Any) -> None:
    status, said = local_site.run(task(local_site, commands=[{"name": "a.txt", "command": "true"}]), arguments=("--check",))
    assert status == 0, said
    assert not local_site.results.exists()


def test_bad_input_is_refused_before_anything_is_made(local_site: Any) -> None:
    status, said = local_site.run(task(local_site, secrets=["abc"]))
    assert status == 2
    assert "Secret 'number 1' is refused: it has a line with fewer than 4 characters" in said
    assert not local_site.results.exists()
