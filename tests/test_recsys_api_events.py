"""`POST /events` and `DELETE /users/ID` over HTTP, into a real store."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from handmade import TRAINED_UNTIL, handmade_model
from recsys.api.events import FUTURE_SECONDS, read_events
from recsys.api.handlers import Handlers
from recsys.bundle import save_bundle
from recsys.errors import RequestError
from recsys.stores.settings import StoreSettings
from recsys.stores.sql import SqlEventStore
from recsys.threads import limit_threads
from serve import create_app

NOW = 1_800_000_000.0


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FlaskClient]:
    """A service over a bundle, with the default store in its folder."""
    save_bundle(handmade_model(), tmp_path)
    monkeypatch.setenv("RECSYS_BUNDLE", str(tmp_path))
    monkeypatch.delenv("RECSYS_STORE", raising=False)
    with limit_threads(1):
        app = create_app()
    yield app.test_client()
    handlers: Handlers = app.extensions["shelftalk"]
    handlers.close()


@pytest.fixture
def store(client: FlaskClient, tmp_path: Path) -> Iterator[SqlEventStore]:
    """Another process's view of it."""
    opened = SqlEventStore.open(str(tmp_path / "store.sqlite"))
    yield opened
    opened.close()


def event(**changes: Any) -> dict[str, Any]:
    return {"user_id": "ann", "item_id": "i05"} | changes


def reasons(*rows: Any, **settings: Any) -> list[str]:
    body = json.dumps({"events": rows}).encode()
    reading = read_events(body, NOW, StoreSettings.model_validate(settings))
    return [getattr(row, "reason", "") for row in reading.rows]


def test_one_event_changes_the_next_answer(client: FlaskClient) -> None:
    before = client.get("/recommend?user=ann&n=12").get_json()
    assert "i05" in [item["item_id"] for item in before["items"]]
    answer = client.post("/events", json=event(event_id="e1")).get_json()
    assert len(answer.pop("request_id")) == 32
    assert answer == {
        "accepted": 1, "duplicate": 0, "rejected": 0, "events": [{"status": "accepted", "event_id": "e1"}]
    }  # fmt: skip
    after = client.get("/recommend?user=ann&n=12").get_json()
    assert "i05" not in [item["item_id"] for item in after["items"]]
    assert "degraded" not in after


@pytest.mark.parametrize("body", [[event(event_id="a"), event(event_id="b")], {"events": [event(event_id="a")]}, []])
def test_several_come_as_a_list_or_under_a_key(client: FlaskClient, body: Any) -> None:
    rows = body["events"] if isinstance(body, dict) else body
    answer = client.post("/events", json=body).get_json()
    assert answer["accepted"] == len(answer["events"]) == len(rows)


def test_each_row_has_a_verdict_of_its_own(client: FlaskClient, store: SqlEventStore) -> None:
    rows = [event(event_id="a"), event(event_id="a"), {"user_id": "ann"}, event(item_id="unheard of", event_id="b"), 7]
    response = client.post("/events", json=rows)
    assert response.status_code == 200
    answer = response.get_json()
    assert [row["status"] for row in answer["events"]] == ["accepted", "duplicate", "rejected", "accepted", "rejected"]
    assert (answer["accepted"], answer["duplicate"], answer["rejected"]) == (2, 1, 2)
    assert answer["events"][2]["reason"] == "no item_id"
    assert "unknown item" in answer["events"][3]["note"]
    assert [stored.event_id for _, stored in store.changes(0).events] == ["a", "b"]


def test_all_that_may_be_told_is_kept(client: FlaskClient, store: SqlEventStore) -> None:
    given = event(
        event="rating", timestamp="2026-01-02T03:04:05Z", value=4, event_id="e", session_id="s", request_id="r",
        query="größe",
    )  # fmt: skip
    client.post("/events", json=given)
    ((_, stored),) = store.changes(0).events
    assert (stored.event, stored.time, stored.value) == ("rating", 1_767_323_045.0, 4.0)
    assert (stored.event_id, stored.session_id, stored.request_id, stored.query) == ("e", "s", "r", "größe")


