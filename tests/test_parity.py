"""HTTP, Recommender.recommend and batch give the same items and scores, from one bundle, whoever trained it where."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import world
from recsys.batch import run_batch
from recsys.bundle import load_bundle, save_bundle
from recsys.model import FittedModel
from recsys.recommender import Recommender
from recsys.requests import Request
from serve import create_app

AT = float(world.START + 30 * world.DAY)
BODIES: list[dict[str, Any]] = [
    {"request_id": "known", "user": "u000", "at": AT, "n": 12},
    {"request_id": "stranger", "user": "nobody", "at": AT, "n": 12},
    {"request_id": "guest", "user": None, "history": ["space-03", "space-04"], "at": AT, "n": 12},
    {
        "request_id": "basket", "user": "u005", "at": AT, "n": 12, "exclude_seen": False,
        "history": [{"item_id": f"garden-0{k}", "event": "purchase", "timestamp": world.START} for k in (3, 1, 2)],
    },
    {"request_id": "filtered", "user": "u007", "at": AT, "n": 12, "filter": ["category:rose", "category:spade"]},
]  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tiny_model: FittedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("parity") / "bundles"
    save_bundle(tiny_model, root)
    return root


def pairs(rows: pd.DataFrame) -> list[tuple[str, float]]:
    return list(zip(rows["item_id"], rows["score"], strict=True))


def over_http(recommender: Recommender) -> Iterator[tuple[str, list[tuple[str, float]]]]:
    client = create_app(recommender).test_client()
    for body in BODIES:
        answer = client.post("/recommend", json=body)
        assert answer.status_code == 200, answer.text
        yield body["request_id"], [(item["item_id"], item["score"]) for item in answer.get_json()["items"]]


def test_http_recommend_and_batch_agree(tiny_model: FittedModel, bundle: Path, tmp_path: Path) -> None:
    requests = tmp_path / "requests.jsonl"
    requests.write_text("".join(json.dumps(body) + "\n" for body in BODIES), encoding="utf-8")
    run_batch(bundle, tmp_path / "lists.parquet", requests=requests)
    table = pd.read_parquet(tmp_path / "lists.parquet")
    batch = {name: pairs(rows) for name, rows in table.groupby("request_id")}
    assert dict(over_http(Recommender.live(load_bundle(bundle)))) == batch
    assert dict(over_http(Recommender.live(tiny_model))) == batch
    assert all(len(rows) >= 5 for rows in batch.values())


def test_get_agrees_with_recommend(tiny_model: FittedModel, bundle: Path) -> None:
    live = Recommender(load_bundle(bundle))
    client = create_app(live).test_client()
    for user in ("u000", "u013", "nobody"):
        got = client.get(f"/recommend?user={user}&n=9&recent=space-17").get_json()["items"]
        expected = Recommender(tiny_model).recommend(Request(user=user, n=9, recent=("space-17",))).items
        assert [(i["item_id"], i["score"]) for i in got] == [(i.item_id, i.score) for i in expected]
