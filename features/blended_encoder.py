"""Two views of a text in one vector: the fine-tuned encoder's beside the pretrained one's, so that what behaviour did
not teach is not forgotten.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from features.encoder import EncoderSettings, TextEncoder, TokenIds
from features.errors import EncoderError

F32 = npt.NDArray[np.float32]
_TUNED, _PRETRAINED, _VALUES_FILE = "tuned", "pretrained", "blend.json"


class BlendedEncoder:
    """Encodes by both: the cosine of two texts is `pretrained_share` of the pretrained encoder's and the rest of the
    fine-tuned one's.

    Both must read the same part of a text. Each keeps its own cache; `fingerprint` is the sha256 of both and the share.
    """

    def __init__(self, tuned: TextEncoder, pretrained: TextEncoder, pretrained_share: float) -> None:
        self.tuned = tuned
        self.pretrained = pretrained
        self.pretrained_share = pretrained_share
        parts = (tuned.fingerprint, pretrained.fingerprint, repr(pretrained_share))
        self.fingerprint = hashlib.sha256("|".join(parts).encode()).hexdigest()

    @property
    def tuned_size(self) -> int:
        """Numbers in an embedding's first part, the fine-tuned encoder's; the pretrained one's follow."""
        return self.tuned.embedding_size

    @property
    def embedding_size(self) -> int:
        """Numbers in one embedding: both encoders' together."""
        return self.tuned.embedding_size + self.pretrained.embedding_size

    def encode(self, texts: Sequence[str], *, num_threads: int | None = None) -> F32:
        """See `TextEncoder.encode`: (n, embedding_size) float32 unit rows, zero for an empty text."""
        tuned, pretrained = (one.encode(texts, num_threads=num_threads) for one in (self.tuned, self.pretrained))
        return blend(tuned, pretrained, self.pretrained_share)

    def tokenize(self, cleaned: Sequence[str]) -> list[TokenIds]:
        """See `TextEncoder.tokenize`; both encoders read the same tokens."""
        return self.tuned.tokenize(cleaned)

    def clean(self, text: str) -> str:
        """See `TextEncoder.clean`."""
        return self.tuned.clean(text)

    def save(self, folder: Path) -> None:
        """Write both encoders into the new folder `folder`, each into a folder of its own."""
        self.tuned.save(folder / _TUNED)
        self.pretrained.save(folder / _PRETRAINED)
        values = {"fingerprint": self.fingerprint, "pretrained_share": self.pretrained_share}
        (folder / _VALUES_FILE).write_text(json.dumps(values, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, settings: EncoderSettings | None = None) -> BlendedEncoder:
        """Read what `save` wrote; EncoderError where it is damaged."""
        path = folder / _VALUES_FILE
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            share, expected = float(values["pretrained_share"]), str(values["fingerprint"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise EncoderError(f"{path} is damaged ({error!r}); copy the folder again or train anew") from error
        tuned, pretrained = (TextEncoder.load(folder / name, settings) for name in (_TUNED, _PRETRAINED))
        encoder = cls(tuned, pretrained, share)
        if encoder.fingerprint != expected:
            raise EncoderError(
                f"{folder}: the encoders or their shares are not the ones that were saved (fingerprint "
                f"{encoder.fingerprint[:12]}, expected {expected[:12]}); copy the folder again or train anew"
            )
        return encoder


def load_encoder(folder: Path, settings: EncoderSettings | None = None) -> TextEncoder | BlendedEncoder:
    """Read what either encoder's `save` wrote; EncoderError where it is damaged."""
    if (folder / _VALUES_FILE).is_file():
        return BlendedEncoder.load(folder, settings)
    return TextEncoder.load(folder, settings)


def blend(tuned: F32, pretrained: F32, pretrained_share: float) -> F32:
    """Unit rows beside unit rows, (n, d) and (n, e) -> (n, d + e) float32 unit rows; the share is that of the
    squares.
    """
    scaled = (np.sqrt(1 - pretrained_share) * tuned, np.sqrt(pretrained_share) * pretrained)
    return np.asarray(np.concatenate(scaled, axis=1), np.float32)
