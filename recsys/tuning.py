"""tune(): search for better settings on a validation split, within a budget, going on where an earlier run ended.

Every trial varies the settings of one group (see `search_space`) and takes all others from the best trial so far. Most
trials vary the ranker's, because they cost least: encoder, sources and ranking examples are then reused. The values are
drawn by a tree-structured Parzen estimator (Bergstra et al. 2011), whose seed is that of the settings and the number of
trials behind it, so an interrupted search goes on as if it had not been.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import PartialFixedSampler, TPESampler
from optuna.study import Study
from optuna.trial import TrialState

from features.tables import Dataset
from recsys.errors import SettingsError
from recsys.metrics import Floats
from recsys.objective import Objective, validation_task
from recsys.search_space import DataFacts, SearchSpace
from recsys.settings import Settings
from recsys.signals import unwrapped_signals
from recsys.stages import digest, settings_read
from recsys.tuning_result import Tuning, best_of, importances
from recsys.tuning_study import (
    ERROR,
    EXAMPLES,
    GROUP,
    PER_QUERY,
    SECONDS,
    START,
    Trial,
    examples_step,
    finished,
    identity,
    open_study,
)

_TEN = ("ranker", "ranker", "ranker", "sources", "ranker", "ranker", "sources", "ranker", "ranker", "finetune")
ROUND: tuple[str, ...] = (*_TEN, *_TEN, "ranker", "windows")
"""The groups whose turn it is, over and over. After every dear trial a cheap one follows, so that what the best trial
has fitted is still in memory.
"""
MAX_QUERIES = 2000


@dataclass(frozen=True)
class Progress:
    """How far the search is: its newest trial, the best one, and the seconds of this run."""

    trial: Trial
    best: Trial
    num_trials: int
    seconds: float


def tune(
    dataset: Dataset,
    settings: Settings | None = None,
    task: str | None = None,
    *,
    study_file: Path | None = None,
    seconds: float = 1800.0,
    num_trials: int | None = None,
    only: Sequence[str] = (),
    hold_out: bool = True,
    max_queries: int = MAX_QUERIES,
    on_trial: Callable[[Progress], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> Tuning:
    """Search for settings that raise NDCG@10, beginning with `settings`.

    No trial begins that would probably end after `seconds`, or when the study has `num_trials`, those of earlier runs
    included; the first one, with `settings` unchanged, is always made. `study_file` records the search (None: in memory
    only). `task`, `hold_out` and `max_queries`: see `validation_task`; `only`: see `SearchSpace.of`. Ctrl-C ends the
    search after its first trial with a result that says so. One seed and thread count give the same trials. Raises
    SettingsError and DataError; any error of a trial that is no SettingsError.
    """
    settings = settings or Settings()
    asked = validation_task(
        dataset, task, hold_out=hold_out, max_queries=max_queries, seed=settings.seed, event_settings=settings.events
    )
    space = SearchSpace.of(settings, DataFacts.of(asked.train, settings), only)
    with open_study(study_file, identity(asked, dataset, settings, space, hold_out=hold_out)) as study:
        search = _Search(Objective(asked), settings, space, study, clock)
        interrupted = search.run(seconds, num_trials, on_trial)
        found = tuple(finished(study))
        return Tuning(asked, settings, space, found, importances(study), hold_out, interrupted)


class _Search:
    def __init__(
        self, objective: Objective, settings: Settings, space: SearchSpace, study: Study, clock: Callable[[], float]
    ) -> None:
        self._objective = objective
        self._settings = settings
        self._space = space
        self._study = study
        self._clock = clock
        self._round = [group for group in ROUND if group in space.groups]
        self._is_cold = True

    def run(self, seconds: float, num_trials: int | None, on_trial: Callable[[Progress], None]) -> bool:
        """Make trials until the budget is spent; true where Ctrl-C came before."""
        started = self._clock()
        try:
            while group := self._next(seconds - (self._clock() - started), num_trials):
                self._make(group)
                done = finished(self._study)
                on_trial(Progress(done[-1], best_of(done), len(done), self._clock() - started))
        except KeyboardInterrupt:
            if not _has_start(finished(self._study)):
                raise
            return True
        return False

    def _next(self, seconds_left: float, num_trials: int | None) -> str | None:
        """The group to vary next: that whose turn it is or, where there is no time for it, the cheapest; None at the
        end.
        """
        done = finished(self._study)
        if not _has_start(done):
            return START
        if num_trials is not None and len(done) >= num_trials:
            return None
        turn = self._round[(len(done) - 1) % len(self._round)]
        fitting = (group for group in (turn, list(self._space.groups)[-1]) if self._cost(group, done) < seconds_left)
        return next(fitting, None)

    def _cost(self, group: str, done: Sequence[Trial]) -> float:
        """The seconds that a trial of the group will probably take: those of its last one. Where nothing is in memory,
        or a dear group was never varied, those of the first trial of all.
        """
        first = next(trial.seconds for trial in done if trial.group == START and trial.state == "complete")
        own = [trial.seconds for trial in done if trial.group == group and trial.state == "complete"]
        if self._is_cold:
            return max([first, *own[-1:]])
        return own[-1] if own else 0.0 if group == "ranker" else first

    def _make(self, group: str) -> None:
        """One trial from asking to telling. What fails on its settings is recorded; any other error ends the search."""
        self._study.sampler = self._sampler(group)
        trial = self._study.ask(self._space.dimensions)
        trial.set_user_attr(GROUP, group)
        started = self._clock()
        state, mean = TrialState.FAIL, None
        try:
            with unwrapped_signals():
                per_query = self._judged(trial, group)
            trial.set_user_attr(PER_QUERY, [round(value, 7) for value in per_query.tolist()])
            state, mean = TrialState.COMPLETE, float(per_query.mean())
        except optuna.TrialPruned:
            state = TrialState.PRUNED
        except Exception as error:
            trial.set_user_attr(ERROR, f"{type(error).__name__}: {error}")
            if group == START or not isinstance(error, SettingsError):
                raise
        finally:
            self._is_cold = False
            trial.set_user_attr(SECONDS, round(self._clock() - started, 2))
            self._study.tell(trial, mean, state)

    def _judged(self, trial: optuna.Trial, group: str) -> Floats:
        """NDCG@10 of each query. A trial whose ranker is worse on held-out users than the median of those that learned
        from the same examples is given up before the ranker is fitted on all of them.
        """
        settings = self._space.settings(trial.params, self._settings)
        examples = digest(settings_read("examples", settings))

        def judge(held_out: float) -> None:
            step = examples_step(self._study, examples)
            trial.set_user_attr(EXAMPLES, examples)
            trial.report(held_out, step)
            if group != START and trial.should_prune():
                raise optuna.TrialPruned

        return self._objective(settings, judge)

    def _sampler(self, group: str) -> PartialFixedSampler:
        """Draws the group's values; all others are those of the best trial so far, in the first trial of the start."""
        done = finished(self._study)
        seed = int(np.random.SeedSequence([self._settings.seed, len(done)]).generate_state(1)[0])
        fixed = dict(self._space.start)
        if group != START:
            own = self._space.groups[group]
            fixed = {key: value for key, value in best_of(done).values.items() if key not in own}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return PartialFixedSampler(fixed, TPESampler(n_startup_trials=8, seed=seed))


def _has_start(trials: Sequence[Trial]) -> bool:
    return any(trial.group == START and trial.state == "complete" for trial in trials)
