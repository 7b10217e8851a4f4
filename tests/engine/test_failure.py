"""Errors, jobs and outcomes cross a process border as they are: class, fields and causes."""

from __future__ import annotations

import dataclasses
import math
import typing
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import erllama_py as erllama
from erllama_py.engine import jobs
from erllama_py.engine.failure import Failure, ForeignError, failure_of
from erllama_py.options.sampling import Sampling

NAMED = [getattr(erllama, name) for name in erllama.__all__]
PUBLIC = [one for one in NAMED if isinstance(one, type) and issubclass(one, erllama.ErllamaError)]
MESSAGES = [*typing.get_args(jobs.Job), *typing.get_args(jobs.Outcome)]


SAMPLINGS = [
    Sampling(),
    Sampling(temperature=0.0, seed=7, mirostat=2, samplers=("top_k",), stop_token_ids=(1, 2), grammar="a"),
    Sampling(logit_bias={5: -math.inf, "text": 1.5}, dry_sequence_breakers=("\n",), adaptive_p=0.5),
]


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Anything that an annotation allows."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return structs(kind)
    args = typing.get_args(kind)
    if typing.get_origin(kind) is typing.Literal:
        return st.sampled_from(args)
    if typing.get_origin(kind) is tuple and args[-1] is not ...:
        return st.tuples(*map(values, args))
    if typing.get_origin(kind) in (list, tuple):
        many = st.lists(values(args[0]), max_size=3)
        return many if typing.get_origin(kind) is list else many.map(tuple)
    if typing.get_origin(kind) is dict:
        return st.dictionaries(st.text(), values(args[1]) if args[1] is float else st.integers(0, 9), max_size=3)
    if args:
        return st.one_of([values(arg) for arg in args])
    if kind is int:
        return st.integers(-(1 << 63), (1 << 63) - 1)
    if kind is memoryview:
        return st.binary(max_size=9).map(memoryview)
    if kind is float:
        return st.floats(allow_nan=False)
    return st.from_type(kind)


def structs(kind: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    """Anything that a struct may hold. A `Failure` is made from an error, a `Sampling` checked at the door."""
    if kind is Failure:
        return raised.map(failure_of)
    if kind is Sampling:
        return st.sampled_from(SAMPLINGS)
    hints = typing.get_type_hints(kind)
    return st.builds(kind, **{name: values(hints[name]) for name in kind.__struct_fields__})


def errors(kind: type[erllama.ErllamaError]) -> st.SearchStrategy[Any]:
    """Anything that an error may hold."""
    hints = typing.get_type_hints(kind)
    return st.builds(kind, **{field.name: values(hints[field.name]) for field in dataclasses.fields(kind)})


raised: st.SearchStrategy[Any] = st.sampled_from(PUBLIC).flatmap(errors) | st.builds(OSError, st.text())


def crossed(message: Any, kind: Any) -> Any:
    """What comes out on the other side."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=kind)


@pytest.mark.parametrize("kind", PUBLIC, ids=lambda kind: kind.__name__)
@settings(max_examples=20)
@given(data=st.data())
def test_an_error_keeps_its_class_and_its_facts(kind: Any, data: st.DataObject) -> None:
    """Whatever they are."""
    error = data.draw(errors(kind))
    again = crossed(failure_of(error), Failure).error()
    assert (type(again), again.args, str(again)) == (kind, error.args, str(error))


def test_facts_that_are_several_stay_what_they_are() -> None:
    """A tuple is one again, and its texts are sent as others are."""
    failure = failure_of(erllama.TierNotFound("a", ("b", "\ud800")))
    assert crossed(failure, Failure) == failure
    assert failure.error().args == ("a", ("b", "?"), None)


@given(st.lists(raised, min_size=1, max_size=5))
def test_an_error_keeps_its_causes(chain: list[BaseException]) -> None:
    """Down to the first; those of other libraries by name and text, however often they cross."""
    for error, cause in pairwise(chain):
        error.__cause__ = cause
    again: BaseException | None = crossed(failure_of(crossed(failure_of(chain[0]), Failure).error()), Failure).error()
    for error in chain:
        if isinstance(error, OSError):
            assert isinstance(again, ForeignError)
            assert (again.kind, again.problem) == ("OSError", str(error))
        else:
            assert type(again) is type(error)
        assert again is not None
        again = again.__cause__
    assert again is None


def test_an_error_that_is_its_own_cause_comes_to_an_end() -> None:
    """As some libraries make them."""
    error = OSError("again")
    error.__cause__ = error
    assert failure_of(error).error().__cause__ is not None


def test_an_error_of_an_application_is_sent_as_its_text() -> None:
    """Its fields are not known on the other side, nor is its class mistaken for one of ours of the same name."""

    class SamplerFailed(erllama.RequestError):
        pass

    again = crossed(failure_of(SamplerFailed("no luck")), Failure).error()
    assert isinstance(again, ForeignError)
    assert str(again) == "SamplerFailed: no luck"


def test_text_without_a_utf8_form_does_not_stop_an_error() -> None:
    """A problem may quote what a caller has passed."""
    again = crossed(failure_of(erllama.InvalidText("not text: \ud800")), Failure).error()
    assert (type(again), str(again)) == (erllama.InvalidText, "not text: ?")


@pytest.mark.slow
@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
@settings(max_examples=20)
@given(data=st.data())
def test_a_job_or_outcome_stays_what_it_is(kind: Any, data: st.DataObject) -> None:
    """Every one of them, with bytes and nested structs."""
    message = data.draw(structs(kind))
    union: Any = jobs.Job if kind in typing.get_args(jobs.Job) else jobs.Outcome
    assert crossed(message, union) == message


def test_an_error_with_fields_of_wrong_types_is_sent_as_its_text() -> None:
    """A backend's mistake, or one field missing: it crosses as a foreign error, and nothing fails on the way."""
    number: Any = 17
    wrong, bare = erllama.SamplerFailed(number), erllama.ContextOverflow("long")
    del bare.problem
    for error, text in ((wrong, "SamplerFailed: 17"), (bare, "ContextOverflow: its text raises KeyError")):
        again = crossed(failure_of(error), Failure).error()
        assert isinstance(again, ForeignError)
        assert str(again) == text
