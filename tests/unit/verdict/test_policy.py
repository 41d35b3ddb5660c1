# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a job decides about its verdict: what else is red, the baseline, and the files they are read from."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible import constants
from ansible.errors import AnsibleLookupError

from ansible_collections.mayfly.virt.plugins.lookup import policy as lookup
from ansible_collections.mayfly.virt.plugins.module_utils import _baseline, _outcome, _policy, _summary
from ansible_collections.mayfly.virt.plugins.module_utils._errors import InvalidInput, MayflyError
from ansible_collections.mayfly.virt.plugins.plugin_utils import _job, _sources

Sound = Callable[[dict[str, Any]], None]


# --- fail_on --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "directive"), [("flaky", None), ("xpass", "TODO"), ("not_run", "requires"), ("not_run", "denied")])
def test_red_only_where_the_job_says_so(status: str, directive: str | None) -> None:
    test = {"status": status, "directive": directive}
    assert not _outcome.is_red(test)
    assert _outcome.is_red(test, [status])
    assert not _outcome.is_red(test, [other for other in _outcome.FAIL_ON if other != status])


@pytest.mark.parametrize(
    ("status", "directive"),
    [("fail", None), ("error", None), ("timeout", None), ("not_run", None), ("not_run", "fail_fast"), ("not_run", "deadline")],
)
def test_red_whatever_the_job_says(status: str, directive: str | None) -> None:
    assert _outcome.is_red({"status": status, "directive": directive})


@pytest.mark.parametrize("status", ["flaky", "xpass"])
def test_a_job_that_calls_it_red(story: Any, sound: Sound, status: str) -> None:
    story.smoke[2].update(status=status)
    assert story.verdict()["verdict"] == "passed"
    story.job["policy"] = {"fail_on": [status]}
    verdict = story.verdict()
    sound(verdict)
    assert (verdict["exit_code"], verdict["suites"][0]["status"]) == (1, "failed")
    assert verdict["reasons"][0].startswith(f"smoke@bookworm: fail_on {status}: 1 test ")
    assert verdict["reasons"][0].endswith(": test 1")
    assert f"  smoke@bookworm  1 test 1  {status.upper()}" in _summary.to_summary(verdict)


def test_a_run_that_tested_nothing_is_no_mere_failure(story: Any, sound: Sound) -> None:
    for event in story.smoke[2:5]:
        event.update(status="skip")
    story.job["policy"] = {"fail_on": ["not_run", "flaky"]}
    verdict = story.verdict()
    sound(verdict)
    assert (verdict["exit_code"], verdict["reasons"]) == (2, ["nothing was tested: every suite was skipped"])


@pytest.mark.parametrize("value", ["flaky", ["new_failures_only"], [3], [["flaky"]], {"flaky": True}])
def test_an_odd_fail_on_is_refused(story: Any, sound: Sound, value: Any) -> None:
    with pytest.raises(InvalidInput, match="mayfly_fail_on"):
        _policy.check_fail_on(value)
    story.job["policy"] = {"fail_on": value}
    verdict = story.verdict()
    sound(verdict)
    assert verdict["exit_code"] == 2


@pytest.mark.parametrize("policy", [[], "x", {"baseline": {}}, {"baseline": []}, {"known_issues": "x"}])
def test_a_policy_that_cannot_be_read_is_an_error(story: Any, sound: Sound, policy: Any) -> None:
    story.job["policy"] = policy
    verdict = story.verdict()
    sound(verdict)
    assert verdict["exit_code"] == 2


# --- baseline -------------------------------------------------------------------------------------------------------


def baseline_of(story: Any) -> dict[str, Any]:
    return _baseline.read_baseline(json.dumps(story.verdict()), "before.json")


def with_baseline(story: Any, spoil: Callable[[Any], Any], new_story: type, fail_on: list[str] | None = None) -> dict[str, Any]:
    """Judge the story by a baseline that is spoiled."""
    before = new_story()
    spoil(before)
    story.job["policy"] = {"baseline": baseline_of(before), "fail_on": fail_on or []}
    verdict: dict[str, Any] = story.verdict()
    return verdict


def counts(verdict: dict[str, Any]) -> dict[str, int]:
    return {kind: count for kind, count in verdict["baseline"]["counts"].items() if count}


def test_nothing_has_changed(story: Any, new_story: type, sound: Sound) -> None:
    verdict = with_baseline(story, lambda _before: None, new_story)
    sound(verdict)
    assert counts(verdict) == {"compared": 3}
    assert "Baseline  20261121-024300-1f2e: nothing changed in 3 tests\n" in _summary.to_summary(verdict)


