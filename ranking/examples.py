"""What a ranker learns from: features and labels of candidate lists, grouped by request."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.builder import FeatureMatrix


@dataclass(frozen=True)
class RankingExamples:
    """`labels` (n_pairs,) float32 >= 0, `groups` (n_lists,) int64: pairs of each list, in order; `users` (n_lists,)
    int64 says whose list it is, so that a user can be held out whole; `num_labels` (n_lists,) how many items
    would have been right, found or not.
    """

    features: FeatureMatrix
    labels: npt.NDArray[np.float32]
    groups: npt.NDArray[np.int64]
    users: npt.NDArray[np.int64]
    num_labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.groups)

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
