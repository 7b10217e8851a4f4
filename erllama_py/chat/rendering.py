"""A conversation as the parts of a text that become tokens: the one way by which prompts are made.

`text` renders with marks in it, and renderings by one `Renderer` can be compared and cut; `parts` takes the marks out
again. The tokens of a text are those of its parts, one after the other (`Vocabulary.tokenize_parts`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from erllama_py.chat.conversation import texts_in
from erllama_py.chat.special_texts import Marks, SpecialTexts
from erllama_py.chat.template import PLAIN, ChatSettings, ChatTemplate
from erllama_py.errors import ChatTemplateError


class Renderer:
    """Renders one conversation, whole or in part. `messages` are all that it will be asked to render."""

    def __init__(
        self, template: ChatTemplate, special: SpecialTexts, messages: object, settings: ChatSettings = PLAIN
    ) -> None:
        self._template, self.settings = template, settings
        self.source = template.source_for(settings)
        given = [*texts_in(messages), *texts_in(settings.tools), *texts_in(settings.template_kwargs)]
        self._marks = Marks(special, template.written_for(settings), given)

    def text(self, messages: Sequence[Mapping[str, Any]], opened: bool = True, *, continued: bool = False) -> str:
        """The conversation, with marks. Raises `ChatTemplateError`.

        `opened` opens the assistant's turn at the end, `continued` leaves the last message open instead.
        """
        return self._template.render(
            messages, settings=self.settings, add_generation_prompt=opened, continue_final_message=continued,
            mark=self._marks.mark, mark_own=self._marks.mark_own,
        )  # fmt: skip

    def prompt(self, messages: Sequence[Mapping[str, Any]], *, continued: bool = False) -> tuple[str, str]:
        """The conversation for a reply, with marks, and the end of it that opens the reply, without them: what is not
        there when no reply is asked for. Where the last message is `continued`, that begins with its turn."""
        text = self.text(messages, not continued, continued=continued)
        try:
            before = self.text(messages[:-1] if continued else messages, False)
        except ChatTemplateError:  # a template may refuse a conversation that ends there
            before = ""
        return text, self.plain(text[_shared(before, text) :])

    def parts(self, text: str) -> Iterator[str]:
        """A text, or a piece of one, without marks: cut where what a user wrote would be read as a control token."""
        return self._marks.parts(text)

    def plain(self, text: str) -> str:
        """The same as one text."""
        return self._marks.plain(text)


def _shared(one: str, other: str) -> int:
    """How many characters two texts have in common from their beginning."""
    if other.startswith(one):
        return len(one)
    return next(at for at, pair in enumerate(zip_longest(one, other)) if pair[0] != pair[1])
