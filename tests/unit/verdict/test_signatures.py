# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Signatures: which expressions are refused, and that the others are quick whatever they are searched in."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.mayfly.virt.plugins.module_utils import _failures, _signature

REFUSED = {
    "": "fewer than 3",
    "[": "no regular expression",
    "a" * 501: "longer than 500",
    ".*": "fewer than 3",
    "x*y*z*": "without end more than 2 times",
    "(abc)?": "matches the empty text",
    "(abc)?.": "matches '000'",
    "abc|.": "matches '000'",
    r"\d+": "fewer than 3",
    r"\S\S\S": "fewer than 3",
    "(a+)+bcd": "repeats a group",
    "(a{1,})+bcd": "repeats a group",
    "(?:(a|b)c)*bcd": "repeats a group",
    "((a?)b)*cde": "repeats a group",
    r"(foo)\1": "refers back",
    "(?=foo)bar": "'(?'",
    "(?x) foo bar": "'(?'",
    "f.*o.*o.*bar": "without end more than 2 times",
    "foo.{1,50}.{1,50}.{1,50}bar": "without end more than 2 times",
    "x?" * 10 + "abc": "combinations",
    "(a|b)(c|d)(e|f)(g|h)(i|j)(k|l)(m|n)opq": "combinations",
    "(" * 500: "no regular expression",
    "[[:alpha:]] lost": "no regular expression",
}


@pytest.mark.parametrize("pattern", REFUSED, ids=lambda pattern: pattern[:30])
def test_what_is_no_signature(pattern: str) -> None:
    assert REFUSED[pattern] in (_signature.refusal(pattern) or "accepted")


@pytest.mark.parametrize(
    "pattern",
    [
        "EIO",
        "foo.*bar.*baz",
        r"BUG: .* at 0x[0-9a-f]{8,16}",
        "(?:ENOSPC|EIO|EBUSY) on \\S+",
        r"test_x\[1\]",
        "(?i)timed? out",
        "^(connection|link) (lost|reset)$",
        "[]abc]def",
        r"[\]()*|]def",
        "libvirt: error {code}",
        "(?:foo){2}bar",
    ],
)
def test_what_is_one(pattern: str) -> None:
    assert _signature.refusal(pattern) is None


@pytest.mark.parametrize("pattern", ["foo.*bar.*baz", ".*foo.*bar", r"(?:a|b|c)x\S*yz.*q"])
@pytest.mark.parametrize("line", ["foo" * 5000, "foobar" * 3000, "fooba" * 3000, "axyz" * 4000])
def test_no_text_makes_it_slow(pattern: str, line: str) -> None:
    assert _signature.refusal(pattern) is None
    text = "\n".join([line] + [line[:290] + str(number) for number in range(300)])
    began = time.process_time()
    assert not _signature.Text(_signature.searchable(text)).has([pattern, "nothing of the kind"])
    assert time.process_time() - began < 3


@given(st.text(st.sampled_from("ab.*+?{}()[]|^$\\1,2:i=!#-"), max_size=14))
def test_what_is_accepted_compiles_and_matches_no_empty_text(pattern: str) -> None:
    """Whatever a person writes there: it is refused with a reason, or it is harmless."""
    if _signature.refusal(pattern) is None:
        assert re.compile(pattern).search("") is None
        assert not _signature.Text(["aaaa"]).has([pattern])
        assert not _signature.Text([]).has([pattern])


def test_all_of_several_must_match_in_any_line() -> None:
    lines = ["first EBUSY here", "second ENOSPC there"]
    assert _signature.Text(lines).has(["EBUSY", "ENOSPC"])
    assert not _signature.Text(lines).has(["EBUSY", "EPERM"])
    assert not _signature.Text(lines).has(["EBUSY.*ENOSPC"])
    assert not _signature.Text(lines).has([])


@pytest.mark.parametrize(("pattern", "steps"), [("EIO", 60), ("a.*EIO", 60 * 60 // 2), ("a.*b.*EIO", 60**3 // 6), ("a{3}b?EIO", 60)])
def test_what_a_search_can_cost_is_known_beforehand(pattern: str, steps: int) -> None:
    assert _signature.Text(["x" * 60, "x" * 60]).steps([pattern]) == steps
    assert _signature.Text(["x" * 60]).steps([pattern, "EIO"]) == steps + 60


def test_what_is_searched_is_bounded() -> None:
    assert _signature.searchable("x" * 10_000) == ["x" * _signature.LINE_LIMIT]
    assert sum(len(line) + 1 for line in _signature.searchable("abc\n" * 100_000)) <= _signature.TEXT_LIMIT
    assert _signature.searchable("\x1b[31mred\x1b[0m") == ["red"]


@pytest.mark.parametrize(
    ("message", "count"),
    [
        ("", 1),
        ("got 3", 1),
        ("not ok 2 - a\n# Failed test 'a'", 1),
        ("not ok 2 - a\n# got 3\nnot ok 5 - b\n# got 4", 2),
        ("# Failed test 'a'\n# got 3\n# Failed test 'b'\n# got 4\n# Looks like you failed 2 tests", 2),
        ("Traceback (most recent call last):\n  x\nTraceback (most recent call last):\n  y", 2),
        ("a.cc:3: Failure\nx\nb.cc:4: Failure\ny\nb.cc:5: Failure\nz", 3),
        ("thread 'a' panicked at src/lib.rs:1\nthread 'b' panicked at src/lib.rs:2", 2),
        ("FAIL: a\nERROR: b\n", 2),
    ],
)
def test_how_many_failures_a_message_tells_of(message: str, count: int) -> None:
    assert len(_failures.split_failures(message.split("\n"))) == count


def test_what_stands_before_the_first_failure_is_of_each() -> None:
    assert _failures.split_failures(["head", "not ok 1", "x", "not ok 2", "y"]) == [["head", "not ok 1", "x"], ["head", "not ok 2", "y"]]
