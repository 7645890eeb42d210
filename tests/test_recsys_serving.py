"""Laws of serving: one request one snapshot, another bundle takes over without a failed request, items put by one
worker are in the answers of all.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import shutil
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient

from features.encoder import EncoderSettings, TextEncoder
from handmade import handmade_model
from ranking.by_score import ByScoreRanker
from recsys.api.handlers import Handlers
from recsys.bundle import current_version, promote, rollback, save_bundle
from recsys.changed_index import ChangedIndex
from recsys.errors import BundleError
from recsys.live import LiveCounters
from recsys.model import FittedModel
from recsys.requests import Request
from recsys.serving import Serving
from recsys.stores.base import Event
from recsys.stores.settings import StoreSettings
from recsys.stores.sql import SqlEventStore
from recsys.taken import Taken
from serve import create_app
from tiny_bert import write_tiny_bert
from waiting import eventually


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> FittedModel:
    """The handmade model with embeddings of its own texts by a tiny encoder."""
    from features.grid import on_grid
    from recsys.embeddings import with_embeddings

    folder = write_tiny_bert(tmp_path_factory.mktemp("serving") / "model")
    settings = EncoderSettings.model_validate({"model": str(folder), "cache": "off", "max_tokens": 16})
    encoder = TextEncoder.from_settings(settings)
    model = handmade_model()
    embeddings = on_grid(encoder.encode(model.catalogue.texts(settings.text_columns)), items=True)
    empty = np.zeros((len(embeddings), embeddings.shape[1]), np.float32)
    sources = (model.sources[0], dataclasses.replace(model.sources[1], embeddings=empty), model.sources[2])
    pairs = dataclasses.replace(model.features.pairs, embeddings=empty)
    model = dataclasses.replace(model, sources=sources, features=dataclasses.replace(model.features, pairs=pairs))
    return dataclasses.replace(
        with_embeddings(model, embeddings), encoder=encoder,
        settings=model.settings.model_copy(update={"encoder": settings}),
    )  # fmt: skip


@pytest.fixture
def root(model: FittedModel, tmp_path: Path) -> Path:
    """Two versions that any answer tells apart, the first one promoted."""
    root = tmp_path / "bundles"
    save_bundle(model, root)
    save_bundle(with_titles(model, "Second"), root, promote=False)
    return root


def with_titles(model: FittedModel, word: str) -> FittedModel:
    frame = model.catalogue.frame.assign(title=[f"{word} {k}" for k in range(len(model.catalogue))])
    return dataclasses.replace(model, catalogue=dataclasses.replace(model.catalogue, frame=frame))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlEventStore]:
    store = SqlEventStore.open(str(tmp_path / "store.sqlite"))
    yield store
    store.close()


@pytest.fixture
def client(root: Path) -> Iterator[FlaskClient]:
    handlers = Handlers.from_bundle(str(root))
    yield create_app(handlers=handlers).test_client()
    handlers.close()


def versions(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.is_dir())


def ids(answer: Any) -> list[str]:
    return [item["item_id"] for item in answer.get_json()["items"]]


DOCUMENT = {"title": "red dragon", "category": "Games | Toys", "price": 2.5, "tags": ["a"], "colour": "red"}


class TestItems:
    def test_an_item_is_in_the_very_next_answer(self, client: FlaskClient) -> None:
        assert "new" not in ids(client.get("/recommend?recent=i03&n=50"))
        answer = client.put("/items/new", json=DOCUMENT)
        assert answer.status_code == 200, answer.data
        assert answer.get_json()["stored"] == 1
        answer = client.get("/recommend?recent=i03&n=50")
        (item,) = [item for item in answer.get_json()["items"] if item["item_id"] == "new"]
        assert item["title"] == "red dragon"
        assert "text_profile" in item["sources"]
        assert "new" in ids(client.get("/recommend?recent=i03&n=50&filter=colour:red"))
        assert client.get("/recommend?recent=new").get_json()["unknown_history_items"] == 0

    def test_no_event_is_counted_again_for_an_item(self, root: Path, store: SqlEventStore) -> None:
        class Counted(LiveCounters):
            """Says how often it was asked for all events."""

            asked = 0

            def taken(self) -> Taken:
                self.asked += 1
                return super().taken()

        serving = Serving(root, store)
        follower = serving.follower
        assert follower is not None
        follower.counters = counters = Counted(lambda _: 1.0)
        follower.follow(*serving.snapshot.popularities, anew=True)
        store.append([Event(f"u{k}", "i05", time.time()) for k in range(3)])
        follower.step()
        asked, before = counters.asked, serving.snapshot.popularities[0]
        store.put_items({"new": DOCUMENT, "i07": DOCUMENT})
        serving.catch_up()
        follower.read()
        assert follower.sequence == store.head()
        assert not follower._unpublished
        (after,) = serving.snapshot.popularities
        assert counters.asked == asked == 1
        assert after.view.state.signals is not None
        assert after.view.state.signals.items.last_seen[5] > 0
        assert len(after.view.state.source.values) == len(before.view.state.source.values) + 1 == 13
        store.append([Event("u", "new", time.time())])
        follower.read()
        follower.publish()
        assert after.view.state.source.values[12] > 0
        assert counters.asked == asked + 1

    def test_what_the_answers_before_had_is_made_before_it_is_shown(self, client: FlaskClient) -> None:
        """No visitor waits for groups, columns or the search index of a changed catalogue, nor are they made anew."""
        handlers: Handlers = client.application.extensions["shelftalk"]
        assert handlers.serving is not None
        client.put("/items/new", json=DOCUMENT | {"title": "Title 3, red"})
        client.put("/items/i07", json={"title": "Quilt", "category": "Beds"})
        served = handlers.serving.snapshot.served
        assert served.similar.groups is not None
        assert len(served.similar.groups) == len(served.recommender.model.catalogue) == 13
        assert isinstance(served.search.index, ChangedIndex)
        assert set(served.recommender.attributes._columns) >= {"category", "colour", "tags"}
        assert ids(client.get("/search?q=quilt"))[0] == "i07"
        assert ids(client.get("/recommend?recent=i03&n=50&filter=category:Beds")) == ["i07"]
        assert "new" not in ids(client.get("/similar?item=i03&n=12")), "a variant of the item itself"
        rows = served.recommender.model.catalogue.items.rows(["new", "i03", "i07"])
        assert [int((served.similar.groups == served.similar.groups[row]).sum()) for row in rows] == [2, 2, 1]

    def test_lists_that_nobody_asked_for_are_in_no_figure(self, client: FlaskClient) -> None:
        client.put("/items/new", json=DOCUMENT)
        assert 'recsys_stage_seconds_count{stage="ranker"} 0.0' in client.get("/metrics").text

    def test_a_changed_text_is_read_again(self, client: FlaskClient) -> None:
        handlers: Handlers = client.application.extensions["shelftalk"]

        def same_text() -> bool:
            assert handlers.serving is not None
            model = handlers.serving.snapshot.recommender.model
            one, other = model.features.pairs.embeddings[model.catalogue.items.rows(["near", "far"])]
            return bool((one == other).all())

        client.put("/items/near", json={"title": "blue lamp"})
        client.put("/items/far", json={"title": "red dragon"})
        assert not same_text()
        client.put("/items/far", json={"title": "blue lamp"})
        assert same_text()

    def test_what_is_gone_or_unavailable_is_not_in_the_next_answer(self, client: FlaskClient) -> None:
        assert client.delete("/items/i00").get_json()["known"] is True
        client.put("/items/i01", json={"title": "Title 1", "available": False})
        listed = ids(client.get("/recommend?user=nobody&n=50"))
        assert not {"i00", "i01"} & set(listed)
        assert len(listed) == 10
        assert client.get("/recommend?recent=i00").get_json()["unknown_history_items"] == 0
        assert client.delete("/items/never").get_json()["known"] is False
        client.put("/items/i00", json={"title": "back"})
        assert "i00" in ids(client.get("/recommend?user=nobody&n=50"))

    def test_many_come_together_or_not_at_all(self, client: FlaskClient) -> None:
        items = [{"item_id": f"n{k}", "title": f"red lamp {k}"} for k in range(5)]
        assert client.post("/items", json={"items": items}).get_json()["stored"] == 5
        assert {f"n{k}" for k in range(5)} <= set(ids(client.get("/recommend?recent=i03&n=50")))
        answer = client.post("/items", json={"items": [{"item_id": "m0"}, {"item_id": "m1", "price": "cheap"}]})
        assert answer.status_code == 400
        assert answer.get_json()["parameter"] == "items[1].price"
        assert "m0" not in ids(client.get("/recommend?recent=i03&n=50"))

    @pytest.mark.parametrize(
        ("body", "parameter"),
        [
            ('{"titel": "x"}', "titel"), ('{"price": -1}', "price"), ('{"price": "dear"}', "price"),
            ('{"price": NaN}', "body"), ('{"title": ["a"]}', "title"), ('{"title": true}', "title"),
            ('{"available": "perhaps"}', "available"), ('{"published_at": "soon"}', "published_at"),
            ('{"category": [1, {}]}', "category"), ('{"weight": "heavy"}', "weight"), ("[]", "body"), ("{", "body"),
            ('{"item_id": "other"}', "item_id"), ('{"price": 1e999}', "price"), ('"text"', "body"), ("", "body"),
        ],
    )  # fmt: skip
    def test_what_is_no_item_is_refused_by_name(self, client: FlaskClient, body: str, parameter: str) -> None:
        answer = client.put("/items/new", data=body)
        assert answer.status_code == 400, answer.data
        assert answer.get_json()["parameter"] == parameter
        assert "new" not in ids(client.get("/recommend?recent=i03&n=50"))

    @pytest.mark.parametrize("broken", ["\\u0000", "\\ud83d", "\\udc00"])
    def test_half_a_character_or_a_nul_is_refused_by_name(
        self, client: FlaskClient, store: SqlEventStore, broken: str
    ) -> None:
        """PostgreSQL could not hold a NUL, and UTF-8 not half a character."""
        columns = (
            "title",
            "description",
            "brand",
            "category",
            "colour",
            "weight",
            "price",
            "published_at",
            "available",
        )
        for name, value in [*((name, f'"1{broken}"') for name in columns), ("tags", f'["a", "{broken}b"]')]:
            alone = client.put("/items/new", data=f'{{"{name}": {value}}}')
            among = client.post("/items", data=f'{{"items": [{{"item_id": "new", "{name}": {value}}}]}}')
            assert [alone.status_code, among.status_code] == [400, 400]
            assert (alone.get_json()["parameter"], among.get_json()["parameter"]) == (name, f"items[0].{name}")
            assert "must not hold a NUL or half a character" in alone.get_json()["detail"]
        assert store.head() == 0

    @pytest.mark.parametrize("broken", ["\\u0000", "\\ud83d", "\\ufffd"])
    def test_a_broken_id_in_a_body_is_refused_by_name(self, client: FlaskClient, broken: str) -> None:
        answer = client.post("/items", data=f'{{"items": [{{"item_id": "x{broken}"}}]}}')
        assert (answer.status_code, answer.get_json()["parameter"]) == (400, "items[0].item_id")

    @pytest.mark.parametrize("path", ["/items/%00", "/items/%20", "/items/" + "x" * 3000, "/items/%FF"])
    def test_ids_that_are_none_are_refused(self, client: FlaskClient, path: str) -> None:
        assert client.put(path, json={}).status_code == 400
        assert client.delete(path).status_code == 400

    def test_any_text_can_be_an_item(self, client: FlaskClient) -> None:
        strange = {"title": "\uffff \1 <b>&amp;</b> 价格", "description": "x" * 50_000, "published_at": 1999}
        answer = client.put("/items/a%2Fb%20☃", data=json.dumps(strange))
        assert answer.status_code == 200, answer.data
        assert "a/b ☃" in ids(client.get("/recommend?recent=i03&n=50"))

    def test_without_a_store_nothing_is_taken(self, root: Path) -> None:
        handlers = Handlers.from_bundle(str(root), "none")
        answer = create_app(handlers=handlers).test_client().put("/items/new", json=DOCUMENT)
        handlers.close()
        assert answer.status_code == 503

    def test_they_are_there_after_a_restart(self, client: FlaskClient, root: Path) -> None:
        client.put("/items/new", json=DOCUMENT)
        client.delete("/items/i00")
        handlers = Handlers.from_bundle(str(root))
        again = create_app(handlers=handlers).test_client()
        listed = ids(again.get("/recommend?recent=i03&n=50"))
        assert listed == ids(client.get("/recommend?recent=i03&n=50"))
        assert "new" in listed
        handlers.close()

    def test_another_worker_follows_within_a_second(self, root: Path, store: SqlEventStore, tmp_path: Path) -> None:
        other = SqlEventStore.open(str(tmp_path / "store.sqlite"))
        one, two = Serving(root, store), Serving(root, other)
        two.start()
        store.put_items({"new": DOCUMENT})
        one.catch_up()
        assert "new" in one.snapshot.recommender.model.catalogue.items
        started = time.monotonic()
        assert eventually(lambda: "new" in two.snapshot.recommender.model.catalogue.items)
        assert time.monotonic() - started < 1.0
        two.stop()
        other.close()

    def test_what_nobody_answers_from_any_more_is_freed_at_once(self, client: FlaskClient) -> None:
        """Left to the garbage collector, dozens of models would pile up between its rounds."""
        handlers: Handlers = client.application.extensions["shelftalk"]
        assert handlers.serving is not None
        gc.collect()
        gc.disable()
        try:
            client.put("/items/new", json=DOCUMENT)
            client.get("/recommend?recent=i03&filter=colour:red")
            recommender = weakref.ref(handlers.serving.snapshot.recommender)
            model = weakref.ref(handlers.serving.snapshot.recommender.model)
            client.put("/items/newer", json=DOCUMENT)
            assert eventually(lambda: recommender() is None and model() is None)
        finally:
            gc.enable()


class TestLiveRanking:
    """Bob's list goes by popularity alone, so that what others take, and nothing else, can move it."""

    @pytest.fixture
    def popular(self, model: FittedModel, tmp_path: Path) -> Path:
        source = model.fallback
        made = dataclasses.replace(model, sources=(source,), ranker=ByScoreRanker.of({source.name: 1.0}))
        save_bundle(made, tmp_path / "popular")
        return tmp_path / "popular"

    def first_of_bob(self, client: FlaskClient) -> str:
        return ids(client.get("/recommend?user=bob&n=3"))[0]

    def take(self, client: FlaskClient, item_id: str) -> None:
        events = [{"user_id": f"other{k}", "item_id": item_id, "event": "view"} for k in range(40)]
        assert client.post("/events", json=events).status_code == 200

    def test_an_item_of_after_the_training_leads_once_others_take_it(self, popular: Path) -> None:
        handlers = Handlers.from_bundle(str(popular))
        client = create_app(handlers=handlers).test_client()
        try:
            handlers.start()
            assert client.put("/items/late", json=DOCUMENT).status_code == 200
            assert self.first_of_bob(client) == "i02"
            self.take(client, "late")
            assert eventually(lambda: self.first_of_bob(client) == "late")
            assert client.put("/items/later", json=DOCUMENT).status_code == 200
            assert self.first_of_bob(client) == "late", "a model with one item more knows what the one before it knew"
        finally:
            handlers.close()

    def test_it_can_be_switched_off(self, popular: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RECSYS_STORE__LIVE_RANKING", "false")
        handlers = Handlers.from_bundle(str(popular))
        client = create_app(handlers=handlers).test_client()
        try:
            self.take(client, "i09")
            handlers.start()
            assert eventually(lambda: "i09" in ids(client.get("/recommend?recent=&n=4"))), "guests see it"
            assert self.first_of_bob(client) == "i02"
        finally:
            handlers.close()


class TestBundles:
    def test_promote_and_rollback_are_taken_up_within_a_second(self, root: Path) -> None:
        first, second = versions(root)
        serving = Serving(root)
        serving.start()
        for switch, version in ((lambda: promote(root, second), second), (lambda: rollback(root), first)):
            switch()
            started = time.monotonic()
            assert eventually(lambda expected=version: serving.snapshot.version == expected)
            assert time.monotonic() - started < 1.5
        serving.stop()

    def test_items_that_were_put_are_in_the_new_bundle_as_well(self, client: FlaskClient, root: Path) -> None:
        client.put("/items/new", json=DOCUMENT)
        client.delete("/items/i00")
        promote(root, versions(root)[1])
        assert eventually(lambda: client.get("/readyz").get_json()["bundle"] == versions(root)[1])
        answer = client.get("/recommend?recent=i03&n=50").get_json()
        titles = {item["item_id"]: item["title"] for item in answer["items"]}
        assert titles["new"] == "red dragon"
        assert titles["i01"] == "Second 1"
        assert "i00" not in titles

    def test_events_that_are_held_weigh_what_the_new_bundle_says(
        self, model: FittedModel, root: Path, store: SqlEventStore
    ) -> None:
        now = time.time()
        store.append([Event("u", "i05", now, "view")])
        serving = Serving(root, store)
        assert serving.follower is not None
        for weight in (1.0, 0.5):
            save_bundle(dataclasses.replace(model, kind_weights={"view": weight, "*": 1.0}), root)
            serving.step()
            serving.follower.step()
            assert serving.follower.counters.happened(now).counts == {"i05": weight}

    def test_nothing_is_counted_that_retention_removes(self, root: Path, store: SqlEventStore) -> None:
        now = time.time()
        day = 24 * 3600.0
        store.append(
            [Event("u", f"i{k:02d}", now - days * day, "view", query="tea") for k, days in enumerate((9, 3, 0))]
        )
        for retention, items in ((None, {"i00", "i01", "i02"}), (4.0, {"i01", "i02"})):
            follower = Serving(root, store, StoreSettings(retention_days=retention)).follower
            assert follower is not None
            follower.step()
            assert set(follower.counters.taken().item_ids) == set(follower.queries.taken("tea")) == items

    def test_a_damaged_bundle_is_refused_by_name_while_the_old_one_goes_on(
        self, root: Path, store: SqlEventStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        first, second = versions(root)
        serving = Serving(root, store)
        handlers = Handlers(None, store=store, serving=serving)
        damaged = root / second / "features" / "pairs" / "embeddings.npy"
        content = damaged.read_bytes()
        promote(root, second)
        damaged.unlink()
        damaged.write_bytes(content[:-4] + b"\0\0\0\1")
        for _ in range(3):
            serving.step()
        ready = handlers.ready()
        assert ready["bundle"] == first
        assert f"bundle {second}: " in ready["refused"]
        assert ".npy is not what was written" in ready["refused"]
        assert caplog.text.count("is not what was written") == 1
        assert serving.snapshot.recommender.recommend(Request(n=3)).items
        rollback_to(root, first)
        serving.step()
        assert "refused" not in handlers.ready()

    def test_a_bundle_that_comes_later_makes_it_ready(self, root: Path, tmp_path: Path) -> None:
        later = tmp_path / "later"
        serving = Serving(later)
        with pytest.raises(BundleError, match="does not exist"):
            _ = serving.snapshot
        shutil.copytree(root, later)
        serving.step()
        assert serving.snapshot.version == versions(root)[0]

    def test_no_request_fails_and_no_answer_is_mixed_while_bundles_and_items_change(
        self, client: FlaskClient, root: Path
    ) -> None:
        """Titles say which bundle an item is from; a list must be of the bundle that it names."""
        words = dict(zip(versions(root), ("Title", "Second"), strict=True))
        app, done = client.application, threading.Event()
        failures: list[str] = []
        seen: set[str] = set()

        def ask(number: int) -> int:
            own, count = app.test_client(), 0
            while not done.is_set():
                response = own.get(f"/recommend?recent=i{number:02d}&n=50")
                answer = response.get_json()
                count += 1
                if response.status_code != 200:
                    failures.append(str(answer))
                    continue
                seen.add(answer["bundle"])
                old = [item["title"] for item in answer["items"] if item["item_id"].startswith("i")]
                if any(not title.startswith(words[answer["bundle"]]) for title in old) or len(old) != 11:
                    failures.append(f"{answer['bundle']}: {old}")
            return count

        def put() -> None:
            own, k = app.test_client(), 0
            while not done.is_set():
                response = own.put(f"/items/new{k % 7}", json={"title": f"red dragon {k}"})
                listed = ids(own.get("/recommend?recent=i00&n=60"))
                if response.status_code != 200 or f"new{k % 7}" not in listed:
                    failures.append(f"{response.data!r} {listed}")
                k += 1

        with ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(ask, number) for number in range(3)]
            putting = pool.submit(put)
            for version in [*reversed(versions(root)), *reversed(versions(root))]:
                promote(root, version)
                assert eventually(lambda expected=version: client.get("/readyz").get_json()["bundle"] == expected)
            done.set()
            putting.result()
            counts = [future.result() for future in asked]
        assert not failures, failures[:3]
        assert seen == set(words)
        assert min(counts) > 3


def rollback_to(root: Path, version: str) -> None:
    assert rollback(root) == version
    assert current_version(root) == version


def test_a_follower_goes_on_after_the_store_was_away(
    root: Path, store: SqlEventStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from recsys.errors import StoreError

    serving = Serving(root, store, StoreSettings(poll_seconds=0.01))
    real = store.items_since

    def away(*_: object) -> Any:
        raise StoreError("the store is away")

    monkeypatch.setattr(store, "items_since", away)
    serving.start()
    assert eventually(lambda: "items stand still: the store is away" in caplog.text)
    monkeypatch.setattr(store, "items_since", real)
    store.put_items({"new": DOCUMENT})
    assert eventually(lambda: "new" in serving.snapshot.recommender.model.catalogue.items)
    assert caplog.text.count("items stand still") == 1
    serving.stop()
