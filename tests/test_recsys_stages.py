"""What is kept from one training run to the next: it saves work and changes nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import world
from features.blended_encoder import BlendedEncoder, blend
from features.grid import on_grid
from features.interactions import EventSettings
from features.state import save_state
from features.tables import Dataset
from recsys import training
from recsys.choosing import first_choice
from recsys.model import FittedModel
from recsys.recommender import Recommender
from recsys.requests import Request
from recsys.retrieval.base import FitData
from recsys.retrieval.wiring import SOURCES
from recsys.settings import Settings, settings_from
from recsys.stages import StageMemory, digest, fit_parts, num_bytes, settings_read
from recsys.training import train
from tiny_bert import write_tiny_bert

ASKED = [Request(user=f"u{u:03d}", n=10) for u in range(0, world.NUM_USERS, 5)]


def lists(model: FittedModel) -> list[list[tuple[str, float]]]:
    return [[(i.item_id, i.score) for i in answer.items] for answer in Recommender(model).recommend_many(ASKED)]


@pytest.fixture(scope="module")
def text_tree(tmp_path_factory: pytest.TempPathFactory, tiny_tree: dict[str, Any]) -> dict[str, Any]:
    words = sorted({w for row in world.item_rows() for w in f"{row['title']} {row['description']}".split()})
    folder = write_tiny_bert(tmp_path_factory.mktemp("bert") / "bert", words)
    finetune = {"projection_steps": 20, "max_steps": 2, "min_pairs": 20, "batch_size": 16}
    return tiny_tree | {"encoder": {"model": str(folder), "cache": "off"}, "finetune": finetune}


def varied(tree: dict[str, Any], **changes: Any) -> Settings:
    """The tree with single settings changed: `group__key=value`."""
    out = {key: dict(value) if isinstance(value, dict) else value for key, value in tree.items()}
    for name, value in changes.items():
        *groups, last = name.split("__")
        node = out
        for group in groups:
            node[group] = dict(node.get(group, {}))
            node = node[group]
        node[last] = value
    return settings_from(out)


class TestReuse:
    def test_it_changes_no_list(self, tiny_dataset: Dataset, text_tree: dict[str, Any]) -> None:
        """One setting of every group after the other, then back again: as if each had been trained alone."""
        memory = StageMemory(tiny_dataset)
        for changes in (
            {},
            {"lambdamart__num_leaves": 3},
            {"lambdamart__share_held_out": 0.5},
            {"lambdamart__objective": "rank_xendcg", "lambdamart__forests": 1, "lambdamart__min_lists_per_tree": 20.0},
            {"retrieval__per_source": 5},
            {"retrieval__als__factors": 3},
            {"features__pair__recent_items": 1},
            {"examples__negatives_per_list": 4},
            {"examples__moments_per_user": 1},
            {"finetune__temperature": 0.9},
            {"finetune__keep_pretrained": 0.0, "finetune__hard_negatives": 1, "finetune__weight_averaging": 0.9},
            {"examples__window_share": 0.2},
            {"examples__windows": 1},
            {"retrieval__sequence__epochs": 3},
            {"retrieval__sequence__size": 16, "retrieval__sequence__heads": 4, "retrieval__sequence__models": 1},
            {"sources": ["als", "popularity"]},
            {"ranker": "by_score"},
            {"seed": 5},
            {},
        ):
            settings = varied(text_tree, **changes)
            fresh, kept = train(tiny_dataset, settings), train(tiny_dataset, settings, memory=memory)
            assert lists(kept) == lists(fresh), changes
            for report in (fresh.report, kept.report):
                report["encoder"].pop("seconds", None)
            assert {**kept.report, "seconds": 0} == {**fresh.report, "seconds": 0}, changes

    def test_the_encoder_is_tuned_again_only_where_its_settings_or_data_change(
        self, tiny_dataset: Dataset, text_tree: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[float] = []
        tuned = training.finetune
        monkeypatch.setattr(training, "finetune", lambda *a, **k: calls.append(a[3].temperature) or tuned(*a, **k))
        memory = StageMemory(tiny_dataset)
        for changes in (
            {},
            {"lambdamart__num_leaves": 3, "retrieval__als__factors": 3},
            {"examples__moments_per_user": 3, "examples__negatives_per_list": 7},
            {"finetune__temperature": 0.9},
            {},
        ):
            train(tiny_dataset, varied(text_tree, **changes), memory=memory)
        assert calls == [0.1, 0.9]
        train(tiny_dataset, varied(text_tree, examples__window_share=0.2), memory=memory)
        assert calls == [0.1, 0.9, 0.1], "with larger windows less is known before them"

    def test_a_source_is_fitted_again_only_where_its_settings_change(
        self, tiny_dataset: Dataset, tiny_tree: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from recsys.retrieval.linear import LinearSource
        from recsys.retrieval.transitions import TransitionsSource

        calls: list[str] = []
        for kind in (LinearSource, TransitionsSource):
            fit = kind.fit.__func__

            def counted(cls: Any, *arguments: Any, fit: Any = fit) -> Any:
                calls.append(cls.name)
                return fit(cls, *arguments)

            monkeypatch.setattr(kind, "fit", classmethod(counted))
        memory = StageMemory(tiny_dataset)
        train(tiny_dataset, varied(tiny_tree), memory=memory)
        assert calls.count("linear") >= 3
        calls.clear()
        train(tiny_dataset, varied(tiny_tree, retrieval__transitions__window=1), memory=memory)
        assert set(calls) == {"transitions"}
        calls.clear()
        train(tiny_dataset, varied(tiny_tree, lambdamart__num_leaves=3), memory=memory)
        assert calls == []

    def test_a_memory_is_for_one_data_set(self, tiny_dataset: Dataset, tiny_settings: Settings) -> None:
        with pytest.raises(ValueError, match="belongs to one data set"):
            train(tiny_dataset, tiny_settings, memory=StageMemory(dataclasses.replace(tiny_dataset)))

    def test_the_held_out_figure_is_the_reported_one(self, tiny_dataset: Dataset, tiny_settings: Settings) -> None:
        told: list[float] = []
        model = train(tiny_dataset, tiny_settings, on_held_out=told.append)
        assert told == [model.report["ranker"]["held_out_ndcg@10"]["ranker"]]


class TestMemory:
    def test_what_was_used_last_is_kept(self, tiny_dataset: Dataset) -> None:
        memory, made = StageMemory(tiny_dataset, max_bytes=200), []

        def ask(key: str) -> Any:
            return memory.reused("stage", key, lambda: made.append(key) or np.zeros(100, np.uint8))

        for key in "abacb":
            ask(key)
        assert made == list("abcb"), "c pushed b out, which was used before a"

    def test_the_newest_is_kept_however_large(self, tiny_dataset: Dataset) -> None:
        memory = StageMemory(tiny_dataset, max_bytes=1)
        first = memory.reused("stage", "a", lambda: np.zeros(100))
        assert memory.reused("stage", "a", lambda: np.ones(100)) is first

    def test_stages_do_not_push_each_other_out(self, tiny_dataset: Dataset) -> None:
        memory = StageMemory(tiny_dataset, max_bytes=1)
        first = memory.reused("one", "a", lambda: np.zeros(100))
        memory.reused("two", "a", lambda: np.zeros(100))
        assert memory.reused("one", "a", lambda: np.ones(100)) is first


def saved(source: Any, folder: Path) -> dict[str, bytes]:
    save_state(source, folder)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def views(tiny_dataset: Dataset) -> dict[str, FitData]:
    """The same events with texts seen by both encoders: as they are, tuned otherwise, pretrained otherwise."""
    rng, num_items = np.random.default_rng(0), len(tiny_dataset.catalogue)
    tuned, retuned, plain, other = (
        (part / np.linalg.norm(part, axis=1, keepdims=True)).astype(np.float32)
        for part in (rng.normal(size=(num_items, size)) for size in (3, 3, 4, 4))
    )
    parts = {"first": (tuned, plain), "tuned": (retuned, plain), "pretrained": (tuned, other)}
    return {
        name: FitData(
            tiny_dataset.catalogue, tiny_dataset.events, len(tiny_dataset.users), EventSettings(),
            on_grid(blend(*pair, 0.2), items=True), seed=0, num_threads=1, tuned_size=3,
        )
        for name, pair in parts.items()
    }  # fmt: skip


class TestTexts:
    """A source is fitted again for other texts where it reads them, and only there."""

    @pytest.mark.parametrize("name", SOURCES)
    @pytest.mark.parametrize("changed", ["tuned", "pretrained"])
    def test_a_source_of_one_key_is_one_source(
        self, name: str, changed: str, views: dict[str, FitData], tiny_settings: Settings, tmp_path: Path
    ) -> None:
        settings = first_choice(getattr(tiny_settings.retrieval, name))
        keys = [digest(*fit_parts(name, views[view])) for view in ("first", changed)]
        first, second = (
            saved(SOURCES[name].fit(views[view], settings), tmp_path / view) for view in ("first", changed)
        )
        assert (keys[0] == keys[1]) == (first == second)

    def test_one_text_more_is_another_catalogue(self, views: dict[str, FitData]) -> None:
        """Where the pretrained part begins is part of the key, and so is whether there is one."""
        both = views["first"]
        single = dataclasses.replace(both, tuned_size=0)
        none = dataclasses.replace(both, embeddings=None, tuned_size=0)
        for name in ("als", "sequence", "text_profile", "new_items"):
            assert len({digest(*fit_parts(name, data)) for data in (both, single, none)}) == 3


class TestKeys:
    def test_a_digest_is_of_the_content(self, tiny_dataset: Dataset) -> None:
        events = tiny_dataset.events
        assert digest(events) == digest(dataclasses.replace(events, item_rows=events.item_rows.copy()))
        assert digest(events) != digest(events.select(np.arange(len(events)) > 0))
        assert digest("a", "b") != digest("ab", "")
        assert digest(1, None) != digest(None, 1)
        assert digest(np.zeros(2, np.float32)) != digest(np.zeros(1, np.float64))
        assert digest(np.zeros((2, 3))) != digest(np.zeros((3, 2)))
        assert digest(settings_from({"seed": 1})) != digest(settings_from({"seed": 2}))

    def test_what_has_no_digest_is_refused(self) -> None:
        with pytest.raises(TypeError, match="list has no digest"):
            digest([1])

    def test_unknown_settings_would_be_part_of_every_key(self) -> None:
        """The keys are all settings less a few, never a few of all."""
        for stage in ("windows", "text", "examples"):
            assert settings_read(stage, settings_from({"seed": 1})) != settings_read(stage, settings_from({"seed": 2}))
            left_out = settings_from({"lambdamart": {"num_leaves": 3}, "serve": {"max_n": 5}})
            assert settings_read(stage, left_out) == settings_read(stage, Settings())

    def test_sizes(self, tmp_path: Path) -> None:
        import scipy.sparse as sp

        from features.encoder import EncoderSettings, TextEncoder
        from recsys.retrieval.linear import LinearSource

        weights = sp.csr_matrix(np.eye(3, dtype=np.float32))
        size = 3 * 4 + 3 * 4 + 4 * 4
        assert num_bytes(LinearSource(weights, None, 5)) == size
        assert num_bytes([np.zeros(3, np.uint8), {"a": (weights,)}, "text", None]) == 3 + size
        encoder = TextEncoder.load(write_tiny_bert(tmp_path / "bert", ["a"]), EncoderSettings(cache="off"))
        assert num_bytes((encoder, None)) >= sum(p.nbytes for p in encoder.model.parameters())
        assert num_bytes(BlendedEncoder(encoder, encoder, 0.2)) == 2 * num_bytes(encoder)
