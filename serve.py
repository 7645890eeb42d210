"""The HTTP edge: routes, one error handler and the access log. What the calls mean is in `recsys.api`.

Run it with `recsys serve --bundle DIR`, or under any WSGI server as `serve:create_app()` with RECSYS_BUNDLE=DIR.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, abort, g, request, send_from_directory
from pydantic import BaseModel
from spectree import Response as Answers
from spectree import SpecTree
from werkzeug.exceptions import HTTPException

from recsys.api import answers, docs_page, queries
from recsys.api.handlers import Handlers
from recsys.api.problems import CONTENT_TYPE, Problem, problem_of
from recsys.api.schemas import json_bytes
from recsys.manifest import product_version
from recsys.monitoring import CONTENT_TYPE as METRICS_CONTENT_TYPE
from recsys.recommender import Recommender
from recsys.rules import Rules
from recsys.schemas import RankBody, RequestBody

PROBES = frozenset({"/healthz", "/readyz", "/metrics"})
UNMATCHED = "unmatched"
"""The route of requests that have none, in the figures: a path is the caller's to invent."""
MAX_BODY_BYTES = 2**20
"""The largest POST taken; a history of some 10,000 items fits."""
logger = logging.getLogger("recsys.access")


def create_app(recommender: Recommender | None = None, handlers: Handlers | None = None) -> Flask:
    """The WSGI application: of `handlers`, of a `recommender` alone, or else of the bundle that RECSYS_BUNDLE names and
    the event store of RECSYS_STORE.
    """
    _log_to_stderr_unless_configured()
    if handlers is None:
        handlers = Handlers(recommender) if recommender else _handlers_from(os.environ)
    app = Flask("serve", static_folder=None)
    app.extensions["shelftalk"] = handlers
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.before_request(_start)
    app.before_request(handlers.start)  # a server that forks has one follower a worker, not one that it forked from
    app.after_request(_finish)
    app.after_request(_observer(handlers))
    app.register_error_handler(Exception, _problem)
    app.url_map.merge_slashes = False  # a user's id may hold any of them
    _add_routes(app, handlers)
    return app


def _handlers_from(environment: Mapping[str, str]) -> Handlers:
    names = ("RECSYS_BUNDLE", "RECSYS_STORE", "RECSYS_RULES", "RECSYS_EXPERIMENT")
    return Handlers.from_bundle(*(environment.get(name) for name in names))


def _add_routes(app: Flask, handlers: Handlers) -> None:
    spec = SpecTree(
        "flask",
        title="Shelftalk",
        naming_strategy=lambda model: model.__name__,
        nested_naming_strategy=lambda _, child: child,
        version=product_version(),
        mode="strict",
        annotations=False,
        validation_error_status=HTTPStatus.BAD_REQUEST,
        validation_error_model=answers.ProblemDocument,
    )
    spec.app = app
    _add_lists(app, spec, handlers)
    _add_events(app, spec, handlers)
    _add_items(app, spec, handlers)
    _add_rules(app, spec, handlers)
    _add_service(app, spec, handlers)
    _add_documentation(app, spec)


def _add_lists(app: Flask, spec: SpecTree, handlers: Handlers) -> None:
    """The decorators only describe the calls: the handlers check requests by the very models that are named here."""

    @app.get("/recommend")
    @spec.validate(
        query=queries.RecommendQuery, resp=_answers(answers.ListAnswer), tags=["lists"], skip_validation=True
    )
    def recommend() -> Response:
        """The list for a user or a guest."""
        return _json(handlers.recommend(request.query_string, g.request_id))

    @app.post("/recommend")
    @spec.validate(json=RequestBody, resp=_answers(answers.ListAnswer), tags=["lists"], skip_validation=True)
    def recommend_posted() -> Response:
        """The same, for an object like a line of a batch file."""
        return _posted(handlers.recommend_posted(request.get_data(cache=False), g.request_id))

    @app.get("/similar")
    @spec.validate(
        query=queries.SimilarQuery, resp=_answers(answers.SimilarAnswer), tags=["lists"], skip_validation=True
    )
    def similar() -> Response:
        """Items like an item, by text and behaviour, one of each product."""
        return _json(handlers.similar(request.query_string, g.request_id))

    @app.get("/search")
    @spec.validate(query=queries.SearchQuery, resp=_answers(answers.SearchAnswer), tags=["lists"], skip_validation=True)
    def search() -> Response:
        """Free text over the catalogue."""
        return _json(handlers.search(request.query_string, g.request_id))

    @app.post("/rank")
    @spec.validate(json=RankBody, resp=_answers(answers.RankAnswer), tags=["lists"], skip_validation=True)
    def rank() -> Response:
        """The caller's own candidates, best first."""
        return _posted(handlers.rank(request.get_data(cache=False), g.request_id))


