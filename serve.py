"""The HTTP edge: routes, one error handler and the access log. What the calls mean is in `recsys.api`.

Run it with `recsys serve --bundle DIR`, or under any WSGI server as `serve:create_app()` with RECSYS_BUNDLE=DIR.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException

from recsys.api.handlers import Handlers
from recsys.api.problems import CONTENT_TYPE, Problem, problem_of
from recsys.api.schemas import json_bytes
from recsys.recommender import Recommender

PROBES = frozenset({"/healthz", "/readyz"})
MAX_BODY_BYTES = 2**20
"""The largest POST taken; a history of some 10,000 items fits."""
logger = logging.getLogger("recsys.access")


def create_app(recommender: Recommender | None = None, handlers: Handlers | None = None) -> Flask:
    """The WSGI application: of `handlers`, of a `recommender` alone, or else of the bundle that RECSYS_BUNDLE names and
    the event store of RECSYS_STORE.
    """
    _log_to_stderr_unless_configured()
    if handlers is None:
        handlers = Handlers(recommender) if recommender else _handlers_from_environment()
    app = Flask("serve", static_folder=None)
    app.extensions["shelftalk"] = handlers
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.before_request(_start)
    app.before_request(handlers.start)  # a server that forks has one follower a worker, not one that it forked from
    app.after_request(_finish)
    app.register_error_handler(Exception, _problem)
    app.url_map.merge_slashes = False  # a user's id may hold any of them
    _add_routes(app, handlers)
    _add_event_routes(app, handlers)
    _add_item_routes(app, handlers)
    return app


def _handlers_from_environment() -> Handlers:
    return Handlers.from_bundle(os.environ.get("RECSYS_BUNDLE"), os.environ.get("RECSYS_STORE"))


def _add_routes(app: Flask, handlers: Handlers) -> None:
    @app.get("/recommend")
    def recommend() -> Response:
        return _json(handlers.recommend(request.query_string, g.request_id))

    @app.post("/recommend")
    def recommend_posted() -> Response:
        answer = handlers.recommend_posted(request.get_data(cache=False), g.request_id)
        g.request_id = answer["request_id"]  # the caller's own, where there is one: it is what they will ask about
        return _json(answer)

    @app.get("/healthz")
    def healthz() -> Response:
        return _json(handlers.alive())

    @app.get("/readyz")
    def readyz() -> Response:
        return _json(handlers.ready())


def _add_event_routes(app: Flask, handlers: Handlers) -> None:
    @app.post("/events")
    def events() -> Response:
        return _json({"request_id": g.request_id} | handlers.take_events(request.get_data(cache=False)))

    @app.delete("/users/<path:user>")
    def forget(user: str) -> Response:
        return _json({"request_id": g.request_id} | handlers.forget(user))


def _add_item_routes(app: Flask, handlers: Handlers) -> None:
    @app.put("/items/<path:item_id>")
    def put_item(item_id: str) -> Response:
        return _json({"request_id": g.request_id} | handlers.put_item(item_id, request.get_data(cache=False)))

    @app.post("/items")
    def put_items() -> Response:
        return _json({"request_id": g.request_id} | handlers.put_items(request.get_data(cache=False)))

    @app.delete("/items/<path:item_id>")
    def delete_item(item_id: str) -> Response:
        return _json({"request_id": g.request_id} | handlers.delete_item(item_id))


def _start() -> None:
    g.request_id = uuid.uuid4().hex
    g.started = time.perf_counter()


def _finish(response: Response) -> Response:
    """No list may be cached: the next click changes it. The log shows the path only, and of one that names a user the
    pattern: who the user is is nobody's business.
    """
    response.headers["Cache-Control"] = "no-store"
    level = logging.DEBUG if request.path in PROBES else logging.INFO
    milliseconds = (time.perf_counter() - g.started) * 1000
    line = "%s %r %d %.1f ms request_id=%r"
    logger.log(level, line, request.method, _logged_path(), response.status_code, milliseconds, g.request_id)
    return response


def _logged_path() -> str:
    rule = request.url_rule
    return rule.rule if rule is not None and rule.arguments else request.path


def _problem(error: Exception) -> Response:
    """Every error's way out: the router knows the status of a wrong path or method, `problem_of` that of all others."""
    if isinstance(error, HTTPException):
        return _routing_problem(error)
    problem = problem_of(error)
    if problem.status == HTTPStatus.INTERNAL_SERVER_ERROR:
        logger.error("%s %r failed request_id=%s", request.method, _logged_path(), g.request_id, exc_info=error)
    return _problem_response(problem)


def _routing_problem(error: HTTPException) -> Response:
    status = error.code or HTTPStatus.INTERNAL_SERVER_ERROR
    response = _problem_response(Problem(status, error.description or error.name))
    allowed = error.get_response().headers.get("Allow")
    if allowed:
        response.headers["Allow"] = allowed
    return response


def _problem_response(problem: Problem) -> Response:
    return Response(json_bytes(problem.document(g.request_id)), problem.status, content_type=CONTENT_TYPE)


def _json(document: Mapping[str, Any]) -> Response:
    return Response(json_bytes(document), mimetype="application/json")


def _log_to_stderr_unless_configured() -> None:
    """Log lines must show under a plain WSGI server, and an embedding program's own logging must stay as it is."""
    root = logging.getLogger("recsys")
    if not root.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
        root.addHandler(handler)
        root.setLevel(logging.INFO)
