"""Orders of the same candidate lists, compared list by list, and how sure a difference is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from features.runs import rank_in_run
from features.tables import BoolArray, FloatArray, IntArray
from ranking.examples import RankingExamples
from recsys.metrics import Floats, Hits, ndcg_at_k, recall_at_k


@dataclass(frozen=True)
class Difference:
    """The mean of a - b over the same lists and its standard error, clustered by user."""

    mean: float
    error: float

    @classmethod
    def of(cls, a: Floats, b: Floats, users: IntArray) -> Difference:
        """`a`, `b`, `users`: (n_lists,); no difference without lists."""
        if not len(users):
            return cls(0.0, 0.0)
        each = a - b
        places = np.unique(users, return_inverse=True)[1]
        residuals = np.bincount(places, each - each.mean())
        return cls(float(each.mean()), float(np.sqrt((residuals**2).sum()) / len(each)))

    def __str__(self) -> str:
        return f"{self.mean:+.4f} ± {self.error:.4f}"


def list_ndcg(examples: RankingExamples, scores: FloatArray, k: int = 10) -> Floats:
    """NDCG@k of each list, (n_lists,), ordered by `scores` (n_pairs,); a pair whose score is NaN is not in the list."""
    return ndcg_at_k(_hits(examples, scores, k), examples.num_labels, k)


def list_recall(examples: RankingExamples, scores: FloatArray, k: int) -> Floats:
    """Recall@k of each list, as in `list_ndcg`."""
    return recall_at_k(_hits(examples, scores, k), examples.num_labels, k)


def _hits(examples: RankingExamples, scores: FloatArray, k: int) -> Hits:
    query_rows = examples.features.query_rows
    order = np.lexsort((-scores, query_rows))
    order = order[~np.isnan(scores[order])]
    rank = rank_in_run(query_rows[order])
    head = rank < k
    hits = np.zeros((len(examples), k), bool)
    hits[query_rows[order][head], rank[head]] = examples.labels[order][head] > 0
    return hits


def halves(users: IntArray, seed: int) -> BoolArray:
    """(n_lists,) bool: the lists of one half of the users, drawn at random; of two or more users neither is empty."""
    distinct, place = np.unique(users, return_inverse=True)
    return np.asarray((np.random.default_rng([seed, 11]).permutation(len(distinct)) % 2 == 0)[place])
