"""A running server as commands ask it: each way in which it does not answer is one sentence with what to do."""

from __future__ import annotations

import socket
from pathlib import Path

import httpx
import pytest
from helpers.threaded_server import Canned, self_signed, threaded
from hypothesis import given
from hypothesis import strategies as st

import erllama_py as erllama
from erllama_py.serve.cli import main
from erllama_py.serve.cli.addresses import BadAddress, parse_address
from erllama_py.serve.cli.ending import UsageError
from erllama_py.serve.cli.remote import ServerRefused, ServerUnreachable, message_of, problem_of, reached, refused

SECRET = "sk-erllama-very-secret"


@pytest.mark.parametrize(
    ("given", "url", "socket"),
    [
        (None, "http://127.0.0.1:8080", None),
        ("", "http://127.0.0.1:8080", None),
        ("https://llm.example/", "https://llm.example", None),
        ("http://h:1/llm/", "http://h:1/llm", None),
        ("localhost:9000", "http://localhost:9000", None),
        (":9000", "http://127.0.0.1:9000", None),
        ("http://0.0.0.0:80", "http://127.0.0.1:80", None),
        ("http://[::]:80", "http://[::1]:80", None),
        ("/run/erllama.sock", "http://localhost", "/run/erllama.sock"),
        ("./here.sock", "http://localhost", "./here.sock"),
    ],
)
def test_a_server_is_named_as_people_do(given: str | None, url: str, socket: str | None) -> None:
    """A URL, a host and port, a port, a path; an address that listens everywhere is this machine."""
    address = parse_address(given)
    assert (address.url, address.socket) == (url, socket)
    assert address.shown == (socket or url)


def test_the_home_directory_is_known() -> None:
    """A shell leaves the `~` of `--server=~/a.sock` as it is."""
    with reached("~/here.sock") as remote:
        assert remote.name == str(Path.home() / "here.sock")


@pytest.mark.parametrize(
    "given",
    [
        "ftp://h",
        "http://",
        "http://h:x",
        "http://h:99999",
        "http://h/?a=1",
        "a b://",
        "http://xn--/",
        "http://\xfc..x",
        "http://\udcff",
    ],
)
def test_what_is_no_address_is_a_wrong_command_line(given: str) -> None:
    """It is shown as it was given."""
    with pytest.raises(UsageError, match="--server"), reached(given):
        pass


def test_a_key_in_the_address_is_not_shown() -> None:
    """It belongs elsewhere, and the error does not repeat it."""
    with pytest.raises(UsageError) as caught, reached(f"http://u:{SECRET}@h"):
        pass
    assert SECRET not in str(caught.value)
    with pytest.raises(UsageError) as caught, reached(key=f"{SECRET} \n"):
        pass
    assert SECRET not in str(caught.value)


@given(st.text())
def test_any_text_is_an_address_or_an_error(text: str) -> None:
    """Nothing else comes out."""
    try:
        address = parse_address(text)
    except BadAddress:
        return
    assert address.url.startswith(("http://", "https://"))
    assert isinstance(address.is_here, bool)


@given(st.binary())
def test_any_body_is_an_error_or_none(body: bytes) -> None:
    """What answers may be anything."""
    said, code = message_of(body)
    assert isinstance(said, str)
    assert code is None or said is not None


def test_errors_of_all_shapes_are_read() -> None:
    """OpenAI's and ours, Ollama's; what is none has no message."""
    assert message_of(b'{"error": {"message": "m", "code": "c"}}') == ("m", "c")
    assert message_of(b'{"error": "m"}') == ("m", None)
    for body in (b"[]", b'{"error": [1]}', b"<html>", b'{"error": {"message": 3}}'):
        assert message_of(body) == ("", None)


@pytest.mark.parametrize(
    ("status", "code", "has_key", "said"),
    [
        (401, "invalid_api_key", False, "$ERLLAMA_API_KEY"),
        (401, "invalid_api_key", True, "does not know this key"),
        (403, "operators_only", True, "operator = true"),
        (403, "operators_only", False, "from the machine of the server"),
        (403, "other", True, "because"),
        (404, "unknown_endpoint", True, "older than this command"),
        (404, "model_not_found", True, "because"),
        (500, None, True, "because"),
    ],
)
def test_each_refusal_says_what_to_do(status: int, code: str | None, has_key: bool, said: str) -> None:
    """Where the server's own sentence says it, that is shown."""
    assert said in refused("/p", status, "because", code, has_key=has_key)


def test_what_a_server_says_cannot_draw_on_the_terminal() -> None:
    """It is one line, of a bounded length."""
    shown = refused("/p", 500, "a\n\x1b[2J" + "b" * 9999, "c", has_key=False)
    assert shown.startswith("a \ufffd[2J")
    assert len(shown) < 400
    assert refused("/p", 500, "", None, has_key=False) == "it answers 500, and does not say why"


def test_a_key_goes_with_each_request_and_bodies_are_json() -> None:
    """To the server alone."""
    canned = Canned(body={"ok": True})
    with threaded(canned, lifespan="off") as url, reached(url, SECRET) as remote:
        assert remote.get("/a", tier="x y") == {"ok": True}
        assert remote.post("/b", {"n": 1}) == {"ok": True}
        assert list(remote.lines("GET", "/c")) == [{"ok": True}]
    assert [one[:2] for one in canned.seen] == [("GET", "/a"), ("POST", "/b"), ("GET", "/c")]
    assert all(one[2]["authorization"] == f"Bearer {SECRET}" for one in canned.seen)
    assert (canned.seen[1][2]["content-type"], canned.seen[1][3]) == ("application/json", b'{"n":1}')


