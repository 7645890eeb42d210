"""What is known of a user from its history: activity, pace, and what kind of items it takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from features.histories import Histories
from features.item import DAY, Columns, ItemFeatures

SESSION_SECONDS = 1800.0
_RECENT, _LIMIT = 5.0, 100  # half-life and reach in moments


def user_columns(histories: Histories, items: ItemFeatures) -> Columns:
    """Features of each history, (n,) float32; NaN where there is nothing to measure."""
    n = len(histories)
    touches = histories.last_touches
    distinct = np.diff(touches.indptr)
    out: dict[str, npt.NDArray[Any]] = {
        "user:events": np.log1p(histories.lengths),
        "user:items": np.log1p(distinct),
        "user:moments": np.log1p(histories.num_moments),
        "user:repeat_share": 1 - distinct / np.maximum(histories.lengths, 1),
        "user:last_basket": _in_last_moment(histories),
    }
    out |= _pace(histories)
    out |= _novelty(histories, items)
    liked = touches.weights > 0
    popularity = items.popularity[touches.item_rows[liked], -1]
    out["user:mean_popularity"] = _mean(popularity, touches.query_rows[liked], n)
    return {name: np.asarray(values, np.float32) for name, values in out.items()}


def mean_numbers(histories: Histories, items: ItemFeatures) -> npt.NDArray[np.float32]:
    """(n, num_numbers): the mean of each number (price, ...) over the history's liked items; NaN where unknown."""
    touches = histories.last_touches
    liked = touches.weights > 0
    values, queries = items.numbers[touches.item_rows[liked]], touches.query_rows[liked]
    means = [_mean(values[:, k], queries, len(histories)) for k in range(values.shape[1])]
    return np.stack(means, axis=1).astype(np.float32)


def _mean(values: npt.NDArray[np.floating], groups: npt.NDArray[np.int64], n: int) -> npt.NDArray[np.float64]:
    known = ~np.isnan(values)
    counts = np.bincount(groups[known], minlength=n)
    sums = np.bincount(groups[known], values[known].astype(np.float64), n)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _in_last_moment(histories: Histories) -> npt.NDArray[np.int64]:
    touches = histories.last_touches
    newest = (touches.moments_ago == 0) & (touches.weights > 0)
    return np.bincount(touches.query_rows[newest], minlength=len(histories))


def _pace(histories: Histories) -> Columns:
    """Gaps in log seconds: since the newest event, and the mean between moments; events of the running session."""
    n = len(histories)
    first, last = np.full(n, np.nan), np.full(n, np.nan)
    filled = histories.lengths > 0
    first[filled] = histories.times[histories.indptr[:-1][filled]]
    last[filled] = histories.times[histories.indptr[1:][filled] - 1]
    age = np.maximum(histories.as_of - last, 0.0)
    recent = histories.as_of[histories.query_rows] - histories.times < SESSION_SECONDS
    mean_gap = (last - first) / np.maximum(histories.num_moments - 1, 1)
    return {
        "user:gap": np.log1p(age).astype(np.float32),
        "user:mean_gap": np.log1p(np.maximum(mean_gap, 0.0)).astype(np.float32),
        "user:days_known": ((histories.as_of - first) / DAY).astype(np.float32),
        "user:session_events": np.bincount(histories.query_rows[recent], minlength=n).astype(np.float32),
    }


def _novelty(histories: Histories, items: ItemFeatures) -> Columns:
    """How much of the history is items that were untouched when the statistics were made: who takes one takes another.
    In the newest moment, and lately.
    """
    out = {}
    for name, half_life in (("user:new_last", 0.0), ("user:new_recent", _RECENT)):
        weights = histories.weighted(half_life, _LIMIT)
        sums = np.bincount(weights.query_rows, weights.data * items.untouched[weights.indices], len(histories))
        share = sums / np.maximum(weights.totals, 1e-9)
        out[name] = np.where(weights.totals > 0, share, np.nan).astype(np.float32)
    return out
