# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The daemons of a libvirt under test: which there are, how they log, what their network may be. Pure, and the standard library alone."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
import typing as t
import xml.etree.ElementTree as ET

from ._errors import InvalidInput, MayflyError

MONOLITHIC, MODULAR = "monolithic", "modular"
# The daemons that hold the drivers; the first one answers for its mode.
DRIVERS = {
    MONOLITHIC: ("libvirtd",),
    MODULAR: (
        "virtqemud",
        "virtinterfaced",
        "virtnetworkd",
        "virtnodedevd",
        "virtnwfilterd",
        "virtproxyd",
        "virtsecretd",
        "virtstoraged",
    ),
}
# Beside either of them.
HELPERS = ("virtlogd", "virtlockd")
_ACTIVE = ("active", "activating", "reloading")
_SOCKETS = ("", "-ro", "-admin")
_REMOTE_SOCKETS = ("-tcp", "-tls")

# The default network's own subnet, then its neighbours.
_CANDIDATES = tuple(f"192.168.{number}.0/24" for number in [*range(122, 255), *range(122)])


@dataclasses.dataclass(frozen=True)
class Unit:
    """What systemd knows of a unit."""

    name: str
    there: bool = False
    active: bool = False
    enabled: bool = False
    state: str = ""  # of its file: enabled, disabled, static, masked, ...
    pid: int = 0


@dataclasses.dataclass(frozen=True)
class Daemon:
    """One daemon of the mode that is chosen."""

    name: str
    sockets: tuple[str, ...]

    @property
    def unit(self) -> str:
        return f"{self.name}.service"

    def log(self, directory: str) -> str:
        return f"{directory.rstrip('/')}/{self.name}.log"

    def record(self, directory: str, active: bool) -> dict[str, t.Any]:
        """Return the entry by which tests are told of the daemon."""
        return {
            "name": self.name,
            "log": self.log(directory),
            "unit": self.unit,
            "sockets": list(self.sockets),
            "admin": f"{self.name}:///system",
            "active": active,
        }


def unit_names() -> list[str]:
    """Return every unit that may matter."""
    daemons = [*DRIVERS[MONOLITHIC], *DRIVERS[MODULAR], *HELPERS]
    names = [f"{daemon}.service" for daemon in daemons]
    names += [f"{daemon}{kind}.socket" for daemon in daemons for kind in (*_SOCKETS, *_REMOTE_SOCKETS)]
    return [*names, "logrotate.timer"]


def read_units(text: str) -> dict[str, Unit]:
    """Read what `systemctl show -p Id,LoadState,ActiveState,UnitFileState,MainPID` printed."""
    units = {}
    for block in text.split("\n\n"):
        facts = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if "Id" in facts:
            state = facts.get("UnitFileState", "")
            there = facts.get("LoadState") not in ("not-found", "bad-setting", None)
            units[facts["Id"]] = Unit(
                name=facts["Id"],
                there=there,
                active=facts.get("ActiveState") in _ACTIVE,
                enabled=state in ("enabled", "enabled-runtime"),
                state=state,
                pid=int(facts.get("MainPID") or 0),
            )
    return units


def choose_mode(wanted: str, units: t.Mapping[str, Unit]) -> str:
    """Return which daemons to use: as it is asked for, else those that are in use, else the modular ones, libvirt's own default."""
    there = [mode for mode, (first, *_others) in DRIVERS.items() if _unit(units, f"{first}.service").there]
    if not there:
        raise MayflyError(
            "set up the daemons of", "libvirt", "systemd knows neither libvirtd.service nor virtqemud.service", "Install libvirt first."
        )
    if wanted != "auto":
        if wanted not in there:
            raise InvalidInput("Mode of libvirt's daemons", wanted, f"the libvirt in the guest has only {' and '.join(there)} ones", "")
        return wanted
    used = [mode for mode in there if _used(units, DRIVERS[mode][0])]
    return used[0] if len(used) == 1 else there[-1]


