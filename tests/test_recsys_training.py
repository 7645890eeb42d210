"""train(): what it makes of the tiny world, of poor worlds, and that it can't see the future."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import world
from features.blended_encoder import BlendedEncoder
from features.numpy_encoder import load_numpy_encoder
from features.tables import Dataset, Events
from ranking.by_score import ByScoreRanker
from recsys.bundle import load_bundle, save_bundle
from recsys.errors import SettingsError
from recsys.live_items import ItemChange, ItemEditor
from recsys.model import FittedModel
from recsys.recommender import Recommender
from recsys.requests import Request
from recsys.retrieval.wiring import SOURCES
from recsys.settings import Settings, settings_from
from recsys.training import sources_order, train, train_with_examples
from recsys.windows import label_windows
from tiny_bert import write_tiny_bert

Rows = list[dict[str, str]]


def load(folder: Path, events: Rows, items: Rows | None = None) -> Dataset:
    world.write_table(folder / "items.csv", world.item_rows() if items is None else items)
    world.write_table(folder / "events.csv", events, ["user_id", "item_id", "event", "timestamp"])
    return Dataset.load(folder)


def lists(model: FittedModel, *requests: Request) -> list[list[tuple[str, float]]]:
    return [[(i.item_id, i.score) for i in answer.items] for answer in Recommender(model).recommend_many(requests)]


ASKED = [Request(user=f"u{u:03d}", n=10) for u in range(0, world.NUM_USERS, 7)] + [Request(recent=("space-02",), n=5)]


def test_readers_get_the_next_books_of_their_own_shelf(tiny_model: FittedModel) -> None:
    answers = Recommender(tiny_model).recommend_many([Request(user=f"u{u:03d}", n=3) for u in range(20)])
    firsts = [answer.items[0].item_id for answer in answers]
    own = [list(world.SHELVES)[u % 2] for u in range(20)]
    assert [item.split("-")[0] for item in firsts] == own
    following = [world.item_id(shelf, 3 * u + world.EVENTS_PER_USER) for u, shelf in enumerate(own)]
    offered = [{item.item_id for item in answer.items} for answer in answers]
    assert sum(item in items for item, items in zip(following, offered, strict=True)) >= 18


def test_one_seed_gives_one_result(tiny_dataset: Dataset, tiny_settings: Settings, tiny_model: FittedModel) -> None:
    assert lists(train(tiny_dataset, tiny_settings), *ASKED) == lists(tiny_model, *ASKED)


def test_order_of_the_file_changes_nothing(tmp_path: Path, tiny_settings: Settings, tiny_model: FittedModel) -> None:
    rows = world.event_rows()
    np.random.default_rng(1).shuffle(rows)  # type: ignore[arg-type]
    assert lists(train(load(tmp_path, rows), tiny_settings), *ASKED) == lists(tiny_model, *ASKED)


def test_the_future_changes_nothing_that_is_fitted_for_a_window(tiny_dataset: Dataset, tiny_settings: Settings) -> None:
    """Whatever happens from a window's start on, what its sources are fitted on stays the same."""
    events, num_items = tiny_dataset.events, len(tiny_dataset.catalogue)

    def known(changed: Events) -> list[Events]:
        windows = label_windows(changed, num_items, tiny_settings.examples, tiny_settings.events, 0)
        return [window.known for window in windows]

    start = label_windows(events, num_items, tiny_settings.examples, tiny_settings.events, 0)[-1].as_of
    shuffled = events.item_rows.copy()
    later = events.times >= start
    shuffled[later] = np.random.default_rng(5).permutation(shuffled[later])
    assert (shuffled != events.item_rows).any()
    before, after = known(events)[-1], known(dataclasses.replace(events, item_rows=shuffled))[-1]
    np.testing.assert_array_equal(before.item_rows, after.item_rows)
    np.testing.assert_array_equal(before.times, after.times)


def test_shuffling_everything_after_t_leaves_the_evaluated_model_unchanged(
    tiny_dataset: Dataset, tiny_settings: Settings
) -> None:
    from recsys.splits import split

    events = tiny_dataset.events
    late = events.times >= np.quantile(events.times, 0.9)
    shuffled = events.item_rows.copy()
    shuffled[late] = np.random.default_rng(3).permutation(shuffled[late])
    other = tiny_dataset.with_events(dataclasses.replace(events, item_rows=shuffled))
    models = [train(split(data, "live").train, tiny_settings) for data in (tiny_dataset, other)]
    assert lists(models[0], *ASKED) == lists(models[1], *ASKED)


def test_text_trains_an_encoder_and_reports_what_it_was_worth(
    tmp_path: Path, tiny_dataset: Dataset, tiny_tree: dict[str, Any]
) -> None:
    words = sorted({w for row in world.item_rows() for w in f"{row['title']} {row['description']}".split()})
    folder = write_tiny_bert(tmp_path / "bert", words)
    model = train(tiny_dataset, settings_from(tiny_tree | {"encoder": {"model": str(folder), "cache": "off"}}))
    assert model.encoder is not None
    assert {source.name for source in model.sources} >= {"text_profile", "new_items"}
    report = model.report["encoder"]
    assert report["kept"] in {"fine-tuned", "pretrained"}
    assert report["reason"]
    if report["kept"] == "fine-tuned":
        assert report["finetuned_score"] > report["pretrained_score"]
    assert "text:last" in model.ranker.names  # type: ignore[attr-defined]


