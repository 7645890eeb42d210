"""The items of a store in a bundle's model: for serving, and for jobs that are to answer as serving does."""

from __future__ import annotations

import logging
from pathlib import Path

from features.errors import EncoderError
from features.numpy_encoder import ServingEncoder, load_numpy_encoder
from recsys.bundle import ENCODER
from recsys.live_items import ItemChange, ItemEditor
from recsys.model import FittedModel
from recsys.stores.base import EventStore

ITEMS_AT_A_TIME = 100
"""Item changes that make a model together at most: the first ones need not wait for the embeddings of the last."""
_logger = logging.getLogger(__name__)


def load_editor(folder: Path, model: FittedModel) -> ItemEditor:
    """What puts items into `model`, which was loaded from the version folder `folder`."""
    return ItemEditor(model, *_encoder(folder, model))


def with_stored_items(model: FittedModel, folder: Path, store: EventStore, up_to: int) -> FittedModel:
    """`model`, loaded from the version folder `folder`, with the item changes up to the number `up_to`; of an item that
    was changed again since then nothing is known any more.
    """
    editor, applied = load_editor(folder, model), 0
    while changes := store.items_since(applied, ITEMS_AT_A_TIME):
        applied = changes[-1].sequence
        model = editor.with_items(
            model, [ItemChange(change.item_id, change.document) for change in changes if change.sequence <= up_to]
        )
    return model


def _encoder(folder: Path, model: FittedModel) -> tuple[ServingEncoder | None, str]:
    """What reads new texts as the bundle's model did, or why there is nothing that could."""
    if not model.features.pairs.embeddings.shape[1]:
        return None, ""
    try:
        return load_numpy_encoder(folder / ENCODER, model.settings.encoder.max_tokens), ""
    except EncoderError as error:
        _logger.warning("bundle %s: no item with a new text can be taken: %s", folder.name, error)
        return None, f"no item can be taken: {error}"
