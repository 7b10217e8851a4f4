"""`POST /v1/completions`: prompts continued as they are, whole or as a stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import msgspec
from starlette.types import ASGIApp

import erllama_py as erllama
from erllama_py.serve.core.api import json_response
from erllama_py.serve.core.errors import error_body
from erllama_py.serve.core.exchange import Exchange
from erllama_py.serve.core.hints import Options, with_hints, without_session
from erllama_py.serve.core.problems import Problem
from erllama_py.serve.core.service import session_of
from erllama_py.serve.core.streams import SSE, Events, sse
from erllama_py.serve.openai.chunks import head
from erllama_py.serve.openai.logprobs import plain_logprobs
from erllama_py.serve.openai.protocol import API, CompletionRequest, needed
from erllama_py.serve.openai.reading import Reading
from erllama_py.serve.openai.sampling import sampling
from erllama_py.serve.openai.several import SideBySide
from erllama_py.serve.openai.usage import usage

DEFAULT_TOKENS = 16  # of a reply to a request that does not say, as in OpenAI's API
MOST_PROMPTS = 128
_encode = msgspec.json.Encoder().encode

Prompt = str | list[int]


async def completions(exchange: Exchange) -> ASGIApp:
    """Continue the prompts."""
    request = await exchange.body(CompletionRequest)
    model = await exchange.model(needed(request.model))
    prompts, n = prompts_of(request.prompt), request.n or 1
    options = exchange.options(options_of(request, len(prompts)))
    begun = head("text_completion", f"cmpl-{exchange.id[4:]}", request.model or model.id, model.info)
    shown = [await _shown(model, prompt, request.logprobs is not None) for prompt in prompts] if request.echo else []

    def events(given: Options) -> Events:
        def begin(place: int) -> erllama.Stream:
            more: Any = {**given, **({"queue_wait": True} if place else {})}
            return model.stream(prompts[place], options=more)

        return begin(0) if len(prompts) == 1 else SideBySide(begin, len(prompts), n)

    if request.stream:
        writer = TextWriter(begun, request, shown, n)

        async def stream(given: Options) -> ASGIApp:
            return await exchange.streamed(events(given), writer)

        return await with_hints(stream, options, without_session)

    async def answer(given: Options) -> erllama.Completion:
        return await exchange.answer(Reading().of(events(given)))

    completion = await with_hints(answer, options, without_session)
    body = whole(begun, completion, request, shown)
    return json_response(body, headers={"x-request-id": exchange.id})


def prompts_of(given: str | list[str | int | list[int]]) -> list[Prompt]:
    """One prompt or several, each a text or its tokens. Raises `Problem`."""
    if isinstance(given, str):
        return [given]
    if given and isinstance(given[0], int):
        return [cast("list[int]", given)]  # what is no token in it the model refuses, and not on the event loop
    if len(given) > MOST_PROMPTS:
        raise Problem("too_large", f"prompt: at most {MOST_PROMPTS} prompts are taken at a time", param="prompt")
    prompts = [one for one in given if not isinstance(one, int)]
    if not given or len(prompts) < len(given):
        message = "prompt: a text, a list of token ids, or a list of either is expected"
        raise Problem("invalid", message, param="prompt")
    return prompts


def options_of(request: CompletionRequest, prompts: int) -> dict[str, Any]:
    """A request's options by this library's names. Raises `Problem`."""
    if request.suffix:
        raise Problem("invalid", "suffix: this server does not fill in between texts", param="suffix")
    if (request.best_of or 1) > (request.n or 1):
        message = "best_of: this server draws as many replies as it gives; ask for n, with logprobs"
        raise Problem("invalid", message, param="best_of")
    scored = request.echo and request.logprobs is not None
    if scored and request.stream:
        raise Problem("invalid", "echo: log-probabilities of a prompt are not streamed", param="echo")
    only_prompt = request.echo and request.max_tokens == 0
    if only_prompt:
        request = msgspec.structs.replace(request, max_tokens=1)  # it is computed with the prompt, and not shown
    options = sampling(request)
    if request.max_tokens is None:
        options["response_tokens"] = DEFAULT_TOKENS
    options |= {"logprobs": request.logprobs, "prompt_logprobs": request.logprobs if scored else None}
    if (request.n or 1) == prompts == 1:
        options["session_id"] = session_of(request.prompt_cache_key)
    return options


class Shown(NamedTuple):
    """A prompt that is told before its reply."""

    text: str
    first: str
    """The text of its first token, which may be none of the prompt's."""


