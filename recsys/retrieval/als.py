"""Implicit-feedback matrix factorisation (Hu, Koren and Volinsky 2008), fitted by `implicit`; users are folded in
from their history, and items that nobody has touched get factors from their text.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field

from features.compiled import compiled, fixed
from features.grid import on_grid
from features.histories import Histories
from features.row_changes import RowChanges
from features.settings import Settings
from recsys.retrieval.base import FitData
from recsys.retrieval.nearest import (
    NO_INDEX,
    NONE_MOVED,
    Bytes,
    Ints,
    Nearest,
    build_index,
    nearest,
    with_moved,
    with_moved_rows,
)
from recsys.retrieval.projection import mapped, project_factors, with_text
from recsys.retrieval.scores import F32, InnerProductScores, Scores

Square = npt.NDArray[np.float64]


class AlsSettings(Settings):
    """Settings of the ALS source; a tuple of several values is chosen from on a held-out window."""

    factors: int = Field(default=64, ge=1)
    alpha: tuple[float, ...] = Field(default=(5.0, 30.0), min_length=1)
    """Confidence of an event of weight 1; an unseen pair has confidence 1."""
    regularization: float = 1.0
    iterations: int = Field(default=15, ge=1)
    half_life: tuple[float | None, ...] = Field(default=(None, 5.0), min_length=1)
    history_limit: int = Field(default=100, ge=1)
    from_text: bool = True
    """Items without events get the factors that their text predicts."""
    text_evidence: float = Field(default=0.0, ge=0)
    """How many events the text's prediction counts as for items that have some; 0: it counts for untouched ones only,
    which measured best (IFDB: .0655 NDCG@10 alone, .0631 with 1, .0568 with 10). What it was mixed into stays so until
    the next training, whatever the item's text says by then.
    """


@dataclass(frozen=True)
class AlsSource:
    """`item_factors` (n_items, factors) float32 on the item grid, divided by `largest_norm`; `gram` (factors,
    factors) float64, that of the items with events; `projection` (embedding_size, factors) float32 maps text
    embeddings to item factors, (0, factors) where there is nothing to learn it from; `untouched_rows` (n_untouched,)
    int64 are the items without events, which have the factors that their text predicts (empty in bundles that were
    written before it was kept); `index` is what `build_index` made of the item factors then; `moved`: see `Nearest`.
    """

    name: ClassVar[str] = "als"
    item_factors: npt.NDArray[np.float32]
    projection: npt.NDArray[np.float32]
    gram: npt.NDArray[np.float64]
    largest_norm: float
    alpha: float
    regularization: float
    half_life: float | None
    history_limit: int
    untouched_rows: Ints = field(default_factory=lambda: NONE_MOVED, repr=False, kw_only=True)
    index: Bytes = field(default_factory=lambda: NO_INDEX, repr=False, kw_only=True)
    moved: Ints = field(default_factory=lambda: NONE_MOVED, repr=False, kw_only=True)

    @classmethod
    def fit(cls, data: FitData, settings: AlsSettings) -> Self:
        """Without any event all factors are zero, and so are all scores."""
        users, factors = _factorise(data, settings)
        projection = project_factors(data, users, factors) if settings.from_text else None
        if projection is None:
            projection = np.zeros((0, settings.factors), np.float32)
        else:
            factors = with_text(data, factors, projection, settings.text_evidence)
        largest = float(np.linalg.norm(factors, axis=1).max()) or 1.0
        factors = on_grid(factors / largest, items=True)
        is_touched = data.matrix.getnnz(axis=0) > 0
        touched = factors[is_touched].astype(np.float64) * largest
        return cls(
            factors,
            projection,
            touched.T @ touched,
            largest,
            settings.alpha[0],
            settings.regularization,
            settings.half_life[0],
            settings.history_limit,
            untouched_rows=np.flatnonzero(~is_touched),
            index=build_index(factors, data.seed),
        )

    def project(self, embeddings: F32) -> F32:
        """Item factors (n, factors) as in `item_factors` for items that came after training, from their text embeddings
        (n, embedding_size); zero without text, or where `projection` is empty. Longer ones are cut to norm 1.
        """
        if not len(self.projection):
            return np.zeros((len(embeddings), self.item_factors.shape[1]), np.float32)
        factors = mapped(embeddings, self.projection) / self.largest_norm
        longest = np.maximum(np.linalg.norm(factors, axis=1, keepdims=True), 1.0)
        return on_grid(factors / longest, items=True)

    def with_embeddings(self, embeddings: F32) -> Self:
        """The same users and items over other texts: what nobody has touched gets the factors that these predict."""
        if not len(self.projection):
            return self
        factors = self.item_factors.copy()
        factors[self.untouched_rows] = self.project(embeddings[self.untouched_rows])
        moved = with_moved_rows(self.moved, self.untouched_rows, self.item_factors, factors)
        return dataclasses.replace(self, item_factors=factors, moved=moved)

    def with_rows(self, changes: RowChanges) -> Self:
        """See `features.row_changes`: what nobody has taken gets the factors that its text predicts."""
        values = self.project(changes.embeddings)
        taken = ~changes.untouched
        values[taken] = self.item_factors[changes.rows[taken]]
        factors = changes.placed(self.item_factors, values)
        moved = with_moved(self.moved, changes, self.item_factors, factors)
        untouched_rows = np.union1d(self.untouched_rows, changes.rows[changes.untouched])
        return dataclasses.replace(self, item_factors=factors, untouched_rows=untouched_rows, moved=moved)

    def scores(self, histories: Histories) -> dict[str, Scores]:
        """Predicted preference (about 0..1), from the history decayed by `half_life`, and undecayed."""
        out: dict[str, Scores] = {"": self._folded_in(histories, self.half_life)}
        other = 3.0 if self.half_life is None else None
        out["other"] = self._folded_in(histories, other)
        return out

    def _folded_in(self, histories: Histories, half_life: float | None) -> InnerProductScores:
        vectors = self.fold_in(histories, half_life)
        norms = np.linalg.norm(vectors, axis=1)
        safe = np.where(norms > 0, norms, 1.0)
        queries = on_grid((vectors / safe[:, None]).astype(np.float32), items=False)
        scale = (safe * self.largest_norm).astype(np.float32)
        return InnerProductScores(queries, self.item_factors, scale, nearest=self._nearest)

    @cached_property
    def _nearest(self) -> Nearest | None:
        return nearest(self.index, self.moved)

    def fold_in(self, histories: Histories, half_life: float | None) -> npt.NDArray[np.float64]:
        """User vectors (n, factors): the least-squares step of ALS for the history's items, zero for an empty
        history.
        """
        confidence = histories.weighted(half_life, self.history_limit)
        out = np.zeros((len(histories), self.item_factors.shape[1]))
        for row in range(len(histories)):
            span = confidence.span(row)
            if span.start == span.stop:
                continue
            own = fixed(confidence.data[span].astype(np.float64) * self.alpha)
            rows = fixed(confidence.indices[span])
            out[row] = _solved(*self._equations, fixed(self.item_factors), rows, own, self.largest_norm)
        return out

    @cached_property
    def _equations(self) -> tuple[Square, Square]:
        """The part of the normal equations that all users share, and its inverse."""
        base = np.asarray(self.gram + self.regularization * np.eye(len(self.gram)), np.float64)
        return fixed(base), fixed(np.asarray(np.linalg.inv(base), np.float64))


@compiled
def _solved(
    base: Square, inverse: Square, factors: F32, rows: Ints, confidence: npt.NDArray[np.float64], scale: float
) -> npt.NDArray[np.float64]:
    """(factors,): the user's vector of the items at `rows`. Of fewer items than factors the system of their own number
    is solved, to the same (Woodbury 1950).
    """
    wide = np.empty((len(rows), len(base)), np.float64)
    for k in range(len(rows)):
        wide[k] = factors[rows[k]]
    wide *= scale
    more = (confidence - 1).reshape(-1, 1)
    if len(rows) >= len(base):
        return np.linalg.solve(base + np.dot(wide.T, wide * more), np.dot(wide.T, confidence))
    reached = np.dot(wide, inverse)
    shares = np.linalg.solve(np.eye(len(rows)) + np.dot(reached, wide.T) * more, confidence)
    return np.asarray(np.dot(shares, reached))


def _factorise(data: FitData, settings: AlsSettings) -> tuple[F32, F32]:
    """User and item factors, float32; all zero without any event."""
    from implicit.cpu.als import AlternatingLeastSquares
    from threadpoolctl import threadpool_limits

    if not data.matrix.nnz:
        size = settings.factors
        return np.zeros((data.num_users, size), np.float32), np.zeros((data.num_items, size), np.float32)
    with threadpool_limits(1, "blas"):  # implicit's own threads and BLAS's would fight for the cores
        model = AlternatingLeastSquares(
            factors=settings.factors, regularization=settings.regularization, alpha=settings.alpha[0],
            iterations=settings.iterations, random_state=data.seed, num_threads=data.num_threads,
        )  # fmt: skip
        model.fit(data.matrix, show_progress=False)
    return np.asarray(model.user_factors, np.float32), np.asarray(model.item_factors, np.float32)
