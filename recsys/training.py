"""train(): everything is fitted on honest time splits, then once more on all events."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from features.builder import FeatureBuilder
from features.encoder import TextEncoder
from features.finetune import finetune
from features.grid import on_grid
from features.interactions import acted_on, event_weights
from features.next_items import next_item_pairs
from features.settings import Settings as ComponentSettings
from features.tables import Dataset, Events
from ranking.base import Ranker
from ranking.by_score import ByScoreRanker
from ranking.examples import RankingExamples
from ranking.lambdamart import LambdaMartRanker
from recsys.choosing import Choice, choose_settings, first_choice
from recsys.examples import compare, fit_sources, held_out_lists, window_examples
from recsys.model import OTHER_KINDS, FittedModel, StoredHistories
from recsys.retrieval.base import FitData
from recsys.retrieval.popularity import PopularitySettings, PopularitySource
from recsys.retrieval.wiring import SOURCES
from recsys.settings import Settings
from recsys.stages import StageMemory, fit_parts, reused, settings_read
from recsys.threads import limit_threads
from recsys.windows import LabelWindow, label_windows

logger = logging.getLogger(__name__)
F32 = npt.NDArray[np.float32]
Made = TypeVar("Made")
MIN_FOUND = 10
"""Lists in which a source found a label, on either side of the split, that a ranker takes at least."""


@dataclass
class _Run:
    """One training run: its inputs, and the report it writes as it goes."""

    dataset: Dataset
    settings: Settings
    report: dict[str, Any] = field(default_factory=lambda: {"seconds": {}})
    memory: StageMemory | None = None
    on_held_out: Callable[[float], None] | None = None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Log a stage and count its seconds."""
        logger.info("%s ...", name)
        started = time.perf_counter()
        yield
        seconds = self.report["seconds"]
        seconds[name] = round(seconds.get(name, 0.0) + time.perf_counter() - started, 2)
        logger.info("%s: %.1f s", name, time.perf_counter() - started)

    def fit_data(self, events: Events, embeddings: F32 | None) -> FitData:
        """What sources may learn from when `events` are all that is known."""
        return FitData(
            self.dataset.catalogue, events, len(self.dataset.users), self.settings.events, embeddings,
            self.settings.seed, self.settings.threads,
        )  # fmt: skip

    def reused(self, stage: str, make: Callable[[], Made], *parts: object) -> Made:
        """What `make` returns and writes into the report: from memory where the settings that the stage may read, and
        `parts`, are as they were.
        """

        def made() -> tuple[Made, dict[str, Any]]:
            before = dict(self.report)
            value = make()
            return value, {key: facts for key, facts in self.report.items() if facts is not before.get(key)}

        key = (settings_read(stage, self.settings), *parts)
        value, facts = reused(self.memory, stage, key, made)
        self.report.update(facts)
        return value


def train(
    dataset: Dataset,
    settings: Settings | None = None,
    *,
    memory: StageMemory | None = None,
    on_held_out: Callable[[float], None] | None = None,
) -> FittedModel:
    """Fit encoder, sources, features and ranker on `dataset`; see `FittedModel`. Deterministic for one seed and
    thread count.

    `memory` spares what an earlier call on the same data set has worked out with equal settings; it changes no result.
    `on_held_out` is given the learned ranker's NDCG@10 on held-out users, before it is fitted on all of them; what it
    raises ends the training.
    """
    if memory:
        memory.check(dataset)
    run = _Run(dataset, settings or Settings(), memory=memory, on_held_out=on_held_out)
    with limit_threads(run.settings.threads):
        return _train(run)


