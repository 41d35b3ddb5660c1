# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was kept of single tests: where it lies, the daemon's own error in it, what a test left behind; and tests in which a daemon hung."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.mayfly.virt.plugins.module_utils import (
    _events,
    _failures,
    _junit,
    _kept,
    _report,
    _report_kept,
    _summary,
    _verdict,
)

Sound = Callable[[dict[str, Any]], None]

SAMPLES = Path(__file__).parent / "samples"
BASE = "suites/smoke/bookworm/tests/t-2"
# Of libvirt 9.0.0, while TCK's domain/050 ran with an emulator that is not there; shortened.
DAEMON = (SAMPLES / "libvirtd-no-emulator.log").read_text()
MISS = "2026-11-21 17:56:50.000+0000: 77: error : qemuDomainLookupByName:1454 : Domain not found: no domain with matching name 'tck'"
ERROR = "2026-11-21 17:56:51.123+0000: 78: error : virQEMUCapsCacheLookup:5661 : invalid argument: no emulator"
EARLIER = "2026-11-21 17:56:50.900+0000: 12: error : networkStartNetwork:2000 : internal error: bridge name 'virbr9' already in use."
NOISE = "ethtool ioctl error on vnet0: No such device"
HOSTILE = "</pre></script><script>alert(1)</script>\u202e\x1b[31m"


class Kept:
    """A run in which test 2 failed and has files; the files are here and not on a disk."""

    def __init__(self, story: Any, files: dict[str, str], *, status: str = "fail", message: str = "failed: it starts\n  got: 3") -> None:
        self.story = story
        self.files = {f"{BASE}/{name}": text for name, text in files.items()}
        story.fail(2, message)
        self.event.update(status=status, logs="tests/t-2", files=[name for name in files if name not in ("stdout.log", "stderr.log")])

    @property
    def event(self) -> dict[str, Any]:
        event: dict[str, Any] = self.story.smoke[3]
        return event

    def find(self, path: str) -> tuple[str, int] | None:
        return next(((name, len(self.files[name])) for name in (path, f"{path}.gz") if name in self.files), None)

    def read(self, path: str) -> str:
        found = self.find(path)
        return self.files[found[0]] if found else ""

    def verdict(self) -> dict[str, Any]:
        evidence = self.story.evidence()
        evidence.read, evidence.find = self.read, self.find
        return _verdict.judge(evidence)

    def test(self) -> dict[str, Any]:
        test: dict[str, Any] = self.verdict()["suites"][0]["tests"][1]
        return test

    def report(self) -> str:
        return _report.to_report(self.verdict(), _report.Logs(self.story.consoles, {}, self.read, self.find))


# --- which files there are ------------------------------------------------------------------------------------------


def test_files_lie_where_they_are_stored(story: Any, sound: Sound) -> None:
    kept = Kept(story, {"libvirtd.log": "x", "qemu-tck.log": "yy"})
    kept.files[f"{BASE}/qemu-tck.log.gz"] = kept.files.pop(f"{BASE}/qemu-tck.log")
    kept.event["files"].append("core-libvirtd.txt")
    verdict = kept.verdict()
    sound(verdict)
    assert verdict["suites"][0]["tests"][1]["files"] == [
        {"name": "libvirtd.log", "path": f"{BASE}/libvirtd.log", "bytes": 1},
        {"name": "qemu-tck.log", "path": f"{BASE}/qemu-tck.log.gz", "bytes": 2},
        {"name": "core-libvirtd.txt", "path": None, "bytes": None},
    ]
    assert "Announced and not fetched: core-libvirtd.txt" in kept.report()


@pytest.mark.parametrize("files", [["../x"], [".x"], ["a/b"], ["x" * 101], ["a"] * 33, "x", [3], {"a": 1}])
def test_names_that_are_no_plain_names_are_an_error(story: Any, sound: Sound, files: Any) -> None:
    kept = Kept(story, {})
    kept.event["files"] = files
    verdict = kept.verdict()
    sound(verdict)
    assert verdict["exit_code"] == 2
    assert "cannot be read: test with files" in verdict["reasons"][0] or "cannot be read: test with files" in str(
        verdict["suites"][0]["errors"]
    )


