# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Parser and verdict together, without a process: what a recorded output comes to."""

from __future__ import annotations

import json
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from ansible_collections.mayfly.virt.plugins.module_utils import _events


@dataclass
class Outcome:
    """What a parser made of a text."""

    parser: str
    events: list[dict[str, Any]]
    planned: int | None
    seen: int
    errors: list[str]

    @property
    def tests(self) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == "test"]


def parse(runner: ModuleType, name: str, text: str, exit_status: int | None = None, *, timed_out: bool = False) -> Outcome:
    """Feed lines one second apart."""
    parser = runner.PARSERS[name]("smoke", 0.0)
    events = parser.begin()
    for second, line in enumerate(text.split("\n"), start=1):
        events += parser.feed(line, float(second))
    events += parser.finish(runner.End(exit_status=exit_status, timed_out=timed_out))
    return Outcome(name, events, parser.planned, parser.seen, parser.errors)


def results(outcome: Outcome) -> list[tuple[str, str]]:
    return [(event["name"], event["status"]) for event in outcome.tests]


def judge(outcome: Outcome, exit_status: int | None, *, timed_out: bool = False) -> dict[str, Any]:
    start = {"event": "suite_start", "suite": "smoke", "parser": outcome.parser, "deadline": 60}
    end = {"event": "suite_end", "exit_status": exit_status, "signal": None, "timed_out": timed_out, "duration": 1}
    end.update(planned=outcome.planned, seen=outcome.seen, error="; ".join(outcome.errors) or None)
    text = "".join(json.dumps({"time": 1, **event}) + "\n" for event in [start, *outcome.events, end])
    return _events.judge_suite("smoke", "bookworm", text, outcome.parser)


def verdict(runner: ModuleType, name: str, text: str, exit_status: int = 0) -> str:
    """The status of a suite that printed this and ended so."""
    status: str = judge(parse(runner, name, text, exit_status), exit_status)["status"]
    return status
