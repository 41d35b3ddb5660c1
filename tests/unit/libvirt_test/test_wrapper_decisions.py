# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the wrapper decides: which libvirt it takes, what hangs, what is a test's, what of a log is a test's, what a script needs."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

DAEMON = {"name": "libvirtd", "log": "/var/log/libvirt/libvirtd.log"}
CONFIG: dict[str, Any] = {"uri": "qemu:///system", "daemons": [DAEMON]}
POOL = (
    "minWorkers     : 5\nmaxWorkers     : 20\nnWorkers       : 20\nfreeWorkers    : {free}\nprioWorkers    : 5\njobQueueDepth  : {queue}\n"
)


@pytest.mark.parametrize("uri", ["qemu:///system", "lxc:///", "lxc:///system", "xen:///system", "ch:///system"])
def test_own_uris(wrapper: ModuleType, uri: str) -> None:
    wrapper.own_uri(uri)


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("qemu://host/system", "it names the host 'host'"),
        ("qemu://localhost/system", "it names the host 'localhost'"),
        ("qemu+ssh://host/system", "it names the host"),
        ("qemu+unix:///system", "it names the transport 'unix'"),
        ("qemu+ext:///system?command=nc", "it names the transport 'ext'"),
        ("qemu:///system?socket=/srv/other", "'?socket=/srv/other' may lead elsewhere"),
        ("qemu:///system#fragment", "may lead elsewhere"),
        ("qemu:///session", "it does not name a system daemon"),
        ("qemu://", "it does not name a system daemon"),
        ("test:///default", "it does not name a system daemon"),
        ("qemu", "cannot read the URI"),
        ("qemu:///system\n", "it does not name a system daemon"),
    ],
)
def test_uris_that_may_lead_elsewhere(wrapper: ModuleType, uri: str, why: str) -> None:
    with pytest.raises(wrapper.WrapperError) as error:
        wrapper.own_uri(uri)
    assert why in str(error.value)


def test_configuration_is_laid_on_top_key_by_key(wrapper: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "libvirt-test.json").write_text(json.dumps({**CONFIG, "keep_logs": "always", "factor": 3}))
    (tmp_path / "libvirt-test.d").mkdir()
    tck = {"tests": "/usr/share/libvirt-tck/tests", "perl_lib": ["/opt/lib"], "config": "/etc/tck.conf", "environment": {"A": "b"}}
    (tmp_path / "libvirt-test.d" / "tck.json").write_text(json.dumps({"tck": tck, "factor": 4, "purge_prefix": "tck"}))
    config = wrapper.load_config(tmp_path / "libvirt-test.json")
    assert (config.keep_logs, config.factor, config.purge_prefix, config.answer_limit) == ("always", 4, "tck", 40)
    assert (config.tck.perl_lib, config.tck.environment) == (("/opt/lib",), {"A": "b"})
    (daemon,) = config.daemons
    assert (daemon.unit, daemon.admin, str(daemon.socket)) == ("libvirtd.service", "libvirtd:///system", "/run/libvirt/libvirt-sock")


def test_without_a_prefix_nothing_is_a_tests_but_libvirt_tcks(wrapper: ModuleType) -> None:
    assert wrapper.read_config(CONFIG).purge_prefix == ""
    assert wrapper.read_config({**CONFIG, "tck": {"tests": "/tests"}}).purge_prefix == "tck"
    assert wrapper.read_config({**CONFIG, "tck": {"tests": "/tests"}, "purge_prefix": "other"}).purge_prefix == "other"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"uri": ""}, "needs 'uri'"),
        ({"daemons": []}, "needs 'daemons'"),
        ({"daemons": [{"name": "sshd", "log": "/x"}]}, "'name' as a daemon of libvirt"),
        ({"daemons": [{"name": "libvirtd", "log": "x"}]}, "'log' as an absolute path"),
        ({"daemons": [{**DAEMON, "active": False}]}, "has no daemon that is active"),
        ({"daemons": [{**DAEMON, "colour": "red"}]}, "has in daemons[0] an unknown key 'colour'"),
        ({"purge_prefix": "t"}, "needs 'purge_prefix' as at least three"),
        ({"purge_prefix": ".*"}, "needs 'purge_prefix' as at least three"),
        ({"keep_logs": "never"}, "needs 'keep_logs' as on_failure or always"),
        ({"factor": 0}, "as positive numbers"),
        ({"factor": True}, "it must be a number"),
        ({"answer_seconds": "10"}, "it must be a number"),
        ({"colour": "red"}, "has an unknown key 'colour'"),
        ({"tck": {"tests": "here"}}, "needs in tck 'tests' as an absolute path"),
    ],
)
def test_bad_configurations(wrapper: ModuleType, change: dict[str, Any], why: str) -> None:
    with pytest.raises(wrapper.WrapperError) as error:
        wrapper.read_config({**CONFIG, **change})
    assert why in str(error.value)


