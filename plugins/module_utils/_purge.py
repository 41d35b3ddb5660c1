# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What belongs to a run and how it goes away; what is stale, and why."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import errno
import os
import re
import shutil
import time
import typing as t
from pathlib import Path

from ._chain import read_chain
from ._domain_xml import SeenDomain
from ._errors import MayflyError
from ._libvirt import Hypervisor, Lease
from ._lock import locked, try_locked
from ._names import is_run_id
from ._parallel import at_once
from ._plan import Action
from ._run import HOLD_PATIENCE, Run, RunPaths, boot_id, read_run, runs_dir
from ._store import Store
from ._types import RunCommand
from ._watch import WatchPaths, read_process, stop
from ._workspace import LOCK, NASCENT, abandoned

# dnsmasq tells libvirt of a released lease at once; the answer was measured at 30 ms.
LEASE_PATIENCE = 5.0


@dataclasses.dataclass(frozen=True)
class RunView:
    """One entry of the runs directory, and how long it has not been touched."""

    id: str
    run: Run | None
    problem: str
    idle: float  # seconds


@dataclasses.dataclass(frozen=True)
class Stale:
    """A run that shall go, and the reason."""

    id: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Belongings:
    """What there is of a run."""

    domains: list[SeenDomain]
    leases: list[Lease]
    directory: bool


# -- deciding ------------------------------------------------------------------------------------------------------------


def owned(domains: t.Iterable[SeenDomain], state_dir: Path, run_id: str | None = None) -> list[SeenDomain]:
    """Return the domains that carry our tag for this state directory, of one run or of all."""
    here = os.path.realpath(state_dir)
    return [
        domain
        for domain in domains
        if domain.tag and os.path.realpath(domain.tag.state_dir) == here and (run_id is None or domain.tag.run == run_id)
    ]


def find_stale(
    runs: t.Sequence[RunView], domains: t.Sequence[SeenDomain], now: datetime.datetime, this_boot: str, grace: float
) -> list[Stale]:
    """Judge every run; domains are those of owned(). The first reason that holds is the one given."""
    with_domain = {domain.tag.run for domain in domains if domain.tag}
    stale = [Stale(view.id, reason) for view in runs if (reason := _why_stale(view, with_domain, now, this_boot, grace))]
    known = {view.id for view in runs}
    stale += [Stale(run_id, "its domains have no run directory") for run_id in sorted(with_domain - known)]
    return stale


def _why_stale(view: RunView, with_domain: set[str], now: datetime.datetime, this_boot: str, grace: float) -> str:
    run = view.run
    if run is None:
        return view.problem if view.idle > grace else ""
    reason = run.over(now, this_boot)
    if not reason and view.id not in with_domain and view.idle > grace:
        return f"it has no domain and was not touched for {view.idle:.0f} s"
    return reason


def actions(run_id: str, reason: str, there: Belongings) -> list[Action]:
    """Return the steps that remove one run, in their order."""
    steps = [Action("remove", "domain", domain.name, reason, before=f"{domain.name} {domain.uuid}\n") for domain in there.domains]
    steps += [Action("remove", "lease", f"{lease.address} of {lease.mac}", reason, before=f"{lease.address}\n") for lease in there.leases]
    if there.directory:
        steps.append(Action("remove", "run directory", run_id, reason, before=f"{run_id}\n"))
    return steps


# -- looking and doing ---------------------------------------------------------------------------------------------------


def view_runs(state_dir: Path) -> list[RunView]:
    """Return every run directory there is."""
    root = runs_dir(state_dir)
    entries = sorted(root.iterdir()) if root.is_dir() else []
    views = (_view(state_dir, path) for path in entries if is_run_id(path.name) and path.is_dir() and not path.is_symlink())
    return [view for view in views if view]


def _view(state_dir: Path, path: Path) -> RunView | None:
    paths = RunPaths(state_dir, path.name)
    problem = ""
    try:
        run = read_run(paths)
        problem = "" if run else "it has no run.json"
    except MayflyError as error:
        run, problem = None, error.reason
    try:
        touched = (paths.record if run else path).stat().st_mtime
    except FileNotFoundError:  # another sweep was faster
        return None
    return RunView(path.name, run, problem, time.time() - touched)


def leases_of(domains: t.Iterable[SeenDomain], leases: t.Iterable[Lease], further_macs: t.Iterable[str] = ()) -> list[Lease]:
    """Return the leases of the domains' cards, and of cards whose domain is gone already."""
    macs = {mac.lower() for domain in domains for mac in domain.macs} | set(further_macs)
    return [lease for lease in leases if lease.mac in macs]


def recorded_macs(paths: RunPaths) -> set[str]:
    """Return the MAC addresses of every guest that was made in the run, of those that powered themselves off too."""
    macs: set[str] = set()
    for record in paths.dir.glob("*.macs"):
        macs.update(record.read_text(encoding="ascii").split())
    return macs


def current_stale(domains: t.Sequence[SeenDomain], state_dir: Path, now: datetime.datetime, grace: float) -> list[Stale]:
    """Judge what there is. The domains were listed first: a run opened since then shows no domain yet, and its age protects it."""
    return find_stale(view_runs(state_dir), domains, now, boot_id(), grace)


def belongings(hypervisor: Hypervisor, state_dir: Path, run_id: str) -> Belongings:
    """Look for everything that belongs to a run."""
    paths = RunPaths(state_dir, run_id)
    domains = owned(hypervisor.domains(), state_dir, run_id)
    return Belongings(
        domains, leases_of(domains, hypervisor.leases(), recorded_macs(paths)), paths.dir.is_dir() and not paths.dir.is_symlink()
    )


