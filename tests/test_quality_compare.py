"""`python -m quality.compare`: variants of the product on the same queries, from files where they are kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import quality.compare as program
import world
from recsys.evaluation import SystemResult, evaluate
from recsys.settings import Settings, load_settings

COMMON = ("sources=popularity,transitions,linear", "encoder.model=none", "threads=1", "gating.enabled=false",
          "examples.min_lists=20", "lambdamart.num_trees=10")  # fmt: skip
ALONE = "popularity: sources=popularity"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    world.write_world(tmp_path / "books")
    return tmp_path / "books"


def compare(data: Path, *more: str, part: str = "--test-part") -> Result:
    options = ["--data", str(data), "--task", "live", "--runs", str(data.parent / "runs"), part]
    return CliRunner().invoke(program.main, [*options, *(f"--set={s}" for s in COMMON), *more])


def product_of(data: Path, settings: Settings, seed: int = 0) -> SystemResult:
    return evaluate(program.read_data(data, settings, None), settings, "live", seed=seed).product


def test_a_variant_is_compared_with_the_product_query_by_query(data: Path) -> None:
    result = compare(data, "--variant", ALONE, "--seed", "0", "--seed", "1", "--rankers", "1")
    assert result.exit_code == 0, result.output
    both = load_settings(None, COMMON), load_settings(None, [*COMMON, ALONE.partition(": ")[2]])
    first, second = ([product_of(data, settings, seed).mean() for seed in (0, 1)] for settings in both)
    assert min(first) > max(second) + 0.01, "a variant that changes nothing would prove nothing"
    for name, own in (("as it is", first), ("popularity", second)):
        assert f"| {name} | {np.mean(own):.4f} |" in result.output
        assert f"{own[0]:.4f}, {own[1]:.4f} |" in result.output
    (line,) = [line for line in result.output.splitlines() if line.startswith("| as it is less popularity |")]
    assert line.split(" | ")[1].startswith(f"{np.mean(first) - np.mean(second):+.4f} (")
    assert line.endswith(", ".join(f"{a - b:+.4f}" for a, b in zip(first, second, strict=True)) + " |")


def test_what_is_chosen_is_chosen_before_the_part_that_judges(data: Path) -> None:
    """Shuffling what happens in the test part changes no figure, unless that part is asked for."""
    parts = ("--task=live", "--test-part")
    before = [figures_of(data, part) for part in parts]
    path = data / "events.csv"
    head, *rows = [row.split(",") for row in path.read_text().splitlines()]
    later = [row for row in rows if float(row[3]) >= np.quantile([float(row[3]) for row in rows], 0.9)]
    items = np.random.default_rng(0).permutation([row[1] for row in later]).tolist()
    for row, item in zip(later, items, strict=True):
        row[1] = item
    path.write_text("\n".join(map(",".join, [head, *rows])) + "\n")
    after = [figures_of(data, part) for part in parts]
    assert after[0] == before[0]
    assert after[1] != before[1]


def figures_of(data: Path, part: str) -> str:
    result = compare(data, "--seed", "0", "--rankers", "1", part=part)
    assert result.exit_code == 0, result.output
    return result.output


def test_one_ranker_and_one_seed_are_what_evaluate_says(data: Path) -> None:
    result = compare(data, "--seed", "3", "--rankers", "1")
    product = product_of(data, load_settings(None, COMMON), 3)
    assert f"| as it is | {product.mean():.4f} | {product.mean('recall@50'):.4f} |" in result.output


def test_several_rankers_are_averaged_and_differ(data: Path) -> None:
    settings = load_settings(None, [*COMMON, "lambdamart.sources_first=0"])  # the sources' order is the same for both
    asked = program.split(program.read_data(data, settings, None), "live", event_settings=settings.events)
    first, second = program.answers(asked, settings, 2)
    assert len(first) == len(second) == len(asked)
    assert first != second


def test_what_was_trained_before_is_read_again(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = compare(data, "--seed", "0", "--rankers", "1")
    monkeypatch.setattr(program, "answers", no_training)
    assert compare(data, "--seed", "0", "--seed", "0", "--rankers", "1").output == before.output


@pytest.mark.parametrize(
    "other",
    [
        ("--seed", "1"), ("--rankers", "2"), ("--task", "static"), ("--events", "purchase"),
        ("--set", "lambdamart.num_trees=11"), ("--variant", ALONE),
    ],
    ids=lambda other: other[0],
)  # fmt: skip
def test_another_question_is_trained_for(data: Path, monkeypatch: pytest.MonkeyPatch, other: tuple[str, ...]) -> None:
    asked = {"--seed": "0", "--rankers": "1"}
    assert compare(data, *flat(asked)).exit_code == 0
    monkeypatch.setattr(program, "answers", no_training)
    assert isinstance(compare(data, *flat(asked | dict([other]))).exception, TrainedError)


def flat(options: dict[str, str]) -> list[str]:
    return [part for option in options.items() for part in option]


@pytest.mark.parametrize("digest", ["data_digest", "code_digest"])
def test_other_data_or_another_product_are_another_question(
    data: Path, monkeypatch: pytest.MonkeyPatch, digest: str
) -> None:
    assert compare(data, "--seed", "0", "--rankers", "1").exit_code == 0
    monkeypatch.setattr(program, "answers", no_training)
    monkeypatch.setattr(program, digest, lambda _: "another")
    assert isinstance(compare(data, "--seed", "0", "--rankers", "1").exception, TrainedError)


class TrainedError(Exception):
    pass


def no_training(*_: object) -> None:
    raise TrainedError


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--variant", "nothing"), "must be a name, a colon"),
        (("--variant", "no settings:"), "must be a name, a colon"),
        (("--variant", ": threads=2"), "must be a name, a colon"),
        (("--variant", "as it is: threads=2"), "stands for the product itself"),
        (("--variant", ALONE, "--variant", ALONE), "is given twice"),
        (("--variant", "x: seed=3"), "seeds are given by --seed"),
        (("--set", "seed=3"), "seeds are given by --seed"),
        (("--seed", str(2**31)), "2147483648"),
        (("--variant", "x: data.max_rejected=0.5"), "give it to all by --set"),
        (("--variant", "typo: lambdamart.tree=3"), "lambdamart.tree"),
    ],
)
def test_what_can_not_be_compared_is_refused(data: Path, options: tuple[str, ...], problem: str) -> None:
    result = compare(data, *options)
    assert result.exit_code == 2
    assert problem in result.output


def test_a_task_without_queries_is_refused_before_anything_is_trained(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "answers", no_training)
    world.write_table(data / "events.csv", world.event_rows(num_users=1)[:1])
    result = compare(data)
    assert result.exit_code == 2, result.exception
    assert "no query" in result.output


def test_figures_of_all_seeds_are_pooled_by_query(data: Path) -> None:
    settings = Settings()
    asked = program.split(program.read_data(data, settings, None), "live", event_settings=settings.events)
    zeros, ones = np.zeros(len(asked)), np.ones(len(asked))
    nothing = np.full(len(asked), np.nan)  # cold recall of queries without a cold item
    a = [dict.fromkeys(program.METRICS, values) | {"cold_recall@10": nothing} for values in (zeros, ones)]
    b = [dict.fromkeys(program.METRICS, zeros) | {"cold_recall@10": nothing}] * 2
    text = program.table({"a": a, "b": b}, asked)
    assert "| a | 0.5000 | 0.5000 | nan | 0.0000, 1.0000 |" in text
    assert "| a less b | +0.5000 (+0.5000 to +0.5000) | +0.5000 (+0.5000 to +0.5000) |  | +0.0000, +1.0000 |" in text
