"""The encoder that serves: the vectors of the one that was trained, without torch."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from features.blended_encoder import BlendedEncoder, blend
from features.encoder import EncoderSettings, TextEncoder
from features.errors import EncoderError
from features.numpy_encoder import BlendedNumpyEncoder, NumpyEncoder, load_numpy_encoder
from features.tensor_files import different_tensors, mapped_tensors
from tiny_bert import write_tiny_bert

TEXTS = [
    "red table", "a wooden chair and a very long steel lamp, with a table " * 4, "", " <br/> ", "dragon",
    "<p>red &amp; <b>blue</b></p>", "价格 ужин", "x" * 500, "lone \ud800 surrogate", "RED Table",
]  # fmt: skip


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    folder = write_tiny_bert(tmp_path_factory.mktemp("tiny") / "model")
    settings = EncoderSettings.model_validate(
        {"model": str(folder), "cache": "off", "max_tokens": 16, "dtype": "float32"}
    )
    return TextEncoder.from_settings(settings)


def projected(encoder: TextEncoder) -> TextEncoder:
    import torch

    generator = torch.Generator().manual_seed(0)
    return encoder.with_weights(encoder.model, torch.randn(64, 64, generator=generator))


@pytest.mark.parametrize("tuned", [False, True])
def test_the_vectors_are_those_of_torch(encoder: TextEncoder, tmp_path: Path, tuned: bool) -> None:
    trained = projected(encoder) if tuned else encoder
    trained.save(tmp_path / "encoder")
    serving = load_numpy_encoder(tmp_path / "encoder", max_tokens=64)
    np.testing.assert_allclose(serving.encode(TEXTS), trained.encode(TEXTS), atol=1e-5)


def test_both_halves_of_a_blend_are_read(encoder: TextEncoder, tmp_path: Path) -> None:
    blended = BlendedEncoder(projected(encoder), encoder, 0.3)
    blended.save(tmp_path / "encoder")
    serving = load_numpy_encoder(tmp_path / "encoder", max_tokens=64)
    np.testing.assert_allclose(serving.encode(TEXTS), blended.encode(TEXTS), atol=1e-5)


@pytest.mark.parametrize(
    ("changed", "shared"),
    [
        ([], 2),
        (["encoder.layer.1.output.dense.bias"], 1),
        (["encoder.layer.1.attention.self.key.weight", "encoder.layer.0.output.LayerNorm.weight"], 0),
        (["embeddings.word_embeddings.weight"], None),
        (["embeddings.LayerNorm.bias", "encoder.layer.1.output.dense.bias"], None),
    ],
)
def test_layers_that_were_left_as_they_are_run_once_for_both(
    encoder: TextEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: list[str], shared: int | None
) -> None:
    """Beginning with the first that was trained, every layer's input differs."""
    import torch

    model = copy.deepcopy(encoder.model)
    with torch.no_grad():
        for name in changed:
            weights = model.get_parameter(name)
            weights.view(-1)[-1] += 0.5  # the last of them alone
    BlendedEncoder(encoder.with_weights(model, None), encoder, 0.3).save(tmp_path / "encoder")
    serving = load_numpy_encoder(tmp_path / "encoder", max_tokens=16)
    assert isinstance(serving, BlendedNumpyEncoder)
    assert serving.shared == shared
    apart = (serving.tuned.encode(TEXTS), serving.pretrained.encode(TEXTS))
    runs, block = [], NumpyEncoder._block
    monkeypatch.setattr(NumpyEncoder, "_block", lambda self, *given: runs.append(1) or block(self, *given))
    np.testing.assert_array_equal(serving.encode(TEXTS), blend(*apart, 0.3))
    assert len(runs) == (4 - (shared or 0)) * sum(bool(text.strip(" <br/>")) for text in TEXTS)


