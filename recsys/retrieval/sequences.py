"""Histories as token sequences: what the sequence model is trained on and asked with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.runs import ends, run_starts
from recsys.retrieval.base import FitData

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sequences:
    """One sequence a user, flat: user u's tokens are indptr[u]:indptr[u + 1], oldest first.

    `item_rows` int64; `moments` int64, the position of each token's moment in its sequence: the items of one basket
    share it, because a basket has no order. An item counts at its first time only: what is recommended is new to the
    user.
    """

    indptr: I64
    item_rows: I64
    moments: I64

    @classmethod
    def of(cls, data: FitData) -> Sequences:
        """The liked events of every user with at least two moments."""
        events = data.events
        liked = np.flatnonzero(data.weights > 0)
        order = liked[np.lexsort((events.item_rows[liked], events.times[liked], events.user_rows[liked]))]
        pair = events.user_rows[order].astype(np.int64) * data.num_items + events.item_rows[order]
        order = order[np.sort(np.unique(pair, return_index=True)[1])]
        users, times = events.user_rows[order], events.times[order]
        new_user = np.ones(len(order), bool)
        new_user[1:] = np.diff(users) != 0
        new_moment = new_user.copy()
        new_moment[1:] |= np.diff(times) != 0
        running = np.cumsum(new_moment)
        starts = np.flatnonzero(new_user)
        lengths = np.diff(np.append(starts, len(order)))
        moments = running - np.repeat(running[starts], lengths)
        last = moments[starts + lengths - 1] if len(starts) else np.empty(0, np.int64)
        keep = np.repeat(last > 0, lengths)
        return cls(ends(lengths[last > 0]), events.item_rows[order][keep].astype(np.int64), moments[keep])

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def at(self, rows: I64) -> Sequences:
        """Some of the sequences."""
        flat = np.concatenate([np.empty(0, np.int64), *(np.arange(self.indptr[r], self.indptr[r + 1]) for r in rows)])
        flat = flat.astype(np.int64)
        return Sequences(ends(np.diff(self.indptr)[rows]), self.item_rows[flat], self.moments[flat])

    @classmethod
    def joined(cls, first: Sequences, second: Sequences) -> Sequences:
        """All sequences of both."""
        parts = (first, second)
        lengths = np.concatenate([np.diff(part.indptr) for part in parts])
        rows, moments = (np.concatenate([getattr(part, name) for part in parts]) for name in ("item_rows", "moments"))
        return cls(ends(lengths), rows, moments)

    def without_last_moment(self) -> Sequences:
        """Every sequence up to its last moment."""
        last = self.moments[self.indptr[1:] - 1]
        lengths = np.diff(self.indptr)
        keep = self.moments < np.repeat(last, lengths)
        kept = np.add.reduceat(keep, self.indptr[:-1]) if len(self) else lengths
        return Sequences(ends(kept), self.item_rows[keep], self.moments[keep])

    def next_items(self, rng: np.random.Generator) -> I64:
        """For each token an item of its sequence's next moment, drawn evenly; -1 behind the last moment."""
        out = np.full(len(self.item_rows), -1, np.int64)
        if not len(out):
            return out
        sequence = np.repeat(np.arange(len(self)), np.diff(self.indptr))
        width = int(self.moments.max()) + 2
        begins = run_starts(sequence * width + self.moments)
        sizes = np.diff(np.append(begins, len(out)))
        followed = np.zeros(len(begins), bool)
        followed[:-1] = sequence[begins[1:]] == sequence[begins[:-1]]
        group = np.repeat(np.arange(len(begins)), sizes)
        asked = np.flatnonzero(followed[group])
        following = group[asked] + 1
        out[asked] = self.item_rows[begins[following] + (rng.random(len(asked)) * sizes[following]).astype(np.int64)]
        return out


@dataclass(frozen=True)
class Batch:
    """Sequences side by side, padded behind: `items`, `moments`, `targets` (n, length) int64; a padded place has item
    0, moment -1 and target -1, as has a token that nothing follows.
    """

    items: I64
    moments: I64
    targets: I64


def batches(sequences: Sequences, max_tokens: int, tokens: int, rng: np.random.Generator) -> Iterator[Batch]:
    """One epoch in random order: sequences of similar length together (padding is wasted work), about `tokens` places
    a batch. Sequences of more than `max_tokens` are cut into pieces at a place that changes with the epoch.
    """
    targets = sequences.next_items(rng)
    starts, stops = _pieces(sequences.indptr, max_tokens, rng)
    lengths = stops - starts
    order = np.lexsort((rng.random(len(starts)), lengths))
    groups, begin = [], 0
    while begin < len(order):
        end = begin + 1
        while end < len(order) and (end - begin + 1) * lengths[order[end]] <= tokens:
            end += 1
        groups.append(order[begin:end])
        begin = end
    for k in rng.permutation(len(groups)):
        yield _batch(sequences, targets, starts[groups[k]], lengths[groups[k]])


def _pieces(indptr: I64, max_tokens: int, rng: np.random.Generator) -> tuple[I64, I64]:
    """Where each piece starts and stops: cuts every `max_tokens`, counted from a random place."""
    starts, stops = [], []
    for begin, stop in zip(indptr[:-1].tolist(), indptr[1:].tolist(), strict=True):
        offset = int(rng.integers(1, max_tokens + 1)) if stop - begin > max_tokens else max_tokens
        cuts = [begin, *range(begin + offset, stop, max_tokens)]
        starts += cuts
        stops += [*cuts[1:], stop]
    return np.array(starts, np.int64), np.array(stops, np.int64)


def _batch(sequences: Sequences, targets: I64, starts: I64, lengths: I64) -> Batch:
    places = np.arange(int(lengths.max()))
    real = places < lengths[:, None]
    flat = np.where(real, starts[:, None] + places, 0)
    return Batch(
        np.where(real, sequences.item_rows[flat], 0),
        np.where(real, sequences.moments[flat], -1),
        np.where(real, targets[flat], -1),
    )
