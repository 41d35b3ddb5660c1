# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module watch, and libvirt's own events, on libvirt's test driver. Its domains live in one process, so the watcher, which is another,
finds none of them: what it sees of real ones is tested in tests/integration/host."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
from pathlib import Path
from typing import Any

import pytest
from driver_kit import URI, Host, Modules, domain

from ansible_collections.mayfly.virt.plugins.module_utils._libvirt import Events, Happening
from ansible_collections.mayfly.virt.plugins.module_utils._run import process_started


@pytest.fixture
def made(run: Modules) -> Modules:
    run("domain", run={"id": "r1"}, domains=[domain()])
    return run


def test_libvirt_tells_of_a_domain_that_goes(host: Host, made: Modules) -> None:
    happenings: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with contextlib.closing(Events(URI, happenings)) as events:
        uuid = host.domains()["one-r1"]
        assert events.alive()
        assert events.states()[uuid] == "running"
        host.destroy("one-r1")
        assert happenings.get(timeout=5) == Happening(uuid, "stopped", "it was destroyed")


def test_a_watch_from_beginning_to_end(host: Host, made: Modules) -> None:
    predicted = made("watch", run="r1", check=True)
    assert predicted["actions"] == ["create watcher r1"]
    assert not list(host.run_dir().glob("watch*")), "check mode started something"

    begun = made("watch", run="r1")
    assert (begun["changed"], begun["actions"]) == (True, predicted["actions"])
    assert [result["name"] for result in begun["results"]] == ["one-r1"]
    assert Path(f"/proc/{begun['pid']}/comm").read_text() == "mayfly-watch\n"
    again = made("watch", run="r1")
    assert (again["changed"], again["pid"]) == (False, begun["pid"])

    assert made("watch", run="r1", state="absent", check=True)["actions"] == ["remove watcher r1"]
    assert process_started(begun["pid"]) is not None
    ended = made("watch", run="r1", state="absent")
    assert (ended["changed"], ended["complete"]) == (True, True)
    assert process_started(begun["pid"]) is None
    assert made("watch", run="r1", state="absent")["changed"] is False


def test_a_watch_that_has_ended_begins_again_as_it_was(host: Host, made: Modules) -> None:
    """Suites are run once more after their evidence was collected, by a playbook that knows the job file no more."""
    made("watch", run="r1", stop_on="trouble")
    made("watch", run="r1", state="absent")
    again = made("watch", run="r1")
    assert (again["changed"], again["actions"]) == (True, ["create watcher r1"])
    made("watch", run="r1", state="absent")
    events = [json.loads(line) for line in (host.run_dir() / "watch.jsonl").read_text().splitlines()]
    assert [event["stop_on"] for event in events if event["event"] == "watch_start"] == ["trouble", "trouble"]
    assert [event["event"] for event in events].count("watch_end") == 2


def test_a_watcher_that_was_killed_is_told_and_replaced(made: Modules) -> None:
    pid = made("watch", run="r1")["pid"]
    handle = os.pidfd_open(pid)
    signal.pidfd_send_signal(handle, signal.SIGKILL)
    os.close(handle)
    ended = made("watch", run="r1", state="absent")
    assert ended["complete"] is False
    assert made("watch", run="r1")["pid"] != pid
    assert made("watch", run="r1", state="absent")["complete"] is True


def test_no_watcher_outlives_its_run(host: Host, made: Modules) -> None:
    pid = made("watch", run="r1")["pid"]
    made("domain", run={"id": "r1"}, state="absent", clean_run=True)
    assert process_started(pid) is None
    assert not host.run_dir().exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"run": "r2"}, "Could not watch run 'r2': it has no running guest."),
        ({"run": "../r1"}, "'../r1'"),
        ({"run": "r1", "allow": [{"pattern": ".*", "reason": "x", "expires": "2026-12-31"}]}, "matches anything"),
        ({"run": "r1", "allow": [{"pattern": "x", "reason": "x", "expires": "never"}]}, "Give a regular expression, and a day"),
    ],
)
def test_what_cannot_be_watched_is_refused(host: Host, made: Modules, options: dict[str, Any], words: str) -> None:
    before = host.tree()
    assert words in made.fail("watch", **options)["msg"]
    assert host.tree() == before


def test_a_watch_of_guests_that_are_only_predicted_is_predicted(host: Host, run: Modules) -> None:
    assert run("watch", run="r2", check=True)["actions"] == ["create watcher r2"]
    assert not host.run_dir("r2").exists()


def test_a_record_that_was_tampered_with_does_not_keep_the_run(host: Host, made: Modules) -> None:
    (host.run_dir() / "watch.json").write_text(json.dumps({"pid": "all"}))
    made("domain", run={"id": "r1"}, state="absent", clean_run=True)
    assert not host.run_dir().exists()
