"""llm-comply, a judge of servers by the descriptions that APIs publish, as a process of its own."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import msgspec

CODE = "import sys; from llm_comply.cli import main; sys.exit(main())"


async def complied(address: str, api: str, model: str, *more: str) -> list[dict[str, Any]]:
    """What its tests of one API come to, each with `status`, `errors` and `warnings`."""
    given = ["-u", address, "--format", api, "-m", model, "-k", "none", "--json", "--timeout", "300", *more]
    judge = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CODE, *given, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    told, wrong = await judge.communicate()
    try:
        found: Any = msgspec.json.decode(told)
    except msgspec.DecodeError:
        raise AssertionError(f"llm-comply says nothing: {wrong.decode()[-2000:]}") from None
    results: list[dict[str, Any]] = found["results"]
    return results
