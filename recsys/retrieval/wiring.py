"""The list of candidate sources: a new one is one file and one line in each place here."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from features.settings import Settings
from recsys.retrieval.als import AlsSettings, AlsSource
from recsys.retrieval.linear import LinearSettings, LinearSource
from recsys.retrieval.linear_next import LinearNextSettings, LinearNextSource
from recsys.retrieval.neighbours import NeighboursSettings, NeighboursSource
from recsys.retrieval.new_items import NewItemsSettings, NewItemsSource
from recsys.retrieval.popularity import PopularitySettings, PopularitySource
from recsys.retrieval.repeat import RepeatSettings
from recsys.retrieval.sequence import SequenceSource
from recsys.retrieval.sequence_settings import SequenceSettings
from recsys.retrieval.text_profile import TextProfileSettings, TextProfileSource
from recsys.retrieval.transitions import TransitionsSettings, TransitionsSource
from recsys.retrieval.user_neighbours import UserNeighboursSettings, UserNeighboursSource

SOURCES: dict[str, type[Any]] = {
    source.name: source
    for source in (
        LinearSource, LinearNextSource, TransitionsSource, NeighboursSource, UserNeighboursSource, AlsSource,
        SequenceSource, TextProfileSource, NewItemsSource, PopularitySource,
    )
}  # fmt: skip
"""Source name -> class (see `CandidateSource`), in the order in which ties between sources are broken."""
READ_NO_TEXT = frozenset({"linear", "linear_next", "transitions", "neighbours", "user_neighbours", "popularity"})
READ_PLAIN_TEXT = frozenset({"als", "sequence"})
"""Sources that need not be fitted again for another fine-tuning, as they read no text or the pretrained part alone; one
that is in neither set is taken to read everything.
"""


class RetrievalSettings(Settings):
    """Each source's settings, under the source's name, and how many candidates each gives."""

    per_source: int = Field(default=100, ge=1, le=1000)
    """Candidates of each source; the union of them is what the ranker orders."""
    linear: LinearSettings = LinearSettings()
    linear_next: LinearNextSettings = LinearNextSettings()
    transitions: TransitionsSettings = TransitionsSettings()
    neighbours: NeighboursSettings = NeighboursSettings()
    user_neighbours: UserNeighboursSettings = UserNeighboursSettings()
    als: AlsSettings = AlsSettings()
    sequence: SequenceSettings = SequenceSettings()
    text_profile: TextProfileSettings = TextProfileSettings()
    new_items: NewItemsSettings = NewItemsSettings()
    popularity: PopularitySettings = PopularitySettings()
    repeat: RepeatSettings = RepeatSettings()
