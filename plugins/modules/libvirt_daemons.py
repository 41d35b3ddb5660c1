#!/usr/bin/python
# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module libvirt_daemons: the daemons of a libvirt under test, in the guest they are tested in."""

from __future__ import annotations

DOCUMENTATION = r"""
module: libvirt_daemons
short_description: Set up the daemons of a libvirt under test
version_added: 0.2.0
description:
  - Runs in a guest whose libvirt is tested, not on the hypervisor. It needs Python's standard library, C(virsh) and systemd there.
  - Has every daemon write what it does into a file of its own, run until it is told to end, and leave a core dump when it dies.
    Other settings in the daemons' files stay as they are.
  - Gives libvirt's network a subnet that the guest does not reach elsewhere, and starts it.
  - Ends when the daemon has answered. Daemons are restarted only where something of theirs has changed.
  - Reads all there is to see, decides, and does what is missing, in one task, because each costs seconds in an emulated guest.
extends_documentation_fragment:
  - mayfly.virt._attributes.elsewhere
attributes:
  check_mode:
    description: Can run in C(check_mode) and return changed status prediction without modifying target.
    support: full
    details:
      - Where daemons would be restarted, the network is not predicted, for it is theirs to tell.
options:
  daemons:
    description:
      - Whether C(libvirtd) or the modular daemons (C(virtqemud) and the others) are used. The others are stopped and disabled.
      - V(auto) takes those that are in use, and the modular ones where both are or none is.
    type: str
    choices: [auto, monolithic, modular]
    default: auto
  uri:
    description:
      - Connection URI of the libvirt under test, without a host.
    type: str
    default: qemu:///system
  log_filters:
    description:
      - The filters of each daemon's log. The default is what libvirt's own CI has.
    type: str
    default: 3:remote 4:event 3:util.json 3:util.object 3:util.dbus 3:util.netlink 3:node_device 3:rpc 3:access 1:*
  log_dir:
    description:
      - Where each daemon has its log, C(<daemon>.log).
    type: path
    default: /var/log/libvirt
  qemu_log_bytes:
    description:
      - Size at which virtlogd rotates a log of QEMU, in bytes. Its own is 2 MiB, which a test can exceed.
    type: int
    default: 67108864
  qemu_conf:
    description:
      - Settings for F(/etc/libvirt/qemu.conf), texts or numbers.
    type: dict
    default: {max_core: unlimited}
  network:
    description:
      - libvirt's network that is made, if there is none, and started. An empty name leaves the networks alone.
    type: str
    default: default
  subnet:
    description:
      - IPv4 subnet of O(network), V(/28) or larger. It is refused if the guest reaches it elsewhere.
      - If left out, the one it has, or else the first free one in 192.168.0.0/16, from 192.168.122.0/24 on.
    type: str
    default: ""
  supported:
    description:
      - Distributions that are accepted, as C(<ID>-<VERSION_ID>) of F(/etc/os-release) or C(<ID>-*). All, if empty.
    type: list
    elements: str
    default: []
  answer_seconds:
    description:
      - Seconds the daemon may take to answer; also what tests are told.
    type: int
    default: 10
  factor:
    description:
      - What O(answer_seconds) is multiplied by, because the guest is emulated.
    type: float
    default: 1.0
  wrapper:
    description:
      - Text of the program that watches libvirt around a test. It is installed as F(/usr/local/lib/mayfly/mayfly_libvirt_test.py) and
        its C(check) is asked at the end.
    type: str
    default: ""
  settings:
    description:
      - Further keys of F(/etc/mayfly/libvirt-test.json), which tells that program of the daemons.
    type: dict
    default: {}
  facts:
    description:
      - Further keys of what is recorded in F(/etc/mayfly/facts.d/libvirt_under_test.json), where evidence finds it.
    type: dict
    default: {}
author:
  - The Mayfly authors (@mayfly)
"""

EXAMPLES = r"""
---
- name: Let each daemon write a debug log
  mayfly.virt.libvirt_daemons:
    daemons: monolithic
"""

