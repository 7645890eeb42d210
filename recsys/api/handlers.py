"""What the HTTP calls answer: plain values in, JSON-able documents out, errors raised for `problems` to name."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from recsys.api.events import Refused, read_events, verdicts_document
from recsys.api.items import check_item_id, read_item, read_items
from recsys.api.queries import SearchQuery, SimilarQuery
from recsys.api.schemas import answer_document, request_from_body, request_from_query
from recsys.errors import BundleError, RequestError, StoreError
from recsys.experiments import load_experiment
from recsys.item_documents import Document
from recsys.monitoring import Metrics
from recsys.recommender import Recommender
from recsys.requests import Request
from recsys.rules import rules_from_json
from recsys.rules_file import RulesFile
from recsys.schemas import RankBody, parse_body_as
from recsys.served import Served, Surroundings
from recsys.serving import Serving
from recsys.settings import ServeSettings, load_settings
from recsys.stores.base import MAX_ID_BYTES, EventStore
from recsys.stores.opening import NO_STORE, open_later, url_or_default
from recsys.stores.settings import StoreSettings

Read = Callable[[ServeSettings], Request]


@dataclass(frozen=True)
class Handlers:
    """The calls, for any number of threads. What they answer from is `serving`'s, or a `recommender` that stays.

    Where there is neither, or no bundle, the calls that need one raise BundleError; without a `store` those that need
    it raise StoreError. `surroundings` holds the rules, the experiment and the figures.
    """

    recommender: Recommender | None
    why_not_ready: str = ""
    store: EventStore | None = None
    store_settings: StoreSettings = field(default_factory=StoreSettings)
    serving: Serving | None = None
    surroundings: Surroundings = field(default_factory=Surroundings)

    @classmethod
    def from_bundle(
        cls, bundle: str | None, store_url: str | None = None, rules: str | None = None, experiment: str | None = None
    ) -> Handlers:
        """Handlers of the current version in the folder `bundle`, answering on one thread each (see `recsys.threads`),
        with the event store at `store_url` (None: a SQLite file in that folder, "none": no store), under a file of
        rules and an experiment's file.

        A missing or damaged bundle is logged here, once, and the process starts all the same: it then says why it is
        not ready, instead of being restarted for ever. So it does without a store that can't be reached yet.
        SettingsError where the URL, a setting or a file is wrong.
        """
        around = Surroundings(
            RulesFile(Path(rules)) if rules else None, load_experiment(Path(experiment)) if experiment else None
        )
        settings = load_settings().store
        root = Path(bundle) if bundle else None
        url = url_or_default(store_url, root)
        store = open_later(url, settings) if url else None
        return cls(None, "", store, settings, Serving(root, store, settings, around), around)

    @property
    def metrics(self) -> Metrics:
        """The figures of this process."""
        return self.surroundings.metrics

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
        answer = {"status": "ready", "bundle": self._main.bundle}
        refused = self.serving.refused if self.serving else ""
        return answer | {"refused": refused} if refused else answer

    def recommend(self, query: bytes, request_id: str) -> dict[str, Any]:
        """`GET /recommend`, from the raw query string."""
        return self._recommended(lambda limits: request_from_query(query, request_id, limits))

    def recommend_posted(self, body: bytes, request_id: str) -> dict[str, Any]:
        """`POST /recommend`, from the JSON body."""
        return self._recommended(lambda limits: request_from_body(body, request_id, limits))

    def similar(self, query: bytes, request_id: str) -> dict[str, Any]:
        """`GET /similar`."""
        limits = self._main.limits
        asked = SimilarQuery.read(query)
        request = asked.to_request(request_id, limits)
        served = self._served(request)
        answer = served.similar.recommend(asked.item, request)
        return {"item": asked.item} | answer_document(answer, served.bundle, served.variant)

    def search(self, query: bytes, request_id: str) -> dict[str, Any]:
        """`GET /search`."""
        limits = self._main.limits
        asked = SearchQuery.read(query)
        request = asked.to_request(request_id, limits)
        served = self._served(request)
        answer = served.search.recommend(asked.q, request)
        return {"query": asked.q} | answer_document(answer, served.bundle, served.variant)

    def rank(self, body: bytes, request_id: str) -> dict[str, Any]:
        """`POST /rank`: the caller's candidates, best first."""
        limits = self._main.limits
        asked = parse_body_as(RankBody, body)
        request = asked.to_request(limits, request_id=request_id)
        served = self._served(request)
        answer = served.recommender.recommend(request)
        known = served.recommender.model.catalogue.items
        listed = {item.item_id for item in answer.items}
        distinct = request.among or ()
        shown_all = len(listed) < request.n
        return answer_document(answer, served.bundle, served.variant) | {
            "unknown_items": [item for item in distinct if item not in known],
            "left_out": [item for item in distinct if shown_all and item in known and item not in listed],
        }

    def rules(self) -> dict[str, Any]:
        """`GET /rules`: the rules in force, and what is wrong with the file as it is now, if anything."""
        file = self._rules_file()
        current = file.current()
        problems = [file.problem] if file.problem else []
        problems += self._main.recommender.problems_of(current)
        return current.document() | ({"problems": problems} if problems else {})

    def put_rules(self, body: bytes) -> dict[str, Any]:
        """`PUT /rules`: they replace all rules, in the file and in every process that reads it."""
        file = self._rules_file()
        rules = rules_from_json(body)
        problems = self._main.recommender.problems_of(rules)
        if problems:
            raise RequestError("rules", "; ".join(problems))
        file.replace(rules)
        return self.rules()

    def metrics_text(self) -> bytes:
        """`GET /metrics`."""
        return self.metrics.text()

    def _recommended(self, read: Read) -> dict[str, Any]:
        request = read(self._main.limits)
        served = self._served(request)
        return answer_document(served.recommender.recommend(request), served.bundle, served.variant)

    def _served(self, request: Request) -> Served:
        """What answers this user."""
        experiment = self.surroundings.experiment
        if experiment is None or self.serving is None:
            return self._main
        return self.serving.snapshot.variants[experiment.assign(request.user).name]

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
            items = self._main.recommender.model.catalogue.items
        except BundleError:
            return verdicts_document(reading, verdicts, None)
        return verdicts_document(reading, verdicts, items.rows([event.item_id for event in events]) >= 0)

    def forget(self, user_id: str) -> dict[str, Any]:
        """`DELETE /users/ID`: the user's events are removed, and what bundles know of the user is hidden."""
        if not user_id.strip() or "\0" in user_id or "\ufffd" in user_id or len(user_id.encode()) > MAX_ID_BYTES:
            raise RequestError("user", f"the user must be text in UTF-8, of at most {MAX_ID_BYTES} bytes")
        try:
            learned = self._main.recommender.model.trained_until
        except BundleError:
            learned = 0.0
        at = max(time.time(), learned + 1.0)  # a clock that has jumped back must not leave what the bundle knows
        return {"user": user_id, "removed_events": self._store().forget(user_id, at)}

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

    def _store(self) -> EventStore:
        if self.store is None:
            raise StoreError(
                f"this service has no event store: start it with --store URL, or without --store {NO_STORE}"
            )
        return self.store

    def _rules_file(self) -> RulesFile:
        if self.surroundings.rules is None:
            raise RequestError("rules", "the service has no rules file; start it with `recsys serve --rules FILE`")
        return self.surroundings.rules

    @property
    def _main(self) -> Served:
        """Taken once a request: a newer one may come at any moment."""
        return self.serving.snapshot.served if self.serving is not None else self._unchanging

    @cached_property
    def _unchanging(self) -> Served:
        if self.recommender is None:
            raise BundleError(self.why_not_ready)
        return Served(self.recommender)
