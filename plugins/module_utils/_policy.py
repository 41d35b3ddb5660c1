# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a job has decided about its verdict: known issues, what else is red, the baseline. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ._baseline import refusal
from ._errors import InvalidInput, MayflyError
from ._known import check_known_issues
from ._outcome import FAIL_ON

Data = dict[str, Any]


@dataclass
class Policy:
    """The policy of a job as job.json has it."""

    known_issues: list[Data] = field(default_factory=list)
    fail_on: list[str] = field(default_factory=list)
    baseline: Data | None = None


def check_fail_on(names: Any) -> list[str]:
    """Return what the job calls red beside what is, or raise InvalidInput."""
    if not isinstance(names, list):
        raise InvalidInput("Policy", "mayfly_fail_on", "it is no list", f"List some of {', '.join(FAIL_ON)}.")
    for name in names:
        if name not in FAIL_ON:
            raise InvalidInput("Policy", "mayfly_fail_on", f"it has '{name!s:.80}'", f"It can have {', '.join(FAIL_ON)}.")
    return list(dict.fromkeys(names))


def read_policy(raw: Any) -> tuple[Policy, list[str]]:
    """Return the policy in job.json, and what is wrong with it: a policy that cannot be read excuses nothing and hides nothing."""
    policy = Policy()
    if raw is None:
        return policy, []
    if not isinstance(raw, dict):
        return policy, ["job.json has a policy that is no object"]
    errors = []
    try:
        policy.known_issues = check_known_issues(raw.get("known_issues"), "job.json")
        policy.fail_on = check_fail_on(raw.get("fail_on") or [])
    except MayflyError as error:
        errors.append(str(error))
    if raw.get("baseline") is not None:
        reason = refusal(raw["baseline"])
        if reason is None:
            policy.baseline = raw["baseline"]
        else:
            errors.append(f"job.json has a baseline that cannot be used: {reason}")
    return policy, errors
