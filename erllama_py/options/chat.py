"""What a request may ask of a conversation and its reply."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import Meta, field

from erllama_py.errors import InvalidOption
from erllama_py.errors.shown import shown
from erllama_py.options.check import Amount
from erllama_py.options.sampling import Sampling
from erllama_py.options.thinking import ClosingMessage, ThinkingMarkers

MAX_TEMPLATE = 100_000  # characters; the longest public one has 60,000


class ChatOptions(Sampling, frozen=True):
    """The options of a request that are about a conversation."""

    tools: Any = None
    """The tools that the reply may call: mappings in OpenAI's function form, or in its inner one (`name`,
    `description`, `parameters`), and Python functions, whose type hints and docstrings say the same. At most 128. They
    are shown to the model by its chat template."""
    tool_choice: str | dict[str, Any] = "auto"
    """Whether the reply calls tools: `"auto"`: as the model sees fit; `"required"`: it does nothing else, once it has
    thought; `{"name": "f"}`: it calls this one; `"none"`: it cannot, though the tools are shown to it. OpenAI's form of
    the third is taken too. A call is always valid: its syntax is forced and its arguments obey the tool's schema."""
    parallel_tool_calls: bool = True
    """Whether a reply may have several calls."""
    chat_template: Annotated[str, Meta(min_length=1, max_length=MAX_TEMPLATE)] | None = None
    """The name of one of the model's chat templates (`"tool_use"`, `"rag"`), or a template itself, in Jinja. `None`:
    `"tool_use"` where there are tools and the model has one of that name, else its default template. Compiling a
    template takes some milliseconds when it is first used."""
    template_kwargs: dict[str, Any] = field(default_factory=dict)
    """What the chat template is given beside messages and tools, as the model's author describes it: `enable_thinking`,
    `reasoning_effort`, `documents`. Texts, numbers, booleans, and lists and mappings of them."""
    continue_final_message: bool = False
    """Continue the last message, which is the assistant's, instead of beginning a new one."""
    exact_turns: bool = True
    """Recognise the replies in a conversation that were computed before, here or by another process that saved to the
    same tier: the prompt is then the very tokens that were read and sampled, thinking included, and what is new. Off:
    the conversation is rendered, and the reply will not be recognised."""
    tools_in_system: bool = False
    """Where the chat template takes no tools, tell them in the system message, and ask for calls in the form of the
    Hermes models; see the guide for the text. Otherwise `tools` are an error there. Nothing changes where it takes
    them."""
    thinking: bool | None = None
    """Whether the model thinks before it answers, by its chat template's own switch; `None`: as the template does.
    Raises `InvalidOption` where there is no such switch. Of a prompt that is no conversation, True tells its thinking
    apart."""
    thinking_markers: ThinkingMarkers | bool | None = None
    """What opens a block of thinking, and what closes it; `None`: as the model says, or as found from its chat template
    and its vocabulary. False: thinking is not told apart from text."""
    thinking_budget_tokens: Amount | None = None
    """Most tokens of thinking in the reply: the block is then closed for the model, and one opened after it at once.
    0: it does not think. `None`: no limit but that of the reply, to which they count."""
    thinking_budget_message: ClosingMessage | None = None
    """What the block ends with where it is closed for the model: by its budget, or by `end_thinking`. It counts to the
    reply's tokens, and not to the budget. `None`: as the model says."""


OF_CONVERSATIONS = ("chat_template", "template_kwargs", "continue_final_message", "tools_in_system")


def check_is_prompt(options: ChatOptions) -> None:
    """Refuse what is about a conversation where a prompt is given as it is. Raises `InvalidOption`."""
    for name in OF_CONVERSATIONS:
        if getattr(options, name):
            raise InvalidOption(name, "it is about a conversation, and a prompt is taken as it is: see chat")


def check_chat(options: ChatOptions) -> None:
    """Whether what is asked of a conversation can be. Raises `InvalidOption`."""
    if options.chat_template is not None and "\0" in options.chat_template:
        raise InvalidOption("chat_template", "it has a NUL character: it is no text")
    for name in options.template_kwargs:
        if not name.isidentifier() or name.startswith("_"):
            raise InvalidOption("template_kwargs", f"{name[:80]!r} is no name that a template can read")
        if name in RESERVED:
            raise InvalidOption("template_kwargs", f"{name!r} is given to every template already")


def tool_choice(given: Any) -> Any:
    """The choice as it is kept; a tool by `{"name": …}`. Raises `ValueError`."""
    if given in ("auto", "required", "none"):
        return given
    named = given
    if isinstance(given, Mapping) and given.get("type", "function") == "function":
        named = given.get("function", given)
    if isinstance(named, Mapping) and isinstance(named.get("name"), str) and set(named) <= {"name", "type"}:
        return {"name": named["name"]}
    raise ValueError(f"expected 'auto', 'none', 'required' or {{'name': …}}, got {shown(given)}")


# What templates are given in any case, and names of Jinja's own.
NAMES = """
messages tools add_generation_prompt continue_final_message chat_template bos_token eos_token strftime_now
raise_exception namespace range dict cycler joiner loop self caller varargs kwargs context environment
"""
RESERVED = frozenset(NAMES.split())
