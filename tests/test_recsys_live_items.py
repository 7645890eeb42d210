"""Laws of live items: the model with an item put into it is the one that a bundle with that item would hold; older
models stay what they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import scipy.sparse as sp

import world
from features.grid import on_grid
from features.numpy_encoder import load_numpy_encoder
from features.tables import Catalogue, Dataset, IdIndex
from handmade import NUM_ITEMS, handmade_model
from recsys.bundle import load_bundle, save_bundle
from recsys.embeddings import with_embeddings
from recsys.item_documents import ItemColumns
from recsys.live_items import ItemChange, ItemEditor
from recsys.manifest import plain
from recsys.model import FittedModel
from recsys.recommender import Recommender
from recsys.requests import HistoryEvent, Recommendation, Request
from recsys.retrieval.als import AlsSource
from recsys.settings import settings_from
from tiny_bert import write_tiny_bert

NEW = {
    "title": "rocket space 99", "description": "a book about space and the rocket", "category": ["space", "rocket"],
    "brand": "space press", "price": 11.5, "published_at": "2020-09-14T00:00:00Z",
}  # fmt: skip


class FixedEncoder:
    """Knows the vectors of a few texts."""

    def __init__(self, vectors: dict[str, npt.NDArray[np.float32]]) -> None:
        self._vectors = vectors

    def encode(self, texts: Any) -> npt.NDArray[np.float32]:
        return np.stack([self._vectors[text] for text in texts])


class CountingEncoder:
    """The serving encoder, and what it was asked to read."""

    def __init__(self, folder: Path) -> None:
        self._encoder = load_numpy_encoder(folder, 64)
        self.read: list[str] = []

    def encode(self, texts: Any) -> npt.NDArray[np.float32]:
        self.read += list(texts)
        return self._encoder.encode(texts)


@pytest.fixture(scope="module")
def bundle(tiny_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the tiny world with text: every source, a ranker, repeats out."""
    from recsys.training import train

    words = ["rocket", "orbit", "planet", "rose", "spade", "compost", "space", "garden", "press", "book", "about"]
    encoder = write_tiny_bert(tmp_path_factory.mktemp("encoder") / "model", words)
    tree = world.TINY | {
        "encoder": {"model": str(encoder), "cache": "off", "max_tokens": 24},
        "finetune": {"enabled": False},
    }
    root = tmp_path_factory.mktemp("live") / "bundles"
    save_bundle(train(tiny_dataset, settings_from(tree)), root)
    return root


@pytest.fixture
def model(bundle: Path) -> FittedModel:
    return load_bundle(bundle)


@pytest.fixture
def encoder(bundle: Path, model: FittedModel) -> CountingEncoder:
    return CountingEncoder(bundle / model.bundle_version / "encoder")


@pytest.fixture
def editor(model: FittedModel, encoder: CountingEncoder) -> ItemEditor:
    return ItemEditor(model, encoder)


def put(item_id: str = "space-99", **changes: Any) -> ItemChange:
    return ItemChange(item_id, NEW | changes)


def requests(model: FittedModel) -> list[Request]:
    known = [Request(str(user), str(user), n=60) for user in model.users.ids[:6]]
    guests = [
        Request(f"guest {item}", history=(HistoryEvent(item),), at=1.61e9, n=60)
        for item in ("space-99", "space-03", "rose-1", "garden-07")
    ]
    both = Request("both", history=(HistoryEvent("space-04"), HistoryEvent("space-99")), at=1.61e9, n=60)
    return [*known, *guests, both, Request("nobody", history=(), n=60), Request("f", "u001", filters=(("brand", "x"),))]


def answers(model: FittedModel) -> list[Recommendation]:
    return Recommender(model).recommend_many(requests(model))


def listed(model: FittedModel, request: Request) -> list[str]:
    return [item.item_id for item in Recommender(model).recommend(request).items]


SPACE_READER = Request(history=(HistoryEvent("space-03"), HistoryEvent("space-04")), at=1.61e9, n=100)


