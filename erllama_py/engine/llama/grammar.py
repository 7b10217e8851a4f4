"""A GBNF grammar as a llama.cpp sampler, with its hazards taken out.

llama.cpp parses a grammar by recursion and takes an empty text for "no grammar"; and what is wrong with a
grammar it prints to stderr, past its own log. Here a bad grammar is always an `InvalidGrammar` with the
parser's words in it, and the process lives.
"""

from __future__ import annotations

import re
from typing import Any

from erllama_py.engine.llama.c_stderr import captured_stderr
from erllama_py.engine.llama.logs import LogContext
from erllama_py.engine.llama.native import Library
from erllama_py.errors import InvalidGrammar

# Nested groups and chains of rules are followed on the C stack. At these limits it takes 0.2 MB, and even
# the smallest stacks that platforms give to threads (0.5 MB) hold it; a JSON schema nests some tens deep.
MAX_DEPTH = 200
MAX_RULES = 1000

# A repetition multiplies what stands before it, up to 2000 times (the parser's own limit), at 8 bytes an
# element: 16 KB for each character of the text. At this length that is 1 GB at worst.
MAX_CHARACTERS = 65536

# What may hold a bracket that opens no group: literals, character classes, comments.
_QUOTED = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|#[^\n]*', re.DOTALL)
_REPETITION = re.compile(r"\{\s*([0-9]{1,20})\s*,\s*([0-9]{1,20})\s*\}")  # longer numbers are refused by the parser
_PARSER_SAYS = re.compile(r"error parsing grammar: (.*)")


def make_grammar(library: Library, vocabulary: Any, model_id: str, text: str) -> Any:
    """A `llama_sampler *` that allows what the grammar allows next. Raises `InvalidGrammar`."""
    problem = hazard(text)
    if problem:
        raise InvalidGrammar(problem)
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise InvalidGrammar(f"the grammar has no UTF-8 form: {error.reason}") from error
    with LogContext(model_id, hold=True) as log, captured_stderr() as stderr:
        sampler = library.c.llama_sampler_init_grammar(vocabulary, data, b"root")
    log.release(expected=not sampler)  # a bad grammar is reported to its caller
    if sampler:
        return sampler
    said = _PARSER_SAYS.search(stderr.text)
    raise InvalidGrammar(said.group(1) if said else log.problem("the grammar does not parse"))


def hazard(text: str) -> str | None:
    """Why `text` must not reach llama.cpp's parser; `None` where it may."""
    if not text.strip():
        return "the grammar is empty"
    if "\0" in text:
        return "the grammar has a NUL character"
    if len(text) > MAX_CHARACTERS:
        return f"the grammar has more than {MAX_CHARACTERS} characters"
    structure = _QUOTED.sub("", text)
    if structure.count("::=") > MAX_RULES:
        return f"the grammar has more than {MAX_RULES} rules"
    for least, most in _REPETITION.findall(structure):
        if int(least) > int(most):  # the parser would count down from 2^64
            return f"the repetition {{{least},{most}}} has a maximum below its minimum"
    depth = deepest = 0
    for bracket in re.findall(r"[()]", structure):
        depth += 1 if bracket == "(" else -1
        deepest = max(deepest, depth)
    if deepest > MAX_DEPTH:
        return f"the grammar nests more than {MAX_DEPTH} groups"
    return None
