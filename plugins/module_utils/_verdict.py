# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run left behind, judged: its job, its phases, the verdict and the exit code. Pure: text in, data out.

The rule everything here serves: nothing that is missing, torn or contradictory may look like a pass.

Exit code and verdict:

* 2, error: for some suite no true verdict could be had (no result, a torn or contradictory one), or the phase prepare,
  run or collect failed, or nothing was tested at all. This wins over failed tests, because the list of failures is then
  not the whole truth.
* 1, failed: a test failed, timed out or was not run, or a guest's kernel complained, and every suite has a true result.
  A kernel that died explains what is missing of its guest: an incomplete result, a failed phase run or collect. Then
  the kernel under test has said no, and nothing else went wrong.
* 1, failed: the job calls red what happened (flaky, xpass, not_run, or lost tests of its baseline).
* 2, error: all is well except that cleanup failed. Failed tests win over this one.
* 0, passed. Failures that are known issues are not red; what they never excuse stands in _known.py.

A run in which every suite was skipped has tested nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from ._baseline import compare, lost_reason
from ._clues import add_clues
from ._console import Allowance, death, in_force, last_words, read_allowances, scan_console, unread_console
from ._errors import InvalidInput
from ._events import (
    NAME,
    STATUSES,
    SUITE_STATUSES,
    deadline_text,
    failed_count,
    is_number,
    is_text,
    judge_suite,
    load_json,
    optional,
    suite_label,
)
from ._kept import add_files
from ._known import Excuses
from ._outcome import is_red, red_count
from ._policy import Policy, read_policy
from ._watch_log import add_sightings, judge_watch

SCHEMA = 1
FAR = 32503680000  # the year 3000, in seconds since the epoch: what a broken clock may say
FILES_LISTED = 1000  # of a guest
PHASES = ("prepare", "run", "collect", "cleanup")

Data = dict[str, Any]


@dataclass
class Evidence:
    """The texts a run left, as read from its results directory."""

    run_id: str
    job: str | None = None
    phases: str | None = None
    events: dict[tuple[str, str], str] = field(default_factory=dict)  # by suite and guest
    consoles: dict[str, str] = field(default_factory=dict)  # by guest
    facts: dict[str, str] = field(default_factory=dict)  # by guest
    collected: dict[str, str] = field(default_factory=dict)  # evidence.json by guest
    watch: str | None = None  # what the watcher of the consoles wrote
    read: Callable[[str], str] = lambda _path: ""  # a log by its path below the results
    find: Callable[[str], tuple[str, int] | None] = lambda _path: None  # the path under which a file is stored, packed or not, and its size


# --- phases -----------------------------------------------------------------------------------------------------


