#!/usr/bin/python
# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module watch: read the consoles of a run's guests while it lives."""

from __future__ import annotations

DOCUMENTATION = r"""
module: watch
short_description: Watch the consoles of a run's guests
version_added: 0.2.0
description:
  - Starts and ends the watcher of a run, a process on the hypervisor that outlives the task. It reads the consoles of the run's
    guests as they grow, hears what libvirt tells of their domains (a panic, a shutdown, a watchdog, an I/O error), and writes both
    line by line to C(watch.jsonl) in the run's directory, where M(mayfly.virt.suite) sees it at once. Each console is kept a second
    time with the time of each line.
  - The watcher ends by itself when the run is removed, its deadline has passed or its owner is gone.
  - A watcher that was killed leaves no C(watch_end); M(mayfly.virt.verdict) then calls no console quiet.
extends_documentation_fragment:
  - mayfly.virt._attributes
  - mayfly.virt._virt
options:
  run:
    description:
      - Id of the run.
    type: str
    required: true
  state:
    description:
      - Whether there shall be a watcher.
    type: str
    choices: [present, absent]
    default: present
  stop_on:
    description:
      - What ends the suites of a guest at once. V(panic) is the death of its kernel or its domain, V(trouble) any complaint of its
        kernel that O(allow) does not cover, too.
      - When it is left out, it is what the run's last watcher was told, and V(panic) if there was none.
    type: str
    choices: [panic, trouble, never]
  allow:
    description:
      - Complaints of the kernel that are accepted. A panic never is.
    type: list
    elements: dict
    default: []
    suboptions:
      pattern:
        description:
          - Regular expression (Python), searched in the complaint's headline and in the names of the innermost functions of its call trace.
        type: str
        required: true
      reason:
        description:
          - Why it is accepted, best with a link.
        type: str
        required: true
      expires:
        description:
          - The last day on which it is accepted, such as V(2026-12-31).
        type: str
        required: true
  secrets:
    description:
      - Texts that must not come into C(watch.jsonl), each of at least 4 characters, or C(regex:) and a regular expression (Python).
        Common kinds of secrets are known without it. What is a complaint is decided before.
    type: list
    elements: str
    default: []
author:
  - The Mayfly authors (@mayfly)
"""

EXAMPLES = r"""
---
- name: Watch the consoles
  mayfly.virt.watch:
    run: 20260101-120000-ab12
    stop_on: trouble
    allow:
      - pattern: 'WARNING: .* at kernel/bpf/verifier\.c'
        reason: https://bugs.example.org/123
        expires: "2026-12-31"

- name: End the watch
  mayfly.virt.watch:
    run: 20260101-120000-ab12
    state: absent
  register: watched
"""

RETURN = r"""
actions:
  description: What was done, or would be in check mode, in words.
  returned: success
  type: list
  elements: str
  sample: ["create watcher 20260101-120000-ab12"]
pid:
  description: Number of the watcher's process.
  returned: when there is one
  type: int
  sample: 4711
complete:
  description: Whether everything was seen from beginning to end. Only known when the watch has ended.
  returned: O(state=absent)
  type: bool
  sample: true
results:
  description: One entry for each guest.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name of the guest.
      type: str
    changed:
      description: Whether its watch was begun or ended.
      type: bool
    dead:
      description: Whether its kernel has died, as far as was seen.
      type: bool
    events:
      description: What was seen of it, the first hundred.
      type: list
      elements: dict
  sample:
    - name: bookworm
      changed: true
      dead: false
      events: []
"""

import functools
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import _module, _watch
from ..module_utils._console import in_force, read_allowances
from ..module_utils._errors import MayflyError
from ..module_utils._libvirt import Events, Hypervisor
from ..module_utils._names import check_run_id
from ..module_utils._plan import Action
from ..module_utils._purge import owned
from ..module_utils._run import RunPaths, utc_now
from ..module_utils._scrub import job_patterns