def test_the_sources_teach_the_encoder_where_the_settings_say_so(
    tmp_path: Path, tiny_dataset: Dataset, tiny_tree: dict[str, Any]
) -> None:
    folder = write_tiny_bert(tmp_path / "bert")
    encoder = {"model": str(folder), "cache": "off", "max_tokens": 16}
    quick = {
        "trainable": "projection", "projection_steps": 10, "batch_size": 16, "min_pairs": 50, "share_held_out": 0.4,
    }  # fmt: skip
    scores = []
    for taught in ({}, {"hard_negatives": 2, "hard_negative_pool": 6, "behaviour_alignment": 5.0}):
        tree = tiny_tree | {"encoder": encoder, "finetune": quick | taught, "ranker": "by_score"}
        report = train(tiny_dataset, settings_from(tree)).report["encoder"]
        assert report["stage"] == "projection", report["reason"]
        assert report["pretrained_share"] == (0.2 if report["kept"] == "fine-tuned" else 0.0)
        scores.append(report["finetuned_score"])
    assert scores[0] != scores[1]


def test_a_fine_tuned_encoder_keeps_the_pretrained_one_for_those_that_learn_texts_themselves(
    tmp_path: Path, tiny_dataset: Dataset, tiny_tree: dict[str, Any]
) -> None:
    words = sorted({w for row in world.item_rows() for w in f"{row['title']} {row['description']}".split()})
    encoder = {"model": str(write_tiny_bert(tmp_path / "bert", words)), "cache": "off", "max_tokens": 16}
    quick = {
        "trainable": "projection", "projection_steps": 200, "projection_learning_rate": 0.03, "batch_size": 24,
        "min_pairs": 50, "share_held_out": 0.4, "temperature": 0.05,
    }  # fmt: skip
    model = train(
        tiny_dataset, settings_from(tiny_tree | {"encoder": encoder, "finetune": quick, "ranker": "by_score"})
    )
    assert model.report["encoder"]["kept"] == "fine-tuned", model.report["encoder"]["reason"]
    assert isinstance(model.encoder, BlendedEncoder)
    size = model.encoder.pretrained.embedding_size
    by_name: dict[str, Any] = {source.name: source for source in model.sources}
    for map_of_text in (by_name["sequence"].text_projection, by_name["als"].projection):
        assert map_of_text.shape[0] == 2 * size
        assert not map_of_text[:size].any()
        assert map_of_text[size:].any()
    assert by_name["text_profile"].embeddings.shape[1] == 2 * size
    assert model.features.pairs.tuned_size == size, "the ranker sees both apart"
    version = save_bundle(model, tmp_path / "bundles")
    read = load_numpy_encoder(tmp_path / "bundles" / version / "encoder", 16)
    texts = ["rocket space", "rose garden"]
    assert (read.encode(texts) * model.encoder.encode(texts)).sum(axis=1).tolist() == pytest.approx([1, 1], abs=1e-4)
    served = load_bundle(tmp_path / "bundles")
    asked = [Request(str(user), n=20) for user in tiny_dataset.users.ids[:8]]
    assert Recommender(served).recommend_many(asked) == Recommender(model).recommend_many(asked)
    document = {
        "title": "rocket space 99",
        "category": "space",
        "brand": "press 0",
        "description": "a book about space",
    }
    changed = ItemEditor(served, read).with_items(served, [ItemChange("space-99", document)])
    row = changed.catalogue.items.row("space-99")
    embedding = changed.features.pairs.embeddings[row]
    assert np.linalg.norm(embedding[:size]) == pytest.approx(np.sqrt(0.8), abs=0.01)
    assert np.linalg.norm(embedding[size:]) == pytest.approx(np.sqrt(0.2), abs=0.01)
    vectors: dict[str, Any] = {source.name: source for source in changed.sources}
    assert vectors["als"].item_factors[row].any()
    assert vectors["sequence"].vectors[row].any()


def test_a_catalogue_without_text_trains_without_the_encoder(tmp_path: Path, tiny_tree: dict[str, Any]) -> None:
    dataset = load(tmp_path, world.event_rows(), [{"item_id": row["item_id"]} for row in world.item_rows()])
    model = train(dataset, settings_from(tiny_tree | {"encoder": {"model": "default"}}))
    assert model.encoder is None
    assert model.report["encoder"]["reason"] == "the catalogue has no text"
    assert len(lists(model, Request(user="u000", n=5))[0]) == 5


def poor(change: Callable[[Rows], Rows]) -> Rows:
    return change(world.event_rows())


