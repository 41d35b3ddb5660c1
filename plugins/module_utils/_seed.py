# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""cloud-init NoCloud seeds: the documents (pure), and the small ISO image that carries them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import tempfile
import typing as t
from pathlib import Path

from ._errors import InvalidInput, MayflyError
from ._run import RunPaths, make_key, public_key
from ._types import RunCommand

# What the seed itself must decide: access to the guest hangs on these.
RESERVED = frozenset({"users", "ssh_keys", "ssh_deletekeys", "ssh_genkeytypes", "ssh_pwauth", "disable_root", "ca_certs"})

# ISO 9660: the primary volume descriptor is sector 16, its application identifier lies at 574 and is 128 bytes long.
_APPLICATION_ID = 16 * 2048 + 574
_ID_PREFIX = "MAYFLY-SEED-"

# Breaks of the line to YAML, or no characters at all. Within JSON's strings, the only place they can be, they have escapes.
_NOT_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


@dataclasses.dataclass(frozen=True)
class HostKey:
    """A guest's ssh host key pair, as text."""

    private: str
    public: str


@dataclasses.dataclass(frozen=True)
class Seed:
    """What one guest is told at its first boot."""

    domain: str
    run: str
    hostname: str
    user: str
    authorized_keys: tuple[str, ...]
    macs: tuple[str, ...]
    ca_certificates: tuple[str, ...] = ()  # PEM
    user_data: t.Mapping[str, t.Any] = dataclasses.field(default_factory=dict)


def check_user_data(domain: str, user_data: t.Mapping[str, t.Any]) -> None:
    """Refuse cloud-config keys by which a job would lock us out of its guest."""
    taken = sorted(RESERVED.intersection(user_data))
    if taken:
        raise InvalidInput(
            "Seed of",
            domain,
            f"its user_data sets {', '.join(taken)}",
            "The seed sets these itself; use the options user and authorized_keys.",
        )


def documents(seed: Seed, host_key: HostKey) -> dict[str, str]:
    """Return file name to content of the seed. JSON is YAML, and needs no library on the hypervisor."""
    return {
        "meta-data": _json({"instance-id": f"mayfly-{seed.run}-{seed.domain}", "local-hostname": seed.hostname}),
        "user-data": "#cloud-config\n" + _json(_cloud_config(seed, host_key)),
        "network-config": _json(_network_config(seed.macs)),
    }


def redacted(docs: t.Mapping[str, str]) -> str:
    """Return the documents as one text for diffs, without private keys."""
    parts = []
    for name, content in sorted(docs.items()):
        header, _newline, body = content.partition("\n") if content.startswith("#") else ("", "", content)
        data = json.loads(body)
        if "ssh_keys" in data:
            data["ssh_keys"]["ed25519_private"] = "(not shown)"
        parts.append(f"--- {name}\n{header}\n{_json(data)}" if header else f"--- {name}\n{_json(data)}")
    return "".join(parts)


def digest(docs: t.Mapping[str, str]) -> str:
    return hashlib.sha256(_json(dict(docs)).encode()).hexdigest()


def seed_digest(image: Path) -> str:
    """Return the digest of the documents that an image of ours was made from, or an empty string."""
    try:
        with image.open("rb") as file:
            file.seek(_APPLICATION_ID)
            identifier = file.read(128).decode("ascii", "replace").strip()
    except FileNotFoundError:
        return ""
    return identifier[len(_ID_PREFIX) :].lower() if identifier.startswith(_ID_PREFIX) else ""


def write_seed(paths: RunPaths, domain: str, docs: t.Mapping[str, str], run_command: RunCommand) -> None:
    """Write the guest's seed image into the run's directory, whole or not at all."""
    image = paths.seed(domain)
    with tempfile.TemporaryDirectory(prefix=".seed-", dir=paths.dir) as scratch:
        tree = Path(scratch) / "tree"
        tree.mkdir()
        for name, content in docs.items():
            (tree / name).write_text(content, encoding="utf-8")
        fresh = Path(scratch) / "seed.iso"
        identifier = _ID_PREFIX + digest(docs).upper()
        argv = [
            "xorriso",
            "-as",
            "mkisofs",
            "-quiet",
            "-V",
            "cidata",
            "-J",
            "-r",
            "-A",
            identifier,
            "-o",
            str(fresh),
            str(tree),
        ]
        code, _out, err = run_command(argv)
        if code != 0:
            raise MayflyError(
                "make seed",
                str(image),
                err.strip() or f"xorriso ended with status {code}",
                "Is there room on the disk?",
            )
        fresh.chmod(0o600)  # it holds the guest's private host key
        fresh.replace(image)


def host_key(paths: RunPaths, domain: str, run_command: RunCommand) -> HostKey:
    """Return the guest's host key pair, made when it is not there yet."""
    key = paths.host_key(domain)
    if not key.exists():
        make_key(key, domain, run_command)
    return HostKey(private=key.read_text(encoding="utf-8"), public=public_key(key))


def write_known_hosts(paths: RunPaths) -> None:
    """Pin the host keys of all guests of the run, under their domain names. The caller holds the run's lock."""
    lines = [f"{key.stem} {public_key(key.with_suffix(''))}\n" for key in sorted((paths.dir / "hostkeys").glob("*.pub"))]
    fresh = paths.dir / ".known_hosts.new"
    fresh.write_text("".join(lines), encoding="utf-8")
    fresh.replace(paths.known_hosts)


def _cloud_config(seed: Seed, host_key: HostKey) -> dict[str, t.Any]:
    user: dict[str, t.Any] = {"name": seed.user, "lock_passwd": True, "ssh_authorized_keys": list(seed.authorized_keys)}
    if seed.user != "root":
        user.update({"sudo": "ALL=(ALL) NOPASSWD:ALL", "shell": "/bin/bash"})
    config: dict[str, t.Any] = {
        **seed.user_data,
        "disable_root": seed.user != "root",
        "ssh_pwauth": False,
        "users": [user],
        "ssh_deletekeys": True,
        "ssh_genkeytypes": [],
        "ssh_keys": {"ed25519_private": host_key.private, "ed25519_public": host_key.public},
    }
    if seed.ca_certificates:
        config["ca_certs"] = {"trusted": list(seed.ca_certificates)}
    return config


def _network_config(macs: t.Sequence[str]) -> dict[str, t.Any]:
    return {
        "version": 2,
        "ethernets": {
            f"mayfly{index}": {
                "match": {"macaddress": mac},
                "dhcp4": True,
                # networkd's default identifier comes from machine-id: clones of one disk would get one address.
                "dhcp-identifier": "mac",
            }
            for index, mac in enumerate(macs)
        },
    }


def _json(data: t.Any) -> str:
    """Return JSON that is YAML too: beyond U+FFFF as it stands, for YAML knows no pairs; what YAML may not hold escaped."""
    text = json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    return _NOT_IN_YAML.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
