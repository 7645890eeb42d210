"""A disk that is full, a database that somebody else holds: events are refused, lists go on, nothing is lost."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from service import Service, stored_ids

pytestmark = pytest.mark.faults
BATCH = 50
ROOM = 4 * 2**20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of four megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system can be mounted by root alone, and not in every container")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def send(service: Service, number: int) -> tuple[int, list[str]]:
    ids = [f"{number}-{k}" for k in range(BATCH)]
    rows = [{"user_id": "ann", "item_id": "i05", "event_id": event_id, "session_id": "s" * 200} for event_id in ids]
    return service.ask("POST", "/events", rows)[0], ids


def listed(service: Service) -> int:
    status, answer = service.ask("GET", "/recommend?user=ann&n=3")
    assert status == 200, answer
    items = answer["items"]
    assert isinstance(items, list)
    return len(items)


def test_the_disk_is_full(bundle: Path, small_disk: Path) -> None:
    """What was acknowledged before is there, what comes meanwhile gets 503, and goes in when there is room again."""
    url, filler = str(small_disk / "events.sqlite"), small_disk / "filler"
    service = Service(bundle, url, write_timeout=2, retry_after=0.2)
    service.start()
    try:
        filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - ROOM // 4))
        acknowledged: list[str] = []
        for number in range(400):  # more than a megabyte can hold
            status, ids = send(service, number)
            if status != 200:
                break
            acknowledged += ids
        assert (status, len(acknowledged) > 5 * BATCH) == (503, True)
        assert listed(service) == 3
        assert send(service, number)[0] == 503
        filler.unlink()
        status, ids = send(service, number)
        assert status == 200
        assert listed(service) == 3
    finally:
        service.kill()
    found = stored_ids(url)
    assert set(acknowledged) | set(ids) <= set(found)
    assert len(found) == len(set(found))


def test_another_program_holds_the_database(bundle: Path, tmp_path: Path) -> None:
    url = str(tmp_path / "events.sqlite")
    service = Service(bundle, url, write_timeout=1, retry_after=0.2)
    service.start()
    try:
        first, ids = send(service, 0)
        assert first == 200
        with closing(sqlite3.connect(url, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            status, answer = service.ask("POST", "/events", {"user_id": "ann", "item_id": "i07", "event_id": "late"})
            assert status == 503
            assert "locked" in str(answer["detail"])
            assert listed(service) == 3
            other.execute("ROLLBACK")
        status, answer = service.ask("POST", "/events", {"user_id": "ann", "item_id": "i07", "event_id": "late"})
        assert (status, answer["accepted"]) == (200, 1)
    finally:
        service.kill()
    assert sorted(stored_ids(url)) == sorted([*ids, "late"])
