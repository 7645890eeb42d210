"""docs/http.md says nothing that is not so: its calls are answered, and its files are read."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from handmade import handmade_model
from recsys.bundle import save_bundle
from recsys.experiments import load_experiment
from recsys.recommender import Recommender
from recsys.rules import rules_from_toml
from recsys.threads import limit_threads
from serve import create_app

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "http.md").read_text(encoding="utf-8")
CALLS = [line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]
FILES = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> FlaskClient:
    folder = tmp_path_factory.mktemp("http")
    save_bundle(handmade_model(), folder / "bundles")
    with limit_threads(1), pytest.MonkeyPatch.context() as patched:
        patched.setenv("RECSYS_BUNDLE", str(folder / "bundles"))
        patched.setenv("RECSYS_RULES", str(folder / "rules.toml"))
        return create_app().test_client()


@pytest.mark.parametrize("call", CALLS)
def test_every_call_is_answered(client: FlaskClient, call: str) -> None:
    words = shlex.split(call)
    assert words.pop(0) == "curl"
    body = words[words.index("-d") + 1] if "-d" in words else None
    method = words[words.index("-X") + 1] if "-X" in words else ("GET" if body is None else "POST")
    url = next(word for word in words if word.startswith("http"))
    response = client.open(url, method=method, data=body)
    assert response.status_code == 200, response.text


def test_the_rules_are_rules_that_the_shop_can_follow() -> None:
    rules = rules_from_toml(FILES[0], "docs/http.md")
    assert [rule.action for rule in rules.rules] == ["pin", "boost", "exclude", "cap"]
    assert Recommender(handmade_model()).problems_of(rules) == []


def test_the_experiment_is_one(tmp_path: Path) -> None:
    (tmp_path / "experiment.toml").write_text(FILES[1], encoding="utf-8")
    assert [variant.name for variant in load_experiment(tmp_path / "experiment.toml").variants] == [
        "control",
        "diverse",
    ]


@pytest.mark.parametrize("path", ["/recommend", "/similar", "/search", "/rank", "/rules", "/metrics", "/docs"])
def test_every_call_is_spoken_of(path: str) -> None:
    assert f"`{path}`" in TEXT or f"{path}`" in TEXT
