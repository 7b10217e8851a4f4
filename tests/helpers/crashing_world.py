"""A `World` whose engine ends now and then, and its machine with it: open requests are asked for again, with what their
callers know, and rows that were handed to the cache stay."""

from __future__ import annotations

from erllama_py.engine.drawn import Drawn
from erllama_py.scheduler.machine import earlier
from erllama_py.scheduler.messages import Submit
from erllama_py.scheduler.state import changed, new_state
from helpers.fake_engine import FakeEngine
from helpers.model_asks import Shape
from helpers.model_world import N_SWA, Step, World


class CrashingWorld(World):
    """See the module. `crashes` have been."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.crashes = 0

    def step(self, step: Step) -> None:
        if isinstance(step, tuple) and step[0] == "crash":
            self.crash()
            self.check()
        else:
            super().step(step)

    def crash(self) -> None:
        """Both are new, and know nothing."""
        if self.state.stopping:
            return
        before, limits = self.state, self.state.limits
        self.crashes += 1
        self.state, owners, failed = new_state(limits), self.engine.owners, self.engine.failed
        self.engine = FakeEngine(limits.memory, N_SWA, limits.n_cells, limits.n_seq_max)
        self.engine.owners, self.engine.failed = owners, failed
        self.mail.clear()
        self.open.clear()
        self.asking.clear()
        self.reading.clear()
        self.kept_logits.clear()
        self.tickets.clear()
        self.flushes = 0
        for request_id, request in self.asked.items():
            if self.answered[request_id]:
                continue
            if request_id in self.cancelled:  # its caller's side has what it is answered with
                self.answer(request_id)
                continue
            told = self.streamed.get(request_id)
            drawn = Drawn(token_ids=list(told)) if told else None
            again = changed(request, again=True, drawn=drawn, earlier=earlier(before, request_id))
            self.asked[request_id] = changed(request, earlier=again.earlier)
            self.tell(Submit(again, print if told is not None else None))
