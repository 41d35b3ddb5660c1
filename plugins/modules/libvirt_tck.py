#!/usr/bin/python
# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module libvirt_tck: a libvirt-tck that lies in a guest, made ready to test the guest's own libvirt."""

from __future__ import annotations

DOCUMENTATION = r"""
module: libvirt_tck
short_description: Make libvirt-tck ready in a guest
version_added: 0.2.0
description:
  - Runs in a guest whose libvirt is tested, not on the hypervisor. It needs Python's standard library and Perl there, and that the role
    P(mayfly.virt.libvirt_under_test#role) has set up the libvirt under test.
  - Finds out which configuration this libvirt-tck reads, and writes it. Puts kernel, initrd, image and key to where libvirt-tck looks
    before it downloads, so that no test needs a network.
  - Has the wrapper check that the libvirt is the guest's own, and list the tests with what they need.
  - All of it is one task, because each costs seconds in an emulated guest.
extends_documentation_fragment:
  - mayfly.virt._attributes.elsewhere
options:
  tree:
    description:
      - Directory of a source tree of libvirt-tck in the guest. When left out, the distribution's package is used.
    type: path
  scratch:
    description:
      - libvirt-tck's scratch directory. Its disks, pools and volumes come to lie there.
    type: path
    default: /var/cache/libvirt-tck
  kernel:
    description:
      - Kernel in the guest that the tests' domains boot. When left out, the one that the guest itself runs, from F(/boot).
    type: path
  initrd:
    description:
      - Initial ramdisk for O(kernel).
    type: path
  image:
    description:
      - A full image in the guest, for tests that need an operating system they can log in to, with O(ssh_key).
    type: path
  image_name:
    description:
      - What libvirt-tck calls O(image).
    type: str
    default: fedora-41
  ssh_key:
    description:
      - Private key in the guest that root of O(image) accepts, its public half beside it with C(.pub).
    type: path
  usb_devices:
    description:
      - USB devices of the guest that tests may take, each with C(vendor) and C(product), or C(bus) and C(device), or all of them.
    type: list
    elements: dict
    default: []
  pci_devices:
    description:
      - PCI devices of the guest that tests may take, each with C(slot), and C(domain), C(bus) and C(function) where they are not 0.
    type: list
    elements: dict
    default: []
  block_devices:
    description:
      - Whole disks of the guest, as paths, whose content tests may overwrite. libvirt-tck since 2.0.0 dies of any, so they are refused.
    type: list
    elements: str
    default: []
  loop_devices:
    description:
      - Number of loop devices to make in O(scratch) and to add to O(block_devices), for a guest without disks to spare.
      - Each is a sparse file of 1 GiB, and gone when the guest is.
    type: int
    default: 0
  network_devices:
    description:
      - Names of network cards of the guest that tests may take. libvirt-tck since 2.0.0 ignores a list of one, so there it is refused.
    type: list
    elements: str
    default: []
  other_uri:
    description:
      - Connection URI of a second libvirt for tests of migration.
    type: str
    default: ""
  needs:
    description:
      - What tests need, in the keys C(record) for libvirt-tck 0.x and 1.x and C(yaml) for 2.x.
      - Each is a list of entries with the keys C(tests) (a pattern of names), C(needs) (a list of names), C(reason) and C(deadline)
        (seconds under KVM).
    type: dict
    required: true
  wrapper:
    description:
      - The wrapper around tests in the guest.
    type: path
    default: /usr/local/lib/mayfly/mayfly_libvirt_test.py
  settings:
    description:
      - The wrapper's settings, which the role P(mayfly.virt.libvirt_under_test#role) wrote.
      - What this module adds goes into the directory of the same name that ends in C(.d).
    type: path
    default: /etc/mayfly/libvirt-test.json
  config_dir:
    description:
      - Directory for libvirt-tck's configuration, C(mayfly.cfg) or C(mayfly.yml), whichever format it reads.
    type: path
    default: /etc/libvirt-tck
  output:
    description:
      - Where the list of tests is written.
    type: path
    default: /etc/mayfly/tck-tests.json
author:
  - The Mayfly authors (@mayfly)
"""

