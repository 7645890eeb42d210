"""evaluate(): the product, each of its sources and popularity side by side, on an honest split of a data set.

The figures are those of the outside judge: the same queries, truths and formulas. Lists are 50 long and rank the full
catalogue, less the items of the history (but for the task repeat, which adds "buy it again" as baselines).
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from features.histories import Histories
from features.item_sets import ItemSets
from features.tables import AVAILABLE, BoolArray, Dataset, Events, IdIndex
from recsys.ablations import ablation_rows, retrained_rows
from recsys.errors import DataError, SettingsError
from recsys.evaluation_result import Evaluation, SystemResult, difference
from recsys.evaluation_text import iso, render
from recsys.learning_curve import learning_curve_rows
from recsys.list_rows import ListRows
from recsys.model import FittedModel
from recsys.peak_memory import peak_memory_mb
from recsys.recommender import Recommender
from recsys.retrieval.base import CandidateSource
from recsys.retrieval.buy_again import BUY_AGAIN
from recsys.retrieval.popularity import PopularitySource
from recsys.robustness import robustness_rows
from recsys.scoring import CHUNK
from recsys.settings import Settings
from recsys.splits import LIST_LENGTH, NOT_STUDIED, EvaluationTask, split
from recsys.streaming import streamed
from recsys.threads import limit_threads
from recsys.training import TrainingArtifacts, train, train_with_examples

__all__ = ["EXPERIMENTS", "Evaluation", "Experiment", "SystemResult", "evaluate", "render"]

Experiment = Literal["ablations", "robustness", "learning_curve"]
EXPERIMENTS: tuple[Experiment, ...] = get_args(Experiment)
"""What `evaluate` can find out beside the comparison; each costs time."""

PRODUCT = "product"
FIXED = "product, live"
"""The product of the task live, as a system of the task stream."""
_ItemLists = list[list[str]]
_Source = CandidateSource | PopularitySource
logger = logging.getLogger(__name__)


def evaluate(
    dataset: Dataset,
    settings: Settings | None = None,
    task: str | None = None,
    *,
    model: FittedModel | None = None,
    seed: int | None = None,
    experiments: Collection[Experiment] = (),
) -> Evaluation:
    """Train on the task's train part and judge the lists.

    `task` is static, live, loo or repeat (None: live with a clock, else loo; see `recsys.splits`). `model` is judged
    instead of training one, with its own settings; SettingsError where it knows what it would be judged on. `seed`
    replaces the settings' seed, in training and in resampling. `experiments` are run afterwards; ablations need the
    examples of a training run, so not with a given model. DataError where the split leaves no query.
    """
    _check_experiments(experiments, model, task)
    settings = model.settings if model else settings or Settings()
    asked = split(dataset, task, event_settings=settings.events)
    if not len(asked):
        wanted = "likes an item" if asked.kind == "repeat" else "likes a new item"
        raise DataError(
            f"task {asked.kind} has no query: in the held-out part of the {len(dataset.events)} events no user with a "
            f"history {wanted}. Give more data or another task"
        )
    seed = settings.seed if seed is None else seed
    started = time.perf_counter()
    settings = settings.model_copy(update={"seed": seed})
    trained = _trained(asked, model, settings, keep_examples="ablations" in experiments)
    training_seconds = time.perf_counter() - started
    # One thread, as in batch and in service: the seconds are then those of a user, and sums round the same way.
    with limit_threads(1):
        if asked.later is None:
            answers = _answer(trained.model, asked)
        else:
            answers = _answer_stream(trained.model, asked, asked.later)
    logger.info("%d lists in %.1f s", len(asked), answers.seconds)
    evaluation = _judge(asked, trained.model, answers, round(training_seconds, 2), seed)
    if "ablations" in experiments:
        evaluation = dataclasses.replace(evaluation, ablations=tuple(ablation_rows(trained, evaluation)))
    del trained  # its examples are large, and what follows trains anew
    evaluation = _with_experiments(evaluation, answers.lists[PRODUCT], experiments)
    return dataclasses.replace(evaluation, peak_memory_mb=peak_memory_mb())


def _check_experiments(experiments: Collection[Experiment], model: FittedModel | None, task: str | None) -> None:
    unknown = sorted(set(experiments) - set(EXPERIMENTS))
    if unknown:
        raise SettingsError(f"unknown experiment {unknown[0]!r}; allowed are {', '.join(EXPERIMENTS)}")
    lacking, reason = NOT_STUDIED.get(task or "", ((), ""))
    if refused := sorted(set(experiments).intersection(lacking)):
        raise SettingsError(
            f"the task {task} has no {refused[0]}: {reason}; ask for it with another task, such as live"
        )
    if model and "ablations" in experiments:
        raise SettingsError("ablations refit the ranker on its examples, which a given model has not kept; give none")


def _trained(
    task: EvaluationTask, model: FittedModel | None, settings: Settings, *, keep_examples: bool
) -> TrainingArtifacts:
    if model:
        _refuse_leaks(model, task)
    elif keep_examples:
        return train_with_examples(task.train, settings)
    return TrainingArtifacts(model or train(task.train, settings), task.train, None)


def _with_experiments(
    evaluation: Evaluation, lists: Sequence[Sequence[str]], experiments: Collection[Experiment]
) -> Evaluation:
    """The evaluation and what its further experiments found; `lists` are the product's."""
    return dataclasses.replace(
        evaluation,
        ablations=(*evaluation.ablations, *retrained_rows(evaluation)) if "ablations" in experiments else (),
        robustness=tuple(robustness_rows(evaluation, lists)) if "robustness" in experiments else (),
        learning_curve=tuple(learning_curve_rows(evaluation)) if "learning_curve" in experiments else (),
    )


