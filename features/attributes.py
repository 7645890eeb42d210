"""Items as weighted attribute values: one tf-idf vector over categories, brands and further string columns."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from features.tables import BRAND, CATEGORY, Catalogue


def attribute_vectors(catalogue: Catalogue) -> sp.csr_matrix:
    """(n_items, num_values) CSR float32, rows of length 1 (0 without a value that repeats): each value that at least
    two items share weighs its inverse document frequency, whichever attribute it is of, so that a column of
    few values (a genre) counts little beside a rare tag (Salton and Buckley 1988).
    """
    codes: dict[tuple[str, str], int] = {}
    rows: list[int] = []
    columns: list[int] = []
    for name in (CATEGORY, BRAND, *catalogue.attributes):
        for row, value in enumerate(catalogue.frame[name]):
            own = value if isinstance(value, tuple) else (value,) if isinstance(value, str) and value else ()
            columns += [codes.setdefault((name, one), len(codes)) for one in dict.fromkeys(own)]
            rows += [row] * (len(columns) - len(rows))
    n = len(catalogue)
    matrix = sp.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(n, len(codes)))
    counts = np.asarray(matrix.getnnz(axis=0))
    shared = np.flatnonzero((counts >= 2) & (counts < n))
    matrix = (matrix[:, shared] @ sp.diags_array(np.log(n / counts[shared]))).tocsr()
    lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    matrix.data /= np.repeat(np.where(lengths > 0, lengths, 1.0), np.diff(matrix.indptr))
    matrix.sort_indices()
    return sp.csr_matrix(matrix, dtype=np.float32)
