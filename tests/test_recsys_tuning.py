"""The search: it begins with what is given, keeps its budget, goes on where it ended, and can't see the future.

Most tests put an objective by hand in place of training: what a trial reaches is then known by reasoning.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features.tables import Dataset
from handmade import handmade_model
from recsys import tuning
from recsys.errors import DataError, SettingsError
from recsys.evaluation import evaluate
from recsys.objective import Objective, _RememberingRecommender, validation_task
from recsys.requests import Request
from recsys.settings import Settings, load_settings, settings_from
from recsys.splits import EvaluationTask, split
from recsys.stages import StageMemory
from recsys.tune_command import _silence_stages
from recsys.tuning import ROUND, Progress, tune
from recsys.tuning_result import MIN_FOR_IMPORTANCES, Tuning, changed
from recsys.tuning_text import findings, progress_line, render

Judge = Callable[[float], None]
START = {"encoder": {"model": "none"}, "lambdamart": {"num_leaves": 24}}
"""Where searches start: the trials, and so the seconds, must not change with the product's defaults."""
COSTS = {"start": 100.0, "finetune": 50.0, "sources": 20.0, "ranker": 5.0}


class HandmadeObjective:
    """NDCG@10 by a formula: the nearer `num_leaves` is to 50 and `l2` to 1, the better; of the sources, nothing counts.
    It takes as long as the clock that it turns says.
    """

    now = 0.0
    calls: list[Settings] = []  # noqa: RUF012  (emptied for every test)
    fails: Callable[[Settings, int], None] = staticmethod(lambda settings, number: None)

    def __init__(self, task: EvaluationTask) -> None:
        self.task = task

    def __call__(self, settings: Settings, on_held_out: Judge) -> np.ndarray:
        kind = type(self)
        kind.calls.append(settings)
        kind.fails(settings, len(kind.calls))
        kind.now += self.cost(settings, kind.calls[:-1])
        forest = settings.lambdamart
        value = 0.9 - abs(forest.num_leaves - 50) / 100 - abs(np.log10(max(forest.l2, 1e-3))) / 10
        on_held_out(value)
        return np.full(len(self.task), value) + np.linspace(-0.01, 0.01, len(self.task))

    @staticmethod
    def cost(settings: Settings, before: Sequence[Settings]) -> float:
        """Like the product, it remembers the encoders and sources of all trials before."""

        def sources(one: Settings) -> tuple[object, ...]:
            return one.finetune, one.retrieval, one.features, one.examples

        if not before:
            return COSTS["start"]
        if all(settings.finetune != earlier.finetune for earlier in before):
            return COSTS["finetune"]
        known = any(sources(settings) == sources(earlier) for earlier in before)
        return COSTS["ranker"] if known else COSTS["sources"]

    @classmethod
    def clock(cls) -> float:
        return cls.now


@pytest.fixture
def handmade(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[HandmadeObjective]]:
    monkeypatch.setattr(HandmadeObjective, "now", 0.0)
    monkeypatch.setattr(HandmadeObjective, "calls", [])
    monkeypatch.setattr(HandmadeObjective, "fails", staticmethod(lambda settings, number: None))
    monkeypatch.setattr(tuning, "Objective", HandmadeObjective)
    return HandmadeObjective


def search(dataset: Dataset, num_trials: int | None = 12, settings: Settings | None = None, **options: Any) -> Tuning:
    options = {"seconds": 1e9, "clock": HandmadeObjective.clock} | options
    return tune(dataset, settings or settings_from(START), num_trials=num_trials, **options)


def facts(found: Tuning) -> list[tuple[str, str, float | None, dict[str, Any]]]:
    return [(t.group, t.state, t.ndcg, dict(t.values)) for t in found.trials]


