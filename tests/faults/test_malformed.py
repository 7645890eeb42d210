"""Ten thousand malformed requests: whatever comes, the answer is never a 500."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode

from handmade import handmade_model
from recsys.api.handlers import Handlers
from recsys.bundle import save_bundle
from serve import create_app

EXAMPLES = 600
"""Of each of some fifteen operations, and of each kind of raw request below."""
FUZZ = settings(
    max_examples=EXAMPLES, deadline=None, database=None, phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck), derandomize=True,
)  # fmt: skip
ALLOWED = frozenset([*range(200, 500), 503])
"""503: the handmade model has no encoder, and says so where an item's text would have to be read."""
PATHS = (
    "/recommend",
    "/similar",
    "/search",
    "/rank",
    "/events",
    "/items",
    "/items/i1",
    "/users/u1",
    "/rules",
    "/nowhere",
)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    root = tmp_path_factory.mktemp("malformed")
    save_bundle(handmade_model(), root / "bundles")
    rules = root / "rules.toml"
    rules.write_text("", encoding="utf-8")
    handlers = Handlers.from_bundle(str(root / "bundles"), str(root / "store.sqlite"), str(rules))
    yield create_app(handlers=handlers)
    handlers.close()


@pytest.fixture(scope="module")
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def _operations(app: Flask) -> list:
    schema = schemathesis.openapi.from_wsgi("/openapi.json", app)
    return [result.ok() for result in schema.get_all_operations()]


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["as described", "against it"])
def test_what_the_description_allows_and_forbids(app: Flask, mode: GenerationMode) -> None:
    operations = _operations(app)
    if mode is GenerationMode.NEGATIVE:  # the others take nothing that could be against their description
        operations = [operation for operation in operations if len(operation.query) or len(operation.body)]
    assert len(operations) > 8
    for operation in operations:

        @FUZZ
        @given(case=operation.as_strategy(generation_mode=mode))
        def holds(case: schemathesis.Case) -> None:
            assert case.call().status_code in ALLOWED

        holds()


@pytest.mark.parametrize("path", PATHS)
def test_any_query_string(client: FlaskClient, path: str) -> None:
    @FUZZ
    @given(query=st.one_of(st.text(max_size=200).map(lambda text: text.encode("utf-8")), st.binary(max_size=200)))
    def holds(query: bytes) -> None:
        raw = {"QUERY_STRING": query.decode("latin-1")}  # as WSGI hands bytes over
        assert client.get(path, environ_overrides=raw).status_code in ALLOWED

    holds()


@pytest.mark.parametrize("method", ["post", "put", "delete"])
@pytest.mark.parametrize("path", PATHS)
def test_any_body(client: FlaskClient, path: str, method: str) -> None:
    json = st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=8), inner),
        max_leaves=12,
    )

    @FUZZ
    @given(body=st.binary(max_size=200) | json)
    def holds(body: object) -> None:
        given_body = {"data": body} if isinstance(body, bytes) else {"json": body}
        assert getattr(client, method)(path, **given_body).status_code in ALLOWED

    holds()


KEYS = ("user", "user_id", "item_id", "n", "history", "recent", "filter", "events", "items", "rules", "title", "price")
