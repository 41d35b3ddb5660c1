# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Texts and pieces of HTML for report.html: what a guest said becomes visible, bounded and harmless here. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from html import escape
from typing import Any
from urllib.parse import quote

NAME_LIMIT = 300  # characters
LINE_LIMIT = 400

ESCAPE_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_SPECIAL = re.compile(r"[^\n\t\x20-\x7e]")
LINE_END = re.compile(r"\r*\n")  # as the console was counted
_JSON_ESCAPES = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}


class Room:
    """What may still be written of one kind."""

    def __init__(self, size: int) -> None:
        self.left = size

    def take(self, text: str) -> bool:
        self.left -= len(text.encode("utf-8"))
        return self.left >= 0

    def fill(self, pieces: Iterable[str], instead: str = "") -> str:
        """Return the pieces that fit, and a word on the others."""
        kept = []
        for piece in pieces:
            if not self.take(piece):
                kept.append(instead)
                break
            kept.append(piece)
        return "".join(kept)


def visible(text: str) -> str:
    """Return a text in which nothing hides: control characters, bidirectional overrides and the like are spelled out."""
    return _SPECIAL.sub(_spell, text)


def _spell(match: re.Match[str]) -> str:
    char = match[0]
    if char.isprintable():
        return char
    code = ord(char)
    if code < 32:
        return chr(0x2400 + code)
    return "\u2421" if code == 127 else f"<U+{code:04X}>"


def embed(value: Any) -> str:
    """Return JSON that can stand in a script element: no end tag and no comment can begin in it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).translate(_JSON_ESCAPES)


def cut_text(text: str, limit: int) -> str:
    return visible(text if len(text) <= limit else text[:limit] + "\u2026 [cut]")


def name_text(value: Any) -> str:
    return cut_text(str(value), NAME_LIMIT)


def safe(value: Any, limit: int = NAME_LIMIT) -> str:
    return escape(cut_text(str(value), limit))


def count_text(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def badge(status: str, symbols: dict[str, str]) -> str:
    return f'<span class="badge {status}">{symbols[status]} {status.replace("_", " ")}</span>'


def pre(text: str, label: str) -> str:
    return f'<pre tabindex="0" role="region" aria-label="{escape(label)}">{text}</pre>'


def fold(summary: str, content: str, attributes: str = "") -> str:
    return f"<details{attributes}><summary>{summary}</summary>{content}</details>\n"


def link_to(path: str, name: str) -> str:
    return f'<a href="{quote(path)}">{safe(name)}</a>'


def section(anchor: str, title: str, content: str) -> str:
    return f'<section id="{anchor}"><h2>{title}</h2>\n{content}\n</section>'


def log_lines(text: str) -> list[str]:
    lines = [ESCAPE_SEQUENCE.sub("", line[: 10 * LINE_LIMIT]) for line in LINE_END.split(text)]
    return lines[:-1] if lines[-1] == "" else lines


def log_text(lines: list[str]) -> str:
    return "\n".join(safe(line, LINE_LIMIT) for line in lines)


def amount(size: int) -> str:
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} B"


def flat(value: Any, prefix: str = "", depth: int = 3) -> Iterator[tuple[str, str]]:
    """Nested objects and lists as names with dots; what is nested deeper as JSON."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value, start=1):
        name = f"{prefix}{key}"
        if isinstance(inner, list) and inner and all(isinstance(item, str) for item in inner):
            yield name, ", ".join(inner)
        elif isinstance(inner, (dict, list)) and inner and depth:
            yield from flat(inner, f"{name}.", depth - 1)
        elif inner not in (None, "", [], {}):
            yield name, inner if isinstance(inner, str) else json.dumps(inner, ensure_ascii=False)
