# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module, run as Ansible runs it: files written once, nothing written in check mode."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.mayfly.virt.plugins.modules import verdict as module

FILES = ("verdict.json", "junit.xml", "summary.txt", "report.html", "step-summary.md")


PROGRAM = """
import json, sys
sys.path[:0] = {path!r}
from ansible.module_utils.testing import patch_module_args
from ansible_collections.mayfly.virt.plugins.modules import verdict
with patch_module_args({arguments!r}):
    verdict.main()
"""


def run(results: Path, *, check: bool = False, **options: Any) -> dict[str, Any]:
    """Run the module in a process of its own."""
    arguments = {"results": str(results), **options, "_ansible_check_mode": check, "_ansible_remote_tmp": "/tmp"}
    program = PROGRAM.format(path=sys.path, arguments=arguments)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    return {"rc": done.returncode, **json.loads(done.stdout or json.dumps({"stderr": done.stderr}))}


@pytest.fixture
def results(tmp_path: Path, story: Any) -> Path:
    directory = tmp_path / "20261121-024300-1f2e"
    evidence = story.evidence()
    (directory / "suites" / "smoke" / "bookworm").mkdir(parents=True)
    (directory / "guests" / "bookworm").mkdir(parents=True)
    (directory / "job.json").write_text(evidence.job)
    (directory / "phases.jsonl").write_text(evidence.phases)
    (directory / "suites" / "smoke" / "bookworm" / "events.jsonl").write_text(evidence.events["smoke", "bookworm"])
    (directory / "guests" / "bookworm" / "console.log").write_text(evidence.consoles["bookworm"])
    (directory / "guests" / "bookworm" / "facts.json").write_text('{"uname": "6.1.0"}')
    return directory


def test_check_mode_then_write_then_nothing(results: Path) -> None:
    predicted = run(results, check=True)
    assert predicted["rc"] == 0
    assert predicted["changed"] is True
    assert not any((results / name).exists() for name in FILES)
    first = run(results)
    assert first == predicted
    assert json.loads((results / "verdict.json").read_text())["guests"][0]["facts"] == {"uname": "6.1.0"}
    assert (results / "summary.txt").read_text() == first["summary"]
    written = {name: (results / name).stat() for name in FILES}
    assert {oct(stat.st_mode & 0o777) for stat in written.values()} == {"0o644"}
    for check in (False, True):
        again = run(results, check=check)
        assert again == {**first, "changed": False}
    assert {name: (results / name).stat().st_mtime_ns for name in FILES} == {name: stat.st_mtime_ns for name, stat in written.items()}
    assert sorted(path.name for path in results.iterdir()) == sorted([*FILES, "job.json", "phases.jsonl", "suites", "guests"])


def test_a_red_verdict_is_returned_and_does_not_fail_the_task(results: Path) -> None:
    (results / "suites" / "smoke" / "bookworm" / "events.jsonl").unlink()
    outcome = run(results)
    assert outcome["rc"] == 0
    assert (outcome["verdict"], outcome["exit_code"]) == ("error", 2)
    assert outcome["summary"].startswith("ERROR")


def test_the_report_shows_the_end_of_what_a_red_suite_printed(results: Path) -> None:
    suite = results / "suites" / "smoke" / "bookworm"
    (suite / "stdout.log").write_bytes(b"the beginning\n" + b"\xff noise\n" * module.OUTPUT_LIMIT + b"the last word\n")
    run(results)
    assert "the last word" not in (results / "report.html").read_text()
    suite.joinpath("events.jsonl").unlink()
    assert run(results)["changed"] is True
    report = (results / "report.html").read_text()
    assert "the last word" in report
    assert "the beginning" not in report
    assert run(results)["changed"] is False


def test_a_directory_without_a_job_is_an_error(tmp_path: Path) -> None:
    assert run(tmp_path)["verdict"] == "error"


