"""The ranker's text matches against plain loops, by one encoder and by two."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from features.blended_encoder import blend
from features.grid import on_grid
from features.histories import Histories
from features.pair import PairFeatures
from features.runs import Pairs

NUM_ITEMS, TUNED, PLAIN = 30, 5, 4
HISTORIES = [[3, 7, 7, 12], [0], []]
TIMES = [[1.0, 2.0, 3.0, 3.0], [1.0], []]


def unit_rows(size: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(NUM_ITEMS, size))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def matches(embeddings: np.ndarray, tuned_size: int) -> dict[str, np.ndarray]:
    none = sp.csr_matrix((NUM_ITEMS, 0), dtype=np.float32)
    features = PairFeatures(on_grid(embeddings, items=True), none, np.empty(0, np.int64), (), 10, 5.0, 100, tuned_size)
    weights = [np.ones(len(one)) for one in HISTORIES]
    histories = Histories.build(
        [np.array(one, np.int64) for one in HISTORIES], [np.array(one) for one in TIMES], weights,
        np.full(len(HISTORIES), 9.0), NUM_ITEMS, np.ones(len(HISTORIES), bool),
    )  # fmt: skip
    everything = np.arange(NUM_ITEMS)
    pairs = Pairs(np.repeat(np.arange(len(HISTORIES)), NUM_ITEMS), np.tile(everything, len(HISTORIES)))
    return {name: column.reshape(len(HISTORIES), -1) for name, column in features._text(histories, pairs).items()}


def expected(embeddings: np.ndarray) -> dict[str, np.ndarray]:
    out = {name: np.full((len(HISTORIES), NUM_ITEMS), np.nan) for name in ("last", "best_of_recent", "mean_of_recent")}
    for row, (items, times) in enumerate(zip(HISTORIES, TIMES, strict=True)):
        newest = (
            pd.Series(times, dtype=float).groupby(np.array(items, int)).max()
        )  # an item counts once, when last taken
        if not len(newest):
            continue
        cosines = embeddings @ embeddings[newest.index].T
        out["best_of_recent"][row], out["mean_of_recent"][row] = cosines.max(axis=1), cosines.mean(axis=1)
        out["last"][row] = cosines[:, (newest == newest.max()).to_numpy()].max(axis=1)
    return out


def test_one_encoder_gives_the_cosines_to_what_was_taken_lately() -> None:
    embeddings = unit_rows(TUNED, 0)
    found = matches(embeddings, 0)
    assert set(found) == {f"text:{name}" for name in expected(embeddings)}
    for name, column in expected(embeddings).items():
        np.testing.assert_allclose(found[f"text:{name}"], column, atol=5e-3)


@pytest.mark.parametrize("share", [0.2, 0.7])
def test_two_encoders_give_each_its_own(share: float) -> None:
    tuned, plain = unit_rows(TUNED, 0), unit_rows(PLAIN, 1)
    found = matches(blend(tuned, plain, share), TUNED)
    assert len(found) == 6
    for view, embeddings, scale in (("text", tuned, 1 - share), ("text:plain", plain, share)):
        for name, column in expected(embeddings).items():
            np.testing.assert_allclose(found[f"{view}:{name}"], scale * column, atol=5e-3)


def test_without_text_there_is_nothing_to_match() -> None:
    assert matches(np.zeros((NUM_ITEMS, 0), np.float32), 0) == {}
