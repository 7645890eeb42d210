"""Compiled functions are kept for other processes where that is possible, and work where it is not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from features.compiled import fixed

PROGRAM = """
import logging
logging.basicConfig()
import numpy as np
from recsys.retrieval.best import best_of
print(best_of(np.array([1.0, 3.0, 2.0], np.float32), np.array([7, 5, 6]), 2, 0.0).tolist())
"""


def ask(cache: Path) -> tuple[str, str]:
    paths = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=os.environ | {"PYTHONPATH": paths, "NUMBA_CACHE_DIR": str(cache)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip(), done.stderr


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.mktemp("kept")
    assert ask(cache) == ("[5, 6]", "")
    return cache


@pytest.mark.parametrize("suffix", [".nbc", ".nbi"])
def test_a_damaged_file_costs_time_and_nothing_else(kept: Path, suffix: str) -> None:
    files = [path for path in kept.rglob(f"*{suffix}") if "_best-" in path.name]
    assert files
    for path in files:
        path.write_bytes(path.read_bytes()[:10])
    answer, log = ask(kept)
    assert answer == "[5, 6]"
    assert "kept" in log
    assert str(files[0].parent) in log


def test_a_folder_that_takes_no_file_costs_time_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert ask(tmp_path / "file")[0] == "[5, 6]"


def test_one_type_whatever_the_array() -> None:
    values = np.arange(12.0).reshape(3, 4)
    made = fixed(values.T)
    assert made.flags.c_contiguous
    assert not made.flags.writeable
    assert values.flags.writeable
    np.testing.assert_array_equal(made, values.T)
