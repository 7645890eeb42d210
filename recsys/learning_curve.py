"""Learning curve: what more customers would bring.

Users are left out, not events: the others keep whole histories, the time split stays honest, and data without a clock
can be cut alike. (Dropping the oldest events instead would mix how much is known with how fresh it is.) The samples are
nested, and the queries judged are the same for all, asked with their own histories as ever.
"""

from __future__ import annotations

import logging
import time

import numpy as np

from features.tables import Dataset
from recsys.evaluation_result import NDCG, Evaluation, SystemResult
from recsys.training import train
from recsys.variants import Row, product_lists

logger = logging.getLogger(__name__)
SHARES = (0.1, 0.25, 0.5)
"""Shares of the users that a model of its own learns from; with all of them there is the product."""


def learning_curve_rows(evaluation: Evaluation) -> list[Row]:
    """One row a share of the training users, the last for all: NDCG@10 with its 95 % interval, how many users and
    events that were, and the seconds of training and answering.
    """
    rows = [_row(share, evaluation) for share in SHARES]
    everybody = {"seconds": round(sum(evaluation.seconds.values()), 2)}
    return [*rows, _figures(1.0, evaluation.product, evaluation.task.train) | everybody]


def share_of_users(dataset: Dataset, share: float, seed: int) -> Dataset:
    """The events of about `share` of the users who have any, at least one; a smaller share's users are among a larger
    one's.
    """
    active = np.unique(dataset.events.user_rows)
    shuffled = np.random.default_rng(seed).permutation(active)
    chosen = shuffled[: max(1, round(share * len(active)))]
    return dataset.with_events(dataset.events.select(np.isin(dataset.events.user_rows, chosen)))


def _row(share: float, evaluation: Evaluation) -> Row:
    started = time.perf_counter()
    task, seed = evaluation.task, evaluation.seed
    part = share_of_users(task.train, share, seed)
    logger.info("learning curve: training on %d %% of the users, %d events", round(100 * share), len(part.events))
    lists = product_lists(train(part, evaluation.model.settings), task.requests)
    result = SystemResult.of(f"{share:.0%} of the users", lists, task, seed)
    return _figures(share, result, part) | {"seconds": round(time.perf_counter() - started, 2)}


def _figures(share: float, result: SystemResult, learned_from: Dataset) -> Row:
    return {
        "share": share,
        NDCG: result.mean(),
        "low": result.interval.low,
        "high": result.interval.high,
        "train_users": len(np.unique(learned_from.events.user_rows)),
        "train_events": len(learned_from.events),
    }
