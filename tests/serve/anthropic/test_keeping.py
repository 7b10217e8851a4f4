"""What the cache is asked to keep for an Anthropic client."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from erllama_py.serve.anthropic.conversation import Mark
from erllama_py.serve.anthropic.keeping import MOST, keeps

MARKS = st.lists(st.builds(Mark, st.integers(0, 20), st.sampled_from([300, 3600])), max_size=20)


def test_a_mark_is_the_end_of_a_message() -> None:
    """The longest counts where there are several."""
    marks = [Mark(0, 3600), Mark(1, 300), Mark(1, 3600), Mark(1, 300), Mark(4, 300)]
    kept = [{"seconds": 3600.0, "message": 0}, {"seconds": 300.0, "message": 3}]
    assert keeps(marks, has_tools=True) == [{"seconds": 3600.0, "message": "tools"}, *kept]
    assert keeps(marks, has_tools=False) == kept
    assert keeps([], has_tools=True) == []


@given(MARKS, st.booleans())
def test_each_place_is_named_once(marks: list[Mark], has_tools: bool) -> None:
    """In order, the last of them, as long as anybody has asked for."""
    kept = keeps(marks, has_tools=has_tools)
    places = [one["message"] for one in kept]
    assert len(set(places)) == len(places) <= MOST
    assert [-1 if place == "tools" else place for place in places] == sorted(
        -1 if place == "tools" else place for place in places
    )
    for one in kept:
        end = 0 if one["message"] == "tools" else one["message"] + 1
        assert one["seconds"] == max(mark.seconds for mark in marks if mark.messages == end)
