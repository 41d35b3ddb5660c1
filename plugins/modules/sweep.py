#!/usr/bin/python
# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module sweep: remove what nobody removed."""

from __future__ import annotations

DOCUMENTATION = r"""
module: sweep
short_description: Remove runs that were left behind
version_added: 0.1.0
description:
  - Finds runs whose deadline has passed, whose owner process is gone, which the host was booted since, domains whose run directory is gone,
    run directories without domain, and what killed processes left half-made. Removes them with domains, leases and files.
  - Only domains that carry Mayfly's tag for this O(state_dir), and files below it, are ever touched.
extends_documentation_fragment:
  - mayfly.virt._attributes
  - mayfly.virt._virt
options:
  runs:
    description:
      - Ids of runs that are removed whatever their deadline. With this option no other run is looked at.
    type: list
    elements: str
  grace:
    description:
      - Seconds that a run directory without domain, or a half-made file, is left alone since it was last touched.
    type: int
    default: 900
  dry_run:
    description:
      - Only list what would be removed, and why. The same as check mode, for use from a command line.
    type: bool
    default: false
author:
  - The Mayfly authors (@mayfly)
"""

EXAMPLES = r"""
---
- name: Remove what is stale
  mayfly.virt.sweep:

- name: Remove one run at once
  mayfly.virt.sweep:
    runs: [20260101-120000-ab12]
"""

RETURN = r"""
actions:
  description: What was done, or would be in check mode or a dry run, in words and with the reason.
  returned: success
  type: list
  elements: str
  sample: ["remove domain old-20260101-120000-ab12 (its deadline 2026-01-01T13:00:00+00:00 has passed)"]
results:
  description: One entry for each run removed, and one for each stray file.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Id of the run, or the file.
      type: str
    changed:
      description: Whether there was anything to remove.
      type: bool
    reason:
      description: Why it goes.
      type: str
    domains:
      description: Names of its domains.
      type: list
      elements: str
    error:
      description: Why it could not be removed. The other runs are removed all the same, then the task fails.
      type: str
  sample:
    - name: 20260101-120000-ab12
      changed: true
      actions: ["remove domain old-20260101-120000-ab12 (its deadline 2026-01-01T13:00:00+00:00 has passed)"]
      reason: its deadline 2026-01-01T13:00:00+00:00 has passed
      domains: [old-20260101-120000-ab12]
      error: ""
"""

import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import _module, _purge
from ..module_utils._errors import MayflyError
from ..module_utils._libvirt import Hypervisor
from ..module_utils._names import check_run_id
from ..module_utils._plan import Action
from ..module_utils._purge import Stale
from ..module_utils._run import utc_now


class Sweep:
    """Finds what is stale, then removes run by run."""

    def __init__(self, module: AnsibleModule, hypervisor: Hypervisor) -> None:
        self._dry = module.check_mode or module.params["dry_run"]
        self._params = module.params
        self._hypervisor = hypervisor
        self._state_dir = _module.state_dir(module)
        self._tools = _module.Tools(module)

    def run(self) -> tuple[list[Action], list[dict[str, t.Any]]]:
        actions: list[Action] = []
        results = []
        for stale in self._stale():
            steps, result = self._run(stale)
            actions += steps
            results.append(result)
        for path in _purge.rubbish(self._state_dir, self._params["grace"], self._tools.run):
            step, result = self._stray(path)
            actions.append(step)
            results.append(result)
        return actions, results

    def _stale(self) -> list[Stale]:
        if self._params["runs"] is not None:
            return [Stale(run, "its removal was asked for") for run in self._params["runs"]]
        domains = _purge.owned(self._hypervisor.domains(), self._state_dir)
        return _purge.current_stale(domains, self._state_dir, utc_now(), self._params["grace"])

    def _still(self, stale: Stale) -> bool:
        return stale.id in {each.id for each in self._stale()}

    def _run(self, stale: Stale) -> tuple[list[Action], dict[str, t.Any]]:
        there = _purge.belongings(self._hypervisor, self._state_dir, stale.id)
        steps = _purge.actions(stale.id, stale.reason, there)
        error = ""
        if not self._dry:
            try:
                gone = _purge.purge(self._hypervisor, self._state_dir, stale.id, self._tools.run, lambda: self._still(stale))
                steps = steps if gone else []
            except (MayflyError, OSError) as problem:
                error = str(problem)
        names = [domain.name for domain in there.domains]
        return steps, _module.entry(stale.id, steps, reason=stale.reason, domains=names, error=error)

    def _stray(self, path: Path) -> tuple[Action, dict[str, t.Any]]:
        step = Action("remove", "file", str(path), "half-made, and nobody works on it", before=f"{path}\n")
        error = ""
        if not self._dry:
            try:
                _purge.remove_rubbish(path)
            except (MayflyError, OSError) as problem:
                error = str(problem)
        return step, _module.entry(str(path), [step], reason=step.reason, domains=[], error=error)


def main() -> None:
    module = _module.make_module(
        {
            "runs": {"type": "list", "elements": "str"},
            "grace": {"type": "int", "default": 900},
            "dry_run": {"type": "bool", "default": False},
        },
    )
    with _module.failing(module), Hypervisor.open(module.params["uri"]) as hypervisor:
        for run in module.params["runs"] or []:
            check_run_id(run)
        actions, results = Sweep(module, hypervisor).run()
    answer = _module.result(actions, results)
    if module.params["dry_run"]:
        answer["changed"] = False
    errors = [result["error"] for result in results if result["error"]]
    if errors:
        module.fail_json(msg="\n".join(errors), **answer)
    module.exit_json(**answer)


if __name__ == "__main__":
    main()
