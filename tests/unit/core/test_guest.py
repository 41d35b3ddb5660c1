# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guests: derived from their options, and refused before anything is made."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from core_doubles import DIGEST, manifest, run_record, seen
from lxml import etree

from ansible_collections.mayfly.virt.plugins.module_utils import _guest
from ansible_collections.mayfly.virt.plugins.module_utils._argspec import SEED
from ansible_collections.mayfly.virt.plugins.module_utils._chain import GIB, Chain, Layer
from ansible_collections.mayfly.virt.plugins.module_utils._domain_xml import facts
from ansible_collections.mayfly.virt.plugins.module_utils._errors import InvalidInput, MayflyError
from ansible_collections.mayfly.virt.plugins.module_utils._guest import Guest
from ansible_collections.mayfly.virt.plugins.module_utils._libvirt import Network, Node
from ansible_collections.mayfly.virt.plugins.module_utils._names import derive_mac
from ansible_collections.mayfly.virt.plugins.module_utils._run import RunPaths
from ansible_collections.mayfly.virt.plugins.module_utils._store import Store
from ansible_collections.mayfly.virt.plugins.modules.domain import DOMAIN

NAME = "one-r1"
XML = "<domain type='kvm'><name>one-r1</name><memory unit='MiB'>768</memory><devices/></domain>"
PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"


def options(**given: Any) -> dict[str, Any]:
    """Return options as the module gets them, defaults filled in."""
    result = ArgumentSpecValidator(DOMAIN).validate({"name": NAME, **given})
    assert not result.error_messages, result.error_messages
    return result.validated_parameters


class World:
    """A store with two images, a run, and chains that were not asked of qemu-img."""

    def __init__(self, state: Path) -> None:
        self.store = Store(state)
        self.store.prepare()
        self.paths = RunPaths(state, "r1")
        self.chains: dict[str, Chain] = {}
        self.run = run_record("r1", owner="jane")
        kernel = {"kernel": f"sha256-{DIGEST}.vmlinuz", "kernel_release": "6.1.0-1-amd64", "cmdline": "root=LABEL=x"}
        self._put("booting", manifest(DIGEST, virtual_size=4 * GIB, **kernel, initrd=f"sha256-{DIGEST}.initrd"))
        self._put("plain", manifest("6" * 64, virtual_size=30 * GIB))

    def _put(self, alias: str, image: Any) -> None:
        (self.store.tmp / "image").write_text("bytes")
        self.store.add(self.store.tmp / "image", image, {})
        self.store.point(alias, image.digest)

    def guest(self, accel: str = "kvm", **given: Any) -> Guest:
        virt_type = "kvm" if accel == "kvm" else "qemu"
        return _guest.assemble(options(**given), self.run, self.paths, self.store, accel, virt_type, self.read_chain)

    def read_chain(self, path: Path, form: str) -> Chain:
        """Give what qemu-img would: a format that it is told is believed."""
        guessed = self.chains.get(path.name, Chain((Layer(str(path), "raw", GIB),)))
        return guessed if form in ("", guessed.top.format) else Chain((Layer(str(path), form, GIB),))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "state")


def text(guest: Guest, path: str) -> str | None:
    return guest.document.findtext(path)


# -- an image ------------------------------------------------------------------------------------------------------------


def test_an_image_gives_overlay_seed_and_kernel(world: World) -> None:
    guest = world.guest(image="booting")
    assert guest.overlay == _guest.Overlay(world.paths.overlay(NAME), world.store.layer(world.store.require("booting")), 20 * GIB)
    assert guest.seed.domain == NAME
    assert guest.seed.macs == guest.macs == (derive_mac(NAME),)
    assert text(guest, "os/kernel") == str(world.store.path(DIGEST, "vmlinuz"))
    assert text(guest, "os/initrd") == str(world.store.path(DIGEST, "initrd"))
    assert text(guest, "os/cmdline") == "root=LABEL=x sysrq_always_enabled"
    sources = [source.get("file") for source in guest.document.findall("devices/disk/source")]
    assert sources == [str(world.paths.overlay(NAME)), str(world.paths.seed(NAME))]
    assert guest.document.find("devices/disk/backingStore/source").get("file") == str(world.store.path(DIGEST))
    assert guest.document.findall("devices/disk")[1].find("readonly") is not None
    assert guest.document.find("devices/serial/log").get("file") == str(world.paths.console(NAME))


