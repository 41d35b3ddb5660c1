# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs: opened once, whole or not at all; over and taken up again; held, orphaned, unreadable."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from core_doubles import Programs, listing, run_program, run_record, ssh_keygen

from ansible_collections.mayfly.virt.plugins.module_utils import _lock, _run
from ansible_collections.mayfly.virt.plugins.module_utils._errors import InvalidInput, MayflyError
from ansible_collections.mayfly.virt.plugins.module_utils._lock import locked, try_locked
from ansible_collections.mayfly.virt.plugins.module_utils._run import OwnerProcess, Run, RunPaths

NOW = datetime.datetime(2026, 1, 1, 12, 0, 0, tzinfo=datetime.timezone.utc)


def wanted(**options: Any) -> dict[str, Any]:
    return {"id": "r1", "owner": None, "job_url": None, "deadline": 7200, "owner_pid": None, **options}


# -- what is wanted ------------------------------------------------------------------------------------------------------


def test_a_new_run_of_this_boot() -> None:
    run = _run.new_run(wanted(owner="jane", job_url="https://ci.example.org/1"), NOW)
    assert run.id == "r1"
    assert run.created == "2026-01-01T12:00:00+00:00"
    assert run.deadline == "2026-01-01T14:00:00+00:00"
    assert (run.owner, run.job_url, run.owner_process) == ("jane", "https://ci.example.org/1", None)
    assert len(run.boot_id) == 36
    assert run.boot_id == _run.boot_id()


def test_a_run_without_words_has_empty_ones() -> None:
    run = _run.new_run(wanted(), NOW)
    assert (run.owner, run.job_url) == ("", "")


def test_a_bad_id_is_refused() -> None:
    with pytest.raises(InvalidInput, match="Run id 'R1' is refused"):
        _run.new_run(wanted(id="R1"), NOW)


def test_a_run_knows_its_owner_by_number_and_start() -> None:
    run = _run.new_run(wanted(owner_pid=os.getpid()), NOW)
    assert run.owner_process == OwnerProcess(os.getpid(), _run.process_started(os.getpid()))
    assert run.owner_process.alive()


def test_an_owner_that_is_not_there_is_refused() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait(10)
    with pytest.raises(MayflyError, match=f"its owner process {process.pid} does not exist here"):
        _run.new_run(wanted(owner_pid=process.pid), NOW)


EXPIRED = "its deadline 2026-01-01T12:00:00+00:00 has passed"


@pytest.mark.parametrize(("seconds", "why"), [(-1, ""), (0, EXPIRED), (1, EXPIRED)])
def test_a_run_is_over_at_its_deadline(seconds: int, why: str) -> None:
    run = run_record(deadline="2026-01-01T12:00:00+00:00")
    assert run.over(NOW + datetime.timedelta(seconds=seconds), "this-boot") == why


def test_deadlines_of_other_zones_are_compared_as_moments() -> None:
    assert run_record(deadline="2026-01-01T13:00:01+01:00").over(NOW, "this-boot") == ""
    assert "has passed" in run_record(deadline="2026-01-01T12:59:59+01:00").over(NOW, "this-boot")


def test_a_run_is_over_when_the_host_was_booted_or_its_owner_is_gone() -> None:
    here = OwnerProcess(os.getpid(), _run.process_started(os.getpid()))
    gone = OwnerProcess(os.getpid(), 1)
    assert run_record().over(NOW, "this-boot") == ""
    assert run_record(owner_process=here).over(NOW, "this-boot") == ""
    assert run_record().over(NOW, "another-boot") == "the host was booted since it was made"
    assert run_record(owner_process=gone).over(NOW, "this-boot") == f"its owner process {os.getpid()} is gone"


def test_the_first_reason_is_the_one_given() -> None:
    """A process of before the boot has the number of another by now."""
    gone = OwnerProcess(os.getpid(), 1)
    assert "booted" in run_record(owner_process=gone).over(NOW, "another-boot")
    assert "deadline" in run_record(owner_process=gone, deadline="2026-01-01T12:00:00+00:00").over(NOW, "another-boot")


def test_now_is_utc_in_whole_seconds() -> None:
    now = _run.utc_now()
    assert now.tzinfo is datetime.timezone.utc
    assert now.microsecond == 0
    assert _run.parse_time(now.isoformat()) == now


