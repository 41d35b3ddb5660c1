# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest as the module domain is asked for it: its overlay, seed and domain, derived and checked before anything is made."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import typing as t
from pathlib import Path

from . import _domain_xml
from ._chain import Chain, Layer, overlay_size
from ._domain_xml import Backing, DirectBoot, Disk, DomainSpec, Interface, SeenDomain
from ._errors import InvalidInput, MayflyError
from ._libvirt import Network, Node
from ._names import check_domain_name, check_mac, check_unique, check_user, derive_mac
from ._run import Run, RunPaths
from ._seed import Seed, check_user_data
from ._store import Manifest, Store
from ._tag import Tag

Options = t.Mapping[str, t.Any]
ReadChain = t.Callable[[Path, str], Chain]

# A kernel that hangs shall tell where: Debian's does not allow SysRq l, w and t otherwise.
EVIDENCE_CMDLINE = "sysrq_always_enabled"
# An emulated processor can be away for longer than a kernel's patience of 20 s, and no lockup is meant.
EMULATION_CMDLINE = "watchdog_thresh=60"

# Fields of the tag that may differ between two prepares of one run without making it another guest.
_VOLATILE = {"owner": "", "job_url": "", "created": "", "deadline": "", "spec": ""}


@dataclasses.dataclass(frozen=True)
class Overlay:
    """A guest's own disk on a stored image."""

    path: Path
    base: Layer
    size: int


@dataclasses.dataclass(frozen=True)
class Guest:
    """Everything one guest is made of."""

    name: str
    tag: Tag
    document: t.Any  # the <domain> element
    macs: tuple[str, ...]
    networks: tuple[str, ...]
    memory_mib: int
    overlay: Overlay | None = None
    seed: Seed | None = None

    @property
    def xml(self) -> str:
        return _domain_xml.to_text(self.document)


def check_options(domains: t.Sequence[Options]) -> None:
    """Refuse what is wrong in the options alone."""
    for options in domains:
        check_domain_name(options["name"])
        for interface in options.get("interfaces") or []:
            if interface["mac"]:
                check_mac(interface["mac"])
        for path in (options["kernel"], options["initrd"]):
            if path and not Path(path).is_file():
                raise InvalidInput("Domain", options["name"], f"{path} is not a file on this host", "Correct the path.")
    check_unique("Domain name", [options["name"] for options in domains])
    macs = [interface["mac"].lower() for options in domains for interface in options.get("interfaces") or [] if interface["mac"]]
    check_unique("MAC address", macs)


def check_room(guests: t.Sequence[Guest], node: Node, overcommit: bool) -> None:
    """Refuse guests that the host cannot hold."""
    for guest in guests:
        if guest.memory_mib > node.memory_mib:
            raise InvalidInput(
                "Domain",
                guest.name,
                f"it asks for {guest.memory_mib} MiB of memory, the host has {node.memory_mib} MiB in all",
                "Ask for less memory_mib.",
            )
    wanted = sum(guest.memory_mib for guest in guests)
    if wanted > node.available_mib and not overcommit:
        raise InvalidInput(
            "Memory for domains",
            ", ".join(guest.name for guest in guests),
            f"they ask for {wanted} MiB together, {node.available_mib} MiB of {node.memory_mib} MiB are free",
            "Make fewer or smaller guests, wait for others to end, or allow it with overcommit: true.",
        )


def check_networks(guests: t.Sequence[Guest], networks: t.Mapping[str, Network]) -> None:
    """Refuse networks that are not there or not started."""
    for guest in guests:
        for name in guest.networks:
            network = networks.get(name)
            if network is None or not network.active:
                state = "does not exist" if network is None else "is not started"
                known = ", ".join(sorted(networks)) or "none"
                raise InvalidInput(
                    "Domain",
                    guest.name,
                    f"its network '{name}' {state} (networks here: {known})",
                    "The play mayfly.virt.hypervisor makes and starts the network 'mayfly'.",
                )


def accel_of(options: Options, proven: t.Callable[[], str]) -> str:
    return proven() if options["accel"] == "auto" else options["accel"]


