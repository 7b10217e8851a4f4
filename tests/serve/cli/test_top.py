"""`erllama top`: what it makes of two readings, what fits on a terminal, and a server that goes and comes back."""

from __future__ import annotations

import io
import re
import signal
import subprocess
from pathlib import Path

import httpx
import msgspec
import pytest
from helpers.terminal import COMMAND, environment, on_terminal
from helpers.threaded_server import Canned, served_here, threaded
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from erllama_py.serve.cli import main
from erllama_py.serve.cli.sampled import View, parse_sample, view
from erllama_py.serve.cli.top_screen import drawn, waiting

PAGE = """\
erllama_build_info{version="0.1.0"} 1
erllama_http_requests_total{api="openai",route="/v1/models",status="200"} 5
erllama_http_requests_in_progress{api="openai",route="/v1/chat/completions"} 3
erllama_http_requests_in_progress{api="operations",route="/metrics"} 1
erllama_http_requests_limit 512
erllama_http_draining 0
erllama_model_phase{model="tiny",phase="generating"} 1
erllama_model_generated_tokens_total{model="tiny"} GENERATED
erllama_model_computed_tokens_total{model="tiny"} 500
erllama_model_prompt_tokens_total{model="tiny"} 1000
erllama_model_reused_tokens_total{model="tiny"} 250
erllama_model_requests_total{model="tiny"} 9
erllama_model_requests_active{model="tiny"} 2
erllama_model_requests_waiting{model="tiny"} 1
erllama_model_requests_parked{model="tiny"} 1
erllama_model_sequences{model="tiny"} 4
erllama_model_kv_cells{model="tiny"} 2048
erllama_model_kv_cells_in_use{model="tiny"} 512
erllama_model_hits_total{kind="cold",model="tiny"} 2
erllama_model_hits_total{kind="live",model="tiny"} 6
erllama_model_restarts_total{model="tiny"} 1
erllama_model_requests_continued_total{model="tiny"} 3
erllama_cache_misses_total{reason="empty"} 2
erllama_cache_tier_hits_total{tier="ram"} 4
erllama_tier_rows{kind="ram",tier="ram"} 7
erllama_tier_used_bytes{kind="ram",tier="ram"} 1048576
erllama_tier_quota_bytes{kind="ram",tier="ram"} 2097152
erllama_tier_opened_ratio{kind="ram",tier="ram"} 1
erllama_tier_writable{kind="ram",tier="ram"} 1
"""


def page(generated: int = 100) -> str:
    return PAGE.replace("GENERATED", str(generated))