def test_what_has_changed(story: Any, new_story: type, sound: Sound) -> None:
    def before(other: Any) -> None:
        other.fail(2)
        for number, name in ((1, "gone"), (3, "skipped now")):
            other.smoke[number + 1]["name"] = name

    story.smoke[2]["name"] = "new and failing"
    story.fail(1)
    story.smoke[4].update(name="skipped now", status="skip")
    verdict = with_baseline(story, before, new_story)
    sound(verdict)
    assert counts(verdict) == {"newly_failing": 1, "newly_passing": 1, "newly_skipped": 1, "lost": 1, "added": 1, "compared": 2}
    changes = {kind: [(entry["name"], entry["was"], entry["now"]) for entry in verdict["baseline"][kind]] for kind in _baseline.KINDS}
    assert changes == {
        "newly_failing": [("new and failing", None, "fail")],
        "newly_passing": [("test 2", "fail", "pass")],
        "newly_skipped": [("skipped now", "pass", "skip")],
        "lost": [("gone", "pass", None)],
    }
    said = "Baseline  20261121-024300-1f2e: 1 newly failing, 1 newly passing, 1 newly skipped, 1 lost\n"
    assert said in _summary.to_summary(verdict)


def test_lost_tests_are_red_when_asked(story: Any, new_story: type, sound: Sound) -> None:
    def before(other: Any) -> None:
        other.job["suites"].append({"name": "second"})
        other.events["second", "bookworm"] = other.good_events("second")

    verdict = with_baseline(story, before, new_story)
    assert (verdict["verdict"], counts(verdict)) == ("passed", {"lost": 3, "compared": 3})
    verdict = with_baseline(story, before, new_story, ["lost"])
    sound(verdict)
    assert (verdict["exit_code"], verdict["suites"][0]["status"]) == (1, "passed")
    said = "baseline 20261121-024300-1f2e: 3 of its tests are gone: second@bookworm test 1, second@bookworm test 2, second@bookworm test 3"
    assert verdict["reasons"] == [said]


def test_tests_of_one_name_are_told_apart(story: Any, new_story: type) -> None:
    def same(other: Any) -> None:
        for event in other.smoke[2:5]:
            event["name"] = "same"

    same(story)
    story.fail(2)
    verdict = with_baseline(story, same, new_story)
    assert counts(verdict) == {"newly_failing": 1, "compared": 3}
    assert verdict["baseline"]["newly_failing"][0]["name"] == "same [2]"


def test_a_torn_run_loses_its_tests(story: Any, new_story: type, sound: Sound) -> None:
    del story.smoke[3:]
    verdict = with_baseline(story, lambda _before: None, new_story, ["lost"])
    sound(verdict)
    assert (verdict["exit_code"], counts(verdict)) == (2, {"lost": 2, "compared": 1})


def test_many_changes_are_counted_and_some_are_listed() -> None:
    names = [f"test {number}" for number in range(1000)]
    baseline = {"source": "x", "run_id": "r", "verdict": "passed", "started": None, "tests": {"s": {"g": {"pass": names}}}}
    compared = _baseline.compare(baseline, [])
    assert (compared["counts"]["lost"], len(compared["lost"])) == (1000, _baseline.LISTED)
    assert _baseline.lost_reason(compared).endswith("s@g test 0, s@g test 1, s@g test 2 and 997 more")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "no JSON"),
        ("[]", "no verdict.json"),
        ('{"schema": 2, "suites": []}', "no verdict.json with schema 1"),
        ('{"schema": 1, "suites": [3]}', "a suite without"),
        ('{"schema": 1, "suites": []}', "which run"),
        ('{"schema": 1, "run_id": "a", "verdict": "passed", "suites": []}', "it has no tests"),
    ],
)
def test_what_is_no_baseline(text: str, words: str) -> None:
    with pytest.raises(MayflyError, match=r"before\.json") as caught:
        _baseline.read_baseline(text, "before.json")
    assert words in str(caught.value)


# --- where they are read --------------------------------------------------------------------------------------------


@pytest.fixture
def policy() -> Callable[..., dict[str, Any]]:
    """The lookup with its options as Ansible knows them, without Ansible's loader."""
    options = yaml.safe_load(lookup.DOCUMENTATION)["options"]
    constants.config.initialize_plugin_configuration_definitions("lookup", "mayfly.virt.policy", options)
    plugin = lookup.LookupModule()
    plugin._load_name = "mayfly.virt.policy"
    return lambda **options: plugin.run([], variables={}, **options)[0]


def test_without_a_word_there_is_no_policy(policy: Callable[..., Any]) -> None:
    assert policy() == {"known_issues": [], "fail_on": [], "baseline": None}


