# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Known issues: failures that somebody owns, recognised by what they look like. Pure.

An entry binds signatures, not names: it excuses a failed test that it is about and whose text has each of its signatures. What it never
excuses:

* a test with the status error, or not run: of these there is no true result that could look like anything;
* a test in which a daemon hung, unless the entry is about just that: whatever else the test's message has, the hang is the news;
* a message that tells of several failures, unless each of them has the signatures or, after one that has, is such as the entry says to
  follow from it; or a message that was cut and may not name them all;
* a test that failed in another way before it was tried again;
* a command that ended by a signal or with an exit status that failed tests do not explain;
* anything after its review_by, a day in UTC, judged by the start of the run;
* the suite's own errors, its deadline, and the kernel: these are not looked at here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, datetime
from fnmatch import fnmatchcase
from typing import Any

from . import _signature
from ._errors import InvalidInput
from ._events import suite_label
from ._failures import split_failures, tells_all
from ._outcome import attempts_of, logs_of, red_count

EXCUSABLE = ("fail", "timeout", "daemon_hang")
USUAL = ("fail", "timeout")  # what an entry is about that does not say it
WHERE = ("message", "console", "output")
KEYS = ("id", "issue", "owner", "review_by", "signature", "follows", "where", "suite", "guest", "test", "status")
LOG_LIMIT = 64 * 1024  # of a console and of an output, their ends
STEPS_LIMIT = 20_000_000_000  # of all searches of one run, some 100 s; what comes after them is not excused
TRY_LIMIT = 4 * 1024  # characters of the message of an earlier try
EXPLAINED_EXIT = 124  # above are 'cannot be run', 'died of a signal' and Perl's 255 for 'died'

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_URL = re.compile(r"https?://[A-Za-z0-9.-]+(?::\d{1,5})?(?:/[A-Za-z0-9._~:/?#@!$&'()*+,;=%-]*)?")

Data = dict[str, Any]


# --- the file -------------------------------------------------------------------------------------------------------


def check_known_issues(entries: Any, source: str) -> list[Data]:
    """Return the entries with every default filled in, or raise InvalidInput for the first that is wrong."""
    if entries is None:
        return []
    if not isinstance(entries, list):
        raise InvalidInput("Known issues", source, "they are not a list", "Begin each entry with '- id: …'.")
    checked: list[Data] = []
    for number, entry in enumerate(entries, start=1):
        name = entry.get("id") if isinstance(entry, dict) else None
        label = f"{source}, entry {number}" + (f" ({name})" if isinstance(name, str) else "")
        checked.append(_check_entry(entry, label))
        if checked[-1]["id"] in [other["id"] for other in checked[:-1]]:
            raise InvalidInput("Known issue", label, "an earlier entry has this id", "Ids are unique.")
    return checked


def _check_entry(entry: Any, label: str) -> Data:
    def refuse(reason: str, remedy: str = "") -> InvalidInput:
        return InvalidInput("Known issue", label, reason, remedy)

    if not isinstance(entry, dict):
        raise refuse("it is no mapping", f"It has the keys {', '.join(KEYS)}.")
    unknown = sorted(str(key) for key in set(entry) - set(KEYS))
    if unknown:
        raise refuse(f"it has the unknown key {', '.join(unknown)}", f"The keys are {', '.join(KEYS)}.")
    if not isinstance(entry.get("id"), str) or not _ID.fullmatch(entry["id"]):
        raise refuse("it has no usable id", "Use up to 64 letters, digits, '.', '_' and '-'.")
    if not isinstance(entry.get("issue"), str) or len(entry["issue"]) > 500 or not _URL.fullmatch(entry["issue"]):
        raise refuse("its issue is no http or https URL", "Give the address of the issue.")
    if not isinstance(entry.get("owner"), str) or not entry["owner"].strip() or len(entry["owner"]) > 100:
        raise refuse("it has no owner", "Name who looks after the issue.")
    review_by = read_day(entry.get("review_by"))
    if review_by is None:
        raise refuse("its review_by is no date", "Write it as 2026-12-31: after that day the entry excuses nothing.")
    for key in ("suite", "guest", "test"):
        if entry.get(key) is not None and (not isinstance(entry[key], str) or not entry[key] or len(entry[key]) > 500):
            raise refuse(f"its {key} is no pattern", "Leave it out, or write a name, in which * and ? may stand for the rest.")
    where = entry.get("where") or "message"
    if where not in WHERE:
        raise refuse(f"it looks for its signature in '{where}'", f"It can be looked for in {', '.join(WHERE)}.")
    if where != "message" and entry.get("test") is None:
        raise refuse(f"it looks in the {where}, which all tests share, and is about any test", "Say which test it is about.")
    if entry.get("status") is not None and entry["status"] not in EXCUSABLE:
        raise refuse(f"it is about the status '{entry['status']!s:.80}'", f"It can be about {', '.join(EXCUSABLE)}.")
    filled = {key: entry.get(key) for key in ("id", "issue", "owner", "suite", "guest", "test", "status")}
    signature = _check_patterns(entry.get("signature"), "signature", refuse)
    if not signature:
        raise refuse("it has no signature", "Give one to ten regular expressions that the failure's text has: a name excuses nothing.")
    follows = _check_patterns(entry.get("follows") or [], "follows", refuse)
    if entry.get("follows") and not follows:
        raise refuse(
            "its follows is no list", "Give one to ten regular expressions of failures that only follow from one with the signature."
        )
    return {**filled, "review_by": review_by, "where": where, "signature": signature, "follows": follows}


