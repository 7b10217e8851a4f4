"""What a runtime and its supervision tree raise as such."""

from __future__ import annotations

from dataclasses import dataclass

from erllama_py.errors.base import ErllamaError


@dataclass(eq=False)
class RuntimeClosed(ErllamaError):
    """The runtime is closed, closing, or was never opened."""

    def describe(self) -> str:
        return "the runtime is not open: its calls belong inside `async with Runtime() as runtime`"


@dataclass(eq=False)
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


@dataclass(eq=False)
class RuntimeReused(ErllamaError):
    """A runtime was entered a second time; make a new one."""

    def describe(self) -> str:
        return "a runtime can be entered once; make a new one"


@dataclass(eq=False)
class RuntimeFailed(ErllamaError):
    """The supervision tree gave up; `__cause__` is the failure that it could not restart away."""

    problem: str

    def describe(self) -> str:
        return f"the supervision tree gave up: {self.problem}"


@dataclass(eq=False)
class RestartLimitReached(ErllamaError):
    """A supervised function ended once more after `restarts` restarts within `period` seconds, and was given up.

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


@dataclass(eq=False)
class SupervisedStuck(ErllamaError):
    """A supervised function did not end within `seconds` of being stopped; it runs on, and stays in the tree."""

    name: str
    seconds: float

    def describe(self) -> str:
        return f"{self.name!r} did not end within {self.seconds:g} s of being stopped, and still runs"
