# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images as the module knows them, and the modules that only tell."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest
from driver_kit import Host, Modules, domain

from ansible_collections.mayfly.virt.plugins.module_utils import _accel, _nss
from ansible_collections.mayfly.virt.plugins.module_utils._libvirt import Hypervisor
from ansible_collections.mayfly.virt.plugins.module_utils._nss import NssState

RUN = {"id": "r1", "deadline": 3600}


def facts(run: Modules, *names: str, **params: Any) -> list[dict[str, Any]]:
    return run("image_info", names=list(names), **params)["results"] if names else run("image_info", **params)["results"]


# -- image ---------------------------------------------------------------------------------------------------------------


def test_what_is_known_of_an_image(run: Modules, host: Host, files: Path) -> None:
    (image,) = facts(run, "booting")
    assert image["aliases"] == ["booting"]
    assert image["virtual_size"] == 2 << 20
    assert Path(image["path"]).stat().st_size == image["size"]
    assert Path(image["kernel"]).read_text() == "a kernel"
    assert (image["initrd"], image["cmdline"], image["packages"]) == ("", "root=LABEL=x", 0)
    assert image["source"]["kind"] == "file"
    assert image["source"]["location"] == str(files / "other.qcow2")
    assert oct(Path(image["path"]).stat().st_mode)[-3:] == "444"


def test_another_name_for_stored_bytes_imports_nothing(run: Modules, host: Host, files: Path) -> None:
    (result,) = run("image", images=[{"name": "again", "source": str(files / "tiny.qcow2")}])["results"]
    assert (result["changed"], result["imported"]) == (True, False)
    assert result["aliases"] == ["again", "tiny"]
    assert facts(run, "again") == facts(run, "tiny")


def test_an_alias_moves_to_other_bytes_and_the_old_ones_stay(run: Modules, host: Host, files: Path) -> None:
    (old,) = facts(run, "tiny")
    done = run("image", images=[{"name": "tiny", "source": str(files / "vmlinuz")}])
    assert done["actions"] == ["update image tiny"]
    (new,) = facts(run, "tiny")
    assert done["diff"] == [
        {
            "before_header": "image tiny",
            "after_header": "image tiny",
            "before": f"{old['digest']}\n",
            "after": f"{new['digest']}\n",
        }
    ]
    (kept,) = facts(run, old["digest"])
    assert kept["aliases"] == []
    assert Path(kept["path"]).exists()


def test_an_image_in_use_is_not_removed(run: Modules, host: Host) -> None:
    run("domain", run=RUN, domains=[domain("one-r1", image="tiny")])
    before = host.now(times=True)
    for check in (True, False):
        answer = run.fail("image", check=check, images=[{"name": "tiny"}], state="absent")
        assert answer["target"] == "tiny"
        assert f"{host.run_dir()}/one-r1.qcow2 stands on it" in answer["reason"]
        assert "r1" in answer["remedy"]
    assert host.now(times=True) == before
    run("domain", run=RUN, state="absent", clean_run=True)
    assert run("image", images=[{"name": "tiny"}], state="absent")["changed"] is True


def test_an_alias_of_an_image_in_use_may_go_while_another_stays(run: Modules, host: Host, files: Path) -> None:
    run("image", images=[{"name": "again", "source": str(files / "tiny.qcow2")}])
    run("domain", run=RUN, domains=[domain("one-r1", image="tiny")])
    answer = run("image", images=[{"name": "tiny"}], state="absent")
    assert answer["actions"] == ["remove image tiny (its bytes stay for another alias)"]
    assert Path(facts(run, "again")[0]["path"]).exists()
    assert facts(run, "tiny") == []


def test_removing_the_last_alias_removes_every_file(run: Modules, host: Host) -> None:
    (image,) = facts(run, "booting")
    run("image", images=[{"name": "booting"}], state="absent")
    assert [name for name in host.tree() if image["digest"] in name] == []


def test_an_image_without_alias_is_removed_by_its_digest(run: Modules, host: Host, files: Path) -> None:
    (old,) = facts(run, "tiny")
    run("image", images=[{"name": "tiny", "source": str(files / "vmlinuz")}])
    for expected in (True, False):
        assert run("image", images=[{"name": f"sha256:{old['digest']}"}], state="absent")["changed"] is expected
    assert facts(run, old["digest"]) == []


