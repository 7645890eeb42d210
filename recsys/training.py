"""train(): everything is fitted on honest time splits, then once more on all events."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from features.blended_encoder import BlendedEncoder
from features.encoder import TextEncoder
from features.finetune import finetune
from features.grid import on_grid
from features.interactions import acted_on, event_weights, signed_weights
from features.next_items import next_item_pairs
from features.settings import Settings as ComponentSettings
from features.tables import Dataset, Events, IntArray
from ranking.base import Ranker
from ranking.by_score import ByScoreRanker
from ranking.examples import SplitExamples
from recsys.choosing import Choice, choose_settings, first_choice
from recsys.examples import FittedWindow, fit_sources, held_out_users, window_examples
from recsys.feature_groups import ablated_examples, source_ablation
from recsys.model import OTHER_KINDS, FittedModel, RepeatModel, StoredHistories
from recsys.ranker_training import LearnedRanker, by_score, enough, learned_ranker
from recsys.retrieval.base import CandidateSource, FitData
from recsys.retrieval.popularity import PopularitySettings, PopularitySource
from recsys.retrieval.repeat import RepeatSource
from recsys.retrieval.wiring import SOURCES
from recsys.settings import Settings
from recsys.stages import StageMemory, fit_parts, reused, settings_read
from recsys.teacher import SourceTeacher
from recsys.threads import limit_threads
from recsys.windows import LabelWindow, label_windows

logger = logging.getLogger(__name__)
F32 = npt.NDArray[np.float32]
Made = TypeVar("Made")


@dataclass
class _Run:
    """One training run: its inputs, and the report it writes as it goes."""

    dataset: Dataset
    settings: Settings
    report: dict[str, Any] = field(default_factory=lambda: {"seconds": {}})
    ready: dict[int, dict[str, CandidateSource]] = field(default_factory=dict)
    """Sources that need not be fitted again, from choosing settings or from memory, by the number of events known."""
    fitted: dict[int, FittedWindow] = field(default_factory=dict)
    held_out: IntArray = field(default_factory=lambda: np.empty(0, np.int64))
    """Users who judge the rankers of lists with and without repeats; none where no ranker is learned."""
    tuned_size: int = 0
    """See `FitData`."""
    keep_examples: bool = False
    examples: SplitExamples | None = None
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
            self.settings.seed, self.settings.threads, self.tuned_size, self._has_dismissals,
        )  # fmt: skip

    @cached_property
    def _has_dismissals(self) -> bool:
        """For every window and for the model alike: rankers need the same features."""
        return bool((signed_weights(self.dataset.events, self.settings.events) < 0).any())

    def fit_window(
        self, window: LabelWindow, chosen: dict[str, ComponentSettings], embeddings: F32 | None
    ) -> FittedWindow:
        """What is fitted before a window: once, as lists with and without repeats share it."""
        key = len(window.known)  # the known events of an older window are fewer
        if key not in self.fitted:
            data = self.fit_data(window.known, embeddings)
            self.fitted[key] = FittedWindow.fit(data, chosen, self.settings, self.ready.get(key), self.memory)
        return self.fitted[key]

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


@dataclass(frozen=True)
class TrainingArtifacts:
    """A fitted model, what it was fitted on, and the examples its ranker learned from (None where it learned none)."""

    model: FittedModel
    dataset: Dataset
    examples: SplitExamples | None


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
        return _train(run).model


def train_with_examples(dataset: Dataset, settings: Settings | None = None) -> TrainingArtifacts:
    """`train`, which also hands out the ranker's examples: a gigabyte or two on large data, so let go of them soon."""
    run = _Run(dataset, settings or Settings(), keep_examples=True)
    with limit_threads(run.settings.threads):
        return _train(run)


def refit_ranker(
    trained: TrainingArtifacts, examples: SplitExamples, sources: Sequence[str], seed: int | None = None
) -> Ranker:
    """The ranker that `train` would have learned from `examples`, which are what is left of `trained.examples`, where
    `sources` (by name) are all there are; `seed` (default: the model's) is the forest's alone.
    """
    settings = trained.model.settings
    own = settings if seed is None else settings.model_copy(update={"seed": seed})
    if not enough(examples):
        return sources_order(sources, trained.model.report)
    with limit_threads(settings.threads):
        return learned_ranker(examples, own, {}, gate=False).ranker


def sources_order(sources: Sequence[str], report: Mapping[str, Any]) -> ByScoreRanker:
    """The joint order of the `sources` (by name), each as good as it was alone on the oldest label window; no lists say
    how sharply.
    """
    alone = {name: found["window_ndcg@10"] or 0.0 for name, found in report.get("sources", {}).items()}
    return ByScoreRanker.of({name: alone.get(name, 0.0) for name in sources})


