# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Callback progress: phase, guest and elapsed time, for a person at a terminal or reading a CI log."""

from __future__ import annotations

DOCUMENTATION = r"""
name: progress
type: stdout
short_description: Phase, guest and elapsed time of a Mayfly job
version_added: 0.1.0
description:
  - Shows what a job is doing in a few lines. A line begins with the time since the playbook began, in minutes and seconds.
  - Tasks that say nothing to a person are not shown, unless they fail. C(-v) shows every task.
  - While a task is silent, a line tells every while that it is still at work.
options:
  heartbeat:
    description:
      - Seconds after which a silent task is mentioned again.
    type: int
    default: 30
    env:
      - name: MAYFLY_HEARTBEAT
    ini:
      - section: callback_mayfly_progress
        key: heartbeat
requirements:
  - set as stdout callback in the configuration
author:
  - The Mayfly authors (@mayfly)
"""

import os
import threading
import time
import typing as t

from ansible import constants as C
from ansible.plugins.callback import CallbackBase

from ..plugin_utils import _progress


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "mayfly.virt.progress"

    def __init__(self, *args: t.Any, **kwargs: t.Any) -> None:
        super().__init__(*args, **kwargs)
        self._begun = time.monotonic()
        self._task = ""
        self._task_begun = self._begun
        self._over = threading.Event()
        self._shown: list[str] = []

    # -- what happens ------------------------------------------------------------------------------------------------

    def v2_playbook_on_start(self, playbook: t.Any) -> None:
        self._begun = time.monotonic()
        threading.Thread(target=self._beat, args=(int(self.get_option("heartbeat")),), daemon=True).start()

    def v2_playbook_on_task_start(self, task: t.Any, is_conditional: bool) -> None:
        self._task, self._task_begun = task.get_name(), time.monotonic()
        if self._display.verbosity:
            self._say(f"[{self._task}]", C.COLOR_VERBOSE)

    def v2_playbook_on_handler_task_start(self, task: t.Any) -> None:
        self.v2_playbook_on_task_start(task, is_conditional=False)

    def v2_runner_on_ok(self, result: t.Any) -> None:
        self._handle_warnings(result.result)
        for line, colour in _progress.lines(result.task.resolved_action or "", result.result, self._took()):
            self._say(line, colour)
        for line in _progress.block(result.task.resolved_action or "", result.result):
            self._display.display(line)

    def v2_runner_item_on_ok(self, result: t.Any) -> None:
        self._handle_warnings(result.result)

    def v2_runner_on_skipped(self, result: t.Any) -> None:
        self._handle_warnings(result.result)

    def v2_runner_item_on_skipped(self, result: t.Any) -> None:
        self._handle_warnings(result.result)

    def v2_runner_on_failed(self, result: t.Any, ignore_errors: bool = False) -> None:
        self._handle_warnings(result.result)
        if not _progress.is_loop(result.result):  # its items have been shown
            self._fail(result, "FAILED")

    def v2_runner_item_on_failed(self, result: t.Any) -> None:
        self._handle_warnings(result.result)
        self._fail(result, "FAILED")

    def v2_runner_on_unreachable(self, result: t.Any) -> None:
        self._handle_warnings(result.result)
        self._fail(result, "UNREACHABLE")

    def v2_playbook_on_stats(self, stats: t.Any) -> None:
        self._over.set()

    # -- what is shown -----------------------------------------------------------------------------------------------

    def _took(self) -> float:
        return time.monotonic() - self._task_begun

    def _stamp(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self._begun), 60)
        return f"{minutes:3d}:{seconds:02d}"

    def _say(self, text: str, colour: str | None = None) -> None:
        for line in text.splitlines() or [""]:
            self._display.display(f"{self._stamp()}  {line}".rstrip(), color=colour)

    def _fail(self, result: t.Any, what: str) -> None:
        message = _progress.message(result.result)
        if result.task.resolved_action == "ansible.builtin.fail":  # a role or phase passes on what its tasks said
            for shown in self._shown:
                message = message.replace(shown, "")
            message = message.strip().rstrip(":")
            if not message:
                return
        self._shown.append(message)
        where = "" if result.host.get_name() == "localhost" else f" on {result.host.get_name()}"
        self._say(f"  {what}{where}: {result.task.get_name()}\n{_progress.indented(message)}", C.COLOR_ERROR)

    def _beat(self, every: int) -> None:
        """Mention a silent task. Written past Ansible's display, whose lock a forked worker must not find held by this thread."""
        mentioned = 0.0
        while not self._over.wait(1):
            silent = int(self._took())
            if silent < every or time.monotonic() - mentioned < every:
                continue
            mentioned = time.monotonic()
            os.write(1, f"{self._stamp()}    … {self._task}, {silent} s\n".encode())
