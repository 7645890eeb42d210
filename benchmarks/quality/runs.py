"""One run is one `recsys evaluate` in a process of its own; its figures are a file, so that it is never run again.

What the tables need is small and lies in git, so that anybody can write them anew. The whole evaluation, which has
titles and ids of data that may not be shipped, lies beside its log and stays on the machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from quality.plan import QualityTask, tables
from recsys.files import replace_text, sha256_of
from recsys.manifest import product_version
from recsys.settings import flat_settings, load_settings

PACKAGES = ("recsys", "ranking", "features")
Result = dict[str, Any]
"""A finished run: `run` says which, `cost` what it took, `evaluation` is `KEPT` of the JSON of `recsys evaluate`."""
KEPT = (
    "product_version", "task", "systems", "against_best_source", "against_buy_again", "seconds", "seed", "training",
    "ablations", "robustness", "learning_curve",
)  # fmt: skip


class RunFailedError(Exception):
    """`recsys evaluate` did not end well; the message names its log."""


@dataclass(frozen=True)
class Run:
    """What decides a run's figures: `settings` are KEY=VALUE over the defaults, `data_digest` and `code_digest` stand
    for the tables and for the product's source.
    """

    task: QualityTask
    data: Path
    seed: int
    settings: tuple[str, ...]
    experiments: tuple[str, ...]
    data_digest: str
    code_digest: str

    @property
    def facts(self) -> dict[str, Any]:
        """All that decides the figures, JSON-able; not where the data lie."""
        resolved = list(flat_settings(load_settings(None, self.settings)))
        return {
            "name": self.task.name,
            "folder": self.task.folder,
            "task": self.task.task,
            "events": self.task.events,
            "seed": self.seed,
            "settings": _digest(json.dumps(resolved).encode()),
            "changed_settings": list(self.settings),
            "experiments": sorted(self.experiments),
            "data": self.data_digest,
            "product": f"{product_version()}-{self.code_digest}",
        }

    @property
    def file_name(self) -> str:
        """The name that its figures are kept under."""
        key = _digest(json.dumps(self.facts, sort_keys=True).encode())
        return f"{self.task.folder}-{self.task.task or 'default'}-seed{self.seed}-{key}.json"

    def command(self, figures: Path) -> list[str]:
        """The command line that writes the figures into a file."""
        flags = [f"--{name}" for name in self.experiments]
        flags += [f"--{name}={value}" for name in ("task", "events") if (value := getattr(self.task, name))]
        flags += [f"--set={setting}" for setting in self.settings]
        base = [sys.executable, "-W", "ignore", "-m", "recsys", "evaluate", "--data", str(self.data)]
        return [*base, "--seed", str(self.seed), "--json", str(figures), *flags]


def finished(run: Run, folder: Path) -> Result | None:
    """The run's figures where it was done before."""
    path = folder / run.file_name
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def newest(task: QualityTask, seed: int, settings: Sequence[str], folder: Path) -> Result | None:
    """The newest figures of a task and seed with these changed settings, whatever `threads` and the product were."""
    wanted = {"folder": task.folder, "task": task.task, "events": task.events, "seed": seed}
    kept = (json.loads(path.read_text(encoding="utf-8")) for path in folder.glob(f"{task.folder}-*.json"))
    same = [
        result for result in kept
        if wanted.items() <= result["run"].items() and _choices(result["run"]["changed_settings"]) == _choices(settings)
    ]  # fmt: skip
    return max(same, key=lambda result: str(result["finished_at"]), default=None)


def _choices(settings: Iterable[str]) -> list[str]:
    return sorted(setting for setting in settings if not setting.startswith("threads="))


def execute(run: Run, folder: Path, logs: Path) -> Result:
    """Run it now and keep the figures in `folder`; RunFailedError where it ends with another code than 0. What it says
    goes into `logs`, and the whole evaluation with it.
    """
    for each in (folder, logs):
        each.mkdir(parents=True, exist_ok=True)
    whole = logs / run.file_name
    log = whole.with_suffix(".log")
    started = time.perf_counter()
    code, peak = _wait_for(run.command(whole), log)
    if code:
        raise RunFailedError(f"exit code {code}; see {log}")
    cost = {"seconds": round(time.perf_counter() - started, 1), "peak_mb": peak}
    result = {"run": run.facts, "finished_at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", "cost": cost}
    evaluation = json.loads(whole.read_text(encoding="utf-8"))
    result["evaluation"] = {key: evaluation[key] for key in KEPT}
    replace_text(folder / run.file_name, json.dumps(result, ensure_ascii=False, indent=1) + "\n")
    return result


def _wait_for(command: Sequence[str], log: Path) -> tuple[int, int]:
    """The exit code and the peak memory (MiB) of a command whose output goes into `log`."""
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.terminate()
            process.wait()
            raise
        process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_maxrss // 1024


def data_digest(folder: Path) -> str:
    """Stands for the content of a data set's tables."""
    return _digest("".join(sha256_of(path) for path in sorted(tables(folder))).encode())


def code_digest(root: Path) -> str:
    """Stands for the product's source: figures of other source are not these."""
    return _digest("".join(sha256_of(path) for path in _sources(root)).encode())


def _sources(root: Path) -> Iterable[Path]:
    return [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]
