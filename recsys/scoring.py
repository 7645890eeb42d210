"""Histories -> candidates with features: the one piece of code that training and answering share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp

from features.builder import FeatureBuilder, FeatureMatrix
from features.histories import Histories
from features.runs import rank_in_run
from features.tables import BoolArray, FloatArray, IntArray
from recsys.metrics import mean, ndcg_at_k
from recsys.retrieval.base import CandidateSource
from recsys.retrieval.merge import Candidates, merge

CHUNK = 256
"""Histories looked at together; it bounds memory and changes no result."""


def candidates_with_features(
    sources: Sequence[CandidateSource],
    features: FeatureBuilder,
    histories: Histories,
    per_source: int,
    blocked: sp.csr_matrix,
    allowed: BoolArray | None = None,
) -> tuple[Candidates, FeatureMatrix]:
    """The sources' united candidates of each history and the features of every pair."""
    found = merge(sources, histories, per_source, blocked, allowed)
    columns: dict[str, FloatArray] = dict(found.columns)
    columns |= _agreement(found)
    return found, features.build(histories, found.pairs, columns)


def _agreement(found: Candidates) -> dict[str, FloatArray]:
    """How many sources offer the candidate, the reciprocal rank fusion of their ranks (Cormack et al. 2009), and
    each source's score as a share of the best score in the list.
    """
    ranks = {name: values for name, values in found.columns.items() if name.endswith(":rank")}
    if not ranks:
        return {}
    out = agreement(np.stack(list(ranks.values()), axis=1))
    starts, lengths = found.pairs.starts, found.pairs.lengths
    for name in ranks:
        score = found.columns[name.replace(":rank", ":score")]
        best = np.maximum.reduceat(score, starts) if len(starts) else score
        share = np.where(best > 0, 1 / np.where(best > 0, best, 1), 0)
        out[name.replace(":rank", ":relative")] = np.asarray(score * np.repeat(share, lengths), np.float32)
    return out


def agreement(ranks: FloatArray) -> dict[str, FloatArray]:
    """What the sources' ranks (n_pairs, n_sources), NaN where one did not offer the item, say together."""
    return {
        "sources:count": np.asarray((~np.isnan(ranks)).sum(axis=1), np.float32),
        "sources:fusion": np.asarray(np.nan_to_num(1 / (60 + ranks)).sum(axis=1), np.float32),
    }


def mean_ndcg(query_rows: IntArray, labels: FloatArray, num_labels: IntArray, k: int = 10) -> float:
    """Mean NDCG@k of lists given as flat pairs, best first within a list: `labels` (n_pairs,) > 0 where right,
    `num_labels` (n_lists,).
    """
    rank = rank_in_run(query_rows)
    head = rank < k
    hits = np.zeros((len(num_labels), k), bool)
    hits[query_rows[head], rank[head]] = labels[head] > 0
    return mean(ndcg_at_k(hits, num_labels, k))
