"""What is refused of a configuration before anything is taken or loaded, at the start of a server and at a reload.

It reads the files of a certificate, so it blocks: from a coroutine, call it in a worker thread.
"""

from __future__ import annotations

import ssl

import erllama_py as erllama
from erllama_py.serve.access import AccessOpts, exposure_problem
from erllama_py.serve.config.checking import check_allowed, check_names
from erllama_py.serve.config.isolation import check_spare
from erllama_py.serve.config.tables import Config
from erllama_py.serve.core.settings import ListenOpts


class InsecureHost(erllama.ErllamaError):
    """The server would be open to other machines without any key."""

    host: str
    problem: str

    text = "{problem}"


class TlsUnusable(erllama.ErllamaError):
    """The certificate, or its key, cannot be used."""

    problem: str

    text = "TLS: {problem}"


def check_served(config: Config) -> None:
    """What a server refuses when it is started, and when it reads its configuration again. Raises `InvalidOption`,
    `InsecureHost`, `TlsUnusable`."""
    check_names(list(config.models))
    check_allowed(config)
    check_spare(config.server, [model.options for model in config.models])
    check_listening(config.server, config.access)


def check_listening(options: ListenOpts, access: AccessOpts) -> None:
    """What can be known before a socket is taken. Raises `InsecureHost`, `TlsUnusable`."""
    check_exposure(options, access)
    check_tls(options)


def check_exposure(options: ListenOpts, access: AccessOpts) -> None:
    """Raises `InsecureHost`."""
    if options.uds is None:
        problem = exposure_problem(options.host, keys=bool(access.keys), insecure=access.insecure)
        if problem is not None:
            raise InsecureHost(options.host, problem)


def check_tls(options: ListenOpts) -> None:
    """Raises `TlsUnusable`: else it would be found out after the models are loaded."""
    cert, key = options.tls_cert, options.tls_key
    if key is not None and cert is None:
        raise TlsUnusable("tls_key is given, and tls_cert is not")
    if cert is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, lambda: options.tls_key_password or "")
    except (OSError, ValueError) as error:  # an `SSLError` is an `OSError`
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        raise TlsUnusable(f"{cert} with {key or 'its own key'} cannot be used: {reason}") from error
