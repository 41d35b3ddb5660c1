# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bad input: every refusal names its object and a remedy, in check mode too, and leaves files and domains as they were."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from driver_kit import Host, Modules, domain
from lxml import etree

from ansible_collections.mayfly.virt.plugins.module_utils import _libvirt, _module

RUN = {"id": "r1", "deadline": 3600}
DIGEST = "5" * 64
XML = "<domain type='test'><name>{name}</name><memory unit='MiB'>64</memory><os><type>hvm</type></os></domain>"


def domains(*wanted: dict[str, Any], **params: Any) -> dict[str, Any]:
    return {"run": RUN, "domains": list(wanted), **params}


REFUSALS: dict[str, tuple[str, dict[str, Any], str, str]] = {
    # what: (module, parameters, object, reason)
    "domain: upper case": ("domain", domains(domain("One-r1")), "One-r1", "does not match"),
    "domain: dot": ("domain", domains(domain("one.r1")), "one.r1", "does not match"),
    "domain: libvirt-TCK's": ("domain", domains(domain("tck-one")), "tck-one", "begins with 'tck'"),
    "domain: too long": ("domain", domains(domain("x" * 64)), "x" * 64, "64 characters"),
    "domain: twice": ("domain", domains(domain("one-r1"), domain("one-r1")), "one-r1", "more than once"),
    "domain: run id": ("domain", {"run": {"id": "../r1"}, "domains": [domain("one-r1")]}, "../r1", "does not match"),
    "domain: owner gone": ("domain", {"run": {"id": "r1", "owner_pid": 2**22 + 1}, "domains": []}, "r1", "does not exist here"),
    "domain: unknown image": ("domain", domains(domain("one-r1", image="fedora")), "fedora", "known there: booting, large, tiny"),
    "domain: unknown digest": ("domain", domains(domain("one-r1", image=f"sha256:{DIGEST}")), f"sha256:{DIGEST}", "is not in the store"),
    "domain: overlay too small": ("domain", domains(domain("one-r1", image="large", disk_gib=29)), "one-r1", "less than the 30.0 GiB"),
    "domain: unknown network": ("domain", domains(domain("one-r1", interfaces=[{"network": "lab"}])), "one-r1", "'lab' does not exist"),
    "domain: the usual network": ("domain", domains(domain("one-r1", interfaces=None)), "one-r1", "'mayfly' does not exist"),
    "domain: MAC": ("domain", domains(domain("one-r1", interfaces=[{"network": "default", "mac": "x"}])), "x", "six hexadecimal octets"),
    "domain: more than the host": ("domain", domains(domain("one-r1", memory_mib=3073)), "one-r1", "the host has 3072 MiB in all"),
    "domain: more than is free": (
        "domain",
        domains(domain("one-r1", memory_mib=2000), domain("two-r1", memory_mib=2000)),
        "one-r1, two-r1",
        "they ask for 4000 MiB together",
    ),
    "domain: overcommitted beyond the host": (
        "domain",
        domains(domain("one-r1", memory_mib=3073), overcommit=True),
        "one-r1",
        "the host has 3072 MiB in all",
    ),
    "domain: kernel": ("domain", domains(domain("one-r1", kernel="/nowhere/vmlinuz")), "one-r1", "/nowhere/vmlinuz is not a file"),
    "domain: disk": ("domain", domains(domain("one-r1", disks=[{"path": "/nowhere/disk"}])), "one-r1", "/nowhere/disk is not a file"),
    "domain: cmdline without kernel": ("domain", domains(domain("one-r1", image="tiny", cmdline="quiet")), "one-r1", "no kernel"),
    "domain: reserved user data": (
        "domain",
        domains(domain("one-r1", image="tiny", seed={"user_data": {"ssh_keys": {}}})),
        "one-r1",
        "sets ssh_keys",
    ),
    "domain: authority": (
        "domain",
        domains(domain("one-r1", image="tiny", seed={"ca_certificates": ["/nowhere/ca.pem"]})),
        "seed of one-r1",
        "/nowhere/ca.pem cannot be read",
    ),
    "domain: user": ("domain", domains(domain("one-r1", image="tiny", seed={"user": "-oProxyCommand=id"})), "-oProxyCommand=id", "[a-z_]"),
    "domain: deadline": ("domain", {"run": {"id": "r1", "deadline": 10**12}, "domains": []}, "r1", "is not between 0 and"),
    "domain: deadline before now": ("domain", {"run": {"id": "r1", "deadline": -1}, "domains": []}, "r1", "is not between 0 and"),
    "domain: control character": ("domain", {"run": {"id": "r1", "owner": "a\x1bb"}, "domains": [domain("one-r1")]}, "one-r1", "in XML"),
    "domain: XML that does not parse": ("domain", domains({"name": "one-r1", "accel": "tcg", "xml": "<domain>"}), "one-r1", "not parse"),
    "domain: XML of a network": ("domain", domains({"name": "one-r1", "accel": "tcg", "xml": "<network/>"}), "one-r1", "is <network>"),
    "domain: XML of another name": (
        "domain",
        domains({"name": "one-r1", "accel": "tcg", "xml": XML.format(name="two-r1")}),
        "one-r1",
        "it names the domain 'two-r1'",
    ),
    "domain: a stranger's name": ("domain", domains(domain("test")), "test", "exists and is not Mayfly's"),
    "domain: removing a stranger's": ("domain", domains(domain("test"), state="absent"), "test", "it is not Mayfly's"),
    "domain: clean_run while present": ("domain", {"run": RUN, "clean_run": True}, "clean_run", "state is present"),
    "overlay: unknown image": ("overlay", {"run": RUN, "overlays": [{"name": "one-r1", "image": "fedora"}]}, "fedora", "known there"),
    "overlay: no image": ("overlay", {"run": RUN, "overlays": [{"name": "one-r1"}]}, "one-r1", "has no image"),
    "overlay: too small": (
        "overlay",
        {"run": RUN, "overlays": [{"name": "one-r1", "image": "large", "size_gib": 1}]},
        "one-r1",
        "less than the 30.0 GiB",
    ),
    "overlay: bad name": ("overlay", {"run": RUN, "overlays": [{"name": "../x", "image": "tiny"}]}, "../x", "does not match"),
    "overlay: bad name, removed": (
        "overlay",
        {"run": RUN, "state": "absent", "overlays": [{"name": "../../images/aliases/tiny"}]},
        "../../images/aliases/tiny",
        "does not match",
    ),
    "seed: bad name": ("seed", {"run": RUN, "seeds": [{"name": "A"}]}, "A", "does not match"),
    "seed: MAC": ("seed", {"run": RUN, "seeds": [{"name": "one-r1", "macs": ["ff:ff:ff:ff:ff:ff"]}]}, "ff:ff:ff:ff:ff:ff", "multicast"),
    "seed: user": ("seed", {"run": RUN, "seeds": [{"name": "one-r1", "user": "Jane Doe"}]}, "Jane Doe", "does not match"),
    "seed: reserved user data": ("seed", {"run": RUN, "seeds": [{"name": "one-r1", "user_data": {"users": []}}]}, "one-r1", "sets users"),
    "image: name": ("image", {"images": [{"name": "Debian", "source": "/etc/hostname"}]}, "Debian", "does not match"),
    "image: twice": ("image", {"images": [{"name": "a", "source": "/etc/hostname"}] * 2}, "a", "more than once"),
    "image: a digest for a name": ("image", {"images": [{"name": DIGEST, "source": "/etc/hostname"}]}, DIGEST, "looks like a digest"),
    "image: mirror": ("image", {"images": [{"name": "a", "recipe": {"suite": "sid"}, "mirror": "--x"}]}, "a", "its mirror '--x' is no URL"),
    "image: neither source nor recipe": ("image", {"images": [{"name": "a"}]}, "a", "needs a source or a recipe"),
    "image: no such file": ("image", {"images": [{"name": "a", "source": "/nowhere/disk"}]}, "a", "/nowhere/disk is not a file"),
    "image: URL without checksum": ("image", {"images": [{"name": "a", "source": "https://example.org/x"}]}, "a", "without a checksum"),
    "image: checksum": ("image", {"images": [{"name": "a", "source": "/etc/hostname", "checksum": "md5:00"}]}, "a", "not understood"),
    "image: recipe": ("image", {"images": [{"name": "a", "recipe": {"suite": "a b"}}]}, "a", "no name of a suite"),
    "sweep: run id": ("sweep", {"runs": [".."]}, "..", "does not match"),
    "network: subnet": ("network", {"networks": [{"name": "lab", "subnet": "10.0.0.1/8"}]}, "lab", "is not one"),
    "network: a stranger's": ("network", {"networks": [{"name": "default", "subnet": "10.9.0.0/24"}]}, "default", "is not Mayfly's"),
    "network: removing a stranger's": ("network", {"networks": [{"name": "default"}], "state": "absent"}, "default", "it is not Mayfly's"),
}


