"""What comes next, by small text-aware models over the newest items: filters of the history, some of which also
attend to it (SASRec, Kang and McAuley 2018; BSARec, Shin et al. 2024).

They are trained in torch (`sequence_training`) and answer without it (`sequence_state`): a history of 20 items takes
two tenths of a millisecond, and is computed alone, so that its list depends on no other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from features.compiled import fixed
from features.grid import on_grid
from features.histories import Histories
from features.row_changes import RowChanges
from recsys.retrieval.base import FitData
from recsys.retrieval.nearest import NO_INDEX, NONE_MOVED, Bytes, Ints, Nearest, build_index, nearest, with_moved
from recsys.retrieval.scores import F32, InnerProductScores, Scores
from recsys.retrieval.sequence_settings import SequenceSettings
from recsys.retrieval.sequence_state import newest_states

if TYPE_CHECKING:
    from recsys.retrieval.sequence_network import Network


@dataclass(frozen=True)
class SequenceSource:
    """`vectors` (n_items, models * size) float32 on the item grid, each model's beside the last one's, all divided by
    `largest_norm`; zero rows for items of which nothing is known. They are `ids` (n_items, models * size), zero for
    items without events, plus the text's `text_projection` (text_size, models * size). The other arrays are the
    models' layers, the bias being the last row of each matrix and the norms' gains folded into what follows: `filters`
    (models, layers, gaps, size), `wide` (models, layers, size + 1, 4 size), `narrow` (models, layers, 4 size + 1,
    size), `norm` (models, 2, size) and, of the first models, those that attend, `attend` (attending, layers, size + 1,
    3 size), `joined` (attending, layers, size + 1, size), `gap_bias` (attending, layers, heads, max_tokens + 1).
    `index` is what `build_index` made of the vectors then; `moved`: see `Nearest`.
    """

    name: ClassVar[str] = "sequence"
    vectors: npt.NDArray[np.float32]
    largest_norm: float
    ids: npt.NDArray[np.float32]
    text_projection: npt.NDArray[np.float32]
    filters: npt.NDArray[np.float32]
    wide: npt.NDArray[np.float32]
    narrow: npt.NDArray[np.float32]
    norm: npt.NDArray[np.float32]
    attend: npt.NDArray[np.float32]
    joined: npt.NDArray[np.float32]
    gap_bias: npt.NDArray[np.float32]
    index: Bytes = field(default_factory=lambda: NO_INDEX, repr=False, kw_only=True)
    moved: Ints = field(default_factory=lambda: NONE_MOVED, repr=False, kw_only=True)

    @classmethod
    def fit(cls, data: FitData, settings: SequenceSettings) -> Self:
        """Where nobody acted in two moments, all vectors are zero, and nothing is offered."""
        from recsys.retrieval.sequence_training import fit_networks

        networks = fit_networks(data, settings)
        if not networks:
            return cls._silent(data.num_items, settings)
        known = data.matrix.indices
        ids, projection = map(np.hstack, zip(*(network.parts(known) for network in networks), strict=True))
        projection = data.of_embeddings(projection)
        vectors, largest = _gridded(ids, projection, data.embeddings)
        layers = (*_layers(networks), *_attention(networks, settings))
        return cls(vectors, largest, ids, projection, *layers, index=build_index(vectors, data.seed))

    @classmethod
    def _silent(cls, num_items: int, settings: SequenceSettings) -> Self:
        models, layers, size = settings.models, settings.layers, settings.size

        def zeros(*shape: int) -> F32:
            return np.zeros(shape, np.float32)

        vectors = zeros(num_items, models * size)
        return cls(
            vectors, 1.0, vectors, zeros(0, models * size), zeros(models, layers, settings.filter_gaps, size),
            zeros(models, layers, size + 1, 4 * size), zeros(models, layers, 4 * size + 1, size),
            zeros(models, 2, size), *_attention([], settings),
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
        """The logit of each item as the next one, by all models together."""
        states = np.zeros((len(histories), self.vectors.shape[1]), np.float32)
        for row in range(len(histories)):
            vectors, ago = self._tokens(histories, row)
            if len(vectors):
                states[row] = newest_states(vectors * np.float32(self.largest_norm), fixed(ago), *self._fixed)
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

    def _tokens(self, histories: Histories, row: int) -> tuple[F32, npt.NDArray[np.int64]]:
        """The vectors of the newest liked items that have one, oldest first, and how many moments ago each was. As in
        training (`Sequences`), an item stands where it was first liked, and a moment that holds no such item is none.
        """
        touches = histories.last_touches
        span = slice(touches.indptr[row], touches.indptr[row + 1])
        vectors, first_ago = self.vectors[touches.item_rows[span]], touches.first_ago[span]
        kept = np.flatnonzero((touches.weights[span] > 0) & vectors.any(axis=1))
        kept = kept[np.lexsort((touches.item_rows[span][kept], -first_ago[kept]))]
        ago = np.unique(first_ago[kept], return_inverse=True)[1].astype(np.int64)
        newest = max(0, len(kept) - self.gap_bias.shape[-1] + 1)
        return vectors[kept[newest:]], ago[newest:]

    @cached_property
    def _fixed(self) -> tuple[F32, ...]:
        layers = self.filters, self.wide, self.narrow, self.norm, self.attend, self.joined, self.gap_bias
        return tuple(map(fixed, layers))


def _gridded(ids: F32, projection: F32, text: F32 | None) -> tuple[F32, float]:
    """The items' vectors on the grid and the norm that they were divided by."""
    vectors = ids + text @ projection if text is not None and len(projection) else ids
    largest = float(np.linalg.norm(vectors, axis=1).max(initial=0.0)) or 1.0
    return on_grid(vectors / largest, items=True), largest


