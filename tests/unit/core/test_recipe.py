# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Image recipes: when two are the same image, and what is said to mmdebstrap and the shell."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.mayfly.virt.plugins.module_utils import _recipe
from ansible_collections.mayfly.virt.plugins.module_utils._errors import InvalidInput
from ansible_collections.mayfly.virt.plugins.module_utils._recipe import Recipe

PLAIN = Recipe("bookworm", packages=("bpftool", "clang"))
OTHER = {
    "suite": "trixie",
    "packages": ("bpftool",),
    "suites": ("bookworm-backports",),
    "components": ("main", "contrib"),
    "kernel": "generic",
    "kernel_suite": "bookworm-backports",
    "cmdline": "quiet",
    "ca_certificates": ("-----BEGIN CERTIFICATE-----",),
    "disk_gib": 8,
    "serial": "2",
}
PACKAGES = st.lists(st.from_regex(r"[a-z][a-z0-9+.-]{1,8}", fullmatch=True), max_size=8)


@given(PACKAGES, st.randoms())
def test_order_and_repetition_of_packages_make_no_other_image(packages: list[str], random: object) -> None:
    shuffled = [*packages, *packages]
    random.shuffle(shuffled)
    one, other = Recipe("bookworm", packages=tuple(packages)), Recipe("bookworm", packages=tuple(shuffled))
    assert one.key() == other.key()
    assert _recipe.mmdebstrap_argv(one, "/root", "/files") == _recipe.mmdebstrap_argv(other, "/root", "/files")


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Recipe)])
def test_every_field_makes_another_image(field: str) -> None:
    other = dataclasses.replace(PLAIN, **{field: OTHER[field]})
    assert other != PLAIN
    assert other.key() != PLAIN.key()


