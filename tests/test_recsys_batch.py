"""Laws of batch: its rows are what `recommend` answers, in the requests' order, whoever computes them."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from handmade import USERS, handmade_model
from recsys import batch
from recsys.batch import BatchReport, run_batch
from recsys.bundle import save_bundle
from recsys.errors import BundleError, RequestError
from recsys.list_files import PART_MANIFEST, SCHEMA
from recsys.model import FittedModel
from recsys.recommender import Recommender
from recsys.requests import HistoryEvent, Request
from recsys.retrieval.popularity import PopularitySource
from recsys.rules_file import RulesFile
from recsys.schemas import parse_body


@pytest.fixture(scope="module")
def model() -> FittedModel:
    return handmade_model()


@pytest.fixture(scope="module")
def bundle(model: FittedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bundles")
    save_bundle(model, root)
    return root


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def many_requests(count: int) -> list[dict[str, Any]]:
    """Requests of every kind, all different."""
    kinds: list[Callable[[int], dict[str, Any]]] = [
        lambda k: {"user": USERS[k % 3]},
        lambda k: {"user": None, "history": [f"i{k % 12:02d}", f"i{(k * 5) % 12:02d}"]},
        lambda k: {"history": [{"item_id": f"i{k % 12:02d}", "event": "view", "timestamp": 1_700_000_000 + k}]},
        lambda k: {"user": f"stranger {k}", "n": 1 + k % 12, "filter": {"category": "Books"}},
        lambda k: {"user": "ann", "exclude_seen": False, "exclude": [f"i{k % 12:02d}"], "recent": ["i05"]},
    ]
    return [{"request_id": str(k)} | kinds[k % len(kinds)](k) for k in range(count)]


def lists_of(out: Path) -> dict[str, list[tuple[str, int, float, str]]]:
    frame = pd.read_parquet(out)
    rows = zip(frame["request_id"], frame["item_id"], frame["rank"], frame["score"], frame["source"], strict=True)
    lists: dict[str, list[tuple[str, int, float, str]]] = {}
    for request_id, *row in rows:
        lists.setdefault(request_id, []).append(tuple(row))
    return lists


class TestRows:
    def test_batch_equals_recommend(self, model: FittedModel, bundle: Path, tmp_path: Path) -> None:
        requests = write_lines(
            tmp_path / "r.jsonl",
            [
                {"request_id": "a", "user": "ann", "n": 3},
                {
                    "request_id": "b",
                    "history": ["i03", {"item_id": "i07", "event": ""}],
                    "exclude_seen": True,
                    "at": 1_700_000_600,
                },
                {
                    "request_id": "c",
                    "user": "ann",
                    "history": [],
                    "filter": {"category": ["Books"]},
                    "exclude": ["i01"],
                },
                {"request_id": "d", "user": "nobody", "recent": ["i02"], "n": None, "at": None},
            ],
        )
        expected = Recommender(model).recommend_many(
            [
                Request("a", "ann", n=3),
                Request(
                    "b", None, (HistoryEvent("i03"), HistoryEvent("i07")), at=1_700_000_600.0, n=50, exclude_seen=True
                ),
                Request("c", "ann", (), n=50, filters=(("category", "Books"),), exclude=("i01",)),
                Request("d", "nobody", recent=("i02",), n=50),
            ]
        )
        report = run_batch(bundle, tmp_path / "out.parquet", requests=requests)
        found = pq.read_table(tmp_path / "out.parquet")
        assert found.schema.equals(SCHEMA)
        assert found.to_pylist() == [
            {
                "request_id": answer.request_id,
                "user": answer.user,
                "item_id": item.item_id,
                "rank": item.rank,
                "score": item.score,
                "source": item.sources[0],
            }
            for answer in expected
            for item in answer.items
        ]
        assert (report.num_requests, report.num_rows) == (4, found.num_rows)

    def test_a_guest_gets_the_popular_items(self, bundle: Path, tmp_path: Path) -> None:
        """The handmade world's popularity is the order of ids; `n` of the request wins over the command's."""
        requests = write_lines(tmp_path / "r.jsonl", [{"request_id": "1", "history": [], "n": 3}, {"request_id": "2"}])
        run_batch(bundle, tmp_path / "out.parquet", requests=requests, n=2)
        lists = lists_of(tmp_path / "out.parquet")
        assert [row[:2] for row in lists["1"]] == [("i00", 1), ("i01", 2), ("i02", 3)]
        assert [row[:2] for row in lists["2"]] == [("i00", 1), ("i01", 2)]

    def test_order_of_requests_is_order_of_rows_and_changes_no_list(self, bundle: Path, tmp_path: Path) -> None:
        rows = many_requests(60)
        shuffled = random.Random(0).sample(rows, len(rows))  # noqa: S311
        for name, order in (("a", rows), ("b", shuffled)):
            run_batch(bundle, tmp_path / f"{name}.parquet", requests=write_lines(tmp_path / f"{name}.jsonl", order))
        first, second = lists_of(tmp_path / "a.parquet"), lists_of(tmp_path / "b.parquet")
        assert first == second
        assert list(second) == [row["request_id"] for row in shuffled]

    def test_a_request_asked_alone_gets_the_same_list(self, bundle: Path, tmp_path: Path) -> None:
        rows = many_requests(20)
        run_batch(bundle, tmp_path / "all.parquet", requests=write_lines(tmp_path / "all.jsonl", rows))
        together = lists_of(tmp_path / "all.parquet")
        for row in rows[:5]:
            run_batch(bundle, tmp_path / "one.parquet", requests=write_lines(tmp_path / "one.jsonl", [row]))
            assert lists_of(tmp_path / "one.parquet") == {row["request_id"]: together[row["request_id"]]}

    def test_any_number_of_workers_writes_the_same_bytes(
        self, tiny_model: FittedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(batch, "_ALONE", 0)
        monkeypatch.setattr(batch, "CHUNK_REQUESTS", 7)
        save_bundle(tiny_model, tmp_path / "bundles")
        for workers in (1, 2):
            run_batch(tmp_path / "bundles", tmp_path / f"{workers}.parquet", users="all", workers=workers)
        assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "2.parquet").read_bytes()

    def test_the_same_run_twice_writes_the_same_bytes(self, bundle: Path, tmp_path: Path) -> None:
        requests = write_lines(tmp_path / "r.jsonl", many_requests(20))
        for name in "ab":
            run_batch(bundle, tmp_path / f"{name}.parquet", requests=requests)
        assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()

    def test_a_chosen_version_answers(self, model: FittedModel, tmp_path: Path) -> None:
        root = tmp_path / "bundles"
        old = save_bundle(model, root)
        values = np.asarray(model.fallback.values)
        reversed_order = PopularitySource(values[::-1].copy(), model.fallback.order[::-1].copy())
        save_bundle(handmade_model(fallback=reversed_order, sources=(reversed_order,)), root)
        requests = write_lines(tmp_path / "r.jsonl", [{"request_id": "1", "history": [], "n": 1}])
        tops = {}
        for version in (old, None):
            run_batch(root, tmp_path / "out.parquet", requests=requests, version=version)
            tops[version] = lists_of(tmp_path / "out.parquet")["1"][0][0]
        assert tops == {old: "i00", None: "i11"}


class TestUsers:
    def test_all_users_in_the_order_of_the_bundle(self, model: FittedModel, bundle: Path, tmp_path: Path) -> None:
        run_batch(bundle, tmp_path / "out.parquet", users="all", n=4)
        found = pd.read_parquet(tmp_path / "out.parquet")
        assert found["request_id"].drop_duplicates().tolist() == list(USERS)
        assert found["request_id"].equals(found["user"])
        expected = Recommender(model).recommend(Request("ann", "ann", n=4))
        assert found.loc[found["user"] == "ann", "item_id"].tolist() == [item.item_id for item in expected.items]

    def test_a_file_of_users_known_and_unknown(self, bundle: Path, tmp_path: Path) -> None:
        (tmp_path / "users.txt").write_bytes("\ufeffann\r\n\r\nÜnï ☃\nnever seen".encode())
        run_batch(bundle, tmp_path / "out.parquet", users=tmp_path / "users.txt", n=2)
        lists = lists_of(tmp_path / "out.parquet")
        assert list(lists) == ["ann", USERS[2], "never seen"]
        assert [row[0] for row in lists["never seen"]] == ["i00", "i01"]

    @pytest.mark.parametrize(
        ("content", "message"),
        [(b"ann\nbob\nann\n", r"line 3: request_id 'ann' was used on line 1"), (b"ann\n\xff\n", "line 2.*not UTF-8")],
    )
    def test_bad_users(self, bundle: Path, tmp_path: Path, content: bytes, message: str) -> None:
        (tmp_path / "users.txt").write_bytes(content)
        with pytest.raises(RequestError, match=message):
            run_batch(bundle, tmp_path / "out.parquet", users=tmp_path / "users.txt")


BAD_LINES = [
    ("{", "body", "not a JSON object"),
    ("[]", "body", "not a JSON object"),
    ('{"request_id": "\\ud800"}', "body", "not a JSON object"),
    ("[" * 100_000, "body", "not a JSON object"),
    ("{}", "request_id", "request_id is missing"),
    ('{"request_id": ""}', "request_id", "request_id=''"),
    ('{"request_id": 7}', "request_id", "request_id=7"),
    ('{"request_id": "9", "usr": "ann"}', "usr", "unknown key 'usr'"),
    ('{"request_id": "9", "user": 5}', "user", "user=5"),
    ('{"request_id": "9", "user": "a\\u0000"}', "user", "NUL"),
    ('{"request_id": "9", "n": 0}', "n", "n=0"),
    ('{"request_id": "9", "n": -1}', "n", "n=-1"),
    ('{"request_id": "9", "n": 1000000000}', "n", r"n=1000000000: must be between 1 and 500"),
    ('{"request_id": "9", "n": 2.5}', "n", "n=2.5"),
    ('{"request_id": "9", "n": "3"}', "n", "n='3'"),
    ('{"request_id": "9", "n": true}', "n", "n=True"),
    ('{"request_id": "9", "at": "yesterday"}', "at", "at='yesterday'.*unix seconds"),
    ('{"request_id": "9", "at": NaN}', "at", "at=nan"),
    ('{"request_id": "9", "at": 1700000000000}', "at", "at=1700000000000.*unix seconds"),
    ('{"request_id": "9", "exclude_seen": "no"}', "exclude_seen", "exclude_seen='no'"),
    ('{"request_id": "9", "history": "i01"}', "history", "history='i01'"),
    ('{"request_id": "9", "history": ["i01", 3]}', "history", r"history\.1=3"),
    ('{"request_id": "9", "history": [{"event": "view"}]}', "history", r"history\.0\.item_id: Field required"),
    ('{"request_id": "9", "history": [{"item_id": "i01", "timestamp": "x"}]}', "history", r"history\.0\.timestamp='x'"),
    ('{"request_id": "9", "history": [{"item_id": "i01", "rating": 5}]}', "history.0.rating", "unknown key"),
    ('{"request_id": "9", "recent": "i01"}', "recent", "recent='i01'"),
    ('{"request_id": "9", "exclude": [null]}', "exclude", r"exclude\.0=None"),
    ('{"request_id": "9", "filter": {"flavour": "x"}}', "filter", "unknown column 'flavour'"),
    ('{"request_id": "9", "filter": {"price": "cheap"}}', "filter", "column 'price' holds numbers"),
    ('{"request_id": "9", "filter": {"category": []}}', "filter", "at least one value"),
    ('{"request_id": "9", "filter": "category"}', "filter", "column:value"),
    (f'{{"request_id": "9", "user": "{"x" * 1025}"}}', "user", "1025 characters"),
    ('{"request_id": "0"}', "request_id", "request_id '0' was used on line 1"),
]


class TestBadInput:
    @pytest.mark.parametrize("out", ["out.parquet", "lists/"])
    @pytest.mark.parametrize(("line", "parameter", "message"), BAD_LINES, ids=[line[0][:40] for line in BAD_LINES])
    def test_a_bad_line_is_named_and_nothing_is_written(
        self, bundle: Path, tmp_path: Path, line: str, parameter: str, message: str, out: str
    ) -> None:
        path = write_lines(tmp_path / "r.jsonl", many_requests(3))
        path.write_text(path.read_text() + "\n" + line + "\n")
        with pytest.raises(RequestError, match=rf"r\.jsonl, line 5: .*{message}") as caught:
            run_batch(bundle, f"{tmp_path}/{out}", requests=path)
        assert caught.value.parameter == parameter
        assert len(str(caught.value)) < 500
        assert [found.name for found in tmp_path.iterdir()] == ["r.jsonl"]

    def test_bytes_that_are_not_utf8(self, bundle: Path, tmp_path: Path) -> None:
        (tmp_path / "r.jsonl").write_bytes(b'{"request_id": "\xff"}\n')
        with pytest.raises(RequestError, match="line 1: not a JSON object"):
            run_batch(bundle, tmp_path / "out.parquet", requests=tmp_path / "r.jsonl")

    @pytest.mark.parametrize("n", [0, -1, 10**9])
    def test_n_out_of_bounds(self, bundle: Path, tmp_path: Path, n: int) -> None:
        with pytest.raises(RequestError, match=f"n={n}: must be between 1 and 500"):
            run_batch(bundle, tmp_path / "out.parquet", users="all", n=n)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("out", "message"),
        [
            ("lists.csv", "ends with .parquet"),
            ("none/lists.parquet", "does not exist"),
            ("file/", "is a file"),
            ("file/x/", "can't be made"),
        ],
    )
    def test_bad_outputs(self, bundle: Path, tmp_path: Path, out: str, message: str) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(RequestError, match=message):
            run_batch(bundle, f"{tmp_path}/{out}", users="all")

    def test_a_missing_requests_file(self, bundle: Path, tmp_path: Path) -> None:
        with pytest.raises(RequestError, match="does not exist"):
            run_batch(bundle, tmp_path / "out.parquet", requests=tmp_path / "none.jsonl")

    def test_a_pipe_is_no_file(self, bundle: Path, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(RequestError, match="not a plain file"):
            run_batch(bundle, tmp_path / "out.parquet", requests=tmp_path / "pipe")

    def test_either_requests_or_users(self, bundle: Path, tmp_path: Path) -> None:
        with pytest.raises(RequestError, match="either"):
            run_batch(bundle, tmp_path / "out.parquet")

    def test_no_bundle(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match="recsys train"):
            run_batch(tmp_path / "none", tmp_path / "out.parquet", users="all")

    @pytest.mark.parametrize("out", ["out.parquet", "lists/"])
    def test_no_requests_give_a_table_without_rows(self, bundle: Path, tmp_path: Path, out: str) -> None:
        (tmp_path / "r.jsonl").write_text("")
        report = run_batch(bundle, f"{tmp_path}/{out}", requests=tmp_path / "r.jsonl")
        assert (report.num_requests, report.num_rows) == (0, 0)
        if out.endswith(".parquet"):
            assert pq.read_table(tmp_path / out).schema.equals(SCHEMA)


class TestFailures:
    def test_a_failure_leaves_the_old_file(self, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "out.parquet").write_bytes(b"old")
        monkeypatch.setattr(batch, "answer", _fails_after(1))
        monkeypatch.setattr(batch, "CHUNK_REQUESTS", 2)
        with pytest.raises(KeyboardInterrupt):
            run_batch(bundle, tmp_path / "out.parquet", requests=write_lines(tmp_path / "r.jsonl", many_requests(6)))
        assert (tmp_path / "out.parquet").read_bytes() == b"old"
        assert {path.name for path in tmp_path.iterdir()} == {"out.parquet", "r.jsonl"}

    def test_two_runs_to_one_file(self, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The second is refused while the first one writes."""
        out = tmp_path / "out.parquet"
        real = batch.answer

        def meanwhile(*given: Any) -> Any:
            monkeypatch.setattr(batch, "answer", real)
            with pytest.raises(RequestError, match="being written by another run"):
                run_batch(bundle, out, users="all")
            return real(*given)

        monkeypatch.setattr(batch, "answer", meanwhile)
        run_batch(bundle, out, users="all", n=1)
        assert len(lists_of(out)) == 3