def _layers(networks: Sequence[Network]) -> Iterator[F32]:
    """The arrays that every model has, in the order of the source's fields, the norms' gains and shifts folded into
    what follows.
    """
    blocks: list[list[Any]] = [list(network.blocks) for network in networks]
    yield _stacked([[block.filter.weight.detach().numpy() for block in own] for own in blocks])
    yield _stacked([[_folded(block.wide, block.norm_wide) for block in own] for own in blocks])
    yield _stacked([[_folded(block.narrow) for block in own] for own in blocks])
    yield _stacked([
        [network.norm.weight.detach().numpy(), network.norm.bias.detach().numpy()] for network in networks
    ])  # fmt: skip


def _attention(networks: Sequence[Network], settings: SequenceSettings) -> Iterator[F32]:
    """The arrays of those that attend, in the order of the source's fields; of no rows where none does."""
    layers, heads, size = settings.layers, settings.heads, settings.size
    each: list[list[Any]] = [
        [block.attention for block in own]
        for own in ([*network.blocks] for network in networks)
        if own[0].attention is not None
    ]
    yield _stacked([[_folded(a.attend, a.norm) for a in own] for own in each], layers, size + 1, 3 * size)
    yield _stacked([[_folded(a.joined) for a in own] for own in each], layers, size + 1, size)
    gaps = settings.max_tokens + 1
    yield _stacked([[a.gap_bias.detach().numpy() for a in own] for own in each], layers, heads, gaps)


def _stacked(parts: Sequence[Sequence[Any]], *shape: int) -> F32:
    """(n_models, *shape): in one memory layout, before saving and after; another would take BLAS another way, to other
    last digits.
    """
    return np.array(parts, np.float32, order="C") if parts else np.zeros((0, *shape), np.float32)


def _folded(linear: Any, norm: Any = None) -> npt.NDArray[np.float64]:
    """The layer's matrix with its bias as the last row, after the gain and the shift of the norm before it."""
    weights, shift = (part.detach().numpy().astype(np.float64) for part in (linear.weight.T, linear.bias))
    if norm is not None:
        gain, offset = norm.weight.detach().numpy(), norm.bias.detach().numpy()
        weights, shift = gain[:, None] * weights, shift + offset @ weights
    return np.vstack([weights, shift])
