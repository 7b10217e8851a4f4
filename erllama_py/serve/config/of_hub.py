"""Models of the Hugging Face hub in a configuration: named as they are, and found before their sizes are looked at."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from erllama_py.serve.config.tables import Config, ServedModel


def is_of_hub(path: object) -> bool:
    """Whether a path, or what a command line calls a model, names one of the hub."""
    return isinstance(path, str) and path[:3].lower() == "hf:"


def with_pulled(config: Config, pull: Callable[[str], str]) -> Config:
    """The configuration with files in place of models of the hub; `pull` gives the path of one."""

    def settled(model: ServedModel) -> ServedModel:
        path = model.options.get("model_path")
        if not is_of_hub(path) or model.options.get("backend") == "stub":
            return model
        return msgspec.structs.replace(model, options={**model.options, "model_path": pull(str(path))})

    return msgspec.structs.replace(config, models=tuple(map(settled, config.models)))
