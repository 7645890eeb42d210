"""What is bought counts more than what is viewed, within a list and among lists; one kind of event changes nothing."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from features.builder import FeatureMatrix
from ranking.examples import RankingExamples
from ranking.grades import ALIKE, Grades
from ranking.lambdamart import LambdaMartRanker, LambdaMartSettings
from ranking_lists import lists

BOUGHT, VIEWED = 1.0, 1 / 3
SETTINGS = LambdaMartSettings(num_leaves=4, min_examples_per_leaf=20, forests=1, learning_rate=0.2)


def examples(*labels: list[float]) -> RankingExamples:
    """Lists with these labels."""
    groups = np.array([len(own) for own in labels])
    query_rows = np.repeat(np.arange(len(labels)), groups)
    matrix = FeatureMatrix(("x",), np.zeros((len(query_rows), 1), np.float32), query_rows)
    flat = np.concatenate(labels).astype(np.float32)
    return RankingExamples(matrix, flat, groups, np.arange(len(labels)), np.ones(len(labels), np.int64))


def pulled_two_ways(labels: tuple[float, float], *, together: bool) -> RankingExamples:
    """Four items a list; of the first feature `a` speaks for the one labelled labels[0], of the second `b` for the one
    labelled labels[1]. Both are right in every list, or each in every other list.
    """
    values = np.tile(np.array([[1, 0], [0, 1], [0, 0], [0, 0]], np.float32), (400, 1))
    flat = np.tile(np.array([*labels, 0, 0], np.float32), (400, 1))
    if not together:
        flat[::2, 1] = flat[1::2, 0] = 0
    rows = np.repeat(np.arange(400), 4)
    matrix = FeatureMatrix(("a", "b"), values, rows)
    return RankingExamples(matrix, flat.ravel(), np.full(400, 4), np.arange(400), (flat > 0).sum(axis=1))


def first_of(made: RankingExamples, **changes: Any) -> float:
    """How far the forest puts the item of `a` above that of `b`."""
    ranker = LambdaMartRanker.fit(made, 10, SETTINGS.model_copy(update=changes), 0, 1)
    scores = ranker.score(made.features.select(made.features.query_rows == 0))
    return float(scores[0] - scores[1])


def test_items_count_their_events_and_lists_their_best_item() -> None:
    made = Grades.of(examples([0, 1.0, 0.5], [0.5, 0], [0, 0.5]), 1.0)
    assert made.labels.tolist() == [0, 2, 1, 1, 0, 0, 1]
    assert made.gains == (0.0, 0.5, 1.0)
    assert made.weights is not None
    assert made.weights.tolist() == [1.5, 1.5, 1.5, 0.75, 0.75, 0.75, 0.75]


def test_the_power_says_how_much_more_the_stronger_event_counts() -> None:
    assert Grades.of(examples([1.0, 0.5]), 2.0).gains == (0.0, 0.25, 1.0)
    even = Grades.of(examples([1.0, 0.5, 0]), 0.0)
    assert (even.labels.tolist(), even.gains, even.weights) == ([1, 1, 0], ALIKE, None)


def test_events_of_one_weight_and_no_right_item_at_all_make_no_grades() -> None:
    for weight in (1.0, 0.5, 0.0):
        made = Grades.of(examples([0, weight], [weight, 0]), 1.0)
        assert (made.gains, made.weights) == (ALIKE, None)
        assert made.labels.tolist() == [0, *[float(weight > 0)] * 2, 0]


def test_with_one_kind_of_event_the_gain_changes_no_bit_of_the_forest() -> None:
    made = lists(200, first_user=0, seed=0, trust=0.7)
    for weight in (1.0, 0.4):
        weighted = dataclasses.replace(made, labels=made.labels * np.float32(weight))
        found = {
            LambdaMartRanker.fit(weighted, 5, SETTINGS.model_copy(update={"label_gain": gain}), 0, 1)
            for gain in (0.0, 1.0, 3.0)
        }
        assert found == {LambdaMartRanker.fit(made, 5, SETTINGS, 0, 1)}


@pytest.mark.parametrize("objective", ["lambdarank", "rank_xendcg"])
@pytest.mark.parametrize("together", [True, False])
def test_what_is_bought_stands_above_what_is_viewed(objective: str, together: bool) -> None:
    """Nothing but the kind of event tells them apart."""
    bought_is_a = pulled_two_ways((BOUGHT, VIEWED), together=together)
    bought_is_b = pulled_two_ways((VIEWED, BOUGHT), together=together)
    assert first_of(bought_is_a, objective=objective) > 0.2
    assert first_of(bought_is_b, objective=objective) < -0.2
    even = first_of(bought_is_a, objective=objective, label_gain=0.0)
    assert abs(even) < 0.5 * first_of(bought_is_a, objective=objective)
