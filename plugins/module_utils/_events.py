# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a suite said, and what it is worth: its events, parsed and judged. Pure.

A suite is one of passed, failed, timeout, skipped and error. It is skipped if it says so with a reason (1..0 # SKIP why)
or skipped each of its tests, or did not run them for a reason that was known beforehand. It is an error if its result is
missing, torn or contradictory; it is incomplete if nothing is wrong but that it ends too early or is not there, as when
the guest goes away.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

STATUSES = ("pass", "fail", "error", "skip", "timeout", "daemon_hang", "known", "flaky", "xpass", "not_run")
FAILED_STATUSES = ("fail", "error", "timeout", "daemon_hang")
RED_STATUSES = frozenset({*FAILED_STATUSES, "not_run"})
SUITE_STATUSES = ("passed", "failed", "timeout", "skipped", "error")
EXCUSES = frozenset({"requires", "denied"})  # why a test may be not run and still not be red
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")  # of a suite or a guest, for it becomes a directory
LOGS = re.compile(r"tests/[A-Za-z0-9][A-Za-z0-9._-]{0,127}")  # of one test, below the directory of its suite
FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # that was kept of a test, in its directory

LISTED = 1000  # tests not run: counted all, listed up to this
ERRORS_LISTED = 20
ATTEMPTS = 101
LEFTOVERS = 100
FILES = 32
MESSAGE_LIMIT = 64 * 1024

Data = dict[str, Any]


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e12  # neither NaN nor inf


def is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**9


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def is_status(value: Any) -> bool:
    return isinstance(value, str) and value in STATUSES


def is_logs(value: Any) -> bool:
    return isinstance(value, str) and LOGS.fullmatch(value) is not None


def is_files(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= FILES and all(is_text(name) and FILE.fullmatch(name) for name in value)


def is_attempts(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= ATTEMPTS and all(_is_attempt(attempt) for attempt in value)


def _is_attempt(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and is_status(value.get("status"))
        and is_number(value.get("duration"))
        and is_text(value.get("message"))
        and optional(is_files)(value.get("files"))
        and not set(value) - {"status", "duration", "message", "files"}
    )


def is_leftovers(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= LEFTOVERS and all(is_text(text) for text in value)


def optional(check: Any) -> Any:
    return lambda value: value is None or check(value)


EVENT_FIELDS: dict[str, dict[str, Any]] = {
    "suite_start": {"suite": is_text, "parser": is_text, "deadline": is_number},
    "plan": {"count": is_count, "reason": optional(is_text)},
    "test": {
        "number": is_count,
        "name": is_text,
        "status": is_status,
        "duration": is_number,
        "directive": optional(is_text),
        "message": optional(is_text),
        "logs": optional(is_logs),
        "attempts": optional(is_attempts),
        "leftovers": optional(is_leftovers),
        "files": optional(is_files),
    },
    "attempt": {"number": is_count, "name": is_text, "attempt": is_count, "status": is_status, "duration": is_number, "message": is_text},
    "detail": {"number": is_count, "message": is_text},
    "bail_out": {"reason": optional(is_text)},
    "suite_end": {
        "exit_status": optional(is_count),
        "signal": optional(is_text),
        "timed_out": lambda value: isinstance(value, bool),
        "duration": is_number,
        "planned": optional(is_count),
        "seen": is_count,
        "error": optional(is_text),
        "files": optional(is_files),
    },
}


def load_json(text: str) -> Any:
    """Read strict JSON; raise ValueError for anything else, NaN and halves of characters included."""
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if "\\ud" in text.lower():
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # a lone surrogate could not be written anywhere
    return value


def parse_event(line: str) -> Data:
    """Return the event of one line; raise ValueError saying what is wrong with it."""
    event = load_json(line)
    if not isinstance(event, dict):
        raise ValueError("not a JSON object")
    fields = EVENT_FIELDS.get(str(event.get("event")))
    if fields is None:
        raise ValueError(f"unknown event {event.get('event')!r:.80}")
    for name, good in {"time": is_number, **fields}.items():
        if not good(event.get(name)):
            raise ValueError(f"{event['event']} with {name} {event.get(name)!r:.80}")
        event.setdefault(name, None)
    return event


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def parse_events(text: str) -> tuple[list[Data], list[str], list[str]]:
    """Split events.jsonl into events, complaints, and what is missing because the file ends in the middle of a line."""
    events, errors, gaps = [], [], []
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            events.append(parse_event(line))
        except ValueError as error:
            found = gaps if number == len(lines) else errors
            found.append(f"events.jsonl line {number} cannot be read: {error}")
    return events, errors, gaps


def judge_suite(suite: str, guest: str, text: str | None, parser: str | None = None) -> Data:
    """Judge one suite on one guest by its events; parser is what the job asked for."""
    result: Data = {
        "name": suite,
        "guest": guest,
        "parser": parser,
        "status": "error",
        "counts": dict.fromkeys(STATUSES, 0),
        "planned": None,
        "seen": 0,
        "exit_status": None,
        "signal": None,
        "timed_out": False,
        "duration": None,
        "started": None,
        "incomplete": True,
        "errors": [],
        "notes": [],
        "tests": [],
    }
    if text is None:
        result["errors"] = ["no result: the suite was asked for on this guest and left no events.jsonl"]
        return result
    events, errors, gaps = parse_events(text)
    kinds: dict[str, list[Data]] = {kind: [event for event in events if event["event"] == kind] for kind in EVENT_FIELDS}
    _fill(result, kinds)
    gaps += _gaps(kinds, result)
    errors += _frame_errors(events, kinds, result, parser)
    errors += _plan_errors(kinds, result)
    errors += _end_errors(kinds, result)
    result["incomplete"] = not errors and not kinds["suite_end"]
    errors = gaps + errors
    result["errors"] = errors[:ERRORS_LISTED]
    if len(errors) > ERRORS_LISTED:
        result["errors"].append(f"and {len(errors) - ERRORS_LISTED} more")
    result["notes"] = _notes(kinds, result)
    result["status"] = _suite_status(result)
    return result


def _fill(result: Data, kinds: dict[str, list[Data]]) -> None:
    """Copy what the events say into the result."""
    for start in kinds["suite_start"][:1]:
        result.update(parser=start["parser"], started=start["time"])
    for plan in kinds["plan"][:1]:
        result["planned"] = plan["count"]
    for end in kinds["suite_end"][-1:]:
        for name in ("exit_status", "signal", "timed_out", "duration"):
            result[name] = end[name]
        if end["files"]:
            result["files"] = end["files"]
    result["tests"] = [_test(event) for event in kinds["test"]]
    _attach(result["tests"], kinds["detail"])
    result["seen"] = len(result["tests"])
    missing = _missing(result)
    result["tests"] += [_not_run(number) for number in missing]
    result["counts"].update(Counter(test["status"] for test in result["tests"]))
    unlisted = (result["planned"] or 0) - result["seen"] - len(missing)
    result["counts"]["not_run"] += max(0, unlisted)


def _test(event: Data) -> Data:
    """What is kept of a test: a field that few have only where it says something."""
    names = ("number", "name", "status", "duration", "message", "directive")
    few = ("logs", "attempts", "leftovers", "files")
    return {**{name: event[name] for name in names}, **{name: event[name] for name in few if event[name]}}


def _attach(tests: list[Data], details: list[Data]) -> None:
    """Add to the messages of tests what was told of them only at the end of the output."""
    by_number = {test["number"]: test for test in tests}
    for detail in details:
        test = by_number.get(detail["number"])
        if test is not None:
            test["message"] = "\n".join(part for part in (test["message"], detail["message"]) if part)[:MESSAGE_LIMIT]


def is_red(test: Data) -> bool:
    """Tell whether a test speaks against its suite. One that was not run does, unless it was known beforehand that it would not."""
    return test["status"] in RED_STATUSES and not is_excused(test)


def is_excused(test: Data) -> bool:
    return bool(test["status"] == "not_run" and test["directive"] in EXCUSES)


def failed_count(counts: Data) -> int:
    """How many tests failed, whatever way: those that were not run are not among them."""
    return sum(counts[status] for status in FAILED_STATUSES)


def lost_tests(suite: Data) -> int:
    """How many tests were not run although they should have been."""
    lost: int = suite["counts"]["not_run"] - sum(is_excused(test) for test in suite["tests"])
    return lost


def _missing(result: Data) -> list[int]:
    """Numbers of the plan that were not seen, the first thousand: a hostile plan may promise a billion tests."""
    seen = {test["number"] for test in result["tests"]}
    missing: list[int] = []
    number = 1
    while number <= (result["planned"] or 0) and len(missing) < LISTED:
        if number not in seen:
            missing.append(number)
        number += 1
    return missing


def _not_run(number: int) -> Data:
    return {"number": number, "name": "", "status": "not_run", "duration": 0, "message": "", "directive": None}


def _gaps(kinds: dict[str, list[Data]], result: Data) -> list[str]:
    """What is missing. A suite that was stopped at its deadline may lack tests and plan."""
    gaps = []
    if not kinds["suite_end"]:
        gaps.append("no suite_end: the runner or the guest went away before the suite had ended")
    planned, seen = result["planned"], result["seen"]
    if planned is None and not result["timed_out"]:
        gaps.append(f"no plan: {seen} tests were seen and it is unknown how many there should have been")
    elif seen < (planned or 0) and not result["timed_out"]:
        gaps.append(f"{planned - seen} of {planned} planned tests are missing")
    return gaps


def _has_red(result: Data) -> bool:
    return lost_tests(result) > 0 or any(is_red(test) for test in result["tests"])


def _frame_errors(events: list[Data], kinds: dict[str, list[Data]], result: Data, parser: str | None) -> list[str]:
    """One suite_start first, one suite_end last, and both of this suite."""
    errors = []
    order = [event["event"] for event in events]
    if order and (order[0] != "suite_start" or order.count("suite_start") != 1):
        errors.append("the events do not begin with one suite_start")
    if "suite_end" in order[:-1]:
        errors.append("there are events after suite_end")
    for start in kinds["suite_start"]:
        if start["suite"] != result["name"]:
            errors.append(f"the events are those of suite {start['suite']!r:.80}")
        if parser is not None and start["parser"] != parser:
            errors.append(f"the suite was read as {start['parser']!r:.80}, but the job says {parser}")
    return errors


def _plan_errors(kinds: dict[str, list[Data]], result: Data) -> list[str]:
    """No more tests than planned, each once, and no empty plan without a reason."""
    errors = [f"test number {number} was reported {times} times" for number, times in _repeated(kinds["test"])]
    numbers = {test["number"] for test in kinds["test"]}
    errors += [
        f"details of test number {detail['number']}, which was not reported"
        for detail in kinds["detail"]
        if detail["number"] not in numbers
    ]
    if len(kinds["plan"]) > 1:
        errors.append("there is more than one plan")
    planned, seen = result["planned"], result["seen"]
    if planned is None:
        return errors
    errors += [
        f"test number {test['number']} is outside the plan of 1 to {planned}"
        for test in kinds["test"]
        if not 1 <= test["number"] <= planned
    ]
    if seen > planned:
        errors.append(f"{seen} tests were seen, but only {planned} were planned")
    if planned == 0 and not (kinds["plan"][0]["reason"] or result["timed_out"]):
        errors.append("no tests: the plan is empty and gives no reason")
    return errors


def _repeated(tests: list[Data]) -> list[tuple[int, int]]:
    return sorted((number, times) for number, times in Counter(test["number"] for test in tests).items() if times > 1)


def _end_errors(kinds: dict[str, list[Data]], result: Data) -> list[str]:
    """The end of the command and its lines must tell the same story."""
    errors = [f"bail out: {event['reason'] or 'no reason given'}" for event in kinds["bail_out"]]
    for end in kinds["suite_end"]:
        if end["error"]:
            errors.append(f"the runner reported: {end['error']}")
        if end["seen"] != result["seen"]:
            errors.append(f"the runner counted {end['seen']} tests, but {result['seen']} arrived")
        if end["planned"] != result["planned"]:
            errors.append(f"the runner ended with a plan of {end['planned']}, but {result['planned']} arrived")
        errors += _exit_errors(end, result)
    return errors


def _exit_errors(end: Data, result: Data) -> list[str]:
    ended = f"signal {end['signal']}" if end["signal"] else f"exit status {end['exit_status']}"
    if end["timed_out"] or end["error"]:
        return []  # the deadline ended the command, or it never ran: there is no exit to compare
    if end["exit_status"] is None and not end["signal"]:
        return ["the command ended with neither an exit status nor a signal"]
    good = end["exit_status"] == 0 and not end["signal"]
    failed = _has_red(result)
    if not good and not failed:
        return [f"no test failed, but the command ended with {ended}"]
    if good and failed and result["parser"] == "exit_code":
        return ["the test failed, but the command ended with exit status 0"]
    return []


def _notes(kinds: dict[str, list[Data]], result: Data) -> list[str]:
    """What a reader should know and what decides nothing."""
    notes = [plan["reason"] if plan["count"] else f"skipped: {plan['reason']}" for plan in kinds["plan"] if plan["reason"]]
    excused = sum(is_excused(test) for test in result["tests"])
    if excused:
        notes.append(f"{excused} tests not run: their needs are not met, or they are denied")
    if result["counts"]["xpass"]:
        notes.append(f"{result['counts']['xpass']} tests marked TODO passed")
    for end in kinds["suite_end"]:
        leftovers, tail = end.get("leftovers"), end.get("tail")
        if isinstance(leftovers, list) and leftovers:
            notes.append("processes left behind: " + ", ".join(str(name) for name in leftovers[:10]))
        if isinstance(tail, list) and tail and result["seen"] == 0:
            notes.append("last output: " + " | ".join(str(line) for line in tail[-3:])[:500])
    return notes


def _suite_status(result: Data) -> str:
    counts = result["counts"]
    if result["errors"]:
        return "error"
    if result["timed_out"]:
        return "timeout"
    if _has_red(result):
        return "failed"
    if result["seen"] == counts["skip"] + counts["not_run"]:  # each of those not run has an excuse
        return "skipped"
    return "passed"


def suite_label(suite: Data) -> str:
    return f"{suite['name']}@{suite['guest']}"


def deadline_text(suite: Data) -> str:
    after = "" if suite["duration"] is None else f" after {suite['duration']:.0f} s"
    missing = lost_tests(suite)
    return f"stopped at its deadline{after}" + (f"; {missing} tests not run" if missing else "")


def failed_tests(suites: list[Data]) -> list[Data]:
    """The tests that are red, each with its suite and guest."""
    return [
        {"suite": suite["name"], "guest": suite["guest"], **{key: test[key] for key in ("number", "name", "status", "message")}}
        for suite in suites
        for test in suite["tests"]
        if is_red(test)
    ]


# Lines that repeat the test's name or place instead of saying what was wrong (Perl's Test::More).
_IDLE_DIAGNOSTIC = re.compile(r"(Failed (\(TODO\) )?test\b|at \S+ line \d+|---$|\.\.\.$|Looks like you )")


def first_diagnostic(message: str | None) -> str:
    """The first line of a message that says something."""
    return (diagnostics(message) or [""])[0]


def diagnostics(message: str | None) -> list[str]:
    """The lines of a message that say something; all of them when none does."""
    lines = [line.strip().lstrip("#").strip() for line in (message or "").split("\n")]
    lines = [line for line in lines if line]
    return [line for line in lines if not _IDLE_DIAGNOSTIC.match(line)] or lines
