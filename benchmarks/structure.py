"""What a structure costs and saves: a record of ten fields by a JSON schema, SmolLM2, greedy, one stream.

Against the same request free of it, and against the structure by masks alone, where each forced token is drawn. Then a
text that a structure allows whatever it is: nothing is forced, and the same tokens come with and without it. The runs
take turns; each run of a structure is compared with the mean of the free runs before and after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any
from unittest.mock import patch

from report import publish, table

import erllama_py as erllama
from erllama_py.engine.llama.sampler import LlamaSampler
from erllama_py.serve.models import fetch

FIELDS: dict[str, Any] = {
    "first_name": {"type": "string", "maxLength": 20},
    "last_name": {"type": "string", "maxLength": 20},
    "date_of_birth": {"type": "string", "pattern": "^(19|20)[0-9]{2}-[01][0-9]-[0-3][0-9]$"},
    "nationality": {"enum": ["French", "German", "Polish", "Italian"]},
    "occupation": {"type": "string", "maxLength": 30},
    "number_of_children": {"type": "integer", "minimum": 0, "maximum": 20},
    "is_retired": {"type": "boolean"},
    "email_address": {"type": "string", "maxLength": 30},
    "annual_income": {"type": "integer", "minimum": 0, "maximum": 1000000},
    "preferred_language": {"enum": ["french", "german", "polish", "italian"]},
}
SCHEMA = {"type": "object", "properties": FIELDS, "required": [*FIELDS], "additionalProperties": False}
ASKED = f"Invent a person who lives in Paris. Answer by one JSON object with the keys {', '.join(FIELDS)}."
TEXT = "The history of the lighthouse begins with a fire on a hill. "
TEXT_TOKENS = 96
ROUNDS = 12
N_CTX, N_THREADS = 2048, 2


@contextlib.contextmanager
def masks_alone() -> Iterator[None]:
    """No token comes without a draw."""
    with patch.object(LlamaSampler, "forced", lambda self: []):
        yield


class Timed:
    """Runs of one request."""

    def __init__(self, model: erllama.Model, prompt: Sequence[int], **options: Any) -> None:
        self._model, self._prompt, self._options = model, list(prompt), options
        self.seconds: list[float] = []
        self.last: erllama.Completion

    async def run(self) -> float:
        """Seconds a token."""
        began = time.perf_counter()
        self.last = await self._model.complete(self._prompt, temperature=0.0, **self._options)
        self.seconds.append(time.perf_counter() - began)
        return self.seconds[-1] / len(self.last.generated)

    def line(self, name: str, ratios: Sequence[float]) -> list[str]:
        tokens, seconds = len(self.last.generated), statistics.median(self.seconds)
        closing = f"{seconds * 1000:.0f}" if self.last.reply.rstrip().endswith("}") else "-"
        low, _, high = statistics.quantiles(ratios, n=4)
        rate = statistics.median(ratios)
        return [
            name, str(tokens), str(self.last.stats.decodes), f"{tokens / seconds:.0f}", closing, f"{rate:.2f}",
            f"{low:.2f}-{high:.2f}",
        ]  # fmt: skip


async def rounds(free: Timed, others: dict[str, tuple[Timed, Any]]) -> list[list[str]]:
    """Lines of a table, `free` first."""
    ratios: dict[str, list[float]] = {name: [] for name in others}
    for timed, context in [(free, contextlib.nullcontext), *others.values()]:
        with context():
            await timed.run()
        timed.seconds.clear()
    before = await free.run()
    for _ in range(ROUNDS):
        for name, (timed, context) in others.items():
            with context():
                seconds = await timed.run()
            after = await free.run()
            ratios[name].append((before + after) / 2 / seconds)
            before = after
    return [free.line("free", [1.0, 1.0]), *(timed.line(name, ratios[name]) for name, (timed, _) in others.items())]


async def main() -> None:
    async with erllama.Runtime() as runtime:
        sizes: erllama.ContextOptsDict = {"n_ctx": N_CTX, "n_seq_max": 1, "n_threads": N_THREADS}
        model = await runtime.load_model({"model_path": fetch("smollm2"), "context_opts": sizes})
        chat = await model.apply_chat_template([{"role": "user", "content": ASKED}])
        record = Timed(model, chat, json_schema=SCHEMA, response_tokens=400)
        await record.run()
        tokens = len(record.last.generated)
        print(record.last.reply)
        free = Timed(model, chat, response_tokens=tokens)
        alone = Timed(model, chat, json_schema=SCHEMA, response_tokens=400)
        lines = await rounds(free, {
            "by schema": (record, contextlib.nullcontext), "by schema, masks alone": (alone, masks_alone),
        })  # fmt: skip
        if record.last.generated != alone.last.generated:
            raise SystemExit("what is forced is not what would be drawn")
        text = await model.tokenize(TEXT)
        plain = Timed(model, text, response_tokens=TEXT_TOKENS)
        anything = Timed(model, text, response_tokens=TEXT_TOKENS, regex="(?s:.*)")
        more = await rounds(plain, {"any text": (anything, contextlib.nullcontext)})
        if plain.last.generated != anything.last.generated:
            raise SystemExit("a structure that allows everything changed the text")
    head = [
        "SmolLM2-135M, greedy",
        "tokens",
        "decodes",
        "tokens/s",
        "closing brace, ms",
        "ratio (median)",
        "middle half",
    ]
    lines[0][0], more[0][0], more[1][0] = "record, free", "text, free", "text, by a structure that allows any"
    publish("structure", table(head, [*lines, *more]))


if __name__ == "__main__":
    asyncio.run(main())