def test_files_need_a_directory(story: Any, sound: Sound) -> None:
    kept = Kept(story, {"libvirtd.log": ERROR})
    kept.event["logs"] = None
    verdict = kept.verdict()
    sound(verdict)
    assert "files" not in verdict["suites"][0]["tests"][1]


def test_each_try_has_its_files(story: Any, sound: Sound) -> None:
    kept = Kept(story, {"libvirtd.log": ERROR, "attempt-1/libvirtd.log": MISS})
    tries = [{"status": "fail", "duration": 1, "message": "got: 3", "files": ["libvirtd.log"]} for _try in range(2)]
    kept.event.update(files=["libvirtd.log"], attempts=tries)
    verdict = kept.verdict()
    sound(verdict)
    test = verdict["suites"][0]["tests"][1]
    assert [file["path"] for file in test["files"]] == [f"{BASE}/libvirtd.log"]
    assert [file["path"] for file in test["attempts"][0]["files"]] == [f"{BASE}/attempt-1/libvirtd.log"]
    assert "files" not in test["attempts"][1]  # the last try is the test itself
    assert test["clue"]["file"] == f"{BASE}/libvirtd.log"
    assert "Files of try 1" in kept.report()


def test_files_of_a_suite(story: Any, sound: Sound) -> None:
    story.end["files"] = ["avocado-results.html"]
    kept = Kept(story, {})
    kept.files["suites/smoke/bookworm/avocado-results.html"] = "<html>"
    verdict = kept.verdict()
    sound(verdict)
    assert verdict["suites"][0]["files"][0]["bytes"] == 6
    assert '<a href="suites/smoke/bookworm/avocado-results.html">avocado-results.html</a> 6 B' in kept.report()


# --- the daemon's first error ---------------------------------------------------------------------------------------

QEMU = "2026-11-21 17:56:51.200+0000: starting up libvirt version: 9.0.0\n/usr/bin/qemu-system-x86_64 \\\n-device no-error,rerror=stop\n"
QEMU_FAILED = "2026-11-21T17:56:51.300000Z qemu-system-x86_64: -drive file=/x: Could not open '/x': Permission denied\n"
QEMU_ENDED = "2026-11-21T17:56:51.300000Z qemu-system-x86_64: terminating on signal 15 from pid 4 (/usr/sbin/libvirtd)\n"

# The logs of a test, and which line of which is its clue.
GUILTY: dict[str, tuple[dict[str, str], tuple[str, int] | None]] = {
    "the daemon's error": ({"libvirtd.log": f"a debug line\n{ERROR}\n{EARLIER}"}, ("libvirtd.log", 2)),
    "before the test's own words": ({"libvirtd.log": ERROR, "stderr.log": "error: no"}, ("libvirtd.log", 1)),
    "not what the test looked for": ({"libvirtd.log": f"{MISS}\n{MISS}\n{ERROR}"}, ("libvirtd.log", 3)),
    "of two daemons the earlier": ({"virtqemud.log": ERROR, "virtnetworkd.log": f"{MISS}\n{EARLIER}"}, ("virtnetworkd.log", 2)),
    "QEMU's rather than a miss": ({"libvirtd.log": MISS, "qemu-tck.log": QEMU + QEMU_FAILED}, ("qemu-tck.log", 4)),
    "the daemon's rather than QEMU's": ({"qemu-tck.log": QEMU_FAILED, "libvirtd.log": ERROR}, ("libvirtd.log", 1)),
    "a miss rather than nothing": ({"libvirtd.log": f"\n{MISS}\n", "qemu-tck.log": QEMU + QEMU_ENDED}, ("libvirtd.log", 2)),
    "what the child said before QEMU": ({"qemu-a.log": "libvirt:  error : cannot execute binary /x: No such file"}, ("qemu-a.log", 1)),
    "the test's own words": ({"libvirtd.log": "all is debug", "stderr.log": "fine\ncannot open"}, ("stderr.log", 2)),
    "no other level": ({"libvirtd.log": ERROR.replace("error", "warning")}, None),
    "no error in a debug line": ({"libvirtd.log": ERROR.replace("error :", "debug :") + " error : x"}, None),
    "noise is none": ({"libvirtd.log": MISS.replace("Domain not found: no domain with matching name 'tck'", NOISE)}, None),
    "not the log of the purge": ({"purge-libvirtd.log": ERROR}, None),
    "nothing kept": ({}, None),
    "as it was recorded": ({"libvirtd.log": DAEMON}, ("libvirtd.log", DAEMON[: DAEMON.index(": error : virQEMU")].count("\n") + 1)),
}


