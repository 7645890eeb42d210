"""Events -> the sparse confidence matrix that collaborative filtering is fitted on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import scipy.sparse as sp
from pydantic import Field

from features.settings import Settings
from features.tables import Dataset, Events, FloatArray


class EventSettings(Settings):
    """What events mean. Types that are not listed weigh 1; a weight of 0 is no sign of interest, one below 0 says that
    the item is not wanted: it is not recommended until the user takes it after all, and the ranker learns what else is
    not wanted.
    """

    weights: Mapping[str, float] = {
        "view": 1.0, "click": 1.0, "play": 1.0, "played": 1.0, "review": 1.0, "rating": 1.0,
        "cart": 2.0, "purchase": 3.0,
        "cancel": 0.0, "impression": 0.0, "dismiss": -1.0,
    }  # fmt: skip
    ignored: tuple[str, ...] = ("impression",)
    """Types that are nothing a user did: they neither count nor make an item seen."""
    history_limit: int = Field(default=2000, ge=1)
    """Newest events of a user that sources and features look at; older ones only count as seen."""


def acted_on(dataset: Dataset, settings: EventSettings) -> Dataset:
    """The dataset less the events of ignored types."""
    events = dataset.events
    ignored = [code for code, name in enumerate(events.kind_names) if name in settings.ignored]
    return dataset.with_events(events.select(~np.isin(events.kinds, ignored))) if ignored else dataset


def signed_weights(events: Events, settings: EventSettings) -> FloatArray:
    """Each event's weight, (n_events,) float32, divided by the largest weight that occurs so that single-type data
    weighs 1; below 0 for what is not wanted, of which the sign alone counts.
    """
    by_kind = np.array([settings.weights.get(name, 1.0) for name in events.kind_names], np.float32)
    top = by_kind.max(initial=0.0)
    return np.asarray(by_kind[events.kinds] / (top or 1.0), np.float32)


def event_weights(events: Events, settings: EventSettings) -> FloatArray:
    """`signed_weights`, 0 for what is not wanted: the interest that each event shows, (n_events,) float32."""
    return np.asarray(np.maximum(signed_weights(events, settings), 0.0), np.float32)


def interaction_matrix(events: Events, weights: FloatArray, num_users: int, num_items: int) -> sp.csr_matrix:
    """(num_users, num_items) float32: the strongest event's weight of each pair; pairs without interest are absent."""
    liked = np.flatnonzero(weights > 0)
    key = events.user_rows[liked].astype(np.int64) * num_items + events.item_rows[liked]
    order = np.lexsort((weights[liked], key))
    last = np.ones(len(order), bool)
    last[:-1] = np.diff(key[order]) != 0
    chosen = liked[order[last]]
    coordinates = (events.user_rows[chosen], events.item_rows[chosen])
    matrix = sp.csr_matrix((weights[chosen], coordinates), shape=(num_users, num_items), dtype=np.float32)
    matrix.sort_indices()
    return matrix
