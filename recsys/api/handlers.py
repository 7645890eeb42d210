"""What the HTTP calls answer: plain values in, JSON-able documents out, errors raised for `problems` to name."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recsys.api.events import Refused, read_events, verdicts_document
from recsys.api.items import check_item_id, read_item, read_items
from recsys.api.schemas import answer_document, request_from_body, request_from_query
from recsys.errors import BundleError, RequestError, StoreError
from recsys.item_documents import Document
from recsys.recommender import Recommender
from recsys.requests import Request
from recsys.serving import Serving
from recsys.settings import ServeSettings, load_settings
from recsys.stores.base import MAX_ID_BYTES, EventStore
from recsys.stores.opening import NO_STORE, open_later, url_or_default
from recsys.stores.settings import StoreSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Handlers:
    """The calls, for any number of threads. What they answer from is `serving`'s, or a `recommender` that stays.

    Where there is neither, or no bundle, the calls that need one raise BundleError; without a `store` those that need
    it raise StoreError.
    """

    recommender: Recommender | None
    why_not_ready: str = ""
    store: EventStore | None = None
    store_settings: StoreSettings = field(default_factory=StoreSettings)
    serving: Serving | None = None

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
        return cls(None, "", store, settings, Serving(Path(bundle) if bundle else None, store, settings))

    def start(self) -> None:
        """Begin to follow bundles and store, in every process that answers; calling it again does nothing."""
        if self.serving is not None:
            self.serving.start()

    def close(self) -> None:
        """Stop following, and give the store's connections back."""
        if self.serving is not None:
            self.serving.stop()
        if self.store is not None:
            self.store.close()

    def alive(self) -> dict[str, Any]:
        """`GET /healthz`: the process answers, whatever it has loaded."""
        return {"status": "ok"}

    def ready(self) -> dict[str, Any]:
        """`GET /readyz`: a verified bundle is loaded; `refused` says why the promoted one is not, where an older one
        goes on.
        """
        answer = {"status": "ready", "bundle": self._recommender().model.bundle_version}
        refused = self.serving.refused if self.serving else ""
        return answer | {"refused": refused} if refused else answer

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
        try:
            items = self._recommender().model.catalogue.items
        except BundleError:
            return verdicts_document(reading, verdicts, None)
        return verdicts_document(reading, verdicts, items.rows([event.item_id for event in events]) >= 0)

    def forget(self, user_id: str) -> dict[str, Any]:
        """`DELETE /users/ID`: the user's events are removed, and what bundles know of the user is hidden."""
        if not user_id.strip() or "\0" in user_id or "\ufffd" in user_id or len(user_id.encode()) > MAX_ID_BYTES:
            raise RequestError("user", f"the user must be text in UTF-8, of at most {MAX_ID_BYTES} bytes")
        return {"user": user_id, "removed_events": self._store().forget(user_id, time.time())}

    def put_item(self, item_id: str, body: bytes) -> dict[str, Any]:
        """`PUT /items/ID`: durable, and in the next answer of this worker, when it returns."""
        document = read_item(body)
        return self._put({check_item_id(item_id): document}, {}) | {"item_id": item_id}

    def put_items(self, body: bytes) -> dict[str, Any]:
        """`POST /items`: all of them or, where one can't be used, none."""
        documents, names = read_items(body)
        return self._put(documents, names)

    def delete_item(self, item_id: str) -> dict[str, Any]:
        """`DELETE /items/ID`: in no later answer of this worker; `known` says whether there was such an item."""
        serving, store = self._serving(), self._store()
        known = check_item_id(item_id) in serving.snapshot.recommender.model.catalogue.items
        store.delete_item(item_id)
        serving.catch_up()
        return {"bundle": serving.snapshot.version, "item_id": item_id, "known": known}

    def _put(self, documents: Mapping[str, Document], names: Mapping[str, str]) -> dict[str, Any]:
        serving, store = self._serving(), self._store()
        serving.check(documents, names)
        store.put_items(documents)
        serving.catch_up()
        return {"bundle": serving.snapshot.version, "stored": len(documents)}

    def _serving(self) -> Serving:
        if self.serving is None:
            raise StoreError("this service was started without a bundle folder, so it takes no items")
        return self.serving

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
        """Taken once a request: a newer one may come at any moment."""
        if self.serving is not None:
            return self.serving.snapshot.recommender
        if self.recommender is None:
            raise BundleError(self.why_not_ready)
        return self.recommender
