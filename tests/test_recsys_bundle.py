"""Laws of bundles: saving and loading change nothing, damage is refused by name, a failure leaves what was there."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from features.tables import Rejected
from handmade import USERS, handmade_model
from recsys.bundle import (
    check_writable,
    compare,
    current_version,
    list_versions,
    load_bundle,
    promote,
    rollback,
    save_bundle,
    show,
    verify,
)
from recsys.errors import BundleError
from recsys.manifest import FORMAT_VERSION, files_in
from recsys.model import FittedModel
from recsys.recommender import Recommender
from recsys.requests import HistoryEvent, Request
from recsys.settings import settings_from
from recsys.versions import new_version


@pytest.fixture(scope="module")
def model() -> FittedModel:
    return handmade_model()


@pytest.fixture(scope="module")
def saved(model: FittedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with one promoted version. Tests that change files take `root`, a copy of it."""
    root = tmp_path_factory.mktemp("saved")
    save_bundle(model, root)
    return root


@pytest.fixture
def root(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "bundles"))


def current_folder(root: Path) -> Path:
    return root / str(current_version(root))


def edit_manifest(root: Path, change: Callable[[dict[str, object]], object]) -> None:
    path = current_folder(root) / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


REQUESTS = [
    Request("known", "ann", n=12),
    Request("unicode", USERS[2], n=5),
    Request("stranger", "nobody", n=5),
    Request("own", None, (HistoryEvent("i07"), HistoryEvent("i03")), n=12),
    Request("filtered", "bob", n=5, filters=(("category", "Books"),)),
    Request("numbered", "bob", n=5, filters=(("price", "4"), ("price", "6"))),
]


class TestRoundTrip:
    def test_the_loaded_model_answers_as_the_saved_one_did(self, model: FittedModel, saved: Path) -> None:
        loaded = load_bundle(saved)
        assert Recommender(loaded).recommend_many(REQUESTS) == Recommender(model).recommend_many(REQUESTS)

    def test_a_trained_model_answers_as_before(self, tiny_model: FittedModel, tmp_path: Path) -> None:
        """Every source that the tiny world trains, and its ranker with features in the same order."""
        save_bundle(tiny_model, tmp_path)
        loaded = load_bundle(tmp_path)
        requests = [Request(str(user), str(user), n=20) for user in tiny_model.users.ids] + [
            Request("guest", history=())
        ]
        assert Recommender(loaded).recommend_many(requests) == Recommender(tiny_model).recommend_many(requests)
        assert [source.name for source in loaded.sources] == [source.name for source in tiny_model.sources]
        assert show(tmp_path)["features"] == list(getattr(tiny_model.ranker, "names", ()))

    def test_values_come_back_as_they_were(self, model: FittedModel, saved: Path) -> None:
        loaded = load_bundle(saved)
        pd.testing.assert_frame_equal(loaded.catalogue.frame, model.catalogue.frame)
        assert loaded.catalogue.attributes == model.catalogue.attributes
        assert loaded.catalogue.items.ids.tolist() == model.catalogue.items.ids.tolist()
        assert loaded.users.ids.tolist() == list(USERS)
        for name in ("settings", "trained_until", "kind_weights", "fingerprint", "report", "ranker"):
            assert getattr(loaded, name) == getattr(model, name), name
        assert loaded.bundle_version == current_version(saved)
        assert loaded.encoder is None

    def test_a_loaded_model_can_be_saved_again(self, saved: Path, tmp_path: Path) -> None:
        loaded = load_bundle(saved)
        save_bundle(loaded, tmp_path)
        again = load_bundle(tmp_path)
        assert Recommender(again).recommend_many(REQUESTS) == Recommender(loaded).recommend_many(REQUESTS)

    def test_arrays_stay_on_the_disk(self, saved: Path) -> None:
        loaded = load_bundle(saved)
        assert isinstance(loaded.histories.times.base, np.memmap)
        assert isinstance(loaded.features.pairs.embeddings.base, np.memmap)

    def test_no_pickle_in_any_file(self, saved: Path) -> None:
        endings = {Path(name).suffix for name in files_in(current_folder(saved))}
        assert endings <= {".npy", ".json", ".parquet", ".txt", ".csv", ".safetensors"}
        for name in files_in(current_folder(saved)):
            assert not (current_folder(saved) / name).read_bytes().startswith(b"\x80")

    def test_rejected_rows_lie_beside_the_manifest(self, model: FittedModel, tmp_path: Path) -> None:
        rejected = Rejected(pd.DataFrame({"table": ["events"], "line": [7], "reason": ["no item_id"], "value": [""]}))
        version = save_bundle(model, tmp_path, rejected=rejected)
        assert pd.read_csv(tmp_path / version / "rejected.csv")["line"].tolist() == [7]
        assert show(tmp_path)["data"]["rejected"] == {"events: no item_id": 1}

    def test_the_manifest_says_what_it_is(self, saved: Path) -> None:
        manifest = show(saved)
        assert manifest["format_version"] == FORMAT_VERSION
        assert manifest["sources"] == ["linear", "text_profile", "popularity"]
        assert manifest["data"]["num_events"] == 6
        assert (manifest["data"]["from"], manifest["data"]["until"]) == (1_700_000_450.0, 1_700_000_500.0)
        assert manifest["classes"]["ranker"] == "ranking.by_score.ByScoreRanker"
        assert set(manifest["files"]) == files_in(current_folder(saved))