def _train(run: _Run) -> TrainingArtifacts:
    settings, now = run.settings, time.time()
    dataset = acted_on(run.dataset, settings.events)
    run = dataclasses.replace(run, dataset=dataset)
    events = dataset.events
    with run.stage("windows"):
        windows = run.reused("windows", lambda: _windows(run))
        twins = _with_repeats(run, windows)
        if settings.ranker != "by_score" and max(_num_lists(windows), _num_lists(twins)) >= settings.examples.min_lists:
            run.held_out = held_out_users(windows, twins, settings.lambdamart.share_held_out, settings.seed)
    known = windows[-1].known if windows else events
    encoder, embeddings = run.reused("text", lambda: _text(run, known), known)
    run.tuned_size = encoder.tuned_size if isinstance(encoder, BlendedEncoder) else 0
    with run.stage("choose source settings"):
        chosen = _choose(run, windows, embeddings)
    learned = _fit_ranker(run, windows, chosen, embeddings)
    ranker, dropped = (
        (learned.ranker, learned.dropped) if isinstance(learned, LearnedRanker) else (learned, frozenset())
    )
    repeat_ranker = _fit_repeat_ranker(run, twins, chosen, embeddings, dropped)
    kept = {name: settings for name, settings in chosen.items() if name not in dropped}
    with run.stage("refit sources on everything"):
        run.fitted.clear()  # the memory is needed for the sources fitted on everything
        run.ready.clear()
        data = run.fit_data(events, embeddings)
        sources = fit_sources(kept, data, memory=run.memory)
        features = data.features(settings.features)
        fallback = PopularitySource.fit(data, _popularity_settings(chosen, settings))
        repeats = None
        if repeat_ranker is not None:
            repeats = RepeatModel(RepeatSource.fit(data, settings.retrieval.repeat), repeat_ranker)
    model = FittedModel(
        dataset.catalogue, dataset.users, _stored(dataset, data.signed), sources, fallback, features, ranker, settings,
        _end(events, now), _kind_weights(events, settings), encoder, dataset.fingerprint, run.report, repeats=repeats,
    )  # fmt: skip
    return TrainingArtifacts(model, dataset, run.examples)


def _windows(run: _Run) -> list[LabelWindow]:
    settings, num_items = run.settings, len(run.dataset.catalogue)
    return label_windows(run.dataset.events, num_items, settings.examples, settings.events, settings.seed)


def _popularity_settings(chosen: dict[str, ComponentSettings], settings: Settings) -> PopularitySettings:
    """As chosen, or the first values where popularity is not among the sources."""
    own = chosen.get(PopularitySource.name, first_choice(settings.retrieval.popularity))
    return PopularitySettings.model_validate(own.model_dump())


def _end(events: Events, now: float) -> float:
    return min(float(events.times.max()), now) if events.has_clock and len(events) else 0.0


def _text(run: _Run, known: Events) -> tuple[TextEncoder | BlendedEncoder | None, F32 | None]:
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
        pretrained = TextEncoder.from_settings(settings.encoder)
    encoder: TextEncoder | BlendedEncoder = pretrained
    if settings.finetune.enabled and len(known):
        with run.stage("fine-tune encoder"):
            pairs = next_item_pairs(known, event_weights(known, settings.events))
            result = finetune(
                pretrained, texts, pairs, settings.finetune, settings.seed,
                fields=run.dataset.catalogue.fields(settings.encoder.text_columns),
                teacher=SourceTeacher(run.fit_data(known, None)),
            )  # fmt: skip
        encoder = result.encoder
        run.report["encoder"] = {
            f.name: getattr(result, f.name) for f in dataclasses.fields(result) if f.name != "encoder"
        }
    with run.stage("embed catalogue"):
        return encoder, on_grid(encoder.encode(texts), items=True)


def _choose(run: _Run, windows: Sequence[LabelWindow], embeddings: F32 | None) -> dict[str, ComponentSettings]:
    """Each source's settings, chosen on the oldest window, which fits the least data, without the users who are held
    out to judge; what was fitted there stays ready.
    """
    offered = {name: getattr(run.settings.retrieval, name) for name in run.settings.sources}
    if not windows:
        return {name: first_choice(settings) for name, settings in offered.items()}
    window = windows[-1]
    data = run.fit_data(window.known, embeddings)
    rows = np.flatnonzero(~np.isin(window.users, run.held_out))
    choices = {name: _choice(run, name, data, window, rows) for name in offered}
    run.report["sources"] = {name: choice.report() for name, choice in choices.items()}
    run.ready[len(window.known)] = {name: c.source for name, c in choices.items() if c.source is not None}
    return {name: choice.settings for name, choice in choices.items()}


