"""Next-item transitions: what is taken soon after what, a smoothed first-order Markov chain (Shani et al. 2005)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import scipy.sparse as sp
from pydantic import Field

from features.settings import Settings
from features.tables import IntArray
from recsys.retrieval.base import FitData
from recsys.retrieval.item_item import ItemItemSource, empty_weights, keep_largest


class TransitionsSettings(Settings):
    """Settings of the transitions source; a tuple of several values is chosen from on a held-out window."""

    window: int = Field(default=3, ge=1)
    """How many moments ahead count; the k-th weighs 1/k."""
    half_life: tuple[float | None, ...] = Field(default=(5.0, 2.0, 0.7), min_length=1)
    weights_per_item: int = Field(default=300, ge=1)
    history_limit: int = Field(default=100, ge=1)


@dataclass(frozen=True)
class TransitionsSource(ItemItemSource):
    """Counts of item -> item from one moment (basket) to the next ones, divided by the root of both totals."""

    name: ClassVar[str] = "transitions"

    @classmethod
    def fit(cls, data: FitData, settings: TransitionsSettings) -> Self:
        """Where nobody has acted in two moments, nothing follows anything."""
        baskets, users = _baskets(data)
        counts = empty_weights(data.num_items)
        for step in range(1, settings.window + 1):
            follows = np.flatnonzero(users[step:] == users[:-step])
            counts = counts + (baskets[follows].T @ baskets[follows + step]).tocsr() * np.float32(1 / step)
        out_of = np.sqrt(np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1e-9))
        into = np.sqrt(np.maximum(np.asarray(counts.sum(axis=0)).ravel(), 1e-9))
        counts.data /= np.repeat(out_of, np.diff(counts.indptr)) * into[counts.indices]
        return cls(keep_largest(counts, settings.weights_per_item), settings.half_life[0], settings.history_limit)


def _baskets(data: FitData) -> tuple[sp.csr_matrix, IntArray]:
    """One row a moment of liked events, in user and time order (rows of unit length), and each row's user. An item
    counts at its first time only: going back to it is not a step to something new.
    """
    events = data.events
    liked = np.flatnonzero(data.weights > 0)
    order = liked[np.lexsort((events.item_rows[liked], events.times[liked], events.user_rows[liked]))]
    pair = events.user_rows[order].astype(np.int64) * data.num_items + events.item_rows[order]
    order = order[np.sort(np.unique(pair, return_index=True)[1])]
    users, times, items = events.user_rows[order], events.times[order], events.item_rows[order]
    new = np.ones(len(order), bool)
    new[1:] = (np.diff(users) != 0) | (np.diff(times) != 0)
    moment = np.cumsum(new) - 1
    sizes = np.bincount(moment) if len(order) else np.empty(0, np.int64)
    values = (1 / np.sqrt(sizes[moment])).astype(np.float32)
    return sp.csr_matrix((values, (moment, items)), shape=(len(sizes), data.num_items)), users[new]
