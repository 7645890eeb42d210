"""What the HTTP calls answer: plain values in, JSON-able documents out, errors raised for `problems` to name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from recsys.api.queries import SearchQuery, SimilarQuery
from recsys.api.schemas import answer_document, request_from_body, request_from_query
from recsys.api.served import Served, load_served
from recsys.errors import BundleError, RequestError
from recsys.experiments import Experiment, load_experiment
from recsys.monitoring import Metrics
from recsys.recommender import Recommender
from recsys.requests import Request
from recsys.rules import rules_from_json
from recsys.rules_file import RulesFile
from recsys.schemas import RankBody, parse_body_as
from recsys.settings import ServeSettings
from recsys.threads import limit_threads

logger = logging.getLogger(__name__)
Read = Callable[[ServeSettings], Request]


@dataclass(frozen=True)
class Handlers:
    """The calls. Nothing here changes after start-up, so any number of threads may share it.

    Without a `recommender` every call but `alive` raises BundleError with `why_not_ready`. Where an `experiment` runs,
    `variants` has what serves each of its variants. `served` is what has been made of the recommender, if anything.
    """

    recommender: Recommender | None
    why_not_ready: str = ""
    rules_file: RulesFile | None = None
    experiment: Experiment | None = None
    variants: Mapping[str, Served] = field(default_factory=dict)
    metrics: Metrics = field(default_factory=Metrics)
    served: Served | None = None

    @classmethod
    def from_bundle(cls, bundle: str | None, rules: str | None = None, experiment: str | None = None) -> Self:
        """Handlers of the current version in the folder `bundle`, answering on one thread each (see `recsys.threads`),
        under a file of rules and an experiment's file. SettingsError where one of those can't be used.

        A missing or damaged bundle is logged here, once, and the process starts all the same: it then says why it is
        not ready, instead of being restarted for ever.
        """
        rules_file = RulesFile(Path(rules)) if rules else None
        running = load_experiment(Path(experiment)) if experiment else None
        metrics = Metrics()
        try:
            limit_threads(1)
            served, variants = load_served(_folder(bundle), rules_file, running, metrics)
        except BundleError as error:
            logger.error("not ready, answering 503: %s", error)  # noqa: TRY400  (the text says it all; a traceback adds nothing)
            return cls(None, str(error), rules_file, running, metrics=metrics)
        return cls(served.recommender, "", rules_file, running, variants, metrics, served)

    def alive(self) -> dict[str, Any]:
        """`GET /healthz`: the process answers, whatever it has loaded."""
        return {"status": "ok"}

    def ready(self) -> dict[str, Any]:
        """`GET /readyz`: a verified bundle is loaded."""
        return {"status": "ready", "bundle": self._main.bundle}

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
        if self.experiment is None:
            return self._main
        return self.variants[self.experiment.assign(request.user).name]

    def _rules_file(self) -> RulesFile:
        if self.rules_file is None:
            raise RequestError("rules", "the service has no rules file; start it with `recsys serve --rules FILE`")
        return self.rules_file

    @cached_property
    def _main(self) -> Served:
        if self.recommender is None:
            raise BundleError(self.why_not_ready)
        return self.served or Served(self.recommender)


def _folder(bundle: str | None) -> Path:
    if not bundle:
        raise BundleError("no bundle is set: use `recsys serve --bundle DIR`, or set RECSYS_BUNDLE to that folder")
    return Path(bundle)
