# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the watcher of a run wrote, read and judged. Pure.

A watch that has no end was blind from some moment on: what it did not see is not known, and that is an error.
"""

from __future__ import annotations

import datetime
import json
import typing as t

from ._console import LISTED

Data = dict[str, t.Any]

_FIELDS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "watch_start": {"guests": list},
    "watch_end": {"guests": dict},
    "kernel": {"guest": str, "line": int, "kind": str, "text": str, "fatal": bool, "fingerprint": str, "frames": list, "stop": bool},
    "domain": {"guest": str, "what": str, "detail": str, "fatal": bool, "stop": bool},
    "error": {"error": str},
    "note": {"text": str},
}


def read_event(line: str) -> Data:
    """Return the event of one line; raise ValueError saying what is wrong with it."""
    event = json.loads(line)
    fields = _FIELDS.get(event.get("event")) if isinstance(event, dict) else None
    if fields is None:
        raise ValueError("it is no event of a watcher")
    for name, kind in {"time": (int, float), **fields}.items():
        if not isinstance(event.get(name), kind):
            raise ValueError(f"{event['event']} with {name} {event.get(name)!r:.80}")
    return event


def last_watch(text: str) -> list[Data]:
    """Return the events of the last watch: a prepare that is tried again starts another, which reads everything anew.

    A last line without end is left out, for its writer was killed. Any other line that cannot be read raises ValueError.
    """
    events = []
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        try:
            events.append(read_event(line))
        except ValueError as error:
            raise ValueError(f"watch.jsonl line {number} cannot be read: {error}") from error
    starts = [number for number, event in enumerate(events) if event["event"] == "watch_start"]
    return events[starts[-1] :] if starts else []


def judge_watch(text: str | None, guests: t.Iterable[str]) -> tuple[list[Data], list[str]]:
    """Return what the watcher saw, and why that is not all there was to see on these guests."""
    if text is None:
        return [], ["the consoles were not watched: there is no watch.jsonl"]
    try:
        events = last_watch(text)
    except ValueError as error:
        return [], [str(error)]
    if not events:
        return [], ["the consoles were not watched: watch.jsonl has no watch_start"]
    errors = [f"the watcher reported: {_about(event)}{event['error']}" for event in events if event["event"] == "error"]
    unwatched = sorted(set(guests) - set(events[0]["guests"]))
    errors += [f"the console of {guest} was not watched" for guest in unwatched]
    if events[-1]["event"] != "watch_end":
        errors.append(f"the watcher went away: it was last heard at {clock(events[-1]['time'])}, and what came after it did not see")
    elif events[-1].get("told") is False:
        errors.append(f"the watch ended by itself at {clock(events[-1]['time'])}, for the run was over; what came after it did not see")
    gone = {event["guest"]: event for event in events if event["event"] == "domain" and event["what"] in ("stopped", "io_error")}
    errors += [f"{event['guest']} {_BEFELL[event['what']]} at {clock(event['time'])}: {event['detail']}" for event in gone.values()]
    return events, errors


_BEFELL = {"stopped": "went away while the job ran,", "io_error": "had an I/O error"}


def _about(event: Data) -> str:
    return f"{event['guest']}: " if event.get("guest") else ""


def clock(time: float) -> str:
    return datetime.datetime.fromtimestamp(min(time, 32503680000), datetime.timezone.utc).strftime("%H:%M:%S")


def add_sightings(console: Data, events: t.Iterable[Data], guest: str) -> None:
    """Give each splat of a guest's console the time at which it was seen, and add what only the watcher knows."""
    splats = [*console["trouble"], *console["allowed"]]
    by_line = {(splat["line"], splat["kind"]): splat for splat in splats}
    # Where old parts of a console are gone its lines are counted otherwise.
    by_fingerprint = {splat["fingerprint"]: splat for splat in splats}
    for event in events:
        if event.get("guest") != guest:
            continue
        if event["event"] == "kernel":
            splat = by_line.get((event["line"], event["kind"])) or by_fingerprint.get(event["fingerprint"])
            if splat is not None:
                splat["time"] = splat["time"] or iso(event["time"])
            elif not event.get("allowed") and (event["fatal"] or len(console["trouble"]) < LISTED):
                console["trouble"].append(_seen(event, event["line"], event["text"], event["kind"]))
        elif event["event"] == "domain" and event["what"] in ("crashed", "watchdog"):
            if event["what"] == "crashed" and any(splat["fatal"] for splat in console["trouble"]):
                continue  # the console has told it better
            console["trouble"].append(_seen(event, 0, f"libvirt: {event['detail']}", event["what"]))


def _seen(event: Data, line: int, text: str, kind: str) -> Data:
    return {
        "line": line,
        "text": text[:500],
        "fatal": event["fatal"],
        "kind": kind,
        "frames": [str(frame) for frame in event.get("frames", [])[:10]],
        "fingerprint": str(event.get("fingerprint", "")),
        "allowed": None,
        "splat": [],
        "time": iso(event["time"]),
    }


def iso(time: float) -> str:
    return datetime.datetime.fromtimestamp(min(time, 32503680000), datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
