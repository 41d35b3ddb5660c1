# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiting for guests: every stage, every way to fail, and what is then said."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.mayfly.virt.plugins.module_utils import _console, _readiness
from ansible_collections.mayfly.virt.plugins.module_utils._readiness import Console, LoginResult, Outcome, Target, View, wait_for_all

MAC = "52:54:00:00:00:01"
ADDRESS = "10.213.0.17"
DONE = json.dumps({"v1": {"datasource": "NoCloud", "errors": []}}) + "\n0\n\n0\n\n0\n\n0\n"


def ended(code: int, out: str, err: str) -> LoginResult:
    return LoginResult(accepted=code == 0, code=code, out=out, err=err)


REFUSED = ended(255, "", "ssh: connect to host 10.213.0.17 port 22: Connection refused\r\n")
REJECTED = ended(255, "", "root@10.213.0.17: Permission denied (publickey).\r\n")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_readiness, "LOOK_INTERVAL", 0.002)
    monkeypatch.setattr(_readiness, "PAUSES", {"refused": 0.001, "unsettled": 0.001, "rejected": 0.001})
    monkeypatch.setattr(_readiness, "REJECTED_PATIENCE", 0.02)


def target(console: Path | None = None, **fields: str) -> Target:
    values = {"domain": "one-r1", "uuid": "u1", "mac": MAC, "network": "mayfly", "accel": "kvm"}
    return Target(**{**values, "console_log": str(console) if console else "", **fields})


class World:
    """A hypervisor and its guests. Each look is counted; what happens at which look is said beforehand."""

    def __init__(self, states: dict[str, str] | None = None, addresses: dict[str, str] | None = None) -> None:
        self.states = {"u1": "running"} if states is None else states
        self.addresses = {MAC: ADDRESS} if addresses is None else addresses
        self.at_look: dict[int, Callable[[], Any]] = {}
        self.looks = 0
        self.answers: list[LoginResult] = []
        self.otherwise = ended(0, DONE, "")
        self.logins: list[tuple[str, str, str, float]] = []
        self.aborted = threading.Event()
        self.hang = False

    def look(self) -> View:
        self.looks += 1
        self.at_look.get(self.looks, lambda: None)()
        return View(dict(self.states), dict(self.addresses))

    def login(self, guest: Target, address: str, script: str, seconds: float) -> LoginResult:
        self.logins.append((guest.domain, address, script, seconds))
        if self.hang:
            assert self.aborted.wait(10), "nobody ended the login"
            return ended(-15, "", "")
        return self.answers.pop(0) if self.answers else self.otherwise

    def abort(self, guest: Target) -> None:
        self.aborted.set()

    def wait(self, until: str, seconds: float = 5.0, *targets: Target) -> list[Outcome]:
        return wait_for_all(targets or (target(),), until, seconds, self.look, self.login, self.abort)

    def wait_for_one(self, until: str, seconds: float = 5.0, guest: Target | None = None) -> Outcome:
        (outcome,) = self.wait(until, seconds, guest or target())
        return outcome


# -- getting there -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("until", "stages"),
    [
        ("running", ["running"]),
        ("lease", ["running", "lease"]),
        ("ssh", ["running", "lease", "ssh"]),
        ("ready", ["running", "lease", "ssh", "ready"]),
    ],
)
def test_a_guest_reaches_every_stage_in_order(until: str, stages: list[str]) -> None:
    world = World()
    outcome = world.wait_for_one(until)
    assert not outcome.failed
    assert (outcome.stage, outcome.why, outcome.message) == (until, "", "")
    assert list(outcome.seconds) == stages
    assert list(outcome.seconds.values()) == sorted(outcome.seconds.values())
    assert outcome.address == (ADDRESS if "lease" in stages else "")
    assert len(world.logins) == (1 if "ssh" in stages else 0)