def test_a_digest_is_refused_while_an_alias_points_to_it(run: Modules, host: Host, files: Path) -> None:
    run("image", images=[{"name": "again", "source": str(files / "tiny.qcow2")}])
    (image,) = facts(run, "tiny")
    before = host.now(times=True)
    for check in (True, False):
        answer = run.fail("image", check=check, images=[{"name": "again"}, {"name": image["digest"]}], state="absent")
        assert answer["target"] == image["digest"]
        assert "the aliases again, tiny point to it" in answer["reason"]
    assert host.now(times=True) == before
    with_all_its_aliases = {"images": [{"name": "again"}, {"name": image["digest"]}, {"name": "tiny"}], "state": "absent"}
    predicted = run("image", check=True, **with_all_its_aliases)
    done = run("image", **with_all_its_aliases)
    assert predicted["actions"] == done["actions"] == ["remove image again", f"remove image {image['digest']}", "remove image tiny"]
    assert [name for name in host.tree() if image["digest"] in name] == []
    assert run("image", **with_all_its_aliases)["changed"] is False


def test_two_aliases_of_one_image_are_removed_as_predicted(run: Modules, host: Host, files: Path) -> None:
    run("image", images=[{"name": "again", "source": str(files / "tiny.qcow2")}])
    (image,) = facts(run, "tiny")
    both = {"images": [{"name": "again"}, {"name": "tiny"}], "state": "absent"}
    predicted = run("image", check=True, **both)
    assert predicted["actions"] == run("image", **both)["actions"] == ["remove image again", "remove image tiny"]
    assert facts(run, image["digest"]) == []
    assert [name for name, what in host.tree().items() if image["digest"] in name or image["digest"] in str(what)] == []


def test_two_aliases_of_an_image_in_use_are_refused_in_check_mode_too(run: Modules, host: Host, files: Path) -> None:
    run("image", images=[{"name": "again", "source": str(files / "tiny.qcow2")}])
    run("domain", run=RUN, domains=[domain("one-r1", image="tiny")])
    before = host.now()
    both = {"images": [{"name": "again"}, {"name": "tiny"}], "state": "absent"}
    said = {run.fail("image", check=check, **both)["msg"] for check in (True, False)}
    assert len(said) == 1
    assert "one-r1.qcow2 stands on it" in said.pop()
    assert host.now() == before


def test_a_removal_that_is_refused_removes_nothing_of_its_task(run: Modules, host: Host) -> None:
    run("domain", run=RUN, domains=[domain("one-r1", image="tiny")])
    before = host.now()
    for check in (True, False):
        assert run.fail("image", check=check, images=[{"name": "large"}, {"name": "tiny"}], state="absent")["target"] == "tiny"
    assert host.now() == before


def test_a_name_that_stands_twice_is_refused_when_it_is_removed_too(run: Modules) -> None:
    for check in (True, False):
        answer = run.fail("image", check=check, images=[{"name": "tiny"}, {"name": "tiny"}], state="absent")
        assert "more than once" in answer["reason"]
    assert len(facts(run, "tiny")) == 1


