"""Contrastive training: items that users choose one after the other are drawn together, all others of the batch apart
(`losses`, `batches`); the weights that held-out users like best stay.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from features.averaging import WeightAverage, copies, put
from features.batches import Batch, endless_batches
from features.hard_negatives import HardNegatives
from features.losses import Objective
from features.next_items import NextItemPairs

if TYPE_CHECKING:
    import torch

I64 = npt.NDArray[np.int64]
_GRADIENT_NORM = 1.0

log = logging.getLogger(__name__)


class Tower(Protocol):
    """Something trainable that embeds items."""

    def embed(self, item_rows: I64, rng: np.random.Generator | None = None) -> torch.Tensor:
        """(m, embedding_size) unit rows, with gradients where torch records them. With `rng`, towers that read texts
        may alter some of them first.
        """
        ...

    def trainable(self) -> list[torch.Tensor]:
        """The tensors to train."""
        ...


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train: `steps` of the optimizer, each over `accumulation` batches of about
    `batch_size` items. `averaging`: the decay of the weights' running mean, which is judged and kept; 0 for none.
    """

    steps: int
    batch_size: int
    learning_rate: float
    warmup_share: float
    accumulation: int
    evaluations: int
    patience: int
    averaging: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """The optimizer steps made, the one whose weights were kept (0: those before training) and its score."""

    steps: int
    best_step: int
    best_score: float


def train(
    tower: Tower,
    pairs: NextItemPairs,
    objective: Objective,
    schedule: Schedule,
    rng: np.random.Generator,
    score: Callable[[], float],
    hard: HardNegatives | None = None,
    *,
    may_stay: bool = True,
) -> Outcome:
    """Train until the steps are used up or `score` has not risen for `patience` evaluations; the best weights stay.
    Those before training are among them where they `may_stay`.
    """
    import torch

    weights = tower.trainable()
    optimizer = torch.optim.AdamW(weights, lr=schedule.learning_rate, weight_decay=0.01)
    average = WeightAverage(weights, schedule.averaging)
    before = score()
    log.info("held-out score before training: %.4f", before)
    best, best_score, best_step, failures = copies(weights), before if may_stay else -np.inf, 0, 0
    every = max(1, schedule.steps // schedule.evaluations)
    (altering,) = rng.spawn(1)
    batches = _batches(pairs, hard, schedule.batch_size, rng)
    step = 0
    while step < schedule.steps and failures < schedule.patience:
        loss = _step(tower, objective, schedule, optimizer, step, batches, altering)
        average.update()
        step += 1
        if step % every and step < schedule.steps:
            continue
        with average.applied():
            now, kept = score(), copies(weights)
        log.info("step %d of %d: loss %.3f, held-out score %.4f", step, schedule.steps, loss, now)
        if now > best_score:
            best, best_score, best_step, failures = kept, now, step, 0
        else:
            failures += 1
    put(best, weights)
    return Outcome(step, best_step, best_score)


def _batches(
    pairs: NextItemPairs, hard: HardNegatives | None, batch_size: int, rng: np.random.Generator
) -> Iterator[Batch]:
    (drawing,) = rng.spawn(1)
    for chosen in endless_batches(pairs, batch_size, rng):
        yield Batch.of(pairs.select(chosen), hard, drawing)


def _step(
    tower: Tower,
    objective: Objective,
    schedule: Schedule,
    optimizer: torch.optim.Optimizer,
    step: int,
    batches: Iterator[Batch],
    rng: np.random.Generator,
) -> float:
    """One step of the optimizer; returns its loss."""
    import torch

    for group in optimizer.param_groups:
        group["lr"] = schedule.learning_rate * learning_rate_factor(step, schedule.steps, schedule.warmup_share)
    optimizer.zero_grad()
    total = 0.0
    for _ in range(schedule.accumulation):
        batch = next(batches)
        loss = objective.loss(tower.embed(batch.items, rng), batch)
        (loss / schedule.accumulation).backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach()) / schedule.accumulation
    torch.nn.utils.clip_grad_norm_(tower.trainable(), _GRADIENT_NORM)
    optimizer.step()
    return total


def learning_rate_factor(step: int, steps: int, warmup_share: float) -> float:
    """Rises in a line over the first `warmup_share` of the steps, then falls in a line towards 5 %."""
    warmup = max(1.0, steps * warmup_share)
    return min((step + 1) / warmup, max(0.05, 1.0 - step / steps))
