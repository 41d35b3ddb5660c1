# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A run: one job's identity on a hypervisor, and the directory everything made for it lies in."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import typing as t
from pathlib import Path

from ._errors import InvalidInput, MayflyError
from ._lock import locked
from ._names import check_run_id
from ._types import RunCommand
from ._workspace import Workspace

FORMAT = "mayfly-run-1"
LONGEST = 366 * 24 * 3600  # seconds
# Making a guest takes seconds. Who holds a run for longer hangs.
HOLD_PATIENCE = 120.0


@dataclasses.dataclass(frozen=True)
class OwnerProcess:
    """A process on the hypervisor that the run must not outlive, told apart from a later one with its number."""

    pid: int
    started: int  # clock ticks since boot, field 22 of /proc/<pid>/stat

    def alive(self) -> bool:
        return process_started(self.pid) == self.started


@dataclasses.dataclass(frozen=True)
class Run:
    """What run.json says. Times are ISO 8601 in UTC with seconds."""

    id: str
    created: str
    deadline: str
    boot_id: str
    owner: str = ""
    job_url: str = ""
    owner_process: OwnerProcess | None = None

    def over(self, now: datetime.datetime, this_boot: str) -> str:
        """Return why the run has come to its end, or an empty string."""
        if now >= parse_time(self.deadline):
            return f"its deadline {self.deadline} has passed"
        if self.boot_id != this_boot:
            return "the host was booted since it was made"
        if self.owner_process and not self.owner_process.alive():
            return f"its owner process {self.owner_process.pid} is gone"
        return ""


@dataclasses.dataclass(frozen=True)
class RunPaths:
    """Where the parts of one run lie."""

    state_dir: Path
    run: str

    @property
    def dir(self) -> Path:
        return runs_dir(self.state_dir) / self.run

    @property
    def record(self) -> Path:
        return self.dir / "run.json"

    @property
    def key(self) -> Path:
        return self.dir / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        return self.dir / "known_hosts"

    @property
    def lock(self) -> Path:
        return self.dir / "lock"

    def overlay(self, domain: str) -> Path:
        return self.dir / f"{domain}.qcow2"

    def seed(self, domain: str) -> Path:
        return self.dir / f"{domain}.seed.iso"

    def console(self, domain: str) -> Path:
        return self.dir / f"{domain}.console.log"

    def nvram(self, domain: str) -> Path:
        return self.dir / f"{domain}.nvram.fd"

    def macs(self, domain: str) -> Path:
        """The guest's MAC addresses: its leases must be found when it has powered itself off."""
        return self.dir / f"{domain}.macs"

    def host_key(self, domain: str) -> Path:
        return self.dir / "hostkeys" / domain


def runs_dir(state_dir: Path) -> Path:
    return state_dir / "runs"


def utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)


def parse_time(text: str) -> datetime.datetime:
    time = datetime.datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f"the time {text} has no zone")
    return time


def boot_id() -> str:
    """Return what the kernel calls this boot of the host."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def process_started(pid: int) -> int | None:
    """Return when the process started, in clock ticks since boot, or None when there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the command in parentheses and may hold anything; field 3 follows its last ')'.
    fields = stat[stat.rindex(")") + 2 :].split()
    return None if fields[0] == "Z" else int(fields[19])


def new_run(wanted: dict[str, t.Any], now: datetime.datetime) -> Run:
    """Return the run that the option C(run) of a module asks for."""
    run_id = check_run_id(wanted["id"])
    if not 0 <= wanted["deadline"] <= LONGEST:
        raise InvalidInput(
            "Run", run_id, f"its deadline of {wanted['deadline']} s is not between 0 and {LONGEST} s", "Give seconds from now."
        )
    pid = wanted.get("owner_pid")
    process = None
    if pid is not None:
        started = process_started(pid)
        if started is None:
            raise MayflyError(
                "open run",
                run_id,
                f"its owner process {pid} does not exist here",
                "Leave out owner_pid for a remote hypervisor.",
            )
        process = OwnerProcess(pid, started)
    return Run(
        id=run_id,
        created=now.isoformat(),
        deadline=(now + datetime.timedelta(seconds=wanted["deadline"])).isoformat(),
        boot_id=boot_id(),
        owner=wanted.get("owner") or "",
        job_url=wanted.get("job_url") or "",
        owner_process=process,
    )


