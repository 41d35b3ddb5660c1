# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What suites and tests require of a guest, and what is said when they do not find it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ansible_collections.mayfly.virt.plugins.module_utils import _events


def guest(runner: ModuleType, root: Path, release: str = "6.1.0-56-cloud-amd64") -> Any:
    """A guest whose files are those below a directory; its probes always answer 'no'."""
    spec = runner.Spec("smoke", ["true"], "tap", 30, environment={"PATH": str(root / "bin")})
    found = runner.Guest(spec, lambda probe: f"no {probe.name}", root)
    found.release = release
    return found


def unmet(runner: ModuleType, root: Path, release: str = "6.1.0-56-cloud-amd64", **needs: Any) -> list[str]:
    text = json.dumps({"suite": "s", "parser": "tap", "deadline": 1, "command": "true", "requires": needs})
    lacks: list[str] = guest(runner, root, release).unmet(runner.read_spec(text).needs)
    return lacks


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        (">=6.1", True),
        (">=6.2", False),
        (">=6", True),
        (">=5.15", True),
        (">=6.1.0", True),
        (">=6.1.1", False),
        ("<6.1", False),
        ("<6.2", True),
        ("<=6.1", True),
        ("==6.1", True),
        ("==6", True),
        (">6", False),
        (">5.99", True),
        (">=5.15,<6.1", False),
        (">=5.15, <6.9", True),
    ],
)
def test_kernel(runner: ModuleType, tmp_path: Path, wanted: str, fits: bool) -> None:
    assert (unmet(runner, tmp_path, kernel=wanted) == []) is fits


def test_a_patch_release_counts_only_if_it_is_asked_for(runner: ModuleType) -> None:
    assert runner.kernel_fits("6.1.55", "==", "6.1")
    assert not runner.kernel_fits("6.1.55", ">", "6.1")
    assert runner.kernel_fits("6.1.55", ">", "6.1.54")
    assert runner.kernel_fits("6.10-rc1", ">=", "6.10.0")
    assert not runner.kernel_fits("custom", ">=", "1")


CONFIG = 'CONFIG_BPF=y\nCONFIG_TUN=m\n# CONFIG_KASAN is not set\nCONFIG_LOCALVERSION="-mine"\nCONFIG_HZ=250\n'


@pytest.mark.parametrize("packed", [True, False])
def test_configuration(runner: ModuleType, tmp_path: Path, packed: bool) -> None:
    path = tmp_path / ("proc/config.gz" if packed else "boot/config-6.1.0-56-cloud-amd64")
    path.parent.mkdir()
    path.write_bytes(gzip.compress(CONFIG.encode()) if packed else CONFIG.encode())
    good = ["CONFIG_BPF", "CONFIG_BPF=y", "CONFIG_TUN", "CONFIG_TUN=m", "CONFIG_KASAN=n", 'CONFIG_LOCALVERSION="-mine"', "CONFIG_HZ=250"]
    assert unmet(runner, tmp_path, config=good) == []
    assert unmet(runner, tmp_path, config=["CONFIG_KASAN", "CONFIG_TUN=y", "CONFIG_NONE", "CONFIG_HZ"]) == [
        "CONFIG_KASAN: it is n",
        "CONFIG_TUN=y: it is m",
        "CONFIG_NONE: it is n",
        "CONFIG_HZ: it is 250",
    ]


def test_an_unknown_configuration_is_no_met_need(runner: ModuleType, tmp_path: Path) -> None:
    (lack,) = unmet(runner, tmp_path, config=["CONFIG_BPF"])
    assert lack.startswith("CONFIG_BPF: it is not known how the kernel was built: neither ")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/config.gz").write_bytes(b"no gzip")
    (lack,) = unmet(runner, tmp_path, config=["CONFIG_KASAN=n"])
    assert "cannot be read" in lack


