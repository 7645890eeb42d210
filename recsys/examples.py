"""Label windows -> ranking examples, from sources that know only what came before the window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from features.builder import FeatureBuilder, FeatureMatrix
from features.cycles import RepeatFeatures
from features.errors import SettingsError
from features.runs import rank_in_run
from features.settings import Settings as ComponentSettings
from features.tables import IntArray
from ranking.examples import RankingExamples
from recsys.model import history_sources
from recsys.retrieval.base import CandidateSource, FitData
from recsys.retrieval.repeat import RepeatSource
from recsys.retrieval.wiring import SOURCES
from recsys.scoring import CHUNK, candidates_with_features
from recsys.settings import Settings
from recsys.stages import StageMemory, fit_parts, reused
from recsys.windows import LabelWindow

BoolRows = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class FittedWindow:
    """`sources` and `features` fitted on `data`, which is what was known before a label window."""

    data: FitData
    sources: tuple[CandidateSource, ...]
    features: FeatureBuilder

    @classmethod
    def fit(
        cls,
        data: FitData,
        chosen: Mapping[str, ComponentSettings],
        settings: Settings,
        ready: Mapping[str, CandidateSource] | None = None,
        memory: StageMemory | None = None,
    ) -> Self:
        """The chosen sources and the features of lists that leave out the history; `ready`, `memory`: see
        `fit_sources`.
        """
        return cls(data, fit_sources(chosen, data, ready, memory), data.features(settings.features))

    def parts(
        self, settings: Settings, *, repeats: bool
    ) -> tuple[tuple[CandidateSource, ...], FeatureBuilder | RepeatFeatures]:
        """The sources and the features of lists that may (`repeats`) or may not hold items of the history."""
        if not repeats:
            return self.sources, self.features
        source = RepeatSource.fit(self.data, settings.retrieval.repeat)
        return (*self.sources, *history_sources(source)), RepeatFeatures(self.features, source.cycles)


def fit_sources(
    chosen: Mapping[str, ComponentSettings],
    data: FitData,
    ready: Mapping[str, CandidateSource] | None = None,
    memory: StageMemory | None = None,
) -> tuple[CandidateSource, ...]:
    """The chosen sources fitted on `data`, less the text sources of a catalogue without text. Those that are `ready`,
    fitted on the same data with the same settings, in this run, or are in `memory`, from an earlier one, are not
    fitted again.
    """
    known = ready or {}
    fitted = (known.get(name) or _fit_source(name, settings, data, memory) for name, settings in chosen.items())
    usable = tuple(source for source in fitted if source is not None)
    if not usable:
        raise SettingsError(f"sources: {', '.join(chosen)} work on texts, and this catalogue has none; add popularity")
    return usable


def _fit_source(
    name: str, settings: ComponentSettings, data: FitData, memory: StageMemory | None
) -> CandidateSource | None:
    source: CandidateSource | None = reused(
        memory, "fit", (settings, *fit_parts(name, data)), lambda: SOURCES[name].fit(data, settings)
    )
    return source


def held_out_users(windows: Sequence[LabelWindow], twins: Sequence[LabelWindow], share: float, seed: int) -> IntArray:
    """About `share` of the users of the windows, and of those who are in their `twins` with repeats alone, ascending.
    Their lists judge the rankers: no ranker that is judged, and no choice before it, is made of them.
    """
    rng, asked = np.random.default_rng(seed), _users(windows)
    parts = (asked, np.setdiff1d(_users(twins), asked))
    return np.sort(np.concatenate([part[rng.permutation(len(part)) < round(share * len(part))] for part in parts]))


def _users(windows: Sequence[LabelWindow]) -> IntArray:
    """Ascending."""
    return np.unique(np.concatenate([np.empty(0, np.int64), *(window.users for window in windows)]))


def window_examples(
    fitted: FittedWindow, window: LabelWindow, held_out: BoolRows, settings: Settings, number: int
) -> tuple[RankingExamples, RankingExamples]:
    """(training, held-out) examples of one window, from what was `fitted` on its known events. Lists in which no
    source found a label are left out; training lists keep a part of their negatives, held-out lists all.
    """
    check_no_leak(fitted.data, window)
    sources, features = fitted.parts(settings, repeats=window.repeats)
    rng = np.random.default_rng((settings.seed, number))
    parts: tuple[list[RankingExamples], list[RankingExamples]] = ([], [])
    for start in range(0, len(window), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(window)))
        histories = window.histories.at_rows(rows)
        blocked = histories.dismissed_items if window.repeats else histories.seen
        found, matrix = candidates_with_features(sources, features, histories, settings.retrieval.per_source, blocked)
        lists = found.pairs.query_rows
        labels = window.labels(rows[lists], found.pairs.item_rows)
        for out, part in zip((False, True), parts, strict=True):
            keep = held_out[rows][lists] == out
            keep &= np.bincount(lists, labels, len(rows))[lists] > 0
            if not out:
                keep &= _sampled(lists, labels, settings.examples.negatives_per_list, rng)
            part.append(_examples(matrix, labels, keep, window, rows))
    return RankingExamples.concatenate(parts[0]), RankingExamples.concatenate(parts[1])


def check_no_leak(data: FitData, window: LabelWindow) -> None:
    """ValueError where `data` holds an event that a label window may not know: one from its start on, a
    labelled pair (where labels may not be repeats), or one of a list's user from the list's moment on.
    """
    late = int((data.events.times >= window.as_of).sum()) if data.events.has_clock else 0
    if late:
        raise ValueError(
            f"{late} events that sources would be fitted on are not before the label window ({window.as_of})"
        )
    num_items = window.histories.num_items
    lists = np.repeat(np.arange(len(window)), window.num_labels)
    labelled = window.users[lists] * num_items + window.label_items
    known = data.events.user_rows.astype(np.int64) * num_items + data.events.item_rows
    leaked = 0 if window.repeats else int(np.isin(labelled, known).sum())
    if leaked:
        raise ValueError(f"{leaked} labelled (user, item) pairs are among the events that sources would be fitted on")
    newest = np.full(data.num_users, -np.inf)
    np.maximum.at(newest, data.events.user_rows, data.events.times)
    early = int((newest[window.users] >= window.times).sum())
    if early:
        raise ValueError(f"the events that sources would be fitted on reach the moments of {early} lists")


def _sampled(
    query_rows: npt.NDArray[np.int64], labels: npt.NDArray[np.float32], negatives: int, rng: np.random.Generator
) -> BoolRows:
    """(n_pairs,) bool: all positives, and `negatives` of the others of each list, drawn evenly: hard ones alone
    would teach the ranker that what no source ranks high is more often right than it is.
    """
    order = np.lexsort((rng.random(len(query_rows)), labels > 0, query_rows))
    keep = np.zeros(len(query_rows), bool)
    keep[order[rank_in_run(query_rows[order]) < negatives]] = True
    return keep | (labels > 0)


def _examples(
    matrix: FeatureMatrix,
    labels: npt.NDArray[np.float32],
    keep: BoolRows,
    window: LabelWindow,
    rows: npt.NDArray[np.int64],
) -> RankingExamples:
    lists, groups = np.unique(matrix.query_rows[keep], return_counts=True)
    features = FeatureMatrix(matrix.names, matrix.values[keep], np.repeat(np.arange(len(lists)), groups))
    chosen = rows[lists]
    return RankingExamples(
        features, labels[keep], groups.astype(np.int64), window.users[chosen], window.num_labels[chosen]
    )
