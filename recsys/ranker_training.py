"""Examples -> the ranker: parts that do not help are dropped, the forest is stopped and judged on held-out users."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from features.tables import IntArray
from ranking.base import Ranker
from ranking.by_score import ByScoreRanker
from ranking.examples import RankingExamples, SplitExamples
from ranking.lambdamart import LambdaMartRanker, LambdaMartSettings
from recsys.comparison import Difference, halves, list_ndcg, source_orders
from recsys.gating import Gated, gated
from recsys.metrics import Floats, mean
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
    tried = [_cross_stopped(gate, held_out, forest, settings) for forest in settings.lambdamart.sizes()]
    by_size = {str(stopped.forest.num_leaves): round(mean(stopped.each[RANKER]), 5) for stopped in tried}
    chosen = max(tried, key=lambda stopped: by_size[str(stopped.forest.num_leaves)])
    forest, each, users = chosen.forest, chosen.each, chosen.users
    scores = {name: round(mean(values), 5) for name, values in each.items()}
    best = max((name for name in scores if name != RANKER), key=lambda name: scores[name])
    lead = Difference.of(each[RANKER], each[best], users)
    report[RANKER] = {
        "held_out_ndcg@10": scores, "lead": round(lead.mean, 5), "lead_error": round(lead.error, 5),
        "trees": chosen.num_trees, "leaves": forest.num_leaves, "held_out_by_leaves": by_size,
        "train_lists": len(gate.examples.train), "held_out_lists": len(held_out),
    }  # fmt: skip
    if on_held_out:
        on_held_out(scores[RANKER])
    logger.info("trees of %d leaves, by NDCG@10 on held-out users of %s", forest.num_leaves, by_size)
    verdict = f"NDCG@10 on held-out users: the ranker {scores[RANKER]:.4f}, {best} alone {scores[best]:.4f} ({lead})"
    logger.info(verdict)
    if lead.mean < forest.margin * lead.error:
        return by_score([best, *order], verdict, report)
    final = LambdaMartRanker.fit(gate.examples.everything, chosen.num_trees, forest, settings.seed, settings.threads)
    report[RANKER]["gains"] = dict(list(final.gains().items())[:30])
    return final


@dataclass(frozen=True)
class _Stopped:
    """`each` is NDCG@10 of each held-out list by the forest and by each source, `users` whose list it is, `num_trees`
    the number of trees that was best.
    """

    forest: LambdaMartSettings
    each: dict[str, Floats]
    users: IntArray
    num_trees: int


def _cross_stopped(gate: Gated, held_out: RankingExamples, forest: LambdaMartSettings, settings: Settings) -> _Stopped:
    """A forest judged on `held_out` lists, which lack nothing.

    One half of the users says how many trees the other half is judged with: nobody judges a forest that was stopped
    where it suits him best.
    """
    left = gate.examples.held_out
    first = halves(held_out.users, settings.seed)
    stops = [left.select(np.isin(left.users, held_out.users[side])) for side in (first, ~first)]
    usable = [stop if len(stop) else left for stop in stops]
    fitted, best = LambdaMartRanker.fit_stopped(gate.examples.train, usable, forest, settings.seed, settings.threads)
    num_trees = [max(trees, forest.min_trees) for trees in best]
    judges = [held_out.select(side) for side in (first, ~first)]
    judged = []
    for part, trees in zip(judges, num_trees[::-1], strict=True):
        by_forest = list_ndcg(part, gate.scores(fitted.first_trees(trees), part.features))
        judged.append({RANKER: by_forest} | source_orders(part))
    each = {name: np.concatenate([values[name] for values in judged]) for name in judged[0]}
    users = np.concatenate([part.users for part in judges])
    return _Stopped(forest, each, users, round(float(np.mean(num_trees))))
