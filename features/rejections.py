"""Rejections: which rows of one table can't be used, and why; the first reason against a row is the one that counts."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pyarrow as pa

from features.cells import blank, contains_any, strings_series, texts
from features.csv_lines import ROW_KEPT, BadLine
from features.errors import DataError
from features.table_files import TableFile
from features.tables import BoolArray

COLUMNS = ("table", "line", "reason", "value")
_SHOWN_REASONS = 5
_LONGEST_VALUE = 200
_BROKEN_MARKS = ("\x00", "\ufffd")


class Rejections:
    """Collects what is wrong with the rows of one table; `usable` (n,) bool says which may be used so far."""

    def __init__(self, table: str, file: TableFile) -> None:
        self._table = table
        self._file = file
        self._parts = [_lines_frame(file.bad)] if file.bad else []
        self.usable: BoolArray = np.ones(len(file.lines), bool)

    def reject(self, mask: BoolArray, reason: str, values: pa.ChunkedArray) -> None:
        """Rows where `mask` (n,) is true, if not rejected yet, can't be used; `values` (n,) go with the reason."""
        chosen = np.flatnonzero(mask & self.usable)
        self._add(chosen, reason, values)
        self.usable[chosen] = False

    def note(self, mask: BoolArray, reason: str, values: pa.ChunkedArray) -> None:
        """As `reject`, but the row is used without that value, and doesn't count towards the limit."""
        self._add(np.flatnonzero(mask & self.usable), f"{reason} {ROW_KEPT}", values)

    def check_ids(self, ids: pa.ChunkedArray, name: str) -> None:
        """An id is any text but white space; one with a NUL or a broken character wouldn't match itself elsewhere."""
        self.reject(blank(ids), f"no {name}", ids)
        self.check_whole(ids, name)

    def check_whole(self, strings: pa.ChunkedArray, name: str) -> None:
        """A NUL is what no store can hold, a broken character what nobody meant."""
        self.reject(contains_any(strings, _BROKEN_MARKS), f"{name} holds a NUL or broken character", strings)

    def _add(self, chosen: np.ndarray[tuple[int], np.dtype[np.int64]], reason: str, values: pa.ChunkedArray) -> None:
        if not len(chosen):
            return
        shown = strings_series(texts(values.take(pa.array(chosen)))).str.slice(0, _LONGEST_VALUE)
        self._parts.append(pd.DataFrame({"line": self._file.lines[chosen], "reason": reason, "value": shown}))

    def frame(self) -> pd.DataFrame:
        """All of it, by line: table, line, reason, value."""
        if not self._parts:
            return _empty_frame()
        found = pd.concat(self._parts, ignore_index=True).sort_values("line", kind="stable", ignore_index=True)
        return found.assign(table=self._table)[list(COLUMNS)].astype(_empty_frame().dtypes.to_dict())

    def raise_if_more_than(self, share: float) -> None:
        """DataError with the commonest reasons where more than `share` of the table's rows can't be used."""
        frame = self.frame()
        frame = frame[~frame["reason"].str.endswith(ROW_KEPT)]
        total = self._file.num_rows
        if len(frame) <= share * total:
            return
        needed = math.ceil(100 * len(frame) / total) / 100
        raise DataError(
            f"{self._file.path}: {len(frame)} of {total} rows can't be used, more than the {share:.0%} allowed:\n"
            f"{_top_reasons(frame)}\nMend the file, or go on without these rows: --set data.max_rejected={needed:g}"
        )


def _top_reasons(frame: pd.DataFrame) -> str:
    lines = []
    for reason, count in frame["reason"].value_counts().head(_SHOWN_REASONS).items():
        first = frame[frame["reason"] == reason].iloc[0]
        lines.append(f"  {count} x {reason}, e.g. {first['value']!r} in row {first['line']}")
    return "\n".join(lines)


def _lines_frame(bad: tuple[BadLine, ...]) -> pd.DataFrame:
    return pd.DataFrame(
        {"line": [b.line for b in bad], "reason": [b.reason for b in bad], "value": [b.value for b in bad]}
    )


def _empty_frame() -> pd.DataFrame:
    kinds = {"table": "str", "line": "int64", "reason": "str", "value": "str"}
    return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in kinds.items()})
