"""What the tables of a file mean, and the place of everything that is wrong in them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import erllama_py as erllama
from erllama_py.serve.config import Config, ConfigError, ModelTable, Tables, check_tables, name_of, read_config
from erllama_py.serve.config.isolation import default_isolation

FILE = Path("/etc/erllama/erllama.toml")


def checked(**tables: Any) -> Config:
    return check_tables(tables, FILE)


def test_a_file_of_one_model_is_enough() -> None:
    """Its name is that of its file, and it saves to memory."""
    config = checked(models=[{"path": "tiny-q4_0-00001-of-00003.gguf"}])
    (model,) = config.models
    assert (model.name, model.aliases) == ("tiny-q4_0", ())
    assert model.options == {
        "model_path": "/etc/erllama/tiny-q4_0-00001-of-00003.gguf", "tier_srv": "ram", "tier": "ram",
        "isolation": default_isolation(),
    }  # fmt: skip


@given(st.text(st.characters(exclude_characters="/\0"), min_size=1).filter(lambda name: name not in (".", "..")))
def test_whatever_a_file_is_called_its_model_can_be_named(file: str) -> None:
    """By something that is printable, not too long, and no way for a URL; a plain name stays as it is."""
    name = name_of(f"/srv/{file}.gguf")
    assert 1 <= len(name) <= 200
    assert name.isprintable()
    assert name not in (".", "..")
    if file.isalnum() and len(file) <= 200:
        assert name == file


def test_paths_begin_at_the_folder_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of models, tiers and the home; `~` is the home directory, and an absolute path stays."""
    monkeypatch.setenv("HOME", "/users/ada")
    config = checked(
        server={"responses_directory": "answers", "files_directory": "files"}, runtime={"home": "state"},
        tiers={"main": {"kind": "disk", "root": "../kv"}},
        models=[{"path": "a.gguf"}, {"path": "~/b.gguf"}, {"path": "/srv/c.gguf"}],
    )  # fmt: skip
    paths = [model.options["model_path"] for model in config.models]
    assert paths == ["/etc/erllama/a.gguf", "/users/ada/b.gguf", "/srv/c.gguf"]
    assert config.tiers["main"].root == "/etc/kv"
    assert config.runtime.home == "/etc/erllama/state"
    assert config.server.responses_directory == "/etc/erllama/answers"
    assert config.server.files_directory == "/etc/erllama/files"


def test_models_save_to_the_first_tier_unless_they_name_one() -> None:
    """The kind of a tier is found."""
    tiers = {
        "ssd": {"kind": "disk", "root": "a", "quota_bytes": 1 << 30},
        "shm": {"kind": "ram_file", "root": "/dev/shm/b"},
    }
    config = checked(tiers=tiers, models=[{"path": "a.gguf"}, {"path": "b.gguf", "tier_srv": "shm"}])
    assert [(one.options["tier_srv"], one.options["tier"]) for one in config.models] == [
        ("ssd", "disk"),
        ("shm", "ram_file"),
    ]
    assert isinstance(config.tiers["ssd"], erllama.DiskTier)


def test_gates_of_a_model_go_before_those_of_the_file() -> None:
    """One by one: those that a model does not give are the file's."""
    gates = {"min_tokens": 64, "continued_interval": 512}
    config = checked(policy=gates, models=[{"path": "a.gguf", "policy": {"min_tokens": 32}}, {"path": "b.gguf"}])
    assert config.models[0].options["policy"] == {"min_tokens": 32, "continued_interval": 512}
    assert config.models[1].options["policy"] == gates
    assert config.policy is not None
    assert config.policy.min_tokens == 64


MODEL = {"path": "a.gguf"}


