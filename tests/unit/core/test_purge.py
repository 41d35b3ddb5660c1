# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is stale and why, what goes and in which order, and what never goes."""

from __future__ import annotations

import dataclasses
import datetime
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from core_doubles import Daemon, Programs, lease, listing, manifest, run_program, run_record, seen, tag
from lxml import etree

from ansible_collections.mayfly.virt.plugins.module_utils import _purge
from ansible_collections.mayfly.virt.plugins.module_utils._domain_xml import facts
from ansible_collections.mayfly.virt.plugins.module_utils._errors import MayflyError
from ansible_collections.mayfly.virt.plugins.module_utils._lock import locked, try_locked
from ansible_collections.mayfly.virt.plugins.module_utils._plan import sentences
from ansible_collections.mayfly.virt.plugins.module_utils._purge import Belongings, RunView, Stale
from ansible_collections.mayfly.virt.plugins.module_utils._run import OwnerProcess, RunPaths, hold, process_started
from ansible_collections.mayfly.virt.plugins.module_utils._store import Store
from ansible_collections.mayfly.virt.plugins.module_utils._tag import NAMESPACE, Tag
from ansible_collections.mayfly.virt.plugins.module_utils._workspace import Workspace

NOW = datetime.datetime(2026, 1, 1, 13, 0, 0, tzinfo=datetime.timezone.utc)
STATE = Path("/state")
HERE = OwnerProcess(os.getpid(), process_started(os.getpid()))
GONE = OwnerProcess(os.getpid(), 1)


def view(run_id: str = "r1", idle: float = 0.0, problem: str = "", **fields: Any) -> RunView:
    return RunView(run_id, None if problem else run_record(run_id, **fields), problem, idle)


def domain(name: str = "one-r1", run: str = "r1", **fields: Any) -> Any:
    return seen(name, tag=tag(run, state_dir=str(STATE)), **fields)


def stale(*views: RunView, domains: tuple[Any, ...] = (), grace: float = 900) -> list[Stale]:
    return _purge.find_stale(views, domains, NOW, "this-boot", grace)


# -- whose domains -------------------------------------------------------------------------------------------------------


def test_only_domains_with_our_tag_for_this_state_directory_are_ours() -> None:
    ours, other_run = domain(), domain("two-r2", run="r2")
    foreign = seen("test", tag=None)
    elsewhere = seen("one-r1", tag=tag("r1", state_dir="/elsewhere"))
    nowhere = seen("one-r1", tag=tag("r1"))
    below = seen("one-r1", tag=tag("r1", state_dir="/state/below"))
    everything = [foreign, ours, elsewhere, nowhere, other_run, below]
    assert _purge.owned(everything, STATE) == [ours, other_run]
    assert _purge.owned(everything, STATE, "r1") == [ours]
    assert _purge.owned(everything, STATE, "r") == []
    assert _purge.owned([], STATE) == []


def test_a_name_alone_makes_no_domain_ours() -> None:
    assert _purge.owned([seen("one-r1", tag=None)], STATE, "r1") == []


@pytest.mark.parametrize("run", ["../../etc", "..", ".", "a/b", "/etc"])
def test_a_run_id_that_is_a_path_is_not_believed(run: str) -> None:
    """Or sweep would remove <state_dir>/runs/<that id>."""
    told = etree.fromstring("<domain><name>one-r1</name><metadata/></domain>")
    told.find("metadata").append(Tag(run=run, guest="one", state_dir=str(STATE)).to_element())
    assert _purge.owned([facts(told)], STATE) == []
    told.find(f"metadata/{{{NAMESPACE}}}run/{{{NAMESPACE}}}run").text = "r1"
    assert [each.name for each in _purge.owned([facts(told)], STATE)] == ["one-r1"]


# -- what is stale -------------------------------------------------------------------------------------------------------


def test_a_run_in_use_is_not_stale() -> None:
    assert stale(view(), domains=(domain(),)) == []
    assert stale(view(owner_process=HERE), domains=(domain(),)) == []
    assert stale(view(idle=10**9), domains=(domain(),)) == []
    assert stale() == []


