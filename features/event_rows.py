"""Event rows: the `events` file -> Events and the users who made them; every bad row is accounted for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from features import cells, tables
from features.errors import DataError
from features.rejections import Rejections
from features.table_files import TableFile
from features.tables import Catalogue, Events, IdIndex, IntArray

DEFAULT_EVENT = "interaction"
SEQ = "seq"
"""Another name of the column `sequence`."""
_EXTRA_COLUMNS = (tables.EVENT_ID, tables.SESSION_ID, tables.REQUEST_ID, tables.QUERY)
_COLUMNS = (
    tables.USER_ID, tables.ITEM_ID, tables.EVENT, tables.TIMESTAMP, tables.SEQUENCE, SEQ, tables.VALUE, *_EXTRA_COLUMNS
)  # fmt: skip
_LARGEST_EXACT = 2.0**53
_LARGEST_VALUE = float(np.finfo(np.float32).max)
FUTURE = "time in the far future (check the date)"
FUTURE_MILLISECONDS = "time in the far future (milliseconds? divide by 1000)"
MILLISECONDS = 1e11
"""A number as large as this is hardly meant in seconds: that would be the year 5138, but in milliseconds it is 1973."""


def known_columns(names: Sequence[str]) -> list[str]:
    """Those of the file's columns that mean something here; others are not even read."""
    return [n for n in names if n in _COLUMNS]


@dataclass(frozen=True)
class EventRows:
    """The usable events in file order. `user_codes` int64 into `user_names`, `kind_codes` into `kind_names`."""

    user_codes: IntArray
    user_names: npt.NDArray[np.object_]
    item_rows: IntArray
    kind_codes: IntArray
    kind_names: npt.NDArray[np.object_]
    times: npt.NDArray[np.float64]
    amounts: npt.NDArray[np.float64]
    extra: pd.DataFrame

    def take(self, rows: IntArray) -> EventRows:
        """The events at these positions, in that order."""
        return EventRows(
            self.user_codes[rows], self.user_names, self.item_rows[rows], self.kind_codes[rows], self.kind_names,
            self.times[rows], self.amounts[rows], self.extra.iloc[rows].reset_index(drop=True),
        )  # fmt: skip

    def only(self, names: Sequence[str] | None, path: Path) -> EventRows:
        """The events of these names; a DataError where one of them never occurs, because that is a typing error."""
        if names is None or not len(self.times):
            return self
        present = [str(self.kind_names[code]) for code in np.unique(self.kind_codes)]
        for name in names:
            if name not in present:
                raise DataError(f"{path} has no usable event named {name!r}; it has {', '.join(map(repr, present))}.")
        codes = [code for code, name in enumerate(self.kind_names) if name in names]
        return self.take(np.flatnonzero(np.isin(self.kind_codes, codes)))


def event_clock(file: TableFile) -> tables.Clock:
    """What orders the events. A timestamp column without a single value is no clock where there is a sequence."""
    names = file.columns.column_names
    sequence = tables.SEQUENCE in names or SEQ in names
    if tables.TIMESTAMP in names:
        empty = sequence and file.num_rows and cells.blank(cells.texts(file.columns[tables.TIMESTAMP])).all()
        return "sequence" if empty else "timestamp"
    if sequence:
        return "sequence"
    raise DataError(
        f"{file.path} has neither a column 'timestamp' (unix seconds or ISO 8601) nor 'sequence' (integers, each "
        f"user's own order); it has {', '.join(map(repr, file.names)) or 'none'}. Add one of them."
    )


def usable_event_rows(
    file: TableFile, checks: Rejections, catalogue: Catalogue, clock: tables.Clock, latest: float
) -> EventRows:
    """The usable events; `latest` is the last plausible time, unix seconds. The others are rejected in `checks`."""
    users, items = cells.texts(file.columns[tables.USER_ID]), cells.texts(file.columns[tables.ITEM_ID])
    checks.check_ids(users, tables.USER_ID)
    checks.check_ids(items, tables.ITEM_ID)
    times = _event_times(file, checks, latest) if clock == "timestamp" else _event_order(file, checks)
    values = _event_values(file, checks)
    item_rows = _item_rows(items, catalogue)
    checks.reject(item_rows < 0, "unknown item", items)
    extra = {name: cells.texts(file.columns[name]) for name in _EXTRA_COLUMNS if name in file.columns.column_names}
    if tables.EVENT_ID in extra:
        _check_duplicate_events(checks, extra[tables.EVENT_ID])
    user_codes, user_names = _coded(users)
    kind_codes, kind_names = _coded(_event_names(file))
    frame = pd.DataFrame(
        {name: cells.strings_series(column) for name, column in extra.items()}, pd.RangeIndex(len(users))
    )
    everything = EventRows(user_codes, user_names, item_rows, kind_codes, kind_names, times, values, frame)
    return everything.take(np.flatnonzero(checks.usable))


