# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A job's secrets in what is written down of it: put away under their numbers, and put back by who has them. Pure.

A phase that runs by itself needs the commands and environments of the suites, secrets and all; job.json, in which it finds them, is
among the results. So job.json has '[mayfly_secrets 1.1]' where the first line of the job's first secret stood.
"""

from __future__ import annotations

import re
import typing as t

from ..module_utils._errors import InvalidInput
from ..module_utils._scrub import REGEX, job_patterns, scrub_text, unmistakable

_MARK = re.compile(r"\[mayfly_secrets ([0-9]{1,6})\.([0-9]{1,6})\]")
# What a job is known by stays as it is: results, domains and images are named after it.
_NAMES_OF_SUITE = ("name", "guests", "parser", "harness")


def put_away(plan: t.Mapping[str, t.Any], secrets: t.Sequence[str]) -> dict[str, t.Any]:
    """Return the plan with marks in place of the secrets in what its suites and guests are given."""
    marks = {line: f"[mayfly_secrets {number}.{row}]" for number, row, line in _lines(secrets)}
    if not marks:
        return dict(plan)
    # The longest first: one secret may be the beginning of another.
    listed = re.compile("|".join(re.escape(line) for line in sorted(marks, key=len, reverse=True)))

    def hidden(text: str) -> str:
        return listed.sub(lambda match: marks[match[0]], text)

    suites = [{**_mapped(suite, hidden), **{name: suite[name] for name in _NAMES_OF_SUITE if name in suite}} for suite in plan["suites"]]
    guests = [{**guest, "options": _mapped(guest["options"], hidden)} for guest in plan["guests"]]
    artifacts = _mapped(plan["evidence"]["artifacts"], hidden)
    return {**plan, "suites": suites, "guests": guests, "evidence": {**plan["evidence"], "artifacts": artifacts}}


def put_back(plan: t.Mapping[str, t.Any], secrets: t.Sequence[str]) -> dict[str, t.Any]:
    """Return a plan that was read from job.json with the secrets in it; without any given it stays as it is."""
    lines = {(number, row): line for number, row, line in _lines(secrets)}

    def shown(match: re.Match[str]) -> str:
        place = (int(match[1]), int(match[2]))
        if place not in lines:
            reason = f"its line {place[1]} was used by the job, and it has none now"
            raise InvalidInput("Secret", f"number {place[0]}", reason, "Give the same job file again.")
        return lines[place]

    return dict(_mapped(plan, lambda text: _MARK.sub(shown, text))) if secrets else dict(plan)


def check(plan: t.Mapping[str, t.Any], secrets: t.Sequence[str]) -> None:
    """Raise InvalidInput, which shows no secret, when job.json would have one all the same."""
    listed = [(number, job_patterns([secret]), secret.startswith(REGEX)) for number, secret in enumerate(secrets, start=1)]
    for where, text in _strings(plan, ""):
        if secrets and _MARK.search(text):
            reason = f"its {where} has a '[mayfly_secrets …]', which stands for a secret"
            raise InvalidInput("Job", plan["job"], reason, "Say it otherwise.")
    for where, text in _strings(put_away(plan, secrets), ""):
        for number, patterns, regex in listed:
            if any(pattern.regex.search(line) for pattern in patterns for line in text.encode().splitlines()):
                place = scrub_text(where, patterns)[0]
                remedy = "List the text itself." if regex else "List another, or call that otherwise."
                raise InvalidInput("Secret", f"number {number}", f"it is in the job's {place}, and would be written down with it", remedy)
        kind = unmistakable(text)
        if kind:
            reason = f"its {scrub_text(where)[0]} has what looks like a {kind}, and would be written down with it"
            raise InvalidInput("Job", plan["job"], reason, "List the secret in mayfly_secrets; the suites get it all the same.")


def _lines(secrets: t.Sequence[str]) -> t.Iterator[tuple[int, int, str]]:
    """Yield number, row and text of each line of the literal secrets."""
    for number, secret in enumerate(secrets, start=1):
        if not secret.startswith(REGEX):
            for row, line in enumerate((line.strip() for line in secret.splitlines() if line.strip()), start=1):
                yield number, row, line


def _mapped(value: t.Any, change: t.Callable[[str], str]) -> t.Any:
    """Return the value with each string in it changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, t.Mapping):
        return {_mapped(key, change): _mapped(each, change) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_mapped(each, change) for each in value]
    return value


def _strings(value: t.Any, where: str) -> t.Iterator[tuple[str, str]]:
    """Yield each string in a value, with where it stands."""
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, t.Mapping):
        for key, each in value.items():
            below = f"{where}.{key}" if where else str(key)
            yield f"{where or 'plan'} (a name in it)", str(key)
            yield from _strings(each, below)
    elif isinstance(value, (list, tuple)):
        for number, each in enumerate(value):
            yield from _strings(each, f"{where}[{number}]")
