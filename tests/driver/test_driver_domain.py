# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module domain: all or nothing, kept or refused, awaited, removed; and domain_info, which tells."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from driver_kit import MODULES, Host, Modules, Unclean, domain
from lxml import etree

from ansible_collections.mayfly.virt.plugins.module_utils import _accel, _domain_xml, _provision, _run
from ansible_collections.mayfly.virt.plugins.module_utils._accel import Proof
from ansible_collections.mayfly.virt.plugins.module_utils._domain_xml import SeenDomain
from ansible_collections.mayfly.virt.plugins.module_utils._libvirt import Hypervisor, Lease
from ansible_collections.mayfly.virt.plugins.module_utils._names import derive_mac
from ansible_collections.mayfly.virt.plugins.module_utils._run import RunPaths, hold
from ansible_collections.mayfly.virt.plugins.module_utils._tag import Tag

RUN = {"id": "r1", "owner": "jane", "job_url": "https://ci.example.org/1", "deadline": 3600}
XML = "<domain type='test'><memory unit='MiB'>64</memory><os><type>hvm</type></os>{}</domain>"
CARD = "<devices><interface type='network'>{}<source network='default'/></interface></devices>"
# Valid to us, refused by libvirt.
REFUSED = XML.format("<devices><disk type='file' device='disk'><target dev='nonsense' bus='nonsense'/></disk></devices>")


def of_xml(name: str, inner: str = "", **options: Any) -> dict[str, Any]:
    return {"name": name, "accel": "tcg", "xml": XML.format(inner), **options}


def make(run: Modules, *wanted: dict[str, Any], **params: Any) -> dict[str, Any]:
    return run("domain", run=RUN, domains=list(wanted), **params)


# -- making --------------------------------------------------------------------------------------------------------------


def test_a_guest_with_everything(run: Modules, host: Host) -> None:
    options = {
        "guest": "one",
        "role": "server",
        "image": "booting",
        "disk_gib": 2,
        "seed": {"user": "tester"},
        "vcpus": 2,
        "cmdline": "quiet",
        "interfaces": [{"network": "default", "isolated": True}, {"network": "default", "model": "e1000e"}],
    }
    (result,) = make(run, domain("one-r1", **options))["results"]
    assert {key: result[key] for key in ("name", "guest", "run", "image", "accel", "user", "stage", "message", "address")} == {
        "name": "one-r1",
        "guest": "one",
        "run": "r1",
        "image": "booting",
        "accel": "tcg",
        "user": "tester",
        "stage": "running",
        "message": "",
        "address": "",
    }
    assert result["mac"] == derive_mac("one-r1")
    assert result["uuid"] == host.domains()["one-r1"]
    assert list(result["seconds"]) == ["running"]
    assert result["console_log"] == str(host.run_dir() / "one-r1.console.log")
    document = etree.fromstring(host.xml("one-r1"))
    assert document.findtext("os/cmdline") == "root=LABEL=x sysrq_always_enabled watchdog_thresh=60 quiet"
    assert [node.get("file") for node in document.findall("devices/disk/source")] == [
        str(host.run_dir() / "one-r1.qcow2"),
        str(host.run_dir() / "one-r1.seed.iso"),
    ]
    assert document.find("devices/interface/port").get("isolated") == "yes"
    assert host.connection.lookupByName("one-r1").isPersistent() == 0


def test_libvirt_keeps_all_that_we_say(run: Modules, host: Host) -> None:
    """What the driver gives back is read as what was built: nothing that the modules emit is dropped on the way."""
    make(run, domain("one-r1", image="tiny", firmware="efi", seed={"user": "tester"}, role="server"))
    text = host.xml("one-r1")
    seen = _domain_xml.parse(text)
    assert (seen.name, seen.memory_mib, seen.vcpus) == ("one-r1", 64, 1)
    assert (seen.macs, seen.networks) == ((derive_mac("one-r1"),), ("default",))
    assert seen.console_log == str(host.run_dir() / "one-r1.console.log")
    assert (seen.tag.user, seen.tag.role, seen.tag.state_dir, len(seen.tag.spec)) == ("tester", "server", str(host.state), 32)
    document = etree.fromstring(text)
    for place in (
        *("features/vmcoreinfo", "devices/panic", "devices/rng/backend", "devices/channel/target", "devices/disk/backingStore/source"),
        *("os/nvram", "os/firmware/feature", "devices/serial/log", "devices/disk/readonly"),
    ):
        assert document.find(place) is not None, place
    assert [document.findtext(what) for what in ("on_poweroff", "on_reboot", "on_crash")] == ["destroy", "restart", "preserve"]
    assert document.find("devices/memballoon").get("model") == "none"


