# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Evidence of a run, built in memory: good by default, spoiled by each test in its own way."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from ansible_collections.mayfly.virt.plugins.module_utils import _junit, _report, _summary, _verdict

SCHEMA = Path(__file__).resolve().parents[3] / "extensions" / "schemas" / "verdict.schema.json"
START = 1795230000.0


class Story:
    """A run of one suite, 'smoke', on one guest, 'bookworm': three tests, all passed."""

    def __init__(self) -> None:
        self.job: dict[str, Any] = {
            "run_id": "20261121-024300-1f2e",
            "job": "smoke",
            "created": "2026-11-21T02:43:00Z",
            "guests": [{"name": "bookworm", "image": "debian-12", "kernel": "6.1.0-32", "accel": "kvm"}],
            "suites": [{"name": "smoke", "parser": "tap", "deadline": 60}],
            "accel": "kvm",
        }
        self.phases = [
            {"phase": phase, "event": event, "time": START + 10 * index + (9 if event == "end" else 0), "status": "ok"}
            for index, phase in enumerate(("prepare", "run", "collect"))
            for event in ("start", "end")
        ]
        self.events: dict[tuple[str, str], list[Any]] = {("smoke", "bookworm"): self.good_events("smoke")}
        self.consoles = {"bookworm": "[    0.000000] Linux version 6.1.0-32\nbookworm login: \n"}
        self.facts: dict[str, str] = {}
        self.watch: str | None = None
        self.collected: dict[str, str] = {}

    @staticmethod
    def good_events(suite: str) -> list[Any]:
        start = {"event": "suite_start", "suite": suite, "parser": "tap", "command": ["true"], "deadline": 60, "runner": "1"}
        tests = [
            {"event": "test", "number": n, "name": f"test {n}", "status": "pass", "duration": 0.1, "directive": None, "message": ""}
            for n in (1, 2, 3)
        ]
        end = {"event": "suite_end", "exit_status": 0, "signal": None, "timed_out": False, "duration": 0.3}
        end.update(planned=3, seen=3, error=None, leftovers=[], tail=[])
        events = [start, {"event": "plan", "count": 3, "reason": None}, *tests, end]
        return [{**event, "time": START + number} for number, event in enumerate(events)]

    @property
    def smoke(self) -> list[Any]:
        """The events of the suite, to be spoiled."""
        return self.events["smoke", "bookworm"]

    @property
    def end(self) -> dict[str, Any]:
        return self.smoke[-1]

    def fail(self, number: int, message: str = "got 3") -> None:
        self.smoke[number + 1].update(status="fail", message=message)
        self.end["exit_status"] = 1

    def evidence(self) -> _verdict.Evidence:
        return _verdict.Evidence(
            run_id="20261121-024300-1f2e",
            job=json.dumps(self.job),
            phases="".join(json.dumps(line) + "\n" for line in self.phases),
            events={key: as_lines(events) for key, events in self.events.items()},
            consoles=self.consoles,
            facts=self.facts,
            watch=self.watch,
            collected=self.collected,
        )

    def verdict(self) -> dict[str, Any]:
        return _verdict.judge(self.evidence())


def as_lines(events: list[Any]) -> str:
    """A string stands for itself, so that a test can put in what is no JSON."""
    return "".join((event if isinstance(event, str) else json.dumps(event)) + "\n" for event in events)


@pytest.fixture
def story() -> Story:
    return Story()


@pytest.fixture(scope="session")
def new_story() -> type[Story]:
    """For tests that hypothesis calls many times with one story fixture."""
    return Story


@pytest.fixture(scope="session")
def sound() -> Callable[[dict[str, Any]], None]:
    """Check what holds for every verdict: its schema, a JUnit document as red as it is, a short summary, a report
    with its numbers."""
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
    validator.check_schema(validator.schema)

    def check(verdict: dict[str, Any]) -> None:
        validator.validate(json.loads(json.dumps(verdict)))
        root = ElementTree.fromstring(_junit.to_junit(verdict))
        red = len(root.findall(".//failure")) + len(root.findall(".//error"))
        assert (red == 0) == (verdict["verdict"] == "passed")
        assert int(root.get("failures", "")) + int(root.get("errors", "")) == red
        names = [(case.get("classname"), case.get("name")) for case in root.iter("testcase")]
        assert len(names) == int(root.get("tests", ""))
        summary = _summary.to_summary(verdict)
        lines = summary.split("\n")
        assert lines[-1] == ""
        assert len(lines) <= 41
        assert lines[0].startswith(f"{verdict['verdict'].upper()}  run ")
        assert lines[-2].startswith("Evidence")
        assert all(line.isprintable() for line in lines)
        summary.encode("utf-8")
        report = _report.to_report(verdict, _report.Logs())
        report.encode("utf-8")
        assert f'<header class="{verdict["verdict"]}">' in report
        data = json.loads(report.partition('id="data">')[2].partition("</script>")[0])
        seen = Counter(data["statuses"][row[3]][0] for row in data["rows"])
        more = re.search(r"<p>(\d+) more tests are counted", report)
        # Those not listed are tests of a plan that promised too many.
        assert Counter(verdict["totals"]["tests"]) - seen == Counter(not_run=int(more[1]) if more else 0) + Counter()
        assert not seen - Counter(verdict["totals"]["tests"])

    return check
