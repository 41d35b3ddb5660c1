# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The watcher of a run: consoles that grow, rotate and break off, a libvirt that goes away, and how the process ends."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.mayfly.virt.plugins.module_utils import _run, _watch
from ansible_collections.mayfly.virt.plugins.module_utils._console import in_force, read_allowances
from ansible_collections.mayfly.virt.plugins.module_utils._errors import MayflyError
from ansible_collections.mayfly.virt.plugins.module_utils._libvirt import Happening
from ansible_collections.mayfly.virt.plugins.module_utils._scrub import job_patterns
from ansible_collections.mayfly.virt.plugins.module_utils._watch_log import read_event
from ansible_collections.mayfly.virt.plugins.plugin_utils._sightings import Sightings, told

RUN = "run-1"
ONE = _watch.Watched("bookworm", "bookworm-run-1", "11111111-1111-1111-1111-111111111111")
WARNING = b"[    1.000000] WARNING: CPU: 0 PID: 1 at kernel/a.c:1 f+0x1/0x2\n[    1.000100] ---[ end trace 0 ]---\n"
PANIC = b"[    2.000000] Kernel panic - not syncing: Fatal exception\n"


class Libvirt:
    """A double of Events: a daemon that can be restarted. The real one is listened to in tests/driver and tests/integration/host."""

    def __init__(self) -> None:
        self.up = True
        self.seen = {ONE.uuid: "running"}
        self.connections = 0
        self.queue: Any = None

    def listen(self, happenings: Any) -> Any:
        if not self.up:
            raise MayflyError("connect to libvirt at", "qemu:///system", "refused")
        self.connections += 1
        self.queue = happenings
        return self

    def alive(self) -> bool:
        return self.up

    def states(self) -> dict[str, str]:
        return self.seen


