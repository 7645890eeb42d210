"""Batches of contrastive training: runs of pairs of a few users, so that one forward pass of an item serves many
pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.hard_negatives import HardNegatives
from features.next_items import NextItemPairs
from features.tables import BoolArray

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]
_RUN = 24  # pairs of one user that stay together: some ten items
_MAX_CHOICES = 1024  # a tiny catalogue never fills a batch, which then holds all pairs there are


@dataclass(frozen=True)
class Batch:
    """`items` (m,) int64: different rows to embed, hard negatives after the ends of the pairs. `pairs`: n of them, and
    where their ends are among the items, `anchors` and `positives` (n,) int64. `known` (n, m): hard negatives that
    the pair's user has chosen at some time, so that they are none for it; None where there are no hard negatives.
    """

    items: I64
    pairs: NextItemPairs
    anchors: I64
    positives: I64
    known: BoolArray | None = None

    @classmethod
    def of(
        cls, pairs: NextItemPairs, hard: HardNegatives | None = None, rng: np.random.Generator | None = None
    ) -> Batch:
        """All of `pairs`, with hard negatives of their anchors drawn by `rng` where both are given."""
        ends = np.concatenate([pairs.anchor_rows, pairs.positive_rows])
        items, places = np.unique(ends, return_inverse=True)
        anchors, positives = places.reshape(2, -1).astype(np.int64)
        if hard is None or rng is None:
            return cls(items, pairs, anchors, positives)
        extra = hard.draw(np.unique(pairs.anchor_rows), items, rng)
        known = np.zeros((len(pairs), len(items) + len(extra)), bool)
        known[:, len(items) :] = hard.known(pairs.user_rows, extra)
        return cls(np.concatenate([items, extra]), pairs, anchors, positives, known)


@dataclass(frozen=True)
class NextChoices:
    """The g different choices of a batch, each with what its user did just before: a history, and what came next.

    `weights` (g, m) float32: the history's items, halved with every moment back. `positives` (g,) int64: the place of
    the item chosen. `left_out` (g, m): what is no negative, because it is in the history, was chosen in the same
    moment or is a hard negative that the user knows.
    """

    weights: F32
    positives: I64
    left_out: BoolArray

    @classmethod
    def of(cls, batch: Batch) -> NextChoices:
        """As the held-out users' choices are made (`HeldOutChoices`): baskets count only where no pair of the batch
        spans two moments. Of more than 1,024 choices, every so many are taken: each stands against all others.
        """
        pairs, ordered = batch.pairs, bool((batch.pairs.gaps > 0).any())
        used = np.flatnonzero(pairs.gaps > 0) if ordered else np.arange(len(pairs))
        columns = np.stack([pairs.user_rows, pairs.moments, batch.positives], axis=1)
        choices, first, rows = np.unique(columns[used], axis=0, return_index=True, return_inverse=True)
        rows = rows.reshape(-1)
        weights = np.zeros((len(choices), len(batch.items)), np.float32)
        nearness = 0.5 ** np.maximum(pairs.gaps[used] - 1, 0)
        np.maximum.at(weights, (rows, batch.anchors[used]), nearness.astype(np.float32))
        left_out = (weights > 0) | _chosen_together(choices, len(batch.items))
        if batch.known is not None:
            left_out |= batch.known[used[first]]
        left_out[np.arange(len(choices)), choices[:, 2]] = False
        kept = np.linspace(0, len(choices) - 1, min(len(choices), _MAX_CHOICES)).astype(np.int64)
        return cls(weights[kept], choices[kept, 2], left_out[kept])


def _chosen_together(choices: I64, num_items: int) -> BoolArray:
    """(g, num_items): what was chosen in the same moment; `choices` (g, 3) holds users, moments and items."""
    moments, moment_rows = np.unique(choices[:, :2], axis=0, return_inverse=True)
    items = np.zeros((len(moments), num_items), bool)
    items[moment_rows.reshape(-1), choices[:, 2]] = True
    return items[moment_rows.reshape(-1)]


def log_shares(pairs: NextItemPairs, num_items: int, hard: HardNegatives | None = None) -> F32:
    """Log of each item's share of all ends of pairs, and of the hard negatives drawn for them, (num_items,), with one
    pseudo-count an item.
    """
    anchors = np.bincount(pairs.anchor_rows, minlength=num_items)
    counts = anchors + np.bincount(pairs.positive_rows, minlength=num_items) + 0.0
    if hard is not None:
        counts += hard.expected_draws(anchors)
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
