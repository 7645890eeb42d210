"""A fitted model put together by hand, without training: twelve items, three users, every kind of column."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from features.builder import FeatureBuilder, FeatureSettings
from features.grid import on_grid
from features.interactions import EventSettings
from features.tables import Catalogue, Events, IdIndex
from ranking.by_score import ByScoreRanker
from recsys.model import FittedModel, StoredHistories
from recsys.retrieval.base import FitData
from recsys.retrieval.item_item import keep_largest
from recsys.retrieval.linear import LinearSource
from recsys.retrieval.popularity import PopularitySettings, PopularitySource
from recsys.retrieval.text_profile import TextProfileSource
from recsys.settings import Settings

NUM_ITEMS = 12
USERS = ("ann", "bob", "Ünï ☃")
TRAINED_UNTIL = 1_700_000_500.0
_HISTORIES = {"ann": (0, 1, 2), "bob": (0, 1), "Ünï ☃": (0,)}


def handmade_model(**changes: Any) -> FittedModel:
    """Item i00 was taken three times, i01 twice, i02 once, the others never: popularity's order is that of the ids."""
    catalogue, events = handmade_catalogue(), _events()
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(NUM_ITEMS, 8))
    embeddings = on_grid(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), items=True)
    data = FitData(catalogue, events, len(USERS), EventSettings(), embeddings, 0, 1)
    popularity = PopularitySource.fit(data, PopularitySettings())
    weights = keep_largest((data.matrix.T @ data.matrix).tocsr(), 5)
    parts: dict[str, Any] = {
        "catalogue": catalogue,
        "users": IdIndex(USERS),
        "histories": _stored(events),
        "sources": (LinearSource(weights, None, 50), TextProfileSource(embeddings, None, 50), popularity),
        "fallback": popularity,
        "features": FeatureBuilder.fit(catalogue, events, data.weights, embeddings, FeatureSettings()),
        "ranker": ByScoreRanker.of({"linear": 1.0, "text_profile": 0.1, "popularity": 0.01}),
        "settings": Settings(),
        "trained_until": TRAINED_UNTIL,
        "kind_weights": {"view": 1.0, "*": 1.0},
        "fingerprint": "f" * 64,
        "report": {"seconds": {"windows": 0.5}, "ranker_reason": "made by hand", "ndcg": 0.25},
    }
    return FittedModel(**(parts | changes))


def handmade_catalogue() -> Catalogue:
    """Twelve items with text, numbers, flags and lists, some of them unknown."""
    ids = [f"i{k:02d}" for k in range(NUM_ITEMS)]
    frame = pd.DataFrame(
        {
            "item_id": ids,
            "title": [f"Title {k}" for k in range(NUM_ITEMS)],
            "description": ["" for _ in ids],
            "category": [("Books",) if k % 2 else ("Games", "Toys") if k else () for k in range(NUM_ITEMS)],
            "brand": ["Äcme" if k < 6 else "" for k in range(NUM_ITEMS)],
            "price": [float(k) if k else np.nan for k in range(NUM_ITEMS)],
            "image_url": ["" for _ in ids],
            "published_at": [np.nan for _ in ids],
            "available": [True for _ in ids],
            "colour": ["red" if k % 3 else "blue" for k in range(NUM_ITEMS)],
            "tags": [("a", "b") if k % 2 else () for k in range(NUM_ITEMS)],
            "weight": [k / 4 for k in range(NUM_ITEMS)],
        }
    )
    return Catalogue(IdIndex(ids), frame, ("colour", "tags", "weight"))


def _events() -> Events:
    pairs = [(row, item) for row, user in enumerate(USERS) for item in _HISTORIES[user]]
    users, items = (np.array(column, np.int32) for column in zip(*pairs, strict=True))
    times = TRAINED_UNTIL - 10.0 * np.arange(len(pairs))[::-1]
    ones = np.ones(len(pairs), np.float32)
    return Events(users, items, np.zeros(len(pairs), np.int16), times, ones, ("view",), "timestamp")


def _stored(events: Events) -> StoredHistories:
    indptr = np.concatenate([[0], np.cumsum(np.bincount(events.user_rows, minlength=len(USERS)))]).astype(np.int64)
    return StoredHistories(
        indptr,
        events.item_rows.astype(np.int32),
        np.asarray(events.times, np.float64),
        np.ones(len(events), np.float32),
        True,
    )
