"""A stream read to its end, where the reply is wanted whole."""

from __future__ import annotations

import erllama_py as erllama
from erllama_py.serve.core.problems import Problem
from erllama_py.serve.core.streams import Events


class Reading:
    """What a stream comes to, and what its events alone tell."""

    def __init__(self) -> None:
        self.thought = 0
        """Tokens of thinking, of all alternatives together."""

    async def of(self, stream: Events) -> erllama.Completion:
        """The completion. Raises what the request raises."""
        async with stream as events:
            async for event in events:
                match event:
                    case erllama.ThinkingDelta():
                        self.thought += len(event.token_ids)
                    case erllama.Done():
                        return event.completion
        raise Problem("internal", "the stream has no end")
