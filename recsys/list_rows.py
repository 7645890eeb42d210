"""Lists and right answers as rows of the catalogue: what an evaluation's further figures are counted on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Self

import numpy as np
import numpy.typing as npt

from features.runs import Pairs
from features.tables import IdIndex

ABSENT = -1
"""Past the end of a short list, or an item that the catalogue does not hold."""


@dataclass(frozen=True)
class ListRows:
    """One system's lists: `item_rows` (n_queries, width) int32, best first, `ABSENT` where there is no item; `scores`
    (n_queries, width) float64, NaN there, None for a system whose scores nobody is shown.
    """

    item_rows: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float64] | None = None

    @classmethod
    def of(
        cls,
        lists: Sequence[Sequence[str]],
        items: IdIndex,
        width: int,
        scores: Sequence[Sequence[float]] | None = None,
    ) -> Self:
        """The first `width` of each list's ids, and of its scores."""
        inside = np.arange(width) < np.array([len(ids) for ids in lists], np.int64)[:, None]
        item_rows = np.full(inside.shape, ABSENT, np.int32)
        item_rows[inside] = items.rows(list(chain.from_iterable(ids[:width] for ids in lists)))
        if scores is None:
            return cls(item_rows)
        values = np.full(inside.shape, np.nan)
        values[inside] = list(chain.from_iterable(own[:width] for own in scores))
        return cls(item_rows, values)

    def __len__(self) -> int:
        return len(self.item_rows)

    def found(self, truth: Pairs, num_items: int) -> npt.NDArray[np.int64]:
        """(n_queries, width): which of `truth` stands at that position, `ABSENT` where none does."""
        if not len(truth):
            return np.full(self.item_rows.shape, ABSENT, np.int64)
        known = truth.query_rows * num_items + truth.item_rows
        keys = np.arange(len(self))[:, None] * num_items + self.item_rows
        place = np.minimum(np.searchsorted(known, keys), len(known) - 1)
        return np.where((known[place] == keys) & (self.item_rows != ABSENT), place, ABSENT)


def pairs_of(queries: Sequence[Iterable[str]], items: IdIndex) -> Pairs:
    """The distinct known items of each query, as pairs sorted by query and item row."""
    distinct = [set(ids) for ids in queries]
    item_rows = items.rows(list(chain.from_iterable(distinct)))
    query_rows = np.repeat(np.arange(len(distinct)), np.array([len(ids) for ids in distinct], np.int64))
    known = item_rows != ABSENT
    keys = np.unique(query_rows[known] * len(items) + item_rows[known])
    return Pairs(*np.divmod(keys, max(len(items), 1)))
