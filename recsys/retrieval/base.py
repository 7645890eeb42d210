"""The one contract of candidate sources, and what they are fitted on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Protocol, Self

import numpy as np
import scipy.sparse as sp

from features.builder import FeatureBuilder, FeatureSettings
from features.histories import Histories
from features.interactions import EventSettings, event_weights, interaction_matrix, signed_weights
from features.row_changes import RowChanges
from features.settings import Settings
from features.tables import Catalogue, Events
from recsys.retrieval.scores import F32, Scores


@dataclass(frozen=True)
class FitData:
    """All that a source may learn from: the catalogue, the events that may be known and the text embeddings.

    `embeddings` (n_items, embedding_size) float32, unit rows on the item grid, zero rows for items without text;
    None for a catalogue without text. The first `tuned_size` columns are a fine-tuned encoder's, those behind them the
    pretrained one's (see `BlendedEncoder`); 0 where all are of one encoder. `num_threads` for the libraries that take
    one. `has_dismissals`: the data that all is learned from have some, be it later than these events.
    """

    catalogue: Catalogue
    events: Events
    num_users: int
    event_settings: EventSettings
    embeddings: F32 | None
    seed: int
    num_threads: int
    tuned_size: int = 0
    has_dismissals: bool = False

    @property
    def num_items(self) -> int:
        """Items in the catalogue."""
        return len(self.catalogue)

    @property
    def plain_texts(self) -> F32 | None:
        """(n_items, size) float32, unit rows: the pretrained encoder's part of the embeddings, for sources that learn
        from the very events that the other part was taught with, and would trust it too much; all of them where there
        is no such part. Made anew at each call, as a window outlives its sources.
        """
        if self.embeddings is None or not self.tuned_size:
            return self.embeddings
        return np.asarray(self.embeddings[:, self.tuned_size :] / self._plain_length, np.float32)

    def of_embeddings(self, projection: F32) -> F32:
        """A map (size, n) of `plain_texts` as the same map (embedding_size, n) of whole embeddings."""
        if not self.tuned_size or not len(projection):
            return projection
        unread = np.zeros((self.tuned_size, projection.shape[1]), np.float32)
        return np.vstack([unread, projection / np.float32(self._plain_length)])

    @cached_property
    def _plain_length(self) -> float:
        """Of a row's plain part: the same for every text."""
        assert self.embeddings is not None  # noqa: S101  (there is no part without it)
        return float(np.linalg.norm(self.embeddings[:, self.tuned_size :], axis=1).max(initial=0.0)) or 1.0

    def features(self, settings: FeatureSettings) -> FeatureBuilder:
        """The ranker's features that are fitted on the same."""
        return FeatureBuilder.fit(
            self.catalogue, self.events, self.signed, self.embeddings, settings, self.tuned_size,
            has_dismissals=self.has_dismissals,
        )  # fmt: skip

    @cached_property
    def signed(self) -> F32:
        """Each event's weight, below 0 for a dismissal."""
        return np.asarray(signed_weights(self.events, self.event_settings), np.float32)

    @cached_property
    def weights(self) -> F32:
        """The interest that each event shows."""
        return np.asarray(event_weights(self.events, self.event_settings), np.float32)

    @cached_property
    def matrix(self) -> sp.csr_matrix:
        """(num_users, num_items) confidences of the liked pairs."""
        return interaction_matrix(self.events, self.weights, self.num_users, self.num_items)


class CandidateSource(Protocol):
    """Finds items for a history. Implementations are frozen dataclasses of arrays (see `features.state`).

    `name` is its name in settings, answers and feature columns; `fit` returns None
    where the catalogue lacks what it works on (text); too few events are no reason. One that keeps the text embeddings
    has them in a field `embeddings`; one that keeps something made of them says how in `with_embeddings` (see
    `recsys.embeddings`).
    """

    name: ClassVar[str]

    @classmethod
    def fit(cls, data: FitData, settings: Settings) -> Self | None:
        """Learn from `data`, and nothing else."""
        ...

    def with_rows(self, changes: RowChanges) -> Self:
        """The same source over a catalogue with items that are new or say something else; see
        `features.row_changes`.
        """
        ...

    def scores(self, histories: Histories) -> dict[str, Scores]:
        """Named scores of the histories: the first is what the source recommends by, the others are its further
        views of the same knowledge, for the ranker (feature `source:view`).
        """
        ...
