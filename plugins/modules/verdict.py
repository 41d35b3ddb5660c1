#!/usr/bin/python
# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module mayfly.virt.verdict: judge a run by what it left behind."""

from __future__ import annotations

DOCUMENTATION = r"""
module: verdict
short_description: Turn the results of a run into a verdict
version_added: 0.1.0
description:
  - Reads the results directory of a run and writes C(verdict.json), C(junit.xml), C(summary.txt), C(report.html) and
    C(step-summary.md) into it. C(extensions/schemas/verdict.schema.json) in this collection is the JSON schema of C(verdict.json).
  - Each suite that was asked for on a guest needs a complete and consistent result; a missing, torn or contradictory
    one makes the verdict V(error), never V(passed).
  - The consoles of the guests are searched for kernel panics, oopses, warnings, stalls and lockups. Any of them makes
    the verdict at least V(failed), whatever the suites say.
  - A kernel panic explains why the suites on that guest have no complete result and why the phases C(run) and C(collect)
    failed there, so all this together is V(failed) and not V(error), for it is the tested kernel that said no.
  - Where the logs of libvirt's daemons and of QEMU were kept of a failed test, the daemon's first error of that test is its clue, and
    C(report.html) has them to unfold, with core dumps and backtraces first.
  - C(report.html) is one page for people. It loads nothing and needs no network. It shows the ends of long logs, and the
    neighbourhood of what a kernel complained of.
  - What the job has decided about its verdict (known issues, baseline, what else is red) is read from C(job.json), too.
  - A red verdict does not fail the task. Test RV(exit_code) where the job should end.
author:
  - The Mayfly authors (@mayfly)
options:
  results:
    description:
      - The results directory of the run, on the host the module runs on, which is the controller.
      - It holds C(job.json) and C(phases.jsonl) and the directories C(suites) and C(guests).
    type: path
    required: true
  project_dir:
    description:
      - The directory of a GitLab project, its C(CI_PROJECT_DIR). When the results are below it, C(junit.xml) links the log of
        each failed test the way GitLab shows attachments.
    type: path
  step_summary:
    description:
      - The file named by C(GITHUB_STEP_SUMMARY). C(step-summary.md) is appended to it, unless it is in it already or does not fit.
    type: path
attributes:
  check_mode:
    description: Can run in check mode and return the same verdict without writing a file.
    support: full
  diff_mode:
    description: Returns details on what has changed when in diff mode.
    support: none
  idempotent:
    description: The same results give the same files, and the second run reports no change.
    support: full
seealso:
  - module: mayfly.virt.suite
"""

EXAMPLES = r"""
---
- name: Judge the run
  mayfly.virt.verdict:
    results: /var/lib/ci/results/20261121-024300-1f2e
  delegate_to: localhost
  run_once: true
  register: verdict

- name: End with the verdict
  ansible.builtin.fail:
    msg: "{{ verdict.summary }}"
  when: verdict.exit_code != 0
"""

RETURN = r"""
verdict:
  description: The verdict, one of V(passed), V(failed) and V(error).
  type: str
  returned: success
  sample: failed
exit_code:
  description:
    - V(0) if all is well, V(1) if the tests or a guest's kernel say no.
    - V(2) if the infrastructure failed, or no true verdict could be had and no kernel panic explains it.
  type: int
  returned: success
  sample: 1
reasons:
  description: Why the verdict is not V(passed), the most telling first.
  type: list
  elements: str
  returned: success
  sample: ["smoke@bookworm: 2 of 12 tests failed"]
summary:
  description: The content of C(summary.txt), at most 40 lines.
  type: str
  returned: success
  sample: "FAILED  run 20261121-024300-1f2e  job smoke  2 of 12 tests failed"
counts:
  description: How many tests have each status.
  type: dict
  returned: success
  sample: {"pass": 10, "fail": 2}
failed_tests:
  description: The first hundred tests that failed, timed out or were not run.
  type: list
  elements: dict
  returned: success
  contains:
    suite:
      description: Name of the suite.
      type: str
    guest:
      description: Name of the guest.
      type: str
    number:
      description: Number of the test.
      type: int
    name:
      description: Name of the test.
      type: str
    status:
      description: Status of the test.
      type: str
    message:
      description: The beginning of its diagnostics.
      type: str
files:
  description: The files that hold the verdict.
  type: list
  elements: str
  returned: success
  sample: ["/var/lib/ci/results/20261121-024300-1f2e/verdict.json"]
"""