def test_an_event_without_a_time_happened_now(client: FlaskClient, store: SqlEventStore) -> None:
    before = time.time()
    client.post("/events", json=event())
    assert before <= (store.newest_time() or 0.0) <= time.time()


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (event(user_id=""), "user_id='': is empty"),
        (event(user_id=5), "user_id=5: "),
        (event(item_id="a\0"), "NUL"),
        (event(item_id="x" * 3000), "longer than 2048 bytes"),
        (event(event="x" * 2000), "event="),
        (event(timestamp="yesterday"), "neither unix seconds nor ISO 8601"),
        (event(timestamp=True), "timestamp=True"),
        (event(timestamp=NOW * 1000), "milliseconds? divide by 1000"),
        (event(timestamp=NOW + FUTURE_SECONDS + 1), "timestamp=1800086401: time in the far future (check the date)"),
        (event(timestamp="2999-01-01"), "timestamp='2999-01-01': time in the far future (check the date)"),
        (event(timestamp="9999-12-31T00:00:00Z"), "time in the far future (check the date)"),
        (event(timestamp="1931-01-01"), "timestamp='1931-01-01': before 1970"),
        (event(timestamp=-1), "before 1970"),
        (event(value="much"), "value='much'"),
        (event(value=1e300), "value=1e+300"),
        (event(colour="red"), "unknown key 'colour'; allowed are user_id, item_id"),
        ([], "not a JSON object"),
        (event(query="boots \ud83d"), "query='boots \\ud83d': "),
        (event(user_id="ann\udc00"), "user_id='ann\\udc00': holds a NUL or broken character"),
        (event() | {"qu\ud83dery": "boots"}, "unknown key 'qu\\ud83dery'"),
    ],
)
def test_a_row_that_is_no_event_is_told_why(row: Any, reason: str) -> None:
    assert reason in reasons(row, event())[0]
    assert reasons(row, event())[1] == ""


@pytest.mark.parametrize("broken", ["\\u0000", "\\ud83d", "\\udc00", "\\ufffd"])
def test_half_a_character_or_a_nul_costs_its_own_row_only(
    client: FlaskClient, store: SqlEventStore, broken: str
) -> None:
    for key in ("user_id", "item_id", "event", "event_id", "session_id", "request_id", "query"):
        row = json.dumps(event() | {key: "a{}"}).replace("{}", broken)
        answer = client.post("/events", data=f"[{row}, {json.dumps(event(event_id='e1'))}]").get_json()
        assert answer["events"][0]["reason"].startswith(f"{key}=")
        assert answer["events"][1]["status"] in ("accepted", "duplicate")
        alone = client.post("/events", data=row)
        assert (alone.status_code, alone.get_json()["parameter"]) == (400, key)
    assert store.head() == 1


def test_what_is_older_than_what_is_kept_is_not_taken() -> None:
    rows = (event(timestamp=NOW - 86_401.0), event(timestamp=NOW - 86_399.0))
    assert [bool(reason) for reason in reasons(*rows, retention_days=1.0)] == [True, False]


@pytest.mark.parametrize("body", [b"", b"{", b"7", b"null", b'"x"', b'{"events": 5}', b"[NaN]", b"\xff", b"[" * 9999])
def test_a_body_that_holds_no_events_is_400(client: FlaskClient, body: bytes) -> None:
    response = client.post("/events", data=body)
    assert (response.status_code, response.get_json()["parameter"]) == (400, "body")


def test_more_rows_than_allowed_are_400_and_none_is_stored(client: FlaskClient, store: SqlEventStore) -> None:
    response = client.post("/events", json=[event(event_id=str(k)) for k in range(1001)])
    assert response.status_code == 400
    assert "1000" in response.get_json()["detail"]
    assert store.head() == 0


