"""Finished runs as Markdown tables: figures beside targets and peers, the encoder's verdict, and the experiments."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quality.plan import QualityTask
from quality.runs import Result

NDCG = "ndcg@10"
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Line:
    """A task and its finished runs by seed. `problem` says why there are fewer than there should be."""

    task: QualityTask
    results: Mapping[int, Result]
    problem: str = ""

    @property
    def label(self) -> str:
        """The data set, with the event types that count."""
        return self.task.name + (f" (`--events {self.task.events}`)" if self.task.events else "")

    @property
    def kind(self) -> str:
        """The task's kind; where the data decide it, what the runs say."""
        kinds = {result["evaluation"]["task"]["kind"] for result in self.results.values()}
        return self.task.task or ", ".join(sorted(kinds)) or "default"

    @property
    def evaluations(self) -> list[Row]:
        """What `recsys evaluate` wrote, by seed."""
        return [self.results[seed]["evaluation"] for seed in sorted(self.results)]

    def rows(self, experiment: str) -> list[Row]:
        """The rows of an experiment, of the first seed that has any."""
        return next((rows for evaluation in self.evaluations if (rows := evaluation.get(experiment))), [])


def regions(lines: Sequence[Line]) -> dict[str, str]:
    """The content of every region of the document."""
    return {
        "results": results_table(lines) + "\n\n" + made_by(lines),
        "encoder": encoder_table(lines),
        "ablations": pivot(lines, "ablations", lambda row: str(row["name"]), _difference),
        "robustness": pivot(lines, "robustness", lambda row: str(row["name"]), _change),
        "learning-curve": pivot(lines, "learning_curve", lambda row: f"{row['share']:.0%} of the users", _interval),
    }


def results_table(lines: Sequence[Line]) -> str:
    """One line a task: what was reached, by seed, against peer, target and the product's own best source."""
    heads = (
        "set", "task", "best peer", "must", "aim", "seeds", "mean ± sd", "reached", "against its best source",
        "cold@10", "train", "peak memory",
    )  # fmt: skip
    return _table(heads, [_result_cells(line) for line in lines])


def _result_cells(line: Line) -> list[str]:
    task = line.task
    opening = [line.label, line.kind, _ndcg(task.best_peer), _ndcg(task.must), _ndcg(task.aim)]
    if not line.results:
        return [*opening, line.problem or "not measured yet", *[""] * 6]
    values = [_product(evaluation)[NDCG] for evaluation in line.evaluations]
    mean = statistics.fmean(values)
    spread = f" ± {_ndcg(statistics.stdev(values))}" if len(values) > 1 else ""
    seeds = ", ".join(_ndcg(value) for value in values) + (f" ({line.problem})" if line.problem else "")
    minutes = max(evaluation["seconds"]["train"] for evaluation in line.evaluations) / 60
    peak = max(result["cost"]["peak_mb"] for result in line.results.values())
    return [
        *opening, seeds, _ndcg(mean) + spread, _reached(task, mean), _against_best_source(line.evaluations),
        _cold(line.evaluations), f"{minutes:.1f} min", f"{peak / 1024:.1f} GB",
    ]  # fmt: skip


def _reached(task: QualityTask, mean: float) -> str:
    goals = {"aim": task.aim, "must": task.must, "best peer": task.best_peer}
    set_ = {name: goal for name, goal in goals.items() if goal is not None}
    return next((name for name, goal in set_.items() if mean >= goal), "none" if set_ else "")


def _against_best_source(evaluations: Sequence[Row]) -> str:
    """The mean difference and the widest interval over the seeds."""
    found = [evaluation["against_best_source"] for evaluation in evaluations]
    mean = statistics.fmean(each["difference"] for each in found)
    low, high = min(each["low"] for each in found), max(each["high"] for each in found)
    names = ", ".join(sorted({each["source"] for each in found}))
    return f"{mean:+.4f} ({low:+.4f} to {high:+.4f}) over {names}"


def _cold(evaluations: Sequence[Row]) -> str:
    values = [value for e in evaluations if (value := _product(e)["cold_recall@10"]) is not None]
    return _ndcg(statistics.fmean(values)) if values else "no cold item asked for"


def made_by(lines: Sequence[Line]) -> str:
    """Which product and settings made the figures, so that mixed ones are seen."""
    runs = [result["run"] for line in lines for result in line.results.values()]
    if not runs:
        return "No run has finished yet."
    products = ", ".join(sorted({run["product"] for run in runs}))
    settings = sorted({", ".join(sorted(run["changed_settings"])) or "the defaults" for run in runs})
    return f"Made by `make quality` with shelftalk {products}; settings: {' or '.join(settings)}."


def encoder_table(lines: Sequence[Line]) -> str:
    """Fine-tuned against pretrained by the encoder's own held-out users, and what both are worth to the lists."""
    heads = ("set", "task", "pretrained", "fine-tuned", "held-out users", "lists without it", "lists without text")
    rows = []
    for line in lines:
        encoder = line.evaluations[0]["training"].get("encoder") if line.results else None
        if encoder is None:
            continue
        by_name = {row["name"]: row for row in line.rows("ablations")}
        worth = [_difference(by_name[n]) if n in by_name else "" for n in ("without fine-tuning", "without text")]
        rows.append([line.label, line.kind, *_encoder_cells(encoder), *worth])
    return _table(heads, rows) if rows else "Not measured yet."


def _encoder_cells(encoder: Row) -> list[str]:
    kept, before, after = encoder["kept"], encoder.get("pretrained_score"), encoder.get("finetuned_score")
    if before is None or after is None:
        return ["", f"{kept}: {encoder['reason']}", ""]
    error = encoder.get("gain_error")
    gained = f"{_ndcg(after)}" + (f" ± {_ndcg(1.96 * error)}" if error is not None else "")
    return [_ndcg(before), f"{gained} ({kept} kept)", str(encoder.get("num_held_out_users", ""))]


def pivot(lines: Sequence[Line], experiment: str, name: Callable[[Row], str], cell: Callable[[Row], str]) -> str:
    """One row a name, one column a task that has the experiment."""
    measured = [line for line in lines if line.rows(experiment)]
    if not measured:
        return "Not measured yet."
    cells = [{name(row): cell(row) for row in line.rows(experiment)} for line in measured]
    names = list(dict.fromkeys(key for column in cells for key in column))
    heads = ("", *(f"{line.label}, {line.kind}" for line in measured))
    return _table(heads, [[key, *(column.get(key, "") for column in cells)] for key in names])


def _difference(row: Row) -> str:
    """The difference to the product, bold where its interval does not hold 0."""
    text = f"{row['difference']:+.4f} ({row['low']:+.4f} to {row['high']:+.4f})"
    return f"**{text}**" if row["low"] > 0 or row["high"] < 0 else text


def _change(row: Row) -> str:
    return f"{_difference(row)}, overlap {row['overlap@10']:.2f}, RBO {row['rbo']:.2f}"


def _interval(row: Row) -> str:
    return f"{_ndcg(row[NDCG])} ({_ndcg(row['low'])} to {_ndcg(row['high'])})"


def _product(evaluation: Row) -> Row:
    product: Row = evaluation["systems"][0]
    return product


def _ndcg(value: float | None) -> str:
    """As people write them: .0916; nothing for None."""
    return "" if value is None else f"{value:.4f}".replace("0.", ".", 1)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
