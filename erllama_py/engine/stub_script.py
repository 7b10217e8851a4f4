"""A stub that replies with given texts: for tests of applications, and for stories of thinking and of tool calls.

A `Script` is the backend factory of a runtime (`Runtime(backend_factory=script.backend)`); `StubOpts.replies` makes one
of each load. What a structure or a ban does not allow is not said: the stub's own choice takes its place, and the
script goes on where it was. White space that a structure does not allow is left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from erllama_py.chat.special_texts import SpecialTexts
from erllama_py.engine.backend import Backend, ModelFacts
from erllama_py.engine.banned import banned
from erllama_py.engine.guidance import Words
from erllama_py.engine.structure import compile
from erllama_py.engine.stub import CHAT_TEMPLATE, SPECIAL, StubBackend, StubSampler, StubVocabulary
from erllama_py.engine.stub_logits import END
from erllama_py.errors import InvalidOption, InvalidText
from erllama_py.options.model import ModelConfig
from erllama_py.options.sampling import Sampling

Reply = str | Callable[[str], str]
WHITE = frozenset(b" \t\r\n")  # a structure has its own: people write JSON with more or less of it
FIRST = max(SPECIAL) + 1  # the first of the tokens that a script adds


class Script:
    """What a model says, and what it was asked: `prompts`, as text, in the order of the requests.

    `Script("Hello!", "Goodbye.")` gives its replies to the requests in their order, the last one to all that come
    after; `Script({"weather": "Sunny.", "": "I do not know."})` the first whose key the prompt contains, and where
    there is none the stub's own letters. In place of a text stands a function of the prompt. Tokens are bytes, but for
    `controls`, which are hidden as control tokens are, and `words`, which are seen. `template` is the chat template.
    """

    def __init__(
        self,
        *replies: Reply | Mapping[str, Reply],
        controls: Sequence[str] = (),
        words: Sequence[str] = (),
        template: str = CHAT_TEMPLATE,
    ) -> None:
        for reply in replies:
            _check_reply(reply)
        self.replies, self.template = replies, template
        self.prompts: list[str] = []
        self.names = {token: name for token, name in SPECIAL.items()}
        self.names |= {FIRST + index: name.encode() for index, name in enumerate(controls)}
        first = FIRST + len(controls)
        self.words = {first + index: word.encode() for index, word in enumerate(words)}

    def next(self, prompt: str) -> str | None:
        """The reply to the next request; `None`: the stub's own."""
        return self.reply(len(self.prompts), prompt)

    def reply(self, place: int, prompt: str) -> str | None:
        """The reply to the request that has this place among all: the next one, or one that goes on."""
        reply = self.replies[min(place, len(self.replies) - 1)] if self.replies else None
        self.prompts += [prompt] * (place + 1 - len(self.prompts))  # a new script knows nothing of those before
        if isinstance(reply, Mapping):
            reply = next((one for part, one in reply.items() if part in prompt), None)
        chosen: object = _called(reply, prompt) if callable(reply) else reply
        if not isinstance(chosen, str | None):
            raise InvalidOption("replies", f"the function of a reply gives a str, not {type(chosen).__name__}")
        return chosen

    def backend(self, model_id: str, config: ModelConfig) -> Backend:
        """The backend factory of a runtime."""
        return ScriptedBackend(model_id, config, self)


def _called(reply: Callable[[str], str], prompt: str) -> object:
    """What a function gives. One that fails has its request fail, not the model."""
    try:
        return reply(prompt)
    except Exception as error:  # a test's own function: whatever it raises
        problem = f"the function of a reply has raised {type(error).__name__}: {error}"
        raise InvalidOption("replies", problem) from error


def _check_reply(reply: object) -> None:
    """Raises `InvalidOption`, where a script is made: the model would end with it."""
    expected = 'expected texts, functions of the prompt or one mapping, as in Script("a", "b")'
    if isinstance(reply, list | tuple):
        raise InvalidOption("replies", f"{expected}, got a {type(reply).__name__}: Script(*replies) takes its items")
    for one in (*reply.keys(), *reply.values()) if isinstance(reply, Mapping) else (reply,):
        if not isinstance(one, str) and not callable(one):
            raise InvalidOption("replies", f"{expected}, got {type(one).__name__}")


