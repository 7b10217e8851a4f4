"""A changed configuration, applied to a server that runs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from helpers.demand import Demanded, Hands, Loads, config, demanded, stub
from helpers.held_decodes import hold_decodes
from helpers.runtime import until
from helpers.served import events

import erllama_py as erllama
from erllama_py.serve.access import KeyOpts, make_key
from erllama_py.serve.app import create_app
from erllama_py.serve.config import Config, ConfigError, read_config
from erllama_py.serve.core.served import Changes
from erllama_py.serve.demand.changes import changes

pytestmark = pytest.mark.anyio


async def reload(at: Demanded, new: Config) -> Any:
    """What the server says of a changed configuration."""
    at.changed.append(new)
    answer = await at.client.post("/erllama/reload")
    assert answer.status_code == 200, answer.text
    return {name: places for name, places in answer.json().items() if places}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({}, {}, Changes()),
        ({"models": ["a"]}, {"models": ["a", "b"]}, Changes(added=("b",))),
        ({"models": ["a", "b"]}, {"models": ["b"]}, Changes(removed=("a",))),
        ({"a": {}}, {"a": {"context_opts": {"n_ctx": 4096}}}, Changes(replaced=("a",))),
        ({"a": {}}, {"a": {"aliases": ["x"], "keep_alive": 5, "load": "start"}},
         Changes(changed=("models.a.aliases", "models.a.load", "models.a.keep_alive"))),
        ({}, {"server": {"max_open": 3, "port": 1}},
         Changes(changed=("server.max_open",), needs_restart=("server.port",))),
        ({}, {"server": {"max_stored_bytes": 3}}, Changes(needs_restart=("server.max_stored_bytes",))),
        ({}, {"access": {"origins": ["*"]}}, Changes(changed=("access.origins",))),
        ({}, {"tiers": {"t": {"kind": "disk", "root": "t"}}, "a": {"tier_srv": "ram"}}, Changes(changed=("tiers.t",))),
        ({"tiers": {"t": {"kind": "disk", "root": "t"}}, "a": {"tier_srv": "ram"}}, {},
         Changes(needs_restart=("tiers.t",))),
        ({"policy": {"min_tokens": 9}}, {}, Changes(replaced=("a",), needs_restart=("policy",))),
        ({}, {"pressure": {"source": "system"}}, Changes(needs_restart=("pressure",))),
    ],
)  # fmt: skip
def test_what_a_change_means(old: dict[str, Any], new: dict[str, Any], expected: Changes) -> None:
    """Each kind of change by itself."""
    assert changes(_config(old), _config(new)) == expected


def _config(given: dict[str, Any]) -> Config:
    rest = {name: value for name, value in given.items() if name not in ("models", "a")}
    names = given.get("models", ["a"])
    return config(*(stub(name, **(given.get("a", {}) if name == "a" else {})) for name in names), **rest)


async def test_a_file_that_is_changed_under_load_ends_no_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models come, go and are replaced while all of them stream; each stream is whole, new requests have the new."""
    first = [stub(name, 10) for name in ("stays", "changes", "goes")]
    changed = stub("changes", 10, context_opts={"n_ctx": 4096, "n_seq_max": 4})
    second = [stub("stays", 10, aliases=["alias"]), changed, stub("comes", 10, load="start")]
    held = {"stays", "changes", "goes"}
    hold_decodes(monkeypatch.setattr, held.__contains__)
    async with demanded(config(*first)) as at:
        streams = [
            asyncio.create_task(at.chat(name, f"tell {number}", stream=True, max_tokens=60, ignore_eos=True))
            for name in ("stays", "changes", "goes") for number in range(3)
        ]  # fmt: skip
        await until(lambda: all(at.state(name).open == 3 for name in ("stays", "changes", "goes")))
        told = await reload(at, config(*second))
        assert told == {
            "added": ["comes"], "removed": ["goes"], "replaced": ["changes"], "changed": ["models.stays.aliases"]
        }  # fmt: skip
        assert (await at.chat("goes")).status_code == 404
        held.remove("stays")
        assert (await at.chat("alias")).status_code == 200
        assert not any(stream.done() for stream in streams[3:])
        held.clear()
        assert (await at.chat("changes")).status_code == 200  # it waits for the new one
        assert at.app.service.models()["changes"].context_size == 4096
        for stream in await asyncio.gather(*streams):
            pieces = events(stream.text)
            assert pieces[-1] == "[DONE]"
            assert pieces[-2]["choices"][0]["finish_reason"] == "length"
        await until(lambda: {one.id for one in at.app.service.runtime.list_models()} == {"stays", "changes", "comes"})
        assert [one.name for one in at.app.service.states().models] == ["stays", "changes", "comes"]