def test_one_file_under_two_checksums_comes_to_rest(run: Modules, files: Path) -> None:
    content = (files / "vmlinuz").read_bytes()
    images = [
        {"name": algorithm, "source": str(files / "vmlinuz"), "checksum": f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"}
        for algorithm in ("sha256", "sha512")
    ]
    assert [result["imported"] for result in run("image", images=images)["results"]] == [True, False]
    for check in (True, False):
        assert run("image", check=check, images=images)["changed"] is False
    assert facts(run, "sha256") == facts(run, "sha512")


def test_another_kernel_for_a_stored_disk_is_refused(run: Modules, host: Host, files: Path) -> None:
    """The manifest has room for one, and guests may be made with it at any moment."""
    before = host.now(times=True)
    wanted = [{"name": "other", "source": str(files / "other.qcow2"), "kernel": str(files / "initrd")}]
    for check in (True, False):
        answer = run.fail("image", check=check, images=wanted)
        assert "is there with another vmlinuz" in answer["reason"]
        assert "kernel to the domain" in answer["remedy"]
    assert host.now(times=True) == before
    same = [{"name": "other", "source": str(files / "other.qcow2"), "kernel": str(files / "vmlinuz"), "cmdline": "root=LABEL=x"}]
    assert run("image", images=same)["results"][0]["aliases"] == ["booting", "other"]


def test_another_command_line_for_a_stored_disk_is_taken_or_refused(run: Modules, files: Path) -> None:
    answer = run.answer(
        "image",
        images=[{"name": "other", "source": str(files / "other.qcow2"), "kernel": str(files / "vmlinuz"), "cmdline": "root=LABEL=y"}],
    )
    assert answer.get("failed") or answer["results"][0]["cmdline"] == "root=LABEL=y"


def test_image_info_tells_all_and_what_was_asked(run: Modules, host: Host) -> None:
    before = host.now(times=True)
    assert run("image_info") == run("image_info", check=True)
    assert host.now(times=True) == before
    assert sorted(alias for image in facts(run) for alias in image["aliases"]) == ["booting", "large", "tiny"]
    assert [image["aliases"] for image in facts(run, "tiny", "nobody", "tiny")] == [["tiny"]]
    assert run("image_info", names=[])["results"] == []
    assert "intact" not in facts(run, "tiny")[0]


def test_image_info_notices_damage(run: Modules, host: Host) -> None:
    assert [image["intact"] for image in facts(run, verify=True)] == [True, True, True]
    (image,) = facts(run, "tiny")
    path = Path(image["path"])
    path.chmod(0o644)
    path.write_bytes(path.read_bytes() + b"x")
    assert {image["aliases"][0]: image["intact"] for image in facts(run, verify=True)} == {"tiny": False, "large": True, "booting": True}


def test_image_info_of_no_store_is_empty(run: Modules, tmp_path: Path) -> None:
    assert run("image_info", state_dir=str(tmp_path / "nowhere"))["results"] == []
    assert not (tmp_path / "nowhere").exists()


def test_image_info_notices_an_image_that_is_gone(run: Modules) -> None:
    (image,) = facts(run, "tiny")
    Path(image["path"]).unlink()
    assert [image["intact"] for image in facts(run, "tiny", "large", verify=True)] == [False, True]


# -- hypervisor_info -----------------------------------------------------------------------------------------------------

CAPABILITIES = """<domainCapabilities><domain>qemu</domain><os supported='yes'><enum name='firmware'><value>efi</value></enum></os>
</domainCapabilities>"""


@pytest.fixture
def capable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The test driver has no domain capabilities; these are QEMU's. No device, and names that work."""
    monkeypatch.setattr(Hypervisor, "domain_capabilities", lambda self, accel: CAPABILITIES if accel == "tcg" else "")
    monkeypatch.setattr(_accel, "DEVICE", tmp_path / "no-kvm")
    monkeypatch.setattr(_nss, "state", lambda: NssState(module=True, configured=True))


def test_hypervisor_info_on_a_driver_without_domain_capabilities(run: Modules) -> None:
    answer = run("hypervisor_info", network="default")
    assert answer["networks"] == {"default": True}
    assert answer["firmware"] == []
    assert answer["accel"]["name"] == "tcg"


@pytest.mark.usefixtures("capable")
def test_hypervisor_info_tells_what_there_is(run: Modules, host: Host) -> None:
    run("domain", run=RUN, domains=[domain("one-r1")])
    before = host.now(times=True)
    answer = run("hypervisor_info", network="default")
    assert host.now(times=True) == before
    assert answer["changed"] is False
    assert set(answer["versions"]) == {"libvirt", "test"}
    assert answer["accel"]["name"] == "tcg"
    assert answer["accel"]["proven"] is True
    assert answer["accel"]["deadline_factor"] == 6
    assert answer["firmware"] == ["bios", "efi"]
    assert answer["networks"] == {"default": True}
    assert answer["nss"] == {"module": True, "configured": True}
    capacity = answer["capacity"]
    assert (capacity["memory_mib"], capacity["domains"], capacity["given_memory_mib"], capacity["given_vcpus"]) == (3072, 2, 8192 + 64, 3)
    assert capacity["disk_free_mib"] == pytest.approx(shutil.disk_usage(host.state).free // 1024**2, rel=0.05)
    problems = [problem["subject"] for problem in answer["problems"] if problem["subject"] not in ("disk", "programs", "/dev/kvm")]
    assert problems == ["acceleration", "wall"]


@pytest.mark.usefixtures("capable")
def test_hypervisor_info_names_a_network_that_is_not_there(run: Modules) -> None:
    problems = {problem["subject"]: problem for problem in run("hypervisor_info")["problems"]}
    assert "'mayfly' does not exist" in problems["network"]["problem"]
    assert problems["network"]["remedy"]


@pytest.mark.usefixtures("capable")
def test_hypervisor_info_before_anything_was_made(run: Modules, tmp_path: Path) -> None:
    answer = run("hypervisor_info", state_dir=str(tmp_path / "not" / "yet"))
    assert answer["capacity"]["disk_free_mib"] > 0
    assert not (tmp_path / "not").exists()
