"""What users went on to who took the same, in a like order: neighbours of the user instead of neighbours of its items
(VSKNN, Ludewig and Jannach 2018; STAN, Garg et al. 2019).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from pydantic import Field

from features.compiled import compiled, fixed
from features.histories import Histories
from features.row_changes import RowChanges, enlarged
from features.runs import ends, rank_in_run
from features.settings import Settings
from features.tables import IntArray
from features.touches import Touches
from recsys.retrieval.base import FitData
from recsys.retrieval.best import best_of
from recsys.retrieval.item_item import column_sums, rows_of
from recsys.retrieval.scores import F32, Scores, SparseScores

Ints = npt.NDArray[np.int64]
Moments = npt.NDArray[np.int32]


class UserNeighboursSettings(Settings):
    """Settings of the user neighbours source; a tuple of several values is chosen from on a held-out window."""

    num_users: int = Field(default=200, ge=1)
    """Neighbours listened to: those whose items are most alike."""
    half_life: tuple[float | None, ...] = Field(default=(5.0, 2.0, 0.7), min_length=1)
    popularity: tuple[float, ...] = Field(default=(0.0, 0.15, 0.3), min_length=1)
    """What an item says for itself falls with how many took it, to this power."""
    reach: float = Field(default=10.0, gt=0)
    """Moments from what is shared after which what a neighbour took counts 1/e."""
    behind: float = Field(default=0.5, ge=0, le=1)
    """What the neighbour took before what is shared counts so much of what it took after it."""
    users_per_item: int = Field(default=1000, ge=1)
    """Newest takers of an item who may be neighbours; with `items_per_user` it bounds the time of an answer."""
    items_per_user: int = Field(default=200, ge=1)
    """Newest items of a neighbour."""
    history_limit: int = Field(default=100, ge=1)


@dataclass(frozen=True)
class UserNeighboursSource:
    """`takers` (n_items, num_users) CSR float32: what it says of a user that the item is shared (idf over the root of
    how many items the user has). `taken` (num_users, n_items) CSR float32: what an item says for itself, `moments`
    (taken.nnz,) int32 in which of the user's moments it was taken last.
    """

    name: ClassVar[str] = "user_neighbours"
    takers: sp.csr_matrix
    taken: sp.csr_matrix
    moments: Moments
    num_users: int
    half_life: float | None
    reach: float
    behind: float
    history_limit: int

    @classmethod
    def fit(cls, data: FitData, settings: UserNeighboursSettings) -> Self:
        """Without any event nobody has a neighbour."""
        touches = Touches.of_events(data.events, data.weights, data.num_users)
        last = touches.is_last
        users, items, moments = touches.owners[last], touches.item_rows[last], touches.moments[last]
        # Without a clock users can't be compared: the newest are then those who have done least since.
        recency = touches.times[last] if data.events.has_clock else moments - touches.num_moments[users]
        num_takers = np.bincount(items, minlength=data.num_items)
        num_taken = np.bincount(users, minlength=data.num_users)
        newest = _newest(users, moments, settings.items_per_user)
        users, items, moments, recency = users[newest], items[newest], moments[newest], recency[newest]
        shape = (data.num_users, data.num_items)
        own = (1 / np.maximum(num_takers, 1) ** settings.popularity[0]).astype(np.float32)
        taken = sp.csr_matrix((own[items], items, ends(np.bincount(users, minlength=data.num_users))), shape=shape)
        rarity = np.log1p(data.num_users / np.maximum(num_takers, 1))
        alike = (rarity[items] / np.sqrt(num_taken[users])).astype(np.float32)
        reached = _newest(items, recency, settings.users_per_item)
        takers = sp.csr_matrix((alike[reached], (items[reached], users[reached])), shape=shape[::-1])
        return cls(
            takers, taken, moments.astype(np.int32), settings.num_users, settings.half_life[0], settings.reach,
            settings.behind, settings.history_limit,
        )  # fmt: skip

    def with_rows(self, changes: RowChanges) -> Self:
        """See `features.row_changes`: nobody has taken what is new."""
        num_users, num_items = len(self.taken.indptr) - 1, changes.num_items
        takers, taken = enlarged(self.takers, num_items, num_users), enlarged(self.taken, num_users, num_items)
        return dataclasses.replace(self, takers=takers, taken=taken)

    def scores(self, histories: Histories) -> dict[str, Scores]:
        """What the neighbours took, by how alike they are and how near it was to what is shared; and only what they did
        not take before that. A user who was there at the fit is a neighbour of its own, who says nothing new.
        """
        weights = histories.weighted(self.half_life, self.history_limit)
        spans = [weights.span(row) for row in range(len(histories))]
        found = [self._speak(weights.indices[span], weights.data[span]) for span in spans]
        columns = [known for known, _ in found]
        return {view: SparseScores.of([own[k] for _, own in found], columns) for k, view in enumerate(("", "after"))}

    def _speak(self, rows: Ints, weights: F32) -> tuple[IntArray, F32]:
        """The items that the neighbours took, ascending, and (2, n_items) what they say for each."""
        users, alike = column_sums(*rows_of(self.takers, rows), weights[None])
        nearest = np.sort(best_of(alike[0], np.arange(len(users)), self.num_users, 0.0))
        order = np.argsort(rows)
        columns, data, after = _followed(
            fixed(self.taken.indptr), fixed(self.taken.indices), fixed(self.taken.data), fixed(self.moments),
            fixed(users[nearest].astype(np.int64)), fixed(alike[0][nearest]),
            fixed(rows[order]), fixed(weights[order]), self.reach,
        )  # fmt: skip
        ways = np.array([[self.behind, 1.0], [0.0, 1.0]], np.float32)
        return column_sums(columns, data, after, ways)


@compiled
def _followed(
    indptr: IntArray,
    indices: IntArray,
    data: F32,
    moments: Moments,
    users: Ints,
    alike: F32,
    rows: Ints,
    weights: F32,
    reach: float,
) -> tuple[IntArray, F32, Ints]:
    """All that the `users` took: item, what it says, and 1 where it was not before what is shared, else 0. Of the items
    shared with a history (`rows`, ascending, with their `weights`) the one that weighs most says where the user stood,
    of several the one it took last.
    """
    size = 0
    for user in users:
        size += indptr[user + 1] - indptr[user]
    columns, values, after = np.empty(size, np.int64), np.empty(size, np.float32), np.empty(size, np.int64)
    n = 0
    for k, user in enumerate(users):
        stood, heaviest = -1, np.float32(-1)
        for entry in range(indptr[user], indptr[user + 1]):
            place = np.searchsorted(rows, indices[entry])
            if place < len(rows) and rows[place] == indices[entry]:
                weight, moment = weights[place], moments[entry]
                if weight > heaviest or (weight == heaviest and moment > stood):
                    stood, heaviest = moment, weight
        for entry in range(indptr[user], indptr[user + 1]):
            distance = abs(moments[entry] - stood)
            columns[n], after[n] = indices[entry], int(moments[entry] >= stood)
            values[n] = alike[k] * data[entry] * np.float32(math.exp(-distance / reach))
            n += 1
    return columns, values, after


def _newest(groups: Ints, orders: npt.NDArray[np.generic], limit: int) -> Ints:
    """The places of the `limit` entries of each group that come last by `orders`, ascending; ties by place."""
    latest = np.lexsort((np.arange(len(groups)), orders, groups))[::-1]
    return np.sort(latest[rank_in_run(groups[latest]) < limit])
