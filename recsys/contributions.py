"""Contributions: which features, and which groups of them, make the scores of the items that are shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from features.builder import FeatureMatrix
from ranking.base import ForestRanker
from recsys.list_rows import ListRows
from recsys.metrics import Floats
from recsys.model import FittedModel
from recsys.recommender import Recommender
from recsys.requests import Request

MAX_LISTS = 250
"""Lists, evenly spread over the queries, whose items are explained: TreeSHAP costs about a millisecond an item."""
TOP = 10
"""Items of a list that are explained."""


def contributions(model: FittedModel, requests: Sequence[Request], lists: ListRows) -> dict[str, Any] | None:
    """Gain and TreeSHAP value (Lundberg et al. 2020) of each feature and feature group; None without a forest.

    `lists` are the product's answers to `requests` (which share filters and `exclude_seen`), in rows of the model's
    catalogue. A group is what stands before
    the `:` of a feature's name: its values are added up before their magnitude is taken, so what cancels out within a
    group does not count. Gains are of the trees; what boosting starts from counts in the values alone.
    """
    if not len(requests):
        return None
    recommender = Recommender(model)
    ranker = recommender.chain(requests[0]).ranker
    if not isinstance(ranker, ForestRanker):
        return None
    chosen = np.unique(np.linspace(0, len(requests) - 1, min(MAX_LISTS, len(requests))).astype(np.int64))
    shown = _shown(recommender, [requests[k] for k in chosen], lists.item_rows[chosen, :TOP])
    shares = ranker.contributions(shown)[:, :-1]
    return {
        "lists": len(chosen),
        "items": len(shares),
        "groups": _groups(ranker, shares),
        "features": _features(ranker, shares, shown),
    }


def group_of(feature: str) -> str:
    """The feature group: the source, or the scope, that the feature belongs to."""
    return feature.partition(":")[0]


def _shown(recommender: Recommender, requests: Sequence[Request], item_rows: npt.NDArray[np.int32]) -> FeatureMatrix:
    """Features of the shown items, as they were when the lists were made (of a stream: without what it had told);
    fillers behind the last candidate have none.
    """
    asked = recommender.candidates(requests)
    pairs = asked.found.pairs
    return asked.matrix.select((item_rows[pairs.query_rows] == pairs.item_rows[:, None]).any(axis=1))


def _groups(ranker: ForestRanker, shares: Floats) -> list[dict[str, Any]]:
    groups = np.array([group_of(name) for name in ranker.names])
    gains = _gain_shares(ranker)
    rows = [
        {
            "group": str(group),
            "num_features": int((groups == group).sum()),
            "gain_share": float(gains[groups == group].sum()),
            "mean_abs": _mean_abs(shares[:, groups == group].sum(axis=1)),
        }
        for group in np.unique(groups)
    ]
    return sorted(rows, key=lambda row: (-row["mean_abs"], row["group"]))


def _features(ranker: ForestRanker, shares: Floats, shown: FeatureMatrix) -> list[dict[str, Any]]:
    rows = [
        {
            "feature": name,
            "group": group_of(name),
            "gain_share": float(gain),
            "mean_abs": _mean_abs(shares[:, k]),
            "direction": _correlation(shown.column(name).astype(np.float64), shares[:, k]),
        }
        for k, (name, gain) in enumerate(zip(ranker.names, _gain_shares(ranker), strict=True))
    ]
    return sorted(rows, key=lambda row: (-row["mean_abs"], row["feature"]))


def _gain_shares(ranker: ForestRanker) -> Floats:
    gains = ranker.gains()
    values = np.array([gains[name] for name in ranker.names])
    return values / (values.sum() or 1.0)


def _mean_abs(values: Floats) -> float:
    return float(np.abs(values).mean()) if len(values) else 0.0


def _correlation(values: Floats, shares: Floats) -> float | None:
    """Pearson's correlation of a feature's value with its contribution: above 0, more of it raises the score. None
    where either does not vary."""
    known = np.isfinite(values)
    x, y = values[known], shares[known]
    if not len(x) or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(np.corrcoef(x, y)[0, 1])
