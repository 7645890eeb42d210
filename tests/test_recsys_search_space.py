"""The search space: what it names exists, its bounds can be set, and it leaves out what can't matter."""

from __future__ import annotations

import dataclasses
import itertools
import json
from typing import Any

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution

from features.tables import Dataset
from recsys.errors import SettingsError
from recsys.retrieval.wiring import SOURCES
from recsys.search_space import GROUPS, DataFacts, Distribution, SearchSpace
from recsys.settings import Settings, flat_settings, settings_from
from recsys.stages import IGNORED, settings_read

KEYS = [key for dimensions in GROUPS.values() for key in dimensions]
ALL = DataFacts(has_text=True, has_clock=True, num_items=10_000, num_weights=2)
"""Data on which everything matters."""
ODD_STARTS: list[dict[str, Any]] = [
    {},
    {"retrieval": {"sequence": {"size": 63, "heads": 3}}},
    {"retrieval": {"sequence": {"size": 50, "heads": 5}}},
    {"retrieval": {"sequence": {"size": 256, "heads": 16}}},
    {"examples": {"window_share": 0.24}},
    {"examples": {"window_share": 0.499, "windows": 2}},
    {"examples": {"window_share": 0.12, "windows": 8}},
    {"finetune": {"keep_pretrained": 0.95, "history_share": 1.0, "weight_averaging": 0.5, "max_steps": 0}},
    {"finetune": {"trainable": "full", "num_layers": 12, "hard_negatives": 9, "augmentation": {"share": 1.0}}},
    {"lambdamart": {"min_lists_per_tree": 0, "forests": 20, "label_gain": 10, "objective": "rank_xendcg"}},
]
"""Settings to begin with, at the edges of what may be set."""


def space(*only: str, has_text: bool = True, **tree: object) -> SearchSpace:
    return SearchSpace.of(settings_from(tree), dataclasses.replace(ALL, has_text=has_text), only)


def drawn(distribution: Distribution, rng: np.random.Generator) -> Any:
    """Any value, every now and then a bound."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[rng.integers(len(distribution.choices))]
    low, high = distribution.low, distribution.high
    if rng.random() < 0.3:
        return low if rng.random() < 0.5 else high
    return int(rng.integers(low, high + 1)) if isinstance(low, int) else float(rng.uniform(low, high))


def test_every_key_is_a_setting_and_its_default_lies_inside() -> None:
    defaults = dict(flat_settings(Settings()))
    for dimensions in GROUPS.values():
        for key, distribution in dimensions.items():
            assert distribution._contains(distribution.to_internal_repr(defaults[key])), key
    everything = {key: d for dimensions in GROUPS.values() for key, d in dimensions.items()}
    assert space(sources=list(SOURCES)).dimensions == everything


def test_a_key_belongs_to_one_group() -> None:
    assert len(KEYS) == len(set(KEYS))


def test_all_bounds_can_be_set_at_once() -> None:
    found = space()
    for end in (0, -1):
        values = {
            key: d.choices[end] if isinstance(d, CategoricalDistribution) else (d.low, d.high)[end]
            for key, d in found.dimensions.items()
        }
        flat = dict(flat_settings(found.settings(values, Settings())))
        assert {key: flat[key] for key in values} == values


@pytest.mark.parametrize("tree", ODD_STARTS, ids=json.dumps)
def test_any_values_go_together_whatever_the_search_begins_with(tree: dict[str, Any]) -> None:
    """Values of all groups, not one, as later trials take the others' from the best."""
    base, rng = settings_from(tree), np.random.default_rng(0)
    found = SearchSpace.of(base, ALL)
    assert found.settings(found.start, base) == base
    for _ in range(60):
        values = {key: drawn(distribution, rng) for key, distribution in found.dimensions.items()}
        flat = dict(flat_settings(found.settings(values, base)))
        assert {key: flat[key] for key in values} == found.tidy(values)