class TestNewItems:
    def test_it_is_in_the_next_answer(self, model: FittedModel, editor: ItemEditor) -> None:
        changed = editor.with_items(model, [put()])
        assert "space-99" not in listed(model, SPACE_READER)
        answer = Recommender(changed).recommend(SPACE_READER)
        (item,) = [item for item in answer.items if item.item_id == "space-99"]
        assert item.title == "rocket space 99"
        assert {"new_items", "text_profile"} <= set(item.sources)

    def test_behaviour_by_text_speaks_for_it(self, model: FittedModel, editor: ItemEditor) -> None:
        changed = editor.with_items(model, [put()])
        sources = {source.name: source for source in changed.sources}
        row = changed.catalogue.items.row("space-99")
        assert sources["als"].item_factors[row].any()
        assert sources["sequence"].vectors[row].any()
        assert not sources["sequence"].ids[row].any()
        assert row in sources["new_items"].new_rows

    def test_over_other_texts_behaviour_speaks_for_it_by_these(self, model: FittedModel, editor: ItemEditor) -> None:
        """What came after the training is as untouched as what was there."""
        changed = editor.with_items(model, [put(), put("rose-1", title="rose garden compost")])
        rows = changed.catalogue.items.rows(["space-99", "rose-1"])
        other = changed.features.pairs.embeddings.copy()
        other[rows] = other[rows[::-1]]
        before, after = (
            next(source for source in one.sources if isinstance(source, AlsSource))
            for one in (changed, with_embeddings(changed, other))
        )
        assert (before.item_factors[rows[0]] != before.item_factors[rows[1]]).any()
        assert_equal(after.item_factors[rows], before.item_factors[rows[::-1]])

    def test_the_answers_are_those_of_a_bundle_that_holds_it(
        self, model: FittedModel, editor: ItemEditor, tmp_path: Path
    ) -> None:
        """Every array in its own file, read again, nothing shared, no spare rows."""
        changed = editor.with_items(model, [put(), put("rose-1", title="a rose", category="garden | rose")])
        save_bundle(changed, tmp_path)
        assert answers(load_bundle(tmp_path)) == answers(changed)

    def test_batch_equals_single(self, model: FittedModel, editor: ItemEditor) -> None:
        recommender = Recommender(editor.with_items(model, [put(), put("rose-1", title="a rose")]))
        asked = requests(model)
        assert recommender.recommend_many(asked) == [recommender.recommend(request) for request in asked]

    def test_one_by_one_or_together_is_the_same(self, model: FittedModel, encoder: CountingEncoder) -> None:
        """Workers see changes in groups of their own."""
        changes = [
            put(), put("rose-1", title="a rose"), ItemChange("garden-03", None), put("space-07", title="orbit rocket"),
            put(title="planet space 99"), put("rose-2", title="another rose"), ItemChange("rose-1", None),
            put("rose-1", title="a rose again"),
        ]  # fmt: skip
        alone, together = model, ItemEditor(model, encoder).with_items(model, changes)
        editor = ItemEditor(model, encoder)
        for change in changes:
            alone = editor.with_items(alone, [change])
        assert sorted(alone.catalogue.items.ids) == sorted(together.catalogue.items.ids)
        assert answers(alone) == answers(together)

    def test_many_changes_keep_every_component_in_step(self, model: FittedModel, editor: ItemEditor) -> None:
        changed = model
        for k in range(70):  # more pieces than a column of strings may have
            changed = editor.with_items(changed, [put(f"more-{k:02d}", title=f"rocket {k}")])
        n = len(model.catalogue) + 70
        assert len(changed.catalogue.frame) == n
        assert changed.catalogue.frame["title"].tolist()[-1] == "rocket 69"
        for array in arrays_of(changed):
            assert array.shape[0] in (n, n + 1)
        everything = Request(history=(), n=200)
        assert len(listed(changed, everything)) == n

    def test_a_new_item_can_be_in_a_history(self, model: FittedModel, editor: ItemEditor) -> None:
        asked = Request(history=(HistoryEvent("space-99"),), at=1.61e9, n=5)
        assert Recommender(model).recommend(asked).unknown_history_items == 1
        answer = Recommender(editor.with_items(model, [put()])).recommend(asked)
        assert answer.unknown_history_items == 0
        assert answer.strategy == "ranked"

    def test_popularity_puts_it_among_the_untouched_by_id(self, tmp_path: Path) -> None:
        model = handmade_model()
        changed = ItemEditor(model, None).with_items(
            model, [ItemChange("i055", {"title": ""}), ItemChange("a", {}), ItemChange("z", {})]
        )
        ids = changed.catalogue.items.ids
        first, rest = ids[changed.fallback.order[:3]], ids[changed.fallback.order[3:]]
        assert first.tolist() == ["i00", "i01", "i02"]
        assert rest.tolist() == sorted(rest)
        assert changed.catalogue.items.places.tolist() == np.argsort(np.argsort(ids)).tolist()