def test_a_complaint_that_was_rotated_away_still_counts(results: Path) -> None:
    """virtlogd begins a new file when a console fills one; a chatty guest must not talk its BUG away."""
    assert run(results)["verdict"] == "passed"
    oldest = results / "guests" / "bookworm" / "console.log.1"
    oldest.write_text("[    1.0] Linux version 6.1.0\n[    2.0] BUG: unable to handle page fault\n")
    (results / "guests" / "bookworm" / "console.log.0").write_text("[    3.0] chatter\n")
    outcome = run(results)
    assert (outcome["verdict"], outcome["exit_code"]) == ("failed", 1)
    assert any("BUG: unable to handle page fault (console line 2)" in reason for reason in outcome["reasons"])
    oldest.unlink()
    assert run(results)["verdict"] == "passed"


def test_a_console_that_nobody_read_is_no_quiet_one(results: Path) -> None:
    job = json.loads((results / "job.json").read_text())
    job["guests"][0]["uuid"] = "3b90b180-ff3f-49ee-9a2b-48575fa59fcb"  # it was made
    (results / "job.json").write_text(json.dumps(job))
    assert run(results)["verdict"] == "passed"
    (results / "guests" / "bookworm" / "console.log").unlink()
    outcome = run(results)
    assert (outcome["verdict"], outcome["exit_code"]) == ("error", 2)
    assert "the console of bookworm was not read" in outcome["reasons"]


def test_the_summary_of_a_step_is_appended_once(results: Path, tmp_path: Path) -> None:
    path = tmp_path / "summary.md"
    path.write_text("what another step said\n")
    assert run(results, check=True, step_summary=str(path))["changed"] is True
    assert path.read_text() == "what another step said\n"
    assert run(results, step_summary=str(path))["changed"] is True
    text = path.read_text()
    assert text == "what another step said\n" + (results / "step-summary.md").read_text()
    assert run(results, step_summary=str(path))["changed"] is False
    assert path.read_text() == text


def test_the_summary_of_a_step_stays_below_what_the_ci_takes(results: Path, tmp_path: Path) -> None:
    path = tmp_path / "summary.md"
    path.write_text("x" * 1_023_500)
    run(results, step_summary=str(path))
    assert path.stat().st_size <= 1024 * 1000
    assert "More in report.html" in path.read_text()


def test_a_summary_that_cannot_be_written_is_a_warning(results: Path, tmp_path: Path) -> None:
    outcome = run(results, step_summary=str(tmp_path / "missing" / "summary.md"))
    assert (outcome["rc"], outcome["verdict"]) == (0, "passed")
    assert "Could not append the verdict" in json.dumps(outcome["warnings"])


def test_a_failure_in_a_gitlab_project_has_its_log_attached(results: Path, tmp_path: Path) -> None:
    (results / "suites" / "smoke" / "bookworm" / "events.jsonl").write_text(
        (results / "suites" / "smoke" / "bookworm" / "events.jsonl").read_text().replace('"status": "pass"', '"status": "fail"', 1)
    )
    (results / "suites" / "smoke" / "bookworm" / "stderr.log").write_text("all well\nerror: no disk\n")
    outcome = run(results, project_dir=str(tmp_path))
    assert "in stderr.log line 2: error: no disk" in outcome["summary"]
    attached = f"[[ATTACHMENT|{results.name}/suites/smoke/bookworm/stderr.log]]"
    assert attached in (results / "junit.xml").read_text()
    assert run(results)["changed"] is True
    assert attached not in (results / "junit.xml").read_text()


def test_a_log_that_leads_out_is_not_read(results: Path, tmp_path: Path) -> None:
    suite = results / "suites" / "smoke" / "bookworm"
    (tmp_path / "secret").write_text("error: secret\n")
    (suite / "inside.log").write_text("inside\n")
    assert module.read_log(results, "suites/smoke/bookworm/inside.log") == "inside\n"
    (suite / "stderr.log").symlink_to(tmp_path / "secret")
    (suite / "tests").symlink_to(tmp_path)
    for path in ("stderr.log", "tests/secret", "missing.log", "../../../../secret", "."):
        assert module.read_log(results, f"suites/smoke/bookworm/{path}") == ""


