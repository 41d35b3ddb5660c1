# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How we log in to a guest: pinned host key, the run's own key, no questions. Pure."""

from __future__ import annotations

import dataclasses
import typing as t


@dataclasses.dataclass(frozen=True)
class Access:
    """What ssh needs to know of one guest."""

    domain: str
    user: str
    key: str
    known_hosts: str


def options(access: Access) -> dict[str, str]:
    """Return ssh options by which the guest is known by its domain name, whatever address it has."""
    return {
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": f'"{access.known_hosts}"',  # ssh takes several, parted by blanks
        "GlobalKnownHostsFile": "/dev/null",
        "HostKeyAlias": access.domain,
        "HostKeyAlgorithms": "ssh-ed25519",
        "UpdateHostKeys": "no",
        "IdentitiesOnly": "yes",
        "PasswordAuthentication": "no",
    }


def arguments(settings: t.Mapping[str, str]) -> list[str]:
    return [argument for name, value in settings.items() for argument in ("-o", f"{name}={value}")]


# What a login without a script prints when it was accepted.
ACCEPTED = "mayfly: login accepted"


def login_argv(access: Access, address: str, script: str, seconds: float) -> list[str]:
    """Return one patient login: key exchange may take an emulated guest long, silence may not.

    Without a script it ends as soon as sshd has accepted it: a session would cost an emulated guest another second or two.
    """
    settings = {
        **options(access),
        "BatchMode": "yes",
        "ConnectTimeout": str(max(1, int(seconds))),
        "ServerAliveInterval": "15",
        "ServerAliveCountMax": "4",
    }
    what = [f"{access.user}@{address}", script]
    if not script:
        settings.update(PermitLocalCommand="yes", LocalCommand=f"exec /bin/sh -c 'echo {ACCEPTED}; kill $PPID'")
        what = ["-N", f"{access.user}@{address}"]
    ssh = ["ssh", "-F", "none", "-i", access.key, *arguments(settings), *what]
    return ["timeout", "--kill-after=2", str(max(1, int(seconds) + 1)), *ssh]


def accepted(code: int, out: str, script: str) -> bool:
    """Tell whether a login of login_argv did what it was for."""
    return code == 0 if script else ACCEPTED in out
