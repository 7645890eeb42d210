from __future__ import annotations

import numpy as np
import pytest

from features.batches import Batch, NextChoices
from features.losses import Objective, alignment_loss, history_loss, pair_loss, perturbed
from features.next_items import NextItemPairs

torch = pytest.importorskip("torch")


def pairs_of(*rows: tuple[int, int, int, int, int]) -> NextItemPairs:
    """Rows of (anchor, positive, user, gap, moment)."""
    return NextItemPairs(*np.array(rows, np.int64).reshape(-1, 5).T)


def softmax(*scores: float) -> np.ndarray:
    powers = np.exp(scores)
    return np.asarray(powers / powers.sum())


CORNER = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
SHARES = torch.log(torch.tensor([0.5, 0.25, 0.25]))
FIRST, SECOND = torch.tensor([0]), torch.tensor([1])


def test_one_direction_asks_for_the_positive_alone() -> None:
    forward = -np.log(4 / (4 + 4 * np.exp(0.6)))  # see the test of both directions in test_features_finetune
    loss = pair_loss(CORNER, FIRST, SECOND, SHARES, 1.0, symmetric=False)
    assert float(loss) == pytest.approx(forward, abs=1e-6)


def test_what_the_user_knows_is_no_negative() -> None:
    known = torch.tensor([[False, False, True]])
    assert float(pair_loss(CORNER, FIRST, SECOND, SHARES, 1.0, known=known)) == 0.0


def test_history_loss_by_hand() -> None:
    """The mean of items 0 and 1 points to (1, 1) / sqrt 2: cosine 1.4 / sqrt 2 with item 2, -1 / sqrt 2 with item 3;
    the shares divide."""
    vectors = torch.cat([CORNER, torch.tensor([[0.0, -1.0]])])
    choices = NextChoices(
        np.array([[1, 1, 0, 0]], np.float32), np.array([2]), np.array([[True, True, False, False]])
    )  # fmt: skip
    shares = torch.log(torch.tensor([0.25, 0.25, 0.4, 0.1]))
    scores = np.array([1.4, -1.0]) / np.sqrt(2) / 0.5
    forward = -np.log(softmax(scores[0] - np.log(0.4), scores[1] - np.log(0.1))[0])
    assert float(history_loss(vectors, choices, shares, 0.5, symmetric=False)) == pytest.approx(forward, abs=1e-6)
    # no other history stands against this one: the other direction costs nothing
    assert float(history_loss(vectors, choices, shares, 0.5)) == pytest.approx(forward / 2, abs=1e-6)


def test_histories_stand_against_each_other_unless_they_lead_to_the_same() -> None:
    """Histories {0} and {1} lead to items 2 and 3, cosines .6 and .8 with 2, 0 and -1 with 3."""
    vectors = torch.cat([CORNER, torch.tensor([[0.0, -1.0]])])
    weights = np.eye(2, 4, dtype=np.float32)
    shares = torch.zeros(4)
    apart = NextChoices(weights, np.array([2, 3]), weights > 0)
    both = history_loss(vectors, apart, shares, 1.0)
    one_way = history_loss(vectors, apart, shares, 1.0, symmetric=False)
    backward = -(np.log(softmax(0.6, 0.8)[0]) + np.log(softmax(0.0, -1.0)[1])) / 2
    assert float(both) == pytest.approx((float(one_way) + backward) / 2, abs=1e-6)
    same = NextChoices(weights, np.array([2, 2]), weights > 0)
    forward = float(history_loss(vectors, same, shares, 1.0, symmetric=False))
    assert float(history_loss(vectors, same, shares, 1.0)) == pytest.approx(forward / 2, abs=1e-6)


def test_alignment_by_hand() -> None:
    """By behaviour 0 and 1 are alike, by text 0 and 2; item 3 has no behaviour and takes no part."""
    texts = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.6, 0.8]])
    behaviour = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    wanted = [softmax(1, 0), softmax(1, 0), softmax(0, 0)]  # of (1, 2), (0, 2), (0, 1)
    got = [softmax(0, 1), softmax(0, 0), softmax(1, 0)]
    expected = np.mean([-(w * np.log(g)).sum() for w, g in zip(wanted, got, strict=True)])
    assert float(alignment_loss(texts, behaviour, 1.0)) == pytest.approx(expected, abs=1e-6)
    agreeing = alignment_loss(behaviour[:3], behaviour[:3], 1.0)
    assert float(agreeing) < expected
    assert float(alignment_loss(texts, torch.zeros(4, 2), 1.0)) == 0.0


