"""What the calls mean, without HTTP."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from handmade import handmade_model
from recsys.api.handlers import Handlers
from recsys.errors import BundleError, RequestError
from recsys.recommender import Recommender


def test_without_a_bundle_only_alive_answers() -> None:
    handlers = Handlers(None, "no bundle yet")
    assert handlers.alive() == {"status": "ok"}
    with pytest.raises(BundleError, match="no bundle yet"):
        handlers.ready()
    with pytest.raises(BundleError, match="no bundle yet"):
        handlers.recommend(b"user=u1", "r1")


def test_a_missing_setting_says_how_to_start(caplog: pytest.LogCaptureFixture) -> None:
    handlers = Handlers.from_bundle(None)
    assert handlers.serving is not None
    assert "RECSYS_BUNDLE" in handlers.serving.refused
    assert "RECSYS_BUNDLE" in caplog.text


def test_a_missing_bundle_is_logged_once_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    handlers = Handlers.from_bundle(str(tmp_path / "nowhere"))
    assert handlers.serving is not None
    assert "nowhere" in handlers.serving.refused
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_a_malformed_request_is_refused_only_once_there_is_something_to_ask() -> None:
    """A service that is not ready says so first: the caller can't mend that by changing the request."""
    with pytest.raises(BundleError):
        Handlers(None, "no bundle yet").recommend(b"n=abc", "r1")


@pytest.fixture(scope="module")
def handlers() -> Handlers:
    """Over a model whose popularity ranks its items i00, i01, ... (see `handmade_model`)."""
    return Handlers(Recommender(handmade_model()))


@pytest.mark.parametrize("n", ["0", "-1", "501", "1000000000"])
def test_a_length_beyond_the_models_limits_is_refused(handlers: Handlers, n: str) -> None:
    with pytest.raises(RequestError) as caught:
        handlers.recommend(f"user=ann&n={n}".encode(), "r1")
    assert caught.value.parameter == "n"


def test_the_history_is_not_recommended_unless_asked_for(handlers: Handlers) -> None:
    seen = {"i00", "i01", "i02"}
    assert not seen & set(ids(handlers.recommend(b"user=ann&n=12", "r1")))
    assert seen <= set(ids(handlers.recommend(b"user=ann&n=12&exclude_seen=false", "r1")))


def test_what_is_recent_or_excluded_is_not_recommended(handlers: Handlers) -> None:
    answer = handlers.recommend(b"user=bob&n=12&recent=i02,nowhere&exclude=i03,nowhere", "r1")
    assert not {"i00", "i01", "i02", "i03"} & set(ids(answer))
    assert len(ids(answer)) == 8
    assert answer["unknown_history_items"] == 1


def test_filters_of_one_column_are_alternatives_and_columns_must_all_match(handlers: Handlers) -> None:
    """Odd numbers are Books, the others but 0 Games; multiples of three are blue, the others red."""
    assert ids(handlers.recommend(b"recent=&n=12&filter=category:Books&filter=colour:blue", "r1")) == ["i03", "i09"]
    both = ids(handlers.recommend(b"recent=&n=12&filter=category:Books&filter=category:Games", "r1"))
    assert both == [f"i{k:02d}" for k in range(1, 12)]


def test_a_filter_that_nothing_matches_gives_an_empty_list(handlers: Handlers) -> None:
    for query in (b"recent=&filter=colour:green", b"user=ann&filter=colour:green"):
        assert handlers.recommend(query, "r1")["items"] == []


def test_a_filter_column_that_does_not_exist_is_told_the_ones_that_do(handlers: Handlers) -> None:
    with pytest.raises(RequestError, match="colour") as caught:
        handlers.recommend(b"user=ann&filter=size:XL", "r1")
    assert caught.value.parameter == "filter"


def test_a_user_never_seen_gets_a_list_and_the_reason(handlers: Handlers) -> None:
    answer = handlers.recommend(b"user=nobody&n=3", "r1")
    assert ids(answer) == ["i00", "i01", "i02"]
    assert answer["strategy"] == "popular"
    assert "nobody" in answer["reason"]


def test_get_and_post_answer_alike(handlers: Handlers) -> None:
    body = {"user": "ann", "n": 5, "recent": ["i05"], "exclude": ["i06"], "filter": {"category": "Books"}}
    posted = handlers.recommend_posted(json.dumps(body).encode(), "r1")
    assert posted == handlers.recommend(b"user=ann&n=5&recent=i05&exclude=i06&filter=category:Books", "r1")


def ids(answer: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in answer["items"]]
