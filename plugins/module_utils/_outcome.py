# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the outcome of one test means: red, idle or neither, what it is called, and where its logs lie. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from typing import Any

from . import _events

Data = dict[str, Any]

# What a job may call red although it is not by itself.
FAIL_ON = ("flaky", "xpass", "lost", "not_run")

_LOGS = re.compile(r"tests/[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


def is_idle(test: Data) -> bool:
    """Tell whether a test was left out for a reason that nobody has to mend."""
    return test["status"] == "skip" or _events.is_excused(test)


def is_red(test: Data, fail_on: Collection[str] = ()) -> bool:
    """Tell whether a test speaks against a pass, by itself or because the job says so."""
    if _events.is_excused(test):
        return "not_run" in fail_on
    return _events.is_red(test) or (test["status"] in ("flaky", "xpass") and test["status"] in fail_on)


def red_count(suite: Data, fail_on: Collection[str] = ()) -> int:
    """Count the red tests of a suite, those too that a plan promised and nobody listed."""
    listed = sum(test["status"] == "not_run" for test in suite["tests"])
    return sum(is_red(test, fail_on) for test in suite["tests"]) + max(0, suite["counts"]["not_run"] - listed)


def case_names(tests: list[Data]) -> list[str]:
    """Return a name for each test that no other has: its number is added where it has none of its own."""
    used: Counter[str] = Counter(test["name"] for test in tests)
    names: list[str] = []
    taken: set[str] = set()
    for index, test in enumerate(tests):
        name = test["name"] if test["name"] and used[test["name"]] == 1 else f"{test['name']} [{test['number']}]".strip()
        if name in taken:  # one number twice, or a name that looks like another with its number
            name = f"{name} #{index + 1}"
        taken.add(name)
        names.append(name)
    return names


def logs_of(test: Data) -> str | None:
    """Return the directory of a test's own logs, below its suite's. The guest said it, so anything but a plain name is none."""
    logs = test.get("logs")
    return logs if isinstance(logs, str) and _LOGS.fullmatch(logs) and ".." not in logs else None


def attempts_of(test: Data) -> list[Data]:
    """Return the tries of a test, as far as they are what the runner writes."""
    attempts = test.get("attempts")
    if not isinstance(attempts, list):
        return []
    return [attempt for attempt in attempts if isinstance(attempt, dict) and isinstance(attempt.get("status"), str)]