@pytest.mark.parametrize(
    ("run", "domains", "reason"),
    [
        (view(deadline="2026-01-01T12:59:59+00:00"), (domain(),), "its deadline 2026-01-01T12:59:59+00:00 has passed"),
        (view(deadline="2026-01-01T13:00:00+00:00"), (), "its deadline 2026-01-01T13:00:00+00:00 has passed"),
        (view(boot_id="another-boot"), (domain(),), "the host was booted since it was made"),
        (view(owner_process=GONE), (domain(),), f"its owner process {os.getpid()} is gone"),
        (view(idle=901), (), "it has no domain and was not touched for 901 s"),
        (view(idle=901), (domain("two-r2", run="r2"),), "it has no domain and was not touched for 901 s"),
        (view(idle=901, problem="it has no run.json"), (), "it has no run.json"),
        (view(idle=901, problem="it is not a run of this version"), (domain(),), "it is not a run of this version"),
    ],
)
def test_each_reason_alone(run: RunView, domains: tuple[Any, ...], reason: str) -> None:
    assert stale(run, view("r2"), domains=(*domains, domain("x-r2", run="r2")))[0] == Stale("r1", reason)


@pytest.mark.parametrize("run", [view(idle=900), view(idle=900, problem="it has no run.json"), view(idle=0, problem="x")])
def test_what_is_young_is_left_alone(run: RunView) -> None:
    assert stale(run) == []


def test_the_first_reason_is_the_one_given() -> None:
    everything = {"deadline": "2026-01-01T12:00:00+00:00", "boot_id": "another", "owner_process": GONE}
    reasons = []
    for name in ("deadline", "boot_id", "owner_process", None):
        reasons.append(stale(view(idle=10**6, **everything))[0].reason)
        everything.pop(name, None)
    assert [reason.split()[1] for reason in reasons] == ["deadline", "host", "owner", "has"]


def test_domains_without_a_directory_come_last_and_once() -> None:
    expired = view("r5", deadline="2026-01-01T12:00:00+00:00")
    domains = (domain("a-r9", run="r9"), domain("a-r1", run="r1"), domain("b-r9", run="r9"), domain("a-r2", run="r2"))
    assert stale(view("r2"), expired, domains=domains) == [
        Stale("r5", "its deadline 2026-01-01T12:00:00+00:00 has passed"),
        Stale("r1", "its domains have no run directory"),
        Stale("r9", "its domains have no run directory"),
    ]


def test_a_run_that_cannot_be_read_keeps_its_domains_out_of_the_orphans() -> None:
    assert stale(view("r1", problem="x", idle=1), domains=(domain(),)) == []


# -- looking at directories ----------------------------------------------------------------------------------------------


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / "state" / "runs").mkdir(parents=True)
    return tmp_path / "state"


def put_run(state: Path, run_id: str, text: str | None = None, age: float = 0.0) -> RunPaths:
    paths = RunPaths(state, run_id)
    paths.dir.mkdir()
    record = {"format": "mayfly-run-1", **dataclasses.asdict(run_record(run_id))}
    if text != "":
        paths.record.write_text(text or json.dumps(record))
        os.utime(paths.record, (time.time() - age,) * 2)
    os.utime(paths.dir, (time.time() - age,) * 2)
    return paths


def test_every_run_directory_is_seen(state: Path) -> None:
    put_run(state, "r2", age=500)
    put_run(state, "r1")
    put_run(state, "r3", text="{")
    put_run(state, "r4", text="", age=300)
    (state / "runs" / ".work-x").mkdir()
    (state / "runs" / "file").write_text("")
    (state / "runs" / "link").symlink_to(state / "runs" / "r1")
    views = _purge.view_runs(state)
    assert [view.id for view in views] == ["r1", "r2", "r3", "r4"]
    assert [view.run for view in views] == [run_record("r1"), run_record("r2"), None, None]
    assert [view.problem[:20] for view in views] == ["", "", "it is not a run of t", "it has no run.json"]
    assert [round(view.idle / 100) for view in views] == [0, 5, 0, 3]


