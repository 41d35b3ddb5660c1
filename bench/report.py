# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A verdict and its report of 20 guests with 2000 tests each: to judge and to write, its size, and until a browser has drawn it.

Chromium is asked over its debugging pipe when it has painted the page for the first time and when the page was loaded, both since the
navigation began; starting the browser is not in it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import module, row

GUESTS = 20
TESTS = 2000
REPEATS = 3
PATIENCE = 60.0

Data = dict[str, Any]


def events(guest: int) -> Iterator[Data]:
    """A suite in which every hundredth test fails and every fiftieth is skipped."""
    yield {"event": "suite_start", "time": 1, "suite": "smoke", "parser": "tap", "command": ["./run"], "deadline": 600, "runner": "1"}
    yield {"event": "plan", "time": 1, "count": TESTS, "reason": None}
    for number in range(1, TESTS + 1):
        status = "fail" if number % 100 == guest else "skip" if number % 50 == guest else "pass"
        message = "expected: 3\ngot:      4\nat ring.c line 417" if status == "fail" else ""
        test = {"event": "test", "time": number, "number": number, "name": f"ring {number}: opens, maps and closes", "duration": 0.1}
        yield {**test, "status": status, "directive": "SKIP no huge pages" if status == "skip" else None, "message": message}
    end = {"event": "suite_end", "time": TESTS, "exit_status": 1, "signal": None, "timed_out": False, "duration": TESTS / 10}
    yield {**end, "planned": TESTS, "seen": TESTS, "error": None, "leftovers": [], "tail": []}


def lay_out(results: Path) -> None:
    names = [f"guest-{number:02}" for number in range(GUESTS)]
    for number, name in enumerate(names):
        suite, guest = results / "suites" / "smoke" / name, results / "guests" / name
        suite.mkdir(parents=True)
        guest.mkdir(parents=True)
        (suite / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events(number)))
        (suite / "stdout.log").write_text("".join(f"ok {test} - ring {test}: opens, maps and closes\n" for test in range(TESTS)))
        (guest / "console.log").write_text("".join(f"[{line:12.6f}] systemd[1]: Started unit number {line}.\n" for line in range(3000)))
    job = {"run_id": results.name, "job": "bench", "guests": [{"name": name, "uuid": name} for name in names]}
    (results / "job.json").write_text(json.dumps({**job, "suites": [{"name": "smoke", "parser": "tap"}]}))
    phases = [
        {"phase": phase, "event": event, "time": 1795230000 + index, "status": "ok"}
        for index, (phase, event) in enumerate(itertools.product(("prepare", "run", "collect", "cleanup"), ("start", "end")))
    ]
    (results / "phases.jsonl").write_text("".join(json.dumps(phase) + "\n" for phase in phases))


class Browser:
    """Chromium without a window, spoken to over its debugging pipe: JSON, each message ended by a NUL."""

    def __init__(self, program: str, profile: str) -> None:
        self._in, theirs_out = os.pipe()
        theirs_in, self._out = os.pipe()
        # It reads descriptor 3 and writes descriptor 4, so the shell puts them there.
        options = (
            f"--headless --no-sandbox --disable-gpu --window-size=1280,900 --user-data-dir={profile} --remote-debugging-pipe about:blank"
        )
        script = f"exec {program} {options} 3<&{theirs_in} 4>&{theirs_out}"
        self.process = subprocess.Popen(
            ["bash", "-c", script], pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._buffer = b""
        self._numbers = itertools.count(1)

    def ask(self, method: str, session: str | None = None, **parameters: Any) -> Data:
        number = next(self._numbers)
        message: Data = {"id": number, "method": method, "params": parameters, **({"sessionId": session} if session else {})}
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def _read(self) -> Data:
        while b"\0" not in self._buffer:
            data = os.read(self._in, 65536)
            assert data, "the browser went away"
            self._buffer += data
        text, self._buffer = self._buffer.split(b"\0", 1)
        return dict(json.loads(text))

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._in)
        os.close(self._out)


@contextlib.contextmanager
def browser(program: str) -> Iterator[Browser]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        found = Browser(program, profile)
        try:
            yield found
        finally:
            found.close()


TIMES = """
(() => {
    const [page] = performance.getEntriesByType("navigation");
    const paint = performance.getEntriesByName("first-contentful-paint")[0];
    return page && page.loadEventEnd && paint ? {painted: paint.startTime, loaded: page.loadEventEnd} : null;
})()
"""


def opened(program: str, page: Path) -> dict[str, float]:
    """Return when the page was first painted and when it was loaded, in seconds."""
    with browser(program) as chromium:
        target = chromium.ask("Target.createTarget", url="about:blank")["targetId"]
        session = chromium.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        chromium.ask("Page.navigate", session, url=page.as_uri())
        limit = time.monotonic() + PATIENCE
        while time.monotonic() < limit:
            value = chromium.ask("Runtime.evaluate", session, expression=TIMES, returnByValue=True)["result"].get("value")
            if value:
                return {name: milliseconds / 1000 for name, milliseconds in value.items()}
            time.sleep(0.05)
    raise SystemExit(f"{program} did not draw {page} within {PATIENCE:.0f} s.")


def run() -> list[Data]:
    what = f"report of {GUESTS} guests with {TESTS} tests each"
    with tempfile.TemporaryDirectory() as directory:
        results = Path(directory) / "bench"
        lay_out(results)
        written = []
        for _repeat in range(REPEATS):
            (results / "report.html").unlink(missing_ok=True)
            written.append(module("verdict", results=str(results)))
        seconds = statistics.median(each.seconds for each in written)
        size = (results / "report.html").stat().st_size / 1e6
        peak = max(each.peak_mib for each in written)
        rows = [
            row(f"{what}: module verdict, all files", f"{seconds:.1f} s, at most {peak:.0f} MiB", "≤ 5 s", seconds <= 5, seconds=seconds),
            row(f"{what}: size of report.html", f"{size:.1f} MB", "≤ 15 MB", size <= 15, megabytes=size),
        ]
        program = shutil.which("chromium")
        if program is None:
            return [*rows, row(f"{what}: drawn by a browser", "not measured: there is no chromium", "≤ 2 s", None)]
        times = [opened(program, results / "report.html") for _repeat in range(REPEATS)]
        median = {name: statistics.median(each[name] for each in times) for name in times[0]}
        text = f"painted after {median['painted']:.2f} s, loaded after {median['loaded']:.2f} s"
        return [*rows, row(f"{what}: Chromium", text, "≤ 2 s", max(median.values()) <= 2, times=times)]
