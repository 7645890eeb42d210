"""Texts -> unit vectors as `TextEncoder` makes them, in numpy alone: what a service embeds new items with.

torch would add half a gigabyte to every worker. The weights stay in their safetensors file, which all workers map
together, and a text is read alone, without padding, so that its vector depends on no other text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from scipy.special import erf

from features.blended_encoder import blend
from features.encoder import clean_text
from features.errors import EncoderError
from features.tensor_files import different_tensors, mapped_tensors

F32 = npt.NDArray[np.float32]
T = TypeVar("T")
_OFFSETS = {"bert": 0, "roberta": None, "xlm-roberta": None, "camembert": None}
"""Position of the first token, by the model's type; None: behind that of the padding."""
_CHARACTERS_PER_TOKEN = 16
_VALUES_FILE, _PROJECTION_FILE, _BLEND_FILE = "encoder.json", "projection.safetensors", "blend.json"
_WEIGHTS_FILE = "model.safetensors"


class ServingEncoder(Protocol):
    """What makes embeddings while requests are answered."""

    def encode(self, texts: Sequence[str]) -> F32:
        """(n, embedding_size) float32 unit rows; a zero row for an empty or blank text."""
        ...


@dataclass(frozen=True)
class _Layer:
    """Weights (out, in) and biases of one layer, as they are in the file."""

    query: tuple[F32, F32]
    key: tuple[F32, F32]
    value: tuple[F32, F32]
    joined: tuple[F32, F32]
    norm_attention: tuple[F32, F32]
    wide: tuple[F32, F32]
    narrow: tuple[F32, F32]
    norm_output: tuple[F32, F32]


