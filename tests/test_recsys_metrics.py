"""Metrics: figures worked by hand, and laws that hold for any lists."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys import metrics
from recsys.metrics import Interval, PairedDifference

NAN = float("nan")
ITEMS = st.sampled_from([f"i{n}" for n in range(12)])
QUERIES = st.lists(st.tuples(st.lists(ITEMS, unique=True, max_size=8), st.frozensets(ITEMS, max_size=6)), min_size=1)
CLUSTERED = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 4)), min_size=1, max_size=30)


def hits_of(lists, truths, width=50):
    return metrics.hit_matrix(lists, truths, width), metrics.count(truths)


def rng():
    return np.random.default_rng(0)


def test_a_hit_matrix_marks_relevant_positions_and_pads_short_lists():
    hits, num_relevant = hits_of([["a", "b", "c", "d"], [], ["x"]], [{"b", "d"}, {"a"}, {"x", "y"}], width=3)
    assert hits.tolist() == [[False, True, False], [False, False, False], [True, False, False]]
    assert num_relevant.tolist() == [2, 1, 2]


def test_lists_and_truths_must_pair_up():
    with pytest.raises(ValueError):
        metrics.hit_matrix([["a"]], [], 3)


def test_ndcg_worked_by_hand():
    """Hits at positions 1 and 3: (1 + 1/2) / (1 + 1/log2(3)); one hit at position 3 of a single relevant item: 1/2."""
    hits, num_relevant = hits_of([["a", "x", "b"], ["x", "y", "a"], ["x"]], [{"a", "b"}, {"a"}, {"a"}])
    expected = [1.5 / (1 + 1 / math.log2(3)), 0.5, 0.0]
    assert metrics.ndcg_at_k(hits, num_relevant, 10) == pytest.approx(expected)


def test_the_ideal_list_of_ndcg_is_cut_at_k():
    """With 3 relevant items and k = 2, two hits are perfect."""
    hits, num_relevant = hits_of([["a", "b", "x"]], [{"a", "b", "c"}])
    assert metrics.ndcg_at_k(hits, num_relevant, 2).tolist() == [1.0]
    assert metrics.ndcg_at_k(hits, num_relevant, 3)[0] < 1.0


def test_recall_is_divided_by_what_k_positions_can_hold():
    hits, num_relevant = hits_of([["a", "x", "b"], ["a", "b", "c"]], [{"a", "b", "c", "d"}, {"a", "b", "c", "d"}])
    assert metrics.recall_at_k(hits, num_relevant, 3) == pytest.approx([2 / 3, 1.0])
    assert metrics.recall_at_k(hits, num_relevant, 50) == pytest.approx([2 / 4, 3 / 4])


def test_reciprocal_rank_and_hit_stop_at_k():
    hits, num_relevant = hits_of([["x", "y", "a"], ["x", "a", "b"]], [{"a"}, {"a", "b"}])
    assert metrics.mrr_at_k(hits, num_relevant, 3) == pytest.approx([1 / 3, 1 / 2])
    assert metrics.mrr_at_k(hits, num_relevant, 2) == pytest.approx([0, 1 / 2])
    assert metrics.hit_at_k(hits, num_relevant, 2).tolist() == [0, 1]


def test_without_a_relevant_item_nothing_is_defined():
    hits, num_relevant = hits_of([["a"]], [set()])
    for metric in (metrics.ndcg_at_k, metrics.hit_at_k, metrics.recall_at_k, metrics.mrr_at_k):
        assert np.isnan(metric(hits, num_relevant, 10)).all()


def test_cold_recall_looks_at_cold_truth_alone():
    lists, truths = [["old", "new"], ["old"], ["new"]], [{"old", "new"}, {"old"}, {"new", "newer"}]
    values = metrics.cold_recall_at_k(lists, truths, {"new", "newer"}, 10)
    assert values[[0, 2]].tolist() == [1.0, 0.5]
    assert np.isnan(values[1])
    assert metrics.cold_recall_at_k(lists, truths, {"new", "newer"}, 1)[[0, 2]].tolist() == [0.0, 1.0]


def test_coverage_counts_the_heads_of_the_lists():
    assert metrics.coverage([["a", "b", "c"], ["b", "a"], []], num_items=8, k=2) == 2 / 8
    assert metrics.num_distinct([["a", "b", "c"], ["b", "a"], []], k=3) == 3
    assert metrics.coverage([], num_items=0, k=2) == 0.0


def test_mean_leaves_out_what_is_not_defined():
    assert metrics.mean(np.array([1.0, NAN, 0.0])) == 0.5
    assert math.isnan(metrics.mean(np.array([NAN])))
    assert math.isnan(metrics.mean(np.empty(0)))


@given(QUERIES, st.integers(1, 10))
def test_every_metric_lies_between_0_and_1_and_a_perfect_list_scores_1(queries, k):
    lists, truths = zip(*queries, strict=True)
    perfect = [sorted(truth) for truth in truths]
    for metric in (metrics.ndcg_at_k, metrics.hit_at_k, metrics.recall_at_k, metrics.mrr_at_k):
        values = metric(*hits_of(lists, truths), k)
        assert np.array_equal(np.isnan(values), [not truth for truth in truths])
        assert ((values >= 0) & (values <= 1 + 1e-12) | np.isnan(values)).all()
        best = metric(*hits_of(perfect, truths), k)
        assert best[~np.isnan(best)] == pytest.approx(1.0)


@given(st.lists(ITEMS, unique=True, min_size=2, max_size=8), st.frozensets(ITEMS, min_size=1))
def test_a_hit_further_up_never_scores_less(items, truth):
    """Swapping a hit with the miss above it."""
    for upper in range(len(items) - 1):
        if items[upper] in truth or items[upper + 1] not in truth:
            continue
        better = [*items[:upper], items[upper + 1], items[upper], *items[upper + 2 :]]
        low, high = (metrics.ndcg_at_k(*hits_of([answer], [truth]), 10)[0] for answer in (items, better))
        assert high > low


def test_the_standard_error_of_one_query_a_user_is_the_usual_one():
    """Four residuals of 1/2: sqrt(4 * 1/4) / 4 = 1/4; of two users, whose residuals add up: sqrt(1 + 1) / 4."""
    values = np.array([0.0, 0.0, 1.0, 1.0])
    assert metrics.standard_error(values, list("abcd")) == pytest.approx(0.25)
    assert metrics.standard_error(values, list("aabb")) == pytest.approx(math.sqrt(2) / 4)
    assert math.isnan(metrics.standard_error(np.array([NAN]), ["a"]))


def test_an_interval_of_equal_values_is_that_value():
    assert metrics.bootstrap_interval(np.full(6, 0.25), list("aabbcc"), rng()) == Interval(0.25, 0.25)


def test_an_interval_resamples_users_not_queries():
    """Two users of 50 equal queries each: between users there is every doubt, between queries little."""
    values = np.array([1.0] * 50 + [0.0] * 50)
    by_user = metrics.bootstrap_interval(values, ["a"] * 50 + ["b"] * 50, rng())
    by_query = metrics.bootstrap_interval(values, [f"u{n}" for n in range(100)], rng())
    assert by_user == Interval(0.0, 1.0)
    assert 0.35 < by_query.low < 0.45 < 0.55 < by_query.high < 0.65


def test_an_interval_agrees_with_the_standard_error():
    """Normal values: the 95 % interval is about 1.96 standard errors to each side."""
    values = rng().normal(size=2000)
    users = np.arange(2000) // 2
    interval = metrics.bootstrap_interval(values, users, rng())
    half = (interval.high - interval.low) / 2
    assert half == pytest.approx(1.96 * metrics.standard_error(values, users), rel=0.1)


@given(CLUSTERED)
def test_an_interval_lies_within_the_values_whatever_the_order_of_queries(pairs):
    values, users = np.array([v for v, _ in pairs]), [f"u{u}" for _, u in pairs]
    interval = metrics.bootstrap_interval(values, users, rng(), num_samples=50)
    assert values.min() - 1e-9 <= interval.low <= interval.high <= values.max() + 1e-9
    backwards = metrics.bootstrap_interval(values[::-1], users[::-1], rng(), num_samples=50)
    assert (backwards.low, backwards.high) == pytest.approx((interval.low, interval.high))


def test_an_interval_without_a_defined_value_is_not_a_number():
    interval = metrics.bootstrap_interval(np.array([NAN]), ["a"], rng())
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


def test_a_system_that_is_better_for_every_user_is_better():
    found = metrics.paired_bootstrap(np.array([0.5, 0.6, 0.9]), np.array([0.4, 0.5, 0.8]), list("abc"), rng())
    assert found.difference == pytest.approx(0.1)
    assert found.verdict == "better"
    assert found.probability_better == 1.0
    assert found.p_value == pytest.approx(2 / 1001)


def test_a_system_compared_with_itself_is_not_different():
    values = np.array([0.5, 0.6, 0.9])
    found = metrics.paired_bootstrap(values, values, list("abc"), rng())
    assert found == PairedDifference(0.0, Interval(0.0, 0.0), 1.0, 0.5)
    assert found.verdict == "no clear difference"


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(0, 4)), min_size=1, max_size=30))
def test_swapping_the_systems_turns_the_difference_around(triples):
    a, b = np.array([t[0] for t in triples]), np.array([t[1] for t in triples])
    users = [t[2] for t in triples]
    one = metrics.paired_bootstrap(a, b, users, rng(), num_samples=60)
    other = metrics.paired_bootstrap(b, a, users, rng(), num_samples=60)
    assert one.difference == pytest.approx(-other.difference)
    assert (one.interval.low, one.interval.high) == pytest.approx((-other.interval.high, -other.interval.low))
    assert one.p_value == other.p_value
    assert one.probability_better == pytest.approx(1 - other.probability_better)
    assert 0 < one.p_value <= 1


def test_a_comparison_leaves_out_queries_that_either_system_lacks():
    found = metrics.paired_bootstrap(np.array([1.0, NAN]), np.array([0.0, 1.0]), ["a", "b"], rng())
    assert found.difference == 1.0
    nothing = metrics.paired_bootstrap(np.array([NAN]), np.array([0.0]), ["a"], rng())
    assert math.isnan(nothing.difference)
    assert nothing.verdict == "no clear difference"


@pytest.mark.parametrize(("a", "b", "users"), [([0.1], [0.1, 0.2], ["u"]), ([0.1], [0.2], ["u", "v"])])
def test_queries_that_do_not_pair_up_are_an_error(a, b, users):
    with pytest.raises(ValueError, match="but there are"):
        metrics.paired_bootstrap(np.array(a), np.array(b), users, rng())
