"""What the HTTP calls answer: plain values in, JSON-able documents out, errors raised for `problems` to name."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recsys.api.schemas import answer_document, request_from_body, request_from_query
from recsys.bundle import load_bundle
from recsys.errors import BundleError
from recsys.recommender import Recommender
from recsys.requests import Request
from recsys.settings import ServeSettings
from recsys.threads import limit_threads

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Handlers:
    """The calls. Nothing here changes after start-up, so any number of threads may share it.

    Without a `recommender` every call but `alive` raises BundleError with `why_not_ready`.
    """

    recommender: Recommender | None
    why_not_ready: str = ""

    @classmethod
    def from_bundle(cls, bundle: str | None) -> Handlers:
        """Handlers of the current version in the folder `bundle`, answering on one thread each (see `recsys.threads`).

        A missing or damaged bundle is logged here, once, and the process starts all the same: it then says why it is
        not ready, instead of being restarted for ever.
        """
        try:
            return cls(_load(bundle))
        except BundleError as error:
            logger.error("not ready, answering 503: %s", error)  # noqa: TRY400  (the text says it all; a traceback adds nothing)
            return cls(None, str(error))

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

    def _answer(
        self, read: Callable[[bytes, str, ServeSettings], Request], given: bytes, request_id: str
    ) -> dict[str, Any]:
        recommender = self._recommender()
        request = read(given, request_id, recommender.model.settings.serve)
        return answer_document(recommender.recommend(request), recommender.model.bundle_version)

    def _recommender(self) -> Recommender:
        if self.recommender is None:
            raise BundleError(self.why_not_ready)
        return self.recommender


def _load(bundle: str | None) -> Recommender:
    if not bundle:
        raise BundleError("no bundle is set: use `recsys serve --bundle DIR`, or set RECSYS_BUNDLE to that folder")
    limit_threads(1)
    recommender = Recommender.live(load_bundle(Path(bundle)))
    _warm_up(recommender)
    return recommender


def _warm_up(recommender: Recommender) -> None:
    """Answer once, so that the first visitor does not pay for what is made and read from the disk at first use."""
    one_item = tuple(recommender.model.catalogue.items.ids[:1])
    recommender.recommend(Request(history=(), recent=one_item))
