"""What the HTTP calls answer: plain values in, JSON-able documents out, errors raised for `problems` to name."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recsys.api.events import Refused, read_events, verdicts_document
from recsys.api.schemas import answer_document, request_from_body, request_from_query
from recsys.bundle import load_bundle
from recsys.errors import BundleError, RequestError, StoreError
from recsys.follower import Follower
from recsys.live import LiveCounters
from recsys.live_popularity import LivePopularity
from recsys.model import FittedModel
from recsys.recommender import Recommender
from recsys.request_history import StoreReader
from recsys.requests import Request
from recsys.settings import ServeSettings, load_settings
from recsys.stores.base import MAX_ID_BYTES, EventStore
from recsys.stores.opening import NO_STORE, open_later, url_or_default
from recsys.stores.settings import StoreSettings
from recsys.threads import limit_threads

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Handlers:
    """The calls. Nothing here changes after start-up, so any number of threads may share it.

    Without a `recommender` the calls that need one raise BundleError with `why_not_ready`; without a `store` those that
    need it raise StoreError.
    """

    recommender: Recommender | None
    why_not_ready: str = ""
    store: EventStore | None = None
    store_settings: StoreSettings = field(default_factory=StoreSettings)
    follower: Follower | None = None

    @classmethod
    def from_bundle(cls, bundle: str | None, store_url: str | None = None) -> Handlers:
        """Handlers of the current version in the folder `bundle`, answering on one thread each (see `recsys.threads`),
        with the event store at `store_url` (None: a SQLite file in that folder, "none": no store).

        A missing or damaged bundle is logged here, once, and the process starts all the same: it then says why it is
        not ready, instead of being restarted for ever. So it does without a store that can't be reached yet.
        SettingsError where the URL or a setting is wrong.
        """
        settings = load_settings().store
        url = url_or_default(store_url, Path(bundle) if bundle else None)
        store = open_later(url, settings) if url else None
        try:
            return cls._following(_load(bundle), store, settings)
        except BundleError as error:
            logger.error("not ready, answering 503: %s", error)  # noqa: TRY400  (the text says it all; a traceback adds nothing)
            return cls(None, str(error), store, settings)

    @classmethod
    def _following(cls, model: FittedModel, store: EventStore | None, settings: StoreSettings) -> Handlers:
        if store is None:
            recommender, follower = Recommender.live(model), None
        else:
            reader = StoreReader(store, settings)
            popularity = LivePopularity(model.fallback, model.catalogue.items, settings.live_prior)
            recommender = Recommender.live(model, reader, popularity)
            counters = LiveCounters(recommender.kind_weight, settings.live_hours, settings.live_events)
            follower = Follower(store, reader, counters, [popularity])
        _warm_up(recommender)
        return cls(recommender, "", store, settings, follower)

    def start(self) -> None:
        """Begin to follow the store, in every process that answers; calling it again does nothing."""
        if self.follower is not None:
            self.follower.start()

    def close(self) -> None:
        """Stop following, and give the store's connections back."""
        if self.follower is not None:
            self.follower.stop()
        if self.store is not None:
            self.store.close()

    def alive(self) -> dict[str, Any]:
        """`GET /healthz`: the process answers, whatever it has loaded."""
        return {"status": "ok"}

    def ready(self) -> dict[str, Any]:
        """`GET /readyz`: a verified bundle is loaded."""
        return {"status": "ready", "bundle": self._recommender().model.bundle_version}

    def recommend(self, query: bytes, request_id: str) -> dict[str, Any]:
        """`GET /recommend`, from the raw query string."""
        return self._answer(request_from_query, query, request_id)

    def recommend_posted(self, body: bytes, request_id: str) -> dict[str, Any]:
        """`POST /recommend`, from the JSON body."""
        return self._answer(request_from_body, body, request_id)

    def take_events(self, body: bytes) -> dict[str, Any]:
        """`POST /events`: one verdict a row, when what is accepted is on the disk. An event that comes alone is refused
        as a request is; unknown items are taken and noted, as events may be sooner here than their item.
        """
        store = self._store()
        reading = read_events(body, time.time(), self.store_settings)
        if reading.alone and isinstance(reading.rows[0], Refused):
            raise RequestError(reading.rows[0].parameter, reading.rows[0].reason)
        events = reading.events
        verdicts = store.append(events)
        known = None
        if self.recommender is not None:
            known = self.recommender.model.catalogue.items.rows([event.item_id for event in events]) >= 0
        return verdicts_document(reading, verdicts, known)

    def forget(self, user_id: str) -> dict[str, Any]:
        """`DELETE /users/ID`: the user's events are removed, and what bundles know of the user is hidden."""
        if not user_id.strip() or "\0" in user_id or "\ufffd" in user_id or len(user_id.encode()) > MAX_ID_BYTES:
            raise RequestError("user", f"the user must be text in UTF-8, of at most {MAX_ID_BYTES} bytes")
        return {"user": user_id, "removed_events": self._store().forget(user_id, time.time())}

    def _answer(
        self, read: Callable[[bytes, str, ServeSettings], Request], given: bytes, request_id: str
    ) -> dict[str, Any]:
        recommender = self._recommender()
        request = read(given, request_id, recommender.model.settings.serve)
        return answer_document(recommender.recommend(request), recommender.model.bundle_version)

    def _store(self) -> EventStore:
        if self.store is None:
            raise StoreError(
                f"this service has no event store: start it with --store URL, or without --store {NO_STORE}"
            )
        return self.store

    def _recommender(self) -> Recommender:
        if self.recommender is None:
            raise BundleError(self.why_not_ready)
        return self.recommender


def _load(bundle: str | None) -> FittedModel:
    if not bundle:
        raise BundleError("no bundle is set: use `recsys serve --bundle DIR`, or set RECSYS_BUNDLE to that folder")
    limit_threads(1)
    return load_bundle(Path(bundle))


def _warm_up(recommender: Recommender) -> None:
    """Answer once, so that the first visitor does not pay for what is made and read from the disk at first use."""
    one_item = tuple(recommender.model.catalogue.items.ids[:1])
    recommender.recommend(Request(history=(), recent=one_item))
