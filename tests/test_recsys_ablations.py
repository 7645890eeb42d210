"""Ablations: the same lists as a product that never had the part, from candidates found once."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import world
from features.builder import FeatureMatrix
from features.tables import Dataset
from ranking.examples import RankingExamples, SplitExamples
from recsys.ablations import RESEEDED, _fitted, _left_of, ablated_examples, retrained_rows
from recsys.errors import SettingsError
from recsys.evaluation import Evaluation, evaluate, render
from recsys.feature_groups import Ablation, ablations
from recsys.recommender import Recommender
from recsys.requests import Request
from recsys.settings import Settings, settings_from
from recsys.splits import split
from recsys.training import TrainingArtifacts, refit_ranker, train, train_with_examples
from tiny_bert import write_tiny_bert

ASKED = [Request(user=f"u{u:03d}", n=30) for u in range(0, world.NUM_USERS, 5)] + [Request(n=5)]


@pytest.fixture(scope="module")
def trained(tiny_dataset: Dataset, tiny_settings: Settings) -> TrainingArtifacts:
    return train_with_examples(tiny_dataset, tiny_settings)


def planned(trained: TrainingArtifacts) -> list[Ablation]:
    return ablations(Recommender(trained.model).candidates(ASKED[:1]).matrix.names)


def test_training_hands_out_what_its_ranker_learned_from(trained: TrainingArtifacts) -> None:
    """So the ranker that is fitted on it again is the model's own."""
    assert trained.examples is not None
    sources = [source.name for source in trained.model.sources]
    refitted: list[Any] = [refit_ranker(trained, trained.examples, sources, seed) for seed in (None, 0, 1)]
    same = [ranker.model_text == trained.model.ranker.model_text for ranker in refitted]  # type: ignore[attr-defined]
    assert same == [True, True, False]
    assert _fitted(trained, RESEEDED).recommender.model.ranker == refitted[2]
    assert np.shares_memory(trained.examples.train.features.values, trained.examples.everything.features.values)


def test_train_keeps_no_examples(tiny_dataset: Dataset, tiny_tree: dict[str, Any]) -> None:
    by_score = settings_from(tiny_tree | {"ranker": "by_score"})
    assert train_with_examples(tiny_dataset, by_score).examples is None


def test_what_is_left_of_the_candidates_is_what_the_other_sources_find(trained: TrainingArtifacts) -> None:
    """Pair by pair and feature by feature, as if the source had never been there."""
    asked = Recommender(trained.model).candidates(ASKED)
    for ablation in [a for a in planned(trained) if a.source is not None]:
        others = tuple(s for s in trained.model.sources if s.name != ablation.source)
        rebuilt = Recommender(dataclasses.replace(trained.model, sources=others)).candidates(ASKED)
        left = _left_of(asked, ablation)
        np.testing.assert_array_equal(left.found.pairs.item_rows, rebuilt.found.pairs.item_rows)
        np.testing.assert_array_equal(left.found.pairs.query_rows, rebuilt.found.pairs.query_rows)
        assert left.found.columns.keys() == rebuilt.found.columns.keys()
        assert left.matrix.names == rebuilt.matrix.names
        np.testing.assert_array_equal(left.matrix.values, rebuilt.matrix.values)


def test_an_item_that_only_one_source_offers_is_not_listed_without_it(
    tiny_dataset: Dataset, tiny_tree: dict[str, Any]
) -> None:
    """Transitions know at least the next three books of the own shelf, and only popularity offers the other shelf's."""
    two = train_with_examples(tiny_dataset, settings_from(tiny_tree | {"sources": ["transitions", "popularity"]}))
    lists, lengths = {}, {"popularity": 3, "transitions": 15}  # the ranker puts the own shelf first
    for ablation in [a for a in planned(two) if a.source is not None]:
        requests = [Request(user=f"u{u:03d}", n=lengths[str(ablation.source)]) for u in range(20)]
        asked = Recommender(two.model).candidates(requests)
        answers = _fitted(two, ablation).recommender.rank(_left_of(asked, ablation))
        lists[ablation.source] = [{item.item_id.split("-")[0] for item in answer.items} for answer in answers]
        assert not any(ablation.source in item.sources for answer in answers for item in answer.items)
    own = list(world.SHELVES)
    assert lists["popularity"] == [{own[u % 2]} for u in range(20)]
    assert lists["transitions"] == [set(own)] * 20


def test_rows_are_those_of_the_variants_lists(tiny_dataset: Dataset, tiny_settings: Settings) -> None:
    evaluation = evaluate(tiny_dataset, tiny_settings, experiments=["ablations"])
    trained = train_with_examples(split(tiny_dataset).train, tiny_settings)
    rows = {row["name"]: row for row in evaluation.ablations}
    assert list(rows) == [RESEEDED.name, *(ablation.name for ablation in planned(trained))]
    ablation = planned(trained)[1]
    alone = evaluate(tiny_dataset, task="live", model=_fitted(trained, ablation).recommender.model)
    row = rows[ablation.name]
    found = alone.compare(evaluation)
    assert row["ndcg@10"] == alone.product.mean()
    assert (row["difference"], row["low"], row["high"]) == (
        found.difference, found.interval.low, found.interval.high,
    )  # fmt: skip
    assert row["recall@50"] == alone.product.mean("recall@50")


