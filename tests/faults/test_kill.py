"""`kill -9` while events stream in: every acknowledged event is there once after the restart. Run by `make faults`."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from postgres import new_database, own_server
from service import Service, stored_ids

pytestmark = pytest.mark.faults
BATCH = 20
SENDERS = 3


class Stream:
    """Threads that send batches of events of their own until they are told to stop; unanswered ones are sent again."""

    def __init__(self, service: Service) -> None:
        self.acknowledged: set[str] = set()
        self._service = service
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._send, args=(number,)) for number in range(SENDERS)]

    @contextmanager
    def running(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            for thread in self._threads:
                thread.join()

    def _send(self, number: int) -> None:
        batch = 0
        while not self._stopping.is_set():
            ids = [f"{number}-{batch}-{k}" for k in range(BATCH)]
            rows = [{"user_id": f"u{number}", "item_id": "i05", "event_id": event_id} for event_id in ids]
            status, answer = self._service.ask("POST", "/events", rows)
            if status == 200:
                assert answer["rejected"] == 0
                self.acknowledged.update(ids)
                batch += 1
            else:
                assert status in (0, 503), answer
                time.sleep(0.02)


def check(stream: Stream, url: str) -> None:
    found = stored_ids(url)
    assert len(stream.acknowledged) > 10 * BATCH, "too little was sent to prove anything"
    assert stream.acknowledged <= set(found)
    assert len(found) == len(set(found))


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield str(tmp_path / "events.sqlite")
    else:
        with new_database(request.getfixturevalue("postgres_url")) as made:
            yield made


def test_the_whole_service_is_killed(bundle: Path, url: str) -> None:
    service = Service(bundle, url)
    stream = Stream(service)
    service.start()
    try:
        with stream.running():
            for _ in range(3):
                time.sleep(1.5)
                service.kill()
                service.start()
            time.sleep(1.0)
    finally:
        service.kill()
    check(stream, url)


def test_workers_are_killed(bundle: Path, url: str) -> None:
    service = Service(bundle, url)
    stream = Stream(service)
    service.start()
    try:
        with stream.running():
            for _ in range(4):
                time.sleep(1.0)
                os.kill(service.workers()[0], signal.SIGKILL)
            time.sleep(2.0)
    finally:
        service.kill()
    check(stream, url)


def test_the_database_is_stopped_and_started(bundle: Path) -> None:
    """Lists go on, marked; events are refused and sent again; afterwards all is as it was."""
    with own_server() as server:
        service = Service(bundle, server.url, write_timeout=2, retry_after=0.2)
        stream = Stream(service)
        service.start()
        try:
            with stream.running():
                time.sleep(1.5)
                server.stop()
                time.sleep(0.5)
                status, answer = service.ask("POST", "/events", {"user_id": "ann", "item_id": "i07"})
                assert status == 503, answer
                for _ in range(5):
                    began = time.monotonic()
                    status, answer = service.ask("GET", "/recommend?user=ann&n=3")
                    assert (status, answer.get("degraded"), len(answer["items"])) == (200, True, 3)  # type: ignore[arg-type]
                    assert time.monotonic() - began < 1.0
                server.start()
                time.sleep(2.0)
                status, answer = service.ask("GET", "/recommend?user=ann&n=3")
                assert (status, answer.get("degraded")) == (200, None)
                before = len(stream.acknowledged)
                time.sleep(1.0)
                assert len(stream.acknowledged) > before
        finally:
            service.kill()
        check(stream, server.url)


def test_the_service_starts_before_its_database(bundle: Path) -> None:
    with own_server() as server:
        server.stop()
        service = Service(bundle, server.url, write_timeout=2, retry_after=0.2)
        service.start()
        try:
            event = {"user_id": "ann", "item_id": "i07", "event_id": "e"}
            assert service.ask("POST", "/events", event)[0] == 503
            server.start()
            assert service.ask("POST", "/events", event)[0] == 200
            assert service.ask("POST", "/events", event)[1]["duplicate"] == 1
        finally:
            service.kill()


def test_every_worker_follows_within_a_second(bundle: Path, url: str) -> None:
    """Whichever worker a guest's request meets."""
    service = Service(bundle, url)
    service.start()
    try:
        rows = [{"user_id": f"u{k}", "item_id": "i11"} for k in range(1000)]
        assert service.ask("POST", "/events", rows)[0] == 200
        time.sleep(1.0)
        tops = [service.ask("GET", "/recommend?recent=&n=1")[1]["items"][0]["item_id"] for _ in range(30)]  # type: ignore[index]
        assert set(tops) == {"i11"}
    finally:
        service.kill()
