"""Histories -> candidates with features: the one piece of code that training and answering share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from features.builder import FeatureBuilder, FeatureMatrix
from features.cycles import RepeatFeatures
from features.histories import Histories
from features.item_sets import ItemSets
from features.runs import rank_in_run
from features.tables import BoolArray, FloatArray, IntArray
from recsys.metrics import mean, ndcg_at_k
from recsys.retrieval.base import CandidateSource
from recsys.retrieval.merge import Candidates, merge
from recsys.stage_clock import Observer, StageClock, nobody

CHUNK = 256
"""Histories looked at together; it bounds memory and changes no result."""


def candidates_with_features(
    sources: Sequence[CandidateSource],
    features: FeatureBuilder | RepeatFeatures,
    histories: Histories,
    per_source: int,
    blocked: ItemSets,
    allowed: BoolArray | None = None,
    observe: Observer = nobody,
) -> tuple[Candidates, FeatureMatrix]:
    """The sources' united candidates of each history and the features of every pair. `observe` is told what the stages
    `candidates` and `features` took.
    """
    clock = StageClock(observe)
    found = merge(sources, histories, per_source, blocked, allowed)
    clock.lap("candidates")
    columns: dict[str, FloatArray] = dict(found.columns)
    columns |= _agreement(found)
    matrix = features.build(histories, found.pairs, columns)
    clock.lap("features")
    return found, matrix


def _agreement(found: Candidates) -> dict[str, FloatArray]:
    """How many sources offer the candidate, the reciprocal rank fusion of their ranks (Cormack et al. 2009), and
    each source's score as a share of the best score in the list.
    """
    ranks = {name: values for name, values in found.columns.items() if name.endswith(":rank")}
    if not ranks:
        return {}
    out = agreement(np.stack(list(ranks.values())))
    scores = np.stack([found.columns[name.replace(":rank", ":score")] for name in ranks])
    starts, lengths = found.pairs.starts, found.pairs.lengths
    best = np.maximum.reduceat(scores, starts, axis=1) if len(starts) else scores
    share = np.where(best > 0, 1 / np.where(best > 0, best, 1), 0)
    relative = (scores * np.repeat(share, lengths, axis=1)).astype(np.float32)
    return out | {name.replace(":rank", ":relative"): row for name, row in zip(ranks, relative, strict=True)}


def agreement(ranks: FloatArray) -> dict[str, FloatArray]:
    """What the sources' ranks (n_sources, n_pairs), NaN where one did not offer the item, say together."""
    offered = ~np.isnan(ranks)
    return {
        "sources:count": offered.sum(axis=0).astype(np.float32),
        "sources:fusion": np.where(offered, 1 / (60 + ranks), 0).sum(axis=0).astype(np.float32),
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