@pytest.mark.parametrize("seconds", [-1, _run.LONGEST + 1, 10**12, -(10**12)])
def test_a_deadline_before_now_or_beyond_a_year_is_refused(seconds: int) -> None:
    with pytest.raises(InvalidInput, match=f"its deadline of {seconds} s is not between 0 and 31622400 s") as caught:
        _run.new_run(wanted(deadline=seconds), NOW)
    assert caught.value.target == "r1"
    assert caught.value.remedy


def test_the_longest_deadline_is_a_year() -> None:
    assert _run.new_run(wanted(deadline=_run.LONGEST), NOW).deadline == "2027-01-02T12:00:00+00:00"
    assert _run.new_run(wanted(deadline=0), NOW).deadline == "2026-01-01T12:00:00+00:00"


# -- owner processes -----------------------------------------------------------------------------------------------------


def test_a_process_is_alive_until_it_ends() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    owner = OwnerProcess(process.pid, _run.process_started(process.pid))
    assert owner.alive()
    process.stdin.close()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, and not yet buried
    assert not owner.alive()
    process.wait(10)
    assert not owner.alive()
    assert _run.process_started(process.pid) is None


def test_another_process_of_that_number_is_not_the_owner() -> None:
    started = _run.process_started(os.getpid())
    assert OwnerProcess(os.getpid(), started).alive()
    assert not OwnerProcess(os.getpid(), started - 1).alive()


def test_a_process_may_be_called_anything(tmp_path: Path) -> None:
    """The second field of /proc/<pid>/stat is its name, with blanks and parentheses as they come."""
    program = tmp_path / "a) R 1 (b"
    program.symlink_to(shutil.which("cat"))
    process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(") ")[2].split()
        assert _run.process_started(process.pid) == int(fields[19])
        assert _run.process_started(process.pid) >= _run.process_started(os.getpid())
    finally:
        process.stdin.close()
        process.wait(10)


# -- opening -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def closed(state: Path) -> RunPaths:
    """The paths of a run that is not there yet."""
    return RunPaths(state, "r1")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_run, "utc_now", lambda: NOW)


@pytest.mark.usefixtures("clock")
def test_opening_makes_everything(state: Path, closed: RunPaths) -> None:
    programs = Programs(ssh_keygen=ssh_keygen)
    paths = closed
    assert _run.open_run(paths, wanted(owner="jane", owner_pid=os.getpid()), programs)
    made = sorted(path.name for path in paths.dir.iterdir())
    assert made == ["hostkeys", "id_ed25519", "id_ed25519.pub", "known_hosts", "lock", "run.json"]
    assert _run.read_run(paths) == _run.new_run(wanted(owner="jane", owner_pid=os.getpid()), NOW)
    assert json.loads(paths.record.read_text())["format"] == "mayfly-run-1"
    assert paths.dir.stat().st_mode & 0o777 == 0o711  # QEMU's user passes through
    assert (paths.dir / "hostkeys").stat().st_mode & 0o777 == 0o700
    assert _run.public_key(paths.key) == "ssh-ed25519 AAAAid_ed25519"
    assert [path.name for path in _run.runs_dir(state).iterdir()] == ["r1"]
    assert "mayfly r1" in programs.calls[0]


@pytest.mark.parametrize("options", [{"owner": "somebody else", "deadline": 60}, {"owner_pid": 2**22 + 1}, {"deadline": -1}])
def test_a_run_that_is_open_stays_as_it_is(state: Path, closed: RunPaths, options: dict[str, Any]) -> None:
    """What it would be opened with is not even looked at."""
    _run.open_run(closed, wanted(owner="jane"), Programs(ssh_keygen=ssh_keygen))
    before = listing(state)
    programs = Programs()
    assert not _run.open_run(closed, wanted(**options), programs)
    assert listing(state) == before
    assert programs.calls == []


@pytest.mark.parametrize("options", [{"owner_pid": 2**22 + 1}, {"deadline": -1}, {"id": "R1"}])
def test_a_run_that_cannot_be_is_not_begun(state: Path, closed: RunPaths, options: dict[str, Any]) -> None:
    programs = Programs()
    with pytest.raises(MayflyError):
        _run.open_run(closed, wanted(**options), programs)
    assert not state.exists()
    assert programs.calls == []