@pytest.mark.parametrize(
    ("canned", "said"),
    [
        (Canned(401, {"error": {"message": "no", "code": "invalid_api_key"}}), "does not know this key"),
        (Canned(404, raw=b"<html>nothing here"), "no server of erllama"),
        (Canned(200, raw=b"<html>"), "no server of erllama"),
        (Canned(302, headers={"location": "http://127.0.0.1:1/"}), "it answers 302"),
        (Canned(503, {"error": {"message": "not ready", "code": None}}), "not ready"),
    ],
)
def test_what_a_server_refuses_is_one_line_without_the_key(canned: Canned, said: str) -> None:
    """And no redirect takes the key elsewhere."""
    with (
        threaded(canned, lifespan="off") as url,
        reached(url, SECRET) as remote,
        pytest.raises(ServerRefused) as caught,
    ):
        remote.get("/a")
    shown = str(caught.value)
    assert said in shown
    assert shown.startswith(url)
    assert SECRET not in shown + repr(caught.value)
    assert "\n" not in shown


def test_nobody_listens_there() -> None:
    """It says how to start a server, and how to name another."""
    with socket.create_server(("127.0.0.1", 0)) as bound:
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
    with reached(url, SECRET) as remote, pytest.raises(ServerUnreachable) as caught:
        remote.get("/a")
    assert "Connection refused; `erllama serve` starts a server, --server or $ERLLAMA_SERVER" in str(caught.value)
    assert isinstance(caught.value, erllama.ErllamaError)


def test_a_socket_of_unix_is_reached_by_its_path(tmp_path: Path) -> None:
    """And one that is not there is an error with the path."""
    path = str(tmp_path / "s.sock")
    with reached(path) as remote, pytest.raises(ServerUnreachable, match="No such file or directory"):
        remote.get("/a")
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    bound.bind(path)
    with threaded(Canned(body=7), listener=bound, lifespan="off"), reached(path) as remote:
        assert remote.name == path
        assert remote.get("/a") == 7


def test_a_certificate_has_to_be_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By `SSL_CERT_FILE`, as for other programs; and the two protocols are told apart."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    cert, key = self_signed(tmp_path)
    with threaded(Canned(body=7), tls=(cert, key), lifespan="off") as url:
        with reached(url) as remote, pytest.raises(ServerUnreachable, match=r"not trusted .*SSL_CERT_FILE=FILE"):
            remote.get("/a")
        with reached(url.replace("https", "http")) as remote, pytest.raises(ServerUnreachable, match="https://"):
            remote.get("/a")
        monkeypatch.setenv("SSL_CERT_FILE", cert)
        with reached(url) as remote:
            assert remote.get("/a") == 7
    plain, refusal = threaded(Canned(body=7), lifespan="off"), pytest.raises(ServerUnreachable, match="http://")
    with plain as url, reached(url.replace("http", "https")) as remote, refusal:
        remote.get("/a")


def test_silence_has_an_end() -> None:
    """A server that takes the connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with reached(url) as remote, pytest.raises(ServerUnreachable, match=r"nothing came for 0\.05 s"):
            remote.json("GET", "/a", timeout=0.05)


def test_an_answer_that_does_not_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would fill the memory."""
    monkeypatch.setattr("erllama_py.serve.cli.remote.MOST_BYTES", 10)
    endless = threaded(Canned(body="x" * 99), lifespan="off")
    with endless as url, reached(url) as remote, pytest.raises(ServerRefused, match="does not end"):
        remote.get("/a")


def test_no_proxy_stands_between_a_machine_and_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would not reach the loopback of this one."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    with threaded(Canned(body=7), lifespan="off") as url, reached(url) as remote:
        assert remote.get("/a") == 7


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "garbage::x", "ftp://127.0.0.1:9"])
def test_a_proxy_that_cannot_be_used_is_a_sentence(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It names where it comes from."""
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(UsageError, match="a proxy of the environment cannot be used"), reached("http://192.0.2.1:1"):
        pass


STRANGERS = (b"{}", b"[1, 2]", b"")
ASKING = (
    "tree", "tree --json", "top --once", "reload", "reload --json", "cache ls", "cache verify --tier x",
    "cache gc --tier x", "bench x", "batch",
)  # fmt: skip


@pytest.mark.parametrize("command", ASKING)
def test_a_stranger_that_answers_is_told_from_a_server(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever it says to everything, be it JSON; nothing is shown as if it were an answer."""
    monkeypatch.chdir(tmp_path)
    words = command.split()
    if words == ["batch"]:
        Path("asked.jsonl").write_text("{}\n")
        words.append("asked.jsonl")
    canned = Canned()
    with threaded(canned, lifespan="off") as url:
        for canned.body in STRANGERS:
            assert main([*words, "--server", url]) == 1
            shown = capsys.readouterr()
            assert shown.err == f"erllama: {url}: what answers there is no server of erllama\n"
            assert shown.out == ""


def test_every_error_of_the_client_is_a_sentence() -> None:
    """None is empty."""
    for kind in (httpx.ConnectTimeout, httpx.ReadTimeout, httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError):
        assert problem_of(kind(""))
