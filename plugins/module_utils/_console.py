# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a guest's console gives away about its kernel. Pure.

A complaint of the kernel is a headline and, mostly, the lines that follow it: registers, a call trace. Together they are
a splat. Splats are told apart by a fingerprint of what kind they are, what the headline says without its numbers, and
the innermost functions that are not the kernel's own alarm bells.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

from ._errors import InvalidInput

LISTED = 1000  # splats
SPELT_OUT = 50  # splats whose lines are kept, and the fatal one
SPLAT_LINES = 120  # lines after the headline that may belong to it
SPLAT_GAP = 2.0  # seconds of the kernel's clock: what comes later is another story
FRAMES = 10
LINE_LIMIT = 500  # characters

Data = dict[str, Any]

# A kernel message starts a line or follows the kernel's own time stamp: printk writes into the middle of a prompt, and
# a suite that merely prints the word Oops is no oops.
_STAMP = r"\[\s*(?P<stamp>\d+\.\d+)\]\s*(?:\[\s*[TC]\d+\]\s*)?"
_BEFORE = rf"(?:^(?:<\d+>)?|{_STAMP})"
_KINDS = (
    ("panic", r"Kernel panic - not syncing|PANIC: double fault"),
    ("kasan", r"BUG: KASAN: |KASAN: "),
    ("kcsan", r"BUG: KCSAN: "),
    ("kfence", r"BUG: KFENCE: "),
    ("lockup", r"(?:NMI )?watchdog: .*(?:soft lockup|hard LOCKUP)|BUG: soft lockup"),
    ("bug", r"kernel BUG at |BUG: |Unable to handle kernel "),
    ("warning", r"WARNING: (?:CPU: \d|\S+:\d+ at )"),
    ("lockdep", r"WARNING: (?:possible |suspicious |inconsistent |bad unlock |held lock )"),
    ("oops", r"Oops: |Oops - |Internal error: |invalid opcode: "),
    ("fault", r"general protection fault|divide error: |stack segment: "),
    ("ubsan", r"UBSAN: "),
    ("hung_task", r"INFO: task .* blocked for more than "),
    ("rcu_stall", r"(?:rcu: )?INFO: \S+ (?:self-)?detected (?:expedited )?stalls?|rcu: RCU grace-period kthread stack dump"),
    ("leak", r"unregister_netdevice: waiting for \S+ to become free|kmemleak: \d+ new suspected memory leaks"),
    ("no_root", r"(?:VFS|md): .*Unable to mount root fs|VFS: Cannot open root device"),
)
_DEATH = re.compile(rf"{_BEFORE}(?P<panic>{_KINDS[0][1]})")
TROUBLE = re.compile(_BEFORE + "(?:" + "|".join(rf"(?P<{kind}>{pattern})" for kind, pattern in _KINDS) + ")")
# A kernel that says this is dead.
PANIC = re.compile(rf"(?:^(?:<\d+>)?|\[\s*\d+\.\d+\]\s*(?:\[\s*[TC]\d+\]\s*)?)((?:{_KINDS[0][1]}).*)", re.MULTILINE)
# Headlines that only go on with the complaint before them.
_CONSEQUENCES = {"oops": ("bug", "fault", "kasan", "kfence"), "rcu_stall": ("rcu_stall",)}
_GRACE_PERIOD = "rcu: RCU grace-period kthread stack dump"

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|[^\x20-\x7e\n\t\u00a0-\uffff]")
_KERNEL_LINE = re.compile(rf"^.*?{_STAMP}(?P<text>.*)$")
_END = re.compile(r"---\[ end (?:trace|Kernel panic)")
_FRAME = re.compile(r"(?:^|\s|:)(?P<unsure>\? )?(?P<function>[A-Za-z_][\w.]*)\+0x[0-9a-f]+/0x[0-9a-f]+")
_SUFFIX = re.compile(r"\.(?:isra|constprop|part|cold|llvm)\b.*$")
# How the kernel sounds the alarm, which is the same in every splat.
_ALARM = re.compile(
    r"(?:_*(?:dump_stack|show_stack|show_trace|warn|warn_printk|warn_slowpath|report_bug|handle_bug|die|die_body|no_context|bad_area|"
    r"panic|nmi_panic|vpanic|crash_kexec|sched_show_task|show_regs|print_report|kasan_report|check_panic_on_warn|oops_end|nmi_trigger|"
    r"nmi_cpu_backtrace|rcu_dump_cpu_stacks)\w*|asm_\w+|exc_\w+|sysvec_\w+|page_fault\w*|do_trap\w*|do_error_trap\w*|entry_SYSCALL\w*|"
    r"do_syscall_64|ret_from_fork\w*|kthread)$"
)
# What differs between two occurrences of one complaint.
_VARYING = re.compile(r"0x[0-9a-f]+|\b[0-9a-f]{8,16}\b|\b\d+(?:\.\d+)?s?\b|#\d+", re.IGNORECASE)


