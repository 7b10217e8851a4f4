"""A local server that speaks the protocol of the Hugging Face hub, as huggingface_hub 2.4 asks it.

`GET /api/models/REPO[/revision/REV]` lists a repository with sizes and checksums; `/REPO/resolve/COMMIT/FILE` redirects
to `/cdn/…` under another host name, with the headers by which the hub names size, checksum, commit and its own storage
(Xet); there bytes come by `Range`. It can cut answers, hold them, change bytes, be out of order, and ask for a token.
It notes what was asked, and how many bytes went out.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

TOKEN = "hf_of_a_test"
PIECE = 16 << 10


def sha256(data: bytes) -> str:
    """What the hub calls a large file."""
    return hashlib.sha256(data).hexdigest()


def git_sha1(data: bytes) -> str:
    """What git calls a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def content(path: str | Path) -> bytes:
    """The bytes of a file, for tests on an event loop."""
    return Path(path).read_bytes()


def names_below(folder: Path, pattern: str) -> list[str]:
    """What is in a folder and below it by a pattern, as paths from it."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob(pattern))


class FakeHub:
    """See the module. Repositories are added by `add`; each call of it is a commit of the main branch."""

    def __init__(self) -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        self.cdn = f"http://localhost:{self.server.server_port}/cdn"
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}  # repository, commit, path
        self.refs: dict[str, dict[str, str]] = {}
        self.in_git: set[str] = set()  # paths of files that are no large files there
        self.closed: dict[str, str] = {}  # repository: the code by which it is refused without a token
        self.changed: set[str] = set()  # paths whose bytes come wrong
        self.ignores_ranges = False
        self.page: bytes | None = None  # what the API answers in place of a listing
        self.listings: list[int] = []  # the next listings are such a status instead; 0: the connection is closed
        self.cuts: list[int] = []  # of the next answers with bytes: after how many they break off
        self.answers: list[int] = []  # the next answers with bytes are such a status instead
        self.held_after: int | None = None  # bytes after which answers wait for `go_on`
        self.held, self.go_on = threading.Event(), threading.Event()
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.sent: Counter[str] = Counter()  # bytes by path

    def add(self, repo: str, files: dict[str, bytes], *, revision: str = "main") -> str:
        """A commit with these files, and no others; its hash."""
        text = repr(sorted((path, sha256(data)) for path, data in files.items())) + repo
        commit = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        self.repos.setdefault(repo, {})[commit] = files
        self.refs.setdefault(repo, {})[revision] = commit
        return commit

    def requests(self, kind: str) -> list[str]:
        """The paths that were asked for, of `api`, `resolve` or `cdn`."""
        marks = {"api": "/api/", "resolve": "/resolve/", "cdn": "/cdn/"}
        return [path for _, path, _ in self.asked if marks[kind] in path]

    def commit(self, repo: str, revision: str) -> str | None:
        """The commit that a revision means."""
        known = self.repos.get(repo, {})
        return revision if revision in known else self.refs.get(repo, {}).get(revision)

    @contextmanager
    def running(self) -> Iterator[FakeHub]:
        """Served in a thread until the block ends."""
        thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.go_on.set()
            self.server.shutdown()
            self.server.server_close()
            thread.join()

    def environment(self, cache: Path) -> dict[str, str]:
        """For a child process that is to ask this hub."""
        return {
            "HF_ENDPOINT": self.endpoint, "HF_HOME": str(cache.parent), "HF_HUB_CACHE": str(cache), "HF_TOKEN": "",
            "HF_HUB_OFFLINE": "", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "",
        }  # fmt: skip

    def patch(self, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
        """Let this process ask this hub. huggingface_hub reads the environment when it is imported."""
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "ENDPOINT", self.endpoint)
        template = self.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        for name, value in self.environment(cache).items():
            monkeypatch.setenv(name, value)


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 0

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append((self.command, path, {name.lower(): value for name, value in self.headers.items()}))
            if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
                self._list(found[1], found[2] or "main")
            elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                self._resolve(found[1], found[2], found[3])
            elif found := re.fullmatch(r"/cdn/([^/]+/[^/]+)/([^/]+)/(.+)", path):
                self._give(found[3], hub.repos[found[1]][found[2]][found[3]])
            else:
                self._refuse(404, "EntryNotFound")

        do_HEAD = do_GET

        def _refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            if self.close_connection:  # said, so that no client sends its next request into a connection that closes
                self.send_header("Connection", "close")
            self.end_headers()

        def _commit(self, repo: str, revision: str) -> str | None:
            """The commit; None where the answer was a refusal."""
            wanted = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            if repo in hub.closed and not wanted:
                self._refuse(401, hub.closed[repo])
            elif repo not in hub.repos:
                self._refuse(404 if "Authorization" in self.headers else 401, "RepoNotFound")
            elif (commit := hub.commit(repo, revision)) is None:
                self._refuse(404, "RevisionNotFound")
            else:
                return commit
            return None

        def _list(self, repo: str, revision: str) -> None:
            if hub.listings and (status := hub.listings.pop(0)) != 200:
                self.close_connection = True
                return self._refuse(status, "") if status else None
            if (commit := self._commit(repo, revision)) is None:
                return
            siblings = []
            for path, data in hub.repos[repo][commit].items():
                large = {"sha256": sha256(data), "size": len(data), "pointerSize": 130}
                entry = {"rfilename": path, "size": len(data), "blobId": git_sha1(data)}
                siblings.append(entry if path in hub.in_git else {**entry, "lfs": large})
            answer = {"id": repo, "modelId": repo, "sha": commit, "private": False, "siblings": siblings}
            body = json.dumps(answer).encode() if hub.page is None else hub.page
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _resolve(self, repo: str, revision: str, path: str) -> None:
            if (commit := self._commit(repo, revision)) is None:
                return
            if (data := hub.repos[repo][commit].get(path)) is None:
                return self._refuse(404, "EntryNotFound")
            self.send_response(302)
            self.send_header("Location", f"{hub.cdn}/{repo}/{commit}/{path}?signature=secret")
            self.send_header("X-Repo-Commit", commit)
            self.send_header("X-Linked-Size", str(len(data)))
            self.send_header("X-Linked-ETag", f'"{sha256(data)}"')
            self.send_header("X-Xet-Hash", sha256(data)[::-1])
            self.send_header("X-Xet-Refresh-Route", f"/api/models/{repo}/xet-read-token/{commit}")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _give(self, path: str, data: bytes) -> None:
            if hub.answers:
                return self._refuse(hub.answers.pop(0), "")
            if path in hub.changed:
                data = bytes([data[0] ^ 1]) + data[1:]
            begin, found = 0, re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            if found and not hub.ignores_ranges:
                begin = int(found[1])
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(data) - begin))
            self.send_header("ETag", f'"{sha256(data)}"')
            self.end_headers()
            self._send(path, data[begin:])

        def _send(self, path: str, data: bytes) -> None:
            cut = hub.cuts.pop(0) if hub.cuts else None
            for at in range(0, len(data), PIECE):
                piece = data[at : at + PIECE]
                if hub.held_after is not None and at >= hub.held_after:
                    hub.held.set()
                    hub.go_on.wait()
                if cut is not None and at + len(piece) > cut:
                    piece, self.close_connection = piece[: cut - at], True
                try:
                    self.wfile.write(piece)
                except OSError:  # whoever asked has gone
                    self.close_connection = True
                    return
                hub.sent[path] += len(piece)
                if self.close_connection:
                    return

    return Handler
