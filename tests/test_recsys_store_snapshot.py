"""Batch over a store: the lists that the service gives, and the same events for every process and every repetition."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from handmade import TRAINED_UNTIL, handmade_model
from recsys.batch import PART_REQUESTS, run_batch
from recsys.bundle import load_bundle, save_bundle
from recsys.errors import SettingsError, StoreError
from recsys.recommender import Recommender
from recsys.request_history import StoreReader
from recsys.requests import Request
from recsys.serving import Serving
from recsys.store_snapshot import StoreSnapshot
from recsys.stores.base import Event
from recsys.stores.sql import SqlEventStore

AFTER = TRAINED_UNTIL + 100.0


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    save_bundle(handmade_model(), tmp_path / "bundles")
    return tmp_path / "bundles"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlEventStore]:
    opened = SqlEventStore.open(str(tmp_path / "events.sqlite"))
    opened.append([Event("ann", "i05", AFTER, "view"), Event("new", "i06", AFTER + 1, "view")])
    yield opened
    opened.close()


def requests_file(path: Path, users: list[str], **more: object) -> Path:
    lines = [json.dumps({"request_id": f"{k}", "user": user} | more) for k, user in enumerate(users)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def followed(bundle: Path, store: SqlEventStore) -> Recommender:
    """What a service answers from that knows the store."""
    serving = Serving(bundle, store)
    assert serving.follower is not None
    serving.follower.step()
    return serving.snapshot.recommender


def test_a_batch_gives_the_lists_of_the_service(bundle: Path, store: SqlEventStore, tmp_path: Path) -> None:
    users = ["ann", "bob", "new", "nobody"]
    requests = requests_file(tmp_path / "r.jsonl", users, at=AFTER + 10)
    out = tmp_path / "lists.parquet"
    run_batch(bundle, out, requests=requests, n=4, store=str(tmp_path / "events.sqlite"))
    found = pd.read_parquet(out)
    live = followed(bundle, store)
    for number, user in enumerate(users):
        rows = found[found["request_id"] == str(number)]
        items = live.recommend(Request(user=user, n=4, at=AFTER + 10)).items
        assert rows["item_id"].tolist() == [item.item_id for item in items]
        assert rows["score"].tolist() == [item.score for item in items]


def test_without_a_time_it_is_the_moment_after_the_newest_event(
    bundle: Path, store: SqlEventStore, tmp_path: Path
) -> None:
    out = tmp_path / "lists.parquet"
    run_batch(
        bundle, out, requests=requests_file(tmp_path / "r.jsonl", ["ann"]), n=12, store=str(tmp_path / "events.sqlite")
    )
    assert "i05" not in set(pd.read_parquet(out)["item_id"])


USERS = ["ann", "nobody", "bob", "new", "nobody else"]


@pytest.fixture
def busy(store: SqlEventStore) -> float:
    """A store in which six hundred people have just taken i07; the time now."""
    now = time.time()
    store.append([Event(f"visitor {k}", "i07", now - 60 + k / 20, "view") for k in range(600)])
    return now


def test_what_is_taken_since_the_training_counts_as_in_the_service(
    bundle: Path, store: SqlEventStore, busy: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the moment after the newest event, that is: the half-lives of these twelve items are seconds."""
    out = tmp_path / "lists.parquet"
    requests = requests_file(tmp_path / "r.jsonl", USERS)
    run_batch(bundle, out, requests=requests, n=5, store=str(tmp_path / "events.sqlite"))
    found = pd.read_parquet(out)
    newest = store.newest_time()
    assert newest is not None
    monkeypatch.setattr(time, "time", lambda: newest + 1)
    serving = Serving(bundle, store)
    assert serving.follower is not None
    serving.follower._clock = time.time
    serving.follower.step()
    for number, user in enumerate(USERS):
        listed = found.loc[found["request_id"] == str(number), "item_id"].tolist()
        expected = serving.snapshot.recommender.recommend(Request(user=user, n=5)).items
        assert listed == [item.item_id for item in expected]
    assert found.loc[found["request_id"] == "1", "item_id"].iloc[0] == "i07", "what guests see is taken in these hours"


def test_a_list_does_not_depend_on_who_else_is_asked_for(
    bundle: Path, store: SqlEventStore, busy: float, tmp_path: Path
) -> None:
    model = load_bundle(bundle)
    recommender = StoreSnapshot.now(str(tmp_path / "events.sqlite")).recommender(model, bundle)
    requests = [Request(str(k), user, n=12, exclude_seen=k < 5) for k, user in enumerate(USERS * 2)]
    requests += [Request("at", "ann", n=12, at=busy), Request("own", history=(), n=12)]
    assert recommender.recommend_many(requests) == [recommender.recommend(request) for request in requests]


