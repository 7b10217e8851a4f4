"""Files over HTTP: uploaded in pieces, listed, read back, deleted; of each tenant by itself."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiofiles
import httpx
import openai
import pytest
from helpers.batches import jsonl, line, serving, upload
from helpers.listening import listening
from hypothesis import given
from hypothesis import strategies as st
from openai.types import FileObject

from erllama_py.serve.access import AccessOpts, KeyOpts, make_key
from erllama_py.serve.batches.forms import BadForm, Form

pytestmark = pytest.mark.anyio
DATA = jsonl(line(number) for number in range(3))
BOUNDARY = {"content-type": "multipart/form-data; boundary=xyz"}
KEYS = [make_key() for _ in range(2)]
ACCESS = AccessOpts(keys=tuple(KeyOpts(name=name, hash=key[1]) for name, key in zip("ab", KEYS, strict=True)))


def part(name: str, data: bytes, filename: str | None = None) -> bytes:
    """A part of a form."""
    more = "" if filename is None else f'; filename="{filename}"'
    return f'--xyz\r\ncontent-disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + data + b"\r\n"


def form(data: bytes = DATA, purpose: bytes = b"batch") -> bytes:
    """A whole form."""
    return part("purpose", purpose) + part("file", data, "in.jsonl") + b"--xyz--\r\n"


def found(folder: Path, pattern: str) -> list[Path]:
    """What there is."""
    return list(folder.glob(pattern))


def mode(path: Path) -> str:
    """Who may use a folder."""
    return oct(path.stat().st_mode)[-3:]


@pytest.mark.slow
async def test_the_sdk_uploads_lists_reads_and_deletes() -> None:
    """Over a real server; what it gets are its own types."""
    async with (
        serving() as at,
        listening(at.app) as address,
        openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as sdk,
    ):
        made = await sdk.files.create(file=("a.jsonl", DATA), purpose="batch")
        FileObject.model_validate(made.to_dict(), strict=True)
        assert (made.bytes, made.filename, made.purpose, made.status) == (len(DATA), "a.jsonl", "batch", "processed")
        hour: Any = {"anchor": "created_at", "seconds": 3600}
        other = await sdk.files.create(file=("b.jsonl", b"{}"), purpose="batch", expires_after=hour)
        assert (made.expires_at, other.expires_at) == (None, other.created_at + 3600)
        assert [one.id async for one in sdk.files.list()] == [other.id, made.id]
        assert [one.id async for one in sdk.files.list(order="asc", limit=1)] == [made.id, other.id]
        assert [one.id async for one in sdk.files.list(purpose="batch_output")] == []
        assert await sdk.files.retrieve(made.id) == made
        assert (await sdk.files.content(made.id)).content == DATA
        assert (await sdk.files.delete(made.id)).deleted
        with pytest.raises(openai.NotFoundError, match="no file"):
            await sdk.files.retrieve(made.id)
        with pytest.raises(openai.BadRequestError, match="purpose"):
            await sdk.files.create(file=("c.jsonl", DATA), purpose="fine-tune")
        for wrong in ({"seconds": 3599}, {"anchor": "last_active_at"}):
            never: Any = {**hour, **wrong}
            with pytest.raises(openai.BadRequestError, match="expires_after"):
                await sdk.files.create(file=("c.jsonl", DATA), purpose="batch", expires_after=never)


async def test_a_file_goes_to_the_disk_as_it_comes(tmp_path: Path) -> None:
    """It is never in memory as a whole, and not there before all of it is."""
    sizes = list[int]()
    pieces, piece = 16, os.urandom(1 << 16)

    async def body() -> AsyncIterator[bytes]:
        yield part("file", piece, "in.jsonl")[:-2]
        for _ in range(pieces - 1):
            await asyncio.sleep(0)
            sizes.extend(path.stat().st_size for path in found(tmp_path, "*/*.data"))
            yield piece
        yield b"\r\n" + part("purpose", b"batch") + b"--xyz--\r\n"

    async with serving(files_directory=tmp_path) as at:
        scope: Any = {
            "type": "http", "method": "POST", "path": "/v1/files", "query_string": b"", "client": ("127.0.0.1", 1),
            "headers": [(b"content-type", BOUNDARY["content-type"].encode()), (b"host", b"localhost")],
        }  # fmt: skip
        coming, sent = body(), list[Any]()

        async def receive() -> Any:
            data = await anext(coming, None)
            return {"type": "http.request", "body": data or b"", "more_body": data is not None}

        async def send(message: Any) -> None:
            sent.append(message)

        await at.app(scope, receive, send)
        assert sent[0]["status"] == 200, sent
        assert len(sizes) >= pieces - 2
        assert sizes == sorted(sizes)
        assert sizes[-1] > sizes[0]
        (made,) = (await at.client.get("/v1/files")).json()["data"]
        content = (await at.client.get(f"/v1/files/{made['id']}/content")).content
        assert content == piece * pieces


@pytest.mark.parametrize(
    ("body", "headers", "what"),
    [
        (b"{}", {"content-type": "application/json"}, "a form is expected"),
        (b"", {}, "a form is expected"),
        (form(), {"content-type": "multipart/form-data"}, "a form is expected"),
        (b"nothing of a form", BOUNDARY, "damaged"),
        (form()[:-40], BOUNDARY, "ends in the middle"),
        (b"", BOUNDARY, "ends in the middle"),
        (part("purpose", b"batch") + b"--xyz--\r\n", BOUNDARY, "no file"),
        (part("file", b"a", "a") + form(), BOUNDARY, "one file"),
        (part("file", b"a", "a") + b"--xyz--\r\n", BOUNDARY, "purpose: files are taken for 'batch'"),
        (form(purpose=b"assistants"), BOUNDARY, "not 'assistants'"),
        (part("purpose", b"x" * 2000) + form(), BOUNDARY, "at most 1024 bytes"),
        (part("a", b"") * 20 + form(), BOUNDARY, "at most 16 parts"),
    ],
)
async def test_a_form_that_is_none_is_refused(
    tmp_path: Path, body: bytes, headers: dict[str, str], what: str
) -> None:  # fmt: skip
    """With a sentence, and nothing of it is left."""
    async with serving(files_directory=tmp_path) as at:
        answer = await at.client.post("/v1/files", content=body, headers=headers)
        assert answer.status_code == 400, answer.text
        assert what in answer.json()["error"]["message"]
        assert (await at.client.get("/v1/files")).json()["data"] == []
        assert found(tmp_path, "*/*") == []


def taken(data: bytes, size: int) -> tuple[bytes, Form]:
    """The file in a form that comes in pieces of a size, and the form."""
    form = Form(BOUNDARY["content-type"])
    read = b"".join([form.feed(data[at : at + size]) for at in range(0, len(data), size)])
    form.end()
    return read, form


@given(st.binary(max_size=400).filter(lambda data: b"\r\n--xyz" not in data), st.integers(1, 60))
def test_a_form_is_read_in_any_pieces(data: bytes, size: int) -> None:
    """The file to the letter, whatever is in it."""
    read, whole = taken(form(data), size)
    assert (read, whole.fields, whole.filename) == (data, {"purpose": "batch"}, "in.jsonl")


@given(st.binary(max_size=300), st.integers(1, 60))
def test_what_is_no_form_is_said_to_be_none(data: bytes, size: int) -> None:
    """Whatever comes: bytes at random are no form with a file."""
    with pytest.raises(BadForm, match=r"\w"):
        taken(data, size)


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"max_file_bytes": 100}, "file_too_large"),
        ({"max_files_bytes": len(DATA) + 100}, "storage_full"),
        ({"max_files": 1}, "too_many_files"),
    ],
)
async def test_a_tenant_keeps_no_more_than_it_may(tmp_path: Path, settings: Any, code: str) -> None:
    """413, with a word for it; what is deleted makes room."""
    async with serving(settings=settings, files_directory=tmp_path) as at:
        first = await upload(at.client, DATA)
        if code == "file_too_large":
            assert (await upload(at.client, b"x" * 100)).status_code == 200
        else:
            assert first.status_code == 200
        full = first if code == "file_too_large" else await upload(at.client, DATA)
        assert full.status_code == 413, full.text
        assert full.json()["error"]["code"] == code
        assert len(found(tmp_path, "*/*.data")) == 1
        if code != "file_too_large":
            await at.client.delete(f"/v1/files/{first.json()['id']}")
            assert (await upload(at.client, DATA)).status_code == 200


async def test_what_is_known_to_be_too_large_is_not_read() -> None:
    """By its length, before any of it."""
    async with serving(settings={"max_file_bytes": 1000}) as at:
        answer = await upload(at.client, b"x" * 100_000)
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "file_too_large"


async def test_a_full_disk_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """507; what was written of it is gone."""
    real = aiofiles.open

    async def opened(*given: Any, **how: Any) -> Any:
        file = await real(*given, **how)

        async def write(data: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        file.write = write
        return file

    async with serving(files_directory=tmp_path) as at:
        await at.client.get("/v1/files")
        monkeypatch.setattr(aiofiles, "open", opened)
        answer = await upload(at.client, DATA)
        assert answer.status_code == 507
        assert answer.json()["error"]["code"] == "disk_full"
        assert found(tmp_path, "*/*") == []


async def test_tenants_see_their_own_alone(tmp_path: Path) -> None:
    """A file of another is not there: not to be listed, read, deleted, or made a batch of."""
    async with serving(access=ACCESS, files_directory=tmp_path) as at:
        mine, others = ({"authorization": f"Bearer {key}"} for key, _ in KEYS)
        made = (await upload(at.client, DATA, headers=mine)).json()
        path = f"/v1/files/{made['id']}"
        assert (await at.client.get("/v1/files", headers=others)).json()["data"] == []
        for method, url in (("GET", path), ("GET", f"{path}/content"), ("DELETE", path)):
            assert (await at.client.request(method, url, headers=others)).status_code == 404
            assert (await at.client.request(method, url)).status_code == 401
        ask = {"input_file_id": made["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        assert (await at.client.post("/v1/batches", json=ask, headers=others)).status_code == 404
        batch = (await at.client.post("/v1/batches", json=ask, headers=mine)).json()
        for method, url in (("GET", f"/v1/batches/{batch['id']}"), ("POST", f"/v1/batches/{batch['id']}/cancel")):
            assert (await at.client.request(method, url, headers=others)).status_code == 404
        assert (await at.client.get("/v1/batches", headers=others)).json()["data"] == []
        assert (await at.client.get(path, headers=mine)).json() == made


async def test_files_outlive_the_process(tmp_path: Path) -> None:
    """In a directory; what was half-received is gone, and what others put there is left alone."""
    async with serving(files_directory=tmp_path) as at:
        made = (await upload(at.client, DATA)).json()
        folder = found(tmp_path, "*/*.data")[0].parent
    (folder / "file-00000000000000000000000000000000.data").write_bytes(b"half")
    (folder / "note.txt").write_text("mine")
    (folder / "file-00000000000000000000000000000001.json").write_text("{")
    async with serving(files_directory=tmp_path) as at:
        assert (await at.client.get("/v1/files")).json()["data"] == [made]
        assert (await at.client.get(f"/v1/files/{made['id']}/content")).content == DATA
        found(tmp_path, "*/*.data")[0].unlink()
        gone = await at.client.get(f"/v1/files/{made['id']}/content")
        assert gone.status_code == 404
    assert sorted(one.suffix for one in found(folder, "*")) == [".json", ".txt"]
    assert mode(folder) == mode(tmp_path) == "700"


async def test_without_a_directory_nothing_outlives_the_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Files are in a temporary directory, which is gone at the end."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    async with serving() as at:
        assert found(tmp_path, "*") == []
        await upload(at.client, DATA)
        assert len(found(tmp_path, "erllama-files-*/*/*.data")) == 1
    assert found(tmp_path, "*") == []


async def test_two_processes_do_not_use_one_directory(tmp_path: Path) -> None:
    """The second is told so, and goes on when the first is over."""
    async with serving(files_directory=tmp_path) as first:
        made = (await upload(first.client, DATA)).json()
        async with serving(files_directory=tmp_path) as second:
            refused = await second.client.get("/v1/files")
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "files_in_use"
            assert int(refused.headers["retry-after"]) > 0
    async with serving(files_directory=tmp_path) as at:
        assert (await at.client.get("/v1/files")).json()["data"] == [made]


async def test_a_directory_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    """The rest of the server goes on."""
    (tmp_path / "file").write_text("")
    async with serving(files_directory=tmp_path / "file" / "files") as at:
        answer = await upload(at.client, DATA)
        assert answer.status_code == 507
        assert str(tmp_path) not in answer.text
        assert (await at.client.get("/v1/models")).status_code == 200


@pytest.mark.parametrize("query", ["limit=0", "limit=a", "limit=99999", "order=up", "after=file-1"])
async def test_a_page_that_makes_no_sense_is_refused(query: str) -> None:
    """With the name of what is wrong."""
    async with serving() as at:
        answer: httpx.Response = await at.client.get(f"/v1/files?{query}")
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == query.partition("=")[0]
