"""Texts -> unit vectors by a BERT encoder: mean pooling over the tokens, an optional projection, then the L2 norm.

torch and transformers are imported when an encoder is loaded, never with this module: answering requests needs neither.
"""

from __future__ import annotations

import hashlib
import html
import json
import logging
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from features.encoder_files import EncoderParts, find_parts, read_parts, write_parts
from features.errors import EncoderError
from features.settings import Settings
from features.text_cache import EmbeddingCache, default_cache_folder, text_key

if TYPE_CHECKING:
    import torch

F32 = npt.NDArray[np.float32]
TokenIds = list[int]
T = TypeVar("T")
_CHARACTERS_PER_TOKEN = 16
_TAG = re.compile(r"</?[a-zA-Z][^<>]{0,500}>")
_READING = "1"  # changes with `clean_text`, so that embeddings of texts read in another way are not mistaken for these
_LOG_SECONDS = 15.0

log = logging.getLogger(__name__)


class EncoderSettings(Settings):
    """Which model reads the texts, and how."""

    model: str = "default"
    """`default` (all-MiniLM-L6-v2 from the installed package), a local directory, a Hugging Face name (the only
    choice that may use the network), or `none` for no text at all."""
    text_columns: tuple[str, ...] = ("title", "brand", "category", "description")
    """The item columns that make the text, in this order."""
    max_tokens: int = Field(default=64, ge=4, le=4096)
    """Tokens read of each text, special tokens included. Cost grows in proportion: measured 50 texts of 64 tokens a
    second and core, 22 of 128."""
    batch_size: int = Field(default=32, ge=1)
    """Texts a forward pass; they are sorted by length, so more gains nothing."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto` is bfloat16 where the processor computes in it (avx512_bf16, amx_bf16), else float32."""
    cache: str | None = None
    """Folder of the embedding cache; None is shelftalk/embeddings in the user's cache folder, "" or "off" is no
    cache.
    """
    cache_max_mb: int = Field(default=2048, ge=1)
    """Megabytes the cache may take on disk; the oldest files go first."""