def test_the_tag_says_what_the_guest_is(world: World) -> None:
    guest = world.guest(image="booting", guest="one", role="server", seed={"user": "tester"})
    assert guest.tag == facts(guest.document).tag
    expected = {
        "run": "r1",
        "guest": "one",
        "owner": "jane",
        "created": world.run.created,
        "deadline": world.run.deadline,
        "state_dir": str(world.paths.state_dir),
        "image": "booting",
        "digest": DIGEST,
        "kernel": "6.1.0-1-amd64",
        "accel": "kvm",
        "user": "tester",
        "role": "server",
    }
    assert {name: getattr(guest.tag, name) for name in expected} == expected
    assert len(guest.tag.spec) == 32


def test_an_image_by_alias_and_digest_keeps_its_alias(world: World) -> None:
    guest = world.guest(image=f"booting@sha256:{DIGEST}")
    assert (guest.tag.image, guest.tag.digest) == ("booting", DIGEST)
    assert world.guest(image="booting").tag == guest.tag


def test_an_image_without_kernel_boots_from_its_disk(world: World) -> None:
    guest = world.guest(image="plain")
    assert guest.document.find("os/kernel") is None
    assert guest.document.find("os/boot").get("dev") == "hd"
    assert guest.overlay.size == 30 * GIB


def test_with_efi_the_firmware_boots_the_disk(world: World) -> None:
    guest = world.guest(image="booting", firmware="efi")
    assert guest.document.find("os/kernel") is None
    assert text(guest, "os/nvram") == str(world.paths.nvram(NAME))


def test_words_are_added_to_the_images_command_line(world: World) -> None:
    assert text(world.guest(image="booting", cmdline="lsm=bpf"), "os/cmdline") == "root=LABEL=x sysrq_always_enabled lsm=bpf"
    assert (
        text(world.guest("tcg", image="booting", cmdline="lsm=bpf"), "os/cmdline")
        == "root=LABEL=x sysrq_always_enabled watchdog_thresh=60 lsm=bpf"
    )


@pytest.mark.parametrize(("asked", "gib"), [(None, 20), (4, 4), (50, 50)])
def test_the_size_of_the_overlay(world: World, asked: int | None, gib: int) -> None:
    assert world.guest(image="booting", disk_gib=asked).overlay.size == gib * GIB


def test_an_overlay_smaller_than_its_image_is_refused(world: World) -> None:
    with pytest.raises(InvalidInput, match=r"Overlay 'one-r1' is refused: its size of 3 GiB is less"):
        world.guest(image="booting", disk_gib=3)


def test_an_unknown_image_is_refused(world: World) -> None:
    with pytest.raises(InvalidInput, match=r"known there: booting, plain") as caught:
        world.guest(image="fedora")
    assert caught.value.target == "fedora"


