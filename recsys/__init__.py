"""Shelftalk, a text-aware recommender: its public face.

    model = recsys.train(recsys.Dataset.load("data"))
    recommender = recsys.Recommender(model)
    recommender.recommend(recsys.Request(user="u1", n=10))

Names are imported when they are first used, so that answering needs neither torch nor transformers.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from features.tables import Dataset
    from recsys.bundle import load_bundle, save_bundle
    from recsys.errors import BundleError, DataError, EncoderError, RequestError, SettingsError, ShelftalkError
    from recsys.evaluation import evaluate
    from recsys.recommender import Recommender
    from recsys.requests import HistoryEvent, Recommendation, RecommendedItem, Request
    from recsys.settings import Settings, load_settings
    from recsys.training import train
    from recsys.tuning import tune

__all__ = [
    "BundleError",
    "DataError",
    "Dataset",
    "EncoderError",
    "HistoryEvent",
    "Recommendation",
    "RecommendedItem",
    "Recommender",
    "Request",
    "RequestError",
    "Settings",
    "SettingsError",
    "ShelftalkError",
    "evaluate",
    "load_bundle",
    "load_recommender",
    "load_settings",
    "save_bundle",
    "train",
    "tune",
]

_HOMES = {
    "features.tables": ("Dataset",),
    "recsys.bundle": ("load_bundle", "save_bundle"),
    "recsys.errors": ("BundleError", "DataError", "EncoderError", "RequestError", "SettingsError", "ShelftalkError"),
    "recsys.evaluation": ("evaluate",),
    "recsys.recommender": ("Recommender",),
    "recsys.requests": ("HistoryEvent", "Recommendation", "RecommendedItem", "Request"),
    "recsys.settings": ("Settings", "load_settings"),
    "recsys.training": ("train",),
    "recsys.tuning": ("tune",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def load_recommender(root: Path | str, version: str | None = None) -> Recommender:
    """The recommender of a version (default: the promoted one) in a bundle folder; BundleError where it is damaged. A
    request without `at` is answered as of the newest event that the bundle knows.
    """
    from recsys.bundle import load_bundle
    from recsys.recommender import Recommender

    return Recommender(load_bundle(Path(root), version))


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