def test_no_runs_directory_is_no_run(tmp_path: Path) -> None:
    assert _purge.view_runs(tmp_path) == []


def test_a_run_that_goes_between_list_and_look_is_passed_over(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_run(state, "r1")
    put_run(state, "r2")
    read = _purge.read_run

    def read_late(paths: RunPaths) -> Any:
        if paths.run == "r1":
            shutil.rmtree(paths.dir)
        return read(paths)

    monkeypatch.setattr(_purge, "read_run", read_late)
    assert [view.id for view in _purge.view_runs(state)] == ["r2"]


def test_what_is_stale_now(state: Path) -> None:
    put_run(state, "r1")
    record = {"format": "mayfly-run-1", **dataclasses.asdict(run_record("r2", deadline="2999-01-01T00:00:00+00:00"))}
    put_run(state, "r2", text=json.dumps({**record, "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip()}))
    found = _purge.current_stale([], state, NOW + datetime.timedelta(days=1), 900)
    assert found == [Stale("r1", "its deadline 2026-01-01T14:00:00+00:00 has passed")]


# -- steps ---------------------------------------------------------------------------------------------------------------


def test_the_steps_of_a_removal_in_their_order() -> None:
    steps = _purge.actions("r1", "why", Belongings([domain("a-r1"), domain("b-r1")], [lease("m", "10.0.0.1")], True))
    assert sentences(steps) == [
        "remove domain a-r1 (why)",
        "remove domain b-r1 (why)",
        "remove lease 10.0.0.1 of m (why)",
        "remove run directory r1 (why)",
    ]
    assert steps[0].before == "a-r1 uuid-of-a-r1\n"
    assert all(step.before and not step.after for step in steps)
    assert _purge.actions("r1", "why", Belongings([], [], False)) == []


def test_leases_are_found_by_card() -> None:
    leases = [lease("52:54:00:00:00:0a", "10.0.0.1"), lease("52:54:00:00:00:0b", "10.0.0.2"), lease("52:54:00:00:00:0a", "10.0.0.3")]
    domains = [domain(macs=("52:54:00:00:00:0A", "52:54:00:00:00:0c"))]
    assert [each.address for each in _purge.leases_of(domains, leases)] == ["10.0.0.1", "10.0.0.3"]
    assert [each.address for each in _purge.leases_of([], leases, {"52:54:00:00:00:0b"})] == ["10.0.0.2"]
    assert _purge.leases_of([], leases) == []


def test_the_cards_of_a_run_are_remembered_beyond_its_domains(state: Path) -> None:
    paths = put_run(state, "r1")
    assert _purge.recorded_macs(paths) == set()
    paths.macs("one-r1").write_text("52:54:00:00:00:01\n52:54:00:00:00:02")
    paths.macs("two-r1").write_text("")
    assert _purge.recorded_macs(paths) == {"52:54:00:00:00:01", "52:54:00:00:00:02"}
    assert _purge.recorded_macs(RunPaths(state, "r2")) == set()


def test_what_belongs_to_a_run(state: Path) -> None:
    paths = put_run(state, "r1")
    paths.macs("gone-r1").write_text("n")
    daemon = Daemon()
    here = seen("one-r1", tag=tag("r1", state_dir=str(state)), macs=("m",))
    daemon.running = {"1": here, "2": seen("two-r2", tag=tag("r2", state_dir=str(state)), macs=("o",)), "3": seen("test", tag=None)}
    daemon.lease_list = [lease("m", "10.0.0.1"), lease("n", "10.0.0.2"), lease("o", "10.0.0.3")]
    assert _purge.belongings(daemon, state, "r1") == Belongings([here], daemon.lease_list[:2], True)
    assert _purge.belongings(daemon, state, "r3") == Belongings([], [], False)


def dhcp_release(daemon: Daemon) -> Programs:
    """A dhcp_release to which the DHCP server listens."""

    def release(argv: list[str]) -> str:
        daemon.events.append(f"release {argv[2]}")
        daemon.lease_list = [each for each in daemon.lease_list if (each.address, each.mac) != (argv[2], argv[3])]
        return ""

    return Programs(dhcp_release=release)


def test_a_run_is_removed_in_order(state: Path) -> None:
    paths = put_run(state, "r1")
    daemon = Daemon()
    daemon.running = {"uuid-of-one-r1": seen("one-r1", tag=tag("r1", state_dir=str(state)), macs=("m",))}
    daemon.lease_list = [lease("m", "10.0.0.1", client_id="01:m"), lease("other", "10.0.0.2")]
    programs = dhcp_release(daemon)
    _purge.purge(daemon, state, "r1", programs)
    assert daemon.events == ["destroy one-r1", "release 10.0.0.1"]
    assert programs.calls == [["dhcp_release", "virbr7", "10.0.0.1", "m", "01:m"]]
    assert not paths.dir.exists()
    assert daemon.lease_list == [lease("other", "10.0.0.2")]


def test_removing_what_is_gone_is_quiet(state: Path) -> None:
    daemon = Daemon()
    _purge.purge(daemon, state, "r1", Programs())
    assert daemon.events == []
    assert list((state / "runs").iterdir()) == []


def test_a_guest_that_is_being_made_is_waited_for_and_goes_too(state: Path) -> None:
    paths = put_run(state, "r1")
    daemon = Daemon()
    purging = threading.Thread(target=_purge.purge, args=(daemon, state, "r1", Programs()))
    with hold(paths):
        purging.start()
        purging.join(0.05)
        assert paths.record.exists()
        daemon.running = {"uuid-of-one-r1": seen("one-r1", tag=tag("r1", state_dir=str(state)))}
    purging.join(5)
    assert daemon.events == ["destroy one-r1"]
    assert not paths.dir.exists()


def test_who_comes_after_the_removal_is_told(state: Path) -> None:
    paths = put_run(state, "r1")
    told = []

    def make() -> None:
        try:
            with hold(paths):
                told.append("made")
        except MayflyError as error:
            told.append(error.reason)

    making = threading.Thread(target=make)
    with locked(paths.lock):
        making.start()
        making.join(0.05)
        shutil.rmtree(paths.dir)
    making.join(5)
    assert told == [f"{paths.dir} was removed meanwhile"]


def test_a_run_that_is_not_there_cannot_be_held(state: Path) -> None:
    with pytest.raises(MayflyError, match="was removed meanwhile"), hold(RunPaths(state, "r1")):
        pass
    paths = put_run(state, "r1")
    with pytest.raises(FileNotFoundError, match="something else"), hold(paths):
        raise FileNotFoundError("something else")
    with hold(paths), try_locked(paths.lock) as free:
        assert not free


def linked_run(state: Path, tmp_path: Path) -> Path:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("x")
    (state / "runs" / "r1").symlink_to(tmp_path / "precious")
    return tmp_path / "precious"


def test_a_run_directory_that_is_a_link_is_not_followed(state: Path, tmp_path: Path) -> None:
    precious = linked_run(state, tmp_path)
    _purge.purge(Daemon(), state, "r1", Programs())
    assert (precious / "file").exists()


def test_nothing_is_made_behind_a_link(state: Path, tmp_path: Path) -> None:
    precious = linked_run(state, tmp_path)
    _purge.purge(Daemon(), state, "r1", Programs())
    assert [path.name for path in precious.iterdir()] == ["file"]


def test_links_in_a_run_directory_are_not_followed(state: Path, tmp_path: Path) -> None:
    paths = put_run(state, "r1")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("x")
    (paths.dir / "link").symlink_to(tmp_path / "precious")
    _purge.remove_tree(paths.dir)
    assert not paths.dir.exists()
    assert (tmp_path / "precious" / "file").exists()


def test_a_lease_without_client_id_is_released_by_card_and_address() -> None:
    daemon = Daemon()
    daemon.lease_list = [lease("m", "10.0.0.1")]
    programs = dhcp_release(daemon)
    _purge.release(daemon, list(daemon.lease_list), programs)
    assert programs.calls == [["dhcp_release", "virbr7", "10.0.0.1", "m"]]


def test_a_lease_that_stays_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_purge, "LEASE_PATIENCE", 0.03)
    daemon = Daemon()
    daemon.lease_list = [lease("m", "10.0.0.1"), lease("n", "10.0.0.2")]
    with pytest.raises(MayflyError, match=r"release lease '10\.0\.0\.1 of m': the DHCP server still lists it"):
        _purge.release(daemon, daemon.lease_list[:1], Programs(dhcp_release=lambda argv: ""))


def test_a_lease_that_goes_a_little_later_is_waited_for() -> None:
    daemon = Daemon()
    listed = [lease("m", "10.0.0.1")]
    looks = []

    def leases(networks: set[str]) -> list[Any]:
        looks.append(networks)
        return listed if len(looks) < 3 else []

    daemon.leases = leases
    _purge.release(daemon, listed, Programs(dhcp_release=lambda argv: ""))
    assert looks == [{"mayfly"}] * 3


def test_a_release_that_fails_is_an_error_and_nothing_to_release_is_none() -> None:
    with pytest.raises(MayflyError, match="dnsmasq-utils"):
        _purge.release(Daemon(), [lease("m", "10.0.0.1")], Programs())
    programs = Programs()
    _purge.release(Daemon(), [], programs)
    assert programs.calls == []


# -- trees ---------------------------------------------------------------------------------------------------------------

MOUNTINFO = """22 28 0:20 / /proc rw,nosuid - proc proc rw
28 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
{}"""


def with_mounts(monkeypatch: pytest.MonkeyPatch, *points: str) -> None:
    lines = "".join(f"{90 + number} 28 0:{40 + number} / {point} rw - tmpfs tmpfs rw\n" for number, point in enumerate(points))
    monkeypatch.setattr(_purge, "open", lambda path, **_options: io.StringIO(MOUNTINFO.format(lines)), raising=False)


def test_a_tree_goes(state: Path) -> None:
    paths = put_run(state, "r1")
    (paths.dir / "a" / "b").mkdir(parents=True)
    _purge.remove_tree(paths.dir)
    assert listing(state) == {"runs": "directory"}
    _purge.remove_tree(paths.dir)
    assert listing(state) == {"runs": "directory"}


def test_a_tree_with_a_mount_below_stays_whole(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = put_run(state, "r1")
    (paths.dir / "mnt").mkdir()
    before = listing(state)
    with_mounts(monkeypatch, f"{state}/runs/r10/mnt", f"{paths.dir}/mnt")
    with pytest.raises(MayflyError, match=f"{paths.dir}/mnt is mounted there") as caught:
        _purge.remove_tree(paths.dir)
    assert caught.value.remedy == f"Unmount it first: umount '{paths.dir}/mnt'"
    assert listing(state) == before


def test_a_mount_seen_through_a_link_counts(state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = put_run(state, "r1")
    (tmp_path / "link").symlink_to(state)
    with_mounts(monkeypatch, f"{paths.dir}/mnt")
    with pytest.raises(MayflyError, match="is mounted there"):
        _purge.remove_tree(RunPaths(tmp_path / "link", "r1").dir)
    assert paths.record.exists()


def test_mounts_beside_a_tree_do_not_matter(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = put_run(state, "r1")
    with_mounts(monkeypatch, f"{state}/runs/r10/mnt", f"{state}/runs", "/")
    _purge.remove_tree(paths.dir)
    assert not paths.dir.exists()


def test_a_mount_below_a_path_with_a_blank_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my state" / "runs").mkdir(parents=True)
    paths = put_run(tmp_path / "my state", "r1")
    with_mounts(monkeypatch, f"{paths.dir}/mnt".replace(" ", "\\040"))
    with pytest.raises(MayflyError):
        _purge.remove_tree(paths.dir)


def test_a_mount_on_the_directory_itself_counts(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = put_run(state, "r1")
    with_mounts(monkeypatch, str(paths.dir))
    with pytest.raises(MayflyError):
        _purge.remove_tree(paths.dir)


def test_two_sweeps_may_remove_the_same_tree(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = put_run(state, "r1")
    (paths.dir / "file").write_text("x")
    unlink = os.unlink

    def the_other_was_faster(path: Any, **options: Any) -> None:
        unlink(path, **options)
        monkeypatch.setattr(os, "unlink", unlink)
        raise FileNotFoundError(2, "No such file or directory", path)

    monkeypatch.setattr(os, "unlink", the_other_was_faster)
    _purge.remove_tree(paths.dir)
    assert not paths.dir.exists()


# -- rubbish -------------------------------------------------------------------------------------------------------------


def aged(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can set a ctime, so the clock goes on instead."""
    now = time.time()
    monkeypatch.setattr(_purge.time, "time", lambda: now + 1000)
    assert path.lstat().st_ctime < now + 1


def test_a_tidy_state_directory_has_no_rubbish(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    (store.tmp / "image").write_text("x")
    store.add(store.tmp / "image", manifest(), {})
    store.point("debian", manifest().digest)
    aged(store.path(manifest().digest), monkeypatch)
    assert _purge.rubbish(store.dir.parent, 900, run_program) == []
    assert _purge.rubbish(store.dir.parent / "nowhere", 0, run_program) == []


def test_what_a_killed_import_left_is_rubbish_after_a_while(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    orphan = store.path("7" * 64)
    strays = [store.tmp / ".manifest-7-1", store.tmp / ".link-debian-1", orphan, store.path("7" * 64, "vmlinuz")]
    for path in strays:
        path.write_text("half")
    (store.tmp / ".link-dangling-2").symlink_to("../sha256-7.json")
    strays.append(store.tmp / ".link-dangling-2")
    assert _purge.rubbish(store.dir.parent, 900, run_program) == []
    aged(orphan, monkeypatch)
    assert sorted(_purge.rubbish(store.dir.parent, 900, run_program)) == sorted(strays)
    for path in [*strays, *strays]:
        _purge.remove_rubbish(path)
    assert {name: what for name, what in listing(store.dir).items() if what != "directory"} == {}


def test_abandoned_workspaces_are_rubbish_and_held_ones_are_not(store: Store) -> None:
    runs = store.dir.parent / "runs"
    runs.mkdir()
    for parent in (runs, store.tmp):
        (parent / ".work-dead").mkdir()
        (parent / ".work-dead" / "lock").touch()
    with Workspace(runs), Workspace(store.tmp):
        found = _purge.rubbish(store.dir.parent, 900, run_program)
    assert found == [runs / ".work-dead", store.tmp / ".work-dead"]
    for path in found:
        _purge.remove_rubbish(path)
    assert [*runs.iterdir(), *store.tmp.iterdir()] == []


def test_an_image_that_guests_stand_on_is_never_rubbish(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    state = store.dir.parent
    (store.tmp / "image").write_text("x")
    store.add(store.tmp / "image", manifest(), {})
    base = store.path(manifest().digest)
    paths = RunPaths(state, "r1")
    paths.dir.mkdir(parents=True)
    base.chmod(0o644)
    for argv in (["-f", "qcow2", str(base), "1M"], ["-f", "qcow2", "-F", "qcow2", "-b", str(base), str(paths.overlay("one-r1"))]):
        subprocess.run(["qemu-img", "create", "-q", *argv], check=True, timeout=30)
    store.path(manifest().digest, "json").unlink()
    aged(base, monkeypatch)
    assert base not in _purge.rubbish(state, 900, run_program)


def test_a_damaged_manifest_does_not_end_the_sweep(store: Store) -> None:
    store.path("7" * 64, "json").write_text("{")
    (store.tmp / ".work-dead").mkdir()
    assert _purge.rubbish(store.dir.parent, 900, run_program) == [store.tmp / ".work-dead"]


def test_a_process_that_ended_is_no_owner() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    owner = OwnerProcess(process.pid, process_started(process.pid))
    assert stale(view(owner_process=owner), domains=(domain(),)) == []
    process.communicate(timeout=10)
    assert stale(view(owner_process=owner), domains=(domain(),)) == [Stale("r1", f"its owner process {process.pid} is gone")]
