"""What histories say of their items, against the plainest way to work it out."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from features.histories import Histories

EVENTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6), st.sampled_from([-1.0, 0.0, 0.5, 1.0])), max_size=15)


@given(st.lists(EVENTS, max_size=4))
def test_last_touches(histories: list[list[tuple[int, int, float]]]) -> None:
    sorted_ones = [sorted(own, key=lambda event: (event[1], event[0])) for own in histories]
    rows = [np.array([item for item, _, _ in own], np.int64) for own in sorted_ones]
    orders = [np.array([time for _, time, _ in own], np.float64) for own in sorted_ones]
    weights = [np.array([weight for _, _, weight in own], np.float32) for own in sorted_ones]
    n = len(histories)
    built = Histories.build(rows, orders, weights, np.full(n, 9.0), 6, np.ones(n, bool))
    touches = built.last_touches
    for q, own in enumerate(sorted_ones):
        expected = []
        for item in {item for item, _, _ in own}:
            last = max(time for one, time, _ in own if one == item)
            later = {time for _, time, weight in own if weight > 0 and time > last}
            liked = [time for one, time, weight in own if one == item and weight > 0]
            since = {time for _, time, weight in own if weight > 0 and time > min(liked, default=last)}
            of_item = [weight for one, _, weight in own if one == item]
            expected.append((last, item, len(later), len(since), len(of_item), max(of_item)))
        span = slice(touches.indptr[q], touches.indptr[q + 1])
        ago = touches.moments_ago, touches.first_ago
        fields = (touches.times, touches.item_rows, *ago, touches.counts, touches.weights)
        assert list(zip(*(field[span].tolist() for field in fields), strict=True)) == sorted(expected)