@pytest.mark.parametrize(
    ("tables", "place", "problem", "nearest"),
    [
        ({"sever": {}}, "sever", "no such option", "server"),
        ({"models": 3}, "models", "expected a list, got int", None),
        ({"models": [1]}, "models", "expected a mapping", None),
        ({"models": [MODEL, {}]}, "models[1].path", "needs the path", None),
        ({"models": [{"path": ""}]}, "models[0].path", "not empty", None),
        ({"models": [{"path": "a\0b"}]}, "models[0].path", "no NUL", None),
        ({"models": [{"path": 3}]}, "models[0].path", "expected str, got int", None),
        ({"models": [{"model_path": "a"}]}, "models[0].model_path", "no such option", "models[0].path"),
        ({"models": [{"path": "a", "id": "b"}]}, "models[0].id", "no such option", "models[0].name"),
        ({"models": [{"path": "a", "alias": "b"}]}, "models[0].alias", "no such option", "models[0].aliases"),
        ({"models": [{**MODEL, "nmae": "x"}]}, "models[0].nmae", "no such option", "models[0].name"),
        ({"models": [{**MODEL, "n_ctx": 1}]}, "models[0].n_ctx", "no such option", "models[0].context_opts.n_ctx"),
        ({"models": [{**MODEL, "num_gpu": 1}]}, "models[0].num_gpu", "no such", "models[0].model_opts.n_gpu_layers"),
        (
            {"models": [MODEL, {"path": "b", "context_opts": {"n_ctx": "x"}}]},
            "models[1].context_opts.n_ctx", "expected int, got str", None,
        ),
        ({"models": [{**MODEL, "context_opts": 3}]}, "models[0].context_opts", "expected a mapping", None),
        ({"models": [{**MODEL, "aliases": "x"}]}, "models[0].aliases", "expected a list", None),
        ({"models": [{**MODEL, "aliases": ["a"]}]}, "models[0].aliases[0]", "'a' is models[0].name already", None),
        ({"models": [MODEL, {"path": "b/a.gguf"}]}, "models[1].name", "'a' is models[0].name already", None),
        ({"models": [{**MODEL, "name": "a\nb"}]}, "models[0].name", "printable", None),
        ({"models": [{**MODEL, "name": "a/../b"}]}, "models[0].name", "no URL could name it", None),
        ({"models": [{**MODEL, "aliases": ["a.b", ".."]}]}, "models[0].aliases[1]", "no URL could name it", None),
        ({"models": [{**MODEL, "tier_srv": "x"}]}, "models[0].tier_srv", "there are ram", None),
        ({"models": [{**MODEL, "tier": "disk"}]}, "models[0].tier", "'ram' is a tier of the kind 'ram'", None),
        ({"models": [{**MODEL, "policy": 3}], "policy": {"min_tokens": 1}}, "models[0].policy", "a mapping", None),
        (
            {"models": [{**MODEL, "policy": {"cold_min_tokens": 1}}], "policy": {"min_tokens": 9}},
            "models[0].policy.cold_min_tokens", "must not be below min_tokens, which is 9", None,
        ),
        ({"tiers": {"ram": {}}}, "tiers.ram", "every server has the tier 'ram'", None),
        ({"tiers": {"a": {"kind": "dsk"}}}, "tiers.a.kind", "expected one of", "disk"),
        ({"tiers": {"a": {"kind": "disk"}}}, "tiers.a.root", "needs a directory", None),
        ({"tiers": {"a": {"kind": "disk", "root": 3}}}, "tiers.a.root", "expected str", None),
        (
            {"tiers": {"a": {"kind": "disk", "root": "x"}, "b": {"kind": "disk", "root": "./x"}}},
            "tiers.b.root", "tiers.a lies in this directory", None,
        ),
        ({"policy": {"min_tokenz": 1}}, "policy.min_tokenz", "no such option", "policy.min_tokens"),
        ({"pressure": {"sourc": 1}}, "pressure.sourc", "no such option", "pressure.source"),
        ({"pressure": {"low_watermark": 0.9}}, "pressure.low_watermark", "below high_watermark", None),
        ({"runtime": {"ram_quota_bytes": 1}}, "runtime.ram_quota_bytes", "expected int >= 1048576, got 1", None),
    ],
)  # fmt: skip
def test_each_error_has_its_place_in_the_file(
    tables: dict[str, Any], place: str, problem: str, nearest: str | None
) -> None:
    """And the nearest known name, where a name is unknown."""
    with pytest.raises(ConfigError) as caught:
        check_tables(tables, FILE)
    assert caught.value.place == place
    assert problem in caught.value.problem
    assert caught.value.nearest == nearest
    assert str(caught.value).startswith(f"{FILE}: {caught.value.place}: ")