def test_one_bad_event_alone_is_400_with_the_key(client: FlaskClient) -> None:
    response = client.post("/events", json=event(timestamp="soon"))
    assert (response.status_code, response.get_json()["parameter"]) == (400, "timestamp")


def test_a_forgotten_user_is_a_stranger(client: FlaskClient) -> None:
    client.post("/events", json=event())
    answer = client.delete("/users/ann").get_json()
    assert (answer["user"], answer["removed_events"]) == ("ann", 1)
    after = client.get("/recommend?user=ann&n=3").get_json()
    assert (after["strategy"], after["reason"]) == ("popular", "user 'ann' has never been seen")
    for _ in range(100):  # what was popular with ann's event may have been worked out before it went
        if [item["item_id"] for item in after["items"]] == ["i00", "i01", "i02"]:
            break
        time.sleep(0.05)
        after = client.get("/recommend?user=ann&n=3").get_json()
    assert [item["item_id"] for item in after["items"]] == ["i00", "i01", "i02"]
    late = client.post("/events", json=[event(timestamp=time.time() - 60)]).get_json()
    assert late["events"][0]["status"] == "rejected"
    assert client.post("/events", json=[event()]).get_json()["accepted"] == 1


def test_a_clock_that_went_back_before_the_training_forgets_all_the_same(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the bundle that knows ann."""
    monkeypatch.setattr(time, "time", lambda: TRAINED_UNTIL - 365 * 86_400.0)
    assert client.get("/recommend?user=ann&n=3").get_json()["strategy"] != "popular"
    assert client.delete("/users/ann").status_code == 200
    assert client.get("/recommend?user=ann&n=3").get_json()["reason"] == "user 'ann' has never been seen"


def test_any_id_can_be_forgotten_and_no_log_shows_it(client: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "recsys.access")
    client.post("/events", json=event(user_id="a//b/ü?x"))
    answer = client.delete("/users/a%2F%2Fb%2F%C3%BC%3Fx").get_json()
    assert (answer["user"], answer["removed_events"]) == ("a//b/ü?x", 1)
    assert "a//b" not in caplog.text
    assert "DELETE '/users/<path:user>' 200" in caplog.text


@pytest.mark.parametrize("path", ["/users/%00", "/users/%FF", "/users/%20", "/users/" + "x" * 3000])
def test_what_is_no_id_is_400(client: FlaskClient, path: str) -> None:
    response = client.delete(path)
    assert (response.status_code, response.get_json()["parameter"]) == (400, "user")


def test_a_store_that_fails_is_503_and_lists_go_on_degraded(client: FlaskClient, tmp_path: Path) -> None:
    handlers: Handlers = client.application.extensions["shelftalk"]
    assert handlers.store is not None
    handlers.close()
    (tmp_path / "store.sqlite").rename(tmp_path / "hidden")
    (tmp_path / "store.sqlite").mkdir()
    for response in (client.post("/events", json=event()), client.delete("/users/ann")):
        assert (response.status_code, response.content_type) == (503, "application/problem+json")
    answer = client.get("/recommend?user=ann&n=3").get_json()
    assert answer["degraded"] is True
    assert "can't be used" in answer["degraded_reason"]
    assert len(answer["items"]) == 3


def test_a_service_without_a_store_says_so() -> None:
    handlers = Handlers(None)
    client = create_app(None, handlers).test_client()
    response = client.post("/events", json=event())
    assert response.status_code == 503
    assert "--store" in response.get_json()["detail"]


def test_a_wrong_store_stops_the_start_and_names_the_forms(tmp_path: Path) -> None:
    from recsys.errors import SettingsError

    with pytest.raises(SettingsError, match="sqlite:///PATH"):
        Handlers.from_bundle(str(tmp_path), "mysql://host/x")


def test_reading_refuses_what_is_no_list() -> None:
    with pytest.raises(RequestError, match="a list of events"):
        read_events(b"true", NOW, StoreSettings())
