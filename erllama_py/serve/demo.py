"""`erllama demo`: a real model answers, answers from warm cells, crashes in an answer that goes on, and is warm after a
restart.

Written with the public API alone; it is meant to be copied from.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Literal

import erllama_py as erllama

# Long enough that reading it takes a moment, as the instructions of an agent do.
SYSTEM = (
    "You are a patient science teacher who answers a curious child. You answer in one or two short sentences, in "
    "plain words, and you never use a formula. When you explain something, you compare it with a thing that the "
    "child can see or touch: a ball, a cup of water, a lamp, a bicycle, a garden. You say what is known, and when "
    "something is not known you say so. You do not joke, you do not ask a question back, and you do not begin with "
    "praise. Here is what the child has learnt so far: the earth is round and turns once a day; the moon goes around "
    "the earth once a month; the sun is a star, and it is so far away that its light needs eight minutes to reach "
    "us; light is faster than sound, which is why thunder comes after the lightning; water turns to ice when it is "
    "cold and to steam when it is hot; plants take in light, water and air, and make sugar of them."
)
QUESTION = "How do plants eat?"
FOLLOW_UP = "And what is the moon?"
ANOTHER = "Why is the sky blue?"
DISTANCE = "How far away is the moon?"
RECORD = "Write a short record of the moon, as JSON."
ISOLATION: Literal["thread", "process"] = "process" if sys.platform == "linux" else "thread"
PIECES = 8  # of an answer, before it crashes


@dataclasses.dataclass
class Body:
    """What the demo asks of the moon; by its type alone the model is kept to it."""

    name: str
    kind: Literal["star", "planet", "moon"]
    inhabited: bool


def distance(body: Literal["moon", "sun"]) -> str:
    """Tell how far away the moon or the sun is."""
    return {"moon": "384,400 km", "sun": "149.6 million km"}[body]


def bar(progress: erllama.LoadProgress) -> None:
    """One line that grows, on a terminal; nothing when the output goes to a file."""
    if sys.stdout.isatty():
        share = progress.done / progress.total if progress.total else 1.0
        what = "hashing the file" if progress.stage == "hash" else "loading weights "
        mib = f"{progress.done >> 20} of {progress.total >> 20} MiB"
        print(f"\r  {what} {'#' * int(30 * share):<30} {mib}", end="", flush=True)


async def ask(model: erllama.Model, messages: list[dict[str, str]]) -> erllama.Completion:
    """Stream one answer to the terminal."""
    async with model.stream_chat(messages, response_tokens=60, temperature=0.0, repetition_penalty=1.1) as events:
        async for event in events:
            match event:
                case erllama.TextDelta(text):
                    print(text, end="", flush=True)
                case erllama.Done(completion):
                    print()
                    return completion
    raise AssertionError("a stream ends with Done")


def report(label: str, completion: erllama.Completion) -> None:
    stats, reused = completion.stats, completion.cache_delta.read
    pace = f"first token after {stats.first_token_seconds * 1000:.0f} ms, {stats.tokens_per_second:.0f} tokens/s"
    print(f"  [{label}: {pace}; {reused} of {completion.prompt_tokens} prompt tokens reused]")


async def demo(model_path: Path) -> None:
    """The whole story, about half a minute on two cores."""
    logging.getLogger("erllama_py").addHandler(logging.NullHandler())  # the crash is told below, and is on purpose
    with tempfile.TemporaryDirectory(prefix="erllama-demo-") as folder:
        tiers = {"demo_disk": erllama.DiskTier(folder, quota_bytes=1 << 30)}
        config: erllama.ModelConfigDict = {
            "model_path": model_path, "context_opts": {"n_ctx": 4096}, "tier": "disk", "tier_srv": "demo_disk",
            "isolation": ISOLATION,
        }  # fmt: skip
        async with erllama.Runtime(tiers=tiers) as runtime:
            await first_life(runtime, config)
        async with erllama.Runtime(tiers=tiers) as runtime:
            await second_life(runtime, config)


async def first_life(runtime: erllama.Runtime, config: erllama.ModelConfigDict) -> None:
    """Cold, warm, a crash that costs a pause, and the supervision tree."""
    print(f"Loading {Path(config['model_path'] or '').name}")
    model = await runtime.load_model("demo", config, on_progress=bar)
    info = model.info
    print(f"\n  {info.description}, {info.size >> 20} MiB of weights, ready in {info.load_seconds:.2f} s")

    print(f"\nThe first question: {QUESTION}")
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": QUESTION}]
    cold = await ask(model, messages)
    report("cold", cold)

    print(f"\nThe next turn: {FOLLOW_UP}")
    messages += [{"role": "assistant", "content": cold.reply}, {"role": "user", "content": FOLLOW_UP}]
    warm = await ask(model, messages)
    report("warm", warm)
    faster = cold.stats.first_token_seconds / warm.stats.first_token_seconds
    print(f"  The first token came {faster:.0f} times sooner.")

    await answer_typed(model)
    await call_a_tool(model)

    survived = await survive(model, messages)
    if survived.reply == warm.reply:
        print("  Word for word, it is the answer from before.")
    print(f"\nThe supervision tree:\n{runtime.tree()}")
    await runtime.unload(model)
    print("\nUnloaded; the memory is free.")


async def survive(model: erllama.Model, messages: list[dict[str, str]]) -> erllama.Completion:
    """What the engine runs in ends in the middle of an answer. The stream pauses until the supervisor has brought the
    model back, and goes on."""
    pid = model.info.pid
    what = "the engine's thread fails" if pid == os.getpid() else f"process {pid}, which runs the engine, gets SIGSEGV"
    print(f"\nNow {what}, in the middle of the answer:")
    pieces, last, pause = 0, time.perf_counter(), 0.0
    async with model.stream_chat(messages, response_tokens=60, temperature=0.0, repetition_penalty=1.1) as events:
        async for event in events:
            match event:
                case erllama.TextDelta(text):
                    pieces, before, last = pieces + 1, last, time.perf_counter()
                    pause = max(pause, last - before) if pieces > PIECES else 0.0
                    print(text, end="", flush=True)
                    if pieces == PIECES:
                        print(" [crash] ", end="", flush=True)
                        crash(model)
                case erllama.Done(completion):
                    print(f"\n  [it went on after {pause:.1f} s; what has ended it: {model.info.last_crash}]")
                    report("with a crash in its middle", completion)
                    return completion
    raise AssertionError("a stream ends with Done")


def crash(model: erllama.Model) -> None:
    """As native code may: where the engine has a process of its own, that ends."""
    pid = model.info.pid
    if pid is None or pid == os.getpid():
        model.inject_fault("thread")
    else:
        os.kill(pid, signal.SIGSEGV)


async def answer_typed(model: erllama.Model) -> None:
    """The reply follows the fields of a dataclass, and is one."""
    print(f"\nA typed answer: {RECORD}")
    messages = [{"role": "user", "content": RECORD}]
    typed = await model.chat(messages, json_schema=Body, response_tokens=60, temperature=0.0)
    print(f"  {typed.reply}\n  {typed.parsed}")


async def call_a_tool(model: erllama.Model) -> None:
    """The first reply calls a function, the second answers with its result. The messages are all that a run needs: the
    second one begins by carrying out the call of the first."""
    print(f"\nA tool: {DISTANCE}")
    messages = [{"role": "user", "content": DISTANCE}]
    tools: erllama.RequestOptionsDict = {"tools": [distance], "tools_in_system": True, "temperature": 0.0}
    asked = await model.run_tools(
        messages, max_rounds=1, tool_choice={"name": "distance"}, parallel_tool_calls=False, options=tools
    )
    for call in asked.open_calls:
        print(f"  {call.name}({', '.join(f'{name}={one!r}' for name, one in call.arguments.items())})")
    told = await model.run_tools(
        messages, tool_choice="none", regex=r"It is [0-9,.]{1,9} (km|million km) away\.", options=tools
    )
    print(f"  {told.reply}")


async def second_life(runtime: erllama.Runtime, config: erllama.ModelConfigDict) -> None:
    """What the first runtime has saved is on the disk: only the new question has to be read."""
    print("\nA new runtime on the same folder, as after a restart of the program:")
    model = await runtime.load_model("demo", config)
    print(f"\nAnother conversation with the same teacher: {ANOTHER}")
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": ANOTHER}]
    report("restored from the disk", await ask(model, messages))
    await runtime.unload(model)
