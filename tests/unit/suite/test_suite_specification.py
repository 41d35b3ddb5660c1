# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Suites of a job file, to what the runner reads; what it would refuse is refused before a guest is made."""

from __future__ import annotations

import json
from types import ModuleType
from typing import Any

import pytest

from ansible_collections.mayfly.virt.plugins.module_utils._errors import InvalidInput
from ansible_collections.mayfly.virt.plugins.plugin_utils import _job, _suites


def plan(*suites: dict[str, Any]) -> list[dict[str, Any]]:
    job = {"name": "demo", "guests": [{"name": "one", "image": "debian-12"}], "suites": list(suites)}
    planned: list[dict[str, Any]] = _job.plan(job, "r1", "2026-01-01T12:00:00+00:00", "/jobs")["suites"]
    return planned


def test_a_command() -> None:
    spec = _suites.specification({"name": "s", "command": "true", "deadline": 20, "environment": {"A": "b"}}, "/work", 1.5)
    assert spec == {"suite": "s", "command": "true", "parser": "tap", "deadline": 30, "environment": {"A": "b"}, "cwd": "/work"}
    assert _suites.specification({"name": "s", "argv": ["a", "b"], "parser": "junit", "report": "x.xml"}) == {
        "suite": "s",
        "command": ["a", "b"],
        "parser": "junit",
        "report": "x.xml",
        "deadline": 600,
    }


def test_tests_and_their_deadlines(runner: ModuleType) -> None:
    nothing = {"glob": None, "requires": {"kernel": None, "probes": None, "btf": True}}
    tests = [{"name": "a", "argv": ["x"], "command": None, "deadline": 3, **nothing}, {"command": "y", "argv": None}]
    spec = _suites.specification({"name": "s", "tests": tests, "retries": 2, "shard": None, "fail_fast": False}, None, 6)
    assert spec == {
        "suite": "s",
        "parser": "tests",
        "deadline": 3600,
        "retries": 2,
        "tests": [{"name": "a", "command": ["x"], "deadline": 18, "requires": {"btf": True}}, {"command": "y"}],
    }
    assert [entry.deadline for entry in runner.read_spec(json.dumps(spec)).tests] == [18, 3600]


def test_lists_and_harness(runner: ModuleType) -> None:
    suite = {"name": "s", "harness": "avocado", "tests": [{"list": "/etc/tests.json", "parser": "exit_code", "deadline": 10}]}
    spec = _suites.specification(suite, None, 6)
    assert (spec["harness"], spec["deadline_factor"], spec["tests"][0]["deadline"]) == ("avocado", 6, 60)
    read = runner.read_spec(json.dumps(spec))
    assert (read.harness, read.deadline_factor, read.tests[0].list_file) == ("avocado", 6.0, "/etc/tests.json")
    assert "deadline_factor" in _suites.specification({"name": "s", "tests": [{"list": "/etc/tests.json"}]})
    # Only what a file in the guest lists, and the harness, are multiplied there; and what everybody has is not said.
    plain = _suites.specification({"name": "s", "harness": "builtin", "tests": [{"command": "x"}]}, None, 6)
    assert set(plain) == {"suite", "parser", "deadline", "tests"}
    _suites.check({"name": "s", "harness": "builtin", "command": "x"})


def test_the_plan_of_a_job_names_the_parser() -> None:
    a, b, c = plan(
        {"name": "a", "command": "x"}, {"name": "b", "tests": [{"command": "x"}]}, {"name": "c", "argv": ["x"], "parser": "gtest"}
    )
    assert (a["parser"], b["parser"], c["parser"]) == ("tap", "tests", "gtest")


@pytest.mark.parametrize(
    ("suite", "words"),
    [
        ({}, "nothing to run"),
        ({"command": "x", "argv": ["x"]}, "it has command and argv"),
        ({"command": "x", "tests": [{"command": "x"}]}, "it has command and tests"),
        ({"command": "x", "retries": 1}, "unknown key 'retries'. Only a suite with tests"),
        ({"command": "x", "shard": "1/2"}, "Only a suite with tests knows"),
        ({"command": "x", "harness": "avocado"}, "unknown key 'harness'. Only a suite with tests"),
        ({"tests": [{"command": "x"}], "harness": "prove"}, "'harness' as one of builtin, avocado"),
        ({"tests": [{"list": "a.json"}]}, "absolute path of a file in the guest"),
        ({"command": "x", "parser": "tests"}, "unknown key 'command'"),
        ({"command": "x", "parser": "junit"}, "needs 'report'"),
        ({"command": "x", "report": "y"}, "needs 'report'"),
        ({"command": "x", "deadline": 0}, "'deadline' as a positive number"),
        ({"command": "x", "requires": {"kernel": "6"}}, "'kernel' as comparisons"),
        ({"tests": [{"command": "x"}], "parser": "tap"}, "unknown key 'tests'"),
        ({"tests": [{"command": "x", "argv": ["x"]}]}, "has command and argv"),
        ({"tests": [{"command": "x", "deadline": 0}]}, "'deadline'"),
        ({"tests": [{"name": "a"}]}, "tests[0] needs 'command'"),
        ({"tests": [{"name": "a", "command": "x"}, {"name": "a", "command": "y"}]}, "tests of the same name: a"),
        ({"tests": [{"command": "x"}], "shard": "4/3"}, "'shard'"),
        ({"tests": [{"command": "x"}], "retries": 1, "fail_fast": True}, "both 'retries' and 'fail_fast'"),
        ({"tests": [{"command": "x", "requires": {"gpu": True}}]}, "unknown key 'gpu'"),
    ],
)
def test_what_the_runner_would_refuse_is_refused_at_once(suite: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        plan({"name": "smoke", **suite})
    assert str(refused.value).startswith("Suite 'smoke' is refused: ")
    assert words in str(refused.value)


def test_a_factor_must_be_positive() -> None:
    with pytest.raises(InvalidInput, match="multiplied by 0"):
        _suites.specification({"name": "s", "command": "x"}, None, 0)
