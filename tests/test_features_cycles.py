"""Touches and repurchase cycles against values worked by hand: A every 30 days, B once, C twice, ten days apart."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from features.cycles import Cycles, shrunk_means
from features.histories import Histories
from features.runs import Pairs
from features.tables import Catalogue, Events, IdIndex
from features.touches import Touches, standing_now

DAY = 86_400.0
A, B, C, NEVER = range(4)
TAKEN = [(A, 0), (A, 30), (B, 30), (B, 30), (C, 50), (A, 60), (C, 60), (A, 90)]
"""Item and day; two events of one moment are one touch."""


def catalogue(*categories: tuple[str, ...]) -> Catalogue:
    return Catalogue(IdIndex("abcd"), pd.DataFrame({"category": categories or [()] * 4}))


def events(clock: str = "timestamp") -> Events:
    items, days = (np.array(column) for column in zip(*TAKEN, strict=True))
    n = len(items)
    return Events(
        np.zeros(n, np.int32), items.astype(np.int32), np.zeros(n, np.int16), days * DAY, np.ones(n, np.float32),
        ("purchase",), clock,  # type: ignore[arg-type]
    )  # fmt: skip


def history(day: float, weights: float = 1.0, clocked: bool = True) -> Histories:
    """All of `TAKEN`, for a list on `day`, behind the history of somebody else."""
    items, days = (np.array(column) for column in zip(*TAKEN, strict=True))
    orders = days * DAY if clocked else np.searchsorted(np.unique(days), days).astype(float)
    return Histories.build(
        [np.array([B]), items], [np.array([0.0]), orders], [np.ones(1), np.full(len(items), weights)],
        np.full(2, day * DAY if clocked else np.nan), 4, np.full(2, clocked),
    )  # fmt: skip


def touches() -> Touches:
    return Touches.of_events(events(), np.ones(len(TAKEN), np.float32), 1)


def test_a_touch_knows_what_came_before_it() -> None:
    found = touches()
    assert found.item_rows.tolist() == [A, A, A, A, B, C, C]
    assert found.moments.tolist() == [0, 1, 3, 4, 1, 2, 3]
    assert found.takes.tolist() == [1, 2, 3, 4, 1, 1, 2]
    assert found.is_last.tolist() == [False, False, False, True, True, False, True]
    np.testing.assert_allclose(2**found.gaps / DAY, [np.nan, 30, 30, 30, np.nan, np.nan, 10], rtol=1e-3)
    np.testing.assert_array_equal(found.moment_times / DAY, [0, 30, 50, 60, 90])


def test_the_standing_counts_moments_and_chances() -> None:
    found = standing_now(history(120), has_clock=True)
    assert found.owners.tolist() == [0, 1, 1, 1]
    assert found.item_rows.tolist() == [B, A, B, C]
    assert found.takes.tolist() == [1, 4, 1, 2]
    assert found.moments_ago.tolist() == [0, 0, 3, 1]
    assert found.chances.tolist() == [0, 4, 3, 2]
    np.testing.assert_allclose(2**found.since / DAY, [120, 30, 90, 60], rtol=1e-3)


def test_moments_ago_are_those_of_the_history() -> None:
    asked = history(120)
    found, last = standing_now(asked, has_clock=True), asked.last_touches
    expected = dict(zip(zip(last.query_rows, last.item_rows, strict=True), last.moments_ago, strict=True))
    assert {(q, i): ago for q, i, ago in zip(found.owners, found.item_rows, found.moments_ago, strict=True)} == expected


def test_what_nobody_liked_is_not_touched() -> None:
    assert len(standing_now(history(120, weights=0.0), has_clock=True)) == 1


def test_an_item_is_shrunk_to_its_category_and_that_to_all() -> None:
    sums, counts, groups = np.array([9.0, 0.0, 0.0]), np.array([3, 0, 0]), np.array([0, 0, 1])
    group = (9 + 1 * 3) / (3 + 1)
    assert shrunk_means(sums, counts, groups, prior=1.0) == pytest.approx([(9 + group) / 4, group, 3.0])
    assert shrunk_means(np.zeros(3), np.zeros(3), groups, prior=1.0).tolist() == [0, 0, 0]


def test_the_pairs_features_say_what_is_due() -> None:
    cycles = Cycles.fit(catalogue(), touches(), has_clock=True)
    assert 10 < 2 ** cycles.octaves[C] / DAY < 2 ** cycles.octaves[NEVER] / DAY < 2 ** cycles.octaves[A] / DAY < 30
    pairs = Pairs(np.array([0, 1, 1, 1, 1]), np.array([A, A, B, C, NEVER]))
    found = cycles.columns(history(120), pairs)
    nan = np.nan
    np.testing.assert_allclose(found["touch:takes"], [nan, 4, 1, 2, nan])
    np.testing.assert_allclose(found["touch:moments_ago"], [nan, 0, 3, 1, nan])
    np.testing.assert_allclose(found["touch:since"], [nan, np.log2(30), np.log2(90), np.log2(60), nan], atol=1e-3)
    np.testing.assert_allclose(found["touch:past_own_cycle"], [nan, 0, nan, np.log2(6), nan], atol=2e-3)
    assert all(np.isnan(values[[0, 4]]).all() and values.dtype == np.float32 for values in found.values())


def test_without_a_clock_cycles_are_counted_in_moments() -> None:
    known = Touches.of_events(events("sequence"), np.ones(len(TAKEN), np.float32), 1)
    np.testing.assert_allclose(known.gaps, [np.nan, 0, 1, 0, np.nan, np.nan, 0])
    cycles = Cycles.fit(catalogue(), known, has_clock=False)
    found = cycles.columns(history(120, clocked=False), Pairs(np.ones(3, np.int64), np.array([A, B, C])))
    np.testing.assert_allclose(found["touch:since"], np.log2([1, 4, 2]), atol=1e-3)


def test_a_history_is_seen_the_same_alone_and_in_company() -> None:
    cycles = Cycles.fit(catalogue(), touches(), has_clock=True)
    both, items = history(100), np.arange(4)
    together = cycles.columns(both, Pairs(np.repeat([0, 1], 4), np.tile(items, 2)))
    alone = cycles.columns(both.at_rows(np.array([1])), Pairs(np.zeros(4, np.int64), items))
    for name, values in alone.items():
        np.testing.assert_array_equal(values, together[name][4:])


def test_nobody_takes_anything_twice() -> None:
    once = Touches.of_events(events().before(DAY), np.ones(1, np.float32), 1)
    assert Cycles.fit(catalogue(), once, has_clock=True).octaves.tolist() == [0, 0, 0, 0]