@pytest.mark.parametrize("check", [True, False], ids=["check mode", "for real"])
@pytest.mark.parametrize(("module", "params", "target", "reason"), REFUSALS.values(), ids=REFUSALS)
def test_is_refused_and_leaves_everything_as_it_was(
    module: str, params: dict[str, Any], target: str, reason: str, check: bool, run: Modules, host: Host
) -> None:
    before = host.now(times=True)
    answer = run.fail(module, check=check, **params)
    assert answer["target"] == target
    assert f"'{target}'" in answer["msg"]
    assert reason in answer["msg"]
    assert len(answer["remedy"]) > 10
    assert answer["remedy"] in answer["msg"]
    assert host.now(times=True) == before


@pytest.mark.parametrize(
    ("module", "params", "words"),
    [
        ("domain", domains(domain("one-r1", xml="<domain/>", image="tiny")), "mutually exclusive: xml|image"),
        ("domain", domains(domain("one-r1", initrd="/x")), "kernel"),
        ("domain", domains(domain("one-r1", disk_gib=4)), "image"),
        ("domain", domains(domain("one-r1", firmware="uefi")), "firmware"),
        ("domain", {"domains": []}, "run"),
        ("domain", domains({"memory_mib": 64}), "name"),
        ("image", {"images": [{"name": "a", "source": "/x", "recipe": {"suite": "bookworm"}}]}, "source|recipe"),
        ("image", {"images": [{"name": "a", "source": "/x", "signature": "/y"}]}, "keyring"),
        ("overlay", {"run": {}, "overlays": []}, "id"),
    ],
)
def test_the_argument_specification_refuses(module: str, params: dict[str, Any], words: str, run: Modules, host: Host) -> None:
    before = host.now(times=True)
    assert words in run.fail(module, **params)["msg"]
    assert host.now(times=True) == before


