# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every module's main() shares: libraries present, one error shape, one result shape."""

from __future__ import annotations

import os
import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import open_url

from . import _errors
from ._argspec import COMMON
from ._libvirt import LIBVIRT_ERROR
from ._lxml import LXML_ERROR, missing_library
from ._plan import Action, changed, diff, sentences


def make_module(options: dict[str, t.Any], *, needs_libvirt: bool = True, **rules: t.Any) -> AnsibleModule:
    """Return the module with the common options added, or fail naming the library and interpreter that lack."""
    module = AnsibleModule(argument_spec={**COMMON, **options}, supports_check_mode=True, **rules)
    for library, package, error in (("lxml", "python3-lxml", LXML_ERROR), ("libvirt", "python3-libvirt", LIBVIRT_ERROR)):
        if error and (needs_libvirt or library != "libvirt"):
            module.fail_json(msg=missing_library(library, package), exception=error)
    return module


# What modules call on the hypervisor, beside what every Debian has.
PROGRAMS = (
    "qemu-img",
    "qemu-system-x86_64",
    "ssh",
    "ssh-keygen",
    "xorriso",
    "mmdebstrap",
    "mke2fs",
    "dhcp_release",
    "gpgv",
    "nft",
    "timeout",
)


class Tools:
    """How a module reaches outside: programs as argument lists, and URLs."""

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module

    def run(self, argv: list[str], **options: t.Any) -> tuple[int, str, str]:
        """Run a program, its words taken as they are; one that is not installed ends with status 127."""
        try:
            return self._module.run_command(argv, handle_exceptions=False, expand_user_and_vars=False, **options)
        except FileNotFoundError:
            return 127, "", f"the program {argv[0]} is not installed; the play mayfly.virt.hypervisor installs what is needed"

    def open_url(self, url: str) -> t.Any:
        return open_url(url, http_agent="mayfly.virt", timeout=60, decompress=False, headers={"Accept-Encoding": "identity"})


def state_dir(module: AnsibleModule) -> Path:
    """Return the state directory by its one true name: tags and disks' chains say where they belong by it."""
    return Path(os.path.realpath(module.params["state_dir"]))


failing = _errors.failing


def result(actions: t.Sequence[Action], results: t.Sequence[dict[str, t.Any]]) -> dict[str, t.Any]:
    """Return what exit_json is given: changed, diff and actions from the one plan, and an entry for each object."""
    return {"changed": changed(actions), "diff": diff(actions), "actions": sentences(actions), "results": list(results)}


def entry(name: str, actions: t.Sequence[Action], **facts: t.Any) -> dict[str, t.Any]:
    """Return one object's entry of results."""
    return {"name": name, "changed": changed(actions), "actions": sentences(actions), **facts}
