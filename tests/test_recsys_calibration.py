"""Reliability: bins known by counting."""

import numpy as np
import pytest

from recsys.calibration import reliability

NAN = np.nan


def test_bins_hold_equally_many_items_lowest_scores_first():
    scores = np.array([[0.4, 0.3, NAN], [0.2, 0.1, NAN]])
    hits = np.array([[True, False, False], [False, False, False]])
    low, high = reliability(scores, hits, ["u", "v"], num_bins=2)
    assert (low["score_low"], low["score_high"], low["shown"], low["hits"], low["hit_rate"]) == (0.1, 0.2, 2, 0, 0.0)
    assert (high["score_low"], high["score_high"], high["shown"], high["hits"], high["hit_rate"]) == (
        0.3,
        0.4,
        2,
        1,
        0.5,
    )
    assert high["score_mean"] == pytest.approx(0.35)


def test_equal_scores_share_a_bin():
    bins = reliability(np.ones((5, 4)), np.zeros((5, 4), bool), list("abcde"))
    assert [(one["shown"], one["hits"]) for one in bins] == [(20, 0)]


def test_every_shown_item_is_counted_once():
    rng = np.random.default_rng(0)
    scores, hits = rng.normal(size=(50, 7)), rng.random((50, 7)) < 0.2
    bins = reliability(scores, hits, [str(k % 9) for k in range(50)])
    assert len(bins) == 10
    assert sum(one["shown"] for one in bins) == 350
    assert sum(one["hits"] for one in bins) == hits.sum()
    assert all(0 <= one["low"] <= one["hit_rate"] <= one["high"] <= 1 for one in bins)


def test_the_interval_is_clustered_by_user():
    """Two users, one right every time and one never: the error is that of two observations, not of two hundred."""
    scores, hits = np.ones((2, 100)), np.repeat([[True], [False]], 100, axis=1)
    (apart,) = reliability(scores, hits, ["u", "v"])
    assert apart["high"] - apart["low"] > 0.9


def test_without_a_list_there_is_nothing_to_say():
    assert reliability(np.full((2, 3), NAN), np.zeros((2, 3), bool), ["u", "v"]) == []