@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_configurations_that_cannot_be_read(wrapper: ModuleType, tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "libvirt-test.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(wrapper.WrapperError) as error:
        wrapper.load_config(path)
    assert str(path) in str(error.value)


def diagnosis(wrapper: ModuleType, answers: bool, admin: Any, state: str = "S") -> str | None:
    found: str | None = wrapper.diagnose("virtqemud", answers, admin, state, 10)
    return found


def test_a_daemon_that_answers_does_not_hang(wrapper: ModuleType) -> None:
    for free, queue in ((20, 0), (1, 5), (0, 0)):
        assert diagnosis(wrapper, True, wrapper.Done(0, POOL.format(free=free, queue=queue))) is None
    assert diagnosis(wrapper, True, None) is None
    assert diagnosis(wrapper, True, wrapper.Done(1, err="no such socket")) is None


@pytest.mark.parametrize("answers", [True, False])
def test_a_daemon_whose_workers_all_wait_hangs_though_it_still_lists(wrapper: ModuleType, answers: bool) -> None:
    full = wrapper.Done(0, POOL.format(free=0, queue=3))
    assert diagnosis(wrapper, answers, full) == "virtqemud hangs: no answer for 10 s: all 20 workers are busy and 3 calls wait"


def test_kinds_of_hanging(wrapper: ModuleType) -> None:
    assert diagnosis(wrapper, False, wrapper.Done(None), "T") == "virtqemud hangs: it is stopped (state T)"
    assert diagnosis(wrapper, False, wrapper.Done(None)) == "virtqemud hangs: no answer for 10 s, and none on its admin socket either"
    one = wrapper.Done(0, POOL.format(free=19, queue=0))
    silent = "virtqemud hangs: no answer for 10 s"
    assert diagnosis(wrapper, False, one) == f"{silent}: a call does not return, although 19 of 20 workers are free"
    absent = wrapper.Done(1, err="error: Failed to connect")
    assert diagnosis(wrapper, False, absent) == f"{silent}; its workers cannot be asked for: error: Failed to connect"
    assert diagnosis(wrapper, False, None) == f"{silent}; its workers cannot be asked for"


def test_of_modular_daemons_only_the_one_that_hangs_is_blamed(wrapper: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A double of the tools: what is asked through virtqemud, which is stopped, does not come back."""
    names = ["virtqemud", "virtnetworkd", "virtstoraged", "virtnwfilterd", "virtsecretd", "virtnodedevd", "virtinterfaced", "virtlogd"]
    daemons = [{"name": name, "log": f"/var/log/libvirt/{name}.log", "admin": f"{name}:///system"} for name in names]
    config = wrapper.read_config({**CONFIG, "daemons": daemons})
    asked = []

    def tool(argv: list[str], limit: float) -> Any:
        asked.append(argv[3])
        return wrapper.Done(None) if "qemu" in argv[3] else wrapper.Done(0, POOL.format(free=20, queue=0))

    def process(daemon: Any) -> Any:
        return wrapper.Process(1, 1, daemon.name, 1, 1, "T" if daemon.name == "virtqemud" else "S")

    monkeypatch.setattr(wrapper, "tool", tool)
    monkeypatch.setattr(wrapper, "daemon_process", process)
    monkeypatch.setattr(wrapper.shutil, "which", lambda name: f"/usr/bin/{name}")
    hanging = [answer.why for answer in wrapper.ask_daemons(config, wrapper.Libvirt(config), False) if answer.why]
    assert hanging == ["virtqemud hangs: it is stopped (state T)"]
    assert not [uri for uri in asked if "qemu" in uri], "who is stopped need not be waited for"
    assert {"network:///system", "storage:///system", "virtlogd:///system"} <= set(asked)


@pytest.mark.parametrize(
    "said",
    [
        [b"sh\0", b"", b"", b"", b"", b"sleep\0", b"A=b\0"],  # neither arguments nor environment yet
        [b"setsid\0", b"", b"sleep\0", b"sleep\0", b"A=b\0"],  # the environment that was opened is the old program's, and gone
    ],
)
def test_who_just_becomes_another_program_is_waited_for(wrapper: ModuleType, monkeypatch: pytest.MonkeyPatch, said: list[bytes]) -> None:
    """A double of /proc."""
    answers = iter(said)
    monkeypatch.setattr(wrapper, "read_proc", lambda pid, name: next(answers))
    assert wrapper.environment_of(os.getpid()) == b"A=b\0"


def test_who_has_no_environment_is_not_waited_for(wrapper: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(["/bin/sh", "-c", "echo; read line"], env={}, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"\n"
        monkeypatch.setattr(wrapper.time, "sleep", lambda seconds: pytest.fail("it waited"))
        assert wrapper.environment_of(process.pid) == b""
        process.kill()
        process.wait()
        assert wrapper.environment_of(process.pid) == b"", "it has ended"


def test_lists_are_read_between_our_marks(wrapper: ModuleType) -> None:
    uuid = "f1406f95-3967-40b0-9446-f1e0902ecac7"
    text = (
        "T:domain:tck\nmine\n tck-not\n\nT:network:default\ntck net\n\nT:pool:tck          \n\n"
        f"T:nwfilter: {uuid}   tck-filter\n {uuid}   clean-traffic\n\n"
        f"T:secret: {uuid}   volume /srv/tck/vol\n {uuid}   ceph mytck\nT::"
    )
    found = [(str(item), item.id) for item in wrapper.read_lists(text, "T", "tck")]
    assert found == [
        ("domain tck", "tck"),
        ("network tck net", "tck net"),
        ("pool tck", "tck"),
        ("nwfilter tck-filter", uuid),
        ("secret volume /srv/tck/vol", uuid),
    ]


def test_names_are_quoted_for_virsh(wrapper: ModuleType) -> None:
    item = wrapper.Item("network", "tck'; destroy mine; '", "tck'; destroy mine; '")
    assert wrapper.removal(item)[0] == "net-destroy 'tck'\\''; destroy mine; '\\'''"


def test_domains_go_with_all_that_libvirt_keeps_of_them(wrapper: ModuleType) -> None:
    commands = wrapper.removal(wrapper.Item("domain", "tck", "tck"))
    assert commands[0] == "destroy 'tck'"
    for option in ("--managed-save", "--nvram", "--snapshots-metadata", "--checkpoints-metadata"):
        assert option in commands[1]
    assert not any("storage" in command for command in commands)


@pytest.mark.parametrize(
    ("path", "inside"),
    [("scratch/pool/vol", True), ("scratch", False), ("scratch/../other", False), ("scratch-2/vol", False), ("scratch/link/vol", False)],
)
def test_only_what_lies_in_the_scratch_directory_is_deleted(wrapper: ModuleType, tmp_path: Path, path: str, inside: bool) -> None:
    (tmp_path / "scratch" / "pool").mkdir(parents=True)
    (tmp_path / "scratch" / "link").symlink_to(tmp_path)
    assert wrapper.below(str(tmp_path / path), str(tmp_path / "scratch")) is inside
    assert not wrapper.below(str(tmp_path / path), "/")


def test_directory_pools_only(wrapper: ModuleType) -> None:
    pool = "<pool type='{0}'><name>tck</name><target><path>/srv/tck</path></target></pool>\n"
    assert wrapper.pool_directory(pool.format("dir")) == ("tck", "/srv/tck")
    assert wrapper.pool_directory(pool.format("logical")) == ("tck", "")
    assert wrapper.pool_directory("") == ("", "")


def test_filters_go_back_as_they_were_set(wrapper: ModuleType) -> None:
    told = "3:*remote* 4:*event* 3:*util.json* 1:*** \n"
    assert wrapper.as_set(told) == "3:remote 4:event 3:util.json 1:*"
    assert wrapper.as_set("") == ""


def test_deeper_outputs_keep_the_others(wrapper: ModuleType) -> None:
    log = "/var/log/libvirt/libvirtd.log"
    assert wrapper.deep_outputs(f"3:file:{log} 2:journald", log) == f"1:file:{log} 2:journald"
    assert wrapper.deep_outputs("", log) == f"1:file:{log}"


@pytest.mark.parametrize(
    ("text", "red"),
    [
        (b"1..2\nok 1\nok 2\n", False),
        (b"ok 1\nnot ok 2 # TODO later\n1..2\n", False),
        (b"ok 1\nnot ok 2 # SKIP never\n1..2\n", False),
        (b"1..0 # SKIP no device\n", False),
        (b"1..2\nok 1\nnot ok 2 - fails\n", True),
        (b"1..3\nok 1\n", True),
        (b"ok 1\n", True),
        (b"Bail out! no daemon\n", True),
        (b"    not ok 1 - of a subtest\nok 1\n1..1\n", False),
        (b"not okay\nhello\n", False),
    ],
)
def test_tap_that_passes_by(wrapper: ModuleType, text: bytes, red: bool) -> None:
    for size in (1, 7, 1000):
        eye = wrapper.TapEye()
        for start in range(0, len(text), size):
            eye.feed(text[start : start + size])
        assert eye.red is red


def test_rotated_logs_newest_first(wrapper: ModuleType) -> None:
    names = [
        "a.log.2.gz",
        "a.log.1",
        "a.log",
        "b.log.1",
        "a.log.10.gz",
        "a.log-20261121.gz",
        "a.log-20261120",
        "a.log.old",
        "a.log.0",
        "xa.log.3",
    ]
    wanted = ["a.log", "a.log.0", "a.log.1", "a.log.2.gz", "a.log.10.gz", "a.log-20261121.gz", "a.log-20261120"]
    assert wrapper.rotated("/logs/a.log", names) == [f"/logs/{name}" for name in wanted]


class Log:
    """A log that is written and rotated in all ways."""

    def __init__(self, wrapper: ModuleType, directory: Path) -> None:
        self.wrapper = wrapper
        self.path = directory / "d.log"
        self.target = directory / "slice"

    def write(self, text: str) -> None:
        with self.path.open("a") as file:
            file.write(text)

    def rename(self, *names: str) -> None:
        """As virtlogd and logrotate do it: each name takes the place of the next."""
        for older, newer in zip(reversed(names), [*reversed(names[:-1]), "d.log"]):
            source = self.path.with_name(newer)
            if source.exists():
                source.rename(self.path.with_name(older))

    def copy_truncate(self) -> None:
        self.path.with_name("d.log.1").write_bytes(self.path.read_bytes())
        os.truncate(self.path, 0)

    def compress(self, name: str) -> None:
        path = self.path.with_name(name)
        path.with_name(f"{name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()

    def mark(self) -> Any:
        return self.wrapper.mark(str(self.path))

    def cut(self, since: Any, until: Any = None, limit: int = 1000) -> tuple[str, Any]:
        found = self.wrapper.cut(str(self.path), since, until, self.target, limit)
        return ("" if found is None else self.target.read_text()), found


@pytest.fixture
def log(wrapper: ModuleType, tmp_path: Path) -> Log:
    return Log(wrapper, tmp_path)


def test_a_slice_is_what_was_written_between_two_places(log: Log) -> None:
    log.write("before\n")
    begin = log.mark()
    log.write("in\nthe test\n")
    end = log.mark()
    log.write("after\n")
    text, cut = log.cut(begin, end)
    assert (text, cut.lines, cut.bytes, cut.truncated, cut.lost) == ("in\nthe test\n", 2, 12, False, False)
    assert log.cut(end)[0] == "after\n"
    assert log.cut(log.mark()) == ("", None)


@pytest.mark.parametrize("way", ["rename", "copy", "virtlogd", "twice", "compressed"])
def test_a_slice_goes_on_through_rotation(log: Log, way: str) -> None:
    log.write("before\n")
    begin = log.mark()
    log.write("one\n")
    if way == "copy":
        log.copy_truncate()
    elif way == "virtlogd":
        log.rename("d.log.0", "d.log.1")
    else:
        log.rename("d.log.1", "d.log.2")
    log.write("two\n")
    if way in ("twice", "compressed"):
        log.rename("d.log.1", "d.log.2")
        log.write("three\n")
    if way == "compressed":
        log.compress("d.log.2")
    text, cut = log.cut(begin)
    assert text == "one\ntwo\n" + ("three\n" if way in ("twice", "compressed") else "")
    assert not cut.lost


def test_a_log_that_is_made_in_the_test(log: Log) -> None:
    begin = log.mark()
    log.write("all of it\n")
    log.rename("d.log.0")
    log.write("and more\n")
    assert log.cut(begin)[0] == "all of it\nand more\n"


def test_old_logs_beside_a_new_one_are_not_the_tests(log: Log) -> None:
    log.path.with_name("d.log.1").write_text("of yesterday\n")
    begin = log.mark()
    log.write("of today\n")
    assert log.cut(begin)[0] == "of today\n"


def test_a_beginning_that_is_lost_is_told(log: Log) -> None:
    log.write("before\n")
    begin = log.mark()
    log.write("lost\n")
    log.path.unlink()
    log.write("kept\n")
    text, cut = log.cut(begin)
    assert cut.lost
    assert text.endswith("was rotated so often in this test that its beginning is lost]\nkept\n")


def test_of_too_much_the_head_and_the_tail_are_kept(log: Log) -> None:
    begin = log.mark()
    log.write("h" * 500 + "m" * 300_000 + "t" * 500)
    text, cut = log.cut(begin, limit=1000)
    assert text == "h" * 500 + "\n[300000 bytes left out here: more than 1000 were written]\n" + "t" * 500
    assert (cut.truncated, cut.bytes) == (True, 301_000)


def test_exactly_as_much_as_may_be(log: Log) -> None:
    begin = log.mark()
    log.write("x" * 1000)
    text, cut = log.cut(begin, limit=1000)
    assert (text, cut.truncated) == ("x" * 1000, False)


@pytest.mark.parametrize("kind", ["link", "pipe", "directory"])
def test_only_a_plain_file_is_a_log(log: Log, kind: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    if kind == "link":
        log.path.symlink_to(tmp_path / "secret")
    elif kind == "pipe":
        os.mkfifo(log.path)
    else:
        log.path.mkdir()
    assert log.mark().inode == 0
    assert log.cut(log.mark()) == ("", None)


@pytest.mark.parametrize(
    ("pattern", "uses_pid", "where"),
    [
        ("core", False, "/run/d/core"),
        ("core", True, "/run/d/core.42"),
        ("/cores/%e.%p.%s", True, "/cores/libvirtd.42.*"),
        ("/cores/%%-%E-%t", False, "/cores/%-*-*"),
        ("|/lib/systemd/systemd-coredump %P %u", False, ""),
    ],
)
def test_where_a_core_dump_goes(wrapper: ModuleType, pattern: str, uses_pid: bool, where: str) -> None:
    assert wrapper.core_paths(pattern, uses_pid, 42, "libvirtd", "/run/d") == where


def test_who_may_listen(wrapper: ModuleType) -> None:
    daemon = wrapper.Daemon("virtqemud", "/x", "virtqemud.service")
    wrapper.refuse_stranger(daemon, 100, 0, "virtqemud")
    wrapper.refuse_stranger(daemon, 1, 0, "systemd")
    for stranger in ((100, 0, "ssh"), (100, 1000, "virtqemud"), (0, 0, "?"), (7, 0, "systemd"), (100, 0, "libvirtd")):
        with pytest.raises(wrapper.WrapperError, match="not the guest's own daemon"):
            wrapper.refuse_stranger(daemon, *stranger)


@pytest.mark.parametrize(
    ("first", "argv"),
    [
        ("# -*- perl -*-", ["perl"]),
        ("#!/usr/bin/perl -w", ["perl", "-w"]),
        ("#!/usr/bin/env perl", ["perl"]),
        ("#!/bin/sh", ["/bin/sh"]),
        ("#!/usr/bin/env bash -e", ["bash", "-e"]),
    ],
)
def test_what_runs_a_script(wrapper: ModuleType, first: str, argv: list[str]) -> None:
    assert wrapper.interpreter(first) == argv


def test_a_judgement_stays_small_and_plain(wrapper: ModuleType, tmp_path: Path) -> None:
    wrapper.write_judgement(tmp_path, "error", ["\udcff\x1b" + "x" * 5000] * 100)
    text = (tmp_path / "judgement.json").read_bytes()
    assert len(text) < 64 * 1024
    assert len(json.loads(text)["message"]) == 30


def test_a_hang_is_not_made_less_by_what_is_found_later(wrapper: ModuleType, tmp_path: Path) -> None:
    found = wrapper.Findings()
    for line, status in (("late", "error"), ("hangs", "daemon_hang"), ("left", "error"), ("left", "error")):
        found.add(line, status)
    found.write(tmp_path)
    assert json.loads((tmp_path / "judgement.json").read_text()) == {"status": "daemon_hang", "message": ["hangs", "late", "left"]}


def test_nothing_found_is_no_judgement(wrapper: ModuleType, tmp_path: Path) -> None:
    wrapper.Findings().write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_libvirt_tck_says_of_itself(wrapper: ModuleType) -> None:
    suite = wrapper.read_look("value\turi\tqemu:///system\ncount\thost_block_devices\t2\nkernels\tx86_64\thvm,xen\t/k\t/i\t\n")
    assert (suite.values, suite.counts) == ({"uri": "qemu:///system"}, {"host_block_devices": 2})
    assert suite.kernels == [["x86_64", "hvm,xen", "/k", "/i", ""]]
    missing = "missing\tSys::Virt::TCK\tCan't locate Net/OpenSSH.pm in @INC\nmissing\tXML::Twig\tCan't locate XML/Twig.pm in @INC\n"
    with pytest.raises(wrapper.WrapperError, match="Perl modules are missing: Net::OpenSSH, XML::Twig"):
        wrapper.read_look(missing)
    with pytest.raises(wrapper.WrapperError, match="cannot load Sys::Virt: syntax error"):
        wrapper.read_look("missing\tSys::Virt\tsyntax error\n")


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        ({}, "is not a JSON list"),
        ([1], "needs entry 0 as an object"),
        ([{"needs": []}], "needs in entry 0 'tests'"),
        ([{"tests": "*", "needs": ["luck"]}], "has in entry 0 an unknown need 'luck'"),
        ([{"tests": "*", "needs": [3]}], "has in entry 0 an unknown need '3'"),
        ([{"tests": "*", "deadline": 0}], "'deadline' as a positive number"),
        ([{"tests": "*", "who": "me"}], "has in entry 0 an unknown key 'who'"),
    ],
)
def test_bad_needs(wrapper: ModuleType, raw: Any, why: str) -> None:
    with pytest.raises(wrapper.WrapperError) as error:
        wrapper.read_needs(raw)
    assert why in str(error.value)


@pytest.mark.parametrize(("listed", "least", "kind"), [(1, 2, "block"), (1, 2, "network"), (0, 1, "usb"), (0, 1, "pci")])
def test_a_list_of_one_device_may_count_as_none(wrapper: ModuleType, listed: int, least: int, kind: str) -> None:
    machine = wrapper.Machine(wrapper.read_config(CONFIG), wrapper.Suite(counts={f"host_{kind}_devices": listed}), "/scratch")
    assert machine.devices(kind) == f"host_{kind}_devices of its configuration lists {listed}, at least {least} are used"
    machine.suite.counts[f"host_{kind}_devices"] = least
    assert machine.devices(kind) is None