# -- hostile text through the whole way ----------------------------------------------------------------------------------

HOSTILE = "</name><evil a='1'/>&amp;\"]]>{{ 7 }} $(id) <!--"


def tag_value(xml: str, name: str) -> str | None:
    return etree.fromstring(xml).findtext(f"metadata/{{urn:mayfly:virt:1}}run/{{urn:mayfly:virt:1}}{name}")


@pytest.mark.parametrize(
    ("params", "tag"),
    [
        ({"run": {"id": "r1", "owner": HOSTILE}, "domains": [domain("one-r1")]}, "owner"),
        ({"run": {"id": "r1", "job_url": HOSTILE}, "domains": [domain("one-r1")]}, "job_url"),
        (domains(domain("one-r1", guest=HOSTILE)), "guest"),
        (domains(domain("one-r1", role=HOSTILE)), "role"),
        (domains(domain("one-r1", image="tiny", guest=HOSTILE, seed={"hostname": HOSTILE, "user_data": {HOSTILE: HOSTILE}})), "guest"),
    ],
)
def test_words_come_back_as_they_were(params: dict[str, Any], tag: str, run: Modules, host: Host) -> None:
    run("domain", **params)
    assert tag_value(host.xml("one-r1"), tag) == HOSTILE
    assert "<evil" not in host.xml("one-r1")
    assert sorted(host.domains()) == ["one-r1", "test"]
    assert run("domain", **params)["changed"] is False
    (result,) = run("domain_info", run="r1")["results"]
    if tag in result:
        assert result[tag] == HOSTILE


