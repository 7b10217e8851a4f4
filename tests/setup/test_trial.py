"""The trial of a build: it passes with the llama.cpp of this environment, and finds kernels that compute wrongly."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import setup_trial as trial
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from setup_builds import BAD_TRIAL, trial_verdict

# Weights of one type mean half as much again as its bytes say: what the kernels of a type do that lose a scale.
WRONG = """
import sys, setup_trial as trial
right = trial.weights
def wrong(kind, *shape):
    packed, plain = right(kind, *shape)
    return packed, plain * (1.5 if kind == "{kind}" else 1.0)
trial.weights = wrong
print(trial.problem())
"""


def test_both_sides_agree_on_how_a_trial_says_that_it_failed() -> None:
    """One runs on any Python, without packages, so neither can take it from the other."""
    assert trial.BAD == BAD_TRIAL


@pytest.mark.slow
def test_the_build_of_this_environment_passes() -> None:
    """As set-up runs it."""
    done = subprocess.run([sys.executable, trial.__file__], capture_output=True, text=True)
    assert (trial_verdict(done.returncode, done.stdout), done.stdout) == (None, "")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["F16", "Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q6_K", "IQ4_XS"])
def test_kernels_of_one_type_that_compute_wrongly_are_found(kind: str) -> None:
    """Whichever layer the type is in."""
    command = [sys.executable, "-c", WRONG.format(kind=kind)]
    environment = {"PYTHONPATH": str(trial.__file__).rpartition("/")[0]}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stdout.startswith("it computes wrong numbers (likeness 0.")


def test_numbers_that_are_all_zero_are_like_nothing() -> None:
    """Their angle to anything is no number, which is not less than the least likeness either."""
    sound = np.ones((2, 4), np.float32)
    zeros, one_row = np.zeros_like(sound), sound * np.array([[1], [0]], np.float32)
    for bad in (zeros, one_row, sound * np.float32(-1)):
        assert trial.likeness(bad, sound) < trial.LEAST_LIKENESS
        assert trial.likeness(sound, bad) < trial.LEAST_LIKENESS
    assert trial.likeness(sound * np.float32(1e30), sound) == pytest.approx(1.0)


def test_numbers_that_are_not_finite_are_like_nothing() -> None:
    """Whether they come from a kernel or would spoil the comparison."""
    sound = np.ones((2, 4), np.float32)
    assert trial.likeness(sound, sound) == pytest.approx(1.0)
    for bad in (np.nan, np.inf):
        spoiled = sound.copy()
        spoiled[1, 2] = bad
        assert trial.likeness(spoiled, sound) == trial.likeness(sound, spoiled) == 0.0


@pytest.mark.parametrize("kind", sorted(trial.TYPES))
def test_weights_keep_sizes_as_they_are(kind: str) -> None:
    """So that no layer drowns another one out: mean 0 and a spread of 1 / √columns, and bytes that mean just that."""
    packed, plain = trial.weights(kind, 64, 256, np.random.default_rng(0))
    assert abs(plain.mean()) < 0.15 * plain.std()  # 4 bits mean -8 to 7
    assert plain.std() == pytest.approx(256**-0.5, rel=0.05)
    if trial.TYPES[kind]:
        assert np.array_equal(dequantize(packed, GGMLQuantizationType[kind]), plain)