class TestSearch:
    def test_the_first_trial_is_what_was_given(self, tiny_dataset: Dataset, handmade: type[HandmadeObjective]) -> None:
        given = settings_from({"encoder": {"model": "none"}, "lambdamart": {"num_leaves": 100, "l2": 0.123456}})
        found = search(tiny_dataset, 5, given)
        assert handmade.calls[0] == given
        assert (found.start.number, found.start.group, found.settings_of(found.start)) == (0, "start", given)

    def test_the_result_is_never_worse_than_the_start(
        self, tiny_dataset: Dataset, handmade: type[HandmadeObjective]
    ) -> None:
        perfect = settings_from({"encoder": {"model": "none"}, "lambdamart": {"num_leaves": 50, "l2": 1.0}})
        found = search(tiny_dataset, 9, perfect)
        assert found.best == found.start
        assert found.best_settings == perfect
        assert found.difference.verdict == "no clear difference"

    def test_it_finds_what_is_better(self, tiny_dataset: Dataset, handmade: type[HandmadeObjective]) -> None:
        found = search(tiny_dataset, 40)
        assert found.best.ndcg == max(t.ndcg for t in found.trials if t.ndcg is not None)
        assert found.best.ndcg > found.start.ndcg + 0.1  # type: ignore[operator]
        assert abs(found.best_settings.lambdamart.num_leaves - 50) < 10
        assert found.difference.verdict == "better"

    def test_a_trial_varies_one_group_of_the_best_so_far(
        self, tiny_dataset: Dataset, handmade: type[HandmadeObjective]
    ) -> None:
        found = search(tiny_dataset, 25)
        best = found.trials[0]
        for trial in found.trials[1:]:
            own = found.space.groups[trial.group]
            assert {k: v for k, v in trial.values.items() if k not in own} == {
                k: v for k, v in best.values.items() if k not in own
            }
            if trial.ndcg is not None and trial.ndcg > (best.ndcg or 0):
                best = trial
        groups = [trial.group for trial in found.trials[1:]]
        assert groups == [g for g in ROUND * 3 if g != "finetune"][:24], "there is no text to tune an encoder on"
        assert groups.count("ranker") > 3 * groups.count("sources")

    def test_only_what_was_asked_for_is_varied(self, tiny_dataset: Dataset, handmade: type[HandmadeObjective]) -> None:
        found = search(tiny_dataset, 4, only=["lambdamart.num_leaves"])
        assert all(list(trial.values) == ["lambdamart.num_leaves"] for trial in found.trials)

    def test_one_seed_gives_one_search(self, tiny_dataset: Dataset, handmade: type[HandmadeObjective]) -> None:
        first = search(tiny_dataset, 14)
        assert facts(search(tiny_dataset, 14)) == facts(first)
        seeded = settings_from({"encoder": {"model": "none"}, "seed": 1})
        assert facts(search(tiny_dataset, 14, seeded))[1:] != facts(first)[1:]

    def test_a_trial_that_is_behind_is_given_up(self, tiny_dataset: Dataset, handmade: type[HandmadeObjective]) -> None:
        found = search(tiny_dataset, 40)
        pruned = [t for t in found.trials if t.state == "pruned"]
        assert pruned
        assert all(t.ndcg is None and not len(t.per_query) and t.group == "ranker" for t in pruned)
        assert all(t.state == "complete" for t in found.trials[:5])

    def test_progress_is_told_trial_by_trial(self, tiny_dataset: Dataset, handmade: type[HandmadeObjective]) -> None:
        told: list[Progress] = []
        found = search(tiny_dataset, 6, on_trial=told.append)
        assert [p.num_trials for p in told] == [1, 2, 3, 4, 5, 6]
        assert told[-1].best.number == found.best.number
        assert "trial 0 (start): ndcg@10 " in progress_line(told[0])

    def test_training_has_nothing_to_say_beside_the_trials(self) -> None:
        talkative = ("recsys.training", "recsys.gating", "recsys.ranker_training", "features.finetune")
        with ExitStack() as undo:
            undo.callback(logging.getLogger("recsys").setLevel, logging.getLogger("recsys").level)
            logging.getLogger("recsys").setLevel(logging.INFO)
            _silence_stages(undo)
            assert not any(logging.getLogger(name).isEnabledFor(logging.INFO) for name in talkative)


