"""A conversation on the caller's side that keeps the tokens which were really read and sampled.

    async with model.session() as session:
        done = await session.chat("Hello!")

A turn's prompt is all tokens so far and then what is new, so that nothing of it has to be computed again; the chat
template is asked only what stands between the two (`chat/turns.py`). A turn is made of four steps: claim the session,
build the prompt, submit it, and commit what came of it; one turn at a time. Only a turn that has its `Completion`
commits anything. Nothing here outlives its call but the tokens and messages.
"""

from __future__ import annotations

import uuid
from asyncio import CancelledError
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from copy import deepcopy
from functools import partial
from typing import Self, Unpack

import anyio
import msgspec

from erllama_py.actors import ActorError, Reply
from erllama_py.chat.conversation import check_messages, text_of_content
from erllama_py.chat.trimming import trimmed, turns_of
from erllama_py.errors import BUSY, ContextOverflow, ErllamaError, InvalidOption, SessionBusy, SessionEnded
from erllama_py.handle.caller import Caller
from erllama_py.handle.keep_ends import of_kept, with_dropped
from erllama_py.handle.prompts import ChatMessage, Prompt, Prompts, Tools
from erllama_py.handle.replies import Prepared
from erllama_py.handle.stream import Run, Stream
from erllama_py.handle.tool_list import tool_list
from erllama_py.options.attributes import OtherNames
from erllama_py.options.chat import check_is_prompt
from erllama_py.options.keep import check_keeps
from erllama_py.options.mappings import TurnOptionsDict
from erllama_py.options.request import RequestOptions, merged
from erllama_py.results import EARLY, Completion
from erllama_py.scheduler.messages import Feed
from erllama_py.watch.spans import Operation


class Turn(msgspec.Struct, frozen=True):
    """What a turn asks, and what the session will hold when it is answered.

    `messages` are followed by a reply that begins with `opening`. `exact`: the prompt begins with all tokens that were
    held. `rendered`: it holds `messages` as the template shows them. `told`: it is made of messages and replies alone,
    so that others with the same messages may continue it.
    """

    prompt: Prepared
    messages: list[ChatMessage]
    opening: str = ""
    exact: bool = True
    rendered: bool = True
    told: bool = True


Prepare = Callable[[RequestOptions], Awaitable[Turn]]


