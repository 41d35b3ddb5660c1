# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How ssh is called: the guest is pinned, nobody is asked, and nothing of the user's configuration counts."""

from __future__ import annotations

import dataclasses
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from ansible_collections.mayfly.virt.plugins.module_utils import _ssh
from ansible_collections.mayfly.virt.plugins.module_utils._errors import InvalidInput
from ansible_collections.mayfly.virt.plugins.module_utils._names import check_user
from ansible_collections.mayfly.virt.plugins.module_utils._ssh import Access

ACCESS = Access("one-r1", "root", "/state/runs/r1/id_ed25519", "/state/runs/r1/known_hosts")
NEEDS_SSH = pytest.mark.skipif(not shutil.which("ssh"), reason="ssh is not installed")


def options_of(argv: list[str]) -> dict[str, str]:
    return dict(word.split("=", 1) for before, word in zip(argv, argv[1:]) if before == "-o")


def effective(argv: list[str]) -> dict[str, list[str]]:
    """Return what ssh itself makes of its arguments; with -G it connects to nothing."""
    ssh = argv[argv.index("ssh") :]
    done = subprocess.run([ssh[0], "-G", *ssh[1:]], capture_output=True, text=True, check=False, timeout=10)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        name, _blank, value = line.partition(" ")
        found.setdefault(name, []).append(value)
    return found


@pytest.mark.parametrize("seconds", [0.0, 0.4, 5.0, 3600.0])
def test_the_host_key_is_checked_always(seconds: float) -> None:
    options = options_of(_ssh.login_argv(ACCESS, "10.0.0.1", "true", seconds))
    assert options["StrictHostKeyChecking"] == "yes"
    assert options["UserKnownHostsFile"] == f'"{ACCESS.known_hosts}"'
    assert options["GlobalKnownHostsFile"] == "/dev/null"
    assert options["HostKeyAlias"] == "one-r1"
    assert options["UpdateHostKeys"] == "no"
    assert options["BatchMode"] == "yes"
    assert options["PasswordAuthentication"] == "no"
    assert options["IdentitiesOnly"] == "yes"


def test_the_whole_call() -> None:
    argv = _ssh.login_argv(ACCESS, "10.0.0.1", "echo 'a b'", 90.7)
    assert argv[:3] == ["timeout", "--kill-after=2", "91"]
    assert argv[3:8] == ["ssh", "-F", "none", "-i", ACCESS.key]
    assert argv[-2:] == ["root@10.0.0.1", "echo 'a b'"]
    assert options_of(argv)["ConnectTimeout"] == "90"
    assert {word for word in argv if word.startswith("-")} <= {"-F", "-i", "-o", "--kill-after=2"}


def test_a_login_without_a_script_ends_once_it_is_accepted() -> None:
    argv = _ssh.login_argv(ACCESS, "10.0.0.1", "", 5.0)
    assert argv[-2:] == ["-N", "root@10.0.0.1"]
    command = options_of(argv)["LocalCommand"]
    words = shlex.split(command)
    assert words[:3] == ["exec", "/bin/sh", "-c"]
    assert _ssh.ACCEPTED in words[3]
    assert "%" not in command  # ssh would put something in its place


@pytest.mark.parametrize(
    ("code", "out", "script", "accepted"),
    [
        (0, "", "true", True),
        (1, "", "true", False),
        (0, f"{_ssh.ACCEPTED}\n", "true", True),
        (255, f"{_ssh.ACCEPTED}\n", "true", False),
        (143, f"{_ssh.ACCEPTED}\n", "", True),
        (0, "", "", False),
        (255, "", "", False),
    ],
)
def test_what_counts_as_accepted(code: int, out: str, script: str, accepted: bool) -> None:
    assert _ssh.accepted(code, out, script) is accepted


@pytest.mark.parametrize(("seconds", "limit", "connect"), [(0.2, "1", "1"), (1.0, "2", "1"), (1.9, "2", "1"), (10.0, "11", "10")])
def test_times_are_whole_and_never_none(seconds: float, limit: str, connect: str) -> None:
    argv = _ssh.login_argv(ACCESS, "10.0.0.1", "true", seconds)
    assert argv[2] == limit
    assert options_of(argv)["ConnectTimeout"] == connect


def test_options_as_arguments() -> None:
    assert _ssh.arguments({"A": "b", "C": "d e"}) == ["-o", "A=b", "-o", "C=d e"]
    assert _ssh.arguments({}) == []


@NEEDS_SSH
@pytest.mark.parametrize("script", ["true", ""])
def test_ssh_understands_it_so(script: str, tmp_path: Path) -> None:
    key = tmp_path / "id_ed25519"
    key.write_text("")
    config = effective(_ssh.login_argv(dataclasses.replace(ACCESS, key=str(key)), "10.0.0.1", script, 30))
    assert config["hostname"] == ["10.0.0.1"]
    assert config["user"] == ["root"]
    assert config["stricthostkeychecking"] in (["yes"], ["true"])
    assert config["hostkeyalias"] == ["one-r1"]
    assert config["userknownhostsfile"] == [ACCESS.known_hosts]
    assert config["identityfile"] == [str(key)]
    assert config["hostkeyalgorithms"] == ["ssh-ed25519"]
    assert config["updatehostkeys"] in (["no"], ["false"])
    assert config["permitlocalcommand"] == (["no"] if script else ["yes"])


@NEEDS_SSH
@pytest.mark.parametrize("user", ["-oProxyCommand=touch /tmp/x;", "root", "_apt", "a-b", "x" * 32, "-l"])
def test_a_user_never_becomes_an_option(user: str) -> None:
    """ssh itself would take one for an option; no seed, and so no guest, is made for such a user."""
    try:
        checked = check_user(user)
    except InvalidInput:
        assert user.startswith("-")
        return
    config = effective(_ssh.login_argv(dataclasses.replace(ACCESS, user=checked), "10.0.0.1", "true", 30))
    assert config["user"] == [user]
    assert "proxycommand" not in config


@NEEDS_SSH
def test_a_path_with_a_blank_stays_one_path() -> None:
    argv = _ssh.login_argv(dataclasses.replace(ACCESS, known_hosts="/my state/known_hosts"), "10.0.0.1", "true", 30)
    assert shlex.split(options_of(argv)["UserKnownHostsFile"]) == ["/my state/known_hosts"]
    assert effective(argv)["userknownhostsfile"] == ["/my state/known_hosts"]