RETURN = r"""
actions:
  description: What was done, or would be in check mode, in words.
  returned: success
  type: list
  elements: str
  sample: ["update file /etc/libvirt/libvirtd.conf", "update service libvirtd.service (its settings changed)"]
libvirt:
  description: What was found, as it is recorded for the verdict.
  returned: success
  type: dict
  sample:
    distribution: debian-12
    kernel: 6.1.0-56-cloud-amd64
    mode: monolithic
    libvirt: 9.0.0
    library: 9.0.0
    qemu: 7.2.22
    firewall: iptables v1.8.9 (nf_tables)
    kvm: false
    network: 192.168.122.0/24
    packages: {libvirt0: 9.0.0-4+deb12u2}
daemons:
  description: The daemons, as tests are told of them.
  returned: success
  type: list
  elements: dict
  sample:
    - name: libvirtd
      log: /var/log/libvirt/libvirtd.log
      unit: libvirtd.service
      sockets: [libvirtd.socket, libvirtd-ro.socket, libvirtd-admin.socket]
      admin: libvirtd:///system
      active: true
"""

import json
import os
import platform
import subprocess
import sys
import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import _libvirt_daemons as ld
from ..module_utils._errors import InvalidInput, MayflyError, failing
from ..module_utils._plan import Action, changed, diff, sentences

WRAPPER = "/usr/local/lib/mayfly/mayfly_libvirt_test.py"
CONFIG = "/etc/mayfly/libvirt-test.json"
FACTS = "/etc/mayfly/facts.d/libvirt_under_test.json"
UNIT_SECONDS = 90  # systemd's own patience with a unit that starts or stops
LOG_SHOWN = 15

UNIT_REMEDY = "If its settings are at fault, correct those that were given; if libvirt is, that is what a test would have found."
ANSWER_REMEDY = "The daemon's log and the journal tell more; a guest that is slow may need a higher answer_seconds."
NETWORK_REMEDY = "Look whether another program holds its subnet or its port 53, or choose a subnet."

Options = dict[str, t.Any]


class Guest:
    """The machine this runs on."""

    def __init__(self, uri: str, factor: float) -> None:
        self._uri = uri
        self._factor = factor

    def run(self, argv: list[str], seconds: float) -> tuple[int, str, str]:
        """Run a program within a time limit; 127 if there is none of that name, 124 if it did not end."""
        try:
            done = subprocess.run(
                argv,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=seconds * self._factor,
                check=False,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "LC_ALL": "C"},
            )
        except FileNotFoundError:
            return 127, "", f"the program {argv[0]} is not installed"
        except subprocess.TimeoutExpired:
            return 124, "", f"no answer within {seconds * self._factor:.0f} s"
        return done.returncode, done.stdout, done.stderr

    def virsh(self, words: list[str], seconds: float) -> tuple[int, str, str]:
        return self.run(["virsh", "-q", "-c", self._uri, *words], seconds)

    def units(self) -> dict[str, ld.Unit]:
        argv = ["systemctl", "show", "-p", "Id,LoadState,ActiveState,UnitFileState,MainPID", *ld.unit_names()]
        status, output, errors = self.run(argv, UNIT_SECONDS)
        if status:
            raise MayflyError("ask systemd for the units of", "libvirt", errors, "The guest must have been booted with systemd.")
        return ld.read_units(output)

    def systemctl(self, verb: str, units: t.Sequence[str], *options: str) -> None:
        if not units and verb != "daemon-reload":
            return
        status, _output, errors = self.run(["systemctl", verb, *options, *units], 2 * UNIT_SECONDS)
        if status:
            raise MayflyError(f"{verb} (systemctl)", " ".join(units), f"{errors.strip()}\n{self.journal(units)}", UNIT_REMEDY)

    def journal(self, units: t.Sequence[str]) -> str:
        """Return the last words of units."""
        argv = ["journalctl", "--no-pager", "-q", "-o", "cat", "-n", str(LOG_SHOWN), *(f"--unit={unit}" for unit in units)]
        return self.run(argv, UNIT_SECONDS)[1].strip()

    def replaced(self, pid: int) -> bool:
        """Tell whether a daemon was started before its program or libvirt's libraries were installed."""
        if not pid:
            return False
        try:
            return ld.replaced(os.readlink(f"/proc/{pid}/exe"), read(f"/proc/{pid}/maps"))
        except (FileNotFoundError, ProcessLookupError):
            return True  # it has just ended

    def domains(self) -> list[str]:
        """Return the domains that run, without asking a daemon, which may be the wrong one."""
        return sorted(path.stem for path in Path("/run/libvirt/qemu").glob("*.xml"))


