"""A fitted model: everything that `train` makes, a bundle holds and a Recommender answers from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from features.builder import FeatureBuilder
from features.cycles import RepeatFeatures
from features.tables import Catalogue, IdIndex
from ranking.base import Ranker
from recsys.retrieval.base import CandidateSource
from recsys.retrieval.buy_again import BUY_AGAIN
from recsys.retrieval.popularity import PopularitySource
from recsys.retrieval.repeat import RepeatSource
from recsys.settings import Settings

OTHER_KINDS = "*"
"""The entry of `kind_weights` for event types that the training data did not hold."""


@dataclass(frozen=True)
class StoredHistories:
    """The events that the model was trained on, by user: row u's events are indptr[u]:indptr[u + 1], oldest first.

    `item_rows` int32, `times` float64 (unix seconds or the user's own order), `weights` float32 (0: no sign of
    interest).
    """

    indptr: npt.NDArray[np.int64]
    item_rows: npt.NDArray[np.int32]
    times: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float32]
    has_clock: bool

    @cached_property
    def item_counts(self) -> npt.NDArray[np.int64]:
        """The number of events of each item, up to the last one that has any."""
        return np.bincount(self.item_rows)


@dataclass(frozen=True)
class Chain:
    """What makes a list: candidates, their features, their order."""

    sources: tuple[CandidateSource, ...]
    features: FeatureBuilder | RepeatFeatures
    ranker: Ranker


@dataclass(frozen=True)
class RepeatModel:
    """What has been learned of repeats: the source of what is due, and a ranker whose labels held repeats."""

    source: RepeatSource
    ranker: Ranker

    @property
    def sources(self) -> tuple[CandidateSource, ...]:
        """All that offer items of the history."""
        return history_sources(self.source)


def history_sources(source: RepeatSource) -> tuple[CandidateSource, ...]:
    """The learned source and the plain orders, in the order in which ties between them are broken."""
    sources: tuple[Any, ...] = (source, *BUY_AGAIN)  # each takes settings of its own, which mypy holds against it
    return sources


@dataclass(frozen=True)
class FittedModel:
    """All parts are immutable. `fallback` answers where there is no history and fills lists up. `trained_until`: time
    of the newest event known (unix seconds; 0 without a clock), but not after the training began: what is dated ahead
    does not hide what happens until then.

    `encoder` is the TextEncoder or BlendedEncoder (None where there is no text, and in a model loaded for serving,
    which needs none).
    `kind_weights` maps the event types to their weights in training (the largest that occurred: 1). `report` holds
    JSON-able facts of the training run: chosen source settings, window metrics, encoder scores, stage seconds.
    `repeats` answers where a list may hold items of the history (None: the data show too few repeats to learn from).
    """

    catalogue: Catalogue
    users: IdIndex
    histories: StoredHistories
    sources: tuple[CandidateSource, ...]
    fallback: PopularitySource
    features: FeatureBuilder
    ranker: Ranker
    settings: Settings
    trained_until: float
    kind_weights: Mapping[str, float]
    encoder: Any = None
    fingerprint: str = ""
    report: Mapping[str, Any] = field(default_factory=dict)
    bundle_version: str = ""
    repeats: RepeatModel | None = None

    def chain(self, exclude_seen: bool) -> Chain:
        """What answers a request that does or doesn't exclude the items of the history."""
        if exclude_seen or self.repeats is None:
            return Chain(self.sources, self.features, self.ranker)
        features = RepeatFeatures(self.features, self.repeats.source.cycles)
        return Chain((*self.sources, *self.repeats.sources), features, self.repeats.ranker)
