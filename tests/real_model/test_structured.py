"""SmolLM2 held to 300 random schemas: every reply that ends is valid by another validator, or the schema was refused by
the name of its keyword."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import msgspec
import pytest
from helpers.random_schemas import REFUSED, Schema, random_schema
from helpers.valid import problem

import erllama_py as erllama
from erllama_py.serve.models import fetch

pytestmark = [pytest.mark.anyio, pytest.mark.real_model, pytest.mark.slow]

CONFIG: erllama.ModelConfigDict = {"context_opts": {"n_ctx": 4096, "n_threads": 2, "n_seq_max": 8}}
SCHEMAS, AT_ONCE, TOKENS = 300, 8, 80


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # once: it takes two minutes
async def test_replies_to_random_schemas_are_valid(anyio_backend: str) -> None:
    """Eight at a time, with the draw's defaults. Those that are cut short say so and have no value."""
    luck = random.Random(13)
    schemas = [random_schema(luck) for _ in range(SCHEMAS)]
    ends = {"stop": 0, "length": 0, "refused": 0}
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", {"model_path": fetch("smollm2"), **CONFIG})
        places = asyncio.Semaphore(AT_ONCE)

        async def ask(number: int, schema: Schema) -> None:
            async with places:
                refused = sorted(schema.keys() & REFUSED)
                try:
                    done = await model.chat(
                        [{"role": "user", "content": "Write a short JSON record."}], json_schema=schema,
                        response_tokens=TOKENS, seed=number,
                    )  # fmt: skip
                except erllama.InvalidSchema as error:
                    ends["refused"] += [error.keyword] == refused
                    return
                ends[done.finish_reason] += not refused
                if done.finish_reason == "stop":
                    assert problem(schema, done.reply) is None
                    assert done.parsed == msgspec.json.decode(done.reply)
                else:
                    assert (done.parsed, done.parse_error) == (None, None)

        await asyncio.gather(*(ask(number, schema) for number, schema in enumerate(schemas)))
    assert sum(ends.values()) == SCHEMAS
    assert ends["stop"] > 0.7 * SCHEMAS
    assert ends["refused"] > 0


class Person(msgspec.Struct):
    """What the tests below ask for."""

    name: str
    age: int
    city: str


PERSON: list[dict[str, Any]] = [
    {"role": "user", "content": "Anna is 31 years old and lives in Ghent. Write her as JSON with name, age and city."}
]


async def test_a_typed_answer_is_right() -> None:
    """Not only of the type: the facts are those of the prompt."""
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", {"model_path": fetch("smollm2"), **CONFIG})
        done = await model.chat(PERSON, json_schema=Person, temperature=0.0, response_tokens=60)
    assert done.parsed == Person("Anna", 31, "Ghent")
