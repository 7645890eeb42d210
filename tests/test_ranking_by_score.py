"""The sources' joint order: by hand, and what it never depends on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from features.builder import FeatureMatrix
from ranking.by_score import FLOOR, SHARPNESS, SMOOTHING, ByScoreRanker
from ranking.examples import RankingExamples
from ranking.list_metrics import list_ndcg, ndcg_by_source
from ranking_lists import lists

NAN = np.nan
NAMES = ("a:rank", "a:score", "b:rank")
VALUES = np.array([[1, 9, NAN], [2, 8, 1], [NAN, NAN, 11], [11, 1, NAN]], np.float32)


def matrix(query_rows: list[int]) -> FeatureMatrix:
    return FeatureMatrix(NAMES, VALUES, np.array(query_rows))


def test_each_source_gives_its_weight_to_its_first_item_and_half_of_it_so_many_places_behind() -> None:
    assert SMOOTHING == 10
    ranker = ByScoreRanker(("a", "b"), (0.75, 0.25))
    expected = [0.75, 0.75 * 10 / 11 + 0.25, 0.125, 0.375]
    assert ranker.score(matrix([0, 0, 0, 0])) == pytest.approx(expected)
    assert sum(ranker.shares(matrix([0, 0, 0, 0]))) == pytest.approx(expected)


def test_a_source_counts_by_the_square_of_its_quality_and_all_alike_where_nothing_is_known() -> None:
    found = ByScoreRanker.of({"a": 0.2, "b": 0.1})
    assert found.sources == ("a", "b")
    assert found.weights == pytest.approx((0.8, 0.2))
    assert ByScoreRanker.of({"a": 0.0, "b": 0.0}) == ByScoreRanker(("a", "b"), (0.5, 0.5))
    assert ByScoreRanker.of({}) == ByScoreRanker((), ())


def test_what_only_a_worthless_source_offers_keeps_its_order_when_scores_are_rounded() -> None:
    """Scores have six digits in a list."""
    ranker = ByScoreRanker.of({"a": 0.2, "b": 0.0})
    assert ranker.weights[1] == pytest.approx(FLOOR / (1 + FLOOR))
    ranks = np.column_stack([np.full(200, NAN), np.arange(1, 201)]).astype(np.float32)
    scores = np.round(ranker.score(FeatureMatrix(("a:rank", "b:rank"), ranks, np.zeros(200, np.int64))), 6)
    assert (np.diff(scores) < 0).all()


def test_weights_are_as_sharp_as_orders_the_lists_best() -> None:
    """Nine sources that are often wrong in the same way outvote the one that is nearly always right, unless the best
    one counts alone; two lesser ones that agree where the best one is wrong are heard.
    """
    rng = np.random.default_rng(0)
    right = rng.integers(0, 20, 300)
    wrong = rng.integers(0, 20, 300)
    good, bad = ranked(right, 0.9, rng), ranked(np.where(rng.random(300) < 0.45, right, wrong), 1.0, rng)
    columns = {"good:rank": good} | {f"bad{k}:rank": bad for k in range(9)}
    made = examples_of(columns, right)
    quality = {name: float(values.mean()) for name, values in ndcg_by_source(made).items()}
    assert ByScoreRanker.fit(made) == ByScoreRanker.of(quality, SHARPNESS[-1])
    assert joint_ndcg(made) > max(quality.values()) - 0.005
    mostly = rng.random(300) < 0.6
    lesser = [ranked(np.where(mostly, rng.integers(0, 20, 300), right), 1.0, rng) for _ in range(2)]
    three = {"best:rank": ranked(np.where(mostly, right, wrong), 1.0, rng)}
    made = examples_of(three | {"second:rank": lesser[0], "third:rank": lesser[1]}, right)
    quality = {name: float(values.mean()) for name, values in ndcg_by_source(made).items()}
    assert max(quality, key=lambda name: quality[name]) == "best"
    assert ByScoreRanker.fit(made) == ByScoreRanker.of(quality, SHARPNESS[0])
    assert joint_ndcg(made) > quality["best"] + 0.02


def test_by_the_sharpest_weights_all_but_the_best_source_have_the_floor() -> None:
    found = ByScoreRanker.of({"a": 0.20, "b": 0.199, "c": 0.0}, SHARPNESS[-1])
    assert found.weights == pytest.approx(np.array([1, FLOOR, FLOOR]) / (1 + 2 * FLOOR))
    assert ByScoreRanker.of({"a": 0.0, "b": 0.0}, SHARPNESS[-1]) == ByScoreRanker.of({"a": 0.0, "b": 0.0})


@pytest.mark.parametrize("trust", [0.05, 0.3, 0.6])
@pytest.mark.parametrize("num_others", [4, 9])
def test_many_sources_that_err_alike_do_not_make_the_order_clearly_worse_than_the_best_source(
    num_others: int, trust: float
) -> None:
    """They err alike, and say the more the more there are."""
    rng = np.random.default_rng([num_others, round(100 * trust)])
    right, wrong = rng.integers(0, 20, 300), rng.integers(0, 20, 300)
    other = ranked(np.where(rng.random(300) < trust, right, wrong), 1.0, rng)
    made = examples_of(
        {"best:rank": ranked(right, trust + 0.2, rng)} | {f"o{k}:rank": other for k in range(num_others)}, right
    )
    best = max(float(values.mean()) for values in ndcg_by_source(made).values())
    assert joint_ndcg(made) > best - 0.005


def ranked(first: np.ndarray, trust: float, rng: np.random.Generator) -> np.ndarray:
    """Ranks (300, 20) of a source that puts `first` first in a share `trust` of the lists, the rest at random."""
    scores = rng.random((300, 20))
    scores[np.arange(300), np.where(rng.random(300) < trust, first, 0)] = 2.0
    return np.argsort(np.argsort(-scores, axis=1), axis=1) + 1.0


def examples_of(columns: dict[str, np.ndarray], right: np.ndarray) -> RankingExamples:
    values = np.column_stack([column.reshape(-1) for column in columns.values()]).astype(np.float32)
    rows = np.repeat(np.arange(300), 20)
    labels = (np.arange(20) == right[:, None]).reshape(-1).astype(np.float32)
    features = FeatureMatrix(tuple(columns), values, rows)
    return RankingExamples(features, labels, np.full(300, 20), np.arange(300), np.ones(300, np.int64))


def joint_ndcg(made: RankingExamples) -> float:
    return float(list_ndcg(made, ByScoreRanker.fit(made).score(made.features)).mean())


def test_one_source_alone_keeps_its_order_and_what_it_does_not_offer_stands_last() -> None:
    scores = ByScoreRanker.of({"a": 0.3}).score(matrix([0, 0, 0, 0]))
    assert np.argsort(-scores).tolist() == [0, 1, 3, 2]


def test_a_source_that_is_not_in_the_features_adds_nothing() -> None:
    with_it, without = ByScoreRanker(("a", "gone"), (0.6, 0.4)), ByScoreRanker(("a",), (0.6,))
    assert (with_it.score(matrix([0, 0, 1, 1])) == without.score(matrix([0, 0, 1, 1]))).all()


def test_ndcg_of_a_source_by_hand() -> None:
    """Of the second list three items are right: a puts one eleventh and lacks the others, as does b."""
    labels = np.array([0, 1, 1, 1], np.float32)
    examples = RankingExamples(matrix([0, 0, 1, 1]), labels, np.array([2, 2]), np.array([7, 8]), np.array([1, 3]))
    found = ndcg_by_source(examples)
    assert found["a"].tolist() == [1 / np.log2(3), 0.0]
    assert found["b"].tolist() == [1.0, 0.0]


def test_ndcg_of_a_source_is_that_of_its_order_of_the_whole_list() -> None:
    examples = lists(50, first_user=0, seed=3, trust=0.5)
    found = ndcg_by_source(examples)
    assert set(found) == {"truth", "dice"}
    for name, values in found.items():
        ranks = examples.features.column(f"{name}:rank").astype(np.float64)
        assert values == pytest.approx(list_ndcg(examples, -ranks))


def test_a_sample_of_the_candidates_changes_no_source() -> None:
    """Training lists keep a part of their wrong candidates; the sources' ranks are those of the whole lists."""
    examples = lists(200, first_user=0, seed=3, trust=0.5)
    keep = (examples.labels > 0) | (np.random.default_rng(0).random(len(examples.labels)) < 0.3)
    query_rows = examples.features.query_rows[keep]
    features = FeatureMatrix(examples.features.names, examples.features.values[keep], query_rows)
    groups = np.bincount(query_rows, minlength=len(examples))
    sample = RankingExamples(features, examples.labels[keep], groups, examples.users, examples.num_labels)
    found, whole = ndcg_by_source(sample), ndcg_by_source(examples)
    assert {name: values.tolist() for name, values in found.items()} == {k: v.tolist() for k, v in whole.items()}


def test_saving_and_loading_change_nothing(tmp_path: Path) -> None:
    ranker = ByScoreRanker.of({"a": 0.123456789, "b": 0.3})
    ranker.save(tmp_path / "ranker")
    assert ByScoreRanker.load(tmp_path / "ranker") == ranker
