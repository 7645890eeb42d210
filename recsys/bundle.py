"""A fitted model <-> a version folder of plain files: arrays, Parquet, JSON and LightGBM text, and no pickle."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from features.builder import FeatureBuilder
from features.reading import write_rejected
from features.state import KnownArrays, load_state, save_state
from features.tables import ITEM_ID, USER_ID, Catalogue, IdIndex, Rejected
from ranking.base import Ranker
from ranking.by_score import ByScoreRanker
from ranking.lambdamart import LambdaMartRanker
from recsys.errors import BundleError
from recsys.files import sha256_of
from recsys.manifest import plain, read_manifest, verify_files, write_manifest
from recsys.model import FittedModel, RepeatModel, StoredHistories
from recsys.retrieval.popularity import PopularitySource
from recsys.retrieval.repeat import RepeatSource
from recsys.retrieval.wiring import SOURCES
from recsys.settings import Settings
from recsys.versions import (
    BundleVersion,
    check_writable,
    compare,
    current_version,
    list_versions,
    new_version,
    promote,
    rollback,
    show,
    verify,
    version_folder,
)

__all__ = [
    "ENCODER",
    "BundleVersion",
    "check_writable",
    "compare",
    "current_version",
    "list_versions",
    "load_bundle",
    "promote",
    "rollback",
    "save_bundle",
    "show",
    "verify",
    "version_folder",
]

RANKERS: dict[str, Callable[[Path], Ranker]] = {
    LambdaMartRanker.kind: LambdaMartRanker.load,
    ByScoreRanker.kind: ByScoreRanker.load,
}
_ITEMS, _USERS = "items.parquet", "users.parquet"
_SOURCES, _FALLBACK, _FEATURES, _HISTORIES = "sources", "fallback", "features", "histories"
_RANKER, _REPEATS = "ranker", "repeats"
ENCODER = "encoder"
"""The folder of a version that holds the text encoder, where there is one."""
_log = logging.getLogger(__name__)


def save_bundle(
    # fmt: keep one a line
    model: FittedModel,
    root: Path,
    promote: bool = True,
    *,
    rejected: Rejected | None = None,
) -> str:
    """Write `model` as a new version and return its name; `rejected` goes beside the manifest.

    Whatever goes wrong (a full disk, Ctrl-C), no half of a version is left, and CURRENT is what it was.
    """
    with new_version(root) as draft:
        _write_parts(model, draft.folder)
        if rejected is not None:
            write_rejected(rejected, draft.folder / "rejected.csv")
        _share_identical(draft.folder)
        write_manifest(draft.folder, _facts(model, draft.version, rejected))
    if promote:
        _promote(root, draft.version)
    return draft.version


_promote = promote  # the parameter of `save_bundle` hides the function


def load_bundle(root: Path, version: str | None = None, verify: bool = True) -> FittedModel:
    """The model of a version (default CURRENT), arrays memory-mapped, without the encoder; `verify` checks all files.

    BundleError names the file that is damaged, or the product version that a newer format needs.
    """
    folder = version_folder(root, version)
    manifest = read_manifest(folder)
    if verify:
        verify_files(folder, manifest)
    try:
        return _read_parts(folder, manifest)
    except (KeyError, ValueError, TypeError, OSError, pa.ArrowException) as error:
        made_by = manifest.get("product_version")
        raise BundleError(f"bundle {folder.name}, made by shelftalk {made_by}, can't be read: {error!r}") from error


def _write_parts(model: FittedModel, folder: Path) -> None:
    pq.write_table(_items_table(model.catalogue), folder / _ITEMS)
    pq.write_table(pa.table({USER_ID: pa.array(model.users.ids.tolist(), pa.string())}), folder / _USERS)
    for source in model.sources:
        save_state(source, folder / _SOURCES / source.name)
    save_state(model.fallback, folder / _FALLBACK)
    save_state(model.features, folder / _FEATURES)
    save_state(model.histories, folder / _HISTORIES)
    model.ranker.save(folder / _RANKER)
    if model.repeats is not None:
        save_state(model.repeats.source, folder / _REPEATS / model.repeats.source.name)
        model.repeats.ranker.save(folder / _REPEATS / _RANKER)
    if model.encoder is not None:
        model.encoder.save(folder / ENCODER)


def _read_parts(folder: Path, manifest: Mapping[str, Any]) -> FittedModel:
    users = pq.read_table(folder / _USERS).column(USER_ID).to_pylist()
    known: KnownArrays = {}
    return FittedModel(
        catalogue=_read_items(folder / _ITEMS, manifest["catalogue"]),
        users=IdIndex(users),
        histories=load_state(StoredHistories, folder / _HISTORIES, known),
        sources=tuple(load_state(SOURCES[name], folder / _SOURCES / name, known) for name in manifest["sources"]),
        fallback=load_state(PopularitySource, folder / _FALLBACK, known),
        features=load_state(FeatureBuilder, folder / _FEATURES, known),
        ranker=RANKERS[manifest["ranker"]](folder / _RANKER),
        settings=_read_settings(manifest["settings"]),
        trained_until=manifest["data"]["trained_until"],
        kind_weights=manifest["data"]["kind_weights"],
        fingerprint=manifest["data"]["fingerprint"],
        report=manifest["report"],
        bundle_version=folder.name,
        repeats=_read_repeats(folder / _REPEATS, manifest.get("repeats_ranker")),
    )


def _read_repeats(folder: Path, ranker: str | None) -> RepeatModel | None:
    if ranker is None:
        return None
    return RepeatModel(load_state(RepeatSource, folder / RepeatSource.name), RANKERS[ranker](folder / _RANKER))


def _read_settings(values: Mapping[str, Any]) -> Settings:
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise ValueError(f"its settings are not this version's: {error}") from None


def _facts(model: FittedModel, version: str, rejected: Rejected | None) -> dict[str, Any]:
    classes = {part.name: _class_name(part) for part in model.sources} | {_RANKER: _class_name(model.ranker)}
    return {
        "version": version,
        "created_at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "sources": [source.name for source in model.sources],
        "ranker": model.ranker.kind,
        "repeats_ranker": model.repeats.ranker.kind if model.repeats else None,
        "classes": classes,
        "features": list(getattr(model.ranker, "names", ())),
        "seed": model.settings.seed,
        "settings": model.settings.model_dump(mode="json"),
        "data": _data_facts(model, rejected),
        "catalogue": _column_facts(model.catalogue),
        "report": plain(model.report),
    }


def _data_facts(model: FittedModel, rejected: Rejected | None) -> dict[str, Any]:
    times = model.histories.times
    has_times = model.histories.has_clock and len(times) > 0
    return {
        "fingerprint": model.fingerprint,
        "num_items": len(model.catalogue),
        "num_users": len(model.users),
        "num_events": len(times),
        "from": float(np.min(times)) if has_times else None,
        "until": float(np.max(times)) if has_times else None,
        "trained_until": model.trained_until,
        "kind_weights": dict(model.kind_weights),
        "rejected": {} if rejected is None else rejected.counts(),
    }


def _class_name(component: object) -> str:
    return f"{type(component).__module__}.{type(component).__qualname__}"


def _column_facts(catalogue: Catalogue) -> dict[str, Any]:
    frame = catalogue.frame
    columns = {name: {"kind": _kind(frame[name]), "dtype": str(frame[name].dtype)} for name in frame.columns}
    return {"columns": columns, "attributes": list(catalogue.attributes)}


def _kind(values: pd.Series) -> str:
    """What a column holds: "number", "flag", "list" (tuples of strings) or "text"."""
    if pd.api.types.is_bool_dtype(values.dtype):
        return "flag"
    if pd.api.types.is_numeric_dtype(values.dtype):
        return "number"
    return "list" if any(isinstance(value, tuple) for value in values) else "text"


_ARROW_TYPES = {"flag": pa.bool_(), "number": None, "list": pa.list_(pa.string()), "text": pa.string()}


def _items_table(catalogue: Catalogue) -> pa.Table:
    """The catalogue's ids, then its other columns."""
    columns = {ITEM_ID: pa.array(catalogue.items.ids.tolist(), pa.string())}
    for name in catalogue.frame.columns.drop(ITEM_ID, errors="ignore"):
        values = catalogue.frame[name]
        kind = _kind(values)
        source = values.to_numpy() if kind in ("flag", "number") else values.tolist()
        columns[name] = pa.array(source, _ARROW_TYPES[kind])
    return pa.table(columns)


