# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan: changed, diff and sentences come from one list."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.mayfly.virt.plugins.module_utils._errors import InvalidInput, MayflyError
from ansible_collections.mayfly.virt.plugins.module_utils._plan import Action, changed, diff, sentences

ACTIONS = st.lists(
    st.builds(
        Action,
        verb=st.sampled_from(["create", "update", "remove", "keep"]),
        kind=st.sampled_from(["domain", "overlay"]),
        name=st.text(max_size=5),
        reason=st.text(max_size=5),
        before=st.text(max_size=5),
        after=st.text(max_size=5),
    ),
    max_size=6,
)


def test_a_plan_that_only_keeps_changes_nothing() -> None:
    actions = [Action("keep", "domain", "a", after="x"), Action("keep", "run", "r")]
    assert not changed(actions)
    assert sentences(actions) == []
    assert diff(actions) == []


def test_a_plan_in_words_and_as_a_diff() -> None:
    actions = [
        Action("keep", "run", "r"),
        Action("update", "seed", "a", "other keys", before="old\n", after="new\n"),
        Action("remove", "domain", "b", before="b\n"),
    ]
    assert changed(actions)
    assert sentences(actions) == ["update seed a (other keys)", "remove domain b"]
    assert diff(actions) == [
        {"before_header": "seed a", "after_header": "seed a", "before": "old\n", "after": "new\n"},
        {"before_header": "domain b", "after_header": "domain b", "before": "b\n", "after": ""},
    ]


@given(ACTIONS)
def test_changed_diff_and_sentences_never_disagree(actions: list[Action]) -> None:
    assert changed(actions) == bool(diff(actions)) == bool(sentences(actions))
    assert len(diff(actions)) == len(sentences(actions))


def test_an_error_is_a_sentence_with_object_reason_and_remedy() -> None:
    error = MayflyError("make overlay", "/x.qcow2", " no room. ", " Make room. ")
    assert str(error) == "Could not make overlay '/x.qcow2': no room. Make room."
    assert str(MayflyError("make overlay", "/x.qcow2", "no room")) == "Could not make overlay '/x.qcow2': no room."
    assert str(InvalidInput("Name", "A", "upper case", "Use lower case.")) == "Name 'A' is refused: upper case. Use lower case."
    assert isinstance(InvalidInput("Name", "A", "upper case"), MayflyError)