PLACES: dict[str, dict[str, Any]] = {
    "machine": {"machine": HOSTILE},
    "cpu": {"cpu": HOSTILE},
    "cmdline": {"kernel": "/proc/version", "cmdline": HOSTILE},
    "console_log": {"console_log": f"/{HOSTILE}"},
    "network": {"interfaces": [{"network": HOSTILE}]},
    "mac": {"interfaces": [{"network": "default", "mac": HOSTILE}]},
    "model": {"interfaces": [{"network": "default", "model": HOSTILE}]},
    "serial": {"disks": [{"path": "/proc/version", "format": "raw", "serial": HOSTILE}]},
    "format": {"disks": [{"path": "/proc/version", "format": HOSTILE}]},
    "image": {"image": HOSTILE},
}


@pytest.mark.parametrize("place", PLACES)
def test_hostile_words_arrive_whole_or_are_refused(place: str, files: Path, run: Modules, host: Host) -> None:
    options = PLACES[place]
    for disk in options.get("disks", []):
        disk["path"] = str(files / "tiny.qcow2")
    before = host.now(times=True)
    answer = run.answer("domain", run=RUN, domains=[domain("one-r1", **options)])
    if answer.get("failed"):
        assert answer["target"] in ("one-r1", HOSTILE, str(files / "tiny.qcow2"))
        assert answer["remedy"]
        assert host.now().domains == before.domains
        assert {name for name in host.tree() if name != "state/runs"} == set(before.tree)
    else:
        document = etree.fromstring(host.xml("one-r1"))
        texts = [node.text for node in document.iter()] + [value for node in document.iter() for value in node.attrib.values()]
        assert any(text in (HOSTILE, f"/{HOSTILE}") for text in texts)
        assert document.find(".//evil") is None


def test_hostile_words_in_a_users_xml_stay_what_they_are(run: Modules, host: Host) -> None:
    document = etree.fromstring(XML.format(name="one-r1"))
    etree.SubElement(document, "title").text = HOSTILE
    run("domain", **domains({"name": "one-r1", "accel": "tcg", "xml": etree.tostring(document, encoding="unicode")}))
    assert etree.fromstring(host.xml("one-r1")).findtext("title") == HOSTILE


