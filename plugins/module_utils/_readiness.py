# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When is a guest ready: running, lease, ssh, ready. One loop looks for all guests, one patient login each.

Nothing here knows libvirt or Ansible: what is to be seen comes through two given functions, look and login.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import threading
import time
import typing as t
from pathlib import Path

from ._accel import scaled
from ._console import PANIC, clean

STAGES = ("none", "running", "lease", "ssh", "ready")

# How often the hypervisor is asked for states and leases of all guests together; an answer takes it a few milliseconds.
LOOK_INTERVAL = 0.25
# Seconds until the next login, by what became of the last one. A refused connection costs the guest nothing, a key exchange
# costs an emulated one seconds; sshd may come up before cloud-init has put the key in place.
PAUSES = {"refused": 0.4, "unsettled": 2.0, "rejected": 5.0}
# How long a key may be rejected before we believe it.
REJECTED_PATIENCE = 5.0
CONSOLE_LINES = 15

# In the guest: wait until cloud-init's last stage has written its result, then print it and the stages' exit statuses.
READY_SCRIPT = """\
command -v cloud-init >/dev/null 2>&1 || { echo null; exit 0; }
while [ ! -s /run/cloud-init/result.json ]; do sleep 0.5; done
cat /run/cloud-init/result.json; echo
systemctl show -p ExecMainStatus --value cloud-init-local.service cloud-init.service cloud-config.service cloud-final.service
"""


@dataclasses.dataclass(frozen=True)
class Target:
    """A guest that is waited for."""

    domain: str
    uuid: str
    mac: str
    network: str
    console_log: str
    accel: str = "tcg"


@dataclasses.dataclass(frozen=True)
class View:
    """What one look at the hypervisor shows: uuid to state, MAC to address."""

    states: t.Mapping[str, str]
    addresses: t.Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class LoginResult:
    """How one ssh call ended, and whether it did what it was for."""

    accepted: bool
    code: int
    out: str
    err: str


Look = t.Callable[[], View]
# (guest, address, script to run there, seconds it may take)
Login = t.Callable[[Target, str, str, float], LoginResult]
# Ends the login to that guest that is under way, if any.
Abort = t.Callable[[Target], None]


@dataclasses.dataclass
class Outcome:
    """How far a guest came, when (seconds since the wait began), and why no further."""

    domain: str
    stage: str = "none"
    address: str = ""
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    why: str = ""
    message: str = ""

    @property
    def failed(self) -> bool:
        return bool(self.why)


class Console:
    """Reads a growing console log piece by piece, and remembers a panic."""

    def __init__(self, path: str) -> None:
        self._path = Path(path) if path else None
        self._offset = 0
        self._rest = ""
        self.panic = ""

    def follow(self) -> None:
        if self._path is None or self.panic or not self._path.exists():
            return
        with self._path.open("rb") as file:
            if file.seek(0, 2) < self._offset:  # rotated
                self._offset = 0
            file.seek(self._offset)
            chunk = file.read()
        self._offset += len(chunk)
        text = self._rest + clean(chunk.decode("utf-8", "replace"))
        match = PANIC.search(text)
        self.panic = match.group(1) if match else ""
        self._rest = text.rpartition("\n")[2][-4096:]

    def tail(self, lines: int = CONSOLE_LINES) -> list[str]:
        if self._path is None or not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - 16384))
            text = clean(file.read().decode("utf-8", "replace"))
        return [line.rstrip() for line in text.splitlines() if line.strip()][-lines:]


