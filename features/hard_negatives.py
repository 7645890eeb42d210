"""Hard negatives: items that another model of behaviour ranks next to an anchor, but that the user at hand never
chose (Karpukhin et al. 2020 take them from BM25; Xiong et al. 2021 from the model itself).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.next_items import NextItemPairs
from features.tables import BoolArray

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class HardNegatives:
    """`neighbours` (n_items, k) int64: rows of items to draw from for each item, -1 for none; `per_anchor` of them are
    drawn for each different anchor of a batch. `chosen` holds what each user is known to like, as sorted numbers
    user x n_items + item.
    """

    neighbours: I64
    per_anchor: int
    chosen: I64

    @classmethod
    def of(cls, neighbours: I64, per_anchor: int, pairs: NextItemPairs) -> HardNegatives:
        """`pairs`: what is known of the users that are trained on; an item is no negative of itself."""
        num_items = len(neighbours)
        others = np.where(neighbours == np.arange(num_items)[:, None], -1, neighbours)
        users, items = np.tile(pairs.user_rows, 2), np.concatenate([pairs.anchor_rows, pairs.positive_rows])
        return cls(others, per_anchor, np.unique(users * num_items + items))

    def draw(self, anchors: I64, taken: I64, rng: np.random.Generator) -> I64:
        """Different items, ascending: up to `per_anchor` neighbours of each of `anchors`, less those in `taken`."""
        lists = self.neighbours[anchors]
        turn = np.where(lists >= 0, rng.random(lists.shape), np.inf)
        places = np.argsort(turn, axis=1, kind="stable")[:, : self.per_anchor]
        drawn = np.unique(np.take_along_axis(lists, places, axis=1))
        return np.setdiff1d(drawn[drawn >= 0], taken)

    def known(self, users: I64, items: I64) -> BoolArray:
        """(n_users, n_items): whether each of `users` chose each of `items` at any time."""
        different, places = np.unique(users, return_inverse=True)
        keys = different[:, None] * len(self.neighbours) + items
        return np.isin(keys, self.chosen)[places]

    def expected_draws(self, anchors: npt.NDArray[np.integer]) -> F64:
        """How often each item is drawn on average, (n_items,), if item i is an anchor `anchors[i]` times."""
        usable = self.neighbours >= 0
        lengths = usable.sum(axis=1)
        rate = np.minimum(self.per_anchor, lengths) / np.maximum(lengths, 1) * anchors
        weights = np.broadcast_to(rate[:, None], self.neighbours.shape)[usable]
        draws = np.bincount(self.neighbours[usable], weights=weights, minlength=len(self.neighbours))
        return np.asarray(draws, np.float64)
