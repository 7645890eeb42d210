"""The command line, from outside: exit codes, one line an error, and nothing half done."""

from __future__ import annotations

import csv
import errno
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

import recsys
from handmade import handmade_model
from recsys import training
from recsys.__main__ import _run, _summary
from recsys.bundle import current_version, list_versions, save_bundle
from recsys.errors import SettingsError
from recsys.gunicorn_app import GunicornApp, check_host, check_port
from recsys.settings import load_settings
from recsys.threads import limit_threads

QUICK = ["--set", "encoder.model=none", "--set", 'sources=["popularity"]']


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty items without text and sixty users with six events each, one row of which has no item."""
    folder, rng = tmp_path_factory.mktemp("data"), random.Random(0)  # noqa: S311
    with (folder / "items.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["item_id"], *([f"i{k}"] for k in range(20))])
    rows = [[f"u{k % 60}", f"i{rng.randrange(20)}", "view", 1_700_000_000 + 100 * k] for k in range(360)]
    with (folder / "events.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["user_id", "item_id", "event", "timestamp"], *rows, ["u1", "", "view", 1_700_000_000]]
        )
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    root = tmp_path / "bundles"
    save_bundle(handmade_model(), root)
    return root


def run(*arguments: object) -> int:
    return _run([str(argument) for argument in arguments])


def start(*arguments: object, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "recsys", *(str(argument) for argument in arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload, no-any-return]


def listening(host: str) -> socket.socket:
    """A socket that listens on a free port, as a service does."""
    if ":" not in host:
        return socket.create_server((host, 0))
    try:
        return socket.create_server((host, 0), family=socket.AF_INET6)
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")


class TestTrain:
    def test_train_then_batch(self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        root = tmp_path / "bundles"
        assert run("train", "--data", data, "--bundle", root, *QUICK) == 0
        version = current_version(root)
        summary = capsys.readouterr().out
        assert f"version {version}" in summary
        assert "promoted" in summary
        assert " s\n" in summary
        assert pd.read_csv(root / str(version) / "rejected.csv")["line"].tolist() == [361]
        requests = tmp_path / "r.jsonl"
        requests.write_text('{"request_id": "7", "history": ["i3", "i9"], "at": 1700000000, "n": 4}\n')
        assert run("batch", "--bundle", root, "--requests", requests, "--out", tmp_path / "out.parquet") == 0
        found = pd.read_parquet(tmp_path / "out.parquet")
        assert found["request_id"].tolist() == ["7"] * 4
        assert found["rank"].tolist() == [1, 2, 3, 4]
        assert not {"i3", "i9"} & set(found["item_id"])

    def test_no_promote(
        self, data: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = current_version(bundle)
        monkeypatch.setattr(training, "train", lambda *_: handmade_model())
        assert run("train", "--data", data, "--bundle", bundle, "--no-promote", *QUICK) == 0
        assert current_version(bundle) == before
        assert len(list_versions(bundle)) == 2
        assert "not promoted" in capsys.readouterr().out

    def test_ctrl_c_in_the_middle(self, data: Path, bundle: Path) -> None:
        before = sorted(bundle.iterdir())
        process = start("train", "--data", data, "--bundle", bundle, "--set", "encoder.model=none")
        assert process.stderr is not None
        said = next((line for line in process.stderr if "choose source settings" in line), "")
        assert said, "it ended before it began to train"
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=60)[1]
        assert process.returncode == 130
        assert rest.endswith("interrupted; nothing was promoted\n")
        assert "Traceback" not in rest
        assert sorted(bundle.iterdir()) == before

    def test_a_full_disk_is_one_line_and_the_old_version_stays(
        self, data: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        before = current_version(bundle)
        monkeypatch.setattr(training, "train", lambda *_: handmade_model())
        monkeypatch.setattr(os, "fsync", full)
        assert run("train", "--data", data, "--bundle", bundle, *QUICK) == 1
        message = capsys.readouterr().err.splitlines()[-1]
        assert message.startswith("recsys: error: [Errno 28] No space left on device")
        assert current_version(bundle) == before
        assert not list(bundle.glob(".writing-*"))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--set", "sed=1"], "unknown setting 'sed'"),
            (["--settings", "none.toml"], "none.toml does not exist"),
            (["--events", "purchase"], "purchase"),
            (["--events", ","], "--events names no event type"),
        ],
    )
    def test_bad_input_writes_nothing(
        self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
    ) -> None:
        assert run("train", "--data", data, "--bundle", tmp_path / "b", *options) == 2
        assert message in capsys.readouterr().err
        assert not list(tmp_path.iterdir())

    def test_bad_folders(self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "file").write_text("")
        assert run("train", "--data", data, "--bundle", tmp_path / "file", *QUICK) == 2
        assert run("train", "--data", data, "--bundle", tmp_path / "file" / "x", *QUICK) == 2
        assert run("train", "--data", tmp_path / "none", "--bundle", tmp_path / "b", *QUICK) == 2
        assert capsys.readouterr().err.count("Traceback") == 0


class TestOtherCommands:
    def test_validate_counts_and_lists_the_rejected_rows(
        self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run("validate", "--data", data, "--rejected", tmp_path / "rejected.csv") == 0
        out = capsys.readouterr().out
        assert "360" in out
        assert len(pd.read_csv(tmp_path / "rejected.csv")) == 1

    def test_evaluate_prints_and_writes_the_figures(
        self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        figures = tmp_path / "figures.json"
        assert run("evaluate", "--data", data, "--task", "static", "--seed", 3, "--json", figures, *QUICK) == 0
        assert "popularity" in capsys.readouterr().out
        content = json.loads(figures.read_text())
        assert (content["seed"], content["task"]["kind"]) == (3, "static")

    def test_evaluate_runs_the_experiments_that_are_asked_for(
        self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        figures = tmp_path / "figures.json"
        sources = ["--set", "sources=popularity,transitions", "--set", "ranker=by_score", "--set", "encoder.model=none"]
        asked = ("--ablations", "--robustness", "--learning-curve")
        assert run("evaluate", "--data", data, "--json", figures, *asked, *sources) == 0
        assert "Learning curve" in capsys.readouterr().out
        content = json.loads(figures.read_text())
        assert [row["name"] for row in content["ablations"]] == ["without popularity", "without transitions"]
        assert content["robustness"] == []
        assert content["learning_curve"][-1]["ndcg@10"] == content["systems"][0]["ndcg@10"]

    def test_evaluate_writes_the_report(self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        report = tmp_path / "report.html"
        assert run("evaluate", "--data", data, "--task", "static", "--report", report, *QUICK) == 0
        assert report.read_text(encoding="utf-8").startswith("<!doctype html>")
        assert [path.name for path in tmp_path.iterdir()] == ["report.html"]

    @pytest.mark.parametrize("option", ["--report", "--json"])
    def test_evaluate_says_at_once_that_it_could_not_write(
        self,
        data: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        option: str,
    ) -> None:
        monkeypatch.setattr("recsys.__main__._read", lambda *_: pytest.fail("it began to work"))
        assert run("evaluate", "--data", data, option, tmp_path / "none" / "x", *QUICK) == 2
        assert f"{tmp_path / 'none' / 'x'} can't be written: the folder {tmp_path / 'none'} does not exist" in (
            capsys.readouterr().err
        )

    def test_settings_prints_every_key(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("settings", "--set", "seed=3") == 0
        lines = capsys.readouterr().out.splitlines()
        assert {"seed=3", 'ranker="lambdamart"', "serve.max_n=500"} <= set(lines)

    def test_bundles(self, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
        first = current_version(bundle)
        second = save_bundle(handmade_model(report={"ndcg": 0.5}), bundle)
        assert run("bundles", "list", "--bundle", bundle) == 0
        listed = capsys.readouterr().out.splitlines()
        assert [line.split()[:2] for line in listed] == [[first, listed[0].split()[1]], ["*", second]]
        assert run("bundles", "show", "--bundle", bundle) == 0
        assert json.loads(capsys.readouterr().out)["version"] == second
        assert run("bundles", "compare", "--bundle", bundle, first, second) == 0
        assert "report.ndcg: 0.25 -> 0.5" in capsys.readouterr().out
        assert run("bundles", "verify", "--bundle", bundle, first) == 0
        assert run("bundles", "rollback", "--bundle", bundle) == 0
        assert current_version(bundle) == first
        assert run("bundles", "promote", "--bundle", bundle, second) == 0
        assert current_version(bundle) == second
        (bundle / second / "users.parquet").unlink()
        assert run("bundles", "verify", "--bundle", bundle) == 2
        assert "users.parquet is missing" in capsys.readouterr().err

    @pytest.mark.parametrize("n", ["0", "-1", "1000000000", "x"])
    def test_batch_with_a_bad_n(self, bundle: Path, tmp_path: Path, n: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("batch", "--bundle", bundle, "--users", "all", "--out", tmp_path / "o.parquet", "--n", n) == 2
        assert n in capsys.readouterr().err
        assert not (tmp_path / "o.parquet").exists()

    @pytest.mark.parametrize("arguments", [[], ["--requests", "x", "--users", "all"]], ids=["neither", "both"])
    def test_batch_takes_requests_or_users(self, bundle: Path, tmp_path: Path, arguments: list[str]) -> None:
        assert run("batch", "--bundle", bundle, "--out", tmp_path / "o.parquet", *arguments) == 2

    @pytest.mark.parametrize("arguments", [["nonsense"], ["train"], ["train", "--nonsense"], ["bundles", "show"]])
    def test_bad_usage(self, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert run(*arguments) == 2
        assert "Usage" in capsys.readouterr().err

    def test_an_unexpected_error_passes_through(self, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("recsys.versions.list_versions", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run("bundles", "list", "--bundle", bundle)

    def test_the_summary_leaves_out_long_tables(self) -> None:
        report = {"seconds": {"windows": 1.5}, "ranker": {"gains": {"a": 1}, "trees": 3}}
        lines = _summary(handmade_model(report=report), Path("b"), "v1", promoted=False).splitlines()
        assert [" ".join(line.split()) for line in lines] == [
            "version v1 in b, not promoted",
            "windows 1.5 s",
            "ranker.trees = 3",
        ]


class TestServe:
    @pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.1.2.3"])
    def test_loopback_is_served(self, host: str) -> None:
        check_host(host)

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])  # noqa: S104
    def test_other_hosts_are_not(self, host: str) -> None:
        with pytest.raises(SettingsError, match="does not authenticate"):
            check_host(host)

    def test_serve_refuses_without_starting(self, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("serve", "--bundle", bundle, "--host", "0.0.0.0") == 2  # noqa: S104
        assert "does not authenticate" in capsys.readouterr().err

    @pytest.mark.parametrize("option", ["--rules", "--experiment"])
    def test_a_broken_file_is_refused_before_anything_starts(
        self, option: str, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "broken.toml").write_text("[[", encoding="utf-8")
        with listening("127.0.0.1") as soon_free:
            port = soon_free.getsockname()[1]
        assert run("serve", "--bundle", bundle, option, tmp_path / "broken.toml", "--port", port) == 2
        assert "broken.toml is not TOML" in capsys.readouterr().err

    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
    def test_a_port_in_use_is_one_clear_line(self, host: str, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with listening("::1" if host == "[::1]" else "127.0.0.1") as taken:
            port = taken.getsockname()[1]
            assert run("serve", "--bundle", bundle, "--host", host, "--port", port) == 2
        shown = host.strip("[]")
        said = f"recsys: error: port {port} on {shown} is in use; choose another with --port\n"
        assert capsys.readouterr().err == said

    def test_a_port_that_nobody_listens_on_any_more_is_free(self) -> None:
        """Not even connections of a moment ago, which the kernel still remembers, are in the way of a restart."""
        with listening("127.0.0.1") as former:
            port = former.getsockname()[1]
            with pytest.raises(SettingsError, match="is in use"):
                check_port("127.0.0.1", port)
            with socket.create_connection(former.getsockname()) as caller:
                former.accept()[0].close()
                assert caller.recv(1) == b""
        check_port("127.0.0.1", port)
        check_port("127.0.0.1", port)

    def test_an_address_that_is_not_this_machines_is_told(self) -> None:
        with pytest.raises(SettingsError, match=r"192\.0\.2\.1 can't be used: .*--host"):
            check_port("192.0.2.1", 8000)

    @pytest.mark.parametrize(
        "handed_over", [{"GUNICORN_PID": "1"}, {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}]
    )
    def test_a_socket_that_is_handed_over_needs_no_port(
        self, handed_over: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in handed_over.items():
            monkeypatch.setenv(name, value)
        with listening("127.0.0.1") as taken:
            check_port(*taken.getsockname())

    def test_gunicorn_is_given_what_was_asked(self) -> None:
        config = GunicornApp("::1", 8123, 3).cfg
        assert (config.bind, config.workers, config.preload_app) == (["[::1]:8123"], 3, True)


class TestImports:
    @pytest.mark.parametrize(
        ("statement", "absent"),
        [
            ("import recsys.__main__", {"numpy", "pandas", "pydantic", "torch", "lightgbm"}),
            ("import recsys", {"numpy", "pandas", "pydantic", "torch"}),
            ("import recsys.batch, recsys.bundle, recsys.gunicorn_app", {"torch", "transformers", "implicit", "flask"}),
        ],
    )
    def test_nothing_heavy_is_imported_early(self, statement: str, absent: set[str]) -> None:
        code = f"import sys; {statement}; print(*({absent!r} & set(sys.modules)))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.split() == []

    def test_every_public_name_is_there(self) -> None:
        for name in recsys.__all__:
            assert getattr(recsys, name) is not None
        assert set(recsys.__all__) <= set(dir(recsys))
        with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
            _ = recsys.nonsense

    def test_load_recommender(self, bundle: Path) -> None:
        answer = recsys.load_recommender(bundle).recommend(recsys.Request(history=(), n=2))
        assert [item.item_id for item in answer.items] == ["i00", "i01"]

    def test_a_closed_pipe_is_quiet(self) -> None:
        with start("settings") as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.close()
            assert process.stderr.read() == ""

    def test_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("--version") == 0
        assert capsys.readouterr().out.startswith("recsys ")


class TestThreads:
    def test_the_limit_holds_in_the_environment_and_ends(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OMP_NUM_THREADS", "7")
        monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
        with limit_threads(2):
            assert (os.environ["OMP_NUM_THREADS"], os.environ["OPENBLAS_NUM_THREADS"]) == ("2", "2")
            assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
        assert os.environ["OMP_NUM_THREADS"] == "7"
        assert "OPENBLAS_NUM_THREADS" not in os.environ

    def test_loaded_libraries_obey(self) -> None:
        from threadpoolctl import threadpool_info

        with limit_threads(1):
            assert {pool["num_threads"] for pool in threadpool_info()} == {1}

    def test_none_is_refused(self) -> None:
        with pytest.raises(ValueError, match="at least 1"):
            limit_threads(0)


def test_a_terminated_batch_leaves_nothing(bundle: Path, tmp_path: Path) -> None:
    """SIGTERM while the workers answer: exit 143, no file, no temporary file and no orphan."""
    requests = tmp_path / "r.jsonl"
    requests.write_text("".join(f'{{"request_id": "{k}", "user": "ann"}}\n' for k in range(50_000)))
    process = start(
        "batch", "--bundle", bundle, "--requests", requests, "--out", tmp_path / "o.parquet", "--workers", 1
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / ".o.parquet.tmp").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert {path.name for path in tmp_path.iterdir()} == {"bundles", "r.jsonl"}


class TestSignals:
    """numba's dispatcher says SystemError where a signal's exception leaves a call of compiled code."""

    def test_sigterm_amid_compiled_code_ends_as_any_sigterm(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        with pytest.raises(SystemExit) as ended:
            self._end(monkeypatch, tmp_path, SystemExit(143))
        assert ended.value.code == 143

    def test_ctrl_c_amid_compiled_code_ends_as_any_ctrl_c(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self._end(monkeypatch, tmp_path, KeyboardInterrupt()) == 130
        assert capsys.readouterr().err == "interrupted\n"

    def test_another_error_of_compiled_code_is_not_taken_for_a_signal(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        with pytest.raises(SystemError, match="exception set"):
            self._end(monkeypatch, tmp_path, ValueError("x"))

    def _end(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, raised: BaseException) -> int:
        def interrupted(*_: object, **__: object) -> None:
            raise SystemError("unpickled returned a result with an exception set") from raised

        monkeypatch.setattr("recsys.batch.run_batch", interrupted)
        return run("batch", "--bundle", tmp_path, "--users", "all", "--out", tmp_path / "o.parquet")


class TestTune:
    def test_it_writes_settings_that_load_and_goes_on(
        self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out, figures = tmp_path / "settings.toml", tmp_path / "trials.json"
        command = ["tune", "--data", data, "--out", out, "--json", figures, "--task", "static", "--seed", 3]
        command += ["--set", "encoder.model=none", "--set", "sources=als,popularity", "--set", "threads=1"]
        assert run(*command, "--trials", 2, "--only", "retrieval.als, ranker") == 0
        shown = capsys.readouterr().out
        assert "Trials: 2 complete" in shown
        assert f"settings in {out}" in shown
        assert out.read_text().startswith("# Found by `recsys tune`")
        assert load_settings(out, (), {}).seed == 3
        assert run("evaluate", "--data", data, "--task", "static", "--settings", out) == 0
        capsys.readouterr()
        assert run(*command, "--trials", 3, "--only", "retrieval.als, ranker") == 0
        assert "Trials: 3 complete" in capsys.readouterr().out
        content = json.loads(figures.read_text())
        assert content["trials"][0]["group"] == "start"
        assert (content["seed"], content["task"]["kind"], content["task"]["test_part_held_out"]) == (3, "static", True)
        assert run(*command, "--trials", 4) == 2
        assert "was made with other search space" in capsys.readouterr().err

    def test_ctrl_c_writes_what_was_found(self, data: Path, tmp_path: Path) -> None:
        out = tmp_path / "settings.toml"
        command = ("tune", "--data", data, "--out", out, "--set", "encoder.model=none", "--set", "threads=1")
        process = start(*command, "--only", "ranker")
        assert process.stderr is not None
        said = next((line for line in process.stderr if "trial 0 (start)" in line), "")
        assert said, "it ended before its first trial did"
        process.send_signal(signal.SIGINT)
        shown, errors = process.communicate(timeout=250)
        assert process.returncode == 130, errors
        assert errors.endswith("interrupted; the trial that was running is lost\n")
        assert "Traceback" not in errors
        assert "the same command goes on" in shown
        assert load_settings(out, (), {}).encoder.model == "none"

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--out", "none/s.toml"], "the folder none does not exist"),
            (["--out", "s.toml", "--settings", "s.toml"], "is the file of --settings"),
            (["--out", "s.toml", "--study", "s.toml"], "must be a file of its own"),
            (["--out", "s.toml", "--only", "trees"], "names nothing that can be tuned"),
            (["--out", "s.toml", "--minutes", "-1"], "--minutes"),
            ([], "--out"),
        ],
    )
    def test_bad_input_is_found_before_anything_is_written(
        self,
        data: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        options: list[str],
        message: str,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert run("tune", "--data", data, *options) == 2
        assert message in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []
