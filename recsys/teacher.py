"""The candidate sources as teachers of the text encoder."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recsys.retrieval.als import AlsSettings, AlsSource
from recsys.retrieval.base import FitData
from recsys.retrieval.neighbours import NeighboursSettings, NeighboursSource

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SourceTeacher:
    """A `features.teacher.Teacher`: the neighbours and the ALS source, fitted on those of `data`'s events that are of
    the users given.
    """

    data: FitData

    def neighbours(self, user_rows: I64, n: int) -> I64:
        """(n_items, n) item rows by falling cosine of their users, ties by row; -1 where there is no more."""
        settings = NeighboursSettings(num_neighbours=n + 1)  # implicit counts the item itself
        weights, num_items = NeighboursSource.fit(self._of(user_rows), settings).weights, self.data.num_items
        rows = np.repeat(np.arange(num_items), np.diff(weights.indptr))
        order = np.lexsort((weights.indices, -weights.data, rows))
        places = np.arange(len(rows)) - weights.indptr[rows]
        used = places < n
        out = np.full((num_items, n), -1, np.int64)
        out[rows[used], places[used]] = weights.indices[order[used]]
        return out

    def item_vectors(self, user_rows: I64) -> F32:
        """(n_items, factors) float32: ALS factors; zero rows for items of no user."""
        data = self._of(user_rows)
        factors = AlsSource.fit(data, AlsSettings()).item_factors
        touched = data.matrix.getnnz(axis=0) > 0
        return np.asarray(np.where(touched[:, None], factors, 0.0), np.float32)

    def _of(self, user_rows: I64) -> FitData:
        events = self.data.events
        return dataclasses.replace(self.data, events=events.select(np.isin(events.user_rows, user_rows)))