RETURNED_EVENTS = 100

OPTIONS: dict[str, t.Any] = {
    "run": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "stop_on": {"type": "str", "choices": list(_watch.STOP_ON)},
    "allow": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {name: {"type": "str", "required": True} for name in ("pattern", "reason", "expires")},
    },
    "secrets": {"type": "list", "elements": "str", "default": [], "no_log": True},
}


def find_guests(module: AnsibleModule, paths: _watch.WatchPaths) -> list[_watch.Watched]:
    """Return the guests of the run that have a domain."""
    with Hypervisor.open(module.params["uri"]) as hypervisor:
        domains = owned(hypervisor.domains(), paths.run.state_dir, paths.run.run)
    if not domains and not module.check_mode:  # where the guests are predicted, so is their watcher
        raise MayflyError("watch run", paths.run.run, "it has no running guest", "Make its guests first.")
    guests = [_watch.Watched(domain.tag.guest, domain.name, domain.uuid) for domain in domains if domain.tag]
    return sorted(guests, key=lambda guest: guest.guest)


def present(module: AnsibleModule, paths: _watch.WatchPaths) -> dict[str, t.Any]:
    allowances = in_force(read_allowances(module.params["allow"]), utc_now().date())
    secrets = job_patterns(module.params["secrets"])
    guests = find_guests(module, paths)
    process = _watch.read_process(paths)
    alive = process is not None and process.alive()
    if process and alive and set(process.guests) == {guest.uuid for guest in guests}:
        steps = [Action("keep", "watcher", paths.run.run)]
        return {"steps": steps, "pid": process.pid, "guests": guests}
    steps = [Action("create", "watcher", paths.run.run, after="".join(f"{guest.guest}\n" for guest in guests))]
    if module.check_mode:
        return {"steps": steps, "guests": guests}
    if process and alive:  # it watches other guests
        _watch.stop(process)
    stop_on = module.params["stop_on"] or _watch.last_stop_on(paths) or "panic"
    listen = functools.partial(Events, module.params["uri"])
    pid = _watch.start(paths, guests, lambda: _watch.Watcher(paths, guests, stop_on, allowances, listen, secrets))
    return {"steps": steps, "pid": pid, "guests": guests}


def absent(module: AnsibleModule, paths: _watch.WatchPaths) -> dict[str, t.Any]:
    process = _watch.read_process(paths)
    alive = process is not None and process.alive()
    steps = [Action("remove" if alive else "keep", "watcher", paths.run.run, before=f"process {process.pid}\n" if process else "")]
    if process and alive and not module.check_mode:
        _watch.stop(process)
    return {"steps": steps, "guests": []}


def entries(steps: list[Action], guests: t.Iterable[str], events: list[dict[str, t.Any]]) -> list[dict[str, t.Any]]:
    """Return what was seen of each guest."""
    results = []
    for guest in guests:
        seen = [event for event in events if event.get("guest") == guest]
        dead = any(event.get("fatal") for event in seen)
        results.append(_module.entry(guest, steps, dead=dead, events=seen[:RETURNED_EVENTS]))
    return results


def main() -> None:
    module = _module.make_module(OPTIONS)
    with _module.failing(module):
        paths = _watch.WatchPaths(RunPaths(_module.state_dir(module), check_run_id(module.params["run"])))
        done = (present if module.params["state"] == "present" else absent)(module, paths)
        events = _watch.read_events(paths)
    answer = _module.result(done["steps"], [])
    if module.params["state"] == "present":
        answer["results"] = entries(done["steps"], [guest.guest for guest in done["guests"]], [])
        if "pid" in done:
            answer["pid"] = done["pid"]
    else:
        watched = events[0]["guests"] if events else []
        answer["results"] = entries(done["steps"], watched, events)
        answer["complete"] = bool(events) and events[-1]["event"] == "watch_end"
    module.exit_json(**answer)


if __name__ == "__main__":
    main()
