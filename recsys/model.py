"""A fitted model: everything that `train` makes, a bundle holds and a Recommender answers from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from features.builder import FeatureBuilder
from features.tables import Catalogue, IdIndex
from ranking.base import Ranker
from recsys.retrieval.base import CandidateSource
from recsys.retrieval.popularity import PopularitySource
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


@dataclass(frozen=True)
class FittedModel:
    """All parts are immutable. `fallback` answers where there is no history and
    fills lists up. `trained_until`: time of the newest event known (unix seconds; 0 without a clock).

    `encoder` is the TextEncoder or BlendedEncoder (None where there is no text, and in a model loaded for serving,
    which needs none).
    `kind_weights` maps the event types to their weights in training (the largest that occurred: 1). `report` holds
    JSON-able facts of the training run: chosen source settings, window metrics, encoder scores, stage seconds.
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