def test_files_devices_memory_commands_and_probes(runner: ModuleType, tmp_path: Path) -> None:
    lacks = unmet(
        runner,
        tmp_path,
        btf=True,
        kvm=True,
        devices=["/dev/null", "/etc/passwd", "/dev/no-such"],
        memory_mib=512,
        commands=["bpftool"],
        probes=[{"name": "luck", "command": "false"}],
    )
    assert lacks == [
        "BTF: there is no /sys/kernel/btf/vmlinux",
        "KVM: /dev/kvm: No such file or directory",
        "device /etc/passwd: it is no device",
        "device /dev/no-such: No such file or directory",
        "memory 512 MiB: /proc/meminfo: No such file or directory",
        "command bpftool: not found",
        "probe luck: no luck",
    ]


def test_what_is_there(runner: ModuleType, tmp_path: Path) -> None:
    for name in ("sys/kernel/btf", "proc", "bin"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "sys/kernel/btf/vmlinux").touch()
    (tmp_path / "proc/meminfo").write_text("MemTotal:  2048000 kB\nMemAvailable:    1048576 kB\n")
    (tmp_path / "bin/bpftool").touch(mode=0o755)
    assert unmet(runner, tmp_path, btf=True, memory_mib=1024, commands=["bpftool"]) == []
    assert unmet(runner, tmp_path, memory_mib=1025) == ["memory 1025 MiB: 1024 MiB are available"]
    assert unmet(runner, tmp_path, btf=False, kvm=False) == []


def test_kvm_that_is_no_kvm(runner: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/kvm").touch()
    (lack,) = unmet(runner, tmp_path, kvm=True)
    assert lack.startswith("KVM: no virtual machine can be made: ")


def test_an_unmet_need_of_a_suite_skips_it_with_the_reason(program: Any) -> None:
    requires = {"kernel": ">=99", "probes": [{"name": "luck", "command": "echo none; exit 3"}, {"name": "fine", "command": "true"}]}
    events = program.run("touch ran", requires=requires)
    assert [event["event"] for event in events] == ["suite_start", "plan", "suite_end"]
    assert events[1]["count"] == 0
    assert events[1]["reason"].endswith("; probe luck: exit status 3: none")
    judged = _events.judge_suite("smoke", "bookworm", (program.out / "events.jsonl").read_text(), "tap")
    assert (judged["status"], judged["errors"]) == ("skipped", [])
    assert not (program.directory / "ran").exists()


def test_an_unmet_need_of_a_test_is_not_red(program: Any) -> None:
    tests = [
        {"name": "a", "command": "true", "requires": {"kernel": ">=2.6"}},
        {"name": "b", "command": "touch ran", "requires": {"commands": ["no-such-program"], "devices": ["/dev/no-such"]}},
    ]
    events = program.run(None, parser="tests", tests=tests)
    a, b = (event for event in events if event["event"] == "test")
    assert (a["status"], b["status"], b["directive"]) == ("pass", "not_run", "requires")
    assert b["message"] == "device /dev/no-such: No such file or directory; command no-such-program: not found"
    assert not (program.directory / "ran").exists()
    judged = _events.judge_suite("smoke", "bookworm", (program.out / "events.jsonl").read_text(), "tests")
    assert judged["status"] == "passed"


def test_a_suite_in_which_no_test_can_run_is_skipped_not_passed(program: Any) -> None:
    program.run(None, parser="tests", tests=[{"name": "a", "command": "true", "requires": {"kernel": ">=99"}}])
    judged = _events.judge_suite("smoke", "bookworm", (program.out / "events.jsonl").read_text(), "tests")
    assert (judged["status"], judged["counts"]["not_run"]) == ("skipped", 1)


def test_a_probe_runs_once_has_an_end_and_leaves_nothing(runner: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "PROBE_LIMIT", 0.3)
    hang = {"probes": [{"name": "hang", "command": "echo x >> n; sleep 600"}]}
    tests = [{"name": name, "command": "true", "requires": hang} for name in "ab"]
    spec = runner.read_spec(json.dumps({"suite": "s", "parser": "tests", "deadline": 30, "cwd": str(tmp_path), "tests": tests}))
    runner.TestsSuite(spec, tmp_path, runner.claim(tmp_path), *runner.plan_cases(spec)).execute()
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [event["message"] for event in events if event["event"] == "test"] == ["probe hang: no answer within 0 s"] * 2
    assert (tmp_path / "n").read_text() == "x\n"
