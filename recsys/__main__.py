"""The command line. Commands import what they need themselves: `recsys --help` is quick, and threads are set first.

Exit codes: 0 done, 1 failed, 2 bad usage or input, 130 interrupted.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import click

from recsys.bundle_commands import BUNDLE, bundles
from recsys.command_options import data as _data
from recsys.command_options import event_names
from recsys.command_options import events as _events
from recsys.command_options import file as _file
from recsys.command_options import read_data as _read
from recsys.command_options import settings_options as _settings_options
from recsys.command_options import store as _store
from recsys.events_command import events
from recsys.signals import unwrapped_signals
from recsys.threads import limit_threads, num_cpus
from recsys.tune_command import tune

if TYPE_CHECKING:
    from features.tables import Dataset
    from recsys.model import FittedModel
    from recsys.settings import Settings

EXIT_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_TERMINATED = 1, 2, 130, 143
_ENVIRONMENT_ERRORS = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
        errno.EACCES,
        errno.EPERM,
        errno.EFBIG,
        errno.EIO,
        errno.ENOTDIR,
        errno.EISDIR,
    }
)
"""What the machine, not the code, is to blame for: one clear line instead of a traceback."""
_log = logging.getLogger(__name__)


def _print_version(context: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if wanted:
        from recsys.manifest import product_version

        click.echo(f"recsys {product_version()}")
        context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option("--version", is_flag=True, callback=_print_version, expose_value=False, is_eager=True, help="And exit.")
def cli() -> None:
    """Shelftalk: a text-aware recommender service."""


@cli.command()
@_data
@click.option("--rejected", type=_file, help="Write the rows that can't be used here, as CSV.")
@_settings_options
def validate(data: Path, rejected: Path | None, file: Path | None, assignments: Sequence[str]) -> None:
    """Say what is in the data, and what is wrong with it."""
    from features.profile import profile, render
    from features.tables import Dataset
    from recsys.settings import load_settings

    dataset = Dataset.load(data, load_settings(file, assignments).data, rejected_file=rejected)
    click.echo(render(profile(dataset)))


@cli.command()
@_data
@BUNDLE
@click.option("--no-promote", is_flag=True, help="Write the version, but leave CURRENT as it is.")
@_events
@_store
@_settings_options
def train(
    data: Path,
    bundle: Path,
    no_promote: bool,
    events: str | None,
    store: str | None,
    file: Path | None,
    assignments: Sequence[str],
) -> None:
    """Train a model, write it as a new version and promote it.

    With a store its events are learned from too, and what forgotten users did before is not.
    """
    limit_threads(num_cpus())
    from recsys.versions import check_writable, current_version

    before = current_version(bundle)
    try:
        from recsys.settings import load_settings
        from recsys.stores.opening import given_url

        settings = load_settings(file, assignments)
        check_writable(bundle)
        with unwrapped_signals():
            summary = _train(data, bundle, settings, events, given_url(store), promote=not no_promote)
    except KeyboardInterrupt:
        after = current_version(bundle)
        click.echo(f"interrupted; {'nothing' if after == before else after} was promoted", err=True)
        sys.exit(EXIT_INTERRUPTED)
    click.echo(summary)


def _train(data: Path, bundle: Path, settings: Settings, events: str | None, store: str | None, promote: bool) -> str:
    dataset = _read(data, settings, events)
    if store is not None:
        dataset = _with_store(dataset, store, event_names(events))
    limit_threads(settings.threads)
    from recsys.bundle import save_bundle
    from recsys.training import train

    model = train(dataset, settings)
    version = save_bundle(model, bundle, promote, rejected=dataset.rejected)
    return _summary(model, bundle, version, promote)


def _with_store(dataset: Dataset, url: str, only: Sequence[str] | None) -> Dataset:
    from recsys.stored_training import with_stored_events
    from recsys.stores.opening import open_store

    store = open_store(url, create=False)
    try:
        joined, unknown = with_stored_events(dataset, store, only)
    finally:
        store.close()
    _log.info("%s: %d events with those of the store; %d of unknown items", store.name, len(joined.events), unknown)
    return joined


def _summary(model: FittedModel, bundle: Path, version: str, promoted: bool) -> str:
    """The version, where the time went, and how the parts did on held-out time."""
    from recsys.manifest import plain

    report = plain(model.report)
    lines = [f"version {version} in {bundle}" + (", promoted" if promoted else ", not promoted")]
    lines += [f"  {stage:32s} {seconds:8.1f} s" for stage, seconds in report.get("seconds", {}).items()]
    facts = {key: value for key, value in report.items() if key not in ("seconds", "gains")}
    lines += [
        f"  {key} = {json.dumps(value, ensure_ascii=False)}" for key, value in _leaves(facts) if ".gains." not in key
    ]
    return "\n".join(lines)


def _leaves(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    leaves: list[tuple[str, Any]] = []
    for key, value in tree.items():
        leaves += _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return leaves


@cli.command()
@_data
@click.option(
    "--task",
    type=click.Choice(["static", "live", "loo", "repeat", "stream"]),
    help="Default: live with a clock, else loo.",
)
@_events
@click.option("--seed", type=click.IntRange(0), help="Replaces the setting seed.")
@click.option("--json", "json_file", type=_file, help="Write all figures here too.")
@click.option("--ablations", is_flag=True, help="Each source, each feature group, fine-tuning and text out in turn.")
@click.option("--robustness", is_flag=True, help="Lists from noisy texts: typos, cut descriptions, HTML left in, ...")
@click.option("--learning-curve", is_flag=True, help="Train on shares of the users, too.")
@click.option("--report", "report_file", type=_file, help="Write a page with figures, plots and examples here.")
@_settings_options
def evaluate(
    data: Path,
    task: str | None,
    events: str | None,
    seed: int | None,
    json_file: Path | None,
    ablations: bool,
    robustness: bool,
    learning_curve: bool,
    report_file: Path | None,
    file: Path | None,
    assignments: Sequence[str],
) -> None:
    """Judge the product, its sources and baselines side by side on held-out data."""
    limit_threads(num_cpus())
    from recsys.files import check_folder, replace_text
    from recsys.settings import load_settings

    for path in filter(None, (json_file, report_file)):
        check_folder(path)
    settings = load_settings(file, [*assignments, *([] if seed is None else [f"seed={seed}"])])
    dataset = _read(data, settings, events)
    limit_threads(settings.threads)
    from recsys.evaluation import EXPERIMENTS, evaluate, render

    wanted = dict(zip(EXPERIMENTS, (ablations, robustness, learning_curve), strict=True))
    evaluation = evaluate(dataset, settings, task, experiments=[name for name in EXPERIMENTS if wanted[name]])
    click.echo(render(evaluation))
    if json_file:
        replace_text(json_file, json.dumps(evaluation.to_json(), ensure_ascii=False, indent=1) + "\n")
    if report_file:
        replace_text(report_file, evaluation.to_html())


@cli.command()
@BUNDLE
@click.option("--requests", type=_file, help="JSON Lines, one request a line.")
@click.option("--users", metavar="all|FILE", help="Every user of the bundle, or a file with one user id a line.")
@click.option(
    "--out", required=True, metavar="X.parquet|DIR/", help="One file, or a folder of parts that can be resumed."
)
@click.option("--n", default=50, show_default=True, help="Length of the lists, where a request names none.")
@click.option("--workers", type=click.IntRange(1), help="Processes; default: the processors, at most 2.")
@click.option("--bundle-version", "version", metavar="V", help="Default: the promoted version.")
@click.option("--rules", type=_file, help="TOML file of rules, as for serve.")
@_store
def batch(
    bundle: Path,
    requests: Path | None,
    users: str | None,
    out: str,
    n: int,
    workers: int | None,
    version: str | None,
    rules: Path | None,
    store: str | None,
) -> None:
    """Answer a file of requests, or all users, into Parquet."""
    limit_threads(1)
    if (requests is None) == (users is None):
        raise click.UsageError("give either --requests FILE or --users all|FILE")
    from recsys.batch import run_batch
    from recsys.stores.opening import given_url

    url = given_url(store)
    done = run_batch(
        bundle, out, requests=requests, users=users, n=n, workers=workers, version=version, rules=rules, store=url
    )
    _log.info(
        "%d lists (%d of them kept from an earlier run), %d rows, to %s in %.1f s",
        done.num_requests, done.num_kept, done.num_rows, out, done.seconds,
    )  # fmt: skip


@cli.command()
@BUNDLE
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65535))
@click.option("--workers", type=click.IntRange(1), help="Processes; default: the processors.")
@click.option("--rules", type=_file, help="TOML file of rules, read again when it changes; PUT /rules writes it.")
@click.option("--experiment", type=_file, help="TOML file of an experiment's variants.")
@_store
def serve(
    bundle: Path,
    host: str,
    port: int,
    workers: int | None,
    rules: Path | None,
    experiment: Path | None,
    store: str | None,
) -> None:
    """Answer HTTP requests from the promoted version.

    Events are kept in the store: by default the SQLite file store.sqlite in the bundle folder.
    """
    limit_threads(1)
    from recsys.gunicorn_app import GunicornApp, check_host, check_port, shared_figures
    from recsys.stores.opening import check_store

    host = host.strip("[]")  # an IPv6 address may come as in a URL
    check_host(host)
    check_port(host, port)
    os.environ["RECSYS_BUNDLE"] = str(bundle.resolve())
    _check_and_pass_on(rules, experiment)
    if store is not None:
        check_store(store)
        os.environ["RECSYS_STORE"] = store
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # gunicorn has its own way to end
    with shared_figures():
        GunicornApp(host, port, workers or num_cpus()).run()


def _check_and_pass_on(rules: Path | None, experiment: Path | None) -> None:
    """SettingsError where a file can't be used, before anything is started; then the workers are told of it."""
    from recsys.experiments import load_experiment
    from recsys.rules_file import RulesFile

    if rules is not None:
        RulesFile(rules)
        os.environ["RECSYS_RULES"] = str(rules.resolve())
    if experiment is not None:
        for variant in load_experiment(experiment).variants:
            if variant.rules is not None:
                RulesFile(variant.rules)
        os.environ["RECSYS_EXPERIMENT"] = str(experiment.resolve())


