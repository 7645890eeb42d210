"""Noise: every kind is a pure function of the text and the seed, and does what it says and no more."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.encoder import clean_text
from features.noise import CUT_SHARE, NOISES, SWAP_SHARE, TYPO_SHARE, noisy, typos

ANY_TEXT = st.text(max_size=200)
WORDS = st.lists(st.text(st.characters(categories=["Lu", "Ll"]), min_size=1, max_size=12), max_size=30)
SEED = st.integers(0, 2**31 - 1)
LONG = " ".join(f"wordy{k}" for k in range(2000))


@pytest.mark.parametrize("name", NOISES)
@given(text=ANY_TEXT, seed=SEED)
def test_one_seed_gives_one_text_whatever_came_before(name: str, text: str, seed: int) -> None:
    first = noisy(text, NOISES[name], seed)
    noisy("another text in between", NOISES[name], seed)
    assert noisy(text, NOISES[name], seed) == first


@pytest.mark.parametrize("name", NOISES)
def test_nothing_is_made_of_nothing(name: str) -> None:
    assert noisy("", NOISES[name], 0) == ""


@pytest.mark.parametrize("name", ["typos", "swapped words", "HTML left in"])
def test_another_seed_gives_another_text(name: str) -> None:
    assert noisy(LONG, NOISES[name], 0) != noisy(LONG, NOISES[name], 1)


@given(words=WORDS, seed=SEED)
def test_swapping_loses_no_word_and_moves_none_far(words: list[str], seed: int) -> None:
    words = [f"{k}{word}" for k, word in enumerate(words)]  # so that each word is known by its number
    changed = noisy(" ".join(words), NOISES["swapped words"], seed).split()
    assert Counter(changed) == Counter(words)
    assert all(abs(changed.index(word) - place) <= 1 for place, word in enumerate(words))


@given(words=WORDS, seed=SEED)
def test_a_typo_changes_one_place_of_a_longer_word(words: list[str], seed: int) -> None:
    changed = noisy(" ".join(words), NOISES["typos"], seed).split(" ")
    for before, after in zip(" ".join(words).split(" "), changed, strict=True):
        assert abs(len(before) - len(after)) <= 1
        assert after == before or len(before) > 2


@given(words=WORDS, seed=SEED)
def test_cutting_leaves_the_beginning(words: list[str], seed: int) -> None:
    cut = noisy(" ".join(words), NOISES["cut short"], seed).split()
    assert cut == words[: len(cut)]
    assert len(cut) == int(np.ceil(CUT_SHARE * len(words)))


@given(text=ANY_TEXT, seed=SEED)
def test_lower_case_is_lower_case(text: str, seed: int) -> None:
    assert noisy(text, NOISES["lower case"], seed) == text.lower()


@given(words=WORDS, seed=SEED)
def test_a_reader_of_html_reads_the_text_that_it_marks_up(words: list[str], seed: int) -> None:
    text = " & ".join(words)
    marked = noisy(text, NOISES["HTML left in"], seed)
    assert clean_text(marked, 10_000) == clean_text(text, 10_000)
    assert marked.startswith("<div>") == bool(words)


def test_the_shares_are_those_that_are_written_down() -> None:
    before, after = LONG.split(), typos(LONG, np.random.default_rng(0)).split()
    changed = np.mean([a != b for a, b in zip(before, after, strict=True)])
    assert changed == pytest.approx(TYPO_SHARE, abs=0.03)  # 2,000 draws: a standard error of .009
    swapped = noisy(LONG, NOISES["swapped words"], 0).split()
    moved = np.mean([a != b for a, b in zip(before, swapped, strict=True)])
    assert moved == pytest.approx(2 * SWAP_SHARE / (1 + SWAP_SHARE), abs=0.04)  # a swapped pair is passed over
