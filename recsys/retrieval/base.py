"""The one contract of candidate sources, and what they are fitted on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Protocol, Self

import numpy as np
import scipy.sparse as sp

from features.histories import Histories
from features.interactions import EventSettings, event_weights, interaction_matrix
from features.row_changes import RowChanges
from features.settings import Settings
from features.tables import Catalogue, Events
from recsys.retrieval.scores import F32, Scores


@dataclass(frozen=True)
class FitData:
    """All that a source may learn from: the catalogue, the events that may be known and the text embeddings.

    `embeddings` (n_items, embedding_size) float32, unit rows on the item grid, zero rows for items without text;
    None for a catalogue without text. `num_threads` for the libraries that take one.
    """

    catalogue: Catalogue
    events: Events
    num_users: int
    event_settings: EventSettings
    embeddings: F32 | None
    seed: int
    num_threads: int

    @property
    def num_items(self) -> int:
        """Items in the catalogue."""
        return len(self.catalogue)

    @cached_property
    def weights(self) -> F32:
        """Each event's weight."""
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
