"""The commands and their help: what `erllama --help` shows, and how a command line reaches its function.

Cyclopts reads the options of a command from the signature and the docstring of its function. Those functions import
what is large, such as the server, when they are called.
"""

from __future__ import annotations

import inspect as inspection
import re
import sys
from collections.abc import Callable, Sequence

from cyclopts import App, CycloptsError, Parameter
from rich.console import Console

import erllama_py as erllama
from erllama_py.serve.cli.complete import complete
from erllama_py.serve.cli.config_check import check
from erllama_py.serve.cli.demo import demo
from erllama_py.serve.cli.elsewhere import of_command, of_option
from erllama_py.serve.cli.ending import DONE, USAGE, UsageError
from erllama_py.serve.cli.inspect import inspect
from erllama_py.serve.cli.key import key
from erllama_py.serve.cli.pull import pull
from erllama_py.serve.cli.run import run
from erllama_py.serve.cli.serve import serve
from erllama_py.serve.cli.shelf import ls, rm

EXAMPLES = {
    "serve": "erllama serve qwen3-4b-q4_k_m.gguf --alias gpt-4o-mini --cache /var/lib/erllama",
    "run": "erllama run smollm2 --system 'You answer in one sentence.'",
    "complete": "git diff | erllama complete qwen3-4b-q4_k_m.gguf - --chat --tokens 200",
    "inspect": "erllama inspect qwen3-4b-q4_k_m.gguf --json",
    "pull": "erllama pull hf:bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M",
    "ls": "erllama ls --json",
    "rm": "erllama rm hf:bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M",
    "key": "erllama key ada >> erllama.toml",
    "demo": "erllama demo --model smollm2.gguf",
}
CHECK = "erllama config check erllama.toml"
COMMANDS: dict[str, Callable[..., int]] = {
    "serve": serve, "run": run, "complete": complete, "inspect": inspect, "pull": pull, "ls": ls, "rm": rm,
    "key": key, "demo": demo,
}  # fmt: skip
CODES = "Exit codes: 0 done; 1 an error; 2 a wrong command line; 130 interrupted; 141 what reads the output has gone."


def application() -> App:
    """All commands."""
    app = App(
        name="erllama", help="Local GGUF models: served, chatted with, looked at.", help_format="markdown",
        help_epilogue=f"Example: {EXAMPLES['serve']}\n\n{CODES}", version=f"erllama_py {erllama.__version__}",
        default_parameter=Parameter(negative=()), help_formatter="default" if sys.stdout.isatty() else "plain",
    )  # fmt: skip
    for name, example in EXAMPLES.items():
        app.command(COMMANDS[name], name=name, help_epilogue=f"Example: {example}")
    config = App(name="config", help="Work with configuration files.", help_epilogue=f"Example: {CHECK}")
    config.command(check, name="check", help_epilogue=f"Example: {CHECK}")
    app.command(config)
    return app


def dispatch(arguments: Sequence[str]) -> int:
    """Run a command line; the exit code. Raises `UsageError`, and what the command raises."""
    app = application()
    if not arguments:
        app.help_print([], console=Console(file=sys.stderr))
        return USAGE
    try:
        code = app(
            list(arguments), exit_on_error=False, print_error=False, result_action="return_value",
            console=Console(file=sys.stdout), error_console=Console(file=sys.stderr),
        )  # fmt: skip
    except CycloptsError as error:
        known = (*EXAMPLES, "config")
        command = f" {arguments[0]}" if arguments[0] in known else ""
        instead = _instead(arguments[0], str(error))
        problem = re.sub(r"\. Did you mean [^ ]+\?", "", str(error)) if instead else str(error)
        raise UsageError(f"{problem.rstrip('.')}{instead}; see: erllama{command} --help") from None
    return code if isinstance(code, int) else DONE


def _instead(command: str, problem: str) -> str:
    """What is here for an option, or for a command, that other programs have."""
    if command not in COMMANDS:
        return of_command(command)
    options = {name.replace("_", "-") for name in inspection.signature(COMMANDS[command]).parameters}
    return of_option(problem, options)
