"""Next-item transitions: what is taken soon after what, a smoothed first-order Markov chain (Shani et al. 2005)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np
import scipy.sparse as sp
from pydantic import Field

from features.row_changes import RowChanges, enlarged
from features.settings import Settings
from features.tables import BoolArray, FloatArray, IntArray
from recsys.retrieval.base import FitData
from recsys.retrieval.item_item import ItemItemSource, empty_weights, keep_largest, rows_of
from recsys.retrieval.scores import F32


class TransitionsSettings(Settings):
    """Settings of the transitions source; a tuple of several values is chosen from on a held-out window."""

    window: int = Field(default=3, ge=1)
    """How many moments ahead count; the k-th weighs 1/k."""
    half_life: tuple[float | None, ...] = Field(default=(5.0, 2.0, 0.7), min_length=1)
    weights_per_item: int = Field(default=300, ge=1)
    history_limit: int = Field(default=100, ge=1)


@dataclass(frozen=True)
class TransitionsSource(ItemItemSource):
    """Counts of item -> item from one moment (basket) to the next ones, divided by the root of both totals: `out_of`
    and `into` (n_items,) float32 are those roots, at least 1; empty in bundles of before.
    """

    name: ClassVar[str] = "transitions"
    out_of: F32 = field(default_factory=lambda: np.empty(0, np.float32))
    into: F32 = field(default_factory=lambda: np.empty(0, np.float32))

    @classmethod
    def fit(cls, data: FitData, settings: TransitionsSettings) -> Self:
        """Where nobody has acted in two moments, nothing follows anything."""
        liked, events = data.weights > 0, data.events
        moments = Moments.of(events.user_rows[liked], events.item_rows[liked], events.times[liked], data.num_items)
        counts = moments.counts(settings.window)
        totals = [np.asarray(counts.sum(axis=axis)).ravel() for axis in (1, 0)]
        out_of, into = (np.sqrt(np.maximum(total, 1e-9)) for total in totals)
        counts.data /= np.repeat(out_of, np.diff(counts.indptr)) * into[counts.indices]
        roots = (np.maximum(root, 1.0).astype(np.float32) for root in (out_of, into))
        weights = keep_largest(counts, settings.weights_per_item)
        return cls(weights, settings.half_life[0], settings.history_limit, *roots)

    def with_rows(self, changes: RowChanges) -> Self:
        """See `features.row_changes`: nothing speaks for what is new."""
        changed = super().with_rows(changes)
        if not len(self.out_of):
            return changed
        return dataclasses.replace(
            changed, out_of=changes.lengthened(self.out_of, 1.0), into=changes.lengthened(self.into, 1.0)
        )

    def after(self, later: sp.csr_matrix) -> LiveTransitionsSource:
        """The same when it has gone on: `later` (n_items, n_items) CSR are the counts of the moments that came since.
        The totals stay those of the training.
        """
        weights = (later.data / (np.repeat(self.out_of, np.diff(later.indptr)) * self.into[later.indices])).astype(
            np.float32
        )
        return self.with_added(sp.csr_matrix((weights, later.indices, later.indptr), shape=later.shape))

    def with_added(self, added: sp.csr_matrix) -> LiveTransitionsSource:
        """This one's weights and, on top of them, `added` (n_items, n_items) CSR float32."""
        return LiveTransitionsSource(self.weights, self.half_life, self.history_limit, self.out_of, self.into, added)


@dataclass(frozen=True)
class LiveTransitionsSource(TransitionsSource):
    """`added` (n_items, n_items) CSR float32 comes on top of `weights`, which are shared with the model."""

    added: sp.csr_matrix = field(default_factory=lambda: empty_weights(0))

    def with_rows(self, changes: RowChanges) -> Self:
        """See `features.row_changes`: nobody has gone to what is new."""
        return dataclasses.replace(super().with_rows(changes), added=changes.square(self.added))

    def following(self, base: TransitionsSource) -> LiveTransitionsSource:
        """The same over a catalogue that has grown, of which `base` is the model's source."""
        return base.with_added(enlarged(self.added, *base.weights.shape))

    def _entries(self, rows: IntArray) -> tuple[IntArray, F32, IntArray]:
        columns, data, place = super()._entries(rows)
        more = rows_of(self.added, rows)
        return np.concatenate([columns, more[0]]), np.concatenate([data, more[1]]), np.concatenate([place, more[2]])


@dataclass(frozen=True)
class Moments:
    """`baskets` (n_moments, n_items): one row a moment of liked events, of unit length, in user and time order; `users`
    and `times` (n_moments,).
    """

    baskets: sp.csr_matrix
    users: IntArray
    times: FloatArray

    @classmethod
    def of(cls, users: IntArray, items: IntArray, times: FloatArray, num_items: int) -> Self:
        """From liked events, each (n_events,). An item counts at its first time only: going back to it is not a step to
        something new.
        """
        order = np.lexsort((items, times, users))
        pair = users[order].astype(np.int64) * num_items + items[order]
        order = order[np.sort(np.unique(pair, return_index=True)[1])]
        users, times, items = users[order], times[order], items[order]
        new = np.ones(len(order), bool)
        new[1:] = (np.diff(users) != 0) | (np.diff(times) != 0)
        moment = np.cumsum(new) - 1
        sizes = np.bincount(moment) if len(order) else np.empty(0, np.int64)
        values = (1 / np.sqrt(sizes[moment])).astype(np.float32)
        baskets = sp.csr_matrix((values, (moment, items)), shape=(len(sizes), num_items))
        return cls(baskets, users[new], times[new])

    def counts(self, window: int, targets: BoolArray | None = None, most: int | None = None) -> sp.csr_matrix:
        """(n_items, n_items): how often an item came up to `window` moments after another, the k-th counting 1/k; only
        steps to the moments `targets` (n_moments,), if given. Where the k-th moments have more than `most` pairs of
        items, those between the largest baskets are left out.
        """
        counts, sizes = empty_weights(self.baskets.shape[1]), np.diff(self.baskets.indptr).astype(np.int64)
        for step in range(1, window + 1):
            follows = np.flatnonzero(self.users[step:] == self.users[:-step])
            if targets is not None:
                follows = follows[targets[follows + step]]
            if most is not None:
                pairs = sizes[follows] * sizes[follows + step]
                smallest = np.argsort(pairs, kind="stable")
                follows = follows[smallest[np.cumsum(pairs[smallest]) <= most]]
            counts = counts + (self.baskets[follows].T @ self.baskets[follows + step]).tocsr() * np.float32(1 / step)
        return counts
