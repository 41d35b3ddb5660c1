# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The directory that a test of many has to itself: the files kept of it, its report, and the judgement of whoever watched it."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_tests_suite import Many

from ansible_collections.mayfly.virt.plugins.module_utils import _events

SAYS = "printf %s '{}' >$MAYFLY_TEST_DIR/judgement.json; "


@pytest.fixture
def many(program: Any) -> Many:
    return Many(program)


def judgement(status: str, *message: str) -> str:
    """Shell text that leaves a judgement."""
    return SAYS.format(json.dumps({"status": status, "message": list(message)}))


# --- files ------------------------------------------------------------------------------------------------------


def test_what_a_test_knows_of_itself_and_leaves_is_kept(many: Many) -> None:
    command = 'cd "$MAYFLY_TEST_DIR" && pwd && echo $MAYFLY_ATTEMPT >libvirtd.log && echo "$MAYFLY_TEST_NAME" >name.txt'
    test = many.run({"name": "a/b c", "command": command})["a/b c"]
    directory = many.program.out / "tests/a_b_c"
    assert (test["status"], test["files"], test["logs"], test["message"]) == ("pass", ["libvirtd.log", "name.txt"], "tests/a_b_c", "")
    assert (directory / "stdout.log").read_text() == f"{directory}\n"
    assert ((directory / "libvirtd.log").read_text(), (directory / "name.txt").read_text()) == ("1\n", "a/b c\n")
    assert many.judged()["tests"][0]["files"] == ["libvirtd.log", "name.txt"]


def test_a_test_that_leaves_nothing_has_no_directory(many: Many) -> None:
    tests = many.run({"name": "silent", "command": 'test -d "$MAYFLY_TEST_DIR"'}, {"name": "b", "command": "false"}, retries=1)
    assert all("logs" not in test and "files" not in test for test in tests.values())
    assert not (many.program.out / "tests/silent").exists()


def test_what_is_no_plain_file_is_not_kept(many: Many) -> None:
    names = "'a b' .hidden -rf \"$(printf 'x\\ny')\" judgement.json.tmp stdout.log.1"
    left = f"cd $MAYFLY_TEST_DIR; touch -- {names}; ln -s /etc/passwd link; mkfifo pipe; mkdir sub attempt-7; touch sub/x"
    test = many.run({"name": "t", "command": left})["t"]
    assert test["files"] == ["judgement.json.tmp", "stdout.log.1"]
    assert (test["status"], test["message"].count("not kept: ")) == ("pass", 6)
    assert "not kept: 'link' is no plain file" in test["message"]
    assert "not kept: 'x\\ny' has a name that cannot be used" in test["message"]
    assert many.judged()["status"] == "passed"


def test_files_are_bounded_and_small_ones_come_first(many: Many) -> None:
    left = "cd $MAYFLY_TEST_DIR; for n in $(seq 40); do echo $n >f$n; done; truncate -s 17M large; truncate -s 16M big"
    test = many.run({"name": "t", "command": left})["t"]
    assert len(test["files"]) == 32
    assert "big" not in test["files"]
    assert "not kept: 'large' has 17825792 bytes, more than 16777216" in test["message"]
    assert test["message"].count("is beyond 32 files") == 9
    several = many.program.out.parent / "again"
    many.program.out = several
    test = many.run({"name": "t", "command": "cd $MAYFLY_TEST_DIR; for n in 1 2 3 4 5; do truncate -s 15M f$n; done; echo x >small"})["t"]
    assert test["files"] == ["f1", "f2", "f3", "f4", "small"]
    assert test["message"] == "not kept: 'f5' is beyond 32 files, or 67108864 bytes of all"


def test_files_of_each_attempt_are_put_aside(many: Many) -> None:
    command = "cd $MAYFLY_TEST_DIR; ls; echo $MAYFLY_ATTEMPT >log; mkdir d attempt-1; exit $((MAYFLY_ATTEMPT < 3))"
    test = many.run({"name": "t", "command": command}, retries=2)["t"]
    directory = many.program.out / "tests/t"
    assert (test["status"], test["files"]) == ("flaky", ["log"])
    assert [attempt.get("files") for attempt in test["attempts"]] == [["log"], ["log"], ["log"]]
    assert [(directory / where / "log").read_text() for where in ("attempt-1", "attempt-2", ".")] == ["1\n", "2\n", "3\n"]
    # Nothing of an attempt is there for the next one, but for what was put aside.
    assert (directory / "attempt-2/stdout.log").read_text() == "attempt-1\n"
    assert many.judged()["status"] == "passed"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a test as somebody else")
def test_the_directory_belongs_to_whoever_the_test_runs_as(runner: ModuleType, tmp_path: Path) -> None:
    own = runner.TestDirectory(tmp_path / "t", "nobody")
    own.make()
    assert own.path.stat().st_uid == pwd.getpwnam("nobody").pw_uid