def read(path: str) -> str:
    """Return a text file, or nothing where there is none."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="surrogateescape")
    except (FileNotFoundError, NotADirectoryError):
        return ""


def opens(path: str) -> bool:
    """Tell whether a device can be opened: udev makes the node of KVM also where there is none."""
    try:
        os.close(os.open(path, os.O_RDWR))
    except OSError:
        return False
    return True


def write(path: str, text: str, mode: int) -> None:
    """Put a whole file in place of the one there is, whose owner and mode stay."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    half = target.with_name(f".{target.name}.mayfly")
    try:
        half.write_text(text, encoding="utf-8", errors="surrogateescape")
        old = target.stat() if target.exists() else None
        os.chmod(half, old.st_mode & 0o7777 if old else mode)
        if old:
            os.chown(half, old.st_uid, old.st_gid)
        os.replace(half, target)
    finally:
        half.unlink(missing_ok=True)


def file_action(path: str, text: str) -> Action:
    before = read(path)
    if before == text:
        return Action("keep", "file", path)
    return Action("update" if os.path.exists(path) else "create", "file", path, before=before, after=text)


def settings_files(params: Options, daemons: t.Sequence[ld.Daemon]) -> dict[str, str]:
    """Return the files that the daemons read, by path, as they shall be."""
    files = {}
    for daemon in daemons:
        path = f"/etc/libvirt/{daemon.name}.conf"
        outputs = f"1:file:{daemon.log(params['log_dir'])}"
        options: dict[str, str | int] = {"log_filters": params["log_filters"], "log_outputs": outputs}
        if daemon.name == "virtlogd":
            options["max_size"] = params["qemu_log_bytes"]
        files[path] = ld.set_options(read(path), options)
        files[f"/etc/systemd/system/{daemon.unit}.d/50-mayfly.conf"] = ld.drop_in(daemon.name)
    files["/etc/libvirt/qemu.conf"] = ld.set_options(read("/etc/libvirt/qemu.conf"), params["qemu_conf"])
    return files


def service_actions(
    daemons: t.Sequence[ld.Daemon],
    mode: str,
    units: t.Mapping[str, ld.Unit],
    files: t.Sequence[Action],
    replaced: t.Callable[[int], bool],
) -> list[Action]:
    """Return what is to be done to units."""
    paths = {action.name for action in files if action.changes}
    shared = {"/etc/libvirt/qemu.conf"} & paths
    others = [Action("remove", "unit", name, f"the daemons are {mode}") for name in ld.others_of(mode, units)]
    steps = list(others)
    for daemon in daemons:
        own = {f"/etc/libvirt/{daemon.name}.conf", f"/etc/systemd/system/{daemon.unit}.d/50-mayfly.conf"} & paths
        # Disabling the daemons of the other mode disables what both modes have: their units say Also=.
        shared_unit = bool(others) and daemon.name in ld.HELPERS
        sockets = [name for name in daemon.sockets if shared_unit or not (units[name].active and units[name].enabled)]
        steps += [Action("update", "socket", name, "it is not started, or not at boot") for name in sockets]
        if not units[daemon.unit].active:
            steps.append(Action("update", "service", daemon.unit, "it is not started"))
        elif own or (shared and daemon.name in ("libvirtd", "virtqemud")):
            steps.append(Action("update", "service", daemon.unit, "its settings changed"))
        elif replaced(units[daemon.unit].pid):
            steps.append(Action("update", "service", daemon.unit, "its program was installed after it was started"))
        elif shared_unit or any(not units[name].active for name in sockets):
            steps.append(Action("update", "service", daemon.unit, "its sockets are to be started"))
    timer = units.get("logrotate.timer")
    if timer and timer.there and timer.state != "masked":
        # It truncates the daemons' logs in place.
        steps.append(Action("remove", "timer", timer.name, "it would cut the logs of a test"))
    return steps


def apply(guest: Guest, files: t.Sequence[Action], services: t.Sequence[Action], daemons: t.Sequence[ld.Daemon]) -> None:
    restart = [step.name for step in services if step.kind == "service"]
    running = guest.domains() if restart else []
    if running:
        raise InvalidInput(
            "Restarting libvirt's daemons",
            ", ".join(restart),
            f"domains are running in the guest: {', '.join(running)}",
            "Set the daemons up before the tests start.",
        )
    for step in files:
        if step.changes:
            write(step.name, step.after, 0o644)
    if any("/systemd/" in step.name and step.changes for step in files):
        guest.systemctl("daemon-reload", [])
    guest.systemctl("disable", [step.name for step in services if step.kind == "unit"], "--now", "--quiet")
    guest.systemctl("mask", [step.name for step in services if step.kind == "timer"], "--now", "--quiet")
    sockets = [step.name for step in services if step.kind == "socket"]
    guest.systemctl("stop", restart)
    guest.systemctl("enable", sockets, "--now", "--quiet")
    guest.systemctl("start", restart)