def _event_times(file: TableFile, checks: Rejections, latest: float) -> npt.NDArray[np.float64]:
    column = file.columns[tables.TIMESTAMP]
    values, bad = cells.times(column)
    checks.reject(bad, "unparsable time", column)
    checks.reject(np.isnan(values), "no time", column)
    if _all_calendar_dates(values):
        checks.reject(np.ones(len(values), bool), "time is a date written YYYYMMDD (write YYYY-MM-DD)", column)
    checks.reject(values < 0, "time before 1970", column)
    _check_future(values, values > latest, checks, column)
    return values


def _check_future(
    values: npt.NDArray[np.float64], future: tables.BoolArray, checks: Rejections, column: pa.ChunkedArray
) -> None:
    if future.any():
        milliseconds = future & (values >= MILLISECONDS) & ~cells.numbers(column).bad
        checks.reject(milliseconds, FUTURE_MILLISECONDS, column)
        checks.reject(future, FUTURE, column)


def _all_calendar_dates(values: npt.NDArray[np.float64]) -> bool:
    """Whether all numbers look like 20240131. As unix seconds they would all lie in one week of August 1970."""
    known = values[~np.isnan(values)]
    month, day = known // 100 % 100, known % 100
    dates = (known >= 19_000_101) & (known <= 20_991_231) & (month >= 1) & (month <= 12) & (day >= 1) & (day <= 31)
    return len(known) > 0 and bool(np.all(dates & (known == np.floor(known))))


def _event_order(file: TableFile, checks: Rejections) -> npt.NDArray[np.float64]:
    column = file.column(tables.SEQUENCE if tables.SEQUENCE in file.columns.column_names else SEQ)
    values, bad = cells.numbers(column)
    checks.reject(bad | np.isnan(values) | (values != np.floor(values)), "sequence is no integer", column)
    checks.reject(
        np.abs(values) > _LARGEST_EXACT, "sequence is beyond 2**53 (number each user's events from 0)", column
    )
    return values


def _event_values(file: TableFile, checks: Rejections) -> npt.NDArray[np.float64]:
    column = file.column(tables.VALUE)
    values, bad = cells.numbers(column)
    bad = bad | (np.abs(values) > _LARGEST_VALUE)
    checks.reject(bad, "bad value", column)
    return np.where(np.isnan(values) | bad, 1.0, values)


def _item_rows(items: pa.ChunkedArray, catalogue: Catalogue) -> npt.NDArray[np.int64]:
    """Each event's item row, -1 where the item is unknown; every distinct id is looked up once."""
    codes, names = _coded(items)
    return catalogue.items.rows(names)[codes] if len(names) else np.empty(0, np.int64)


def _coded(strings: pa.ChunkedArray) -> tuple[IntArray, npt.NDArray[np.object_]]:
    """(codes (n,) int64, the distinct strings in order of first appearance)"""
    encoded = pc.dictionary_encode(strings.combine_chunks())
    names = np.array(encoded.dictionary.to_pylist(), dtype=object)
    return np.asarray(encoded.indices.to_numpy(), np.int64), names


def _event_names(file: TableFile) -> pa.ChunkedArray:
    names = pc.utf8_trim_whitespace(cells.texts(file.column(tables.EVENT)))
    return pc.if_else(pc.equal(names, ""), DEFAULT_EVENT, names)


def _check_duplicate_events(checks: Rejections, event_ids: pa.ChunkedArray) -> None:
    """Among usable rows the first with an event_id counts; rows without one are never duplicates."""
    candidates = np.flatnonzero(checks.usable & ~cells.blank(event_ids))
    repeated = pd.Series(event_ids.take(pa.array(candidates)).to_pandas()).duplicated()
    mask = np.zeros(len(event_ids), bool)
    mask[candidates[np.asarray(repeated, bool)]] = True
    checks.reject(mask, "duplicate event_id", event_ids)


def in_time_order(rows: EventRows, clock: tables.Clock) -> tuple[Events, IdIndex]:
    """(events by time, the users in order of their first event)"""
    rows = rows.take(np.argsort(rows.times, kind="stable"))
    user_rows, user_codes = pd.factorize(rows.user_codes)
    kinds, kind_names = _kinds(rows)
    events = Events(
        user_rows.astype(np.int32), rows.item_rows.astype(np.int32), kinds, rows.times, rows.amounts.astype(np.float32),
        kind_names, clock, rows.extra,
    )  # fmt: skip
    return events, IdIndex(rows.user_names[user_codes])


def _kinds(rows: EventRows) -> tuple[IntArray, tuple[str, ...]]:
    """(codes (n,) int16, the event names that occur, sorted)"""
    present, codes = np.unique(rows.kind_codes, return_inverse=True)
    if len(present) > np.iinfo(np.int16).max:
        raise DataError(
            f"The column 'event' has {len(present)} different values; it is to name a kind, such as 'view'."
        )
    names = [str(rows.kind_names[code]) for code in present]
    places = np.argsort(np.argsort(np.array(names, dtype=object)))
    return places[codes].astype(np.int16), tuple(sorted(names))