class TestBudget:
    def test_no_trial_begins_that_would_end_after_it(
        self, tiny_dataset: Dataset, handmade: type[HandmadeObjective]
    ) -> None:
        """100 s for the start, then rankers of 5 s: the first sources trial, thought to take as long as the start, has
        no room in 180 s, and rankers fill them up.
        """
        found = search(tiny_dataset, None, seconds=180.0)
        assert handmade.now == 175.0
        assert [t.group for t in found.trials] == ["start", *["ranker"] * 15]

    def test_what_a_group_took_last_time_is_remembered(
        self, tiny_dataset: Dataset, handmade: type[HandmadeObjective]
    ) -> None:
        """No trial takes more than 20 s after the first, so less than that is left over."""
        found = search(tiny_dataset, None, seconds=300.0)
        assert 280 <= handmade.now <= 300
        assert sum(t.group == "sources" for t in found.trials) > 3

    def test_the_first_trial_is_always_made(self, tiny_dataset: Dataset, handmade: type[HandmadeObjective]) -> None:
        found = search(tiny_dataset, None, seconds=0.0)
        assert [t.group for t in found.trials] == ["start"]
        assert "no trial was better" in render(found)

    def test_a_new_run_has_a_new_budget_and_begins_cold(
        self, tiny_dataset: Dataset, handmade: type[HandmadeObjective], tmp_path: Path
    ) -> None:
        study = tmp_path / "s.study"
        search(tiny_dataset, None, seconds=111.0, study_file=study)
        assert handmade.now == 110.0
        search(tiny_dataset, None, seconds=99.0, study_file=study)
        assert handmade.now == 110.0, "nothing is in memory: the first trial may take 100 s"
        search(tiny_dataset, None, seconds=101.0, study_file=study)
        assert handmade.now == 210.0


