# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Making guests: the plan, all or nothing, and what the wait sees."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from core_doubles import Daemon, Programs, lease, listing, seen, ssh_keygen
from lxml import etree

from ansible_collections.mayfly.virt.plugins.module_utils import _provision, _run, _seed
from ansible_collections.mayfly.virt.plugins.module_utils._chain import GIB, Layer
from ansible_collections.mayfly.virt.plugins.module_utils._errors import MayflyError
from ansible_collections.mayfly.virt.plugins.module_utils._guest import Guest, Overlay
from ansible_collections.mayfly.virt.plugins.module_utils._lock import try_locked
from ansible_collections.mayfly.virt.plugins.module_utils._plan import Action, sentences
from ansible_collections.mayfly.virt.plugins.module_utils._readiness import Target
from ansible_collections.mayfly.virt.plugins.module_utils._run import OwnerProcess, Run, RunPaths
from ansible_collections.mayfly.virt.plugins.module_utils._seed import Seed
from ansible_collections.mayfly.virt.plugins.module_utils._ssh import Access

BASE = Layer("/images/base.qcow2", "qcow2", GIB)


def seed_of(name: str) -> Seed:
    return Seed(name, "r1", name, "root", (), ("52:54:00:00:00:01",))


def guest(paths: RunPaths, name: str = "one-r1", *, disk: bool = True, seed: bool = True) -> Guest:
    document = etree.fromstring(f"<domain type='test'><name>{name}</name></domain>")
    overlay = Overlay(paths.overlay(name), BASE, 20 * GIB) if disk else None
    return Guest(name, seen(name).tag, document, (), (), 64, overlay, seed_of(name) if seed else None)


def make_file(argv: list[str]) -> str:
    """Write the file that the program was asked for, and what it was asked."""
    target = argv[-2] if argv[0] == "qemu-img" else argv[argv.index("-o") + 1]
    Path(target).write_text(" ".join(argv))
    return ""


def programs(**others: Any) -> Programs:
    return Programs(**{"qemu_img": make_file, "xorriso": make_file, "ssh_keygen": ssh_keygen, **others})


def plans(paths: RunPaths, *names: str) -> list[_provision.GuestPlan]:
    return [_provision.plan(guest(paths, name), None, paths) for name in names]


# -- planning ------------------------------------------------------------------------------------------------------------


def test_a_guest_that_is_not_there_is_made_whole(paths: RunPaths) -> None:
    wanted = guest(paths)
    plan = _provision.plan(wanted, None, paths)
    assert sentences(plan.actions) == ["create overlay one-r1", "create seed one-r1", "create domain one-r1"]
    overlay, seed, domain = plan.actions
    assert overlay.after == f"{paths.overlay('one-r1')}: {20 * GIB} bytes on {BASE.path}\n"
    assert "--- user-data" in seed.after
    assert "(not shown)" in seed.after
    assert domain.after == wanted.xml
    assert plan.seen is None


def test_a_guest_needs_no_image(paths: RunPaths) -> None:
    plan = _provision.plan(guest(paths, disk=False, seed=False), None, paths)
    assert sentences(plan.actions) == ["create domain one-r1"]


def test_a_guest_that_runs_is_kept(paths: RunPaths) -> None:
    running = seen("one-r1")
    plan = _provision.plan(guest(paths), running, paths)
    assert plan.actions == (Action("keep", "domain", "one-r1"),)
    assert plan.seen is running


def test_a_guest_that_runs_otherwise_is_refused(paths: RunPaths) -> None:
    with pytest.raises(MayflyError, match="is not Mayfly's"):
        _provision.plan(guest(paths), seen("one-r1", tag=None), paths)


def test_an_overlay_left_without_domain_is_made_anew(paths: RunPaths) -> None:
    paths.overlay("one-r1").write_text("left over")
    overlay, *_others = _provision.plan(guest(paths), None, paths).actions
    assert overlay.sentence() == "update overlay one-r1 (left over without a domain)"
    assert overlay.before == f"{paths.overlay('one-r1')}\n"


