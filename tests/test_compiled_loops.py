"""The compiled loops of a list, against the plainest way to work them out."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from features.grid import in_steps, on_grid, products
from features.histories import Histories
from features.item import ItemFeatures
from features.pair import PairFeatures
from features.runs import Pairs
from features.user import mean_numbers, user_columns
from recsys.retrieval.als import AlsSource
from recsys.retrieval.item_item import ItemItemSource
from recsys.scoring import agreement

N, FACTORS, DAY = 12, 6, 86_400.0


def histories(lists: list[list[int]], as_of: float = 100.0) -> Histories:
    """One moment an item, a second apart; every third event weighs a half, every fifth nothing."""
    rows = [np.array(own, np.int64) for own in lists]
    orders = [np.arange(len(own), dtype=np.float64) for own in lists]
    weights = [np.array([(1.0, 1.0, 0.5, 1.0, 0.0)[k % 5] for k in range(len(own))], np.float32) for own in lists]
    n = len(lists)
    return Histories.build(rows, orders, weights, np.full(n, as_of), N, np.ones(n, bool))


LISTS = st.lists(st.lists(st.integers(0, N - 1), max_size=9), min_size=1, max_size=4)


def decayed(own: Histories, row: int, half_life: float | None) -> dict[int, float]:
    """Item -> weight, by the definition in `Histories.weighted`."""
    span = slice(own.indptr[row], own.indptr[row + 1])
    events = list(zip(own.item_rows[span].tolist(), own.weights[span].tolist(), strict=True))
    out = {}
    for item in dict(events):
        last = max(place for place, (one, _) in enumerate(events) if one == item)
        ago = sum(weight > 0 for _, weight in events[last + 1 :])
        share = 1.0 if half_life is None else float(ago == 0) if half_life == 0 else 0.5 ** (ago / half_life)
        out[item] = share * max(weight for one, weight in events if one == item)
    return {item: weight for item, weight in out.items() if weight > 1e-4}


@given(LISTS, st.sampled_from([None, 0.0, 2.0]))
def test_weights_and_their_sums(lists: list[list[int]], half_life: float | None) -> None:
    own = histories(lists)
    found = own.weighted(half_life)
    matrix = sp.random(N, 5, 0.5, format="csr", dtype=np.float32, random_state=0)
    sums = found.sums(matrix)
    for row in range(len(lists)):
        span = found.span(row)
        weights = dict(zip(found.indices[span].tolist(), found.data[span].tolist(), strict=True))
        assert weights == pytest.approx(decayed(own, row, half_life))
        plain = sum((weight * matrix[[item]].toarray()[0] for item, weight in weights.items()), start=np.zeros(5))
        np.testing.assert_allclose(sums[row], plain, rtol=1e-6)


@given(LISTS)
def test_item_to_item_sums(lists: list[list[int]]) -> None:
    weights = sp.random(N, N, 0.6, format="csr", dtype=np.float32, random_state=1)
    own = histories(lists)
    found = ItemItemSource(weights, 2.0, 100).scores(own)
    every = Pairs(*np.divmod(np.arange(len(lists) * N), N))
    for view, half_life in (("", 2.0), ("all", None), ("last", 0.0)):
        scores = found[view].at(every).reshape(len(lists), N)
        for row in range(len(lists)):
            plain = sum(
                (weight * weights[[item]].toarray()[0] for item, weight in decayed(own, row, half_life).items()),
                start=np.zeros(N),
            )
            np.testing.assert_allclose(scores[row], plain, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("num_items", [N, 300, 70_000, 2_000_000])
def test_columns_come_in_order_whatever_the_size_of_the_catalogue(num_items: int) -> None:
    rng = np.random.default_rng(0)
    columns = np.sort(rng.choice(num_items, (4, 9)), axis=1)
    weights = sp.csr_matrix(
        (rng.random(36, np.float32), (np.repeat(np.arange(4), 9), columns.ravel())), shape=(num_items, num_items)
    )
    own = dataclasses.replace(histories([[0, 1, 2, 3]]), num_items=num_items)
    scores: npt.NDArray[np.float32] = (
        ItemItemSource(weights, None, 100).scores(own)[""].at(Pairs(np.zeros(36, np.int64), np.sort(columns.ravel())))
    )
    plain = np.array([1.0, 1.0, 0.5, 1.0]) @ weights[:4][:, np.sort(columns.ravel())].toarray()
    np.testing.assert_allclose(scores, plain, rtol=1e-5)


@pytest.mark.parametrize("num_taken", [1, FACTORS - 1, FACTORS, 10])
def test_a_user_is_folded_in_by_the_smaller_of_two_systems(num_taken: int) -> None:
    rng = np.random.default_rng(num_taken)
    factors = on_grid(rng.standard_normal((N, FACTORS)) / 5, items=True)
    gram = (factors.astype(np.float64) * 2.0).T @ (factors * 2.0)
    source = AlsSource(factors, np.zeros((0, FACTORS), np.float32), gram, 2.0, 5.0, 1.0, None, 100)
    own = histories([list(range(num_taken))])
    confidence = {item: 5.0 * weight for item, weight in decayed(own, 0, None).items()}
    wide = factors[list(confidence)].astype(np.float64) * 2.0
    c = np.array(list(confidence.values()))
    expected = np.linalg.solve(gram + np.eye(FACTORS) + wide.T @ np.diag(c - 1) @ wide, wide.T @ c)
    np.testing.assert_allclose(source.fold_in(own, None)[0], expected, rtol=1e-9)


def test_products_in_steps_are_the_exact_ones() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((50, 40))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    items, query = on_grid(unit, items=True), on_grid(unit[:1], items=False)[0]
    items[0], query[:2] = 0, (1.0, -1.0)  # the ends of the range
    items[0, :2] = (1.0, -1.0)
    found = products(in_steps(items, items=True), in_steps(query, items=False))
    np.testing.assert_array_equal(found, items @ query)


@given(LISTS)
def test_user_features(lists: list[list[int]]) -> None:
    own, items = histories(lists), statistics()
    found = user_columns(own, items)
    for row, events in enumerate(lists):
        weights = (1.0, 1.0, 0.5, 1.0, 0.0)
        liked = {item for item in events if max(weights[k % 5] for k, one in enumerate(events) if one == item) > 0}
        expected = {
            "user:events": np.log1p(len(events)),
            "user:items": np.log1p(len(set(events))),
            "user:moments": np.log1p(len(events)),
            "user:repeat_share": 1 - len(set(events)) / len(events) if events else 1.0,
            "user:gap": np.log1p(100.0 - (len(events) - 1)) if events else np.nan,
            "user:mean_gap": np.log1p((len(events) - 1) / max(len(events) - 1, 1)) if events else np.nan,
            "user:days_known": 100.0 / DAY if events else np.nan,
            "user:session_events": len(events),
            "user:mean_popularity": np.mean([items.popularity[item, -1] for item in liked]) if liked else np.nan,
        }
        assert {name: found[name][row] for name in expected} == pytest.approx(expected, rel=1e-5, nan_ok=True)
        numbers = items.numbers[sorted(liked)]
        means = [column[~np.isnan(column)].mean() if (~np.isnan(column)).any() else np.nan for column in numbers.T]
        np.testing.assert_allclose(mean_numbers(own, items)[row], means, rtol=1e-5)


@given(LISTS)
def test_item_and_pair_features(lists: list[list[int]]) -> None:
    own, items = histories(lists), statistics()
    every = Pairs(*np.divmod(np.arange(len(lists) * N), N))
    values = sp.random(N, 4, 0.6, format="csr", dtype=np.float32, random_state=2)
    pairs = PairFeatures(np.zeros((N, 0), np.float32), values, np.array([0, 0, 1, 1]), ("a", "b"), 10, 2.0, 100)
    found = pairs.columns(own, items, every) | items.columns(every.item_rows, own.as_of[every.query_rows])
    means = mean_numbers(own, items)
    for pair, (row, item) in enumerate(zip(every.query_rows, every.item_rows, strict=True)):
        weights = decayed(own, row, 2.0)
        profile = sum((w * values[[one]].toarray()[0] for one, w in weights.items()), start=np.zeros(4))
        shares = profile / max(sum(weights.values()), 1e-9) * values[[item]].toarray()[0]
        price = np.log(np.maximum(items.numbers[item, 0], 1e-3) / np.maximum(means[row, 0], 1e-3))
        expected = {
            "pair:share:a": shares[:2].sum(),
            "pair:share:b": shares[2:].sum(),
            "pair:distance:price": price,
            "pair:distance:pages": items.numbers[item, 1] - means[row, 1],
            "item:popularity_0": items.popularity[item, 0],
            "item:trend": items.popularity[item, 0] - items.popularity[item, 1],
            "item:age_days": (100.0 - np.fmin(items.published_at[item], items.first_seen[item])) / DAY,
            "item:days_since_last_event": (100.0 - items.last_seen[item]) / DAY,
            "item:repeat_share": items.repeat_share[item],
            "item:ahead:pages": items.numbers[item, 1] - items.usual_numbers[1],
        }
        got = {name: found[name][pair] for name in expected}
        assert got == pytest.approx(expected, rel=1e-4, abs=1e-6, nan_ok=True)


def test_what_sources_say_together() -> None:
    ranks = np.array([[1.0, np.nan, 3.0], [2.0, np.nan, np.nan]], np.float32)
    found = agreement(ranks)
    np.testing.assert_array_equal(found["sources:count"], [2, 0, 1])
    np.testing.assert_allclose(found["sources:fusion"], [1 / 61 + 1 / 62, 0, 1 / 63], rtol=1e-6)


def statistics() -> ItemFeatures:
    """Statistics of `N` items, with unknown times and numbers among them."""
    rng = np.random.default_rng(3)
    numbers = rng.uniform(1, 9, (N, 2)).astype(np.float32)
    numbers[2], numbers[3, 0] = np.nan, np.nan
    first, last, published = rng.uniform(0, 50, (3, N))
    first[4], last[4], published[5] = np.nan, np.nan, np.nan
    popularity = rng.uniform(0, 2, (N, 2)).astype(np.float32)
    popularity[4] = 0
    shares = rng.random(N).astype(np.float32)
    usual = np.array([3.0, 4.0], np.float32)
    return ItemFeatures(popularity, first, last, published, shares, numbers, ("price", "pages"), usual, (5.0,))
