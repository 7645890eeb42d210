"""What filters and caps ask of the catalogue: columns as codes, made at first use, and the masks of filters."""

from __future__ import annotations

import datetime
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.runs import ends
from features.tables import AVAILABLE, DESCRIPTION, IMAGE_URL, ITEM_ID, PUBLISHED_AT, TITLE, BoolArray, Catalogue
from features.weak_cache import cached_method
from recsys.errors import RequestError
from recsys.filters import DIFFERS, EQUALS, AllOf, Comparison, Filter, Not, normalised

_CACHED_BYTES = 64 * 2**20
"""What the kept masks may take: a mask is a byte an item."""
_TRUE = frozenset({"true", "1", "yes"})
_FALSE = frozenset({"false", "0", "no"})
_ORDERS: dict[str, Callable[..., BoolArray]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Values:
    """A column of strings or lists: item r has the values `names[codes[indptr[r]:indptr[r + 1]]]`, none where empty."""

    codes_by_name: dict[str, int]
    indptr: Ints
    codes: Ints

    @classmethod
    def of(cls, column: pd.Series) -> Values:
        """From the strings ("": none) or tuples of strings of all items; a value counts once an item."""
        lists = [_listed(value) for value in column]
        lengths = np.array([len(own) for own in lists], np.int64)
        codes, names = pd.factorize(np.array([value for own in lists for value in own], dtype=object))
        return cls({str(name): k for k, name in enumerate(names)}, ends(lengths), codes.astype(np.int64))

    def with_rows(self, values: Sequence[tuple[str, ...] | str], rows: Ints, num_items: int) -> Values:
        """The column in which the items at `rows` (ascending) have other `values`, or are new behind the others."""
        codes_by_name = dict(self.codes_by_name)
        own = [[codes_by_name.setdefault(v, len(codes_by_name)) for v in _listed(value)] for value in values]
        num_before = len(self.indptr) - 1
        lengths = np.zeros(num_items, np.int64)
        lengths[:num_before] = np.diff(self.indptr)
        lengths[rows] = [len(each) for each in own]
        pieces, done = [], 0  # those of the other items are copied in a few large pieces
        for row, codes in zip(rows.tolist(), own, strict=True):
            start, stop = self.indptr[min(row, num_before)], self.indptr[min(row + 1, num_before)]
            pieces += [self.codes[done:start], np.array(codes, np.int64)]
            done = stop
        return Values(codes_by_name, ends(lengths), np.concatenate([*pieces, self.codes[done:]]))

    def has(self, value: str) -> BoolArray:
        """(n_items,) whether the item has the value."""
        mask = np.zeros(len(self.indptr) - 1, bool)
        code = self.codes_by_name.get(value)
        if code is not None:
            places = np.flatnonzero(self.codes == code)
            mask[np.searchsorted(self.indptr, places, side="right") - 1] = True
        return mask

    def any_of(self, rows: Ints, codes: Sequence[int]) -> BoolArray:
        """(n_rows,) which of some items have one of the values."""
        lengths = self.indptr[rows + 1] - self.indptr[rows]
        bounds = ends(lengths)
        flat = np.arange(bounds[-1]) + np.repeat(self.indptr[rows] - bounds[:-1], lengths)
        hits = np.isin(self.codes[flat], codes)
        return np.bincount(np.repeat(np.arange(len(rows)), lengths), hits, len(rows)) > 0

    def of_items(self, rows: Ints) -> list[tuple[int, ...]]:
        """The codes of some items."""
        starts, stops = self.indptr[rows].tolist(), self.indptr[rows + 1].tolist()
        return [tuple(self.codes[a:b].tolist()) for a, b in zip(starts, stops, strict=True)]


def _listed(value: tuple[str, ...] | str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value)) if isinstance(value, tuple) else ((value,) if value else ())


