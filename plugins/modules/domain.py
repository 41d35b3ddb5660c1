#!/usr/bin/python
# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module domain: transient domains, several in one task."""

from __future__ import annotations

DOCUMENTATION = r"""
module: domain
short_description: Make, await and remove transient libvirt domains
version_added: 0.1.0
description:
  - Makes transient domains with their overlay disks and seeds, all of a task at once, and waits until they are as ready as asked.
  - Every domain carries a tag in its C(<metadata>) that names its run, owner and deadline. Only domains with that tag are ever removed.
  - Making is all or nothing. When one of the domains cannot be made, what was made of the others is taken back. When a domain was made but
    does not become ready, it stays, so that its console and disk can be looked at; O(clean_run) or M(mayfly.virt.sweep) removes it.
  - A domain that runs already as wanted is kept. One that runs with other parameters is an error, for a guest in use is never changed.
  - An overlay that is there without its domain is of an earlier attempt, and made anew.
extends_documentation_fragment:
  - mayfly.virt._attributes
  - mayfly.virt._virt
  - mayfly.virt._run
options:
  domains:
    description:
      - The domains, made and awaited at the same time.
      - May be left out with O(clean_run=true).
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description:
          - Name of the domain, V([a-z0-9-]), at most 63 characters, not starting with V(tck) (libvirt-TCK deletes such domains).
          - By convention C(<guest>-<run id>). libvirt-NSS resolves it to the guest's address.
        type: str
        required: true
      guest:
        description:
          - What the job calls this guest; O(domains[].name) if left out.
        type: str
      role:
        description:
          - A word for what the guest is there for. The inventory makes a group of it.
        type: str
      image:
        description:
          - Alias or digest of a stored image, or C(alias@sha256:digest), in which the digest decides.
          - The domain gets an overlay on it and a seed.
          - An image that came with a kernel is booted with that kernel directly, unless O(domains[].firmware=efi).
        type: str
      disk_gib:
        description:
          - Size of the overlay in GiB, at least that of the image; 20 GiB or the image's size if left out.
        type: int
      seed:
        description:
          - What the seed says.
        type: dict
        suboptions:
          hostname:
            description:
              - The guest's host name; O(domains[].name) if left out.
            type: str
          user:
            description:
              - Who logs in with the run's key. A user other than V(root) is made and may use sudo.
            type: str
            default: root
          authorized_keys:
            description:
              - Public keys authorised beside the run's own.
            type: list
            elements: str
            default: []
          ca_certificates:
            description:
              - PEM files on the hypervisor whose authorities the guest trusts beside its distribution's.
            type: list
            elements: path
            default: []
          user_data:
            description:
              - Further keys of the cloud-config.
            type: dict
            default: {}
      memory_mib:
        description:
          - Memory in MiB.
        type: int
        default: 1024
      vcpus:
        description:
          - Number of virtual processors.
        type: int
        default: 1
      machine:
        description:
          - QEMU machine type.
        type: str
        default: q35
      cpu:
        description:
          - V(host-passthrough), V(host-model), V(maximum) or the name of a model.
          - V(host-passthrough) under KVM, if left out, and under emulation V(maximum) without C(svm) and C(la57). QEMU would emulate a
            processor with virtualisation, but about one of a dozen guests whose libvirt used it froze (QEMU 7.2). V(maximum) given here
            leaves it in.
        type: str
      accel:
        description:
          - V(auto) takes KVM when a kernel was seen to run under it on this boot of the host, else emulation
            (see M(mayfly.virt.hypervisor_info)).
        type: str
        choices: [auto, kvm, tcg]
        default: auto
      firmware:
        description:
          - How the disk is booted when no kernel is given.
        type: str
        choices: [bios, efi]
        default: bios
      kernel:
        description:
          - Kernel file that QEMU loads itself, instead of the image's own.
        type: path
      initrd:
        description:
          - Initial RAM disk for O(domains[].kernel).
        type: path
      cmdline:
        description:
          - Kernel command line. With O(domains[].kernel) the whole of it, with an image's own kernel what is added to the image's.
          - An image's own kernel gets C(watchdog_thresh=60) under emulation, where processors are away for longer than the default.
        type: str
      disks:
        description:
          - Disk files given to the domain beside overlay and seed. Their backing chains are read and written into the domain's XML.
        type: list
        elements: dict
        default: []
        suboptions:
          path:
            description:
              - The file, on the hypervisor.
            type: path
            required: true
          format:
            description:
              - Format of the file, as qemu-img calls it; asked of qemu-img if left out.
            type: str
          bus:
            description:
              - Bus the disk is on. Debian's cloud kernel knows V(virtio) and V(scsi) only.
            type: str
            choices: [virtio, scsi, sata, usb]
            default: virtio
          readonly:
            description:
              - Whether the guest may not write to it.
            type: bool
            default: false
          cache:
            description:
              - Cache mode of QEMU.
            type: str
            choices: [none, writeback, writethrough, directsync, unsafe]
          discard:
            description:
              - Whether the guest's discards reach the file.
            type: str
            choices: [ignore, unmap]
          serial:
            description:
              - Serial number by which the guest finds it below C(/dev/disk/by-id).
            type: str
      interfaces:
        description:
          - Network cards. One on the network V(mayfly), if left out; none, if an empty list.
        type: list
        elements: dict
        suboptions:
          network:
            description:
              - Name of the libvirt network.
            type: str
            default: mayfly
          mac:
            description:
              - MAC address. Derived from the domain's name, if left out, so that a retried prepare gets the same.
            type: str
          model:
            description:
              - Model of the card.
            type: str
            default: virtio
          isolated:
            description:
              - Whether the card's port is cut off from other isolated ports of the network; as the network says, if left out.
            type: bool
      console_log:
        description:
          - File that takes what the guest writes to its serial console; C(<name>.console.log) in the run's directory, if left out.
        type: path
      rng:
        description:
          - Whether the guest gets a virtio random number generator.
        type: bool
        default: true
      agent:
        description:
          - Whether there is a channel for the QEMU guest agent. Nothing in Mayfly needs the agent.
        type: bool
        default: true
      panic:
        description:
          - Whether there is a panic device. After a panic the domain then stays, in the state V(crashed).
        type: bool
        default: true
      vmcoreinfo:
        description:
          - Whether the guest can leave the note without which no tool reads its memory dump.
        type: bool
        default: true
      xml:
        description:
          - A whole C(<domain>) document instead of most other options. Its name must be O(domains[].name) or missing; the tag is added.
        type: str
  state:
    description:
      - V(present) makes the domains, V(absent) ends them and removes overlay, seed, host key, console log and lease.
    type: str
    choices: [present, absent]
    default: present
  wait:
    description:
      - How far every domain must come before the task ends.
      - V(none) does not look, V(running) is QEMU running, V(lease) an address, V(ssh) an accepted login,
        V(ready) cloud-init done without errors.
    type: str
    choices: [none, running, lease, ssh, ready]
    default: running
  wait_timeout:
    description:
      - Seconds that O(wait) may take for all domains together, as written for KVM. Six times as long when one of them is emulated.
    type: int
    default: 120
  overcommit:
    description:
      - Whether the domains may ask for more memory than is free on the host.
    type: bool
    default: false
  clean_run:
    description:
      - With O(state=absent), remove everything of the run, its directory with keys and logs included. Quiet when there is nothing.
    type: bool
    default: false
author:
  - The Mayfly authors (@mayfly)
seealso:
  - module: mayfly.virt.sweep
    description: Removes runs that nobody removed.
  - plugin: mayfly.virt.guests
    plugin_type: inventory
    description: Gives the domains to Ansible as hosts.
"""

