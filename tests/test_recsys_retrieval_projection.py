"""New items in a world where the text decides: space readers take space books, garden readers garden books."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

from features.blended_encoder import blend
from features.grid import on_grid
from features.histories import Histories
from features.interactions import EventSettings
from features.runs import Pairs
from features.state import load_state, save_state
from features.tables import Dataset
from recsys.retrieval.als import AlsSettings, AlsSource
from recsys.retrieval.base import FitData
from recsys.retrieval.new_items import NewItemsSettings, NewItemsSource
from recsys.retrieval.projection import MIN_ITEMS, Training, fit_projection, mapped

NEW_SPACE, NEW_GARDEN = "space-05", "garden-05"
SETTINGS = AlsSettings(factors=4, iterations=5, alpha=(5.0,), half_life=(None,))


def as_rows(dataset: Dataset, *items: str) -> np.ndarray:
    return dataset.catalogue.items.rows(list(items))


def asked(dataset: Dataset, *items: str) -> Histories:
    rows = as_rows(dataset, *items)
    n = len(dataset.catalogue)
    return Histories.build([rows], [np.arange(len(rows))], [np.ones(len(rows))], np.zeros(1), n, np.ones(1, bool))


def data_without(dataset: Dataset, *new: str) -> FitData:
    """The tiny world in which nobody has touched `new`; the text says the shelf, and no more."""
    shelves = np.array([i.split("-")[0] for i in dataset.catalogue.items.ids])
    vectors = np.random.default_rng(0).normal(0, 0.05, (len(shelves), 8))
    vectors[np.arange(len(shelves)), (shelves == "garden").astype(int)] += 1.0
    embeddings = on_grid(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), items=True)
    events = dataset.events.select(~np.isin(dataset.events.item_rows, as_rows(dataset, *new)))
    return FitData(dataset.catalogue, events, len(dataset.users), EventSettings(), embeddings, seed=0, num_threads=1)


@pytest.fixture(scope="module")
def data(tiny_dataset: Dataset) -> FitData:
    return data_without(tiny_dataset, NEW_SPACE, NEW_GARDEN)


def score(source: AlsSource, dataset: Dataset, history: str, item: str) -> float:
    pair = Pairs(np.zeros(1, np.int64), as_rows(dataset, item))
    return float(source.scores(asked(dataset, history))[""].at(pair)[0])


def test_an_untouched_book_is_liked_by_the_readers_of_its_shelf(data: FitData, tiny_dataset: Dataset) -> None:
    source = AlsSource.fit(data, SETTINGS)
    space, garden = (score(source, tiny_dataset, "space-03", item) for item in (NEW_SPACE, NEW_GARDEN))
    assert space > 0.1
    assert abs(garden) < space / 4
    history = asked(tiny_dataset, "space-03", "space-04")
    top = source.scores(history)[""].top(18, history.seen)
    assert as_rows(tiny_dataset, NEW_SPACE)[0] in top.item_rows


def test_an_item_without_text_gets_no_factors(data: FitData, tiny_dataset: Dataset) -> None:
    assert data.embeddings is not None
    silent = data.embeddings.copy()
    silent[as_rows(tiny_dataset, NEW_SPACE)] = 0.0
    source = AlsSource.fit(dataclasses.replace(data, embeddings=silent), SETTINGS)
    assert not source.item_factors[as_rows(tiny_dataset, NEW_SPACE)].any()
    assert source.item_factors[as_rows(tiny_dataset, NEW_GARDEN)].any()
    assert not source.project(np.zeros((2, 8), np.float32)).any()


@pytest.mark.parametrize("changes", [{"from_text": False}, {}])
def test_without_text_or_when_told_so_nothing_is_projected(
    changes: dict[str, bool], data: FitData, tiny_dataset: Dataset
) -> None:
    known = data if changes else dataclasses.replace(data, embeddings=None)
    source = AlsSource.fit(known, SETTINGS.model_copy(update=changes))
    assert source.projection.shape == (0, 4)
    assert not source.item_factors[as_rows(tiny_dataset, NEW_SPACE)].any()
    assert source.project(np.ones((3, 8), np.float32)).shape == (3, 4)


def test_a_text_that_comes_later_gets_the_factors_of_one_that_was_there(data: FitData, tiny_dataset: Dataset) -> None:
    source = AlsSource.fit(data, SETTINGS)
    rows = as_rows(tiny_dataset, NEW_SPACE, NEW_GARDEN)
    assert data.embeddings is not None
    np.testing.assert_allclose(source.project(data.embeddings[rows]), source.item_factors[rows], atol=2**-11)


def with_exchanged_texts(embeddings: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Each of the items says what another of them said."""
    other = embeddings.copy()
    other[rows] = embeddings[rows[::-1]]
    return other