class Attributes:
    """The columns of one catalogue; columns and masks are kept once made, by a filter's normal form."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._items, self._frame = catalogue.items, catalogue.frame
        self._available: BoolArray = catalogue.frame[AVAILABLE].to_numpy(bool)
        kept = max(8, min(512, _CACHED_BYTES // max(len(catalogue), 1)))
        self._mask = cached_method(self._computed, kept)
        self._mask_as_written = cached_method(self._normalised_mask, kept)
        self._columns: dict[str, Values | npt.NDArray[np.generic]] = {}

    def following(self, catalogue: Catalogue, rows: Ints) -> Attributes:
        """Those of `catalogue`, in which the items at `rows` (ascending) are others or new: columns of texts that are
        made here need not be made again.
        """
        out = Attributes(catalogue)
        for name, column in tuple(self._columns.items()):
            if isinstance(column, Values):
                values = [catalogue.frame[name].array[row] for row in rows.tolist()]
                out._columns[name] = column.with_rows(values, rows, len(catalogue))
        return out

    def mask(self, expression: Filter) -> BoolArray:
        """(n_items,) read-only: available and let through. RequestError names an unknown column or a bad value."""
        return self._mask_as_written(expression)

    def warm_up(self) -> None:
        """Make the columns that filters and caps are likely to ask for, so that worker processes share them."""
        for column in self._frame.columns:
            if column not in (ITEM_ID, TITLE, DESCRIPTION, IMAGE_URL):
                self._column(column)

    def values(self, column: str, parameter: str) -> Values:
        """The values of a column of strings or lists; RequestError, naming `parameter`, for any other."""
        found = self._known(column, parameter)
        if not isinstance(found, Values):
            raise RequestError(parameter, f"column {column!r} holds numbers; {parameter} takes a column of texts")
        return found

    def _normalised_mask(self, expression: Filter) -> BoolArray:
        mask: BoolArray = self._mask(normalised(expression))
        return mask

    def _computed(self, expression: Filter) -> BoolArray:
        mask = self._available & self._matches(expression)
        mask.setflags(write=False)
        return mask

    def _matches(self, expression: Filter) -> BoolArray:
        if isinstance(expression, Comparison):
            return self._compares(expression)
        if isinstance(expression, Not):
            return ~self._matches(expression.part)
        masks = [self._matches(part) for part in expression.parts]
        together = np.logical_and if isinstance(expression, AllOf) else np.logical_or
        start = np.full(len(self._frame), isinstance(expression, AllOf))
        return np.asarray(together.reduce([start, *masks]), bool)

    def _compares(self, asked: Comparison) -> BoolArray:
        """`!=` is the opposite of `:`, so an item of which the value is unknown differs from every value."""
        if asked.operator == DIFFERS:
            return ~self._compares(Comparison(asked.column, EQUALS, asked.value))
        if asked.column == ITEM_ID and asked.operator == EQUALS:
            return _marked(self._items.rows([asked.value]), len(self._frame))
        column = self._known(asked.column, "filter")
        if isinstance(column, Values):
            if asked.operator != EQUALS:
                raise RequestError(
                    "filter", f"column {asked.column!r} holds texts, which {asked.operator} can't compare; use : or !="
                )
            return column.has(asked.value)
        wanted = _wanted(asked, column)
        return np.asarray(column == wanted if asked.operator == EQUALS else _ORDERS[asked.operator](column, wanted))

    def _known(self, column: str, parameter: str) -> Values | npt.NDArray[np.generic]:
        if column not in self._frame:
            allowed = ", ".join(map(str, self._frame.columns))
            raise RequestError(parameter, f"unknown column {column!r}; allowed are {allowed}")
        return self._column(column)

    def _column(self, column: str) -> Values | npt.NDArray[np.generic]:
        if column not in self._columns:
            self._columns[column] = self._read(column)
        return self._columns[column]

    def _read(self, column: str) -> Values | npt.NDArray[np.generic]:
        series = self._frame[column]
        if pd.api.types.is_bool_dtype(series):
            return series.to_numpy(bool)
        if pd.api.types.is_numeric_dtype(series):
            return series.to_numpy(np.float64)
        return Values.of(series)


def _marked(rows: Ints, num_items: int) -> BoolArray:
    mask = np.zeros(num_items, bool)
    mask[rows[rows >= 0]] = True
    return mask


def _wanted(asked: Comparison, column: npt.NDArray[np.generic]) -> float | bool:
    """The value as what the column holds."""
    if column.dtype == bool:
        value = asked.value.lower()
        if value not in _TRUE | _FALSE or asked.operator != EQUALS:
            raise RequestError(
                "filter", f"column {asked.column!r} is true or false, but the filter asks {str(asked)!r}"
            )
        return value in _TRUE
    number = _number(asked.value)
    if np.isnan(number) and asked.column == PUBLISHED_AT:
        number = _moment(asked.value)
    if not np.isfinite(number):
        raise RequestError("filter", f"column {asked.column!r} holds numbers, but the filter asks for {asked.value!r}")
    return number


def _number(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        return np.nan


def _moment(value: str) -> float:
    """Unix seconds of an ISO 8601 day or time, UTC where it names no zone."""
    try:
        moment = datetime.datetime.fromisoformat(value)
    except ValueError:
        return np.nan
    return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()