def test_what_came_after_the_snapshot_is_not_in_it(
    bundle: Path, store: SqlEventStore, busy: float, tmp_path: Path
) -> None:
    snapshot, model = StoreSnapshot.now(str(tmp_path / "events.sqlite")), load_bundle(bundle)
    asked = [Request(user=user, n=12) for user in USERS]
    before = snapshot.recommender(model, bundle).recommend_many(asked)
    store.append([Event(f"late {k}", "i09", busy + k / 100, "view") for k in range(300)])
    assert snapshot.recommender(model, bundle).recommend_many(asked) == before
    assert StoreSnapshot.now(str(tmp_path / "events.sqlite")).recommender(model, bundle).recommend_many(asked) != before


def test_it_can_be_switched_off(
    bundle: Path, store: SqlEventStore, busy: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, asked = load_bundle(bundle), Request(user="ann", n=12)

    def scored() -> dict[str, float]:
        made = StoreSnapshot.now(str(tmp_path / "events.sqlite")).recommender(model, bundle)
        return {item.item_id: item.score for item in made.recommend(asked).items}

    live = scored()
    monkeypatch.setenv("RECSYS_STORE__LIVE_RANKING", "false")
    assert live != scored()
    assert scored() == {
        item.item_id: item.score for item in Recommender(model, store=StoreReader(store)).recommend(asked).items
    }


def test_items_that_were_put_or_deleted_are_as_in_the_service(
    bundle: Path, store: SqlEventStore, tmp_path: Path
) -> None:
    store.put_items({"new": {"title": "new", "price": 4}})
    store.delete_item("i04")
    requests = requests_file(tmp_path / "r.jsonl", ["ann", "new"], at=AFTER + 10)
    out = tmp_path / "lists.parquet"
    run_batch(bundle, out, requests=requests, n=12, store=str(tmp_path / "events.sqlite"))
    found = pd.read_parquet(out)
    live = followed(bundle, store)
    for number, user in enumerate(["ann", "new"]):
        listed = found.loc[found["request_id"] == str(number), "item_id"].tolist()
        assert listed == [item.item_id for item in live.recommend(Request(user=user, n=12, at=AFTER + 10)).items]
        assert "new" in listed
        assert "i04" not in listed


def test_processes_answer_as_one_does(bundle: Path, store: SqlEventStore, tmp_path: Path) -> None:
    requests = requests_file(tmp_path / "r.jsonl", ["ann", "new", "bob"] * 500)
    tables = []
    for workers in (1, 2):
        out = tmp_path / f"{workers}.parquet"
        run_batch(bundle, out, requests=requests, n=3, workers=workers, store=str(tmp_path / "events.sqlite"))
        tables.append(pd.read_parquet(out))
    pd.testing.assert_frame_equal(*tables)


def test_a_job_that_goes_on_sees_the_events_it_began_with(bundle: Path, store: SqlEventStore, tmp_path: Path) -> None:
    out = f"{tmp_path}/lists/"
    requests = requests_file(tmp_path / "r.jsonl", ["ann"] * (PART_REQUESTS + 1))
    url = str(tmp_path / "events.sqlite")
    run_batch(bundle, out, requests=requests, n=1, store=url)
    manifest = Path(out) / "_manifest.json"
    content = json.loads(manifest.read_text())
    (Path(out) / "part-000001.parquet").unlink()
    del content["parts"]["part-000001.parquet"]
    manifest.write_text(json.dumps(content | {"complete": False}))
    first = pd.read_parquet(Path(out) / "part-000000.parquet")["item_id"].iloc[0]
    store.append([Event("ann", str(first), AFTER + 50, "view")])
    assert run_batch(bundle, out, requests=requests, n=1, store=url).num_kept == PART_REQUESTS
    assert set(pd.read_parquet(out)["item_id"]) == {first}
    assert run_batch(bundle, out, requests=requests, n=1, store=url).num_kept == 0, "a finished one begins anew"
    assert first not in set(pd.read_parquet(out)["item_id"])


def test_a_store_that_cannot_be_read_stops_the_job(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.sqlite").write_text("no database, " * 100)
    with pytest.raises(StoreError, match=r"broken\.sqlite"):
        run_batch(bundle, tmp_path / "x.parquet", users="all", store=str(tmp_path / "broken.sqlite"))
    assert not (tmp_path / "x.parquet").exists()


def test_a_store_that_does_not_exist_stops_the_job_and_is_not_made(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"mistyped\.sqlite: there is no such file"):
        run_batch(bundle, tmp_path / "x.parquet", users="all", store=str(tmp_path / "mistyped.sqlite"))
    assert not (tmp_path / "x.parquet").exists()
    assert not (tmp_path / "mistyped.sqlite").exists()
