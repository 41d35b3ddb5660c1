# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host under test, as the scenario's inventory says it is reached."""

from __future__ import annotations

import json
import subprocess
import typing as t
from pathlib import Path

import pytest
import testinfra

INVENTORY = Path(__file__).parent.parent / "inventory"
# Where Ansible keeps shared connections, unless told otherwise.
CONTROL_PATHS = Path.home() / ".ansible" / "cp"


@pytest.fixture(scope="session")
def host() -> t.Any:
    """Replaces testinfra's fixture, which cannot read an inventory plugin's variables: since ansible-core 2.19 they are marked unsafe."""
    variables = connection()
    CONTROL_PATHS.mkdir(parents=True, exist_ok=True)
    return testinfra.get_host(
        f"ssh://{variables['ansible_user']}@{variables['ansible_host']}",
        ssh_identity_file=variables["ansible_ssh_private_key_file"],
        ssh_extra_args=variables["ansible_ssh_common_args"],
        # Ansible's own connection, if it is still open.
        controlpath=variables["ansible_control_path"] % {"directory": CONTROL_PATHS},
        timeout=variables["ansible_ssh_timeout"],
    )


def connection() -> dict[str, t.Any]:
    """Return the variables of the only host there is."""
    argv = ["ansible-inventory", "--inventory", str(INVENTORY), "--list"]
    answer = subprocess.run(argv, check=True, capture_output=True, text=True)
    hosts = json.loads(answer.stdout, object_hook=plain)["_meta"]["hostvars"]
    if len(hosts) != 1:
        raise LookupError(f"{INVENTORY} shall have one host, and has {sorted(hosts)}. Which run's, MAYFLY_RUNS says.")
    return next(iter(hosts.values()))


def plain(value: dict[str, t.Any]) -> t.Any:
    return value.get("__ansible_unsafe", value)
