# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names of runs, guests and domains, and the MAC addresses derived from them."""

from __future__ import annotations

import hashlib
import re

from ._errors import InvalidInput

MAX_DOMAIN_NAME = 63
MAX_RUN_ID = 40

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


def _check_label(what: str, name: str, longest: int) -> str:
    if len(name) > longest:
        raise InvalidInput(what, name, f"it has {len(name)} characters", f"Use at most {longest}.")
    if not _LABEL.fullmatch(name):
        raise InvalidInput(
            what,
            name,
            "the name does not match [a-z0-9]([a-z0-9-]*[a-z0-9])?",
            "Use lower-case letters, digits and inner dashes only: libvirt-NSS, ssh and DNS must all accept it.",
        )
    return name


def check_run_id(run_id: str) -> str:
    """Return the run id, or raise InvalidInput."""
    return _check_label("Run id", run_id, MAX_RUN_ID)


def is_run_id(text: str) -> bool:
    """Tell whether the text could be the id of a run: what a tag says becomes a path, and a tag may be anybody's."""
    return len(text) <= MAX_RUN_ID and bool(_LABEL.fullmatch(text))


def check_domain_name(name: str) -> str:
    """Return the domain name, or raise InvalidInput."""
    _check_label("Domain name", name, MAX_DOMAIN_NAME)
    if name.startswith("tck"):
        raise InvalidInput("Domain name", name, "it begins with 'tck'", "libvirt-TCK deletes every domain called so; choose another.")
    return name


def check_unique(what: str, names: list[str]) -> None:
    """Refuse a list in which a name stands twice."""
    for name in names:
        if names.count(name) > 1:
            raise InvalidInput(what, name, "it is given more than once", "Give each object of a task its own name.")


def check_user(user: str) -> str:
    """Return the name of a login in a guest, or raise InvalidInput: ssh would take -o... for an option."""
    if not _USER.fullmatch(user):
        raise InvalidInput("User", user, "it does not match [a-z_][a-z0-9_-]{0,31}", "Name a login as useradd(8) would accept it.")
    return user


def check_mac(mac: str) -> str:
    """Return the unicast MAC address in lower case, or raise InvalidInput."""
    lowered = mac.lower()
    if not _MAC.fullmatch(lowered):
        raise InvalidInput("MAC address", mac, "it is not six hexadecimal octets", "Write it as 52:54:00:12:34:56.")
    if int(lowered[:2], 16) & 1:
        raise InvalidInput("MAC address", mac, "it is a multicast address", "Use an even first octet.")
    return lowered


def derive_mac(domain: str, index: int = 0) -> str:
    """Return a locally administered address that depends on the domain's name and the interface's number alone.

    A retried prepare gets the same address. Four free octets keep two of a thousand guests apart
    (the usual three, under 52:54:00, would make them meet in one of thirty such sets).
    """
    digest = hashlib.sha256(f"{domain}/{index}".encode()).digest()
    return ":".join(f"{octet:02x}" for octet in b"\x52\x54" + digest[:4])
