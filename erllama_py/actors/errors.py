"""Every error the actor kit raises, each with its facts in fields.

All derive from `ActorError`. The errors of an actor's or a function's own code are never replaced: they
travel as they are (`start_child`) or as the `__cause__` of one of these (`ActorEnded`, `RestartLimitReached`).
"""

from __future__ import annotations

from erllama_py.actors.exits import Exit, Raised, Returned


class ActorError(Exception):
    """The root of all errors of the kit. `text` says what happened, from the facts in their order."""

    text = ""

    def __str__(self) -> str:
        return self.text.format(*self.args) if self.text else super().__str__()


class NamedError(ActorError):
    """An error whose one fact is the `name` of what it is about."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class MailboxFull(ActorError):
    """The message was refused: `waiting` messages wait and the mailbox holds `capacity`. Nothing was queued."""

    text = "the mailbox of {!r} is full: {} of {} messages wait"

    def __init__(self, name: str, waiting: int, capacity: int) -> None:
        super().__init__(name, waiting, capacity)
        self.name, self.waiting, self.capacity = name, waiting, capacity


class MailboxClosed(NamedError):
    """The owner of the mailbox has ended; the message was not queued."""

    text = "the mailbox of {!r} is closed"


class NameTaken(NamedError):
    """Something is registered, starting, running or kept under this name."""

    text = "the name {!r} is taken"


class NameNotFound(NamedError):
    """No actor has this name: it never existed, has ended, or is between two runs."""

    text = "no actor has the name {!r}"


class ActorEnded(ActorError):
    """The actor that was called, or was being started, has ended with `exit`; if it crashed, `__cause__` is the crash.

    `last`: it is known that its supervisor will not start it again.
    """

    text = "{!r} ended: {}"

    def __init__(self, name: str, exit: Exit, last: bool = False) -> None:
        super().__init__(name, exit, last)
        self.name, self.exit, self.last = name, exit, last
        if isinstance(exit, Raised):
            self.__cause__ = exit.error


class CallTimeout(ActorError):
    """No answer came within `seconds`. The callee learns of it (`Reply.abandoned`); it may still do the work."""

    text = "{!r} did not answer within {:g} s"

    def __init__(self, name: str, seconds: float) -> None:
        super().__init__(name, seconds)
        self.name, self.seconds = name, seconds


class SelfCall(NamedError):
    """An actor waited for its own answer, which would never come; `cast` to itself is fine."""

    text = "{!r} called itself and would wait for ever"


class UnexpectedCancel(ActorError):
    """The code of a child was not cancelled, but awaited something that was; `__cause__` is that `CancelledError`.

    It is raised instead, because a `CancelledError` that is passed on would look like a cancellation of the caller.
    """

    text = "it awaited something that was cancelled"


class RestartLimitReached(ActorError):
    """The child `name` ended again after `restarts` restarts within `period` seconds.

    `__cause__` is its last failure: an `ActorEnded` if it returned although it is permanent. Under
    a static supervisor the restarts of its siblings are counted in.
    """

    def __init__(self, name: str, restarts: int, period: float) -> None:
        super().__init__(name, restarts, period)
        self.name, self.restarts, self.period = name, restarts, period

    def __str__(self) -> str:
        after = f"after {self.restarts} restarts within {self.period:g} s"
        if self.returned:
            return f"{self.name!r} returned {after}: it is permanent, and so restarted when it returns too"
        return f"{self.name!r} failed {after}{f': {Raised(self.__cause__)}' if self.__cause__ is not None else ''}"

    @property
    def returned(self) -> bool:
        """Whether its last end was no failure: it returned although it is permanent."""
        return isinstance(self.__cause__, ActorEnded) and isinstance(self.__cause__.exit, Returned)


class StopTimeout(ActorError):
    """A child did not end, even when cancelled: after two waits of `seconds` it was abandoned."""

    text = "{0!r} did not end within {1:g} s of being stopped, nor {1:g} s later"

    def __init__(self, name: str, seconds: float) -> None:
        super().__init__(name, seconds)
        self.name, self.seconds = name, seconds


class SupervisorClosed(NamedError):
    """The supervisor is not running (any more): it takes no children."""

    text = "the supervisor {!r} is not running"
