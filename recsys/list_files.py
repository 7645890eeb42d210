"""Recommendation lists as Parquet: one file, or a folder of parts that a later run can complete."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from recsys.errors import RequestError
from recsys.files import locked, replace_text, replacing, sha256_of
from recsys.requests import Recommendation

PART_MANIFEST = "_manifest.json"
PART_FORMAT = 1
_PART = re.compile(r"part-\d{6}\.parquet")
SCHEMA = pa.schema(
    [
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("user", pa.string()),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("score", pa.float64(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
    ]
)
"""One row an item of a list: `rank` 1 is the best, `source` the candidate source that ranks it highest."""


def lists_table(answers: Iterable[Recommendation]) -> pa.Table:
    """The rows of some lists, in their order, best item first."""
    rows = [
        (answer.request_id, answer.user, item.item_id, item.rank, item.score, item.sources[0] if item.sources else "")
        for answer in answers
        for item in answer.items
    ]
    columns = list(zip(*rows, strict=True)) or [()] * len(SCHEMA)
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)


def is_folder(out: Path | str) -> bool:
    """Whether `--out` means a folder of parts: it ends with a slash, or is one already."""
    return str(out).endswith("/") or Path(out).is_dir()


def check_out(out: Path | str) -> None:
    """RequestError where lists can't be written to `out`; asked before anything is computed."""
    path = Path(out)
    if is_folder(out):
        if path.exists() and not path.is_dir():
            raise RequestError("out", f"out {out} is a file, but ends like a folder")
        return
    if path.suffix != ".parquet":
        raise RequestError("out", f"out {out}: give a file that ends with .parquet, or a folder that ends with /")
    if not path.parent.is_dir():
        raise RequestError("out", f"out {out}: the folder {path.parent} does not exist; make it first")


def write_file(tables: Iterable[pa.Table], out: Path) -> int:
    """Write all rows as one file, which appears when it is complete; returns the number of rows."""
    num_rows = 0
    with _writing(out), replacing(out) as file, pq.ParquetWriter(file, SCHEMA) as writer:
        for table in tables:
            writer.write_table(table)
            num_rows += table.num_rows
    return num_rows


@dataclass(frozen=True)
class PartInputs:
    """What the lists depend on: parts made of the same may be kept."""

    bundle_version: str
    product_version: str
    requests_fingerprint: str
    of_users: bool
    n: int
    num_requests: int
    requests_per_part: int
    store: str | None = None
    store_number: int | None = None
    store_time: float | None = None
    """What the event store held, where one is asked."""

    @property
    def num_parts(self) -> int:
        """Parts in the complete folder."""
        return -(-self.num_requests // self.requests_per_part)


@dataclass
class PartFolder:
    """A folder being filled; `parts` maps the names of complete parts to their rows, size and digest. Use `opened`."""

    folder: Path
    inputs: PartInputs
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    @contextmanager
    def opened(cls, folder: Path, inputs: PartInputs) -> Iterator[Self]:
        """The folder, this process alone writing to it, with the complete parts of an earlier run over the same inputs;
        parts of other inputs are removed. RequestError where it holds Parquet files that no run of ours has made.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RequestError("out", f"out {folder} can't be made: {error}") from None
        with _writing(folder), locked(folder / ".lock", wait=False):
            old = _read_part_manifest(folder)
            _refuse_foreign(folder, old)
            made = cls(folder, inputs)
            if old.get("inputs") == asdict(inputs):
                made.parts = {name: facts for name, facts in old["parts"].items() if _is_whole(folder / name, facts)}
            made._save()
            for path in set(_parts_in(folder)) - {folder / name for name in made.parts}:
                path.unlink()
            yield made

    @property
    def missing(self) -> list[int]:
        """Numbers of the parts still to be written."""
        return [number for number in range(self.inputs.num_parts) if part_name(number) not in self.parts]

    @property
    def num_rows(self) -> int:
        """Rows of all complete parts."""
        return sum(facts["rows"] for facts in self.parts.values())

    def write(self, number: int, tables: Iterable[pa.Table]) -> None:
        """Write one part and note it as complete."""
        path = self.folder / part_name(number)
        rows = write_file(tables, path)
        self.parts[path.name] = {"rows": rows, "size": path.stat().st_size, "sha256": sha256_of(path)}
        self._save()

    def _save(self) -> None:
        content = {
            "format_version": PART_FORMAT,
            "inputs": asdict(self.inputs),
            "complete": not self.missing,
            "parts": dict(sorted(self.parts.items())),
        }
        replace_text(self.folder / PART_MANIFEST, json.dumps(content, indent=1) + "\n")


def unfinished(folder: Path, inputs: PartInputs) -> PartInputs:
    """The inputs of an earlier run into `folder` that has not ended, where it only saw an earlier state of the same
    store; else `inputs`. A job that goes on then does not mix lists of two moments.
    """
    old = _read_part_manifest(folder)
    then = {key: old.get("inputs", {}).get(key) for key in ("store_number", "store_time")}
    if old.get("complete", True) or old["inputs"] != asdict(inputs) | then:
        return inputs
    return replace(inputs, **then)


def part_name(number: int) -> str:
    """The file of part `number`, 0 = first; names sort as the requests do."""
    return f"part-{number:06d}.parquet"


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except BlockingIOError:
        raise RequestError("out", f"out {out} is being written by another run; wait, or choose another name") from None
    except PermissionError as error:
        raise RequestError("out", f"out {out} can't be written: {error}") from None


def _read_part_manifest(folder: Path) -> dict[str, Any]:
    path = folder / PART_MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        problem = "" if all(_PART.fullmatch(name) for name in content["parts"]) else "it names files that are no parts"
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError) as error:
        content, problem = {}, repr(error)
    if problem:
        raise RequestError("out", f"{path} is damaged ({problem}); empty the folder, or choose another")
    return dict(content)


def _refuse_foreign(folder: Path, old: dict[str, Any]) -> None:
    """Whoever reads the folder would read them too. Beside a manifest of ours every part is ours, noted or not."""
    foreign = set(folder.glob("[!._]*.parquet")) - set(_parts_in(folder) if old else ())
    if foreign:
        name = min(foreign).name
        raise RequestError("out", f"out {folder} holds {name}, which no batch run has written; choose an empty folder")


def _parts_in(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if _PART.fullmatch(path.name)]


def _is_whole(path: Path, facts: dict[str, Any]) -> bool:
    return path.is_file() and path.stat().st_size == facts["size"] and sha256_of(path) == facts["sha256"]
