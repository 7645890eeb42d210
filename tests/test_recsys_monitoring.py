"""Figures for Prometheus, of one process and of several."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from recsys.gunicorn_app import FOLDER_VARIABLE, shared_figures
from recsys.monitoring import Metrics


def test_requests_stages_and_the_bundle_are_counted() -> None:
    metrics = Metrics()
    metrics.request("GET", "/recommend", 200, 0.003)
    metrics.request("GET", "/recommend", 400, 0.2)
    metrics.stage("ranker", 0.0015)
    metrics.serving("v1", "")
    metrics.serving("v0", "", now=False)
    lines = metrics.text().decode().splitlines()
    assert 'recsys_requests_total{method="GET",route="/recommend",status="400"} 1.0' in lines
    assert 'recsys_request_seconds_bucket{le="0.004",route="/recommend"} 1.0' in lines
    assert 'recsys_request_seconds_count{route="/recommend"} 2.0' in lines
    assert 'recsys_stage_seconds_bucket{le="0.002",stage="ranker"} 1.0' in lines
    assert 'recsys_bundle_info{bundle="v1",variant=""} 1.0' in lines
    assert 'recsys_bundle_info{bundle="v0",variant=""} 0.0' in lines


WORKERS = """
import os, sys
from recsys.monitoring import Metrics, worker_ended
metrics = Metrics()
metrics.request("GET", "/recommend", 200, 0.003)
child = os.fork()
if child == 0:
    metrics.request("GET", "/recommend", 200, 0.003)
    metrics.serving("of the child", "")
    os._exit(0)
os.waitpid(child, 0)
metrics.serving("of the parent", "")
worker_ended(child)
sys.stdout.write(metrics.text().decode())
"""


def test_one_worker_answers_for_all_and_forgets_those_that_ended(tmp_path: Path) -> None:
    environment = os.environ | {FOLDER_VARIABLE: str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", WORKERS], env=environment, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert 'recsys_requests_total{method="GET",route="/recommend",status="200"} 2.0' in lines
    assert 'recsys_bundle_info{bundle="of the parent",variant=""} 1.0' in lines
    assert "of the child" not in done.stdout


def test_the_folder_of_the_workers_figures_comes_and_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    with shared_figures():
        folder = Path(os.environ[FOLDER_VARIABLE])
        assert folder.is_dir()
    assert not folder.exists()
    assert FOLDER_VARIABLE not in os.environ


def test_a_folder_that_the_environment_names_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    with shared_figures():
        pass
    assert tmp_path.is_dir()
