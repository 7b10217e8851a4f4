"""The options of a model's process: what has no meaning is refused."""

from __future__ import annotations

from typing import Any

import pytest

from erllama_py.errors import InvalidOption
from erllama_py.options.model import parse_model_config
from erllama_py.options.process import ProcessOpts, check_process

STUB: dict[str, Any] = {"backend": "stub"}


def refusal(options: Any) -> InvalidOption:
    """The error for `options`."""
    with pytest.raises(InvalidOption) as caught:
        parse_model_config(options)
    return caught.value


def test_a_process_is_for_linux_and_its_options_are_for_a_process() -> None:
    """Whatever has no meaning is refused in words."""
    check_process("process", True, ProcessOpts(nice=5), "linux")
    with pytest.raises(InvalidOption, match="needs Linux, and this is darwin: use 'thread'"):
        check_process("process", False, ProcessOpts(), "darwin")
    assert refusal({**STUB, "spare": True}).option == "spare"
    assert refusal({**STUB, "process_opts": {"nice": 3}}).option == "process_opts"
    assert refusal({**STUB, "isolation": "process", "process_opts": {"nice": 20}}).option == "process_opts.nice"
    assert refusal({**STUB, "isolation": "process", "process_opts": {"cpus": []}}).option == "process_opts.cpus"
    assert refusal({**STUB, "isolation": "fork"}).option == "isolation"
