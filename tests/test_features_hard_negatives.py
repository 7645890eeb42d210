from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.batches import Batch, NextChoices, log_shares
from features.hard_negatives import HardNegatives
from features.losses import history_loss, pair_loss
from features.next_items import NextItemPairs

NONE = [-1, -1]


def pairs_of(*rows: tuple[int, int, int]) -> NextItemPairs:
    """Rows of (anchor, positive, user), one moment apart."""
    anchors, positives, users = np.array(rows, np.int64).T
    return NextItemPairs(anchors, positives, users, np.ones_like(users), np.ones_like(users))


def hard_of(neighbours: list[list[int]], per_anchor: int, known: NextItemPairs) -> HardNegatives:
    return HardNegatives.of(np.array(neighbours, np.int64), per_anchor, known)


@given(seed=st.integers(0, 99), per_anchor=st.integers(1, 4))
def test_draws_are_neighbours_that_are_not_there_yet(seed: int, per_anchor: int) -> None:
    rng = np.random.default_rng(seed)
    neighbours = rng.integers(-1, 20, (20, 3))
    hard = HardNegatives.of(neighbours, per_anchor, pairs_of((0, 1, 0)))
    anchors, taken = np.array([2, 5, 7]), np.array([2, 5, 7, 11, 12])
    drawn = hard.draw(anchors, taken, np.random.default_rng(seed))
    assert set(drawn.tolist()) <= set(neighbours[anchors].ravel().tolist()) - {-1, *taken.tolist()}
    assert len(drawn) == len(set(drawn.tolist())) <= per_anchor * len(anchors)
    np.testing.assert_array_equal(drawn, hard.draw(anchors, taken, np.random.default_rng(seed)))


def test_an_item_is_no_negative_of_itself() -> None:
    hard = hard_of([[0, 1], NONE], 2, pairs_of((0, 1, 0)))
    assert hard.draw(np.array([0]), np.array([], np.int64), np.random.default_rng(0)).tolist() == [1]


def test_expected_draws_by_hand() -> None:
    hard = hard_of([[1, 2], NONE, [0, -1]], 1, pairs_of((0, 1, 0)))
    # item 0 starts four pairs, half of them draw 1, half 2; item 2 starts five, all draw 0
    assert hard.expected_draws(np.array([4, 3, 5])).tolist() == [5.0, 2.0, 2.0]


def test_shares_count_the_draws() -> None:
    pairs = pairs_of((0, 1, 0), (0, 1, 1))
    hard = hard_of([[2, -1], NONE, NONE], 1, pairs)
    # 2 ends each of 0 and 1, two draws of 2, and a pseudo-count each
    np.testing.assert_allclose(np.exp(log_shares(pairs, 3, hard)), [1 / 3] * 3, rtol=1e-6)


def test_what_a_user_chose_at_any_time_is_no_negative_for_that_user() -> None:
    """Users 0 and 1 go from 0 to 1; user 0 knows 2 from elsewhere, nobody knows 3."""
    torch = pytest.importorskip("torch")
    known = pairs_of((0, 1, 0), (4, 2, 0), (0, 1, 1))
    hard = hard_of([[2, 3], NONE, NONE, NONE, NONE], 2, known)
    vectors = torch.nn.functional.normalize(torch.tensor([[1.0, 0.2], [0.8, 0.5], [0.9, 0.1], [0.3, 0.7]]), dim=1)

    def losses(user: int, vectors: torch.Tensor) -> tuple[float, float]:
        batch = Batch.of(
            known.select((known.user_rows == user) & (known.anchor_rows == 0)), hard, np.random.default_rng(0)
        )
        assert batch.items.tolist() == [0, 1, 2, 3]
        assert batch.known is not None
        ends = torch.from_numpy(batch.anchors), torch.from_numpy(batch.positives)
        pair = pair_loss(vectors, *ends, torch.zeros(4), 0.5, known=torch.from_numpy(batch.known))
        return float(pair), float(history_loss(vectors, NextChoices.of(batch), torch.zeros(4), 0.5))

    moved = {}
    for item in (2, 3):
        moved[item] = vectors.clone()
        moved[item][item] = torch.tensor([0.0, -1.0])
    assert losses(0, moved[2]) == losses(0, vectors)
    for user, item in ((0, 3), (1, 2), (1, 3)):
        assert all(a < b for a, b in zip(losses(user, moved[item]), losses(user, vectors), strict=True))
