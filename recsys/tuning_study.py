"""The record of a search: Optuna's study in a journal file, so that a second run goes on where the first one ended."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from optuna.storages import InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from features.tables import Dataset
from recsys.errors import SettingsError
from recsys.files import locked
from recsys.manifest import plain, product_version
from recsys.metrics import Floats
from recsys.search_space import SearchSpace
from recsys.settings import Settings, flat_settings
from recsys.splits import EvaluationTask
from recsys.stages import digest

NAME = "recsys tune"
START = "start"
"""The group of the trial that has the settings the search begins with."""
GROUP, SECONDS, PER_QUERY, ERROR, EXAMPLES = "group", "seconds", "ndcg_per_query", "error", "examples"
_IDENTITY = "identity"
_JOURNAL = b'{"op_code":'
"""How a journal of Optuna begins."""
_STATES: Mapping[TrialState, Literal["complete", "pruned", "failed"]] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


@dataclass(frozen=True)
class Trial:
    """One finished trial. `group` says what was varied (`start`: nothing), `values` are all searched settings by key,
    as drawn; `per_query` (n_queries,) float64 is what it reached, empty unless complete, and `ndcg` the mean, None
    unless complete; `error` says why a trial failed.
    """

    number: int
    group: str
    state: Literal["complete", "pruned", "failed"]
    values: Mapping[str, Any]
    ndcg: float | None
    per_query: Floats
    seconds: float
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        """Without the single queries' figures."""
        facts = {name: getattr(self, name) for name in ("number", "group", "state", "ndcg", "seconds", "values")}
        return facts | ({"error": self.error} if self.error else {})


def finished(study: Study) -> list[Trial]:
    """The trials that came to an end, oldest first: what was interrupted has left nothing that could be used."""
    found = study.get_trials(deepcopy=False)
    return [
        _trial(number, trial)
        for number, trial in enumerate(t for t in found if t.state in _STATES and not _was_interrupted(t))
    ]


def _was_interrupted(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.FAIL and ERROR not in trial.user_attrs


def _trial(number: int, trial: FrozenTrial) -> Trial:
    facts = trial.user_attrs
    complete = trial.state == TrialState.COMPLETE
    per_query = np.array(facts[PER_QUERY] if complete else [], np.float64)
    return Trial(
        number, facts[GROUP], _STATES[trial.state], trial.params, trial.value if complete else None, per_query,
        facts.get(SECONDS, 0.0), facts.get(ERROR, ""),
    )  # fmt: skip


def identity(
    task: EvaluationTask, dataset: Dataset, settings: Settings, space: SearchSpace, *, hold_out: bool
) -> dict[str, Any]:
    """What a study's figures depend on: two studies can be joined where all of it is equal."""
    texts = "\x00".join(dataset.catalogue.texts(settings.encoder.text_columns))
    asked = json.dumps([[r.request_id, sorted(t)] for r, t in zip(task.requests, task.truths, strict=True)])
    parts: dict[str, Any] = plain(
        {
            "data": digest(dataset.fingerprint, task.train.events, texts, *map(str, dataset.catalogue.items.ids)),
            "task": f"{task.kind}, {'the test part held out' if hold_out else 'on all data'}",
            "queries": digest(asked, len(task)),
            "settings": {key: value for key, value in flat_settings(settings) if key != "threads"},
            "search space": space.to_json(),
            "product version": product_version(),
        }
    )
    return parts


@contextmanager
def open_study(file: Path | None, expected: Mapping[str, Any]) -> Iterator[Study]:
    """The study in `file`, begun where there is none; None keeps it in memory. No other process may use it meanwhile.
    SettingsError where the file is none of ours, is in use, or was made of something else than `expected`.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if file is None:
        yield _checked(_load(InMemoryStorage()), expected, "the study")
        return
    if not file.parent.is_dir():
        raise SettingsError(f"study {file}: the folder {file.parent} does not exist; make it first")
    with ExitStack() as held:
        try:
            held.enter_context(locked(file, wait=False))
        except BlockingIOError:
            raise SettingsError(
                f"study {file} is in use by another process; wait for it, or give another --study"
            ) from None
        yield _checked(_from_journal(file), expected, f"study {file}")


def _from_journal(file: Path) -> Study:
    content = file.read_bytes()
    if content and not content.startswith(_JOURNAL):
        raise SettingsError(f"study {file} is not the journal of a study; give another --study")
    whole = content.rfind(b"\n") + 1
    if whole < len(content):  # a process was killed while it wrote: Optuna would refuse all that is written behind it
        with file.open("r+b") as opened:
            opened.truncate(whole)
    try:
        return _load(JournalStorage(JournalFileBackend(str(file))))
    except (ValueError, KeyError) as error:
        raise SettingsError(f"study {file} is damaged ({error}); give another --study, or delete it") from None


def _load(storage: InMemoryStorage | JournalStorage) -> Study:
    pruner = optuna.pruners.MedianPruner(n_startup_trials=5, n_min_trials=4)
    if NAME in optuna.get_all_study_names(storage):
        return optuna.load_study(storage=storage, study_name=NAME, pruner=pruner)
    return optuna.create_study(storage=storage, study_name=NAME, direction="maximize", pruner=pruner)


def _checked(study: Study, expected: Mapping[str, Any], name: str) -> Study:
    made_of = study.user_attrs.get(_IDENTITY)
    if made_of is None:
        study.set_user_attr(_IDENTITY, dict(expected))
        return study
    others = [_named(part, made_of.get(part), now) for part, now in expected.items() if made_of.get(part) != now]
    if others:
        raise SettingsError(
            f"{name} was made with other {', '.join(others)}: its figures can't be compared with new ones. Give another"
            " --study, or delete it to begin anew"
        )
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):  # of a process that was killed
        study.tell(trial.number, state=TrialState.FAIL)
    return study


def _named(part: str, was: Any, now: Any) -> str:
    """The part, and of settings and distributions the keys that differ."""
    if not (isinstance(was, Mapping) and isinstance(now, Mapping)):
        return part
    keys = [key for key in {**was, **now} if was.get(key) != now.get(key)]
    return f"{part} ({', '.join(keys)})"


def examples_step(study: Study, key: str) -> int:
    """The number of these ranking examples among all that the study's trials were judged on, by first use: figures are
    compared, to prune, on the same examples only.
    """
    seen: Sequence[str] = list(
        dict.fromkeys(t.user_attrs[EXAMPLES] for t in study.get_trials(deepcopy=False) if EXAMPLES in t.user_attrs)
    )
    return seen.index(key) if key in seen else len(seen)
