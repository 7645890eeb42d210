"""Repeats end to end: a world of habits, in which everybody takes a staple every third day and a new book every day."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import recsys.ranker_training
import recsys.training
import world
from features.interactions import EventSettings
from features.tables import Dataset, Events, IntArray
from ranking.examples import SplitExamples
from ranking.lambdamart import LambdaMartRanker
from recsys.bundle import load_bundle, save_bundle, show
from recsys.choosing import Choice, choose_settings, first_choice
from recsys.errors import SettingsError
from recsys.evaluation import evaluate, render
from recsys.examples import FittedWindow, check_no_leak, window_examples
from recsys.feature_groups import Ablation, ablated_examples, ablations
from recsys.gating import Gated
from recsys.model import FittedModel
from recsys.recommender import Recommender
from recsys.requests import Request
from recsys.retrieval.base import FitData
from recsys.retrieval.popularity import PopularitySettings, PopularitySource
from recsys.settings import Settings, settings_from
from recsys.splits import split
from recsys.training import train
from recsys.windows import ExampleSettings, LabelWindow, label_windows

DAYS = 10
STAPLES = ("garden-19", "space-19", "garden-18", "space-18")
WINDOWS = ExampleSettings(windows=2, window_share=0.2)


def staple(user: int) -> str:
    return STAPLES[user % len(STAPLES)]


def habit_rows(clock: bool) -> list[dict[str, str]]:
    """User u takes its staple on days u % 3, u % 3 + 3, ... and book 3 u + day of its shelf on each of the ten."""
    rows = []
    for user in range(world.NUM_USERS):
        for day in range(DAYS):
            shelf = list(world.SHELVES)[user % 2]
            taken = [f"{shelf}-{(3 * user + day) % 17:02d}"] + ([staple(user)] if day % 3 == user % 3 else [])
            stamp = world.START + day * world.DAY + user * 977
            when = {"timestamp": str(stamp)} if clock else {"sequence": str(day)}
            rows += [{"user_id": f"u{user:03d}", "item_id": item, "event": "purchase"} | when for item in taken]
    return rows


def habits(folder: Path, clock: bool = True) -> Dataset:
    world.write_table(folder / "items.csv", world.item_rows())
    world.write_table(folder / "events.csv", habit_rows(clock))
    return Dataset.load(folder)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return habits(tmp_path_factory.mktemp("habits"))


@pytest.fixture(scope="module")
def ordered(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return habits(tmp_path_factory.mktemp("ordered"), clock=False)


@pytest.fixture(scope="module")
def model(dataset: Dataset, tiny_settings: Settings) -> FittedModel:
    return train(dataset, tiny_settings)


def request(user: int, n: int = 5, exclude_seen: bool | None = False) -> Request:
    """At the time of the user's next moment, a day after its last."""
    at = float(world.START + DAYS * world.DAY + user * 977)
    return Request(user=f"u{user:03d}", at=at, n=n, exclude_seen=exclude_seen)


def answers(model: FittedModel, *requests: Request) -> list[list[tuple[str, float]]]:
    return [[(i.item_id, i.score) for i in answer.items] for answer in Recommender(model).recommend_many(requests)]


def windows_of(dataset: Dataset) -> list[LabelWindow]:
    return label_windows(dataset.events, len(dataset.catalogue), WINDOWS, EventSettings(), seed=0, repeats=True)


def fit_data(dataset: Dataset, events: Events) -> FitData:
    return FitData(dataset.catalogue, events, len(dataset.users), EventSettings(), None, seed=0, num_threads=1)


def test_a_staple_comes_first_on_the_day_it_is_due_and_not_before(model: FittedModel) -> None:
    """On day 10 those are due who took it on day 7; those who took it on day 9 or 8 will take it later."""
    tops = [[item for item, _ in made] for made in answers(model, *(request(user, n=2) for user in range(60)))]
    due = [staple(user) in tops[user] for user in range(60) if user % 3 == DAYS % 3]
    fresh = [tops[user][0] == staple(user) for user in range(60) if user % 3 == (DAYS - 1) % 3]
    assert np.mean(due) > 0.9
    assert np.mean(fresh) < 0.1


def test_lists_without_the_history_are_made_as_if_there_were_no_repeats(
    model: FittedModel, dataset: Dataset, tiny_tree: dict[str, Any]
) -> None:
    other = train(dataset, settings_from(tiny_tree | {"examples": {"min_repeat_share": 1.0}}))
    assert other.repeats is None
    asked = [request(user, exclude_seen=None) for user in range(20)]
    assert answers(model, *asked) == answers(other, *asked)
    assert not any(staple(user) in dict(made) for user, made in enumerate(answers(model, *asked)))


