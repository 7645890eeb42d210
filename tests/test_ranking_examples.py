"""Ranking examples: lists keep together, and both sides of a split look into one array."""

from __future__ import annotations

import numpy as np
import pytest

from features.builder import FeatureMatrix
from ranking.examples import RankingExamples, SplitExamples


def made(*sizes: int, name: str = "x", user: int = 0) -> RankingExamples:
    """Lists of these sizes; each pair's feature is its number."""
    groups = np.array(sizes, np.int64)
    values = np.arange(groups.sum(), dtype=np.float32)[:, None]
    matrix = FeatureMatrix((name,), values, np.repeat(np.arange(len(sizes)), groups))
    return RankingExamples(matrix, values[:, 0] % 2, groups, np.full(len(sizes), user), groups + 1)


def test_some_lists_are_a_view_numbered_from_zero() -> None:
    whole = made(2, 1, 3)
    part = whole.lists(1, 3)
    assert part.features.values[:, 0].tolist() == [2, 3, 4, 5]
    assert part.features.query_rows.tolist() == [0, 1, 1, 1]
    assert part.labels.tolist() == [0, 1, 0, 1]
    assert (part.groups.tolist(), part.num_labels.tolist()) == ([1, 3], [2, 4])
    assert np.shares_memory(part.features.values, whole.features.values)
    assert len(whole.lists(1, 1)) == len(whole.lists(1, 1).labels) == 0


def test_a_split_has_the_lists_to_fit_first() -> None:
    split = SplitExamples.joined([made(2), made(1, 1)], [made(3, user=7), made(user=7)])
    assert (len(split.train), len(split.held_out), len(split.everything)) == (3, 1, 4)
    assert split.train.features.values[:, 0].tolist() == [0, 1, 0, 1]
    assert split.held_out.users.tolist() == [7]
    assert split.held_out.features.values[:, 0].tolist() == [0, 1, 2]


def test_examples_of_other_features_are_not_joined() -> None:
    with pytest.raises(ValueError, match="different features"):
        SplitExamples.joined([made(1)], [made(1, name="y")])
