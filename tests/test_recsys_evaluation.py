"""Evaluation: figures known by reasoning on a model made by hand, no leak, and the same result for the same seed."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from features.tables import Dataset, Events, IdIndex, Rejected
from handmade import TRAINED_UNTIL, USERS, handmade_catalogue, handmade_model
from ranking.by_score import ByScoreRanker
from recsys.api.handlers import Handlers
from recsys.errors import DataError, SettingsError
from recsys.evaluation import FIXED, PRODUCT, evaluate, render
from recsys.evaluation_result import SystemResult, per_query
from recsys.peak_memory import peak_memory_mb
from recsys.recommender import Recommender
from recsys.settings import settings_from
from recsys.splits import split

ANN, BOB, UNI = USERS
LEARNED = [(ANN, "i00"), (ANN, "i01"), (ANN, "i02"), (BOB, "i00"), (BOB, "i01"), (UNI, "i00")]
# With 36 earlier events, the 90 % quantile of the times is that of the first of these five.
LATE = [(ANN, "i03"), (BOB, "i03"), (UNI, "i05"), ("new", "i00"), ("new", "i04")]


def dataset(pairs, first_time=0.0, clock="timestamp"):
    """One event a second, from `first_time` on."""
    users = IdIndex(dict.fromkeys(user for user, _ in pairs))
    catalogue = handmade_catalogue()
    events = Events(
        users.rows([user for user, _ in pairs]).astype(np.int32),
        catalogue.items.rows([item for _, item in pairs]).astype(np.int32),
        np.zeros(len(pairs), np.int16),
        first_time + np.arange(len(pairs), dtype=np.float64),
        np.ones(len(pairs), np.float32),
        ("view",),
        clock,
    )
    return Dataset(catalogue, events, users, Rejected(pd.DataFrame()), "f" * 64)


def world():
    """What the handmade model learned from, 30 events of somebody else, and five late events after the model's time."""
    pairs = [*LEARNED, *[("filler", "i00")] * 30, *LATE]
    return dataset(pairs, TRAINED_UNTIL - len(LEARNED) - 29)


@pytest.fixture(scope="module")
def evaluation():
    return evaluate(world(), task="live", model=handmade_model())


def test_popularity_scores_what_its_order_implies(evaluation):
    """Its order is i00, i01, ... less the history: i03 comes first for ann and second for bob, i05 is the fifth for one
    who knows i00, and i04 the fourth for the newcomer whose first moment had no history to answer from."""
    popularity = next(system for system in evaluation.sources if system.name == "popularity")
    expected = [1, 1 / math.log2(3), 1 / math.log2(6), 1 / math.log2(5)]
    assert sorted(popularity.per_query["ndcg@10"]) == pytest.approx(sorted(expected))
    assert popularity.mean("mrr@10") == pytest.approx((1 + 1 / 2 + 1 / 5 + 1 / 4) / 4)
    assert popularity.mean("hit@10") == popularity.mean("recall@50") == 1.0
    assert popularity.mean("cold_recall@10") == 1.0
    assert popularity.distinct == 11
    assert popularity.coverage == pytest.approx(11 / 12)


def test_the_product_and_every_source_stand_side_by_side(evaluation):
    assert [evaluation.product.name] == [PRODUCT]
    assert {system.name for system in evaluation.sources} == {"linear", "text_profile", "popularity"}
    scores = [system.mean() for system in evaluation.sources]
    assert scores == sorted(scores, reverse=True)
    assert evaluation.best_source.mean() == max(scores)
    assert evaluation.strategies == {"by_score": 4}


def test_the_product_is_judged_by_the_lists_that_a_user_would_get(evaluation):
    """Asked again, one request at a time."""
    recommender = Recommender(evaluation.model)
    lists = [[item.item_id for item in recommender.recommend(r).items] for r in evaluation.task.requests]
    for name, values in per_query(lists, evaluation.task).items():
        np.testing.assert_array_equal(values, evaluation.product.per_query[name])


