# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Does eBPF work in this guest? Each test does something and asserts on what was then seen, not on an exit status."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import platform
import secrets
import shutil
import signal
import sys
import tempfile

import tap
from process import COMPILE, Background, bpftool, once, output, wait_until
from tap import Failure, contains, equal, test

# ---------------------------------------------------------------------------------------------------------------------
# What is expected. To see a test fail, change one of these.

BTF_HEADER = (0xEB9F, 1)  # magic, version
TASK_FIELDS = ("comm", "tgid", "real_parent", "static_prio")  # of struct task_struct, those open_probe.bpf.c reads
PROGRAM_TYPES = ("kprobe", "tracepoint", "raw_tracepoint", "tracing", "xdp", "sched_cls", "cgroup_skb", "lsm")
MAP_TYPES = ("hash", "array", "percpu_hash", "perf_event_array", "ringbuf")
HELPERS = ("bpf_ringbuf_output", "bpf_probe_read_kernel_str", "bpf_get_current_task")
ELF_MACHINE_BPF = 247
OBJECT_SECTIONS = (".BTF", ".BTF.ext", ".maps", "fexit/do_filp_open")
PROBE = {"name": "open_exit", "type": "tracing", "gpl_compatible": True}  # as bpftool shows it
NICE = 7
STATIC_PRIO = 120 + NICE  # how the kernel keeps a nice value
OPEN_MISSING_FILE = -2  # -ENOENT
REFUSED_BECAUSE = "R0 invalid mem access 'map_value_or_null'"
RUNS = 5
XDP_DROP = 1
SYSCALLS_MADE = 37

# ---------------------------------------------------------------------------------------------------------------------


class Job:
    """What one test leaves for the next: a scratch directory, a place in bpffs, files built, the running probe."""

    def __init__(self, scratch, pins):
        self.scratch = scratch
        self.pins = pins
        # At most 15 characters, so that it fits into the name of a process.
        self.marker = f"mayfly-{secrets.token_hex(3)}"
        self.have = {}

    def needs(self, what):
        """Give what an earlier test made. Without it a test is failed, and says which one to look at."""
        if what not in self.have:
            raise Failure(f"not tried: {what} is missing, the test that makes it failed")
        return self.have[what]

    def open_file(self, path):
        """Let a process of a known name, parent and nice value open a file once; return its pid."""
        script = 'printf %s "$1" > /proc/$$/comm; : < "$2"'
        return once(["nice", "-n", str(NICE), "sh", "-c", script, "sh", self.marker, str(path)])


def field_names(btf_dump, struct):
    """The members of a struct in what `bpftool btf dump … format raw` prints."""
    names = None
    for line in btf_dump.splitlines():
        if names is not None:
            if not line.startswith("\t"):
                break
            names.append(line.split("'")[1])
        elif f"] STRUCT '{struct}' " in line:
            names = []
    return names


def offered(probed):
    return [name for name, there in probed.items() if there]


def number(octets):
    """A number out of bpftool's list of hexadecimal octets."""
    return int.from_bytes(bytes(int(octet, 16) for octet in octets), sys.byteorder)


def octets(value, size):
    """A number as the words bpftool takes for keys and values."""
    return ["hex", *value.to_bytes(size, sys.byteorder).hex(" ").split()]


def program_ids(name=None):
    """The programs that are in the kernel, or those of them that have a name."""
    return {program["id"] for program in bpftool("prog", "show") if name in (None, program.get("name"))}


def programs_of(pid):
    """The programs of which a process holds a descriptor."""
    descriptors = [file.read_text(encoding="ascii") for file in pathlib.Path(f"/proc/{pid}/fdinfo").iterdir()]
    lines = [line.split() for text in descriptors if "prog_type:" in text for line in text.splitlines()]
    return {int(value) for name, value in lines if name == "prog_id:"}


# --- the kernel describes itself -------------------------------------------------------------------------------------


