# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A libvirt that does not answer, by a double that waits until it is let go."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from ansible_collections.mayfly.virt.plugins.module_utils._errors import MayflyError
from ansible_collections.mayfly.virt.plugins.module_utils._patience import Patient, Unanswered, within


class Stuck:
    """A double of the hypervisor: about one domain it never answers."""

    uri = "qemu:///system"

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.asked: list[Any] = []
        self.closed = 0

    def states(self) -> dict[str, str]:
        self.asked.append("states")
        return {"good": "running"}

    def leases(self, networks: set[str]) -> list[str]:
        return sorted(networks)

    def condition(self, uuid: str) -> str:
        self.asked.append(uuid)
        if uuid == "bad":
            self.let_go.wait()
        return f"{uuid} is well"

    def xml(self, uuid: str) -> str:
        raise MayflyError("read domain", uuid, "the monitor is stuck")

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def stuck() -> Iterator[Stuck]:
    stuck = Stuck()
    yield stuck
    stuck.let_go.set()


def test_answers_and_errors_come_through(stuck: Stuck) -> None:
    with Patient(stuck, 5) as patient:
        assert patient.states() == {"good": "running"}
        assert patient.leases({"mayfly"}) == ["mayfly"], "asked of the daemon, though it has an argument"
        assert patient.condition("good") == "good is well"
        with pytest.raises(MayflyError, match="the monitor is stuck"):
            patient.xml("good")
    assert stuck.closed == 1


def test_a_domain_about_which_nothing_is_answered_is_not_asked_about_again(stuck: Stuck) -> None:
    began = time.monotonic()
    with Patient(stuck, 0.2) as patient:
        with pytest.raises(Unanswered) as first:
            patient.condition("bad")
        assert str(first.value).startswith("Could not ask libvirt (condition) about 'bad': libvirt has not answered within 0.2 s. ")
        with pytest.raises(Unanswered, match="libvirt has not answered before"):
            patient.xml("bad")
        assert patient.condition("good") == "good is well"
    assert stuck.asked == ["bad", "good"]
    assert stuck.closed == 0, "it would wait for what is still asked"
    assert time.monotonic() - began < 5


def test_a_dump_of_the_memory_may_take_longer(stuck: Stuck) -> None:
    stuck.dump_memory = lambda _uuid, path: time.sleep(0.3) or path  # type: ignore[attr-defined]
    assert Patient(stuck, 0.1).dump_memory("good", "/x") == "/x"


def test_what_is_raised_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 // 0, "divide", "1")
