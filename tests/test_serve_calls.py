"""The other calls over HTTP: similar, search, rank, rules, variants, figures and the documentation."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from handmade import handmade_model
from recsys.api import answers, queries
from recsys.bundle import save_bundle
from recsys.errors import RequestError
from recsys.experiments import load_experiment
from recsys.recommender import Recommender
from recsys.rules import rules_from_json
from recsys.schemas import RankBody, RequestBody
from recsys.threads import limit_threads
from serve import create_app

RULE = {"name": "sale", "action": "pin", "items": ["i09"], "position": 1}


@pytest.fixture(scope="module")
def client() -> FlaskClient:
    return create_app(Recommender(handmade_model())).test_client()


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("RECSYS_BUNDLE", str(tmp_path / "bundles"))
    return save_bundle(handmade_model(), tmp_path / "bundles")


def started() -> FlaskClient:
    with limit_threads(1):
        return create_app().test_client()


def ids(answer: Any) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


def problem(response: Any, parameter: str) -> str:
    document = answers.ProblemDocument.model_validate_json(response.data)
    assert (response.status_code, document.status, document.parameter) == (400, 400, parameter)
    return document.detail


def test_a_list_can_be_filtered_shaped_and_explored(client: FlaskClient) -> None:
    query = {"recent": "i01", "filter": "category:Games AND price<=8", "diversity": "0.5", "exploration": "softmax:0.5"}
    answer = answers.ListAnswer.model_validate_json(client.get("/recommend", query_string=query).data)
    assert {item.item_id for item in answer.items} == {"i02", "i04", "i06", "i08"}
    chances = [item.propensity for item in answer.items]
    assert all(chance is not None and 0 < chance <= 1 for chance in chances)


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("filter=size:XL", "filter"),
        ("filter=price<cheap", "filter"),
        ("filter=price<", "filter"),
        ("filter=(a:b", "filter"),
        ("diversity=2", "diversity"),
        ("diversity=much", "diversity"),
        ("diversity=nan", "diversity"),
        ("diversity=0.1&diversity=0.1", "diversity"),
        ("cap=category", "cap"),
        ("cap=size:2", "cap"),
        ("cap=price:2", "cap"),
        ("exploration=boldly", "exploration"),
        ("exploration=epsilon:7", "exploration"),
    ],
)
def test_a_wish_that_can_not_be_met_is_400_with_its_name(client: FlaskClient, query: str, parameter: str) -> None:
    problem(client.get(f"/recommend?user=ann&{query}"), parameter)


@pytest.mark.parametrize(
    "body",
    [
        {"filter": "price>=3 AND category:Books"},
        {"filter": ["price>=3", "category:Books"]},
        {"filter": ["price>=3", "category:Books OR brand:nobody"]},
    ],
)
def test_a_body_takes_expressions_too(client: FlaskClient, body: dict[str, Any]) -> None:
    answer = client.post("/recommend", json={"history": [], "n": 12} | body).get_json()
    assert sorted(ids(answer)) == ["i03", "i05", "i07", "i09", "i11"]


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        ({"filter": "price<x"}, "filter"),
        ({"filter": ["("]}, "filter"),
        ({"diversity": 2}, "diversity"),
        ({"cap": ["category"]}, "cap"),
        ({"cap": "category:2"}, "cap"),
        ({"exploration": "x"}, "exploration"),
    ],
)
def test_a_body_that_can_not_be_met_is_400_with_the_key(client: FlaskClient, body: Any, parameter: str) -> None:
    problem(client.post("/recommend", json={"user": "ann"} | body), parameter)


def test_similar_items(client: FlaskClient) -> None:
    response = client.get("/similar?item=i03&n=4&filter=category:Books&user=ann")
    answer = answers.SimilarAnswer.model_validate_json(response.data)
    assert (answer.item, answer.user, len(answer.items)) == ("i03", "ann", 4)
    assert {item.item_id for item in answer.items} <= {"i01", "i05", "i07", "i09", "i11"}
    assert "'nowhere'" in problem(client.get("/similar?item=nowhere"), "item")
    problem(client.get("/similar?n=3"), "item")
    problem(client.get("/similar?item="), "item")
    problem(client.get("/similar?item=i03&diversity=1"), "diversity")


def test_search(client: FlaskClient) -> None:
    answer = answers.SearchAnswer.model_validate_json(client.get("/search?q=titel+7&user=ann&n=3").data)
    assert (answer.query, answer.items[0].title) == ("titel 7", "Title 7")
    assert ids(client.get("/search?q=nothing%20of%20this").get_json()) == []
    problem(client.get("/search?q="), "q")
    problem(client.get("/search?user=ann"), "q")
    problem(client.get("/search?q=" + "x" * 2000), "q")
    problem(client.get("/search?q=x&filter=size:1"), "filter")


def test_rank_orders_the_callers_candidates_and_names_what_it_can_not_show(client: FlaskClient) -> None:
    body = {
        "user": "bob",
        "items": ["i07", "gone", "i00", "i05", "i07"],
        "filter": "item_id!=i05",
        "request_id": "mine",
    }
    answer = answers.RankAnswer.model_validate_json(client.post("/rank", json=body).data)
    assert sorted(item.item_id for item in answer.items) == ["i00", "i07"], "what was seen may be ranked"
    assert (answer.unknown_items, answer.left_out, answer.request_id) == (["gone"], ["i05"], "mine")
    problem(client.post("/rank", json={"user": "bob"}), "items")
    problem(client.post("/rank", json={"items": []}), "items")
    problem(client.post("/rank", json={"items": [str(k) for k in range(501)]}), "items")


def test_ranking_everything_is_the_whole_list(client: FlaskClient) -> None:
    everything = [f"i{k:02d}" for k in range(12)]
    ranked = client.post("/rank", json={"user": "bob", "items": everything}).get_json()
    listed = client.get("/recommend?user=bob&n=12&exclude_seen=false").get_json()
    assert ids(ranked) == ids(listed)


def test_without_a_rules_file_it_says_how_to_have_one(client: FlaskClient) -> None:
    assert "--rules" in problem(client.get("/rules"), "rules")
    assert "--rules" in problem(client.put("/rules", json={"rules": []}), "rules")


def test_rules_are_put_kept_and_obeyed(bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "rules.toml"
    monkeypatch.setenv("RECSYS_RULES", str(file))
    client = started()
    assert client.get("/rules").get_json() == {"rules": []}
    assert ids(client.get("/recommend?user=bob").get_json())[0] != "i09"
    assert client.put("/rules", json={"rules": [RULE]}).get_json() == {"rules": [RULE]}
    assert ids(client.get("/recommend?user=bob").get_json())[0] == "i09"
    assert client.put("/rules", data=client.get("/rules").data).status_code == 200
    again = started()
    assert again.get("/rules").get_json() == {"rules": [RULE]}
    for bad in ([RULE | {"position": 0}], [{"name": "x", "action": "exclude", "filter": "size:XL"}], [RULE, RULE], "x"):
        problem(client.put("/rules", json={"rules": bad}), "rules")
    assert ids(client.get("/recommend?user=bob").get_json())[0] == "i09", "what is refused changes nothing"


def test_a_rule_that_the_catalogue_can_not_follow_is_left_out_and_told(
    bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "rules.toml"
    file.write_text('[[rules]]\nname = "sizes"\naction = "exclude"\nfilter = "size:XL"\n', encoding="utf-8")
    monkeypatch.setenv("RECSYS_RULES", str(file))
    client = started()
    assert client.get("/recommend?user=bob").status_code == 200
    assert "unknown column 'size'" in client.get("/rules").get_json()["problems"][0]


def test_variants_serve_their_users_and_are_named(bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    second = save_bundle(handmade_model(), tmp_path / "bundles", promote=False)
    (tmp_path / "pin.toml").write_text('[[rules]]\nname="p"\naction="pin"\nitems=["i09"]\nposition=1\n', "utf-8")
    file = tmp_path / "experiment.toml"
    file.write_text(
        'name = "e"\n[[variants]]\nname = "control"\nshare = 0.5\n[[variants]]\nname = "pinned"\nshare = 0.5\n'
        f'bundle = "{second}"\nrules = "pin.toml"\nserve = {{ diversity = 0.2 }}\n',
        encoding="utf-8",
    )
    monkeypatch.setenv("RECSYS_EXPERIMENT", str(file))
    client = started()
    experiment = load_experiment(file)
    seen = set()
    for number in range(40):
        user = f"u{number}"
        answer = client.get(f"/recommend?user={user}").get_json()
        expected = experiment.assign(user).name
        assert answer["variant"] == expected
        assert answer["bundle"] == (second if expected == "pinned" else bundle)
        assert (ids(answer)[0] == "i09") == (expected == "pinned")
        assert client.get(f"/similar?item=i01&user={user}").get_json()["variant"] == expected
        seen.add(expected)
    assert seen == {"control", "pinned"}
    assert client.get("/recommend?recent=").get_json()["variant"] == "control"
    assert client.get("/readyz").get_json()["bundle"] == bundle
    figures = client.get("/metrics").text
    assert f'recsys_bundle_info{{bundle="{second}",variant="pinned"}} 1.0' in figures


def test_figures_count_routes_and_stages(bundle: str) -> None:
    client = started()
    for path in ("/recommend?user=ann", "/recommend?user=bob", "/nowhere/at/all", "/recommend"):
        client.get(path)
    text = client.get("/metrics").text
    assert 'recsys_requests_total{method="GET",route="/recommend",status="200"} 2.0' in text
    assert 'recsys_requests_total{method="GET",route="/recommend",status="400"} 1.0' in text
    assert 'route="unmatched",status="404"} 1.0' in text
    assert "nowhere" not in text
    for stage in ("history", "candidates", "features", "ranker", "shaping"):
        assert re.search(rf'recsys_stage_seconds_count{{stage="{stage}"}} [1-9]', text)


def test_the_description_is_made_of_the_models_that_check(client: FlaskClient) -> None:
    spec = client.get("/openapi.json").get_json()
    assert spec["openapi"].startswith("3.")
    for path, model in (
        ("/recommend", queries.RecommendQuery),
        ("/similar", queries.SimilarQuery),
        ("/search", queries.SearchQuery),
    ):
        described = [parameter["name"] for parameter in spec["paths"][path]["get"]["parameters"]]
        assert described == list(model.model_fields)
    schemas = spec["components"]["schemas"]
    for body in (RequestBody, RankBody):
        assert list(schemas[body.__name__]["properties"]) == list(body.model_fields)
    methods = {(path, method) for path, calls in spec["paths"].items() for method in calls}
    rules = client.application.url_map.iter_rules()
    served = {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in rules
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if not rule.rule.startswith(("/docs", "/openapi"))
    }
    assert methods == served, "every call is described, and no other"
    assert "#/components/schemas/" in json.dumps(spec)
    for reference in re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(spec)):
        assert reference in schemas


def test_the_documentation_needs_no_other_machine(client: FlaskClient) -> None:
    page = client.get("/docs")
    assert page.status_code == 200
    assert "//" not in re.sub(r"<!--.*?-->", "", page.text).replace("</", "")
    for name in re.findall(r'(?:href|src)="(docs/[^"]+)"', page.text):
        with client.get(f"/{name}") as asset:
            assert (asset.status_code, len(asset.data) > 10_000) == (200, True)
    assert client.get("/docs/../../etc/passwd").status_code == 404


NASTY = st.text(max_size=30) | st.sampled_from(
    ["ann", "i03", "price<5", "a:b OR (", "category:2/3", "softmax:1", "1e9", "-0"]
)
NAMES = st.sampled_from(
    ["user", "n", "recent", "exclude", "filter", "item", "q", "diversity", "cap", "exploration", "exclude_seen", "x"]
)


@given(st.sampled_from(["/recommend", "/similar", "/search"]), st.lists(st.tuples(NAMES, NASTY), max_size=5))
@hypothesis_settings(max_examples=300)
def test_no_query_is_the_services_fault(client: FlaskClient, path: str, pairs: list[tuple[str, str]]) -> None:
    assert client.get(f"{path}?{urlencode(pairs, errors='surrogatepass')}").status_code in (200, 400)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 600) | st.floats() | NASTY,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NASTY, inner, max_size=2),
    max_leaves=6,
)
KEYS = st.sampled_from(
    ["user", "n", "items", "filter", "cap", "diversity", "exploration", "history", "at", "rules", "recent"]
)


@given(st.sampled_from(["/recommend", "/rank"]), st.dictionaries(KEYS, VALUES, max_size=5))
@hypothesis_settings(max_examples=300)
def test_no_body_is_the_services_fault(client: FlaskClient, path: str, body: dict[str, Any]) -> None:
    assert client.post(path, data=json.dumps(body)).status_code in (200, 400)


@given(VALUES)
@hypothesis_settings(max_examples=100)
def test_no_rules_are_the_services_fault(value: Any) -> None:
    for body in (value, {"rules": value}, {"rules": [{"name": "r", "action": "exclude", "filter": value}]}):
        with suppress(RequestError):
            rules_from_json(json.dumps(body).encode())
