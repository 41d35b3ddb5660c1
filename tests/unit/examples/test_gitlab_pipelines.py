# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The example for GitLab: GitLab's own schema takes it, also when it is resolved, and what its scripts call is there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gitlab_resolve
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "examples" / "gitlab"
PARENT, CHILD = "libvirt-integration.yml", "libvirt-functional.yml"
FUNCTIONAL = ("centos-stream-9", "debian-12", "fedora-42")


def read(name: str) -> dict[str, Any]:
    return dict(gitlab_resolve.read(EXAMPLE / name))


def jobs_of(pipeline: dict[str, Any]) -> dict[str, Any]:
    return {name: job for name, job in gitlab_resolve.resolve(pipeline).items() if name not in gitlab_resolve.GLOBAL}


def check(directory: Path, path: Path) -> subprocess.CompletedProcess[str]:
    """Do as scripts/lint does."""
    argv = [sys.executable, str(ROOT / "scripts" / "gitlab_resolve.py"), str(directory / "resolved"), str(path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        return done
    argv = ["check-jsonschema", "--builtin-schema", "vendor.gitlab-ci", "--data-transform", "gitlab-ci"]
    return subprocess.run(
        [*argv, str(path), str(directory / "resolved" / path.name)], capture_output=True, text=True, timeout=60, check=False
    )


def script(job: dict[str, Any]) -> str:
    """All that a job runs, in its order."""
    return "\n".join(["#!/bin/bash", *job.get("before_script", []), *job["script"], *job.get("after_script", [])]) + "\n"


@pytest.mark.parametrize("name", [PARENT, CHILD])
def test_gitlab_takes_it_as_it_is_and_resolved(tmp_path: Path, name: str) -> None:
    done = check(tmp_path, EXAMPLE / name)
    assert done.returncode == 0, done.stdout + done.stderr


def test_gitlabs_own_references_are_resolved(tmp_path: Path) -> None:
    path = tmp_path / CHILD
    text = (EXAMPLE / CHILD).read_text()
    assert text.count("- *run-job") == 2
    path.write_text(text.replace("- *run-job", "- !reference [.mayfly, run-job]"))
    assert check(tmp_path, path).returncode == 0
    assert gitlab_resolve.resolve(gitlab_resolve.read(path)) == gitlab_resolve.resolve(read(CHILD))


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        (CHILD, "when: on_failure", "when: sometimes"),
        (CHILD, "exit_codes: [2]", "exit_codes: two"),
        (CHILD, "junit: results", "junti: results"),
        (CHILD, "tags: [$MAYFLY_RUNNER_TAG]", "tags: {runner: hypervisor}"),
        (CHILD, "      artifacts: true\n", "      artefacts: true\n"),
        (CHILD, "- *clean", "- *tidy"),
        (CHILD, "- *clean", "- !reference []"),
        (CHILD, "- *clean", "- !reference [.mayfly, tidy]"),
        # A hidden job may have any keys; whoever extends it may not.
        (CHILD, "extends: .functional\n", "extends: .mayfly\n"),
        (CHILD, "extends: .functional\n", "extends: .fuctional\n"),
        (PARENT, "strategy: depend", "strategy: hope"),
        (PARENT, "stages: [builds, bindings, functional]", "stages: builds"),
        (PARENT, "expire_in: 1 day", "expires_in: 1 day"),
        (PARENT, "  artifacts:", " artifacts:"),
    ],
)
def test_what_is_broken_is_refused(tmp_path: Path, name: str, old: str, new: str) -> None:
    text = (EXAMPLE / name).read_text()
    assert old in text
    broken = tmp_path / name
    broken.write_text(text.replace(old, new))
    done = check(tmp_path, broken)
    assert done.returncode == 1, done.stdout
    assert broken.name in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_stages_and_needs_are_there() -> None:
    parent, child = read(PARENT), read(CHILD)
    for pipeline in (parent, child):
        assert all(job["stage"] in pipeline["stages"] for job in jobs_of(pipeline).values())
    assert set(jobs_of(parent)["functional"]["needs"]) == set(jobs_of(parent)) - {"functional"}
    assert jobs_of(parent)["functional"]["trigger"]["include"] == [{"local": f"ci/{CHILD}"}]
    assert tuple(sorted(jobs_of(child))) == FUNCTIONAL
    for name, job in jobs_of(child).items():
        needs = {need.get("pipeline") or need.get("project"): need for need in job["needs"]}
        if name == "debian-12":
            assert needs == {}
            continue
        built = needs["$PARENT_PIPELINE_ID"]
        assert built["job"] in jobs_of(parent)
        assert jobs_of(parent)[built["job"]]["variables"]["DISTRIBUTION"] == name
        assert all(need["artifacts"] is True for need in needs.values())
        assert set(needs) == {"$PARENT_PIPELINE_ID", "$BINDINGS_PROJECT"}
    # The child gets by variables what it does not define.
    assert "PARENT_PIPELINE_ID" in jobs_of(parent)["functional"]["variables"]
    assert {"BINDINGS_PROJECT", "BINDINGS_REF"} <= set(parent["variables"])


