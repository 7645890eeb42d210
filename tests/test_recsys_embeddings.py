"""Other embeddings: all that reads text follows, and nothing else does."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pytest

from features.builder import FeatureSettings
from features.grid import on_grid
from features.histories import Histories
from features.interactions import EventSettings
from features.runs import Pairs
from features.tables import Dataset, IntArray
from handmade import NUM_ITEMS, handmade_model
from ranking.by_score import ByScoreRanker
from recsys.bundle import load_bundle, save_bundle
from recsys.choosing import first_choice
from recsys.embeddings import with_embeddings
from recsys.examples import fit_sources
from recsys.model import FittedModel
from recsys.recommender import Recommender
from recsys.requests import Request
from recsys.retrieval.base import FitData
from recsys.retrieval.scores import F32
from recsys.retrieval.text_profile import TextProfileSource
from recsys.settings import Settings


def paired() -> F32:
    """Item k points where item k + 6 does, and nowhere else."""
    return np.tile(np.eye(8, dtype=np.float32)[:6], (2, 1))


def only_text(model: FittedModel) -> FittedModel:
    sources = tuple(source for source in model.sources if source.name == TextProfileSource.name)
    return dataclasses.replace(model, sources=sources, ranker=ByScoreRanker.of({TextProfileSource.name: 1.0}))


@pytest.mark.parametrize("loaded", [False, True])
def test_the_lists_follow_the_embeddings(loaded: bool, tmp_path: Path) -> None:
    model = handmade_model()
    if loaded:
        save_bundle(model, tmp_path)
        model = load_bundle(tmp_path)
    changed = with_embeddings(only_text(model), paired())
    requests = [Request(recent=(f"i{k:02d}",), n=1) for k in range(6)]
    answers = Recommender(changed).recommend_many(requests)
    assert [answer.items[0].item_id for answer in answers] == [f"i{k + 6:02d}" for k in range(6)]


def test_features_follow_and_behaviour_stays() -> None:
    model = handmade_model()
    changed = with_embeddings(model, paired())
    np.testing.assert_array_equal(changed.features.pairs.embeddings, paired())
    assert changed.features.items is model.features.items
    assert changed.sources[0] is model.sources[0]
    assert (changed.ranker, changed.histories, changed.fallback) == (model.ranker, model.histories, model.fallback)
    assert not np.array_equal(model.features.pairs.embeddings, paired()), "the model given is as it was"


@dataclass(frozen=True)
class ProjectedSource:
    """Keeps not the embeddings but something made of them."""

    name: ClassVar[str] = "projected"
    doubled: F32

    def with_embeddings(self, embeddings: F32) -> ProjectedSource:
        return ProjectedSource(2 * embeddings)


def test_a_component_that_keeps_something_made_of_them_makes_it_again() -> None:
    model = handmade_model(sources=(ProjectedSource(np.zeros((NUM_ITEMS, 8), np.float32)),))
    source = with_embeddings(model, paired()).sources[0]
    assert isinstance(source, ProjectedSource)
    np.testing.assert_array_equal(source.doubled, 2 * paired())


def test_embeddings_of_another_catalogue_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3, 8\) can't stand in for ones of \(12, 8\)"):
        with_embeddings(handmade_model(), paired()[:3])


def test_a_model_without_text_stays_without(tiny_model: FittedModel) -> None:
    num_items = len(tiny_model.catalogue)
    changed = with_embeddings(tiny_model, np.ones((num_items, 4), np.float32))
    assert changed.features.pairs.embeddings.shape == (num_items, 0)


UNTOUCHED = ("space-05", "space-12", "garden-05", "garden-12")


def shelf_texts(dataset: Dataset) -> F32:
    """The text of a book says its shelf and a little of its own."""
    shelves = [item.split("-")[0] for item in dataset.catalogue.items.ids]
    vectors = np.random.default_rng(0).normal(0, 0.05, (len(shelves), 8))
    vectors[np.arange(len(shelves)), [int(shelf == "garden") for shelf in shelves]] += 1.0
    return on_grid(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), items=True)


def answers_at(model: FittedModel, item_rows: IntArray) -> dict[str, npt.NDArray[np.float32]]:
    """What every view of the sources and every feature says of the items, for a reader of each shelf."""
    read, n = model.catalogue.items.rows(["space-03", "garden-03"]), len(model.catalogue)
    alone, times = [read[:1], read[1:]], [np.zeros(1), np.zeros(1)]
    histories = Histories.build(alone, times, [np.ones(1), np.ones(1)], np.ones(2), n, np.ones(2, bool))
    pairs = Pairs(np.repeat(np.arange(2), len(item_rows)), np.tile(item_rows, 2))
    said = {
        f"{source.name}:{view}" if view else source.name: scores.at(pairs)
        for source in model.sources
        for view, scores in source.scores(histories).items()
    }
    features = model.features.build(histories, pairs, {})
    return said | {name: features.column(name) for name in features.names}


def test_all_that_learned_from_text_says_of_untouched_items_what_their_new_texts_say(
    tiny_dataset: Dataset, tiny_model: FittedModel, tiny_settings: Settings
) -> None:
    """Every default source and the features: each answers otherwise where it would have been fitted otherwise."""
    rows = tiny_dataset.catalogue.items.rows(list(UNTOUCHED))
    events = tiny_dataset.events.select(~np.isin(tiny_dataset.events.item_rows, rows))
    texts = shelf_texts(tiny_dataset)
    other = texts.copy()
    other[rows] = texts[rows[::-1]]  # space books read like garden books, and the other way round
    chosen = {name: first_choice(getattr(tiny_settings.retrieval, name)) for name in Settings().sources}

    def fitted(embeddings: F32) -> FittedModel:
        data = FitData(
            tiny_dataset.catalogue, events, len(tiny_dataset.users), EventSettings(), embeddings, seed=0, num_threads=1
        )
        features = data.features(FeatureSettings())
        return dataclasses.replace(tiny_model, sources=tuple(fit_sources(chosen, data)), features=features)

    model = fitted(texts)
    before = answers_at(model, rows)
    taught, changed = answers_at(fitted(other), rows), answers_at(with_embeddings(model, other), rows)
    learned = {name for name in before if not np.array_equal(before[name], taught[name], equal_nan=True)}
    follows = {name for name in before if not np.array_equal(before[name], changed[name], equal_nan=True)}
    text = {"text:last", "text:best_of_recent", "text:mean_of_recent"}
    assert learned == {"als", "als:other", "new_items", "sequence", "text_profile"} | text
    assert follows == learned
