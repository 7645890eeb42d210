"""The forest's scores are LightGBM's, bit for bit."""

from __future__ import annotations

import lightgbm
import numpy as np
import numpy.typing as npt
import pytest

from ranking.forest import Forest, TooLargeError

PARAMETERS = {"objective": "regression", "num_leaves": 16, "min_data_in_leaf": 5, "num_threads": 1, "verbose": -1}


def trained(values: npt.NDArray[np.float32], trees: int = 30, **parameters: object) -> lightgbm.Booster:
    target = np.nan_to_num(values).sum(axis=1)
    return lightgbm.train(PARAMETERS | parameters, lightgbm.Dataset(values, target), trees)


def some(rows: int, *, unknown: bool, seed: int = 0) -> npt.NDArray[np.float32]:
    """Values on a coarse grid, so that many lie on a threshold's edge; column 0 always known."""
    rng = np.random.default_rng(seed)
    values = (rng.integers(-20, 20, (rows, 5)) / np.float32(7)).astype(np.float32)
    values[:, 1:][rng.random((rows, 4)) < 0.2 * unknown] = np.nan
    return values


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 255, 600])
@pytest.mark.parametrize("unknown", [False, True])
def test_scores_are_lightgbms(rows: int, unknown: bool) -> None:
    booster = trained(some(1000, unknown=unknown))
    asked = some(rows, unknown=unknown, seed=1)
    np.testing.assert_array_equal(Forest.of(booster).score(asked), booster.predict(asked))


def test_what_was_never_unknown_in_training_counts_as_zero() -> None:
    booster = trained(some(1000, unknown=False))
    asked = some(200, unknown=True, seed=1)
    assert np.isnan(asked).any()
    np.testing.assert_array_equal(Forest.of(booster).score(asked), booster.predict(asked))


def test_a_split_of_the_known_from_the_unknown() -> None:
    """LightGBM writes it as an infinite threshold, and infinite values are known."""
    values = some(1000, unknown=True)
    target = np.isnan(values[:, 1]).astype(float)
    booster = lightgbm.train(PARAMETERS, lightgbm.Dataset(values, target), 5)
    forest = Forest.of(booster)
    assert np.isinf(forest.thresholds).any()
    asked = np.repeat(np.array([[np.inf], [-np.inf], [np.nan], [3e38], [0.5]], np.float32), 5, axis=1)
    np.testing.assert_array_equal(forest.score(asked), booster.predict(asked))


def test_values_next_to_a_threshold_fall_on_its_own_side() -> None:
    booster = trained(some(1000, unknown=False))
    forest = Forest.of(booster)
    edges = forest.thresholds[np.isfinite(forest.thresholds) & (np.abs(forest.thresholds) > 1e-30)]
    near = np.concatenate([edges, np.nextafter(edges, np.float32(np.inf)), np.nextafter(edges, np.float32(-np.inf))])
    asked = np.tile(near[:, None], (1, 5))
    np.testing.assert_array_equal(forest.score(asked), booster.predict(asked))


@pytest.mark.parametrize("leaves", [2, 17, 33, 64])
def test_trees_of_any_size_up_to_64_leaves(leaves: int) -> None:
    booster = trained(some(2000, unknown=True), num_leaves=leaves)
    asked = some(300, unknown=True, seed=1)
    np.testing.assert_array_equal(Forest.of(booster).score(asked), booster.predict(asked))


def test_larger_trees_are_refused() -> None:
    with pytest.raises(TooLargeError, match="65 leaves, more than 64"):
        Forest.of(trained(some(2000, unknown=True), num_leaves=65, min_data_in_leaf=1))


def test_a_tree_of_one_leaf() -> None:
    booster = trained(some(100, unknown=False), trees=1, min_data_in_leaf=100)
    asked = some(3, unknown=False)
    np.testing.assert_array_equal(Forest.of(booster).score(asked), booster.predict(asked))


def test_other_layouts_of_the_same_values() -> None:
    booster = trained(some(300, unknown=True))
    asked = some(100, unknown=True, seed=1)
    expected = Forest.of(booster).score(asked)
    np.testing.assert_array_equal(Forest.of(booster).score(np.asfortranarray(asked)), expected)
    np.testing.assert_array_equal(Forest.of(booster).score(asked.astype(np.float64)), expected)


def test_splits_that_are_not_trained_here_are_refused() -> None:
    values = some(500, unknown=False)
    values[:, 0] = np.abs(values[:, 0] * 7)
    data = lightgbm.Dataset(values, values[:, 0] % 3, categorical_feature=[0])
    booster = lightgbm.train(PARAMETERS, data, 5)
    with pytest.raises(ValueError, match="not supported"):
        Forest.of(booster)
