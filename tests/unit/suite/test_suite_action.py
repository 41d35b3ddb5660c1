# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The parts of the action that need no guest: what it packs, what it unpacks, what it shows, how patient it is."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleConnectionFailure

from ansible_collections.mayfly.virt.plugins.action import suite
from ansible_collections.mayfly.virt.plugins.module_utils._scrub import job_patterns
from ansible_collections.mayfly.virt.plugins.modules import suite as documented
from ansible_collections.mayfly.virt.plugins.plugin_utils import _contact, _suites

BASE = "/var/lib/x y/smoke-1"


def request_for(tmp_path: Path, options: dict[str, Any] | None = None, **change: Any) -> suite.Request:
    asked = options or {"command": "true"}
    fields = {
        "suite": "smoke",
        "guest": "bookworm",
        "spec": _suites.specification({"name": "smoke", "deadline": 60, **asked}, f"{BASE}/work/t"),
        "source": None,
        "results": tmp_path,
        "base": BASE,
        "python": "/usr/bin/python3",
        "lost_after": 60,
    }
    return suite.Request(**{**fields, **change})


# --- to the guest -----------------------------------------------------------------------------------------------


def test_one_archive_carries_runner_specification_and_source(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "t").mkdir(parents=True)
    (source / "t" / "a.sh").write_text("echo ok")
    (source / "t" / "a.sh").chmod(0o755)
    (source / "link").symlink_to("t/a.sh")
    os.mkfifo(source / "fifo")
    data = suite.pack(request_for(tmp_path, {"command": "true", "environment": {"A": "b"}}, source=source))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        members = {member.name: member for member in archive}
        spec = json.load(archive.extractfile("spec.json"))
        assert archive.extractfile("runner.py").read() == suite.RUNNER.read_bytes()
    assert set(members) == {"runner.py", "spec.json", "work", "work/t", "work/t/a.sh", "work/link"}
    assert members["work/t/a.sh"].mode & 0o111
    assert members["work/link"].issym()
    assert {member.uid for member in members.values()} == {0}
    assert spec["cwd"] == "/var/lib/x y/smoke-1/work/t"
    assert spec["environment"] == {"A": "b"}


def test_commands_are_shell_text_and_quote_paths(tmp_path: Path) -> None:
    request = request_for(tmp_path, base="/tmp/a b; rm -rf x/s-1")
    runner = suite.Runner(1, "0-0")
    commands = [suite.start_command(request), suite.poll_command(request, runner, 7, 20)]
    for text in [*commands, suite.fetch_command(request), suite.fetch_tests_command(request)]:
        # sh -n reads the text without running it.
        assert subprocess.run(["/bin/sh", "-n", "-c", text], capture_output=True, check=False).returncode == 0
        assert "'/tmp/a b; rm -rf x/s-1" in text
    assert "tail -c +8 " in suite.poll_command(request, runner, 7, 20)


# --- from the guest ---------------------------------------------------------------------------------------------


