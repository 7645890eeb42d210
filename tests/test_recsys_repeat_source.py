"""The repeat source and its plain rivals: who is due is known by reasoning."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from features.histories import Histories
from features.interactions import EventSettings
from features.item_sets import ItemSets
from features.settings import Settings as ComponentSettings
from features.tables import Catalogue, Events, IdIndex
from recsys.retrieval.base import FitData
from recsys.retrieval.buy_again import FrequencySource, RecencySource
from recsys.retrieval.repeat import RepeatSettings, RepeatSource

DAY = 86_400.0
NUM_FILLERS = 40
COFFEE, VASE = 0, 1
"""Coffee is bought every 30 days, a vase once in a life; the fillers are what people buy in between, each once."""


Rows = list[tuple[int, int, float]]


def shopper(user: int) -> Rows:
    """(user, item, day): coffee on days 0, 30, 60, ...; a vase and other things every ten days in between."""
    start = float(user % 7)
    rows = [(user, COFFEE, start + 30 * k) for k in range(8)]
    rows += [(user, VASE, start + 30)]
    rows += [(user, 2 + (user + k) % NUM_FILLERS, start + 10 * k + (5 if k % 3 == 0 else 0)) for k in range(24)]
    return rows


def paced(user: int) -> Rows:
    """Coffee every ten days or every forty, something else every five."""
    coffee = [(user, COFFEE, float(day)) for day in range(0, 200, 10 if user % 2 else 40)]
    return coffee + [(user, 2 + (user + k) % NUM_FILLERS, 5.0 * k) for k in range(40) if k % 2]


def fit_data(clock: str = "timestamp", num_users: int = 60, shopper: Callable[[int], Rows] = shopper) -> FitData:
    rows = sorted((row for user in range(num_users) for row in shopper(user)), key=lambda row: row[2])
    users, items, days = (np.array(column) for column in zip(*rows, strict=True))
    n = len(rows)
    events = Events(
        users.astype(np.int32), items.astype(np.int32), np.zeros(n, np.int16), days * DAY, np.ones(n, np.float32),
        ("purchase",), clock,  # type: ignore[arg-type]
    )  # fmt: skip
    ids = [f"i{k:02d}" for k in range(2 + NUM_FILLERS)]
    catalogue = Catalogue(IdIndex(ids), pd.DataFrame({"category": [()] * len(ids)}))
    return FitData(catalogue, events, num_users, EventSettings(), None, seed=0, num_threads=1)


def asked(day: float, *taken: tuple[int, float]) -> Histories:
    items, days = (np.array(column) for column in zip(*taken, strict=True))
    return Histories.build(
        [items.astype(np.int64)], [days * DAY], [np.ones(len(items))], np.array([day * DAY]), 2 + NUM_FILLERS,
        np.ones(1, bool),
    )  # fmt: skip


def score(source: RepeatSource, histories: Histories) -> dict[int, float]:
    found = source.scores(histories)[""]
    return dict(zip(found.indices.tolist(), found.data.tolist(), strict=True))  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def source() -> RepeatSource:
    return RepeatSource.fit(fit_data(), RepeatSettings())


MONTHLY = [(COFFEE, 0.0), (COFFEE, 30.0), (COFFEE, 60.0), (VASE, 60.0)]


def test_what_is_bought_every_30_days_is_due_after_30_days(source: RepeatSource) -> None:
    """Both were bought at the same last moment, so recency alone can't tell them apart."""
    due = score(source, asked(90, *MONTHLY))
    assert due[COFFEE] > 5 * due[VASE]


def test_five_days_after_it_is_not_due_yet(source: RepeatSource) -> None:
    """When the shopper comes back after five days for something else, and after another 25, as everybody does."""
    between = [(2, 65.0), (3, 70.0), (4, 80.0)]
    due, early = score(source, asked(90, *MONTHLY, *between)), score(source, asked(65, *MONTHLY))
    assert due[COFFEE] > 5 * early[COFFEE]


def test_a_users_own_pace_counts() -> None:
    """Three takes, one moment since: who takes coffee every ten days is due after ten, who does every forty is not."""
    learned = RepeatSource.fit(fit_data(shopper=paced), RepeatSettings())
    fast = score(learned, asked(30, (COFFEE, 0.0), (COFFEE, 10.0), (COFFEE, 20.0), (7, 25.0)))
    slow = score(learned, asked(90, (COFFEE, 0.0), (COFFEE, 40.0), (COFFEE, 80.0), (7, 85.0)))
    assert fast[COFFEE] > 2 * slow[COFFEE]


def test_a_rate_is_the_share_of_chances_used(source: RepeatSource) -> None:
    """32 moments a user: coffee is taken again at seven of the 31 after the first, a vase never."""
    assert source.rates[COFFEE] == pytest.approx(7 / 31, rel=0.05)
    assert source.rates[COFFEE] == source.rates.max()
    assert source.rates[VASE] == source.rates.min() < 0.001


def test_without_a_clock_it_counts_moments() -> None:
    ordered = RepeatSource.fit(fit_data("sequence"), RepeatSettings())
    moments = [(COFFEE, 0.0), *[(2 + k, 1.0 + k) for k in range(3)], (COFFEE, 4.0), (VASE, 4.0)]
    histories = asked(5, *moments, *[(5 + k, 5.0 + k) for k in range(3)])
    found = score(ordered, histories)
    assert found[COFFEE] == max(found.values())


def test_where_there_are_too_many_chances_the_newest_moments_are_learned_from() -> None:
    data = fit_data()
    few = RepeatSource.fit(data, RepeatSettings(chances_per_user=48, max_chances=60 * 26 * 4))
    newest = RepeatSource.fit(data, RepeatSettings(chances_per_user=3))
    np.testing.assert_array_equal(few.rates, newest.rates)
    assert newest.rates[COFFEE] < 0.001


def test_recency_and_frequency_are_the_orders_they_are_named_after() -> None:
    histories = asked(50, (2, 0), (2, 10), (2, 20), (3, 30), (4, 20), (4, 30), (5, 40))
    data, nothing = fit_data(num_users=1), ComponentSettings()
    none = ItemSets.empty(len(histories))
    tops = [
        kind.fit(data, nothing).scores(histories)[""].top(10, none).item_rows.tolist()
        for kind in (RecencySource, FrequencySource)
    ]
    assert tops == [[5, 4, 3, 2], [2, 4, 5, 3]]
