"""A data set with what an event store holds: events that came since, and without what forgotten users did before."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from features.event_rows import EventRows, in_time_order
from features.tables import EVENT_ID, QUERY, REQUEST_ID, SESSION_ID, Dataset
from recsys.errors import DataError
from recsys.stores.base import Event, EventStore, identified

_EXTRA = (EVENT_ID, SESSION_ID, REQUEST_ID, QUERY)


def with_stored_events(dataset: Dataset, store: EventStore, only: Sequence[str] | None = None) -> tuple[Dataset, int]:
    """(the data set with the store's events, how many of these are of unknown items and left out). An event that the
    data have already, by `event_id` or by user, item, name and time, counts once. `only` names the event types that
    are taken from the store (None: all). DataError without a clock.
    """
    if not dataset.events.has_clock:
        raise DataError(
            "the data have no 'timestamp', by which the store's events could be joined; train without --store"
        )
    up_to = store.head()
    forgotten = {known.user_id: known.at for known in store.forgotten()}
    own = _own(dataset, forgotten)
    stored, unknown = _stored(dataset, store, up_to, only)
    rows = pd.concat([own, stored], ignore_index=True)
    again = rows.duplicated(["user", "item", "kind", "time"]) | _repeated(rows[EVENT_ID])
    rows = rows[~again | (np.arange(len(rows)) < len(own))]  # what the data hold twice is the data's business
    user_codes, users = pd.factorize(rows["user"])
    kind_codes, kinds = pd.factorize(rows["kind"])
    joined = EventRows(
        user_codes.astype(np.int64), np.array(users, object), rows["item"].to_numpy(np.int64),
        kind_codes.astype(np.int64), np.array(kinds, object), rows["time"].to_numpy(np.float64),
        rows["value"].to_numpy(np.float64), rows[list(_EXTRA)].reset_index(drop=True),
    )  # fmt: skip
    events, user_index = in_time_order(joined, "timestamp")
    fingerprint = hashlib.sha256(f"{dataset.fingerprint} {up_to} {len(rows)}".encode()).hexdigest()
    return replace(dataset, events=events, users=user_index, fingerprint=fingerprint), unknown


def _own(dataset: Dataset, forgotten: dict[str, float]) -> pd.DataFrame:
    events = dataset.events
    users = dataset.users.ids[events.user_rows]
    extra = {name: events.extra[name].astype(object) if name in events.extra else "" for name in _EXTRA}
    frame = pd.DataFrame(
        {
            "user": users,
            "item": events.item_rows.astype(np.int64),
            "kind": np.array(events.kind_names, object)[events.kinds],
            "time": events.times,
            "value": np.asarray(events.values, np.float64),
        }
        | extra
    )
    known_since = pd.Series(users).map(forgotten).fillna(-np.inf).to_numpy(np.float64)
    return frame[events.times >= known_since]


def _stored(dataset: Dataset, store: EventStore, up_to: int, only: Sequence[str] | None) -> tuple[pd.DataFrame, int]:
    found: list[Event] = []
    after = 0
    while after < up_to:
        changes = store.changes(after)
        found += [e for number, e in changes.events if number <= up_to and (only is None or e.event in only)]
        after = changes.sequence
    rows = dataset.catalogue.items.rows([event.item_id for event in found])
    columns = [
        (
            e.user_id, row, e.event, e.time, e.value, identified(e).event_id, e.session_id or "", e.request_id or "",
            e.query or "",
        )
        for e, row in zip(found, rows, strict=True)
    ]  # fmt: skip
    frame = pd.DataFrame(columns, columns=["user", "item", "kind", "time", "value", *_EXTRA])
    return frame[frame["item"] >= 0], int((rows < 0).sum())


def _repeated(event_ids: pd.Series) -> pd.Series:
    """Ids that were there before; rows without one never were."""
    return event_ids.duplicated() & (event_ids != "")