def test_the_seed_says_what_was_asked_for(world: World, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text(PEM)
    asked = {
        "hostname": "one",
        "user": "tester",
        "authorized_keys": ["ssh-ed25519 AAAAjane"],
        "ca_certificates": [str(tmp_path / "ca.pem")],
        "user_data": {"timezone": "UTC"},
    }
    seed = world.guest(image="booting", seed=asked).seed
    assert dataclasses.asdict(seed) == {
        **asked,
        "domain": NAME,
        "run": "r1",
        "authorized_keys": ("ssh-ed25519 AAAAjane",),
        "ca_certificates": (PEM,),
        "macs": (derive_mac(NAME),),
    }
    assert world.guest(image="booting").seed.hostname == NAME


def test_a_seed_that_would_lock_us_out_is_refused(world: World) -> None:
    with pytest.raises(InvalidInput, match="its user_data sets users"):
        world.guest(image="booting", seed={"user_data": {"users": []}})


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "cannot be read"), (b"\xff", "cannot be read"), (b"der", "holds no PEM certificate")]
)
def test_what_is_no_certificate_is_refused(world: World, tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "ca.pem"
    if content:
        path.write_bytes(content)
    with pytest.raises(InvalidInput, match=reason) as caught:
        world.guest(image="booting", seed={"ca_certificates": [str(path)]})
    assert str(path) in caught.value.reason


# -- no image ------------------------------------------------------------------------------------------------------------


def test_a_kernel_of_its_own(world: World, tmp_path: Path) -> None:
    guest = world.guest(kernel="/boot/vmlinuz", initrd="/boot/initrd", cmdline="console=ttyS0")
    assert [text(guest, f"os/{part}") for part in ("kernel", "initrd", "cmdline")] == ["/boot/vmlinuz", "/boot/initrd", "console=ttyS0"]
    assert guest.tag.kernel == "/boot/vmlinuz"
    assert (guest.overlay, guest.seed) == (None, None)
    assert guest.document.findall("devices/disk") == []


def test_a_kernel_goes_before_that_of_the_image(world: World) -> None:
    guest = world.guest(image="booting", kernel="/boot/vmlinuz")
    assert text(guest, "os/kernel") == "/boot/vmlinuz"
    assert guest.document.find("os/cmdline") is None
    assert guest.tag.kernel == "/boot/vmlinuz"
    assert guest.overlay is not None


@pytest.mark.parametrize("given", [{}, {"image": "plain"}, {"image": "booting", "firmware": "efi"}])
def test_a_command_line_without_kernel_is_refused(world: World, given: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="a cmdline but no kernel to give it to"):
        world.guest(cmdline="quiet", **given)


def test_disks_come_with_their_chains(world: World, tmp_path: Path) -> None:
    path = tmp_path / "data.qcow2"
    path.write_text("")
    world.chains["data.qcow2"] = Chain((Layer(str(path), "qcow2", GIB), Layer("/m", "qcow2", GIB), Layer("/b", "raw", GIB)))
    guest = world.guest(image="booting", disks=[{"path": str(path), "serial": "DATA"}])
    disk = guest.document.findall("devices/disk")[2]
    assert disk.find("driver").get("type") == "qcow2"
    assert [node.get("file") for node in disk.iter("source")] == [str(path), "/m", "/b"]
    assert disk.find("target").get("dev") == "vdc"


def test_a_disk_that_is_not_there_is_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=f"its disk {tmp_path} is not a file"):
        world.guest(disks=[{"path": str(tmp_path)}])


def test_a_disk_that_is_said_to_be_raw_has_no_chain(world: World, tmp_path: Path) -> None:
    """A guest that wrote a qcow2 header into its raw disk must not get the file that the header names."""
    path = tmp_path / "data.raw"
    path.write_text("")
    world.chains["data.raw"] = Chain((Layer(str(path), "qcow2", GIB), Layer("/etc/shadow", "raw", GIB)))
    guest = world.guest(disks=[{"path": str(path), "format": "raw"}])
    assert "/etc/shadow" not in guest.xml
    assert guest.document.find("devices/disk/driver").get("type") == "raw"
    believed = world.guest(disks=[{"path": str(path), "format": "qcow2"}])
    assert "/etc/shadow" in believed.xml


def test_interfaces(world: World) -> None:
    guest = world.guest(interfaces=[{}, {"network": "lab", "mac": "52:54:00:AB:CD:EF"}])
    assert guest.macs == (derive_mac(NAME, 0), "52:54:00:ab:cd:ef")
    assert guest.networks == ("mayfly", "lab")
    assert (world.guest(interfaces=[]).macs, world.guest(interfaces=[]).networks) == ((), ())
    assert world.guest().networks == ("mayfly",)


# -- XML of one's own ----------------------------------------------------------------------------------------------------


