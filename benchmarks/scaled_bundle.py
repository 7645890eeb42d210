"""A large bundle from a small one: `python benchmarks/scaled_bundle.py --items 100000 --events 1000000 --out FOLDER`.

Training on a million items would take a day and prove nothing about serving, so the trained bundle is scaled up: its
catalogue and its users are copied, and every copy of an item gets vectors of its own (the item's with noise),
neighbours in its own and in other copies, and counts of its own. What answering has to do (dense products, sparse sums,
candidates, features, trees) then costs what it costs in a catalogue of that size. Attribute values that items share are
shared between copies; one that a single item has is another one in each copy, so that the components and the catalogue
go on agreeing on which values there are.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse as sp

from features.attributes import own_values
from features.blended_encoder import load_encoder
from features.grid import on_grid
from features.interactions import EventSettings
from features.runs import ends
from features.tables import BRAND, CATEGORY, ITEM_ID, TITLE, Catalogue, Events, IdIndex
from recsys.bundle import ENCODER, load_bundle, save_bundle, version_folder
from recsys.errors import ShelftalkError
from recsys.model import FittedModel, StoredHistories
from recsys.retrieval.base import FitData
from recsys.retrieval.nearest import build_index
from recsys.retrieval.user_neighbours import UserNeighboursSettings, UserNeighboursSource

NOISE = 0.5
"""Length of the noise added to unit vectors: copies of an item are alike (cosine about .8), not the same."""
ELSEWHERE = 0.2
"""Share of an item's neighbours, and of a user's events, that are in another copy of the catalogue."""
_VECTORS = ("embeddings", "item_factors", "vectors")
_ROWS = ("new_rows", "untouched_rows")
_LISTS = (*_ROWS, "order", "value_attribute")


@dataclasses.dataclass(frozen=True)
class Scale:
    """How many copies of a catalogue of `num_items`, and the randomness of all of them."""

    num_items: int
    copies: int
    rng: np.random.Generator
    made: dict[int, npt.NDArray[Any]] = dataclasses.field(default_factory=dict)
    """What became of vectors, by the id of what they were: components that share them go on sharing them."""

    def rows(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """(copies * n, ...): an array by item, once for each copy."""
        return np.concatenate([values] * self.copies)

    def shift(self, own: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """What to add to the rows of items near those of the copies `own`."""
        other = self.rng.random(len(own)) < ELSEWHERE
        return np.where(other, self.rng.integers(0, self.copies, len(own)), own) * self.num_items


def trained(root: Path) -> FittedModel:
    """The promoted model, and the encoder of new items' texts, which `load_bundle` leaves out."""
    model, folder = load_bundle(root), version_folder(root) / ENCODER
    return dataclasses.replace(model, encoder=load_encoder(folder)) if folder.is_dir() else model


def scaled(model: FittedModel, num_items: int, num_events: int, per_source: int) -> FittedModel:
    """`model` over about `num_items` items and `num_events` stored events, giving `per_source` candidates a source."""
    scale = Scale(len(model.catalogue), max(1, round(num_items / len(model.catalogue))), np.random.default_rng(0))
    retrieval = model.settings.retrieval.model_copy(update={"per_source": per_source})
    histories, users = _histories(model, scale, max(1, round(num_events / len(model.histories.item_rows))))
    catalogue = _catalogue(model.catalogue, scale)
    return dataclasses.replace(
        model,
        catalogue=catalogue,
        users=users,
        histories=histories,
        sources=tuple(
            _user_neighbours(source, retrieval.user_neighbours, catalogue, histories, len(users))
            if isinstance(source, UserNeighboursSource)
            else _component(source, scale)
            for source in model.sources
        ),
        fallback=_component(model.fallback, scale),
        features=_component(model.features, scale),
        settings=model.settings.model_copy(update={"retrieval": retrieval}),
        repeats=None,
    )


def _user_neighbours(
    source: UserNeighboursSource,
    settings: UserNeighboursSettings,
    catalogue: Catalogue,
    histories: StoredHistories,
    num_users: int,
) -> UserNeighboursSource:
    """It goes by user and is cheap to fit: on the larger histories."""
    liked = histories.weights > 0
    users = np.repeat(np.arange(num_users, dtype=np.int32), np.diff(histories.indptr))[liked]
    items, times = histories.item_rows[liked], histories.times[liked]
    clock: Literal["timestamp", "sequence"] = "timestamp" if histories.has_clock else "sequence"
    ones, kinds = np.ones(len(users), np.float32), np.zeros(len(users), np.int16)
    events = Events(users, items, kinds, times, ones, ("event",), clock)
    fitted = UserNeighboursSource.fit(FitData(catalogue, events, num_users, EventSettings(), None, 0, 1), settings)
    changed = {name: getattr(source, name) for name in ("num_users", "half_life", "reach", "behind", "history_limit")}
    return dataclasses.replace(fitted, **changed)


def _component(component: Any, scale: Scale) -> Any:
    """A fitted dataclass with every field that goes by item scaled up."""
    changed = {}
    for field in dataclasses.fields(component):
        value = getattr(component, field.name)
        if dataclasses.is_dataclass(value):
            changed[field.name] = _component(value, scale)
        elif field.name in _LISTS:
            continue
        elif isinstance(value, np.ndarray) and value.ndim and len(value) == scale.num_items:
            changed[field.name] = _array(field.name, value, scale)
        elif isinstance(value, sp.csr_matrix) and value.shape[0] == scale.num_items:
            changed[field.name] = _matrix(value, scale)
    changed |= _lists(component, changed, scale)
    if hasattr(component, "index"):
        vectors = next(changed[name] for name in _VECTORS if name in changed)
        if hasattr(component, "indexed"):
            rows = changed["indexed"] = changed["new_rows"]
            changed["index"] = build_index(vectors[rows], 0)
        else:
            changed["index"] = build_index(vectors, 0)
    return dataclasses.replace(component, **changed)


