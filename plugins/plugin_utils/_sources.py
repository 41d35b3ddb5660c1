# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files a job's policy is read from, on the controller: known issues and the baseline."""

from __future__ import annotations

import os
import typing as t
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlsplit, urlunsplit

import yaml
from ansible.module_utils.urls import open_url

from ..module_utils._baseline import read_baseline
from ..module_utils._errors import InvalidInput, MayflyError
from ..module_utils._known import check_known_issues

KNOWN_ISSUES = Path(__file__).resolve().parents[2] / "extensions" / "known_issues"
SHIPPED = "mayfly.virt:"  # before the name of a file that the collection brings
KNOWN_LIMIT = 1 << 20  # bytes
BASELINE_LIMIT = 256 << 20
URL_TIMEOUT = 60  # seconds without an answer


def known_issues(sources: t.Iterable[str]) -> list[dict[str, t.Any]]:
    """Read and check files of known issues, those that the collection brings among them; an id is there once in all of them."""
    entries: list[dict[str, t.Any]] = []
    of: dict[str, str] = {}
    for source in dict.fromkeys(source for source in sources if source):
        for entry in _known_issues(source):
            other = of.setdefault(entry["id"], source)
            if other != source:
                raise InvalidInput("Known issue", f"{source} ({entry['id']})", f"'{other}' has this id too", "Ids are unique.")
            entries.append(entry)
    return entries


def _known_issues(source: str) -> list[dict[str, t.Any]]:
    path = _shipped(source) if source.startswith(SHIPPED) else source
    text = _read_file(path, KNOWN_LIMIT, "read the known issues", "mayfly_known_issues is relative to where ansible-playbook is started.")
    try:
        entries = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidInput("Known issues", source, f"the file is no YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise InvalidInput("Known issues", source, "the file is nested too deeply") from error
    return check_known_issues(entries, source)


def _shipped(source: str) -> str:
    """Return the path of a file of known issues that the collection brings."""
    found = {path.name: path for path in KNOWN_ISSUES.glob("*.yml")}
    path = found.get(source[len(SHIPPED) :])
    if path is None:
        there = ", ".join(f"{SHIPPED}{name}" for name in sorted(found))
        raise InvalidInput("Known issues", source, "the collection brings no such file", f"It brings {there}.")
    return str(path)


def baseline(source: str) -> dict[str, t.Any] | None:
    """Read an earlier verdict.json and reduce it to what a comparison needs; None for no source."""
    if not source:
        return None
    remedy = "Leave mayfly_baseline out where there is no earlier verdict yet."
    if urlsplit(source).scheme in ("http", "https"):
        public = public_url(source)
        return read_baseline(_decode(_read_url(source, public, remedy), "use the baseline", public), public)
    return read_baseline(_read_file(source, BASELINE_LIMIT, "read the baseline", remedy), source)


def public_url(url: str) -> str:
    """Return a URL without what may be secret in it, for it is written into results that others read."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _read_url(url: str, public: str, remedy: str) -> bytes:
    try:
        with open_url(url, timeout=URL_TIMEOUT, follow_redirects="safe") as answer:
            data: bytes = answer.read(BASELINE_LIMIT + 1)
    except (URLError, OSError, ValueError) as error:
        reason = str(getattr(error, "reason", error)).replace(url, public)
        raise MayflyError("read the baseline", public, reason, remedy) from error
    return _bounded(data, BASELINE_LIMIT, "read the baseline", public)


def _read_file(path: str, limit: int, attempted: str, remedy: str) -> str:
    try:
        with open(os.path.expanduser(path), "rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise MayflyError(attempted, path, error.strerror or str(error), remedy) from error
    return _decode(_bounded(data, limit, attempted, path), attempted, path)


def _bounded(data: bytes, limit: int, attempted: str, target: str) -> bytes:
    if len(data) > limit:
        raise MayflyError(attempted, target, f"it is larger than {limit >> 20} MiB")
    return data


def _decode(data: bytes, attempted: str, target: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MayflyError(attempted, target, f"it is not UTF-8: {error.reason} at byte {error.start}") from error