class TextEncoder:
    """A tokenizer, a BERT-like model and an optional projection matrix (embedding_size, embedding_size).

    Got by `from_settings` or `load`; `model` stays in evaluation mode, so that dropout makes nothing random.
    `fingerprint` is the sha256 of all that decides the embedding of a tokenized text.
    """

    def __init__(
        self, model: Any, tokenizer: Any, settings: EncoderSettings, projection: torch.Tensor | None = None
    ) -> None:
        longest = int(getattr(model.config, "max_position_embeddings", settings.max_tokens))
        if settings.max_tokens > longest:
            raise EncoderError(f"encoder.max_tokens = {settings.max_tokens}: the model reads at most {longest} tokens")
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.settings = settings
        # One memory layout, before saving and after: BLAS may take another one another way, to other last digits.
        self.projection = None if projection is None else projection.contiguous()
        self._bfloat16 = _wants_bfloat16(settings.dtype)
        self._pad_id = int(tokenizer.pad_token_id or 0)
        self.fingerprint = _fingerprint(model, tokenizer, projection)
        self._cache = self._open_cache()
        self._memory: dict[bytes, F32] = {}

    @classmethod
    def from_settings(cls, settings: EncoderSettings) -> TextEncoder:
        """The pretrained encoder that `settings.model` names; EncoderError where there is none, or where it is
        damaged.
        """
        if settings.model == "none":
            raise EncoderError("encoder.model = 'none' switches text off: there is no encoder to load")
        return cls._of_parts(find_parts(settings.model), settings, settings.model)

    @classmethod
    def load(cls, folder: Path, settings: EncoderSettings | None = None) -> TextEncoder:
        """Read a saved encoder, or any folder in the Hugging Face layout; EncoderError where it is damaged.

        What `save` wrote keeps its own `max_tokens`, because its embeddings depend on it.
        """
        return cls._of_parts(read_parts(folder), settings or EncoderSettings(), str(folder))

    @classmethod
    def _of_parts(cls, parts: EncoderParts, settings: EncoderSettings, origin: str) -> TextEncoder:
        max_tokens = parts.values.get("max_tokens", settings.max_tokens)
        if not isinstance(max_tokens, int):
            raise EncoderError(f"{origin}: encoder.json says max_tokens = {max_tokens!r}, not a whole number")
        settings = settings.model_copy(update={"max_tokens": max_tokens})
        encoder = cls(parts.model, parts.tokenizer, settings, parts.projection)
        expected = parts.values.get("fingerprint", encoder.fingerprint)
        if encoder.fingerprint != expected:
            raise EncoderError(
                f"{origin}: the weights or the tokenizer are not the ones that were saved (fingerprint "
                f"{encoder.fingerprint[:12]}, expected {expected[:12]}); copy the folder again or train anew"
            )
        return encoder

    def save(self, folder: Path) -> None:
        """Write the encoder into the new folder `folder`: safetensors, tokenizer JSON and config; no pickle."""
        values = {"fingerprint": self.fingerprint, "max_tokens": self.settings.max_tokens}
        write_parts(EncoderParts(self.model, self.tokenizer, self.projection, values), folder)

    @property
    def embedding_size(self) -> int:
        """Numbers in one embedding."""
        return int(self.model.config.hidden_size)

    def encode(self, texts: Sequence[str], *, num_threads: int | None = None) -> F32:
        """(n, embedding_size) float32 unit rows; a zero row for an empty or blank text.

        Equal texts are encoded once, and texts in the cache not at all. `num_threads` of torch for this call; None
        leaves it.
        """
        distinct, rows = self._distinct(texts)
        known, vectors = self._recall([text_key(text) for text in distinct])
        missing = np.flatnonzero(~known)
        if len(missing):
            unknown = [distinct[row] for row in missing]
            vectors[missing] = self._encode_tokens(self.tokenize(unknown), num_threads)
            if self._cache:
                self.remember(unknown, vectors[missing])
        out = self._empty(len(texts))
        out[rows >= 0] = vectors[rows[rows >= 0]]
        return out

    def clean(self, text: str) -> str:
        """The part of a text that is read: no markup, no control characters, one space between words; "" if nothing
        is left.
        """
        return clean_text(text, self.settings.max_tokens * _CHARACTERS_PER_TOKEN)

    def tokenize(self, cleaned: Sequence[str]) -> list[TokenIds]:
        """Token ids of cleaned texts, at most `max_tokens` each, special tokens included."""
        if not len(cleaned):
            return []
        batch = self.tokenizer(list(cleaned), truncation=True, max_length=self.settings.max_tokens, padding=False)
        return list(batch["input_ids"])

    def embed(self, token_ids: Sequence[TokenIds]) -> torch.Tensor:
        """(n, embedding_size) unit rows of one batch, with gradients where torch records them."""
        ids, mask = self.padded(token_ids)
        return self.finish(self.model(input_ids=ids, attention_mask=mask).last_hidden_state, mask, self.projection)

    def padded(self, token_ids: Sequence[TokenIds]) -> tuple[torch.Tensor, torch.Tensor]:
        """(n, longest) int64 token ids, filled up at the end, and their attention mask of 0 and 1."""
        import torch

        lengths = np.array([len(ids) for ids in token_ids])
        mask = np.arange(lengths.max(initial=1)) < lengths[:, None]
        ids = np.full(mask.shape, self._pad_id, np.int64)
        ids[mask] = np.concatenate([np.asarray(ids, np.int64) for ids in token_ids])
        return torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64))

    def finish(self, hidden: torch.Tensor, mask: torch.Tensor, projection: torch.Tensor | None) -> torch.Tensor:
        """The last hidden states (n, tokens, embedding_size) -> mean over the mask, projection, unit length;
        float32.
        """
        import torch

        weights = mask.unsqueeze(-1).to(torch.float32)
        with torch.autocast("cpu", enabled=False):
            mean = (hidden.float() * weights).sum(1) / weights.sum(1)
            return torch.nn.functional.normalize(mean if projection is None else mean @ projection, dim=1)

    def autocast(self) -> torch.autocast:
        """A context in which torch computes in the encoder's `dtype`."""
        import torch

        return torch.autocast("cpu", dtype=torch.bfloat16, enabled=self._bfloat16)

    def with_weights(self, model: Any, projection: torch.Tensor | None) -> TextEncoder:
        """The same settings and tokenizer with other weights."""
        return TextEncoder(model, self.tokenizer, self.settings, projection)

    def remember(self, cleaned: Sequence[str], vectors: F32) -> None:
        """Keep the embeddings of cleaned texts: in the cache or, where that is switched off, in memory."""
        keys = [text_key(text) for text in cleaned]
        if self._cache:
            self._cache.add(keys, vectors)
        else:
            self._memory.update(zip(keys, vectors, strict=True))

    def knows(self, cleaned: Sequence[str]) -> bool:
        """Whether the embeddings of all these cleaned texts are kept."""
        return bool(self._recall([text_key(text) for text in cleaned])[0].all())

    def _recall(self, keys: Sequence[bytes]) -> tuple[npt.NDArray[np.bool_], F32]:
        if self._cache:
            return self._cache.find(keys)
        vectors = self._empty(len(keys))
        known = np.array([key in self._memory for key in keys], bool)
        for row in np.flatnonzero(known).tolist():
            vectors[row] = self._memory[keys[row]]
        return known, vectors

    def _distinct(self, texts: Sequence[str]) -> tuple[list[str], npt.NDArray[np.int64]]:
        """The different non-empty cleaned texts, and each text's place among them (-1: empty)."""
        places: dict[str, int] = {}
        rows = np.full(len(texts), -1, np.int64)
        for row, text in enumerate(texts):
            if cleaned := self.clean(text):
                rows[row] = places.setdefault(cleaned, len(places))
        return list(places), rows

    def _encode_tokens(self, token_ids: Sequence[TokenIds], num_threads: int | None) -> F32:
        import torch

        out = self._empty(len(token_ids))
        batches = length_sorted_batches(token_ids, self.settings.batch_size)
        with torch_threads(num_threads), torch.inference_mode(), self.autocast():
            for rows in progress(batches, f"encoding {len(token_ids):,} texts"):
                out[rows] = self.embed([token_ids[row] for row in rows]).float().numpy()
        return out

    def _empty(self, n: int) -> F32:
        return np.zeros((n, self.embedding_size), np.float32)

    def _open_cache(self) -> EmbeddingCache | None:
        if self.settings.cache in {"", "off"}:
            return None
        root = Path(self.settings.cache).expanduser() if self.settings.cache else default_cache_folder()
        parts = (self.fingerprint, str(self.settings.max_tokens), str(self._bfloat16), _READING)
        model_key = hashlib.sha256("|".join(parts).encode()).hexdigest()[:32]
        return EmbeddingCache(root, model_key, self.embedding_size, self.settings.cache_max_mb * 2**20)


