"""What the log says of a failure under the tree: child, supervisor, cause and traceback, and what follows."""

from __future__ import annotations

from erllama_py.actors import ActorEnded, ChildFailure, Returned, describe
from erllama_py.watch.log import get_logger


def log_failure(failure: ChildFailure) -> None:
    """A warning if the child is restarted, an error if not."""
    error = failure.error
    log = get_logger(
        supervisor=failure.supervisor, child=failure.name, restarts=failure.restarts, error=describe(error)
    )
    traceback = error if error.__traceback__ is not None or error.__cause__ is not None else None
    returned = isinstance(error, ActorEnded) and isinstance(error.exit, Returned)
    match failure.outcome:
        case "restarting":
            event = "restarting a permanent child that returned" if returned else "restarting a failed child"
            log.warning(event, delay_seconds=round(failure.delay or 0.0, 3), exc_info=traceback)
        case "gave_up":
            event = "gave up restarting a permanent child that returns" if returned else "gave up restarting"
            log.error(event, exc_info=traceback)
        case "abandoned":
            log.error("abandoned: it does not end", exc_info=traceback)