def test_the_run_and_its_files(run: Modules, host: Host) -> None:
    make(run, domain("one-r1", image="tiny"), domain("two-r1", image="tiny"))
    record = json.loads((host.run_dir() / "run.json").read_text())
    assert (record["id"], record["owner"], record["job_url"], record["owner_process"]) == ("r1", "jane", "https://ci.example.org/1", None)
    pins = (host.run_dir() / "known_hosts").read_text().splitlines()
    assert [pin.split()[0] for pin in pins] == ["one-r1", "two-r1"]
    for name in ("one-r1", "two-r1"):
        public = (host.run_dir() / "hostkeys" / f"{name}.pub").read_text().split()[:2]
        assert f"{name} {' '.join(public)}" in pins
        assert (host.run_dir() / f"{name}.seed.iso").stat().st_mode & 0o777 == 0o600
    assert host.run_dir().stat().st_mode & 0o777 == 0o711


def test_one_more_guest_for_an_open_run(run: Modules, host: Host) -> None:
    make(run, domain("one-r1"))
    record = (host.run_dir() / "run.json").read_text()
    before = host.domains()
    answer = make(run, domain("one-r1"), domain("two-r1"))
    assert answer["actions"] == ["create domain two-r1"]
    assert [result["changed"] for result in answer["results"]] == [False, True]
    assert host.domains().items() > before.items()
    assert (host.run_dir() / "run.json").read_text() == record


def test_a_later_prepare_of_another_owner_finds_the_same_guests(run: Modules, host: Host) -> None:
    make(run, domain("one-r1", image="tiny"))
    other = {**RUN, "owner": "joe", "job_url": "https://elsewhere.example.org", "deadline": 60}
    assert run("domain", run=other, domains=[domain("one-r1", image="tiny")])["changed"] is False


def test_a_guest_that_ended_is_made_anew(run: Modules, host: Host) -> None:
    make(run, domain("one-r1", image="tiny"))
    host.destroy("one-r1")
    answer = make(run, domain("one-r1", image="tiny"))
    assert answer["actions"] == ["update overlay one-r1 (left over without a domain)", "create domain one-r1"]
    assert "one-r1" in host.domains()


def test_no_guest_opens_the_run_all_the_same(run: Modules, host: Host) -> None:
    assert make(run)["actions"] == ["create run r1"]
    assert make(run)["changed"] is False


def change_record(host: Host, **fields: Any) -> None:
    record = host.run_dir() / "run.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), **fields}))


def recorded(host: Host) -> dict[str, Any]:
    return json.loads((host.run_dir() / "run.json").read_text())


OVER = {
    "booted since": ({"boot_id": "an earlier boot"}, "the host was booted since it was made"),
    "expired": ({"deadline": "2026-01-01T12:00:00+00:00"}, "its deadline 2026-01-01T12:00:00+00:00 has passed"),
    "owner gone": ({"owner_process": {"pid": 2**22 + 1, "started": 1}}, f"its owner process {2**22 + 1} is gone"),
}


@pytest.mark.parametrize(("over", "reason"), OVER.values(), ids=OVER)
def test_a_run_that_is_over_is_taken_up_with_a_new_deadline_and_owner(over: dict[str, Any], reason: str, run: Modules, host: Host) -> None:
    """Or sweep would remove the guests that a retried prepare has just made."""
    make(run, domain("old-r1", image="tiny"))
    first, key = recorded(host), (host.run_dir() / "id_ed25519").read_text()
    change_record(host, **over)
    before = host.now(times=True)
    wanted = {"run": {**RUN, "owner": "joe", "owner_pid": os.getpid()}, "domains": [domain("old-r1", image="tiny"), domain("new-r1")]}
    predicted = run("domain", check=True, **wanted)
    assert host.now(times=True) == before
    done = run("domain", **wanted)
    assert predicted["actions"] == done["actions"] == [f"update run r1 ({reason})", "create domain new-r1"]
    assert done["diff"][0]["after"] == "a new deadline\n"
    assert [result["changed"] for result in done["results"]] == [False, True]
    record = recorded(host)
    assert record["owner"] == "joe"
    assert record["owner_process"]["pid"] == os.getpid()
    assert record["boot_id"] == first["boot_id"]
    assert record["deadline"] >= first["deadline"]
    assert (host.run_dir() / "id_ed25519").read_text() == key
    tag = Tag.from_domain(etree.fromstring(host.xml("new-r1")))
    assert (tag.owner, tag.deadline >= first["deadline"]) == ("joe", True)
    assert run("sweep")["changed"] is False
    assert {"old-r1", "new-r1"} <= set(host.domains())
    assert run("domain", **wanted)["changed"] is False


@pytest.mark.parametrize(
    ("module", "params", "action"),
    [
        ("overlay", {"overlays": [{"name": "one-r1", "image": "tiny"}]}, "create overlay one-r1"),
        ("seed", {"seeds": [{"name": "one-r1"}]}, "create seed one-r1"),
    ],
)
@pytest.mark.parametrize(("over", "reason"), OVER.values(), ids=OVER)
def test_overlay_and_seed_take_a_run_up_too(
    over: dict[str, Any], reason: str, module: str, params: dict[str, Any], action: str, run: Modules, host: Host
) -> None:
    make(run)
    change_record(host, **over)
    before = host.now(times=True)
    predicted = run(module, check=True, run=RUN, **params)
    assert host.now(times=True) == before
    assert predicted["actions"] == run(module, run=RUN, **params)["actions"] == [f"update run r1 ({reason})", action]
    assert run("sweep")["changed"] is False
    assert run(module, run=RUN, **params)["changed"] is False


