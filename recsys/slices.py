"""Slices: for which users and for which items lists are good.

A slice is a part of the right answers (query, item). A query is judged in it by those of its right items that are in
it, and not at all where it has none, so that slices by user and slices by item are one thing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from features.runs import Pairs
from features.tables import BoolArray, IntArray
from recsys import metrics
from recsys.list_rows import ListRows
from recsys.metrics import Floats, Users

NEW_USER_EVENTS = 2
"""A history of so many events at most is a new user's."""
HEAD_SHARE = 0.5
"""The head: the most popular items that together hold this share of the events."""
_BANDS = {1: ("all alike",), 2: ("low", "high"), 3: ("low", "middle", "high")}


@dataclass(frozen=True)
class Slice:
    """`part` (n_pairs,) bool: which of the right answers it holds; `by` says what the slices were cut by."""

    by: str
    name: str
    part: BoolArray


def by_history_length(truth: Pairs, lengths: IntArray) -> list[Slice]:
    """New users, and the others by terciles of their queries' `lengths` (n_queries,) in events."""
    new = lengths <= NEW_USER_EVENTS
    words = {"low": "light", "middle": "medium", "high": "heavy"}
    slices = [Slice("history length", f"new: up to {NEW_USER_EVENTS} events", new[truth.query_rows])]
    for band, low, high in terciles(lengths[~new]):
        part = ~new & (lengths >= low) & (lengths <= high)
        name = f"{words.get(band, 'known')}: {_range(low, high)} events"
        slices.append(Slice("history length", name, part[truth.query_rows]))
    return _filled(slices)


def by_item_popularity(truth: Pairs, num_events: IntArray) -> list[Slice]:
    """Items without an event, of the tail and of the head, by `num_events` (n_items,) in training."""
    head, new = head_items(num_events), num_events == 0
    parts = {
        "new: no event": new,
        f"tail: {int((~new & ~head).sum()):,} items": ~new & ~head,
        f"head: {int(head.sum()):,} items": head,
    }
    return _filled([Slice("item popularity", name, part[truth.item_rows]) for name, part in parts.items()])


def by_text_length(truth: Pairs, text_lengths: IntArray) -> list[Slice]:
    """Right items by terciles of their `text_lengths` (n_items,) in characters; none where no item has a text."""
    if not text_lengths.any():
        return []
    lengths = text_lengths[truth.item_rows]
    words = {"low": "text-poor", "middle": "middling", "high": "text-rich"}
    slices = [
        Slice(
            "text of the item",
            f"{words.get(band, band)}: {_range(low, high)} characters",
            (lengths >= low) & (lengths <= high),
        )
        for band, low, high in terciles(lengths)
    ]
    return _filled(slices)


def head_items(num_events: IntArray) -> BoolArray:
    """(n_items,): the fewest items that hold `HEAD_SHARE` of the events; ties by row."""
    order = np.argsort(-num_events, kind="stable")
    before = np.cumsum(num_events[order]) - num_events[order]
    head = np.zeros(len(num_events), bool)
    head[order] = (before < HEAD_SHARE * num_events.sum()) & (num_events[order] > 0)
    return head


def terciles(values: IntArray) -> list[tuple[str, int, int]]:
    """(band, lowest, highest) of up to three bands of about equal size; equal values are never parted."""
    if not len(values):
        return []
    edges = np.quantile(values, [1 / 3, 2 / 3, 1], method="inverted_cdf")
    codes = np.searchsorted(np.unique(edges), values)
    bands = [values[codes == code] for code in np.unique(codes)]
    names = _BANDS[len(bands)]
    return [(name, int(band.min()), int(band.max())) for name, band in zip(names, bands, strict=True)]


def judge_slices(
    slices: Sequence[Slice], lists: Mapping[str, ListRows], truth: Pairs, num_items: int, users: Users, seed: int
) -> list[dict[str, Any]]:
    """One row a slice and system: NDCG@10 with its interval, recall@10 and @50, and how far the first of `lists` is
    ahead. `users` (n_queries,) names each query's user, who is resampled.
    """
    found = {name: system.found(truth, num_items) for name, system in lists.items()}
    return [row for one in slices for row in _judge(one, found, truth, np.asarray(users), seed)]


def _judge(
    one: Slice, found: Mapping[str, npt.NDArray[np.int64]], truth: Pairs, users: npt.NDArray[Any], seed: int
) -> Iterator[dict[str, Any]]:
    num_relevant = np.bincount(truth.query_rows[one.part], minlength=len(users))
    asked = num_relevant > 0
    part = np.append(one.part, False)  # ABSENT is the last place, which no slice holds
    size = {"queries": int(asked.sum()), "users": len(np.unique(users[asked]))}
    first: Floats | None = None
    for name, places in found.items():
        hits, counts = part[places[asked]], num_relevant[asked]
        ndcg = metrics.ndcg_at_k(hits, counts, 10)
        first = ndcg if first is None else first
        interval = metrics.bootstrap_interval(ndcg, users[asked], np.random.default_rng(seed))
        ahead = metrics.paired_bootstrap(first, ndcg, users[asked], np.random.default_rng(seed))
        yield {"by": one.by, "slice": one.name, "system": name, **size} | {
            "ndcg@10": metrics.mean(ndcg), "low": interval.low, "high": interval.high,
            "recall@10": metrics.mean(metrics.recall_at_k(hits, counts, 10)),
            "recall@50": metrics.mean(metrics.recall_at_k(hits, counts, 50)),
            "product_ahead": ahead.difference,
            "product_ahead_low": ahead.interval.low, "product_ahead_high": ahead.interval.high,
        }  # fmt: skip


def _filled(slices: Sequence[Slice]) -> list[Slice]:
    return [one for one in slices if one.part.any()]


def _range(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,}-{high:,}"
