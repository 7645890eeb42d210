"""manifest.json: what a version is, and the size and digest of every file in it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from recsys.errors import BundleError
from recsys.files import sha256_of

FORMAT_VERSION = 5
"""Raised when a bundle of the new code can't be read by the old, or one of the old by the new."""
MANIFEST = "manifest.json"


@cache
def product_version() -> str:
    """The version of the installed distribution; "0+unknown" when running from a folder that was never installed."""
    try:
        return version("shelftalk")
    except PackageNotFoundError:
        return "0+unknown"


def write_manifest(folder: Path, facts: Mapping[str, Any]) -> None:
    """List every file of `folder` beside `facts`; the checksum covers the manifest itself."""
    content = plain({"format_version": FORMAT_VERSION, "product_version": product_version(), **facts})
    content["files"] = {
        name: {"size": (folder / name).stat().st_size, "sha256": sha256_of(folder / name)}
        for name in sorted(files_in(folder))
    }
    content["checksum"] = _checksum(content)
    (folder / MANIFEST).write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a version, its format and checksum checked; BundleError where it can't be used."""
    where = f"bundle {folder.name}"
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(f"{where}: {MANIFEST} is missing, so the version is not complete; use another one") from None
    except (ValueError, OSError) as error:
        raise BundleError(f"{where}: {MANIFEST} is damaged ({error}); use another version") from None
    if not isinstance(content, dict) or not isinstance(content.get("format_version"), int):
        raise BundleError(f"{where}: {MANIFEST} is damaged (no format_version); use another version")
    if content["format_version"] > FORMAT_VERSION:
        raise BundleError(
            f"{where} has format {content['format_version']} and needs shelftalk {content.get('product_version', '?')}"
            f" or later; this is shelftalk {product_version()}, which reads format {FORMAT_VERSION}"
        )
    if content["format_version"] < FORMAT_VERSION:
        raise BundleError(
            f"{where} has format {content['format_version']}, of an older shelftalk; this is shelftalk"
            f" {product_version()}, which reads format {FORMAT_VERSION}: train again with recsys train"
        )
    if content.get("checksum") != _checksum(content):
        raise BundleError(f"{where}: {MANIFEST} is damaged (its checksum differs); use another version")
    return content


def verify_files(folder: Path, manifest: Mapping[str, Any]) -> None:
    """BundleError naming the first file that is missing, extra or not what was written."""
    expected: dict[str, dict[str, Any]] = manifest["files"]
    found = files_in(folder)
    for problem, names in (("is missing", expected.keys() - found), ("does not belong to it", found - expected.keys())):
        if names:
            raise _damaged(folder, min(names), problem)
    for name, facts in expected.items():
        path = folder / name
        if path.stat().st_size != facts["size"]:
            raise _damaged(folder, name, f"has {path.stat().st_size} bytes instead of {facts['size']}")
        if sha256_of(path) != facts["sha256"]:
            raise _damaged(folder, name, "is not what was written (its sha256 differs)")


def files_in(folder: Path) -> set[str]:
    """Every file below `folder` but the manifest, as relative names with `/`."""
    paths = (path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink())
    return {path.relative_to(folder).as_posix() for path in paths} - {MANIFEST}


def plain(value: Any) -> Any:
    """`value` in JSON's own types: numpy scalars and arrays as numbers and lists, NaN and infinities as null."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (str, int, float)):
        return value
    return str(value)


def _damaged(folder: Path, name: str, problem: str) -> BundleError:
    return BundleError(f"bundle {folder.name}: {name} {problem}; use another version (`recsys bundles list`)")


def _checksum(content: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in content.items() if key != "checksum"}
    canonical = json.dumps(rest, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()
