"""What is taken away: groups by name, candidates that nobody else offers, and counts made again."""

from __future__ import annotations

import numpy as np
import pytest

from features.builder import FeatureMatrix
from recsys.feature_groups import AGREEMENT, PAIRS, VIEWS, ablations, feature_group, reduced, still_offered
from recsys.model import FittedModel
from recsys.recommender import Recommender
from recsys.requests import Request

NAN = np.nan
NAMES = (
    "a:score",
    "a:last",
    "a:rank",
    "b:score",
    "b:rank",
    "sources:count",
    "sources:fusion",
    "a:relative",
    "user:events",
)
# Two lists of two pairs: the first pair is offered by both sources, the second by a, the third by b, the fourth by a.
VALUES = np.array(
    [
        [0.9, 0.1, 1, 0.5, 1, 2, 1 / 61 + 1 / 61, 1.0, 7],
        [0.8, 0.2, 2, 0.0, NAN, 1, 1 / 62, 0.9, 7],
        [0.0, 0.0, NAN, 0.4, 1, 1, 1 / 61, 0.0, 8],
        [0.7, 0.3, 1, 0.0, NAN, 1, 1 / 61, 1.0, 8],
    ],
    np.float32,
)
MATRIX = FeatureMatrix(NAMES, VALUES, np.array([0, 0, 1, 1]))


def by_name(names: tuple[str, ...] = NAMES) -> dict[str, frozenset[str]]:
    return {ablation.name: ablation.columns for ablation in ablations(names)}


def test_every_source_and_every_group_is_taken_away_once() -> None:
    assert by_name() == {
        "without a": {"a:score", "a:last", "a:rank", "a:relative"},
        "without b": {"b:score", "b:rank"},
        f"without features: {VIEWS}": {"a:last"},
        f"without features: {AGREEMENT}": {"sources:count", "sources:fusion", "a:relative"},
        "without features: user": {"user:events"},
    }


def test_the_only_source_cannot_be_taken_away() -> None:
    assert list(by_name(("a:score", "a:rank", "user:events"))) == ["without features: user"]


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("a:score", None),
        ("a:rank", None),
        ("item:popularity_0", "item popularity and time"),
        ("item:ahead:price", PAIRS),
        ("pair:share:brand:last", PAIRS),
        ("text:last", "text matches"),
        ("session:position", "session"),
    ],
)
def test_a_feature_belongs_to_the_group_of_its_prefix(name: str, group: str | None) -> None:
    assert feature_group(name, ["a"]) == group


def test_without_a_source_its_own_candidates_are_gone_and_the_others_are_counted_anew() -> None:
    without_a = ablations(NAMES)[0]
    keep = still_offered(MATRIX, without_a)
    assert keep.tolist() == [True, False, True, False]
    left = reduced(MATRIX, without_a, keep)
    assert left.names == ("b:score", "b:rank", "sources:count", "sources:fusion", "user:events")
    expected = [[0.5, 1, 1, 1 / 61, 7], [0.4, 1, 1, 1 / 61, 8]]
    np.testing.assert_allclose(left.values, np.array(expected, np.float32))
    assert left.query_rows.tolist() == [0, 1]
    assert MATRIX.values[0, 5] == 2, "the argument is as it was"


def test_a_group_takes_its_columns_and_no_candidate() -> None:
    group = next(ablation for ablation in ablations(NAMES) if ablation.name.endswith("user"))
    left = reduced(MATRIX, group, still_offered(MATRIX, group))
    np.testing.assert_array_equal(left.values, VALUES[:, :-1])


def test_on_a_real_model_every_feature_but_the_scores_and_ranks_is_in_one_group(tiny_model: FittedModel) -> None:
    names = Recommender(tiny_model).candidates([Request(user="u000")]).matrix.names
    groups = [ablation.columns for ablation in ablations(names) if ablation.source is None]
    kept = {f"{source.name}:{view}" for source in tiny_model.sources for view in ("score", "rank")}
    assert sorted(name for group in groups for name in group) == sorted(set(names) - kept)
