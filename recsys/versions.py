"""The versions in a bundle root: writing a new one whole or not at all, and which one is CURRENT.

root/CURRENT                  the promoted version's name
root/promotions.jsonl         every promotion and rollback, oldest first
root/20261122T003512Z-1a2b/   a version; never changed once it has this name
root/.writing-...             a version in the making, and its lock
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recsys.errors import BundleError
from recsys.files import locked, replace_text, sync
from recsys.manifest import read_manifest, verify_files

CURRENT = "CURRENT"
PROMOTIONS = "promotions.jsonl"
_DRAFT = ".writing-"
_NAME = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{4}")
_NUM_SUFFIXES = 0x10000
_COMPARED = ("created_at", "product_version", "sources", "ranker", "features", "seed", "settings", "data", "report")


@dataclass(frozen=True)
class Draft:
    """A version in the making: write into `folder`, which becomes `version` when all went well."""

    folder: Path
    version: str


@dataclass(frozen=True)
class BundleVersion:
    """One line of `list_versions`; `problem` says what is wrong with the manifest, "" where nothing is."""

    version: str
    is_current: bool
    created_at: str
    product_version: str
    num_bytes: int
    problem: str = ""


def check_writable(root: Path) -> None:
    """BundleError where versions can't be written to `root`. Asked before training, and a root that is missing is not
    made yet: training that fails is to leave nothing.
    """
    if os.path.lexists(root):
        with _root_lock(root):
            _remove_dead_drafts(root)
        return
    nearest = next(folder for folder in root.parents if os.path.lexists(folder))
    if not nearest.is_dir():
        raise BundleError(f"bundle folder {root} can't be written: {nearest} is no folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise BundleError(f"bundle folder {root} can't be written: permission denied to make it in {nearest}")


@contextmanager
def new_version(root: Path) -> Iterator[Draft]:
    """A hidden folder that takes its version's name when the block ends well, and is removed when it doesn't.

    What a killed process left behind is removed first: its lock is free, a living writer's is not.
    """
    with ExitStack() as cleanup:
        with _root_lock(root):
            _remove_dead_drafts(root)
            version = _new_name(root)
            folder = root / f"{_DRAFT}{version}"
            cleanup.callback(_remove_draft, folder)
            cleanup.enter_context(locked(_lock_of(folder), wait=False))
            folder.mkdir()
        yield Draft(folder, version)
        _sync_tree(folder)
        with _root_lock(root):
            folder.rename(root / version)
        sync(root)


def list_versions(root: Path) -> list[BundleVersion]:
    """All versions, oldest first; the ones that can't be read say why."""
    current = current_version(root)
    return [_describe(root / name, name == current) for name in _names(root)]


def current_version(root: Path) -> str | None:
    """The promoted version's name; None where nothing is promoted yet."""
    try:
        return (root / CURRENT).read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{root / CURRENT} can't be read: {error}; promote a version again") from None


def version_folder(root: Path, version: str | None = None) -> Path:
    """The folder of a version, CURRENT's where none is named; BundleError where there is none."""
    if not root.is_dir():
        raise BundleError(f"bundle folder {root} does not exist; `recsys train --data DIR --bundle {root}` makes it")
    name = version or current_version(root)
    if name is None:
        raise BundleError(
            f"{root} has no promoted version (no CURRENT file); run `recsys train --data DIR --bundle {root}`, or"
            " `recsys bundles promote` where a version is listed"
        )
    if not _NAME.fullmatch(name) or not (root / name).is_dir():
        origin = "" if version else f", which {root / CURRENT} points to,"
        raise BundleError(f"version {name!r}{origin} is not in {root}; it has {', '.join(_names(root)) or 'none'}")
    return root / name


def show(root: Path, version: str | None = None) -> dict[str, Any]:
    """The manifest of a version (default CURRENT)."""
    return read_manifest(version_folder(root, version))


def compare(root: Path, first: str, second: str) -> dict[str, tuple[Any, Any]]:
    """What differs between two manifests: `group.key` -> (value of the first, of the second), None if missing."""
    sides = [dict(_flat({key: show(root, version).get(key) for key in _COMPARED})) for version in (first, second)]
    keys = dict.fromkeys([*sides[0], *sides[1]])
    pairs = {key: (sides[0].get(key), sides[1].get(key)) for key in keys}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def verify(root: Path, version: str | None = None) -> str:
    """Check every file of a version (default CURRENT) and return its name; BundleError names the first bad file."""
    folder = version_folder(root, version)
    verify_files(folder, read_manifest(folder))
    return folder.name


def promote(root: Path, version: str) -> None:
    """Make a version the CURRENT one, once every file of it is found good."""
    verify(root, version)
    with _root_lock(root):
        _switch(root, "promote", version)


