"""`erllama complete`: one text continued, or one message answered."""

from __future__ import annotations

import asyncio
import re
import sys
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

import erllama_py as erllama
from erllama_py.serve.cli import screen
from erllama_py.serve.cli.ending import DONE, UsageError
from erllama_py.serve.cli.model_options import Seed, opened, reply_options, single_user

_OPTION = re.compile(r"--?[a-z-]+$")  # a prompt may begin with a hyphen, and one that is no more is a slip


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What `--json` prints."""

    reply: str
    thinking: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    stats: erllama.Stats


def complete(
    model: str,
    prompt: Annotated[str, Parameter(allow_leading_hyphen=True)] = "-",
    /,
    *,
    chat: bool = False,
    tokens: int | None = None,
    temperature: float | None = None,
    seed: Seed = None,
    context: int | None = None,
    threads: int | None = None,
    cache: str | None = None,
    json: bool = False,
) -> int:
    """Continue a text, or answer a message, and print the reply as it comes.

    Parameters
    ----------
    model
        A GGUF file; a model of the Hugging Face hub, as hf:owner/repo:Q4_K_M; or the name of a small model that can
        be fetched: smollm2, gemma3.
    prompt
        The text; without it, or as -, it is read from the standard input.
    chat
        Answer the text as a message, through the model's chat template, instead of continuing it.
    tokens
        Most tokens of the reply; without it, 8,192.
    temperature
        0.0 always takes the likeliest token.
    seed
        Repeats a reply.
    context
        Tokens of prompt and reply together; by default as many as suit the model and the free memory; 0 for as
        many as the model was trained for.
    threads
        CPU threads; by default as many as compute fastest.
    cache
        A directory that keeps what was computed: the same prompt is then read from there the next time.
    json
        Print the reply and its counts as JSON, when it is whole.
    """
    text = _read(prompt)
    given = reply_options(tokens=tokens, temperature=temperature, seed=seed)
    config = single_user(model, context=context, threads=threads, cache=cache)
    completion = asyncio.run(_complete(config, text, given, chat=chat, whole=json))
    if json:
        screen.print_json(_result(completion))
    return DONE


def _read(prompt: str) -> str:
    if _OPTION.match(prompt):
        raise UsageError(f"Unknown option: {prompt}; see: erllama complete --help")
    if prompt != "-":
        return prompt
    if sys.stdin.isatty():
        raise UsageError("there is no prompt: give it as an argument, or through a pipe; see: erllama complete --help")
    try:
        if text := sys.stdin.read():
            return text
        raise UsageError("there is no prompt: the standard input is empty; see: erllama complete --help")
    except UnicodeDecodeError as error:
        raise UsageError(f"the standard input is no text: {error.reason} at byte {error.start}") from None


async def _complete(
    config: Any, text: str, options: dict[str, Any], *, chat: bool, whole: bool
) -> erllama.Completion:  # fmt: skip
    async with opened(config) as model:
        if chat:
            stream = model.stream_chat([{"role": "user", "content": text}], **options)
        else:
            stream = model.stream(text, **options)
        async with stream as events:
            async for event in events:
                if isinstance(event, erllama.TextDelta) and not whole:
                    screen.say(event.text)
                elif isinstance(event, erllama.Done):
                    if not whole:
                        print(flush=True)
                    return event.completion
    raise AssertionError("a stream ends with Done")


def _result(completion: erllama.Completion) -> Result:
    return Result(
        reply=completion.reply, thinking=completion.thinking or "", finish_reason=completion.finish_reason,
        prompt_tokens=completion.prompt_tokens, completion_tokens=len(completion.generated),
        cached_tokens=completion.cache_delta.read, stats=completion.stats,
    )  # fmt: skip
