"""Many lists at once: a file of requests, or of users, into Parquet. They are what `Recommender` gives one by one."""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby, islice
from pathlib import Path

import pyarrow as pa
from tqdm import tqdm

from recsys.bundle import load_bundle
from recsys.errors import RequestError
from recsys.list_files import PartFolder, PartInputs, check_out, is_folder, lists_table, unfinished, write_file
from recsys.manifest import product_version
from recsys.model import FittedModel
from recsys.recommender import Recommender
from recsys.request_files import FileLines, Line, Lines, RequestReader, UserLines, check_requests
from recsys.requests import Request
from recsys.rules import NO_RULES, Rules
from recsys.rules_file import RulesFile
from recsys.schemas import check_limits
from recsys.store_snapshot import StoreSnapshot, recommender_of
from recsys.threads import limit_threads, num_cpus

CHUNK_REQUESTS = 256
"""Requests answered together: the unit of work, and what bounds memory."""
PART_REQUESTS = 16 * CHUNK_REQUESTS
"""Requests a part of a folder holds: what a killed job loses at most."""
_ALONE = 1000
"""Up to so many requests one process is done sooner than a second one has started."""
_LOG_SECONDS = 10.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BatchReport:
    """What a batch run did: `num_kept` requests were answered by an earlier run over the same inputs."""

    num_requests: int
    num_kept: int
    num_rows: int
    seconds: float


def run_batch(
    bundle: Path,
    out: Path | str,
    *,
    requests: Path | None = None,
    users: Path | str | None = None,
    n: int = 50,
    workers: int | None = None,
    version: str | None = None,
    rules: Path | None = None,
    store: str | None = None,
) -> BatchReport:
    """Answer a JSON Lines file of `requests`, or the `users` of a file ("all": every user of the bundle), with the
    bundle's `version` (default CURRENT) and what the event store at the URL `store` holds, into `out`: one .parquet
    file, or a folder (it ends with `/`) of parts. A file of `rules` holds as it does in service.

    The output does not depend on the number of `workers` (default: the processors, at most 2). A folder is completed
    where an earlier run over the same inputs has stopped, with the events that the store held then. RequestError for
    bad input and SettingsError for a store that does not exist, before anything is answered; StoreError where it can't
    be read.
    """
    started = time.monotonic()
    with limit_threads(1):
        check_out(out)
        obeyed = RulesFile(rules).current() if rules else NO_RULES
        model = load_bundle(bundle, version)
        snapshot = None if store is None else StoreSnapshot.now(store)
        recommender = Recommender(model)
        lines = _lines(recommender, requests, users)
        reader = RequestReader(lines.origin, users is not None, n, recommender.model.settings.serve)
        check_limits(Request(n=n), reader.limits)
        recommender.warm_up()  # a signal amid numba's compiling can be lost, so that comes before any file
        checked = check_requests(lines, reader, recommender.recommend)
        inputs = PartInputs(
            model.bundle_version, product_version(), _fingerprint(checked.fingerprint, obeyed), reader.of_users, n,
            checked.count, PART_REQUESTS, *((snapshot.name, snapshot.number, snapshot.time) if snapshot else ()),
        )  # fmt: skip
        if snapshot and is_folder(out):
            inputs = unfinished(Path(out), inputs)
            snapshot = replace(snapshot, number=inputs.store_number or 0, time=inputs.store_time)
        processes = workers or min(2, num_cpus())
        with closing(_Job(bundle, model, snapshot, lines, reader, checked.count, processes, obeyed)) as job:
            if is_folder(out):
                kept, rows = _to_folder(job, Path(out), inputs)
            else:
                with closing(job.tables(range(job.num_parts))) as tables:
                    kept, rows = 0, write_file((table for _, table in tables), Path(out))
    return BatchReport(checked.count, kept, rows, time.monotonic() - started)


def _fingerprint(requests: str, rules: Rules) -> str:
    """Of all that the lists depend on beside the bundle."""
    return hashlib.sha256((requests + rules.to_toml()).encode("utf-8")).hexdigest() if rules.rules else requests


def _lines(recommender: Recommender, requests: Path | None, users: Path | str | None) -> Lines:
    if (requests is None) == (users is None):
        raise RequestError("requests", "give either --requests FILE or --users all|FILE")
    if users is not None:
        return UserLines(recommender.model.users.ids) if str(users) == "all" else FileLines(Path(users))
    return FileLines(Path(requests or ""))


def _to_folder(job: _Job, folder: Path, inputs: PartInputs) -> tuple[int, int]:
    """Write the missing parts; returns how many requests were answered before, and the rows of the whole folder."""
    with PartFolder.opened(folder, inputs) as parts:
        missing = parts.missing
        kept = inputs.num_requests - sum(job.requests_in(number) for number in missing)
        if kept:
            _log.info("%d of %d requests were answered by an earlier run", kept, inputs.num_requests)
        with closing(job.tables(missing)) as answered:
            for number, tables in groupby(answered, key=lambda numbered: numbered[0]):
                parts.write(number, (table for _, table in tables))
        return kept, parts.num_rows