async def test_bounds_and_keys_hold_at_once() -> None:
    """And the budget of memory."""
    key, digest = make_key()
    access: Any = {"keys": [{"name": "alice", "hash": digest, "operator": True}]}
    async with demanded(config(stub("a"), stub("b"))) as at:
        assert (await at.chat("a")).status_code == 200
        told = await reload(at, config(stub("a"), stub("b"), room=200, server={"max_messages": 1}, access=access))
        assert sorted(told["changed"]) == ["access.keys", "server.max_messages", "server.memory_budget_bytes"]
        assert (await at.chat("a")).status_code == 401
        at.client.headers["authorization"] = f"Bearer {key}"
        assert (await at.chat("b")).status_code == 200
        assert [one.state for one in at.app.service.states().models] == ["loaded", "loaded"]
        many = [{"role": "user", "content": "x"}] * 2
        assert (await at.chat("a", messages=many)).status_code == 413


async def test_what_a_model_takes_can_be_corrected_while_it_is_loaded() -> None:
    """It counts from then on: another one then fits beside it."""
    async with demanded(config(stub("a"), stub("b"))) as at:
        assert (await at.chat("a")).status_code == 200
        assert (await reload(at, config(stub("a", 40), stub("b")))) == {"changed": ["models.a.memory_bytes"]}
        assert at.app.service.states().used_bytes == 40 << 20
        assert (await at.chat("b")).status_code == 200
        assert [one.state for one in at.app.service.states().models] == ["loaded", "loaded"]


async def test_what_is_left_of_a_budget_stays() -> None:
    """Of a key whose bounds are as they were; a key of other bounds begins anew."""
    key, digest = make_key()
    entry = KeyOpts(name="alice", hash=digest, requests_per_minute=2, operator=True)

    def keyed(most: int) -> Config:
        access: Any = {"keys": [{"name": entry.name, "hash": digest, "requests_per_minute": most, "operator": True}]}
        return config(stub("a"), access=access)

    async with demanded(keyed(2)) as at:
        at.client.headers["authorization"] = f"Bearer {key}"
        assert (await at.chat("a")).status_code == 200
        await reload(at, keyed(2))
        assert (await at.chat("a")).status_code == 429
        at.changed.append(keyed(3))
        assert at.app.service.reload is not None
        await at.app.service.reload()
        assert (await at.chat("a")).status_code == 200


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[[models]]\nname = 'a'\nbackend = 'stub'\nn_ctx = 9", "models[0].n_ctx"),
        ("[[models]", "line 1"),
        ("[[models]]\npath = 'missing.gguf'\nload = 'demand'", "missing.gguf"),
    ],
)
async def test_a_file_with_an_error_changes_nothing(tmp_path: Path, text: str, place: str) -> None:
    """And the answer has its place."""
    file = tmp_path / "server.toml"
    file.write_text("[server]\nport = 0\n[[models]]\nname = 'a'\nbackend = 'stub'\nload = 'demand'\n")
    source = read_config(file)
    async with demanded(source, source=lambda: read_config(file)) as at:
        before = at.app.service.states()
        file.write_text(text)
        answer = await at.client.post("/erllama/reload")
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "config_error")
        assert place in answer.json()["error"]["message"]
        assert str(tmp_path) not in answer.text
        assert at.app.service.states() == before
        assert (await at.chat("a")).status_code == 200


