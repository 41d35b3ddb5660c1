# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The wrapper around tests of a real libvirtd: what it keeps, what it removes, and how it judges daemons that die or hang."""

from __future__ import annotations

import json
import re
import subprocess
import time

from libvirt_test.private import LOG, WRAPPER, Watched

VIRSH = "virsh -q -c qemu:///system"
DOMAIN = """<domain type='qemu'><name>{name}</name><memory unit='MiB'>32</memory><os><type arch='x86_64'>hvm</type></os>
<devices><emulator>{emulator}</emulator></devices></domain>"""
LEAKS = {
    "network.xml": "<network><name>tck</name><bridge name='tckbr0'/></network>",
    "pool.xml": "<pool type='dir'><name>tck</name><target><path>/var/cache/libvirt-tck/storage-fs/tck</path></target></pool>",
    "elsewhere.xml": "<pool type='dir'><name>tck-elsewhere</name><target><path>/var/lib/libvirt/images</path></target></pool>",
    "filter.xml": "<filter name='tck' chain='root'/>",
    "secret.xml": "<secret ephemeral='no' private='yes'><usage type='volume'><volume>/srv/tck.img</volume></usage></secret>",
    "domain.xml": DOMAIN.format(name="tck", emulator="/usr/bin/qemu-system-x86_64"),
    "mine.xml": "<network><name>mine</name></network>",
}


def test_a_green_test_keeps_nothing(watched: Watched) -> None:
    done = watched.run(f"{VIRSH} uri >&2; echo ok 1 - answers; echo 1..1", "--deadline", "30")
    assert (done.returncode, done.stdout) == (0, "ok 1 - answers\n1..1\n")
    assert "qemu:///system" in done.stderr
    assert watched.names() == []


def test_a_failing_test_keeps_the_daemons_own_lines(watched: Watched) -> None:
    watched.libvirt.write("/run/broken.xml", DOMAIN.format(name="tck", emulator="/usr/bin/no-such-emulator"))
    before = "/run/before.xml"
    watched.libvirt.write(before, DOMAIN.format(name="tck-before", emulator="/usr/bin/absent-before"))
    assert watched.libvirt.virsh("create", before, check=False).returncode != 0
    done = watched.run(f"if {VIRSH} create /run/broken.xml; then echo ok 1; else echo not ok 1 - create; fi; echo 1..1; exit 1")
    assert (done.returncode, done.stdout) == (1, "not ok 1 - create\n1..1\n")
    assert watched.names() == ["libvirt.json", "libvirtd.log"]
    log = watched.kept("libvirtd.log")
    assert [line for line in log.splitlines() if ": error : " in line and "no-such-emulator" in line]
    assert "absent-before" not in log
    daemon = watched.summary()["daemons"]["libvirtd"]
    assert daemon["pid_before"] == daemon["pid_after"] == watched.libvirt.pid()
    assert (daemon["restarted"], daemon["truncated"], daemon["bytes"]) == (False, False, len(log))


def test_a_script_that_dies_after_its_last_ok(watched: Watched) -> None:
    done = watched.run("echo 1..1; echo ok 1; printf '# cleaning'; exit 255")
    assert done.returncode == 255
    assert done.stdout == "1..1\nok 1\n# cleaning\nBail out! the test ended with status 255, although none of its assertions failed\n"


def test_leaks_of_every_kind_are_named_and_removed(watched: Watched) -> None:
    for name, text in LEAKS.items():
        watched.libvirt.write(f"/run/{name}", text)
    watched.configure(scratch="/var/cache/libvirt-tck", keep_logs="always")
    commands = (
        "net-define /run/mine.xml; net-create /run/network.xml; pool-create /run/pool.xml; vol-create-as tck tck 1M;"
        "pool-create /run/elsewhere.xml; nwfilter-define /run/filter.xml; secret-define /run/secret.xml;"
        "define /run/domain.xml; start tck; managedsave tck; start tck"
    )
    directories = "mkdir -p /var/cache/libvirt-tck/storage-fs/tck; touch /var/lib/libvirt/images/precious"
    shell = "; ".join([directories, *(f"{VIRSH} {command} >&2" for command in commands.split(";"))])
    done = watched.run(f"set -e; {shell}; echo ok 1; echo 1..1")
    assert done.returncode == 0, done.stderr
    assert watched.summary()["leaked"] == [
        "domain tck",
        "network tck",
        "pool tck",
        "pool tck-elsewhere",
        "nwfilter tck",
        "secret volume /srv/tck.img",
    ]
    assert watched.names() == ["libvirt.json", "libvirtd.log", "purge-libvirtd.log", "qemu-tck.log"]
    assert "-name guest=tck" in watched.kept("qemu-tck.log")
    destroyed = re.compile(r"virDomainDestroy:\d+ : dom=0x[0-9a-f]+, \(VM: name=tck,")
    assert destroyed.search(watched.kept("purge-libvirtd.log"))
    assert not destroyed.search(watched.kept("libvirtd.log"))
    left = watched.libvirt.virsh("list --all --name; net-list --all --name; pool-list --all --name; secret-list").stdout
    assert left.split() == ["mine"]
    assert "tck" not in watched.libvirt.virsh("nwfilter-list").stdout
    assert watched.libvirt.run("ls", "/var/cache/libvirt-tck/storage-fs/tck").stdout == ""
    assert watched.libvirt.run("ls", "/var/lib/libvirt/images").stdout == "precious\n"
    watched.libvirt.virsh("net-undefine mine")


