"""Row changes: items that are new or say something else now, for the fitted components to follow.

Each component that has a row an item has a method `with_rows(changes)`, which returns it as it is over the changed
catalogue. What was learned from behaviour stays: an item that came after training has none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse as sp

from features.room import Room
from features.runs import ends, flat_rows
from features.tables import BoolArray

F32 = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RowChanges:
    """k rows of a catalogue of `num_items`, of which `num_before` were there before; the rows behind those are all
    among them.

    `rows` (k,) int64 ascending; `frame`: their columns, as `Catalogue.frame` has them; `all_ids` (num_items,);
    `embeddings` (k, embedding_size) float32 on the item grid, (k, 0) without text; `attributes` (k, num_values) and
    `affinities` (k, num_pair_values) CSR float32: rows of `features.attributes` and of `features.pair`; `untouched`
    (k,) bool: nobody has taken the item, as far as the model knows; `categories` (num_items,): codes of the items'
    first categories, empty where no component asks for them.
    """

    rows: Ints
    num_before: int
    num_items: int
    all_ids: npt.NDArray[np.object_]
    frame: pd.DataFrame
    embeddings: F32
    attributes: sp.csr_matrix
    affinities: sp.csr_matrix
    untouched: BoolArray
    room: Room
    categories: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    _placed: dict[int, tuple[F32, F32]] = field(default_factory=dict)

    @property
    def new(self) -> BoolArray:
        """(k,) which of the rows were not there before."""
        return np.asarray(self.rows >= self.num_before)

    @property
    def ids(self) -> npt.NDArray[np.object_]:
        """The rows' ids, (k,)."""
        return self.all_ids[self.rows]

    @property
    def num_new(self) -> int:
        """How many were not there before."""
        return self.num_items - self.num_before

    def written(self, array: npt.NDArray[Any], values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A copy of `array` (num_before, ...) with `values` (k, ...) at the rows."""
        out = np.empty((self.num_items, *array.shape[1:]), array.dtype)
        out[: self.num_before] = array
        out[self.rows] = values
        return out

    def lengthened(self, array: npt.NDArray[Any], value: float) -> npt.NDArray[Any]:
        """A copy of `array` (num_before, ...) with `value` in every new row."""
        behind = np.full((self.num_new, *array.shape[1:]), value, array.dtype)
        return np.concatenate([array, behind])

    def placed(self, array: F32, values: F32) -> F32:
        """As `written`, for arrays too large to be copied, without a copy; see `Room`. Components that share one array
        share the result.
        """
        for same in (array, None):  # as it is, which newer models share, then as the room has it, which loaded ones do
            array = self.room.adopted(array) if same is None else same
            known, result = self._placed.get(int(array.ctypes.data), (None, array))
            if known is not None and np.array_equal(known, values):
                return result
        old = self.rows[~self.new]
        changed = (array[old] != values[~self.new]).any(axis=1)
        made = self.room.changed(array, old[changed], values[~self.new][changed]) if changed.any() else array
        result = self.room.extended(made, values[self.new]) if self.num_new else made
        self._placed[int(array.ctypes.data)] = (values, result)
        return result

    def embedded(self, array: F32) -> F32:
        """The catalogue's embeddings (num_before, embedding_size) with those of the rows; without text it stays so."""
        if not array.shape[1]:
            return np.zeros((self.num_items, 0), np.float32)
        return self.placed(array, self.embeddings)

    def sparse(self, matrix: sp.csr_matrix, values: sp.csr_matrix) -> sp.csr_matrix:
        """`matrix` (num_before, n) with the rows of `values` (k, n); its other rows are copied only where one of them
        changes.
        """
        old = self.rows[~self.new]
        kept = sp.csr_matrix(matrix) if not _differ(matrix, old, values) else _replaced(matrix, old, values)
        if not self.num_new:
            return kept
        behind = values[np.flatnonzero(self.new)]
        data, indices = (np.concatenate([getattr(m, part) for m in (kept, behind)]) for part in ("data", "indices"))
        indptr = np.concatenate([kept.indptr, kept.indptr[-1] + behind.indptr[1:]])
        return _csr(data, indices.astype(kept.indices.dtype), indptr.astype(kept.indptr.dtype), matrix.shape[1])

    def square(self, matrix: sp.csr_matrix) -> sp.csr_matrix:
        """(num_items, num_items): `matrix` with empty rows and columns for what is new; its entries are not copied."""
        return enlarged(matrix, self.num_items, self.num_items)


def enlarged(matrix: sp.csr_matrix, num_rows: int, num_columns: int) -> sp.csr_matrix:
    """A smaller matrix with empty rows and columns behind, (num_rows, num_columns); its entries are not copied."""
    behind = np.full(num_rows - matrix.shape[0], matrix.indptr[-1], matrix.indptr.dtype)
    return _csr(matrix.data, matrix.indices, np.concatenate([matrix.indptr, behind]), num_columns)


def _differ(matrix: sp.csr_matrix, rows: Ints, values: sp.csr_matrix) -> bool:
    """Whether any of the `rows` of `matrix` is not the first, second, ... row of `values`."""
    flat, segment = flat_rows(matrix, rows)
    other, other_segment = flat_rows(values, np.arange(len(rows)))
    if len(flat) != len(other) or (segment != other_segment).any():
        return True
    return bool(
        (matrix.indices[flat] != values.indices[other]).any() or (matrix.data[flat] != values.data[other]).any()
    )


def _replaced(matrix: sp.csr_matrix, rows: Ints, values: sp.csr_matrix) -> sp.csr_matrix:
    """`matrix` with its `rows` replaced by the first rows of `values`."""
    lengths = np.diff(matrix.indptr).astype(np.int64)
    lengths[rows] = np.diff(values.indptr)[: len(rows)]
    indptr = ends(lengths)
    stays = np.ones(matrix.shape[0], bool)
    stays[rows] = False
    data, indices = np.empty(indptr[-1], matrix.data.dtype), np.empty(indptr[-1], matrix.indices.dtype)
    from_old = np.repeat(stays, np.diff(matrix.indptr))
    to_old = np.repeat(stays, lengths)
    own, _ = flat_rows(values, np.arange(len(rows)))
    for out, before, new in ((data, matrix.data, values.data), (indices, matrix.indices, values.indices)):
        out[to_old] = before[from_old]
        out[~to_old] = new[own]
    return _csr(data, indices, indptr.astype(matrix.indptr.dtype), matrix.shape[1])


def _csr(data: npt.NDArray[Any], indices: npt.NDArray[Any], indptr: npt.NDArray[Any], width: int) -> sp.csr_matrix:
    return sp.csr_matrix((data, indices, indptr), shape=(len(indptr) - 1, width), copy=False)
