"""`python -m quality.samples`: small shops drawn from a data set, against what the best source of the others is."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner

from features.tables import Dataset
from quality.samples import best_of_the_others, main, sample


def triples(dataset: Dataset) -> list[tuple[str, str, float]]:
    events = dataset.events
    users, items = dataset.users.ids[events.user_rows], dataset.catalogue.items.ids[events.item_rows]
    return list(zip(users.tolist(), items.tolist(), events.times.tolist(), strict=True))


def test_a_sample_is_whole_histories_and_what_was_touched(tiny_dataset: Dataset) -> None:
    few = sample(tiny_dataset, 9, seed=1)
    drawn = set(few.users.ids)
    assert len(drawn) == 9
    assert triples(few) == [event for event in triples(tiny_dataset) if event[0] in drawn]
    assert set(few.catalogue.items.ids) == {item for _, item, _ in triples(few)}
    titles = dict(zip(tiny_dataset.catalogue.items.ids, tiny_dataset.catalogue.frame["title"], strict=True))
    assert few.catalogue.frame["title"].tolist() == [titles[item] for item in few.catalogue.items.ids]
    assert few.catalogue.items.row(few.catalogue.items.ids[3]) == 3
    assert set(sample(tiny_dataset, 9, seed=2).users.ids) != drawn
    with pytest.raises(ValueError, match="--users 9999: the data hold only"):
        sample(tiny_dataset, 9999, seed=1)


def test_the_best_source_is_told_by_the_others_alone() -> None:
    """The first source is right for user 0 alone, and so is the best of all, but for nobody who asks the others."""
    values = np.array([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.6, 0.6]])
    assert best_of_the_others(values, np.array([0, 0, 1, 1])).tolist() == [0.0, 0.0, 0.0, 0.0]
    assert best_of_the_others(values, np.array([0, 1, 2, 3])).tolist() == [0.0, 0.0, 0.0, 0.0]
    values[1] = 0.9
    assert best_of_the_others(values, np.array([0, 1, 2, 3])).tolist() == [0.9] * 4


def test_what_cannot_be_drawn_is_said(tmp_path) -> None:
    (tmp_path / "items.csv").write_text("item_id,title\na,A\nb,B\n")
    (tmp_path / "interactions.csv").write_text("user_id,item_id,timestamp\nu,a,1\nv,b,2\n")
    done = CliRunner().invoke(main, ["--data", str(tmp_path), "--users", "3"])
    assert (done.exit_code, "only 2 users" in done.output) == (2, True)
