"""What an evaluation found: values, their comparison and their JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import pandas as pd

from recsys import metrics
from recsys.errors import SettingsError
from recsys.evaluation_figures import further_figures
from recsys.list_rows import ListRows
from recsys.manifest import plain, product_version
from recsys.metrics import Floats, Interval, PairedDifference
from recsys.model import FittedModel
from recsys.retrieval.buy_again import BUY_AGAIN
from recsys.settings import Settings, flat_settings
from recsys.splits import LIST_LENGTH, EvaluationTask

NDCG = "ndcg@10"
COVERAGE_K = 10


@dataclass(frozen=True)
class SystemResult:
    """How one system answered.

    `per_query` maps each metric to (n_queries,) float64, NaN where it is not defined; `distinct` counts the items in
    anybody's top 10, `coverage` is their share of the catalogue; `interval` (95 %) and `standard_error` are those of
    the mean NDCG@10, clustered by user.
    """

    name: str
    per_query: Mapping[str, Floats]
    distinct: int
    coverage: float
    interval: Interval
    standard_error: float

    @classmethod
    def of(cls, name: str, lists: Sequence[Sequence[str]], task: EvaluationTask, seed: int) -> Self:
        """Judge `lists`, the answers to `task.requests` in their order, best first; an empty list scores 0."""
        values = per_query(lists, task)
        return cls(
            name,
            values,
            distinct=metrics.num_distinct(lists, COVERAGE_K),
            coverage=metrics.coverage(lists, len(task.train.catalogue), COVERAGE_K),
            interval=metrics.bootstrap_interval(values[NDCG], task.users, np.random.default_rng(seed)),
            standard_error=metrics.standard_error(values[NDCG], task.users),
        )

    def mean(self, metric: str = NDCG) -> float:
        """The metric's mean over the queries for which it is defined."""
        return metrics.mean(self.per_query[metric])

    def to_json(self) -> dict[str, Any]:
        """Every figure by name."""
        means = {name: self.mean(name) for name in self.per_query}
        spread = {
            f"{NDCG}_low": self.interval.low,
            f"{NDCG}_high": self.interval.high,
            f"{NDCG}_se": self.standard_error,
        }
        reach = {f"distinct@{COVERAGE_K}": self.distinct, f"coverage@{COVERAGE_K}": self.coverage}
        return {"name": self.name} | means | spread | reach