def test_nothing_is_awaited_beyond_the_stage_asked_for() -> None:
    world = World(addresses={})
    world.hang = True
    assert world.wait_for_one("running").stage == "running"
    assert world.logins == []


def test_the_script_of_ready_waits_for_cloud_init() -> None:
    world = World()
    world.wait_for_one("ready")
    world.wait_for_one("ssh")
    (_domain, address, script, seconds), (_other, _address, short, _seconds) = world.logins
    assert address == ADDRESS
    assert "/run/cloud-init/result.json" in script
    assert 4 < seconds <= 5
    assert short == ""


def test_the_script_of_ready_is_a_shell_script() -> None:
    done = subprocess.run(["sh", "-n"], input=_readiness.READY_SCRIPT, text=True, capture_output=True, check=False, timeout=10)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_guest_that_starts_late_is_waited_for() -> None:
    world = World(states={"u1": "paused"}, addresses={})
    world.at_look[3] = lambda: world.states.update(u1="running")
    world.at_look[6] = lambda: world.addresses.update({MAC: ADDRESS})
    outcome = world.wait_for_one("lease")
    assert (outcome.stage, outcome.address) == ("lease", ADDRESS)
    assert world.looks >= 6


@pytest.mark.parametrize(
    "failures",
    [
        [REFUSED, REFUSED],
        [REJECTED],
        [ended(255, "", "ssh: connect to host x port 22: No route to host")],
        [ended(255, "", "kex_exchange_identification: read: Connection reset by peer")],
        [ended(255, "", "Connection closed by 10.213.0.17 port 22")],
        [REFUSED, REJECTED, ended(255, "", "Connection to 10.213.0.17 closed by remote host."), REFUSED],
    ],
)
def test_a_login_that_fails_at_first_is_tried_again(failures: list[LoginResult]) -> None:
    world = World()
    world.answers = list(failures)
    assert world.wait_for_one("ready").stage == "ready"
    assert len(world.logins) == len(failures) + 1


def test_several_guests_are_awaited_together() -> None:
    world = World(states={"u1": "running", "u2": "running", "u3": "running"}, addresses={"m1": "10.0.0.1", "m2": "10.0.0.2"})
    world.at_look[4] = lambda: world.states.pop("u3")
    guests = [target(domain=f"g{number}", uuid=f"u{number}", mac=f"m{number}") for number in (1, 2, 3)]
    outcomes = world.wait("lease", 5.0, *guests)
    assert [(outcome.domain, outcome.stage, outcome.address) for outcome in outcomes] == [
        ("g1", "lease", "10.0.0.1"),
        ("g2", "lease", "10.0.0.2"),
        ("g3", "running", ""),
    ]
    assert [outcome.failed for outcome in outcomes] == [False, False, True]


def test_one_look_serves_all_guests() -> None:
    world = World(states={f"u{number}": "running" for number in range(20)})
    world.wait("running", 5.0, *(target(domain=f"g{number}", uuid=f"u{number}") for number in range(20)))
    assert world.looks < 20


def test_no_guest_is_no_wait() -> None:
    assert wait_for_all([], "ready", 5.0, World().look, World().login, World().abort) == []