def test_a_stopped_daemon_is_a_hang_and_the_run_goes_on(watched: Watched) -> None:
    pid = watched.libvirt.pid()
    begun = time.monotonic()
    done = watched.run(f"echo 1..1; kill -STOP {pid}; {VIRSH} list; echo ok 1", "--deadline", "3")
    assert time.monotonic() - begun < 40
    assert done.returncode != 0
    assert "Bail out! the deadline of 3 s was reached" in done.stdout
    judgement = watched.judgement()
    assert judgement["status"] == "daemon_hang"
    assert any("libvirtd hangs: it is stopped (state T)" in line for line in judgement["message"])
    assert any("virsh" in line for line in judgement["message"])
    trace = watched.kept("backtrace-libvirtd.txt")
    assert re.search(r"^thread \d+ rpc-\w+, state T", trace, re.MULTILINE)
    assert re.search(r"^#\d+ .* in main \(", trace, re.MULTILINE)
    daemon = watched.summary()["daemons"]["libvirtd"]
    assert daemon["pid_before"] == pid
    assert daemon["pid_after"] not in (pid, None)
    assert daemon["restarted"]
    again = watched.run(f"{VIRSH} list >&2 && echo ok 1 && echo 1..1", kept="again")
    assert (again.returncode, watched.names("again")) == (0, []), again.stderr


def test_a_daemon_all_of_whose_workers_wait_is_a_hang(watched: Watched) -> None:
    logger = watched.libvirt.pid("virtlogd")
    for number in range(8):
        watched.libvirt.write(f"/run/wait{number}.xml", DOMAIN.format(name=f"tck{number}", emulator="/usr/bin/qemu-system-x86_64"))
    create = f"for n in 0 1 2 3 4 5 6 7; do {VIRSH} create /run/wait$n.xml & done; wait; echo ok 1; echo 1..1"
    done = watched.run(f"kill -STOP {logger}; {create}", "--deadline", "5")
    assert done.returncode != 0
    judgement = watched.judgement()
    assert judgement["status"] == "daemon_hang"
    assert any("libvirtd hangs: no answer for 2 s: all 5 workers are busy and 3 calls wait" in line for line in judgement["message"])
    assert watched.summary()["probe"]["libvirtd"]["workers"]["freeWorkers"] == 0
    assert "virLogManager" in watched.kept("backtrace-libvirtd.txt")
    watched.libvirt.run("kill", "-CONT", str(logger))


def test_a_daemon_beside_libvirtd_that_is_stopped(watched: Watched) -> None:
    logger = watched.libvirt.pid("virtlogd")
    watched.libvirt.write("/run/domain.xml", LEAKS["domain.xml"])
    watched.configure(daemons=[{"name": "libvirtd", "log": LOG}, {"name": "virtlogd", "log": "/var/log/libvirt/virtlogd.log"}])
    done = watched.run(f"kill -STOP {logger}; {VIRSH} create /run/domain.xml; echo ok 1; echo 1..1", "--deadline", "3")
    assert done.returncode != 0
    hang, late = watched.judgement()["message"]
    assert hang == "virtlogd hangs: it is stopped (state T); backtraces in backtrace-virtlogd.txt"
    assert late.startswith("the deadline of 3 s was reached")
    daemons = watched.summary()["daemons"]
    assert (daemons["libvirtd"]["restarted"], daemons["virtlogd"]["restarted"]) == (False, True)
    assert watched.libvirt.pid("virtlogd") != logger
    watched.libvirt.virsh("create", "/run/domain.xml")
    watched.libvirt.virsh("destroy", "tck")


def test_a_slow_test_is_no_hang(watched: Watched) -> None:
    done = watched.run("echo 1..1; sleep 300", "--deadline", "1")
    assert done.returncode == 128 + 15
    judgement = watched.judgement()
    assert judgement["status"] == "timeout"
    (line,) = judgement["message"]
    assert line.startswith("the deadline of 1 s was reached; then there were: process ")
    assert "sleep 300" in line


