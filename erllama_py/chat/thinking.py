"""How a model thinks: its markers, and the switch by which its chat template turns thinking on and off. Pure.

Both are found from the source of the template, and the markers of models whose template does not name them from the
vocabulary. A new format is one entry of `FORMATS` and one in the table of its test.

Some models are switched by words in the system message (`/no_think`, "detailed thinking on"). Those are the
application's to write: nothing here guesses at them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jinja2
import msgspec
from jinja2 import meta, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser

MOST_SOURCE = 100_000  # characters, as many as are rendered; they are parsed in 0.7 s at worst


class ThinkingFormat(msgspec.Struct, frozen=True, kw_only=True):
    """The markers of one model's thinking. White space around them is no part of what they mark."""

    opens: str
    closes: str
    headers: tuple[str, ...] = ()
    """What models of this format write around a block and the text after it: no content."""
    resumes: str = ""
    """What comes between a block and the text, where a model would not write it by itself once its block was closed."""


class Switch(msgspec.Struct, frozen=True, kw_only=True):
    """The variable of a template that turns thinking on and off; `off` is None where it cannot."""

    name: str
    on: dict[str, Any]
    off: dict[str, Any] | None


class _Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A format, and the texts that a template of it has in its source, all of them."""

    form: ThinkingFormat
    named: tuple[str, ...]
    tokens: bool = False
    """Whether both markers being tokens of the vocabulary is enough."""


def _tags(name: str, *, tokens: bool = False) -> _Entry:
    form = ThinkingFormat(opens=f"<{name}>", closes=f"</{name}>")
    return _Entry(form=form, named=(form.closes,), tokens=tokens)


# The first that a template names is its format: those that others could be taken for come last.
FORMATS = (
    _Entry(  # Harmony: gpt-oss
        form=ThinkingFormat(
            opens="<|channel|>analysis<|message|>", closes="<|end|>",
            headers=(
                "<|start|>assistant", "<|channel|>final<|message|>", "<|channel|>commentary<|message|>", "<|end|>",
            ),
            resumes="<|start|>assistant<|channel|>final<|message|>",
        ),
        named=("<|channel|>", "analysis", "<|message|>"),
    ),
    _Entry(  # Kimi K3
        form=ThinkingFormat(
            opens="<|open|>think<|sep|>", closes="<|close|>think<|sep|>",
            headers=("<|open|>response<|sep|>", "<|close|>response<|sep|>", "<|close|>message<|sep|>"),
            resumes="<|open|>response<|sep|>",
        ),
        named=("<|open|>", "<|close|>", "<|sep|>", "think"),
    ),
    _Entry(form=ThinkingFormat(opens="<|channel>thought", closes="<channel|>"), named=("<|channel>", "<channel|>")),
    _Entry(form=ThinkingFormat(opens="[THINK]", closes="[/THINK]"), named=("[/THINK]",), tokens=True),
    _Entry(  # Command A
        form=ThinkingFormat(
            opens="<|START_THINKING|>", closes="<|END_THINKING|>",
            headers=("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"),
        ),
        named=("<|END_THINKING|>",), tokens=True,
    ),
    _Entry(  # Solar
        form=ThinkingFormat(
            opens="<|think|>", closes="<|end|>", headers=("<|begin|>assistant", "<|content|>", "<|end|>"),
            resumes="<|begin|>assistant<|content|>",
        ),
        named=("<|think|>", "<|content|>", "<|end|>"),
    ),
    _Entry(  # Apertus
        form=ThinkingFormat(opens="<|inner_prefix|>", closes="<|inner_suffix|>"), named=("<|inner_suffix|>",),
        tokens=True,
    ),
    _Entry(
        form=ThinkingFormat(
            opens="<|begin_of_thought|>", closes="<|end_of_thought|>",
            headers=("<|begin_of_solution|>", "<|end_of_solution|>"),
        ),
        named=("<|end_of_thought|>",),
    ),
    _Entry(form=ThinkingFormat(opens="◁think▷", closes="◁/think▷"), named=("◁/think▷",), tokens=True),
    _tags("seed:think", tokens=True),
    _tags("mm:think", tokens=True),
    _tags("longcat_think", tokens=True),
    _tags("think", tokens=True),
    _tags("thinking"),
    _tags("thought"),
    _tags("reasoning"),
    _Entry(  # Granite 3.2
        form=ThinkingFormat(opens="Here is my thought process:", closes="Here is my response:"),
        named=("Here is my thought process:", "Here is my response:"),
    ),
)  # fmt: skip

# Models that answer between tags, once they have thought: Granite 3.3 and ERNIE, Hunyuan.
ANSWERS = ("response", "answer")

# By how often they are met. Templates leave out what they are not given, so each is set only where that is asked for.
SWITCHES: tuple[Switch, ...] = (
    Switch(name="enable_thinking", on={"enable_thinking": True}, off={"enable_thinking": False}),
    Switch(name="thinking", on={"thinking": True}, off={"thinking": False}),
    Switch(name="thinking_mode", on={"thinking_mode": "enabled"}, off={"thinking_mode": "disabled"}),
    Switch(name="reasoning", on={"reasoning": True}, off={"reasoning": False}),
    Switch(name="thinking_budget", on={}, off={"thinking_budget": 0}),
    Switch(name="reasoning_effort", on={}, off=None),
)
_NONE = re.compile(r"""(['"])none\1""")  # the level of `reasoning_effort` that is no thinking
_NO_EFFORT = Switch(name="reasoning_effort", on={"reasoning_effort": "high"}, off={"reasoning_effort": "none"})


def find_thinking(source: str, is_token: Callable[[str], bool] = lambda marker: False) -> ThinkingFormat | None:
    """The format that a template speaks; None where neither it nor the vocabulary knows of thinking. `is_token` says
    whether a marker is one token."""
    for entry in FORMATS:
        if all(name in source for name in entry.named):
            return _with_answer(entry.form, source)
    for entry in FORMATS:
        if entry.tokens and is_token(entry.form.opens) and is_token(entry.form.closes):
            return _with_answer(entry.form, source)
    return None


def _with_answer(form: ThinkingFormat, source: str) -> ThinkingFormat:
    tags = [tag for name in ANSWERS for tag in (f"<{name}>", f"</{name}>")]
    found = tuple(tag for tag in tags if form.closes == "</think>" and tag in source)
    return msgspec.structs.replace(form, headers=(*form.headers, *found))


def find_switch(source: str) -> Switch | None:
    """What turns thinking on and off in a template; None where nothing does. Parsing takes some 10 ms."""
    if len(source) > MOST_SOURCE or not any(one.name in source for one in SWITCHES):
        return None
    try:
        variables = meta.find_undeclared_variables(_parser.parse(source))
    except (jinja2.TemplateError, RecursionError):  # rendering it says what is wrong
        return None
    switch = next((one for one in SWITCHES if one.name in variables), None)
    return _NO_EFFORT if switch is not None and switch.off is None and _NONE.search(source) else switch


def is_opened(form: ThinkingFormat, opening: str, *, continued: bool = False) -> bool:
    """Whether a prompt that ends so has opened a block of thinking. Where a message is `continued`, `opening` is all of
    it, and may have thought something already."""
    if continued:
        return opening.rfind(form.opens) > opening.rfind(form.closes)
    return opening.rstrip().endswith(form.opens)


class _AnyTag(Extension):
    """`{% generation %}`, which means nothing here."""

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        self.tags = {"generation", "endgeneration"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return []


_parser = jinja2.Environment(extensions=["jinja2.ext.loopcontrols", _AnyTag])