def test_popularity_is_there_even_if_the_model_does_without_it():
    model = handmade_model()
    alone = dataclasses.replace(model, sources=tuple(s for s in model.sources if s.name == "linear"))
    assert {s.name for s in evaluate(world(), task="live", model=alone).sources} == {"linear", "popularity"}


def test_sources_show_no_item_that_is_not_available():
    catalogue = handmade_catalogue()
    catalogue.frame.loc[catalogue.frame.item_id == "i03", "available"] = False
    found = evaluate(world(), task="live", model=handmade_model(catalogue=catalogue))
    assert all(system.per_query["hit@10"][:2].tolist() == [0, 0] for system in found.systems)


def test_a_short_list_is_not_filled_up():
    task = split(world(), "live")
    result = SystemResult.of("silent", [[] for _ in range(len(task))], task, seed=0)
    assert result.mean("hit@10") == 0
    assert result.coverage == 0


def test_the_comparison_is_paired_and_says_who_is_ahead(evaluation):
    a, b = evaluation.product.per_query["ndcg@10"], evaluation.best_source.per_query["ndcg@10"]
    assert evaluation.against_best_source.difference == pytest.approx(float((a - b).mean()))
    itself = evaluation.compare(evaluation)
    assert (itself.difference, itself.p_value) == (0.0, 1.0)


def test_evaluations_of_different_queries_are_not_compared(evaluation):
    with pytest.raises(SettingsError, match="same queries"):
        evaluation.compare(evaluate(world(), task="static", model=handmade_model()))


def test_the_json_is_strict_and_complete(evaluation):
    nothing_cold = dataclasses.replace(evaluation, sources=(_without_cold(evaluation.best_source),))
    content = json.loads(json.dumps(nothing_cold.to_json(), allow_nan=False))
    assert content["systems"][1]["cold_recall@10"] is None
    facts = {"queries": 4, "users": 4, "items": 12, "cold_items": 9, "train_events": 36}
    assert content["task"] == {"kind": "live", "cut": TRAINED_UNTIL + 1} | facts
    assert content["against_best_source"]["verdict"] == evaluation.against_best_source.verdict
    assert content["training"]["ranker_reason"] == "made by hand"
    assert content["fingerprint"] == "f" * 64
    assert content["settings"]["seed"] == content["seed"] == 0
    assert (
        content["systems"][0]["ndcg@10_low"]
        <= content["systems"][0]["ndcg@10"]
        <= content["systems"][0]["ndcg@10_high"]
    )


def _without_cold(system):
    unknown = {name: np.full(4, np.nan) for name in ("cold_recall@10", "cold_recall@50")}
    return dataclasses.replace(system, per_query={**system.per_query, **unknown})


def test_the_frame_has_a_row_a_system(evaluation):
    frame = evaluation.to_frame()
    assert frame.index[0] == PRODUCT
    assert set(frame.index) == {PRODUCT, "linear", "text_profile", "popularity"}
    assert frame.loc[PRODUCT, "ndcg@10"] == evaluation.product.mean()


def test_the_text_and_the_page_say_what_training_left_out(evaluation):
    few, short = "only 99 training lists, gating.min_lists is 400", "only 7 training pairs"
    facts = {"gating_skipped": few, "encoder": {"kept": "pretrained", "reason": short}}
    model = dataclasses.replace(evaluation.model, report={**evaluation.model.report, **facts})
    told = dataclasses.replace(evaluation, model=model)
    shown = " ".join(render(told).split())
    assert f"Gating was skipped: {few}" in shown
    for text in (shown, told.to_html()):
        assert few in text
        assert short in text


def test_the_text_fits_a_terminal_and_names_everything(evaluation):
    text = render(dataclasses.replace(evaluation, sources=(_without_cold(evaluation.best_source),)))
    assert max(map(len, text.splitlines())) <= 120
    for part in (
        "Task live: 4 queries",
        "product",
        evaluation.best_source.name,
        "made by hand",
        "windows 0.5 s",
        "95 %",
    ):
        assert part in text
    assert "nan" not in text


