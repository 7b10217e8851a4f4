"""Which addresses are this machine's own, and by which names it may be asked."""

from __future__ import annotations

import pytest

from erllama_py.serve.access.hosts import exposure_problem, host_of, host_problem, is_loopback


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.8.9.10", "localhost", "LOCALHOST", "localhost.", "a.localhost", "::1", "[::1]",
     "::ffff:127.0.0.1", "0:0:0:0:0:0:0:1", "::1%lo"],
)  # fmt: skip
def test_this_machine(host: str) -> None:
    """By any of its names."""
    assert is_loopback(host)
    assert exposure_problem(host, keys=False, insecure=False) is None


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "::", "", "192.168.1.2", "example.com", "localhost.example.com", "127.0.0.1.example.com", "127.1",
     "2130706433", "::ffff:10.0.0.1", "localhos", "testclient", "127.0.0.1:80"],
)  # fmt: skip
def test_not_this_machine_alone(host: str) -> None:
    """Nor what only looks like it: without keys it is not listened on."""
    assert not is_loopback(host)
    assert "without keys" in str(exposure_problem(host, keys=False, insecure=False))
    assert exposure_problem(host, keys=True, insecure=False) is None
    assert exposure_problem(host, keys=False, insecure=True) is None


@pytest.mark.parametrize(
    ("header", "name"),
    [("localhost", "localhost"), ("Localhost:8080", "localhost"), ("127.0.0.1:1", "127.0.0.1"), ("[::1]:80", "::1"),
     ("[::1]", "::1"), ("a.example.:80", "a.example"), ("[::1", ""), ("[::1]x", ""), ("a:b", ""), ("", ""),
     ("localhost:80@evil.com", "")],
)  # fmt: skip
def test_the_name_in_a_header(header: str, name: str) -> None:
    """Without its port."""
    assert host_of(header) == name


@pytest.mark.parametrize(
    ("header", "allowed", "fine"),
    [
        ("localhost:8080", [], True), ("127.0.0.1:8080", [], True), ("[::1]:8080", [], True), ("evil.com", [], False),
        ("", [], False), ("evil.com:8080", ["good.com"], False), ("good.com:8080", ["good.com"], True),
        ("GOOD.com", ["good.com"], True), ("a.good.com", ["good.com"], False), ("a.good.com", ["*.good.com"], True),
        ("good.com", ["*.good.com"], False), ("evilgood.com", ["*.good.com"], False), ("evil.com", ["*"], True),
        ("[fd00::1]:80", ["fd00::1"], True), ("0.0.0.0:8080", [], False),
    ],
)  # fmt: skip
def test_names_over_loopback(header: str, allowed: list[str], fine: bool) -> None:
    """Its own, and those that are allowed."""
    assert (host_problem(header, allowed) is None) == fine