def read_run(paths: RunPaths) -> Run | None:
    """Return what the run's directory says of it, or None when there is no such run."""
    try:
        data = json.loads(paths.record.read_text(encoding="utf-8"))
        if data.pop("format") != FORMAT:
            raise ValueError("unknown format")
        process = data.pop("owner_process")
        run = Run(owner_process=OwnerProcess(**process) if process else None, **data)
        parse_time(run.deadline)
        return run
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MayflyError(
            "read run",
            str(paths.record),
            f"it is not a run of this version ({error})",
            f"Look at it, then remove {paths.dir}.",
        ) from error


def open_run(paths: RunPaths, wanted: dict[str, t.Any], run_command: RunCommand) -> bool:
    """Make the run's directory with its record and key pair, whole or not at all; tell whether it was made now."""
    if read_run(paths) is not None:
        return False
    root = runs_dir(paths.state_dir)
    run = new_run(wanted, utc_now())
    try:
        root.mkdir(mode=0o755, parents=True, exist_ok=True)
        with Workspace(root) as fresh:
            _write_record(fresh.path / "run.json", run)
            (fresh.path / "hostkeys").mkdir(mode=0o700)
            (fresh.path / "known_hosts").touch()
            make_key(fresh.path / "id_ed25519", f"mayfly {run.id}", run_command)
            fresh.path.chmod(0o711)  # QEMU's user passes through to the disks; only root lists
            return fresh.adopt(paths.dir)  # or another process has opened the same run meanwhile
    except OSError as error:
        raise MayflyError(
            "make run directory",
            str(paths.dir),
            error.strerror or str(error),
            "Run the play mayfly.virt.hypervisor, or choose another state_dir.",
        ) from error


def renew_run(paths: RunPaths, wanted: dict[str, t.Any]) -> None:
    """Take up a run that was over, with a new deadline and owner, or sweep would remove what is made in it now. The caller holds it."""
    run = read_run(paths)
    if run and run.over(utc_now(), boot_id()):
        fresh = paths.dir / ".run.json.new"
        _write_record(fresh, new_run(wanted, utc_now()))
        fresh.replace(paths.record)
    os.utime(paths.record)  # an orphan is judged by when it was last used


def _write_record(path: Path, run: Run) -> None:
    path.write_text(json.dumps({"format": FORMAT, **dataclasses.asdict(run)}, indent=2) + "\n", encoding="utf-8")


def is_bare(paths: RunPaths) -> bool:
    """Tell whether the run is as open_run() made it, and nothing of any guest lies in it."""
    own = {paths.record, paths.key, paths.key.with_suffix(".pub"), paths.lock, paths.known_hosts, paths.dir / "hostkeys"}
    return set(paths.dir.iterdir()) <= own


@contextlib.contextmanager
def hold(paths: RunPaths) -> t.Iterator[None]:
    """Hold the run while something is made in it or all of it is removed, so that neither overtakes the other."""
    try:
        with locked(paths.lock, HOLD_PATIENCE):
            if not paths.record.exists():  # removed while we waited for it
                raise FileNotFoundError(paths.record)
            yield
    except FileNotFoundError as error:
        if paths.record.exists():
            raise
        raise MayflyError("use run", paths.run, f"{paths.dir} was removed meanwhile", "Was it swept away? Then begin a new run.") from error


def make_key(path: Path, comment: str, run_command: RunCommand) -> None:
    """Make an ed25519 key pair without passphrase, replacing nothing."""
    code, out, err = run_command(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)])
    if code != 0:
        raise MayflyError("make ssh key", str(path), (err or out).strip(), "Is openssh-client installed?")


def public_key(path: Path) -> str:
    """Return type and key of the pair's public half, without comment."""
    return " ".join(Path(f"{path}.pub").read_text(encoding="utf-8").split()[:2])