@pytest.mark.parametrize("case", GUILTY)
def test_the_daemons_first_error_is_the_clue(story: Any, sound: Sound, case: str) -> None:
    logs, expected = GUILTY[case]
    kept = Kept(story, logs)
    sound(kept.verdict())
    clue = kept.test().get("clue")
    assert (clue and (clue["file"].removeprefix(f"{BASE}/"), clue["line"])) == expected


MISSES = [
    "Domain not found: no domain with matching uuid 'c7a5fdbd-edaf-9455-926a-d65c16db1809' (tck)",
    "Domain snapshot not found: no domain snapshot with matching name 'x'",
    "Network not found: no network with matching name 'tck'",
    "Storage pool not found: no storage pool with matching name 'tck'",
    "Storage volume not found: no storage vol with matching name 'tck'",
    "Network filter not found: no nwfilter with matching name 'tck'",
    "Secret not found: no secret with matching uuid 'c7a5fdbd-edaf-9455-926a-d65c16db1809'",
    "Interface not found: couldn't find interface named 'tck'",
    "End of file while reading data: Input/output error",
    "internal error: End of file from qemu monitor (vm='tck')",
    "ethtool ioctl error on vnet0: No such device",
    "Unable to open /dev/kvm: No such file or directory",
    "internal error: Child process (/usr/sbin/dmidecode -q -t 0,1,2,3,4,11,17) unexpected exit status 1: /dev/mem: No such file",
]


@pytest.mark.parametrize("said", MISSES)
def test_what_tests_provoke_is_no_error_of_the_daemon(story: Any, said: str) -> None:
    line = f"2026-11-21 17:56:50.000+0000: 77: error : virX:1 : {said}"
    assert Kept(story, {"libvirtd.log": f"{line}\n{ERROR}"}).test()["clue"]["line"] == 2


@pytest.mark.parametrize(
    ("complaint", "file"), [("WARNING: CPU: 0 PID: 1 at mm/x.c:3", "libvirtd.log"), ("Kernel panic - not syncing: dead", "console.log")]
)
def test_the_daemons_error_tells_more_than_a_complaint_of_the_kernel_but_not_than_its_death(story: Any, complaint: str, file: str) -> None:
    kept = Kept(story, {"libvirtd.log": ERROR})
    story.consoles["bookworm"] += f"[    1.000000] {complaint}\n"
    assert kept.test()["clue"]["file"].endswith(f"/{file}")
    kept.files[f"{BASE}/libvirtd.log"] = "debug"
    assert kept.test()["clue"]["file"] == "guests/bookworm/console.log"


def test_an_assertion_is_named_whatever_else_is_told(story: Any) -> None:
    told = "it ended with exit status 255\nfirst\nsecond\nfailed: it starts\n  got: 3\nfailed: it ends"
    kept = Kept(story, {}, status="error", message=told)
    assert "      second\n      failed: it starts\n" in _summary.to_summary(kept.verdict())
    names = re.findall(r'name="(test 2[^"]*)"', _junit.to_junit(kept.verdict()).decode())
    assert names == ["test 2 # 1 failed: it starts", "test 2 # 2 failed: it ends"]
    assert '<error message="it ended with exit status 255; failed: it starts"' in _junit.to_junit(kept.verdict()).decode()
    assert '<span class="dim">it ended with exit status 255; failed: it starts</span>' in kept.report()


