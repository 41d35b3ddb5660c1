# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The verdict as junit.xml, as GitLab, Jenkins and others read it. Pure.

What they make of it decides how it is written:

* GitLab knows failure, error, skipped and system-out of a case, nothing else; it shows the text of an element and not its message, names
  a case by classname and name and drops the second of a name, and shows one file, the first [[ATTACHMENT|path]] in system-out, of a case
  that failed. It refuses files of 30 MB and more. Jenkins' JUnit Attachments plugin shows all of them.
* A case without a failure, error or skipped is a pass for every reader. So a test that is flaky or passed by surprise is skipped, never
  a pass; the failed tries of a flaky one are flakyFailure elements for those who know Surefire's format.
* Jenkins' xUnit plugin refuses attributes and elements that its schema has not. Surefire's wants the children in an order.
"""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from ._events import deadline_text, first_diagnostic, suite_label
from ._failures import headlines, split_failures
from ._kept import files_of, is_trace, leaked_by, restarted_in
from ._outcome import attempts_of, case_names, is_red, logs_of

MESSAGE_LIMIT = 64 * 1024  # characters of one message
HEADLINE_LIMIT = 500
NAME_LIMIT = 300
# Bytes of XML, 24 MB in all.
MESSAGES_ROOM = 8 << 20
CASES_ROOM = 16 << 20
CASE_SIZE = 200  # of a case without its names and messages
ASSERTIONS = 20  # of one test, that get a case of their own
ATTEMPTS = 5
ATTACHED = 16  # files of one test
TOLD = 5  # of what a test left behind, of each kind

Data = dict[str, Any]

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_JUNIT_CHILD = {"fail": "failure", "timeout": "failure", "error": "error", "daemon_hang": "error"}
_NO_ATTACHMENT = re.compile(r"[\[\]|\x00-\x1f]")


def to_junit(verdict: Data, prefix: str | None = None) -> bytes:
    """Return junit.xml. It has a case named verdict, so it is red exactly when the verdict is.

    prefix is the path of the results directory as GitLab is to link it: relative to the project's directory. None links nothing.
    """
    document = _Document(verdict, prefix)
    root = ElementTree.Element("testsuites", name=_xml(verdict["job"] or verdict["run_id"]))
    # What tells most and what went wrong gets room first.
    run = document.run()
    kernels = [document.kernel(guest) for guest in verdict["guests"] if guest["console"]["trouble"]]
    suites = sorted(verdict["suites"], key=lambda suite: suite["status"] in ("passed", "skipped"))
    elements = {id(suite): document.suite(suite) for suite in suites}
    root.extend(elements[id(suite)] for suite in verdict["suites"])
    root.extend([*kernels, run])
    for name in ("tests", "failures", "errors"):
        root.set(name, str(sum(int(element.get(name, "0")) for element in root)))
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


class _Document:
    """The elements of one verdict, which share the room there is."""

    def __init__(self, verdict: Data, prefix: str | None) -> None:
        self._verdict = verdict
        self._fail_on = verdict["policy"]["fail_on"]
        self._issues = {entry["id"]: entry["issue"] for entry in verdict["known_issues"]}
        self._prefix = prefix
        self._messages = MESSAGES_ROOM
        self._cases = CASES_ROOM

    def suite(self, suite: Data) -> ElementTree.Element:
        label = suite_label(suite)
        element = ElementTree.Element("testsuite", name=_xml(label), hostname=_xml(suite["guest"]))
        element.set("time", f"{suite['duration'] or 0:.3f}")
        if suite["started"]:
            element.set("timestamp", suite["started"].rstrip("Z"))
        names = [_short(name, index) for index, name in enumerate(case_names(suite["tests"]), start=1)]
        fitting = self._fitting(label, names, suite["tests"])
        for index in sorted(fitting):
            self._test(element, suite, names[index], suite["tests"][index])
        left_out = len(names) - len(fitting)
        if left_out:
            text = f"{left_out} more tests do not fit into this file; verdict.json has them"
            self._child(_case(element, label, "more tests"), "skipped", "skip", text, text)
        for number, error in enumerate(suite["errors"], start=1):
            self._child(_case(element, label, f"suite result [{number}]"), "error", "suite", error, error)
        if suite["status"] == "timeout":
            text = deadline_text(suite)
            self._child(_case(element, label, "suite deadline"), "failure", "timeout", text, text)
        if not len(element):
            text = "; ".join(suite["notes"])
            self._child(_case(element, label, "suite skipped"), "skipped", "skip", text, text)
        return _counted(element)

    def kernel(self, guest: Data) -> ElementTree.Element:
        label = f"kernel@{guest['name']}"
        element = ElementTree.Element("testsuite", name=_xml(label), hostname=_xml(guest["name"]))
        for number, trouble in enumerate(guest["console"]["trouble"], start=1):
            # What has no line was told by libvirt.
            case = _case(element, label, f"console line {trouble['line']}" if trouble["line"] else f"libvirt event [{number}]")
            self._child(case, "failure", "kernel", trouble["text"], "\n".join(trouble.get("splat") or [trouble["text"]]))
            self._system_out(case, [f"guests/{guest['name']}/console.log"], [])
        return _counted(element)

    def run(self) -> ElementTree.Element:
        verdict = self._verdict
        element = ElementTree.Element("testsuite", name="run")
        case = _case(element, "run", "verdict", verdict["duration"] or 0)
        if verdict["verdict"] != "passed":
            child = "failure" if verdict["verdict"] == "failed" else "error"
            self._child(case, child, verdict["verdict"], verdict["reasons"][0], "\n".join(verdict["reasons"]))
        return _counted(element)

    def _fitting(self, label: str, names: list[str], tests: list[Data]) -> list[int]:
        """Return the indexes of the tests there is room for, the red ones first."""
        fitting = []
        for index in sorted(range(len(tests)), key=lambda index: not is_red(tests[index], self._fail_on)):
            self._cases -= CASE_SIZE + _size(label) + _size(names[index])
            if self._cases >= 0:
                fitting.append(index)
        return fitting

    def _test(self, element: ElementTree.Element, suite: Data, name: str, test: Data) -> None:
        label, status = suite_label(suite), test["status"]
        if status == "pass":
            _case(element, label, name, test["duration"])
            return
        if status not in _JUNIT_CHILD:
            self._odd(_case(element, label, name, test["duration"]), test, name)
            return
        failures = split_failures((test["message"] or "").split("\n"))[:ASSERTIONS]
        for number, lines in enumerate(failures, start=1):
            # The assertions of one script are cases of their own; the first one has its time.
            said = headlines({**test, "message": "\n".join(lines)}, 1)
            own = name if len(failures) == 1 else f"{name} # {number} {said[-1] if said else '':.100}"
            case = _case(element, label, own, test["duration"] if number == 1 else 0)
            message = test["message"] or "" if len(failures) == 1 else "\n".join(lines)
            headline = "; ".join(headlines({**test, "message": message}, 1)) or test["directive"] or status
            self._child(case, _JUNIT_CHILD[status], status, headline, message)
            if number == 1:
                self._tries(case, "rerunError" if _JUNIT_CHILD[status] == "error" else "rerunFailure", attempts_of(test)[:-1])
            self._evidence(case, suite, test, ATTACHED if number == 1 else 1)

    def _odd(self, case: ElementTree.Element, test: Data, name: str) -> None:
        """What neither passed nor failed: a failure if the job calls it red, skipped if not."""
        status, said, message = test["status"], self._said(test), test["message"] or ""
        text = said if message in said else f"{said}\n{message}"
        red = is_red(test, self._fail_on) and status != "not_run"
        if red:
            self._child(case, "failure", status, said, f"{name}: {text}")
        if status == "flaky":
            self._tries(case, "flakyFailure", [attempt for attempt in attempts_of(test) if attempt["status"] != "pass"])
        if not red:
            self._child(case, "skipped", status, said, text)

    def _said(self, test: Data) -> str:
        """Why a test has a status that is neither pass nor failure, in one line."""
        status, issue = test["status"], self._issues.get(test.get("known_issue", ""))
        named = f" {test['known_issue']}: {issue}" if issue else ""
        if status == "known" and named:
            return f"known issue{named}"
        if status == "xpass":
            return f"passed, although it is known to fail{named}"
        if status == "flaky":
            tries = len(attempts_of(test))
            return f"flaky: passed only when tried again{f', try {tries} of {tries}' if tries > 1 else ''}"
        reason = first_diagnostic(test["message"])
        if status == "not_run" and test["directive"]:
            return f"not run, {test['directive']}{f': {reason}' if reason else ''}"
        return reason or test["directive"] or status.replace("_", " ")

    def _tries(self, case: ElementTree.Element, child: str, attempts: list[Data]) -> None:
        for attempt in attempts[:ATTEMPTS]:
            message = str(attempt.get("message") or "")
            headline = self._bounded(first_diagnostic(message), HEADLINE_LIMIT)
            element = ElementTree.SubElement(case, child, message=headline, type=_xml(attempt["status"][:20]))
            ElementTree.SubElement(element, "stackTrace").text = self._bounded(message)

    def _evidence(self, case: ElementTree.Element, suite: Data, test: Data, attached: int) -> None:
        """Attach what tells most first: where a daemon died or hung, the line that may say why, what else was kept."""
        base = f"suites/{suite['name']}/{suite['guest']}"
        own, clue = logs_of(test), test.get("clue")
        lines = [f"{clue['file']}, line {clue['line']}: {clue['text']}"] if clue else []
        lines += [f"restarted: {name}" for name in restarted_in(test)[:TOLD]]
        lines += [f"left behind: {name}" for name in [*(test.get("leftovers") or [])[:TOLD], *leaked_by(test)[:TOLD]]]
        kept = files_of(test)
        files = [file["path"] for file in kept if is_trace(file["name"])]
        files += [clue["file"] if clue else f"{base}/{own}/stdout.log" if own else f"{base}/stdout.log"]
        files += [file["path"] for file in kept]
        self._system_out(case, list(dict.fromkeys(files))[:attached], lines)

    def _system_out(self, case: ElementTree.Element, files: list[str], lines: list[str]) -> None:
        said = [line.replace("[[", "[ [") for line in lines]  # only we attach files
        paths = [] if self._prefix is None else ["/".join(part for part in (self._prefix, file) if part) for file in files]
        said[:0] = [f"[[ATTACHMENT|{path}]]" for path in paths if not _NO_ATTACHMENT.search(path)]
        if said:
            ElementTree.SubElement(case, "system-out").text = self._bounded("\n".join(said))

    def _child(self, case: ElementTree.Element, child: str, kind: str, headline: str, text: str) -> None:
        element = ElementTree.SubElement(case, child, message=self._bounded(headline, HEADLINE_LIMIT))
        if child != "skipped":
            element.set("type", kind)
        element.text = self._bounded(text)

    def _bounded(self, text: str, limit: int = MESSAGE_LIMIT) -> str:
        """Return a text, or as much of it as there is room for."""
        kept = _xml(text[:limit])
        if _size(kept) > self._messages:
            kept = kept[: max(0, self._messages) // 6]  # no character takes more
        self._messages -= _size(kept)
        return kept if len(kept) == len(text) else kept + "\n[cut]"


def _short(name: str, index: int) -> str:
    """Return a name that is not too long and still is no other's."""
    return name if len(name) <= NAME_LIMIT else f"{name[: NAME_LIMIT - 20]}\u2026 #{index}"


def _size(text: str) -> int:
    return len(escape(text, {'"': "&quot;"}).encode("utf-8", "replace"))


def _case(suite: ElementTree.Element, classname: str, name: str, time: float = 0) -> ElementTree.Element:
    return ElementTree.SubElement(suite, "testcase", classname=_xml(classname), name=_xml(name), time=f"{time:.3f}")


def _counted(suite: ElementTree.Element) -> ElementTree.Element:
    suite.set("tests", str(len(suite.findall("testcase"))))
    for name, child in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(name, str(len(suite.findall(f"testcase/{child}"))))
    return suite


def _xml(text: str) -> str:
    """Replace what XML 1.0 forbids, even escaped."""
    return _NOT_XML.sub("\ufffd", text)
