"""The conversation of `erllama run`: what a line means, and what a turn has saved."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import erllama_py as erllama
from erllama_py.serve.cli.chatting import Command, Conversation, command_of, saved_seconds

STATS: dict[str, Any] = dict.fromkeys(erllama.Stats.__struct_fields__, 0) | {"tier": None, "miss_reason": None}


def completed(reply: str, *, read: int = 0, prompt: int = 10, **stats: Any) -> erllama.Completion:
    values = {
        "reply": reply, "generated": [1, 2], "prompt_tokens": prompt, "context_tokens": prompt, "committed_tokens": 0,
        "finish_key": None, "cache_hit_kind": "cold", "finish_reason": "stop", "stop_sequence": None,
        "cache_delta": {"read": read, "created": 0}, "stats": STATS | stats,
    }  # fmt: skip
    return msgspec.convert(values, erllama.Completion)


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("hello", None),
        ("", None),
        ("/help", Command("help")),
        (" /HELP ", Command("help")),
        ("/system  be brief ", Command("system", "be brief")),
        ("/system", Command("system")),
        ("/bye", Command("quit")),
        ("/foo", Command("unknown", "/foo")),
        ("/etc/hosts", None),
        ("/foo is what I type", None),
        ("what is /help?", None),
    ],
)
def test_a_line_is_a_message_or_a_command(line: str, command: Command | None) -> None:
    """What begins with a slash and could be meant as text is text."""
    assert command_of(line) == command


def test_turns_go_into_the_next_prompt_and_a_new_conversation_has_none() -> None:
    """The system message stays until another is given."""
    talk = Conversation("be brief")
    talk.add("hi", completed("hello"))
    assert talk.messages("how are you?") == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "how are you?"},
    ]
    talk.begin()
    assert len(talk.messages("x")) == 2
    talk.begin("")
    assert talk.messages("x") == [{"role": "user", "content": "x"}]


def test_a_turn_tells_what_it_has_saved() -> None:
    """By the pace of the fastest prefill that was long enough to be measured; not before there was one."""
    talk = Conversation()
    short = completed("a", read=5, prefill_tokens=5, prefill_seconds=0.1)
    talk.add("x", short)
    assert talk.summary(short).startswith("5 of 10 prompt tokens reused; first token")
    talk.add("x", completed("b", prompt=2000, prefill_tokens=2000, prefill_seconds=4.0))
    warm = completed("c", read=1000, prompt=1100, prefill_tokens=100, prefill_seconds=0.4, restore_seconds=0.1,
                     first_token_seconds=0.5, tokens_per_second=30.0)  # fmt: skip
    talk.add("x", warm)
    assert talk.summary(warm) == (
        "1,000 of 1,100 prompt tokens reused, 1.90 s saved; first token after 0.50 s; 2 tokens, 30 a second"
    )


@given(st.integers(0, 10**6), st.floats(0.1, 1e6), st.floats(0, 1e4))
def test_what_is_saved_is_never_negative(reused: int, rate: float, restoring: float) -> None:
    """A slow disk saves nothing."""
    assert 0 <= saved_seconds(reused, rate, restoring) <= reused / rate