def test_the_summary_names_assertion_and_daemons_error(story: Any) -> None:
    kept = Kept(story, {"libvirtd.log": f"\n{ERROR}"}, message="failed: it starts\n  libvirt error code: 1")
    text = _summary.to_summary(kept.verdict())
    assert "      failed: it starts\n" in text
    assert "      in libvirtd.log line 2: error : invalid argument: no emulator\n" in text


# --- junit.xml ------------------------------------------------------------------------------------------------------


def test_files_are_attached_the_most_telling_first(story: Any, sound: Sound) -> None:
    files = {"qemu-tck.log": "x", "libvirtd.log": ERROR, "backtrace-libvirtd.txt": "#0 poll"}
    files["libvirt.json"] = json.dumps({"leaked": ["domain tck"], "daemons": {"libvirtd": {"restarted": True}}})
    verdict = Kept(story, files, status="daemon_hang", message="libvirtd hangs: no answer for 10 s").verdict()
    sound(verdict)
    text = _junit.to_junit(verdict, "r").decode()
    attached = re.findall(r"\[\[ATTACHMENT\|r/([^]]*)\]\]", text)
    names = ["backtrace-libvirtd.txt", "libvirtd.log", "qemu-tck.log", "libvirt.json"]
    assert attached == [f"{BASE}/{name}" for name in names]  # GitLab shows the first
    assert "restarted: libvirtd\nleft behind: domain tck" in text
    assert '<error message="libvirtd hangs: no answer for 10 s" type="daemon_hang">' in text
    assert "ATTACHMENT" not in _junit.to_junit(verdict).decode()


def test_an_assertion_of_many_has_one_attachment(story: Any) -> None:
    kept = Kept(story, {"libvirtd.log": ERROR, "qemu-tck.log": "x"}, message="failed: a\n  x\nfailed: b\n  y")
    text = _junit.to_junit(kept.verdict(), "r").decode()
    assert [text.count(f"{BASE}/{name}]]") for name in ("libvirtd.log", "qemu-tck.log")] == [2, 1]


# --- a daemon that hung ---------------------------------------------------------------------------------------------


def test_a_daemon_that_hung_is_red_and_told_everywhere(story: Any, sound: Sound) -> None:
    told = "the deadline of 60 s was reached; then there were: perl\nlibvirtd hangs: no answer for 10 s\nthe end of its output:"
    kept = Kept(story, {}, status="daemon_hang", message=told)
    verdict = kept.verdict()
    sound(verdict)
    assert (verdict["verdict"], verdict["exit_code"], verdict["suites"][0]["status"]) == ("failed", 1, "failed")
    assert verdict["totals"]["tests"]["daemon_hang"] == 1
    assert verdict["reasons"] == ["smoke@bookworm: 1 of 3 tests failed, 1 with a daemon that hung"]
    summary = _summary.to_summary(verdict)
    assert "1 of 3 tests failed, 1 with a daemon that hung" in summary
    assert (
        "2 test 2  DAEMON HANG\n      the deadline of 60 s was reached; then there were: perl\n      libvirtd hangs: no answer for 10 s"
        in summary
    )
    assert "1 of 3 red, 1 daemon hang, " in kept.report()
    failed = _events.failed_tests(verdict["suites"])
    assert [test["status"] for test in failed] == ["daemon_hang"]


@pytest.mark.parametrize(("shown", "lines"), [(1, ["it hangs"]), (3, ["it hangs", "the end of its output:", "1..1"])])
def test_no_output_is_announced_that_is_not_shown(shown: int, lines: list[str]) -> None:
    test = {"status": "daemon_hang", "message": "it hangs\nthe end of its output:\n1..1\nok 1"}
    assert _failures.headlines(test, shown) == lines


# --- what was left behind -------------------------------------------------------------------------------------------


def libvirt_json(**more: Any) -> str:
    daemon = {"pid_before": 12, "pid_after": 34, "restarted": True, "lines": 7, "bytes": 99, "truncated": False}
    return json.dumps({"leaked": ["domain tck", "network tck"], "daemons": {"libvirtd": daemon}, "probe": {}, **more})


