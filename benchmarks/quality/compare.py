"""Does a setting pay? Variants of the product on the same queries, with the luck of seeds and rankers averaged out.

A single run can't tell: the forest of another seed moves NDCG@10 by .001 to .005. So every variant is trained with
several seeds and each training's ranker is fitted several times; a query's figure is the mean of all of them, and
variants are compared query by query (paired bootstrap, clustered by user).

    PYTHONPATH=benchmarks:. python -m quality.compare --data data/ifdb_interactive_fiction --set gating.enabled=false \\
        --variant "pretrained: finetune.enabled=false" --variant "no text: encoder.model=none"
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt

from quality.runs import code_digest, data_digest
from recsys.command_options import read_data
from recsys.errors import ShelftalkError
from recsys.evaluation_result import NDCG, per_query
from recsys.metrics import mean, paired_bootstrap
from recsys.recommender import Recommender
from recsys.scoring import CHUNK
from recsys.settings import Settings, flat_settings, load_settings
from recsys.splits import EvaluationTask, split
from recsys.threads import limit_threads
from recsys.training import refit_ranker, train_with_examples
from recsys.variants import ItemLists, item_lists

F64 = npt.NDArray[np.float64]
Figures = Mapping[str, F64]
"""Metric -> its value for each query, (n_queries,), NaN where it is not defined."""
ROOT = Path(__file__).resolve().parents[2]
DEFAULTS = "as it is"
METRICS = (NDCG, "recall@50", "cold_recall@10")


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option("--data", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--task", type=click.Choice(["static", "live", "loo"]), help="As in `recsys evaluate`.")
@click.option("--events", help="Only events of these types, separated by commas.")
@click.option("--variant", "variants", multiple=True, metavar="NAME: KEY=VALUE ...", help="Repeatable.")
@click.option("--set", "common", multiple=True, metavar="KEY=VALUE", help="One setting of all variants; repeatable.")
@click.option("--seed", "seeds", type=click.IntRange(0), multiple=True, default=(0, 1, 2), show_default=True)
@click.option("--rankers", type=click.IntRange(1), default=3, show_default=True, help="Forests fitted a training.")
@click.option("--runs", type=click.Path(file_okay=False, path_type=Path), default=ROOT / "var" / "compare")
def main(
    data: Path,
    task: str | None,
    events: str | None,
    variants: Sequence[str],
    common: Sequence[str],
    seeds: Sequence[int],
    rankers: int,
    runs: Path,
) -> None:
    """Train what has not been trained before, then print each variant's means and all paired differences."""
    logging.basicConfig(level=logging.WARNING)
    try:
        changes = {DEFAULTS: [], **dict(map(parsed, variants))}
        settings = {name: load_settings(None, [*common, *changed]) for name, changed in changes.items()}
        first = next(iter(settings.values()))
        asked = split(read_data(data, first, events), task, event_settings=first.events)
        key = (data_digest(data), code_digest(ROOT), asked.kind, events or "", rankers)
        found: dict[str, list[Figures]] = {name: [] for name in settings}
        for seed in seeds:
            for name, own in settings.items():
                found[name].append(figures(asked, own.model_copy(update={"seed": seed}), rankers, runs, key))
                click.echo(f"seed {seed}, {name}: {NDCG} {mean(found[name][-1][NDCG]):.4f}")
    except (ShelftalkError, ValueError, OSError) as error:
        click.echo(f"compare: error: {error}", err=True)
        sys.exit(2)
    click.echo(table(found, asked))


def parsed(variant: str) -> tuple[str, list[str]]:
    """`NAME: KEY=VALUE ...` as a name and settings; ValueError where it is not of this form."""
    name, colon, changed = variant.partition(":")
    if not colon or not changed.split() or name.strip() == DEFAULTS:
        raise ValueError(f"--variant {variant!r} must be a name, a colon, and KEY=VALUE once or more")
    return name.strip(), changed.split()


def figures(asked: EvaluationTask, settings: Settings, rankers: int, folder: Path, key: tuple[object, ...]) -> Figures:
    """The means over the rankers of one training, from a file where it was done before."""
    facts = [*key, *flat_settings(settings)]
    name = hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()[:16]
    path = folder / f"{name}.npz"
    if path.is_file():
        with np.load(path) as kept:
            return dict(kept)
    started = time.perf_counter()
    each = [per_query(lists, asked) for lists in answers(asked, settings, rankers)]
    made = {metric: np.mean([values[metric] for values in each], axis=0) for metric in METRICS}
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **made)
    seconds = round(time.perf_counter() - started, 1)
    path.with_suffix(".json").write_text(json.dumps({"facts": facts, "seconds": seconds}, default=str, indent=1))
    return made


def answers(asked: EvaluationTask, settings: Settings, rankers: int) -> list[ItemLists]:
    """The lists of each ranker; candidates and features are found once."""
    trained = train_with_examples(asked.train, settings)
    model, names = trained.model, [source.name for source in trained.model.sources]
    fitted = [model.ranker]
    if trained.examples is not None:
        more = [settings.seed + 1000 * k for k in range(1, rankers)]
        fitted += [refit_ranker(trained, trained.examples, names, seed) for seed in more]
    del trained  # its examples are large
    recommenders = [Recommender(dataclasses.replace(model, ranker=ranker)) for ranker in fitted]
    lists: list[ItemLists] = [[] for _ in recommenders]
    with limit_threads(1):
        for start in range(0, len(asked), CHUNK):
            found = recommenders[0].candidates(asked.requests[start : start + CHUNK])
            for answered, recommender in zip(lists, recommenders, strict=True):
                answered.extend(item_lists(recommender.rank(found)))
    return lists


def table(found: Mapping[str, Sequence[Figures]], asked: EvaluationTask) -> str:
    """Each variant's means, then the paired differences of all pairs, as Markdown."""
    pooled = {
        name: {metric: np.mean([seed[metric] for seed in each], axis=0) for metric in METRICS}
        for name, each in found.items()
    }
    lines = ["", f"| variant | {' | '.join(METRICS)} | {NDCG} of each seed |", "|---" * (len(METRICS) + 2) + "|"]
    for name, means in pooled.items():
        seeds = ", ".join(f"{mean(each[NDCG]):.4f}" for each in found[name])
        lines.append(f"| {name} | {' | '.join(f'{mean(means[metric]):.4f}' for metric in METRICS)} | {seeds} |")
    lines += ["", f"| difference | {' | '.join(METRICS)} |", "|---" * (len(METRICS) + 1) + "|"]
    for a, b in combinations(pooled, 2):
        lines.append(
            f"| {a} less {b} | {' | '.join(_difference(pooled[a][m], pooled[b][m], asked) for m in METRICS)} |"
        )
    return "\n".join(lines)


def _difference(a: F64, b: F64, asked: EvaluationTask) -> str:
    if np.isnan(a - b).all():
        return ""
    found = paired_bootstrap(a, b, asked.users, np.random.default_rng(0))
    text = f"{found.difference:+.4f} ({found.interval.low:+.4f} to {found.interval.high:+.4f})"
    return text if found.verdict == "no clear difference" else f"**{text}**"


if __name__ == "__main__":
    main()