def _fails_after(num_chunks: int) -> Callable[..., Any]:
    real, done = batch.answer, iter(range(num_chunks))

    def failing(*given: Any) -> Any:
        if next(done, None) is None:
            raise KeyboardInterrupt
        return real(*given)

    return failing


class TestWishes:
    @pytest.mark.parametrize("workers", [1, 2])
    def test_rules_and_wishes_hold_as_in_service(
        self, model: FittedModel, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
    ) -> None:
        monkeypatch.setattr(batch, "_ALONE", 0)
        rules = tmp_path / "rules.toml"
        rules.write_text('[[rules]]\nname = "p"\naction = "pin"\nitems = ["i09"]\nposition = 2\n', encoding="utf-8")
        wish = {"filter": "price>3 OR colour:blue", "cap": ["category:2"], "diversity": 0.3, "exploration": "softmax:1"}
        requests = write_lines(tmp_path / "r.jsonl", [{"request_id": "1", "user": "ann", "n": 6} | wish])
        run_batch(bundle, tmp_path / "out.parquet", requests=requests, rules=rules, workers=workers)
        asked = parse_body(requests.read_bytes()).to_request(model.settings.serve)
        expected = Recommender(model, rules=RulesFile(rules).current).recommend(asked)
        rows = lists_of(tmp_path / "out.parquet")["1"]
        assert [row[:3] for row in rows] == [(item.item_id, item.rank, item.score) for item in expected.items]
        assert rows[1][0] == "i09"

    @pytest.mark.parametrize("wish", [{"filter": "size:XL"}, {"cap": ["size:2"]}, {"filter": "price<x"}])
    def test_a_wish_that_can_not_be_met_is_found_before_anything_is_answered(
        self, bundle: Path, tmp_path: Path, wish: dict[str, Any]
    ) -> None:
        requests = write_lines(tmp_path / "r.jsonl", [{"request_id": "1"}, {"request_id": "2"} | wish])
        with pytest.raises(RequestError, match="line 2"):
            run_batch(bundle, tmp_path / "out.parquet", requests=requests)
        assert not (tmp_path / "out.parquet").exists()


