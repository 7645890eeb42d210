"""Robustness: how much the lists change and lose when the catalogue's texts are noisy at answering time.

The titles and descriptions are disturbed (`features.noise`), the catalogue is embedded again with the model's own
encoder, and all that reads embeddings answers from the new ones. Nothing is fitted again, behaviour is untouched; and
so are the ALS factors of items with events, even where text was mixed into them (`text_evidence`).
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Sequence

import numpy as np

from features.blended_encoder import BlendedEncoder
from features.encoder import TextEncoder
from features.grid import on_grid
from features.noise import NOISES, Noise, cut_short, noisy
from features.tables import BRAND, CATEGORY, DESCRIPTION, Catalogue
from recsys.embeddings import with_embeddings
from recsys.evaluation_result import Evaluation
from recsys.list_overlap import overlap_at_k, rank_biased_overlap
from recsys.model import FittedModel
from recsys.retrieval.scores import F32
from recsys.variants import ItemLists, Row, product_lists, variant_row

logger = logging.getLogger(__name__)


def robustness_rows(evaluation: Evaluation, lists: Sequence[Sequence[str]]) -> list[Row]:
    """One row (see `variant_row`) a kind of noise that changes a text, with the mean `overlap@10` and `rbo` of the
    product's `lists` and the noisy ones. No row where the model has no encoder.
    """
    model, rows = evaluation.model, []
    if model.encoder is None:
        logger.info("the model reads no text, so noisy texts change nothing")
        return []
    for name, noise in NOISES.items():
        started = time.perf_counter()
        catalogue = noisy_catalogue(model.catalogue, model.settings.encoder.text_columns, noise, evaluation.seed)
        if catalogue is None:
            logger.info("robustness, %s: the catalogue has no text of the kind that it changes", name)
            continue
        logger.info("robustness, %s: embedding the noisy catalogue", name)
        noisy_model = with_embeddings(model, noisy_embeddings(model, catalogue))
        answers = product_lists(noisy_model, evaluation.task.requests)
        row = variant_row(name, answers, time.perf_counter() - started, evaluation)
        rows.append(row | _likeness(lists, answers))
    return rows


def noisy_catalogue(catalogue: Catalogue, columns: Sequence[str], noise: Noise, seed: int) -> Catalogue | None:
    """The catalogue with noise in its prose: the string columns among `columns`, less brand and category, which are
    names and not prose; of `cut_short`, the description alone. None where it has none of them.
    """
    prose = [c for c in columns if c in catalogue.frame and c not in (BRAND, CATEGORY)]
    if noise is cut_short:
        prose = [c for c in prose if c == DESCRIPTION]
    changed = {c: [noisy(v, noise, seed) if isinstance(v, str) else v for v in catalogue.frame[c]] for c in prose}
    if not any(isinstance(value, str) and value.strip() for values in changed.values() for value in values):
        return None
    return dataclasses.replace(catalogue, frame=catalogue.frame.assign(**changed))


def noisy_embeddings(model: FittedModel, catalogue: Catalogue) -> F32:
    """(n_items, embedding_size) embeddings of `catalogue`'s texts. Where the encoder reads the same tokens as before,
    the embedding stays what it was: an encoder that knows no capitals costs nothing there.
    """
    encoder: TextEncoder | BlendedEncoder = model.encoder
    columns = model.settings.encoder.text_columns
    new_texts = catalogue.texts(columns)
    before, after = (
        encoder.tokenize([encoder.clean(text) for text in texts])
        for texts in (model.catalogue.texts(columns), new_texts)
    )
    changed = np.array([old != new for old, new in zip(before, after, strict=True)], bool)
    embeddings = model.features.pairs.embeddings.copy()
    embeddings[changed] = on_grid(encoder.encode([new_texts[row] for row in np.flatnonzero(changed)]), items=True)
    return embeddings


def _likeness(lists: Sequence[Sequence[str]], others: ItemLists) -> Row:
    pairs = list(zip(lists, others, strict=True))
    return {
        "overlap@10": float(np.mean([overlap_at_k(a, b, 10) for a, b in pairs])),
        "rbo": float(np.mean([rank_biased_overlap(a, b) for a, b in pairs])),
    }