@test("the kernel carries BTF, and struct task_struct is in it")
def kernel_btf(_job):
    path = pathlib.Path("/sys/kernel/btf/vmlinux")
    if not path.exists():
        raise Failure(f"{path} does not exist: kernel {platform.release()} was built without CONFIG_DEBUG_INFO_BTF")
    with path.open("rb") as file:
        head = file.read(3)
    equal(f"magic and version of {path}", (int.from_bytes(head[:2], sys.byteorder), head[2]), BTF_HEADER)
    # As text: the same dump in JSON is 13 MB to parse.
    names = field_names(output(["bpftool", "btf", "dump", "file", str(path), "format", "raw"]), "task_struct")
    contains("fields of struct task_struct", names or [], TASK_FIELDS)


@test("the kernel offers the program types, map types and helpers that tracing needs")
def features(_job):
    probed = bpftool("feature", "probe", "kernel")
    contains("program types", offered(probed["program_types"]), [f"have_{name}_prog_type" for name in PROGRAM_TYPES])
    contains("map types", offered(probed["map_types"]), [f"have_{name}_map_type" for name in MAP_TYPES])
    # For programs of type `tracing` itself bpftool cannot probe helpers and lists none.
    contains("helpers of raw tracepoints", probed["helpers"]["raw_tracepoint_available_helpers"], HELPERS)


# --- a CO-RE program: built here, loaded, seen at work, gone ---------------------------------------------------------


@test("vmlinux.h is made from the running kernel")
def vmlinux_header(job):
    text = output(["bpftool", "btf", "dump", "file", "/sys/kernel/btf/vmlinux", "format", "c"])
    contains("declarations in vmlinux.h", text, ["struct task_struct {", "struct filename {", "preserve_access_index"])
    header = job.scratch / "vmlinux.h"
    header.write_text(text, encoding="ascii")
    job.have["vmlinux.h"] = header


@test("clang builds a CO-RE object for the BPF machine")
def build_object(job):
    job.needs("vmlinux.h")
    arch = {"x86_64": "x86", "aarch64": "arm64", "riscv64": "riscv", "s390x": "s390"}[platform.machine()]
    built = job.scratch / "open_probe.tmp.o"
    argv = ["clang", "-target", "bpf", f"-D__TARGET_ARCH_{arch}", "-g", "-O2", "-Wall", "-Werror"]
    output([*argv, f"-I{job.scratch}", "-c", "bpf/open_probe.bpf.c", "-o", str(built)], seconds=COMPILE)
    # bpftool's linker drops the DWARF and keeps the BTF, so the skeleton stays small.
    linked = job.scratch / "open_probe.bpf.o"
    output(["bpftool", "gen", "object", str(linked), str(built)])
    data = linked.read_bytes()
    equal("machine in the ELF header", int.from_bytes(data[18:20], sys.byteorder), ELF_MACHINE_BPF)
    contains("sections of the object", [s for s in OBJECT_SECTIONS if s.encode() + b"\0" in data], OBJECT_SECTIONS)
    job.have["the BPF object"] = linked


@test("bpftool makes a skeleton of it, and a loader links against libbpf")
def build_loader(job):
    skeleton = output(["bpftool", "gen", "skeleton", str(job.needs("the BPF object")), "name", "open_probe"])
    contains("functions of the skeleton", skeleton, ["open_probe__open_and_load", "open_probe__attach", "*open_exit;"])
    (job.scratch / "open_probe.skel.h").write_text(skeleton, encoding="ascii")
    loader = job.scratch / "open_probe"
    argv = ["clang", "-Wall", "-Werror", f"-I{job.scratch}", "bpf/open_probe.c", "-o", str(loader), "-lbpf"]
    output(argv, seconds=COMPILE)
    contains("what a loader without its argument says", output([str(loader)], status=2), ["usage: open_probe MARKER"])
    job.have["the loader"] = loader


@test("the kernel accepts the program and shows it under its name")
def load(job):
    probe = Background([str(job.needs("the loader")), job.marker])
    job.have["the probe"] = probe
    ready = json.loads(probe.line("that it is attached", lambda line: line if '"attached": true' in line else None))
    shown = bpftool("prog", "show", "id", str(ready["program"]))
    equal("the program in the kernel", {key: shown.get(key) for key in PROBE}, PROBE)
    equal("programs held by the loader", programs_of(probe.pid), {ready["program"]})
    job.have["the attached program"] = ready["program"]


def opened(job, path):
    """Have a file opened, and wait for the event about it."""
    job.needs("the attached program")
    pid = job.open_file(path)
    event = job.needs("the probe").line(f"an event about {path}", lambda line: f'"path": "{path}"' in line and json.loads(line))
    return pid, event