def test_a_place_for_what_is_put_aside_that_leads_elsewhere_is_not_followed(runner: ModuleType, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    own = runner.TestDirectory(tmp_path / "t", None)
    own.make()
    (own.path / "attempt-1").symlink_to(elsewhere)
    (own.path / "stdout.log").write_text("x")
    own.put_aside(1)
    assert (own.path / "attempt-1/stdout.log").read_text() == "x"
    assert list(elsewhere.iterdir()) == []


# --- judgement --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("judged", "command", "status"),
    [
        ("error", "true", "error"),
        ("daemon_hang", "true", "daemon_hang"),
        ("error", "exit 3", "fail"),
        ("daemon_hang", "exit 3", "daemon_hang"),
        ("error", "sleep 60", "timeout"),
        ("daemon_hang", "sleep 60", "daemon_hang"),
    ],
)
def test_a_judgement_makes_a_test_worse_and_says_why_first(many: Many, judged: str, command: str, status: str) -> None:
    test = many.run({"name": "t", "command": judgement(judged, "libvirtd died", "by SIGSEGV") + command, "deadline": 1})["t"]
    assert test["status"] == status
    assert test["message"].startswith("libvirtd died\nby SIGSEGV\n")
    assert ("it ended with exit status 3" in test["message"]) == (command == "exit 3")
    assert ("its deadline of 1 s was reached" in test["message"]) == (command == "sleep 60")
    assert many.judged()["status"] == "failed"


def test_of_a_skipped_test_no_skip_is_left(many: Many) -> None:
    test = many.run({"name": "t", "command": judgement("error", "it died") + "echo '1..0 # SKIP no tun'", "parser": "tap"})["t"]
    assert (test["status"], test["directive"]) == ("error", None)


def test_a_hang_is_tried_again_with_a_directory_without_judgement(many: Many) -> None:
    test = many.run({"name": "t", "command": f"test $MAYFLY_ATTEMPT = 2 || {{ {judgement('daemon_hang', 'mute')} }}"}, retries=1)["t"]
    assert (test["status"], [attempt["status"] for attempt in test["attempts"]]) == ("flaky", ["daemon_hang", "pass"])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "Expecting value"),
        ("[]", "no JSON object"),
        ('{"status": "error"}', "no JSON object of status and message"),
        ('{"status": "error", "message": [], "more": 1}', "no JSON object of status and message"),
        ('{"status": "pass", "message": []}', "its status is 'pass'"),
        ('{"status": ["error"], "message": []}', "its status is"),
        ('{"status": "error", "message": "died"}', "no list of lines"),
        ('{"status": "error", "message": [7]}', "no list of lines"),
        ("[" * 100_000, "recursion"),
    ],
)
def test_a_judgement_that_cannot_be_used_is_an_error(runner: ModuleType, text: str, why: str) -> None:
    read = runner.read_judgement(text.encode())
    assert read.status == "error"
    assert read.message[0].startswith("judgement.json cannot be used: ")
    assert why in read.message[0]


@pytest.mark.parametrize("made", ["ln -s /etc/hostname", "mkfifo", "mkdir", "truncate -s 70K"])
def test_a_judgement_that_is_no_plain_file_is_an_error(many: Many, made: str) -> None:
    test = many.run({"name": "t", "command": f"{made} $MAYFLY_TEST_DIR/judgement.json"})["t"]
    assert test["status"] == "error"
    assert test["message"].startswith("judgement.json cannot be used: ")


@given(st.binary(max_size=300))
def test_no_judgement_makes_a_test_better(runner: ModuleType, text: bytes) -> None:
    read = runner.read_judgement(text)
    for status in ("pass", "skip", "fail", "timeout", "error", "daemon_hang"):
        assert runner.worse(status, read.status) in runner.RED
    json.dumps(read.message).encode("ascii")


def test_half_characters_of_a_judgement_do_not_break_the_events(many: Many) -> None:
    test = many.run({"name": "t", "command": judgement("error", "x\ud800y\nz")})["t"]
    assert test["message"].split("\n")[:2] == ["x?y", "z"]


# --- reports and lists ------------------------------------------------------------------------------------------

JUNIT = '<testsuite tests="2" failures="{0}"><testcase name="a"/><testcase name="b">{1}</testcase></testsuite>'


def test_the_report_of_a_test_lies_in_its_directory(many: Many) -> None:
    (many.directory / "good.xml").write_text(JUNIT.format(0, ""))
    (many.directory / "bad.xml").write_text(JUNIT.format(1, '<failure message="got 3"/>'))
    leave = "mkdir $MAYFLY_TEST_DIR/r; cp {0} $MAYFLY_TEST_DIR/r/x.xml; exit {1}"
    entry = {"parser": "junit", "report": "r/x.xml"}
    tests = many.run(
        {"name": "good", "command": leave.format("good.xml", 0), **entry},
        {"name": "bad", "command": leave.format("bad.xml", 1), **entry},
        {"name": "liar", "command": leave.format("bad.xml", 0), **entry},
        {"name": "none", "command": "true", **entry},
        {"name": "link", "command": "mkdir $MAYFLY_TEST_DIR/r; ln -s $PWD/good.xml $MAYFLY_TEST_DIR/r/x.xml", **entry},
    )
    assert {name: test["status"] for name, test in tests.items()} == {
        "good": "pass",
        "bad": "fail",
        "liar": "error",
        "none": "error",
        "link": "error",
    }
    assert tests["bad"]["message"] == "failed: b\n  got 3"
    assert "the report cannot be used: 'r/x.xml': No such file" in tests["none"]["message"]


