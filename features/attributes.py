"""Items as weighted attribute values: one tf-idf vector over categories, brands and further string columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse as sp

from features.tables import BRAND, CATEGORY, Catalogue


@dataclass(frozen=True)
class AttributeValues:
    """The values that at least two items of a catalogue share: `columns` maps (attribute, value) to the value's
    column, `weights` (num_values,) float64 are their inverse document frequencies.
    """

    columns: dict[tuple[str, str], int]
    weights: npt.NDArray[np.float64]

    @classmethod
    def of(cls, catalogue: Catalogue) -> Self:
        """Of category, brand and the further string columns; a value that every item has says nothing."""
        counts: dict[tuple[str, str], int] = {}
        for name in _names(catalogue):
            for value in catalogue.frame[name]:
                for one in own_values(value):
                    counts[name, one] = counts.get((name, one), 0) + 1
        n = len(catalogue)
        shared = [key for key, count in counts.items() if 2 <= count < n]
        weights = np.log(n / np.array([counts[key] for key in shared], np.float64))
        return cls({key: column for column, key in enumerate(shared)}, weights)

    def vectors(self, frame: pd.DataFrame) -> sp.csr_matrix:
        """(n_rows, num_values) CSR float32 of some items, unit rows; zero rows for those that share no value."""
        rows: list[int] = []
        columns: list[int] = []
        for name in dict.fromkeys(name for name, _ in self.columns):
            for row, value in enumerate(frame[name]):
                own = [self.columns.get((name, one), -1) for one in own_values(value)]
                columns += [column for column in own if column >= 0]
                rows += [row] * (len(columns) - len(rows))
        shape = (len(frame), len(self.weights))
        matrix = sp.csr_matrix((self.weights[columns], (rows, columns)), shape=shape)
        matrix.sort_indices()
        lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
        matrix.data /= np.repeat(np.where(lengths > 0, lengths, 1.0), np.diff(matrix.indptr))
        return sp.csr_matrix(matrix, dtype=np.float32)


def attribute_vectors(catalogue: Catalogue) -> sp.csr_matrix:
    """(n_items, num_values) CSR float32, rows of length 1 (0 without a value that repeats): each value that at least
    two items share weighs its inverse document frequency, whichever attribute it is of, so that a column of
    few values (a genre) counts little beside a rare tag (Salton and Buckley 1988).
    """
    return AttributeValues.of(catalogue).vectors(catalogue.frame)


def _names(catalogue: Catalogue) -> tuple[str, ...]:
    return (CATEGORY, BRAND, *catalogue.attributes)


def own_values(value: object) -> tuple[str, ...]:
    """The values of a cell, each once; numbers are none."""
    if isinstance(value, tuple):
        return tuple(dict.fromkeys(value))
    return (value,) if isinstance(value, str) and value else ()
