"""Gating: what is noise goes, what is the truth stays, and nothing goes where chance would decide."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

from ranking.examples import SplitExamples
from ranking.list_metrics import list_recall
from ranking_lists import lists, split_lists
from recsys.gating import Gated, gated
from recsys.settings import Settings, settings_from

TREE: dict[str, Any] = {
    "threads": 1,
    "lambdamart": {"min_examples_per_leaf": 20, "num_leaves": 8},
    "gating": {"trees": 40, "min_lists": 100},
}
SETTINGS = settings_from(TREE)


@pytest.fixture(scope="module")
def found() -> Gated:
    return gated(split_lists(600, 50, trust=0.7), SETTINGS)


def test_dice_are_dropped_and_the_truth_is_kept(found: Gated) -> None:
    assert found.sources == {"dice"}
    assert "dice" in found.names
    left = found.examples.everything
    assert not any(name.startswith("dice:") for name in left.features.names)
    assert {"truth:score", "truth:rank"} <= set(left.features.names)
    assert left.groups.max() == 6  # what the dice alone offered is gone
    assert left.labels.sum() == 650  # and no right item with it


def test_every_part_has_its_row_and_its_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="recsys.gating"):
        by_part = gated(split_lists(600, 50, trust=0.7), SETTINGS).rows
    assert {"truth", "dice", "features: user"} <= set(by_part)
    assert by_part["truth"]["ndcg@10"] < -10 * by_part["truth"]["error"] < 0
    assert not by_part["truth"]["dropped"]
    assert by_part["dice"]["ndcg@10"] >= 0
    assert by_part["dice"]["dropped"]
    assert sum("gating: without" in message for message in caplog.messages) == len(by_part)


def test_a_source_that_alone_finds_the_right_items_stays_even_if_it_orders_nothing() -> None:
    """Truth offers the right item at a random place, and nobody else offers it."""
    found = gated(split_lists(600, 50, trust=0.0), SETTINGS)
    assert "truth" not in found.sources
    assert found.rows["truth"]["recall@50"] < 0


def test_the_held_out_lists_have_no_say() -> None:
    """Gating on lists whose held-out part is another world drops the same parts."""
    train = lists(600, first_user=0, seed=0, trust=0.7)
    other = SplitExamples.joined([train], [lists(50, first_user=900, seed=5, trust=0.0)])
    assert gated(other, SETTINGS).rows == gated(split_lists(600, 50, trust=0.7), SETTINGS).rows


@pytest.mark.parametrize("gating", [{"min_lists": 601}, {"tolerance": -1000.0}])
def test_nothing_is_dropped_where_there_is_too_little_or_the_bar_is_too_high(gating: dict[str, Any]) -> None:
    settings: Settings = settings_from(TREE | {"gating": TREE["gating"] | gating})
    examples = split_lists(600, 50, trust=0.7)
    found = gated(examples, settings)
    assert (found.examples, found.dropped, found.sources) == (examples, (), frozenset())


def test_recall_counts_what_is_not_offered_as_missed() -> None:
    one = lists(4, first_user=0, seed=1)
    scores = np.where(one.labels > 0, np.nan, 1.0)
    assert list_recall(one, scores, 50).tolist() == [0, 0, 0, 0]
    assert list_recall(one, np.where(np.isnan(scores), 2.0, scores), 1).tolist() == [1, 1, 1, 1]