# -- not getting there ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("world", "until", "reached", "missing", "why"),
    [
        (World(states={"u1": "paused"}), "running", "none", "running", "the domain is not running"),
        (World(states={"u1": "paused"}), "ready", "none", "running", "the domain is not running"),
        (World(addresses={}), "lease", "running", "lease", f"no DHCP lease for {MAC} on network 'mayfly'"),
        (World(addresses={"52:54:00:00:00:02": ADDRESS}), "ssh", "running", "lease", f"no DHCP lease for {MAC}"),
    ],
    ids=["running", "ready, not even running", "lease", "ssh, another's lease"],
)
def test_the_deadline_names_the_stage_not_reached(world: World, until: str, reached: str, missing: str, why: str) -> None:
    started = time.monotonic()
    outcome = world.wait_for_one(until, 0.05)
    assert 0.04 < time.monotonic() - started < 2
    assert outcome.stage == reached
    assert outcome.why.startswith(why)
    assert outcome.message.startswith(f"Guest 'one-r1' did not reach the stage '{missing}' (wanted: '{until}', deadline 0 s): {why}")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (REFUSED, f"no sshd is listening (at {ADDRESS} port 22)"),
        (
            ended(255, "", "Connection reset by 10.213.0.17 port 22"),
            "sshd ends the connection: Connection reset by 10.213.0.17 port 22",
        ),
        (REJECTED, "it rejects the run's key: root@10.213.0.17: Permission denied (publickey)"),
    ],
)
def test_a_login_that_fails_when_no_time_is_left_for_another(monkeypatch: pytest.MonkeyPatch, answer: LoginResult, why: str) -> None:
    monkeypatch.setattr(_readiness, "PAUSES", {"refused": 30.0, "unsettled": 30.0, "rejected": 30.0})
    world = World()
    world.otherwise = answer
    started = time.monotonic()
    outcome = world.wait_for_one("ssh", 20.0)
    assert time.monotonic() - started < 5
    assert outcome.stage == "lease"
    assert why in outcome.why
    assert "did not reach the stage 'ssh'" in outcome.message
    assert len(world.logins) == 1


def test_logins_go_on_until_the_deadline() -> None:
    world = World()
    world.otherwise = REFUSED
    outcome = world.wait_for_one("ssh", 0.1)
    assert outcome.failed
    assert len(world.logins) > 1


class Clock:
    """Stands in for the module time in _readiness: the deadline comes during the pause between two logins."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


class Pauses(dict):
    """Reads once as a pause for which there is time, then takes all of it."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock, self._read = clock, False

    def __getitem__(self, kind: str) -> float:
        if self._read:
            self._clock.now += 1000
        self._read = True
        return 0.001


def test_the_last_failure_is_told_though_time_ran_out_in_the_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(_readiness, "time", clock)
    monkeypatch.setattr(_readiness, "PAUSES", Pauses(clock))
    world = World()
    world.otherwise = REFUSED
    assert "no sshd is listening" in world.wait_for_one("ssh", 30.0).why


def test_no_login_begins_after_the_deadline() -> None:
    world = World()
    outcome = world.wait_for_one("ssh", 0.0)
    assert outcome.failed
    assert world.logins == []


def test_a_rejected_key_is_believed_after_a_while() -> None:
    world = World()
    world.otherwise = REJECTED
    started = time.monotonic()
    outcome = world.wait_for_one("ssh", 30.0)
    assert time.monotonic() - started < 5
    assert outcome.why.startswith(f"sshd at {ADDRESS} answers, but it rejects the run's key")
    assert len(world.logins) > 2


def test_an_emulated_guest_gets_more_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_readiness, "REJECTED_PATIENCE", 0.02)
    world = World()
    world.otherwise = REJECTED
    started = time.monotonic()
    assert world.wait_for_one("ssh", 30.0, target(accel="tcg")).failed
    assert time.monotonic() - started > 6 * 0.02


def test_another_host_key_is_believed_after_a_while() -> None:
    world = World()
    world.otherwise = ended(255, "", "@@@ WARNING @@@\nHost key verification failed.\r\n")
    outcome = world.wait_for_one("ssh", 30.0)
    assert outcome.why.endswith("its host key is not the one made for this guest")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (ended(124, "", ""), "a login began but did not end before the deadline"),
        (ended(1, "", "sh: 1: boom"), "the login failed: sh: 1: boom"),
        (ended(255, "", "ssh: connect to host x port 22: Connection timed out"), "the login failed: ssh: connect to host x port 22"),
        (ended(127, "", ""), "the login failed: ssh ended with status 127"),
    ],
)
def test_other_failures_are_final(answer: LoginResult, why: str) -> None:
    world = World()
    world.otherwise = answer
    outcome = world.wait_for_one("ready", 30.0)
    assert outcome.why.startswith(why)
    assert len(world.logins) == 1


