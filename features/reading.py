"""Reading: a data folder -> Dataset. A row that can't be used is listed with its line and reason, never dropped."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from pydantic import Field

from features.cells import SECONDS_PER_DAY
from features.errors import DataError
from features.event_rows import event_clock, in_time_order, known_columns, usable_event_rows
from features.item_rows import read_catalogue
from features.rejections import Rejections
from features.settings import Settings
from features.table_files import Choose, TableFile, find_table, read_table
from features.tables import ITEM_ID, USER_ID, Dataset, Rejected

ITEMS_TABLE, EVENTS_TABLE = "items", "events"


class DataSettings(Settings):
    """How much bad data is put up with."""

    max_rejected: float = Field(default=0.1, ge=0.0, le=1.0)
    """Share of a table's rows that may be unusable: above it the file is more likely misread than a little dirty."""
    future_tolerance_days: float = Field(default=1.0, ge=0.0)
    """Days after now that an event may be dated: clocks differ, and local time read as UTC is up to 14 hours ahead."""


def read_dataset(
    folder: Path | str,
    settings: DataSettings | None = None,
    events: Sequence[str] | None = None,
    rejected_file: Path | None = None,
) -> Dataset:
    """The folder's `items` and `events` (or `interactions`) as a Dataset; `events` keeps only events of these names.

    Users have rows in order of their first event. Rows that can't be used are in `Dataset.rejected`, and in
    `rejected_file` where one is given, which is written even if there are too many of them. Raises DataError where a
    table is missing, unreadable or lacks a column, or more than `settings.max_rejected` of its rows are bad.
    """
    settings = settings or DataSettings()
    now = time.time()
    folder = _existing(Path(folder))
    item_path = find_table(folder, (ITEMS_TABLE,))
    event_path = find_table(folder, (EVENTS_TABLE, "interactions"))
    item_file = _read(item_path, (ITEM_ID,), list)
    event_file = _read(event_path, (USER_ID, ITEM_ID), known_columns)
    clock = event_clock(event_file)
    item_checks, event_checks = Rejections(ITEMS_TABLE, item_file), Rejections(EVENTS_TABLE, event_file)
    catalogue = read_catalogue(item_file, item_checks, now)
    rows = usable_event_rows(
        event_file, event_checks, catalogue, clock, now + settings.future_tolerance_days * SECONDS_PER_DAY
    )
    rejected = Rejected(pd.concat([item_checks.frame(), event_checks.frame()], ignore_index=True))
    if rejected_file is not None:
        write_rejected(rejected, rejected_file)
    for checks in (item_checks, event_checks):
        checks.raise_if_more_than(settings.max_rejected)
    if not len(catalogue):
        raise DataError(f"{item_path} holds no usable item. Write one row an item below the header.")
    made, users = in_time_order(rows.only(events, event_path), clock)
    return Dataset(catalogue, made, users, rejected, _fingerprint(item_file, event_file))


def write_rejected(rejected: Rejected, path: Path) -> None:
    """Write the rejected rows as CSV: table, line, reason, value. Missing parent folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rejected.frame.to_csv(path, index=False)


def _existing(folder: Path) -> Path:
    if not folder.exists():
        raise DataError(
            f"The data folder {folder} doesn't exist. Give a folder that holds the tables items and events."
        )
    if not folder.is_dir():
        raise DataError(f"{folder} is a file. Give the folder that holds the tables items and events.")
    return folder


def _read(path: Path, required: Sequence[str], choose: Choose) -> TableFile:
    file = read_table(path, choose)
    for name in required:
        if name not in file.columns.column_names:
            hint = _separator_hint(file.names)
            raise DataError(
                f"{path} has no column {name!r}; it has {', '.join(map(repr, file.names)) or 'none'}. {hint}"
            )
    return file


def _separator_hint(names: Sequence[str]) -> str:
    for separator in (";", "\t"):
        if len(names) == 1 and separator in names[0]:
            return f"Its columns seem to be separated by {separator!r}: write them with commas."
    return "Add or rename it."


def _fingerprint(*files: TableFile) -> str:
    """sha256 of the files' bytes, hexadecimal; each file's own hash goes in, so that no byte can move between files."""
    digests = [hashlib.sha256(file.raw).digest() for file in files]
    return hashlib.sha256(b"".join(digests)).hexdigest()
