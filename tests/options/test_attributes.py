"""What people of other libraries read or call first: a name that is not there is answered with what there is."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

import erllama_py as erllama
from erllama_py.options.attributes import ATTRIBUTES

CLASSES: dict[str, Any] = {
    "Model": erllama.Model, "Runtime": erllama.Runtime, "Session": erllama.Session, "Completion": erllama.Completion,
    "Event": erllama.Progress, "erllama_py": erllama,
}  # fmt: skip


def test_no_name_of_another_library_is_one_of_ours() -> None:
    """A table that has gone stale would send callers astray."""
    assert ATTRIBUTES.keys() == CLASSES.keys()
    for owner, table in ATTRIBUTES.items():
        there = set(erllama.__all__) if CLASSES[owner] is erllama else set(dir(CLASSES[owner]))
        assert not table.keys() & there - {"__call__"}, owner


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("choices", "`reply` is its text"), ("text", "`reply` is its text"), ("usage", "prompt_tokens"),
        ("model_dump", "plain(result)"), ("done_reason", "finish_reason"), ("error", "ErllamaError"),
    ],
)  # fmt: skip
@pytest.mark.anyio
async def test_a_reply_is_read_as_elsewhere(name: str, said: str) -> None:
    """As an attribute and as an item; a look without a name of ours finds nothing, as before."""
    async with erllama.Runtime() as runtime:
        done = await (await runtime.load_model("m", {"backend": "stub"})).complete("hi", response_tokens=2)
    with pytest.raises(AttributeError, match=f"no attribute '{name}'") as caught:
        getattr(done, name)
    assert said in str(caught.value)
    with pytest.raises(KeyError) as missing:
        done[name]
    assert said in str(missing.value)
    assert not hasattr(done, name)
    assert not hasattr(done, "neither_here_nor_there")
    with pytest.raises(KeyError, match=r"an attribute, \.message"):
        done["message"]
    assert pickle.loads(pickle.dumps(done)) == copy.deepcopy(done) == done


@pytest.mark.parametrize(
    ("owner", "name", "said"),
    [
        (erllama, "Llama", "await runtime.load_model"), (erllama, "SamplingParams", "RequestOptions"),
        (erllama.Runtime(), "close", "async with Runtime()"), (erllama.Runtime(), "generate", "complete(id, prompt)"),
        (erllama.Runtime(), "models", "list_models()"), (erllama.TextDelta("a", [1]), "choices", "has `text`"),
        (erllama.Progress(1, 2), "content", "has `text`"),
    ],
)  # fmt: skip
def test_so_are_the_package_a_runtime_and_events(owner: Any, name: str, said: str) -> None:
    """Each says what there is instead."""
    with pytest.raises(AttributeError) as caught:
        getattr(owner, name)
    assert said in str(caught.value)


@pytest.mark.anyio
async def test_a_stream_that_is_awaited_or_read_without_async_says_how() -> None:
    """As clients read theirs: `async for event in await …`, `for event in …`, `with …`."""
    async with erllama.Runtime() as runtime:
        model: Any = await runtime.load_model("m", {"backend": "stub"})
        with pytest.raises(erllama.StreamMisused, match=r"async with model\.stream"):
            await model.stream("hi")
        with pytest.raises(erllama.StreamMisused, match=r"async with model\.stream"), model.stream("hi"):
            pass
        with pytest.raises(erllama.StreamMisused, match="async for"):
            list(model.stream("hi"))
        with pytest.raises(AttributeError, match=r"trim\(turns\)"):
            model.session().truncate()
        with pytest.raises(AttributeError, match=r"chat\(messages\)"):
            model.create_chat_completion()
