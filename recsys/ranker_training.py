"""Examples -> the ranker: parts that do not help are dropped, and a forest is judged on held-out users."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from features.tables import IntArray
from ranking.base import Ranker
from ranking.by_score import ByScoreRanker, source_ndcg
from ranking.examples import SplitExamples
from ranking.lambdamart import LambdaMartRanker
from recsys.comparison import Difference, list_ndcg
from recsys.gating import Gated, gated
from recsys.metrics import Floats, mean
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
    """`ranker` needs no source of `dropped`; `examples` are what it learned from, without what was dropped."""

    ranker: Ranker
    dropped: frozenset[str]
    examples: SplitExamples


@dataclass(frozen=True)
class _Comparison:
    """NDCG@10 of the ranker and of the sources' orders on the same lists; `lead`: the ranker's over `best`, the best of
    those.
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
        return f"the ranker {self.scores[RANKER]:.4f}, {self.best} {self.scores[self.best]:.4f} ({self.lead})"


def learned_ranker(
    examples: SplitExamples,
    order: ByScoreRanker,
    settings: Settings,
    report: dict[str, Any],
    on_held_out: Callable[[float], None] | None = None,
    *,
    gate: bool = True,
) -> LearnedRanker:
    """The forests, fitted on all users unless they are behind the sources' own orders on held-out ones; else the order
    of the sources, or `order` where there is nothing to learn from. What was found goes into `report`; `on_held_out`:
    see `train`.
    """
    if min(len(examples.train), len(examples.held_out)) < MIN_FOUND:
        few = by_score(order, "the sources find too few of the labelled items", report)
        return LearnedRanker(few, frozenset(), examples)
    found = gated(examples, settings) if gate and settings.gating.enabled else Gated(examples)
    if min(len(found.examples.train), len(found.examples.held_out)) < MIN_FOUND:
        found = Gated(examples)
    if found.rows:
        report["gating"] = {"dropped": found.names, "without": dict(found.rows)}
    ranker = _judged(found, examples, settings, report, on_held_out)
    if isinstance(ranker, ByScoreRanker):  # its order is made of all sources
        report.pop("gating", None)
        return LearnedRanker(ranker, frozenset(), examples)
    return LearnedRanker(ranker, found.sources, found.examples)


def by_score(order: ByScoreRanker, reason: str, report: dict[str, Any]) -> ByScoreRanker:
    """`order`, the sources' own, and why, in the report and the log."""
    report["ranker_reason"] = reason
    shares = sorted(zip(order.weights, order.sources, strict=True), key=lambda pair: -pair[0])
    named = ", ".join(f"{source} {weight:.2f}" for weight, source in shares)
    logger.info("ranker: by the sources' own order (%s), because %s", named, reason)
    return order


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
    scores = {
        RANKER: gate.scores(judged, held_out.features),
        FUSED: ByScoreRanker.fit(examples.train).score(held_out.features),
    }
    each = {name: list_ndcg(held_out, own) for name, own in scores.items()} | source_ndcg(held_out)
    found = _Comparison.of(each, held_out.users)
    report[RANKER] = {
        "held_out_ndcg@10": found.scores, "lead": round(found.lead.mean, 5), "lead_error": round(found.lead.error, 5),
        "trees": num_trees, "train_lists": len(gate.examples.train), "held_out_lists": len(held_out),
    }  # fmt: skip
    if on_held_out:
        on_held_out(found.scores[RANKER])
    verdict = f"NDCG@10 on held-out users: {found}"
    logger.info(verdict)
    if found.lead.mean < -forest.tolerance * found.lead.error:
        return by_score(ByScoreRanker.fit(examples.everything), verdict, report)
    final = LambdaMartRanker.fit(gate.examples.everything, num_trees, forest, settings.seed, settings.threads)
    report[RANKER]["gains"] = dict(list(final.gains().items())[:30])
    return final