async def _shown(model: erllama.Model, prompt: Prompt, scored: bool) -> Shown:
    if not isinstance(prompt, str):
        return Shown(await model.detokenize(prompt), await model.detokenize(prompt[:1]))
    tokens = await model.tokenize(prompt) if scored else []
    return Shown(prompt, await model.detokenize(tokens[:1], special=False))


REASONS = {"stop": "stop", "length": "length", "cancelled": "length", "deadline": "length"}


def whole(
    begun: Mapping[str, Any], completion: erllama.Completion, request: CompletionRequest, shown: Sequence[Shown]
) -> dict[str, Any]:
    """A `text_completion`."""
    replies = completion.alternatives or (completion,)
    if request.max_tokens == 0:
        replies = tuple(msgspec.structs.replace(one, reply="", generated=[], logprobs=[]) for one in replies)
        completion = msgspec.structs.replace(completion, alternatives=replies)
    choices, n = [], request.n or 1
    for index, one in enumerate(replies):
        before, first = shown[index // n] if shown else ("", "")
        logprobs = None
        if request.logprobs is not None:
            scored = replies[index - index % n].prompt_logprobs if shown else None  # the first of the prompt has it
            tokens = [*(scored or ()), *(one.logprobs or ())]
            logprobs = plain_logprobs(tokens, 0 if scored else len(before), first)
        choices.append(
            {
                "index": index, "text": before + one.reply, "logprobs": logprobs,
                "finish_reason": REASONS[one.finish_reason],
            }
        )  # fmt: skip
    return {**begun, "choices": choices, "usage": usage(completion)}


class TextWriter:
    """A stream of `text_completion` events, ended by `[DONE]`."""

    media_type = SSE
    heartbeat = b": the prompt is being read\n\n"

    def __init__(self, begun: Mapping[str, Any], request: CompletionRequest, shown: Sequence[Shown], n: int) -> None:
        self._head = _encode(begun)[:-1]
        self._usage = bool(request.stream_options and request.stream_options.include_usage)
        self._tail = b',"usage":null}' if self._usage else b"}"
        self._offsets = {place * n + index: len(one.text) for place, one in enumerate(shown) for index in range(n)}
        self._shown, self._n = shown, n
        self._silent = request.max_tokens == 0

    def begin(self) -> bytes:
        """The prompts, where they are asked for."""
        n = self._n
        texts = [(place * n + index, one.text) for place, one in enumerate(self._shown) for index in range(n)]
        return b"".join(self._chunk(index, text) for index, text in texts)

    def event(self, event: erllama.Event) -> bytes:
        """New text."""
        if self._silent or not isinstance(event, erllama.TextDelta):
            return b""
        logprobs = None
        if event.logprobs is not None:
            offset = self._offsets.get(event.index, 0)
            logprobs = plain_logprobs(event.logprobs, offset)
            self._offsets[event.index] = offset + len(event.text)
        return self._chunk(event.index, event.text, logprobs)

    def done(self, completion: erllama.Completion) -> bytes:
        """The reasons, the usage where it was asked for, and the end."""
        replies = completion.alternatives or (completion,)
        ends = [self._chunk(index, "", None, REASONS[one.finish_reason]) for index, one in enumerate(replies)]
        if self._usage:
            ends.append(sse(self._head + b"," + _encode({"choices": [], "usage": usage(completion)})[1:]))
        return b"".join([*ends, sse(b"[DONE]")])

    def failed(self, problem: Problem) -> bytes:
        """The error in place of a chunk."""
        return sse(_encode(error_body(API.problem(problem))))

    def _chunk(self, index: int, text: str, logprobs: Any = None, finish_reason: str | None = None) -> bytes:
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}
        return sse(self._head + b"," + _encode({"choices": [choice]})[1:-1] + self._tail)