def test_a_daemon_that_is_gone_is_no_pass(watched: Watched) -> None:
    done = watched.run(f"echo 1..1; kill {watched.libvirt.pid()}; while {VIRSH} uri >&2; do sleep 0.1; done; echo ok 1")
    assert "ok 1" in done.stdout
    judgement = watched.judgement()
    assert judgement["status"] == "error"
    assert judgement["message"] == ["libvirtd was gone when the test ended, though nothing says that it died; libvirt could not be reached"]
    watched.libvirt.virsh("list")


def test_a_daemon_that_dies_is_explained_and_started_again(watched: Watched) -> None:
    pid = watched.libvirt.pid()
    done = watched.run(f"kill -SEGV {pid}; while kill -0 {pid} 2>/dev/null; do sleep 0.1; done; echo ok 1; echo 1..1")
    assert done.returncode == 0, done.stderr
    assert watched.judgement() == {"status": "error", "message": ["libvirtd died by SIGSEGV in this test; see core-libvirtd.txt"]}
    assert "Thread 1" in watched.kept("core-libvirtd.txt")
    assert watched.summary()["daemons"]["libvirtd"]["restarted"]
    assert watched.libvirt.pid() != pid
    assert watched.libvirt.virsh("uri").returncode == 0


def test_a_daemon_that_the_test_starts_again_is_no_error(watched: Watched) -> None:
    pid = watched.libvirt.pid()
    start = f"kill {pid}; while kill -0 {pid} 2>/dev/null; do sleep 0.1; done; cd /run/cores; setsid libvirtd </dev/null >/dev/null 2>&1 &"
    done = watched.run(f"{start} until {VIRSH} uri >/dev/null 2>&1; do sleep 0.1; done; echo ok 1; echo 1..1")
    assert done.returncode == 0, done.stderr
    assert "judgement.json" not in watched.names()
    assert watched.summary()["daemons"]["libvirtd"]["restarted"]
    assert watched.libvirt.pid() == watched.summary()["daemons"]["libvirtd"]["pid_after"] != pid


def test_what_daemonises_is_ended_and_named(watched: Watched) -> None:
    done = watched.run("setsid sleep 300 >/dev/null 2>&1 & echo ok 1; echo 1..1")
    assert done.returncode == 0
    (leaked,) = watched.summary()["leaked"]
    assert leaked.endswith(" sleep")
    assert not watched.libvirt.run("/bin/sh", "-c", "ps -eo args | grep -x 'sleep 300'", check=False).stdout


def test_logs_are_followed_through_rotation(watched: Watched) -> None:
    log = "/var/log/libvirt/libvirtd.log"
    once = f"{VIRSH} net-info first; cp {log} {log}.1; : >{log}"
    twice = f"{VIRSH} net-info second; gzip -c {log}.1 >{log}.2.gz; cp {log} {log}.1; : >{log}"
    done = watched.run(f"{once}; {twice}; {VIRSH} net-info third; echo not ok 1; echo 1..1; exit 1")
    assert done.returncode == 1
    slices = watched.kept("libvirtd.log")
    places = [slices.index(f"'{name}'") for name in ("first", "second", "third")]
    assert places == sorted(places)
    assert watched.summary()["daemons"]["libvirtd"]["truncated"] is False
    watched.libvirt.run("rm", f"{log}.1", f"{log}.2.gz")


def test_a_second_attempt_has_deeper_logs_and_leaves_the_filters_as_they_were(watched: Watched) -> None:
    filters = ("virt-admin", "-q", "-c", "libvirtd:///system", "daemon-log-filters")
    before = watched.libvirt.run(*filters).stdout
    watched.configure(deep_filters="1:*", keep_logs="always")
    for attempt in ("1", "2"):
        done = watched.run(f"{VIRSH} uri >&2; echo ok 1; echo 1..1", kept=f"attempt-{attempt}", MAYFLY_ATTEMPT=attempt)
        assert done.returncode == 0, done.stderr
        assert watched.libvirt.run(*filters).stdout == before
    assert "virNetServerClientDispatchRead" not in watched.kept("libvirtd.log", "attempt-1")
    assert "virNetServerClientDispatchRead" in watched.kept("libvirtd.log", "attempt-2")


