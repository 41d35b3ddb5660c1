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


KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmU\n-----END OPENSSH PRIVATE KEY-----"
SECRETS = ["hunter2", "hunter2-and-more", KEY]
SUITE = {
    "name": "smoke",
    "command": "echo hunter2-and-more hunter2",
    "environment": {"TOKEN": "hunter2", "KEY": KEY, "hunter2": "a name, too"},
    "deadline": 30,
}
GUEST = {"name": "one", "image": "debian-12", "cmdline": "token=hunter2", "seed": {"user_data": {"runcmd": [["echo", "hunter2"]]}}}


def test_job_json_has_numbers_in_place_of_secrets_and_a_later_phase_has_the_secrets_back() -> None:
    planned = plan(secrets=SECRETS, suites=[SUITE], guests=[GUEST], artifacts=["/var/log/hunter2/*"])
    made = [{"name": "one-r1", "stage": "boot", "message": "the console says hunter2, PASSWORD=sesame and no more"}]
    text = json.dumps(_job.record(planned, made, SECRETS))
    for secret in ("hunter2", "b3BlbnNz", "PRIVATE KEY", "sesame"):
        assert secret not in text
    written = json.loads(text)
    assert written["suites"][0]["command"] == "echo [mayfly_secrets 2.1] [mayfly_secrets 1.1]"
    assert written["suites"][0]["environment"]["KEY"] == "[mayfly_secrets 3.1]\n[mayfly_secrets 3.2]\n[mayfly_secrets 3.3]"
    assert written["guests"][0]["message"] == "the console says [scrubbed: job secret], PASSWORD=[scrubbed: password] and no more"
    again = _job.read(written, SECRETS)
    assert (again["suites"], again["evidence"]) == (planned["suites"], planned["evidence"])
    assert again["guests"][0]["options"] == planned["guests"][0]["options"]
    assert _job.read(written, []) == written, "enough to clean up"


def test_a_secret_that_has_become_another_is_told() -> None:
    written = _job.record(plan(secrets=SECRETS, suites=[SUITE]), [], SECRETS)
    assert _job.read(written, ["sesame", *SECRETS[1:]])["suites"][0]["environment"]["TOKEN"] == "sesame"
    with pytest.raises(InvalidInput, match="its line 2 was used by the job, and it has none now"):
        _job.read(written, [*SECRETS[:2], "of one line"])


@pytest.mark.parametrize(
    ("job", "words"),
    [
        ({"secrets": ["debian"]}, "Secret 'number 1' is refused: it is in the job's images[0].name"),
        ({"secrets": ["nothing", "smoke"], "suites": [SUITE]}, "Secret 'number 2' is refused: it is in the job's suites[0].name"),
        ({"secrets": ["regex:hunter[0-9]"], "suites": [SUITE]}, "it is in the job's suites[0].command, and would be written down with it"),
        ({"suites": [{**SUITE, "environment": {"T": "glpat-" + "a1" * 12}}]}, "suites[0].environment.T has what looks like a gitlab token"),
        ({"guests": [{**GUEST, "seed": {"keys": [KEY]}}]}, "guests[0].options.seed.keys[0] has what looks like a private key"),
        ({"secrets": ["sesame"], "suites": [{**SUITE, "command": "echo [mayfly_secrets 1.1]"}]}, "which stands for a secret"),
    ],
)
def test_what_would_be_written_down_all_the_same_is_refused(job: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        plan(**job)
    assert words in str(refused.value)
    assert "hunter" not in str(refused.value)
    assert "b3Blb" not in str(refused.value)


def test_a_text_that_only_might_be_a_secret_is_the_jobs_own_business() -> None:
    suite = {
        "name": "smoke",
        "environment": {"PGPASSWORD": "postgres"},
        "command": 'curl -H "Authorization: Bearer $TOKEN" --password "$1" https://$USER:$TOKEN@example.org/',
    }
    assert _job.record(plan(suites=[suite]), [])["suites"][0].items() >= suite.items()
