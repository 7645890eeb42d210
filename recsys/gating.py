"""Gating: sources and groups of features without which the lists are better are dropped.

Backward elimination on the training lists: one half of the users fits the forests, the other half judges them, and
neither is among those who will judge the ranker. A part goes where the judges' lists are clearly better without it
(`gating.tolerance`): NDCG@10 of all, and for a source recall@50 no worse, as what it alone finds may matter even where
it is ranked low. Parts that know the same are missed only together, so each is tried without all that went before it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from features.builder import FeatureMatrix
from features.tables import FloatArray, IntArray
from ranking.base import Ranker
from ranking.examples import RankingExamples, SplitExamples
from ranking.lambdamart import LambdaMartRanker
from ranking.list_metrics import list_ndcg, list_recall
from recsys.comparison import Difference, halves
from recsys.feature_groups import Ablation, ablated, ablated_examples, ablations, reduced, still_offered
from recsys.gating_settings import GatingSettings
from recsys.metrics import Floats
from recsys.retrieval.popularity import PopularitySource
from recsys.settings import Settings

logger = logging.getLogger(__name__)
KEPT = frozenset({PopularitySource.name})
"""Sources that are never dropped: guests have no other."""
WIDTH = 50
"""Positions in which a source's own finds count."""


@dataclass(frozen=True)
class Gated:
    """`examples` without the parts that were `dropped`, in that order. `rows` say of each part that was tried, by name,
    what the lists gain without it; `skipped` why nothing was tried, or nothing dropped of what was to be ("" else).
    """

    examples: SplitExamples
    dropped: tuple[Ablation, ...] = ()
    rows: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    skipped: str = ""

    @property
    def sources(self) -> frozenset[str]:
        """The sources that were dropped."""
        return frozenset(part.source for part in self.dropped if part.source is not None)

    @property
    def names(self) -> list[str]:
        """What was dropped, in words."""
        return [_name(part) for part in self.dropped]

    def scores(self, ranker: Ranker, matrix: FeatureMatrix) -> FloatArray:
        """The ranker's scores (n_pairs,) of lists that nothing was dropped from; NaN where a pair is not offered."""
        left = _Left.of(matrix)
        for part in self.dropped:
            left = left.without(part)
        return left.scores(ranker, len(matrix.query_rows))


@dataclass(frozen=True)
class _Judged:
    """NDCG@10 and recall@50 of each of the judges' lists, (n_lists,)."""

    ndcg: Floats
    recall: Floats

    def gain(self, before: _Judged, users: IntArray) -> tuple[Difference, Difference]:
        """How much higher NDCG@10 and recall@50 are than `before`."""
        return Difference.of(self.ndcg, before.ndcg, users), Difference.of(self.recall, before.recall, users)


@dataclass(frozen=True)
class _Left:
    """What is left of some lists; `pairs` (n_left,) says which of their pairs those are."""

    matrix: FeatureMatrix
    pairs: npt.NDArray[np.int64]

    @classmethod
    def of(cls, matrix: FeatureMatrix) -> Self:
        return cls(matrix, np.arange(len(matrix.query_rows)))

    def without(self, part: Ablation) -> _Left:
        """The same without one more part."""
        keep = still_offered(self.matrix, part)
        return _Left(reduced(self.matrix, part, keep), self.pairs[keep])

    def scores(self, ranker: Ranker, num_pairs: int) -> FloatArray:
        """(num_pairs,) float64, NaN where nothing is left."""
        scores = np.full(num_pairs, np.nan)
        scores[self.pairs] = ranker.score(self.matrix)
        return scores


@dataclass(frozen=True)
class _State:
    """The lists that fit and the judges' lists, with the parts that are left."""

    fit: RankingExamples
    judge: _Left

    def without(self, part: Ablation) -> _State:
        """The same without one more part."""
        return _State(ablated(self.fit, part)[0], self.judge.without(part))

    def judged(self, judges: RankingExamples, settings: Settings) -> _Judged:
        """By forests of what is left; a pair that is left no more counts as not found."""
        half = max(2, settings.lambdamart.num_leaves // 2)  # smaller trees, as fewer lists are fitted
        forest = settings.lambdamart.model_copy(update={"num_leaves": half, "forests": settings.gating.forests})
        fitted = LambdaMartRanker.fit(self.fit, settings.gating.trees, forest, settings.seed, settings.threads)
        scores = self.judge.scores(fitted, len(judges.labels))
        return _Judged(list_ndcg(judges, scores), list_recall(judges, scores, WIDTH))


def gated(examples: SplitExamples, settings: Settings) -> Gated:
    """`examples` without the parts that do not help; all of them where there are too few lists to tell."""
    lists = _some(examples.train, settings.gating.max_lists, settings.seed)
    if len(lists) < settings.gating.min_lists:
        few = f"only {len(lists)} training lists, gating.min_lists is {settings.gating.min_lists}"
        return Gated(examples, skipped=few)
    fits = halves(lists.users, settings.seed)
    if fits.all():
        return Gated(examples, skipped="the training lists are all of one user")
    judges = lists.select(~fits)
    state = _State(lists.select(fits), _Left.of(judges.features))
    parts = [part for part in ablations(judges.features.names) if part.source not in KEPT]
    dropped, rows = _eliminated(state, judges, parts, settings)
    for part in dropped:
        examples = ablated_examples(examples, part)
    return Gated(examples, tuple(dropped), rows)


def _eliminated(
    state: _State, judges: RankingExamples, parts: Sequence[Ablation], settings: Settings
) -> tuple[list[Ablation], dict[str, dict[str, Any]]]:
    """The parts to drop, the most useless first, and a row for each part."""
    now = state.judged(judges, settings)
    alone = {part: state.without(part).judged(judges, settings).gain(now, judges.users) for part in parts}
    dropped: list[Ablation] = []
    for part in sorted(parts, key=lambda part: -alone[part][0].mean):
        if not _harmless(part, alone[part], settings.gating):
            continue
        trial = state.without(part)
        after = trial.judged(judges, settings)
        if _harmless(part, after.gain(now, judges.users), settings.gating):
            state, now = trial, after
            dropped.append(part)
    rows = {_name(part): _row(part, *alone[part], part in dropped) for part in parts}
    return dropped, rows


def _harmless(part: Ablation, gain: tuple[Difference, Difference], settings: GatingSettings) -> bool:
    ndcg, recall = gain
    as_good = ndcg.mean >= -settings.tolerance * ndcg.error
    return as_good and (part.source is None or recall.mean >= -settings.recall_tolerance * recall.error)


def _row(part: Ablation, ndcg: Difference, recall: Difference, dropped: bool) -> dict[str, Any]:
    verdict = "dropped" if dropped else "kept"
    logger.info("gating: without %s NDCG@10 %s, recall@50 %s: %s", _name(part), ndcg, recall, verdict)
    return {
        "ndcg@10": round(ndcg.mean, 5), "error": round(ndcg.error, 5),
        "recall@50": round(recall.mean, 5), "dropped": dropped,
    }  # fmt: skip


def _name(part: Ablation) -> str:
    return part.name.removeprefix("without ")


def _some(lists: RankingExamples, limit: int, seed: int) -> RankingExamples:
    """At most `limit` of the lists, drawn at random."""
    chosen = np.random.default_rng([seed, 13]).permutation(len(lists)) < limit
    return lists if chosen.all() else lists.select(chosen)
