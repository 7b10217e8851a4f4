"""`erllama doctor`: whether a server can run here, and what to do where it cannot, or not well."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
from rich.markup import escape

import erllama_py as erllama
from erllama_py.serve.cli import screen
from erllama_py.serve.cli.config_check import servable
from erllama_py.serve.cli.doctor_facts import Machine, Port, folder, gathered, port
from erllama_py.serve.cli.doctor_judged import Finding, findings, worst
from erllama_py.serve.cli.ending import DONE, FAILED
from erllama_py.serve.cli.serve import settle, with_cache
from erllama_py.serve.config import Config, read_config, with_environment
from erllama_py.serve.models import default_home
from erllama_py.serve.running.probe import probe

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What `--json` prints."""

    status: str
    findings: list[Finding]
    machine: Machine


def doctor(
    *, config: Path | None = None, cache: str | None = None, host: str | None = None, port: int | None = None,
    json: bool = False,
) -> int:  # fmt: skip
    """Look at this machine as a server would find it, and say what to do.

    That is llama.cpp, tried in a process of its own; whether models can have such processes, and their limits; CPU,
    threads, GPU, memory, limits; the directories of tiers; the configuration; the port. The exit code is 1 where
    something fails.

    Parameters
    ----------
    config
        A configuration file, whose tiers and port are looked at.
    cache
        The directory of a tier, as `erllama serve --cache` takes it.
    host
        The address that a server would listen on. [default: 127.0.0.1]
    port
        Its port. [default: 8080]
    json
        Print the findings, and the facts that they are about, as JSON.
    """
    found = examine(config, cache=cache, host=host, number=port)
    lines = findings(found)
    status = worst(lines)
    if json:
        screen.print_json(Report(status=status, findings=lines, machine=found))
    else:
        _show(lines)
    return FAILED if status == "fail" else DONE


def examine(file: Path | None, *, cache: str | None, host: str | None, number: int | None) -> Machine:
    """Gather the facts. A configuration that cannot be read is one of them."""
    given, problem = _given(file, host=host, number=number)
    given = with_cache(given, given_cache=cache)
    folders = [folder("home", Path(given.runtime.home) if given.runtime.home else default_home())]
    folders += [folder(name, Path(str(tier.root)), tier=tier) for name, tier in given.tiers.items()]
    return gathered(
        build=erllama.check_build(), isolation=erllama.check_isolation(), folders=folders, listens=_port(given),
        config=None if file is None else str(file), config_problem=problem,
    )  # fmt: skip


def _given(file: Path | None, *, host: str | None, number: int | None) -> tuple[Config, str | None]:
    """What file, environment and command line come to, as for `erllama serve`, and why that cannot be served, if so.

    Raises `UsageError`.
    """
    given, problem = Config(models=()), None
    try:
        given = given if file is None else read_config(file)
        given = with_environment(given, os.environ)
    except erllama.ErllamaError as error:
        problem = str(error)
    given = settle(
        given, [], aliases=(), host=host, port=number, cache=None, context_opts={}, gpu_layers=None
    )  # fmt: skip
    try:
        servable(given)
    except erllama.ErllamaError as error:
        problem = problem or str(error)
    return given, problem


def _port(config: Config) -> Port:
    server = config.server
    if server.uds is not None:
        fine, _ = probe(server.uds)
        return Port(host=server.uds, port=0, problem="in use" if fine else None, in_use=fine, ours=fine)
    found = port(server.host, server.port)
    if not found.in_use:
        return found
    scheme = "http" if server.tls_cert is None else "https"
    host = f"[{server.host}]" if ":" in server.host else server.host
    _, said = probe(f"{scheme}://{host}:{server.port}")
    return msgspec.structs.replace(found, ours=not said.startswith("no answer") and not said.isdecimal())


def _show(lines: list[Finding]) -> None:
    console, width = screen.out(), max(len(one.what) for one in lines)
    for one in lines:
        status = f"[{COLOURS[one.status]}]{one.status.ljust(4)}[/{COLOURS[one.status]}]"
        console.print(
            f"{status}  {escape(screen.one_line(one.what)).ljust(width)}  {escape(screen.one_line(one.said))}"
        )
        if one.do:
            console.print(f"{' ' * (width + 8)}→ {escape(screen.one_line(one.do))}")
