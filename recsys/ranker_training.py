"""Examples -> the ranker: parts that do not help are dropped, and a forest is judged on held-out users."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from features.tables import IntArray
from ranking.base import Ranker
from ranking.by_score import ByScoreRanker
from ranking.examples import RankingExamples, SplitExamples
from ranking.lambdamart import LambdaMartRanker
from recsys.comparison import Difference, list_ndcg, source_orders
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
    found = _Comparison.of(_orders(gate, judged, held_out), held_out.users)
    report[RANKER] = {
        "held_out_ndcg@10": found.scores, "lead": round(found.lead.mean, 5), "lead_error": round(found.lead.error, 5),
        "trees": num_trees, "train_lists": len(gate.examples.train), "held_out_lists": len(held_out),
    }  # fmt: skip
    if on_held_out:
        on_held_out(found.scores[RANKER])
    verdict = f"NDCG@10 on held-out users: {found}"
    logger.info(verdict)
    if abs(found.lead.mean) < forest.margin * found.lead.error:
        found = _cross_fitted(gate, examples, num_trees, settings)
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


def _orders(gate: Gated, ranker: Ranker, lists: RankingExamples) -> dict[str, Floats]:
    """NDCG@10 of each list, (n_lists,), as the ranker orders it and as each source does."""
    return {RANKER: list_ndcg(lists, gate.scores(ranker, lists.features))} | source_orders(lists)


def _cross_fitted(gate: Gated, examples: SplitExamples, num_trees: int, settings: Settings) -> _Comparison:
    """Every list is judged once, by a forest fitted without its user: five times the lists of the held-out users, who
    are too few to tell where there are few lists at all.
    """
    everything, left = examples.everything, gate.examples.everything
    distinct = np.unique(everything.users)
    folds = min(FOLDS, len(distinct))
    fold_of = np.random.default_rng([settings.seed, 17]).permutation(len(distinct)) % folds
    one = settings.lambdamart.model_copy(update={"forests": 1})
    each, users = [], []
    for fold in range(folds):
        members = distinct[fold_of == fold]
        ranker = LambdaMartRanker.fit(
            left.select(~np.isin(left.users, members)), num_trees, one, settings.seed, settings.threads
        )
        judged = everything.select(np.isin(everything.users, members))
        each.append(_orders(gate, ranker, judged))
        users.append(judged.users)
    together = {name: np.concatenate([orders[name] for orders in each]) for name in each[0]}
    return _Comparison.of(together, np.concatenate(users))
