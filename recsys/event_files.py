"""Files of events into a store and out of it, in bulk: Parquet, CSV or JSON Lines, with a data folder's columns."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from tqdm import tqdm

from features import cells
from features.cells import SECONDS_PER_DAY
from features.errors import DataError
from features.event_rows import EventRows, event_clock, known_columns, usable_event_rows
from features.reading import EVENTS_TABLE, DataSettings, write_rejected
from features.rejections import Rejections
from features.table_files import SUFFIXES, TableFile, read_table
from features.tables import (
    EVENT,
    EVENT_ID,
    ITEM_ID,
    QUERY,
    REQUEST_ID,
    SESSION_ID,
    TIMESTAMP,
    USER_ID,
    VALUE,
    Catalogue,
    IdIndex,
    Rejected,
)
from recsys.errors import RequestError
from recsys.files import replacing
from recsys.stores.base import MAX_ID_BYTES, MAX_TEXT, Event, EventStore

_BATCH = 10_000
"""Events stored in one step: many enough to be fast, few enough that those who post events hardly wait."""
EXPORT_SUFFIXES = (".parquet", ".csv", ".jsonl")
_SCHEMA = pa.schema(
    [
        (USER_ID, pa.string()), (ITEM_ID, pa.string()), (EVENT, pa.string()), (TIMESTAMP, pa.float64()),
        (VALUE, pa.float64()), (EVENT_ID, pa.string()), (SESSION_ID, pa.string()), (REQUEST_ID, pa.string()),
        (QUERY, pa.string()),
    ]
)  # fmt: skip


@dataclass(frozen=True)
class ImportReport:
    """What an import did: `duplicates` were in the store already, `forgotten` are from before their user was."""

    accepted: int
    duplicates: int
    forgotten: int
    rejected: Rejected
    seconds: float


def import_events(
    store: EventStore, path: Path, settings: DataSettings | None = None, rejected_file: Path | None = None
) -> ImportReport:
    """Store the events of a file; interrupted or repeated, it stores none twice. Rows that can't be used are in the
    report (and in `rejected_file`); DataError, before anything is stored, where they are more than
    `settings.max_rejected` or the file has no `timestamp`. Items need not be known.
    """
    started = time.monotonic()
    settings = settings or DataSettings()
    rows, items, checks = _usable(path, time.time() + settings.future_tolerance_days * SECONDS_PER_DAY)
    rejected = Rejected(checks.frame())
    if rejected_file is not None:
        write_rejected(rejected, rejected_file)
    checks.raise_if_more_than(settings.max_rejected)
    counts = {"accepted": 0, "duplicate": 0, "forgotten": 0}
    with tqdm(total=len(rows.times), unit=" events", disable=None) as bar:
        for events in _event_batches(rows, items):
            for verdict in store.append(events):
                counts[verdict] += 1
            bar.update(len(events))
    return ImportReport(
        counts["accepted"], counts["duplicate"], counts["forgotten"], rejected, time.monotonic() - started
    )


def _usable(path: Path, latest: float) -> tuple[EventRows, IdIndex, Rejections]:
    if not path.name.endswith(SUFFIXES):
        raise DataError(f"{path}: events are imported from files that end with {', '.join(SUFFIXES)}")
    file = read_table(path, known_columns)
    for name in (USER_ID, ITEM_ID):
        if name not in file.columns.column_names:
            raise DataError(f"{path} has no column {name!r}; it has {', '.join(map(repr, file.names)) or 'none'}.")
    if event_clock(file) != "timestamp":
        raise DataError(f"{path} has no column 'timestamp' with values: a store orders events by time. Add it.")
    checks = Rejections(EVENTS_TABLE, file)
    _check_texts(file, checks)
    items = IdIndex(pc.unique(cells.texts(file.columns[ITEM_ID])).to_pylist())
    every_item = Catalogue(items, pd.DataFrame(index=range(len(items))))
    return usable_event_rows(file, checks, every_item, "timestamp", latest), items, checks


def _check_texts(file: TableFile, checks: Rejections) -> None:
    """What `POST /events` refuses, beside what no reader of events takes (see `usable_event_rows`)."""
    for name in (EVENT, EVENT_ID, SESSION_ID, REQUEST_ID, QUERY):
        checks.check_whole(cells.texts(file.column(name)), name)
    for name in (USER_ID, ITEM_ID, EVENT_ID):
        texts = cells.texts(file.column(name))
        too_long = np.asarray(pc.greater(pc.binary_length(texts), MAX_ID_BYTES).to_numpy(), bool)
        checks.reject(too_long, f"{name} is longer than {MAX_ID_BYTES} bytes", texts)
    queries = cells.texts(file.column(QUERY))
    too_long = np.asarray(pc.greater(pc.utf8_length(queries), MAX_TEXT).to_numpy(), bool)
    checks.reject(too_long, f"{QUERY} is longer than {MAX_TEXT} characters", queries)


def _event_batches(rows: EventRows, items: IdIndex) -> Iterator[list[Event]]:
    for start in range(0, len(rows.times), _BATCH):
        part = rows.take(np.arange(start, min(start + _BATCH, len(rows.times))))
        extra = [part.extra[name].tolist() if name in part.extra else [""] * len(part.times) for name in _EXTRA]
        columns = (
            part.user_names[part.user_codes].tolist(), items.ids[part.item_rows].tolist(), part.times.tolist(),
            part.kind_names[part.kind_codes].tolist(), part.amounts.tolist(), *extra,
        )  # fmt: skip
        yield [_event(*values) for values in zip(*columns, strict=True)]


_EXTRA = (EVENT_ID, SESSION_ID, REQUEST_ID, QUERY)


def _event(
    user: str, item: str, at: float, kind: str, value: float, event_id: str, session: str, request: str, query: str
) -> Event:
    return Event(user, item, at, kind, value, event_id.strip(), session or None, request or None, query or None)


def export_events(store: EventStore, out: Path) -> int:
    """Write all events into one .parquet, .csv or .jsonl file, in the order in which they were stored, which appears
    when it is complete; returns how many. What is stored meanwhile is left out.
    """
    if out.suffix not in EXPORT_SUFFIXES:
        raise RequestError("out", f"out {out}: give a file that ends with {', '.join(EXPORT_SUFFIXES)}")
    if not out.parent.is_dir():
        raise RequestError("out", f"out {out}: the folder {out.parent} does not exist; make it first")
    count = 0
    with replacing(out) as file, _writer(out.suffix, file) as write:
        for table in _tables(store):
            write(table)
            count += table.num_rows
    return count


def _tables(store: EventStore) -> Iterator[pa.Table]:
    after, end = 0, store.head()
    while after < end:
        changes = store.changes(after)
        after = changes.sequence
        rows = [_row(event) for number, event in changes.events if number <= end]
        yield pa.Table.from_pylist(rows, schema=_SCHEMA)


def _row(event: Event) -> dict[str, Any]:
    return {
        USER_ID: event.user_id, ITEM_ID: event.item_id, EVENT: event.event, TIMESTAMP: event.time, VALUE: event.value,
        EVENT_ID: event.event_id, SESSION_ID: event.session_id, REQUEST_ID: event.request_id, QUERY: event.query,
    }  # fmt: skip


@contextmanager
def _writer(suffix: str, file: IO[bytes]) -> Iterator[Callable[[pa.Table], Any]]:
    if suffix == ".jsonl":
        yield lambda table: file.write(_json_lines(table))
    else:
        made: Any = pq.ParquetWriter if suffix == ".parquet" else pa.csv.CSVWriter
        with made(file, _SCHEMA) as writer:
            yield writer.write_table


def _json_lines(table: pa.Table) -> bytes:
    rows = ({key: value for key, value in row.items() if value is not None} for row in table.to_pylist())
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8", "backslashreplace")
