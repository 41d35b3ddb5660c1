# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets: which are found, across any border of chunks, and what must never go with them."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.mayfly.virt.plugins.module_utils._console import scan_console
from ansible_collections.mayfly.virt.plugins.module_utils._errors import InvalidInput
from ansible_collections.mayfly.virt.plugins.module_utils._scrub import Scrubber, job_patterns, scrub_bytes, scrub_text

KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\n" + "b3BlbnNzaC1rZXktdjEAAAAABG5vbmU\n" * 5 + "QIDBA==\n-----END OPENSSH PRIVATE KEY-----\n"

# A line, the secret in it, and what it is called.
SECRETS = [
    ("aws_id AKIAIOSFODNN7EXAMPLE end", "AKIAIOSFODNN7EXAMPLE", "aws key"),
    ("git clone with ghp_" + "a1" * 18 + " end", "ghp_" + "a1" * 18, "github token"),
    ("github_pat_" + "A" * 30, "github_pat_" + "A" * 30, "github token"),
    ("PRIVATE-TOKEN glpat-abcdefghij0123456789 end", "glpat-abcdefghij0123456789", "gitlab token"),
    ("> Authorization: Bearer abc.def-ghi", "abc.def-ghi", "authorization"),
    ("authorization: basic dXNlcjpwYXNz", "dXNlcjpwYXNz", "authorization"),
    ('{"Authorization": "token 0123"}', "0123", "authorization"),
    ("see: bearer abcdefghijklmnopqrst.uvw", "abcdefghijklmnopqrst.uvw", "authorization"),
    ("GET https://joe:hunter2@example.org/x", "joe:hunter2", "url credentials"),
    ("GET https://0123abcdef@example.org/x", "0123abcdef", "url credentials"),
    ("MYSQL_PASSWORD=hunter2 next", "hunter2", "password"),
    ("password: 'hunter2'", "hunter2", "password"),
    ('"api_key":"hunter2",', "hunter2", "password"),
    ("login --password hunter2 --user joe", "hunter2", "password"),
    ("token := hunter2", "hunter2", "password"),
    ('key="-----BEGIN PRIVATE KEY-----\\nMIIEabcdefghijklmnop\\n-----END PRIVATE KEY-----\\n"', "MIIEabcdefghijklmnop", "private key"),
]
# What looks a little like one.
HARMLESS = [
    "the password is wrong",
    "tokens: 5",
    "token=",
    "http://example.org/a@b",
    "mail to joe@example.org",
    "password: [   12.345678] Kernel panic - not syncing: x",
    "authorization: [   12.345678] BUG: kernel NULL pointer dereference",
    "eth0: link becomes ready",
    "-----BEGIN CERTIFICATE-----",
]


@pytest.mark.parametrize(("line", "secret", "kind"), SECRETS, ids=[f"{kind}-{number}" for number, (*_line, kind) in enumerate(SECRETS)])
def test_common_secrets_are_found(line: str, secret: str, kind: str) -> None:
    scrubbed, count = scrub_text(line)
    assert scrubbed == line.replace(secret, f"[scrubbed: {kind}]") or kind == "private key"
    assert secret not in scrubbed
    assert f"[scrubbed: {kind}]" in scrubbed
    assert count == 1
    assert scrub_text(scrubbed) == (scrubbed, 0), "a second time there is nothing left"


@pytest.mark.parametrize("line", HARMLESS)
def test_what_is_no_secret_stays(line: str) -> None:
    assert scrub_text(line) == (line, 0)


@pytest.mark.parametrize("prefix", ["", "Nov 21 12:00:00 host sshd[1]: ", "[    1.234567] ", "    "])
def test_a_private_key_goes_and_what_is_before_it_on_its_lines_stays(prefix: str) -> None:
    text = "".join(prefix + line for line in ("before\n" + KEY + "after\n").splitlines(keepends=True))
    scrubbed, count = scrub_text(text)
    assert "b3BlbnNzaC1rZXktdjE" not in scrubbed
    assert scrubbed.startswith(f"{prefix}before\n")
    assert scrubbed.endswith(f"{prefix}after\n")
    assert scrubbed.count("\n") == text.count("\n"), "line numbers stay"
    assert count == 5