def test_a_run_cannot_be_taken_up_for_an_owner_that_is_gone(run: Modules, host: Host) -> None:
    make(run, domain("one-r1"))
    change_record(host, deadline="2026-01-01T12:00:00+00:00")
    before = host.now(times=True)
    for check in (True, False):
        answer = run.fail("domain", check=check, run={**RUN, "owner_pid": 2**22 + 1}, domains=[domain("one-r1"), domain("two-r1")])
        assert (answer["target"], answer["reason"]) == ("r1", f"its owner process {2**22 + 1} does not exist here")
    assert host.now(times=True) == before


@pytest.mark.parametrize(
    ("module", "params"),
    [("domain", {"domains": [domain("one-r1")]}), ("overlay", {"overlays": []}), ("seed", {"seeds": []})],
)
def test_a_run_in_use_grows_young_and_keeps_its_record(module: str, params: dict[str, Any], run: Modules, host: Host) -> None:
    """An orphan is judged by when it was last used."""
    make(run)
    record = (host.run_dir() / "run.json").read_text()
    host.age(host.run_dir() / "run.json", 1000)
    run(module, run={**RUN, "owner": "joe", "deadline": 60}, **params)
    assert (host.run_dir() / "run.json").read_text() == record
    assert time.time() - (host.run_dir() / "run.json").stat().st_mtime < 100


@pytest.mark.parametrize("wrong", [{"deadline": -1}, {"owner_pid": 2**22 + 1}])
@pytest.mark.parametrize(("module", "params"), [("overlay", {"overlays": []}), ("seed", {"seeds": []})])
def test_check_mode_refuses_a_run_that_cannot_be_opened(
    module: str, params: dict[str, Any], wrong: dict[str, int], run: Modules, host: Host
) -> None:
    said = {run.answer(module, check=check, run={**RUN, **wrong}, **params).get("msg") for check in (False, True)}
    assert len(said) == 1
    assert "r1" in said.pop()


# -- all or nothing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("position", [0, 1, 2])
def test_when_one_of_three_cannot_be_made_nothing_stays(position: int, run: Modules, host: Host) -> None:
    wanted = [domain("a-r1", image="tiny"), domain("b-r1")]
    wanted.insert(position, {"name": "x-r1", "accel": "tcg", "xml": REFUSED})
    (host.state / "runs").mkdir()
    before = host.now()
    answer = run.fail("domain", run=RUN, domains=wanted)
    assert answer["target"] == "x-r1"
    assert "nonsense" in answer["reason"] or "validate" in answer["reason"]
    assert "/var/log/libvirt/qemu" in answer["remedy"]
    assert host.now() == before


def test_an_open_run_and_its_guests_survive_the_failure_of_others(run: Modules, host: Host) -> None:
    make(run, domain("one-r1", image="tiny"))
    before = host.now()
    run.fail("domain", run=RUN, domains=[domain("one-r1", image="tiny"), domain("b-r1"), {"name": "x-r1", "accel": "tcg", "xml": REFUSED}])
    assert host.now() == before
    assert make(run, domain("one-r1", image="tiny"))["changed"] is False


def test_known_hosts_forgets_the_guests_that_were_taken_back(run: Modules, host: Host) -> None:
    make(run, domain("one-r1", image="tiny"))
    before = host.now()
    run.fail("domain", run=RUN, domains=[domain("b-r1", image="tiny"), {"name": "x-r1", "accel": "tcg", "xml": REFUSED}])
    assert host.domains() == before.domains
    assert (host.run_dir() / "known_hosts").read_text().split()[::3] == ["one-r1"]


def test_a_seed_that_cannot_be_made_takes_everything_with_it(
    run: Modules, host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "xorriso").write_text("#!/bin/sh\necho 'No space left on device' >&2\nexit 5\n")
    (tmp_path / "bin" / "xorriso").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin", prepend=":")
    (host.state / "runs").mkdir()
    before = host.now()
    answer = run.fail("domain", run=RUN, domains=[domain("b-r1"), domain("a-r1", image="tiny")])
    assert "No space left on device" in answer["reason"]
    assert answer["target"] == str(host.run_dir() / "a-r1.seed.iso")
    assert host.now() == before


@pytest.mark.parametrize("options", [{"memory_mib": 0}, {"memory_mib": -64}, {"vcpus": 0}, {"vcpus": -1}, {"machine": "a b"}])
def test_what_only_libvirt_can_refuse_leaves_nothing(options: dict[str, Any], run: Modules, host: Host) -> None:
    (host.state / "runs").mkdir()
    before = host.now()
    answer = run.fail("domain", run=RUN, domains=[domain("one-r1", image="tiny", **options)])
    assert answer["target"] == "one-r1"
    assert host.now() == before


