"""What is known of a crash, and what it blames: rows that were being put back, else the requests of the operation that
crashed, or all at work."""

from __future__ import annotations

from erllama_py.actors import ActorEnded, Raised, text_of
from erllama_py.cache.messages import Located
from erllama_py.engine.evidence import EngineDied
from erllama_py.engine.jobs import DrillFault
from erllama_py.errors import CrashReport, ErllamaError, ModelCrashed
from erllama_py.model.board import ModelBoard
from erllama_py.scheduler.messages import actor_name
from erllama_py.scheduler.stages import Following, Looking, Restoring
from erllama_py.scheduler.state import State

# What somebody else has sent, or a person at a terminal: no request's doing.
FROM_OUTSIDE = frozenset({"SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT"})
MOST_DEATHS = 3  # of processes in which one caller has something begun: then it may be this that ends them
AT_REST = frozenset({"starting", "load", "idle", "close", "ended"})  # operations that are about no request


def report_of(crash: BaseException) -> CrashReport | None:
    """The evidence that comes with an error, if there is any."""
    report = getattr(crash, "report", None)
    return report if isinstance(report, CrashReport) else None


class Deaths:
    """The ends of a model's process while one caller has something begun over its weights, whoever ended it: there will
    be another of both."""

    def __init__(self, model: ModelBoard) -> None:
        self._model, self._count = model, 0
        self._before = model.last_crash

    def __repr__(self) -> str:
        return f"<Deaths: {self._count} of {self._model.model_id!r}>"

    def begins(self) -> None:
        """Something is being begun in the process that is up now."""
        self._before = self._model.last_crash

    def met(self, error: BaseException | None) -> bool:
        """Whether what was begun has ended with the process. Its own error need not say so: its model may have been
        told first. Raises where that has come too often."""
        last = self._model.last_crash
        report = None if error is None else report_of(error) or report_of(error.__cause__ or error)
        if error is not None and report is None and last is not self._before:
            report = last
        if report is None or report.reason == "exception":
            return False
        self._count += 1
        if self._count == MOST_DEATHS:
            raise self._model.load_error(EngineDied(report))
        return True


def crash_of(ended: ActorEnded, model: ModelBoard, before: CrashReport | None) -> BaseException | None:
    """What an actor over a model's weights has ended with, if that was no end in order. `before` was the model's last
    crash when it was asked: where its process has ended since, the model may have stopped it for that. An engine that
    has raised takes no other one along: the model stopped this one in order then."""
    if isinstance(ended.exit, Raised):
        return ended.exit.error
    last = model.last_crash
    return None if last is None or last is before or last.reason == "exception" else EngineDied(last)


def blamed(crash: BaseException, at_work: frozenset[int]) -> frozenset[int]:
    """The requests that may have caused a crash: those of the operation under way, none where there was none, and all
    that were `at_work` where that is not known. Of a drill, and of what came from outside, there are none."""
    report = report_of(crash)
    if _is_nobodys(crash, report):
        return frozenset()
    if report is None:
        return at_work
    if report.requests or report.doing in AT_REST:
        return frozenset(report.requests)
    return at_work


def blamed_in(crash: BaseException, board: ModelBoard) -> frozenset[int]:
    """As `blamed`, of a model's requests: none where it was an embedder, or may have been a row, which is not used
    again."""
    report = report_of(crash)
    if (report is not None and report.doing == "embed") or rows_at_fault(crash, board.last_state):
        return frozenset()
    return blamed(crash, at_work(board))


def rows_at_fault(crash: BaseException, state: State | None) -> tuple[Located, ...]:
    """The rows that may have caused a crash: of those that the engine was given to put back, and had not told of, the
    ones as long as what it was at. Pure."""
    report = report_of(crash)
    if state is None or report is None or report.doing != "restore" or _is_nobodys(crash, report):
        return ()
    placed = [state.placed.get(request_id) for request_id in report.requests]
    given = [row for one in placed if isinstance(one, Restoring) for row in one.start.rows[one.restored : one.sent]]
    return tuple(row for row in given if row.meta.end - row.meta.start == report.tokens)


def _is_nobodys(crash: BaseException, report: CrashReport | None) -> bool:
    """Whether it was a drill, or came from outside."""
    outside = report is not None and report.reason == "signal" and report.signal in FROM_OUTSIDE
    return outside or isinstance(crash, DrillFault)


def at_work(board: ModelBoard) -> frozenset[int]:
    """The requests that the engine of a board's last actor had."""
    placed = () if board.last_state is None else board.last_state.placed.values()
    return frozenset(one.core.request.id for one in placed if not isinstance(one, Following | Looking))


def is_last(model: ModelBoard, ended: ActorEnded) -> bool:
    """Whether there will be no other actor: the end of a companion, or an embedder, is not that of its model."""
    return model.is_closed or (ended.last and ended.name == actor_name(model.model_id))


def last_error(model: ModelBoard, ended: ActorEnded) -> BaseException:
    """What a request that would go on ends with: why its model is gone for good, else how its actor has ended."""
    try:
        model.check()
    except ErllamaError as gone:
        return gone
    return ended


def guilty_of(model_id: str, crash: BaseException) -> ModelCrashed:
    """The error of a request that has crashed its model again and again, in the end alone."""
    return ModelCrashed(model_id, text_of(crash), report=report_of(crash), by_request=True)