NAMES = st.sampled_from(
    [*Tables.__struct_fields__, *ModelTable.__struct_fields__, "keys", "hash", "host", "kind", "root", "n_ctx", "x", ""]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["disk", "ram"])
    | st.dates() | st.datetimes(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_no_tables_are_another_error(tables: dict[str, Any]) -> None:
    """Whatever a file says, it is a configuration or a `ConfigError`."""
    with contextlib.suppress(ConfigError):
        assert isinstance(check_tables(tables, FILE), Config)


@given(VALUES)
def test_no_model_is_another_error(value: Any) -> None:
    """The same of the options of a model, of keys and of tiers, whatever they are."""
    for tables in (
        {"models": [{"path": "a", "context_opts": value}]}, {"models": [value]}, {"access": {"keys": [value]}},
        {"models": [{"path": value, "policy": value}], "policy": {"min_tokens": 1}}, {"tiers": {"a": value}},
        {"models": [{"path": "a", "thinking_markers": value, "fingerprint": value, "tier_srv": value}]},
    ):  # fmt: skip
        with contextlib.suppress(ConfigError):
            check_tables(tables, FILE)


def test_no_error_repeats_a_key_that_stands_where_its_hash_belongs() -> None:
    """It would end in a log."""
    keys = [{"name": "a", "hash": "erl_plain"}]
    with pytest.raises(ConfigError, match="hash") as caught:
        checked(models=[{"path": "a.gguf"}], access={"keys": keys})
    assert "erl_plain" not in str(caught.value)


@pytest.mark.parametrize(("runtime", "quota"), [({}, 1 << 30), ({"ram_quota_bytes": 3 << 20}, 3 << 20)])
def test_rows_in_memory_take_a_tenth_of_the_budget(
    runtime: dict[str, Any], quota: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not of a larger machine, which would leave nothing of the budget for models."""
    monkeypatch.setattr("erllama_py.serve.config.tables.available_memory", lambda: 400 << 30)
    config = checked(models=[{"path": "a.gguf"}], server={"memory_budget_bytes": 10 << 30}, runtime=runtime)
    assert config.runtime_options()["ram_quota_bytes"] == quota
    assert config.reserved_bytes(400 << 30) == quota + (256 << 20)


@pytest.mark.anyio
async def test_a_runtime_takes_what_a_file_says(tmp_path: Path) -> None:
    """Each model of it loads, with its tier."""
    (tmp_path / "erllama.toml").write_text(
        '[tiers.main]\nkind = "disk"\nroot = "kv"\nquota_bytes = 1_000_000_000\n'
        '[policy]\nmin_tokens = 16\n[[models]]\nname = "one"\nbackend = "stub"\ncontext_opts = { n_ctx = 512 }\n'
    )
    config = read_config(os.fspath(tmp_path / "erllama.toml"))
    async with erllama.Runtime(**config.runtime_options()) as runtime:
        for model in config.models:
            loaded = await runtime.load_model(model.name, model.config)
            assert loaded.info.config.tier_srv == "main"
            assert loaded.info.config.policy.min_tokens == 16
    assert (tmp_path / "kv").is_dir()


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"models": {"a": {"path": "a.gguf"}}}, "models are a list: [[models]] begins each"),
        ({"model": {"path": "a.gguf"}}, "[[models]] begins each model"), ({"port": 80}, "did you mean 'server.port'?"),
        ({"host": "0.0.0.0"}, "did you mean 'server.host'?"), ({"api_key": "x"}, "`erllama key NAME`"),
        ({"ram_quota_bytes": 1}, "did you mean 'runtime.ram_quota_bytes'?"),
    ],
)  # fmt: skip
def test_what_a_file_is_given_first_says_where_it_stands(tables: dict[str, Any], said: str) -> None:
    """Models as tables with names, and keys of the server outside of its table."""
    with pytest.raises(ConfigError) as caught:
        check_tables(tables, FILE)
    assert said in str(caught.value)
