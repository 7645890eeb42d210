"""What training has worked out before, kept for the next run on the same data: a change of the ranker's settings then
costs a ranker, not an encoder and all sources.

Every result is kept under a digest of all it was made from: arrays by their content, and the whole settings less those
that the stage is known not to read (`IGNORED`). A setting that nobody has thought of is therefore part of the key: the
worst it can do is to make something anew.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import numpy as np
import scipy.sparse as sp

from features.blended_encoder import BlendedEncoder
from features.settings import Settings as ComponentSettings
from features.tables import Dataset, Events
from ranking.lambdamart import LambdaMartSettings
from recsys.retrieval.base import FitData
from recsys.retrieval.wiring import READ_NO_TEXT, READ_PLAIN_TEXT
from recsys.settings import Settings

Made = TypeVar("Made")

_OF_THE_FOREST = [f"lambdamart.{key}" for key in LambdaMartSettings.model_fields if key != "share_held_out"]
_AFTER_THE_SOURCES = ["serve", "store", "ranker", "gating", *_OF_THE_FOREST]
_BEHIND_THE_TEXT = ["serve", "store", "ranker", "gating", "lambdamart", "features", "retrieval", "sources"]
_OF_THE_LISTS = ["examples.negatives_per_list", "examples.min_lists"]
IGNORED: Mapping[str, frozenset[str]] = {
    "windows": frozenset([*_BEHIND_THE_TEXT, *_OF_THE_LISTS, "encoder", "finetune", "threads"]),
    "text": frozenset([*_BEHIND_THE_TEXT, "examples"]),
    "examples": frozenset(_AFTER_THE_SOURCES),
}
"""Stage -> the settings, single ones or whole groups, that it does not read."""


class StageMemory:
    """Results by stage and key, for one data set. Of each stage those used last are kept, as many as fit into
    `max_bytes`, the newest in any case.
    """

    def __init__(self, dataset: Dataset, max_bytes: int = 2**30) -> None:
        self._dataset = dataset
        self._max_bytes = max_bytes
        self._kept: dict[str, OrderedDict[str, tuple[Any, int]]] = {}

    def check(self, dataset: Dataset) -> None:
        """ValueError where `dataset` is not the one that the memory is for."""
        if dataset is not self._dataset:
            raise ValueError("a StageMemory belongs to one data set; make a new one for another")

    def reused(self, stage: str, key: str, make: Callable[[], Made]) -> Made:
        """What `make` returned when it was last called for this stage and key; else it is called now."""
        kept = self._kept.setdefault(stage, OrderedDict())
        if key in kept:
            kept.move_to_end(key)
        else:
            value = make()
            kept[key] = (value, num_bytes(value))
            while len(kept) > 1 and sum(size for _, size in kept.values()) > self._max_bytes:
                kept.popitem(last=False)
        found: Made = kept[key][0]
        return found


def reused(memory: StageMemory | None, stage: str, parts: tuple[object, ...], make: Callable[[], Made]) -> Made:
    """`make()`, or what it gave before for equal `parts`; without a memory always the former."""
    return make() if memory is None else memory.reused(stage, digest(*parts), make)


def settings_read(stage: str, settings: Settings) -> str:
    """The settings that a stage may read, as JSON."""
    tree = settings.model_dump(mode="json")
    for key in IGNORED[stage]:
        group, _, last = key.partition(".")
        if last:
            tree[group].pop(last)
        else:
            tree.pop(group)
    return json.dumps(tree, sort_keys=True)


def fit_parts(name: str, data: FitData) -> tuple[object, ...]:
    """All that the source of that name learns from beside its settings; the catalogue is the data set's."""
    return (
        name, data.events, data.num_users, data.event_settings, *_texts_read(name, data), data.seed, data.num_threads
    )  # fmt: skip


def _texts_read(name: str, data: FitData) -> tuple[object, ...]:
    """The part of the embeddings that the source reads, and where it begins."""
    if data.embeddings is None or name in READ_NO_TEXT:
        return ()
    return data.embeddings[:, data.tuned_size if name in READ_PLAIN_TEXT else 0 :], data.tuned_size


def digest(*parts: object) -> str:
    """A hash of the parts' content: arrays, events, settings, text, numbers and dataclasses of these."""
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, Events):
            content = digest(part.user_rows, part.item_rows, part.kinds, part.times, part.values, part.clock).encode()
        elif isinstance(part, np.ndarray):
            found.update(f"{part.dtype} {part.shape}".encode())
            content = np.ascontiguousarray(part).tobytes()
        elif isinstance(part, ComponentSettings):
            content = part.model_dump_json().encode()
        elif part is None or isinstance(part, (str, int, float)):
            content = repr(part).encode()
        elif is_dataclass(part) and not isinstance(part, type):
            content = digest(*(getattr(part, field.name) for field in fields(part))).encode()
        else:
            raise TypeError(f"a {type(part).__name__} has no digest")
        found.update(f"{len(content)} ".encode() + content)
    return found.hexdigest()


def num_bytes(value: object) -> int:
    """The bytes of all arrays in `value`, through dataclasses, containers and a text encoder; the rest is small."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, sp.csr_matrix):
        return num_bytes((value.data, value.indices, value.indptr))
    if isinstance(value, (tuple, list)):
        return sum(map(num_bytes, value))
    if isinstance(value, Mapping):
        return sum(map(num_bytes, value.values()))
    if is_dataclass(value):
        return sum(num_bytes(getattr(value, field.name)) for field in fields(value))
    if isinstance(value, BlendedEncoder):
        return num_bytes((value.tuned, value.pretrained))
    weights: Mapping[str, Any] = getattr(getattr(value, "model", None), "state_dict", dict)()  # of a text encoder
    return sum(int(tensor.nbytes) for tensor in weights.values())