@pytest.fixture(scope="module")
def by_score(tiny_dataset: Dataset, tiny_tree: dict[str, Any]) -> Evaluation:
    settings = settings_from(tiny_tree | {"sources": ["popularity", "transitions"], "ranker": "by_score"})
    return evaluate(tiny_dataset, settings, experiments=["ablations"])


def test_without_a_learned_ranker_the_other_sources_answer(by_score: Evaluation) -> None:
    """Transitions know the next book and come first; without them the lists are popularity's own."""
    rows = {row["name"]: row for row in by_score.ablations}
    assert list(rows) == ["without popularity", "without transitions"]
    systems = {system.name: system.mean() for system in by_score.systems}
    assert rows["without popularity"]["difference"] == 0.0
    assert rows["without transitions"]["ndcg@10"] == systems["popularity"] < systems["transitions"]


def test_the_table_says_what_each_part_is_worth(by_score: Evaluation) -> None:
    text = render(by_score)
    assert "without transitions" in text
    assert "Ablations" in text
    assert max(map(len, text.splitlines())) <= 120
    assert [row["name"] for row in by_score.to_json()["ablations"]] == ["without popularity", "without transitions"]


def examples() -> SplitExamples:
    """Three lists; the label of the first is offered by a alone, that of the others by b."""
    names = ("a:rank", "b:rank", "user:events")
    values = np.array([[1, np.nan, 5], [np.nan, 1, 5], [np.nan, 1, 6], [1, 2, 6], [np.nan, 1, 7]], np.float32)
    matrix = FeatureMatrix(names, values, np.array([0, 0, 1, 1, 2]))
    labels = np.array([1, 0, 1, 0, 1], np.float32)
    users = np.array([10, 11, 12])
    return SplitExamples(RankingExamples(matrix, labels, np.array([2, 2, 1]), users, np.array([1, 4, 1])), 2)


def test_lists_whose_label_nobody_offers_any_more_are_not_learned_from() -> None:
    left = ablated_examples(examples(), Ablation("without a", frozenset({"a:rank"}), "a"))
    assert (len(left.train), len(left.held_out)) == (1, 1)
    assert left.everything.users.tolist() == [11, 12]
    assert left.everything.groups.tolist() == [2, 1]
    assert left.everything.num_labels.tolist() == [4, 1]
    assert left.everything.labels.tolist() == [1, 0, 1]
    assert left.everything.features.query_rows.tolist() == [0, 0, 1]
    assert left.held_out.features.query_rows.tolist() == [0]
    assert left.held_out.features.values.tolist() == [[1, 7]]


def test_a_feature_group_leaves_every_list(trained: TrainingArtifacts) -> None:
    left = ablated_examples(examples(), Ablation("without user", frozenset({"user:events"})))
    assert left.everything.groups.tolist() == [2, 2, 1]
    assert left.everything.features.names == ("a:rank", "b:rank")


def test_text_and_fine_tuning_are_taken_away_by_training_anew(
    tmp_path: Path, tiny_dataset: Dataset, tiny_tree: dict[str, Any]
) -> None:
    words = sorted({w for row in world.item_rows() for w in f"{row['title']} {row['description']}".split()})
    folder = write_tiny_bert(tmp_path / "bert", words)
    tree = tiny_tree | {"encoder": {"model": str(folder), "cache": "off"}, "ranker": "by_score"}
    tree |= {"sources": ["text_profile", "popularity"]}
    rows = {row["name"]: row for row in retrained_rows(evaluate(tiny_dataset, settings_from(tree)))}
    assert list(rows) == ["without fine-tuning", "without text"]
    without_text = evaluate(tiny_dataset, settings_from(tree | {"encoder": {"model": "none"}}))
    assert rows["without text"]["ndcg@10"] == without_text.product.mean()
    nothing_left = evaluate(tiny_dataset, settings_from(tree | {"sources": ["text_profile"]}))
    assert [row["name"] for row in retrained_rows(nothing_left)] == ["without fine-tuning"]


def test_where_no_text_is_used_none_is_taken_away(by_score: Evaluation) -> None:
    assert retrained_rows(by_score) == []


def test_a_given_model_has_no_examples(tiny_dataset: Dataset, tiny_settings: Settings) -> None:
    model = train(split(tiny_dataset).train, tiny_settings)
    with pytest.raises(SettingsError, match="ablations refit the ranker"):
        evaluate(tiny_dataset, model=model, experiments=["ablations"])


def test_an_unknown_experiment_is_an_error(tiny_dataset: Dataset) -> None:
    with pytest.raises(SettingsError, match="unknown experiment 'ablation'"):
        evaluate(tiny_dataset, experiments=["ablation"])  # type: ignore[list-item]


def test_where_too_few_lists_are_left_to_learn_from_the_sources_order_is_used(trained: TrainingArtifacts) -> None:
    ranker: Any = refit_ranker(trained, examples(), ["transitions", "linear"])
    assert ranker.kind == "by_score"
    assert set(ranker.sources) == {"transitions", "linear"}