@pytest.mark.parametrize("until", ["running", "lease", "ready"])
@pytest.mark.parametrize(
    ("state", "why"),
    [
        (None, "the domain is gone: it was destroyed, or the guest powered itself off"),
        ("crashed", "the domain is crashed"),
        ("shutting down", "the guest powers itself off"),
        ("shut off", "the guest powers itself off"),
        ("no state", "the domain is no state"),
    ],
)
def test_a_guest_that_ends_is_not_waited_for(until: str, state: str | None, why: str) -> None:
    world = World(states={"u1": state} if state else {})
    started = time.monotonic()
    outcome = world.wait_for_one(until, 30.0)
    assert time.monotonic() - started < 5
    assert (outcome.stage, outcome.why) == ("none", why)


def test_a_guest_that_ends_between_two_logins() -> None:
    world = World()
    world.otherwise = REFUSED
    world.at_look[5] = lambda: world.states.clear()
    outcome = world.wait_for_one("ssh", 30.0)
    assert outcome.why.startswith("the domain is gone")
    assert outcome.stage == "lease"


def test_a_panic_ends_the_wait(tmp_path: Path) -> None:
    console = tmp_path / "console.log"
    world = World(addresses={})
    world.at_look[3] = lambda: console.write_text("[    1.234567] Kernel panic - not syncing: VFS: Unable to mount root fs\n")
    outcome = world.wait_for_one("ready", 30.0, target(console))
    assert outcome.why == "its kernel panicked: Kernel panic - not syncing: VFS: Unable to mount root fs"


def test_a_panic_in_the_middle_of_a_login_aborts_it(tmp_path: Path) -> None:
    console = tmp_path / "console.log"
    console.write_text("Booting\n")
    world = World()
    world.hang = True

    def panic() -> None:
        with console.open("a") as file:
            file.write("[   12.000001] Kernel panic - not syncing: Attempted to kill init!\n---[ end Kernel panic ]---\n")

    world.at_look[8] = panic
    started = time.monotonic()
    outcome = world.wait_for_one("ready", 30.0, target(console))
    assert time.monotonic() - started < 5
    assert world.aborted.is_set()
    assert outcome.why == "its kernel panicked: Kernel panic - not syncing: Attempted to kill init!"
    assert outcome.stage == "lease"
    assert "  | ---[ end Kernel panic ]---" in outcome.message


def test_a_guest_that_goes_in_the_middle_of_a_login_aborts_it() -> None:
    world = World()
    world.hang = True
    world.at_look[8] = lambda: world.states.clear()
    outcome = world.wait_for_one("ready", 30.0)
    assert outcome.why.startswith("the domain is gone")


def test_a_look_that_fails_ends_everything() -> None:
    world = World()
    world.hang = True

    def fail() -> None:
        raise RuntimeError("libvirt is gone")

    world.at_look[8] = fail
    with pytest.raises(RuntimeError, match="libvirt is gone"):
        world.wait_for_one("ready", 30.0)
    assert world.aborted.is_set()


def test_a_first_look_that_fails_ends_everything_too() -> None:
    world = World()

    def fail() -> None:
        raise KeyboardInterrupt

    world.at_look[1] = fail
    with pytest.raises(KeyboardInterrupt):
        world.wait_for_one("ready", 30.0)


def test_a_guest_without_a_network_of_libvirts_has_no_lease() -> None:
    outcome = World().wait_for_one("lease", 30.0, target(network=""))
    assert outcome.why == "it has no interface on a libvirt network, so no lease can be seen"
    assert outcome.stage == "running"
    assert not World().wait_for_one("running", 5.0, target(network="")).failed