@dataclass(frozen=True)
class Evaluation:
    """The answers to one task, judged.

    `product` is the whole recommender; `sources` are its candidate sources and popularity, each alone, the best by
    NDCG@10 first. `model` is what was judged: it has seen the task's train part only. `strategies` counts the product's
    answers by the path that made them; `seconds` has the time of training (0 for a given model) and of its answers.
    `lists` has every system's lists, in rows of the model's catalogue. `ablations`, `robustness` and `learning_curve`
    hold plain rows (see `recsys.variants`, `recsys.robustness`, `recsys.learning_curve`) where they were asked for.
    `peak_memory_mb` is the most MiB that the process held up to the end, these included; None until it is measured.
    """

    task: EvaluationTask
    model: FittedModel
    product: SystemResult
    sources: tuple[SystemResult, ...]
    against_best_source: PairedDifference
    strategies: Mapping[str, int]
    seconds: Mapping[str, float]
    seed: int
    lists: Mapping[str, ListRows]
    ablations: tuple[Mapping[str, Any], ...] = ()
    robustness: tuple[Mapping[str, Any], ...] = ()
    learning_curve: tuple[Mapping[str, Any], ...] = ()
    peak_memory_mb: int | None = None

    @property
    def systems(self) -> tuple[SystemResult, ...]:
        """The product, then the sources."""
        return (self.product, *self.sources)

    @property
    def best_source(self) -> SystemResult:
        """The source with the highest NDCG@10: chosen on these very queries, so it is a hard opponent."""
        return self.sources[0]

    @property
    def against_buy_again(self) -> dict[str, PairedDifference]:
        """How far the product's NDCG@10 is above each "buy it again"; empty for tasks that leave out the history."""
        names = [source.name for source in BUY_AGAIN]
        rivals = [source for source in self.sources if source.name in names]
        return {rival.name: difference(self.product, rival, self.task, self.seed) for rival in rivals}

    def compare(self, other: Evaluation) -> PairedDifference:
        """How far this product's NDCG@10 is above the other's; SettingsError where the queries differ."""
        if (self.task.users, self.task.truths) != (other.task.users, other.task.truths):
            raise SettingsError("evaluations can be compared on the same queries only: use one data set and one task")
        return difference(self.product, other.product, self.task, self.seed)

    def to_frame(self) -> pd.DataFrame:
        """One row a system, one column a figure, for notebooks."""
        return pd.DataFrame([system.to_json() for system in self.systems]).set_index("name")

    @cached_property
    def further_figures(self) -> Mapping[str, Any]:
        """Slices, beyond accuracy, contributions, calibration and examples: computed when first asked for."""
        return further_figures(self)

    def to_html(self) -> str:
        """The report: all figures as one page that needs neither network nor JavaScript."""
        from recsys.report.page import render_report  # matplotlib is for those who want plots

        return render_report(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Everything that is known, in JSON's own types; null stands for a figure that is not defined."""
        content: dict[str, Any] = plain(
            {
                "product_version": product_version(),
                "task": task_facts(self.task),
                "systems": [system.to_json() for system in self.systems],
                "against_best_source": {"source": self.best_source.name} | difference_facts(self.against_best_source),
                "against_buy_again": {name: difference_facts(d) for name, d in self.against_buy_again.items()},
                "strategies": self.strategies,
                "seconds": self.seconds,
                "peak_memory_mb": self.peak_memory_mb,
                "seed": self.seed,
                "fingerprint": self.model.fingerprint,
                "settings": self.model.settings.model_dump(mode="json"),
                "changed_settings": changed_settings(self.model.settings),
                "training": self.model.report,
                **self.further_figures,
                "ablations": self.ablations,
                "robustness": self.robustness,
                "learning_curve": self.learning_curve,
            }
        )
        return content


def per_query(lists: Sequence[Sequence[str]], task: EvaluationTask) -> dict[str, Floats]:
    """Each metric's value for each query, (n_queries,): `lists` are the answers to `task.requests`, in their order."""
    hits, num_relevant = metrics.hit_matrix(lists, task.truths, LIST_LENGTH), metrics.count(task.truths)
    return {
        NDCG: metrics.ndcg_at_k(hits, num_relevant, 10),
        "hit@10": metrics.hit_at_k(hits, num_relevant, 10),
        "recall@10": metrics.recall_at_k(hits, num_relevant, 10),
        "recall@50": metrics.recall_at_k(hits, num_relevant, 50),
        "mrr@10": metrics.mrr_at_k(hits, num_relevant, 10),
        "cold_recall@10": metrics.cold_recall_at_k(lists, task.truths, task.cold, 10),
        "cold_recall@50": metrics.cold_recall_at_k(lists, task.truths, task.cold, 50),
    }


def difference(a: SystemResult, b: SystemResult, task: EvaluationTask, seed: int) -> PairedDifference:
    """NDCG@10 of a less that of b, on the queries of `task`, which both have answered."""
    return metrics.paired_bootstrap(a.per_query[NDCG], b.per_query[NDCG], task.users, np.random.default_rng(seed))


def task_facts(task: EvaluationTask) -> dict[str, Any]:
    """How large the task is: its kind, its cut (unix seconds, None for loo) and its counts."""
    return {
        "kind": task.kind,
        "cut": task.cut,
        "queries": len(task),
        "users": len(set(task.users)),
        "items": len(task.train.catalogue),
        "cold_items": len(task.cold),
        "train_events": len(task.train.events),
    }


def changed_settings(settings: Settings) -> dict[str, Any]:
    """The settings that differ from the defaults, by key."""
    defaults = dict(flat_settings(Settings()))
    return {key: value for key, value in flat_settings(settings) if key not in defaults or value != defaults[key]}


def difference_facts(found: PairedDifference) -> dict[str, Any]:
    """A comparison by name, for JSON."""
    return {
        "metric": NDCG,
        "difference": found.difference,
        "low": found.interval.low,
        "high": found.interval.high,
        "p_value": found.p_value,
        "probability_better": found.probability_better,
        "verdict": found.verdict,
    }
