# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the hypervisor knows of real guests: one whose kernel died, one that hangs, one with a screen."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Host, Module, Playbook, domain
from wedge import DOMAIN_GET_STATE, Wedge

from ansible_collections.mayfly.virt.plugins.module_utils import _vmcore
from ansible_collections.mayfly.virt.plugins.plugin_utils import _job

RUN = "test-evidence"
NAME = f"a-{RUN}"


@pytest.fixture
def run(module: Module, untouched: Callable[[], None]) -> Iterator[dict[str, Any]]:
    run = {"id": RUN, "owner": "test", "deadline": 600}
    yield run
    module("domain", run=run, state="absent", clean_run=True)


def look(module: Module, **options: Any) -> dict[str, Any]:
    results = module("domain_evidence", run=RUN, domains=[NAME], **options)["results"]
    assert [result["name"] for result in results] == [NAME]
    return dict(results[0])


def vmcoreinfo(dump: str) -> dict[str, str]:
    with open(dump, "rb") as file:
        lines = _vmcore.vmcoreinfo(file).splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def kernel_log(dump: Path) -> str:
    """Let makedumpfile find the kernel's log in a dump, which takes a right physical base and page tables."""
    program = shutil.which("makedumpfile")
    assert program, "no makedumpfile: install Debian's package of that name"
    target = dump.with_suffix(".dmesg")
    done = subprocess.run([program, "--dump-dmesg", str(dump), str(target)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    text = target.read_text(errors="replace")
    target.unlink()
    return text


def test_a_guest_whose_kernel_died_leaves_its_memory(module: Module, run: dict[str, Any]) -> None:
    module("domain", run=run, domains=[domain(NAME, "tiny=panic")], wait="lease", wait_timeout=20, fails=True)

    found = look(module, memory_dump="never")
    assert (found["state"], found["dump"]) == ("crashed", "")

    found = look(module)
    assert found["missing"] == {}
    directory = Path(found["directory"])
    assert "Kernel panic - not syncing: sysrq triggered crash" in (directory / "console.log").read_text()
    assert f"<name>{NAME}</name>" in (directory / "domain.xml").read_text()
    assert "qemu-system-x86_64" in (directory / "qemu.log").read_text()
    assert json.loads((directory / "domain.json").read_text())["disk_errors"] == {}
    dump = Path(found["dump"])
    assert vmcoreinfo(found["dump"])["OSRELEASE"].endswith("-amd64")
    assert "sysrq: Trigger a crash" in kernel_log(dump)
    assert 0 < dump.stat().st_blocks * 512 < 128 * 1024 * 1024
    assert dump.stat().st_mode & 0o777 == 0o600

    found = look(module, dump_limit_mib=64)
    assert "the guest has 128 MiB of memory" in found["missing"]["memory.vmcore"]
    assert not dump.exists(), "of an earlier look"


def test_a_guest_that_hangs_is_made_to_talk(module: Module, run: dict[str, Any]) -> None:
    module("domain", run=run, domains=[domain(NAME, "sysrq_always_enabled")], wait="lease")
    assert look(module)["dump"] == "", "a guest that lives is let alone"

    found = look(module, hung=[NAME])
    said = (Path(found["directory"]) / "sysrq.log").read_text()
    for word in (
        "sysrq: Show backtrace of all active CPUs",
        "sysrq: Show Blocked State",
        "sysrq: Show State",
        "NMI received for unknown reason",
    ):
        assert word in said
    assert found["missing"] == {}
    assert not [note for note in found["left_out"] if "SysRq" in note or "NMI" in note]
    assert said in (Path(found["directory"]) / "console.log").read_text()
    assert "OSRELEASE" in vmcoreinfo(found["dump"])
    state = module("domain_info", run=RUN)["results"][0]["state"]
    assert state == "running", "it goes on after its memory was dumped"


def test_a_screen_is_kept_as_png(module: Module, run: dict[str, Any], tiny_files: dict[str, Path], tmp_path: Path) -> None:
    document = (
        "<domain type='qemu'><memory unit='MiB'>128</memory><os><type arch='x86_64' machine='q35'>hvm</type></os>"
        "<on_crash>preserve</on_crash><devices><video><model type='vga'/></video></devices></domain>"
    )
    module("domain", run=run, domains=[{"name": NAME, "xml": document, "accel": "tcg"}])
    found = look(module)
    assert found["missing"] == {}
    image = (Path(found["directory"]) / "screenshot.png").read_bytes()
    assert image.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", image[16:24])
    length = struct.unpack(">I", image[33:37])[0]
    assert image[37:41] == b"IDAT"
    assert len(zlib.decompress(image[41 : 41 + length])) == height * (1 + 3 * width)


def test_what_a_guest_wrote_to_its_disk_is_kept(module: Module, run: dict[str, Any], tmp_path: Path) -> None:
    module("domain", run=run, domains=[domain(NAME, "tiny=write")], wait="lease")
    found = look(module, overlay="always")
    assert found["missing"] == {}
    assert module("domain_info", run=RUN)["results"][0]["state"] == "running", "it goes on after its overlay was copied"
    disk = tmp_path / "disk"
    subprocess.run(["qemu-img", "convert", "-O", "raw", found["overlay"], str(disk)], check=True, timeout=60)
    assert disk.read_bytes()[:14] == b"Linux version "
    assert look(module)["overlay"] == "", "nobody asked"


def test_a_guest_that_powered_itself_off_still_has_a_console(module: Module, run: dict[str, Any], host: Host) -> None:
    module("domain", run=run, domains=[domain(NAME, "tiny=off")], wait="lease", wait_timeout=20, fails=True)
    found = look(module, memory_dump="always")
    assert (found["state"], found["dump"], found["missing"]) == ("gone", "", {})
    assert "the domain is gone" in found["left_out"][0]
    assert "Power down" in (Path(found["directory"]) / "console.log").read_text()


def test_nothing_is_collected_without_the_secrets_of_the_job(tmp_path: Path) -> None:
    """They are written down nowhere, so whoever collects alone has to bring them."""
    job = {"name": "j", "guests": [{"name": "a", "image": "tiny"}], "suites": [{"name": "s", "command": "true"}], "secrets": ["hunter2"]}
    results = tmp_path / "results" / RUN
    results.mkdir(parents=True)
    (results / "job.json").write_text(json.dumps(_job.plan(job, RUN, "2026-01-01T12:00:00+00:00", str(tmp_path))))
    playbook = Playbook("collect", "-e", json.dumps({"mayfly_run_id": RUN, "mayfly_results": str(results.parent)}), cwd=tmp_path)
    assert playbook.wait() == 0, playbook.output()
    verdict = json.loads((results / "verdict.json").read_text())
    assert verdict["verdict"] == "error"
    assert any("prepared with 1 secrets in mayfly_secrets, and there are 0 now" in reason for reason in verdict["reasons"])
    assert not (results / "guests").exists()


def test_a_libvirt_that_does_not_answer_keeps_nobody_waiting(module: Module, run: dict[str, Any], tmp_path: Path) -> None:
    """Neither about one domain, nor at all: what lies in files is had."""
    module("domain", run=run, domains=[domain(NAME, "tiny=silent")])
    began = time.monotonic()
    with Wedge(tmp_path, {DOMAIN_GET_STATE}) as wedge:
        found = look(module, uri=wedge.uri, answer_timeout=3, memory_dump="always")
    assert (found["state"], found["dump"]) == ("running", "")
    assert "libvirt has not answered within 3 s" in found["missing"]["domain.json"]
    assert "libvirt has not answered before" in found["missing"]["memory.vmcore"]
    assert f"<name>{NAME}</name>" in (Path(found["directory"]) / "domain.xml").read_text()
    with Wedge(tmp_path, None) as wedge:
        found = look(module, uri=wedge.uri, answer_timeout=3, memory_dump="always")
    assert (found["state"], list(found["missing"])) == ("unknown", ["domain.xml"])
    assert "libvirt has not answered within 3 s" in found["missing"]["domain.xml"]
    assert "qemu-system-x86_64" in (Path(found["directory"]) / "qemu.log").read_text()
    assert (Path(found["directory"]) / "console.log").exists()
    assert time.monotonic() - began < 120
