"""`erllama inspect`: what a GGUF file is and what it would take, without loading it."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table

import erllama_py as erllama
from erllama_py.serve.cli import screen
from erllama_py.serve.cli.ending import DONE
from erllama_py.serve.cli.model_options import context_options, find_model
from erllama_py.serve.config.sizing import SEQUENCES

MEMORIES = {
    "full": "dense: every token is kept",
    "window": "sliding window: some layers keep the last {window:,} tokens",
    "recurrent": "recurrent: a state of fixed size",
    "hybrid": "hybrid: a state of fixed size in some layers, every token in others",
}


def inspect(
    model: str, /, *, sequences: int = SEQUENCES, metadata: bool = False, template: bool = False,
    no_probe: bool = False, json: bool = False,
) -> int:  # fmt: skip
    """Show what a GGUF file is, and the memory that it takes.

    Its weights are not read.

    Parameters
    ----------
    model
        A GGUF file; a model of the Hugging Face hub, as hf:owner/repo:Q4_K_M; or the name of a small model that can
        be fetched: smollm2, gemma3, minilm.
    sequences
        Sequences of those contexts: as many clients as are answered side by side.
    metadata
        Show all key-values of the file, too.
    template
        Print the chat template, and nothing else.
    no_probe
        Do not try a file that is new in a process of its own first: for files that you made yourself.
    json
        Print all that is known as JSON.
    """
    context: Any = context_options(sequences=sequences)
    file = erllama.inspect_model(find_model(model), context_opts=context, probe=not no_probe)
    if json:
        screen.print_json(file)
    elif template:
        print(file.chat_template or "")
    else:
        show(file, sequences, metadata=metadata)
    return DONE


def show(file: erllama.ModelFile, sequences: int, *, metadata: bool) -> None:
    """Two columns of facts, and a table of contexts."""
    console = screen.out()
    _print_facts(facts(file))
    if file.contexts:
        console.print(f"\nMemory of a context for {sequences} sequences, beside {screen.amount(file.size)} of weights:")
        table = Table("context", "cells", "buffers", "total", box=None, header_style="bold")
        for column in table.columns:
            column.justify = "right"
        for one in file.contexts:
            total = file.size + one.cell_bytes + one.compute_bytes
            table.add_row(
                f"{one.n_ctx:,}", screen.amount(one.cell_bytes), screen.amount(one.compute_bytes), screen.amount(total)
            )
        console.print(table)
    if metadata:
        console.print("\nMetadata:")
        _print_facts(file.metadata)


def facts(file: erllama.ModelFile) -> dict[str, str]:
    """What is shown of a file, by its name. Pure."""
    parts = f" in {file.n_files} files" if file.n_files > 1 else ""
    bits = f", {file.quant_bits} bits" if file.quant_bits else ""
    shown = {
        "file": file.path,
        "name": screen.one_line(file.name or "–"),
        "model": file.description,
        "size": f"{screen.amount(file.file_size)}{parts}",
        "parameters": f"{file.n_params:,}",
        "quantisation": f"{file.quant_type}{bits}",
        "layers": f"{file.n_layer}, {file.n_embd:,} wide, {file.n_vocab:,} tokens",
        "trained context": f"{file.n_ctx_train:,} tokens",
        "memory": MEMORIES[file.memory].format(window=file.sliding_window) if file.can_generate else "none: an encoder",
    }
    if file.kv_bytes_per_token:
        shown["KV cells"] = f"{screen.amount(file.kv_bytes_per_token)} a token"
    return shown | {"chat template": _template(file), **_abilities(file)}


def _template(file: erllama.ModelFile) -> str:
    others = f"; also {', '.join(file.chat_templates)}" if file.chat_templates else ""
    return ("none" if file.chat_template is None else f"{len(file.chat_template):,} characters") + others


def _abilities(file: erllama.ModelFile) -> dict[str, str]:
    thinking = "no"
    if file.thinking is not None:
        switch = f", switched by {file.thinking_switch}" if file.thinking_switch else ", always"
        thinking = f"{file.thinking[0]} … {file.thinking[1]}{switch}"
    return {
        "generates": "yes" if file.can_generate else "no",
        "tools": f"in the format {file.tool_format!r}" if file.tool_format else "not by its chat template",
        "thinking": thinking,
        "embeddings": "no" if file.pooling is None else f"yes, pooled by {file.pooling}",
        "ranking": "yes, by its own head" if file.can_rank else "no head of its own",
    }


def _print_facts(shown: dict[str, str]) -> None:
    console, width = screen.out(), max(map(len, shown), default=0)
    for name, value in shown.items():
        console.print(f"[bold]{escape(name.ljust(width))}[/bold]  {escape(screen.one_line(value))}")