def assemble(options: Options, run: Run, paths: RunPaths, store: Store, accel: str, virt_type: str, read_chain: ReadChain) -> Guest:
    """Derive a guest from its options."""
    name = options["name"]
    manifest = store.require(options["image"]) if options["image"] else None
    interfaces = tuple(_interface(name, index, given) for index, given in enumerate(_interfaces(options)))
    boot = _boot(options, manifest, store, accel)
    tag = Tag(
        run=run.id,
        guest=options["guest"] or name,
        owner=run.owner,
        job_url=run.job_url,
        created=run.created,
        deadline=run.deadline,
        state_dir=str(paths.state_dir),
        image=(options["image"] or "").partition("@")[0],
        digest=manifest.digest if manifest else "",
        kernel=manifest.kernel_release if manifest and not options["kernel"] else options["kernel"] or "",
        accel=accel,
        user=(options["seed"] or {}).get("user") or "root",
        role=options["role"] or "",
    )
    if options["xml"]:
        return _adopted(options, tag)
    overlay = _overlay(options, manifest, paths, store)
    seed = _seed(options, tag, tuple(interface.mac for interface in interfaces)) if manifest else None
    spec = DomainSpec(
        name=name,
        virt_type=virt_type,
        memory_mib=options["memory_mib"],
        vcpus=options["vcpus"],
        machine=options["machine"],
        cpu=options["cpu"] or "",
        firmware=options["firmware"],
        nvram=str(paths.nvram(name)),
        boot=boot,
        disks=tuple(_disks(options, overlay, paths.seed(name) if seed else None, read_chain)),
        interfaces=interfaces,
        console_log=options["console_log"] or str(paths.console(name)),
        rng=options["rng"],
        agent=options["agent"],
        panic=options["panic"],
        vmcoreinfo=options["vmcoreinfo"],
    )
    signed = dataclasses.replace(tag, spec=_spec_digest(tag, spec=spec, size=overlay.size if overlay else 0, seed=seed))
    return Guest(
        name=name,
        tag=signed,
        document=_domain_xml.build(dataclasses.replace(spec, tag=signed)),
        macs=tuple(interface.mac for interface in interfaces),
        networks=tuple(interface.network for interface in interfaces),
        memory_mib=spec.memory_mib,
        overlay=overlay,
        seed=seed,
    )


def check_seen(guest: Guest, seen: SeenDomain) -> None:
    """Refuse a domain of that name that is not ours, or not the wanted one: a running guest is never changed behind its user."""
    if seen.tag is None:
        raise MayflyError("make domain", guest.name, "a domain of that name exists and is not Mayfly's", "Choose another name.")
    if os.path.realpath(seen.tag.state_dir) != os.path.realpath(guest.tag.state_dir):
        raise MayflyError(
            "make domain", guest.name, f"a domain of that name belongs to the state directory {seen.tag.state_dir}", "Choose another name."
        )
    if seen.tag.run != guest.tag.run:
        raise MayflyError(
            "make domain", guest.name, f"a domain of that name belongs to the run {seen.tag.run}", "Choose another name or clean that run."
        )
    if seen.tag.spec == guest.tag.spec:
        return
    differences = [
        f"{what} {had} instead of {want}"
        for what, had, want in (
            ("memory_mib", seen.memory_mib, guest.memory_mib),
            ("image digest", seen.tag.digest, guest.tag.digest),
            ("accel", seen.tag.accel, guest.tag.accel),
            ("user", seen.tag.user, guest.tag.user),
            ("role", seen.tag.role, guest.tag.role),
            ("guest", seen.tag.guest, guest.tag.guest),
            ("MAC addresses", ", ".join(seen.macs), ", ".join(guest.macs) or ", ".join(seen.macs)),
        )
        if had != want
    ]
    raise MayflyError(
        "make domain",
        guest.name,
        f"it runs already with other parameters ({'; '.join(differences) or 'other options'})",
        "Remove it first (state: absent), or ask for what is there.",
    )


def _adopted(options: Options, tag: Tag) -> Guest:
    signed = dataclasses.replace(tag, spec=_spec_digest(tag, xml=options["xml"]))
    document = _domain_xml.adopt(options["name"], options["xml"], signed)
    seen = _domain_xml.facts(document)
    return Guest(options["name"], signed, document, seen.macs, seen.networks, seen.memory_mib)


