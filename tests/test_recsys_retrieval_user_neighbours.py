"""User neighbours, against the plainest way to work them out, and what they say in cases that one can see through."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from features.histories import Histories
from features.interactions import EventSettings
from features.runs import Pairs
from features.tables import Dataset, Events
from recsys.retrieval.base import FitData
from recsys.retrieval.user_neighbours import UserNeighboursSettings, UserNeighboursSource

USERS, ITEMS = 6, 8
SETTINGS = UserNeighboursSettings(num_users=2, half_life=(2.0,), popularity=(0.3,), reach=3.0, behind=0.25)
Row = tuple[int, int, float]
ROWS = st.lists(
    st.tuples(st.integers(0, USERS - 1), st.integers(0, ITEMS - 1), st.integers(0, 5).map(float)), max_size=30
)


def fit_data(dataset: Dataset, rows: list[Row], clock: Literal["timestamp", "sequence"] = "timestamp") -> FitData:
    users, items, times = (np.array([row[k] for row in rows]) for k in range(3))
    ones, kinds = np.ones(len(rows), np.float32), np.zeros(len(rows), np.int16)
    events = Events(users.astype(np.int32), items.astype(np.int32), kinds, times.astype(float), ones, ("click",), clock)
    return FitData(dataset.catalogue, events, USERS, EventSettings(), None, seed=0, num_threads=1)


def history(rows: list[int], num_items: int) -> Histories:
    given_ = ([np.array(rows, np.int64)], [np.arange(len(rows), dtype=float)], [np.ones(len(rows), np.float32)])
    return Histories.build(*given_, np.array([1e9]), num_items, np.ones(1, bool))


def scores(source: UserNeighboursSource, asked: list[int], view: str = "") -> np.ndarray:
    num_items = source.takers.shape[0]
    every = Pairs(np.zeros(num_items, np.int64), np.arange(num_items))
    return source.scores(history(asked, num_items))[view].at(every)


def plain(rows: list[Row], asked: list[int], behind: float, num_items: int) -> np.ndarray:
    """By the definition, in python alone."""
    taken: dict[int, dict[int, int]] = {}
    for user in {row[0] for row in rows}:
        moments = sorted({time for who, _, time in rows if who == user})
        taken[user] = {item: moments.index(time) for who, item, time in sorted(rows, key=lambda r: r[2]) if who == user}
    num_takers = {item: sum(item in own for own in taken.values()) for item in range(num_items)}
    last = {item: place for place, item in enumerate(asked)}
    newest = max(last.values())
    weight = {item: 0.5 ** ((newest - place) / 2.0) for item, place in last.items()}
    alike = {
        user: sum(
            weight[item] * math.log1p(USERS / num_takers[item]) / math.sqrt(len(own)) for item in own & weight.keys()
        )
        for user, own in taken.items()
    }
    ranked = sorted((float(value) for value in alike.values() if value > 0), reverse=True)
    # who is the second of two that are alike but for rounding, nobody can say
    assume(len(ranked) < 3 or ranked[1] == ranked[2] or ranked[1] - ranked[2] > 1e-6 * ranked[1])
    nearest = sorted((user for user in alike if alike[user] > 0), key=lambda user: (-np.float32(alike[user]), user))[:2]
    out = np.zeros(num_items)
    for user in nearest:
        stood = max((weight[item], moment) for item, moment in taken[user].items() if item in weight)[1]
        for item, moment in taken[user].items():
            share = math.exp(-abs(moment - stood) / 3.0) * (1.0 if moment >= stood else behind)
            out[item] += alike[user] * share / num_takers[item] ** 0.3
    return out


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(ROWS, st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=5, unique=True))
def test_scores_are_those_of_the_definition(tiny_dataset: Dataset, rows: list[Row], asked: list[int]) -> None:
    source = UserNeighboursSource.fit(fit_data(tiny_dataset, rows), SETTINGS)
    for view, behind in (("", 0.25), ("after", 0.0)):
        expected = plain(rows, asked, behind, len(tiny_dataset.catalogue))
        np.testing.assert_allclose(scores(source, asked, view), expected, rtol=1e-4, atol=1e-6)


def test_what_came_after_the_shared_item_is_best(tiny_dataset: Dataset) -> None:
    rows = [(user, item, float(time)) for user in range(3) for time, item in enumerate((1, 2, 3, 4))]
    source = UserNeighboursSource.fit(fit_data(tiny_dataset, rows), SETTINGS)
    found = scores(source, [2])
    assert found[3] > found[4] > found[1] > 0
    assert scores(source, [2], "after")[1] == 0


def test_an_item_that_only_few_take_says_more_of_a_user(tiny_dataset: Dataset) -> None:
    rows = [(user, 0, 0.0) for user in range(USERS)] + [(0, 1, 1.0), (0, 3, 2.0), (1, 2, 1.0), (1, 4, 2.0)]
    source = UserNeighboursSource.fit(fit_data(tiny_dataset, rows), SETTINGS)
    found = scores(source, [0, 1])
    assert found[3] > found[4]


@pytest.mark.parametrize(("limit", "kept"), [(1, [4]), (2, [3, 4])])
def test_only_the_newest_items_of_a_user_count(tiny_dataset: Dataset, limit: int, kept: list[int]) -> None:
    rows = [(0, item, float(item)) for item in range(1, 5)]
    few = SETTINGS.model_copy(update={"items_per_user": limit})
    source = UserNeighboursSource.fit(fit_data(tiny_dataset, rows), few)
    assert np.flatnonzero(scores(source, [4])).tolist() == kept


def test_only_the_newest_takers_of_an_item_are_neighbours(tiny_dataset: Dataset) -> None:
    rows = [(user, item, float(USERS - user)) for user in range(USERS) for item in (0, user + 1)]
    few = SETTINGS.model_copy(update={"users_per_item": 1})
    source = UserNeighboursSource.fit(fit_data(tiny_dataset, rows), few)
    assert np.flatnonzero(scores(source, [0])).tolist() == [0, 1], "user 0 came last"


def test_without_a_clock_the_newest_takers_are_those_who_did_least_since(tiny_dataset: Dataset) -> None:
    rows = [(0, 0, 7.0), (0, 1, 7.0), (1, 0, 50.0), (1, 2, 50.0), (1, 3, 51.0)]
    few = SETTINGS.model_copy(update={"users_per_item": 1})
    source = UserNeighboursSource.fit(fit_data(tiny_dataset, rows, "sequence"), few)
    assert np.flatnonzero(scores(source, [0])).tolist() == [0, 1]


def test_later_events_change_nothing(tiny_dataset: Dataset) -> None:
    rows = [(user, (user + step) % ITEMS, float(step)) for user in range(USERS) for step in range(4)]
    data = fit_data(tiny_dataset, rows)
    known = dataclasses.replace(data, events=data.events.before(3.0))
    shuffled = [(user, item if time < 3 else (item + 1) % ITEMS, time) for user, item, time in rows]
    other = fit_data(tiny_dataset, shuffled)
    again = dataclasses.replace(other, events=other.events.before(3.0))
    one, two = (UserNeighboursSource.fit(own, SETTINGS) for own in (known, again))
    np.testing.assert_array_equal(scores(one, [1, 2]), scores(two, [1, 2]))
