"""The n best of many scores, without looking twice at those that are not among them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from features.compiled import compiled, fixed
from features.tables import BoolArray, IntArray

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
NOTHING: Ints = np.empty(0, np.int64)
_EVERY = fixed(np.empty(0, bool))


def best_of(
    values: Floats, names: IntArray, n: int, above: float, hidden: Ints = NOTHING, allowed: BoolArray | None = None
) -> Ints:
    """The `names` of the `n` largest `values` (both (m,)) above `above`, best first, ties by name, at the cut too;
    fewer where there are fewer. None of the `hidden` names (ascending), and only `allowed` ones (a mask by name).
    """
    if n < 1:
        return NOTHING
    mask = _EVERY if allowed is None else fixed(allowed)
    return _best(fixed(values), fixed(names.astype(np.int64, copy=False)), n, above, fixed(hidden), mask)


@compiled
def _best(values: Floats, names: Ints, n: int, above: float, hidden: Ints, allowed: BoolArray) -> Ints:
    heap, found = np.empty(n, np.int64), 0  # places in `values`, the worst on top
    for place in range(len(values)):
        if not values[place] > above or (found == n and not _is_better(place, heap[0], values, names)):
            continue
        name = names[place]
        if len(allowed) and not allowed[name]:
            continue
        after = np.searchsorted(hidden, name)
        if after < len(hidden) and hidden[after] == name:
            continue
        if found < n:
            _rise(heap, found, place, values, names)
            found += 1
        else:
            _sink(heap, found, place, values, names)
    best = np.empty(found, np.int64)
    for rank in range(found - 1, -1, -1):
        best[rank] = names[heap[0]]
        _sink(heap, rank, heap[rank], values, names)
    return best


@compiled
def _is_better(place: int, other: int, values: Floats, names: Ints) -> bool:
    if values[place] != values[other]:
        return bool(values[place] > values[other])
    return bool(names[place] < names[other])


@compiled
def _rise(heap: Ints, at: int, place: int, values: Floats, names: Ints) -> None:
    """Put `place` at the end `at` and let it rise above all that is better."""
    while at and _is_better(heap[(at - 1) // 2], place, values, names):
        heap[at] = heap[(at - 1) // 2]
        at = (at - 1) // 2
    heap[at] = place


@compiled
def _sink(heap: Ints, size: int, place: int, values: Floats, names: Ints) -> None:
    """Put `place` on top of a heap of `size`, instead of what is there, and let it sink below all that is worse."""
    at = 0
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and _is_better(heap[child], heap[child + 1], values, names):
            child += 1
        if not _is_better(place, heap[child], values, names):
            break
        heap[at] = heap[child]
        at = child
    heap[at] = place
