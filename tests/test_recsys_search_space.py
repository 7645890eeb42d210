"""The search space: what it names exists, its bounds can be set, and it leaves out what can't matter."""

from __future__ import annotations

import itertools

import pytest
from optuna.distributions import CategoricalDistribution

from recsys.errors import SettingsError
from recsys.retrieval.wiring import SOURCES
from recsys.search_space import GROUPS, SearchSpace
from recsys.settings import Settings, flat_settings, settings_from

KEYS = [key for dimensions in GROUPS.values() for key in dimensions]


def space(*only: str, has_text: bool = True, **tree: object) -> SearchSpace:
    return SearchSpace.of(settings_from(tree), has_text=has_text, only=only)


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


@pytest.mark.parametrize("only", ["lambda", "retrieval.al", "", "lambdamart.forests"])
def test_a_part_that_is_none_is_refused(only: str) -> None:
    with pytest.raises(SettingsError, match=r"allowed are finetune, sources, ranker, examples, .*lambdamart"):
        space(only)


def test_what_cannot_matter_is_left_out() -> None:
    def kept(**tree: object) -> set[str]:
        return {key.rpartition(".")[0] for key in space(**tree).dimensions}  # type: ignore[arg-type]

    assert not {"finetune", "retrieval.new_items"} & kept(has_text=False)
    assert "finetune" not in kept(finetune={"enabled": False})
    assert kept(sources=["als"], ranker="by_score", has_text=False) == {"retrieval", "retrieval.als"}


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
    found = SearchSpace.of(base, has_text=True)
    assert found.settings({"lambdamart.l2": 1.234567}, base).lambdamart.l2 == 1.234567
    assert found.settings({"lambdamart.l2": 7.654321}, base).lambdamart.l2 == 7.654
    assert found.tidy({"lambdamart.l2": 7.654321, "lambdamart.num_leaves": 31}) == {
        "lambdamart.l2": 7.654, "lambdamart.num_leaves": 31,
    }  # fmt: skip


def test_the_start_changes_nothing() -> None:
    base = settings_from({"seed": 3, "lambdamart": {"num_trees": 7}, "events": {"weights": {"view": 0.5}}})
    found = SearchSpace.of(base, has_text=True)
    assert found.settings(found.start, base) == base


def test_json_names_every_bound() -> None:
    content = space("lambdamart.l2", "finetune.trainable").to_json()
    assert list(content) == ["finetune.trainable", "lambdamart.l2"]
    assert dict(itertools.islice(content["lambdamart.l2"]["attributes"].items(), 4))["high"] == 100.0