def test_xml_of_ones_own(world: World) -> None:
    xml = XML.replace(
        "<devices/>",
        "<devices><interface type='network'><mac address='52:54:00:00:00:01'/><source network='lab'/></interface></devices>",
    )
    guest = world.guest(xml=xml, guest="one", role="server")
    assert (guest.macs, guest.networks, guest.memory_mib) == (("52:54:00:00:00:01",), ("lab",), 768)
    assert (guest.overlay, guest.seed) == (None, None)
    assert (guest.tag.guest, guest.tag.role) == ("one", "server")
    assert etree.fromstring(guest.xml).findtext("memory") == "768"


@pytest.mark.parametrize("user", ["", None])
def test_without_a_user_it_is_root(world: World, user: str | None) -> None:
    guest = world.guest(image="booting", seed={"user": user} if user is not None else {})
    assert (guest.seed.user, guest.tag.user) == ("root", "root")


@pytest.mark.parametrize("user", ["-oProxyCommand=id", "a b", "A", "1a", "a@b", "a;b", "ä", "a\n", "x" * 33, "$(id)"])
def test_a_user_that_is_no_login_is_refused(world: World, user: str) -> None:
    with pytest.raises(InvalidInput, match="does not match") as caught:
        world.guest(image="booting", seed={"user": user})
    assert caught.value.target == user


def test_other_xml_is_another_guest(world: World) -> None:
    assert world.guest(xml=XML).tag.spec == world.guest(xml=XML).tag.spec
    assert world.guest(xml=XML).tag.spec != world.guest(xml=XML.replace("768", "769")).tag.spec


@pytest.mark.parametrize("changed", [{"role": "client"}, {"guest": "two"}])
def test_another_role_is_another_guest_with_xml_too(world: World, changed: dict[str, str]) -> None:
    assert world.guest(role="server").tag.spec != world.guest(role="client").tag.spec
    assert world.guest(xml=XML).tag.spec != world.guest(xml=XML, **changed).tag.spec


# -- the digest of what was asked for ------------------------------------------------------------------------------------


def test_who_asks_and_until_when_makes_no_other_guest(world: World) -> None:
    before = world.guest(image="booting").tag
    world.run = run_record(
        "r1", owner="joe", job_url="https://x", created="2027-01-01T00:00:00+00:00", deadline="2028-01-01T00:00:00+00:00"
    )
    after = world.guest(image="booting").tag
    assert after != before
    assert after.spec == before.spec


OTHERS = {
    "guest": "two",
    "role": "server",
    "image": "plain",
    "memory_mib": 2048,
    "vcpus": 2,
    "machine": "pc",
    "cpu": "EPYC",
    "firmware": "efi",
    "cmdline": "quiet",
    "kernel": "/boot/vmlinuz",
    "interfaces": [],
    "console_log": "/x.log",
    "rng": False,
    "agent": False,
    "panic": False,
    "vmcoreinfo": False,
    "accel": "tcg",
    "disk_gib": 40,
    "seed": {"user_data": {"timezone": "UTC"}},
}


