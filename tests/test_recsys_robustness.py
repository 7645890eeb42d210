"""Robustness: noise that the encoder does not see changes nothing; what it sees moves text, and behaviour stays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import world
from features.noise import NOISES, Noise, cut_short, lower_case
from features.tables import Dataset
from recsys import robustness
from recsys.evaluation import Evaluation, evaluate, render
from recsys.model import FittedModel
from recsys.robustness import noisy_catalogue, noisy_embeddings
from recsys.settings import settings_from
from tiny_bert import write_tiny_bert


def same_text(_text: str, _rng: np.random.Generator) -> str:
    """Whatever it was: now all items of one brand and category read the same."""
    return "orbit"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory, tiny_tree: dict[str, Any]) -> dict[str, Any]:
    """The text profile alone decides, and reads titles and descriptions alone."""
    words = sorted({w for row in world.item_rows() for w in f"{row['title']} {row['description']}".split()})
    folder = write_tiny_bert(tmp_path_factory.mktemp("robust") / "bert", words)
    encoder = {"model": str(folder), "cache": "off", "text_columns": ["title", "description"]}
    return tiny_tree | {"encoder": encoder, "sources": ["text_profile"], "ranker": "by_score"}


@pytest.fixture(scope="module")
def evaluation(tree: dict[str, Any], tiny_dataset: Dataset) -> Evaluation:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NOISES, "same text", same_text)
        return evaluate(tiny_dataset, settings_from(tree), experiments=["robustness"])


def rows(evaluation: Evaluation) -> dict[str, Any]:
    return {row["name"]: row for row in evaluation.robustness}


def test_every_kind_of_noise_has_a_row(evaluation: Evaluation) -> None:
    assert list(rows(evaluation)) == [*NOISES, "same text"]


@pytest.mark.parametrize("name", ["lower case", "HTML left in"])
def test_noise_that_the_encoder_does_not_see_changes_nothing(name: str, evaluation: Evaluation) -> None:
    """This tokenizer knows no capitals, and markup is taken out before it reads."""
    row = rows(evaluation)[name]
    assert (row["overlap@10"], row["difference"], row["low"], row["high"]) == (1.0, 0.0, 0.0, 0.0)
    assert row["rbo"] == pytest.approx(1.0)


def test_where_all_texts_read_the_same_text_finds_nothing(evaluation: Evaluation) -> None:
    """All cosines are equal, so the list is the catalogue by its order, garden books first or last for everybody."""
    row = rows(evaluation)["same text"]
    assert row["ndcg@10"] == pytest.approx(evaluation.product.mean() + row["difference"])
    assert row["overlap@10"] < 0.6
    assert row["rbo"] < 0.6


def test_the_rows_are_in_the_json_and_on_the_terminal(evaluation: Evaluation) -> None:
    assert [row["name"] for row in evaluation.to_json()["robustness"]] == [*NOISES, "same text"]
    assert "swapped words" in render(evaluation)


def test_a_model_without_text_has_no_row(tiny_dataset: Dataset, tiny_tree: dict[str, Any]) -> None:
    settings = settings_from(tiny_tree | {"ranker": "by_score", "sources": ["popularity"]})
    assert evaluate(tiny_dataset, settings, experiments=["robustness"]).robustness == ()


def test_only_texts_that_changed_are_embedded_again(evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch) -> None:
    model = evaluation.model
    row = 7
    catalogue = model.catalogue
    frame = catalogue.frame.copy()
    frame.loc[row, "title"] = "compost compost compost"
    asked: list[str] = []
    encode = model.encoder.encode
    monkeypatch.setattr(model.encoder, "encode", lambda texts: asked.extend(texts) or encode(texts))
    changed = noisy_embeddings(model, type(catalogue)(catalogue.items, frame, catalogue.attributes))
    before = model.features.pairs.embeddings
    assert [text.split(".")[0] for text in asked] == ["compost compost compost"]
    assert np.flatnonzero((changed != before).any(axis=1)).tolist() == [row]


def changed_columns(model: FittedModel, noise: Noise, columns: list[str]) -> set[str]:
    catalogue = noisy_catalogue(model.catalogue, columns, noise, 0)
    assert catalogue is not None
    before, after = model.catalogue.frame, catalogue.frame
    return {str(c) for c in before if before[c].tolist() != after[c].tolist() and not before[c].isna().all()}


def test_noise_is_in_the_prose_alone(tiny_model: FittedModel) -> None:
    columns = ["title", "brand", "category", "description"]
    assert changed_columns(tiny_model, same_text, columns) == {"title", "description"}
    assert changed_columns(tiny_model, cut_short, columns) == {"description"}
    assert noisy_catalogue(tiny_model.catalogue, ["title"], cut_short, 0) is None
    assert noisy_catalogue(tiny_model.catalogue, ["brand", "category"], lower_case, 0) is None


def test_a_kind_of_noise_that_meets_no_text_has_no_row(
    evaluation: Evaluation, tree: dict[str, Any], tiny_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(robustness, "NOISES", {"cut short": cut_short, "lower case": lower_case})
    titles = settings_from(tree | {"encoder": tree["encoder"] | {"text_columns": ["title"]}})
    found = evaluate(tiny_dataset, titles, experiments=["robustness"])
    assert list(rows(found)) == ["lower case"]
