"""What `recsys tune` varies, and between which bounds: setting -> distribution, in groups by what a change costs.

A new setting is one line here, and one in `_NEEDS` where another one may switch it off. Settings that hold several
values to choose from (half-lives, `linear.regularization`, `als.alpha`, `sequence.attending`) are not in the table:
`recsys train` chooses among them by itself, every time. Whatever a search begins with, all values that it may draw go
together.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

from features.interactions import acted_on, event_weights
from features.tables import Dataset
from recsys.errors import SettingsError
from recsys.settings import Settings, flat_settings, settings_from

Distribution = CategoricalDistribution | FloatDistribution | IntDistribution
Dimensions = Mapping[str, Distribution]

_SIZES, _HEADS = (32, 64, 96, 128), (1, 2, 4)
_FEWEST_NEGATIVES = 256
GROUPS: Mapping[str, Dimensions] = {
    "windows": {
        "examples.windows": IntDistribution(1, 6),
    },
    "finetune": {
        "finetune.trainable": CategoricalDistribution(["projection", "last_layers"]),
        "finetune.num_layers": IntDistribution(2, 6),
        "finetune.projection_learning_rate": FloatDistribution(3e-4, 1e-2, log=True),
        "finetune.learning_rate": FloatDistribution(1e-5, 2e-4, log=True),
        "finetune.max_steps": IntDistribution(10, 60, log=True),
        "finetune.batch_size": CategoricalDistribution([64, 128, 256]),
        "finetune.temperature": FloatDistribution(0.03, 0.3, log=True),
        "finetune.popularity_correction": CategoricalDistribution([True, False]),
        "finetune.symmetric": CategoricalDistribution([True, False]),
        "finetune.history_share": FloatDistribution(0.0, 0.8),
        "finetune.hard_negatives": IntDistribution(0, 4),
        "finetune.adversarial_size": FloatDistribution(0.0, 0.2),
        "finetune.weight_averaging": CategoricalDistribution([0.0, 0.9, 0.98]),
        "finetune.augmentation.share": FloatDistribution(0.0, 0.6),
        "finetune.keep_pretrained": CategoricalDistribution([0.0, 0.1, 0.2, 0.3, 0.5]),
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
        "retrieval.sequence.models": IntDistribution(1, 4),
        "retrieval.sequence.filter_gaps": IntDistribution(4, 30, log=True),
        "retrieval.sequence.size": CategoricalDistribution(_SIZES),
        "retrieval.sequence.layers": IntDistribution(1, 3),
        "retrieval.sequence.heads": CategoricalDistribution(_HEADS),
        "retrieval.sequence.epochs": IntDistribution(10, 80, log=True),
        "retrieval.sequence.dropout": FloatDistribution(0.1, 0.7),
        "retrieval.sequence.id_dropout": FloatDistribution(0.0, 0.5),
        "retrieval.sequence.negatives": IntDistribution(_FEWEST_NEGATIVES, 4096, log=True),
        "retrieval.sequence.learning_rate": FloatDistribution(5e-4, 5e-3, log=True),
        "retrieval.sequence.id_learning_rate": FloatDistribution(2e-3, 3e-2, log=True),
        "retrieval.new_items.max_events": IntDistribution(0, 10),
        "features.pair.recent_items": IntDistribution(3, 20),
        "features.pair.affinity_half_life": FloatDistribution(1.0, 30.0, log=True),
        "examples.moments_per_user": IntDistribution(3, 30, log=True),
        "examples.negatives_per_list": IntDistribution(50, 200, log=True),
    },
    "ranker": {
        "lambdamart.objective": CategoricalDistribution(["lambdarank", "rank_xendcg"]),
        "lambdamart.label_gain": FloatDistribution(0.5, 2.0),
        "lambdamart.forests": IntDistribution(1, 6),
        "lambdamart.min_lists_per_tree": FloatDistribution(1.0, 20.0, log=True),
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
"""From the dearest change to the cheapest: other windows need a new encoder, as it may know only what came before them,
another encoder new sources, other sources a new ranker.