def _add_rules(app: Flask, spec: SpecTree, handlers: Handlers) -> None:
    @app.get("/rules")
    @spec.validate(resp=_answers(answers.RulesAnswer), tags=["rules"], skip_validation=True)
    def rules() -> Response:
        """The rules in force, and the problems of the file as it is now."""
        return _json(handlers.rules())

    @app.put("/rules")
    @spec.validate(json=Rules, resp=_answers(answers.RulesAnswer), tags=["rules"], skip_validation=True)
    def put_rules() -> Response:
        """Replace all rules."""
        return _json(handlers.put_rules(request.get_data(cache=False)))


def _add_service(app: Flask, spec: SpecTree, handlers: Handlers) -> None:
    @app.get("/healthz")
    @spec.validate(resp=Answers(HTTP_200=answers.Alive), tags=["service"], skip_validation=True)
    def healthz() -> Response:
        """The process lives."""
        return _json(handlers.alive())

    @app.get("/readyz")
    @spec.validate(resp=_answers(answers.Ready), tags=["service"], skip_validation=True)
    def readyz() -> Response:
        """A verified model is loaded."""
        return _json(handlers.ready())

    @app.get("/metrics")
    @spec.validate(tags=["service"], skip_validation=True)
    def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(handlers.metrics_text(), content_type=METRICS_CONTENT_TYPE)


def _answers(model: type[BaseModel]) -> Answers:
    """What a call answers when all is well, and the problems that it may have."""
    problem = answers.ProblemDocument
    return Answers(HTTP_200=model, HTTP_400=problem, HTTP_500=problem, HTTP_503=problem)


def _add_documentation(app: Flask, spec: SpecTree) -> None:
    """`/openapi.json`, made of the routes' models, and `/docs`, which shows it without any other machine's help."""

    @app.get("/openapi.json")
    def openapi() -> Response:
        return _json(spec.spec)

    @app.get("/docs")
    def docs() -> Response:
        return Response(docs_page.HTML, mimetype="text/html")

    @app.get("/docs/<name>")
    def docs_asset(name: str) -> Response:
        folder = docs_page.ASSETS.get(name)
        if folder is None:
            abort(HTTPStatus.NOT_FOUND)
        return send_from_directory(docs_page.folder() / folder, name)


def _add_events(app: Flask, spec: SpecTree, handlers: Handlers) -> None:
    @app.post("/events")
    @spec.validate(json=answers.EventsBody, resp=_answers(answers.EventsAnswer), tags=["events"], skip_validation=True)
    def events() -> Response:
        """Store events; they count in the next list."""
        return _json({"request_id": g.request_id} | handlers.take_events(request.get_data(cache=False)))

    @app.delete("/users/<path:user>")
    @spec.validate(resp=_answers(answers.ForgottenAnswer), tags=["events"], skip_validation=True)
    def forget(user: str) -> Response:
        """Forget a user."""
        return _json({"request_id": g.request_id} | handlers.forget(user))


def _add_items(app: Flask, spec: SpecTree, handlers: Handlers) -> None:
    @app.put("/items/<path:item_id>")
    @spec.validate(json=answers.ItemBody, resp=_answers(answers.ItemAnswer), tags=["items"], skip_validation=True)
    def put_item(item_id: str) -> Response:
        """Add or change an item; it is in the next answer."""
        return _json({"request_id": g.request_id} | handlers.put_item(item_id, request.get_data(cache=False)))

    @app.post("/items")
    @spec.validate(json=answers.ItemsBody, resp=_answers(answers.ItemsAnswer), tags=["items"], skip_validation=True)
    def put_items() -> Response:
        """Add or change some items: all of them or, where one can't be used, none."""
        return _json({"request_id": g.request_id} | handlers.put_items(request.get_data(cache=False)))

    @app.delete("/items/<path:item_id>")
    @spec.validate(resp=_answers(answers.DeletedAnswer), tags=["items"], skip_validation=True)
    def delete_item(item_id: str) -> Response:
        """Take an item out of all answers."""
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


def _observer(handlers: Handlers) -> Callable[[Response], Response]:
    def observe(response: Response) -> Response:
        route = request.url_rule.rule if request.url_rule else UNMATCHED
        handlers.metrics.request(
            request.method if request.url_rule else UNMATCHED,
            route,
            response.status_code,
            time.perf_counter() - g.started,
        )
        return response

    return observe


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


def _posted(answer: Mapping[str, Any]) -> Response:
    """The answer to a body, which may have named the request: it is what the caller will ask about."""
    g.request_id = answer["request_id"]
    return _json(answer)


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