EXAMPLES = r"""
---
- name: Two guests, ready for work
  mayfly.virt.domain:
    run:
      id: 20260101-120000-ab12
      owner: jane
      deadline: 3600
    domains:
      - name: old-20260101-120000-ab12
        image: debian-12
        memory_mib: 2048
        vcpus: 2
      - name: new-20260101-120000-ab12
        image: debian-13
        cmdline: lsm=landlock,lockdown,yama,bpf
    wait: ready

- name: Remove everything of the run
  mayfly.virt.domain:
    run:
      id: 20260101-120000-ab12
    state: absent
    clean_run: true
"""

RETURN = r"""
actions:
  description: What was done, or would be in check mode, in words.
  returned: success
  type: list
  elements: str
  sample: ["create run 20260101-120000-ab12", "create overlay old-20260101-120000-ab12", "create domain old-20260101-120000-ab12"]
results:
  description: One entry for each domain, in the order given. Also returned when a domain did not become ready.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: Name of the domain.
      type: str
    changed:
      description: Whether anything was done for it.
      type: bool
    uuid:
      description: Its UUID.
      type: str
    guest:
      description: What the job calls it.
      type: str
    run:
      description: Id of its run.
      type: str
    image:
      description: Alias of its image, as asked for.
      type: str
    digest:
      description: SHA-256 digest of its image.
      type: str
    kernel:
      description: Release of the kernel that came with the image, or the kernel file.
      type: str
    accel:
      description: V(kvm) or V(tcg).
      type: str
    mac:
      description: MAC address of the first interface.
      type: str
    user:
      description: Who logs in.
      type: str
    private_key:
      description: The run's private key file.
      type: str
    known_hosts:
      description: File with the pinned host keys.
      type: str
    console_log:
      description: File with the console's output.
      type: str
    address:
      description: Leased IPv4 address, when a lease was awaited.
      type: str
    stage:
      description: The last stage reached.
      type: str
    seconds:
      description: When each stage was reached, in seconds since the domains were made.
      type: dict
    message:
      description: Why the wanted stage was not reached; empty when it was.
      type: str
  sample:
    - name: old-20260101-120000-ab12
      changed: true
      actions: ["create overlay old-20260101-120000-ab12", "create seed old-20260101-120000-ab12", "create domain old-20260101-120000-ab12"]
      uuid: 3b90b180-ff3f-49ee-9a2b-48575fa59fcb
      guest: old
      run: 20260101-120000-ab12
      image: debian-12
      digest: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
      kernel: 6.1.0-13-cloud-amd64
      accel: kvm
      mac: 52:54:99:f0:c3:1b
      user: root
      private_key: /var/lib/mayfly/runs/20260101-120000-ab12/id_ed25519
      known_hosts: /var/lib/mayfly/runs/20260101-120000-ab12/known_hosts
      console_log: /var/lib/mayfly/runs/20260101-120000-ab12/old-20260101-120000-ab12.console.log
      address: 10.213.0.17
      stage: ready
      seconds: {running: 0.01, lease: 3.2, ssh: 4.1, ready: 7.9}
      message: ""
"""