def test_the_model_is_the_one_that_was_built_with_the_item_from_the_start() -> None:
    """All that a catalogue of thirteen items gives, counted from the same events; only idf weights know how many items
    there were in training.
    """
    small = handmade_model()
    document = {
        "title": "Title 12",
        "category": "Games | Toys",
        "price": 3,
        "colour": "red",
        "tags": ["a"],
        "weight": 7,
    }
    vector = np.random.default_rng(5).normal(size=(1, 8)).astype(np.float32)
    vector /= np.linalg.norm(vector)

    live = ItemEditor(small, FixedEncoder({"Title 12. Games, Toys": vector[0]})).with_items(
        small, [ItemChange("i12", document)]
    )
    embeddings = np.vstack([small.features.pairs.embeddings, on_grid(vector, items=True)])
    big = built_from_the_start(small, document, embeddings)
    pd.testing.assert_frame_equal(live.catalogue.frame, big.catalogue.frame)
    for name in ("popularity", "first_seen", "last_seen", "published_at", "repeat_share", "numbers", "usual_numbers"):
        np.testing.assert_array_equal(getattr(live.features.items, name), getattr(big.features.items, name), name)
    np.testing.assert_array_equal(live.fallback.order, big.fallback.order)
    np.testing.assert_array_equal(live.features.pairs.embeddings, big.features.pairs.embeddings)
    own, built = (m.features.pairs.attribute_values for m in (live, big))
    assert (own[-1] != 0).toarray().tolist() == (built[-1] != 0).toarray().tolist()
    asked = [
        Request("ann", "ann", n=20), Request("new", history=(HistoryEvent("i12"),), n=20), Request("no", n=20),
        Request("filter", "bob", n=20, filters=(("colour", "red"),)), Request("f", "bob", filters=(("weight", "7"),)),
    ]  # fmt: skip
    assert Recommender(live).recommend_many(asked) == Recommender(big).recommend_many(asked)


def built_from_the_start(small: FittedModel, document: dict[str, Any], embeddings: Any) -> FittedModel:
    """What `handmade_model` makes of a catalogue that has the item as its thirteenth."""
    from features.builder import FeatureBuilder, FeatureSettings
    from features.tables import Events
    from recsys.retrieval.base import FitData
    from recsys.retrieval.linear import LinearSource
    from recsys.retrieval.popularity import PopularitySettings, PopularitySource
    from recsys.retrieval.text_profile import TextProfileSource

    old = small.catalogue.frame
    row = ItemColumns.of(small.catalogue).row("i12", document)
    frame = pd.DataFrame({n: pd.Series([*old[n].tolist(), row[n]], dtype=old[n].dtype) for n in old})
    catalogue = Catalogue(IdIndex(frame["item_id"].tolist()), frame, small.catalogue.attributes)
    stored = small.histories
    users = np.repeat(np.arange(3), np.diff(stored.indptr)).astype(np.int32)
    ones = np.ones(len(users), np.float32)
    kinds = np.zeros(len(users), np.int16)
    events = Events(users, stored.item_rows, kinds, stored.times, ones, ("view",), "timestamp")
    data = FitData(catalogue, events, 3, small.settings.events, embeddings, 0, 1)
    popularity = PopularitySource.fit(data, PopularitySettings())
    linear = small.sources[0].weights.copy()
    linear.resize(NUM_ITEMS + 1, NUM_ITEMS + 1)
    return dataclasses.replace(
        small, catalogue=catalogue, fallback=popularity,
        sources=(LinearSource(linear, None, 50), TextProfileSource(embeddings, None, 50), popularity),
        features=FeatureBuilder.fit(catalogue, events, data.weights, embeddings, FeatureSettings()),
    )  # fmt: skip


class TestChangedItems:
    def test_a_changed_text_is_read_again_and_behaviour_stays(
        self, model: FittedModel, editor: ItemEditor, encoder: CountingEncoder
    ) -> None:
        document = document_of(model, "space-03") | {"title": "rose garden compost"}
        changed = editor.with_items(model, [ItemChange("space-03", document)])
        row = model.catalogue.items.row("space-03")
        assert len(encoder.read) == 1
        assert encoder.read[0].startswith("rose garden compost")
        assert (changed.features.pairs.embeddings[row] != model.features.pairs.embeddings[row]).any()
        for before, after in zip(model.sources, changed.sources, strict=True):
            for name in ("weights", "item_factors", "ids"):
                if hasattr(before, name):
                    assert_equal(getattr(before, name), getattr(after, name))
        assert changed.features.items.popularity[row].tolist() == model.features.items.popularity[row].tolist()

    def test_a_new_price_reads_no_text(self, model: FittedModel, editor: ItemEditor, encoder: CountingEncoder) -> None:
        document = document_of(model, "space-03") | {"price": 99}
        changed = editor.with_items(model, [ItemChange("space-03", document)])
        row = model.catalogue.items.row("space-03")
        assert not encoder.read
        assert changed.features.items.numbers[row, 0] == 99
        assert changed.catalogue.frame["price"][row] == 99
        assert_equal(changed.features.pairs.embeddings, model.features.pairs.embeddings)

    def test_what_says_nothing_new_changes_nothing(self, model: FittedModel, editor: ItemEditor) -> None:
        assert editor.with_items(model, [ItemChange("space-03", document_of(model, "space-03"))]) is model
        assert editor.with_items(model, [ItemChange("never seen", None)]) is model

    def test_older_models_stay(self, model: FittedModel, editor: ItemEditor, encoder: CountingEncoder) -> None:
        """A request that goes on while an item is put has one model to the end."""
        first = editor.with_items(model, [put()])
        expected = answers(model), answers(first)
        second = editor.with_items(first, [put(title="spade rose"), put("rose-1"), ItemChange("space-03", None)])
        editor.with_items(second, [put("space-05", title="compost")])
        assert (answers(model), answers(first)) == expected
        assert answers(load_bundle_again(model, encoder)) == expected[0]


