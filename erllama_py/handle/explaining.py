"""What `explain` asks: the prompt of a text or a conversation, the cache, the live cells. Changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeGuard

import msgspec

from erllama_py.cache.keys import common_prefix, pack_tokens
from erllama_py.cache.messages import Explain, Hit
from erllama_py.chat.conversation import is_list
from erllama_py.engine.rates import Rates
from erllama_py.engine.token_array import PIECE
from erllama_py.errors import ChatTemplateError
from erllama_py.handle.caller import Caller
from erllama_py.handle.explanation import explain, longest_live, session_parting
from erllama_py.handle.inputs import off_loop
from erllama_py.handle.prompts import ChatMessage, Prompt, Prompts
from erllama_py.handle.turns import Look
from erllama_py.options.request import RequestOptions
from erllama_py.results import ExactTurn, Explanation
from erllama_py.scheduler.messages import session_key
from erllama_py.scheduler.reuse import is_cuttable


class Explainer:
    """Explains prompts of one model."""

    def __init__(self, caller: Caller, prompts: Prompts) -> None:
        self._caller = caller
        self._prompts = prompts

    async def explain(self, prompt: Prompt | Sequence[ChatMessage], options: RequestOptions) -> Explanation:
        """See `Model.explain`."""
        turn = None
        if is_conversation(prompt):
            tokens, turn = await self._conversation(prompt, options)
        else:
            tokens = await self._prompts.tokens(prompt)
        board = self._caller.board
        hit, rates = await self.look(tokens, options), Rates() if board.state is None else board.state.rates
        explanation = explain(hit, tokens, board.config.policy.min_tokens, rates)
        packed = await self._packed(tokens)
        state, live, parting = board.state, 0, None
        if state is not None:
            identity = self._caller.identity(options)
            live = longest_live(state, identity, packed)
            parting = session_parting(state, session_key(identity, options.session_id), packed)
        return msgspec.structs.replace(
            explanation, text=await self._text(tokens, explanation.position), live_tokens=live, turn=turn,
            session_position=None if parting is None else parting[0],
            session_text=None if parting is None else await self._prompts.detokenize([parting[1]]),
        )  # fmt: skip

    async def _packed(self, tokens: list[int]) -> bytes:
        return await off_loop(self._caller, _pack, tokens)

    async def look(self, tokens: list[int], options: RequestOptions) -> Hit | None:
        """What the cache has for a prompt; None when it cannot answer."""
        await self._caller.actor()
        facts = self._caller.board.facts
        assert facts is not None
        packed = await self._packed(tokens)
        question = Explain(
            identity=self._caller.identity(options), tokens=packed, cuttable=is_cuttable(facts.memory),
            tier=self._caller.board.config.tier_srv,
        )  # fmt: skip
        return await self._caller.cache.find(question)

    async def _conversation(
        self, messages: Sequence[ChatMessage], options: RequestOptions
    ) -> tuple[list[int], ExactTurn]:
        """Its prompt as `chat` would make it, and what is known of its replies."""
        prompts = self._prompts
        renderer, messages = await prompts.conversation(messages, options)
        look = await prompts.turns.look(messages, renderer.settings, options, peek=True)
        known = None if look is None else look.known
        prepared = None if known is None else await prompts.continuing(renderer, messages, known, options)
        try:
            rendered = (await prompts.rendered(renderer, messages, options)).tokens
        except ChatTemplateError:
            if prepared is None:
                raise
            rendered = prepared.tokens
        if look is None or known is None or prepared is None:
            problem = await self._problem(look, options)
            return rendered, ExactTurn(tokens=0, message=None, problem=problem)
        position = common_prefix(await self._packed(prepared.tokens), await self._packed(rendered))
        same = position == len(prepared.tokens) == len(rendered)
        last = look.asked[0][0]
        return prepared.tokens, ExactTurn(
            tokens=len(known.tokens), message=known.place + 1,
            problem=None if last == known.place else await self._unknown(look, last),
            position=None if same else position, text=await self._text(prepared.tokens, position),
            rendered_text=await self._text(rendered, position),
        )  # fmt: skip

    async def _problem(self, look: Look | None, options: RequestOptions) -> str | None:
        """Why no reply of a conversation is continued."""
        if not options.exact_turns:
            return "exact_turns is off"
        if self._caller.board.config.policy.min_tokens is None:
            return "the model saves nothing"
        if look is None:
            return "a message or a tool holds what JSON does not have"
        if look.known is not None:
            return "what follows the known reply cannot be told from the template, or does not fit into the context"
        return await self._unknown(look, look.asked[0][0]) if look.asked else "there is no reply in it"

    async def _unknown(self, look: Look, place: int) -> str:
        keys = tuple(key for at, key in look.asked if at == place)
        if await self._caller.cache.has_lost_turn(keys):
            return f"message {place + 1}: this reply was known, and is evicted or was found damaged"
        return f"message {place + 1}: no such reply to what precedes it is known"

    async def _text(self, tokens: Sequence[int], position: int | None) -> str | None:
        if position is None or position >= len(tokens):
            return None
        return await self._prompts.detokenize([tokens[position]])


def is_conversation(prompt: object) -> TypeGuard[Sequence[ChatMessage]]:
    """Whether these are messages, and no tokens."""
    return is_list(prompt) and bool(prompt) and isinstance(prompt[0], Mapping)


def _pack(tokens: list[int]) -> bytes:
    """In pieces, between which other threads run: a prompt to be explained may be longer than any context."""
    return b"".join(pack_tokens(tokens[start : start + PIECE]) for start in range(0, len(tokens), PIECE))
