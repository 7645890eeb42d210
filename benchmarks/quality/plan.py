"""What is to be run: the tasks of sets.toml, the data sets that are here, and the seeds."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ITEMS, _EVENTS = ("items",), ("events", "interactions")
_SUFFIXES = (".parquet", ".csv", ".csv.gz", ".jsonl", ".jsonl.gz")


@dataclass(frozen=True)
class QualityTask:
    """One line of the table: a data set (the name of its folder), a task of `recsys evaluate`, and what to reach."""

    name: str
    folder: str
    task: str | None = None
    events: str | None = None
    best_peer: float | None = None
    must: float | None = None
    aim: float | None = None


@dataclass(frozen=True)
class Plan:
    """`experiments` are flags of `recsys evaluate` without their dashes, given with the first of the `seeds` alone."""

    tasks: tuple[QualityTask, ...]
    seeds: tuple[int, ...]
    experiments: tuple[str, ...]


def read_plan(path: Path) -> Plan:
    """The plan in a TOML file; ValueError names what it does not know or lacks."""
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    tasks = tuple(_task(path, values) for values in content.pop("task", []))
    plan = Plan(tasks, tuple(content.pop("seeds", (0,))), tuple(content.pop("experiments", ())))
    if content:
        raise ValueError(f"{path}: unknown {', '.join(content)}; allowed are seeds, experiments and [[task]]")
    return plan


def _task(path: Path, values: Mapping[str, Any]) -> QualityTask:
    allowed = [field.name for field in dataclasses.fields(QualityTask)]
    unknown = [name for name in values if name not in allowed]
    missing = [name for name in ("name", "folder") if name not in values]
    if unknown or missing:
        problem = f"unknown {', '.join(unknown)}" if unknown else f"{', '.join(missing)} is missing"
        raise ValueError(f"{path}, [[task]] {values.get('name', '?')}: {problem}; allowed are {', '.join(allowed)}")
    return QualityTask(**values)


def find_data(roots: Iterable[Path]) -> dict[str, Path]:
    """Folder name -> data set, of the roots themselves and the folders in them; of equal names the first is taken.
    FileNotFoundError names a root that is not there.
    """
    found: dict[str, Path] = {}
    for root in roots:
        if not root.is_dir():
            raise FileNotFoundError(f"{root} is no folder; QUALITY_DATA and --data name folders of data sets")
        for folder in [root, *sorted(path for path in root.iterdir() if path.is_dir())]:
            if tables(folder):
                found.setdefault(folder.name, folder)
    return found


def tables(folder: Path) -> list[Path]:
    """The files of the tables items and events in a folder; empty unless both are there."""
    parts = [
        [path for stem in stems for suffix in _SUFFIXES if (path := folder / f"{stem}{suffix}").is_file()]
        for stems in (_ITEMS, _EVENTS)
    ]
    return [path for part in parts for path in part] if all(parts) else []


def with_found(tasks: Sequence[QualityTask], data: Iterable[str]) -> tuple[QualityTask, ...]:
    """The tasks, and one with the default settings for each data set that none of them names."""
    named = {task.folder for task in tasks}
    return (*tasks, *(QualityTask(folder, folder) for folder in sorted(data) if folder not in named))