def shown(one: View, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(drawn(one, "http://h", width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_two_readings_give_rates_and_one_gives_none() -> None:
    """Tokens by the seconds between them; the reading itself is no request."""
    first, second = parse_sample(page(100), 10.0), parse_sample(page(150), 12.0)
    [model] = view(second, first).models
    assert (model.name, model.phase, model.generated_per_second, model.computed_per_second) == (
        "tiny", "generating", 25.0, 0.0
    )  # fmt: skip
    assert (model.active, model.sequences, model.waiting) == (2, 4, 2)
    assert (model.restarts, model.continued) == (1, 3)
    assert (model.hits, model.reused_share) == ({"cold": 2, "live": 6}, 0.25)
    [tier] = view(second).tiers
    assert (tier.name, tier.rows, tier.used_bytes, tier.hits, tier.writable) == ("ram", 7, 1 << 20, 4, True)
    alone = view(second)
    assert alone.models[0].generated_per_second is None
    assert (alone.version, alone.open, alone.open_limit, alone.misses) == ("0.1.0", 3, 512, {"empty": 2})


def test_a_server_that_was_started_again_has_no_rates_yet() -> None:
    """Its counters begin at 0."""
    before, now = parse_sample(page(100), 10.0), parse_sample(page(7), 12.0)
    assert view(now, before).models[0].generated_per_second is None
    assert view(now, now).models[0].generated_per_second is None


@given(st.integers(20, 200))
def test_it_fits_on_any_terminal(width: int) -> None:
    """No line is wider; the name, the tokens a second and the queue are always there."""
    lines = shown(view(parse_sample(page(), 1.0)), width).splitlines()
    assert max(map(len, lines)) <= width
    header = next(line for line in lines if line.startswith("model"))
    assert "queue" in header
    assert ("prefill/s" in header) == (width >= 80)


def test_names_cannot_draw_on_the_terminal() -> None:
    """A model is called what its owner likes."""
    hostile = page().replace('model="tiny"', 'model="[red]a\x1b[2J"')
    text = shown(view(parse_sample(hostile, 1.0)), 120)
    assert "[red]a\ufffd[2J" in text
    assert "\x1b" not in str(waiting("h\x1b", "p\x1b[1m\nq"))


def test_a_server_without_models_or_tiers_is_shown_too() -> None:
    """Nothing is divided by nothing."""
    empty = view(parse_sample("erllama_http_draining 1\n", 1.0))
    assert "shutting down" in shown(empty, 80)
    assert "no model is loaded" in shown(empty, 80)


def test_one_reading_is_printed_in_a_pipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the rate of what went on; as JSON it is a line."""
    with served_here(tmp_path) as url:
        asked = {"model": "tiny", "prompt": "heron " * 30, "max_tokens": 4, "ignore_eos": True}
        assert httpx.post(f"{url}/v1/completions", json=asked, timeout=30).status_code == 200
        assert main(["top", "--server", url, "--interval", "0.05"]) == 0
        printed = capsys.readouterr().out
        assert re.search(r"^tiny +idle +0 ", printed, re.MULTILINE)
        assert re.search(r"^ram +ram +", printed, re.MULTILINE)
        assert "restarts" in printed  # the last column: no terminal is too narrow for it
        assert "\x1b" not in printed
        assert main(["top", "--server", url, "--once", "--json", "--interval", "0.05"]) == 0
        told = msgspec.json.decode(capsys.readouterr().out, type=View)
        assert (told.models[0].requests, told.models[0].generated_per_second) == (1, 0.0)


@pytest.mark.parametrize(
    ("canned", "said"),
    [
        (Canned(raw=b"<html>\nx y z"), "no server of erllama"),
        (Canned(403, {"error": {"message": "no", "code": "operators_only"}}), "for operators"),
        (Canned(404, raw=b""), "does not serve /metrics"),
    ],
)
def test_what_is_no_page_of_metrics_is_an_error(canned: Canned, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Of one line."""
    with threaded(canned, lifespan="off") as url:
        assert main(["top", "--server", url, "--once"]) == 1
    printed, complaints = capsys.readouterr()
    assert (printed, complaints.count("\n")) == ("", 1)
    assert said in complaints


@pytest.mark.parametrize("interval", ["0", "-1", "nan", "1e9"])
def test_an_interval_is_bounded(interval: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Else a server would be asked without end."""
    assert main(["top", f"--interval={interval}"]) == 2
    assert "--interval" in capsys.readouterr().err


@pytest.mark.slow
def test_on_a_terminal_it_outlives_the_server_and_q_ends_it() -> None:
    """It says that there is no answer, and goes on once there is one again."""
    first, second = page().encode(), page().replace("tiny", "other").encode()
    canned = Canned(raw=first)
    with (
        threaded(canned, lifespan="off") as url,
        on_terminal("top", "--server", url, "--interval", "0.1", TERM="xterm") as terminal,
    ):
        terminal.wait_for("tiny")
        canned.status = 503
        terminal.wait_for("asked again")
        canned.status, canned.body = 200, second
        terminal.wait_for("other")
        assert terminal.end("q") == 0


@pytest.mark.slow
def test_on_a_terminal_that_cannot_redraw_one_reading_is_printed() -> None:
    """As of an editor."""
    with (
        threaded(Canned(raw=page().encode()), lifespan="off") as url,
        on_terminal("top", "--server", url, "--interval", "0.1", TERM="dumb") as terminal,
    ):
        terminal.wait_for("tiny")
        assert terminal.process.wait(60) == 0


@pytest.mark.slow
def test_ctrl_c_and_signals_end_it_and_so_does_a_reader_that_goes() -> None:
    """With 130, as shells count signals, and 141; and the terminal is as it was."""
    with threaded(Canned(raw=page().encode()), lifespan="off") as url:
        with on_terminal("top", "--server", url, "--interval", "0.1", TERM="xterm") as terminal:
            terminal.wait_for("tiny")
            assert terminal.end("\x03") == 130
        for number in (signal.SIGTERM, signal.SIGHUP):
            with on_terminal("top", "--server", url, "--interval", "60", TERM="xterm") as terminal:
                terminal.wait_for("misses")
                terminal.process.send_signal(number)
                terminal.wait_for("\x1b[?1049l")  # back from the other screen
                assert terminal.process.wait(60) == 128 + number
        line = [*COMMAND, "top", "--server", url, "--json", "--interval", "0.05"]
        piped = subprocess.Popen(line, stdout=subprocess.PIPE, env=environment())
        assert piped.stdout is not None
        assert msgspec.json.decode(piped.stdout.readline(), type=View).models[0].name == "tiny"
        piped.stdout.close()
        assert piped.wait(60) == 141
