"""The two tables every other module works on, and the ids that tie them together. Values only: `reading` makes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

if TYPE_CHECKING:
    from features.reading import DataSettings

ITEM_ID, TITLE, DESCRIPTION = "item_id", "title", "description"
CATEGORY, BRAND, PRICE, IMAGE_URL = "category", "brand", "price", "image_url"
PUBLISHED_AT, AVAILABLE = "published_at", "available"
USER_ID, EVENT, TIMESTAMP, SEQUENCE, VALUE = "user_id", "event", "timestamp", "sequence", "value"
EVENT_ID, SESSION_ID, REQUEST_ID, QUERY = "event_id", "session_id", "request_id", "query"

LIST_SEPARATOR = " | "
Clock = Literal["timestamp", "sequence"]
IntArray = npt.NDArray[np.integer]
FloatArray = npt.NDArray[np.floating]
BoolArray = npt.NDArray[np.bool_]
_ONE_BY_ONE = 8
"""Up to so many ids are looked up one by one: pandas takes a tenth of a millisecond to begin with."""


class IdIndex:
    """Ids (strings, unique) <-> rows (0..n-1). The one place where an outside id becomes a position."""

    def __init__(self, ids: Iterable[str]) -> None:
        self.ids: npt.NDArray[np.object_] = np.array(list(ids), dtype=object)
        self._index = pd.Index(self.ids, dtype=object)
        self._later: dict[str, int] = {}
        if not self._index.is_unique:
            twice = self._index[self._index.duplicated()][0]
            raise ValueError(f"ids must be unique, but {twice!r} occurs more than once")

    def joined(self, ids: Sequence[str]) -> IdIndex:
        """These ids and behind them `ids`, which are new; this index stays. A few cost little."""
        out = object.__new__(IdIndex)
        out.ids = np.concatenate([self.ids, np.array([*ids, None], dtype=object)[:-1]])
        out._index = self._index
        out._later = self._later | {new: len(self.ids) + k for k, new in enumerate(ids)}
        if "by_id" in self.__dict__:  # inserting is quicker than sorting again
            order = np.array(sorted(range(len(ids)), key=lambda k: ids[k]), np.int64)
            places = np.searchsorted(self.ids[self.by_id], out.ids[len(self.ids) + order])
            out.__dict__["by_id"] = np.insert(self.by_id, places, len(self.ids) + order)
        return out

    @cached_property
    def by_id(self) -> npt.NDArray[np.int64]:
        """The rows in order of their ids, (n,)."""
        return np.argsort(self.ids, kind="stable").astype(np.int64)

    @cached_property
    def places(self) -> npt.NDArray[np.int64]:
        """Each row's place in the order of the ids, (n,)."""
        out = np.empty(len(self), np.int64)
        out[self.by_id] = np.arange(len(self))
        return out

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, item_id: object) -> bool:
        return item_id in self._later or item_id in self._index

    def row(self, item_id: str) -> int:
        """The row of one id; KeyError where it is unknown."""
        later = self._later.get(item_id)
        return int(self._index.get_loc(item_id)) if later is None else later  # type: ignore[arg-type]

    def rows(self, ids: Sequence[str] | pd.Series | npt.NDArray[np.object_]) -> npt.NDArray[np.int64]:
        """The rows of many ids, (n,) int64; -1 where an id is unknown."""
        if len(ids) <= _ONE_BY_ONE:
            return np.array([self.row(one) if one in self else -1 for one in ids], np.int64)
        wanted = pd.Index(ids, dtype=object)
        rows = self._index.get_indexer(wanted).astype(np.int64)
        if self._later:
            for place in np.flatnonzero(rows < 0).tolist():
                rows[place] = self._later.get(wanted[place], -1)
        return rows