def test_perturbation_follows_the_gradient_and_keeps_the_length() -> None:
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    moved = perturbed(vectors, 2.0 * vectors[0, 1], 0.5)  # the gradient of item 0 is (0, 2), item 1 has none
    np.testing.assert_allclose(moved.detach().numpy(), [[1 / 1.25**0.5, 0.5 / 1.25**0.5], [0, 1]], atol=1e-6)


WALK = pairs_of((0, 1, 5, 1, 1), (0, 2, 5, 2, 2), (1, 2, 5, 1, 2))


def test_a_walk_gives_a_history_for_each_step() -> None:
    choices = NextChoices.of(Batch.of(WALK))
    assert choices.weights.tolist() == [[1, 0, 0], [0.5, 1, 0]]
    assert choices.positives.tolist() == [1, 2]
    assert choices.left_out.tolist() == [[True, False, False], [True, True, False]]


def test_a_basket_is_chosen_from_what_came_before_it() -> None:
    basket = pairs_of((0, 1, 5, 1, 1), (2, 1, 5, 0, 1), (0, 2, 5, 1, 1), (1, 2, 5, 0, 1))
    choices = NextChoices.of(Batch.of(basket))
    assert choices.weights.tolist() == [[1, 0, 0], [1, 0, 0]]
    assert choices.left_out.tolist() == [[True, False, True], [True, True, False]]


def test_where_there_are_only_baskets_each_item_is_found_from_the_others() -> None:
    choices = NextChoices.of(Batch.of(pairs_of((2, 1, 5, 0, 0), (1, 2, 5, 0, 0))))
    assert choices.weights.tolist() == [[0, 1], [1, 0]]
    assert choices.left_out.tolist() == [[False, True], [True, False]]


def test_a_tiny_catalogue_gives_a_bounded_number_of_choices() -> None:
    walk = ((0, 1, 1, 1), (1, 2, 1, 2))
    pairs = pairs_of(*((anchor, positive, user, *rest) for user in range(3000) for anchor, positive, *rest in walk))
    choices = NextChoices.of(Batch.of(pairs))
    assert choices.weights.shape == choices.left_out.shape == (1024, 3)
    assert set(choices.positives.tolist()) == {1, 2}


TWO_WALKS = pairs_of((0, 1, 5, 1, 1), (2, 3, 6, 1, 1))
FOUR = torch.cat([CORNER, torch.tensor([[0.28, -0.96]])])
FOUR_SHARES = np.log(np.array([0.4, 0.3, 0.2, 0.1], np.float32))


def test_the_parts_of_the_loss_add_up() -> None:
    batch = Batch.of(TWO_WALKS)
    vectors, shares = FOUR.clone().requires_grad_(), FOUR_SHARES
    behaviour = np.eye(4, 2, dtype=np.float32) + np.float32(0.1)

    def loss(**values: object) -> float:
        return float(Objective(shares, 0.5, **values).loss(vectors, batch).detach())  # type: ignore[arg-type]

    pairs, histories = loss(), loss(history_share=1.0)
    assert pairs != pytest.approx(histories)
    assert loss(history_share=0.25) == pytest.approx(0.75 * pairs + 0.25 * histories, abs=1e-6)
    aligned = float(alignment_loss(FOUR, torch.from_numpy(behaviour), 0.5))
    assert loss(item_vectors=behaviour, alignment=2.0) == pytest.approx(pairs + 2 * aligned, abs=1e-6)
    assert loss(symmetric=False) != pytest.approx(pairs)


def test_adversarial_loss_is_the_mean_of_before_and_after_the_worst_small_move() -> None:
    batch = Batch.of(TWO_WALKS)
    vectors = FOUR.clone().requires_grad_()
    plain = Objective(FOUR_SHARES, 0.5)
    before = plain.loss(vectors, batch)
    after = plain.loss(perturbed(vectors, before, 0.1), batch)
    assert float(after.detach()) > float(before.detach())
    both = Objective(FOUR_SHARES, 0.5, adversarial_size=0.1).loss(vectors, batch)
    assert float(both.detach()) == pytest.approx(float((before + after).detach()) / 2, abs=1e-6)
    both.backward()  # type: ignore[no-untyped-call]
    assert vectors.grad is not None
    assert vectors.grad.any()
