# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Play a case of the corpus: run its suites with the real runner, lay a results directory out, have the module judge it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from ansible.module_utils.testing import patch_module_args

from ansible_collections.mayfly.virt.plugins.modules import verdict as verdict_module

CORPUS = Path(__file__).resolve().parent
RUNNER = CORPUS.parents[1] / "extensions" / "suite_runner" / "mayfly_suite_runner.py"
DOUBLES = CORPUS.parent / "doubles"
RUN_ID = "20261121-024300-1f2e"
START = 1795230000.0  # of the run, as the phases tell it

INPUTS = frozenset({"guests", "suites", "consoles", "job", "edit"})
ABOUT = frozenset({"why", "source", "exit_code", "words", "control", "no_control"})
SUITE = {
    "parser": "tap",
    "output": "1..2\nok 1 - opens\nok 2 - closes\n",
    "errors": "",  # what it prints on standard error
    "report": None,  # what it leaves in the file its parser reads,
    "old_report": None,  # and what lies there before
    "before": "",  # shell commands before the output,
    "then": "",  # and after it
    "deadline": 20,
    "command": None,  # instead of all that,
    "tests": None,  # or many tests
    "harness": None,  # that one asks for, a double of Avocado,
    "avocado": "",  # which goes wrong in this way
    "disk_kib": None,  # room for the runner's files
    "runner_status": 0,
}
CONSOLE = "[    0.000000] Linux version 6.1.0-32\n[    9.100000] systemd[1]: Reached target multi-user\none login: \n"


@dataclass(frozen=True)
class Case:
    """One file of the corpus."""

    name: str
    why: str
    source: str
    inputs: dict[str, Any]
    exit_code: int
    words: list[str]
    control: dict[str, Any] | None
    no_control: str | None

    def controlled(self) -> dict[str, Any]:
        """The inputs with what the control says instead."""
        return merged(self.inputs, self.control or {})


def read_case(path: Path) -> Case:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    unknown = set(content) - INPUTS - ABOUT
    unknown |= set(content.get("control") or {}) - INPUTS
    assert not unknown, f"{path.name} has the unknown keys {sorted(unknown)}"
    words = content["words"]
    return Case(
        name=path.stem,
        why=content["why"],
        source=content["source"],
        inputs={key: content[key] for key in INPUTS if key in content},
        exit_code=content.get("exit_code", 0),
        words=[words] if isinstance(words, str) else words,
        control=content.get("control"),
        no_control=content.get("no_control"),
    )


