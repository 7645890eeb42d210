"""Items that hardly anybody has touched, found by their text and attributes: without it they would never be
candidates.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from pydantic import Field

from features.attributes import attribute_vectors
from features.grid import in_steps
from features.histories import Histories
from features.row_changes import RowChanges
from features.settings import Settings
from features.tables import BoolArray
from recsys.retrieval.base import FitData
from recsys.retrieval.content import ContentScores, OwnItems, attribute_profiles
from recsys.retrieval.nearest import (
    NO_INDEX,
    NONE_MOVED,
    Bytes,
    Ints,
    NearestOf,
    build_index,
    nearest,
    with_moved,
)
from recsys.retrieval.scores import F32, InnerProductScores, Scores
from recsys.retrieval.text_profile import profiles


class NewItemsSettings(Settings):
    """Settings of the new items source; a tuple of several values is chosen from on a held-out window."""

    max_events: int = Field(default=2, ge=0)
    """An item with at most so many events is new, if the first of them is recent; one without any event always is."""
    recent_share: float = Field(default=0.05, gt=0, lt=1)
    """Recent is the time that the newest such share of events took; without a clock only untouched items are new."""
    attribute_weight: tuple[float, ...] = Field(default=(2.0, 0.0), min_length=1)
    """What the match of attributes (categories, brand, further string columns) counts beside that of the texts, 1."""
    half_life: tuple[float | None, ...] = Field(default=(5.0, 2.0), min_length=1)
    history_limit: int = Field(default=100, ge=1)


@dataclass(frozen=True)
class NewItemsSource:
    """The text profile's cosine plus `attribute_weight` times the attribute profile's; `new_rows` (n_new,) int64 are
    the items that are new, `attributes` (n_items, num_values) CSR float32 unit rows. `index` is what `build_index` made
    of the embeddings of the items at `indexed`, which were new then; `moved` have another text now.
    """

    name: ClassVar[str] = "new_items"
    embeddings: npt.NDArray[np.float32]
    attributes: sp.csr_matrix
    new_rows: npt.NDArray[np.int64]
    attribute_weight: float
    half_life: float | None
    history_limit: int
    index: Bytes = field(default_factory=lambda: NO_INDEX, repr=False, kw_only=True)
    indexed: Ints = field(default_factory=lambda: NONE_MOVED, repr=False, kw_only=True)
    moved: Ints = field(default_factory=lambda: NONE_MOVED, repr=False, kw_only=True)

    @classmethod
    def fit(cls, data: FitData, settings: NewItemsSettings) -> Self | None:
        """None where the catalogue has no text."""
        if data.embeddings is None:
            return None
        attributes = attribute_vectors(data.catalogue)
        described = data.embeddings.any(axis=1) | (np.diff(attributes.indptr) > 0)
        rows = np.flatnonzero(_is_new(data, settings) & described)
        return cls(
            data.embeddings, attributes, rows, settings.attribute_weight[0], settings.half_life[0],
            settings.history_limit, index=build_index(data.embeddings[rows], data.seed), indexed=rows,
        )  # fmt: skip

    @cached_property
    def _own(self) -> OwnItems:
        rows, attributes = self.new_rows, self.attributes[self.new_rows]
        index = nearest(self.index)
        if index is None:
            return OwnItems(rows, in_steps(self.embeddings[rows], items=True), attributes)
        others = np.union1d(self.moved, np.setdiff1d(rows, self.indexed))
        return OwnItems(rows, np.empty((0, 0), np.int16), attributes, NearestOf(index, self.indexed, others))

    def with_embeddings(self, embeddings: F32) -> Self:
        """The same source over other texts."""
        index = build_index(embeddings[self.new_rows], 0)
        return dataclasses.replace(self, embeddings=embeddings, index=index, indexed=self.new_rows, moved=NONE_MOVED)

    def with_rows(self, changes: RowChanges) -> Self:
        """See `features.row_changes`: what nobody has taken is new, if it has a text or attributes."""
        described = changes.embeddings.any(axis=1) | (np.diff(changes.attributes.indptr) > 0)
        rows = np.union1d(self.new_rows, changes.rows[changes.untouched & described])
        undescribed = changes.rows[changes.untouched & ~described]
        embeddings = changes.embedded(self.embeddings)
        return dataclasses.replace(
            self,
            embeddings=embeddings,
            moved=with_moved(self.moved, changes, self.embeddings, embeddings),
            attributes=changes.sparse(self.attributes, changes.attributes),
            new_rows=np.setdiff1d(rows, undescribed),
        )

    def scores(self, histories: Histories) -> dict[str, Scores]:
        """The match of the history's content and each item's; only new ones are recommended."""
        queries = profiles(self.embeddings, histories, self.half_life, self.history_limit)
        text = InnerProductScores(queries, self.embeddings, np.ones(len(histories), np.float32))
        tastes = attribute_profiles(self.attributes, histories, self.half_life, self.history_limit)
        return {"": ContentScores(text, tastes, self.attributes, self.attribute_weight, self._own)}


def _is_new(data: FitData, settings: NewItemsSettings) -> BoolArray:
    """(n_items,) bool: untouched, or touched a few times, lately at first."""
    liked = data.events.select(data.weights > 0)
    counts = np.bincount(liked.item_rows, minlength=data.num_items)
    if not liked.has_clock or not len(liked):
        return np.asarray(counts == 0)
    first = np.full(data.num_items, np.inf)
    np.minimum.at(first, liked.item_rows, liked.times)
    recent = first >= np.quantile(liked.times, 1 - settings.recent_share)
    return np.asarray((counts == 0) | (recent & (counts <= settings.max_events)))