EXAMPLES = r"""
---
- name: Make the distribution's libvirt-tck ready
  mayfly.virt.libvirt_tck:
    needs:
      record:
        - tests: domain/300-*
          needs: [otheruri]
          reason: migrates to a second libvirt
      yaml: []
"""

RETURN = r"""
actions:
  description: What was done, or would be in check mode, in words.
  returned: success
  type: list
  elements: str
  sample: ["create file /etc/libvirt-tck/mayfly.cfg"]
version:
  description: Version of libvirt-tck.
  returned: success
  type: str
  sample: 0.1.0
config:
  description: The configuration that its tests are given.
  returned: success
  type: str
  sample: /etc/libvirt-tck/mayfly.cfg
tests:
  description: Number of tests listed.
  returned: success, but not in check mode
  type: int
  sample: 60
not_run:
  description: Tests that this guest cannot run, with the reason.
  returned: success, but not in check mode
  type: dict
  sample: {"domain/300-migration.t": "otheruri: no other libvirt is configured (migrates to a second libvirt)"}
"""

import filecmp
import json
import os
import platform
import shutil
import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import _tck
from ..module_utils._errors import InvalidInput, MayflyError, failing
from ..module_utils._plan import Action, changed, diff, sentences

PACKAGED_TESTS = "/usr/share/libvirt-tck/tests"
NVRAM_TEMPLATES = ("/usr/share/OVMF/OVMF_VARS.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd")
LOOP_BYTES = 1 << 30
# Seconds, in a guest that is emulated.
PERL_WAIT = 60
TOOL_WAIT = 60
WRAPPER_WAIT = 300


class Guest:
    """What there is in this guest: programs with a limit, files."""

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module

    def run(self, seconds: int, *argv: str) -> tuple[int, str, str]:
        code, out, err = self._module.run_command(
            ["timeout", "-k", "5", str(seconds), *argv], expand_user_and_vars=False, environ_update={"LC_ALL": "C.UTF-8"}
        )
        if code == 124:
            err = f"{err}\n{argv[0]} did not end within {seconds} s"
        return code, out, err.strip()

    def library(self, tree: str | None) -> Path:
        """Return the file TCK.pm, of the tree or of the distribution's package."""
        if tree:
            path = Path(tree, "lib/Sys/Virt/TCK.pm")
            if not path.is_file():
                raise InvalidInput("Tree of libvirt-tck", tree, "it has no lib/Sys/Virt/TCK.pm", "Give its root directory.")
            return path
        # Looked for by name: loading it would load Sys::Virt too.
        look = 'for (@INC) { if (-f "$_/Sys/Virt/TCK.pm") { print "$_/Sys/Virt/TCK.pm"; exit 0 } } exit 1'
        code, out, err = self.run(PERL_WAIT, "perl", "-e", look)
        if code != 0 or not out:
            raise MayflyError(
                "find the package of",
                "libvirt-tck",
                err or "no directory in which Perl looks has Sys/Virt/TCK.pm",
                "Bake it into the image: add libvirt_tck to mayfly_toolchains and prepare again; or give libvirt_tck_source.",
            )
        return Path(out)

    def loop_of(self, file: Path) -> str:
        """Return the loop device that shows a file, nothing if none does."""
        return self._losetup("--list", "--noheadings", "--output=NAME", f"--associated={file}") if file.exists() else ""

    def make_loop(self, file: Path) -> str:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab") as disk:
            disk.truncate(LOOP_BYTES)
        return self._losetup("--find", "--show", str(file))

    def _losetup(self, *words: str) -> str:
        code, out, err = self.run(TOOL_WAIT, "losetup", *words)
        if code != 0:
            raise MayflyError("set up a loop device with", words[-1], err, "Has the guest's kernel the module loop?")
        return out.strip()


