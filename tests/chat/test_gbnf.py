"""GBNF as Lark: what is wrong is said with its line, and what is right has the same language."""

from __future__ import annotations

import pytest
from helpers.followed import follows, refusal

from erllama_py.chat.gbnf import MAX_CHAIN, MAX_GROUPS, MAX_RULES, is_gbnf, to_lark
from erllama_py.errors import InvalidGrammar

JSON = r"""
root   ::= object # as llama.cpp has it
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
array  ::= "[" ws (
    value ("," ws value)*
  )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"""


@pytest.mark.parametrize(
    ("grammar", "problem"),
    [
        ("# nothing but a comment\n", "no 'root' rule"),
        ('start ::= "a"', "no 'root' rule"),
        ("root ::= other", "rule 'root' refers to 'other', which is not defined"),
        ("root ::= (", "line 1: expecting )"),
        ("root ::= [a", "line 1: unexpected end of input"),
        ('\n\nroot ::= "a', "line 3: unexpected end of input"),
        ('root ::= "a"\nx = "b"', "line 2: expecting ::="),
        ('root ::= "\\xzz"', "hex digits"),
        ('root ::= "\\ud800"', "is no character"),
        ('root ::= "\\U00110000"', "is no character"),
        ("root ::= +", "expecting preceding item"),
        ('root ::= "a" )', "expecting an element"),
        ("root ::= []", "class of characters is empty"),
        ('root ::= "a"{100000000}', "repetitions"),
        (f'root ::= "a"{{{"9" * 5000},1}}', "repetitions"),
        ('root ::= "a"{5,2}', "maximum below its minimum"),
        ("root ::= <>", "expecting a token"),
        ("root ::= !<think>", "by its id"),
        ("root ::= " + "(" * (MAX_GROUPS + 1) + '"a"' + ")" * (MAX_GROUPS + 1), "groups"),
        ("\n".join(f'r{i} ::= "a"' for i in range(MAX_RULES + 1)), "rules"),
        ("root ::= r0\n" + "".join(f"r{i} ::= r{i + 1}\n" for i in range(MAX_CHAIN)) + 'r100 ::= "a"', "chain"),
    ],
)  # fmt: skip
def test_a_bad_grammar_is_refused_with_its_reason(grammar: str, problem: str) -> None:
    """Before any compiler sees it."""
    with pytest.raises(InvalidGrammar) as caught:
        to_lark(grammar)
    assert problem in caught.value.problem


@pytest.mark.parametrize(
    ("grammar", "good", "bad"),
    [
        ('root ::= "hello"', ["hello"], ["hell", "hello!"]),
        ('root ::= "日本" "\\x41\\u0042\\n"', ["日本AB\n"], ["日本"]),
        ('root ::= "a"{3}', ["aaa"], ["aa", "aaaa"]),
        ('root ::= "a"{2,}', ["aa", "aaaaa"], ["a"]),
        ('root ::= "a"{0,2} "b"{0}', ["", "a", "aa"], ["aaa", "b"]),
        ('root ::= ("a" | "b")+ "c"?', ["a", "bab", "bc"], ["", "c"]),
        ('root ::= "a"?*', ["", "aaa"], ["b"]),
        ('root ::= ( "(" | "(" ) "b" # a bracket in a literal opens no group', ["(b"], ["b"]),
        ("root ::= [(] [)-] [^a-c] [a-c\\]-]", ["()d]", "(-]-"], ["()a]"]),
        ("root ::= . [^]", ["a\n", "\n日"], ["a"]),
        ('root ::= "a" |\n "b"', ["a", "b"], ["ab"]),
        ('root ::= root "a" | "b"', ["b", "baa"], ["a"]),  # llama.cpp refuses left recursion
        ('root ::= "(" root ")" | [a-z]+', ["(((abc)))", "x"], ["((a)", "()"]),
        ('root ::= a-b a_b\na-b ::= "x"\na_b ::= "y"', ["xy"], ["yx"]),
        ('root ::= "x"\nroot ::= "y"', ["y"], ["x"]),
        ('root ::= [a-z]* "x"', ["x", "abcx", "xx"], ["abc"]),
        (JSON, ['{"a": [1, -2.5e3, {"b": null}], "c": "\\u00e9"}', "{}"], ["[]", '{"a"}']),
    ],
)
def test_the_language_is_the_same(grammar: str, good: list[str], bad: list[str]) -> None:
    """As texts that follow it to their end, and texts that do not."""
    assert is_gbnf(grammar)
    assert [text for text in good if not follows(text, grammar=grammar)] == []
    assert [text for text in bad if follows(text, grammar=grammar)] == []


@pytest.mark.parametrize(
    ("grammar", "problem"),
    [
        ('root ::= a\na ::= b\nb ::= a "x"', "no reply can follow it"),
        ("root ::= <nosuch>", "unknown special token"),
        ("root ::= r0\n" + "".join(f"r{i} ::= r{i + 1} r{i + 1}\n" for i in range(40)) + 'r40 ::= "a"?', "too big"),
    ],
)
def test_what_only_a_compiler_sees_is_refused_too(grammar: str, problem: str) -> None:
    """A rule that never ends, a token that there is not, a language too large."""
    assert problem in refusal(grammar=grammar)


@pytest.mark.parametrize("text", ["start: /a/", "%llguidance {}\nstart: x", "// root ::= x\nstart: y", "x", ""])
def test_lark_is_not_taken_for_gbnf(text: str) -> None:
    """The first rule says it."""
    assert not is_gbnf(text)
