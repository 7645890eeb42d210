"""Runs of equal values in sorted arrays: the flat form of "a list for each history"."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from features.tables import IntArray


def run_starts(rows: IntArray) -> npt.NDArray[np.int64]:
    """Where each run of equal values (all >= 0) begins."""
    return np.flatnonzero(np.diff(rows, prepend=-1))


def run_lengths(rows: IntArray) -> npt.NDArray[np.int64]:
    """How long each run is."""
    return np.diff(np.append(run_starts(rows), len(rows)))


def rank_in_run(rows: IntArray) -> npt.NDArray[np.int64]:
    """0, 1, 2, ... within each run, (len(rows),)."""
    return np.arange(len(rows)) - np.repeat(run_starts(rows), run_lengths(rows))


def runs(rows: IntArray) -> Iterator[tuple[int, slice]]:
    """Each run's value and where it stands."""
    starts = run_starts(rows)
    for start, stop in zip(starts, starts + run_lengths(rows), strict=True):
        yield int(rows[start]), slice(int(start), int(stop))