class TestResume:
    def test_a_second_run_goes_on_as_if_there_had_been_one(
        self, tiny_dataset: Dataset, handmade: type[HandmadeObjective], tmp_path: Path
    ) -> None:
        study = tmp_path / "s.study"
        assert len(search(tiny_dataset, 4, study_file=study).trials) == 4
        assert len(handmade.calls) == 4
        found = search(tiny_dataset, 14, study_file=study)
        assert len(handmade.calls) == 14
        assert facts(found) == facts(search(tiny_dataset, 14))
        assert len(search(tiny_dataset, 10, study_file=study).trials) == 14, "it has enough: nothing is done"

    @pytest.mark.parametrize("amid_compiled_code", [False, True])
    def test_ctrl_c_loses_the_running_trial_alone(
        self,
        tiny_dataset: Dataset,
        handmade: type[HandmadeObjective],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        amid_compiled_code: bool,
    ) -> None:
        def stop(_settings: Settings, number: int) -> None:
            if number == 5 and amid_compiled_code:
                raise SystemError("returned a result with an exception set") from KeyboardInterrupt()
            if number == 5:
                raise KeyboardInterrupt

        monkeypatch.setattr(handmade, "fails", staticmethod(stop))
        study = tmp_path / "s.study"
        stopped = search(tiny_dataset, 14, study_file=study)
        assert stopped.interrupted
        assert len(stopped.trials) == 4
        found = search(tiny_dataset, 14, study_file=study)
        assert not found.interrupted
        assert facts(found) == facts(search(tiny_dataset, 14))

    def test_ctrl_c_in_the_first_trial_leaves_nothing_to_report(
        self,
        tiny_dataset: Dataset,
        handmade: type[HandmadeObjective],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def stop(_settings: Settings, number: int) -> None:
            if number == 1:
                raise KeyboardInterrupt

        monkeypatch.setattr(handmade, "fails", staticmethod(stop))
        with pytest.raises(KeyboardInterrupt):
            search(tiny_dataset, 3, study_file=tmp_path / "s.study")
        assert [t.group for t in search(tiny_dataset, 2, study_file=tmp_path / "s.study").trials] == ["start", "ranker"]

    def test_a_killed_process_loses_its_running_trial_and_its_half_line(
        self, tiny_dataset: Dataset, handmade: type[HandmadeObjective], tmp_path: Path
    ) -> None:
        study = tmp_path / "s.study"
        search(tiny_dataset, 5, study_file=study)
        lines = study.read_bytes().splitlines(keepends=True)
        created = [number for number, line in enumerate(lines) if b'"op_code":4' in line]
        study.write_bytes(b"".join(lines[: created[-1] + 2]) + b'{"op_code":8,"worker')
        found = search(tiny_dataset, 8, study_file=study)
        assert facts(found) == facts(search(tiny_dataset, 8))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"only": ["lambdamart"]}, r"other search space \(examples\.windows, retrieval"),
            ({"task": "static"}, "other .*task"),
            ({"hold_out": False}, "other .*task"),
            ({"max_queries": 10}, "other queries:"),
            (
                {"settings": settings_from(START | {"lambdamart": {"num_leaves": 24, "forests": 5}})},
                r"other settings \(lambdamart\.forests\)",
            ),
        ],
    )
    def test_a_foreign_study_is_refused(
        self,
        tiny_dataset: Dataset,
        handmade: type[HandmadeObjective],
        tmp_path: Path,
        change: dict[str, Any],
        message: str,
    ) -> None:
        study = tmp_path / "s.study"
        search(tiny_dataset, 2, study_file=study)
        before = study.read_bytes()
        with pytest.raises(SettingsError, match=message) as refusal:
            search(tiny_dataset, 3, study_file=study, **change)
        assert "Give another --study" in str(refusal.value)
        assert study.read_bytes() == before

    def test_a_study_of_other_data_is_refused(
        self, tiny_dataset: Dataset, handmade: type[HandmadeObjective], tmp_path: Path
    ) -> None:
        study = tmp_path / "s.study"
        search(tiny_dataset, 2, study_file=study)
        fewer = tiny_dataset.with_events(tiny_dataset.events.select(np.arange(len(tiny_dataset.events)) > 0))
        with pytest.raises(SettingsError, match="made with other data"):
            search(fewer, 2, study_file=study)

    def test_threads_may_differ(self, tiny_dataset: Dataset, handmade: type[HandmadeObjective], tmp_path: Path) -> None:
        search(tiny_dataset, 2, study_file=tmp_path / "s.study")
        more = settings_from(START | {"threads": 1})
        assert len(search(tiny_dataset, 3, more, study_file=tmp_path / "s.study").trials) == 3

    @pytest.mark.parametrize("content", [b"[lambdamart]\nl2 = 1\n", b'{"a": 1}', b"\x00\xff"])
    def test_a_file_that_is_no_study_is_left_alone(
        self, tiny_dataset: Dataset, handmade: type[HandmadeObjective], tmp_path: Path, content: bytes
    ) -> None:
        file = tmp_path / "settings.toml"
        file.write_bytes(content)
        with pytest.raises(SettingsError, match="is not the journal of a study"):
            search(tiny_dataset, 2, study_file=file)
        assert file.read_bytes() == content

    def test_a_damaged_study_says_so(
        self, tiny_dataset: Dataset, handmade: type[HandmadeObjective], tmp_path: Path
    ) -> None:
        file = tmp_path / "s.study"
        file.write_bytes(b'{"op_code":0,"x":1}\n{"op_code":\n{}\n')
        with pytest.raises(SettingsError, match="damaged"):
            search(tiny_dataset, 2, study_file=file)

    def test_two_processes_do_not_share_a_study(
        self, tiny_dataset: Dataset, handmade: type[HandmadeObjective], tmp_path: Path
    ) -> None:
        from recsys.files import locked

        with locked(tmp_path / "s.study"), pytest.raises(SettingsError, match="in use by another process"):
            search(tiny_dataset, 2, study_file=tmp_path / "s.study")

    def test_a_study_needs_its_folder(
        self, tiny_dataset: Dataset, handmade: type[HandmadeObjective], tmp_path: Path
    ) -> None:
        with pytest.raises(SettingsError, match="does not exist"):
            search(tiny_dataset, 2, study_file=tmp_path / "none" / "s.study")


