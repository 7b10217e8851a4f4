"""Hostile texts have the tokens that llama.cpp gives in one call, with real vocabularies, however they are cut.

`ERLLAMA_TEXTS` says how many for each; `python -m helpers.text_attack` takes any file.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers.text_attack import attack, opened

from erllama_py.serve.models import fetch

pytestmark = [pytest.mark.real_model, pytest.mark.slow]

COUNT = int(os.environ.get("ERLLAMA_TEXTS", "60"))


@pytest.mark.parametrize("name", ["smollm2", "gemma3", "minilm"])
def test_hostile_texts_have_their_tokens(name: str) -> None:
    """Emoji, marks, NULs, right-to-left, control tokens and what looks like them; none is refused by these."""
    with opened(Path(fetch(name))) as words:
        assert attack(words, COUNT, seed=1)["refused"] == 0
