"""Other embeddings: all that reads text follows, and nothing else does."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from handmade import NUM_ITEMS, handmade_model
from ranking.by_score import ByScoreRanker
from recsys.bundle import load_bundle, save_bundle
from recsys.embeddings import with_embeddings
from recsys.model import FittedModel
from recsys.recommender import Recommender
from recsys.requests import Request
from recsys.retrieval.scores import F32
from recsys.retrieval.text_profile import TextProfileSource


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
