"""`python -m quality.compare`: variants of the product on the same queries, from files where they are kept."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import quality.compare as program
import world
from recsys.evaluation import evaluate
from recsys.settings import Settings, load_settings

COMMON = ("sources=popularity,transitions,linear", "encoder.model=none", "threads=1", "gating.enabled=false",
          "examples.min_lists=20", "lambdamart.num_trees=10")  # fmt: skip
ALONE = "no linear: sources=popularity,transitions"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    world.write_world(tmp_path / "books")
    return tmp_path / "books"


def compare(data: Path, *more: str) -> Result:
    options = ["--data", str(data), "--task", "live", "--runs", str(data.parent / "runs")]
    return CliRunner().invoke(program.main, [*options, *(f"--set={s}" for s in COMMON), *more])


def test_a_variant_is_compared_with_the_product_query_by_query(data: Path) -> None:
    result = compare(data, "--variant", ALONE, "--seed", "0", "--seed", "1", "--rankers", "2")
    assert result.exit_code == 0, result.output
    assert len(re.findall(r"^seed [01], (?:as it is|no linear): ndcg@10 0?\.?\d+", result.output, re.MULTILINE)) == 4
    means = dict(re.findall(r"^\| (as it is|no linear) \| ([\d.]+) ", result.output, re.MULTILINE))
    (difference,) = re.findall(r"^\| as it is less no linear \| \**([+-][\d.]+) ", result.output, re.MULTILINE)
    assert float(difference) == pytest.approx(float(means["as it is"]) - float(means["no linear"]), abs=2e-4)


def test_one_ranker_and_one_seed_are_what_evaluate_says(data: Path) -> None:
    result = compare(data, "--seed", "3", "--rankers", "1")
    settings = load_settings(None, COMMON)
    product = evaluate(program.read_data(data, settings, None), settings, "live", seed=3).product
    assert f"| as it is | {product.mean():.4f} | {product.mean('recall@50'):.4f} |" in result.output


def test_several_rankers_are_averaged_and_differ(data: Path) -> None:
    settings = load_settings(None, COMMON)
    asked = program.split(program.read_data(data, settings, None), "live", event_settings=settings.events)
    first, second = program.answers(asked, settings, 2)
    assert len(first) == len(second) == len(asked)
    assert first != second


def test_what_was_trained_before_is_read_again(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = compare(data, "--seed", "0", "--rankers", "1")
    monkeypatch.setattr(program, "answers", _no_training)
    assert compare(data, "--seed", "0", "--rankers", "1").output == before.output
    assert isinstance(compare(data, "--seed", "1", "--rankers", "1").exception, AssertionError)


def _no_training(*_: object) -> None:
    raise AssertionError("trained again")


@pytest.mark.parametrize("variant", ["nothing", "no settings:", "as it is: threads=2"])
def test_a_variant_that_says_nothing_is_refused(data: Path, variant: str) -> None:
    result = compare(data, "--variant", variant)
    assert result.exit_code == 2
    assert f"--variant {variant!r}" in result.output


def test_an_unknown_setting_is_named(data: Path) -> None:
    result = compare(data, "--variant", "typo: lambdamart.tree=3")
    assert result.exit_code == 2
    assert "lambdamart.tree" in result.output


def test_figures_of_all_seeds_are_pooled_by_query(data: Path) -> None:
    settings = Settings()
    asked = program.split(program.read_data(data, settings, None), "live", event_settings=settings.events)
    zeros, ones = np.zeros(len(asked)), np.ones(len(asked))
    a = [dict.fromkeys(program.METRICS, zeros), dict.fromkeys(program.METRICS, ones)]
    b = [dict.fromkeys(program.METRICS, zeros)] * 2
    text = program.table({"a": a, "b": b}, asked)
    assert "| a | 0.5000 | 0.5000 | 0.5000 | 0.0000, 1.0000 |" in text
    assert "| a less b | **+0.5000 (+0.5000 to +0.5000)** |" in text