def test_a_model_that_knows_the_later_events_is_refused():
    model = handmade_model(trained_until=TRAINED_UNTIL + 2)
    with pytest.raises(SettingsError, match="the model knows events up to 2023-11-14"):
        evaluate(world(), task="live", model=model)


def test_a_model_that_knows_the_answers_is_refused():
    """Without a clock: ann's last item is among what the model has learned of her."""
    with pytest.raises(SettingsError, match="answers to 1 of the 1 queries"):
        evaluate(dataset(LEARNED, clock="sequence"), model=handmade_model())


def test_a_split_without_a_query_is_an_error():
    with pytest.raises(DataError, match="task static has no query"):
        evaluate(dataset(LEARNED), task="static", model=handmade_model())


@pytest.mark.parametrize("task", ["live", "static", "stream"])
def test_where_the_settings_give_a_type_no_weight_it_is_no_right_answer(task):
    model = handmade_model(settings=settings_from({"events": {"weights": {"view": 0.0}}}))
    with pytest.raises(DataError, match="likes a new item"):
        evaluate(world(), task=task, model=model)


@pytest.fixture(scope="module")
def small_world():
    """Sixty users walk around a ring of twelve items, so that the next item is always known."""
    starts = np.random.default_rng(0).integers(12, size=60)
    return dataset(
        [(f"u{user}", f"i{(start + step) % 12:02d}") for step in range(6) for user, start in enumerate(starts)]
    )


@pytest.fixture(scope="module")
def small_settings():
    return settings_from({"encoder": {"model": "none"}, "sources": ["transitions", "popularity"], "ranker": "by_score"})


@pytest.fixture(scope="module")
def trained(small_world, small_settings):
    return evaluate(small_world, small_settings, task="live", seed=3)


def test_only_the_train_part_is_learned_from(trained):
    assert trained.model.trained_until < trained.task.cut
    assert len(trained.model.histories.item_rows) == len(trained.task.train.events)
    assert trained.seconds["train"] > 0


def test_on_a_ring_the_transitions_are_right_and_popularity_is_not(trained):
    by_name = {system.name: system for system in trained.systems}
    assert by_name["transitions"].mean("hit@10") == 1.0
    assert by_name["transitions"].mean() > by_name["popularity"].mean()


def test_the_seed_is_the_settings_own_unless_one_is_given(trained, small_world, small_settings):
    assert (trained.seed, trained.model.settings.seed) == (3, 3)
    assert evaluate(small_world, small_settings, task="live", model=trained.model).seed == 3


def test_one_seed_gives_one_result(trained, small_world, small_settings):
    again = evaluate(small_world, small_settings, task="live", seed=3)
    assert _figures(again) == _figures(trained)
    given = evaluate(small_world, task="live", model=trained.model)
    assert given.to_json()["systems"] == trained.to_json()["systems"]
    assert given.seconds["train"] < trained.seconds["train"]


def _figures(evaluation):
    """All but what the run cost."""
    content = evaluation.to_json()
    content["training"].pop("seconds")
    content.pop("seconds")
    content.pop("peak_memory_mb")
    return content


def test_memory_is_measured_when_everything_is_done(trained, monkeypatch):
    assert 50 < trained.to_json()["peak_memory_mb"] <= peak_memory_mb()
    done = []
    monkeypatch.setattr("recsys.evaluation.robustness_rows", lambda *_: done.append("robustness") or [])
    monkeypatch.setattr("recsys.evaluation.peak_memory_mb", lambda: done.append("memory") or 1234)
    assert evaluate(world(), model=handmade_model(), experiments=["robustness"]).peak_memory_mb == 1234
    assert done == ["robustness", "memory"]


