"""Cells: what the values of a column mean. Arrow columns of any type in; strings, numbers, times, flags out."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from features.tables import LIST_SEPARATOR, BoolArray

_NUMBER = r"^-?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_STARTS_WITH_YEAR = r"^[0-9]{4}"
_FLAGS = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}
_UNITS_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
SECONDS_PER_DAY = 86_400.0


class Numbers(NamedTuple):
    """`values` (n,) float64, NaN where there is none; `bad` (n,) bool: something is there, but no finite number."""

    values: npt.NDArray[np.float64]
    bad: BoolArray


def text_of(value: Any) -> str:
    """One value as a string: nothing is "", 12.0 is "12", a list is joined by ` | `, a time is ISO 8601."""
    if isinstance(value, str):
        return value
    if value is None or value != value:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, (float, Decimal)):
        return str(int(value)) if math.isfinite(value) and value == int(value) else str(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, list | tuple):
        return LIST_SEPARATOR.join(text_of(v) for v in value)
    return json.dumps(value, ensure_ascii=False, default=text_of) if isinstance(value, dict) else str(value)


def texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Any column as strings, "" where there is nothing; whole numbers lose their decimal point: 12.0 is the id "12"."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_integer(column.type) or _is_string(column.type):
        return pc.fill_null(column.cast(pa.string()), "")
    return pa.chunked_array([[text_of(v) for v in column.to_pylist()]], pa.string())


def numbers(column: pa.ChunkedArray) -> Numbers:
    """Any column as numbers. Infinite values and words are bad; empty strings, nulls and NaN are only missing."""
    if not _is_number(column.type):
        return _parsed(pc.utf8_trim_whitespace(texts(column)))
    values = _float_array(column)
    return Numbers(np.where(np.isfinite(values), values, np.nan), np.isinf(values))


def times(column: pa.ChunkedArray) -> Numbers:
    """Any column as unix seconds: numbers are seconds already; ISO 8601 and dates are UTC unless they say otherwise."""
    if pa.types.is_timestamp(column.type):
        return Numbers(_float_array(column.cast(pa.int64())) / _UNITS_PER_SECOND[column.type.unit], _none(column))
    if pa.types.is_date(column.type):
        days = _float_array(column.cast(pa.date32()).cast(pa.int32()))
        return Numbers(days * SECONDS_PER_DAY, _none(column))
    if _is_number(column.type):
        return numbers(column)
    strings = pc.utf8_trim_whitespace(texts(column))
    values, bad = _parsed(strings)
    if bad.any():
        chosen = np.flatnonzero(bad)
        values[chosen] = _iso_seconds(strings.take(pa.array(chosen)))
    return Numbers(values, bad & np.isnan(values))


def flags(column: pa.ChunkedArray) -> tuple[BoolArray, BoolArray]:
    """(values, bad), both (n,) bool: true/false, yes/no, 1/0 in any case; True where there is nothing or no sense."""
    words = [word.strip().lower() for word in texts(column).to_pylist()]
    values = np.array([_FLAGS.get(word, True) for word in words], bool)
    return values, np.array([word not in _FLAGS and word != "" for word in words], bool)


def tags(strings: pa.ChunkedArray) -> list[tuple[str, ...]]:
    """Each string's parts between ` | `, without empty ones."""
    return [tuple(p for part in s.split(LIST_SEPARATOR) if (p := part.strip())) for s in strings.to_pylist()]


def attribute(column: pa.ChunkedArray) -> pd.Series:
    """A free column: float64 if every non-empty value is a number, tuples if ` | ` occurs, else strings."""
    strings = texts(column)
    values, bad = _parsed(pc.utf8_trim_whitespace(strings))
    if not bad.any() and not np.isnan(values).all():
        return pd.Series(values)
    if pc.any(pc.match_substring(strings, LIST_SEPARATOR)).as_py():
        return tuples_series(tags(strings))
    return strings_series(strings)


def strings_series(strings: pa.ChunkedArray) -> pd.Series:
    """Arrow strings as a pandas column of dtype str."""
    series: pd.Series = strings.to_pandas().astype("str")
    return series


def tuples_series(values: Sequence[tuple[str, ...]]) -> pd.Series:
    """Tuples as a pandas column of dtype object."""
    return pd.Series(list(values), dtype=object)


def contains_any(strings: pa.ChunkedArray, marks: Sequence[str]) -> BoolArray:
    """(n,) bool: which strings contain one of `marks`."""
    found = [np.asarray(pc.match_substring(strings, mark).to_numpy(), bool) for mark in marks]
    return np.asarray(np.logical_or.reduce(found), bool)


def blank(strings: pa.ChunkedArray) -> BoolArray:
    """(n,) bool: which strings are empty or white space."""
    return np.asarray(pc.equal(pc.utf8_trim_whitespace(strings), "").to_numpy(), bool)


def _parsed(strings: pa.ChunkedArray) -> Numbers:
    """Trimmed strings as numbers. A pattern decides, because parsers take "nan", "inf" or "1_000" for numbers, too."""
    is_number = pc.match_substring_regex(strings, _NUMBER)
    cast = pc.if_else(is_number, strings, pa.scalar(None, pa.string())).cast(pa.float64())
    values = _float_array(cast)
    values[np.isinf(values)] = np.nan
    return Numbers(values, np.isnan(values) & np.asarray(pc.not_equal(strings, "").to_numpy(), bool))


def _iso_seconds(strings: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """ISO 8601 strings as unix seconds, NaN where they are none. The year comes first: pandas would read "now", too."""
    dated = pc.if_else(pc.match_substring_regex(strings, _STARTS_WITH_YEAR), strings, pa.scalar(None, pa.string()))
    parsed = pd.to_datetime(dated.to_pandas(), format="ISO8601", utc=True, errors="coerce")
    stamps = parsed.dt.tz_convert(None).to_numpy()
    seconds = stamps.view(np.int64) / _UNITS_PER_SECOND[np.datetime_data(stamps.dtype)[0]]
    return np.where(np.isnat(stamps), np.nan, seconds)


def _float_array(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """A writable float64 copy, NaN for null."""
    filled = column.cast(pa.float64(), safe=False)
    return np.array(filled.to_numpy(), np.float64)


def _none(column: pa.ChunkedArray) -> BoolArray:
    return np.zeros(len(column), bool)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _is_string(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