def read_settings(path: Path) -> dict[str, t.Any]:
    """Return what the role libvirt_under_test has written."""
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        str(settings["uri"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MayflyError(
            "read the settings",
            str(path),
            f"{type(error).__name__}: {error}",
            "The role libvirt_under_test writes them: run it before this one.",
        ) from error
    return settings


def seeds(params: dict[str, t.Any]) -> dict[str, Path]:
    """Return which file goes where in the scratch directory, or refuse one that is not there."""
    running = platform.release()
    found = {
        "kernel": params["kernel"] or f"/boot/vmlinuz-{running}",
        # Debian's name, then Fedora's.
        "initrd": params["initrd"]
        or next((p for p in (f"/boot/initrd.img-{running}", f"/boot/initramfs-{running}.img") if os.path.exists(p)), ""),
    }
    if params["image"]:
        if not params["ssh_key"]:
            raise InvalidInput("Image for libvirt-tck", params["image"], "there is no key to log in to it", "Give the key too.")
        found |= {"image": params["image"], "ssh_key": params["ssh_key"], "ssh_key_public": f"{params['ssh_key']}.pub"}
    for what, path in found.items():
        if not path or not Path(path).is_file():
            where = path or f"/boot, for Linux {running}"
            raise InvalidInput(
                f"The {what.replace('_', ' ')} for libvirt-tck's domains", where, "there is no such file in the guest", "Name one."
            )
    places = _tck.resources(platform.machine(), params["image_name"] if params["image"] else "")
    return {places[what]: Path(path) for what, path in found.items()}


def text_action(path: Path, text: str) -> Action:
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    verb = "create" if not path.exists() else "keep" if before == text else "update"
    return Action(verb, "file", str(path), before=before, after=text)


def seed_action(path: Path, source: Path) -> Action:
    if path.exists() and filecmp.cmp(path, source, shallow=False):
        return Action("keep", "file", str(path))
    return Action("update" if path.exists() else "create", "file", str(path), reason=f"from {source}", after=f"{source}\n")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.write_text(text, encoding="utf-8")
    os.replace(new, path)


def copy(path: Path, source: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700 if path.parent.name == "ssh" else 0o755)
    new = path.with_name(f".{path.name}.new")
    shutil.copyfile(source, new)
    # libvirt-tck makes the kernel executable itself; a key that others may read is refused by ssh.
    new.chmod(0o600 if path.name == "id_rsa" else 0o755 if path.name == "vmlinuz" else 0o644)
    os.replace(new, path)


def wrapper(guest: Guest, params: dict[str, t.Any], *words: str) -> str:
    code, out, err = guest.run(WRAPPER_WAIT, "python3", params["wrapper"], *words)
    if code != 0:
        text = "\n".join(part for part in (err, out.strip()) if part)
        raise MayflyError(
            f"{words[0]} the tests of",
            "libvirt-tck",
            text or f"the wrapper ended with status {code}",
            "The role libvirt_under_test must have run.",
        )
    return out


def loops(params: dict[str, t.Any], guest: Guest, check_mode: bool) -> tuple[list[Action], list[str]]:
    """Make the loop devices that are not there; return what was done, and their names. In check mode new ones have none."""
    actions, names = [], []
    for number in range(params["loop_devices"]):
        file = Path(params["scratch"], f"loop{number}.img")
        name = guest.loop_of(file)
        actions.append(Action("keep" if name else "create", "loop device", str(file)))
        if not name and not check_mode:
            name = guest.make_loop(file)
        names += [name] if name else []
    return actions, names


def texts(params: dict[str, t.Any], guest: Guest, uri: str) -> tuple[dict[Path, str], str]:
    """Return the files to write, and the version of libvirt-tck."""
    library = guest.library(params["tree"])
    source = library.read_text(encoding="utf-8", errors="replace")
    form = _tck.library_format(str(library), source)
    places = _tck.resources(platform.machine(), "")
    settings = _tck.Settings(
        uri=uri,
        scratch=params["scratch"],
        arch=platform.machine(),
        kernel=str(Path(params["scratch"], places["kernel"])),
        initrd=str(Path(params["scratch"], places["initrd"])),
        devices=_tck.check_devices(params, form),
        image=params["image_name"] if params["image"] else "",
        other_uri=params["other_uri"],
        nvram_template=next((path for path in NVRAM_TEMPLATES if os.path.exists(path)), ""),
    )
    config = Path(params["config_dir"], f"mayfly.{'yml' if form == 'yaml' else 'cfg'}")
    tck = {
        "tests": str(Path(params["tree"], "scripts")) if params["tree"] else PACKAGED_TESTS,
        "perl_lib": [str(library.parents[2])] if params["tree"] else [],
        "config": str(config),
        "environment": {"LIBVIRT_TCK_CONFIG": str(config), "LIBVIRT_TCK_AUTOCLEAN": "1"},
    }
    more = Path(params["settings"]).with_suffix(".d") / "tck.json"
    return {
        config: _tck.config(settings, form),
        # Whatever libvirt-tck makes is called tck….
        more: json.dumps({"purge_prefix": "tck", "scratch": params["scratch"], "tck": tck}, indent=2) + "\n",
        needs_file(params): json.dumps(_tck.check_needs(params["needs"].get(form) or []), indent=2) + "\n",
    }, _tck.library_version(source)


def needs_file(params: dict[str, t.Any]) -> Path:
    return Path(params["output"]).with_name("tck-needs.json")


def listed(path: Path) -> dict[str, t.Any]:
    entries = json.loads(path.read_text(encoding="utf-8"))
    return {"tests": len(entries), "not_run": {entry["name"]: entry["not_run"] for entry in entries if entry.get("not_run")}}


def make_ready(module: AnsibleModule) -> dict[str, t.Any]:
    params, guest = module.params, Guest(module)
    uri = read_settings(Path(params["settings"]))["uri"]
    if not Path(params["wrapper"]).is_file():
        raise MayflyError(
            "find the wrapper", params["wrapper"], "there is no such file in the guest", "The role libvirt_under_test brings it."
        )
    looped, names = loops(params, guest, module.check_mode)
    params["block_devices"] = [*params["block_devices"], *names]
    files, version = texts(params, guest, uri)
    sources = {Path(params["scratch"], place): source for place, source in seeds(params).items()}
    output = Path(params["output"])
    before = output.read_text(encoding="utf-8") if output.exists() else None
    actions = [text_action(path, text) for path, text in files.items()] + [seed_action(path, source) for path, source in sources.items()]
    result = {"version": version, "config": str(next(iter(files)))}
    if module.check_mode:
        if before is None:
            actions.append(Action("create", "file", str(output)))
    else:
        for action, (path, text) in zip(actions, files.items()):
            if action.changes:
                write(path, text)
        for action, (path, source) in zip(actions[len(files) :], sources.items()):
            if action.changes:
                copy(path, source)
        wrapper(guest, params, "check", "--config", params["settings"], "--wait", str(TOOL_WAIT))
        wrapper(guest, params, "list", "--config", params["settings"], "--needs", str(needs_file(params)), "--output", str(output))
        after = output.read_text(encoding="utf-8")
        verb = "create" if before is None else "keep" if before == after else "update"
        actions.append(Action(verb, "file", str(output), before=before or "", after=after))
        result |= listed(output)
    actions += looped
    return {"changed": changed(actions), "actions": sentences(actions), "diff": diff(actions), **result}


def main() -> None:
    devices = {"type": "list", "default": []}
    module = AnsibleModule(
        argument_spec={
            "tree": {"type": "path"},
            "scratch": {"type": "path", "default": "/var/cache/libvirt-tck"},
            "kernel": {"type": "path"},
            "initrd": {"type": "path"},
            "image": {"type": "path"},
            "image_name": {"type": "str", "default": "fedora-41"},
            "ssh_key": {"type": "path"},
            "usb_devices": {**devices, "elements": "dict"},
            "pci_devices": {**devices, "elements": "dict"},
            "block_devices": {**devices, "elements": "str"},
            "loop_devices": {"type": "int", "default": 0},
            "network_devices": {**devices, "elements": "str"},
            "other_uri": {"type": "str", "default": ""},
            "needs": {"type": "dict", "required": True},
            "wrapper": {"type": "path", "default": "/usr/local/lib/mayfly/mayfly_libvirt_test.py"},
            "settings": {"type": "path", "default": "/etc/mayfly/libvirt-test.json"},
            "config_dir": {"type": "path", "default": "/etc/libvirt-tck"},
            "output": {"type": "path", "default": "/etc/mayfly/tck-tests.json"},
        },
        required_together=[("kernel", "initrd")],
        supports_check_mode=True,
    )
    with failing(module):
        result = make_ready(module)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
