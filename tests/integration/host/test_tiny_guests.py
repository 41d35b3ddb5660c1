# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Domains, seeds, overlays and sweep on real libvirt and QEMU, with guests that boot in seconds."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ENVIRONMENT, NETWORK, Host, Module, domain

RUN = "test-tiny"


@pytest.fixture
def run(module: Module, untouched: Callable[[], None]) -> Iterator[dict[str, Any]]:
    """A run that is removed, and with it everything it made, whatever the test did."""
    run = {"id": RUN, "owner": "test", "deadline": 600}
    yield run
    module("domain", run=run, state="absent", clean_run=True)
    module("domain", run=run, state="absent", clean_run=True)


def test_two_guests_from_nothing_to_nothing(
    module: Module, run: dict[str, Any], host: Host, tiny_state: Path, untouched: Callable[[], None], tmp_path: Path
) -> None:
    wanted = [domain(f"a-{RUN}", role="server"), domain(f"b-{RUN}", guest="b")]
    before = host.snapshot(tiny_state)

    predicted = module("domain", run=run, domains=wanted, wait="lease", check=True, diff=True)
    assert predicted["changed"] is True
    assert host.snapshot(tiny_state) == before, "check mode made something"

    made = module("domain", run=run, domains=wanted, wait="lease", diff=True)
    assert made["changed"] is True
    assert made["actions"] == predicted["actions"]
    assert [result["stage"] for result in made["results"]] == ["lease", "lease"]
    addresses = {result["name"]: result["address"] for result in made["results"]}
    assert len(set(addresses.values())) == 2

    again = module("domain", run=run, domains=wanted, wait="lease")
    assert (again["changed"], again["actions"]) == (False, [])

    # By name, through libvirt-NSS, and only this guest's address.
    for name, address in addresses.items():
        assert {answer[4][0] for answer in socket.getaddrinfo(name, None)} == {address}

    info = module("domain_info", run=RUN)["results"]
    assert [(each["name"], each["state"], each["addresses"]) for each in info] == [
        (name, "running", [address]) for name, address in sorted(addresses.items())
    ]
    check_inventory(tmp_path, addresses)

    base = next((tiny_state / "images").glob("*.qcow2"))
    assert (base.stat().st_mode & 0o777, base.stat().st_uid) == (0o444, 0)
    intact = module("image_info", names=["tiny"], verify=True)["results"][0]["intact"]
    assert intact is True, "the base was written to"

    one = module("domain", run=run, state="absent", domains=[{"name": f"a-{RUN}"}])
    assert one["changed"] is True
    assert f"a-{RUN}" not in host.domains()
    assert not list((tiny_state / "runs" / RUN).glob(f"a-{RUN}*"))
    assert addresses[f"a-{RUN}"] not in {address for _mac, address in host.leases()}
    assert module("domain", run=run, state="absent", domains=[{"name": f"a-{RUN}"}])["changed"] is False

    gone = module("domain", run=run, state="absent", clean_run=True)
    assert gone["changed"] is True
    assert module("domain", run=run, state="absent", clean_run=True)["changed"] is False
    untouched()


def unwrapped(value: dict[str, Any]) -> Any:
    """ansible-inventory marks what did not come from a file of ours."""
    return value.get("__ansible_unsafe", value)


