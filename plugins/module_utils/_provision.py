# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make guests: plan each against what there is, then make all of them at once, or none."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import threading
import typing as t
from pathlib import Path

from . import _seed
from ._chain import create_argv
from ._domain_xml import SeenDomain
from ._errors import MayflyError
from ._guest import Guest, Overlay, check_seen
from ._libvirt import Hypervisor
from ._parallel import at_once
from ._plan import Action
from ._purge import remove_tree
from ._readiness import LoginResult, Target, View
from ._run import RunPaths, boot_id, hold, is_bare, new_run, open_run, public_key, read_run, renew_run, utc_now
from ._seed import HostKey, Seed
from ._ssh import Access, accepted, login_argv
from ._types import RunCommand

_UNMADE = HostKey(private="(made with the guest)", public="(made with the guest)")


@dataclasses.dataclass(frozen=True)
class GuestPlan:
    """One guest and the steps to it; none when it runs already."""

    guest: Guest
    actions: tuple[Action, ...]
    seen: SeenDomain | None


def plan(guest: Guest, seen: SeenDomain | None, paths: RunPaths) -> GuestPlan:
    """Compare the guest with what there is. One that runs as wanted is kept; files left without a domain are made anew."""
    if seen:
        check_seen(guest, seen)
        return GuestPlan(guest, (Action("keep", "domain", guest.name),), seen)
    actions = []
    if guest.overlay:
        actions.append(overlay_action(guest.name, guest.overlay, replaces=guest.overlay.path.exists()))
    if guest.seed:
        actions.append(seed_action(guest.seed, paths))
    actions.append(Action("create", "domain", guest.name, after=guest.xml))
    return GuestPlan(guest, tuple(actions), None)


def run_action(paths: RunPaths, wanted: dict[str, t.Any]) -> Action:
    """Compare the wanted run with what there is. One that could not be opened is refused here, in check mode too."""
    run = read_run(paths)
    over = run.over(utc_now(), boot_id()) if run else ""
    if run is None or over:
        new_run(wanted, utc_now())
    if run is None:
        return Action("create", "run", paths.run, after=f"{paths.dir}\n")
    if over:
        return Action("update", "run", paths.run, over, before=f"deadline {run.deadline}\n", after="a new deadline\n")
    return Action("keep", "run", paths.run)


@contextlib.contextmanager
def opened(paths: RunPaths, wanted: dict[str, t.Any], run_command: RunCommand) -> t.Iterator[None]:
    """Open the run, or take it up again, and hold it; a run that was opened here goes away again when what follows fails."""
    made = open_run(paths, wanted, run_command)
    with hold(paths):
        ours = made and is_bare(paths)  # or another prepare held it before us, and has guests in it
        try:
            renew_run(paths, wanted)
            yield
        except BaseException:
            if ours:
                remove_tree(paths.dir)
            raise


def overlay_action(name: str, overlay: Overlay, *, replaces: bool = False) -> Action:
    after = f"{overlay.path}: {overlay.size} bytes on {overlay.base.path}\n"
    if replaces:
        return Action("update", "overlay", name, "left over without a domain", before=f"{overlay.path}\n", after=after)
    return Action("create", "overlay", name, after=after)


def seed_action(seed: Seed, paths: RunPaths) -> Action:
    """Compare the wanted documents with those the existing image was made from."""
    docs = known_documents(seed, paths)
    image = paths.seed(seed.domain)
    if docs and _seed.seed_digest(image) == _seed.digest(docs):
        return Action("keep", "seed", seed.domain)
    after = _seed.redacted(docs or _seed.documents(seed, _UNMADE))
    if image.exists():
        return Action("update", "seed", seed.domain, before=f"{image}\n", after=after)
    return Action("create", "seed", seed.domain, after=after)


def known_documents(seed: Seed, paths: RunPaths) -> dict[str, str] | None:
    """Return the documents when the keys that stand in them have been made."""
    key = paths.host_key(seed.domain)
    if not key.exists() or not paths.key.exists():
        return None
    host_key = HostKey(private=key.read_text(encoding="utf-8"), public=public_key(key))
    return _seed.documents(with_run_key(seed, paths), host_key)


def with_run_key(seed: Seed, paths: RunPaths) -> Seed:
    return dataclasses.replace(seed, authorized_keys=(public_key(paths.key), *seed.authorized_keys))


def make_overlay(overlay: Overlay, run_command: RunCommand) -> None:
    overlay.path.unlink(missing_ok=True)
    code, out, err = run_command(create_argv(overlay.path, overlay.base, overlay.size))
    if code != 0:
        raise MayflyError("make overlay", str(overlay.path), (err or out).strip(), "Is there room on the disk?")


