"""Implicit-feedback matrix factorisation (Hu, Koren and Volinsky 2008), fitted by `implicit`; users are folded in
from their history.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field

from features.grid import on_grid
from features.histories import Histories
from features.settings import Settings
from recsys.retrieval.base import FitData
from recsys.retrieval.scores import InnerProductScores, Scores


class AlsSettings(Settings):
    """Settings of the ALS source; a tuple of several values is chosen from on a held-out window."""

    factors: int = Field(default=64, ge=1)
    alpha: tuple[float, ...] = Field(default=(5.0, 30.0), min_length=1)
    """Confidence of an event of weight 1; an unseen pair has confidence 1."""
    regularization: float = 1.0
    iterations: int = Field(default=15, ge=1)
    half_life: tuple[float | None, ...] = Field(default=(None, 5.0), min_length=1)
    history_limit: int = Field(default=100, ge=1)


@dataclass(frozen=True)
class AlsSource:
    """`item_factors` (n_items, factors) float32 on the item grid, divided by `largest_norm`; `gram` (factors,
    factors) float64.
    """

    name: ClassVar[str] = "als"
    item_factors: npt.NDArray[np.float32]
    gram: npt.NDArray[np.float64]
    largest_norm: float
    alpha: float
    regularization: float
    half_life: float | None
    history_limit: int

    @classmethod
    def fit(cls, data: FitData, settings: AlsSettings) -> Self:
        """Without any event all factors are zero, and so are all scores."""
        from implicit.cpu.als import AlternatingLeastSquares
        from threadpoolctl import threadpool_limits

        if not data.matrix.nnz:
            zeros = np.zeros((data.num_items, settings.factors), np.float32)
            return cls(
                zeros, np.zeros((settings.factors,) * 2), 1.0, settings.alpha[0], settings.regularization,
                settings.half_life[0], settings.history_limit,
            )  # fmt: skip
        with threadpool_limits(1, "blas"):  # implicit's own threads and BLAS's would fight for the cores
            model = AlternatingLeastSquares(
                factors=settings.factors, regularization=settings.regularization, alpha=settings.alpha[0],
                iterations=settings.iterations, random_state=data.seed, num_threads=data.num_threads,
            )  # fmt: skip
            model.fit(data.matrix, show_progress=False)
        factors = np.asarray(model.item_factors, np.float32)
        largest = float(np.linalg.norm(factors, axis=1).max()) or 1.0
        factors = on_grid(factors / largest, items=True)
        wide = factors.astype(np.float64) * largest
        return cls(
            factors,
            wide.T @ wide,
            largest,
            settings.alpha[0],
            settings.regularization,
            settings.half_life[0],
            settings.history_limit,
        )

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
        return InnerProductScores(queries, self.item_factors, (safe * self.largest_norm).astype(np.float32))

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
            c = confidence.data[span].astype(np.float64) * self.alpha
            wide = self.item_factors[confidence.indices[span]].astype(np.float64) * self.largest_norm
            out[row] = np.linalg.solve(self._base + wide.T @ (wide * (c - 1)[:, None]), wide.T @ c)
        return out

    @cached_property
    def _base(self) -> npt.NDArray[np.float64]:
        """The part of the normal equations that all users share."""
        return np.asarray(self.gram + self.regularization * np.eye(len(self.gram)))