def test_a_test_is_shown_with_what_it_left_behind_and_stays_passed(story: Any, sound: Sound) -> None:
    kept = Kept(story, {"libvirt.json": libvirt_json()})
    kept.event.update(status="pass", message="")
    story.end["exit_status"] = 0
    verdict = kept.verdict()
    sound(verdict)
    assert (verdict["verdict"], verdict["reasons"]) == ("passed", [])
    assert verdict["suites"][0]["notes"] == ["left behind by test 2 (domain tck, network tck)"]
    assert "Note      smoke@bookworm: left behind by test 2 (domain tck, network tck)" in _summary.to_summary(verdict)
    report = kept.report()
    assert "<p>Left behind in libvirt, and purged</p><ul><li>" in report
    assert "2 test 2: domain tck, network tck</li>" in report
    assert '<a href="#changes">' in report


def test_what_libvirt_did_is_a_table_of_the_failed_test(story: Any, sound: Sound) -> None:
    more = {"left_before": ["pool tck-old"], "probe": {"libvirtd": {"answers": False}}}
    kept = Kept(story, {"libvirt.json": libvirt_json(**more)})
    sound(kept.verdict())
    report = kept.report()
    for name, text in (
        ("left behind", "domain tck"),
        ("was there before", "pool tck-old"),
        ("libvirtd", "restarted, process 12 \u2192 34"),
        ("probe: libvirtd.answers", "false"),
    ):
        assert f'<th scope="row">{name}</th><td>{text}</td>' in report


BROKEN = [
    "",
    "[]",
    "{",
    "null",
    "3",
    '{"leaked": 3, "daemons": {}}',
    '{"leaked": [3], "daemons": {}}',
    '{"leaked": [], "daemons": {"a": 1}}',
]


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_libvirt_json_is_told(story: Any, sound: Sound, text: str) -> None:
    kept = Kept(story, {"libvirt.json": text})
    verdict = kept.verdict()
    sound(verdict)
    assert verdict["exit_code"] == 1
    assert "libvirt.json cannot be read: " in verdict["suites"][0]["tests"][1]["libvirt"]["error"]
    assert "libvirt.json cannot be read: " in kept.report()


def test_a_libvirt_json_is_bounded(story: Any, sound: Sound) -> None:
    text = json.dumps({"leaked": ["x" * 9999] * 5000, "daemons": {str(n): {} for n in range(999)}, "probe": {"a": "x" * 9999}})
    kept = Kept(story, {"libvirt.json": text})
    verdict = kept.verdict()
    sound(verdict)
    assert len(json.dumps(verdict["suites"][0]["tests"][1])) < 40_000
    assert "and 4900 more" in json.dumps(verdict)


# --- report.html ----------------------------------------------------------------------------------------------------


def slices_of(report: str) -> list[tuple[str, int | None]]:
    data = json.loads(report.partition('id="data">')[2].partition("</script>")[0])
    return [(gzip.decompress(base64.b64decode(entry["text"])).decode(), entry.get("mark")) for entry in data["slices"]]


def test_the_report_leads_from_assertion_to_error_to_the_whole_slice(story: Any) -> None:
    log = "".join(f"2026-11-21 17:56:50.{n:03}+0000: 1: debug : virX:{n} : step {n}\n" for n in range(500)) + ERROR + "\nafter it\n"
    report = Kept(story, {"libvirtd.log": log, "stdout.log": "not ok 1 - it starts\n"}).report()
    places = [report.index(text) for text in ("failed: it starts\n", "<mark>2026", "libvirtd.log, 502 lines", "stdout.log, 1 line")]
    assert places == sorted(places)
    assert (
        f"<i>500</i>2026-11-21 17:56:50.499+0000: 1: debug : virX:499 : step 499\n<i>501</i><mark>{ERROR}</mark>\n<i>502</i>after it"
        in report
    )
    assert "step 480\n" not in report
    text, mark = slices_of(report)[0]
    assert text + "\n" == log
    assert text.split("\n")[mark or 0] == ERROR


