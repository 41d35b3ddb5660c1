# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The watcher beside real guests: what it sees on a console and hears from libvirt, and that it goes with its run."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Host, Module, domain

from ansible_collections.mayfly.virt.plugins.module_utils._run import process_started

RUN = "test-watch"


@pytest.fixture
def run(module: Module, untouched: Callable[[], None]) -> Iterator[dict[str, Any]]:
    yield {"id": RUN, "owner": "test", "deadline": 600}
    module("domain", run={"id": RUN}, state="absent", clean_run=True)


def sighting(state: Path, seconds: float, **wanted: Any) -> dict[str, Any]:
    """Wait until the watcher has written an event with these values."""
    path = state / "runs" / RUN / "watch.jsonl"
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for line in path.read_text().splitlines():
            event = json.loads(line)
            if wanted.items() <= event.items():
                return dict(event)
        time.sleep(0.1)
    raise AssertionError(path.read_text())


def test_a_panic_is_seen_on_the_console_and_heard_from_libvirt(module: Module, run: dict[str, Any], tiny_state: Path) -> None:
    module("domain", run=run, domains=[domain(f"a-{RUN}", "tiny=panic"), domain(f"b-{RUN}")])
    begun = module("watch", run=RUN)
    assert [result["name"] for result in begun["results"]] == [f"a-{RUN}", f"b-{RUN}"]
    assert module("watch", run=RUN)["changed"] is False

    panic = sighting(tiny_state, 60, event="kernel", kind="panic")
    assert (panic["guest"], panic["fatal"], panic["stop"]) == (f"a-{RUN}", True, True)
    assert "sysrq triggered crash" in panic["text"]
    crash = sighting(tiny_state, 10, event="domain", what="crashed")
    assert (crash["guest"], crash["detail"]) == (f"a-{RUN}", "its kernel panicked")
    assert abs(crash["time"] - panic["time"]) < 5

    ended = module("watch", run=RUN, state="absent")
    assert (ended["changed"], ended["complete"]) == (True, True)
    assert {result["name"]: result["dead"] for result in ended["results"]} == {f"a-{RUN}": True, f"b-{RUN}": False}
    stamped = (tiny_state / "runs" / RUN / f"a-{RUN}.console.stamped.log").read_text().splitlines()
    assert any("Kernel panic - not syncing" in line and line.startswith("20") for line in stamped)


def test_a_guest_that_goes_and_a_watcher_that_is_killed(module: Module, run: dict[str, Any], host: Host, tiny_state: Path) -> None:
    module("domain", run=run, domains=[domain(f"a-{RUN}", "tiny=silent")])
    pid = module("watch", run=RUN)["pid"]
    host.libvirt.lookupByName(f"a-{RUN}").destroy()
    gone = sighting(tiny_state, 10, event="domain", what="stopped")
    assert (gone["detail"], gone["fatal"], gone["stop"]) == ("it was destroyed", False, True)
    os.kill(pid, signal.SIGKILL)
    assert module("watch", run=RUN, state="absent")["complete"] is False


def test_no_watcher_outlives_its_run(module: Module, run: dict[str, Any]) -> None:
    module("domain", run=run, domains=[domain(f"a-{RUN}", "tiny=silent")])
    pid = module("watch", run=RUN)["pid"]
    assert Path(f"/proc/{pid}/comm").read_text() == "mayfly-watch\n"
    assert module("sweep", runs=[RUN])["changed"] is True
    assert process_started(pid) is None
