"""The configuration file of a server: TOML, read once, every error with its place in the file."""

from erllama_py.serve.config.checking import check_allowed, check_names, check_tables, name_of, read_config
from erllama_py.serve.config.environment import VARIABLES, with_environment
from erllama_py.serve.config.errors import ConfigError
from erllama_py.serve.config.isolation import with_isolation
from erllama_py.serve.config.of_hub import is_of_hub, with_pulled
from erllama_py.serve.config.served import InsecureHost, TlsUnusable, check_exposure, check_listening, check_served
from erllama_py.serve.config.sized import SizedModel, is_replaced, refreshed, sized, with_sizes
from erllama_py.serve.config.tables import Config, ModelTable, RuntimeTable, ServedModel, Tables

__all__ = [
    "VARIABLES",
    "Config",
    "ConfigError",
    "InsecureHost",
    "ModelTable",
    "RuntimeTable",
    "ServedModel",
    "SizedModel",
    "Tables",
    "TlsUnusable",
    "check_allowed",
    "check_exposure",
    "check_listening",
    "check_names",
    "check_served",
    "check_tables",
    "is_of_hub",
    "is_replaced",
    "name_of",
    "read_config",
    "refreshed",
    "sized",
    "with_environment",
    "with_isolation",
    "with_pulled",
    "with_sizes",
]
