"""Where a server listens: taken ports, files that are left over, open hosts, certificates that cannot be used."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from helpers.server_process import child

from erllama_py.serve.access import AccessOpts, KeyOpts, make_key
from erllama_py.serve.config import InsecureHost, TlsUnusable
from erllama_py.serve.core.settings import ListenOpts
from erllama_py.serve.running import CannotListen, listen
from erllama_py.serve.running import probe as probing
from erllama_py.serve.running.listening import url_of
from erllama_py.serve.running.probe import probe

NOBODY = AccessOpts()
FREE = ListenOpts(port=0)


def test_a_port_that_is_taken() -> None:
    """Before anything is loaded; one that is free is bound."""
    with listen(FREE, NOBODY) as one:
        one.listen()
        port = one.getsockname()[1]
        assert url_of(FREE, one) == f"http://127.0.0.1:{port}"
        with (
            pytest.raises(CannotListen, match=f"127.0.0.1 port {port}: Address already in use"),
            listen(ListenOpts(port=port), NOBODY),
        ):
            pass


@pytest.mark.parametrize("host", ["no such host", "256.1.1.1", "a" * 70, "ü.\u2024."])
def test_a_host_that_is_none(host: str) -> None:
    """With the reason."""
    keys = (KeyOpts(name="a", hash=make_key()[1]),)
    with pytest.raises(CannotListen), listen(ListenOpts(host=host, port=0), AccessOpts(keys=keys)):
        pass


def test_other_machines_need_keys() -> None:
    """Or that it is said to be insecure."""
    options = ListenOpts(host="0.0.0.0", port=0)
    with pytest.raises(InsecureHost, match="give keys, or say insecure"), listen(options, NOBODY):
        pass
    for access in (AccessOpts(insecure=True), AccessOpts(keys=(KeyOpts(name="a", hash=make_key()[1]),))):
        with listen(options, access):
            pass


def test_a_unix_socket(tmp_path: Path) -> None:
    """For its owner and group, removed at the end; one that is left over is replaced, one in use and a file are not."""
    path = str(tmp_path / "sock")
    options = ListenOpts(uds=path)
    with listen(options, NOBODY) as one:
        one.listen()
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
        with pytest.raises(CannotListen, match="Address already in use"), listen(options, NOBODY):
            pass
        assert os.path.exists(path)
    assert not os.path.exists(path)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path)
    with listen(options, NOBODY):
        pass
    Path(path).write_text("mine")
    with pytest.raises(CannotListen), listen(options, NOBODY):
        pass
    assert Path(path).read_text() == "mine"


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"tls_cert": "/nonexistent.pem"}, "No such file"),
        ({"tls_key": "/nonexistent.pem"}, "tls_cert is not"),
        ({"tls_cert": __file__}, "cannot be used"),
    ],
)
def test_a_certificate_that_cannot_be_used(given: dict[str, Any], problem: str) -> None:
    """Before anything is loaded."""
    with pytest.raises(TlsUnusable, match=problem), listen(ListenOpts(port=0, **given), NOBODY):
        pass


def certificate(folder: Path) -> dict[str, str]:
    """A certificate of this machine's own, made by OpenSSL."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    more = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run([*command.split(), *more], check=True, capture_output=True)
    return {"tls_cert": str(cert), "tls_key": str(key)}


@pytest.mark.slow
def test_a_server_over_tls_and_over_a_unix_socket(tmp_path: Path) -> None:
    """Each is found by its probe, and ends as others do."""
    tls = certificate(tmp_path)
    for server in ({"port": 0, **tls}, {"uds": str(tmp_path / "sock")}):
        with child(tmp_path, server=server) as one:
            one.ready()
            fine, said = probe(one.url)
            assert (fine, said) == (True, "ok")
            if "uds" not in server:
                context = ssl.create_default_context(cafile=tls["tls_cert"])
                assert httpx.get(f"{one.url}/v1/models", verify=context).status_code == 200
            else:
                assert one.client.get("/v1/models").status_code == 200
            one.tell(signal.SIGTERM)
            assert one.wait() == 0
        assert probe(one.url)[0] is False
    assert not (tmp_path / "sock").exists()


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "/nonexistent", "nonsense", "http://[::1", "http://a:99999"])
def test_a_probe_of_nothing(url: str) -> None:
    """It says no."""
    fine, said = probe(url)
    assert not fine
    assert said


def test_the_probe_is_a_file_that_needs_python_alone() -> None:
    """A container calls it every few seconds, beside a model that wants the cores."""
    command = [sys.executable, "-I", "-X", "importtime", probing.__file__, "/nonexistent/socket"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "no answer" in done.stderr
    assert "erllama_py" not in done.stderr.replace(probing.__file__, "")
