# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tagged domains as Ansible hosts: read them from libvirt, and say how each is reached. For plugins on the controller."""

from __future__ import annotations

import os
import shlex
import typing as t
from pathlib import Path
from urllib.parse import urlsplit

from ..module_utils import _nss
from ..module_utils._libvirt import LIBVIRT_ERROR, Hypervisor
from ..module_utils._lxml import LXML_ERROR, missing_library
from ..module_utils._run import RunPaths
from ..module_utils._ssh import Access, arguments, options
from ..module_utils._watch import WatchPaths

Record = dict[str, t.Any]

# How long ssh may take to connect, in seconds: a key exchange under emulation outlasts Ansible's ten.
CONNECT_SECONDS = 60


def missing_libraries() -> str:
    """Return what Ansible's own interpreter lacks to ask libvirt, or an empty string."""
    if LIBVIRT_ERROR:
        return missing_library("libvirt", "python3-libvirt")
    return missing_library("lxml", "python3-lxml") if LXML_ERROR else ""


def read_records(uri: str, *, untagged: bool = False) -> list[Record]:
    """Return plain facts of the domains behind one URI: one call for the list, one for states, one for each network's leases, and one
    for each domain's description, in which the tag stands (libvirt has no call that returns the tags of several)."""
    with Hypervisor.open(uri, read_only=False) as hypervisor:
        domains = [domain for domain in hypervisor.domains() if domain.tag or untagged]
        if not domains:
            return []
        states = hypervisor.states()
        addresses: dict[str, list[str]] = {}
        for lease in sorted(hypervisor.leases(), key=lambda lease: -lease.expiry):
            addresses.setdefault(lease.mac, []).append(lease.address)
    records = []
    for domain in sorted(domains, key=lambda domain: domain.name):
        tag = domain.tag
        records.append(
            {
                "uri": uri,
                "name": domain.name,
                "uuid": domain.uuid,
                "state": states.get(domain.uuid, "gone"),
                "macs": list(domain.macs),
                "addresses": [address for mac in domain.macs for address in addresses.get(mac.lower(), [])],
                "memory_mib": domain.memory_mib,
                "vcpus": domain.vcpus,
                "run": tag.run if tag else "",
                "guest": tag.guest if tag else "",
                "role": tag.role if tag else "",
                "owner": tag.owner if tag else "",
                "created": tag.created if tag else "",
                "deadline": tag.deadline if tag else "",
                "image": tag.image if tag else "",
                "digest": tag.digest if tag else "",
                "kernel": tag.kernel if tag else "",
                "accel": tag.accel if tag else "",
                "user": tag.user if tag else "",
                "state_dir": tag.state_dir if tag else "",
            }
        )
    return records


def watch(record: Record) -> dict[str, str]:
    """Return where the run's watcher writes: the file, and the host it lies on when that is not this one."""
    path = WatchPaths(RunPaths(Path(record["state_dir"]), record["run"])).events
    return {"path": str(path), "host": proxy_jump(record["uri"])}


def is_remote(uri: str) -> bool:
    return bool(urlsplit(uri).hostname)


def proxy_jump(uri: str) -> str:
    """Return what ssh shall jump through to reach the guests of a remote hypervisor."""
    parts = urlsplit(uri)
    if not parts.hostname:
        return ""
    user = f"{parts.username}@" if parts.username else ""
    port = f":{parts.port}" if parts.port else ""
    return f"{user}{parts.hostname}{port}"


def host_vars(record: Record, *, prefix: str, access_dir: str, by_name: bool) -> dict[str, t.Any]:
    """Return the variables of one host; by_name tells that this machine resolves the domain's name."""
    facts = {f"{prefix}{key}": value for key, value in record.items() if key != "state_dir"}
    if not record["run"]:
        return facts
    facts[f"{prefix}watch"] = watch(record)
    return {**facts, **connection_vars(record, access_dir, by_name)}


def connection_vars(record: Record, access_dir: str, by_name: bool) -> dict[str, t.Any]:
    """Return how Ansible's ssh reaches the guest: pinned host key under its domain name, the run's own key."""
    remote = is_remote(record["uri"])
    if remote:
        directory = os.path.join(os.path.expanduser(access_dir), record["run"])
    else:
        directory = str(RunPaths(Path(record["state_dir"]), record["run"]).dir) if record["state_dir"] else ""
    access = Access(record["name"], record["user"], os.path.join(directory, "id_ed25519"), os.path.join(directory, "known_hosts"))
    settings = {**options(access), "ServerAliveInterval": "10", "ServerAliveCountMax": "6"}
    if remote:
        settings["ProxyJump"] = proxy_jump(record["uri"])
    variables: dict[str, t.Any] = {
        "ansible_user": record["user"],
        "ansible_ssh_private_key_file": access.key,
        "ansible_ssh_common_args": shlex.join(arguments(settings)),
        # An address may be another guest's a minute later; a shared connection must never be.
        "ansible_control_path": f"%(directory)s/mayfly-{record['uuid'][:13]}",
        "ansible_ssh_timeout": CONNECT_SECONDS,
        # Discovery and file transfers for each module cost an emulated guest seconds.
        "ansible_python_interpreter": "/usr/bin/python3",
        "ansible_pipelining": True,
    }
    if record["user"] != "root":  # whom the seed lets become root; suites and evidence need it
        variables["ansible_become"] = True
    if by_name:
        variables["ansible_host"] = record["name"]
    elif record["addresses"]:
        variables["ansible_host"] = record["addresses"][0]
    return variables


def resolves_here(record: Record, nss_works: bool) -> bool:
    """Tell whether this machine gives the domain's name its leased address. Never asked for one without: DNS would be."""
    if is_remote(record["uri"]) or not nss_works or not record["addresses"]:
        return False
    return _nss.resolves(record["name"], record["addresses"])


def group_names(record: Record) -> list[str]:
    """Return the groups of a host, unsanitised."""
    if not record["run"]:
        return ["mayfly_untagged"]
    groups = ["mayfly", f"mayfly_run_{record['run']}", f"mayfly_guest_{record['guest']}"]
    groups += [f"mayfly_{kind}_{record[kind]}" for kind in ("image", "role") if record[kind]]
    return groups
