"""The contract of every candidate source, run over all of them in the tiny world."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from features.grid import on_grid
from features.histories import Histories
from features.interactions import EventSettings
from features.item_sets import ItemSets
from features.runs import Pairs
from features.settings import Settings as ComponentSettings
from features.state import load_state, save_state
from features.tables import Dataset
from recsys.choosing import first_choice
from recsys.embeddings import replace_embeddings
from recsys.retrieval.base import FitData
from recsys.retrieval.buy_again import FrequencySource, RecencySource
from recsys.retrieval.repeat import RepeatSource
from recsys.retrieval.scores import Scores
from recsys.retrieval.wiring import SOURCES, RetrievalSettings
from recsys.settings import Settings

HISTORY_SOURCES = {kind.name: kind for kind in (RepeatSource, FrequencySource, RecencySource)}
ALL: dict[str, Any] = SOURCES | HISTORY_SOURCES


def shelf_embeddings(dataset: Dataset) -> np.ndarray:
    """Space books point one way, garden books another, each with a little of its own."""
    ids = dataset.catalogue.items.ids
    vectors = np.random.default_rng(0).normal(0, 0.1, (len(ids), 8))
    vectors[:, 0] += [1.0 if i.startswith("space") else 0.0 for i in ids]
    vectors[:, 1] += [1.0 if i.startswith("garden") else 0.0 for i in ids]
    return on_grid(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), items=True)


@pytest.fixture(scope="session")
def fit_data(tiny_dataset: Dataset) -> FitData:
    return FitData(
        tiny_dataset.catalogue, tiny_dataset.events, len(tiny_dataset.users), EventSettings(),
        shelf_embeddings(tiny_dataset), seed=0, num_threads=1,
    )  # fmt: skip


def fitted(name: str, data: FitData, retrieval: RetrievalSettings) -> Any:
    return ALL[name].fit(data, first_choice(getattr(retrieval, name, ComponentSettings())))


@pytest.fixture(params=sorted(ALL))
def source(request: pytest.FixtureRequest, fit_data: FitData, tiny_settings: Settings) -> Any:
    return fitted(request.param, fit_data, tiny_settings.retrieval)


def histories(dataset: Dataset, *lists: list[str]) -> Histories:
    rows = [dataset.catalogue.items.rows(items) for items in lists]
    orders = [np.arange(len(items), dtype=float) for items in lists]
    weights = [np.ones(len(items)) for items in lists]
    n = len(lists)
    return Histories.build(rows, orders, weights, np.zeros(n), len(dataset.catalogue), np.ones(n, bool))


NAMES = [["space-01", "space-02"], ["garden-05"], [], ["space-07", "garden-07", "space-07"]]


def dense(scores: Scores, n: int, num_items: int) -> np.ndarray:
    pairs = Pairs(np.repeat(np.arange(n), num_items), np.tile(np.arange(num_items), n))
    return scores.at(pairs).reshape(n, num_items)


def test_top_is_sorted_distinct_unblocked_and_agrees_with_at(source: Any, tiny_dataset: Dataset) -> None:
    asked = histories(tiny_dataset, *NAMES)
    for scores in source.scores(asked).values():
        top = scores.top(7, asked.seen)
        for row in range(len(asked)):
            items = top.item_rows[top.query_rows == row]
            assert len(items) == len(set(items)) <= 7
            assert not np.isin(items, asked.seen.row(row)).any()
            values = scores.at(Pairs(np.full(len(items), row), items)).astype(float)
            assert np.all(np.diff(values) <= 1e-6)


def test_a_history_is_answered_the_same_alone_and_in_any_company(source: Any, tiny_dataset: Dataset) -> None:
    together = histories(tiny_dataset, *NAMES)
    for row, names in enumerate(NAMES):
        alone = histories(tiny_dataset, names)
        for view, scores in source.scores(alone).items():
            joined = source.scores(together)[view]
            expected = dense(joined, len(NAMES), len(tiny_dataset.catalogue))[row]
            np.testing.assert_array_equal(dense(scores, 1, len(tiny_dataset.catalogue))[0], expected)
            first, second = scores.top(9, alone.seen), joined.top(9, together.seen)
            np.testing.assert_array_equal(first.item_rows, second.item_rows[second.query_rows == row])


def test_only_allowed_items_come_back(source: Any, tiny_dataset: Dataset) -> None:
    asked = histories(tiny_dataset, *NAMES)
    allowed = np.array([i.endswith("3") for i in tiny_dataset.catalogue.items.ids])
    top = source.scores(asked)[""].top(50, asked.seen, allowed)
    assert allowed[top.item_rows].all()


def test_what_reads_text_follows_other_embeddings(
    source: Any, fit_data: FitData, tiny_settings: Settings, tiny_dataset: Dataset
) -> None:
    """It answers differently over other embeddings where those would have taught it something else, and only there."""
    asked = histories(tiny_dataset, *NAMES)

    def answers(answering: Any) -> np.ndarray:
        views = answering.scores(asked).values()
        return np.stack([dense(scores, len(asked), len(tiny_dataset.catalogue)) for scores in views])

    assert fit_data.embeddings is not None
    np.testing.assert_array_equal(answers(replace_embeddings(source, fit_data.embeddings)), answers(source))
    other = fit_data.embeddings[::-1].copy()
    taught = fitted(source.name, dataclasses.replace(fit_data, embeddings=other), tiny_settings.retrieval)
    reads_text = not np.array_equal(answers(taught), answers(source))
    follows = not np.array_equal(answers(replace_embeddings(source, other)), answers(source))
    assert follows == reads_text


def test_save_and_load_change_nothing(source: Any, tiny_dataset: Dataset, tmp_path: Path) -> None:
    save_state(source, tmp_path / "state")
    loaded = load_state(type(source), tmp_path / "state")
    asked = histories(tiny_dataset, *NAMES)
    for view, scores in source.scores(asked).items():
        again = dense(loaded.scores(asked)[view], len(asked), len(tiny_dataset.catalogue))
        np.testing.assert_array_equal(dense(scores, len(asked), len(tiny_dataset.catalogue)), again)


def test_fitting_twice_gives_the_same(source: Any, fit_data: FitData, tiny_settings: Settings) -> None:
    assert_same(source, fitted(source.name, fit_data, tiny_settings.retrieval))


def assert_same(one: Any, other: Any) -> None:
    for field in dataclasses.fields(one):
        first, second = getattr(one, field.name), getattr(other, field.name)
        if dataclasses.is_dataclass(first):
            assert_same(first, second)
        elif sp.issparse(first):
            assert (first != second).nnz == 0
        elif isinstance(first, np.ndarray):
            np.testing.assert_array_equal(first, second)
        else:
            assert first == second


@pytest.mark.parametrize("name", sorted(set(SOURCES) - {"popularity", "new_items"}))
def test_a_space_reader_is_offered_space(
    name: str, fit_data: FitData, tiny_settings: Settings, tiny_dataset: Dataset
) -> None:
    asked = histories(tiny_dataset, ["space-03", "space-04", "space-05"])
    top = fitted(name, fit_data, tiny_settings.retrieval).scores(asked)[""].top(3, asked.seen)
    assert len(top.item_rows)
    assert all(tiny_dataset.catalogue.items.ids[row].startswith("space") for row in top.item_rows)


@pytest.mark.parametrize("name", sorted(HISTORY_SOURCES))
def test_sources_of_the_history_offer_it_and_nothing_else(
    name: str, fit_data: FitData, tiny_settings: Settings, tiny_dataset: Dataset
) -> None:
    asked = histories(tiny_dataset, *NAMES)
    scores = fitted(name, fit_data, tiny_settings.retrieval).scores(asked)[""]
    found = dense(scores, len(NAMES), len(tiny_dataset.catalogue))
    for row in range(len(NAMES)):
        np.testing.assert_array_equal(np.flatnonzero(found[row] > 0), asked.seen.row(row))
    assert len(scores.top(50, ItemSets.empty(len(NAMES))).item_rows) == len(asked.seen.item_rows)
    assert not len(scores.top(50, asked.seen).item_rows)


def test_transitions_offer_the_next_book(fit_data: FitData, tiny_settings: Settings, tiny_dataset: Dataset) -> None:
    asked = histories(tiny_dataset, ["space-03", "space-04", "space-05"])
    top = fitted("transitions", fit_data, tiny_settings.retrieval).scores(asked)["last"].top(1, asked.seen)
    assert tiny_dataset.catalogue.items.ids[top.item_rows[0]] == "space-06"


def test_no_source_needs_events(tiny_settings: Settings, fit_data: FitData, tiny_dataset: Dataset) -> None:
    nothing = dataclasses.replace(fit_data, events=fit_data.events.before(0.0))
    asked = histories(tiny_dataset, *NAMES)
    for name in ALL:
        top = fitted(name, nothing, tiny_settings.retrieval).scores(asked)[""].top(5, asked.seen)
        assert np.isin(top.query_rows, range(4)).all()


def test_popularity_knows_every_item(fit_data: FitData, tiny_settings: Settings, tiny_dataset: Dataset) -> None:
    asked = histories(tiny_dataset, [])
    top = fitted("popularity", fit_data, tiny_settings.retrieval).scores(asked)[""].top(1000, asked.seen)
    assert sorted(top.item_rows) == list(range(len(tiny_dataset.catalogue)))


def test_als_fold_in_is_the_step_that_implicit_takes(fit_data: FitData, tiny_settings: Settings) -> None:
    from implicit.cpu.als import AlternatingLeastSquares
    from threadpoolctl import threadpool_limits

    source = fitted("als", fit_data, tiny_settings.retrieval)
    with threadpool_limits(1, "blas"):
        model = AlternatingLeastSquares(
            factors=8, regularization=source.regularization, alpha=source.alpha, num_threads=1, use_cg=False
        )
    model.item_factors = np.asarray(source.item_factors * source.largest_norm, np.float32)
    row = sp.csr_matrix(([1.0, 1.0], ([0, 0], [1, 4])), shape=(1, fit_data.num_items), dtype=np.float32)
    asked = Histories.build(
        [np.array([1, 4])], [np.array([0.0, 1.0])], [np.ones(2)], np.zeros(1), fit_data.num_items, np.ones(1, bool)
    )
    expected = model.recalculate_user(np.array([0]), row)
    np.testing.assert_allclose(source.fold_in(asked, None), expected, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("block", [7, 1024])
def test_linear_is_the_closed_form_of_ease(
    block: int, fit_data: FitData, tiny_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recsys.retrieval.linear.BLOCK", block)
    source = fitted("linear", fit_data, tiny_settings.retrieval)
    x = fit_data.matrix.toarray().astype(np.float64)
    p = np.linalg.inv(x.T @ x + 10.0 * np.eye(x.shape[1]))
    expected = -p / np.diag(p)[None, :]
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(source.weights.toarray(), expected, atol=2e-5)


def test_the_order_of_rows_inside_a_basket_changes_nothing(source: Any, tiny_dataset: Dataset) -> None:
    items = tiny_dataset.catalogue.items.rows(["space-01", "space-08", "garden-02"])

    def basket(rows: np.ndarray) -> Histories:
        n = len(tiny_dataset.catalogue)
        return Histories.build([rows], [np.ones(3)], [np.ones(3)], np.array([2.0]), n, np.ones(1, bool))

    one, other = source.scores(basket(items))[""], source.scores(basket(items[::-1]))[""]
    n = len(tiny_dataset.catalogue)
    np.testing.assert_array_equal(dense(one, 1, n), dense(other, 1, n))
