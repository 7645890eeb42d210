"""Novelty, diversity and popularity against numbers worked by hand."""

import numpy as np
import pytest
import scipy.sparse as sp

from features.runs import Pairs
from recsys.beyond_accuracy import diversity, mean_of_lists, mean_of_pairs, self_information, taken, unit_rows
from recsys.list_rows import ABSENT

LISTS = np.array([[0, 1], [2, ABSENT], [ABSENT, ABSENT]], np.int32)


def test_an_item_that_half_of_the_users_have_says_one_bit():
    assert self_information(np.array([7, 3, 1, 0]), 15) == pytest.approx([1, 2, 3, 4])


def test_means_are_of_the_items_that_are_there():
    np.testing.assert_equal(mean_of_lists(LISTS, np.array([1.0, 3.0, 8.0])), [2.0, 8.0, np.nan])
    pairs = Pairs(np.array([0, 0, 2]), np.array([0, 1, 2]))
    np.testing.assert_equal(mean_of_pairs(pairs, np.array([1.0, 3.0, 8.0]), 3), [2.0, np.nan, 8.0])


def test_the_same_user_counts_once():
    matrix = taken(np.array([0, 0, 1]), np.array([2, 2, 2]), 3, 4)
    assert matrix.getnnz(axis=1).tolist() == [0, 0, 2, 0]
    assert matrix.data.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix], ids=["dense", "sparse"])
def test_the_diversity_is_the_mean_distance_of_all_pairs(form):
    """Three vectors, of which two are the same and one is at a right angle: distances 0, 1, 1."""
    vectors = form(np.array([[1, 0], [1, 0], [0, 1]], np.float32))
    assert diversity(np.array([[0, 1, 2]], np.int32), vectors) == pytest.approx([2 / 3])


def test_items_without_a_vector_say_nothing():
    vectors = np.array([[1, 0], [0.6, 0.8], [0, 0]], np.float32)
    lists = np.array([[0, 1, 2], [0, 2, ABSENT], [ABSENT] * 3], np.int32)
    np.testing.assert_allclose(diversity(lists, vectors), [0.4, np.nan, np.nan], atol=1e-6)


def test_unit_rows_leaves_zero_rows_alone():
    rows = unit_rows(sp.csr_matrix(np.array([[3.0, 4.0], [0.0, 0.0]]))).toarray()
    assert rows.tolist() == pytest.approx(np.array([[0.6, 0.8], [0.0, 0.0]]))


def test_items_of_the_same_users_are_alike():
    """Items 0 and 1 share their one user, item 2 has another."""
    vectors = unit_rows(taken(np.array([0, 0, 1]), np.array([0, 1, 2]), 2, 3))
    assert diversity(np.array([[0, 1], [0, 2]], np.int32), vectors) == pytest.approx([0, 1])
