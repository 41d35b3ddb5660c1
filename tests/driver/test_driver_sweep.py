# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module sweep: what it takes, why, and above all what it leaves alone."""

from __future__ import annotations

import datetime
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from driver_kit import Host, Modules, domain
from lxml import etree

from ansible_collections.mayfly.virt.plugins.module_utils._lock import locked
from ansible_collections.mayfly.virt.plugins.module_utils._run import RunPaths, hold
from ansible_collections.mayfly.virt.plugins.module_utils._tag import Tag
from ansible_collections.mayfly.virt.plugins.modules import sweep

RUN = {"id": "r1", "owner": "jane", "deadline": 3600}
XML = "<domain type='test'><name>{name}</name><metadata/><memory unit='MiB'>64</memory><os><type>hvm</type></os></domain>"


def tagged(name: str, tag: Tag) -> str:
    document = etree.fromstring(XML.format(name=name))
    document.find("metadata").append(tag.to_element())
    return etree.tostring(document, encoding="unicode")


def make(run: Modules, *names: str, run_id: str = "r1", **options: Any) -> None:
    run("domain", run={**RUN, "id": run_id}, domains=[domain(name, **options) for name in names])


def change_record(host: Host, run_id: str = "r1", **fields: Any) -> None:
    path = host.run_dir(run_id) / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def reasons(answer: dict[str, Any]) -> dict[str, str]:
    return {result["name"]: result["reason"] for result in answer["results"]}


@pytest.fixture
def busy(run: Modules, host: Host) -> Modules:
    """A hypervisor on which one run is in use."""
    make(run, "keep-r0", run_id="r0", image="tiny")
    return run


@pytest.fixture
def kept(busy: Modules, host: Host) -> Any:
    """What must be there afterwards: the stranger and the run in use, with all its files."""
    before = host.now()

    def still_there() -> bool:
        after = host.now()
        return before.domains.items() <= after.domains.items() and before.tree.items() <= after.tree.items()

    return still_there


def test_where_nothing_is_stale_nothing_is_done(busy: Modules, host: Host) -> None:
    before = host.now(times=True)
    for params in ({}, {"dry_run": True}, {"runs": []}, {"runs": ["nobody"]}):
        for check in (True, False):
            answer = busy("sweep", check=check, **params)
            assert (answer["changed"], answer["diff"], answer["actions"]) == (False, [], [])
    assert host.now(times=True) == before


