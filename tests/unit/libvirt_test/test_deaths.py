# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who died in a test, as systemd's journal tells it. journalctl and coredumpctl are doubles that print what the real ones print."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

LIBVIRTD = {"name": "libvirtd", "log": "/var/log/libvirt/libvirtd.log"}
EXITED = "98e322203f7a4ed290d09fe03c09fe15"
DUMPED = "fc2e22bc6ee647b6b90729ab34a250b1"

# As the real one it ends with 1 and no word where there is no entry.
JOURNALCTL = """#!/bin/sh
case $* in
*--sync*) ;;
*) for word; do :; done; cat "{directory}/$word" 2>/dev/null || exit 1 ;;
esac
"""
COREDUMPCTL = """#!/bin/sh
echo "coredumpctl $*"
echo 'Stack trace of thread 42:'
"""


class Machine:
    """A machine with systemd, as far as the wrapper looks at it."""

    def __init__(self, wrapper: ModuleType, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wrapper = wrapper
        self.directory = directory
        self.pids = {"libvirtd": 42}
        self.cores = directory / "cores"
        self.cores.mkdir()
        for name, text in (("journalctl", JOURNALCTL), ("coredumpctl", COREDUMPCTL)):
            (directory / name).write_text(text.replace("{directory}", str(directory)))
            (directory / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
        monkeypatch.setattr(wrapper, "SYSTEMD", directory)
        monkeypatch.setattr(wrapper, "CORES", self.cores)
        monkeypatch.setattr(wrapper, "CORE_LIMIT", 5.0)
        monkeypatch.setattr(wrapper, "daemon_process", self._process)
        self.daemons = wrapper.Daemons(wrapper.read_config({"uri": "qemu:///system", "daemons": [LIBVIRTD]}))

    def _process(self, daemon: Any) -> Any:
        pid = self.pids.get(daemon.name)
        return None if pid is None else self.wrapper.Process(pid, pid * 10, daemon.name, 1, pid, "S")

    def journal(self, message: str, *entries: dict[str, Any]) -> None:
        (self.directory / f"MESSAGE_ID={message}").write_text("".join(json.dumps(entry) + "\n" for entry in entries))

    def exited(self, code: str, status: str, unit: str = "libvirtd.service") -> None:
        self.journal(EXITED, {"UNIT": unit, "EXIT_CODE": code, "EXIT_STATUS": status})

    def dumped(self, pid: int, exe: str, number: str) -> None:
        (self.cores / f"core.{os.path.basename(exe)}.0.boot.{pid}.zst").write_text("")
        self.journal(DUMPED, {"COREDUMP_PID": str(pid), "COREDUMP_EXE": exe, "COREDUMP_SIGNAL_NAME": number})

    def deaths(self) -> list[tuple[str, int, str]]:
        return [(death.name, death.pid, death.how) for death in self.daemons.deaths()]


@pytest.fixture
def machine(wrapper: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(wrapper, tmp_path, monkeypatch)


def test_who_lives_is_not_asked_for(machine: Machine) -> None:
    machine.exited("dumped", "SEGV")  # would be told, if it were asked
    assert machine.deaths() == []


def test_a_daemon_that_was_started_again_did_not_die(machine: Machine) -> None:
    machine.pids["libvirtd"] = 43
    assert machine.deaths() == []


def test_a_daemon_that_ended_for_want_of_work_did_not_die(machine: Machine) -> None:
    del machine.pids["libvirtd"]
    assert machine.deaths() == []


def test_a_daemon_that_dumped_core(machine: Machine) -> None:
    machine.pids["libvirtd"] = 43
    machine.exited("dumped", "SEGV")
    machine.dumped(42, "/usr/sbin/libvirtd", "SIGSEGV")
    assert machine.deaths() == [("libvirtd", 42, "SIGSEGV")]
    text, number = machine.daemons.explain(machine.wrapper.Death("libvirtd", 42, "SIGSEGV"))
    assert "info 42\nStack trace of thread 42:" in text
    assert number == ""


def test_a_daemon_that_was_killed_leaves_no_core(machine: Machine) -> None:
    del machine.pids["libvirtd"]
    machine.exited("killed", "KILL")
    assert machine.deaths() == [("libvirtd", 42, "SIGKILL")]


def test_a_daemon_that_failed(machine: Machine) -> None:
    del machine.pids["libvirtd"]
    machine.exited("exited", "6")
    assert machine.deaths() == [("libvirtd", 42, "exit status 6")]


def test_a_daemon_that_was_started_in_the_test_and_died_there(machine: Machine) -> None:
    machine.pids["libvirtd"] = 43
    twice = {"UNIT": "libvirtd.service", "EXIT_CODE": "dumped", "EXIT_STATUS": "ABRT"}
    machine.journal(EXITED, twice, twice)
    for pid in (42, 44):
        (machine.cores / f"core.libvirtd.{pid}").write_text("")
    dump = {"COREDUMP_EXE": "/usr/sbin/libvirtd", "COREDUMP_SIGNAL_NAME": "SIGABRT"}
    machine.journal(DUMPED, {**dump, "COREDUMP_PID": "42"}, {**dump, "COREDUMP_PID": "44"})
    assert machine.deaths() == [("libvirtd", 42, "SIGABRT"), ("libvirtd", 44, "SIGABRT")]


def test_a_qemu_that_dumped_core_is_told_though_no_daemon_died(machine: Machine) -> None:
    machine.dumped(77, "/usr/bin/qemu-system-x86_64", "SIGABRT")
    assert machine.deaths() == [("qemu-system-x86_64", 77, "SIGABRT")]


def test_a_program_of_the_test_that_dumped_core_is_none_of_libvirts(machine: Machine) -> None:
    machine.dumped(78, "/usr/bin/perl", "SIGABRT")
    assert machine.deaths() == []


def test_another_units_end_is_none_of_libvirts(machine: Machine) -> None:
    machine.pids["libvirtd"] = 43
    machine.exited("dumped", "SEGV", unit="cron.service")
    assert machine.deaths() == []


def test_a_journal_that_cannot_be_asked_is_an_error(machine: Machine) -> None:
    machine.pids["libvirtd"] = 43
    (machine.directory / "journalctl").write_text("#!/bin/sh\necho 'Failed to open journal' >&2\nexit 1\n")
    with pytest.raises(machine.wrapper.WrapperError, match="cannot ask the journal who died: Failed to open journal"):
        machine.deaths()
