# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a job file to what the phases need: images, domains, suites. Pure."""

from __future__ import annotations

import hashlib
import os
import typing as t

from ..module_utils._console import read_allowances
from ..module_utils._errors import InvalidInput
from ..module_utils._names import check_domain_name, check_run_id, check_unique
from ..module_utils._scrub import job_patterns, scrub_text
from . import _job_secrets, _suites
from ._artifacts import check_pattern

# Keys of a guest that are about its image and name; all others go to the module domain as they are.
_LONGEST_ALIAS = 100
_OWN_KEYS = ("name", "image", "kernel", "toolchains", "packages")


def plan(job: t.Mapping[str, t.Any], run_id: str, created: str, directory: str) -> dict[str, t.Any]:
    """Return the job with every default filled in and every name derived, or raise InvalidInput.

    Relative sources of suites are below the directory.
    """
    check_run_id(run_id)
    guests = [dict(guest) for guest in job["guests"]]
    if not guests:
        raise InvalidInput("Job", job["name"], "it has no guests", "List at least one in mayfly_guests.")
    check_unique("Guest name", [guest["name"] for guest in guests])
    suites = [_suite(suite, [guest["name"] for guest in guests], directory) for suite in job.get("suites") or []]
    check_unique("Suite name", [suite["name"] for suite in suites])
    images = [_image(guest, job) for guest in guests]
    planned = {
        "run_id": run_id,
        "job": job["name"],
        "created": created,
        "toolchains": list(job.get("toolchains") or []),
        "images": list({image["name"]: image for image in images}.values()),
        "guests": [_guest(guest, image, job, run_id) for guest, image in zip(guests, images)],
        "suites": suites,
        "watch": True,
        "console_allow": _console_allow(job.get("console_allow") or []),
        "evidence": _evidence(job),
        "policy": dict(job.get("policy") or {}),
    }
    _job_secrets.check(planned, _secrets(job))
    return planned


_KEPT_WHEN = ("on_crash", "never", "always")


def _evidence(job: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Return what is to be kept; of secrets only how many there are, so that who collects is known to have them all."""
    dump, overlay = job.get("memory_dump") or "on_crash", job.get("keep_overlay") or "never"
    for what, when in (("Memory dump", dump), ("Overlay", overlay)):
        if when not in _KEPT_WHEN:
            raise InvalidInput(what, str(when), "there is no such choice", f"Choose one of {', '.join(_KEPT_WHEN)}.")
    secrets = _secrets(job)
    job_patterns(secrets)
    return {
        "artifacts": [check_pattern(pattern) for pattern in job.get("artifacts") or []],
        "memory_dump": dump,
        "memory_dump_limit_mib": int(job.get("memory_dump_limit_mib") or 4096),
        "keep_overlay": overlay,
        "keep_overlay_limit_mib": int(job.get("keep_overlay_limit_mib") or 8192),
        "secrets": len(secrets),
    }


def _secrets(job: t.Mapping[str, t.Any]) -> list[str]:
    return [str(secret) for secret in job.get("secrets") or []]


def _console_allow(entries: t.Sequence[t.Mapping[str, t.Any]]) -> list[dict[str, str]]:
    """Return the allow list as it is written down; YAML makes a date of a day."""
    texts = [{key: str(value) for key, value in entry.items()} for entry in entries]
    read_allowances(texts)
    return texts


def _image(guest: t.Mapping[str, t.Any], job: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Return the image a guest stands on: what it names, with the job's toolchains and the guest's kernel and packages baked in."""
    toolchains = sorted(_toolchains(guest, job))
    packages = sorted(set(guest.get("packages") or []))
    parts = [guest["image"], guest.get("kernel") or "", *toolchains, *packages]
    return {
        "name": _short("+".join(part for part in parts if part)),
        "base": guest["image"],
        "kernel": guest.get("kernel") or "",
        "toolchains": toolchains,
        "packages": packages,
    }


def _toolchains(guest: t.Mapping[str, t.Any], job: t.Mapping[str, t.Any]) -> list[str]:
    """Return the job's toolchains and the guest's own, each once, in the order in which their roles run."""
    return list(dict.fromkeys([*(job.get("toolchains") or []), *(guest.get("toolchains") or [])]))


def _short(name: str) -> str:
    """Return a name that is no longer than an alias may be, and still another one for other packages."""
    if len(name) <= _LONGEST_ALIAS:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    return f"{name[: _LONGEST_ALIAS - 13]}+{digest}"


def _guest(guest: t.Mapping[str, t.Any], image: t.Mapping[str, t.Any], job: t.Mapping[str, t.Any], run_id: str) -> dict[str, t.Any]:
    options = {key: value for key, value in guest.items() if key not in _OWN_KEYS}
    domain = check_domain_name(f"{guest['name']}-{run_id}")
    return {"name": guest["name"], "domain": domain, "image": image["name"], "toolchains": _toolchains(guest, job), "options": options}


def _suite(suite: t.Mapping[str, t.Any], guests: list[str], directory: str) -> dict[str, t.Any]:
    wanted = list(suite.get("guests") or guests)
    for name in wanted:
        if name not in guests:
            raise InvalidInput(
                "Suite", suite["name"], f"it shall run on guest '{name}', which the job has not", f"Its guests: {', '.join(guests)}."
            )
    _suites.check(suite)
    filled = {**suite, "parser": _suites.parser(suite), "guests": wanted}
    if suite.get("source"):
        filled["source"] = os.path.normpath(os.path.join(directory, os.path.expanduser(suite["source"])))
    return filled


def domains(
    guests: t.Sequence[t.Mapping[str, t.Any]], images: t.Mapping[str, str], network: str, ca_certificates: t.Sequence[str]
) -> list[dict[str, t.Any]]:
    """Return the guests of a plan as options of the module domain."""
    return [_domain(guest, images.get(guest["image"], guest["image"]), network, ca_certificates) for guest in guests]


def _domain(guest: t.Mapping[str, t.Any], image: str, network: str, ca_certificates: t.Sequence[str]) -> dict[str, t.Any]:
    options = dict(guest["options"])
    seed = dict(options.pop("seed", None) or {})
    seed["ca_certificates"] = [*(seed.get("ca_certificates") or []), *ca_certificates]
    options.setdefault("interfaces", [{"network": network}])
    return {**options, "name": guest["domain"], "guest": guest["name"], "image": image, "seed": seed}


# What the module domain tells of a guest that the verdict and a later phase want to know.
_MADE_KEYS = ("uuid", "digest", "kernel", "accel", "address", "mac", "user", "console_log", "stage", "seconds", "message")


def record(plan_: t.Mapping[str, t.Any], made: t.Sequence[t.Mapping[str, t.Any]], secrets: t.Sequence[str] = ()) -> dict[str, t.Any]:
    """Return the plan with what became of its guests, as it is written to job.json: without secrets."""
    by_domain = {result["name"]: {key: result[key] for key in _MADE_KEYS if key in result} for result in made}
    for facts in by_domain.values():
        if facts.get("message"):
            facts["message"] = scrub_text(facts["message"], job_patterns(secrets))[0]
    written = _job_secrets.put_away(plan_, secrets)
    guests = [{**guest, **by_domain.get(guest["domain"], {})} for guest in written["guests"]]
    return {**written, "guests": guests}


def read(plan_: t.Mapping[str, t.Any], secrets: t.Sequence[str]) -> dict[str, t.Any]:
    """Return the plan in a job.json, its secrets put back."""
    return _job_secrets.put_back(plan_, secrets)
