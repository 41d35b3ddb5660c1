# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""libvirt-NSS: is it there, is it asked, does it answer."""

from __future__ import annotations

import dataclasses
import re
import socket
import typing as t
from pathlib import Path

# libvirt_guest answers by domain name; the plain libvirt module answers by the name a guest claims, for every guest that claims it.
SERVICE = "libvirt_guest"
NSSWITCH = Path("/etc/nsswitch.conf")
_HOSTS = re.compile(r"^[ \t]*hosts:([^#\n]*)", re.MULTILINE)
_LOCAL = ("compat", "db", "files", "myhostname", "mymachines", SERVICE)
_LIBRARY_DIRS = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")


@dataclasses.dataclass(frozen=True)
class NssState:
    """Whether this host resolves domain names."""

    module: bool
    configured: bool

    @property
    def works(self) -> bool:
        return self.module and self.configured


def state(nsswitch: Path = NSSWITCH) -> NssState:
    """Look at this host."""
    text = nsswitch.read_text(encoding="utf-8") if nsswitch.exists() else ""
    return NssState(module=_library_present(), configured=asked_early(text))


def hosts_services(text: str) -> list[str]:
    """Return the services of the hosts line of an nsswitch.conf, actions in brackets left out."""
    match = _HOSTS.search(text)
    return re.sub(r"\[[^]]*\]", " ", match.group(1)).split() if match else []


def asked_early(text: str) -> bool:
    """Tell whether our service is asked before one that asks other machines, and before a bracket that may end the search."""
    match = _HOSTS.search(text)
    return bool(match) and SERVICE in _local_part(_tokens(match.group(1)))


def with_guests(text: str) -> str:
    """Return the hosts line with our service behind those that answer at once and for this host itself."""
    match = _HOSTS.search(text)
    line = match.group(0) if match else "hosts: files dns"
    if asked_early(line):
        return line
    tokens = [token for token in _tokens(line.partition(":")[2].partition("#")[0]) if token != SERVICE]
    tokens.insert(len(_local_part(tokens)), SERVICE)
    return f"hosts:          {' '.join(tokens)}"


def _tokens(text: str) -> list[str]:
    """Return services and [actions] in their order."""
    return re.findall(r"\[[^]]*\]|\S+", text)


def _local_part(tokens: list[str]) -> list[str]:
    """Return the services at the beginning that know only this host and have no action behind them, or are ours."""
    local = []
    for token, behind in zip(tokens, [*tokens[1:], ""]):
        if token not in _LOCAL or (behind.startswith("[") and token != SERVICE):
            break
        local.append(token)
    return local


def resolves(name: str, addresses: t.Collection[str]) -> bool:
    """Tell whether this host's resolver gives the name one of these addresses, and no other."""
    try:
        answers = socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError):
        return False
    found = {answer[4][0] for answer in answers}
    return bool(found) and found <= set(addresses)


def _library_present() -> bool:
    name = f"libnss_{SERVICE}.so.2"
    roots = [Path(directory) for directory in _LIBRARY_DIRS]
    return any((root / name).exists() or any(root.glob(f"*-linux-gnu*/{name}")) for root in roots)
