"""The follower: a thread of each worker that reads what all workers have written, and keeps house."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Sequence

from recsys.errors import StoreError
from recsys.live import LiveCounters
from recsys.live_popularity import NEVER, LivePopularity
from recsys.model import FittedModel
from recsys.patient_clock import Clock, PatientClock
from recsys.query_counters import DAY, QueryCounters
from recsys.request_history import StoreReader
from recsys.stores.base import EventStore
from recsys.stores.settings import StoreSettings

_PUBLISH_SECONDS = 0.5
"""Popularity is worked out anew at most so often, while events come in."""
_PAUSE = 8.0
"""And no more often than it takes so many times as long: a catalogue of millions must not cost the answers a core."""
_REFRESH_SECONDS = 60.0
"""And at least so often, as the hours go by; old events are removed from the store as often."""
_BACK_SECONDS = 60.0
"""A clock that goes back so far was wrong before or is now: what was counted by it is counted anew."""
_logger = logging.getLogger(__name__)


class Follower:
    """Feeds `counters`, `queries` and `popularities` (one a model) from the store, as far as `reader` reads it, and
    tells `reader` who was forgotten. `start` it in each process that answers; `step` does one round by hand.
    """

    def __init__(
        self,
        store: EventStore,
        reader: StoreReader,
        counters: LiveCounters,
        popularities: Sequence[LivePopularity] = (),
        queries: QueryCounters | None = None,
        clock: Clock = time.time,
    ) -> None:
        self.counters = counters
        self.queries = QueryCounters(lambda _: 1.0) if queries is None else queries
        self._store = store
        self._reader = reader
        self._popularities: tuple[LivePopularity, ...] = ()
        self._settings: StoreSettings = reader.settings
        self._clock = clock
        self._read_at = float("-inf")
        self._retention_clock: PatientClock | None = None
        self._sequence: int | None = None
        self._unpublished = False
        self._published_at = self._kept_house_at = float("-inf")
        self._thread: threading.Thread | None = None
        self._process = 0
        self._stopping = threading.Event()
        self._starting = threading.Lock()
        self._round = 0
        self._took = 0.0
        self._anew = False
        self.follow(*popularities)

    @property
    def sequence(self) -> int:
        """Everything up to this number is counted; -1 before the first round."""
        return -1 if self._sequence is None else self._sequence

    def start(self) -> None:
        """Follow in a thread of this process, if none does so already; a forked child has none of its parent's."""
        if self._process == os.getpid() and self._thread is not None and self._thread.is_alive():
            return
        with self._starting:
            if self._process != os.getpid() or self._thread is None or not self._thread.is_alive():
                self._reader.followed = True
                self._process = os.getpid()
                self._stopping.clear()
                self._thread = threading.Thread(target=self._follow, name="store-follower", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """End the thread, if there is one, and wait for it."""
        self._stopping.set()
        if self._thread is not None and self._process == os.getpid():
            self._thread.join()
        self._thread = None
        self._reader.followed = False

    def inform(self, popularity: LivePopularity) -> None:
        """Tell another `popularity`, of a model that is about to answer, what is taken now."""
        if self._sequence is not None:
            self._tell((popularity,), self._clock(), self._round)

    def following(self, popularity: LivePopularity, model: FittedModel) -> LivePopularity:
        """What takes the place of `popularity` for `model`, which is its model with new or changed items. It costs the
        same however many events are counted; those that came sooner than their items count after the next round.
        """
        after = popularity.following(model)
        if any(self.counters.know(item_id) for item_id in model.catalogue.items.ids[popularity.num_items :]):
            after.round = NEVER
        return after

    def follow(self, *popularities: LivePopularity, anew: bool = False) -> None:
        """Keep these up to date from now on, and no others. Where one was trained longer ago than those before, or what
        events weigh has changed (`anew`), the next round reads the store again.
        """
        if popularities == self._popularities and not anew:
            return
        since = min((one.since for one in popularities), default=math.inf)
        anew = anew or since < self.counters.since
        self.counters.since = since
        self._popularities = popularities
        if anew:  # once all is in place: the thread may begin at once
            self._anew = True
        if any(popularity.round != self._round for popularity in popularities):
            self._unpublished = True

    def step(self) -> None:
        """Read all that is new and publish what follows from it; StoreError where the store can't be read."""
        self.read()
        due = max(_PUBLISH_SECONDS, _PAUSE * self._took) if self._unpublished else _REFRESH_SECONDS
        if time.monotonic() - self._published_at >= due:
            self.publish()

    def read(self) -> None:
        """Count all that is new in the store; StoreError where it can't be read."""
        now = self._clock()
        if self._sequence is None or self._anew or now < self._read_at - _BACK_SECONDS:
            self._anew = False
            self._sequence = self._begin(now)
        self._read_at = now
        while True:
            changes = self._store.changes(self._sequence, up_to=self._reader.up_to)
            if changes.sequence == self._sequence:
                break
            for forgotten in changes.forgotten:  # first: the store holds no event any more that came before
                self._reader.forgotten[forgotten.user_id] = forgotten.at
                self.counters.forget(forgotten.user_id)
                self.queries.forget(forgotten.user_id)
            events = [event for _, event in changes.events]
            self.counters.add(events, now)
            self.queries.add(events, now)
            self._sequence = changes.sequence
            if changes.events or changes.forgotten:  # the numbers are those of items, too
                self._unpublished = True
        self._reader.back()

    def publish(self) -> None:
        """Let what is counted by now be seen, however lately that was done."""
        now, started = self._clock(), time.monotonic()
        self._unpublished = False  # what comes from here on is for the next time
        self._round += 1
        self.counters.expire(now)
        self.queries.expire(now)
        self._tell(self._popularities, now, self._round)
        self._published_at = time.monotonic()
        self._took = self._published_at - started

    def _begin(self, now: float) -> int:
        """The number behind which the events come that are to be counted; older ones with a query are counted here."""
        start = self._store.live_start(self.counters.start(now), self.counters.max_events, self._reader.up_to)
        for known in self._store.forgotten():
            self._reader.forgotten[known.user_id] = known.at
        since = now - self.queries.days * DAY
        searched = self._store.searched(since, self.queries.max_events, start)
        self.counters.clear()
        self.queries.clear()
        self._unpublished = True
        self.queries.add(searched, now)
        return start

    def _tell(self, popularities: Sequence[LivePopularity], now: float, number: int) -> None:
        if not popularities:
            return
        happened = self.counters.happened(now, self._reader.forgotten)
        for popularity in popularities:
            popularity.know(happened)
            popularity.round = number

    def _keep_house(self) -> None:
        """Remove what is beyond the retention: some rows at a time, with a pause for those who want to write."""
        if time.monotonic() - self._kept_house_at < _REFRESH_SECONDS:
            return
        if self._retention_clock is None:
            self._retention_clock = PatientClock(self._clock, self._store.newest_time())
        while self._store.prune(self._retention_clock()) and not self._stopping.wait(0.05):
            pass
        self._kept_house_at = time.monotonic()

    def _follow(self) -> None:
        failed: type[Exception] | None = None
        while not self._stopping.is_set():
            started, pause = time.monotonic(), self._settings.poll_seconds
            try:
                self.step()
                self._keep_house()
            except Exception as error:  # a thread that ends would be started by the next request, to end again
                known = isinstance(error, StoreError)
                if failed is not type(error):
                    _logger.warning("live counters stand still: %s", error, exc_info=None if known else error)
                failed = type(error)
                self._unpublished = True
                if not known:
                    pause = max(pause, _PAUSE * (time.monotonic() - started))
            else:
                failed = None
            self._stopping.wait(pause)