class Watch:
    """A run directory with one console, and a watcher that runs in a thread of this process."""

    def __init__(self, state_dir: Path) -> None:
        run = _run.RunPaths(state_dir, RUN)
        run.dir.mkdir(parents=True)
        self.paths = _watch.WatchPaths(run)
        self.console = run.console(ONE.domain)
        self.libvirt = Libvirt()
        self.write_run(3600)
        self.watcher: _watch.Watcher | None = None
        self.thread: threading.Thread | None = None

    def write_run(self, seconds: float) -> None:
        now = _run.utc_now()
        deadline = (now + datetime.timedelta(seconds=seconds)).isoformat()
        _run._write_record(self.paths.run.record, _run.Run(RUN, now.isoformat(), deadline, _run.boot_id()))

    def make(self, stop_on: str = "panic", allow: list[dict[str, str]] | None = None, secrets: tuple[str, ...] = ()) -> _watch.Watcher:
        allowances = in_force(read_allowances(allow or []), datetime.date(2026, 11, 21))
        return _watch.Watcher(self.paths, [ONE], stop_on, allowances, self.libvirt.listen, job_patterns(secrets))

    def begin(self, **options: Any) -> None:
        self.watcher = self.make(**options)
        self.watcher.begin()
        self.thread = threading.Thread(target=self.watcher.run, daemon=True)
        self.thread.start()

    def say(self, text: bytes) -> None:
        with self.console.open("ab") as file:
            file.write(text)

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.paths.events.read_text().splitlines()]

    def until(self, found: Callable[[dict[str, Any]], bool], seconds: float = 5) -> dict[str, Any]:
        """Wait for an event."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for event in self.events():
                if found(event):
                    return event
            time.sleep(0.02)
        raise AssertionError(self.events())

    def end(self) -> list[dict[str, Any]]:
        assert self.watcher is not None
        assert self.thread is not None
        self.watcher.end()
        self.thread.join(5)
        assert not self.thread.is_alive()
        return self.events()


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Watch]:
    watch = Watch(tmp_path)
    yield watch
    if watch.thread is not None and watch.thread.is_alive():
        watch.end()


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["event"] for event in events]


def test_a_quiet_console(watch: Watch) -> None:
    watch.say(b"[    0.000000] Linux version 6.1\nlogin: ")
    watch.begin()
    events = watch.end()
    assert kinds(events) == ["watch_start", "watch_end"]
    assert events[1]["guests"] == {"bookworm": {"bytes": 40, "lines": 2}}
    assert events[1]["told"] is True
    (first, second) = watch.paths.stamped(ONE.domain).read_text().splitlines()
    assert first.endswith("Z  [    0.000000] Linux version 6.1")
    assert second.endswith("Z  login: ")


def test_a_panic_is_told_at_once_and_ends_the_suites(watch: Watch) -> None:
    watch.begin()
    watch.say(b"[    1.000000] all is well\n")
    began = time.monotonic()
    watch.say(PANIC)
    event = watch.until(lambda event: event["event"] == "kernel")
    assert time.monotonic() - began < 2
    assert (event["guest"], event["kind"], event["fatal"], event["stop"], event["line"]) == ("bookworm", "panic", True, True, 2)


@pytest.mark.parametrize(
    ("stop_on", "allow", "stop", "allowed"),
    [
        ("panic", [], False, None),
        ("trouble", [], True, None),
        ("never", [], False, None),
        ("trouble", [{"pattern": "kernel/a.c", "reason": "known", "expires": "2026-11-21"}], False, "known"),
        ("trouble", [{"pattern": "kernel/a.c", "reason": "known", "expires": "2026-11-20"}], True, None),
    ],
)
def test_what_ends_the_suites(watch: Watch, stop_on: str, allow: list[dict[str, str]], stop: bool, allowed: str | None) -> None:
    watch.say(WARNING)
    watch.begin(stop_on=stop_on, allow=allow)
    event = watch.until(lambda event: event["event"] == "kernel")
    assert (event["stop"], event["allowed"], event["fatal"]) == (stop, allowed, False)


def test_secrets_stay_out_of_what_is_told_and_hide_no_complaint(watch: Watch) -> None:
    watch.begin(stop_on="trouble", secrets=("BUG: ", "of_the_job", "bookworm", "kernel"))
    watch.say(b"[    1.000000] BUG: token=hunter2 of_the_job\n[    1.000100] Call Trace:\n[    1.000200]  of_the_job+0x1/0x2\n")
    event = watch.until(lambda event: event["event"] == "kernel")
    assert event["text"] == "[    1.000000] [scrubbed: job secret] token=[scrubbed: password] [scrubbed: job secret]"
    assert event["frames"] == ["[scrubbed: job secret]"]
    assert (event["guest"], event["kind"], event["stop"]) == ("bookworm", "bug", True)
    assert [read_event(json.dumps(event))["event"] for event in watch.end()] == ["watch_start", "kernel", "watch_end"]


def test_a_splat_is_told_once_it_is_whole(watch: Watch) -> None:
    watch.begin()
    watch.say(b"[    1.000000] BUG: sleeping function called from invalid context at a.c:1\n[    1.000100] Call Trace:\n")
    watch.say(b"[    1.000200]  bpf_check+0x1/0x2\n")
    assert watch.until(lambda event: event["event"] == "kernel")["frames"] == ["bpf_check"]


def test_a_line_that_is_not_ended_is_read_at_the_end(watch: Watch) -> None:
    watch.begin()
    watch.say(PANIC.rstrip(b"\n"))
    assert kinds(watch.end()) == ["watch_start", "kernel", "watch_end"]


def test_a_console_is_followed_through_its_rotation(watch: Watch) -> None:
    watch.say(b"first\n")
    watch.begin()
    watch.say(b"second\n")
    os.rename(watch.console, f"{watch.console}.0")
    with Path(f"{watch.console}.0").open("ab") as old:
        old.write(WARNING)  # what virtlogd wrote last
    watch.say(PANIC)
    events = watch.end()
    assert [event["kind"] for event in events if event["event"] == "kernel"] == ["warning", "panic"]
    assert events[-1]["guests"]["bookworm"]["lines"] == 5
    assert "error" not in kinds(events)


def test_a_console_that_was_not_read_whole_is_an_error(watch: Watch) -> None:
    watch.say(b"first\n")
    watch.begin()
    os.rename(watch.console, f"{watch.console}.1")
    Path(f"{watch.console}.0").write_bytes(PANIC)  # nobody will read it
    watch.say(b"third\n")
    events = watch.end()
    (error,) = [event for event in events if event["event"] == "error"]
    assert "was rotated faster than it could be read" in error["error"]


def test_long_lines_and_endless_output_cost_no_memory(watch: Watch) -> None:
    watch.begin()
    watch.say(b"x" * 3_000_000 + b"\n" + PANIC)
    event = watch.until(lambda event: event["event"] == "kernel")
    assert event["line"] == 2
    watch.end()
    assert max(len(line) for line in watch.paths.stamped(ONE.domain).read_text().splitlines()) < 5000


def test_the_stamped_console_has_an_end(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_watch, "STAMPED_LIMIT", 1000)
    watch.say(b"0123456789" * 4 + b"\n" + b"0123456789\n" * 100)
    watch.begin()
    watch.end()
    lines = watch.paths.stamped(ONE.domain).read_text().splitlines()
    assert lines[-1].startswith("[mayfly: cut here")
    assert len(lines) < 40


@pytest.mark.parametrize(
    ("what", "fatal", "stop"),
    [("crashed", True, True), ("stopped", False, True), ("watchdog", False, True), ("io_error", False, True), ("rebooted", False, False)],
)
def test_what_libvirt_tells(watch: Watch, what: str, fatal: bool, stop: bool) -> None:
    watch.begin()
    watch.libvirt.queue.put(Happening("22222222-2222-2222-2222-222222222222", what, "of another run"))
    watch.libvirt.queue.put(Happening(ONE.uuid, what, "because"))
    event = watch.until(lambda event: event["event"] == "domain")
    assert (event["guest"], event["what"], event["detail"], event["fatal"], event["stop"]) == ("bookworm", what, "because", fatal, stop)
    assert kinds(watch.end()).count("domain") == 1


def test_what_libvirt_tells_does_not_wait_for_the_next_look(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_watch, "INTERVAL", 60.0)
    watch.begin()
    watch.libvirt.queue.put(Happening(ONE.uuid, "crashed", "because"))
    watch.until(lambda event: event["event"] == "domain")


@pytest.mark.parametrize(("state", "what"), [("crashed", "crashed"), ("shut off", "stopped"), (None, "stopped")])
def test_what_happened_before_the_watch(watch: Watch, state: str | None, what: str) -> None:
    watch.libvirt.seen = {} if state is None else {ONE.uuid: state}
    watch.begin()
    assert [event["what"] for event in watch.end() if event["event"] == "domain"] == [what]


def test_libvirt_may_be_restarted(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_watch, "OVERSEE", 0.0)
    watch.begin()
    watch.libvirt.up = False
    watch.until(lambda event: "was lost" in event.get("text", ""))
    watch.libvirt.seen = {ONE.uuid: "crashed"}
    watch.libvirt.up = True
    watch.until(lambda event: event.get("what") == "crashed")
    assert watch.libvirt.connections == 2
    assert kinds(watch.end())[-1] == "watch_end"


def test_a_watcher_without_libvirt_is_blind_after_a_while(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_watch, "OVERSEE", 0.0)
    monkeypatch.setattr(_watch, "RECONNECT", 0.3)
    watch.watcher = watch.make()
    watch.watcher.begin()
    watch.libvirt.up = False
    with pytest.raises(MayflyError, match="refused"):
        watch.watcher.run()
    events = watch.events()
    assert "the watcher failed: MayflyError" in events[-1]["error"]
    assert "watch_end" not in kinds(events)


@pytest.mark.parametrize("over", ["removed", "deadline"])
def test_the_watch_ends_with_its_run(watch: Watch, monkeypatch: pytest.MonkeyPatch, over: str) -> None:
    monkeypatch.setattr(_watch, "OVERSEE", 0.0)
    watch.begin()
    if over == "removed":
        watch.paths.run.record.unlink()
    else:
        watch.write_run(0)
    assert watch.until(lambda event: event["event"] == "watch_end")["told"] is False


def test_what_happens_to_others_does_not_keep_it_from_looking(watch: Watch) -> None:
    """A busy hypervisor tells of many domains, more often than the consoles are looked at."""
    watch.begin()
    over = threading.Event()

    def chatter() -> None:
        while not over.wait(_watch.INTERVAL / 10):
            watch.libvirt.queue.put(Happening("22222222-2222-2222-2222-222222222222", "stopped", "of another run"))

    thread = threading.Thread(target=chatter)
    thread.start()
    try:
        watch.say(PANIC)
        watch.until(lambda event: event["event"] == "kernel")
    finally:
        over.set()
        thread.join()


# --- the process --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def daemon(watch: Watch) -> Iterator[_watch.Process]:
    pid = _watch.start(watch.paths, [ONE], watch.make)
    process = _watch.read_process(watch.paths)
    try:
        assert process is not None
        assert process.pid == pid
        yield process
    finally:
        if process is not None and process.alive():
            os.kill(process.pid, signal.SIGKILL)


def test_a_watcher_in_the_background(watch: Watch) -> None:
    with daemon(watch) as process:
        assert process.alive()
        assert process.pid != os.getpid()
        assert Path(f"/proc/{process.pid}/comm").read_text() == "mayfly-watch\n"
        assert os.getsid(process.pid) != os.getsid(0)
        watch.say(PANIC)
        watch.until(lambda event: event["event"] == "kernel")
        _watch.stop(process)
        assert not process.alive()
    assert kinds(_watch.read_events(watch.paths)) == ["watch_start", "kernel", "watch_end"]


def test_it_holds_nothing_of_whoever_started_it(watch: Watch) -> None:
    """A module whose output stays open would keep its task waiting as long as the watch goes on."""
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    with daemon(watch) as process:
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            assert pipe.read() == b""  # comes to its end although the watcher lives
        assert process.alive()


def test_a_watcher_that_is_killed_leaves_no_end(watch: Watch) -> None:
    with daemon(watch) as process:
        handle = os.pidfd_open(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        with os.fdopen(handle):
            _watch.stop(process)
    assert kinds(_watch.read_events(watch.paths)) == ["watch_start"]


def test_a_watcher_that_cannot_begin_says_why(watch: Watch) -> None:
    watch.libvirt.up = False
    with pytest.raises(MayflyError, match=r"Could not start watcher of run 'run-1': .*refused.* Look at .*watch\.log"):
        _watch.start(watch.paths, [ONE], watch.make)
    assert _watch.read_process(watch.paths) is None
    assert "refused" in watch.paths.log.read_text()


def test_a_record_of_another_process_is_not_its(watch: Watch) -> None:
    """The number of a watcher that is gone may be another's by now: it is not signalled."""
    innocent = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        _watch.stop(_watch.Process(innocent.pid, 1, (ONE.uuid,)))
        assert innocent.poll() is None
    finally:
        innocent.kill()
        innocent.wait()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x"}', "null"])
