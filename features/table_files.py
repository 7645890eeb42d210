"""Table files: finds a table in a folder and reads it as it is, Parquet, CSV or JSON Lines, gzipped or not.

What a cell means is decided elsewhere (`cells`, `reading`). Here a file becomes columns, and lines that are no rows
(too many fields, broken quotes, no JSON) become rejected lines instead of an exception or a gap.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from features.cells import text_of
from features.csv_lines import BadLine, BadLines, records
from features.errors import DataError
from features.tables import IntArray

SUFFIXES = (".parquet", ".csv", ".csv.gz", ".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")
_FIRST_LINE = re.compile(r"[\r\n]*([^\r\n]*)[\r\n]*")
_BATCH = 4_000  # rows held as Python objects at a time: with many more, most of the time goes to garbage collection
_BLOCK_BYTES = 1 << 24
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")

Choose = Callable[[Sequence[str]], list[str]]
"""From the column names of a file, those to read."""


@dataclass(frozen=True)
class TableFile:
    """One file's rows. `columns` holds n rows, CSV and JSON Lines as strings ("" = nothing there), Parquet with its own
    types; `lines` (n,) int64 is each row's number in the file; `num_rows` also counts the lines in `bad`.
    """

    path: Path
    columns: pa.Table
    lines: IntArray
    num_rows: int
    raw: bytes = field(repr=False)
    names: tuple[str, ...] = ()
    """All columns that the file has, also those that were not read."""
    bad: tuple[BadLine, ...] = ()

    def column(self, name: str) -> pa.ChunkedArray:
        """The named column, or one of empty strings where the file has none."""
        if name in self.columns.column_names:
            return self.columns[name]
        return pa.chunked_array([pa.repeat(pa.scalar("", pa.string()), len(self.lines))])


def find_table(folder: Path, stems: Sequence[str]) -> Path:
    """The one file in `folder` that is named as one of `stems`; a DataError where there is none, or more than one."""
    found = [p for stem in stems for suffix in SUFFIXES if (p := folder / f"{stem}{suffix}").exists()]
    if len(found) > 1:
        names = " and ".join(p.name for p in found)
        raise DataError(f"{folder} holds the {stems[0]} table more than once: {names}. Keep one of them.")
    if not found:
        there = ", ".join(sorted(p.name for p in folder.iterdir())[:10]) or "nothing"
        names = " or ".join(stems)
        raise DataError(
            f"{folder} has no {stems[0]} table: expected {names} with {', '.join(SUFFIXES)}; found {there}."
        )
    return found[0]


def read_table(path: Path, choose: Choose) -> TableFile:
    """The chosen columns of the file; a DataError where it can't be read at all."""
    raw = _file_bytes(path)
    if path.suffix == ".parquet":
        return _read_parquet(path, raw, choose)
    content = _unzipped(path, raw)
    text = _decoded(path, content)
    if ".csv" in path.suffixes:
        return _read_csv(path, raw, text, choose)
    return _read_json_lines(path, raw, text, choose)


def _file_bytes(path: Path) -> bytes:
    if path.is_dir():
        raise DataError(f"{path} is a folder, but one file is expected. Merge its parts into one {path.suffix} file.")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path} can't be read: {error.strerror or error}. Check the file and its permissions."
        ) from error
    if not raw:
        raise DataError(f"{path} is empty (0 bytes): not even a header is there. Write the file again.")
    return raw


def _unzipped(path: Path, raw: bytes) -> bytes:
    if path.suffix != ".gz":
        return raw
    try:
        return gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is no whole gzip file: {error}. Compress or copy it again.") from error


def _decoded(path: Path, content: bytes) -> str:
    """The text without its byte order mark; bytes that are no UTF-8 become U+FFFD."""
    if content.startswith(_UTF16_MARKS):
        raise DataError(f"{path} is UTF-16, but UTF-8 is expected. Save it as UTF-8.")
    text = content.decode("utf-8-sig", errors="replace")
    if not text or text.isspace():
        raise DataError(f"{path} is empty: it holds blank lines only. Write the file again.")
    return text


def _read_parquet(path: Path, raw: bytes, choose: Choose) -> TableFile:
    try:
        file = pa.parquet.ParquetFile(pa.BufferReader(raw))
        names = [n for n in file.schema_arrow.names if not n.startswith("__index_level_")]
        columns = file.read(columns=_chosen(path, names, choose))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is no readable Parquet file: {error}. Write or copy it again.") from error
    columns = columns.rename_columns([n.strip() for n in columns.column_names])
    return TableFile(path, columns, np.arange(1, columns.num_rows + 1), columns.num_rows, raw, tuple(names))


def _chosen(path: Path, names: Sequence[str], choose: Choose) -> list[str]:
    """The names to read, in file order. A column without a name (an index that pandas wrote) is nobody's."""
    stripped = [n.strip() for n in names]
    wanted = set(choose([n for n in stripped if n]))
    twice = sorted({n for n in wanted if stripped.count(n) > 1})
    if twice:
        raise DataError(f"{path} has more than one column {twice[0]!r}. Rename or remove one of them.")
    return [name for name, plain in zip(names, stripped, strict=True) if plain in wanted]


# ------------------------------------------------------------------------------------------------------------------ CSV


