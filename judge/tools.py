"""Judges how a model calls tools: `make judge JUDGE_MODEL=file.gguf`.

Plays forty conversations and prints a table: valid calls (all of them, or something is wrong here), the right tools and
arguments (which says something of the model), and prompt tokens that were computed twice (none, or something is wrong
here).
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import erllama_py as erllama
from judge.play import Score, play, total
from judge.stories import STORIES

ASK = """make judge needs a model that was trained to call tools, as a GGUF file with its chat template:

    make judge JUDGE_MODEL=/path/to/model.gguf

Any instruct model whose template takes tools will do, e.g. one of Qwen2.5 or Qwen3, from 0.5 billion parameters on.
"""
ROW = "{:<20} {:>7} {:>7} {:>7} {:>7} {:>8} {:>7} {:>8}"


def row(score: Score) -> str:
    """One line of the table."""
    return ROW.format(
        score.story, score.calls, score.valid, score.turns, score.right, score.prompts, score.twice,
        f"{score.seconds:.1f}",
    )  # fmt: skip


async def judge(path: Path) -> bool:
    """Play all conversations; whether every call was valid and no token computed twice."""
    config: erllama.ModelConfigDict = {"model_path": path, "context_opts": {"n_ctx": 4096}}
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("judged", config)
        print(f"{model.info.description}\n")
        print(ROW.format("conversation", "calls", "valid", "turns", "right", "prompt", "twice", "seconds"))
        scores = []
        for story in STORIES:
            scores.append(await play(model, story))
            print(row(scores[-1]), flush=True)
    for score in scores:
        for wrong in score.wrong:
            print(f"  {score.story}: {wrong}")
    all_ = total(scores)
    print(
        f"\n{len(STORIES)} conversations in {all_['seconds']:.0f} s: {all_['valid']} of {all_['calls']} calls valid, "
        f"{all_['right']} of {all_['turns']} turns right, {all_['twice']} of {all_['prompts']} prompt tokens computed "
        "twice"
    )
    return bool(all_["valid"] == all_["calls"] and not all_["twice"])


def main(arguments: list[str]) -> int:
    """The exit status: 0 where all is well, 1 where it is not, 2 without a model."""
    if not arguments or not arguments[0]:
        print(ASK, file=sys.stderr)
        return 2
    path = Path(arguments[0]).expanduser()
    if not path.is_file():
        print(f"there is no file {path}\n\n{ASK}", file=sys.stderr)
        return 2
    return 0 if asyncio.run(judge(path)) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
