# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a guest's console gives away about its kernel. Pure."""

from __future__ import annotations

import re
from typing import Any

LISTED = 1000  # lines of trouble

Data = dict[str, Any]

# A kernel message starts a line or follows the kernel's own time stamp: printk writes into the middle of a prompt, and
# a suite that merely prints the word Oops is no oops.
_BEFORE = r"(?:^(?:<\d+>)?|\[\s*\d+\.\d+\]\s*(?:\[\s*[TC]\d+\]\s*)?)"
_FATAL = r"Kernel panic - not syncing|PANIC: double fault"
# A kernel that says this is dead.
PANIC = re.compile(rf"{_BEFORE}((?:{_FATAL}).*)", re.MULTILINE)
TROUBLE = re.compile(
    rf"{_BEFORE}(?:{_FATAL}|"
    r"kernel BUG at |BUG: |"
    r"WARNING: (?:CPU: \d|\S+:\d+ at |possible |suspicious |inconsistent |bad unlock |held lock )|"
    r"Oops: |Oops - |Internal error: |Unable to handle kernel |"
    r"general protection fault|divide error: |invalid opcode: |stack segment: |"
    r"KASAN: |UBSAN: |"
    r"(?:NMI )?watchdog: .*(?:soft lockup|hard LOCKUP)|"
    r"INFO: task .* blocked for more than |"
    r"(?:rcu: )?INFO: \S+ (?:self-)?detected (?:expedited )?stalls?|rcu: RCU grace-period kthread stack dump|"
    r"(?:VFS|md): .*Unable to mount root fs|VFS: Cannot open root device"
    r")"
)
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|[^\x20-\x7e\n\t\u00a0-\uffff]")


def clean(text: str) -> str:
    """Return console text without carriage returns, escape sequences and other control characters."""
    return _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def scan_console(text: str) -> Data:
    """Count the lines of a console and list those in which the kernel complains; fatal are those in which it dies."""
    trouble: list[Data] = []
    died = False
    lines = re.split(r"\r*\n", text)
    for number, line in enumerate(lines, start=1):
        plain = _CONTROL.sub("", line)
        match = TROUBLE.search(plain)
        if match is None:
            continue
        panic = PANIC.search(plain)
        # Its death is listed however long the list is: it comes last and explains most.
        if len(trouble) < LISTED or (panic and not died):
            trouble.append({"line": number, "text": plain[(panic or match).start() :][:500], "fatal": panic is not None})
        died = died or panic is not None
    return {"read": True, "lines": len(lines) - (lines[-1] == ""), "trouble": trouble}


def death(console: Data) -> Data | None:
    """Return the line in which the kernel died, if it did."""
    return next((trouble for trouble in console["trouble"] if trouble["fatal"]), None)


def last_words(trouble: Data) -> str:
    """Return what the kernel said it died of."""
    return trouble["text"].partition(" - not syncing: ")[2] or trouble["text"]