async def test_a_model_that_can_never_fit_changes_nothing() -> None:
    """Nor does a tier of another kind under a name that is taken."""
    tier: Any = {"t": {"kind": "disk", "root": "t"}}
    async with demanded(config(stub("a"))) as at:
        at.changed.append(config(stub("a"), stub("large", 999)))
        answer = await at.client.post("/erllama/reload")
        assert (answer.status_code, "'large' takes 999 MiB" in answer.text) == (400, True)
        assert [one.name for one in at.app.service.states().models] == ["a"]
    from erllama_py.serve.demand.reloading import check_changed

    other: Any = {"t": {"kind": "ram_file", "root": "t", "quota_bytes": 1 << 20}}
    with pytest.raises(ConfigError, match=r"tiers\.t\.kind"):
        check_changed(config(stub("a"), tiers=tier), config(stub("a"), tiers=other))


async def test_a_server_without_a_file_has_nothing_to_read_again() -> None:
    """It says so."""
    app = create_app(Config(models=()))
    assert app.service.reload is None


async def test_one_that_was_removed_comes_back() -> None:
    """Although a stream still has the old one: it is loaded again when that is over."""
    async with demanded(config(stub("a"), stub("b"))) as at:
        lease = await at.app.service.served.lease("a")
        await reload(at, config(stub("b")))
        assert (await at.chat("a")).status_code == 404
        await reload(at, config(stub("a"), stub("b")))
        asked = asyncio.create_task(at.chat("a"))
        await until(lambda: at.state("a").waiting == 1)
        lease.release()
        assert (await asked).status_code == 200
        assert at.state("a").loads == 2


async def test_a_model_that_a_change_adds_makes_nobody_wait_but_those_who_ask_for_it() -> None:
    """One that is to be there from the start is loaded now; the server is ready meanwhile, and reads its file again."""
    loads = Loads()
    gate = loads.hold("b")
    added = stub("b", 30, load="start")
    async with demanded(config(stub("a", 30)), loads=loads) as at:
        await reload(at, config(stub("a", 30), added))
        await until(lambda: at.state("b").state == "loading")
        assert (await at.client.get("/health")).status_code == 200
        asked = asyncio.create_task(at.chat("b"))
        await until(lambda: at.state("b").waiting == 1)
        assert (await reload(at, config(stub("a", 30), added, stub("c", 30))))["added"] == ["c"]
        gate.set()
        assert (await asked).status_code == 200


async def test_one_that_finds_no_room_is_taken_out_again() -> None:
    """Beside one that is pinned: the server is ready, and another change is taken."""
    models = [stub("a", pinned=True), stub("b", 30)]
    async with demanded(config(*models)) as at:
        assert (await at.chat("a")).status_code == 200
        await reload(at, config(*models, stub("c", load="start")))
        assert (await at.client.get("/health")).status_code == 200
        assert (await at.chat("c")).json()["error"]["code"] == "model_does_not_fit"
        assert (await reload(at, config(*models)))["removed"] == ["c"]


async def test_a_change_of_what_is_to_come_holds() -> None:
    """While a stream has a model, it is replaced, and what is to come is changed again."""
    later = stub("a", context_opts={"n_ctx": 4096, "n_seq_max": 4})
    async with demanded(config(stub("a"))) as at:
        lease = await at.app.service.served.lease("a")
        await reload(at, config(later))
        assert (await reload(at, config({**later, "pinned": True})))["changed"] == ["models.a.pinned"]
        lease.release()
        assert (await at.chat("a")).status_code == 200
        assert at.state("a").pinned
        assert at.app.service.models()["a"].context_size == 4096


async def test_one_of_the_start_that_waits_for_memory_still_comes_after_another_change() -> None:
    """It was replaced, and what it needs is in use."""
    first, other = stub("a", 60, load="start"), stub("b", 60)
    later = {**first, "context_opts": {"n_ctx": 4096, "n_seq_max": 4}}
    async with demanded(config(first, other)) as at:
        lease = await at.app.service.served.lease("b")
        await reload(at, config(later, other))
        assert at.state("a").state == "unloaded"
        at.app.service.served.unload("a")
        await reload(at, config({**later, "load": "demand"}, other))
        await reload(at, config(later, other))
        assert at.state("a").state == "waiting"
        await reload(at, config(later, other, server={"max_open": 9}))
        assert at.state("a").state == "waiting"
        lease.release()
        served = at.app.service.served
        served.unload("b")
        await until(lambda: at.state("a").state == "loaded")


