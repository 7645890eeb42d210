"""Laws of room: what was handed out never changes, whatever comes later; mapped files stay shared and untouched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features import room as room_module
from features.room import Room

F32 = npt.NDArray[np.float32]
ROWS, WIDTH = 3000, 64


def numbers(num_rows: int, start: float = 0.0) -> F32:
    return np.arange(start, start + num_rows * WIDTH, dtype=np.float32).reshape(num_rows, WIDTH)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("room") / "array.npy"
    np.save(path, numbers(ROWS))
    return path


def mapped(path: Path) -> F32:
    return np.asarray(np.load(path, mmap_mode="r"))


@pytest.mark.parametrize("from_file", [True, False])
def test_rows_come_behind_and_older_arrays_stay(file: Path, from_file: bool) -> None:
    room, base = Room(), mapped(file) if from_file else numbers(ROWS)
    first = room.adopted(base)
    second = room.extended(first, numbers(2, 1e6))
    third = room.extended(second, numbers(3, 2e6))
    fourth = room.changed(third, np.array([0, ROWS]), numbers(2, 3e6))
    fifth = room.extended(fourth, numbers(1, 4e6))
    whole = np.concatenate([numbers(ROWS), numbers(2, 1e6), numbers(3, 2e6), numbers(1, 4e6)])
    for array, length in ((first, ROWS), (second, ROWS + 2), (third, ROWS + 5)):
        np.testing.assert_array_equal(array, whole[:length])
        assert not array.flags.writeable
    whole[[0, ROWS]] = numbers(2, 3e6)
    np.testing.assert_array_equal(fourth, whole[: ROWS + 5])
    np.testing.assert_array_equal(fifth, whole)
    np.testing.assert_array_equal(np.load(file), numbers(ROWS))


def test_two_children_of_one_array_do_not_share_rows(file: Path) -> None:
    room = Room()
    base = room.adopted(mapped(file))
    one, other = room.extended(base, numbers(1, 1e6)), room.extended(base, numbers(1, 2e6))
    np.testing.assert_array_equal(one[-1], numbers(1, 1e6)[0])
    np.testing.assert_array_equal(other[-1], numbers(1, 2e6)[0])


def test_arrays_of_one_file_are_one_array(file: Path) -> None:
    room = Room()
    assert room.adopted(mapped(file)).ctypes.data == room.adopted(mapped(file)).ctypes.data


def test_nothing_is_copied_by_appending(file: Path) -> None:
    room = Room()
    base = room.adopted(mapped(file))
    longer = room.extended(base, numbers(5))
    assert longer.ctypes.data == base.ctypes.data
    rows, lines = longer.ctypes.data, Path("/proc/self/smaps").read_text().splitlines()
    spans = [(number, line.split()) for number, line in enumerate(lines) if "-" in line.split()[0]]
    own = next(
        number for number, words in spans if int(words[0].split("-")[0], 16) <= rows < int(words[0].split("-")[1], 16)
    )
    assert lines[own].endswith(str(file))
    private = next(line for line in lines[own:] if line.startswith("Private_Dirty"))
    assert int(private.split()[1]) <= 8  # the page that the file ends in, of 750 KiB


def test_it_grows_beyond_its_spare_rows(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room_module, "MIN_SPARE", 1)
    for array in (mapped(file), numbers(4)):
        room = Room()
        grown, expected = room.adopted(array), [array]
        for step in range(6):
            expected.append(numbers(ROWS, step))
            grown = room.extended(grown, expected[-1])
            np.testing.assert_array_equal(grown, np.concatenate(expected))


def test_a_file_that_is_gone_or_another_one_is_copied_from_memory(tmp_path: Path) -> None:
    for spoil in (lambda path: path.unlink(), lambda path: (path.unlink(), np.save(path, numbers(7)))):
        path = tmp_path / "array.npy"
        np.save(path, numbers(50))
        array = mapped(path)
        room = Room()
        base = room.adopted(array)
        spoil(path)
        np.testing.assert_array_equal(room.changed(base, np.array([1]), numbers(1)), [
            numbers(50)[0], numbers(1)[0], *numbers(50)[2:]
        ])  # fmt: skip
        path.unlink(missing_ok=True)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=12), st.booleans())
def test_it_is_an_array_for_which_everything_is_copied(
    file: Path, steps: list[tuple[bool, int]], from_file: bool
) -> None:
    room, array = Room(), mapped(file)[:] if from_file else numbers(10)
    made, expected = [room.adopted(array)], [np.array(array)]
    for k, (append, number) in enumerate(steps):
        of = number % len(made)  # any of those made so far
        values = numbers(1, 1e5 + k)
        if append:
            made.append(room.extended(made[of], values))
            expected.append(np.concatenate([expected[of], values]))
        else:
            made.append(room.changed(made[of], np.array([number]), values))
            expected.append(expected[of].copy())
            expected[-1][number] = values
    for got, want in zip(made, expected, strict=True):
        np.testing.assert_array_equal(got, want)
