# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scripts of libvirt-tck against a libvirtd of their own on this machine: plain prove, and both harnesses with our wrapper around each.

All run the same scripts, by turns, with the daemon's debug log on. Whole processes, medians.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import IMAGE, ROOT, STATE_DIR, row
from private import PrivateLibvirt, seed_tck

RUNNER = ROOT / "extensions" / "suite_runner" / "mayfly_suite_runner.py"
AVOCADO = ROOT / "build" / "avocado" / "bin"
NAMES = [
    *(f"domain/{name}.t" for name in ("050-transient-lifecycle", "051-transient-autostart", "060-persistent-lifecycle")),
    *(f"domain/{name}.t" for name in ("070-transient-to-persistent", "100-transient-save-restore", "200-disk-hotplug")),
    *(f"networks/{name}.t" for name in ("050-transient-lifecycle", "060-persistent-lifecycle", "080-unique-id-define")),
    *(f"storage/{name}.t" for name in ("050-transient-lifecycle", "060-persistent-lifecycle", "250-vol-qcow2-backing-store")),
    "qemu/200-qcow2-single-backing-file.t",
]
REPEATS = 3


class Bench:
    """The scripts, and the ways to run them."""

    def __init__(self, libvirt: PrivateLibvirt, directory: Path) -> None:
        image = json.loads((STATE_DIR / "images" / "aliases" / IMAGE).read_text())
        settings = seed_tck(libvirt, *(STATE_DIR / "images" / image[file] for file in ("kernel", "initrd")))
        self._tck = settings["tck"]
        self._libvirt = libvirt
        self._directory = directory
        config = libvirt.configure(directory / "libvirt-test.json", answer_seconds=10, **settings)
        (directory / "needs.json").write_text("[]")
        listed = libvirt.wrapper(
            "list", "--config", str(config), "--needs", str(directory / "needs.json"), "--output", str(directory / "tests.json")
        )
        if listed.returncode != 0:
            raise SystemExit(f"The wrapper cannot list libvirt-tck's scripts: {listed.stderr}")

    def _timed(self, *argv: str, environment: dict[str, str] | None = None) -> tuple[float, str]:
        begun = time.monotonic()
        done = self._libvirt.run(*argv, environment=environment, timeout=600)
        return time.monotonic() - begun, done.stdout

    def prove(self) -> float:
        environment = {**self._tck["environment"], "LIBVIRT_TCK_CONFIG": self._tck["config"]}
        scripts = [f"{self._tck['tests']}/{name}" for name in NAMES]
        seconds, output = self._timed("prove", "--norc", f"-I{self._tck['perl_lib'][0]}", *scripts, environment=environment)
        assert f"Files={len(NAMES)}" in output
        assert "Result: PASS" in output
        return seconds

    def suite(self, harness: str) -> float:
        spec = {
            "suite": "tck",
            "parser": "tests",
            "deadline": 1200,
            "cwd": str(self._directory),
            "tests": [{"list": str(self._directory / "tests.json")}],
            "select": NAMES,
            "harness": harness,
            "environment": {"PATH": f"{AVOCADO}:/usr/sbin:/usr/bin:/sbin:/bin"},
        }
        (self._directory / "spec.json").write_text(json.dumps(spec))
        with tempfile.TemporaryDirectory(dir=self._directory) as out:
            argv = ("/usr/bin/python3", str(RUNNER), "run", "--spec", str(self._directory / "spec.json"), "--dir", out)
            seconds, _output = self._timed(*argv)
            events = [json.loads(line) for line in (Path(out) / "events.jsonl").read_text().splitlines()]
        ran = [(event["name"], event["status"]) for event in events if event["event"] == "test" and event["status"] != "not_run"]
        assert sorted(ran) == sorted((name, "pass") for name in NAMES), ran
        assert events[-1]["error"] is None
        return seconds


def run() -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="mayfly-bench-") as name:
        libvirt = PrivateLibvirt(Path(name) / "libvirt", ROOT / "build" / "libvirt_test")
        try:
            bench = Bench(libvirt, Path(name))
            ways: dict[str, Callable[[], float]] = {
                "prove": bench.prove,
                "builtin": lambda: bench.suite("builtin"),
                "avocado": lambda: bench.suite("avocado"),
            }
            times: dict[str, list[float]] = {way: [] for way in ways}
            for once in ways.values():
                once()  # libvirt asks QEMU what it can do only once
            for _repeat in range(REPEATS):
                for way, once in ways.items():
                    times[way].append(once())
        finally:
            libvirt.close()
    seconds = {way: statistics.median(found) for way, found in times.items()}
    builtin, avocado = seconds["builtin"] / seconds["prove"], seconds["avocado"] / seconds["prove"]
    return [
        row(
            f"libvirt-tck, {len(NAMES)} scripts: builtin harness with the wrapper : plain prove",
            f"{builtin:.2f} ({seconds['builtin']:.1f} s : {seconds['prove']:.1f} s)",
            "≤ 1.1",
            builtin <= 1.1,
            seconds=seconds,
        ),
        row(
            f"libvirt-tck, {len(NAMES)} scripts: Avocado harness with the wrapper : plain prove",
            f"{avocado:.2f} ({seconds['avocado']:.1f} s : {seconds['prove']:.1f} s)",
            "stated",
            None,
            seconds=seconds,
        ),
    ]
