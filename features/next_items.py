"""Events -> pairs of items that one user chose close together: the supervision of the text encoder."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.tables import BoolArray, Events, FloatArray, IntArray

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class NextItemPairs:
    """n pairs (anchor, what the same user chose next), ordered by user and time. All arrays are (n,) int64.

    `gaps` counts the user's moments from the anchor to the positive: 0 is one basket, which has no order. `moments`
    is the positive's moment in its user's history, so that (user, moment) names one choice.
    """

    anchor_rows: I64
    positive_rows: I64
    user_rows: I64
    gaps: I64
    moments: I64

    def __len__(self) -> int:
        return len(self.anchor_rows)

    def select(self, chosen: BoolArray | IntArray) -> NextItemPairs:
        """The pairs that a mask or an array of positions picks, in that order."""
        return NextItemPairs(
            self.anchor_rows[chosen], self.positive_rows[chosen], self.user_rows[chosen], self.gaps[chosen],
            self.moments[chosen],
        )  # fmt: skip


def next_item_pairs(
    events: Events, weights: FloatArray, *, window: int = 3, max_anchors: int = 4, seed: int = 0
) -> NextItemPairs:
    """Pair every event with items of its own and the up to `window` moments before it, at most `max_anchors` of them.

    Events of one user with one time are a moment; more than `max_anchors` possible anchors are drawn at random, so
    that a basket of n items gives n x `max_anchors` pairs and not n squared. Events of `weights` (n_events,) 0 or
    less and pairs of an item with itself are left out. File order of a basket has no influence.
    """
    liked = np.flatnonzero(weights > 0)
    order = liked[np.lexsort((events.item_rows[liked], events.times[liked], events.user_rows[liked]))]
    users, items = events.user_rows[order].astype(np.int64), events.item_rows[order].astype(np.int64)
    moments = _moments(users, events.times[order])
    positives, anchors = _draw(users, moments, window, max_anchors, np.random.default_rng(seed))
    pairs = NextItemPairs(
        items[anchors], items[positives], users[positives], moments[positives] - moments[anchors], moments[positives]
    )
    return _distinct(pairs.select(pairs.anchor_rows != pairs.positive_rows))


def _moments(users: I64, times: FloatArray) -> I64:
    """Each event's moment within its user's history, 0 the oldest; `users` and `times` are sorted."""
    if not len(users):
        return np.empty(0, np.int64)
    new_user = np.diff(users, prepend=users[0] - 1) != 0
    changed = new_user.copy()
    changed[1:] |= np.diff(times) != 0
    running = np.cumsum(changed)
    return np.asarray(running - running[new_user][np.cumsum(new_user) - 1], np.int64)


def _draw(users: I64, moments: I64, window: int, max_anchors: int, rng: np.random.Generator) -> tuple[I64, I64]:
    """Positions (positives, anchors): for each event up to `max_anchors` others among its own and earlier moments."""
    stride = int(moments.max(initial=0)) + window + 2
    keys = users * stride + moments
    start = np.searchsorted(keys, keys - window, side="left")
    num_others = np.searchsorted(keys, keys, side="right") - start - 1
    here = np.arange(len(users))
    turn = rng.integers(0, np.maximum(num_others, 1))
    positives, anchors = [], []
    for step in range(max_anchors):
        anchor = start + (turn + step) % np.maximum(num_others, 1)
        usable = step < num_others
        positives.append(here[usable])
        anchors.append((anchor + (anchor >= here))[usable])
    return np.concatenate(positives), np.concatenate(anchors)


def _distinct(pairs: NextItemPairs) -> NextItemPairs:
    """Each (user, moment, positive, anchor) once, with its smallest gap, in that order."""
    order = np.lexsort((pairs.gaps, pairs.anchor_rows, pairs.positive_rows, pairs.moments, pairs.user_rows))
    ordered = pairs.select(order)
    if not len(ordered):
        return ordered
    columns = np.stack([ordered.user_rows, ordered.moments, ordered.positive_rows, ordered.anchor_rows])
    first = np.ones(len(ordered), bool)
    first[1:] = np.any(np.diff(columns, axis=1) != 0, axis=0)
    return ordered.select(first)
