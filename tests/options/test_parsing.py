"""`parse_options`: options from elsewhere, checked as the library checks its own."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

import erllama_py as erllama


class Mine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of an application."""

    name: str
    threads: int = 4


class Ours(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options with a list of others, as a file has keys."""

    each: tuple[Mine, ...] = ()


@pytest.mark.parametrize(
    ("options", "kind", "path", "option", "nearest"),
    [
        ({"each": [{"name": "a"}, {"name": "a", "thread": 1}]}, Ours, "x", "x.each[1].thread", "x.each[1].threads"),
        ({"each": [{"name": "a"}, {"name": "a", "threads": "1"}]}, Ours, "x", "x.each[1].threads", None),
        ({"each": [{"name": "a"}, {}]}, Ours, "", "each[1].name", None),
        ({"each": [{"name": "a"}, 3]}, Ours, "", "each", None),
        ({"name": "a", "thread": 1}, Mine, "server", "server.thread", "server.threads"),
        ({"name": "a", "thread": 1}, Mine, "", "thread", "threads"),
        ({"name": 1}, Mine, "server", "server.name", None),
        ({}, Mine, "keys[0]", "keys[0].name", None),
        (3, Mine, "keys[0]", "keys[0]", None),
        ({"n_ctx": 1}, erllama.ModelConfig, "models[1]", "models[1].n_ctx", "models[1].context_opts.n_ctx"),
        ({}, erllama.ModelConfig, "m", "m.model_path", None),
        ({"min_token": 1}, erllama.PolicyOpts, "a.policy", "a.policy.min_token", "a.policy.min_tokens"),
        ({"min_token": 1}, erllama.PolicyOpts, "", "min_token", "min_tokens"),
        ({"min_tokens": 9, "cold_min_tokens": 1}, erllama.PolicyOpts, "p", "p.cold_min_tokens", None),
        ({"source": "sys"}, erllama.PressureOpts, "p", "p.source", "system"),
        ({"kind": "disk"}, erllama.TierSpec, "tiers.a", "tiers.a.root", None),
    ],
)
def test_an_error_names_the_place_below_the_path(
    options: Any, kind: type[msgspec.Struct], path: str, option: str, nearest: str | None
) -> None:
    """Of the library's own options and of others; without a path the option alone."""
    with pytest.raises(erllama.InvalidOption) as caught:
        erllama.parse_options(options, kind, path)
    assert (caught.value.option, caught.value.nearest) == (option, nearest)


def test_what_is_right_comes_back_whole() -> None:
    """With its defaults, as a struct of the kind asked for; a struct may be given, too."""
    assert erllama.parse_options({"name": "a"}, Mine) == Mine(name="a")
    tier = erllama.parse_options({"kind": "disk", "root": "/kv"}, erllama.TierSpec)
    assert tier == erllama.DiskTier("/kv")
    assert erllama.parse_options(tier, erllama.TierSpec) == tier
    policy = erllama.parse_options({"min_tokens": 9}, erllama.PolicyOpts)
    assert (policy.min_tokens, policy.boundary_align_tokens) == (9, 256)
    assert erllama.parse_options({"backend": "stub"}, erllama.ModelConfig).context_opts.n_batch == 512
