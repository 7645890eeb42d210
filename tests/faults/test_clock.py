"""The service's clock jumps while events stream in: nothing is lost, doubled or refused. Run by `make faults`."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from handmade import handmade_model
from recsys.bundle import save_bundle
from recsys.stores.settings import StoreSettings
from recsys.stores.sql import SqlEventStore
from service import Service

pytestmark = pytest.mark.faults
HOUR, YEAR = 3600.0, 365 * 86_400.0
CUSTOMIZE = """
import pathlib, time
_offset, _real = pathlib.Path({path!r}), time.time
time.time = lambda: _real() + float(_offset.read_text())
"""
"""Python runs this in every process of the service before anything else."""


class MachineClock:
    """What the service takes for the time of day; it may be moved at any moment."""

    def __init__(self, folder: Path) -> None:
        self.modules = folder / "modules"
        self.modules.mkdir()
        self._file = folder / "offset"
        self.jump(0.0)
        (self.modules / "sitecustomize.py").write_text(CUSTOMIZE.format(path=str(self._file)))

    def jump(self, offset: float) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(str(offset))
        new.replace(self._file)


class Sender:
    """Sends events without a time of their own, which get the service's, until it is told to stop."""

    def __init__(self, service: Service) -> None:
        self.acknowledged: list[str] = []
        self.problems: list[object] = []
        self._service = service
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._send)

    def __enter__(self) -> Sender:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _send(self) -> None:
        for batch in range(10**6):
            if self._stopping.is_set():
                return
            rows = [{"user_id": f"s{k}", "item_id": f"i{k:02d}", "event_id": f"{batch}-{k}"} for k in range(10)]
            status, answer = self._service.ask("POST", "/events", rows)
            if status == 200 and answer["accepted"] == len(rows):
                self.acknowledged += [str(row["event_id"]) for row in rows]
            else:
                self.problems.append((status, answer))
            time.sleep(0.02)


def listed(service: Service, path: str) -> list[str]:
    status, answer = service.ask("GET", path)
    assert status == 200, answer
    assert "degraded" not in answer
    return [item["item_id"] for item in answer["items"]]  # type: ignore[attr-defined]


def test_nothing_is_lost_doubled_or_refused_and_every_click_counts(tmp_path: Path) -> None:
    save_bundle(handmade_model(), tmp_path / "bundles")
    url = str(tmp_path / "events.sqlite")
    clock = MachineClock(tmp_path)
    service = Service(tmp_path / "bundles", url, modules=clock.modules, retention_days=30)
    service.start()
    try:
        assert service.ask("POST", "/events", {"user_id": "early", "item_id": "i07"})[0] == 200
        with Sender(service) as sender:
            for number, offset in enumerate((0.0, -HOUR, 0.0, -YEAR, 0.0, YEAR, 0.0)):
                clock.jump(offset)
                time.sleep(1.0)
                for user, item in ((f"u{number}", "i05"), ("everywhen", f"i{number:02d}")):
                    assert service.ask("POST", "/events", {"user_id": user, "item_id": item})[0] == 200
                    for _ in range(4):  # whichever worker it meets
                        assert item not in listed(service, f"/recommend?user={user}&n=12")
                assert "i07" not in listed(service, "/recommend?user=early&n=12")
                assert {"i00", "i01", "i02"}.isdisjoint(listed(service, "/recommend?user=ann&n=12")), "the bundle's"
                assert len(listed(service, "/recommend?recent=&n=12")) == 12
                assert listed(service, "/search?q=title&n=3")
        assert sender.problems == []
        rows = [{"user_id": f"guest{k}", "item_id": "i11"} for k in range(1000)]
        assert service.ask("POST", "/events", rows)[0] == 200
        time.sleep(1.5)
        assert {listed(service, "/recommend?recent=&n=1")[0] for _ in range(20)} == {"i11"}, "live counters follow"
    finally:
        service.kill()
    check(url, sender.acknowledged)


def check(url: str, acknowledged: list[str]) -> None:
    store = SqlEventStore.open(url, StoreSettings())
    found: list[str] = []
    after = 0
    while (changes := store.changes(after)).sequence > after:
        found += [event.event_id for _, event in changes.events]
        after = changes.sequence
    store.close()
    assert len(acknowledged) > 100, "too little was sent to prove anything"
    assert len(found) == len(set(found))
    assert set(acknowledged) <= set(found)
    assert len(found) == len(acknowledged) + 1 + 2 * 7 + 1000
