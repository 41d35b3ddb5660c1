# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Signatures: regular expressions that say what a failure looks like, and that no text can make slow. Pure.

A signature is searched for in each line of a text by itself. What it may hold is bounded, because the text comes from a guest, which
must be able neither to hide behind an expression that matches everything nor to keep the verdict busy for hours:

* it needs a few characters that stand for themselves, and it must not match the empty text or one character repeated;
* no group that repeats or chooses may be repeated, at most two repeats may be without end, and the others have few combinations;
* no backreferences, no lookaround, no verbose mode;
* of a text the first 64 KiB count, and of a line the first 300 characters.
"""

from __future__ import annotations

import re
import string
import warnings
from dataclasses import dataclass
from functools import lru_cache

LENGTH_LIMIT = 500
LITERALS_NEEDED = 3
ENDLESS_LIMIT = 2
COUNT_LIMIT = 20  # of {n,m}; more counts as without end
COMBINATIONS_LIMIT = 100
TEXT_LIMIT = 64 * 1024
LINE_LIMIT = 300

_ESCAPE_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_TOKEN = re.compile(
    r"(?P<escape>\\.)|(?P<set>\[\^?\]?(?:\\.|[^\]\\])*\])|(?P<open>\((?:\?:)?(?P<odd>\?)?)|(?P<close>\))"
    r"|(?P<repeat>[*+?]|\{(?P<low>\d*)(?P<range>,)?(?P<high>\d*)\})|(?P<or>\|)|(?P<anchor>[.^$])|(?P<literal>.)",
    re.DOTALL,
)


def refusal(pattern: str) -> str | None:
    """Return why an expression is no signature, None if it is one."""
    if len(pattern) > LENGTH_LIMIT:
        return f"it is longer than {LENGTH_LIMIT} characters"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of [[:alpha:]], which means something else here
            compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError, Warning) as error:
        return f"it is no regular expression: {error}"
    shape = _shape_refusal(pattern)
    if shape is not None:  # only what is no longer slow is tried out
        return shape
    if compiled.search("") is not None:
        return "it matches the empty text, and so every failure"
    bland = next((char for char in string.printable if compiled.search(char * 64)), None)
    return None if bland is None else f"it matches {bland * 3!r}, and so nearly every failure"


def _shape_refusal(pattern: str) -> str | None:
    """Walk through the expression once and refuse what can be slow or says too little."""
    literals = endless = 0
    combinations = 1
    groups = [_Group()]
    closed: _Group | None = None  # the group that has just ended
    for token in _TOKEN.finditer(pattern[4:] if pattern.startswith("(?i)") else pattern):
        if token["odd"]:
            return "it uses '(?', of which only '(?:' and a leading '(?i)' are allowed"
        if token["escape"] and token["escape"][1].isdigit():
            return "it refers back to a group"
        if token["repeat"]:
            least, most = _counts(token)
            if most > 1 and closed and (closed.repeats or closed.choices > 1):
                return "it repeats a group that itself repeats or chooses; such expressions can take for ever"
            if most > COUNT_LIMIT:
                endless += 1
            else:
                combinations *= most - least + 1
            groups[-1].repeats = True
        elif token["or"]:
            groups[-1].choices += 1
        elif token["open"]:
            groups.append(_Group())
        elif token["literal"] or (token["escape"] and not token["escape"][1].isalnum()):
            literals += 1
        closed = groups.pop() if token["close"] else None
        if closed:
            groups[-1].repeats = groups[-1].repeats or closed.repeats or closed.choices > 1
            combinations *= closed.choices
    if endless > ENDLESS_LIMIT:
        return f"it repeats without end more than {ENDLESS_LIMIT} times; give a list of expressions instead, all of which must match"
    if combinations * groups[0].choices > COMBINATIONS_LIMIT:
        return f"its choices and repeats have more than {COMBINATIONS_LIMIT} combinations; give a list of expressions instead"
    if literals < LITERALS_NEEDED:
        return f"it has fewer than {LITERALS_NEEDED} characters that stand for themselves, which is no signature"
    return None


@dataclass
class _Group:
    repeats: bool = False
    choices: int = 1


def _counts(token: re.Match[str]) -> tuple[int, int]:
    """The least and the greatest number of times; what is more than the limit counts as without end."""
    if token["repeat"] == "?":
        return 0, 1
    if token["repeat"] in ("*", "+"):
        return 0, COUNT_LIMIT + 1
    least = int(token["low"] or 0)
    most = int(token["high"]) if token["high"] else COUNT_LIMIT + 1 if token["range"] else least
    return least, most


def searchable(text: str) -> list[str]:
    """Return the lines of a text that signatures are searched for in."""
    return [_ESCAPE_SEQUENCE.sub("", line[: 2 * LINE_LIMIT])[:LINE_LIMIT] for line in text[:TEXT_LIMIT].splitlines()]


class Text:
    """Lines to search, each once, and what a search in them can cost."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = list(dict.fromkeys(lines))
        # A repeat without end may be tried from each place to each later one.
        self._steps = [sum(len(line) ** (power + 1) for line in self.lines) // share for power, share in enumerate((1, 2, 6))]

    def steps(self, patterns: list[str]) -> int:
        """Return how many steps it takes at most, about, to search for these."""
        return sum(self._steps[_endless(pattern)] for pattern in patterns)

    def has(self, patterns: list[str]) -> bool:
        """Tell whether each expression is found in some line."""
        return bool(patterns) and all(any(_compiled(pattern).search(line) for line in self.lines) for pattern in patterns)


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


@lru_cache(maxsize=1024)
def _endless(pattern: str) -> int:
    tokens = _TOKEN.finditer(pattern)
    return min(ENDLESS_LIMIT, sum(_counts(token)[1] > COUNT_LIMIT for token in tokens if token["repeat"]))
