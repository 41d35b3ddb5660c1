# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Seeds: what cloud-init is told, and the image that carries it."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from core_doubles import Programs, run_program, ssh_keygen
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.mayfly.virt.plugins.module_utils import _seed
from ansible_collections.mayfly.virt.plugins.module_utils._errors import InvalidInput, MayflyError
from ansible_collections.mayfly.virt.plugins.module_utils._run import RunPaths
from ansible_collections.mayfly.virt.plugins.module_utils._seed import HostKey, Seed

PRIVATE = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmU\n-----END OPENSSH PRIVATE KEY-----\n"
KEY = HostKey(private=PRIVATE, public="ssh-ed25519 AAAAhost")
SEED = Seed(
    domain="one-r1",
    run="r1",
    hostname="one",
    user="root",
    authorized_keys=("ssh-ed25519 AAAArun", "ssh-ed25519 AAAAjane jane@example.org"),
    macs=("52:54:00:00:00:01", "52:54:00:00:00:02"),
)
NEEDS_XORRISO = pytest.mark.skipif(not shutil.which("xorriso"), reason="xorriso is not installed")


def documents(seed: Seed = SEED) -> dict[str, Any]:
    """Return the documents as cloud-init reads them: as YAML."""
    return {name: yaml.safe_load(text) for name, text in _seed.documents(seed, KEY).items()}


def test_a_seed_is_the_three_documents_of_nocloud() -> None:
    texts = _seed.documents(SEED, KEY)
    assert sorted(texts) == ["meta-data", "network-config", "user-data"]
    assert texts["user-data"].startswith("#cloud-config\n")
    assert json.loads(texts["meta-data"])
    assert json.loads(texts["network-config"])
    assert json.loads(texts["user-data"].partition("\n")[2]) == yaml.safe_load(texts["user-data"])


def test_every_guest_of_every_run_is_another_instance() -> None:
    ids = {documents(dataclasses.replace(SEED, run=run, domain=domain))["meta-data"]["instance-id"] for run in "ab" for domain in "cd"}
    assert len(ids) == 4
    assert documents()["meta-data"] == {"instance-id": "mayfly-r1-one-r1", "local-hostname": "one"}


def test_root_gets_the_keys_and_no_password() -> None:
    config = documents()["user-data"]
    assert config["users"] == [{"name": "root", "lock_passwd": True, "ssh_authorized_keys": list(SEED.authorized_keys)}]
    assert config["disable_root"] is False
    assert config["ssh_pwauth"] is False


def test_another_user_is_made_and_may_use_sudo() -> None:
    config = documents(dataclasses.replace(SEED, user="tester"))["user-data"]
    (user,) = config["users"]
    assert user["name"] == "tester"
    assert user["sudo"] == "ALL=(ALL) NOPASSWD:ALL"
    assert user["ssh_authorized_keys"] == list(SEED.authorized_keys)
    assert config["disable_root"] is True


def test_the_host_key_is_ours_and_the_only_one() -> None:
    config = documents()["user-data"]
    assert config["ssh_keys"] == {"ed25519_private": PRIVATE, "ed25519_public": "ssh-ed25519 AAAAhost"}
    assert config["ssh_deletekeys"] is True
    assert config["ssh_genkeytypes"] == []


def test_every_card_asks_by_its_own_address() -> None:
    """networkd's default identifier comes from machine-id, which clones share until they have made their own."""
    config = documents()["network-config"]
    assert config["version"] == 2
    cards = list(config["ethernets"].values())
    assert [card["match"]["macaddress"] for card in cards] == list(SEED.macs)
    assert all(card["dhcp-identifier"] == "mac" and card["dhcp4"] is True for card in cards)
    assert len(config["ethernets"]) == 2


def test_a_guest_without_cards_has_no_ethernets() -> None:
    assert documents(dataclasses.replace(SEED, macs=()))["network-config"] == {"version": 2, "ethernets": {}}


def test_authorities_are_trusted() -> None:
    assert "ca_certs" not in documents()["user-data"]
    config = documents(dataclasses.replace(SEED, ca_certificates=("pem one", "pem two")))["user-data"]
    assert config["ca_certs"] == {"trusted": ["pem one", "pem two"]}


def test_user_data_is_added() -> None:
    extra = {"timezone": "UTC", "runcmd": [["touch", "/x"], "echo 'a: b' # c"], "write_files": [{"path": "/x", "content": "a\n\tb: &c\n"}]}
    config = documents(dataclasses.replace(SEED, user_data=extra))["user-data"]
    assert {key: config[key] for key in extra} == extra
    assert {key: value for key, value in config.items() if key not in extra} == documents()["user-data"]