def _train(run: _Run) -> FittedModel:
    settings = run.settings
    dataset = acted_on(run.dataset, settings.events)
    run = dataclasses.replace(run, dataset=dataset)
    events = dataset.events
    with run.stage("windows"):
        windows = run.reused("windows", lambda: _windows(run))
    known = windows[-1].known if windows else events
    encoder, embeddings = run.reused("text", lambda: _text(run, known), known)
    with run.stage("choose source settings"):
        chosen = _choose(run, windows, embeddings)
    ranker = _fit_ranker(run, windows, chosen, embeddings)
    with run.stage("refit sources on everything"):
        data = run.fit_data(events, embeddings)
        sources = fit_sources(chosen, data, run.memory)
        features = FeatureBuilder.fit(dataset.catalogue, events, data.weights, embeddings, settings.features)
        fallback = PopularitySource.fit(data, _popularity_settings(chosen, settings))
    return FittedModel(
        dataset.catalogue, dataset.users, _stored(dataset, data.weights), sources, fallback, features, ranker, settings,
        _end(events), _kind_weights(events, settings), encoder, dataset.fingerprint, run.report,
    )  # fmt: skip


def _windows(run: _Run) -> list[LabelWindow]:
    settings, num_items = run.settings, len(run.dataset.catalogue)
    return label_windows(run.dataset.events, num_items, settings.examples, settings.events, settings.seed)


def _popularity_settings(chosen: dict[str, ComponentSettings], settings: Settings) -> PopularitySettings:
    """As chosen, or the first values where popularity is not among the sources."""
    own = chosen.get(PopularitySource.name, first_choice(settings.retrieval.popularity))
    return PopularitySettings.model_validate(own.model_dump())


def _end(events: Events) -> float:
    return float(events.times.max()) if events.has_clock and len(events) else 0.0


def _text(run: _Run, known: Events) -> tuple[TextEncoder | None, F32 | None]:
    """The encoder, fine-tuned on what was known before the first label window, and the catalogue's embeddings."""
    settings = run.settings
    texts = run.dataset.catalogue.texts(settings.encoder.text_columns)
    if settings.encoder.model == "none" or not any(text.strip() for text in texts):
        run.report["encoder"] = {
            "kept": "none",
            "reason": "switched off" if any(texts) else "the catalogue has no text",
        }
        return None, None
    with run.stage("load encoder"):
        encoder = TextEncoder.from_settings(settings.encoder)
    if settings.finetune.enabled and len(known):
        with run.stage("fine-tune encoder"):
            pairs = next_item_pairs(known, event_weights(known, settings.events))
            result = finetune(encoder, texts, pairs, settings.finetune, settings.seed)
        encoder = result.encoder
        run.report["encoder"] = {
            f.name: getattr(result, f.name) for f in dataclasses.fields(result) if f.name != "encoder"
        }
    with run.stage("embed catalogue"):
        return encoder, on_grid(encoder.encode(texts), items=True)


def _choose(run: _Run, windows: Sequence[LabelWindow], embeddings: F32 | None) -> dict[str, ComponentSettings]:
    """Each source's settings, chosen on the oldest window, which fits the least data."""
    offered = {name: getattr(run.settings.retrieval, name) for name in run.settings.sources}
    if not windows:
        return {name: first_choice(settings) for name, settings in offered.items()}
    window = windows[-1]
    data = run.fit_data(window.known, embeddings)
    choices = {name: _choice(run, name, data, window) for name in offered}
    run.report["sources"] = {name: choice.report() for name, choice in choices.items()}
    return {name: choice.settings for name, choice in choices.items()}


def _choice(run: _Run, name: str, data: FitData, window: LabelWindow) -> Choice:
    settings = getattr(run.settings.retrieval, name)
    key = (name, settings, *fit_parts(data), settings_read("windows", run.settings))
    return reused(run.memory, "choice", key, lambda: choose_settings(SOURCES[name], settings, data, window))


def _fit_ranker(
    run: _Run, windows: Sequence[LabelWindow], chosen: dict[str, ComponentSettings], embeddings: F32 | None
) -> Ranker:
    """LambdaMART on the windows' examples, or the best source's order where that can't be learned or is no better."""
    settings = run.settings
    alone = {name: report["window_ndcg@10"] or 0.0 for name, report in run.report.get("sources", {}).items()}
    order = sorted(chosen, key=lambda name: -alone.get(name, 0.0))
    if settings.ranker == "by_score":
        return _by_score(run, order, "the settings say so")
    num_lists = sum(len(window) for window in windows)
    if num_lists < settings.examples.min_lists:
        few = f"only {num_lists} labelled lists, examples.min_lists is {settings.examples.min_lists}"
        return _by_score(run, order, few)
    with run.stage("make ranking examples"):
        train_part, test_part = run.reused("examples", lambda: _examples(run, windows, chosen, embeddings))
    if min(len(train_part), len(test_part)) < MIN_FOUND:
        return _by_score(run, order, "the sources find too few of the labelled items")
    with run.stage("fit ranker"):
        return _learned(run, train_part, test_part, order)


