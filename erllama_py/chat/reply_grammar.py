"""The grammar of a whole reply: thinking first, then calls of tools among free text, or a structure. Pure.

A call is opened by its marker, and from there on its syntax and the schema of its tool hold until it is closed. What
comes before and between is any text. Grammars are in llguidance's Lark, see `lark_rules`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal

import msgspec

from erllama_py.chat.lark_rules import LarkRules, Split, without
from erllama_py.chat.thinking import ThinkingFormat
from erllama_py.chat.tool_formats import Form, Marks, Offered, ToolFormat

Choice = Literal["auto", "required", "none"]


class Thought(msgspec.Struct, frozen=True, kw_only=True):
    """A block of thinking in a grammar."""

    form: ThinkingFormat
    begun: bool = False
    """Whether the prompt has opened it."""


class Calls(msgspec.Struct, frozen=True, kw_only=True):
    """The calls in a grammar."""

    form: ToolFormat
    tools: Sequence[Offered]
    """Those that may be called."""
    names: Sequence[str]
    """Of all tools, those that may not be called among them."""
    choice: Choice = "auto"
    several: bool = True


def reply_grammar(
    split: Split, *, thinking: Thought | None = None, calls: Calls | None = None, structure: str | None = None,
    shown: Sequence[int] = (),
) -> str | None:  # fmt: skip
    """The grammar in llguidance's serialised form; None where anything may be written.

    `structure` is such a grammar, which the reply follows once it has been thought. `shown` are the tokens that text
    may have beside its characters.
    """
    if calls is not None and calls.choice == "none" and structure is not None:
        calls = None
    if calls is None and (structure is None or thinking is None):
        return structure
    rules = LarkRules(split, shown, _markers(thinking, calls))
    start = " ".join([_thought(thinking, rules), _answer(rules, thinking, calls, structure)])
    grammars = [] if structure is None else json.loads(structure)["grammars"]
    if grammars:
        grammars[0]["name"] = "structure"
    return json.dumps({"grammars": [{"lark_grammar": rules.text(start)}, *grammars]}, ensure_ascii=False)


def _markers(thinking: Thought | None, calls: Calls | None) -> list[str]:
    """All markers, none of which is text."""
    found = [] if thinking is None else [thinking.form.opens, thinking.form.closes, *thinking.form.headers]
    return found if calls is None else [*found, *calls.form.marks(calls.names).all()]


def _answer(rules: LarkRules, thinking: Thought | None, calls: Calls | None, structure: str | None) -> str:
    """What comes after the first thought."""
    headers = () if thinking is None else thinking.form.headers
    if calls is None:
        return _within(rules, headers, "@structure")
    marks = calls.form.marks(calls.names)
    marks = msgspec.structs.replace(marks, dropped=tuple(dict.fromkeys((*marks.dropped, *headers))))
    if calls.choice == "none":
        banned = marks.opens if marks.banned is None else marks.banned
        text = rules.terminal(without(banned, marks.at_start))
        text = f"({text} {rules.shown})* {text}" if rules.shown else text
        return _within(rules, marks.dropped, text, after=False)
    forms = calls.form.forms(calls.tools, rules, calls.several)
    if structure is not None and calls.form.guesses:
        forms = [form for form in forms if form.opener]
    if structure is not None or calls.choice == "required":
        alone = _alone(rules, forms, marks, calls.several)
        return alone if structure is None else f"({alone} | {_within(rules, marks.dropped, '@structure')})"
    return _among_text(rules, thinking, forms, marks, calls.several)


def _within(rules: LarkRules, headers: Sequence[str], body: str, *, after: bool = True) -> str:
    """What may have headers before and after it."""
    if not headers:
        return body
    space, header = rules.space(), rules.rule(" | ".join(rules.marker(header) for header in headers))
    before = f"({header} {space})* {body}"
    return f"{before} ({space} {header})*" if after else before


def _thought(thinking: Thought | None, rules: LarkRules) -> str:
    """What may be thought before anything else; the white space after it belongs to it."""
    if thinking is None:
        return ""
    block = f"{rules.closed_by(thinking.form.closes)} {rules.space()}"
    return block if thinking.begun else f"({rules.marker(thinking.form.opens)} {block})*"


def _alone(rules: LarkRules, forms: Sequence[Form], marks: Marks, several: bool) -> str:
    """Calls and nothing else."""
    dropped = [rules.marker(one) for one in marks.before]
    call = rules.rule(" | ".join(f"{rules.marker(form.opener) if form.opener else ''} {form.body}" for form in forms))
    before = f"({' | '.join(dropped)})* " if dropped else ""
    if not several or marks.end is None:
        return before + call
    openers = [f"{rules.space()} {rules.marker(form.opener)} {form.body}" for form in forms if form.opener]
    more = rules.rule(" | ".join(openers))
    return f"{before}{call} {more}*"


def _among_text(rules: LarkRules, thinking: Thought | None, forms: Sequence[Form], marks: Marks, several: bool) -> str:
    """Text, and in it calls. What comes first must not look like a call without a marker."""
    bare = [form.body for form in forms if not form.opener]
    lead = rules.terminal(without((), marks.at_start)) if bare else "ANY"

    def items(text: str) -> tuple[str, str]:
        calls = [f"{rules.until(form.opener, text)} {form.body}" for form in forms if form.opener]
        others = [rules.until(one, text) for one in marks.dropped]
        if thinking is not None:
            others.append(f"{rules.until(thinking.form.opens, text)} {rules.closed_by(thinking.form.closes)}")
        if rules.shown:
            others.append(f"{text} {rules.shown}")
        return rules.rule(" | ".join(calls)) if calls else "", rules.rule(" | ".join(others)) if others else ""

    call, other = items("ANY")
    goes_on = several and marks.end is not None  # without an end marker a section is the last
    after = rules.rule(f"({' | '.join(filter(None, (call, other)))})* ANY") if call or other else "ANY"
    if not goes_on:
        once = " | ".join(filter(None, (call, "ANY")))
        after = rules.rule(f"{other}* ({once})" if other else f"({once})")
    if not bare:
        return after
    first_call, first_other = items(lead)
    ways = [*bare, lead]
    if first_call:
        ways.append(f"{first_call} {after}" if goes_on else first_call)
    if first_other:
        ways.append(f"{first_other} {after}")
    return f"({' | '.join(ways)})"
