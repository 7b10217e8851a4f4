"""Errors of a runtime, its event loop and its tree."""

from __future__ import annotations

from erllama_py.errors.base import ErllamaError


class RuntimeClosed(ErllamaError):
    """The runtime is closed, closing, or was never opened."""

    text = "the runtime is not open: its calls belong inside `async with Runtime() as runtime`"


class WrongLoop(ErllamaError):
    """A runtime, or something of it, was used outside the event loop that it was opened in.

    `home` says where it lives, `here` where it was used. From another thread, hand the call over with
    `asyncio.run_coroutine_threadsafe` or `anyio.from_thread.run`; for another `asyncio.run`, open another runtime.
    """

    home: str
    here: str

    def describe(self) -> str:
        advice = "hand the call over with asyncio.run_coroutine_threadsafe, or open a runtime in each asyncio.run"
        return f"the runtime lives in {self.home}, and was used in {self.here}: {advice}"


class RuntimeReused(ErllamaError):
    """A runtime was entered a second time; make a new one."""

    text = "a runtime can be entered once; make a new one"


class RuntimeFailed(ErllamaError):
    """The supervision tree gave up; `__cause__` is the failure that restarts did not cure."""

    problem: str

    text = "the supervision tree gave up: {problem}"


class RestartLimitReached(ErllamaError):
    """A supervised function ended again after `restarts` restarts within `period` seconds, and was given up.

    `__cause__` is its last error. `returned`: it raised nothing, but returned, and was restarted for being permanent.
    """

    name: str
    restarts: int
    period: float
    returned: bool = False

    def describe(self) -> str:
        after = f"after {self.restarts} restarts within {self.period:g} s"
        if self.returned:
            return f'{self.name!r} returned {after}; under restart="permanent" returning is a reason to restart'
        return f"{self.name!r} failed {after}: {self.__cause__!r}"


class SupervisedStuck(ErllamaError):
    """A supervised function did not end within `seconds` of being stopped; it runs on, and stays in the tree."""

    name: str
    seconds: float

    text = "{name!r} did not end within {seconds:g} s of being stopped, and still runs"