def _used(units: t.Mapping[str, Unit], daemon: str) -> bool:
    return any(unit.active or unit.enabled for unit in (_unit(units, f"{daemon}{kind}") for kind in (".socket", ".service")))


def _unit(units: t.Mapping[str, Unit], name: str) -> Unit:
    return units.get(name, Unit(name))


def daemons_of(mode: str, units: t.Mapping[str, Unit]) -> list[Daemon]:
    """Return the daemons of a mode that are there, with the sockets they have."""
    names = [name for name in (*DRIVERS[mode], *HELPERS) if _unit(units, f"{name}.service").there]
    sockets = [tuple(f"{name}{kind}.socket" for kind in _SOCKETS if _unit(units, f"{name}{kind}.socket").there) for name in names]
    return [Daemon(name, listening) for name, listening in zip(names, sockets)]


def others_of(mode: str, units: t.Mapping[str, Unit]) -> list[str]:
    """Return the units of the other mode that are in use: both listen on the same sockets."""
    other = MODULAR if mode == MONOLITHIC else MONOLITHIC
    kinds = (*(f"{kind}.socket" for kind in (*_SOCKETS, *_REMOTE_SOCKETS)), ".service")
    found = [_unit(units, f"{name}{kind}") for name in DRIVERS[other] for kind in kinds]
    return [unit.name for unit in found if unit.active or unit.enabled]


def replaced(exe: str, maps: str) -> bool:
    """Tell from /proc/<pid>/exe and maps whether a process runs a program, or a library of libvirt, that has been replaced."""
    gone = [line for line in maps.splitlines() if line.endswith(" (deleted)") and "libvirt" in line]
    return exe.endswith(" (deleted)") or bool(gone)


# --- their configuration ----------------------------------------------------------------------------------------


def set_options(text: str, options: t.Mapping[str, str | int]) -> str:
    """Return the text of a libvirt configuration file with these options set and everything else as it was."""
    lines = text.splitlines()
    for key, value in options.items():
        wanted = f"{key} = {value}" if isinstance(value, int) else f'{key} = "{value}"'
        given = [number for number, line in enumerate(lines) if re.match(rf"\s*{re.escape(key)}\s*=", line)]
        if given:
            lines[given[-1]] = wanted
            for number in reversed(given[:-1]):
                del lines[number]
            continue
        example = [number for number, line in enumerate(lines) if re.match(rf"#\s*{re.escape(key)}\s*=", line)]
        lines.insert(example[-1] + 1 if example else len(lines), wanted)
    return "".join(f"{line}\n" for line in lines)


def check_word(key: str, value: str) -> str:
    """Refuse what would end the string it is put into."""
    if '"' in value or "\\" in value or not value.isprintable():
        raise InvalidInput(key, value, "it has a quotation mark, a backslash or a control character", "libvirt's options are plain text.")
    return value


def drop_in(daemon: str) -> str:
    """Return what systemd is told of a daemon beyond its own unit."""
    return (
        "# Of mayfly.virt. A daemon that ends when it is idle looks like one that died, and one without a core dump tells nothing.\n"
        f"[Service]\nEnvironment={daemon.upper()}_ARGS=\nLimitCORE=infinity\n"
    )


# --- the network ------------------------------------------------------------------------------------------------


def read_routes(text: str, own: str) -> list[ipaddress.IPv4Network]:
    """Return the subnets in /proc/net/route, those of the network's own bridge and the default route left out."""
    found = []
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 7 and fields[0] != own:
            address, mask = (int.from_bytes(bytes.fromhex(fields[column]), "little") for column in (1, 7))
            if mask:
                found.append(ipaddress.IPv4Network((address, bin(mask).count("1"))))
    return found


def read_nameservers(text: str) -> list[ipaddress.IPv4Network]:
    """Return the name servers of a resolv.conf: one of them may be where only the default route leads."""
    found = []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) > 1 and fields[0] == "nameserver" and ":" not in fields[1]:
            found.append(ipaddress.IPv4Network(fields[1]))
    return found