def _read_items(path: Path, facts: Mapping[str, Any]) -> Catalogue:
    table = pq.read_table(path)
    frame = pd.DataFrame({name: _read_column(table.column(name), how) for name, how in facts["columns"].items()})
    return Catalogue(IdIndex(table.column(ITEM_ID).to_pylist()), frame, tuple(facts["attributes"]))


def _read_column(column: pa.ChunkedArray, how: Mapping[str, str]) -> pd.Series:
    if how["kind"] in ("flag", "number"):
        return pd.Series(column.to_numpy(), dtype=how["dtype"])
    values = column.to_pylist()
    if how["kind"] == "list":
        values = [None if value is None else tuple(value) for value in values]
    return pd.Series(values, dtype=how["dtype"])


def _share_identical(folder: Path) -> None:
    """Give files of one content (embeddings that several components hold) one place on the disk and in memory."""
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        by_size[path.stat().st_size].append(path)
    for paths in by_size.values():
        if len(paths) > 1:
            _link_equal(paths)


def _link_equal(paths: list[Path]) -> None:
    first: dict[str, Path] = {}
    for path in paths:
        original = first.setdefault(sha256_of(path), path)
        if original is path:
            continue
        link = path.with_name(f"{path.name}.link")
        try:
            os.link(original, link)
        except OSError as error:  # some file systems have no hard links; a copy is as good, only larger
            _log.info("%s stays a copy of %s: %s", path, original, error)
            continue
        link.replace(path)
