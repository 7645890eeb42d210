"""Examples -> the ranker: parts that do not help are dropped, and a forest is judged on held-out users."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from features.tables import FloatArray, IntArray
from ranking.base import Ranker
from ranking.by_score import ByScoreRanker
from ranking.examples import RankingExamples, SplitExamples
from ranking.lambdamart import LambdaMartRanker, LambdaMartSettings
from recsys.comparison import Difference, folds, list_ndcg, source_orders
from recsys.gating import Gated, gated
from recsys.metrics import Floats, mean
from recsys.settings import Settings

logger = logging.getLogger(__name__)
RANKER = "ranker"
"""The ranker's name among those of the sources."""
FOLDS = 5
"""Parts of the users, each held out once where the comparison needs all of them; fewer where there are fewer users."""
MIN_FOUND = 10
"""Lists in which a source found a label, on either side of the split, that a ranker takes at least."""


@dataclass(frozen=True)
class LearnedRanker:
    """`ranker` needs no source of `dropped`; `examples` are what it learned from, without what was dropped."""

    ranker: Ranker
    dropped: frozenset[str]
    examples: SplitExamples


@dataclass(frozen=True)
class _Comparison:
    """NDCG@10 of the ranker and of each source's order on the same lists; `lead`: the ranker's over `best`, the best
    source.
    """

    scores: dict[str, float]
    best: str
    lead: Difference

    @classmethod
    def of(cls, each: Mapping[str, Floats], users: IntArray) -> Self:
        """`each` system's figure for each list, (n_lists,), and whose lists they are."""
        scores = {name: round(mean(values), 5) for name, values in each.items()}
        best = max((name for name in scores if name != RANKER), key=lambda name: scores[name])
        return cls(scores, best, Difference.of(each[RANKER], each[best], users))

    def __str__(self) -> str:
        return f"the ranker {self.scores[RANKER]:.4f}, {self.best} alone {self.scores[self.best]:.4f} ({self.lead})"


def learned_ranker(
    examples: SplitExamples,
    order: Sequence[str],
    settings: Settings,
    report: dict[str, Any],
    on_held_out: Callable[[float], None] | None = None,
    *,
    gate: bool = True,
) -> LearnedRanker:
    """The forests, fitted on all users once they are known to beat the best source on held-out ones; else the order of
    that source, then of the others in `order`. What was found goes into `report`; `on_held_out`: see `train`.
    """
    if min(len(examples.train), len(examples.held_out)) < MIN_FOUND:
        few = by_score(order, "the sources find too few of the labelled items", report)
        return LearnedRanker(few, frozenset(), examples)
    found = gated(examples, settings) if gate and settings.gating.enabled else Gated(examples)
    if min(len(found.examples.train), len(found.examples.held_out)) < MIN_FOUND:
        found = Gated(examples)
    if found.rows:
        report["gating"] = {"dropped": found.names, "without": dict(found.rows)}
    ranker = _judged(found, examples, order, settings, report, on_held_out)
    if isinstance(ranker, ByScoreRanker):  # its order is made of all sources
        report.pop("gating", None)
        return LearnedRanker(ranker, frozenset(), examples)
    return LearnedRanker(ranker, found.sources, found.examples)


def by_score(order: Sequence[str], reason: str, report: dict[str, Any]) -> ByScoreRanker:
    """The sources' own order, and why, in the report and the log."""
    report["ranker_reason"] = reason
    logger.info("ranker: by the sources' own order (%s), because %s", ", ".join(dict.fromkeys(order)), reason)
    return ByScoreRanker(tuple(dict.fromkeys(order)))


def _judged(
    gate: Gated,
    examples: SplitExamples,
    order: Sequence[str],
    settings: Settings,
    report: dict[str, Any],
    on_held_out: Callable[[float], None] | None,
) -> Ranker:
    held_out = examples.held_out
    if len(np.unique(held_out.users)) < 2:
        return by_score(order, "the lists to judge by are all of one user", report)
    forest, num_trees = settings.lambdamart, settings.lambdamart.trees_for(len(gate.examples.train))
    one = forest.model_copy(update={"forests": 1})
    judged = LambdaMartRanker.fit(gate.examples.train, num_trees, one, settings.seed, settings.threads)
    found = _Comparison.of(_orders(held_out, gate.scores(judged, held_out.features)), held_out.users)
    report[RANKER] = {
        "held_out_ndcg@10": found.scores, "lead": round(found.lead.mean, 5), "lead_error": round(found.lead.error, 5),
        "trees": num_trees, "train_lists": len(gate.examples.train), "held_out_lists": len(held_out),
    }  # fmt: skip
    if on_held_out:
        on_held_out(found.scores[RANKER])
    verdict = f"NDCG@10 on held-out users: {found}"
    logger.info(verdict)
    if 0 < found.lead.mean < forest.margin * found.lead.error:
        found = _cross_fitted(examples.everything, num_trees, one, settings)
        report[RANKER] |= {
            "cross_fitted_ndcg@10": found.scores, "cross_fitted_lead": round(found.lead.mean, 5),
            "cross_fitted_lead_error": round(found.lead.error, 5),
        }  # fmt: skip
        verdict = f"NDCG@10 of all users, each held out once, as a fifth of them leaves it open: {found}"
        logger.info(verdict)
    if found.lead.mean < forest.margin * found.lead.error:
        return by_score([found.best, *order], verdict, report)
    final = LambdaMartRanker.fit(gate.examples.everything, num_trees, forest, settings.seed, settings.threads)
    report[RANKER]["gains"] = dict(list(final.gains().items())[:30])
    return final


def _orders(lists: RankingExamples, scores: FloatArray) -> dict[str, Floats]:
    """NDCG@10 of each list, (n_lists,), by the ranker's `scores` (n_pairs,) and by each source's order."""
    return {RANKER: list_ndcg(lists, scores)} | source_orders(lists)


def _cross_fitted(
    examples: RankingExamples, num_trees: int, forest: LambdaMartSettings, settings: Settings
) -> _Comparison:
    """Every list is judged once, by a forest fitted without its user, and with all there is: what was dropped was
    chosen by these users. Five times the lists of the held-out users, though most with a sample of their candidates
    (`examples.negatives_per_list`), which makes all figures higher; so it only settles what full lists leave open.
    """
    fold = folds(examples.users, min(FOLDS, len(np.unique(examples.users))), settings.seed)
    scores = np.empty(len(examples.labels))
    for out in range(fold.max() + 1):
        ranker = LambdaMartRanker.fit(examples.select(fold != out), num_trees, forest, settings.seed, settings.threads)
        scores[(fold == out)[examples.features.query_rows]] = ranker.score(examples.select(fold == out).features)
    return _Comparison.of(_orders(examples, scores), examples.users)
