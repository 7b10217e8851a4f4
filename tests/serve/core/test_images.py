"""Images, which no model here can see."""

from __future__ import annotations

import pytest

from erllama_py.serve.core.images import image_text
from erllama_py.serve.core.problems import Problem
from erllama_py.serve.core.settings import ServerOpts


def test_an_image_is_refused_with_its_place() -> None:
    """Unless the server is told otherwise."""
    with pytest.raises(Problem, match="cannot see images") as caught:
        image_text(ServerOpts(), "messages[0].content[1]")
    assert (caught.value.status, caught.value.param) == (400, "messages[0].content[1]")


def test_a_model_can_be_told_that_there_was_one() -> None:
    """So that an agent's request goes on."""
    assert "image" in image_text(ServerOpts(images="note"), "x")
