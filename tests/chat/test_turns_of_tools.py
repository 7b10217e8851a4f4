"""What follows a reply that calls tools: in the forms of several families of templates, what they would write there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.chat.template import ChatTemplate
from erllama_py.chat.turns import Message, text_after_reply

# Calls as JSON between tags, results in a turn of the user's.
TAGS = (
    "{% for m in messages %}{% if m.role == 'tool' %}"
    "{% if loop.previtem is not defined or loop.previtem.role != 'tool' %}<|im_start|>user{% endif %}"
    "\n<tool_response>\n{{ m.content }}\n</tool_response>"
    "{% if loop.last or loop.nextitem.role != 'tool' %}<|im_end|>\n{% endif %}"
    "{% else %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}"
    "{% for c in m.tool_calls or [] %}\n<tool_call>\n"
    "{{ {'name': c.function.name, 'arguments': c.function.arguments} | tojson }}"
    "\n</tool_call>{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# One call a turn, which another token ends than a text; a role of its own for results.
SINGLE = (
    "{{ bos_token }}{% for m in messages %}{% if m.tool_calls %}"
    "{% if m.tool_calls | length != 1 %}{{ raise_exception('one call only') }}{% endif %}"
    "<|start|>assistant<|end|>\n\n{{ {'name': m.tool_calls[0].function.name} | tojson }}, "
    '"parameters": {{ m.tool_calls[0].function.arguments | tojson }}<|eom|>'
    "{% else %}<|start|>{{ 'ipython' if m.role == 'tool' else m.role }}<|end|>\n\n"
    "{{ m.content | trim }}<|eot|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant<|end|>\n\n{% endif %}"
)
# A list of calls with their ids; a result must have a call before it, and an id of some length.
LISTED = (
    "<s>{% for m in messages %}{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]"
    "{% elif m.role == 'tool' %}{% if loop.previtem.role not in ('tool', 'assistant') or "
    "(loop.previtem.role == 'assistant' and not loop.previtem.tool_calls) %}{{ raise_exception('no call before it') }}"
    "{% endif %}[RESULTS]{{ m.tool_call_id }} {{ m.content }}[/RESULTS]"
    "{% elif m.tool_calls %}{% if m.content %}{{ raise_exception('calls or text') }}{% endif %}[CALLS] ["
    "{% for c in m.tool_calls %}{% if c.id | length < 3 %}{{ raise_exception('short id') }}{% endif %}"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}, "id": "{{ c.id }}"}'
    "{% if not loop.last %}, {% endif %}{% endfor %}]{{ eos_token }}"
    "{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
# Results name the function that was called last.
CHANNELS = (
    "{% set ns = namespace(name=none) %}{% for m in messages %}"
    "{% if m.role == 'tool' %}{% if ns.name is none %}{{ raise_exception('no call') }}{% endif %}"
    "<|start|>functions.{{ ns.name }} to=assistant<|message|>{{ m.content | tojson }}<|done|>"
    "{% elif m.tool_calls %}{% set ns.name = m.tool_calls[0].function.name %}"
    "<|start|>assistant to=functions.{{ ns.name }}<|channel|>commentary json<|message|>"
    "{{ m.tool_calls[0].function.arguments | tojson }}<|call|>"
    "{% else %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|done|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
# Arguments one by one, between tags; the next role ends a turn.
XML = (
    "{% for m in messages %}<|{{ 'observation' if m.role == 'tool' else m.role }}|>\n{{ m.content or '' }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function.name }}\n{% for k, v in c.function.arguments.items() %}"
    "<arg_key>{{ k }}</arg_key>\n<arg_value>{{ v if v is string else v | tojson }}</arg_value>\n{% endfor %}"
    "</tool_call>{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n<think>{% endif %}"
)
FAMILIES = {"tags": TAGS, "single": SINGLE, "listed": LISTED, "channels": CHANNELS, "xml": XML}
ENDS = ("<|im_end|>", "<|eot|>", "<|eom|>", "</s>", "<|call|>", "<|done|>", "<|user|>", "<|observation|>")
ONE_CALL = ("single", "channels")

texts = st.text(st.sampled_from('ab \n<|é"'), min_size=1, max_size=6)
arguments = st.dictionaries(texts, st.integers(0, 9) | texts, max_size=2)


@cache
def compiled(source: str) -> ChatTemplate:
    return ChatTemplate(source, "<s>", "</s>")


def rendering(source: str) -> Callable[[Sequence[Message], bool], str]:
    return lambda messages, opened: compiled(source).render(messages, add_generation_prompt=opened)


def calling(made: Sequence[dict[str, Any]]) -> dict[str, Any]:
    calls = [
        {"id": f"call{number}", "type": "function", "function": {"name": "find", "arguments": one}}
        for number, one in enumerate(made)
    ]
    return {"role": "assistant", "content": "", "tool_calls": calls}


def results(said: dict[str, Any], contents: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"role": "tool", "tool_call_id": call["id"], "content": content}
        for call, content in zip(said["tool_calls"], contents, strict=False)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@given(st.data())
def test_calls_and_what_follows_are_the_whole(family: str, data: st.DataObject) -> None:
    """Whatever was called, and called before: the rendering goes on as the template would have gone on."""
    most = 1 if family in ONE_CALL else 3
    rounds = data.draw(st.lists(st.lists(arguments, min_size=1, max_size=most), min_size=1, max_size=3))
    chat: list[dict[str, Any]] = [{"role": "user", "content": data.draw(texts)}]
    for earlier in map(calling, rounds[:-1]):
        chat += [earlier, *results(earlier, [data.draw(texts) for _ in earlier["tool_calls"]])]
    last = calling(rounds[-1])
    new = results(last, [data.draw(texts) for _ in rounds[-1]])
    if family != "listed" and data.draw(st.booleans()):
        new.append({"role": "user", "content": data.draw(texts)})
    render = rendering(FAMILIES[family])
    after = text_after_reply([*chat, last], new, render, ENDS)
    assert after is not None
    assert after.startswith(ENDS)
    whole, before = render([*chat, last, *new], True), render([*chat, last], False)
    assert whole.endswith(after)
    # What it begins with is how the calls end, and nothing of the calls: no more than one token that ends a turn.
    ends_turn = after.removesuffix(whole.removeprefix(before))
    assert before.endswith(ends_turn)
    assert ends_turn.rstrip() in ("", *ENDS)


@pytest.mark.parametrize("family", FAMILIES)
@given(arguments, arguments, texts)
def test_what_follows_does_not_depend_on_the_arguments(
    family: str, one: dict[str, Any], other: dict[str, Any], result: str
) -> None:
    """So it fits whatever tokens they were made of, and however a client has written them since."""
    asked, render = [{"role": "user", "content": "u"}], rendering(FAMILIES[family])
    answers = {
        text_after_reply([*asked, calling([made])], results(calling([made]), [result]), render, ENDS)
        for made in (one, other)
    }
    assert len(answers) == 1
    assert None not in answers


@given(texts)
def test_a_user_may_speak_where_a_result_was_due(text: str) -> None:
    """The calls were made all the same."""
    chat = [{"role": "user", "content": "u"}, calling([{"a": 1}])]
    after = text_after_reply(chat, [{"role": "user", "content": text}], rendering(TAGS), ENDS)
    assert after == f"<|im_end|>\n<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


INSIDE = (
    "{% for m in messages %}{% if m.role == 'tool' %}<result>{{ m.content }}</result>{% else %}<|turn|>{{ m.role }}\n"
    "{{ m.content or '' }}{% for c in m.tool_calls or [] %}<call>{{ c.function.arguments | tojson }}</call>{% endfor %}"
    "{% if not m.tool_calls %}<|end|>\n{% endif %}{% endif %}{% endfor %}"
)


@given(arguments, texts)
def test_results_within_the_model_s_turn_are_never_lost(made: dict[str, Any], result: str) -> None:
    """No token ends the calls there: the first end comes after the results, and is not theirs."""
    chat, new = [{"role": "user", "content": "u"}, calling([made])], results(calling([made]), [result])
    new.append({"role": "user", "content": "next"})
    after = text_after_reply(chat, new, rendering(INSIDE), ("<|end|>",))
    assert after is None or f"<result>{result}</result>" in after


def test_where_calls_are_refused_a_plain_reply_takes_their_place() -> None:
    """A template that takes one call, and a reply with two."""
    said = calling([{"a": 1}, {"a": 2}])
    after = text_after_reply(
        [{"role": "user", "content": "u"}, said], results(said, ["1", "2"]), rendering(SINGLE), ENDS
    )
    assert after is not None
    assert after.startswith("<|eot|><|start|>ipython<|end|>\n\n1<|eot|>")


def test_where_neither_is_shown_there_is_no_text() -> None:
    """A template that shows no replies, and one that refuses all."""
    said = calling([{"a": 1}])
    for source in ("{{ messages[0].content }}", "{{ raise_exception('no') }}"):
        assert text_after_reply([{"role": "user", "content": "u"}, said], [], rendering(source), ENDS) is None


def test_who_says_the_made_up_text_hides_nothing() -> None:
    """A result of a tool, say, that would have all before it left out."""
    source = "{% for m in messages %}{{ m.content ~ (m.tool_calls | tojson if m.tool_calls else '') }}</s>{% endfor %}"
    one = ChatTemplate(source, "", "")
    calling: Message = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f"}}]}
    said: list[Message] = [{"role": "user", "content": "?"}, calling]

    def after(text: str) -> str | None:
        new = [{"role": "tool", "content": "secret"}, {"role": "user", "content": text}]
        return text_after_reply(said, new, lambda shown, opened: one.render(shown), ["</s>"])

    assert after("hi") == "</s>secret</s>hi</s>"
    assert after("replyQzXvKwJhere") is None


def test_thoughts_of_replies_do_not_matter() -> None:
    """A client may send them back or not; the template may show them or not."""
    thinking = TAGS.replace("\n{{ m.content or '' }}", "\n{{ m.reasoning_content or '' }}{{ m.content or '' }}")
    chat = [{"role": "user", "content": "u"}, {**calling([{}]), "reasoning_content": "hm"}]
    new = results(chat[1], ["1"])
    plain = [chat[0], calling([{}])]
    render = rendering(thinking)
    assert text_after_reply(chat, new, render, ENDS) == text_after_reply(plain, new, render, ENDS) is not None
