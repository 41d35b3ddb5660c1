# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""libvirt-tck: where it may come from, which configuration it reads, what its scratch directory holds. Pure."""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import re
import typing as t

from ._errors import InvalidInput, MayflyError
from ._pack import File

Options = t.Mapping[str, t.Any]

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DEVICE = re.compile(r"/dev/[A-Za-z0-9/._:-]+")
_INTERFACE = re.compile(r"[A-Za-z0-9._-]{1,15}")
_NUMBER = re.compile(r"(0x)?[0-9a-fA-F]{1,8}")
_WORD = re.compile(r"[A-Za-z0-9@:/?&=_.,+%\[\]-]+")
_VERSION = re.compile(r"""^our \$VERSION = ['"]v?([0-9.]+)['"]""", re.MULTILINE)

# What of a source tree goes into the guest: the library, the tests and what lies beside them, the configuration.
_KEPT = ("lib/", "scripts/", "conf/", "bin/")
_LIBRARY = "lib/Sys/Virt/TCK.pm"


# -- where it comes from -------------------------------------------------------------------------------------------------


def check_commit(commit: str) -> str:
    """Return a commit that can be no other next week: all forty digits, no branch and no tag."""
    if not _COMMIT.fullmatch(commit):
        raise InvalidInput(
            "Commit of libvirt-tck",
            commit,
            "it is not 40 lower-case hexadecimal digits",
            "Pin it: git rev-parse HEAD in a checkout prints it.",
        )
    return commit


def check_sha256(what: str, digest: str) -> str:
    if not _SHA256.fullmatch(digest):
        raise InvalidInput(f"Checksum of {what}", digest, "it is not 64 lower-case hexadecimal digits", "sha256sum prints it.")
    return digest


@dataclasses.dataclass(frozen=True)
class Tree:
    """A source tree of libvirt-tck: its files by relative path, its version and its number of tests."""

    files: dict[str, File]
    version: str
    tests: int


def tree(where: str, files: t.Mapping[str, File]) -> Tree:
    """Return what of these files is libvirt-tck, whose root may be the one directory in which all of them lie."""
    roots = [path[: -len(_LIBRARY)] for path in files if path == _LIBRARY or path.endswith("/" + _LIBRARY)]
    if len(roots) != 1:
        found = f"{len(roots)} of them" if roots else "it has none"
        raise InvalidInput(
            "Source of libvirt-tck", where, f"{_LIBRARY} is what marks one, and there is {found}", "Give its root directory."
        )
    root = roots[0]
    kept = {path[len(root) :]: file for path, file in files.items() if path.startswith(root) and path[len(root) :].startswith(_KEPT)}
    tests = [path for path in kept if fnmatch.fnmatchcase(path, "scripts/*/*.t")]
    if not tests:
        raise InvalidInput("Source of libvirt-tck", where, "there is no test scripts/<area>/<number>-<name>.t in it", "Give a whole tree.")
    return Tree(kept, library_version(kept[_LIBRARY].content.decode("utf-8", "replace")), len(tests))


# -- its configuration ---------------------------------------------------------------------------------------------------


def library_version(library: str) -> str:
    """Return the version that TCK.pm says of itself."""
    found = _VERSION.search(library)
    return found.group(1) if found else "unknown"


def library_format(where: str, library: str) -> str:
    """Return the format of the configuration that this TCK.pm reads: yaml since 2.0.0, record (Config::Record) before."""
    if re.search(r"^use YAML\b", library, re.MULTILINE):
        return "yaml"
    if re.search(r"^use Config::Record\b", library, re.MULTILINE):
        return "record"
    raise MayflyError(
        "read libvirt-tck", where, "it reads neither YAML nor Config::Record, so its configuration cannot be written", "Use 0.1.0 or 2.x."
    )


def check_devices(options: Options, form: str) -> dict[str, list[t.Any]]:
    """Return the lists of devices that the tests may take, as this TCK reads them, or refuse what it would silently not use."""
    usb = [_numbers("USB device", device, ("vendor", "product", "bus", "device")) for device in options["usb_devices"]]
    for device in usb:
        if not ({"vendor", "product"} <= device.keys() or {"bus", "device"} <= device.keys()):
            raise InvalidInput(
                "USB device", json.dumps(device), "it has neither vendor and product nor bus and device", "lsusb prints both."
            )
    pci = [_numbers("PCI device", device, ("domain", "bus", "slot", "function")) for device in options["pci_devices"]]
    for device in pci:
        if "slot" not in device:
            raise InvalidInput("PCI device", json.dumps(device), "it has no slot", "lspci -D prints <domain>:<bus>:<slot>.<function>.")
    block = list(options["block_devices"])
    for path in block:
        if not _DEVICE.fullmatch(path):
            raise InvalidInput("Block device", path, "it is no path below /dev", "Name whole disks, whose content will be lost.")
    network = list(options["network_devices"])
    for name in network:
        if not _INTERFACE.fullmatch(name):
            raise InvalidInput("Network device", name, "it is no name of an interface", "ip link prints them.")
    if form == "yaml" and block:
        # get_host_block_device() says ref($device) == 'HASH', which is true of every string, and then dies of the string.
        raise InvalidInput(
            "Block device",
            block[0],
            "libvirt-tck since 2.0.0 cannot use one: it dies when it reads the list",
            "Leave block_devices empty, or use 0.1.0.",
        )
    if form == "yaml" and len(network) == 1:
        raise InvalidInput(
            "Network device", network[0], "libvirt-tck since 2.0.0 ignores a list of one", "Name two, or the same one twice."
        )
    return {"host_usb_devices": usb, "host_pci_devices": pci, "host_block_devices": block, "host_network_devices": network}


