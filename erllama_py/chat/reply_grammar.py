"""The grammar of a whole reply: thinking first, then calls of tools among free text, or a structure. Pure.

Grammars are in llguidance's Lark: https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md. Control tokens
are no text there: where a marker is one, the grammar names it by its id, and free text ends before it by itself. A
marker may be written as text all the same, so that form is known too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import msgspec

from erllama_py.chat.thinking import ThinkingFormat

Split = Callable[[str], Sequence[int | str]]
"""A marker as the model writes it: control tokens by id, and the texts between them."""


class Thought(msgspec.Struct, frozen=True, kw_only=True):
    """A block of thinking in a grammar."""

    form: ThinkingFormat
    begun: bool = False
    """Whether the prompt has opened it."""


def reply_grammar(split: Split, *, thinking: Thought | None = None, structure: str | None = None) -> str | None:
    """The grammar in llguidance's serialised form; None where anything may be written.

    `structure` is such a grammar, which the reply follows once it has been thought.
    """
    if structure is None or thinking is None:
        return structure
    grammars = json.loads(structure)["grammars"]
    grammars[0]["name"] = "structure"
    headers = thinking.form.headers
    before, after = ("header*", "(SPACE header)*") if headers else ("", "")
    rules = [f"start: {_thought(thinking)} {before} @structure {after}", *_thinking_rules(thinking, split)]
    rules += [f"header: ({' | '.join(term(header, split) for header in headers)}) SPACE"] if headers else []
    lark = "\n".join(rules)
    return json.dumps({"grammars": [{"lark_grammar": lark}, *grammars]}, ensure_ascii=False)


def _thought(thinking: Thought) -> str:
    return "thought SPACE" if thinking.begun else "(opens thought SPACE)?"


def _thinking_rules(thinking: Thought, split: Split) -> list[str]:
    rules = ["SPACE: /\\s*/", f"opens: {term(thinking.form.opens, split)}"]
    token = until(thinking.form.closes, split)
    return [*rules, f"thought: {' | '.join(f'thought_{i}' for i in range(len(token)))}",
            *(f"thought_{i}{one}" for i, one in enumerate(token)), "ANY: /(?s:.*)/"]  # fmt: skip


def term(marker: str, split: Split) -> str:
    """A marker, by its control tokens or as text."""
    parts = split(marker)
    by_id = " ".join(f"<[{part}]>" if isinstance(part, int) else literal(part) for part in parts)
    return literal(marker) if len(parts) == 1 and isinstance(parts[0], str) else f"({by_id} | {literal(marker)})"


def until(marker: str, split: Split) -> list[str]:
    """Any text and then the marker, as the ends of rules: each form is one of its own."""
    first, *rest = split(marker)
    ends = [f"[lazy]: ANY {literal(marker)}"]
    if isinstance(first, int):
        ends.append(
            ": ANY " + " ".join(f"<[{one}]>" if isinstance(one, int) else literal(one) for one in (first, *rest))
        )
    return ends


def literal(text: str) -> str:
    """A text as Lark has it."""
    return json.dumps(text, ensure_ascii=False)
