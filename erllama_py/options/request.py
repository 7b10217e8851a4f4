"""The options of one request, checked once, at the door; see `model` for those of a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from msgspec import Meta
from msgspec.structs import asdict

from erllama_py.errors import InvalidOption
from erllama_py.errors.shown import shown
from erllama_py.options.chat import ChatOptions, check_chat, tool_choice
from erllama_py.options.check import MOST_UTF8, Count, Deadline, OnCrash, check_utf8, convert, hex_digest
from erllama_py.options.combinations import check_combinations
from erllama_py.options.keep import Keep, keeps
from erllama_py.options.model import Salt
from erllama_py.options.names import given_at
from erllama_py.options.sampling import MAX_BIAS, MAX_BREAKER_BYTES
from erllama_py.options.thinking import check_thinking

# Stop sequences are searched for after each token on the engine's thread, which all requests of a model share;
# within these bounds that takes microseconds. Real ones are few and short.
MAX_STOP_SEQUENCES = 64
MAX_STOP_CHARACTERS = 4096
StopText = Annotated[str, Meta(min_length=1, max_length=MAX_STOP_CHARACTERS)]  # empty would end each reply at once
MAX_ALTERNATIVES = 64  # each takes a place in the queue, whether there is one or not
# A reply whose request says nothing of its length: a model that repeats itself never ends, and at 50 tokens a second
# it would be at work for 44 minutes in a context of 131,072 tokens; now for 3.
DEFAULT_RESPONSE_TOKENS = 8192
MAX_LOGPROBS = 20  # as in OpenAI's API
BACKGROUND = -1000  # the lowest priority: see `engine.tick_plan`

# What a reply can follow, at most one of them.
STRUCTURES = ("json_schema", "regex", "choice", "grammar")
MAX_CHOICES = 2000
ChoiceText = Annotated[str, Meta(min_length=1)]


@given_at("it is an option of each request, of `complete` and `chat`")
class RequestOptions(ChatOptions, frozen=True):
    """What `complete`, `stream` and `chat` take beside the prompt."""

    json_schema: Any = None
    """The reply is JSON of this schema: a dict, or a type (a dataclass, a msgspec `Struct`, a typed dict, a pydantic
    model, `list[int]`, …). `completion.parsed` is the value. Raises `InvalidSchema` for what no grammar can hold. Text
    that the schema leaves no choice about is not sampled; each other token costs some 10 to 100 µs more."""
    regex: Annotated[str, Meta(min_length=1)] | None = None
    """The reply matches this regular expression as a whole, in the syntax of Rust's `regex` crate, without
    look-around."""
    choice: Annotated[tuple[ChoiceText, ...], Meta(min_length=1, max_length=MAX_CHOICES)] | None = None
    """The reply is one of these texts."""

    response_tokens: Count | None = None
    """Most tokens of the reply, and what the context leaves; `None`: 8,192."""
    stop_sequences: Annotated[tuple[StopText, ...], Meta(max_length=MAX_STOP_SEQUENCES)] = ()
    """Texts that end the reply where the earliest of them begins; they are not part of it. One may be a str. The
    name of a control token, such as `<|im_end|>`, ends it when that token is drawn."""
    special: bool = False
    """Show control tokens in the text of the reply and its events; otherwise they are in its token ids alone."""
    n: Annotated[int, Meta(ge=1, le=MAX_ALTERNATIVES)] = 1
    """How many replies to draw, with `seed`, `seed` + 1 and so on. The prompt is computed once where the model's memory
    lets sequences share it; they run side by side as far as `n_seq_max` allows, the rest after them. In a full queue
    one place is enough for all. Not at temperature 0.0."""
    logprobs: Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)] | None = None
    """Tell of each token of the reply how likely it was, and which so many tokens were the likeliest there, by the
    model's logits alone. No other tokens are drawn for it. A draw then takes 0.1 ms longer at 128,000 tokens in the
    vocabulary; what a structure forces is told one decode later, for which its end needs one more. `None` is off."""
    logprobs_after: bool = False
    """With `logprobs`: tell it of the odds too that all steps of the draw have left. What is forced is certain."""
    prompt_logprobs: Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)] | None = None
    """Tell of each token of the prompt how likely it was after those before it, and the likeliest there, as `logprobs`
    does of the reply. All of the prompt is then computed, whatever is saved or live of it, in slices whose logits take
    at most 64 MB: beside that, a quarter more time with SmolLM2. With `n` above 1 the first reply has it.
    Not with `reproducible`."""
    reproducible: bool = False
    """The same request gets the same tokens, whatever else runs and whatever is cached: it is computed alone, in a
    second context, on half of the CPUs or `n_threads`. Costs speed and memory, see the guide; `seed` is 0 unless
    given."""
    parent_key: bytes | None = None
    """The `finish_key` of the previous turn, 32 bytes or 64 hex digits: a save of it under way is waited for."""
    keep: tuple[Keep, ...] = ()
    """What of the prompt is not to be evicted from the cache for a time: mappings or `Keep`, at most 8. A row ends at
    each of them, so that other prompts find it. Nothing is kept that is not saved: see `min_tokens`."""
    cache_salt: Salt | None = None
    """In place of the model's `cache_salt`, for this request."""
    session_id: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    """The conversation that this is a turn of: its sequence is kept for the next one."""
    session_wait: bool = False
    """Wait for a turn of the session that is under way, instead of raising `SessionBusy`."""
    priority: Annotated[int, Meta(ge=BACKGROUND, le=1000)] = 0
    """Higher goes first; among equals, the one that came first. -1000 is for work in the background: while others
    compute, it has an eighth of what they have."""
    queue_wait: bool | Annotated[float, Meta(ge=0.0)] = False
    """Seconds that the request waits for room in a full queue instead of raising `QueueFull`; True: until there is."""
    deadline: Deadline | None = None
    """Seconds from the call, after which the request is cancelled and finishes with what it has."""
    on_crash: OnCrash = "continue"
    """What becomes of it when its model crashes: `"continue"`, it goes on where it was once the model is back, and its
    stream sees a pause; `"fail"`, it raises `ModelCrashed`. One that crashes its model again and again fails too."""


