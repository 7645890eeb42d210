"""Item documents: an item as a JSON object of the catalogue's columns -> its row, typed as reading a file would."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from features import cells
from features.item_rows import publication_times
from features.tables import AVAILABLE, CATEGORY, ITEM_ID, LIST_SEPARATOR, PRICE, PUBLISHED_AT, Catalogue
from recsys.errors import RequestError
from recsys.stores.base import storable

MAX_TEXT = 100_000
"""Characters of one value at most; the encoder reads far less."""
_SHOWN = 80

Document = Mapping[str, Any]
TEXT, NUMBER, LIST, TIME, FLAG = "text", "number", "list", "time", "flag"


@dataclass(frozen=True)
class ItemColumns:
    """The columns that an item may have, and what kind each is of: those of the catalogue that the model has."""

    kinds: Mapping[str, str]

    @classmethod
    def of(cls, catalogue: Catalogue) -> ItemColumns:
        """A further column is numbers, lists or texts as all its values are in the catalogue."""
        frame = catalogue.frame
        fixed = {CATEGORY: LIST, PRICE: NUMBER, PUBLISHED_AT: TIME, AVAILABLE: FLAG}
        kinds = {str(name): fixed.get(str(name)) or _kind(frame[name]) for name in frame.columns if name != ITEM_ID}
        return cls(kinds)

    def check(self, item_id: str, document: Document, where: str = "") -> None:
        """RequestError, naming the column (behind `where`), for what `row` could not read."""
        unknown = [name for name in document if name not in self.kinds and name != ITEM_ID]
        if unknown:
            allowed = ", ".join((ITEM_ID, *self.kinds))
            raise RequestError(
                where + unknown[0][:_SHOWN], f"unknown column {unknown[0][:_SHOWN]!r}; allowed: {allowed}"
            )
        if document.get(ITEM_ID, item_id) != item_id:
            given = str(document[ITEM_ID])[:_SHOWN]
            raise RequestError(where + ITEM_ID, f"item_id {given!r} is not the {item_id[:_SHOWN]!r} that was addressed")
        _, problems = self._read(document)
        if problems:
            name, problem = next(iter(problems.items()))
            raise RequestError(where + name, f"{name}: {problem}, not {str(document[name])[:_SHOWN]!r}")

    def row(self, item_id: str, document: Document) -> dict[str, Any]:
        """Every column's value, as a file's row would have it: what is missing, unknown or unreadable is empty."""
        return {ITEM_ID: item_id, **self._read(document)[0]}

    def frame(self, rows: Sequence[Mapping[str, Any]], like: pd.DataFrame) -> pd.DataFrame:
        """Rows of `row` as a frame with the columns and dtypes of `like`."""
        columns = {}
        for name in like.columns:
            values = pd.Series([row[name] for row in rows], dtype=object)
            columns[name] = values.astype(like[name].dtype)
        return pd.DataFrame(columns)

    def _read(self, document: Document) -> tuple[dict[str, Any], dict[str, str]]:
        """The values, and what is wrong by column."""
        values: dict[str, Any] = {}
        problems: dict[str, str] = {}
        for name, kind in self.kinds.items():
            value, problem = _value(kind, document.get(name))
            if not problem and name == PRICE and value < 0:
                problem = "must not be negative"
            values[name] = _EMPTY[kind] if problem else value
            if problem:
                problems[name] = problem
        return values, problems


def _kind(column: pd.Series) -> str:
    if pd.api.types.is_bool_dtype(column.dtype):
        return FLAG
    if pd.api.types.is_numeric_dtype(column.dtype):
        return NUMBER
    return LIST if any(isinstance(value, tuple) for value in column) else TEXT


def _value(kind: str, given: Any) -> tuple[Any, str]:
    """(the value, what is wrong with it or "")"""
    parts = given if isinstance(given, list | tuple) else [given]
    if not all(storable(part) for part in parts if isinstance(part, str)):
        return None, "must not hold a NUL or half a character (an unpaired surrogate)"
    value: tuple[Any, str] = _READERS[kind](given)
    return value


def _text(value: Any) -> tuple[str, str]:
    if value is None:
        return "", ""
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        return "", "must be a string"
    text = cells.text_of(value)
    if len(text) > MAX_TEXT:
        return "", f"must have at most {MAX_TEXT} characters"
    return text, ""


def _list(value: Any) -> tuple[tuple[str, ...], str]:
    parts = value if isinstance(value, list | tuple) else [value]
    texts = [_text(part) for part in parts]
    if any(problem for _, problem in texts):
        return (), f"must be a list of strings, or a string in which `{LIST_SEPARATOR}` separates them"
    return cells.tags(pa.chunked_array([[LIST_SEPARATOR.join(text for text, _ in texts)]], pa.string()))[0], ""


def _number(value: Any) -> tuple[float, str]:
    if value is None or value == "":
        return math.nan, ""
    if isinstance(value, str):
        values, bad = cells.numbers(pa.chunked_array([[value]], pa.string()))
        return float(values[0]), "must be a number" if bad[0] else ""
    good = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
    return (float(value), "") if good else (math.nan, "must be a finite number")


def _time(value: Any) -> tuple[float, str]:
    text, problem = _text(value)
    values, bad = publication_times(pa.chunked_array([[text]], pa.string()), time.time())
    if problem or bad[0]:
        return math.nan, "must be unix seconds, a year or an ISO 8601 time"
    return float(values[0]), ""


def _flag(value: Any) -> tuple[bool, str]:
    if value is None or isinstance(value, bool):
        return value is not False, ""
    values, bad = cells.flags(pa.chunked_array([[cells.text_of(value)]], pa.string()))
    return bool(values[0]), "must be true or false" if bad[0] else ""


_READERS: Mapping[str, Any] = {TEXT: _text, LIST: _list, NUMBER: _number, TIME: _time, FLAG: _flag}
_EMPTY: Mapping[str, Any] = {TEXT: "", LIST: (), NUMBER: np.nan, TIME: np.nan, FLAG: True}