def test_the_policy_of_a_job_goes_into_its_plan(policy: Callable[..., Any], tmp_path: Path, story: Any, sound: Sound) -> None:
    known = tmp_path / "known.yml"
    known.write_text("- id: bpf-12\n  issue: https://example.org/12\n  owner: net\n  review_by: 2026-12-31\n  signature:\n    - 'got: 3'\n")
    before = tmp_path / "verdict.json"
    before.write_text(json.dumps(story.verdict()))
    found = policy(known_issues=str(known), baseline=str(before), fail_on=["lost"])
    job = {"name": "smoke", "guests": [{"name": "bookworm", "image": "debian-12"}], "policy": found}
    plan = _job.plan(job, "r1", "2026-11-21T02:43:00+00:00", str(tmp_path))
    story.job["policy"] = json.loads(json.dumps(_job.record(plan, [])))["policy"]
    story.fail(2, "got: 3")
    verdict = story.verdict()
    sound(verdict)
    assert (verdict["verdict"], verdict["policy"]) == ("passed", {"fail_on": ["lost"]})
    assert verdict["known_issues"][0]["matched"] == 1
    assert verdict["baseline"]["counts"]["compared"] == 3
    assert "policy" not in verdict["environment"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "Could not read the known issues"),
        (b"- [", "the file is no YAML"),
        (b"\xff", "it is not UTF-8"),
        (b"- id: x\n", "its issue is no http or https URL"),
        (b"#" * (_sources.KNOWN_LIMIT + 1), "larger than 1 MiB"),
        (b"[" * 10_000, "nested too deeply"),
        (b"!!python/object/apply:os.system [id]", "the file is no YAML"),
    ],
)
def test_a_bad_file_of_known_issues_is_one_clear_error(
    policy: Callable[..., Any], tmp_path: Path, content: bytes | None, words: str
) -> None:
    path = tmp_path / "known.yml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(AnsibleLookupError, match=r"known\.yml") as caught:
        policy(known_issues=str(path))
    assert words in str(caught.value)


def test_several_files_of_known_issues(policy: Callable[..., Any], tmp_path: Path) -> None:
    entry = "- {id: %s, issue: 'https://example.org/12', owner: net, review_by: 2026-12-31, signature: 'got: 3'}\n"
    one, two = tmp_path / "one.yml", tmp_path / "two.yml"
    one.write_text(entry % "a")
    two.write_text(entry % "b")
    shipped = "mayfly.virt:libvirt-tck.yml"
    found = policy(known_issues=[str(one), "", shipped, str(two), str(one)])["known_issues"]
    ids = [entry["id"] for entry in found]
    assert (ids[0], ids[-1], len(ids)) == ("a", "b", len(set(ids)))
    assert len(ids) > 2
    two.write_text(entry % "tck-cd-tray")
    with pytest.raises(AnsibleLookupError, match=rf"two\.yml \(tck-cd-tray\)' is refused: '{shipped}' has this id too\. Ids are unique\."):
        policy(known_issues=[shipped, str(two)])


@pytest.mark.parametrize("name", ["", "libvirt-tck", "../../galaxy.yml", "x.yml"])
def test_only_what_the_collection_brings(policy: Callable[..., Any], name: str) -> None:
    with pytest.raises(AnsibleLookupError, match=r"brings no such file\. It brings mayfly\.virt:libvirt-tck\.yml\."):
        policy(known_issues=[f"mayfly.virt:{name}"])


@pytest.fixture
def server(story: Any) -> Iterator[str]:
    """Serve a verdict at /verdict.json, garbage at /garbage and nothing elsewhere."""
    pages = {"/verdict.json": json.dumps(story.verdict()).encode(), "/garbage": b"<html>"}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = pages.get(self.path.partition("?")[0])
            self.send_response(200 if page else 404)
            self.end_headers()
            self.wfile.write(page or b"")

        def log_message(self, *_args: Any) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


def test_a_baseline_from_an_address_without_its_secrets(policy: Callable[..., Any], server: str) -> None:
    found = policy(baseline=f"{server.replace('//', '//user:secret@')}/verdict.json?private_token=secret#x")["baseline"]
    assert found["source"] == f"{server}/verdict.json"
    assert found["tests"] == {"smoke": {"bookworm": {"pass": ["test 1", "test 2", "test 3"]}}}
    assert "secret" not in json.dumps(found)


@pytest.mark.parametrize("path", ["/missing?token=secret", "/garbage?token=secret"])
def test_a_baseline_that_cannot_be_read_is_an_error(policy: Callable[..., Any], server: str, path: str) -> None:
    with pytest.raises(AnsibleLookupError, match="baseline") as caught:
        policy(baseline=server + path)
    assert "secret" not in str(caught.value)


def test_a_baseline_that_is_not_there_is_an_error(policy: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(AnsibleLookupError, match=r"No such file or directory\. Leave mayfly_baseline out"):
        policy(baseline=str(tmp_path / "verdict.json"))
