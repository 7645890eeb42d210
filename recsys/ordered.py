"""The order of one request's candidates, and the items of the list that is made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from recsys.retrieval.merge import Candidates


class Entry(NamedTuple):
    """An item of a list that is being made."""

    item_row: int
    score: float
    sources: tuple[str, ...]
    propensity: float | None = None


@dataclass(frozen=True)
class Ordered:
    """A request's own part of what was found: its pairs, best first, and the sources' ranks of every pair."""

    pairs: npt.NDArray[np.int64]
    item_rows: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]
    ranks: npt.NDArray[np.float32]
    source_names: tuple[str, ...]

    @property
    def lowest(self) -> float:
        """The score of the last candidate, 0 without one."""
        return float(self.scores[-1]) if len(self.scores) else 0.0

    def entries(self, places: Sequence[int]) -> list[Entry]:
        """The candidates at some places of the order."""
        chosen = np.asarray(places, np.int64)
        offered = self.ranks[self.pairs[chosen]].tolist()
        given = zip(self.item_rows[chosen].tolist(), self.scores[chosen].tolist(), offered, strict=True)
        return [Entry(row, score, _offered(ranks, self.source_names)) for row, score, ranks in given]


def source_ranks(found: Candidates) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
    """(n_pairs, n_sources) ranks and the sources' names."""
    names = tuple(name.removesuffix(":rank") for name in found.columns if name.endswith(":rank"))
    return np.stack([found.columns[f"{name}:rank"] for name in names], axis=1), names


def _offered(ranks: Sequence[float], names: tuple[str, ...]) -> tuple[str, ...]:
    """The sources that offered the item, the one that ranks it highest first."""
    known = [(rank, k) for k, rank in enumerate(ranks) if rank == rank]  # NaN is not itself
    return tuple(names[k] for _, k in sorted(known))