def _numbers(what: str, device: Options, keys: tuple[str, ...]) -> dict[str, str]:
    """Return the fields of a device that are given, each a number in decimal or hexadecimal."""
    fields = {key: str(device[key]) for key in keys if device.get(key) not in (None, "")}
    for key, value in fields.items():
        if not _NUMBER.fullmatch(value):
            raise InvalidInput(what, json.dumps(fields), f"{key} is no number", "Write it like 0x0627 or 001.")
    return fields


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a configuration says, whatever its format."""

    uri: str
    scratch: str
    arch: str
    kernel: str
    initrd: str
    devices: t.Mapping[str, list[t.Any]]
    image: str = ""  # name of the operating system that a full image holds
    other_uri: str = ""
    nvram_template: str = ""

    def __post_init__(self) -> None:
        for word in (self.uri, self.scratch, self.arch, self.kernel, self.initrd, self.image, self.other_uri, self.nvram_template):
            if word and not _WORD.fullmatch(word):
                raise InvalidInput(
                    "Configuration of libvirt-tck", word, "it has a character that one of its formats gives a meaning", "Rename it."
                )


def config(settings: Settings, form: str) -> str:
    """Return the text of a configuration."""
    entry: dict[str, t.Any] = {"arch": settings.arch, "ostype": ["hvm"], "kernel": settings.kernel, "initrd": settings.initrd}
    values: dict[str, t.Any] = {"uri": settings.uri}
    if settings.other_uri:
        values["otheruri"] = settings.other_uri
    values |= {"scratch_dir": settings.scratch, "kernels": [entry]}
    if form == "yaml":
        values["images"] = [{"arch": settings.arch, "ostype": ["hvm"], "osname": settings.image}] if settings.image else []
        if settings.nvram_template:
            values["nvram_file_template"] = settings.nvram_template
            values["nvram_file_path"] = "/var/lib/libvirt/qemu/nvram/tck_VARS.fd"
    values |= settings.devices
    write = _yaml if form == "yaml" else _record
    return "\n".join(["# Written by mayfly.virt.libvirt_tck.", *(line for key, value in values.items() for line in write(key, value)), ""])


def _yaml(key: str, value: t.Any) -> list[str]:
    # JSON is YAML; the shell parts of the TCK look for uri with sed and take quotes away.
    return [f"{key}: {json.dumps(value)}"]


def _record(key: str, value: t.Any, indent: str = "") -> list[str]:
    """Return an assignment as Config::Record reads it: lists in ( ), records in { }, values to the end of the line."""
    if isinstance(value, (list, dict)):
        return [f"{indent}{key} = {_OPEN[type(value)]}", *_record_items(value, indent + "  "), f"{indent}{_CLOSE[type(value)]}"]
    return [f"{indent}{key} = {value}"]


def _record_items(value: t.Any, indent: str) -> list[str]:
    if isinstance(value, dict):
        return [line for key, item in value.items() for line in _record(key, item, indent)]
    lines = []
    for item in value:
        if isinstance(item, dict):
            lines += [f"{indent}{{", *_record_items(item, indent + "  "), f"{indent}}}"]
        else:
            lines.append(f"{indent}{item}")
    return lines


_OPEN: dict[type, str] = {list: "(", dict: "{"}
_CLOSE: dict[type, str] = {list: ")", dict: "}"}


# -- its scratch directory -----------------------------------------------------------------------------------------------


def resources(arch: str, image: str) -> dict[str, str]:
    """Return where in the scratch directory get_scratch_resource() and its like look before they download, by what lies there."""
    bucket = f"os-{arch}-hvm"
    paths = {"kernel": f"{bucket}/vmlinuz", "initrd": f"{bucket}/initrd", "ssh_key": "ssh/id_rsa", "ssh_key_public": "ssh/id_rsa.pub"}
    if image:
        paths["image"] = f"{bucket}/disk-{image}.img"
    return paths


# -- what tests need -----------------------------------------------------------------------------------------------------

_NEED_KEYS = {"tests", "needs", "reason", "deadline"}


def check_needs(entries: t.Sequence[Options]) -> list[dict[str, t.Any]]:
    """Return the list of what tests need, or refuse an entry that says nothing, or something nobody understands."""
    checked = []
    for entry in entries:
        target = str(entry.get("tests", ""))
        unknown = sorted(set(entry) - _NEED_KEYS)
        if unknown or not target:
            reason = f"it has the unknown key {unknown[0]}" if unknown else "it does not say which tests"
            raise InvalidInput("Need of tests", json.dumps(dict(entry)), reason, f"An entry has {', '.join(sorted(_NEED_KEYS))}.")
        needs, deadline = entry.get("needs", []), entry.get("deadline")
        if not isinstance(needs, list) or not all(isinstance(need, str) and need for need in needs):
            raise InvalidInput("Need of tests", target, "needs is no list of names", "Write needs: [nested_kvm].")
        if deadline is not None and (not isinstance(deadline, int) or isinstance(deadline, bool) or deadline <= 0):
            raise InvalidInput("Need of tests", target, f"deadline {deadline} is no positive number of seconds", "Correct it.")
        if not needs and deadline is None:
            raise InvalidInput("Need of tests", target, "it has neither needs nor a deadline", "Take it away.")
        if needs and not entry.get("reason"):
            raise InvalidInput("Need of tests", target, "it has no reason", "Say why these tests need it.")
        checked.append(dict(entry))
    return checked