def _examples(
    run: _Run, windows: Sequence[LabelWindow], chosen: dict[str, ComponentSettings], embeddings: F32 | None
) -> tuple[RankingExamples, RankingExamples]:
    """(training, held-out) examples of all windows, each from sources fitted before it."""
    held_out = held_out_lists(windows, run.settings.lambdamart.share_held_out, run.settings.seed)
    parts = [
        window_examples(run.fit_data(w.known, embeddings), chosen, w, out, run.settings, number, run.memory)
        for number, (w, out) in enumerate(zip(windows, held_out, strict=True))
    ]
    train_part, test_part = ([part[side] for part in parts] for side in (0, 1))
    return RankingExamples.concatenate(train_part), RankingExamples.concatenate(test_part)


def _learned(run: _Run, train_part: RankingExamples, test_part: RankingExamples, order: Sequence[str]) -> Ranker:
    """The forest, stopped and judged on held-out users, then fitted on all; their best source where it is better."""
    settings, seed, threads = run.settings.lambdamart, run.settings.seed, run.settings.threads
    stopped = LambdaMartRanker.fit(train_part, test_part, settings, seed, threads)
    scores = compare(stopped, test_part)
    lists = {"train_lists": len(train_part), "held_out_lists": len(test_part)}
    run.report["ranker"] = {"held_out_ndcg@10": scores, "trees": stopped.num_trees} | lists
    if run.on_held_out:
        run.on_held_out(scores["ranker"])
    best = max((name for name in scores if name != "ranker"), key=lambda name: scores[name])
    verdict = f"NDCG@10 on held-out users: the ranker {scores['ranker']:.4f}, {best} alone {scores[best]:.4f}"
    logger.info(verdict)
    if scores["ranker"] < scores[best]:
        return _by_score(run, [best, *order], verdict)
    everything = RankingExamples.concatenate([train_part, test_part])
    num_trees = max(stopped.num_trees, settings.min_trees)
    final = LambdaMartRanker.fit_trees(everything, num_trees, settings, seed, threads)
    run.report["ranker"]["gains"] = dict(list(final.gains().items())[:30])
    return final


def _by_score(run: _Run, order: Sequence[str], reason: str) -> ByScoreRanker:
    run.report["ranker_reason"] = reason
    logger.info("ranker: by the sources' own order (%s), because %s", ", ".join(dict.fromkeys(order)), reason)
    return ByScoreRanker(tuple(dict.fromkeys(order)))


def _stored(dataset: Dataset, weights: F32) -> StoredHistories:
    events = dataset.events
    order = np.lexsort((events.item_rows, events.times, events.user_rows))
    indptr = np.concatenate([[0], np.cumsum(np.bincount(events.user_rows, minlength=len(dataset.users)))])
    return StoredHistories(
        indptr.astype(np.int64), events.item_rows[order].astype(np.int32), events.times[order].astype(np.float64),
        weights[order].astype(np.float32), events.has_clock,
    )  # fmt: skip


def _kind_weights(events: Events, settings: Settings) -> dict[str, float]:
    """Weight of each event type as in training (the largest that occurs is 1); see `OTHER_KINDS`."""
    names = [*events.kind_names, OTHER_KINDS]
    raw = [max(0.0, settings.events.weights.get(name, 1.0)) for name in names]
    top = max(raw[:-1], default=1.0) or 1.0
    known = dict(settings.events.weights) | dict(zip(names, raw, strict=True))
    return {name: max(0.0, weight) / top for name, weight in known.items()}
