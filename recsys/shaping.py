"""From an order to a list: boosts, pins, caps, diversity and exploration over what the ranker has ordered.

A list is made place by place, from the first on, and no step looks at how long it is to be: a list of n is the
beginning of a longer one (with exploration: for the same request_id). At each place stands

1. an item pinned there, else
2. of the candidates that no cap in force at this place forbids, the one with the best value (or one drawn, see below),
3. where no such candidate is left, the most popular other item that no cap forbids,
4. where there is none either, what the caps held back: candidates in their order, then items by popularity.

So the caps hold as long as they can, and n items come back whenever n exist. A candidate's value is its relevance,
1 / log2(1 + place), the discount that NDCG gives a place after boosts and buries; with diversity d it is maximal
marginal relevance (Carbonell and Goldstein 1998), (1 - d) * relevance - d * (largest cosine to the items above), over
the first `HEAD` candidates. Places stand for scores, because of a LambdaMART score only the order means anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from features.tables import CATEGORY, BoolArray
from recsys.attributes import Attributes, Values
from recsys.filters import Filter
from recsys.shapes import Cap, Exploration

HEAD = 200
"""The best candidates, among which diversity and exploration choose; those behind keep their order."""
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Pin:
    """The first of `item_rows` stands at `position` (1 = first), or the best candidate that the filter `items` lets
    through.
    """

    position: int
    item_rows: Ints
    items: Filter | None = None


@dataclass(frozen=True)
class Shift:
    """Items that the filter lets through compete at `factor` times their place: below 1 they rise, above they fall."""

    items: Filter
    factor: float


@dataclass(frozen=True)
class AppliedCap:
    """A cap, and the items that it counts (None: all)."""

    cap: Cap
    items: Filter | None = None


@dataclass(frozen=True)
class Shape:
    """All that is to be done to one list."""

    diversity: float = 0.0
    caps: tuple[AppliedCap, ...] = ()
    exploration: Exploration = field(default_factory=Exploration)
    shifts: tuple[Shift, ...] = ()
    pins: tuple[Pin, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Whether the list is simply the ranker's order."""
        explores = self.exploration.kind != "none"
        return not (self.diversity or self.caps or self.shifts or self.pins or explores)


@dataclass(frozen=True)
class Placed:
    """One item of a list: `place` in the ranker's order (0 = best), None for one that is no candidate; `propensity`:
    the probability that it stands here, given what stands above it.
    """

    item_row: int
    place: int | None
    propensity: float = 1.0


def placed(
    item_rows: Ints, n: int, shape: Shape, attributes: Attributes, embeddings: F32, rest: Callable[[], Ints], seed: str
) -> list[Placed]:
    """The first n places. `item_rows` (n_candidates,) best first; `embeddings` (n_items, size) unit rows, (n_items, 0)
    without text; `rest` gives all that may be listed beside the candidates, most popular first.
    """
    maker = _Maker(item_rows, shape, attributes, embeddings, rest, seed)
    return [chosen for _, chosen in zip(range(n), maker.places(), strict=False)]