def test_entities_in_a_users_xml_read_no_file(run: Modules, host: Host, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("the secret")
    text = f"<!DOCTYPE domain [<!ENTITY e SYSTEM 'file://{tmp_path}/secret'>]>" + XML.format(name="one-r1").replace(
        "</name>", "</name><title>&e;</title>"
    )
    before = host.now().domains
    answer = run.answer("domain", **domains({"name": "one-r1", "accel": "tcg", "xml": text}))
    assert "the secret" not in str(answer)
    assert answer["failed"]
    assert host.now().domains == before


# -- the daemon and its library ------------------------------------------------------------------------------------------

NEEDS_LIBVIRT = {
    "domain": domains(domain("one-r1")),
    "domain_info": {},
    "sweep": {},
    "hypervisor_info": {},
    "network": {"networks": [{"name": "lab", "subnet": "10.9.0.0/24"}]},
}


@pytest.mark.parametrize("name", NEEDS_LIBVIRT)
def test_missing_bindings_name_the_interpreter(name: str, run: Modules, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    before = host.now(times=True)
    with monkeypatch.context() as patch:
        patch.setattr(_libvirt, "libvirt", None)
        patch.setattr(_libvirt, "LIBVIRT_ERROR", "Traceback: no module named libvirt")
        patch.setattr(_module, "LIBVIRT_ERROR", "Traceback: no module named libvirt")
        answer = run.fail(name, **NEEDS_LIBVIRT[name])
    assert sys.executable in answer["msg"]
    assert "python3-libvirt" in answer["msg"]
    assert host.now(times=True) == before


@pytest.mark.parametrize("name", ["image_info", "image", "overlay", "seed"])
def test_modules_that_need_no_libvirt_do_without(name: str, run: Modules, monkeypatch: pytest.MonkeyPatch) -> None:
    params = {"image_info": {}, "image": {"images": []}, "overlay": {"run": RUN, "overlays": []}, "seed": {"run": RUN, "seeds": []}}[name]
    with monkeypatch.context() as patch:
        patch.setattr(_libvirt, "libvirt", None)
        patch.setattr(_module, "LIBVIRT_ERROR", "Traceback: no module named libvirt")
        assert not run(name, check=True, **params).get("failed")


@pytest.mark.parametrize("name", [*NEEDS_LIBVIRT, "image_info"])
def test_missing_lxml_names_library_and_interpreter(name: str, run: Modules, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_module, "LXML_ERROR", "Traceback: no module named lxml")
    answer = run.fail(name, **NEEDS_LIBVIRT.get(name, {}))
    assert "lxml" in answer["msg"]
    assert sys.executable in answer["msg"]


@pytest.mark.parametrize("name", NEEDS_LIBVIRT)
def test_a_daemon_that_does_not_run_is_named(name: str, run: Modules, host: Host) -> None:
    before = host.now(times=True)
    run.uri = "qemu+unix:///system?socket=/nonexistent"
    answer = run.fail(name, **NEEDS_LIBVIRT[name])
    assert answer["target"] == run.uri
    assert "Could not connect to libvirt at" in answer["msg"]
    assert "/nonexistent" in answer["reason"]
    assert "daemon running" in answer["remedy"]
    assert host.now(times=True) == before


def test_a_uri_of_no_driver_is_named(run: Modules) -> None:
    run.uri = "nonsense:///x"
    answer = run.fail("domain_info")
    assert answer["target"] == "nonsense:///x"
    assert "no connection driver" in answer["reason"]


def test_libvirt_itself_says_nothing_on_stderr(run: Modules, tmp_path: Path) -> None:
    """It prints its errors from C, past sys.stderr, unless a handler takes them."""
    saved = os.dup(2)
    with (tmp_path / "stderr").open("wb") as file:
        os.dup2(file.fileno(), 2)
        try:
            run.fail("domain", **domains({"name": "one-r1", "accel": "tcg", "xml": "<domain type='nonsense'/>"}))
        finally:
            os.dup2(saved, 2)
            os.close(saved)
    assert (tmp_path / "stderr").read_text() == ""


# -- a state directory that cannot be ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("overlay", {"run": RUN, "overlays": []}),
        ("seed", {"run": RUN, "seeds": []}),
        ("domain", domains(domain("one-r1"))),
        ("image", {"images": [{"name": "a", "source": "SOURCE"}]}),
    ],
)
def test_a_state_directory_that_cannot_be_is_named(
    name: str, params: dict[str, Any], run: Modules, host: Host, files: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    if name == "image":
        params = {"images": [{"name": "a", "source": str(files / "tiny.qcow2")}]}
    before = host.domains()
    answer = run.fail(name, state_dir=str(tmp_path / "file"), **params)
    assert str(tmp_path / "file") in answer["target"]
    assert "state_dir" in answer["remedy"]
    assert host.domains() == before


def test_a_relative_state_directory_works(run: Modules, monkeypatch: pytest.MonkeyPatch, host: Host) -> None:
    monkeypatch.chdir(host.state.parent)
    (result,) = run("overlay", state_dir=host.state.name, run=RUN, overlays=[{"name": "one-r1", "image": "tiny"}])["results"]
    assert result["path"] == str(host.run_dir() / "one-r1.qcow2")
    assert all(Path(layer).is_absolute() and Path(layer).exists() for layer in result["chain"])
    assert run("overlay", run=RUN, overlays=[{"name": "one-r1", "image": "tiny"}])["changed"] is False


def test_an_overlay_that_is_another_is_refused(run: Modules, host: Host) -> None:
    run("overlay", run=RUN, overlays=[{"name": "one-r1", "image": "tiny", "size_gib": 1}])
    before = host.now(times=True)
    for overlay in ({"image": "tiny", "size_gib": 2}, {"image": "booting", "size_gib": 1}):
        answer = run.fail("overlay", run=RUN, overlays=[{"name": "two-r1", "image": "tiny"}, {"name": "one-r1", **overlay}])
        assert answer["target"] == str(host.run_dir() / "one-r1.qcow2")
        assert "it exists with 1073741824 bytes" in answer["reason"]
    assert host.now(times=True) == before


def lose_image(host: Host, alias: str) -> Path:
    """Take the file of a stored image away, its manifest stays."""
    manifest = (host.state / "images" / "aliases" / alias).resolve()
    manifest.with_suffix(".qcow2").unlink()
    return manifest


def test_an_overlay_that_cannot_be_made_takes_the_others_with_it(run: Modules, host: Host) -> None:
    run("overlay", run=RUN, overlays=[{"name": "one-r1", "image": "tiny"}])
    lose_image(host, "large")
    before = host.tree()
    answer = run.fail("overlay", run=RUN, overlays=[{"name": "two-r1", "image": "tiny"}, {"name": "three-r1", "image": "large"}])
    assert answer["target"] == str(host.run_dir() / "three-r1.qcow2")
    assert host.tree() == before


@pytest.mark.parametrize("module", ["overlay", "seed"])
def test_a_run_that_was_opened_for_nothing_is_closed_again(
    module: str, run: Modules, host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lose_image(host, "large")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "xorriso").write_text("#!/bin/sh\nexit 5\n")
    (tmp_path / "bin" / "xorriso").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin", prepend=os.pathsep)
    wishes = {"overlays": [{"name": "one-r1", "image": "large"}]} if module == "overlay" else {"seeds": [{"name": "one-r1"}]}
    run.fail(module, run=RUN, **wishes)
    assert not host.run_dir().exists()


def test_a_disk_whose_backing_file_is_missing_is_named(run: Modules, host: Host, tmp_path: Path) -> None:
    for argv in (["base.qcow2", "1M"], ["-F", "qcow2", "-b", "base.qcow2", "top.qcow2"]):
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *argv], check=True, cwd=tmp_path, timeout=30)
    (tmp_path / "base.qcow2").unlink()
    before = host.now(times=True)
    answer = run.fail("domain", **domains(domain("one-r1", disks=[{"path": str(tmp_path / "top.qcow2")}])))
    assert answer["target"] == str(tmp_path / "top.qcow2")
    assert "base.qcow2" in answer["reason"]
    assert "backing file" in answer["remedy"]
    assert host.now(times=True) == before


def test_a_damaged_image_in_the_store_is_named(run: Modules, host: Host) -> None:
    manifest = next((host.state / "images").glob("sha256-*.json"))
    manifest.chmod(0o644)
    manifest.write_text("{")
    for name, params in (("image_info", {}), ("domain", domains(domain("one-r1", image=manifest.stem)))):
        answer = run.fail(name, **params)
        assert answer["target"] == str(manifest)
        assert "Remove it" in answer["remedy"]


def test_a_program_that_is_not_installed_is_named(run: Modules, host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for program in ("ssh-keygen", "xorriso"):
        (tmp_path / "bin" / program).symlink_to(subprocess.check_output(["sh", "-c", f"command -v {program}"], text=True).strip())
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    answer = run.fail("overlay", run=RUN, overlays=[{"name": "one-r1", "image": "tiny"}])
    assert "qemu-img" in answer["reason"]
    assert "is not installed" in answer["reason"]