def test_a_torn_record_is_an_error(watch: Watch, text: str) -> None:
    watch.paths.record.write_text(text)
    with pytest.raises(MayflyError, match="not a watcher's record"):
        _watch.read_process(watch.paths)


# --- on the controller --------------------------------------------------------------------------------------------------


def test_sightings_of_one_guest(watch: Watch) -> None:
    with contextlib.closing(Sightings(str(watch.paths.events), "", "bookworm")) as nothing:
        assert nothing.end() is None  # there is no watcher
    watch.say(WARNING)
    watch.begin()
    watch.until(lambda event: event["event"] == "kernel")
    with (
        contextlib.closing(Sightings(str(watch.paths.events), "", "bookworm")) as ours,
        contextlib.closing(Sightings(str(watch.paths.events), "", "trixie")) as other,
    ):
        assert ours.end() is None
        watch.say(PANIC)
        watch.until(lambda event: event.get("fatal"))
        end = ours.end()
        assert end is not None
        assert told(end) == "its kernel died: [    2.000000] Kernel panic - not syncing: Fatal exception"
        assert other.end() is None


def test_a_watch_that_began_anew_is_about_other_guests(watch: Watch) -> None:
    watch.say(PANIC)
    watch.begin()
    watch.end()
    with contextlib.closing(Sightings(str(watch.paths.events), "", "bookworm")) as sightings:
        assert sightings.end() is not None
        watch.console.unlink()
        watch.begin()
        assert sightings.end() is None


def test_sightings_that_cannot_be_read_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "watch.jsonl").write_text('{"event": "kernel"}\n')
    with contextlib.closing(Sightings(str(tmp_path / "watch.jsonl"), "", "bookworm")) as sightings, pytest.raises(ValueError, match="time"):
        sightings.end()


def test_sightings_through_ssh_that_ends_are_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A double of ssh that cannot log in."""
    (tmp_path / "ssh").write_text("#!/bin/sh\nexit 255\n")
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with contextlib.closing(Sightings("/x/watch.jsonl", "root@lab1:2222", "bookworm")) as sightings:
        assert sightings._process is not None
        sightings._process.wait(5)
        assert sightings.end() is None
        assert sightings.lost()