def clean(text: str) -> str:
    """Return console text without carriage returns, escape sequences and other control characters."""
    return _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


# --- what is allowed --------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Allowance:
    """A complaint that somebody has looked at and accepted until a day."""

    pattern: re.Pattern[str]
    reason: str
    expires: datetime.date

    def covers(self, splat: Data) -> bool:
        """Tell whether the pattern is found in the headline or in one of the frames below it. A death is never accepted."""
        return not splat["fatal"] and any(self.pattern.search(line) for line in (splat["text"], *splat["frames"]))


def read_allowances(entries: Iterable[Any]) -> list[Allowance]:
    """Check entries of an allow list; raise InvalidInput for one that cannot be meant."""
    return [_allowance(number, entry) for number, entry in enumerate(entries, start=1)]


def _allowance(number: int, entry: Any) -> Allowance:
    name = f"entry {number}"
    if not isinstance(entry, dict) or set(entry) != {"pattern", "reason", "expires"}:
        raise InvalidInput("Console allow list", name, "it does not have exactly pattern, reason and expires", "Give all three.")
    try:
        pattern = re.compile(str(entry["pattern"]))
        expires = datetime.date.fromisoformat(str(entry["expires"]))
    except (re.error, ValueError, RecursionError) as error:
        raise InvalidInput("Console allow list", name, str(error), "Give a regular expression, and a day such as 2026-12-31.") from error
    if pattern.search(""):
        raise InvalidInput("Console allow list", name, f"its pattern {entry['pattern']!r} matches anything", "Say what it is about.")
    if not str(entry["reason"]).strip():
        raise InvalidInput("Console allow list", name, "it gives no reason", "Say why it is accepted, best with a link.")
    return Allowance(pattern, str(entry["reason"]), expires)


def in_force(allowances: Iterable[Allowance], day: datetime.date) -> list[Allowance]:
    """Return the entries that hold on a day, their last one included."""
    return [allowance for allowance in allowances if day <= allowance.expires]


# --- splats -----------------------------------------------------------------------------------------------------


