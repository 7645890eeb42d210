"""Calibration: whether a higher score means a better chance of a hit, across lists."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.metrics import Floats, Hits, Users, standard_error

NUM_BINS = 10
_NORMAL_95 = 1.959964


def reliability(scores: Floats, hits: Hits, users: Users, num_bins: int = NUM_BINS) -> list[dict[str, Any]]:
    """Bins of about equally many shown items by score, lowest first: how many of them were right.

    `scores` (n_queries, width), NaN where there is no item; `hits` the same shape; `users` (n_queries,). Equal scores
    share a bin, so there may be fewer. The interval (95 %) is clustered by user.
    """
    shown = ~np.isnan(scores)
    if not shown.any():
        return []
    values, right = scores[shown], hits[shown].astype(np.float64)
    _, user_rows = np.unique(np.asarray(users), return_inverse=True)
    owners = np.broadcast_to(user_rows[:, None], scores.shape)[shown]
    edges = np.unique(np.quantile(values, np.arange(1, num_bins + 1) / num_bins, method="inverted_cdf"))
    codes = np.searchsorted(edges, values)
    return [_bin(values[codes == k], right[codes == k], owners[codes == k]) for k in range(len(edges))]


def _bin(scores: Floats, right: Floats, owners: npt.NDArray[np.int64]) -> dict[str, Any]:
    rate, error = float(right.mean()), _NORMAL_95 * standard_error(right, owners)
    return {
        "score_low": float(scores.min()), "score_high": float(scores.max()), "score_mean": float(scores.mean()),
        "shown": len(scores), "hits": int(right.sum()), "hit_rate": rate,
        "low": max(0.0, rate - error), "high": min(1.0, rate + error),
    }  # fmt: skip
