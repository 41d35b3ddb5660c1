# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Eight guests, each with overlay, seed and running domain: one task, a plain loop over libvirt-python, a loop of virt-install.

All three make the same: overlays on one image, seeds with a host key each, domains on one network. The disk's boot sector halts the
processor for good: it is the making that is measured, and an emulated kernel that boots beside it would be most of the figure.
"""

from __future__ import annotations

import concurrent.futures
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import libvirt
from common import Measured, measure, module, row, wait_until_quiet

GUESTS = 8
REPEATS = 5
BENCH_DIR = Path("/var/lib/mayfly-bench")
HALT = bytes.fromhex("faf4ebfc").ljust(510, b"\0") + bytes.fromhex("55aa")  # cli; hlt; jmp back


def prepare() -> dict[str, Any]:
    """Make a state directory with the image in it."""
    clean()
    BENCH_DIR.mkdir(mode=0o755)
    disk = BENCH_DIR / "halt.raw"
    disk.write_bytes(HALT.ljust(1 << 20, b"\0"))
    answer = module("image", state_dir=str(BENCH_DIR), images=[{"name": "halt", "source": str(disk)}])
    return dict(json.loads(answer.output)["results"][0])


def names(kind: str) -> list[str]:
    return [f"b{number}-bench-{kind}" for number in range(GUESTS)]


def one_task(_image: dict[str, Any]) -> Measured:
    domains = [{"name": name, "image": "halt", "memory_mib": 128, "accel": "tcg"} for name in names("task")]
    return module("domain", state_dir=str(BENCH_DIR), run={"id": "bench"}, domains=domains)


def plain_loop(image: dict[str, Any]) -> Measured:
    return measure([sys.executable, str(Path(__file__).with_name("plain_loop.py")), json.dumps(image), *names("loop")])


def virt_install_loop(image: dict[str, Any]) -> Measured:
    return measure(["sh", str(Path(__file__).with_name("virt_install_loop.sh")), json.dumps(image), str(BENCH_DIR), *names("inst")])


def end_domains() -> None:
    connection = libvirt.open("qemu:///system")
    domains = [domain for domain in connection.listAllDomains() if "-bench-" in domain.name()]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        list(pool.map(lambda domain: domain.destroy(), domains))
    connection.close()


def clean() -> None:
    """Remove every guest of the benchmark and all its files."""
    end_domains()
    if BENCH_DIR.exists():
        for run in (BENCH_DIR / "runs").glob("*"):
            module("domain", state_dir=str(BENCH_DIR), run={"id": run.name}, state="absent", clean_run=True)
        shutil.rmtree(BENCH_DIR)


def settle() -> None:
    """Remove the guests between two measurements."""
    module("domain", state_dir=str(BENCH_DIR), run={"id": "bench"}, state="absent", clean_run=True)
    end_domains()
    for path in [*BENCH_DIR.glob("loop-*"), *BENCH_DIR.glob("inst-*")]:
        shutil.rmtree(path)


def run() -> list[dict[str, Any]]:
    virt_install = subprocess.run(["virt-install", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    image = prepare()
    try:
        ways = {"task": one_task, "loop": plain_loop, "inst": virt_install_loop}
        results: dict[str, list[Measured]] = {way: [] for way in ways}
        for _repeat in range(REPEATS):  # by turns, so that a slow minute of the machine hits all three
            for way, make in ways.items():
                wait_until_quiet()
                results[way].append(make(image))
                settle()
    finally:
        clean()
    seconds = {way: statistics.median(measured.seconds for measured in runs) for way, runs in results.items()}
    peak = max(measured.peak_mib for measured in results["task"])
    to_loop, to_inst = seconds["task"] / seconds["loop"], seconds["inst"] / seconds["task"]
    figures = {way: [round(measured.seconds, 3) for measured in runs] for way, runs in results.items()}
    loop = f"{to_loop:.2f} of the loop's time ({seconds['task']:.2f} s : {seconds['loop']:.2f} s)"
    inst = f"{to_inst:.1f} times faster ({seconds['task']:.2f} s : {seconds['inst']:.2f} s)"
    return [
        row(f"{GUESTS} guests: one task : plain libvirt-python loop", loop, "≤ 0.6", to_loop <= 0.6, seconds=figures),
        row(f"{GUESTS} guests: one task : virt-install {virt_install} loop", inst, "≥ 5 times", to_inst >= 5),
        row(f"{GUESTS} guests: peak memory of the module's process", f"{peak:.0f} MiB", "stated", None, mib=round(peak, 1)),
    ]
