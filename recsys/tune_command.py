"""`recsys tune`: search for better settings, and write them for `--settings`."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from recsys.command_options import data, events, file, read_data, settings_options
from recsys.threads import limit_threads, num_cpus

if TYPE_CHECKING:
    from recsys.tuning import Progress
    from recsys.tuning_result import Tuning

EXIT_INTERRUPTED = 130
_log = logging.getLogger(__name__)


@click.command()
@data
@click.option("--out", type=file, required=True, help="The settings found, as TOML for --settings.")
@click.option("--minutes", type=click.FloatRange(0), default=30.0, show_default=True, help="Time of this run.")
@click.option("--trials", type=click.IntRange(1), help="End when the study has so many, earlier runs included.")
@click.option("--study", type=file, help="Journal of the search; one that exists goes on. Default: OUT with .study.")
@click.option("--task", type=click.Choice(["static", "live", "loo"]), help="Default: live with a clock, else loo.")
@events
@click.option(
    "--only", metavar="LIST", help="Comma list of groups, components or settings to vary: ranker,retrieval.als"
)
@click.option("--hold-out/--no-hold-out", default=True, help="Hide what `recsys evaluate` judges on. Default: hide.")
@click.option("--queries", type=click.IntRange(1), default=2000, show_default=True, help="Judged on at most so many.")
@click.option("--seed", type=click.IntRange(0), help="Replaces the setting seed.")
@click.option("--json", "json_file", type=file, help="Write every trial here.")
@settings_options
def tune(
    data: Path,
    out: Path,
    minutes: float,
    trials: int | None,
    study: Path | None,
    task: str | None,
    events: str | None,
    only: str | None,
    hold_out: bool,
    queries: int,
    seed: int | None,
    json_file: Path | None,
    file: Path | None,
    assignments: Sequence[str],
) -> None:
    """Search for better settings, on a validation split of the data, and write them as TOML.

    The same command goes on where it ended, or where Ctrl-C stopped it.
    """
    limit_threads(num_cpus())
    journal = study or out.with_suffix(".study")
    _check_files(out, file, journal, json_file)
    from recsys.settings import load_settings

    settings = load_settings(file, [*assignments, *([] if seed is None else [f"seed={seed}"])])
    dataset = read_data(data, settings, events)
    limit_threads(settings.threads)
    from recsys.tuning import tune

    with _progress(minutes, trials) as on_trial:
        found = tune(
            dataset, settings, task, study_file=journal, seconds=60 * minutes, num_trials=trials,
            only=[name.strip() for name in (only or "").split(",") if name.strip()], hold_out=hold_out,
            max_queries=queries, on_trial=on_trial,
        )  # fmt: skip
    _write(found, out, json_file)
    click.echo(f"settings in {out}; the search is in {journal}, and the same command goes on with it")
    if found.interrupted:
        click.echo("interrupted; the trial that was running is lost", err=True)
        sys.exit(EXIT_INTERRUPTED)


def _check_files(out: Path, file: Path | None, journal: Path, json_file: Path | None) -> None:
    """Say now what would be found out after half an hour."""
    if json_file is not None:
        if not json_file.parent.is_dir():
            raise click.UsageError(f"--json {json_file}: the folder {json_file.parent} does not exist")
        if json_file.resolve() in (out.resolve(), journal.resolve(), file.resolve() if file else None):
            raise click.UsageError(f"--json {json_file} must be a file of its own")
    if not out.parent.is_dir():
        raise click.UsageError(f"--out {out}: the folder {out.parent} does not exist")
    if file is not None and file.resolve() == out.resolve():
        raise click.UsageError(f"--out {out} is the file of --settings, which the search begins with; name another")
    if journal.resolve() in (out.resolve(), file.resolve() if file else None):
        raise click.UsageError(f"--study {journal} must be a file of its own")


def _write(found: Tuning, out: Path, json_file: Path | None) -> None:
    from recsys.files import replace_text
    from recsys.tuning_text import findings, render

    replace_text(out, found.to_toml(findings(found)))
    if json_file:
        replace_text(json_file, json.dumps(found.to_json(), ensure_ascii=False, indent=1) + "\n")
    click.echo(render(found))


@contextmanager
def _progress(minutes: float, trials: int | None) -> Iterator[Callable[[Progress], None]]:
    """A bar of the minutes or trials on a terminal; elsewhere the first trial's stages, then a line a trial."""
    from recsys.tuning_text import progress_line

    with ExitStack() as undo:
        if not sys.stderr.isatty():

            def line(progress: Progress) -> None:
                _silence_stages(undo)
                _log.info(progress_line(progress))

            yield line
            return
        from tqdm import tqdm

        _silence_stages(undo)
        bar = undo.enter_context(tqdm(total=trials or minutes, unit="trial" if trials else "min", desc="tune"))

        def show(progress: Progress) -> None:
            reached = progress.num_trials if trials else progress.seconds / 60
            bar.update(min(round(reached, 2), bar.total) - bar.n)
            bar.set_postfix_str(f"trial {progress.trial.number} {progress.trial.group}, best {progress.best.ndcg:.4f}")

        yield show


def _silence_stages(undo: ExitStack) -> None:
    """Ten lines of every training run would bury the trials."""
    for name in (
        "recsys.training", "recsys.choosing", "recsys.gating", "recsys.ranker_training", "ranking", "features",
    ):  # fmt: skip
        stage = logging.getLogger(name)
        undo.callback(stage.setLevel, stage.level)
        stage.setLevel(logging.WARNING)
