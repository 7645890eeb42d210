"""What `recsys tune` varies, and between which bounds: setting -> distribution, in groups by what a change costs.

A new setting is one line here. Settings that hold several values to choose from (half-lives, `linear.regularization`,
`als.alpha`) are not in the table: `recsys train` chooses among them by itself, every time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

from recsys.errors import SettingsError
from recsys.settings import Settings, flat_settings, settings_from

Distribution = CategoricalDistribution | FloatDistribution | IntDistribution
Dimensions = Mapping[str, Distribution]

GROUPS: Mapping[str, Dimensions] = {
    "finetune": {
        "finetune.trainable": CategoricalDistribution(["projection", "last_layers"]),
        "finetune.projection_learning_rate": FloatDistribution(3e-4, 1e-2, log=True),
        "finetune.learning_rate": FloatDistribution(1e-5, 2e-4, log=True),
        "finetune.max_steps": IntDistribution(10, 60, log=True),
        "finetune.batch_size": CategoricalDistribution([64, 128, 256]),
        "finetune.temperature": FloatDistribution(0.03, 0.3, log=True),
        "finetune.popularity_correction": CategoricalDistribution([True, False]),
    },
    "sources": {
        "retrieval.per_source": IntDistribution(50, 200, log=True),
        "retrieval.linear_next.past_half_life": FloatDistribution(0.5, 10.0, log=True),
        "retrieval.linear_next.patience": FloatDistribution(0.3, 5.0, log=True),
        "retrieval.transitions.window": IntDistribution(1, 8),
        "retrieval.neighbours.num_neighbours": IntDistribution(50, 500, log=True),
        "retrieval.user_neighbours.num_users": IntDistribution(50, 500, log=True),
        "retrieval.user_neighbours.reach": FloatDistribution(2.0, 30.0, log=True),
        "retrieval.user_neighbours.behind": FloatDistribution(0.0, 1.0),
        "retrieval.als.factors": IntDistribution(16, 160, log=True),
        "retrieval.als.regularization": FloatDistribution(0.01, 30.0, log=True),
        "retrieval.als.iterations": IntDistribution(5, 30),
        "retrieval.sequence.epochs": IntDistribution(10, 80, log=True),
        "retrieval.sequence.dropout": FloatDistribution(0.1, 0.7),
        "retrieval.sequence.learning_rate": FloatDistribution(5e-4, 5e-3, log=True),
        "retrieval.sequence.id_learning_rate": FloatDistribution(2e-3, 3e-2, log=True),
        "retrieval.new_items.max_events": IntDistribution(0, 10),
        "features.pair.recent_items": IntDistribution(3, 20),
        "features.pair.affinity_half_life": FloatDistribution(1.0, 30.0, log=True),
        "examples.moments_per_user": IntDistribution(3, 30, log=True),
        "examples.negatives_per_list": IntDistribution(50, 200, log=True),
    },
    "ranker": {
        "lambdamart.num_trees": IntDistribution(50, 500, log=True),
        "lambdamart.num_leaves": IntDistribution(7, 63, log=True),
        "lambdamart.learning_rate": FloatDistribution(0.02, 0.2, log=True),
        "lambdamart.min_examples_per_leaf": IntDistribution(10, 500, log=True),
        "lambdamart.feature_fraction": FloatDistribution(0.2, 1.0),
        "lambdamart.row_fraction": FloatDistribution(0.4, 1.0),
        "lambdamart.l2": FloatDistribution(0.1, 100.0, log=True),
        "lambdamart.truncation_level": IntDistribution(10, 50, log=True),
        "lambdamart.sources_first": FloatDistribution(0.5, 8.0, log=True),
    },
}
"""From the dearest change to the cheapest: another encoder needs new sources, other sources a new ranker."""
_TEXT_ONLY = ("finetune.", "retrieval.new_items.")
_RANKER_ONLY = ("examples.", "features.", "lambdamart.")


@dataclass(frozen=True)
class SearchSpace:
    """`groups` hold the settings to vary, in the order of `GROUPS`, no group empty; `start` is each one's value in the
    settings that the search begins with, which every distribution contains.
    """

    groups: Mapping[str, Dimensions]
    start: Mapping[str, Any]

    @classmethod
    def of(cls, settings: Settings, *, has_text: bool, only: Sequence[str] = ()) -> SearchSpace:
        """The settings of the table that can matter: those of sources in use, and of the encoder where there is text.
        `only` names groups, components or settings (`ranker`, `lambdamart`, `retrieval.als.factors`); none is all.
        SettingsError where a name is unknown or nothing is left.
        """
        _check(only)
        values = dict(flat_settings(settings))
        groups: dict[str, Dimensions] = {}
        for group, dimensions in GROUPS.items():
            kept = {
                key: _including(distribution, values[key])
                for key, distribution in dimensions.items()
                if _matters(key, settings, has_text) and (not only or any(_names(name, group, key) for name in only))
            }
            if kept:
                groups[group] = kept
        if not groups:
            raise SettingsError(
                f"--only {','.join(only) or '(everything)'}: no such setting matters with these settings"
            )
        return cls(groups, {key: values[key] for dimensions in groups.values() for key in dimensions})

    @property
    def dimensions(self) -> dict[str, BaseDistribution]:
        """All settings to vary, by key."""
        return {key: found for dimensions in self.groups.values() for key, found in dimensions.items()}

    def settings(self, values: Mapping[str, Any], base: Settings) -> Settings:
        """`base` with these values, tidied. SettingsError where they don't go together."""
        tree = base.model_dump()
        for key, value in self.tidy(values).items():
            *groups, last = key.split(".")
            node = tree
            for group in groups:
                node = node[group]
            node[last] = value
        return settings_from(tree)

    def tidy(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values, floats rounded to four digits where they are not those of the start: no trial could tell more."""
        return {
            key: float(f"{value:.4g}") if isinstance(value, float) and value != self.start[key] else value
            for key, value in values.items()
        }

    def to_json(self) -> dict[str, Any]:
        """Each setting's distribution."""
        return {key: json.loads(distribution_to_json(found)) for key, found in self.dimensions.items()}


def _check(only: Sequence[str]) -> None:
    for name in only:
        if not any(_names(name, group, key) for group, dimensions in GROUPS.items() for key in dimensions):
            components = sorted({key.rpartition(".")[0] for dimensions in GROUPS.values() for key in dimensions})
            raise SettingsError(
                f"--only {name!r} names nothing that can be tuned; allowed are {', '.join([*GROUPS, *components])} and "
                "single settings of these"
            )


def _names(name: str, group: str, key: str) -> bool:
    return name == group or f"{key}.".startswith(f"{name}.")


def _matters(key: str, settings: Settings, has_text: bool) -> bool:
    """Whether the setting changes anything in a training run with these settings."""
    component, _, rest = key.partition(".")
    if key.startswith(_TEXT_ONLY) and not has_text:
        return False
    if component == "finetune":
        return settings.finetune.enabled
    if component == "retrieval" and "." in rest:
        return rest.partition(".")[0] in settings.sources
    return settings.ranker == "lambdamart" or not key.startswith(_RANKER_ONLY)


def _including(distribution: Distribution, value: Any) -> Distribution:
    """The distribution, made wider where it does not contain `value`."""
    if isinstance(distribution, CategoricalDistribution):
        return (
            distribution if value in distribution.choices else CategoricalDistribution([*distribution.choices, value])
        )
    low, high = min(distribution.low, value), max(distribution.high, value)
    return type(distribution)(low, high, log=distribution.log and low > 0)
