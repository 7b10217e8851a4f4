"""A server in a process of its own reads its file again when it gets SIGHUP, in the middle of a stream."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from helpers.demand import tables
from helpers.server_process import child

pytestmark = pytest.mark.slow


def test_sighup_reads_the_file_again(tmp_path: Path) -> None:
    """A file that is wrong changes nothing; the stream that is open is whole."""
    file = tmp_path / "server.toml"
    file.write_text("[[models]")
    rest = tables(room=None)["runtime"]
    with child(tmp_path, runtime=rest) as server:
        server.ready()
        ask = {
            "model": "tiny",
            "messages": [{"role": "user", "content": "go on"}],
            "max_tokens": 100,
            "ignore_eos": True,
        }
        server.hold()
        with server.client.stream("POST", "/v1/chat/completions", json=ask | {"stream": True}) as stream:
            lines = stream.iter_lines()
            assert next(lines).startswith("data: ")
            server.tell(signal.SIGHUP)
            kept = json.dumps(["extra"])
            file.write_text(
                f"[runtime]\nram_quota_bytes = {rest['ram_quota_bytes']}\n"
                f"save_buffer_bytes = {rest['save_buffer_bytes']}\n"
                f"[server]\nport = 0\n[[models]]\nname = 'tiny'\nbackend = 'stub'\naliases = {kept}\n"
                "context_opts = { n_ctx = 4096, n_seq_max = 4 }\n"
            )
            server.tell(signal.SIGHUP)
            for _ in range(20_000):
                named = [one["id"] for one in server.client.get("/v1/models").json()["data"]]
                if "extra" in named:
                    break
            assert named == ["tiny", "extra"]
            server.go_on()
            pieces = [line for line in lines if line.startswith("data: ")]
        assert pieces[-1] == "data: [DONE]"
        assert json.loads(pieces[-2][6:])["choices"][0]["finish_reason"] == "length"
        server.tell(signal.SIGTERM)
        assert server.wait() == 0