def archive_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def entry(name: str, content: bytes = b"text", kind: bytes = tarfile.REGTYPE, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member, content if kind == tarfile.REGTYPE else b""


def unpacked(archive: bytes, each: int = 10_000, total: int = 100_000) -> tuple[dict[str, bytes], list[str]]:
    return suite.unpack(archive, suite.LOGS, each, total)


def test_expected_logs_are_unpacked() -> None:
    logs, complaints = unpacked(archive_of(entry("stdout.log", b"a"), entry("stderr.log", b"b"), entry("runner.log", b"")))
    assert logs == {"stdout.log": b"a", "stderr.log": b"b", "runner.log": b""}
    assert complaints == []


@pytest.mark.parametrize(
    "member",
    [
        entry("../stdout.log"),
        entry("/etc/stdout.log"),
        entry("sub/stdout.log"),
        entry("./stdout.log"),
        entry("events.jsonl"),
        entry("stdout.log\n::set-output"),
        entry("stdout.log", kind=tarfile.SYMTYPE, target="/etc/shadow"),
        entry("stdout.log", kind=tarfile.LNKTYPE, target="stderr.log"),
        entry("stdout.log", kind=tarfile.DIRTYPE),
        entry("stdout.log", kind=tarfile.CHRTYPE),
        entry("stdout.log", kind=tarfile.FIFOTYPE),
    ],
)
def test_anything_else_is_left_out_and_told(member: tuple[tarfile.TarInfo, bytes]) -> None:
    logs, complaints = unpacked(archive_of(entry("stderr.log", b"fine"), member))
    assert logs == {"stderr.log": b"fine"}
    assert len(complaints) == 1
    assert "left out" in complaints[0]
    assert "\n" not in complaints[0]


def test_the_second_file_of_a_name_does_not_replace_the_first() -> None:
    logs, complaints = unpacked(archive_of(entry("stdout.log", b"first"), entry("stdout.log", b"second")))
    assert logs["stdout.log"] == b"first"
    assert "once each" in complaints[0]


def test_an_archive_that_unpacks_to_anything_is_cut() -> None:
    logs, complaints = unpacked(gzip.compress(bytes(10_000_000)))
    assert logs == {}
    assert "unpacks to more than 100000 bytes" in complaints[0]


def test_of_a_cut_archive_what_came_before_is_kept() -> None:
    whole = archive_of(entry("stdout.log", b"all of it"), entry("stderr.log", os.urandom(5000)))
    logs, complaints = unpacked(whole[:-1000])
    assert logs == {"stdout.log": b"all of it"}
    assert "is cut after" in complaints[0]
    assert "cannot be read" in complaints[1]


def test_complaints_are_bounded() -> None:
    _logs, complaints = unpacked(archive_of(*(entry(f"x{number}") for number in range(60))))
    assert len(complaints) == suite.COMPLAINTS_SHOWN + 1
    assert complaints[-1] == "and 50 more complaints of the archive"


def test_a_log_that_is_too_long_is_cut() -> None:
    logs, complaints = unpacked(archive_of(entry("stdout.log", bytes(5000))), each=1024)
    assert len(logs["stdout.log"]) == 1024
    assert complaints[0] == "stdout.log was cut after 1024 of 5000 bytes"


@pytest.mark.parametrize("damage", [b"", b"no archive", archive_of(entry("stdout.log", bytes(5000)))[:-20], gzip.compress(b"\xff" * 600)])
def test_a_damaged_archive_is_told(damage: bytes) -> None:
    logs, complaints = unpacked(damage)
    assert set(logs) <= {"stdout.log"}
    assert complaints


def test_logs_of_tests_are_asked_for_by_the_names_that_events_announce() -> None:
    announced = suite.Announced()
    test = {
        "event": "test",
        "number": 1,
        "name": "a",
        "status": "pass",
        "duration": 1,
        "directive": None,
        "logs": "tests/a",
        "attempts": None,
        "files": None,
    }
    failed = {**test, "status": "daemon_hang", "logs": "tests/b", "files": ["libvirtd.log", "stdout.log", "libvirtd.log"]}
    flaky = {**test, "status": "flaky", "logs": "tests/c", "attempts": [{"files": ["core.txt"]}, {}]}
    end = {"event": "suite_end", "files": ["avocado-job.log", "runner.log"]}
    for event in (test, failed, flaky, {**test, "logs": None}, {"event": "plan", "count": 4}, end):
        announced.add(event)
    places = ["tests/b", "tests/c", "tests/c/attempt-1", "tests/a"]  # of a limited number, those that failed come
    names = [f"{place}/{name}" for place in places for name in ("stdout.log", "stderr.log")]
    names.insert(2, "tests/b/libvirtd.log")  # and none that means a log, nor any twice
    names.insert(7, "tests/c/attempt-1/core.txt")
    assert announced.files() == names
    assert announced.of_suite == ["avocado-job.log"]
    assert announced.missing(names) == []
    assert announced.missing(["tests/b/stderr.log", "tests/a/stdout.log"]) == [
        "not fetched: tests/b/libvirtd.log, tests/c/attempt-1/core.txt",
        "no log was fetched of 1 tests, first tests/c",
    ]


def test_no_file_of_a_guest_takes_the_place_of_a_result() -> None:
    announced = suite.Announced()
    names = ["events.jsonl", "tests", "attempt-1", "stdout.log", "stderr.log", "runner.log"]
    test = {"event": "test", "status": "fail", "directive": None, "logs": "tests/a", "attempts": [{"files": names}, {}], "files": names}
    announced.add(test)
    announced.add({"event": "suite_end", "files": names})
    assert announced.of_suite == []
    logs = [f"{place}/{name}" for place in ("tests/a", "tests/a/attempt-1") for name in ("stdout.log", "stderr.log")]
    assert announced.files() == logs


def test_a_large_file_of_a_test_is_kept_packed() -> None:
    large = b"error : of the daemon\n" * 50_000
    name, content = suite.stored("tests/a/libvirtd.log", large, ())
    assert (name, gzip.decompress(content)) == ("tests/a/libvirtd.log.gz", large)
    assert len(content) < len(large) / 10
    assert suite.stored("tests/a/libvirtd.log", large[: suite.PLAIN_LIMIT], ()) == ("tests/a/libvirtd.log", large[: suite.PLAIN_LIMIT])
    # Another file of the test has that name already.
    assert suite.stored("tests/a/x", large, ["tests/a/x", "tests/a/x.gz"]) == ("tests/a/x", large)


@pytest.mark.parametrize("files", [["../x"], ["a/b"], ["-rf"], [".x"], ["a b"], ["a\n"], ["x"] * 33, "x", [7], ["a" * 101], [""]])
def test_files_of_other_names_make_the_event_unreadable(files: Any) -> None:
    test = {"event": "test", "time": 1, "number": 1, "name": "a", "status": "pass", "duration": 1, "logs": "tests/a", "files": files}
    end = {"event": "suite_end", "time": 1, "exit_status": 0, "timed_out": False, "duration": 1, "planned": 1, "seen": 1, "files": files}
    for event in (test, end):
        (read,) = suite.EventStream(io.BytesIO()).feed(json.dumps(event).encode() + b"\n")
        assert read["event"] == "unreadable"


@pytest.mark.parametrize(
    "logs", ["tests/../../x", "/etc", "tests/a/b", "tests/", "tests/.a", "other/a", "tests/a\nb", "tests/" + "a" * 200]
)
def test_an_event_that_announces_logs_elsewhere_is_unreadable(logs: str) -> None:
    test = {"event": "test", "time": 1, "number": 1, "name": "a", "status": "pass", "duration": 1, "logs": logs}
    (event,) = suite.EventStream(io.BytesIO()).feed(json.dumps(test).encode() + b"\n")
    assert event["event"] == "unreadable"


def test_events_are_kept_byte_for_byte_and_joined_across_answers() -> None:
    lines = [{"event": "plan", "time": 1, "count": 1}, {"event": "nonsense"}, {"event": "bail_out", "time": 2}]
    data = "".join(json.dumps(line) + "\n" for line in lines).encode() + b"\xff\xfe\n"
    kept = io.BytesIO()
    stream = suite.EventStream(kept)
    events = [event for start in range(0, len(data), 7) for event in stream.feed(data[start : start + 7])]
    assert [event["event"] for event in events] == ["plan", "unreadable", "bail_out", "unreadable"]
    assert kept.getvalue() == data
    assert stream.offset == len(data)
    assert not stream.ended


def test_a_line_that_never_ended_is_kept_for_the_verdict_to_see() -> None:
    kept = io.BytesIO()
    with contextlib.closing(suite.EventStream(kept)) as stream:
        assert list(stream.feed(b'{"event": "pl')) == []
    assert kept.getvalue() == b'{"event": "pl'


def test_secrets_are_taken_out_of_events() -> None:
    test = {"event": "test", "time": 1, "number": 1, "name": "logs in as hunter2", "status": "fail", "duration": 1, "logs": "tests/hunter2"}
    test["message"] = '# Authorization: Bearer abcdefghijklmnop\n# said hunter2 "hunter2"'
    test["attempts"] = [{"status": "fail", "duration": 1, "message": "hunter2"}]
    lines = [json.dumps(test), '{"event": "hunter2"}', '{"torn hunter2']
    kept = io.BytesIO()
    with contextlib.closing(suite.EventStream(kept, job_patterns(["hunter2"]))) as stream:
        event, unreadable = stream.feed("\n".join(lines).encode())
    first, second, third = kept.getvalue().decode().split("\n")
    assert json.loads(first) == event
    assert event["logs"] == "tests/hunter2", "a path stays one"
    for text in (event["name"], event["message"], event["attempts"][0]["message"], unreadable["error"], second, third):
        assert "hunter2" not in text
        assert "scrubbed" in text
    assert "abcdefghijklmnop" not in event["message"]
    assert event["message"].startswith("# Authorization: ")


# --- screen -----------------------------------------------------------------------------------------------------


def test_lines_a_person_sees() -> None:
    screen = suite.Screen("smoke@bookworm")
    test = {"event": "test", "number": 1, "name": "opens", "status": "pass", "duration": 3.14, "directive": None, "message": ""}
    failed = {**test, "name": "", "number": 2, "status": "fail", "message": "  Failed test 'x'\n  got: 3"}
    end = {"event": "suite_end", "exit_status": 1, "signal": None, "timed_out": False, "duration": 9.5, "error": None}
    events = [{"event": "plan", "count": 95, "reason": None}, test, failed, {"event": "bail_out", "reason": "gone"}, end]
    lines = [text for event in events for text, _colour in screen.lines(event)]
    assert lines == [
        "  smoke@bookworm  1/95 opens \u2026 PASS 3.1 s",
        "  smoke@bookworm  2/95 test 2 \u2026 FAIL 3.1 s",
        "  smoke@bookworm      got: 3",
        "  smoke@bookworm  bail out: gone",
        "  smoke@bookworm  ended with exit status 1, 2 tests seen, 9.5 s",
    ]


def test_a_guest_cannot_write_on_the_terminal_nor_to_the_ci_system() -> None:
    name = "a\x1b[2J\r\n::error::b\x07\u202e\x9b"
    test = {"event": "test", "number": 1, "name": name, "status": "pass", "duration": 0.0, "directive": None, "message": ""}
    ((line, _colour),) = suite.Screen("s@g").lines(test)
    assert line.isprintable()
    assert line.startswith("  s@g  1 a")


@pytest.mark.parametrize("name", ["##[error]x", "a ##[add-mask]b", "##vso[task.complete]", "x ##[stop-commands]y"])
def test_a_guest_cannot_write_a_command_into_the_middle_of_a_line(name: str) -> None:
    test = {"event": "test", "number": 1, "name": name, "status": "fail", "duration": 0.0, "directive": None, "message": name}
    lines = [line for line, _colour in suite.Screen("s@g").lines(test)]
    assert len(lines) == 2
    assert not any("##[" in line or "##vso[" in line for line in lines)


def test_what_is_said_of_tests_that_do_not_run_is_short() -> None:
    screen = suite.Screen("s@g")
    plan = {"event": "plan", "count": 30, "reason": "nothing matches deny 'x*'"}
    test = {
        "event": "test",
        "name": "t",
        "status": "not_run",
        "duration": 0.0,
        "directive": "requires",
        "message": "kernel >=9: it is 6.1\nmore",
    }
    end = {"event": "suite_end", "exit_status": 0, "signal": None, "timed_out": False, "duration": 1.0, "error": None}
    events = [plan, *({**test, "number": number} for number in range(1, 31)), end]
    lines = [text for event in events for text, _colour in screen.lines(event)]
    assert lines[:2] == ["  s@g  nothing matches deny 'x*'", "  s@g  1/30 t \u2026 NOT RUN (requires: kernel >=9: it is 6.1)"]
    assert lines[-2:] == ["  s@g  and 10 more not run", "  s@g  ended with exit status 0, 30 tests seen, 1.0 s"]
    assert len(lines) == 1 + 20 + 2


def test_attempts_details_and_what_is_left_behind() -> None:
    screen = suite.Screen("s@g")
    attempt = {"event": "attempt", "number": 1, "name": "t", "attempt": 1, "status": "fail", "duration": 2.0, "message": "got 3"}
    test = {
        "event": "test",
        "number": 1,
        "name": "t",
        "status": "fail",
        "duration": 3.0,
        "directive": None,
        "message": "",
        "leftovers": ["7 sleep"],
    }
    detail = {"event": "detail", "number": 1, "message": "ValueError: x"}
    events = [attempt, test, detail, {**detail, "number": 2}]
    assert [text for event in events for text, _colour in screen.lines(event)] == [
        "  s@g  t \u2026 FAIL 2.0 s, to be tried again",
        "  s@g      got 3",
        "  s@g  1 t \u2026 FAIL 3.0 s",
        "  s@g      left behind: 7 sleep",
        "  s@g  details of t",
        "  s@g      ValueError: x",
    ]


def test_sections_where_the_ci_knows_them() -> None:
    assert suite.fold("smoke@one", {}, 7) is None
    assert suite.fold("smoke@one", {"GITHUB_ACTIONS": "true"}, 7) == ("::group::smoke@one", "::endgroup::")
    assert suite.fold("smoke@one", {"GITLAB_CI": "true"}, 7.2) == (
        "\x1b[0Ksection_start:7:mayfly_smoke_one\r\x1b[0Ksmoke@one",
        "\x1b[0Ksection_end:7:mayfly_smoke_one\r\x1b[0K",
    )


# --- patience ---------------------------------------------------------------------------------------------------


def test_a_call_that_hangs_is_ended_with_its_processes() -> None:
    started: list[subprocess.Popen[bytes]] = []

    def hang() -> int:
        process = subprocess.Popen(["sleep", "600"])
        started.append(process)
        return process.wait()

    with pytest.raises(_contact.ContactFailed, match="no answer within"):
        _contact.bounded(hang, 0.3)
    assert started[0].wait(5) == -15


def test_bounded_returns_and_raises_what_the_call_does() -> None:
    assert _contact.bounded(lambda: 7, 5) == 7
    with pytest.raises(ZeroDivisionError):
        _contact.bounded(lambda: 1 // 0, 5)


class FakeAction:
    """Answers from a list; an exception in it is raised."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.resets = 0

    def execute(self, command: str, data: bytes) -> dict[str, Any]:
        assert data, "without data there would be a pseudo-terminal"
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return {"rc": 0, "stdout": "", "stderr": "", **answer}

    def reset_connection(self) -> None:
        self.resets += 1


def test_contact_comes_back_after_a_broken_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "RETRY_PAUSE", 0.01)
    good = {"stdout": "motd\n=mayfly=\nline \udcff", "rc": 90}
    action = FakeAction(AnsibleConnectionFailure("refused"), {"rc": 255}, {"rc": -15}, {"stdout": "only a banner"}, good)
    assert suite.Contact(action, 5).ask("poll", 0) == (90, b"line \xff", "")
    assert action.resets == 4


def test_a_guest_that_does_not_come_back_is_lost_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "RETRY_PAUSE", 0.01)
    began = time.monotonic()
    with pytest.raises(suite.GuestLost, match="not reached for 1 s; last error: refused"):
        suite.Contact(FakeAction(AnsibleConnectionFailure("refused")), 1).ask("poll", 20)
    assert 0.9 < time.monotonic() - began < 3


def test_an_error_that_is_no_broken_connection_is_not_retried() -> None:
    action = FakeAction(ValueError("a bug"))
    with pytest.raises(ValueError, match="a bug"):
        suite.Contact(action, 5).ask("poll", 0)
    assert action.resets == 0


def test_documentation_and_argument_specification_agree() -> None:
    compare(yaml.safe_load(documented.DOCUMENTATION)["options"], suite.ARGUMENTS)


def compare(documented_options: dict[str, Any], arguments: dict[str, Any]) -> None:
    assert set(documented_options) == set(arguments)
    for name, argument in arguments.items():
        for key in ("type", "default", "choices", "elements", "required"):
            assert documented_options[name].get(key) == argument.get(key), (name, key)
        compare(documented_options[name].get("suboptions", {}), argument.get("options", {}))
