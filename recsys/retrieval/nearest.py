"""An index of item vectors for catalogues that are too large to score every item: faiss's inverted lists (Johnson,
Douze and Jegou 2019), over 8-bit numbers for short vectors and over product codes for long ones, whose many numbers say
little each (Jegou, Douze and Schmid 2011; Andre, Kermarrec and Le Scouarnec 2015).

It only proposes items; their scores are then computed exactly from the vectors themselves. A largest inner product is
found as a smallest distance: one more coordinate brings all items to one length (Bachrach et al. 2014). Without it the
lists are found by direction alone, and long vectors, which score best, are missed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from features.row_changes import RowChanges
from features.tables import BoolArray

F32 = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
NONE_MOVED: Ints = np.empty(0, np.int64)
NO_INDEX: Bytes = np.empty(0, np.uint8)
EXACT_ITEMS = 20_000
"""Up to so many items all are scored: a millisecond or two for 384 numbers each, and nothing is missed."""
FEW_ALLOWED = 20_000
"""Where a filter leaves no more than this, all of them are scored: the lists looked into might hold none of them."""
_PROBED = 64
"""Lists looked into, of 4 * sqrt(n_items): with 100,000 items 99 % of the 50 nearest are found there."""
_LONG = 128
"""Numbers from which on two share a code of 4 bits: looking into the lists of 100,000 texts takes a quarter of the time
so, and a quarter of the memory. Of 64 ALS factors such codes would find 69 % of the 50 nearest instead of 99; of the
128 numbers of two sequence models they find 98 % of 100.
"""
_PROPOSED_BY_CODES = 3
"""What product codes propose, as a multiple of what is wanted: their own order is rough."""
_POINTS_PER_LIST = 40
_ITERATIONS = 8
_BLOCK = 16_384


def build_index(vectors: F32, seed: int) -> Bytes:
    """The index of `vectors` (n_items, size) float32 of norm <= 1 as bytes, `NO_INDEX` for up to `EXACT_ITEMS`.

    Bytes are what a bundle holds; `Nearest` reads them in place, so that workers share the pages of one file.
    """
    n, size = vectors.shape
    if n <= EXACT_ITEMS or not vectors.any():
        return NO_INDEX
    faiss = _faiss()
    lists, width = round(4 * math.sqrt(n)), size + _more(size)
    centres = faiss.IndexFlatL2(width)
    if size >= _LONG:
        index = faiss.IndexIVFPQFastScan(centres, width, lists, width // 2, 4, faiss.METRIC_L2)
        index.by_residual = False  # one table of distances for all lists
    else:
        index = faiss.IndexIVFScalarQuantizer(centres, width, lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_L2)
    index.cp.niter, index.cp.seed, index.cp.max_points_per_centroid = _ITERATIONS, seed + 1, _POINTS_PER_LIST
    sample = np.random.default_rng(seed).permutation(n)[: lists * _POINTS_PER_LIST]
    index.train(_lengthened(vectors[np.sort(sample)]))
    for start in range(0, n, _BLOCK):  # a lengthened copy of a million vectors would take gigabytes
        index.add(_lengthened(vectors[start : start + _BLOCK]))
    return np.asarray(faiss.serialize_index(index), np.uint8)


@dataclass(frozen=True)
class Nearest:
    """An index that `build_index` has made, in use; `moved` are items whose vectors are not those it was made of."""

    data: Bytes
    moved: Ints = field(default_factory=lambda: NONE_MOVED)

    @cached_property
    def _index(self) -> Any:
        faiss = _faiss()
        # The reader's memory must live as long as the index: `data` is a field, so it does.
        return faiss.read_index(faiss.ZeroCopyIOReader(faiss.swig_ptr(self.data), self.data.size))

    @property
    def num_items(self) -> int:
        """Items in the index: rows from here on came later."""
        return int(self._index.ntotal)

    def propose(self, query: F32, n: int, allowed: BoolArray | None) -> npt.NDArray[np.int64]:
        """Rows of indexed items, among them most probably the `n` with the largest inner products with the unit vector
        `query` (size,); `allowed` (n_items,) bool leaves out the rest.
        """
        faiss = _faiss()
        asked = np.append(query, np.zeros(_more(len(query)), np.float32))[None]
        parameters = faiss.SearchParametersIVF(nprobe=_PROBED)
        if allowed is not None:
            bits = np.packbits(allowed[: self.num_items], bitorder="little")
            parameters.sel = faiss.IDSelectorBitmap(bits)
        codes = isinstance(self._index, faiss.IndexIVFPQFastScan)
        _, rows = self._index.search(asked, n * _PROPOSED_BY_CODES if codes else n, params=parameters)
        return np.asarray(rows[0][rows[0] >= 0], np.int64)


@dataclass(frozen=True)
class NearestOf:
    """An index of some items of a catalogue, those at `rows` then; `others` are items to look at besides, because they
    are not what they were when it was made.
    """

    index: Nearest
    rows: Ints
    others: Ints

    def propose(self, query: F32, n: int, allowed: BoolArray | None) -> Ints:
        """As `Nearest.propose`, in rows of the catalogue; `allowed` (n_items,) goes by these too."""
        found = self.rows[self.index.propose(query, n, None if allowed is None else allowed[self.rows])]
        others = self.others if allowed is None else self.others[allowed[self.others]]
        return np.concatenate([found, others])


def nearest(data: Bytes, moved: Ints = NONE_MOVED) -> Nearest | None:
    """The index to use, None where all items are to be scored."""
    return Nearest(data, moved) if len(data) else None


def with_moved(moved: Ints, changes: RowChanges, before: F32, after: F32) -> Ints:
    """`moved` and the rows there were before whose vectors the changes made others."""
    return with_moved_rows(moved, changes.rows[~changes.new], before, after)


def with_moved_rows(moved: Ints, rows: Ints, before: F32, after: F32) -> Ints:
    """`moved` and those of `rows` whose vectors were others `before`."""
    return np.union1d(moved, rows[(before[rows] != after[rows]).any(axis=1)]).astype(np.int64)


def _faiss() -> Any:
    """The library, without the types that its wrapper gives it wrongly; small catalogues never load it."""
    import faiss

    return faiss


def _lengthened(vectors: F32) -> F32:
    """The vectors with `_more` coordinates, the first of which brings them all to norm 1."""
    out = np.zeros((len(vectors), vectors.shape[1] + _more(vectors.shape[1])), np.float32)
    out[:, : vectors.shape[1]] = vectors
    out[:, vectors.shape[1]] = np.sqrt(np.maximum(1 - (vectors * vectors).sum(axis=1), 0.0))
    return out


def _more(size: int) -> int:
    """Coordinates to add: one, and zeros up to a multiple of 16, without which faiss's fast loops are not used."""
    return 16 - size % 16