def test_packages_are_looked_for_where_they_are_left() -> None:
    left = {path for job in jobs_of(read(PARENT)).values() for path in job.get("artifacts", {}).get("paths", [])}
    assert left == {"libvirt-rpms/"}
    for name in ("fedora-42", "centos-stream-9"):
        assert "mv -t packages libvirt-rpms/*.rpm libvirt-perl-rpms/*.rpm" in jobs_of(read(CHILD))[name]["script"]


@pytest.mark.parametrize("name", [PARENT, CHILD])
def test_scripts_are_shell(name: str) -> None:
    for job in jobs_of(read(name)).values():
        if "trigger" in job:
            continue
        # SC1091: what it sources is only there when it runs.
        done = subprocess.run(
            ["shellcheck", "-s", "bash", "-e", "SC1091", "-"], input=script(job), capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", FUNCTIONAL)
def test_a_job_calls_what_there_is(tmp_path: Path, name: str) -> None:
    """The script runs, with doubles for what it calls, which write down their arguments."""
    job = jobs_of(read(CHILD))[name]
    for program in ("python3", "pip", "ansible-galaxy", "ansible-playbook"):
        (tmp_path / program).write_text('#!/bin/sh\nprintf "%s\\n" "${0##*/}" "$@" "" >>"$SAID"\n')
        (tmp_path / program).chmod(0o755)
    work = tmp_path / "work"
    for directory in (".mayfly/venv/bin", "libvirt-rpms", "libvirt-perl-rpms"):
        (work / directory).mkdir(parents=True)
    (work / ".mayfly/venv/bin/activate").write_text("")
    for package in ("libvirt-rpms/libvirt.rpm", "libvirt-perl-rpms/perl-Sys-Virt.rpm"):
        (work / package).write_text("")
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SAID": str(tmp_path / "said"),
        "CI_PROJECT_DIR": str(work),
        "CI_JOB_ID": "4711",
        "CI_JOB_URL": "https://gitlab.example.org/-/jobs/4711",
    }
    for variable, value in {**read(CHILD)["variables"], **job["variables"]}.items():
        environment[variable] = _expanded(value, environment)
    subprocess.run(["bash", "-eu"], input=script(job), env=environment, cwd=work, text=True, timeout=60, check=True)
    calls = [call.splitlines() for call in (tmp_path / "said").read_text().split("\n\n") if call]
    assert [call[0] for call in calls] == ["python3", "pip", "ansible-galaxy", "python3", "ansible-playbook"]
    program = calls[3][1]
    below = program.partition("/ansible_collections/mayfly/virt/")[2]
    assert (ROOT / below).is_file(), program
    given = [calls[3][number + 1] for number, word in enumerate(calls[3]) if word == "-e"]
    variables: dict[str, Any] = {}
    for words in given:
        key, _sign, value = words.partition("=")
        variables.update(json.loads(words) if words.startswith("{") else {key: value})
    guests = variables["mayfly_guests"]
    assert [(guest["name"], guest["image"]) for guest in guests] == [(name, name)]
    specs = yaml.safe_load((ROOT / "roles" / "job" / "meta" / "argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
    assert set(guests[0]) <= set(specs["mayfly_guests"]["options"])
    assert {variable for variable in variables if variable.startswith("mayfly_")} <= set(specs)
    assert variables["libvirt_under_test_source"] == ("distribution" if name == "debian-12" else "artifacts")
    if name != "debian-12":
        packages = [package.name for path in variables["libvirt_under_test_artifacts"] for package in Path(path).iterdir()]
        assert sorted(packages) == ["libvirt.rpm", "perl-Sys-Virt.rpm"]
    run_id = calls[3][calls[3].index("--run-id") + 1]
    assert run_id == "ci-4711"
    assert calls[4][1:] == ["mayfly.virt.cleanup", "-e", f"mayfly_run_id={run_id}"]
    assert (ROOT / "playbooks" / "cleanup.yml").is_file()
    assert _expanded(job["artifacts"]["reports"]["junit"], environment) == f"results/{run_id}/junit.xml"


def _expanded(text: str, variables: dict[str, str]) -> str:
    """Fill in variables, as GitLab does."""
    for name in sorted(variables, key=len, reverse=True):
        text = text.replace(f"${name}", variables[name])
    return text
