"""The conversation of `erllama run`: what a line means, and what a turn has saved."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

import erllama_py as erllama

HELP = """\
/help           show this
/clear          begin a new conversation
/system TEXT    say what the model is to be, and begin a new conversation; without a text, nothing
/quit           end, as Ctrl-D does
A line that ends with \\ goes on in the next. Ctrl-C ends a reply, and at the prompt the program."""

# Of fewer computed tokens the time is that of one decode, whatever their number.
LEAST_MEASURED = 32


class Command(msgspec.Struct, frozen=True):
    """A line that begins with a slash."""

    name: Literal["help", "clear", "system", "quit", "unknown"]
    text: str = ""


_NAMES: dict[str, Literal["help", "clear", "system", "quit"]] = {
    "/help": "help", "/?": "help", "/clear": "clear", "/system": "system",
    "/quit": "quit", "/exit": "quit", "/bye": "quit",
}  # fmt: skip


def command_of(line: str) -> Command | None:
    """The command in a line; None for a message. A path such as /etc/hosts is a message where more follows it."""
    word, _, rest = line.strip().partition(" ")
    if not word.startswith("/"):
        return None
    if (name := _NAMES.get(word.lower())) is not None:
        return Command(name, rest.strip())
    return Command("unknown", word) if not rest and word.count("/") == 1 else None


class Conversation:
    """The messages so far. A turn that failed, or was ended before it said anything, leaves none."""

    def __init__(self, system: str = "") -> None:
        self.system = system
        self._turns: list[dict[str, Any]] = []
        self.rate = 0.0  # tokens/s of the fastest prefill that was long enough to be measured

    def begin(self, system: str | None = None) -> None:
        """Begin a new conversation, with another system message where one is given."""
        self._turns = []
        if system is not None:
            self.system = system

    def messages(self, text: str) -> list[dict[str, Any]]:
        """What is asked of the model when the user says `text`."""
        first = [{"role": "system", "content": self.system}] if self.system else []
        return [*first, *self._turns, {"role": "user", "content": text}]

    def add(self, text: str, completion: erllama.Completion) -> None:
        """A turn is over."""
        self._turns += [{"role": "user", "content": text}, completion.message]
        stats = completion.stats
        if stats.prefill_tokens >= LEAST_MEASURED and stats.prefill_seconds > 0:
            self.rate = max(self.rate, stats.prefill_tokens / stats.prefill_seconds)

    def summary(self, completion: erllama.Completion) -> str:
        """What the cache saved in a turn, and how fast it was."""
        stats, reused = completion.stats, completion.cache_delta.read
        parts = [f"{reused:,} of {completion.prompt_tokens:,} prompt tokens reused"]
        if reused and self.rate:
            parts[0] += f", {saved_seconds(reused, self.rate, stats.restore_seconds):.2f} s saved"
        parts.append(f"first token after {stats.first_token_seconds:.2f} s")
        parts.append(f"{len(completion.generated):,} tokens, {stats.tokens_per_second:.0f} a second")
        return "; ".join(parts)


def saved_seconds(reused: int, rate: float, restore_seconds: float) -> float:
    """How long the reused tokens would have taken to compute at `rate` tokens a second, less what restoring took."""
    return max(0.0, reused / rate - restore_seconds)
