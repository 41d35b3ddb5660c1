# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Argument specifications that several modules share; their documentation is in plugins/doc_fragments."""

from __future__ import annotations

import typing as t

COMMON: dict[str, t.Any] = {
    "uri": {"type": "str", "default": "qemu:///system"},
    "state_dir": {"type": "path", "default": "/var/lib/mayfly"},
}

RUN: dict[str, t.Any] = {
    "type": "dict",
    "options": {
        "id": {"type": "str", "required": True},
        "owner": {"type": "str"},
        "job_url": {"type": "str"},
        "deadline": {"type": "int", "default": 7200},
        "owner_pid": {"type": "int"},
    },
}

SEED: dict[str, t.Any] = {
    "hostname": {"type": "str"},
    "user": {"type": "str", "default": "root"},
    "authorized_keys": {"type": "list", "elements": "str", "default": [], "no_log": False},
    "ca_certificates": {"type": "list", "elements": "path", "default": []},
    "user_data": {"type": "dict", "default": {}},
}