def network_action(params: Options, guest: Guest, seconds: float) -> tuple[Action, str]:
    """Return what is to be done to the network, and its subnet."""
    name = params["network"]
    status, before, errors = guest.virsh(["net-dumpxml", name, "--inactive"], seconds)
    if status and "not found" not in errors:
        raise MayflyError("look at libvirt's network", name, errors, ANSWER_REMEDY)
    before = "" if status else before
    own = ld.bridge_of(before) if before else ""
    nameservers = read("/etc/resolv.conf") + read("/run/systemd/resolve/resolv.conf")
    taken = [*ld.read_routes(read("/proc/net/route"), own), *ld.read_nameservers(nameservers)]
    present = ld.network_subnet(before) if before else ""
    subnet = ld.choose_subnet(params["subnet"], present, taken)
    if not before:
        return Action("create", "network", name, after=ld.network_xml(name, subnet, None)), str(subnet)
    if ld.choose_subnet("", present, []) != subnet:
        reason = f"{present} is in use" if not params["subnet"] else f"it has {present}"
        return Action("update", "network", name, reason, before=before, after=ld.network_xml(name, subnet, before)), str(subnet)
    status, info, errors = guest.virsh(["net-info", name], seconds)
    if status:
        raise MayflyError("look at libvirt's network", name, errors, ANSWER_REMEDY)
    there = {line.split(":")[0].strip(): line.split(":", 1)[1].strip() for line in info.splitlines() if ":" in line}
    lacking = [word for word, key in (("started", "Active"), ("started at boot", "Autostart")) if there.get(key) != "yes"]
    if lacking:
        return Action("update", "network", name, f"it is not {' and not '.join(lacking)}"), str(subnet)
    return Action("keep", "network", name), str(subnet)


def apply_network(step: Action, guest: Guest, seconds: float) -> None:
    if not step.changes:
        return
    commands = [f"net-autostart {step.name}"]
    path = Path("/run/mayfly-network.xml")
    if step.after:
        path.write_text(step.after, encoding="utf-8")
        commands.insert(0, f"net-define {path}")
    try:
        _status, info, _errors = guest.virsh(["net-info", step.name], seconds)
        active = any(line.split(":")[0] == "Active" and line.endswith("yes") for line in info.splitlines())
        if step.after and active:
            commands.insert(0, f"net-destroy {step.name}")
        if step.after or not active:
            commands.append(f"net-start {step.name}")
        for command in commands:
            status, _output, errors = guest.virsh(command.split(), seconds)
            if status:
                raise MayflyError(f"{command.split()[0]} (virsh)", step.name, errors, NETWORK_REMEDY)
    finally:
        path.unlink(missing_ok=True)


def versions(guest: Guest, params: Options) -> dict[str, str]:
    """Return the versions as the daemon tells them, which shows that it answers."""
    # The first answer of a daemon waits for what it asks of QEMU.
    status, output, errors = guest.virsh(["version", "--daemon"], 3 * params["answer_seconds"])
    if status:
        raise MayflyError("reach the libvirt under test at", params["uri"], errors, ANSWER_REMEDY)
    return ld.read_versions(output)


def firewall(guest: Guest) -> str:
    """Return what the rules of libvirt's networks are made with: nftables has tables of libvirt's own."""
    status, tables, _errors = guest.run(["nft", "list", "tables"], UNIT_SECONDS)
    if status == 0 and "libvirt_network" in tables:
        status, output, _errors = guest.run(["nft", "--version"], UNIT_SECONDS)
    else:
        status, output, _errors = guest.run(["iptables", "--version"], UNIT_SECONDS)
    return output.strip() if status == 0 else ""


def packages(guest: Guest) -> dict[str, str]:
    """Return the packages of libvirt and QEMU that are installed."""
    status, output, _errors = guest.run(["dpkg-query", "-W", "-f", "${db:Status-Status} ${Package} ${Version}\n", "*virt*", "qemu-*"], 90)
    if status == 127:
        status, output, _errors = guest.run(["rpm", "-qa", "--qf", "installed %{NAME} %{VERSION}-%{RELEASE}\n", "*virt*", "qemu-*"], 90)
    rows = [line.split() for line in output.splitlines()]
    return {row[1]: row[2] for row in rows if len(row) == 3 and row[0] == "installed"}