@pytest.mark.parametrize("key", sorted(_seed.RESERVED))
def test_keys_that_decide_access_are_refused(key: str) -> None:
    with pytest.raises(InvalidInput, match=f"its user_data sets {key}$|its user_data sets {key}[.]") as caught:
        _seed.check_user_data("one-r1", {"timezone": "UTC", key: None})
    assert caught.value.target == "one-r1"


def test_everything_the_seed_sets_is_reserved() -> None:
    whole = documents(dataclasses.replace(SEED, ca_certificates=("pem",)))["user-data"]
    assert set(whole) == _seed.RESERVED
    _seed.check_user_data("one-r1", {"timezone": "UTC", "packages": []})


# Which YAML takes for breaks of the line, or does not take at all, unless they are escaped. See the expected failures below.
UNESCAPED = "\x7f\x80\x84\x85\x86\x9f\u2028\u2029\ufffe\uffff"
TEXT = st.text(st.characters(exclude_categories=("Cs",)).filter(lambda char: not ("\x7f" <= char <= "\x9f" or char in UNESCAPED)))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**53), 2**53), TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=6,
)


@given(st.dictionaries(TEXT.filter(lambda key: key not in _seed.RESERVED), VALUES, max_size=3))
def test_json_is_yaml(user_data: dict[str, Any]) -> None:
    config = documents(dataclasses.replace(SEED, user_data=user_data))["user-data"]
    assert {key: config[key] for key in user_data} == user_data


def test_characters_beyond_the_basic_plane_reach_the_guest() -> None:
    config = documents(dataclasses.replace(SEED, user_data={"runcmd": ["echo 😀 ü 漢"]}))["user-data"]
    assert config["runcmd"] == ["echo 😀 ü 漢"]


@pytest.mark.parametrize("char", UNESCAPED, ids=lambda char: f"U+{ord(char):04X}")
def test_characters_that_yaml_reads_otherwise_reach_the_guest(char: str) -> None:
    config = documents(dataclasses.replace(SEED, user_data={"runcmd": [f"echo {char}x"]}))["user-data"]
    assert config["runcmd"] == [f"echo {char}x"]


def test_a_lone_surrogate_is_no_traceback(paths: RunPaths) -> None:
    docs = _seed.documents(dataclasses.replace(SEED, user_data={"runcmd": ["echo \ud800"]}), KEY)
    assert _seed.digest(docs) != _seed.digest(_seed.documents(SEED, KEY))


# -- diffs and digests ---------------------------------------------------------------------------------------------------


def test_a_diff_shows_everything_but_the_private_key() -> None:
    text = _seed.redacted(_seed.documents(SEED, KEY))
    assert "BEGIN OPENSSH" not in text
    assert PRIVATE.splitlines()[1] not in text
    for shown in ("--- meta-data", "--- network-config", "--- user-data\n#cloud-config\n", "(not shown)", "AAAAhost", "AAAAjane"):
        assert shown in text


@given(st.text(min_size=8), st.dictionaries(st.text(), st.text(), max_size=3))
def test_a_private_key_is_never_in_a_diff(private: str, user_data: dict[str, str]) -> None:
    private = f"PRIVATE{private}"
    docs = _seed.documents(dataclasses.replace(SEED, user_data=user_data), HostKey(private, "ssh-ed25519 AAAA"))
    text = _seed.redacted(docs)
    assert json.dumps(private)[1:-1] not in text
    assert private not in text


def test_the_digest_depends_on_every_field() -> None:
    others = {
        "domain": "two-r1",
        "run": "r2",
        "hostname": "two",
        "user": "tester",
        "authorized_keys": ("ssh-ed25519 AAAArun",),
        "macs": ("52:54:00:00:00:02", "52:54:00:00:00:01"),
        "ca_certificates": ("pem",),
        "user_data": {"timezone": "UTC"},
    }
    assert set(others) == {field.name for field in dataclasses.fields(Seed)}
    plain = _seed.digest(_seed.documents(SEED, KEY))
    digests = {_seed.digest(_seed.documents(dataclasses.replace(SEED, **{name: value}), KEY)) for name, value in others.items()}
    assert len(digests) == len(others)
    assert plain not in digests
    assert _seed.digest(_seed.documents(SEED, HostKey("other", KEY.public))) != plain
    assert _seed.digest(_seed.documents(SEED, KEY)) == plain


# -- the image -----------------------------------------------------------------------------------------------------------


