"""What a worker answers from: the promoted bundle with all item changes in it, replaced as a whole, never changed.

A request takes one snapshot and keeps it to its end. New snapshots come from two sides: somebody promotes another
version (or rolls back), or an item is put or deleted, by this worker or by another one that shares the store.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from recsys.bundle import load_bundle, version_folder
from recsys.errors import BundleError, StoreError
from recsys.follower import Follower
from recsys.heap import return_large_arrays
from recsys.item_documents import Document
from recsys.live import LiveCounters
from recsys.live_items import ItemChange, ItemEditor
from recsys.live_popularity import LivePopularity
from recsys.model import FittedModel
from recsys.recommender import Recommender
from recsys.request_history import StoreReader
from recsys.requests import Request
from recsys.stored_items import ITEMS_AT_A_TIME, load_editor
from recsys.stores.base import EventStore
from recsys.stores.settings import StoreSettings
from recsys.threads import limit_threads

_RETRY_SECONDS = 60.0
"""A version that could not be loaded is tried again after so long; another one at once."""
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Snapshot:
    """One state to answer from: `applied` is the number of the newest item change in it."""

    recommender: Recommender
    popularity: LivePopularity | None
    editor: ItemEditor
    applied: int = 0

    @property
    def version(self) -> str:
        """The bundle's."""
        return self.recommender.model.bundle_version