def rollback(root: Path) -> str:
    """Make the version promoted before the CURRENT one CURRENT again, and return its name."""
    with _root_lock(root):
        stack = promoted_before(_repaired(root))
        if len(stack) < 2:
            raise BundleError(f"{root}: nothing to go back to; no version was promoted before the current one")
        verify(root, stack[-2])
        _switch(root, "rollback", stack[-2])
    return stack[-2]


def promoted_before(entries: list[dict[str, str]]) -> list[str]:
    """The versions that promotions put on top of each other and rollbacks took off again, the current one last."""
    stack: list[str] = []
    for entry in entries:
        if entry["action"] == "rollback":
            stack.pop()
        else:
            stack.append(entry["version"])
    return stack


def _switch(root: Path, action: str, version: str) -> None:
    """The log first, then CURRENT: `_repaired` drops a last entry that never took effect."""
    entries = _repaired(root)
    if action == "promote" and current_version(root) == version:
        return
    entries.append({"at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", "action": action, "version": version})
    replace_text(root / PROMOTIONS, "".join(json.dumps(entry) + "\n" for entry in entries))
    replace_text(root / CURRENT, version + "\n")


def _repaired(root: Path) -> list[dict[str, str]]:
    """The log as far as it agrees with CURRENT, which alone counts."""
    entries, current = _read_promotions(root), current_version(root)
    if current is None:
        return []
    for known in (entries, entries[:-1]):
        if promoted_before(known)[-1:] == [current]:
            return known
    return [*entries, {"at": "", "action": "promote", "version": current}]  # CURRENT was changed by hand


def _read_promotions(root: Path) -> list[dict[str, str]]:
    path = root / PROMOTIONS
    try:
        entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        promoted_before(entries)
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise BundleError(f"{path} is damaged ({error!r}); remove it: only the order for rollback is lost") from None
    return entries


@contextmanager
def _root_lock(root: Path) -> Iterator[None]:
    """One writer at a time decides on names and on CURRENT."""
    with ExitStack() as held:
        try:
            root.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(root / ".lock"))
        except (PermissionError, FileExistsError, NotADirectoryError, FileNotFoundError) as error:
            raise BundleError(f"bundle folder {root} can't be written: {error}") from None
        if not os.access(root, os.W_OK | os.X_OK):
            raise BundleError(f"bundle folder {root} can't be written: permission denied")
        yield


def _new_name(root: Path) -> str:
    """Later than every name in use: within one second the suffix grows."""
    taken = [*_names(root), *(path.name.removeprefix(_DRAFT) for path in _drafts(root))]
    while True:
        second = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        lowest = max((int(name[-4:], 16) + 1 for name in taken if name.startswith(second)), default=0)
        if lowest < _NUM_SUFFIXES:
            return f"{second}-{lowest + secrets.randbelow((_NUM_SUFFIXES - lowest + 15) // 16):04x}"


def _names(root: Path) -> list[str]:
    if not root.is_dir():
        raise BundleError(f"bundle folder {root} does not exist; `recsys train --data DIR --bundle {root}` makes it")
    return sorted(path.name for path in root.iterdir() if _NAME.fullmatch(path.name) and path.is_dir())


def _drafts(root: Path) -> list[Path]:
    return [path for path in root.glob(f"{_DRAFT}*") if _NAME.fullmatch(path.name.removeprefix(_DRAFT))]


def _lock_of(draft: Path) -> Path:
    return draft.with_name(f"{draft.name}.lock")


def _remove_dead_drafts(root: Path) -> None:
    """Only under the root's lock: a draft without a held lock then has no living writer."""
    for draft in {*_drafts(root), *(path.with_suffix("") for path in root.glob(f"{_DRAFT}*.lock"))}:
        try:
            with locked(_lock_of(draft), wait=False):
                _remove_draft(draft)
        except BlockingIOError:
            continue  # it is being written


def _remove_draft(draft: Path) -> None:
    if draft.exists():
        shutil.rmtree(draft)
    _lock_of(draft).unlink(missing_ok=True)


def _sync_tree(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        sync(path)


def _describe(folder: Path, is_current: bool) -> BundleVersion:
    try:
        manifest = read_manifest(folder)
    except BundleError as error:
        return BundleVersion(folder.name, is_current, "", "", 0, str(error))
    num_bytes = sum(facts["size"] for facts in manifest["files"].values())
    return BundleVersion(folder.name, is_current, manifest["created_at"], manifest["product_version"], num_bytes)


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from _flat(item, f"{key}.{name}" if key else str(name))
    else:
        yield key, value