class NumpyEncoder:
    """A BERT-like encoder in numpy, from the folder that `TextEncoder.save` wrote: the same vectors within 1e-5 of
    float32 (bfloat16, which training may use, is off by 1e-2 in a cosine at most).
    """

    def __init__(self, folder: Path, max_tokens: int) -> None:
        from tokenizers import Tokenizer

        self.folder = folder
        config = _read_json(folder / "config.json")
        self._check(folder, config)
        weights = _prefixless(mapped_tensors(folder / _WEIGHTS_FILE))
        try:
            self._read(config, weights)
        except KeyError as error:
            raise EncoderError(f"{folder}/{_WEIGHTS_FILE} lacks the weights {error}; train anew") from None
        self._max_tokens = int(_read_json(folder / _VALUES_FILE, {}).get("max_tokens", max_tokens))
        path = folder / _PROJECTION_FILE
        self._projection = mapped_tensors(path)["projection"] if path.is_file() else None
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # noqa: BLE001  (the library raises nothing narrower)
            raise EncoderError(f"{folder}/tokenizer.json can't be read: {error}; train anew") from None
        self._tokenizer.no_padding()  # the file may ask for a fixed length
        self._tokenizer.enable_truncation(self._max_tokens)

    @staticmethod
    def _check(folder: Path, config: Mapping[str, Any]) -> None:
        kind, activation = config.get("model_type"), config.get("hidden_act", "gelu")
        if kind not in _OFFSETS or activation not in _ACTIVATIONS:
            raise EncoderError(
                f"{folder}: a model of type {kind!r} with the activation {activation!r} can't embed items in service "
                f"(types {', '.join(_OFFSETS)}, activations {', '.join(_ACTIVATIONS)}); train with such a one"
            )

    def _read(self, config: Mapping[str, Any], weights: Mapping[str, F32]) -> None:
        def pair(name: str) -> tuple[F32, F32]:
            return weights[f"{name}.weight"], weights[f"{name}.bias"]

        self._words, self._positions = (
            weights[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position")
        )
        self._type = weights["embeddings.token_type_embeddings.weight"][0]
        self._norm = pair("embeddings.LayerNorm")
        self._heads, self._epsilon = int(config["num_attention_heads"]), float(config.get("layer_norm_eps", 1e-12))
        self._activate = _ACTIVATIONS[config.get("hidden_act", "gelu")]
        offset = _OFFSETS[config["model_type"]]
        self._first_position = int(config.get("pad_token_id") or 0) + 1 if offset is None else offset
        self._layers = [
            _Layer(*(pair(f"encoder.layer.{k}.{name}") for name in _LAYER_PARTS))
            for k in range(int(config["num_hidden_layers"]))
        ]

    @property
    def embedding_size(self) -> int:
        """Numbers in one embedding."""
        return int(self._words.shape[1])

    def encode(self, texts: Sequence[str]) -> F32:
        """See `ServingEncoder.encode`; markup is read as in training."""
        out = np.zeros((len(texts), self.embedding_size), np.float32)
        for row, text in enumerate(texts):
            if ids := self.read(text):
                out[row] = self.finished(self.begun(ids, 0), 0)
        return out

    def read(self, text: str) -> list[int]:
        """The text's tokens; none of a blank one."""
        cleaned = clean_text(text, self._max_tokens * _CHARACTERS_PER_TOKEN)
        return list(self._tokenizer.encode(cleaned).ids) if cleaned else []

    def begun(self, ids: Sequence[int], num_layers: int) -> F32:
        """The tokens' states, (n_tokens, size) float32, behind the first `num_layers` layers."""
        places = self._first_position + np.arange(len(ids))
        x = self._normalised(self._words[ids] + self._positions[places] + self._type, self._norm)
        for layer in self._layers[:num_layers]:
            x = self._block(layer, x)
        return x

    def finished(self, x: F32, num_layers: int) -> F32:
        """One text's unit vector, from its tokens' states behind the first `num_layers` layers: the mean of the last
        ones, projected.
        """
        for layer in self._layers[num_layers:]:
            x = self._block(layer, x)
        mean = x.mean(axis=0)
        if self._projection is not None:
            mean = mean @ self._projection
        return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12), np.float32)

    def shared_layers(self, other: NumpyEncoder) -> int | None:
        """How many of the first layers are the same in both, to the last bit; None where a text does not even begin
        alike.
        """
        if self._reading() != other._reading():
            return None
        differ = _prefixless(dict.fromkeys(different_tensors(*(one.folder / _WEIGHTS_FILE for one in (self, other)))))
        if any(name.startswith("embeddings.") for name in differ):
            return None
        layers = (name.split(".")[2] for name in differ if name.startswith("encoder.layer."))
        return min([int(layer) for layer in layers], default=len(self._layers))

    def _reading(self) -> tuple[object, ...]:
        """What else a text's states depend on."""
        tokens = (self._tokenizer.to_str(), self._max_tokens, self._first_position)
        return *tokens, self._heads, self._epsilon, self._activate, len(self._layers)

    def _block(self, layer: _Layer, x: F32) -> F32:
        length, size = x.shape
        query, key, value = (
            _linear(x, part).reshape(length, self._heads, -1).transpose(1, 0, 2)
            for part in (layer.query, layer.key, layer.value)
        )
        weights = query @ key.transpose(0, 2, 1) / np.float32(math.sqrt(size // self._heads))
        weights = np.exp(weights - weights.max(axis=2, keepdims=True))
        weights /= weights.sum(axis=2, keepdims=True)
        read = (weights @ value).transpose(1, 0, 2).reshape(length, size)
        x = self._normalised(x + _linear(read, layer.joined), layer.norm_attention)
        inner = _linear(self._activate(_linear(x, layer.wide)), layer.narrow)
        return self._normalised(x + inner, layer.norm_output)

    def _normalised(self, x: F32, norm: tuple[F32, F32]) -> F32:
        centred = x - x.mean(axis=1, keepdims=True)
        variance = (centred * centred).mean(axis=1, keepdims=True)
        return np.asarray(centred / np.sqrt(variance + np.float32(self._epsilon)) * norm[0] + norm[1], np.float32)


class BlendedNumpyEncoder:
    """What `BlendedEncoder` encodes, in numpy. Layers that fine-tuning left as they were are run once for both."""

    def __init__(self, tuned: NumpyEncoder, pretrained: NumpyEncoder, pretrained_share: float) -> None:
        self.tuned, self.pretrained, self.pretrained_share = tuned, pretrained, pretrained_share
        self.shared = tuned.shared_layers(pretrained)

    def encode(self, texts: Sequence[str]) -> F32:
        """See `ServingEncoder.encode`."""
        if self.shared is None:
            return blend(self.tuned.encode(texts), self.pretrained.encode(texts), self.pretrained_share)
        both = (self.tuned, self.pretrained)
        tuned, pretrained = (np.zeros((len(texts), one.embedding_size), np.float32) for one in both)
        for row, text in enumerate(texts):
            if ids := self.tuned.read(text):
                x = self.tuned.begun(ids, self.shared)
                tuned[row], pretrained[row] = (one.finished(x, self.shared) for one in both)
        return blend(tuned, pretrained, self.pretrained_share)


def load_numpy_encoder(folder: Path, max_tokens: int) -> NumpyEncoder | BlendedNumpyEncoder:
    """What either encoder's `save` wrote into `folder`; `max_tokens` where it does not say. EncoderError where it is
    damaged, or is a model that numpy does not know.
    """
    if not (folder / _BLEND_FILE).is_file():
        return NumpyEncoder(folder, max_tokens)
    share = float(_read_json(folder / _BLEND_FILE)["pretrained_share"])
    tuned, pretrained = (NumpyEncoder(folder / name, max_tokens) for name in ("tuned", "pretrained"))
    return BlendedNumpyEncoder(tuned, pretrained, share)


_LAYER_PARTS = (
    "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
    "attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm",
)  # fmt: skip


def _gelu(x: F32) -> F32:
    """The exact form, which BERT uses (Hendrycks and Gimpel 2016)."""
    return np.asarray(x * np.float32(0.5) * (1 + erf(x * np.float32(math.sqrt(0.5)))), np.float32)


def _gelu_tanh(x: F32) -> F32:
    inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x * x * x)
    return np.asarray(x * np.float32(0.5) * (1 + np.tanh(inner)), np.float32)


def _relu(x: F32) -> F32:
    return np.maximum(x, np.float32(0))


_ACTIVATIONS: dict[str, Callable[[F32], F32]] = {
    "gelu": _gelu, "gelu_new": _gelu_tanh, "gelu_pytorch_tanh": _gelu_tanh, "relu": _relu,
}  # fmt: skip


def _linear(x: F32, part: tuple[F32, F32]) -> F32:
    return np.asarray(x @ part[0].T + part[1])


def _prefixless(weights: Mapping[str, T]) -> dict[str, T]:
    """Names without the model's own (`bert.`), which some files have."""
    prefixes = ("bert.", "roberta.")
    return {next((n.removeprefix(p) for p in prefixes if n.startswith(p)), n): w for n, w in weights.items()}


def _read_json(path: Path, default: dict[str, Any] | None = None) -> dict[str, Any]:
    if default is not None and not path.is_file():
        return default
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EncoderError(f"{path} is damaged: {error}; copy the bundle again or train anew") from None
    return values