def test_a_value_that_goes_with_nothing_else_narrows_the_others() -> None:
    def choices(size: int, heads: int) -> tuple[Any, Any]:
        found = space(retrieval={"sequence": {"size": size, "heads": heads}}).dimensions
        return tuple(getattr(found.get(f"retrieval.sequence.{key}"), "choices", None) for key in ("size", "heads"))  # type: ignore[return-value]

    assert choices(64, 2) == ((32, 64, 96, 128), (1, 2, 4))
    assert choices(48, 3) == ((96, 48), (1, 2, 4, 3))
    assert choices(50, 5) == (None, (1, 2, 5)), "no size of the table is left, so none is tried"
    windows = space(examples={"window_share": 0.24}).dimensions["examples.windows"]
    assert (windows.low, windows.high) == (1, 4)


READ_BY = {
    "windows": {"windows", "examples"}, "finetune": {"text", "examples"}, "sources": {"windows", "examples"},
    "ranker": set(),
}  # fmt: skip
"""Group -> the stages that may read its settings; which windows there are, the text is told with their events."""


@pytest.mark.parametrize("key", KEYS)
def test_a_trial_makes_anew_what_its_group_says(key: str) -> None:
    """Settings are in a group by what their change costs: no ranker makes examples anew, and all others do."""
    base, found = Settings(), space()
    group = next(group for group, dimensions in GROUPS.items() if key in dimensions)
    distribution = found.dimensions[key]
    values = getattr(distribution, "choices", None) or (distribution.low, distribution.high)
    other = next(value for value in values if value != found.start[key])
    changed = found.settings({key: other}, base)
    anew = {stage for stage in IGNORED if settings_read(stage, changed) != settings_read(stage, base)}
    assert anew <= READ_BY[group]
    assert ("examples" in anew) == (group != "ranker")


@pytest.mark.parametrize(
    ("only", "keys"),
    [
        ("ranker", set(GROUPS["ranker"])),
        ("lambdamart", set(GROUPS["ranker"])),
        ("retrieval.als", {f"retrieval.als.{name}" for name in ("factors", "regularization", "iterations")}),
        ("lambdamart.l2", {"lambdamart.l2"}),
    ],
)
def test_a_part_can_be_chosen(only: str, keys: set[str]) -> None:
    assert set(space(only).dimensions) == keys


def test_parts_add_up() -> None:
    assert set(space("lambdamart.l2", "finetune.temperature").groups) == {"finetune", "ranker"}


@pytest.mark.parametrize("only", ["lambda", "retrieval.al", "", "lambdamart.tolerance"])
def test_a_part_that_is_none_is_refused(only: str) -> None:
    with pytest.raises(SettingsError, match=r"allowed are windows, finetune, sources, ranker, examples, .*lambdamart"):
        space(only)


def test_what_cannot_matter_is_left_out() -> None:
    def kept(**tree: object) -> set[str]:
        return {key.rpartition(".")[0] for key in space(**tree).dimensions}  # type: ignore[arg-type]

    assert not {"finetune", "finetune.augmentation", "retrieval.new_items"} & kept(has_text=False)
    assert "finetune" not in kept(finetune={"enabled": False})
    assert kept(sources=["als"], ranker="by_score", has_text=False) == {"retrieval", "retrieval.als"}


@pytest.mark.parametrize(
    ("lacking", "gone"),
    [
        ({"has_clock": False}, {"examples.windows"}),
        ({"num_weights": 1}, {"lambdamart.label_gain"}),
        ({"num_items": 256}, {"retrieval.sequence.negatives"}),
        ({"num_items": 257}, set()),
    ],
)
def test_what_the_data_lack_is_not_searched(lacking: dict[str, Any], gone: set[str]) -> None:
    found = SearchSpace.of(Settings(), dataclasses.replace(ALL, **lacking))
    assert set(KEYS) - set(found.dimensions) == gone


def test_ids_are_dropped_where_there_is_text_to_stand_alone() -> None:
    key = "retrieval.sequence.id_dropout"
    assert key in space().dimensions
    assert key not in space(has_text=False).dimensions


DEPTH = "lambdamart.truncation_level"
LAYERS = {"finetune.num_layers", "finetune.learning_rate", "finetune.max_steps", "finetune.augmentation.share"}


