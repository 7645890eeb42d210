from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from features.blended_encoder import BlendedEncoder, blend, load_encoder
from features.encoder import EncoderSettings, TextEncoder
from features.errors import EncoderError
from tiny_bert import write_tiny_bert

TEXTS = ["red table", "blue chair with a lamp", "dragon in space", ""]
UNCACHED = EncoderSettings(cache="off")


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> tuple[TextEncoder, TextEncoder]:
    folder = write_tiny_bert(tmp_path_factory.mktemp("tiny") / "model")
    settings = EncoderSettings(model=str(folder), cache="off", max_tokens=16)
    pretrained = TextEncoder.from_settings(settings)
    import torch

    matrix = torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(0)))[0]
    return pretrained.with_weights(pretrained.model, matrix * torch.linspace(0.2, 2.0, 64)), pretrained


def test_cosines_are_the_mixture_of_both(encoders: tuple[TextEncoder, TextEncoder]) -> None:
    tuned, pretrained = (encoder.encode(TEXTS) for encoder in encoders)
    encoder = BlendedEncoder(*encoders, 0.3)
    rows = encoder.encode(TEXTS)
    assert rows.shape == (4, encoder.embedding_size) == (4, 128)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows @ rows.T, 0.7 * tuned @ tuned.T + 0.3 * pretrained @ pretrained.T, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), [1, 1, 1, 0], atol=1e-6)
    np.testing.assert_array_equal(rows, blend(tuned, pretrained, 0.3))
    assert encoder.clean(" red\ntable ") == "red table"


def test_save_and_load_change_nothing(encoders: tuple[TextEncoder, TextEncoder], tmp_path: Path) -> None:
    encoder = BlendedEncoder(*encoders, 0.3)
    encoder.save(tmp_path / "saved")
    loaded = load_encoder(tmp_path / "saved", UNCACHED)
    assert isinstance(loaded, BlendedEncoder)
    assert loaded.fingerprint == encoder.fingerprint
    np.testing.assert_array_equal(loaded.encode(TEXTS), encoder.encode(TEXTS))
    assert {path.suffix for path in (tmp_path / "saved").rglob("*") if path.is_file()} == {".json", ".safetensors"}


def test_a_single_encoder_is_loaded_as_one(encoders: tuple[TextEncoder, TextEncoder], tmp_path: Path) -> None:
    encoders[0].save(tmp_path / "saved")
    loaded = load_encoder(tmp_path / "saved", UNCACHED)
    assert isinstance(loaded, TextEncoder)
    assert loaded.fingerprint == encoders[0].fingerprint


def test_fingerprint_knows_both_parts_and_the_share(encoders: tuple[TextEncoder, TextEncoder]) -> None:
    tuned, pretrained = encoders
    blends = [(tuned, pretrained, 0.3), (tuned, pretrained, 0.4), (tuned, tuned, 0.3), (pretrained, tuned, 0.3)]
    assert len({BlendedEncoder(*one).fingerprint for one in blends}) == len(blends)


def test_exchanged_or_damaged_parts_are_refused(encoders: tuple[TextEncoder, TextEncoder], tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    BlendedEncoder(*encoders, 0.3).save(folder)
    values = json.loads((folder / "blend.json").read_text())
    (folder / "blend.json").write_text(json.dumps(values | {"pretrained_share": 0.5}))
    with pytest.raises(EncoderError, match="not the ones that were saved"):
        load_encoder(folder, UNCACHED)
    (folder / "blend.json").write_text("{}")
    with pytest.raises(EncoderError, match=r"blend\.json is damaged"):
        load_encoder(folder, UNCACHED)