@test("an event tells who opened which file")
def event(job):
    path = job.scratch / f"{job.marker}.there"
    os.mknod(path)  # makes a file without opening it
    pid, event = opened(job, path)
    job.have["an event"] = event
    equal("name of the process", event["comm"], job.marker)
    equal("process", event["pid"], pid)
    equal("error", event["error"], 0)
    equal("inode of the file, read from struct file", event["inode"], path.stat().st_ino)


@test("CO-RE reads the right fields of task_struct: parent and priority")
def core_reads(job):
    event = job.needs("an event")
    equal("parent of the process", event["parent"], os.getpid())
    equal(f"static priority at nice {NICE}", event["static_prio"], STATIC_PRIO)


@test("an event carries the return value of the traced function")
def return_value(job):
    pid, event = opened(job, job.scratch / f"{job.marker}.missing")
    equal("process", event["pid"], pid)
    equal("error", event["error"], OPEN_MISSING_FILE)
    equal("inode", event["inode"], 0)


@test("the program is gone when its loader has ended")
def unload(job):
    program = job.needs("the attached program")
    contains("programs while the loader runs", program_ids(), [program])
    job.needs("the probe").stop()
    wait_until(f"program {program} no longer in the kernel", lambda: program not in program_ids())


# --- the verifier, and objects that outlive their loader -------------------------------------------------------------


def build_counter(job, name, *options):
    target = job.scratch / f"{name}.o"
    # Without vmlinux.h: linux/types.h wants asm/types.h, which Debian keeps in a directory per architecture.
    headers = f"-I/usr/include/{platform.machine()}-linux-gnu"
    argv = ["clang", "-target", "bpf", headers, "-g", "-O2", "-Wall", "-Werror", *options]
    output([*argv, "-c", "bpf/counter.bpf.c", "-o", str(target)], seconds=COMPILE)
    return str(target)


@test("the verifier refuses a program that may follow a null pointer, and says why")
def refused(job):
    program = build_counter(job, "forgetful", "-DFORGET_THE_CHECK")
    before = program_ids("count_packet")
    log = output(["bpftool", "prog", "load", program, str(job.pins / "forgetful")], status=255)
    contains("reason in the verifier's log", log, [REFUSED_BECAUSE])
    equal("programs that came into the kernel all the same", program_ids("count_packet") - before, set())


@test("with the check it is accepted, and its pin outlives the loader")
def pinned(job):
    program = build_counter(job, "counter")
    pin = job.pins / "counter"
    output(["bpftool", "prog", "load", program, str(pin), "pinmaps", str(job.pins / "maps")])
    shown = bpftool("prog", "show", "pinned", str(pin))
    equal("pinned program", (shown["name"], shown["type"]), ("count_packet", "xdp"))
    job.have["the pinned program"] = shown["id"]


@test("the pinned program runs: its verdict and its count are right")
def run_pinned(job):
    job.needs("the pinned program")
    packet = job.scratch / "packet"
    packet.write_bytes(bytes(64))
    ran = bpftool("prog", "run", "pinned", str(job.pins / "counter"), "data_in", str(packet), "repeat", str(RUNS))
    equal("return value", ran["retval"], XDP_DROP)
    found = bpftool("map", "lookup", "pinned", str(job.pins / "maps" / "packets"), "key", *octets(0, 4))
    equal("packets counted in the map", number(found["value"]), RUNS)


@test("the program is gone when its pin is removed")
def unpinned(job):
    program = job.needs("the pinned program")
    (job.pins / "counter").unlink()
    wait_until(f"program {program} no longer in the kernel", lambda: program not in program_ids())


@test("a map keeps what bpftool puts into it, and forgets what it deletes")
def map_round_trip(job):
    pin = str(job.pins / "notes")
    key, value = octets(7, 4), secrets.randbits(64)
    output(["bpftool", "map", "create", pin, "type", "hash", "key", "4", "value", "8", "entries", "4", "name", "notes"])
    output(["bpftool", "map", "update", "pinned", pin, "key", *key, "value", *octets(value, 8)])
    found = bpftool("map", "lookup", "pinned", pin, "key", *key)
    equal("value under key 7", number(found["value"]), value)
    equal("number of entries", len(bpftool("map", "dump", "pinned", pin)), 1)
    output(["bpftool", "map", "delete", "pinned", pin, "key", *key])
    equal("entries after the delete", bpftool("map", "dump", "pinned", pin), [])


