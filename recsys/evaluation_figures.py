"""An evaluation's further figures: slices, beyond accuracy, contributions, calibration and examples, JSON-able.

Items are rows of the model's catalogue here, and what is popular or new is so by the events that the model has learned
from.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from features.runs import Pairs
from recsys import beyond_accuracy, metrics
from recsys.calibration import reliability
from recsys.contributions import contributions
from recsys.example_lists import example_lists
from recsys.list_rows import pairs_of
from recsys.metrics import Floats
from recsys.scoring import CHUNK
from recsys.slices import by_history_length, by_item_popularity, by_text_length, judge_slices

if TYPE_CHECKING:
    from recsys.evaluation_result import Evaluation

_K = 10
"""Items of a list that its novelty, diversity and popularity are taken of."""


def further_figures(evaluation: Evaluation) -> dict[str, Any]:
    """Everything that the lists say beside the metrics, by the names under which it stands in the JSON file."""
    world = _World(evaluation)
    product = evaluation.lists[evaluation.product.name]
    found = product.found(world.truth, world.num_items)
    scores = product.scores
    return {
        "data": data_facts(evaluation),
        "slices": _slices(evaluation, world),
        "beyond_accuracy": _beyond_accuracy(evaluation, world),
        "contributions": contributions(evaluation.model, evaluation.task.requests, product),
        "calibration": [] if scores is None else reliability(scores, found >= 0, evaluation.task.users),
        "examples": example_lists(
            evaluation.task, evaluation.product.per_query["ndcg@10"], product, evaluation.model.catalogue
        ),
    }


@dataclass(frozen=True)
class _World:
    """What the figures share, in rows of the model's catalogue."""

    evaluation: Evaluation

    @property
    def num_items(self) -> int:
        return len(self.evaluation.model.catalogue)

    @cached_property
    def truth(self) -> Pairs:
        return pairs_of(self.evaluation.task.truths, self.evaluation.model.catalogue.items)

    def history_means(self, values: Floats) -> Floats:
        """Each query's mean of `values` (n_items,) over the distinct items of its history. Chunks bound the memory: a
        user's queries share one history that may be long.
        """
        requests, items = self.evaluation.task.requests, self.evaluation.model.catalogue.items
        means = []
        for start in range(0, len(requests), CHUNK):
            known = [{event.item_id for event in r.history or ()} for r in requests[start : start + CHUNK]]
            means.append(beyond_accuracy.mean_of_pairs(pairs_of(known, items), values, len(known)))
        return np.concatenate(means)

    @cached_property
    def num_events(self) -> npt.NDArray[np.int64]:
        return np.bincount(self.evaluation.model.histories.item_rows, minlength=self.num_items)

    @cached_property
    def text_lengths(self) -> npt.NDArray[np.int64]:
        model = self.evaluation.model
        return np.array([len(text.strip()) for text in model.catalogue.texts(model.settings.encoder.text_columns)])

    @cached_property
    def taken(self) -> Any:
        """(n_items, n_users) 1 where the user liked the item."""
        stored, num_users = self.evaluation.model.histories, len(self.evaluation.model.users)
        users = np.repeat(np.arange(num_users), np.diff(stored.indptr))
        liked = stored.weights > 0
        return beyond_accuracy.taken(users[liked], stored.item_rows[liked], num_users, self.num_items)


def data_facts(evaluation: Evaluation) -> dict[str, Any]:
    """What the data set is: its events by type and over time, and how much of the catalogue has a text."""
    train = evaluation.task.train
    events = train.events
    texts = train.catalogue.texts(evaluation.model.settings.encoder.text_columns)
    counts = np.bincount(events.kinds, minlength=len(events.kind_names)).tolist()
    clocked = events.has_clock and len(events) > 0
    return {
        "events_by_type": {name: count for name, count in zip(events.kind_names, counts, strict=True) if count},
        "train_users": len(np.unique(events.user_rows)),
        "first_event": float(events.times.min()) if clocked else None,
        "last_event": float(events.times.max()) if clocked else None,
        "items_with_text": sum(bool(text.strip()) for text in texts),
        "rejected_rows": len(train.rejected),
    }


def _slices(evaluation: Evaluation, world: _World) -> list[dict[str, Any]]:
    lengths = np.array([len(request.history or ()) for request in evaluation.task.requests], np.int64)
    slices = [
        *by_history_length(world.truth, lengths),
        *by_item_popularity(world.truth, world.num_events),
        *by_text_length(world.truth, world.text_lengths),
    ]
    names = (evaluation.product.name, evaluation.best_source.name)
    lists = {name: evaluation.lists[name] for name in names}
    return judge_slices(slices, lists, world.truth, world.num_items, evaluation.task.users, evaluation.seed)


def _beyond_accuracy(evaluation: Evaluation, world: _World) -> dict[str, Any]:
    """One row a system, and what the diversity was taken by."""
    with_item = np.asarray(world.taken.getnnz(axis=1), np.int64)
    num_users = int((world.taken.getnnz(axis=0) > 0).sum())
    popularity = with_item / max(num_users, 1)
    surprise = beyond_accuracy.self_information(with_item, num_users)
    vectors, basis = _vectors(evaluation, world)
    own = metrics.mean(world.history_means(popularity))
    rows = []
    for system in evaluation.systems:
        lists = evaluation.lists[system.name].item_rows[:, :_K]
        shown = metrics.mean(beyond_accuracy.mean_of_lists(lists, popularity))
        rows.append(
            {
                "system": system.name,
                "distinct@10": system.distinct, "coverage@10": system.coverage,
                "novelty@10": metrics.mean(beyond_accuracy.mean_of_lists(lists, surprise)),
                "diversity@10": metrics.mean(beyond_accuracy.diversity(lists, vectors)),
                "popularity@10": shown, "popularity_lift": shown / own - 1 if own else float("nan"),
            }
        )  # fmt: skip
    return {"diversity_by": basis, "history_popularity": own, "systems": rows}


def _vectors(evaluation: Evaluation, world: _World) -> tuple[Any, str]:
    """What items are alike by: their texts, else their attributes, else who has them."""
    pairs = evaluation.model.features.pairs
    if pairs.embeddings.shape[1]:
        return pairs.embeddings, "text embeddings"
    if pairs.attribute_names:
        return beyond_accuracy.unit_rows(pairs.attribute_values), ", ".join(pairs.attribute_names)
    return beyond_accuracy.unit_rows(world.taken), "co-occurrence in users' histories"