@dataclass(frozen=True)
class Catalogue:
    """The items. `frame` has one row an item, in `items` order, with every column named above plus the attributes.

    `category` and list attributes hold tuples of strings, `price`, `published_at` (unix seconds) and numeric attributes
    float64 with NaN for unknown, `available` bool, all others strings ("" for unknown).
    """

    items: IdIndex
    frame: pd.DataFrame
    attributes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.items)

    def texts(self, columns: Sequence[str]) -> list[str]:
        """Each item's text: the non-empty `columns` in that order, joined by `. `; "" for an item without any."""
        return [join_fields(fields) for fields in self.fields(columns)]

    def fields(self, columns: Sequence[str]) -> list[tuple[str, ...]]:
        """Each item's `columns` as text, in that order, without those that the catalogue lacks; "" where empty."""
        parts = [self._as_text(column) for column in columns if column in self.frame]
        return list(zip(*parts, strict=True)) if parts else [()] * len(self)

    def _as_text(self, column: str) -> list[str]:
        values = self.frame[column].tolist()
        return [", ".join(v) if isinstance(v, tuple) else ("" if v is None or v != v else str(v)) for v in values]


def join_fields(fields: Iterable[str]) -> str:
    """One text from its fields: the non-empty ones, joined by `. `."""
    return ". ".join(field for field in fields if field)


@dataclass(frozen=True)
class Events:
    """Who did what with which item, ordered by time (ties keep file order, which nobody may rely on).

    `user_rows`, `item_rows` int32, `kinds` int16 codes into `kind_names`, `times` float64 unix seconds or, where
    `clock` is "sequence", the user's own order, which can't be compared between users; `values` float32. `extra` holds
    the optional columns (event_id, session_id, request_id, query) that the file had.
    """

    user_rows: IntArray
    item_rows: IntArray
    kinds: IntArray
    times: FloatArray
    values: FloatArray
    kind_names: tuple[str, ...]
    clock: Clock
    extra: pd.DataFrame = field(default_factory=pd.DataFrame)

    def __len__(self) -> int:
        return len(self.times)

    @property
    def has_clock(self) -> bool:
        """Whether times are unix seconds, comparable between users."""
        return self.clock == "timestamp"

    def select(self, mask: BoolArray) -> Events:
        """The events where `mask` (n_events,) is true, in the same order."""
        extra = self.extra[mask].reset_index(drop=True) if len(self.extra) else self.extra
        return Events(
            self.user_rows[mask], self.item_rows[mask], self.kinds[mask], self.times[mask], self.values[mask],
            self.kind_names, self.clock, extra,
        )  # fmt: skip

    def before(self, time: float) -> Events:
        """What happened strictly before `time`."""
        return self.select(np.asarray(self.times < time))


@dataclass(frozen=True)
class Rejected:
    """Rows that could not be used, one line each: table, line (1 = first data row), reason, value."""

    frame: pd.DataFrame

    def __len__(self) -> int:
        return len(self.frame)

    def counts(self) -> dict[str, int]:
        """How many rows were rejected for each `table: reason`."""
        if not len(self.frame):
            return {}
        keys = self.frame["table"] + ": " + self.frame["reason"]
        return {str(k): int(v) for k, v in keys.value_counts().items()}


@dataclass(frozen=True)
class Dataset:
    """Catalogue, events and the users who made them; `read_dataset` in `features.reading` loads one from a folder."""

    catalogue: Catalogue
    events: Events
    users: IdIndex
    rejected: Rejected
    fingerprint: str = ""

    @classmethod
    def load(
        cls,
        folder: Path | str,
        settings: DataSettings | None = None,
        events: Sequence[str] | None = None,
        rejected_file: Path | None = None,
    ) -> Dataset:
        """The tables of a data folder: see `features.reading.read_dataset`."""
        from features.reading import read_dataset  # these are the values that `reading` makes, so it comes later

        return read_dataset(folder, settings, events, rejected_file)

    def with_events(self, events: Events) -> Dataset:
        """The same catalogue and users with other events (a split)."""
        return Dataset(self.catalogue, events, self.users, self.rejected, self.fingerprint)
