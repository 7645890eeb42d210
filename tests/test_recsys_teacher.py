"""The sources as teachers: what they say of the tiny world, and whose events they have seen."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import world
from features.tables import Dataset
from recsys.retrieval.base import FitData
from recsys.settings import Settings
from recsys.teacher import SourceTeacher

EVERYBODY = np.arange(world.NUM_USERS)


@pytest.fixture
def data(tiny_dataset: Dataset, tiny_settings: Settings) -> FitData:
    return FitData(
        tiny_dataset.catalogue, tiny_dataset.events, len(tiny_dataset.users), tiny_settings.events, None, 0, 1
    )  # fmt: skip


def shelves(data: FitData) -> np.ndarray:
    return np.array([str(item_id).split("-")[0] for item_id in data.catalogue.items.ids])


def test_neighbours_are_of_the_same_shelf_the_nearest_first(data: FitData) -> None:
    neighbours = SourceTeacher(data).neighbours(EVERYBODY, 4)
    assert neighbours.shape == (2 * world.ITEMS_PER_SHELF, 4)
    assert (neighbours >= 0).all()
    shelf = shelves(data)
    assert (shelf[neighbours] == shelf[:, None]).all()
    assert (neighbours != np.arange(len(neighbours))[:, None]).all()
    users = data.matrix.toarray() > 0
    cosines = users.T.astype(float) @ users / np.sqrt(np.outer(users.sum(0), users.sum(0)))
    best = np.take_along_axis(cosines, neighbours, axis=1)
    assert (np.diff(best, axis=1) <= 1e-6).all()
    np.fill_diagonal(cosines, 0.0)
    np.testing.assert_allclose(best[:, 0], cosines.max(axis=1), atol=1e-6)


def test_no_neighbour_is_minus_one(data: FitData) -> None:
    neighbours = SourceTeacher(data).neighbours(np.array([0]), 10)
    read = np.unique(data.events.item_rows[data.events.user_rows == 0])
    assert ((neighbours >= 0).sum(axis=1)[read] == len(read) - 1).all()
    assert (np.delete(neighbours, read, axis=0) == -1).all()


def test_items_of_one_shelf_have_like_vectors_and_untouched_ones_none(data: FitData) -> None:
    vectors = SourceTeacher(data).item_vectors(EVERYBODY)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    same = shelves(data)[:, None] == shelves(data)
    cosines = unit @ unit.T
    assert cosines[same].mean() > cosines[~same].mean() + 0.3
    alone = SourceTeacher(data).item_vectors(np.array([0]))
    read = np.unique(data.events.item_rows[data.events.user_rows == 0])
    assert set(np.flatnonzero(alone.any(axis=1)).tolist()) <= set(read.tolist())


def test_other_users_events_change_nothing(data: FitData) -> None:
    events = data.events
    others = events.user_rows >= 40
    shuffled = events.item_rows.copy()
    shuffled[others] = np.random.default_rng(0).permutation(shuffled[others])
    changed = dataclasses.replace(data, events=dataclasses.replace(events, item_rows=shuffled))
    first, second = (SourceTeacher(one) for one in (data, changed))
    users = np.arange(40)
    np.testing.assert_array_equal(first.neighbours(users, 5), second.neighbours(users, 5))
    np.testing.assert_array_equal(first.item_vectors(users), second.item_vectors(users))
    assert (first.neighbours(EVERYBODY, 5) != second.neighbours(EVERYBODY, 5)).any()