def test_an_expired_run_goes_whole(busy: Modules, host: Host, kept: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    make(busy, "one-r1", "two-r1", image="tiny")
    change_record(host, deadline="2026-01-01T12:00:00+00:00")
    reason = "its deadline 2026-01-01T12:00:00+00:00 has passed"
    before = host.now(times=True)
    predicted = busy("sweep", check=True)
    listed = busy("sweep", dry_run=True)
    assert host.now(times=True) == before
    done = busy("sweep")
    assert done["changed"] is predicted["changed"] is True
    assert listed["changed"] is False
    for answer in (predicted, listed, done):
        assert reasons(answer) == {"r1": reason}
        assert sorted(answer["results"][0]["domains"]) == ["one-r1", "two-r1"]
        assert answer["results"][0]["error"] == ""
        assert sorted(answer["actions"]) == [
            f"remove domain one-r1 ({reason})",
            f"remove domain two-r1 ({reason})",
            f"remove run directory r1 ({reason})",
        ]
    assert predicted["diff"] == listed["diff"] == done["diff"]
    assert not host.run_dir().exists()
    assert sorted(host.domains()) == ["keep-r0", "test"]
    assert kept()
    assert busy("sweep")["changed"] is False


def test_the_clock_decides(run: Modules, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    make(run, "one-r1")
    now = datetime.datetime.now(datetime.timezone.utc)
    monkeypatch.setattr(sweep, "utc_now", lambda: now + datetime.timedelta(seconds=3500))
    assert run("sweep")["changed"] is False
    monkeypatch.setattr(sweep, "utc_now", lambda: now + datetime.timedelta(seconds=3700))
    assert run("sweep")["changed"] is True
    assert list(host.domains()) == ["test"]


def test_a_run_of_an_earlier_boot_goes(busy: Modules, host: Host, kept: Any) -> None:
    make(busy, "one-r1")
    change_record(host, boot_id="an earlier boot")
    assert reasons(busy("sweep")) == {"r1": "the host was booted since it was made"}
    assert not host.run_dir().exists()
    assert kept()


def test_a_run_whose_owner_ended_goes(busy: Modules, host: Host, kept: Any) -> None:
    owner = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    busy("domain", run={**RUN, "owner_pid": owner.pid}, domains=[domain("one-r1")])
    assert busy("sweep")["changed"] is False
    owner.communicate(timeout=10)
    assert reasons(busy("sweep")) == {"r1": f"its owner process {owner.pid} is gone"}
    assert "one-r1" not in host.domains()
    assert kept()


def test_a_domain_without_directory_goes(busy: Modules, host: Host, kept: Any) -> None:
    make(busy, "one-r1")
    shutil.rmtree(host.run_dir())
    assert reasons(busy("sweep", dry_run=True)) == {"r1": "its domains have no run directory"}
    answer = busy("sweep")
    assert answer["actions"] == ["remove domain one-r1 (its domains have no run directory)"]
    assert sorted(host.domains()) == ["keep-r0", "test"]
    assert kept()


def test_a_directory_without_domain_goes_after_a_while(busy: Modules, host: Host, kept: Any) -> None:
    make(busy, "one-r1", image="tiny")
    host.destroy("one-r1")
    assert busy("sweep")["changed"] is False
    host.age(host.run_dir() / "run.json", 1000)
    assert busy("sweep", grace=2000)["changed"] is False
    answer = busy("sweep")
    assert reasons(answer)["r1"].startswith("it has no domain and was not touched for 1")
    assert answer["actions"][0].startswith("remove run directory r1")
    assert not host.run_dir().exists()
    assert kept()


def test_a_run_in_preparation_is_left_alone(run: Modules, host: Host) -> None:
    run("overlay", run=RUN, overlays=[{"name": "one-r1", "image": "tiny"}])
    before = host.tree()
    assert run("sweep")["changed"] is False
    assert host.tree() == before


@pytest.mark.parametrize(
    "lock",
    [
        True,
        False,
    ],
    ids=["with a lock", "without a lock"],
)
@pytest.mark.parametrize("content", [None, "", "{", '{"format": "mayfly-run-9"}'])
def test_a_directory_that_is_no_run_goes_after_a_while(content: str | None, lock: bool, busy: Modules, host: Host, kept: Any) -> None:
    host.run_dir().mkdir()
    (host.run_dir() / "one-r1.qcow2").write_text("left over")
    if lock:
        (host.run_dir() / "lock").touch()
    if content is not None:
        (host.run_dir() / "run.json").write_text(content)
    assert busy("sweep")["changed"] is False
    host.age(host.run_dir(), 1000)
    assert list(reasons(busy("sweep"))) == ["r1"]
    assert not host.run_dir().exists()
    assert kept()


def test_by_run_id_whatever_its_deadline(busy: Modules, host: Host, kept: Any) -> None:
    make(busy, "one-r1", "two-r1")
    make(busy, "one-r2", run_id="r2")
    before = host.now(times=True)
    assert reasons(busy("sweep", check=True, runs=["r1"])) == {"r1": "its removal was asked for"}
    assert host.now(times=True) == before
    answer = busy("sweep", runs=["r1", "nobody"])
    assert [(result["name"], result["changed"]) for result in answer["results"]] == [("r1", True), ("nobody", False)]
    assert sorted(host.domains()) == ["keep-r0", "one-r2", "test"]
    assert host.run_dir("r2").exists()
    assert kept()
    assert busy("sweep", runs=["r1"])["changed"] is False


def test_no_other_run_is_looked_at_when_some_are_named(busy: Modules, host: Host) -> None:
    make(busy, "one-r1")
    change_record(host, deadline="2026-01-01T12:00:00+00:00")
    assert busy("sweep", runs=["r2"])["changed"] is False
    assert "one-r1" in host.domains()


def test_strangers_are_never_touched(busy: Modules, host: Host, kept: Any, tmp_path: Path) -> None:
    host.create(XML.format(name="one-r1"))
    host.create(tagged("two-r1", Tag(run="r1", guest="two", state_dir="/elsewhere")))
    host.create(tagged("three-r1", Tag(run="r1", guest="three")))
    before = host.domains()
    assert busy("sweep")["changed"] is False
    assert busy("sweep", runs=["r1"])["changed"] is False
    assert host.domains() == before
    assert kept()


def test_a_domain_like_ours_under_our_tag_is_ours(busy: Modules, host: Host, kept: Any) -> None:
    host.create(tagged("whatever", Tag(run="r7", guest="x", state_dir=str(host.state))))
    assert busy("sweep")["actions"] == ["remove domain whatever (its domains have no run directory)"]
    assert kept()


@pytest.mark.parametrize("run_id", ["../../precious", "..", ".", "r1/../../../precious", "R1", "r1-", "x" * 41])
def test_a_tag_cannot_lead_out_of_the_runs_directory(run_id: str, busy: Modules, host: Host, kept: Any, tmp_path: Path) -> None:
    """What is no run id is no tag of ours: the domain is a stranger's."""
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("precious")
    host.create(tagged("evil", Tag(run=run_id, guest="evil", state_dir=str(host.state))))
    assert busy("sweep")["changed"] is False
    assert "evil" in host.domains()
    assert busy("domain_info", names=["evil"])["results"] == []
    assert (tmp_path / "precious" / "file").exists()
    assert kept()


@pytest.mark.parametrize("spelling", ["link", "other/../state", "state/"])
def test_a_state_directory_by_another_name_is_the_same(spelling: str, run: Modules, host: Host, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(host.state)
    (tmp_path / "other").mkdir()
    make(run, "one-r1", image="tiny")
    host.age(host.run_dir() / "run.json", 1000)
    other_name = {"state_dir": str(tmp_path / spelling)}
    assert run("sweep", **other_name)["changed"] is False
    assert "one-r1" in host.domains()
    assert (host.run_dir() / "one-r1.qcow2").exists()
    assert [result["name"] for result in run("domain_info", **other_name)["results"]] == ["one-r1"]
    again = run("domain", run=RUN, domains=[domain("one-r1", image="tiny"), domain("two-r1", image="tiny")], **other_name)
    assert again["actions"] == ["create overlay two-r1", "create seed two-r1", "create domain two-r1"]
    assert run("sweep", runs=["r1"], **other_name)["changed"] is True
    assert list(host.domains()) == ["test"]


def test_what_killed_processes_left_half_made_goes(busy: Modules, host: Host, kept: Any) -> None:
    work = host.state / "images" / "tmp" / ".work-dead"
    work.mkdir()
    (work / "lock").touch()
    (work / "image.qcow2").write_text("half")
    nascent = host.state / "runs" / ".new-dead"
    nascent.mkdir()
    before = host.now(times=True)
    predicted = busy("sweep", check=True)
    assert host.now(times=True) == before
    done = busy("sweep")
    assert predicted["diff"] == done["diff"]
    assert reasons(done) == {str(work): "half-made, and nobody works on it"}
    assert not work.exists()
    assert nascent.exists()  # just being made, perhaps
    assert list(reasons(busy("sweep", grace=-1))) == [str(nascent)]
    assert not nascent.exists()
    assert kept()


def test_what_somebody_works_on_again_stays(busy: Modules, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    work = host.state / "images" / "tmp" / ".work-alive"
    work.mkdir()
    (work / "lock").touch()
    remove_rubbish = sweep._purge.remove_rubbish

    def late(path: Path) -> None:
        with locked(path / "lock"):
            remove_rubbish(path)

    monkeypatch.setattr(sweep._purge, "remove_rubbish", late)
    busy("sweep")
    assert work.exists()


def test_stored_images_stay(busy: Modules, host: Host) -> None:
    before = {name: what for name, what in host.tree().items() if name.startswith("state/images")}
    busy("sweep", grace=0)
    busy("sweep", runs=["r0"], grace=0)
    assert {name: what for name, what in host.tree().items() if name.startswith("state/images")} == before


def test_one_run_that_cannot_go_does_not_keep_the_others(busy: Modules, host: Host, kept: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for run_id in ("r1", "r2", "r3"):
        make(busy, f"one-{run_id}", run_id=run_id)
        change_record(host, run_id, deadline="2026-01-01T12:00:00+00:00")
    remove_tree = sweep._purge.remove_tree

    def mounted(path: Path) -> None:
        if path.name == "r2":
            raise sweep.MayflyError("remove", str(path), "/x is mounted below it", "Unmount it first: umount /x")
        remove_tree(path)

    monkeypatch.setattr(sweep._purge, "remove_tree", mounted)
    answer = busy.fail("sweep")
    assert "/x is mounted below it" in answer["msg"]
    assert {result["name"]: bool(result["error"]) for result in answer["results"]} == {"r1": False, "r2": True, "r3": False}
    assert not host.run_dir("r1").exists()
    assert host.run_dir("r2").exists()
    assert not host.run_dir("r3").exists()
    assert kept()
    monkeypatch.undo()
    assert busy("sweep")["actions"][-1].startswith("remove run directory r2")


@pytest.mark.parametrize(
    "deadline",
    [
        "soon",
        "",
        None,
        5,
        "2026-01-01T12:00:00",
    ],
)
def test_a_run_with_a_damaged_deadline_does_not_end_the_sweep(deadline: object, busy: Modules, host: Host) -> None:
    make(busy, "one-r1")
    change_record(host, deadline="2026-01-01T12:00:00+00:00")
    change_record(host, "r0", deadline=deadline)
    assert list(reasons(busy("sweep"))) == ["r1"]
    assert sorted(host.domains()) == ["keep-r0", "test"]
    answer = busy.fail("domain", run={**RUN, "id": "r0"}, domains=[])
    assert answer["target"] == str(host.run_dir("r0") / "run.json")
    assert "not a run of this version" in answer["reason"]


def test_a_damaged_manifest_does_not_hide_what_was_done(busy: Modules, host: Host) -> None:
    make(busy, "one-r1")
    change_record(host, deadline="2026-01-01T12:00:00+00:00")
    manifest = next((host.state / "images").glob("sha256-*.json"))
    manifest.chmod(0o644)
    manifest.write_text("{")
    assert list(reasons(busy("sweep"))) == ["r1"]
    assert busy("sweep", grace=0)["changed"] is False
    assert manifest.with_suffix(".qcow2").exists()


def test_a_damaged_overlay_does_not_hide_what_was_done(busy: Modules, host: Host) -> None:
    make(busy, "one-r1")
    change_record(host, deadline="2026-01-01T12:00:00+00:00")
    (host.state / "images" / f"sha256-{'7' * 64}.qcow2").write_text("half")
    (host.run_dir("r0") / "keep-r0.qcow2").unlink()
    (host.run_dir("r0") / "keep-r0.qcow2").write_bytes(b"QFI\xfb, and no more")
    assert "r1" in [result["name"] for result in busy.answer("sweep")["results"]]


# -- the run that was judged stale, a moment later -----------------------------------------------------------------------


def before_the_lock(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """Let something happen once, after sweep has judged and before it holds the run."""
    purge = sweep._purge.purge

    def late(*arguments: Any) -> Any:
        monkeypatch.setattr(sweep._purge, "purge", purge)
        happens()
        return purge(*arguments)

    monkeypatch.setattr(sweep._purge, "purge", late)


def prepared_again(busy: Modules, host: Host, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Sweep a run that another prepare takes up anew as soon as it was judged."""
    make(busy, "one-r1", image="tiny")
    change_record(host, deadline="2026-01-01T12:00:00+00:00")
    before_the_lock(monkeypatch, lambda: make(busy, "one-r1", "two-r1", image="tiny"))
    return busy("sweep")


def test_a_run_that_was_taken_up_since_it_was_judged_stays(busy: Modules, host: Host, kept: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared_again(busy, host, monkeypatch)
    assert sorted(host.domains()) == ["keep-r0", "one-r1", "test", "two-r1"]
    assert {"one-r1.qcow2", "two-r1.qcow2", "run.json", "id_ed25519"} <= {path.name for path in host.run_dir().iterdir()}
    assert kept()
    assert busy("sweep")["changed"] is False


def test_a_run_that_stays_is_not_said_to_be_gone(busy: Modules, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = prepared_again(busy, host, monkeypatch)
    assert "one-r1" in host.domains()
    assert (answer["changed"], answer["actions"]) == (False, [])


def test_a_run_in_use_since_it_was_judged_an_orphan_stays(busy: Modules, host: Host, kept: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    busy("overlay", run=RUN, overlays=[{"name": "one-r1", "image": "tiny"}])
    host.age(host.run_dir() / "run.json", 1000)
    before_the_lock(monkeypatch, lambda: busy("overlay", run=RUN, overlays=[{"name": "one-r1", "image": "tiny"}]))
    busy("sweep")
    assert (host.run_dir() / "one-r1.qcow2").exists()
    assert kept()


def test_a_run_that_was_named_goes_though_it_was_taken_up(busy: Modules, host: Host, kept: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    make(busy, "one-r1", image="tiny")
    before_the_lock(monkeypatch, lambda: make(busy, "two-r1", image="tiny"))
    busy("sweep", runs=["r1"])
    assert sorted(host.domains()) == ["keep-r0", "test"]
    assert not host.run_dir().exists()
    assert kept()


def test_a_run_that_somebody_holds_for_ever_does_not_keep_the_others(
    busy: Modules, host: Host, kept: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run_id in ("r1", "r2"):
        make(busy, f"one-{run_id}", run_id=run_id)
        change_record(host, run_id, deadline="2026-01-01T12:00:00+00:00")
    monkeypatch.setattr(sweep._purge, "HOLD_PATIENCE", 0.06)
    with hold(RunPaths(host.state, "r1")):
        answer = busy.fail("sweep")
    assert "another process has held it" in answer["msg"]
    assert {result["name"]: bool(result["error"]) for result in answer["results"]} == {"r1": True, "r2": False}
    assert sorted(host.domains()) == ["keep-r0", "one-r1", "test"]
    assert kept()


def test_two_sweeps_at_once_do_not_disturb_each_other(busy: Modules, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    for run_id in ("r1", "r2"):
        make(busy, f"one-{run_id}", run_id=run_id)
        change_record(host, run_id, deadline="2026-01-01T12:00:00+00:00")
    locked = sweep._purge.locked

    def late(path: Path, *arguments: Any) -> Any:
        monkeypatch.setattr(sweep._purge, "locked", locked)
        busy("sweep", runs=[path.parent.name])
        return locked(path, *arguments)

    monkeypatch.setattr(sweep._purge, "locked", late)
    busy("sweep")
    assert sorted(host.domains()) == ["keep-r0", "test"]


def test_a_bad_run_id_among_good_ones_removes_nothing(busy: Modules, host: Host) -> None:
    make(busy, "one-r1")
    before = host.now(times=True)
    for check in (True, False):
        assert busy.fail("sweep", check=check, runs=["r1", "../r0"])["target"] == "../r0"
    assert host.now(times=True) == before