def test_over_other_texts_untouched_items_alone_get_other_factors(data: FitData, tiny_dataset: Dataset) -> None:
    source = AlsSource.fit(data, SETTINGS)
    rows = as_rows(tiny_dataset, NEW_SPACE, NEW_GARDEN)
    assert data.embeddings is not None
    other = source.with_embeddings(with_exchanged_texts(data.embeddings, rows))
    np.testing.assert_array_equal(other.item_factors[rows], source.project(data.embeddings[rows[::-1]]))
    touched = np.setdiff1d(np.arange(data.num_items), rows)
    np.testing.assert_array_equal(other.item_factors[touched], source.item_factors[touched])
    assert other.moved.tolist() == sorted(rows), "an index holds what they were"
    assert score(other, tiny_dataset, "space-03", NEW_GARDEN) > 0.1
    assert other.largest_norm == source.largest_norm
    rewritten = source.with_embeddings(with_exchanged_texts(data.embeddings, touched))
    np.testing.assert_array_equal(rewritten.item_factors, source.item_factors)
    assert not len(rewritten.moved)


def test_what_a_text_was_mixed_into_keeps_it(data: FitData, tiny_dataset: Dataset) -> None:
    """The texts of before are not kept, so what they gave to touched items can't be taken back."""
    source = AlsSource.fit(data, SETTINGS.model_copy(update={"text_evidence": 9.0}))
    assert data.embeddings is not None
    other = source.with_embeddings(data.embeddings[::-1].copy())
    changed = np.flatnonzero((other.item_factors != source.item_factors).any(axis=1))
    assert changed.tolist() == sorted(as_rows(tiny_dataset, NEW_SPACE, NEW_GARDEN))


def test_a_source_without_a_map_stays_over_other_texts(data: FitData) -> None:
    source = AlsSource.fit(data, SETTINGS.model_copy(update={"from_text": False}))
    assert source.with_embeddings(np.ones((data.num_items, 8), np.float32)) is source


def test_a_bundle_from_before_untouched_items_were_kept_can_be_read(data: FitData, tmp_path: Path) -> None:
    source = AlsSource.fit(data, SETTINGS)
    save_state(source, tmp_path / "als")
    (tmp_path / "als" / "untouched_rows.npy").unlink()
    loaded = load_state(AlsSource, tmp_path / "als")
    np.testing.assert_array_equal(loaded.item_factors, source.item_factors)
    assert loaded.untouched_rows.tolist() == []


def blended(data: FitData, tuned: np.ndarray, share: float) -> FitData:
    """The same texts with a fine-tuned part before them."""
    assert data.embeddings is not None
    both = on_grid(blend(tuned.astype(np.float32), data.embeddings, share), items=True)
    return dataclasses.replace(data, embeddings=both, tuned_size=tuned.shape[1])


def test_of_a_blend_the_pretrained_part_alone_is_learned_from(data: FitData, tiny_dataset: Dataset) -> None:
    """Whatever fine-tuning has made of the texts, ALS says the same of a new book."""
    rng = np.random.default_rng(5)
    tuned = rng.normal(size=(data.num_items, 5))
    tuned /= np.linalg.norm(tuned, axis=1, keepdims=True)
    rows = as_rows(tiny_dataset, NEW_SPACE, NEW_GARDEN)
    plain = AlsSource.fit(data, SETTINGS)
    for share in (0.2, 0.9):
        known = blended(data, tuned, share)
        np.testing.assert_allclose(known.plain_texts, data.embeddings, atol=4e-3)
        source = AlsSource.fit(known, SETTINGS)
        assert source.projection.shape == (5 + 8, 4)
        np.testing.assert_allclose(source.item_factors[rows], plain.item_factors[rows], atol=0.02)
        assert known.embeddings is not None
        np.testing.assert_allclose(source.project(known.embeddings[rows]), source.item_factors[rows], atol=2**-10)
        assert not source.projection[:5].any()
        changed = source.with_embeddings(with_exchanged_texts(known.embeddings, rows))
        np.testing.assert_array_equal(changed.item_factors[rows], source.project(known.embeddings[rows[::-1]]))
        retold = known.embeddings.copy()
        retold[:, :5] = retold[::-1, :5]
        np.testing.assert_array_equal(source.with_embeddings(retold).item_factors, source.item_factors)


def test_without_a_fine_tuned_part_all_is_read(data: FitData) -> None:
    projection = np.ones((8, 3), np.float32)
    assert data.plain_texts is data.embeddings
    assert data.of_embeddings(projection) is projection
    assert dataclasses.replace(data, embeddings=None).plain_texts is None


def test_what_happens_later_changes_nothing(data: FitData, tiny_dataset: Dataset) -> None:
    """The source knows what it is fitted on: shuffling the items of all later events leaves it as it was."""
    cut = float(np.quantile(data.events.times, 0.6))
    later = data.events.times >= cut
    shuffled = data.events.item_rows.copy()
    shuffled[later] = np.random.default_rng(1).permutation(shuffled[later])
    other = dataclasses.replace(data.events, item_rows=shuffled)
    first, second = (
        AlsSource.fit(dataclasses.replace(data, events=events.before(cut)), SETTINGS) for events in (data.events, other)
    )
    np.testing.assert_array_equal(first.item_factors, second.item_factors)
    np.testing.assert_array_equal(first.projection, second.projection)