def read_phases(text: str | None) -> tuple[list[Data], list[str]]:
    """Fold phases.jsonl into one entry for each phase, one for each phase and guest, of the last attempt, and complaints."""
    entries: dict[tuple[str, str | None], Data] = {}
    errors = []
    for number, line in enumerate((text or "").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            _fold_phase(entries, load_json(line))
        except ValueError as error:
            errors.append(f"phases.jsonl line {number} cannot be read: {error}")
    phases = sorted(entries.values(), key=lambda entry: (PHASES.index(entry["phase"]), entry["guest"] or ""))
    return phases, errors + _unended(phases)


def _fold_phase(entries: dict[tuple[str, str | None], Data], line: Any) -> None:
    if not isinstance(line, dict) or line.get("phase") not in PHASES or line.get("event") not in ("start", "end"):
        raise ValueError("it needs a phase and an event, start or end")
    if not is_number(line.get("time")) or line["time"] > FAR:
        raise ValueError(f"it has the time {line.get('time')!r:.40}")
    if not optional(is_text)(line.get("guest")):
        raise ValueError(f"it has the guest {line['guest']!r:.40}")
    phase, guest, time = line["phase"], line.get("guest"), line["time"]
    if line["event"] == "start":
        if guest is None:  # a new attempt: what its guests said belongs to the old one
            for old in [key for key in entries if key[0] == phase]:
                del entries[old]
        entries[phase, guest] = _phase_entry(phase, guest, started=time)
        return
    entry = entries.setdefault((phase, guest), _phase_entry(phase, guest))
    begun = entry["started"]
    entry["status"] = "ok" if line.get("status") == "ok" else "failed"
    entry["error"] = None if entry["status"] == "ok" else str(line.get("error") or "no reason was recorded")
    entry["duration"] = None if begun is None else round(max(0.0, time - begun), 3)
    entry["ended"] = time


def _phase_entry(phase: str, guest: str | None, started: float | None = None) -> Data:
    entry = {"phase": phase, "guest": guest, "status": "unfinished", "started": started}
    return {**entry, "ended": None, "duration": None, "error": None}


def _unended(phases: list[Data]) -> list[str]:
    """Phases that began and never ended. The verdict is made in collect, so collect and cleanup may be under way."""
    last = max((PHASES.index(entry["phase"]) for entry in phases), default=0)
    return [
        f"the phase {phase_name(entry)} began and never ended"
        for entry in phases
        if entry["status"] == "unfinished" and (entry["phase"] in ("prepare", "run") or PHASES.index(entry["phase"]) < last)
    ]


def phase_name(entry: Data) -> str:
    return f"{entry['phase']} of {entry['guest']}" if entry["guest"] else str(entry["phase"])


# --- the job ----------------------------------------------------------------------------------------------------


@dataclass
class Job:
    """What was asked for."""

    run_id: str
    name: str | None = None
    created: str | None = None
    guests: list[Data] = field(default_factory=list)
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)  # suite, guest, parser
    environment: Data = field(default_factory=dict)
    watched: bool = False  # the consoles are to be watched while the job runs
    console_allow: list[Allowance] = field(default_factory=list)
    policy: Policy = field(default_factory=Policy)
    errors: list[str] = field(default_factory=list)


def read_job(text: str | None, run_id: str) -> Job:
    """Read job.json; what is wrong with it becomes errors, because a job that cannot be read cannot have passed."""
    job = Job(run_id=run_id)
    if text is None:
        job.errors.append("there is no job.json: it is unknown what was asked for")
        return job
    try:
        raw = load_json(text)
        if not isinstance(raw, dict):
            raise ValueError("not a JSON object")
    except ValueError as error:
        job.errors.append(f"job.json cannot be read: {error}")
        return job
    job.run_id = str(raw.get("run_id") or run_id)
    job.name = None if raw.get("job") is None else str(raw["job"])
    job.created = None if raw.get("created") is None else str(raw["created"])
    job.watched = raw.get("watch") is True
    known = ("run_id", "job", "created", "guests", "suites", "environment", "watch", "console_allow", "policy")
    inner = raw.get("environment")
    job.environment = {key: value for key, value in raw.items() if key not in known}
    job.environment.update(inner if isinstance(inner, dict) else {})
    job.policy, errors = read_policy(raw.get("policy"))
    job.errors += errors
    job.guests = _named(raw, "guests", job.errors)
    suites = _named(raw, "suites", job.errors)
    if not suites:
        job.errors.append("job.json asks for no suite")
    for suite in suites:
        _ask(job, suite)
    try:
        job.console_allow = read_allowances(raw.get("console_allow") or [])
    except (InvalidInput, TypeError) as error:
        job.errors.append(f"job.json has no usable console_allow: {error}")
    return job


def _named(raw: Data, key: str, errors: list[str]) -> list[Data]:
    """The list of objects with unique, path-safe names under a key."""
    entries = raw.get(key)
    if not isinstance(entries, list):
        errors.append(f"job.json has no list of {key}")
        return []
    good: list[Data] = []
    for entry in entries:
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not NAME.fullmatch(name):
            errors.append(f"job.json has an entry in {key} without a usable name: {entry!r:.80}")
        elif name in [other["name"] for other in good]:
            errors.append(f"job.json has the name '{name}' twice in {key}")
        else:
            good.append(entry)
    return good