`finetune.keep_pretrained` is a list because settings refuse what is between none and a twentieth.
`lambdamart.label_gain` does not go down to none: trials are judged by right and wrong alone, and can't see what it is
for.
"""
_TEXT_ONLY = ("finetune.", "retrieval.new_items.", "retrieval.sequence.id_dropout")
_RANKER_ONLY = ("examples.", "features.", "lambdamart.")
_LAYERS: Mapping[str, Callable[[Any], bool]] = {
    "finetune.trainable": lambda stage: stage != "projection",
    "finetune.max_steps": bool,
}
_NEEDS: Mapping[str, Mapping[str, Callable[[Any], bool]]] = {
    "finetune.trainable": {"finetune.max_steps": bool},
    "finetune.num_layers": {**_LAYERS, "finetune.trainable": lambda stage: stage == "last_layers"},
    "finetune.projection_learning_rate": {"finetune.projection_steps": bool},
    "finetune.learning_rate": _LAYERS,
    "finetune.max_steps": {"finetune.trainable": _LAYERS["finetune.trainable"]},
    "finetune.augmentation.share": _LAYERS,
    "lambdamart.truncation_level": {"lambdamart.objective": lambda objective: objective == "lambdarank"},
}
"""Setting -> other settings, and with which values of them it changes anything."""


@dataclass(frozen=True)
class DataFacts:
    """What of the data decides which settings matter. `num_items`: those with an event; `num_weights`: the different
    weights of events that are a sign of interest.
    """

    has_text: bool
    has_clock: bool
    num_items: int
    num_weights: int

    @classmethod
    def of(cls, dataset: Dataset, settings: Settings) -> Self:
        """Of the data that trials learn from."""
        texts = dataset.catalogue.texts(settings.encoder.text_columns)
        has_text = settings.encoder.model != "none" and any(text.strip() for text in texts)
        events = acted_on(dataset, settings.events).events
        weights = event_weights(events, settings.events)
        num_items, num_weights = len(np.unique(events.item_rows)), len(np.unique(weights[weights > 0]))
        return cls(has_text, events.has_clock, num_items, num_weights)


@dataclass(frozen=True)
class SearchSpace:
    """`groups` hold the settings to vary, in the order of `GROUPS`, no group empty; `start` is each one's value in the
    settings that the search begins with, which every distribution contains.
    """

    groups: Mapping[str, Dimensions]
    start: Mapping[str, Any]

    @classmethod
    def of(cls, settings: Settings, facts: DataFacts, only: Sequence[str] = ()) -> SearchSpace:
        """The settings of the table that can matter: those of sources in use, of the encoder where there is text, and
        so on. `only` names groups, components or settings (`ranker`, `lambdamart`, `retrieval.als.factors`); none is
        all. SettingsError where a name is unknown or nothing is left.
        """
        _check(only)
        values = dict(flat_settings(settings))
        asked = {
            key: _including(_fitting(key, distribution, settings), values[key])
            for group, dimensions in GROUPS.items()
            for key, distribution in dimensions.items()
            if _matters(key, settings, facts) and (not only or any(_names(name, group, key) for name in only))
        }
        groups: dict[str, Dimensions] = {}
        for group, dimensions in GROUPS.items():
            own = {key: asked[key] for key in dimensions if key in asked}
            kept = {key: d for key, d in own.items() if not d.single() and _is_on(key, values, asked)}
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


def _matters(key: str, settings: Settings, facts: DataFacts) -> bool:
    """Whether the setting changes anything in a training run with these settings on such data."""
    component, _, rest = key.partition(".")
    sequence = settings.retrieval.sequence
    if key.startswith(_TEXT_ONLY) and not facts.has_text:
        return False
    if key.startswith(_RANKER_ONLY) and settings.ranker != "lambdamart":
        return False
    if key == "examples.windows":
        return facts.has_clock
    if key == "lambdamart.label_gain":
        return facts.num_weights > 1
    if key == "retrieval.sequence.negatives" and facts.num_items <= min(_FEWEST_NEGATIVES, sequence.negatives):
        return False  # all items are drawn in any case
    if component == "finetune":
        return settings.finetune.enabled
    return component != "retrieval" or "." not in rest or rest.partition(".")[0] in settings.sources


def _is_on(key: str, values: Mapping[str, Any], varied: Mapping[str, Any]) -> bool:
    """Whether no other setting switches this one off in every trial, by its value where it is not `varied` itself."""
    return all(other in varied or allows(values[other]) for other, allows in _NEEDS.get(key, {}).items())


def _fitting(key: str, distribution: Distribution, settings: Settings) -> Distribution:
    """The distribution less what does not go with these settings, or with values of other settings in the table."""
    sequence, share = settings.retrieval.sequence, settings.examples.window_share
    if key == "examples.windows" and isinstance(distribution, IntDistribution):
        fitting = [n for n in range(distribution.low, distribution.high + 1) if n * share < 1]
        return IntDistribution(fitting[0], fitting[-1])
    sizes = _with([size for size in _SIZES if size % sequence.heads == 0], sequence.size)
    if key == "retrieval.sequence.size":
        return CategoricalDistribution(sizes)
    if key == "retrieval.sequence.heads":
        divisors = [heads for heads in _HEADS if not any(size % heads for size in sizes)]
        return CategoricalDistribution(_with(divisors, sequence.heads))
    return distribution


def _including(distribution: Distribution, value: Any) -> Distribution:
    """The distribution, made wider where it does not contain `value`."""
    if isinstance(distribution, CategoricalDistribution):
        return CategoricalDistribution(_with(distribution.choices, value))
    low, high = min(distribution.low, value), max(distribution.high, value)
    return type(distribution)(low, high, log=distribution.log and low > 0)


def _with(choices: Sequence[Any], value: Any) -> Sequence[Any]:
    """The choices, and behind them `value` where it is not among them."""
    return choices if value in choices else [*choices, value]