def test_tensors_that_differ_are_named(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    ones = {"a": np.ones((3, 700_000), np.float32), "b": np.ones(4, np.float32), "c": np.ones((2, 2), np.float32)}
    save_file(ones, tmp_path / "one")
    late = ones["a"].copy()
    late[-1, -1] = 2.0
    for name, other in {"a": late, "b": np.zeros(4, np.float32), "c": np.ones(4, np.float32)}.items():
        save_file(ones | {name: other}, tmp_path / "other")
        assert different_tensors(tmp_path / "one", tmp_path / "other") == {name}
    save_file(ones | {"d": late}, tmp_path / "other", metadata={"made": "elsewhere"})
    assert different_tensors(tmp_path / "one", tmp_path / "other") == {"d"}
    assert different_tensors(tmp_path / "other", tmp_path / "one") == {"d"}
    assert different_tensors(tmp_path / "one", tmp_path / "one") == set()
    save_file(ones | {"e": np.ones(3, np.int64)}, tmp_path / "other")  # nothing reads it
    assert different_tensors(tmp_path / "one", tmp_path / "other") == set()


@pytest.mark.parametrize(
    "header",
    [
        b"[]", b"{", b'{"a": {"shape": [1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "data_offsets": [0, 4]}}', b'{"a": {"dtype": "F32", "shape": [1]}}',
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}',
    ],
)  # fmt: skip
def test_a_damaged_file_is_named(tmp_path: Path, header: bytes) -> None:
    whole = b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'
    for name, content in (("whole", whole), ("broken", header)):
        (tmp_path / name).write_bytes(len(content).to_bytes(8, "little") + content + bytes(4))
    for one, other in (("whole", "broken"), ("broken", "whole"), ("broken", "broken")):
        with pytest.raises(EncoderError, match="/broken is damaged"):
            different_tensors(tmp_path / one, tmp_path / other)
    with pytest.raises(EncoderError, match="/broken is damaged"):
        mapped_tensors(tmp_path / "broken")
    assert different_tensors(tmp_path / "whole", tmp_path / "whole") == set()


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_models_of_other_kinds_are_read_as_they_are_meant(
    encoder: TextEncoder, tmp_path: Path, activation: str
) -> None:
    import torch
    from transformers import RobertaConfig, RobertaModel

    config = RobertaConfig(
        vocab_size=len(encoder.tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=64, pad_token_id=0, hidden_act=activation, type_vocab_size=1,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(1)
        other = encoder.with_weights(RobertaModel(config, add_pooling_layer=False), None)
    other.save(tmp_path / "encoder")
    np.testing.assert_allclose(
        load_numpy_encoder(tmp_path / "encoder", 64).encode(TEXTS), other.encode(TEXTS), atol=1e-5
    )


def test_a_text_has_one_vector_whatever_is_read_with_it(encoder: TextEncoder, tmp_path: Path) -> None:
    encoder.save(tmp_path / "encoder")
    serving = load_numpy_encoder(tmp_path / "encoder", 64)
    together = serving.encode(TEXTS)
    for row, text in enumerate(TEXTS):
        assert (serving.encode([text])[0] == together[row]).all()
    assert serving.encode([]).shape == (0, 64)


def test_serving_loads_no_torch(encoder: TextEncoder, tmp_path: Path) -> None:
    encoder.save(tmp_path / "encoder")
    code = (
        "import sys; from pathlib import Path; from features.numpy_encoder import load_numpy_encoder;"
        f"load_numpy_encoder(Path({str(tmp_path / 'encoder')!r}), 64).encode(['red table']);"
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[1]).returncode == 0


def test_the_weights_stay_in_their_file(encoder: TextEncoder, tmp_path: Path) -> None:
    """Mapped memory is shared by all workers."""
    encoder.save(tmp_path / "encoder")
    path = tmp_path / "encoder" / "model.safetensors"
    words = mapped_tensors(path)["embeddings.word_embeddings.weight"]
    assert not words.flags.writeable
    lines = Path("/proc/self/maps").read_text().splitlines()
    address = words.ctypes.data
    own = next(
        line for line in lines if int(line.split("-")[0], 16) <= address < int(line.split()[0].split("-")[1], 16)
    )
    assert own.endswith(str(path))


def test_damage_and_unknown_models_are_named(encoder: TextEncoder, tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    encoder.save(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "t5"}))
    with pytest.raises(EncoderError, match="type 't5'"):
        load_numpy_encoder(folder, 64)
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(EncoderError, match=r"lacks the weights .*layer\.2"):
        load_numpy_encoder(folder, 64)
    (folder / "config.json").write_text(json.dumps(config))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(EncoderError, match=r"model\.safetensors is damaged"):
        load_numpy_encoder(folder, 64)
