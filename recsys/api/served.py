"""What answers: the loaded recommender, or one for each variant of an experiment, with what stands beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from recsys.bundle import load_bundle
from recsys.experiments import Experiment, Variant
from recsys.model import FittedModel
from recsys.monitoring import Metrics
from recsys.recommender import Recommender
from recsys.requests import Request
from recsys.rules import NO_RULES, Rules
from recsys.rules_file import RulesFile
from recsys.search import QueryEncoder, Search
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
        return Similar(self.recommender)

    @cached_property
    def search(self) -> Search:
        """For `/search`."""
        return Search(self.recommender, self.encode)

    def warm_up(self) -> None:
        """Answer once, so that the first visitor does not pay for what is made and read from the disk at first use."""
        catalogue = self.recommender.model.catalogue
        if not len(catalogue):
            return
        self.recommender.attributes.warm_up()
        first = str(catalogue.items.ids[0])
        self.recommender.recommend(Request(history=(), recent=(first,), n=1))
        self.similar.recommend(first, Request(history=(), n=1))
        if len(catalogue) <= SEARCH_AT_START:
            self.search.warm_up()


def load_served(
    bundle: Path, rules: RulesFile | None, experiment: Experiment | None, metrics: Metrics
) -> tuple[Served, dict[str, Served]]:
    """The promoted version, and each variant by name; BundleError where a version can't be loaded."""
    model = load_bundle(bundle)
    current = rules.current if rules else _no_rules
    main = Served(Recommender.live(model, current, metrics.stage))
    loaded = {model.bundle_version: model}
    variants = {
        variant.name: _variant(variant, bundle, model, loaded, current, metrics)
        for variant in (experiment.variants if experiment else ())
    }
    for served in (main, *variants.values()):
        served.warm_up()
        metrics.serving(served.bundle, served.variant or "")
    return main, variants


def _variant(
    variant: Variant,
    bundle: Path,
    model: FittedModel,
    loaded: dict[str, FittedModel],
    rules: Callable[[], Rules],
    metrics: Metrics,
) -> Served:
    """Variants of one version share its arrays."""
    if variant.bundle is not None:
        if variant.bundle not in loaded:
            loaded[variant.bundle] = load_bundle(bundle, variant.bundle)
        model = loaded[variant.bundle]
    changed = dataclasses.replace(model, settings=_with_serve(model, variant.serve))
    own = RulesFile(variant.rules).current if variant.rules else rules
    return Served(Recommender.live(changed, own, metrics.stage), variant.name)


def _with_serve(model: FittedModel, changes: Mapping[str, object]) -> Settings:
    serve = ServeSettings.model_validate(model.settings.serve.model_dump() | dict(changes))
    return model.settings.model_copy(update={"serve": serve})


def _no_rules() -> Rules:
    return NO_RULES