def check_inventory(directory: Path, addresses: dict[str, str]) -> None:
    """The inventory has the guests as hosts by name, verified by the pinned key, in their groups."""
    (directory / "mayfly.yml").write_text("plugin: mayfly.virt.guests\nkeyed_groups: [{key: mayfly_accel, prefix: accel}]\n")
    argv = ["ansible-inventory", "-i", str(directory / "mayfly.yml"), "--list"]
    listed = json.loads(subprocess.run(argv, env=ENVIRONMENT, capture_output=True, check=True, text=True).stdout, object_hook=unwrapped)
    hosts = listed["_meta"]["hostvars"]
    for name, address in addresses.items():
        variables = hosts[name]
        assert variables["ansible_host"] == name, "libvirt-NSS resolves it, so the name is used"
        assert variables["mayfly_addresses"] == [address]
        assert variables["mayfly_run"] == RUN
        assert "StrictHostKeyChecking=yes" in variables["ansible_ssh_common_args"]
        assert f"HostKeyAlias={name}" in variables["ansible_ssh_common_args"]
        assert Path(variables["ansible_ssh_private_key_file"]).stat().st_mode & 0o777 == 0o600
        assert name in listed["mayfly"]["hosts"]
        assert name in listed["accel_tcg"]["hosts"]
    assert listed["mayfly_role_server"]["hosts"] == [f"a-{RUN}"]
    assert listed["mayfly_guest_b"]["hosts"] == [f"b-{RUN}"]


@pytest.mark.parametrize(
    ("cmdline", "stage", "reason"),
    [
        ("tiny=silent", "lease", "no DHCP lease"),
        ("tiny=panic", "lease", "its kernel panicked: Kernel panic - not syncing: sysrq triggered crash"),
        ("tiny=off", "lease", "itself off"),
        ("root=/dev/nowhere rdinit=/nothing", "lease", "panicked: Kernel panic - not syncing: VFS: Unable to mount root fs"),
    ],
    ids=["no-lease", "panic", "power-off", "no-root"],
)
def test_a_guest_that_does_not_come_is_diagnosed(module: Module, run: dict[str, Any], cmdline: str, stage: str, reason: str) -> None:
    # Six times that under emulation. Only the guest that does nothing at all takes it.
    answer = module("domain", run=run, domains=[domain(f"a-{RUN}", cmdline)], wait="lease", wait_timeout=4, fails=True)
    assert f"Guest 'a-{RUN}' did not reach the stage '{stage}'" in answer["msg"]
    assert reason in answer["msg"]
    assert "end of its console" in answer["msg"]
    assert answer["results"][0]["message"] in answer["msg"]


def test_one_dead_guest_neither_hides_nor_kills_its_neighbour(module: Module, run: dict[str, Any]) -> None:
    wanted = [domain(f"a-{RUN}", "tiny=panic"), domain(f"b-{RUN}")]
    answer = module("domain", run=run, domains=wanted, wait="lease", wait_timeout=20, fails=True)
    stages = {result["name"]: result["stage"] for result in answer["results"]}
    assert stages == {f"a-{RUN}": "running", f"b-{RUN}": "lease"}
    states = {each["name"]: each["state"] for each in module("domain_info", run=RUN)["results"]}
    assert states == {f"a-{RUN}": "crashed", f"b-{RUN}": "running"}, "the panicked guest stays as evidence"


def test_bad_input_is_refused_before_anything_is_made(module: Module, host: Host, tiny_state: Path, untouched: Callable[[], None]) -> None:
    run = {"id": RUN}
    hardly = {"name": f"a-{RUN}", "image": "tiny", "accel": "tcg"}
    cases: list[tuple[dict[str, Any], list[str]]] = [
        ({**hardly, "image": "nope"}, ["'nope'", "known there: tiny", "mayfly.virt.image"]),
        ({**hardly, "memory_mib": 10**7}, [f"'a-{RUN}'", "10000000 MiB", "memory_mib"]),
        ({**hardly, "interfaces": [{"network": "nowhere"}]}, [f"'a-{RUN}'", "'nowhere' does not exist"]),
        ({**hardly, "kernel": "/nonexistent"}, ["/nonexistent is not a file"]),
        ({**hardly, "name": "UPPER"}, ["'UPPER'", "lower-case"]),
        ({**hardly, "name": "a.b"}, ["'a.b'"]),
        ({**hardly, "name": "x" * 64}, ["64 characters"]),
        ({**hardly, "name": "tck-1"}, ["'tck-1'", "libvirt-TCK"]),
    ]
    before = host.snapshot(tiny_state)
    for wanted, words in cases:
        answer = module("domain", run=run, domains=[wanted], fails=True)
        for word in words:
            assert word in answer["msg"], answer["msg"]
        assert host.snapshot(tiny_state) == before
    answer = module("domain", run=run, domains=[hardly, hardly], fails=True)
    assert "given more than once" in answer["msg"]
    answer = module("domain", run=run, domains=[hardly], uri="qemu+unix:///system?socket=/nonexistent", fails=True)
    assert "qemu+unix:///system?socket=/nonexistent" in answer["msg"]
    assert "Is the libvirt daemon running" in answer["msg"]
    assert host.snapshot(tiny_state) == before


