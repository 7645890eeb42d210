"""A generated BERT for quick tests: 2 layers, 64 numbers, its own WordPiece vocabulary; built in a fraction of a
second.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from pathlib import Path

WORDS = (
    "red",
    "blue",
    "green",
    "wooden",
    "steel",
    "table",
    "chair",
    "lamp",
    "phone",
    "paper",
    "dragon",
    "space",
    "ship",
)


def write_tiny_bert(folder: Path, words: Sequence[str] = WORDS, *, seed: int = 0, num_layers: int = 2) -> Path:
    """A model folder in the Hugging Face layout with random weights of one seed; letters make every other ASCII
    word.
    """
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, BertTokenizer

    letters = [*string.ascii_lowercase, *string.digits, *".,!?&;-"]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters), *words]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))  # noqa: S106
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    backend.enable_padding(length=32)  # as the default encoder's file does: a trap that loading has to undo
    BertTokenizer(tokenizer_object=backend, do_lower_case=True).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=64, num_hidden_layers=num_layers, num_attention_heads=4,
        intermediate_size=128, max_position_embeddings=64,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder
