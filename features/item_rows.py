"""Item rows: the `items` file -> Catalogue, with every column typed and every bad row or cell accounted for."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from features import cells, tables
from features.cells import SECONDS_PER_DAY
from features.rejections import Rejections
from features.table_files import TableFile
from features.tables import BoolArray, Catalogue, IdIndex

_COLUMNS = (
    tables.ITEM_ID, tables.TITLE, tables.DESCRIPTION, tables.CATEGORY, tables.BRAND, tables.PRICE, tables.IMAGE_URL,
    tables.PUBLISHED_AT, tables.AVAILABLE,
)  # fmt: skip
_FURTHEST_PUBLICATION_DAYS = 36_525.0
"""A century from now: beyond it the number isn't in seconds. Announced items do have a date in the future."""


def read_catalogue(file: TableFile, checks: Rejections, now: float) -> Catalogue:
    """The usable items in file order; `now` is in unix seconds. Rows and cells that can't be used are in `checks`."""
    strings = {name: cells.texts(file.columns[name]) for name in file.columns.column_names}
    ids = strings[tables.ITEM_ID]
    checks.check_ids(ids, tables.ITEM_ID)
    _check_duplicate_items(checks, strings)
    frame = pd.DataFrame({tables.ITEM_ID: cells.strings_series(ids)})
    for name in (tables.TITLE, tables.DESCRIPTION, tables.BRAND, tables.IMAGE_URL):
        frame[name] = (
            cells.strings_series(strings[name]) if name in strings else pd.Series("", frame.index, dtype="str")
        )
    frame[tables.CATEGORY] = cells.tuples_series(_tags(strings, len(ids)))
    frame[tables.PRICE] = _prices(file, checks)
    frame[tables.PUBLISHED_AT] = _publication_times(file, checks, now)
    frame[tables.AVAILABLE] = _availability(file, checks)
    frame = frame[list(_COLUMNS)]
    attributes = tuple(name for name in strings if name not in _COLUMNS)
    typed = pd.DataFrame({name: cells.attribute(file.columns[name]) for name in attributes}, index=frame.index)
    frame = pd.concat([frame, typed], axis=1)[checks.usable].reset_index(drop=True)
    return Catalogue(IdIndex(frame[tables.ITEM_ID].tolist()), frame, attributes)


def _tags(strings: dict[str, pa.ChunkedArray], n: int) -> list[tuple[str, ...]]:
    return cells.tags(strings[tables.CATEGORY]) if tables.CATEGORY in strings else [()] * n


def _check_duplicate_items(checks: Rejections, strings: dict[str, pa.ChunkedArray]) -> None:
    """The first row of an id is kept, whatever the later ones say."""
    ids = strings[tables.ITEM_ID]
    frame = pd.DataFrame({name: cells.strings_series(column) for name, column in strings.items()})
    again = np.asarray(frame.duplicated(tables.ITEM_ID)) & checks.usable
    if not again.any():
        return
    same = again & np.asarray(frame.duplicated())
    checks.reject(same, "duplicate item", ids)
    checks.reject(again & ~same, "duplicate item id with another text", ids)


def _prices(file: TableFile, checks: Rejections) -> npt.NDArray[np.float64]:
    column = file.column(tables.PRICE)
    values, bad = cells.numbers(column)
    bad = bad | (values < 0)
    checks.note(bad, "bad price", column)
    return np.where(bad, np.nan, values)


def _publication_times(file: TableFile, checks: Rejections, now: float) -> npt.NDArray[np.float64]:
    column = file.column(tables.PUBLISHED_AT)
    values, bad = publication_times(column, now)
    checks.note(bad, "bad published_at", column)
    return np.where(bad, np.nan, values)


def publication_times(column: pa.ChunkedArray, now: float) -> cells.Numbers:
    """Unix seconds. Four digits are a year, as in ISO 8601: nothing was published in the first hours of 1970."""
    values, bad = cells.times(column)
    years = (values >= 1000) & (values <= 9999) & (values == np.floor(values))
    values[years] = [pd.Timestamp(year=int(y), month=1, day=1, tz="UTC").timestamp() for y in values[years]]
    return cells.Numbers(values, bad | (values > now + _FURTHEST_PUBLICATION_DAYS * SECONDS_PER_DAY))


def _availability(file: TableFile, checks: Rejections) -> BoolArray:
    column = file.column(tables.AVAILABLE)
    values, bad = cells.flags(column)
    checks.note(bad, "bad available", column)
    return values
