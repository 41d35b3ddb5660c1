# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Avocado itself as who asks for tests, from the task to what is kept on the controller."""

from __future__ import annotations

import gzip
import json
import os
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

AVOCADO = Path(__file__).resolve().parents[3] / "build" / "avocado" / "bin"

JUDGED = """'{"status": "daemon_hang", "message": ["libvirtd does not answer"]}'"""
TESTS = [
    {"name": "domain/050 # SKIP", "command": "echo 1..1; echo ok 1; echo 'Bail out! of a name'", "parser": "exit_code"},
    {"name": "fail", "command": "printf 'got 3\\nok 2\\n\\377\\033[31m'; exit 3"},
    {"name": "bails", "command": "echo 1..1; echo ok 1; exit 255", "parser": "tap"},
    {"name": "hides", "command": "echo 1..2; echo 'ok 1 # SKIP x'; echo not ok 2 - sums; exit 1", "parser": "tap"},
    {"name": "timeout", "command": "sleep 60", "deadline": 1},
    {"name": "skip", "command": "echo '1..0 # SKIP no tun'", "parser": "tap"},
    {"name": "known", "command": "echo 1..1; echo 'not ok 1 # TODO x'", "parser": "tap"},
    {"name": "xpass", "command": "echo 1..1; echo 'ok 1 # TODO x'", "parser": "tap"},
    {"name": "not_run", "command": "true", "requires": {"kernel": ">=99"}},
    {
        "name": "hang",
        "command": f"cd $MAYFLY_TEST_DIR; echo {JUDGED} >judgement.json; yes 'error : password=hunter2' | head -c 2M >libvirtd.log",
    },
    {"name": "luck", "command": "echo try $MAYFLY_ATTEMPT >$MAYFLY_TEST_DIR/qemu-tck.log; exit $((MAYFLY_ATTEMPT < 2))"},
]
STATUSES = {
    "domain/050 # SKIP": "pass",
    "fail": "fail",
    "bails": "error",
    "hides": "fail",
    "timeout": "timeout",
    "skip": "skip",
    "known": "known",
    "xpass": "xpass",
    "not_run": "not_run",
    "hang": "daemon_hang",
    "luck": "flaky",
}
FIRST = ["PASS", "FAIL", "ERROR", "FAIL", "FAIL", "SKIP", "PASS", "WARN", "SKIP", "FAIL", "FAIL"]


def test_avocado_asks_for_each_test_and_tells_the_same(local_site: Any) -> None:
    environment = {"PATH": f"{AVOCADO}:{os.environ['PATH']}"}
    suite = local_site.suite(tests=TESTS, harness="avocado", retries=1, deadline=120, environment=environment)
    code, output = local_site.run(suite)
    assert code == 0, output
    assert "WARNING" not in output
    assert "HANG" in output
    assert "libvirtd does not answer" in output
    events = local_site.events()
    assert {event["name"]: event["status"] for event in events if event["event"] == "test"} == STATUSES
    assert (events[-1]["error"], local_site.outcome["status"], local_site.outcome["counts"]["daemon_hang"]) == (None, "failed", 1)

    kept = local_site.kept()
    results = json.loads((kept / "avocado-results.json").read_text())
    assert [(test["name"], test["status"]) for test in results["tests"]] == list(zip(STATUSES, FIRST))
    again = json.loads((kept / "avocado-2-results.json").read_text())
    assert {test["name"]: test["status"] for test in again["tests"]}["luck"] == "PASS"
    assert len(again["tests"]) == sum(status in ("FAIL", "ERROR") for status in FIRST)
    junit = ElementTree.parse(kept / "avocado-results.xml").getroot()
    assert (junit.get("tests"), junit.get("errors"), junit.get("failures")) == ("11", "1", "5")
    assert "domain/050 # SKIP" in (kept / "avocado-results.html").read_text()
    assert "(02/11) fail:  FAIL" in (kept / "stdout.log").read_text()
    # What a test printed is in Avocado's own report, too.
    assert "[stdout] got 3\n[stdout] ok 2\n" in (kept / "avocado-results.xml").read_text()
    assert results["tests"][1]["fail_reason"] == "it ended with exit status 3: \ufffd [31m"

    tests = {event["name"]: event for event in events if event["event"] == "test"}
    assert (tests["hang"]["files"], tests["luck"]["files"]) == (["libvirtd.log"], ["qemu-tck.log"])
    packed = gzip.decompress((kept / "tests/hang/libvirtd.log.gz").read_bytes())
    assert packed.startswith(b"error : password=")
    assert b"hunter2" not in packed
    assert (kept / "tests/hang/attempt-1/libvirtd.log.gz").is_file()
    assert not (kept / "tests/hang/libvirtd.log").exists()
    assert [(kept / "tests/luck" / name).read_text() for name in ("attempt-1/qemu-tck.log", "qemu-tck.log")] == ["try 1\n", "try 2\n"]


def test_the_harness_leaves_nothing_but_what_is_kept(local_site: Any) -> None:
    listed = local_site.directory / "tests.json"
    listed.write_text(json.dumps([{"name": "a", "command": ["true"]}, {"name": "b", "command": ["true"], "not_run": "no NIC to spare"}]))
    environment = {"PATH": f"{AVOCADO}:{os.environ['PATH']}"}
    task = local_site.suite(tests=[{"list": str(listed)}], harness="avocado", deadline=60, environment=environment)
    with tempfile.TemporaryDirectory(prefix="h") as temporary, tempfile.TemporaryDirectory(prefix="h") as home:
        code, output = local_site.run({**task, "environment": {"TMPDIR": temporary, "HOME": home}})
        assert (os.listdir(temporary), os.listdir(home)) == ([], [])
    assert code == 0, output
    assert "NOT RUN (requires: no NIC to spare)" in output
    assert (local_site.outcome["status"], local_site.outcome["seen"]) == ("passed", 2)
    assert {path.name for path in local_site.kept().iterdir()} == {
        "events.jsonl",
        "stdout.log",
        "stderr.log",
        "runner.log",
        "avocado-results.json",
        "avocado-results.html",
        "avocado-results.xml",
        "avocado-job.log",
    }
