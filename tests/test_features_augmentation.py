from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.augmentation import AugmentationSettings, TextAugmenter, altered
from features.encoder import EncoderSettings, TextEncoder
from features.towers import LastLayersTower
from tiny_bert import write_tiny_bert

NOTHING = {"share": 1.0, "drop_fields": 0.0, "cut": 0.0, "drop_words": 0.0, "swap_words": 0.0, "lower_case": 0.0}
FIELDS = ("Red Table", "Oak", "a table of red oak")
WORDS = ["Red", "Table.", "Oak.", "a", "table", "of", "red", "oak"]


def variants(**values: float) -> list[str]:
    settings = AugmentationSettings.model_validate(NOTHING | values)
    return [altered(FIELDS, settings, np.random.default_rng(seed), 64) for seed in range(200)]


def test_nothing_asked_nothing_altered() -> None:
    assert set(variants()) == {" ".join(WORDS)}


def test_the_first_field_alone_or_all_others() -> None:
    assert set(variants(drop_fields=1.0)) == {"Red Table", "Oak. a table of red oak"}
    assert set(variants(drop_fields=0.5)) == {"Red Table", "Oak. a table of red oak", " ".join(WORDS)}
    alone = AugmentationSettings.model_validate(NOTHING | {"drop_fields": 1.0})
    assert altered(("", "Red Table"), alone, np.random.default_rng(0), 64) == "Red Table"


def test_a_cut_leaves_at_least_the_first_half() -> None:
    assert set(variants(cut=1.0)) == {" ".join(WORDS[:n]) for n in range(4, 8)}
    cut = AugmentationSettings.model_validate(NOTHING | {"cut": 1.0})
    short = {altered(FIELDS, cut, np.random.default_rng(seed), 4) for seed in range(50)}
    assert short == {" ".join(WORDS[:n]) for n in (2, 3)}


def test_dropped_words_leave_the_others_in_order() -> None:
    texts = [text.split() for text in variants(drop_words=0.5)]
    assert np.mean([len(words) for words in texts]) == pytest.approx(4.0, abs=0.4)
    for words in texts:
        rest = iter(WORDS)
        assert all(word in rest for word in words)
    assert {len(text.split()) for text in variants(drop_words=0.999)} <= {1, 2}


def test_swapped_words_are_next_to_where_they_were() -> None:
    settings = AugmentationSettings.model_validate(NOTHING | {"swap_words": 0.4})
    words = [str(n) for n in range(30)]
    text = altered([" ".join(words)], settings, np.random.default_rng(0), 64).split()
    assert text != words
    assert sorted(text, key=int) == words
    assert all(abs(place - int(word)) <= 1 for place, word in enumerate(text))


def test_lower_case() -> None:
    assert set(variants(lower_case=1.0)) == {" ".join(WORDS).lower()}


@given(fields=st.lists(st.text(max_size=40), max_size=4), seed=st.integers(0, 999))
def test_no_word_is_invented_and_some_word_stays(fields: list[str], seed: int) -> None:
    text = altered(fields, AugmentationSettings(share=1.0, lower_case=0.0), np.random.default_rng(seed), 64)
    together = ". ".join(field for field in fields if field.strip()).split()
    assert bool(text) == bool(together)
    assert set(text.split()) <= {*together, *" ".join(fields).split()}  # the last word of a field has no dot alone


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    folder = write_tiny_bert(tmp_path_factory.mktemp("tiny") / "model")
    return TextEncoder.from_settings(EncoderSettings(model=str(folder), cache="off", max_tokens=16))


def test_layers_read_altered_texts_in_training_only_and_never_cache_them(encoder: TextEncoder) -> None:
    fields = [("red table", "steel"), ("blue chair", "wooden lamp"), ("dragon", "space ship"), ("phone", "paper")]
    texts = [". ".join(one) for one in fields]
    rows = np.arange(len(texts))
    tower = LastLayersTower(encoder, encoder.tokenize(texts), 1, 2**20)
    settings = AugmentationSettings.model_validate(NOTHING | {"share": 0.5, "drop_fields": 1.0})
    tower.alter_with(TextAugmenter(encoder, fields, settings))
    expected = encoder.encode(texts)
    variants = np.stack([encoder.encode([one[part] for one in fields]) for part in (0, 1)])
    seen = set()
    for seed in range(12):
        vectors = tower.embed(rows, np.random.default_rng(seed)).detach().numpy()
        for row, vector in enumerate(vectors):
            choices = np.stack([expected[row], *variants[:, row]])
            gaps = np.abs(choices - vector).max(axis=1)
            assert gaps.min() < 1e-5
            seen.add(int(gaps.argmin()))
        again = tower.embed(rows, np.random.default_rng(seed)).detach().numpy()
        np.testing.assert_array_equal(again, vectors)
        np.testing.assert_allclose(tower.embed_all(rows), expected, atol=1e-6)
    assert seen == {0, 1, 2}


def test_a_text_of_which_nothing_is_left_stays(encoder: TextEncoder, tmp_path: Path) -> None:
    settings = AugmentationSettings.model_validate(NOTHING | {"drop_fields": 1.0})
    augmenter = TextAugmenter(encoder, [("<br>", "red table")], settings)
    wanted = {tuple(encoder.tokenize(["red table"])[0]), tuple(encoder.tokenize([". red table"])[0])}
    got = {tuple(augmenter.tokens(np.array([0]), np.random.default_rng(seed))[0]) for seed in range(10)}
    assert got == wanted