def wait_for_all(targets: t.Sequence[Target], until: str, seconds: float, look: Look, login: Login, abort: Abort) -> list[Outcome]:
    """Wait until every guest has reached the stage or cannot; seconds hold for all together. Outcomes come in the targets' order."""
    watch = _Watch(targets, look)
    deadline = time.monotonic() + seconds
    with concurrent.futures.ThreadPoolExecutor(max_workers=max(1, len(targets))) as pool:
        followers = [_Follower(target, until, deadline, watch, login) for target in targets]
        futures = [pool.submit(follower.follow) for follower in followers]
        try:
            while not all(future.done() for future in futures):
                watch.refresh()
                for follower in followers:
                    if follower.hopeless():
                        abort(follower.target)
                concurrent.futures.wait(futures, timeout=LOOK_INTERVAL)
        except BaseException as error:  # the threads must not wait for a look that never comes again
            watch.stop(str(error))
            for target in targets:
                abort(target)
            raise
    outcomes = [future.result() for future in futures]
    for target, outcome in zip(targets, outcomes):
        if outcome.failed:
            outcome.message = diagnosis(target, until, outcome, seconds, watch.console(target).tail())
    return outcomes


def diagnosis(target: Target, until: str, outcome: Outcome, seconds: float, console: t.Sequence[str]) -> str:
    """Return the sentence that names the stage not reached, the reason, and the console's end."""
    missing = STAGES[min(STAGES.index(outcome.stage) + 1, STAGES.index(until))]
    text = f"Guest '{target.domain}' did not reach the stage '{missing}' (wanted: '{until}', deadline {seconds:.0f} s): {outcome.why}."
    if not console:
        return f"{text} Its console {target.console_log or '(none)'} is empty: the firmware or kernel never spoke."
    return f"{text} The end of its console {target.console_log}:\n" + "\n".join(f"  | {line}" for line in console)


class _Watch:
    """What the one loop saw last; the guests' threads wait on it."""

    def __init__(self, targets: t.Sequence[Target], look: Look) -> None:
        self._look = look
        self._changed = threading.Condition()
        self._view: View | None = None
        self._stopped = ""
        self._consoles = {target.domain: Console(target.console_log) for target in targets}

    def refresh(self) -> None:
        view = self._look()
        for console in self._consoles.values():
            console.follow()
        with self._changed:
            self._view = view
            self._changed.notify_all()

    def stop(self, why: str) -> None:
        with self._changed:
            self._stopped = why or "the wait was ended"
            self._changed.notify_all()

    def console(self, target: Target) -> Console:
        return self._consoles[target.domain]

    def dead(self, target: Target) -> str:
        """Return why the guest will not come any more, or an empty string."""
        if self._stopped:
            return self._stopped
        panic = self.console(target).panic
        if panic:
            return f"its kernel panicked: {panic}"
        if self._view is None:
            return ""
        state = self._view.states.get(target.uuid)
        if state is None:
            return "the domain is gone: it was destroyed, or the guest powered itself off"
        if state in ("shutting down", "shut off"):
            return "the guest powers itself off"
        if state not in ("running", "paused"):
            return f"the domain is {state}"
        return ""

    def running(self, target: Target) -> bool:
        return self._view is not None and self._view.states.get(target.uuid) == "running"

    def address(self, target: Target) -> str:
        return self._view.addresses.get(target.mac, "") if self._view else ""

    def wait(self, seconds: float, reached: t.Callable[[], object]) -> bool:
        with self._changed:
            return bool(self._changed.wait_for(reached, timeout=max(0.0, seconds)))