@dataclass(frozen=True)
class _Answers:
    """Each system's lists, the product's first, and the scores in the product's; by which paths the product made its
    own, and in how many seconds.
    """

    lists: Mapping[str, _ItemLists]
    scores: Sequence[Sequence[float]]
    strategies: Mapping[str, int]
    seconds: float

    def rows(self, items: IdIndex) -> dict[str, ListRows]:
        """The lists as rows of `items`."""
        scores = {PRODUCT: self.scores}
        return {name: ListRows.of(own, items, LIST_LENGTH, scores.get(name)) for name, own in self.lists.items()}


def _judge(task: EvaluationTask, model: FittedModel, answers: _Answers, trained: float, seed: int) -> Evaluation:
    product, *others = (SystemResult.of(name, lists, task, seed) for name, lists in answers.lists.items())
    sources = sorted(others, key=lambda result: (-result.mean(), result.name))
    against = difference(product, sources[0], task, seed)
    seconds = {"train": trained, "answer": round(answers.seconds, 2)}
    rows = answers.rows(model.catalogue.items)
    return Evaluation(task, model, product, tuple(sources), against, dict(answers.strategies), seconds, seed, rows)


def _refuse_leaks(model: FittedModel, task: EvaluationTask) -> None:
    """SettingsError where the model was fitted on what it is to predict."""
    remedy = f"Give a model trained on split(dataset, {task.kind!r}).train, or none"
    if task.cut is not None and model.trained_until >= task.cut:
        raise SettingsError(
            f"the model knows events up to {iso(model.trained_until)}, but task {task.kind} asks about the time from "
            f"{iso(task.cut)} on. {remedy}"
        )
    leaked = sum(_knows_answer(task, n, known) for n, known in enumerate(_known(model, task)))
    if leaked:
        raise SettingsError(
            f"the model was trained on the answers to {leaked} of the {len(task)} queries of task {task.kind}. {remedy}"
        )


def _knows_answer(task: EvaluationTask, query: int, known: npt.NDArray[np.object_]) -> bool:
    """Whether a truth is among the user's `known` items; where repeats are right, whether more is known of the user
    than the query's history.
    """
    if task.kind == "repeat":
        return task.cut is None and len(known) > len(task.requests[query].history or ())
    return not task.truths[query].isdisjoint(known)


def _known(model: FittedModel, task: EvaluationTask) -> Iterator[npt.NDArray[np.object_]]:
    """The items of each query's user in the model's training data."""
    ids, stored = model.catalogue.items.ids, model.histories
    for row in model.users.rows(task.users).tolist():
        yield ids[stored.item_rows[stored.indptr[row] : stored.indptr[row + 1]]] if row >= 0 else ids[:0]


def _answer(model: FittedModel, task: EvaluationTask) -> _Answers:
    """What every system answers."""
    recommender, requests = Recommender(model), task.requests
    repeats = task.kind == "repeat"
    sources = [*_sources(model), *(_history_sources(model) if repeats else ())]
    available: BoolArray = model.catalogue.frame[AVAILABLE].to_numpy(bool)
    lists: dict[str, _ItemLists] = {name: [] for name in (PRODUCT, *(source.name for source in sources))}
    scores: list[list[float]] = []
    strategies: Counter[str] = Counter()
    seconds = 0.0
    for start in range(0, len(requests), CHUNK):
        chunk = requests[start : start + CHUNK]
        started = time.perf_counter()
        answers = recommender.recommend_many(chunk)
        seconds += time.perf_counter() - started
        lists[PRODUCT] += [[item.item_id for item in answer.items] for answer in answers]
        scores += [[item.score for item in answer.items] for answer in answers]
        strategies.update(answer.strategy for answer in answers)
        histories = recommender.histories(chunk)
        blocked = ItemSets.empty(len(histories)) if repeats else histories.seen
        for source in sources:
            lists[source.name] += _source_lists(source, histories, blocked, model.catalogue.items.ids, available)
    return _Answers(lists, scores, strategies, seconds)


def _answer_stream(model: FittedModel, task: EvaluationTask, later: Events) -> _Answers:
    """What every system answers, the product as a live service; beside them the product as in live, with what the
    requests bring along.
    """
    fixed = _answer(model, task)
    started = time.perf_counter()
    answers = streamed(model, task, later)
    seconds = time.perf_counter() - started
    lists = {PRODUCT: [[item.item_id for item in answer.items] for answer in answers]}
    lists |= {FIXED if name == PRODUCT else name: own for name, own in fixed.lists.items()}
    scores = [[item.score for item in answer.items] for answer in answers]
    return _Answers(lists, scores, Counter(answer.strategy for answer in answers), seconds)


def _sources(model: FittedModel) -> list[_Source]:
    """The model's sources, and popularity where it is not one of them: the baseline that all must beat."""
    sources: list[_Source] = list(model.sources)
    if all(source.name != model.fallback.name for source in sources):
        sources.append(model.fallback)
    return sources


def _history_sources(model: FittedModel) -> tuple[CandidateSource, ...]:
    """What offers items of the history: the model's own sources, or "buy it again" where it has learned no repeats."""
    return model.repeats.sources if model.repeats else BUY_AGAIN


def _source_lists(
    source: _Source,
    histories: Histories,
    blocked: ItemSets,
    ids: npt.NDArray[np.object_],
    available: BoolArray,
) -> _ItemLists:
    """What the source alone would show: ranked by its own score, filled up by nothing."""
    top = source.scores(histories)[""].top(LIST_LENGTH, blocked, None if available.all() else available)
    bounds = np.searchsorted(top.query_rows, np.arange(1, len(histories)))
    return [part.tolist() for part in np.split(ids[top.item_rows], bounds)]