import json
import os
import tempfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mayfly.virt.plugins.module_utils import _events, _junit, _report, _step_summary, _summary, _verdict

READ_LIMIT = 256 * 1024 * 1024  # of one file; a console that fills more than this would fill the memory too
LOG_LIMIT = 8 * 1024 * 1024  # of a log that is searched
OUTPUT_LIMIT = 1024 * 1024  # of what a suite printed, its end
RETURNED_TESTS = 100


def read_text(path: Path) -> str | None:
    """Return the text of a file, None if there is none."""
    try:
        with path.open("rb") as file:
            data = file.read(READ_LIMIT + 1)
    except FileNotFoundError:
        return None
    if len(data) > READ_LIMIT:
        raise OSError(f"'{path}' is larger than {READ_LIMIT} bytes")
    return data.decode("utf-8", "replace")


def read_by_guest(results: Path, name: str) -> dict[str, str]:
    """Return the texts of guests/<guest>/<name>."""
    texts = {path.parent.name: read_text(path) for path in sorted(results.glob(f"guests/*/{name}"))}
    return {guest: text for guest, text in texts.items() if text is not None}


def read_consoles(results: Path) -> dict[str, str]:
    """Return the consoles' texts: a console that has filled several files is their row, the highest number first."""
    consoles = {}
    for guest, last in read_by_guest(results, "console.log").items():
        older = [read_text(results / "guests" / guest / f"console.log.{number}") for number in range(9, -1, -1)]
        consoles[guest] = "".join(text for text in [*older, last] if text is not None)
    return consoles


def gather(results: Path) -> _verdict.Evidence:
    """Read everything the verdict is made of."""
    paths = sorted(results.glob("suites/*/*/events.jsonl"))
    events = {(path.parent.parent.name, path.parent.name): read_text(path) for path in paths}
    return _verdict.Evidence(
        run_id=results.resolve().name,
        job=read_text(results / "job.json"),
        phases=read_text(results / "phases.jsonl"),
        events={key: text for key, text in events.items() if text is not None},
        consoles=read_consoles(results),
        facts=read_by_guest(results, "facts.json"),
        collected=read_by_guest(results, "evidence.json"),
        watch=read_text(results / "watch.jsonl"),
        read=lambda path: read_log(results, path),
        find=lambda path: find_file(results, path),
    )


def find_file(results: Path, path: str) -> tuple[str, int] | None:
    """Return where a file lies, packed or not, and its size; None if it is no plain file below the results: its name came from a guest."""
    for name in (path, f"{path}.gz"):
        place = results / name
        if place.is_file() and place.resolve() == results.resolve() / name:
            return name, place.stat().st_size
    return None


def read_log(results: Path, path: str) -> str:
    """Return the beginning of a log, packed or not, nothing if it is not there; what cannot be unpacked ends where it is broken."""
    found = find_file(results, path)
    if found is None:
        return ""
    with (results / found[0]).open("rb") as file:
        data = unpacked(file, LOG_LIMIT) if found[0].endswith(".gz") else file.read(LOG_LIMIT)
    return data.decode("utf-8", "replace")


def unpacked(file: BinaryIO, limit: int) -> bytes:
    """Return the beginning of a packed text: a small one may unpack to anything, and may be broken."""
    unpacker = zlib.decompressobj(wbits=31)
    data = b""
    while len(data) < limit and not unpacker.eof:
        chunk = unpacker.unconsumed_tail or file.read(1 << 16)
        try:
            data += unpacker.decompress(chunk, limit - len(data))
        except zlib.error:
            chunk = b""
        if not chunk:
            return data + b"\n[the rest of this file cannot be unpacked]\n"
    return data