def test_backtraces_come_first(story: Any) -> None:
    files = {"libvirtd.log": ERROR, "backtrace-libvirtd.txt": "Thread 1\n#0 __poll ()\n", "core-virtqemud.txt": "x" * 20_000}
    report = Kept(story, files, status="daemon_hang", message="libvirtd hangs").report()
    places = [report.index(text) for text in ("libvirtd hangs</pre>", "#0 __poll ()", "<mark>2026")]
    assert places == sorted(places)
    assert "The rest is in <a" in report
    # What is shown whole needs no unfolding.
    assert [text[:9] for text, _mark in slices_of(report)] == ["x" * 9, ERROR[:9]]


def test_hostile_files(story: Any, sound: Sound) -> None:
    error = f"{ERROR} {HOSTILE}"
    files = {
        "libvirtd.log": f"{HOSTILE}\n{error}\n",
        "core-x.txt": HOSTILE,
        "libvirt.json": libvirt_json(leaked=[HOSTILE], probe={HOSTILE: HOSTILE}),
    }
    kept = Kept(story, files)
    sound(kept.verdict())
    report = kept.report()
    assert "<script>alert" not in report
    assert "\u202e" not in report
    text = slices_of(report)[0][0]
    assert "\u202e" not in text
    assert "\x1b" not in text


def test_of_an_endless_log_the_ends_and_what_is_around_the_error(story: Any) -> None:
    noise = "x" * 1999 + "\n"
    log = "the beginning\n" + noise * 2000 + ERROR + "\n" + noise * 2000 + "the last word\n"
    report = Kept(story, {"libvirtd.log": log}).report()
    text, mark = slices_of(report)[0]
    lines = text.split("\n")
    assert len(text) <= _report_kept.SLICE_LIMIT * 3 // 2
    assert (lines[0], lines[-1], lines[mark or 0]) == ("the beginning", "the last word", ERROR)
    assert len(re.findall(r"^\u22ee \d+ lines left out$", text, re.MULTILINE)) == 2


def test_what_cannot_be_packed_is_linked_and_said(story: Any) -> None:
    text = "".join(chr(0x4E00 + (n * 7919 + n * n * 31) % 20000) + ("\n" if n % 300 == 0 else "") for n in range(600_000))
    report = Kept(story, {"libvirtd.log": text}).report()
    assert slices_of(report) == []
    assert re.search(r'<p><a href="[^"]*/libvirtd\.log">libvirtd\.log</a>, [^<]*, has no room here\.</p>', report)


def test_many_failures_with_long_logs_stay_in_their_room(story: Any) -> None:
    start, plan, test, *_others, end = story.good_events("smoke")
    count = 60
    failed = {**test, "status": "fail", "message": "failed: <&>\n" * 19, "files": ["libvirtd.log", "core-a.txt"]}
    lines = [{**failed, "number": n, "logs": f"tests/t-{n}"} for n in range(1, count + 1)]
    story.events["smoke", "bookworm"] = [
        start,
        {**plan, "count": count},
        *lines,
        {**end, "planned": count, "seen": count, "exit_status": 1},
    ]
    log = "".join(f"{ERROR} {n} {n * n} {n * 7919 % 1000} <&>\u202e\n" for n in range(20_000))
    evidence = story.evidence()
    evidence.read, evidence.find = (lambda _path: log), (lambda path: (path, len(log)))
    verdict = _verdict.judge(evidence)
    report = _report.to_report(verdict, _report.Logs({}, {}, evidence.read, evidence.find))
    assert len(report.encode()) < 6 << 20
    assert "has no room here" in report or "too much for this page" in report


def test_kinds_of_files() -> None:
    daemons = ["libvirtd.log", "virtqemud.log", "virtlogd.log", "virtnwfilterd.log"]
    names = [*daemons, "libvirt.json", "purge-libvirtd.log", "qemu-tck.log", "core-libvirtd.txt", "backtrace-virtqemud.txt", "virt.log"]
    assert [name for name in names if _kept.is_daemon_log(name)] == daemons
    assert [name for name in names if _kept.is_qemu_log(name)] == ["qemu-tck.log"]
    assert [name for name in names if _kept.is_trace(name)] == ["core-libvirtd.txt", "backtrace-virtqemud.txt"]