# --- ready-made tools ------------------------------------------------------------------------------------------------


@test("bpftrace counts the system calls of one process exactly")
def bpftrace(job):
    caller = job.scratch / "caller.py"
    calls = f"for _ in range({SYSCALLS_MADE}):\n    os.getpgid(0)\n"
    caller.write_text(f"import os\n\nprint('pid', os.getpid())\n{calls}", encoding="ascii")
    # With -c, bpftrace lets the process go only when the probe is attached.
    command = f"{sys.executable} {caller}"
    program = "tracepoint:syscalls:sys_enter_getpgid /pid == cpid/ { @calls[pid] = count(); }"
    said = output(["bpftrace", "-f", "json", "-c", command, "-e", program], seconds=COMPILE).splitlines()
    pid = next((line.split()[1] for line in said if line.startswith("pid ")), None)
    maps = [answer["data"] for answer in map(json.loads, filter(lambda line: line.startswith('{"type": "map"'), said))]
    equal("calls of getpgid by process", maps, [{"@calls": {pid: SYSCALLS_MADE}}], details="\n".join(said))


@contextlib.contextmanager
def listening(tool, header, knock):
    """Run a libbpf tool; once it has printed its header and reported a knock, it misses nothing."""

    def answered():
        knock("knock")
        running.drain()
        return any("knock" in line for line in running.lines)

    # Debian 13 and later call it execsnoop-libbpf, to tell it from the tool of the same name in Python.
    name = shutil.which(f"{tool}-libbpf") or tool
    with Background([name], tty=True) as running:
        running.line(f"a header with {header}", lambda line: set(header) <= set(line.split()))
        wait_until(f"{tool} reports a trial event", answered)
        yield running


@test("execsnoop reports one command, once")
def execsnoop(job):
    def execute(name):
        command = job.scratch / name
        command.write_text("#!/bin/sh\nexit 0\n", encoding="ascii")
        command.chmod(0o755)
        return once([str(command), "one", "two"])

    with listening("execsnoop", ["PCOMM", "PID", "PPID", "RET", "ARGS"], execute) as tool:
        pid = execute(job.marker)
        tool.line(f"the command {job.marker}", lambda line: job.marker in line)
    seen = [line.split() for line in tool.lines if job.marker in line]
    arguments = [str(job.scratch / job.marker), "one", "two"]
    equal("commands with the marker", seen, [[job.marker, str(pid), str(os.getpid()), "0", *arguments]])


@test("opensnoop reports one failed open, once")
def opensnoop(job):
    def open_missing(name):
        return job.open_file(job.scratch / name)

    with listening("opensnoop", ["PID", "COMM", "FD", "ERR", "PATH"], open_missing) as tool:
        pid = open_missing("no-such-file")
        tool.line("an open of no-such-file", lambda line: line.endswith("/no-such-file"))
    seen = [line.split() for line in tool.lines if line.endswith("/no-such-file")]
    path = str(job.scratch / "no-such-file")
    equal("opens of the marked file", seen, [[str(pid), job.marker, "-1", str(-OPEN_MISSING_FILE), path]])


# ---------------------------------------------------------------------------------------------------------------------


def main():
    if os.geteuid() != 0:
        print("Bail out! eBPF programs are loaded by root; run this as root in a machine that may be broken")
        return 1
    signal.signal(signal.SIGTERM, lambda *_unused: sys.exit(143))
    with contextlib.ExitStack() as at_exit:
        scratch = pathlib.Path(at_exit.enter_context(tempfile.TemporaryDirectory(prefix="ebpf-smoke-")))
        pins = pathlib.Path("/sys/fs/bpf") / scratch.name
        at_exit.callback(shutil.rmtree, pins, ignore_errors=True)
        with contextlib.suppress(OSError):  # no bpffs: the tests that pin say so
            pins.mkdir()
        job = Job(scratch, pins)
        at_exit.callback(lambda: "the probe" in job.have and job.have["the probe"].stop())
        return tap.run(job)


if __name__ == "__main__":
    sys.exit(main())
