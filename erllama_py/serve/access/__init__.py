"""Who may use a server, and how much: keys, budgets, hosts, and web pages that may call it."""

from erllama_py.serve.access.admission import KeyAccess
from erllama_py.serve.access.doors import Doors
from erllama_py.serve.access.hosts import exposure_problem
from erllama_py.serve.access.keys import check_keys, hash_key, make_key
from erllama_py.serve.access.settings import AccessOpts, KeyOpts

__all__ = ["AccessOpts", "Doors", "KeyAccess", "KeyOpts", "check_keys", "exposure_problem", "hash_key", "make_key"]
