"""The gates of what is saved: how they are checked, and whose are used where a model does not give them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

import erllama_py as erllama
from erllama_py.errors import InvalidOption
from erllama_py.options.model import ModelConfig, parse_model_config
from erllama_py.options.policy import DEFAULT_POLICY, PolicyOpts, parse_policy

DEFAULTS = parse_policy({"min_tokens": 64, "boundary_align_tokens": 128, "continued_interval": 32})


def effective(options: Any, defaults: PolicyOpts = DEFAULTS) -> PolicyOpts:
    """The gates of a model that was loaded with these options."""
    return parse_model_config(options, defaults).policy


def test_no_gates_are_needed() -> None:
    """The defaults fill all of them, and a checked set goes through again unchanged."""
    assert parse_policy({}) == parse_policy(PolicyOpts()) == DEFAULT_POLICY
    assert msgspec.UNSET not in msgspec.structs.astuple(DEFAULT_POLICY)
    assert parse_policy(DEFAULTS) == DEFAULTS


def test_the_reference_gives_the_default_of_each_gate() -> None:
    """A struct of gates that are not given cannot show them."""
    for gate, text in reference.field_docs(PolicyOpts).items():
        default = getattr(DEFAULT_POLICY, gate)
        assert f"By default {'`None`' if default is None else f'{default:,}'}" in text


@pytest.mark.parametrize("min_tokens", [0, 1, 512, None])
def test_the_least_length_can_be_given_alone(min_tokens: int | None) -> None:
    """That for prompts follows it, so it does not have to be raised too."""
    policy = parse_policy({"min_tokens": min_tokens})
    assert (policy.min_tokens, policy.cold_min_tokens) == (min_tokens, None)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"min_tokens": 512, "cold_min_tokens": 511}, "policy.cold_min_tokens"),
    ({"cold_min_tokens": 7}, "policy.cold_min_tokens"),
    ({"cold_max_tokens": 7}, "policy.cold_max_tokens"),
    ({"min_tokens": 512, "cold_max_tokens": 511}, "policy.cold_max_tokens"),
    ({"cold_min_tokens": 600, "cold_max_tokens": 599}, "policy.cold_max_tokens"),
    ({"min_tokens": None, "cold_min_tokens": 8, "cold_max_tokens": 7}, "policy.cold_max_tokens"),
    ({"min_tokens": -1}, "policy.min_tokens"),
    ({"boundary_align_tokens": 0}, "policy.boundary_align_tokens"),
    ({"min_token": 1}, "policy.min_token"),
]


@pytest.mark.parametrize(("options", "option"), REFUSED, ids=range(len(REFUSED)))
def test_gates_that_contradict_each_other_are_refused(options: dict[str, Any], option: str) -> None:
    """Given apart from a model or with one."""
    with pytest.raises(InvalidOption) as caught:
        parse_policy(options)
    assert caught.value.option == option
    with pytest.raises(InvalidOption) as caught:
        parse_model_config({"backend": "stub", "policy": options})
    assert caught.value.option == option


def test_a_model_without_gates_has_those_of_the_runtime() -> None:
    """As a mapping, with an empty section, or as a struct."""
    for options in ({"backend": "stub"}, {"backend": "stub", "policy": {}}, ModelConfig(backend="stub")):
        assert effective(options) == DEFAULTS


def test_gates_that_are_given_are_put_over_those_of_the_runtime() -> None:
    """One by one: what is not named stays."""
    merged = effective({"backend": "stub", "policy": {"min_tokens": 512}})
    assert merged == msgspec.structs.replace(DEFAULTS, min_tokens=512)
    assert effective({"backend": "stub", "policy": {"min_tokens": None}}).min_tokens is None


GATES = PolicyOpts.__struct_fields__
OTHERS = PolicyOpts(
    min_tokens=7, cold_min_tokens=8, cold_max_tokens=9, continued_interval=10, boundary_trim_tokens=11,
    boundary_align_tokens=12, session_resume_wait_ms=13, evict_save_timeout_ms=14,
)  # fmt: skip


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("how", ["mapping", "struct in a mapping", "mapping in a struct", "struct"])
def test_a_gate_that_is_given_is_given(gate: str, how: str) -> None:
    """Also where it equals the default, and however it is given; the others are those of the runtime."""
    given: Any = {gate: getattr(DEFAULT_POLICY, gate)}
    policy = given if "mapping" in how.split()[0] else PolicyOpts(**given)
    options: Any = {"backend": "stub", "policy": policy}
    config: Any = ModelConfig(**options) if how.endswith("struct") else options
    if gate == "min_tokens":  # more than the other gates of `OTHERS` would allow
        expected = msgspec.structs.replace(OTHERS, min_tokens=128, cold_min_tokens=None, cold_max_tokens=None)
        assert effective(config, msgspec.structs.replace(expected, min_tokens=7)) == expected
    else:
        assert effective(config, OTHERS) == msgspec.structs.replace(OTHERS, **given)


@pytest.mark.anyio
async def test_a_model_keeps_the_gates_of_its_runtime_beside_its_own() -> None:
    """From the door of `Runtime` to `model.info`."""
    async with erllama.Runtime(policy=PolicyOpts(min_tokens=64, continued_interval=32)) as runtime:
        config = ModelConfig(backend="stub", policy=PolicyOpts(continued_interval=256))
        gates = (await runtime.load_model(config)).info.config.policy
    assert (gates.min_tokens, gates.continued_interval, gates.boundary_align_tokens) == (64, 256, 256)


def test_gates_that_do_not_fit_those_of_the_runtime_are_refused() -> None:
    """Whoever loads the model learns it, in words that name the gate."""
    with pytest.raises(InvalidOption) as caught:
        effective({"backend": "stub", "policy": {"min_tokens": 512}}, parse_policy({"cold_max_tokens": 300}))
    assert caught.value.option == "policy.cold_max_tokens"


@pytest.mark.parametrize("options", [None, 7, "model.gguf", {"policy": 7}, {"policy": None}, {"policy": {"x": 1}}])
def test_what_is_no_configuration_is_left_to_be_refused_in_its_own_words(options: Any) -> None:
    """Putting gates together hides no mistake."""
    with pytest.raises(InvalidOption) as direct:
        parse_model_config(options)
    with pytest.raises(InvalidOption) as caught:
        effective(options)
    assert (caught.value.option, caught.value.problem) == (direct.value.option, direct.value.problem)


def test_what_was_given_is_not_changed() -> None:
    """The caller's mappings can be used again."""
    policy = {"min_tokens": 512}
    options = {"backend": "stub", "policy": policy}
    effective(options)
    assert options == {"backend": "stub", "policy": {"min_tokens": 512}}


gates = st.none() | st.integers(0, 600)


@given(gates, gates, gates)
def test_gates_that_are_let_in_are_in_order(least: int | None, cold: int | None, most: int | None) -> None:
    """Shortest saved, shortest prompt, longest prompt; and every such order is let in."""
    ordered = (cold is None or cold >= (least or 0)) and (most is None or most >= (cold or least or 0))
    try:
        parse_policy({"min_tokens": least, "cold_min_tokens": cold, "cold_max_tokens": most})
    except InvalidOption:
        assert not ordered
    else:
        assert ordered