import contextlib
import functools
import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import _accel, _guest, _module, _provision, _purge
from ..module_utils._argspec import RUN, SEED
from ..module_utils._chain import Chain, read_chain
from ..module_utils._domain_xml import SeenDomain
from ..module_utils._errors import InvalidInput, MayflyError
from ..module_utils._libvirt import Hypervisor
from ..module_utils._names import check_domain_name, check_run_id, check_unique
from ..module_utils._parallel import at_once
from ..module_utils._plan import Action
from ..module_utils._provision import GuestPlan, Waiter
from ..module_utils._readiness import Outcome, Target, wait_for_all
from ..module_utils._run import Run, RunPaths, hold, new_run, read_run, utc_now
from ..module_utils._seed import write_known_hosts
from ..module_utils._ssh import Access
from ..module_utils._store import Store

DISK = {
    "path": {"type": "path", "required": True},
    "format": {"type": "str"},
    "bus": {"type": "str", "choices": ["virtio", "scsi", "sata", "usb"], "default": "virtio"},
    "readonly": {"type": "bool", "default": False},
    "cache": {"type": "str", "choices": ["none", "writeback", "writethrough", "directsync", "unsafe"]},
    "discard": {"type": "str", "choices": ["ignore", "unmap"]},
    "serial": {"type": "str"},
}
INTERFACE = {
    "network": {"type": "str", "default": "mayfly"},
    "mac": {"type": "str"},
    "model": {"type": "str", "default": "virtio"},
    "isolated": {"type": "bool"},
}
DOMAIN = {
    "name": {"type": "str", "required": True},
    "guest": {"type": "str"},
    "role": {"type": "str"},
    "image": {"type": "str"},
    "disk_gib": {"type": "int"},
    "seed": {"type": "dict", "options": SEED},
    "memory_mib": {"type": "int", "default": 1024},
    "vcpus": {"type": "int", "default": 1},
    "machine": {"type": "str", "default": "q35"},
    "cpu": {"type": "str"},
    "accel": {"type": "str", "choices": ["auto", "kvm", "tcg"], "default": "auto"},
    "firmware": {"type": "str", "choices": ["bios", "efi"], "default": "bios"},
    "kernel": {"type": "path"},
    "initrd": {"type": "path"},
    "cmdline": {"type": "str"},
    "disks": {"type": "list", "elements": "dict", "default": [], "options": DISK},
    "interfaces": {"type": "list", "elements": "dict", "options": INTERFACE},
    "console_log": {"type": "path"},
    "rng": {"type": "bool", "default": True},
    "agent": {"type": "bool", "default": True},
    "panic": {"type": "bool", "default": True},
    "vmcoreinfo": {"type": "bool", "default": True},
    "xml": {"type": "str"},
}


