"""Experiments: which variant of the service a user gets, for as long as the experiment runs."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from features.settings import Settings
from recsys.errors import SettingsError
from recsys.settings import ServeSettings

_SUM_TOLERANCE = 1e-6


class Variant(Settings):
    """One variant: what is not set is as in the service itself."""

    name: str = Field(min_length=1, max_length=100)
    share: float = Field(gt=0, le=1)
    """Of the users."""
    bundle: str | None = None
    """A version in the service's bundle folder."""
    rules: Path | None = None
    """A rules file, relative to the experiment's own file."""
    serve: dict[str, Any] = Field(default_factory=dict)
    """Other values of the settings `serve.*`."""

    @model_validator(mode="after")
    def _known_settings(self) -> Variant:
        ServeSettings.model_validate(self.serve)
        return self


class Experiment(Settings):
    """Variants and their shares, which add up to 1. The first one is the control: guests, who can't be recognised when
    they come again, get it.
    """

    name: str = Field(min_length=1, max_length=100)
    variants: tuple[Variant, ...] = Field(min_length=2, max_length=26)

    @model_validator(mode="after")
    def _whole(self) -> Experiment:
        names = [variant.name for variant in self.variants]
        if len(set(names)) < len(names):
            raise ValueError(f"the variants' names must be distinct, but are {', '.join(names)}")
        total = sum(variant.share for variant in self.variants)
        if abs(total - 1) > _SUM_TOLERANCE:
            raise ValueError(f"the variants' shares must add up to 1, but add up to {total:g}")
        return self

    def assign(self, user: str | None) -> Variant:
        """The user's variant: always the same one, on every machine. The experiment's name salts the hash, so that who
        is where in one experiment says nothing about another.
        """
        if user is None:
            return self.variants[0]
        text = f"{self.name}\0{user}".encode("utf-8", "surrogatepass")
        place = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") / 2**64
        for variant in self.variants:
            place -= variant.share
            if place < 0:
                return variant
        return self.variants[-1]


def load_experiment(file: Path) -> Experiment:
    """From a TOML file, with the paths in it made absolute; SettingsError names the file, the key and the value."""
    try:
        experiment = Experiment.model_validate(tomllib.loads(file.read_text(encoding="utf-8-sig")))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"experiment file {file} can't be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"experiment file {file} is not TOML: {error}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise SettingsError(f"experiment file {file}: {f'{path}: ' if path else ''}{message}") from None
    variants = tuple(
        variant if variant.rules is None else variant.model_copy(update={"rules": file.parent / variant.rules})
        for variant in experiment.variants
    )
    return experiment.model_copy(update={"variants": variants})
