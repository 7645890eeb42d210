"""`make quality`: run what has not been run, then write the tables into docs/quality.md."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import click

from quality.document import with_regions
from quality.plan import Plan, QualityTask, find_data, read_plan, with_found
from quality.report import NDCG, Line, regions
from quality.runs import Result, Run, RunFailedError, code_digest, data_digest, execute, finished, newest
from recsys.errors import ShelftalkError
from recsys.files import replace_text

ROOT = Path(__file__).resolve().parents[2]
KEPT_RUNS = Path(__file__).with_name("runs")
_folder = click.Path(file_okay=False, path_type=Path)
_file = click.Path(dir_okay=False, path_type=Path)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option("--data", "roots", type=_folder, multiple=True, help="Further folders of data sets; also QUALITY_DATA.")
@click.option("--only", multiple=True, metavar="FOLDER", help="Run these data sets alone; the tables hold all.")
@click.option(
    "--seed", "seeds", type=click.IntRange(0), multiple=True, help="Run these alone; the plan's stay in the tables."
)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="One setting for every run; repeatable.")
@click.option(
    "--tables", "only_tables", is_flag=True, help="Run nothing: write the newest figures, of any version and `threads`."
)
@click.option("--plan", "plan_file", type=_file, default=Path(__file__).with_name("sets.toml"), show_default=True)
@click.option("--runs", type=_folder, default=KEPT_RUNS, help="Where figures are kept. [benchmarks/quality/runs]")
@click.option("--logs", type=_folder, default=ROOT / "var" / "quality", help="Logs, whole evaluations. [var/quality]")
@click.option("--document", type=_file, default=ROOT / "docs" / "quality.md", help="Where tables go. [docs/quality.md]")
def main(
    roots: Sequence[Path],
    only: Sequence[str],
    seeds: tuple[int, ...],
    settings: Sequence[str],
    only_tables: bool,
    plan_file: Path,
    runs: Path,
    logs: Path,
    document: Path,
) -> None:
    """Run every data set that is here with several seeds, what has finished before excepted, and write the tables."""
    try:
        plan = read_plan(plan_file)
        data = find_data([ROOT / "data", *roots, *_from_environment()])
        if unknown := sorted(set(only) - set(data)):
            raise ValueError(  # noqa: TRY301  (the one way out of bad usage)
                f"--only {unknown[0]}: no such data set; here are {', '.join(sorted(data))}"
            )
        plan = Plan(with_found(plan.tasks, data), plan.seeds, plan.experiments)
        asked = () if only_tables else seeds or plan.seeds
        lines = [
            _line(task, plan, data, settings, (runs, logs), asked if not only or task.folder in only else ())
            for task in plan.tasks
        ]
        replace_text(document, with_regions(document.read_text(encoding="utf-8"), regions(lines)))
    except (ShelftalkError, ValueError, OSError) as error:
        click.echo(f"quality: error: {error}", err=True)
        sys.exit(2)
    click.echo(f"tables written to {document}")
    sys.exit(any(line.problem.startswith("failed") for line in lines))


def _line(
    task: QualityTask,
    plan: Plan,
    data: Mapping[str, Path],
    settings: Sequence[str],
    folders: tuple[Path, Path],
    asked: Collection[int],
) -> Line:
    """A task's figures, or the reason why there are none: run now where the seed is `asked` for, else kept from
    before. `folders`: of figures, of logs.
    """
    here = task.folder in data
    asked = asked if here else ()
    seeds = sorted({*plan.seeds, *asked})
    results = {
        seed: result for seed in seeds
        if seed not in asked and (result := newest(task, seed, settings, folders[0])) is not None
    }  # fmt: skip
    if not asked:
        absent = "" if here else f"absent: no folder {task.folder} here"
        click.echo(f"{_name(task)}: {absent or 'not asked for'}, {len(results)} of {len(seeds)} seeds kept")
        return Line(task, results, absent)
    problems = []
    for seed in sorted(asked):
        experiments = plan.experiments if seed == plan.seeds[0] else ()
        source = data[task.folder]
        run = Run(task, source, seed, tuple(settings), experiments, data_digest(source), code_digest(ROOT))
        try:
            results[seed] = _result(run, *folders)
        except RunFailedError as error:
            click.echo(f"{_name(task)} seed {seed}: {error}", err=True)
            problems.append(str(seed))
    return Line(task, results, f"failed: seed {', '.join(problems)}" if problems else "")


def _result(run: Run, folder: Path, logs: Path) -> Result:
    result = finished(run, folder)
    kept = "" if result is None else ", kept"
    if result is None:
        click.echo(f"{_name(run.task)} seed {run.seed}: running ...")
        result = execute(run, folder, logs)
    ndcg = result["evaluation"]["systems"][0][NDCG]
    click.echo(f"{_name(run.task)} seed {run.seed}: {NDCG} {ndcg:.4f}, {result['cost']['seconds']:.0f} s{kept}")
    return result


def _name(task: QualityTask) -> str:
    return f"{task.name}, {task.task or 'default task'}"


def _from_environment() -> list[Path]:
    """The folders in QUALITY_DATA, separated as in PATH."""
    return [Path(part) for part in os.environ.get("QUALITY_DATA", "").split(os.pathsep) if part]


if __name__ == "__main__":
    main()
