"""In which order the lines of a batch are begun: those whose prompts begin alike one after the other. Pure.

So one model is used as long as there are lines for it, and the cells of a prompt that many share are there when the
next one asks. Groups come in the order of their first lines, and lines of a group in that of the file.
"""

from __future__ import annotations

from collections.abc import Container, Iterable

from erllama_py.serve.batches.lines import Place


def in_order(places: Iterable[Place], done: Container[int]) -> list[Place]:
    """The lines that are not done, in the order in which they are to be begun."""
    groups: dict[int, list[Place]] = {}
    for place in places:
        groups.setdefault(place.group, []).append(place)
    return [place for group in groups.values() for place in group if place.line not in done]
