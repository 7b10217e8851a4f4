"""What `embed` and `rerank` give back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from erllama_py.results.plain import Result

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

    Vectors = NDArray[float32]
else:
    Vectors = Any


class Embeddings(Result, frozen=True, kw_only=True, eq=False):
    """The vectors of the inputs of one `embed`, in their order. `numpy.asarray` of it gives the array."""

    vectors: Vectors
    """A float32 array with a row for each input; with `pooling="none"` one without rows."""
    token_vectors: tuple[Vectors, ...] = ()
    """With `pooling="none"`: of each input an array with a row for each of its tokens."""
    token_counts: tuple[int, ...]
    """Tokens of each input that were computed, control tokens that the model wants included."""
    truncated: tuple[bool, ...]
    """Of each input, whether a part of it was cut off."""
    pooling: Literal["mean", "cls", "last", "none"]
    """How vectors of tokens became those of texts."""

    @property
    def vector(self) -> Vectors:
        """That of the only input. Raises `ValueError` where there are several."""
        if len(self) != 1:
            raise ValueError(f"there are {len(self)} vectors, not one: see vectors")
        only: Vectors = self[0]
        return only

    def __len__(self) -> int:
        return len(self.token_counts)

    def __iter__(self) -> Iterator[Vectors]:
        return iter(self.token_vectors or self.vectors)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, str):
            return super().__getitem__(index)
        return self.token_vectors[index] if self.token_vectors else self.vectors[index]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        if self.token_vectors:
            raise ValueError("texts of several lengths are no one array: see token_vectors")
        array = self.vectors if dtype is None else self.vectors.astype(dtype)
        return array.copy() if copy else array

    def __repr__(self) -> str:
        return f"<Embeddings of {len(self)} inputs, {sum(self.token_counts)} tokens, pooling {self.pooling!r}>"


class RankedDocument(Result, frozen=True):
    """One document of a `Ranking`."""

    index: int
    """Which of the documents that were given it is."""
    score: float
    """How well it answers the query: higher is better. Comparable with others of one model and method alone."""
    document: str | list[int]
    """The document as it was given."""
    tokens: int = 0
    """Tokens that were computed for it."""
    truncated: bool = False
    """Whether a part of it was cut off."""


class Ranking(Result, frozen=True):
    """The documents of one `rerank`, the best first; equals in the order in which they were given."""

    documents: tuple[RankedDocument, ...]
    """All of them, or the best `top_n`."""
    method: Literal["model", "embeddings", "score"]
    """What scored them."""

    @property
    def order(self) -> list[int]:
        """The indices of the documents, the best first."""
        return [one.index for one in self.documents]

    def __len__(self) -> int:
        return len(self.documents)

    def __iter__(self) -> Iterator[RankedDocument]:
        return iter(self.documents)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, str):
            return super().__getitem__(place)
        return self.documents[place]
