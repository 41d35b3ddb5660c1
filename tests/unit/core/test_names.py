# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names: what is refused, and addresses derived from them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.mayfly.virt.plugins.module_utils import _names
from ansible_collections.mayfly.virt.plugins.module_utils._errors import InvalidInput

NAMES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)


@pytest.mark.parametrize("name", ["a", "0", "a-b", "a--b", "old-20260101-120000-ab12", "x" * 63, "1tck", "atck", "tc", "tc-k"])
def test_accepts_a_domain_name(name: str) -> None:
    assert _names.check_domain_name(name) == name


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "does not match"),
        ("Guest", "does not match"),
        ("GUEST", "does not match"),
        ("a.b", "does not match"),
        ("a_b", "does not match"),
        ("a b", "does not match"),
        ("a\n", "does not match"),
        ("-a", "does not match"),
        ("a-", "does not match"),
        ("-", "does not match"),
        ("../a", "does not match"),
        ("gäst", "does not match"),
        ("\u0661", "does not match"),  # a digit, and none of ours
        ("x" * 64, "64 characters"),
        ("tck", "begins with 'tck'"),
        ("tck-guest", "begins with 'tck'"),
        ("tckguest", "begins with 'tck'"),
    ],
)
def test_refuses_a_domain_name(name: str, reason: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        _names.check_domain_name(name)
    assert reason in caught.value.reason
    assert caught.value.target == name
    assert caught.value.remedy


@pytest.mark.parametrize("run_id", ["r", "20260101-120000-ab12", "tck-run", "x" * 40])
def test_accepts_a_run_id(run_id: str) -> None:
    assert _names.check_run_id(run_id) == run_id


@pytest.mark.parametrize("run_id", ["", "x" * 41, "Run", "a.b", "..", ".", "a/b", "-a", "a-", "a\n"])
def test_refuses_a_run_id(run_id: str) -> None:
    with pytest.raises(InvalidInput):
        _names.check_run_id(run_id)


@given(st.text(max_size=70))
def test_a_name_that_is_accepted_is_a_dns_label(name: str) -> None:
    try:
        accepted = _names.check_domain_name(name)
    except InvalidInput:
        return
    assert accepted == name
    assert len(name) <= 63
    assert name.isascii()
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert not name.startswith(("-", "tck"))
    assert not name.endswith("-")


@given(NAMES)
def test_every_label_but_those_of_the_tck_is_accepted(name: str) -> None:
    if name.startswith("tck"):
        with pytest.raises(InvalidInput):
            _names.check_domain_name(name)
    else:
        assert _names.check_domain_name(name) == name


def test_refuses_a_name_that_stands_twice() -> None:
    with pytest.raises(InvalidInput, match=r"Guest 'b' is refused: it is given more than once"):
        _names.check_unique("Guest", ["a", "b", "c", "b"])


def test_names_that_differ_are_unique() -> None:
    names = ["a", "b", "ab"]
    _names.check_unique("Guest", names)
    assert names == ["a", "b", "ab"]


@given(st.one_of(st.text(max_size=45), st.from_regex(r"[a-z0-9-]{0,42}", fullmatch=True)))
def test_a_run_id_is_one_whoever_says_so(text: str) -> None:
    try:
        accepted = _names.check_run_id(text) == text
    except InvalidInput:
        accepted = False
    assert _names.is_run_id(text) is accepted
    assert not accepted or Path("/state/runs", text).resolve().parent == Path("/state/runs")


@pytest.mark.parametrize("user", ["root", "a", "_apt", "systemd-network", "user_1", "x" * 32])
def test_accepts_a_user(user: str) -> None:
    assert _names.check_user(user) == user


@pytest.mark.parametrize("user", ["", "-l", "-oProxyCommand=id", "Root", "0", "a b", "a\n", "a@b", "a:b", "a/b", "gäst", "x" * 33])
def test_refuses_a_user(user: str) -> None:
    with pytest.raises(InvalidInput, match=r"does not match \[a-z_\]") as caught:
        _names.check_user(user)
    assert caught.value.target == user
    assert caught.value.remedy


@pytest.mark.parametrize(("mac", "lowered"), [("52:54:00:12:34:56", "52:54:00:12:34:56"), ("FE:DC:BA:98:76:54", "fe:dc:ba:98:76:54")])
def test_accepts_a_unicast_address(mac: str, lowered: str) -> None:
    assert _names.check_mac(mac) == lowered


@pytest.mark.parametrize(
    ("mac", "reason"),
    [
        ("", "six hexadecimal octets"),
        ("52:54:00:12:34", "six hexadecimal octets"),
        ("52:54:00:12:34:56:78", "six hexadecimal octets"),
        ("52-54-00-12-34-56", "six hexadecimal octets"),
        ("5g:54:00:12:34:56", "six hexadecimal octets"),
        ("52:54:00:12:34:56\n", "six hexadecimal octets"),
        ("53:54:00:12:34:56", "multicast"),
        ("ff:ff:ff:ff:ff:ff", "multicast"),
    ],
)
def test_refuses_an_address(mac: str, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        _names.check_mac(mac)


@given(NAMES, st.integers(min_value=0, max_value=30))
def test_a_derived_address_is_unicast_local_and_stable(name: str, index: int) -> None:
    mac = _names.derive_mac(name, index)
    first = int(mac[:2], 16)
    assert first & 1 == 0  # unicast
    assert first & 2 == 2  # locally administered
    assert _names.check_mac(mac) == mac
    assert _names.derive_mac(name, index) == mac


def test_the_derived_address_of_a_name_never_changes() -> None:
    """A retried prepare, also with a later version of ours, must meet the lease of the first."""
    assert _names.derive_mac("old-20260101-120000-ab12") == "52:54:99:f0:c3:1b"


def test_derived_addresses_differ() -> None:
    macs = {_names.derive_mac(f"guest{number}-run", index) for number in range(1000) for index in range(3)}
    assert len(macs) == 3000
    # The number is not glued to the name: "a1", 0 and "a", 10 are different interfaces.
    assert _names.derive_mac("a1", 0) != _names.derive_mac("a", 10)