def _array(name: str, values: npt.NDArray[Any], scale: Scale) -> npt.NDArray[Any]:
    """Vectors get noise, but for those of the first copy; counts and times are taken over."""
    if name not in _VECTORS or not values.shape[1]:
        return scale.rows(values)
    if id(values) not in scale.made:
        scale.made[id(values)] = _moved(values, scale)
    return scale.made[id(values)]


def _moved(values: npt.NDArray[Any], scale: Scale) -> npt.NDArray[Any]:
    out = scale.rows(values)
    for start in range(scale.num_items, len(out), scale.num_items):  # a copy at a time: a million rows take gigabytes
        part = out[start : start + scale.num_items]
        lengths = np.linalg.norm(part, axis=1, keepdims=True)
        noise = scale.rng.standard_normal(part.shape, np.float32) * np.float32(NOISE / np.sqrt(part.shape[1]))
        moved = part + noise * lengths
        norms = np.linalg.norm(moved, axis=1, keepdims=True)
        part[:] = on_grid(moved * lengths / np.where(norms > 0, norms, 1), items=True)
    return out


def _matrix(matrix: sp.csr_matrix, scale: Scale) -> sp.csr_matrix:
    """Item by item: entries point into the own or another copy. Item by value: every copy has the item's values."""
    data, columns = scale.rows(matrix.data), scale.rows(matrix.indices).astype(np.int64)
    indptr = ends(scale.rows(np.diff(matrix.indptr)).astype(np.int64))
    width = matrix.shape[1]
    if matrix.shape[0] == matrix.shape[1]:
        columns = columns + scale.shift(np.repeat(np.arange(scale.copies), matrix.nnz))
        width *= scale.copies
    out = sp.csr_matrix((data, columns.astype(np.int32), indptr), shape=(len(indptr) - 1, width))
    out.sum_duplicates()
    return out


def _lists(component: Any, changed: dict[str, Any], scale: Scale) -> dict[str, Any]:
    """Lists of item rows: the same items of every copy; the popularity order of the scaled counts."""
    out: dict[str, Any] = {}
    for name in _ROWS:
        if hasattr(component, name):
            rows = getattr(component, name)
            out[name] = scale.rows(rows) + np.repeat(np.arange(scale.copies), len(rows)) * scale.num_items
    if hasattr(component, "order"):
        out["order"] = np.argsort(-changed["values"], kind="stable").astype(np.int64)
    return out


def _catalogue(catalogue: Catalogue, scale: Scale) -> Catalogue:
    ids = [
        item if not copy else f"{item}~{copy}" for copy in range(scale.copies) for item in catalogue.items.ids.tolist()
    ]
    frame = pd.concat([catalogue.frame] * scale.copies, ignore_index=True)
    numbers = np.repeat(np.arange(scale.copies), scale.num_items)
    frame[TITLE] = [title if not copy else f"{title} {copy}" for title, copy in zip(frame[TITLE], numbers, strict=True)]
    if ITEM_ID in frame:
        frame[ITEM_ID] = ids
    for name in (CATEGORY, BRAND, *catalogue.attributes):
        frame[name] = _values(catalogue.frame[name], scale)
    return Catalogue(IdIndex(ids), frame, catalogue.attributes)


def _values(column: pd.Series, scale: Scale) -> pd.Series:
    """A column for each copy; values that one item has alone are another one in each: where items share a value is what
    `AttributeValues` and `PairValues` look for in a catalogue.
    """
    counts = Counter(one for value in column for one in own_values(value))
    if not counts:
        return pd.concat([column] * scale.copies, ignore_index=True)

    def copied(value: object, copy: int) -> object:
        own = tuple(f"{one}~{copy}" if counts[one] == 1 else one for one in own_values(value))
        return own if isinstance(value, tuple) else own[0] if own else value

    cells = [copied(value, copy) if copy else value for copy in range(scale.copies) for value in column]
    return pd.Series(cells, dtype=column.dtype)


def _histories(model: FittedModel, scale: Scale, copies: int) -> tuple[StoredHistories, IdIndex]:
    """Every user `copies` times, each time with items of one copy of the catalogue, for the most part."""
    stored = model.histories
    lengths = np.tile(np.diff(stored.indptr), copies)
    home = np.repeat(np.arange(copies) % scale.copies, len(stored.item_rows))
    rows = (np.tile(stored.item_rows, copies) + scale.shift(home)).astype(np.int32)
    users = [user if not copy else f"{user}~{copy}" for copy in range(copies) for user in model.users.ids.tolist()]
    times, weights = np.tile(stored.times, copies), np.tile(stored.weights, copies)
    return StoredHistories(ends(lengths), rows, times, weights, stored.has_clock), IdIndex(users)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("bundles"), help="the trained bundle (default: bundles)")
    parser.add_argument("--out", type=Path, required=True, help="folder of model versions that gets the large one")
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--per-source", type=int, default=28, help="candidates of each source (200-300 in all)")
    arguments = parser.parse_args()
    try:
        model = scaled(trained(arguments.bundle), arguments.items, arguments.events, arguments.per_source)
        version = save_bundle(model, arguments.out)
    except ShelftalkError as error:
        sys.exit(f"scaled_bundle: {error}")
    events = len(model.histories.item_rows)
    print(f"{arguments.out}/{version}: {len(model.catalogue):,} items, {len(model.users):,} users, {events:,} events")


if __name__ == "__main__":
    main()
