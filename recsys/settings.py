"""All settings in one tree: defaults beside each component, then a TOML file, then RECSYS_* variables, then --set.

A variable is named RECSYS_ and the key with `__` for the dot: RECSYS_LAMBDAMART__LEARNING_RATE=0.1. A value that reads
as JSON is taken as such (numbers, true, null, lists), anything else is a string; where a list is expected, `a,b` and a
lone `a` are lists too. A table such as `events.weights` is added to, key by key. An unknown key is an error.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

from pydantic import AfterValidator, Field, ValidationError

from features import settings as base
from features.builder import FeatureSettings
from features.encoder import EncoderSettings
from features.errors import SettingsError
from features.finetune import FinetuneSettings
from features.interactions import EventSettings
from features.reading import DataSettings
from ranking.lambdamart import LambdaMartSettings
from recsys.errors import RequestError
from recsys.gating_settings import GatingSettings
from recsys.retrieval.wiring import SOURCES, RetrievalSettings
from recsys.shapes import parse_cap, parse_exploration
from recsys.stores.settings import StoreSettings
from recsys.windows import ExampleSettings

PREFIX = "RECSYS_"
NOT_SETTINGS = frozenset(
    {
        "RECSYS_API_KEYS",
        "RECSYS_BUNDLE",
        "RECSYS_EXPERIMENT",
        "RECSYS_RULES",
        "RECSYS_STORE",
        "RECSYS_TEST_POSTGRES",
    }
)


def _cap(text: str) -> str:
    return _readable(parse_cap, text)


def _exploration(text: str) -> str:
    return _readable(parse_exploration, text)


def _readable(parse: Callable[[str], object], text: str) -> str:
    try:
        parse(text)
    except RequestError as error:
        raise ValueError(str(error)) from None
    return text


class ServeSettings(base.Settings):
    """What answering needs to know beside the model."""

    max_n: int = Field(default=500, ge=1)
    """The longest list that may be asked for."""
    exclude_seen: bool = True
    """Leave out every item of the history unless the request says otherwise."""
    max_id_length: int = Field(default=1024, ge=1)
    """Longest user or item id taken, in characters."""
    diversity: float = Field(default=0.0, ge=0, le=1)
    """How much a list avoids items alike (maximal marginal relevance), unless the request says otherwise."""
    caps: tuple[Annotated[str, AfterValidator(_cap)], ...] = ()
    """At most so many items of a value, such as `category:2` or `brand:3/10`, unless the request says otherwise."""
    exploration: Annotated[str, AfterValidator(_exploration)] = "none"
    """`none`, `epsilon:0.1` or `softmax:0.1`, unless the request says otherwise; see `recsys.shaping`."""


class Settings(base.Settings):
    """Everything that can be set, by component."""

    seed: int = Field(default=0, ge=0, lt=2**31)
    """Of every random choice in training; the libraries take 31 bits."""
    threads: int = Field(default=2, ge=1)
    """Threads of every pool while training; a sequence model has one, and so many are trained at a time. Answering uses
    one thread a process.
    """
    sources: tuple[str, ...] = tuple(SOURCES)
    """The candidate sources to use, by name."""
    ranker: Literal["lambdamart", "by_score"] = "lambdamart"
    data: DataSettings = DataSettings()
    events: EventSettings = EventSettings()
    encoder: EncoderSettings = EncoderSettings()
    finetune: FinetuneSettings = FinetuneSettings()
    retrieval: RetrievalSettings = RetrievalSettings()
    features: FeatureSettings = FeatureSettings()
    examples: ExampleSettings = ExampleSettings()
    gating: GatingSettings = GatingSettings()
    lambdamart: LambdaMartSettings = LambdaMartSettings()
    serve: ServeSettings = ServeSettings()
    store: StoreSettings = StoreSettings()


def load_settings(
    file: Path | None = None, assignments: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Settings:
    """Settings from a TOML file, RECSYS_* variables and `key=value` assignments; the later ones win."""
    tree: dict[str, Any] = _read_toml(file) if file else {}
    for name, value in sorted((os.environ if environment is None else environment).items()):
        if name.startswith(PREFIX) and name not in NOT_SETTINGS:
            _assign(tree, name.removeprefix(PREFIX).lower().replace("__", "."), value, name)
    for assignment in assignments:
        key, separator, value = assignment.partition("=")
        if not separator:
            raise SettingsError(f"--set {assignment!r}: expected key=value, for example --set seed=1")
        _assign(tree, key.strip(), value.strip(), f"--set {key}")
    return settings_from(tree)


def settings_from(tree: Mapping[str, Any]) -> Settings:
    """Settings from nested values over the defaults, checked; SettingsError names every bad key."""
    try:
        settings = Settings.model_validate(_merged(Settings().model_dump(), tree))
    except ValidationError as error:
        problems = "; ".join(_problem(dict(e)) for e in error.errors())
        raise SettingsError(f"{problems}. `recsys settings` prints every key with its default") from None
    _check_sources(settings.sources)
    for key, value in flat_settings(settings):
        if isinstance(value, float) and not math.isfinite(value):
            raise SettingsError(f"setting {key!r} = {value}: must be a finite number")
    return settings


def flat_settings(settings: Settings) -> Iterator[tuple[str, Any]]:
    """Every key with dots and its value, in the tree's order; tuples as lists."""
    return _flat(settings.model_dump(mode="json"), "")


def _flat(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _check_sources(names: Sequence[str]) -> None:
    unknown = [name for name in names if name not in SOURCES]
    repeated = sorted({name for name in names if names.count(name) > 1})
    for problem, values in (("unknown", unknown), ("repeated", repeated)):
        if values:
            raise SettingsError(f"sources: {problem} {', '.join(values)}; allowed are {', '.join(SOURCES)}, each once")
    if not names:
        raise SettingsError(f"sources: empty; name at least one of {', '.join(SOURCES)}")


def _merged(defaults: Mapping[str, Any], tree: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(defaults)
    for key, value in tree.items():
        old = out.get(key)
        out[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return out


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise SettingsError(f"settings file {file} does not exist") from None
    except OSError as error:
        raise SettingsError(f"settings file {file} can't be read: {error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"settings file {file} is not TOML: {error}") from None


def _assign(tree: dict[str, Any], key: str, text: str, origin: str) -> None:
    *groups, last = key.split(".")
    node = tree
    for group in groups:
        node = node.setdefault(group, {})
        if not isinstance(node, dict):
            raise SettingsError(f"{origin}: {group!r} is a value, not a group of settings")
    node[last] = _value(text, _type_of([*groups, last]))


def _type_of(path: Sequence[str]) -> Any:
    """The declared type of the setting at `path`; None where it has none (a table's key, or an unknown setting)."""
    kind: Any = Settings
    for key in path:
        fields = kind.model_fields if isinstance(kind, type) and issubclass(kind, base.Settings) else {}
        kind = fields[key].annotation if key in fields else None
    return kind


def _value(text: str, kind: Any) -> Any:
    is_list = get_origin(kind) is tuple
    try:
        value = json.loads(text)
    except ValueError:
        if is_list and "," in text:
            return [_value(part.strip(), None) for part in text.split(",")]
        value = text
    if kind is str and not isinstance(value, str):
        return text
    return [value] if is_list and not isinstance(value, list) else value


def _problem(error: Mapping[str, Any]) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = [name for name, _ in flat_settings(Settings())]
        close = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
        return f"unknown setting {key!r}" + (f" (did you mean {close[0]!r}?)" if close else "")
    return f"setting {key!r} = {str(error['input'])[:80]!r}: {error['msg']}"