class _Follower:
    """Takes one guest through its stages, in a thread of its own."""

    def __init__(self, target: Target, until: str, deadline: float, watch: _Watch, login: Login) -> None:
        self.target = target
        self._until = STAGES.index(until)
        self._deadline = deadline
        self._watch = watch
        self._login = login
        self._started = time.monotonic()
        self._outcome = Outcome(target.domain)

    def hopeless(self) -> bool:
        return bool(self._watch.dead(self.target))

    def follow(self) -> Outcome:
        steps = (("running", self._running), ("lease", self._lease), ("ssh", self._ssh))
        for stage, step in steps:
            if STAGES.index(stage) > self._until:
                break
            why = step()
            if why:
                self._outcome.why = why
                break
            if stage != "ssh":
                self._reach(stage)
        return self._outcome

    def _reach(self, stage: str) -> None:
        self._outcome.stage = stage
        self._outcome.seconds[stage] = round(time.monotonic() - self._started, 3)

    def _left(self) -> float:
        return self._deadline - time.monotonic()

    def _await(self, reached: t.Callable[[], object], otherwise: str) -> str:
        self._watch.wait(self._left(), lambda: reached() or self._watch.dead(self.target))
        dead = self._watch.dead(self.target)
        if dead:
            return dead
        return "" if reached() else otherwise

    def _running(self) -> str:
        return self._await(lambda: self._watch.running(self.target), "the domain is not running")

    def _lease(self) -> str:
        target = self.target
        if not target.network:
            return "it has no interface on a libvirt network, so no lease can be seen"
        why = self._await(
            lambda: self._watch.address(target),
            f"no DHCP lease for {target.mac} on network '{target.network}'. Did it boot, and does it ask for an address on this card?",
        )
        self._outcome.address = self._watch.address(target)
        return why

    def _ssh(self) -> str:
        """Log in, patiently: only a refused connection or a rejected key is tried again."""
        script = READY_SCRIPT if self._until == STAGES.index("ready") else ""
        patience = scaled(REJECTED_PATIENCE, self.target.accel)
        rejected_since = None
        last = f"there was no time left for a login at {self._outcome.address} port 22"
        while True:
            if self._left() <= 0:
                return last
            result = self._login(self.target, self._outcome.address, script, self._left())
            dead = self._watch.dead(self.target)
            if dead:
                return dead
            if result.accepted:
                return self._logged_in(result.out)
            kind, text = classify(result)
            if kind == "final":
                return text
            if kind == "rejected":
                rejected_since = rejected_since or time.monotonic()
                if time.monotonic() - rejected_since > patience:
                    return f"sshd at {self._outcome.address} answers, but {text}"
            last = f"{text} (at {self._outcome.address} port 22)"
            if self._left() <= PAUSES[kind]:
                return last
            self._watch.wait(PAUSES[kind], lambda: self._watch.dead(self.target))

    def _logged_in(self, out: str) -> str:
        self._reach("ssh")
        if self._until < STAGES.index("ready"):
            return ""
        why = cloud_init_errors(out)
        if not why:
            self._reach("ready")
        return why


def classify(result: LoginResult) -> tuple[str, str]:
    """Tell what ssh's failure means: refused or unsettled (try again), rejected (try a few times), final."""
    lines = result.err.strip().splitlines()
    last = lines[-1].rstrip(".") if lines else f"ssh ended with status {result.code}"
    if "Host key verification failed" in result.err:
        return "rejected", "its host key is not the one made for this guest"
    if "Permission denied" in result.err:
        return "rejected", f"it rejects the run's key: {last}"
    if any(sign in last for sign in ("Connection refused", "No route to host")):
        return "refused", "no sshd is listening"
    if any(sign in last for sign in ("Connection reset", "Connection closed", "closed by remote host", "Broken pipe")):
        return "unsettled", f"sshd ends the connection: {last}"
    if result.code == 124:  # timeout(1)
        return "final", "a login began but did not end before the deadline"
    return "final", f"the login failed: {last}"


def cloud_init_errors(out: str) -> str:
    """Return what cloud-init and its services say went wrong, or an empty string."""
    try:
        result, end = json.JSONDecoder().raw_decode(out)
        if result is None:
            return ""  # a guest without cloud-init is ready when it lets us in
        errors = result["v1"]["errors"]
    except (ValueError, KeyError, TypeError) as error:
        return f"cloud-init's result cannot be read ({error}): {out[:200]!r}"
    failed = [status for status in out[end:].split() if status != "0"]
    if errors:
        return f"cloud-init ended with errors: {'; '.join(str(error) for error in errors)}"
    if failed:
        return f"a cloud-init stage ended with status {failed[0]} (systemctl status 'cloud-*' in the guest tells more)"
    return ""