def test_the_report_of_an_earlier_attempt_is_not_read_again(many: Many) -> None:
    (many.directory / "bad.xml").write_text(JUNIT.format(1, "<failure/>"))
    command = "test $MAYFLY_ATTEMPT = 2 || { cp bad.xml $MAYFLY_TEST_DIR/x.xml; exit 1; }"
    test = many.run({"name": "t", "command": command, "parser": "junit", "report": "x.xml"}, retries=1)["t"]
    assert [attempt["status"] for attempt in test["attempts"]] == ["fail", "error"]
    assert test["status"] == "error"


def listed(many: Many, content: Any) -> str:
    path = many.directory / "tests.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_a_file_lists_tests(many: Many) -> None:
    path = listed(
        many,
        [
            {"name": "domain/050", "command": ["sh", "-c", "echo 1..1; echo ok 1"], "parser": "tap"},
            {"name": "domain/060", "command": ["sleep", "60"], "deadline": 0.25},
            {"name": "domain/103", "not_run": "there is no spare block device"},
            {"name": "domain/110", "command": ["true"], "requires": {"devices": ["/no/such"]}},
            {"name": "domain/120", "command": ["true"]},
            {"name": "domain/130", "command": ["false"]},
        ],
    )
    tests = many.run(
        {"list": path, "requires": {"commands": ["sh"]}},
        {"name": "other", "command": "true"},
        deadline_factor=2,
        deny=[{"test": "domain/120", "reason": "broken"}],
        select=["domain/*", "other"],
    )
    assert {name: (test["status"], test["directive"]) for name, test in tests.items()} == {
        "domain/050": ("pass", None),
        "domain/060": ("timeout", None),
        "domain/103": ("not_run", "requires"),
        "domain/110": ("not_run", "requires"),
        "domain/120": ("not_run", "denied"),
        "domain/130": ("fail", None),
        "other": ("pass", None),
    }
    assert tests["domain/103"]["message"] == "there is no spare block device"
    assert tests["domain/060"]["message"].startswith("its deadline of 0.5 s was reached")  # twice what the file says


def test_what_an_entry_says_of_a_list_holds_for_each_of_its_tests(many: Many) -> None:
    path = listed(many, [{"name": "a", "command": ["true"]}, {"name": "b", "command": ["sleep", "60"]}])
    tests = many.run({"list": path, "deadline": 0.5}, deadline_factor=100)
    assert tests["b"]["message"].startswith("its deadline of 0.5 s")  # it is multiplied already
    many.program.out = many.directory / "out2"
    tests = many.run({"list": path, "requires": {"devices": ["/no/such"]}})
    assert [test["status"] for test in tests.values()] == ["not_run", "not_run"]
    assert many.judged()["status"] == "skipped"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "cannot be read in the guest"),
        ("{}", "no JSON list with at least one test"),
        ("[]", "no JSON list with at least one test"),
        (["a"], "[0] is not a JSON object"),
        ([{"command": ["true"]}], "needs 'name'"),
        ([{"name": "a"}], "needs 'command'"),
        ([{"name": "a", "command": ["true"], "glob": "*"}], "unknown key 'glob'"),
        ([{"name": "a\n", "command": ["true"]}], "printable"),
        ([{"name": "a", "command": ["true"], "deadline": 0}], "'deadline'"),
        ([{"name": "a", "command": ["true"], "parser": "prove"}], "unknown parser 'prove'"),
        ([{"name": "a", "command": ["true"], "parser": "junit"}], "needs 'report'"),
        ([{"name": "a", "command": ["true"], "not_run": ""}], "'not_run'"),
        ([{"name": "a", "command": ["true"]}, {"name": "a", "command": ["false"]}], "tests of the same name: a"),
    ],
)
def test_a_list_that_is_wrong_is_refused_before_anything_is_made(many: Many, content: Any, words: str) -> None:
    arguments = many.program.arguments("run", None, parser="tests", tests=[{"list": listed(many, content)}])
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert words in done.stderr
    assert not many.program.out.exists()


def test_a_daemon_that_hangs_is_red_wherever_it_is_counted(many: Many) -> None:
    many.run({"name": "t", "command": judgement("daemon_hang", "mute")})
    judged = many.judged()
    assert (judged["status"], judged["counts"]["daemon_hang"], many.end["exit_status"]) == ("failed", 1, 1)
    assert [test["name"] for test in _events.failed_tests([judged])] == ["t"]
