"""What the calls mean, without HTTP."""

import logging
from pathlib import Path

import pytest

from recsys.api.handlers import Handlers
from recsys.errors import BundleError, RequestError


def test_without_a_bundle_only_alive_answers() -> None:
    handlers = Handlers(None, "no bundle yet")
    assert handlers.alive() == {"status": "ok"}
    with pytest.raises(BundleError, match="no bundle yet"):
        handlers.ready()
    with pytest.raises(BundleError, match="no bundle yet"):
        handlers.recommend(b"user=u1", "r1")


def test_a_missing_setting_says_how_to_start(caplog: pytest.LogCaptureFixture) -> None:
    handlers = Handlers.from_bundle(None)
    assert "RECSYS_BUNDLE" in handlers.why_not_ready
    assert "RECSYS_BUNDLE" in caplog.text


def test_a_missing_bundle_is_logged_once_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    handlers = Handlers.from_bundle(str(tmp_path / "nowhere"))
    assert handlers.recommender is None
    assert "nowhere" in handlers.why_not_ready
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_a_malformed_request_is_refused_only_once_there_is_something_to_ask() -> None:
    """A service that is not ready says so first: the caller can't mend that by changing the request."""
    with pytest.raises(BundleError):
        Handlers(None, "no bundle yet").recommend(b"n=abc", "r1")


def test_the_models_own_limits_hold(tiny_handlers: Handlers) -> None:
    with pytest.raises(RequestError) as caught:
        tiny_handlers.recommend(b"user=u1&n=1000000000", "r1")
    assert caught.value.parameter == "n"