@cli.command()
@_settings_options
def settings(file: Path | None, assignments: Sequence[str]) -> None:
    """Print every setting with its value, as KEY=VALUE for --set."""
    from recsys.settings import flat_settings, load_settings

    for key, value in flat_settings(load_settings(file, assignments)):
        click.echo(f"{key}={json.dumps(value, ensure_ascii=False)}")


cli.add_command(tune)
cli.add_command(bundles)
cli.add_command(events)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    _set_up_logging()
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    """The exit code of a command; what is unexpected passes through and ends with a traceback and 1."""
    from recsys.errors import ShelftalkError, StoreError

    try:
        with unwrapped_signals():
            code = cli.main(arguments, prog_name="recsys", standalone_mode=False)
    except StoreError as error:
        return _fail(str(error), EXIT_FAILED)
    except ShelftalkError as error:
        return _fail(str(error), EXIT_BAD_INPUT)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return EXIT_INTERRUPTED
    except MemoryError:
        return _fail("out of memory", EXIT_FAILED)
    except OSError as error:
        if error.errno not in _ENVIRONMENT_ERRORS:
            raise
        return _fail(f"{error}; what was there before is untouched", EXIT_FAILED)
    return code if isinstance(code, int) else 0


def _fail(message: str, code: int) -> int:
    click.echo(f"recsys: error: {message}", err=True)
    return code


def _set_up_logging() -> None:
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(message)s")
    for name in ("recsys", "ranking", "features", __name__):
        logging.getLogger(name).setLevel(logging.INFO)


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    """Let `finally` and `with` clean up, as they do for Ctrl-C."""
    sys.exit(EXIT_TERMINATED)


if __name__ == "__main__":
    main()