class Scanner:
    """Reads a console line by line and joins what belongs together."""

    def __init__(self, allowances: Sequence[Allowance] = ()) -> None:
        self.lines = 0
        self.trouble: list[Data] = []
        self.allowed: list[Data] = []
        self._allowances = allowances
        self._open: Data | None = None
        self._began = 0.0  # by the kernel's clock
        self._body: list[str] = []
        self._died = False

    @property
    def open(self) -> Data | None:
        """The splat whose lines may still come."""
        return self._open

    def feed(self, line: str) -> list[Data]:
        """Take a line; return the splats that it completes, frames and fingerprint filled in."""
        self.lines += 1
        plain = _CONTROL.sub("", line)
        match = TROUBLE.search(plain)
        if match is not None:  # a death may stand behind another headline in one line
            match = _DEATH.search(plain) or match
        if match is not None and not self._goes_on(match):
            done = self.close()
            self._begin(plain, match)
            return done
        return [] if self._open is None else self._continue(self._open, plain)

    def close(self) -> list[Data]:
        """End the open splat: nothing more is to come, or something else has."""
        splat, self._open = self._open, None
        if splat is None:
            return []
        splat["fingerprint"] = fingerprint(splat)
        allowance = next((allowance for allowance in self._allowances if allowance.covers(splat)), None)
        splat["allowed"] = allowance.reason if allowance else None
        keep = self.allowed if allowance else self.trouble
        # Its death is listed however long the list is: it comes last and explains most.
        first_death = splat["fatal"] and not self._died
        self._died = self._died or splat["fatal"]
        if len(keep) < SPELT_OUT or first_death:
            splat["splat"] = self._body
        if len(keep) < LISTED or first_death:
            keep.append(splat)
        return [splat]

    def _begin(self, plain: str, match: re.Match[str]) -> None:
        kind = str(match.lastgroup)
        text = plain[match.start() :][:LINE_LIMIT]
        splat: Data = {
            "line": self.lines,
            "text": text,
            "fatal": kind == "panic",
            "kind": kind,
            "frames": [],
            "fingerprint": "",
            "allowed": None,
            "splat": [],
            "time": None,
        }
        self._open = splat
        self._body = [text]
        self._began = _clock(match)
        self._take_frames(splat, plain[match.end() :])

    def _goes_on(self, match: re.Match[str]) -> bool:
        """Tell whether a headline belongs to the open splat, which has had none of its kind yet."""
        if self._open is None or self._open["kind"] not in _CONSEQUENCES.get(str(match.lastgroup), ()):
            return False
        if match.lastgroup == "rcu_stall":
            return _GRACE_PERIOD in match[0]
        return not any("Oops" in line or "invalid opcode: " in line for line in self._body[1:])

    def _continue(self, splat: Data, plain: str) -> list[Data]:
        """Take a line after the headline. What is not the kernel's, such as output of a suite, stands between its lines."""
        match = _KERNEL_LINE.match(plain)
        if match is None and _KERNEL_LINE.match(self._body[0]):
            return []
        if match is not None and _clock(match) > self._began + SPLAT_GAP:
            return self.close()
        self._body.append(plain[:LINE_LIMIT])
        self._take_frames(splat, match["text"] if match else plain)
        if _END.search(plain) or len(self._body) > SPLAT_LINES:
            return self.close()
        return []

    def _take_frames(self, splat: Data, text: str) -> None:
        frames = splat["frames"]
        for frame in _FRAME.finditer(text):
            function = _SUFFIX.sub("", frame["function"])
            if not frame["unsure"] and not _ALARM.match(function) and len(frames) < FRAMES and function not in frames[-1:]:
                frames.append(function[:LINE_LIMIT])


def _clock(match: re.Match[str]) -> float:
    return float(match["stamp"][:20]) if match["stamp"] else 0.0


def fingerprint(splat: Data) -> str:
    """Return twelve hexadecimal digits that are the same for each occurrence of one complaint."""
    headline = _VARYING.sub("#", _KERNEL_STAMP.sub("", splat["text"]))
    text = "\n".join([splat["kind"], headline, *splat["frames"][:3]])
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:12]


_KERNEL_STAMP = re.compile(rf"^(?:<\d+>)?(?:{_STAMP})?")


def scan_console(text: str, allowances: Sequence[Allowance] = ()) -> Data:
    """Count the lines of a console, list the splats in which the kernel complains, and those that are allowed. Fatal are those in
    which it dies."""
    scanner = Scanner(allowances)
    lines = re.split(r"\r*\n", text)
    if lines[-1] == "":
        lines.pop()
    for line in lines:
        scanner.feed(line)
    scanner.close()
    return {"read": True, "lines": len(lines), "trouble": scanner.trouble, "allowed": scanner.allowed}


def unread_console() -> Data:
    """A console that nobody read. It must not look like a quiet one."""
    return {"read": False, "lines": 0, "trouble": [], "allowed": []}


def death(console: Data) -> Data | None:
    """Return the line in which the kernel died, if it did."""
    return next((trouble for trouble in console["trouble"] if trouble["fatal"]), None)


def last_words(trouble: Data) -> str:
    """Return what the kernel said it died of."""
    return trouble["text"].partition(" - not syncing: ")[2] or trouble["text"]