def set_up(module: AnsibleModule) -> dict[str, t.Any]:
    params = module.params
    if not params["uri"].partition("://")[2].startswith("/") or "+" in params["uri"].partition("://")[0]:
        raise InvalidInput("URI", params["uri"], "it leads to another machine", "Test the libvirt of the guest itself: qemu:///system.")
    for key in ("log_filters", "log_dir"):
        ld.check_word(key, params[key])
    for key, value in params["qemu_conf"].items():
        ld.check_word(key, str(value))
    distribution = ld.release(read("/etc/os-release"))
    ld.check_supported(distribution, params["supported"])
    guest = Guest(params["uri"], params["factor"])
    units = guest.units()
    mode = ld.choose_mode(params["daemons"], units)
    daemons = ld.daemons_of(mode, units)

    files = [file_action(path, text) for path, text in settings_files(params, daemons).items()]
    services = service_actions(daemons, mode, units, files, guest.replaced)
    records = [daemon.record(params["log_dir"], True) for daemon in daemons]
    config = {
        "uri": params["uri"],
        "daemons": records,
        "qemu_logs": f"{params['log_dir'].rstrip('/')}/qemu",
        "answer_seconds": params["answer_seconds"],
        "factor": params["factor"],
        **params["settings"],
    }
    ours = [file_action(CONFIG, json.dumps(config, indent=2, sort_keys=True) + "\n")]
    if params["wrapper"]:
        ours.append(file_action(WRAPPER, params["wrapper"]))
    if not module.check_mode:
        Path(params["log_dir"]).mkdir(parents=True, exist_ok=True)
        apply(guest, [*files, *ours], services, daemons)

    steps = [*files, *ours, *services]
    found: dict[str, t.Any] = {}
    subnet = ""
    if module.check_mode and services:
        # What the daemons would say is to be heard only when they are as they shall be.
        found["libvirt"] = ""
    else:
        found.update(versions(guest, params))
        if params["network"]:
            step, subnet = network_action(params, guest, params["answer_seconds"])
            steps.append(step)
            if not module.check_mode:
                apply_network(step, guest, 3 * params["answer_seconds"])
    found = {
        "distribution": distribution,
        "kernel": platform.release(),
        "mode": mode,
        **found,
        "firewall": firewall(guest),
        "kvm": opens("/dev/kvm"),
        "network": subnet,
        "packages": packages(guest),
        **params["facts"],
    }
    record = file_action(FACTS, json.dumps(found, indent=2, sort_keys=True) + "\n")
    if not module.check_mode:
        if record.changes:
            write(FACTS, record.after, 0o644)
        if params["wrapper"]:
            check(guest, params)
    return {
        "changed": changed(steps),
        "diff": diff(steps),
        "actions": sentences(steps),
        "libvirt": found,
        "daemons": records,
    }


def check(guest: Guest, params: Options) -> None:
    """Let the program that will watch the tests see for itself."""
    # Its directory may hold what other roles say: they are set up after this one.
    patience = str(3 * params["answer_seconds"] * params["factor"])
    status, output, errors = guest.run([sys.executable, WRAPPER, "check", "--wait", patience], 6 * params["answer_seconds"])
    if status:
        raise MayflyError("watch the libvirt under test at", params["uri"], f"{output.strip()} {errors.strip()}".strip(), ANSWER_REMEDY)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "daemons": {"type": "str", "choices": ["auto", "monolithic", "modular"], "default": "auto"},
            "uri": {"type": "str", "default": "qemu:///system"},
            "log_filters": {
                "type": "str",
                "default": "3:remote 4:event 3:util.json 3:util.object 3:util.dbus 3:util.netlink 3:node_device 3:rpc 3:access 1:*",
            },
            "log_dir": {"type": "path", "default": "/var/log/libvirt"},
            "qemu_log_bytes": {"type": "int", "default": 64 << 20},
            "qemu_conf": {"type": "dict", "default": {"max_core": "unlimited"}},
            "network": {"type": "str", "default": "default"},
            "subnet": {"type": "str", "default": ""},
            "supported": {"type": "list", "elements": "str", "default": []},
            "answer_seconds": {"type": "int", "default": 10},
            "factor": {"type": "float", "default": 1.0},
            "wrapper": {"type": "str", "default": ""},
            "settings": {"type": "dict", "default": {}},
            "facts": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    with failing(module):
        result = set_up(module)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
