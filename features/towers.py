"""What of an encoder is trained: a projection, the last layers over cached lower ones, the whole model or LoRA
adapters.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from features.augmentation import TextAugmenter
from features.encoder import TextEncoder, TokenIds, length_sorted_batches, progress
from features.errors import EncoderError

if TYPE_CHECKING:
    import torch

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]
_ALTERED = -1  # in place of the item's row: these are not its own tokens
_SPLITTABLE = ("bert", "roberta", "xlm-roberta", "camembert")


class ProjectionTower:
    """A matrix after the pooling, from the identity; the model itself stays, so that its embeddings are needed only
    once.

    `base` (n_items, embedding_size) float32: the items' embeddings before.
    """

    def __init__(self, encoder: TextEncoder, base: F32) -> None:
        import torch

        self._encoder = encoder
        self._base = torch.from_numpy(base)
        self._matrix = torch.eye(encoder.embedding_size).requires_grad_()

    def trainable(self) -> list[torch.Tensor]:
        """The matrix."""
        return [self._matrix]

    def embed(self, item_rows: I64, rng: np.random.Generator | None = None) -> torch.Tensor:  # noqa: ARG002
        """See `Tower.embed`; nothing is read, so that nothing can be altered."""
        import torch

        return torch.nn.functional.normalize(self._base[item_rows] @ self._matrix, dim=1)

    def embed_all(self, item_rows: I64) -> F32:
        """(m, embedding_size) unit rows without gradients."""
        import torch

        with torch.no_grad():
            return np.asarray(self.embed(item_rows).numpy(), np.float32)

    def encoder(self) -> TextEncoder:
        """An encoder with the matrix as it is now."""
        matrix = self._matrix.detach().clone()
        before = self._encoder.projection
        return self._encoder.with_weights(self._encoder.model, matrix if before is None else before @ matrix)


class ModelTower:
    """A copy of the encoder of which `choose_weights` decides what is trained, and its projection with it.

    `token_ids` holds each item's tokens; items are read in batches of similar length. What `alter_with` is given
    alters texts in training.
    """

    def __init__(self, encoder: TextEncoder, token_ids: Sequence[TokenIds]) -> None:
        import torch

        self._source = encoder
        self._token_ids = token_ids
        self._augmenter: TextAugmenter | None = None
        self._model = copy.deepcopy(encoder.model).requires_grad_(False)
        before = encoder.projection
        self._projection = (torch.eye(encoder.embedding_size) if before is None else before.clone()).requires_grad_()

    def start_from(self, projection: torch.Tensor | None) -> None:
        """Go on from a projection that was trained before."""
        import torch

        with torch.no_grad():
            self._projection.copy_(torch.eye(len(self._projection)) if projection is None else projection)

    def alter_with(self, augmenter: TextAugmenter) -> None:
        """Alter some of the texts wherever `embed` is given an `rng`."""
        self._augmenter = augmenter

    def trainable(self) -> list[torch.Tensor]:
        """The projection and what of the model is trained."""
        return [self._projection, *(p for p in self._model.parameters() if p.requires_grad)]

    def embed(self, item_rows: I64, rng: np.random.Generator | None = None) -> torch.Tensor:
        """See `Tower.embed`."""
        import torch

        tokens, altered = self._read(item_rows, rng)
        groups = [places for places in (np.flatnonzero(~altered), np.flatnonzero(altered)) if len(places)]
        size = self._source.settings.batch_size
        batches = [own[b] for own in groups for b in length_sorted_batches([tokens[place] for place in own], size)]
        keys = np.where(altered, _ALTERED, item_rows)
        with self._source.autocast():
            parts = [self._embed_batch(keys[batch], [tokens[place] for place in batch]) for batch in batches]
        back = np.argsort(np.concatenate(batches))
        return torch.cat(parts)[back]

    def _read(self, item_rows: I64, rng: np.random.Generator | None) -> tuple[list[TokenIds], npt.NDArray[np.bool_]]:
        """The items' tokens, and which of them are not the items' own, (m,)."""
        tokens = [self._token_ids[row] for row in item_rows]
        altered = np.zeros(len(item_rows), bool)
        if self._augmenter is not None and rng is not None:
            altered = self._augmenter.choose(len(item_rows), rng)
            places = np.flatnonzero(altered)
            for place, ids in zip(places.tolist(), self._augmenter.tokens(item_rows[places], rng), strict=True):
                tokens[place] = ids
        return tokens, altered

    def embed_all(self, item_rows: I64) -> F32:
        """(m, embedding_size) unit rows without gradients; 512 items at a time."""
        import torch

        out = np.empty((len(item_rows), self._source.embedding_size), np.float32)
        order = np.argsort([-len(self._token_ids[row]) for row in item_rows], kind="stable")
        blocks = [order[start : start + 512] for start in range(0, len(order), 512)]
        with torch.no_grad():
            for block in progress(blocks, f"encoding {len(item_rows):,} texts"):
                out[block] = self.embed(item_rows[block]).numpy()
        return out

    def encoder(self) -> TextEncoder:
        """An encoder with the weights as they are now."""
        model = copy.deepcopy(self._finished_model()).requires_grad_(False)
        return self._source.with_weights(model, self._projection.detach().clone())

    def _embed_batch(self, item_rows: I64, token_ids: Sequence[TokenIds]) -> torch.Tensor:  # noqa: ARG002
        ids, mask = self._source.padded(token_ids)
        hidden = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
        return self._source.finish(hidden, mask, self._projection)

    def _finished_model(self) -> Any:
        return self._model


class FullTower(ModelTower):
    """Every layer is trained, the word embeddings are not: 12 of 23 million weights that a small data set can't move
    well.
    """

    def __init__(self, encoder: TextEncoder, token_ids: Sequence[TokenIds]) -> None:
        super().__init__(encoder, token_ids)
        for name, weight in self._model.named_parameters():
            weight.requires_grad_(not name.startswith(("embeddings.", "pooler.")))


class LoraTower(ModelTower):
    """Low-rank adapters (Hu et al. 2022) of every attention's queries and values, merged into the weights
    afterwards.
    """

    def __init__(self, encoder: TextEncoder, token_ids: Sequence[TokenIds], seed: int, rank: int = 8) -> None:
        import torch

        super().__init__(encoder, token_ids)
        try:
            from peft import LoraConfig, get_peft_model
        except ImportError as error:
            raise EncoderError(
                "finetune.trainable = 'lora' needs the package peft: `pip install peft`, or set it to 'last_layers'"
            ) from error
        config = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=["query", "value"])
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self._model = get_peft_model(self._model, config).eval()

    def _finished_model(self) -> Any:
        return copy.deepcopy(self._model).merge_and_unload()


class LastLayersTower(ModelTower):
    """The last `num_layers` layers are trained; what the frozen ones below make of an item is computed once and kept.

    At most `cache_bytes` of hidden states (tokens, embedding_size) float32 are kept; items beyond that are read anew.
    """

    def __init__(self, encoder: TextEncoder, token_ids: Sequence[TokenIds], num_layers: int, cache_bytes: int) -> None:
        super().__init__(encoder, token_ids)
        kind = getattr(self._model.config, "model_type", "")
        if kind not in _SPLITTABLE:
            raise EncoderError(
                f"finetune.trainable = 'last_layers' can't split a model of type {kind!r} "
                f"(it can {', '.join(_SPLITTABLE)}); set it to 'full' or 'projection'"
            )
        layers = list(self._model.encoder.layer)
        split = max(0, len(layers) - num_layers)
        self._lower, self._upper = layers[:split], layers[split:]
        for layer in self._upper:
            layer.requires_grad_(True)
        self._hidden: dict[int, torch.Tensor] = {}
        self._bytes_left = cache_bytes

    def _embed_batch(self, item_rows: I64, token_ids: Sequence[TokenIds]) -> torch.Tensor:
        ids, mask = self._source.padded(token_ids)
        attention = _additive(mask)
        hidden = self._lower_states(item_rows, ids, mask, attention)
        for layer in self._upper:
            hidden = layer(hidden, attention)
        return self._source.finish(hidden, mask, self._projection)

    def _lower_states(
        self, item_rows: I64, ids: torch.Tensor, mask: torch.Tensor, attention: torch.Tensor
    ) -> torch.Tensor:
        import torch

        rows = item_rows.tolist()
        known = {place: self._hidden[row] for place, row in enumerate(rows) if row in self._hidden}
        missing = [place for place in range(len(rows)) if place not in known]
        if missing:
            with torch.no_grad():
                hidden = self._model.embeddings(input_ids=ids[missing])
                for layer in self._lower:
                    hidden = layer(hidden, attention[missing])
            for place, states, length in zip(missing, hidden.float(), mask[missing].sum(1).tolist(), strict=True):
                known[place] = states[:length]
                self._keep(rows[place], states[:length])
        ordered = [known[place] for place in range(len(rows))]
        padded: torch.Tensor = torch.nn.utils.rnn.pad_sequence(ordered, batch_first=True)
        return padded

    def _keep(self, row: int, states: torch.Tensor) -> None:
        size = states.numel() * 4
        if row not in self._hidden and row != _ALTERED and size <= self._bytes_left:
            self._hidden[row] = states.clone()
            self._bytes_left -= size


def _additive(mask: torch.Tensor) -> torch.Tensor:
    """(n, 1, 1, tokens) float32: 0 where there is a token, the lowest number elsewhere."""
    import torch

    masked = torch.zeros(mask.shape[0], 1, 1, mask.shape[1])
    return masked.masked_fill(mask[:, None, None, :] == 0, torch.finfo(torch.float32).min)
