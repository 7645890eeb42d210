"""Gating: sources and groups of features without which the lists are no worse are dropped.

Backward elimination on the training lists: one half of the users fits the forests, the other half judges them, and
neither is among those who will judge the ranker. A part goes where the judges' lists are as good without it as with it:
NDCG@10 of all, and for a source also recall@50, as what it alone finds may matter even where it is ranked low. Parts
that know the same are missed only together, so each is tried without all that went before it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from features.builder import FeatureMatrix
from features.tables import IntArray
from ranking.examples import RankingExamples, SplitExamples
from ranking.lambdamart import LambdaMartRanker
from recsys.comparison import Difference, halves, list_ndcg, list_recall
from recsys.feature_groups import Ablation, ablated, ablated_examples, ablations, reduced, still_offered
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
    """`examples` without the parts that were `dropped` (by name, in that order); `sources` are those among them.
    `rows` say of each part that was tried what the lists gain without it.
    """

    examples: SplitExamples
    dropped: tuple[str, ...] = ()
    sources: frozenset[str] = frozenset()
    rows: tuple[dict[str, Any], ...] = ()


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
    """What is left of the lists that fit and of the judges' pairs; `pairs` (n_left,) says which of them those are."""

    fit: RankingExamples
    judge: FeatureMatrix
    pairs: npt.NDArray[np.int64]

    def without(self, part: Ablation) -> _Left:
        """The same without one more part."""
        keep = still_offered(self.judge, part)
        return _Left(ablated(self.fit, part)[0], reduced(self.judge, part, keep), self.pairs[keep])

    def judged(self, judges: RankingExamples, settings: Settings) -> _Judged:
        """By one forest of what is left; a pair that is left no more counts as not found."""
        forest = settings.lambdamart.model_copy(update={"forests": 1})
        fitted = LambdaMartRanker.fit(self.fit, settings.gating.trees, forest, settings.seed, settings.threads)
        scores = np.full(len(judges.labels), np.nan)
        scores[self.pairs] = fitted.score(self.judge)
        return _Judged(list_ndcg(judges, scores), list_recall(judges, scores, WIDTH))


def gated(examples: SplitExamples, settings: Settings) -> Gated:
    """`examples` without the parts that do not help; all of them where there are too few lists to tell."""
    lists = _some(examples.train, settings.gating.max_lists, settings.seed)
    fits = halves(lists.users, settings.seed)
    if len(lists) < settings.gating.min_lists or fits.all():
        return Gated(examples)
    judges = lists.select(~fits)
    left = _Left(lists.select(fits), judges.features, np.arange(len(judges.labels)))
    parts = [part for part in ablations(judges.features.names) if part.source not in KEPT]
    dropped, rows = _eliminated(left, judges, parts, settings)
    for part in dropped:
        examples = ablated_examples(examples, part)
    sources = frozenset(part.source for part in dropped if part.source is not None)
    return Gated(examples, tuple(_name(part) for part in dropped), sources, tuple(rows))


def _eliminated(
    left: _Left, judges: RankingExamples, parts: Sequence[Ablation], settings: Settings
) -> tuple[list[Ablation], list[dict[str, Any]]]:
    """The parts to drop, the most useless first, and a row for each part."""
    tolerance = settings.gating.tolerance
    now = left.judged(judges, settings)
    alone = {part: left.without(part).judged(judges, settings).gain(now, judges.users) for part in parts}
    dropped: list[Ablation] = []
    for part in sorted(parts, key=lambda part: -alone[part][0].mean):
        if not _harmless(part, alone[part], tolerance):
            continue
        trial = left.without(part)
        after = trial.judged(judges, settings)
        if _harmless(part, after.gain(now, judges.users), tolerance):
            left, now = trial, after
            dropped.append(part)
    rows = [_row(part, *alone[part], part in dropped) for part in parts]
    return dropped, rows


def _harmless(part: Ablation, gain: tuple[Difference, Difference], tolerance: float) -> bool:
    ndcg, recall = gain
    return ndcg.mean >= -tolerance * ndcg.error and (part.source is None or recall.mean >= 0)


def _row(part: Ablation, ndcg: Difference, recall: Difference, dropped: bool) -> dict[str, Any]:
    verdict = "dropped" if dropped else "kept"
    logger.info("gating: without %s NDCG@10 %s, recall@50 %s: %s", _name(part), ndcg, recall, verdict)
    return {
        "part": _name(part), "ndcg@10": round(ndcg.mean, 5), "error": round(ndcg.error, 5),
        "recall@50": round(recall.mean, 5), "dropped": dropped,
    }  # fmt: skip


def _name(part: Ablation) -> str:
    return part.name.removeprefix("without ")


def _some(lists: RankingExamples, limit: int, seed: int) -> RankingExamples:
    """At most `limit` of the lists, drawn at random."""
    chosen = np.random.default_rng([seed, 13]).permutation(len(lists)) < limit
    return lists if chosen.all() else lists.select(chosen)