def test_after_a_kill_the_next_run_puts_things_right(watched: Watched) -> None:
    watched.libvirt.write("/run/network.xml", LEAKS["network.xml"])
    watched.configure(deep_filters="1:*")
    argv, environment = watched.arguments(f"{VIRSH} net-create /run/network.xml; echo made; exec sleep 300")
    filters = ("virt-admin", "-q", "-c", "libvirtd:///system", "daemon-log-filters")
    before = watched.libvirt.run(*filters).stdout
    process = watched.libvirt.popen(
        "/usr/bin/python3",
        str(WRAPPER),
        *argv,
        environment={**environment, "MAYFLY_ATTEMPT": "2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout
    assert process.stdout.readline() == "made\n"
    assert watched.libvirt.run(*filters).stdout != before
    watched.libvirt.run("/bin/sh", "-c", "kill -9 $(pgrep -f '[m]ayfly_libvirt_test.py run')")
    process.wait(10)
    process.stdout.close()
    done = watched.libvirt.wrapper("purge", "--config", str(watched.config))
    assert done.returncode == 0, done.stderr
    assert [line.split()[-1] for line in done.stdout.splitlines()] == ["sleep", "tck"]
    assert watched.libvirt.run(*filters).stdout == before


def test_logs_are_bounded_and_taken_from_plain_files_only(watched: Watched) -> None:
    qemu = "/var/log/libvirt/qemu"
    hostile = f"printf '\\000\\033[2Jnot ok 9\\n' >>{qemu}/tck.log; ln -s /etc/shadow {qemu}/tck-link.log; mkfifo {qemu}/tck-pipe.log"
    many = f"head -c 20000000 /dev/zero | tr '\\0' x >>{qemu}/tck-much.log; echo last >>{qemu}/tck-much.log; echo odd >{qemu}/'tck a;b.log'"
    watched.configure(keep_logs="always")
    done = watched.run(f"{hostile}; {many}; {VIRSH} uri >&2; echo ok 1; echo 1..1")
    assert (done.returncode, done.stdout) == (0, "ok 1\n1..1\n"), done.stderr
    assert watched.names() == ["libvirt.json", "libvirtd.log", "qemu-tck-much.log", "qemu-tck.log", "qemu-tck_a_b.log"]
    assert "\x00\x1b[2Jnot ok 9" in watched.kept("qemu-tck.log")
    much = watched.kept("qemu-tck-much.log")
    assert 8 * 1024 * 1024 <= len(much) < 8 * 1024 * 1024 + 200
    assert "bytes left out here: more than 8388608 were written]" in much
    assert much.startswith("xxx")
    assert much.endswith("xxxlast\n")
    watched.libvirt.run("/bin/sh", "-c", f"rm {qemu}/tck*")


def test_what_a_killed_run_left_hanging_is_started_again(watched: Watched) -> None:
    watched.libvirt.run("rm", "-f", "/run/mayfly/libvirt-test/state.json")
    pid = watched.libvirt.pid()
    watched.libvirt.run("kill", "-STOP", str(pid))
    done = watched.run(f"{VIRSH} list >&2; echo ok 1; echo 1..1")
    assert (done.returncode, done.stdout) == (0, "ok 1\n1..1\n"), done.stderr
    assert watched.summary()["left_before"] == ["daemon libvirtd: libvirtd hangs: it is stopped (state T)"]
    assert watched.libvirt.pid() != pid


def test_two_tests_at_a_time_are_refused(watched: Watched) -> None:
    argv, environment = watched.arguments("echo begun; exec sleep 300")
    first = watched.libvirt.popen("/usr/bin/python3", str(WRAPPER), *argv, environment=environment, stdout=subprocess.PIPE)
    assert first.stdout
    assert first.stdout.readline() == "begun\n"
    second = watched.run("touch /run/must-not-be", kept="second")
    assert second.returncode == 2
    assert "another test runs against this libvirt: a test. Two at a time disturb each other" in second.stderr
    assert second.stdout.startswith("Bail out! ")
    assert watched.judgement("second")["status"] == "error"
    watched.libvirt.run("/bin/sh", "-c", "kill -TERM $(pgrep -f '[m]ayfly_libvirt_test.py run')")
    assert first.wait(20) == 128 + 15
    first.stdout.close()
    assert watched.judgement()["message"] == ["the test was told to stop by SIGTERM; what it left is removed before the next one"]
    assert not watched.libvirt.run("/bin/sh", "-c", "ps -eo args | grep -x 'sleep 300'", check=False).stdout


def test_refusals(watched: Watched) -> None:
    for uri in ("qemu+ssh://host/system", "qemu://host/system", "qemu+unix:///system", "qemu:///system?socket=/tmp/s", "qemu:///session"):
        watched.configure(uri=uri)
        done = watched.run("touch /run/must-not-be")
        assert done.returncode == 2
        assert f"refusing to test '{uri}'" in done.stderr
        assert watched.judgement()["status"] == "error"
    assert watched.libvirt.run("ls", "/run/must-not-be", check=False).returncode != 0
    assert json.loads(watched.kept("judgement.json"))
