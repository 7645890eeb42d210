"""FeatureBuilder: one feature code for training and answering. Histories and pairs in, a named matrix out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field

from features.dismissed import dismissed_columns
from features.histories import Histories
from features.item import ItemFeatures
from features.pair import PairFeatures, PairSettings
from features.row_changes import RowChanges
from features.runs import Pairs
from features.settings import Settings
from features.tables import BoolArray, Catalogue, Events, FloatArray
from features.user import user_columns


class FeatureSettings(Settings):
    """Settings of the feature groups."""

    recent_shares: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(default=(0.01, 0.05, 0.25), min_length=1)
    """Popularity half-lives: the time that the newest such share of the events took."""
    pair: PairSettings = PairSettings()


@dataclass(frozen=True)
class FeatureMatrix:
    """`values` (n_pairs, n_features) float32, NaN for unknown; `names` in column order; `query_rows` (n_pairs,)
    ascending.
    """

    names: tuple[str, ...]
    values: npt.NDArray[np.float32]
    query_rows: npt.NDArray[np.int64]

    def column(self, name: str) -> npt.NDArray[np.float32]:
        """One feature, (n_pairs,)."""
        return self.values[:, self.names.index(name)]

    def select(self, pairs: BoolArray) -> FeatureMatrix:
        """The pairs where `pairs` (n_pairs,) is true."""
        return FeatureMatrix(self.names, self.values[pairs], self.query_rows[pairs])


@dataclass(frozen=True)
class FeatureBuilder:
    """Knows what was fitted before `as_of` and nothing later; the time of a request comes with its history."""

    items: ItemFeatures
    pairs: PairFeatures

    @classmethod
    def fit(
        cls,
        catalogue: Catalogue,
        events: Events,
        weights: FloatArray,
        embeddings: npt.NDArray[np.float32] | None,
        settings: FeatureSettings,
        tuned_size: int = 0,
        *,
        has_dismissals: bool = False,
    ) -> Self:
        """`events` are all that may be known, `weights` below 0 are dismissals; `embeddings` (n_items, embedding_size)
        on the item grid or None, the first `tuned_size` columns of a fine-tuned encoder beside the pretrained one's.
        Of the features of dismissals all or none are there, by whether the data have any (`has_dismissals`).
        """
        items = ItemFeatures.fit(catalogue, events, weights, settings.recent_shares, has_dismissals=has_dismissals)
        return cls(items, PairFeatures.fit(catalogue, embeddings, settings.pair, tuned_size))

    def with_rows(self, changes: RowChanges) -> Self:
        """See `features.row_changes`."""
        return type(self)(self.items.with_rows(changes), self.pairs.with_rows(changes))

    def with_items(self, items: ItemFeatures) -> Self:
        """The same with other statistics of the items."""
        return dataclasses.replace(self, items=items)

    def build(self, histories: Histories, pairs: Pairs, source_columns: Mapping[str, FloatArray]) -> FeatureMatrix:
        """Features of the pairs (sorted by history): the sources' columns first, then item, user and pair groups, then
        those of dismissals.
        ValueError where the histories are of another catalogue: compiled loops would read beyond its end.
        """
        if histories.num_items != len(self.items.popularity):
            raise ValueError(f"histories over {histories.num_items} items, features of {len(self.items.popularity)}")
        columns: dict[str, npt.NDArray[np.floating]] = dict(source_columns)
        columns |= self.items.columns(pairs.item_rows, histories.as_of[pairs.query_rows])
        columns |= {name: values[pairs.query_rows] for name, values in user_columns(histories, self.items).items()}
        columns |= self.pairs.columns(histories, self.items, pairs)
        columns |= dismissed_columns(histories, self.items, self.pairs, pairs)
        values = np.empty((len(pairs), len(columns)), np.float32)
        for k, column in enumerate(columns.values()):
            values[:, k] = column
        return FeatureMatrix(tuple(columns), values, pairs.query_rows)
