"""Sealed texts: they come back as they were, or not at all."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.serve.responses.sealing import BadSeal, seal, unseal

KEY = b"k" * 32


@given(st.text(), st.text(max_size=8), st.text(max_size=8))
def test_a_text_comes_back(text: str, kind: str, tenant: str) -> None:
    """For the kind and the tenant that it was sealed for."""
    sealed = seal(KEY, kind, tenant, text)
    assert unseal(KEY, kind, tenant, sealed) == text
    for key, of, whose in ((b"x" * 32, kind, tenant), (KEY, kind + "x", tenant), (KEY, kind, tenant + "x")):
        with pytest.raises(BadSeal):
            unseal(key, of, whose, sealed)


@given(st.text(max_size=40), st.data())
def test_a_changed_one_is_refused(text: str, data: st.DataObject) -> None:
    """Whichever of its bits it is."""
    packed = bytearray(base64.urlsafe_b64decode(seal(KEY, "k", "t", text)))
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(BadSeal):
        unseal(KEY, "k", "t", base64.urlsafe_b64encode(packed).decode())


@given(st.text() | st.binary().map(lambda data: base64.urlsafe_b64encode(data).decode()))
def test_what_was_never_sealed_is_refused(sealed: str) -> None:
    """Whatever it is."""
    with pytest.raises(BadSeal):
        unseal(KEY, "k", "t", sealed)