def purge(
    hypervisor: Hypervisor, state_dir: Path, run_id: str, run_command: RunCommand, confirm: t.Callable[[], bool] = lambda: True
) -> bool:
    """Remove a run: its domains first, then what they leased, then its files. Killed half-way, the rest is found again.

    Holding the run's lock: who is making a guest in it comes to an end before, so that the guest is seen and goes too. What
    confirm says under the lock decides, and is returned: the run may have been taken up anew since it was judged.
    """
    paths = RunPaths(state_dir, run_id)
    with _held(paths):
        if not confirm():
            return False
        there = belongings(hypervisor, state_dir, run_id)
        end_watcher(paths)
        at_once(there.domains, lambda domain: hypervisor.destroy(domain.name, domain.uuid))
        release(hypervisor, there.leases, run_command)
        if there.directory:
            remove_tree(paths.dir)
    return True


def end_watcher(paths: RunPaths) -> None:
    """End the process that watches the run's consoles, so that it does not take their end for the guests' doing."""
    try:
        process = read_process(WatchPaths(paths))
    except MayflyError:  # torn or forged: whose process that would be nobody knows, and a watcher without its run ends by itself
        return
    if process is not None and process.alive():
        stop(process)


@contextlib.contextmanager
def _held(paths: RunPaths) -> t.Iterator[None]:
    """Hold the run's lock. Where there is none nobody makes guests, and making it would make the directory look used."""
    with contextlib.ExitStack() as stack:
        if paths.lock.exists() and not paths.dir.is_symlink():
            with contextlib.suppress(FileNotFoundError):  # another sweep was faster
                stack.enter_context(locked(paths.lock, HOLD_PATIENCE))
        yield


def release(hypervisor: Hypervisor, leases: t.Sequence[Lease], run_command: RunCommand) -> None:
    """Give addresses back in the guests' name, so that short-lived guests do not use up the range."""
    for lease in leases:
        argv = ["dhcp_release", lease.bridge, lease.address, lease.mac]
        code, out, err = run_command([*argv, lease.client_id] if lease.client_id else argv)
        if code != 0:
            raise MayflyError("release lease", f"{lease.address} of {lease.mac}", (err or out).strip(), "Is dnsmasq-utils installed?")
    if not leases:
        return
    deadline = time.monotonic() + LEASE_PATIENCE
    while remaining := _still_there(hypervisor, leases):
        if time.monotonic() > deadline:
            names = ", ".join(f"{lease.address} of {lease.mac}" for lease in remaining)
            raise MayflyError("release lease", names, "the DHCP server still lists it", "It goes by itself when it expires.")
        time.sleep(0.02)


def _still_there(hypervisor: Hypervisor, leases: t.Sequence[Lease]) -> list[Lease]:
    now = {(lease.mac, lease.address) for lease in hypervisor.leases({lease.network for lease in leases})}
    return [lease for lease in leases if (lease.mac, lease.address) in now]


def rubbish(state_dir: Path, grace: float, run_command: RunCommand) -> list[Path]:
    """Return what killed processes left half-made in our own directories."""
    store = Store(state_dir)
    found = [*abandoned(runs_dir(state_dir)), *abandoned(store.tmp)]
    directories = [directory for directory in (runs_dir(state_dir), store.tmp) if directory.is_dir()]
    strays = [path for directory in directories for path in directory.glob(f"{NASCENT}*")]
    strays += [*store.tmp.glob(".manifest-*"), *store.tmp.glob(".link-*")] if store.tmp.is_dir() else []
    kept = {path.name[7:71] for path in store.dir.glob("sha256-*.json")}
    halves = [path for path in store.dir.glob("sha256-*.*") if path.name[7:71] not in kept]
    strays += [path for path in halves if not overlays_on(store.path(path.name[7:71]), state_dir, run_command)]
    before = time.time() - grace
    return found + [path for path in strays if _changed(path) < before]


def _changed(path: Path) -> float:
    try:
        return path.lstat().st_ctime
    except FileNotFoundError:  # finished, or removed by another sweep
        return time.time()


def overlays_on(base: Path, state_dir: Path, run_command: RunCommand) -> list[Path]:
    """Return the overlays of all runs that stand on an image, or may: one that cannot be read speaks for the image."""
    overlays = sorted(runs_dir(state_dir).glob("*/*.qcow2")) if base.exists() else []
    return [overlay for overlay in overlays if _may_stand_on(overlay, str(base), run_command)]


def _may_stand_on(overlay: Path, base: str, run_command: RunCommand) -> bool:
    try:
        return any(layer.path == base for layer in read_chain(overlay, run_command).backing)
    except MayflyError:
        return overlay.exists()  # or its run was removed meanwhile


def remove_rubbish(path: Path) -> None:
    """Remove something half-made, unless somebody works on it by now."""
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    with try_locked(path / LOCK) as free:
        if free:
            remove_tree(path)


def remove_tree(path: Path) -> None:
    """Remove a directory of ours; refuse while something is mounted in it, for that is not ours."""
    real = os.path.realpath(path)
    mounted = [point for point in mount_points() if point == real or point.startswith(f"{real}/")]
    if mounted:
        raise MayflyError("remove", str(path), f"{mounted[0]} is mounted there", f"Unmount it first: umount '{mounted[0]}'")
    for last in (False, False, True):
        try:
            shutil.rmtree(path)
        except OSError as error:
            # Another sweep removes the same, or made a lock in it to wait for us.
            if last or error.errno not in (errno.ENOENT, errno.ENOTEMPTY):
                raise
        if not path.exists():
            return


def mount_points() -> list[str]:
    """Return where file systems are mounted. The kernel writes blanks and the like in octal."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        points = [line.split()[4] for line in table]
    return [re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), point) for point in points]
