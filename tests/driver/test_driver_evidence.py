# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module domain_evidence on the test driver, which has neither logs nor memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from driver_kit import Host, Modules, domain

RUN = {"id": "r1", "deadline": 3600}


def test_what_there_is_of_a_running_and_of_a_missing_domain(run: Modules, host: Host) -> None:
    run("domain", run=RUN, domains=[domain("one-r1")])
    answer = run("domain_evidence", run="r1", domains=["one-r1", "gone-r1"])
    one, gone = answer["results"]
    assert answer["changed"] is True
    assert (one["name"], one["state"], one["dump"]) == ("one-r1", "running", "")
    assert "<name>one-r1</name>" in (Path(one["directory"]) / "domain.xml").read_text()
    assert json.loads((Path(one["directory"]) / "domain.json").read_text())["state"] == 1
    assert one["missing"] == {}
    assert (gone["state"], gone["missing"]) == ("gone", {})
    run("domain", run=RUN, state="absent", clean_run=True)
    assert not host.run_dir().exists()


def test_a_run_that_was_never_opened_has_nothing(run: Modules, host: Host) -> None:
    before = host.now()
    assert run("domain_evidence", run="r1", domains=["one-r1"]) | {"invocation": None} == {
        "changed": False,
        "results": [],
        "invocation": None,
    }
    assert host.now() == before


def test_check_mode_looks_at_nothing(run: Modules, host: Host) -> None:
    run("domain", run=RUN, domains=[domain("one-r1")])
    before = host.now(times=True)
    assert run("domain_evidence", check=True, run="r1", domains=["one-r1"])["changed"] is True
    assert host.now(times=True) == before


def test_a_domain_of_somebody_else_is_not_looked_at(run: Modules, host: Host) -> None:
    run("domain", run=RUN, domains=[domain("one-r1")])
    (result,) = run("domain_evidence", run="r1", domains=["test"])["results"]
    assert result["state"] == "gone"
    assert not (Path(result["directory"]) / "domain.xml").exists()


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"run": "../x", "domains": []}, "Run id '../x' is refused"),
        ({"run": "r1", "domains": ["../x"]}, "Domain name '../x' is refused"),
        ({"run": "r1", "domains": ["a", "a"]}, "given more than once"),
        ({"run": "r1", "domains": ["a"], "hung": ["b"]}, "Domain 'b' is refused: it is said to hang"),
        ({"run": "r1", "domains": [], "patience": 0}, "Option 'patience' is refused: it is 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(run: Modules, params: dict[str, Any], words: str) -> None:
    assert words in run.fail("domain_evidence", **params)["msg"]
