"""From what a caller passes to the tokens of a prompt: texts, token ids and conversations, through the model's own
vocabulary and chat template. Bad input raises here, and never reaches the actor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
import numpy

from erllama_py.chat.conversation import Message, check_messages
from erllama_py.chat.endings import endings as find_endings
from erllama_py.chat.endings import endings_of_text
from erllama_py.chat.rendering import Renderer
from erllama_py.chat.template import ChatSettings
from erllama_py.chat.turns import anchors as find_anchors
from erllama_py.engine.backend import Vocabulary
from erllama_py.engine.token_array import as_array
from erllama_py.errors import ContextOverflow, InvalidText
from erllama_py.handle.caller import Caller
from erllama_py.handle.fitting import as_prompt, check_count, check_least
from erllama_py.handle.keep_ends import KeepEnds, tokenizing
from erllama_py.handle.port import INLINE_LENGTH
from erllama_py.handle.replies import Prepared
from erllama_py.handle.thinking import switched
from erllama_py.handle.tool_list import shown, tool_list
from erllama_py.handle.turns import Known, Look, Turns, forgotten, with_known
from erllama_py.model.request import check_is_tokens, check_tokens
from erllama_py.options.chat import check_is_prompt
from erllama_py.options.keep import check_keeps
from erllama_py.options.request import RequestOptions

Prompt = str | Sequence[int]
ChatMessage = Mapping[str, Any]
Tools = Sequence[Mapping[str, Any] | Callable[..., Any]]


class Prompts:
    """Makes the prompts of one model."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self.turns = Turns(caller)
        self._ends = KeepEnds(caller, self.turns)

    @property
    def n_ctx(self) -> int:
        """Most tokens of a prompt, once the model is up."""
        return self._caller.board.config.context_opts.cells

    async def tokenize(self, text: str, *, special: bool = True, add_bos: bool = True, fits: bool = False) -> list[int]:
        """See `Model.tokenize`. With `fits` it raises `ContextOverflow` for what no context holds."""
        if not isinstance(text, str):
            raise InvalidText(f"text is a str, not {type(text).__name__}")

        def tokenize(vocabulary: Vocabulary) -> list[int]:
            lent = self._caller.board.lent
            whole = add_bos and lent is not None and lent.prepared.facts.embeds_only  # it is for `embed` alone
            most = self.n_ctx if fits else None
            check_least(vocabulary, text, most)
            begin = vocabulary.begin if add_bos and not whole else []
            tokens = vocabulary.token_array(text, add_special=whole, parse_special=special)
            return as_prompt(numpy.concatenate([as_array(begin), tokens]) if begin else tokens, most)

        return await self._caller.use_vocabulary(tokenize, len(text))

    async def detokenize(self, tokens: Sequence[int], *, special: bool = True) -> str:
        """See `Model.detokenize`."""
        return await self._caller.use_vocabulary(
            lambda vocabulary: vocabulary.detokenize(check_tokens(tokens, vocabulary.n_vocab), special=special),
            len(check_is_tokens(tokens)),
        )

    async def conversation(
        self, messages: Sequence[ChatMessage], options: RequestOptions
    ) -> tuple[Renderer, list[Message]]:
        """What renders a conversation as these options ask, in whole or in part, and its messages once they are
        checked."""
        template, settings = await self._caller.template(), settings_of(options)
        if options.thinking is not None:
            dialect = await self._caller.dialect(template.source_for(settings))
            switch = switched(options, dialect, self._caller.board.config)
            settings = msgspec.structs.replace(settings, template_kwargs={**options.template_kwargs, **switch})

        def make(vocabulary: Vocabulary) -> tuple[Renderer, list[Message]]:
            return Renderer(template, vocabulary.special_texts(), messages, settings), check_messages(messages)

        return await self._caller.use_vocabulary(make, INLINE_LENGTH + 1)

    async def tokens_of(self, renderer: Renderer, text: str, *, fits: bool = False) -> list[int]:
        """The tokens of a text that it rendered, or of a piece of one. With `fits` it raises `ContextOverflow` for what
        no context holds."""

        # The template writes the begin token itself where the model wants one.
        def tokenize(vocabulary: Vocabulary) -> list[int]:
            most = self.n_ctx if fits else None
            if most is not None and vocabulary.least_tokens(text) > most:
                check_least(vocabulary, renderer.plain(text), most)
            return as_prompt(vocabulary.tokenize_parts(renderer.parts(text)), most)

        return await self._caller.use_vocabulary(tokenize, len(text))

    async def render(
        self, messages: Sequence[ChatMessage], options: RequestOptions, *, add_generation_prompt: bool = True
    ) -> list[int]:
        """See `Model.apply_chat_template`."""
        (renderer, messages), continued = await self.conversation(messages, options), options.continue_final_message
        render = partial(renderer.text, messages, add_generation_prompt, continued=continued)
        return await self.tokens_of(renderer, await self._caller.threads.abandon(render))

    async def tokens(self, prompt: object, *, fits: bool = False) -> list[int]:
        """The tokens of a text, or of a list of token ids once they are checked. With `fits` it raises
        `ContextOverflow` for what no context holds."""
        self._caller.check_generates()
        if isinstance(prompt, str):
            return await self.tokenize(prompt, fits=fits)
        ids = check_is_tokens(prompt, "a prompt is a str or a list of token ids")

        def check(vocabulary: Vocabulary) -> list[int]:
            check_count(len(ids), self.n_ctx if fits else None)
            return check_tokens(ids, vocabulary.n_vocab)

        return await self._caller.use_vocabulary(check, len(ids))

    async def plain(self, prompt: Prompt, options: RequestOptions) -> Prepared:
        """The prompt of a text or a list of token ids."""
        check_is_prompt(options)
        check_keeps(options.keep, None)
        tokens = await self.tokens(prompt, fits=True)
        endings = await self._caller.use_vocabulary(lambda vocabulary: endings_of_text(tokens, vocabulary.is_end), 0)
        return Prepared(tokens, endings=endings)

    async def chat(self, messages: Sequence[ChatMessage], options: RequestOptions) -> Prepared:
        """The prompt of a conversation: it continues the last reply that is recognised, or is rendered."""
        renderer, messages = await self.conversation(messages, options)
        check_keeps(options.keep, len(messages))
        look = await self.turns.look(messages, renderer.settings, options)
        prepared = None
        if look is not None and look.known is not None:
            prepared = await self.continuing(renderer, messages, look.known, options)
        if prepared is None:
            look, prepared = forgotten(look), await self.rendered(renderer, messages, options, fits=True)
        return self._recognised(prepared, look, messages, options)

    async def after_reply(
        self, messages: Sequence[ChatMessage], place: int, tokens: list[int], options: RequestOptions, keep: bool
    ) -> Prepared | None:
        """The prompt that continues the reply at `place`, up to whose end there are these tokens; None as
        `continuing`. With `keep` the new reply will be recognised."""
        check_keeps(options.keep, len(messages))
        renderer, _ = await self.conversation(messages, options)
        look = await self.turns.hashed(messages, renderer.settings, options) if keep else None
        known = with_known(look, place, tokens)
        prepared = await self.continuing(renderer, messages, known, options)
        if prepared is None or look is None:
            return prepared
        return self._recognised(prepared, msgspec.structs.replace(look, known=known), messages, options)

    def _recognised(
        self, prepared: Prepared, look: Look | None, messages: Sequence[ChatMessage], options: RequestOptions
    ) -> Prepared:
        """The same prompt, whose reply will be recognised where turns are."""
        if look is None:
            return prepared
        return msgspec.structs.replace(prepared, finish=self.turns.finish(look, prepared.tokens, messages, options))

    async def continuing(
        self, renderer: Renderer, messages: Sequence[ChatMessage], known: Known, options: RequestOptions
    ) -> Prepared | None:
        """The prompt that continues a known reply; None where the template cannot, or the context has no room for all
        that was read: a rendering may drop some of it."""
        continued = options.continue_final_message
        text = await self.turns.text_after(renderer, messages, known.place, continued=continued)
        if text is None:
            return None
        try:
            tokens = [*known.tokens, *await self.tokens_of(renderer, text, fits=True)]
        except ContextOverflow:
            return None
        if len(tokens) + (options.response_tokens or 1) > self.n_ctx:
            return None
        opening = renderer.plain(text)
        if continued:
            _, opening = await self._caller.threads.abandon(partial(renderer.prompt, messages, continued=True))
        ends = await self._ends.after(renderer, messages, known, tokens, options)
        endings = await self._endings(renderer, messages, tokens, options)
        return Prepared(tokens, endings=endings, ends=ends, opening=opening, template=renderer.source)

    async def rendered(
        self, renderer: Renderer, messages: Sequence[ChatMessage], options: RequestOptions, *, fits: bool = False
    ) -> Prepared:
        """The prompt of a conversation as the template shows it. With `fits` it raises `ContextOverflow` for what no
        context holds."""
        continued = options.continue_final_message
        # A template is the model's own code: not on the loop, however much its fuel bounds it.
        text, opening = await self._caller.threads.abandon(partial(renderer.prompt, messages, continued=continued))
        tokens = await self.tokens_of(renderer, text, fits=fits)

        def find(vocabulary: Vocabulary) -> tuple[int, ...]:
            tokenize = tokenizing(renderer, vocabulary)
            return find_anchors(messages, tokens, renderer.text, tokenize, has_tools=bool(options.tools))

        # Always on a worker thread: the template runs twice more.
        anchors = await self._caller.use_vocabulary(find, INLINE_LENGTH + 1)
        ends = await self._ends.rendered(renderer, messages, tokens, options)
        endings = await self._endings(renderer, messages, tokens, options)
        return Prepared(tokens, anchors, endings, ends, opening, template=renderer.source)

    async def _endings(
        self, renderer: Renderer, messages: Sequence[ChatMessage], tokens: list[int], options: RequestOptions
    ) -> tuple[int, ...]:
        """Where the next turns may diverge from a prompt; that continues its last message, its end alone."""
        if options.continue_final_message:
            return ()

        def find(vocabulary: Vocabulary) -> tuple[int, ...]:
            return find_endings(messages, tokens, renderer.text, tokenizing(renderer, vocabulary))

        return await self._caller.use_vocabulary(find, INLINE_LENGTH + 1)


def settings_of(options: RequestOptions) -> ChatSettings:
    """What a request asks of the rendering of its conversation."""
    return ChatSettings(
        tools=shown(tool_list(options.tools)),
        chat_template=options.chat_template,
        template_kwargs=options.template_kwargs,
        tools_in_system=options.tools_in_system,
    )
