"""The task stream: the held-out time goes through the service, which is asked first and then told what happened.

Requests and events go through the handlers that answer HTTP, and the events into a store on the disk, so what is judged
is the live service: histories that are read from the store, and nothing that a request brings along.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from features.tables import Dataset, Events
from recsys.api.handlers import Handlers
from recsys.follower import Follower
from recsys.live import LiveCounters
from recsys.live_popularity import LivePopularity
from recsys.model import FittedModel
from recsys.recommender import Recommender
from recsys.request_history import StoreReader
from recsys.requests import Recommendation, RecommendedItem, Request
from recsys.splits import EvaluationTask
from recsys.stores.opening import open_store
from recsys.stores.settings import StoreSettings

Document = dict[str, Any]


def streamed(model: FittedModel, task: EvaluationTask, later: Events) -> list[Recommendation]:
    """The answers to `task.requests`, in their order, each asked at its time by user id alone; every event of
    `later` is posted once all that is asked at its time has been answered, and is then counted at once.
    """
    live = {name: value for name, value in model.settings.store if name.startswith("live_")}
    settings, clock = StoreSettings().model_copy(update=live), _Clock()  # what limits a store is of no use here
    with tempfile.TemporaryDirectory(prefix="recsys-stream-") as folder:
        store = open_store(str(Path(folder) / "store.sqlite"), settings)
        try:
            reader = StoreReader(store, settings, required=True)
            popularity = LivePopularity.of(model, settings)
            recommender = Recommender(model, clock, reader, popularity)
            counters = LiveCounters.of(recommender.kind_weight, settings)
            follower = Follower(store, reader, counters, [popularity], clock=clock)
            handlers = Handlers(recommender, store=store, store_settings=settings)
            answers: list[Recommendation | None] = [None] * len(task)
            for now, numbers, events in _moments(task, later):
                clock.now = now
                if numbers:
                    follower.read()
                    follower.publish()
                for number in numbers:
                    answers[number] = _asked(handlers, task.requests[number])
                for start in range(0, len(events), settings.max_rows):
                    handlers.take_events(json.dumps(events[start : start + settings.max_rows]).encode())
        finally:
            store.close()
    return [answer for answer in answers if answer is not None]


@dataclass
class _Clock:
    """The time of the stream."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def _moments(task: EvaluationTask, later: Events) -> Iterator[tuple[float, list[int], list[Document]]]:
    """Each time, ascending, the queries asked then, and the events that happened then."""
    asked = [(float(request.at or 0.0), 0, number) for number, request in enumerate(task.requests)]
    events = _documents(task.train, later)
    happened = [(event["timestamp"], 1, number) for number, event in enumerate(events)]
    for time, same in groupby(sorted(asked + happened), key=lambda entry: entry[0]):
        entries = list(same)
        yield time, [n for _, kind, n in entries if not kind], [events[n] for _, kind, n in entries if kind]


def _documents(dataset: Dataset, events: Events) -> list[Document]:
    """The events as a storefront sends them. Each has an id: who does a thing twice at a time has done it twice."""
    users, items = dataset.users.ids[events.user_rows], dataset.catalogue.items.ids[events.item_rows]
    kinds = np.array(events.kind_names, dtype=object)[events.kinds]
    columns = zip(users.tolist(), items.tolist(), kinds.tolist(), events.times.tolist(), strict=True)
    return [
        {"user_id": user, "item_id": item, "event": kind, "timestamp": time, "event_id": f"stream:{number}"}
        for number, (user, item, kind, time) in enumerate(columns)
    ]


def _asked(handlers: Handlers, request: Request) -> Recommendation:
    body = {"user": request.user, "n": request.n, "exclude_seen": request.exclude_seen}
    answer = handlers.recommend_posted(json.dumps(body).encode(), request.request_id)
    items = tuple(
        RecommendedItem(item["item_id"], item["rank"], item["score"], item["title"], tuple(item["sources"]))
        for item in answer["items"]
    )
    return Recommendation(
        request.request_id, request.user, answer["strategy"], answer["reason"], items, answer["unknown_history_items"]
    )