def test_the_key_is_the_same_in_every_process() -> None:
    assert Recipe("bookworm").key() == Recipe("bookworm").key()
    assert len(PLAIN.key()) == 64


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("_SETUP", "set -eu\n"),
        ("_CUSTOMIZE", "set -eu\n"),
        ("_CLOUD_CFG", "users: []\n"),
        ("_CMDLINE", "root=/dev/vda"),
        ("_BASE_PACKAGES", ("init",)),
        ("_MASKED", ()),
        ("_KERNELS", {"cloud": "linux-image-amd64"}),
    ],
)
def test_what_is_built_otherwise_is_another_image(part: str, value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or an image that an earlier version of ours has stored would be taken for the one that this version builds."""
    before = PLAIN.key()
    monkeypatch.setattr(_recipe, part, value)
    assert PLAIN.key() != before


def test_a_kept_recipe_holds_no_certificates() -> None:
    pem = "-----BEGIN CERTIFICATE-----\nMIIB\n"
    kept = dataclasses.replace(PLAIN, ca_certificates=(pem,)).canonical()
    assert "MIIB" not in str(kept)
    assert [len(digest) for digest in kept["ca_certificates"]] == [64]


def test_the_whole_call_of_mmdebstrap() -> None:
    packages = ("zip", "bpftool/bookworm-backports")
    recipe = Recipe("bookworm", packages, suites=("bookworm-backports",), components=("main", "contrib"))
    argv = _recipe.mmdebstrap_argv(recipe, "/w/root", "/w/files", "https://mirror.example.org/debian", ("Acquire::Retries=3", "A::B=c d"))
    assert argv[:4] == ["unshare", "--mount", "--propagation", "private"]  # what it mounts ends with it
    assert argv[4:] == [
        "mmdebstrap",
        "--mode=root",
        "--variant=minbase",
        "--format=directory",
        "--components=main,contrib",
        "--include=ca-certificates,cloud-init,dbus,e2fsprogs,init,iproute2,libpam-systemd,openssh-server,python3,qemu-guest-agent,sudo,"
        "systemd-resolved,udev,zstd,linux-image-cloud-amd64,bpftool/bookworm-backports,zip",
        '--setup-hook=sh "/w/files/setup" "$1"',
        '--customize-hook=sh "/w/files/customize" "$1"',
        "--aptopt=Acquire::Retries=3",
        "--aptopt=A::B=c d",
        "bookworm",
        "/w/root",
        "https://mirror.example.org/debian",
    ]


def test_the_builders_view_of_old_lists_is_the_images_too() -> None:
    dump = """\
APT::Architecture "amd64";
Acquire::AllowInsecureRepositories "1";
Acquire::Check-Valid-Until "false";
Acquire::Check-Valid-Until::Extra "no";
Acquire::Check-Date "0";
Acquire::http::Proxy "http://user:secret@proxy.example.org";
"""
    assert _recipe.freshness_options(dump) == ['Acquire::Check-Valid-Until "false"', 'Acquire::Check-Date "0"']
    assert _recipe.freshness_options("") == []


def test_without_a_mirror_mmdebstrap_chooses() -> None:
    assert _recipe.mmdebstrap_argv(Recipe("bookworm"), "/w/root", "/w/files")[-2:] == ["bookworm", "/w/root"]


def test_the_whole_call_of_mke2fs() -> None:
    assert _recipe.mke2fs_argv(Recipe("bookworm", disk_gib=6), "/w/root", "/w/disk.raw") == [
        *("mke2fs", "-q", "-t", "ext4", "-L", "mayfly-root", "-J", "size=16"),
        *("-E", "lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0", "-d", "/w/root", "/w/disk.raw", "6G"),
    ]


@pytest.mark.parametrize(
    ("kernel", "suite", "package"),
    [
        ("cloud", "", "linux-image-cloud-amd64"),
        ("generic", "", "linux-image-amd64"),
        ("linux-image-6.1.0-13-rt-amd64", "", "linux-image-6.1.0-13-rt-amd64"),
        ("cloud", "bookworm-backports", "linux-image-cloud-amd64/bookworm-backports"),
    ],
)
def test_the_kernels_package(kernel: str, suite: str, package: str) -> None:
    assert Recipe("bookworm", kernel=kernel, kernel_suite=suite).kernel_package() == package


def test_the_root_is_found_by_its_label() -> None:
    plain = Recipe("bookworm").full_cmdline()
    assert "root=LABEL=mayfly-root " in plain
    assert "console=ttyS0" in plain
    assert plain == plain.strip()
    assert Recipe("bookworm", cmdline="lsm=bpf quiet").full_cmdline() == f"{plain} lsm=bpf quiet"


@pytest.mark.parametrize(
    "recipe",
    [
        PLAIN,
        Recipe("bookworm", packages=("libstdc++6", "gcc-12", "bpftool/bookworm-backports", "zip=3.0-13", "libc6:amd64", "a~b_c")),
        Recipe("bookworm", suites=("bookworm-updates", "bookworm-security/updates"), kernel_suite="bookworm"),
        Recipe("bookworm", suites=("bookworm-backports",), kernel_suite="bookworm-backports"),
    ],
)
def test_words_that_apt_knows_are_accepted(recipe: Recipe) -> None:
    _recipe.check("debian", recipe)
    assert recipe.suite in _recipe.mmdebstrap_argv(recipe, "/root", "/files")


SEPARATORS = [" ", ";", "$(id)", "`id`", "'", '"', "\n", "&", "|", ">", "*", "?", ",", "\\", "\x00", "(", "!", "#", "%", "@", "{"]


@pytest.mark.parametrize("word", [f"a{separator}b" for separator in SEPARATORS])
@pytest.mark.parametrize("field", ["suite", "packages", "suites", "components", "kernel", "kernel_suite"])
def test_words_that_the_shell_or_apt_would_take_apart_are_refused(field: str, word: str) -> None:
    value = word if isinstance(OTHER[field], str) else ("main", word)
    with pytest.raises(InvalidInput, match="is no name of a suite or package") as caught:
        _recipe.check("debian", dataclasses.replace(PLAIN, **{field: value}))
    assert caught.value.target == "debian"


@pytest.mark.parametrize("word", ["--setup-hook=poweroff", "-v", "-", "+x", ".x", "/etc", ":x", "~x", "=x", "_x"])
@pytest.mark.parametrize("field", ["suite", "packages", "suites", "components", "kernel", "kernel_suite"])
def test_words_that_programs_take_for_options_are_refused(field: str, word: str) -> None:
    value = word if isinstance(OTHER[field], str) else ("main", word)
    with pytest.raises(InvalidInput, match="is no name of a suite or package"):
        _recipe.check("debian", dataclasses.replace(PLAIN, **{field: value}))


@pytest.mark.parametrize("field", ["suite", "packages", "suites", "components", "kernel"])
def test_an_empty_word_is_refused(field: str) -> None:
    value = "" if isinstance(OTHER[field], str) else ("main", "")
    with pytest.raises(InvalidInput, match="'' is no name"):
        _recipe.check("debian", dataclasses.replace(PLAIN, **{field: value}))


@pytest.mark.parametrize("word", ["bpftööl", "\u0430pt", "zip\u0661", "x\n"])
def test_letters_of_another_script_are_refused(word: str) -> None:
    with pytest.raises(InvalidInput):
        _recipe.check("debian", Recipe("bookworm", packages=(word,)))


def test_a_kernel_suite_must_be_one_of_the_suites() -> None:
    with pytest.raises(InvalidInput, match="is not among its suites"):
        _recipe.check("debian", Recipe("bookworm", kernel_suite="bookworm-backports"))


# -- what the hooks are --------------------------------------------------------------------------------------------------

HOOKS = ("setup", "customize")


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_is_a_posix_shell_script(hook: str) -> None:
    done = subprocess.run(["sh", "-n"], input=_recipe.files(PLAIN)[hook], text=True, capture_output=True, check=False, timeout=10)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
@pytest.mark.parametrize("hook", HOOKS)
def test_shellcheck_has_no_complaint(hook: str) -> None:
    argv = ["shellcheck", "--shell=sh", "--severity=warning", "-"]
    done = subprocess.run(argv, input=_recipe.files(PLAIN)[hook], text=True, capture_output=True, check=False, timeout=30)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("hook", HOOKS)
def test_hooks_get_every_variable_they_use(hook: str, tmp_path: Path) -> None:
    """Under set -u an unknown variable ends the script: no upper-case name may be missing from the environment."""
    known = _recipe.hook_environment(PLAIN, str(tmp_path))
    used = set(re.findall(r"\$\{?([A-Z_]{2,})\b", _recipe.files(PLAIN)[hook]))
    assert used
    assert used <= set(known)


def test_the_setup_hook_adds_suites_from_the_first_ones_mirror(tmp_path: Path) -> None:
    apt = tmp_path / "root" / "etc" / "apt"
    apt.mkdir(parents=True)
    (apt / "sources.list").write_text("deb [signed-by=/x.gpg] https://mirror.example.org/debian bookworm main\n")
    recipe = Recipe("bookworm", suites=("bookworm-backports", "bookworm-updates"), components=("main", "contrib"))
    script = tmp_path / "setup"
    script.write_text(_recipe.files(recipe)["setup"])
    environment = {**_recipe.hook_environment(recipe, str(tmp_path)), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(["sh", script, tmp_path / "root"], env=environment, capture_output=True, text=True, check=False, timeout=10)
    assert (done.returncode, done.stderr) == (0, "")
    assert (apt / "sources.list").read_text().splitlines()[1:] == [
        "deb https://mirror.example.org/debian bookworm-backports main contrib",
        "deb https://mirror.example.org/debian bookworm-updates main contrib",
    ]
    assert (tmp_path / "root/etc/initramfs-tools/conf.d/mayfly").read_text() == "MODULES=list\n"
    assert "virtio_blk\n" in (tmp_path / "root/usr/share/initramfs-tools/modules.d/mayfly").read_text()


def test_the_setup_hook_leaves_sources_alone_without_further_suites(tmp_path: Path) -> None:
    apt = tmp_path / "root" / "etc" / "apt"
    apt.mkdir(parents=True)
    (apt / "sources.list").write_text("deb https://mirror.example.org/debian bookworm main\n")
    environment = {**_recipe.hook_environment(PLAIN, str(tmp_path)), "PATH": "/usr/bin:/bin"}
    argv = ["sh", "-c", _recipe.files(PLAIN)["setup"], "setup", str(tmp_path / "root")]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=10)
    assert (done.returncode, done.stderr) == (0, "")
    assert (apt / "sources.list").read_text() == "deb https://mirror.example.org/debian bookworm main\n"


def test_the_files_of_the_hooks() -> None:
    files = _recipe.files(dataclasses.replace(PLAIN, ca_certificates=("pem one", "pem two")))
    assert sorted(files) == ["ca/mayfly-0.crt", "ca/mayfly-1.crt", "cloud.cfg", "customize", "setup"]
    assert files["ca/mayfly-1.crt"] == "pem two"


def test_cloud_inits_configuration_is_yaml_and_asks_no_network() -> None:
    config = yaml.safe_load(_recipe.files(PLAIN)["cloud.cfg"])
    assert config["datasource_list"] == ["NoCloud", None] or config["datasource_list"] == ["NoCloud", "None"]
    assert {"users-groups", "ssh", "set_hostname", "ca-certs"} <= set(config["cloud_init_modules"])