def clean_text(text: str, max_characters: int) -> str:
    """At most `max_characters` of a text, without markup, entities, NUL bytes and lone surrogates, spaces collapsed."""
    head = text[: 4 * max_characters].replace("\0", " ")
    if "&" in head or "<" in head:
        head = _TAG.sub(" ", html.unescape(head))
    head = head.encode("utf-8", "replace").decode("utf-8").replace("\0", " ")
    return " ".join(head.split())[:max_characters].rstrip()


def length_sorted_batches(token_ids: Sequence[TokenIds], batch_size: int) -> list[npt.NDArray[np.int64]]:
    """Rows in batches of similar length, the longest first (so that running out of memory shows at once)."""
    order = np.argsort([-len(ids) for ids in token_ids], kind="stable").astype(np.int64)
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


@contextmanager
def torch_threads(num_threads: int | None) -> Iterator[None]:
    """Run with `num_threads` of torch and put back what was set before; None changes nothing."""
    import torch

    before = torch.get_num_threads()
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def progress(steps: Sequence[T], what: str) -> Iterator[T]:
    """The steps one by one, with a bar on a terminal and a log line every 15 seconds elsewhere."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(steps, desc=what, leave=False)
        return
    last = time.monotonic()
    for done, step in enumerate(steps):
        yield step
        if time.monotonic() - last > _LOG_SECONDS:
            last = time.monotonic()
            log.info("%s: %.0f %%", what, 100.0 * (done + 1) / len(steps))


def _wants_bfloat16(dtype: str) -> bool:
    if dtype != "auto":
        return dtype == "bfloat16"
    import torch

    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _fingerprint(model: Any, tokenizer: Any, projection: torch.Tensor | None) -> str:
    """sha256 over every weight, the projection, the vocabulary and the tokenizer's kind."""
    digest = hashlib.sha256()
    weights = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("pooler.")}
    if projection is not None:
        weights["projection"] = projection
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(np.ascontiguousarray(tensor.detach().float().numpy()).tobytes())
    words = sorted(tokenizer.get_vocab().items())
    lower = bool(getattr(tokenizer, "do_lower_case", False))
    digest.update(json.dumps([type(tokenizer).__name__, lower, words]).encode())
    return digest.hexdigest()
