"""A fuzz of cancellations: every public call, cancelled anywhere, beside crashes and reloads, and nothing leaks.

`ERLLAMA_FUZZ_STEPS` makes it longer, `ERLLAMA_FUZZ_SEED` takes another seed; a failure names the one that led to it.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from helpers.blows import known_children
from helpers.fuzz import ENDS, Fuzz
from helpers.fuzz_calls import CALLS
from helpers.public_calls import public
from helpers.watched import Watch

import erllama_py as erllama
from erllama_py.cache.handle import Cache

pytestmark = pytest.mark.anyio

A_LIFE = 150  # calls of one runtime
SEED = int(os.environ.get("ERLLAMA_FUZZ_SEED", "0"))
STEPS = int(os.environ.get("ERLLAMA_FUZZ_STEPS", "1500"))
MORE_LIVES = 20
SEEN = {"cancelled", "answered", "ModelCrashed", "ModelNotLoaded", "RuntimeClosed"}


async def lives(seeds: range, root: Path, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """One runtime after the other, each on the directories of the one before; what came of all calls."""
    done: Counter[str] = Counter()
    for seed in seeds:
        with monkeypatch.context() as patch:
            fuzz = Fuzz(root, Watch(patch), known_children(patch), seed, A_LIFE, ENDS[seed % len(ENDS)])
            try:
                await fuzz.live()
            except BaseException as error:
                error.add_note(f"ERLLAMA_FUZZ_SEED={seed} ERLLAMA_FUZZ_STEPS={A_LIFE}\n" + "\n".join(fuzz.said))
                raise
        done += fuzz.done
    return done


def test_every_public_call_is_among_them() -> None:
    """By handle, by id, and of the cache."""
    of = {"Model": erllama.Model, "Runtime": erllama.Runtime, "Cache": Cache}
    known = {f"{name}.{method}" for name, thing in of.items() for method in public(thing, {"cache"})}
    assert known <= set(CALLS)
    assert {name for name in CALLS if "." in name} <= known


@pytest.mark.slow
async def test_a_few_calls_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A life that ends in each way."""
    done = await lives(range(SEED, SEED + len(ENDS)), tmp_path, monkeypatch)
    assert done["cancelled"]
    assert done["answered"]


@pytest.mark.slow
async def test_many_calls_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the stub and on a tiny model, in this process and in others, by both loops."""
    last = SEED + max(1, STEPS // A_LIFE)
    done = await lives(range(SEED, last), tmp_path, monkeypatch)
    # Whether a call is open when its model crashes is a matter of time: a few more lives, until one was.
    for seed in range(last, last + MORE_LIVES):
        if set(done) >= SEEN:
            break
        done += await lives(range(seed, seed + 1), tmp_path, monkeypatch)
    assert set(done) >= SEEN
