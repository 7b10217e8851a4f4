"""Errors of models that cannot be used, now or for good."""

from __future__ import annotations

from erllama_py.errors.base import ErllamaError
from erllama_py.errors.crash import CrashReport


class ModelUnavailable(ErllamaError):
    """A family: the model that was asked cannot answer."""

    model_id: str

    text = "the model {model_id!r} is not available"


class ModelNotLoaded(ModelUnavailable):
    """No model with this id is loaded: it never was, or it was unloaded (open calls get this too)."""

    text = "no model with the id {model_id!r} is loaded"


class ModelCrashed(ModelUnavailable):
    """The model ended while it had this request; `__cause__` is what ended it, `report` what is known of it.

    Requests go on after a crash: only those with `on_crash="fail"` get this, unless `gave_up` or `by_request` is true.
    The supervisor restarts the model unless `gave_up` is true: then it has crashed too often
    and stays down until it is unloaded and loaded again. `by_request`: it has crashed several times at the same place
    of this request, in the end with nothing else at work, and would do so again.
    """

    problem: str
    gave_up: bool = False
    report: CrashReport | None = None
    by_request: bool = False

    def describe(self) -> str:
        outlook = "and is not restarted any more" if self.gave_up else "and is being restarted"
        where = " at this request, several times, in the end alone" if self.by_request else ""
        return f"the model {self.model_id!r} crashed{where} ({self.problem}) {outlook}"


class ModelStuck(ModelUnavailable):
    """The model's engine thread did not end in time: its memory stays taken, and its id with it."""

    text = "the engine of {model_id!r} does not end; its memory is not free"


class QueueFull(ModelUnavailable):
    """The model has as many requests waiting as it accepts; with `queue_wait` the next one waits for room."""

    waiting: int
    capacity: int

    text = "the queue of {model_id!r} is full, {waiting} of {capacity} requests wait; queue_wait=True waits for room"


class EmbeddingOnly(ModelUnavailable):
    """The model is an encoder, such as BERT: it embeds and cannot generate."""

    text = "the model {model_id!r} is an encoder: it embeds texts, but cannot generate"


class CannotRank(ModelUnavailable):
    """The model has no head that scores a query and a document. `methods` are those that it can rank by."""

    methods: tuple[str, ...] = ()

    def describe(self) -> str:
        others = " or ".join(f"method={method!r}" for method in self.methods)
        return f"the model {self.model_id!r} has no head that ranks; {others} ranks by other means"


class TokenizerOnly(ModelUnavailable):
    """The model was loaded with `vocab_only` and has no weights to generate with."""

    text = "the model {model_id!r} was loaded with vocab_only: it tokenizes, but cannot generate"