class ScriptedVocabulary(StubVocabulary):
    """Bytes, and the tokens of a script. Words are read in any text, controls where that is asked for."""

    def __init__(self, model_id: str, n_vocab: int, script: Script) -> None:
        super().__init__(model_id, n_vocab)
        self._script = script
        self._tokens = {name: token for token, name in (script.names | script.words).items()}
        self._all = _any_of([*script.names.values(), *script.words.values()])
        self._plain = _any_of([*script.words.values()])

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        self._check(0)
        try:
            data = text.encode()
        except UnicodeEncodeError as error:
            raise InvalidText(f"the text has no UTF-8 form: {error}") from error
        tokens: list[int] = []
        for index, part in enumerate((self._all if parse_special else self._plain).split(data)):
            tokens += [self._tokens[part]] if index % 2 else part  # the names are between the rest
        return tokens

    def least_tokens(self, text: str) -> int:
        return -(-len(text) // max(map(len, self._tokens), default=1))

    def special_texts(self) -> SpecialTexts:
        names, words = self._script.names.values(), self._script.words.values()
        return SpecialTexts(tuple(name.decode() for name in names), tuple(word.decode() for word in words))

    def token_bytes(self, token: int, *, special: bool) -> bytes:
        self._check(token)
        if token in self._script.words:
            return self._script.words[token]
        return bytes([token]) if token < END else self._script.names.get(token, b"") if special else b""

    def _make_words(self) -> Words:
        words = [bytes([token]) for token in range(END)]
        for token in range(END, self.n_vocab):
            hidden = b"\xff" + self._script.names.get(token, b"")  # no text has this byte
            words.append(self._script.words.get(token) or (hidden if token in self._script.names else b""))
        return Words(words, self.ends, list)


class ScriptedSampler(StubSampler):
    """Draws one reply, then the end. What was accepted otherwise, such as forced tokens, is taken to be of the reply
    where it is what comes next there. `reply` gives that of a request's place among all."""

    def __init__(self, script: Script, reply: Callable[[int], list[int] | None], *args: Any) -> None:
        super().__init__(*args)
        self._script, self._reply = script, reply
        self._place: int | None = None  # of its request
        self._to_say: list[int] | None = None
        self._length = 0

    @property
    def _rest(self) -> list[int] | None:
        """What is left of the reply. It is taken with the first token: a prompt that is only computed takes none."""
        if self._place is None:
            self._take(len(self._script.prompts), said=0)
        return self._to_say

    def _take(self, place: int, said: int) -> None:
        reply = self._reply(place)
        self._place, self._length = place, len(reply or ())
        self._to_say = None if reply is None else reply[said:]

    @property
    def used(self) -> tuple[int | float, ...]:
        return () if self._place is None else (self._place, self._length - len(self._to_say or ()))

    def replay(self, tokens: Sequence[int], used: tuple[int | float, ...]) -> None:
        super().accept(tokens)
        if used:
            self._take(int(used[0]), int(used[1]))

    def _draw(self, value: int) -> int:
        if self._rest is None:
            return super()._draw(value)
        allowed = self._allowed()
        while self._rest and self._rest[0] in WHITE and not allowed(self._rest[0]):
            del self._rest[0]
        wanted = self._rest[0] if self._rest else END
        if wanted in self._banned.after(self._drawn) or not allowed(wanted):
            token = super()._draw(value)
        else:
            if self._matcher is not None:
                self._matcher.accept(wanted)
            self._drawn += 1
            token, self._last = wanted, (wanted, value, lambda: self._left(value, frozenset(), None))
        self._took(token)
        return token

    def _allowed(self) -> Callable[[int], bool]:
        """Whether the structure allows a token next."""
        if self._matcher is None:
            return lambda token: True
        mask = self._matcher.allowed(self._n_vocab)
        return lambda token: bool(mask[token])

    def forced(self) -> list[int]:
        tokens = super().forced()
        for token in tokens:
            self._took(token)
        return tokens

    def accept(self, tokens: Sequence[int]) -> None:
        super().accept(tokens)
        self._skip(tokens)

    def _skip(self, tokens: Sequence[int]) -> None:
        """What was written for the model is in its script too, maybe later: it goes on after that."""
        rest = self._rest or []
        for length in range(len(tokens), 0, -1):
            end = [*tokens[-length:]]
            for at in range(len(rest) - length + 1 if length > 1 or end[0] > END else 0):
                if rest[at : at + length] == end:
                    del rest[: at + length]
                    return

    def _took(self, token: int) -> None:
        """It is no more to be said, nor is white space before it that was not allowed."""
        rest = self._rest or []
        at = 0 if self._matcher is None or rest[:1] == [token] else _white(rest)
        if rest[at : at + 1] == [token]:
            del rest[: at + 1]


class ScriptedBackend(StubBackend):
    """A stub that says what its script says."""

    def __init__(self, model_id: str, config: ModelConfig, script: Script) -> None:
        super().__init__(model_id, config)
        self.vocabulary: ScriptedVocabulary = ScriptedVocabulary(model_id, config.stub.vocab_size, script)
        self._script = script

    def load(self, progress: Callable[[float], bool]) -> ModelFacts:
        return msgspec.structs.replace(super().load(progress), chat_template=self._script.template)

    def sampler(self, sampling: Sampling, history: Sequence[int]) -> StubSampler:
        matcher = None
        if sampling.grammar is not None:
            matcher = compile(sampling.grammar, self.vocabulary.structure_tokenizer())
        vocabulary = self.vocabulary
        prompt = vocabulary.detokenize(history, special=True)

        def reply(place: int) -> list[int] | None:
            said = self._script.reply(place, prompt)
            return None if said is None else vocabulary.tokenize(said, add_special=False, parse_special=True)

        own = self._values, vocabulary.n_vocab, sampling, banned(sampling, vocabulary), matcher
        return ScriptedSampler(self._script, reply, *own)


def _white(tokens: Sequence[int]) -> int:
    """How many of them are white space before the first that is none."""
    return next((at for at, token in enumerate(tokens) if token not in WHITE), len(tokens))


def _any_of(names: Sequence[bytes]) -> re.Pattern[bytes]:
    longest = sorted(names, key=len, reverse=True)
    return re.compile(b"(" + b"|".join(map(re.escape, longest)) + b")") if longest else re.compile(b"(?!)")
