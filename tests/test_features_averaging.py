from __future__ import annotations

import numpy as np
import pytest

from features.averaging import WeightAverage
from features.contrastive import Schedule, train
from features.losses import Objective
from features.next_items import NextItemPairs

torch = pytest.importorskip("torch")


def test_running_mean_by_hand() -> None:
    weight = torch.zeros(1)
    average = WeightAverage([weight], 0.15)
    weight.fill_(1.0)
    average.update()  # the first step: a tenth of the mean, whatever the decay
    weight.fill_(2.0)
    average.update()  # 2 / 11 would be more than 0.15
    with average.applied():
        assert float(weight) == pytest.approx(0.15 * 0.9 + 0.85 * 2.0)
    assert float(weight) == 2.0


def test_weights_come_back_after_an_error() -> None:
    weight = torch.ones(1)
    average = WeightAverage([weight], 0.9)
    weight.fill_(5.0)
    with pytest.raises(RuntimeError), average.applied():
        raise RuntimeError
    assert float(weight) == 5.0


def test_without_decay_the_weights_are_their_own_mean() -> None:
    weight = torch.ones(1)
    average = WeightAverage([weight], 0.0)
    weight.fill_(5.0)
    average.update()
    with average.applied():
        assert float(weight) == 5.0


class MatrixTower:
    """Unit vectors of items through a matrix."""

    def __init__(self) -> None:
        self.base = torch.nn.functional.normalize(torch.tensor(np.random.default_rng(0).normal(size=(8, 3))), dim=1)
        self.matrix = torch.eye(3, dtype=torch.float64, requires_grad=True)

    def embed(self, item_rows: np.ndarray, rng: np.random.Generator | None = None) -> torch.Tensor:
        return torch.nn.functional.normalize((self.base @ self.matrix)[item_rows], dim=1)

    def trainable(self) -> list[torch.Tensor]:
        return [self.matrix]


def trained(averaging: float) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The matrix after training, and what was judged on the way; each evaluation is better than the one before."""
    tower, judged = MatrixTower(), []

    def score() -> float:
        judged.append(tower.matrix.detach().clone())
        return float(len(judged))

    rows = np.arange(7)
    pairs = NextItemPairs(rows, rows + 1, rows, np.ones(7, np.int64), rows)
    schedule = Schedule(10, 4, 0.1, 0.1, 1, 5, 3, averaging)
    train(tower, pairs, Objective(np.zeros(8, np.float32), 0.1), schedule, np.random.default_rng(0), score)
    return tower.matrix.detach(), judged


def test_the_averaged_weights_are_judged_and_kept_and_training_goes_on_from_its_own() -> None:
    plain, plainly_judged = trained(0.0)
    averaged, judged = trained(0.8)
    assert len(judged) == len(plainly_judged) == 6
    assert plain.equal(plainly_judged[-1])
    assert averaged.equal(judged[-1])
    assert judged[0].equal(plainly_judged[0])
    assert all(not ours.equal(theirs) for ours, theirs in zip(judged[1:], plainly_judged[1:], strict=True))
    # a mean lags behind: it has moved less far from where training began
    assert (averaged - judged[0]).norm() < (plain - judged[0]).norm()