def _check_patterns(value: Any, key: str, refuse: Callable[..., InvalidInput]) -> list[str]:
    """Return one to ten expressions as a list, none if this is no such list."""
    patterns = [value] if isinstance(value, str) else value
    if not isinstance(patterns, list) or len(patterns) > 10:
        return []
    for pattern in patterns:
        reason = _signature.refusal(pattern) if isinstance(pattern, str) else "it is no text"
        if reason is not None:
            raise refuse(f"its {key} {pattern!r:.200} cannot be used: {reason}")
    return patterns


def read_day(value: Any) -> str | None:
    """Return a day as 2026-12-31. YAML gives a date where a person writes one."""
    if isinstance(value, datetime) or not isinstance(value, (date, str)):
        return None
    try:
        return (date.fromisoformat(value) if isinstance(value, str) else value).isoformat()
    except ValueError:
        return None


# --- the run --------------------------------------------------------------------------------------------------------


class Excuses:
    """What known issues mean for the suites of one run."""

    def __init__(self, entries: list[Data], day: str | None, consoles: dict[str, str], read: Callable[[str], str]) -> None:
        """Take the day on which the run began, None if that is unknown, and a way to read a log in the results directory."""
        self._entries = entries
        self._day = day
        self._consoles = consoles
        self._read = read
        self._logs: dict[str, _signature.Text] = {}
        self._steps = 0
        self._matched = {entry["id"]: 0 for entry in entries}
        self._overdue: dict[tuple[str, str], int] = {}

    def apply(self, suite: Data) -> None:
        """Give the suite's failures that are known the status known, and what should have failed xpass."""
        excused: dict[str, int] = {}
        passed: dict[str, int] = {}
        for test in suite["tests"]:
            if test["status"] in EXCUSABLE:
                self._excuse(suite, test, excused)
            elif test["status"] == "pass":
                self._surprise(suite, test, passed)
        suite["notes"] += [f"{_tests(count)} failed as known: {name}" for name, count in excused.items()]
        suite["notes"] += [f"{_tests(count)} passed although a known issue names it: {name}" for name, count in passed.items()]
        if excused and suite["status"] == "failed" and not red_count(suite):
            self._settle(suite)

    def reasons(self) -> list[str]:
        """Say where an entry would have excused a failure, had it been reviewed in time."""
        said = []
        for (label, name), count in self._overdue.items():
            entry = next(entry for entry in self._entries if entry["id"] == name)
            why = "when the run began is unknown" if self._day is None else f"its review was due on {entry['review_by']}"
            said.append(f"{label}: {_tests(count)} failed with the known issue {name}, which excuses nothing: {why} ({entry['owner']})")
        if self._steps > STEPS_LIMIT:
            said.append("known issues: the failures say more than can be searched, and the rest of them is not excused")
        return said

    def summary(self) -> list[Data]:
        """Return each entry as it is told in verdict.json."""
        told = ("id", "issue", "owner", "review_by")
        return [
            {**{key: entry[key] for key in told}, "expired": self._is_over(entry), "matched": self._matched[entry["id"]]}
            for entry in self._entries
        ]

    def _is_over(self, entry: Data) -> bool:
        return self._day is None or entry["review_by"] < self._day

    def _excuse(self, suite: Data, test: Data, excused: dict[str, int]) -> None:
        about = sorted((entry for entry in self._entries if _is_about(entry, suite, test)), key=self._is_over)
        failures = _failures(test) if about else []
        for entry in about:
            if not _is_of_its_kind(entry, test) or not self._has_signature(entry, failures, suite, test):
                continue
            test["known_issue"] = entry["id"]
            self._matched[entry["id"]] += 1
            if self._is_over(entry):
                key = (suite_label(suite), entry["id"])
                self._overdue[key] = self._overdue.get(key, 0) + 1
            else:
                _restate(suite, test, "known")
                excused[entry["id"]] = excused.get(entry["id"], 0) + 1
            return

    def _surprise(self, suite: Data, test: Data, passed: dict[str, int]) -> None:
        """A pattern speaks of many tests, some of which may well pass; a name speaks of one."""
        for entry in self._entries:
            if entry["test"] == test["name"] and _is_about(entry, suite, test):
                test["known_issue"] = entry["id"]
                _restate(suite, test, "xpass")
                passed[entry["id"]] = passed.get(entry["id"], 0) + 1
                return

    def _has_signature(self, entry: Data, tries: list[list[_signature.Text]], suite: Data, test: Data) -> bool:
        if entry["where"] != "message":
            tries = [[self._log(entry["where"], suite, test)]] if [len(failures) for failures in tries] == [1] else []
        self._steps += sum(failure.steps([*entry["signature"], *entry["follows"]]) for failures in tries for failure in failures)
        if self._steps > STEPS_LIMIT:
            return False
        return bool(tries) and all(_is_known(entry, failures) for failures in tries)

    def _log(self, where: str, suite: Data, test: Data) -> _signature.Text:
        """Return the guest's console, or what the test printed, or else its suite."""
        if where == "console":
            key = f"guests/{suite['guest']}"
        else:
            key = "/".join(part for part in ("suites", suite["name"], suite["guest"], logs_of(test)) if part)
        if key not in self._logs:
            if where == "console":
                texts = [self._consoles.get(suite["guest"], "")]
            else:
                texts = [self._read(f"{key}/{name}") for name in ("stdout.log", "stderr.log")]
            self._logs[key] = _signature.Text([line for text in texts for line in _signature.searchable(text[-LOG_LIMIT:])])
        return self._logs[key]

    @staticmethod
    def _settle(suite: Data) -> None:
        """Nothing is red any more; but the failures must explain how the command ended."""
        ended = f"signal {suite['signal']}" if suite["signal"] else f"exit status {suite['exit_status']}"
        if suite["signal"] or suite["exit_status"] is None or suite["exit_status"] > EXPLAINED_EXIT:
            suite["status"] = "error"
            suite["errors"].append(f"all that failed is known, and that does not explain that the command ended with {ended}")
        else:
            suite["status"] = "passed"


