"""The commands and their help: what `erllama --help` shows, and how a command line reaches its function.

Cyclopts reads the options of a command from the signature and the docstring of its function. Those functions import
what is large, such as the server, when they are called.
"""

from __future__ import annotations

import inspect as inspection
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TextIO

from cyclopts import App, CycloptsError, Parameter
from rich.console import Console

import erllama_py as erllama
from erllama_py.serve.cli import cache, screen
from erllama_py.serve.cli.batch import batch
from erllama_py.serve.cli.bench import bench
from erllama_py.serve.cli.complete import complete
from erllama_py.serve.cli.completing import SHELLS
from erllama_py.serve.cli.config_check import check
from erllama_py.serve.cli.demo import demo
from erllama_py.serve.cli.doctor import doctor
from erllama_py.serve.cli.elsewhere import of_command, of_option
from erllama_py.serve.cli.ending import DONE, USAGE, UsageError
from erllama_py.serve.cli.inspect import inspect
from erllama_py.serve.cli.key import key
from erllama_py.serve.cli.pull import pull
from erllama_py.serve.cli.reload import reload
from erllama_py.serve.cli.run import run
from erllama_py.serve.cli.serve import serve
from erllama_py.serve.cli.shelf import ls, rm
from erllama_py.serve.cli.top import top
from erllama_py.serve.cli.tree import tree

EXAMPLES = {
    "serve": "erllama serve qwen3-4b-q4_k_m.gguf --alias gpt-4o-mini --cache /var/lib/erllama",
    "run": "erllama run smollm2 --system 'You answer in one sentence.'",
    "complete": "git diff | erllama complete qwen3-4b-q4_k_m.gguf - --chat --tokens 200",
    "batch": "erllama batch requests.jsonl --model qwen3-4b-q4_k_m.gguf",
    "inspect": "erllama inspect qwen3-4b-q4_k_m.gguf --json",
    "pull": "erllama pull hf:bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M",
    "ls": "erllama ls --json",
    "rm": "erllama rm hf:bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M",
    "key": "erllama key ada >> erllama.toml",
    "bench": "erllama bench smollm2 --sequences 4",
    "doctor": "erllama doctor --config erllama.toml",
    "top": "erllama top --server http://127.0.0.1:9000",
    "tree": "erllama tree",
    "reload": "erllama reload",
    "completion": "erllama completion fish > ~/.config/fish/completions/erllama.fish",
    "demo": "erllama demo --model smollm2.gguf",
}
CHECK = "erllama config check erllama.toml"


def completion(shell: Literal["bash", "zsh", "fish"], /) -> int:
    """Print what a shell reads to complete commands and options with Tab.

    For bash: `eval "$(erllama completion bash)"` in ~/.bashrc. For zsh: `erllama completion zsh > ~/.zfunc/_erllama`,
    in a folder of its $fpath. For fish: a file in ~/.config/fish/completions.

    Parameters
    ----------
    shell
        The shell: bash, zsh or fish.
    """
    script = application().generate_completion(shell=shell)
    sys.stdout.write(SHELLS[shell](script).rstrip("\n") + "\n")
    return DONE


COMMANDS: dict[str, Callable[..., int]] = {
    "serve": serve, "run": run, "complete": complete, "batch": batch, "inspect": inspect, "pull": pull, "ls": ls,
    "rm": rm, "key": key, "bench": bench, "doctor": doctor, "top": top, "tree": tree, "reload": reload,
    "completion": completion, "demo": demo,
}  # fmt: skip
GROUPS: dict[str, tuple[str, dict[str, Callable[..., int]], Mapping[str, str]]] = {
    "cache": ("Look at what is kept, check it, and remove of it.", cache.COMMANDS, cache.EXAMPLES),
    "config": ("Work with configuration files.", {"check": check}, {"check": CHECK}),
}
"""Commands of two words: what a group is for, its commands, and an example of each."""
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
    for group, (text, commands, examples) in GROUPS.items():
        below = App(name=group, help=text, help_epilogue=f"Example: {next(iter(examples.values()))}")
        for name, command in commands.items():
            below.command(command, name=name, help_epilogue=f"Example: {examples[name]}")
        app.command(below)
    return app


def dispatch(arguments: Sequence[str]) -> int:
    """Run a command line; the exit code. Raises `UsageError`, and what the command raises."""
    app = application()
    if not arguments or list(arguments) in [[group] for group in GROUPS]:
        app.help_print(list(arguments), console=_console(sys.stderr))
        return USAGE
    try:
        code = app(
            list(arguments), exit_on_error=False, print_error=False, result_action="return_value",
            console=_console(sys.stdout), error_console=_console(sys.stderr),
        )  # fmt: skip
    except CycloptsError as error:
        command = "".join(f" {word}" for word in _named(arguments))
        instead = _instead(arguments[0], str(error))
        problem = re.sub(r" Did you mean [^ ]+\?", "", str(error)) if instead else str(error)
        problem = problem.replace(", ...", " and others")
        raise UsageError(f"{problem.rstrip('.')}{instead}; see: erllama{command} --help") from None
    return code if isinstance(code, int) else DONE


def _console(file: TextIO) -> Console:
    """What help is printed on. In a pipe it comes in lines for 80 columns: none is broken again for its margin."""
    return screen.Output(file=file) if file.isatty() else screen.Output(file=file, width=80, soft_wrap=True)


def _named(arguments: Sequence[str]) -> Sequence[str]:
    """The words of a command line that name its command; none where it has no such command."""
    if arguments[0] in GROUPS:
        return arguments[:2] if arguments[1:2] and arguments[1] in GROUPS[arguments[0]][1] else arguments[:1]
    return arguments[:1] if arguments[0] in EXAMPLES else ()


def _instead(command: str, problem: str) -> str:
    """What is here for an option, or for a command, that other programs have."""
    if command not in COMMANDS:
        return of_command(command)
    options = {name.replace("_", "-") for name in inspection.signature(COMMANDS[command]).parameters}
    return of_option(problem, options)