def _interfaces(options: Options) -> list[Options]:
    given = options["interfaces"]
    return [{"network": "mayfly", "mac": None, "model": "virtio", "isolated": None}] if given is None else given


def _interface(name: str, index: int, given: Options) -> Interface:
    mac = check_mac(given["mac"]) if given["mac"] else derive_mac(name, index)
    return Interface(given["network"], mac, given["model"], given["isolated"])


def _boot(options: Options, manifest: Manifest | None, store: Store, accel: str) -> DirectBoot | None:
    """Return the kernel QEMU shall load: the given one, else the image's own, else none (the firmware boots the disk)."""
    if options["kernel"]:
        return DirectBoot(options["kernel"], options["initrd"] or "", options["cmdline"] or "")
    if manifest and manifest.kernel and options["firmware"] == "bios":
        words = (manifest.cmdline, EVIDENCE_CMDLINE, "" if accel == "kvm" else EMULATION_CMDLINE, options["cmdline"])
        cmdline = " ".join(part for part in words if part)
        return DirectBoot(str(store.dir / manifest.kernel), str(store.dir / manifest.initrd) if manifest.initrd else "", cmdline)
    if options["cmdline"]:
        raise InvalidInput(
            "Domain",
            options["name"],
            "it has a cmdline but no kernel to give it to",
            "Give kernel too, or an image with a kernel of its own.",
        )
    return None


def _overlay(options: Options, manifest: Manifest | None, paths: RunPaths, store: Store) -> Overlay | None:
    if not manifest:
        return None
    base = store.layer(manifest)
    return Overlay(paths.overlay(options["name"]), base, overlay_size(options["name"], base, options["disk_gib"]))


def _seed(options: Options, tag: Tag, macs: tuple[str, ...]) -> Seed:
    return seed_of(options["name"], tag.run, options["seed"] or {}, macs)


def seed_of(name: str, run_id: str, given: Options, macs: tuple[str, ...]) -> Seed:
    """Return the seed that the options of a seed describe; the run's own key is added when its documents are made."""
    user_data = given.get("user_data") or {}
    check_user_data(name, user_data)
    return Seed(
        domain=name,
        run=run_id,
        hostname=given.get("hostname") or name,
        user=check_user(given.get("user") or "root"),
        authorized_keys=tuple(given.get("authorized_keys") or ()),
        macs=macs,
        ca_certificates=tuple(certificate(f"seed of {name}", Path(path)) for path in given.get("ca_certificates") or ()),
        user_data=user_data,
    )


def certificate(what: str, path: Path) -> str:
    """Return the PEM text of an authority's certificate."""
    try:
        text = path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput("CA certificate of", what, f"{path} cannot be read: {error}", "Give a PEM file on this host.") from error
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise InvalidInput("CA certificate of", what, f"{path} holds no PEM certificate", "Convert it: openssl x509 -inform der.")
    return text


def _disks(options: Options, overlay: Overlay | None, seed: Path | None, read_chain: ReadChain) -> t.Iterator[Disk]:
    if overlay:
        # The guest lives for one job: nothing it writes needs to survive the host.
        yield Disk(str(overlay.path), "qcow2", (Backing(overlay.base.path, overlay.base.format),), cache="unsafe", discard="unmap")
    if seed:
        yield Disk(str(seed), "raw", readonly=True)
    for given in options["disks"] or []:
        path = Path(given["path"])
        if not path.is_file():
            raise InvalidInput(
                "Domain", options["name"], f"its disk {path} is not a file on this host", "Make it first, or correct the path."
            )
        chain = read_chain(path, given["format"] or "")
        yield Disk(
            path=str(path),
            format=given["format"] or chain.top.format,
            backing=tuple(Backing(layer.path, layer.format) for layer in chain.backing),
            bus=given["bus"],
            readonly=given["readonly"],
            cache=given["cache"] or "",
            discard=given["discard"] or "",
            serial=given["serial"] or "",
        )


def _spec_digest(tag: Tag, **parts: t.Any) -> str:
    """Return a digest of everything that makes the guest the one it is; two prepares of one run give the same."""
    plain = {name: dataclasses.asdict(part) if dataclasses.is_dataclass(part) else part for name, part in parts.items()}
    data = {**plain, "tag": dataclasses.asdict(dataclasses.replace(tag, **_VOLATILE))}
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()[:32]
