"""What answers: the loaded recommender, or one for each variant of an experiment, with what stands beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from recsys.attributes import Attributes
from recsys.carried import NOTHING_CARRIED, Carried
from recsys.experiments import Experiment, Variant
from recsys.live_popularity import LivePopularity
from recsys.model import FittedModel
from recsys.monitoring import Metrics
from recsys.recommender import Recommender
from recsys.request_history import StoreReader
from recsys.requests import Request
from recsys.rules import NO_RULES, Rules
from recsys.rules_file import RulesFile
from recsys.search import QueryEncoder, Search, Taken, nothing_taken
from recsys.settings import ServeSettings, Settings
from recsys.similar import Similar

SEARCH_AT_START = 100_000
"""Items up to which the search index is made when the service starts; above, at the first search."""


@dataclass(frozen=True)
class Served:
    """One recommender and what is made of it at first use. `variant` is None where no experiment runs."""

    recommender: Recommender
    variant: str | None = None
    encode: QueryEncoder | None = None
    carried: Carried = NOTHING_CARRIED
    taken: Taken = nothing_taken

    @property
    def bundle(self) -> str:
        """The version that answers."""
        return self.recommender.model.bundle_version

    @property
    def limits(self) -> ServeSettings:
        """The settings of answering."""
        return self.recommender.model.settings.serve

    @cached_property
    def similar(self) -> Similar:
        """For `/similar`."""
        return Similar(self.recommender, self.carried)

    @cached_property
    def search(self) -> Search:
        """For `/search`."""
        return Search(self.recommender, self.encode, self.carried, self.taken)

    def left(self, changed: Collection[str]) -> Carried:
        """For what takes over when these items have changed."""
        made = self.search.index
        waiting = self.carried.changed if made is None else frozenset()
        index = self.carried.index if made is None else made
        return Carried(self.recommender.attributes, self.similar.groups, index, waiting.union(changed))

    def take_over(self) -> None:
        """Make what was there before the items changed, so that no visitor waits for it."""
        self.recommender.warm_up()
        if self.carried.groups is not None:
            self.similar.warm_up()
        if self.carried.index is not None:
            self.search.warm_up()

    def warm_up(self) -> None:
        """Answer once, so that the first visitor does not pay for what is made and read from the disk at first use."""
        catalogue = self.recommender.model.catalogue
        if not len(catalogue):
            return
        self.recommender.attributes.warm_up()
        first = str(catalogue.items.ids[0])
        self.recommender.warm_up()
        self.similar.recommend(first, Request(history=(), n=1))
        if len(catalogue) <= SEARCH_AT_START:
            self.search.warm_up()


@dataclass(frozen=True)
class Live:
    """A version as it answers now: its `model` with the live items in it, what is taken lately, what reads queries,
    and what the one before it left.
    """

    model: FittedModel
    popularity: LivePopularity | None = None
    encode: QueryEncoder | None = None
    carried: Carried = NOTHING_CARRIED

    @cached_property
    def attributes(self) -> Attributes:
        """The columns of the catalogue, which variants share."""
        catalogue, before = self.model.catalogue, self.carried.attributes
        return Attributes(catalogue) if before is None else before.following(catalogue, self.carried.rows(catalogue))


@dataclass(frozen=True)
class Surroundings:
    """What stands around the models and stays when they are replaced: the rules, the experiment, the figures, the
    histories of the event store, and what users took after a query.
    """

    rules: RulesFile | None = None
    experiment: Experiment | None = None
    metrics: Metrics = field(default_factory=Metrics)
    reader: StoreReader | None = None
    taken: Taken = nothing_taken

    @property
    def versions(self) -> tuple[str, ...]:
        """The versions that variants name, beside the promoted one."""
        variants = self.experiment.variants if self.experiment else ()
        return tuple(dict.fromkeys(variant.bundle for variant in variants if variant.bundle is not None))

    def main(self, live: Live) -> Served:
        """What answers where no experiment runs."""
        return self._served(live, live.model, self._current)

    def variants(self, promoted: str, live: Mapping[str, Live]) -> dict[str, Served]:
        """What serves each variant, by its name; `live` has the versions. Variants of one version share its arrays."""
        chosen = self.experiment.variants if self.experiment else ()
        return {variant.name: self._variant(variant, live[variant.bundle or promoted]) for variant in chosen}

    def _variant(self, variant: Variant, live: Live) -> Served:
        changed = dataclasses.replace(live.model, settings=_with_serve(live.model, variant.serve))
        rules = self._rules_of(variant.rules) if variant.rules else self._current
        return self._served(live, changed, rules, variant.name)

    def _served(self, live: Live, model: FittedModel, rules: Callable[[], Rules], variant: str | None = None) -> Served:
        carried = dataclasses.replace(live.carried, attributes=None)  # they would keep the catalogue before alive
        recommender = Recommender.live(model, self.reader, live.popularity, rules, self.metrics.stage, live.attributes)
        return Served(recommender, variant, live.encode, carried, self.taken)

    @cached_property
    def _current(self) -> Callable[[], Rules]:
        return self.rules.current if self.rules else _no_rules

    @cached_property
    def _rules_of(self) -> Callable[[Path], Callable[[], Rules]]:
        files: dict[Path, RulesFile] = {}
        return lambda path: files.setdefault(path, RulesFile(path)).current


def _with_serve(model: FittedModel, changes: Mapping[str, object]) -> Settings:
    serve = ServeSettings.model_validate(model.settings.serve.model_dump() | dict(changes))
    return model.settings.model_copy(update={"serve": serve})


def _no_rules() -> Rules:
    return NO_RULES
