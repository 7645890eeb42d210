"""What a ranker learns from: features and labels of candidate lists, grouped by request."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from features.builder import FeatureMatrix


@dataclass(frozen=True)
class RankingExamples:
    """`labels` (n_pairs,) float32: the weight of the event that made the item right, 0 where it is not. `groups`
    (n_lists,) int64: pairs of each list, in order; `users` (n_lists,) int64 says whose list it is, so that a user can
    be held out whole; `num_labels` (n_lists,) how many items would have been right, found or not.
    """

    features: FeatureMatrix
    labels: npt.NDArray[np.float32]
    groups: npt.NDArray[np.int64]
    users: npt.NDArray[np.int64]
    num_labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.groups)

    def lists(self, start: int, stop: int) -> RankingExamples:
        """The lists start..stop-1; their features and labels are views, not copies."""
        low, high = int(self.groups[:start].sum()), int(self.groups[:stop].sum())
        query_rows = self.features.query_rows[low:high] - start
        features = FeatureMatrix(self.features.names, self.features.values[low:high], query_rows)
        own = slice(start, stop)
        return RankingExamples(
            features, self.labels[low:high], self.groups[own], self.users[own], self.num_labels[own]
        )  # fmt: skip

    def select(self, chosen: npt.NDArray[np.bool_]) -> RankingExamples:
        """A copy of the lists where `chosen` (n_lists,) is true."""
        pairs = chosen[self.features.query_rows]
        groups = self.groups[chosen]
        rows = np.repeat(np.arange(len(groups)), groups)
        features = FeatureMatrix(self.features.names, self.features.values[pairs], rows)
        return RankingExamples(features, self.labels[pairs], groups, self.users[chosen], self.num_labels[chosen])

    @staticmethod
    def concatenate(parts: list[RankingExamples]) -> RankingExamples:
        """All lists of all parts, which must have the same features."""
        names = parts[0].features.names
        if any(part.features.names != names for part in parts):
            raise ValueError("examples of different features can't be joined")
        groups = np.concatenate([p.groups for p in parts])
        values = np.concatenate([p.features.values for p in parts])
        features = FeatureMatrix(names, values, np.repeat(np.arange(len(groups)), groups))
        return RankingExamples(
            features, np.concatenate([p.labels for p in parts]), groups,
            np.concatenate([p.users for p in parts]), np.concatenate([p.num_labels for p in parts]),
        )  # fmt: skip


@dataclass(frozen=True)
class SplitExamples:
    """`everything` there is to learn from: first `num_train` lists to fit, then those of other users, to judge
    by. Both parts look into the one array.
    """

    everything: RankingExamples
    num_train: int

    @staticmethod
    def joined(train: list[RankingExamples], held_out: list[RankingExamples]) -> SplitExamples:
        """All lists of both sides; one copy of their features."""
        return SplitExamples(RankingExamples.concatenate([*train, *held_out]), sum(map(len, train)))

    @cached_property
    def train(self) -> RankingExamples:
        """The lists to fit."""
        return self.everything.lists(0, self.num_train)

    @cached_property
    def held_out(self) -> RankingExamples:
        """The lists of held-out users."""
        return self.everything.lists(self.num_train, len(self.everything))
