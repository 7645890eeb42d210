"""What the fault tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from handmade import handmade_model
from recsys.bundle import save_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    save_bundle(handmade_model(), tmp_path / "bundles")
    return tmp_path / "bundles"