class Present:
    """state: present. Everything that can be refused is refused before the first file is made."""

    def __init__(self, module: AnsibleModule, hypervisor: Hypervisor) -> None:
        self._module = module
        self._hypervisor = hypervisor
        self._tools = _module.Tools(module)
        self._paths = RunPaths(_module.state_dir(module), check_run_id(module.params["run"]["id"]))
        self._store = Store(self._paths.state_dir)

    def run(self) -> tuple[list[Action], list[dict[str, t.Any]], list[Outcome]]:
        _guest.check_options(self._module.params["domains"])
        opening = _provision.run_action(self._paths, self._module.params["run"])
        # The run's deadline and owner stand in the tags: a run that is over is taken up with new ones.
        self._run: Run = (None if opening.changes else read_run(self._paths)) or new_run(self._module.params["run"], utc_now())
        guests = [self._assemble(options) for options in self._module.params["domains"]]
        plans = self._plan(guests)
        new = [plan.guest for plan in plans if not plan.seen]
        _guest.check_networks(new, self._hypervisor.networks())
        _guest.check_room(new, self._hypervisor.node(), self._module.params["overcommit"])
        made: dict[str, SeenDomain] = {}
        if not self._module.check_mode:
            with _provision.opened(self._paths, self._module.params["run"], self._tools.run):
                plans = self._plan(guests)  # another prepare of the same run may have been faster
                made = _provision.make_all(plans, self._paths, self._hypervisor, self._tools.run)
        outcomes = self._wait(plans, made) if made else []
        results = [
            {**self._entry(plan, made.get(plan.guest.name, plan.seen)), **_reached(outcome)}
            for plan, outcome in zip(plans, outcomes or [None] * len(plans))
        ]
        return [opening, *(action for plan in plans for action in plan.actions)], results, outcomes

    def _plan(self, guests: list[_guest.Guest]) -> list[GuestPlan]:
        return [_provision.plan(guest, self._hypervisor.domain(guest.name), self._paths) for guest in guests]

    def _assemble(self, options: dict[str, t.Any]) -> _guest.Guest:
        accel = _guest.accel_of(options, self._proven)

        def chain(path: Path, form: str) -> Chain:
            return read_chain(path, self._tools.run, form)

        return _guest.assemble(options, self._run, self._paths, self._store, accel, self._hypervisor.virt_type(accel), chain)

    @functools.cached_property
    def _accel(self) -> str:
        kernels = [self._store.dir / manifest.kernel for manifest in self._store.manifests() if manifest.kernel]
        cache = self._paths.state_dir / "cache"
        proof = _accel.prove(_accel.find_kernel(kernels), cache, self._tools.run, only_remembered=self._module.check_mode)
        if not proof.proven:
            self._module.warn(f"Guests are emulated: {proof.reason}. Import an image with a kernel, or set accel.")
        return proof.accel

    def _proven(self) -> str:
        return self._accel

    def _wait(self, plans: list[GuestPlan], made: dict[str, SeenDomain]) -> list[Outcome]:
        until = self._module.params["wait"]
        if until == "none":
            return []
        targets = [self._target(plan, made[plan.guest.name]) for plan in plans]
        emulated = any(target.accel != "kvm" for target in targets)
        seconds = _accel.scaled(self._module.params["wait_timeout"], "tcg" if emulated else "kvm")
        access = {plan.guest.name: self._access(plan.guest) for plan in plans}
        waiter = Waiter(self._hypervisor, {target.network for target in targets if target.network}, access, self._tools.run)
        return wait_for_all(targets, until, seconds, waiter.look, waiter.login, waiter.abort)

    def _target(self, plan: GuestPlan, made: SeenDomain) -> Target:
        return Target(
            domain=made.name,
            uuid=made.uuid,
            mac=made.macs[0].lower() if made.macs else "",
            network=made.networks[0] if made.networks else "",
            console_log=made.console_log,
            accel=plan.guest.tag.accel,
        )

    def _access(self, guest: _guest.Guest) -> Access:
        return Access(guest.name, guest.tag.user, str(self._paths.key), str(self._paths.known_hosts))

    def _entry(self, plan: GuestPlan, made: SeenDomain | None) -> dict[str, t.Any]:
        guest = plan.guest
        tag = guest.tag
        return _module.entry(
            guest.name,
            plan.actions,
            uuid=made.uuid if made else "",
            guest=tag.guest,
            run=tag.run,
            image=tag.image,
            digest=tag.digest,
            kernel=tag.kernel,
            accel=tag.accel,
            mac=next(iter(made.macs if made else guest.macs), ""),
            user=tag.user,
            private_key=str(self._paths.key),
            known_hosts=str(self._paths.known_hosts),
            console_log=made.console_log if made else "",
        )