def _ask(job: Job, suite: Data) -> None:
    names = [guest["name"] for guest in job.guests]
    wanted = suite.get("guests")
    if wanted is None:
        wanted = names
    if not isinstance(wanted, list) or not wanted:
        job.errors.append(f"the suite '{suite['name']}' is asked for on no guest")
        return
    for guest in wanted:
        if guest in names:
            job.asked.append((suite["name"], guest, suite.get("parser")))
        else:
            job.errors.append(f"the suite '{suite['name']}' is asked for on '{guest}', which is no guest of the job")


# --- the verdict ------------------------------------------------------------------------------------------------


def judge(evidence: Evidence) -> Data:
    """Return the content of verdict.json. The same evidence always gives the same verdict."""
    job = read_job(evidence.job, evidence.run_id)
    phases, phase_errors = read_phases(evidence.phases)
    suites = [judge_suite(suite, guest, evidence.events.get((suite, guest)), parser) for suite, guest, parser in job.asked]
    suites += _unasked(evidence, job)
    untested = all(suite["status"] == "skipped" for suite in suites)
    started, ended = _span(job, phases)
    seen, watch_errors = _watch(evidence, job, phases)
    for suite in suites:
        add_files(suite, evidence.find, evidence.read)
    unnamed = [{"name": name} for name in sorted(evidence.consoles) if name not in [guest["name"] for guest in job.guests]]
    allowances = in_force(job.console_allow, datetime.fromtimestamp(min(started or 0, FAR), timezone.utc).date())
    guests = [_judge_guest(guest, evidence, seen, allowances) for guest in [*job.guests, *unnamed]]
    excuses = Excuses(job.policy.known_issues, (_iso(started) or "")[:10] or None, evidence.consoles, evidence.read)
    for suite in suites:
        excuses.apply(suite)
        _judge_by_policy(suite, job.policy.fail_on)
        add_clues(suite, _first_trouble(guests, suite["guest"]), evidence.read)
    comparison = None if job.policy.baseline is None else compare(job.policy.baseline, suites)
    lost = [lost_reason(comparison)] if comparison and comparison["counts"]["lost"] and "lost" in job.policy.fail_on else []
    dead = {guest["name"] for guest in guests if death(guest["console"])} | _stopped(seen)
    died = [suite for suite in suites if _died_with_guest(suite, dead)]
    others = [suite for suite in suites if not _died_with_guest(suite, dead)]
    failures, explained, cleanup = _phase_failures(phases, dead)
    infrastructure = job.errors + phase_errors + failures + _unread(guests) + watch_errors
    if untested:
        infrastructure.append("nothing was tested" + (": every suite was skipped" if suites else ""))
    exit_code = _exit_code(others, guests, infrastructure, lost, cleanup)
    reasons = _kernel_reasons(guests) + _suite_reasons(others, job.policy.fail_on) + infrastructure
    reasons += _suite_reasons(died, job.policy.fail_on) + explained + lost + cleanup
    if exit_code:
        reasons += excuses.reasons()
    return {
        "schema": SCHEMA,
        "run_id": job.run_id,
        "job": job.name,
        "verdict": ("passed", "failed", "error")[exit_code],
        "exit_code": exit_code,
        "reasons": reasons,
        "started": _iso(started),
        "ended": _iso(ended),
        "duration": None if started is None or ended is None else round(max(0.0, ended - started), 3),
        "environment": job.environment,
        "policy": {"fail_on": job.policy.fail_on},
        "known_issues": excuses.summary(),
        "baseline": comparison,
        "phases": [{**entry, "started": _iso(entry["started"]), "ended": _iso(entry["ended"])} for entry in phases],
        "guests": guests,
        "suites": [{**suite, "started": _iso(suite["started"])} for suite in suites],
        "totals": _totals(suites),
    }