class _Maker:
    """The state of one list in the making."""

    def __init__(
        self,
        item_rows: Ints,
        shape: Shape,
        attributes: Attributes,
        embeddings: F32,
        rest: Callable[[], Ints],
        seed: str,
    ) -> None:
        order = _shifted(item_rows, shape.shifts, attributes)
        self._rows, self._ranked = item_rows[order], order
        self._free = np.ones(len(item_rows), bool)
        self._relevance = 1 / np.log2(np.arange(len(item_rows)) + 2.0)
        self._shape, self._attributes, self._rest = shape, attributes, _Rest(rest)
        self._taken: set[int] = set()
        self._pins = self._reserved(shape.pins)
        self._caps = [_CapState(cap, self._rows, attributes) for cap in shape.caps]
        self._likeness = _Likeness(self._rows[:HEAD], attributes, embeddings) if shape.diversity else None
        self._draws = _draws(seed) if shape.exploration.kind != "none" else None

    def places(self) -> Iterator[Placed]:
        """Place by place, until nothing is left."""
        position = 0
        while True:
            position += 1
            active = [cap for cap in self._caps if cap.reaches(position)]
            chosen = self._pinned(position) or self._candidate(active) or self._popular(active) or self._held_back()
            chosen = chosen or self._pinned(None)
            if chosen is None:
                return
            self._taken.add(chosen.item_row)
            for cap in self._caps:
                cap.count(chosen.item_row)
            if self._likeness is not None:
                self._likeness.choose(chosen.item_row)
            yield chosen

    def _reserved(self, pins: Sequence[Pin]) -> list[Pin]:
        """The pins by position, each of named items with the one that it will show: no other place may take it."""
        reserved = []
        for pin in sorted(pins, key=lambda pin: pin.position):
            rows = [row for row in pin.item_rows.tolist() if row not in self._taken][:1]
            self._taken.update(rows)
            self._free &= ~np.isin(self._rows, rows)
            reserved.append(Pin(pin.position, np.array(rows, np.int64), pin.items))
        return reserved

    def _pinned(self, position: int | None) -> Placed | None:
        """What is pinned up to the position; None: whatever is still to come."""
        while self._pins and (position is None or self._pins[0].position <= position):
            pin = self._pins.pop(0)
            rows = pin.item_rows
            if pin.items is not None:
                rows = self._rows[self._free & self._attributes.mask(pin.items)[self._rows]]
            if len(rows):
                places = np.flatnonzero(self._rows == rows[0])
                self._free[places] = False
                return Placed(int(rows[0]), int(self._ranked[places[0]]) if len(places) else None)
        return None

    def _candidate(self, active: Sequence[_CapState]) -> Placed | None:
        open_ = self._free.copy()
        for cap in active:
            open_ &= ~cap.full
        if not open_.any():
            return None
        head = np.flatnonzero(open_[:HEAD])
        if not len(head):
            return self._take(int(np.argmax(open_)), 1.0)
        values = self._values(head)
        if self._draws is None:
            return self._take(int(head[np.argmax(values)]), 1.0)
        chances = probabilities(values, self._shape.exploration)
        drawn = min(int(np.searchsorted(np.cumsum(chances), next(self._draws), side="right")), len(head) - 1)
        return self._take(int(head[drawn]), float(chances[drawn]))

    def _values(self, head: Ints) -> Floats:
        relevance: Floats = self._relevance[head]
        if self._likeness is None:
            return relevance
        share = self._shape.diversity
        return np.asarray((1 - share) * relevance - share * self._likeness.largest[head])

    def _take(self, place: int, propensity: float) -> Placed:
        self._free[place] = False
        return Placed(int(self._rows[place]), int(self._ranked[place]), propensity)

    def _popular(self, active: Sequence[_CapState]) -> Placed | None:
        row = self._rest.first(self._taken, active)
        return None if row is None else Placed(row, None)

    def _held_back(self) -> Placed | None:
        free = np.flatnonzero(self._free)
        if len(free):
            return self._take(int(free[0]), 1.0)
        row = self._rest.first(self._taken, ())
        return None if row is None else Placed(row, None)


class _Rest:
    """The other items, most popular first, read only where the candidates don't reach."""

    def __init__(self, read: Callable[[], Ints]) -> None:
        self._read = read
        self._rows: Ints | None = None
        self._none_for: tuple[_CapState, ...] | None = None

    def first(self, listed: set[int], active: Sequence[_CapState]) -> int | None:
        """The first that is not listed and not held back by a cap. Where there is none, there will be none until other
        caps are in force: they only ever fill up.
        """
        if self._none_for == tuple(active):
            return None
        if self._rows is None:
            self._rows = self._read()
        rows = self._rows
        for start in range(0, len(rows), 256):
            part = rows[start : start + 256]
            for cap in active:
                part = part[~cap.is_full(part)]
            for row in part.tolist():
                if row not in listed:
                    return int(row)
        self._none_for = tuple(active)
        return None


