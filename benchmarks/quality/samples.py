"""Is a shop of a few hundred users served worse than by its best single source? Samples of the users of a data set.

A sample holds the whole histories of some users and the items that they touched; the product is trained on it from
nothing and judged as `recsys evaluate` does. Of ten sources one is the best on a sample's queries by luck, so the lists
of each user are compared with the source that is best for all *other* users of the sample: what a shop could know that
was told how everybody else went on. Which source is best on all queries is shown beside it.

    PYTHONPATH=benchmarks:. python -m quality.samples --data data/ifdb_interactive_fiction --users 200 --users 400
"""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt

from features.tables import Catalogue, Dataset, IdIndex
from recsys.command_options import read_data
from recsys.comparison import Difference
from recsys.errors import ShelftalkError
from recsys.evaluation import evaluate
from recsys.evaluation_result import NDCG
from recsys.settings import load_settings

F64 = npt.NDArray[np.float64]
HEAD = "| users | seed | queries | ranker | product | best of the others' | lead ± error | best in hindsight |"


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option("--data", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--task", type=click.Choice(["static", "live", "loo"]), help="As in `recsys evaluate`.")
@click.option("--events", help="Only events of these types, separated by commas.")
@click.option("--users", "sizes", type=click.IntRange(2), multiple=True, default=(200, 400), show_default=True)
@click.option("--seed", "seeds", type=click.IntRange(0, 2**31 - 1), multiple=True, default=(0, 1, 2), show_default=True)
@click.option("--set", "common", multiple=True, metavar="KEY=VALUE", help="A setting; repeatable.")
def main(
    data: Path,
    task: str | None,
    events: str | None,
    sizes: Sequence[int],
    seeds: Sequence[int],
    common: Sequence[str],
) -> None:
    """Train on every sample, and print a row for each and their mean."""
    logging.basicConfig(level=logging.WARNING)
    try:
        settings = load_settings(None, common)
        dataset = read_data(data, settings, events)
        sample(dataset, max(sizes), seeds[0])  # what is too much is said before anything is trained
        click.echo(f"{HEAD}\n|{'---|' * (HEAD.count('|') - 1)}")
        leads = []
        for size in sizes:
            for seed in seeds:
                found = evaluate(sample(dataset, size, seed), settings.model_copy(update={"seed": seed}), task)
                own = found.product.per_query[NDCG]
                by_name = {source.name: source.per_query[NDCG] for source in found.sources}
                names = sorted(by_name)  # and not by how good they are, which would tell of ties
                each = np.stack([by_name[name] for name in names])
                users = np.unique(found.task.users, return_inverse=True)[1]
                fair, hindsight = best_of_the_others(each, users), each.mean(axis=1).argmax()
                lead = Difference.of(own, fair, users)
                leads.append(lead.mean)
                figures = f"{own.mean():.4f} | {fair.mean():.4f} | {lead} | {each[hindsight].mean():.4f}"
                row = f"| {size} | {seed} | {len(own)} | {found.model.ranker.kind} | {figures} ({names[hindsight]}) |"
                click.echo(row)
    except (ShelftalkError, ValueError, OSError) as error:
        click.echo(f"samples: error: {error}", err=True)
        sys.exit(2)
    spread = np.std(leads, ddof=1) / np.sqrt(len(leads)) if len(leads) > 1 else np.nan
    click.echo(f"\nmean lead of {len(leads)} samples: {np.mean(leads):+.4f} ± {spread:.4f}")


def sample(dataset: Dataset, size: int, seed: int) -> Dataset:
    """`size` users drawn at random with their whole histories, and the items that they touched; ValueError where there
    are not so many users.
    """
    active = np.unique(dataset.events.user_rows)
    if size > len(active):
        raise ValueError(f"--users {size}: the data hold only {len(active)} users with events")
    drawn = np.sort(np.random.default_rng([seed, size]).permutation(active)[:size])
    events = dataset.events.select(np.isin(dataset.events.user_rows, drawn))
    touched = np.unique(events.item_rows)
    catalogue = dataset.catalogue
    items = Catalogue(
        IdIndex(catalogue.items.ids[touched]),
        catalogue.frame.iloc[touched].reset_index(drop=True),
        catalogue.attributes,
    )
    renumbered = dataclasses.replace(
        events,
        user_rows=np.searchsorted(drawn, events.user_rows).astype(np.int32),
        item_rows=np.searchsorted(touched, events.item_rows).astype(np.int32),
    )
    return Dataset(items, renumbered, IdIndex(dataset.users.ids[drawn]), dataset.rejected, dataset.fingerprint)


def best_of_the_others(values: F64, users: npt.NDArray[np.int64]) -> F64:
    """Each query's value of the system that is best on the queries of all other users: `values` (n_systems, n_queries),
    `users` (n_queries,) of 0, 1, ...
    """
    own = np.stack([np.bincount(users, each) for each in values])
    best = (own.sum(axis=1, keepdims=True) - own).argmax(axis=0)
    return np.asarray(values[best[users], np.arange(len(users))], np.float64)


if __name__ == "__main__":
    main()
