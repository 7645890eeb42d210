"""Examples -> the ranker: parts that do not help are dropped, and a forest is judged on held-out users."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ranking.base import Ranker
from ranking.by_score import ByScoreRanker
from ranking.examples import SplitExamples
from ranking.lambdamart import LambdaMartRanker
from ranking.list_metrics import list_ndcg, ndcg_by_source
from recsys.comparison import Difference
from recsys.gating import Gated, gated
from recsys.metrics import mean
from recsys.settings import Settings

logger = logging.getLogger(__name__)
RANKER = "ranker"
"""The ranker's name among those of the sources."""
FUSED = "all sources"
"""The name of the sources' joint order among their own."""
MIN_FOUND = 10
"""Lists in which a source found a label, on either side of the split, that a ranker takes at least."""


@dataclass(frozen=True)
class LearnedRanker:
    """`ranker` needs no source of `dropped`; `examples` are what it learned from, without what was dropped: these
    sources, and groups of features.
    """

    ranker: Ranker
    dropped: frozenset[str]
    examples: SplitExamples


def learned_ranker(
    examples: SplitExamples,
    settings: Settings,
    report: dict[str, Any],
    on_held_out: Callable[[float], None] | None = None,
    *,
    gate: bool = True,
) -> LearnedRanker:
    """The forests, fitted on all users of `enough` examples, unless they are behind the sources' joint order on
    held-out ones; then that order. What was found goes into `report`; `on_held_out`: see `train`.
    """
    found = gated(examples, settings) if gate and settings.gating.enabled else Gated(examples)
    if found.dropped and not enough(found.examples):
        found = Gated(examples, skipped=f"too few lists are left without {', '.join(found.names)}")
    if found.skipped:
        report["gating_skipped"] = found.skipped
        logger.info("gating: skipped, because %s", found.skipped)
    if found.rows:
        report["gating"] = {"dropped": found.names, "without": dict(found.rows)}
    ranker = _judged(found, examples, settings, report, on_held_out)
    if isinstance(ranker, ByScoreRanker):  # its order is made of all sources
        report.pop("gating", None)
        report.pop("gating_skipped", None)
        return LearnedRanker(ranker, frozenset(), examples)
    return LearnedRanker(ranker, found.sources, found.examples)


def enough(examples: SplitExamples) -> bool:
    """Whether there are lists to learn from and lists to judge by."""
    return min(len(examples.train), len(examples.held_out)) >= MIN_FOUND


def by_score(order: ByScoreRanker, reason: str, report: dict[str, Any]) -> ByScoreRanker:
    """`order`, the sources' own, and why, in the report and the log."""
    report["ranker_reason"] = reason
    report["ranker_weights"] = _rounded(order)
    named = ", ".join(f"{source} {weight:.2f}" for source, weight in order.named().items())
    logger.info("ranker: by the sources' joint order (%s), because %s", named, reason)
    return order


def _rounded(order: ByScoreRanker) -> dict[str, float]:
    return {source: round(weight, 4) for source, weight in order.named().items()}


def _judged(
    gate: Gated,
    examples: SplitExamples,
    settings: Settings,
    report: dict[str, Any],
    on_held_out: Callable[[float], None] | None,
) -> Ranker:
    held_out, forest = examples.held_out, settings.lambdamart
    if len(np.unique(held_out.users)) < 2:
        reason = "the lists to judge by are all of one user"
        return by_score(ByScoreRanker.fit(examples.everything), reason, report)
    num_trees = forest.trees_for(len(gate.examples.train))
    one = forest.model_copy(update={"forests": 1})
    judged = LambdaMartRanker.fit(gate.examples.train, num_trees, one, settings.seed, settings.threads)
    fused = ByScoreRanker.fit(examples.train)
    scores = {RANKER: gate.scores(judged, held_out.features), FUSED: fused.score(held_out.features)}
    each = {name: list_ndcg(held_out, own) for name, own in scores.items()} | ndcg_by_source(held_out)
    found = {name: round(mean(values), 5) for name, values in each.items()}
    lead = Difference.of(each[RANKER], each[FUSED], held_out.users)
    report[RANKER] = {
        "held_out_ndcg@10": found, "lead": round(lead.mean, 5), "lead_error": round(lead.error, 5),
        "trees": num_trees, "train_lists": len(gate.examples.train), "held_out_lists": len(held_out),
    }  # fmt: skip
    if on_held_out:
        on_held_out(found[RANKER])
    best = next(iter(fused.named()))  # of the held-out users' best ones some are so by chance
    verdict = (
        f"NDCG@10 on held-out users: the ranker {found[RANKER]:.4f}, {FUSED} {found[FUSED]:.4f} ({lead}), "
        f"the source that was best in training ({best}) {found[best]:.4f}"
    )
    logger.info(verdict)
    if lead.mean < -forest.tolerance * lead.error:
        return by_score(ByScoreRanker.fit(examples.everything), verdict, report)
    final = LambdaMartRanker.fit(gate.examples.everything, num_trees, forest, settings.seed, settings.threads)
    report[RANKER]["starts_from"] = _rounded(final.start)
    report[RANKER]["gains"] = dict(list(final.gains().items())[:30])
    return final
