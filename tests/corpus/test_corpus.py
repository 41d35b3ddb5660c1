# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What must not look green, and what must not look red: each case of the corpus, and each again without what it is about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cases import Case, Outcome, may_mount, play, read_corpus

FALSE_GREEN = read_corpus("false_green")
FALSE_RED = read_corpus("false_red")


def named(cases: list[Case]) -> list[Any]:
    return [pytest.param(case, id=case.name) for case in cases]


def tried(inputs: dict[str, Any], directory: Path) -> Outcome:
    if not may_mount() and any((suite or {}).get("disk_kib") for suite in (inputs.get("suites") or {}).values()):
        pytest.skip("only root can mount a small file system")
    return play(inputs, directory)


def check_red(outcome: Outcome, case: Case) -> None:
    assert outcome.exit_code == case.exit_code, f"{case.why}\n{outcome.text}"
    for words in case.words:
        assert words in outcome.text


def check_green(outcome: Outcome, case: Case) -> None:
    assert outcome.exit_code == 0, f"{case.why}\n{outcome.text}"
    assert outcome.verdict["reasons"] == []


@pytest.mark.parametrize("case", named(FALSE_GREEN))
def test_it_must_not_look_green(case: Case, tmp_path: Path) -> None:
    check_red(tried(case.inputs, tmp_path), case)


@pytest.mark.parametrize("case", named([case for case in FALSE_GREEN if case.control]))
def test_it_is_green_without_its_fault(case: Case, tmp_path: Path) -> None:
    """Else the case is red because of something else."""
    check_green(tried(case.controlled(), tmp_path), case)


@pytest.mark.parametrize("case", named(FALSE_RED))
def test_it_must_not_look_red(case: Case, tmp_path: Path) -> None:
    check_green(tried(case.inputs, tmp_path), case)


@pytest.mark.parametrize("case", named([case for case in FALSE_RED if case.control]))
def test_it_is_red_with_a_fault(case: Case, tmp_path: Path) -> None:
    """Else the case is green because nobody looks there."""
    check_red(tried(case.controlled(), tmp_path), case)


def test_the_corpus_is_whole() -> None:
    assert len(FALSE_GREEN) >= 40
    assert len(FALSE_RED) >= 15
    for case in [*FALSE_GREEN, *FALSE_RED]:
        assert (case.control is None) == (case.no_control is not None), f"{case.name} needs a control, or says why there is none"
        assert case.exit_code in (1, 2), f"{case.name} does not say how it is red"
        assert case.words or case.no_control, f"{case.name} does not say what the reasons must name"
        assert case.why
        assert case.source
    assert len({case.why for case in [*FALSE_GREEN, *FALSE_RED]}) == len(FALSE_GREEN) + len(FALSE_RED)
