"""Items as they come over HTTP: JSON documents by id."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from features.tables import ITEM_ID
from recsys.api.bodies import parse_json
from recsys.errors import RequestError
from recsys.item_documents import Document
from recsys.stores.base import MAX_ID_BYTES, storable

MAX_ITEMS = 100
"""Items that one POST may hold: each has a text to be read, some 20 ms."""
ITEMS = "items"


def check_item_id(item_id: Any, parameter: str = ITEM_ID) -> str:
    """The id; RequestError where it is none."""
    if not isinstance(item_id, str) or not item_id.strip() or "\ufffd" in item_id or not storable(item_id):
        raise RequestError(parameter, f"{parameter} must be a string that is not blank, in UTF-8 and without NUL")
    if len(item_id.encode()) > MAX_ID_BYTES:
        raise RequestError(parameter, f"{parameter} must have at most {MAX_ID_BYTES} bytes in UTF-8")
    return item_id


def read_item(body: bytes) -> Document:
    """One item's document; RequestError where the body is no JSON object."""
    return _object(parse_json(body), "body")


def read_items(body: bytes) -> tuple[dict[str, Document], dict[str, str]]:
    """Documents by id from `{"items": [...]}`, each with its `item_id`, and where each stands (`items[3].`)."""
    given = _object(parse_json(body), "body")
    unknown = [name for name in given if name != ITEMS]
    rows = given.get(ITEMS)
    if unknown or not isinstance(rows, list) or not 1 <= len(rows) <= MAX_ITEMS:
        raise RequestError(ITEMS, f'the body must be {{"items": [...]}} with 1 to {MAX_ITEMS} items')
    documents: dict[str, Document] = {}
    names: dict[str, str] = {}
    for place, row in enumerate(rows):
        where = f"{ITEMS}[{place}]"
        document = _object(row, where)
        item_id = check_item_id(document.get(ITEM_ID), f"{where}.{ITEM_ID}")
        if item_id in documents:
            raise RequestError(f"{where}.{ITEM_ID}", f"item {item_id[:80]!r} is given twice; give it once")
        documents[item_id], names[item_id] = document, f"{where}."
    return documents, names


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise RequestError(where, f'{where} must be a JSON object, such as {{"title": "Dune", "price": 12.5}}')
    return value