def _is_known(entry: Data, failures: list[_signature.Text]) -> bool:
    """Tell whether each failure of one try has the signature, or follows from one before it that has."""
    known = False
    for failure in failures:
        if failure.has(entry["signature"]):
            known = True
        elif not known or not any(failure.has([pattern]) for pattern in entry["follows"]):
            return False
    return known


def _failures(test: Data) -> list[list[_signature.Text]]:
    """Return each failure that a test tells of, by its tries; none if they may not be all."""
    message = test["message"] or ""
    tries = [attempt for attempt in attempts_of(test) if attempt["status"] != "pass"]
    said = [message, *(text for text in (str(attempt.get("message") or "") for attempt in tries) if not _is_same(text, message))]
    if not all(tells_all(text) for text in said):
        return []
    return [[_signature.Text(lines) for lines in split_failures(_signature.searchable(text))] for text in said]


def _is_same(said: str, message: str) -> bool:
    """Tell whether an earlier try failed as the last one did; of its message the beginning is kept."""
    return said == message or (len(said) >= TRY_LIMIT and message.startswith(said))


def _is_about(entry: Data, suite: Data, test: Data) -> bool:
    names = (("suite", suite["name"]), ("guest", suite["guest"]), ("test", test["name"]))
    return all(entry[key] is None or entry[key] == name or fnmatchcase(name, entry[key]) for key, name in names)


def _is_of_its_kind(entry: Data, test: Data) -> bool:
    """Tell whether a test failed, in each try, in a way that the entry is about."""
    kinds = (entry["status"],) if entry["status"] else USUAL
    tries = [attempt["status"] for attempt in attempts_of(test) if attempt["status"] != "pass"]
    return all(status in kinds for status in (test["status"], *tries))


def _restate(suite: Data, test: Data, status: str) -> None:
    suite["counts"][test["status"]] -= 1
    suite["counts"][status] += 1
    test["status"] = status


def _tests(count: int) -> str:
    return "1 test" if count == 1 else f"{count} tests"
