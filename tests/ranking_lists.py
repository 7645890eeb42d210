"""Candidate lists of a world whose right order is known: one source tells the truth, another one dice."""

from __future__ import annotations

import numpy as np

from features.builder import FeatureMatrix
from ranking.examples import RankingExamples, SplitExamples
from recsys.scoring import agreement

LENGTH = 12
NAMES = (
    "truth:score", "truth:rank", "dice:score", "dice:rank", "sources:count", "sources:fusion", "item:weight",
    "user:age",
)  # fmt: skip


def lists(num_lists: int, *, first_user: int, seed: int, trust: float = 1.0) -> RankingExamples:
    """Lists of twelve, each of a user of its own, with one right item. `truth` puts it first in a share `trust` of the
    lists, `dice` anywhere; each offers half of the items, `truth` always the right one. Nothing else says anything.
    """
    rng = np.random.default_rng(seed)
    values = np.full((num_lists, LENGTH, len(NAMES)), np.nan, np.float32)
    labels = np.zeros((num_lists, LENGTH), np.float32)
    right = rng.integers(0, LENGTH, num_lists)
    rows = np.arange(num_lists)
    labels[rows, right] = 1
    told = np.where(rng.random(num_lists) < trust, right, rng.integers(0, LENGTH, num_lists))
    for column, top in ((0, told), (2, None)):
        score = rng.random((num_lists, LENGTH))
        if top is not None:
            score[rows, right] = 0.9  # always among the offered
            score[rows, top] = 2.0
        rank = np.argsort(np.argsort(-score, axis=1), axis=1).astype(np.float32)
        values[:, :, column] = score
        values[:, :, column + 1] = np.where(rank < LENGTH // 2, rank + 1, np.nan)
    values[:, :, 6] = rng.random((num_lists, LENGTH))
    values[:, :, 7] = rng.random((num_lists, 1))
    flat = values.reshape(-1, len(NAMES))
    flat[:, 4], flat[:, 5] = agreement(flat[:, [1, 3]].T).values()
    offered = ~np.isnan(flat[:, [1, 3]]).all(axis=1)
    query_rows = np.repeat(rows, LENGTH)[offered]
    groups = np.bincount(query_rows, minlength=num_lists)
    return RankingExamples(
        FeatureMatrix(NAMES, flat[offered], query_rows), labels.reshape(-1)[offered], groups, first_user + rows,
        np.ones(num_lists, np.int64),
    )  # fmt: skip


def split_lists(num_train: int, num_held_out: int, *, trust: float = 1.0, seed: int = 0) -> SplitExamples:
    """Training and held-out lists of that world."""
    train = lists(num_train, first_user=0, seed=seed, trust=trust)
    return SplitExamples.joined([train], [lists(num_held_out, first_user=num_train, seed=seed + 1, trust=trust)])
