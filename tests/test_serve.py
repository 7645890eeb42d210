"""The HTTP edge: what a storefront meets, through Flask's test client."""

import json
import logging
import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from flask.testing import FlaskClient

from handmade import handmade_model
from recsys.bundle import save_bundle
from recsys.errors import RequestError
from recsys.recommender import Recommender
from recsys.requests import Recommendation, RecommendedItem, Request
from recsys.settings import ServeSettings
from recsys.threads import limit_threads
from serve import MAX_BODY_BYTES, create_app


class FakeRecommender:
    """Answers every request with one item of the asked-for score, or raises."""

    def __init__(self, score: float = 0.5, error: Exception | None = None) -> None:
        self.model = SimpleNamespace(settings=SimpleNamespace(serve=ServeSettings()), bundle_version="v1")
        self.score = score
        self.error = error

    def recommend(self, request: Request) -> Recommendation:
        if self.error:
            raise self.error
        item = RecommendedItem("i1", 1, self.score, f"For {request.user}", ("als",))
        return Recommendation(request.request_id, request.user, "ranked", "", (item,))


def client_of(recommender: FakeRecommender) -> FlaskClient:
    return create_app(cast(Recommender, recommender)).test_client()


@pytest.fixture
def client() -> FlaskClient:
    return client_of(FakeRecommender())


@pytest.fixture
def unready(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FlaskClient:
    monkeypatch.setenv("RECSYS_BUNDLE", str(tmp_path / "nowhere"))
    return create_app().test_client()


def assert_problem(response: Any, status: int) -> dict[str, Any]:
    """Every error is an RFC 9457 document that no cache keeps."""
    assert response.status_code == status
    assert response.content_type == "application/problem+json"
    assert response.headers["Cache-Control"] == "no-store"
    document = json.loads(response.data)
    assert document["status"] == status
    assert document["title"]
    assert document["detail"]
    assert len(document["request_id"]) == 32
    return cast(dict[str, Any], document)


def test_a_list_is_json_that_no_cache_keeps(client: FlaskClient) -> None:
    response = client.get("/recommend?user=u1")
    assert response.status_code == 200
    assert response.content_type == "application/json"
    assert response.headers["Cache-Control"] == "no-store"
    answer = json.loads(response.data)
    request_id = answer.pop("request_id")
    assert len(request_id) == 32
    assert answer == {
        "user": "u1",
        "bundle": "v1",
        "strategy": "ranked",
        "reason": "",
        "unknown_history_items": 0,
        "items": [{"item_id": "i1", "rank": 1, "score": 0.5, "title": "For u1", "sources": ["als"]}],
    }


def test_each_request_has_an_id_of_its_own_that_the_log_has_too(
    client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "recsys.access")
    ids = [client.get("/recommend?user=u1").get_json()["request_id"] for _ in range(2)]
    assert ids[0] != ids[1]
    assert [record.getMessage().rpartition("request_id=")[2].strip("'") for record in caplog.records] == ids


def test_the_log_line_has_latency_but_not_the_user(client: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "recsys.access")
    client.get("/recommend?user=somebody")
    line = caplog.records[0].getMessage()
    assert line.startswith("GET '/recommend' 200 ")
    assert " ms " in line
    assert "somebody" not in line


def test_a_path_cannot_forge_a_log_line(client: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "recsys.access")
    client.get("/x%0AGET%20/recommend%20200")
    assert "\n" not in caplog.records[0].getMessage()


def test_probes_do_not_fill_the_log(client: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "recsys.access")
    client.get("/healthz")
    client.get("/readyz")
    assert not caplog.records


def test_probes_of_a_ready_service(client: FlaskClient) -> None:
    assert client.get("/healthz").get_json() == {"status": "ok"}
    assert client.get("/readyz").get_json() == {"status": "ready", "bundle": "v1"}


def test_without_a_bundle_it_lives_and_says_why_it_is_not_ready(unready: FlaskClient) -> None:
    assert unready.get("/healthz").status_code == 200
    for path in ("/readyz", "/recommend?user=u1"):
        assert "nowhere" in assert_problem(unready.get(path), 503)["detail"]


def test_a_saved_bundle_is_loaded_and_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    version = save_bundle(handmade_model(), tmp_path)
    monkeypatch.setenv("RECSYS_BUNDLE", str(tmp_path))
    monkeypatch.setenv("RECSYS_STORE", "none")
    with limit_threads(1):
        client = create_app().test_client()
    assert client.get("/readyz").get_json() == {"status": "ready", "bundle": version}
    answer = client.get("/recommend", query_string={"user": "Ünï ☃", "n": 3}).get_json()
    assert (answer["user"], answer["bundle"], len(answer["items"])) == ("Ünï ☃", version, 3)


def test_a_damaged_bundle_is_refused_by_the_files_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    version = save_bundle(handmade_model(), tmp_path)
    damaged = tmp_path / version / "items.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    monkeypatch.setenv("RECSYS_BUNDLE", str(tmp_path))
    monkeypatch.setenv("RECSYS_STORE", "none")
    with limit_threads(1):
        client = create_app().test_client()
    for path in ("/readyz", "/recommend?user=ann"):
        assert "items.parquet" in assert_problem(client.get(path), 503)["detail"]
    assert client.get("/healthz").status_code == 200


def test_without_the_variable_it_says_how_to_set_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RECSYS_BUNDLE", raising=False)
    document = assert_problem(create_app().test_client().get("/readyz"), 503)
    assert "RECSYS_BUNDLE" in document["detail"]


@pytest.mark.parametrize("query", ["user=a%00b", "user=%ff", "user=" + "x" * 10_240, "user=", "n=5", "user=u1&n=abc"])
def test_a_malformed_request_is_400_with_the_parameters_name(client: FlaskClient, query: str) -> None:
    document = assert_problem(client.get(f"/recommend?{query}"), 400)
    assert document["parameter"] == ("n" if "abc" in query else "user")


def test_what_the_recommender_refuses_is_400_too() -> None:
    error = RequestError("filter", "unknown column 'colour'; allowed are brand, category")
    document = assert_problem(client_of(FakeRecommender(error=error)).get("/recommend?user=u1"), 400)
    assert (document["parameter"], document["detail"]) == ("filter", str(error))


def test_an_unexpected_error_is_500_without_internals_and_logged_with_them(caplog: pytest.LogCaptureFixture) -> None:
    client = client_of(FakeRecommender(error=ZeroDivisionError("internal secret")))
    response = client.get("/recommend?user=u1")
    document = assert_problem(response, 500)
    assert "secret" not in response.text
    failure = next(record for record in caplog.records if record.levelno == logging.ERROR)
    assert document["request_id"] in failure.getMessage()
    assert "ZeroDivisionError: internal secret" in caplog.text


def test_a_score_that_json_lacks_is_an_error_not_broken_json() -> None:
    assert_problem(client_of(FakeRecommender(score=math.nan)).get("/recommend?user=u1"), 500)


@pytest.mark.parametrize("path", ["/", "/recommend/", "/nothing", "/static/x", "/../etc/passwd"])
def test_an_unknown_path_is_a_404_problem(client: FlaskClient, path: str) -> None:
    assert_problem(client.get(path), 404)


def test_a_wrong_method_is_a_405_problem_that_names_the_right_ones(client: FlaskClient) -> None:
    response = client.delete("/recommend?user=u1")
    assert_problem(response, 405)
    assert "GET" in response.headers["Allow"]


def test_a_post_takes_the_batch_object_and_keeps_its_id(client: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "recsys.access")
    answer = client.post("/recommend", json={"request_id": "7", "user": "u1", "history": ["i3"], "n": 5}).get_json()
    assert (answer["request_id"], answer["user"]) == ("7", "u1")
    assert caplog.records[0].getMessage().endswith("request_id='7'")


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        (b"", "body"),
        (b"[]", "body"),
        (b"\xff", "body"),
        (b"[" * 100_000, "body"),
        (b'{"user": 5}', "user"),
        (b'{"user": "u1", "n": 1000000000}', "n"),
        (b'{"user": "u1", "limit": 5}', "limit"),
        (b'{"user": "u1", "at": NaN}', "at"),
    ],
)
def test_a_malformed_body_is_400_with_the_keys_name(client: FlaskClient, body: bytes, parameter: str) -> None:
    assert assert_problem(client.post("/recommend", data=body), 400)["parameter"] == parameter


def test_a_body_beyond_all_measure_is_refused(client: FlaskClient) -> None:
    assert_problem(client.post("/recommend", data=b" " * (MAX_BODY_BYTES + 1)), 413)


def test_head_answers_like_get_without_a_body(client: FlaskClient) -> None:
    response = client.head("/recommend?user=u1")
    assert (response.status_code, response.data) == (200, b"")


def test_threads_do_not_mix_answers_up(client: FlaskClient) -> None:
    app = client.application

    def ask(number: int) -> str:
        return cast(str, app.test_client().get(f"/recommend?user=u{number}").get_json()["items"][0]["title"])

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(200))) == [f"For u{number}" for number in range(200)]


def test_log_lines_show_under_a_plain_wsgi_server() -> None:
    """Nobody has configured logging there, and Python would drop INFO lines silently."""
    program = "import serve; serve.create_app().test_client().get('/recommend')"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={}, cwd=Path(__file__).parents[1])
    assert "GET '/recommend' 503" in done.stderr
    assert done.stderr.count("not ready") == 1