def test_planning_makes_nothing(paths: RunPaths) -> None:
    before = listing(paths.state_dir)
    _provision.plan(guest(paths), None, paths)
    assert _provision.run_action(paths, WANTED).verb == "create"
    assert listing(paths.state_dir) == before


WANTED = {"id": "r1", "owner": "jane", "job_url": None, "deadline": 3600, "owner_pid": None}


def put_record(paths: RunPaths, **fields: Any) -> Run:
    """Write the record of a run in use, changed in some fields."""
    run = dataclasses.replace(_run.new_run(WANTED, _run.utc_now()), **fields)
    paths.record.write_text(json.dumps({"format": "mayfly-run-1", **dataclasses.asdict(run)}))
    return run


def test_a_run_is_opened_kept_or_taken_up(tmp_path: Path, paths: RunPaths) -> None:
    assert _provision.run_action(RunPaths(tmp_path / "other", "r1"), WANTED) == Action(
        "create", "run", "r1", after=f"{tmp_path}/other/runs/r1\n"
    )
    put_record(paths)
    assert _provision.run_action(paths, WANTED) == Action("keep", "run", "r1")
    put_record(paths, deadline="2020-01-01T12:00:00+00:00")
    assert _provision.run_action(paths, WANTED) == Action(
        *("update", "run", "r1", "its deadline 2020-01-01T12:00:00+00:00 has passed"),
        before="deadline 2020-01-01T12:00:00+00:00\n",
        after="a new deadline\n",
    )
    put_record(paths, boot_id="another-boot")
    assert _provision.run_action(paths, WANTED).sentence() == "update run r1 (the host was booted since it was made)"
    put_record(paths, owner_process=OwnerProcess(os.getpid(), 1))
    assert _provision.run_action(paths, WANTED).sentence() == f"update run r1 (its owner process {os.getpid()} is gone)"


# -- opened, and held ----------------------------------------------------------------------------------------------------


@pytest.fixture
def closed(tmp_path: Path) -> RunPaths:
    return RunPaths(tmp_path / "state", "r7")


SEVENTH = {**WANTED, "id": "r7"}


def test_a_run_is_opened_and_held(closed: RunPaths) -> None:
    with _provision.opened(closed, SEVENTH, programs()), try_locked(closed.lock) as free:
        assert not free
        assert _run.read_run(closed).owner == "jane"
    with try_locked(closed.lock) as free:
        assert free
    assert closed.record.exists()


@pytest.mark.parametrize("error", [MayflyError("make overlay", "x", "no room"), OSError("no room"), KeyboardInterrupt()])
def test_a_run_that_was_opened_for_nothing_goes_away_again(closed: RunPaths, error: BaseException) -> None:
    def fail() -> None:
        with _provision.opened(closed, SEVENTH, programs()):
            closed.overlay("one-r7").write_text("half")
            raise error

    with pytest.raises(type(error)) as caught:
        fail()
    assert caught.value is error
    assert listing(closed.state_dir) == {"runs": "directory"}


def test_a_run_that_was_open_before_stays_when_something_fails(closed: RunPaths) -> None:
    with _provision.opened(closed, SEVENTH, programs()):
        closed.overlay("one-r7").write_text("whole")
    before = listing(closed.state_dir)
    with pytest.raises(KeyError), _provision.opened(closed, {**SEVENTH, "owner": "joe"}, programs()):
        raise KeyError
    assert listing(closed.state_dir) == before