def test_a_domain_of_somebody_else_is_left_alone(module: Module, run: dict[str, Any], host: Host) -> None:
    """Neither made anew, nor removed, nor swept, though it has the name."""
    name = f"a-{RUN}"
    foreign = host.libvirt.createXML(
        f"<domain type='qemu'><name>{name}</name><memory unit='MiB'>64</memory>"
        "<os><type arch='x86_64' machine='q35'>hvm</type></os></domain>"
    )
    try:
        assert "is not Mayfly's" in module("domain", run=run, domains=[domain(name)], fails=True)["msg"]
        assert "is not Mayfly's" in module("domain", run=run, domains=[{"name": name}], state="absent", fails=True)["msg"]
        module("domain", run=run, state="absent", clean_run=True)
        module("sweep", runs=[RUN])
        assert name in host.domains()
    finally:
        foreign.destroy()


def test_when_one_domain_cannot_be_made_none_is(module: Module, host: Host, untouched: Callable[[], None]) -> None:
    xml = "<domain type='qemu'><memory>1024</memory><os><type machine='no-such'>hvm</type></os></domain>"
    wrong = {"name": f"b-{RUN}", "xml": xml}
    answer = module("domain", run={"id": RUN}, domains=[domain(f"a-{RUN}"), wrong], fails=True)
    assert f"Could not create domain 'b-{RUN}'" in answer["msg"]
    untouched()


def test_sweep_finds_what_is_stale_and_only_that(module: Module, host: Host, tiny_state: Path, untouched: Callable[[], None]) -> None:
    with subprocess.Popen(["sleep", "600"]) as owner:
        module("domain", run={"id": "t-owned", "owner_pid": owner.pid}, domains=[domain("a-t-owned")])
        module("domain", run={"id": "t-late", "deadline": 0}, domains=[domain("a-t-late", "tiny=silent")])
        module("domain", run={"id": "t-lost"}, domains=[domain("a-t-lost", "tiny=silent")])
        module("seed", run={"id": "t-empty"}, seeds=[{"name": "a-t-empty"}])
        subprocess.run(["rm", "-r", str(tiny_state / "runs" / "t-lost")], check=True)

        listed = module("sweep", dry_run=True)
        reasons = {result["name"]: result["reason"] for result in listed["results"]}
        assert listed["changed"] is False
        assert set(reasons) == {"t-late", "t-lost"}
        assert "deadline" in reasons["t-late"]
        assert "no run directory" in reasons["t-lost"]

        assert module("sweep", check=True)["changed"] is True
        swept = module("sweep")
        assert {result["name"] for result in swept["results"]} == {"t-late", "t-lost"}
        assert host.domains() >= {"a-t-owned"}
        assert not host.domains() & {"a-t-late", "a-t-lost"}
        owner.kill()
    rest = module("sweep", grace=0)
    reasons = {result["name"]: result["reason"] for result in rest["results"]}
    assert f"owner process {owner.pid} is gone" in reasons["t-owned"]
    assert "has no domain" in reasons["t-empty"]
    assert module("sweep", grace=0)["changed"] is False
    untouched()


