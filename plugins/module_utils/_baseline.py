# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A baseline: which tests an earlier verdict had, and what has changed since. Pure."""

from __future__ import annotations

from typing import Any

from ._errors import MayflyError
from ._events import RED_STATUSES, STATUSES, load_json
from ._outcome import case_names, is_idle

LISTED = 200  # of each kind of change; all are counted
KINDS = ("newly_failing", "newly_passing", "newly_skipped", "lost")
REMEDY = "Give the verdict.json of an earlier run."

Data = dict[str, Any]
_Key = tuple[str, str, str]  # suite, guest, test


def read_baseline(text: str, source: str) -> Data:
    """Reduce an earlier verdict.json to what a comparison needs; raise MayflyError where it is none."""

    def error(reason: str) -> MayflyError:
        return MayflyError("use the baseline", source, reason, REMEDY)

    try:
        verdict = load_json(text)
    except ValueError as cause:
        raise error(f"it is no JSON: {cause}") from cause
    if not isinstance(verdict, dict) or verdict.get("schema") != 1 or not isinstance(verdict.get("suites"), list):
        raise error("it is no verdict.json with schema 1")
    tests: dict[str, dict[str, dict[str, list[str]]]] = {}
    for suite in verdict["suites"]:
        try:
            by_status = tests.setdefault(suite["name"], {}).setdefault(suite["guest"], {})
            for name, test in _named(suite):
                by_status.setdefault("skip" if is_idle(test) else test["status"], []).append(name)
        except (KeyError, TypeError, AttributeError) as cause:
            raise error("it has a suite without name, guest or tests") from cause
    baseline = {"source": source, "tests": tests, **{key: verdict.get(key) for key in ("run_id", "verdict", "started")}}
    reason = refusal(baseline)
    if reason is not None:
        raise error(reason)
    return baseline


def refusal(baseline: Any) -> str | None:
    """Return why this is no reduced baseline, None if it is one."""
    if not isinstance(baseline, dict) or not all(isinstance(baseline.get(key), str) for key in ("source", "run_id", "verdict")):
        return "it does not say which run it is of"
    if not _is_tree(baseline.get("tests")):
        return "its tests cannot be read"
    return None if any(True for _test in _each(baseline)) else "it has no tests, so nothing can be compared with it"


def _is_tree(tests: Any) -> bool:
    """Tell whether these are names by suite, guest and status."""
    if not isinstance(tests, dict) or not all(isinstance(guests, dict) for guests in tests.values()):
        return False
    kinds = [by_status for guests in tests.values() for by_status in guests.values()]
    return all(
        isinstance(by_status, dict)
        and all(
            status in STATUSES and isinstance(names, list) and all(isinstance(name, str) for name in names)
            for status, names in by_status.items()
        )
        for by_status in kinds
    )


def _named(suite: Data) -> list[tuple[str, Data]]:
    """The tests by their names. One that was missing and has no name of its own is nothing to compare with."""
    names = case_names(suite["tests"])
    return [(name, test) for name, test in zip(names, suite["tests"]) if test["name"] or test["status"] != "not_run"]


def _each(baseline: Data) -> list[tuple[_Key, str]]:
    return [
        ((suite, guest, name), status)
        for suite, guests in baseline["tests"].items()
        for guest, by_status in guests.items()
        for status, names in by_status.items()
        for name in names
    ]


def compare(baseline: Data, suites: list[Data]) -> Data:
    """Return what has changed since the baseline, as it is told in verdict.json."""
    before = dict(_each(baseline))
    now = {(suite["name"], suite["guest"], name): test for suite in suites for name, test in _named(suite)}
    changes: dict[str, list[Data]] = {kind: [] for kind in KINDS}
    for key, test in now.items():
        kind = _change(before.get(key), test)
        if kind is not None:
            changes[kind].append(_entry(key, before.get(key), test["status"]))
    changes["lost"] = [_entry(key, status, None) for key, status in before.items() if key not in now]
    counts = {kind: len(found) for kind, found in changes.items()}
    counts.update(added=len(set(now) - set(before)), compared=len(set(now) & set(before)))
    told = {key: baseline.get(key) for key in ("source", "run_id", "verdict", "started")}
    return {**told, "counts": counts, **{kind: found[:LISTED] for kind, found in changes.items()}}


def _change(was: str | None, test: Data) -> str | None:
    """Name what happened to a test; one that is new can only be new as a failure."""
    if is_idle(test):
        return "newly_skipped" if was not in (None, "skip") else None
    if test["status"] in RED_STATUSES:
        return "newly_failing" if was not in RED_STATUSES else None
    if test["status"] == "pass":
        return "newly_passing" if was in RED_STATUSES or was in ("known", "skip") else None
    return None


def _entry(key: _Key, was: str | None, now: str | None) -> Data:
    return {"suite": key[0], "guest": key[1], "name": key[2], "was": was, "now": now}


def lost_reason(comparison: Data) -> str:
    """Say which tests are gone."""
    count = comparison["counts"]["lost"]
    names = [f"{entry['suite']}@{entry['guest']} {entry['name']:.80}" for entry in comparison["lost"][:3]]
    more = f" and {count - len(names)} more" if count > len(names) else ""
    return f"baseline {comparison['run_id']}: {count} of its tests are gone: {', '.join(names)}{more}"