class TestEqualFilesAreStoredOnce:
    def test_embeddings_of_two_components_are_one_file_on_the_disk(self, saved: Path) -> None:
        folder = current_folder(saved)
        first = folder / "sources/text_profile/embeddings.npy"
        second = folder / "features/pairs/embeddings.npy"
        assert first.samefile(second)

    def test_a_file_system_without_hard_links_gets_copies(
        self, model: FittedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> None:
            raise PermissionError(errno.EPERM, "no links here")

        monkeypatch.setattr(os, "link", refuse)
        save_bundle(model, tmp_path)
        assert len(load_bundle(tmp_path).catalogue) == 12


class TestDamage:
    def test_a_flipped_byte_of_any_file_is_refused_by_name(self, root: Path) -> None:
        folder = current_folder(root)
        for name in sorted(files_in(folder)):
            path = folder / name
            good = path.read_bytes()
            path.unlink()  # a copied tree has no hard links, but a saved one does
            path.write_bytes(bytes([good[0] ^ 1]) + good[1:])
            with pytest.raises(BundleError, match=name.replace(".", r"\.")):
                load_bundle(root)
            path.write_bytes(good)
        load_bundle(root)

    def test_a_missing_file(self, root: Path) -> None:
        (current_folder(root) / "users.parquet").unlink()
        with pytest.raises(BundleError, match=r"users\.parquet is missing"):
            load_bundle(root)

    def test_an_extra_file(self, root: Path) -> None:
        (current_folder(root) / "sources/extra.npy").write_bytes(b"x")
        with pytest.raises(BundleError, match=r"sources/extra\.npy does not belong"):
            load_bundle(root)

    def test_a_truncated_file(self, root: Path) -> None:
        path = current_folder(root) / "items.parquet"
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(BundleError, match=r"items\.parquet has \d+ bytes instead of"):
            load_bundle(root)

    def test_a_changed_manifest(self, root: Path) -> None:
        edit_manifest(root, lambda content: content.update(seed=7))
        with pytest.raises(BundleError, match=r"manifest\.json is damaged"):
            load_bundle(root)

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"format_version": "1"}'])
    def test_a_manifest_that_is_none(self, root: Path, content: bytes) -> None:
        (current_folder(root) / "manifest.json").write_bytes(content)
        with pytest.raises(BundleError, match=r"manifest\.json is damaged"):
            load_bundle(root)

    def test_a_missing_manifest(self, root: Path) -> None:
        (current_folder(root) / "manifest.json").unlink()
        with pytest.raises(BundleError, match=r"manifest\.json is missing"):
            load_bundle(root)

    def test_a_newer_format_names_the_version_it_needs(self, root: Path) -> None:
        edit_manifest(root, lambda content: content.update(format_version=FORMAT_VERSION + 1, product_version="9.1.0"))
        with pytest.raises(BundleError, match=r"needs shelftalk 9\.1\.0"):
            load_bundle(root)

    def test_an_older_format_asks_for_a_training(self, root: Path) -> None:
        edit_manifest(root, lambda content: content.update(format_version=FORMAT_VERSION - 1))
        with pytest.raises(BundleError, match=r"of an older shelftalk.*train again with recsys train"):
            load_bundle(root)

    def test_a_damaged_version_is_listed_with_its_problem(self, root: Path) -> None:
        (current_folder(root) / "manifest.json").write_text("{")
        assert "manifest.json is damaged" in list_versions(root)[0].problem


