"""What comes next, by a small text-aware transformer over the newest items (SASRec, Kang and McAuley 2018).

It is trained in torch (`sequence_training`) and answers in numpy: one history takes well under a millisecond, nothing
of torch is loaded to serve, and a history is computed alone, so that its list depends on no other.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from features.grid import on_grid
from features.histories import Histories
from features.row_changes import RowChanges
from recsys.retrieval.base import FitData
from recsys.retrieval.nearest import NO_INDEX, NONE_MOVED, Bytes, Ints, Nearest, build_index, nearest, with_moved
from recsys.retrieval.scores import F32, InnerProductScores, Scores
from recsys.retrieval.sequence_settings import SequenceSettings

if TYPE_CHECKING:
    from recsys.retrieval.sequence_network import Network

_EPSILON = 1e-5
_GELU = float(np.sqrt(2 / np.pi))


@dataclass(frozen=True)
class SequenceSource:
    """`vectors` (n_items, size) float32 on the item grid, divided by `largest_norm`; zero rows for items of which
    nothing is known. They are `ids` (n_items, size), zero for items without events, plus the text's `text_projection`
    (text_size, size). The other arrays are the layers', the bias being the last row of each matrix and the norms'
    gains folded into what follows: `attend` (layers, size + 1, 3 size), `joined` (layers, size + 1, size), `wide`
    (layers, size + 1, 4 size), `narrow` (layers, 4 size + 1, size), `gap_bias` (layers, heads, max_tokens + 1),
    `norm` (2, size). `index` is what `build_index` made of the vectors then; `moved`: see `Nearest`.
    """

    name: ClassVar[str] = "sequence"
    vectors: npt.NDArray[np.float32]
    largest_norm: float
    ids: npt.NDArray[np.float32]
    text_projection: npt.NDArray[np.float32]
    attend: npt.NDArray[np.float32]
    joined: npt.NDArray[np.float32]
    wide: npt.NDArray[np.float32]
    narrow: npt.NDArray[np.float32]
    gap_bias: npt.NDArray[np.float32]
    norm: npt.NDArray[np.float32]
    index: Bytes = field(default_factory=lambda: NO_INDEX, repr=False, kw_only=True)
    moved: Ints = field(default_factory=lambda: NONE_MOVED, repr=False, kw_only=True)

    @classmethod
    def fit(cls, data: FitData, settings: SequenceSettings) -> Self:
        """Where nobody acted in two moments, all vectors are zero, and nothing is offered."""
        from recsys.retrieval.sequence_training import fit_network

        network = fit_network(data, settings)
        if network is None:
            return cls._silent(data.num_items, settings)
        ids, projection = network.parts(data.matrix.indices)
        vectors, largest = _gridded(ids, projection, data.embeddings)
        index = build_index(vectors, data.seed)
        return cls(vectors, largest, ids, projection, *_layers(network), index=index)

    @classmethod
    def _silent(cls, num_items: int, settings: SequenceSettings) -> Self:
        size, layers = settings.size, settings.layers

        def zeros(*shape: int) -> F32:
            return np.zeros(shape, np.float32)

        return cls(
            zeros(num_items, size), 1.0, zeros(num_items, size), zeros(0, size), zeros(layers, size + 1, 3 * size),
            zeros(layers, size + 1, size), zeros(layers, size + 1, 4 * size), zeros(layers, 4 * size + 1, size),
            zeros(layers, settings.heads, settings.max_tokens + 1), zeros(2, size),
        )  # fmt: skip

    def with_embeddings(self, embeddings: F32) -> Self:
        """The same model over other texts."""
        if not len(self.text_projection):
            return self
        vectors, largest = _gridded(self.ids, self.text_projection, embeddings)
        return dataclasses.replace(
            self, vectors=vectors, largest_norm=largest, index=build_index(vectors, 0), moved=NONE_MOVED
        )

    def with_rows(self, changes: RowChanges) -> Self:
        """See `features.row_changes`: a new item is its text alone; longer vectors are cut to norm 1."""
        ids = np.zeros((len(changes.rows), self.ids.shape[1]), np.float32)
        ids[~changes.new] = self.ids[changes.rows[~changes.new]]
        vectors = ids.astype(np.float64)
        if len(self.text_projection):
            vectors += changes.embeddings.astype(np.float64) @ self.text_projection.astype(np.float64)
        vectors /= self.largest_norm
        longest = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1.0)
        values = on_grid(vectors / longest, items=True)
        placed = changes.placed(self.vectors, values)
        moved = with_moved(self.moved, changes, self.vectors, placed)
        return dataclasses.replace(self, vectors=placed, ids=changes.placed(self.ids, ids), moved=moved)

    def scores(self, histories: Histories) -> dict[str, Scores]:
        """The logit of each item as the next one."""
        states = np.zeros((len(histories), self.vectors.shape[1]), np.float32)
        for row in range(len(histories)):
            rows, ago = self._tokens(histories, row)
            if len(rows):
                states[row] = self._state(rows, ago)
        norms = np.linalg.norm(states, axis=1)
        safe = np.where(norms > 0, norms, 1.0)
        queries = on_grid(states / safe[:, None], items=False)
        scale = (safe * self.largest_norm).astype(np.float32)
        if self._nearest is not None or len(self._known) == len(self.vectors):
            return {"": InnerProductScores(queries, self.vectors, scale, nearest=self._nearest)}
        return {"": InnerProductScores(queries, self.vectors, scale, self._known, self._known_vectors)}

    @cached_property
    def _nearest(self) -> Nearest | None:
        return nearest(self.index, self.moved)

    @cached_property
    def _known(self) -> npt.NDArray[np.int64]:
        return np.flatnonzero(self.vectors.any(axis=1))

    @cached_property
    def _known_vectors(self) -> F32:
        return self.vectors[self._known]

    def _tokens(self, histories: Histories, row: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The newest liked items that have a vector, oldest first, and how many moments ago each was."""
        touches = histories.last_touches
        span = slice(touches.indptr[row], touches.indptr[row + 1])
        rows, ago = touches.item_rows[span], touches.moments_ago[span]
        kept = (touches.weights[span] > 0) & self.vectors[rows].any(axis=1)
        limit = self.gap_bias.shape[2] - 1
        return rows[kept][-limit:], ago[kept][-limit:]

    def _state(self, rows: npt.NDArray[np.int64], ago: npt.NDArray[np.int64]) -> F32:
        """(size,) float32: the mean of the newest moment's states."""
        x = self.vectors[rows] * np.float32(self.largest_norm)
        gaps = np.minimum(np.maximum(ago[None, :] - ago[:, None], -1), self.gap_bias.shape[2] - 1) + 1
        newest = slice(int(np.searchsorted(-ago, -ago[-1])), len(ago))
        for layer in range(len(self.attend)):
            last = layer == len(self.attend) - 1
            x = self._block(layer, x, gaps, newest if last else slice(None))
        mean = (_standardised(x) * self.norm[0] + self.norm[1]).sum(axis=0) / len(x)
        return np.asarray(mean, np.float32)

    @cached_property
    def _bias(self) -> F32:
        """(layers, heads, max_tokens + 2): the bias by gap + 1; what comes later is never looked at."""
        return np.pad(self.gap_bias, ((0, 0), (0, 0), (1, 0)), constant_values=-np.inf)

    def _block(self, layer: int, x: F32, gaps: npt.NDArray[np.int64], wanted: slice) -> F32:
        """The layer's output for the tokens at `wanted`: of the last layer only the newest are needed. `gaps` (length,
        length): 1 + moments from one token to an earlier one, 0 to a later one.
        """
        length, size = x.shape
        heads = self.gap_bias.shape[1]
        parts = _linear(_standardised(x), self.attend[layer]).reshape(length, 3, heads, size // heads)
        query, key, value = parts.transpose(1, 2, 0, 3)
        weights = query[:, wanted] @ key.transpose(0, 2, 1) / np.float32(np.sqrt(size // heads))
        weights += self._bias[layer].take(gaps[wanted], axis=1)
        weights = np.exp(weights - weights.max(axis=2, keepdims=True))
        weights /= weights.sum(axis=2, keepdims=True)
        read = (weights @ value).transpose(1, 0, 2).reshape(-1, size)
        x = x[wanted] + _linear(read, self.joined[layer])
        return x + _linear(_gelu(_linear(_standardised(x), self.wide[layer])), self.narrow[layer])


def _gridded(ids: F32, projection: F32, text: F32 | None) -> tuple[F32, float]:
    """The items' vectors on the grid and the norm that they were divided by."""
    vectors = ids + text @ projection if text is not None and len(projection) else ids
    largest = float(np.linalg.norm(vectors, axis=1).max(initial=0.0)) or 1.0
    return on_grid(vectors / largest, items=True), largest


def _standardised(x: F32) -> F32:
    centred = x - x.mean(axis=1, keepdims=True)
    return np.asarray(centred / np.sqrt((centred * centred).mean(axis=1, keepdims=True) + np.float32(_EPSILON)))


def _linear(x: F32, weights: F32) -> F32:
    return np.asarray(x @ weights[:-1] + weights[-1])


def _gelu(x: F32) -> F32:
    """The tanh form (Hendrycks and Gimpel 2016)."""
    return np.asarray(x * np.float32(0.5) * (1 + np.tanh(np.float32(_GELU) * (x + np.float32(0.044715) * x * x * x))))


def _layers(network: Network) -> tuple[F32, ...]:
    """The blocks' arrays in the order of the source's fields, the norms' gains and shifts folded into what follows."""
    blocks: list[Any] = list(network.blocks)
    parts = (
        [_folded(block.attend, block.norm_attend) for block in blocks],
        [_folded(block.joined) for block in blocks],
        [_folded(block.wide, block.norm_wide) for block in blocks],
        [_folded(block.narrow) for block in blocks],
        [block.gap_bias.detach().numpy() for block in blocks],
        [network.norm.weight.detach().numpy(), network.norm.bias.detach().numpy()],
    )
    # One memory layout, before saving and after: another would take BLAS another way, to other last digits.
    return tuple(np.array(part, np.float32, order="C") for part in parts)


def _folded(linear: Any, norm: Any = None) -> npt.NDArray[np.float64]:
    """The layer's matrix with its bias as the last row, after the gain and the shift of the norm before it."""
    weights, shift = (part.detach().numpy().astype(np.float64) for part in (linear.weight.T, linear.bias))
    if norm is not None:
        gain, offset = norm.weight.detach().numpy(), norm.bias.detach().numpy()
        weights, shift = gain[:, None] * weights, shift + offset @ weights
    return np.vstack([weights, shift])
