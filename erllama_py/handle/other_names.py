"""What other libraries call a method of a model leads to ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from erllama_py.options.elsewhere import METHOD_INSTEAD


class OtherNames:
    """The base of handles: an attribute that is not there says what there is instead."""

    if not TYPE_CHECKING:  # checkers know the methods

        def __getattr__(self, name):
            """Raises `AttributeError`, as programs that look for a method expect."""
            text = f"{type(self).__name__!r} object has no attribute {name!r}"
            instead = METHOD_INSTEAD.get(name)
            raise AttributeError(f"{text}: {instead}" if instead else text, name=name, obj=self)