class TestErrors:
    def test_a_trial_with_impossible_settings_is_recorded_and_passed_over(
        self,
        tiny_dataset: Dataset,
        handmade: type[HandmadeObjective],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def refuse(_settings: Settings, number: int) -> None:
            if number == 3:
                raise SettingsError("these do not go together")

        monkeypatch.setattr(handmade, "fails", staticmethod(refuse))
        found = search(tiny_dataset, 6, study_file=tmp_path / "s.study")
        assert [t.state for t in found.trials] == ["complete", "complete", "failed", *["complete"] * 3]
        assert found.trials[2].error == "SettingsError: these do not go together"
        assert json.loads(json.dumps(found.to_json()))["trials"][2]["error"].endswith("go together")
        assert "1 failed" in render(found)
        assert facts(search(tiny_dataset, 6, study_file=tmp_path / "s.study")) == facts(found)

    def test_any_other_error_ends_the_search_and_is_not_met_twice(
        self,
        tiny_dataset: Dataset,
        handmade: type[HandmadeObjective],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def break_down(_settings: Settings, number: int) -> None:
            if number == 3:
                raise ZeroDivisionError("by nothing")

        monkeypatch.setattr(handmade, "fails", staticmethod(break_down))
        with pytest.raises(ZeroDivisionError, match="by nothing"):
            search(tiny_dataset, 6, study_file=tmp_path / "s.study")
        found = search(tiny_dataset, 6, study_file=tmp_path / "s.study")
        assert [t.state for t in found.trials] == ["complete", "complete", "failed", *["complete"] * 3]

    def test_settings_that_fail_at_once_end_the_search(
        self, tiny_dataset: Dataset, handmade: type[HandmadeObjective], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(_settings: Settings, number: int) -> None:
            raise SettingsError("never")

        monkeypatch.setattr(handmade, "fails", staticmethod(refuse))
        with pytest.raises(SettingsError, match="never"):
            search(tiny_dataset, 6)

    def test_data_without_a_query(self, tiny_dataset: Dataset) -> None:
        few = tiny_dataset.with_events(tiny_dataset.events.select(np.arange(len(tiny_dataset.events)) < 5))
        with pytest.raises(DataError, match="or --no-hold-out"):
            search(few)

    def test_repeats_are_not_tuned_on(self, tiny_dataset: Dataset) -> None:
        with pytest.raises(SettingsError, match="use live, static or loo"):
            tune(tiny_dataset, task="repeat")


class TestResult:
    def test_the_file_gives_back_the_best_settings(
        self, tiny_dataset: Dataset, handmade: type[HandmadeObjective], tmp_path: Path
    ) -> None:
        given = settings_from({"encoder": {"model": "none"}, "events": {"weights": {"a.b": 2.0}}, "seed": 3})
        found = search(tiny_dataset, 12, given)
        file = tmp_path / "settings.toml"
        file.write_text(found.to_toml(findings(found)))
        assert load_settings(file, (), {}) == found.best_settings != given

    def test_the_file_holds_only_what_differs_from_the_defaults(
        self, tiny_dataset: Dataset, handmade: type[HandmadeObjective]
    ) -> None:
        found = search(tiny_dataset, 12, only=["lambdamart.num_leaves"])
        leaves = found.best_settings.lambdamart.num_leaves
        assert tomllib.loads(found.to_toml()) == {"encoder": {"model": "none"}, "lambdamart": {"num_leaves": leaves}}

    def test_what_toml_cannot_hold_is_said(
        self, tiny_dataset: Dataset, handmade: type[HandmadeObjective], tmp_path: Path
    ) -> None:
        given = settings_from({"encoder": {"model": "none"}, "retrieval": {"als": {"half_life": [None], "factors": 9}}})
        text = search(tiny_dataset, 1, given).to_toml()
        assert "# not in TOML, add --set 'retrieval.als.half_life=[null]'\n" in text
        (tmp_path / "s.toml").write_text(text)
        assert load_settings(tmp_path / "s.toml", ["retrieval.als.half_life=[null]"], {}) == given

    def test_the_head_says_what_was_found(self, tiny_dataset: Dataset, handmade: type[HandmadeObjective]) -> None:
        found = search(tiny_dataset, 40)
        head = "\n".join(findings(found))
        assert f"ndcg@10 {found.start.ndcg:.4f} with the settings given, {found.best.ndcg:.4f}" in head
        assert f"{found.difference.interval.low:+.4f} to {found.difference.interval.high:+.4f}" in head
        assert "better" in head
        assert "`recsys evaluate --task live` judges on was hidden" in head
        assert "flatter" in "\n".join(findings(dataclasses.replace(found, held_out=False)))

    def test_a_difference_that_may_be_chance_is_called_so(
        self, tiny_dataset: Dataset, handmade: type[HandmadeObjective]
    ) -> None:
        found = search(tiny_dataset, 12)
        noise = np.random.default_rng(0).normal(0.001, 0.3, len(found.best.per_query))
        lucky = dataclasses.replace(
            found.best, number=99, ndcg=found.best.ndcg + 0.001, per_query=found.start.per_query + noise
        )  # fmt: skip
        unsure = dataclasses.replace(found, trials=(*found.trials, lucky))
        assert "but the difference is not significant" in "\n".join(findings(unsure))

    def test_the_json_is_strict(self, tiny_dataset: Dataset, handmade: type[HandmadeObjective]) -> None:
        found = search(tiny_dataset, 14)
        content = json.loads(json.dumps(found.to_json(), allow_nan=False))
        assert [trial["number"] for trial in content["trials"]] == list(range(14))
        assert content["trials"][content["best"]]["ndcg"] == found.best.ndcg
        assert content["against_start"]["difference"] == pytest.approx(found.best.ndcg - found.start.ndcg, abs=1e-6)

    def test_the_settings_that_matter_are_named(self, tiny_dataset: Dataset, handmade: type[HandmadeObjective]) -> None:
        few = search(tiny_dataset, MIN_FOR_IMPORTANCES - 1)
        assert few.importances == {}
        assert "too few" in render(few)
        found = search(tiny_dataset, 40, only=["lambdamart.num_leaves", "lambdamart.feature_fraction"])
        assert next(iter(found.importances)) == "lambdamart.num_leaves"
        assert "PED-ANOVA" in render(found)

    def test_the_text_fits_a_terminal(self, tiny_dataset: Dataset, handmade: type[HandmadeObjective]) -> None:
        shown = render(search(tiny_dataset, 30))
        assert max(map(len, shown.splitlines())) <= 120
        assert "varied: 1 start, " in shown

    def test_differences_between_trees(self) -> None:
        assert changed(
            {"a": 1, "b": {"c": 2, "d": 3}, "e": {"f": 1}}, {"a": 1, "b": {"c": 2, "d": 0}, "e": {"f": 1}}
        ) == {"b": {"d": 3}}
        assert changed({"w": {"new": 0.0}}, {"w": {}}) == {"w": {"new": 0.0}}


def noisy(dataset: Dataset, seed: int = 0) -> Dataset:
    """Every third book is one from anywhere: nobody could foretell all."""
    items = dataset.events.item_rows.copy()
    rng = np.random.default_rng(seed)
    odd = rng.random(len(items)) < 0.33
    items[odd] = rng.integers(0, len(dataset.catalogue), odd.sum())
    return dataset.with_events(dataclasses.replace(dataset.events, item_rows=items))


class TestHonesty:
    """With training as it is."""

    @pytest.mark.parametrize("kind", ["live", "static", "loo"])
    def test_the_hidden_future_changes_no_trial(
        self, tiny_dataset: Dataset, tiny_settings: Settings, kind: str
    ) -> None:
        """What `recsys evaluate` asks about is given other items; the search does not notice."""
        data = noisy(tiny_dataset)
        asked = split(data, kind)
        items = data.events.item_rows.copy()
        if kind == "loo":
            for user, (answer,) in zip(data.users.rows(asked.users), asked.truths, strict=True):
                own = data.events.user_rows == user
                unknown = np.setdiff1d(np.arange(len(data.catalogue)), items[own])
                items[own & (items == data.catalogue.items.row(answer))] = unknown[0]
        else:
            late = np.flatnonzero(data.events.times >= asked.cut)
            items[late] = np.random.default_rng(4).permutation(len(data.catalogue))[np.arange(len(late)) % 40]
        other = data.with_events(dataclasses.replace(data.events, item_rows=items))
        assert split(other, kind).truths != asked.truths
        first, second = (tune(d, tiny_settings, kind, num_trials=3, seconds=1e9) for d in (data, other))
        assert facts(first) == facts(second)
        assert 0.05 < (first.start.ndcg or 0) < 0.95

    def test_without_hold_out_the_newest_part_is_what_evaluate_judges(
        self, tiny_dataset: Dataset, tiny_settings: Settings
    ) -> None:
        """The objective is the product's own figure: that of `recsys evaluate` on the same split."""
        data = noisy(tiny_dataset)
        found = tune(data, tiny_settings, num_trials=2, seconds=1e9, hold_out=False)
        assert found.start.ndcg == pytest.approx(evaluate(data, tiny_settings).product.mean())
        again = evaluate(data, found.settings_of(found.trials[1]))
        assert found.trials[1].ndcg == pytest.approx(again.product.mean())

    def test_queries_are_drawn_once(self, tiny_dataset: Dataset) -> None:
        options: dict[str, Any] = {"hold_out": True, "seed": 0}
        everything = validation_task(tiny_dataset, "live", max_queries=1000, **options)
        some = validation_task(tiny_dataset, "live", max_queries=20, **options)
        assert len(some) == 20
        assert set(some.requests) < set(everything.requests)
        assert some.requests == validation_task(tiny_dataset, "live", max_queries=20, **options).requests
        assert some.requests != validation_task(tiny_dataset, "live", max_queries=20, hold_out=True, seed=1).requests

    @pytest.mark.parametrize("kind", ["live", "static", "loo"])
    def test_what_the_settings_give_no_weight_is_not_tuned_for(self, tiny_dataset: Dataset, kind: str) -> None:
        """Books that are only glanced at are not asked for."""
        kinds, glanced_at = tiny_dataset.events.kinds.copy(), {"space-06", "space-07"}
        kinds[np.isin(tiny_dataset.events.item_rows, tiny_dataset.catalogue.items.rows(sorted(glanced_at)))] = 1
        events = dataclasses.replace(tiny_dataset.events, kinds=kinds, kind_names=("purchase", "glance"))
        data, settings = tiny_dataset.with_events(events), settings_from({"events": {"weights": {"glance": 0.0}}})
        options: dict[str, Any] = {"hold_out": True, "max_queries": 1000, "seed": 0}
        asked, liked = (validation_task(data, kind, event_settings=e, **options) for e in (None, settings.events))
        assert any(truth & glanced_at for truth in asked.truths)
        assert not any(truth & glanced_at for truth in liked.truths)
        with pytest.raises(DataError, match="likes a new item"):
            tune(data, settings_from({"events": {"weights": {"purchase": 0.0, "glance": 0.0}}}), kind, num_trials=1)

    def test_candidates_are_found_once_for_all_rankers(
        self, tiny_dataset: Dataset, tiny_settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from recsys import recommender

        calls: list[int] = []
        find = recommender.candidates_with_features
        monkeypatch.setattr(recommender, "candidates_with_features", lambda *a: calls.append(1) or find(*a))
        objective = Objective(validation_task(tiny_dataset, "live", hold_out=True, max_queries=50, seed=0))
        forest = tiny_settings.lambdamart.model_copy(update={"num_leaves": 3})
        first = objective(tiny_settings)
        objective(tiny_settings.model_copy(update={"lambdamart": forest}))
        np.testing.assert_array_equal(objective(tiny_settings), first)
        assert len(calls) == 1
        fewer = tiny_settings.retrieval.model_copy(update={"per_source": 3})
        objective(tiny_settings.model_copy(update={"retrieval": fewer}))
        assert len(calls) == 2

    def test_a_model_without_a_source_that_gating_dropped_has_candidates_of_its_own(
        self, tiny_dataset: Dataset
    ) -> None:
        """Settings of the ranker decide what gating drops, and do not say so."""
        whole, memory = handmade_model(), StageMemory(tiny_dataset)
        fewer = dataclasses.replace(whole, sources=whole.sources[1:])
        asked = [Request(user="ann", n=5, request_id="one")]
        names = [
            _RememberingRecommender(model, memory).candidates(asked).matrix.names for model in (whole, fewer, whole)
        ]
        assert names[0] == names[2]
        assert "linear:score" in names[0]
        assert "linear:score" not in names[1]
