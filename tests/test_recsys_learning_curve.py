"""The learning curve: whole users, nested samples, the same queries."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import world
from features.tables import Dataset
from recsys.evaluation import evaluate, render
from recsys.learning_curve import SHARES, share_of_users
from recsys.settings import settings_from


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5, 1.0])
def test_users_are_left_out_whole(share: float, tiny_dataset: Dataset) -> None:
    kept = np.bincount(share_of_users(tiny_dataset, share, 0).events.user_rows, minlength=world.NUM_USERS)
    assert set(kept.tolist()) <= {0, world.EVENTS_PER_USER}
    assert (kept > 0).sum() == max(1, round(share * world.NUM_USERS))


def test_a_smaller_share_is_part_of_a_larger_one(tiny_dataset: Dataset) -> None:
    samples = [set(share_of_users(tiny_dataset, share, 3).events.user_rows.tolist()) for share in (0.1, 0.4, 0.9)]
    assert samples[0] < samples[1] < samples[2]
    assert samples[0] != set(share_of_users(tiny_dataset, 0.1, 4).events.user_rows.tolist())


def test_the_curve_ends_at_the_product(tiny_dataset: Dataset, tiny_tree: dict[str, Any]) -> None:
    """More readers of a shelf show more of its order, and who is left out is asked all the same."""
    settings = settings_from(tiny_tree | {"sources": ["transitions", "popularity"], "ranker": "by_score"})
    evaluation = evaluate(tiny_dataset, settings, experiments=["learning_curve"])
    rows = evaluation.learning_curve
    assert [row["share"] for row in rows] == [*SHARES, 1.0]
    assert [row["train_users"] for row in rows] == [8, 20, 40, 80]
    assert rows[-1]["train_events"] == len(evaluation.task.train.events)
    assert rows[0]["ndcg@10"] < rows[-1]["ndcg@10"] == evaluation.product.mean()
    assert (rows[-1]["low"], rows[-1]["high"]) == (evaluation.product.interval.low, evaluation.product.interval.high)
    alone = evaluate(tiny_dataset, model=evaluation.model, experiments=["learning_curve"])
    assert [row["ndcg@10"] for row in alone.learning_curve] == [row["ndcg@10"] for row in rows]
    assert "25%" in render(evaluation)