def read_end(path: Path) -> str | None:
    """Return the end of a file, None if there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - OUTPUT_LIMIT))
            return file.read(OUTPUT_LIMIT).decode("utf-8", "replace")
    except FileNotFoundError:
        return None


def gather_outputs(results: Path, suites: list[dict[str, Any]]) -> dict[tuple[str, str, str], str]:
    """Read what the suites printed in which something is wrong."""
    wanted = [
        (suite["name"], suite["guest"], name)
        for suite in suites
        if suite["status"] not in ("passed", "skipped")
        for name in ("stdout.log", "stderr.log")
    ]
    outputs = {key: read_end(results.joinpath("suites", *key)) for key in wanted}
    return {key: text for key, text in outputs.items() if text}


def link_prefix(results: Path, project: str | None) -> str | None:
    """Return the path of the results as seen from a project's directory, None if they are not below it."""
    if not project:
        return None
    try:
        return results.resolve().relative_to(Path(project).resolve()).as_posix()
    except ValueError:
        return None


def step_summary(path: Path, verdict: dict[str, Any]) -> bytes:
    """Return what is to be appended to the summary of a CI's step: nothing if it is there already."""
    try:
        there = path.read_bytes()
    except FileNotFoundError:
        there = b""
    text = _step_summary.to_step_summary(verdict, max(0, _step_summary.ROOM - len(there))).encode("utf-8")
    return b"" if _step_summary.to_step_summary(verdict).encode("utf-8") in there or text in there else text


def render(verdict: dict[str, Any], logs: _report.Logs, prefix: str | None) -> dict[str, bytes]:
    """Return the files to write, by name."""
    text = json.dumps(verdict, indent=2, sort_keys=False) + "\n"
    return {
        "verdict.json": text.encode("utf-8"),
        "junit.xml": _junit.to_junit(verdict, prefix),
        "summary.txt": _summary.to_summary(verdict).encode("utf-8"),
        "report.html": _report.to_report(verdict, logs).encode("utf-8"),
        "step-summary.md": _step_summary.to_step_summary(verdict).encode("utf-8"),
    }


def differs(path: Path, content: bytes) -> bool:
    """Tell whether the file does not have this content yet."""
    try:
        return path.read_bytes() != content
    except FileNotFoundError:
        return True


def write_atomically(module: AnsibleModule, path: Path, content: bytes) -> None:
    """Write beside the file and move, so that a reader never sees half a verdict."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    module.add_cleanup_file(temporary)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    os.chmod(temporary, 0o644)
    module.atomic_move(temporary, str(path))


def append(module: AnsibleModule, path: Path, verdict: dict[str, Any]) -> bool:
    """Append to the summary of a CI's step and tell whether there was something to append.

    The verdict stands without it: what goes wrong is a warning.
    """
    try:
        text = step_summary(path, verdict)
        if text and not module.check_mode:
            with path.open("ab") as file:
                file.write(text)
    except OSError as error:
        module.warn(f"Could not append the verdict to the step's summary '{path}': {error}.")
        return False
    return bool(text)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "results": {"type": "path", "required": True},
            "project_dir": {"type": "path"},
            "step_summary": {"type": "path"},
        },
        supports_check_mode=True,
    )
    results = Path(module.params["results"])
    if not results.is_dir():
        module.fail_json(msg=f"Could not judge the run: '{results}' is no directory. Pass the run's results directory.")
    try:
        evidence = gather(results)
        verdict = _verdict.judge(evidence)
        logs = _report.Logs(evidence.consoles, gather_outputs(results, verdict["suites"]), evidence.read, evidence.find)
        rendered = render(verdict, logs, link_prefix(results, module.params["project_dir"]))
        files = {results / name: content for name, content in rendered.items()}
        stale = [path for path, content in files.items() if differs(path, content)]
    except OSError as error:
        module.fail_json(msg=f"Could not read the results in '{results}': {error}.")
    if not module.check_mode:
        for path in stale:
            write_atomically(module, path, files[path])
    appended = bool(module.params["step_summary"]) and append(module, Path(module.params["step_summary"]), verdict)
    failed = _events.failed_tests(verdict["suites"])[:RETURNED_TESTS]
    module.exit_json(
        changed=bool(stale) or appended,
        verdict=verdict["verdict"],
        exit_code=verdict["exit_code"],
        reasons=verdict["reasons"],
        summary=_summary.to_summary(verdict),
        counts=verdict["totals"]["tests"],
        failed_tests=[{**test, "message": (test["message"] or "")[:2000]} for test in failed],
        files=[str(path) for path in files],
    )


if __name__ == "__main__":
    main()