def choose_subnet(wanted: str, present: str, taken: t.Sequence[ipaddress.IPv4Network]) -> ipaddress.IPv4Network:
    """Return the subnet for libvirt's network: the wanted one, else the one it has, else another, none of which is in use."""
    for candidate in [wanted] if wanted else [*([present] if present else []), *_CANDIDATES]:
        try:
            subnet = ipaddress.IPv4Network(candidate, strict=bool(wanted))
        except ValueError as error:
            raise InvalidInput("Subnet of libvirt's network", candidate, str(error), "Write it like 192.168.122.0/24.") from error
        clash = next((other for other in taken if subnet.overlaps(other)), None)
        if clash is None and (subnet.prefixlen <= 28 and subnet.is_private):
            return subnet
        if wanted:
            reason = f"the guest itself reaches {clash} elsewhere" if clash else "it is not private, or smaller than a /28"
            raise InvalidInput("Subnet of libvirt's network", wanted, reason, "Leave it out, and a free one is taken.")
    raise MayflyError(
        "find a subnet for", "libvirt's network", "every one in 192.168.0.0/16 is reached elsewhere", "Give one that is free."
    )


def network_subnet(text: str) -> str:
    """Return the IPv4 subnet of a <network> document, or an empty string."""
    for address in ET.fromstring(text).findall("ip"):  # noqa: S314 - of the libvirt under test, in its own guest
        if address.get("family", "ipv4") == "ipv4" and address.get("address"):
            return f"{address.get('address')}/{address.get('netmask') or address.get('prefix')}"
    return ""


def bridge_of(text: str) -> str:
    """Return the bridge of a <network> document, or an empty string."""
    bridge = ET.fromstring(text).find("bridge")  # noqa: S314
    return "" if bridge is None else bridge.get("name", "")


def network_xml(name: str, subnet: ipaddress.IPv4Network, before: str | None) -> str:
    """Return the <network> document with this subnet, and what else there was kept."""
    root = ET.fromstring(before) if before else _new_network(name)  # noqa: S314
    for address in root.findall("ip"):
        if address.get("family", "ipv4") == "ipv4":
            root.remove(address)
    ip = ET.SubElement(root, "ip", address=str(subnet[1]), prefix=str(subnet.prefixlen))
    ET.SubElement(ET.SubElement(ip, "dhcp"), "range", start=str(subnet[2]), end=str(subnet[-2]))
    ET.indent(root, space="  ")
    return ET.tostring(root, encoding="unicode") + "\n"


def _new_network(name: str) -> ET.Element:
    root = ET.Element("network")
    ET.SubElement(root, "name").text = name
    ET.SubElement(root, "forward", mode="nat")
    ET.SubElement(root, "bridge", stp="on", delay="0")
    return root


# --- what was found ---------------------------------------------------------------------------------------------


def read_versions(text: str) -> dict[str, str]:
    """Read what `virsh version --daemon` printed."""
    keys = {"Using library": "library", "Running hypervisor": "qemu", "Running against daemon": "libvirt"}
    found = {}
    for line in text.splitlines():
        label, _colon, value = line.partition(":")
        if label.strip() in keys:
            found[keys[label.strip()]] = value.split()[-1] if value.split() else ""
    return found


def release(os_release: str) -> str:
    """Return what /etc/os-release says as `<id>-<version>`, such as debian-12."""
    facts = dict(line.split("=", 1) for line in os_release.splitlines() if "=" in line and not line.startswith("#"))
    return f"{facts.get('ID', 'unknown').strip(chr(34))}-{facts.get('VERSION_ID', 'unknown').strip(chr(34))}"


def check_supported(found: str, supported: t.Sequence[str]) -> None:
    """Refuse a distribution that nobody has written down what to do with."""
    if supported and found not in supported and f"{found.rpartition('-')[0]}-*" not in supported:
        raise InvalidInput("Distribution of the guest", found, f"the role knows {', '.join(supported)}", "Use a guest with one of these.")
