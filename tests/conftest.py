# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make the checkout importable as ansible_collections.mayfly.virt, as Ansible itself would see it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TREE = ROOT / "build" / "tree"


def _link_checkout() -> None:
    link = TREE / "ansible_collections" / "mayfly" / "virt"
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(ROOT, target_is_directory=True)
    sys.path.insert(0, str(TREE))


_link_checkout()
# make sets it for people. A test that reads what Ansible prints says itself how that shall look.
os.environ.pop("ANSIBLE_STDOUT_CALLBACK", None)
