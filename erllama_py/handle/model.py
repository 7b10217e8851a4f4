"""The handle of one model: what callers ask of it, checked and tokenized on their side, then sent through its `caller`.

A bad prompt or option is refused here, before it reaches the actor. While the model loads again after a
crash, calls wait for it; when it is gone for good they raise. Nothing here outlives its call.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableSequence, Sequence
from functools import partial
from typing import Any, Unpack, get_args

from erllama_py.errors import InvalidOption
from erllama_py.handle.caller import Caller
from erllama_py.handle.chat_format import chat_format
from erllama_py.handle.embedding import embed, rerank
from erllama_py.handle.explaining import Explainer
from erllama_py.handle.explanation import cached_prefixes
from erllama_py.handle.inputs import Input
from erllama_py.handle.likelihood import by_likelihood
from erllama_py.handle.probes import Probes
from erllama_py.handle.prompts import ChatMessage, Prompt, Prompts, Tools
from erllama_py.handle.replies import Prepare
from erllama_py.handle.scores import Continuation, Scoring
from erllama_py.handle.session import Session
from erllama_py.handle.stream import Run, Stream
from erllama_py.handle.thinking import is_genuine
from erllama_py.handle.tool_run import Chats, ToolRun
from erllama_py.model.board import ModelBoard
from erllama_py.options.attributes import OtherNames
from erllama_py.options.check import not_among
from erllama_py.options.embedding import parse_embed_options, parse_rerank_options
from erllama_py.options.mappings import EmbedOptionsDict, RequestOptionsDict, RerankOptionsDict, ScoreOptionsDict
from erllama_py.options.names import checked_names
from erllama_py.options.request import RequestOptions, merged, parse_request_options
from erllama_py.results import (
    CachedPrefix,
    ChatFormat,
    Choice,
    Completion,
    Embeddings,
    Explanation,
    Ranking,
    Scores,
)
from erllama_py.scheduler.messages import FaultPlace
from erllama_py.watch.spans import Operation


class Model(Probes, OtherNames):
    """A loaded model. `runtime.load_model` makes it; `runtime.X(model, …)` is the same as `model.X(…)`."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._board = caller.board
        self._prompts = Prompts(caller)
        self._explainer = Explainer(caller, self._prompts)
        self._scoring = Scoring(caller, self._prompts)

    def __repr__(self) -> str:
        return f"<Model {self.id!r} {self.phase}, {self.pending_len} pending>"

    # --- generating ------------------------------------------------------------------------------------------

    async def complete(
        self,
        prompt: Prompt,
        *,
        options: RequestOptions | RequestOptionsDict | None = None,
        **given: Unpack[RequestOptionsDict],
    ) -> Completion:
        """Continue `prompt`, a text or a list of token ids, and return the whole reply.

        The options are those of `RequestOptions`, by keyword; with `options` a whole struct or a mapping,
        which keywords beside it override. Cancelling the caller cancels the request. Raises `InvalidOption`, a
        `RequestError` or a `ModelUnavailable`.
        """
        return await self._caller.answer(
            partial(self._prompts.plain, prompt), merged(options, given), "text_completion"
        )

    def stream(
        self,
        prompt: Prompt,
        *,
        options: RequestOptions | RequestOptionsDict | None = None,
        **given: Unpack[RequestOptionsDict],
    ) -> Stream:
        """Continue `prompt` as a stream of events: see `Stream`. Options as in `complete`."""
        return self._stream("text_completion", partial(self._prompts.plain, prompt), merged(options, given))

    async def chat(
        self,
        messages: Sequence[ChatMessage],
        *,
        options: RequestOptions | RequestOptionsDict | None = None,
        **given: Unpack[RequestOptionsDict],
    ) -> Completion:
        """Answer a conversation, rendered by the model's own chat template. Options as in `complete`."""
        return await self._caller.answer(partial(self._prompts.chat, messages), merged(options, given), "chat")

    def stream_chat(
        self,
        messages: Sequence[ChatMessage],
        *,
        options: RequestOptions | RequestOptionsDict | None = None,
        **given: Unpack[RequestOptionsDict],
    ) -> Stream:
        """Answer a conversation as a stream of events. Options as in `complete`."""
        return self._stream("chat", partial(self._prompts.chat, messages), merged(options, given))

    def run_tools(
        self,
        messages: MutableSequence[Any],
        *,
        max_rounds: int = 8,
        tool_timeout: float | None = None,
        parallel_calls: int = 8,
        max_result_characters: int = 20_000,
        options: RequestOptions | RequestOptionsDict | None = None,
        **given: Unpack[RequestOptionsDict],
    ) -> ToolRun:
        """Answer a conversation with the help of `tools`, Python functions that the model may call: `await` it for the
        `ToolRunResult`, or read its events, see `ToolRun`.

        Each complete reply and each call's result is appended to `messages`, so that another run with the same list
        goes on where this one was. What goes wrong with a call is told to the model. `tool_timeout` in seconds is for
        each call, `deadline` for the whole run, other options are for each reply, as in `complete`; a `tool_choice` is
        followed until there is a result. At most `parallel_calls` run at a time; a result is cut to
        `max_result_characters`. Raises `InvalidOption`, and what a request raises.
        """
        limits = {
            "max_rounds": max_rounds, "tool_timeout": tool_timeout, "parallel_calls": parallel_calls,
            "max_result_characters": max_result_characters,
        }  # fmt: skip
        return ToolRun(self._caller, Chats(self.chat, self.stream_chat), messages, merged(options, given), limits)

    def _stream(self, operation: Operation, prepare: Prepare, options: Mapping[str, object]) -> Stream:
        begin = partial(self._caller.begin, operation, prepare, options)
        return Stream(Run(self._caller, begin, self._caller.result))

    @checked_names
    def session(
        self,
        session_id: str | None = None,
        *,
        tools: Tools | None = None,
        messages: Sequence[ChatMessage] = (),
        cache_salt: str | None = None,
        drop_oldest: bool = False,
    ) -> Session:
        """A conversation that keeps its exact tokens, see `Session`; `messages` is how it begins, e.g. a system prompt.

        Without a `session_id` it gets one that no other has. With `drop_oldest` a chat that outgrows the context goes
        on without its oldest turns, else it raises `ContextOverflow`. Raises `InvalidOption` and `ChatTemplateError`.
        """
        parse_request_options({"session_id": session_id, "cache_salt": cache_salt})
        if not isinstance(drop_oldest, bool):
            raise InvalidOption("drop_oldest", f"expected bool, got {type(drop_oldest).__name__}")
        return Session(self._caller, session_id, tools, messages, cache_salt, drop_oldest)

    async def prefill_only(
        self,
        prompt: Prompt,
        *,
        options: RequestOptions | RequestOptionsDict | None = None,
        **given: Unpack[RequestOptionsDict],
    ) -> Completion:
        """Compute a prompt and save it, without a reply: to warm the cache. `finish_key` is the saved row's key.

        Options as in `complete`; those that are about a reply change nothing.
        """
        prepare = partial(self._prompts.plain, prompt)
        return await self._caller.answer(prepare, merged(options, given), "prefill")

    async def score(
        self,
        prompt: Prompt | Sequence[ChatMessage],
        continuations: Sequence[Continuation],
        **options: Unpack[ScoreOptionsDict],
    ) -> Scores:
        """How likely each of `continuations` is after `prompt`: a text, a list of token ids, or messages.

        The prompt is computed once, or found; of each continuation only its own tokens are, as far as the model's
        memory lets sequences share a prompt. The prompt is saved as always, of the continuations nothing is. Each is a
        list of token ids, or a text that is tokenized by itself, as plain text without a begin token and without the
        space that some tokenizers put first: the tokens scored are those of the prompt and then those. Where a word
        begins with a space, so should the continuation. At most 2,000 continuations; the options are those of
        `ScoreOptions`. Raises `InvalidOption`, `DeadlinePassed`, another `RequestError` or a `ModelUnavailable`.
        """
        return await self._scoring.score(prompt, continuations, options)

    async def choose(
        self,
        prompt: Prompt | Sequence[ChatMessage],
        options: Sequence[str],
        *,
        normalize_by_length: bool = False,
        **given: Unpack[ScoreOptionsDict],
    ) -> Choice:
        """Which of `options`, texts of which no two are alike, is the likeliest after `prompt`.

        Their probabilities are the softmax of the log-probabilities that `score` gives, so they tell of the options
        among each other: one that begins with another is less likely than that. With `normalize_by_length` each
        log-probability is first divided by the number of its tokens, which takes the advantage from short options.
        Prompt, options and errors as in `score`.
        """
        return await self._scoring.choose(prompt, options, normalize_by_length, given)

    # --- embeddings ----------------------------------------------------------------------------------------------

    async def embed(self, inputs: Input | Sequence[Input], **given: Unpack[EmbedOptionsDict]) -> Embeddings:
        """The embeddings of a text, of a list of token ids, or of a list of either, in their order.

        The options are those of `EmbedOptions`, by keyword. Calls that wait share decodes. The first makes a second
        context over the weights; it is given back when none has come for `scheduler.embed_idle_ms`. Cancelling the
        caller gives its place up. Raises `InvalidOption`, `InputTooLong`, `DeadlinePassed`, another `RequestError`,
        `InsufficientMemory` where there is none for that context, or a `ModelUnavailable`.
        """
        return await embed(self._caller, inputs, parse_embed_options(given))

    async def rerank(self, query: Input, documents: Sequence[Input], **given: Unpack[RerankOptionsDict]) -> Ranking:
        """Documents by how well they answer a query, the best first.

        The options are those of `RerankOptions`, by keyword. Raises `CannotRank` where the model has no head that ranks
        and no `method` is given, and as `embed` does.
        """
        by_score = partial(by_likelihood, self._caller, self._scoring)
        return await rerank(self._caller, query, documents, parse_rerank_options(given), by_score)

    # --- requests, sessions, cells -------------------------------------------------------------------------------

    def cancel(self, request_id: int) -> None:
        """Finish a request (`stream.request_id`) with what it has; allowed when it is over. Raises `InvalidOption`."""
        self._caller.cancel(_checked_id(request_id))

    def end_thinking(self, request_id: int) -> None:
        """Close the thinking of a request (`stream.request_id`): see `Stream.end_thinking`. Raises `InvalidOption`."""
        self._caller.end_thinking(_checked_id(request_id))

    def verify_thinking(self, thinking: str, signature: str) -> bool | None:
        """Whether the model has signed this text as what it thought: see `thinking_signing_key`. `None` without a key.

        Compared in constant time. Raises `InvalidText` for what has no UTF-8 form.
        """
        self._caller.check_loop()
        return is_genuine(self._board.config.thinking_signing_key, thinking, signature)

    async def end_session(self, session_id: str, *, cache_salt: str | None = None) -> None:
        """Stop keeping a sequence for a session. No effect when there is none; a turn under way is not disturbed.

        With the `cache_salt` of its turns: under another one the same id is another session.
        """
        options = parse_request_options({"session_id": session_id, "cache_salt": cache_salt})
        if options.session_id is None:
            raise InvalidOption("session_id", "the id of a session is expected, got None")
        self._caller.end_session(options.session_id, options)

    def inject_fault(self, where: FaultPlace = "actor") -> None:
        """A drill: crash the model's actor, its engine thread (`"thread"`) or its next decode (`"decode"`); or, with
        `isolation="process"`, its process by an assertion of llama.cpp in the next decode (`"assertion"`).

        The supervisor brings the model back and open requests go on, or fail if they are to, as after a real fault.
        """
        if where not in (places := get_args(FaultPlace)):
            raise not_among("where", places, where)
        if where == "assertion" and self._caller.board.config.isolation != "process":
            others = ", ".join(repr(one) for one in places if one != where)
            problem = f"'assertion' would end this process, it is for isolation='process'; expected one of {others}"
            raise InvalidOption("where", problem)
        self._caller.inject_fault(where)

    async def evict(self) -> None:
        """Save what idle sequences hold and is not saved yet, and free their cells.

        Requests at work are not disturbed. Waits for the saves at most the policy's `evict_save_timeout_ms`.
        """
        await self._caller.actor()
        await self._caller.save_all("evict")

    async def unload(self) -> None:
        """Save what is not saved yet, unload the model, and return when its memory is free.

        Saving takes at most the policy's `evict_save_timeout_ms`. Open calls get `ModelNotLoaded`. Where it is called
        again, all callers wait for the same end; cancelling one does not stop the unload. Raises
        `ModelStuck` when its engine thread does not end: the memory stays taken, and so does the id.
        """
        await self._caller.unload()

    # --- text and tokens ---------------------------------------------------------------------------------------

    async def tokenize(self, text: str, *, special: bool = True, add_bos: bool = True) -> list[int]:
        """Token ids of `text`; `special` reads `<|im_start|>` and its like as control tokens, `add_bos` puts the begin
        token first where the model wants one, and all that `embed` puts if it only embeds. Raises `InvalidText`."""
        return await self._prompts.tokenize(text, special=special, add_bos=add_bos)

    async def detokenize(self, tokens: Sequence[int], *, special: bool = True) -> str:
        """The text of `tokens`; control tokens are left out unless `special`. Raises `TokenOutOfRange`."""
        return await self._prompts.detokenize(tokens, special=special)

    @checked_names
    async def apply_chat_template(
        self,
        messages: Sequence[ChatMessage],
        *,
        tools: Tools | None = None,
        add_generation_prompt: bool = True,
        chat_template: str | None = None,
        template_kwargs: Mapping[str, object] | None = None,
        continue_final_message: bool = False,
        tools_in_system: bool = False,
        thinking: bool | None = None,
    ) -> list[int]:
        """The conversation as token ids, rendered by the model's Jinja template, as `chat` would with these options.

        `add_generation_prompt` opens the assistant's turn at the end. Raises `InvalidOption` and `ChatTemplateError`.
        """
        options = parse_request_options({
            "tools": tools, "chat_template": chat_template, "template_kwargs": template_kwargs or {},
            "continue_final_message": continue_final_message, "tools_in_system": tools_in_system, "thinking": thinking,
        })  # fmt: skip
        return await self._prompts.render(messages, options, add_generation_prompt=add_generation_prompt)

    async def chat_format(self) -> ChatFormat:
        """How its conversations are written: its chat template, how it calls tools and marks what it thinks."""
        return await chat_format(self._caller)

    # --- the cache ---------------------------------------------------------------------------------------------

    async def explain(
        self,
        prompt: Prompt | Sequence[ChatMessage],
        *,
        options: RequestOptions | RequestOptionsDict | None = None,
        **given: Unpack[RequestOptionsDict],
    ) -> Explanation:
        """What of a prompt the cache and the live cells hold, and why that is not all of it. Changes nothing.

        Of a conversation also which reply in it is recognised (`turn`), and where its rendering would differ; with
        `session_id` also where the prompt diverges from what is held for that session. Options as in `complete` and
        `chat`; those that do not shape the prompt change nothing.
        """
        return await self._explainer.explain(prompt, parse_request_options(merged(options, given)))

    async def list_cached_prefixes(self, tokens: Sequence[int], *, cache_salt: str | None = None) -> list[CachedPrefix]:
        """The prefixes of `tokens` that are saved, the longest last: a request could start from each."""
        options = parse_request_options({"cache_salt": cache_salt})
        return cached_prefixes(await self._explainer.look(await self._prompts.tokens(tokens), options))


def _checked_id(request_id: object) -> int:
    if not isinstance(request_id, int) or isinstance(request_id, bool):
        raise InvalidOption("request_id", f"the id of a request is expected, got {request_id!r}")
    return request_id


def board_of(model: Model) -> ModelBoard:
    """The board of the load that a handle belongs to."""
    return model._caller.board
