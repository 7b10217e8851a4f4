"""What is wrong with a configuration file: one error, with the place in the file."""

from __future__ import annotations

import erllama_py as erllama


class ConfigError(erllama.ErllamaError):
    """A configuration file cannot be used.

    `place` is the path of a key (`"models[1].context_opts.n_ctx"`), or a line and a column where the text itself is
    wrong; empty where it is about the whole file. `nearest` is the known name that is closest to an unknown one.
    """

    file: str
    place: str
    problem: str
    nearest: str | None = None

    def describe(self) -> str:
        place = f"{self.place}: " if self.place else ""
        hint = f"; did you mean {self.nearest!r}?" if self.nearest else ""
        return f"{self.file}: {place}{self.problem}{hint}"