@pytest.mark.usefixtures("clock")
def test_two_threads_open_the_same_run(state: Path, closed: RunPaths) -> None:
    both = threading.Barrier(2)

    def keygen_together(argv: list[str]) -> str:
        both.wait(5)  # both are past the look, before the adoption
        return ssh_keygen(argv)

    opened = []
    threads = [
        threading.Thread(target=lambda: opened.append(_run.open_run(closed, wanted(), Programs(ssh_keygen=keygen_together))))
        for _number in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(opened) == [False, True]
    assert [path.name for path in _run.runs_dir(state).iterdir()] == ["r1"]
    assert _run.read_run(closed) == _run.new_run(wanted(), NOW)
    assert closed.key.exists()


def test_a_failed_key_leaves_nothing(state: Path, closed: RunPaths) -> None:
    with pytest.raises(MayflyError, match="make ssh key") as caught:
        _run.open_run(closed, wanted(), Programs(ssh_keygen=lambda argv: (1, "", "no entropy")))
    assert "no entropy" in caught.value.reason
    assert list(_run.runs_dir(state).iterdir()) == []


def test_a_state_directory_that_cannot_be_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MayflyError, match="make run directory") as caught:
        _run.open_run(RunPaths(tmp_path / "file", "r1"), wanted(), Programs(ssh_keygen=ssh_keygen))
    assert "state_dir" in caught.value.remedy


@pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="ssh-keygen is not installed")
def test_the_real_key_is_one(closed: RunPaths) -> None:
    assert _run.open_run(closed, wanted(), run_program)
    code, out, _err = run_program(["ssh-keygen", "-y", "-P", "", "-f", str(closed.key)])
    assert code == 0
    assert " ".join(out.split()[:2]) == _run.public_key(closed.key)
    assert closed.key.stat().st_mode & 0o077 == 0


# -- taking up again -----------------------------------------------------------------------------------------------------


def put_record(paths: RunPaths, **fields: Any) -> Run:
    """Write the record of a run in use, changed in some fields."""
    run = dataclasses.replace(_run.new_run(wanted(owner="jane"), NOW), **fields)
    paths.record.write_text(json.dumps({"format": "mayfly-run-1", **dataclasses.asdict(run)}))
    os.utime(paths.record, (0, 0))
    return run


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(
    "over",
    [
        {"deadline": "2026-01-01T12:00:00+00:00"},
        {"deadline": "2020-01-01T12:00:00+00:00"},
        {"boot_id": "another-boot"},
        {"owner_process": OwnerProcess(os.getpid(), 1)},
        {"owner_process": OwnerProcess(2**22 + 1, 1)},
    ],
)
def test_a_run_that_is_over_is_taken_up_as_a_new_one(paths: RunPaths, over: dict[str, Any]) -> None:
    put_record(paths, **over)
    again = wanted(owner="joe", deadline=60, owner_pid=os.getpid())
    _run.renew_run(paths, again)
    renewed = _run.read_run(paths)
    assert renewed == _run.new_run(again, NOW)
    assert renewed.over(NOW, _run.boot_id()) == ""
    assert paths.record.stat().st_mtime > 10**9
    assert paths.key.read_text() == "run's private key\n"
    assert not [path for path in paths.dir.iterdir() if path.name.startswith(".")]


@pytest.mark.usefixtures("clock")
def test_a_run_in_use_is_only_touched(paths: RunPaths) -> None:
    run = put_record(paths)
    before = listing(paths.dir)
    _run.renew_run(paths, wanted(owner="joe", deadline=60, owner_pid=2**22 + 1))
    assert _run.read_run(paths) == run
    assert listing(paths.dir) == before
    assert paths.record.stat().st_mtime > 10**9


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("options", [{"owner_pid": 2**22 + 1}, {"deadline": -1}])
def test_a_run_that_cannot_be_taken_up_so_stays_as_it_is(paths: RunPaths, options: dict[str, Any]) -> None:
    put_record(paths, boot_id="another-boot")
    before = listing(paths.dir)
    with pytest.raises(MayflyError):
        _run.renew_run(paths, wanted(**options))
    assert listing(paths.dir) == before
    assert paths.record.stat().st_mtime == 0


