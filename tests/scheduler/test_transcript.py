"""What has come of a request: when it can leave the actor that it is in."""

from __future__ import annotations

from erllama_py.engine.drawn import Draws
from erllama_py.engine.jobs import Text
from erllama_py.results import EngineEvent, Progress, ThinkingDelta, ThinkingEnd
from erllama_py.scheduler.outcomes import emitted
from erllama_py.scheduler.transcript import Transcript


def test_it_is_left_only_after_all_that_came_together() -> None:
    """Else its next life would go on from tokens with the draws of those before, and its stream would not hear of the
    end of the block: the actor drops what comes when it was left."""
    heard, left = list[EngineEvent](), list[int]()
    transcript = Transcript(heard.append)
    transcript.begins(lambda: left.append(len(heard)))
    transcript.take(Progress(8, 8), None, 1.0)
    for text in (
        Text(1, "hm", [], kind="thinking", closed=True),
        Text(1, "so", [1, 2], kind="thinking", closed=True, draws=Draws(sampler=(2,))),
    ):
        for one in emitted(text):
            transcript.take(one.event, one.draws, 2.0)
    assert left == [1, 5]
    assert heard[1:] == [ThinkingDelta("hm", []), ThinkingEnd(), ThinkingDelta("so", [1, 2]), ThinkingEnd()]
    drawn = transcript.drawn(logprobs=False)
    assert drawn is not None
    assert (drawn.token_ids, drawn.draws.sampler) == ([1, 2], (2,))
