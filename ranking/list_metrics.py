"""How good an order of candidate lists is, list by list. Right items count alike, whatever their label."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from features.runs import rank_in_run
from features.tables import FloatArray
from ranking.examples import RankingExamples

F64 = npt.NDArray[np.float64]
HEAD = 10
"""Positions that NDCG looks at where nothing else is said."""


def list_ndcg(lists: RankingExamples, scores: FloatArray, k: int = HEAD) -> F64:
    """NDCG@k of each list, (n_lists,), ordered by `scores` (n_pairs,); a pair whose score is NaN is not in the list."""
    return _ndcg(lists, _ranks(lists, scores), k)


def list_recall(lists: RankingExamples, scores: FloatArray, k: int) -> F64:
    """Recall@k of each list, as in `list_ndcg`."""
    found = (lists.labels > 0) & (_ranks(lists, scores) <= k)
    return np.bincount(lists.features.query_rows[found], minlength=len(lists)) / np.minimum(lists.num_labels, k)


def ndcg_by_source(lists: RankingExamples, k: int = HEAD) -> dict[str, F64]:
    """NDCG@k of each list, (n_lists,), by each source's own order. A source's ranks are those of all its candidates,
    also where only a part of them is among the `lists`.
    """
    return {
        name.removesuffix(":rank"): _ndcg(lists, lists.features.column(name), k)
        for name in lists.features.names
        if name.endswith(":rank")
    }


def _ranks(lists: RankingExamples, scores: FloatArray) -> F64:
    """(n_pairs,) from 1 in each list, NaN where the score is; equal scores keep their order."""
    order = np.lexsort((-scores, lists.features.query_rows))
    order = order[~np.isnan(scores[order])]
    ranks = np.full(len(scores), np.nan)
    ranks[order] = rank_in_run(lists.features.query_rows[order]) + 1
    return ranks


def _ndcg(lists: RankingExamples, ranks: FloatArray, k: int) -> F64:
    """NDCG@k where the pairs have these `ranks` (n_pairs,), NaN where they are not in the list."""
    discounts = 1 / np.log2(np.arange(2, k + 2))
    found = (lists.labels > 0) & (ranks <= k)
    gains = np.bincount(
        lists.features.query_rows[found], discounts[ranks[found].astype(np.int64) - 1], minlength=len(lists)
    )
    return np.asarray(gains / np.cumsum(discounts)[np.clip(lists.num_labels, 1, k) - 1], np.float64)