class TestRoots:
    def test_a_root_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match="recsys train"):
            load_bundle(tmp_path / "none")
        with pytest.raises(BundleError, match="recsys train"):
            list_versions(tmp_path / "none")

    def test_nothing_promoted_yet(self, model: FittedModel, tmp_path: Path) -> None:
        version = save_bundle(model, tmp_path, promote=False)
        assert current_version(tmp_path) is None
        with pytest.raises(BundleError, match="recsys train"):
            load_bundle(tmp_path)
        assert load_bundle(tmp_path, version).bundle_version == version

    @pytest.mark.parametrize("name", ["20200101T000000Z-0000", "../bundles", "", "."])
    def test_current_that_points_nowhere(self, root: Path, name: str) -> None:
        (root / "CURRENT").write_text(name)
        with pytest.raises(BundleError, match="CURRENT"):
            load_bundle(root)

    def test_a_root_that_is_a_file(self, model: FittedModel, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        for act in (check_writable, lambda path: save_bundle(model, path)):
            with pytest.raises(BundleError, match="can't be written"):
                act(tmp_path / "file")

    @pytest.mark.parametrize("name", ["", "new", "new/deeper"])
    def test_a_root_without_permission(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        monkeypatch.setattr(os, "access", lambda *_: False)
        with pytest.raises(BundleError, match="permission denied"):
            check_writable(tmp_path / name)

    def test_a_root_in_a_file_or_behind_a_dead_link(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        (tmp_path / "link").symlink_to("missing")
        for root in (tmp_path / "file" / "new", tmp_path / "link", tmp_path / "link" / "new"):
            with pytest.raises(BundleError, match="can't be written"):
                check_writable(root)

    def test_a_root_that_is_to_be_made_is_looked_at_only(
        self, model: FittedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        for root in (Path("new/deeper"), tmp_path / "new"):
            check_writable(root)
        assert list(tmp_path.iterdir()) == []
        save_bundle(model, Path("new/deeper"))
        assert len(list_versions(tmp_path / "new" / "deeper")) == 1

    def test_a_root_can_be_read_without_writing(self, saved: Path) -> None:
        before = sorted(path.name for path in saved.iterdir())
        load_bundle(saved)
        list_versions(saved)
        verify(saved)
        assert sorted(path.name for path in saved.iterdir()) == before


@contextmanager
def failing_at(
    monkeypatch: pytest.MonkeyPatch, owner: object, name: str, nth: int, error: BaseException
) -> Iterator[None]:
    """`owner.name` works until its nth call (0 = first), which raises."""
    real, calls = getattr(owner, name), itertools.count()

    def wrapped(*args: object, **kwargs: object) -> object:
        if next(calls) == nth:
            raise error
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, wrapped)
        yield


def num_calls(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, act: Callable[[], object]) -> int:
    real, calls = getattr(owner, name), itertools.count()

    def counted(*args: object, **kwargs: object) -> object:
        next(calls)
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, counted)
        act()
    return next(calls)


FULL = OSError(errno.ENOSPC, "No space left on device")


class TestFailuresWhileSaving:
    @pytest.mark.parametrize("error", [FULL, KeyboardInterrupt()], ids=["full disk", "Ctrl-C"])
    @pytest.mark.parametrize(
        ("owner", "name"), [(os, "fsync"), (np, "save"), (Path, "replace"), (Path, "write_text"), (Path, "rename")]
    )
    def test_whatever_step_fails_the_old_version_stays(
        self,
        model: FittedModel,
        root: Path,
        monkeypatch: pytest.MonkeyPatch,
        owner: object,
        name: str,
        error: BaseException,
    ) -> None:
        before = current_version(root)
        total = num_calls(monkeypatch, owner, name, lambda: save_bundle(model, root, promote=False))
        promote(root, str(before))
        for nth in sorted({0, 1, total // 2, total - 1} & set(range(total))):
            with failing_at(monkeypatch, owner, name, nth, error), pytest.raises(type(error)):
                save_bundle(model, root)
            assert current_version(root) == before
            assert not list(root.glob(".writing-*")), nth
        for found in list_versions(root):
            verify(root, found.version)

    @pytest.mark.parametrize("nth", range(4))
    def test_a_failing_promotion_keeps_the_old_current(
        self, model: FittedModel, root: Path, monkeypatch: pytest.MonkeyPatch, nth: int
    ) -> None:
        """A promotion syncs the log, its folder, CURRENT and the folder again: only then is the new version current."""
        before = current_version(root)
        version = save_bundle(model, root, promote=False)
        with failing_at(monkeypatch, os, "fsync", nth, FULL), pytest.raises(OSError, match="No space"):
            promote(root, version)
        assert current_version(root) == (before if nth < 3 else version)
        assert load_bundle(root).bundle_version == current_version(root)

    def test_an_entry_that_never_took_effect_is_not_gone_back_to(
        self, model: FittedModel, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = current_version(root)
        second, third = (save_bundle(model, root, promote=False) for _ in range(2))
        with failing_at(monkeypatch, os, "fsync", 2, FULL), pytest.raises(OSError, match="No space"):
            promote(root, second)
        promote(root, third)
        assert rollback(root) == first

    def test_what_a_killed_process_left_is_removed_by_the_next_save(self, model: FittedModel, root: Path) -> None:
        code = (
            "import os, signal, sys, pathlib; from recsys.versions import new_version\n"
            "with new_version(pathlib.Path(sys.argv[1])) as draft:\n"
            "    (draft.folder / 'half.npy').write_bytes(b'x')\n"
            "    os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        done = subprocess.run([sys.executable, "-c", code, str(root)], check=False)
        assert done.returncode == -signal.SIGKILL
        assert len(list(root.glob(".writing-*"))) == 2, "the draft and its lock"
        save_bundle(model, root)
        assert not list(root.glob(".writing-*"))

    def test_a_living_writer_is_left_alone(self, model: FittedModel, root: Path) -> None:
        with new_version(root) as draft:
            (draft.folder / "file").write_text("x")
            other = save_bundle(model, root)
            assert (draft.folder / "file").exists()
        assert other != draft.version
        assert {other, draft.version} <= {found.version for found in list_versions(root)}

    def test_two_writers_at_once(self, model: FittedModel, tmp_path: Path) -> None:
        made: list[str] = []
        writers = [threading.Thread(target=lambda: made.append(save_bundle(model, tmp_path))) for _ in range(2)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        assert len(set(made)) == 2
        assert current_version(tmp_path) in made


class TestVersions:
    def test_names_are_unique_and_sort_by_time(self, tmp_path: Path) -> None:
        made = []
        for _ in range(20):
            with new_version(tmp_path) as draft:
                made.append(draft.version)
        assert made == sorted(set(made))

    def test_rollback_goes_back_one_promotion_at_a_time(self, model: FittedModel, tmp_path: Path) -> None:
        first, second, third = (save_bundle(model, tmp_path) for _ in range(3))
        assert current_version(tmp_path) == third
        assert rollback(tmp_path) == second
        assert rollback(tmp_path) == first
        with pytest.raises(BundleError, match="nothing to go back to"):
            rollback(tmp_path)
        assert load_bundle(tmp_path).bundle_version == first

    def test_rollback_follows_promotions_not_ages(self, model: FittedModel, tmp_path: Path) -> None:
        first, second, third = (save_bundle(model, tmp_path) for _ in range(3))
        promote(tmp_path, first)
        assert rollback(tmp_path) == third
        assert rollback(tmp_path) == second

    def test_promoting_the_current_version_again_changes_nothing(self, model: FittedModel, tmp_path: Path) -> None:
        first, second = (save_bundle(model, tmp_path) for _ in range(2))
        promote(tmp_path, second)
        assert rollback(tmp_path) == first

    def test_rollback_without_a_current_version(self, model: FittedModel, tmp_path: Path) -> None:
        save_bundle(model, tmp_path, promote=False)
        with pytest.raises(BundleError, match="nothing to go back to"):
            rollback(tmp_path)

    def test_a_current_changed_by_hand_counts(self, model: FittedModel, tmp_path: Path) -> None:
        first, _, third = (save_bundle(model, tmp_path) for _ in range(3))
        (tmp_path / "CURRENT").write_text(first + "\n")
        assert rollback(tmp_path) == third

    def test_a_damaged_version_is_not_promoted(self, model: FittedModel, tmp_path: Path) -> None:
        first = save_bundle(model, tmp_path)
        second = save_bundle(model, tmp_path, promote=False)
        (tmp_path / second / "users.parquet").write_bytes(b"x")
        with pytest.raises(BundleError, match=r"users\.parquet"):
            promote(tmp_path, second)
        assert current_version(tmp_path) == first

    def test_a_damaged_version_is_not_gone_back_to(self, model: FittedModel, tmp_path: Path) -> None:
        first, second = (save_bundle(model, tmp_path) for _ in range(2))
        (tmp_path / first / "users.parquet").unlink()
        with pytest.raises(BundleError, match=r"users\.parquet"):
            rollback(tmp_path)
        assert current_version(tmp_path) == second

    def test_a_damaged_promotion_log_names_the_remedy(self, root: Path) -> None:
        (root / "promotions.jsonl").write_text("{\n")
        with pytest.raises(BundleError, match=r"promotions\.jsonl is damaged"):
            rollback(root)

    def test_unknown_versions_are_refused_with_the_known_ones(self, root: Path) -> None:
        for version in ("20200101T000000Z-0000", "../x"):
            with pytest.raises(BundleError, match=str(current_version(root))):
                promote(root, version)

    def test_list_marks_the_current_one(self, model: FittedModel, tmp_path: Path) -> None:
        first, second = (save_bundle(model, tmp_path) for _ in range(2))
        rollback(tmp_path)
        assert [(v.version, v.is_current, v.problem) for v in list_versions(tmp_path)] == [
            (first, True, ""),
            (second, False, ""),
        ]

    def test_compare_names_what_differs(self, model: FittedModel, tmp_path: Path) -> None:
        first = save_bundle(model, tmp_path)
        changed = handmade_model(settings=settings_from({"seed": 5}), report={"ndcg": 0.5}, fingerprint="e" * 64)
        second = save_bundle(changed, tmp_path)
        found = compare(tmp_path, first, second)
        assert found["settings.seed"] == (0, 5)
        assert found["report.ndcg"] == (0.25, 0.5)
        assert found["data.fingerprint"] == ("f" * 64, "e" * 64)
        assert found["report.ranker_reason"] == ("made by hand", None)
        assert "settings.threads" not in found


def test_what_components_share_is_one_array_in_a_loaded_bundle(saved: Path) -> None:
    model = load_bundle(saved)
    by_name = {source.name: source for source in model.sources}
    assert by_name["text_profile"].embeddings.shape[1]
    assert by_name["text_profile"].embeddings is model.features.pairs.embeddings
