"""Experiments: shares, stickiness, independence of one another, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recsys.errors import SettingsError
from recsys.experiments import Experiment, Variant, load_experiment

NUM_USERS = 20_000


def experiment(name: str = "e", *shares: float) -> Experiment:
    names = "abc"
    variants = tuple(Variant(name=names[k], share=share) for k, share in enumerate(shares or (0.5, 0.5)))
    return Experiment(name=name, variants=variants)


def assigned(given: Experiment) -> np.ndarray:
    return np.array([given.assign(f"u{k}").name for k in range(NUM_USERS)])


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.9, 0.1), (0.2, 0.3, 0.5)])
def test_each_variant_gets_its_share(shares: tuple[float, ...]) -> None:
    """Within five standard deviations of a coin with that share."""
    names = assigned(experiment("e", *shares))
    for name, share in zip("abc", shares, strict=False):
        spread = np.sqrt(share * (1 - share) / NUM_USERS)
        assert abs((names == name).mean() - share) < 5 * spread


def test_a_user_stays_in_one_variant() -> None:
    """Known values: a change of the hash would move users of running experiments."""
    assert [experiment("ranker-2").assign(f"u{k}").name for k in range(8)] == list("bbbbbbba")
    assert (assigned(experiment()) == assigned(experiment())).all()


def test_who_is_where_in_one_experiment_says_nothing_about_another() -> None:
    same = (assigned(experiment("one")) == assigned(experiment("two"))).mean()
    assert same == pytest.approx(0.5, abs=0.02)


def test_a_larger_share_keeps_those_who_had_the_variant() -> None:
    before, after = assigned(experiment("e", 0.1, 0.9)), assigned(experiment("e", 0.3, 0.7))
    assert (after[before == "a"] == "a").all()


def test_guests_and_any_unicode_have_a_variant() -> None:
    assert experiment().assign(None).name == "a"
    assert experiment().assign("\ud800☃").name in "ab"


EXAMPLE = """
name = "diversity"

[[variants]]
name = "control"
share = 0.9

[[variants]]
name = "diverse"
share = 0.1
rules = "diverse.toml"
serve = {{ diversity = {value} }}
"""


def test_a_file_is_read_with_its_paths(tmp_path: Path) -> None:
    file = tmp_path / "experiment.toml"
    file.write_text(EXAMPLE.format(value=0.3), encoding="utf-8")
    diverse = load_experiment(file).variants[1]
    assert (diverse.rules, diverse.serve) == (tmp_path / "diverse.toml", {"diversity": 0.3})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name = ", "not TOML"),
        ("name = 'x'", "variants"),
        (EXAMPLE.format(value=3), "less than or equal to 1"),
        (EXAMPLE.format(value=0.3).replace("0.9", "0.8"), "add up to 0.9"),
        (EXAMPLE.format(value=0.3).replace('"diverse"\n', '"control"\n'), "distinct"),
        (EXAMPLE.format(value=0.3).replace("diversity = 0.3", "diversty = 0.3"), "diversty"),
    ],
)
def test_what_can_not_be_used_is_named(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "experiment.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=words) as caught:
        load_experiment(file)
    assert "experiment.toml" in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="can't be read"):
        load_experiment(tmp_path / "experiment.toml")