@pytest.fixture
def listener() -> Iterator[int]:
    """A TCP service of this host, on every address; the port is yielded."""
    with socket.create_server(("0.0.0.0", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    server.accept()[0].close()
                except OSError:  # closed at the end of the test
                    return

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]


def test_guests_reach_neither_the_host_nor_each_other(
    module: Module, run: dict[str, Any], host: Host, listener: int, tiny_state: Path
) -> None:
    gateway = str(host.libvirt.networkLookupByName(NETWORK).XMLDesc().split("ip address='")[1].split("'")[0])
    server = module("domain", run=run, domains=[domain(f"srv-{RUN}", "tiny=listen:7000")], wait="lease")["results"][0]
    host.console(Path(server["console_log"]), "tiny: listening", 60)
    with socket.create_connection((server["address"], 7000), timeout=20):
        pass  # the host itself reaches its guest
    targets = {
        f"h-{RUN}": (gateway, listener, "direct"),
        f"n-{RUN}": (server["address"], 7000, "direct"),
        f"r-{RUN}": (server["address"], 7000, gateway),  # by way of the host
        f"d-{RUN}": (gateway, 53, "direct"),
    }
    wanted = [domain(name, f"tiny=probe:{address}:{port}:{route}") for name, (address, port, route) in targets.items()]
    made = module("domain", run=run, domains=wanted, wait="lease")["results"]
    said = {result["name"]: host.console(Path(result["console_log"]), "tiny: ready", 120) for result in made}
    for name, (address, port, _route) in targets.items():
        expected = "reached" if port == 53 else "cannot reach"
        assert f"tiny: {expected} {address}:{port}" in said[name], said[name][-1000:]


def test_a_full_disk_while_building_is_told_and_nothing_stays(tmp_path: Path) -> None:
    """A real build on a real file system of 200 MiB, in a mount namespace of its own."""
    state_dir = tmp_path / "state"
    state_dir.mkdir()
    arguments = json.dumps({"state_dir": str(state_dir), "images": [{"name": "small", "recipe": {"suite": "bookworm"}}]})
    script = """
        mount -t tmpfs -o size=200m tmpfs "$1"
        ansible localhost -m mayfly.virt.image -a "$2"
        echo "left:"
        find "$1" -type f -size +0 -o -name ".work-*"
    """
    argv = ["unshare", "--mount", "sh", "-c", script, "sh", str(state_dir), arguments]
    done = subprocess.run(argv, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False)
    said, _separator, left = done.stdout.partition("left:\n")
    answer = json.loads(said[said.index("=> {") + 3 :])
    assert "Could not store image 'small': no space is left on the disk" in answer["msg"]
    assert "make room" in answer["msg"]
    assert left == ""


def test_missing_bindings_name_the_interpreter(tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run(["/usr/bin/python3", "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    argv = ["ansible", "localhost", "-e", f"ansible_python_interpreter={python}", "-m", "mayfly.virt.domain_info"]
    done = subprocess.run(argv, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert str(python) in done.stdout
    assert "python3-lxml" in done.stdout or "python3-libvirt" in done.stdout
    assert os.path.exists(python)


def test_a_disk_that_is_full_while_an_image_is_built(tmp_path: Path) -> None:
    """A real file system without room: what fails there is mmdebstrap, apt or dpkg, each with words of its own."""
    state_dir = tmp_path / "state"
    state_dir.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160m", "tmpfs", str(state_dir)], check=True)
    try:
        wanted = {"name": "full", "recipe": {"suite": "bookworm"}}
        answer = Module({"state_dir": str(state_dir)})("image", images=[wanted], fails=True)
        assert "Could not store image 'full': no space is left on the disk of" in answer["msg"]
        assert "make room" in answer["remedy"]
        left = [path for path in (state_dir / "images").rglob("*") if path.is_file() and path.parent.name != "locks"]
        assert left == []
        assert not list((state_dir / "images" / "tmp").iterdir())
    finally:
        subprocess.run(["umount", str(state_dir)], check=True)
