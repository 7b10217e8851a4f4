"""What a request is told whose model cannot be had."""

from __future__ import annotations

import math

import erllama_py as erllama
from erllama_py.serve.core.problems import Problem, problem_of
from erllama_py.serve.core.served import LOADING_SECONDS
from erllama_py.serve.demand.holding import Failure


def not_served() -> Problem:
    """It is gone from the configuration."""
    return Problem("not_found", "this model is not served any more", param="model", code="model_not_found")


def no_room() -> Problem:
    """It can never be loaded."""
    message = "the model does not fit into the memory that models may take beside those that stay loaded"
    return Problem("unavailable", message, code="model_does_not_fit")


def waited(seconds: float, busy: int) -> Problem:
    """The time is over; so many others are in use."""
    why = f"; other models that are in use: {busy}" if busy else ""
    message = f"the model was not loaded within {seconds:g} s{why}"
    return Problem("unavailable", message, code="model_loading", retry_after=LOADING_SECONDS)


def failed(failure: Failure, now: float) -> Problem:
    """Its last load failed, and it is tried again then. What is wrong with a file is for operators alone."""
    seconds = max(1, math.ceil(failure.until - now))
    if isinstance(failure.error, erllama.InsufficientMemory):
        known = problem_of(failure.error)
        return Problem(known.kind, known.message, code=known.code, retry_after=seconds)
    if isinstance(failure.error, erllama.ModelCrashed):
        message = "the model crashed too often: it is loaded again after a while"
        return Problem("unavailable", message, code="model_crashed", retry_after=seconds)
    message = "the model could not be loaded; the server's log says why"
    return Problem("unavailable", message, code="model_load_failed", retry_after=seconds)