def test_every_part_of_a_seed_makes_another_guest(world: World, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text(PEM)
    others = {
        "hostname": "one",
        "user": "tester",
        "authorized_keys": ["ssh-ed25519 AAAA"],
        "ca_certificates": [str(tmp_path / "ca.pem")],
        "user_data": {"timezone": "\ud800 UTC"},  # what JSON can carry and UTF-8 cannot
    }
    assert set(others) == set(SEED)
    specs = {world.guest(image="booting", seed={option: value}).tag.spec for option, value in others.items()}
    plain = world.guest(image="booting").tag.spec
    assert len(specs - {plain}) == len(SEED)
    assert world.guest(image="booting", seed={}).tag.spec == plain


@pytest.mark.parametrize(("option", "value"), OTHERS.items())
def test_every_option_makes_another_guest(world: World, option: str, value: Any) -> None:
    """Or a second run that asks for something else would be told that all is well."""
    before = world.guest(image="booting")
    after = world.guest(value, image="booting") if option == "accel" else world.guest(**{"image": "booting", option: value})
    assert after.tag.spec != before.tag.spec


# -- refusals before anything is looked at -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ([{"name": "One"}], "does not match"),
        ([{"name": "tck-one"}], "begins with 'tck'"),
        ([{"name": "a"}, {"name": "b"}, {"name": "a"}], "given more than once"),
        ([{"interfaces": [{"mac": "nonsense"}]}], "not six hexadecimal octets"),
        ([{"interfaces": [{"mac": "01:00:00:00:00:00"}]}], "multicast"),
        (
            [{"interfaces": [{"mac": "52:54:00:00:00:0a"}]}, {"name": "two-r1", "interfaces": [{"mac": "52:54:00:00:00:0A"}]}],
            "given more than once",
        ),
        ([{"kernel": "/nowhere/vmlinuz"}], "/nowhere/vmlinuz is not a file"),
        ([{"kernel": "/proc/version", "initrd": "/nowhere/initrd"}], "/nowhere/initrd is not a file"),
    ],
)
def test_bad_options_are_refused(given: list[dict[str, Any]], reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason) as caught:
        _guest.check_options([options(**each) for each in given])
    assert caught.value.remedy


def test_good_options_pass() -> None:
    given = [options(interfaces=[{}, {"mac": "52:54:00:00:00:01"}]), options(name="two-r1", interfaces=[{}, {}]), options(name="three-r1")]
    _guest.check_options(given)
    _guest.check_options([])
    assert len({each["name"] for each in given}) == 3


def guest_with(name: str = NAME, memory_mib: int = 64, networks: tuple[str, ...] = ("mayfly",), **fields: Any) -> Guest:
    tag = dataclasses.replace(seen(name).tag, spec="the spec", accel="kvm", user="root", digest=DIGEST)
    return Guest(name, dataclasses.replace(tag, **fields), None, ("52:54:00:00:00:01",), networks, memory_mib)


NODE = Node(memory_mib=4096, available_mib=1000, cpus=4)


@pytest.mark.parametrize(
    ("sizes", "overcommit"),
    [([], False), ([1000], False), ([500, 500], False), ([1001], True), ([4096], True), ([4000, 4000], True)],
)
def test_there_is_room(sizes: list[int], overcommit: bool) -> None:
    guests = [guest_with(memory_mib=size) for size in sizes]
    _guest.check_room(guests, NODE, overcommit)
    assert len(guests) == len(sizes)


@pytest.mark.parametrize(
    ("sizes", "overcommit", "reason"),
    [
        ([1001], False, "ask for 1001 MiB together, 1000 MiB of 4096 MiB are free"),
        ([500, 501], False, "ask for 1001 MiB together"),
        ([4097], False, "asks for 4097 MiB of memory, the host has 4096 MiB in all"),
        ([10, 4097], True, "asks for 4097 MiB of memory, the host has 4096 MiB in all"),
    ],
)
def test_there_is_no_room(sizes: list[int], overcommit: bool, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason) as caught:
        _guest.check_room([guest_with(f"g{number}", size) for number, size in enumerate(sizes)], NODE, overcommit)
    assert caught.value.target in ("g0", "g1", "g0, g1")
    assert caught.value.remedy


def test_networks_that_are_there() -> None:
    networks = {"mayfly": Network("mayfly", True), "off": Network("off", False)}
    guests = [guest_with(), guest_with(networks=()), guest_with(networks=("mayfly", "mayfly"))]
    _guest.check_networks(guests, networks)
    assert networks["mayfly"].active


@pytest.mark.parametrize(
    ("networks", "reason"),
    [
        (("lab",), r"its network 'lab' does not exist \(networks here: mayfly, off\)"),
        (("mayfly", "off"), r"its network 'off' is not started"),
    ],
)
def test_networks_that_are_not_there(networks: tuple[str, ...], reason: str) -> None:
    known = {"off": Network("off", False), "mayfly": Network("mayfly", True)}
    with pytest.raises(InvalidInput, match=reason) as caught:
        _guest.check_networks([guest_with(), guest_with("two-r1", networks=networks)], known)
    assert caught.value.target == "two-r1"


