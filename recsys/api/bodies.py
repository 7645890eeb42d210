"""The JSON of a request's body, before it is known what it is to hold."""

from __future__ import annotations

import json
from typing import Any

from recsys.errors import RequestError


def parse_json(body: bytes) -> Any:
    """The value; RequestError where the body is no JSON. Strings may hold what no store can (see
    `recsys.stores.base.storable`), so that their field can be named.
    """
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise RequestError("body", f"the body is not JSON in UTF-8: {str(error)[:200]}") from None


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number in JSON")
