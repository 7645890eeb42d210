"""Does a setting pay? Variants of the product on the same queries, averaged over seeds and rankers.

A single run can't tell: the forest of another seed moves NDCG@10 by .001 to .005. So every variant is trained with
several seeds and each training's ranker is fitted several times; a query's figure is the mean of all of them, and
variants are compared query by query (paired bootstrap, clustered by user). That interval knows of the choice of queries
alone; how far the trainings differ is printed beside it. What is chosen here is chosen on events before the part that
`recsys evaluate` judges on, unless `--test-part` asks for that.

    PYTHONPATH=benchmarks:. python -m quality.compare --data data/ifdb_interactive_fiction --set gating.enabled=false \\
        --variant "pretrained: finetune.enabled=false" --variant "no text: encoder.model=none"
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
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

from features.tables import Dataset
from quality.runs import code_digest, data_digest
from recsys.command_options import read_data
from recsys.errors import DataError, ShelftalkError
from recsys.evaluation_result import NDCG, per_query
from recsys.files import replace_text, replacing, sha256_of
from recsys.manifest import product_version
from recsys.metrics import mean, paired_bootstrap
from recsys.recommender import Recommender
from recsys.scoring import CHUNK
from recsys.settings import Settings, flat_settings, load_settings
from recsys.splits import EvaluationTask, split, without_test
from recsys.threads import limit_threads
from recsys.training import refit_ranker, train_with_examples
from recsys.variants import ItemLists, item_lists

F64 = npt.NDArray[np.float64]
Figures = Mapping[str, F64]
"""Metric -> its value for each query, (n_queries,), NaN where it is not defined."""
ROOT = Path(__file__).resolve().parents[2]
DEFAULTS = "as it is"
NOTE = (
    "95 % intervals over users, of these trainings; the differences of single seeds say how far trainings differ. "
    "Nothing is corrected for how many variants are compared."
)
METRICS = (NDCG, "recall@50", "cold_recall@10")


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option("--data", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--task", type=click.Choice(["static", "live", "loo"]), help="As in `recsys evaluate`.")
@click.option("--events", help="Only events of these types, separated by commas.")
@click.option("--variant", "variants", multiple=True, metavar="NAME: KEY=VALUE ...", help="Repeatable.")
@click.option("--set", "common", multiple=True, metavar="KEY=VALUE", help="One setting of all variants; repeatable.")
@click.option("--seed", "seeds", type=click.IntRange(0, 2**31 - 1), multiple=True, default=(0, 1, 2), show_default=True)
@click.option("--rankers", type=click.IntRange(1), default=3, show_default=True, help="Forests fitted a training.")
@click.option("--test-part", is_flag=True, help="Judge on what `recsys evaluate` judges on: not for choosing settings.")
@click.option("--runs", type=click.Path(file_okay=False, path_type=Path), default=ROOT / "var" / "compare")
def main(
    data: Path,
    task: str | None,
    events: str | None,
    variants: Sequence[str],
    common: Sequence[str],
    seeds: Sequence[int],
    rankers: int,
    test_part: bool,
    runs: Path,
) -> None:
    """Train what has not been trained before, then print each variant's means and all paired differences."""
    logging.basicConfig(level=logging.WARNING)
    try:
        settings = {name: load_settings(None, [*common, *own]) for name, own in all_variants(common, variants).items()}
        first = settings[DEFAULTS]
        asked = judged(read_data(data, first, events), task, first, test_part=test_part)
        program = sha256_of(Path(__file__))[:12]
        key = (data_digest(data), code_digest(ROOT), product_version(), program, asked.kind, test_part, events, rankers)
        found: dict[str, list[Figures]] = {name: [] for name in settings}
        for seed in dict.fromkeys(seeds):
            for name, own in settings.items():
                found[name].append(figures(asked, own.model_copy(update={"seed": seed}), rankers, runs, key))
                click.echo(f"seed {seed}, {name}: {NDCG} {mean(found[name][-1][NDCG]):.4f}")
    except (ShelftalkError, ValueError, OSError) as error:
        click.echo(f"compare: error: {error}", err=True)
        sys.exit(2)
    click.echo(table(found, asked))


def all_variants(common: Sequence[str], variants: Sequence[str]) -> dict[str, list[str]]:
    """Name -> settings, of the product as it is and of the variants; ValueError where they can't be compared."""
    found: dict[str, list[str]] = {DEFAULTS: []}
    for variant in variants:
        name, _, changed = (part.strip() for part in variant.partition(":"))
        if not name or not changed:
            raise ValueError(f"--variant {variant!r} must be a name, a colon, and KEY=VALUE once or more")
        if name in found:
            taken = "stands for the product itself" if name == DEFAULTS else "is given twice"
            raise ValueError(f"--variant {variant!r}: the name {name!r} {taken}; take another one")
        found[name] = changed.split()
    for setting in [*common, *(setting for own in found.values() for setting in own)]:
        if setting.startswith("seed="):
            raise ValueError(f"{setting}: seeds are given by --seed")
    for own in found.values():
        if fixed := [setting for setting in own if setting.startswith(("data.", "events."))]:
            raise ValueError(f"{fixed[0]}: variants share one reading of the data; give it to all by --set")
    return found


def judged(dataset: Dataset, task: str | None, settings: Settings, *, test_part: bool) -> EvaluationTask:
    """The queries; DataError where there is none."""
    visible = dataset if test_part else without_test(dataset, task, event_settings=settings.events)
    asked = split(visible, task, event_settings=settings.events)
    if not len(asked):
        raise DataError(f"task {asked.kind} has no query in the newest part of {len(visible.events)} events; give more")
    return asked


def figures(asked: EvaluationTask, settings: Settings, rankers: int, folder: Path, key: tuple[object, ...]) -> Figures:
    """The means over the rankers of one training, from a file where it was done before."""
    facts = [*key, *flat_settings(settings)]
    name = hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()[:16]
    path = folder / f"{name}.npz"
    folder.mkdir(parents=True, exist_ok=True)
    if path.is_file():
        with np.load(path) as kept:
            return dict(kept)
    started = time.perf_counter()
    each = [per_query(lists, asked) for lists in answers(asked, settings, rankers)]
    made = {metric: np.mean([values[metric] for values in each], axis=0) for metric in METRICS}
    seconds = round(time.perf_counter() - started, 1)
    replace_text(path.with_suffix(".json"), json.dumps({"facts": facts, "seconds": seconds}, default=str, indent=1))
    packed = io.BytesIO()
    np.savez_compressed(packed, **made)
    with replacing(path) as file:
        file.write(packed.getvalue())
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
    lines += ["", f"| difference | {' | '.join(METRICS)} | {NDCG} of each seed |", "|---" * (len(METRICS) + 2) + "|"]
    for a, b in combinations(pooled, 2):
        differences = (_difference(pooled[a][metric], pooled[b][metric], asked) for metric in METRICS)
        seeds = ", ".join(
            f"{mean(one[NDCG] - other[NDCG]):+.4f}" for one, other in zip(found[a], found[b], strict=True)
        )
        lines.append(f"| {a} less {b} | {' | '.join(differences)} | {seeds} |")
    return "\n".join([*lines, "", NOTE])


def _difference(a: F64, b: F64, asked: EvaluationTask) -> str:
    if np.isnan(a - b).all():
        return ""
    found = paired_bootstrap(a, b, asked.users, np.random.default_rng(0))
    return f"{found.difference:+.4f} ({found.interval.low:+.4f} to {found.interval.high:+.4f})"


if __name__ == "__main__":
    main()