def test_without_any_network_the_message_says_so() -> None:
    with pytest.raises(InvalidInput, match=r"networks here: none"):
        _guest.check_networks([guest_with()], {})


def test_a_guest_that_runs_as_wanted_is_kept() -> None:
    guest = guest_with()
    running = seen(NAME, tag=dataclasses.replace(guest.tag, owner="somebody else", deadline="later"))
    _guest.check_seen(guest, running)
    assert running.tag.spec == guest.tag.spec


@pytest.mark.parametrize(
    ("changes", "tag_changes", "reason"),
    [
        ({"tag": None}, {}, "a domain of that name exists and is not Mayfly's"),
        ({}, {"run": "r2"}, "a domain of that name belongs to the run r2"),
        ({"memory_mib": 128}, {"spec": "x"}, "memory_mib 128 instead of 64"),
        ({}, {"spec": "x", "digest": "6" * 64}, f"image digest {'6' * 64} instead of {DIGEST}"),
        ({}, {"spec": "x", "accel": "tcg"}, "accel tcg instead of kvm"),
        ({}, {"spec": "x", "user": "tester"}, "user tester instead of root"),
        ({}, {"spec": "x", "role": "server"}, "role server instead of "),
        ({}, {"spec": "x", "guest": "two"}, "guest two instead of one"),
        ({"macs": ("52:54:00:00:00:02",)}, {"spec": "x"}, "MAC addresses 52:54:00:00:00:02 instead of 52:54:00:00:00:01"),
        ({"macs": ()}, {"spec": "x"}, "MAC addresses"),
        ({}, {"spec": "x"}, "with other parameters (other options)"),
        ({}, {"spec": ""}, "with other parameters (other options)"),
    ],
)
def test_a_guest_that_is_another_is_refused(changes: dict[str, Any], tag_changes: dict[str, str], reason: str) -> None:
    guest = guest_with()
    fields = {"memory_mib": 64, "macs": guest.macs, "tag": dataclasses.replace(guest.tag, **tag_changes), **changes}
    with pytest.raises(MayflyError) as caught:
        _guest.check_seen(guest, seen(NAME, **fields))
    assert reason in caught.value.reason
    assert caught.value.target == NAME
    assert caught.value.remedy


def test_a_guest_of_another_state_directory_is_not_ours() -> None:
    guest = guest_with(state_dir="/state")
    for elsewhere in ("/elsewhere", "", "/state/below"):
        with pytest.raises(MayflyError, match=f"belongs to the state directory {elsewhere}".strip()) as caught:
            _guest.check_seen(guest, seen(NAME, tag=dataclasses.replace(guest.tag, state_dir=elsewhere)))
        assert caught.value.target == NAME


def test_a_state_directory_by_another_name_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "state")
    guest = guest_with(state_dir=str(tmp_path / "state"))
    running = seen(NAME, tag=dataclasses.replace(guest.tag, state_dir=str(tmp_path / "link")))
    _guest.check_seen(guest, running)
    assert running.tag != guest.tag


def test_cards_that_libvirt_made_are_no_difference() -> None:
    """A document of the user's own may leave them out."""
    guest = dataclasses.replace(guest_with(), macs=())
    running = seen(NAME, macs=("52:54:00:00:00:02",), tag=dataclasses.replace(guest.tag, spec="x"))
    with pytest.raises(MayflyError, match=r"other parameters \(other options\)"):
        _guest.check_seen(guest, running)


def test_acceleration_is_proven_only_when_it_is_left_to_us() -> None:
    asked = []
    assert _guest.accel_of(options(accel="kvm"), lambda: asked.append(1) or "tcg") == "kvm"
    assert asked == []
    assert _guest.accel_of(options(), lambda: asked.append(1) or "tcg") == "tcg"
    assert asked == [1]