POOR_WORLDS = {
    "zero events": poor(lambda _: []),
    "one event": poor(lambda rows: rows[:1]),
    "one user": poor(lambda rows: rows[: world.EVENTS_PER_USER]),
    "one item": poor(lambda rows: [row | {"item_id": "space-00"} for row in rows]),
    "one second": poor(lambda rows: [row | {"timestamp": str(world.START)} for row in rows]),
    "cancelled": poor(lambda rows: [row | {"event": "cancel"} for row in rows]),
}


@pytest.mark.parametrize("name", POOR_WORLDS)
def test_a_poor_world_makes_a_smaller_model_that_still_answers(
    name: str, tmp_path: Path, tiny_settings: Settings
) -> None:
    model = train(load(tmp_path, POOR_WORLDS[name]), tiny_settings)
    answers = Recommender(model).recommend_many(
        [Request(user="u000", n=10), Request(recent=("space-03",), n=10), Request(user="nobody", n=10)]
    )
    assert [len(answer.items) for answer in answers] == [10, 10, 10]
    assert all(answer.strategy in {"by_score", "popular"} for answer in answers)
    assert all(answer.reason for answer in answers)


def test_a_catalogue_of_one_item(tmp_path: Path, tiny_settings: Settings) -> None:
    rows = [row for row in world.event_rows() if row["item_id"] == "space-00"]
    model = train(load(tmp_path, rows, world.item_rows()[:1]), tiny_settings)
    assert lists(model, Request(user="nobody", n=10))[0][0][0] == "space-00"
    assert lists(model, Request(user=rows[0]["user_id"], n=10)) == [[]]


def test_where_the_sources_find_too_few_of_the_labels_their_joint_order_answers(
    tiny_dataset: Dataset, tiny_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recsys.ranker_training.MIN_FOUND", 10**6)
    trained = train_with_examples(tiny_dataset, tiny_settings)
    report = trained.model.report
    assert trained.examples is None
    assert report["ranker_reason"] == "the sources find too few of the labelled items"
    assert isinstance(trained.model.ranker, ByScoreRanker)
    joint = sources_order(list(report["sources"]), report)
    assert trained.model.ranker.named() == joint.named()
    alone = {name: found["window_ndcg@10"] for name, found in report["sources"].items()}
    assert next(iter(report["ranker_weights"])) == max(alone, key=lambda name: alone[name] or 0.0)


def test_a_single_source_can_run_alone(tiny_dataset: Dataset, tiny_tree: dict[str, Any]) -> None:
    model = train(tiny_dataset, settings_from(tiny_tree | {"sources": ["transitions"], "ranker": "by_score"}))
    answer = Recommender(model).recommend(Request(user="u000", n=30))
    assert answer.strategy == "by_score"
    assert answer.items[0].sources == ("transitions",)
    assert answer.items[-1].sources == ("popularity",)
    assert len(answer.items) == 30


def test_sources_that_need_text_say_so_where_there_is_none(tiny_dataset: Dataset, tiny_tree: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="work on texts"):
        train(tiny_dataset, settings_from(tiny_tree | {"sources": ["text_profile"]}))


@pytest.mark.parametrize(
    "tree",
    [
        {"examples": {"windows": 4, "window_share": 0.3}},
        {"events": {"history_limit": 0}},
        {"retrieval": {"als": {"half_life": []}}},
        {"retrieval": {"popularity": {"recent_share": [2.0]}}},
        {"retrieval": {"per_source": -1}},
        {"features": {"recent_shares": []}},
        {"lambdamart": {"num_leaves": 1}},
    ],
)
def test_settings_that_cannot_work_are_refused(tree: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        settings_from(tree)


def test_impressions_change_nothing(tmp_path: Path, tiny_settings: Settings, tiny_model: FittedModel) -> None:
    rows = world.event_rows()
    shown = [row | {"event": "impression", "item_id": "garden-00", "timestamp": str(world.START - 5)} for row in rows]
    model = train(load(tmp_path, rows + shown), tiny_settings)
    assert lists(model, *ASKED) == lists(tiny_model, *ASKED)


def test_a_source_that_gating_drops_is_not_asked_and_the_bundle_says_so(
    tmp_path: Path, tiny_dataset: Dataset, tiny_tree: dict[str, Any]
) -> None:
    """Nearly every source knows the tiny world by heart, so most can go; popularity, which guests need, stays."""
    from recsys.bundle import load_bundle, save_bundle
    from recsys.manifest import read_manifest

    gating = {"min_lists": 40, "trees": 10}
    model = train(tiny_dataset, settings_from(tiny_tree | {"gating": gating}))
    left = {source.name for source in model.sources}
    report = model.report["gating"]
    gone = set(SOURCES) & set(report["dropped"])
    assert len(gone) > 1
    assert left == set(SOURCES) - gone - {"text_profile", "new_items"}
    assert "popularity" in left
    assert not {name.partition(":")[0] for name in model.ranker.names} & gone  # type: ignore[attr-defined]
    version = save_bundle(model, tmp_path)
    assert lists(load_bundle(tmp_path), *ASKED) == lists(model, *ASKED)
    assert read_manifest(tmp_path / version)["report"]["gating"] == report
    guest = Recommender(model).recommend(Request(n=5))
    assert [item.sources for item in guest.items] == [("popularity",)] * 5
