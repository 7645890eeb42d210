"""Notebooks run from top to bottom on the tiny world, hold no outputs in git, no logic and none but public names."""

from __future__ import annotations

import ast
import json
import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import recsys

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def test_there_are_notebooks():
    assert NOTEBOOKS


@every_notebook
def test_a_notebook_is_kept_without_outputs(path):
    assert all(not cell.outputs and cell.execution_count is None for cell in code_cells(path))


@every_notebook
def test_a_notebook_uses_public_names_and_defines_none(path):
    for cell in code_cells(path):
        for node in ast.walk(ast.parse(cell.source)):
            assert not isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Lambda)), cell.source
            if isinstance(node, ast.ImportFrom) and node.module != "pathlib":
                assert node.module == "recsys"
                assert {alias.name for alias in node.names} <= set(recsys.__all__)


@every_notebook
def test_a_notebook_runs(path, tiny_folder, tiny_settings, tmp_path, monkeypatch):
    """In a kernel of its own, on small data and with small settings, which reach it by environment variables."""
    monkeypatch.setenv("SHELFTALK_DATA", str(tiny_folder))
    monkeypatch.setenv("SHELFTALK_BUNDLE", str(tmp_path / "bundles"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    for name, value in tiny_settings.model_dump(mode="json", exclude_unset=True).items():
        monkeypatch.setenv(f"RECSYS_{name.upper()}", json.dumps(value))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(path.parent)}}).execute()
    assert (tmp_path / "bundles" / "CURRENT").exists()