@pytest.mark.parametrize(
    ("tree", "only", "dead"),
    [
        ({"finetune": {"trainable": "projection"}}, LAYERS, LAYERS),
        ({"finetune": {"trainable": "projection"}}, {*LAYERS, "finetune.trainable"}, set()),
        ({"finetune": {"trainable": "full"}}, LAYERS, {"finetune.num_layers"}),
        ({"finetune": {"max_steps": 0}}, LAYERS, set()),
        ({"finetune": {"max_steps": 0}}, LAYERS - {"finetune.max_steps"}, LAYERS - {"finetune.max_steps"}),
        ({"finetune": {"projection_steps": 0}}, {"finetune"}, {"finetune.projection_learning_rate"}),
        ({"lambdamart": {"objective": "rank_xendcg"}}, {DEPTH}, {DEPTH}),
        ({"lambdamart": {"objective": "rank_xendcg"}}, {"lambdamart"}, set()),
    ],
)  # fmt: skip
def test_what_another_setting_switches_off_is_searched_only_with_that_one(
    tree: dict[str, Any], only: set[str], dead: set[str]
) -> None:
    asked = {key for key in KEYS if any(f"{key}.".startswith(f"{name}.") for name in only)}
    try:
        found = set(space(*sorted(only), **tree).dimensions)
    except SettingsError:
        found = set()
    assert asked - found == dead


def test_facts_are_those_of_the_data(tiny_dataset: Dataset) -> None:
    assert DataFacts.of(tiny_dataset, Settings()) == DataFacts(True, True, len(tiny_dataset.catalogue), 1)
    assert not DataFacts.of(tiny_dataset, settings_from({"encoder": {"model": "none"}})).has_text
    events = tiny_dataset.events
    kinds = (np.arange(len(events)) % 3).astype(events.kinds.dtype)
    mixed = dataclasses.replace(events, kinds=kinds, kind_names=("view", "purchase", "dismiss"))
    assert DataFacts.of(tiny_dataset.with_events(mixed), Settings()).num_weights == 2, "a dismissal is no interest"
    alike = settings_from({"events": {"weights": {"purchase": 1.0}}})
    assert DataFacts.of(tiny_dataset.with_events(mixed), alike).num_weights == 1


def test_nothing_left_is_an_error() -> None:
    with pytest.raises(SettingsError, match="no such setting matters"):
        space("finetune", has_text=False)


def test_the_bounds_make_room_for_the_start() -> None:
    found = space(lambdamart={"num_leaves": 500, "l2": 0.0}, finetune={"trainable": "full"})
    assert (found.dimensions["lambdamart.num_leaves"].high, found.dimensions["lambdamart.num_leaves"].low) == (500, 7)
    assert (found.dimensions["lambdamart.l2"].low, found.dimensions["lambdamart.l2"].log) == (0.0, False)
    assert found.dimensions["finetune.trainable"].choices == ("projection", "last_layers", "full")
    assert found.start["lambdamart.num_leaves"] == 500


def test_values_are_rounded_unless_they_are_those_of_the_start() -> None:
    base = settings_from({"lambdamart": {"l2": 1.234567}})
    found = SearchSpace.of(base, ALL)
    assert found.settings({"lambdamart.l2": 1.234567}, base).lambdamart.l2 == 1.234567
    assert found.settings({"lambdamart.l2": 7.654321}, base).lambdamart.l2 == 7.654
    assert found.tidy({"lambdamart.l2": 7.654321, "lambdamart.num_leaves": 31}) == {
        "lambdamart.l2": 7.654, "lambdamart.num_leaves": 31,
    }  # fmt: skip


def test_the_start_changes_nothing() -> None:
    base = settings_from({"seed": 3, "lambdamart": {"num_trees": 7}, "events": {"weights": {"view": 0.5}}})
    found = SearchSpace.of(base, ALL)
    assert found.settings(found.start, base) == base


def test_json_names_every_bound() -> None:
    content = space("lambdamart.l2", "finetune.trainable").to_json()
    assert list(content) == ["finetune.trainable", "lambdamart.l2"]
    assert dict(itertools.islice(content["lambdamart.l2"]["attributes"].items(), 4))["high"] == 100.0