def _exit_code(suites: list[Data], guests: list[Data], infrastructure: list[str], lost: list[str], cleanup: list[str]) -> int:
    """Judge by the suites that did not die with their guest; of those that did, the guest's console tells."""
    statuses = {suite["status"] for suite in suites}
    if infrastructure or "error" in statuses:
        return 2
    if statuses & {"failed", "timeout"} or lost or any(guest["console"]["trouble"] for guest in guests):
        return 1
    return 2 if cleanup else 0


def _judge_by_policy(suite: Data, fail_on: list[str]) -> None:
    """A suite that is good by itself has failed where the job says so."""
    if suite["status"] in ("passed", "skipped") and red_count(suite, fail_on):
        suite["status"] = "failed"


def _first_trouble(guests: list[Data], name: str) -> Data | None:
    trouble = [line for guest in guests if guest["name"] == name for line in guest["console"]["trouble"] if line["line"]]
    return next((line for line in trouble if line["fatal"]), trouble[0] if trouble else None)


def _died_with_guest(suite: Data, dead: set[str]) -> bool:
    """Tell whether a dead kernel explains all that is wrong with a suite's result."""
    return suite["guest"] in dead and bool(suite["incomplete"])


def _unasked(evidence: Evidence, job: Job) -> list[Data]:
    """Results that are there although nobody asked for them: judged, and an error, for something is not as it seems."""
    asked = {(suite, guest) for suite, guest, _parser in job.asked}
    results = []
    for suite, guest in sorted(set(evidence.events) - asked):
        result = judge_suite(suite, guest, evidence.events[suite, guest])
        result["errors"].append("the job did not ask for this suite on this guest")
        result.update(status="error", incomplete=False)
        results.append(result)
    return results


def _watch(evidence: Evidence, job: Job, phases: list[Data]) -> tuple[list[Data], list[str]]:
    """Return what the watcher saw, and why that is not everything. Without guests there was nothing to watch."""
    prepared = any(entry["phase"] == "prepare" and entry["guest"] is None and entry["status"] == "ok" for entry in phases)
    if evidence.watch is None and not (job.watched and prepared):
        return [], []
    return judge_watch(evidence.watch, [guest["name"] for guest in job.guests if guest.get("uuid")] if prepared else [])


def _stopped(seen: list[Data]) -> set[str]:
    """Guests whose suites the watcher ended because of their kernel."""
    ours = [event for event in seen if event.get("stop") and (event["event"] == "kernel" or event["what"] in ("crashed", "watchdog"))]
    return {event["guest"] for event in ours}


def _judge_guest(guest: Data, evidence: Evidence, seen: list[Data], allowances: list[Allowance]) -> Data:
    name = guest["name"]
    console = evidence.consoles.get(name)
    scanned = unread_console() if console is None else scan_console(console, allowances)
    add_sightings(scanned, seen, name)
    judged = {**guest, "console": scanned}
    if name in evidence.collected:
        judged["evidence"] = read_collected(evidence.collected[name])
    if name in evidence.facts:
        try:
            judged["facts"] = load_json(evidence.facts[name])
        except ValueError as error:
            judged["facts"] = {"unreadable": str(error)}
    return judged


def read_collected(text: str) -> Data:
    """Return what evidence.json says: which files of a guest were kept, and what is missing and why. It decides nothing here."""
    try:
        raw = load_json(text)
        files = [{"name": str(file["name"]), "bytes": int(file["bytes"])} for file in raw["files"][:FILES_LISTED]]
        missing = {str(name): str(why) for name, why in list(raw["missing"].items())[:FILES_LISTED]}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        return {"files": [], "missing": {"evidence.json": f"it cannot be read: {type(error).__name__}: {error}"}}
    return {"files": files, "missing": missing}


def _unread(guests: list[Data]) -> list[str]:
    """A guest that was made has a console; what its kernel complained of is not known when nobody read it."""
    return [f"the console of {guest['name']} was not read" for guest in guests if guest.get("uuid") and not guest["console"]["read"]]


