# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the controller's actions run commands in a guest: bytes in, bytes out, and no wait without an end."""

from __future__ import annotations

import contextlib
import contextvars
import os
import queue
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleConnectionFailure

MARK = "=mayfly=\n"  # before it: whatever a login shell prints
# GitHub's runner, and Azure's, take a command in any place of a line. The other kind, ::command::, must be at its start.
CI_COMMAND = re.compile(r"##(?=\w*\[)")
STOP_INTERVAL = 0.25  # seconds between two looks at whether to go on waiting


class ContactFailed(Exception):
    """One attempt to reach the guest failed."""


def printable(text: str) -> str:
    """Make text of the guest safe for a terminal and a CI log: one line, no control characters, no command of a CI."""
    return CI_COMMAND.sub("## ", "".join(char if char.isprintable() else "\ufffd" for char in text))


def children() -> set[int]:
    """The processes this one started, as far as the kernel tells."""
    pids: set[int] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError):  # that thread has ended
            pids.update(int(pid) for pid in path.read_text().split())
    return pids


def bounded(call: Callable[[], Any], limit: float, stopped: Callable[[], Exception | None] = lambda: None) -> Any:
    """Return what the call returns; when it takes longer, end the processes it started and raise ContactFailed. What 'stopped'
    returns meanwhile is raised instead.

    A guest whose kernel hangs does not close its connections: without a limit here, ssh would wait for ever.
    """
    answers: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(1)
    context = contextvars.copy_context()

    def work() -> None:
        try:
            answers.put((context.run(call), None))
        except BaseException as error:  # raised again below, in the thread that asked
            answers.put((None, error))

    before = children()
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    end = time.monotonic() + limit
    while True:
        try:
            answer, error = answers.get(timeout=max(0.0, min(STOP_INTERVAL, end - time.monotonic())))
            break
        except queue.Empty:
            reason = stopped()
            if reason is None and time.monotonic() < end:
                continue
        for pid in children() - before:
            with contextlib.suppress(ProcessLookupError):  # it ended in between, which is what we want
                os.kill(pid, signal.SIGTERM)
        if reason is not None:
            raise reason
        # The multiplexing ssh holds our pipes, so the connection plugin may notice only at its next look, after 12 s.
        thread.join(15)
        raise ContactFailed(f"no answer within {limit:.0f} s")
    if error is not None:
        raise error
    return answer


def run_once(
    execute: Callable[[str, bytes], dict[str, Any]],
    command: str,
    data: bytes,
    limit: float,
    stopped: Callable[[], Exception | None] = lambda: None,
) -> tuple[int, bytes, str]:
    """Run a command through an action's own way to do so; return its exit status, output and error text.

    The action decodes with surrogateescape, which gives the very bytes back here.
    """
    try:
        # With data on standard input there is no pseudo-terminal, which would rewrite line ends.
        answer = bounded(lambda: execute(command, data), limit, stopped)
    except AnsibleConnectionFailure as error:
        raise ContactFailed(str(error)) from error
    status = answer["rc"]
    if status == 255 or status < 0:
        raise ContactFailed(f"the connection ended with {status}: {answer['stderr'].strip()[:500]}")
    return status, answer["stdout"].encode("utf-8", "surrogateescape"), answer["stderr"]
