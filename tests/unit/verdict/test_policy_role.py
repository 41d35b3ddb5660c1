# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role job as Ansible runs it: a policy that is wrong ends the play before anything is made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TREE = Path(__file__).resolve().parents[3] / "build" / "tree"
PLAY = """
- hosts: localhost
  gather_facts: false
  tasks:
    - ansible.builtin.include_role: {name: mayfly.virt.job, public: true}
    - ansible.builtin.debug: {msg: "policy={{ job_plan.policy | to_json }}=policy"}
"""
KNOWN = "[{id: bpf-12, issue: 'https://example.org/12', owner: net, review_by: 2026-12-31, signature: '%s'}]"


def play(directory: Path, **job: Any) -> subprocess.CompletedProcess[str]:
    """Run the role with a job of one guest, from the directory of the job."""
    (directory / "play.yml").write_text(PLAY)
    variables = {"mayfly_guests": [{"name": "one", "image": "debian-12"}], "mayfly_suites": [{"name": "s", "command": "true"}], **job}
    environment = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(TREE),
        "ANSIBLE_LOCALHOST_WARNING": "false",
        "ANSIBLE_HOME": str(directory / "home"),
        "ANSIBLE_NOCOLOR": "1",
    }
    program = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "localhost,", "-c", "local", "play.yml"]
    program += ["-e", json.dumps(variables)]
    return subprocess.run(program, capture_output=True, text=True, check=False, cwd=directory, env=environment, timeout=120)


def test_a_policy_is_part_of_the_plan(tmp_path: Path) -> None:
    (tmp_path / "known.yml").write_text(KNOWN % "got: 3")
    done = play(tmp_path, mayfly_known_issues="known.yml", mayfly_fail_on=["lost"])
    assert done.returncode == 0, done.stdout + done.stderr
    policy = json.loads(json.loads('"' + done.stdout.partition("policy=")[2].partition("=policy")[0] + '"'))
    assert (policy["fail_on"], policy["baseline"], policy["known_issues"][0]["signature"]) == (["lost"], None, ["got: 3"])


def test_several_files_of_known_issues_and_one_that_the_collection_brings(tmp_path: Path) -> None:
    (tmp_path / "known.yml").write_text(KNOWN % "got: 3")
    done = play(tmp_path, mayfly_known_issues=["known.yml", "mayfly.virt:libvirt-tck.yml"])
    assert done.returncode == 0, done.stdout + done.stderr
    policy = json.loads(json.loads('"' + done.stdout.partition("policy=")[2].partition("=policy")[0] + '"'))
    ids = [entry["id"] for entry in policy["known_issues"]]
    assert ids[0] == "bpf-12"
    assert "tck-cd-tray" in ids


@pytest.mark.parametrize(
    ("job", "words"),
    [
        (
            {"mayfly_known_issues": ["mayfly.virt:libvirt.yml"]},
            "the collection brings no such file. It brings mayfly.virt:libvirt-tck.yml.",
        ),
        ({"mayfly_known_issues": "known.yml"}, "Known issue 'known.yml, entry 1 (bpf-12)' is refused: its signature '.*' cannot be used"),
        ({"mayfly_known_issues": "missing.yml"}, "Could not read the known issues 'missing.yml': No such file or directory."),
    ],
)
def test_a_wrong_policy_is_one_clear_error(tmp_path: Path, job: dict[str, Any], words: str) -> None:
    (tmp_path / "known.yml").write_text(KNOWN % ".*")
    done = play(tmp_path, **job)
    assert done.returncode == 2
    said = [line for line in (done.stderr + done.stdout).splitlines() if line.startswith("[ERROR]")]
    assert [line.count(words) for line in said] == [1], done.stderr + done.stdout
    assert not (tmp_path / "results").exists()
