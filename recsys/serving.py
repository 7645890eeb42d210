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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from recsys.bundle import load_bundle, version_folder
from recsys.carried import Carried
from recsys.errors import BundleError, StoreError
from recsys.follower import Follower
from recsys.heap import return_large_arrays
from recsys.item_documents import Document
from recsys.live import LiveCounters
from recsys.live_items import ItemChange, ItemEditor
from recsys.live_popularity import LivePopularity
from recsys.model import FittedModel
from recsys.query_counters import QueryCounters
from recsys.recommender import Recommender
from recsys.request_history import StoreReader
from recsys.served import Live, Served, Surroundings
from recsys.stored_items import ITEMS_AT_A_TIME, load_editor
from recsys.stores.base import EventStore
from recsys.stores.settings import StoreSettings
from recsys.threads import limit_threads

_RETRY_SECONDS = 60.0
"""A version that could not be loaded is tried again after so long; another one at once."""
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """One version: its model with item changes in it, what makes more of them, and what is taken lately (None without
    a store).
    """

    model: FittedModel
    editor: ItemEditor
    popularity: LivePopularity | None = None

    def live(self) -> Live:
        """As it answers."""
        encoder = self.editor.encoder
        encode = None if encoder is None else lambda query: encoder.encode([query])[0]
        return Live(self.model, self.popularity, encode)


@dataclass(frozen=True)
class Snapshot:
    """One state to answer from: what serves those in no experiment, and each variant by name. `loaded` has the
    versions, the promoted one first; `applied` is the number of the newest item change in them.
    """

    served: Served
    variants: Mapping[str, Served]
    loaded: tuple[Loaded, ...]
    popularities: tuple[LivePopularity, ...] = ()
    applied: int = 0

    @property
    def recommender(self) -> Recommender:
        """Of the promoted version."""
        return self.served.recommender

    @property
    def version(self) -> str:
        """The promoted bundle's."""
        return self.served.bundle

    @property
    def editor(self) -> ItemEditor:
        """Of the promoted version."""
        return self.loaded[0].editor

    @property
    def all_served(self) -> tuple[Served, ...]:
        """Everything that answers."""
        return (self.served, *self.variants.values())


class Serving:
    """Keeps the snapshot of the bundles in `root` (None: there is none) and of the items in `store` up to date, in a
    thread that `start` begins in each process that answers; `step` does one round by hand.

    A missing or damaged bundle at the beginning is logged, and `recommender` says why until there is a good one; later
    on the old one goes on, and `refused` says why.
    """

    def __init__(
        self,
        root: Path | None,
        store: EventStore | None = None,
        settings: StoreSettings | None = None,
        surroundings: Surroundings | None = None,
    ) -> None:
        self.refused = ""
        self.follower: Follower | None = None
        self._root, self._store, self._settings = root, store, settings or StoreSettings()
        self._reader = StoreReader(store, self._settings) if store else None
        self._around = dataclasses.replace(surroundings or Surroundings(), reader=self._reader)
        self._snapshot: Snapshot | None = None
        self._tried: tuple[str, float] = ("", 0.0)
        self._writing, self._swapping, self._starting = threading.Lock(), threading.Lock(), threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._process = 0
        if store and self._reader:
            limits = self._settings
            counters = LiveCounters.of(self._kind_weight, limits)
            query_days = min(limits.query_days, limits.kept_days)
            queries = QueryCounters(self._kind_weight, query_days, limits.query_events)
            self.follower = Follower(store, self._reader, counters, queries=queries)
            self._around = dataclasses.replace(self._around, taken=queries.taken)
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
        made = self._answering([self._loaded(folder.parent, name) for name in (folder.name, *self._around.versions)])
        if before is not None and self._store is not None:  # at the start the items may come a moment later
            made = self._caught_up(made, self._store)
        for served in made.all_served:
            served.warm_up()
        with self._writing:
            if before is not None and self._store is not None:
                made = self._caught_up(made, self._store)
            self.refused = ""
            self._show(made)
        self._tell_figures(before, made)
        if before is not None:
            _logger.info("bundle %s takes over from %s", made.version, before.version)

    def _loaded(self, root: Path, version: str) -> Loaded:
        model = load_bundle(root, version)
        editor = load_editor(root / version, model)
        if self._store is not None:
            editor.prepare()
        return Loaded(model, editor, self._popularity(model))

    def _popularity(self, model: FittedModel) -> LivePopularity | None:
        if self.follower is None:
            return None
        popularity = LivePopularity.of(model, self._settings)
        self.follower.inform(popularity)
        return popularity

    def _tell_figures(self, before: Snapshot | None, now: Snapshot) -> None:
        metrics = self._around.metrics
        for served in before.all_served if before else ():
            metrics.serving(served.bundle, served.variant or "", now=False)
        for served in now.all_served:
            metrics.serving(served.bundle, served.variant or "")

    # ----------------------------------------------------------------------------------------------------------- items

    def _caught_up(self, snapshot: Snapshot, store: EventStore) -> Snapshot:
        """`snapshot` and all later item changes; those that make it up to now are shown on the way."""
        while changes := store.items_since(snapshot.applied, ITEMS_AT_A_TIME):
            wanted = [ItemChange(change.item_id, change.document) for change in changes]
            loaded = [self._changed(one, wanted) for one in snapshot.loaded]
            applied = changes[-1].sequence
            if any(new is not old for new, old in zip(loaded, snapshot.loaded, strict=True)):
                items = [change.item_id for change in changes]
                carried = {served.bundle: served.left(items) for served in snapshot.all_served[::-1]}
                snapshot = self._answering(loaded, carried)
                for served in snapshot.all_served:
                    served.take_over()
            snapshot = dataclasses.replace(snapshot, applied=applied)
            if self._snapshot is not None and snapshot.editor is self._snapshot.editor:
                self._show(snapshot)
        return snapshot

    def _changed(self, one: Loaded, wanted: Sequence[ItemChange]) -> Loaded:
        model, popularity = one.editor.with_items(one.model, wanted), one.popularity
        if model is one.model:
            return one
        if popularity is not None and self.follower is not None:
            popularity = self.follower.following(popularity, model)
        return Loaded(model, one.editor, popularity)

    def _answering(self, loaded: Sequence[Loaded], carried: Mapping[str, Carried] | None = None) -> Snapshot:
        """What answers from the versions; `carried` is what those before left, by version."""
        live = {one.model.bundle_version: one.live() for one in loaded}
        for version, left in (carried or {}).items():
            live[version] = dataclasses.replace(live[version], carried=left)
        promoted = loaded[0].model.bundle_version
        popularities = tuple(one.popularity for one in live.values() if one.popularity is not None)
        variants = self._around.variants(promoted, live)
        return Snapshot(self._around.main(live[promoted]), variants, tuple(loaded), popularities)

    def _show(self, snapshot: Snapshot) -> None:
        before, weights = self._snapshot, snapshot.recommender.model.kind_weights
        self._snapshot = snapshot
        if self.follower is not None:
            weighed = before is not None and before.recommender.model.kind_weights == weights
            self.follower.follow(*snapshot.popularities, anew=not weighed)

    def _kind_weight(self, kind: str) -> float:
        return self._snapshot.recommender.kind_weight(kind) if self._snapshot else 1.0
