"""A set of items for each of n histories, as flat arrays: what was seen, what must not be shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from features.runs import ends
from features.tables import BoolArray, IntArray


@dataclass(frozen=True)
class ItemSets:
    """History q's items are `item_rows[indptr[q]:indptr[q + 1]]`, ascending and distinct; both arrays int64."""

    indptr: npt.NDArray[np.int64]
    item_rows: npt.NDArray[np.int64]

    @classmethod
    def of(cls, rows: Sequence[IntArray]) -> Self:
        """From one array of item rows a history, in any order, with or without repeats."""
        distinct = [np.unique(own) for own in rows]
        joined = np.concatenate([np.empty(0, np.int64), *distinct]).astype(np.int64)
        return cls(ends(np.array([len(own) for own in distinct], np.int64)), joined)

    @classmethod
    def empty(cls, n: int) -> Self:
        """`n` sets without any item."""
        return cls(np.zeros(n + 1, np.int64), np.empty(0, np.int64))

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def row(self, query_row: int | np.integer) -> npt.NDArray[np.int64]:
        """The items of one history."""
        return self.item_rows[self.indptr[query_row] : self.indptr[query_row + 1]]

    def holds(self, query_row: int | np.integer, item_rows: IntArray) -> BoolArray:
        """(len(item_rows),) which of the items are in one history's set."""
        own = self.row(query_row)
        if not len(own):
            return np.zeros(len(item_rows), bool)
        return np.asarray(own[np.minimum(np.searchsorted(own, item_rows), len(own) - 1)] == item_rows)