def _reached(outcome: Outcome | None) -> dict[str, t.Any]:
    if outcome is None:
        return {"address": "", "stage": "none", "seconds": {}, "message": ""}
    return {"address": outcome.address, "stage": outcome.stage, "seconds": outcome.seconds, "message": outcome.message}


def absent(module: AnsibleModule, hypervisor: Hypervisor) -> tuple[list[Action], list[dict[str, t.Any]]]:
    """state: absent. Only what carries the run's tag, or lies in its directory, is removed."""
    tools = _module.Tools(module)
    paths = RunPaths(_module.state_dir(module), check_run_id(module.params["run"]["id"]))
    if module.params["clean_run"]:
        there = _purge.belongings(hypervisor, paths.state_dir, paths.run)
        if not there.domains and not there.directory:
            refuse_elsewhere(hypervisor, paths)
        steps = _purge.actions(paths.run, "", there)
        if not module.check_mode:
            _purge.purge(hypervisor, paths.state_dir, paths.run, tools.run)
        return steps, [_module.entry(domain.name, [step], uuid=domain.uuid) for domain, step in zip(there.domains, steps)]
    owned = _purge.owned(hypervisor.domains(), paths.state_dir, paths.run)
    names = [check_domain_name(options["name"]) for options in module.params["domains"]]
    check_unique("Domain name", names)
    mine = {domain.name: domain for domain in owned}
    for name in names:
        if name not in mine and (stranger := hypervisor.domain(name)):
            whose = f"belongs to the run {stranger.tag.run}" if stranger.tag else "is not Mayfly's"
            raise MayflyError("remove domain", name, f"it {whose}", "Name a domain of this run.")
    found = [mine[name] for name in names if name in mine]
    macs = {mac for name in names if paths.macs(name).exists() for mac in paths.macs(name).read_text(encoding="ascii").split()}
    leases = _purge.leases_of(found, hypervisor.leases(), macs)
    steps = {name: removal(name, mine.get(name), _provision.guest_files(paths, name)) for name in names}
    if not module.check_mode and any(step.changes for step in steps.values()):
        with hold(paths) if paths.record.exists() else contextlib.nullcontext():
            at_once(names, lambda name: _provision.take_back(name, mine.get(name), paths, hypervisor))
            if paths.record.exists():
                write_known_hosts(paths)
        _purge.release(hypervisor, leases, tools.run)
    return list(steps.values()), [_module.entry(name, [step]) for name, step in steps.items()]


def refuse_elsewhere(hypervisor: Hypervisor, paths: RunPaths) -> None:
    """Do not call a run gone that lives on below another state directory."""
    for domain in hypervisor.domains():
        if domain.tag and domain.tag.run == paths.run:
            why = f"it is not below {paths.state_dir}, but {domain.name} was made for it below {domain.tag.state_dir}"
            raise MayflyError("remove run", paths.run, why, "Give that state_dir.")


def removal(name: str, domain: SeenDomain | None, files: list[Path]) -> Action:
    parts = [f"domain {domain.uuid}"] if domain else []
    parts += [str(path) for path in files]
    return Action("remove" if parts else "keep", "domain", name, before="".join(f"{part}\n" for part in parts))


def main() -> None:
    exclusive = [("xml", other) for other in ("image", "kernel", "seed", "interfaces")]
    domains = {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": DOMAIN,
        "mutually_exclusive": exclusive,
        "required_by": {"initrd": "kernel", "disk_gib": "image", "seed": "image"},
    }
    module = _module.make_module(
        {
            "run": {**RUN, "required": True},
            "domains": domains,
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "wait": {"type": "str", "choices": ["none", "running", "lease", "ssh", "ready"], "default": "running"},
            "wait_timeout": {"type": "int", "default": 120},
            "overcommit": {"type": "bool", "default": False},
            "clean_run": {"type": "bool", "default": False},
        },
    )
    outcomes: list[Outcome] = []
    with _module.failing(module), Hypervisor.open(module.params["uri"]) as hypervisor:
        if module.params["state"] == "absent":
            actions, results = absent(module, hypervisor)
        elif module.params["clean_run"]:
            raise InvalidInput("Option", "clean_run", "it removes a run, but state is present", "Use it with state: absent.")
        else:
            actions, results, outcomes = Present(module, hypervisor).run()
    messages = [outcome.message for outcome in outcomes if outcome.failed]
    if messages:
        module.fail_json(msg="\n".join(messages), **_module.result(actions, results))
    module.exit_json(**_module.result(actions, results))


if __name__ == "__main__":
    main()
