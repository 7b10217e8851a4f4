"""How likely continuations of a prompt are: a request for the prompt, then one for each continuation.

    prompt ─▶ its cells, and how likely each first token is ─▶ for each continuation of several tokens: the others

The first request computes or finds the prompt, and saves it as always. The others begin with its cells where the memory
lets sequences share them, else with its row; a few run side by side, and nothing of them is kept. The row of logits
after a token scores the next one, so the last token of a continuation is never computed, and one of a single token
needs no request of its own. All or nothing: when one fails, the others are cancelled.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec

from erllama_py.cache.keys import Identity, pack_tokens, prefix_keys
from erllama_py.engine.backend import Vocabulary
from erllama_py.engine.jobs import Report
from erllama_py.errors import ContextOverflow, InvalidOption, RequestError
from erllama_py.handle.caller import Caller
from erllama_py.handle.fitting import as_prompt, check_count, check_least
from erllama_py.handle.port import INLINE_LENGTH
from erllama_py.handle.prompts import ChatMessage, Prompt, Prompts
from erllama_py.handle.replies import Prepared, ReplyPlan
from erllama_py.handle.side_by_side import of_each, within
from erllama_py.handle.tracing import operation_span
from erllama_py.model.request import check_tokens
from erllama_py.options.request import RequestOptions
from erllama_py.options.scores import ScoreOptions, check_continuations, check_options, parse_score_options
from erllama_py.results import EARLY, Choice, Completion, Score, Scores
from erllama_py.scheduler.messages import Request
from erllama_py.watch.spans import of_scores

Continuation = str | Sequence[int]


# --- pure ----------------------------------------------------------------------------------------------------------


def first_of(request: Request, continuations: Sequence[Sequence[int]]) -> Request:
    """The request of the prompt alone, which tells how likely the first token of each continuation is."""
    firsts = tuple(dict.fromkeys(tokens[0] for tokens in continuations))
    report = Report(prompt_logprobs=0, scored_from=request.n_tokens, next_tokens=firsts)
    return msgspec.structs.replace(request, report=report)


def other_of(first: Request, request_id: int, tokens: Sequence[int], parent_key: bytes | None) -> Request:
    """The request that tells how likely the second token of a continuation is, and those after it."""
    packed = first.packed + pack_tokens(tokens[:-1])
    report = Report(prompt_logprobs=0, scored_from=first.n_tokens + 1, next_tokens=(tokens[-1],))
    return msgspec.structs.replace(
        first, id=request_id, tokens=[*first.tokens, *tokens[:-1]], packed=packed, report=report,
        key=prefix_keys(first.identity, packed, (first.n_tokens + len(tokens) - 1,))[0],
        plan=None if first.plan is None else msgspec.structs.replace(first.plan, prompt_only=True),
        lasting=first.n_tokens, parent_key=parent_key, queue_wait=math.inf,
    )  # fmt: skip


class Told(NamedTuple):
    """What is kept of the request of one continuation. Of a tuple of numbers alone the garbage collector learns soon
    that it need not look at it; a thousand long continuations have millions of them."""

    logprobs: tuple[float, ...]
    prefill_tokens: int


def told(done: Completion) -> Told:
    """What a request that was asked about tokens says of them, in their order."""
    logprobs = tuple([one.logprob for one in done.prompt_logprobs or () if one is not None])
    return Told(logprobs, done.stats.prefill_tokens)


def gathered(first: Completion, others: Mapping[int, Told], continuations: Sequence[list[int]]) -> Scores:
    """The scores of all continuations: `others` are those of several tokens, by their places."""
    firsts, scores = {one.token_id: one.logprob for one in first.prompt_logprobs or () if one is not None}, []
    for index, tokens in enumerate(continuations):
        logprobs = [firsts[tokens[0]], *(others[index].logprobs if index in others else ())]
        scores.append(Score(logprob=math.fsum(logprobs), token_ids=tokens, token_logprobs=logprobs))
    computed = first.stats.prefill_tokens + sum(one.prefill_tokens for one in others.values())
    return Scores(
        scores=tuple(scores), prompt_tokens=first.prompt_tokens, prefill_tokens=computed, cache_delta=first.cache_delta
    )


def chosen(options: Sequence[str], scores: Scores, *, by_length: bool) -> Choice:
    """The likeliest of the options, and the softmax of all."""
    logs = [one.logprob / (len(one.token_ids) if by_length else 1) for one in scores.scores]
    best = max(logs)
    shares = [1.0 if best == -math.inf else math.exp(log - best) for log in logs]
    whole, index = math.fsum(shares), logs.index(best)
    odds = tuple(share / whole for share in shares)
    return Choice(option=options[index], index=index, probability=odds[index], probabilities=odds, scores=scores)


# --- asking --------------------------------------------------------------------------------------------------------


class Scoring:
    """The calls `score` and `choose` of one model."""

    def __init__(self, caller: Caller, prompts: Prompts) -> None:
        self._caller, self._prompts = caller, prompts

    async def score(
        self, prompt: Prompt | Sequence[ChatMessage], continuations: object, options: Mapping[str, object]
    ) -> Scores:
        """See `Model.score`."""
        given = check_continuations("continuations", continuations)
        return await self._in_time(prompt, "continuations", given, options)

    async def choose(
        self, prompt: Prompt | Sequence[ChatMessage], options: object, by_length: object, given: Mapping[str, object]
    ) -> Choice:
        """See `Model.choose`."""
        texts = check_options(options)
        if not isinstance(by_length, bool):
            raise InvalidOption("normalize_by_length", f"expected bool, got {type(by_length).__name__}")
        return chosen(texts, await self._in_time(prompt, "options", texts, given), by_length=by_length)

    async def _in_time(
        self, prompt: object, option: str, given: Sequence[str | Sequence[object]], options: Mapping[str, object]
    ) -> Scores:
        self._caller.check_loop()
        with operation_span("score", self._caller.model_id) as span:
            self._caller.check_generates()
            checked, now = parse_score_options(options), time.monotonic()

            async def whole() -> Scores:
                prepared = await self._prepared(prompt, checked)
                continuations = await self._tokenized(option, given)
                return await self._scores(prepared, continuations, checked, now)

            done = await within(checked.deadline, whole())
            span.tell(lambda: of_scores(done))
        return done

    async def _prepared(self, prompt: Any, checked: ScoreOptions) -> Prepared:
        if isinstance(prompt, Sequence) and prompt and isinstance(prompt[0], Mapping):
            return await self._prompts.chat(prompt, request_options(checked))
        return await self._prompts.plain(prompt, request_options(checked))

    async def _tokenized(self, option: str, given: Sequence[str | Sequence[object]]) -> list[list[int]]:
        """The tokens of each continuation, at least one."""

        def tokenize(vocabulary: Vocabulary) -> list[list[int]]:
            return [self._tokens_of(one, vocabulary) for one in given]

        continuations = await self._caller.use_vocabulary(tokenize, sum(map(len, given)) + 10 * len(given))
        if [] in continuations:
            raise InvalidOption(option, f"at index {continuations.index([])}: it has no tokens")
        return continuations

    def _tokens_of(self, one: str | Sequence[object], vocabulary: Vocabulary) -> list[int]:
        """Those of a continuation. Raises `ContextOverflow` for what no context holds."""
        n_ctx = self._prompts.n_ctx
        if isinstance(one, str):
            check_least(vocabulary, one, n_ctx)
            return as_prompt(vocabulary.tokens_after(one), n_ctx)
        check_count(len(one), n_ctx)
        return check_tokens(one, vocabulary.n_vocab)

    async def _scores(
        self, prepared: Prepared, continuations: list[list[int]], checked: ScoreOptions, now: float
    ) -> Scores:
        board, plan = self._caller.board, ReplyPlan(request_options(checked))
        check_room(len(prepared.tokens), continuations, board.config.context_opts.cells)
        await board.actor()
        identity = board.identity
        request = await self._caller.request(board, prepared, plan, now, prefill_only=True)
        whole = partial(self._whole, identity, checked)
        first = await whole(first_of(request, continuations))
        facts, several = board.facts, [index for index, one in enumerate(continuations) if len(one) > 1]
        assert facts is not None
        # Only what cannot be shared out of cells waits for the prompt's row to be saved.
        saved = first.finish_key
        parent = None if facts.memory == "full" or saved is None else bytes.fromhex(saved)

        async def other(index: int) -> Told:
            return told(await whole(await self._other(request, continuations[index], parent)))

        others = await of_each(several, other, min(facts.n_seq_max + 1, len(several)))
        if sum(map(len, continuations)) <= INLINE_LENGTH:
            return gathered(first, others, continuations)
        return await self._caller.threads.run(gathered, first, others, continuations)

    async def _other(self, first: Request, tokens: list[int], parent: bytes | None) -> Request:
        caller, ticket = self._caller, self._caller.ticket()
        if first.n_tokens + len(tokens) <= INLINE_LENGTH:
            return other_of(first, ticket, tokens, parent)
        return await caller.threads.run(other_of, first, ticket, tokens, parent)

    async def _whole(self, identity: Identity | None, checked: ScoreOptions, request: Request) -> Completion:
        """What a request comes to that was made for a model of this identity, if it comes to its end."""
        reply = await self._caller.submit(request, identity, goes_on=checked.on_crash == "continue")
        done = await self._caller.result(reply)
        if done.finish_reason in EARLY:
            raise RequestError(f"request {request.id}, which was to score a part of this, was cancelled by its id")
        return done


def request_options(checked: ScoreOptions) -> RequestOptions:
    """What each request of a call is given; the deadline is that of the whole."""
    return RequestOptions(
        cache_salt=checked.cache_salt, priority=checked.priority, queue_wait=checked.queue_wait,
        on_crash=checked.on_crash,
    )  # fmt: skip


def check_room(n_prompt: int, continuations: Sequence[Sequence[int]], n_ctx: int) -> None:
    """Whether the context holds the prompt with each continuation. Raises `ContextOverflow`."""
    longest = max(map(len, continuations))
    if n_prompt and n_prompt + longest - 1 > n_ctx:
        problem = (
            f"the prompt has {n_prompt} tokens and the longest continuation {longest}, and the context of {n_ctx} "
            "must hold all but the last"
        )
        raise ContextOverflow(problem, n_prompt, n_ctx)