def test_the_beginning_of_a_key_hides_nothing_else() -> None:
    """A guest that prints it and then dies."""
    text = "-----BEGIN PRIVATE KEY-----\n[    1.234567] Kernel panic - not syncing: x\nMIIEabcdefghijklmnopqr\n"
    assert scrub_text(text) == (text, 0)


def test_a_jobs_own_secrets() -> None:
    patterns = job_patterns(["correct.horse", "regex:tok_[0-9]{3}", "first line\nsecond line"])
    scrubbed, count = scrub_text("correct.horse correctxhorse tok_123 tok_12\na first line\nof second line\n", patterns)
    mark = "[scrubbed: job secret]"
    assert scrubbed == f"{mark} correctxhorse {mark} tok_12\na {mark}\nof {mark}\n"
    assert count == 4


def test_a_regular_expression_does_not_cross_lines() -> None:
    scrubbed, _count = scrub_text("begin x\nend\n", job_patterns([r"regex:begin[\s\S]*"]))
    assert scrubbed == "[scrubbed: job secret]\nend\n"


@pytest.mark.parametrize("secret", ["abc", "", "long enough\nab", "regex:(unclosed", "regex:x*"])
def test_secrets_that_cannot_be_meant_are_refused_and_not_shown(secret: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        job_patterns(["fine enough", secret])
    assert "number 2" in str(refused.value)
    assert not secret or secret not in str(refused.value)


def in_chunks(data: bytes, size: int) -> bytes:
    scrubber = Scrubber(job_patterns(["correct horse"]))
    return b"".join(scrubber.feed(data[at : at + size]) for at in range(0, len(data), size)) + scrubber.finish()


@pytest.mark.parametrize("size", [1, 2, 7, 64, 4096])
def test_the_borders_of_chunks_do_not_matter(size: int) -> None:
    data = ("\n".join(line for line, _secret, _kind in SECRETS) + "\n" + KEY + "correct horse\r\n\n").encode()
    assert in_chunks(data, size) == scrub_bytes(data, job_patterns(["correct horse"]))[0]


@pytest.mark.parametrize("gap", [65530, 65536, 57344 - 5, 57344, 131072])
def test_a_line_without_an_end_is_scrubbed_in_bounded_memory(gap: int) -> None:
    data = b"x" * gap + b" password=hunter2 " + b"y" * 200_000 + b" correct horse " + b"z" * 100_000
    scrubber = Scrubber(job_patterns(["correct horse"]))
    out = b""
    for at in range(0, len(data), 4096):
        out += scrubber.feed(data[at : at + 4096])
        assert len(scrubber._waiting) <= 64 * 1024 + 4096
    out += scrubber.finish()
    assert b"hunter2" not in out
    assert b"correct horse" not in out
    assert scrubber.count == 2


@settings(max_examples=200, deadline=None)
@given(
    pieces=st.lists(
        st.one_of(
            st.sampled_from([line for line, *_rest in SECRETS] + HARMLESS),
            st.sampled_from(
                ["\n", " ", "password=", "-----BEGIN PRIVATE KEY-----\n", "[    1.234567] Kernel panic - not syncing: x", "BUG: x"]
            ),
            st.text(max_size=20),
        ),
        max_size=12,
    ),
    size=st.integers(1, 50),
)
def test_the_kernel_is_never_silenced_and_lines_stay_lines(pieces: list[str], size: int) -> None:
    """What the verdict finds in a console it finds in the scrubbed one, on the same line."""
    data = "".join(pieces).encode("utf-8", "replace")
    scrubbed = in_chunks(data, size)
    assert scrubbed.count(b"\n") == data.count(b"\n")
    before, after = (scan_console(text.decode("utf-8", "replace"))["trouble"] for text in (data, scrubbed))
    assert {(found["line"], found["fatal"]) for found in before} <= {(found["line"], found["fatal"]) for found in after}


@pytest.mark.parametrize("unit", [b"password=", b"-----BEGIN ", b"a://", b"x.", b"token ", b"glpat-", b"[   1.234] a line of a log\n"])
def test_no_text_takes_long(unit: bytes) -> None:
    data = unit * (1_000_000 // len(unit))
    began = time.monotonic()
    in_chunks(data, 65536)
    assert time.monotonic() - began < 10, "a megabyte takes half a second at worst on an idle machine"