@pytest.mark.parametrize(
    ("module", "params"),
    [("domain", {"domains": [domain("one-r1")]}), ("overlay", {"overlays": []}), ("seed", {"seeds": []})],
)
def test_a_run_directory_that_a_killed_sweep_left_is_not_used(module: str, params: dict[str, Any], run: Modules, host: Host) -> None:
    host.run_dir().mkdir(parents=True)
    (host.run_dir() / "one-r1.qcow2").write_text("left over")
    answer = run.fail(module, run=RUN, **params)
    assert answer["target"] == "r1"
    assert answer["remedy"]
    assert (host.run_dir() / "one-r1.qcow2").read_text() == "left over"
    assert list(host.domains()) == ["test"]


def meanwhile(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object], *, opened: bool = False) -> None:
    """Let something happen once, between the plan of the next prepare and its hold on the run: before it opens the run, or after."""
    open_run = _provision.open_run

    def overtaken(*arguments: Any) -> bool:
        monkeypatch.setattr(_provision, "open_run", open_run)
        made = open_run(*arguments) if opened else None
        happens()
        return open_run(*arguments) if made is None else made

    monkeypatch.setattr(_provision, "open_run", overtaken)


@pytest.mark.parametrize("opened", [False, True])
def test_a_prepare_that_was_overtaken_leaves_the_others_guest_alone(
    opened: bool, run: Modules, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    overlay = host.run_dir() / "one-r1.qcow2"
    before = []

    def another_prepare() -> None:
        make(run, domain("one-r1", image="tiny"))
        before.append((host.domains(), overlay.stat().st_ino, overlay.stat().st_mtime_ns))

    meanwhile(monkeypatch, another_prepare, opened=opened)
    (result,) = make(run, domain("one-r1", image="tiny"))["results"]
    assert (result["changed"], result["uuid"], result["stage"]) == (False, host.domains()["one-r1"], "running")
    assert [(host.domains(), overlay.stat().st_ino, overlay.stat().st_mtime_ns)] == before


def test_a_prepare_that_was_overtaken_by_another_wish_is_refused(run: Modules, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    meanwhile(monkeypatch, lambda: make(run, domain("one-r1", vcpus=2)))
    answer = run.fail("domain", run=RUN, domains=[domain("one-r1"), domain("two-r1")])
    assert "it runs already with other parameters" in answer["reason"]
    assert sorted(host.domains()) == ["one-r1", "test"]
    assert host.run_dir().exists()


def test_a_guest_that_ended_after_the_plan_is_made_anew(run: Modules, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    make(run, domain("one-r1", image="tiny"))
    meanwhile(monkeypatch, lambda: host.destroy("one-r1"))
    answer = make(run, domain("one-r1", image="tiny"))
    assert answer["actions"] == ["update overlay one-r1 (left over without a domain)", "create domain one-r1"]
    assert answer["results"][0]["uuid"] == host.domains()["one-r1"]


def test_a_prepare_that_fails_leaves_the_guests_of_one_that_was_faster(run: Modules, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    meanwhile(monkeypatch, lambda: make(run, domain("other-r1", image="tiny")), opened=True)
    run.fail("domain", run=RUN, domains=[{"name": "x-r1", "accel": "tcg", "xml": REFUSED}])
    assert "other-r1" in host.domains()
    assert (host.run_dir() / "other-r1.qcow2").exists()


def test_a_run_that_somebody_holds_for_ever_is_an_error(run: Modules, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    make(run, domain("one-r1"))
    before = host.now()
    monkeypatch.setattr(_run, "HOLD_PATIENCE", 0.06)
    with hold(RunPaths(host.state, "r1")):
        answers = [
            run.fail("domain", run=RUN, domains=[domain("two-r1")]),
            run.fail("overlay", run=RUN, overlays=[{"name": "two-r1", "image": "tiny"}]),
            run.fail("seed", run=RUN, seeds=[{"name": "two-r1"}]),
            run.fail("domain", run=RUN, domains=[{"name": "one-r1"}], state="absent"),
        ]
    for answer in answers:
        assert answer["target"] == str(host.run_dir() / "lock")
        assert "another process has held it for 0 s" in answer["reason"]
        assert "fuser" in answer["remedy"]
    assert host.now() == before


@pytest.mark.parametrize(
    ("module", "params"),
    [
        ("domain", {"domains": []}),
        ("overlay", {"overlays": [{"name": "one-r1"}], "state": "absent"}),
        ("seed", {"seeds": [{"name": "one-r1"}], "state": "absent"}),
    ],
)
def test_an_owner_that_is_gone_does_not_keep_its_run(module: str, params: dict[str, Any], run: Modules) -> None:
    make(run)
    assert run(module, run={**RUN, "owner_pid": 2**22 + 1}, **params)["changed"] is False


# -- kept or refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"memory_mib": 128}, "memory_mib 64 instead of 128"),
        ({"image": "booting"}, "image digest"),
        ({"accel": "kvm"}, "accel tcg instead of kvm"),
        ({"seed": {"user": "tester"}}, "user root instead of tester"),
        ({"role": "client"}, "instead of client"),
        ({"guest": "two"}, "guest one-r1 instead of two"),
        ({"interfaces": [{"network": "default", "mac": "52:54:00:00:00:01"}]}, "MAC addresses"),
        ({"interfaces": []}, "other options"),
        ({"vcpus": 2}, "other options"),
        ({"panic": False}, "other options"),
        ({"disk_gib": 2}, "other options"),
        ({"seed": {"user_data": {"timezone": "UTC"}}}, "other options"),
        ({"seed": {"authorized_keys": ["ssh-ed25519 AAAA joe"]}}, "other options"),
    ],
)
@pytest.mark.parametrize("check", [True, False])
def test_a_guest_in_use_is_never_changed(options: dict[str, Any], difference: str, check: bool, run: Modules, host: Host) -> None:
    wanted = domain("one-r1", image="tiny", disk_gib=1)
    make(run, wanted)
    before = host.now()
    answer = run.fail("domain", check=check, run=RUN, domains=[domain("two-r1"), {**wanted, **options}])
    assert answer["target"] == "one-r1"
    assert "it runs already with other parameters" in answer["reason"]
    assert difference in answer["reason"]
    assert "Remove it first" in answer["remedy"]
    assert host.now() == before


def test_a_guest_of_another_run_is_not_ours(run: Modules, host: Host) -> None:
    make(run, domain("one-r1"))
    before = host.now()
    for params in ({}, {"state": "absent"}):
        answer = run.fail("domain", run={"id": "r2"}, domains=[domain("one-r1")], **params)
        assert answer["target"] == "one-r1"
        assert "belongs to the run r1" in answer["reason"]
    assert host.now() == before


def test_a_guest_of_another_state_directory_is_neither_ours_nor_removed(run: Modules, host: Host, tmp_path: Path) -> None:
    make(run, domain("one-r1"))
    before = host.domains()
    for params in ({}, {"state": "absent"}):
        answer = run.fail("domain", state_dir=str(tmp_path / "other"), run=RUN, domains=[domain("one-r1")], **params)
        assert answer["target"] == "one-r1"
    assert not (tmp_path / "other").exists()
    answer = run.fail("domain", state_dir=str(tmp_path / "other"), run=RUN, state="absent", clean_run=True)
    assert f"one-r1 was made for it below {host.state}" in answer["reason"], "a cleanup that looks elsewhere must not call the run gone"
    assert run("sweep", state_dir=str(tmp_path / "other"), runs=["r1"])["changed"] is False
    assert host.domains() == before


# -- XML of one's own ----------------------------------------------------------------------------------------------------


def test_xml_of_ones_own_is_kept_and_tagged(run: Modules, host: Host) -> None:
    inner = "<title>mine</title>" + CARD.format("<mac address='52:54:00:00:00:01'/>")
    make(run, of_xml("one-r1", inner, guest="one"))
    document = etree.fromstring(host.xml("one-r1"))
    assert document.findtext("title") == "mine"
    assert Tag.from_domain(document).guest == "one"
    assert make(run, of_xml("one-r1", inner, guest="one"))["changed"] is False
    answer = run.fail("domain", run=RUN, domains=[of_xml("one-r1", inner.replace("mine", "yours"), guest="one")])
    assert "with other parameters" in answer["reason"]


def test_a_note_in_our_namespace_makes_no_domain_that_nobody_owns(run: Modules, host: Host) -> None:
    """libvirt keeps one element for each namespace."""
    note = "<metadata><m:note xmlns:m='urn:mayfly:virt:1'>x</m:note></metadata>"
    before = host.now(times=True)
    for check in (True, False):
        answer = run.fail("domain", check=check, run=RUN, domains=[of_xml("one-r1", note)])
        assert answer["target"] == "one-r1"
        assert "an element of urn:mayfly:virt:1" in answer["reason"]
    assert host.now(times=True) == before


def test_blanks_around_a_name_make_no_other_domain(run: Modules, host: Host) -> None:
    make(run, of_xml("one-r1", "<name> one-r1 </name>"))
    assert sorted(host.domains()) == ["one-r1", "test"]
    assert make(run, of_xml("one-r1", "<name> one-r1 </name>"))["changed"] is False


@pytest.mark.parametrize("mac", ["", "<mac address='52:54:00:AB:CD:EF'/>"], ids=["none given", "upper case"])
def test_the_card_of_a_users_domain_is_the_one_it_has(mac: str, run: Modules, host: Host) -> None:
    wanted = of_xml("one-r1", CARD.format(mac))
    (result,) = make(run, wanted)["results"]
    assert result["mac"] == etree.fromstring(host.xml("one-r1")).find("devices/interface/mac").get("address")
    assert (host.run_dir() / "one-r1.macs").read_text() == result["mac"]
    assert make(run, wanted)["results"][0]["mac"] == result["mac"]


def test_the_lease_of_a_users_domain_is_awaited_on_its_card(run: Modules, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def leases(self: Hypervisor, networks: object = None) -> list[Lease]:
        card = etree.fromstring(host.xml("one-r1")).find("devices/interface/mac").get("address")
        return [Lease("default", "virbr0", card.lower(), "192.168.122.7", "", 0)]

    monkeypatch.setattr(Hypervisor, "leases", leases)
    (result,) = make(run, of_xml("one-r1", CARD.format("<mac address='52:54:00:AB:CD:EF'/>")), wait="lease")["results"]
    assert (result["stage"], result["address"]) == ("lease", "192.168.122.7")


def test_a_users_card_without_address_is_no_traceback(run: Modules) -> None:
    answer = run.answer("domain", run=RUN, domains=[of_xml("one-r1", CARD.format("<mac/>"))])
    assert not answer.get("failed") or answer["remedy"]


@pytest.mark.parametrize("vcpu", ["two", "²", "-1"])
def test_a_users_number_of_processors_that_is_none_is_refused(vcpu: str, run: Modules, host: Host) -> None:
    before = host.now(times=True)
    for check in (True, False):
        answer = run.fail("domain", check=check, run=RUN, domains=[of_xml("one-r1", f"<vcpu>{vcpu}</vcpu>")])
        assert (answer["target"], answer["reason"]) == ("one-r1", f"<vcpu> is '{vcpu}'")
    assert host.now(times=True) == before


# -- waiting -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wait", "stage", "why"),
    [
        ("lease", "running", "no DHCP lease for"),
        ("ready", "running", "no DHCP lease for"),
    ],
)
def test_a_guest_that_does_not_become_ready_stays(wait: str, stage: str, why: str, run: Modules, host: Host) -> None:
    answer = run.fail("domain", run=RUN, domains=[domain("one-r1"), domain("two-r1")], wait=wait, wait_timeout=0)
    assert sorted(host.domains()) == ["one-r1", "test", "two-r1"]
    assert {result["stage"] for result in answer["results"]} <= {"none", stage}
    assert all("did not reach the stage" in result["message"] for result in answer["results"])
    assert answer["msg"] == "\n".join(result["message"] for result in answer["results"])
    assert answer["changed"] is True
    assert (host.run_dir() / "run.json").exists()


def test_a_guest_without_network_cannot_have_a_lease(run: Modules, host: Host) -> None:
    answer = run.fail("domain", run=RUN, domains=[domain("one-r1", interfaces=[])], wait="ssh")
    assert "it has no interface on a libvirt network" in answer["msg"]
    assert "one-r1" in host.domains()


def test_without_a_wait_nothing_is_looked_at(run: Modules, monkeypatch: pytest.MonkeyPatch) -> None:
    def look(*_arguments: object) -> None:
        raise AssertionError("nobody asked")

    monkeypatch.setattr(Hypervisor, "states", look)
    (result,) = make(run, domain("one-r1"), wait="none")["results"]
    assert (result["stage"], result["seconds"], result["message"]) == ("none", {}, "")


def test_a_console_is_shown_when_a_guest_does_not_come(run: Modules, tmp_path: Path) -> None:
    console = tmp_path / "console.log"
    console.write_text("[    1.0] Kernel panic - not syncing: no root\n")
    answer = run.fail("domain", run=RUN, domains=[domain("one-r1", console_log=str(console))], wait="ready")
    assert "its kernel panicked: Kernel panic - not syncing: no root" in answer["msg"]
    assert "  | [    1.0] Kernel panic - not syncing: no root" in answer["msg"]


# -- acceleration --------------------------------------------------------------------------------------------------------


@pytest.fixture
def proofs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """A device and a kernel that proves whatever is asked of it."""
    asked: list[str] = []
    (tmp_path / "kvm").write_text("")
    monkeypatch.setattr(_accel, "DEVICE", tmp_path / "kvm")

    def boot(kernel: Path, run_command: object) -> Proof:
        asked.append(kernel.name)
        return Proof("kvm", True, "a kernel booted under KVM", str(kernel))

    monkeypatch.setattr(_accel, "_boot", boot)
    return asked


def test_acceleration_is_proven_once_for_all_guests(run: Modules, host: Host, proofs: list[str]) -> None:
    results = make(run, domain("one-r1", accel="auto"), domain("two-r1", accel="auto"), domain("three-r1"))["results"]
    assert [result["accel"] for result in results] == ["kvm", "kvm", "tcg"]
    assert make(run, domain("one-r1", accel="auto"))["changed"] is False
    assert len(proofs) == 1
    assert proofs[0].endswith(".vmlinuz")


def test_what_is_not_proven_is_warned_of(run: Modules, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_accel, "prove", lambda *_arguments, **_options: Proof("tcg", False, "there is no kernel"))
    with pytest.raises(Unclean, match="Guests are emulated: there is no kernel"):
        make(run, domain("one-r1", accel="auto"))


def test_check_mode_proves_nothing_and_writes_nothing(run: Modules, host: Host, proofs: list[str]) -> None:
    before = host.now(times=True)
    with pytest.raises(Unclean, match="KVM was not proven on this boot of the host yet"):
        run("domain", check=True, run=RUN, domains=[domain("one-r1", accel="auto")])
    assert proofs == []
    assert host.now(times=True) == before


def test_check_mode_knows_what_was_proven(run: Modules, host: Host, proofs: list[str]) -> None:
    make(run, domain("one-r1", accel="auto"))
    before = host.now(times=True)
    answer = run("domain", check=True, run=RUN, domains=[domain("one-r1", accel="auto"), domain("two-r1", accel="auto")])
    assert [(result["changed"], result["accel"]) for result in answer["results"]] == [(False, "kvm"), (True, "kvm")]
    assert len(proofs) == 1
    assert host.now(times=True) == before


def test_check_mode_keeps_a_guest_though_an_image_came_since(run: Modules, host: Host, proofs: list[str], tmp_path: Path) -> None:
    make(run, domain("one-r1", accel="auto"))
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "disk", "3M"], check=True, timeout=30)
    run("image", images=[{"name": "new", "source": str(tmp_path / "disk"), "kernel": "/proc/version"}])
    run("image", images=[{"name": "booting"}], state="absent")  # its kernel was the one that was asked
    assert run("domain", check=True, run=RUN, domains=[domain("one-r1", accel="auto")])["changed"] is False
    assert make(run, domain("one-r1", accel="auto"))["changed"] is False


# -- removing ------------------------------------------------------------------------------------------------------------


def test_absent_removes_one_guest_with_all_its_files(run: Modules, host: Host) -> None:
    make(run, domain("one-r1", image="tiny"), domain("two-r1", image="tiny"))
    for name in ("one-r1.console.log", "one-r1.console.log.0", "two-r1.console.log"):
        (host.run_dir() / name).write_text("output")
    answer = run("domain", run=RUN, domains=[{"name": "one-r1"}], state="absent")
    assert answer["actions"] == ["remove domain one-r1"]
    assert sorted(host.domains()) == ["test", "two-r1"]
    left = [name for name in host.tree() if "one-r1" in name]
    assert left == []
    assert (host.run_dir() / "two-r1.qcow2").exists()
    assert (host.run_dir() / "two-r1.console.log").read_text() == "output"
    assert "one-r1.qcow2" in answer["diff"][0]["before"]


def test_absent_forgets_the_guests_key(run: Modules, host: Host) -> None:
    make(run, domain("one-r1", image="tiny"))
    run("domain", run=RUN, domains=[{"name": "one-r1"}], state="absent")
    assert (host.run_dir() / "known_hosts").read_text() == ""


def test_absent_keeps_the_keys_of_the_others(run: Modules, host: Host) -> None:
    make(run, domain("one-r1", image="tiny"), domain("two-r1", image="tiny"))
    run("domain", run=RUN, domains=[{"name": "one-r1"}], state="absent")
    assert (host.run_dir() / "known_hosts").read_text().split()[::3] == ["two-r1"]


def test_absent_removes_a_guest_whose_run_directory_is_gone(run: Modules, host: Host) -> None:
    make(run, domain("one-r1"))
    shutil.rmtree(host.run_dir())
    assert run("domain", run=RUN, domains=[{"name": "one-r1"}], state="absent")["actions"] == ["remove domain one-r1"]
    assert list(host.domains()) == ["test"]
    assert not host.run_dir().exists()


def test_absent_removes_files_left_without_a_domain(run: Modules, host: Host) -> None:
    make(run, domain("one-r1", image="tiny"))
    host.destroy("one-r1")
    assert run("domain", run=RUN, domains=[{"name": "one-r1"}], state="absent")["changed"] is True
    assert not (host.run_dir() / "one-r1.qcow2").exists()


def test_cleaning_a_run_removes_it_whole_and_nothing_else(run: Modules, host: Host) -> None:
    before = host.now()
    make(run, domain("one-r1", image="tiny"), domain("two-r1"))
    run("domain", run={"id": "r2"}, domains=[domain("one-r2")])
    (host.run_dir() / "extra").mkdir()
    answer = run("domain", run=RUN, state="absent", clean_run=True)
    assert sorted(answer["actions"]) == ["remove domain one-r1", "remove domain two-r1", "remove run directory r1"]
    assert answer["actions"][-1] == "remove run directory r1"
    assert sorted(host.domains()) == ["one-r2", "test"]
    assert not host.run_dir().exists()
    assert host.run_dir("r2").exists()
    run("domain", run={"id": "r2"}, state="absent", clean_run=True)
    assert host.domains() == before.domains
    assert {name: what for name, what in host.tree().items() if name != "state/runs"} == before.tree


def test_cleaning_a_run_whose_directory_is_gone(run: Modules, host: Host) -> None:
    make(run, domain("one-r1"))
    shutil.rmtree(host.run_dir())
    assert run("domain", run=RUN, state="absent", clean_run=True)["actions"] == ["remove domain one-r1"]
    assert list(host.domains()) == ["test"]


def test_two_that_clean_the_same_run_at_once(run: Modules, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A domain that goes between the look and its end is no error."""
    make(run, domain("one-r1", image="tiny"))
    destroy = Hypervisor.destroy

    def the_other_was_faster(self: Hypervisor, name: str, uuid: str) -> bool:
        assert destroy(self, name, uuid)
        return destroy(self, name, uuid)

    monkeypatch.setattr(Hypervisor, "destroy", the_other_was_faster)
    assert run("domain", run=RUN, state="absent", clean_run=True)["changed"] is True
    assert list(host.domains()) == ["test"]


def test_a_namesake_made_meanwhile_is_not_destroyed(run: Modules, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    make(run, domain("one-r1"))
    domains = Hypervisor.domains

    def then_another_takes_the_name(self: Hypervisor) -> list[SeenDomain]:
        found = domains(self)
        host.destroy("one-r1")
        host.create(XML.format("<name>one-r1</name>"))
        return found

    monkeypatch.setattr(Hypervisor, "domains", then_another_takes_the_name)
    run("domain", run=RUN, domains=[{"name": "one-r1"}], state="absent")
    assert "one-r1" in host.domains()


# -- domain_info ---------------------------------------------------------------------------------------------------------


def test_domain_info_tells_of_our_domains_only(run: Modules, host: Host) -> None:
    assert run("domain_info")["results"] == []
    make(run, domain("two-r1"), domain("one-r1", image="tiny", guest="one"))
    run("domain", run={"id": "r2"}, domains=[domain("one-r2")])
    before = host.now(times=True)
    answers = [run("domain_info", check=check) for check in (True, False)]
    assert answers[0] == answers[1]
    assert host.now(times=True) == before
    assert answers[0]["changed"] is False
    assert [result["name"] for result in answers[0]["results"]] == ["one-r1", "one-r2", "two-r1"]
    told = answers[0]["results"][0]
    assert {key: told[key] for key in ("uuid", "state", "guest", "run", "owner", "image", "accel", "macs", "addresses", "memory_mib")} == {
        "uuid": host.domains()["one-r1"],
        "state": "running",
        "guest": "one",
        "run": "r1",
        "owner": "jane",
        "image": "tiny",
        "accel": "tcg",
        "macs": [derive_mac("one-r1")],
        "addresses": [],
        "memory_mib": 64,
    }
    assert "xml" not in told


@pytest.mark.parametrize(
    ("params", "names"),
    [
        ({"run": "r1"}, ["one-r1", "two-r1"]),
        ({"run": "r3"}, []),
        ({"names": ["two-r1", "one-r2", "nobody", "test"]}, ["one-r2", "two-r1"]),
        ({"names": []}, []),
        ({"run": "r1", "names": ["one-r1", "one-r2"]}, ["one-r1"]),
    ],
)
def test_domain_info_tells_of_what_was_asked(params: dict[str, Any], names: list[str], run: Modules) -> None:
    make(run, domain("one-r1"), domain("two-r1"))
    run("domain", run={"id": "r2"}, domains=[domain("one-r2")])
    assert [result["name"] for result in run("domain_info", **params)["results"]] == names


def test_domain_info_gives_libvirts_xml(run: Modules, host: Host) -> None:
    make(run, domain("one-r1"))
    (result,) = run("domain_info", xml=True)["results"]
    assert result["xml"] == host.xml("one-r1")


def test_domain_info_knows_other_states(run: Modules, host: Host) -> None:
    make(run, domain("one-r1"))
    host.connection.lookupByName("one-r1").suspend()
    (result,) = run("domain_info")["results"]
    assert result["state"] == "paused"
    answer = run.fail("domain", run=RUN, domains=[domain("one-r1")], wait_timeout=0)
    assert "the domain is not running" in answer["msg"]


def test_a_domain_that_goes_while_it_is_told_of(run: Modules, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    make(run, domain("one-r1"))
    monkeypatch.setattr(Hypervisor, "states", lambda self: {})
    (result,) = run("domain_info")["results"]
    assert result["state"] == "gone"


def test_a_domain_that_goes_before_its_xml_is_read(run: Modules, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    make(run, domain("one-r1"), domain("two-r1"))
    states = Hypervisor.states

    def then_it_goes(self: Hypervisor) -> dict[str, str]:
        found = states(self)
        host.destroy("one-r1")
        return found

    monkeypatch.setattr(Hypervisor, "states", then_it_goes)
    gone, there = run("domain_info", xml=True)["results"]
    assert (gone["name"], gone["xml"]) == ("one-r1", "")
    assert (there["name"], there["xml"]) == ("two-r1", host.xml("two-r1"))


def test_guests_are_made_in_threads_of_one_connection(run: Modules, monkeypatch: pytest.MonkeyPatch) -> None:
    makers = set()
    create = Hypervisor.create
    together = threading.Barrier(4)

    def watched(self: Hypervisor, name: str, xml: str) -> SeenDomain:
        together.wait(5)
        makers.add(threading.get_ident())
        return create(self, name, xml)

    monkeypatch.setattr(Hypervisor, "create", watched)
    assert len(make(run, *(domain(f"{letter}-r1") for letter in "abcd"))["results"]) == 4
    assert len(makers) == 4
    assert importlib.import_module(f"{MODULES}.domain").__name__.endswith(".domain")
