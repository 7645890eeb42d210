"""What many tests share: the tiny world, read and trained once, and hypothesis without deadlines (machines are
shared).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings

import world
from features.tables import Dataset
from postgres import running_server
from recsys.model import FittedModel
from recsys.settings import Settings, settings_from

hypothesis_settings.register_profile("shared", deadline=None)
hypothesis_settings.load_profile("shared")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny world as a data folder with a clock."""
    return world.write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def tiny_dataset(tiny_folder: Path) -> Dataset:
    return Dataset.load(tiny_folder)


@pytest.fixture(scope="session")
def tiny_tree() -> dict[str, Any]:
    """The tiny settings as nested values, to be varied."""
    return world.TINY


@pytest.fixture(scope="session")
def tiny_settings(tiny_tree: dict[str, Any]) -> Settings:
    return settings_from(tiny_tree)


@pytest.fixture(scope="session")
def tiny_model(tiny_dataset: Dataset, tiny_settings: Settings) -> FittedModel:
    """Trained once; nothing may change it (everything in it is frozen)."""
    from recsys.training import train

    return train(tiny_dataset, tiny_settings)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL server, started once; tests make databases of their own in it."""
    with running_server() as url:
        yield url
