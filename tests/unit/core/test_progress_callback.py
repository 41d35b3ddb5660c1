# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the callback progress says of failures: each once, and never one less than there are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.mayfly.virt.plugins.callback.progress import CallbackModule


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(CallbackModule, "_say", lambda _self, text, _colour=None: lines.append(text))
    return lines


def failure(host: str, message: str, action: str = "ansible.builtin.command") -> Any:
    task = SimpleNamespace(resolved_action=action, get_name=lambda: "a task")
    return SimpleNamespace(task=task, host=SimpleNamespace(get_name=lambda: host), result={"msg": message})


def test_the_same_failure_on_two_guests_is_two(said: list[str]) -> None:
    callback = CallbackModule()
    for host in ("one", "two"):
        callback._fail(failure(host, "non-zero return code"), "FAILED")
    assert ["on one" in text for text in said] == [True, False]
    assert "on two" in said[1]


def test_what_a_role_passes_on_is_said_once(said: list[str]) -> None:
    callback = CallbackModule()
    callback._fail(failure("one", "Could not run a."), "FAILED")
    callback._fail(failure("one", "1 of 2 suites failed: Could not run a.", "ansible.builtin.fail"), "FAILED")
    callback._fail(failure("localhost", "Could not run a.", "ansible.builtin.fail"), "FAILED")
    assert len(said) == 2
    assert said[1].endswith("1 of 2 suites failed")
