"""Ranking metrics and how sure of them one can be. Pure functions: one value a query, NaN where nothing is relevant.

They read a hit matrix (n_queries, width) bool, one column a position of the list, and `num_relevant` (n_queries,), how
many relevant items each query has. Queries of one user are not independent of each other, so every interval resamples
users (the cluster bootstrap of Davison and Hinkley 1997, section 3.8), not queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Hits = npt.NDArray[np.bool_]
Users = Sequence[str] | npt.NDArray[Any]

NUM_SAMPLES = 1000
"""Bootstrap samples: the limits of a 95 % interval then rest on 25 samples each."""


def hit_matrix(lists: Sequence[Sequence[str]], truths: Sequence[AbstractSet[str]], width: int) -> Hits:
    """(n_queries, width) bool: whether the item at that position is relevant; false past the end of a short list."""
    hits = np.zeros((len(lists), width), dtype=bool)
    for row, (items, truth) in enumerate(zip(lists, truths, strict=True)):
        found = [item in truth for item in items[:width]]
        hits[row, : len(found)] = found
    return hits


def ndcg_at_k(hits: Hits, num_relevant: npt.NDArray[np.integer], k: int) -> Floats:
    """Discounted gain of the first k positions, divided by a perfect list's, which has min(num_relevant, k) hits."""
    gains = 1 / np.log2(np.arange(2, k + 2))
    perfect = np.concatenate([[0.0], np.cumsum(gains)])[np.minimum(num_relevant, k)]
    top = hits[:, :k]
    return _share(top @ gains[: top.shape[1]], perfect)


def hit_at_k(hits: Hits, num_relevant: npt.NDArray[np.integer], k: int) -> Floats:
    """1 where any of the first k positions is a hit, else 0."""
    return np.where(np.asarray(num_relevant) > 0, hits[:, :k].any(axis=1), np.nan).astype(np.float64)


def recall_at_k(hits: Hits, num_relevant: npt.NDArray[np.integer], k: int) -> Floats:
    """Hits among the first k positions divided by min(num_relevant, k), so that a perfect list scores 1."""
    return _share(hits[:, :k].sum(axis=1), np.minimum(num_relevant, k))


def mrr_at_k(hits: Hits, num_relevant: npt.NDArray[np.integer], k: int) -> Floats:
    """1 / position of the first hit among the first k positions (1 = best), 0 without one."""
    top = hits[:, :k]
    reciprocal = (top / np.arange(1, top.shape[1] + 1)).max(axis=1, initial=0.0)
    return np.where(np.asarray(num_relevant) > 0, reciprocal, np.nan)


def num_distinct(lists: Sequence[Sequence[str]], k: int) -> int:
    """How many different items occur in the first k positions of the lists."""
    return len({item for items in lists for item in items[:k]})


def coverage(lists: Sequence[Sequence[str]], num_items: int, k: int) -> float:
    """The share of the catalogue that occurs in the first k positions of any list; 0 for an empty catalogue."""
    return num_distinct(lists, k) / num_items if num_items else 0.0


def cold_recall_at_k(
    lists: Sequence[Sequence[str]], truths: Sequence[AbstractSet[str]], cold: AbstractSet[str], k: int
) -> Floats:
    """Recall of the relevant items that are `cold` (no training event); NaN for queries that have none."""
    fresh = [truth & cold for truth in truths]
    return recall_at_k(hit_matrix(lists, fresh, k), count(fresh), k)


def count(truths: Sequence[AbstractSet[str]]) -> npt.NDArray[np.int64]:
    """How many relevant items each query has, (n_queries,): the `num_relevant` of the other functions."""
    return np.array([len(truth) for truth in truths], dtype=np.int64)


def mean(values: Floats) -> float:
    """The mean over the queries for which the metric is defined; NaN where there are none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


@dataclass(frozen=True)
class Interval:
    """Where the mean lies with the asked probability; NaN where there is no query."""

    low: float
    high: float


@dataclass(frozen=True)
class PairedDifference:
    """The mean of a - b over the same queries, its interval, and how sure its sign is.

    `p_value` is two-sided, against "no difference"; `probability_better` is the share of samples in which a is ahead,
    ties counting half.
    """

    difference: float
    interval: Interval
    p_value: float
    probability_better: float

    @property
    def verdict(self) -> str:
        """`better`, `worse` or, where the interval holds 0, `no clear difference`."""
        if self.interval.low > 0:
            return "better"
        return "worse" if self.interval.high < 0 else "no clear difference"


def standard_error(values: Floats, users: Users) -> float:
    """Standard error of the mean, clustered by user; NaN without a query."""
    values, users = _defined(values, users)
    if not len(values):
        return float("nan")
    residuals, _ = _by_user(values - values.mean(), users)
    return float(np.sqrt((residuals**2).sum()) / len(values))


def bootstrap_interval(
    values: Floats, users: Users, rng: np.random.Generator, level: float = 0.95, num_samples: int = NUM_SAMPLES
) -> Interval:
    """Percentile interval of the mean, resampling users. `users` (n_queries,) names each query's user."""
    means = _resampled_means(*_defined(values, users), rng, num_samples)
    return _interval(means, level)


def paired_bootstrap(
    a: Floats, b: Floats, users: Users, rng: np.random.Generator, level: float = 0.95, num_samples: int = NUM_SAMPLES
) -> PairedDifference:
    """Compare two systems on the same queries: values a and b (n_queries,), resampling users.

    Queries for which either is undefined are left out.
    """
    if len(a) != len(b):
        raise ValueError(f"paired systems answer the same queries, but there are {len(a)} and {len(b)} values")
    differences, kept = _defined(a - b, users)
    if not len(differences):
        nan = float("nan")
        return PairedDifference(nan, Interval(nan, nan), nan, nan)
    means = _resampled_means(differences, kept, rng, num_samples)
    # One is added so that a finite number of samples never claims a probability of zero.
    tails = (1 + np.array([(means <= 0).sum(), (means >= 0).sum()])) / (len(means) + 1)
    ahead = float((means > 0).mean() + 0.5 * (means == 0).mean())
    return PairedDifference(float(differences.mean()), _interval(means, level), min(1.0, 2 * float(tails.min())), ahead)


def _share(part: npt.NDArray[Any], whole: npt.NDArray[Any]) -> Floats:
    """part / whole, NaN where the whole is 0."""
    shares: Floats = np.divide(part, whole, out=np.full(len(part), np.nan), where=np.asarray(whole) > 0)
    return shares


def _defined(values: Floats, users: Users) -> tuple[Floats, npt.NDArray[Any]]:
    if len(values) != len(users):
        raise ValueError(f"every query has one user, but there are {len(values)} values and {len(users)} users")
    defined = ~np.isnan(values)
    return values[defined], np.asarray(users)[defined]


def _by_user(values: Floats, users: npt.NDArray[Any]) -> tuple[Floats, Floats]:
    """Each user's sum of values and number of queries."""
    _, rows = np.unique(users, return_inverse=True)
    return np.bincount(rows, values).astype(np.float64), np.bincount(rows).astype(np.float64)


def _resampled_means(values: Floats, users: npt.NDArray[Any], rng: np.random.Generator, num_samples: int) -> Floats:
    if not len(values):
        return np.full(num_samples, np.nan)
    sums, counts = _by_user(values, users)
    means = np.empty(num_samples)
    for sample in range(num_samples):
        drawn = rng.integers(len(sums), size=len(sums))
        means[sample] = sums[drawn].sum() / counts[drawn].sum()
    return means


def _interval(means: Floats, level: float) -> Interval:
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(low), float(high))
