"""Makes what the samplers of requests need before their jobs reach the engine, so that no decode waits for that.

In a process of its own an engine has a vocabulary of its own, which has compiled no structure yet: that takes
milliseconds, and seconds for a large one. Meanwhile its request waits, with the jobs that depend on it (see `passing`),
and all others go on. A request that is cancelled meanwhile goes to the engine at once, to be ended there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from erllama_py.engine.children.uncaught import end_with
from erllama_py.engine.jobs import Cancel, Generate, Job
from erllama_py.engine.process.inside.passing import Held
from erllama_py.engine.structure import compile
from erllama_py.errors import ErllamaError
from erllama_py.stacks import begin_thread

if TYPE_CHECKING:
    from erllama_py.engine.backend import Vocabulary
    from erllama_py.options.sampling import Sampling

MOST_THREADS = 2  # as many structures are made at the same time as a model's callers check at the same time


class _Waiting:
    """One job that has not gone yet; `sampling` is what is still to be made for it."""

    def __init__(self, job: Job, sampling: Sampling | None) -> None:
        self.job, self.sampling = job, sampling
        self.is_begun = False


class Preparing:
    """One engine's. `submit` gets the jobs; `put` is called by one thread."""

    def __init__(self, vocabulary: Vocabulary, submit: Callable[[Job], object], name: str) -> None:
        self.n_ctx = 0  # once it is known
        self._vocabulary, self._submit, self._name = vocabulary, submit, name
        self._changed = threading.Condition()
        self._waiting: list[_Waiting] = []  # in the order in which they came
        self._under_way: set[str | None] = set()  # the structures that are being made
        self._threads: list[threading.Thread] = []
        self._knows_ends = self._is_over = False

    def __repr__(self) -> str:
        return f"<Preparing for {self._name!r}, {len(self._waiting)} jobs wait>"

    def put(self, job: Job) -> None:
        """Submit a job: at once, unless something is to be made for it, or for one that it depends on."""
        with self._changed:
            if not self._waiting and not self._needs(job):
                self._submit(job)
                return
            if isinstance(job, Cancel):
                self._give_up(job.request_id)
            sampling = job.sampling if isinstance(job, Generate) and self._needs(job) else None
            self._waiting.append(_Waiting(job, sampling))
            self._let_go()
            self._changed.notify_all()
            busy = sum(one.sampling is not None for one in self._waiting)
            begins = sampling is not None and len(self._threads) < min(busy, MOST_THREADS)
        if begins:
            self._threads.append(threading.Thread(target=self._work, name=f"{self._name}-prepare", daemon=True))
            begin_thread(self._threads[-1])

    def end(self) -> None:
        """There will be no other job; waits until all have gone."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _needs(self, job: Job) -> bool:
        return isinstance(job, Generate) and self._takes_long(job.sampling)

    def _takes_long(self, sampling: Sampling) -> bool:
        if sampling.grammar is not None and self._vocabulary.structure_tokenizer().known(sampling.grammar) is None:
            return True
        asks_ends = bool(sampling.ignore_eos or sampling.min_tokens)
        return sampling.dry_multiplier > 0.0 or (asks_ends and not self._knows_ends)

    def _give_up(self, request_id: int) -> None:
        """Nothing is made for a request any more that has not gone: nothing will be drawn for it."""
        for one in self._waiting:
            if isinstance(one.job, Generate) and one.job.request_id == request_id:
                plain = msgspec.structs.replace(
                    one.job.sampling, grammar=None, dry_multiplier=0.0, ignore_eos=False, min_tokens=0
                )
                one.job, one.sampling = msgspec.structs.replace(one.job, sampling=plain, cancelled=True), None

    def _let_go(self) -> None:
        """Submit what waits for nothing any more."""
        left, held = list[_Waiting](), Held()
        for one in self._waiting:
            if one.sampling is None and held.lets_pass(one.job):
                self._submit(one.job)
            else:
                left.append(one)
                held.add(one.job)
        self._waiting = left

    # --- on its threads ------------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while (found := self._next()) is not None:
                one, sampling = found
                with suppress(ErllamaError):  # the engine finds the same, and tells who asked for it
                    self._prepare(sampling)
                with self._changed:
                    self._under_way.discard(sampling.grammar)
                    self._made(one)
                    self._changed.notify_all()
        except BaseException as error:  # jobs would be lost
            end_with(error)

    def _next(self) -> tuple[_Waiting, Sampling] | None:
        """The next one that something is to be made for, and what, which no other thread makes; None at the end."""
        with self._changed:
            while True:
                to_make = [(one, one.sampling) for one in self._waiting if one.sampling and not one.is_begun]
                for one, sampling in to_make:
                    if sampling.grammar is None or sampling.grammar not in self._under_way:
                        one.is_begun = True
                        self._under_way.add(sampling.grammar)
                        return one, sampling
                if self._is_over and not to_make:
                    return None
                self._changed.wait()

    def _made(self, made: _Waiting) -> None:
        """Let it go, and all that need no more than was made."""
        made.sampling = None
        for one in self._waiting:
            if one.sampling is not None and not one.is_begun and not self._takes_long(one.sampling):
                one.sampling = None
        self._let_go()

    def _prepare(self, sampling: Sampling) -> None:
        vocabulary = self._vocabulary
        if sampling.grammar is not None:
            compile(sampling.grammar, vocabulary.structure_tokenizer())
        if sampling.ignore_eos or sampling.min_tokens:
            _ = vocabulary.ends
            self._knows_ends = True
        vocabulary.prepare(sampling, self.n_ctx)
