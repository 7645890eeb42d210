"""Examples -> the ranker: parts that do not help are dropped, the forest is stopped and judged on held-out users."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from features.tables import BoolArray
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
    first = halves(held_out.users, settings.seed)
    tried = [_stopped(gate, held_out, first, forest, settings) for forest in settings.lambdamart.sizes()]
    by_size = {str(stopped.forest.num_leaves): round(mean(cross_judged([stopped], first)), 5) for stopped in tried}
    chosen = max(tried, key=lambda stopped: by_size[str(stopped.forest.num_leaves)])
    forest, num_trees = chosen.forest, round(float(np.mean(chosen.num_trees)))
    each = {RANKER: cross_judged(tried, first)} | source_orders(held_out)
    scores = {name: round(mean(values), 5) for name, values in each.items()}
    best = max((name for name in scores if name != RANKER), key=lambda name: scores[name])
    lead = Difference.of(each[RANKER], each[best], held_out.users)
    report[RANKER] = {
        "held_out_ndcg@10": scores, "lead": round(lead.mean, 5), "lead_error": round(lead.error, 5),
        "trees": num_trees, "leaves": forest.num_leaves, "held_out_by_leaves": by_size,
        "train_lists": len(gate.examples.train), "held_out_lists": len(held_out),
    }  # fmt: skip
    if on_held_out:
        on_held_out(scores[RANKER])
    logger.info("trees of %d leaves, by NDCG@10 on held-out users of %s", forest.num_leaves, by_size)
    verdict = f"NDCG@10 on held-out users: the ranker {scores[RANKER]:.4f}, {best} alone {scores[best]:.4f} ({lead})"
    logger.info(verdict)
    if lead.mean < forest.margin * lead.error:
        return by_score([best, *order], verdict, report)
    final = LambdaMartRanker.fit(gate.examples.everything, num_trees, forest, settings.seed, settings.threads)
    report[RANKER]["gains"] = dict(list(final.gains().items())[:30])
    return final


@dataclass(frozen=True)
class Stopped:
    """A forest stopped twice: where the first half of the held-out users likes it best, and where the second does.
    `num_trees` (2,) says when, `ndcg` is NDCG@10 of all held-out lists, twice (n_lists,).
    """

    forest: LambdaMartSettings
    num_trees: Sequence[int]
    ndcg: Sequence[Floats]


def cross_judged(tried: Sequence[Stopped], first: BoolArray) -> Floats:
    """NDCG@10 of each held-out list, (n_lists,); `first` says which are of the first half of the users.

    One half says how large and how many the trees are that the other half is judged with: nobody judges a forest that
    was chosen, or stopped, where it suits him best.
    """
    by_first, by_second = (
        max((stopped.ndcg[half] for stopped in tried), key=lambda ndcg: mean(ndcg[own]))
        for half, own in enumerate((first, ~first))
    )
    return np.where(first, by_second, by_first)


def _stopped(
    gate: Gated, held_out: RankingExamples, first: BoolArray, forest: LambdaMartSettings, settings: Settings
) -> Stopped:
    """A forest on `held_out` lists, which lack nothing."""
    left = gate.examples.held_out
    stops = [left.select(np.isin(left.users, held_out.users[side])) for side in (first, ~first)]
    usable = [stop if len(stop) else left for stop in stops]
    fitted, best = LambdaMartRanker.fit_stopped(gate.examples.train, usable, forest, settings.seed, settings.threads)
    num_trees = [max(trees, forest.min_trees) for trees in best]
    forests = [fitted.first_trees(trees) for trees in num_trees]
    ndcg = [list_ndcg(held_out, gate.scores(stopped, held_out.features)) for stopped in forests]
    return Stopped(forest, num_trees, ndcg)