class _CapState:
    """One cap on one list: how many items of each value are listed. `full` (n_candidates,): which ones it forbids."""

    def __init__(self, applied: AppliedCap, item_rows: Ints, attributes: Attributes) -> None:
        self._cap = applied.cap
        self._values: Values = attributes.values(applied.cap.column, "cap")
        self._counted: BoolArray | None = None if applied.items is None else attributes.mask(applied.items)
        self._counts: dict[int, int] = {}
        self._full_codes: set[int] = set()
        self._rows = item_rows
        self.full = np.zeros(len(item_rows), bool)

    def reaches(self, position: int) -> bool:
        """Whether it is in force at the place."""
        return self._cap.first is None or position <= self._cap.first

    def count(self, item_row: int) -> None:
        """The item is listed."""
        for code in self._codes(item_row):
            self._counts[code] = self._counts.get(code, 0) + 1
            if self._counts[code] == self._cap.most:
                self._full_codes.add(code)
                self.full |= self._holds(self._rows, [code])

    def is_full(self, item_rows: Ints) -> BoolArray:
        """Which of the items it forbids."""
        return self._holds(item_rows, sorted(self._full_codes))

    def _codes(self, item_row: int) -> tuple[int, ...]:
        if self._counted is not None and not self._counted[item_row]:
            return ()
        return self._values.of_items(np.array([item_row]))[0]

    def _holds(self, item_rows: Ints, codes: Sequence[int]) -> BoolArray:
        found = self._values.any_of(item_rows, codes)
        return found if self._counted is None else found & self._counted[item_rows]


class _Likeness:
    """How like the head's items are to what is listed: `largest` (n_head,) cosine so far, 0 to begin with."""

    def __init__(self, item_rows: Ints, attributes: Attributes, embeddings: F32) -> None:
        self._attributes, self._embeddings, self._rows = attributes, embeddings, item_rows
        self._head = embeddings[item_rows]
        self.largest = np.zeros(len(item_rows))

    def choose(self, item_row: int) -> None:
        """The item is listed."""
        cosines = self._head @ self._embeddings[item_row] if self._head.shape[1] else self._by_category(item_row)
        np.maximum(self.largest, cosines, out=self.largest)

    def _by_category(self, item_row: int) -> Floats:
        """Without text: the cosine of the items' sets of categories."""
        values = self._attributes.values(CATEGORY, "diversity")
        own = values.of_items(np.array([item_row]))[0]
        shared = np.zeros(len(self._rows))
        for code in own:
            shared += values.any_of(self._rows, [code])
        sizes = (values.indptr[self._rows + 1] - values.indptr[self._rows]) * max(len(own), 1)
        return np.asarray(shared / np.sqrt(np.maximum(sizes, 1)))


def probabilities(values: Floats, exploration: Exploration) -> Floats:
    """(n,) with which probability each of the remaining candidates, of these values, comes next.

    Epsilon-greedy: the best one, or with probability epsilon any. Softmax: proportional to exp(value / temperature),
    which without diversity is a Plackett-Luce draw of the whole order (Plackett 1975).
    """
    if exploration.kind == "softmax":
        weights = np.exp((values - values.max()) / exploration.amount)
        return np.asarray(weights / weights.sum())
    epsilon = exploration.amount if exploration.kind == "epsilon" else 0.0
    chances = np.full(len(values), epsilon / len(values))
    chances[np.argmax(values)] += 1 - epsilon
    return chances


def _shifted(item_rows: Ints, shifts: Sequence[Shift], attributes: Attributes) -> Ints:
    """The order after boosts and buries: who comes to the same place from further ahead stays ahead."""
    places = np.arange(1.0, len(item_rows) + 1)
    for shift in shifts:
        places[attributes.mask(shift.items)[item_rows]] *= shift.factor
    return np.argsort(places, kind="stable")


def _draws(seed: str) -> Iterator[float]:
    """Uniform numbers that the seed determines, one a place."""
    digest = hashlib.blake2b(seed.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    rng = np.random.default_rng(int.from_bytes(digest, "big"))
    while True:
        yield float(rng.random())