def _choice(run: _Run, name: str, data: FitData, window: LabelWindow, rows: IntArray) -> Choice:
    settings = getattr(run.settings.retrieval, name)
    key = (settings, *fit_parts(name, data), settings_read("windows", run.settings), rows)
    return reused(run.memory, "choice", key, lambda: choose_settings(SOURCES[name], settings, data, window, rows))


def _num_lists(windows: Sequence[LabelWindow]) -> int:
    return sum(len(window) for window in windows)


def _fit_ranker(
    run: _Run, windows: Sequence[LabelWindow], chosen: dict[str, ComponentSettings], embeddings: F32 | None
) -> LearnedRanker | Ranker:
    """LambdaMART on the windows' examples, or the sources' joint order where that can't be learned or is better."""
    settings = run.settings
    order = sources_order(list(chosen), run.report)
    if settings.ranker == "by_score":
        return by_score(order, "the settings say so", run.report)
    num_lists = _num_lists(windows)
    if num_lists < settings.examples.min_lists:
        few = f"only {num_lists} labelled lists, examples.min_lists is {settings.examples.min_lists}"
        return by_score(order, few, run.report)
    with run.stage("make ranking examples"):
        examples = _examples(run, windows, chosen, embeddings)
    if not enough(examples):
        return by_score(order, "the sources find too few of the labelled items", run.report)
    with run.stage("fit ranker"):
        learned = learned_ranker(examples, settings, run.report, run.on_held_out)
    run.examples = learned.examples if run.keep_examples else None
    return learned


def _fit_repeat_ranker(
    run: _Run,
    lists: Sequence[LabelWindow],
    chosen: dict[str, ComponentSettings],
    embeddings: F32 | None,
    dropped: frozenset[str],
) -> Ranker | None:
    """A ranker for lists that may hold what was seen, learned from such `lists` without the sources that were
    `dropped`, which no list will have; None where there are few repeats, or no ranker is to be learned.

    Groups of features that gating dropped stay: they are computed for every list, and were judged on lists in which
    nothing is taken again. A feature that is noise there may say what is due here.
    """
    settings = run.settings
    if settings.ranker == "by_score":
        return None
    num_lists = _num_lists(lists)
    share = sum(window.num_with_repeat for window in lists) / max(num_lists, 1)
    report = {"lists": num_lists, "share_with_repeat": round(share, 4)}
    own = dataclasses.replace(run, report=report, on_held_out=None)  # it is told of the other ranker
    run.report["repeats"] = own.report
    logger.info("repeats: in %.1f %% of %d labelled lists", 100 * share, num_lists)
    if num_lists < settings.examples.min_lists or share < settings.examples.min_repeat_share:
        return None
    with run.stage("make repeat examples"):
        examples = _examples(own, lists, chosen, embeddings)
        for name in sorted(dropped):
            examples = ablated_examples(examples, source_ablation(examples.everything.features.names, name))
    if not enough(examples):
        return None
    with run.stage("fit repeat ranker"):
        return learned_ranker(examples, settings, own.report, gate=False).ranker


def _with_repeats(run: _Run, windows: Sequence[LabelWindow]) -> list[LabelWindow]:
    """The windows' twins with repeats among the labels; the encoder has seen what came before other windows."""
    settings, dataset = run.settings, run.dataset
    twins = label_windows(
        dataset.events, len(dataset.catalogue), settings.examples, settings.events, settings.seed, repeats=True
    )
    known = {len(window.known) for window in windows}
    return [twin for twin in twins if len(twin.known) in known]


def _examples(
    run: _Run, windows: Sequence[LabelWindow], chosen: dict[str, ComponentSettings], embeddings: F32 | None
) -> SplitExamples:
    """The examples of all windows, each from sources fitted before it."""
    parts = (windows[0].repeats, run.held_out)
    return run.reused("examples", lambda: _make_examples(run, windows, chosen, embeddings), *parts)


def _make_examples(
    run: _Run, windows: Sequence[LabelWindow], chosen: dict[str, ComponentSettings], embeddings: F32 | None
) -> SplitExamples:
    parts = []
    for number, window in enumerate(windows):
        fitted = run.fit_window(window, chosen, embeddings)
        held_out = np.isin(window.users, run.held_out)
        parts.append(window_examples(fitted, window, held_out, run.settings, number))
    train_part, test_part = ([part[side] for part in parts] for side in (0, 1))
    return SplitExamples.joined(train_part, test_part)


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
    raw = [settings.events.weights.get(name, 1.0) for name in names]
    top = max([0.0, *raw[:-1]]) or 1.0
    known = dict(settings.events.weights) | dict(zip(names, raw, strict=True))
    return {name: weight / top for name, weight in known.items()}
