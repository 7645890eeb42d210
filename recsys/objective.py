"""What `recsys tune` maximises: the product's NDCG@10 on a validation split of what may be looked at."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from features.builder import FeatureMatrix
from features.interactions import EventSettings
from features.tables import BoolArray, Dataset
from recsys.errors import DataError, SettingsError
from recsys.live_popularity import LiveState
from recsys.metrics import Floats, count, hit_matrix, ndcg_at_k
from recsys.model import FittedModel
from recsys.recommender import Recommender
from recsys.requests import Request
from recsys.retrieval.merge import Candidates
from recsys.scoring import CHUNK
from recsys.settings import Settings
from recsys.splits import EvaluationTask, split, without_test
from recsys.stages import StageMemory, reused, settings_read
from recsys.threads import limit_threads
from recsys.training import train

K = 10


def validation_task(
    dataset: Dataset,
    task: str | None,
    *,
    hold_out: bool,
    max_queries: int,
    seed: int,
    event_settings: EventSettings | None = None,
) -> EvaluationTask:
    """The newest part of `dataset` as a task of that kind, with at most `max_queries` of its queries, drawn at random;
    `event_settings`: see `split`.

    With `hold_out` the part that `recsys evaluate` with this task judges on is taken away before anything is looked
    at. DataError where no query is left, SettingsError for the task repeat: trials are given up by the ranker of lists
    without repeats.
    """
    if task == "repeat":
        raise SettingsError("task 'repeat' can't be tuned on; use live, static or loo")
    visible = without_test(dataset, task, event_settings=event_settings) if hold_out else dataset
    asked = split(visible, task, event_settings=event_settings)
    if not len(asked):
        remedy = ", or --no-hold-out, which tunes on all of the data" if hold_out else ""
        raise DataError(
            f"task {asked.kind} has no query to tune on: in the newest part of the {len(visible.events)} events that "
            f"may be looked at no user with a history likes a new item. Give more data or another task{remedy}"
        )
    chosen = np.sort(np.random.default_rng([seed, 7]).permutation(len(asked))[:max_queries])
    requests, truths, users = (tuple(part[k] for k in chosen) for part in (asked.requests, asked.truths, asked.users))
    shorter = tuple(dataclasses.replace(request, n=K) for request in requests)
    return dataclasses.replace(asked, requests=shorter, truths=truths, users=users)


class Objective:
    """Settings -> NDCG@10 of each of the task's queries. Stages of training, and the candidates of the queries, are
    kept from call to call where the settings that they depend on are the same; that changes no figure.
    """

    def __init__(self, task: EvaluationTask) -> None:
        self.task = task
        self._memory = StageMemory(task.train)

    def __call__(self, settings: Settings, on_held_out: Callable[[float], None] | None = None) -> Floats:
        """(n_queries,) float64. `on_held_out`: see `train`."""
        model = train(self.task.train, settings, memory=self._memory, on_held_out=on_held_out)
        recommender = _RememberingRecommender(model, self._memory)
        lists: list[list[str]] = []
        with limit_threads(1):  # as in `recsys evaluate`
            for start in range(0, len(self.task), CHUNK):
                answers = recommender.recommend_many(self.task.requests[start : start + CHUNK])
                lists += [[item.item_id for item in answer.items] for answer in answers]
        return ndcg_at_k(hit_matrix(lists, self.task.truths, K), count(self.task.truths), K)


class _RememberingRecommender(Recommender):
    """Finds the candidates of the same requests, and their features, once for all models that differ in the ranker."""

    def __init__(self, model: FittedModel, memory: StageMemory) -> None:
        super().__init__(model)
        self._memory = memory
        self._key = settings_read("examples", model.settings)

    def _candidates(
        self, requests: list[Request], histories: list[Any], allowed: BoolArray, live: LiveState
    ) -> tuple[Candidates, FeatureMatrix]:
        find = super()._candidates
        names = ",".join(source.name for source in self.chain(requests[0]).sources)  # gating may have dropped some
        parts = (self._key, names, requests[0].request_id, len(requests))
        return reused(self._memory, "candidates", parts, lambda: find(requests, histories, allowed, live))
