"""Which decodes of a stub fail or hang on demand: see `StubOpts`. Each context counts its own."""

from __future__ import annotations

import threading

from erllama_py.engine.backend import BackendFailure
from erllama_py.options.stub import StubOpts


class StubDecodes:
    """The decodes of one context. `hung` is set while one of them hangs; `release` lets it go on."""

    def __init__(self, stub: StubOpts, hung: threading.Event, release: threading.Event) -> None:
        self.count = 0
        self._stub, self._hung, self._release = stub, hung, release

    def begin(self) -> None:
        """Another one. Raises `BackendFailure` where it is to fail."""
        stub = self._stub
        self.count += 1
        if stub.fail_decode_after is not None and self.count > stub.fail_decode_after:
            raise BackendFailure(f"the stub was told to fail after {stub.fail_decode_after} decodes")
        if stub.hang_decode_after is not None and self.count > stub.hang_decode_after:
            self._hung.set()
            self._release.wait()
