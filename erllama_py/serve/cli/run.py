"""`erllama run`: a conversation in the terminal, or through pipes.

The event loop has a thread of its own, since this one waits for lines; so saves go on while a user thinks, and Ctrl-C
comes here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from anyio.from_thread import BlockingPortal, start_blocking_portal
from rich.markup import escape

import erllama_py as erllama
from erllama_py.serve.cli import screen
from erllama_py.serve.cli.chatting import HELP, Command, Conversation, command_of
from erllama_py.serve.cli.ending import DONE, INTERRUPTED, UsageError, complain
from erllama_py.serve.cli.model_options import Seed, opened, reply_options, single_user
from erllama_py.serve.models import default_home

PROMPT = ">>> "
MORE = "... "
KEPT_LINES = 1000


def run(
    model: str, /, *, system: str = "", tokens: int | None = None, temperature: float | None = None,
    seed: Seed = None, context: int | None = None, threads: int | None = None, cache: str | None = None,
) -> int:  # fmt: skip
    """Chat with a model in the terminal.

    After each turn it says what the cache has saved. From a pipe, each line is a turn; replies go to the standard
    output, and everything else to the standard error.

    Parameters
    ----------
    model
        A GGUF file; a model of the Hugging Face hub, as hf:owner/repo:Q4_K_M; or the name of a small model that can
        be fetched: smollm2.
    system
        What the model is to be.
    tokens
        Most tokens of a reply; without it, 8,192.
    temperature
        0.0 always takes the likeliest token.
    seed
        Repeats a reply.
    context
        Tokens of the whole conversation; by default as many as suit the model and the free memory; 0 for as
        many as the model was trained for.
    threads
        CPU threads; by default as many as compute fastest.
    cache
        A directory that keeps what was computed: the same conversation is then read from there the next time.
    """
    given = reply_options(tokens=tokens, temperature=temperature, seed=seed)
    config = single_user(model, context=context, threads=threads, cache=cache)
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(opened(config)) as loaded, _history():
        if not loaded.info.can_generate:
            raise erllama.EmbeddingOnly(loaded.id)
        return Chat(portal, loaded, Conversation(system), given).talk()


class Chat:
    """A user and a model, turn by turn."""

    def __init__(
        self, portal: BlockingPortal, model: erllama.Model, conversation: Conversation, options: dict[str, Any]
    ) -> None:
        self._portal, self._model, self._conversation, self._options = portal, model, conversation, options
        self._by_hand = sys.stdin.isatty()

    def talk(self) -> int:
        """Until the user ends it; the exit code."""
        if self._by_hand:
            screen.note(f"{self._model.info.description}; /help shows what there is beside messages")
        while True:
            try:
                line = self._read()
            except EOFError:
                return DONE
            except UnicodeDecodeError as error:
                self._refuse(f"that is no text: {error.reason} at byte {error.start}")
                continue
            except KeyboardInterrupt:
                print(file=sys.stderr)
                return INTERRUPTED
            if (command := command_of(line)) is None:
                if line.strip():
                    self._answer(line)
            elif command.name == "quit":
                return DONE
            else:
                self._obey(command)

    def _read(self) -> str:
        """A line and those that continue it. Raises `EOFError`."""
        line = input(PROMPT if self._by_hand else "")
        while line.endswith("\\"):
            line = line[:-1]
            try:
                line += "\n" + input(MORE if self._by_hand else "")
            except EOFError:  # what is there is the message
                break
        return line

    def _refuse(self, problem: str) -> None:
        """A line that is none. It ends a pipe, so that a script notices."""
        if not self._by_hand:
            raise UsageError(problem)
        complain(problem)

    def _obey(self, command: Command) -> None:
        match command.name:
            case "help":
                screen.aside().print(escape(HELP))
            case "clear":
                self._conversation.begin()
                screen.note("a new conversation")
            case "system":
                self._conversation.begin(command.text)
                screen.note("a new conversation, with this system message" if command.text else "no system message")
            case _:
                complain(f"there is no {command.text}; /help shows what there is")

    def _answer(self, text: str) -> None:
        """One turn. Ctrl-C ends the reply with what it has; an error leaves the conversation as it was."""
        reply = Reply(self._model, self._conversation.messages(text), self._options)
        turn = self._portal.start_task_soon(reply.show)
        try:
            try:
                completion = turn.result()
            except KeyboardInterrupt:
                self._portal.call(reply.stop)
                completion = turn.result()  # a second Ctrl-C is not caught: it ends the program
        except (erllama.RequestError, erllama.InvalidOption, erllama.ChatTemplateError) as error:
            if not self._by_hand:
                raise
            complain(str(error))
            return
        self._conversation.add(text, completion)
        screen.note(f"[{self._conversation.summary(completion)}]")


class Reply:
    """One reply, in the thread of the loop. It can be stopped at any time, also before it has begun."""

    def __init__(self, model: erllama.Model, messages: list[dict[str, Any]], options: dict[str, Any]) -> None:
        self._stream = model.stream_chat(messages, **options)
        self._entered = self._stopped = False

    def stop(self) -> None:
        """End it with what it has."""
        self._stopped = True
        if self._entered:
            self._stream.cancel()

    async def show(self) -> erllama.Completion:
        """Print it as it comes: its thinking dim, and on a terminal only."""
        thinking = sys.stdout.isatty()
        async with self._stream as events:
            self._entered = True
            if self._stopped:
                self._stream.cancel()
            async for event in events:
                match event:
                    case erllama.TextDelta(text):
                        screen.say(text)
                    case erllama.ThinkingDelta(text) if thinking:
                        screen.out().print(f"[dim]{escape(screen.visible(text))}[/dim]", end="")
                    case erllama.ThinkingEnd() if thinking:
                        print()
                    case erllama.Done(completion):
                        print(flush=True)
                        return completion
        raise AssertionError("a stream ends with Done")


@contextmanager
def _history() -> Iterator[None]:
    """Lines of earlier runs by the arrow keys, where there is a terminal; kept for its user alone."""
    try:
        import readline
    except ImportError:  # a Python that was built without it
        yield
        return
    if not sys.stdin.isatty():
        yield
        return
    file = default_home() / "history"
    with suppress(OSError):
        readline.read_history_file(file)
    readline.set_history_length(KEPT_LINES)
    try:
        yield
    finally:
        with suppress(OSError):
            _write(readline, file)


def _write(readline: Any, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(file, os.O_CREAT | os.O_WRONLY, 0o600))
    readline.write_history_file(file)
