"""One decode for many sequences, and what is left of it when it fails: one request's failure never fails another.

`Decoder` calls the backend. A batch that finds no cells is tried again with half of it, down to one token. One that
fails is tried again request by request, and one that fails alone too is the culprit; when all fail, the context is
broken and the failure goes up. `settle` gets the parts of each decode that was done, and their slices, before the next
one.

What a decode that failed has computed is forgotten and computed again, so that nothing of it is ever copied out: no
reply, row or parked request stands on it (`still_counts`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from erllama_py.engine.backend import Backend, BackendFailure, DecodeStatus, ModelFacts, Slice
from erllama_py.engine.heartbeat import Heart
from erllama_py.engine.prompt_scores import as_many_as_fit, most_rows
from erllama_py.engine.recorder import Operation
from erllama_py.engine.sequence import Running
from erllama_py.engine.tick_plan import Need
from erllama_py.options.request import BACKGROUND


class Part(msgspec.Struct, frozen=True):
    """The next `tokens` tokens of a request."""

    running: Running
    tokens: int


class Result(msgspec.Struct, frozen=True):
    """`whole`: all parts were decoded at once. `stuck` found no cells for one token, `failed` cannot be decoded."""

    whole: bool = False
    stuck: Sequence[Part] = ()
    failed: Sequence[tuple[Part, str]] = ()


class Decoder:
    """See the module. `drill` has every decode fail from then on, or the next one end the process. `heart` measures
    each decode."""

    def __init__(
        self, backend: Backend, facts: ModelFacts, settle: Callable[[Sequence[Part], Sequence[Slice]], None],
        heart: Heart,
    ) -> None:  # fmt: skip
        self.drill: Literal["decode", "assertion"] | None = None
        self._heart = heart
        self._backend, self._settle = backend, settle
        self._n_batch = facts.n_batch
        self._cuttable = facts.memory in ("full", "window")

    def decode(self, parts: Sequence[Part]) -> Result:
        """Decode what can be decoded. Raises `BackendFailure` when nothing can, and not for want of cells."""
        try:
            status = self._run(parts)
        except BackendFailure as failure:
            return self._one_by_one(parts, failure)
        match status:
            case DecodeStatus.DONE:
                return Result(whole=True)
            case DecodeStatus.ABORTED:
                for part in parts:
                    self._find_position(part.running, failed=False)
                return Result()
            case DecodeStatus.NO_CELLS:
                return self._smaller(parts)

    def _run(self, parts: Sequence[Part]) -> DecodeStatus:
        slices = [part.running.slice(part.tokens) for part in parts]
        status = None
        operation: Operation = "decode" if all(part.running.generating for part in parts) else "prefill"
        requests = [part.running.job.request_id for part in parts]
        self._heart.begins(sum(len(one.tokens) for one in slices), requests, operation)
        try:
            if self.drill == "decode":
                raise BackendFailure("a decode was told to fail")
            if self.drill == "assertion":
                self._backend.fail_assertion()
            status = self._backend.decode(slices)
        finally:
            self._heart.ends(status is DecodeStatus.DONE, raised=status is None)
        if status is DecodeStatus.DONE:
            self._settle(parts, slices)
        return status

    def _smaller(self, parts: Sequence[Part]) -> Result:
        """Those that stream come first in a batch; one that is left out has its turn in the next tick."""
        first = parts[0]
        if len(parts) > 1:
            fewer = parts[: len(parts) // 2]
        elif first.tokens > 1:
            fewer = [Part(first.running, first.tokens // 2)]
        else:
            return Result(stuck=parts)
        return msgspec.structs.replace(self.decode(fewer), whole=False)

    def _one_by_one(self, parts: Sequence[Part], failure: BackendFailure) -> Result:
        if len(parts) == 1:
            raise failure
        failed: list[tuple[Part, str]] = []
        ends = [part.running.position + part.tokens for part in parts]
        for part in parts:
            self._find_position(part.running, failed=True)
        for part, end in zip(parts, ends, strict=True):
            try:
                self._reach(part.running, end)
            except BackendFailure as again:
                failed.append((part, str(again)))
        if len(failed) == len(parts):
            raise failure
        return Result(failed=failed)

    def _reach(self, running: Running, end: int) -> None:
        """Decode a request alone up to `end`, and what it had lost first: else a later failure could lose that for
        ever."""
        while running.position < end and (need := running.need()):
            tokens = min(need.tokens, end - running.position, self._n_batch)
            if self._run([Part(running, tokens)]) is not DecodeStatus.DONE:
                return

    def _find_position(self, running: Running, *, failed: bool) -> None:
        """After a decode that did not end: what of a request counts still. What cannot be cut back to that is computed
        from its first token on."""
        _, last = self._backend.positions(running.seq_id)
        position = still_counts(running.position, last, running.most_held, failed=failed, cuttable=self._cuttable)
        if not self._backend.remove(running.seq_id, position, -1):
            position = 0
            if not self._backend.remove(running.seq_id, 0, -1):
                raise BackendFailure(f"sequence {running.seq_id} cannot go on after a decode that did not end")
        running.position = position


def still_counts(before: int, last: int, most: int, *, failed: bool, cuttable: bool) -> int:
    """How many tokens of a sequence count after a decode that did not end. It held `before` of them then, and has come
    to position `last`. Pure.

    One that was stopped has left whole micro-batches, which count; but what is fed last, beyond `most`, is decoded
    again: its logits are lost. One that failed may have left anything where it wrote. A recurrent state is changed in
    place, and may be half-way through that: nothing of it counts.
    """
    if not cuttable or last + 1 < before:
        return 0
    return before if failed else min(last + 1, most)


def with_few_scoring(needs: dict[Running, Need], n_vocab: int) -> dict[Running, Need]:
    """Of prompts whose logits are all read as many as fit, those that have waited longest: these take memory. Those in
    the background are chosen apart, for of them a decode takes few tokens beside others."""
    scoring = {running: need for running, need in needs.items() if running.is_scoring(need)}
    if len(scoring) < 2:
        return needs
    chosen, rows = list[Running](), [(running, need.tokens, running.waited) for running, need in scoring.items()]
    for behind in (False, True):
        kind = [entry for entry in rows if (scoring[entry[0]].priority <= BACKGROUND) is behind]
        chosen += as_many_as_fit(kind, most_rows(n_vocab))
    for running in scoring:
        running.waited += running not in chosen
    return {running: need for running, need in needs.items() if running in chosen or running not in scoring}
