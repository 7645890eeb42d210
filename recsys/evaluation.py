"""evaluate(): the product, each of its sources and popularity side by side, on an honest split of a data set.

The figures are those of the outside judge: the same queries, truths and formulas. Lists are 50 long and rank the full
catalogue, less the items of the history.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.histories import Histories
from features.tables import AVAILABLE, BoolArray, Dataset, IdIndex
from recsys.errors import DataError, SettingsError
from recsys.evaluation_result import Evaluation, SystemResult, difference
from recsys.evaluation_text import iso, render
from recsys.list_rows import ListRows
from recsys.model import FittedModel
from recsys.recommender import Recommender
from recsys.requests import Request
from recsys.retrieval.base import CandidateSource
from recsys.retrieval.popularity import PopularitySource
from recsys.scoring import CHUNK
from recsys.settings import Settings
from recsys.splits import LIST_LENGTH, EvaluationTask, split
from recsys.threads import limit_threads
from recsys.training import train

__all__ = ["Evaluation", "SystemResult", "evaluate", "render"]

PRODUCT = "product"
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
) -> Evaluation:
    """Train on the task's train part and judge the lists.

    `task` is static, live or loo (None: live with a clock, else loo; see `recsys.splits`). `model` is judged instead of
    training one, with its own settings; SettingsError where it knows what it would be judged on. `seed` replaces the
    settings' seed, in training and in resampling. DataError where the split leaves no query.
    """
    asked = split(dataset, task)
    if not len(asked):
        raise DataError(
            f"task {asked.kind} has no query: in the held-out part of the {len(dataset.events)} events no user with a "
            "history meets a new item. Give more data or another task"
        )
    settings = model.settings if model else settings or Settings()
    seed = settings.seed if seed is None else seed
    started = time.perf_counter()
    if model:
        _refuse_leaks(model, asked)
    else:
        model = train(asked.train, settings.model_copy(update={"seed": seed}))
    trained = time.perf_counter() - started
    # One thread, as in batch and in service: the seconds are then those of a user, and sums round the same way.
    with limit_threads(1):
        answers = _answer(model, asked.requests)
    logger.info("%d lists in %.1f s", len(asked), answers.seconds)
    return _judge(asked, model, answers, round(trained, 2), seed)


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
    leaked = sum(not truth.isdisjoint(known) for truth, known in zip(task.truths, _known(model, task), strict=True))
    if leaked:
        raise SettingsError(
            f"the model was trained on the answers to {leaked} of the {len(task)} queries of task {task.kind}. {remedy}"
        )


def _known(model: FittedModel, task: EvaluationTask) -> Iterator[npt.NDArray[np.object_]]:
    """The items of each query's user in the model's training data."""
    ids, stored = model.catalogue.items.ids, model.histories
    for row in model.users.rows(task.users).tolist():
        yield ids[stored.item_rows[stored.indptr[row] : stored.indptr[row + 1]]] if row >= 0 else ids[:0]


def _answer(model: FittedModel, requests: Sequence[Request]) -> _Answers:
    """What every system answers."""
    recommender = Recommender(model)
    sources = _sources(model)
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
        for source in sources:
            lists[source.name] += _source_lists(source, histories, model.catalogue.items.ids, available)
    return _Answers(lists, scores, strategies, seconds)


def _sources(model: FittedModel) -> list[_Source]:
    """The model's sources, and popularity where it is not one of them: the baseline that all must beat."""
    sources: list[_Source] = list(model.sources)
    if all(source.name != model.fallback.name for source in sources):
        sources.append(model.fallback)
    return sources


def _source_lists(
    source: _Source, histories: Histories, ids: npt.NDArray[np.object_], available: BoolArray
) -> _ItemLists:
    """What the source alone would show: ranked by its own score, filled up by nothing."""
    top = source.scores(histories)[""].top(LIST_LENGTH, histories.seen, None if available.all() else available)
    bounds = np.searchsorted(top.query_rows, np.arange(1, len(histories)))
    return [part.tolist() for part in np.split(ids[top.item_rows], bounds)]
