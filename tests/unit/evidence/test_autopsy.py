# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is gathered of a domain, with a double of the hypervisor that refuses, dies and talks at the right moments."""

from __future__ import annotations

import json
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_images import INFO, flattened, kdump

from ansible_collections.mayfly.virt.plugins.module_utils import _domain_evidence, _vmcore
from ansible_collections.mayfly.virt.plugins.module_utils._domain_evidence import Autopsy, DaemonLog, Wanted, daemon_logs, settled
from ansible_collections.mayfly.virt.plugins.module_utils._domain_xml import SeenDomain
from ansible_collections.mayfly.virt.plugins.module_utils._errors import MayflyError
from ansible_collections.mayfly.virt.plugins.module_utils._run import RunPaths

NAME = "one-r1"
PANIC = "[    1.234567] Kernel panic - not syncing: boom\n"


class Daemon:
    """A double of the hypervisor: one domain whose kernel writes to its console when it is poked."""

    def __init__(self, console: Path) -> None:
        self.console = console
        self.poked: list[Any] = []
        self.refuses: set[str] = set()
        self.answers = True
        self.paused: list[str] = []
        self.devices = ""
        self.image = b"P6\n1 1\n255\nabc"
        self.memory = flattened(kdump(INFO.encode()))

    def _refuse(self, what: str) -> None:
        if what in self.refuses:
            raise MayflyError(what, NAME, "the monitor is stuck")

    def xml(self, _uuid: str) -> str:
        return f"<domain><name>{NAME}</name><devices>{self.devices}</devices></domain>"

    def condition(self, _uuid: str) -> dict[str, Any]:
        self._refuse("condition")
        return {"state": 1, "disk_errors": {"vda": "no space left"}}

    def screenshot(self, _uuid: str) -> bytes:
        self._refuse("screenshot")
        return self.image

    def _poke(self, what: Any) -> None:
        self.poked.append(what)
        if self.answers:
            with self.console.open("a") as file:
                file.write(f"sysrq: answer to {what}\n")

    def press(self, _uuid: str, keys: list[int]) -> None:
        self._refuse("press")
        self._poke(keys)

    def interrupt(self, _uuid: str) -> None:
        self._poke("NMI")

    def pause(self, _uuid: str) -> None:
        self._refuse("pause")
        self.paused.append("paused")

    def resume(self, _uuid: str) -> None:
        self.paused.append("resumed")

    def dump_memory(self, _uuid: str, path: str) -> None:
        Path(path).write_bytes(self.memory)
        self._refuse("dump")


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunPaths:
    monkeypatch.setattr(_domain_evidence, "QEMU_LOGS", tmp_path / "qemu")
    monkeypatch.setattr(_domain_evidence, "DAEMON_CONFIGURATIONS", (tmp_path / "libvirtd.conf",))
    monkeypatch.setattr(_domain_evidence, "SYSTEMD", tmp_path / "systemd")
    monkeypatch.setattr(_domain_evidence, "SETTLED", 0.05)
    monkeypatch.setattr(_domain_evidence, "POLL", 0.01)
    made = RunPaths(tmp_path / "state", "r1")
    made.dir.mkdir(parents=True)
    made.console(NAME).write_text("hello\n")
    return made


@pytest.fixture
def daemon(paths: RunPaths) -> Daemon:
    return Daemon(paths.console(NAME))


def journalctl(argv: list[str]) -> tuple[int, str, str]:
    assert argv[0] == "journalctl"
    return 0, f"Nov 21 host libvirtd[1]: {NAME} failed\nNov 21 host libvirtd[1]: two-r1 failed\n", ""


