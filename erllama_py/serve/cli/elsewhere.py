"""What other programs call a command or an option of the command line, and what it is here. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection

_OPTIONS = {
    "--context": "c ctx ctx-size n-ctx num-ctx max-model-len context-length context-size",
    "--sequences": "np parallel n-parallel num-parallel max-num-seqs n-seq-max",
    "--threads": "t n-threads num-thread num-threads",
    "--gpu-layers": "ngl n-gpu-layers num-gpu num-gpu-layers gpu device",
    "--isolation": "isolated isolate process subprocess",
    "--tokens": "n n-predict num-predict max-tokens max-new-tokens response-tokens",
    "--temperature": "temp",
    "--system": "sys system-prompt s",
    "--cache": "cache-dir slot-save-path tier disk prompt-cache kv-cache-dir",
    "--alias": "a served-model-name name id",
    "--log-level": "log-verbosity v verbose verbosity loglevel",
    "the model stands by itself: erllama COMMAND model.gguf": "m model model-path f file path",
    "a model of the hub stands where a file does: hf:owner/repo:Q4_K_M": "hf hfr hf-repo hff hf-file repo-id",
    "only models of the hub are downloaded: hf:owner/repo:Q4_K_M": "url model-url mu",
    "keys stand in the configuration file: erllama key NAME >> erllama.toml": "api-key api-keys key token",
    "requests say it, each for itself": "temp temperature top-p top-k n-predict max-tokens seed repeat-penalty tokens",
    "it stands in the configuration file, under the model's context_opts": """
        fa flash-attn ctk ctv cache-type-k cache-type-v b batch-size ub ubatch-size rope-scaling n-batch
    """,
    "it stands in the configuration file": "ssl-keyfile ssl-certfile ssl-key-file ssl-cert-file tls-cert tls-key",
}
_COMMANDS = {
    "erllama run MODEL": "chat talk interactive repl",
    "erllama complete MODEL TEXT": "generate ask prompt completion",
    "erllama serve MODEL": "server start up api",
    "erllama inspect MODEL": "show info describe metadata",
    "erllama bench MODEL": "benchmark perf",
    "erllama top": "status stats monitor watch ps",
    "erllama doctor": "check diagnose env",
    "erllama --help": "help",
    "erllama --version": "version",
    "erllama pull hf:owner/repo:Q4_K_M": "fetch download get install add update",
    "erllama rm NAME": "remove delete uninstall",
    "erllama ls": "list models",
    "a model is a GGUF file, as it is": "push create cp",
    "a server unloads by itself, or by POST /erllama/models/NAME/unload; Ctrl-C ends it": "stop unload",
    "a server embeds: POST /v1/embeddings": "embed embeddings embedding",
}
COMMANDS = {name: said for said, names in _COMMANDS.items() for name in names.split()}


def of_model(given: str) -> str:
    """What a model of the hub is called here that is named by its page, or as other programs do; empty where nothing is
    known."""
    found = re.fullmatch(r"(?:(?:https?://)?(?:huggingface\.co|hf\.co)/|hf://)?([\w.-]+/[\w.-]+)(:[\w.-]+)?/?", given)
    return f"; here it is hf:{found[1]}{found[2] or ''}" if found else ""


def of_option(message: str, options: Collection[str]) -> str:
    """What to write in place of the option that a message calls unknown, for a command that has these `options`;
    empty where nothing is known."""
    found = re.search(r"Unknown option: -{1,2}([\w-]+)", message)
    name = found[1].replace("_", "-").lower() if found else ""
    said = [said for said, names in _OPTIONS.items() if name in names.split()]
    fitting = [one for one in said if not one.startswith("--") or one.removeprefix("--") in options]
    if not fitting:
        return ""
    return f"; here it is {fitting[0]}" if fitting[0].startswith("--") else f"; {fitting[0]}"


def of_command(name: str) -> str:
    """The same of a command."""
    return f"; here: {COMMANDS[name]}" if name in COMMANDS else ""