@NEEDS_XORRISO
def test_an_image_tells_what_it_was_made_from(paths: RunPaths, tmp_path: Path) -> None:
    docs = _seed.documents(SEED, KEY)
    _seed.write_seed(paths, "one-r1", docs, run_program)
    image = paths.seed("one-r1")
    assert _seed.seed_digest(image) == _seed.digest(docs)
    assert image.stat().st_mode & 0o777 == 0o600
    assert image.read_bytes()[0x8028 : 0x8028 + 6] == b"cidata"  # the label by which cloud-init finds it
    out = tmp_path / "out"
    argv = ["xorriso", "-osirrox", "on", "-indev", str(image), "-extract", "/", str(out)]
    assert subprocess.run(argv, capture_output=True, check=False, timeout=30).returncode == 0
    assert {path.name: path.read_text() for path in out.iterdir()} == docs
    assert [path.name for path in paths.dir.iterdir() if path.name.startswith(".")] == []


@NEEDS_XORRISO
def test_an_image_of_other_documents_is_told_apart(paths: RunPaths) -> None:
    docs = _seed.documents(SEED, KEY)
    _seed.write_seed(paths, "one-r1", docs, run_program)
    other = _seed.documents(dataclasses.replace(SEED, user="tester"), KEY)
    assert _seed.seed_digest(paths.seed("one-r1")) != _seed.digest(other)
    _seed.write_seed(paths, "one-r1", other, run_program)
    assert _seed.seed_digest(paths.seed("one-r1")) == _seed.digest(other)


@pytest.mark.parametrize("content", [None, b"", b"short", bytes(40 * 2048), b"\xff" * 40 * 2048, b"MAYFLY-SEED-" * 4096])
def test_what_is_no_image_of_ours_has_no_digest(content: bytes | None, tmp_path: Path) -> None:
    image = tmp_path / "seed.iso"
    if content is not None:
        image.write_bytes(content)
    assert _seed.seed_digest(image) == ""


def test_a_failed_image_leaves_the_old_one_and_nothing_else(paths: RunPaths) -> None:
    paths.seed("one-r1").write_text("the old image")
    before = sorted(paths.dir.iterdir())
    with pytest.raises(MayflyError, match="no room") as caught:
        _seed.write_seed(paths, "one-r1", _seed.documents(SEED, KEY), Programs(xorriso=lambda argv: (1, "", "no room")))
    assert caught.value.target == str(paths.seed("one-r1"))
    assert sorted(paths.dir.iterdir()) == before
    assert paths.seed("one-r1").read_text() == "the old image"


def test_a_program_that_dies_without_a_word_is_still_an_error(paths: RunPaths) -> None:
    with pytest.raises(MayflyError, match="xorriso ended with status 32"):
        _seed.write_seed(paths, "one-r1", _seed.documents(SEED, KEY), Programs(xorriso=lambda argv: (32, "", "")))


# -- keys ----------------------------------------------------------------------------------------------------------------


def test_a_host_key_is_made_once(paths: RunPaths) -> None:
    programs = Programs(ssh_keygen=ssh_keygen)
    first = _seed.host_key(paths, "one-r1", programs)
    assert _seed.host_key(paths, "one-r1", programs) == first
    assert len(programs.calls) == 1
    assert programs.calls[0][:6] == ["ssh-keygen", "-q", "-t", "ed25519", "-N", ""]
    assert "PRIVATE KEY" in first.private
    assert first.public == "ssh-ed25519 AAAAone-r1"


def test_known_hosts_pins_every_guest_under_its_name(paths: RunPaths) -> None:
    for name in ("two-r1", "one-r1"):
        _seed.host_key(paths, name, Programs(ssh_keygen=ssh_keygen))
    _seed.write_known_hosts(paths)
    assert paths.known_hosts.read_text() == "one-r1 ssh-ed25519 AAAAone-r1\ntwo-r1 ssh-ed25519 AAAAtwo-r1\n"
    Path(f"{paths.host_key('one-r1')}.pub").unlink()
    _seed.write_known_hosts(paths)
    assert paths.known_hosts.read_text() == "two-r1 ssh-ed25519 AAAAtwo-r1\n"


@pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="ssh-keygen is not installed")
def test_ssh_finds_the_pinned_key(paths: RunPaths) -> None:
    key = _seed.host_key(paths, "one-r1", run_program)
    _seed.write_known_hosts(paths)
    code, out, _err = run_program(["ssh-keygen", "-F", "one-r1", "-f", str(paths.known_hosts)])
    assert code == 0
    assert key.public in out
    assert paths.host_key("one-r1").stat().st_mode & 0o077 == 0
