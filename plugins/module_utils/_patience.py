# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""No wait for libvirt without an end.

A call of libvirt's returns when its daemon answers, which one that hangs never does, and one that waits for a QEMU that hangs does not
either. Such a call cannot be taken back: it is left to its thread, which ends with the process.
"""

from __future__ import annotations

import queue
import threading
import typing as t

from ._errors import MayflyError

ANSWER_TIMEOUT = 60  # seconds

_REMEDY = "Look whether the libvirt daemon or the QEMU of this domain hangs; a daemon can be restarted without harm to its domains."
_LONGER = {"dump_memory": 10}  # times as long: it is given when all of it is written


class Unanswered(MayflyError):
    """libvirt did not answer in time."""


def within(seconds: float, call: t.Callable[[], t.Any], attempted: str, target: str) -> t.Any:
    """Return what the call returns, or raise Unanswered."""
    answers: queue.Queue[tuple[t.Any, BaseException | None]] = queue.Queue(1)

    def work() -> None:
        try:
            answers.put((call(), None))
        except BaseException as error:  # raised again below, in the thread that asked
            answers.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        answer, error = answers.get(timeout=seconds)
    except queue.Empty:
        raise Unanswered(attempted, target, f"libvirt has not answered within {seconds:g} s", _REMEDY) from None
    if error is not None:
        raise error
    return answer


class Patient:
    """A hypervisor each of whose answers is waited for only so long. A domain about which it did not answer is not asked about again."""

    def __init__(self, hypervisor: t.Any, seconds: float) -> None:
        self._hypervisor = hypervisor
        self._seconds = seconds
        self._silent: set[str] = set()

    def __enter__(self) -> Patient:
        return self

    def __exit__(self, *_unused: object) -> None:
        if not self._silent:  # else closing would wait for what is still asked
            within(self._seconds, self._hypervisor.close, "close the connection to", self._hypervisor.uri)

    def __getattr__(self, name: str) -> t.Any:
        method = getattr(self._hypervisor, name)

        def call(*arguments: t.Any) -> t.Any:
            # What is asked about a domain has its uuid first; all else is about the daemon.
            about = arguments[0] if arguments and isinstance(arguments[0], str) else self._hypervisor.uri
            attempted = f"ask libvirt ({name}) about"
            if about in self._silent:
                raise Unanswered(attempted, about, "libvirt has not answered before", _REMEDY)
            try:
                return within(self._seconds * _LONGER.get(name, 1), lambda: method(*arguments), attempted, about)
            except Unanswered:
                self._silent.add(about)
                raise

        return call