def test_text_evidence_draws_touched_items_to_their_text(data: FitData) -> None:
    own, mixed, text = (
        AlsSource.fit(data, SETTINGS.model_copy(update={"text_evidence": evidence})) for evidence in (0.0, 9.0, 1e9)
    )
    assert data.embeddings is not None
    touched = data.matrix.getnnz(axis=0) > 0
    counts = data.matrix.getnnz(axis=0)[touched][:, None]
    mean = own.item_factors * own.largest_norm
    guess = mapped(data.embeddings, own.projection)
    expected = (counts * mean[touched] + 9.0 * guess[touched]) / (counts + 9.0)
    np.testing.assert_allclose(mixed.item_factors[touched] * mixed.largest_norm, expected, atol=2e-3)
    np.testing.assert_allclose(text.item_factors * text.largest_norm, guess, atol=2e-3)


def linear_world(noise: float, factor_scale: float = 1.0) -> tuple[Training, np.ndarray]:
    """Factors that are a linear map of the text, and the preference of each pair equal to its score."""
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(400, 6))
    true = rng.normal(size=(6, 3)) * factor_scale
    users = rng.normal(size=(50, 3))
    clean = embeddings @ true
    factors = clean + noise * rng.normal(size=clean.shape)
    gram = users.T @ users
    return Training(embeddings, factors, np.full(400, 10), clean @ gram, gram), true


def test_a_linear_map_is_found_again() -> None:
    training, true = linear_world(noise=0.0)
    projection = fit_projection(training, np.random.default_rng(0))
    assert projection is not None
    np.testing.assert_allclose(projection, true, atol=0.05 * np.abs(true).max())


def test_a_map_shrunk_by_a_heavy_penalty_is_scaled_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.retrieval.projection.PENALTIES", (100.0,))
    training, true = linear_world(noise=0.0)
    projection = fit_projection(training, np.random.default_rng(0))
    assert projection is not None
    assert np.linalg.norm(projection) == pytest.approx(np.linalg.norm(true), rel=0.1)


def test_too_few_items_teach_nothing() -> None:
    training, _ = linear_world(noise=0.0)
    assert fit_projection(training.of(np.arange(MIN_ITEMS - 1)), np.random.default_rng(0)) is None
    untouched = dataclasses.replace(training, counts=np.zeros(400, np.int64))
    assert fit_projection(untouched, np.random.default_rng(0)) is None


def new_items(data: FitData, **changes: object) -> NewItemsSource:
    settings = {"attribute_weight": (2.0,), "half_life": (5.0,)} | changes
    source = NewItemsSource.fit(data, NewItemsSettings.model_validate(settings))
    assert source is not None
    return source


def test_new_items_are_offered_by_shelf_even_without_a_text(data: FitData, tiny_dataset: Dataset) -> None:
    """Attributes speak for an item where its text is missing; category, brand and word say the shelf."""
    assert data.embeddings is not None
    silent = dataclasses.replace(data, embeddings=np.zeros_like(data.embeddings))
    history = asked(tiny_dataset, "garden-01", "garden-02")
    for known in (data, silent):
        top = new_items(known).scores(history)[""].top(1, history.seen)
        assert top.item_rows.tolist() == as_rows(tiny_dataset, NEW_GARDEN).tolist()
    assert not len(new_items(silent, attribute_weight=(0.0,)).scores(history)[""].top(1, history.seen).item_rows)


def test_few_events_make_an_item_new_only_if_they_are_recent(data: FitData, tiny_dataset: Dataset) -> None:
    """Of two books taken once, the one taken first of all is old, the one taken last of all is new."""
    old, young = as_rows(tiny_dataset, "space-00", "space-10")
    events = data.events.select(~np.isin(data.events.item_rows, [old, young]))
    events = dataclasses.replace(events, item_rows=events.item_rows.copy())
    events.item_rows[np.argmin(events.times)], events.item_rows[np.argmax(events.times)] = old, young
    known = dataclasses.replace(data, events=events)
    rows = new_items(known).new_rows.tolist()
    assert young in rows
    assert old not in rows
    untouched = set(as_rows(tiny_dataset, NEW_SPACE, NEW_GARDEN).tolist())
    assert set(rows) == untouched | {young}
    assert set(new_items(known, max_events=0).new_rows.tolist()) == untouched
    ordered = dataclasses.replace(events, clock="sequence")
    assert set(new_items(dataclasses.replace(known, events=ordered)).new_rows.tolist()) == untouched


def test_content_is_the_sum_of_text_and_attributes(data: FitData, tiny_dataset: Dataset) -> None:
    history = asked(tiny_dataset, "space-03")
    source = new_items(data)
    item = as_rows(tiny_dataset, NEW_SPACE)
    got = source.scores(history)[""].at(Pairs(np.zeros(1, np.int64), item))[0]
    assert data.embeddings is not None
    read = as_rows(tiny_dataset, "space-03")
    text = float((data.embeddings[read] @ data.embeddings[item].T)[0, 0])
    attributes: sp.csr_matrix = source.attributes
    affinity = float((attributes[read] @ attributes[item].T).toarray()[0, 0])
    assert affinity > 0
    assert got == pytest.approx(text + 2.0 * affinity, abs=2e-3)
