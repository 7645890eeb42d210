"""A linear model of what comes next, in closed form: ridge regression of a user's coming moments on those before (SLIT,
Choi et al. 2021), bounded to the most popular items and stored sparse.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import scipy.linalg
import scipy.sparse as sp
from pydantic import Field

from features.settings import Settings
from recsys.retrieval.base import FitData
from recsys.retrieval.item_item import ItemItemSource, empty_weights
from recsys.retrieval.linear import Dense, largest_weights, most_popular
from recsys.retrieval.transitions import Moments


class LinearNextSettings(Settings):
    """Settings of the linear-next source; a tuple of several values is chosen from on a held-out window."""

    regularization: tuple[float, ...] = Field(default=(30.0, 300.0), min_length=1)
    """L2 penalty on the weights, in units of co-occurrence counts."""
    half_life: tuple[float | None, ...] = Field(default=(5.0, 2.0, 0.7), min_length=1)
    past_half_life: float = Field(default=2.0, gt=0)
    """Moments after which what came before counts half, in what is learned from."""
    past_moments: int = Field(default=20, ge=1)
    """Moments before that are looked at."""
    coming_moments: int = Field(default=8, ge=1)
    """Moments to come that are wanted."""
    patience: float = Field(default=1.0, gt=0)
    """Moments by which what is wanted may be late to count 1/e."""
    max_items: int = Field(default=10_000, ge=1)
    """Only the most popular items take part: the solution is dense in them (10,000: up to 1.6 GB for a while)."""
    weights_per_item: int = Field(default=300, ge=1)
    """Largest weights kept of each item."""
    history_limit: int = Field(default=100, ge=1)
    """Newest moments looked at."""


@dataclass(frozen=True)
class LinearNextSource(ItemItemSource):
    """Each item's column is the ridge regression of its coming on all items before: B = (S'S + lambda I)^-1 S'T, a row
    of S being what a user had taken at a moment, that of T what it took from then on.
    """

    name: ClassVar[str] = "linear_next"

    @classmethod
    def fit(cls, data: FitData, settings: LinearNextSettings) -> Self:
        """Where nobody has acted in two moments, nothing comes after anything."""
        liked, events = data.weights > 0, data.events
        moments = Moments.of(events.user_rows[liked], events.item_rows[liked], events.times[liked], data.num_items)
        kept = most_popular(data, settings.max_items)
        before, coming = _before_and_coming(moments, kept, settings)
        if len(kept) < 2 or not before.nnz:
            return cls(empty_weights(data.num_items), settings.half_life[0], settings.history_limit)
        weights = largest_weights(
            _solve(before, coming, settings.regularization[0]), kept, data.num_items, settings.weights_per_item
        )
        return cls(weights, settings.half_life[0], settings.history_limit)


def _before_and_coming(
    moments: Moments, kept: np.ndarray, settings: LinearNextSettings
) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """S and T, (n_moments, n_kept) CSR float32: one row a moment that has one before it."""
    own = moments.baskets[:, kept]
    before, coming = _earlier(moments.users, 1) @ own, own
    for distance in range(1, settings.past_moments + 1):
        earlier = _earlier(moments.users, distance)
        if not earlier.nnz:
            break
        if distance > 1:
            before = before + (earlier @ own) * np.float32(0.5 ** ((distance - 1) / settings.past_half_life))
        if distance <= settings.coming_moments:
            coming = coming + (earlier.T @ own) * np.float32(math.exp(-distance / settings.patience))
    rows = np.flatnonzero(np.diff(before.indptr))
    return before[rows], coming.tocsr()[rows]


def _earlier(users: np.ndarray, distance: int) -> sp.csr_matrix:
    """(n_moments, n_moments): 1 from each moment to its user's `distance` moments before."""
    later = np.flatnonzero(users[distance:] == users[:-distance]) + distance
    ones = np.ones(len(later), np.float32)
    return sp.csr_matrix((ones, (later, later - distance)), shape=(len(users), len(users)))


def _solve(before: sp.csr_matrix, coming: sp.csr_matrix, regularization: float) -> Dense:
    """(n, n) float32 weights with a zero diagonal."""
    gram = np.asfortranarray((before.T @ before).toarray(), dtype=np.float32)
    gram[np.diag_indices_from(gram)] += regularization
    wanted = np.asfortranarray((before.T @ coming).toarray(), dtype=np.float32)
    try:
        factor = scipy.linalg.cho_factor(gram, lower=True, overwrite_a=True, check_finite=False)
    except np.linalg.LinAlgError:
        raise np.linalg.LinAlgError(
            f"the item Gram matrix is not positive definite; raise linear_next.regularization ({regularization})"
        ) from None
    weights: Dense = scipy.linalg.cho_solve(factor, wanted, overwrite_b=True, check_finite=False)
    np.fill_diagonal(weights, 0.0)
    return np.ascontiguousarray(weights)
