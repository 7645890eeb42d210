"""How much the text encoder learns from behaviour, and in which way."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from features.augmentation import AugmentationSettings
from features.settings import Settings

_LEAST_SHARE = 0.05
"""Of one encoder in an embedding, which is rounded to the item grid."""


class FinetuneSettings(Settings):
    """How much the encoder learns from behaviour, and what of it."""

    enabled: bool = True
    trainable: Literal["projection", "last_layers", "full", "lora"] = "last_layers"
    """What is trained after the projection: nothing, the last layers, all layers, or LoRA adapters (needs peft)."""
    num_layers: int = Field(default=4, ge=1)
    """The layers that `last_layers` trains; those below are run once an item. Items that nobody has touched are found
    better where more layers are trained.
    """
    projection_steps: int = Field(default=600, ge=0)
    """Most optimizer steps of the projection; 13 ms each."""
    projection_learning_rate: float = Field(default=2e-3, gt=0)
    max_steps: int = Field(default=20, ge=0)
    """Most optimizer steps of the model's layers; 4 core seconds each with the default encoder and 64 tokens."""
    learning_rate: float = Field(default=5e-5, gt=0)
    """Of the model's layers; `lora` needs some twenty times as much."""
    max_pairs: int = Field(default=200_000, ge=1)
    """Pairs used at most, drawn at random from all users; bounds the time of an epoch and memory."""
    batch_size: int = Field(default=128, ge=3)
    """Different items a batch; each of them stands against all others."""
    gradient_accumulation: int = Field(default=1, ge=1)
    """Batches an optimizer step, for the model's layers."""
    warmup_share: float = Field(default=0.1, ge=0, le=1)
    temperature: float = Field(default=0.1, gt=0)
    popularity_correction: bool = True
    """Lower the training scores by the log of how often an item is sampled (logQ)."""
    symmetric: bool = True
    """Ask in both directions, also which of the batch's items (or histories) came before this one."""
    history_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the loss that asks what came after a short history (its items' mean, halved with every moment back);
    the rest asks what goes with a single item."""
    hard_negatives: int = Field(default=0, ge=0)
    """Drawn for each item that starts a pair, from its neighbours by behaviour, less what the user knows; a forward
    pass each."""
    hard_negative_pool: int = Field(default=50, ge=1)
    """Neighbours of an item to draw from."""
    behaviour_alignment: float = Field(default=0.0, ge=0)
    """Weight of a loss that wants items alike by text that are alike by behaviour (ALS factors)."""
    adversarial_size: float = Field(default=0.0, ge=0, lt=1)
    """Length by which each unit embedding is moved against its loss (adversarial training); 0 is none."""
    weight_averaging: float = Field(default=0.0, ge=0, lt=1)
    """Decay a step of the running mean of the weights, which is then judged and kept; 0 is none."""
    augmentation: AugmentationSettings = AugmentationSettings()
    keep_pretrained: float = Field(default=0.2, ge=0, lt=1)
    """Share of the pretrained encoder in the similarity of two texts, in embeddings of twice the size; 0 is none.
    Sources that learn themselves what a text means to behaviour (`sequence`, `als`) then read the pretrained part.
    """
    share_held_out: float = Field(default=0.15, gt=0, lt=1)
    """Share of users that judge; at most 2,000 of them."""
    patience: int = Field(default=3, ge=1)
    """Evaluations in a row without a better score after which training stops."""
    evaluations: int = Field(default=5, ge=1)
    """Evaluations spread over the full number of steps of a stage."""
    min_pairs: int = Field(default=200, ge=1)
    """With fewer training pairs the pretrained encoder is kept."""
    hidden_cache_mb: int = Field(default=2048, ge=0)
    """Memory for what `last_layers` keeps of the frozen layers; 100 kB an item of 64 tokens. What has no room is run
    anew at every step.
    """

    @model_validator(mode="after")
    def _both_parts_are_there(self) -> Self:
        if 0 < self.keep_pretrained < _LEAST_SHARE or self.keep_pretrained > 1 - _LEAST_SHARE:
            raise ValueError(
                f"keep_pretrained {self.keep_pretrained} must be 0 or from {_LEAST_SHARE} to {1 - _LEAST_SHARE}: a "
                "smaller part of an embedding is lost in rounding"
            )
        return self
