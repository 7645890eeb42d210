"""Runs of equal values in sorted arrays: the flat form of "a list for each history"."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from features.tables import IntArray

S = TypeVar("S", bound=np.generic)
_FEW_PAIRS = 4096
"""Those of one request, or of a few: for 384 numbers each at most six megabytes."""


def run_starts(rows: IntArray) -> npt.NDArray[np.int64]:
    """Where each run of equal values begins."""
    new = np.ones(len(rows), bool)
    np.not_equal(rows[1:], rows[:-1], out=new[1:])
    return np.flatnonzero(new)


def run_lengths(rows: IntArray) -> npt.NDArray[np.int64]:
    """How long each run is."""
    return np.diff(np.append(run_starts(rows), len(rows)))


def rank_in_run(rows: IntArray) -> npt.NDArray[np.int64]:
    """0, 1, 2, ... within each run, (len(rows),)."""
    starts = run_starts(rows)
    return np.arange(len(rows)) - np.repeat(starts, np.diff(np.append(starts, len(rows))))


def ends(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Row pointers (len + 1,) of rows of these lengths."""
    out = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=out[1:])
    return out


def flat_rows(matrix: sp.csr_matrix, rows: IntArray) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Positions in `matrix.data` of all entries of `rows`, and which of `rows` each belongs to."""
    starts = matrix.indptr[rows].astype(np.int64)
    lengths = matrix.indptr[rows + 1] - starts
    segment = np.repeat(np.arange(len(rows)), lengths)
    before = np.cumsum(lengths) - lengths
    return np.arange(len(segment)) + (starts - before)[segment], segment


@dataclass(frozen=True)
class Pairs:
    """(history, item) pairs sorted by history: `query_rows` and `item_rows`, both (n_pairs,) int64."""

    query_rows: npt.NDArray[np.int64]
    item_rows: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.query_rows)

    @cached_property
    def starts(self) -> npt.NDArray[np.int64]:
        """Where each history's pairs begin; histories without pairs have none."""
        return run_starts(self.query_rows)

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """How many pairs each of those histories has."""
        return np.diff(np.append(self.starts, len(self)))

    def taken(self, array: npt.NDArray[S], span: slice) -> npt.NDArray[S]:
        """The rows of `array` (n_items, ...) of one of the `runs`. Of few pairs they are kept: several components ask
        for the same embeddings, and what lies about in a large array takes longer to fetch than to multiply.
        """
        if len(self) > _FEW_PAIRS:
            return array[self.item_rows[span]]
        key = id(array), span.start
        if key not in self._taken:
            self._taken[key] = array, array[self.item_rows[span]]
        rows: npt.NDArray[S] = self._taken[key][1]
        return rows

    @cached_property
    def _taken(self) -> dict[tuple[int, int], tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
        """With the arrays themselves, so that no other one gets the id."""
        return {}

    @cached_property
    def runs(self) -> list[tuple[int, slice]]:
        """Each history that has pairs, and where they stand."""
        starts, stops = self.starts.tolist(), (self.starts + self.lengths).tolist()
        rows = self.query_rows[self.starts].tolist()
        return [(row, slice(start, stop)) for row, start, stop in zip(rows, starts, stops, strict=True)]
