"""The linear model of what comes next, against its definition and in a case that one can see through."""

from __future__ import annotations

import numpy as np
import pytest

from features.histories import Histories
from features.interactions import EventSettings
from features.runs import Pairs
from features.tables import Dataset, Events
from recsys.retrieval.base import FitData
from recsys.retrieval.linear_next import LinearNextSettings, LinearNextSource

Row = tuple[int, int, float]
SETTINGS = LinearNextSettings(regularization=(2.0,), half_life=(2.0,), past_moments=3, coming_moments=2, patience=1.5)


def fit(dataset: Dataset, rows: list[Row], settings: LinearNextSettings = SETTINGS) -> LinearNextSource:
    users, items, times = (np.array([row[k] for row in rows]) for k in range(3))
    ones, kinds = np.ones(len(rows), np.float32), np.zeros(len(rows), np.int16)
    events = Events(users.astype(np.int32), items.astype(np.int32), kinds, times.astype(float), ones, ("click",), True)
    data = FitData(dataset.catalogue, events, int(users.max()) + 1, EventSettings(), None, seed=0, num_threads=1)
    return LinearNextSource.fit(data, settings)


def plain(rows: list[Row], num_items: int) -> np.ndarray:
    """(num_items, num_items): the closed form over dense rows, one a moment that has one before it."""
    before, coming = [], []
    for user in sorted({row[0] for row in rows}):
        times = sorted({time for who, _, time in rows if who == user})
        seen: set[int] = set()
        baskets = []
        for time in times:
            own = {item for who, item, at in rows if who == user and at == time} - seen
            seen |= own
            basket = np.zeros(num_items)
            basket[list(own)] = 1 / np.sqrt(max(len(own), 1))
            if own:
                baskets.append(basket)
        for k in range(1, len(baskets)):
            before.append(sum(baskets[j] * 0.5 ** ((k - j - 1) / 2.0) for j in range(max(0, k - 3), k)))
            coming.append(sum(baskets[j] * np.exp(-(j - k) / 1.5) for j in range(k, min(len(baskets), k + 3))))
    s, t = np.array(before), np.array(coming)
    weights = np.linalg.solve(s.T @ s + 2.0 * np.eye(num_items), s.T @ t)
    np.fill_diagonal(weights, 0.0)
    return weights


@pytest.mark.parametrize("seed", range(4))
def test_weights_are_those_of_the_closed_form(tiny_dataset: Dataset, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = [(int(user), int(item), float(time)) for user, item, time in rng.integers(0, (5, 7, 6), (40, 3))]
    found = fit(tiny_dataset, rows).weights.toarray()
    np.testing.assert_allclose(found, plain(rows, len(tiny_dataset.catalogue)), rtol=1e-3, atol=1e-5)


def test_it_knows_what_came_first(tiny_dataset: Dataset) -> None:
    source = fit(tiny_dataset, [(user, item, float(item)) for user in range(5) for item in range(4)])
    num_items = len(tiny_dataset.catalogue)
    given = ([np.array([1])], [np.zeros(1)], [np.ones(1)])
    asked = Histories.build(*given, np.array([9.0]), num_items, np.ones(1, bool))
    found = source.scores(asked)[""].at(Pairs(np.zeros(4, np.int64), np.arange(4)))
    assert found[2] > found[3] > found[0]


def test_one_moment_each_teaches_nothing(tiny_dataset: Dataset) -> None:
    assert not fit(tiny_dataset, [(user, user, 0.0) for user in range(5)]).weights.nnz


def test_only_the_most_popular_items_take_part(tiny_dataset: Dataset) -> None:
    rows = [(user, item, float(item)) for user in range(5) for item in range(user % 2, 4)]
    weights = fit(tiny_dataset, rows, SETTINGS.model_copy(update={"max_items": 3})).weights
    assert set(weights.nonzero()[0]) | set(weights.nonzero()[1]) == {1, 2, 3}


def test_too_little_regularization_is_named(tiny_dataset: Dataset) -> None:
    alike = [(user, item, float(item > 1)) for user in range(5) for item in range(4)]
    with pytest.raises(np.linalg.LinAlgError, match=r"raise linear_next\.regularization \(0\.0\)"):
        fit(tiny_dataset, alike, SETTINGS.model_copy(update={"regularization": (0.0,)}))