class Serving:
    """Keeps the snapshot of the bundles in `root` (None: there is none) and of the items in `store` up to date, in a
    thread that `start` begins in each process that answers; `step` does one round by hand.

    A missing or damaged bundle at the beginning is logged, and `recommender` says why until there is a good one; later
    on the old one goes on, and `refused` says why.
    """

    def __init__(
        self, root: Path | None, store: EventStore | None = None, settings: StoreSettings | None = None
    ) -> None:
        self.refused = ""
        self.follower: Follower | None = None
        self._root, self._store, self._settings = root, store, settings or StoreSettings()
        self._reader = StoreReader(store, self._settings) if store else None
        self._snapshot: Snapshot | None = None
        self._tried: tuple[str, float] = ("", 0.0)
        self._writing, self._swapping, self._starting = threading.Lock(), threading.Lock(), threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._process = 0
        if store and self._reader:
            counters = LiveCounters(self._kind_weight, self._settings.live_hours, self._settings.live_events)
            self.follower = Follower(store, self._reader, counters)
        limit_threads(1)
        return_large_arrays()
        self._swap()
        try:
            self.catch_up()  # before a server forks, so that its workers share what it takes
        except StoreError as error:
            _logger.warning("starting without the items that were put: %s", error)

    @property
    def snapshot(self) -> Snapshot:
        """What to answer from now; take it once a request. BundleError where no bundle could be loaded yet."""
        if self._snapshot is None:
            raise BundleError(self.refused)
        return self._snapshot

    def check(self, documents: Mapping[str, Document], names: Mapping[str, str]) -> None:
        """RequestError naming the column, behind `names[item_id]`, where a document is not what the catalogue takes;
        BundleError where its text could not be read.
        """
        editor = self.snapshot.editor
        for item_id, document in documents.items():
            editor.columns.check(item_id, document, names.get(item_id, ""))
        if editor.why_no_text:
            raise BundleError(editor.why_no_text)

    def catch_up(self) -> None:
        """Let all item changes that the store holds be in the snapshot; StoreError where it can't be read."""
        if self._store is None or self._snapshot is None:
            return
        with self._writing:
            self._show(self._caught_up(self._snapshot, self._store))

    def step(self) -> None:
        """Take the promoted version, if it is another one, and the newest item changes."""
        self._swap()
        self.catch_up()

    def start(self) -> None:
        """Follow in a thread of this process, if none does so already; a forked child has none of its parent's."""
        if self.follower is not None:
            self.follower.start()
        if self._process == os.getpid():
            return
        with self._starting:
            if self._process != os.getpid():
                self._process = os.getpid()
                self._stopping.clear()
                self._thread = threading.Thread(target=self._follow, name="bundle-follower", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """End the threads, if there are any, and wait for them."""
        self._stopping.set()
        if self._thread is not None and self._process == os.getpid():
            self._thread.join()
        self._thread, self._process = None, 0
        if self.follower is not None:
            self.follower.stop()

    def _follow(self) -> None:
        said = ""
        while not self._stopping.is_set():
            try:
                self.step()
            except Exception as error:  # a thread that ends would leave the worker behind unnoticed
                known = isinstance(error, StoreError)
                if said != str(error):
                    _logger.warning("items stand still: %s", error, exc_info=None if known else error)
                said = str(error)
            else:
                said = ""
            self._stopping.wait(self._settings.poll_seconds)

    # --------------------------------------------------------------------------------------------------------- bundles

    def _swap(self) -> None:
        """Load the promoted version unless it is the one in use; where that fails, say so, once, and keep the old."""
        with self._swapping:
            try:
                folder = self._folder()
                if not self._is_due(folder.name):
                    return
                self._tried = (folder.name, time.monotonic())
                self._load(folder)
            except BundleError as error:
                if self.refused != str(error):
                    goes_on = f"version {self._snapshot.version} goes on" if self._snapshot else "answering 503"
                    _logger.error("not ready, %s: %s", goes_on, error)  # noqa: TRY400  (the text says it all)
                self.refused = str(error)

    def _folder(self) -> Path:
        if self._root is None:
            raise BundleError("no bundle is set: use `recsys serve --bundle DIR`, or set RECSYS_BUNDLE to that folder")
        return version_folder(self._root)

    def _is_due(self, version: str) -> bool:
        if self._snapshot is not None and version == self._snapshot.version:
            self.refused = ""
            return False
        return version != self._tried[0] or time.monotonic() - self._tried[1] > _RETRY_SECONDS

    def _load(self, folder: Path) -> None:
        """All that takes long happens before the new snapshot is shown."""
        before = self._snapshot
        model = load_bundle(folder.parent, folder.name)
        editor = load_editor(folder, model)
        if self._store is not None:
            editor.prepare()
        made = Snapshot(*self._answering(model), editor)
        if before is not None and self._store is not None:  # at the start the items may come a moment later
            made = self._caught_up(made, self._store)
        _warm_up(made.recommender)
        with self._writing:
            if before is not None and self._store is not None:
                made = self._caught_up(made, self._store)
            self.refused = ""
            self._show(made)
        if before is not None:
            _logger.info("bundle %s takes over from %s", made.version, before.version)

    # ----------------------------------------------------------------------------------------------------------- items

    def _caught_up(self, snapshot: Snapshot, store: EventStore) -> Snapshot:
        """`snapshot` and all later item changes; those that make it up to now are shown on the way."""
        while changes := store.items_since(snapshot.applied, ITEMS_AT_A_TIME):
            before = snapshot.recommender.model
            model = snapshot.editor.with_items(before, [ItemChange(c.item_id, c.document) for c in changes])
            applied = changes[-1].sequence
            if model is before:
                snapshot = dataclasses.replace(snapshot, applied=applied)
            else:
                snapshot = Snapshot(*self._answering(model), snapshot.editor, applied)
            if self._snapshot is not None and snapshot.editor is self._snapshot.editor:
                self._show(snapshot)
        return snapshot

    def _answering(self, model: FittedModel) -> tuple[Recommender, LivePopularity | None]:
        if self._reader is None or self.follower is None:
            return Recommender.live(model), None
        popularity = LivePopularity(model.fallback, model.catalogue.items, self._settings.live_prior)
        self.follower.inform(popularity)
        return Recommender.live(model, self._reader, popularity), popularity

    def _show(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        if self.follower is not None and snapshot.popularity is not None:
            self.follower.follow(snapshot.popularity)

    def _kind_weight(self, kind: str) -> float:
        return self._snapshot.recommender.kind_weight(kind) if self._snapshot else 1.0


def _warm_up(recommender: Recommender) -> None:
    """Answer once, so that the first visitor does not pay for what is made and read from the disk at first use."""
    one_item = tuple(recommender.model.catalogue.items.ids[:1])
    recommender.recommend(Request(history=(), recent=one_item))
