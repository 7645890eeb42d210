"""Reading: every cell of the contract for data (DESIGN.md, section 3) with an answer known by reasoning."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from features.errors import DataError
from features.reading import DataSettings, read_dataset, write_rejected
from features.tables import Dataset

ITEMS = "item_id,title\na,Apple\nb,Bread\nc,Cheese\n"
EVENTS = "user_id,item_id,timestamp\nu,a,100\nv,b,200\nu,c,300\n"
LENIENT = DataSettings(max_rejected=1.0)
BUNDLED = Path(__file__).parents[1] / "data"


@pytest.fixture
def write(tmp_path):
    """Write files of these names and contents (str, bytes or a DataFrame for Parquet); returns the folder."""

    def write_files(**files) -> Path:
        for name, content in files.items():
            path = tmp_path / name.replace("__", ".")
            if isinstance(content, pd.DataFrame):
                content.to_parquet(path)
            else:
                path.write_bytes(content.encode() if isinstance(content, str) else content)
        return tmp_path

    return write_files


@pytest.fixture
def read(write):
    """The dataset of two CSV texts."""

    def read_texts(items=ITEMS, events=EVENTS, data_settings=LENIENT, **options) -> Dataset:
        return read_dataset(write(items__csv=items, events__csv=events), data_settings, **options)

    return read_texts


def jsonl(*rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def reasons(dataset: Dataset) -> list[tuple[str, int, str]]:
    return list(dataset.rejected.frame[["table", "line", "reason"]].itertuples(index=False, name=None))


def triples(dataset: Dataset) -> list[tuple[str, str, float]]:
    """(user id, item id, time) of every event."""
    events = dataset.events
    users, items = dataset.users.ids[events.user_rows], dataset.catalogue.items.ids[events.item_rows]
    return list(zip(users, items, events.times.tolist(), strict=True))


# ---------------------------------------------------------------------------------------------------- folders and files


def test_two_small_tables_become_what_they_say(read):
    dataset = read()
    assert dataset.catalogue.items.ids.tolist() == ["a", "b", "c"]
    assert dataset.users.ids.tolist() == ["u", "v"]
    assert triples(dataset) == [("u", "a", 100.0), ("v", "b", 200.0), ("u", "c", 300.0)]
    assert len(dataset.rejected) == 0
    events = dataset.events
    assert (events.user_rows.dtype, events.item_rows.dtype, events.kinds.dtype) == (np.int32, np.int32, np.int16)
    assert (events.times.dtype, events.values.dtype) == (np.float64, np.float32)  # noqa: PD011
    assert events.values.tolist() == [1.0, 1.0, 1.0]  # noqa: PD011
    assert (events.kind_names, events.clock) == (("interaction",), "timestamp")


@pytest.mark.parametrize("suffix", ["parquet", "csv", "csv.gz", "jsonl", "jsonl.gz", "ndjson", "ndjson.gz"])
@pytest.mark.parametrize("stem", ["events", "interactions"])
def test_every_format_and_name_gives_the_same_dataset(tmp_path, stem, suffix):
    tables = {"items": pd.read_csv(io.StringIO(ITEMS)), stem: pd.read_csv(io.StringIO(EVENTS))}
    for name, frame in tables.items():
        path = tmp_path / f"{name}.{suffix}"
        if suffix == "parquet":
            frame.to_parquet(path)
        elif "csv" in suffix:
            frame.to_csv(path, index=False)
        else:
            frame.to_json(path, orient="records", lines=True)
    dataset = Dataset.load(tmp_path)
    assert triples(dataset) == [("u", "a", 100.0), ("v", "b", 200.0), ("u", "c", 300.0)]
    assert dataset.catalogue.texts(["title"]) == ["Apple", "Bread", "Cheese"]


def test_two_files_of_one_table_are_both_named(write):
    folder = write(items__csv=ITEMS, events__csv=EVENTS, interactions__jsonl=EVENTS)
    with pytest.raises(DataError, match=r"events\.csv and interactions\.jsonl\. Keep one"):
        read_dataset(folder)


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(DataError, match=r"nowhere doesn't exist\. Give a folder"):
        read_dataset(tmp_path / "nowhere")


def test_a_file_instead_of_a_folder(write):
    with pytest.raises(DataError, match=r"items\.csv is a file"):
        read_dataset(write(items__csv=ITEMS) / "items.csv")


def test_a_folder_without_tables_says_what_is_expected_and_there(write, tmp_path):
    with pytest.raises(DataError, match=r"no items table.*found nothing"):
        read_dataset(tmp_path)
    with pytest.raises(DataError, match=r"no events table: expected events or interactions.*found items\.csv, x\.txt"):
        read_dataset(write(items__csv=ITEMS, x__txt="x"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("items.csv", b"", "empty .0 bytes."),
        ("items.csv", b"\n \n", "blank lines only"),
        ("items.csv", b'"item_id', "first line is no CSV header"),
        ("items.csv", "item_id\na\n".encode("utf-16"), "UTF-16"),
        ("items.csv.gz", b"item_id\na\n", "no whole gzip file"),
        ("items.csv.gz", gzip.compress(ITEMS.encode())[:-9], "no whole gzip file"),
        ("items.csv.gz", gzip.compress(ITEMS.encode())[:10] + b"\xff" * 30, "no whole gzip file"),
        ("items.parquet", b"PAR1 is not enough", "no readable Parquet file"),
        ("items.jsonl", b"", "empty .0 bytes."),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_reason(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    (tmp_path / "events.csv").write_text(EVENTS)
    with pytest.raises(DataError, match=message) as caught:
        read_dataset(tmp_path)
    assert name in str(caught.value)


def test_a_folder_of_parts_is_named(tmp_path):
    (tmp_path / "items.parquet").mkdir()
    (tmp_path / "events.csv").write_text(EVENTS)
    with pytest.raises(DataError, match="is a folder, but one file is expected"):
        read_dataset(tmp_path)


def test_a_file_without_permission_is_named(write, monkeypatch):
    folder = write(items__csv=ITEMS, events__csv=EVENTS)

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DataError, match=r"items\.csv can't be read: Permission denied"):
        read_dataset(folder)


@pytest.mark.parametrize(
    ("items", "events", "message"),
    [
        ("id,title\na,x\n", EVENTS, "no column 'item_id'; it has 'id', 'title'. Add or rename it"),
        (ITEMS, "user,item_id,timestamp\nu,a,1\n", "no column 'user_id'; it has 'user', 'item_id', 'timestamp'"),
        ("item_id;title\na;x\n", EVENTS, "separated by ';': write them with commas"),
        (ITEMS, "user_id,item_id\nu,a\n", "neither a column 'timestamp' .* nor 'sequence'"),
        ("item_id,a,a\nx,1,2\n", EVENTS, "more than one column 'a'"),
        ("item_id,title\n", EVENTS, "no usable item"),
    ],
)
def test_a_table_without_what_it_needs(read, items, events, message):
    with pytest.raises(DataError, match=message):
        read(items, events)


def test_json_lines_without_a_required_column(write):
    with pytest.raises(DataError, match="no column 'item_id'; it has 'id'"):
        read_dataset(write(items__jsonl=jsonl({"id": 1}), events__csv=EVENTS))


@pytest.mark.parametrize(
    "header", ["user_id,item_id,timestamp\n", "user_id,item_id,timestamp", '"user_id","item_id","seq"\n']
)
def test_events_with_a_header_only_leave_a_catalogue(read, header):
    dataset = read(events=header)
    assert (len(dataset.catalogue), len(dataset.events), len(dataset.users)) == (3, 0, 0)


def test_an_unnamed_index_column_is_nobodys(read):
    dataset = read(items=",item_id,title\n0,a,Apple\n1,b,Bread\n", events="user_id,item_id,timestamp\nu,a,1\n")
    assert dataset.catalogue.attributes == ()
    assert dataset.catalogue.items.ids.tolist() == ["a", "b"]


def test_the_fingerprint_follows_the_bytes(read):
    first, again, other = read(), read(), read(events=EVENTS.replace("300", "301"))
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert len(first.fingerprint) == 64


# ---------------------------------------------------------------------------------------------------------------- clock


def test_seq_is_sequence_and_has_no_clock(read):
    for name in ("seq", "sequence"):
        dataset = read(events=f"user_id,item_id,{name}\nu,a,1\nv,b,0\nu,c,0\n")
        assert dataset.events.clock == "sequence"
        assert not dataset.events.has_clock
        assert triples(dataset) == [("v", "b", 0.0), ("u", "c", 0.0), ("u", "a", 1.0)]


def test_a_timestamp_wins_over_a_sequence(read):
    dataset = read(events="user_id,item_id,sequence,timestamp\nu,a,0,300\nu,b,1,200\n")
    assert dataset.events.clock == "timestamp"
    assert triples(dataset) == [("u", "b", 200.0), ("u", "a", 300.0)]


def test_a_timestamp_column_without_any_value_is_no_clock(read):
    assert read(events="user_id,item_id,sequence,timestamp\nu,a,0,\nu,b,1,\n").events.clock == "sequence"


def test_a_sequence_must_be_a_whole_number_that_floats_can_hold(read):
    dataset = read(events="user_id,item_id,seq\nu,a,0\nu,a,1.5\nu,a,x\nu,a,\nu,a,9007199254740993000\nu,b,7.0\n")
    assert triples(dataset) == [("u", "a", 0.0), ("u", "b", 7.0)]
    fraction, large = "sequence is no integer", "sequence is beyond 2**53 (number each user's events from 0)"
    assert [(line, why) for _, line, why in reasons(dataset)] == [
        (2, fraction),
        (3, fraction),
        (4, fraction),
        (5, large),
    ]


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("1700000000", 1700000000.0),
        ("1700000000.25", 1700000000.25),
        ("1.7e9", 1700000000.0),
        (" 1700000000 ", 1700000000.0),
        ("0", 0.0),
        ("2023-11-14T22:13:20Z", 1700000000.0),
        ("2023-11-14T22:13:20", 1700000000.0),
        ("2023-11-14 22:13:20", 1700000000.0),
        ("2023-11-15T00:13:20+02:00", 1700000000.0),
        ("2023-11-14T17:13:20.500-0500", 1700000000.5),
        ("2023-11-14", 1699920000.0),
    ],
)
def test_times_are_unix_seconds_or_iso_8601_in_utc(read, written, seconds):
    dataset = read(events=f"user_id,item_id,timestamp\nu,a,{written}\nu,b,5\n")
    assert {item: at for _, item, at in triples(dataset)} == {"a": seconds, "b": 5.0}
    assert len(dataset.rejected) == 0


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("", "no time"),
        ("yesterday", "unparsable time"),
        ("now", "unparsable time"),
        ("nan", "unparsable time"),
        ("inf", "unparsable time"),
        ("1e999", "unparsable time"),
        ("01/02/2023", "unparsable time"),
        ("2023-13-01", "unparsable time"),
        ("-5", "time before 1970"),
        ("1969-12-31", "time before 1970"),
        ("1700000000000", "time in the far future (milliseconds? divide by 1000)"),
        ("9999-12-31T00:00:00Z", "time in the far future (check the date)"),
        ("2999-01-01", "time in the far future (check the date)"),
        ("32472144000", "time in the far future (check the date)"),
    ],
)
def test_a_bad_time_is_rejected_with_its_line(read, written, reason):
    dataset = read(events=f"user_id,item_id,timestamp\nu,b,5\nu,a,{written}\n")
    assert reasons(dataset) == [("events", 2, reason)]
    assert dataset.rejected.frame["value"].tolist() == [written]
    assert triples(dataset) == [("u", "b", 5.0)]


def test_how_far_ahead_is_too_far_is_a_setting(read):
    tomorrow = f"user_id,item_id,timestamp\nu,a,{time.time() + 1.5 * 86_400:.0f}\n"
    assert len(read(events=tomorrow).events) == 0
    assert len(read(events=tomorrow, data_settings=DataSettings(future_tolerance_days=2.0)).events) == 1


def test_a_column_of_moments_is_not_asked_whether_it_is_milliseconds(write):
    """Not even beyond the year 5138, as of which a number is."""
    moments = np.array(["9000-01-01", "2023-01-01"], "datetime64[ms]")
    events = pd.DataFrame({"user_id": "u", "item_id": "a", "timestamp": moments})
    dataset = read_dataset(write(items__csv=ITEMS, events__parquet=events), LENIENT)
    assert reasons(dataset) == [("events", 1, "time in the far future (check the date)")]


def test_a_file_in_milliseconds_stops_the_run_and_says_what_to_do(read):
    rows = "".join(f"u,a,{1_700_000_000_000 + n}\n" for n in range(20))
    with pytest.raises(DataError, match=r"20 of 20 rows.*\n.*milliseconds. divide by 1000"):
        read(events="user_id,item_id,timestamp\n" + rows, data_settings=DataSettings())


def test_dates_without_dashes_are_not_taken_for_a_week_in_1970(read):
    with pytest.raises(DataError, match="YYYYMMDD"):
        read(events="user_id,item_id,timestamp\nu,a,20240131\nu,b,20240201\n", data_settings=DataSettings())
    assert len(read(events="user_id,item_id,timestamp\nu,a,20240131\nu,b,20249999\n").events) == 2


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
def test_datetime_columns_in_parquet(write, unit, zone):
    stamps = pd.Series(pd.to_datetime([1700000000, None, 1700000001], unit="s", utc=True)).dt.as_unit(unit)
    stamps = stamps.dt.tz_localize(None) if zone is None else stamps.dt.tz_convert(zone)
    events = pd.DataFrame({"user_id": ["u"] * 3, "item_id": ["a", "b", "c"], "timestamp": stamps})
    dataset = read_dataset(write(items__csv=ITEMS, events__parquet=events), LENIENT)
    assert triples(dataset) == [("u", "a", 1700000000.0), ("u", "c", 1700000001.0)]
    assert reasons(dataset) == [("events", 2, "no time")]


def test_date_columns_in_parquet(write):
    dates = [pd.Timestamp("1970-01-02").date(), None]
    events = pd.DataFrame({"user_id": ["u", "u"], "item_id": ["a", "b"], "timestamp": dates})
    assert triples(read_dataset(write(items__csv=ITEMS, events__parquet=events), LENIENT)) == [("u", "a", 86400.0)]


def test_infinite_times_in_parquet_are_rejected(write):
    events = pd.DataFrame({"user_id": ["u"] * 3, "item_id": ["a"] * 3, "timestamp": [1.0, np.inf, np.nan]})
    dataset = read_dataset(write(items__csv=ITEMS, events__parquet=events), LENIENT)
    assert reasons(dataset) == [("events", 2, "unparsable time"), ("events", 3, "no time")]


def test_events_are_sorted_by_time_and_ties_keep_file_order(read):
    dataset = read(events="user_id,item_id,timestamp\nz,c,9\ny,b,5\nx,a,9\ny,a,5\n")
    assert triples(dataset) == [("y", "b", 5.0), ("y", "a", 5.0), ("z", "c", 9.0), ("x", "a", 9.0)]
    assert dataset.users.ids.tolist() == ["y", "z", "x"]


# ------------------------------------------------------------------------------------------------------------------ ids


def test_ids_are_strings_and_keep_zeros_spaces_and_every_script(read):
    ids = ["007", "7", " 7", "7.0", "NA", "null", "é", "e\u0301", "日本", "🛒", "a b", "TRUE"]
    items = "item_id\n" + "".join(f"{i}\n" for i in ids)
    dataset = read(items, "user_id,item_id,timestamp\n" + "".join(f"{i},{i},1\n" for i in ids))
    assert dataset.catalogue.items.ids.tolist() == ids
    assert dataset.users.ids.tolist() == ids
    assert dataset.events.item_rows.tolist() == list(range(len(ids)))


def test_numbers_as_ids_in_json_and_parquet_are_their_decimal_strings(write):
    items = jsonl({"item_id": 12}, {"item_id": 13.0}, {"item_id": "014"}, {"item_id": 2**70}, {"item_id": 1.5})
    events = pd.DataFrame({"user_id": [1, 2, 3], "item_id": [12.0, 13.0, 1.5], "timestamp": [1, 2, 3]})
    dataset = read_dataset(write(items__jsonl=items, events__parquet=events))
    assert dataset.catalogue.items.ids.tolist() == ["12", "13", "014", str(2**70), "1.5"]
    assert triples(dataset) == [("1", "12", 1.0), ("2", "13", 2.0), ("3", "1.5", 3.0)]


def test_categorical_and_binary_ids_in_parquet(write):
    events = pd.DataFrame({"user_id": pd.Categorical(["u", "v"]), "item_id": [b"a", b"b"], "timestamp": [1, 2]})
    assert triples(read_dataset(write(items__csv=ITEMS, events__parquet=events))) == [("u", "a", 1.0), ("v", "b", 2.0)]


def test_missing_ids_are_rejected(read):
    dataset = read(items="item_id,title\na,x\n,y\n", events="user_id,item_id,timestamp\nu,a,1\n,a,1\nu,,1\n \t,a,1\n")
    assert reasons(dataset) == [
        ("items", 2, "no item_id"),
        ("events", 2, "no user_id"), ("events", 3, "no item_id"), ("events", 4, "no user_id"),
    ]  # fmt: skip
    assert len(dataset.events) == 1


def test_broken_bytes_are_replaced_in_texts_and_rejected_in_ids(read):
    items = b"item_id,title\na,Caf\xe9\n\xffb,Bread\nc\x00,Nul\n"
    events = b"user_id,item_id,timestamp\nu,a,1\nu\xff,a,2\n\x00,a,3\n"
    dataset = read(items, events)
    assert dataset.catalogue.texts(["title"]) == ["Caf\ufffd"]
    broken = "holds a NUL or broken character"
    assert reasons(dataset) == [
        ("items", 2, f"item_id {broken}"), ("items", 3, f"item_id {broken}"),
        ("events", 2, f"user_id {broken}"), ("events", 3, f"user_id {broken}"),
    ]  # fmt: skip


def test_half_a_character_in_json_is_a_broken_character(write):
    items = '{"item_id": "a", "title": "x\\ud800y"}\n{"item_id": "\\udc00"}\n'
    dataset = read_dataset(write(items__jsonl=items, events__csv="user_id,item_id,timestamp\nu,a,1\n"), LENIENT)
    assert dataset.catalogue.texts(["title"]) == ["x\ufffdy"]
    assert reasons(dataset) == [("items", 2, "item_id holds a NUL or broken character")]


@pytest.mark.parametrize("quote", ["", '"'])
def test_a_byte_order_mark_is_no_part_of_the_first_name(read, quote):
    dataset = read(
        items=f"\ufeff{quote}item_id{quote},title\na,x\n", events="\ufeff" + "user_id,item_id,timestamp\nu,a,1\n"
    )
    assert dataset.catalogue.items.ids.tolist() == ["a"]


# ------------------------------------------------------------------------------------------------------------ CSV lines


@pytest.mark.parametrize("quote", ["", '"'])
def test_rows_with_too_many_fields_are_rejected_by_line(read, quote):
    rows = [f"u,{quote}a{quote},1", "u,b,2,3,4", "", "u,c,3"]
    dataset = read(events="user_id,item_id,timestamp\n" + "\n".join(rows) + "\n")
    assert reasons(dataset) == [("events", 2, "5 fields where the header has 3")]
    assert dataset.rejected.frame["value"].tolist() == ["u,b,2,3,4"]
    assert triples(dataset) == [("u", "a", 1.0), ("u", "c", 3.0)]


def test_a_row_with_too_few_fields_is_filled_up_and_noted(read):
    dataset = read(
        items="item_id,title,brand\na,Apple\nb,Bread,Bakers\n", events="user_id,item_id,timestamp\nu,a,1\nu,b\n"
    )
    assert dataset.catalogue.items.ids.tolist() == ["a", "b"]
    assert reasons(dataset) == [
        ("items", 1, "2 fields where the header has 3 (row kept)"),
        ("events", 2, "2 fields where the header has 3 (row kept)"),
        ("events", 2, "no time"),
    ]


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("quote", ["", '"'])
def test_every_line_ending_and_blank_lines(read, ending, quote):
    lines = ["", f"{quote}item_id{quote},title", "", "a,Apple", "", "b,Bread"]
    dataset = read(items=ending.join(lines), events="user_id,item_id,timestamp\nu,b,1\n")
    assert dataset.catalogue.texts(["title"]) == ["Apple", "Bread"]


def test_quoted_commas_quotes_and_line_breaks_belong_to_the_text(read):
    dataset = read(items='item_id,title\na,"one, ""two""\nthree"\nb,Bread\n,none\n', events=EVENTS.replace("c", "b"))
    assert dataset.catalogue.texts(["title"]) == ['one, "two"\nthree', "Bread"]
    assert reasons(dataset) == [("items", 3, "no item_id")]


def test_a_stray_quote_within_one_line_is_noted(read):
    dataset = read(items='item_id,title\na,"5" pipe\nb,12" pipe\nc,x\n')
    assert dataset.catalogue.texts(["title"]) == ["5 pipe", '12" pipe', "x"]
    assert reasons(dataset) == [("items", 1, "stray quote (row kept)")]


def test_a_quote_that_never_closes_costs_its_own_row_only(read):
    dataset = read(items='item_id,title\na,"open\nb,Bread\nc,Cheese\n')
    assert dataset.catalogue.items.ids.tolist() == ["b", "c"]
    assert reasons(dataset)[0] == ("items", 1, "quote opened and not closed properly")
    assert reasons(dataset)[1] == ("events", 1, "unknown item")


def test_a_quote_that_closes_in_another_row_costs_its_own_row_only(read):
    dataset = read(items='item_id,title\na,"open\nb,Bread\nc,"Cheese"\n')
    assert dataset.catalogue.items.ids.tolist() == ["b", "c"]
    assert [line for table, line, _ in reasons(dataset) if table == "items"] == [1]


def test_a_field_beyond_the_limit_costs_its_own_row_only(read):
    long = "x" * (csv.field_size_limit() + 1)
    dataset = read(items=f'item_id,title\na,"{long}"\nb,Bread\n')
    assert dataset.catalogue.items.ids.tolist() == ["b"]
    assert len(dataset.rejected.frame["value"][0]) == 200


cell = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00\ufffd"), max_size=12)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(cell.filter(str.strip), cell), min_size=1, max_size=12, unique_by=lambda row: row[0]))
def test_whatever_a_csv_writer_writes_is_read_back(rows):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "items.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("item_id", "title"), *rows])
        (folder / "events.csv").write_text("user_id,item_id,timestamp\n")
        dataset = read_dataset(folder)
    assert dataset.catalogue.items.ids.tolist() == [item for item, _ in rows]
    assert dataset.catalogue.frame["title"].tolist() == [title for _, title in rows]
    assert len(dataset.rejected) == 0


# ----------------------------------------------------------------------------------------------------------- JSON Lines


def test_lines_that_are_no_json_objects_are_rejected(write):
    lines = [
        '{"item_id": "a"}',
        "{",
        "",
        "[1]",
        '{"item_id": "b", "title": null}',
        "[" * 100_000,
        '{"x": ' + "9" * 5000 + "}",
    ]
    events = jsonl(
        {"user_id": "u", "item_id": "b", "timestamp": 5}, {"user_id": "u", "item_id": "a", "timestamp": "1970-01-01"}
    )
    dataset = read_dataset(write(items__jsonl="\n".join(lines), events__jsonl=events), LENIENT)
    assert reasons(dataset) == [("items", n, "no JSON object") for n in (2, 3, 5, 6)]
    assert triples(dataset) == [("u", "a", 0.0), ("u", "b", 5.0)]


def test_an_iso_time_in_json_and_a_number_in_json_are_one_clock(write):
    events = jsonl(
        {"user_id": "u", "item_id": "a", "timestamp": "2023-11-14T22:13:20Z"},
        {"user_id": "u", "item_id": "b", "timestamp": 1700000000.5},
        {"user_id": "u", "item_id": "c", "timestamp": True},
        {"user_id": "u", "item_id": "c", "timestamp": float("nan")},
    )
    dataset = read_dataset(write(items__csv=ITEMS, events__jsonl=events), LENIENT)
    assert triples(dataset) == [("u", "a", 1700000000.0), ("u", "b", 1700000000.5)]
    assert reasons(dataset) == [("events", 3, "unparsable time"), ("events", 4, "no time")]


def test_json_keys_may_come_late_and_lists_are_lists(write):
    rows = [{"item_id": str(n)} for n in range(50_001)] + [{"item_id": "z", "title": "late", "category": ["A", "B"]}]
    events = jsonl({"user_id": "u", "item_id": "z", "timestamp": 1})
    catalogue = read_dataset(write(items__jsonl=jsonl(*rows), events__jsonl=events)).catalogue
    assert len(catalogue) == 50_002
    last = catalogue.frame.iloc[-1]
    assert (last["title"], last["category"]) == ("late", ("A", "B"))
    assert catalogue.frame.iloc[0]["title"] == ""


# ---------------------------------------------------------------------------------------------------------------- items


def test_columns_that_are_missing_have_their_empty_value(read):
    frame = read(items="item_id\na\nb\nc\n").catalogue.frame
    row = frame.iloc[0]
    assert (row["title"], row["description"], row["brand"], row["image_url"], row["category"]) == ("", "", "", "", ())
    assert frame[["price", "published_at"]].isna().all(axis=None)
    assert frame["available"].tolist() == [True, True, True]
    assert (frame["price"].dtype, frame["available"].dtype) == (np.float64, np.bool_)


def test_categories_are_tuples(read):
    dataset = read(items="item_id,category\na,Books | Crime |  | Noir \nb,A|B\nc,\n")
    assert dataset.catalogue.frame["category"].tolist() == [("Books", "Crime", "Noir"), ("A|B",), ()]


def test_a_bad_price_is_noted_and_the_row_is_kept(read):
    dataset = read(
        items="item_id,price\na,2.50\nb,cheap\nc,-1\nd,\ne,inf\n", data_settings=DataSettings(max_rejected=0.0)
    )
    np.testing.assert_array_equal(dataset.catalogue.frame["price"], [2.5, np.nan, np.nan, np.nan, np.nan])
    assert reasons(dataset) == [("items", n, "bad price (row kept)") for n in (2, 3, 5)]


def test_availability_is_true_unless_it_says_no(read):
    words = ["true", "False", "1", "0", "YES", "no", "", "perhaps"]
    items = "item_id,available\n" + "".join(f"{n},{w}\n" for n, w in enumerate(words))
    dataset = read(items, "user_id,item_id,timestamp\n")
    assert dataset.catalogue.frame["available"].tolist() == [True, False, True, False, True, False, True, True]
    assert reasons(dataset) == [("items", 8, "bad available (row kept)")]


@pytest.mark.parametrize("values", [[True, False, None], [1, 0, None], [1.0, 0.0, np.nan]])
def test_availability_in_parquet(write, values):
    items = pd.DataFrame({"item_id": ["a", "b", "c"], "available": values})
    dataset = read_dataset(write(items__parquet=items, events__csv=EVENTS))
    assert dataset.catalogue.frame["available"].tolist() == [True, False, True]
    assert len(dataset.rejected) == 0


def test_publication_times(read):
    rows = ["86400", "1970-01-02", "1960-01-01", "2004", "soon", "", "1700000000000"]
    items = "item_id,published_at\n" + "".join(f"{n},{w}\n" for n, w in enumerate(rows))
    dataset = read(items, "user_id,item_id,timestamp\n")
    year_2004, year_1960 = 1_072_915_200.0, -315_619_200.0
    np.testing.assert_array_equal(
        dataset.catalogue.frame["published_at"], [86400, 86400, year_1960, year_2004, np.nan, np.nan, np.nan]
    )
    assert reasons(dataset) == [("items", n, "bad published_at (row kept)") for n in (5, 7)]


def test_other_columns_are_attributes_typed_by_what_is_in_them(read):
    items = "item_id,year,tags,system,code,blank\na,1999,x | y,Z-code,1,\nb,,z,,nan,\nc,2001.5,,Glulx,2,\n"
    catalogue = read(items=items).catalogue
    assert catalogue.attributes == ("year", "tags", "system", "code", "blank")
    np.testing.assert_array_equal(catalogue.frame["year"], [1999, np.nan, 2001.5])
    assert catalogue.frame["tags"].tolist() == [("x", "y"), ("z",), ()]
    assert catalogue.frame["system"].tolist() == ["Z-code", "", "Glulx"]
    assert catalogue.frame["code"].tolist() == ["1", "nan", "2"]
    assert catalogue.frame["blank"].tolist() == ["", "", ""]


def test_attributes_of_every_parquet_type(write):
    items = pd.DataFrame({
        "item_id": ["a", "b", "c"], "pages": pd.array([1, None, 3], "Int64"), "tags": [["x", "y"], None, ["z"]],
        "made": pd.DatetimeIndex(["2020-01-01", None, None]), "dimensions": [{"w": 1}, None, {"w": 2}],
    }, index=[5, 6, 7])  # fmt: skip
    frame = read_dataset(write(items__parquet=items, events__csv=EVENTS)).catalogue.frame
    np.testing.assert_array_equal(frame["pages"], [1, np.nan, 3])
    assert frame["tags"].tolist() == [("x", "y"), (), ("z",)]
    assert frame["made"].tolist() == ["2020-01-01T00:00:00", "", ""]
    assert frame["dimensions"].tolist() == ['{"w": 1}', "", '{"w": 2}']
    assert "__index_level_0__" not in frame


def test_the_first_row_of_an_item_counts_and_later_ones_are_rejected(read):
    dataset = read(
        items="item_id,title\na,First\nb,Bread\na,First\na,Second\n", events="user_id,item_id,timestamp\nu,a,1\n"
    )
    assert dataset.catalogue.texts(["title"]) == ["First", "Bread"]
    assert reasons(dataset) == [("items", 3, "duplicate item"), ("items", 4, "duplicate item id with another text")]


# --------------------------------------------------------------------------------------------------------------- events


def test_an_event_on_an_unknown_item_is_rejected_with_the_item(read):
    dataset = read(events=EVENTS + "u,zzz,400\n")
    assert reasons(dataset) == [("events", 4, "unknown item")]
    assert dataset.rejected.frame["value"].tolist() == ["zzz"]
    assert len(dataset.events) == 3


def test_event_names_and_values(read):
    rows = ["u,a,1,view,", "u,a,2,,2.5", "u,a,3, buy ,-3", "u,a,4,buy,many", "u,a,5,buy,1e300"]
    dataset = read(events="user_id,item_id,timestamp,event,value\n" + "\n".join(rows))
    events = dataset.events
    assert events.kind_names == ("buy", "interaction", "view")
    assert [events.kind_names[k] for k in events.kinds] == ["view", "interaction", "buy"]
    assert events.values.tolist() == [1.0, 2.5, -3.0]  # noqa: PD011
    assert reasons(dataset) == [("events", 4, "bad value"), ("events", 5, "bad value")]


def test_events_can_be_chosen_by_name(write):
    text = "user_id,item_id,timestamp,event\nu,a,1,view\nv,a,2,buy\nu,b,3,buy\n"
    folder = write(items__csv=ITEMS, events__csv=text)
    dataset = Dataset.load(folder, events=["buy"])
    assert triples(dataset) == [("v", "a", 2.0), ("u", "b", 3.0)]
    assert (dataset.events.kind_names, dataset.users.ids.tolist()) == (("buy",), ["v", "u"])
    with pytest.raises(DataError, match="no usable event named 'bye'; it has 'view', 'buy'"):
        Dataset.load(folder, events=["buy", "bye"])


def test_an_event_id_counts_once_and_a_basket_may_hold_an_item_twice(read):
    rows = ["u,a,1,e1", "u,a,1,", "u,a,1,", "v,b,2,e1", "u,nope,3,e2", "u,b,4,e2"]
    dataset = read(events="user_id,item_id,timestamp,event_id\n" + "\n".join(rows))
    assert reasons(dataset) == [("events", 4, "duplicate event_id"), ("events", 5, "unknown item")]
    assert triples(dataset) == [("u", "a", 1.0)] * 3 + [("u", "b", 4.0)]
    assert dataset.events.extra["event_id"].tolist() == ["e1", "", "", "e2"]


def test_extra_holds_the_optional_columns_in_event_order(read):
    dataset = read(events="user_id,item_id,timestamp,query,session_id,colour\nu,a,2,tea,s1,red\nu,b,1,,s2,blue\n")
    assert dataset.events.extra.to_dict("list") == {"query": ["", "tea"], "session_id": ["s2", "s1"]}


def test_a_column_of_texts_is_no_event_name(read):
    rows = "".join(f"u,a,1,text {n}\n" for n in range(40_000))
    with pytest.raises(DataError, match="'event' has 40000 different values"):
        read(events="user_id,item_id,timestamp,event\n" + rows)


# ------------------------------------------------------------------------------------------------------------- rejected


def test_too_many_bad_rows_stop_the_run_with_reasons_and_remedy(write, tmp_path):
    events = "user_id,item_id,timestamp\n" + "u,a,1\n" * 8 + "u,x,1\nu,a,then\n" + "u,y,1\n"
    folder = write(items__csv=ITEMS, events__csv=events)
    rejected_file = tmp_path / "out" / "rejected.csv"
    with pytest.raises(DataError) as caught:
        read_dataset(folder, rejected_file=rejected_file)
    message = str(caught.value)
    assert "events.csv: 3 of 11 rows can't be used, more than the 10% allowed" in message
    assert "2 x unknown item, e.g. 'x' in row 9" in message
    assert "1 x unparsable time, e.g. 'then' in row 10" in message
    assert "--set data.max_rejected=0.28" in message
    written = pd.read_csv(rejected_file)
    assert written.columns.tolist() == ["table", "line", "reason", "value"]
    assert written["line"].tolist() == [9, 10, 11]
    assert len(read_dataset(folder, DataSettings(max_rejected=0.28)).events) == 8


def test_exactly_the_allowed_share_is_allowed(read):
    events = "user_id,item_id,timestamp\n" + "u,a,1\n" * 9 + "u,x,1\n"
    assert len(read(events=events, data_settings=DataSettings()).events) == 9


def test_bad_items_stop_the_run_too(read):
    with pytest.raises(DataError, match=r"items\.csv: 1 of 2 rows"):
        read(items="item_id\na\na\n", events="user_id,item_id,timestamp\nu,a,1\n", data_settings=DataSettings())


def test_a_good_folder_writes_an_empty_list_of_rejected_rows(write, tmp_path):
    dataset = read_dataset(write(items__csv=ITEMS, events__csv=EVENTS), rejected_file=tmp_path / "rejected.csv")
    assert (tmp_path / "rejected.csv").read_text() == "table,line,reason,value\n"
    write_rejected(dataset.rejected, tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_text() == "table,line,reason,value\n"


@pytest.mark.parametrize("bad", [{"max_rejected": 1.5}, {"max_rejected": -0.1}, {"max_reject": 0.2}])
def test_settings_are_checked(bad):
    with pytest.raises(ValidationError):
        DataSettings(**bad)


# -------------------------------------------------------------------------------------------------------------- bundled


@pytest.mark.parametrize(
    ("name", "items", "events", "users", "kinds"),
    [
        ("ifdb_interactive_fiction", 6103, 59859, 2972, ("played",)),
        ("online_retail_uci", 3676, 404909, 4363, ("cancel", "purchase")),
    ],
)
def test_the_bundled_data_are_read_whole(name, items, events, users, kinds):
    dataset = Dataset.load(BUNDLED / name)
    assert (len(dataset.catalogue), len(dataset.events), len(dataset.users)) == (items, events, users)
    assert (dataset.events.kind_names, len(dataset.rejected)) == (kinds, 0)
    assert np.all(np.diff(dataset.events.times) >= 0)
