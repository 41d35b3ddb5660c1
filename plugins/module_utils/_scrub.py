# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets out of what is kept, whole texts or streams in bounded memory. Pure.

What is replaced never crosses a line, and a kernel's time stamp is never part of a secret: a guest must not be able to hide what
its kernel says behind something that looks like a password.
"""

from __future__ import annotations

import re
import typing as t

from ._errors import InvalidInput

SHORTEST = 4  # characters of a job's own secret: a shorter one is part of everything
REGEX = "regex:"
PIECE = 64 * 1024  # a longer line is looked at in pieces of this size
HELD = 8 * 1024  # of which so much is looked at again with the next: no secret is longer

_STAMP = rb"\[ *\d+\.\d+\]"
_DONE = rb"\[scrubbed: "
# What may be a secret's value: to the next blank or quote, and up to a kernel's time stamp.
_VALUE = rb"(?!" + _DONE + rb")(?:(?!" + _STAMP + rb")[^\s\"'`<>,;&]){1,4096}"
_TOKEN = rb"[A-Za-z0-9._~+/=-]{1,4096}"
_NAMES = (b"password", b"passwd", b"passphrase", b"pwd", b"secret", b"token", b"key", b"credential")
_NAME = rb"(?:password|passwd|passphrase|pwd|secret|token|(?:api|access|private|secret)[_-]?key|credentials?)"

_KEY_BEGIN = re.compile(rb"-----BEGIN (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_KEY_END = re.compile(rb"-----END (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_KEY_LINE = re.compile(rb"[A-Za-z0-9+/=]{16,4096}(?=[\"',\\]{0,3}[ \t\r]*$)")
_KEY_HEADER = re.compile(rb"(?:Proc-Type|DEK-Info|Version|Comment|Hash): |^[ \t\r]*$")
_KEY_LINES = 400  # an RSA key of 16384 bits has 200


class Pattern(t.NamedTuple):
    """What a secret looks like. The group 'keep' stays, everything else of the match goes."""

    kind: str
    regex: t.Pattern[bytes]
    words: tuple[bytes, ...] = ()  # in lower case; a text without any of them has no match, and is passed over quickly
    by_line: bool = False  # a job's own expression might cross lines

    def may_match(self, lowered: bytes) -> bool:
        return not self.words or any(word in lowered for word in self.words)


def _pattern(kind: str, regex: bytes, *words: bytes, by_line: bool = False) -> Pattern:
    return Pattern(kind, re.compile(regex), words, by_line)


_SCHEMES = rb"(?:basic|bearer|token|digest|negotiate)"
BUILT_IN: tuple[Pattern, ...] = (
    # A key on one line, its line feeds written out, as in JSON and in environment variables.
    _pattern(
        "private key",
        rb"-----BEGIN (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY(?: BLOCK)?-----(?:\\[nr]|[A-Za-z0-9+/= :,-]){16,7168}"
        rb"-----END (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY(?: BLOCK)?-----",
        b"private key",
    ),
    _pattern("aws key", rb"(?<![A-Z0-9])(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}(?![A-Z0-9])", b"akia", b"asia", b"abia", b"acca"),
    _pattern("github token", rb"(?<![A-Za-z0-9_])(?:gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255})", b"gh", b"github_pat_"),
    _pattern("gitlab token", rb"(?<![A-Za-z0-9_])(?:gl(?:pat|dt|rt|cbt|ptt|ft|imt|agent|soat)|glrtr)-[A-Za-z0-9_.-]{20,300}", b"gl"),
    _pattern(
        "authorization",
        rb"(?P<keep>(?i:authorization[\"']?[ \t]{0,8}[:=][ \t]{0,8}[\"']?(?:" + _SCHEMES + rb"[ \t]{1,8})?))"
        rb"(?!" + _DONE + rb"|(?i:" + _SCHEMES + rb")\b)" + _TOKEN,
        b"authorization",
    ),
    _pattern("authorization", rb"(?P<keep>(?i:bearer[ \t]{1,8}))[A-Za-z0-9._~+/=-]{16,4096}", b"bearer"),
    _pattern("url credentials", rb"(?P<keep>://)(?!" + _DONE + rb")[^\s/@\"'<>\[\]]{1,512}(?=@)", b"://"),
    # MYSQL_PASSWORD=…, "token": "…", passwd='…', --password …
    _pattern("password", rb"(?P<keep>(?i:" + _NAME + rb"[\"']?[ \t]{0,4}(?:=|:=|:(?![/=]))[ \t]{0,4}[\"'`]?))" + _VALUE, *_NAMES),
    _pattern("password", rb"(?P<keep>(?i:--(?:password|passwd|token|secret)[ \t]{1,4}[\"']?))(?!-)" + _VALUE, *_NAMES),
)

# What nothing else looks like; the other kinds are a guess, such as PASSWORD=$1 in a script.
UNMISTAKABLE = ("private key", "aws key", "github token", "gitlab token")


def unmistakable(text: str) -> str:
    """Return the kind of secret that a text surely has in it, or an empty string."""
    data = text.encode("utf-8", "surrogateescape")
    if _KEY_BEGIN.search(data):
        return "private key"
    return next((pattern.kind for pattern in BUILT_IN if pattern.kind in UNMISTAKABLE and pattern.regex.search(data)), "")


def job_patterns(secrets: t.Sequence[str]) -> list[Pattern]:
    """Return what a job lists: literal texts, or regular expressions behind 'regex:'. An error never shows the secret."""
    patterns = []
    for number, secret in enumerate(secrets, start=1):
        if secret.startswith(REGEX):
            patterns.append(_job_regex(number, secret[len(REGEX) :]))
            continue
        lines = [line.strip() for line in secret.splitlines() if line.strip()]
        if not lines or any(len(line) < SHORTEST for line in lines):
            raise _refused(number, f"it has a line with fewer than {SHORTEST} characters", "It would be found everywhere.")
        patterns += [_pattern("job secret", re.escape(line.encode())) for line in lines]
    return patterns


def _job_regex(number: int, text: str) -> Pattern:
    try:
        pattern = _pattern("job secret", text.encode(), by_line=True)
    except re.error as error:
        raise _refused(number, f"its regular expression does not compile: {error.msg}", "Correct it.") from None
    if pattern.regex.search(b""):
        raise _refused(number, "its regular expression matches an empty text", "Let it match at least one character.")
    return pattern


def _refused(number: int, reason: str, remedy: str) -> InvalidInput:
    return InvalidInput("Secret", f"number {number}", reason, remedy)


class Scrubber:
    """Takes a text in chunks of any size and gives it back without secrets; counts them."""

    def __init__(self, patterns: t.Iterable[Pattern] = ()) -> None:
        self._patterns = (*patterns, *BUILT_IN)  # the job's own first: they know best
        self._waiting = b""
        self._key_lines = 0  # of a private key that is being passed over; 0: of none
        self.count = 0

    def feed(self, data: bytes) -> bytes:
        """Return what can be given out by now: whole lines, and of a very long line all but its end."""
        self._waiting += data
        whole, feed, self._waiting = self._waiting.rpartition(b"\n")
        out = self._scrubbed(whole) + feed if feed else b""
        while len(self._waiting) > PIECE:
            cut = self._cut(self._waiting[:PIECE])
            out += self._scrubbed(self._waiting[:cut])
            self._waiting = self._waiting[cut:]
        return out

    def finish(self) -> bytes:
        """Return the rest."""
        rest, self._waiting = self._waiting, b""
        return self._scrubbed(rest)

    def _cut(self, piece: bytes) -> int:
        """Return where a piece of a long line can be cut so that no secret is."""
        cut = len(piece) - HELD
        lowered = piece.lower()
        patterns = [pattern for pattern in self._patterns if pattern.may_match(lowered)]
        while True:
            spans = (match.span() for pattern in patterns for match in pattern.regex.finditer(piece))
            earlier = min((start for start, end in spans if start < cut < end), default=cut)
            if earlier == cut:
                return cut
            if earlier == 0:  # one match as long as the piece
                return len(piece)
            cut = earlier

    def _scrubbed(self, text: bytes) -> bytes:
        """Return whole lines, or a piece of a long one, without secrets."""
        lowered = text.lower()
        for pattern in self._patterns:
            if not pattern.may_match(lowered):
                continue
            parts = text.split(b"\n") if pattern.by_line else [text]
            text = b"\n".join(pattern.regex.sub(lambda match, kind=pattern.kind: self._replace(match, kind), part) for part in parts)
        if self._key_lines or b"private key" in lowered:
            text = b"\n".join(self._key_line(line) for line in text.split(b"\n"))
        return text

    def _key_line(self, line: bytes) -> bytes:
        """Take a private key of several lines out, line by line."""
        line = self._in_key(line) if self._key_lines else line
        begin = _KEY_BEGIN.search(line)
        if begin and not _KEY_END.search(line, begin.end()):
            self._key_lines = 1
        return line

    def _in_key(self, line: bytes) -> bytes:
        """Take the encoded key out of a line and keep what is before it; a line without any ends the key."""
        if self._key_lines >= _KEY_LINES or _KEY_END.search(line):
            self._key_lines = 0
            return line
        self._key_lines += 1
        found = _KEY_LINE.search(line)
        if found:
            self.count += 1
            return line[: found.start()] + _mark("private key") + line[found.end() :]
        # The last line of a key may be short; what is neither that nor a header is no key.
        if not _KEY_HEADER.search(line) and not re.fullmatch(rb"[A-Za-z0-9+/=]{1,16}[ \t\r]*", line):
            self._key_lines = 0
        return line

    def _replace(self, match: t.Match[bytes], kind: str) -> bytes:
        self.count += 1
        kept = match.groupdict().get("keep") or b""
        return kept + _mark(kind)


def _mark(kind: str) -> bytes:
    return f"[scrubbed: {kind}]".encode()


def scrub_bytes(data: bytes, patterns: t.Iterable[Pattern] = ()) -> tuple[bytes, int]:
    """Return a whole text without secrets, and how many there were."""
    scrubber = Scrubber(patterns)
    return scrubber.feed(data) + scrubber.finish(), scrubber.count


def scrub_text(text: str, patterns: t.Iterable[Pattern] = ()) -> tuple[str, int]:
    """The same for a str; what is no UTF-8 in it comes through unharmed."""
    data, count = scrub_bytes(text.encode("utf-8", "surrogateescape"), patterns)
    return data.decode("utf-8", "surrogateescape"), count
