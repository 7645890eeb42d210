"""Errors -> RFC 9457 documents."""

import pytest

from recsys.api.problems import Problem, problem_of
from recsys.errors import BundleError, DataError, RequestError


def test_a_request_error_is_the_callers_and_names_the_parameter() -> None:
    assert problem_of(RequestError("n", "n is too large")) == Problem(400, "n is too large", "n")


def test_a_bundle_error_is_the_services_and_says_why() -> None:
    assert problem_of(BundleError("items.parquet is damaged")) == Problem(503, "items.parquet is damaged")


@pytest.mark.parametrize("error", [RuntimeError("secret"), DataError("secret"), KeyError("secret")])
def test_any_other_error_keeps_its_internals_to_itself(error: Exception) -> None:
    problem = problem_of(error)
    assert problem.status == 500
    assert "secret" not in problem.detail


def test_the_document_has_the_members_of_the_standard() -> None:
    assert Problem(400, "n is too large", "n").document("r1") == {
        "type": "about:blank",
        "title": "Bad Request",
        "status": 400,
        "detail": "n is too large",
        "request_id": "r1",
        "parameter": "n",
    }


def test_a_problem_without_a_parameter_does_not_invent_one() -> None:
    assert "parameter" not in Problem(503, "no bundle").document("r1")
