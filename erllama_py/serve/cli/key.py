"""`erllama key`: a new API key for its user, and its hash for the configuration file."""

from __future__ import annotations

import sys

import msgspec

import erllama_py as erllama
from erllama_py.serve.access import KeyOpts, make_key
from erllama_py.serve.cli import screen
from erllama_py.serve.cli.ending import DONE, UsageError


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """What `--json` prints."""

    name: str
    key: str
    hash: str


def key(name: str, /, *, json: bool = False) -> int:
    """Make an API key, and its entry for the configuration file.

    It is shown once, and kept nowhere: the file holds its hash. The entry for the file goes to the standard output, the
    key to the standard error.

    Parameters
    ----------
    name
        Whose it is: keys of one name are one tenant.
    json
        Print the name, the key and the hash as JSON.
    """
    secret, digest = make_key()
    try:
        erllama.parse_options({"name": name, "hash": digest}, KeyOpts)
    except erllama.InvalidOption as error:
        raise UsageError(f"{error.option}: {error.problem}") from None
    if json:
        screen.print_json(Made(name=name, key=secret, hash=digest))
    else:
        print(f'\n[[access.keys]]\nname = "{name}"\nhash = "{digest}"')
        print(f"The key, to be given to its user now: {secret}", file=sys.stderr)
    return DONE