class Session(OtherNames):
    """A conversation with one model: `model.session(…)` makes it. One turn at a time."""

    def __init__(
        self,
        caller: Caller,
        session_id: str | None = None,
        tools: Tools | None = None,
        messages: Sequence[ChatMessage] = (),
        cache_salt: str | None = None,
        drop_oldest: bool = False,
    ) -> None:
        self.id = uuid.uuid4().hex if session_id is None else session_id
        self._caller = caller
        self._prompts = Prompts(caller)
        self._salt = cache_salt
        self._drops_oldest = drop_oldest
        self._tools = tool_list(tools) or None
        self._messages: list[ChatMessage] = []
        if messages not in ((), []):
            self._messages += deepcopy(check_messages(messages))
        self._tokens: list[int] = []
        self._rendered = False  # the tokens hold the messages: a chat can extend them
        self._exact = True
        self._is_told = True
        self._ended = False
        self._free = anyio.Semaphore(1, max_value=1)

    def __repr__(self) -> str:
        state = "ended" if self._ended else "idle" if self._free.value else "busy"
        held = f"{len(self._messages)} messages, {len(self._tokens)} tokens"
        return f"<Session {self.id!r} of {self._caller.model_id!r} {state}, {held}>"

    @property
    def tokens(self) -> list[int]:
        """All tokens so far, as they were read and sampled; a copy."""
        return list(self._tokens)

    @property
    def messages(self) -> list[ChatMessage]:
        """What was said so far; a copy."""
        return deepcopy(self._messages)

    @property
    def exact(self) -> bool:
        """Whether the last turn extended all tokens of the one before.

        Otherwise the template could not continue the conversation, and it was rendered again.
        """
        return self._exact

    # --- turns -------------------------------------------------------------------------------------------------

    async def chat(
        self,
        message: str | ChatMessage | Sequence[ChatMessage],
        *,
        options: RequestOptions | TurnOptionsDict | None = None,
        **given: Unpack[TurnOptionsDict],
    ) -> Completion:
        """Say something and get the answer: a user's text, a message such as a tool's result, or several messages.

        Options as in `Model.complete`. A turn that raises, or whose caller is cancelled, leaves the session as it was.
        Raises `SessionBusy` while another turn is under way, unless `session_wait` is true.
        """
        return await self._answer("chat", partial(self._chat_turn, message), merged(options, given))

    def stream_chat(
        self,
        message: str | ChatMessage | Sequence[ChatMessage],
        *,
        options: RequestOptions | TurnOptionsDict | None = None,
        **given: Unpack[TurnOptionsDict],
    ) -> Stream:
        """`chat` as a stream of events.

        The turn is over with `Done`, or when the block is left. If that was early, or `events.cancel()` was called, the
        session continues from what had been generated.
        """
        return self._stream("chat", partial(self._chat_turn, message), merged(options, given))

    async def complete(
        self,
        prompt: Prompt,
        *,
        options: RequestOptions | TurnOptionsDict | None = None,
        **given: Unpack[TurnOptionsDict],
    ) -> Completion:
        """Append a text or tokens, as they are, to all that was read and said, and continue them.

        Among the messages this counts as said by the assistant: after a reply, `complete("")` continues it. A text has
        no turns, so `drop_oldest` drops nothing of it: one that outgrows the context raises `ContextOverflow`.
        """
        return await self._answer("text_completion", partial(self._raw_turn, prompt), merged(options, given))

    def stream(
        self,
        prompt: Prompt,
        *,
        options: RequestOptions | TurnOptionsDict | None = None,
        **given: Unpack[TurnOptionsDict],
    ) -> Stream:
        """`complete` as a stream of events; see `stream_chat`."""
        return self._stream("text_completion", partial(self._raw_turn, prompt), merged(options, given))

    def trim(self, turns: int) -> list[ChatMessage]:
        """Keep the last `turns` turns and the system prompt, and return the messages that were dropped.

        The next turn reads again what is left, as far as no row of the cache begins like it. A session of texts
        (`complete`) has no turns, and nothing of it is dropped. Raises `SessionBusy` while a turn is under way,
        `InvalidOption` for what is no number of turns.
        """
        if type(turns) is not int or turns < 0:
            raise InvalidOption("turns", f"expected a number of turns to keep, got {turns!r}")
        self._caller.check_loop()
        if not self._free.value:
            raise SessionBusy(BUSY, self.id)
        kept = trimmed(self._messages, turns)
        dropped = [one for one in self._messages if not any(one is other for other in kept)]
        if dropped:
            self._messages, self._tokens, self._rendered = [*kept], [], False
        return dropped

    # --- its end -----------------------------------------------------------------------------------------------

    async def end(self) -> None:
        """Let the model forget the session. Its later turns raise `SessionEnded`; allowed twice."""
        self._caller.check_loop()
        if not self._ended:
            self._ended = True
            self._caller.end_session(self.id, RequestOptions(cache_salt=self._salt))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.end()

    # --- inside ------------------------------------------------------------------------------------------------

    def _stream(self, operation: Operation, prepare: Prepare, options: Mapping[str, object]) -> Stream:
        run = _TurnRun(self, operation, prepare, options)
        return Stream(Run(self._caller, run.begin, run.result, run.left))

    async def _answer(self, operation: Operation, prepare: Prepare, options: Mapping[str, object]) -> Completion:
        run = _TurnRun(self, operation, prepare, options)
        _, reply = await run.begin(None)
        return await run.result(reply)

    def _check(self, options: Mapping[str, object]) -> None:
        """Refuse what belongs to the session and not to its turns."""
        if "session_id" in options:
            raise InvalidOption("session_id", "a session has its own")
        if "tools" in options:
            raise InvalidOption("tools", "they belong to the whole session: model.session(tools=…)")
        if options.get("continue_final_message"):
            raise InvalidOption("continue_final_message", 'a session\'s reply is continued by session.complete("")')
        if options.get("cache_salt", self._salt) != self._salt:
            raise InvalidOption("cache_salt", "it belongs to the whole session: model.session(cache_salt=…)")

    async def _chat_turn(self, message: str | ChatMessage | Sequence[ChatMessage], options: RequestOptions) -> Turn:
        new = _checked(message)
        messages = [*self._messages, *new]
        held = self._tokens
        if self._rendered:
            prepared = await self._prompts.after_reply(messages, len(self._messages) - 1, held, options, self._is_told)
            if prepared is not None and not (self._drops_oldest and self._is_full(prepared, options)):
                return Turn(prepared, messages, told=self._is_told)
        whole, prepared = messages, await self._fitting(messages, options)
        while prepared is None or (self._drops_oldest and self._is_full(prepared, options) and turns_of(messages) > 1):
            # By halves: the next turns then find room, and what was read.
            messages = trimmed(messages, turns_of(messages) // 2)
            prepared = await self._fitting(messages, of_kept(options, whole, len(messages)))
        self._check_fits(len(prepared.tokens), messages)
        prepared = with_dropped(prepared, options, whole, len(messages))
        return Turn(prepared, messages, exact=prepared.tokens[: len(held)] == held)

    async def _fitting(self, messages: list[ChatMessage], options: RequestOptions) -> Prepared | None:
        """The prompt of a conversation; None where no context holds it, and older turns are to be dropped."""
        try:
            return await self._prompts.chat(messages, options)
        except ContextOverflow as error:
            if self._drops_oldest and turns_of(messages) > 1:
                return None
            self._check_fits(error.prompt_tokens, messages, "at least ")
            raise

    def _is_full(self, prepared: Prepared, options: RequestOptions) -> bool:
        """Whether a prompt leaves no room for its reply: as long as was asked for, else a quarter of the context."""
        n_ctx = self._prompts.n_ctx
        return len(prepared.tokens) + (options.response_tokens or n_ctx // 4) > n_ctx

    def _check_fits(self, count: int, messages: Sequence[ChatMessage], least: str = "") -> None:
        """Say what can be done with a session that leaves no room for a reply, before the request is refused for it."""
        n_ctx = self._prompts.n_ctx
        if count < n_ctx:
            return
        problem = f"the session has {least}{count} tokens with this turn, and the context of {n_ctx} must hold one more"
        if turns_of(messages) > 1:
            advice = "session.trim(turns) drops the oldest turns, and model.session(drop_oldest=True) does so by itself"
        elif messages and messages[0]["role"] != "assistant":
            advice = "there is no older turn to drop: a larger context_opts.n_ctx, or a shorter message"
        else:
            advice = "a text has no turns to drop: begin another session with the end of session.tokens"
        raise ContextOverflow(f"{problem}; {advice}", count, n_ctx)

    async def _raw_turn(self, prompt: Prompt, options: RequestOptions) -> Turn:
        check_is_prompt(options)
        check_keeps(options.keep, None)
        held, messages = self._tokens, self._messages
        try:
            if isinstance(prompt, str):
                text, added = prompt, await self._prompts.tokenize(prompt, add_bos=not held, fits=True)
            else:
                added = await self._prompts.tokens(prompt, fits=True)
                text = await self._prompts.detokenize(added)
        except ContextOverflow as error:
            self._check_fits(len(held) + error.prompt_tokens, messages, "at least ")
            raise
        self._check_fits(len(held) + len(added), messages)
        if messages and messages[-1]["role"] == "assistant" and not messages[-1].get("tool_calls"):
            *messages, last = messages
            text = text_of_content(last.get("content")) + text
        return Turn(Prepared([*held, *added]), messages, text, rendered=self._rendered, told=False)

    def _commit(self, turn: Turn, completion: Completion) -> None:
        self._messages = [*turn.messages, {**completion.message, "content": turn.opening + completion.reply}]
        self._tokens = turn.prompt.tokens + completion.generated
        self._rendered, self._exact, self._is_told = turn.rendered, turn.exact, turn.told


class _TurnRun:
    """The request of a turn. It has the session to itself from `begin` on, until its result is there or was left."""

    def __init__(self, session: Session, operation: Operation, prepare: Prepare, options: Mapping[str, object]) -> None:
        self._session, self._operation, self._prepare, self._options = session, operation, prepare, options
        self._turn: Turn | None = None
        self._held = ExitStack()
        self._committed = False

    async def begin(self, feed: Feed | None) -> tuple[int, Reply[Completion]]:
        """Claim the session, build the turn and submit it."""
        session, options = self._session, self._options
        session._check(options)
        passed = {**options, "session_id": session.id, "cache_salt": session._salt, "tools": session._tools}
        try:
            return await session._caller.begin(self._operation, self._prompt, passed, feed)
        except BaseException:
            self._held.close()
            raise

    async def _prompt(self, options: RequestOptions) -> Prepared:
        await self._claim(wait=self._options.get("session_wait") is True)
        if self._session._ended:
            raise SessionEnded(f"the session {self._session.id!r} was ended", self._session.id)
        self._turn = turn = await self._prepare(options)
        return turn.prompt

    async def _claim(self, wait: bool) -> None:
        """Raises `SessionBusy` where another call has the session, unless it is to `wait` for that."""
        session = self._session
        if wait:
            await session._free.acquire()
        else:
            try:
                session._free.acquire_nowait()
            except anyio.WouldBlock:
                raise SessionBusy(BUSY, session.id) from None
        self._held.callback(session._free.release)

    async def result(self, reply: Reply[Completion]) -> Completion:
        """Wait for the result, commit the turn and release the session. A turn that was cancelled before its reply
        began is dropped."""
        with self._held:
            self._committed = True
            completion = await self._session._caller.result(reply)
            if self._turn is not None and (completion.generated or completion.finish_reason not in EARLY):
                self._session._commit(self._turn, completion)
            return completion

    async def left(self, reply: Reply[Completion], error: BaseException | None) -> None:
        """Commit what had been generated when the block was left early."""
        with self._held:
            # A task that is cancelled waits for nothing more; a turn that failed was reported to its reader.
            if not self._committed and not isinstance(error, CancelledError):
                with suppress(ErllamaError, ActorError):
                    await self.result(reply)


def _checked(said: str | ChatMessage | Sequence[ChatMessage]) -> list[ChatMessage]:
    """Messages as templates expect them, copied: they are the session's own. Raises `ChatTemplateError`."""
    if isinstance(said, str):
        said = {"role": "user", "content": said}
    if isinstance(said, Mapping):
        said = [said]
    return [] if said in ((), []) else [*deepcopy(check_messages(said))]