# -- cloud-init ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("out", "why"),
    [
        (DONE, ""),
        ("null\n", ""),
        ('{"v1": {"errors": []}}\n0\n', ""),
        ('{"v1": {"errors": ["no route", "no space"]}}\n0\n0\n', "cloud-init ended with errors: no route; no space"),
        ('{"v1": {"errors": []}}\n0\n1\n0\n', "a cloud-init stage ended with status 1"),
        ("", "cloud-init's result cannot be read"),
        ("{}\n", "cloud-init's result cannot be read"),
        ("{", "cloud-init's result cannot be read"),
        ("[]", "cloud-init's result cannot be read"),
        ('"text"', "cloud-init's result cannot be read"),
        ("Welcome!\nnull\n", "cloud-init's result cannot be read"),
    ],
)
def test_what_cloud_init_says_decides(out: str, why: str) -> None:
    found = _readiness.cloud_init_errors(out)
    assert found.startswith(why)
    assert bool(found) == bool(why)
    world = World()
    world.otherwise = ended(0, out, "")
    outcome = world.wait_for_one("ready")
    assert outcome.stage == ("ssh" if why else "ready")
    assert outcome.why == found


def test_cloud_init_is_not_asked_for_ssh_alone() -> None:
    world = World()
    world.otherwise = ended(0, "", "")
    assert world.wait_for_one("ssh").stage == "ssh"


# -- the console ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("plain\n", "plain\n"),
        ("a\r\nb\rc\n", "a\nb\nc\n"),
        ("\x1b[0;32m  OK  \x1b[0m done\x1b[K\n", "  OK   done\n"),
        ("\x1b[?7l\x1b(Bx\x1b[2J", "x"),
        ("a\x00b\x07c\x08d\x7f\x9b", "abcd"),
        ("tab\there ünïcode ✓\n", "tab\there ünïcode ✓\n"),
        ("\ufffd", "\ufffd"),
    ],
)
def test_a_console_is_cleaned(raw: str, text: str) -> None:
    assert _console.clean(raw) == text