def programs(argv: list[str]) -> tuple[int, str, str]:
    """The real cp and qemu-img."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


Perform = Callable[..., Autopsy]


@pytest.fixture
def perform(paths: RunPaths, daemon: Daemon) -> Perform:
    def do(state: str = "running", *, gone: bool = False, **wanted: Any) -> Autopsy:
        domain = None if gone else SeenDomain(NAME, "uuid-1", None, 128, 1, (), (), "")
        defaults = {"hung": False, "memory_dump": "on_crash", "dump_limit_mib": 4096, "patience": 0.3}
        autopsy = Autopsy(daemon, paths, domain, state, Wanted(NAME, **{**defaults, **wanted}), DaemonLog(journalctl), programs)
        autopsy.perform()
        return autopsy

    return do


def test_a_living_guest_is_only_looked_at(perform: Perform, daemon: Daemon, paths: RunPaths) -> None:
    paths.console(NAME).with_name(f"{NAME}.console.log.0").write_text("earlier\n")
    found = perform()
    assert sorted(path.name for path in found.directory.iterdir()) == ["console.log", "console.log.0", "domain.json", "domain.xml"]
    assert json.loads((found.directory / "domain.json").read_text())["disk_errors"] == {"vda": "no space left"}
    assert found.directory.stat().st_mode & 0o777 == 0o700
    assert (daemon.poked, found.dump.exists(), found.missing) == ([], False, {})


def test_what_the_monitor_refuses_is_missing_and_the_rest_is_there(perform: Perform, daemon: Daemon) -> None:
    daemon.devices = "<video/>"
    daemon.refuses = {"condition", "screenshot", "dump"}
    found = perform("crashed")
    assert set(found.missing) == {"domain.json", "screenshot.png", "memory.vmcore"}
    assert all("the monitor is stuck" in why for why in found.missing.values())
    assert sorted(path.name for path in found.directory.iterdir()) == ["console.log", "domain.xml"]
    assert not found.dump.exists()
    assert not found.dump.with_suffix(".flat").exists()


def test_a_screen_in_a_strange_format_is_missing(perform: Perform, daemon: Daemon) -> None:
    daemon.devices, daemon.image = "<video/>", b"GIF89a"
    assert "unknown format" in perform().missing["screenshot.png"]


@pytest.mark.parametrize(
    ("state", "console", "wanted", "dumped"),
    [
        ("running", "", {}, False),
        ("crashed", "", {}, True),
        ("running", PANIC, {}, True),  # a kernel without a driver for the panic device
        ("running", "", {"hung": True}, True),
        ("running", "", {"memory_dump": "always"}, True),
        ("crashed", PANIC, {"hung": True, "memory_dump": "never"}, False),
    ],
)
def test_when_the_memory_is_dumped(
    perform: Perform, paths: RunPaths, state: str, console: str, wanted: dict[str, Any], dumped: bool
) -> None:
    with paths.console(NAME).open("a") as file:
        file.write(console)
    found = perform(state, **wanted)
    assert found.dump.exists() is dumped
    assert found.missing == {}
    assert any(f"the domain is {state}" in note for note in found.left_out) is (state != "running")
    if dumped:
        assert struct.unpack_from("<q", found.dump.read_bytes(), 4096) == (190840832,)


def test_a_dump_without_vmcoreinfo_is_kept_and_said(perform: Perform, daemon: Daemon) -> None:
    daemon.memory = kdump(b"")  # not flattened, as later QEMUs write it
    found = perform("crashed")
    assert found.dump.read_bytes() == kdump(b"")
    assert any("no VMCOREINFO" in note for note in found.left_out)


def test_a_torn_dump_is_not_kept(perform: Perform, daemon: Daemon) -> None:
    daemon.memory = daemon.memory[:-20]
    found = perform("crashed")
    assert "it ends" in found.missing["memory.vmcore"]
    assert not found.dump.exists()


def test_no_dump_fills_the_disk(perform: Perform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_vmcore, "RESERVE", 10**9)
    found = perform("crashed")
    assert "must leave 1000000000 MiB" in found.missing["memory.vmcore"]
    assert not found.dump.exists()


def test_a_guest_that_hangs_is_asked_for_backtraces_then_interrupted(perform: Perform, daemon: Daemon) -> None:
    found = perform(hung=True)
    assert daemon.poked == [[56, 99, 38], [56, 99, 17], [56, 99, 20], "NMI"]
    said = (found.directory / "sysrq.log").read_text()
    assert said.splitlines() == [f"sysrq: answer to {what}" for what in daemon.poked]
    assert (found.directory / "console.log").read_text() == f"hello\n{said}"
    assert not any("SysRq" in note for note in found.left_out)


def test_a_kernel_that_says_nothing_is_not_waited_for_without_end(perform: Perform, daemon: Daemon) -> None:
    daemon.answers = False
    daemon.refuses = {"press"}
    found = perform(hung=True)
    assert set(found.missing) == {"SysRq l", "SysRq w", "SysRq t"}
    assert "NMI: the kernel said nothing to it within 0 s" in found.left_out
    assert not (found.directory / "sysrq.log").exists()


def test_a_kernel_that_does_not_allow_the_keys_is_said(perform: Perform, daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_uuid: str, _keys: list[int]) -> None:
        with daemon.console.open("a") as file:
            file.write("[    1.0] sysrq: This sysrq operation is disabled.\n")

    monkeypatch.setattr(daemon, "press", refuse)
    assert sum("sysrq_always_enabled" in note for note in perform(hung=True).left_out) == 3


def test_of_a_domain_that_is_gone_there_is_its_console(perform: Perform, tmp_path: Path) -> None:
    (tmp_path / "qemu").mkdir()
    (tmp_path / "qemu" / f"{NAME}.log").write_text("shutting down\n")
    found = perform("gone", gone=True, hung=True, memory_dump="always")
    assert {path.name: path.read_text() for path in found.directory.iterdir()} == {"console.log": "hello\n", "qemu.log": "shutting down\n"}
    assert found.missing == {}


def test_of_the_daemons_log_only_what_is_about_this_domain_is_kept(perform: Perform, tmp_path: Path) -> None:
    log = tmp_path / "libvirtd.log"
    log.write_text(f"1: error: {NAME} failed\n2: error: two-r1 failed\n3: uuid-1 gone\n")
    (tmp_path / "libvirtd.conf").write_text(f'# log_outputs="1:file:/no"\nlog_outputs = "3:syslog:libvirtd 1:file:{log}"\n')
    found = perform()
    assert (found.directory / "libvirt.log").read_text() == f"1: error: {NAME} failed\n3: uuid-1 gone\n"


def test_the_journal_is_read_once_where_there_is_one(perform: Perform, tmp_path: Path) -> None:
    (tmp_path / "systemd").mkdir()
    found = perform()
    assert (found.directory / "libvirt.log").read_text() == f"Nov 21 host libvirtd[1]: {NAME} failed\n"
    asked = []

    def counted(argv: list[str]) -> tuple[int, str, str]:
        asked.append(argv)
        return journalctl(argv)

    log = DaemonLog(counted)
    assert [log.about([name]).count(b"\n") for name in (NAME, "two-r1", "host", "nobody")] == [1, 1, 2, 0]
    assert len(asked) == 1
    with pytest.raises(MayflyError, match="read the journal of 'libvirtd': no permission"):
        DaemonLog(lambda _argv: (1, "", "no permission")).about([NAME])


def test_files_that_the_daemons_log_to() -> None:
    assert daemon_logs(['log_outputs="1:file:/a 2:stderr"\n', '  log_outputs = "3:stderr 1:file:/b"', 'log_filters="1:qemu"', ""]) == [
        "/a",
        "/b",
    ]


def test_an_earlier_look_leaves_nothing(perform: Perform, daemon: Daemon) -> None:
    perform("crashed", hung=False)
    daemon.devices = ""
    found = perform("running")
    assert not found.dump.exists()


def test_waiting_ends_when_it_rests_or_patience_does(paths: RunPaths) -> None:
    sizes = iter([0, 5, 9, *[9] * 1000])
    assert settled(lambda: next(sizes), 0, 5) is True
    assert settled(lambda: 7, 7, 0.1) is False
    counter = iter(range(10**6))
    assert settled(lambda: next(counter), 0, 0.2) is True, "it never rests, and is not waited for any longer"


@pytest.fixture
def overlay(paths: RunPaths) -> Path:
    """An overlay with a MiB of its own on a base."""
    base, overlay = paths.dir / "base.qcow2", paths.overlay(NAME)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(base), "64M"], check=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(base), str(overlay)], check=True)
    subprocess.run(["qemu-io", "-c", "write -P 7 0 1M", str(overlay)], check=True, capture_output=True)
    return overlay


@pytest.mark.parametrize(
    ("state", "wanted", "kept", "paused"),
    [
        ("running", {"overlay": "always"}, True, ["paused", "resumed"]),
        ("running", {"overlay": "on_crash", "memory_dump": "never"}, False, []),
        ("running", {"overlay": "on_crash", "memory_dump": "never", "hung": True}, True, ["paused", "resumed"]),
        ("crashed", {"overlay": "on_crash", "memory_dump": "never"}, True, []),
        ("crashed", {"memory_dump": "never"}, False, []),
    ],
)
def test_an_overlay_is_copied_while_its_domain_stands_still(
    perform: Perform, daemon: Daemon, overlay: Path, state: str, wanted: dict[str, Any], kept: bool, paused: list[str]
) -> None:
    autopsy = perform(state, **wanted)
    assert "overlay.qcow2" not in autopsy.missing
    assert autopsy.overlay.exists() is kept
    assert daemon.paused == paused
    if kept:
        assert autopsy.overlay.read_bytes() == overlay.read_bytes()
        assert autopsy.overlay.stat().st_mode & 0o777 == 0o600


def test_the_overlay_of_a_domain_that_is_gone(perform: Perform, overlay: Path) -> None:
    assert perform(gone=True, overlay="always").overlay.read_bytes() == overlay.read_bytes()


def test_an_overlay_that_cannot_be_kept_is_missing(
    perform: Perform, daemon: Daemon, overlay: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "more than the limit of 1 MiB" in perform("crashed", overlay="always", overlay_limit_mib=1).missing["overlay.qcow2"]
    daemon.refuses = {"pause"}
    autopsy = perform("running", overlay="always")
    assert "overlay.qcow2" in autopsy.missing
    assert not autopsy.overlay.exists()
    daemon.refuses = set()
    overlay.write_bytes(overlay.read_bytes()[:300_000])
    autopsy = perform("running", overlay="always")
    assert "Could not keep overlay" in autopsy.missing["overlay.qcow2"]
    assert not autopsy.overlay.exists()
    assert daemon.paused[-1] == "resumed", "it goes on all the same"
    overlay.unlink()
    assert "overlay.qcow2: the domain has no overlay of ours" in perform("crashed", overlay="always").left_out
