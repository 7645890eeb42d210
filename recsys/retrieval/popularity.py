"""What everybody takes lately: event counts halved every so often, the same list for all. It knows every item of the
catalogue.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field

from features.decay import continued, half_life, time_decay
from features.histories import Histories
from features.row_changes import RowChanges
from features.settings import Settings
from features.tables import FloatArray, IntArray
from recsys.retrieval.base import FitData
from recsys.retrieval.scores import Scores, SharedScores

Share = Annotated[float, Field(gt=0, lt=1)]


class PopularitySettings(Settings):
    """Settings of the popularity source; a tuple of several values is chosen from on a held-out window."""

    recent_share: tuple[Share, ...] = Field(default=(0.02, 0.1, 0.5), min_length=1)
    """The half-life is the time that the newest such share of events took, so that it fits shops of any pace."""


@dataclass(frozen=True)
class PopularitySource:
    """`values` (n_items,) float32: the log of the decayed event weight; `order`: items best first, unknown ones
    last, ties by id; `half_life` in seconds, None without a clock.
    """

    name: ClassVar[str] = "popularity"
    values: npt.NDArray[np.float32]
    order: npt.NDArray[np.int64]
    half_life: float | None = field(default_factory=lambda: None)

    @classmethod
    def fit(cls, data: FitData, settings: PopularitySettings) -> Self:
        """Always answers: without any event all items are equal and go by id."""
        span = half_life(data.events, settings.recent_share[0])
        counts = np.bincount(data.events.item_rows, data.weights * time_decay(data.events, span), data.num_items)
        by_id = np.argsort(data.catalogue.items.ids, kind="stable")
        order = by_id[np.argsort(-counts[by_id], kind="stable")]
        return cls(np.log1p(counts).astype(np.float32), order.astype(np.int64), span)

    def with_rows(self, changes: RowChanges) -> Self:
        """See `features.row_changes`: new items stand by id among those that nobody has taken."""
        added = changes.ids[changes.new]
        first = int(np.argmax(self.values[self.order] <= 0)) if (self.values <= 0).any() else len(self.order)
        by_id = np.array(sorted(range(len(added)), key=lambda k: added[k]), np.int64)
        places = [bisect_left(self.order, added[k], first, key=changes.all_ids.__getitem__) for k in by_id]
        order = np.insert(self.order, places, changes.num_before + by_id)
        return dataclasses.replace(self, values=changes.lengthened(self.values, 0.0), order=order)

    @property
    def counts(self) -> npt.NDArray[np.float64]:
        """The decayed event weights, (n_items,)."""
        return np.asarray(np.expm1(self.values.astype(np.float64)), np.float64)

    def after(self, later: FloatArray, places: IntArray) -> Self:
        """The same when it has gone on: `later` (n_items,) are the weights of the events that came since, decayed by
        `half_life`; `places` (n_items,) is the order of the ids.
        """
        return self.with_counts(continued(self.counts, later), np.flatnonzero(later > 0), places)

    def with_counts(self, counts: FloatArray, rows: IntArray, places: IntArray) -> Self:
        """The same with other weights, where only `rows` have left the order: so only those need sorting. What weighs
        so little that it can't be told from nothing has not.
        """
        values = np.log1p(counts).astype(np.float32)
        rows = rows[values[rows] > 0]
        is_moved = np.zeros(len(counts), bool)
        is_moved[rows] = True
        others = self.order[~is_moved[self.order]]
        moved = rows[np.lexsort((places[rows], -counts[rows]))]
        at = np.searchsorted(-counts[others], -counts[moved], side="left")
        order = np.insert(others, at, moved)
        return dataclasses.replace(self, values=values, order=order.astype(np.int64))

    def following(self, base: Self) -> Self:
        """What has gone on (see `with_counts`), over a catalogue that has grown: `base` is the source over it that
        nothing was counted in. Nobody has taken what is new; what weighs nothing stands as it does there.
        """
        values = np.concatenate([self.values, base.values[len(self.values) :]])
        taken, others = self.order[self.values[self.order] > 0], base.order[values[base.order] <= 0]
        return dataclasses.replace(self, values=values, order=np.concatenate([taken, others]))

    def scores(self, histories: Histories) -> dict[str, Scores]:
        """The same for every history."""
        return {"": SharedScores(self.values, self.order, len(histories))}
