"""Contrastive training: items that users choose one after the other are drawn together, all others of the batch apart.

The loss is the in-batch softmax (InfoNCE, van den Oord et al. 2018) in both directions with the logQ correction of
sampled softmax (Bengio & Senecal 2008; Yi et al. 2019): popular items fill the batches, so their scores are lowered
by the log of how often they occur, in training only. Batches hold runs of pairs of a few users, so that one forward
pass of an item serves many pairs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from features.next_items import NextItemPairs

if TYPE_CHECKING:
    import torch

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]
_RUN = 24  # pairs of one user that stay together: some ten items
_GRADIENT_NORM = 1.0

log = logging.getLogger(__name__)


class Tower(Protocol):
    """Something trainable that embeds items."""

    def embed(self, item_rows: I64) -> torch.Tensor:
        """(m, embedding_size) unit rows, with gradients where torch records them."""
        ...

    def trainable(self) -> list[torch.Tensor]:
        """The tensors to train."""
        ...


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train: `steps` of the optimizer, each over `accumulation` batches of about
    `batch_size` items.
    """

    steps: int
    batch_size: int
    learning_rate: float
    warmup_share: float
    temperature: float
    accumulation: int
    evaluations: int
    patience: int


@dataclass(frozen=True)
class Outcome:
    """The optimizer steps made, the one whose weights were kept (0: those before training) and its score."""

    steps: int
    best_step: int
    best_score: float


def train(
    tower: Tower,
    pairs: NextItemPairs,
    log_shares: F32,
    schedule: Schedule,
    rng: np.random.Generator,
    score: Callable[[], float],
) -> Outcome:
    """Train until the steps are used up or `score` has not risen for `patience` evaluations; the best weights stay.

    `log_shares` (n_items,) float32: the log of how often each item is sampled (zeros: no correction).
    """
    import torch

    weights = tower.trainable()
    optimizer = torch.optim.AdamW(weights, lr=schedule.learning_rate, weight_decay=0.01)
    best, best_score, best_step, failures = _copies(weights), score(), 0, 0
    log.info("held-out score before training: %.4f", best_score)
    every = max(1, schedule.steps // schedule.evaluations)
    shares = torch.from_numpy(log_shares)
    batches = endless_batches(pairs, schedule.batch_size, rng)
    step = 0
    while step < schedule.steps and failures < schedule.patience:
        loss = _step(tower, pairs, shares, schedule, optimizer, step, batches)
        step += 1
        if step % every and step < schedule.steps:
            continue
        now = score()
        log.info("step %d of %d: loss %.3f, held-out score %.4f", step, schedule.steps, loss, now)
        if now > best_score:
            best, best_score, best_step, failures = _copies(weights), now, step, 0
        else:
            failures += 1
    with torch.no_grad():
        for weight, value in zip(weights, best, strict=True):
            weight.copy_(value)
    return Outcome(step, best_step, best_score)


def _step(
    tower: Tower,
    pairs: NextItemPairs,
    log_shares: torch.Tensor,
    schedule: Schedule,
    optimizer: torch.optim.Optimizer,
    step: int,
    batches: Iterator[I64],
) -> float:
    """One step of the optimizer; returns its loss."""
    import torch

    for group in optimizer.param_groups:
        group["lr"] = schedule.learning_rate * learning_rate_factor(step, schedule.steps, schedule.warmup_share)
    optimizer.zero_grad()
    total = 0.0
    for _ in range(schedule.accumulation):
        chosen = next(batches)
        ends = np.concatenate([pairs.anchor_rows[chosen], pairs.positive_rows[chosen]])
        items, places = np.unique(ends, return_inverse=True)
        anchors, positives = torch.from_numpy(places).reshape(2, -1)
        loss = contrastive_loss(tower.embed(items), anchors, positives, log_shares[items], schedule.temperature)
        (loss / schedule.accumulation).backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach()) / schedule.accumulation
    torch.nn.utils.clip_grad_norm_(tower.trainable(), _GRADIENT_NORM)
    optimizer.step()
    return total


def contrastive_loss(
    vectors: torch.Tensor, anchors: torch.Tensor, positives: torch.Tensor, log_shares: torch.Tensor, temperature: float
) -> torch.Tensor:
    """The mean of both directions' cross entropies: which of the batch's items goes with this one?

    `vectors` (m, embedding_size) unit rows of the batch's different items; `anchors`, `positives` (n,) places among
    them; `log_shares` (m,). An item is no negative of itself, nor of another item that it makes a pair with.
    """
    import torch

    scores = vectors @ vectors.T / temperature - log_shares
    friends = torch.eye(len(vectors), dtype=torch.bool)
    friends[anchors, positives] = True
    friends[positives, anchors] = True
    pair_numbers = torch.arange(len(anchors))
    loss = vectors.new_zeros(())
    for ours, theirs in ((anchors, positives), (positives, anchors)):
        left_out = friends[ours]
        left_out[pair_numbers, theirs] = False
        loss = loss + torch.nn.functional.cross_entropy(scores[ours].masked_fill(left_out, -torch.inf), theirs)
    return loss / 2


def learning_rate_factor(step: int, steps: int, warmup_share: float) -> float:
    """Rises in a line over the first `warmup_share` of the steps, then falls in a line towards 5 %."""
    warmup = max(1.0, steps * warmup_share)
    return min((step + 1) / warmup, max(0.05, 1.0 - step / steps))


def log_shares(pairs: NextItemPairs, num_items: int) -> F32:
    """Log of each item's share of all ends of pairs, (num_items,), with one pseudo-count an item."""
    counts = np.bincount(pairs.anchor_rows, minlength=num_items) + np.bincount(pairs.positive_rows, minlength=num_items)
    return np.asarray(np.log((counts + 1.0) / (counts.sum() + num_items)), np.float32)


def endless_batches(pairs: NextItemPairs, batch_size: int, rng: np.random.Generator) -> Iterator[I64]:
    """Positions of pairs in batches of about `batch_size` different items, epoch after epoch in a new order."""
    starts = run_starts(pairs)
    stops = np.append(starts[1:], len(pairs))
    while True:
        chosen: list[I64] = []
        items: set[int] = set()
        for run in rng.permutation(len(starts)):
            positions = np.arange(starts[run], stops[run])
            chosen.append(positions)
            items.update(pairs.anchor_rows[positions].tolist(), pairs.positive_rows[positions].tolist())
            if len(items) >= batch_size:
                yield np.concatenate(chosen)
                chosen, items = [], set()
        if len(items) > 2:
            yield np.concatenate(chosen)


def run_starts(pairs: NextItemPairs) -> I64:
    """Where runs begin: at every new user and every 24 pairs of one; pairs are ordered by user."""
    first_of_user = np.searchsorted(pairs.user_rows, pairs.user_rows, side="left")
    place = np.arange(len(pairs)) - first_of_user
    return np.flatnonzero(place % _RUN == 0).astype(np.int64)


def _copies(weights: list[torch.Tensor]) -> list[torch.Tensor]:
    return [weight.detach().clone() for weight in weights]