DEFAULTS = RequestOptions()


def merged(options: object, given: Mapping[str, object]) -> Mapping[str, object]:
    """`given` by keyword, over those of `options`: all of a mapping, of a struct those that are not the defaults."""
    if options is None:
        return given
    if isinstance(options, RequestOptions):
        options = {name: value for name, value in asdict(options).items() if value != getattr(DEFAULTS, name)}
    if not isinstance(options, Mapping):
        raise InvalidOption("options", f"expected a mapping or RequestOptions, got {type(options).__name__}")
    return {**options, **given}


def parse_request_options(options: object) -> RequestOptions:
    """Check the options of one request. A single stop sequence may be given as a str."""
    request = convert(
        options,
        RequestOptions,
        stop_sequences=lambda stops: (stops,) if isinstance(stops, str) else stops,
        parent_key=lambda key: bytes.fromhex(hex_digest(key)),
        keep=keeps,
        tool_choice=tool_choice,
        queue_wait=lambda wait: True if wait == math.inf else wait,
        logprobs=how_many,
        prompt_logprobs=how_many,
        top_k=none_is(0),  # llama.cpp and vLLM write -1 for off
        seed=none_is(None),  # and for any
    )
    for stop in request.stop_sequences:
        check_utf8("stop_sequences", stop)
    for name in ("grammar", "regex", "cache_salt", "session_id"):
        if (text := getattr(request, name)) is not None:
            check_utf8(name, text)
    for breaker in request.dry_sequence_breakers:
        check_utf8("dry_sequence_breakers", breaker)
        if "\0" in breaker or len(breaker.encode()) > MAX_BREAKER_BYTES:  # llama.cpp would take a part of it
            raise InvalidOption(
                "dry_sequence_breakers", f"expected at most {MAX_BREAKER_BYTES} bytes, none NUL, got {shown(breaker)}"
            )
    for token, bias in request.logit_bias.items():
        if isinstance(token, str):
            check_utf8("logit_bias", token)
        if not abs(bias) <= MAX_BIAS and bias != -math.inf:
            raise InvalidOption("logit_bias", f"expected -inf, or at most {MAX_BIAS:g} either way, got {bias}")
    check_thinking(request.thinking_markers, request.thinking_budget_message, request.thinking_budget_tokens)
    check_structure(request)
    check_combinations(request, request.response_tokens, structured=bool(structures(request)) or may_call(request))
    check_calls(request)
    check_answer(request)
    check_chat(request)
    return request


def how_many(logprobs: object) -> object:
    """A number of tokens, where OpenAI's chats have True beside a number, or False. Raises `ValueError`."""
    if logprobs is True:
        raise ValueError("expected how many of the likeliest tokens, such as 5, got True")
    return None if logprobs is False else logprobs


def none_is(off: object) -> Callable[[object], object]:
    """-1 as what it stands for."""
    return lambda value: off if type(value) is int and value == -1 else value


def structures(request: RequestOptions) -> list[str]:
    """The options that say what the reply looks like, as far as they are given."""
    return [name for name in STRUCTURES if getattr(request, name) is not None]


def may_call(request: RequestOptions) -> bool:
    """Whether the reply may call tools."""
    return request.tools not in (None, (), []) and request.tool_choice != "none"


def check_calls(request: RequestOptions) -> None:
    """Whether what is asked of calls can be. Raises `InvalidOption`."""
    if request.tools in (None, (), []):
        if request.tool_choice not in ("auto", "none"):
            raise InvalidOption("tool_choice", "there are no `tools` to call")
        if not request.parallel_tool_calls:
            raise InvalidOption("parallel_tool_calls", "there are no `tools` to call")
    if request.tool_choice not in ("auto", "none") and (given := structures(request)):
        raise InvalidOption("tool_choice", f"the reply is a call, and {given[0]!r} asks for something else")


def check_answer(request: RequestOptions) -> None:
    """Whether what is to be told of the reply can be. Raises `InvalidOption`."""
    if request.logprobs_after and request.logprobs is None:
        raise InvalidOption("logprobs_after", "it adds to what logprobs tells, and that is off")
    if request.prompt_logprobs is not None and request.reproducible:
        raise InvalidOption("prompt_logprobs", "it reads the prompt in other batches than a reproducible reply does")
    if request.n > 1 and request.session_id is not None:
        raise InvalidOption("n", "a session goes on from one reply")
    if request.n > 1 and request.temperature == 0.0:
        raise InvalidOption("n", "at temperature 0.0 all replies would be the same: ask for one")


def check_structure(request: RequestOptions) -> None:
    """A reply follows one thing. Raises `InvalidOption`."""
    given = structures(request)
    if len(given) > 1:
        raise InvalidOption(given[1], f"a reply follows one structure, and {given[0]!r} is given too")
    choices = request.choice or ()
    for text in choices if sum(map(len, choices)) <= MOST_UTF8 else ():  # longer ones are refused for their length
        check_utf8("choice", text)
    schema = request.json_schema
    if isinstance(schema, bool | str | bytes | int | float | list | tuple):
        raise InvalidOption("json_schema", f"a mapping or a type is expected, got {shown(schema)}")
