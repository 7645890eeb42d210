"""Fitted dataclasses <-> plain files: arrays as .npy (memory-mapped on load), the rest as JSON. No pickle.

A fitted component is a frozen dataclass whose fields are arrays, CSR matrices, JSON values or such dataclasses
themselves; this module writes and reads any of them, so that no component needs saving code of its own.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import numpy as np
import scipy.sparse as sp

T = TypeVar("T")
_CSR_PARTS = ("data", "indices", "indptr")
KnownArrays = dict[tuple[int, int], np.ndarray[Any, Any]]
"""Arrays by device and number of their files."""


def save_state(component: Any, folder: Path) -> None:
    """Write the dataclass instance `component` into the new folder `folder`."""
    folder.mkdir(parents=True)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(component):
        value = getattr(component, field.name)
        if dataclasses.is_dataclass(value):
            save_state(value, folder / field.name)
        elif isinstance(value, np.ndarray):
            np.save(folder / f"{field.name}.npy", value, allow_pickle=False)
        elif isinstance(value, sp.csr_matrix):
            for part in _CSR_PARTS:
                np.save(folder / f"{field.name}.{part}.npy", getattr(value, part), allow_pickle=False)
            values[field.name] = {"csr_shape": list(value.shape)}
        else:
            values[field.name] = value
    (folder / "state.json").write_text(json.dumps(values, ensure_ascii=False, indent=1), encoding="utf-8")


def load_state(kind: type[T], folder: Path, known: KnownArrays | None = None) -> T:
    """Read what `save_state` wrote as an instance of `kind`; arrays stay on disk until they are touched. `known`,
    handed on from component to component, makes one array of what is one file, so that its rows are fetched once.
    """
    known = {} if known is None else known
    values = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    loaded: dict[str, Any] = {}
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        value = values.get(field.name)
        if dataclasses.is_dataclass(hints[field.name]):
            loaded[field.name] = load_state(hints[field.name], folder / field.name, known)
        elif isinstance(value, dict) and "csr_shape" in value:
            parts = tuple(_read_array(folder / f"{field.name}.{part}.npy", known) for part in _CSR_PARTS)
            loaded[field.name] = sp.csr_matrix(parts, shape=tuple(value["csr_shape"]), copy=False)
        elif field.name in values:
            loaded[field.name] = tuple(value) if isinstance(value, list) else value
        elif field.default_factory is not dataclasses.MISSING and not (folder / f"{field.name}.npy").exists():
            continue  # written before the field was there
        else:
            loaded[field.name] = _read_array(folder / f"{field.name}.npy", known)
    return kind(**loaded)


def _read_array(path: Path, known: KnownArrays) -> np.ndarray[Any, Any]:
    """A plain array over the mapped file: `np.memmap` itself makes every slice several times slower."""
    status = path.stat()
    file = status.st_dev, status.st_ino
    if file not in known:
        known[file] = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    return known[file]