def test_a_run_that_is_over_is_taken_up_under_its_lock(closed: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    with _provision.opened(closed, SEVENTH, programs()):
        pass
    put_record(closed, id="r7", boot_id="another-boot")
    renew, free_then = _provision.renew_run, []

    def watched(paths: RunPaths, wanted: dict[str, Any]) -> None:
        with try_locked(paths.lock) as free:
            free_then.append(free)
        renew(paths, wanted)

    monkeypatch.setattr(_provision, "renew_run", watched)
    with _provision.opened(closed, {**SEVENTH, "owner": "joe"}, programs()):
        assert _run.read_run(closed).owner == "joe"
        assert _provision.run_action(closed, WANTED).verb == "keep"
    assert free_then == [False]


def test_a_run_that_is_taken_up_in_vain_stays(closed: RunPaths) -> None:
    with _provision.opened(closed, SEVENTH, programs()):
        pass
    put_record(closed, id="r7", boot_id="another-boot")
    before = listing(closed.state_dir)
    with (
        pytest.raises(MayflyError, match="does not exist here"),
        _provision.opened(closed, {**SEVENTH, "owner_pid": 2**22 + 1}, programs()),
    ):
        pass
    assert listing(closed.state_dir) == before


def test_a_seed_is_kept_made_anew_or_made(paths: RunPaths) -> None:
    seed = seed_of("one-r1")
    assert _provision.seed_action(seed, paths).verb == "create"
    assert _provision.known_documents(seed, paths) is None
    _seed.host_key(paths, "one-r1", programs())
    docs = _provision.known_documents(seed, paths)
    assert "AAAArun" in docs["user-data"]
    paths.seed("one-r1").write_text("another image")
    changed = _provision.seed_action(seed, paths)
    assert (changed.verb, changed.before) == ("update", f"{paths.seed('one-r1')}\n")
    assert "PRIVATE KEY" not in changed.after
    image = bytearray(b" " * 20 * 2048)
    mark = b"MAYFLY-SEED-" + _seed.digest(docs).upper().encode()
    image[16 * 2048 + 574 : 16 * 2048 + 574 + len(mark)] = mark
    paths.seed("one-r1").write_bytes(image)
    assert _provision.seed_action(seed, paths) == Action("keep", "seed", "one-r1")


# -- making --------------------------------------------------------------------------------------------------------------


def test_all_guests_are_made(paths: RunPaths) -> None:
    daemon, run = Daemon(), programs()
    made = _provision.make_all(plans(paths, "one-r1", "two-r1"), paths, daemon, run)
    assert {name: domain.uuid for name, domain in made.items()} == {"one-r1": "uuid-of-one-r1", "two-r1": "uuid-of-two-r1"}
    assert daemon.names() == ["one-r1", "two-r1"]
    for name in ("one-r1", "two-r1"):
        assert f"-b {BASE.path}" in paths.overlay(name).read_text()
        assert paths.seed(name).exists()
    assert [line.split()[0] for line in paths.known_hosts.read_text().splitlines()] == ["one-r1", "two-r1"]


def test_running_guests_are_left_alone(paths: RunPaths) -> None:
    daemon, run = Daemon(), programs()
    running = seen("one-r1")
    kept = _provision.GuestPlan(guest(paths), (Action("keep", "domain", "one-r1"),), running)
    assert _provision.make_all([kept], paths, daemon, run) == {"one-r1": running}
    assert (daemon.events, run.calls) == ([], [])
    assert paths.known_hosts.read_text() == ""


def test_an_overlay_left_over_does_not_stay_below_a_new_guest(paths: RunPaths) -> None:
    paths.overlay("one-r1").write_text("left over")
    _provision.make_all(plans(paths, "one-r1"), paths, Daemon(), programs())
    assert "left over" not in paths.overlay("one-r1").read_text()


@pytest.mark.parametrize("failing", ["one-r1", "two-r1", "three-r1"])
def test_when_one_cannot_be_made_nothing_stays(paths: RunPaths, failing: str) -> None:
    before = listing(paths.state_dir)
    daemon = Daemon()
    daemon.refuses_to_create = {failing: "it is refused"}
    with pytest.raises(MayflyError, match=f"create domain '{failing}': it is refused"):
        _provision.make_all(plans(paths, "one-r1", "two-r1", "three-r1"), paths, daemon, programs())
    assert daemon.running == {}
    assert listing(paths.state_dir) == before


def test_known_hosts_forgets_the_guests_that_were_taken_back(paths: RunPaths) -> None:
    daemon = Daemon()
    _provision.make_all(plans(paths, "one-r1"), paths, daemon, programs())
    before = paths.known_hosts.read_text()
    daemon.refuses_to_create = {"two-r1": "it is refused"}
    with pytest.raises(MayflyError):
        _provision.make_all(plans(paths, "two-r1", "three-r1"), paths, daemon, programs())
    assert paths.known_hosts.read_text() == before


@pytest.mark.parametrize(
    ("others", "attempted"),
    [
        ({"qemu_img": lambda argv: (1, "", "no room")}, "make overlay"),
        ({"xorriso": lambda argv: (5, "", "no room")}, "make seed"),
        ({"ssh_keygen": lambda argv: (1, "no room", "")}, "make ssh key"),
    ],
)
def test_a_program_that_fails_leaves_nothing(paths: RunPaths, others: dict[str, Any], attempted: str) -> None:
    before = listing(paths.state_dir)
    daemon = Daemon()
    with pytest.raises(MayflyError, match=rf"Could not {attempted} .*no room"):
        _provision.make_all(plans(paths, "one-r1", "two-r1"), paths, daemon, programs(**others))
    assert daemon.running == {}
    assert listing(paths.state_dir) == before


def test_the_console_of_an_earlier_attempt_is_put_aside(paths: RunPaths) -> None:
    """Its panic is not the new guest's."""
    paths.console("one-r1").write_text("Kernel panic - not syncing: of the first attempt\n")
    _provision.make_all(plans(paths, "one-r1"), paths, Daemon(), programs())
    assert not paths.console("one-r1").exists()
    kept = Path(f"{paths.console('one-r1')}.previous")
    assert "of the first attempt" in kept.read_text()
    assert kept in _provision.guest_files(paths, "one-r1")


def test_a_running_guest_survives_the_failure_of_another(paths: RunPaths) -> None:
    daemon = Daemon()
    _provision.make_all(plans(paths, "one-r1"), paths, daemon, programs())
    before = listing(paths.state_dir)
    kept = _provision.GuestPlan(guest(paths), (), seen("one-r1"))
    daemon.refuses_to_create = {"two-r1": "it is refused"}
    with pytest.raises(MayflyError):
        _provision.make_all([kept, *plans(paths, "two-r1")], paths, daemon, programs())
    assert daemon.names() == ["one-r1"]
    assert listing(paths.state_dir) == before


def test_whoever_sees_a_domain_can_log_in_to_it(paths: RunPaths) -> None:
    """Host keys of all, then known_hosts, then guest by guest its files and its domain."""
    daemon, order = Daemon(), []
    create = daemon.create

    def watched(name: str, xml: str) -> Any:
        order.append(name)
        pins = [line.split()[0] for line in paths.known_hosts.read_text().splitlines()]
        assert pins == ["one-r1", "three-r1", "two-r1"]
        assert paths.overlay(name).exists()
        assert paths.seed(name).exists()
        return create(name, xml)

    daemon.create = watched
    _provision.make_all(plans(paths, "one-r1", "two-r1", "three-r1"), paths, daemon, programs())
    assert sorted(order) == ["one-r1", "three-r1", "two-r1"]


def test_a_file_that_fails_leaves_no_domain(paths: RunPaths) -> None:
    def no_room_for_two(argv: list[str]) -> Any:
        return (1, "", "no room") if "two-r1" in argv[-2] else make_file(argv)

    daemon, before = Daemon(), listing(paths.state_dir)
    with pytest.raises(MayflyError, match="no room"):
        _provision.make_all(plans(paths, "one-r1", "two-r1", "three-r1"), paths, daemon, programs(qemu_img=no_room_for_two))
    assert daemon.running == {}
    assert listing(paths.state_dir) == before


def test_a_host_key_that_fails_starts_no_domain(paths: RunPaths) -> None:
    daemon = Daemon()
    with pytest.raises(MayflyError, match="no entropy"):
        _provision.make_all(plans(paths, "one-r1", "two-r1"), paths, daemon, programs(ssh_keygen=lambda argv: (1, "", "no entropy")))
    assert daemon.events == []


def test_of_several_failures_the_first_in_order_is_told(paths: RunPaths) -> None:
    daemon = Daemon()
    daemon.refuses_to_create = {"two-r1": "second", "three-r1": "third"}
    with pytest.raises(MayflyError, match=r"create domain 'two-r1': second"):
        _provision.make_all(plans(paths, "one-r1", "two-r1", "three-r1"), paths, daemon, programs())
    assert daemon.running == {}


def test_the_cards_that_libvirt_gave_are_recorded(paths: RunPaths) -> None:
    """A document of the user's own may name none."""
    daemon = Daemon()
    daemon.create = lambda name, xml: seen(name, macs=("52:54:00:00:00:01", "52:54:00:00:00:02"))
    _provision.make_all(plans(paths, "one-r1"), paths, daemon, programs())
    assert paths.macs("one-r1").read_text() == "52:54:00:00:00:01\n52:54:00:00:00:02"


def test_a_domain_whose_cards_cannot_be_recorded_is_taken_back(paths: RunPaths) -> None:
    paths.macs("two-r1").mkdir()  # cannot be written, as on a full disk
    daemon = Daemon()
    with pytest.raises((MayflyError, OSError)):
        _provision.make_all(plans(paths, "one-r1", "two-r1"), paths, daemon, programs())
    assert daemon.running == {}


def test_a_failing_way_back_does_not_stop_the_others(paths: RunPaths) -> None:
    daemon = Daemon()
    daemon.refuses_to_create = {"three-r1": "it is refused"}
    daemon.refuses_to_destroy = {"one-r1"}
    with pytest.raises(MayflyError, match="create domain 'three-r1': it is refused") as caught:
        _provision.make_all(plans(paths, "one-r1", "two-r1", "three-r1"), paths, daemon, programs())
    assert "Moreover: Could not destroy domain 'one-r1': the monitor does not answer." in str(caught.value)
    assert daemon.names() == ["one-r1"]
    assert paths.overlay("one-r1").exists()  # it runs on it
    assert not _provision.guest_files(paths, "two-r1")
    assert not _provision.guest_files(paths, "three-r1")


def test_a_failure_at_the_very_end_leaves_nothing_either(paths: RunPaths) -> None:
    (paths.dir / ".known_hosts.new").mkdir()  # cannot be written
    daemon = Daemon()
    with pytest.raises((MayflyError, OSError)):
        _provision.make_all(plans(paths, "one-r1"), paths, daemon, programs())
    assert daemon.events == []
    assert not _provision.guest_files(paths, "one-r1")


def test_a_full_disk_while_writing_a_seed_is_a_sentence(paths: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: Any, **_options: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(_seed.tempfile, "TemporaryDirectory", full)
    with pytest.raises(MayflyError):
        _provision.make_all(plans(paths, "one-r1"), paths, Daemon(), programs())


def test_several_are_made_at_a_time(paths: RunPaths) -> None:
    together = threading.Barrier(3)

    class Slow(Daemon):
        def create(self, name: str, xml: str) -> Any:
            together.wait(5)  # breaks, and fails the test, unless three come at once
            return super().create(name, xml)

    daemon = Slow()
    _provision.make_all(plans(paths, "a-r1", "b-r1", "c-r1"), paths, daemon, programs())
    assert len(daemon.running) == 3


def test_taking_back_removes_every_file_of_the_guest_and_no_other(paths: RunPaths) -> None:
    daemon = Daemon()
    made = _provision.make_all(plans(paths, "one-r1", "one-r1-b"), paths, daemon, programs())
    for name in ("one-r1", "one-r1-b"):
        for path in (paths.console(name), Path(f"{paths.console(name)}.0"), Path(f"{paths.console(name)}.1"), paths.nvram(name)):
            path.write_text("x")
    mine = {str(path.relative_to(paths.dir)) for path in _provision.guest_files(paths, "one-r1")}
    assert mine == {
        "one-r1.macs",
        *("one-r1.qcow2", "one-r1.seed.iso", "one-r1.console.log", "one-r1.console.log.0", "one-r1.console.log.1", "one-r1.nvram.fd"),
        *("hostkeys/one-r1", "hostkeys/one-r1.pub"),
    }
    before = listing(paths.dir)
    _provision.take_back("one-r1", made["one-r1"], paths, daemon)
    assert listing(paths.dir) == {name: what for name, what in before.items() if name not in mine}
    assert daemon.names() == ["one-r1-b"]
    _provision.take_back("one-r1", None, paths, daemon)
    assert daemon.names() == ["one-r1-b"]


# -- waiting -------------------------------------------------------------------------------------------------------------


class WatchedDaemon(Daemon):
    def states(self) -> dict[str, str]:
        return {"u1": "running"}


TARGET = Target("one-r1", "u1", "m", "mayfly", "")
ACCESS = {"one-r1": Access("one-r1", "root", "/k", "/h")}


def test_the_latest_lease_of_a_card_counts() -> None:
    daemon = WatchedDaemon()
    daemon.lease_list = [
        lease("m", "10.0.0.2", expiry=200),
        lease("m", "10.0.0.1", expiry=100),
        lease("n", "10.0.0.3", expiry=50),
        lease("m", "10.0.0.9", expiry=900, network="other"),
    ]
    view = _provision.Waiter(daemon, {"mayfly"}, ACCESS, Programs()).look()
    assert view.addresses == {"m": "10.0.0.2", "n": "10.0.0.3"}
    daemon.lease_list.insert(0, lease("m", "10.0.0.4", expiry=0))  # for ever
    assert _provision.Waiter(daemon, {"mayfly"}, ACCESS, Programs()).look().addresses["m"] == "10.0.0.4"
    assert view.states == {"u1": "running"}


def test_without_networks_no_leases_are_asked_for() -> None:
    daemon = WatchedDaemon()
    daemon.lease_list = [lease("m", "10.0.0.1")]
    assert _provision.Waiter(daemon, set(), ACCESS, Programs()).look().addresses == {}


def test_a_login_runs_ssh_and_can_be_ended_from_outside() -> None:
    ended = []

    class Process:
        def terminate(self) -> None:
            ended.append("terminated")

    def run_command(argv: list[str], before_communicate_callback: Any) -> tuple[int, str, str]:
        assert argv[0] == "timeout"
        assert argv[-2:] == ["root@10.0.0.1", "true"]
        before_communicate_callback(Process())
        waiter.abort(TARGET)
        return 143, "", "Terminated"

    waiter = _provision.Waiter(WatchedDaemon(), {"mayfly"}, ACCESS, run_command)
    waiter.abort(TARGET)
    assert ended == []
    result = waiter.login(TARGET, "10.0.0.1", "true", 5.0)
    assert (result.accepted, result.code, result.err) == (False, 143, "Terminated")
    assert ended == ["terminated"]
    waiter.abort(TARGET)
    assert ended == ["terminated"]


def test_a_login_that_raises_is_forgotten() -> None:
    def run_command(argv: list[str], before_communicate_callback: Any) -> tuple[int, str, str]:
        before_communicate_callback(object())
        raise OSError("no more processes")

    waiter = _provision.Waiter(WatchedDaemon(), {"mayfly"}, ACCESS, run_command)
    with pytest.raises(OSError, match="no more processes"):
        waiter.login(TARGET, "10.0.0.1", "true", 5.0)
    waiter.abort(TARGET)  # would call terminate() on what has none
    assert waiter.look().states == {"u1": "running"}
