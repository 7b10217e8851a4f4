"""The configuration file of a server: TOML, read once, every error with its place in the file."""

from erllama_py.serve.config.checking import check_allowed, check_names, check_tables, name_of, read_config
from erllama_py.serve.config.environment import VARIABLES, with_environment
from erllama_py.serve.config.errors import ConfigError
from erllama_py.serve.config.of_hub import is_of_hub, with_pulled
from erllama_py.serve.config.sized import SizedModel, sized, with_sizes
from erllama_py.serve.config.tables import Config, ModelTable, RuntimeTable, ServedModel, Tables

__all__ = [
    "VARIABLES",
    "Config",
    "ConfigError",
    "ModelTable",
    "RuntimeTable",
    "ServedModel",
    "SizedModel",
    "Tables",
    "check_allowed",
    "check_names",
    "check_tables",
    "is_of_hub",
    "name_of",
    "read_config",
    "sized",
    "with_environment",
    "with_pulled",
    "with_sizes",
]