def _read_csv(path: Path, raw: bytes, text: str, choose: Choose) -> TableFile:
    if '"' not in text:
        first = _FIRST_LINE.match(text)
        header = first[1].split(",") if first else []
        columns = _plain_csv(text[first.end() if first else 0 :], header, _chosen(path, header, choose))
        if columns is not None:
            return TableFile(path, columns, np.arange(1, columns.num_rows + 1), columns.num_rows, raw, tuple(header))
    return _careful_csv(path, raw, text, choose)


def _plain_csv(body: str, header: list[str], chosen: list[str]) -> pa.Table | None:
    """The columns of a file without any quote; None where a row has another number of fields than the header.

    Only for files without quotes: there every parser agrees, and Arrow is quicker than one that keeps track of lines.
    """
    names = [name.strip() for name in chosen]
    if not body:
        return pa.table([pa.array([], pa.string()) for _ in names], names=names)
    wanted = [str(header.index(name)) for name in chosen]
    read = pa.csv.ReadOptions(column_names=[str(place) for place in range(len(header))], block_size=_BLOCK_BYTES)
    convert = pa.csv.ConvertOptions(
        include_columns=wanted, column_types=dict.fromkeys(wanted, pa.string()), strings_can_be_null=False
    )
    try:
        table = pa.csv.read_csv(
            pa.BufferReader(body.encode("utf-8")), read, pa.csv.ParseOptions(quote_char=False), convert
        )
    except pa.ArrowInvalid:
        return None
    return table.rename_columns(names)


def _careful_csv(path: Path, raw: bytes, text: str, choose: Choose) -> TableFile:
    """Row by row: short rows are filled up with empty fields and noted, rows with too many fields are rejected."""
    rows = records(text)
    header = next(rows, (None, []))[0]
    if header is None:
        raise DataError(f"{path}: its first line is no CSV header. Write the column names there, separated by commas.")
    chosen = _chosen(path, header, choose)
    columns, bad = _Columns(chosen), BadLines()
    places = [header.index(name) for name in chosen]
    num_rows = 0
    while batch := list(islice(rows, _BATCH)):
        kept: list[list[str]] = []
        for number, (record, problems) in enumerate(batch, start=num_rows + 1):
            sound = not problems and record is not None and len(record) == len(header)
            fields = record if sound else bad.judge(number, record, problems, len(header))
            if fields is not None:
                columns.lines.append(number)
                kept.append(fields)
        num_rows += len(batch)
        by_place = list(zip(*kept, strict=True)) if kept else [()] * len(header)
        columns.extend([list(by_place[place]) for place in places])
    return TableFile(path, columns.table(), columns.row_numbers(), num_rows, raw, tuple(header), tuple(bad))


class _Columns:
    """String columns that grow batch by batch: Arrow holds a string in far less room than Python does."""

    def __init__(self, names: Sequence[str]) -> None:
        self.lines: list[int] = []
        self._chunks: dict[str, list[pa.Array]] = {name: [] for name in names}
        self._length = 0

    def extend(self, values: Sequence[list[str]]) -> None:
        """One list of strings a column, all of one length."""
        for chunks, column in zip(self._chunks.values(), values, strict=True):
            chunks.append(_string_array(column))
        self._length += len(values[0]) if values else 0

    def add_names(self, names: Sequence[str]) -> None:
        """Columns that may be new: those are empty in all rows so far."""
        for name in names:
            self._chunks.setdefault(name, [_string_array([""] * self._length)])

    @property
    def names(self) -> list[str]:
        return list(self._chunks)

    def table(self) -> pa.Table:
        return pa.table({name.strip(): pa.chunked_array(chunks, pa.string()) for name, chunks in self._chunks.items()})

    def row_numbers(self) -> IntArray:
        return np.array(self.lines, np.int64)


def _string_array(values: list[str]) -> pa.Array:
    try:
        return pa.array(values, pa.string())
    except UnicodeEncodeError:
        # JSON can spell half a character ("\ud800"), which no file can hold: it becomes U+FFFD like any broken byte.
        whole = [v.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for v in values]
        return pa.array(whole, pa.string())


# ----------------------------------------------------------------------------------------------------------- JSON Lines


def _read_json_lines(path: Path, raw: bytes, text: str, choose: Choose) -> TableFile:
    columns = _Columns([])
    names: dict[str, None] = {}
    bad: list[BadLine] = []
    num_rows = 0
    source = (line for line in io.StringIO(text) if not line.isspace())
    while batch := list(islice(source, _BATCH)):
        rows: list[dict[str, Any]] = []
        for number, line in enumerate(batch, start=num_rows + 1):
            row = _json_object(line)
            if row is None:
                bad.append(BadLine(number, "no JSON object", line[:200].strip()))
            else:
                columns.lines.append(number)
                rows.append(row)
        num_rows += len(batch)
        for keys in dict.fromkeys(map(tuple, rows)):
            names |= dict.fromkeys(keys)
        columns.add_names(_chosen(path, list(names), choose))
        columns.extend([[text_of(row.get(name)) for row in rows] for name in columns.names])
    return TableFile(path, columns.table(), columns.row_numbers(), num_rows, raw, tuple(names), tuple(bad))


def _json_object(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None
