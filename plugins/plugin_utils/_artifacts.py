# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked of a guest as shell text, and how its answer is read. Pure."""

from __future__ import annotations

import dataclasses
import re
import shlex
import typing as t

from ..module_utils._errors import InvalidInput
from ._contact import MARK, printable

_STATUS = re.compile(r"^mayfly-status (\d+)$", re.MULTILINE)
_NONE = re.compile(r"^mayfly-none (\d+)$", re.MULTILINE)
_NO_DIRECTORY = "mayfly-relative"
_MAGIC = re.compile(r"[*?\[]")


def check_pattern(pattern: str) -> str:
    """Return the path or glob, or raise InvalidInput."""
    if not pattern.startswith("/"):
        raise InvalidInput("Path", pattern, "it is not absolute", "Begin it with /.")
    if ".." in pattern.split("/"):
        raise InvalidInput("Path", pattern, "it has a part '..'", "Name the directory itself.")
    if not pattern.isprintable():
        raise InvalidInput("Path", repr(pattern), "it has control characters", "Remove them.")
    return pattern


def is_glob(pattern: str) -> bool:
    return bool(_MAGIC.search(pattern))


def command_text(command: str, timeout: int, max_bytes: int) -> str:
    """Shell text that prints the end of what a command says, then its status on a line of its own: a pipe would hide it."""
    run = f'{{ timeout {timeout} sh -c {shlex.quote(command)}; echo "mayfly-status $?"; }} 2>&1 | tail -c {max_bytes + 64}'
    script = f"printf '%s\\n' {MARK.strip()}; {run}"
    return f"sh -c {shlex.quote(script)}"


def paths_text(patterns: t.Sequence[str], limit: int, timeout: int) -> str:
    """Shell text that prints an archive of what the patterns match, and on stderr the numbers of those that match nothing."""
    collect = "\n".join(
        [
            "IFS=; set --; number=0",
            f"for pattern in {' '.join(shlex.quote(pattern) for pattern in patterns)}; do",
            "  number=$((number + 1)); found=",
            '  for path in $pattern; do if [ -e "$path" ] || [ -L "$path" ]; then set -- "$@" "${path#/}"; found=1; fi; done',
            '  [ "$found" ] || echo "mayfly-none $number" >&2',
            "done",
        ]
    )
    return _archive(collect, "/", limit, timeout)


def coredumps_text(limit: int, timeout: int) -> str:
    """Shell text that prints an archive of the core dumps that lie where the kernel's core_pattern says."""
    collect = "\n".join(
        [
            "IFS=; set --",
            "pattern=$(sed 's/%./*/g' /proc/sys/kernel/core_pattern)",
            "case $pattern in",
            "'|'*systemd-coredump*) pattern='/var/lib/systemd/coredump/*' ;;",
            "/*) pattern=$pattern* ;;",  # kernel.core_uses_pid adds a number
            f"*) echo {_NO_DIRECTORY} >&2; pattern= ;;",
            "esac",
            'directory=${pattern%/*}; for path in $pattern; do [ -f "$path" ] && set -- "$@" "./${path##*/}"; done',
        ]
    )
    return _archive(collect, '"$directory"', limit, timeout)


def directory_text(directory: str, limit: int, timeout: int) -> str:
    """Shell text that prints an archive of all a directory has."""
    return _archive("set -- .", shlex.quote(directory), limit, timeout)


def _archive(collect: str, base: str, limit: int, timeout: int) -> str:
    script = "\n".join(
        [
            collect,
            f"printf '%s\\n' {MARK.strip()}",
            "[ $# -gt 0 ] || { echo 'mayfly-status 0' >&2; exit 0; }",
            f'{{ timeout {timeout} tar -C {base} -czf - -- "$@"; echo "mayfly-status $?" >&2; }} | head -c {limit}',
        ]
    )
    return f"sh -c {shlex.quote(script)}"


@dataclasses.dataclass(frozen=True)
class Answer:
    """An archive, empty when there was nothing to put in; which patterns matched nothing; and what is wrong with it."""

    archive: bytes
    unmatched: list[str]
    relative: bool
    problem: str


def read_archive(status: int, output: bytes, errors: str, patterns: t.Sequence[str], limit: int) -> Answer:
    """Return what the shell text of an archive answered."""
    _noise, mark, archive = output.partition(MARK.encode())
    numbers = {int(found) for found in _NONE.findall(errors)}
    unmatched = [pattern for number, pattern in enumerate(patterns, start=1) if number in numbers]
    return Answer(archive, unmatched, _NO_DIRECTORY in errors, _problem(status, bool(mark), archive, errors, limit))


def _problem(status: int, marked: bool, archive: bytes, errors: str, limit: int) -> str:
    lines = [printable(line)[:150] for line in errors.splitlines() if line and not line.startswith("mayfly-")]
    said = "; ".join(lines[:3])
    if not marked:
        return f"the answer is not ours, exit status {status}: {said or 'no message'}"
    if len(archive) >= limit:
        return f"there is more than {limit} bytes of it, packed"
    ended = _STATUS.search(errors)
    if ended is None:
        return f"the archive was not finished: {said or 'no message'}"
    # 1: a file changed while it was read, as logs do.
    return "" if int(ended[1]) in (0, 1) else f"tar ended with status {ended[1]}: {said or 'no message'}"


def read_command(status: int, output: bytes, errors: str, max_bytes: int) -> tuple[bytes, bool, str]:
    """Return what a command printed, whether its beginning was cut off, and why the command is not to be trusted."""
    _noise, _mark, said = output.partition(MARK.encode())
    text, separator, code = said.rpartition(b"mayfly-status ")
    if not separator:
        return said, False, f"the connection ended early with status {status}: {printable(errors.strip())[:300]}"
    ended = code.decode("ascii", "replace").strip()
    problem = "" if ended == "0" else f"the command ended with status {printable(ended)[:20]}"
    return text[-max_bytes:], len(text) > max_bytes, problem
