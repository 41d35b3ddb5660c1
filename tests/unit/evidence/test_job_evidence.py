# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a job file says of its evidence, as it is planned and written down."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ansible_collections.mayfly.virt.plugins.module_utils._errors import InvalidInput
from ansible_collections.mayfly.virt.plugins.plugin_utils import _job


def plan(**job: Any) -> dict[str, Any]:
    return _job.plan({"name": "j", "guests": [{"name": "one", "image": "debian-12"}], **job}, "r1", "2026-01-01T12:00:00+00:00", "/src")


def test_what_is_left_out_has_its_default() -> None:
    expected = {"artifacts": [], "memory_dump": "on_crash", "memory_dump_limit_mib": 4096, "secrets": 0}
    assert plan()["evidence"] == {**expected, "keep_overlay": "never", "keep_overlay_limit_mib": 8192}


def test_secrets_are_counted_and_not_written_down() -> None:
    kept = {"memory_dump": "never", "memory_dump_limit_mib": 1, "keep_overlay": "always", "keep_overlay_limit_mib": 2}
    planned = plan(secrets=["hunter2-secret", "regex:tok_[0-9]+"], artifacts=["/var/log/*.log"], **kept)
    assert planned["evidence"] == {"artifacts": ["/var/log/*.log"], **kept, "secrets": 2}
    text = json.dumps(_job.record(planned, []))
    assert "hunter2" not in text
    assert "tok_" not in text


@pytest.mark.parametrize(
    ("job", "words"),
    [
        ({"artifacts": ["log"]}, "Path 'log' is refused: it is not absolute"),
        ({"secrets": ["abcdefg", "abc"]}, "Secret 'number 2' is refused"),
        ({"memory_dump": "sometimes"}, "Choose one of on_crash, never, always"),
        ({"keep_overlay": "sometimes"}, "Overlay 'sometimes' is refused"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_made(job: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        plan(**job)
    assert words in str(refused.value)
    assert "abc" not in str(refused.value)
