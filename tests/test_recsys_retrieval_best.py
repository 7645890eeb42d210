"""The n best, against sorting everything."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.retrieval.best import best_of

SCORES = st.lists(st.sampled_from([-np.inf, -1.5, 0.0, 0.25, 0.5, 2.0]), max_size=60)


@given(scores=SCORES, n=st.integers(0, 70), above=st.sampled_from([-np.inf, 0.0]), seed=st.integers(0, 9))
def test_the_best_are_those_of_a_sorted_list(scores: list[float], n: int, above: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = rng.permutation(100)[: len(scores)].astype(np.int64)
    hidden = np.sort(rng.permutation(100)[:20]).astype(np.int64)
    allowed = rng.random(100) < 0.7
    values = np.array(scores, np.float32)
    shown = [
        (-v, k) for v, k in zip(scores, names.tolist(), strict=True) if v > above and allowed[k] and k not in hidden
    ]
    assert best_of(values, names, n, above, hidden, allowed).tolist() == [name for _, name in sorted(shown)[:n]]
    bare = [(-v, k) for v, k in zip(scores, names.tolist(), strict=True) if v > above]
    assert best_of(values, names, n, above).tolist() == [name for _, name in sorted(bare)[:n]]


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_rows_of_any_whole_numbers_and_arrays_that_must_not_be_written_to(dtype: type[np.signedinteger]) -> None:
    values = np.array([1.0, 3.0, 2.0], np.float32)
    values.flags.writeable = False
    assert best_of(values, np.array([7, 5, 6], dtype), 2, 0.0).tolist() == [5, 6]
