"""Choosing a source's settings from the values it offers, by its own lists on a label window."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from features.settings import Settings
from features.tables import IntArray
from recsys.retrieval.base import CandidateSource, FitData
from recsys.scoring import CHUNK, mean_ndcg
from recsys.windows import LabelWindow

logger = logging.getLogger(__name__)
MAX_LISTS = 2000
"""Lists that a choice is made on."""
MAX_ITEMS = 4000
"""Items of a dense model while choosing; the chosen values are then used at full size."""
_HALF_LIFE = "half_life"


@dataclass(frozen=True)
class Choice:
    """A source's settings with one value each, its NDCG@10 on those lists of the window that choose, and the source
    fitted with them on what was known before it; None of both where the catalogue lacks what the source works on, or
    no list chooses.
    """

    settings: Settings
    chosen: dict[str, Any]
    ndcg: float | None
    source: CandidateSource | None

    def report(self) -> dict[str, Any]:
        """JSON-able."""
        return {"settings": self.chosen, "window_ndcg@10": None if self.ndcg is None else round(self.ndcg, 5)}


def options(settings: Settings) -> dict[str, tuple[Any, ...]]:
    """The settings that hold several values to choose from."""
    return {name: value for name, value in settings if isinstance(value, tuple)}


def first_choice(settings: Settings) -> Settings:
    """The first value of each option."""
    return settings.model_copy(update={name: values[:1] for name, values in options(settings).items()})


def choose_settings(kind: type[Any], settings: Settings, data: FitData, window: LabelWindow, rows: IntArray) -> Choice:
    """Fit `kind` with every combination (a half-life needs no fit of its own) and keep the best on the lists `rows`
    (n,) of `window`.
    """
    if not len(rows):
        return Choice(first_choice(settings), {}, None, None)
    best: tuple[float, dict[str, tuple[Any, ...]], CandidateSource] | None = None
    for variant in _scored_variants(kind, settings, data, window, rows):
        if best is None or variant[0] > best[0]:
            best = variant
    if best is None:
        return Choice(first_choice(settings), {}, None, None)
    ndcg, update, source = best
    chosen = {name: values[0] for name, values in update.items()}
    logger.info("source %s: NDCG@10 %.4f alone%s", kind.name, ndcg, f" with {chosen}" if chosen else "")
    return Choice(settings.model_copy(update=update), chosen, ndcg, None if _bound(settings) else source)


def _scored_variants(
    kind: type[Any], settings: Settings, data: FitData, window: LabelWindow, rows: IntArray
) -> Iterator[tuple[float, dict[str, tuple[Any, ...]], CandidateSource]]:
    offered = options(settings)
    half_lives = offered.pop(_HALF_LIFE, None)
    bounded = _bound(settings)
    for values in itertools.product(*offered.values()):
        update: dict[str, tuple[Any, ...]] = {name: (value,) for name, value in zip(offered, values, strict=True)}
        source = kind.fit(data, first_choice(settings.model_copy(update=update | bounded)))
        if source is None:
            return
        if half_lives is None:
            yield source_ndcg(source, window, rows), update, source
        for half_life in half_lives or ():
            varied = dataclasses.replace(source, half_life=half_life)
            yield source_ndcg(varied, window, rows), update | {_HALF_LIFE: (half_life,)}, varied


def _bound(settings: Settings) -> dict[str, int]:
    """The settings that are smaller while choosing; empty where none is."""
    size = getattr(settings, "max_items", None)
    return {"max_items": MAX_ITEMS} if size is not None and size > MAX_ITEMS else {}


def source_ndcg(source: CandidateSource, window: LabelWindow, rows: IntArray, limit: int = MAX_LISTS) -> float:
    """Mean NDCG@10 of the source's own lists for up to `limit` of the lists `rows` of the window, evenly spread."""
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, min(limit, len(rows))).astype(np.int64))]
    total = 0.0
    for start in range(0, len(chosen), CHUNK):
        asked = chosen[start : start + CHUNK]
        part = window.histories.at_rows(asked)
        top = source.scores(part)[""].top(10, part.seen)
        hits = window.labels(asked[top.query_rows], top.item_rows)
        total += mean_ndcg(top.query_rows, hits, window.num_labels[asked]) * len(asked)
    return total / len(chosen)