def read_corpus(directory: str) -> list[Case]:
    return [read_case(path) for path in sorted((CORPUS / directory).glob("*.yml"))]


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Mappings are merged, everything else is replaced."""
    both = {key: merged(base[key], over[key]) for key in base.keys() & over.keys() if isinstance(base[key], dict) and over[key]}
    return {**base, **over, **both}


@dataclass
class Outcome:
    """What came out."""

    exit_code: int
    text: str  # reasons and summary
    verdict: dict[str, Any] = field(default_factory=dict)


def play(inputs: dict[str, Any], directory: Path) -> Outcome:
    results = directory / RUN_ID
    lay_out(inputs, results, directory)
    answer = judge(results)
    if answer.get("failed"):  # then there is no verdict, which is what the exit status 2 means
        return Outcome(2, answer["msg"])
    verdict = json.loads((results / "verdict.json").read_text())
    check_outputs(results, verdict)
    return Outcome(verdict["exit_code"], "\n".join([*verdict["reasons"], answer["summary"]]), verdict)


def lay_out(inputs: dict[str, Any], results: Path, directory: Path) -> None:
    """Write the results directory of a run in which nothing is wrong but what the inputs say."""
    guests = inputs.get("guests") or ["one"]
    suites = {name: {**SUITE, **(suite or {})} for name, suite in (inputs.get("suites") or {"smoke": {}}).items()}
    results.mkdir(parents=True)
    for name, suite in suites.items():
        for guest in guests:
            kept = results / "suites" / name / guest
            kept.mkdir(parents=True)
            for file, content in run_suite(name, suite, directory / "run" / name / guest).items():
                (kept / file).parent.mkdir(parents=True, exist_ok=True)
                (kept / file).write_bytes(content)
    consoles = {**dict.fromkeys(guests, CONSOLE), **(inputs.get("consoles") or {})}
    for guest, console in consoles.items():
        (results / "guests" / guest).mkdir(parents=True)
        if console is not None:
            (results / "guests" / guest / "console.log").write_text(console)
    job = {
        "run_id": RUN_ID,
        "job": "corpus",
        "created": "2026-11-21T02:43:00Z",
        "guests": [{"name": guest, "uuid": f"uuid-of-{guest}"} for guest in guests],
        "suites": [{"name": name, "parser": "tests" if suite["tests"] else suite["parser"]} for name, suite in suites.items()],
        **(inputs.get("job") or {}),
    }
    (results / "job.json").write_text(json.dumps(job))
    (results / "phases.jsonl").write_text("".join(json.dumps(line) + "\n" for line in phases(guests)))
    for edit in inputs.get("edit") or []:
        apply(edit, results)


def phases(guests: list[str]) -> Iterator[dict[str, Any]]:
    """The lines of phases.jsonl of a job that went well."""
    time = START
    for phase in ("prepare", "run", "collect", "cleanup"):
        for guest in [None, *(guests if phase == "run" else [])]:
            yield {"phase": phase, "event": "start", "time": time, **({"guest": guest} if guest else {})}
        for guest in [*(guests if phase == "run" else []), None]:
            yield {"phase": phase, "event": "end", "time": time + 9, "status": "ok", "error": "", **({"guest": guest} if guest else {})}
        time += 10


def apply(edit: dict[str, Any], results: Path) -> None:
    """Change a file of the results; what is to be changed must be there, so that a case cannot become idle unseen."""
    path = results / edit["file"]
    if edit.get("remove"):
        path.unlink()
    elif "write" in edit:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(edit["write"])
    elif "append" in edit:
        path.write_text(path.read_text() + edit["append"])
    elif "cut" in edit:
        path.write_text(path.read_text()[: -edit["cut"]])
    elif "copy" in edit:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((results / edit["copy"]).read_bytes())
    elif "drop" in edit:
        lines = path.read_text().splitlines(keepends=True)
        kept = [line for line in lines if edit["drop"] not in line]
        assert len(kept) < len(lines), f"no line of {edit['file']} has {edit['drop']!r}"
        path.write_text("".join(kept))
    else:
        text = path.read_text()
        assert edit["replace"] in text, f"{edit['file']} has no {edit['replace']!r}"
        path.write_text(text.replace(edit["replace"], edit["with"], 1))


_RAN: dict[str, dict[str, bytes]] = {}  # most cases are about something else than their suite, and have the same


def run_suite(name: str, suite: dict[str, Any], directory: Path) -> dict[str, bytes]:
    """Run a suite with the runner; return the files it leaves."""
    key = json.dumps([name, suite], sort_keys=True)
    if key not in _RAN:
        _RAN[key] = _run_suite(name, suite, directory)
    return _RAN[key]


def _run_suite(name: str, suite: dict[str, Any], directory: Path) -> dict[str, bytes]:
    work, out, kept = directory / "work", directory / "out", directory / "kept"
    for path in (work, out, kept):
        path.mkdir(parents=True)
    for file in ("output", "errors", "report"):
        (directory / file).write_text(suite[file] or "", newline="")
    reports = suite["parser"] in ("junit", "avocado")
    if suite["old_report"] is not None:
        (work / "report").write_text(suite["old_report"])
        os.utime(work / "report", (4e9, 4e9))  # from a time when the guest's clock was wrong: no date tells what is old
    write_report = "cp ../report report" if suite["report"] is not None else ""
    lines = [suite["before"], "cat ../output", "cat ../errors >&2", write_report, suite["then"]]
    spec = {
        "suite": name,
        "command": suite["command"] or "\n".join(line for line in lines if line),
        "parser": suite["parser"],
        "deadline": suite["deadline"],
        "cwd": str(work),
        **({"report": "report"} if reports else {}),
    }
    if suite["tests"]:
        del spec["command"]
        spec.update(parser="tests", tests=suite["tests"])
    if suite["harness"]:
        spec["harness"] = suite["harness"]
        spec["environment"] = {"PATH": f"{DOUBLES}:{os.environ['PATH']}", "AVOCADO_DOUBLE": suite["avocado"]}
    (directory / "spec.json").write_text(json.dumps(spec))
    runner = [sys.executable, str(RUNNER), "run", "--spec", str(directory / "spec.json"), "--dir", str(out)]
    if suite["disk_kib"] is not None:
        script = 'mount -t tmpfs -o "size=$1k" tmpfs "$2"; kept=$3; out=$2; shift 3; "$@"; status=$?; cp -r "$out/." "$kept"; exit $status'
        runner = ["unshare", "--mount", "sh", "-c", script, "sh", str(suite["disk_kib"]), str(out), str(kept), *runner]
    done = subprocess.run(runner, capture_output=True, timeout=60, check=False)
    assert done.returncode == suite["runner_status"], done.stderr.decode()
    left = kept if suite["disk_kib"] is not None else out
    return {str(path.relative_to(left)): path.read_bytes() for path in left.rglob("*") if path.is_file() and not path.is_symlink()}


def judge(results: Path) -> dict[str, Any]:
    """Run the module verdict and return its answer."""
    said = io.StringIO()
    with patch_module_args({"results": str(results)}), contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        verdict_module.main()
    answer: dict[str, Any] = json.loads(said.getvalue())
    return answer


def check_outputs(results: Path, verdict: dict[str, Any]) -> None:
    """Whoever reads but one of the files must not think otherwise."""
    green = verdict["exit_code"] == 0
    assert green == (verdict["verdict"] == "passed")
    junit = ElementTree.parse(results / "junit.xml")
    assert green == (not list(junit.iter("failure")) and not list(junit.iter("error")))
    summary = (results / "summary.txt").read_text()
    assert summary.startswith(f"{verdict['verdict'].upper()} ")
    assert f'<header class="{verdict["verdict"]}">' in (results / "report.html").read_text()


def may_mount() -> bool:
    return os.geteuid() == 0
