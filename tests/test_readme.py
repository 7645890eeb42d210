"""README says nothing that is not so: its examples are run, its commands, targets, parameters and links exist."""

import json
import re
import shlex
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import click
import pandas as pd
import pytest

from features.tables import Dataset
from handmade import handmade_model
from recsys.__main__ import cli
from recsys.api.schemas import PARAMETERS, answer_document, request_from_query
from recsys.bundle import save_bundle
from recsys.recommender import Recommender
from recsys.requests import Request
from recsys.schemas import parse_body
from recsys.settings import ServeSettings, load_settings

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language, without the indentation that a list gives them."""
    found = re.finditer(rf"^( *)```{language}\n(.*?)^\1```$", README, re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{match[1]}", "", match[2], flags=re.MULTILINE) for match in found]


def commands(program: str) -> list[list[str]]:
    """The arguments of every call of `program` in shell blocks and in inline code."""
    inline = re.findall(rf"`({program} [^`]+)`", README)
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith(f"{program} ")]
    return [shlex.split(line, comments=True)[1:] for line in (*lines, *inline)]


def command_of(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that the first words name, and the words behind them."""
    command: click.Command = cli
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"recsys has no {words[0]!r}"
        command, words = command.commands[words[0]], words[1:]
    return command, words


@pytest.mark.parametrize("words", commands("recsys"), ids=" ".join)
def test_every_recsys_command_exists_with_its_options(words: list[str]) -> None:
    command, rest = command_of(words)
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in rest if word.startswith("--")} <= known


@pytest.mark.parametrize("words", commands("make"), ids=" ".join)
def test_every_make_target_exists(words: list[str]) -> None:
    assert re.search(rf"^{words[0]}:", MAKEFILE, re.MULTILINE)


@pytest.mark.parametrize("target", re.findall(r"\]\((?!https?:)([^)#]+)", README))
def test_every_relative_link_leads_somewhere(target: str) -> None:
    assert (ROOT / target).exists()


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the `bundles` that the examples speak of."""
    folder = tmp_path_factory.mktemp("readme")
    save_bundle(handmade_model(), folder / "bundles")
    return folder


@pytest.mark.parametrize("block", blocks("python"))
def test_python_examples_run(
    block: str, bundles: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(bundles)
    exec(compile(block, "README.md", "exec"), {})  # noqa: S102  (our own text)
    assert capsys.readouterr().out


def test_the_data_example_is_read_without_a_complaint(tmp_path: Path) -> None:
    for name, block in zip(re.findall(r"`my-data/(\w+\.csv)`", README), blocks("csv"), strict=True):
        (tmp_path / name).write_text(block, encoding="utf-8")
    dataset = Dataset.load(tmp_path)
    assert (len(dataset.catalogue), len(dataset.events), len(dataset.rejected)) == (2, 3, 0)


def test_the_answer_shown_has_the_keys_of_an_answer() -> None:
    shown = json.loads(blocks("json")[0])
    made = answer_document(Recommender(handmade_model()).recommend(Request(history=(), n=1)), "v1")
    assert list(shown) == list(made)
    assert list(shown["items"][0]) == list(made["items"][0])


def test_the_request_shown_is_taken() -> None:
    assert parse_body(blocks("json")[1]).to_request(ServeSettings()).request_id == "7"


def test_the_parameters_shown_are_the_ones_taken() -> None:
    table = README.partition("| parameter of `GET /recommend` |")[2].partition("\n\n")[0]
    assert tuple(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == PARAMETERS


def test_the_setting_shown_exists() -> None:
    name, value = re.findall(r"`(RECSYS_\w+)=(\w+)`", README)[0]
    assert load_settings(environment={name: value}).lambdamart.num_trees == int(value)
    assert load_settings(environment={}).lambdamart.num_trees != int(value)


@pytest.mark.parametrize("url", re.findall(r"'(http://127[^']+)'", README + MAKEFILE))
def test_the_example_urls_ask_for_what_the_example_data_hold(url: str) -> None:
    folder = ROOT / "data" / "ifdb_interactive_fiction"
    query = parse_qs(urlsplit(url).query)
    users = set(pd.read_csv(folder / "interactions.csv.gz", usecols=["user_id"])["user_id"])
    items = pd.read_csv(folder / "items.csv.gz", usecols=["item_id", "genre"])
    assert set(query.get("user", ())) <= users
    assert set(query.get("recent", ())) <= set(items["item_id"])
    assert {value.partition(":")[2] for value in query.get("filter", ())} <= set(items["genre"])
    assert request_from_query(urlsplit(url).query.encode(), "r1", ServeSettings()).n >= 1