@pytest.mark.parametrize(("platform", "largest"), [("linux", 3 * 2**20), ("darwin", 3 * 2**30)])
def test_memory_is_counted_in_mebibytes_on_every_system(monkeypatch, platform, largest):
    """Linux says KiB, macOS bytes."""
    monkeypatch.setattr("resource.getrusage", lambda who: SimpleNamespace(ru_maxrss=largest))
    monkeypatch.setattr("sys.platform", platform)
    assert peak_memory_mb() == 3072


class TestStream:
    """The live service, asked in the order of time, answers as one that is given each history."""

    def test_without_live_ranking_lists_are_those_of_live(self) -> None:
        still = handmade_model(settings=settings_from({"store": {"live_ranking": False}}))
        streaming = evaluate(world(), task="stream", model=still)
        live = evaluate(world(), task="live", model=handmade_model())
        fixed = next(system for system in streaming.sources if system.name == FIXED)
        for metric, values in live.product.per_query.items():
            np.testing.assert_array_equal(streaming.product.per_query[metric], values)
            np.testing.assert_array_equal(fixed.per_query[metric], values)
        assert streaming.strategies == live.strategies

    @pytest.mark.parametrize("task", ["live", "stream"])
    def test_what_was_shown_to_a_user_may_still_be_listed_and_is_right_when_it_is_taken(self, task: str) -> None:
        """bob is shown i03 in the held-out time, just before he takes it."""
        shown = dataset([*LEARNED, *[("filler", "i00")] * 30, LATE[0], LATE[1], *LATE[1:]], TRAINED_UNTIL - 35)
        kinds = shown.events.kinds.copy()
        kinds[-5] = 1
        events = dataclasses.replace(shown.events, kinds=kinds, kind_names=("view", "impression"))
        still = handmade_model(settings=settings_from({"store": {"live_ranking": False}}))
        found = evaluate(shown.with_events(events), task=task, model=still)
        assert found.task.truths == split(world(), task).truths
        plain = evaluate(world(), task="live", model=handmade_model())
        np.testing.assert_array_equal(found.product.per_query["ndcg@10"], plain.product.per_query["ndcg@10"])

    def test_every_event_is_posted_and_none_before_it_is_asked_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        said: list[tuple[str, float]] = []
        taken, asked = Handlers.take_events, Handlers.recommend_posted

        def take(self: Handlers, body: bytes) -> dict:
            said.extend(("event", event["timestamp"]) for event in json.loads(body))
            return taken(self, body)

        def ask(self: Handlers, body: bytes, request_id: str) -> dict:
            document = json.loads(body)
            assert document.keys().isdisjoint({"history", "at"})
            said.append(("ask", times[request_id]))
            return asked(self, body, request_id)

        monkeypatch.setattr(Handlers, "take_events", take)
        monkeypatch.setattr(Handlers, "recommend_posted", ask)
        task = split(world(), "stream")
        times = {request.request_id: request.at for request in task.requests}
        evaluate(world(), task="stream", model=handmade_model())
        assert [time for _, time in said] == sorted(time for _, time in said)
        assert sum(kind == "event" for kind, _ in said) == len(task.later) == len(LATE)
        assert sum(kind == "ask" for kind, _ in said) == len(task)
        for (before, when), (after, then) in itertools.pairwise(said):
            assert not (before == "event" and after == "ask" and when == then)

    def test_what_has_happened_since_the_training_counts(self) -> None:
        """By popularity alone: the items of the held-out time come up as they are taken."""
        model = handmade_model()
        popular = dataclasses.replace(
            model, sources=(model.fallback,), ranker=ByScoreRanker.of({model.fallback.name: 1.0})
        )
        streaming = evaluate(world(), task="stream", model=popular)
        fixed = next(system for system in streaming.sources if system.name == FIXED)
        assert streaming.product.mean("mrr@10") > fixed.mean("mrr@10")

    def test_it_needs_a_clock(self) -> None:
        with pytest.raises(SettingsError, match="stream"):
            split(dataset([*LEARNED, *LATE], clock="sequence"), "stream")