def load_bundle_again(model: FittedModel, encoder: CountingEncoder) -> FittedModel:
    """The files are what they were."""
    return ItemEditor(model, encoder).with_items(model, [])


class TestGoneItems:
    @pytest.mark.parametrize("how", [None, "unavailable"])
    def test_it_vanishes_from_the_next_answer(self, model: FittedModel, editor: ItemEditor, how: str | None) -> None:
        document = None if how is None else document_of(model, "space-05") | {"available": False}
        changed = editor.with_items(model, [ItemChange("space-05", document)])
        assert "space-05" in listed(model, SPACE_READER)
        assert "space-05" not in listed(changed, SPACE_READER)
        assert "space-05" not in listed(changed, Request(history=(), n=100))

    def test_histories_that_name_it_work_as_before(self, model: FittedModel, editor: ItemEditor) -> None:
        changed = editor.with_items(model, [ItemChange("space-04", None)])
        asked = dataclasses.replace(SPACE_READER, n=5)
        assert Recommender(changed).recommend(asked).unknown_history_items == 0
        assert Recommender(changed).recommend(asked).items == Recommender(model).recommend(asked).items

    def test_it_can_come_back(self, model: FittedModel, editor: ItemEditor, encoder: CountingEncoder) -> None:
        gone = editor.with_items(model, [ItemChange("space-05", None)])
        back = editor.with_items(gone, [ItemChange("space-05", document_of(model, "space-05"))])
        assert answers(back) == answers(model)
        assert not encoder.read


def test_without_an_encoder_items_come_without_text(caplog: pytest.LogCaptureFixture) -> None:
    model = handmade_model()
    editor = ItemEditor(model, None)
    changed = editor.with_items(model, [ItemChange("new", {"title": "text"})])
    assert "taken without their texts" in caplog.text
    assert "new" in listed(changed, Request(n=20))
    document = document_of(model, "i03") | {"available": False}
    assert "i03" not in listed(editor.with_items(model, [ItemChange("i03", document)]), Request(n=20))


def test_repeats_know_a_new_item_by_its_category(tiny_dataset: Dataset) -> None:
    from features.cycles import Cycles
    from ranking.by_score import ByScoreRanker
    from recsys.model import RepeatModel
    from recsys.retrieval.repeat import RepeatSource

    model = handmade_model()
    rates = np.where([c == ("Books",) for c in model.catalogue.frame["category"]], 0.3, 0.1)
    ones = np.ones((6, 9)), np.ones((3, 22))
    repeats = RepeatSource(Cycles(rates * 10, True), rates, *ones, 10.0)
    model = dataclasses.replace(
        model, repeats=RepeatModel(repeats, ByScoreRanker.of({"repeat": 1.0})), report={"repeats": {}}
    )
    changed = ItemEditor(model, FixedEncoder({"Books": np.eye(8, dtype=np.float32)[0]})).with_items(
        model, [ItemChange("new", {"category": "Books"})]
    )
    assert changed.repeats is not None
    assert changed.repeats.source.rates[-1] == pytest.approx(0.3)
    assert changed.repeats.source.cycles.octaves[-1] == pytest.approx(3.0)
    asked = Request(history=(HistoryEvent("new"), HistoryEvent("i03")), exclude_seen=False, n=20)
    assert "new" in listed(changed, asked)


def document_of(model: FittedModel, item_id: str) -> dict[str, Any]:
    """The item as a caller would put it."""
    row = model.catalogue.frame.iloc[model.catalogue.items.row(item_id)].to_dict()
    return {name: plain(list(value) if isinstance(value, tuple) else value) for name, value in row.items()}


def arrays_of(model: FittedModel) -> Iterator[npt.NDArray[Any]]:
    """Every array that has a row an item."""
    names = ("weights", "item_factors", "vectors", "ids", "embeddings", "values", "order", "attributes")
    parts: list[Any] = [*model.sources, model.fallback, model.features.pairs]
    for part in parts:
        yield from (getattr(part, name) for name in names if hasattr(part, name))
    items = model.features.items
    yield from (items.popularity, items.first_seen, items.last_seen, items.published_at, items.numbers)
    yield model.features.pairs.attribute_values


def assert_equal(before: Any, after: Any) -> None:
    if isinstance(before, sp.csr_matrix):
        assert (before != after).nnz == 0
    else:
        np.testing.assert_array_equal(before, after)
