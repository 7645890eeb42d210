"""An evaluation as text for a terminal."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from rich.console import Console, RenderableType
from rich.table import Table

from recsys.evaluation_result import COVERAGE_K, NDCG, Evaluation, task_facts
from recsys.metrics import PairedDifference
from recsys.splits import EvaluationTask

_WIDTH = 120
_FIGURES = {
    "hit@10": "hit@10",
    "recall@50": "recall@50",
    "mrr@10": "mrr@10",
    "cold_recall@10": "cold@10",
    "cold_recall@50": "cold@50",
}
"""The further metrics that are shown, and the heads of their columns."""
_HEADS = {"cold_recall@10": "cold@10", "train_users": "users", "train_events": "events"}
"""The heads of columns of an experiment's table, where they are not the figure's own name."""
_VERDICTS = {"better": "is better than", "worse": "is worse than"}


def render(evaluation: Evaluation) -> str:
    """The systems side by side, the product against its best source, and its training; 120 columns wide at most."""
    console = Console(file=io.StringIO(), width=_WIDTH, highlight=False, markup=False, emoji=False)
    with console.capture() as captured:
        for part in _parts(evaluation):
            console.print(part)
    return captured.get()


def iso(seconds: float) -> str:
    """Unix seconds as a UTC date and time."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"


def _parts(evaluation: Evaluation) -> Iterator[RenderableType]:
    yield _headline(evaluation.task)
    yield _systems_table(evaluation)
    yield _verdict(f"its best source, {evaluation.best_source.name}", evaluation.against_best_source)
    for name, found in evaluation.against_buy_again.items():
        if name != evaluation.best_source.name:
            yield _verdict(name, found)
    yield from _training_lines(evaluation)
    yield from _experiment_parts(evaluation)


def _experiment_parts(evaluation: Evaluation) -> Iterator[RenderableType]:
    """A heading and a table for each experiment that found something."""
    experiments = {
        "Ablations (difference: without it, less the product)": evaluation.ablations,
        "Noisy texts at answering time (difference: noisy, less the product)": evaluation.robustness,
        "Learning curve (share: of the training users)": evaluation.learning_curve,
    }
    for heading, rows in experiments.items():
        if rows:
            yield f"\n{heading}"
            yield _rows_table(rows)


def _rows_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Plain rows of the same keys; the first column is their name."""
    table = Table(*(_HEADS.get(key, key) for key in rows[0]))
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", True
    for row in rows:
        signed = {"difference", "low", "high"} if "difference" in row else set()
        table.add_row(*(_cell(key, value, signed=key in signed) for key, value in row.items()))
    return table


def _cell(key: str, value: Any, *, signed: bool) -> str:
    if key == "share":
        return f"{value:.0%}"
    if key == "seconds":
        return f"{value:.1f}"
    if signed:
        return f"{value:+.4f}"
    return _figure(value) if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _headline(task: EvaluationTask) -> str:
    facts = task_facts(task)
    until = "" if task.cut is None else f" before {iso(task.cut)}"
    return (
        f"Task {facts['kind']}: {facts['queries']:,} queries of {facts['users']:,} users; {facts['train_events']:,} "
        f"events to learn from{until}; {facts['items']:,} items, {facts['cold_items']:,} of them in none of these"
    )


def _systems_table(evaluation: Evaluation) -> Table:
    table = Table("system", NDCG, "95 % interval", *_FIGURES.values(), f"coverage@{COVERAGE_K}")
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", True
    for system in evaluation.systems:
        interval = f"{system.interval.low:.4f} - {system.interval.high:.4f}"
        others = [_figure(system.mean(metric)) for metric in _FIGURES]
        table.add_row(system.name, _figure(system.mean()), interval, *others, _figure(system.coverage))
    return table


def _verdict(rival: str, found: PairedDifference) -> str:
    opening = _VERDICTS.get(found.verdict, "is not clearly different from")
    return (
        f"The product {opening} {rival}: {NDCG} {found.difference:+.4f} "
        f"({found.interval.low:+.4f} to {found.interval.high:+.4f}, p = {found.p_value:.3f})"
    )


def _training_lines(evaluation: Evaluation) -> Iterator[str]:
    report, seconds = evaluation.model.report, evaluation.seconds
    yield "Lists by strategy: " + ", ".join(
        f"{name} {count:,}" for name, count in sorted(evaluation.strategies.items())
    )
    if "ranker_reason" in report:
        yield f"No learned ranker: {report['ranker_reason']}"
    if "gating_skipped" in report:
        yield f"Gating was skipped: {report['gating_skipped']}"
    if "encoder" in report:
        yield f"Text encoder: {_facts(report['encoder'])}"
    stages = ", ".join(f"{name} {spent:.1f} s" for name, spent in report.get("seconds", {}).items())
    yield f"Training: {seconds['train']:.1f} s" + (f" ({stages})" if stages else "")
    yield f"Answering: {seconds['answer']:.1f} s, {1000 * seconds['answer'] / len(evaluation.task):.1f} ms a list"
    yield f"Seed {evaluation.seed}, data {evaluation.model.fingerprint[:12] or 'without a fingerprint'}"


def _facts(values: Mapping[str, Any]) -> str:
    """The single values of a part of the training report, on one line."""
    single = {name.replace("_", " "): value for name, value in values.items() if isinstance(value, (str, int, float))}
    return ", ".join(f"{name} {_short(value)}" for name, value in single.items())


def _short(value: str | float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _figure(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.4f}"