def test_the_end_of_a_console(tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    path.write_bytes(b"\xff\xfe\r\n" + b"".join(b"line %d  \r\n\r\n" % number for number in range(5000)))
    tail = Console(str(path)).tail()
    assert tail == [f"line {number}" for number in range(4985, 5000)]
    assert Console(str(path)).tail(2) == ["line 4998", "line 4999"]


@pytest.mark.parametrize("name", ["", "nowhere.log"])
def test_a_console_that_is_not_there(tmp_path: Path, name: str) -> None:
    console = Console(str(tmp_path / name) if name else "")
    console.follow()
    assert (console.panic, console.tail()) == ("", [])


def test_a_panic_is_found_over_the_border_of_two_looks(tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    console = Console(str(path))
    path.write_text("x" * 5000 + "\n[   1.0] Kernel pan")
    console.follow()
    assert console.panic == ""
    with path.open("a") as file:
        file.write("ic - not syncing: Fatal\nmore\n")
    console.follow()
    assert console.panic == "Kernel panic - not syncing: Fatal"
    path.write_text("")
    console.follow()
    assert console.panic == "Kernel panic - not syncing: Fatal"


@pytest.mark.parametrize(
    "line",
    [
        "Kernel panic - not syncing: x",
        "[    0.0] Kernel panic - not syncing: x",
        "[12345.678901] Kernel panic - not syncing: x\r",
    ],
)
def test_a_panic_is_known(tmp_path: Path, line: str) -> None:
    path = tmp_path / "console.log"
    path.write_text(f"before\n{line}\n")
    console = Console(str(path))
    console.follow()
    assert console.panic == "Kernel panic - not syncing: x"


@pytest.mark.parametrize("line", ["a test prints Kernel panic - not syncing: x", "# Kernel panic - not syncing: x", "Kernel panic!"])
def test_what_only_speaks_of_a_panic_is_none(tmp_path: Path, line: str) -> None:
    path = tmp_path / "console.log"
    path.write_text(f"{line}\n")
    console = Console(str(path))
    console.follow()
    assert console.panic == ""


def test_a_line_that_is_cut_is_not_taken_for_two(tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    spoken = "Kernel panic - not syncing: says the manual"
    path.write_text("a test prints " + spoken + " " * (200 - len(spoken)))
    console = Console(str(path))
    console.follow()
    assert console.panic == ""
    with path.open("a") as file:
        file.write("\n")
    console.follow()
    assert console.panic == ""


def test_a_panic_with_its_caller_is_known(tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    path.write_text("[    1.234567][    T1] Kernel panic - not syncing: x\n")
    console = Console(str(path))
    console.follow()
    assert console.panic == "Kernel panic - not syncing: x"


def test_a_rotated_console_is_read_from_its_beginning(tmp_path: Path) -> None:
    """virtlogd moves the file away when it is large, and begins a new one."""
    path = tmp_path / "console.log"
    path.write_text("line\n" * 1000)
    console = Console(str(path))
    console.follow()
    path.rename(tmp_path / "console.log.0")
    console.follow()
    path.write_text("[    9.0] Kernel panic - not syncing: after the rotation\n")
    console.follow()
    assert console.panic == "Kernel panic - not syncing: after the rotation"


# -- what is said --------------------------------------------------------------------------------------------------------


def test_a_diagnosis_with_a_console() -> None:
    outcome = Outcome("one-r1", stage="lease", why="no sshd is listening")
    text = _readiness.diagnosis(target(Path("/c.log")), "ready", outcome, 119.6, ["last line but one", "last line"])
    assert text == (
        "Guest 'one-r1' did not reach the stage 'ssh' (wanted: 'ready', deadline 120 s): no sshd is listening."
        " The end of its console /c.log:\n  | last line but one\n  | last line"
    )


@pytest.mark.parametrize(("console", "shown"), [("/c.log", "/c.log"), ("", "(none)")])
def test_a_diagnosis_without_a_console(console: str, shown: str) -> None:
    text = _readiness.diagnosis(target(console_log=console), "running", Outcome("one-r1", why="x"), 10, [])
    assert text.endswith(f"x. Its console {shown} is empty: the firmware or kernel never spoke.")


@pytest.mark.parametrize(
    ("stage", "until", "missing"),
    [
        ("none", "ready", "running"),
        ("running", "ready", "lease"),
        ("lease", "ssh", "ssh"),
        ("ssh", "ready", "ready"),
        ("ready", "ready", "ready"),
    ],
)
def test_a_diagnosis_names_the_next_stage(stage: str, until: str, missing: str) -> None:
    text = _readiness.diagnosis(target(), until, Outcome("one-r1", stage=stage, why="x"), 10, [])
    assert re.search(r"did not reach the stage '(\w+)'", text).group(1) == missing


@pytest.mark.parametrize(
    ("err", "code", "kind"),
    [
        ("Connection refused", 255, "refused"),
        ("No route to host", 255, "refused"),
        ("Connection reset by peer", 255, "unsettled"),
        ("Connection closed by 10.0.0.1 port 22", 255, "unsettled"),
        ("client_loop: send disconnect: Broken pipe", 255, "unsettled"),
        ("Connection to x closed by remote host.", 255, "unsettled"),
        ("x@y: Permission denied (publickey,password).", 255, "rejected"),
        ("Host key verification failed.", 255, "rejected"),
        ("No ED25519 host key is known for one-r1 and you have requested strict checking.\nHost key verification failed.", 255, "rejected"),
        ("", 124, "final"),
        ("", 1, "final"),
        ("ssh: Could not resolve hostname x", 255, "final"),
    ],
)
def test_failures_of_ssh_are_classified(err: str, code: int, kind: str) -> None:
    found, text = _readiness.classify(ended(code, "", err))
    assert found == kind
    assert text
    assert not text.endswith(".")
