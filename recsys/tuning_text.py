"""A search as text: for a terminal, and for the head of the file that it writes."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table

from recsys.evaluation_result import NDCG, task_facts
from recsys.evaluation_text import iso
from recsys.manifest import product_version
from recsys.search_space import GROUPS
from recsys.settings import Settings
from recsys.tuning import Progress
from recsys.tuning_result import Tuning
from recsys.tuning_study import START, Trial

_WIDTH = 120
_NUM_BEST = 6


def render(tuning: Tuning) -> str:
    """What was searched, the best trials, which settings mattered and what the best one is worth; 120 columns wide."""
    console = Console(file=io.StringIO(), width=_WIDTH, highlight=False, markup=False, emoji=False)
    with console.capture() as captured:
        for part in _parts(tuning):
            console.print(part)
    return captured.get()


def findings(tuning: Tuning) -> list[str]:
    """The lines that stand at the head of the settings file: what was found, and how far it can be believed."""
    task = tuning.task
    return [
        f"Found by `recsys tune`, shelftalk {product_version()}: the best of {len(tuning.trials)} trials.",
        f"Task {task.kind}, seed {tuning.settings.seed}.",
        f"On {_size(tuning)}:",
        f"{_verdict(tuning)}",
        *_cautions(tuning),
    ]


def progress_line(progress: Progress) -> str:
    """One line a trial: what it varied, what it reached, and the best so far."""
    trial, best = progress.trial, progress.best
    reached = {"complete": f"{NDCG} {trial.ndcg or 0.0:.4f}", "pruned": "given up early"}.get(
        trial.state, f"failed ({trial.error})"
    )
    return (
        f"trial {trial.number} ({trial.group}): {reached}, {trial.seconds:.0f} s; best {best.ndcg:.4f} "
        f"(trial {best.number}), {progress.seconds / 60:.1f} minutes so far"
    )


def _parts(tuning: Tuning) -> Iterator[RenderableType]:
    facts = task_facts(tuning.task)
    until = "" if tuning.task.cut is None else f" before {iso(tuning.task.cut)}"
    yield f"Task {facts['kind']}, judged on {_size(tuning)}; {facts['train_events']:,} events to learn from{until}"
    counts = Counter[str](trial.state for trial in tuning.trials)
    groups = Counter(trial.group for trial in tuning.trials)
    yield f"Trials: {_counted(counts)}; varied: {_counted(groups)}"
    yield _table(tuning)
    yield _importance_line(tuning)
    yield _verdict(tuning)
    yield from _cautions(tuning)


def _table(tuning: Tuning) -> Table:
    table = Table("trial", "varied", NDCG, "seconds", "settings other than at the start")
    for column in table.columns[:4]:
        column.no_wrap = True
    complete = sorted((t for t in tuning.trials if t.ndcg is not None), key=lambda t: (-(t.ndcg or 0.0), t.number))
    shown = complete[:_NUM_BEST]
    for trial in shown if tuning.start in shown else [*shown, tuning.start]:
        table.add_row(
            str(trial.number), trial.group, f"{trial.ndcg:.4f}", f"{trial.seconds:.0f}", _differences(tuning, trial)
        )
    return table


def _differences(tuning: Tuning, trial: Trial) -> str:
    start = tuning.space.start
    changes: dict[str, list[str]] = {}
    for key, value in tuning.space.tidy(trial.values).items():
        component, _, rest = key.partition(".")
        if value != start[key]:
            changes.setdefault(component, []).append(f"{rest}={_short(value)}")
    return "; ".join(f"{component}: {', '.join(pairs)}" for component, pairs in changes.items()) or "-"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value)


def _importance_line(tuning: Tuning) -> str:
    if not tuning.importances:
        return "Which settings matter: too few complete trials to tell"
    shown = [f"{key} {share:.0%}" for key, share in list(tuning.importances.items())[:_NUM_BEST]]
    return f"Which settings matter (PED-ANOVA): {', '.join(shown)}"


def _verdict(tuning: Tuning) -> str:
    """The best trial against the start, with the interval of the paired difference."""
    origin = "with the defaults" if tuning.settings == Settings() else "with the settings given"
    start, best, found = tuning.start, tuning.best, tuning.difference
    if best.number == start.number:
        return f"{NDCG} {start.ndcg:.4f} {origin}; no trial was better, so they stay as they are"
    sure = {"better": "better", "worse": "worse"}.get(found.verdict, "but the difference is not significant")
    return (
        f"{NDCG} {start.ndcg:.4f} {origin}, {best.ndcg:.4f} with those of trial {best.number}: {found.difference:+.4f} "
        f"(95 % interval {found.interval.low:+.4f} to {found.interval.high:+.4f}, p = {found.p_value:.3f}), {sure}"
    )


def _cautions(tuning: Tuning) -> list[str]:
    kind = tuning.task.kind
    seen = (
        f"What `recsys evaluate --task {kind}` judges on was hidden: it says what the settings are worth."
        if tuning.held_out
        else f"What `recsys evaluate --task {kind}` judges on was part of the search: its figures would flatter."
    )
    return ["The best of many trials looks better on these queries than it will on others.", seen]


def _size(tuning: Tuning) -> str:
    facts = task_facts(tuning.task)
    return f"{facts['queries']:,} validation queries of {facts['users']:,} users"


def _counted(counts: Counter[str]) -> str:
    order = [START, "complete", "pruned", "failed", *reversed(list(GROUPS))]
    return ", ".join(f"{counts[name]} {name}" for name in order if counts[name])
