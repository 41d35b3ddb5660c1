# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role libvirt_under_test in a real guest: daemons that log, a network that does not collide, artifacts of an earlier stage."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ENVIRONMENT, LIBVIRT_TOOLCHAINS, ROOT, Playbook

PLAY = Path(__file__).parent / "libvirt_under_test" / "play.yml"
SAMPLES = ROOT / "tests" / "unit" / "libvirt" / "samples"
DEBS = ROOT / "build" / "libvirt-debs"
RUN = f"lut-{os.getpid()}"
PACKAGES = [
    "libvirt-clients",
    "libvirt-common",
    "libvirt-daemon",
    "libvirt-daemon-common",
    "libvirt-daemon-config-network",
    "libvirt-daemon-config-nwfilter",
    "libvirt-daemon-driver-network",
    "libvirt-daemon-driver-nodedev",
    "libvirt-daemon-driver-nwfilter",
    "libvirt-daemon-driver-qemu",
    "libvirt-daemon-driver-secret",
    "libvirt-daemon-driver-storage",
    "libvirt-daemon-lock",
    "libvirt-daemon-log",
    "libvirt-daemon-plugin-lockd",
    "libvirt-daemon-system",
    "libvirt0",
]


@pytest.fixture(scope="module")
def debs() -> Path:
    """What a stage that builds libvirt would leave: here Debian's own packages of another version, from backports, downloaded once."""
    if not (DEBS / "SHA256SUMS").exists():
        shutil.rmtree(DEBS, ignore_errors=True)
        for name in ("lists/partial", "archives/partial", "debs"):
            (DEBS / name).mkdir(parents=True)
        keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
        argv = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Label: Debian", "Codename: bookworm"]
        mirror = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout.split()[0]  # this machine's
        (DEBS / "sources.list").write_text(f"deb [signed-by={keyring}] {mirror} bookworm-backports main\n")
        (DEBS / "status").touch()
        places = {"Dir::Etc::SourceList": "sources.list", "Dir::State::Lists": "lists", "Dir::Cache::Archives": "archives"}
        options = [f"-o{key}={DEBS / value}" for key, value in {**places, "Dir::State::Status": "status"}.items()]
        options += ["-oDir::Etc::SourceParts=/dev/null", f"-oDir::Cache::pkgcache={DEBS}/p", f"-oDir::Cache::srcpkgcache={DEBS}/s"]
        options += ["-oAPT::Sandbox::User=root"]
        subprocess.run(["apt-get", "-qq", *options, "update"], check=True, timeout=300)
        subprocess.run(["apt-get", "-qq", *options, "download", *PACKAGES], cwd=DEBS / "debs", check=True, timeout=300)
        (DEBS / "SHA256SUMS").write_text("done\n")
    return DEBS / "debs"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with a prepared run of one guest, called lut."""
    directory = tmp_path_factory.mktemp("libvirt_under_test")
    job = {
        "mayfly_job": "libvirt-under-test",
        "mayfly_guests": [{"name": "lut", "image": "debian-12", "memory_mib": 1536, "vcpus": 2}],
        "mayfly_toolchains": LIBVIRT_TOOLCHAINS,
        "mayfly_suites": [{"name": "none", "parser": "exit_code", "command": "true"}],
    }
    (directory / "job.yml").write_text(json.dumps(job))
    (directory / "mayfly.yml").write_text("plugin: mayfly.virt.guests\n")
    prepared = Playbook("prepare", "-e", "@job.yml", "-e", f"mayfly_run_id={RUN}", cwd=directory)
    assert prepared.wait() == 0, prepared.output()
    yield directory
    cleaned = Playbook("cleanup", "-e", f"mayfly_run_id={RUN}", cwd=directory)
    assert cleaned.wait() == 0, cleaned.output()


@pytest.fixture(scope="module")
def refused(debs: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Artifacts that cannot be, and what is said of them."""
    directory = tmp_path_factory.mktemp("refused")
    one = sorted(debs.glob("libvirt0_*.deb"))[0]
    (directory / "mixed").mkdir()
    shutil.copy(one, directory / "mixed")
    subprocess.run(["apt-get", "-qq", "-oAPT::Sandbox::User=root", "download", "libvirt-daemon"], cwd=directory / "mixed", check=True)
    (directory / "changed").mkdir()
    shutil.copy(one, directory / "changed")
    (directory / "changed" / "SHA256SUMS").write_text(f"{hashlib.sha256(b'another').hexdigest()}  {one.name}\n")
    return [
        {"why": "its SHA-256 is", "artifacts": [str(directory / "changed")]},
        {"why": "they are of several builds of libvirt", "artifacts": [str(directory / "mixed")]},
        {"why": "there is none of that name on the controller", "artifacts": [str(directory / "nothing")]},
        {"why": "they are rpm packages and debian-12 installs with apt", "artifacts": [str(SAMPLES)]},
    ]


