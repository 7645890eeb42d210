"""Items that are new, changed or gone since training: a model and changes in, another model out.

Nothing is fitted. A new item gets a row behind the others in every component: its text's embedding, the factors that
its text predicts, no behaviour. A changed one keeps its behaviour. One that is gone keeps its row, so that histories
that name it still say what they said, and is not available.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from features.attributes import AttributeValues
from features.categories import first_categories
from features.grid import on_grid
from features.numpy_encoder import ServingEncoder
from features.pair import PairValues
from features.room import Room
from features.row_changes import RowChanges
from features.tables import AVAILABLE, ITEM_ID, Catalogue, IdIndex
from recsys.item_documents import Document, ItemColumns
from recsys.model import FittedModel, RepeatModel

F32 = npt.NDArray[np.float32]
_MOST_CHUNKS = 64
"""Pieces that a column of strings may be in before it is put together."""
_SMALL_CHUNK = 1000
"""Rows of a piece that is cheap to copy."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ItemChange:
    """What became of an item: its new document, or None where it was deleted."""

    item_id: str
    document: Document | None


class ItemEditor:
    """Makes models with changed items out of `base`, a model as it was loaded, and of models made here before.

    `encoder` reads texts as the model's own did; without one (`why_no_text` says why, "" for a model without text) an
    item is as if it had none. For one thread at a time; the models are immutable and may be used by others meanwhile.
    """

    def __init__(self, base: FittedModel, encoder: ServingEncoder | None, why_no_text: str = "") -> None:
        self.why_no_text = why_no_text
        self._base = base
        self._encoder = encoder
        self._room = Room()

    @property
    def encoder(self) -> ServingEncoder | None:
        """What reads texts, as the model's own were read."""
        return self._encoder

    @cached_property
    def columns(self) -> ItemColumns:
        """What an item may say of itself."""
        return ItemColumns.of(self._base.catalogue)

    def prepare(self) -> None:
        """Look through the catalogue now, for what the first change would else have to wait for: a second at 100,000
        items.
        """
        _ = (self.columns, self._attributes, self._affinities)

    def with_items(self, model: FittedModel, changes: Sequence[ItemChange]) -> FittedModel:
        """`model` after the changes, of which the last of an item counts.

        What does not change costs nothing; otherwise at 100,000 items some 25 ms (as much again where several
        categories have prices), and what the encoder takes for each text that is new. `LivePopularity.following` takes
        over what live events say.
        """
        newest = {change.item_id: change for change in changes}
        rows = {item_id: self._row(model.catalogue, change) for item_id, change in newest.items()}
        wanted = {item_id: row for item_id, row in rows.items() if row is not None and _differs(model, row)}
        if not wanted:
            return model
        made = self._changes(model, wanted)
        return _followed(model, made, self._catalogue(model.catalogue, made))

    @cached_property
    def _attributes(self) -> AttributeValues:
        return AttributeValues.of(self._base.catalogue)

    @cached_property
    def _affinities(self) -> PairValues:
        return PairValues.of(self._base.catalogue, self._base.settings.features.pair.max_attributes)

    def _row(self, catalogue: Catalogue, change: ItemChange) -> dict[str, Any] | None:
        """The item's row as it is to be; None where an unknown item was deleted."""
        if change.document is not None:
            return self.columns.row(change.item_id, change.document)
        if change.item_id not in catalogue.items:
            return None
        return _row_of(catalogue, change.item_id) | {AVAILABLE: False}

    def _changes(self, model: FittedModel, wanted: Mapping[str, Mapping[str, Any]]) -> RowChanges:
        items = model.catalogue.items
        old = items.rows(list(wanted))
        order = np.argsort(np.where(old < 0, len(items), old), kind="stable")  # the new ones in the order of changes
        chosen = [list(wanted)[k] for k in order]
        new = [item_id for item_id in chosen if item_id not in items]
        rows = np.concatenate([old[order][old[order] >= 0], len(items) + np.arange(len(new))]).astype(np.int64)
        ids = np.concatenate([items.ids, np.array([*new, None], dtype=object)[:-1]])
        frame = self.columns.frame([wanted[item_id] for item_id in chosen], model.catalogue.frame)
        untouched = np.ones(len(rows), bool)
        untouched[rows < len(items)] = model.features.items.untouched[rows[rows < len(items)]]
        return RowChanges(
            rows, len(items), len(items) + len(new), ids, frame, self._embeddings(model, rows, chosen, frame),
            self._attributes.vectors(frame), self._affinities.matrix(frame), untouched, self._room,
        )  # fmt: skip

    def _embeddings(
        self, model: FittedModel, rows: npt.NDArray[np.int64], ids: Sequence[str], frame: pd.DataFrame
    ) -> F32:
        """Each row's embedding on the item grid; a text that was there before is not read again."""
        known = model.features.pairs.embeddings
        out = np.zeros((len(rows), known.shape[1]), np.float32)
        if not known.shape[1]:
            return out
        wanted = model.settings.encoder.text_columns
        texts = Catalogue(IdIndex(ids), frame).texts(wanted)
        old = np.flatnonzero(rows < len(known))
        same = old
        if len(old):
            frame = model.catalogue.frame
            cells = {name: pd.Series(_cells(frame[name], rows[old]), dtype=frame[name].dtype) for name in frame}
            before = Catalogue(IdIndex([ids[k] for k in old.tolist()]), pd.DataFrame(cells)).texts(wanted)
            same = old[[text == texts[k] for k, text in zip(old, before, strict=True)]]
            out[same] = known[rows[same]]
        other = np.setdiff1d(np.flatnonzero([text.strip() for text in texts]), same)
        if len(other):
            out[other] = self._encoded([texts[k] for k in other])
        return out

    def _encoded(self, texts: Sequence[str]) -> F32:
        if self._encoder is None:
            _log.warning("%d items are taken without their texts: %s", len(texts), self.why_no_text or "no encoder")
            return np.zeros((len(texts), self._base.features.pairs.embeddings.shape[1]), np.float32)
        return on_grid(self._encoder.encode(texts), items=True)

    def _catalogue(self, catalogue: Catalogue, made: RowChanges) -> Catalogue:
        items = catalogue.items.joined(made.ids[made.new].tolist()) if made.num_new else catalogue.items
        columns = {name: _with_rows(catalogue.frame[name], made, made.frame[name]) for name in catalogue.frame}
        return Catalogue(items, pd.DataFrame(columns), catalogue.attributes)


