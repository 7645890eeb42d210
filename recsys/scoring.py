"""Histories -> candidates with features: the one piece of code that training and answering share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from features.builder import FeatureBuilder, FeatureMatrix
from features.compiled import compiled, fixed
from features.cycles import RepeatFeatures
from features.histories import Histories, Ints
from features.item_sets import ItemSets
from features.runs import rank_in_run
from features.tables import BoolArray, FloatArray, IntArray
from recsys.metrics import mean, ndcg_at_k
from recsys.retrieval.base import CandidateSource
from recsys.retrieval.merge import Candidates, merge
from recsys.retrieval.scores import F32
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
    names = [name for name in found.columns if name.endswith(":rank")]
    if not names:
        return {}
    scores = np.stack([found.columns[name.replace(":rank", ":score")] for name in names])
    relative = _relative(fixed(scores), fixed(found.pairs.query_rows))
    out = agreement(np.stack([found.columns[name] for name in names]))
    return out | {name.replace(":rank", ":relative"): row for name, row in zip(names, relative, strict=True)}


def agreement(ranks: FloatArray) -> dict[str, FloatArray]:
    """What the sources' ranks (n_sources, n_pairs), NaN where one did not offer the item, say together."""
    count, fusion = _fused(fixed(np.asarray(ranks, np.float32)))
    return {"sources:count": count, "sources:fusion": fusion}


@compiled
def _fused(ranks: F32) -> tuple[F32, F32]:
    count, fusion = np.zeros(ranks.shape[1], np.float32), np.zeros(ranks.shape[1], np.float32)
    for source in range(len(ranks)):
        for pair in range(ranks.shape[1]):
            if not np.isnan(ranks[source, pair]):
                count[pair] += 1
                fusion[pair] += np.float32(1) / (np.float32(60) + ranks[source, pair])
    return count, fusion


@compiled
def _relative(scores: F32, query_rows: Ints) -> F32:
    """(n_sources, n_pairs): each score as a share of the largest in its list, 0 where none is positive."""
    out = np.zeros_like(scores)
    num_pairs, start = scores.shape[1], 0
    for pair in range(1, num_pairs + 1):
        if pair < num_pairs and query_rows[pair] == query_rows[start]:
            continue
        for source in range(len(scores)):
            best = scores[source, start:pair].max()
            if best > 0:
                out[source, start:pair] = scores[source, start:pair] * (np.float32(1) / best)
        start = pair
    return out


def mean_ndcg(query_rows: IntArray, labels: FloatArray, num_labels: IntArray, k: int = 10) -> float:
    """Mean NDCG@k of lists given as flat pairs, best first within a list: `labels` (n_pairs,) > 0 where right,
    `num_labels` (n_lists,).
    """
    rank = rank_in_run(query_rows)
    head = rank < k
    hits = np.zeros((len(num_labels), k), bool)
    hits[query_rows[head], rank[head]] = labels[head] > 0
    return mean(ndcg_at_k(hits, num_labels, k))