def _phase_failures(phases: list[Data], dead: set[str]) -> tuple[list[str], list[str], list[str]]:
    """What failed: of the infrastructure, with a guest whose kernel died, and in cleanup."""
    infrastructure: list[str] = []
    explained: list[str] = []
    cleanup: list[str] = []
    for entry in phases:
        if entry["phase"] == "cleanup":
            kind = cleanup
        else:
            kind = explained if entry["phase"] in ("run", "collect") and entry["guest"] in dead else infrastructure
        if entry["status"] == "failed":
            kind.append(f"{phase_name(entry)} failed: {entry['error']}")
    return infrastructure, explained, cleanup


def _kernel_reasons(guests: list[Data]) -> list[str]:
    """Deaths first."""
    sick = [guest for guest in guests if guest["console"]["trouble"]]
    return [_kernel_reason(guest) for guest in sorted(sick, key=lambda guest: death(guest["console"]) is None)]


def _kernel_reason(guest: Data) -> str:
    trouble, died = guest["console"]["trouble"], death(guest["console"])
    first = f"{trouble[0]['text']}{_where(trouble[0])}"
    if died is None:
        return f"kernel of {guest['name']}: {first}{_and_more(len(trouble) - 1)}"
    text = f"kernel of {guest['name']} panicked: {last_words(died)}{_where(died)}"
    if trouble[0] is died:
        return text + _and_more(len(trouble) - 1)
    return f"{text} after {first}{_and_more(len(trouble) - 2)}"


def _where(splat: Data) -> str:
    return f" (console line {splat['line']})" if splat["line"] else ""


def _and_more(count: int) -> str:
    return f" and {count} more" if count else ""


def _suite_reasons(suites: list[Data], fail_on: list[str]) -> list[str]:
    reasons = []
    for suite in suites:
        label, counts = suite_label(suite), suite["counts"]
        failed = failed_count(counts)
        if suite["timed_out"]:
            reasons.append(f"{label}: {deadline_text(suite)}")
        if failed and not (suite["timed_out"] and suite["parser"] == "exit_code"):
            hung = f", {counts['daemon_hang']} with a daemon that hung" if counts["daemon_hang"] else ""
            reasons.append(f"{label}: {failed} of {suite['planned'] or suite['seen']} tests failed{hung}")
        not_run = red_count(suite) - failed
        if not_run and not (suite["timed_out"] or suite["errors"]):
            reasons.append(f"{label}: {not_run} tests were not run")
        reasons += [f"{label}: {error}" for error in suite["errors"]]
        reasons += _policy_reasons(suite, fail_on)
    return reasons


def _policy_reasons(suite: Data, fail_on: list[str]) -> list[str]:
    """What is red only because the job says so."""
    red = [test for test in suite["tests"] if is_red(test, fail_on) and not is_red(test)]
    said = {"flaky": "passed only when tried again", "xpass": "passed and should have failed", "not_run": "left out"}
    reasons = []
    for status, text in said.items():
        names = [test["name"] or f"number {test['number']}" for test in red if test["status"] == status]
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            listed = ", ".join(f"{name:.80}" for name in names[:3])
            tests = "1 test" if len(names) == 1 else f"{len(names)} tests"
            reasons.append(f"{suite_label(suite)}: fail_on {status}: {tests} {text}: {listed}{more}")
    return reasons


def _totals(suites: list[Data]) -> Data:
    tests: Counter[str] = Counter()
    for suite in suites:
        tests.update(suite["counts"])
    statuses = Counter(suite["status"] for suite in suites)
    return {
        "tests": {status: tests[status] for status in STATUSES},
        "suites": {status: statuses[status] for status in SUITE_STATUSES},
    }


def _span(job: Job, phases: list[Data]) -> tuple[float | None, float | None]:
    times = [time for entry in phases for time in (entry["started"], entry["ended"]) if time is not None]
    begun = [entry["started"] for entry in phases if entry["started"] is not None]
    return min(begun, default=_epoch(job.created)), max(times, default=None)


def _epoch(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()


def _iso(time: float | None) -> str | None:
    """Seconds since the epoch as text; None for a time no calendar has, because a guest's clock may say anything."""
    if time is None or time > FAR:
        return None
    return datetime.fromtimestamp(time, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
