# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The verdict as junit.xml. Pure."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any
from xml.etree import ElementTree

from ._events import deadline_text, first_diagnostic, suite_label

MESSAGE_LIMIT = 64 * 1024

Data = dict[str, Any]

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_JUNIT_CHILD = {"fail": "failure", "timeout": "failure", "error": "error", "not_run": "skipped", "skip": "skipped", "known": "skipped"}


def to_junit(verdict: Data) -> bytes:
    """Return junit.xml. It has a case named verdict, so it is red exactly when the verdict is."""
    root = ElementTree.Element("testsuites", name=_xml(verdict["job"] or verdict["run_id"]))
    for suite in verdict["suites"]:
        root.append(_junit_suite(suite))
    for guest in verdict["guests"]:
        if guest["console"]["trouble"]:
            root.append(_junit_kernel(guest))
    root.append(_junit_run(verdict))
    for name in ("tests", "failures", "errors", "skipped"):
        root.set(name, str(sum(int(element.get(name, "0")) for element in root)))
    ElementTree.indent(root)
    document: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return document + b"\n"


def _junit_suite(suite: Data) -> ElementTree.Element:
    label = suite_label(suite)
    element = ElementTree.Element("testsuite", name=_xml(label), hostname=_xml(suite["guest"]))
    element.set("time", f"{suite['duration'] or 0:.3f}")
    if suite["started"]:
        element.set("timestamp", suite["started"].rstrip("Z"))
    times_used: Counter[str] = Counter(test["name"] for test in suite["tests"])
    for test in suite["tests"]:
        # Readers keep only the first of two cases with one name.
        name = test["name"] if test["name"] and times_used[test["name"]] == 1 else f"{test['name']} [{test['number']}]".strip()
        case = _junit_case(element, label, name, test["duration"])
        child = _JUNIT_CHILD.get(test["status"])
        if child is not None:
            headline = first_diagnostic(test["message"]) or test["directive"] or test["status"].replace("_", " ")
            _junit_child(case, child, test["status"], headline, test["message"])
    for number, error in enumerate(suite["errors"], start=1):
        _junit_child(_junit_case(element, label, f"suite result [{number}]"), "error", "suite", error, error)
    if suite["status"] == "timeout":
        text = deadline_text(suite)
        _junit_child(_junit_case(element, label, "suite deadline"), "failure", "timeout", text, text)
    if not len(element):
        _junit_child(_junit_case(element, label, "suite skipped"), "skipped", "skip", "; ".join(suite["notes"]), "")
    return _counted(element)


def _junit_kernel(guest: Data) -> ElementTree.Element:
    label = f"kernel@{guest['name']}"
    element = ElementTree.Element("testsuite", name=_xml(label), hostname=_xml(guest["name"]))
    for number, trouble in enumerate(guest["console"]["trouble"], start=1):
        case = _junit_case(element, label, f"console line {trouble['line']}" if trouble["line"] else f"libvirt event [{number}]")
        _junit_child(case, "failure", "kernel", trouble["text"], "\n".join(trouble["splat"] or [trouble["text"]]))
    return _counted(element)


def _junit_run(verdict: Data) -> ElementTree.Element:
    element = ElementTree.Element("testsuite", name="run")
    case = _junit_case(element, "run", "verdict", verdict["duration"] or 0)
    if verdict["verdict"] != "passed":
        child = "failure" if verdict["verdict"] == "failed" else "error"
        _junit_child(case, child, verdict["verdict"], verdict["reasons"][0], "\n".join(verdict["reasons"]))
    return _counted(element)


def _junit_case(suite: ElementTree.Element, classname: str, name: str, time: float = 0) -> ElementTree.Element:
    return ElementTree.SubElement(suite, "testcase", classname=_xml(classname), name=_xml(name), time=f"{time:.3f}")


def _junit_child(case: ElementTree.Element, child: str, kind: str, headline: str, text: str) -> None:
    element = ElementTree.SubElement(case, child, message=_xml(headline[:500]))
    if child != "skipped":
        element.set("type", kind)
        element.text = _xml(text if len(text) <= MESSAGE_LIMIT else text[:MESSAGE_LIMIT] + "\n[cut]")


def _counted(suite: ElementTree.Element) -> ElementTree.Element:
    suite.set("tests", str(len(suite.findall("testcase"))))
    for name, child in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(name, str(len(suite.findall(f"testcase/{child}"))))
    return suite


def _xml(text: str) -> str:
    """Replace what XML 1.0 forbids, even escaped."""
    return _NOT_XML.sub("\ufffd", text)