@pytest.fixture(scope="module")
def found(run: Path, debs: Path, refused: list[dict[str, Any]]) -> dict[str, Any]:
    """What the play saw, all of it in one go: each task in the guest costs seconds."""
    (run / "vars.json").write_text(json.dumps({"debs": str(debs), "refused": refused, "playbook_results": str(run / "found.json")}))
    argv = ["ansible-playbook", "-i", "mayfly.yml", str(PLAY), "-e", "@vars.json", "--diff"]
    done = subprocess.run(argv, env=ENVIRONMENT, cwd=run, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[WARNING]" not in done.stderr, done.stderr
    return dict(json.loads((run / "found.json").read_text()))


def test_artifacts_that_cannot_be_are_refused_before_the_guest_is_changed(found: dict[str, Any], refused: list[dict[str, Any]]) -> None:
    assert len(found["refusals"]) == len(refused)
    for said, expected in zip(found["refusals"], refused):
        assert expected["why"] in said, said
        assert "is refused: " in said
    assert not [line for line in found["untouched"] if "mayfly" in line]
    assert [line for line in found["untouched"] if line.startswith("9.0.0-4")]


def test_the_daemons_are_set_up_once(found: dict[str, Any]) -> None:
    first, second = found["first"], found["second"]
    assert found["predicted"]["changed"]
    done = [action for action in first["actions"] if " network " not in action]
    assert found["predicted"]["actions"] == done
    assert "update file /etc/libvirt/libvirtd.conf" in done
    assert "update service libvirtd.service (its settings changed)" in done
    assert (second["changed"], second["actions"]) == (False, [])
    assert first["libvirt"]["mode"] == "monolithic"
    assert {daemon["name"] for daemon in first["daemons"]} == {"libvirtd", "virtlogd", "virtlockd"}
    assert all(daemon["active"] and daemon["sockets"] for daemon in first["daemons"])


def test_the_daemon_tells_all_it_does_and_stays(found: dict[str, Any]) -> None:
    lines = found["lives"]
    assert [line for line in lines if " error : " in line and "mayfly-no-such-type" in line], lines
    assert max(int(line) for line in lines if line.isdigit()) > 100
    assert "infinity" in lines
    command = next(line for line in lines if line.startswith("/usr/sbin/libvirtd"))
    assert "--timeout" not in command


def test_the_network_does_not_collide_with_what_the_guest_reaches(found: dict[str, Any]) -> None:
    assert found["first"]["libvirt"]["network"] == "192.168.123.0/24"
    assert "update network default (192.168.122.1/255.255.255.0 is in use)" in found["first"]["actions"]
    assert [line for line in found["lives"] if "inet 192.168.123.1/24" in line]


def test_versions_are_recorded_for_the_verdict(found: dict[str, Any]) -> None:
    text = "\n".join(found["lives"])
    recorded = json.loads(text[text.index("\n{") :].partition("\n}")[0] + "\n}")
    assert recorded == found["second"]["libvirt"]
    assert (recorded["libvirt"], recorded["source"], recorded["distribution"]) == ("9.0.0", "distribution", "debian-12")
    assert recorded["packages"]["libvirt-daemon"].startswith("9.0.0-4")
    assert recorded["qemu"].startswith("7.2.")
    assert recorded["kernel"].startswith("6.1.")
    assert recorded["firewall"].startswith("iptables ")


def test_the_artifacts_are_what_runs(found: dict[str, Any], debs: Path) -> None:
    built = sorted(debs.glob("libvirt0_*.deb"))[0].name.split("_")[1]
    libvirt = found["artifacts"]["libvirt"]
    assert not built.startswith("9.0.0")
    assert libvirt["packages"]["libvirt0"] == libvirt["packages"]["libvirt-daemon"] == built
    assert built.startswith(libvirt["libvirt"])
    assert (libvirt["library"], libvirt["source"]) == (libvirt["libvirt"], "artifacts")