class TestFolders:
    @pytest.fixture(autouse=True)
    def _small_parts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(batch, "CHUNK_REQUESTS", 2)
        monkeypatch.setattr(batch, "PART_REQUESTS", 4)

    def run(self, bundle: Path, tmp_path: Path, rows: list[dict[str, Any]], **options: Any) -> BatchReport:
        return run_batch(bundle, f"{tmp_path}/lists/", requests=write_lines(tmp_path / "r.jsonl", rows), **options)

    def test_parts_hold_what_one_file_holds(self, bundle: Path, tmp_path: Path) -> None:
        self.run(bundle, tmp_path, many_requests(10))
        run_batch(bundle, tmp_path / "one.parquet", requests=tmp_path / "r.jsonl")
        parts = sorted(path.name for path in (tmp_path / "lists").glob("*.parquet"))
        assert parts == ["part-000000.parquet", "part-000001.parquet", "part-000002.parquet"]
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "lists"), pd.read_parquet(tmp_path / "one.parquet"))

    def test_a_killed_run_is_completed_not_repeated(
        self, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rows = many_requests(10)
        real = batch.answer
        monkeypatch.setattr(batch, "answer", _fails_after(3))
        with pytest.raises(KeyboardInterrupt):
            self.run(bundle, tmp_path, rows)
        state = json.loads((tmp_path / "lists" / PART_MANIFEST).read_text())
        assert (list(state["parts"]), state["complete"]) == (["part-000000.parquet"], False)
        answered: list[bytes] = []

        def noted(*given: Any) -> Any:
            answered.extend(line for _, line in given[2])
            return real(*given)

        monkeypatch.setattr(batch, "answer", noted)
        report = self.run(bundle, tmp_path, rows)
        assert [json.loads(line)["request_id"] for line in answered] == [str(k) for k in range(4, 10)]
        assert (report.num_requests, report.num_kept) == (10, 4)
        assert json.loads((tmp_path / "lists" / PART_MANIFEST).read_text())["complete"]
        run_batch(bundle, tmp_path / "one.parquet", requests=tmp_path / "r.jsonl")
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "lists"), pd.read_parquet(tmp_path / "one.parquet"))

    def test_a_damaged_or_missing_part_is_made_again(self, bundle: Path, tmp_path: Path) -> None:
        rows = many_requests(12)
        self.run(bundle, tmp_path, rows)
        parts = sorted((tmp_path / "lists").glob("*.parquet"))
        good = [part.read_bytes() for part in parts]
        parts[0].unlink()
        parts[1].write_bytes(good[1][:-1] + b"x")
        assert self.run(bundle, tmp_path, rows).num_kept == 4
        assert [part.read_bytes() for part in parts] == good

    def test_other_inputs_start_over(self, bundle: Path, tmp_path: Path) -> None:
        rows = many_requests(12)
        self.run(bundle, tmp_path, rows)
        assert self.run(bundle, tmp_path, rows).num_kept == 12
        assert self.run(bundle, tmp_path, rows, n=7).num_kept == 0
        assert self.run(bundle, tmp_path, rows[:5], n=7).num_kept == 0
        assert sorted(path.name for path in (tmp_path / "lists").glob("*.parquet")) == [
            "part-000000.parquet",
            "part-000001.parquet",
        ]
        assert len(lists_of(tmp_path / "lists")) == 5

    def test_another_version_starts_over(self, model: FittedModel, tmp_path: Path) -> None:
        rows, root = many_requests(5), tmp_path / "bundles"
        save_bundle(model, root)
        self.run(root, tmp_path, rows)
        save_bundle(model, root)
        assert self.run(root, tmp_path, rows).num_kept == 0

    def test_someone_elses_parquet_is_not_mixed_in(self, bundle: Path, tmp_path: Path) -> None:
        (tmp_path / "lists").mkdir()
        (tmp_path / "lists" / "part-000000.parquet").write_bytes(b"mine")
        with pytest.raises(RequestError, match=r"holds part-000000\.parquet"):
            self.run(bundle, tmp_path, many_requests(2))
        assert (tmp_path / "lists" / "part-000000.parquet").read_bytes() == b"mine"

    @pytest.mark.parametrize(
        "content", ["{", "[]", '{"parts": {"../x.parquet": {}}}', '{"parts": {"part-00000x.parquet": 1}}']
    )
    def test_a_damaged_list_of_parts(self, bundle: Path, tmp_path: Path, content: str) -> None:
        (tmp_path / "lists").mkdir()
        (tmp_path / "lists" / PART_MANIFEST).write_text(content)
        with pytest.raises(RequestError, match="is damaged"):
            self.run(bundle, tmp_path, many_requests(2))


def test_scores_are_finite_and_never_rise_along_a_list(bundle: Path, tmp_path: Path) -> None:
    run_batch(bundle, tmp_path / "out.parquet", requests=write_lines(tmp_path / "r.jsonl", many_requests(30)))
    for rows in lists_of(tmp_path / "out.parquet").values():
        scores = np.array([row[2] for row in rows])
        assert np.isfinite(scores).all()
        assert (np.diff(scores) <= 0).all()
        assert [row[1] for row in rows] == list(range(1, len(rows) + 1))
