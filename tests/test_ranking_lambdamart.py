"""Several forests as one: the score is the sum, and a saved forest is the same forest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from features.builder import FeatureMatrix
from features.seeds import member_seed
from ranking.by_score import ByScoreRanker
from ranking.lambdamart import LambdaMartRanker, LambdaMartSettings, joined
from ranking_lists import lists

SETTINGS = LambdaMartSettings(num_leaves=8, min_examples_per_leaf=20, forests=3)
EXAMPLES = lists(200, first_user=0, seed=0, trust=0.7)


@pytest.fixture(scope="module")
def three() -> LambdaMartRanker:
    return LambdaMartRanker.fit(EXAMPLES, 6, SETTINGS, 0, 1)


def test_three_forests_score_as_the_sum_of_each(three: LambdaMartRanker) -> None:
    one = SETTINGS.model_copy(update={"forests": 1})
    each = [LambdaMartRanker.fit(EXAMPLES, 6, one, member_seed(0, k), 1) for k in range(3)]
    alone = [ranker.score(EXAMPLES.features) for ranker in each]
    assert three.num_trees == 18
    assert not np.array_equal(alone[0], alone[1])
    np.testing.assert_allclose(three.score(EXAMPLES.features), sum(alone))
    np.testing.assert_allclose(three.contributions(EXAMPLES.features).sum(axis=1), sum(alone))
    gains = sum(ranker.gains()["truth:score"] for ranker in each)
    assert three.gains()["truth:score"] == pytest.approx(gains)


def test_one_model_joined_is_itself(three: LambdaMartRanker) -> None:
    again = LambdaMartRanker(joined([three.model_text]), three.names, three.start, three.start_scale)
    np.testing.assert_array_equal(again.score(EXAMPLES.features), three.score(EXAMPLES.features))


def test_saving_and_loading_change_nothing(three: LambdaMartRanker, tmp_path: Path) -> None:
    three.save(tmp_path / "ranker")
    loaded = LambdaMartRanker.load(tmp_path / "ranker")
    assert loaded == three
    np.testing.assert_array_equal(loaded.score(EXAMPLES.features), three.score(EXAMPLES.features))


def test_columns_are_taken_by_name_and_none_may_be_missing(three: LambdaMartRanker) -> None:
    matrix = EXAMPLES.features
    more = FeatureMatrix(
        ("odd", *matrix.names[::-1]), np.column_stack([matrix.values[:, 0] * 0, matrix.values[:, ::-1]]),
        matrix.query_rows,
    )  # fmt: skip
    np.testing.assert_array_equal(three.score(more), three.score(matrix))
    with pytest.raises(ValueError, match="missing: user:age"):
        three.score(FeatureMatrix(matrix.names[:-1], matrix.values[:, :-1], matrix.query_rows))


def test_trees_too_large_for_the_fast_way_are_scored_all_the_same(
    three: LambdaMartRanker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ranking.forest.MAX_LEAVES", 4)
    slow = LambdaMartRanker(three.model_text, three.names, three.start, three.start_scale)
    np.testing.assert_array_equal(slow.score(EXAMPLES.features), three.score(EXAMPLES.features))
    assert "leaves, more than 4" in caplog.text


def test_boosting_starts_from_the_sources_joint_order_each_forest_anew() -> None:
    own = SETTINGS.model_copy(update={"sources_first": 5.0})
    ranker = LambdaMartRanker.fit(EXAMPLES, 6, own, 0, 1)
    assert ranker.start == ByScoreRanker.fit(EXAMPLES)
    assert ranker.start_scale == 15.0
    trees = LambdaMartRanker(ranker.model_text, ranker.names, ranker.start, 0.0)
    joint = ranker.start.score(EXAMPLES.features)
    np.testing.assert_allclose(ranker.score(EXAMPLES.features), 15 * joint + trees.score(EXAMPLES.features))
    from_nothing = LambdaMartRanker.fit(EXAMPLES, 6, SETTINGS.model_copy(update={"sources_first": 0.0}), 0, 1)
    assert from_nothing.start_scale == 0
    assert from_nothing.model_text != ranker.model_text, "the trees correct what is there already"


def test_trees_that_learned_nothing_leave_the_sources_joint_order() -> None:
    """Lists too few for a single split."""
    few = EXAMPLES.lists(0, 3)
    ranker = LambdaMartRanker.fit(few, 6, SETTINGS.model_copy(update={"min_examples_per_leaf": 10_000}), 0, 1)
    joint = ByScoreRanker.fit(few).score(EXAMPLES.features)
    np.testing.assert_allclose(ranker.score(EXAMPLES.features), ranker.start_scale * joint)


@pytest.mark.parametrize(("num_lists", "trees"), [(0, 1), (123, 30), (160, 40), (799, 199), (800, 200), (10**6, 200)])
def test_few_lists_carry_few_trees(num_lists: int, trees: int) -> None:
    assert LambdaMartSettings(min_lists_per_tree=4).trees_for(num_lists) == trees
    assert LambdaMartSettings(min_lists_per_tree=0).trees_for(num_lists) == 200
    assert LambdaMartSettings(num_trees=7).trees_for(num_lists) == min(7, trees)
