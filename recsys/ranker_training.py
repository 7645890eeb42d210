"""Examples -> the ranker: parts that do not help are dropped, and a forest is judged on held-out users."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ranking.base import Ranker
from ranking.by_score import ByScoreRanker
from ranking.examples import RankingExamples, SplitExamples
from ranking.lambdamart import LambdaMartRanker
from recsys.comparison import Difference, list_ndcg, source_orders
from recsys.gating import Gated, gated
from recsys.metrics import mean
from recsys.settings import Settings

logger = logging.getLogger(__name__)
RANKER = "ranker"
"""The ranker's name among those of the sources."""
MIN_FOUND = 10
"""Lists in which a source found a label, on either side of the split, that a ranker takes at least."""


@dataclass(frozen=True)
class LearnedRanker:
    """`ranker` needs no source of `dropped`; `examples` are what it learned from, without what was dropped."""

    ranker: Ranker
    dropped: frozenset[str]
    examples: SplitExamples


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
    ranker = _judged(found, examples.held_out, order, settings, report, on_held_out)
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
    held_out: RankingExamples,
    order: Sequence[str],
    settings: Settings,
    report: dict[str, Any],
    on_held_out: Callable[[float], None] | None,
) -> Ranker:
    if len(np.unique(held_out.users)) < 2:
        return by_score(order, "the lists to judge by are all of one user", report)
    forest, num_trees = settings.lambdamart, settings.lambdamart.trees_for(len(gate.examples.train))
    one = forest.model_copy(update={"forests": 1})
    judged = LambdaMartRanker.fit(gate.examples.train, num_trees, one, settings.seed, settings.threads)
    each = {RANKER: list_ndcg(held_out, gate.scores(judged, held_out.features))} | source_orders(held_out)
    scores = {name: round(mean(values), 5) for name, values in each.items()}
    best = max((name for name in scores if name != RANKER), key=lambda name: scores[name])
    lead = Difference.of(each[RANKER], each[best], held_out.users)
    report[RANKER] = {
        "held_out_ndcg@10": scores, "lead": round(lead.mean, 5), "lead_error": round(lead.error, 5),
        "trees": num_trees, "train_lists": len(gate.examples.train), "held_out_lists": len(held_out),
    }  # fmt: skip
    if on_held_out:
        on_held_out(scores[RANKER])
    verdict = f"NDCG@10 on held-out users: the ranker {scores[RANKER]:.4f}, {best} alone {scores[best]:.4f} ({lead})"
    logger.info(verdict)
    if lead.mean < forest.margin * lead.error:
        return by_score([best, *order], verdict, report)
    final = LambdaMartRanker.fit(gate.examples.everything, num_trees, forest, settings.seed, settings.threads)
    report[RANKER]["gains"] = dict(list(final.gains().items())[:30])
    return final