@pytest.mark.usefixtures("clock")
def test_a_record_is_never_half_written(paths: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    over = put_record(paths, boot_id="another-boot")
    write_text = Path.write_text

    def full(self: Path, text: str, **options: Any) -> int:
        write_text(self, text[:10], **options)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        _run.renew_run(paths, wanted())
    assert _run.read_run(paths) == over


# -- holding -------------------------------------------------------------------------------------------------------------


def test_a_run_is_held_by_one_at_a_time(paths: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    put_record(paths)
    monkeypatch.setattr(_run, "HOLD_PATIENCE", 0.06)
    with _run.hold(paths):
        with pytest.raises(MayflyError, match="another process has held it") as caught, _run.hold(paths):
            raise AssertionError("somebody else holds it")
        assert caught.value.target == str(paths.lock)
    with _run.hold(paths), try_locked(paths.lock) as free:
        assert not free


def test_who_holds_a_run_for_ever_is_not_waited_for_for_ever() -> None:
    """Making a guest takes seconds."""
    assert 30 <= _run.HOLD_PATIENCE <= 600


def test_who_waited_for_a_run_that_was_made_anew_does_not_hold_the_old_one(paths: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    put_record(paths)
    held = []
    waits = threading.Event()
    sleep = _lock.time.sleep
    monkeypatch.setattr(_lock.time, "sleep", lambda seconds: waits.set() or sleep(seconds))

    def wait() -> None:
        with contextlib.suppress(MayflyError), _run.hold(paths), try_locked(paths.lock) as free:
            held.append(not free)

    waiting = threading.Thread(target=wait)
    with locked(paths.lock):
        waiting.start()
        assert waits.wait(5)
        shutil.rmtree(paths.dir)
        paths.dir.mkdir()
        put_record(paths)
        paths.lock.touch()
    waiting.join(10)
    assert False not in held


# -- reading -------------------------------------------------------------------------------------------------------------


def test_there_is_no_run_where_nothing_is(state: Path) -> None:
    paths = RunPaths(state, "r1")
    assert _run.read_run(paths) is None
    paths.dir.mkdir(parents=True)
    assert _run.read_run(paths) is None
    (state / "runs" / "file").write_text("")
    assert _run.read_run(RunPaths(state, "file")) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '"r1"',
        "{}",
        '{"format": "mayfly-run-2"}',
        '{"format": "mayfly-run-1"}',
        '{"format": "mayfly-run-1", "owner_process": null}',
        '{"format": "mayfly-run-1", "owner_process": 7, "id": "r1", "created": "", "deadline": "", "boot_id": ""}',
        '{"format": "mayfly-run-1", "owner_process": null, "id": "r1", "created": "", "deadline": "", "boot_id": "", "colour": "red"}',
    ],
)
def test_a_run_that_cannot_be_read_is_an_error(paths: RunPaths, text: str) -> None:
    paths.record.write_text(text)
    with pytest.raises(MayflyError, match="not a run of this version") as caught:
        _run.read_run(paths)
    assert caught.value.target == str(paths.record)
    assert str(paths.dir) in caught.value.remedy


def test_a_run_that_is_no_text_is_an_error_too(paths: RunPaths) -> None:
    paths.record.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(MayflyError, match="not a run of this version"):
        _run.read_run(paths)


@pytest.mark.parametrize(
    "deadline",
    [
        "soon",
        "",
        5,
        None,
        [],
        "2026-01-01T12:00:00",
    ],
)
def test_a_run_whose_deadline_is_no_time_is_an_error(paths: RunPaths, deadline: object) -> None:
    record = {"format": "mayfly-run-1", "owner_process": None, "id": "r1", "created": "", "deadline": deadline, "boot_id": ""}
    paths.record.write_text(json.dumps(record))
    with pytest.raises(MayflyError, match="not a run of this version"):
        _run.read_run(paths)


def test_where_the_parts_of_a_run_lie() -> None:
    paths = RunPaths(Path("/state"), "r1")
    found = {
        str(path)
        for path in (
            *(paths.dir, paths.record, paths.key, paths.known_hosts, paths.lock),
            *(part("one-r1") for part in (paths.overlay, paths.seed, paths.console, paths.nvram, paths.host_key)),
        )
    }
    assert found == {
        "/state/runs/r1",
        "/state/runs/r1/run.json",
        "/state/runs/r1/id_ed25519",
        "/state/runs/r1/known_hosts",
        "/state/runs/r1/lock",
        "/state/runs/r1/one-r1.qcow2",
        "/state/runs/r1/one-r1.seed.iso",
        "/state/runs/r1/one-r1.console.log",
        "/state/runs/r1/one-r1.nvram.fd",
        "/state/runs/r1/hostkeys/one-r1",
    }
