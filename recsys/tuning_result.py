"""What a search found: its trials, the best of them beside the first, and the settings as TOML."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
import tomli_w
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.study import Study
from optuna.trial import TrialState

from recsys.evaluation_result import difference_facts, task_facts
from recsys.manifest import plain, product_version
from recsys.metrics import PairedDifference, paired_bootstrap
from recsys.search_space import SearchSpace
from recsys.settings import Settings
from recsys.splits import EvaluationTask
from recsys.tuning_study import START, Trial

MIN_FOR_IMPORTANCES = 12
"""Complete trials below which an importance is little more than chance."""


@dataclass(frozen=True)
class Tuning:
    """A search. `task` is what the trials were judged on, `settings` what it began with; `trials` are all that were
    finished, oldest first. `importances` maps the settings that were varied to their share in what makes a trial good
    (empty where the trials are too few to tell). `held_out`: whether the part that `recsys evaluate` judges on was
    hidden.
    """

    task: EvaluationTask
    settings: Settings
    space: SearchSpace
    trials: tuple[Trial, ...]
    importances: Mapping[str, float]
    held_out: bool
    interrupted: bool = False

    @property
    def start(self) -> Trial:
        """The trial with the settings that the search began with."""
        return next(trial for trial in self.trials if trial.group == START and trial.state == "complete")

    @property
    def best(self) -> Trial:
        """The complete trial with the highest NDCG@10, the oldest of equals."""
        return best_of(self.trials)

    @property
    def best_settings(self) -> Settings:
        """All settings of the best trial."""
        return self.settings_of(self.best)

    @property
    def difference(self) -> PairedDifference:
        """NDCG@10 of the best trial less that of the start, over the same queries."""
        rng = np.random.default_rng(self.settings.seed)
        return paired_bootstrap(self.best.per_query, self.start.per_query, self.task.users, rng)

    def settings_of(self, trial: Trial) -> Settings:
        """All settings of a trial."""
        return self.space.settings(trial.values, self.settings)

    def to_json(self) -> dict[str, Any]:
        """Everything that is known, in JSON's own types."""
        content: dict[str, Any] = plain(
            {
                "product_version": product_version(),
                "task": task_facts(self.task) | {"test_part_held_out": self.held_out},
                "seed": self.settings.seed,
                "start": self.start.number,
                "best": self.best.number,
                "against_start": difference_facts(self.difference),
                "settings": changed(self.best_settings.model_dump(mode="json"), Settings().model_dump(mode="json")),
                "importances": self.importances,
                "search_space": self.space.to_json(),
                "trials": [trial.to_json() | {"values": self.space.tidy(trial.values)} for trial in self.trials],
                "interrupted": self.interrupted,
            }
        )
        return content

    def to_toml(self, findings: Sequence[str] = ()) -> str:
        """The best trial's settings as a file for `--settings`: what differs from the defaults, under `findings` as
        comments. TOML has no null; a setting that holds one is a comment that says how to give it.
        """
        tree = changed(self.best_settings.model_dump(mode="json"), Settings().model_dump(mode="json"))
        nulls = [f"not in TOML, add --set '{key}={json.dumps(value)}'" for key, value in _pop_nulls(tree)]
        return "".join(f"# {line}\n" for line in [*findings, *nulls]) + tomli_w.dumps(tree)


def best_of(trials: Sequence[Trial]) -> Trial:
    """The complete trial with the highest NDCG@10, the oldest of equals."""
    return max((trial for trial in trials if trial.ndcg is not None), key=lambda trial: (trial.ndcg, -trial.number))


def importances(study: Study) -> dict[str, float]:
    """The share of each setting that was varied in what sets the best quarter of the trials apart (PED-ANOVA, Watanabe
    et al. 2023), largest first; empty where fewer than `MIN_FOR_IMPORTANCES` trials are complete, or no quarter stands
    out.
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    values = [trial.value for trial in complete if trial.value is not None]
    if len(complete) < MIN_FOR_IMPORTANCES or np.quantile(values, 0.75) <= min(values):
        return {}
    varied = [key for key in complete[0].params if len({trial.params[key] for trial in complete}) > 1]
    evaluator = PedAnovaImportanceEvaluator(target_quantile=0.25)
    return optuna.importance.get_param_importances(study, evaluator=evaluator, params=varied)


def changed(tree: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The part of `tree` that differs from `defaults`, without empty groups."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        default = defaults.get(key)
        if isinstance(value, Mapping) and isinstance(default, Mapping):
            inner = changed(value, default)
            out |= {key: inner} if inner else {}
        elif key not in defaults or value != default:
            out[key] = value
    return out


def _pop_nulls(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Take the settings out that TOML can't hold, and give them with their keys."""
    for key, value in list(tree.items()):
        if isinstance(value, dict):
            yield from _pop_nulls(value, f"{prefix}{key}.")
        elif value is None or (isinstance(value, list) and None in value):
            yield f"{prefix}{key}", tree.pop(key)
