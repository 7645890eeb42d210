"""A scaled bundle can be served with a store: what the catalogue says and what the components hold agree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import world
from features.numpy_encoder import load_numpy_encoder
from features.tables import Dataset
from recsys.bundle import load_bundle, save_bundle
from recsys.live_items import ItemChange, ItemEditor
from recsys.model import FittedModel
from recsys.recommender import Recommender
from recsys.requests import Request
from recsys.search import Search
from recsys.settings import settings_from
from recsys.similar import Similar
from scaled_bundle import scaled, trained
from tiny_bert import write_tiny_bert

COPIES = 3
RARE = "space-04"
"""Has a category and a brand that no other item has."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny world with text and a rare item, three times as large."""
    from recsys.training import train

    folder = tmp_path_factory.mktemp("scaled")
    rows = world.item_rows()
    for row in rows:
        if row["item_id"] == RARE:
            row |= {"brand": "own press", "category": "space | comet"}
    world.write_table(folder / "data" / "items.csv", rows)
    world.write_table(folder / "data" / "events.csv", world.event_rows())
    encoder = write_tiny_bert(folder / "encoder", ["rocket", "space", "garden", "book"])
    text = {"model": str(encoder), "cache": "off", "max_tokens": 24}
    settings = settings_from(world.TINY | {"encoder": text, "finetune": {"enabled": False}})
    save_bundle(train(Dataset.load(folder / "data"), settings), folder / "bundles")
    model = trained(folder / "bundles")
    num_items = COPIES * len(model.catalogue)
    save_bundle(scaled(model, num_items, 2 * len(model.histories.item_rows), 15), folder / "large")
    return folder / "large"


@pytest.fixture
def model(bundle: Path) -> FittedModel:
    return load_bundle(bundle)


def test_every_copy_has_the_attributes_of_its_item_and_no_copy_shares_what_one_item_has(model: FittedModel) -> None:
    items, values = model.catalogue.items, model.features.pairs.attribute_values
    shared, rare = (values[items.rows(copies(item_id))].toarray() for item_id in ("garden-05", RARE))
    assert (shared == shared[0]).all()
    assert (rare == rare[0]).all()
    frame = model.catalogue.frame.iloc[items.rows(copies(RARE))]
    assert frame["brand"].tolist() == ["own press", "own press~1", "own press~2"]
    assert frame["category"].tolist() == [("space", "comet"), ("space", "comet~1"), ("space", "comet~2")]


def copies(item_id: str) -> list[str]:
    return [item_id, *(f"{item_id}~{k}" for k in range(1, COPIES))]


def test_items_can_be_put_into_it(model: FittedModel, bundle: Path) -> None:
    encoder = load_numpy_encoder(bundle / model.bundle_version / "encoder", 24)
    document = {"title": "rocket space 99", "category": ["space", "rocket"], "brand": "space press", "price": 9.0}
    changes = [
        ItemChange("new", document),
        ItemChange("rare", document | {"brand": "own press~1", "category": ["comet~2"]}),
        ItemChange("space-03~1", document | {"category": ["garden"]}),
        ItemChange("garden-05~2", None),
    ]
    changed = ItemEditor(model, encoder).with_items(model, changes)
    row, like = changed.catalogue.items.rows(["new", "space-00"])
    values = changed.features.pairs.attribute_values
    np.testing.assert_array_equal(values[row].toarray(), values[like].toarray())
    recommender = Recommender(changed)
    request = Request(user="u000", n=len(changed.catalogue))
    listed = [item.item_id for item in recommender.recommend(request).items]
    assert "new" in listed
    assert "garden-05~2" not in listed
    assert Similar(recommender).recommend("new", Request(history=(), n=5)).items
    found = Search(recommender, lambda query: encoder.encode([query])[0]).recommend("rocket", Request(history=(), n=9))
    assert found.items
