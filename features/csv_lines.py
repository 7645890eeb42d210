"""CSV lines: fields row by row, with a verdict on rows that break the rules: no row is lost to another's quote."""

from __future__ import annotations

import csv
import io
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

ROW_KEPT = "(row kept)"
"""Ends the reason of a note: something in the row was mended or left out, and the row itself is used."""


@dataclass(frozen=True)
class BadLine:
    """A row that needs a word: `line` counts data rows from 1. One whose reason ends in `ROW_KEPT` is used."""

    line: int
    reason: str
    value: str


class BadLines(list[BadLine]):
    """The rows of one CSV file that break its rules."""

    def judge(self, number: int, record: list[str] | None, problems: list[str], width: int) -> list[str] | None:
        """The row's `width` fields, or None where it can't be used; what is wrong with it is written down."""
        value = ",".join(record or [])[:200]
        if record is None:
            self.append(BadLine(number, "quote opened and not closed properly", problems[0][:200].strip()))
            return None
        if len(record) > width:
            self.append(BadLine(number, f"{len(record)} fields where the header has {width}", value))
            return None
        if problems:
            self.append(BadLine(number, f"stray quote {ROW_KEPT}", value))
        if len(record) < width:
            self.append(BadLine(number, f"{len(record)} fields where the header has {width} {ROW_KEPT}", value))
        return record + [""] * (width - len(record))


class _Lines:
    """The physical lines of a text; those of the record being read can be given back."""

    def __init__(self, text: str) -> None:
        self._source = io.StringIO(text, newline="")
        self._again: deque[str] = deque()
        self.taken: list[str] = []

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._source)
        self.taken.append(line)
        return line

    def give_back_after_first(self) -> None:
        """All lines taken but the first will be read again: an open quote must not swallow the rows below it."""
        self._again.extendleft(reversed(self.taken[1:]))


def records(text: str) -> Iterator[tuple[list[str] | None, list[str]]]:
    """(fields, the line with a quoting problem if any); fields are None where no row can be made of it."""
    lines = _Lines(text)
    reader = csv.reader(lines, strict=True)
    while True:
        lines.taken.clear()
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            first = lines.taken[0]
            closed = not str(error).startswith(("unexpected end", "field larger")) and len(lines.taken) == 1
            lines.give_back_after_first()
            yield (next(csv.reader([first])) if closed else None), [first]
        else:
            if record:
                yield record, []