async def test_a_smaller_budget_is_kept_at_once() -> None:
    """Those that nobody has go; one that is in use goes on."""
    models = [stub("a", 40), stub("b", 40)]
    async with demanded(config(*models)) as at:
        for name in ("b", "a"):
            assert (await at.chat(name)).status_code == 200
        lease = await at.app.service.served.lease("b")
        await reload(at, config(*models, room=50))
        await until(lambda: at.state("a").state == "unloaded")
        assert at.state("b").state == "loaded"
        lease.release()


async def test_tiers_of_a_change_that_is_refused_are_stopped_again(tmp_path: Path) -> None:
    """Else no later change could start them."""
    (tmp_path / "file").write_text("")
    good: Any = {"kind": "ram_file", "root": str(tmp_path / "good"), "quota_bytes": 1 << 20}
    bad: Any = {"kind": "disk", "root": str(tmp_path / "file" / "below")}
    model = stub("a", tier_srv="ram")
    async with demanded(config(model)) as at:
        for tiers in ({"good": good, "bad": bad}, {"good": {**good, "quota_bytes": 200 << 20}}):
            at.changed.append(config(model, tiers=tiers))
            assert (await at.client.post("/erllama/reload")).status_code == 400
            assert [tier.name for tier in await at.app.service.runtime.cache.tiers()] == ["ram"]
        before = at.app.service.states().reserved_bytes
        assert (await reload(at, config(model, tiers={"good": good})))["changed"] == ["tiers.good"]
        assert at.app.service.states().reserved_bytes == before + (1 << 20)


async def test_one_that_is_pinned_now_stays_whatever_a_request_said_before() -> None:
    """Its client wanted it to go at once."""
    clock = Hands()
    async with demanded(config(stub("a")), clock=clock) as at:
        lease = await at.app.service.served.lease("a")
        at.app.service.served.keep("a", 1.0)
        await reload(at, config(stub("a", pinned=True)))
        lease.release()
        clock.advance(100.0)
        assert (at.state("a").state, at.state("a").expires_at) == ("loaded", None)


async def test_a_reload_that_is_cancelled_leaves_no_tier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one starts the same tier."""
    tier: Any = {"kind": "disk", "root": str(tmp_path / "tier")}
    model, start_tier, started = stub("a", tier_srv="ram"), erllama.Runtime.start_tier, asyncio.Event()

    async def starting(runtime: erllama.Runtime, name: str, spec: Any) -> None:
        await start_tier(runtime, name, spec)
        started.set()
        await asyncio.Event().wait()

    async with demanded(config(model)) as at:
        at.changed.append(config(model, tiers={"t": tier}))
        assert at.app.service.reload is not None
        with monkeypatch.context() as patched:
            patched.setattr(erllama.Runtime, "start_tier", starting)
            reloading = asyncio.ensure_future(at.app.service.reload())
            await started.wait()
            reloading.cancel()
            await asyncio.gather(reloading, return_exceptions=True)
        assert [one.name for one in await at.app.service.runtime.cache.tiers()] == ["ram"]
        assert (await at.client.post("/erllama/reload")).json()["changed"] == ["tiers.t"]


async def test_a_budget_that_nobody_gives_stays_as_it_was_at_the_start() -> None:
    """What models have taken since is theirs, whether it counts as free or not."""
    async with demanded(config(stub("a"), room=None)) as at:
        before = at.app.service.states().budget_bytes
        assert (await at.chat("a")).status_code == 200
        await reload(at, config(stub("a"), stub("b"), room=None))
        assert at.app.service.states().budget_bytes == before


async def test_a_model_without_a_file_is_refused_though_its_sizes_are_given() -> None:
    """A start would fail at its load."""
    given: Any = {"name": "b", "path": "/nowhere/b.gguf", "context_opts": {"n_ctx": 512, "n_seq_max": 1}}
    first = stub("a", load="start")
    async with demanded(config(first, room=None)) as at:
        at.changed.append(config(first, given, room=None))
        answer = await at.client.post("/erllama/reload")
        assert (answer.status_code, "b.gguf" in answer.text) == (400, True)
        assert [one.name for one in at.app.service.states().models] == ["a"]