def test_lists_of_the_users_who_judge_choose_no_settings_and_train_no_ranker(
    dataset: Dataset, tiny_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the ranker of lists with repeats that is judged, nor that of lists without."""
    chosen_by: set[int] = set()
    learned_from: set[tuple[bool, int]] = set()
    judged_by: set[tuple[bool, int]] = set()

    def choosing(kind: Any, settings: Any, data: FitData, window: LabelWindow, rows: IntArray) -> Choice:
        chosen_by.update(window.users[rows].tolist())
        return choose_settings(kind, settings, data, window, rows)

    def making(fitted: FittedWindow, window: LabelWindow, held_out: Any, settings: Settings, number: int) -> Any:
        parts = window_examples(fitted, window, held_out, settings, number)
        for part, users in zip(parts, (learned_from, judged_by), strict=True):
            users.update((window.repeats, user) for user in part.users.tolist())
        return parts

    monkeypatch.setattr(recsys.training, "choose_settings", choosing)
    monkeypatch.setattr(recsys.training, "window_examples", making)
    train(dataset, tiny_settings)
    judges = {user for _, user in judged_by}
    assert {repeats for repeats, _ in judged_by} == {False, True}
    assert chosen_by
    assert not chosen_by & judges
    assert not {user for _, user in learned_from} & judges


def test_where_no_ranker_is_learned_everybody_chooses_the_sources_settings(
    dataset: Dataset, tiny_tree: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    shares: list[float] = []

    def choosing(kind: Any, settings: Any, data: FitData, window: LabelWindow, rows: IntArray) -> Choice:
        shares.append(len(rows) / len(window))
        return choose_settings(kind, settings, data, window, rows)

    monkeypatch.setattr(recsys.training, "choose_settings", choosing)
    train(dataset, settings_from(tiny_tree))
    assert 0.5 < min(shares) <= max(shares) < 1
    shares.clear()
    train(dataset, settings_from(tiny_tree | {"ranker": "by_score"}))
    assert set(shares) == {1.0}


def test_without_a_list_to_choose_by_the_first_settings_are_taken_and_no_figure_is_given(dataset: Dataset) -> None:
    window = windows_of(dataset)[0]
    data, settings = fit_data(dataset, window.known), PopularitySettings()
    found = choose_settings(PopularitySource, settings, data, window, np.empty(0, np.int64))
    assert found.ndcg is None
    assert found.settings == first_choice(settings)
    assert choose_settings(PopularitySource, settings, data, window, np.arange(len(window))).ndcg is not None


def test_where_nobody_repeats_lists_are_made_by_the_only_ranker(tiny_model: FittedModel) -> None:
    assert tiny_model.report["repeats"]["share_with_repeat"] == 0
    assert tiny_model.repeats is None
    assert tiny_model.chain(exclude_seen=False) == tiny_model.chain(exclude_seen=True)


def test_a_list_is_the_same_alone_and_among_lists_of_the_other_kind(model: FittedModel) -> None:
    mixed = [request(user, exclude_seen=bool(user % 2)) for user in range(12)]
    assert answers(model, *mixed) == [answers(model, one)[0] for one in mixed]
    assert answers(model, *mixed[::-1]) == answers(model, *mixed)[::-1]


def test_features_that_gating_dropped_elsewhere_stay_and_sources_go(
    dataset: Dataset, tiny_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The groups were judged on lists in which nothing is taken again; a source that is dropped is asked for none."""

    dropped: list[Ablation] = []

    def without_some(examples: SplitExamples, settings: Settings) -> Gated:
        chosen = ("without als", "without features: item popularity and time")
        dropped.extend(part for part in ablations(examples.everything.features.names) if part.name in chosen)
        for part in dropped:
            examples = ablated_examples(examples, part)
        return Gated(examples, tuple(dropped))

    monkeypatch.setattr(recsys.ranker_training, "gated", without_some)
    made = train(dataset, tiny_settings)
    assert made.repeats is not None
    first, second = made.ranker, made.repeats.ranker
    assert isinstance(first, LambdaMartRanker)
    assert isinstance(second, LambdaMartRanker)
    source, group = (part.columns for part in dropped)
    assert not (source | group) & set(first.names)
    assert group <= set(second.names)
    assert not source & set(second.names)
    assert all(answers(made, request(3), request(3, exclude_seen=True)))


def test_saving_and_loading_change_nothing(model: FittedModel, tmp_path: Path) -> None:
    version = save_bundle(model, tmp_path)
    loaded = load_bundle(tmp_path)
    asked = [request(user) for user in range(12)]
    assert answers(loaded, *asked) == answers(model, *asked)
    assert show(tmp_path, version)["repeats_ranker"] == model.chain(exclude_seen=False).ranker.kind


def test_a_list_with_repeats_is_explained_by_its_own_features(model: FittedModel) -> None:
    assert model.repeats is not None
    assert model.repeats.ranker.kind == "lambdamart"
    explained = Recommender(model).explain(request(3))
    assert {"touch:overdue", "repeat:score"} <= set(explained.columns)
    assert "touch:overdue" not in Recommender(model).explain(request(3, exclude_seen=True)).columns


def test_the_simple_order_answers_where_the_forest_is_no_better(
    dataset: Dataset, tiny_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forest that knows no order at all, judged like any other."""
    monkeypatch.setattr(LambdaMartRanker, "score", lambda self, features: np.zeros(len(features.query_rows)))
    made = train(dataset, tiny_settings)
    assert made.repeats is not None
    assert made.repeats.ranker.kind == "by_score"
    assert "NDCG@10 on held-out users" in Recommender(made).recommend(request(3)).reason


def test_windows_are_the_same_and_labels_are_all_that_was_liked(dataset: Dataset) -> None:
    events = dataset.events
    plain = label_windows(events, len(dataset.catalogue), WINDOWS, EventSettings(), seed=0)
    windows = windows_of(dataset)
    assert [w.as_of for w in windows] == [w.as_of for w in plain]
    for window in windows:
        repeated = 0
        for q in range(len(window)):
            own = (events.user_rows == window.users[q]) & (events.times == window.times[q])
            labels = window.label_items[window.label_indptr[q] : window.label_indptr[q + 1]]
            np.testing.assert_array_equal(labels, np.unique(events.item_rows[own]))
            repeated += bool(np.isin(labels, window.histories.seen.row(q)).any())
        assert window.num_with_repeat == repeated > 0


def test_the_guard_lets_known_pairs_be_labels_but_not_the_events(dataset: Dataset, ordered: Dataset) -> None:
    for data in (dataset, ordered):
        window = windows_of(data)[0]
        assert window.num_with_repeat
        check_no_leak(fit_data(data, window.known), window)
    with pytest.raises(ValueError, match="are not before the label window"):
        check_no_leak(fit_data(dataset, dataset.events), windows_of(dataset)[0])
    with pytest.raises(ValueError, match="reach the moments"):
        check_no_leak(fit_data(ordered, ordered.events), windows_of(ordered)[0])


def test_one_labelled_event_among_the_known_is_a_leak(ordered: Dataset) -> None:
    """The pair of a repeat is known, and rightly so; the event at the list's moment is not."""
    window = windows_of(ordered)[0]
    events = ordered.events
    planted = (events.user_rows == window.users[0]) & (events.times <= window.times[0])
    earlier = events.select(planted & (events.times < window.times[0]))
    check_no_leak(fit_data(ordered, earlier), window)
    with pytest.raises(ValueError, match="reach the moments"):
        check_no_leak(fit_data(ordered, events.select(planted)), window)


def test_the_task_repeat_compares_with_buying_again(dataset: Dataset, tiny_settings: Settings) -> None:
    found = evaluate(dataset, tiny_settings, task="repeat")
    names = {system.name for system in found.sources}
    assert {"repeat", "buy_again_recency", "buy_again_frequency", "popularity"} <= names
    assert set(found.against_buy_again) == {"buy_again_recency", "buy_again_frequency"}
    assert all(rival.verdict == "better" for rival in found.against_buy_again.values())
    assert "The product is better than buy_again_recency" in render(found)
    content = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert content["against_buy_again"]["buy_again_frequency"]["verdict"] == "better"


def test_without_a_clock_the_last_moments_are_asked_for(ordered: Dataset, tiny_settings: Settings) -> None:
    found = evaluate(ordered, tiny_settings, task="repeat")
    assert len(found.task) == world.NUM_USERS
    assert found.product.mean("recall@10") > 0.9
    assert len(found.task.train.events) == len(ordered.events) - sum(len(truth) for truth in found.task.truths)


def test_a_model_that_knows_the_last_moment_is_refused(ordered: Dataset, tiny_settings: Settings) -> None:
    honest = train(split(ordered, "repeat").train, tiny_settings)
    assert len(evaluate(ordered, task="repeat", model=honest).task) == world.NUM_USERS
    with pytest.raises(SettingsError, match="trained on the answers"):
        evaluate(ordered, task="repeat", model=train(ordered, tiny_settings))


def test_nobody_waits_for_what_a_ranker_needs_at_first(model: FittedModel, tmp_path: Path) -> None:
    save_bundle(model, tmp_path / "bundles")
    loaded = load_bundle(tmp_path / "bundles")
    assert loaded.repeats is not None
    rankers: list[Any] = [loaded.ranker, loaded.repeats.ranker]
    forests = [ranker for ranker in rankers if ranker.kind == "lambdamart"]
    assert forests
    Recommender(loaded).warm_up()
    assert all("_forest" in vars(ranker) for ranker in forests)