@dataclass(frozen=True)
class _Job:
    """All that is to be answered, and with how many processes."""

    bundle: Path
    model: FittedModel
    snapshot: StoreSnapshot | None
    lines: Lines
    reader: RequestReader
    num_requests: int
    workers: int
    rules: Rules

    @property
    def num_parts(self) -> int:
        return -(-self.num_requests // PART_REQUESTS)

    def requests_in(self, part: int) -> int:
        return min(PART_REQUESTS, self.num_requests - part * PART_REQUESTS)

    def tables(self, parts: Iterable[int]) -> Generator[tuple[int, pa.Table], None, None]:
        """(part, rows of one chunk) of the wanted parts, in the order of the requests."""
        wanted = set(parts)
        total = sum(map(self.requests_in, wanted))
        chunks = self._chunks(wanted)
        in_processes = self.workers > 1 and total > _ALONE
        answered = self._in_processes(chunks) if in_processes else self._alone(chunks)
        progress = _Progress(total)
        for part, size, table in answered:
            yield part, table
            progress.add(size)
        progress.close()

    def _chunks(self, wanted: set[int]) -> Iterator[tuple[int, list[Line]]]:
        lines = iter(self.lines)
        for part in range(self.num_parts):
            of_part = list(islice(lines, PART_REQUESTS))
            if part in wanted:
                for start in range(0, len(of_part), CHUNK_REQUESTS):
                    yield part, of_part[start : start + CHUNK_REQUESTS]

    @cached_property
    def recommender(self) -> Recommender:
        """What this process answers from, if it answers at all."""
        return recommender_of(self.model, self.snapshot, self.bundle, self.rules)

    def close(self) -> None:
        """Give the store's connections back."""
        if "recommender" in self.__dict__:
            self.recommender.close()

    def _alone(self, chunks: Iterator[tuple[int, list[Line]]]) -> Iterator[tuple[int, int, pa.Table]]:
        for part, chunk in chunks:
            yield part, len(chunk), answer(self.recommender, self.reader, chunk)

    def _in_processes(self, chunks: Iterator[tuple[int, list[Line]]]) -> Iterator[tuple[int, int, pa.Table]]:
        """Each chunk's table in the chunks' order; only a few chunks are under way at a time."""
        context = multiprocessing.get_context("spawn")  # a forked child would inherit locked thread pools
        given = (self.bundle, self.model.bundle_version, self.reader, self.snapshot, self.rules)
        pool = ProcessPoolExecutor(self.workers, context, _start_worker, given)
        waiting: deque[tuple[int, int, Future[pa.Table | _Refusal]]] = deque()
        with ExitStack() as cleanup:
            cleanup.callback(pool.shutdown, cancel_futures=True)
            for part, chunk in chunks:
                waiting.append((part, len(chunk), pool.submit(_answer_in_worker, chunk)))
                if len(waiting) > 2 * self.workers:
                    yield _result(*waiting.popleft())
            while waiting:
                yield _result(*waiting.popleft())


@dataclass(frozen=True)
class _Refusal:
    """A RequestError on its way between processes."""

    parameter: str
    message: str


def answer(recommender: Recommender, reader: RequestReader, chunk: list[Line]) -> pa.Table:
    """The rows of the lists that some lines ask for."""
    return lists_table(recommender.recommend_many([reader.read(line) for line in chunk]))


_worker: list[tuple[Recommender, RequestReader]] = []
"""What a worker process answers from; filled once, when it starts."""


def _start_worker(
    bundle: Path, version: str, reader: RequestReader, snapshot: StoreSnapshot | None, rules: Rules
) -> None:
    """Load the bundle, which the parent has verified. Ctrl-C is the parent's business; its death ends the worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    limit_threads(1)
    _worker.append((recommender_of(load_bundle(bundle, version, verify=False), snapshot, bundle, rules), reader))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _answer_in_worker(chunk: list[Line]) -> pa.Table | _Refusal:
    try:
        return answer(*_worker[0], chunk)
    except RequestError as error:
        return _Refusal(error.parameter, str(error))


def _result(part: int, size: int, future: Future[pa.Table | _Refusal]) -> tuple[int, int, pa.Table]:
    try:
        result = future.result()
    except BrokenProcessPool:
        raise RuntimeError(
            "a batch worker died; where it says nothing above, memory ran out: try --workers 1"
        ) from None
    if isinstance(result, _Refusal):
        raise RequestError(result.parameter, result.message)
    return part, size, result


class _Progress:
    """A bar on a terminal, a line every ten seconds elsewhere."""

    def __init__(self, total: int) -> None:
        self._bar = tqdm(total=total, unit=" lists", disable=None)
        self._total, self._done, self._logged = total, 0, time.monotonic()

    def add(self, size: int) -> None:
        self._bar.update(size)
        self._done += size
        if self._bar.disable and time.monotonic() - self._logged > _LOG_SECONDS:
            self._logged = time.monotonic()
            _log.info("%d of %d lists", self._done, self._total)

    def close(self) -> None:
        self._bar.close()