def make_seed(seed: Seed, paths: RunPaths, run_command: RunCommand) -> None:
    host_key = _seed.host_key(paths, seed.domain, run_command)
    docs = _seed.documents(with_run_key(seed, paths), host_key)
    try:
        _seed.write_seed(paths, seed.domain, docs, run_command)
    except OSError as error:
        raise MayflyError("make seed", str(paths.seed(seed.domain)), str(error), "Is there room on the disk?") from error


def make_all(plans: t.Sequence[GuestPlan], paths: RunPaths, hypervisor: Hypervisor, run_command: RunCommand) -> dict[str, SeenDomain]:
    """Make every planned guest, several at a time, or none: what was made is taken back when anything fails. The caller holds the run."""
    made = {plan.guest.name: plan.seen for plan in plans if plan.seen}
    todo = [plan.guest for plan in plans if not plan.seen]
    if not todo:
        return made
    fresh: dict[str, SeenDomain] = {}
    try:
        at_once([guest for guest in todo if guest.seed], lambda guest: _seed.host_key(paths, guest.name, run_command))
        _seed.write_known_hosts(paths)  # before the first domain: whoever sees it can log in to it
        at_once(todo, lambda guest: _make_guest(guest, paths, hypervisor, run_command, fresh))
    except BaseException as error:
        _take_all_back(todo, fresh, paths, hypervisor, error)
        raise
    return {**made, **fresh}


def _make_guest(guest: Guest, paths: RunPaths, hypervisor: Hypervisor, run_command: RunCommand, fresh: dict[str, SeenDomain]) -> None:
    if guest.overlay:
        make_overlay(guest.overlay, run_command)
    if guest.seed:
        make_seed(guest.seed, paths, run_command)
    console = paths.console(guest.name)
    if console.exists():  # of an earlier attempt: its panic is not this guest's
        console.replace(console.with_suffix(".log.previous"))
    made = fresh[guest.name] = hypervisor.create(guest.name, guest.xml)
    paths.macs(guest.name).write_text("\n".join(made.macs), encoding="ascii")


def _take_all_back(
    guests: t.Sequence[Guest], fresh: t.Mapping[str, SeenDomain], paths: RunPaths, hypervisor: Hypervisor, error: BaseException
) -> None:
    """Take back every guest that can be; what cannot is added to the error that made it necessary."""
    steps = [functools.partial(take_back, guest.name, fresh.get(guest.name), paths, hypervisor) for guest in guests]
    for step in [*steps, functools.partial(_seed.write_known_hosts, paths)]:
        try:
            step()
        except (MayflyError, OSError) as problem:
            if isinstance(error, MayflyError):
                error.remedy = f"{error.remedy} Moreover: {problem}".strip()


def take_back(name: str, made: SeenDomain | None, paths: RunPaths, hypervisor: Hypervisor) -> None:
    """End a guest of ours and remove its files."""
    if made:
        hypervisor.destroy(name, made.uuid)
    for path in guest_files(paths, name):
        path.unlink(missing_ok=True)


def guest_files(paths: RunPaths, name: str) -> list[Path]:
    """Return every file of one guest that there is, console logs that virtlogd rotated included."""
    console = paths.console(name)
    key = paths.host_key(name)
    named = [paths.overlay(name), paths.seed(name), console, paths.nvram(name), paths.macs(name), key, key.with_suffix(".pub")]
    return [path for path in [*named, *sorted(console.parent.glob(f"{console.name}.*"))] if path.exists()]


class Waiter:
    """What the wait for readiness sees and does: libvirt for states and leases, ssh for logins."""

    def __init__(self, hypervisor: Hypervisor, networks: t.Iterable[str], access: t.Mapping[str, Access], run_command: RunCommand) -> None:
        self._hypervisor = hypervisor
        self._networks = set(networks)
        self._access = access
        self._run_command = run_command
        self._processes: dict[str, t.Any] = {}
        self._lock = threading.Lock()

    def look(self) -> View:
        leases = self._hypervisor.leases(self._networks) if self._networks else []
        # A guest's latest lease counts: an older one may be of a guest that had the same card.
        addresses = {lease.mac: lease.address for lease in sorted(leases, key=lambda lease: lease.expiry or math.inf)}
        return View(self._hypervisor.states(), addresses)

    def login(self, target: Target, address: str, script: str, seconds: float) -> LoginResult:
        def remember(process: t.Any) -> None:
            with self._lock:
                self._processes[target.domain] = process

        argv = login_argv(self._access[target.domain], address, script, seconds)
        try:
            code, out, err = self._run_command(argv, before_communicate_callback=remember)
            return LoginResult(accepted(code, out, script), code, out, err)
        finally:
            with self._lock:
                self._processes.pop(target.domain, None)

    def abort(self, target: Target) -> None:
        with self._lock:
            process = self._processes.get(target.domain)
        if process:
            process.terminate()