def keep(results: Path, files: dict[str, bytes]) -> Path:
    """Let the first test fail and leave files, as the action puts them down."""
    suite = results / "suites" / "smoke" / "bookworm"
    lines = [json.loads(line) for line in (suite / "events.jsonl").read_text().splitlines()]
    names = [name.removesuffix(".gz") for name in files]
    lines[2].update(status="fail", message="failed: it starts", logs="tests/t-1", files=names)
    lines[-1]["exit_status"] = 1
    (suite / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (suite / "tests" / "t-1").mkdir(parents=True)
    for name, content in files.items():
        (suite / "tests" / "t-1" / name).write_bytes(content)
    return suite / "tests" / "t-1"


ERROR = b"2026-11-21 17:56:51.123+0000: 78: error : virX:1 : no emulator\n"


def test_kept_files_are_read_packed_or_not(results: Path) -> None:
    place = "suites/smoke/bookworm/tests/t-1"
    keep(results, {"libvirtd.log.gz": gzip.compress(b"debug\n" + ERROR), "libvirt.json": b'{"leaked": ["domain tck"], "daemons": {}}'})
    outcome = run(results)
    assert outcome["rc"] == 0
    test = json.loads((results / "verdict.json").read_text())["suites"][0]["tests"][0]
    assert test["clue"] == {"file": f"{place}/libvirtd.log.gz", "line": 2, "text": ERROR.decode().strip()}
    assert (test["files"][0]["path"], test["libvirt"]["leaked"]) == (f"{place}/libvirtd.log.gz", ["domain tck"])
    assert "in libvirtd.log.gz line 2: error : no emulator" in outcome["summary"]
    assert f'<a href="{place}/libvirtd.log.gz">' in (results / "report.html").read_text()
    assert run(results)["changed"] is False


def test_a_file_that_unpacks_without_end_or_is_broken(results: Path) -> None:
    bomb = gzip.compress(ERROR + b"x" * (64 << 20))
    whole = gzip.compress(ERROR * 1000)
    place = keep(
        results, {"libvirtd.log.gz": bomb, "virtqemud.log.gz": whole[:-30], "virtlogd.log.gz": whole[:-4] + b"0000", "qemu-a.log": b""}
    )
    outcome = run(results)
    assert outcome["rc"] == 0
    read = {name: module.read_log(results, f"{place.relative_to(results)}/{name}.log") for name in ("libvirtd", "virtqemud", "virtlogd")}
    assert read["libvirtd"] == ERROR.decode() + "x" * (module.LOG_LIMIT - len(ERROR))
    for name in ("virtqemud", "virtlogd"):
        assert read[name].endswith("[the rest of this file cannot be unpacked]\n")


def test_a_kept_file_that_is_a_link_is_none(results: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.log").write_bytes(ERROR)
    place = keep(results, {"libvirtd.log": b""})
    (place / "libvirtd.log").unlink()
    (place / "libvirtd.log").symlink_to(tmp_path / "secret.log")
    (place / "libvirtd.log.gz").symlink_to(tmp_path / "secret.log")
    run(results)
    test = json.loads((results / "verdict.json").read_text())["suites"][0]["tests"][0]
    assert test["files"] == [{"name": "libvirtd.log", "path": None, "bytes": None}]
    assert "clue" not in test


def test_no_directory_fails_the_task(tmp_path: Path) -> None:
    outcome = run(tmp_path / "missing")
    assert outcome["rc"] != 0
    assert outcome["failed"] is True
    assert "is no directory" in outcome["msg"]


def test_documentation_is_complete() -> None:
    assert set(yaml.safe_load(module.DOCUMENTATION)["options"]) == {"results", "project_dir", "step_summary"}
    returned = yaml.safe_load(module.RETURN)
    assert set(returned) == {"verdict", "exit_code", "reasons", "summary", "counts", "failed_tests", "files"}
