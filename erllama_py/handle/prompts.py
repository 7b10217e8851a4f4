"""From what a caller passes to the tokens of a prompt: texts, token ids and conversations, through the model's own
vocabulary and chat template. Bad input raises here, and never reaches the actor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from erllama_py.chat.turns import anchors as find_anchors
from erllama_py.engine.backend import Vocabulary
from erllama_py.errors import InvalidText
from erllama_py.handle.caller import INLINE_LENGTH, Caller
from erllama_py.handle.replies import Prepared
from erllama_py.handle.tool_list import shown, tool_list
from erllama_py.model.request import check_is_tokens, check_tokens
from erllama_py.options.request import RequestOptions

Prompt = str | Sequence[int]
ChatMessage = Mapping[str, Any]
Tools = Sequence[Mapping[str, Any] | Callable[..., Any]]


class Prompts:
    """Makes the prompts of one model."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def tokenize(self, text: str, *, special: bool = True, add_bos: bool = True) -> list[int]:
        """See `Model.tokenize`."""
        if not isinstance(text, str):
            raise InvalidText(f"text is a str, not {type(text).__name__}")
        return await self._caller.use_vocabulary(
            lambda vocabulary: vocabulary.tokenize(text, add_special=add_bos, parse_special=special), len(text)
        )

    async def detokenize(self, tokens: Sequence[int], *, special: bool = True) -> str:
        """See `Model.detokenize`."""
        return await self._caller.use_vocabulary(
            lambda vocabulary: vocabulary.detokenize(check_tokens(tokens, vocabulary.n_vocab), special=special),
            len(check_is_tokens(tokens)),
        )

    async def render(
        self,
        messages: Sequence[ChatMessage],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        add_generation_prompt: bool = True,
    ) -> list[int]:
        """See `Model.apply_chat_template`; `tools` as templates take them."""
        template = await self._caller.template()
        render = partial(template.render, messages, tools=tools, add_generation_prompt=add_generation_prompt)
        # A template is the model's own code: how long it runs is not known, so not on the loop.
        text = await self._caller.threads.abandon(render)
        # The template writes the begin token itself where the model wants one.
        return await self.tokenize(text, add_bos=False)

    async def tokens(self, prompt: object) -> list[int]:
        """The tokens of a text, or of a list of token ids once they are checked."""
        self._caller.check_generates()
        if isinstance(prompt, str):
            return await self.tokenize(prompt)
        ids = check_is_tokens(prompt, "a prompt is a str or a list of token ids")
        return await self._caller.use_vocabulary(lambda vocabulary: check_tokens(ids, vocabulary.n_vocab), len(ids))

    async def plain(self, prompt: Prompt, options: RequestOptions) -> Prepared:
        """The prompt of a text or a list of token ids."""
        return Prepared(await self.tokens(prompt))

    async def chat(self, messages: Sequence[ChatMessage], options: RequestOptions) -> Prepared:
        """The prompt of a conversation."""
        tools = shown(tool_list(options.tools))
        tokens = await self.render(messages, tools)
        template = await self._caller.template()

        def find(vocabulary: Vocabulary) -> tuple[int, ...]:
            return find_anchors(
                messages,
                tokens,
                lambda shown, prompt: template.render(shown, tools=tools, add_generation_prompt=prompt),
                lambda text: vocabulary.tokenize(text, add_special=False, parse_special=True),
                has_tools=bool(tools),
            )

        # Always on a worker thread: the template runs twice more.
        return Prepared(tokens, await self._caller.use_vocabulary(find, INLINE_LENGTH + 1))