def _followed(model: FittedModel, made: RowChanges, catalogue: Catalogue) -> FittedModel:
    """Every component over the changed catalogue."""
    if model.repeats is not None or len(model.features.items.price_step):
        made = dataclasses.replace(made, categories=first_categories(catalogue))
    return dataclasses.replace(
        model,
        catalogue=catalogue,
        sources=tuple(source.with_rows(made) for source in model.sources),
        fallback=model.fallback.with_rows(made),
        features=model.features.with_rows(made),
        repeats=RepeatModel(model.repeats.source.with_rows(made), model.repeats.ranker) if model.repeats else None,
    )


def _row_of(catalogue: Catalogue, item_id: str) -> dict[str, Any]:
    row = catalogue.items.row(item_id)
    return {ITEM_ID: item_id} | {str(name): catalogue.frame[name].array[row] for name in catalogue.frame}


def _differs(model: FittedModel, row: Mapping[str, Any]) -> bool:
    if row[ITEM_ID] not in model.catalogue.items:
        return True
    before = _row_of(model.catalogue, row[ITEM_ID])
    return any(name in before and not _same(before[name], value) for name, value in row.items())


def _with_rows(column: pd.Series, made: RowChanges, values: pd.Series) -> pd.Series:
    """A column with the values of the changed rows, where any differs, and of the new ones behind."""
    old = made.rows[~made.new]
    before = _cells(column, old)
    differs = [not _same(a, b) for a, b in zip(before, values.tolist(), strict=False)]
    parts = [column]
    if any(differs):
        parts = _pieces(column, old[differs], values[: len(old)][differs])
    if made.num_new:
        parts.append(values[made.new])
    return parts[0] if len(parts) == 1 else _whole(pd.concat(parts, ignore_index=True))


def _pieces(column: pd.Series, rows: npt.NDArray[np.int64], values: pd.Series) -> list[pd.Series]:
    """The column cut at some rows, ascending, with other values in their place; strings are not copied."""
    if column.dtype != "str":
        changed = column.to_numpy(copy=True)
        for row, value in zip(rows.tolist(), values.tolist(), strict=True):
            changed[row] = value
        return [pd.Series(changed, dtype=column.dtype)]
    starts = [0, *(rows + 1).tolist()]
    pieces = [part for k, row in enumerate(rows.tolist()) for part in (column[starts[k] : row], values[k : k + 1])]
    return [part for part in (*pieces, column[starts[-1] :]) if len(part)]


def _cells(column: pd.Series, rows: npt.NDArray[np.int64]) -> list[Any]:
    """Some values, one by one: pandas would first look at all of a column of strings."""
    return [column.array[row] for row in rows.tolist()]


def _same(one: Any, other: Any) -> bool:
    return bool(one == other or (one != one and other != other))  # NaN is not itself


def _whole(column: pd.Series) -> pd.Series:
    """The same column; strings, of which every change makes more pieces, are put together now and then: the small
    pieces, as the large ones are memory that workers share, and all only where that does not help.
    """
    if column.dtype != "str":
        return column
    strings = pa.array(column)
    if not isinstance(strings, pa.ChunkedArray) or strings.num_chunks <= _MOST_CHUNKS:
        return column
    runs = [list(run) for _, run in groupby(strings.chunks, key=lambda chunk: len(chunk) > _SMALL_CHUNK)]
    pieces = [piece for run in runs for piece in (run if len(run[0]) > _SMALL_CHUNK else [pa.concat_arrays(run)])]
    if len(pieces) > _MOST_CHUNKS // 2:
        pieces = [pa.concat_arrays(strings.chunks)]
    return pd.Series(pa.chunked_array(pieces), dtype=column.dtype)
