"""The sources' joint order: by hand, and what it never depends on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from features.builder import FeatureMatrix
from ranking.by_score import SMOOTHING, ByScoreRanker, source_ndcg
from ranking.examples import RankingExamples
from ranking_lists import lists
from recsys.comparison import list_ndcg

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
    assert ranker.shares(matrix([0, 0, 0, 0])).sum(axis=1) == pytest.approx(expected)


def test_a_source_counts_by_the_square_of_its_quality_and_all_alike_where_nothing_is_known() -> None:
    found = ByScoreRanker.of({"a": 0.2, "b": 0.1})
    assert found.sources == ("a", "b")
    assert found.weights == pytest.approx((0.8, 0.2))
    assert ByScoreRanker.of({"a": 0.0, "b": 0.0}) == ByScoreRanker(("a", "b"), (0.5, 0.5))
    assert ByScoreRanker.of({"a": 0.2, "b": 0.0}).weights == (1.0, 0.0)
    assert ByScoreRanker.of({}) == ByScoreRanker((), ())


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
    found = source_ndcg(examples)
    assert found["a"].tolist() == [1 / np.log2(3), 0.0]
    assert found["b"].tolist() == [1.0, 0.0]


def test_ndcg_of_a_source_is_that_of_its_order_of_the_whole_list() -> None:
    examples = lists(50, first_user=0, seed=3, trust=0.5)
    found = source_ndcg(examples)
    assert set(found) == {"truth", "dice"}
    for name, values in found.items():
        ranks = examples.features.column(f"{name}:rank").astype(np.float64)
        assert values == pytest.approx(list_ndcg(examples, -ranks))


def test_a_sample_of_the_candidates_changes_nothing() -> None:
    """Training lists keep a part of their wrong candidates; the sources' ranks are those of the whole lists."""
    examples = lists(200, first_user=0, seed=3, trust=0.5)
    keep = (examples.labels > 0) | (np.random.default_rng(0).random(len(examples.labels)) < 0.3)
    query_rows = examples.features.query_rows[keep]
    features = FeatureMatrix(examples.features.names, examples.features.values[keep], query_rows)
    groups = np.bincount(query_rows, minlength=len(examples))
    sample = RankingExamples(features, examples.labels[keep], groups, examples.users, examples.num_labels)
    assert ByScoreRanker.fit(sample) == ByScoreRanker.fit(examples)


def test_saving_and_loading_change_nothing(tmp_path: Path) -> None:
    ranker = ByScoreRanker.of({"a": 0.123456789, "b": 0.3})
    ranker.save(tmp_path / "ranker")
    assert ByScoreRanker.load(tmp_path / "ranker") == ranker
