"""A store as it was at one moment, for a job whose processes and repetitions are to see the same events."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from recsys.follower import Follower
from recsys.live import LiveCounters
from recsys.live_popularity import LivePopularity
from recsys.model import FittedModel
from recsys.query_counters import QueryCounters
from recsys.recommender import Recommender
from recsys.request_history import StoreReader
from recsys.rules import NO_RULES, Rules
from recsys.settings import load_settings
from recsys.stored_items import with_stored_items
from recsys.stores.opening import open_store

_PATIENCE = 60.0
"""Seconds that a job waits for a history: it would rather be late than wrong."""


@dataclass(frozen=True)
class StoreSnapshot:
    """The writes up to `number`, the newest event of which happened at `time` (unix seconds; None: no event). Users who
    are forgotten, and events that retention removes, are gone from it too.
    """

    url: str
    name: str
    number: int
    time: float | None

    @classmethod
    def now(cls, url: str) -> Self:
        """The store as it is; SettingsError where there is none, StoreError where it can't be read."""
        store = open_store(url, create=False)
        try:
            number = store.head()
            return cls(url, store.name, number, store.newest_time())
        finally:
            store.close()

    def recommender(self, model: FittedModel, root: Path, rules: Rules = NO_RULES) -> Recommender:
        """From `model`, of a version in `root`, with the items of the store and what its events say of popularity and
        transitions. It answers for the moment after the newest event of bundle and store, unless a request says
        otherwise, and raises StoreError rather than leave out what is stored.
        """
        settings = load_settings().store.model_copy(update={"read_timeout": _PATIENCE})
        store = open_store(self.url, settings, create=False)
        model = with_stored_items(model, root / model.bundle_version, store, self.number)
        reader = StoreReader(store, settings, up_to=self.number, required=True)
        newest = max(model.trained_until, self.time or 0.0)
        popularity = LivePopularity.of(model, settings)
        recommender = Recommender(model, lambda: newest + 1.0, reader, popularity, rules=lambda: rules)
        counters = LiveCounters.of(recommender.kind_weight, settings)
        unasked = QueryCounters(recommender.kind_weight, max_events=0)  # nobody searches here
        follower = Follower(store, reader, counters, [popularity], unasked, lambda: newest + 1.0)
        follower.read()
        follower.publish()
        return recommender


def recommender_of(
    model: FittedModel, snapshot: StoreSnapshot | None, root: Path, rules: Rules = NO_RULES
) -> Recommender:
    """What a job answers from, with or without a store, of a model of the bundles in `root`, under `rules`."""
    if snapshot is None:
        return Recommender(model, rules=lambda: rules)
    return snapshot.recommender(model, root, rules)
